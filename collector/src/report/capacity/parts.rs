//! Minutes of a series, by the size of what is used of: a server that was made larger stays right. Pure.

use std::borrow::Cow;

use crate::store::history::Spread;

/// Sizes told apart; of what changes more often the last ones are put together.
const SIZES_MAX: usize = 16;

/// Minutes by size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts(Vec<(f64, Spread)>);

impl Parts {
    /// Adds minutes in which what is used of had this size.
    pub fn add(&mut self, size: f64, spread: &Spread) {
        let is_full = self.0.len() >= SIZES_MAX;
        let known = self.0.iter_mut().rev().find(|(of, _)| *of == size || is_full);
        match known {
            Some((_, known)) => known.merge(spread),
            None => self.0.push((size, spread.clone())),
        }
    }

    /// Sizes that are told apart.
    #[must_use]
    pub fn n(&self) -> usize {
        self.0.len()
    }

    /// The values as they are.
    #[must_use]
    pub fn plain(&self) -> View<'_> {
        View::of(self.0.iter().map(|(_, spread)| (1.0, spread)))
    }

    /// The values times `factor`.
    #[must_use]
    pub fn times(&self, factor: f64) -> View<'_> {
        View::of(self.0.iter().map(move |(_, spread)| (factor, spread)))
    }

    /// The values as shares of the size; what has none is left out.
    #[must_use]
    pub fn shares(&self) -> View<'_> {
        let known = self.0.iter().filter(|(size, _)| *size > 0.0);
        View::of(known.map(|(size, spread)| (1.0 / size, spread)))
    }

    /// Shares as values: times the size; what has none is left out.
    #[must_use]
    pub fn amounts(&self) -> View<'_> {
        let known = self.0.iter().filter(|(size, _)| *size > 0.0);
        View::of(known.map(|(size, spread)| (*size, spread)))
    }
}

/// Minutes of one or several spreads, each times a factor above 0.
#[derive(Clone, Debug, Default)]
pub struct View<'a>(Vec<(f64, Cow<'a, Spread>)>);

impl<'a> View<'a> {
    fn of(parts: impl Iterator<Item = (f64, &'a Spread)>) -> Self {
        let mut this = Self::default();
        parts.for_each(|(factor, spread)| this.put(factor, Cow::Borrowed(spread)));
        this
    }

    fn put(&mut self, factor: f64, spread: Cow<'a, Spread>) {
        if !factor.is_finite() || factor <= 0.0 || spread.n_minutes() == 0 {
            return;
        }
        match self.0.iter_mut().find(|(of, _)| *of == factor) {
            Some((_, known)) => known.to_mut().merge(&spread),
            None => self.0.push((factor, spread)),
        }
    }

    /// Adds the minutes of another one.
    pub fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|(factor, spread)| self.put(factor, spread));
    }

    /// How many minutes.
    #[must_use]
    pub fn n_minutes(&self) -> u64 {
        self.0.iter().map(|(_, spread)| spread.n_minutes()).sum()
    }

    /// The value below which a share `q` of the minutes lies, within 1 % of it.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if let [(factor, spread)] = self.0.as_slice() {
            return spread.quantile(q).map(|value| value * factor);
        }
        let own = |(factor, spread): &(f64, Cow<'a, Spread>)| -> Vec<(f64, u64)> {
            spread.minutes().map(|(value, n)| (value * factor, n)).collect()
        };
        let mut values: Vec<(f64, u64)> = self.0.iter().flat_map(own).collect();
        values.sort_by(|one, other| one.0.total_cmp(&other.0));
        let rank = (q.clamp(0.0, 1.0) * self.n_minutes().checked_sub(1)? as f64) as u64;
        let mut below = 0_u64;
        let at_rank = |(_, n): &&(f64, u64)| {
            below = below.saturating_add(*n);
            below > rank
        };
        let found = values.iter().find(at_rank).or(values.last())?;
        Some(found.0.max(self.min()?).min(self.max()?))
    }

    /// The largest sample.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        self.0.iter().map(|(factor, spread)| spread.max() * factor).reduce(f64::max)
    }

    fn min(&self) -> Option<f64> {
        self.0.iter().map(|(factor, spread)| spread.min() * factor).reduce(f64::min)
    }

    /// The mean, each part by its minutes.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let n = self.n_minutes();
        let sum = |(factor, spread): &(f64, Cow<'_, Spread>)| {
            spread.mean() * factor * spread.n_minutes() as f64
        };
        (n > 0).then(|| self.0.iter().map(sum).sum::<f64>() / n as f64)
    }

    /// Share of the minutes whose mean is above `limit`.
    #[must_use]
    pub fn share_above(&self, limit: f64) -> Option<f64> {
        let n = self.n_minutes();
        let above = |(factor, spread): &(f64, Cow<'_, Spread>)| {
            spread.share_above(limit / factor).unwrap_or(0.0) * spread.n_minutes() as f64
        };
        (n > 0).then(|| self.0.iter().map(above).sum::<f64>() / n as f64)
    }

    /// The minutes whose mean is above `limit`.
    #[must_use]
    pub fn n_above(&self, limit: f64) -> Option<u64> {
        self.share_above(limit).map(|share| (share * self.n_minutes() as f64).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
        let metric = wire::catalog::find("system.cpu.utilization").unwrap();
        Spread::of_means(metric, values)
    }

    fn near(found: Option<f64>, want: f64) {
        let found = found.expect("a number");
        assert!((found - want).abs() <= want.abs() * 0.021 + 1e-9, "{found} is not near {want}");
    }

    #[test]
    fn a_server_that_was_made_larger_keeps_what_it_used_before() {
        let mut parts = Parts::default();
        parts.add(2.0, &spread((1..=100).map(|n| f64::from(n) / 100.0)));
        parts.add(8.0, &spread((1..=100).map(|n| f64::from(n) / 400.0)));
        near(parts.amounts().quantile(0.5), 1.0);
        near(parts.amounts().quantile(0.95), 1.9);
        near(parts.plain().quantile(1.0), 1.0);
        near(parts.amounts().max(), 2.0);
        near(parts.amounts().share_above(1.0), 0.5);
        assert_eq!(parts.plain().n_minutes(), 200);
    }

    #[test]
    fn quantiles_over_several_sizes_are_as_near_as_those_of_one() {
        let mut parts = Parts::default();
        parts.add(5.0, &spread([3.0; 40]));
        parts.add(7.0, &spread([4.2; 40]));
        parts.add(10.0, &spread([6.0; 40]));
        for q in [0.0, 0.5, 0.95, 1.0] {
            let found = parts.shares().quantile(q).expect("a number");
            assert!((found / 0.6 - 1.0).abs() < 0.0101, "{q}: {found}");
        }
    }

    #[test]
    fn nothing_has_no_quantile_and_one_minute_is_its_own() {
        let none = Parts::default();
        assert_eq!(none.plain().quantile(0.5), None);
        assert_eq!(none.amounts().max(), None);
        assert_eq!(none.plain().share_above(0.1), None);
        let mut one = Parts::default();
        one.add(0.0, &spread([0.25]));
        near(one.plain().quantile(0.99), 0.25);
        assert_eq!(one.shares().quantile(0.5), None, "of an unknown size there is no share");
    }
}
