//! Samples in order of time to points: raw or by step, counters as rates. Pure.

use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::catalog::{Kind, Metric};

/// Longest time between two samples of a counter over which a rate is told; agents sample each 10 s.
pub(super) const GAP_S: i64 = 90;

/// One sample, or those of one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The sample's instant, or the first of the step.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// Samples.
    pub n: u64,
    /// Lowest.
    pub min: f64,
    /// Highest.
    pub max: f64,
    /// All added up: with `n` the mean.
    pub sum: f64,
    /// Newest; null where only hourly sums are kept.
    pub last: Option<f64>,
}

/// Scaled integers to values of the catalog's unit; those of counters to rates a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values {
    metric: &'static Metric,
    last: Option<(i64, f64)>,
}

impl Values {
    pub(super) fn new(metric: &'static Metric) -> Self {
        Self { metric, last: None }
    }

    /// The value of a sample, which comes after all before it. `None`: it is out of range; or it is the
    /// first of a counter, or the first after a gap.
    ///
    /// A counter that falls was restarted: what it shows came since, so a rate is never negative.
    pub(super) fn next(&mut self, second: i64, scaled: i64) -> Option<f64> {
        let value = self.metric.from_wire(scaled)?;
        if self.metric.kind == Kind::Gauge {
            return Some(value);
        }
        let (before, was) = self.last.replace((second, value))?;
        let took = second - before;
        let more = if value < was { value } else { value - was };
        (1..=GAP_S).contains(&took).then(|| more / took as f64)
    }
}

/// Puts values together by step.
#[derive(Debug)]
pub(super) struct Steps {
    step_s: Option<i64>,
    pub(super) points: Vec<Point>,
}

impl Steps {
    /// Each value its own point without a step; steps begin at multiples of theirs since the epoch.
    pub(super) fn new(step_s: Option<i64>) -> Self {
        Self { step_s, points: Vec::new() }
    }

    /// Adds what is kept of an hour, which is not older than what came before it.
    pub(super) fn add_hour(&mut self, t0: i64, hour: Point) {
        let at = self.step_s.map_or(t0, |step| t0.div_euclid(step) * step);
        let at = UnixMillis::from_second(at);
        match self.points.last_mut().filter(|point| point.at == at) {
            Some(point) => {
                (point.min, point.max) = (point.min.min(hour.min), point.max.max(hour.max));
                point.n += hour.n;
                point.sum += hour.sum;
                point.last = None;
            }
            None => self.points.push(Point { at, ..hour }),
        }
    }

    /// Adds a value, which is not older than any before it.
    pub(super) fn add(&mut self, second: i64, value: f64) {
        let at = self.step_s.map_or(second, |step| second.div_euclid(step) * step);
        let at = UnixMillis::from_second(at);
        match self.points.last_mut() {
            Some(point) if point.at == at && self.step_s.is_some() => {
                point.n += 1;
                (point.min, point.max) = (point.min.min(value), point.max.max(value));
                point.sum += value;
                point.last = Some(value);
            }
            _ => {
                let (min, max, sum) = (value, value, value);
                self.points.push(Point { at, n: 1, min, max, sum, last: Some(value) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::catalog;

    fn rates(samples: &[(i64, i64)]) -> Vec<Option<f64>> {
        let mut values = Values::new(catalog::find("system.network.io.receive").unwrap());
        samples.iter().map(|(second, scaled)| values.next(*second, *scaled)).collect()
    }

    #[test]
    fn counters_are_rates_over_restarts_and_gaps() {
        let none = None;
        assert_eq!(rates(&[(0, 100), (10, 200), (20, 200)]), [none, Some(10.0), Some(0.0)]);
        assert_eq!(rates(&[(0, 100), (10, 40)]), [none, Some(4.0)], "booted: 40 since");
        assert_eq!(rates(&[(0, 100), (91, 1000), (101, 1010)]), [none, none, Some(1.0)]);
        assert_eq!(rates(&[(0, 100), (10, -5), (20, 300)]), [none, none, Some(10.0)], "nonsense");
        assert_eq!(rates(&[(5, 1), (5, 2)]), [none, none], "no time passed");
    }

    #[test]
    fn levels_are_scaled_back_and_put_together_by_step() {
        let mut values = Values::new(catalog::find("system.cpu.utilization").unwrap());
        let mut steps = Steps::new(Some(60));
        for (second, scaled) in [(59, 1000), (60, 2000), (70, 10_001), (119, 4000), (120, 0)] {
            if let Some(value) = values.next(second, scaled) {
                steps.add(second, value);
            }
        }
        let told: Vec<_> =
            steps.points.iter().map(|p| (p.at.0, p.n, p.min, p.max, p.last)).collect();
        assert_eq!(
            told,
            [
                (0, 1, 0.1, 0.1, Some(0.1)),
                (60_000, 2, 0.2, 0.4, Some(0.4)),
                (120_000, 1, 0.0, 0.0, Some(0.0))
            ]
        );
        assert!((steps.points[1].sum - 0.6).abs() < 1e-9);
    }
}
