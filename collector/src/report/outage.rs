//! The outage report: what failed, when, for whom, why, and what is left of the error budget. Pure.
//!
//! Invariant: a minute of a site is lost once, in however many incidents the site was then; a sum over
//! sites is a sum of such minutes. Silence of an agent says nothing of sites: it costs none, and is told.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::ask::Ask;
use super::document::{Kind, Report, Section};
use super::settings::Settings;
use crate::model::{ServerId, SiteId};

mod causes;
mod figures;
mod findings;
mod minutes;
mod tables;
#[cfg(test)]
mod tests;
mod timeline;

use figures::Figures;
pub(super) use minutes::{Minutes, minute_after, minute_of};

/// How many incidents each site was inside of: as the report counts them, what was merged as one.
pub(super) fn incidents_of_sites(input: &Input, ask: &Ask) -> BTreeMap<SiteId, u64> {
    // What may be lost has no part in it.
    let figures = Figures::of(input, &Settings::default(), ask);
    figures.sites.into_iter().map(|(id, of)| (id, of.n_incidents)).collect()
}

/// What the store knows of the time of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input {
    /// Whom it is about.
    pub servers: BTreeMap<ServerId, Server>,
    /// Their sites.
    pub sites: BTreeMap<SiteId, Site>,
    /// Incidents that any of them were in, and those that these were merged into.
    pub incidents: BTreeMap<String, Happened>,
    /// When sites were inside of them.
    pub spells: Vec<Spell>,
    /// When whole servers were.
    pub down: Vec<Down>,
}

/// A server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it joined.
    pub first_seen: UnixMillis,
    /// When it was heard last; `None`: it is heard now, or nothing is known of that.
    pub heard_until: Option<UnixMillis>,
}

/// A site, with its requests in the time of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The server it is on.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    /// The Unix user it belongs to.
    pub owner: Option<String>,
    /// Since when it is known; `None`: for as long as its server.
    pub since: Option<UnixMillis>,
    /// Its first and last hour with a request, by their first second.
    pub hours: Option<(i64, i64)>,
    /// Requests.
    pub n_requests: u64,
    /// Gateway errors among them: 502, 504, and 503 of a gateway.
    pub n_errors: u64,
    /// Of these, those that crawlers of search engines saw.
    pub n_crawler: u64,
    /// Minutes with an answer of 502, 503 or 504.
    pub n_bad_minutes: u64,
}

impl Site {
    /// Of which nothing is known but its name.
    #[must_use]
    pub fn new(server: ServerId, name: &str) -> Self {
        Self {
            server,
            name: name.to_owned(),
            owner: None,
            since: None,
            hours: None,
            n_requests: 0,
            n_errors: 0,
            n_crawler: 0,
            n_bad_minutes: 0,
        }
    }
}

/// An incident.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Happened {
    /// What it is about: `kind:scope:place`; the same when the same comes again.
    pub key: String,
    /// What kind, as in JSON: `gateway_errors`, `slow_burn`, `silence`, `pressure`, `services`.
    pub kind: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// `site`, `pool`, `server` or `group`.
    pub scope: String,
    /// Its title.
    pub title: String,
    /// First failure.
    pub started: UnixMillis,
    /// When it ended; `None`: it is open.
    pub ended: Option<UnixMillis>,
    /// Found in data that came late.
    pub is_retroactive: bool,
    /// The incident it was merged into.
    pub parent: Option<String>,
    /// Class of its cause.
    pub cause: String,
    /// How sure that is, 0..=1.
    pub confidence: f64,
    /// What speaks for it most.
    pub why: Option<String>,
    /// Gateway errors of all its sites since it began.
    pub n_errors: u64,
}

/// A time that a site spent inside of an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spell {
    /// The incident.
    pub incident: String,
    /// The site.
    pub site: SiteId,
    /// From its first failure.
    pub since: UnixMillis,
    /// To its last; `None`: it goes on.
    pub until: Option<UnixMillis>,
}

/// A time that a whole server spent inside of an incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// The incident.
    pub incident: String,
    /// The server.
    pub server: ServerId,
    /// From its first sign.
    pub since: UnixMillis,
    /// Until it was well again; `None`: it goes on.
    pub until: Option<UnixMillis>,
}

/// Makes the report.
#[must_use]
pub fn report(input: &Input, settings: &Settings, ask: &Ask) -> Report {
    let figures = Figures::of(input, settings, ask);
    let sections = vec![
        tables::totals(&figures),
        timeline::section(&figures),
        tables::owners(&figures),
        tables::sites(&figures),
        tables::servers(&figures),
        causes::section(&figures),
        tables::crawlers(&figures),
    ];
    Report {
        kind: Kind::Outage,
        title: "Outages and availability".to_owned(),
        scope: scope(ask, input.servers.len()),
        from: ask.from,
        to: ask.to,
        made_at: ask.now,
        caveats: findings::caveats(&figures),
        findings: findings::findings(&figures),
        sections: sections
            .into_iter()
            .filter(|section: &Section| !section.blocks.is_empty())
            .collect(),
    }
}

/// Whom a report is about, in words.
pub(super) fn scope(ask: &Ask, n_servers: usize) -> String {
    if let Some(server) = &ask.server {
        return format!("server {server}");
    }
    let servers = super::words::many(n_servers as u64, "server", "servers");
    if ask.labels.is_empty() {
        return if n_servers == 1 {
            "the only server".to_owned()
        } else {
            format!("all {servers}")
        };
    }
    let labels: Vec<String> = ask.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{servers} with {}", labels.join(", "))
}
