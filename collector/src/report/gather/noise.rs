//! Reads what the noise report is made of: requests, incidents, stolen time, and events as long as these are
//! kept.
//!
//! Cost: that of the outage report, a pass over the hourly sums of steal, and one over the events.

use std::collections::BTreeMap;

use wire::UnixMillis;
use wire::catalog;
use wire::v1::BatchBody;

use super::Members;
use super::outage::{hours, read};
use crate::model::{ServerId, SiteId};
use crate::report::ask::{Ask, Progress};
use crate::report::noise::{Input, Part};
use crate::report::outage::incidents_of_sites;
use crate::store::ReadResult;
use crate::store::history::History;

/// Plugins and services told apart: what is beyond is a flood of made-up names.
const NAMES_MAX: usize = 50_000;
/// States of services kept in all, some 100 bytes each.
const STATES_MAX: usize = 400_000;
/// Steps of the reading.
const N_STEPS: u64 = 5;

/// Reads it.
pub fn noise(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    progress: &mut dyn FnMut(Progress),
) -> ReadResult<Input> {
    let of_outages = read(history, ask, members, N_STEPS, progress)?;
    let n_incidents = incidents_of_sites(&of_outages, ask);
    let (servers, sites, incidents) = (of_outages.servers, of_outages.sites, of_outages.incidents);
    let mut input = Input { servers, sites, incidents, n_incidents, ..Input::default() };
    progress(Progress { what: "reads stolen time", n_done: 3, n: N_STEPS });
    steal(history, ask, members, &mut input)?;
    progress(Progress { what: "reads events", n_done: 4, n: N_STEPS });
    events(history, ask, members, &mut input)?;
    progress(Progress { what: "reads events", n_done: 5, n: N_STEPS });
    Ok(input)
}

fn steal(history: &History<'_>, ask: &Ask, members: &Members, input: &mut Input) -> ReadResult<()> {
    let Some(metric) = catalog::find("system.cpu.steal") else { return Ok(()) };
    let servers = members.keys().copied().collect();
    history.hourly(metric, &servers, &hours(ask), &mut |hour| {
        if !hour.attribute.is_empty() {
            return;
        }
        match input.steal.get_mut(&hour.server) {
            Some(spread) => spread.merge(hour.spread),
            None => drop(input.steal.insert(hour.server, hour.spread.clone())),
        }
    })
}

fn events(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    input: &mut Input,
) -> ReadResult<()> {
    let servers = members.keys().copied().collect();
    let mut ids: BTreeMap<(ServerId, String), SiteId> = BTreeMap::new();
    for (id, site) in &input.sites {
        ids.insert((site.server, site.name.clone()), *id);
    }
    let from = UnixMillis::from_second(history.samples_from()?);
    input.events_from = (from > ask.from && from < ask.to).then_some(from);
    let mut n_states = 0;
    history.events(&servers, &hours(ask), &mut |server, body| {
        parts(server, body, &ids, input);
        for service in &body.services {
            let unit = (server, service.unit.clone());
            if input.services.len() >= NAMES_MAX && !input.services.contains_key(&unit) {
                continue;
            }
            let lives = input.services.entry(unit).or_default();
            let at = UnixMillis(service.at_unix_ms);
            lives.is_cut |= n_states >= STATES_MAX;
            let is_new = lives.add(at, &service.state, service.n_restarts, &service.result);
            n_states += usize::from(is_new);
        }
    })
}

/// Counts what gateway errors and evidence name.
fn parts(
    server: ServerId,
    body: &BatchBody,
    ids: &BTreeMap<(ServerId, String), SiteId>,
    input: &mut Input,
) {
    let mut named = |part: Part, site: Option<SiteId>, is_error: bool| {
        if input.parts.len() >= NAMES_MAX && !input.parts.contains_key(&part) {
            return;
        }
        let known = input.parts.entry(part).or_default();
        known.n_errors += u64::from(is_error);
        known.n_lines += u64::from(!is_error);
        known.sites.extend(site);
    };
    for exemplar in &body.exemplars {
        let mut found = Part::all_in(&exemplar.path);
        found.extend(Part::all_in(exemplar.message.as_deref().unwrap_or_default()));
        let site = body.sites.get(exemplar.site as usize);
        let site = site.and_then(|site| ids.get(&(server, site.name.to_lowercase())).copied());
        for part in found {
            named(part, site, true);
        }
    }
    for line in &body.log_lines {
        for part in Part::all_in(&line.message) {
            named(part, None, false);
        }
    }
    input.n_kept += body.exemplars.len() as u64;
}
