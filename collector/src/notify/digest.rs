//! Digests: at set times one message with what began or ended since the last one.
//!
//! A digest takes all that its route matches from its `min_severity` on, incidents found in old logs
//! and silenced ones too. Nothing to tell: no message, one line in the notify log. A collector that was
//! down at the time sends it when it is back, within a day; what is later stands in the next one.

use std::time::Duration;

use jiff::ToSpan;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::hours;
use super::matcher::Subject;
use super::trouble::Trouble;
use super::{Event, Message, Route, words};
use crate::config::NotifyConfig;
use crate::model::Incident;
use crate::store::digests::{self, Mark};
use crate::store::incidents::severity_rank;
use crate::store::notices::{self, Notice, What};
use crate::store::{Conn, ReadResult, Store, StoreError, outbox, subjects};
use crate::{ca, clock, errors, store};

/// Incidents in one digest; the others are counted.
pub const INCIDENTS_MAX: usize = 200;
/// How late a digest may be; then it is left out, and the next one tells all.
const LATE_MAX: Duration = Duration::from_secs(86_400);
/// How often is looked whether one is due.
const POLL: Duration = Duration::from_millis(500);
/// What a digest keeps of the long lists of an incident.
const NAMES_MAX: usize = 10;
const EVIDENCE_MAX: usize = 2;

/// Times of the week in one zone.
#[derive(Clone, Debug)]
pub struct Times {
    times: Vec<(Vec<Weekday>, Time)>,
    zone: TimeZone,
}

impl Times {
    /// Reads `Mon-Fri 08:00` or `08:00`; `zone` is an IANA name, `None` the machine's. `Err` says what
    /// is no time or no zone.
    pub fn parse(texts: &[String], zone: Option<&str>) -> Result<Self, String> {
        let zone = hours::time_zone(zone)?;
        let time = |text: &String| {
            let fault =
                || format!("{text:?} is no time of the week: write it like \"Mon-Fri 08:00\"");
            let (days, time) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
            let days = hours::weekdays(days).ok_or_else(fault)?;
            Ok((days, hours::time(time).ok_or_else(fault)?))
        };
        Ok(Self { times: texts.iter().map(time).collect::<Result<_, String>>()?, zone })
    }

    /// The same time of every day.
    #[must_use]
    pub fn daily(time: Time, zone: TimeZone) -> Self {
        Self { times: vec![(hours::every_day(), time)], zone }
    }

    /// The last one at or before `at`.
    #[must_use]
    pub fn latest(&self, at: UnixMillis) -> Option<UnixMillis> {
        self.around(at).into_iter().filter(|time| *time <= at).max()
    }

    /// The first one after `at`.
    #[must_use]
    pub fn next(&self, at: UnixMillis) -> Option<UnixMillis> {
        self.around(at).into_iter().filter(|time| *time > at).min()
    }

    /// Every one of the week before and after. A time that a day leaves out when clocks go forward
    /// comes as much later, one that a day has twice comes the first time.
    fn around(&self, at: UnixMillis) -> Vec<UnixMillis> {
        let today = hours::zoned(at, &self.zone).date();
        let dates = (-8..=8).filter_map(|n: i32| today.checked_add(n.days()).ok());
        let on = |date: jiff::civil::Date| {
            let here = self.times.iter().filter(move |(days, _)| days.contains(&date.weekday()));
            here.filter_map(move |(_, time)| {
                let zoned = date.to_datetime(*time).to_zoned(self.zone.clone()).ok()?;
                Some(UnixMillis(zoned.timestamp().as_millisecond()))
            })
        };
        dates.flat_map(on).collect()
    }
}

/// A route that is told by digest.
#[derive(Clone, Debug)]
pub struct Digest {
    /// What it wants to hear.
    pub route: Route,
    /// When.
    pub times: Times,
}

impl Digest {
    /// `None` when `config` asks for none; `Err` lists what is wrong, `KEY: WHAT` each.
    pub fn new(config: &NotifyConfig, route: &Route) -> Result<Option<Self>, Vec<String>> {
        if config.digest.is_empty() {
            return Ok(None);
        }
        match Times::parse(&config.digest, config.timezone.as_deref()) {
            Ok(times) => Ok(Some(Self { route: route.clone(), times })),
            Err(what) => Err(vec![format!("digest: {what}")]),
        }
    }

    /// Whether the route wants an incident in it that began or ended.
    fn wants(&self, subject: &Subject<'_>, mark: &Mark) -> bool {
        let (route, incident) = (&self.route, subject.incident);
        let is_end_alone = incident.resolved_at.is_some() && incident.detected_at <= mark.at;
        severity_rank(&incident.severity) >= severity_rank(&route.min_severity)
            && (route.send_resolved || !is_end_alone)
            && route.matcher.matches_any(subject)
    }

    /// Looks once: whether a digest is due at `now`, and puts it into the outbox.
    pub async fn turn(&self, store: &Store, now: UnixMillis) -> Result<(), StoreError> {
        let name = self.route.name.clone();
        let mark = store.read(move |conn| digests::mark(conn, &name)).await?;
        // Of a clock that was wrong by more than a day, nothing is believed.
        let Some(mark) = mark.filter(|mark| mark.at <= now.plus(LATE_MAX)) else {
            return self.set_out(store, now).await;
        };
        let due = self.times.latest(now).filter(|due| *due > mark.at && now.since(*due) < LATE_MAX);
        if due.is_none() {
            return Ok(());
        }
        let this = self.clone();
        let (next, message) = store.read(move |conn| this.gather(conn, &mark, now)).await?;
        let (this, body) = (self.clone(), message.map(|message| Owed::new(&message)));
        let route = self.route.name.clone();
        store
            .write(move |tx| {
                digests::set_mark(tx, &route, &next)?;
                if let Some(owed) = &body {
                    outbox::owe(tx, "", &route, now, &owed.delivery, &owed.body)?;
                }
                notices::add(tx, &this.notice(now, body.as_ref()))
            })
            .await
    }

    /// The first look of all: what was before stands in no digest.
    async fn set_out(&self, store: &Store, now: UnixMillis) -> Result<(), StoreError> {
        let route = self.route.name.clone();
        let next = store.read(move |conn| digests::mark_now(conn, now)).await?;
        store.write(move |tx| digests::set_mark(tx, &route, &next)).await
    }

    /// The next mark, and the message when there is something to tell.
    fn gather(
        &self,
        conn: &Conn,
        mark: &Mark,
        now: UnixMillis,
    ) -> ReadResult<(Mark, Option<Message>)> {
        let next = digests::mark_now(conn, now)?;
        let mut wanted = Vec::new();
        let keys = self.route.matcher.keys().map(str::to_owned).collect();
        for incident in digests::since(conn, mark)? {
            if self.wants(&subjects::subject(conn, &incident, &keys)?, mark) {
                wanted.push(incident);
            }
        }
        if wanted.is_empty() {
            return Ok((next, None));
        }
        let n = wanted.len();
        let mut reason = words::since(mark.at, now, &self.times.zone);
        if n > INCIDENTS_MAX {
            reason = format!("{reason}, the newest {INCIDENTS_MAX} of {n}");
        }
        let digest = wanted.split_off(n.saturating_sub(INCIDENTS_MAX));
        let message = Message {
            event: Event::Digest,
            delivery: ca::new_id(now).map_err(store::failed)?.to_string(),
            at: now,
            reason,
            incident: None,
            before: None,
            changed_back: None,
            digest: digest.into_iter().map(brief).collect(),
            report: None,
        };
        Ok((next, Some(message)))
    }

    fn notice(&self, at: UnixMillis, owed: Option<&Owed>) -> Notice {
        let nothing = "nothing began or ended since the last digest";
        Notice {
            at,
            incident: None,
            route: self.route.name.clone(),
            event: Event::Digest.name().to_owned(),
            what: if owed.is_some() { What::Owed } else { What::Suppressed },
            why: owed.map_or(nothing.to_owned(), |owed| owed.reason.clone()),
            delivery: owed.map(|owed| owed.delivery.clone()),
        }
    }
}

/// What of a message goes into the store.
struct Owed {
    delivery: String,
    reason: String,
    body: String,
}

impl Owed {
    fn new(message: &Message) -> Self {
        Self {
            delivery: message.delivery.clone(),
            reason: message.reason.clone(),
            body: serde_json::to_string(message).expect("a message is JSON"),
        }
    }
}

/// Puts digests into the outbox when they are due, until `stop` fires.
pub async fn run(store: Store, digests: Vec<Digest>, stop: CancellationToken) {
    let names: Vec<String> = digests.iter().map(|digest| digest.route.name.clone()).collect();
    if let Err(error) = store.write(move |tx| digests::forget_other(tx, &names)).await {
        tracing::error!(error = %errors::chain(&error), "marks of digests cannot be read");
    }
    if digests.is_empty() {
        return;
    }
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    // Each its own: one that is well says nothing of another.
    let mut troubles = vec![Trouble::new("a digest cannot be put together"); digests.len()];
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a tick that is not taken is the next one.
            _ = tick.tick() => {}
        }
        for (digest, trouble) in digests.iter().zip(&mut troubles) {
            trouble.note(&digest.turn(&store, clock::now()).await);
        }
    }
}

/// The incident without what makes it long.
fn brief(mut incident: Incident) -> Incident {
    incident.place.sites.truncate(NAMES_MAX);
    incident.place.members.truncate(NAMES_MAX);
    incident.children.truncate(NAMES_MAX);
    incident.cause.evidence.truncate(EVIDENCE_MAX);
    incident.timeline.clear();
    incident
}

#[cfg(test)]
mod tests;
