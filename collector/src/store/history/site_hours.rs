//! Requests of the sites of many servers by the hour, and the minutes in which they failed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::super::blocks::{Place, SiteCount};
use super::super::hours::{Day, HOUR_S};
use super::super::quarantine::COUNTS;
use super::super::rollup::month::Cell;
use super::super::rollup::rolled::{BAD_MINUTES, HOURS, SitesDay};
use super::super::{SiteRow, read};
use super::History;
use super::hourly::Unsummed;
use crate::model::{ServerId, SiteId};

/// A number of an hour of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteHour {
    /// The server that it is on.
    pub server: ServerId,
    /// The site.
    pub site: SiteId,
    /// What is counted: a status below 1000, a derived counter from there on, or [`BAD_MINUTES`]: the minutes
    /// with an answer of 502, 503 or 504.
    pub key: u16,
    /// First second of the hour, UTC.
    pub t0: i64,
    /// How many; never 0.
    pub n: u64,
}

/// Minutes in which the sites of one server failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadMinutes {
    /// Their first seconds, by site.
    pub sites: BTreeMap<SiteId, BTreeSet<i64>>,
    /// First seconds of the hours whose counts cannot be read, wholly or in part: they are damaged, or their
    /// day left since the read began. Sums of hours may tell of them.
    pub unread: BTreeSet<i64>,
}

/// Requests of one server and hour.
#[derive(Debug, Default)]
struct Counted {
    counts: Vec<SiteCount>,
    is_damaged: bool,
}

impl History<'_> {
    /// Every site of one server, by name.
    pub fn sites(&self, server: ServerId) -> rusqlite::Result<Vec<SiteRow>> {
        read::sites(self.conn, server)
    }

    /// Shows `see` what the sites of these servers answered in each hour that begins in `hours`, each number
    /// once, in no order. What is missing or damaged is noted beside the answer.
    pub fn site_hours(
        &self,
        servers: &BTreeSet<ServerId>,
        hours: &Range<i64>,
        see: &mut dyn FnMut(SiteHour),
    ) -> rusqlite::Result<()> {
        let unsummed = self.unsummed(hours)?;
        self.note_lost_before(hours)?;
        let mut hot: BTreeMap<(i64, ServerId), Vec<SiteCount>> = BTreeMap::new();
        for server in servers {
            if !self.goes_on() {
                return Ok(());
            }
            let recent = self.recent(*server, hours)?;
            let of_time = recent.counts.iter().filter(|(t0, _)| hours.contains(t0));
            hot.extend(of_time.map(|(t0, counts)| ((*t0, *server), counts.clone())));
        }
        self.summed_sites(servers, hours, &mut |one| {
            if !unsummed.contains_key(&one.t0) && !hot.contains_key(&(one.t0, one.server)) {
                see(one);
            }
        })?;
        for (t0, Unsummed { parts, rolled }) in &unsummed {
            for server in servers {
                if !self.goes_on() {
                    return Ok(());
                }
                let late = hot.remove(&(*t0, *server)).unwrap_or_default();
                self.counted_sites(*server, (*t0, *parts, *rolled > 0), late, see)?;
            }
        }
        for ((t0, server), late) in hot {
            let parts = self.parts(t0)?;
            self.counted_sites(server, (t0, parts, parts > 0), late, see)?;
        }
        Ok(())
    }

    /// Hours as month files have them.
    fn summed_sites(
        &self,
        servers: &BTreeSet<ServerId>,
        hours: &Range<i64>,
        see: &mut dyn FnMut(SiteHour),
    ) -> rusqlite::Result<()> {
        self.months(hours, &mut |file| {
            for day in file.days(hours) {
                for range in Self::ranges(servers) {
                    file.sites_of_servers(day, range, &mut |server, found| {
                        let t0 = day.first_second();
                        match found {
                            _ if !servers.contains(&server) => {}
                            Ok(sites) => show(&sites, t0, server, hours, see),
                            Err(error) => self.bad_day(Cell { t0, metric: COUNTS, server }, &error),
                        }
                        self.goes_on()
                    })?;
                }
            }
            Ok(())
        })
    }

    /// An hour of one server from what was counted, with what came late. Where that is damaged and there
    /// are sums (`is_summed`), they are told.
    fn counted_sites(
        &self,
        server: ServerId,
        (t0, parts, is_summed): (i64, u32, bool),
        late: Vec<SiteCount>,
        see: &mut dyn FnMut(SiteHour),
    ) -> rusqlite::Result<()> {
        let mut counted = self.counts_of(server, t0, parts)?;
        let hour = t0..t0 + 1;
        if counted.is_damaged && is_summed {
            let mut has_any = false;
            self.summed_sites(&BTreeSet::from([server]), &hour, &mut |one| {
                has_any = true;
                see(one);
            })?;
            if has_any {
                return Ok(());
            }
        }
        counted.counts.extend(late);
        let mut sites = SitesDay::default();
        sites.add(0, &counted.counts);
        show(&sites, t0, server, &hour, see);
        Ok(())
    }

    /// What is sealed of one server and hour.
    fn counts_of(&self, server: ServerId, t0: i64, parts: u32) -> rusqlite::Result<Counted> {
        let mut counted = Counted::default();
        if parts == 0 {
            return Ok(counted);
        }
        let Some(file) = self.day(t0, parts)? else {
            return Ok(Counted { is_damaged: true, ..counted });
        };
        for part in 0..parts {
            let place = Place { t0, server, part };
            match self.tolerate(place, COUNTS, file.counts(place))? {
                Some(counts) => counted.counts.extend(counts),
                None => counted.is_damaged = true,
            }
        }
        Ok(counted)
    }

    /// First seconds of the minutes in which sites of a server answered with 502, 503 or 504, in hours that
    /// begin in `hours`, as far back as samples are kept; `None`: only sums are of all of them.
    ///
    /// Cost: sums tell which hours have any, and only those are opened.
    pub fn bad_minutes(
        &self,
        server: ServerId,
        hours: &Range<i64>,
    ) -> rusqlite::Result<Option<BadMinutes>> {
        let kept = hours.start.max(self.samples_from()?)..hours.end;
        if kept.is_empty() {
            return Ok(None);
        }
        let mut bad = BadMinutes::default();
        let recent = self.recent(server, hours)?;
        for (t0, counts) in recent.counts.range(kept.clone()) {
            bad.add(*t0, counts);
        }
        for (t0, parts) in self.maybe_bad(server, &kept)? {
            if !self.goes_on() {
                break;
            }
            let counted = self.counts_of(server, t0, parts)?;
            if counted.is_damaged {
                bad.unread.insert(t0);
            }
            bad.add(t0, &counted.counts);
        }
        Ok(Some(bad))
    }

    /// Sealed hours with their parts, but for those whose sums say that nothing failed.
    fn maybe_bad(
        &self,
        server: ServerId,
        kept: &Range<i64>,
    ) -> rusqlite::Result<BTreeMap<i64, u32>> {
        let (unsummed, span) = (self.unsummed(kept)?, Self::span_of(kept));
        let sealed = self.hours(span.0, span.1)?.0;
        let sealed = sealed.into_iter().filter(|(t0, _)| kept.contains(t0));
        let mut hours: BTreeMap<i64, u32> = sealed.map(|(t0, of)| (t0, of.parts)).collect();
        self.months(kept, &mut |file| {
            for day in file.days(kept) {
                // What is damaged in the month is looked up where it was counted.
                let Ok(sites) = file.sites_day(day, server) else { continue };
                let failed = failed_hours(day, &sites.unwrap_or_default());
                let of_day = day.first_second()..day.end_second();
                hours.retain(|t0, _| {
                    !of_day.contains(t0) || failed.contains(t0) || unsummed.contains_key(t0)
                });
            }
            Ok(())
        })?;
        Ok(hours)
    }
}

impl BadMinutes {
    fn add(&mut self, t0: i64, counts: &[SiteCount]) {
        for count in counts.iter().filter(|count| matches!(count.status, 502..=504)) {
            let minute = t0 + i64::from(count.second / 60) * 60;
            self.sites.entry(count.site).or_default().insert(minute);
        }
    }
}

/// First seconds of the hours in which a site failed.
fn failed_hours(day: Day, sites: &SitesDay) -> BTreeSet<i64> {
    let bad = sites.iter().filter(|(_, key, _)| *key == BAD_MINUTES);
    let starts = (0..HOURS as i64).map(|hour| day.first_second() + hour * HOUR_S);
    let hours = |numbers: &[u64; HOURS]| -> Vec<i64> {
        starts.clone().zip(numbers).filter(|(_, n)| **n > 0).map(|(t0, _)| t0).collect()
    };
    bad.flat_map(|(_, _, numbers)| hours(numbers)).collect()
}

/// Shows the numbers of hours that begin in `hours`; the first of `sites` begins at `t0`.
fn show(
    sites: &SitesDay,
    t0: i64,
    server: ServerId,
    hours: &Range<i64>,
    see: &mut dyn FnMut(SiteHour),
) {
    for (site, key, numbers) in sites.iter() {
        for (hour, n) in (0..).zip(numbers).filter(|(_, n)| **n > 0) {
            let t0 = t0 + hour * HOUR_S;
            if hours.contains(&t0) {
                see(SiteHour { server, site, key, t0, n: *n });
            }
        }
    }
}
