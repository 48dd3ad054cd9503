//! When an incident is over: successes count up, failures count down, and it must be quiet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Evidence of recovery at which an incident may resolve, nats.
pub const RECOVERED: f64 = 7.0;
/// Most evidence that is kept, nats.
const EVIDENCE_MAX: f64 = 14.0;
/// What is left of the recent failure share's memory after a second.
const FADE: f64 = 0.8;
/// A failure counts only while the recent share is at least this part of the largest of the first
/// minute: a site that always fails a little must not keep its server's incident open for ever.
const SHARE_MIN: f64 = 0.15;
/// How far events may be ahead of the clock, ms.
const AHEAD_MS: i64 = 5_000;
/// Quiet time from which an incident is recovering, ms.
const RECOVERING_MS: i64 = 3_000;
/// Time in which that largest share is taken, seconds.
const FIRST_S: i64 = 60;
/// Quiet time in mean times between failures: one that fails on as before is silent for so long by
/// chance once in twenty times.
const QUIET_GAPS: f64 = 3.0;
/// Longest quiet time that asks for, ms.
const QUIET_MAX_MS: f64 = 300_000.0;

/// Evidence that the failing sites of an incident answer again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    evidence: f64,
    /// Successes and failures, and how many of both there were at the last failure.
    n_failed: f64,
    n_all: f64,
    n_at_failure: f64,
    recent_failed: f64,
    recent_all: f64,
    share_max: f64,
    second: i64,
    start: i64,
    /// End of the last second with a failure that counts, ms.
    last_failed: i64,
    last_traffic: i64,
}

impl Recovery {
    /// Recovery of an incident that started in this second.
    #[must_use]
    pub fn new(start: i64) -> Self {
        Self { start, second: start, last_traffic: start, ..Self::default() }
    }

    /// Takes closed seconds, oldest first: successes and failures of the failing sites.
    pub fn fold(&mut self, seconds: &BTreeMap<i64, (u64, u64)>) {
        for (second, (ok, failed)) in seconds {
            self.step(*second, *ok as f64, *failed as f64);
        }
    }

    fn step(&mut self, second: i64, ok: f64, failed: f64) {
        let elapsed = (second - self.second).clamp(0, 1000) as i32;
        let faded = FADE.powi(elapsed);
        self.second = self.second.max(second);
        self.recent_failed = self.recent_failed * faded + failed;
        self.recent_all = self.recent_all * faded + ok + failed;
        self.n_failed += failed;
        self.n_all += ok + failed;
        if self.recent_all <= 0.0 {
            return;
        }
        self.last_traffic = self.last_traffic.max(second);
        let share = self.recent_failed / self.recent_all;
        if second <= self.start + FIRST_S {
            self.share_max = self.share_max.max(share);
        }
        if failed > 0.0 {
            self.n_at_failure = self.n_all;
        }
        let rate = if self.n_at_failure > 0.0 { self.n_failed / self.n_at_failure } else { 1.0 };
        let rate = rate.clamp(0.1, 0.98);
        self.evidence += ok * -(1.0 - rate).ln();
        self.evidence = self.evidence.min(EVIDENCE_MAX);
        if failed > 0.0 && share >= SHARE_MIN * self.share_max {
            self.evidence -= failed * 0.5 * (rate / 0.005).ln();
            self.last_failed = self.last_failed.max((second + 1) * 1000);
        }
        self.evidence = self.evidence.max(0.0);
    }

    /// Notes a failure before its second has closed, so that quiet is never counted from before.
    pub fn failed_at(&mut self, at: i64) {
        self.last_failed = self.last_failed.max(at);
    }

    /// Starts anew after a quiet time that did not last.
    pub fn restart(&mut self, at: i64) {
        self.evidence = 0.0;
        self.last_failed = self.last_failed.max(at);
    }

    /// Takes over what a merged incident saw last.
    pub fn absorb(&mut self, other: &Self) {
        self.n_failed += other.n_failed;
        self.n_all += other.n_all;
        self.n_at_failure += other.n_at_failure;
        self.share_max = self.share_max.max(other.share_max);
        self.last_failed = self.last_failed.max(other.last_failed);
        self.last_traffic = self.last_traffic.max(other.last_traffic);
        self.evidence = self.evidence.min(other.evidence);
    }

    /// Whether it looks over since a few seconds, and waits for the quiet to last. `known` is up to
    /// when events are known, ms.
    #[must_use]
    pub fn is_recovering(&self, known: Option<i64>) -> bool {
        let quiet = known.map_or(0, |known| known - self.last_failed);
        self.evidence >= RECOVERED && quiet >= RECOVERING_MS
    }

    /// Whether it may be over after so much quiet, by the clock alone; cheap. Servers know a little
    /// more than the clock says when theirs are ahead.
    #[must_use]
    pub fn may_be_over(&self, quiet_ms: i64, now: i64) -> bool {
        self.evidence >= RECOVERED && now - self.last_failed + AHEAD_MS >= quiet_ms
    }

    /// How long it must be quiet, ms: `least_ms`, or longer where failures were rare all the time.
    #[must_use]
    pub fn quiet_ms(&self, least_ms: i64) -> i64 {
        let failing_ms = (self.last_failed - self.start * 1000).max(0) as f64;
        let gap_ms = failing_ms / self.n_failed.max(1.0);
        least_ms.max((QUIET_GAPS * gap_ms).min(QUIET_MAX_MS) as i64)
    }

    /// Evidence so far, nats.
    #[must_use]
    pub fn evidence(&self) -> f64 {
        self.evidence
    }

    /// End of the last second with a failure that counts, ms, corrected.
    #[must_use]
    pub fn last_failed(&self) -> i64 {
        self.last_failed
    }

    /// Last second with any request of the failing sites.
    #[must_use]
    pub fn last_traffic(&self) -> i64 {
        self.last_traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &[(i64, u64, u64)]) -> Recovery {
        let mut recovery = Recovery::new(0);
        let seconds = script.iter().map(|(second, ok, failed)| (*second, (*ok, *failed)));
        recovery.fold(&seconds.collect());
        recovery
    }

    #[test]
    fn a_total_outage_is_over_after_two_successes_and_a_partial_one_needs_more() {
        let total = run(&[(0, 0, 10), (1, 0, 10), (2, 2, 0)]);
        assert!(total.evidence() >= RECOVERED, "{total:?}");
        let partial = run(&[(0, 7, 3), (1, 7, 3), (2, 7, 3), (3, 10, 0)]);
        assert!(partial.evidence() < RECOVERED, "{partial:?}");
        let later = run(&[(0, 7, 3), (1, 7, 3), (2, 7, 3), (3, 10, 0), (4, 12, 0)]);
        assert!(later.evidence() >= RECOVERED, "{later:?}");
    }

    #[test]
    fn a_steady_trickle_of_old_failures_does_not_keep_an_incident_open() {
        let mut script: Vec<_> = (0..30).map(|second| (second, 0, 50)).collect();
        script.extend((30..90).map(|second| (second, 49, 1)));
        let recovery = run(&script);
        assert!(recovery.evidence() >= RECOVERED, "{recovery:?}");
        assert!(recovery.last_failed() < 50_000, "{recovery:?}");
    }

    #[test]
    fn two_answers_in_a_row_end_nothing_where_a_request_comes_each_half_minute() {
        let mut script: Vec<_> = (0..16).map(|n| (n * 30, 0, 1)).collect();
        script.extend([(457, 1, 0), (467, 1, 0)]);
        let slow = run(&script);
        assert!(slow.evidence() >= RECOVERED, "{slow:?}");
        assert_eq!((slow.last_failed(), slow.quiet_ms(20_000)), (451_000, 84_562));
        let busy = run(&[(0, 0, 40), (30, 0, 40), (31, 9, 0)]);
        assert_eq!((busy.quiet_ms(20_000), busy.quiet_ms(160_000)), (20_000, 160_000));
        let rare = run(&[(0, 0, 1), (900, 0, 1), (1800, 0, 1)]);
        assert_eq!(rare.quiet_ms(20_000), 300_000, "it is bounded");
    }

    #[test]
    fn one_failure_on_a_quiet_site_counts() {
        let recovery = run(&[(0, 0, 3), (30, 1, 0), (60, 0, 1)]);
        assert_eq!(recovery.last_failed(), 61_000);
    }
}
