//! What changed just before: a change is suspected by its kind, its age and whom it touched.

use std::collections::BTreeSet;

use wire::UnixMillis;

use super::Fleet;
use super::server::{Changed, Server};
use super::site::Site;
use super::table::{self, Class, Row};
use crate::model::ChangeBefore;

/// Time over which the suspicion of a change fades to a third, seconds.
pub const FADE_S: f64 = 120.0;
/// Changes older than this before the first failure are not suspected, ms.
const AGE_MAX_MS: i64 = 600_000;
/// The same for packages, ms.
const PACKAGE_AGE_MAX_MS: i64 = 300_000;
/// A change this close after the first failure counts as before it, ms.
const SLACK_MS: i64 = 2_000;
/// Suspicion at which a change is named.
const NAMED: f64 = 0.5;

/// The row of a change; `None` for kinds that break nothing by themselves.
fn row(change: &Changed) -> Option<(Row, f64)> {
    match change.kind.as_str() {
        "package" => Some((table::PACKAGE, table::PACKAGE.nats(Class::ServiceDown))),
        "config" => Some((table::CONFIG, table::CONFIG.nats(Class::Misconfig))),
        "firewall" => Some((table::FIREWALL, table::FIREWALL.nats(Class::Firewall))),
        "plugin" => Some((table::PLUGIN, table::PLUGIN.nats(Class::SiteCode))),
        _ => None,
    }
}

/// Changes that may explain failures of these sites since `first`: row, change, age in seconds,
/// server. The newest of each kind and server.
#[must_use]
pub fn rows<'a>(
    fleet: &'a Fleet,
    members: &[u32],
    first: i64,
) -> Vec<(Row, &'a Changed, f64, &'a str)> {
    let mut found = Vec::new();
    let mut kinds = BTreeSet::new();
    for server in servers(fleet, members) {
        for change in server.changes.iter().rev().filter(|change| is_before(change, first)) {
            let Some((row, _)) = row(change) else { continue };
            if explains(fleet, server, change, members) && kinds.insert(change.kind.as_str()) {
                let age_s = (first - change.at).max(0) as f64 / 1000.0;
                found.push((row, change, age_s, server.name.as_str()));
            }
        }
    }
    found
}

/// The most suspicious change before the failures of these sites.
///
/// Nats of its row, plus the log of how much more often the sites it touched fail than the others
/// of the server, times its freshness. A change after the first failure is never accused.
#[must_use]
pub fn before(fleet: &Fleet, members: &[u32], first: i64) -> Option<ChangeBefore> {
    let failing: BTreeSet<u32> = members.iter().copied().collect();
    let mut best: Option<(f64, &Changed)> = None;
    for server in servers(fleet, members) {
        for change in server.changes.iter().filter(|change| is_before(change, first)) {
            let Some((_, nats)) = row(change) else { continue };
            if !explains(fleet, server, change, members) {
                continue;
            }
            let at_once = at_once(server, change);
            let (mut n, mut n_failed) = ([0.0, 0.0], [0.0, 0.0]);
            for ix in &server.sites {
                let touches = |change: &&Changed| touched(change, fleet.site(*ix));
                let group = usize::from(at_once.iter().any(touches));
                n[group] += 1.0;
                n_failed[group] += f64::from(u8::from(failing.contains(ix)));
            }
            let share = |group: usize| (n_failed[group] + 0.5_f64) / (n[group] + 1.0);
            let lift = if n[0] > 0.0 { (share(1) / share(0)).ln() } else { 0.0 };
            let age_s = (first - change.at).max(0) as f64 / 1000.0;
            let score = (nats + lift) * (-age_s / FADE_S).exp();
            if best.is_none_or(|(known, _)| score > known) {
                best = Some((score, change));
            }
        }
    }
    let (nats, change) = best?;
    let score = 1.0 / (1.0 + (-nats).exp());
    (nats > 0.0 && score > NAMED).then(|| ChangeBefore {
        kind: change.kind.clone(),
        text: change.what.clone(),
        at: UnixMillis(change.at),
        score: (score * 1000.0).round() / 1000.0,
    })
}

fn servers<'a>(fleet: &'a Fleet, members: &[u32]) -> Vec<&'a Server> {
    let ids: BTreeSet<_> = members.iter().map(|ix| fleet.site(*ix).server).collect();
    ids.into_iter().filter_map(|id| fleet.server(id)).collect()
}

fn is_before(change: &Changed, first: i64) -> bool {
    let age_max = if change.kind == "package" { PACKAGE_AGE_MAX_MS } else { AGE_MAX_MS };
    change.at <= first + SLACK_MS && change.at >= first - age_max
}

/// Whether a change of this server may explain failures of these sites: of a change of one site, its
/// own failures alone; what happened at once to several, as to those of one document root, theirs. Whoever owns a site may change it at any time, and explains no other one's.
fn explains(fleet: &Fleet, server: &Server, change: &Changed, members: &[u32]) -> bool {
    let mut sites = members.iter().map(|ix| fleet.site(*ix));
    let touches = |site: &Site| site.server == server.id && touched(change, site);
    let at_once = at_once(server, change);
    let any_touches = |site: &Site| {
        site.server == server.id && at_once.iter().any(|change| touched(change, site))
    };
    match (&change.site, change.kind.as_str()) {
        (Some(_), _) => !members.is_empty() && sites.all(any_touches),
        // A plugin explains its own site, not a whole box.
        (None, "plugin") => false,
        (None, _) => sites.any(touches),
    }
}

/// A change with those of other sites at the same instant: an edit in a document root that several
/// sites share is one of each.
fn at_once<'a>(server: &'a Server, change: &'a Changed) -> Vec<&'a Changed> {
    let is_same = |other: &&Changed| {
        other.site.is_some() && (other.at, &other.kind) == (change.at, &change.kind)
    };
    match change.site {
        Some(_) => server.changes.iter().filter(is_same).collect(),
        None => vec![change],
    }
}

fn touched(change: &Changed, site: &Site) -> bool {
    change.site.as_ref().is_none_or(|name| *name == site.name)
        && (change.pool.is_none() || change.pool == site.pool)
}
