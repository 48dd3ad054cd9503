//! Asks every route about every page: routes, hours, silences, escalation; one transaction a turn.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use ulid::Ulid;
use wire::UnixMillis;

use super::matcher::{Matcher, Subject};
use super::message::Message;
use super::route::{Route, Verdict};
use crate::model::{Incident, NotifyEvent};
use crate::store::notices::{self, Notice, What};
use crate::store::silences::{self, Silence};
use crate::store::{ReadResult, Store, WriteTx, fleet, incidents, outbox};
use crate::{ca, clock, errors};

/// How often pages that are due are looked for.
const POLL: Duration = Duration::from_millis(100);
/// How often what is kept back is looked at again.
const HELD_EVERY: Duration = Duration::from_secs(1);
/// Pages of one turn; more wait for the next.
const PAGES_MAX: usize = 64;

/// The one that decides who hears what.
#[derive(Clone)]
pub struct Clerk {
    /// Where pages come from and messages go.
    pub store: Store,
    /// Everybody who may hear.
    pub routes: Vec<Route>,
}

impl Clerk {
    /// Decides until `stop` fires.
    pub async fn run(self, stop: CancellationToken) {
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
    pub async fn turn(
        &self,
        now: UnixMillis,
        looks_at_held: bool,
    ) -> Result<(), crate::store::StoreError> {
        let is_due = self.store.read(move |conn| {
            let due = outbox::next_page(conn)?.is_some_and(|due| due <= now);
            Ok(due || looks_at_held && !outbox::held(conn)?.is_empty())
        });
        if !is_due.await? {
            return Ok(());
        }
        let routes = self.routes.clone();
        self.store.write(move |tx| turn(tx, &routes, now, looks_at_held)).await
    }
}

fn turn(
    tx: &WriteTx<'_>,
    routes: &[Route],
    now: UnixMillis,
    looks_at_held: bool,
) -> ReadResult<()> {
    let silences = silences::list(tx, now)?;
    for page in outbox::pages_due(tx, now, PAGES_MAX)? {
        outbox::page_done(tx, page.id)?;
        let Some(incident) = incidents::get(tx, &page.incident)? else { continue };
        let desk = Desk { tx, now, silences: &silences };
        if incident.parent.is_some() && page.event != NotifyEvent::Resolved {
            desk.note(
                &incident,
                "*",
                page.event,
                What::Dropped,
                "it is part of another incident",
                None,
            )?;
            continue;
        }
        desk.ask(routes, &incident, page.event, true)?;
    }
    if !looks_at_held {
        return Ok(());
    }
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in outbox::held(tx)? {
        held.entry(row.incident).or_default().push(row.route);
    }
    for (id, names) in held {
        let desk = Desk { tx, now, silences: &silences };
        let incident = incidents::get(tx, &id)?;
        let is_over =
            |incident: &Incident| incident.resolved_at.is_some() || incident.parent.is_some();
        let Some(incident) = incident.filter(|incident| !is_over(incident)) else {
            for name in names {
                outbox::release(tx, &id, &name)?;
            }
            continue;
        };
        let asked: Vec<Route> =
            routes.iter().filter(|route| names.contains(&route.name)).cloned().collect();
        desk.ask(&asked, &incident, NotifyEvent::Updated, false)?;
    }
    Ok(())
}

/// One decision.
struct Desk<'a> {
    tx: &'a WriteTx<'a>,
    now: UnixMillis,
    silences: &'a [Silence],
}

impl Desk<'_> {
    fn ask(
        &self,
        routes: &[Route],
        incident: &Incident,
        event: NotifyEvent,
        is_new: bool,
    ) -> ReadResult<()> {
        let subject = subject(self.tx, incident)?;
        let covers = |silence: &&Silence| {
            silence.is_active(self.now)
                && Matcher::new(&silence.matches).is_ok_and(|matcher| matcher.matches_all(&subject))
        };
        let silence = self.silences.iter().find(covers);
        for route in routes {
            let before = outbox::told(self.tx, &incident.id, &route.name)?;
            match route.decide(event, &subject, before.as_ref(), silence, self.now) {
                Verdict::Tell { event, reason } => {
                    self.tell(route, incident, event, reason, before)?
                }
                Verdict::Hold(why) => {
                    if outbox::hold(self.tx, &incident.id, &route.name, self.now, &why)? {
                        self.note(incident, &route.name, event, What::Suppressed, &why, None)?;
                    }
                }
                Verdict::No(why) => {
                    outbox::release(self.tx, &incident.id, &route.name)?;
                    if is_new && event == NotifyEvent::Opened {
                        self.note(incident, &route.name, event, What::Suppressed, &why, None)?;
                    }
                }
            }
            if event == NotifyEvent::Resolved {
                outbox::release(self.tx, &incident.id, &route.name)?;
                outbox::forget_told(self.tx, &incident.id, &route.name)?;
            }
        }
        Ok(())
    }

    fn tell(
        &self,
        route: &Route,
        incident: &Incident,
        event: super::Event,
        reason: String,
        before: Option<Incident>,
    ) -> ReadResult<()> {
        let delivery = ca::new_id(self.now).unwrap_or_else(|_| Ulid::nil()).to_string();
        for gone in outbox::supersede(self.tx, &incident.id, &route.name)? {
            let notice = Notice {
                at: self.now,
                incident: Some(incident.id.clone()),
                route: route.name.clone(),
                event: "updated".into(),
                what: What::Superseded,
                why: "a newer message tells it".into(),
                delivery: Some(gone),
            };
            notices::add(self.tx, &notice)?;
        }
        let message = Message {
            event,
            delivery: delivery.clone(),
            at: self.now,
            reason: reason.clone(),
            incident: Some(incident.clone()),
            before,
            changed_back: None,
            digest: Vec::new(),
        };
        let body = serde_json::to_string(&message).expect("a message is JSON");
        outbox::owe(self.tx, &incident.id, &route.name, self.now, &delivery, &body)?;
        outbox::release(self.tx, &incident.id, &route.name)?;
        outbox::set_told(self.tx, incident, &route.name, self.now)?;
        let notice = Notice {
            at: self.now,
            incident: Some(incident.id.clone()),
            route: route.name.clone(),
            event: event.name().into(),
            what: What::Owed,
            why: reason,
            delivery: Some(delivery),
        };
        notices::add(self.tx, &notice)
    }

    fn note(
        &self,
        incident: &Incident,
        route: &str,
        event: NotifyEvent,
        what: What,
        why: &str,
        delivery: Option<String>,
    ) -> ReadResult<()> {
        let notice = Notice {
            at: self.now,
            incident: Some(incident.id.clone()),
            route: route.to_owned(),
            event: super::Event::from(event).name().into(),
            what,
            why: why.to_owned(),
            delivery,
        };
        notices::add(self.tx, &notice)
    }
}

/// The incident with the labels of its servers.
fn subject<'a>(tx: &WriteTx<'_>, incident: &'a Incident) -> ReadResult<Subject<'a>> {
    let place = &incident.place;
    let names = place.members.iter().map(|name| name.split('/').next().unwrap_or(name));
    let mut servers = BTreeMap::new();
    for name in names.chain(place.server.as_deref()) {
        if !servers.contains_key(name) {
            servers.insert(name.to_owned(), fleet::labels_of(tx, name)?);
        }
    }
    Ok(Subject { incident, servers })
}
