//! Messages a minute of one route at most; pure.
//!
//! Invariant: in no 60 s are more than `per_minute` taken: each token comes back a minute after it was
//! taken, so an idle route may send that many at once, and then waits. What is over waits in the
//! outbox and is never dropped: beginnings and ends go before updates, and of the updates of one
//! incident the clerk leaves the newest. A restart begins with all tokens.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a token is away.
pub const MINUTE: Duration = Duration::from_secs(60);

/// The tokens of one route.
#[derive(Clone, Debug)]
pub struct Bucket {
    n_max: usize,
    /// When each token that is away was taken, oldest first.
    taken: VecDeque<Instant>,
}

impl Bucket {
    /// A full one; of none at all it makes one, so that nothing waits for ever.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self { n_max: per_minute.max(1) as usize, taken: VecDeque::new() }
    }

    /// Tokens there are at `now`.
    pub fn n_free(&mut self, now: Instant) -> usize {
        while self.taken.front().is_some_and(|at| now.saturating_duration_since(*at) >= MINUTE) {
            self.taken.pop_front();
        }
        self.n_max - self.taken.len()
    }

    /// Takes one, which must be there.
    pub fn take(&mut self, now: Instant) {
        let n_free = self.n_free(now);
        assert!(n_free > 0, "a token is taken only when there is one");
        self.taken.push_back(now);
    }

    /// How long until there is one; zero when there is.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        match self.taken.front() {
            Some(at) if self.taken.len() >= self.n_max => {
                MINUTE.saturating_sub(now.saturating_duration_since(*at))
            }
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Takes one whenever there is one, looking each 100 ms; when each was taken, ms.
    fn greedy(per_minute: u32, ms: u64) -> Vec<u64> {
        let (start, mut bucket, mut taken) =
            (clock::instant(), Bucket::new(per_minute), Vec::new());
        for at_ms in (0..ms).step_by(100) {
            let now = start + Duration::from_millis(at_ms);
            assert_eq!(bucket.wait(now).is_zero(), bucket.clone().n_free(now) > 0, "{at_ms}");
            while bucket.n_free(now) > 0 {
                bucket.take(now);
                taken.push(at_ms);
            }
        }
        taken
    }

    #[test]
    fn no_minute_has_more_than_the_limit_and_nothing_waits_without_need() {
        for (per_minute, ms, expected) in [
            (1, 180_000, vec![0, 60_000, 120_000]),
            (3, 60_000, vec![0, 0, 0]),
            (2, 120_100, vec![0, 0, 60_000, 60_000, 120_000, 120_000]),
            (0, 120_000, vec![0, 60_000]),
        ] {
            assert_eq!(greedy(per_minute, ms), expected, "{per_minute} a minute in {ms} ms");
        }
        let start = clock::instant();
        let mut bucket = Bucket::new(30);
        let mut taken: Vec<u64> = Vec::new();
        // One each second: the thirtieth is the last of the first minute.
        for at_ms in (0..300_000).step_by(1000) {
            let now = start + Duration::from_millis(at_ms);
            if bucket.n_free(now) > 0 {
                bucket.take(now);
                taken.push(at_ms);
            }
            let in_minute = taken.iter().filter(|at| at_ms - **at < 60_000).count();
            assert!(in_minute <= 30, "{in_minute} in the minute before {at_ms}");
        }
        assert_eq!(taken.len(), 150, "five minutes are used in full");
    }

    #[test]
    fn the_wait_ends_when_the_oldest_token_comes_back() {
        let (start, mut bucket) = (clock::instant(), Bucket::new(2));
        let at = |s: u64| start + Duration::from_secs(s);
        bucket.take(at(0));
        assert_eq!(bucket.wait(at(10)), Duration::ZERO);
        bucket.take(at(10));
        assert_eq!(bucket.wait(at(20)), Duration::from_secs(40));
        assert_eq!(bucket.n_free(at(59)), 0);
        assert_eq!(bucket.n_free(at(60)), 1);
        assert_eq!(bucket.wait(at(60)), Duration::ZERO);
    }
}
