//! Writing to the spool, and making room for it: segments begin, end and go.

use std::fs;
use std::io;

use super::segment::{self, Format, HOLE_MAX, Head, POSITIONS_MAX, Segment};
use super::state::State;
use super::{ACKED_KEPT, SEGMENT_AGE_MAX, SEGMENT_BYTES_MAX, Spool, SpoolError, Volume, io_error};

impl Spool {
    /// Writes a record or hole at `self.next` and counts it in.
    pub(super) fn write(&mut self, head: &Head, payload: &[u8]) -> Result<(), SpoolError> {
        self.begin_segment_if_due(payload.len() as u64, head.at_ms)?;
        let segment = self.segments.back_mut().expect("begun above");
        let file = self.active.as_ref().expect("begun above");
        if let Err(error) = segment.append(self.disk.as_ref(), file, head, payload) {
            return Err(io_error("write", &segment.path, error));
        }
        self.next += if head.is_hole { head.acked } else { 1 };
        self.before_next = self.before_next.plus(head.volume);
        Ok(())
    }

    fn begin_segment_if_due(&mut self, len: u64, now_ms: i64) -> Result<(), SpoolError> {
        let bytes_max = SEGMENT_BYTES_MAX.min(self.bytes_max / 64);
        let age_max = i64::try_from(SEGMENT_AGE_MAX.as_millis()).unwrap_or(i64::MAX);
        let is_due = match (self.active.as_ref(), self.segments.back()) {
            (Some(_), Some(segment)) if segment.entries.is_empty() => false,
            (Some(_), Some(segment)) => {
                segment.len + len > bytes_max
                    || segment.entries.len() as u64 + HOLE_MAX > POSITIONS_MAX
                    || now_ms.saturating_sub(segment.at_first_ms) > age_max
            }
            _ => true,
        };
        if is_due {
            let (epoch, before) = (self.state.epoch, self.before_next);
            let (segment, file) =
                Segment::create(self.disk.as_ref(), &self.dir, epoch, self.next, before)
                    .map_err(|e| io_error("write", &self.dir, e))?;
            self.segments.push_back(segment);
            self.active = Some(file);
        }
        Ok(())
    }

    /// Leaves out the positions up to `next`.
    pub(super) fn skip_to(&mut self, next: u64) -> Result<(), SpoolError> {
        if self.is_new && self.segments.iter().all(|s| s.entries.is_empty()) {
            // Nothing was ever spooled here: begin behind the checkpoint.
            self.drop_segments(self.segments.len())?;
            let (epoch, before_first) = (self.state.epoch, self.state.before_first);
            self.state = State { before_first, ..State::new(epoch, next) };
            self.next = next;
            return self.save_state();
        }
        let mut left = next - self.next;
        let (end, before_end) = self.end_known;
        let known =
            if end == next { before_end.minus(self.before_next) } else { Volume::default() };
        self.n_corrupt += left;
        self.corrupt = self.corrupt.plus(known);
        let mut volume = known;
        while left > 0 {
            let head = Head {
                format: Format::V2,
                is_hole: true,
                len: 0,
                pos: self.next,
                before: self.before_next,
                acked: left.min(HOLE_MAX - 1),
                at_ms: (self.clock)().0,
                volume: std::mem::take(&mut volume),
                payload_crc: 0,
            };
            self.write(&head, &[])?;
            left -= head.acked;
        }
        Ok(())
    }

    /// Drops the oldest segments until `len` more bytes fit the budget.
    pub(super) fn make_room(&mut self, len: u64) -> Result<(), SpoolError> {
        let header = segment::HEADER_BYTES as u64; // the record may need a new segment
        let mut bytes = self.bytes();
        let mut n = 0;
        while bytes + len + header > self.bytes_max {
            let Some(segment) = self.segments.get(n).filter(|s| self.is_deletable(s)) else {
                return Err(SpoolError::Full { path: self.dir.clone(), source: None });
            };
            bytes -= segment.len;
            n += 1;
        }
        self.drop_segments(n)
    }

    /// Deletes acked segments beyond their time or their quarter of the budget.
    pub(super) fn trim(&mut self) -> Result<(), SpoolError> {
        let oldest_ms = (self.clock)().minus(ACKED_KEPT).0;
        let acked = |s: &&Segment| s.pos_end() <= self.state.acked + 1;
        let mut bytes: u64 = self.segments.iter().take_while(acked).map(|s| s.len).sum();
        let mut n = 0;
        for segment in self.segments.iter().take_while(acked) {
            let is_over = bytes > self.bytes_max / 4 || segment.at_last_ms < oldest_ms;
            if !is_over || !self.is_deletable(segment) || n + 1 == self.segments.len() {
                break;
            }
            bytes -= segment.len;
            n += 1;
        }
        self.drop_segments(n)
    }

    /// Deletes all acked segments; false when there was none.
    pub(super) fn drop_acked_segments(&mut self) -> Result<bool, SpoolError> {
        let n = self
            .segments
            .iter()
            .take_while(|s| s.pos_end() <= self.state.acked + 1 && self.is_deletable(s))
            .count()
            .min(self.segments.len().saturating_sub(1));
        self.drop_segments(n)?;
        Ok(n > 0)
    }

    /// Takes what was evicted on its way, and arrived all the same, out of what was evicted.
    pub(super) fn lands(&mut self, acked: u64) -> Result<(), SpoolError> {
        let (n_batches, volume) = self.flight.arrives(acked);
        if n_batches == 0 {
            return Ok(());
        }
        self.state.n_batches_evicted = self.state.n_batches_evicted.saturating_sub(n_batches);
        self.state.evicted = self.state.evicted.minus(volume);
        tracing::info!(
            n_batches,
            n_lines = volume.n_lines,
            n_bytes = volume.n_bytes,
            "batches that were evicted on their way to the collector have arrived: not lost"
        );
        self.save_state()
    }

    fn is_deletable(&self, segment: &Segment) -> bool {
        segment.pos_end() <= self.checkpointed + 1
    }

    /// Deletes the oldest `n` segments; what they held unacked is in the ledger before it is gone.
    fn drop_segments(&mut self, n: usize) -> Result<(), SpoolError> {
        if n == 0 {
            return Ok(());
        }
        let before = self.state.clone();
        for entry in self.segments.iter().take(n).flat_map(|s| &s.entries) {
            // What is destroyed is counted as that already.
            self.state.drop_first(entry.volume(), entry.len > 0);
        }
        let n_batches = self.state.n_batches_evicted - before.n_batches_evicted;
        let Volume { n_lines, n_bytes } = self.state.evicted.minus(before.evicted);
        // On a full disk the ledger may not grow before a file is gone. Of acked records nobody
        // needs to be told; a segment whose loss nobody could tell stays.
        if n_batches > 0 {
            if let Err(error) = self.save_state() {
                self.state = before;
                return Err(error);
            }
            tracing::error!(
                n_batches,
                n_lines,
                n_bytes,
                "spool full: the oldest batches are evicted"
            );
        }
        let mut removed = Ok(());
        for segment in self.segments.drain(..n).collect::<Vec<_>>() {
            for (pos, entry) in (segment.pos_first..).zip(&segment.entries) {
                self.flight.evicts(pos, entry.volume());
            }
            let n_acked = (self.state.acked + 1).saturating_sub(segment.pos_first) as usize;
            let unacked = segment.entries.iter().skip(n_acked).map(|e| u64::from(e.len));
            self.bytes_unacked -= unacked.sum::<u64>();
            match fs::remove_file(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    removed = Err(io_error("remove", &segment.path, error));
                }
                _ => {}
            }
        }
        self.reading = None;
        if self.segments.is_empty() {
            self.active = None;
        }
        removed?;
        if n_batches == 0 { self.save_state() } else { Ok(()) }
    }
}
