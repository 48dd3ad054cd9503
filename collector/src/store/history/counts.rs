//! Requests of one server by site and status.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::super::blocks::Place;
use super::super::quarantine::COUNTS;
use super::super::read;
use super::History;
use crate::ingest::counts::{self, ByStatus};
use crate::model::{ServerId, SiteId};

impl History<'_> {
    /// Requests whose second lies in `from_s..to_s`, by site and status. Sealed requests are known by the
    /// ten seconds they were in, which count when they begin in that time; gateway errors by the second. Before the
    /// first sample that is kept they are known by the hour.
    pub fn counts(
        &self,
        server: ServerId,
        (from_s, to_s): (i64, i64),
    ) -> rusqlite::Result<BTreeMap<String, ByStatus>> {
        let at = |second: i64| UnixMillis(second.saturating_mul(1000));
        let span = (at(from_s), at(to_s));
        let hours = self.hours(span.0, span.1)?;
        let mut sites = BTreeMap::new();
        self.hot_of(server, span, &mut |mut batch| {
            batch.body.seconds.retain(|second| hours.is_hot(batch.id, second.second));
            counts::add(&batch.body, from_s, to_s, &mut sites);
        })?;
        let rows = read::sites(self.conn, server)?;
        let names: BTreeMap<SiteId, String> =
            rows.into_iter().map(|row| (row.site, row.name)).collect();
        let name = |site: SiteId| names.get(&site).map_or("a forgotten site", String::as_str);
        self.counts_before(server, (from_s, to_s), &mut |site, status, n| {
            if n > 0 {
                counts::add_one(&mut sites, name(site), status.into(), n);
            }
        })?;
        for (t0, sealed) in &hours.0 {
            if !self.goes_on() {
                break;
            }
            let Some(file) = self.day(*t0, sealed.parts)? else { continue };
            for part in 0..sealed.parts {
                let place = Place { t0: *t0, server, part };
                let Some(found) = self.tolerate(place, COUNTS, file.counts(place))? else {
                    continue;
                };
                for count in found {
                    if !(from_s..to_s).contains(&(t0 + i64::from(count.second))) {
                        continue;
                    }
                    counts::add_one(&mut sites, name(count.site), count.status.into(), count.n);
                }
            }
        }
        Ok(sites)
    }
}
