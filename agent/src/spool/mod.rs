//! Stage 4: bounded disk queue of opaque bytes, between the gather thread and the uplink.
//!
//! A record has a position, rising by one over the life of the directory, and a seq, which is its
//! position counted from the start of the epoch. Invariants: what `append` returned for is on disk;
//! a segment is deleted only when the checkpoint covers it; every record that is gone unacked is
//! declared with its lines and bytes by the next `peek` (`evicted_before`), also after a restart.
//!
//! Over `bytes_max` the oldest segment goes, acked ones first since they are the oldest. Acked
//! records stay for [`ACKED_KEPT`], in at most a quarter of the budget, so that a collector that
//! lost some can ask again. File formats: `segment.rs`, `state.rs`.

mod flight;
mod recover;
mod room;
mod segment;
mod state;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wire::UnixMillis;

use flight::Flight;
use recover::{Loaded, is_gone, load_segments, load_state, renumbered};
pub use segment::PAYLOAD_BYTES_MAX;
use segment::{Destroyed, Disk, Entry, Format, HOLE_MAX, Head, OsDisk, RECORD_BYTES, Segment};
use state::State;

/// How long acked records stay for a rewind (storage.md 3), by the time of their segment.
const ACKED_KEPT: Duration = Duration::from_secs(2 * 3600);
/// A segment takes records for at most this long, so that two hours can be told apart.
const SEGMENT_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// A segment takes records up to this size, or 1/64 of the budget if that is less: the grain of
/// eviction.
const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// Position of a record, rising by one over all epochs; what checkpoints are tied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos(pub u64);

/// Number of a record in its epoch, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seq(pub u64);

/// What records account for: the loss ledger of their eviction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Log lines, rejected ones included.
    pub n_lines: u64,
    /// Log bytes: of these lines, and of what was found to have vanished unread.
    pub n_bytes: u64,
}

impl Volume {
    /// Both volumes together.
    #[must_use]
    pub fn plus(self, more: Self) -> Self {
        Self {
            n_lines: self.n_lines.saturating_add(more.n_lines).min(segment::NUMBER_MAX - 1),
            n_bytes: self.n_bytes.saturating_add(more.n_bytes).min(segment::NUMBER_MAX - 1),
        }
    }

    /// This volume without another one, never below nothing.
    #[must_use]
    pub fn minus(self, less: Self) -> Self {
        Self {
            n_lines: self.n_lines.saturating_sub(less.n_lines),
            n_bytes: self.n_bytes.saturating_sub(less.n_bytes),
        }
    }
}

impl std::iter::Sum for Volume {
    fn sum<I: Iterator<Item = Self>>(volumes: I) -> Self {
        volumes.fold(Self::default(), Self::plus)
    }
}

/// What is gone just before a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Records.
    pub n_batches: u64,
    /// What they accounted for.
    pub volume: Volume,
}

/// One record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub seq: Seq,
    /// The bytes given to `append`.
    pub payload: Vec<u8>,
    /// What it accounts for.
    pub volume: Volume,
    /// What is gone between the seq asked for and this one.
    pub evicted_before: Evicted,
}

/// What `open` found and repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that can be read.
    pub n_records: u64,
    /// Bytes cut off the end: a write that never finished. Its `append` never returned, so nothing
    /// that anybody relied on is lost.
    pub n_bytes_torn: u64,
    /// Records destroyed in the middle.
    pub n_records_corrupt: u64,
    /// What these accounted for, acked ones included.
    pub corrupt: Volume,
    /// The numbering was lost and a new epoch began.
    pub is_renumbered: bool,
}

/// What the spool holds, for heartbeats and `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Epoch of the numbers below.
    pub epoch: u64,
    /// Lowest seq kept, acked ones included; 0 when none.
    pub seq_first: u64,
    /// Highest seq written; 0 when none.
    pub seq_last: u64,
    /// Everything up to here is committed at the collector.
    pub seq_acked: u64,
    /// Payload bytes not acked yet.
    pub bytes_unacked: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Budget.
    pub bytes_max: u64,
    /// Records evicted before they were acked, over the life of the spool; less those of them whose
    /// ack came later, since they were on their way.
    pub n_batches_evicted: u64,
    /// What those accounted for.
    pub evicted: Volume,
    /// Records found destroyed since the start of this program.
    pub n_records_corrupt: u64,
    /// What those of them accounted for that were not acked.
    pub corrupt: Volume,
}

/// Why the spool could not do what was asked. Nothing is damaged by any of them.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk has no room; the caller keeps what it has and tries again.
    #[error("no space left for the spool at {path}: free some on that file system")]
    Full {
        /// What could not be written.
        path: PathBuf,
        /// From the operating system; absent when the budget itself is used up.
        source: Option<io::Error>,
    },
    /// Anything else the operating system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// `read`, `write`, ...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// A newer agent wrote it.
    #[error(
        "{path} has spool format {found}, this agent reads up to {}: \
         install the newer agent again, or move the file away to lose what it holds",
        segment::VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// The queue. See the module's header.
pub struct Spool {
    dir: PathBuf,
    bytes_max: u64,
    disk: Box<dyn Disk>,
    clock: fn() -> UnixMillis,
    /// Oldest first; only the last one grows.
    segments: VecDeque<Segment>,
    /// The last segment, when it takes records; after a start a new one begins.
    active: Option<File>,
    /// The segment read last, by its first position.
    reading: Option<(u64, File)>,
    state: State,
    /// Position of the next record, and what all before it account for.
    next: u64,
    before_next: Volume,
    checkpointed: u64,
    bytes_unacked: u64,
    /// Nothing of an earlier life was found.
    is_new: bool,
    /// Where the numbers ended when the state was saved last before this start.
    end_known: (u64, Volume),
    n_corrupt: u64,
    /// Of these, what was not acked.
    corrupt: Volume,
    /// What was given out and may still be acked.
    flight: Flight,
}

impl Spool {
    /// Opens or creates the spool in `dir`, repairing what a crash or a bad disk left.
    ///
    /// Reads every segment once; what of it cannot be read is destroyed, not a reason to fail. Until
    /// [`Spool::set_checkpointed`] is called nothing is deleted.
    pub fn open(
        dir: &Path,
        bytes_max: u64,
        now: UnixMillis,
    ) -> Result<(Self, Recovery), SpoolError> {
        Self::open_on(dir, bytes_max, now, Box::new(OsDisk), crate::clock::now)
    }

    fn open_on(
        dir: &Path,
        bytes_max: u64,
        now: UnixMillis,
        disk: Box<dyn Disk>,
        clock: fn() -> UnixMillis,
    ) -> Result<(Self, Recovery), SpoolError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| io_error("create", dir, e))?;
        let stored = load_state(&dir.join("state"))?;
        let mut recovery = Recovery::default();
        let Loaded { segments, acked, destroyed } =
            load_segments(dir, disk.as_ref(), stored.as_ref(), &mut recovery)?;
        let now_ms = u64::try_from(now.0).unwrap_or(1).max(1);
        let is_new = stored.is_none() && segments.is_empty();
        let state = match stored {
            Some(state) => state,
            None if is_new => State::new(now_ms, now_ms * 1000),
            None => {
                recovery.is_renumbered = true;
                renumbered(&segments, acked, now_ms)
            }
        };
        let mut spool = Self {
            dir: dir.to_owned(),
            bytes_max,
            disk,
            clock,
            next: state.first,
            end_known: state.end,
            before_next: state.before_first,
            segments,
            active: None,
            reading: None,
            state,
            checkpointed: 0,
            bytes_unacked: 0,
            is_new,
            n_corrupt: 0,
            corrupt: Volume::default(),
            flight: Flight::default(),
        };
        spool.settle(acked, &destroyed, &mut recovery);
        spool.save_state()?;
        Ok((spool, recovery))
    }

    /// Brings numbers and segments together after a start.
    fn settle(&mut self, acked: u64, destroyed: &[Destroyed], recovery: &mut Recovery) {
        let state = &mut self.state;
        if let Some(oldest) = self.segments.front() {
            // Files gone at the front: acked ones, when a crash came before the ledger was written;
            // else a person or a bad disk took them.
            let n_gone = oldest.pos_first.saturating_sub(state.first);
            let gone = oldest.before.minus(state.before_first);
            // Of files that held acked records too, the state knows which part of it was acked.
            let n_acked = (state.acked + 1).saturating_sub(state.first);
            let is_split = state.end.0 > 0 && (1..n_gone).contains(&n_acked);
            let before_acked = state.before_acked.minus(state.before_first);
            let unacked = if is_split { gone.minus(before_acked) } else { Volume::default() };
            state.acked = state.acked.max(acked);
            for ix in 0..n_gone.min(HOLE_MAX) {
                let volume = match ix {
                    0 => gone.minus(unacked),
                    _ if ix == n_acked => unacked,
                    _ => Volume::default(),
                };
                state.drop_first(volume, true);
            }
            if oldest.pos_first > state.acked.max(acked) + 1 {
                recovery.n_records_corrupt += n_gone;
                recovery.corrupt = recovery.corrupt.plus(gone);
            }
            state.begin_at(oldest.pos_first, oldest.before);
        }
        if let Some(newest) = self.segments.back() {
            self.next = newest.pos_end();
            self.before_next = newest.before.plus(newest.volume());
        }
        if self.next <= self.state.acked {
            // The tail is gone, but its numbers are taken, and what they accounted for is known.
            self.next = self.state.acked + 1;
            let (n_lines, n_bytes) = (self.before_next.n_lines, self.before_next.n_bytes);
            let acked = self.state.before_acked;
            self.before_next =
                Volume { n_lines: n_lines.max(acked.n_lines), n_bytes: n_bytes.max(acked.n_bytes) };
        }
        self.state.acked = self.state.acked.max(acked).min(self.next - 1);
        self.n_corrupt = recovery.n_records_corrupt;
        let unacked = destroyed.iter().filter(|hole| hole.pos + hole.n > self.state.acked + 1);
        self.corrupt = unacked.map(|hole| hole.volume).sum();
        let entries = self.segments.iter().flat_map(|s| &s.entries);
        recovery.n_records = entries.filter(|e| e.len > 0).count() as u64;
        self.bytes_unacked = self.payload_bytes(self.state.acked + 1, self.next);
    }

    /// Appends one encoded batch; returns its position once it is on disk.
    ///
    /// `volume` is what `evicted_before` says if this record is ever evicted. Over the budget the
    /// oldest segments go first. On an error nothing was appended and nothing else is harmed.
    /// Cost: one `fdatasync` a call, so one per batch: every 10 s, at most 4 a second in an outage.
    pub fn append(&mut self, payload: &[u8], volume: Volume) -> Result<Pos, SpoolError> {
        assert!(
            (1..=PAYLOAD_BYTES_MAX).contains(&payload.len()),
            "batch.rs makes no empty batch and splits at PAYLOAD_BYTES_MAX"
        );
        self.make_room((RECORD_BYTES + payload.len()) as u64)?;
        let head = Head {
            format: Format::V2,
            is_hole: false,
            len: payload.len() as u32,
            pos: self.next,
            before: self.before_next,
            acked: self.state.acked,
            at_ms: (self.clock)().0,
            volume,
            payload_crc: crc32c::crc32c(payload),
        };
        if let Err(error) = self.write(&head, payload) {
            // Acked records are only kept for comfort: they make room for new ones.
            if !is_full(&error) || !self.drop_acked_segments()? {
                return Err(error);
            }
            self.write(&head, payload)?;
        }
        self.bytes_unacked += payload.len() as u64;
        Ok(Pos(head.pos))
    }

    /// The record of `seq`, or the next one that is still there; `None` = nothing that new yet.
    ///
    /// A record that cannot be read any more is skipped, counted, and part of `evicted_before`.
    pub fn peek(&mut self, seq: Seq) -> Result<Option<Record>, SpoolError> {
        let asked = self.state.base.saturating_add(seq.0.max(1));
        let mut pos = self.kept_from(asked.max(self.state.first));
        while pos < self.next {
            if let Some((payload, volume)) = self.read(pos)? {
                let n_batches = pos - asked;
                let evicted = match n_batches {
                    0 => Volume::default(),
                    _ => self.before(pos).minus(self.before(asked)),
                };
                let evicted_before = Evicted { n_batches, volume: evicted };
                self.flight.leaves(asked, pos);
                let seq = Seq(pos - self.state.base);
                return Ok(Some(Record { seq, payload, volume, evicted_before }));
            }
            pos = self.kept_from(pos + 1);
        }
        Ok(None)
    }

    /// Everything up to and with `seq` is committed at the collector; may be repeated.
    pub fn ack(&mut self, seq: Seq) -> Result<(), SpoolError> {
        let acked = self.state.base.saturating_add(seq.0).min(self.next - 1);
        if acked > self.state.acked {
            self.bytes_unacked -= self.payload_bytes(self.state.acked + 1, acked + 1);
            self.state.acked = acked;
            self.lands(acked)?;
        }
        self.trim()
    }

    /// The collector holds only what is up to and with `seq`: what comes after waits again.
    pub fn rewind(&mut self, seq: Seq) {
        let acked = self.state.base.saturating_add(seq.0).min(self.state.acked);
        self.bytes_unacked += self.payload_bytes(acked + 1, self.state.acked + 1);
        self.state.acked = acked;
    }

    /// Begins a higher epoch than `above` and numbers what is not acked from 1.
    pub fn raise_epoch(&mut self, above: u64) -> Result<(), SpoolError> {
        let now_ms = u64::try_from((self.clock)().0).unwrap_or(0);
        self.state.epoch =
            now_ms.max(above.saturating_add(1)).max(self.state.epoch.saturating_add(1));
        self.state.base = self.state.acked;
        self.save_state()
    }

    /// The checkpoint now covers everything up to `pos`: older segments may be deleted.
    ///
    /// When the checkpoint is ahead of the spool (its end was destroyed after a sync) the numbers
    /// between are left out, and declared like evicted records. What they accounted for is known
    /// when the spool was closed behind them.
    pub fn set_checkpointed(&mut self, pos: Pos) -> Result<(), SpoolError> {
        if pos.0 >= self.next {
            self.skip_to(pos.0 + 1)?;
        }
        self.checkpointed = self.checkpointed.max(pos.0);
        Ok(())
    }

    /// Records after a position, acked ones included, oldest first; for checkpoint recovery.
    pub fn records_after(
        &mut self,
        pos: Pos,
    ) -> impl Iterator<Item = Result<(Pos, Vec<u8>), SpoolError>> + '_ {
        let mut pos = pos.0.saturating_add(1).max(self.state.first);
        std::iter::from_fn(move || {
            loop {
                pos = self.kept_from(pos) + 1;
                if pos > self.next {
                    return None;
                }
                match self.read(pos - 1) {
                    Ok(Some((payload, _))) => return Some(Ok((Pos(pos - 1), payload))),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// Position of the newest record; what a checkpoint that covers everything names.
    pub fn last(&self) -> Pos {
        Pos(self.next - 1)
    }

    /// Names this life of the numbering.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Payload bytes not acked yet.
    pub fn bytes_unacked(&self) -> u64 {
        self.bytes_unacked
    }

    /// All numbers at once. Cost: a few additions per segment.
    pub fn stats(&self) -> Stats {
        let base = self.state.base;
        let first = self.state.first.max(base + 1);
        let is_empty = first >= self.next;
        Stats {
            epoch: self.state.epoch,
            seq_first: if is_empty { 0 } else { first - base },
            seq_last: self.next - 1 - base,
            seq_acked: self.state.acked - base,
            bytes_unacked: self.bytes_unacked,
            bytes: self.bytes(),
            bytes_max: self.bytes_max,
            n_batches_evicted: self.state.n_batches_evicted,
            evicted: self.state.evicted,
            n_records_corrupt: self.n_corrupt,
            corrupt: self.corrupt,
        }
    }

    /// Writes down what only memory knows (the ack, and where the numbers end), so that a restart
    /// begins where this ended and knows what is missing, whatever happens to the files until then.
    pub fn close(&mut self) -> Result<(), SpoolError> {
        self.save_state()
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len).sum()
    }

    /// `pos`, or the next position that a segment holds; between segments any number may be missing.
    fn kept_from(&self, pos: u64) -> u64 {
        let following = self.segments.get(self.segments.partition_point(|s| s.pos_end() <= pos));
        following.map_or(pos.max(self.next), |segment| segment.pos_first.max(pos))
    }

    fn segment_of(&self, pos: u64) -> Option<&Segment> {
        let ix = self.segments.partition_point(|s| s.pos_first <= pos).checked_sub(1)?;
        self.segments.get(ix)
    }

    /// Payload and volume at a position; `None` when destroyed.
    fn read(&mut self, pos: u64) -> Result<Option<(Vec<u8>, Volume)>, SpoolError> {
        let Some(segment) = self.segment_of(pos) else { return Ok(None) };
        let Some(entry) = segment.entry(pos).filter(|e| e.len > 0) else { return Ok(None) };
        let (first, format, path) = (segment.pos_first, segment.format, segment.path.clone());
        let payload = match self.payload_at(format, first, &path, pos, entry) {
            Err(error) if is_gone(&error) => {
                self.active = self.active.take().filter(|_| path.exists()); // else it has no name
                None
            }
            result => result.map_err(|e| io_error("read", &path, e))?,
        };
        if payload.is_none() {
            self.forget(pos, entry);
        }
        Ok(payload.map(|payload| (payload, entry.volume())))
    }

    fn payload_at(
        &mut self,
        format: Format,
        first: u64,
        path: &Path,
        pos: u64,
        entry: Entry,
    ) -> io::Result<Option<Vec<u8>>> {
        if self.reading.as_ref().is_none_or(|(of, _)| *of != first) {
            self.reading = Some((first, File::open(path)?));
        }
        let (_, file) = self.reading.as_ref().expect("set above");
        Segment::read(format, file, pos, entry)
    }

    /// Notes that a record turned out destroyed.
    fn forget(&mut self, pos: u64, entry: Entry) {
        self.n_corrupt += 1;
        if pos > self.state.acked {
            self.bytes_unacked -= u64::from(entry.len);
            self.corrupt = self.corrupt.plus(entry.volume());
        }
        if let Some(segment) = self.segments.iter_mut().rfind(|s| s.pos_first <= pos) {
            let ix = (pos - segment.pos_first) as usize;
            segment.entries[ix].len = 0;
        }
    }

    /// What all records before a position account for.
    fn before(&self, pos: u64) -> Volume {
        if pos < self.state.first {
            return self.state.before(pos);
        }
        // Between segments lie numbers whose records are destroyed: the next segment knows.
        match self.segments.get(self.segments.partition_point(|s| s.pos_end() <= pos)) {
            Some(segment) => {
                let n = pos.saturating_sub(segment.pos_first) as usize;
                segment.before.plus(segment.entries.iter().take(n).map(Entry::volume).sum())
            }
            None => self.before_next,
        }
    }

    fn payload_bytes(&self, from: u64, to: u64) -> u64 {
        self.segments
            .iter()
            .filter(|s| s.pos_end() > from && s.pos_first < to)
            .flat_map(|s| s.entries.iter().enumerate().map(|(ix, e)| (s.pos_first + ix as u64, e)))
            .filter(|(pos, _)| (from..to).contains(pos))
            .map(|(_, e)| u64::from(e.len))
            .sum()
    }

    fn save_state(&mut self) -> Result<(), SpoolError> {
        self.state.end = (self.next, self.before_next);
        self.state.before_acked = self.before(self.state.acked + 1);
        let path = self.dir.join("state");
        self.disk.replace(&path, &self.state.encode()).map_err(|e| io_error("write", &path, e))
    }
}

fn is_full(error: &SpoolError) -> bool {
    matches!(error, SpoolError::Full { .. })
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> SpoolError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            SpoolError::Full { path, source: Some(source) }
        }
        _ => SpoolError::Io { action, path, source },
    }
}

#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod tests;
