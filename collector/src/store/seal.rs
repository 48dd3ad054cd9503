//! Hot batches to day files, hour by hour.
//!
//! An hour is sealed when it is over and its batches had time to come: every batch that was committed until
//! then (`cut`) and overlaps it is folded, server by server, into a part of its day file. Then one row of
//! `sealed` says so, and from its commit on readers take the hour from there and ignore batches up to `cut` for
//! it. What comes later becomes the next part. Batches whose every hour is sealed are deleted at last.
//!
//! Invariant: a batch's entries of an hour are in one finished part of it or in `hot`, never in neither, and
//! readers never count both. A crash before the row repeats the part from the complete hot rows. A part that the
//! file calls whole is never written again, not even when `gatewatch.db` is older than the file: what it is made
//! of is in it, so the same batches that come again are left out of the next part.

mod aside;
pub(super) mod fold;
mod gather;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wide_tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use wire::UnixMillis;

use super::blocks::{BlockError, DayFile};
use super::guard::{self, Numbers};
use super::hot::{Head, Waiting};
use super::hours::{Day, HOUR_S};
use super::keeper::Keeper;
use super::metrics::{self, Ids};
use super::{Store, StoreError, open, retention};
use crate::config::StoreConfig;
use crate::errors;
use crate::model::ServerId;
use fold::Tally;
use gather::Hour;

/// How much nicer than the rest the thread is.
const NICE: i32 = 10;
/// Rows of one statement of housekeeping: a few milliseconds of the writer.
const ROWS_MAX: usize = 1000;
/// Pause between two of them, in which batches are committed.
const PAUSE: Duration = Duration::from_millis(20);

/// Seals the hours that are due and deletes what is sealed.
pub(super) async fn pass(keeper: &Keeper, now: UnixMillis) -> Result<(), StoreError> {
    let stop = keeper.stop.clone();
    let pass = Pass::new(keeper, now, Arc::new(move || !stop.is_cancelled()));
    match on_thread(pass).await {
        Ok(()) | Err(SealError::Stopped) => Ok(()),
        // Told and counted with its hour.
        Err(error) if !error.ends_pass() => Ok(()),
        Err(error) => keeper.store.mind_damage(Err(error.into())).await,
    }
}

/// Runs a pass on a thread of its own, because it is long and must not be in anybody's way.
async fn on_thread(mut pass: Pass) -> Result<(), SealError> {
    let (done, ended) = oneshot::channel();
    let dir = pass.dir.clone();
    let run = move || {
        if let Err(error) = rustix::process::nice(NICE) {
            tracing::debug!(%error, "packing cannot be made less important");
        }
        let ended = pass.run();
        // Before anybody hears of it: who waits may want to close the store.
        drop(pass);
        drop(done.send(ended));
    };
    let thread = std::thread::Builder::new().name("seal".into()).spawn(run);
    thread.map_err(|source| StoreError::File { path: dir, source })?;
    ended.await.map_err(|_| StoreError::Closed)?
}

/// Says whether to go on: asked between any two steps.
type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

/// Why a pass ended early.
#[derive(Debug)]
enum SealError {
    /// It was asked to; everything done so far stays.
    Stopped,
    /// The day file of an hour. Others may be fine.
    Day(PathBuf, BlockError),
    /// The database.
    Store(StoreError),
}

impl SealError {
    /// Whether there is no use in trying another day.
    fn ends_pass(&self) -> bool {
        match self {
            Self::Stopped | Self::Store(_) => true,
            Self::Day(_, error) => error.is_disk_full(),
        }
    }

    /// Whether the other hours of the day wait for the same lock, each for seconds.
    fn ends_day(&self) -> bool {
        let Self::Day(_, BlockError::Sqlite(error)) = self else { return false };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }
}

impl From<StoreError> for SealError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for SealError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Stopped => Self::Closed,
            SealError::Day(path, error) => Self::DayFile { path, source: Box::new(error) },
            SealError::Store(error) => error,
        }
    }
}

/// One look at what is due, and what it takes.
struct Pass {
    keeper: Keeper,
    store: Store,
    dir: PathBuf,
    pace: StoreConfig,
    /// From which second on samples are kept.
    raw_from: i64,
    /// Series that were not used since this second are in no file any more.
    used_from: i64,
    now: UnixMillis,
    runtime: Handle,
    gate: Gate,
    work: Work,
}

/// Bodies of one server that span many hours and are opened in one pass, and their bytes: an honest agent has
/// hardly any.
const WIDE_MAX: u32 = 500;
const WIDE_BYTES_MAX: usize = 32 << 20;

/// How often bodies that span many hours were opened in a pass, by server. Who exceeds the bounds waits for the
/// next pass with those hours in which nobody else waits.
#[derive(Debug, Default)]
struct Work(RefCell<HashMap<ServerId, (u32, usize)>>);

impl Work {
    /// A body is about to be opened.
    fn opened(&self, head: &Head, n_bytes: usize) {
        if head.is_wide() {
            let mut of = self.0.borrow_mut();
            let of = of.entry(head.server).or_default();
            (of.0, of.1) = (of.0 + 1, of.1.saturating_add(n_bytes));
        }
    }

    /// Whether an hour is left for the next pass.
    fn defers(&self, waiting: &Waiting) -> bool {
        let of = self.0.borrow();
        let exceeds = |server| {
            let (n, n_bytes) = of.get(server).copied().unwrap_or_default();
            n >= WIDE_MAX || n_bytes >= WIDE_BYTES_MAX
        };
        waiting.servers.as_ref().is_some_and(|servers| servers.iter().all(exceeds))
    }
}

impl Pass {
    fn new(keeper: &Keeper, now: UnixMillis, gate: Gate) -> Self {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        let (raw_s, rollup_s) =
            (seconds(keeper.retention.raw.0), seconds(keeper.retention.rollup.0));
        // Without proof of the time nothing is old.
        let from =
            |age_s: i64| keeper.proven(now).map_or(0, |at| at.second().saturating_sub(age_s));
        Self {
            keeper: keeper.clone(),
            store: keeper.store.clone(),
            dir: keeper.dir.clone(),
            pace: keeper.pace.clone(),
            raw_from: from(raw_s),
            // A month file holds its first day as long as its last.
            used_from: from(raw_s.max(rollup_s).saturating_add(33 * 86_400)),
            now,
            runtime: Handle::current(),
            gate,
            work: Work::default(),
        }
    }

    /// Everything that is due. One broken day file does not keep the other hours, nor the deletion.
    fn run(&mut self) -> Result<(), SealError> {
        let conn = open::reader(&self.dir)?;
        // Days may have left before their age, for want of space.
        self.raw_from = self.raw_from.max(retention::raw_from(&conn)?);
        let (mut ids, mut first, mut skipped) = (Ids::default(), None, None);
        for (t0, waiting) in self.due() {
            if self.work.defers(&waiting) || (skipped.is_some() && skipped == Day::of(t0)) {
                continue;
            }
            let mut ended = self.hour(&conn, &mut ids, t0);
            if let (Err(SealError::Day(_, BlockError::Bad(why))), Some(day)) = (&ended, Day::of(t0))
            {
                match self.put_aside(&conn, day, why) {
                    Ok(true) => ended = self.hour(&conn, &mut ids, t0),
                    Ok(false) => {}
                    Err(error) => ended = Err(error),
                }
            }
            match ended {
                Ok(()) => {}
                Err(error) if error.ends_pass() => {
                    first = Some(error);
                    break;
                }
                Err(error) => {
                    self.tell(t0, &error);
                    skipped = Day::of(t0).filter(|_| error.ends_day()).or(skipped);
                    first.get_or_insert(error);
                }
            }
        }
        self.due(); // to tell how far behind it still is
        if let Some(SealError::Stopped) = first {
            return Err(SealError::Stopped);
        }
        let swept = self.sweep(&conn).and_then(|()| self.prune());
        match first {
            Some(error) if error.ends_pass() => Err(error),
            skipped => swept.and(skipped.map_or(Ok(()), Err)),
        }
    }

    /// Counts an hour that cannot be sealed now, and says so once for each file.
    fn tell(&self, t0: i64, error: &SealError) {
        self.store.stats().sealings_failed.one();
        let SealError::Day(path, error) = error else { return };
        if self.keeper.is_news(path) {
            let (path, error, hour) =
                (path.display(), errors::chain(error), UnixMillis::from_second(t0));
            tracing::error!(%path, error, %hour, "an hour cannot be packed; its batches stay where they are, other days go on");
        }
    }

    /// Goes on unless it is to stop here.
    fn step(&self) -> Result<(), SealError> {
        if (self.gate)() { Ok(()) } else { Err(SealError::Stopped) }
    }

    /// Hours that are to be sealed, those for the first time first, then the oldest; notes how late that is.
    fn due(&self) -> Vec<(i64, Waiting)> {
        let waiting = self.store.hot().waiting();
        let after = (self.pace.seal_after.0, self.pace.late_after.0);
        let (mut due, mut behind) = (Vec::new(), Duration::ZERO);
        for (t0, waiting) in waiting {
            let at = waiting.due(t0, after, self.now);
            if at <= self.now {
                behind = behind.max(self.now.since(at));
                due.push((t0, waiting));
            }
        }
        due.sort_by_key(|(t0, waiting)| (waiting.is_late, *t0));
        self.store.stats().sealing_behind_s.set(behind.as_secs());
        due
    }

    /// Seals one hour as far as it is committed now.
    fn hour(&self, conn: &Connection, ids: &mut Ids, t0: i64) -> Result<(), SealError> {
        self.step()?;
        let cut = *self.store.committed().borrow();
        let query = "SELECT hot_cut, parts FROM sealed WHERE t0 = ?1";
        let known: Option<(i64, u32)> = conn
            .prepare_cached(query)?
            .query_row([t0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (after, parts) = known.unwrap_or_default();
        let day = Day::of(t0).filter(|day| day.end_second() > self.raw_from);
        let mut hour = Hour { pass: self, conn, ids, t0, after, cut, parts, day };
        let sealed = hour.seal()?;
        self.step()?;
        self.publish(t0, cut, &sealed)?;
        self.store.holds().packed(t0, after);
        self.note_used(ids, t0)
    }

    /// Says through the writer that an hour is in its file: the moment from which readers look there.
    fn publish(&self, t0: i64, cut: i64, sealed: &Sealed) -> Result<(), SealError> {
        let (parts, at, n_bytes) = (sealed.parts, self.now.0, sealed.n_bytes.cast_signed());
        self.runtime.block_on(self.store.write(move |tx| {
            tx.execute(
                "INSERT INTO sealed(t0, hot_cut, parts, at, n_bytes) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET hot_cut = max(hot_cut, excluded.hot_cut),
                 parts = excluded.parts, at = excluded.at, n_bytes = n_bytes + excluded.n_bytes",
                params![t0, cut, parts, at, n_bytes],
            )
        }))?;
        self.store.hot_mut().sealed(t0, (cut, parts), self.now);
        let stats = self.store.stats();
        let counter = if sealed.is_late { &stats.parts_late } else { &stats.hours_sealed };
        counter.one();
        stats.samples_sealed.add(sealed.n_samples);
        stats.bytes_sealed.add(sealed.n_bytes);
        stats.entries_expired.add(sealed.n_expired);
        stats.batches_forgotten.add(sealed.n_forgotten);
        let Tally { n_misdated, n_samples_refused, n_counts_refused, n_thinned, n_events_refused } =
            sealed.tally;
        stats.entries_misdated.add(n_misdated);
        stats.samples_refused.add(n_samples_refused);
        stats.counts_refused.add(n_counts_refused);
        stats.exemplars_thinned.add(n_thinned);
        stats.events_refused.add(n_events_refused);
        Ok(())
    }

    /// Notes on which day series were used last, so that they leave when no file has them any more.
    fn note_used(&self, ids: &mut Ids, t0: i64) -> Result<(), SealError> {
        let day = Day::of(t0).map_or(t0, Day::first_second);
        loop {
            let stale = ids.take_stale(ROWS_MAX);
            if stale.is_empty() {
                return Ok(());
            }
            self.step()?;
            self.runtime.block_on(self.store.write(move |tx| metrics::used(tx, &stale, day)))?;
        }
    }

    /// Deletes batches whose every hour is sealed and which the detector has read, oldest first.
    fn sweep(&self, conn: &Connection) -> Result<(), SealError> {
        // Somebody may read in several turns: of what was packed since then batches stay.
        let held = self.store.holds().cuts();
        let ends = "SELECT min(
             coalesce((SELECT upto FROM snapshot WHERE k = 'engine'), 0),
             coalesce((SELECT v FROM state WHERE k = 'hw_upto'), 0),
             coalesce((SELECT max(hot_cut) FROM sealed), 0))";
        let (upto, mut last): (i64, i64) = (conn.query_row(ends, [], |row| row.get(0))?, 0);
        loop {
            self.step()?;
            let heads = heads(conn, last, upto)?;
            let Some(end) = heads.last() else { return Ok(()) };
            last = end.id();
            let (gone, damaged) = self.deletable(conn, &heads, &held)?;
            if gone.is_empty() && damaged.is_empty() {
                continue;
            }
            let ids: Vec<i64> = gone.iter().map(|head| head.id).chain(damaged.clone()).collect();
            self.runtime.block_on(self.store.write(move |tx| {
                let mut delete = tx.prepare_cached("DELETE FROM hot WHERE id = ?1")?;
                ids.iter().try_for_each(|id| delete.execute([id]).map(drop))
            }))?;
            self.store.hot_mut().deleted(&gone);
            self.store.hot_mut().damaged_deleted(&damaged);
            self.store.stats().batches_swept.add(gone.len() as u64);
            self.pause();
        }
    }

    /// Those of the batches that nobody needs any more, and damaged rows between them: these were told, and
    /// leave with the batch before them.
    fn deletable(
        &self,
        conn: &Connection,
        heads: &[SweptHead],
        held: &HashMap<i64, i64>,
    ) -> Result<(Vec<Head>, Vec<i64>), SealError> {
        let mut query = conn.prepare_cached("SELECT hot_cut FROM sealed WHERE t0 = ?1")?;
        let mut cuts = HashMap::new();
        let (mut gone, mut damaged, mut is_sealed) = (Vec::new(), Vec::new(), false);
        for head in heads {
            let head = match head {
                SweptHead::Sound(head) => head,
                SweptHead::Damaged(id) => {
                    self.store.batch_damaged(*id, None);
                    damaged.extend(is_sealed.then_some(*id));
                    continue;
                }
            };
            is_sealed = true;
            for t0 in head.hours() {
                let cut = if let Some(cut) = cuts.get(&t0).copied() {
                    cut
                } else {
                    let cut: Option<i64> = query.query_row([t0], |row| row.get(0)).optional()?;
                    let cut = cut.map(|cut| held.get(&t0).map_or(cut, |held| cut.min(*held)));
                    cuts.insert(t0, cut);
                    cut
                };
                // The row of an hour leaves with its day; what came of it then was counted.
                let has_left = cut.is_none() && self.is_expired(t0) && !self.store.hot().waits(t0);
                if !has_left && cut.is_none_or(|cut| cut < head.id) {
                    is_sealed = false;
                    break;
                }
            }
            if is_sealed {
                gone.push(*head);
            }
        }
        Ok((gone, damaged))
    }

    fn is_expired(&self, t0: i64) -> bool {
        t0 + HOUR_S <= self.raw_from
    }

    /// Drops series that no file has any more, a few in each pass.
    fn prune(&self) -> Result<(), SealError> {
        self.step()?;
        let day = self.used_from;
        let drop_unused = move |tx: &super::WriteTx<'_>| metrics::drop_unused(tx, day, ROWS_MAX);
        if day > 0 {
            let dropped = self.runtime.block_on(self.store.write(drop_unused));
            self.store.catalog().changed(dropped.as_ref().ok().map(|n| -n.cast_signed()));
            dropped?;
        }
        Ok(())
    }

    fn pause(&self) {
        self.runtime.block_on(async { tokio::time::sleep(PAUSE).await });
    }
}

/// Heads of the next rows of `hot` with `after < id <= upto`.
fn heads(conn: &Connection, after: i64, upto: i64) -> Result<Vec<SweptHead>, SealError> {
    let mut query = conn.prepare_cached(&format!(
        "SELECT {} FROM hot WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3",
        guard::COLUMNS
    ))?;
    let rows = query.query_map(params![after, upto, ROWS_MAX as i64], |row| {
        let damaged = || Ok(SweptHead::Damaged(row.get(0)?));
        Numbers::read(row).map_or_else(damaged, |numbers| Ok(SweptHead::Sound(numbers.head)))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A row that may leave.
enum SweptHead {
    Sound(Head),
    Damaged(i64),
}

impl SweptHead {
    fn id(&self) -> i64 {
        match self {
            Self::Sound(head) => head.id,
            Self::Damaged(id) => *id,
        }
    }
}

/// What became of an hour.
#[derive(Clone, Copy, Debug, Default)]
struct Sealed {
    /// Whole parts of the file.
    parts: u32,
    is_late: bool,
    n_samples: u64,
    n_bytes: u64,
    n_expired: u64,
    n_forgotten: u64,
    tally: Tally,
}

impl DayFile {
    /// Opens the file of a day to write, with its name in the error.
    fn for_sealing(pass: &Pass, day: Day) -> Result<Self, SealError> {
        Self::create(&pass.dir, day)
            .map_err(|error| SealError::Day(pass.dir.join(day.file()), error))
    }
}
