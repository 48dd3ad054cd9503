//! Dated facts of servers: gateway errors that were kept whole, states of services, evidence lines,
//! changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wire::UnixMillis;
use wire::v1::BatchBody;

use super::super::blocks::Place;
use super::super::hours;
use super::super::quarantine::EVENTS;
use super::super::seal::fold::EXEMPLARS_MAX;
use super::History;
use crate::model::ServerId;

impl History<'_> {
    /// Shows `see` the events of these servers whose hour begins in `hours`, some at a time and in no order:
    /// bodies with nothing else in them. They are kept as long as samples. Of hours that are not packed yet
    /// gateway errors are left out that packing will leave out: what is shown stays the same over it.
    ///
    /// Cost: a look-up for each server and hour, and what there is in it.
    pub fn events(
        &self,
        servers: &BTreeSet<ServerId>,
        hours: &Range<i64>,
        see: &mut dyn FnMut(ServerId, &BatchBody),
    ) -> rusqlite::Result<()> {
        let at = |second: i64| UnixMillis(second.saturating_mul(1000));
        let span = (at(hours.start), at(hours.end));
        let sealed = self.hours(span.0, span.1)?;
        for server in servers {
            let mut n_kept: BTreeMap<(String, i32, i64), u32> = BTreeMap::new();
            self.hot_of(*server, span, &mut |batch| {
                let is_it = |ms: i64| {
                    let second = UnixMillis(ms).second();
                    hours.contains(&second) && sealed.is_hot(batch.id, second)
                };
                let mut body = batch.body;
                body.seconds.clear();
                body.ticks.clear();
                let sites = &body.sites;
                body.exemplars.retain(|one| {
                    let site = sites.get(one.site as usize).map(|site| site.name.to_lowercase());
                    let (Some(site), 502..=504) = (site, one.status) else { return false };
                    let hour = hours::hour_of(UnixMillis(one.at_unix_ms).second());
                    let n = n_kept.entry((site, one.signal, hour)).or_default();
                    let is_kept = is_it(one.at_unix_ms) && *n < EXEMPLARS_MAX;
                    *n += u32::from(is_kept);
                    is_kept
                });
                body.log_lines.retain(|one| is_it(one.at_unix_ms));
                body.services.retain(|one| is_it(one.at_unix_ms));
                body.changes.retain(|one| is_it(one.at_unix_ms));
                if !is_empty(&body) {
                    see(*server, &body);
                }
            })?;
        }
        for (t0, sealed) in sealed.0.range(hours.clone()) {
            if !self.goes_on() {
                break;
            }
            let Some(file) = self.day(*t0, sealed.parts)? else { continue };
            for server in servers {
                for part in 0..sealed.parts {
                    let place = Place { t0: *t0, server: *server, part };
                    let found = self.tolerate(place, EVENTS, file.events(place))?;
                    if let Some(body) = found.filter(|body| !is_empty(body)) {
                        see(*server, &body);
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_empty(body: &BatchBody) -> bool {
    body.exemplars.is_empty()
        && body.log_lines.is_empty()
        && body.services.is_empty()
        && body.changes.is_empty()
}
