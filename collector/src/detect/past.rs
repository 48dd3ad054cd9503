//! A site's past and what it makes of the next request.
//!
//! One row per site: requests and gateway errors of up to 28 days and the mean rate by hour of the
//! day. Seconds inside an incident are no part of it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::model::Baseline;

/// Days of history that count.
const DAYS_MAX: i64 = 28;

/// What a site's past makes of one failure and one success.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Failure rate that is normal for it.
    pub p_normal: f64,
    /// Smallest failure rate worth waking someone.
    pub p_bad: f64,
    /// Time after which a score has faded to a third, seconds.
    pub memory_s: f64,
}

impl Rates {
    /// Rates of a site with `n` requests, `n_failed` of them gateway errors, in `seconds`.
    #[must_use]
    pub fn of(n: u64, n_failed: u64, seconds: f64, p_bad_min: f64) -> Self {
        let p_normal = (n_failed as f64 + 0.0005 * 200.0) / (n as f64 + 200.0);
        let p_normal = p_normal.clamp(3e-4, 0.5);
        let p_bad = p_bad_min.max(4.0 * p_normal).min(0.95);
        // A site seen for less than a minute has no rate yet.
        let rate = (n as f64 + 1.0) / seconds.max(60.0);
        Self { p_normal, p_bad, memory_s: (20.0 / rate).clamp(60.0, 1800.0) }
    }

    /// Nats of one failure.
    #[must_use]
    pub fn gain(&self) -> f64 {
        (self.p_bad / self.p_normal).ln()
    }

    /// Nats that one success takes back.
    #[must_use]
    pub fn loss(&self) -> f64 {
        ((1.0 - self.p_normal) / (1.0 - self.p_bad)).ln()
    }
}

/// Requests and gateway errors, outages excluded: by day, and the mean rate by hour of the day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// What was known before this detector saw the site.
    known: Option<Baseline>,
    /// Day since the epoch, requests, gateway errors; oldest first.
    days: VecDeque<(i64, u64, u64)>,
    /// Requests a second by hour of the day; 0 until known.
    hours: [f32; 24],
    /// Hour since the epoch that `hour_n` counts.
    hour: i64,
    hour_n: u64,
    /// First second seen.
    since: Option<i64>,
    /// Newest second seen.
    until: i64,
    /// First and last hour that an outage took a part of: no mean is taken of them.
    #[serde(default)]
    spoilt: Option<(i64, i64)>,
}

impl Past {
    /// Takes a past known from elsewhere; it counts before what is added here.
    pub(super) fn set_known(&mut self, baseline: Baseline) {
        self.known = Some(baseline);
    }

    pub(super) fn add(&mut self, second: i64, n: u64, n_failed: u64) {
        self.since = Some(self.since.map_or(second, |since| since.min(second)));
        self.until = self.until.max(second);
        let hour = second.div_euclid(3600);
        if hour > self.hour {
            self.close_hour();
            (self.hour, self.hour_n) = (hour, 0);
        }
        if hour == self.hour {
            self.hour_n += n;
        }
        let day = second.div_euclid(86_400);
        if self.days.back().is_none_or(|(newest, ..)| *newest < day) {
            self.days.push_back((day, 0, 0));
            while self.days.front().is_some_and(|(oldest, ..)| day - oldest >= DAYS_MAX) {
                self.days.pop_front();
            }
        }
        if let Some((_, day_n, day_failed)) = self.days.iter_mut().rev().find(|(d, ..)| *d <= day) {
            *day_n += n;
            *day_failed += n_failed;
        }
    }

    /// Takes back what turned out to be part of an outage.
    pub(super) fn take_back(&mut self, n: u64, n_failed: u64) {
        self.hour_n = self.hour_n.saturating_sub(n);
        if let Some((_, day_n, day_failed)) = self.days.back_mut() {
            *day_n = day_n.saturating_sub(n);
            *day_failed = day_failed.saturating_sub(n_failed);
        }
    }

    /// Notes that an outage took a part of these hours away, from second to second.
    pub(super) fn spoil(&mut self, from: i64, until: i64) {
        let (from, until) = (from.div_euclid(3600), until.div_euclid(3600));
        let first =
            self.spoilt.filter(|(_, last)| *last >= self.hour).map_or(from, |(f, _)| f.min(from));
        self.spoilt = Some((first, until));
    }

    fn close_hour(&mut self) {
        // Of the first hour, and of those with an outage, a part was not seen.
        let is_spoilt =
            self.spoilt.is_some_and(|(from, until)| (from..=until).contains(&self.hour));
        let whole = self.since.is_some_and(|since| since <= self.hour * 3600) && !is_spoilt;
        if self.hour_n > 0 && whole {
            let mean = &mut self.hours[self.hour.rem_euclid(24) as usize];
            let rate = self.hour_n as f32 / 3600.0;
            *mean = if *mean == 0.0 { rate } else { *mean * 0.75 + rate * 0.25 };
        }
    }

    /// What was known before the day of `second`, as a baseline: whole days, at most 28.
    #[must_use]
    pub fn before(&self, second: i64) -> Option<Baseline> {
        let day = second.div_euclid(86_400);
        let known =
            self.known.unwrap_or(Baseline { days: 0.0, n_requests: 0, n_gateway_errors: 0 });
        let earlier = || self.days.iter().filter(|(of, ..)| *of < day);
        let baseline = Baseline {
            days: (known.days + earlier().count() as f64).min(DAYS_MAX as f64),
            n_requests: known.n_requests + earlier().map(|(_, n, _)| n).sum::<u64>(),
            n_gateway_errors: known.n_gateway_errors + earlier().map(|(.., n)| n).sum::<u64>(),
        };
        (baseline.days > 0.0).then_some(baseline)
    }

    /// Share of requests that failed on the days before that of `second`, as carefully as
    /// [`Rates::of`] takes it of a short past; 0 unknown.
    #[must_use]
    pub fn failed_before(&self, second: i64) -> f64 {
        self.before(second).map_or(0.0, |known| {
            Rates::of(known.n_requests, known.n_gateway_errors, 0.0, 0.0).p_normal
        })
    }

    /// Requests a second that are normal at this hour of the day; 0 unknown.
    #[must_use]
    pub fn norm(&self, second: i64) -> f64 {
        f64::from(self.hours[second.div_euclid(3600).rem_euclid(24) as usize])
    }

    /// The mean of what was known before, requests a second; stands in for an hour not seen yet.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let known = self.known.filter(|known| known.days > 0.0);
        known.map_or(0.0, |known| known.n_requests as f64 / (known.days * 86_400.0))
    }

    /// Requests a second that are usual: of this hour of the day, else on average.
    #[must_use]
    pub fn usual(&self, second: i64) -> f64 {
        let norm = self.norm(second);
        if norm > 0.0 {
            return norm;
        }
        let (n, _, seconds) = self.sums();
        n as f64 / seconds.max(60.0)
    }

    pub(super) fn rates(&self, settings: &Settings) -> Rates {
        let (n, n_failed, seconds) = self.sums();
        Rates::of(n, n_failed, seconds, settings.p_bad_min)
    }

    /// Requests, gateway errors and seconds of at most 28 days.
    fn sums(&self) -> (u64, u64, f64) {
        let first_day = self.days.front().map_or(0, |(day, ..)| day * 86_400);
        let since = self.since.unwrap_or(self.until).max(first_day);
        let seen_s = (self.until - since).max(0) as f64;
        let mut n: u64 = self.days.iter().map(|(_, n, _)| n).sum();
        let mut n_failed: u64 = self.days.iter().map(|(_, _, failed)| failed).sum();
        let mut seconds = seen_s;
        if let Some(known) = self.known.filter(|known| known.days > 0.0) {
            // What is seen here takes the place of what was known: 28 days in all.
            let left = (DAYS_MAX as f64 - seen_s / 86_400.0).clamp(0.0, known.days);
            let share = left / known.days;
            n += (known.n_requests as f64 * share) as u64;
            n_failed += (known.n_gateway_errors as f64 * share).round() as u64;
            seconds += left * 86_400.0;
        }
        (n, n_failed, seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_from_the_past() {
        // Requests, failed, seconds: normal rate, bad rate, memory.
        for (n, failed, seconds, p_normal, p_bad, memory_s) in [
            (0, 0, 0.0, 0.0005, 0.30, 1200.0),
            (2_000_000, 20, 28.0 * 86_400.0, 3e-4, 0.30, 60.0),
            (28_000, 0, 28.0 * 86_400.0, 3e-4, 0.30, 1728.0),
            (1_000, 0, 28.0 * 86_400.0, 3e-4, 0.30, 1800.0),
            (100_000, 10_000, 86_400.0, 0.0998, 0.399, 60.0),
            (100_000, 90_000, 86_400.0, 0.5, 0.95, 60.0),
        ] {
            let rates = Rates::of(n, failed, seconds, 0.30);
            let near = |a: f64, b: f64| (a - b).abs() <= 0.005 * b;
            let fits = near(rates.p_normal, p_normal) && near(rates.p_bad, p_bad);
            assert!(fits && near(rates.memory_s, memory_s), "{n} {failed}: {rates:?}");
        }
        let clean = Rates::of(2_000_000, 20, 2_419_200.0, 0.30);
        assert!((clean.gain() - 6.9).abs() < 0.01 && (clean.loss() - 0.36).abs() < 0.01);
    }

    #[test]
    fn a_past_before_a_day_is_a_baseline_of_the_days_before_it() {
        let mut past = Past::default();
        assert_eq!(past.before(0), None);
        for day in 0..3 {
            past.add(day * 86_400 + 5, 100, day as u64);
        }
        assert_eq!(past.before(86_399), None);
        let of =
            |days, n_requests, n_gateway_errors| Baseline { days, n_requests, n_gateway_errors };
        assert_eq!(past.before(2 * 86_400 + 7), Some(of(2.0, 200, 1)));
        past.set_known(of(27.5, 10, 1));
        assert_eq!(past.before(2 * 86_400), Some(of(28.0, 210, 2)));
    }

    #[test]
    fn the_past_is_28_days_of_the_calendar_and_what_was_known_before_makes_room() {
        let settings = Settings::from(&crate::config::DetectConfig::default());
        let mut rare = Past::default();
        rare.add(0, 10_000, 10_000);
        for day in [30, 31] {
            rare.add(day * 86_400, 10_000, 0);
        }
        assert_eq!(rare.sums().0, 20_000, "what is a month old has gone");
        let mut past = Past::default();
        past.set_known(Baseline { days: 28.0, n_requests: 2_800_000, n_gateway_errors: 28_000 });
        let known = past.rates(&settings);
        assert!((known.p_normal - 0.01).abs() < 1e-5, "{known:?}");
        for hour in 0..14 * 24 {
            past.add(hour * 3600, 4167, 0);
        }
        let half = past.rates(&settings);
        assert!((half.p_normal - 0.005).abs() < 2e-4, "{half:?}");
        for hour in 14 * 24..29 * 24 {
            past.add(hour * 3600, 4167, 0);
        }
        assert!(past.rates(&settings).p_normal < 4e-4, "{:?}", past.rates(&settings));
        let mut short = Past::default();
        short.set_known(Baseline { days: 2.0, n_requests: 1000, n_gateway_errors: 0 });
        short.add(0, 1, 0);
        short.add(10 * 86_400, 1, 0);
        assert_eq!(short.sums().0, 1002, "12 days are no 28");
    }

    #[test]
    fn an_hour_with_an_outage_makes_no_mean() {
        let mut past = Past::default();
        past.add(-10, 1, 0);
        past.add(0, 3600, 0);
        past.add(3600, 1, 0);
        assert!((past.norm(0) - 1.0).abs() < 1e-6);
        past.spoil(4000, 2 * 3600 + 5);
        past.add(3 * 3600, 7200, 0);
        past.add(4 * 3600, 1, 0);
        assert!(past.norm(3600).abs() < 1e-9 && past.norm(2 * 3600).abs() < 1e-9);
        assert!((past.norm(3 * 3600) - 2.0).abs() < 1e-6);
        assert!((past.usual(3600) - 10_803.0 / 14_410.0).abs() < 0.01, "{}", past.usual(3600));
    }

    #[test]
    fn a_past_keeps_28_days_and_the_mean_of_each_hour() {
        let mut past = Past::default();
        past.add(-1800, 900, 0);
        for hour in 0..40 * 24 {
            past.add(hour * 3600, 3600 * 2, 7);
        }
        assert_eq!(past.days.len(), 28);
        let mut young = Past::default();
        young.add(1800, 900, 0);
        young.add(3600, 900, 0);
        assert!(young.norm(0).abs() < 1e-9, "half an hour is no norm");
        young.add(7200, 1, 0);
        assert!((young.norm(3600) - 0.25).abs() < 1e-6);
        assert!((past.norm(5 * 3600) - 2.0).abs() < 1e-6, "{}", past.norm(5 * 3600));
        let settings = Settings::from(&crate::config::DetectConfig::default());
        let before = past.rates(&settings);
        past.add(40 * 86_400, 50_000, 50_000);
        assert!(past.rates(&settings).p_normal > before.p_normal);
        past.take_back(50_000, 50_000);
        assert!((past.rates(&settings).p_normal - before.p_normal).abs() < 1e-9);
        let saved = serde_json::to_vec(&past).unwrap();
        assert_eq!(serde_json::from_slice::<Past>(&saved).unwrap(), past);
    }
}
