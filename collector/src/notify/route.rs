//! What one receiver wants to hear, and the decision for one page; pure.

use std::time::Duration;

use wire::UnixMillis;

use super::hours::Hours;
use super::matcher::{Matcher, Subject};
use super::message::Event;
use crate::config::NotifyConfig;
use crate::model::{Incident, NotifyEvent};
use crate::store::incidents::severity_rank;
use crate::store::silences::Silence;

/// A receiver's wishes.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name in the outbox, e.g. `webhook:0`.
    pub name: String,
    /// Least severity: `info`, `warning` or `critical`.
    pub min_severity: String,
    /// What it is about.
    pub matcher: Matcher,
    /// When it may be told.
    pub hours: Hours,
    /// Told only of what nobody acknowledged for so long.
    pub escalate_after: Option<Duration>,
    /// Told at times of a digest only.
    pub is_digest: bool,
    /// Whether it hears that something is over.
    pub send_resolved: bool,
}

/// What becomes of a page on a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is told now.
    Tell {
        /// What.
        event: Event,
        /// Why now, in words.
        reason: String,
    },
    /// Not now; it is asked again until the incident is over.
    Hold(String),
    /// Not at all, as the incident stands.
    No(String),
}

impl Route {
    /// `Err` lists what is wrong, `KEY: WHAT` each.
    pub fn new(config: &NotifyConfig, index: usize) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let severity = config.min_severity.as_str();
        if severity_rank(severity) == 0 && severity != "info" {
            problems.push(format!(
                "min_severity: {severity:?} is not \"info\", \"warning\" or \"critical\""
            ));
        }
        let matcher =
            Matcher::new(&config.matches).map_err(|what| problems.push(format!("match: {what}")));
        let hours = Hours::parse(&config.hours, config.timezone.as_deref())
            .map_err(|what| problems.push(format!("hours: {what}")));
        match (matcher, hours) {
            (Ok(matcher), Ok(hours)) if problems.is_empty() => Ok(Self {
                name: config.route(index),
                min_severity: config.min_severity.clone(),
                matcher,
                hours,
                escalate_after: config.escalate_after.map(|span| span.0),
                is_digest: !config.digest.is_empty(),
                send_resolved: config.send_resolved,
            }),
            _ => Err(problems),
        }
    }

    /// What becomes of a page. `before`: the incident as this route knows it; `silence`: the one that
    /// covers the incident at `now`.
    #[must_use]
    pub fn decide(
        &self,
        page: NotifyEvent,
        subject: &Subject<'_>,
        before: Option<&Incident>,
        silence: Option<&Silence>,
        now: UnixMillis,
    ) -> Verdict {
        let incident = subject.incident;
        if page == NotifyEvent::Resolved {
            return match before {
                None => Verdict::No("it was not told that it began".into()),
                Some(_) if !self.send_resolved => Verdict::No("it does not hear of ends".into()),
                Some(_) => Verdict::Tell { event: Event::Resolved, reason: "it is over".into() },
            };
        }
        if severity_rank(&incident.severity) < severity_rank(&self.min_severity) && before.is_none()
        {
            return Verdict::No(format!(
                "{} is below its {}",
                incident.severity, self.min_severity
            ));
        }
        if before.is_none() && !self.matcher.matches_any(subject) {
            return Verdict::No("it is about something else".into());
        }
        if self.is_digest {
            return Verdict::No("it stands in the next digest".into());
        }
        if let Some(silence) = silence {
            return Verdict::Hold(format!("silence {}: {}", silence.id, silence.reason));
        }
        if !self.hours.contain(now) {
            return Verdict::Hold("outside its hours".into());
        }
        let Some(before) = before else { return self.first(incident, now) };
        match news(before, incident) {
            Some(reason) => Verdict::Tell { event: Event::Updated, reason },
            None => Verdict::No("nothing is new for it".into()),
        }
    }

    fn first(&self, incident: &Incident, now: UnixMillis) -> Verdict {
        let Some(patience) = self.escalate_after else {
            return Verdict::Tell { event: Event::Opened, reason: "it began".into() };
        };
        if let Some(by) = &incident.acked_by {
            return Verdict::No(format!("{by} is on it"));
        }
        let shown = wire::units::Span(patience);
        if now.since(incident.detected_at) < patience {
            return Verdict::Hold(format!("told when nobody acknowledged for {shown}"));
        }
        let reason = format!("nobody acknowledged it for {shown}");
        Verdict::Tell { event: Event::Opened, reason }
    }
}

/// What is new since it was told last: a new scope, a new cause, or twice as much.
#[must_use]
pub fn news(before: &Incident, now: &Incident) -> Option<String> {
    let place = |incident: &Incident| {
        let place = &incident.place;
        let (label, labels) = (place.label.clone(), place.labels.clone());
        (incident.scope.clone(), place.server.clone(), label, place.value.clone(), labels)
    };
    if place(before) != place(now) {
        return Some(format!("from {} to {} scope", before.scope, now.scope));
    }
    if before.cause.class != now.cause.class && now.cause.class != "unknown" {
        return Some(format!("the cause is now {}, not {}", now.cause.class, before.cause.class));
    }
    let grown = |before: u64, now: u64| before > 0 && now >= 2 * before;
    let (was, is) = (&before.affected, &now.affected);
    if grown(was.n_servers, is.n_servers) {
        return Some(format!("from {} to {} servers", was.n_servers, is.n_servers));
    }
    if grown(was.n_sites, is.n_sites) {
        return Some(format!("from {} to {} sites", was.n_sites, is.n_sites));
    }
    None
}
