//! Leaves in an order of their own, with their usual failure rates and what each says about every
//! shared excess.

use std::collections::BTreeMap;

use super::{Table, Tally};

/// Shared excess failure that is tried (detection.md 3).
pub(super) const LAMBDAS: [f64; 9] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9];
/// Log-likelihood ratio at each of [`LAMBDAS`].
pub(super) type Gain = [f64; LAMBDAS.len()];

/// Bounds of a usual rate: nothing is known to fail less, and what always fails says nothing.
const RATE_MIN: f64 = 3e-4;
const RATE_MAX: f64 = 0.95;
/// Requests that what is known of the surroundings of a leaf weighs like.
const PRIOR_N: f64 = 20.0;
/// The rate of a fleet nothing is known of, and the requests it weighs like (detection.md 2).
const FLEET_RATE: f64 = 5e-4;
const FLEET_N: f64 = 200.0;
/// An excess of one cause is up to so many times that of the cell it was found by.
const UNEVEN: f64 = 2.0;
/// Largest division for the spread of quiet leaves, and the fewest leaves it is read from.
const DISPERSION_MAX: f64 = 5.0;
const DISPERSION_LEAVES_MIN: usize = 8;
/// Lower quartile of the chi-square distribution with one degree of freedom.
const CHI_SQUARE_QUARTILE: f64 = 0.101_531;

/// What a leaf is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usual {
    /// Its own rows from before.
    Past,
    /// All others: there are no rows from before.
    Others,
}

/// The leaves with requests in the time in question, sorted by their values; the dimensions by name,
/// those with one value left out: a cell that fixes one of them is the same without it.
#[derive(Debug)]
pub(super) struct Leaves {
    /// Names and sorted values of the dimensions.
    pub(super) dimensions: Vec<(String, Vec<String>)>,
    /// Position of the value of each leaf, a column a dimension.
    pub(super) columns: Vec<Vec<u32>>,
    pub(super) n: Vec<u64>,
    pub(super) n_failed: Vec<u64>,
    /// Usual failure rate of each leaf.
    pub(super) rates: Vec<f64>,
    pub(super) usual: Usual,
    /// Spread of the quiet leaves as a multiple of what chance alone makes; at least 1.
    pub(super) dispersion: f64,
    is_explained: Vec<bool>,
    rates_at_first: Vec<f64>,
}

impl Leaves {
    pub(super) fn of(table: &Table) -> Self {
        let (names, rows) = sorted(table);
        let all: Vec<(Vec<u32>, Tally)> = rows;
        let past = all.iter().map(|(_, tally)| tally.n_before).sum::<u64>();
        let usual = if past > 0 { Usual::Past } else { Usual::Others };
        let rates = if past > 0 { past_rates(&all, &names) } else { vec![FLEET_RATE; all.len()] };
        let is_in = |tally: &Tally| tally.n > 0;
        let now: Vec<(&(Vec<u32>, Tally), f64)> =
            all.iter().zip(rates).filter(|((_, tally), _)| is_in(tally)).collect();
        let dispersion = if past > 0 { dispersion(&now) } else { 1.0 };
        let varies = |d: usize| now.iter().any(|((codes, _), _)| codes[d] != now[0].0.0[d]);
        let kept: Vec<usize> = (0..names.len()).filter(|d| varies(*d)).collect();
        let rates: Vec<f64> = now.iter().map(|(_, rate)| *rate).collect();
        Self {
            dimensions: kept.iter().map(|d| names[*d].clone()).collect(),
            columns: kept
                .iter()
                .map(|d| now.iter().map(|((codes, _), _)| codes[*d]).collect())
                .collect(),
            n: now.iter().map(|((_, tally), _)| tally.n).collect(),
            n_failed: now.iter().map(|((_, tally), _)| tally.n_failed).collect(),
            is_explained: vec![false; now.len()],
            rates_at_first: rates.clone(),
            rates,
            usual,
            dispersion,
        }
    }

    /// Names of a cell's values.
    pub(super) fn named(&self, values: &[(usize, u32)]) -> BTreeMap<String, String> {
        let named = |(d, code): &(usize, u32)| {
            let (name, values) = &self.dimensions[*d];
            (name.clone(), values[*code as usize].clone())
        };
        values.iter().map(named).collect()
    }

    /// What each leaf says for each shared excess, in nats. What is explained speaks against nothing.
    pub(super) fn gains(&self) -> Vec<Gain> {
        (0..self.n.len()).map(|i| self.gain(i)).collect()
    }

    fn gain(&self, i: usize) -> Gain {
        let (failed, rate) = (self.n_failed[i] as f64, self.rates[i]);
        let good = self.n[i] as f64 - failed;
        LAMBDAS.map(|lambda| {
            let raised = rate + (1.0 - rate) * lambda;
            let gain = good * (1.0 - lambda).ln()
                + if failed > 0.0 { failed * (raised / rate).ln() } else { 0.0 };
            if self.is_explained[i] { gain.max(0.0) } else { gain }
        })
    }

    /// Failures of a leaf beyond its usual ones.
    pub(super) fn excess(&self, i: usize) -> f64 {
        let excess = self.n_failed[i] as f64 - self.n[i] as f64 * self.rates[i];
        if self.is_explained[i] { excess.max(0.0) } else { excess }
    }

    /// Failures of all leaves beyond the usual ones, before anything was explained.
    pub(super) fn excess_at_first(&self) -> f64 {
        let failed: u64 = self.n_failed.iter().sum();
        let usual: f64 = self.n.iter().zip(&self.rates_at_first).map(|(n, p)| *n as f64 * p).sum();
        failed as f64 - usual
    }

    /// Takes the excess `lambda` of a cell away: its leaves now fail as usual.
    pub(super) fn explain(&mut self, members: &[u32], lambda: f64) {
        let lambda = (UNEVEN * lambda).min(RATE_MAX);
        for i in members.iter().map(|i| *i as usize) {
            self.rates[i] = (self.rates[i] + (1.0 - self.rates[i]) * lambda).min(RATE_MAX);
            self.is_explained[i] = true;
        }
    }

    /// Without a past: the usual rate is that of the leaves that are neither explained nor in `cell`.
    pub(super) fn take_rate_without(&mut self, cell: &[u32]) {
        let mut is_out = self.is_explained.clone();
        for i in cell {
            is_out[*i as usize] = true;
        }
        let others = |counts: &[u64]| -> u64 {
            counts.iter().zip(&is_out).filter(|(_, out)| !**out).map(|(n, _)| n).sum()
        };
        let rate = fleet_rate(others(&self.n), others(&self.n_failed));
        for i in 0..self.rates.len() {
            if !self.is_explained[i] {
                self.rates[i] = rate;
                self.rates_at_first[i] = rate;
            }
        }
    }
}

type Named = Vec<(String, Vec<String>)>;

/// The table with dimensions sorted by name, values by text and rows by both.
fn sorted(table: &Table) -> (Named, Vec<(Vec<u32>, Tally)>) {
    let mut order: Vec<usize> = (0..table.dimensions.len()).collect();
    order.sort_by_key(|d| &table.dimensions[*d]);
    let mut names = Vec::new();
    let mut ranks = Vec::new();
    for d in &order {
        let mut values: Vec<(&String, u32)> =
            table.codes[*d].iter().map(|(value, code)| (value, *code)).collect();
        values.sort();
        let mut rank = vec![0; values.len()];
        for (position, (_, code)) in values.iter().enumerate() {
            rank[*code as usize] = position as u32;
        }
        ranks.push(rank);
        let values = values.into_iter().map(|(value, _)| value.clone()).collect();
        names.push((table.dimensions[*d].clone(), values));
    }
    let ranked = |leaf: &[u32]| -> Vec<u32> {
        order.iter().zip(&ranks).map(|(d, rank)| rank[leaf[*d] as usize]).collect()
    };
    let mut rows: Vec<(Vec<u32>, Tally)> =
        table.leaves.iter().map(|(leaf, tally)| (ranked(leaf), *tally)).collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    (names, rows)
}

fn fleet_rate(n: u64, n_failed: u64) -> f64 {
    let rate = (n_failed as f64 + FLEET_RATE * FLEET_N) / (n as f64 + FLEET_N);
    rate.clamp(RATE_MIN, RATE_MAX)
}

/// Rate of each leaf before: its own, and where it had little traffic that of its surroundings, the
/// geometric mean of the rates of its values, which in turn lean on the rate of all.
fn past_rates(all: &[(Vec<u32>, Tally)], names: &[(String, Vec<String>)]) -> Vec<f64> {
    let sum = |count: fn(&Tally) -> u64| all.iter().map(|(_, tally)| count(tally)).sum();
    let whole = fleet_rate(sum(|tally| tally.n_before), sum(|tally| tally.n_failed_before));
    let smoothed = |n: u64, n_failed: u64, prior: f64| {
        (n_failed as f64 + PRIOR_N * prior) / (n as f64 + PRIOR_N)
    };
    let logs: Vec<Vec<f64>> = names
        .iter()
        .enumerate()
        .map(|(d, (_, values))| {
            let mut sums = vec![(0, 0); values.len()];
            for (codes, tally) in all {
                let sum = &mut sums[codes[d] as usize];
                *sum = (sum.0 + tally.n_before, sum.1 + tally.n_failed_before);
            }
            sums.into_iter().map(|(n, n_failed)| smoothed(n, n_failed, whole).ln()).collect()
        })
        .collect();
    let of_leaf = |(codes, tally): &(Vec<u32>, Tally)| {
        let sum: f64 = codes.iter().zip(&logs).map(|(code, logs)| logs[*code as usize]).sum();
        let around = (sum / names.len() as f64).exp();
        smoothed(tally.n_before, tally.n_failed_before, around).clamp(RATE_MIN, RATE_MAX)
    };
    all.iter().map(of_leaf).collect()
}

/// How much more than by chance the quieter leaves differ from their past: the lower quartile of
/// their squared deviations, so that a fault of three quarters of the leaves does not hide itself.
fn dispersion(now: &[(&(Vec<u32>, Tally), f64)]) -> f64 {
    let mut squares: Vec<f64> = now
        .iter()
        .filter(|((_, tally), rate)| tally.n as f64 * rate >= 1.0)
        .map(|((_, tally), rate)| {
            let n = tally.n as f64;
            let deviation = tally.n_failed as f64 - n * rate;
            let spread = 1.0 + n / (tally.n_before as f64 + PRIOR_N);
            deviation * deviation / (n * rate * (1.0 - rate) * spread)
        })
        .collect();
    if squares.len() < DISPERSION_LEAVES_MIN {
        return 1.0;
    }
    let quartile = squares.len() / 4;
    let (_, square, _) = squares.select_nth_unstable_by(quartile, f64::total_cmp);
    (*square / CHI_SQUARE_QUARTILE).clamp(1.0, DISPERSION_MAX)
}
