//! Silence: agents that send nothing, on the collector's clock. Pure.
//!
//! Each server has one deadline in a queue; a word of it costs nothing, the queue moves the deadline
//! on when it comes. Nobody is silent while the collector cannot have heard: during the first minute
//! after its start, while its uplink is lost or its disk is full, and a minute after that: the disk is
//! free again when that is told, or when something is taken that long after it was last said to be full.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::Fleet;
use super::server::Server;
use crate::model::{CollectorEvent, HEARTBEAT_MAX_MS, Record, ServerId, silent_after_ms};

/// After a goodbye only when no hello came for so long, ms.
const GOODBYE_MS: i64 = 600_000;
/// Time after a start of the collector, or the end of a fault of its own, in which agents may take
/// to come back, ms.
const GRACE_MS: i64 = 60_000;
/// A full disk is told again within this: who is heard later was heard by one that is free, ms.
const FULL_AGAIN_MS: i64 = 15_000;
/// What falls silent within this counts as falling silent together, ms.
const TOGETHER_MS: i64 = 30_000;
/// How long an answer about the collector's own uplink is waited for, ms.
const UPLINK_MS: i64 = 6_000;
/// Whoever was not heard for so long before anybody could judge it was given up already, ms.
const GONE_MS: i64 = 86_400_000;

/// What the rules of silence know of one server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Interval of its heartbeats, ms.
    pub heartbeat_ms: i64,
    /// When its agent said goodbye, on the collector's clock; `None` since it was heard again.
    pub goodbye_at: Option<i64>,
    /// When its last word came; `None` while it talks.
    pub silent_since: Option<i64>,
    /// There is a deadline for it.
    watched: bool,
}

impl Default for Presence {
    fn default() -> Self {
        Self { heartbeat_ms: 5000, goodbye_at: None, silent_since: None, watched: false }
    }
}

/// A silent server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// Its last word.
    pub since: i64,
    /// When it was found silent.
    pub found_at: i64,
}

/// What is known of a server from elsewhere than its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recalled {
    /// When it was heard last.
    pub heard_at: UnixMillis,
    /// Whether its agent said goodbye then.
    pub goodbye: bool,
    /// Interval of its heartbeats.
    pub heartbeat: Option<Duration>,
}

/// Who is silent, and who may be next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    queue: BTreeSet<(i64, ServerId)>,
    silent: BTreeMap<ServerId, Quiet>,
    /// Nothing is judged before this.
    blind_until: i64,
    uplink_lost: bool,
    stopping: bool,
    /// When the disk was last said to be full; `None` while it takes what comes.
    #[serde(default)]
    full_at: Option<i64>,
    /// Since when more than half of all agents are missing together.
    doubt_since: Option<i64>,
}

impl Silence {
    /// Takes what happens to the collector itself, at `at` on its clock.
    pub(crate) fn fold_collector(&mut self, at: i64, event: CollectorEvent) {
        let grace = at.saturating_add(GRACE_MS);
        match event {
            CollectorEvent::Started => {
                (self.uplink_lost, self.stopping, self.full_at) = (false, false, None);
                self.blind_until = self.blind_until.max(grace);
                self.doubt_since = None;
            }
            CollectorEvent::Stopping => self.stopping = true,
            CollectorEvent::DiskFull => self.full_at = Some(at),
            CollectorEvent::DiskFree => self.takes_again(at),
            CollectorEvent::UplinkLost => self.uplink_lost = true,
            CollectorEvent::UplinkBack => {
                self.uplink_lost = false;
                self.blind_until = self.blind_until.max(grace);
                self.doubt_since = None;
            }
        }
    }

    /// The disk takes what comes again: agents have the same time to come back as after a start.
    fn takes_again(&mut self, at: i64) {
        self.full_at = None;
        self.blind_until = self.blind_until.max(at.saturating_add(GRACE_MS));
    }

    /// Whether nobody can be judged, for as long as it takes.
    fn hears_nothing(&self) -> bool {
        self.uplink_lost || self.stopping || self.full_at.is_some()
    }

    /// Whether nobody can be judged at `now`.
    #[must_use]
    pub fn is_blind(&self, now: i64) -> bool {
        self.hears_nothing() || now < self.blind_until
    }

    /// Whether the collector's own uplink is in doubt, and nobody has said yet that it is lost.
    #[must_use]
    pub fn doubts_uplink(&self) -> bool {
        self.doubt_since.is_some() && !self.uplink_lost
    }

    /// Nothing is missing that no incident holds: the uplink is in no doubt.
    pub(crate) fn trust(&mut self) {
        self.doubt_since = None;
    }

    /// Whether nobody waits for a server.
    pub(crate) fn is_new(server: &Server) -> bool {
        !server.presence.watched
    }

    /// Takes one word of a server; true when it was silent until now, or the disk was full.
    pub(crate) fn heard(&mut self, server: &mut Server, arrived: i64, record: &Record) -> bool {
        match record {
            Record::Goodbye { .. } => server.presence.goodbye_at = Some(arrived),
            // Batches on their way when the agent left may be read after its goodbye.
            Record::Hello { .. } | Record::Heartbeat { .. } => server.presence.goodbye_at = None,
            _ => {}
        }
        self.sent(server, arrived)
    }

    /// Takes anything that a server sent; true when it was silent until now, or the disk was full.
    pub(crate) fn sent(&mut self, server: &mut Server, arrived: i64) -> bool {
        let is_free = self.full_at.is_some_and(|full_at| arrived - full_at > FULL_AGAIN_MS);
        if is_free {
            self.takes_again(arrived);
        }
        server.arrived = server.arrived.max(arrived);
        let was_silent = server.presence.silent_since.is_some_and(|since| arrived > since);
        if was_silent {
            server.presence.silent_since = None;
            self.silent.remove(&server.id);
        }
        if !server.presence.watched && server.presence.silent_since.is_none() {
            server.presence.watched = true;
            self.queue.insert((deadline(server), server.id));
        }
        was_silent || is_free
    }

    /// Takes what is known of a server from elsewhere; true when that ends its silence.
    pub(crate) fn recall(&mut self, server: &mut Server, recalled: &Recalled) -> bool {
        let heard_at = recalled.heard_at.0;
        if recalled.goodbye && heard_at > server.arrived {
            server.presence.goodbye_at = Some(heard_at);
        }
        server.arrived = server.arrived.max(heard_at);
        if let Some(heartbeat) = recalled.heartbeat {
            server.presence.heartbeat_ms = i64::try_from(heartbeat.as_millis()).unwrap_or(i64::MAX);
        }
        // With a longer heartbeat than was thought it may be early to call it silent.
        let early = self.silent.get(&server.id).is_some_and(|q| q.found_at < deadline(server));
        let was_silent =
            server.presence.silent_since.is_some_and(|since| heard_at > since || early);
        if was_silent {
            server.presence.silent_since = None;
            self.silent.remove(&server.id);
        }
        if !server.presence.watched && server.presence.silent_since.is_none() && server.arrived > 0
        {
            server.presence.watched = true;
            self.queue.insert((deadline(server), server.id));
        }
        was_silent
    }

    /// Makes a server silent that a stored incident says is.
    pub(crate) fn restore(&mut self, server: &mut Server, since: i64, found_at: i64) {
        if server.arrived <= since && server.presence.silent_since.is_none() {
            server.presence.silent_since = Some(since);
            self.silent.insert(server.id, Quiet { since, found_at });
        }
    }

    /// Finds who has become silent by `now`; true when somebody has.
    pub(crate) fn step(&mut self, fleet: &mut Fleet, now: i64) -> bool {
        let gone = |id: &ServerId| fleet.servers.get(id).is_none_or(|server| server.forgotten);
        let forgotten: Vec<ServerId> = self.silent.keys().filter(|id| gone(id)).copied().collect();
        for id in &forgotten {
            self.silent.remove(id);
            if let Some(server) = fleet.servers.get_mut(id) {
                server.presence.silent_since = None;
            }
        }
        let mut found = !forgotten.is_empty();
        if self.is_blind(now) {
            return found;
        }
        while let Some((due, id)) = self.queue.first().copied().filter(|(due, _)| *due <= now) {
            self.queue.remove(&(due, id));
            let Some(server) = fleet.servers.get_mut(&id) else { continue };
            let due = deadline(server);
            if server.forgotten || server.presence.silent_since.is_some() {
                server.presence.watched = false;
            } else if due > now {
                self.queue.insert((due, id));
            } else if now - server.arrived > GONE_MS {
                server.presence.watched = false;
            } else {
                server.presence.watched = false;
                let since = server.arrived;
                server.presence.silent_since = Some(since);
                self.silent.insert(id, Quiet { since, found_at: now });
                found = true;
            }
        }
        found
    }

    /// The silent servers.
    #[must_use]
    pub fn silent(&self) -> &BTreeMap<ServerId, Quiet> {
        &self.silent
    }

    /// Evidence of every server: +8 silent, -6 talking. One whose next word is overdue, or that left
    /// on purpose, says nothing.
    #[must_use]
    pub fn evidence(&self, fleet: &Fleet, now: i64) -> BTreeMap<ServerId, f64> {
        let mut evidence = BTreeMap::new();
        for (id, server) in fleet.servers.iter().filter(|(_, server)| counts(server)) {
            if server.presence.silent_since.is_some() {
                evidence.insert(*id, super::hosts::SHOWS);
            } else if server.presence.goodbye_at.is_none() && !is_overdue(server, now) {
                evidence.insert(*id, super::hosts::LACKS);
            }
        }
        evidence
    }

    /// Looks whether more than half of all agents are missing together, and says whether something
    /// may open: not before whoever can tell has had the time to say that the uplink is lost.
    /// `explained` are in an incident already.
    pub(crate) fn may_open(
        &mut self,
        fleet: &Fleet,
        explained: &BTreeSet<ServerId>,
        now: i64,
    ) -> bool {
        let (mut n_missing, mut n_all) = (0, 0);
        for (id, server) in fleet.servers.iter().filter(|(_, server)| counts(server)) {
            let quiet = self.silent.get(id);
            if server.presence.goodbye_at.is_some() || !(server.presence.watched || quiet.is_some())
            {
                continue;
            }
            let fresh = quiet.is_some_and(|quiet| {
                let found_at = quiet.found_at.max(self.blind_until);
                now - found_at <= TOGETHER_MS && !explained.contains(id)
            });
            let missing = fresh || (quiet.is_none() && is_overdue(server, now));
            n_missing += usize::from(missing);
            n_all += usize::from(missing || quiet.is_none());
        }
        if 2 * n_missing <= n_all {
            self.doubt_since = None;
            return true;
        }
        let since = *self.doubt_since.get_or_insert(now);
        now - since >= UPLINK_MS
    }

    /// When something may change although nothing arrives.
    #[must_use]
    pub fn due(&self) -> Option<i64> {
        if self.hears_nothing() {
            return None;
        }
        let (due, _) = self.queue.first()?;
        Some((*due).max(self.blind_until))
    }

    /// End of the time in which nobody is judged.
    #[must_use]
    pub fn blind_until(&self) -> Option<i64> {
        (!self.hears_nothing()).then_some(self.blind_until)
    }
}

/// Whether a server can be missed: it was heard once and belongs to the fleet.
fn counts(server: &Server) -> bool {
    server.arrived > 0 && !server.forgotten
}

fn heartbeat(server: &Server) -> i64 {
    server.presence.heartbeat_ms.clamp(0, HEARTBEAT_MAX_MS)
}

/// When a server is silent if nothing more is heard of it, ms.
fn deadline(server: &Server) -> i64 {
    if let Some(at) = server.presence.goodbye_at {
        return at.max(server.arrived) + GOODBYE_MS;
    }
    server.arrived + silent_after_ms(server.presence.heartbeat_ms)
}

/// Whether its next word should have come.
fn is_overdue(server: &Server, now: i64) -> bool {
    now - server.arrived > heartbeat(server) * 3 / 2 + 1_000
}
