//! The streams that are open: one per server, the newest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::model::ServerId;

/// Batch intervals an agent may be asked for.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Who is connected; cheap to clone.
#[derive(Clone, Default)]
pub struct Live {
    seats: Arc<Mutex<Seats>>,
}

#[derive(Default)]
struct Seats {
    next: u64,
    taken: HashMap<ServerId, Entry>,
}

struct Entry {
    number: u64,
    ended: CancellationToken,
    interval: watch::Sender<Option<Duration>>,
    /// Where its last word came from, and when.
    spoke: Option<(IpAddr, UnixMillis)>,
}

/// The right to be the stream of a server, until dropped or taken over.
pub(super) struct Seat {
    server: ServerId,
    number: u64,
    live: Live,
    /// Fires when a newer stream of the same server takes over.
    pub(super) ended: CancellationToken,
    /// Batch interval the agent is asked for; `None`: its own.
    pub(super) interval: watch::Receiver<Option<Duration>>,
}

impl Live {
    /// How many agents are connected.
    pub fn n_streams(&self) -> usize {
        self.seats().taken.len()
    }

    /// Asks a connected agent for another batch interval, 1 to 60 s, or `None` for its own again;
    /// false when it is not there. Its next stream begins with its own.
    pub fn throttle(&self, server: ServerId, interval: Option<Duration>) -> bool {
        let interval = interval.map(|interval| interval.clamp(INTERVAL_MIN, INTERVAL_MAX));
        let seats = self.seats();
        let entry = seats.taken.get(&server);
        if let Some(entry) = entry {
            entry.interval.send_if_modified(|now| std::mem::replace(now, interval) != interval);
        }
        entry.is_some()
    }

    /// Notes a word of a server.
    pub(super) fn spoke(&self, server: ServerId, peer: IpAddr, at: UnixMillis) {
        if let Some(entry) = self.seats().taken.get_mut(&server) {
            entry.spoke = Some((peer, at));
        }
    }

    /// Whether an agent on another machine has said something since `since`: then the collector's
    /// own network works.
    pub fn speaks_from_elsewhere(&self, since: UnixMillis) -> bool {
        let seats = self.seats();
        let mut words = seats.taken.values().filter_map(|entry| entry.spoke);
        words.any(|(peer, at)| !peer.to_canonical().is_loopback() && at >= since)
    }

    /// Takes the seat of a server; an earlier stream of it ends. Returns whether there was one.
    pub(super) fn take(&self, server: ServerId) -> (Seat, bool) {
        let mut seats = self.seats();
        let number = seats.next;
        seats.next += 1;
        let ended = CancellationToken::new();
        let (sender, interval) = watch::channel(None);
        let entry = Entry { number, ended: ended.clone(), interval: sender, spoke: None };
        let earlier = seats.taken.insert(server, entry);
        if let Some(earlier) = &earlier {
            earlier.ended.cancel();
        }
        (Seat { server, number, live: self.clone(), ended, interval }, earlier.is_some())
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Whether no newer stream took over.
    pub(super) fn is_current(&self) -> bool {
        self.live.seats().taken.get(&self.server).is_some_and(|entry| entry.number == self.number)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_current() {
            self.live.seats().taken.remove(&self.server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stream_of_a_server_has_its_seat() {
        let live = Live::default();
        let (first, was_taken) = live.take(ServerId(1));
        assert!(!was_taken && first.is_current());
        let (second, was_taken) = live.take(ServerId(1));
        assert!(was_taken && first.ended.is_cancelled() && !second.ended.is_cancelled());
        drop(first);
        assert!(second.is_current(), "the old stream's end does not end the new one");
        let (other, _) = live.take(ServerId(2));
        assert_eq!(live.n_streams(), 2);
        drop((second, other));
        assert_eq!(live.n_streams(), 0);
    }

    #[test]
    fn only_agents_on_other_machines_show_that_the_network_works() {
        let live = Live::default();
        let (seat, _) = live.take(ServerId(1));
        let at = UnixMillis(1_000);
        assert!(!live.speaks_from_elsewhere(UnixMillis(0)), "nobody has spoken");
        for (peer, works) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("192.0.2.7", true),
            ("2001:db8::7", true),
        ] {
            live.spoke(ServerId(1), peer.parse().unwrap(), at);
            assert_eq!(live.speaks_from_elsewhere(at), works, "{peer}");
        }
        assert!(!live.speaks_from_elsewhere(UnixMillis(1_001)), "that was before");
        drop(seat);
        assert!(!live.speaks_from_elsewhere(UnixMillis(0)));
    }

    #[test]
    fn throttles_reach_connected_agents_within_their_limits() {
        let live = Live::default();
        assert!(!live.throttle(ServerId(1), Some(Duration::from_secs(2))));
        let (mut seat, _) = live.take(ServerId(1));
        for (asked, given) in [(0, 1), (2, 2), (3600, 60)] {
            assert!(live.throttle(ServerId(1), Some(Duration::from_secs(asked))));
            assert!(seat.interval.has_changed().unwrap());
            assert_eq!(*seat.interval.borrow_and_update(), Some(Duration::from_secs(given)));
        }
        live.throttle(ServerId(1), Some(INTERVAL_MAX));
        assert!(!seat.interval.has_changed().unwrap(), "the same again is not sent again");
        live.throttle(ServerId(1), None);
        assert_eq!(*seat.interval.borrow_and_update(), None);
    }
}
