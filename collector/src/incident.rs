//! Stage 9: findings into incidents. A pure state machine that returns transitions.
//!
//! One outage is one incident: a wider scope takes over the id of the oldest incident inside it, a
//! scope that fails again soon gets its id back, and what fails inside an open incident joins it.
//! Ids depend on the records alone, so a replay gives the same ones.

pub mod burning;
pub mod case;
mod widen;
mod narrow;
pub mod recovery;
pub mod story;
pub mod told;
pub mod hosts;
#[cfg(test)]
mod burning_tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::detect::scope::{self, Finding, Group, Located, Scope};
use crate::detect::{Fleet, Settings};
use crate::model::{Counts, Moment, NotifyEvent, ServerId, SiteId, Transition, TransitionEvent};
use case::{Case, Kind, Member};

/// Wait before a notification, so that it tells the scope as it settles, ms.
const WAIT_MS: i64 = 1_000;
/// The same from server scope on while other servers turn suspect, ms.
const WAIT_WIDE_MS: i64 = 2_000;
/// Other servers that turned suspect within this make a wider fault likely, ms.
const WIDE_MS: i64 = 3_000;
/// Time after which what failed on when its incident resolved opens by itself, ms.
const CHILD_MS: i64 = 20_000;
/// A quietly reopened incident still open after this is told after all, ms.
const REOPENED_TOLD_MS: i64 = 300_000;
/// Reopens from which an incident is said to flap.
const FLAPPING: u32 = 3;

/// Open incidents and those that may still be revived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Book {
    cases: BTreeMap<u64, Case>,
    next: u64,
    /// Incidents of whole servers.
    #[serde(default)]
    pub(crate) servers: hosts::ServerCases,
}

/// One step's surroundings.
struct Step<'a> {
    fleet: &'a mut Fleet,
    settings: &'a Settings,
    now: i64,
    out: &'a mut Vec<Transition>,
}

impl Book {
    /// Whether nothing is open or may be revived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Sites and the number of the open incident they are in.
    pub fn memberships(&self) -> impl Iterator<Item = (SiteId, u64)> {
        let open = self.cases.iter().filter(|(_, case)| case.is_open());
        open.flat_map(|(no, case)| {
            let present = case.members.iter().filter(|(_, member)| member.until.is_none());
            present.map(move |(site, _)| (*site, *no))
        })
    }

    /// Sites that are, or were, in an incident.
    #[must_use]
    pub fn sites_of(&self, id: &str) -> Vec<SiteId> {
        let case = self.cases.values().find(|case| case.id == id);
        case.map_or_else(Vec::new, |case| case.members.keys().copied().collect())
    }

    /// Sites that fail in an open incident.
    pub fn failing(&self) -> impl Iterator<Item = SiteId> {
        self.memberships().map(|(site, _)| site)
    }

    /// Id of the incident with this number.
    #[must_use]
    pub fn id(&self, no: u64) -> Option<&str> {
        self.cases.get(&no).map(|case| case.id.as_str())
    }

    /// First failure of the incident with this number, corrected, ms.
    #[must_use]
    pub fn started_at(&self, no: u64) -> Option<i64> {
        self.cases.get(&no).map(|case| case.started_at)
    }

    /// Notes which incidents are acknowledged.
    pub fn set_acked(&mut self, ids: &BTreeSet<String>) {
        for case in self.cases.values_mut() {
            case.acked = ids.contains(&case.id);
        }
        self.servers.set_acked(ids);
    }

    /// Adds requests of a member site in one second, corrected.
    pub(crate) fn count(&mut self, case: u64, site: SiteId, second: i64, counts: &Counts) {
        let Some(case) = self.cases.get_mut(&case) else { return };
        let began = second >= case.started_at.div_euclid(1000);
        if let Some(member) = case.members.get_mut(&site).filter(|_| began) {
            member.totals.add(counts.into());
        }
    }

    /// Open incidents of gateway errors and their numbers, oldest number first. Those of other kinds
    /// tell another story: they neither hold these nor give way to them.
    fn open_cases(&self) -> impl Iterator<Item = (u64, &Case)> {
        let open = |case: &Case| case.is_open() && case.kind == Kind::GatewayErrors;
        self.cases.iter().filter(move |(_, case)| open(case)).map(|(no, case)| (*no, case))
    }

    /// Groups that have an open incident of gateway errors.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let group = |(_, case): (u64, &Case)| match &case.scope {
            Scope::Group(group) => Some(group.clone()),
            _ => None,
        };
        self.open_cases().filter_map(group).collect()
    }

    /// Takes what the detector finds at `now` and moves every incident on.
    pub(crate) fn step(
        &mut self,
        fleet: &mut Fleet,
        located: &Located,
        settings: &Settings,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        self.place(fleet, located, settings, now, out);
        let mut step = Step { fleet, settings, now, out };
        let numbers: Vec<u64> = self.cases.keys().copied().collect();
        for no in numbers {
            self.move_on(&mut step, no);
        }
        self.cases.retain(|_, case| {
            let since = case.resolved_at.map_or(0, |at| now - at);
            case.is_open() || since <= settings.cooldown_ms
        });
    }

    /// The first half of `step`: findings and failing sites find their incidents. Nothing ends here,
    /// so it may be called in the middle of old data, whose end is not known yet.
    pub(crate) fn place(
        &mut self,
        fleet: &mut Fleet,
        located: &Located,
        settings: &Settings,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        let mut step = Step { fleet, settings, now, out };
        self.spread(&mut step, &located.failing);
        for finding in &located.findings {
            self.take(&mut step, finding);
        }
        self.join(&mut step, &located.servers);
        self.narrow(&mut step, &located.findings);
    }

    /// A new incident; as a child of `parent` nobody is told of it while that one is open.
    fn open(&mut self, step: &mut Step<'_>, finding: &Finding, parent: Option<u64>) {
        let started_at = start_of(step.fleet, &finding.failing);
        let newest = newest_failure(step.fleet, &finding.failing);
        let mut case = Case::open(
            step.fleet,
            Kind::GatewayErrors,
            finding.scope.clone(),
            started_at,
            step.now,
        );
        let key = story::scope_key(step.fleet, &finding.scope);
        case.id = story::free_id(case.kind.name(), &key, started_at, |id| self.has_had(id));
        case.retroactive = step.now - newest > step.settings.retroactive_ms;
        let no = self.next;
        self.next += 1;
        case.timeline.push(Moment { at: UnixMillis(step.now), what: "opened".to_owned() });
        if let Some(parent) = parent.and_then(|no| self.cases.get_mut(&no)) {
            case.parent = Some(parent.id.clone());
            parent.children.push(case.id.clone());
        }
        self.cases.insert(no, case);
        self.enter_all(step, finding, no);
        let due = finding.verdict_at + wait(step, finding);
        self.with(no, |case| {
            case.assess(step.fleet, step.now);
            let notify = case.tell(NotifyEvent::Opened, step.now, due.max(step.now));
            case.emit(TransitionEvent::Open, notify, step.fleet, step.now, step.out);
        });
    }

    /// Whether an incident has this id, or had it when it was merged into one.
    fn has_had(&self, id: &str) -> bool {
        self.cases.values().any(|case| case.id == id || case.children.iter().any(|of| of == id))
    }

    fn reopen(&mut self, step: &mut Step<'_>, finding: &Finding, no: u64) {
        let newest = newest_failure(step.fleet, &finding.failing);
        let fleet = &*step.fleet;
        let parent = self.cases.get(&no).and_then(|case| case.parent.clone());
        let suppressed = self.open_cases().any(|(_, case)| {
            parent.as_ref() == Some(&case.id) && scope::contains(fleet, &case.scope, &finding.scope)
        });
        self.with(no, |case| {
            case.revive(finding.scope.clone(), newest, step.now);
            case.parent = case.parent.take().filter(|_| suppressed);
        });
        if let Scope::Group(_) = finding.scope {
            self.leave_outside(step, no);
        }
        self.enter_all(step, finding, no);
        self.with(no, |case| {
            case.retroactive &= step.now - newest > step.settings.retroactive_ms;
            case.assess(step.fleet, step.now);
            let event =
                if case.told.is_some() { NotifyEvent::Updated } else { NotifyEvent::Opened };
            let due = step.now + WAIT_MS;
            let notify = case.acked.then(|| case.tell(event, step.now, due)).flatten();
            case.emit(TransitionEvent::Reopen, notify, step.fleet, step.now, step.out);
        });
    }

    /// Makes a failing site a member, with all that was counted since the start.
    fn enter(&mut self, fleet: &mut Fleet, now: i64, no: u64, ix: u32) {
        let Some(case) = self.cases.get_mut(&no) else { return };
        let site = fleet.site_mut(ix);
        if site.case.is_some() {
            return;
        }
        site.case = Some(no);
        site.hold_until = None;
        site.unheal();
        let Some(episode) = &site.episode else { return };
        let since = episode.first_at.max(case.started_at);
        let totals = if case.members.contains_key(&site.id) {
            // It was in before: seconds before its new failures are counted already.
            episode.totals
        } else {
            site.totals_since(case.started_at.div_euclid(1000))
        };
        let start = case.started_at.div_euclid(1000);
        let was_well = site.ok_between(start + 1, since.div_euclid(1000)) > 0;
        let member = Member { since, until: None, totals, was_well, joined_at: now };
        case.members.entry(site.id).and_modify(|known| known.absorb(&member)).or_insert(member);
        case.moved.insert(site.id);
        case.recovery.failed_at(episode.last_at + 1000);
        if let Scope::Group(_) = case.scope {
            case.failed.insert(site.server);
        }
    }

    /// Sites that fail inside an open incident join it.
    fn join(&mut self, step: &mut Step<'_>, servers: &BTreeSet<ServerId>) {
        let wide: Vec<(u64, Scope)> = self
            .open_cases()
            .filter(|(_, case)| !matches!(case.scope, Scope::Site(_)))
            .map(|(no, case)| (no, case.scope.clone()))
            .collect();
        if wide.is_empty() {
            return;
        }
        for server in servers {
            let sites: Vec<u32> = step.fleet.suspects(*server).collect();
            for ix in sites {
                let site = step.fleet.site(ix);
                let failing =
                    site.case.is_none() && scope::failing_evidence(step.fleet, ix) > scope::FAILING;
                if !failing {
                    continue;
                }
                let inside = wide.iter().find(|(_, s)| scope::holds_site(step.fleet, s, ix));
                let Some((no, scope)) = inside else { continue };
                // Of a group only what failed under it as a whole: its other servers are well, and
                // what fails there is another fault.
                let failed = self.cases.get(no).is_some_and(|case| case.failed.contains(server));
                if failed || !matches!(scope, Scope::Group(_)) {
                    self.enter(step.fleet, step.now, *no, ix);
                }
            }
        }
    }

    /// Recovery, cause and numbers of one open incident.
    fn move_on(&mut self, step: &mut Step<'_>, no: u64) {
        let Some(case) = self.cases.get_mut(&no).filter(|case| case.is_open()) else { return };
        let closed = case.heal(step.fleet, step.now);
        if closed
            || case.recovery.may_be_over(step.settings.quiet_ms << case.reopens.min(3), step.now)
        {
            if let Some(how) = case.is_over(step.fleet, step.settings, step.now) {
                self.resolve(step, no, &how);
                return;
            }
            if self.is_freed(step, no) {
                return;
            }
        }
        let Some(case) = self.cases.get_mut(&no) else { return };
        let catching_up = case.retroactive
            && step.now - case.recovery.last_failed() <= step.settings.retroactive_ms;
        if catching_up {
            // Old data led to an outage that still goes on.
            case.retroactive = false;
            let notify = case.tell(NotifyEvent::Opened, step.now, step.now + WAIT_MS);
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
            return;
        }
        let lasting = case.reopened_at.is_some_and(|at| step.now - at >= REOPENED_TOLD_MS);
        if lasting && case.told.is_none() {
            let notify = case.tell(NotifyEvent::Opened, step.now, step.now);
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
            return;
        }
        case.reassess(step.fleet, step.now);
        let waits = case.wait(step.fleet, step.settings, step.now);
        let notify = waits.or_else(|| case.tell_news(step.fleet, step.now));
        if notify.is_some() || case.has_news(step.now) {
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
        }
    }

    /// A child whose parent resolved a while ago and that fails on is told now.
    fn is_freed(&mut self, step: &mut Step<'_>, no: u64) -> bool {
        let Some(parent) = self.cases.get(&no).and_then(|case| case.parent.clone()) else {
            return false;
        };
        let holds = |case: &Case| match case.resolved_at {
            None => true,
            Some(at) => step.now - at < CHILD_MS,
        };
        if self.cases.values().any(|case| case.id == parent && holds(case)) {
            return false;
        }
        self.with(no, |case| {
            case.parent = None;
            let what = format!("fails on after {parent} resolved");
            case.timeline.push(Moment { at: UnixMillis(step.now), what });
            let notify = case.tell(NotifyEvent::Opened, step.now, step.now + WAIT_MS);
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
        });
        true
    }

    fn resolve(&mut self, step: &mut Step<'_>, no: u64, how: &str) {
        let Some(case) = self.cases.get_mut(&no) else { return };
        case.reassess(step.fleet, step.now);
        let over = case.recovery.last_failed();
        case.resolved_at = Some(step.now);
        let what = format!("{how}; last failure before {}", UnixMillis(over));
        case.timeline.push(Moment { at: UnixMillis(step.now), what });
        for (site, member) in &mut case.members {
            member.until = Some(over);
            case.moved.insert(*site);
        }
        let notify = case.tell(NotifyEvent::Resolved, step.now, step.now);
        case.emit(TransitionEvent::Resolve, notify, step.fleet, step.now, step.out);
        let started = case.started_at.div_euclid(1000);
        let quiet_since = case.known_until(step.fleet, step.now).unwrap_or(step.now);
        // With a shorter quiet, what failed before it does not fail on.
        let still_ms = CHILD_MS.min(step.settings.quiet_ms);
        for ix in case.positions(step.fleet) {
            if step.fleet.site(ix).case != Some(no) {
                continue;
            }
            let last = step.fleet.site(ix).last_failed().unwrap_or(0);
            let still = quiet_since - last < still_ms;
            let site = step.fleet.site_mut(ix);
            site.book(started);
            site.leave_case(still);
            site.hold_until = still.then_some(step.now + CHILD_MS);
        }
    }

    fn with(&mut self, no: u64, change: impl FnOnce(&mut Case)) {
        if let Some(case) = self.cases.get_mut(&no) {
            change(case);
        }
    }
}

/// How long a notification waits: longer from a server on, while others turn suspect.
fn wait(step: &Step<'_>, finding: &Finding) -> i64 {
    let (Scope::Server(_) | Scope::Group(_)) = finding.scope else { return WAIT_MS };
    let own = scope::servers_of(step.fleet, &finding.failing);
    let turned = |at: Option<i64>| at.is_some_and(|at| step.now - at <= WIDE_MS);
    let suspect = step.fleet.servers.values().filter(|server| turned(server.suspect_since));
    let others = suspect.filter(|server| !own.contains(&server.id));
    if others.count() >= 2 { WAIT_WIDE_MS } else { WAIT_MS }
}

/// How long a new scope waits: what went from a pool to its server may go on from there.
fn wait_of_change(scope: &Scope) -> i64 {
    match scope {
        Scope::Server(_) | Scope::Group(_) => WAIT_WIDE_MS,
        Scope::Pool(_) | Scope::Site(_) => WAIT_MS,
    }
}

/// When the failures of these sites began. A stray failure long before the others is none of it.
fn start_of(fleet: &Fleet, sites: &[u32]) -> i64 {
    const GAP_MS: i64 = 60_000;
    let mut starts: Vec<i64> = sites
        .iter()
        .filter_map(|ix| fleet.site(*ix).episode.as_ref())
        .map(|episode| episode.first_at)
        .collect();
    starts.sort_unstable();
    let Some(mut start) = starts.get(starts.len() / 2).copied() else { return 0 };
    for earlier in starts[..starts.len() / 2].iter().rev() {
        if start - earlier > GAP_MS {
            break;
        }
        start = *earlier;
    }
    start
}

fn newest_failure(fleet: &Fleet, sites: &[u32]) -> i64 {
    sites.iter().filter_map(|ix| fleet.site(*ix).last_failed()).max().unwrap_or(0)
}
