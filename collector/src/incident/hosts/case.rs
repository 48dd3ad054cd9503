//! One incident of servers while it is open or may still be revived.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::{NEWS_LATER_MS, NEWS_MS, Step, YOUNG_MS, words};
use crate::detect::hosts::Shared;
use crate::detect::scope::{Group, Scope};
use crate::detect::server::Unit;
use crate::detect::{Fleet, Settings, TICK_MS, services};
use crate::incident::case::Kind;
use crate::incident::told::{GROWING_MAX_MS, GROWN, TOLD_AGAIN_MS};
use crate::incident::{FLAPPING, story};
use crate::model::{Moment, Notify, NotifyEvent, ServerId, Transition, TransitionEvent};

/// Moments of the timeline kept, the first and the newest.
const MOMENTS_MAX: usize = 200;
/// Servers kept with when they were hit, beyond those that still are: what flaps for weeks.
const MEMBERS_MAX: usize = 20_000;

/// A server of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its first sign.
    pub since: i64,
    /// Its last word before the last time it was hit, or its last sign.
    pub heard_at: i64,
    /// When it was well again; `None` while it is not.
    pub until: Option<i64>,
    /// Its failed unit with its name: agents tell it once, and whoever forgot it would take it for well.
    #[serde(default)]
    pub(super) unit: Option<(String, Unit)>,
}

impl Member {
    pub(super) fn absorb(&mut self, other: &Self) {
        self.since = self.since.min(other.since);
        self.heard_at = self.heard_at.max(other.heard_at);
        self.unit = self.unit.take().or_else(|| other.unit.clone());
        self.until = if self.until.is_none() || other.until.is_none() {
            None
        } else {
            self.until.max(other.until)
        };
    }
}

/// What people were told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    severity: String,
    /// When they hear of it first.
    pub(super) due: i64,
    /// When they hear of it last; before that a page waits. And when that was asked for.
    #[serde(default)]
    at: i64,
    #[serde(default)]
    asked_at: i64,
    /// Servers they know; 0: not counted yet.
    #[serde(default)]
    n_servers: usize,
}

impl Told {
    /// When the page that tells it last is due.
    fn at(&self) -> i64 {
        self.at.max(self.due)
    }
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerCase {
    /// ULID.
    pub id: String,
    /// Of what kind.
    pub kind: Kind,
    /// Where: a server or a group.
    pub scope: Scope,
    /// Since when it has this scope.
    pub(super) scope_since: i64,
    /// Revision of the last transition.
    pub rev: u64,
    /// First sign.
    pub started_at: i64,
    /// When it opened, on the collector's clock.
    pub detected_at: i64,
    /// When it ended.
    pub resolved_at: Option<i64>,
    /// Every server it ever held, with when it was hit.
    pub members: BTreeMap<ServerId, Member>,
    /// How often it came back, and when last.
    pub reopens: u32,
    pub(super) reopened_at: Option<i64>,
    /// Incident it is part of, or was merged into.
    pub parent: Option<String>,
    /// Since when that one is over.
    pub(super) orphaned_at: Option<i64>,
    /// Incidents merged into it.
    pub children: Vec<String>,
    /// What happened to it.
    pub timeline: Vec<Moment>,
    /// What people know; `None` while they know nothing of its being open.
    pub(super) told: Option<Told>,
    /// Somebody takes care of it.
    pub acked: bool,
    pub(super) narrowing: Option<(Group, i64)>,
    /// Members that changed since the last transition.
    pub(super) moved: BTreeSet<ServerId>,
    /// The last transition: when, and whether something has happened since.
    emitted_at: i64,
    is_news: bool,
}

impl ServerCase {
    pub(super) fn open(fleet: &Fleet, kind: Kind, scope: Scope, started_at: i64, now: i64) -> Self {
        Self {
            id: story::id(kind.name(), &story::scope_key(fleet, &scope), started_at),
            kind,
            scope,
            scope_since: now,
            rev: 0,
            started_at,
            detected_at: now,
            resolved_at: None,
            members: BTreeMap::new(),
            reopens: 0,
            reopened_at: None,
            parent: None,
            orphaned_at: None,
            children: Vec::new(),
            timeline: Vec::new(),
            told: None,
            acked: false,
            narrowing: None,
            moved: BTreeSet::new(),
            emitted_at: i64::MIN,
            is_news: false,
        }
    }

    /// Whether it is going on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.resolved_at.is_none()
    }

    /// Whether what shows the same inside it is part of it: it is young, or half of all that ever
    /// showed it still do. One server that never came back does not hold its region for ever.
    #[must_use]
    pub fn is_live(&self, now: i64) -> bool {
        let is_young = now - self.scope_since < YOUNG_MS;
        self.is_open() && (is_young || 2 * self.present().count() >= self.members.len())
    }

    /// Servers that are hit now.
    pub fn present(&self) -> impl Iterator<Item = ServerId> {
        self.members.iter().filter(|(_, m)| m.until.is_none()).map(|(id, _)| *id)
    }

    /// Whether the same scope would revive it.
    pub(super) fn cools(&self, step: &Step<'_>) -> bool {
        let since = |at| step.now - at <= step.settings.cooldown_ms;
        let merged = self.parent.is_some() && self.orphaned_at.is_none();
        !merged && self.resolved_at.is_some_and(since)
    }

    /// Whether a group of mostly the same servers ended a moment ago.
    pub(super) fn is_like(&self, shared: &Shared, now: i64, within_ms: i64) -> bool {
        let same = shared.failing.iter().filter(|id| self.members.contains_key(id)).count();
        let smaller = shared.failing.len().min(self.members.len());
        matches!(self.scope, Scope::Group(_))
            && self.resolved_at.is_some_and(|at| now - at <= within_ms)
            && same >= 2
            && 2 * same >= smaller
    }

    /// Whether a server belongs to its scope.
    pub(super) fn holds(&self, fleet: &Fleet, id: ServerId) -> bool {
        match &self.scope {
            Scope::Group(group) => fleet.is_in(group, id),
            Scope::Server(server) => *server == id,
            Scope::Pool(_) | Scope::Site(_) => false,
        }
    }

    /// Whether time alone may change it.
    pub(super) fn is_in_motion(&self, now: i64) -> bool {
        let recovers = self.members.values().any(|member| member.until.is_some());
        self.is_open()
            && (self.is_news
                || self.parent.is_some()
                || self.narrowing.is_some()
                || (recovers && self.present().next().is_none())
                || (self.told.is_none() && self.reopened_at.is_some())
                || self.told.as_ref().is_some_and(|told| told.n_servers == 0)
                || now - self.scope_since < YOUNG_MS)
    }

    /// Takes a server in, or sees it hit again.
    pub(super) fn enter(&mut self, fleet: &Fleet, id: ServerId, since: i64, now: i64) {
        let (heard_at, unit) = (since, self.failed_unit(fleet, id));
        let full = self.members.len() >= MEMBERS_MAX;
        match self.members.get_mut(&id) {
            Some(member) if member.until.is_none() => return,
            Some(member) => {
                (member.until, member.heard_at, member.unit) = (None, heard_at, unit);
            }
            None if full => return,
            None => drop(self.members.insert(id, Member { since, heard_at, until: None, unit })),
        }
        self.moved.insert(id);
        self.is_news = true;
        if self.rev > 0 {
            let name = words::name(fleet, id);
            self.say(
                now,
                format!("{name} {} since {}", words::shows(self.kind), story::clock(since)),
            );
        }
    }

    /// What failed on a server, of an incident of services.
    fn failed_unit(&self, fleet: &Fleet, id: ServerId) -> Option<(String, Unit)> {
        let server = fleet.server(id).filter(|_| self.kind == Kind::Services)?;
        services::failed_unit(server).map(|(name, unit)| (name.to_owned(), unit.clone()))
    }

    /// Keeps what is down now on those that show it: another unit than before is news.
    fn note_units(&mut self, fleet: &Fleet, failing: &BTreeMap<ServerId, i64>) {
        if self.kind != Kind::Services {
            return;
        }
        let down: Vec<ServerId> = self.present().filter(|id| failing.contains_key(id)).collect();
        for id in down {
            let name = fleet.server(id).and_then(services::failed_unit).map(|(name, _)| name);
            let known = self.members[&id].unit.as_ref().map(|(known, _)| known.as_str());
            if name != known {
                let unit = self.failed_unit(fleet, id);
                self.members.entry(id).and_modify(|member| member.unit = unit);
                self.is_news = true;
            }
        }
    }

    /// Sees which of its servers are well and which are hit again.
    pub(super) fn see(&mut self, fleet: &Fleet, failing: &BTreeMap<ServerId, i64>, now: i64) {
        self.note_units(fleet, failing);
        let (mut again, mut well) = (Vec::new(), Vec::new());
        let is_live = self.is_live(now);
        for (id, member) in &mut self.members {
            match (failing.get(id), member.until) {
                (Some(since), Some(_)) if is_live => {
                    (member.until, member.heard_at) = (None, *since);
                    self.moved.insert(*id);
                    again.push(*id);
                }
                (None, None) => {
                    member.until = Some(now);
                    self.moved.insert(*id);
                    // Nobody knows how one is that was forgotten.
                    if fleet.server(*id).is_some_and(|server| !server.forgotten) {
                        well.push(*id);
                    }
                }
                _ => {}
            }
        }
        for (ids, what) in [(again, words::shows(self.kind)), (well, words::is_well(self.kind))] {
            if let Some(names) = words::names(fleet, &ids) {
                self.say(now, format!("{names} {what}"));
                self.is_news = true;
            }
        }
    }

    pub(super) fn widen(&mut self, scope: Scope, now: i64) {
        self.scope = scope;
        self.scope_since = now;
        self.narrowing = None;
    }

    /// Comes back under its old id.
    pub(super) fn revive(&mut self, scope: Scope, now: i64) {
        self.widen(scope, now);
        self.resolved_at = None;
        self.parent = None;
        self.orphaned_at = None;
        self.reopens += 1;
        self.reopened_at = Some(now);
        let flaps = if self.reopens >= FLAPPING { ", flapping" } else { "" };
        self.say(now, format!("reopened ({}{flaps})", self.reopens));
    }

    pub(super) fn say(&mut self, now: i64, what: String) {
        self.timeline.push(Moment { at: UnixMillis(now), what });
        if let Some(excess) = self.timeline.len().checked_sub(MOMENTS_MAX).filter(|n| *n > 0) {
            self.timeline.drain(1..=excess);
        }
    }

    /// Whether and how it is over: all are well for a while, or nobody waits for them any more.
    pub(super) fn is_over(&self, fleet: &Fleet, settings: &Settings, now: i64) -> Option<String> {
        let gone = |id: &ServerId| fleet.server(*id).is_none_or(|server| server.forgotten);
        if self.members.keys().all(gone) {
            return Some("resolved unverified: its servers left the fleet".to_owned());
        }
        let quiet_ms = settings.quiet_ms << self.reopens.min(3);
        let stable = self.members.iter().all(|(id, member)| {
            let Some(until) = member.until else { return false };
            // A second word: one that says hello and dies has not come back.
            let talks = fleet.server(*id).is_some_and(|server| server.arrived > until);
            gone(id) || (now - until >= quiet_ms && (self.kind != Kind::Silence || talks))
        });
        stable.then(|| "resolved".to_owned())
    }

    pub(super) fn resolve(&mut self, step: &mut Step<'_>, how: &str) {
        self.resolved_at = Some(step.now);
        self.say(step.now, how.to_owned());
        let notify = self.tell(NotifyEvent::Resolved, step.now, step.now);
        self.emit(TransitionEvent::Resolve, notify, step);
    }

    /// When the last of its servers was well again.
    #[must_use]
    pub fn well_at(&self) -> i64 {
        let until = self.members.values().filter_map(|member| member.until).max();
        until.unwrap_or(self.started_at)
    }

    /// `critical`, or `info` for pressure.
    #[must_use]
    pub fn severity(&self) -> &'static str {
        if self.kind == Kind::Pressure { "info" } else { "critical" }
    }

    /// Decides whether an event is told, and remembers it. A child is told by its parent.
    pub(super) fn tell(&mut self, event: NotifyEvent, now: i64, due: i64) -> Option<Notify> {
        let due_at = UnixMillis(due);
        if event == NotifyEvent::Resolved {
            self.told.take()?;
            return Some(Notify { event, due: due_at });
        }
        if self.parent.is_some() {
            return None;
        }
        let severity = self.severity().to_owned();
        let event = if self.told.is_none() { NotifyEvent::Opened } else { event };
        let first = self.told.as_ref().map_or(due, |told| told.due);
        self.told = Some(Told { severity, due: first, at: due, asked_at: now, n_servers: 0 });
        Some(Notify { event, due: due_at })
    }

    /// Tells a new scope; a page that waits is put off a little and tells it.
    pub(super) fn tell_change(&mut self, now: i64, due: i64) -> Option<Notify> {
        let Some(told) = self.told.as_mut().filter(|told| now < told.at()) else {
            return self.tell(NotifyEvent::Updated, now, due);
        };
        let at = due.min(told.asked_at + GROWING_MAX_MS);
        if at <= told.at() {
            return None;
        }
        let is_first = now < told.due;
        if is_first {
            told.due = at;
        }
        (told.at, told.n_servers) = (at, 0);
        let event = if is_first { NotifyEvent::Opened } else { NotifyEvent::Updated };
        Some(Notify { event, due: UnixMillis(at) })
    }

    /// Tells that twice as many servers are hit as people know.
    pub(super) fn tell_growth(&mut self, now: i64) -> Option<Notify> {
        let n_servers = self.present().count();
        let told = self.told.as_mut()?;
        if told.n_servers == 0 && now >= told.at() - TICK_MS {
            told.n_servers = n_servers;
        }
        let grown = told.n_servers > 0
            && now - told.at() >= TOLD_AGAIN_MS
            && n_servers >= GROWN * told.n_servers;
        grown.then(|| self.tell(NotifyEvent::Updated, now, now)).flatten()
    }

    /// Whether enough changed to store it again.
    pub(super) fn has_news(&self, now: i64) -> bool {
        // What is told at `due` is what is stored then.
        let due = self.told.as_ref().map_or(i64::MIN, |told| told.at().saturating_sub(TICK_MS));
        let last = now >= due && self.emitted_at < due;
        let young = now - self.scope_since < YOUNG_MS;
        let every = if young { NEWS_MS } else { NEWS_LATER_MS };
        self.is_news && (last || now.saturating_sub(self.emitted_at) >= every)
    }

    /// Makes the next transition.
    pub(super) fn emit(
        &mut self,
        event: TransitionEvent,
        notify: Option<Notify>,
        step: &mut Step<'_>,
    ) {
        self.rev += 1;
        self.emitted_at = step.now;
        self.is_news = false;
        let key = story::scope_key(step.fleet, &self.scope);
        let moved = std::mem::take(&mut self.moved);
        let spell = |id: &ServerId| {
            let member = self.members.get(id)?;
            Some((*id, UnixMillis(member.since), member.until.map(UnixMillis)))
        };
        let servers = moved.iter().filter_map(spell).collect();
        step.out.push(Transition {
            event,
            at: UnixMillis(step.now),
            key: format!("{}:{key}", self.kind.name()),
            rev: self.rev,
            incident: words::incident(self, step.fleet, step.settings, step.now),
            sites: Vec::new(),
            servers,
            notify,
        });
    }
}
