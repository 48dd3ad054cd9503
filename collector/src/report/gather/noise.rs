//! Reads what the noise report is made of: requests, incidents, stolen time, and events as long as these are
//! kept.
//!
//! Cost: that of the outage report, a pass over the hourly sums of steal, and one over the events.

use std::collections::BTreeMap;

use wire::UnixMillis;
use wire::catalog;
use wire::signal::counter;
use wire::v1::BatchBody;

use super::Members;
use super::outage::{hours, read};
use crate::model::{ServerId, SiteId};
use crate::report::ask::{Ask, Progress};
use crate::report::noise::{Input, Part};
use crate::report::outage::incidents_of_sites;
use crate::store::ReadResult;
use crate::store::history::History;
use crate::store::hours::hour_of;

/// Plugins and services told apart: what is beyond is a flood of made-up names.
const NAMES_MAX: usize = 50_000;
/// Hours of sites with gateway errors kept whole: 64 MB. What is beyond is not told apart.
const CELLS_MAX: usize = 500_000;
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
    let mut cells = Cells::new();
    history.events(&servers, &hours(ask), &mut |server, body| {
        parts(server, body, &ids, (input, &mut cells));
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
    })?;
    let since = hours(ask).start.max(from.second());
    history.site_hours(&servers, &(since..hours(ask).end), &mut |hour| {
        let is_error = match u32::from(hour.key) {
            502 | 504 | counter::GATEWAY_503 => input.sites.contains_key(&hour.site),
            _ => false,
        };
        if is_error {
            input.n_errors_told = input.n_errors_told.saturating_add(hour.n);
            if let Some(cell) = cells.get_mut(&(hour.site, hour.t0)) {
                cell.n_errors = cell.n_errors.saturating_add(hour.n);
            }
        }
    })?;
    scale(cells, input);
    Ok(())
}

/// An hour of a site with gateway errors that were kept whole.
#[derive(Default)]
struct Cell {
    n_kept: u64,
    /// All its gateway errors.
    n_errors: u64,
    /// How many of those kept whole name a part.
    named: Vec<(Part, u64)>,
}

/// By site and first second of the hour.
type Cells = BTreeMap<(SiteId, i64), Cell>;

/// Of each hour of a site each part has the share of the errors that it has of those kept whole.
fn scale(cells: Cells, input: &mut Input) {
    for cell in cells.into_values() {
        for (part, n) in cell.named {
            let n_errors = cell.n_errors.max(cell.n_kept) as f64;
            if let Some(known) = input.parts.get_mut(&part) {
                known.n_errors += n_errors * n as f64 / cell.n_kept.max(1) as f64;
            }
        }
    }
}

/// Counts what gateway errors and evidence name.
fn parts(
    server: ServerId,
    body: &BatchBody,
    ids: &BTreeMap<(ServerId, String), SiteId>,
    (input, cells): (&mut Input, &mut Cells),
) {
    // Whether there is room for one more name.
    let mut named = |part: &Part, site: Option<SiteId>, n_lines: u64| {
        if input.parts.len() >= NAMES_MAX && !input.parts.contains_key(part) {
            return false;
        }
        let known = input.parts.entry(part.clone()).or_default();
        known.n_lines += n_lines;
        known.sites.extend(site);
        true
    };
    for exemplar in &body.exemplars {
        let site = body.sites.get(exemplar.site as usize);
        let site = site.and_then(|site| ids.get(&(server, site.name.to_lowercase())).copied());
        let Some(site) = site else { continue };
        let mut found = Part::all_in(&exemplar.path);
        found.extend(Part::all_in(exemplar.message.as_deref().unwrap_or_default()));
        found.retain(|part| named(part, Some(site), 0));
        let at = (site, hour_of(UnixMillis(exemplar.at_unix_ms).second()));
        if cells.len() >= CELLS_MAX && !cells.contains_key(&at) {
            continue;
        }
        let cell = cells.entry(at).or_default();
        cell.n_kept += 1;
        for part in found {
            match cell.named.iter_mut().find(|(known, _)| *known == part) {
                Some((_, n)) => *n += 1,
                None => cell.named.push((part, 1)),
            }
        }
    }
    for line in &body.log_lines {
        for part in Part::all_in(&line.message) {
            named(&part, None, 1);
        }
    }
}
