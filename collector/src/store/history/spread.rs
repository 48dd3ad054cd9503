//! What a series was over some time, from hourly sums. Pure.

use wire::catalog::Kind;

use super::super::rollup::rolled::Rolled;
use super::rolled::MINUTE_S;

/// What a series was over some time: one hour, or several together. In the unit of its metric; of a
/// counter its rise a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    rolled: Rolled,
    kind: Kind,
    /// What is stored is the value times this.
    scale: f64,
    /// Sums of other scales: rarely any, a release changed the scale of a metric then.
    others: Vec<(f64, Rolled)>,
}

impl Spread {
    /// Of an hour's sums.
    pub(super) fn new(rolled: Rolled, kind: Kind, scale: f64) -> Self {
        Self { rolled, kind, scale, others: Vec::new() }
    }

    /// Of these one-minute means of an hour.
    #[cfg(test)]
    pub(crate) fn of_scaled_minutes(values: &[f64], scale: f64) -> Self {
        use super::super::blocks::Column;
        let at = (0_u16..).map(|minute| minute * 60).take(values.len()).collect();
        let values = values.iter().map(|value| (value * scale).round() as i64).collect();
        let rolled = Rolled::of(&Column { metric: 1, at, values }, Kind::Gauge);
        Self::new(rolled.expect("there are values"), Kind::Gauge, scale)
    }

    /// Is of another hour in the same scale from now on; the old one may have its memory.
    pub(super) fn swap(&mut self, rolled: &mut Rolled) {
        std::mem::swap(&mut self.rolled, rolled);
        self.others.clear();
    }

    fn told(&self, value: f64, scale: f64) -> f64 {
        value / scale / self.a_minute()
    }

    fn a_minute(&self) -> f64 {
        if self.kind == Kind::Counter { MINUTE_S } else { 1.0 }
    }

    /// All there is, each with its scale.
    fn parts(&self) -> impl Iterator<Item = (f64, &Rolled)> {
        let others = self.others.iter().map(|(scale, rolled)| (*scale, rolled));
        std::iter::once((self.scale, &self.rolled)).chain(others)
    }

    /// Minutes with samples.
    #[must_use]
    pub fn n_minutes(&self) -> u64 {
        self.parts().fold(0, |n, (_, rolled)| n.saturating_add(rolled.minutes.n()))
    }

    /// The value below which a share `q` (0..=1) of the one-minute means lies, within 1 % of it.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        if self.others.is_empty() {
            return self.rolled.quantile(q).map(|value| self.told(value, self.scale));
        }
        let mut values: Vec<(f64, u64)> = self.minutes().collect();
        values.sort_by(|one, other| one.0.total_cmp(&other.0));
        let rank = (q.clamp(0.0, 1.0) * self.n_minutes().checked_sub(1)? as f64) as u64;
        let mut below = 0_u64;
        let at_rank = |(_, n): &&(f64, u64)| {
            below = below.saturating_add(*n);
            below > rank
        };
        let found = values.iter().find(at_rank).or(values.last());
        found.map(|(value, _)| value.max(self.min()).min(self.max()))
    }

    /// One-minute means as they are told, within 1 %, and how many minutes had each; in no order.
    pub fn minutes(&self) -> impl Iterator<Item = (f64, u64)> {
        self.parts().flat_map(move |(scale, rolled)| {
            rolled.minutes.values().map(move |(value, n)| (self.told(value, scale), n))
        })
    }

    /// The least sample; of a counter the least rate of a minute.
    #[must_use]
    pub fn min(&self) -> f64 {
        let least = self.parts().map(|(scale, rolled)| self.told(rolled.min as f64, scale));
        least.fold(f64::INFINITY, f64::min)
    }

    /// The largest sample; of a counter the largest rate of a minute.
    #[must_use]
    pub fn max(&self) -> f64 {
        let largest = self.parts().map(|(scale, rolled)| self.told(rolled.max as f64, scale));
        largest.fold(f64::NEG_INFINITY, f64::max)
    }

    /// The mean of all samples; of a counter its rise a second over all the time it was watched.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let n = self.parts().fold(0, |n: u64, (_, rolled)| n.saturating_add(rolled.n));
        self.rise() / n.max(1) as f64
    }

    /// What a counter rose by in all; of a gauge the sum of its samples, which means nothing.
    #[must_use]
    pub fn rise(&self) -> f64 {
        self.parts().map(|(scale, rolled)| rolled.sum as f64 / scale).sum()
    }

    /// Share of the minutes whose mean is above `limit`; minutes less than 2.1 % above it may be left out.
    /// `None` of nothing.
    #[must_use]
    pub fn share_above(&self, limit: f64) -> Option<f64> {
        let n = self.n_minutes();
        let above = self.parts().fold(0, |above: u64, (scale, rolled)| {
            let limit = limit * scale * self.a_minute();
            above.saturating_add(if limit.is_nan() { 0 } else { rolled.minutes.n_above(limit) })
        });
        (n > 0).then(|| above as f64 / n as f64)
    }

    /// Adds another span of time, or another series of the same metric.
    #[expect(clippy::float_cmp, reason = "scales are whole numbers")]
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(self.kind, other.kind, "of one metric");
        for (scale, rolled) in other.parts() {
            if scale == self.scale {
                self.rolled.merge(rolled);
            } else if let Some((_, of)) = self.others.iter_mut().find(|(of, _)| *of == scale) {
                of.merge(rolled);
            } else {
                self.others.push((scale, rolled.clone()));
            }
        }
    }
}

#[cfg(test)]
impl Spread {
    /// Of minutes with these means, one sample each; of a counter with these rates a second.
    pub(crate) fn of_means(
        metric: &wire::catalog::Metric,
        means: impl IntoIterator<Item = f64>,
    ) -> Self {
        let a_minute = if metric.kind == Kind::Counter { MINUTE_S } else { 1.0 };
        let mut rolled = Rolled { min: i64::MAX, max: i64::MIN, ..Rolled::default() };
        for mean in means {
            let scaled = mean * metric.scale * a_minute;
            rolled.n += a_minute as u64;
            rolled.sum += scaled.round() as i128;
            rolled.min = rolled.min.min(scaled.floor() as i64);
            rolled.max = rolled.max.max(scaled.ceil() as i64);
            rolled.minutes.add(scaled);
        }
        Self::new(rolled, metric.kind, metric.scale)
    }
}
