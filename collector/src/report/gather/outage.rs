//! Reads what the outage report is made of: incidents, sites with their owners, requests by the hour.
//!
//! Cost: the incidents of the time, and a pass over the hourly sums of requests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use wire::signal::counter;

use super::Members;
use crate::model::{Incident, ServerId, SiteId};
use crate::report::ask::{Ask, Progress};
use crate::report::outage::{Down, Happened, Input, Server, Site, Spell};
use crate::store::history::{BAD_MINUTES, History, SiteHour};
use crate::store::{ReadResult, spells};

/// A server that said nothing for longer is taken for gone.
const GONE_AFTER: Duration = Duration::from_secs(600);
/// What the steps of the reading are called.
const STEPS: [&str; 3] = ["reads the sites", "reads the incidents", "reads the requests"];

/// Reads it.
pub fn outage(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    progress: &mut dyn FnMut(Progress),
) -> ReadResult<Input> {
    read(history, ask, members, STEPS.len() as u64, progress)
}

/// The same as the first of `n_steps` steps.
pub(super) fn read(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    n_steps: u64,
    progress: &mut dyn FnMut(Progress),
) -> ReadResult<Input> {
    let mut step = |ix: usize| {
        let what = STEPS[ix.min(STEPS.len() - 1)];
        progress(Progress { what, n_done: ix as u64, n: n_steps });
    };
    let mut input = Input::default();
    step(0);
    (input.servers, input.sites) = known(history, ask, members)?;
    step(1);
    (input.spells, input.down) = inside(history, ask, &input.sites, members)?;
    let spells = input.spells.iter().map(|spell| &spell.incident);
    let ids: BTreeSet<String> =
        spells.chain(input.down.iter().map(|down| &down.incident)).cloned().collect();
    input.incidents = incidents(history, ids)?;
    step(2);
    requests(history, ask, members, &mut input.sites)?;
    step(3);
    Ok(input)
}

/// The seconds of a report's hours.
pub(super) fn hours(ask: &Ask) -> Range<i64> {
    ask.from.second()..ask.to.second()
}

/// Members and their sites, as they are now.
pub(super) fn known(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
) -> ReadResult<(BTreeMap<ServerId, Server>, BTreeMap<SiteId, Site>)> {
    let (mut servers, mut sites) = (BTreeMap::new(), BTreeMap::new());
    for (id, member) in members {
        if !history.goes_on() {
            break;
        }
        let Some((first_seen, last_seen, state)) = spells::lived(history.conn(), *id)? else {
            continue;
        };
        let is_heard = state == "up" && ask.now.since(last_seen) <= GONE_AFTER;
        let heard_until = (!is_heard && last_seen.0 > 0).then_some(last_seen);
        let (name, labels) = (member.name.clone(), member.labels.clone());
        servers.insert(*id, Server { name, labels, first_seen, heard_until });
        for row in history.sites(*id)? {
            let (owner, since) = (row.owner, row.since);
            sites.insert(row.site, Site { owner, since, ..Site::new(*id, &row.name) });
        }
    }
    Ok((servers, sites))
}

/// What members spent inside of incidents.
fn inside(
    history: &History<'_>,
    ask: &Ask,
    sites: &BTreeMap<SiteId, Site>,
    members: &Members,
) -> ReadResult<(Vec<Spell>, Vec<Down>)> {
    let span = (ask.from, ask.to);
    let of_sites = spells::of_sites(history.conn(), span)?.into_iter();
    let of_sites = of_sites.filter(|spell| sites.contains_key(&spell.of.1)).map(|spell| Spell {
        incident: spell.incident,
        site: spell.of.1,
        since: spell.since,
        until: spell.until,
    });
    let of_servers = spells::of_servers(history.conn(), span)?.into_iter();
    let of_servers = of_servers.filter(|down| members.contains_key(&down.of)).map(|down| Down {
        incident: down.incident,
        server: down.of,
        since: down.since,
        until: down.until,
    });
    Ok((of_sites.collect(), of_servers.collect()))
}

/// These incidents, and those that they were merged into.
pub(super) fn incidents(
    history: &History<'_>,
    mut ids: BTreeSet<String>,
) -> ReadResult<BTreeMap<String, Happened>> {
    let mut found = BTreeMap::new();
    while let Some(id) = ids.pop_first() {
        if !history.goes_on() {
            break;
        }
        let Some(kept) = spells::kept(history.conn(), &id)? else { continue };
        let happened = match kept.incident {
            Ok(incident) => happened(incident, kept.key),
            // What cannot be read did happen.
            Err(why) => Happened {
                key: kept.key,
                kind: "unreadable".to_owned(),
                title: why,
                started: kept.opened,
                ended: kept.closed,
                cause: "unknown".to_owned(),
                ..Happened::default()
            },
        };
        let parent = happened.parent.clone().filter(|parent| !found.contains_key(parent));
        found.insert(id, happened);
        ids.extend(parent.filter(|parent| !found.contains_key(parent)));
    }
    Ok(found)
}

fn happened(incident: Incident, key: String) -> Happened {
    let evidence = incident.cause.evidence.iter();
    let why = evidence.max_by(|a, b| a.weight.total_cmp(&b.weight)).map(|one| one.text.clone());
    Happened {
        key,
        kind: incident.kind,
        severity: incident.severity,
        scope: incident.scope,
        title: incident.title,
        started: incident.started_at,
        ended: incident.resolved_at,
        is_retroactive: incident.retroactive,
        parent: incident.parent,
        cause: incident.cause.class,
        confidence: incident.cause.confidence,
        why,
        n_errors: incident.affected.n_gateway_errors,
    }
}

/// Adds up requests, gateway errors and bad minutes of sites.
pub(super) fn requests(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    sites: &mut BTreeMap<SiteId, Site>,
) -> ReadResult<()> {
    let servers = members.keys().copied().collect();
    history.site_hours(&servers, &hours(ask), &mut |hour| {
        if let Some(site) = sites.get_mut(&hour.site) {
            add(site, &hour);
        }
    })
}

fn add(site: &mut Site, hour: &SiteHour) {
    let n = hour.n;
    match hour.key {
        BAD_MINUTES => site.n_bad_minutes = site.n_bad_minutes.saturating_add(n),
        key if u32::from(key) == counter::CRAWLER => {
            site.n_crawler = site.n_crawler.saturating_add(n);
        }
        key if u32::from(key) == counter::GATEWAY_503 => {
            site.n_errors = site.n_errors.saturating_add(n);
        }
        status if u32::from(status) < counter::GATEWAY_503 => {
            site.n_requests = site.n_requests.saturating_add(n);
            if matches!(status, 502 | 504) {
                site.n_errors = site.n_errors.saturating_add(n);
            }
            let (first, last) = site.hours.unwrap_or((hour.t0, hour.t0));
            site.hours = Some((first.min(hour.t0), last.max(hour.t0)));
        }
        _ => {}
    }
}
