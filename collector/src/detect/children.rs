//! What each site of a server says about the scopes around it: evidence in nats.
//!
//! Above 0 the site fails, below 0 it answers well, 0 is no news: a site without traffic is neither
//! good nor bad.

use super::scope::Pool;
use super::server::Server;
use super::site::Site;
use super::{Fleet, Settings};
use crate::model::ServerId;

/// Largest share of its evidence that one failing site may bring, nats.
const FAILING_MAX: f64 = 14.0;
/// Most that successes of one site may say, nats.
const OK_MAX: f64 = 6.0;
/// Evidence above which a site, or a server, counts as failing, nats.
pub const FAILING: f64 = 2.5;
/// P(site fails | shared fault) and P(site fails by itself), within a server.
const PHI: f64 = 0.9;
const EPS: f64 = 1e-4;
/// Failures older than this fade when a wider scope is weighed, seconds: sites with little traffic
/// keep their score for half an hour, and strays of three of them are no shared fault.
const FADE_AFTER_S: f64 = 30.0;
/// The same when a server is weighed in a group.
const FADE_AFTER_GROUP_S: f64 = 5.0;
const FADE_S: f64 = 90.0;
/// Nats of successes since its last failure from which a site answers again, whatever its score.
const ANSWERS: f64 = 4.0;
/// Seconds of successes that say that a server without a failure is well.
pub(super) const OK_S: i64 = 6;

/// Log of the Bayes factor that evidence `l` of one child gives for a shared fault.
#[must_use]
pub fn child_factor(l: f64, phi: f64, eps: f64) -> f64 {
    log_add_exp(phi.ln() + l, (1.0 - phi).ln()) - log_add_exp(eps.ln() + l, (1.0 - eps).ln())
}

/// The same of a site within its server.
pub(super) fn factor(l: f64) -> f64 {
    child_factor(l, PHI, EPS)
}

fn log_add_exp(a: f64, b: f64) -> f64 {
    let high = a.max(b);
    high + ((a - high).exp() + (b - high).exp()).ln()
}

/// One site as the weighing sees it.
pub(super) struct Child<'a> {
    pub(super) ix: u32,
    /// Evidence, nats: above 0 failing, below 0 well, 0 unknown.
    pub(super) evidence: f64,
    pub(super) factor: f64,
    /// The factor when its server is weighed in a group.
    pub(super) factor_in_group: f64,
    pub(super) pool: Option<&'a Pool>,
}

impl Child<'_> {
    pub(super) fn is_failing(&self) -> bool {
        self.evidence > FAILING
    }
}

/// Evidence of every site of a server.
pub(super) fn children<'a>(
    fleet: &'a Fleet,
    id: ServerId,
    settings: &Settings,
    now: i64,
) -> Vec<Child<'a>> {
    let Some(server) = fleet.servers.get(&id) else { return Vec::new() };
    let known = server.known_until();
    let then = as_of(fleet, server, settings, now).unwrap_or(known);
    let until = then.div_euclid(1000);
    let first = server.sites.iter().filter_map(|ix| fleet.site(*ix).episode.as_ref());
    let first = first.map(|episode| episode.first_at.div_euclid(1000)).min().unwrap_or(until);
    // Successes since the first failure: at least of the last 6 s, at most of 30 s.
    let from = first.clamp(until - 30, until - OK_S);
    let closed = if then < known { until + 1 } else { closed_second(now) };
    let child = |ix: &u32| {
        let site = fleet.site(*ix);
        let says = says(site, until, from, closed);
        let (evidence, in_group) = (says.nats(FADE_AFTER_S), says.nats(FADE_AFTER_GROUP_S));
        let (own, pool) = (factor(evidence), site.place.as_ref());
        let factor_in_group = if in_group == evidence { own } else { factor(in_group) };
        Child { ix: *ix, evidence, factor: own, factor_in_group, pool }
    };
    server.sites.iter().map(child).collect()
}

/// Sum of the factors of the sites of a server whose failures are a while ago: what each of its
/// suspect sites still says, and what all its sites answered in the last seconds.
pub(super) fn lingering(
    fleet: &Fleet,
    server: &Server,
    suspects: impl Iterator<Item = u32>,
    now: i64,
) -> f64 {
    let until = server.known_until().div_euclid(1000);
    let closed = closed_second(now);
    let factor = |ix: u32| {
        let says = says(fleet.site(ix), until, until - OK_S, closed);
        factor(says.nats(FADE_AFTER_GROUP_S).max(0.0))
    };
    suspects.map(factor).sum::<f64>() - server.ok_between(until - OK_S, closed)
}

/// The instant that old data speaks of: the newest failure of what just arrived, when that is too old
/// to be told. Its sites are weighed as they were then; what they did since does not excuse them.
pub(super) fn as_of(fleet: &Fleet, server: &Server, settings: &Settings, now: i64) -> Option<i64> {
    let sites = server.sites.iter().map(|ix| fleet.site(*ix));
    let just_came = sites.filter(|site| {
        let last = site.episode.as_ref().map(|episode| episode.last_arrival);
        last.is_some_and(|last| last >= now - super::lasting::FRESH_MS)
    });
    let newest = just_came.filter_map(Site::last_failed).max()?;
    (server.known_until() - newest > settings.retroactive_ms).then_some(newest)
}

/// First second whose bucket is still open at `now`: one closes 500 ms after its end.
#[must_use]
pub fn closed_second(now: i64) -> i64 {
    (now - 500).div_euclid(1000)
}

/// What a site says: that it fails, with the age of its last failure in seconds, or how well it is.
#[derive(Clone, Copy)]
enum Says {
    Fails(f64, f64),
    Well(f64),
}

impl Says {
    /// In nats, failures fading when they are older than this, seconds.
    fn nats(self, fade_after_s: f64) -> f64 {
        match self {
            Self::Fails(score, age_s) => {
                (score * (-(age_s - fade_after_s).max(0.0) / FADE_S).exp()).min(FAILING_MAX)
            }
            Self::Well(nats) => -nats,
        }
    }
}

fn says(site: &Site, until: i64, from: i64, closed: i64) -> Says {
    let score = site.score(until);
    let last = site.last_failed().map_or(i64::MIN, |last| last.div_euclid(1000));
    if score > 0.0 {
        let well = site.rates.loss() * site.ok_between(last.max(from) + 1, closed) as f64;
        if well < ANSWERS {
            let age_s = site.last_failed().map_or(0, |_| until - last) as f64;
            return Says::Fails(score, age_s);
        }
    }
    Says::Well((site.rates.loss() * site.ok_between(from, closed) as f64).min(OK_MAX))
}

/// Evidence that a site fails now, nats, as the weighing of wider scopes sees it.
#[must_use]
pub fn failing_evidence(fleet: &Fleet, ix: u32) -> f64 {
    says_now(fleet, ix).nats(FADE_AFTER_S)
}

/// What these sites say together of a fault that they share, nats. A failure that nothing answered
/// since does not fade: where nobody asks, nothing has recovered.
pub(crate) fn unfaded(fleet: &Fleet, sites: impl Iterator<Item = u32>) -> f64 {
    sites.map(|ix| factor(says_now(fleet, ix).nats(f64::INFINITY))).sum()
}

fn says_now(fleet: &Fleet, ix: u32) -> Says {
    let site = fleet.site(ix);
    let until = fleet.servers.get(&site.server).map_or(0, Server::known_until);
    let until = until.div_euclid(1000);
    says(site, until, until - 30, until)
}
