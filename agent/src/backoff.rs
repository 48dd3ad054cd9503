//! How long to wait before the next try: full jitter, doubling, capped, for ever. Pure.

use std::time::Duration;

/// Waits of one thing that is tried again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    n_failed: u32,
}

impl Backoff {
    /// The first wait is uniform over `0..first`, each next one over twice that, up to `cap`.
    ///
    /// Full jitter: a fleet that lost its collector at one instant comes back spread evenly.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap: cap.max(first), n_failed: 0 }
    }

    /// The next wait; `random` is uniform over `0.0..1.0`.
    pub fn next(&mut self, random: f64) -> Duration {
        let doubled = self.first.saturating_mul(2u32.saturating_pow(self.n_failed));
        self.n_failed = self.n_failed.saturating_add(1);
        doubled.min(self.cap).mul_f64(random.clamp(0.0, 1.0))
    }

    /// It worked: the next failure waits like the first.
    pub fn reset(&mut self) {
        self.n_failed = 0;
    }

    /// Takes other bounds and goes on where it was.
    pub fn set_bounds(&mut self, first: Duration, cap: Duration) {
        self.first = first;
        self.cap = cap.max(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(random: f64, n: usize) -> Vec<u64> {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));
        (0..n).map(|_| backoff.next(random).as_secs()).collect()
    }

    #[test]
    fn waits_double_up_to_the_cap_and_spread_from_zero() {
        assert_eq!(waits(1.0, 7), [5, 10, 20, 40, 60, 60, 60]);
        assert_eq!(waits(0.5, 5), [2, 5, 10, 20, 30]);
        assert_eq!(waits(0.0, 3), [0, 0, 0]);
    }

    #[test]
    fn it_never_gives_up_and_never_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));
        for _ in 0..10_000 {
            assert!(backoff.next(0.999) <= Duration::from_secs(60));
        }
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_secs(5));
    }

    #[test]
    fn a_large_fleet_may_spread_wider_than_the_usual_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(100), Duration::from_secs(60));
        assert_eq!(backoff.next(1.0), Duration::from_secs(100));
    }
}
