//! Asks every route about every page: routes, hours, silences, escalation; one transaction a turn.
//!
//! A turn that is cut off leaves nothing behind and is the same when it is repeated. What is kept back
//! is looked at each second by reading alone; only an answer that changed is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::matcher::Subject;
use super::message::{Event, Message};
use super::route::{Facts, IN_DIGEST, Route, Verdict, news};
use crate::model::{Incident, NotifyEvent};
use crate::store::notices::{self, Notice, What};
use crate::store::outbox::{self, Held, Page};
use crate::store::subjects::{self, Silenced};
use crate::store::{Conn, ReadResult, Store, StoreError, WriteTx, incidents};
use crate::{ca, clock, errors, store};

/// How often pages that are due are looked for.
const POLL: Duration = Duration::from_millis(100);
/// How often what is kept back is looked at again.
const HELD_EVERY: Duration = Duration::from_secs(1);
/// Labels of servers may change: what is kept back is asked anew this often, ms.
const ANEW_MS: i64 = 60_000;
/// Pages of one turn; more wait for the next.
const PAGES_MAX: usize = 64;
/// A notice about no route in particular.
const NOBODY: &str = "*";

/// The one that decides who hears what.
pub struct Clerk {
    store: Store,
    routes: Vec<Route>,
    seals: Seals,
}

/// What an answer was made from, by incident and route: while that stays, so does the answer.
type Seals = BTreeMap<(String, String), Seal>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seal {
    rev: u64,
    is_acked: bool,
    silences: Vec<String>,
    in_hours: bool,
    since: i64,
    until: Option<UnixMillis>,
}

impl Clerk {
    /// One for these routes.
    #[must_use]
    pub fn new(store: Store, mut routes: Vec<Route>) -> Self {
        // Whom it is escalated to is asked after those who have to acknowledge.
        routes.sort_by_key(|route| route.escalate_after.is_some());
        Self { store, routes, seals: Seals::new() }
    }

    /// Before the first turn: forgets routes that left the config, and at the first start on a database
    /// of the release before takes over what that told.
    pub async fn prepare(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let routes = self.routes.clone();
        let names: Vec<String> = routes.iter().map(|route| route.name.clone()).collect();
        let prepare = move |tx: &WriteTx<'_>| {
            let n_dropped = outbox::drop_other_routes(tx, &names, now)?;
            if outbox::is_first_start(tx)? {
                carry_over(tx, &routes, now)?;
            }
            Ok(n_dropped)
        };
        self.store.write(prepare).await
    }

    /// Decides until `stop` fires.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut held_at = UnixMillis(0);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a tick that is not taken is the next one.
                _ = tick.tick() => {}
            }
            let now = clock::now();
            let looks_at_held = now.since(held_at) >= HELD_EVERY || now < held_at;
            if looks_at_held {
                held_at = now;
            }
            if let Err(error) = self.turn(now, looks_at_held).await {
                tracing::error!(error = %errors::chain(&error), "pages cannot be decided");
            }
        }
    }

    /// One look: pages that are due, and what is kept back.
    pub async fn turn(&mut self, now: UnixMillis, looks_at_held: bool) -> Result<(), StoreError> {
        let (routes, seals) = (self.routes.clone(), std::mem::take(&mut self.seals));
        let look = move |conn: &Conn| {
            let due = outbox::next_page(conn)?.is_some_and(|due| due <= now);
            let mut found = Found { due, seals, ..Found::default() };
            if looks_at_held {
                found.over = outbox::over_unheard(conn)?;
                look_at_held(conn, &routes, now, &mut found)?;
            }
            Ok(found)
        };
        let found = self.store.read(look).await?;
        self.seals = found.seals;
        if !found.due && found.over.is_empty() && found.again.is_empty() {
            return Ok(());
        }
        let (routes, over, again) = (self.routes.clone(), found.over, found.again);
        self.store.write(move |tx| turn(tx, &routes, now, &over, &again)).await
    }
}

/// What a look found.
#[derive(Default)]
struct Found {
    /// A page is due.
    due: bool,
    seals: Seals,
    /// Incidents that are over, which somebody does not know.
    over: Vec<String>,
    /// What is kept back and has another answer now: incident and routes.
    again: BTreeMap<String, BTreeSet<String>>,
}

fn look_at_held(
    conn: &Conn,
    routes: &[Route],
    now: UnixMillis,
    found: &mut Found,
) -> ReadResult<()> {
    let states = outbox::held_states(conn)?;
    if states.is_empty() {
        found.seals.clear();
        return Ok(());
    }
    let before = std::mem::take(&mut found.seals);
    let desk = Desk::new(conn, routes, now)?;
    let mut known: Option<Incident> = None;
    for state in states {
        let Held { incident: id, route: name, why, .. } = state.held;
        let key = (id, name);
        let route = routes.iter().find(|route| route.name == key.1);
        let (Some(route), false) = (route, state.is_over) else {
            found.again.entry(key.0).or_default().insert(key.1);
            continue;
        };
        let mut seal = Seal {
            rev: state.rev,
            is_acked: state.is_acked,
            silences: desk.silenced.ids(),
            in_hours: route.hours.contain(now),
            since: now.0.div_euclid(ANEW_MS),
            until: None,
        };
        let last = before.get(&key);
        let until = last.and_then(|last| last.until);
        if last.is_some_and(|last| Seal { until, ..seal.clone() } == *last)
            && until.is_none_or(|until| now < until)
        {
            found.seals.insert(key, Seal { until, ..seal });
            continue;
        }
        if known.as_ref().is_none_or(|known| known.id != key.0) {
            known = incidents::bare(conn, &key.0)?;
        }
        let Some(incident) = &known else { continue };
        let subject = subjects::subject(conn, incident, &desk.keys)?;
        match desk.judge(route, &subject, NotifyEvent::Updated)?.0 {
            Verdict::Hold { why: now_why, until }
                if now_why == why && incident.parent.is_none() =>
            {
                seal.until = until;
                found.seals.insert(key, seal);
            }
            _ => drop(found.again.entry(key.0).or_default().insert(key.1)),
        }
    }
    Ok(())
}

/// One transaction of decisions.
pub(super) fn turn(
    tx: &WriteTx<'_>,
    routes: &[Route],
    now: UnixMillis,
    over: &[String],
    again: &BTreeMap<String, BTreeSet<String>>,
) -> ReadResult<()> {
    let desk = Desk::new(tx, routes, now)?;
    for page in outbox::pages_due(tx, now, PAGES_MAX)? {
        outbox::page_done(tx, page.id)?;
        if let Some(incident) = incidents::bare(tx, &page.incident)? {
            desk.take(tx, &page, &incident)?;
        }
    }
    for id in over {
        match incidents::bare(tx, id)? {
            Some(incident) => desk.end(tx, &incident)?,
            None => outbox::forget(tx, id)?,
        }
    }
    for (id, names) in again {
        let Some(incident) = incidents::bare(tx, id)? else {
            outbox::forget(tx, id)?;
            continue;
        };
        if incident.resolved_at.is_some() || incident.parent.is_some() {
            for name in names {
                desk.let_go(tx, &incident, name, &missed(&incident))?;
            }
            continue;
        }
        let subject = subjects::subject(tx, &incident, &desk.keys)?;
        for route in routes.iter().filter(|route| names.contains(&route.name)) {
            desk.ask(tx, route, &subject, NotifyEvent::Updated)?;
        }
        for name in names.iter().filter(|name| !routes.iter().any(|route| route.name == **name)) {
            outbox::release(tx, id, name)?;
        }
    }
    Ok(())
}

/// Why nobody hears of it any more.
fn missed(incident: &Incident) -> String {
    match &incident.parent {
        Some(parent) => format!("it is part of {parent}"),
        None => "it was over before it could be told".to_owned(),
    }
}

/// Takes over what the release before told: whoever heard that an open incident began is to hear of its
/// end. It told every route whose severity an incident reached, and kept no list.
fn carry_over(tx: &WriteTx<'_>, routes: &[Route], now: UnixMillis) -> ReadResult<()> {
    let desk = Desk::new(tx, routes, now)?;
    for id in incidents::open_ids(tx)? {
        let Some(mut incident) = incidents::bare(tx, &id)? else { continue };
        if incident.retroactive || incident.parent.is_some() || outbox::has_page(tx, &id)? {
            continue;
        }
        let as_told = incident.clone();
        // It may have been worse when it was told.
        let narrowed = |what: &str| {
            ["narrowed from server", "narrowed from group"].iter().any(|of| what.starts_with(of))
        };
        if incident.timeline.iter().any(|moment| narrowed(&moment.what)) {
            incident.severity = "critical".into();
        }
        let subject = subjects::subject(tx, &incident, &desk.keys)?;
        for route in routes.iter().filter(|route| route.wants(&subject)) {
            let is_held = outbox::held_why(tx, &id, &route.name)?.is_some();
            if !is_held && outbox::told(tx, &id, &route.name)?.is_none() {
                outbox::set_told(tx, &as_told, &route.name, now)?;
            }
        }
    }
    Ok(())
}

/// The decisions of one instant.
struct Desk<'a> {
    conn: &'a Conn,
    routes: &'a [Route],
    now: UnixMillis,
    silenced: Silenced,
    /// Keys that anybody matches on.
    keys: BTreeSet<String>,
}

impl<'a> Desk<'a> {
    fn new(conn: &'a Conn, routes: &'a [Route], now: UnixMillis) -> ReadResult<Self> {
        let silenced = Silenced::load(conn, now)?;
        let mut keys = silenced.keys.clone();
        keys.extend(routes.iter().flat_map(|route| route.matcher.keys()).map(str::to_owned));
        Ok(Self { conn, routes, now, silenced, keys })
    }

    /// What a route says of a page, and the incident as it knows it.
    fn judge(
        &self,
        route: &Route,
        subject: &Subject<'_>,
        event: NotifyEvent,
    ) -> ReadResult<(Verdict, Option<Incident>)> {
        let id = &subject.incident.id;
        let before = outbox::told(self.conn, id, &route.name)?;
        let is_first_line =
            |name: &str| self.routes.iter().any(|r| r.name == name && r.escalate_after.is_none());
        let told = if route.escalate_after.is_some() {
            outbox::told_since(self.conn, id)?
        } else {
            Vec::new()
        };
        let told = told.into_iter().filter(|(name, _)| is_first_line(name));
        let facts = Facts {
            subject,
            before: before.as_ref(),
            silence: self.silenced.covering(subject),
            paged_at: told.map(|(_, since)| since).min(),
            now: self.now,
        };
        Ok((route.decide(event, &facts), before))
    }

    /// Asks everybody about a page.
    fn take(&self, tx: &WriteTx<'_>, page: &Page, incident: &Incident) -> ReadResult<()> {
        let event = page.event;
        if event == NotifyEvent::Resolved {
            if incident.state == "open" && incident.parent.is_none() {
                // It came back before this was told; for those who know of it it never ended.
                return self.note(tx, incident, NOBODY, event, What::Dropped, "it is open again");
            }
            return self.end(tx, incident);
        }
        let was_over = incident.resolved_at.is_some_and(|at| at < page.due);
        if incident.parent.is_some() || was_over {
            let why = match &incident.parent {
                Some(parent) => format!("it is part of {parent}"),
                None => "it was over before anybody was to hear of it".to_owned(),
            };
            for route in self.routes {
                outbox::release(tx, &incident.id, &route.name)?;
            }
            return match event {
                NotifyEvent::Opened => self.note(tx, incident, NOBODY, event, What::Dropped, &why),
                _ => Ok(()),
            };
        }
        let subject = subjects::subject(tx, incident, &self.keys)?;
        let mut is_wanted = event != NotifyEvent::Opened;
        for route in self.routes {
            is_wanted |= self.ask(tx, route, &subject, event)?;
        }
        if is_wanted {
            return Ok(());
        }
        let none =
            if self.routes.is_empty() { "no route is configured" } else { "no route wants it" };
        self.note(tx, incident, NOBODY, event, What::Unwanted, none)
    }

    /// Tells those who know of an incident that it is over.
    fn end(&self, tx: &WriteTx<'_>, incident: &Incident) -> ReadResult<()> {
        let (subject, event) =
            (subjects::subject(tx, incident, &self.keys)?, NotifyEvent::Resolved);
        for route in self.routes {
            let (verdict, before) = self.judge(route, &subject, event)?;
            let was_told = before.is_some();
            match verdict {
                Verdict::Tell { event, reason } => {
                    self.tell(tx, route, &subject, event, reason, before)?;
                }
                Verdict::No(why) if was_told => {
                    self.note(tx, incident, &route.name, event, What::Unwanted, &why)?;
                }
                _ => self.let_go(tx, incident, &route.name, &missed(incident))?,
            }
        }
        outbox::forget(tx, &incident.id)
    }

    /// Asks one route; whether it wants it, now or later.
    fn ask(
        &self,
        tx: &WriteTx<'_>,
        route: &Route,
        subject: &Subject<'_>,
        event: NotifyEvent,
    ) -> ReadResult<bool> {
        let (verdict, before) = self.judge(route, subject, event)?;
        let (incident, name, is_known) = (subject.incident, &route.name, before.is_some());
        match verdict {
            Verdict::Tell { event, reason } => {
                let held = outbox::held_why(tx, &incident.id, name)?;
                let reason = match held {
                    // Why it comes so late.
                    Some(why) if event == Event::Opened && route.escalate_after.is_none() => {
                        format!("it goes on; not told before: {why}")
                    }
                    _ => reason,
                };
                self.tell(tx, route, subject, event, reason, before)?;
            }
            Verdict::Hold { why, .. } => {
                let event = if is_known { event } else { NotifyEvent::Opened };
                if outbox::hold(tx, &incident.id, name, self.now, &why)? {
                    self.note(tx, incident, name, event, What::Suppressed, &why)?;
                }
            }
            Verdict::No(why) => {
                self.let_go(tx, incident, name, &why)?;
                if event == NotifyEvent::Opened && !is_known {
                    self.note(tx, incident, name, event, What::Unwanted, &why)?;
                }
                return Ok(is_known || why == IN_DIGEST);
            }
        }
        Ok(true)
    }

    /// What was kept back from a route is not told any more.
    fn let_go(
        &self,
        tx: &WriteTx<'_>,
        incident: &Incident,
        route: &str,
        why: &str,
    ) -> ReadResult<()> {
        if !outbox::release(tx, &incident.id, route)? {
            return Ok(());
        }
        let is_known = outbox::told(tx, &incident.id, route)?.is_some();
        let event = if is_known { NotifyEvent::Updated } else { NotifyEvent::Opened };
        self.note(tx, incident, route, event, What::Dropped, why)
    }

    fn tell(
        &self,
        tx: &WriteTx<'_>,
        route: &Route,
        subject: &Subject<'_>,
        event: Event,
        reason: String,
        before: Option<Incident>,
    ) -> ReadResult<()> {
        let (id, name) = (&subject.incident.id, &route.name);
        // Without an id nothing is decided, and the turn is tried again.
        let delivery = ca::new_id(self.now).map_err(store::failed)?.to_string();
        let (mut before, mut reason) = (before, reason);
        let superseded = outbox::supersede(tx, id, name)?;
        for (gone, _) in &superseded {
            let why = "a newer message tells it";
            let notice = self.notice(subject.incident, name, Event::Updated, What::Superseded, why);
            notices::add(tx, &Notice { delivery: Some(gone.clone()), ..notice })?;
        }
        if let Some((_, body)) = superseded.first() {
            // The route never heard of what lies between.
            let first = serde_json::from_str::<Message>(body).ok().and_then(|first| first.before);
            before = first.or(before);
            let is_news = before.as_ref().filter(|_| event == Event::Updated);
            reason = is_news.and_then(|before| news(before, subject.incident)).unwrap_or(reason);
        }
        let silenced = self.silenced.covering(subject).is_some();
        let incident = Incident { silenced, ..subject.incident.clone() };
        let message = Message {
            event,
            delivery: delivery.clone(),
            at: self.now,
            reason: reason.clone(),
            incident: Some(incident),
            before,
            changed_back: None,
            digest: Vec::new(),
        };
        let body = serde_json::to_string(&message).expect("a message is JSON");
        outbox::owe(tx, id, name, self.now, &delivery, &body)?;
        outbox::release(tx, id, name)?;
        outbox::set_told(tx, subject.incident, name, self.now)?;
        let notice = self.notice(subject.incident, name, event, What::Owed, &reason);
        notices::add(tx, &Notice { delivery: Some(delivery), ..notice })
    }

    fn note(
        &self,
        tx: &WriteTx<'_>,
        incident: &Incident,
        route: &str,
        event: NotifyEvent,
        what: What,
        why: &str,
    ) -> ReadResult<()> {
        notices::add(tx, &self.notice(incident, route, event.into(), what, why))
    }

    fn notice(
        &self,
        incident: &Incident,
        route: &str,
        event: Event,
        what: What,
        why: &str,
    ) -> Notice {
        Notice {
            at: self.now,
            incident: Some(incident.id.clone()),
            route: route.to_owned(),
            event: event.name().into(),
            what,
            why: why.to_owned(),
            delivery: None,
        }
    }
}
