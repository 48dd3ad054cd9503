//! What one agent may ask of the collector, and how far its clock is off: pure, time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use wire::UnixMillis;

/// A token bucket: `burst` at once, then `rate` a second. Never refuses: says how long to pause.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self { rate, burst, left: burst, at: now }
    }

    /// Takes `n`; the time until the bucket is out of debt, zero while it is not in debt.
    pub(super) fn take(&mut self, n: f64, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + elapsed * self.rate).min(self.burst) - n;
        Duration::from_secs_f64((-self.left / self.rate).max(0.0))
    }
}

/// The least of (arrival - the agent's clock) over a span: the message that travelled fastest says
/// best how far the clocks are apart.
#[derive(Debug, Default)]
pub(super) struct ClockOffset {
    /// Rising in both: whatever a later, smaller one makes useless is gone.
    samples: VecDeque<(UnixMillis, i64)>,
}

impl ClockOffset {
    /// Over how long the least is taken.
    const SPAN: Duration = Duration::from_secs(300);

    /// Files a message; returns arrival minus clock, in ms: positive when the agent is behind.
    pub(super) fn add(&mut self, arrived: UnixMillis, clock: UnixMillis) -> i64 {
        let offset = arrived.0.saturating_sub(clock.0);
        while self.samples.back().is_some_and(|(_, other)| *other >= offset) {
            self.samples.pop_back();
        }
        self.samples.push_back((arrived, offset));
        while self.samples.front().is_some_and(|(at, _)| arrived.since(*at) > Self::SPAN) {
            self.samples.pop_front();
        }
        self.samples.front().map_or(offset, |(_, least)| *least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = clock::instant();
        let mut bucket = Bucket::new(10.0, 20.0, start);
        for _ in 0..20 {
            assert_eq!(bucket.take(1.0, start), Duration::ZERO);
        }
        assert_eq!(bucket.take(1.0, start), Duration::from_millis(100));
        assert_eq!(bucket.take(9.0, start), Duration::from_secs(1));
        assert_eq!(bucket.take(1.0, start + Duration::from_secs(9)), Duration::ZERO);
        assert!(bucket.take(1.0, start) <= Duration::ZERO, "a clock that jumps back adds nothing");
    }

    #[test]
    fn the_fastest_message_of_five_minutes_says_the_offset() {
        let mut offset = ClockOffset::default();
        for (arrived, clock, expected) in [
            (1_000_000, 999_900, 100),
            (1_005_000, 1_004_980, 20),
            (1_010_000, 1_009_000, 20),
            // The 20 is now more than 5 min old; of the rest the 1,000 is the least.
            (1_306_000, 1_304_000, 1000),
            (1_311_000, 1_401_000, -90_000),
            (1_312_000, i64::MIN, -90_000),
        ] {
            assert_eq!(offset.add(UnixMillis(arrived), UnixMillis(clock)), expected, "{arrived}");
        }
        let far = ClockOffset::default().add(UnixMillis(-5), UnixMillis(i64::MAX));
        assert_eq!(far, i64::MIN, "nonsense is capped");
    }
}
