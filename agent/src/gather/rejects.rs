//! Why lines of one log are no records, with a few of them as they were, so that an admin sees why.
//!
//! Bounded: [`SAMPLES_MAX`] lines a log, and the judge's allowance over all logs. What is kept of a
//! line is as private as what is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use wire::UnixMillis;

use crate::logs::Rejected;

/// Rejected lines kept of one log.
pub(super) const SAMPLES_MAX: usize = 10;

/// One rejected line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Agent's clock when it was read.
    pub read_at: UnixMillis,
    /// Why it is no record, as `parse` says it.
    pub reason: &'static str,
    /// Its beginning, privacy applied.
    pub line: String,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejects {
    /// Lines by reason, since the agent started.
    pub n_by_reason: BTreeMap<&'static str, u64>,
    /// Lines that go on from one before, comments and blank ones: parts of a sound log, unless its
    /// format is the wrong one.
    pub n_skipped: BTreeMap<&'static str, u64>,
    /// The first lines; each reason has one.
    pub samples: Arc<Vec<Sample>>,
}

impl Rejects {
    /// Counts lines of which nothing is kept.
    pub(super) fn count(&mut self, reason: Rejected, n: u64) {
        if n > 0 {
            *self.n_by_reason.entry(reason.name()).or_default() += n;
        }
    }

    /// Counts a line that is part of a sound log; keeps the first that goes on from another.
    pub(super) fn skip(
        &mut self,
        reason: Rejected,
        read_at: UnixMillis,
        text: impl FnOnce() -> Option<String>,
    ) {
        let n = self.n_skipped.entry(reason.name()).or_default();
        *n += 1;
        if *n > 1 || reason != Rejected::Continuation || self.samples.len() >= SAMPLES_MAX {
            return;
        }
        if let Some(line) = text() {
            let sample = Sample { read_at, reason: reason.name(), line };
            Arc::make_mut(&mut self.samples).push(sample);
        }
    }

    /// Counts a line, and keeps it if there is room; `text` makes it private, or says that the
    /// allowance is used up.
    pub(super) fn add(
        &mut self,
        reason: Rejected,
        read_at: UnixMillis,
        text: impl FnOnce() -> Option<String>,
    ) {
        let n = self.n_by_reason.entry(reason.name()).or_default();
        *n += 1;
        let is_full = self.samples.len() >= SAMPLES_MAX;
        if is_full && *n > 1 {
            return;
        }
        let Some(line) = text() else { return };
        let samples = Arc::make_mut(&mut self.samples);
        if is_full {
            // The newest one of the reason that has most gives way to a reason never seen.
            let n_of = |reason| samples.iter().filter(|sample| sample.reason == reason).count();
            let most = (0..samples.len()).max_by_key(|at| n_of(samples[*at].reason));
            if let Some(most) = most {
                samples.remove(most);
            }
        }
        samples.push(Sample { read_at, reason: reason.name(), line });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_are_kept_and_each_reason_has_one() {
        let mut rejects = Rejects::default();
        for n in 0..1000_u32 {
            rejects.add(Rejected::Malformed, UnixMillis(1), || Some(format!("line {n}")));
        }
        rejects.count(Rejected::TooLong, 3);
        rejects.count(Rejected::BadTime, 0);
        assert_eq!(rejects.samples.len(), SAMPLES_MAX);
        assert_eq!(rejects.samples[0].line, "line 0", "the first ones");
        rejects.add(Rejected::BadStatus, UnixMillis(2), || Some("late".to_owned()));
        rejects.add(Rejected::BadTime, UnixMillis(3), || None);
        assert_eq!(rejects.samples.len(), SAMPLES_MAX);
        let last = rejects.samples.last().unwrap();
        assert_eq!((last.reason, last.line.as_str()), ("bad_status", "late"));
        for reason in [Rejected::Blank, Rejected::Continuation, Rejected::Continuation] {
            rejects.skip(reason, UnixMillis(4), || Some("more".to_owned()));
        }
        assert_eq!(rejects.samples.len(), SAMPLES_MAX, "they take nobody's place");
        assert_eq!(rejects.n_skipped, BTreeMap::from([("blank", 1), ("continuation", 2)]));
        let n: Vec<_> = rejects.n_by_reason.into_iter().collect();
        assert_eq!(n, [("bad_status", 1), ("bad_time", 1), ("malformed", 1000), ("too_long", 3)]);
    }
}
