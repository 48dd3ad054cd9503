//! Whether each backend can be reached, and what is told when that changes. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wire::v1::Signal;

use super::dial::Failure;
use crate::discover::backends::Backend;

/// One that comes and goes is told of at most this often.
const TOLD_GAP: Duration = Duration::from_secs(10);

/// Who is asked, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// `10.0.0.7:3000`: names it in series.
    pub(super) address: String,
    /// `10.0.0.7:3000`, `mysql at /run/mysqld/mysqld.sock`: names it in words.
    pub(super) title: String,
    /// `, used by 3 sites`.
    pub(super) used_by: String,
    pub(super) pool: Option<String>,
}

impl Subject {
    pub(super) fn of(backend: &Backend) -> Self {
        let used_by = match (backend.n_sites, backend.sites.first()) {
            (1, Some(site)) => format!(", used by {site}"),
            (n, _) => format!(", used by {n} sites"),
        };
        let address = backend.address.clone();
        Self { title: address.clone(), address, used_by, pool: backend.pool.clone() }
    }
}

/// A line for people and for the search of the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) message: String,
    pub(super) signal: Option<Signal>,
    pub(super) pool: Option<String>,
}

/// What one look comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// 1 or 0; `None`: nothing was measured.
    pub(super) is_up: Option<bool>,
    /// It began to fail, or answers again.
    pub(super) line: Option<Line>,
    /// For our own log, once: why nothing is measured.
    pub(super) note: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    is_up: Option<bool>,
    /// Since when it fails.
    down_at: Option<Instant>,
    /// What the collector was told last, and when.
    told: Option<Signal>,
    told_at: Option<Instant>,
    is_noted: bool,
}

/// What is known of all that is asked.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    states: BTreeMap<String, State>,
}

impl Ledger {
    /// Takes in one look.
    pub(super) fn fold(
        &mut self,
        subject: &Subject,
        result: &Result<(), Failure>,
        now: Instant,
    ) -> Verdict {
        let state = self.states.entry(subject.address.clone()).or_default();
        let failed = match result {
            Ok(()) => None,
            Err(failure) => match failure.signal {
                Some(signal) => Some((signal, &failure.words)),
                None => return state.unmeasured(subject, &failure.words),
            },
        };
        state.is_up = Some(failed.is_none());
        state.is_noted = false;
        let down_for = state.down_at.map(|at| now.saturating_duration_since(at));
        state.down_at = failed.and(state.down_at.or(Some(now)));
        let signal = failed.map(|(signal, _)| signal);
        let is_early = state.told_at.is_some_and(|at| now.saturating_duration_since(at) < TOLD_GAP);
        if signal == state.told || is_early {
            return Verdict { is_up: state.is_up, ..Verdict::default() };
        }
        let told = std::mem::replace(&mut state.told, signal);
        state.told_at = Some(now);
        let Subject { title, used_by, .. } = subject;
        let message = match (failed, told) {
            (Some((signal, words)), _) if is_silence(signal) => {
                format!("{title} does not answer ({words}){used_by}")
            }
            (Some((_, words)), _) => format!("cannot connect to {title} ({words}){used_by}"),
            (None, told) => {
                let s = down_for.unwrap_or_default().as_secs();
                let is_silence = told.is_some_and(is_silence);
                let what = if is_silence { "answers" } else { "can be connected to" };
                format!("{title} {what} again after {s} s{used_by}")
            }
        };
        let line = Line { message, signal, pool: subject.pool.clone() };
        Verdict { is_up: state.is_up, line: Some(line), note: None }
    }

    /// True while the last look at it failed.
    pub(super) fn is_down(&self, address: &str) -> bool {
        self.states.get(address).is_some_and(|state| state.is_up == Some(false))
    }

    /// Forgets whom nobody names any more.
    pub(super) fn keep(&mut self, is_known: impl Fn(&str) -> bool) {
        self.states.retain(|address, _| is_known(address));
    }
}

/// It could be connected to, but is not well.
fn is_silence(signal: Signal) -> bool {
    matches!(signal, Signal::TimeoutRead | Signal::PrematureClose | Signal::Reset | Signal::Other)
}

impl State {
    fn unmeasured(&mut self, subject: &Subject, words: &str) -> Verdict {
        self.is_up = None;
        let note = (!self.is_noted).then(|| format!("{}: {words}", subject.title));
        self.is_noted = true;
        Verdict { note, ..Verdict::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn subject() -> Subject {
        let backend = Backend {
            address: "10.0.0.7:3000".into(),
            sites: vec!["a.example".into()],
            n_sites: 3,
            pool: Some("www".into()),
            ..Backend::default()
        };
        Subject::of(&backend)
    }

    #[test]
    fn a_change_is_told_once_and_not_each_round() {
        let (mut ledger, start) = (Ledger::default(), clock::instant());
        let mut look = |at_s: u64, result: Result<(), Failure>| {
            let now = start + Duration::from_secs(at_s);
            let verdict = ledger.fold(&subject(), &result, now);
            (verdict.is_up, verdict.line.map(|line| (line.signal, line.message)))
        };
        let timeout = || Err(Failure::timed_out(Duration::from_secs(1)));
        let refused = || Err(Failure::new(Signal::ConnectRefused, "connection refused"));
        assert_eq!(look(0, Ok(())), (Some(true), None), "all is well: nothing to tell");
        let told =
            "cannot connect to 10.0.0.7:3000 (connection timed out after 1.0 s), used by 3 sites";
        let line = Some((Some(Signal::ConnectTimeout), told.to_owned()));
        assert_eq!(look(10, timeout()), (Some(false), line));
        assert_eq!(look(20, timeout()), (Some(false), None));
        let other = "cannot connect to 10.0.0.7:3000 (connection refused), used by 3 sites";
        let line = Some((Some(Signal::ConnectRefused), other.to_owned()));
        assert_eq!(look(30, refused()), (Some(false), line), "another reason is news");
        let again = "10.0.0.7:3000 can be connected to again after 32 s, used by 3 sites";
        assert_eq!(look(42, Ok(())), (Some(true), Some((None, again.to_owned()))));
        assert_eq!(look(43, refused()), (Some(false), None), "too soon after the last line");
        assert_eq!(look(44, Ok(())), (Some(true), None));
        assert_eq!(look(60, Ok(())), (Some(true), None), "nothing was told in between");
    }

    #[test]
    fn what_was_connected_to_and_said_nothing_is_not_told_as_a_failed_connection() {
        let (mut ledger, now) = (Ledger::default(), clock::instant());
        let silent = Err(Failure::no_answer(Duration::from_millis(500)));
        let told = |verdict: Verdict| verdict.line.map(|line| line.message).unwrap();
        let first = told(ledger.fold(&subject(), &silent, now));
        assert_eq!(
            first,
            "10.0.0.7:3000 does not answer (no answer within 0.5 s), used by 3 sites"
        );
        let then = ledger.fold(&subject(), &Ok(()), now + Duration::from_secs(20));
        assert_eq!(told(then), "10.0.0.7:3000 answers again after 20 s, used by 3 sites");
    }

    #[test]
    fn what_may_not_be_opened_is_absent_and_noted_once() {
        let (mut ledger, now) = (Ledger::default(), clock::instant());
        let ours = Err(Failure::ours("the agent's user may not open it"));
        let first = ledger.fold(&subject(), &ours, now);
        assert_eq!((first.is_up, first.line), (None, None));
        assert_eq!(first.note.unwrap(), "10.0.0.7:3000: the agent's user may not open it");
        assert_eq!(ledger.fold(&subject(), &ours, now), Verdict::default());
        assert!(!ledger.is_down("10.0.0.7:3000"));
        ledger.keep(|_| false);
        assert!(ledger.states.is_empty());
    }
}
