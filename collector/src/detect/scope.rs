//! Localisation: which one place explains the failures that are seen together.
//!
//! A scope is weighed by a Bayes factor over its sites. A failing site speaks for it, a site that
//! answers well against it, a site without traffic says nothing; so a wider scope pays for every
//! healthy member, and a narrower one pays a prior for every further incident.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::alike;
use super::candidates::Candidates;
pub(crate) use super::children::unfaded;
use super::children::{Child, children};
pub use super::children::{FAILING, child_factor, closed_second, failing_evidence};
use super::group::SAYS_NOTHING;
use super::lasting::{first_failure, is_fresh, persists, verdict};
use super::outage::{self, Groups, Shared};
use super::site::Site;
use super::trail::{Trail, Weighed};
use super::{Fleet, Settings};
use crate::incident::story;
use crate::model::{ServerId, SiteId};

/// Log prior of a pool or a server.
const PRIOR: f64 = -4.0;
/// What a server must beat the sum of its pools by, nats; more when they fail in different ways.
const MARGIN: f64 = 3.0;
const MARGIN_UNLIKE: f64 = 12.0;
/// Clients, or sites, that failures of a pool or a server must reach: what two people met may be
/// theirs.
const WITNESSES_MIN: usize = 3;

/// What serves sites.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Pool {
    /// PHP-FPM pool, socket or port of one server.
    Local(ServerId, String),
    /// Address on another machine: one for all servers that use it.
    Upstream(String),
}

/// Servers that may share a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Group {
    /// Every server.
    All,
    /// All servers with this value of a label, or with both of a pair.
    Labels(BTreeMap<String, String>),
    /// Servers that made the same change: what it was, and who.
    Cohort(String, BTreeSet<ServerId>),
}

/// Where something fails. Wider scopes sort first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Several servers.
    Group(Group),
    /// One server.
    Server(ServerId),
    /// One pool.
    Pool(Pool),
    /// One site.
    Site(SiteId),
}

impl Scope {
    /// `site`, `pool`, `server` or `group`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Group(_) => "group",
            Self::Server(_) => "server",
            Self::Pool(_) => "pool",
            Self::Site(_) => "site",
        }
    }
}

/// A scope that explains failures now.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Where.
    pub scope: Scope,
    /// Log odds, nats.
    pub score: f64,
    /// Failing sites in it, by position in the fleet.
    pub failing: Vec<u32>,
    /// When the first of them could have opened by itself, on the collector's clock.
    pub verdict_at: i64,
}

/// What localisation works with beside the fleet.
pub(crate) struct Ground<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) candidates: &'a Candidates,
    /// Groups that have an open incident.
    pub(crate) open: &'a [Group],
    /// The collector's clock, ms.
    pub(crate) now: i64,
}

/// What localisation found.
#[derive(Debug, Default)]
pub(crate) struct Located {
    /// Servers that were looked at.
    pub(crate) servers: BTreeSet<ServerId>,
    /// The scopes that explain what fails, wider ones first.
    pub(crate) findings: Vec<Finding>,
    /// Servers that fail as a whole; known only while several are suspect.
    pub(crate) failing: BTreeSet<ServerId>,
}

/// Weighs the scopes around these servers: pools that several share, each server by itself, then
/// the groups; what a wider scope explains is not reported again for what lies in it.
pub(crate) fn localise(
    fleet: &mut Fleet,
    servers: BTreeSet<ServerId>,
    ground: &Ground<'_>,
    trail: &mut Trail,
) -> Located {
    for server in &servers {
        judge_sites(fleet, *server, ground.settings, ground.now);
    }
    let fleet_then = &*fleet;
    let weighed: BTreeMap<ServerId, Vec<Child>> = servers
        .iter()
        .map(|id| (*id, children(fleet_then, *id, ground.settings, ground.now)))
        .collect();
    let pools: Vec<SharedPool> = shared_upstreams(fleet_then, &servers)
        .into_iter()
        .filter_map(|address| shared_pool(fleet_then, &address, &weighed, ground, trail))
        .collect();
    let covered: BTreeSet<u32> = pools.iter().flat_map(|p| p.failing.iter().copied()).collect();
    let mut inner = Vec::new();
    let mut accepted: BTreeSet<ServerId> =
        pools.iter().flat_map(|pool| servers_of(fleet_then, &pool.failing)).collect();
    for (id, all) in &weighed {
        let before = inner.len();
        in_server(fleet_then, *id, all, &covered, ground, trail, &mut inner);
        if inner.len() > before {
            accepted.insert(*id);
        }
    }
    let shared = Shared { weighed: &weighed, pools: &pools, accepted: &accepted };
    let Groups { findings: groups, failing, lost } =
        outage::groups(fleet_then, &shared, ground, trail);
    let in_group: BTreeSet<ServerId> =
        groups.iter().flat_map(|group| servers_of(fleet_then, &group.failing)).collect();
    let stands = |ix: usize| !lost.contains(&ix);
    let pools = pools.into_iter().enumerate().filter(|(ix, _)| stands(*ix)).map(|(_, pool)| pool);
    let mut findings = groups;
    findings.extend(pools.filter_map(|pool| pool.finding(fleet_then, ground.now)));
    let is_inner = |finding: &Finding| {
        servers_of(fleet_then, &finding.failing).iter().any(|id| in_group.contains(id))
    };
    findings.extend(inner.into_iter().filter(|finding| !is_inner(finding)));
    findings.sort_by(|a, b| a.scope.cmp(&b.scope));
    drop(weighed);
    for id in accepted {
        if let Some(server) = fleet.servers.get_mut(&id) {
            server.verdict = Some(outage::verdict(server, ground.now));
        }
    }
    Located { servers, findings, failing }
}

/// The servers of sites.
pub(crate) fn servers_of(fleet: &Fleet, sites: &[u32]) -> BTreeSet<ServerId> {
    sites.iter().map(|ix| fleet.site(*ix).server).collect()
}

/// Addresses that failing sites of these servers and of others use.
fn shared_upstreams(fleet: &Fleet, servers: &BTreeSet<ServerId>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for id in servers {
        for site in fleet.suspects(*id).map(|ix| fleet.site(ix)) {
            if let Some(Pool::Upstream(address)) = &site.place
                && !found.contains(address)
            {
                found.insert(address.clone());
            }
        }
    }
    found.retain(|address| {
        let users = fleet.users(address);
        let first = users.first().map(|ix| fleet.site(*ix).server);
        users.iter().any(|ix| Some(fleet.site(*ix).server) != first)
    });
    found
}

/// A pool that several servers use and that fails.
pub(super) struct SharedPool {
    pub(super) address: String,
    pub(super) score: f64,
    pub(super) failing: Vec<u32>,
    corroborated: bool,
}

impl SharedPool {
    fn finding(self, fleet: &Fleet, now: i64) -> Option<Finding> {
        let stands = persists(fleet, &self.failing, self.corroborated)
            && is_fresh(fleet, &self.failing, now);
        let verdict_at = verdict(fleet, &self.failing, now);
        let scope = Scope::Pool(Pool::Upstream(self.address));
        let (score, failing) = (self.score, self.failing);
        stands.then_some(Finding { scope, score, failing, verdict_at })
    }
}

/// Whether suspect sites of two servers use an address: thousands of servers may, and all their sites
/// are looked at only when this holds.
pub(super) fn several_fail_on(fleet: &Fleet, address: &str) -> bool {
    let uses = |ix: u32| matches!(&fleet.site(ix).place, Some(Pool::Upstream(of)) if of == address);
    let servers = fleet.suspects.keys().filter(|id| fleet.suspects(**id).any(uses));
    servers.take(2).count() == 2
}

/// A pool that several servers use: weighed over all its sites, against each server by itself.
fn shared_pool(
    fleet: &Fleet,
    address: &str,
    weighed: &BTreeMap<ServerId, Vec<Child<'_>>>,
    ground: &Ground<'_>,
    trail: &mut Trail,
) -> Option<SharedPool> {
    if !several_fail_on(fleet, address) {
        return None;
    }
    let servers = servers_of(fleet, fleet.users(address));
    let others: BTreeMap<ServerId, Vec<Child>> = servers
        .iter()
        .filter(|id| !weighed.contains_key(id))
        .map(|id| (*id, children(fleet, *id, ground.settings, ground.now)))
        .collect();
    let of = |id: &ServerId| weighed.get(id).or_else(|| others.get(id)).into_iter().flatten();
    let is_of = |child: &&Child| matches!(child.pool, Some(Pool::Upstream(of)) if of == address);
    let inside: Vec<&Child> = servers.iter().flat_map(of).filter(is_of).collect();
    let failing: Vec<u32> = inside.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
    let failing_servers = servers_of(fleet, &failing);
    if failing_servers.len() < 2 {
        return None;
    }
    let score = inside.iter().map(|c| c.factor).sum::<f64>() + PRIOR;
    let apart: f64 = failing_servers
        .iter()
        .map(|id| (of(id).map(|c| c.factor).sum::<f64>() + PRIOR).max(0.0))
        .sum();
    let needed = ground.settings.pool_nats;
    let corroborated = failing_servers.iter().any(|server| {
        fleet.servers[server].corroboration(Some(address), first_failure(fleet, &failing)) > 0.0
    });
    let rejected = match () {
        () if !corroborated && !has_witnesses(fleet, &failing) => Some(FEW.to_owned()),
        () if score < needed => Some(format!("{score:.1} nats, {needed:.0} needed")),
        () if score <= apart => {
            Some(format!("the servers by themselves explain more: {apart:.1} nats"))
        }
        () => None,
    };
    trail.note(|| Weighed {
        at: ground.now,
        scope: format!("pool:{address}"),
        score,
        needed,
        n_failing: failing.len(),
        n_well: inside.iter().filter(|c| c.evidence < -SAYS_NOTHING).count(),
        rejected: rejected.clone(),
    });
    if rejected.is_some() {
        return None;
    }
    Some(SharedPool { address: address.to_owned(), score, failing, corroborated })
}

/// The scopes of one server: itself, its pools, its sites, the best explanation first.
fn in_server(
    fleet: &Fleet,
    id: ServerId,
    all: &[Child<'_>],
    covered: &BTreeSet<u32>,
    ground: &Ground<'_>,
    trail: &mut Trail,
    found: &mut Vec<Finding>,
) {
    let (settings, now) = (ground.settings, ground.now);
    let all: Vec<&Child> = all.iter().filter(|child| !covered.contains(&child.ix)).collect();
    let failing: Vec<u32> = all.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
    if failing.is_empty() {
        return;
    }
    let pools = pools(fleet, &all, settings);
    let mut add = |scope: Scope, score: f64, failing: Vec<u32>, corroborated: bool| {
        let reason = match () {
            () if !persists(fleet, &failing, corroborated) => Some("it may be a stall so far"),
            () if !is_fresh(fleet, &failing, now) => Some("no failure arrived lately"),
            () => None,
        };
        let verdict_at = verdict(fleet, &failing, now);
        let (key, n_failing) = (scope.clone(), failing.len());
        if reason.is_none() {
            found.push(Finding { scope, score, failing, verdict_at });
        }
        (key, n_failing, reason)
    };
    let mut note = |(scope, n_failing, reason): (Scope, usize, Option<&str>), score, needed| {
        trail.note(|| Weighed {
            at: now,
            scope: story::scope_key(fleet, &scope),
            score,
            needed,
            n_failing,
            n_well: all.iter().filter(|c| is_well_in(fleet, &scope, c)).count(),
            rejected: reason.map(str::to_owned),
        });
    };
    let said = server_wins(fleet, id, &all, &pools, settings);
    if let Some((score, corroborated)) = said.wins {
        note(add(Scope::Server(id), score, failing, corroborated), score, settings.server_nats);
        return;
    }
    let reason = Some(said.why.as_str()).filter(|why| !why.is_empty());
    note((Scope::Server(id), failing.len(), reason), said.score, settings.server_nats);
    let mut in_pool = BTreeSet::new();
    for pool in pools {
        let (scope, score) = (Scope::Pool(pool.pool), pool.score);
        if pool.accepted {
            in_pool.extend(pool.failing.iter().copied());
            note(add(scope, score, pool.failing, pool.corroborated), score, settings.pool_nats);
        } else {
            let why = Some("too many of its sites answer, or too few fail for too few clients");
            note((scope, pool.failing.len(), why), score, settings.pool_nats);
        }
    }
    for ix in failing.into_iter().filter(|ix| !in_pool.contains(ix)) {
        let site = fleet.site(ix);
        let (scope, score) = (Scope::Site(site.id), site_score(fleet, site));
        let judged = site.episode.as_ref().is_some_and(|e| e.verdict_at.is_some());
        if judged && holds(fleet, site, settings) && !held(site, now) {
            let corroborated = corroboration(fleet, site) > 0.0;
            note(add(scope, score, vec![ix], corroborated), score, settings.open_nats);
        } else {
            let why = Some(why_not(site, settings, now));
            note((scope, 1, why), score, settings.open_nats);
        }
    }
}

/// Whether a site of a scope answers well.
fn is_well_in(fleet: &Fleet, scope: &Scope, child: &Child<'_>) -> bool {
    child.evidence < -SAYS_NOTHING && holds_site(fleet, scope, child.ix)
}

/// Why a failing site does not open.
fn why_not(site: &Site, settings: &Settings, now: i64) -> &'static str {
    let n_failed = site.episode.as_ref().map_or(0.0, |episode| episode.n_failed);
    match () {
        () if site.is_chronic() => "it always fails: listed as chronic",
        () if held(site, now) => "its incident resolved just now",
        () if n_failed < settings.n_failed_min - 1e-9 => "too few failures of different clients",
        () => "too few failures for its past",
    }
}

/// Notes when the test of each site of a server held first.
fn judge_sites(fleet: &mut Fleet, id: ServerId, settings: &Settings, now: i64) {
    let sites = fleet.servers.get(&id).map_or_else(Vec::new, |server| server.sites.clone());
    for ix in sites {
        let site = fleet.site(ix);
        let waits = site.episode.as_ref().is_some_and(|episode| episode.verdict_at.is_none());
        if waits && holds(fleet, site, settings) {
            let site = fleet.site_mut(ix);
            if let Some(episode) = &mut site.episode {
                episode.verdict_at = Some(now);
            }
        }
    }
}

/// The sequential test of one site, with corroboration.
fn holds(fleet: &Fleet, site: &Site, settings: &Settings) -> bool {
    // 1.0 + 1.0 + 1.0 may come out a hair below 3.
    let enough = |n: f64| n >= settings.n_failed_min - 1e-9;
    site.episode.as_ref().is_some_and(|episode| enough(episode.n_failed))
        && !site.is_chronic()
        && site_score(fleet, site) >= settings.open_nats
}

fn site_score(fleet: &Fleet, site: &Site) -> f64 {
    site.score_then() + corroboration(fleet, site)
}

fn corroboration(fleet: &Fleet, site: &Site) -> f64 {
    let first = site.episode.as_ref().map_or(0, |episode| episode.first_at);
    let server = fleet.servers.get(&site.server);
    server.map_or(0.0, |server| server.corroboration(site.pool.as_deref(), first))
}

/// A site that failed on when its incident resolved waits before it opens by itself.
fn held(site: &Site, now: i64) -> bool {
    site.hold_until.is_some_and(|until| now < until)
}

/// The pool of a site: as configured, else as its error lines name it.
#[must_use]
pub(super) fn pool_of(site: &Site) -> Option<Pool> {
    if let Some(address) = &site.upstream {
        return Some(Pool::Upstream(address.clone()));
    }
    if let Some(pool) = &site.pool {
        return Some(Pool::Local(site.server, pool.clone()));
    }
    let named = site.upstream_named.as_deref()?;
    let address = named.split_once("://").map_or(named, |(_, rest)| rest);
    let address = address.trim_end_matches([':', '/']);
    if is_local(address) {
        Some(Pool::Local(site.server, address.to_owned()))
    } else {
        Some(Pool::Upstream(address.to_owned()))
    }
}

fn is_local(address: &str) -> bool {
    let starts = ["unix:", "/", "127.", "localhost", "[::1]", "::1"];
    starts.iter().any(|start| address.starts_with(start)) || !address.contains([':', '.'])
}

struct WeighedPool {
    pool: Pool,
    score: f64,
    failing: Vec<u32>,
    corroborated: bool,
    accepted: bool,
}

fn pools(fleet: &Fleet, all: &[&Child<'_>], settings: &Settings) -> Vec<WeighedPool> {
    let mut by_pool: BTreeMap<&Pool, Vec<&Child<'_>>> = BTreeMap::new();
    for child in all {
        if let Some(pool) = child.pool {
            by_pool.entry(pool).or_default().push(child);
        }
    }
    let weigh = |(pool, inside): (&Pool, Vec<&Child<'_>>)| {
        let failing: Vec<u32> = inside.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
        if failing.len() < 2 {
            return None;
        }
        let site = fleet.site(failing[0]);
        let server = fleet.servers.get(&site.server)?;
        let extra = server.corroboration(Some(pool.name()), first_failure(fleet, &failing));
        let score = inside.iter().map(|c| c.factor).sum::<f64>() + PRIOR + extra;
        let (pool, corroborated) = (pool.clone(), extra > 0.0);
        let accepted =
            score >= settings.pool_nats && (corroborated || has_witnesses(fleet, &failing));
        Some(WeighedPool { pool, score, failing, corroborated, accepted })
    };
    by_pool.into_iter().filter_map(weigh).collect()
}

impl Pool {
    /// Its name or address.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Local(_, name) | Self::Upstream(name) => name,
        }
    }
}

/// What became of a server as a whole.
struct ServerSaid {
    score: f64,
    /// Its score, and whether facts of the machine support it; `None` when something else wins.
    wins: Option<(f64, bool)>,
    /// Why something else does.
    why: String,
}

/// The server's log odds, and whether it explains more than its pools and sites by themselves.
fn server_wins(
    fleet: &Fleet,
    id: ServerId,
    all: &[&Child<'_>],
    pools: &[WeighedPool],
    settings: &Settings,
) -> ServerSaid {
    let failing: Vec<u32> = all.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
    let n_min = if all.len() == 2 { 2 } else { 3 };
    let first = first_failure(fleet, &failing);
    let extra = fleet.servers.get(&id).map_or(0.0, |server| server.corroboration(None, first));
    let n_failed: f64 =
        failing.iter().filter_map(|ix| fleet.site(*ix).episode.as_ref()).map(|e| e.n_failed).sum();
    let score = all.iter().map(|c| c.factor).sum::<f64>() + PRIOR + extra;
    let known: BTreeSet<Option<&Pool>> = all.iter().map(|c| c.pool).collect();
    let parts: f64 = pools.iter().map(|pool| pool.score.max(0.0)).sum();
    let margin = || match known.len() {
        // Its only pool and the server are the same thing: the server is what people know.
        0 | 1 => -1e-9,
        _ if fail_alike(fleet, pools) => MARGIN,
        _ => MARGIN_UNLIKE,
    };
    let (mut wins, mut why) = (None, String::new());
    match () {
        () if failing.len() < n_min => why = format!("{n_min} failing sites needed"),
        () if n_failed < 4.0 - 1e-9 && extra <= 0.0 => {
            "4 failures of different clients needed".clone_into(&mut why);
        }
        () if extra <= 0.0 && !has_witnesses(fleet, &failing) => FEW.clone_into(&mut why),
        () if score < settings.server_nats => {
            why = format!("{score:.1} nats, {:.0} needed", settings.server_nats);
        }
        () if score <= parts + margin() => {
            why = format!("its pools by themselves explain as much: {parts:.1} nats");
        }
        () => wins = Some((score, extra > 0.0)),
    }
    ServerSaid { score, wins, why }
}

/// Why a scope that too few clients saw failing does not open.
const FEW: &str = "failures of 3 clients, or on 3 sites, needed";

/// Whether failures reached enough clients or sites to be of what these share; true where nobody
/// knows the clients.
fn has_witnesses(fleet: &Fleet, failing: &[u32]) -> bool {
    if failing.len() >= WITNESSES_MIN {
        return true;
    }
    let mut clients = BTreeSet::new();
    for site in failing.iter().map(|ix| fleet.site(*ix)) {
        if site.has_unknown_clients() {
            return true;
        }
        clients.extend(site.failed_clients().take(WITNESSES_MIN));
    }
    clients.len() >= WITNESSES_MIN
}

fn fail_alike(fleet: &Fleet, pools: &[WeighedPool]) -> bool {
    let mixtures: Vec<_> =
        pools.iter().filter_map(|pool| alike::mixture(fleet, &pool.failing)).collect();
    alike::all_alike(&mixtures)
}

/// Whether two scopes are one: a cohort is its change, whoever had it by now.
#[must_use]
pub fn is_same(a: &Scope, b: &Scope) -> bool {
    match (a, b) {
        (Scope::Group(Group::Cohort(a, _)), Scope::Group(Group::Cohort(b, _))) => a == b,
        _ => a == b,
    }
}

/// Whether `outer` holds every site of `inner`.
#[must_use]
pub fn contains(fleet: &Fleet, outer: &Scope, inner: &Scope) -> bool {
    if outer == inner {
        return true;
    }
    match (outer, inner) {
        (Scope::Group(group), Scope::Server(server) | Scope::Pool(Pool::Local(server, _))) => {
            fleet.is_in(group, *server)
        }
        (Scope::Group(group), Scope::Pool(Pool::Upstream(address))) => {
            fleet.users(address).iter().all(|ix| fleet.is_in(group, fleet.site(*ix).server))
        }
        (Scope::Group(outer), Scope::Group(inner)) => {
            fleet.members(inner).iter().all(|server| fleet.is_in(outer, *server))
        }
        (Scope::Server(server), Scope::Pool(Pool::Local(of, _))) => server == of,
        (Scope::Server(server), Scope::Pool(Pool::Upstream(address))) => {
            fleet.users(address).iter().all(|ix| fleet.site(*ix).server == *server)
        }
        (_, Scope::Site(site)) => fleet.find(*site).is_some_and(|ix| holds_site(fleet, outer, ix)),
        _ => false,
    }
}

/// Whether a site lies in a scope.
#[must_use]
pub fn holds_site(fleet: &Fleet, scope: &Scope, ix: u32) -> bool {
    let site = fleet.site(ix);
    match scope {
        Scope::Group(group) => fleet.is_in(group, site.server),
        Scope::Server(server) => site.server == *server,
        Scope::Pool(pool) => site.place.as_ref() == Some(pool),
        Scope::Site(id) => site.id == *id,
    }
}
