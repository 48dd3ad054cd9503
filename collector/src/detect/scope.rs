//! Localisation: which one place explains the failures that are seen together.
//!
//! A scope is weighed by a Bayes factor over its sites. A failing site speaks for it, a site that
//! answers well against it, a site without traffic says nothing; so a wider scope pays for every
//! healthy member, and a narrower one pays a prior for every further incident.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::server::Server;
use super::site::Site;
use super::trail::Trail;
use super::{Fleet, Settings};
use crate::model::{ServerId, SiteId};

/// Largest share of its evidence that one failing site may bring, nats.
const FAILING_MAX: f64 = 14.0;
/// Most that successes of one site may say, nats.
const OK_MAX: f64 = 6.0;
/// Evidence above which a site counts as failing, nats.
pub const FAILING: f64 = 2.5;
/// P(site fails | shared fault) and P(site fails by itself), within a server.
const PHI: f64 = 0.9;
const EPS: f64 = 1e-4;
/// Log prior of a pool or a server.
const PRIOR: f64 = -4.0;
/// What a server must beat the sum of its pools by, nats; more when they fail in different ways.
const MARGIN: f64 = 3.0;
const MARGIN_UNLIKE: f64 = 12.0;
/// Failures older than this fade when a wider scope is weighed, seconds: sites with little traffic
/// keep their score for half an hour, and strays of three of them are no shared fault.
const FADE_AFTER_S: f64 = 30.0;
const FADE_S: f64 = 90.0;
/// A scope opens only within this of the arrival of a failure, ms.
const FRESH_MS: i64 = 10_000;
/// Nats of successes since its last failure from which a site answers again, whatever its score.
const ANSWERS: f64 = 4.0;
/// Share of failures from which a failure is hard.
const HARD: f64 = 0.8;

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

/// Log of the Bayes factor that evidence `l` of one child gives for a shared fault.
#[must_use]
pub fn child_factor(l: f64, phi: f64, eps: f64) -> f64 {
    log_add_exp(phi.ln() + l, (1.0 - phi).ln()) - log_add_exp(eps.ln() + l, (1.0 - eps).ln())
}

fn log_add_exp(a: f64, b: f64) -> f64 {
    let high = a.max(b);
    high + ((a - high).exp() + (b - high).exp()).ln()
}

/// One site as the weighing sees it.
struct Child<'a> {
    ix: u32,
    /// Evidence, nats: above 0 failing, below 0 well, 0 unknown.
    evidence: f64,
    factor: f64,
    pool: Option<&'a Pool>,
}

impl Child<'_> {
    fn is_failing(&self) -> bool {
        self.evidence > FAILING
    }
}

/// Weighs the scopes around these servers. `now` is the collector's clock, ms.
pub(crate) fn localise(
    fleet: &mut Fleet,
    servers: &BTreeSet<ServerId>,
    settings: &Settings,
    now: i64,
    _trail: &mut Trail,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut covered = BTreeSet::new();
    for upstream in shared_upstreams(fleet, servers) {
        shared_pool(fleet, &upstream, settings, now, &mut covered, &mut found);
    }
    for server in servers {
        in_server(fleet, *server, settings, now, &mut covered, &mut found);
    }
    found.sort_by(|a, b| a.scope.cmp(&b.scope));
    found
}

/// Addresses that failing sites of these servers and of others use.
fn shared_upstreams(fleet: &Fleet, servers: &BTreeSet<ServerId>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for server in servers.iter().filter_map(|id| fleet.servers.get(id)) {
        for site in server.sites.iter().map(|ix| fleet.site(*ix)) {
            if let (Some(_), Some(Pool::Upstream(address))) = (&site.episode, &site.place) {
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

/// A pool that several servers use: weighed over all its sites, against each server by itself.
fn shared_pool(
    fleet: &Fleet,
    address: &str,
    settings: &Settings,
    now: i64,
    covered: &mut BTreeSet<u32>,
    found: &mut Vec<Finding>,
) {
    let users = fleet.users(address);
    let servers: BTreeSet<ServerId> = users.iter().map(|ix| fleet.site(*ix).server).collect();
    let all: Vec<Child> = servers
        .iter()
        .flat_map(|server| children(fleet, *server, now, covered, settings))
        .collect();
    let pool = Pool::Upstream(address.to_owned());
    let inside: Vec<&Child> = all.iter().filter(|c| c.pool == Some(&pool)).collect();
    let failing: Vec<u32> = inside.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
    let failing_servers: BTreeSet<_> = failing.iter().map(|ix| fleet.site(*ix).server).collect();
    if failing_servers.len() < 2 {
        return;
    }
    let score = inside.iter().map(|c| c.factor).sum::<f64>() + PRIOR;
    let apart: f64 = failing_servers
        .iter()
        .map(|server| {
            let sites = all.iter().filter(|c| fleet.site(c.ix).server == *server);
            (sites.map(|c| c.factor).sum::<f64>() + PRIOR).max(0.0)
        })
        .sum();
    if score < settings.pool_nats || score <= apart {
        return;
    }
    let corroborated = failing_servers.iter().any(|server| {
        fleet.servers[server].corroboration(Some(address), first_failure(fleet, &failing)) > 0.0
    });
    covered.extend(failing.iter().copied());
    if persists(fleet, &failing, corroborated) && is_fresh(fleet, &failing, now) {
        let verdict_at = verdict(fleet, &failing, now);
        found.push(Finding { scope: Scope::Pool(pool), score, failing, verdict_at });
    }
}

/// The scopes of one server: itself, its pools, its sites, the best explanation first.
fn in_server(
    fleet: &mut Fleet,
    id: ServerId,
    settings: &Settings,
    now: i64,
    covered: &mut BTreeSet<u32>,
    found: &mut Vec<Finding>,
) {
    judge_sites(fleet, id, settings, now);
    let all = children(fleet, id, now, covered, settings);
    let pools = pools(fleet, &all, settings);
    let failing: Vec<u32> = all.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
    if let Some((score, corroborated)) = server_wins(fleet, id, &all, &pools, settings) {
        let scope = Scope::Server(id);
        covered.extend(failing.iter().copied());
        if persists(fleet, &failing, corroborated) && is_fresh(fleet, &failing, now) {
            let verdict_at = verdict(fleet, &failing, now);
            found.push(Finding { scope, score, failing, verdict_at });
        }
        return;
    }
    for pool in pools.into_iter().filter(|pool| pool.accepted) {
        covered.extend(pool.failing.iter().copied());
        if persists(fleet, &pool.failing, pool.corroborated) && is_fresh(fleet, &pool.failing, now)
        {
            let verdict_at = verdict(fleet, &pool.failing, now);
            let (scope, score, failing) = (Scope::Pool(pool.pool), pool.score, pool.failing);
            found.push(Finding { scope, score, failing, verdict_at });
        }
    }
    for ix in failing.into_iter().filter(|ix| !covered.contains(ix)) {
        let site = fleet.site(ix);
        let Some(verdict_at) = site.episode.as_ref().and_then(|e| e.verdict_at) else { continue };
        let corroborated = corroboration(fleet, site) > 0.0;
        let score = site_score(fleet, site);
        let stands = holds(fleet, site, settings) && !held(site, now);
        if stands && persists(fleet, &[ix], corroborated) && is_fresh(fleet, &[ix], now) {
            let scope = Scope::Site(site.id);
            found.push(Finding { scope, score, failing: vec![ix], verdict_at });
        }
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

/// Evidence of every site of a server that no other finding covers.
fn children<'a>(
    fleet: &'a Fleet,
    id: ServerId,
    now: i64,
    covered: &BTreeSet<u32>,
    settings: &Settings,
) -> Vec<Child<'a>> {
    let Some(server) = fleet.servers.get(&id) else { return Vec::new() };
    let known = server.known_until();
    let then = as_of(fleet, server, settings, now).unwrap_or(known);
    let until = then.div_euclid(1000);
    let first = server.sites.iter().filter_map(|ix| fleet.site(*ix).episode.as_ref());
    let first = first.map(|episode| episode.first_at.div_euclid(1000)).min().unwrap_or(until);
    // Successes since the first failure: at least of the last 6 s, at most of 30 s.
    let from = first.clamp(until - 30, until - 6);
    let closed = if then < known { until + 1 } else { closed_second(now) };
    let uncovered = server.sites.iter().filter(|ix| !covered.contains(ix));
    uncovered
        .map(|ix| {
            let site = fleet.site(*ix);
            let evidence = evidence(site, until, from, closed);
            let factor = child_factor(evidence, PHI, EPS);
            Child { ix: *ix, evidence, factor, pool: site.place.as_ref() }
        })
        .collect()
}

/// The instant that old data speaks of: the newest failure of what just arrived, when that is too old
/// to be told. Its sites are weighed as they were then; what they did since does not excuse them.
fn as_of(fleet: &Fleet, server: &Server, settings: &Settings, now: i64) -> Option<i64> {
    let sites = server.sites.iter().map(|ix| fleet.site(*ix));
    let just_came = sites.filter(|site| {
        site.episode.as_ref().is_some_and(|episode| episode.last_arrival >= now - FRESH_MS)
    });
    let newest = just_came.filter_map(Site::last_failed).max()?;
    (server.known_until() - newest > settings.retroactive_ms).then_some(newest)
}

/// First second whose bucket is still open at `now`: one closes 500 ms after its end.
#[must_use]
pub fn closed_second(now: i64) -> i64 {
    (now - 500).div_euclid(1000)
}

fn evidence(site: &Site, until: i64, from: i64, closed: i64) -> f64 {
    let score = site.score(until);
    let last = site.last_failed().map_or(i64::MIN, |last| last.div_euclid(1000));
    let well = site.rates.loss() * site.ok_between(last.max(from) + 1, closed) as f64;
    if score > 0.0 && well < ANSWERS {
        let age = site.last_failed().map_or(0, |last| until - last.div_euclid(1000)) as f64;
        let fade = (-(age - FADE_AFTER_S).max(0.0) / FADE_S).exp();
        return (score * fade).min(FAILING_MAX);
    }
    -(site.rates.loss() * site.ok_between(from, closed) as f64).min(OK_MAX)
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

fn pools(fleet: &Fleet, all: &[Child<'_>], settings: &Settings) -> Vec<WeighedPool> {
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
        let accepted = score >= settings.pool_nats;
        let (pool, corroborated) = (pool.clone(), extra > 0.0);
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

/// The server's log odds, if it explains more than its pools and sites by themselves.
fn server_wins(
    fleet: &Fleet,
    id: ServerId,
    all: &[Child<'_>],
    pools: &[WeighedPool],
    settings: &Settings,
) -> Option<(f64, bool)> {
    let failing: Vec<u32> = all.iter().filter(|c| c.is_failing()).map(|c| c.ix).collect();
    let n_min = if all.len() == 2 { 2 } else { 3 };
    if failing.len() < n_min {
        return None;
    }
    let server = fleet.servers.get(&id)?;
    let extra = server.corroboration(None, first_failure(fleet, &failing));
    let n_failed: f64 =
        failing.iter().filter_map(|ix| fleet.site(*ix).episode.as_ref()).map(|e| e.n_failed).sum();
    let score = all.iter().map(|c| c.factor).sum::<f64>() + PRIOR + extra;
    let known: BTreeSet<Option<&Pool>> = all.iter().map(|c| c.pool).collect();
    let parts: f64 = pools.iter().map(|pool| pool.score.max(0.0)).sum();
    let margin = match known.len() {
        // Its only pool and the server are the same thing: the server is what people know.
        0 | 1 => -1e-9,
        _ if fail_alike(fleet, pools) => MARGIN,
        _ => MARGIN_UNLIKE,
    };
    let wins = score > parts + margin;
    let enough = n_failed >= 4.0 - 1e-9 || extra > 0.0;
    (wins && enough && score >= settings.server_nats).then_some((score, extra > 0.0))
}

/// Whether the error lines of the pools are of a kind: one fault shows the same face everywhere.
fn fail_alike(fleet: &Fleet, pools: &[WeighedPool]) -> bool {
    let mixtures: Vec<_> = pools.iter().filter_map(|pool| mixture(fleet, &pool.failing)).collect();
    mixtures.iter().enumerate().all(|(ix, a)| {
        mixtures[ix + 1..].iter().all(|b| {
            let shared = |(kind, share): (&u8, &f64)| b.get(kind).map_or(0.0, |s| s.min(*share));
            a.iter().map(shared).sum::<f64>() >= 0.2
        })
    })
}

/// Shares of the kinds of error lines of these sites; `None` when there are no lines.
fn mixture(fleet: &Fleet, sites: &[u32]) -> Option<BTreeMap<u8, f64>> {
    let mut kinds: BTreeMap<u8, f64> = BTreeMap::new();
    for site in sites.iter().map(|ix| fleet.site(*ix)) {
        for (signal, lines) in &site.said.lines {
            if let Some(kind) = kind_of(*signal) {
                *kinds.entry(kind).or_default() += lines.n as f64;
            }
        }
    }
    let total: f64 = kinds.values().sum();
    for n in kinds.values_mut() {
        *n /= total;
    }
    (total > 0.0).then_some(kinds)
}

/// Families of signals that one fault may show side by side.
fn kind_of(signal: i32) -> Option<u8> {
    use wire::v1::Signal as S;
    Some(match S::try_from(signal).ok()? {
        S::ConnectRefused
        | S::NoSuchSocket
        | S::Reset
        | S::PrematureClose
        | S::NoLiveUpstreams
        | S::ServerDown
        | S::WorkerSignal => 0,
        S::BacklogFull | S::TimeoutRead | S::MaxChildren | S::TooManyConnections => 1,
        S::ConnectTimeout | S::Unreachable => 2,
        S::Dns => 3,
        S::Permission => 4,
        S::DiskFull => 5,
        S::TooBigHeader | S::InvalidHeader | S::Tls => 6,
        _ => return None,
    })
}

fn first_failure(fleet: &Fleet, sites: &[u32]) -> i64 {
    episodes(fleet, sites).map(|episode| episode.first_at).min().unwrap_or(0)
}

fn episodes<'a>(
    fleet: &'a Fleet,
    sites: &'a [u32],
) -> impl Iterator<Item = &'a super::site::Episode> {
    sites.iter().filter_map(|ix| fleet.site(*ix).episode.as_ref())
}

fn verdict(fleet: &Fleet, sites: &[u32], now: i64) -> i64 {
    episodes(fleet, sites).filter_map(|episode| episode.verdict_at).min().unwrap_or(now)
}

/// Evidence keeps coming in, so that what opens is news and not the rest of an old score.
fn is_fresh(fleet: &Fleet, sites: &[u32], now: i64) -> bool {
    episodes(fleet, sites).any(|episode| now - episode.last_arrival <= FRESH_MS)
}

/// Whether the failures last long enough to be no stall: a second when hard, else four.
///
/// Most logs have whole seconds, so neighbouring seconds alone may lie a millisecond apart: then
/// the arrival of the failures decides.
fn persists(fleet: &Fleet, sites: &[u32], corroborated: bool) -> bool {
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    let (mut first_arrival, mut last_arrival) = (i64::MAX, i64::MIN);
    for episode in episodes(fleet, sites) {
        first = first.min(episode.first_at.div_euclid(1000));
        last = last.max(episode.last_at.div_euclid(1000));
        first_arrival = first_arrival.min(episode.first_arrival);
        last_arrival = last_arrival.max(episode.last_arrival);
    }
    if first > last {
        return false;
    }
    let spans = |s: i64| {
        last - first > s || (last - first >= s && last_arrival - first_arrival >= s * 1000)
    };
    let (mut failed, mut answered) = (0.0, 0.0);
    for site in sites.iter().map(|ix| fleet.site(*ix)) {
        let began = site.episode.as_ref().map_or(first, |e| e.first_at.div_euclid(1000));
        let from = began.max(last - 10);
        for bucket in site.buckets().rev().take_while(|bucket| bucket.second >= from) {
            failed += f64::from(bucket.failed());
            // What a site answered in its first failing second may well have come before the fault.
            answered += if bucket.second > began { f64::from(bucket.ok) } else { 0.0 };
        }
    }
    if corroborated || failed >= HARD * (failed + answered) {
        return spans(1);
    }
    spans(4) && n_failing_seconds(fleet, sites, first) >= 4
}

fn n_failing_seconds(fleet: &Fleet, sites: &[u32], first: i64) -> usize {
    let buckets = sites.iter().flat_map(|ix| fleet.site(*ix).buckets());
    let failing = buckets.filter(|bucket| bucket.second >= first && bucket.failed() > 0);
    failing.map(|bucket| bucket.second).collect::<BTreeSet<_>>().len()
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

/// Evidence that a site fails now, nats, as the weighing of wider scopes sees it.
#[must_use]
pub fn failing_evidence(fleet: &Fleet, ix: u32) -> f64 {
    let site = fleet.site(ix);
    let until = fleet.servers.get(&site.server).map_or(0, super::server::Server::known_until);
    let until = until.div_euclid(1000);
    evidence(site, until, until - 30, until)
}
