//! The spool's small memory beside its segments: numbering, and what was dropped.
//!
//! `DIR/state`, replaced as a whole: `"GWSPSTAT" | version u32 | epoch, base, acked, origin, first,
//! lines_first, n_batches_evicted, n_lines_evicted u64 | n u32 | n x n_lines u32 | crc32c u32`,
//! little-endian. It is written before a segment is deleted, so a crash between the two leaves a
//! file that the next start deletes. Without it (lost, damaged) a new epoch begins.

use std::collections::VecDeque;

const MAGIC: &[u8; 8] = b"GWSPSTAT";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 8 + 4 + 8 * 8 + 4;
/// Dropped records whose lines are remembered one by one: 64 KiB, or 45 h at one batch in 10 s.
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
    /// Lines of all records before `first`.
    pub(super) lines_first: u64,
    /// Records dropped before they were acked, over the life of the spool, and their lines.
    pub(super) n_batches_evicted: u64,
    pub(super) n_lines_evicted: u64,
    /// Lines of each of the last records before `first`, oldest first.
    pub(super) ledger: VecDeque<u32>,
}

impl State {
    pub(super) fn new(epoch: u64, origin: u64) -> Self {
        let base = origin - 1;
        Self { epoch, base, acked: base, origin, first: origin, ..Self::default() }
    }

    /// Notes that the oldest kept position is dropped.
    pub(super) fn drop_first(&mut self, n_lines: u32) {
        if self.first > self.acked {
            self.n_batches_evicted += 1;
            self.n_lines_evicted += u64::from(n_lines);
        }
        self.first += 1;
        self.lines_first += u64::from(n_lines);
        self.ledger.push_back(n_lines);
        if self.ledger.len() > LEDGER_MAX {
            self.ledger.pop_front();
        }
    }

    /// Lines of all records before `pos`, which is below `first`.
    ///
    /// Exact as far back as the ledger reaches; before it the lines are taken as spread evenly.
    pub(super) fn lines_before(&self, pos: u64) -> u64 {
        let n_back = usize::try_from(self.first.saturating_sub(pos)).unwrap_or(usize::MAX);
        let newest = self.ledger.iter().rev().take(n_back).copied().map(u64::from).sum::<u64>();
        let before_ledger =
            self.lines_first - self.ledger.iter().copied().map(u64::from).sum::<u64>();
        if n_back <= self.ledger.len() {
            return self.lines_first - newest;
        }
        let n_old = self.first - self.ledger.len() as u64 - self.origin;
        let n_asked = pos.saturating_sub(self.origin);
        u64::try_from(u128::from(before_ledger) * u128::from(n_asked) / u128::from(n_old.max(1)))
            .unwrap_or(u64::MAX)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED_BYTES + 4 * self.ledger.len() + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [
            self.epoch,
            self.base,
            self.acked,
            self.origin,
            self.first,
            self.lines_first,
            self.n_batches_evicted,
            self.n_lines_evicted,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(self.ledger.len() as u32).to_le_bytes());
        for n_lines in &self.ledger {
            out.extend_from_slice(&n_lines.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// `Err(Some(version))` when a newer program wrote it, `Err(None)` when it is damaged.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Option<u32>> {
        let (bytes, crc) = bytes.split_last_chunk::<4>().ok_or(None)?;
        if bytes.len() < FIXED_BYTES
            || &bytes[..8] != MAGIC
            || crc32c::crc32c(bytes) != u32::from_le_bytes(*crc)
        {
            return Err(None);
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let number = |ix: usize| {
            u64::from_le_bytes(bytes[12 + 8 * ix..20 + 8 * ix].try_into().expect("eight"))
        };
        if u32_at(8) != VERSION {
            return Err(Some(u32_at(8)));
        }
        let n = u32_at(FIXED_BYTES - 4) as usize;
        if bytes.len() != FIXED_BYTES + 4 * n {
            return Err(None);
        }
        Ok(Self {
            epoch: number(0),
            base: number(1),
            acked: number(2),
            origin: number(3),
            first: number(4),
            lines_first: number(5),
            n_batches_evicted: number(6),
            n_lines_evicted: number(7),
            ledger: (0..n).map(|ix| u32_at(FIXED_BYTES + 4 * ix)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_comes_back_and_damage_is_noticed() {
        let mut state = State::new(7, 1000);
        for n_lines in [3, 0, 5] {
            state.drop_first(n_lines);
        }
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
    fn lines_of_dropped_records_are_known_one_by_one() {
        let mut state = State::new(7, 1000);
        for n_lines in [3, 0, 5, 7] {
            state.drop_first(n_lines);
        }
        for (pos, lines) in [(1000, 0), (1001, 3), (1002, 3), (1003, 8), (1004, 15)] {
            assert_eq!(state.lines_before(pos), lines, "{pos}");
        }
    }

    #[test]
    fn lines_beyond_the_ledger_are_spread_evenly() {
        let mut state = State::new(7, 1);
        for _ in 0..LEDGER_MAX + 100 {
            state.drop_first(2);
        }
        assert_eq!(state.lines_before(1), 0);
        assert_eq!(state.lines_before(51), 100);
        assert_eq!(state.lines_before(101), 200);
        assert_eq!(state.lines_before(102), 202);
    }
}
