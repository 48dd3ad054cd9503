//! What failing requests have in common, pure: counts by dimension values in, the smallest sets of
//! values that explain the excess failures out, best first.
//!
//! A *leaf* is one combination of values of all dimensions, a *cell* fixes some of them and holds
//! every leaf that has these values; the number it fixes is its *layer*. The score of a cell is the
//! log-likelihood ratio of "all its leaves fail more often by the same shared excess" against "each
//! leaf fails as before" (detection.md 3, general form; the idea of a shared effect is the ripple
//! effect of HotSpot and Squeeze), in nats:
//!
//! ```text
//! p1 = p0 + (1 - p0) * lambda                                   p0: usual rate of the leaf
//! gain(cell) = max over lambda of the sum over its leaves of
//!              n_failed * ln(p1 / p0) + (n - n_failed) * ln((1 - p1) / (1 - p0)), over dispersion
//! score(cell) = gain * 0.94^(layer - 1) - ln(cells in its layer) - 1.2 * (layer - 1)
//! ```
//!
//! Invariant: the answer depends on neither the order of rows nor that of dimensions, and is the
//! exact best cell of all layers: what is not looked at is cut off by a bound (`cube.rs`). Only where
//! that takes more than a fixed number of steps it is the best found by then, and says so.

pub mod csv;
mod cube;
#[cfg(test)]
mod labelled;
mod leaves;
pub mod stored;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use cube::{Cube, Search, Visits};
use leaves::{Leaves, Usual};

/// Most dimensions of one question: 8 have 255 combinations.
pub const DIMENSIONS_MAX: usize = 8;
/// Most different combinations of values that are kept; each takes some 200 bytes.
pub const LEAVES_MAX: usize = 500_000;
/// Largest count of one row that is believed: exact as a floating-point number, sums included.
pub const COUNT_MAX: u64 = 1 << 40;
/// Most answers.
const FOUND_MAX: usize = 10;
/// Most searches; the same answer may be found again.
const ROUNDS_MAX: usize = 15;
/// Lowest score that counts: chance of a chance finding, over all cells of a layer, about 3e-4.
const SCORE_MIN: f64 = 8.0;
/// A further answer must explain so much of all the excess, or of what the first one explains: less
/// than that is how uneven traffic is anyway.
const SHARE_MIN: f64 = 0.1;
const SHARE_OF_FIRST_MIN: f64 = 0.5;
/// And score so much of what the first one does: what is left of a large fault is uneven by more
/// nats than a small one has.
const SCORE_OF_FIRST_MIN: f64 = 0.05;
/// Looks for the cell to leave out, where there is no past to compare with.
const LOOKS_MAX: usize = 3;
/// Most visits of leaves in all searches of a question. 100,000 leaves of 6 dimensions take 45 searches
/// of at most 70 visits a leaf, so that they are always searched to the end.
const VISITS_MAX: u64 = 320_000_000;

/// How the score is weighted; the other set exists to measure this one against.
#[derive(Clone, Copy, Debug)]
struct Weights {
    /// What a cell's gain keeps for each value it fixes beyond the first. Model error grows with
    /// traffic as the gain does, so a condition has to pay in proportion, not in nats.
    kept_by_condition: f64,
    /// Whether the spread of quiet leaves is taken off.
    has_dispersion: bool,
}

impl Weights {
    const TUNED: Self = Self { kept_by_condition: 0.94, has_dispersion: true };
    /// As published.
    #[cfg(test)]
    const PLAIN: Self = Self { kept_by_condition: 1.0, has_dispersion: false };
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// The values all its requests share; empty: everything fails alike.
    #[serde(rename = "where")]
    pub values: BTreeMap<String, String>,
    /// How much better it explains the failures than the past does, in nats.
    pub score: f64,
    /// Its requests.
    pub n: u64,
    /// Those that failed.
    pub n_failed: u64,
    /// Its share of all excess failures, 0 to 1. Shares of several answers add up to at most 1.
    pub explained: f64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The answers, best first.
    pub common: Vec<Common>,
    /// Everything was searched; else these are the best of what was.
    pub complete: bool,
}

/// Why a question cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nothing to tell requests apart by.
    #[error("there is no dimension")]
    NoDimension,
    /// Too many combinations of dimensions.
    #[error("there are {0} dimensions, more than {DIMENSIONS_MAX}")]
    TooManyDimensions(usize),
    /// Two dimensions of one name.
    #[error("there are two dimensions {0:?}")]
    Twice(String),
    /// A dimension like a client's address or a time.
    #[error("there are more than {LEAVES_MAX} different combinations of values")]
    TooManyLeaves,
}

/// Requests of one leaf, in question and before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    n: u64,
    n_failed: u64,
    n_before: u64,
    n_failed_before: u64,
}

/// Counts by dimension values; equal combinations add up.
#[derive(Clone, Debug)]
pub struct Table {
    dimensions: Vec<String>,
    /// Position of each value of a dimension, by order of arrival.
    codes: Vec<HashMap<String, u32>>,
    leaves: BTreeMap<Box<[u32]>, Tally>,
}

impl Table {
    /// A table without rows.
    pub fn new(dimensions: Vec<String>) -> Result<Self, Refusal> {
        match dimensions.len() {
            0 => return Err(Refusal::NoDimension),
            1..=DIMENSIONS_MAX => {}
            n => return Err(Refusal::TooManyDimensions(n)),
        }
        for (i, name) in dimensions.iter().enumerate() {
            if dimensions[..i].contains(name) {
                return Err(Refusal::Twice(name.clone()));
            }
        }
        let codes = vec![HashMap::new(); dimensions.len()];
        Ok(Self { dimensions, codes, leaves: BTreeMap::new() })
    }

    /// Names of the dimensions, in the order of the values of [`Table::add`].
    #[must_use]
    pub fn dimensions(&self) -> &[String] {
        &self.dimensions
    }

    /// Adds `n` requests, of which `n_failed` failed, before the time in question or in it.
    ///
    /// `n_failed` over `n` is cut to it, and both to [`COUNT_MAX`].
    pub fn add(
        &mut self,
        values: &[&str],
        is_before: bool,
        n: u64,
        n_failed: u64,
    ) -> Result<(), Refusal> {
        assert_eq!(values.len(), self.dimensions.len(), "one value a dimension");
        let mut leaf = Vec::with_capacity(values.len());
        for (codes, value) in self.codes.iter_mut().zip(values) {
            let code = match codes.get(*value) {
                Some(code) => *code,
                None if codes.len() >= LEAVES_MAX => return Err(Refusal::TooManyLeaves),
                None => {
                    let code = codes.len() as u32;
                    codes.insert((*value).to_owned(), code);
                    code
                }
            };
            leaf.push(code);
        }
        let leaf = leaf.into_boxed_slice();
        if self.leaves.len() >= LEAVES_MAX && !self.leaves.contains_key(&leaf) {
            return Err(Refusal::TooManyLeaves);
        }
        let tally = self.leaves.entry(leaf).or_default();
        let (all, failed) = if is_before {
            (&mut tally.n_before, &mut tally.n_failed_before)
        } else {
            (&mut tally.n, &mut tally.n_failed)
        };
        *all = (*all + n.min(COUNT_MAX)).min(COUNT_MAX);
        *failed = (*failed + n_failed.min(n)).min(*all);
        Ok(())
    }
}

/// The smallest sets of values that explain the excess failures, best first; at most ten.
///
/// After each answer the excess it explains is taken away, so that part of an answer is listed only
/// when it fails more than twice as much as the rest of it. Ties go to the most general one.
/// Cost: 100,000 leaves of six dimensions within a second. Failures at random of far more leaves leave
/// the bound nothing to cut off: their search ends at [`VISITS_MAX`], at the same place each time.
#[must_use]
pub fn localize(table: &Table) -> Found {
    localize_by(table, Weights::TUNED, VISITS_MAX)
}

fn localize_by(table: &Table, weights: Weights, visits_max: u64) -> Found {
    let mut leaves = Leaves::of(table);
    if leaves.n.is_empty() {
        return Found { common: Vec::new(), complete: true };
    }
    let mut visits = Visits::new(visits_max);
    let cube = Cube::of(&leaves);
    let mut found: Vec<(Common, f64)> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        if found.len() == FOUND_MAX {
            break;
        }
        let search = search(&found, leaves.excess_at_first(), weights);
        let Some((cell, members)) = next(&mut leaves, &cube, &search, &mut visits) else { break };
        let values = leaves.named(&cell.values);
        // An answer that is found again is only more uneven than was taken away.
        if found.iter().all(|(common, _)| common.values != values) {
            let sum = |counts: &[u64]| members.iter().map(|i| counts[*i as usize]).sum();
            let common = Common {
                values,
                score: (cell.score * 100.0).round() / 100.0,
                n: sum(&leaves.n),
                n_failed: sum(&leaves.n_failed),
                explained: 0.0,
            };
            found.push((common, cell.excess));
        }
        if visits.are_spent() {
            break;
        }
        leaves.explain(&members, cell.lambda);
    }
    let total: f64 = found.iter().map(|(_, excess)| excess).sum();
    let total = total.max(leaves.excess_at_first());
    let share = |excess: f64| (excess / total * 1000.0).round() / 1000.0;
    let share_of = |(common, excess)| Common { explained: share(excess).clamp(0.0, 1.0), ..common };
    Found { common: found.into_iter().map(share_of).collect(), complete: !visits.are_spent() }
}

/// What the next answer must reach, after those in `found` with the excess of each.
fn search(found: &[(Common, f64)], total: f64, weights: Weights) -> Search {
    let Some((first, excess)) = found.first() else {
        return Search { weights, score_min: SCORE_MIN, excess_min: 0.0, is_first: true };
    };
    let score_min = SCORE_MIN.max(first.score * SCORE_OF_FIRST_MIN);
    let excess_min = (excess * SHARE_OF_FIRST_MIN).min(total.max(*excess) * SHARE_MIN);
    Search { weights, score_min, excess_min, is_first: false }
}

/// The best cell with its leaves. Without a past the usual rate is that of all other leaves: the
/// cell is looked for, left out of the rate, and looked for again until it stays.
fn next(
    leaves: &mut Leaves,
    cube: &Cube,
    search: &Search,
    visits: &mut Visits,
) -> Option<(cube::Cell, Vec<u32>)> {
    if leaves.usual == Usual::Past {
        let cell = cube.best(leaves, search, visits)?;
        let members = cube.members(&cell);
        return Some((cell, members));
    }
    leaves.take_rate_without(&[]);
    let mut last: Option<(cube::Cell, Vec<u32>)> = None;
    for _ in 0..LOOKS_MAX {
        let Some(cell) = cube.best(leaves, search, visits) else { break };
        let stays = last.as_ref().is_some_and(|(before, _)| before.values == cell.values);
        let members = cube.members(&cell);
        leaves.take_rate_without(&members);
        last = Some((cell, members));
        if stays {
            break;
        }
    }
    last
}
