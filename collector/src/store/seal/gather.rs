//! One hour: the batches of each server out of `hot`, folded, packed and put into the day file.
//!
//! Bounds of memory: one batch and one server's hour unpacked, and a group of packed hours.

use std::collections::{BTreeMap, HashMap};
use std::io;

use rusqlite::{Connection, OptionalExtension as _};
use wire::v1::BatchBody;

use super::super::blocks::{BlockError, Column, Cover, DayFile, Encoded, Place, ServerHour};
use super::super::guard::{self, Numbers};
use super::super::hot::Head;
use super::super::hours::Day;
use super::super::metrics::{self, Ids, Wanted};
use super::super::read;
use super::fold::{self, Fold, Folded, Series, Tally};
use super::{Pass, SealError, Sealed};
use crate::ingest::convert::{self, Reason};
use crate::ingest::opener;
use crate::model::{ServerId, SiteId};

/// Servers of one transaction of the day file, and bytes of their bodies.
const GROUP_SERVERS_MAX: usize = 256;
const GROUP_BYTES_MAX: u64 = 16 << 20;

/// An hour that is sealed.
pub(super) struct Hour<'p> {
    pub(super) pass: &'p Pass,
    pub(super) conn: &'p Connection,
    pub(super) ids: &'p mut Ids,
    pub(super) t0: i64,
    /// Batches up to this one were sealed before.
    pub(super) after: i64,
    /// Batches up to this one are sealed now.
    pub(super) cut: i64,
    /// Parts that the database knows of.
    pub(super) parts: u32,
    /// `None`: it is not kept any more.
    pub(super) day: Option<Day>,
}

/// What is put into the file at once.
#[derive(Default)]
struct Group {
    hours: Vec<Encoded>,
    n_bytes: u64,
}

impl Hour<'_> {
    /// Writes the part, and says what is in it. Nothing knows of it afterwards.
    pub(super) fn seal(&mut self) -> Result<Sealed, SealError> {
        let found = self.found()?;
        let part = found.as_ref().map_or(self.parts, |(_, parts)| *parts);
        let mut sealed = Sealed { parts: part, is_late: self.after > 0, ..Sealed::default() };
        // Parts that the database does not know of: a crash, or it was restored.
        let adopted = found.filter(|_| part > self.parts).map(|(file, _)| file);
        let (mut file, mut group, mut n_servers) = (None, Group::default(), 0);
        let servers = self.pass.store.hot().of_hour(self.t0);
        for (server, ends) in servers {
            self.pass.step()?;
            let cover = match &adopted {
                Some(file) => self.covered(file, server, part)?,
                None => Cover::new(),
            };
            let Some((folded, made_of)) = self.server(server, ends, &cover, &mut sealed)? else {
                continue;
            };
            if self.day.is_none() {
                sealed.n_expired += folded.n_entries();
                continue;
            }
            let place = Place { t0: self.t0, server, part };
            let hour = self.resolve(server, folded, &mut sealed)?;
            let encoded = Encoded::new(place, &hour, &made_of);
            n_servers += 1;
            group.n_bytes += encoded.n_bytes();
            group.hours.push(encoded);
            if group.hours.len() >= GROUP_SERVERS_MAX || group.n_bytes >= GROUP_BYTES_MAX {
                self.put(&mut file, &group, &mut sealed)?;
                group = Group::default();
            }
        }
        if !group.hours.is_empty() {
            self.put(&mut file, &group, &mut sealed)?;
        }
        if let Some(mut file) = file {
            self.pass.step()?;
            file.finish(self.t0, part, n_servers).map_err(|error| self.of_day(error))?;
            sealed.parts = part + 1;
            self.pass.step()?;
            file.close().map_err(|error| self.of_day(error))?;
        }
        Ok(sealed)
    }

    /// The file that is there, and how many whole parts it has of the hour.
    fn found(&mut self) -> Result<Option<(DayFile, u32)>, SealError> {
        let Some(day) = self.day else { return Ok(None) };
        let open =
            |this: &Self| DayFile::open(&this.pass.dir, day).map_err(|error| this.of_day(error));
        let mut file = open(self)?;
        if file.is_none() && self.parts > 0 {
            if self.pass.dir.join(day.file()).try_exists().unwrap_or(true) {
                return Err(self.of_day(BlockError::Bad("it is empty".into())));
            }
            if self.pass.begin_anew(self.conn, day)? {
                file = open(self)?;
            } else {
                // A part of it alone would pass for the hour.
                self.gone(day)?;
            }
        }
        let Some(file) = file else { return Ok(None) };
        let parts = file.parts(self.t0).map_err(|error| self.of_day(error))?;
        if parts < self.parts {
            let why = format!("{parts} parts of an hour that should have {}", self.parts);
            return Err(self.of_day(BlockError::Bad(why)));
        }
        Ok(Some((file, parts)))
    }

    /// The file of a day that was sealed is not there. When it left by age or to make room, what comes late
    /// is expired; else somebody moved it, or a disk is not mounted, and batches wait for it.
    fn gone(&mut self, day: Day) -> Result<(), SealError> {
        if self.t0 >= self.pass.raw_from {
            let path = self.pass.dir.join(day.file());
            return Err(self.of_day(BlockError::File(path, io::ErrorKind::NotFound.into())));
        }
        self.day = None;
        Ok(())
    }

    /// Batches of a server that whole parts are made of.
    fn covered(&self, file: &DayFile, server: ServerId, parts: u32) -> Result<Cover, SealError> {
        let mut cover = Cover::new();
        for part in 0..parts {
            let place = Place { t0: self.t0, server, part };
            cover.extend(file.cover(place).map_err(|error| self.of_day(error))?);
        }
        Ok(cover)
    }

    /// Folds what lies in `hot` of one server at these positions, with the batches it is made of; `None` when that is nothing.
    fn server(
        &mut self,
        server: ServerId,
        (first, last): (i64, i64),
        covered: &Cover,
        sealed: &mut Sealed,
    ) -> Result<Option<(Folded, Cover)>, SealError> {
        // One snapshot for all its batches: SQLite takes a lock for each.
        let _snapshot = self.conn.unchecked_transaction()?;
        let mut rows = Vec::new();
        let ends = (first.max(self.after + 1), last.min(self.cut));
        let ids = self.pass.store.hot().ids_between(server, ends);
        for id in ids {
            rows.extend(self.overlapping(server, id)?);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let Some(sites) = self.sites(server)? else {
            let is_first = |row: &&Numbers| row.head.hours().next() == Some(self.t0);
            sealed.n_forgotten += rows.iter().filter(is_first).count() as u64;
            return Ok(None);
        };
        let (mut fold, mut made_of) = (Fold::new(self.t0, &sites), Cover::new());
        for Numbers { head, epoch, seq, codec, .. } in rows {
            if is_in(covered, epoch, seq) {
                continue;
            }
            push(&mut made_of, epoch, seq);
            match self.open(&head, codec)? {
                Ok(body) => {
                    if head.is_wide() && !self.pass.store.hot().is_narrowed(head.id) {
                        self.pass.store.hot_mut().narrow(head.id, fold::hours_of(&head, &body));
                    }
                    fold.add(&head, &body);
                }
                Err(_) if convert::is_damage(codec) => {
                    self.pass.store.batch_damaged(head.id, Some(server));
                }
                Err(_) => {} // counted when it came
            }
        }
        let folded = fold.finish();
        add(&mut sealed.tally, folded.tally);
        Ok((!folded.is_empty()).then_some((folded, made_of)))
    }

    /// A batch of a server that is there, without its body, where it has something of the hour.
    fn overlapping(&self, server: ServerId, id: i64) -> Result<Option<Numbers>, SealError> {
        let query = format!("SELECT {} FROM hot WHERE id = ?1", guard::COLUMNS);
        let mut query = self.conn.prepare_cached(&query)?;
        let row = query.query_row([id], |row| Ok(Numbers::read(row))).optional()?.flatten();
        let Some(row) = row.filter(|row| row.head.server == server) else {
            self.pass.store.batch_damaged(id, Some(server));
            return Ok(None);
        };
        let has_nothing = self.pass.store.hot().has_nothing(id, self.t0);
        Ok((row.head.overlaps(self.t0) && !has_nothing).then_some(row))
    }

    /// The body of a batch; without one it is the body of nothing.
    fn open(&self, head: &Head, codec: u32) -> Result<Result<BatchBody, Reason>, SealError> {
        let mut query = self.conn.prepare_cached("SELECT body FROM hot WHERE id = ?1")?;
        let mut rows = query.query([head.id])?;
        let row = rows.next()?;
        let body = row.map(|row| row.get_ref(0)).transpose()?;
        let body = body.and_then(|body| body.as_blob().ok()).unwrap_or_default();
        self.pass.work.opened(head, body.len());
        Ok(opener::unpack(codec, body))
    }

    /// The sites of a server by name; `None` when it is not in the fleet any more.
    fn sites(&self, server: ServerId) -> Result<Option<HashMap<String, SiteId>>, SealError> {
        let mut query = self.conn.prepare_cached("SELECT 1 FROM server WHERE server_id = ?1")?;
        if !query.exists([server.0])? {
            return Ok(None);
        }
        let sites = read::sites(self.conn, server)?;
        Ok(Some(sites.into_iter().map(|row| (row.name, row.site)).collect()))
    }

    /// Gives the series of an hour their ids; those for which there is none are counted.
    fn resolve(
        &mut self,
        server: ServerId,
        folded: Folded,
        sealed: &mut Sealed,
    ) -> Result<ServerHour, SealError> {
        let day = self.day.map_or(self.t0, Day::first_second);
        let today = self.pass.now.second().div_euclid(86_400);
        let room = self.pass.store.catalog().room(self.conn, server, today)?;
        let mut wanted: Vec<Wanted> = Vec::new();
        for series in &folded.series {
            let key = (series.metric, series.attribute.as_str());
            if self.ids.find(self.conn, key, day)?.is_none() && wanted.len() < room {
                wanted.push((series.metric, series.attribute.clone()));
            }
        }
        if !wanted.is_empty() {
            self.pass.step()?;
            self.pass.store.catalog().asked(server, wanted.len());
            let add = move |tx: &rusqlite::Transaction<'_>| metrics::add(tx, &wanted, day);
            let added = self.pass.runtime.block_on(self.pass.store.write(add));
            self.pass.store.catalog().changed(added.as_ref().ok().map(|n| n.cast_signed()));
            added?;
        }
        let mut columns: BTreeMap<i64, Column> = BTreeMap::new();
        for Series { metric, attribute, samples } in folded.series {
            let n = samples.len() as u64;
            let Some(id) = self.ids.find(self.conn, (metric, &attribute), day)? else {
                sealed.tally.n_samples_refused += n;
                continue;
            };
            sealed.n_samples += n;
            let (at, values) = samples.into_iter().unzip();
            columns.insert(id, Column { metric: id, at, values });
        }
        let columns = columns.into_values().collect();
        Ok(ServerHour { columns, counts: folded.counts, events: folded.events })
    }

    fn put(
        &self,
        file: &mut Option<DayFile>,
        group: &Group,
        sealed: &mut Sealed,
    ) -> Result<(), SealError> {
        self.pass.step()?;
        let Some(day) = self.day else { return Ok(()) };
        let open = match file {
            Some(open) => open,
            None => file.insert(DayFile::for_sealing(self.pass, day)?),
        };
        sealed.n_bytes += open.put_encoded(&group.hours).map_err(|error| self.of_day(error))?;
        Ok(())
    }

    fn of_day(&self, error: BlockError) -> SealError {
        let file = self.day.map(Day::file).unwrap_or_default();
        SealError::Day(self.pass.dir.join(file), error)
    }
}

fn add(sum: &mut Tally, tally: Tally) {
    sum.n_misdated += tally.n_misdated;
    sum.n_samples_refused += tally.n_samples_refused;
    sum.n_counts_refused += tally.n_counts_refused;
    sum.n_thinned += tally.n_thinned;
    sum.n_events_refused += tally.n_events_refused;
}

fn is_in(cover: &Cover, epoch: u64, seq: u64) -> bool {
    cover.iter().any(|(of, first, last)| *of == epoch && (*first..=*last).contains(&seq))
}

fn push(cover: &mut Cover, epoch: u64, seq: u64) {
    match cover.last_mut() {
        Some((of, _, last)) if *of == epoch && *last + 1 == seq => *last = seq,
        _ => cover.push((epoch, seq, seq)),
    }
}
