//! Names of upstreams and sites: what the system's resolver makes of them, and when that changes.
//!
//! The resolver of the C library cannot be stopped: a question that hangs keeps its thread. So at
//! most [`IN_FLIGHT_MAX`] threads ask, whatever becomes of the answers, and further questions wait
//! for the next round.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wire::v1::Signal;

use super::dial::Failure;
use crate::clock;
use crate::timer::{patience, within};

/// Longest wait for an answer.
const TIMEOUT: Duration = patience(Duration::from_secs(2));
const IN_FLIGHT_MAX: usize = 2;
/// Addresses of one name that are kept.
const ADDRESSES_MAX: usize = 16;
/// A name is asked for again after this time, whatever the answer; sooner while errors flow.
const FRESH: Duration = Duration::from_secs(55);
/// Of a name whose answers come and go a change is told at most this often.
const CHANGE_GAP: Duration = Duration::from_secs(600);

/// The answer to one question.
pub(super) type Answer = Result<BTreeSet<IpAddr>, Failure>;

/// Asks. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    permits: Arc<Semaphore>,
}

impl Resolver {
    pub(super) fn new() -> Self {
        Self { permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// The addresses of a name, and how long that took; `None`: all threads hang already.
    pub(super) async fn ask(&self, name: &str) -> Option<(Answer, Duration)> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let (name, started) = (name.to_owned(), clock::instant());
        let asked = tokio::task::spawn_blocking(move || {
            let answer = (name.as_str(), 0).to_socket_addrs();
            drop(permit); // also when nobody waits for the answer any more
            answer.map(|found| found.map(|a| a.ip()).take(ADDRESSES_MAX).collect::<BTreeSet<_>>())
        });
        let answer = match within(TIMEOUT, asked).await {
            Some(Ok(Ok(addresses))) if !addresses.is_empty() => Ok(addresses),
            Some(Ok(Ok(_))) => Err(Failure::new(Signal::Dns, "the name has no address")),
            Some(Ok(Err(error))) => Err(Failure::new(Signal::Dns, reason(&error.to_string()))),
            Some(Err(_)) => Err(Failure::ours("the resolver's thread died")),
            None => {
                let words =
                    format!("no answer from the name server within {} s", TIMEOUT.as_secs());
                Err(Failure::new(Signal::Dns, words))
            }
        };
        Some((answer, started.elapsed()))
    }
}

/// `failed to lookup address information: Name or service not known` without what everybody knows.
fn reason(text: &str) -> String {
    let bare = text.strip_prefix("failed to lookup address information: ").unwrap_or(text);
    super::dial::printable(bare, 100)
}

#[derive(Debug)]
struct Known {
    addresses: BTreeSet<IpAddr>,
    asked_at: Instant,
    changed_at: Option<Instant>,
}

/// The answers so far. Pure.
#[derive(Debug, Default)]
pub(super) struct Answers {
    known: BTreeMap<String, Known>,
}

impl Answers {
    /// True when the name should be asked again. One that does not resolve waits as long as the
    /// others: each question for it may take the whole of the time there is.
    pub(super) fn is_due(&self, name: &str, is_fast: bool, now: Instant) -> bool {
        self.known.get(name).is_none_or(|known| {
            let age = now.saturating_duration_since(known.asked_at);
            age >= if is_fast { FRESH / 6 } else { FRESH }
        })
    }

    /// When it was asked for last.
    pub(super) fn asked_at(&self, name: &str) -> Option<Instant> {
        self.known.get(name).map(|known| known.asked_at)
    }

    /// The last good answer.
    pub(super) fn of(&self, name: &str) -> Option<&BTreeSet<IpAddr>> {
        self.known.get(name).map(|known| &known.addresses).filter(|found| !found.is_empty())
    }

    /// Takes in an answer; the text is what changed since the last good one.
    pub(super) fn fold(&mut self, name: &str, answer: &Answer, now: Instant) -> Option<String> {
        let fresh = Known { addresses: BTreeSet::new(), asked_at: now, changed_at: None };
        let known = self.known.entry(name.to_owned()).or_insert(fresh);
        known.asked_at = now;
        let Ok(addresses) = answer else { return None };
        if known.addresses == *addresses {
            return None;
        }
        let before = std::mem::replace(&mut known.addresses, addresses.clone());
        let is_early =
            known.changed_at.is_some_and(|at| now.saturating_duration_since(at) < CHANGE_GAP);
        if before.is_empty() || is_early {
            return None;
        }
        known.changed_at = Some(now);
        Some(format!("{name} {} to {}", listed(&before), listed(addresses)))
    }

    /// Forgets whom nobody names any more.
    pub(super) fn keep(&mut self, is_known: impl Fn(&str) -> bool) {
        self.known.retain(|name, _| is_known(name));
    }
}

/// `10.0.0.7, 10.0.0.8 and 3 more`.
pub(super) fn listed(addresses: &BTreeSet<IpAddr>) -> String {
    let shown: Vec<_> = addresses.iter().take(4).map(IpAddr::to_string).collect();
    let more = addresses.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> Answer {
        let addresses: Result<_, _> = addresses.iter().map(|address| address.parse()).collect();
        addresses.map_err(|_| Failure::ours("no address"))
    }

    #[test]
    fn another_answer_is_a_change_and_a_failure_is_none() {
        let (mut answers, start) = (Answers::default(), clock::instant());
        let at = |s| start + Duration::from_secs(s);
        let name = "app.internal";
        assert!(answers.is_due(name, false, start));
        assert_eq!(answers.fold(name, &found(&["10.0.0.7"]), start), None, "the first answer");
        assert!(!answers.is_due(name, false, at(20)) && answers.is_due(name, true, at(20)));
        assert_eq!(answers.fold(name, &found(&["10.0.0.7"]), at(60)), None);
        let gone = Err(Failure::new(Signal::Dns, "x"));
        assert_eq!(answers.fold(name, &gone, at(120)), None);
        assert!(!answers.is_due(name, false, at(121)), "a bad name must not starve the others");
        assert!(answers.is_due(name, true, at(130)) && answers.is_due(name, false, at(180)));
        assert_eq!(answers.of(name).unwrap().len(), 1, "the last good answer is still of use");
        let told = answers.fold(name, &found(&["10.0.0.9"]), at(180));
        assert_eq!(told.as_deref(), Some("app.internal 10.0.0.7 to 10.0.0.9"));
        let more = found(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
        assert_eq!(answers.fold(name, &more, at(240)), None, "answers that come and go");
        let told = answers.fold(name, &found(&["10.0.0.9"]), at(900)).unwrap();
        assert_eq!(
            told,
            "app.internal 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 1 more to 10.0.0.9"
        );
        answers.keep(|_| false);
        assert_eq!(answers.of(name), None);
    }

    #[tokio::test]
    async fn names_of_this_machine_are_found_and_no_more_threads_ask_than_may() {
        let resolver = Resolver::new();
        let (answer, _) = resolver.ask("localhost").await.unwrap();
        assert!(answer.unwrap().iter().any(IpAddr::is_loopback));
        let held: Vec<_> =
            (0..IN_FLIGHT_MAX).map(|_| Arc::clone(&resolver.permits).try_acquire_owned()).collect();
        assert!(resolver.ask("localhost").await.is_none());
        drop(held);
        assert!(resolver.ask("localhost").await.is_some());
    }

    #[test]
    fn a_reason_is_told_without_its_preamble() {
        let told = reason("failed to lookup address information: Name or service not known");
        assert_eq!(told, "Name or service not known");
    }
}
