//! What a page says: the view of a message that every template fills in; pure.

use serde::Serialize;
use wire::UnixMillis;

use super::message::{Event, Message};
use crate::model::Incident;

/// Names of sites and servers a page lists.
const NAMES_MAX: usize = 10;

/// Pieces of evidence a page shows.
const EVIDENCE_MAX: usize = 2;

/// A message for people. Every text in it may hold bytes of strangers' logs: a template escapes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// `opened`, `updated`, `resolved`, `digest` or `test`.
    pub event: Event,
    /// The same on every try.
    pub delivery: String,
    /// One line, e.g. `CRITICAL: 37 of 41 sites on web-07 fail with 502 since 12:01:07: ...`.
    pub headline: String,
    /// Title of the incident.
    pub title: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// `gateway_errors`, `silence`, ...
    pub kind: String,
    /// `site`, `pool`, `server` or `group`.
    pub scope: String,
    /// `open` or `resolved`.
    pub state: String,
    /// Its id; empty in a digest.
    pub incident_id: String,
    /// Address of the incident.
    pub link: String,
    /// Why it is told now.
    pub reason: String,
    /// First failure, RFC 3339.
    pub since: String,
    /// The same for people.
    pub since_words: String,
    /// How much is affected.
    pub affected_words: String,
    /// Why it fails.
    pub cause: Option<PageCause>,
    /// The strongest evidence, at most two.
    pub evidence: Vec<String>,
    /// What changed before.
    pub change: Option<String>,
    /// What to do next.
    pub command: Option<PageCommand>,
    /// How it ended.
    pub resolved: Option<PageResolved>,
    /// Numbers.
    pub counts: PageCounts,
    /// Failing sites, at most ten.
    pub sites: Vec<String>,
    /// Failing sites beside those.
    pub n_sites_more: u64,
    /// Servers, at most ten.
    pub servers: Vec<String>,
    /// Failures over time, as blocks of text.
    pub spark: Option<String>,
    /// Ready-made pairs for cards.
    pub facts: Vec<Fact>,
    /// Lines of a digest.
    pub digest: Vec<DigestLine>,
    /// The incident, whole.
    pub incident: Option<Incident>,
}

/// Why it fails.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PageCause {
    /// `overload`, ...
    pub class: String,
    /// 0..100.
    pub confidence_percent: u64,
    /// Both in words.
    pub words: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PageCommand {
    /// In words.
    pub text: String,
    /// To type.
    pub command: Option<String>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PageResolved {
    /// How long it lasted.
    pub lasted_words: String,
    /// How many requests failed.
    pub failed_words: String,
    /// What changed back.
    pub changed_back: Option<String>,
}

/// Numbers of the incident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PageCounts {
    /// Failing sites.
    pub n_sites: u64,
    /// Active sites in scope.
    pub n_sites_active: u64,
    /// Servers with failing sites.
    pub n_servers: u64,
    /// Requests.
    pub n_requests: u64,
    /// Failed ones.
    pub n_gateway_errors: u64,
}

/// One pair for a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// E.g. `Since`.
    pub name: String,
    /// In words.
    pub value: String,
}

/// One incident of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DigestLine {
    /// As that of a page.
    pub headline: String,
    /// Address of the incident.
    pub link: String,
    /// Since when.
    pub since_words: String,
    /// How long; null while it lasts.
    pub lasted_words: Option<String>,
    /// `critical`, `warning` or `info`.
    pub severity: String,
}

impl Page {
    /// The view of `message`; `links` is what the address of an incident begins with.
    #[must_use]
    pub fn new(message: &Message, links: &str) -> Self {
        let incident = message.incident.as_ref();
        let text = |of: fn(&Incident) -> &String| incident.map(of).cloned().unwrap_or_default();
        let (title, id) = (text(|incident| &incident.title), text(|incident| &incident.id));
        let severity = incident.map_or("info", |incident| incident.severity.as_str()).to_owned();
        let since = incident.map_or(message.at, |incident| incident.started_at);
        let sites = incident.map_or(&[][..], |incident| &incident.place.sites[..]);
        let affected = incident.map(|incident| incident.affected).unwrap_or_default();
        let mut page = Self {
            event: message.event,
            delivery: message.delivery.clone(),
            headline: format!("{}: {title}", severity.to_uppercase()),
            title,
            severity,
            kind: text(|incident| &incident.kind),
            scope: text(|incident| &incident.scope),
            state: text(|incident| &incident.state),
            link: format!("{links}/incidents/{id}"),
            incident_id: id,
            reason: message.reason.clone(),
            since: since.to_rfc3339(),
            since_words: since.to_rfc3339(),
            affected_words: format!("{} sites, {} failed", affected.n_sites, affected.n_502),
            cause: incident.map(cause),
            evidence: incident.map(evidence).unwrap_or_default(),
            change: incident.and_then(|incident| Some(incident.change.as_ref()?.text.clone())),
            command: incident.and_then(command),
            resolved: incident.and_then(|incident| resolved(incident, message)),
            counts: PageCounts {
                n_sites: affected.n_sites,
                n_sites_active: affected.n_sites_active,
                n_servers: affected.n_servers,
                n_requests: affected.n_requests,
                n_gateway_errors: affected.n_gateway_errors,
            },
            sites: sites.iter().take(NAMES_MAX).cloned().collect(),
            n_sites_more: affected.n_sites.saturating_sub(NAMES_MAX as u64),
            servers: incident.and_then(|i| i.place.server.clone()).into_iter().collect(),
            spark: None,
            facts: Vec::new(),
            digest: message.digest.iter().map(|incident| digest_line(incident, links)).collect(),
            incident: message.incident.clone(),
        };
        page.facts = facts(&page);
        page
    }
}

fn cause(incident: &Incident) -> PageCause {
    let percent = (incident.cause.confidence * 100.0).clamp(0.0, 100.0) as u64;
    let class = incident.cause.class.clone();
    PageCause { words: format!("{class} ({percent} %)"), confidence_percent: percent, class }
}

fn evidence(incident: &Incident) -> Vec<String> {
    incident.cause.evidence.iter().take(EVIDENCE_MAX).map(|piece| piece.text.clone()).collect()
}

fn command(incident: &Incident) -> Option<PageCommand> {
    let action = incident.actions.first()?;
    Some(PageCommand { text: action.text.clone(), command: action.command.clone() })
}

fn resolved(incident: &Incident, message: &Message) -> Option<PageResolved> {
    let at: UnixMillis = incident.resolved_at?;
    Some(PageResolved {
        lasted_words: wire::units::Span(at.since(incident.started_at)).to_string(),
        failed_words: format!("{} requests failed", incident.affected.n_gateway_errors),
        changed_back: message.changed_back.clone(),
    })
}

fn digest_line(incident: &Incident, links: &str) -> DigestLine {
    let lasted = incident.resolved_at.map(|at| at.since(incident.started_at));
    DigestLine {
        headline: incident.title.clone(),
        link: format!("{links}/incidents/{}", incident.id),
        since_words: incident.started_at.to_rfc3339(),
        lasted_words: lasted.map(|lasted| wire::units::Span(lasted).to_string()),
        severity: incident.severity.clone(),
    }
}

fn facts(page: &Page) -> Vec<Fact> {
    let fact = |name: &str, value: String| Fact { name: name.to_owned(), value };
    let mut facts = vec![
        fact("Since", page.since_words.clone()),
        fact("Affected", page.affected_words.clone()),
    ];
    facts.extend(page.cause.iter().map(|cause| fact("Cause", cause.words.clone())));
    facts.extend(page.evidence.iter().map(|text| fact("Evidence", text.clone())));
    facts.extend(page.change.iter().map(|text| fact("Changed before", text.clone())));
    facts.extend(page.command.iter().map(|next| fact("Next", next.text.clone())));
    facts
}
