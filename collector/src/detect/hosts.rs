//! What whole servers show: silence, lack of processor time, failed services; alone and in groups.
//!
//! Everything here happens on deadlines and on news, so a quiet fleet of any size costs one look at
//! the first deadline.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::candidates::Candidates;
use super::group;
use super::scope::Group;
use super::server::Server;
use super::silence::{Recalled, Silence};
use super::{Fleet, Settings, pressure, services};
use crate::incident::case::Kind;
use crate::incident::hosts::ServerCases;
use crate::model::{CollectorEvent, Record, ServerId};

/// Evidence of a server that shows a fault, and of one that does not, nats.
pub const SHOWS: f64 = 8.0;
pub const LACKS: f64 = -6.0;
/// One server alone is told as silent after so long, ms.
const ALONE_MS: i64 = 30_000;
/// After the first sign the group is looked for when every other server has had time to show it as
/// well: one heartbeat, within these, ms.
const SETTLE_MS: (i64, i64) = (1_000, 10_000);
/// How often what is in motion is looked at, ms.
const AGAIN_MS: i64 = 1_000;
/// How often groups of the same squeezed servers are searched for again, ms.
const SEARCH_MS: i64 = 10_000;

/// What was found of squeezed servers, and when: it holds while the same ones are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    at: i64,
    servers: BTreeSet<ServerId>,
    groups: Vec<Shared>,
}

/// A group whose servers show a fault together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// Which.
    pub group: Group,
    /// Those that show it.
    pub failing: BTreeSet<ServerId>,
}

/// What servers show at one instant, of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Signals {
    /// Of which kind.
    pub kind: Kind,
    /// Who shows it, and since when.
    pub failing: BTreeMap<ServerId, i64>,
    /// Groups that explain it, best first.
    pub groups: Vec<Shared>,
    /// Servers that open by themselves.
    pub alone: BTreeSet<ServerId>,
    /// Whether anything may open or grow now.
    pub may_open: bool,
}

/// Everything kept about whole servers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hosts {
    silence: Silence,
    /// Squeezed servers, and those with a failed unit: since when, corrected.
    squeezed: BTreeMap<ServerId, i64>,
    #[serde(default)]
    squeezed_seen: Seen,
    down: BTreeMap<ServerId, i64>,
    /// When to look; `None`: not before something arrives.
    wake: Option<i64>,
    /// Silent servers that no incident holds.
    n_unexplained: usize,
}

impl Hosts {
    pub(crate) fn fold_collector(&mut self, at: i64, event: CollectorEvent) {
        self.silence.fold_collector(at, event);
        self.wake = Some(at);
    }

    /// Takes the arrival of any record of a server.
    pub(crate) fn heard(&mut self, server: &mut Server, arrived: i64, record: &Record) {
        let fresh = Silence::is_new(server);
        if self.silence.heard(server, arrived, record) || fresh {
            self.wake = Some(self.wake.map_or(arrived, |wake| wake.min(arrived)));
        }
    }

    /// As `heard`, of a record that is no more than a sign of life.
    pub(crate) fn sent(&mut self, server: &mut Server, arrived: i64) {
        let fresh = Silence::is_new(server);
        if self.silence.sent(server, arrived) || fresh {
            self.wake = Some(self.wake.map_or(arrived, |wake| wake.min(arrived)));
        }
    }

    pub(crate) fn recall(&mut self, server: &mut Server, recalled: &Recalled) {
        let fresh = Silence::is_new(server);
        if self.silence.recall(server, recalled) || fresh {
            let at = recalled.heard_at.0;
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    /// Takes news of a server's steal.
    pub(crate) fn sampled(&mut self, server: &Server) {
        let since = pressure::squeezed_since(server);
        note(&mut self.squeezed, server.id, since, &mut self.wake, server.arrived);
    }

    /// Takes news of a server's services.
    pub(crate) fn changed(&mut self, server: &Server) {
        let since = services::failed_unit(server).and_then(|(_, unit)| unit.down_at);
        note(&mut self.down, server.id, since, &mut self.wake, server.arrived);
    }

    /// Takes over who is silent, and what is down, from incidents that were stored later than this was.
    pub(crate) fn reconcile(&mut self, fleet: &mut Fleet, cases: &ServerCases) {
        for (id, since, found_at) in cases.silent() {
            if let Some(server) = fleet.servers.get_mut(&id) {
                self.silence.restore(server, since, found_at);
            }
        }
        for (id, name, unit) in cases.down() {
            if let Some(server) = fleet.servers.get_mut(&id) {
                server.restore_unit(name, unit);
                self.changed(server);
            }
        }
        self.wake = Some(i64::MIN);
    }

    /// Whether the collector's own uplink is in doubt.
    pub(crate) fn doubts_uplink(&self) -> bool {
        self.silence.doubts_uplink()
    }

    /// Whether a server is silent and in no incident yet.
    pub(crate) fn doubts_servers(&self) -> bool {
        self.n_unexplained > 0
    }

    /// When there is something to do although nothing arrives.
    pub(crate) fn wake(&self) -> Option<i64> {
        self.wake
    }

    /// Looks at what all servers show. `explained` are silent ones that an incident holds.
    pub(crate) fn step(
        &mut self,
        fleet: &mut Fleet,
        candidates: &mut Candidates,
        explained: &BTreeSet<ServerId>,
        settings: &Settings,
        now: i64,
    ) -> Vec<Signals> {
        self.silence.step(fleet, now);
        vec![
            self.silent(fleet, candidates, explained, settings, now),
            self.squeezed(fleet, candidates, settings, now),
            self.failed(fleet, candidates, settings, now),
        ]
    }

    fn silent(
        &mut self,
        fleet: &Fleet,
        candidates: &mut Candidates,
        explained: &BTreeSet<ServerId>,
        settings: &Settings,
        now: i64,
    ) -> Signals {
        let silent = self.silence.silent();
        let failing: BTreeMap<_, _> = silent.iter().map(|(id, quiet)| (*id, quiet.since)).collect();
        let new: Vec<_> = silent.iter().filter(|(id, _)| !explained.contains(id)).collect();
        let first = new.iter().map(|(_, quiet)| quiet.found_at).min();
        let heartbeat =
            new.iter().filter_map(|(id, _)| fleet.server(**id)).map(|s| s.presence.heartbeat_ms);
        let settle = heartbeat.max().unwrap_or(0).clamp(SETTLE_MS.0, SETTLE_MS.1);
        let alone: BTreeSet<ServerId> = new
            .iter()
            .filter(|(_, quiet)| now - quiet.since >= ALONE_MS)
            .map(|(id, _)| **id)
            .collect();
        self.n_unexplained = new.len();
        let settled = first.is_some_and(|first| now - first >= settle);
        let mut signals = Signals {
            kind: Kind::Silence,
            failing,
            groups: Vec::new(),
            alone: BTreeSet::new(),
            may_open: !self.silence.is_blind(now),
        };
        if self.n_unexplained == 0 || !signals.may_open {
            self.silence.trust();
            return signals;
        }
        signals.may_open = self.silence.may_open(fleet, explained, now) && settled;
        if signals.may_open {
            if signals.failing.len() >= 3 {
                let evidence = self.silence.evidence(fleet, now);
                signals.groups = search(fleet, candidates, &evidence, settings);
            }
            signals.alone = alone;
        }
        signals
    }

    fn squeezed(
        &mut self,
        fleet: &Fleet,
        candidates: &mut Candidates,
        settings: &Settings,
        now: i64,
    ) -> Signals {
        let told = |s: &Server| !s.forgotten && pressure::is_told(s, now);
        self.squeezed.retain(|id, _| fleet.server(*id).is_some_and(told));
        let failing = self.squeezed.clone();
        let servers: BTreeSet<ServerId> = failing.keys().copied().collect();
        let seen = &mut self.squeezed_seen;
        if seen.servers != servers || now - seen.at >= SEARCH_MS {
            let found = if failing.len() >= 3 {
                let evidence = pressure::evidence(fleet, &failing, now);
                search(fleet, candidates, &evidence, settings)
            } else {
                Vec::new()
            };
            *seen = Seen { at: now, servers, groups: found };
        }
        let groups = seen.groups.clone();
        Signals { kind: Kind::Pressure, failing, groups, alone: BTreeSet::new(), may_open: true }
    }

    fn failed(
        &mut self,
        fleet: &Fleet,
        candidates: &mut Candidates,
        settings: &Settings,
        now: i64,
    ) -> Signals {
        self.down.retain(|id, _| fleet.server(*id).is_some_and(|s| !s.forgotten));
        let failing = self.down.clone();
        let mut groups = Vec::new();
        let together = services::together(&failing, now);
        let newest = together.values().max().copied().unwrap_or(0);
        // Old news, out of a spool: nobody is told what is over.
        if together.len() >= 3 && now - newest <= settings.retroactive_ms {
            let evidence = services::evidence(fleet, &failing, &together);
            groups = search(fleet, candidates, &evidence, settings);
        }
        Signals { kind: Kind::Services, failing, groups, alone: BTreeSet::new(), may_open: true }
    }

    /// Sets the next deadline after a step at `now`; `in_motion`: an incident waits for time.
    pub(crate) fn sleep(&mut self, now: i64, in_motion: bool) {
        let mut wake = self.silence.due();
        let mut until = |at: i64| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        if self.n_unexplained > 0
            && let Some(blind_until) = self.silence.blind_until()
        {
            until(blind_until.max(now + AGAIN_MS));
        }
        if in_motion {
            until(now + AGAIN_MS);
        }
        self.wake = wake.map(|at| at.max(now + 1));
    }
}

/// Notes since when a server shows something, and wakes the rules when that is news.
fn note(
    known: &mut BTreeMap<ServerId, i64>,
    id: ServerId,
    since: Option<i64>,
    wake: &mut Option<i64>,
    arrived: i64,
) {
    let before = match since {
        Some(since) => known.insert(id, since),
        None => known.remove(&id),
    };
    if before.is_some() != since.is_some() {
        *wake = Some(wake.map_or(arrived, |wake| wake.min(arrived)));
    }
}

/// Groups whose servers show a fault together.
fn search(
    fleet: &Fleet,
    candidates: &mut Candidates,
    evidence: &BTreeMap<ServerId, f64>,
    settings: &Settings,
) -> Vec<Shared> {
    candidates.refresh(fleet, &settings.group_labels);
    let evidence = candidates.evidence(|id| evidence.get(&id).copied().unwrap_or(0.0));
    let found = group::search(candidates, &evidence, &settings.group);
    let shared =
        |a: group::Accepted| Shared { group: a.group, failing: a.failing.into_iter().collect() };
    found.into_iter().map(shared).collect()
}
