//! How a finding meets the incidents there are: it lies in one, takes some over, brings one back, or
//! is new.

use std::collections::{BTreeMap, BTreeSet};

use wire::UnixMillis;

use super::case::{Case, Kind};
use super::{Book, Step, newest_failure, start_of, story, wait_of_change};
use crate::detect::Fleet;
use crate::detect::alike::{Mixture, are_alike, average, by_server, mixture};
use crate::detect::scope::{self, Finding, Group, Scope};
use crate::model::{Moment, NotifyEvent, ServerId, TransitionEvent};

/// Time in which an inner scope revives the incident it was part of, and a group one that shared
/// half of its servers, ms.
const REVIVE_MS: i64 = 120_000;
/// Servers that a group must share with the one that it revives.
const SHARED_MIN: usize = 2;
/// Time since it became a group in which a larger one that overlaps it takes it over, ms.
const OVERLAP_MS: i64 = 180_000;
/// An incident this much older than a group's first failure is another story, ms.
const OTHER_STORY_MS: i64 = 600_000;

impl Book {
    /// Places one finding: in an open incident, over some, in a cooling one, or as a new one.
    pub(super) fn take(&mut self, step: &mut Step<'_>, finding: &Finding) {
        if is_held(step, finding) || self.extends_cohort(finding) {
            return;
        }
        let fleet = &*step.fleet;
        let holds = |scope: &Scope| scope::contains(fleet, scope, &finding.scope);
        let parent = self.open_cases().find(|(_, case)| holds(&case.scope)).map(|(no, _)| no);
        if let Some(no) = parent {
            self.suppress(step, finding, no);
            return;
        }
        let inner = self.inner(step, finding);
        // Where all that fails is told of already, in incidents that this scope neither holds nor
        // lies in, one without a member of its own would say nothing.
        if inner.is_empty() && (self.is_echo(step, finding) || !may_enter(fleet, finding)) {
            return;
        }
        let cooling = self.cases.iter().find(|(_, case)| {
            !case.is_open()
                && case.kind == Kind::GatewayErrors
                && scope::is_same(&case.scope, &finding.scope)
                && case.cools(step.now, step.settings)
        });
        let cooling = cooling.map(|(no, _)| *no).or_else(|| self.revivable(step, finding));
        if !inner.is_empty() {
            let inner_of_group = matches!(finding.scope, Scope::Group(_));
            let same = |no: &u64| {
                inner_of_group || self.cases.get(no).is_some_and(|case| case.scope == finding.scope)
            };
            self.escalate(step, finding, &inner, cooling.filter(same));
        } else if let Some(no) = cooling {
            self.reopen(step, finding, no);
        } else {
            self.open(step, finding, None);
        }
    }

    /// A cohort that is known grows: more servers had the change by now.
    fn extends_cohort(&mut self, finding: &Finding) -> bool {
        let Scope::Group(Group::Cohort(_, more)) = &finding.scope else { return false };
        let of_kind = |case: &&mut Case| case.is_open() && case.kind == Kind::GatewayErrors;
        let mut open = self.cases.values_mut().filter(of_kind);
        let Some(case) = open.find(|case| scope::is_same(&case.scope, &finding.scope)) else {
            return false;
        };
        if let Scope::Group(Group::Cohort(_, members)) = &mut case.scope {
            members.extend(more);
        }
        true
    }

    /// A finding inside an open incident. What fails with the incident joins it elsewhere; what fails
    /// on a server that is well otherwise, inside an open group, is another fault: it is kept as a
    /// child that nobody is told of while the group is open.
    fn suppress(&mut self, step: &mut Step<'_>, finding: &Finding, parent: u64) {
        let Some(case) = self.cases.get(&parent) else { return };
        if !matches!(case.scope, Scope::Group(_)) || matches!(finding.scope, Scope::Group(_)) {
            return;
        }
        let servers = scope::servers_of(step.fleet, &finding.failing);
        let taken = |ix: &u32| step.fleet.site(*ix).case.is_some();
        if servers.iter().any(|id| case.failed.contains(id))
            || finding.failing.iter().any(taken)
            || !may_enter(step.fleet, finding)
        {
            return;
        }
        let id = case.id.clone();
        let same = |case: &Case| {
            !case.is_open()
                && case.scope == finding.scope
                && case.parent.as_ref() == Some(&id)
                && case.cools(step.now, step.settings)
        };
        let known = self.cases.iter().find(|(_, case)| same(case)).map(|(no, _)| *no);
        match known {
            Some(no) => self.reopen(step, finding, no),
            None => self.open(step, finding, Some(parent)),
        }
    }

    /// Open incidents that a finding takes over.
    fn inner(&self, step: &Step<'_>, finding: &Finding) -> Vec<u64> {
        let fleet = &*step.fleet;
        let servers = scope::servers_of(fleet, &finding.failing);
        let all_inside = |case: &Case| {
            case.present().all(|site| {
                let ix = fleet.find(site);
                ix.is_some_and(|ix| scope::holds_site(fleet, &finding.scope, ix))
            })
        };
        let Scope::Group(group) = &finding.scope else {
            let inside = |case: &Case| {
                scope::contains(fleet, &finding.scope, &case.scope) || all_inside(case)
            };
            let inner = self.open_cases().filter(|(_, case)| inside(case));
            return inner.map(|(no, _)| no).collect();
        };
        let start = start_of(fleet, &finding.failing);
        let lines = by_server(fleet, &finding.failing);
        let inner = self.open_cases().filter(|(_, case)| {
            let of = case.failing_servers(fleet);
            let inside = scope::contains(fleet, &finding.scope, &case.scope) || all_inside(case);
            let shared = of.intersection(&servers).next().is_some();
            if let Scope::Group(known) = &case.scope {
                let young = step.now - case.group_since.unwrap_or(0) < OVERLAP_MS;
                let larger = || fleet.members(group).len() > fleet.members(known).len();
                return inside || (young && shared && larger());
            }
            let own = || mixture(fleet, &case.positions(fleet));
            let alike = || match (average_without(&lines, &of), own()) {
                (Some(others), Some(own)) => are_alike(&others, &own),
                _ => true,
            };
            inside && shared && case.started_at >= start - OTHER_STORY_MS && alike()
        });
        inner.map(|(no, _)| no).collect()
    }

    /// A group that overlaps an open one, but has too few failing servers of its own, is that one
    /// seen from aside.
    fn is_echo(&self, step: &Step<'_>, finding: &Finding) -> bool {
        let Scope::Group(_) = &finding.scope else { return false };
        let mut servers = scope::servers_of(step.fleet, &finding.failing);
        let mut overlaps = false;
        for (_, case) in self.open_cases() {
            if let Scope::Group(known) = &case.scope {
                let before = servers.len();
                servers.retain(|id| !step.fleet.is_in(known, *id));
                overlaps |= servers.len() < before;
            }
        }
        overlaps && servers.len() < step.settings.group.n_failing_min
    }

    /// An incident, resolved a moment ago, that fails anew: a wider one with this scope inside, or a
    /// group that shares half of its servers. What failed on when it resolved is not that: people
    /// were told that it was over. Nothing else revives a group: it would swallow other faults.
    fn revivable(&self, step: &Step<'_>, finding: &Finding) -> Option<u64> {
        let fleet = &*step.fleet;
        let servers = scope::servers_of(fleet, &finding.failing);
        let fresh = finding.failing.iter().all(|ix| fleet.site(*ix).hold_until.is_none());
        let returns = |case: &Case| {
            let lately = case.resolved_at.is_some_and(|at| step.now - at <= REVIVE_MS);
            (lately && case.kind == Kind::GatewayErrors)
                && match (&case.scope, &finding.scope) {
                    (Scope::Group(_), Scope::Group(_)) => {
                        let shared = case.failed.intersection(&servers).count();
                        shared >= SHARED_MIN && 2 * shared >= case.failed.len().min(servers.len())
                    }
                    (Scope::Group(_), _) => false,
                    (outer, inner) => fresh && scope::contains(fleet, outer, inner),
                }
        };
        let found = self.cases.iter().filter(|(_, case)| returns(case));
        found.map(|(no, _)| *no).next_back()
    }

    /// A wider scope takes over the oldest id inside it; the others become its children.
    fn escalate(
        &mut self,
        step: &mut Step<'_>,
        finding: &Finding,
        inner: &[u64],
        cooling: Option<u64>,
    ) {
        let oldest = |no: &&u64| self.cases.get(no).map(|case| (case.started_at, case.id.clone()));
        let Some(main) = cooling.or_else(|| inner.iter().min_by_key(oldest).copied()) else {
            return;
        };
        let event =
            if cooling.is_some() { TransitionEvent::Reopen } else { TransitionEvent::Escalate };
        let newest = newest_failure(step.fleet, &finding.failing);
        let before = self.cases.get(&main).map(|case| case.scope.clone());
        self.with(main, |case| {
            if cooling.is_some() {
                case.revive(finding.scope.clone(), newest, step.now);
            } else {
                case.widen(finding.scope.clone(), step.now);
            }
        });
        for no in inner.iter().filter(|no| **no != main) {
            self.merge(step, *no, main);
        }
        self.leave_outside(step, main);
        self.enter_all(step, finding, main);
        self.with(main, |case| {
            let from = before.map_or_else(String::new, |s| story::place_name(step.fleet, &s));
            let to = story::place_name(step.fleet, &finding.scope);
            if cooling.is_none() {
                let what = format!("widened from {from} to {to}");
                case.timeline.push(Moment { at: UnixMillis(step.now), what });
            }
            case.assess(step.fleet, step.now);
            let notify = case.tell_change(step.now, step.now + wait_of_change(&finding.scope));
            case.emit(event, notify, step.fleet, step.now, step.out);
        });
    }

    /// Folds one open incident into another.
    pub(super) fn merge(&mut self, step: &mut Step<'_>, child: u64, main: u64) {
        let Some(mut case) = self.cases.remove(&child) else { return };
        let Some(parent) = self.cases.get_mut(&main) else { return };
        let was_child = case.parent.replace(parent.id.clone()).is_some();
        case.resolved_at = Some(step.now);
        let what = format!("merged into {}", parent.id);
        case.timeline.push(Moment { at: UnixMillis(step.now), what });
        // Whoever heard that it began hears that it is over; what was not told yet never is.
        let told = case.told.as_ref().is_some_and(|told| step.now >= told.due);
        let notify = if told { case.tell(NotifyEvent::Resolved, step.now, step.now) } else { None };
        case.emit(TransitionEvent::Merge, notify, step.fleet, step.now, step.out);
        if !(was_child && parent.children.contains(&case.id)) {
            parent.children.push(case.id.clone());
        }
        parent.children.append(&mut case.children);
        parent.recovery.absorb(&case.recovery);
        parent.failed.append(&mut case.failed);
        let start = parent.started_at.div_euclid(1000);
        for (id, mut member) in case.members {
            member.joined_at = step.now;
            if let Some(ix) = step.fleet.find(id) {
                let site = step.fleet.site_mut(ix);
                // At the start of the child it failed; it may have been well after that of the parent.
                member.was_well |= site.ok_between(start + 1, member.since.div_euclid(1000)) > 0;
                if site.case == Some(child) {
                    site.case = Some(main);
                }
            }
            parent.members.entry(id).and_modify(|m| m.absorb(&member)).or_insert(member);
            parent.moved.insert(id);
        }
        let (from, to) = (case.id, parent.id.clone());
        for orphan in self.cases.values_mut().filter(|case| case.parent.as_ref() == Some(&from)) {
            orphan.parent = Some(to.clone());
        }
    }

    /// Servers that begin to fail inside an open group fail under it, unless they do so in another
    /// way, or are in another incident already; what was kept as its child there is part of it now.
    pub(super) fn spread(&mut self, step: &mut Step<'_>, failing: &BTreeSet<ServerId>) {
        let groups: Vec<u64> = self
            .open_cases()
            .filter(|(_, case)| matches!(case.scope, Scope::Group(_)))
            .map(|(no, _)| no)
            .collect();
        for no in groups {
            let Some(case) = self.cases.get(&no) else { continue };
            let Scope::Group(group) = &case.scope else { continue };
            let news = failing.iter().copied().filter(|id| !case.failed.contains(id));
            let news: Vec<ServerId> = news.filter(|id| step.fleet.is_in(group, *id)).collect();
            if news.is_empty() {
                continue;
            }
            let lines = by_server(step.fleet, &case.positions(step.fleet));
            let lines = average(lines.into_values());
            let id = case.id.clone();
            let is_child = |other: u64| {
                let other = self.cases.get(&other);
                other.is_some_and(|other| other.parent.as_ref() == Some(&id))
            };
            let (mut joined, mut merged) = (BTreeSet::new(), BTreeSet::new());
            for server in news {
                let sites: Vec<u32> = step.fleet.suspects(server).collect();
                let alike = match (&lines, mixture(step.fleet, &sites)) {
                    (Some(lines), Some(own)) => are_alike(lines, &own),
                    _ => true,
                };
                let cases = sites.iter().filter_map(|ix| step.fleet.site(*ix).case);
                let others: BTreeSet<u64> = cases.filter(|of| *of != no).collect();
                if alike && others.iter().all(|other| is_child(*other)) {
                    joined.insert(server);
                    merged.extend(others);
                }
            }
            self.with(no, |case| case.failed.extend(joined));
            for child in merged {
                self.merge(step, child, no);
            }
        }
    }

    /// The failing sites of a finding become members.
    pub(super) fn enter_all(&mut self, step: &mut Step<'_>, finding: &Finding, no: u64) {
        for ix in &finding.failing {
            self.enter(step.fleet, step.now, no, *ix);
        }
    }
}

/// Whether a failing site would become a member of an incident of this finding.
fn may_enter(fleet: &Fleet, finding: &Finding) -> bool {
    let mut failing = finding.failing.iter().map(|ix| fleet.site(*ix));
    failing.any(|site| site.case.is_none() && site.episode.is_some())
}

fn average_without(
    lines: &BTreeMap<ServerId, Mixture>,
    without: &BTreeSet<ServerId>,
) -> Option<Mixture> {
    let others = lines.iter().filter(|(id, _)| !without.contains(id));
    average(others.map(|(_, mixture)| mixture.clone()))
}

/// Sites that failed on when their incident resolved open nothing for a while; of a group most.
fn is_held(step: &Step<'_>, finding: &Finding) -> bool {
    let until = |ix: &u32| step.fleet.site(*ix).hold_until;
    let held = |ix: &&u32| until(ix).is_some_and(|until| step.now < until);
    let n_held = finding.failing.iter().filter(held).count();
    match finding.scope {
        Scope::Group(_) => 2 * n_held > finding.failing.len(),
        _ => n_held > 0,
    }
}
