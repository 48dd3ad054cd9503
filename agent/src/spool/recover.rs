//! What a start finds on disk: reads it all once, repairs it, and says what was lost.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::segment::{self, Disk, Findings, HOLE_MAX, Head, ScanError, Segment};
use super::state::State;
use super::{Recovery, SpoolError, io_error};

pub(super) fn load_state(path: &Path) -> Result<Option<State>, SpoolError> {
    match fs::read(path) {
        Ok(bytes) => match State::decode(&bytes) {
            Ok(state) => Ok(Some(state)),
            Err(None) => Ok(None),
            Err(Some(found)) => Err(SpoolError::Version { path: path.to_owned(), found }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

/// Scans all segments, marks what is destroyed, deletes what the ledger already holds.
pub(super) fn load_segments(
    dir: &Path,
    disk: &dyn Disk,
    state: Option<&State>,
    recovery: &mut Recovery,
) -> Result<(VecDeque<Segment>, u64), SpoolError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_error("read", dir, e))? {
        let path = entry.map_err(|e| io_error("read", dir, e))?.path();
        paths.extend(segment::pos_of(&path).map(|pos| (pos, path)));
    }
    paths.sort();
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut acked = 0;
    let n = paths.len();
    for (ix, (_, path)) in paths.into_iter().enumerate() {
        let is_last = ix + 1 == n;
        let scanned = Segment::scan(&path, is_last).map_err(|error| match error {
            ScanError::Io(error) => io_error("read", &path, error),
            ScanError::Version(found) => SpoolError::Version { path: path.clone(), found },
        })?;
        let dropped = |s: &Segment| state.is_some_and(|state| s.pos_end() <= state.first);
        match scanned {
            Some((mut segment, mut found)) if !segment.entries.is_empty() && !dropped(&segment) => {
                acked = acked.max(found.acked);
                if let Some(before) = segments.back_mut() {
                    join(before, &segment, disk, recovery);
                    let n_lines = attribute(before, &mut segment);
                    // A hole that an earlier start has written is counted already.
                    found.n_lines_corrupt += if found.n_corrupt > 0 { n_lines } else { 0 };
                }
                repair(&segment, &found, is_last, disk, recovery);
                segments.push_back(segment);
            }
            // A file that never got a whole record, or whose deletion a crash cut short.
            _ => fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?,
        }
    }
    Ok((segments, acked))
}

/// Cuts the torn end off the last segment, and writes holes over what is destroyed in any.
///
/// A failure to do so costs nothing now: the next start finds the same and counts it again.
fn repair(
    segment: &Segment,
    found: &Findings,
    is_last: bool,
    disk: &dyn Disk,
    recovery: &mut Recovery,
) {
    recovery.n_records_corrupt += found.n_corrupt;
    recovery.n_lines_corrupt += found.n_lines_corrupt;
    if is_last {
        recovery.n_bytes_torn += found.n_bytes_torn;
    }
    if found.n_bytes_torn == 0 && found.holes.is_empty() {
        return;
    }
    let done = File::options().write(true).open(&segment.path).and_then(|file| {
        for (at, hole) in &found.holes {
            disk.write_all_at(&file, &hole.encode(), *at)?;
        }
        file.set_len(segment.len)?;
        disk.sync(&file)
    });
    if let Err(error) = done {
        let path = segment.path.display();
        tracing::warn!(%path, %error, "damaged spool segment could not be repaired");
    }
}

/// Where the header of a segment and its first record are both destroyed, the lines of that record
/// show only as a step from the segment before: they are its own. Gives how many.
fn attribute(before: &Segment, segment: &mut Segment) -> u64 {
    let end = before.lines_before + before.n_lines();
    let step = segment.lines_before.saturating_sub(end);
    let Some(first) = segment.entries.first_mut().filter(|entry| entry.len == 0) else { return 0 };
    let Ok(n_lines) = u32::try_from(step) else { return 0 };
    first.n_lines = first.n_lines.saturating_add(n_lines);
    segment.lines_before -= step;
    step
}

/// Fills the numbers missing between two segments with a hole at the end of the first.
fn join(before: &mut Segment, next: &Segment, disk: &dyn Disk, recovery: &mut Recovery) {
    let n_missing = next.pos_first.saturating_sub(before.pos_end()).min(HOLE_MAX);
    if n_missing == 0 {
        return;
    }
    let lines = before.lines_before + before.n_lines();
    let hole = Head {
        is_hole: true,
        len: 0,
        pos: before.pos_end(),
        lines_before: lines,
        acked: n_missing,
        at_ms: before.at_last_ms,
        n_lines: next.lines_before.saturating_sub(lines) as u32,
        payload_crc: 0,
    };
    recovery.n_records_corrupt += n_missing;
    recovery.n_lines_corrupt += u64::from(hole.n_lines);
    let path = before.path.clone();
    let done = File::options()
        .write(true)
        .open(&path)
        .and_then(|file| before.append(disk, &file, &hole, &[]));
    if let Err(error) = done {
        tracing::warn!(path = %path.display(), %error, "damaged spool segment could not be repaired");
        before.admit(&hole, before.len);
    }
}

/// The state to go on with when the stored one is lost: a new epoch over what is left.
pub(super) fn renumbered(segments: &VecDeque<Segment>, acked: u64, now_ms: u64) -> State {
    let oldest = segments.front().expect("asked only when there are segments");
    let epoch = segments.iter().map(|s| s.epoch + 1).max().unwrap_or(0).max(now_ms);
    let base = acked.max(oldest.pos_first - 1);
    State {
        base,
        acked: base,
        lines_first: oldest.lines_before,
        ..State::new(epoch, oldest.pos_first)
    }
}
