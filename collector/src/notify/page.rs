//! What a page says: the view of a message that every template fills in; pure.
//!
//! Every text is one bounded line without control characters. It may still hold bytes of strangers'
//! logs, so a template escapes it for where it goes.

use std::cmp::Reverse;

use serde::Serialize;
use wire::UnixMillis;

use super::chart::Chart;
use super::message::{Event, Message};
use super::place;
use super::route::GOES_ON;
use super::words::{self, clean, many};
use crate::model::{Cause, Evidence, Incident};

/// Longest texts, in characters.
const HEADLINE_MAX: usize = 240;
const TITLE_MAX: usize = 200;
const TEXT_MAX: usize = 300;
const NAME_MAX: usize = 120;
const STEP_MAX: usize = 200;
const COMMAND_MAX: usize = 400;
const LINK_MAX: usize = 1000;
/// Pieces of evidence, names and incidents of a digest at most.
const EVIDENCE_MAX: usize = 2;
const NAMES_MAX: usize = 10;
const DIGEST_MAX: usize = 50;

/// A message for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// `opened`, `updated`, `resolved`, `digest` or `test`.
    pub event: Event,
    /// The same on every try.
    pub delivery: String,
    /// One line, e.g. `CRITICAL web-07: 37 of 41 sites on web-07 fail with 502 since 12:01:07: ...`.
    pub headline: String,
    /// Title of the incident.
    pub title: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// Kind of the incident; empty in a digest.
    pub kind: String,
    /// `site`, `pool`, `server` or `group`; empty in a digest.
    pub scope: String,
    /// `open` or `resolved`; empty in a digest.
    pub state: String,
    /// Id of the incident; empty in a digest.
    pub incident_id: String,
    /// Address of the incident; of the dashboard when it is about none.
    pub link: String,
    /// Why it is told now.
    pub reason: String,
    /// The same where it is news: of an update, and when nobody acknowledged.
    pub why_now: Option<String>,
    /// Begin, RFC 3339; empty in a digest.
    pub since: String,
    /// `12:01:07 UTC, 4 min ago`.
    pub since_words: String,
    /// `37 of 41 sites on web-07; 987 of 1,234 requests failed (987 x 502)`.
    pub affected_words: String,
    /// Why it happens.
    pub cause: Option<CauseWords>,
    /// The two strongest pieces of evidence, in words.
    pub evidence: Vec<String>,
    /// The same with text and circumstances apart.
    pub proof: Vec<Proof>,
    /// The change that preceded, with its time and how long before.
    pub change: Option<String>,
    /// What to do first.
    pub command: Option<Step>,
    /// Only of a resolution.
    pub resolved: Option<Ended>,
    /// How much.
    pub counts: Counts,
    /// Failing sites, the first ones.
    pub sites: Vec<String>,
    /// How many more there are.
    pub n_sites_more: u64,
    /// Failing servers, the first ones.
    pub servers: Vec<String>,
    /// Requests around it as a line of blocks.
    pub spark: Option<String>,
    /// What picture and blocks show, in words.
    pub chart: Option<ChartWords>,
    /// All of this as pairs, for cards.
    pub facts: Vec<Fact>,
    /// Incidents of a digest.
    pub digest: Vec<Entry>,
    /// How many more the digest has.
    pub n_digest_more: usize,
    /// The incident itself.
    pub incident: Option<Incident>,
}

/// The cause in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CauseWords {
    /// As in the contract.
    pub class: String,
    /// 0..99: nothing is certain.
    pub confidence_percent: u8,
    /// `overload, 97 % sure`.
    pub words: String,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Proof {
    /// `log`, `service`, `resource` or `change`.
    pub kind: String,
    /// The line or the fact.
    pub text: String,
    /// `log of web-07, 12:01:06`.
    pub from: String,
}

/// A next step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// In words.
    pub text: String,
    /// A command that only looks, or is safe to run.
    pub command: Option<String>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ended {
    /// `12 min`; `12 s until it became part of ID` when it is not over.
    pub lasted_words: String,
    /// The incident it goes on as part of, `ID: TITLE`; null when it is over.
    pub goes_on: Option<String>,
    /// `987 of 1,234 requests failed`; null where nothing was counted.
    pub failed_words: Option<String>,
    /// What changed back before.
    pub changed_back: Option<String>,
}

/// Numbers of the incident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Failing sites.
    pub n_sites: u64,
    /// Sites in scope that had requests.
    pub n_sites_active: u64,
    /// Servers that are hit.
    pub n_servers: u64,
    /// Requests of the failing sites.
    pub n_requests: u64,
    /// 502, 503 and 504 among them.
    pub n_gateway_errors: u64,
}

/// What the chart shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChartWords {
    /// Time of its left edge, `11:51`.
    pub from: String,
    /// Time of its right edge, `12:05`.
    pub to: String,
    /// What is counted, for those who do not see it.
    pub words: String,
}

/// A pair for cards.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fact {
    /// `Since`, `Affected`, ...
    pub name: String,
    /// In words.
    pub value: String,
}

/// One incident of a digest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// `CRITICAL web-07: ...`.
    pub headline: String,
    /// Address of the incident.
    pub link: String,
    /// `12:01:07 UTC, 4 h ago`.
    pub since_words: String,
    /// `12 min`; null while it is open.
    pub lasted_words: Option<String>,
    /// `critical`, `warning` or `info`.
    pub severity: String,
}

impl Page {
    /// The view of `message`; `links` is what the address of an incident begins with.
    #[must_use]
    pub fn new(message: &Message, links: &str, chart: Option<&Chart>) -> Self {
        let mut page = Self::empty(message, links);
        if let Some(incident) = &message.incident {
            page.tell(message, incident, links);
        }
        // The worst first, or a long one ends before them.
        let mut worst_first: Vec<&Incident> = message.digest.iter().collect();
        worst_first.sort_by_key(|incident| Reverse(rank(&incident.severity)));
        let shown = worst_first.into_iter().take(DIGEST_MAX);
        page.digest = shown.map(|incident| entry(incident, links, message.at)).collect();
        page.n_digest_more = message.digest.len().saturating_sub(DIGEST_MAX);
        if let Some(worst) = message.digest.iter().max_by_key(|i| rank(&i.severity)) {
            page.severity = clean(&worst.severity, NAME_MAX);
        }
        if let Some(chart) = chart.filter(|_| message.incident.is_some()) {
            page.spark = Some(chart.spark());
            page.chart = Some(ChartWords {
                from: minute(chart.from()),
                to: minute(chart.to()),
                words: chart.words(),
            });
        }
        page.facts = page.facts();
        page
    }

    fn empty(message: &Message, links: &str) -> Self {
        let reason = clean(&message.reason, TEXT_MAX);
        let is_news = message.event == Event::Updated || reason.starts_with("nobody");
        Self {
            event: message.event,
            delivery: clean(&message.delivery, NAME_MAX),
            headline: headline(message),
            title: String::new(),
            severity: "info".into(),
            kind: String::new(),
            scope: String::new(),
            state: String::new(),
            incident_id: String::new(),
            link: clean(links, LINK_MAX),
            why_now: Some(reason.clone()).filter(|_| is_news),
            reason,
            since: String::new(),
            since_words: String::new(),
            affected_words: String::new(),
            cause: None,
            evidence: Vec::new(),
            proof: Vec::new(),
            change: None,
            command: None,
            resolved: None,
            counts: Counts::default(),
            sites: Vec::new(),
            n_sites_more: 0,
            servers: Vec::new(),
            spark: None,
            chart: None,
            facts: Vec::new(),
            digest: Vec::new(),
            n_digest_more: 0,
            incident: message.incident.clone(),
        }
    }

    fn tell(&mut self, message: &Message, incident: &Incident, links: &str) {
        let (now, affected) = (message.at, &incident.affected);
        self.title = clean(&incident.title, TITLE_MAX);
        self.severity = clean(&incident.severity, NAME_MAX);
        self.kind = clean(&incident.kind, NAME_MAX);
        self.scope = clean(&incident.scope, NAME_MAX);
        self.state = clean(&incident.state, NAME_MAX);
        self.incident_id = clean(&incident.id, NAME_MAX);
        self.link = match message.event {
            // Of a test there is no incident to be shown: it leads to what says that all is well.
            Event::Test => clean(&format!("{links}/readyz"), LINK_MAX),
            _ => link(links, incident),
        };
        self.since = incident.started_at.to_rfc3339();
        let goes_on = goes_on(message);
        let open = goes_on.map(|_| Incident { resolved_at: None, ..incident.clone() });
        let shown = open.as_ref().unwrap_or(incident);
        self.since_words = since_words(shown, now);
        self.affected_words = clean(&place::affected_words(shown), TEXT_MAX);
        self.cause = cause_words(&incident.cause);
        self.proof = strongest(&incident.cause.evidence).map(|e| proof(e, incident, now)).collect();
        self.evidence = self.proof.iter().map(Proof::words).collect();
        self.change = incident.change.as_ref().map(|change| {
            let before = words::rough(incident.started_at.since(change.at));
            let text = clean(&format!("{}: {}", change.kind, change.text), TEXT_MAX);
            format!("{text} at {}, {before} before", words::clock(change.at, now))
        });
        // The first step of a group says whom to call; what to run stands in a later one.
        let command = incident.actions.iter().find_map(|action| action.command.as_ref());
        self.command = incident.actions.first().map(|action| Step {
            text: clean(&words::short_times(&action.text, now), STEP_MAX),
            command: command.map(|command| clean(command, COMMAND_MAX)),
        });
        let changed_back = message.changed_back.as_ref().filter(|_| goes_on.is_none());
        self.resolved = (message.event == Event::Resolved).then(|| Ended {
            lasted_words: match goes_on {
                Some((id, _)) => clean(
                    &format!("{} until it became part of {id}", lasted(incident, now)),
                    NAME_MAX,
                ),
                None => lasted(incident, now),
            },
            goes_on: goes_on.map(|(id, title)| clean(&format!("{id}: {title}"), TEXT_MAX)),
            failed_words: place::failed_words(affected),
            changed_back: changed_back.map(|text| clean(text, TEXT_MAX)),
        });
        self.counts = Counts {
            n_sites: affected.n_sites,
            n_sites_active: affected.n_sites_active,
            n_servers: affected.n_servers,
            n_requests: affected.n_requests,
            n_gateway_errors: affected.n_gateway_errors,
        };
        self.sites = names(&incident.place.sites);
        self.n_sites_more = affected.n_sites.saturating_sub(self.sites.len() as u64);
        self.servers = names(&place::servers(incident));
    }

    fn facts(&self) -> Vec<Fact> {
        let mut facts = Vec::new();
        let mut add = |name: &str, value: &str| {
            if !value.is_empty() {
                facts.push(Fact { name: name.to_owned(), value: value.to_owned() });
            }
        };
        let cause = self.cause.as_ref().map_or("", |cause| &cause.words);
        if let Some(ended) = &self.resolved {
            add("Goes on as", ended.goes_on.as_deref().unwrap_or_default());
            add("Lasted", &format!("{} ({})", ended.lasted_words, self.since_words));
            add("Failed", ended.failed_words.as_deref().unwrap_or_default());
            add("Cause", cause);
            add("Changed back", ended.changed_back.as_deref().unwrap_or_default());
            return facts;
        }
        add("Why now", self.why_now.as_deref().unwrap_or_default());
        add("Since", &self.since_words);
        add("Affected", &self.affected_words);
        add("Cause", cause);
        for text in &self.evidence {
            add("Evidence", text);
        }
        add("Changed before", self.change.as_deref().unwrap_or_default());
        if let Some(step) = &self.command {
            let command = step.command.iter().map(|command| format!(": {command}"));
            add("Next", &format!("{}{}", step.text, command.collect::<String>()));
        }
        facts
    }
}

impl Proof {
    fn words(&self) -> String {
        format!("{} ({})", self.text, self.from)
    }
}

/// The one line that must be enough at three in the morning.
fn headline(message: &Message) -> String {
    let line = match (&message.incident, message.event) {
        (None, Event::Digest) => {
            let n = message.digest.len() as u64;
            let many = if n == 0 { "no incidents".to_owned() } else { many(n, "incident") };
            format!("{many} {}", message.reason)
        }
        (None, Event::Report) => {
            message.report.as_ref().map(|report| report.subject.clone()).unwrap_or_default()
        }
        (None, Event::Test) => "TEST: gatewatch can reach you here".to_owned(),
        (None, event) => format!("{}: {}", event.name().to_uppercase(), message.reason),
        (Some(incident), Event::Test) if incident.title.starts_with("TEST") => {
            incident.title.clone()
        }
        (Some(incident), Event::Test) => format!("TEST: {}", incident.title),
        (Some(incident), Event::Resolved) => match goes_on(message) {
            Some((_, parent)) => {
                // Both must be seen, whatever is cut off.
                let title = clean(&incident.title, HEADLINE_MAX / 2 - 10);
                format!("MERGED: {title}, goes on as part of {parent}")
            }
            None => format!("RESOLVED after {}: {}", lasted(incident, message.at), incident.title),
        },
        (Some(incident), Event::Updated) => {
            format!("UPDATE {}: {}", message.reason, incident.title)
        }
        (Some(incident), Event::Opened | Event::Digest | Event::Report) => return told(incident),
    };
    clean(&line, HEADLINE_MAX)
}

/// Id and title of the incident that one goes on as part of; the id again when there is no title.
fn goes_on(message: &Message) -> Option<(&str, &str)> {
    let is_part = |incident: &Incident| incident.parent.is_some();
    if message.event != Event::Resolved || !message.incident.as_ref().is_some_and(is_part) {
        return None;
    }
    let of = message.reason.strip_prefix(GOES_ON)?;
    Some(of.split_once(": ").unwrap_or((of, of)))
}

/// `CRITICAL web-07: TITLE`.
pub(super) fn told(incident: &Incident) -> String {
    let (severity, place) = (incident.severity.to_uppercase(), place::short(incident));
    clean(&format!("{severity} {place}: {}", incident.title), HEADLINE_MAX)
}

fn entry(incident: &Incident, links: &str, now: UnixMillis) -> Entry {
    Entry {
        headline: told(incident),
        link: link(links, incident),
        since_words: since_words(incident, now),
        lasted_words: incident.resolved_at.map(|_| lasted(incident, now)),
        severity: clean(&incident.severity, NAME_MAX),
    }
}

fn link(links: &str, incident: &Incident) -> String {
    clean(&format!("{links}/incidents/{}", clean(&incident.id, NAME_MAX)), LINK_MAX)
}

fn rank(severity: &str) -> usize {
    ["info", "warning", "critical"].iter().position(|known| *known == severity).unwrap_or(0)
}

fn since_words(incident: &Incident, now: UnixMillis) -> String {
    let from = words::clock(incident.started_at, now);
    match incident.resolved_at {
        Some(until) => format!("{from} to {} UTC", words::clock(until, now)),
        None => format!("{from} UTC, {} ago", words::rough(now.since(incident.started_at))),
    }
}

fn lasted(incident: &Incident, now: UnixMillis) -> String {
    let until = incident.resolved_at.unwrap_or(now);
    words::span(until.since(incident.started_at))
}

fn minute(at: UnixMillis) -> String {
    words::clock(at, at).chars().take(5).collect()
}

fn names(all: &[String]) -> Vec<String> {
    all.iter().take(NAMES_MAX).map(|name| clean(name, NAME_MAX)).collect()
}

/// What speaks for the cause most: how often such a thing happens is no evidence anybody can check.
fn strongest(evidence: &[Evidence]) -> impl Iterator<Item = &Evidence> {
    let mut told: Vec<&Evidence> =
        evidence.iter().filter(|e| e.kind != "prior" && e.weight > 0.0).collect();
    told.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    told.into_iter().take(EVIDENCE_MAX)
}

fn proof(evidence: &Evidence, incident: &Incident, now: UnixMillis) -> Proof {
    let only = place::servers(incident).len() < 2;
    let of = evidence.server.as_deref().filter(|_| !only || incident.place.server.is_none());
    let log = if evidence.kind == "log" { "log" } else { "" };
    let place = match (log, of) {
        ("", None) => String::new(),
        ("", Some(server)) => format!("{}, ", clean(server, NAME_MAX)),
        (log, None) => format!("{log}, "),
        (log, Some(server)) => format!("{log} of {}, ", clean(server, NAME_MAX)),
    };
    Proof {
        kind: clean(&evidence.kind, NAME_MAX),
        text: clean(&evidence.text, TEXT_MAX),
        from: format!("{place}{}", words::clock(evidence.at, now)),
    }
}

fn cause_words(cause: &Cause) -> Option<CauseWords> {
    if cause.class.is_empty() {
        return None;
    }
    let percent = |share: f64| (share.clamp(0.0, 1.0) * 100.0).round().min(99.0) as u8;
    let confidence_percent = percent(cause.confidence);
    let mut words = if cause.class == "unknown" {
        "unknown".to_owned()
    } else {
        format!("{}, {confidence_percent} % sure", class_words(&cause.class))
    };
    // A rival that close must be named, or the reader digs in the wrong place.
    if let Some(rival) = cause.alternatives.iter().find(|a| a.confidence >= 0.2) {
        let (rival_words, percent) = (class_words(&rival.class), percent(rival.confidence));
        words = format!("{words}; perhaps {rival_words}, {percent} %");
    }
    let class = clean(&cause.class, NAME_MAX);
    Some(CauseWords { class, confidence_percent, words: clean(&words, TEXT_MAX) })
}

fn class_words(class: &str) -> String {
    let words = match class {
        "oom" => "out of memory",
        "service_down" => "service down",
        "misconfig" => "configuration",
        "dns" => "DNS",
        "site_code" => "the site's own code",
        "ddos" => "flood of requests",
        "steal" => "the hypervisor takes the processors away",
        "disk_full" => "disk full",
        "agent_silence" => "the agent is silent",
        other => other,
    };
    words.to_owned()
}

#[cfg(test)]
mod tests;
