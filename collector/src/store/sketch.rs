//! A mergeable sketch of a distribution: quantiles within 1 % of the value, whatever was merged. Pure.
//!
//! `DDSketch` of Masson, Rim and Lee (PVLDB 12(12), 2019): a value v > 0 is counted in bin
//! k = floor(ln v / ln g) with g = (1 + a) / (1 - a) and a = 0.01, and told as 2 g^(k+1) / (g + 1),
//! which is within a of every value of the bin. Negative values have bins of their own, by their
//! size. Bins are never joined: what scaled integers and means of them can be needs at most 5,129.
//!
//! State: how often each slot was hit. Slots are in the order of values: 0 holds zero, s > 0 bin
//! s - 347 of positive values, -s the same of negative ones.
//!
//! Bytes, part of the format of month files: number of slots hit, then of each one, rising, a varint
//! of 4 x + min(n, 4) - 1, where n is its count and x the zigzag slot of the first, the gap to the
//! last less one of others; from n = 4 on a varint of n - 4 follows.

use std::sync::LazyLock;

use sketches_ddsketch::Config;

use super::columns::{put_varint, take_varint, unzigzag, zigzag};

/// Largest relative error of a quantile.
pub const ERROR: f64 = 0.01;
/// What is nearer to zero counts as zero. The mean of a minute of integers is 0 or beyond it.
const LEAST: f64 = 1e-3;
/// Bin of [`LEAST`].
const BIN_MIN: i32 = -346;
/// Bin of 2^64, more than the size of any `i64`.
const BIN_MAX: i32 = 2217;
const SLOT_MAX: i32 = BIN_MAX - BIN_MIN + 1;

static MAPPING: LazyLock<Config> = LazyLock::new(|| Config::new(ERROR, 2048, LEAST));

/// A distribution of values. The empty one is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    /// Rising, none twice; no count is 0.
    slots: Vec<(i32, u64)>,
}

impl Sketch {
    /// Counts one value: a scaled integer or a mean of some.
    pub fn add(&mut self, value: f64) {
        self.count(slot_of(value), 1);
    }

    /// Counts all values of another one. The error does not grow.
    ///
    /// Nearly always all slots of an hour are among those of what it is added to, and these have few gaps:
    /// then it costs a step a slot.
    pub fn merge(&mut self, other: &Self) {
        if self.slots.is_empty() {
            self.slots.clone_from(&other.slots);
            return;
        }
        let (mut at, mut missing) = (0, Vec::new());
        for (slot, n) in &other.slots {
            match self.find(at, *slot) {
                Ok(ix) => {
                    let count = &mut self.slots[ix].1;
                    *count = count.saturating_add(*n);
                    at = ix;
                }
                Err(ix) => {
                    missing.push((*slot, *n));
                    at = ix.min(self.slots.len() - 1);
                }
            }
        }
        if !missing.is_empty() {
            self.insert(&missing);
        }
    }

    /// Where a slot is, or would be; none before `from` is larger.
    fn find(&self, from: usize, slot: i32) -> Result<usize, usize> {
        let Some((first, _)) = self.slots.get(from) else { return Err(from) };
        let Some(ahead) = slot.checked_sub(*first).and_then(|gap| usize::try_from(gap).ok()) else {
            return Err(from);
        };
        // Slots rise by one at least: it is not further than if there were no gap.
        let furthest = from.saturating_add(ahead).min(self.slots.len() - 1);
        if self.slots[furthest].0 == slot {
            return Ok(furthest);
        }
        let found = self.slots[from..=furthest].binary_search_by_key(&slot, |(slot, _)| *slot);
        found.map(|ix| from + ix).map_err(|ix| from + ix)
    }

    /// Puts rising slots in, none of which is there.
    fn insert(&mut self, missing: &[(i32, u64)]) {
        let mut rest = self.slots.len();
        self.slots.resize(rest + missing.len(), (0, 0));
        let mut end = self.slots.len();
        for (slot, n) in missing.iter().rev() {
            while rest > 0 && self.slots[rest - 1].0 > *slot {
                (rest, end) = (rest - 1, end - 1);
                self.slots[end] = self.slots[rest];
            }
            end -= 1;
            self.slots[end] = (*slot, *n);
        }
    }

    fn count(&mut self, slot: i32, n: u64) {
        match self.slots.binary_search_by_key(&slot, |(slot, _)| *slot) {
            Ok(ix) => self.slots[ix].1 = self.slots[ix].1.saturating_add(n),
            Err(ix) => self.slots.insert(ix, (slot, n)),
        }
    }

    /// How many values it has.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.slots.iter().fold(0, |n, (_, count)| n.saturating_add(*count))
    }

    /// The value below which a share `q` (0..=1) of all lies, within [`ERROR`] of the value of rank
    /// `floor(q (n - 1))`, the smallest having rank 0; `None` of nothing.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = (q.clamp(0.0, 1.0) * self.n().checked_sub(1)? as f64) as u64;
        let mut below = 0_u64;
        let at_rank = |(_, n): &&(i32, u64)| {
            below = below.saturating_add(*n);
            below > rank
        };
        let found = self.slots.iter().find(at_rank).or_else(|| self.slots.last());
        found.map(|(slot, _)| value_of(*slot))
    }

    /// Each value it tells, rising, and how often.
    pub(crate) fn values(&self) -> impl Iterator<Item = (f64, u64)> {
        self.slots.iter().map(|(slot, n)| (value_of(*slot), *n))
    }

    /// How many values are above `limit`. None at or below it counts; those less than twice [`ERROR`] and a
    /// little above it, in its slot, are left out.
    #[must_use]
    pub fn n_above(&self, limit: f64) -> u64 {
        let slot = slot_of(limit);
        let first = self.slots.partition_point(|(known, _)| *known <= slot);
        self.slots[first..].iter().fold(0, |n, (_, count)| n.saturating_add(*count))
    }

    /// Appends its bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        put_varint(to, self.slots.len() as u64);
        let mut last = None;
        for (slot, n) in &self.slots {
            let place = match last.replace(*slot) {
                None => zigzag(i64::from(*slot)),
                Some(last) => u64::from(slot.abs_diff(last) - 1),
            };
            put_varint(to, (place << 2) | (n.min(&4) - 1));
            if *n >= 4 {
                put_varint(to, n - 4);
            }
        }
    }

    /// Takes a sketch off the front of bytes; `None` where there is none.
    pub fn decode(from: &mut &[u8]) -> Option<Self> {
        let mut this = Self::default();
        this.take(from).then_some(this)
    }

    /// Becomes the sketch at the front of bytes, in the memory it has; false where there is none, and then
    /// it is of no use.
    pub(crate) fn take(&mut self, from: &mut &[u8]) -> bool {
        self.slots.clear();
        self.taken(from).is_some()
    }

    fn taken(&mut self, from: &mut &[u8]) -> Option<()> {
        let n_slots = take_varint(from)?;
        let mut last: Option<i64> = None;
        for _ in 0..n_slots {
            let head = take_varint(from)?;
            let place = head >> 2;
            let slot = match last {
                None => unzigzag(place),
                Some(last) => last.checked_add(i64::try_from(place).ok()?)?.checked_add(1)?,
            };
            let n = match head & 3 {
                3 => take_varint(from)?.checked_add(4)?,
                few => few + 1,
            };
            last = Some(slot);
            let slot = i32::try_from(slot).ok().filter(|slot| slot.abs() <= SLOT_MAX)?;
            self.slots.push((slot, n));
        }
        Some(())
    }
}

fn slot_of(value: f64) -> i32 {
    assert!(!value.is_nan(), "integers have a mean");
    let size = value.abs();
    if size < LEAST {
        return 0;
    }
    let slot = MAPPING.key(size).clamp(BIN_MIN, BIN_MAX) - BIN_MIN + 1;
    if value < 0.0 { -slot } else { slot }
}

fn value_of(slot: i32) -> f64 {
    let size = MAPPING.value(slot.abs() - 1 + BIN_MIN);
    match slot.signum() {
        0 => 0.0,
        1 => size,
        _ => -size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        for value in values {
            sketch.add(*value);
        }
        sketch
    }

    /// [`ERROR`], and what floating point adds to it.
    fn is_near(found: f64, exact: f64) -> bool {
        (found - exact).abs() <= ERROR * exact.abs() * (1.0 + 1e-9)
    }

    fn exact(sorted: &[f64], q: f64) -> f64 {
        sorted[(q * (sorted.len() - 1) as f64) as usize]
    }

    #[test]
    fn bins_cover_what_integers_and_their_means_can_be() {
        assert_eq!(MAPPING.key(LEAST), BIN_MIN);
        assert_eq!(MAPPING.key(2.0_f64.powi(64)), BIN_MAX);
        let largest = i64::MIN as f64;
        for value in [1.0 / 60.0, 1.0, -1.0, 0.5, 9e15, largest, -largest] {
            assert!(is_near(value_of(slot_of(value)), value), "{value}");
        }
        assert_eq!(value_of(slot_of(0.0)), 0.0);
        assert_eq!(value_of(slot_of(-0.0)), 0.0);
    }

    #[test]
    fn an_empty_sketch_has_no_quantile_and_takes_a_byte() {
        let mut bytes = Vec::new();
        Sketch::default().encode(&mut bytes);
        assert_eq!((Sketch::default().quantile(0.5), bytes), (None, vec![0]));
    }

    #[test]
    fn an_hour_of_steady_minutes_takes_few_bytes() {
        let size = |sketch: &Sketch| {
            let mut bytes = Vec::new();
            sketch.encode(&mut bytes);
            bytes.len()
        };
        assert_eq!(size(&of(&[5000.0; 60])), 4);
        let noisy: Vec<f64> = (0..60).map(|ix| f64::from(4000 + ix * 7919 % 2000)).collect();
        let size = size(&of(&noisy));
        assert!(size <= 32, "{size}");
    }

    fn values() -> impl Strategy<Value = Vec<f64>> {
        let sample = prop_oneof![
            3 => (0_i64..20_000).prop_map(|value| value as f64),
            1 => any::<i64>().prop_map(|value| value as f64),
            1 => Just(0.0),
            1 => (-3600_i32..3600).prop_map(|sum| f64::from(sum) / 60.0),
        ];
        prop::collection::vec(sample, 1..200)
    }

    proptest! {
        #[test]
        fn every_quantile_is_within_the_error_however_it_was_merged(
            parts in prop::collection::vec(values(), 1..8), q in 0.0_f64..=1.0, turn in any::<usize>(),
        ) {
            let mut merged = Sketch::default();
            for ix in 0..parts.len() {
                let part = of(&parts[(ix + turn % parts.len()) % parts.len()]);
                // Some are merged as pairs first.
                if ix % 2 == 0 {
                    merged.merge(&part);
                } else {
                    let mut pair = part;
                    pair.merge(&merged);
                    merged = pair;
                }
            }
            let mut all: Vec<f64> = parts.concat();
            all.sort_by(f64::total_cmp);
            prop_assert_eq!(merged.n(), all.len() as u64);
            for q in [0.0, 0.5, 0.95, 1.0, q] {
                let (found, exact) = (merged.quantile(q).unwrap(), exact(&all, q));
                prop_assert!(is_near(found, exact), "{} of {}: {} is not {}", q, all.len(), found, exact);
            }
            prop_assert_eq!(merged, of(&all));
        }

        #[test]
        fn every_sketch_comes_back(values in values(), weight in 0_u32..64, rest in any::<[u8; 3]>()) {
            let mut sketch = of(&values);
            sketch.count(slot_of(values[0]), 1 << weight.min(63));
            let mut bytes = Vec::new();
            sketch.encode(&mut bytes);
            bytes.extend(rest);
            let mut from = bytes.as_slice();
            prop_assert_eq!(Sketch::decode(&mut from), Some(sketch));
            prop_assert_eq!(from, &rest);
        }

        #[test]
        fn any_bytes_are_a_sketch_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut from = bytes.as_slice();
            if let Some(mut sketch) = Sketch::decode(&mut from) {
                let (n, mut again) = (sketch.n(), Vec::new());
                sketch.encode(&mut again);
                prop_assert_eq!(Sketch::decode(&mut again.as_slice()), Some(sketch.clone()));
                prop_assert_eq!(sketch.quantile(0.5).is_some(), n > 0);
                sketch.merge(&sketch.clone());
            }
        }
    }
}
