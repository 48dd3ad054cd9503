//! The spool's small memory beside its segments: numbering, and what was dropped.
//!
//! `DIR/state`, replaced as a whole: `"GWSPSTAT" | version u32 | epoch, base, acked, origin, first,
//! lines_first, n_batches_evicted, n_lines_evicted, bytes_first, n_bytes_evicted, next, lines_next,
//! bytes_next, lines_acked, bytes_acked u64 | n u32 | n x (n_lines u32, n_bytes u64) | crc32c u32`, little-endian. It is
//! written before a segment is deleted, so a crash between the two leaves a file that the next start
//! deletes. Without it (lost, damaged) a new epoch begins.
//!
//! Version 1 is still read: it ends its numbers with `n_lines_evicted`, and its list has no bytes.

use std::collections::VecDeque;

use super::Volume;
use super::segment::{NUMBER_MAX, POSITION_MAX};

const MAGIC: &[u8; 8] = b"GWSPSTAT";
const VERSION: u32 = 2;
/// Numbers of version 1, and of this one.
const NUMBERS: [usize; 2] = [8, 15];
/// Bytes of one entry of the list.
const ENTRY_BYTES: [usize; 2] = [4, 12];
/// Dropped records whose lines are remembered one by one: 192 KiB, or 45 h at one batch in 10 s.
const LEDGER_MAX: usize = 16_384;

/// See the module's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Names this life of the numbering.
    pub(super) epoch: u64,
    /// Position before seq 1 of this epoch.
    pub(super) base: u64,
    /// Everything up to here is committed at the collector.
    pub(super) acked: u64,
    /// First position this spool ever had.
    pub(super) origin: u64,
    /// First position not dropped.
    pub(super) first: u64,
    /// What all records before `first` account for.
    pub(super) before_first: Volume,
    /// Records dropped before they were acked, over the life of the spool, and their volume.
    pub(super) n_batches_evicted: u64,
    pub(super) evicted: Volume,
    /// Position and volume before the next record, as they were when this was written.
    pub(super) end: (u64, Volume),
    /// What everything up to `acked` accounts for.
    pub(super) before_acked: Volume,
    /// Volume of each of the last records before `first`, oldest first.
    pub(super) ledger: VecDeque<Volume>,
}

impl State {
    pub(super) fn new(epoch: u64, origin: u64) -> Self {
        let base = origin - 1;
        Self { epoch, base, acked: base, origin, first: origin, ..Self::default() }
    }

    /// Notes that the oldest kept position is dropped. `counts`: its volume is not lost
    /// by another count already.
    pub(super) fn drop_first(&mut self, volume: Volume, counts: bool) {
        if self.first > self.acked {
            self.n_batches_evicted += 1;
            self.evicted = self.evicted.plus(if counts { volume } else { Volume::default() });
        }
        self.first += 1;
        self.before_first = self.before_first.plus(volume);
        self.ledger.push_back(volume);
        if self.ledger.len() > LEDGER_MAX {
            self.ledger.pop_front();
        }
    }

    /// Takes over from the oldest segment where what is kept begins.
    pub(super) fn begin_at(&mut self, first: u64, before_first: Volume) {
        (self.first, self.before_first) = (first, before_first);
        self.origin = self.origin.min(first);
        if !self.is_sound() {
            self.ledger.clear(); // of another past than the one the segments tell of
        }
    }

    /// What all records before `pos`, which is below `first`, account for.
    ///
    /// Exact as far back as the ledger reaches; before it the rest is taken as spread evenly.
    pub(super) fn before(&self, pos: u64) -> Volume {
        let n_back = usize::try_from(self.first.saturating_sub(pos)).unwrap_or(usize::MAX);
        if n_back <= self.ledger.len() {
            let newest = self.ledger.iter().rev().take(n_back).copied().sum();
            return self.before_first.minus(newest);
        }
        let before_ledger = self.before_first.minus(self.ledger.iter().copied().sum());
        let n_old = self.first - self.ledger.len() as u64 - self.origin;
        let n_asked = pos.saturating_sub(self.origin);
        let share = |whole: u64| {
            let share = u128::from(whole) * u128::from(n_asked) / u128::from(n_old.max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        let Volume { n_lines, n_bytes } = before_ledger;
        Volume { n_lines: share(n_lines), n_bytes: share(n_bytes) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(fixed_bytes(VERSION) + 12 * self.ledger.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [
            self.epoch,
            self.base,
            self.acked,
            self.origin,
            self.first,
            self.before_first.n_lines,
            self.n_batches_evicted,
            self.evicted.n_lines,
            self.before_first.n_bytes,
            self.evicted.n_bytes,
            self.end.0,
            self.end.1.n_lines,
            self.end.1.n_bytes,
            self.before_acked.n_lines,
            self.before_acked.n_bytes,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.ledger.len() as u32).to_le_bytes());
        for volume in &self.ledger {
            let n_lines = u32::try_from(volume.n_lines).unwrap_or(u32::MAX);
            out.extend_from_slice(&n_lines.to_le_bytes());
            out.extend_from_slice(&volume.n_bytes.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// `Err(Some(version))` when a newer program wrote it, `Err(None)` when it is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Option<u32>> {
        let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(None)?;
        if bytes.len() < fixed_bytes(1)
            || &bytes[..8] != MAGIC
            || crc32c::crc32c(bytes) != u32::from_le_bytes(*crc)
        {
            return Err(None);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let version = u32_at(8);
        if !(1..=VERSION).contains(&version) {
            return Err(Some(version));
        }
        let fixed = fixed_bytes(version);
        let entry_bytes = ENTRY_BYTES[version as usize - 1];
        let list = bytes.get(fixed..).ok_or(None)?;
        if list.len() != entry_bytes * u32_at(fixed - 4) as usize {
            return Err(None);
        }
        let has_bytes = version > 1;
        // What version 1 does not say is 0.
        let number = |ix: usize| {
            if has_bytes || ix < NUMBERS[0] { u64_at(12 + 8 * ix) } else { 0 }
        };
        let entry = |at: usize| Volume {
            n_lines: u32_at(at).into(),
            n_bytes: if has_bytes { u64_at(at + 4) } else { 0 },
        };
        let state = Self {
            epoch: number(0),
            base: number(1),
            acked: number(2),
            origin: number(3),
            first: number(4),
            before_first: Volume { n_lines: number(5), n_bytes: number(8) },
            n_batches_evicted: number(6),
            evicted: Volume { n_lines: number(7), n_bytes: number(9) },
            end: (number(10), Volume { n_lines: number(11), n_bytes: number(12) }),
            before_acked: Volume { n_lines: number(13), n_bytes: number(14) },
            ledger: (fixed..bytes.len()).step_by(entry_bytes).map(entry).collect(),
        };
        let numbers_fit = (1..NUMBERS[1]).all(|ix| number(ix) < NUMBER_MAX);
        let positions = [state.base, state.acked, state.origin, state.first, state.end.0];
        let positions_fit = positions.iter().all(|pos| *pos <= POSITION_MAX);
        if numbers_fit && positions_fit && state.is_sound() { Ok(state) } else { Err(None) }
    }

    /// False for numbers that no spool can have come to, whatever the checksum says.
    fn is_sound(&self) -> bool {
        let in_ledger = |part: fn(&Volume) -> u64| {
            self.ledger.iter().try_fold(0_u64, |sum, volume| sum.checked_add(part(volume)))
        };
        let is_within = |sum: Option<u64>, whole| sum.is_some_and(|sum| sum <= whole);
        self.origin > 0
            && self.base + 1 >= self.origin
            && self.acked >= self.base
            && self.first >= self.origin
            && self.ledger.len() as u64 <= self.first - self.origin
            && is_within(in_ledger(|volume| volume.n_lines), self.before_first.n_lines)
            && is_within(in_ledger(|volume| volume.n_bytes), self.before_first.n_bytes)
    }
}

/// Bytes before the list.
fn fixed_bytes(version: u32) -> usize {
    8 + 4 + 8 * NUMBERS[version as usize - 1] + 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(n_lines: u64) -> Volume {
        Volume { n_lines, n_bytes: 100 * n_lines }
    }

    #[test]
    fn the_state_comes_back_and_damage_is_noticed() {
        let mut state = State::new(7, 1000);
        for n_lines in [3, 0, 5] {
            state.drop_first(volume(n_lines), true);
        }
        state.end = (1007, volume(20));
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Ok(state));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(State::decode(&bad), Err(None), "byte {at}");
            assert!(State::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn volumes_of_dropped_records_are_known_one_by_one() {
        let mut state = State::new(7, 1000);
        for n_lines in [3, 0, 5, 7] {
            state.drop_first(volume(n_lines), true);
        }
        for (pos, lines) in [(1000, 0), (1001, 3), (1002, 3), (1003, 8), (1004, 15)] {
            assert_eq!(state.before(pos), volume(lines), "{pos}");
        }
    }

    #[test]
    fn volumes_beyond_the_ledger_are_spread_evenly() {
        let mut state = State::new(7, 1);
        for _ in 0..LEDGER_MAX + 100 {
            state.drop_first(volume(2), true);
        }
        assert_eq!(state.before(1), volume(0));
        assert_eq!(state.before(51), volume(100));
        assert_eq!(state.before(101), volume(200));
        assert_eq!(state.before(102), volume(202));
    }
}
