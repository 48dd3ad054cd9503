//! An incident of servers as people see it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wire::UnixMillis;

use super::case::ServerCase;
use crate::detect::scope::{Group, Scope};
use crate::detect::server::{Level, Server};
use crate::detect::{Fleet, Settings, pressure, services};
use crate::incident::case::Kind;
use crate::incident::{FLAPPING, story};
use crate::model::{Action, Affected, Alternative, Cause, Evidence, Incident, Place, ServerId};

/// Evidence listed at most.
const EVIDENCE_MAX: usize = 12;
/// Names in one line of the timeline.
const NAMES_MAX: usize = 5;
/// A site is active when it had a request this short before the start, seconds.
const ACTIVE_S: i64 = 600;
/// A level that held so shortly before a server was hit may have to do with it, ms.
const BEFORE_MS: i64 = 60_000;
/// Share of the servers that must show it.
const SHARE: f64 = 0.4;

/// What a server does, for the timeline.
#[must_use]
pub(super) fn shows(kind: Kind) -> &'static str {
    match kind {
        Kind::Pressure => "loses processor time",
        Kind::Services => "has a failed service",
        _ => "sends nothing",
    }
}

/// What a server does again.
#[must_use]
pub(super) fn is_well(kind: Kind) -> &'static str {
    match kind {
        Kind::Pressure => "has its processor time again",
        Kind::Services => "runs its services again",
        _ => "talks again",
    }
}

/// Name of a server.
#[must_use]
pub(super) fn name(fleet: &Fleet, id: ServerId) -> &str {
    fleet.server(id).map_or("a server that left", |server| server.name.as_str())
}

/// Some names and how many more; `None` when there are none.
#[must_use]
pub(super) fn names(fleet: &Fleet, ids: &[ServerId]) -> Option<String> {
    let shown: Vec<&str> = ids.iter().take(NAMES_MAX).map(|id| name(fleet, *id)).collect();
    let more = ids.len().saturating_sub(NAMES_MAX);
    match (shown.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown.join(", ")),
        (false, more) => Some(format!("{} and {more} more", shown.join(", "))),
    }
}

/// The object of the contract.
#[must_use]
pub(super) fn incident(
    case: &ServerCase,
    fleet: &Fleet,
    settings: &Settings,
    now: i64,
) -> Incident {
    let hit = hit(case);
    let about = About { case, fleet, hit: &hit };
    Incident {
        id: case.id.clone(),
        kind: case.kind.name().to_owned(),
        state: if case.is_open() { "open" } else { "resolved" }.to_owned(),
        severity: case.severity().to_owned(),
        scope: case.scope.name().to_owned(),
        place: about.place(),
        title: about.title(),
        started_at: UnixMillis(case.started_at),
        detected_at: UnixMillis(case.detected_at),
        resolved_at: case.resolved_at.map(UnixMillis),
        updated_at: UnixMillis(now),
        retroactive: false,
        affected: about.affected(),
        cause: about.cause(settings),
        change: None,
        actions: about.actions(),
        parent: case.parent.clone(),
        children: case.children.clone(),
        acked_by: None,
        silenced: false,
        timeline: case.timeline.clone(),
    }
}

/// Servers that are hit, or, when it is over, that were: in the order they were hit.
fn hit(case: &ServerCase) -> Vec<ServerId> {
    let present: BTreeSet<ServerId> = case.present().collect();
    let shown = |id: &ServerId| present.is_empty() || present.contains(id);
    let mut hit: Vec<(i64, ServerId)> =
        case.members.iter().filter(|(id, _)| shown(id)).map(|(id, m)| (m.since, *id)).collect();
    hit.sort_unstable();
    hit.into_iter().map(|(_, id)| id).collect()
}

struct About<'a> {
    case: &'a ServerCase,
    fleet: &'a Fleet,
    hit: &'a [ServerId],
}

impl About<'_> {
    fn servers(&self) -> impl Iterator<Item = &Server> {
        self.hit.iter().filter_map(|id| self.fleet.server(*id))
    }

    fn place(&self) -> Place {
        let names = |ids: BTreeSet<ServerId>| {
            let mut names: Vec<String> =
                ids.into_iter().map(|id| name(self.fleet, id).to_owned()).collect();
            names.sort();
            names
        };
        match &self.case.scope {
            Scope::Group(group) => {
                let members = names(self.fleet.members(group));
                let place = Place { members, ..Place::default() };
                match group {
                    Group::Labels(labels) if labels.len() == 1 => {
                        let only = labels.first_key_value();
                        let (label, value) = only.map(|(k, v)| (k.clone(), v.clone())).unzip();
                        Place { label, value, ..place }
                    }
                    Group::Labels(labels) => Place { labels: Some(labels.clone()), ..place },
                    Group::All | Group::Cohort(..) => place,
                }
            }
            Scope::Server(id) => {
                let server = name(self.fleet, *id).to_owned();
                Place { members: vec![server.clone()], server: Some(server), ..Place::default() }
            }
            Scope::Pool(_) | Scope::Site(_) => Place::default(),
        }
    }

    fn affected(&self) -> Affected {
        let since = self.case.started_at.div_euclid(1000) - ACTIVE_S;
        let sites = self.servers().flat_map(|server| &server.sites);
        let active = sites.filter(|ix| self.fleet.site(**ix).last_request >= since);
        Affected {
            n_sites_active: active.count() as u64,
            n_servers: self.hit.len() as u64,
            ..Affected::default()
        }
    }

    fn title(&self) -> String {
        let (case, over) = (self.case, !self.case.is_open());
        let from = story::clock(case.started_at);
        let until = story::clock(case.well_at());
        let when = if over { format!("from {from} to {until}") } else { format!("since {from}") };
        let flaps = if case.reopens >= FLAPPING { " (flapping)" } else { "" };
        let tense = |now: &'static str, then: &'static str| if over { then } else { now };
        let text = match &case.scope {
            Scope::Group(group) => {
                let (n, all) = (self.hit.len(), self.fleet.members(group).len());
                let many = if n < all { format!("{n} of {all}") } else { n.to_string() };
                let who = format!("{many} servers of {}", group_in_words(group));
                match case.kind {
                    Kind::Pressure => format!(
                        "{who} {} processor time to their hypervisor {when}: steal up to {:.0} %",
                        tense("lose", "lost"),
                        self.steal_max() * 100.0
                    ),
                    Kind::Services => format!("{} failed on {who} {when}", self.units()),
                    _ => format!("{who} {} nothing {when}", tense("send", "sent")),
                }
            }
            Scope::Server(id) => {
                let server = name(self.fleet, *id);
                let left = self.fleet.server(*id).is_some_and(|s| s.presence.goodbye_at.is_some());
                if left && !over {
                    format!("agent on {server} stopped at {from} and did not come back")
                } else {
                    format!("agent on {server} {} {when}", tense("silent", "was silent"))
                }
            }
            Scope::Pool(_) | Scope::Site(_) => String::new(),
        };
        text + flaps
    }

    fn steal_max(&self) -> f64 {
        self.servers().map(pressure::steal_max).fold(0.0, f64::max)
    }

    /// The units that failed: the most common ones.
    fn units(&self) -> String {
        let mut units: BTreeMap<&str, usize> = BTreeMap::new();
        for server in self.servers() {
            let last = || server.units.iter().filter(|(n, u)| u.ran && u.is_gateway(n));
            let named = services::failed_unit(server).map(|(name, _)| name);
            let named = named.or_else(|| last().max_by_key(|(_, u)| u.since).map(|(n, _)| &**n));
            *units.entry(named.unwrap_or("a service")).or_default() += 1;
        }
        let mut units: Vec<(usize, &str)> = units.into_iter().map(|(name, n)| (n, name)).collect();
        units.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
        let named: Vec<&str> = units.iter().take(2).map(|(_, name)| *name).collect();
        if named.is_empty() { "a service".to_owned() } else { named.join(" and ") }
    }

    fn cause(&self, settings: &Settings) -> Cause {
        let (class, confidence) = match self.case.kind {
            Kind::Pressure => ("steal", 0.95),
            Kind::Services => ("service_down", 0.9),
            _ => ("agent_silence", 0.9),
        };
        let mut evidence: Vec<Evidence> = self.servers().filter_map(|s| self.sign(s)).collect();
        evidence.truncate(EVIDENCE_MAX);
        let mut alternatives = Vec::new();
        if self.case.kind == Kind::Silence {
            self.before(&mut evidence, &mut alternatives);
            evidence.insert(0, self.witness(settings));
            evidence.truncate(EVIDENCE_MAX);
        }
        Cause { class: class.to_owned(), confidence, evidence, alternatives }
    }

    /// What one server shows.
    fn sign(&self, server: &Server) -> Option<Evidence> {
        let member = self.case.members.get(&server.id)?;
        let (kind, text, weight) = match self.case.kind {
            Kind::Pressure => {
                let steal = pressure::steal_max(server) * 100.0;
                ("resource", format!("steal up to {steal:.0} % for a minute and more"), 4.2)
            }
            Kind::Services => {
                let (name, unit) = services::failed_unit(server)?;
                ("service", format!("{name} {}", unit.state_in_words()), 3.5)
            }
            _ if server.presence.goodbye_at.is_some() => {
                ("service", "the agent said goodbye and no hello came".to_owned(), 1.0)
            }
            _ => {
                let beat = server.presence.heartbeat_ms as f64 / 1000.0;
                ("service", format!("its last word; a heartbeat is due every {beat} s"), 3.5)
            }
        };
        let (at, name) = (UnixMillis(member.heard_at), Some(server.name.clone()));
        Some(Evidence { kind: kind.to_owned(), text, at, server: name, weight })
    }

    /// What the silent servers showed just before.
    fn before(&self, evidence: &mut Vec<Evidence>, alternatives: &mut Vec<Alternative>) {
        const LEVELS: [(Level, &str, &str); 5] = [
            (Level::Steal, "steal", "steal"),
            (Level::Retransmit, "network", "segments sent again"),
            (Level::DiskFull, "disk_full", "a full file system"),
            (Level::MemoryPressure, "oom", "pressure on memory"),
            (Level::OomKill, "oom", "a process killed for lack of memory"),
        ];
        for (level, class, what) in LEVELS {
            let held = self.servers().filter_map(|server| {
                let last = self.case.members.get(&server.id)?.heard_at;
                let span = server.levels.get(&level)?;
                let held = span.held.filter(|held| (last - held).abs() <= BEFORE_MS)?;
                Some((server, held, span.value))
            });
            let held: Vec<_> = held.collect();
            if held.is_empty() || (held.len() as f64) < SHARE * self.hit.len() as f64 {
                continue;
            }
            let (server, at, value) = held[0];
            let value =
                if value <= 1.0 { format!(" of {:.0} %", value * 100.0) } else { String::new() };
            let many = if self.hit.len() > 1 {
                format!(", on {} of {} servers", held.len(), self.hit.len())
            } else {
                String::new()
            };
            evidence.insert(
                0,
                Evidence {
                    kind: "resource".to_owned(),
                    text: format!("{what}{value} just before{many}"),
                    at: UnixMillis(at),
                    server: Some(server.name.clone()),
                    weight: 1.5,
                },
            );
            if alternatives.iter().all(|known| known.class != class) {
                alternatives.push(Alternative { class: class.to_owned(), confidence: 0.05 });
            }
        }
        if alternatives.is_empty() && self.hit.len() > 1 {
            alternatives.push(Alternative { class: "network".to_owned(), confidence: 0.05 });
        }
    }

    /// Who says that it is not the collector itself.
    fn witness(&self, settings: &Settings) -> Evidence {
        let talks = |server: &&Server| {
            !self.case.members.contains_key(&server.id)
                && !server.forgotten
                && server.presence.silent_since.is_none()
                && server.arrived > self.case.started_at
        };
        let n = self.fleet.servers.values().filter(talks).count();
        let text = match (n, settings.has_witnesses) {
            (0, false) => "nobody else talks, and no witness is configured ([detect] witnesses): \
                           the collector's own uplink cannot be ruled out"
                .to_owned(),
            (0, true) => {
                "a configured witness answers: the collector's own uplink works".to_owned()
            }
            (1, _) => "another server talks meanwhile".to_owned(),
            (n, _) => format!("{n} other servers talk meanwhile"),
        };
        let weight = if n > 0 || settings.has_witnesses { 3.0 } else { 0.0 };
        let at = UnixMillis(self.case.detected_at);
        Evidence { kind: "prior".to_owned(), text, at, server: None, weight }
    }

    fn actions(&self) -> Vec<Action> {
        let act = |text: String, command: Option<String>| Action { text, command };
        let server = self.servers().map(|server| server.name.as_str()).find(|name| is_plain(name));
        let bundle = format!(
            "gatewatch-collector incident evidence {} --format html --out evidence.html",
            self.case.id
        );
        let ask = |what: &str| {
            let text =
                format!("Ask the provider about {what}; the bundle has times, order and servers");
            act(text, Some(bundle.clone()))
        };
        let group = match &self.case.scope {
            Scope::Group(group) => group_in_words(group),
            _ => server.unwrap_or("the server").to_owned(),
        };
        match self.case.kind {
            Kind::Pressure => vec![
                ask(&format!("the load of {group}")),
                act(
                    "See the steal (column st) on a server".to_owned(),
                    Some("vmstat 1 5".to_owned()),
                ),
            ],
            Kind::Services => {
                let unit = self.servers().find_map(services::failed_unit);
                let unit = unit.map(|(name, _)| name).filter(|name| is_plain(name));
                let on = |command: &str| unit.map(|unit| format!("{command} {unit}"));
                vec![
                    act(
                        "See why it failed, on one of the servers".to_owned(),
                        on("systemctl status"),
                    ),
                    act("Read its last lines".to_owned(), on("journalctl -n 50 -u")),
                    act("Look for what was rolled out to all of them just before".to_owned(), None),
                ]
            }
            _ => vec![
                act(
                    "See whether the server answers".to_owned(),
                    server.map(|name| format!("ping -c 3 {name}")),
                ),
                act(
                    "If it does, look at its agent, on the server".to_owned(),
                    Some("systemctl status gatewatch-agent".to_owned()),
                ),
                ask(&group),
            ],
        }
    }
}

/// "hypervisor hv-3", "region eu and image deb12", or how many servers there are.
fn group_in_words(group: &Group) -> String {
    match group {
        Group::Labels(labels) => {
            let parts: Vec<String> = labels.iter().map(|(k, v)| format!("{k} {v}")).collect();
            parts.join(" and ")
        }
        Group::All => "the whole fleet".to_owned(),
        Group::Cohort(..) => story::group_name(group),
    }
}

/// Whether a name that came in a message may stand in a command.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}
