//! One incident while it is open or may still be revived.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::recovery::{RECOVERED, Recovery};
use super::told::Told;
use super::{FLAPPING, story};
use crate::detect::cause::{self, Verdict};
use crate::detect::scope::{self, Scope};
use crate::detect::site::Totals;
use crate::detect::table::Class;
use crate::detect::{Fleet, Settings, TICK_MS};
use crate::model::{Moment, Notify, ServerId, SiteId, Transition, TransitionEvent};

/// Without traffic for so long an incident resolves unverified, ms.
const UNVERIFIED_MS: i64 = 30 * 60_000;
/// Nothing heard of its servers for so long: the same, ms.
const FORGOTTEN_MS: i64 = 24 * 3_600_000;
/// A server that sent nothing for so long says nothing about quiet, ms.
const TALKING_MS: i64 = 60_000;
/// A server that talks and whose events are known only up to so long ago does not keep up, ms.
const STUCK_MS: i64 = 60_000;
/// While numbers change they are stored this often in the first ten minutes and later, ms.
const NEWS_MS: i64 = 10_000;
const NEWS_LATER_MS: i64 = 60_000;
const NEWS_YOUNG_MS: i64 = 600_000;
/// Growth and a new cause are stored at most this often, ms.
const NEWS_MIN_MS: i64 = 1_000;
/// The cause: looked at this often in its first seconds, then, and when frozen, ms.
const ASSESS_FIRST_MS: i64 = 1_000;
const ASSESS_MS: i64 = 5_000;
const ASSESS_FROZEN_MS: i64 = 30_000;
const FIRST_MS: i64 = 5_000;
const FROZEN_MS: i64 = 120_000;
/// Moments of the timeline kept, the first and the newest: what flaps for weeks has thousands.
const MOMENTS_MAX: usize = 200;
/// Nats by which another cause must lead to replace a frozen one.
const THAW_NATS: f64 = 2.0;

/// What kind of fault an incident is. An incident never changes its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Requests fail at the gateway.
    #[default]
    GatewayErrors,
    /// They fail a little, for long.
    SlowBurn,
    /// Agents send nothing.
    Silence,
    /// Servers lack a resource together.
    Pressure,
    /// Services stopped together.
    Services,
}

impl Kind {
    /// Name in JSON and first segment of every key.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GatewayErrors => "gateway_errors",
            Self::SlowBurn => "slow_burn",
            Self::Silence => "silence",
            Self::Pressure => "pressure",
            Self::Services => "services",
        }
    }
}

/// A failing site of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its first failure in it, corrected.
    pub since: i64,
    /// When it was over for it.
    pub until: Option<i64>,
    /// Counted since the start.
    pub totals: Totals,
    /// It answered well between the start of the incident and its own first failure.
    #[serde(default)]
    pub was_well: bool,
    /// When it became one, on the collector's clock.
    #[serde(default)]
    pub joined_at: i64,
}

impl Member {
    /// Joins two spells of one site.
    pub fn absorb(&mut self, other: &Self) {
        self.since = self.since.min(other.since);
        self.until = other.until;
        self.totals.add(other.totals);
        self.was_well |= other.was_well;
    }
}

/// What the last transition said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Emitted {
    at: i64,
    n_sites: usize,
    class: Option<Class>,
    severity: String,
    status: u16,
    n: u64,
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// ULID.
    pub id: String,
    /// Of what kind.
    #[serde(default)]
    pub kind: Kind,
    /// Where.
    pub scope: Scope,
    /// Since when it has this scope.
    pub scope_since: i64,
    /// Revision of the last transition.
    pub rev: u64,
    /// First failure, corrected.
    pub started_at: i64,
    /// When it opened, on the collector's clock.
    pub detected_at: i64,
    /// When it resolved.
    pub resolved_at: Option<i64>,
    /// Found in old data.
    pub retroactive: bool,
    /// Failing sites.
    pub members: BTreeMap<SiteId, Member>,
    /// Sites that left with a narrower scope: since, until.
    pub left: Vec<(SiteId, i64, i64)>,
    /// Members that changed since the last transition.
    pub moved: BTreeSet<SiteId>,
    /// Evidence that it is over.
    pub recovery: Recovery,
    /// How often it came back.
    pub reopens: u32,
    /// When it came back last.
    pub reopened_at: Option<i64>,
    /// Incident it was merged into.
    pub parent: Option<String>,
    /// Incidents merged into it.
    pub children: Vec<String>,
    /// What happened to it.
    pub timeline: Vec<Moment>,
    /// Why.
    pub verdict: Verdict,
    assessed_at: i64,
    /// What people know; `None` while they know nothing of its being open.
    pub told: Option<Told>,
    /// Somebody takes care of it.
    pub acked: bool,
    /// Since when it has been a group; `None` while it is none.
    #[serde(default)]
    pub group_since: Option<i64>,
    /// Of a group: servers that failed as a whole under it.
    #[serde(default)]
    pub failed: BTreeSet<ServerId>,
    /// Inner scope that explains more, since when, and when it was seen last.
    pub narrowing: Option<(Scope, i64, i64)>,
    emitted: Emitted,
    /// First second whose requests the recovery has not seen.
    #[serde(default)]
    healed: i64,
}

impl Case {
    /// A new incident.
    pub(crate) fn open(fleet: &Fleet, kind: Kind, scope: Scope, started_at: i64, now: i64) -> Self {
        let id = story::id(kind.name(), &story::scope_key(fleet, &scope), started_at);
        let group_since = matches!(scope, Scope::Group(_)).then_some(now);
        Self {
            id,
            kind,
            scope,
            scope_since: now,
            rev: 0,
            started_at,
            detected_at: now,
            resolved_at: None,
            retroactive: false,
            members: BTreeMap::new(),
            left: Vec::new(),
            moved: BTreeSet::new(),
            recovery: Recovery::new(started_at.div_euclid(1000)),
            reopens: 0,
            reopened_at: None,
            parent: None,
            children: Vec::new(),
            timeline: Vec::new(),
            verdict: Verdict::default(),
            assessed_at: i64::MIN,
            told: None,
            acked: false,
            group_since,
            failed: BTreeSet::new(),
            narrowing: None,
            emitted: Emitted::default(),
            healed: i64::MIN,
        }
    }

    /// Whether it is going on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.resolved_at.is_none()
    }

    /// Whether the same scope would revive it.
    #[must_use]
    pub fn cools(&self, now: i64, settings: &Settings) -> bool {
        self.resolved_at.is_some_and(|at| now - at <= settings.cooldown_ms)
    }

    /// Sites that are failing members now.
    pub fn present(&self) -> impl Iterator<Item = SiteId> {
        self.members.iter().filter(|(_, m)| m.until.is_none()).map(|(site, _)| *site)
    }

    /// Takes another scope.
    pub(crate) fn widen(&mut self, scope: Scope, now: i64) {
        self.group_since = match scope {
            Scope::Group(_) => self.group_since.or(Some(now)),
            _ => None,
        };
        self.scope = scope;
        self.scope_since = now;
        self.narrowing = None;
    }

    /// Comes back under its old id.
    pub(crate) fn revive(&mut self, scope: Scope, newest_failure: i64, now: i64) {
        self.group_since = None;
        self.widen(scope, now);
        self.resolved_at = None;
        self.reopens += 1;
        self.reopened_at = Some(now);
        self.recovery.restart(newest_failure + 1000);
        let flaps = if self.reopens >= FLAPPING { ", flapping" } else { "" };
        let what = format!("reopened ({}{flaps})", self.reopens);
        self.timeline.push(Moment { at: UnixMillis(now), what });
    }

    /// Positions of all members.
    #[must_use]
    pub fn positions(&self, fleet: &Fleet) -> Vec<u32> {
        self.members.keys().filter_map(|site| fleet.find(*site)).collect()
    }

    /// Servers that fail in it: of a group as a whole, else those of its sites.
    #[must_use]
    pub fn failing_servers(&self, fleet: &Fleet) -> BTreeSet<ServerId> {
        if self.failed.is_empty() { self.servers(fleet) } else { self.failed.clone() }
    }

    pub(super) fn servers(&self, fleet: &Fleet) -> BTreeSet<ServerId> {
        let sites = self.positions(fleet).into_iter();
        let mut servers: Vec<ServerId> = sites.map(|ix| fleet.site(ix).server).collect();
        // Sites of one server most often follow each other: a set of few is cheaper than one of many.
        servers.dedup();
        servers.into_iter().collect()
    }

    /// Feeds the recovery with seconds that have closed since the last time; false when none has.
    pub(crate) fn heal(&mut self, fleet: &mut Fleet, now: i64) -> bool {
        let closed = scope::closed_second(now);
        if closed <= self.healed {
            return false;
        }
        self.healed = closed;
        let start = self.started_at.div_euclid(1000);
        let mut seconds: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
        for ix in self.positions(fleet) {
            fleet.site_mut(ix).heal(start, closed, &mut |second, ok, failed| {
                let sums = seconds.entry(second).or_default();
                sums.0 += u64::from(ok);
                sums.1 += u64::from(failed);
            });
        }
        self.recovery.fold(&seconds);
        true
    }

    /// Up to when the events of its talking servers are known, ms; `None` when none talks. Nobody
    /// waits for one whose watermark is stuck, unless all lie behind.
    #[must_use]
    pub fn known_until(&self, fleet: &Fleet, now: i64) -> Option<i64> {
        let servers = self.servers(fleet);
        let talking = servers
            .iter()
            .filter_map(|id| fleet.server(*id))
            .filter(|server| now - server.arrived <= TALKING_MS);
        let known: Vec<(i64, i64)> =
            talking.map(|server| (server.known_until(), server.arrived)).collect();
        let up_to_date = known.iter().filter(|(until, arrived)| arrived - until <= STUCK_MS);
        let all = || known.iter().map(|(until, _)| *until).min();
        up_to_date.map(|(until, _)| *until).min().or_else(all)
    }

    /// Whether and how it is over.
    #[must_use]
    pub fn is_over(&self, fleet: &Fleet, settings: &Settings, now: i64) -> Option<String> {
        let servers = self.servers(fleet);
        if servers.is_empty() {
            return Some("resolved unverified: none of its sites is left".to_owned());
        }
        let known = || servers.iter().filter_map(|id| fleet.server(*id));
        if known().all(|server| server.forgotten) {
            return Some("resolved unverified: its servers were forgotten".to_owned());
        }
        let heard = known().map(|server| server.arrived).max();
        if heard.is_none_or(|at| now - at >= FORGOTTEN_MS) {
            return Some("resolved unverified: nothing heard of its servers for a day".to_owned());
        }
        let known = self.known_until(fleet, now)?;
        let quiet_ms = self.recovery.quiet_ms(settings.quiet_ms << self.reopens.min(3));
        let quiet = known - self.recovery.last_failed();
        if self.recovery.evidence() >= RECOVERED && quiet >= quiet_ms {
            return Some("resolved".to_owned());
        }
        let idle = known - self.recovery.last_traffic() * 1000;
        (idle >= UNVERIFIED_MS && quiet >= quiet_ms)
            .then(|| "resolved unverified: no traffic for 30 minutes".to_owned())
    }

    /// Looks for the cause.
    pub(crate) fn assess(&mut self, fleet: &Fleet, now: i64) {
        let members = self.positions(fleet);
        let pool = story::shared_pool(fleet, &members);
        let verdict = cause::assess(fleet, &self.scope, &members, pool, self.started_at);
        self.take_verdict(verdict, now);
    }

    /// Looks for the cause again when it is time: often at first, then only for a clear change.
    pub(crate) fn reassess(&mut self, fleet: &Fleet, now: i64) {
        let age = now - self.scope_since;
        let every = match age {
            _ if age <= FIRST_MS => ASSESS_FIRST_MS,
            _ if age <= FROZEN_MS => ASSESS_MS,
            _ => ASSESS_FROZEN_MS,
        };
        if now.saturating_sub(self.assessed_at) < every {
            return;
        }
        let members = self.positions(fleet);
        let pool = story::shared_pool(fleet, &members);
        let verdict = cause::assess(fleet, &self.scope, &members, pool, self.started_at);
        let flips = verdict.class.is_some()
            && verdict.class != self.verdict.class
            && verdict.margin > THAW_NATS;
        if age <= FROZEN_MS || flips {
            self.take_verdict(verdict, now);
        }
        self.assessed_at = now;
    }

    fn take_verdict(&mut self, verdict: Verdict, now: i64) {
        self.assessed_at = now;
        if verdict.class != self.verdict.class && self.rev > 0 {
            let name = verdict.class.map_or("unknown", Class::name);
            let what = format!("cause: {name} ({:.2})", verdict.confidence);
            self.timeline.push(Moment { at: UnixMillis(now), what });
        }
        self.verdict = verdict;
    }

    /// Sum over all members.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.members.values().for_each(|member| totals.add(member.totals));
        totals
    }

    /// `critical`, `warning` or `info`.
    #[must_use]
    pub fn severity(&self) -> &'static str {
        match self.scope {
            _ if self.retroactive => "info",
            Scope::Server(_) | Scope::Group(_) => "critical",
            _ if self.members.len() >= 10 => "critical",
            _ => "warning",
        }
    }

    /// Whether enough changed to store it again.
    #[must_use]
    pub fn has_news(&self, now: i64) -> bool {
        let totals = self.totals();
        let said = &self.emitted;
        let since = now - said.at;
        let grown = self.members.len() >= 2 * said.n_sites
            || self.verdict.class != said.class
            || self.severity() != said.severity
            || story::dominant_status(&totals) != said.status;
        if grown && since >= NEWS_MIN_MS {
            return true;
        }
        if totals.n == said.n && self.moved.is_empty() {
            return false;
        }
        // What is told at `due` is what is stored then.
        let due = self.told.as_ref().map_or(i64::MIN, Told::at);
        if now >= due.saturating_sub(TICK_MS) && said.at < due.saturating_sub(TICK_MS) {
            return true;
        }
        let young = now - self.detected_at <= NEWS_YOUNG_MS;
        since >= if young { NEWS_MS } else { NEWS_LATER_MS }
    }

    /// Makes the next transition.
    pub(crate) fn emit(
        &mut self,
        event: TransitionEvent,
        notify: Option<Notify>,
        fleet: &Fleet,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        self.rev += 1;
        if let Some(excess) = self.timeline.len().checked_sub(MOMENTS_MAX).filter(|n| *n > 0) {
            self.timeline.drain(1..=excess);
        }
        let totals = self.totals();
        self.emitted = Emitted {
            at: now,
            n_sites: self.members.len(),
            class: self.verdict.class,
            severity: self.severity().to_owned(),
            status: story::dominant_status(&totals),
            n: totals.n,
        };
        let moved = std::mem::take(&mut self.moved);
        let spell = |site: &SiteId| {
            let member = self.members.get(site)?;
            Some((*site, UnixMillis(member.since), member.until.map(UnixMillis)))
        };
        let mut sites: Vec<_> = moved.iter().filter_map(spell).collect();
        let left = std::mem::take(&mut self.left);
        sites.extend(
            left.into_iter()
                .map(|(s, since, until)| (s, UnixMillis(since), Some(UnixMillis(until)))),
        );
        out.push(Transition {
            event,
            at: UnixMillis(now),
            key: format!("{}:{}", self.kind.name(), story::scope_key(fleet, &self.scope)),
            rev: self.rev,
            incident: story::incident(self.kind.name(), self, fleet, now),
            sites,
            servers: Vec::new(),
            notify,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_that_flaps_for_weeks_keeps_its_first_and_its_newest_moments() {
        let (fleet, mut out) = (Fleet::default(), Vec::new());
        let mut case =
            Case::open(&fleet, Kind::GatewayErrors, Scope::Server(ServerId(1)), 1000, 2000);
        for n in 0..5000 {
            case.timeline.push(Moment { at: UnixMillis(n), what: format!("moment {n}") });
            case.emit(TransitionEvent::Update, None, &fleet, n, &mut out);
        }
        let timeline = &out.last().expect("it was emitted").incident.timeline;
        assert_eq!(timeline.len(), MOMENTS_MAX);
        assert_eq!((timeline[0].at, timeline[1].at), (UnixMillis(0), UnixMillis(4801)));
        assert_eq!(timeline[MOMENTS_MAX - 1].what, "moment 4999");
    }
}
