//! Labelled faults, made by rules that know nothing of the formula, shaped like the counts of a CDN:
//! few dimensions of very different sizes, heavy-tailed traffic, most combinations absent, usual
//! rates that differ by website and ISP and wander from minute to minute, single leaves that flare
//! up by themselves, and one to three causes of one to three values whose strength is uneven.
//!
//! The answers are compared as exact sets of sets of values over all cases together (micro F1), for
//! our formula, for the same one as published (one answer, no weight on conditions), and for a reference of our own writing after
//! Adtributor (Bhagwan et al., NSDI 2014), which names values of one dimension only.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Name and number of values of each dimension.
const DIMENSIONS: [(&str, usize); 5] =
    [("isp", 6), ("location", 14), ("website", 10), ("client", 5), ("protocol", 3)];
const N_CASES: u64 = 32;

type Where = BTreeMap<String, String>;
type Codes = [usize; DIMENSIONS.len()];

/// A generator of known numbers (SplitMix64), so that each case is the same on every machine.
struct Chance(u64);

impl Chance {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// Normal, by the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// How many of `n` happen with chance `p`.
    fn binomial(&mut self, n: u64, p: f64) -> u64 {
        let mean = n as f64 * p;
        if n <= 200 {
            return (0..n).filter(|_| self.unit() < p).count() as u64;
        }
        let drawn = mean + self.normal() * (mean * (1.0 - p)).sqrt();
        drawn.round().clamp(0.0, n as f64) as u64
    }
}

struct Leaf {
    codes: Codes,
    n: u64,
    n_before: u64,
    rate: f64,
}

/// A case: the counts, and what is to be found.
fn case(seed: u64) -> (Table, BTreeSet<Where>) {
    let mut chance = Chance(seed);
    let leaves = traffic(&mut chance);
    let causes = causes(&mut chance, &leaves);
    let names = DIMENSIONS.map(|(name, _)| name.to_owned()).to_vec();
    let mut table = Table::new(names).unwrap();
    for leaf in &leaves {
        let values: Vec<String> = leaf.codes.iter().map(|code| format!("{code}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let wander = |chance: &mut Chance| (leaf.rate * (chance.normal() * 0.35).exp()).min(0.5);
        let before = wander(&mut chance);
        let n_failed = chance.binomial(leaf.n_before, before);
        table.add(&values, true, leaf.n_before, n_failed).unwrap();
        let mut rate = wander(&mut chance);
        if chance.unit() < 0.01 {
            rate = (rate * chance.between(2.0, 8.0)).min(0.5); // it flares up by itself
        }
        for (cause, strength) in &causes {
            if holds(cause, &leaf.codes) {
                let strength = (strength * chance.between(0.6, 1.4)).min(0.98);
                rate += (1.0 - rate) * strength;
            }
        }
        let n_failed = chance.binomial(leaf.n, rate);
        table.add(&values, false, leaf.n, n_failed).unwrap();
    }
    (table, causes.iter().map(|(cause, _)| named(cause)).collect())
}

fn traffic(chance: &mut Chance) -> Vec<Leaf> {
    let weights = DIMENSIONS
        .map(|(_, n)| (0..n).map(|_| (chance.normal() * 0.9).exp()).collect::<Vec<f64>>());
    let base = DIMENSIONS
        .map(|(_, n)| (0..n).map(|_| (chance.normal() * 0.4).exp()).collect::<Vec<f64>>());
    let n_all: usize = DIMENSIONS.iter().map(|(_, n)| n).product();
    let mut leaves = Vec::new();
    for mut at in 0..n_all {
        let codes: Codes = std::array::from_fn(|d| {
            let code = at % DIMENSIONS[d].1;
            at /= DIMENSIONS[d].1;
            code
        });
        if chance.unit() < 0.8 {
            continue;
        }
        let weight: f64 = codes.iter().zip(&weights).map(|(code, w)| w[*code]).product();
        let n = (40.0 * weight * (chance.normal() * 0.7).exp()).round() as u64;
        let rate = 0.004 * base[0][codes[0]] * base[2][codes[2]];
        let n_before = (n as f64 * 3.0 * chance.between(0.8, 1.2)).round() as u64;
        leaves.push(Leaf { codes, n, n_before, rate });
    }
    leaves
}

/// Causes that can be seen: over fifty excess failures each, at least a quarter of the largest one,
/// and none within or across another.
fn causes(chance: &mut Chance, leaves: &[Leaf]) -> Vec<(Vec<(usize, usize)>, f64)> {
    let n_wanted = [1, 1, 1, 1, 1, 2, 2, 3][chance.below(8)];
    let mut causes: Vec<(Vec<(usize, usize)>, f64)> = Vec::new();
    let mut largest: f64 = 0.0;
    for _ in 0..2000 {
        if causes.len() == n_wanted {
            break;
        }
        let n_values = [1, 1, 1, 2, 2, 3][chance.below(6)];
        let mut dims: BTreeSet<usize> = BTreeSet::new();
        while dims.len() < n_values {
            dims.insert(chance.below(DIMENSIONS.len()));
        }
        let cause: Vec<(usize, usize)> =
            dims.into_iter().map(|d| (d, chance.below(DIMENSIONS[d].1))).collect();
        let strength = chance.between(0.08, 0.9);
        let of = |cause: &[(usize, usize)]| -> f64 {
            leaves.iter().filter(|leaf| holds(cause, &leaf.codes)).map(|leaf| leaf.n as f64).sum()
        };
        let all: f64 = leaves.iter().map(|leaf| leaf.n as f64).sum();
        let excess = of(&cause) * strength;
        // Of a part, so that leaving a value out changes something: nobody could tell otherwise.
        let is_least = (0..cause.len()).all(|at| {
            let mut wider = cause.clone();
            wider.remove(at);
            wider.is_empty() || of(&wider) > 1.3 * of(&cause)
        });
        let is_apart = causes.iter().all(|(other, _)| {
            let both: Vec<(usize, usize)> = cause.iter().chain(other).copied().collect();
            of(&both) < 0.2 * of(&cause).min(of(other))
        });
        let is_seen = excess > 50.0 && excess > largest / 4.0 && of(&cause) < 0.5 * all;
        if is_least && is_apart && is_seen {
            largest = largest.max(excess);
            causes.push((cause, strength));
        }
    }
    causes
}

fn holds(cause: &[(usize, usize)], codes: &Codes) -> bool {
    cause.iter().all(|(d, code)| codes[*d] == *code)
}

fn named(cause: &[(usize, usize)]) -> Where {
    cause.iter().map(|(d, code)| (DIMENSIONS[*d].0.to_owned(), format!("{code}"))).collect()
}

/// After Adtributor: of each dimension the values with the most surprising share of failures, until
/// they explain two thirds of the excess; the most surprising dimension is the answer.
fn adtributor(table: &Table) -> BTreeSet<Where> {
    let (mut failed, mut usual) = (0.0, 0.0);
    let mut by: Vec<BTreeMap<u32, (f64, f64)>> = vec![BTreeMap::new(); table.dimensions.len()];
    for (leaf, tally) in &table.leaves {
        let before =
            tally.n_failed_before as f64 * tally.n as f64 / (tally.n_before as f64).max(1.0);
        failed += tally.n_failed as f64;
        usual += before;
        for (sums, code) in by.iter_mut().zip(leaf) {
            let sum = sums.entry(*code).or_default();
            *sum = (sum.0 + tally.n_failed as f64, sum.1 + before);
        }
    }
    let part = |p: f64, q: f64| if p > 0.0 { 0.5 * p * (2.0 * p / (p + q)).ln() } else { 0.0 };
    let mut best = (f64::MIN, BTreeSet::new());
    for (d, sums) in by.iter().enumerate() {
        let mut values: Vec<(f64, f64, u32)> = sums
            .iter()
            .map(|(code, (now, before))| {
                let (q, p) = (now / failed.max(1.0), before / usual.max(1.0));
                (part(p, q) + part(q, p), (now - before) / (failed - usual), *code)
            })
            .filter(|(_, power, _)| *power > 0.1)
            .collect();
        values.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.cmp(&b.2)));
        let (mut surprise, mut explained, mut chosen) = (0.0, 0.0, BTreeSet::new());
        for (s, power, code) in values {
            surprise += s;
            explained += power;
            let value = table.codes[d].iter().find(|(_, c)| **c == code).expect("of this table").0;
            chosen.insert(Where::from([(table.dimensions[d].clone(), value.clone())]));
            if explained > 0.67 {
                break;
            }
        }
        if explained > 0.67 && surprise > best.0 {
            best = (surprise, chosen);
        }
    }
    best.1
}

/// Micro F1 over all cases.
fn f1(answer: impl Fn(&Table) -> BTreeSet<Where>) -> f64 {
    let (mut n_right, mut n_said, mut n_true) = (0, 0, 0);
    for seed in 0..N_CASES {
        let (table, truth) = case(seed);
        let said = answer(&table);
        n_right += said.intersection(&truth).count();
        n_said += said.len();
        n_true += truth.len();
    }
    2.0 * n_right as f64 / (n_said + n_true) as f64
}

fn values(found: Vec<Common>) -> BTreeSet<Where> {
    found.into_iter().map(|common| common.values).collect()
}

#[test]
fn labelled_faults_are_named_better_than_by_the_formula_as_published_and_by_adtributor() {
    let plain = |table: &Table| localize_by(table, Weights::PLAIN, VISITS_MAX).common;
    let ours = f1(|table| values(localize(table).common));
    let once = f1(|table| values(plain(table).into_iter().take(1).collect()));
    let repeated = f1(|table| values(plain(table)));
    let adtributor = f1(adtributor);
    let told = format!(
        "micro F1 over {N_CASES} labelled cases: ours {ours:.3}, the formula as published \
         {once:.3} (repeated as ours is {repeated:.3}), after Adtributor {adtributor:.3}"
    );
    // Shown with `--nocapture`.
    std::io::Write::write_all(&mut std::io::stderr().lock(), format!("{told}\n").as_bytes())
        .unwrap();
    assert!(ours >= 0.85, "{told}");
    assert!(ours > once && ours > adtributor, "{told}");
}
