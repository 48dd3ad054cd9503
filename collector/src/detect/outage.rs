//! Groups of servers whose gateway errors have one cause.
//!
//! A server brings into the search what its sites say together, less the price of an unknown start:
//! a stray failure on each of three quiet servers that happen to share a label is no shared fault.

use std::collections::{BTreeMap, BTreeSet};

use super::Fleet;
use super::alike;
use super::candidates::{Candidate, SERVERS_MIN};
use super::change;
use super::children::{
    Child, FAILING, OK_S, child_factor, closed_second, factor as child_factor_of_site, lingering,
};
use super::cohort::Staging;
use super::group::{Accepted, Search, Weight};
use super::lasting::{is_fresh, persists, verdict as first_verdict};
use super::scope::{Finding, Ground, Group, Scope, SharedPool, failing_evidence, servers_of};
use super::server::{Held, Server};
use super::trail::{Trail, Weighed};
use crate::incident::story;
use crate::model::ServerId;

/// Price of an unknown start time, nats.
const START_NATS: f64 = 4.0;
/// Most that a server may say, that it fails and that it is well, nats.
const FAILS_MAX: f64 = 12.0;
const WELL_MAX: f64 = 6.0;
/// A server is suspect for this long after its last failure arrived, ms.
const SUSPECT_MS: i64 = 150_000;
/// Nothing arrived for so long: such a server is unknown, ms.
const SILENT_MS: i64 = 20_000;
/// Time in which a server is forming since its tests held first, and since they did again, ms.
const FORMING_MS: i64 = 60_000;
const FORMING_AGAIN_MS: i64 = 30_000;
/// Time without any of its tests holding after which a server begins anew, ms.
const ANEW_MS: i64 = 120_000;
/// Nats by which a group must explain more than a pool that its servers share.
const MARGIN: f64 = 3.0;
/// De-duplicated failures that one client alone never makes.
const TWO_CLIENTS: f64 = 2.0;
/// Searches without servers that fail in another way than their group, at most.
const ROUNDS_MAX: usize = 4;
/// Candidates noted at most each time, the best first.
const NOTED_MAX: usize = 20;

/// What was weighed before the groups.
pub(super) struct Shared<'a> {
    /// Sites of the servers that were looked at.
    pub(super) weighed: &'a BTreeMap<ServerId, Vec<Child<'a>>>,
    /// Failing pools that several servers share.
    pub(super) pools: &'a [SharedPool],
    /// Servers one of whose own tests holds.
    pub(super) accepted: &'a BTreeSet<ServerId>,
}

/// The groups that fail.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) findings: Vec<Finding>,
    /// Servers that fail as a whole.
    pub(super) failing: BTreeSet<ServerId>,
    /// Shared pools that a group explains better, by number.
    pub(super) lost: BTreeSet<usize>,
}

/// When the tests of a server hold once more at `now`.
pub(super) fn verdict(server: &Server, now: i64) -> Held {
    let spell = server.verdict.filter(|held| now - held.last <= ANEW_MS);
    Held { first: spell.map_or(now, |held| held.first), last: now }
}

/// Looks for groups; costs next to nothing unless three servers are suspect.
pub(super) fn groups(
    fleet: &Fleet,
    shared: &Shared<'_>,
    ground: &Ground<'_>,
    trail: &mut Trail,
) -> Groups {
    let suspects = fleet.all_suspects(ground.now - SUSPECT_MS);
    if suspects.len() < SERVERS_MIN && ground.open.is_empty() {
        return Groups::default();
    }
    let look = Look { fleet, shared, ground, suspects };
    let sums = look.sums(&BTreeSet::new());
    let failing = failing(&sums);
    if failing.len() < ground.settings.group.n_failing_min {
        return Groups { failing, ..Groups::default() };
    }
    let open = look.open();
    // Pools that stand: their sites are explained already.
    let mut standing = BTreeSet::new();
    let (accepted, sums) = loop {
        let sums = look.sums(&standing);
        let (accepted, weighed) = look.search(&sums, &open, &look.covered(&standing));
        let wins = |ix: &usize| {
            let against = accepted.iter().filter(|group| look.overlaps(*ix, group));
            let best = against.map(|group| look.by_sites(group, &sums)).max_by(f64::total_cmp);
            best.is_some_and(|best| best <= shared.pools[*ix].score + MARGIN)
        };
        let news: Vec<usize> =
            (0..shared.pools.len()).filter(|ix| !standing.contains(ix)).filter(wins).collect();
        if news.is_empty() {
            look.note(&weighed, &accepted, trail);
            break (accepted, sums);
        }
        standing.extend(news);
    };
    let lost = (0..shared.pools.len()).filter(|ix| {
        !standing.contains(ix) && accepted.iter().any(|group| look.overlaps(*ix, group))
    });
    let (lost, covered) = (lost.collect(), look.covered(&standing));
    let findings = accepted.iter().filter_map(|group| look.finding(group, &sums, &covered));
    Groups { findings: findings.collect(), failing, lost }
}

/// Servers that fail as a whole, by the sums of their sites.
fn failing(sums: &BTreeMap<ServerId, f64>) -> BTreeSet<ServerId> {
    let fails = |(id, sum): (&ServerId, &f64)| (price(*sum) > FAILING).then_some(*id);
    sums.iter().filter_map(fails).collect()
}

/// Evidence of a server out of the sum of what its sites say, nats.
fn price(sum: f64) -> f64 {
    if sum > 0.0 { (sum - START_NATS).clamp(0.0, FAILS_MAX) } else { sum.max(-WELL_MAX) }
}

struct Look<'a> {
    fleet: &'a Fleet,
    shared: &'a Shared<'a>,
    ground: &'a Ground<'a>,
    suspects: BTreeMap<ServerId, Vec<u32>>,
}

impl Look<'_> {
    /// Sites that these shared pools explain.
    fn covered(&self, pools: &BTreeSet<usize>) -> BTreeSet<u32> {
        pools.iter().flat_map(|ix| self.shared.pools[*ix].failing.iter().copied()).collect()
    }

    /// What the sites of each suspect server say together, nats, without those that standing pools
    /// explain. Old data speaks of another time than the rest of the fleet: it says nothing here. Nor
    /// does a server that fell silent, but for a group that it failed in before it did.
    fn sums(&self, standing: &BTreeSet<usize>) -> BTreeMap<ServerId, f64> {
        let covered = self.covered(standing);
        let sum = |(id, sites): (&ServerId, &Vec<u32>)| {
            let server = self.fleet.server(*id).filter(|server| !server.forgotten)?;
            let silent = self.ground.now - server.arrived > SILENT_MS;
            if silent && !self.ground.open.iter().any(|group| self.fleet.is_in(group, *id)) {
                return None;
            }
            let newest = sites.iter().filter_map(|ix| self.fleet.site(*ix).last_failed()).max()?;
            if server.known_until() - newest > SUSPECT_MS.max(self.ground.settings.retroactive_ms) {
                return None;
            }
            let sum = if let Some(all) = self.shared.weighed.get(id) {
                let counts = |child: &&Child<'_>| !covered.contains(&child.ix);
                all.iter().filter(counts).map(|child| child.factor_in_group).sum()
            } else {
                let sites = sites.iter().copied().filter(|ix| !covered.contains(ix));
                lingering(self.fleet, server, sites, self.ground.now)
            };
            let free: Vec<u32> = sites.iter().copied().filter(|ix| !covered.contains(ix)).collect();
            Some((*id, sum.min(self.most(&free))))
        };
        self.suspects.iter().filter_map(sum).collect()
    }

    /// The most that a server may say with these failing sites, nats: what one client repeats is one
    /// failure. Else strays of a client each on three quiet servers would be a shared fault.
    fn most(&self, sites: &[u32]) -> f64 {
        let sites = || sites.iter().map(|ix| self.fleet.site(*ix));
        let failed = sites().filter_map(|site| site.episode.as_ref());
        let n_failed: f64 = failed.map(|episode| episode.n_failed).sum();
        if n_failed >= TWO_CLIENTS - 1e-9 {
            return f64::INFINITY;
        }
        child_factor_of_site(sites().map(|site| site.rates.gain()).fold(0.0, f64::max))
    }

    /// Evidence of every server, by position.
    fn evidence(&self, sums: &BTreeMap<ServerId, f64>) -> Vec<f64> {
        let (now, closed) = (self.ground.now, closed_second(self.ground.now));
        self.ground.candidates.evidence(|id| {
            if let Some(sum) = sums.get(&id) {
                return price(*sum);
            }
            let Some(server) = self.fleet.server(id) else { return 0.0 };
            if self.suspects.contains_key(&id) || now - server.arrived > SILENT_MS {
                return 0.0;
            }
            let until = server.known_until().div_euclid(1000);
            -server.ok_between(until - OK_S, closed).min(WELL_MAX)
        })
    }

    /// The groups whose servers fail alike. Servers that fail in another way than the others of
    /// their group have a fault of their own, or one that they share among themselves.
    fn search(
        &self,
        sums: &BTreeMap<ServerId, f64>,
        open: &[Candidate],
        covered: &BTreeSet<u32>,
    ) -> (Vec<Accepted>, Vec<(Group, Weight)>) {
        let (mut accepted, mut weighed) = self.search_once(sums, open);
        let mut left = sums.clone();
        let mut aside = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            let mut unlike = BTreeSet::new();
            for group in &accepted {
                let own = self.unlike(group, covered);
                let known = weighed.iter_mut().find(|(known, _)| *known == group.group);
                if let Some((_, weight)) = known.filter(|_| !own.is_empty()) {
                    let why = format!("{} of its failing servers fail in another way", own.len());
                    weight.rejected = Some(why);
                }
                unlike.extend(own);
            }
            if unlike.is_empty() {
                break;
            }
            aside.extend(unlike.iter().filter_map(|id| left.remove_entry(id)));
            accepted = self.search_once(&left, open).0;
        }
        if !aside.is_empty() {
            accepted.retain(|group| self.unlike(group, covered).is_empty());
        }
        if aside.len() >= self.ground.settings.group.n_failing_min {
            let taken: BTreeSet<ServerId> =
                accepted.iter().flat_map(|group| group.members.iter().copied()).collect();
            let apart = |group: &Accepted| {
                let free = !group.members.iter().any(|id| taken.contains(id));
                free && self.unlike(group, covered).is_empty()
            };
            accepted.extend(self.search_once(&aside, open).0.into_iter().filter(apart));
        }
        (accepted, weighed)
    }

    /// Failing servers of a group that fail in another way than its others.
    fn unlike(&self, group: &Accepted, covered: &BTreeSet<u32>) -> BTreeSet<ServerId> {
        let of = |id: &ServerId| self.failing_sites(*id, covered);
        let failing: Vec<u32> = group.failing.iter().flat_map(of).collect();
        alike::unlike(&alike::by_server(self.fleet, &failing))
    }

    fn search_once(
        &self,
        sums: &BTreeMap<ServerId, f64>,
        open: &[Candidate],
    ) -> (Vec<Accepted>, Vec<(Group, Weight)>) {
        let (candidates, now) = (self.ground.candidates, self.ground.now);
        let rules = &self.ground.settings.group;
        let evidence = self.evidence(sums);
        let cohorts = || change::cohorts(self.fleet, now);
        let staging = Staging::new(candidates, self.forming(&evidence), cohorts, rules, now);
        let mut search = Search::new(candidates, &evidence, rules).beside(open).staged(&staging);
        let accepted = search.run();
        (accepted, search.weighed)
    }

    /// Servers that began to fail a short time ago, by position, with their first verdict.
    fn forming(&self, evidence: &[f64]) -> BTreeMap<u32, i64> {
        let now = self.ground.now;
        let forms = |id: &ServerId| {
            let place = self.ground.candidates.place(*id)?;
            let server = self.fleet.server(*id)?;
            let again = self.shared.accepted.contains(id);
            let held = if again { Some(verdict(server, now)) } else { server.verdict }?;
            let forms = evidence[place as usize] > FAILING
                && now - held.first <= FORMING_MS
                && now - held.last <= FORMING_AGAIN_MS;
            forms.then_some((place, held.first))
        };
        self.suspects.keys().filter_map(forms).collect()
    }

    /// Groups that have an open incident, as candidates.
    fn open(&self) -> Vec<Candidate> {
        let candidates = self.ground.candidates;
        let as_candidate = |group: &Group| {
            let known = candidates.list().iter().find(|candidate| candidate.group == *group);
            known.cloned().unwrap_or_else(|| Candidate {
                group: group.clone(),
                members: candidates.members(self.fleet, group),
                prior: candidates.prior(),
            })
        };
        self.ground.open.iter().map(as_candidate).collect()
    }

    /// Whether a shared pool and a group speak of the same servers.
    fn overlaps(&self, pool: usize, group: &Accepted) -> bool {
        let servers = servers_of(self.fleet, &self.shared.pools[pool].failing);
        group.failing.iter().filter(|id| servers.contains(id)).count() >= 2
    }

    /// The score of a group by the sites of its servers, to compare it with a pool's, nats.
    fn by_sites(&self, group: &Accepted, sums: &BTreeMap<ServerId, f64>) -> f64 {
        let rules = &self.ground.settings.group;
        let well = child_factor(-WELL_MAX, rules.phi, rules.eps) * group.n_well as f64;
        let sites: f64 = group.failing.iter().filter_map(|id| sums.get(id)).sum();
        sites + well + self.ground.candidates.prior()
    }

    fn finding(
        &self,
        group: &Accepted,
        sums: &BTreeMap<ServerId, f64>,
        covered: &BTreeSet<u32>,
    ) -> Option<Finding> {
        let now = self.ground.now;
        let of = |id: &ServerId| self.failing_sites(*id, covered);
        let fails = |id: &&ServerId| sums.contains_key(id);
        let failing: Vec<u32> = group.failing.iter().filter(fails).flat_map(of).collect();
        let stands = persists(self.fleet, &failing, false) && is_fresh(self.fleet, &failing, now);
        let verdict_at = first_verdict(self.fleet, &failing, now);
        let (scope, score) = (Scope::Group(group.group.clone()), group.score);
        stands.then_some(Finding { scope, score, failing, verdict_at })
    }

    /// Failing sites of a failing server: the one that says most when none does by itself.
    fn failing_sites(&self, id: ServerId, covered: &BTreeSet<u32>) -> Vec<u32> {
        let says: Vec<(u32, f64)> = if let Some(all) = self.shared.weighed.get(&id) {
            all.iter().map(|child| (child.ix, child.evidence)).collect()
        } else {
            let sites = self.suspects.get(&id).into_iter().flatten();
            sites.map(|ix| (*ix, failing_evidence(self.fleet, *ix))).collect()
        };
        let free = || says.iter().filter(|(ix, _)| !covered.contains(ix));
        let failing: Vec<u32> = free().filter(|(_, l)| *l > FAILING).map(|(ix, _)| *ix).collect();
        if failing.is_empty() {
            let most = free().max_by(|a, b| a.1.total_cmp(&b.1));
            return most.map(|(ix, _)| *ix).into_iter().collect();
        }
        failing
    }

    fn note(&self, weighed: &[(Group, Weight)], accepted: &[Accepted], trail: &mut Trail) {
        if !trail.is_on() {
            return;
        }
        let mut best: Vec<&(Group, Weight)> = weighed.iter().collect();
        best.sort_by(|a, b| b.1.score.total_cmp(&a.1.score));
        let named = accepted.iter().map(|group| story::group_name(&group.group));
        let better = format!("better explained: {}", named.collect::<Vec<_>>().join(", "));
        for (group, weight) in best.into_iter().take(NOTED_MAX) {
            let taken = accepted.iter().any(|accepted| accepted.group == *group);
            let left = weight.rejected.clone().unwrap_or_else(|| better.clone());
            trail.note(|| Weighed {
                at: self.ground.now,
                scope: story::scope_key(self.fleet, &Scope::Group(group.clone())),
                score: weight.score,
                needed: self.ground.settings.group.accept_nats,
                n_failing: weight.n_failing,
                n_well: weight.n_well,
                rejected: (!taken).then_some(left),
            });
        }
    }
}
