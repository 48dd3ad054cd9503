//! Slow burns: sites that use up their error budget too fast without failing enough to wake anybody.
//!
//! A state machine of its own beside that of outages: what burns is told once to whoever wants
//! `info`, grows with the sites of its pool or server, and steps back as soon as an outage takes
//! over. Acts every ten seconds.

mod shown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::Book;
use super::case::Kind;
use super::story;
use super::told::GROWN;
use crate::detect::burn::{Burning, Rule};
use crate::detect::scope::{Pool, Scope};
use crate::detect::site::Totals;
use crate::detect::{Fleet, Settings};
use crate::model::{Moment, Notify, NotifyEvent, ServerId, SiteId, Transition, TransitionEvent};

/// How often it is looked at, ms.
const STEP_MS: i64 = 10_000;
/// How long both windows must be back under before a site has calmed, seconds.
const CALM_S: i64 = 1_800;
/// While numbers change they are stored this often, ms.
const NEWS_MS: i64 = 600_000;
/// Wait before the notification, ms.
const WAIT_MS: i64 = 1_000;
/// Pools, or sites without one, of one server that burn: from so many on it is the server.
const PARTS_MAX: usize = 3;
/// A quietly reopened one that still burns after this is told after all, ms.
const REOPENED_TOLD_MS: i64 = 300_000;
/// Ids remembered.
const USED_MAX: usize = 4_096;
/// Moments of the timeline kept, the first and the newest.
const MOMENTS_MAX: usize = 100;
const SEVERITY: &str = "info";

/// A site of a slow burn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Member {
    since: i64,
    until: Option<i64>,
    /// Second since which both windows are under.
    calm_since: Option<i64>,
    totals: Totals,
    /// Of the site's own count, what is in `totals` already.
    counted: Totals,
}

/// How fast, as people are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Pace {
    long_s: i64,
    /// Share of requests that fail.
    share: f64,
}

/// One slow burn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ticket {
    id: String,
    scope: Scope,
    rev: u64,
    started_at: i64,
    detected_at: i64,
    resolved_at: Option<i64>,
    parent: Option<String>,
    children: Vec<String>,
    members: BTreeMap<SiteId, Member>,
    moved: BTreeSet<SiteId>,
    timeline: Vec<Moment>,
    pace: Pace,
    /// The fastest so far.
    peak: Pace,
    told: bool,
    /// Sites they know; 0: not counted yet.
    #[serde(default)]
    n_told: usize,
    /// When it came back last.
    #[serde(default)]
    reopened_at: Option<i64>,
    emitted_at: i64,
}

/// Slow burns that are open or may come back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Burns {
    tickets: BTreeMap<u64, Ticket>,
    next: u64,
    /// Sites that failed since the last look, by position in the fleet.
    look: BTreeSet<u32>,
    /// Ids given lately, oldest first: what burns again after an outage began in the same second.
    #[serde(default)]
    used: VecDeque<String>,
}

/// What a look at one site says.
enum State {
    /// Its budget burns too fast.
    Burns(Burning),
    /// It does not, and everything up to this second is known.
    Calm(i64),
    /// It is in this incident.
    Fails(u64),
}

struct Step<'a> {
    fleet: &'a mut Fleet,
    book: &'a Book,
    settings: &'a Settings,
    now: i64,
    out: &'a mut Vec<Transition>,
}

impl Burns {
    /// Notes a site that failed.
    pub(crate) fn failed(&mut self, ix: u32) {
        self.look.insert(ix);
    }

    /// Whether the clock alone changes nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.look.is_empty() && self.tickets.is_empty()
    }

    /// Moves every slow burn on.
    pub(crate) fn step(
        &mut self,
        fleet: &mut Fleet,
        book: &Book,
        settings: &Settings,
        now: i64,
        out: &mut Vec<Transition>,
    ) {
        if now.rem_euclid(STEP_MS) != 0 || self.is_idle() {
            return;
        }
        let mut step = Step { fleet, book, settings, now, out };
        let states = self.states(&mut step);
        for (scope, sites) in groups(step.fleet, &states) {
            self.place(&mut step, &scope, &sites, &states);
        }
        let numbers: Vec<u64> = self.tickets.keys().copied().collect();
        for no in numbers {
            self.move_on(&mut step, no, &states);
        }
        self.tickets.retain(|_, ticket| {
            ticket
                .resolved_at
                .is_none_or(|at| now - at <= settings.cooldown_ms && ticket.parent.is_none())
        });
    }

    /// Looks at the sites that failed and at those that burn.
    fn states(&mut self, step: &mut Step<'_>) -> BTreeMap<u32, State> {
        let mut sites = std::mem::take(&mut self.look);
        let open = self.tickets.values().filter(|ticket| ticket.resolved_at.is_none());
        let present = open.flat_map(Ticket::present);
        let present: BTreeSet<u32> = present.filter_map(|site| step.fleet.find(site)).collect();
        sites.extend(&present);
        let state = |ix| Some((ix, state(step, ix, present.contains(&ix))?));
        sites.into_iter().filter_map(state).collect()
    }

    /// Sites that burn together find their slow burn.
    fn place(
        &mut self,
        step: &mut Step<'_>,
        scope: &Scope,
        sites: &[u32],
        states: &BTreeMap<u32, State>,
    ) {
        let ids: Vec<SiteId> = sites.iter().map(|ix| step.fleet.site(*ix).id).collect();
        let holds = |ticket: &Ticket| {
            ticket.scope == *scope || ids.iter().any(|id| ticket.present().any(|site| site == *id))
        };
        let open = self.tickets.iter().filter(|(_, t)| t.resolved_at.is_none() && holds(t));
        let mut open: Vec<(i64, u64)> = open.map(|(no, t)| (t.started_at, *no)).collect();
        open.sort_unstable();
        let cooling = self
            .tickets
            .iter()
            .find(|(_, t)| t.resolved_at.is_some() && t.parent.is_none() && t.scope == *scope);
        let event = match (open.first(), cooling.map(|(no, _)| *no)) {
            (Some(_), _) => TransitionEvent::Update,
            (None, Some(no)) => {
                open.push((0, no));
                TransitionEvent::Reopen
            }
            // Old data opens nothing: it is over by now, or failures of today say it again.
            (None, None) if !sites.iter().any(|ix| is_fresh(step, *ix)) => return,
            (None, None) => {
                let started = |ix| match &states[ix] {
                    State::Burns(burning) => Some(burning.first * 1000),
                    _ => None,
                };
                let started_at = sites.iter().filter_map(started).min().unwrap_or(step.now);
                open.push((started_at, self.next));
                let ticket = self.new_ticket(step, scope, started_at);
                self.tickets.insert(self.next, ticket);
                self.next += 1;
                TransitionEvent::Open
            }
        };
        let main = open[0].1;
        let others: Vec<Ticket> =
            open[1..].iter().filter_map(|(_, no)| self.tickets.remove(no)).collect();
        let Some(ticket) = self.tickets.get_mut(&main) else { return };
        let mut event = event;
        if width(scope) > width(&ticket.scope) {
            // It never narrows: sites calm down one by one.
            let from = story::place_name(step.fleet, &ticket.scope);
            let to = story::place_name(step.fleet, scope);
            ticket.scope = scope.clone();
            ticket.say(step.now, format!("widened from {from} to {to}"));
            event = TransitionEvent::Escalate;
        }
        for other in others {
            ticket.absorb(step, other);
        }
        let joined = sites.iter().filter(|ix| ticket.enter(step.fleet, **ix, states)).count();
        if event == TransitionEvent::Update && joined == 0 {
            return;
        }
        ticket.measure(step.fleet, states);
        ticket.resolved_at = None;
        let notify = match event {
            TransitionEvent::Open => ticket.tell(NotifyEvent::Opened, step.now + WAIT_MS),
            TransitionEvent::Escalate if ticket.told => {
                ticket.tell(NotifyEvent::Updated, step.now + WAIT_MS)
            }
            _ => ticket.tell_growth(step.now),
        };
        if event == TransitionEvent::Reopen {
            ticket.reopened_at = Some(step.now);
            ticket.say(step.now, "reopened".to_owned());
        }
        ticket.emit(event, notify, step);
    }

    /// A slow burn with an id that none had lately.
    fn new_ticket(&mut self, step: &Step<'_>, scope: &Scope, started_at: i64) -> Ticket {
        let make = |at| Ticket::new(step.fleet, scope.clone(), at, step.now);
        let mut ticket = make(started_at);
        while self.used.contains(&ticket.id) {
            ticket = make(ticket.started_at + 1);
        }
        self.used.push_back(ticket.id.clone());
        if self.used.len() > USED_MAX {
            self.used.pop_front();
        }
        ticket
    }

    /// Looks at these sites, by position in the fleet, and at no others: positions that were saved
    /// with another fleet mean other sites.
    pub(crate) fn look_at(&mut self, sites: impl Iterator<Item = u32>) {
        self.look = sites.collect();
    }

    /// Sites calm down or go into an outage; without any it is over.
    fn move_on(&mut self, step: &mut Step<'_>, no: u64, states: &BTreeMap<u32, State>) {
        let Some(ticket) = self.tickets.get_mut(&no).filter(|t| t.resolved_at.is_none()) else {
            return;
        };
        let mut outage = None;
        let present: Vec<SiteId> = ticket.present().collect();
        for site in present {
            let ix = step.fleet.find(site);
            let state = ix.and_then(|ix| states.get(&ix));
            ticket.count(step.fleet, site);
            let Some(member) = ticket.members.get_mut(&site) else { continue };
            match state {
                Some(State::Burns(_)) => member.calm_since = None,
                Some(State::Calm(second)) => {
                    let since = *member.calm_since.get_or_insert(*second);
                    if second - since < CALM_S {
                        continue;
                    }
                    let last = ix.and_then(|ix| step.fleet.site(ix).burn.as_ref());
                    member.until = Some(last.map_or(step.now, |burn| burn.last_failed() * 1000));
                    ticket.moved.insert(site);
                }
                Some(State::Fails(case)) => {
                    member.until = Some(step.now);
                    ticket.moved.insert(site);
                    outage = step.book.id(*case).map(str::to_owned);
                }
                // Its server was forgotten.
                None => {
                    member.until = Some(step.now);
                    ticket.moved.insert(site);
                }
            }
        }
        if ticket.present().next().is_none() {
            ticket.end(step, outage);
            return;
        }
        let before = ticket.pace;
        ticket.measure(step.fleet, states);
        let lasts = ticket.reopened_at.is_some_and(|at| step.now - at >= REOPENED_TOLD_MS);
        if lasts && !ticket.told {
            let notify = ticket.tell(NotifyEvent::Opened, step.now);
            ticket.emit(TransitionEvent::Update, notify, step);
            return;
        }
        let news = ticket.pace != before || !ticket.moved.is_empty();
        if news && step.now - ticket.emitted_at >= NEWS_MS {
            ticket.emit(TransitionEvent::Update, None, step);
        }
    }
}

/// What is to be said of one site; `None` when nobody waits for its server any more. One that has
/// burned that fast for long is chronic, which is no news, unless it is a member: that it burns has
/// become its past.
fn state(step: &mut Step<'_>, ix: u32, is_member: bool) -> Option<State> {
    let site = step.fleet.site(ix);
    let server = step.fleet.server(site.server).filter(|server| !server.forgotten)?;
    let second = server.known_until().div_euclid(1000);
    if let Some(case) = site.case {
        let started = step.book.started_at(case).unwrap_or(step.now).div_euclid(1000);
        if let Some(burn) = &mut step.fleet.site_mut(ix).burn {
            burn.forget_since(started);
        }
        return Some(State::Fails(case));
    }
    let calm = Some(State::Calm(second));
    let Some(burn) = site.burn.as_ref().filter(|_| !site.is_chronic()) else { return calm };
    let slo = step.settings.slo;
    let is_news = |burning: &Burning| {
        is_member || site.past.failed_before(burning.first) <= burning.rule.limit(slo)
    };
    match burn.judge(second, slo, site.past.usual(second)).filter(is_news) {
        Some(burning) => Some(State::Burns(burning)),
        None => calm,
    }
}

/// Whether a site failed a moment ago.
fn is_fresh(step: &Step<'_>, ix: u32) -> bool {
    let burn = step.fleet.site(ix).burn.as_ref();
    burn.is_some_and(|burn| step.now - burn.last_failed() * 1000 <= step.settings.retroactive_ms)
}

/// How far a scope reaches.
fn width(scope: &Scope) -> u8 {
    match scope {
        Scope::Site(_) => 0,
        Scope::Pool(_) => 1,
        Scope::Server(_) => 2,
        Scope::Group(_) => 3,
    }
}

/// Sites that burn, by what they share: a pool, or the server where several pools of it burn.
fn groups(fleet: &Fleet, states: &BTreeMap<u32, State>) -> BTreeMap<Scope, Vec<u32>> {
    let burning = states.iter().filter(|(_, state)| matches!(state, State::Burns(_)));
    let mut parts: BTreeMap<Scope, Vec<u32>> = BTreeMap::new();
    for (ix, _) in burning {
        let site = fleet.site(*ix);
        let place = site.place.clone().map_or(Scope::Site(site.id), Scope::Pool);
        parts.entry(place).or_default().push(*ix);
    }
    let server_of = |scope: &Scope, sites: &[u32]| match scope {
        Scope::Pool(Pool::Upstream(_)) => None,
        _ => sites.first().map(|ix| fleet.site(*ix).server),
    };
    let mut n_parts: BTreeMap<ServerId, usize> = BTreeMap::new();
    for server in parts.iter().filter_map(|(scope, sites)| server_of(scope, sites)) {
        *n_parts.entry(server).or_default() += 1;
    }
    let mut groups: BTreeMap<Scope, Vec<u32>> = BTreeMap::new();
    for (scope, sites) in parts {
        let server = server_of(&scope, &sites).filter(|server| n_parts[server] >= PARTS_MAX);
        let scope = match (server, &sites[..]) {
            (Some(server), _) => Scope::Server(server),
            (None, [only]) => Scope::Site(fleet.site(*only).id),
            _ => scope,
        };
        groups.entry(scope).or_default().extend(sites);
    }
    groups
}

impl Ticket {
    fn new(fleet: &Fleet, scope: Scope, started_at: i64, now: i64) -> Self {
        let key = story::scope_key(fleet, &scope);
        let opened = Moment { at: UnixMillis(now), what: "opened".to_owned() };
        Self {
            id: story::id(Kind::SlowBurn.name(), &key, started_at),
            scope,
            rev: 0,
            started_at,
            detected_at: now,
            resolved_at: None,
            parent: None,
            children: Vec::new(),
            members: BTreeMap::new(),
            moved: BTreeSet::new(),
            timeline: vec![opened],
            pace: Pace::default(),
            peak: Pace::default(),
            told: false,
            n_told: 0,
            reopened_at: None,
            emitted_at: now,
        }
    }

    fn present(&self) -> impl Iterator<Item = SiteId> {
        self.members.iter().filter(|(_, m)| m.until.is_none()).map(|(site, _)| *site)
    }

    fn say(&mut self, now: i64, what: String) {
        self.timeline.push(Moment { at: UnixMillis(now), what });
        if self.timeline.len() > MOMENTS_MAX {
            self.timeline.remove(1);
        }
    }

    /// Makes a burning site a member; false when it is one.
    fn enter(&mut self, fleet: &Fleet, ix: u32, states: &BTreeMap<u32, State>) -> bool {
        let site = fleet.site(ix);
        let (Some(State::Burns(burning)), Some(burn)) = (states.get(&ix), &site.burn) else {
            return false;
        };
        if self.members.get(&site.id).is_some_and(|member| member.until.is_none()) {
            return false;
        }
        let (since, counted) = ((burning.first * 1000).max(self.started_at), burn.totals());
        let before = self.members.remove(&site.id);
        let (since, totals) = match before {
            // What its window still holds of its first spell is counted already.
            Some(before) => (before.since, before.totals),
            None => (since, burning.totals),
        };
        let member = Member { since, until: None, calm_since: None, totals, counted };
        self.members.insert(site.id, member);
        self.moved.insert(site.id);
        true
    }

    /// Adds what a member has counted since the last time.
    fn count(&mut self, fleet: &Fleet, site: SiteId) {
        let burn = fleet.find(site).and_then(|ix| fleet.site(ix).burn.as_ref());
        let (Some(burn), Some(member)) = (burn, self.members.get_mut(&site)) else { return };
        member.totals.add(burn.totals().minus(member.counted));
        member.counted = burn.totals();
    }

    /// Takes the pace of those members that burn; the faster rule speaks for all.
    fn measure(&mut self, fleet: &Fleet, states: &BTreeMap<u32, State>) {
        let members = self.present().filter_map(|site| fleet.find(site));
        let burning: Vec<&Burning> = members
            .filter_map(|ix| match states.get(&ix) {
                Some(State::Burns(burning)) => Some(burning),
                _ => None,
            })
            .collect();
        let fastest =
            burning.iter().map(|b| b.rule).max_by(|a: &Rule, b| a.times.total_cmp(&b.times));
        let Some(rule) = fastest else { return };
        let of_rule = || burning.iter().filter(|b| b.rule == rule);
        let n: f64 = of_rule().map(|b| b.n).sum();
        let n_failed: u64 = of_rule().map(|b| b.n_failed).sum();
        let share = n_failed as f64 / n.max(1.0);
        self.pace = Pace { long_s: rule.long_s, share };
        if share > self.peak.share {
            self.peak = self.pace;
        }
    }

    /// Takes over another slow burn inside the same scope.
    fn absorb(&mut self, step: &mut Step<'_>, mut other: Self) {
        other.parent = Some(self.id.clone());
        other.resolved_at = Some(step.now);
        other.say(step.now, format!("merged into {}", self.id));
        let notify = other.tell(NotifyEvent::Resolved, step.now);
        other.emit(TransitionEvent::Merge, notify, step);
        self.children.push(other.id);
        self.children.append(&mut other.children);
        for (site, member) in other.members {
            self.members.entry(site).or_insert(member);
            self.moved.insert(site);
        }
    }

    /// Nothing burns any more, or all of it went into an incident.
    fn end(&mut self, step: &mut Step<'_>, outage: Option<String>) {
        self.resolved_at = Some(step.now);
        let (event, what) = match &outage {
            Some(id) => (TransitionEvent::Merge, format!("went into the outage {id}")),
            None => (TransitionEvent::Resolve, "resolved".to_owned()),
        };
        self.parent = outage;
        self.say(step.now, what);
        let notify = self.tell(NotifyEvent::Resolved, step.now);
        self.emit(event, notify, step);
    }

    /// Who was told that it began hears that it is over, once.
    fn tell(&mut self, event: NotifyEvent, due: i64) -> Option<Notify> {
        let is_over = event == NotifyEvent::Resolved;
        let was_told = std::mem::replace(&mut self.told, !is_over);
        self.n_told = self.present().count();
        (was_told || !is_over).then_some(Notify { event, due: UnixMillis(due) })
    }

    /// Tells that twice as many sites burn as people know.
    fn tell_growth(&mut self, now: i64) -> Option<Notify> {
        let n = self.present().count();
        if self.told && self.n_told == 0 {
            self.n_told = n;
        }
        let grown = self.told && n >= GROWN * self.n_told.max(1);
        grown.then(|| self.tell(NotifyEvent::Updated, now + WAIT_MS)).flatten()
    }

    fn emit(&mut self, event: TransitionEvent, notify: Option<Notify>, step: &mut Step<'_>) {
        self.rev += 1;
        self.emitted_at = step.now;
        let moved = std::mem::take(&mut self.moved);
        let spell = |site: &SiteId| {
            let member = self.members.get(site)?;
            Some((*site, UnixMillis(member.since), member.until.map(UnixMillis)))
        };
        step.out.push(Transition {
            event,
            at: UnixMillis(step.now),
            key: format!("{}:{}", Kind::SlowBurn.name(), story::scope_key(step.fleet, &self.scope)),
            rev: self.rev,
            incident: self.incident(step),
            sites: moved.iter().filter_map(spell).collect(),
            servers: Vec::new(),
            notify,
        });
    }
}
