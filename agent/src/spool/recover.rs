//! What a start finds on disk: reads it all once, repairs it, and says what was lost.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;

use crate::clock;
use crate::timer::rest_until;

use super::segment::{self, Destroyed, Disk, Findings, HOLE_MAX, Head, POSITION_MAX, Segment};
use super::state::State;
use super::{Recovery, SpoolError, Volume, io_error};

/// What a disk reads at a time, as far as it can still be read.
const BLOCK_BYTES: usize = 4096;
/// After so many bad blocks in one file no more of it is read: a failing disk takes its time for each.
const BAD_BLOCKS_MAX: u64 = 64;
/// So often the numbers are read again that cannot be read, and the time between.
const STATE_TRIES: usize = 3;
const STATE_REST: Duration = Duration::from_millis(500);
/// No file of the spool is as long as this, so what lies beyond is damage.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What is left of the queue.
#[derive(Default)]
pub(super) struct Loaded {
    /// Oldest first.
    pub(super) segments: VecDeque<Segment>,
    /// Highest acked position any record mentions.
    pub(super) acked: u64,
    /// What was found destroyed at this start.
    pub(super) destroyed: Vec<Destroyed>,
}

/// Reads the numbers, again when they cannot be read: new ones may send a batch twice whose ack nothing
/// else remembers, and a disk that is away for a moment is no reason for that.
fn read_state(mut read: impl FnMut() -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    for _ in 1..STATE_TRIES {
        match read() {
            Err(error) if is_damage(&error) => {
                rest_until(clock::instant() + STATE_REST, STATE_REST);
            }
            result => return result,
        }
    }
    read()
}

pub(super) fn load_state(path: &Path) -> Result<Option<State>, SpoolError> {
    match read_state(|| fs::read(path)) {
        Ok(bytes) => match State::decode(&bytes) {
            Ok(state) => Ok(Some(state)),
            Err(None) => Ok(None),
            Err(Some(found)) => Err(SpoolError::Version { path: path.to_owned(), found }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if is_gone(&error) => {
            let path = path.display();
            tracing::error!(%path, %error, "the spool's numbers cannot be read: numbering it anew");
            Ok(None)
        }
        Err(error) => Err(io_error("read", path, error)),
    }
}

/// True for what no further try brings back: a file taken away, a bad block, damage that the file
/// system found, a directory in the place of a file.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory)
        || is_damage(error)
}

/// True for what a disk says of what it cannot read.
fn is_damage(error: &io::Error) -> bool {
    const DAMAGE: [Errno; 4] = [Errno::IO, Errno::NODATA, Errno::UCLEAN, Errno::BADMSG];
    DAMAGE.iter().any(|damage| error.raw_os_error() == Some(damage.raw_os_error()))
}

/// All bytes of a file, zeros in the place of those that no further try brings back; true when there
/// are such.
fn read_all(path: &Path, disk: &dyn Disk) -> io::Result<(Vec<u8>, bool)> {
    let file = File::open(path)?;
    let mut bytes = vec![0; file.metadata()?.len().min(FILE_BYTES_MAX) as usize];
    match disk.read_exact_at(&file, &mut bytes, 0) {
        Ok(()) => return Ok((bytes, false)),
        Err(error) if is_gone(&error) => bytes.fill(0),
        Err(error) => return Err(error),
    }
    let mut n_bad = 0;
    for (ix, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        match disk.read_exact_at(&file, block, (ix * BLOCK_BYTES) as u64) {
            Err(error) if is_gone(&error) => {
                block.fill(0);
                n_bad += 1;
            }
            result => result?,
        }
        if n_bad == BAD_BLOCKS_MAX {
            break;
        }
    }
    Ok((bytes, true))
}

/// The same of a file that may not even be there to open.
fn read_what_is_left(path: &Path, disk: &dyn Disk) -> Result<(Vec<u8>, bool), SpoolError> {
    let read = match read_all(path, disk) {
        Err(error) if is_gone(&error) => Ok((Vec::new(), true)),
        read => read.map_err(|error| io_error("read", path, error)),
    };
    if let Ok((_, true)) = read {
        tracing::error!(
            path = %path.display(),
            "a file of the spool cannot be read in full: what can be is sent; look after the disk"
        );
    }
    read
}

/// Deletes a file that holds nothing; sets one aside of which nothing can be read.
fn discard(path: &Path, is_unreadable: bool) -> Result<(), SpoolError> {
    if !is_unreadable {
        return fs::remove_file(path).map_err(|error| io_error("remove", path, error));
    }
    if let Err(error) = fs::rename(path, path.with_extension("seg.unreadable")) {
        // A file is in nobody's way: the next record that has its number overwrites it.
        tracing::warn!(path = %path.display(), %error, "cannot set a file of the spool aside");
    }
    Ok(())
}

/// Scans all segments, marks what is destroyed, deletes what the ledger already holds.
pub(super) fn load_segments(
    dir: &Path,
    disk: &dyn Disk,
    state: Option<&State>,
    recovery: &mut Recovery,
) -> Result<Loaded, SpoolError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_error("read", dir, e))? {
        let path = entry.map_err(|e| io_error("read", dir, e))?.path();
        paths.extend(segment::pos_of(&path).map(|pos| (pos, path)));
    }
    paths.sort();
    let mut loaded = Loaded::default();
    let n = paths.len();
    for (ix, (_, path)) in paths.into_iter().enumerate() {
        let is_last = ix + 1 == n;
        let (bytes, is_unreadable) = read_what_is_left(&path, disk)?;
        // What cannot be read at an end was written: no write stopped there.
        let scanned = Segment::scan(&path, &bytes, is_last && !is_unreadable)
            .map_err(|found| SpoolError::Version { path: path.clone(), found })?;
        let dropped = |s: &Segment| state.is_some_and(|state| s.pos_end() <= state.first);
        let free = loaded.segments.back().map_or(0, Segment::pos_end);
        match scanned {
            Some((segment, _)) if segment.pos_first < free || segment.pos_end() > POSITION_MAX => {
                // Numbers stand for one record each: what an earlier file has of them holds.
                recovery.n_records_corrupt += segment.entries.len() as u64;
                recovery.corrupt = recovery.corrupt.plus(segment.volume());
                fs::remove_file(&path).map_err(|e| io_error("remove", &path, e))?;
            }
            Some((mut segment, mut found)) if !segment.entries.is_empty() && !dropped(&segment) => {
                loaded.acked = loaded.acked.max(found.acked);
                let before = match loaded.segments.back_mut() {
                    Some(last) => {
                        loaded.destroyed.extend(join(last, &segment, disk));
                        Some(last.before.plus(last.volume()))
                    }
                    None => state.filter(|s| s.first == segment.pos_first).map(|s| s.before_first),
                };
                let volume = before.map(|before| attribute(before, &mut segment));
                // A hole that an earlier start has written is counted already.
                if let (Some(volume), Some(first)) = (volume, found.destroyed.first_mut()) {
                    first.volume = first.volume.plus(volume);
                }
                repair(&segment, &found, is_last, disk, recovery);
                loaded.destroyed.append(&mut found.destroyed);
                loaded.segments.push_back(segment);
            }
            // A file that never got a whole record, or whose deletion a crash cut short.
            _ => discard(&path, is_unreadable)?,
        }
    }
    recovery.n_records_corrupt += loaded.destroyed.iter().map(|hole| hole.n).sum::<u64>();
    let destroyed = loaded.destroyed.iter().map(|hole| hole.volume).sum();
    recovery.corrupt = recovery.corrupt.plus(destroyed);
    Ok(loaded)
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

/// Where the header of a segment and its first record are both destroyed, the volume of that record
/// shows only as a step from all `before` the segment: it is its own. Gives how much.
fn attribute(before: Volume, segment: &mut Segment) -> Volume {
    let step = segment.before.minus(before);
    let Some(first) = segment.entries.first_mut().filter(|entry| entry.len == 0) else {
        return Volume::default();
    };
    let Ok(n_lines) = u32::try_from(step.n_lines) else { return Volume::default() };
    first.n_lines = first.n_lines.saturating_add(n_lines);
    first.n_bytes = first.n_bytes.saturating_add(step.n_bytes);
    segment.before = segment.before.minus(step);
    step
}

/// Fills the numbers missing between two segments with a hole at the end of the first.
fn join(before: &mut Segment, next: &Segment, disk: &dyn Disk) -> Option<Destroyed> {
    let n_missing = next.pos_first.saturating_sub(before.pos_end()).min(HOLE_MAX);
    if n_missing == 0 {
        return None;
    }
    let end = before.before.plus(before.volume());
    let hole = Head {
        format: before.format,
        is_hole: true,
        len: 0,
        pos: before.pos_end(),
        before: end,
        acked: n_missing,
        at_ms: before.at_last_ms,
        volume: next.before.minus(end),
        payload_crc: 0,
    };
    let path = before.path.clone();
    let done = File::options()
        .write(true)
        .open(&path)
        .and_then(|file| before.append(disk, &file, &hole, &[]));
    if let Err(error) = done {
        tracing::warn!(path = %path.display(), %error, "damaged spool segment could not be repaired");
        before.admit(&hole, before.len);
    }
    Some(Destroyed { pos: hole.pos, n: n_missing, volume: hole.volume })
}

/// The state to go on with when the stored one is lost: a new epoch over what is left.
pub(super) fn renumbered(segments: &VecDeque<Segment>, acked: u64, now_ms: u64) -> State {
    let oldest = segments.front().expect("asked only when there are segments");
    let epoch = segments.iter().map(|s| s.epoch.saturating_add(1)).max().unwrap_or(0).max(now_ms);
    let base = acked.max(oldest.pos_first - 1);
    State { base, acked: base, before_first: oldest.before, ..State::new(epoch, oldest.pos_first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch was numbered anew, sent again and counted twice.
    #[test]
    fn numbers_that_a_disk_does_not_give_for_a_moment_are_read_again() {
        let (lost, gone) = (Errno::IO.raw_os_error(), Errno::NOENT.raw_os_error());
        for (errors, n_reads, is_read) in [
            (vec![], 1, true),
            (vec![lost], 2, true),
            (vec![lost; STATE_TRIES - 1], STATE_TRIES, true),
            (vec![lost; STATE_TRIES], STATE_TRIES, false),
            (vec![gone], 1, false),
            (vec![Errno::ISDIR.raw_os_error()], 1, false),
        ] {
            let mut n = 0;
            let read = read_state(|| {
                n += 1;
                errors.get(n - 1).map_or(Ok(vec![7]), |e| Err(io::Error::from_raw_os_error(*e)))
            });
            assert_eq!((n, read.is_ok()), (n_reads, is_read), "{errors:?}");
        }
    }
}
