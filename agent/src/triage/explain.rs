//! Which seconds the error lines explain: what makes a 503 a gateway error. Pure and bounded.
//!
//! The rule is that of the running agent: a line of a failed upstream request, less than 10 s old,
//! for the same site; where it names no site, for the same upstream or client, or for any client
//! if its own is the server in front. Seconds are kept as spans that are merged where the gap
//! between two lines cannot matter, so an outage of hours is one span.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

/// An error line explains a 503 that comes less than this after it.
const EXPLAINS_S: i64 = 10;
/// An access line and its error line may differ by this in second.
const SLACK_S: i64 = 1;
/// How long after an access line's time its error line may come when no duration is logged.
const UNKNOWN_DURATION_S: i64 = 70;
/// Two lines this near explain every second between them, for either slack.
const MERGE_S: i64 = EXPLAINS_S + SLACK_S;
/// Spans kept over all keys, about 2 MiB; beyond it lines are dropped and counted.
const SPANS_MAX: usize = 32_768;

/// What an error line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum About<'a> {
    /// Name in its normal form.
    Site(&'a str),
    Upstream(&'a str),
    Client(&'a str),
    /// The client was a server in front, and no site is named.
    Front,
}

/// See the module.
#[derive(Default)]
pub(super) struct Explained {
    /// First and last second of each span, by what it is about.
    spans: BTreeMap<(u64, i64), i64>,
    /// Random, so that nobody can choose names that look the same.
    hasher: RandomState,
    /// Lines that were added.
    pub(super) n_lines: u64,
    /// Lines that found no room.
    pub(super) n_dropped: u64,
}

impl Explained {
    /// Notes one error line of a failed upstream request.
    pub(super) fn add(&mut self, about: &[About<'_>], second: i64) {
        self.n_lines += 1;
        for about in about {
            let key = self.hasher.hash_one(about);
            self.add_one(key, second);
        }
    }

    fn add_one(&mut self, key: u64, second: i64) {
        let before = self.spans.range((key, i64::MIN)..=(key, second)).next_back();
        let before = before.map(|((_, from), upto)| (*from, *upto));
        let before = before.filter(|(_, upto)| second <= upto.saturating_add(MERGE_S));
        let near = (key, second)..=(key, second.saturating_add(MERGE_S));
        let after = self.spans.range(near).next().map(|((_, from), upto)| (*from, *upto));
        if before.is_none() && after.is_none() && self.spans.len() >= SPANS_MAX {
            self.n_dropped += 1;
            return;
        }
        if let Some((from, _)) = after {
            self.spans.remove(&(key, from));
        }
        let from = before.map_or(second, |(from, _)| from);
        let upto = before.into_iter().chain(after).fold(second, |end, (_, upto)| end.max(upto));
        self.spans.insert((key, from), upto);
    }

    /// True when an error line explains a 503 at this second.
    pub(super) fn explains(&self, about: &[About<'_>], second: i64, has_duration: bool) -> bool {
        let slack = if has_duration { SLACK_S } else { UNKNOWN_DURATION_S };
        let upto = second.saturating_add(slack);
        let from = second.saturating_sub(EXPLAINS_S - 1);
        about.iter().any(|about| {
            let key = self.hasher.hash_one(about);
            // Spans do not overlap, so the last one that starts in time ends last.
            let last = self.spans.range((key, i64::MIN)..=(key, upto)).next_back();
            last.is_some_and(|(_, end)| *end >= from)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[i64], at: i64, has_duration: bool, want: bool) {
        for reversed in [false, true] {
            let mut explained = Explained::default();
            let mut lines = lines.to_vec();
            if reversed {
                lines.reverse();
            }
            for line in &lines {
                explained.add(&[About::Site("a")], *line);
            }
            let got = explained.explains(&[About::Site("a")], at, has_duration);
            assert_eq!(got, want, "{lines:?} at {at}");
            assert!(!explained.explains(&[About::Site("b"), About::Front], at, has_duration));
        }
    }

    #[test]
    fn a_line_explains_what_comes_less_than_ten_seconds_after_it() {
        for (at, with, without) in [
            (1000, true, true),
            (1009, true, true),
            (1010, false, false),
            (999, true, true),
            (998, false, true),
            (930, false, true),
            (929, false, false),
        ] {
            check(&[1000], at, true, with);
            check(&[1000], at, false, without);
        }
    }

    #[test]
    fn merging_spans_explains_exactly_what_the_lines_do() {
        let lines = [0, 5, 16, 28, 40, 51, 100];
        for at in -80..130 {
            for (has_duration, slack) in [(true, SLACK_S), (false, UNKNOWN_DURATION_S)] {
                let want = lines.iter().any(|line| (at - 9..=at + slack).contains(line));
                check(&lines, at, has_duration, want);
            }
        }
    }

    #[test]
    fn a_crowd_of_clients_stays_in_bounds_and_is_counted() {
        let mut explained = Explained::default();
        let n = SPANS_MAX as i64 + 1000;
        for second in 0..n {
            explained.add(&[About::Client(&second.to_string())], second);
            explained.add(&[About::Site("a")], second);
        }
        assert_eq!(explained.n_lines, 2 * n as u64);
        assert_eq!(explained.spans.len(), SPANS_MAX);
        assert_eq!(explained.n_dropped, 1001);
        assert!(explained.explains(&[About::Site("a")], n - 1, true), "a span grows for ever");
    }
}
