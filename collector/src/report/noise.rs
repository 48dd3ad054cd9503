//! The noise report: who makes most of the trouble. Pure.
//!
//! Sites by their gateway errors, plugins by the errors and slow requests that name them, hypervisors by the
//! time they take away, services that come and go, incidents that come again.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::ask::Ask;
use super::document::{Kind, Report};
use super::outage::{Happened, Server, Site, scope};
use super::settings::Settings;
use crate::model::{ServerId, SiteId};
use crate::store::history::Spread;

mod findings;
mod flaps;
mod repeats;
mod sites;
mod steal;
#[cfg(test)]
mod tests;

pub use flaps::{Lives, Restarts};
pub use sites::{Named, Part};

/// What the store knows of the time of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input {
    /// Whom it is about.
    pub servers: BTreeMap<ServerId, Server>,
    /// Their sites, with their requests.
    pub sites: BTreeMap<SiteId, Site>,
    /// Incidents that they were in, by id.
    pub incidents: BTreeMap<String, Happened>,
    /// How many of them each site was inside of; what was merged into another is none of its own.
    pub n_incidents: BTreeMap<SiteId, u64>,
    /// Stolen time of processors.
    pub steal: BTreeMap<ServerId, Spread>,
    /// States of services, by server and unit.
    pub services: BTreeMap<(ServerId, String), Lives>,
    /// Plugins and themes that errors and slow requests name.
    pub parts: BTreeMap<Part, Named>,
    /// Gateway errors of all sites since some are kept whole.
    pub n_errors_told: u64,
    /// Since when gateway errors, evidence and states are kept, where that is later than the report begins.
    pub events_from: Option<UnixMillis>,
}

/// Makes the report.
#[must_use]
pub fn report(input: &Input, settings: &Settings, ask: &Ask) -> Report {
    let sections = vec![
        sites::section(input),
        sites::parts(input),
        steal::section(input, settings),
        flaps::section(input),
        repeats::section(input, ask),
    ];
    Report {
        kind: Kind::Noise,
        title: "Who makes most of the trouble".to_owned(),
        scope: scope(ask, input.servers.len()),
        from: ask.from,
        to: ask.to,
        made_at: ask.now,
        caveats: findings::caveats(input),
        findings: findings::findings(input, settings, ask),
        sections,
    }
}
