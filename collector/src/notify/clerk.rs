//! Asks every route about every page: routes, hours, silences, escalation; one transaction a turn.
//!
//! A turn that is cut off leaves nothing behind and is the same when it is repeated. What is kept back
//! is looked at each second by reading alone; only an answer that changed is written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::desk::{Desk, missed};
use super::route::{Route, Verdict};
use super::trouble::Trouble;
use crate::clock;
use crate::model::{Incident, NotifyEvent};
use crate::store::outbox::{self, Held};
use crate::store::{Conn, ReadResult, Store, StoreError, WriteTx, incidents, subjects};

/// How often pages that are due are looked for while something happens.
const POLL: Duration = Duration::from_millis(100);
/// The same while nothing does, and for how long something does after a batch arrived.
const IDLE: Duration = Duration::from_secs(1);
/// A clock that goes back by less is no reason to do anything.
const BACK_MIN: Duration = Duration::from_secs(5);
/// How often what is kept back is looked at again.
const HELD_EVERY: Duration = Duration::from_secs(1);
/// Labels of servers may change: what is kept back is asked anew this often, ms.
const ANEW_MS: i64 = 60_000;
/// Pages of one turn, and incidents of each other list; more wait for the next, so that nobody waits
/// long for the only writer.
pub(super) const TURN_MAX: usize = 64;

/// The one that decides who hears what.
pub struct Clerk {
    store: Store,
    routes: Vec<Route>,
    seals: Seals,
    /// The latest time it saw.
    seen: UnixMillis,
    /// What it says of turns that fail.
    pub(super) trouble: Trouble,
    decided: watch::Sender<()>,
}

/// What comes after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// There is more to do at once.
    pub has_more: bool,
    /// When the next page is due.
    pub page: Option<UnixMillis>,
}

impl Next {
    /// How long to wait for the next look.
    fn rest(self, now: UnixMillis, is_busy: bool) -> Duration {
        let most = if self.has_more || is_busy { POLL } else { IDLE };
        self.page.map_or(most, |due| due.since(now).clamp(Duration::from_millis(5), most))
    }
}

/// What an answer was made from, by incident and route: while that stays, so does the answer.
type Seals = BTreeMap<(String, String), Seal>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seal {
    rev: u64,
    acked_at: Option<i64>,
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
        Self {
            store,
            routes,
            seals: Seals::new(),
            seen: UnixMillis(0),
            trouble: Trouble::new("pages cannot be decided"),
            decided: watch::Sender::new(()),
        }
    }

    /// Changes after each turn that decided something: the outbox may hold more.
    #[must_use]
    pub fn decided(&self) -> watch::Receiver<()> {
        self.decided.subscribe()
    }

    /// Before the first turn: forgets routes that left the config, asks new ones about what is open, and
    /// at the first start on a database of the release before takes over what that told.
    pub async fn prepare(&self, now: UnixMillis) -> Result<usize, StoreError> {
        let routes = self.routes.clone();
        let names: Vec<String> = routes.iter().map(|route| route.name.clone()).collect();
        let prepare = move |tx: &WriteTx<'_>| {
            let n_dropped = outbox::drop_other_routes(tx, &names, now)?;
            let is_first = outbox::is_first_start(tx)?;
            if is_first {
                carry_over(tx, &routes, now)?;
            }
            let mut new = Vec::new();
            for route in &routes {
                if outbox::is_new_route(tx, &route.name, now)? && !is_first {
                    new.push(route);
                }
            }
            welcome(tx, &routes, &new, now)?;
            Ok(n_dropped)
        };
        self.store.write(prepare).await
    }

    /// Decides until `stop` fires.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut committed = self.store.committed();
        let (mut held_at, mut busy_until) = (UnixMillis(0), UnixMillis(0));
        let mut has_more = false;
        loop {
            let now = clock::now();
            let looks_at_held = has_more || now.since(held_at) >= HELD_EVERY || now < held_at;
            if looks_at_held {
                held_at = now;
            }
            let next = self.look(now, looks_at_held).await;
            has_more = next.has_more;
            let is_busy = now < busy_until && busy_until <= now.plus(IDLE);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(next.rest(now, is_busy)) => {}
                // Cancel-safe: what was not seen is seen the next time. The detector decides a moment
                // after a batch.
                Ok(()) = committed.changed(), if !is_busy => {
                    busy_until = clock::now().plus(IDLE);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(POLL) => {}
                    }
                }
            }
        }
    }

    /// A turn that says once when it begins to fail, and once when that is over.
    pub(super) async fn look(&mut self, now: UnixMillis, looks_at_held: bool) -> Next {
        let done = self.turn(now, looks_at_held).await;
        self.trouble.note(&done);
        done.unwrap_or_default()
    }

    /// One look: pages that are due, and what is kept back.
    pub async fn turn(&mut self, now: UnixMillis, looks_at_held: bool) -> Result<Next, StoreError> {
        if now.plus(BACK_MIN) < self.seen {
            self.store.write(move |tx| outbox::clock_went_back(tx, now)).await?;
            self.seen = now;
        }
        self.seen = self.seen.max(now);
        let (routes, seals) = (self.routes.clone(), std::mem::take(&mut self.seals));
        let look = move |conn: &Conn| {
            let page = outbox::next_look(conn, now)?;
            let mut found = Found { page, seals, ..Found::default() };
            if looks_at_held {
                found.over = outbox::over_unheard(conn, TURN_MAX)?;
                look_at_held(conn, &routes, now, &mut found)?;
            }
            Ok(found)
        };
        let found = self.store.read(look).await?;
        self.seals = found.seals;
        let (page, is_due) = (found.page, found.page.is_some_and(|due| due <= now));
        if !is_due && found.over.is_empty() && found.again.is_empty() {
            return Ok(Next { has_more: false, page });
        }
        let has_more = found.over.len().max(found.again.len()) >= TURN_MAX;
        let (routes, over, again) = (self.routes.clone(), found.over, found.again);
        self.store.write(move |tx| turn(tx, &routes, now, &over, &again)).await?;
        self.decided.send_replace(());
        // What else is due is seen in a moment; it may have to wait for another page of its incident.
        Ok(Next { has_more, page: page.map(|due| due.max(now.plus(POLL))) })
    }
}

/// What a look found.
#[derive(Default)]
struct Found {
    /// When the next page is due.
    page: Option<UnixMillis>,
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
        if found.again.len() >= TURN_MAX {
            // The others keep their answers until the next look.
            let rest = before.into_iter().filter(|((id, _), _)| !found.again.contains_key(id));
            let known = std::mem::take(&mut found.seals);
            found.seals = rest.chain(known).collect();
            return Ok(());
        }
        let Held { incident: id, route: name, why, .. } = state.held;
        let key = (id, name);
        let route = routes.iter().find(|route| route.name == key.1);
        let (Some(route), false) = (route, state.is_over) else {
            found.again.entry(key.0).or_default().insert(key.1);
            continue;
        };
        let mut seal = Seal {
            rev: state.rev,
            acked_at: state.acked_at,
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
            let Ok(found_now) = incidents::readable(conn, &key.0)? else {
                found.again.entry(key.0).or_default().insert(key.1);
                continue;
            };
            known = found_now;
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
    for page in outbox::pages_due(tx, now, TURN_MAX)? {
        outbox::page_done(tx, page.id)?;
        if let Some(incident) = desk.open(tx, &page.incident, page.event)? {
            desk.take(tx, &page, &incident)?;
        }
    }
    for id in over {
        match desk.open(tx, id, NotifyEvent::Resolved)? {
            // It came back since it was looked at: for those who know of it it never ended.
            Some(_) if incidents::is_open(tx, id)? => {}
            Some(incident) => desk.end(tx, &incident)?,
            None => outbox::forget(tx, id)?,
        }
    }
    for (id, names) in again.iter().filter(|(id, _)| !over.contains(id)) {
        let Some(incident) = desk.open(tx, id, NotifyEvent::Updated)? else {
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

/// Asks routes that are new about what is open and was to be told: who is told under another name from
/// now on hears of it, and of its end.
fn welcome(tx: &WriteTx<'_>, routes: &[Route], new: &[&Route], now: UnixMillis) -> ReadResult<()> {
    if new.is_empty() {
        return Ok(());
    }
    let desk = Desk::new(tx, routes, now)?;
    for id in incidents::open_ids(tx)? {
        if outbox::has_page(tx, &id)? || !outbox::had_page(tx, &id)? {
            continue;
        }
        let Ok(Some(incident)) = incidents::readable(tx, &id)? else { continue };
        if incident.retroactive || incident.parent.is_some() {
            continue;
        }
        let subject = subjects::subject(tx, &incident, &desk.keys)?;
        for route in new.iter().filter(|route| route.wants(&subject)) {
            if outbox::told(tx, &id, &route.name)?.is_none() {
                outbox::hold(tx, &id, &route.name, now, "the route is new")?;
            }
        }
    }
    Ok(())
}

/// Takes over what the release before told: whoever heard that an open incident began is to hear of its
/// end. It told every route whose severity an incident reached, and kept no list.
fn carry_over(tx: &WriteTx<'_>, routes: &[Route], now: UnixMillis) -> ReadResult<()> {
    let desk = Desk::new(tx, routes, now)?;
    for id in incidents::open_ids(tx)? {
        let Ok(Some(mut incident)) = incidents::readable(tx, &id)? else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clerk_rests_while_nothing_happens_and_is_on_time_for_the_next_page() {
        let now = UnixMillis(1_000_000);
        for (has_more, is_busy, page, want) in [
            (false, false, None, 1000),
            (false, true, None, 100),
            (true, false, None, 100),
            (false, false, Some(300), 300),
            (false, false, Some(5000), 1000),
            (false, true, Some(300), 100),
            (false, false, Some(-10), 5),
        ] {
            let page = page.map(|ahead| UnixMillis(now.0 + ahead));
            let rest = Next { has_more, page }.rest(now, is_busy);
            assert_eq!(rest, Duration::from_millis(want), "{has_more} {is_busy} {page:?}");
        }
    }
}
