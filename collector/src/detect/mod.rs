//! Stage 8: records in, transitions of incidents out. Pure: no clock, no IO, no randomness.
//!
//! The engine works in corrected event time and acts on a grid of 250 ms of the collector's clock,
//! so that the same records with the same arrival times always give the same transitions, and a
//! saved engine goes on as if it had never stopped.

pub mod past;
pub mod burn;
pub mod crowd;
pub mod site;
pub mod server;
pub mod levels;
pub mod scope;
pub mod children;
pub mod alike;
pub mod lasting;
pub mod candidates;
pub mod group;
pub mod cohort;
pub mod outage;
pub mod table;
pub mod evidence;
pub mod cause;
pub mod change;
pub mod runbook;
pub mod trail;
mod steps;
mod fold;
mod fleet;
pub mod silence;
pub mod pressure;
pub mod services;
pub mod hosts;
#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod waits_tests;
#[cfg(test)]
mod cause_tests;
#[cfg(test)]
mod cause_scenes;
#[cfg(test)]
mod group_scenes;
#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod change_tests;
#[cfg(test)]
mod runbook_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod twins_tests;
#[cfg(test)]
mod hosts_tests;
#[cfg(test)]
mod silence_tests;
#[cfg(test)]
mod family_tests;
#[cfg(test)]
mod apart_tests;
#[cfg(test)]
mod group_restart_tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::config::DetectConfig;
use crate::incident::Book;
use crate::incident::burning::Burns;
use crate::model::{ServerId, SiteId, Transition};
use candidates::Candidates;
pub use fleet::Fleet;
use hosts::Hosts;
use past::Past;
use scope::{Ground, Located};
use server::Server;
use trail::{Stood, Trail, Weighed};

/// Grid on which the engine acts, ms.
pub const TICK_MS: i64 = 250;
/// Time after the arrival of a failure in which a server is looked at on every tick, ms.
const ATTENTION_MS: i64 = 25_000;
/// Neighbours of a server are of interest for this long after one of its tests held, ms.
const NEIGHBOURS_MS: i64 = 30_000;
/// Old data is decided on after each slice of event time this long, ms.
const SLICE_MS: i64 = 5_000;
/// A record further ahead of the collector's clock than this is refused, ms.
const AHEAD_MAX_MS: i64 = 300_000;
/// Counts older than the past reaches are refused, ms.
const AGE_MAX_MS: i64 = 28 * 86_400_000;
/// Sites that are looked at between two points of the grid for old data of one server: its slices are
/// joined beyond. A server with 40 sites may send nearly two hours of its past at once.
const LOOK_SITES_MAX: usize = 50_000;
/// Sites of one server that are judged.
const SITES_MAX: usize = 20_000;

/// The detector's knobs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Score at which a site opens, nats.
    pub open_nats: f64,
    /// Smallest failure rate worth waking someone.
    pub p_bad_min: f64,
    /// De-duplicated failures a site needs at least.
    pub n_failed_min: f64,
    /// Score at which a pool opens, nats.
    pub pool_nats: f64,
    /// Score at which a server opens, nats.
    pub server_nats: f64,
    /// When servers are a group.
    pub group: group::Rules,
    /// Labels whose values make groups, the most physical first.
    pub group_labels: Vec<String>,
    /// Quiet time before an incident resolves, ms.
    pub quiet_ms: i64,
    /// Age of the newest failure beyond which an incident is retroactive, ms.
    pub retroactive_ms: i64,
    /// Time after resolution in which the same scope revives its incident, ms.
    pub cooldown_ms: i64,
    /// Share of requests that ought to be answered: what slow burns are measured by.
    pub slo: f64,
    /// Whether the collector can ask somebody for its own uplink.
    pub has_witnesses: bool,
}

impl From<&DetectConfig> for Settings {
    fn from(config: &DetectConfig) -> Self {
        let ms = |span: &wire::units::Span| i64::try_from(span.0.as_millis()).unwrap_or(i64::MAX);
        Self {
            open_nats: config.open_nats,
            p_bad_min: config.p_bad_min,
            n_failed_min: config.n_failed_min,
            pool_nats: config.pool_nats,
            server_nats: config.server_nats,
            group: group::Rules {
                accept_nats: config.group_nats,
                n_failing_min: (config.group_servers_min as usize).max(candidates::SERVERS_MIN),
                share_min: config.group_share_min,
                ..group::Rules::default()
            },
            group_labels: config.group_labels.clone(),
            quiet_ms: ms(&config.quiet),
            retroactive_ms: ms(&config.retroactive_after),
            cooldown_ms: ms(&config.cooldown),
            slo: config.slo,
            has_witnesses: !config.witnesses.is_empty(),
        }
    }
}

/// What the engine refused or could not place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Records more than five minutes ahead, or older than 28 days.
    pub n_misdated: u64,
    /// Records of a site nobody has named.
    pub n_unknown: u64,
    /// Sites over the limit of one server.
    #[serde(default)]
    pub n_sites: u64,
    /// The most sites and pools that failed at once beyond what a server may open.
    #[serde(default)]
    pub n_crowded_max: u64,
}

/// The detector and its incidents.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    #[serde(skip, default = "default_settings")]
    settings: Settings,
    fleet: Fleet,
    book: Book,
    #[serde(default)]
    burns: Burns,
    /// Last point of the grid acted on; `None` before the first.
    tick: Option<i64>,
    /// Sites that gained something since the last tick.
    touched: BTreeSet<u32>,
    /// Servers to look at, and until when.
    attention: BTreeMap<ServerId, i64>,
    /// Suspect servers of which another fact came, and when, since the last tick.
    #[serde(default)]
    stirred: BTreeMap<ServerId, i64>,
    refused: Refused,
    /// Of each server with old data: a point of the grid, and sites looked at since.
    #[serde(default)]
    looked: BTreeMap<ServerId, (i64, usize)>,
    /// What whole servers show.
    #[serde(default)]
    hosts: Hosts,
    /// What was weighed, for whoever asks why.
    #[serde(skip)]
    trail: Trail,
    /// Sets of servers that may share a fault, as of the last time that somebody asked.
    #[serde(skip)]
    candidates: Candidates,
}

fn default_settings() -> Settings {
    Settings::from(&DetectConfig::default())
}

impl Engine {
    /// A detector that knows nothing yet.
    #[must_use]
    pub fn new(config: &DetectConfig) -> Self {
        Self {
            settings: Settings::from(config),
            fleet: Fleet::default(),
            book: Book::default(),
            burns: Burns::default(),
            tick: None,
            touched: BTreeSet::new(),
            attention: BTreeMap::new(),
            stirred: BTreeMap::new(),
            refused: Refused::default(),
            looked: BTreeMap::new(),
            hosts: Hosts::default(),
            trail: Trail::default(),
            candidates: Candidates::default(),
        }
    }

    /// The whole state, for `load`.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("every map key is a string or an integer")
    }

    /// The engine that `save` wrote, with today's knobs.
    pub fn load(saved: &[u8], config: &DetectConfig) -> Result<Self, serde_json::Error> {
        let mut engine: Self = serde_json::from_slice(saved)?;
        engine.settings = Settings::from(config);
        engine.fleet.reindex();
        // The first releases never forgot that a server had been suspect.
        for (id, server) in &mut engine.fleet.servers {
            server.suspect_since =
                server.suspect_since.filter(|_| engine.attention.contains_key(id));
        }
        Ok(engine)
    }

    /// The last point of the grid acted on; `None` before the first.
    #[must_use]
    pub fn tick(&self) -> Option<UnixMillis> {
        self.tick.map(UnixMillis)
    }

    /// The open and cooling incidents alone, for `load_cases`.
    #[must_use]
    pub fn save_cases(&self) -> Vec<u8> {
        let cases = (self.tick, &self.book, &self.burns);
        serde_json::to_vec(&cases).expect("map keys are strings or integers")
    }

    /// Takes the incidents as of their last stored transition: an older snapshot of the engine,
    /// brought forward over the same records, may have cut its transitions at other instants.
    /// Leaves a later state of the same records alone.
    pub fn load_cases(&mut self, saved: &[u8]) -> Result<(), serde_json::Error> {
        let all = serde_json::from_slice::<(Option<i64>, Book, Burns)>(saved);
        let (tick, book, burns) = match all {
            Ok(all) => all,
            // As the first release saved it.
            Err(_) => serde_json::from_slice::<(Option<i64>, Book)>(saved)
                .map(|(tick, book)| (tick, book, Burns::default()))?,
        };
        if tick <= self.tick {
            return Ok(());
        }
        self.tick = tick;
        self.book = book;
        self.burns = burns;
        let burning = (0..).zip(&self.fleet.sites).filter(|(_, site)| site.burn.is_some());
        self.burns.look_at(burning.map(|(ix, _)| ix));
        for site in &mut self.fleet.sites {
            site.case = None;
        }
        for (site, case) in self.book.memberships() {
            if let Some(ix) = self.fleet.find(site) {
                self.fleet.site_mut(ix).case = Some(case);
            }
        }
        self.hosts.reconcile(&mut self.fleet, &self.book.servers);
        Ok(())
    }

    /// Tells which incidents somebody has acknowledged.
    pub fn set_acked(&mut self, ids: &BTreeSet<String>) {
        self.book.set_acked(ids);
    }

    /// Servers that share a value of one of these labels with a server that has an open incident, or
    /// one of whose tests held lately: they may be next, or show that it is not the label. Values of
    /// more than `n_max` servers are left out: asking all of them would cost more than it tells.
    #[must_use]
    pub fn neighbours(&self, labels: &[String], n_max: usize) -> BTreeSet<ServerId> {
        let sites = self.book.failing().filter_map(|site| self.fleet.find(site));
        let mut failing: BTreeSet<ServerId> = sites.map(|ix| self.fleet.site(ix).server).collect();
        let since = self.tick.unwrap_or(0) - NEIGHBOURS_MS;
        let held = |server: &&Server| server.verdict.is_some_and(|held| held.last >= since);
        let suspects = self.fleet.suspects.keys().filter_map(|id| self.fleet.server(*id));
        failing.extend(suspects.filter(held).map(|server| server.id));
        if failing.is_empty() {
            return failing;
        }
        let values = |server: &ServerId| {
            let server = self.fleet.server(*server);
            let own = server.into_iter().flat_map(|server| &server.labels);
            own.filter(|(label, _)| labels.contains(label))
        };
        let mut sharing: BTreeMap<(&String, &String), Vec<ServerId>> =
            failing.iter().flat_map(values).map(|label| (label, Vec::new())).collect();
        for (id, server) in self.fleet.servers.iter().filter(|(_, server)| !server.forgotten) {
            for (label, value) in labels.iter().filter_map(|l| server.labels.get_key_value(l)) {
                if let Some(servers) = sharing.get_mut(&(label, value))
                    && servers.len() <= n_max
                {
                    servers.push(*id);
                }
            }
        }
        let few = sharing.into_values().filter(|servers| servers.len() <= n_max);
        few.flatten().filter(|id| !failing.contains(id)).collect()
    }

    /// Keeps only these servers: those that were forgotten fail no more, and nobody waits for them.
    pub fn keep(&mut self, servers: &BTreeSet<ServerId>) {
        let mut changes = false;
        for (id, server) in &mut self.fleet.servers {
            let forgotten = !servers.contains(id);
            changes |= server.forgotten != forgotten;
            server.forgotten = forgotten;
        }
        if changes {
            self.fleet.changed();
        }
    }

    /// Keeps what is weighed from now on, for `trail`.
    pub fn explain(&mut self) {
        self.trail.start();
    }

    /// What was weighed since the last call, oldest first; nothing without `explain`.
    pub fn trail(&mut self) -> Vec<Weighed> {
        self.trail.take()
    }

    /// Where the failing sites of each incident stood when it changed, since the last call; nothing
    /// without `explain`.
    pub fn stood(&mut self) -> Vec<Stood> {
        self.trail.take_stood()
    }

    /// Whether a server has said what its clock shows.
    #[must_use]
    pub fn knows_clock(&self, server: ServerId) -> bool {
        self.fleet.server(server).is_some_and(Server::knows_clock)
    }

    /// Label values and pairs that are no candidates for groups, because there are too many of them
    /// or they are too long.
    #[must_use]
    pub fn n_groups_left_out(&self) -> u64 {
        self.candidates.n_left_out()
    }

    /// Whether an incident is open or may still be revived.
    #[must_use]
    pub fn has_cases(&self) -> bool {
        !self.book.is_empty() || !self.book.servers.is_empty()
    }

    /// Whether more than half of all agents fell silent together: then the collector's own uplink
    /// is asked for, and nothing opens until that can have answered.
    #[must_use]
    pub fn doubts_uplink(&self) -> bool {
        self.hosts.doubts_uplink()
    }

    /// Whether a server is silent and in no incident yet: what is known of it should be looked up
    /// before it is told.
    #[must_use]
    pub fn doubts_servers(&self) -> bool {
        self.hosts.doubts_servers()
    }

    /// Takes what is known of a server from elsewhere than its records. Nothing for a server
    /// nobody has named.
    pub fn recall(&mut self, id: ServerId, recalled: &silence::Recalled) {
        if let Some(server) = self.fleet.servers.get_mut(&id) {
            self.hosts.recall(server, recalled);
        }
    }

    /// Takes how a server's clock stands against the collector's, and nothing else.
    pub fn set_clock(&mut self, id: ServerId, arrived_at: UnixMillis, clock: UnixMillis) {
        if let Some(server) = self.fleet.servers.get_mut(&id) {
            server.fold_clock(arrived_at.0, clock.0);
        }
    }

    /// What could not be used so far.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Servers of which records were refused because of their time, and how many.
    pub fn misdated(&self) -> impl Iterator<Item = (&str, u64)> {
        let servers = self.fleet.servers.values().filter(|server| server.n_misdated > 0);
        servers.map(|server| (server.name.as_str(), server.n_misdated))
    }

    /// Sites that fail so often that they never open: (server, site).
    #[must_use]
    pub fn chronic(&self) -> Vec<(&str, &str)> {
        let chronic = self.fleet.sites.iter().filter(|site| site.is_chronic());
        chronic
            .filter_map(|site| {
                let server = self.fleet.servers.get(&site.server)?;
                Some((server.name.as_str(), site.name.as_str()))
            })
            .collect()
    }

    /// Past of every site, for the store.
    pub fn pasts(&self) -> impl Iterator<Item = (SiteId, &Past)> {
        self.fleet.sites.iter().map(|site| (site.id, &site.past))
    }

    /// Gives a site the past that `pasts` gave; nothing for a site nobody has named.
    pub fn set_past(&mut self, id: SiteId, past: Past) {
        if let Some(ix) = self.fleet.find(id) {
            let settings = self.settings.clone();
            self.fleet.site_mut(ix).set_past(past, &settings);
        }
    }

    /// Acts on every point of the grid up to `now`, on the collector's clock.
    pub fn advance(&mut self, now: UnixMillis) -> Vec<Transition> {
        let last = now.0.div_euclid(TICK_MS) * TICK_MS;
        let mut tick = self.tick.map_or(last, |tick| tick + TICK_MS);
        let mut transitions = Vec::new();
        while tick <= last {
            if self.is_idle() {
                // Nothing can happen before the next record, or before a server's deadline.
                let wake = self.hosts.wake().map(|at| (at + TICK_MS - 1).div_euclid(TICK_MS));
                tick = wake.map_or(last, |wake| (wake * TICK_MS).clamp(tick, last));
            }
            self.act(tick, &mut transitions);
            self.tick = Some(tick);
            tick += TICK_MS;
        }
        transitions
    }

    fn is_idle(&self) -> bool {
        let nothing_fails =
            self.touched.is_empty() && self.attention.is_empty() && self.stirred.is_empty();
        nothing_fails && self.book.is_empty() && self.burns.is_idle()
    }

    fn act(&mut self, now: i64, transitions: &mut Vec<Transition>) {
        let located = self.look(now, None);
        let first = transitions.len();
        self.book.step(&mut self.fleet, &located, &self.settings, now, transitions);
        self.burns.step(&mut self.fleet, &self.book, &self.settings, now, transitions);
        if self.hosts.wake().is_some_and(|wake| wake <= now) {
            let explained = self.book.servers.explained();
            let (candidates, settings) = (&mut self.candidates, &self.settings);
            let signals = self.hosts.step(&mut self.fleet, candidates, &explained, settings, now);
            self.book.step_servers(&self.fleet, &signals, settings, now, transitions);
            self.hosts.sleep(now, self.book.servers.in_motion(now));
        }
        self.note_standing(&transitions[first..]);
    }

    /// Keeps where the sites of what was just told stand, while somebody wants to know.
    fn note_standing(&mut self, transitions: &[Transition]) {
        if !self.trail.is_on() {
            return;
        }
        for transition in transitions {
            let (id, at) = (&transition.incident.id, transition.at.0);
            self.trail.stand(&self.fleet, id, at, &self.book.sites_of(id));
        }
    }

    /// Nobody looks at servers any more whose last failures came a while ago: whatever fails there
    /// later turns them suspect anew.
    fn turn_away(&mut self, now: i64) {
        let servers = &mut self.fleet.servers;
        self.attention.retain(|id, until| {
            let stays = now <= *until;
            if let Some(server) = servers.get_mut(id).filter(|_| !stays) {
                server.suspect_since = None;
            }
            stays
        });
    }

    /// Steps the sites that gained something and weighs the scopes around those that fail, or those
    /// of one server alone.
    fn look(&mut self, now: i64, only: Option<ServerId>) -> Located {
        self.stir();
        self.turn_away(now);
        for ix in std::mem::take(&mut self.touched) {
            let site = &mut self.fleet.sites[ix as usize];
            let Some(server) = self.fleet.servers.get_mut(&site.server) else { continue };
            site.step(&self.settings, &|second| server.is_restarting(second));
            if let Some(episode) = &site.episode {
                let until = episode.last_arrival + ATTENTION_MS;
                let until = until.max(site.hold_until.unwrap_or(0) + TICK_MS);
                if now <= until {
                    self.attention.insert(site.server, until);
                    server.suspect_since = server.suspect_since.or(Some(now));
                }
                self.fleet.suspects.entry(site.server).or_default().insert(ix);
            }
        }
        let wanted = |id: &&ServerId| only.is_none_or(|only| only == **id);
        let servers: BTreeSet<ServerId> = self.attention.keys().filter(wanted).copied().collect();
        for id in &servers {
            if self.fleet.suspects(*id).next().is_none() {
                self.attention.remove(id);
                if let Some(server) = self.fleet.servers.get_mut(id) {
                    server.suspect_since = None;
                }
            }
        }
        self.fleet.prune_suspects(now);
        if self.fleet.suspects.len() >= candidates::SERVERS_MIN {
            self.candidates.refresh(&self.fleet, &self.settings.group_labels);
        }
        // Old data of one server says nothing of groups: the others are not then.
        let none = Candidates::default();
        let ground = Ground {
            settings: &self.settings,
            candidates: if only.is_none() { &self.candidates } else { &none },
            open: &self.book.groups(),
            now,
        };
        let mut located = scope::localise(&mut self.fleet, servers, &ground, &mut self.trail);
        let n_left_out = crowd::thin(&self.fleet, &mut located.findings);
        self.refused.n_crowded_max = self.refused.n_crowded_max.max(n_left_out as u64);
        located
    }
}
