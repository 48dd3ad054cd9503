//! Who has a mail already, when its server did not take it for everybody at once.
//!
//! One round per delivery, in memory: after a restart those who have the mail may get it a second time,
//! under the same Message-ID.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lettre::message::Mailbox;
use wire::UnixMillis;

/// Deliveries that are remembered; the oldest go first.
const KEPT_MAX: usize = 256;
/// For how long those whom the server puts off are tried once somebody has the mail. What comes next
/// of the same incident waits for it, so a mailbox that is full for days must not keep that from the
/// others.
pub(super) const LAG_MAX: Duration = Duration::from_secs(600);

/// How a delivery stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// Who is still to get it, the one tried last at the end.
    pub(super) left: Vec<Mailbox>,
    /// When the first one took it.
    pub(super) taken_at: Option<UnixMillis>,
    /// Whom the server refused for good, and how.
    pub(super) refused: Vec<String>,
}

/// All of a route's, by delivery: those are in order of time.
#[derive(Debug, Default)]
pub(super) struct Rounds(Mutex<BTreeMap<String, Round>>);

impl Rounds {
    /// Begins one for `to`; false: it goes on.
    pub(super) fn begin(&self, delivery: &str, to: &[Mailbox]) -> bool {
        let mut rounds = self.lock();
        if rounds.contains_key(delivery) {
            return false;
        }
        while rounds.len() >= KEPT_MAX {
            rounds.pop_first();
        }
        rounds.insert(delivery.to_owned(), Round { left: to.to_vec(), ..Round::default() });
        true
    }

    /// The next one to try; moved to the end before, so that a server that hangs on it hangs last.
    pub(super) fn next(&self, delivery: &str) -> Option<Mailbox> {
        let mut rounds = self.lock();
        let left = &mut rounds.get_mut(delivery)?.left;
        let next = left.first().cloned()?;
        left.rotate_left(1);
        Some(next)
    }

    pub(super) fn taken(&self, delivery: &str, by: &Mailbox, now: UnixMillis) {
        if let Some(round) = self.lock().get_mut(delivery) {
            round.left.retain(|mailbox| mailbox != by);
            round.taken_at = round.taken_at.or(Some(now));
        }
    }

    pub(super) fn refused(&self, delivery: &str, to: &Mailbox, why: String) {
        if let Some(round) = self.lock().get_mut(delivery) {
            round.left.retain(|mailbox| mailbox != to);
            round.refused.push(why);
        }
    }

    pub(super) fn get(&self, delivery: &str) -> Round {
        self.lock().get(delivery).cloned().unwrap_or_default()
    }

    pub(super) fn forget(&self, delivery: &str) {
        self.lock().remove(delivery);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Round>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_goes_on_with_those_who_wait_longest_and_few_are_remembered() {
        let to: Vec<Mailbox> =
            ["a@x.example", "b@x.example", "c@x.example"].map(|text| text.parse().unwrap()).into();
        let rounds = Rounds::default();
        assert!(rounds.begin("D000", &to) && !rounds.begin("D000", &to));
        assert_eq!(rounds.next("D000").as_ref(), Some(&to[0]));
        assert_eq!(rounds.next("D000").as_ref(), Some(&to[1]));
        rounds.taken("D000", &to[1], UnixMillis(7));
        assert_eq!(rounds.next("D000").as_ref(), Some(&to[2]));
        rounds.refused("D000", &to[2], "gone".into());
        let round = rounds.get("D000");
        assert_eq!((round.left, round.taken_at), (vec![to[0].clone()], Some(UnixMillis(7))));
        for n in 1..=KEPT_MAX {
            rounds.begin(&format!("D{n:03}"), &to);
        }
        assert_eq!(rounds.next("D000"), None, "the oldest is forgotten");
        assert!(rounds.next("D001").is_some());
    }
}
