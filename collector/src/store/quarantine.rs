//! What was found broken in day and month files: served no more, told to people, never deleted.
//!
//! Readers ask the list in memory before they read and report what they find; the writer files what is
//! new with its next commit, within a second. A place is told once, however often it is read. It leaves
//! the list when it is found sound again: somebody put the file back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use wire::UnixMillis;

use super::blocks::{self, Place};
use super::hours::{Day, HOUR_S};
use crate::clock;
use crate::model::ServerId;
use crate::selfstats::SelfStats;

/// Places kept in memory and in the table. Those beyond are found anew at each read and counted once for
/// all: a file with so many is to be replaced as a whole anyhow.
const PLACES_MAX: usize = 10_000;

/// Stands in [`Damage::metric`] for the counts of the sites.
pub(crate) const COUNTS: i64 = -1;
/// For the events.
pub(crate) const EVENTS: i64 = -2;
/// For the list of what a server has in an hour.
pub(crate) const PRESENCE: i64 = -3;

/// A place in a file that cannot be read; what is `None` means all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// Below the data directory: `blocks/20261130.db`.
    pub file: String,
    /// The hour.
    pub t0: Option<i64>,
    /// Id in the catalog of metrics; below 0: counts, events, the list of metrics.
    pub metric: Option<i64>,
    /// Whose.
    pub server: Option<ServerId>,
    /// Which part of the hour.
    pub part: Option<u32>,
}

/// A place and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub spot: Spot,
    /// What is wrong, for people.
    pub why: String,
}

impl Damage {
    /// A whole file; `file` is below the data directory.
    pub(crate) fn file(file: &Path, why: impl Into<String>) -> Self {
        let file = file.to_string_lossy().into_owned();
        let spot = Spot { file, t0: None, metric: None, server: None, part: None };
        Self { spot, why: why.into() }
    }

    /// A whole hour of a file.
    pub(crate) fn hour(file: &Path, t0: i64, why: impl Into<String>) -> Self {
        let mut this = Self::file(file, why);
        this.spot.t0 = Some(t0);
        this
    }

    /// A part of an hour, of all servers.
    pub(crate) fn part(file: &Path, t0: i64, part: u32, why: impl Into<String>) -> Self {
        let mut this = Self::hour(file, t0, why);
        this.spot.part = Some(part);
        this
    }

    /// One row: `metric`, or [`COUNTS`], [`EVENTS`], [`PRESENCE`], at a place.
    pub(crate) fn at(file: &Path, place: Place, metric: i64, why: impl Into<String>) -> Self {
        let mut this = Self::hour(file, place.t0, why);
        (this.spot.metric, this.spot.server) = (Some(metric), Some(place.server));
        this.spot.part = Some(place.part);
        this
    }
}

impl Spot {
    #[cfg(test)]
    fn covers(&self, place: Place, metric: i64) -> bool {
        let fits = |mine: Option<i64>, asked: i64| mine.is_none_or(|mine| mine == asked);
        fits(self.t0, place.t0)
            && fits(self.metric, metric)
            && self.server.is_none_or(|server| server == place.server)
            && self.part.is_none_or(|part| part == place.part)
    }

    fn is_of_all(&self, t0: i64) -> bool {
        (self.t0, self.metric, self.server) == (Some(t0), None, None)
    }

    fn is_whole_file(&self) -> bool {
        (self.t0, self.metric, self.server, self.part) == (None, None, None, None)
    }
}

/// What is known of a damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where and what.
    pub damage: Damage,
    /// When it was found.
    pub since: UnixMillis,
}

/// A change that is not in the table yet.
#[derive(Clone, Debug)]
enum Change {
    Add(Entry),
    Clear(Spot),
}

/// The list; shared by readers and the writer.
#[derive(Debug)]
pub struct Quarantine {
    /// Whether there is any: what readers ask most.
    any: AtomicBool,
    known: RwLock<Known>,
    stats: Arc<SelfStats>,
}

#[derive(Debug, Default)]
struct Known {
    entries: BTreeMap<Spot, Entry>,
    /// What the writer has yet to file, in order.
    unfiled: Vec<Change>,
    /// Whether it was said that the list is full.
    is_full: bool,
}

impl Quarantine {
    /// Reads the list.
    pub(super) fn load(conn: &Connection, stats: Arc<SelfStats>) -> rusqlite::Result<Self> {
        let mut query = conn.prepare(
            "SELECT file, t0, metric, server_id, part, at, why FROM quarantine ORDER BY id LIMIT ?1",
        )?;
        let rows = query.query_map([PLACES_MAX as i64], |row| {
            let spot = Spot {
                file: row.get(0)?,
                t0: row.get(1)?,
                metric: row.get(2)?,
                server: row.get::<_, Option<i64>>(3)?.map(ServerId),
                part: row.get(4)?,
            };
            let damage = Damage { spot, why: row.get(6)? };
            Ok(Entry { damage, since: UnixMillis(row.get(5)?) })
        })?;
        let mut known = Known::default();
        for entry in rows {
            let entry = entry?;
            known.entries.insert(entry.damage.spot.clone(), entry);
        }
        let any = AtomicBool::new(!known.entries.is_empty());
        Ok(Self { any, known: RwLock::new(known), stats })
    }

    /// Whether the whole file is not to be read.
    pub(crate) fn has_file(&self, file: &Path) -> bool {
        self.finds(file, Spot::is_whole_file)
    }

    /// Whether a row, or what it is in, is not to be read. `metric` as in [`Damage::at`].
    #[cfg(test)]
    pub(crate) fn has(&self, file: &Path, place: Place, metric: i64) -> bool {
        self.finds(file, |spot| spot.covers(place, metric))
    }

    /// Whether something of an hour is missing for all servers.
    pub(crate) fn lacks(&self, file: &Path, t0: i64) -> bool {
        self.finds(file, |spot| spot.is_of_all(t0))
    }

    fn finds(&self, file: &Path, is: impl Fn(&Spot) -> bool) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let first = Damage::file(file, "").spot;
        let of_file = known.entries.range(&first..).take_while(|(spot, _)| spot.file == first.file);
        of_file.into_iter().any(|(spot, _)| is(spot))
    }

    /// Takes a damaged place out of service; true when it was not known. Never waits for the disk.
    pub(crate) fn report(&self, damage: Damage) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.entries.contains_key(&damage.spot) {
            return false;
        }
        // Told with the file that was put aside, for all servers at once.
        let is_told = |spot: &Spot| {
            spot.file == damage.spot.file && damage.spot.t0.is_some_and(|t0| spot.is_of_all(t0))
        };
        if damage.why == blocks::IS_LOST && known.entries.keys().any(is_told) {
            return false;
        }
        if known.entries.len() >= PLACES_MAX {
            if !std::mem::replace(&mut known.is_full, true) {
                self.stats.blocks_damaged.one();
                let file = damage.spot.file;
                tracing::error!(file, n_known = PLACES_MAX, "more damage than is listed");
            }
            return false;
        }
        let entry = Entry { damage, since: clock::now() };
        let Damage { spot, why } = &entry.damage;
        let server_id = spot.server.map(|server| server.0);
        tracing::error!(
            file = spot.file,
            hour = spot.t0,
            metric = spot.metric,
            server_id,
            part = spot.part,
            why,
            "history is damaged: this part is not served, the rest is; put the file back from a backup"
        );
        self.stats.blocks_damaged.one();
        known.unfiled.push(Change::Add(entry.clone()));
        known.entries.insert(entry.damage.spot.clone(), entry);
        self.any.store(true, Ordering::Release);
        true
    }

    /// Another file took the place of `file`, which was told already: what was listed of it goes, and `damages`
    /// stand for what is missing. Each file among them counts.
    pub(crate) fn replaced(&self, file: &Path, damages: Vec<Damage>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let file = file.to_string_lossy();
        let stale: Vec<Spot> =
            known.entries.keys().filter(|spot| spot.file == file).cloned().collect();
        for spot in stale {
            known.entries.remove(&spot);
            known.unfiled.push(Change::Clear(spot));
        }
        for damage in damages {
            let spot = damage.spot.clone();
            if known.entries.len() >= PLACES_MAX || known.entries.contains_key(&spot) {
                continue;
            }
            if spot.is_whole_file() {
                self.stats.blocks_damaged.one();
            }
            let entry = Entry { damage, since: clock::now() };
            known.unfiled.push(Change::Add(entry.clone()));
            known.entries.insert(spot, entry);
        }
        self.any.store(!known.entries.is_empty(), Ordering::Release);
    }

    /// Serves a place again that was found sound; true when it was listed.
    pub(crate) fn clear(&self, spot: &Spot) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.entries.remove(spot).is_none() {
            return false;
        }
        known.unfiled.push(Change::Clear(spot.clone()));
        known.is_full = false;
        self.any.store(!known.entries.is_empty(), Ordering::Release);
        let (file, hour) = (&spot.file, spot.t0);
        tracing::info!(file, hour, "history that was damaged is sound again, or was taken away");
        true
    }

    /// What is out of service, by file and place.
    pub fn list(&self) -> Vec<Entry> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.entries.values().cloned().collect()
    }

    /// How many places are out of service.
    pub fn n(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).entries.len()
    }

    /// How many changes the table does not have yet.
    pub(super) fn n_unfiled(&self) -> usize {
        self.known.read().unwrap_or_else(PoisonError::into_inner).unfiled.len()
    }

    /// Writes the first `n` changes; said to be filed by [`Quarantine::filed`] after the commit.
    pub(super) fn file_changes(&self, tx: &Transaction<'_>, n: usize) -> rusqlite::Result<()> {
        if n == 0 {
            return Ok(());
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let changes: Vec<Change> = known.unfiled.iter().take(n).cloned().collect();
        drop(known);
        for change in changes {
            match change {
                Change::Add(entry) => add(tx, &entry)?,
                Change::Clear(spot) => {
                    clear(tx, &spot)?;
                    sum_up_again(tx, &spot)?;
                }
            }
        }
        Ok(())
    }

    /// The first `n` changes are committed.
    pub(super) fn filed(&self, n: usize) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.unfiled.drain(..n);
    }
}

/// Names for people: of the server, and of the metric or what else it is.
pub fn names(conn: &Connection, spot: &Spot) -> rusqlite::Result<(Option<String>, Option<String>)> {
    let one = |select: &str, id: i64| -> rusqlite::Result<String> {
        let found = conn.prepare_cached(select)?.query_row([id], |row| row.get::<_, String>(0));
        Ok(found.optional()?.unwrap_or_else(|| id.to_string()))
    };
    let server = spot.server.map(|id| one("SELECT name FROM server WHERE server_id = ?1", id.0));
    let metric = match spot.metric {
        Some(COUNTS) => Some(Ok("counts".to_owned())),
        Some(EVENTS) => Some(Ok("events".to_owned())),
        Some(PRESENCE) => Some(Ok("list".to_owned())),
        Some(id) => {
            Some(one("SELECT trim(name || ' ' || attribute) FROM metric WHERE metric = ?1", id))
        }
        None => None,
    };
    Ok((server.transpose()?, metric.transpose()?))
}

/// UNIQUE does not see that two NULLs are the same.
fn add(tx: &Transaction<'_>, entry: &Entry) -> rusqlite::Result<()> {
    let Damage { spot, why } = &entry.damage;
    tx.prepare_cached(
        "INSERT INTO quarantine(file, t0, metric, server_id, part, at, why)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM quarantine
         WHERE file = ?1 AND t0 IS ?2 AND metric IS ?3 AND server_id IS ?4 AND part IS ?5)",
    )?
    .execute(params![
        spot.file,
        spot.t0,
        spot.metric,
        spot.server.map(|server| server.0),
        spot.part,
        entry.since.0,
        why
    ])?;
    Ok(())
}

fn clear(tx: &Transaction<'_>, spot: &Spot) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "DELETE FROM quarantine
         WHERE file = ?1 AND t0 IS ?2 AND metric IS ?3 AND server_id IS ?4 AND part IS ?5",
    )?
    .execute(params![
        spot.file,
        spot.t0,
        spot.metric,
        spot.server.map(|server| server.0),
        spot.part
    ])?;
    Ok(())
}

/// What was damaged in a day file while its day was summed up is missing in the month file.
fn sum_up_again(tx: &Transaction<'_>, spot: &Spot) -> rusqlite::Result<()> {
    let name = spot.file.strip_prefix("blocks/").and_then(Day::of_file_name);
    let Some(day) = name else { return Ok(()) };
    let (from, to) = match spot.t0 {
        Some(t0) => (t0, t0.saturating_add(HOUR_S)),
        None => (day.first_second(), day.end_second()),
    };
    tx.prepare_cached("UPDATE sealed SET rolled = 0 WHERE t0 >= ?1 AND t0 < ?2")?
        .execute([from, to])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const PLACE: Place = Place { t0: 3600, server: ServerId(7), part: 1 };

    fn file() -> &'static Path {
        Path::new("blocks/19700101.db")
    }

    #[tokio::test]
    async fn damage_is_counted_once_filed_once_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(!store.quarantine().has(file(), PLACE, 3));
        for (why, is_new) in [("its checksum does not fit", true), ("read again", false)] {
            assert_eq!(store.quarantine().report(Damage::at(file(), PLACE, 3, why)), is_new);
        }
        store
            .quarantine()
            .report(Damage::file(Path::new("rollup/197001.db"), "it is no month file"));
        assert_eq!(store.stats().blocks_damaged.get(), 2);
        store.close().await.unwrap();
        drop(store);

        let store = Store::open(dir.path()).unwrap();
        let known = store.quarantine();
        assert_eq!(known.list().len(), 2);
        assert_eq!(known.list()[0].damage.why, "its checksum does not fit");
        assert!(known.has(file(), PLACE, 3));
        for (place, metric) in [
            (PLACE, 4),
            (PLACE, COUNTS),
            (Place { part: 0, ..PLACE }, 3),
            (Place { server: ServerId(8), ..PLACE }, 3),
        ] {
            assert!(!known.has(file(), place, metric), "{place:?} {metric} is served");
        }
        assert!(known.has_file(Path::new("rollup/197001.db")) && !known.has_file(file()));
        assert!(!known.report(Damage::at(file(), PLACE, 3, "again")), "told once in its life");
        let first = known.list()[0].damage.spot.clone();
        assert!(known.clear(&first) && !known.clear(&first));
        assert!(!known.has(file(), PLACE, 3));
        store.close().await.unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.quarantine().n(), 1);
    }

    #[tokio::test]
    async fn an_hour_or_a_file_hides_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let known = store.quarantine();
        known.report(Damage::hour(file(), 3600, "its index is damaged"));
        assert!(known.has(file(), PLACE, 3) && known.has(file(), PLACE, EVENTS));
        assert!(!known.has(file(), Place { t0: 7200, ..PLACE }, 3) && !known.has_file(file()));
        known.report(Damage::file(file(), "it is no database"));
        assert!(known.has(file(), Place { t0: 7200, ..PLACE }, 3) && known.has_file(file()));
    }

    #[tokio::test]
    async fn a_file_that_is_damaged_everywhere_does_not_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for metric in 0..PLACES_MAX as i64 + 50 {
            store.quarantine().report(Damage::at(file(), PLACE, metric, "damaged"));
        }
        assert_eq!(store.quarantine().n(), PLACES_MAX);
        assert_eq!(store.stats().blocks_damaged.get(), PLACES_MAX as u64 + 1);
    }
}
