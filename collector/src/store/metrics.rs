//! The catalog of series: the id under which day and month files keep a metric with one attribute.
//!
//! Ids are given by the writer when a series is sealed first, and never given twice. A metric whose scale
//! a later release changes gets new ids, so that old values keep the scale they were written with.
//! Bounds: so many new series of one server in each hour that is sealed and on each day of the collector, so
//! many series in all; what has left every file by age makes room again.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension as _, Result, Transaction, params};
use wire::catalog::Metric;

use crate::model::ServerId;

/// Most series in all: 200 MB of the database when full. Further ones are refused and counted.
const SERIES_MAX: u64 = 1_000_000;
/// Most series of one server and hour that had no id before; the rest has its turn in the next hour.
const SERIES_NEW_MAX: usize = 1024;
/// Most series without an id that one server may bring on a day of the collector, whatever hours and parts
/// they are in: five times what a server has that comes with disks and pools nobody else has. Who lies needs
/// more than a year to fill the catalog, and is the only one who is refused until then.
const SERIES_DAY_MAX: usize = 2000;
/// Ids remembered by one pass; forgotten all at once beyond it, and looked up again.
const KNOWN_MAX: usize = 100_000;

/// A series as the catalog has it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesRow {
    /// Its id in day and month files.
    pub id: i64,
    /// Name of its metric.
    pub name: String,
    /// Its attribute, `key=value`, or empty.
    pub attribute: String,
    /// What is stored is the value times this, rounded.
    pub scale: f64,
    /// Unit of the value.
    pub unit: String,
}

fn series_row(row: &rusqlite::Row<'_>) -> Result<SeriesRow> {
    Ok(SeriesRow {
        id: row.get(0)?,
        name: row.get(1)?,
        attribute: row.get(2)?,
        scale: row.get::<_, i64>(3)? as f64,
        unit: row.get(4)?,
    })
}

/// Every series of one metric, by attribute: those of all servers. Rarely two of one attribute: the
/// metric's scale was changed by a release then, and each has its own.
pub fn series_of(conn: &Connection, name: &str, n_max: usize) -> Result<Vec<SeriesRow>> {
    let mut query = conn.prepare_cached(
        "SELECT metric, name, attribute, scale, unit FROM metric WHERE name = ?1
         ORDER BY attribute, metric LIMIT ?2",
    )?;
    let n_max = i64::try_from(n_max).unwrap_or(i64::MAX);
    query.query_map(params![name, n_max], series_row)?.collect()
}

/// The ids of one metric with one attribute.
pub fn series_ids(conn: &Connection, name: &str, attribute: &str) -> Result<Vec<SeriesRow>> {
    let mut query = conn.prepare_cached(
        "SELECT metric, name, attribute, scale, unit FROM metric WHERE name = ?1 AND attribute = ?2
         ORDER BY metric",
    )?;
    query.query_map(params![name, attribute], series_row)?.collect()
}

/// The series with this id; `None` when there is none, or it left by age.
pub fn series_by_id(conn: &Connection, id: i64) -> Result<Option<SeriesRow>> {
    let query = "SELECT metric, name, attribute, scale, unit FROM metric WHERE metric = ?1";
    conn.prepare_cached(query)?.query_row([id], series_row).optional()
}

/// A series that is to be sealed: a metric of the catalog of the wire and an attribute.
pub(super) type Wanted = (&'static Metric, String);

/// Ids one pass of sealing has met.
#[derive(Debug, Default)]
pub(super) struct Ids {
    known: HashMap<&'static str, HashMap<String, i64>>,
    n_known: usize,
    /// Those whose `used` is older than the day that is sealed.
    stale: BTreeSet<i64>,
}

impl Ids {
    /// The id of a series that was met or is in the database; `None` when it has none yet.
    pub(super) fn find(
        &mut self,
        conn: &Connection,
        (metric, attribute): (&'static Metric, &str),
        day: i64,
    ) -> Result<Option<i64>> {
        let known = self.known.get(metric.name).and_then(|known| known.get(attribute));
        if let Some(id) = known {
            return Ok(Some(*id));
        }
        let mut query = conn.prepare_cached(
            "SELECT metric, used FROM metric WHERE name = ?1 AND attribute = ?2 AND scale = ?3",
        )?;
        let key = params![metric.name, attribute, metric.scale as i64];
        let found: Option<(i64, i64)> =
            query.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((id, used)) = found else { return Ok(None) };
        if used < day {
            self.stale.insert(id);
        }
        self.remember(metric.name, attribute, id);
        Ok(Some(id))
    }

    fn remember(&mut self, name: &'static str, attribute: &str, id: i64) {
        if self.n_known >= KNOWN_MAX {
            self.known.clear();
            self.n_known = 0;
        }
        self.n_known += 1;
        self.known.entry(name).or_default().insert(attribute.to_owned(), id);
    }

    /// Takes up to `n_max` ids whose last use is to be written.
    pub(super) fn take_stale(&mut self, n_max: usize) -> Vec<i64> {
        (0..n_max).map_while(|_| self.stale.pop_first()).collect()
    }
}

/// How full the catalog is, kept in memory: whoever changes it says so.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Series in all; `None`: they are to be counted.
    n: Option<u64>,
    /// The day of the collector, and what each server brought on it that was new.
    today: i64,
    brought: HashMap<ServerId, usize>,
}

impl Catalog {
    /// How many new series of a server are taken now. Counts the table at most once after a start or a
    /// failure, on the caller's connection.
    pub(super) fn room(
        &mut self,
        conn: &Connection,
        server: ServerId,
        today: i64,
    ) -> Result<usize> {
        let n = match self.n {
            Some(n) => n,
            None => conn
                .query_row("SELECT count(*) FROM metric", [], |row| row.get(0))
                .map(i64::cast_unsigned)?,
        };
        self.n = Some(n);
        if self.today != today {
            (self.today, self.brought) = (today, HashMap::new());
        }
        let left = SERIES_MAX.saturating_sub(n).min(SERIES_NEW_MAX as u64) as usize;
        let brought = self.brought.get(&server).copied().unwrap_or(0);
        Ok(left.min(SERIES_DAY_MAX.saturating_sub(brought)))
    }

    /// A server brings so many new ones.
    pub(super) fn asked(&mut self, server: ServerId, n: usize) {
        *self.brought.entry(server).or_default() += n;
    }

    /// The table has so many more; `None`: that is not known.
    pub(super) fn changed(&mut self, by: Option<isize>) {
        let n = self.n.zip(by);
        self.n = n.map(|(n, by)| n.saturating_add_signed(by as i64));
    }
}

/// Gives ids to series; returns to how many. For the writer; `day` is the first second of the day they are
/// used on.
pub(super) fn add(tx: &Transaction<'_>, wanted: &[Wanted], day: i64) -> Result<usize> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO metric(name, attribute, scale, unit, used) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?;
    let mut n = 0;
    for (metric, attribute) in wanted {
        let scale = metric.scale as i64;
        n += insert.execute(params![metric.name, attribute, scale, metric.unit, day])?;
    }
    Ok(n)
}

/// Notes that series were used on a day.
pub(super) fn used(tx: &Transaction<'_>, ids: &[i64], day: i64) -> Result<()> {
    let mut update =
        tx.prepare_cached("UPDATE metric SET used = ?2 WHERE metric = ?1 AND used < ?2")?;
    for id in ids {
        update.execute([*id, day])?;
    }
    Ok(())
}

/// Drops up to `n_max` series without a sample since `day`: no file holds them any more. Returns how many.
pub(super) fn drop_unused(tx: &Transaction<'_>, day: i64, n_max: usize) -> Result<usize> {
    tx.prepare_cached(
        "DELETE FROM metric WHERE metric IN (SELECT metric FROM metric WHERE used < ?1 LIMIT ?2)",
    )?
    .execute(params![day, i64::try_from(n_max).unwrap_or(i64::MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use wire::catalog;

    fn wanted(attribute: &str) -> Wanted {
        (catalog::find("system.filesystem.utilization").unwrap(), attribute.to_owned())
    }

    #[test]
    fn how_full_the_catalog_is_is_counted_once_and_each_server_has_its_share() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute("CREATE TABLE metric(metric INTEGER PRIMARY KEY)", []).unwrap();
        let (mut catalog, liar, honest) = (Catalog::default(), ServerId(1), ServerId(2));
        assert_eq!(catalog.room(&conn, liar, 5).unwrap(), SERIES_NEW_MAX);
        // Nobody asks the table any more.
        conn.execute("DROP TABLE metric", []).unwrap();
        catalog.asked(liar, SERIES_NEW_MAX);
        assert_eq!(catalog.room(&conn, liar, 5).unwrap(), SERIES_DAY_MAX - SERIES_NEW_MAX);
        catalog.asked(liar, SERIES_DAY_MAX - SERIES_NEW_MAX);
        assert_eq!(catalog.room(&conn, liar, 5).unwrap(), 0);
        assert_eq!(catalog.room(&conn, honest, 5).unwrap(), SERIES_NEW_MAX);
        assert_eq!(catalog.room(&conn, liar, 6).unwrap(), SERIES_NEW_MAX, "another day");
        catalog.changed(Some(SERIES_MAX as isize - 10));
        assert_eq!(catalog.room(&conn, honest, 6).unwrap(), 10);
        catalog.changed(Some(-5));
        assert_eq!(catalog.room(&conn, honest, 6).unwrap(), 15);
        catalog.changed(None);
        assert!(catalog.room(&conn, honest, 6).is_err(), "it is counted again");
    }

    #[tokio::test]
    async fn series_get_ids_that_stay_and_are_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let day = 1_795_132_800;
        let both = vec![wanted("a=/"), wanted("a=/var")];
        for _ in 0..2 {
            let both = both.clone();
            store.write(move |tx| add(tx, &both, day)).await.unwrap();
        }
        let name = "system.filesystem.utilization";
        let rows = store.read(move |conn| series_of(conn, name, 10)).await.unwrap();
        let ids: Vec<(i64, &str)> =
            rows.iter().map(|row| (row.id, row.attribute.as_str())).collect();
        assert_eq!(ids, [(1, "a=/"), (2, "a=/var")]);
        assert_eq!((rows[0].scale, rows[0].unit.as_str()), (10_000.0, "1"));

        let later = day + 86_400;
        let found = store.read(move |conn| {
            let (mut ids, metric) = (Ids::default(), wanted("").0);
            assert_eq!(ids.find(conn, (metric, "a=/"), later)?, Some(1));
            assert_eq!(ids.find(conn, (metric, "a=/"), later)?, Some(1), "out of memory");
            assert_eq!(ids.find(conn, (metric, "a=/home"), later)?, None);
            Ok(ids.take_stale(10))
        });
        assert_eq!(found.await.unwrap(), [1]);
        store.write(move |tx| used(tx, &[1], later)).await.unwrap();
        assert_eq!(store.write(move |tx| drop_unused(tx, later, 10)).await.unwrap(), 1);
        let again = vec![wanted("a=/var")];
        store.write(move |tx| add(tx, &again, later)).await.unwrap();
        let row = store.read(move |conn| series_ids(conn, name, "a=/var")).await.unwrap();
        assert!(row[0].id > 2, "2 names what left");
        assert_eq!(store.read(|conn| series_by_id(conn, 2)).await.unwrap(), None);
    }
}
