//! Which incidents of servers are part of one of gateway errors: nobody is told of them.

use std::collections::BTreeSet;

use super::case::ServerCase;
use super::{ServerCases, Step, WAIT_MS};
use crate::detect::scope::Scope;
use crate::detect::{Fleet, pressure};
use crate::incident::case::{Case, Kind};
use crate::model::{NotifyEvent, ServerId, TransitionEvent};

/// Share of the servers of an incident that one of gateway errors must hold to be its parent.
const SHARE: f64 = 0.6;
/// Time after the parent's end in which what a child shows may end as well, ms.
const CHILD_MS: i64 = 20_000;

/// An incident of gateway errors, as far as it explains others: open, or over not long ago.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    id: String,
    resolved_at: Option<i64>,
    /// Its servers, when it is wide enough to take children.
    servers: BTreeSet<ServerId>,
}

/// Incidents of gateway errors that have children or may take some.
pub(super) fn parents<'a>(cases: impl Iterator<Item = &'a Case>, fleet: &Fleet) -> Vec<Parent> {
    let parent = |case: &Case| {
        let mut servers = BTreeSet::new();
        if matches!(case.scope, Scope::Group(_) | Scope::Server(_)) {
            servers.extend(case.positions(fleet).into_iter().map(|ix| fleet.site(ix).server));
        }
        if let Scope::Group(group) = &case.scope {
            servers.extend(fleet.members(group));
        }
        Parent { id: case.id.clone(), resolved_at: case.resolved_at, servers }
    };
    // Those that are open first, each in the order in which they opened.
    let mut parents: Vec<Parent> =
        cases.filter(|case| case.kind == Kind::GatewayErrors).map(parent).collect();
    parents.sort_by_key(|parent| parent.resolved_at.is_some());
    parents
}

impl ServerCase {
    /// The incident of gateway errors that this one is part of, of those given.
    fn parent_of<'a>(&self, step: &Step<'a>) -> Option<&'a Parent> {
        let present: BTreeSet<ServerId> = self.present().collect();
        let covers = |parent: &&Parent| {
            let n = present.intersection(&parent.servers).count();
            n > 0 && n as f64 >= SHARE * present.len() as f64
        };
        let meets = |parent: &&Parent| {
            let ended = parent.resolved_at;
            ended.is_none_or(|at| self.started_at <= at && !self.outlasts(step, at))
        };
        step.parents.iter().find(|parent| covers(parent) && meets(parent))
    }

    /// Whether its servers still showed it a while after `ended`, ms.
    fn outlasts(&self, step: &Step<'_>, ended: i64) -> bool {
        let shown_at = |id: ServerId| match self.kind {
            // Steal is known to be gone a minute after it is.
            Kind::Pressure => step.fleet.server(id).and_then(pressure::last_high),
            _ => Some(step.now),
        };
        self.present().filter_map(shown_at).any(|shown_at| shown_at - ended >= CHILD_MS)
    }

    /// Finds the incident of gateway errors it is part of before anybody is told of what it is now.
    pub(super) fn find_parent(&mut self, step: &Step<'_>) {
        let found = self.parent_of(step).map(|parent| parent.id.clone());
        if let Some(id) = found.as_ref().filter(|id| self.parent.as_ref() != Some(*id)) {
            self.say(step.now, format!("part of {id}"));
        }
        (self.parent, self.orphaned_at) = (found, None);
    }

    /// Goes from one parent to another, or to one at all.
    fn join(&mut self, step: &mut Step<'_>, id: String) {
        self.say(step.now, format!("part of {id}"));
        // Who heard of it hears no more of it than of any child: that it is over.
        let told = self.told.as_ref().is_some_and(|told| step.now >= told.due);
        let ended = told.then(|| self.tell(NotifyEvent::Resolved, step.now, step.now)).flatten();
        self.told = None;
        (self.parent, self.orphaned_at) = (Some(id), None);
        self.emit(TransitionEvent::Update, ended, step);
    }

    /// Stands for itself from now on: its parent is over and it is not.
    fn leave(&mut self, step: &mut Step<'_>) {
        (self.parent, self.orphaned_at) = (None, None);
        self.say(step.now, "goes on after the incident it was part of".to_owned());
        let notify = self.tell(NotifyEvent::Opened, step.now, step.now + WAIT_MS);
        self.emit(TransitionEvent::Update, notify, step);
    }
}

impl ServerCases {
    /// Makes incidents children of the gateway errors they explain, whichever came first, and frees
    /// them when those are over and they are not.
    pub(super) fn attach(&mut self, step: &mut Step<'_>) {
        for case in self.cases.values_mut().filter(|case| case.is_open()) {
            let parent = case.parent.as_ref();
            let known = parent.and_then(|id| step.parents.iter().find(|parent| parent.id == *id));
            if known.is_some_and(|parent| parent.resolved_at.is_none()) {
                case.orphaned_at = None;
                continue;
            }
            let other = case.parent_of(step).map(|parent| &parent.id);
            if let Some(id) = other.filter(|id| case.parent.as_ref() != Some(*id)).cloned() {
                case.join(step, id);
            } else if case.parent.is_some() {
                // What went into another incident has no end of its own.
                let ended = known.and_then(|parent| parent.resolved_at).unwrap_or(step.now);
                let ended = *case.orphaned_at.get_or_insert(ended);
                if case.outlasts(step, ended) {
                    case.leave(step);
                }
            }
        }
    }
}
