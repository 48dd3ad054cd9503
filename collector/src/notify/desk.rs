//! The decisions of one instant: who hears of a page, of an end, or of what was kept back, and what the
//! notify log says of it.

use std::collections::BTreeSet;

use wire::UnixMillis;

use super::matcher::Subject;
use super::message::{Event, Message};
use super::route::{Facts, GOES_ON, IN_DIGEST, Route, Verdict, news};
use crate::model::{Incident, NotifyEvent};
use crate::store::notices::{self, NOBODY, Notice, What};
use crate::store::outbox::{self, Page};
use crate::store::subjects::{self, Silenced};
use crate::store::{Conn, ReadResult, WriteTx, incidents};
use crate::{ca, store};

/// Incidents that went one into the other, followed at most.
const PARENTS_MAX: usize = 16;

/// The decisions of one instant.
pub(super) struct Desk<'a> {
    conn: &'a Conn,
    routes: &'a [Route],
    now: UnixMillis,
    pub(super) silenced: Silenced,
    /// Keys that anybody matches on.
    pub(super) keys: BTreeSet<String>,
}

impl<'a> Desk<'a> {
    pub(super) fn new(conn: &'a Conn, routes: &'a [Route], now: UnixMillis) -> ReadResult<Self> {
        let silenced = Silenced::load(conn, now)?;
        let mut keys = silenced.keys.clone();
        keys.extend(routes.iter().flat_map(|route| route.matcher.keys()).map(str::to_owned));
        Ok(Self { conn, routes, now, silenced, keys })
    }

    /// What a route says of a page, and the incident as it knows it.
    pub(super) fn judge(
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
        let silence = self.silenced.covering(subject);
        let facts = Facts {
            subject,
            before: before.as_ref(),
            silence: silence.as_deref(),
            paged_at: told.map(|(_, since)| since).min(),
            now: self.now,
        };
        Ok((route.decide(event, &facts), before))
    }

    /// The incident of a page; one that cannot be read is not told, and keeps back no other.
    pub(super) fn open(
        &self,
        tx: &WriteTx<'_>,
        id: &str,
        event: NotifyEvent,
    ) -> ReadResult<Option<Incident>> {
        let why = match incidents::readable(tx, id)? {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        tracing::error!(id, why, "a page is dropped");
        notices::add(
            tx,
            &Notice {
                at: self.now,
                incident: Some(id.to_owned()),
                route: NOBODY.to_owned(),
                event: Event::from(event).name().to_owned(),
                what: What::Dropped,
                why,
                delivery: None,
            },
        )?;
        outbox::forget(tx, id)?;
        Ok(None)
    }

    /// Asks everybody about a page.
    pub(super) fn take(
        &self,
        tx: &WriteTx<'_>,
        page: &Page,
        incident: &Incident,
    ) -> ReadResult<()> {
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

    /// Tells those who know of an incident that it is over, or what it is part of now.
    pub(super) fn end(&self, tx: &WriteTx<'_>, incident: &Incident) -> ReadResult<()> {
        let goes_on = self.goes_on(incident)?;
        let (subject, event) =
            (subjects::subject(tx, incident, &self.keys)?, NotifyEvent::Resolved);
        for route in self.routes {
            let (verdict, before) = self.judge(route, &subject, event)?;
            let was_told = before.is_some();
            match verdict {
                Verdict::Tell { event, reason } => match (&goes_on, &before) {
                    (Some(reason), Some(known)) => {
                        let subject =
                            Subject { incident: &self.closed(incident, known), ..subject.clone() };
                        self.tell(tx, route, &subject, event, reason.clone(), before.clone())?;
                    }
                    _ => self.tell(tx, route, &subject, event, reason, before)?,
                },
                Verdict::No(why) if was_told => {
                    self.note(tx, incident, &route.name, event, What::Unwanted, &why)?;
                }
                _ => self.let_go(tx, incident, &route.name, &missed(incident))?,
            }
        }
        outbox::forget(tx, &incident.id)
    }

    /// What an incident goes on as part of, in words; `None` when it is over, alone or with that.
    fn goes_on(&self, incident: &Incident) -> ReadResult<Option<String>> {
        let Some(mut id) = incident.parent.clone() else { return Ok(None) };
        for _ in 0..PARENTS_MAX {
            let Ok(Some(parent)) = incidents::readable(self.conn, &id)? else { break };
            match parent.parent {
                Some(wider) => id = wider,
                None if parent.resolved_at.is_some() => return Ok(None),
                None => return Ok(Some(format!("{GOES_ON}{id}: {}", parent.title))),
            }
        }
        Ok(Some(format!("{GOES_ON}{id}")))
    }

    /// An incident that goes on as part of another, as those hear of it who know of it: closed, and
    /// with the words they know, for those of its end say that it is over.
    fn closed(&self, incident: &Incident, known: &Incident) -> Incident {
        Incident {
            state: "resolved".into(),
            resolved_at: incident.resolved_at.or(Some(self.now)),
            title: known.title.clone(),
            ..incident.clone()
        }
    }

    /// Asks one route; whether it wants it, now or later.
    pub(super) fn ask(
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
    pub(super) fn let_go(
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
            report: None,
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

/// Why nobody hears of it any more.
pub(super) fn missed(incident: &Incident) -> String {
    match &incident.parent {
        Some(parent) => format!("it is part of {parent}"),
        None => "it was over before it could be told".to_owned(),
    }
}
