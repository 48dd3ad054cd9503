//! Counts of plain requests on their way into the windows: a few (second, site) cells, no allocation.
//!
//! The lines of a chunk mostly fall into few seconds and sites. Each cell gathers one of these; one
//! that is in the way is spilled into the windows, and all of them at the end of the chunk.

use crate::window::clients::Clients;
use crate::window::{Loss, Windows};

/// Number of cells: as many as a word has bits.
const CELLS: usize = u64::BITS as usize;
/// Different statuses a cell holds.
const STATUSES: usize = 6;

#[derive(Clone, Copy, Default)]
struct Cell {
    second: i64,
    site: u32,
    n_used: u32,
    counts: [(u16, u32); STATUSES],
}

/// See the module.
pub(super) struct Cells {
    all: [Cell; CELLS],
    /// Bit n: cell n holds something.
    used: u64,
    n_other: u64,
    /// Which of the requests are looked at more closely.
    pub(super) clients: Clients,
}

impl Default for Cells {
    fn default() -> Self {
        let seed = (crate::random_unit() * u64::MAX as f64) as u64;
        Self { all: [Cell::default(); CELLS], used: 0, n_other: 0, clients: Clients::new(seed) }
    }
}

impl Cells {
    /// Counts one request.
    #[inline]
    pub(super) fn count(
        &mut self,
        second: i64,
        site: u32,
        status: u16,
        is_other: bool,
        windows: &mut Windows,
    ) {
        self.n_other += u64::from(is_other);
        let slot = (site as usize).wrapping_mul(31).wrapping_add(second as usize) & (CELLS - 1);
        self.used |= 1 << slot;
        let cell = &mut self.all[slot];
        if cell.second != second || cell.site != site {
            cell.spill(windows);
            (cell.second, cell.site) = (second, site);
        }
        let used = &mut cell.counts[..cell.n_used as usize];
        if let Some((_, n)) = used.iter_mut().find(|(known, _)| *known == status) {
            *n += 1;
            return;
        }
        if used.len() == STATUSES {
            cell.spill(windows);
        }
        cell.counts[cell.n_used as usize] = (status, 1);
        cell.n_used += 1;
    }

    /// Hands everything over.
    pub(super) fn spill(&mut self, windows: &mut Windows) {
        while self.used != 0 {
            self.all[self.used.trailing_zeros() as usize].spill(windows);
            self.used &= self.used - 1;
        }
        let n_lines_other = std::mem::take(&mut self.n_other);
        if n_lines_other > 0 {
            windows.lose(&Loss { n_lines_other, ..Loss::default() });
        }
    }
}

impl Cell {
    fn spill(&mut self, windows: &mut Windows) {
        for (status, n) in &self.counts[..self.n_used as usize] {
            windows.count(self.second, self.site, *status, *n);
        }
        self.n_used = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn cells_count_what_a_map_counts() {
        let (mut cells, mut windows) = (Cells::default(), Windows::default());
        let mut model: BTreeMap<(i64, u32), BTreeMap<u32, u32>> = BTreeMap::new();
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = |shift: u32, n: u64| (seed >> shift) % n;
            let (second, site) = (random(33, 40) as i64 - 3, random(40, 90) as u32);
            let status = 200 + random(50, 9) as u16;
            cells.count(second, site, status, site == 3, &mut windows);
            *model.entry((second, site)).or_default().entry(status.into()).or_default() += 1;
        }
        cells.spill(&mut windows);
        let closed = windows.close();
        let n_other: u32 =
            model.iter().filter(|((_, s), _)| *s == 3).flat_map(|(_, m)| m.values()).sum();
        let counted = closed.counts.into_iter().map(|(k, v)| (k, v.into_iter().collect()));
        assert_eq!(counted.collect::<BTreeMap<_, BTreeMap<_, _>>>(), model);
        assert_eq!(closed.loss.n_lines_other, u64::from(n_other));
        cells.spill(&mut windows);
        assert!(windows.is_empty(), "everything was handed over once");
    }
}
