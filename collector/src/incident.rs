//! Stage 9: findings into incidents. A pure state machine that returns transitions.
//!
//! One outage is one incident: a wider scope takes over the id of the oldest incident inside it, a
//! scope that fails again soon gets its id back, and what fails inside an open incident joins it.
//! Ids depend on the records alone, so a replay gives the same ones.

pub mod case;
pub mod recovery;
pub mod story;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::detect::scope::{self, Finding, Scope};
use crate::detect::{Fleet, Settings};
use crate::model::{Counts, Moment, NotifyEvent, ServerId, SiteId, Transition, TransitionEvent};
use case::{Case, Kind, Member};

/// Wait before a notification, so that it tells the scope as it settles, ms.
const WAIT_MS: i64 = 1_000;
/// The same from server scope on while other servers turn suspect, ms.
const WAIT_WIDE_MS: i64 = 2_000;
/// Other servers that turned suspect within this make a wider fault likely, ms.
const WIDE_MS: i64 = 3_000;
/// Time after opening or widening in which a scope may still narrow, ms.
const NARROW_MS: i64 = 180_000;
/// How long one inner scope must be the best explanation, ms.
const NARROW_AFTER_MS: i64 = 15_000;
/// Gap in the findings of the inner scope that is bridged, ms.
const NARROW_GAP_MS: i64 = 3_000;
/// Time in which an inner scope revives the incident it was part of, ms.
const REVIVE_INNER_MS: i64 = 120_000;
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

    /// Sites that fail in an open incident.
    pub fn failing(&self) -> impl Iterator<Item = SiteId> {
        self.memberships().map(|(site, _)| site)
    }

    /// Notes which incidents are acknowledged.
    pub fn set_acked(&mut self, ids: &BTreeSet<String>) {
        for case in self.cases.values_mut() {
            case.acked = ids.contains(&case.id);
        }
    }

    /// Adds requests of a member site in one second, corrected.
    pub(crate) fn count(&mut self, case: u64, site: SiteId, second: i64, counts: &Counts) {
        let Some(case) = self.cases.get_mut(&case) else { return };
        let began = second >= case.started_at.div_euclid(1000);
        if let Some(member) = case.members.get_mut(&site).filter(|_| began) {
            member.totals.add(counts.into());
        }
    }

    /// Takes what the detector finds at `now` and moves every incident on. `servers` are those
    /// that were looked at.
    pub(crate) fn step(
        &mut self,
        fleet: &mut Fleet,
        findings: &[Finding],
        servers: &BTreeSet<ServerId>,
        settings: &Settings,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        self.place(fleet, findings, servers, settings, now, out);
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
        findings: &[Finding],
        servers: &BTreeSet<ServerId>,
        settings: &Settings,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        let mut step = Step { fleet, settings, now, out };
        for finding in findings {
            self.take(&mut step, finding);
        }
        self.join(&mut step, servers);
        self.narrow(&mut step, findings);
    }

    /// Places one finding: in an open incident, over some, in a cooling one, or as a new one.
    fn take(&mut self, step: &mut Step<'_>, finding: &Finding) {
        let fleet = &*step.fleet;
        let held = |ix: &u32| fleet.site(*ix).hold_until.is_some_and(|until| step.now < until);
        if finding.failing.iter().any(held) {
            return;
        }
        let open = || self.cases.iter().filter(|(_, case)| case.is_open());
        if open().any(|(_, case)| scope::contains(fleet, &case.scope, &finding.scope)) {
            return;
        }
        let inner: Vec<u64> = open()
            .filter(|(_, case)| {
                scope::contains(fleet, &finding.scope, &case.scope)
                    || case.present().all(|site| {
                        fleet
                            .find(site)
                            .is_some_and(|ix| scope::holds_site(fleet, &finding.scope, ix))
                    })
            })
            .map(|(no, _)| *no)
            .collect();
        let cooling = self.cases.iter().find(|(_, case)| {
            !case.is_open() && case.scope == finding.scope && case.cools(step.now, step.settings)
        });
        let cooling = cooling.map(|(no, _)| *no);
        if !inner.is_empty() {
            self.escalate(step, finding, &inner, cooling);
        } else if let Some(no) = cooling.or_else(|| self.revivable(step, finding)) {
            self.reopen(step, finding, no);
        } else {
            self.open(step, finding);
        }
    }

    /// A wider incident, resolved a moment ago, in which this scope fails anew. What failed on
    /// when it resolved is not that: people were told that it was over.
    fn revivable(&self, step: &Step<'_>, finding: &Finding) -> Option<u64> {
        let fleet = &*step.fleet;
        let fresh = finding.failing.iter().all(|ix| fleet.site(*ix).hold_until.is_none());
        let inside = |case: &Case| {
            let since = step.now - case.resolved_at?;
            (since <= REVIVE_INNER_MS && scope::contains(fleet, &case.scope, &finding.scope))
                .then_some(())
        };
        let found = self.cases.iter().filter(|(_, case)| inside(case).is_some());
        found.map(|(no, _)| *no).next_back().filter(|_| fresh)
    }

    fn open(&mut self, step: &mut Step<'_>, finding: &Finding) {
        let started_at = start_of(step.fleet, &finding.failing);
        let newest = newest_failure(step.fleet, &finding.failing);
        let mut case = Case::open(
            step.fleet,
            Kind::GatewayErrors,
            finding.scope.clone(),
            started_at,
            step.now,
        );
        case.retroactive = step.now - newest > step.settings.retroactive_ms;
        let no = self.next;
        self.next += 1;
        case.timeline.push(Moment { at: UnixMillis(step.now), what: "opened".to_owned() });
        self.cases.insert(no, case);
        for ix in &finding.failing {
            self.enter(step.fleet, no, *ix);
        }
        let due = finding.verdict_at + wait(step, &finding.scope);
        self.with(no, |case| {
            case.assess(step.fleet, step.now);
            let notify = case.tell(NotifyEvent::Opened, due.max(step.now));
            case.emit(TransitionEvent::Open, notify, step.fleet, step.now, step.out);
        });
    }

    fn reopen(&mut self, step: &mut Step<'_>, finding: &Finding, no: u64) {
        let newest = newest_failure(step.fleet, &finding.failing);
        self.with(no, |case| case.revive(finding.scope.clone(), newest, step.now));
        for ix in &finding.failing {
            self.enter(step.fleet, no, *ix);
        }
        self.with(no, |case| {
            case.retroactive &= step.now - newest > step.settings.retroactive_ms;
            case.assess(step.fleet, step.now);
            let event =
                if case.told.is_some() { NotifyEvent::Updated } else { NotifyEvent::Opened };
            let due = step.now + WAIT_MS;
            let notify = case.acked.then(|| case.tell(event, due)).flatten();
            case.emit(TransitionEvent::Reopen, notify, step.fleet, step.now, step.out);
        });
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
        for ix in &finding.failing {
            self.enter(step.fleet, main, *ix);
        }
        self.with(main, |case| {
            let from = before.map_or_else(String::new, |s| story::place_name(step.fleet, &s));
            let to = story::place_name(step.fleet, &finding.scope);
            if cooling.is_none() {
                let what = format!("widened from {from} to {to}");
                case.timeline.push(Moment { at: UnixMillis(step.now), what });
            }
            case.assess(step.fleet, step.now);
            let due = step.now + wait(step, &finding.scope);
            let notify = case.tell_change(step.now, due);
            case.emit(event, notify, step.fleet, step.now, step.out);
        });
    }

    /// Folds one open incident into another.
    fn merge(&mut self, step: &mut Step<'_>, child: u64, main: u64) {
        let Some(mut case) = self.cases.remove(&child) else { return };
        let Some(parent) = self.cases.get_mut(&main) else { return };
        case.parent = Some(parent.id.clone());
        case.resolved_at = Some(step.now);
        let what = format!("merged into {}", parent.id);
        case.timeline.push(Moment { at: UnixMillis(step.now), what });
        // Whoever heard that it began hears that it is over; what was not told yet never is.
        let told = case.told.as_ref().is_some_and(|told| step.now >= told.due);
        let notify = if told { case.tell(NotifyEvent::Resolved, step.now) } else { None };
        case.emit(TransitionEvent::Merge, notify, step.fleet, step.now, step.out);
        parent.children.push(case.id.clone());
        parent.children.append(&mut case.children);
        parent.recovery.absorb(&case.recovery);
        for (site, member) in case.members {
            let inside =
                step.fleet.find(site).filter(|ix| step.fleet.site(*ix).case == Some(child));
            if let Some(ix) = inside {
                step.fleet.site_mut(ix).case = Some(main);
            }
            parent.members.entry(site).and_modify(|m| m.absorb(&member)).or_insert(member);
            parent.moved.insert(site);
        }
    }

    /// Makes a failing site a member, with all that was counted since the start.
    fn enter(&mut self, fleet: &mut Fleet, no: u64, ix: u32) {
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
        let member = Member { since, until: None, totals };
        case.members.entry(site.id).and_modify(|known| known.absorb(&member)).or_insert(member);
        case.moved.insert(site.id);
        case.recovery.failed_at(episode.last_at + 1000);
    }

    /// Sites that fail inside an open incident join it.
    fn join(&mut self, step: &mut Step<'_>, servers: &BTreeSet<ServerId>) {
        let open = self.cases.iter().filter(|(_, case)| case.is_open());
        let wide: Vec<(u64, Scope)> = open
            .filter(|(_, case)| !matches!(case.scope, Scope::Site(_)))
            .map(|(no, case)| (*no, case.scope.clone()))
            .collect();
        if wide.is_empty() {
            return;
        }
        for server in servers {
            let sites = step.fleet.server(*server).map_or_else(Vec::new, |s| s.sites.clone());
            for ix in sites {
                let site = step.fleet.site(ix);
                let failing = site.case.is_none()
                    && site.episode.is_some()
                    && scope::failing_evidence(step.fleet, ix) > scope::FAILING;
                if !failing {
                    continue;
                }
                let inside = wide.iter().find(|(_, s)| scope::holds_site(step.fleet, s, ix));
                if let Some((no, _)) = inside {
                    self.enter(step.fleet, *no, ix);
                }
            }
        }
    }

    /// An incident whose scope no longer explains anything becomes the one inner scope that does.
    fn narrow(&mut self, step: &mut Step<'_>, findings: &[Finding]) {
        let numbers: Vec<u64> = self.cases.keys().copied().collect();
        for no in numbers {
            let Some(case) = self.cases.get_mut(&no).filter(|case| case.is_open()) else {
                continue;
            };
            let young = step.now - case.scope_since <= NARROW_MS;
            let inner: Vec<&Finding> = findings
                .iter()
                .filter(|f| {
                    f.scope != case.scope && scope::contains(step.fleet, &case.scope, &f.scope)
                })
                .collect();
            let stands = findings.iter().any(|finding| finding.scope == case.scope);
            let best = match (&inner[..], stands || !young) {
                ([only], false) => Some((*only).clone()),
                _ => None,
            };
            if stands || inner.len() > 1 || !young {
                case.narrowing = None;
            }
            let Some(best) = best else { continue };
            let since = match &case.narrowing {
                Some((scope, since, seen))
                    if *scope == best.scope && step.now - seen <= NARROW_GAP_MS =>
                {
                    *since
                }
                _ => step.now,
            };
            case.narrowing = Some((best.scope.clone(), since, step.now));
            if step.now - since >= NARROW_AFTER_MS {
                self.narrow_to(step, no, &best.scope);
            }
        }
    }

    fn narrow_to(&mut self, step: &mut Step<'_>, no: u64, inner: &Scope) {
        let Some(case) = self.cases.get_mut(&no) else { return };
        let outside: Vec<SiteId> = case
            .members
            .keys()
            .filter(|site| {
                let ix = step.fleet.find(**site);
                ix.is_none_or(|ix| !scope::holds_site(step.fleet, inner, ix))
            })
            .copied()
            .collect();
        for site in outside {
            if let Some(ix) = step.fleet.find(site) {
                step.fleet.site_mut(ix).leave_case(false);
            }
            if let Some(member) = case.members.remove(&site) {
                case.left.push((site, member.since, step.now));
            }
        }
        let from = story::place_name(step.fleet, &case.scope);
        let to = story::place_name(step.fleet, inner);
        case.widen(inner.clone(), step.now);
        let what = format!("narrowed from {from} to {to}");
        case.timeline.push(Moment { at: UnixMillis(step.now), what });
        case.assess(step.fleet, step.now);
        let notify = case.tell_change(step.now, step.now + WAIT_MS);
        case.emit(TransitionEvent::Narrow, notify, step.fleet, step.now, step.out);
    }

    /// Recovery, cause and numbers of one open incident.
    fn move_on(&mut self, step: &mut Step<'_>, no: u64) {
        let Some(case) = self.cases.get_mut(&no).filter(|case| case.is_open()) else { return };
        case.heal(step.fleet, step.now);
        if let Some(how) = case.is_over(step.fleet, step.settings, step.now) {
            self.resolve(step, no, &how);
            return;
        }
        let catching_up = case.retroactive
            && step.now - case.recovery.last_failed() <= step.settings.retroactive_ms;
        if catching_up {
            // Old data led to an outage that still goes on.
            case.retroactive = false;
            let notify = case.tell(NotifyEvent::Opened, step.now + WAIT_MS);
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
            return;
        }
        let lasting = case.reopened_at.is_some_and(|at| step.now - at >= REOPENED_TOLD_MS);
        if lasting && case.told.is_none() {
            let notify = case.tell(NotifyEvent::Opened, step.now);
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
            return;
        }
        case.reassess(step.fleet, step.now);
        if case.has_news(step.now) {
            let notify = case.tell_news(step.now);
            case.emit(TransitionEvent::Update, notify, step.fleet, step.now, step.out);
        }
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
        let notify = case.tell(NotifyEvent::Resolved, step.now);
        case.emit(TransitionEvent::Resolve, notify, step.fleet, step.now, step.out);
        let started = case.started_at.div_euclid(1000);
        let quiet_since = case.known_until(step.fleet, step.now).unwrap_or(step.now);
        for ix in case.positions(step.fleet) {
            if step.fleet.site(ix).case != Some(no) {
                continue;
            }
            let last = step.fleet.site(ix).last_failed().unwrap_or(0);
            let still = quiet_since - last < CHILD_MS;
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

/// How long a notification waits.
fn wait(step: &Step<'_>, scope: &Scope) -> i64 {
    let Scope::Server(this) = scope else { return WAIT_MS };
    let turned = |at: Option<i64>| at.is_some_and(|at| step.now - at <= WIDE_MS);
    let others = step.fleet.servers.values().filter(|s| s.id != *this && turned(s.suspect_since));
    if others.count() >= 2 { WAIT_WIDE_MS } else { WAIT_MS }
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
