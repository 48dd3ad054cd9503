//! The search over all cells of all layers: depth first, a leaf list split by one dimension after
//! the other, so that each cell is built once, from the leaves of a cell that holds it.
//!
//! The bound: a cell within a cell has some of its leaves, so at no `lambda` its gain is over the
//! sum of their positive gains, nor its excess over the sum of their positive excesses; and its
//! penalty is at least the smallest of the layers below. Where neither reaches what is needed (the
//! best score so far, the least excess), no cell within can, and none is looked at. A cell that
//! splits nothing off has the leaves of a more general one, which scores more. So the best cell is
//! the best of all, whatever the order of the search.

use super::Weights;
use super::leaves::{Gain, LAMBDAS, Leaves, Usual};

/// Share of the requests that must fail for "everything fails".
const EVERYWHERE_SHARE_MIN: f64 = 0.8;
/// Failures that the excess of all would mean for a leaf, so that having none says something.
const EVERYWHERE_FAILED_MIN: f64 = 3.0;

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    pub(super) weights: Weights,
    /// Lowest score.
    pub(super) score_min: f64,
    /// Fewest excess failures.
    pub(super) excess_min: f64,
    /// Whether "everything" may be the answer: only as long as nothing else is.
    pub(super) is_first: bool,
}

/// How many visits of leaves are left, over several searches.
#[derive(Debug)]
pub(super) struct Visits {
    left: u64,
    are_spent: bool,
}

impl Visits {
    pub(super) fn new(max: u64) -> Self {
        Self { left: max, are_spent: false }
    }

    /// Takes `n`; false when there are not so many, and from then on.
    fn take(&mut self, n: usize) -> bool {
        match self.left.checked_sub(n as u64).filter(|_| !self.are_spent) {
            Some(left) => self.left = left,
            None => self.are_spent = true,
        }
        !self.are_spent
    }

    /// Whether a search was not carried to its end.
    pub(super) fn are_spent(&self) -> bool {
        self.are_spent
    }
}

/// A cell that scores.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    /// Dimension and value, by dimension.
    pub(super) values: Vec<(usize, u32)>,
    pub(super) score: f64,
    /// Shared excess failure that fits best.
    pub(super) lambda: f64,
    /// Failures beyond the usual ones.
    pub(super) excess: f64,
}

/// The shape of the leaves; the counts are looked at in each search anew.
#[derive(Debug)]
pub(super) struct Cube {
    columns: Vec<Vec<u32>>,
    n_values: Vec<usize>,
    n_leaves: usize,
    /// Penalty of a layer: the logarithm of its cells and 1.2 nats for each further value.
    penalties: Vec<f64>,
    /// Smallest penalty of all layers below this one.
    penalties_below: Vec<f64>,
    /// Dimensions in the order of the search: with many values first, for small lists soon.
    order: Vec<usize>,
}

impl Cube {
    pub(super) fn of(leaves: &Leaves) -> Self {
        let n_values: Vec<usize> = leaves.dimensions.iter().map(|(_, v)| v.len()).collect();
        let n_leaves = leaves.n.len();
        let penalties = penalties(&n_values, n_leaves);
        let below = |layer: usize| penalties[layer + 1..].iter().copied().fold(f64::MAX, f64::min);
        let penalties_below = (0..penalties.len()).map(below).collect();
        let mut order: Vec<usize> = (0..n_values.len()).collect();
        order.sort_by_key(|d| std::cmp::Reverse(n_values[*d]));
        let columns = leaves.columns.clone();
        Self { columns, n_values, n_leaves, penalties, penalties_below, order }
    }

    #[cfg(test)]
    pub(super) fn penalty(&self, layer: usize) -> f64 {
        self.penalties[layer]
    }

    /// The leaves of a cell.
    pub(super) fn members(&self, cell: &Cell) -> Vec<u32> {
        let holds = |i: &u32| cell.values.iter().all(|(d, v)| self.columns[*d][*i as usize] == *v);
        (0..self.n_leaves as u32).filter(holds).collect()
    }

    /// The best cell that reaches what `search` asks for; of those seen when `visits` are spent.
    pub(super) fn best(
        &self,
        leaves: &Leaves,
        search: &Search,
        visits: &mut Visits,
    ) -> Option<Cell> {
        if !visits.take(self.n_leaves) {
            return None;
        }
        let mut gains = leaves.gains();
        if search.weights.has_dispersion && leaves.dispersion > 1.0 {
            for gain in gains.iter_mut().flatten() {
                *gain /= leaves.dispersion;
            }
        }
        let excesses = (0..self.n_leaves).map(|i| leaves.excess(i)).collect();
        let mut walk = Walk {
            cube: self,
            search,
            visits,
            gains,
            excesses,
            best: None,
            fixed: Vec::new(),
            buckets: vec![Vec::new(); self.order.len() + 1],
        };
        let all: Vec<u32> = (0..self.n_leaves as u32).collect();
        let sums = walk.sums(&all);
        if search.is_first && leaves.usual == Usual::Past && walk.is_everywhere(&sums, &leaves.n) {
            walk.judge(&sums);
        }
        if walk.is_worth(&sums, 0) {
            // The first layer alone, for a good bound soon.
            for position in 0..self.order.len() {
                walk.split(&all, position, false);
            }
            for position in 0..self.order.len() {
                walk.split(&all, position, true);
            }
        }
        walk.best
    }
}

/// Penalty by layer, 0 for the whole. The cells of a layer are those it could have: for each of its
/// sets of dimensions the product of their values, but no more than there are leaves.
fn penalties(n_values: &[usize], n_leaves: usize) -> Vec<f64> {
    let mut cells = vec![0.0; n_values.len() + 1];
    for set in 1_u32..1 << n_values.len() {
        let is_in = |d: &usize| set >> *d & 1 == 1;
        let product: f64 = (0..n_values.len()).filter(is_in).map(|d| n_values[d] as f64).product();
        cells[set.count_ones() as usize] += product.min(n_leaves as f64);
    }
    let of_layer = |(layer, cells): (usize, &f64)| match layer {
        0 => 0.0,
        _ => cells.ln() + 1.2 * (layer - 1) as f64,
    };
    cells.iter().enumerate().map(of_layer).collect()
}

/// What a list of leaves adds up to.
struct Sums {
    gain: Gain,
    /// Of positive gains only.
    gain_max: Gain,
    excess: f64,
    excess_max: f64,
}

struct Walk<'a> {
    cube: &'a Cube,
    search: &'a Search,
    visits: &'a mut Visits,
    gains: Vec<Gain>,
    excesses: Vec<f64>,
    best: Option<Cell>,
    fixed: Vec<(usize, u32)>,
    /// Room for the split of each depth.
    buckets: Vec<Vec<u32>>,
}

impl Walk<'_> {
    /// Whether most requests are of leaves that fail by the excess of all: two causes together fit
    /// "everything" better than each alone fits, and still most of it is well. Leaves with few
    /// requests cannot tell.
    fn is_everywhere(&self, sums: &Sums, n: &[u64]) -> bool {
        let (at, _) = most(&sums.gain);
        let tells = |n: u64| n as f64 * LAMBDAS[at] >= EVERYWHERE_FAILED_MIN;
        let (mut all, mut failing) = (0, 0);
        for (n, gain) in n.iter().zip(&self.gains).filter(|(n, _)| tells(**n)) {
            all += n;
            failing += if gain[at] > 0.0 { *n } else { 0 };
        }
        failing as f64 >= EVERYWHERE_SHARE_MIN * all as f64
    }

    /// Splits `list` by the dimension at `position` of the order, judges each part, and goes on
    /// within it by the dimensions after that one.
    fn split(&mut self, list: &[u32], position: usize, goes_on: bool) {
        if !self.visits.take(list.len()) {
            return;
        }
        let d = self.cube.order[position];
        let depth = self.fixed.len();
        let mut parts = std::mem::take(&mut self.buckets[depth]);
        let ends = self.part(list, d, &mut parts);
        let mut start = 0;
        for (value, end) in ends {
            let part = &parts[start..end];
            start = end;
            let sums = self.sums(part);
            self.fixed.push((d, value));
            self.judge(&sums);
            let splits = part.len() > 1 && part.len() < list.len();
            if goes_on && splits && self.is_worth(&sums, depth + 1) {
                for next in position + 1..self.cube.order.len() {
                    self.split(part, next, true);
                }
            }
            self.fixed.pop();
        }
        self.buckets[depth] = parts;
    }

    /// Orders `list` by the values of dimension `d`, else as it was, into `parts`; each value with
    /// the end of its part.
    fn part(&self, list: &[u32], d: usize, parts: &mut Vec<u32>) -> Vec<(u32, usize)> {
        let column = &self.cube.columns[d];
        let n_values = self.cube.n_values[d];
        parts.clear();
        if list.len() < n_values {
            parts.extend_from_slice(list);
            parts.sort_by_key(|i| column[*i as usize]); // stable
        } else {
            let mut places = vec![0_usize; n_values + 1];
            for i in list {
                places[column[*i as usize] as usize + 1] += 1;
            }
            for value in 0..n_values {
                places[value + 1] += places[value];
            }
            parts.resize(list.len(), 0);
            for i in list {
                let place = &mut places[column[*i as usize] as usize];
                parts[*place] = *i;
                *place += 1;
            }
        }
        let mut ends: Vec<(u32, usize)> = Vec::new();
        for (at, i) in parts.iter().enumerate() {
            let value = column[*i as usize];
            match ends.last_mut() {
                Some((last, end)) if *last == value => *end = at + 1,
                _ => ends.push((value, at + 1)),
            }
        }
        ends
    }

    /// Sums in the order of the list, which is that of the leaves in every cell: equal lists have
    /// equal sums, to the last bit.
    fn sums(&self, list: &[u32]) -> Sums {
        let zero = [0.0; LAMBDAS.len()];
        let mut sums = Sums { gain: zero, gain_max: zero, excess: 0.0, excess_max: 0.0 };
        for i in list {
            let gain = &self.gains[*i as usize];
            for ((sum, most), gain) in sums.gain.iter_mut().zip(&mut sums.gain_max).zip(gain) {
                *sum += gain;
                *most += gain.max(0.0);
            }
            let excess = self.excesses[*i as usize];
            sums.excess += excess;
            sums.excess_max += excess.max(0.0);
        }
        sums
    }

    /// Keeps the cell of `self.fixed` if it is the best so far.
    fn judge(&mut self, sums: &Sums) {
        let layer = self.fixed.len();
        let (at, gain) = most(&sums.gain);
        let score = self.score(gain, layer, self.cube.penalties[layer]);
        if score < self.search.score_min
            || sums.excess <= 0.0
            || sums.excess < self.search.excess_min
        {
            return;
        }
        let mut values = self.fixed.clone();
        values.sort_unstable();
        let cell = Cell { values, score, lambda: LAMBDAS[at], excess: sums.excess };
        if self.best.as_ref().is_none_or(|best| self.rank(&cell) < self.rank(best)) {
            self.best = Some(cell);
        }
    }

    /// Smaller is better: score, then the more general cell, then that of dimensions with fewer
    /// values, then by name.
    fn rank<'c>(&self, cell: &'c Cell) -> (i64, usize, usize, &'c [(usize, u32)]) {
        let n_values = cell.values.iter().map(|(d, _)| self.cube.n_values[*d]).sum();
        (-whole(cell.score), cell.values.len(), n_values, &cell.values)
    }

    fn score(&self, gain: f64, layer: usize, penalty: f64) -> f64 {
        let n_further = layer.saturating_sub(1) as i32;
        gain * self.search.weights.kept_by_condition.powi(n_further) - penalty
    }

    /// Whether a cell within one of this layer and these sums could be better than the best so far.
    fn is_worth(&self, sums: &Sums, layer: usize) -> bool {
        if layer >= self.cube.order.len() {
            return false;
        }
        let (_, gain) = most(&sums.gain_max);
        let score = self.score(gain, layer + 1, self.cube.penalties_below[layer]);
        let needed = self.best.as_ref().map_or(self.search.score_min, |best| best.score);
        // A nat in a billion of slack: sums of other subsets are rounded otherwise.
        whole(score) + 1 >= whole(needed)
            && sums.excess_max + 1e-9 >= self.search.excess_min
            && sums.excess_max > 0.0
    }
}

/// A score in billionths of a nat, so that what is equal but for rounding is equal.
fn whole(score: f64) -> i64 {
    (score * 1e9).round() as i64
}

fn most(gain: &Gain) -> (usize, f64) {
    let mut best = (0, gain[0]);
    for (at, gain) in gain.iter().enumerate().skip(1) {
        if *gain > best.1 {
            best = (at, *gain);
        }
    }
    best
}
