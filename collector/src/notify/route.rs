//! What one receiver wants to hear, and the decision for one page; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::UnixMillis;

use super::hours::Hours;
use super::matcher::{Matcher, Subject};
use super::message::Event;
use crate::config::NotifyConfig;
use crate::model::{Incident, NotifyEvent};
use crate::store::incidents::{opened_at, severity_rank};

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
    Hold {
        /// Why, in words.
        why: String,
        /// When time alone changes the answer, besides the end of a silence and the hours.
        until: Option<UnixMillis>,
    },
    /// Not at all, as the incident stands.
    No(String),
}

/// What a decision needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The incident, with what fails in it.
    pub subject: &'a Subject<'a>,
    /// The incident as this route knows it.
    pub before: Option<&'a Incident>,
    /// The silences that cover it now, in words.
    pub silence: Option<&'a str>,
    /// Since when somebody knows of it whom nobody had to escalate it to.
    pub paged_at: Option<UnixMillis>,
    /// The time.
    pub now: UnixMillis,
}

/// Reason of a first message.
pub const BEGAN: &str = "it began";
/// What the reason of an end begins with that is none: the incident went into a wider one.
pub const GOES_ON: &str = "it goes on as part of ";
/// How much further ahead than `escalate_after` an escalation may lie; beyond that the clock was set
/// back.
const AHEAD_MAX: Duration = Duration::from_secs(10);

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

    /// What becomes of a page.
    #[must_use]
    pub fn decide(&self, page: NotifyEvent, facts: &Facts<'_>) -> Verdict {
        let incident = facts.subject.incident;
        if page == NotifyEvent::Resolved {
            // Neither a silence nor the hours keep back the end of what was told.
            return match facts.before {
                None => Verdict::No("it was not told that it began".into()),
                Some(_) if !self.send_resolved => Verdict::No("it does not hear of ends".into()),
                Some(_) => Verdict::Tell { event: Event::Resolved, reason: "it is over".into() },
            };
        }
        if let Some(why) = self.is_not_for_it(facts) {
            return Verdict::No(why);
        }
        if let Some(silence) = facts.silence {
            return Verdict::Hold { why: silence.to_owned(), until: None };
        }
        if !self.hours.contain(facts.now) {
            return Verdict::Hold { why: "outside its hours".into(), until: None };
        }
        let Some(before) = facts.before else { return self.first(page, incident, facts) };
        match news(before, incident) {
            Some(reason) => Verdict::Tell { event: Event::Updated, reason },
            None => Verdict::No("nothing is new for it".into()),
        }
    }

    /// Whether it would be told that this incident began.
    #[must_use]
    pub fn wants(&self, subject: &Subject<'_>) -> bool {
        let now = subject.incident.updated_at;
        let facts = Facts { subject, before: None, silence: None, paged_at: None, now };
        self.is_not_for_it(&facts).is_none()
    }

    /// Why it does not want this incident at all; what it was told of once it wants to the end.
    fn is_not_for_it(&self, facts: &Facts<'_>) -> Option<String> {
        let incident = facts.subject.incident;
        if facts.before.is_some() {
            return None;
        }
        if severity_rank(&incident.severity) < severity_rank(&self.min_severity) {
            return Some(format!("{} is below its {}", incident.severity, self.min_severity));
        }
        if !self.matcher.matches_any(facts.subject) {
            return Some("it is about something else".into());
        }
        self.is_digest.then(|| IN_DIGEST.into())
    }

    fn first(&self, page: NotifyEvent, incident: &Incident, facts: &Facts<'_>) -> Verdict {
        let Some(patience) = self.escalate_after else {
            let reason = match page {
                NotifyEvent::Opened => BEGAN.to_owned(),
                _ => format!("it is {} now", incident.severity),
            };
            return Verdict::Tell { event: Event::Opened, reason };
        };
        if let Some(by) = &incident.acked_by {
            return Verdict::No(format!("{by} is on it"));
        }
        let shown = wire::units::Span(patience);
        // Who knew of it when it came back was to answer from then on.
        let opened_at = opened_at(incident);
        let is_ahead = |at: UnixMillis| at > facts.now.plus(AHEAD_MAX);
        let since = match facts.paged_at {
            Some(paged_at) if is_ahead(opened_at) => paged_at,
            Some(paged_at) => paged_at.max(opened_at),
            None => opened_at,
        };
        let until = since.plus(patience);
        if facts.now < until && !is_ahead(since) {
            let why = format!("it hears only what nobody acknowledged for {shown}");
            return Verdict::Hold { why, until: Some(until) };
        }
        let reason = format!("nobody acknowledged it for {shown}");
        Verdict::Tell { event: Event::Opened, reason }
    }
}

/// What a route says of a page that it tells later, with others.
pub const IN_DIGEST: &str = "it stands in the next digest";

/// What is new since it was told last: a new scope, a new cause, or twice as much.
#[must_use]
pub fn news(before: &Incident, now: &Incident) -> Option<String> {
    if before.scope != now.scope {
        return Some(format!("from {} to {} scope", before.scope, now.scope));
    }
    let (was, is) = (place(before), place(now));
    if was != is {
        return Some(format!("from {was} to {is}"));
    }
    let (was, is) = (&before.cause.class, &now.cause.class);
    if was != is && is != "unknown" {
        return Some(match was.as_str() {
            "unknown" => format!("the cause is known now: {is}"),
            _ => format!("the cause is now {is}, not {was}"),
        });
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

/// Where it is, within its scope; who is hit there may change without news.
fn place(incident: &Incident) -> String {
    let place = &incident.place;
    let pairs = |labels: &BTreeMap<String, String>| {
        let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.join(" ")
    };
    match incident.scope.as_str() {
        "group" => match (&place.label, &place.value, &place.labels) {
            (Some(label), Some(value), _) => format!("{label}={value}"),
            (_, _, Some(labels)) => pairs(labels),
            _ => "all servers".to_owned(),
        },
        "server" => place.server.clone().unwrap_or_default(),
        "pool" => place.pool.clone().unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use wire::units::Span;

    type Change = fn(&mut NotifyConfig);

    fn route(change: Change) -> Route {
        let mut config = NotifyConfig { kind: "webhook".into(), ..NotifyConfig::default() };
        config.timezone = Some("UTC".into());
        change(&mut config);
        Route::new(&config, 0).expect("it is a route")
    }

    /// What a route says of the sample, changed a little, a minute after it was detected.
    fn says(
        page: NotifyEvent,
        change: Change,
        now: fn(&mut Incident),
        is_known: bool,
        is_silenced: bool,
    ) -> String {
        let before = samples::incident();
        let mut incident = before.clone();
        now(&mut incident);
        let servers = [("web-07".to_owned(), [("team".to_owned(), "shop".to_owned())].into())];
        let subject = Subject {
            incident: &incident,
            servers: servers.into(),
            sites: incident.place.sites.iter().cloned().collect(),
            has_more_sites: true,
            pools: std::collections::BTreeSet::new(),
        };
        let facts = Facts {
            subject: &subject,
            before: is_known.then_some(&before),
            silence: is_silenced.then_some("silence 01J: upgrade"),
            paged_at: None,
            now: incident.detected_at.plus(Duration::from_secs(60)),
        };
        match route(change).decide(page, &facts) {
            Verdict::Tell { event, reason } => format!("{}: {reason}", event.name()),
            Verdict::Hold { why, .. } => format!("hold: {why}"),
            Verdict::No(why) => format!("no: {why}"),
        }
    }

    #[test]
    fn a_route_that_does_not_know_of_an_incident_is_told_that_it_began_or_says_why_not() {
        use NotifyEvent::{Opened, Resolved, Updated};
        let any: Change = |_| ();
        let warning: fn(&mut Incident) = |i| i.severity = "warning".into();
        let critical: Change = |c| c.min_severity = "critical".into();
        let shop: Change = |c| c.matches = [("team".into(), "shop".into())].into();
        let other: Change = |c| c.matches = [("team".into(), "db".into())].into();
        let night: Change = |c| c.hours = vec!["00:00-06:00".into()];
        let noon: Change = |c| c.hours = vec!["Mon-Fri 12:00-13:00".into()];
        let digest: Change = |c| c.digest = vec!["08:00".into()];
        let slow: Change = |c| c.escalate_after = Some(Span(Duration::from_secs(61)));
        let soon: Change = |c| c.escalate_after = Some(Span(Duration::from_secs(60)));
        let same: fn(&mut Incident) = |_| ();
        let acked: fn(&mut Incident) = |i| i.acked_by = Some("ada".into());
        for (page, change, now, is_silenced, want) in [
            (Opened, any, same, false, "opened: it began"),
            (Updated, any, same, false, "opened: it is critical now"),
            (Resolved, any, same, false, "no: it was not told that it began"),
            (Opened, critical, warning, false, "no: warning is below its critical"),
            (Opened, critical, same, false, "opened: it began"),
            (Opened, shop, same, false, "opened: it began"),
            (Opened, other, same, false, "no: it is about something else"),
            (Opened, other, same, true, "no: it is about something else"),
            (Opened, night, same, false, "hold: outside its hours"),
            (Opened, noon, same, false, "opened: it began"),
            (Opened, any, same, true, "hold: silence 01J: upgrade"),
            (Opened, digest, same, false, "no: it stands in the next digest"),
            (Opened, slow, same, false, "hold: it hears only what nobody acknowledged for 61s"),
            (Opened, soon, same, false, "opened: nobody acknowledged it for 1m"),
            (Opened, slow, acked, false, "no: ada is on it"),
            (Opened, any, acked, false, "opened: it began"),
        ] {
            assert_eq!(says(page, change, now, false, is_silenced), want, "{page:?} {want}");
        }
    }

    #[test]
    fn a_route_that_knows_of_an_incident_hears_news_and_its_end() {
        use NotifyEvent::{Resolved, Updated};
        let any: Change = |_| ();
        let critical: Change = |c| c.min_severity = "critical".into();
        let night: Change = |c| c.hours = vec!["00:00-06:00".into()];
        let quiet: Change = |c| c.send_resolved = false;
        let same: fn(&mut Incident) = |_| ();
        let wider: fn(&mut Incident) = |i| i.scope = "group".into();
        let warning: fn(&mut Incident) = |i| i.severity = "warning".into();
        for (page, change, now, is_silenced, want) in [
            (Updated, any, same, false, "no: nothing is new for it"),
            (Updated, any, wider, false, "updated: from server to group scope"),
            (Updated, any, wider, true, "hold: silence 01J: upgrade"),
            (Updated, night, wider, false, "hold: outside its hours"),
            (Updated, critical, warning, false, "no: nothing is new for it"),
            (Resolved, any, same, true, "resolved: it is over"),
            (Resolved, night, same, false, "resolved: it is over"),
            (Resolved, critical, warning, false, "resolved: it is over"),
            (Resolved, quiet, same, false, "no: it does not hear of ends"),
        ] {
            assert_eq!(says(page, change, now, true, is_silenced), want, "{page:?} {want}");
        }
    }

    #[test]
    fn news_is_another_place_another_cause_or_twice_as_much() {
        let group = |value: &str| {
            let mut incident = Incident { scope: "group".into(), ..samples::incident() };
            (incident.place.label, incident.place.value) =
                (Some("rack".into()), Some(value.into()));
            incident
        };
        let with = |change: &dyn Fn(&mut Incident)| {
            let mut incident = samples::incident();
            change(&mut incident);
            incident
        };
        let sample = samples::incident;
        let cases = vec![
            (sample(), sample(), None),
            (sample(), group("r1"), Some("from server to group scope")),
            (group("r1"), group("r2"), Some("from rack=r1 to rack=r2")),
            (group("r1"), group("r1"), None),
            (sample(), with(&|i| i.affected.n_sites = 73), None),
            (sample(), with(&|i| i.affected.n_sites = 74), Some("from 37 to 74 sites")),
            (sample(), with(&|i| i.affected.n_servers = 2), Some("from 1 to 2 servers")),
            (with(&|i| i.affected.n_sites = 0), sample(), None),
            (
                sample(),
                with(&|i| i.cause.class = "oom".into()),
                Some("the cause is now oom, not overload"),
            ),
            (sample(), with(&|i| i.cause.class = "unknown".into()), None),
            (
                with(&|i| i.cause.class = "unknown".into()),
                sample(),
                Some("the cause is known now: overload"),
            ),
            (sample(), with(&|i| i.severity = "warning".into()), None),
            (sample(), with(&|i| i.place.pool = None), None),
            (sample(), with(&|i| i.title = "other".into()), None),
        ];
        for (before, now, want) in cases {
            assert_eq!(news(&before, &now).as_deref(), want);
        }
    }
}
