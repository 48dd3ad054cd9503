//! Incidents of whole servers: silence, pressure, services. A pure state machine, as its sibling for
//! requests that fail, but its members are servers and nothing in it is counted.
//!
//! A member is there from its first sign until it is well again; an incident is over when all of
//! them have been well for a while. A server that is not known is neither: it changes nothing.

mod case;
mod family;
mod place;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Book;
use super::case::Kind;
use crate::detect::hosts::Signals;
use crate::detect::scope::{self, Group, Scope};
use crate::detect::server::Unit;
use crate::detect::{Fleet, Settings};
use crate::model::{NotifyEvent, ServerId, Transition, TransitionEvent};
pub use case::{Member, ServerCase};
use family::Parent;

/// Wait before a notification of a group, so that it tells all of it, ms; one server has waited.
const WAIT_GROUP_MS: i64 = 2_000;
const WAIT_MS: i64 = 1_000;
/// A quietly reopened incident still open after this is told after all, ms.
const REOPENED_TOLD_MS: i64 = 300_000;
/// What changed is stored at most this often while an incident is young, and later, ms.
const NEWS_MS: i64 = 2_000;
const NEWS_LATER_MS: i64 = 30_000;
const YOUNG_MS: i64 = 180_000;

/// Open incidents of servers and those that may still be revived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerCases {
    cases: BTreeMap<u64, ServerCase>,
    next: u64,
}

/// One step's surroundings.
struct Step<'a> {
    fleet: &'a Fleet,
    settings: &'a Settings,
    now: i64,
    /// Incidents of gateway errors that may explain what servers show.
    parents: &'a [Parent],
    out: &'a mut Vec<Transition>,
}

impl Book {
    /// Moves the incidents of servers on by what servers show at `now`.
    pub(crate) fn step_servers(
        &mut self,
        fleet: &Fleet,
        signals: &[Signals],
        settings: &Settings,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        let is_of_use =
            !self.servers.is_empty() || signals.iter().any(|signals| !signals.failing.is_empty());
        let parents = if is_of_use { family::parents(self.cases.values(), fleet) } else { vec![] };
        let mut step = Step { fleet, settings, now, parents: &parents, out };
        for signal in signals {
            self.servers.take(&mut step, signal);
        }
        self.servers.attach(&mut step);
        self.servers.move_on(&mut step);
        for (child, parent) in self.servers.adopted() {
            let case = self.cases.values_mut().find(|case| case.id == *parent);
            if let Some(case) = case.filter(|case| !case.children.contains(child)) {
                case.children.push(child.clone());
            }
        }
    }
}

impl ServerCases {
    /// Whether nothing is open or may be revived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Servers that an open incident of silence holds.
    #[must_use]
    pub fn explained(&self) -> BTreeSet<ServerId> {
        let open = self.cases.values().filter(|c| c.is_open() && c.kind == Kind::Silence);
        open.flat_map(ServerCase::present).collect()
    }

    /// Servers that are silent by the open incidents: since when, and when that was found.
    pub fn silent(&self) -> impl Iterator<Item = (ServerId, i64, i64)> {
        let open = self.cases.values().filter(|c| c.is_open() && c.kind == Kind::Silence);
        open.flat_map(|case| {
            let present = case.members.iter().filter(|(_, member)| member.until.is_none());
            present.map(|(id, member)| (*id, member.heard_at, case.detected_at))
        })
    }

    /// Units that are down by the open incidents, with their names.
    pub fn down(&self) -> impl Iterator<Item = (ServerId, &str, &Unit)> {
        let open = self.cases.values().filter(|c| c.is_open() && c.kind == Kind::Services);
        let hit = open.flat_map(|case| case.members.iter().filter(|(_, m)| m.until.is_none()));
        hit.filter_map(|(id, member)| member.unit.as_ref().map(|(name, unit)| (*id, &**name, unit)))
    }

    /// Whether an incident waits for time to pass.
    #[must_use]
    pub fn in_motion(&self, now: i64) -> bool {
        self.cases.values().any(|case| case.is_in_motion(now))
    }

    /// Notes which incidents are acknowledged.
    pub fn set_acked(&mut self, ids: &BTreeSet<String>) {
        for case in self.cases.values_mut() {
            case.acked = ids.contains(&case.id);
        }
    }

    /// Children of open incidents: child, parent.
    fn adopted(&self) -> impl Iterator<Item = (&String, &String)> {
        let open = self.cases.values().filter(|case| case.is_open());
        open.filter_map(|case| Some((&case.id, case.parent.as_ref()?)))
    }

    /// Takes what servers show of one kind.
    fn take(&mut self, step: &mut Step<'_>, signals: &Signals) {
        for case in self.cases.values_mut().filter(|c| c.is_open() && c.kind == signals.kind) {
            case.see(step.fleet, &signals.failing, step.now);
        }
        if !signals.may_open {
            return;
        }
        for shared in &signals.groups {
            self.place_group(step, signals, shared);
        }
        self.join(step, signals);
        self.narrow(step, signals);
        for id in &signals.alone {
            self.place_alone(step, signals, *id);
        }
    }

    /// Servers that show the same inside an open group become part of it.
    fn join(&mut self, step: &mut Step<'_>, signals: &Signals) {
        let held = self.held(signals.kind);
        for (id, since) in signals.failing.iter().filter(|(id, _)| !held.contains(id)) {
            let groups = self.cases.values_mut().filter(|case| {
                case.is_live(step.now) && case.kind == signals.kind && case.holds(step.fleet, *id)
            });
            // The smallest group that holds it is the most specific one.
            if let Some(case) = groups.min_by_key(|case| case.members.len()) {
                case.enter(step.fleet, *id, *since, step.now);
            }
        }
    }

    /// Servers that an open incident of this kind holds.
    fn held(&self, kind: Kind) -> BTreeSet<ServerId> {
        let open = self.cases.values().filter(|case| case.is_open() && case.kind == kind);
        open.flat_map(ServerCase::present).collect()
    }

    /// Ends what is over, tells what is new, forgets what cannot come back.
    fn move_on(&mut self, step: &mut Step<'_>) {
        for case in self.cases.values_mut().filter(|case| case.is_open()) {
            if let Some(how) = case.is_over(step.fleet, step.settings, step.now) {
                case.resolve(step, &how);
                continue;
            }
            let lasting = case.reopened_at.is_some_and(|at| step.now - at >= REOPENED_TOLD_MS);
            if lasting && case.told.is_none() && case.parent.is_none() {
                let notify = case.tell(NotifyEvent::Opened, step.now, step.now);
                case.emit(TransitionEvent::Update, notify, step);
                continue;
            }
            let notify = case.tell_growth(step.now);
            if notify.is_some() || case.has_news(step.now) {
                case.emit(TransitionEvent::Update, notify, step);
            }
        }
        let (now, cooldown_ms) = (step.now, step.settings.cooldown_ms);
        self.cases.retain(|_, case| case.resolved_at.is_none_or(|at| now - at <= cooldown_ms));
    }
}

/// Whether one scope lies in another, by the servers.
fn is_inside(fleet: &Fleet, outer: &Scope, inner: &Scope) -> bool {
    scope::contains(fleet, outer, inner)
}

/// The group of a scope.
fn group_of(scope: &Scope) -> Option<&Group> {
    match scope {
        Scope::Group(group) => Some(group),
        _ => None,
    }
}
