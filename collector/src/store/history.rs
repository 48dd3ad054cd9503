//! The one way to read what was stored, by time: sealed hours from day files, the rest from `hot`.
//!
//! Invariant: of an hour that is sealed, parts below `sealed.parts` come from its day file and hot rows only
//! with `id > hot_cut`; of any other hour all hot rows count. So nothing is counted twice or left out,
//! whatever is sealed while a read runs: it sees one snapshot of `gatewatch.db`, and parts only grow.
//!
//! A read is bounded in time and memory and ends soon after whoever asked has gone away. What is missing or
//! damaged in it, and whether it was cut short, is said beside its answer and never makes it fail.

mod ahead;
mod catalog;
mod counts;
mod events;
mod hot;
mod hourly;
mod minutes;
mod pieces;
mod play;
mod recent;
mod rolled;
mod samples;
mod site_hours;
mod spread;
mod steps;
#[cfg(test)]
mod tests;
mod top;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::blocks::{BlockError, DayFile, Place};
use super::hours::{Day, HOUR_S, Month, hour_of};
use super::pool::End;
use super::quarantine::{Damage, Quarantine};
use super::retention;
use super::rollup::month::MonthFile;
use super::{Store, StoreError, read};
use crate::clock;
use crate::ingest::convert;
use crate::model::ServerId;
use crate::selfstats::SelfStats;
use recent::Recents;
use samples::Seconds;

pub use super::rollup::rolled::BAD_MINUTES;
pub use catalog::{KnownMetric, metric, near};
pub use hourly::HourOf;
pub use pieces::{Piece, Samples};
pub(super) use play::Holds;
pub use play::{Hold, LAG_MS, Play};
pub use samples::{Series, Wanted};
pub use site_hours::{BadMinutes, SiteHour};
pub use spread::Spread;
pub use steps::Point;
pub use top::{Contest, Ranked, Ranking, Stat};

/// Time after which a read that did not end by itself is cut off.
const GRACE: Duration = Duration::from_secs(5);
/// Day files open at once in a read, and month files.
const FILES_MAX: usize = 4;
/// Holes told one by one, before hours that follow each other are put together.
const HOLES_MAX: usize = 10_000;

/// Bounds of a read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may take.
    pub time: Duration,
    /// Values in the answer.
    pub n_values: usize,
    /// Memory for what is put together at once, about.
    pub n_bytes: usize,
    /// The read goes on in a further one where its time was over: that is no cut.
    pub pauses: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), n_values: 200_000, n_bytes: 64 << 20, pauses: false }
    }
}

impl Limits {
    /// The usual ones, but for the time.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self { time, ..Self::default() }
    }
}

/// A time of which something is missing in an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// Its first instant.
    #[serde(with = "wire::rfc3339")]
    pub from: UnixMillis,
    /// Its end.
    #[serde(with = "wire::rfc3339")]
    pub to: UnixMillis,
    /// Only what this server sent is missing; null: of all servers.
    pub server: Option<String>,
    /// What is wrong: `missing` (the file is not there), `damaged`, or `unreadable` for now.
    pub why: String,
}

/// What is to be said beside an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Why the answer is not whole: in words; null: it is.
    pub cut: Option<String>,
    /// Of which times something is missing in it.
    pub holes: Vec<Hole>,
    /// Stored batches that cannot be read; what they hold is missing.
    pub n_batches_unreadable: u64,
}

/// An answer and what is to be said beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// The answer.
    pub value: T,
    /// The rest.
    pub notes: Notes,
}

/// How an hour is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) hot_cut: i64,
    pub(super) parts: u32,
}

/// Sealed hours of a time, by their first second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hours(pub(super) BTreeMap<i64, Sealed>, i64);

impl Hours {
    /// Whether what a hot row tells of a second is to be read from it.
    pub(super) fn is_hot(&self, id: i64, second: i64) -> bool {
        let Self(sealed, raw_from) = self;
        // Of days that left only the sums are kept, also while a batch of theirs lies in `hot` still.
        second >= *raw_from && sealed.get(&hour_of(second)).is_none_or(|sealed| id > sealed.hot_cut)
    }
}

/// Why a place could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Missing,
    Damaged,
    Unreadable,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What a read can use, and what it notes.
pub struct History<'a> {
    conn: &'a Connection,
    dir: &'a Path,
    stats: &'a SelfStats,
    index: Option<HotLists<'a>>,
    /// `None`: what is damaged is only noted.
    quarantine: Option<&'a Quarantine>,
    end: &'a End,
    until: Instant,
    limits: Limits,
    state: RefCell<State>,
}

/// The batches of each server, in memory.
struct HotLists<'a> {
    store: &'a Store,
    /// As it was before the snapshot.
    n_deleted: u64,
}

impl HotLists<'_> {
    /// Those of one server; `None` when some were deleted since that the snapshot may still need.
    fn ids(&self, server: ServerId) -> Option<Vec<i64>> {
        let hot = self.store.hot();
        (hot.n_deleted() == self.n_deleted).then(|| hot.ids(server))
    }
}

#[derive(Default)]
struct State {
    /// Day files, the last used one last, or why it cannot be used.
    files: Vec<(Day, Result<Rc<DayFile>, Why>)>,
    /// Month files, the last opened one last.
    months: Vec<(Month, Rc<MonthFile>)>,
    /// Hours whose parts in the file were compared with what is sealed.
    compared: BTreeSet<i64>,
    cut: Option<String>,
    holes: BTreeSet<(Option<ServerId>, Why, i64)>,
    n_unreadable: u64,
    /// Rows of `hot` that may be of anything.
    damaged: BTreeSet<i64>,
    /// Batches in `hot` by server, once they were looked for.
    listed: Option<HashMap<ServerId, Vec<i64>>>,
    /// What is not sealed, folded.
    recents: Recents,
}

impl Store {
    /// Reads history on one snapshot, on a blocking thread; waits for a turn. Ends soon after the future
    /// is dropped, and by itself when its time is over: the answer is then what was read until then.
    pub async fn history<T, F>(&self, limits: Limits, query: F) -> Result<Told<T>, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&History<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let store = self.clone();
        let read = move |conn: &Connection, end: &End| {
            // Before the snapshot, which the first statement opens.
            let n_deleted = store.hot().n_deleted();
            let history = History {
                conn,
                dir: store.dir(),
                stats: store.stats(),
                index: Some(HotLists { store: &store, n_deleted }),
                quarantine: Some(store.quarantine()),
                end,
                until: clock::instant() + limits.time,
                limits,
                state: RefCell::default(),
            };
            let value = query(&history)?;
            let notes = history.notes()?;
            Ok(Told { value, notes })
        };
        let told = self.inner.readers.read_long(limits.time + GRACE, read).await;
        let told = self.mind_damage(told).await?;
        if told.notes.cut.is_some() {
            self.stats().reads_cut_short.one();
        }
        Ok(told)
    }

    /// How many reads of history may begin now.
    #[cfg(test)]
    pub(crate) fn n_long_turns(&self) -> usize {
        self.inner.readers.n_long_turns()
    }

    /// Keeps the batches that are not sealed wholly now from being deleted, as long as the hold lives and for
    /// 15 minutes at most: for what is read in several turns.
    pub fn hold(&self) -> Hold {
        self.inner.shared.holds.hold()
    }

    /// Who reads in several turns.
    pub(super) fn holds(&self) -> &Holds {
        &self.inner.shared.holds
    }
}

fn file_of(t0: i64) -> PathBuf {
    Day::of(t0).map(Day::file).unwrap_or_default()
}

/// When the oldest of what is kept came; `None` when nothing is.
pub fn oldest(conn: &Connection) -> rusqlite::Result<Option<UnixMillis>> {
    let first = "SELECT min(t0) FROM sealed WHERE parts > 0";
    let t0: Option<i64> = conn.query_row(first, [], |row| row.get(0))?;
    let hot = read::oldest_arrival(conn)?;
    Ok(t0.map(UnixMillis::from_second).into_iter().chain(hot).min())
}

/// A read of a database alone, without files beside it.
#[cfg(test)]
pub(crate) fn of<T>(conn: &Connection, query: impl FnOnce(&History<'_>) -> T) -> T {
    let (stats, end, limits) = (SelfStats::default(), End::default(), Limits::default());
    let until = clock::instant() + limits.time;
    let (dir, state) = (Path::new("/nonexistent"), RefCell::default());
    query(&History {
        conn,
        dir,
        stats: &stats,
        index: None,
        quarantine: None,
        end: &end,
        until,
        limits,
        state,
    })
}

impl History<'_> {
    /// The snapshot, for what is not read by time.
    #[must_use]
    pub fn conn(&self) -> &Connection {
        self.conn
    }

    /// Whether there is time left and somebody who waits. Where there is not, the answer is cut, but for a
    /// read that goes on in a further one.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        if self.end.is_due() {
            self.cut("it took too long");
            return false;
        }
        if clock::instant() >= self.until {
            if self.limits.pauses {
                return false;
            }
            self.cut(&format!("it took longer than {} s", self.limits.time.as_secs_f64()));
            return false;
        }
        true
    }

    /// Notes that the answer is not whole; the first reason stays.
    pub fn cut(&self, why: &str) {
        let cut = &mut self.state.borrow_mut().cut;
        if cut.is_none() {
            *cut = Some(why.to_owned());
        }
    }

    /// Whether the answer was cut already.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.state.borrow().cut.is_some()
    }

    /// Whether something is missing in what was read until now.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        !self.state.borrow().holes.is_empty()
    }

    fn note_unreadable(&self, id: i64, server: ServerId, codec: u32) {
        self.state.borrow_mut().n_unreadable += 1;
        if let (true, Some(index)) = (convert::is_damage(codec), &self.index) {
            index.store.batch_damaged(id, Some(server));
        }
    }

    /// A row of `hot` is damaged, and it is not known what it is of: perhaps of what is read.
    fn note_damaged(&self, id: i64, server: Option<ServerId>) {
        self.state.borrow_mut().damaged.insert(id);
        if let Some(index) = &self.index {
            index.store.batch_damaged(id, server);
        }
    }

    /// The same of those that were found at start, for whatever reads of `hot`.
    fn note_known_damaged(&self) {
        if let Some(index) = &self.index {
            self.state.borrow_mut().damaged.extend(index.store.hot().damaged());
        }
    }

    /// Which hours with an instant in `from..to` are in day files. Those in which nothing fell, though a batch
    /// spans them, are sealed without a part, and are in none.
    pub(super) fn hours(&self, from: UnixMillis, to: UnixMillis) -> rusqlite::Result<Hours> {
        let mut query = self.conn.prepare_cached(
            "SELECT t0, hot_cut, parts FROM sealed WHERE t0 > ?1 - 3600 AND t0 < ?2 AND parts > 0
             ORDER BY t0",
        )?;
        let to_s = to.0.saturating_add(999).div_euclid(1000);
        let rows = query.query_map(params![from.second().max(i64::MIN + HOUR_S), to_s], |row| {
            Ok((row.get(0)?, Sealed { hot_cut: row.get(1)?, parts: row.get(2)? }))
        })?;
        let sealed = rows.collect::<rusqlite::Result<_>>()?;
        Ok(Hours(sealed, retention::raw_from(self.conn)?))
    }

    /// The day file of a sealed hour of so many parts; `None`, and a hole, when it cannot be used. An hour
    /// without parts is in none: a batch spanned it and said nothing of it.
    fn day(&self, t0: i64, parts: u32) -> rusqlite::Result<Option<Rc<DayFile>>> {
        let Some(day) = Day::of(t0).filter(|_| parts > 0) else { return Ok(None) };
        let known = self.state.borrow().files.iter().find(|(known, _)| *known == day).cloned();
        let opened = match known {
            Some((_, opened)) => opened,
            None => self.open_day(day)?,
        };
        let lacks = || self.quarantine.is_some_and(|known| known.lacks(&day.file(), t0));
        match &opened {
            Err(why) => self.hole(None, *why, t0),
            Ok(_) if lacks() => self.hole(None, Why::Damaged, t0),
            Ok(file) => self.check_parts(t0, file)?,
        }
        Ok(opened.ok())
    }

    /// A day file is not there. That is told, but for one whose day left since the snapshot: before its
    /// file goes, nobody knows of its hours any more.
    fn miss(&self, day: Day) {
        self.stats.day_files_missing.one();
        let hours = day.first_second()..day.end_second();
        let is_wanted = |index: &HotLists<'_>| index.store.hot().has_sealed(hours);
        if let (Some(known), true) = (self.quarantine, self.index.as_ref().is_some_and(is_wanted)) {
            known.report(Damage::file(&day.file(), "it is missing"));
        }
    }

    /// A file with fewer parts of an hour than are sealed is an older copy: what it has is served, and
    /// the hour is a hole.
    fn check_parts(&self, t0: i64, file: &DayFile) -> rusqlite::Result<()> {
        if !self.state.borrow_mut().compared.insert(t0) {
            return Ok(());
        }
        let sealed = "SELECT parts FROM sealed WHERE t0 = ?1";
        let mut sealed = self.conn.prepare_cached(sealed)?;
        let parts: Option<u32> = sealed.query_row([t0], |row| row.get(0)).optional()?;
        match file.check_parts(t0, parts.unwrap_or(0)) {
            Ok(()) => Ok(()),
            Err(error) => self.failed(None, t0, error, |why| Damage::hour(&file_of(t0), t0, why)),
        }
    }

    /// Opens a day file, and remembers what came of it.
    fn open_day(&self, day: Day) -> rusqlite::Result<Result<Rc<DayFile>, Why>> {
        let is_known_bad = self.quarantine.is_some_and(|known| known.has_file(&day.file()));
        let opened = match DayFile::open(self.dir, day) {
            Ok(None) => {
                self.miss(day);
                Err(Why::Missing)
            }
            _ if is_known_bad => Err(Why::Damaged),
            Ok(Some(file)) => Ok(Rc::new(file)),
            Err(error) => {
                let damage = |why: &str| Damage::file(&day.file(), why);
                Err(self.why(error, damage)?)
            }
        };
        let files = &mut self.state.borrow_mut().files;
        if files.len() == FILES_MAX {
            drop(files.remove(0));
        }
        files.push((day, opened.clone()));
        Ok(opened)
    }

    /// What was read of a place; `None`, and a hole, when it cannot be. `metric` is its column, or what
    /// else of it was read: [`super::quarantine::COUNTS`] and its like.
    fn tolerate<T>(
        &self,
        place: Place,
        metric: i64,
        found: Result<T, BlockError>,
    ) -> rusqlite::Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) => {
                let damage = |why: &str| Damage::at(&file_of(place.t0), place, metric, why);
                self.failed(Some(place.server), place.t0, error, damage).map(|()| None)
            }
        }
    }

    /// A hole, but for a read that was ended; what is damaged is not served any more.
    fn failed(
        &self,
        server: Option<ServerId>,
        t0: i64,
        error: BlockError,
        damage: impl FnOnce(&str) -> Damage,
    ) -> rusqlite::Result<()> {
        let why = self.why(error, damage)?;
        self.hole(server, why, t0);
        Ok(())
    }

    fn why(&self, error: BlockError, damage: impl FnOnce(&str) -> Damage) -> rusqlite::Result<Why> {
        match error {
            BlockError::Sqlite(error)
                if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                Err(error)
            }
            BlockError::Bad(why) => {
                if let Some(known) = self.quarantine {
                    known.report(damage(&why));
                }
                Ok(Why::Damaged)
            }
            BlockError::Full(_) | BlockError::Sqlite(_) | BlockError::File(..) => {
                Ok(Why::Unreadable)
            }
        }
    }

    fn hole(&self, server: Option<ServerId>, why: Why, t0: i64) {
        let holes = &mut self.state.borrow_mut().holes;
        if server.is_some() && holes.contains(&(None, why, t0)) {
            return; // of all servers
        }
        if holes.len() < HOLES_MAX {
            holes.insert((server, why, t0));
        }
    }

    fn notes(&self) -> rusqlite::Result<Notes> {
        let state = self.state.borrow();
        let mut holes: Vec<Hole> = Vec::new();
        let mut last: Option<(Option<ServerId>, Why)> = None;
        for (server, why, t0) in &state.holes {
            let (from, to) = (UnixMillis::from_second(*t0), UnixMillis::from_second(t0 + HOUR_S));
            match holes.last_mut() {
                Some(hole) if last == Some((*server, *why)) && hole.to == from => hole.to = to,
                _ => {
                    let server = server.map(|server| self.name_of(server)).transpose()?;
                    holes.push(Hole { from, to, server, why: why.text().to_owned() });
                }
            }
            last = Some((*server, *why));
        }
        holes.sort_by(|a, b| (a.from, a.to, &a.server).cmp(&(b.from, b.to, &b.server)));
        let n_batches_unreadable = state.n_unreadable + state.damaged.len() as u64;
        Ok(Notes { cut: state.cut.clone(), holes, n_batches_unreadable })
    }

    fn name_of(&self, server: ServerId) -> rusqlite::Result<String> {
        let name = "SELECT name FROM server WHERE server_id = ?1";
        let name = self.conn.query_row(name, [server.0], |row| row.get(0)).optional()?;
        Ok(name.unwrap_or_else(|| "a forgotten server".to_owned()))
    }
}
