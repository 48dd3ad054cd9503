//! Sites of servers: their requests hour by hour, some servers at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ServerId, SiteId};
use crate::report::capacity::input::{HOUR_S, Input, Site};
use crate::store::history::{BAD_MINUTES, History, SiteHour};
use crate::store::{ReadResult, SiteRow};
use wire::signal::counter::GATEWAY_503;

/// Hours of sites that are held at once: 48 MB.
const CELLS_MAX: usize = 12 << 20;
/// Statuses end, derived counters begin.
const STATUS_END: u16 = 1000;

/// Hours of a server in which a site of it failed, with the most minutes of any site.
pub(super) type BadHours = BTreeMap<(ServerId, i64), u64>;

/// One site while its hours come.
struct Building {
    site: Site,
    /// Requests of each hour.
    hours: Vec<u32>,
}

/// Reads the sites of all servers into `input`, and tells in which hours some failed.
pub(super) fn read(history: &History<'_>, input: &mut Input) -> ReadResult<BadHours> {
    let n_hours = usize::try_from((input.hours.end - input.hours.start) / HOUR_S).unwrap_or(0);
    let mut bad = BadHours::new();
    let mut chunk: BTreeSet<ServerId> = BTreeSet::new();
    let mut found: BTreeMap<SiteId, Building> = BTreeMap::new();
    let ids: Vec<ServerId> = input.servers.keys().copied().collect();
    for (ix, id) in ids.iter().enumerate() {
        for row in history.sites(*id)? {
            found.insert(row.site, Building::new(row, n_hours));
        }
        chunk.insert(*id);
        let is_full = found.len().saturating_mul(n_hours) >= CELLS_MAX;
        if !is_full && ix + 1 < ids.len() {
            continue;
        }
        if !history.goes_on() {
            break;
        }
        let mut of: BTreeMap<SiteId, ServerId> = BTreeMap::new();
        history.site_hours(&chunk, &input.hours, &mut |hour| {
            of.insert(hour.site, hour.server);
            if hour.key == BAD_MINUTES {
                let most = bad.entry((hour.server, hour.t0)).or_default();
                *most = hour.n.max(*most);
            }
            let start = input.hours.start;
            let building = found.entry(hour.site).or_insert_with(|| Building::forgotten(n_hours));
            building.add(start, hour);
        })?;
        for (site, building) in std::mem::take(&mut found) {
            // What is not in `of` was asked for nothing.
            let server = of.get(&site).and_then(|server| input.servers.get_mut(server));
            if let Some(server) = server {
                server.sites.push(building.done());
            }
        }
        chunk.clear();
    }
    Ok(bad)
}

impl Building {
    fn new(row: SiteRow, n_hours: usize) -> Self {
        let site = Site { name: row.name, owner: row.owner, pool: row.pool, ..Site::default() };
        Self { site, hours: vec![0; n_hours] }
    }

    /// Of a site whose name is not known any more.
    fn forgotten(n_hours: usize) -> Self {
        let name = "a forgotten site".to_owned();
        Self { site: Site { name, ..Site::default() }, hours: vec![0; n_hours] }
    }

    fn add(&mut self, start: i64, hour: SiteHour) {
        match hour.key {
            BAD_MINUTES => self.site.n_bad_minutes += hour.n,
            502 | 504 => self.site.n_gateway += hour.n,
            _ if u32::from(hour.key) == GATEWAY_503 => self.site.n_gateway += hour.n,
            _ => {}
        }
        if hour.key >= STATUS_END {
            return;
        }
        self.site.n += hour.n;
        let ix = usize::try_from((hour.t0 - start) / HOUR_S).ok();
        if let Some(n) = ix.and_then(|ix| self.hours.get_mut(ix)) {
            *n = n.saturating_add(u32::try_from(hour.n).unwrap_or(u32::MAX));
        }
    }

    fn done(mut self) -> Site {
        self.site.rate = rate(&self.hours);
        self.site
    }
}

/// Requests a second of the hours from the first to the last with any: p50, p95 and most, each the least
/// that so many hours do not exceed.
fn rate(hours: &[u32]) -> Option<(f64, f64, f64)> {
    let first = hours.iter().position(|n| *n > 0)?;
    let last = hours.iter().rposition(|n| *n > 0)?;
    let mut known = hours[first..=last].to_vec();
    known.sort_unstable();
    let at = |percent: usize| {
        let rank = (known.len() * percent).div_ceil(100).max(1);
        f64::from(known[rank - 1]) / HOUR_S as f64
    };
    Some((at(50), at(95), at(100)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_hours_from_the_first_to_the_last_request() {
        let check = |hours: &[u32], want: Option<(f64, f64, f64)>| {
            assert_eq!(rate(hours), want, "{hours:?}");
        };
        check(&[], None);
        check(&[0, 0], None);
        check(&[0, 3600, 0], Some((1.0, 1.0, 1.0)));
        check(&[0, 3600, 0, 7200, 0], Some((1.0, 2.0, 2.0)));
        let hundred: Vec<u32> = (1..=100).map(|n| n * 3600).collect();
        check(&hundred, Some((50.0, 95.0, 100.0)));
    }
}
