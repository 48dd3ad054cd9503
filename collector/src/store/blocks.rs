//! Day files: sealed history of one UTC day, one row for an hour of one metric of one server.
//!
//! `blocks/YYYYMMDD.db`, SQLite in WAL mode. `hour` has a row for each part that is whole: its rows are never
//! written again. `presence` says what a part has of a server, and of which batches it is made: a batch is in
//! one part of an hour only, also when the database that counts parts is older than the file. A part is what
//! was sealed at once: 0 with the hour, later ones for what came late. Samples of the higher part win, counts
//! of all parts add up.
//!
//! Every body has a CRC-32C over its key and itself, checked at each read: most flipped bits of a column
//! decode to wrong numbers without an error.

use std::fs;
use std::path::Path;

use prost::Message as _;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};
use wire::v1::BatchBody;

use super::columns::{self, put_varint, take_varint};
use super::hours::Day;
use crate::model::{ServerId, SiteId};
pub(crate) use body::{COUNTS_MAX, Cover, Encoded};
use body::{Kind, crc, take_ticks, unpack_counts};
pub(crate) use error::BlockError;
use write::{put_columns, put_rest};

mod body;
mod error;
mod lost;
mod write;

/// `application_id` of day files: "gwbl".
const APPLICATION_ID: i64 = 0x6777_626c;
/// `user_version`: format of the tables.
pub(in crate::store) const FORMAT: i64 = 1;
/// What a part has of a server beside columns: bits of `presence.has`.
const HAS_COUNTS: i64 = 1;
const HAS_EVENTS: i64 = 2;
/// Stands in `hour.n_servers` for a part that was in a file that is damaged.
const LOST: i64 = -1;
/// What reads say of such a part.
pub(crate) const IS_LOST: &str = "it was in a file that is damaged";
/// Most bytes of events of one server and hour, unpacked.
pub(crate) const EVENTS_BYTES_MAX: usize = 16 << 20;

const PRAGMAS: &str = "
PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=0; PRAGMA cache_size=-8192;
PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;";

const READER_PRAGMAS: &str = "
PRAGMA query_only=ON; PRAGMA busy_timeout=5000; PRAGMA cache_size=-2048; PRAGMA temp_store=MEMORY;
PRAGMA trusted_schema=OFF;";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS file(day TEXT PRIMARY KEY) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS hour(t0 INTEGER NOT NULL, part INTEGER NOT NULL, n_servers INTEGER NOT NULL,
  crc INTEGER NOT NULL, servers BLOB NOT NULL, PRIMARY KEY(t0, part)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS block(t0 INTEGER NOT NULL, metric INTEGER NOT NULL, server_id INTEGER NOT NULL,
  part INTEGER NOT NULL, n INTEGER NOT NULL, codec INTEGER NOT NULL, vmin INTEGER NOT NULL,
  vmax INTEGER NOT NULL, vsum INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY(t0, metric, server_id, part)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS presence(t0 INTEGER NOT NULL, server_id INTEGER NOT NULL, part INTEGER NOT NULL,
  has INTEGER NOT NULL, crc INTEGER NOT NULL, metrics BLOB NOT NULL, batches_crc INTEGER NOT NULL, batches BLOB NOT NULL,
  PRIMARY KEY(t0, server_id, part)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS site_block(t0 INTEGER NOT NULL, server_id INTEGER NOT NULL, part INTEGER NOT NULL,
  n INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY(t0, server_id, part)) WITHOUT ROWID, STRICT;
CREATE TABLE IF NOT EXISTS event_block(t0 INTEGER NOT NULL, server_id INTEGER NOT NULL, part INTEGER NOT NULL,
  n INTEGER NOT NULL, crc INTEGER NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY(t0, server_id, part)) WITHOUT ROWID, STRICT;";

/// Samples of one metric of one server in one hour, by time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Column {
    /// Id in the catalog of metrics.
    pub(crate) metric: i64,
    /// Seconds of the hour, 0..3600, rising.
    pub(crate) at: Vec<u16>,
    /// Value times the metric's scale; one for each of `at`.
    pub(crate) values: Vec<i64>,
}

/// Requests of one site with one status, or one derived counter, in one tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SiteCount {
    /// Whose.
    pub(crate) site: SiteId,
    /// Status as logged, below 1000, or a derived counter from 1000; at most 1023.
    pub(crate) status: u16,
    /// Second of the hour at which the tick begins, 0..3600.
    pub(crate) second: u16,
    /// How many.
    pub(crate) n: u64,
}

/// What one part holds of one server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerHour {
    /// Samples, by metric; none is empty.
    pub(crate) columns: Vec<Column>,
    /// Counts, in order, none twice.
    pub(crate) counts: Vec<SiteCount>,
    /// Exemplars, states, lines, changes and losses, with the sites they name; nothing else is in it.
    pub(crate) events: BatchBody,
}

/// What is known of a column without its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) n: u64,
    pub(crate) min: i64,
    pub(crate) max: i64,
    /// Capped at the ends of `i64`.
    pub(crate) sum: i64,
}

impl Column {
    /// Count, extremes and sum; of an empty column all zero.
    pub(crate) fn summary(&self) -> Summary {
        let sum: i128 = self.values.iter().map(|value| i128::from(*value)).sum();
        Summary {
            n: self.values.len() as u64,
            min: self.values.iter().copied().min().unwrap_or(0),
            max: self.values.iter().copied().max().unwrap_or(0),
            sum: sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64,
        }
    }
}

/// A day file, open.
#[derive(Debug)]
pub(crate) struct DayFile {
    conn: Connection,
    day: Day,
}

/// A place in a day file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The hour.
    pub(crate) t0: i64,
    pub(crate) server: ServerId,
    pub(crate) part: u32,
}

impl DayFile {
    /// Opens the file to write, and makes it where it is missing. For the one thread that seals.
    pub(crate) fn create(dir: &Path, day: Day) -> Result<Self, BlockError> {
        let path = dir.join(day.file());
        let folder = path.parent().unwrap_or(dir);
        let file = |error| BlockError::File(folder.to_owned(), error);
        if !folder.try_exists().map_err(file)? {
            crate::files::create_private_dir(folder).map_err(file)?;
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(file)?;
        }
        let is_new = !path.try_exists().map_err(file)?;
        let conn = Connection::open(&path)?;
        conn.execute_batch(PRAGMAS)?;
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found == 0 {
            let tx = conn.unchecked_transaction()?;
            tx.execute_batch(TABLES)?;
            tx.execute("INSERT OR IGNORE INTO file(day) VALUES(?1)", [name(day)])?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", FORMAT)?;
            tx.commit()?;
        }
        if is_new {
            fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(file)?;
        }
        let this = Self { conn, day };
        this.check()?;
        Ok(this)
    }

    /// Opens the file to read; `None` when it is not there, or when the power failed before it was made.
    pub(crate) fn open(dir: &Path, day: Day) -> Result<Option<Self>, BlockError> {
        let path = dir.join(day.file());
        // A folder that cannot be looked into says nothing of what is in it.
        let exists =
            |at: &Path| at.try_exists().map_err(|error| BlockError::File(at.to_owned(), error));
        if !exists(&path)? {
            return Ok(None);
        }
        let mut journal = path.clone().into_os_string();
        journal.push("-journal");
        if exists(Path::new(&journal))? {
            // Left by a crash while the file was made; who only reads cannot roll it back.
            Connection::open(&path)?
                .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags)?;
        conn.execute_batch(READER_PRAGMAS)?;
        let n_tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if n_tables == 0 {
            return Ok(None);
        }
        Self::of(conn, day).map(Some)
    }

    /// Takes a connection that is to be one of the file of this day.
    pub(crate) fn of(conn: Connection, day: Day) -> Result<Self, BlockError> {
        let this = Self { conn, day };
        this.check()?;
        Ok(this)
    }

    fn check(&self) -> Result<(), BlockError> {
        let pragma = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (kind, format) = (pragma("application_id")?, pragma("user_version")?);
        if kind != APPLICATION_ID {
            return Err(BlockError::Bad("it is no day file".into()));
        }
        if format != FORMAT {
            return Err(BlockError::Bad(format!("format {format} is not known to this release")));
        }
        let found: Option<String> =
            self.conn.query_row("SELECT day FROM file", [], |row| row.get(0)).optional()?;
        match found {
            Some(found) if found == name(self.day) => Ok(()),
            Some(found) => Err(BlockError::Bad(format!("it is the file of {found}"))),
            None => Err(BlockError::Bad("it does not say of which day it is".into())),
        }
    }

    /// Writes hours of servers in one transaction; what the same part had of them is replaced. Returns
    /// the bytes of their bodies.
    #[cfg(test)]
    pub(crate) fn put(&mut self, hours: &[(Place, ServerHour)]) -> Result<u64, BlockError> {
        let encode = |(place, hour): &(Place, ServerHour)| Encoded::new(*place, hour, &Vec::new());
        let encoded: Vec<Encoded> = hours.iter().map(encode).collect();
        self.put_encoded(&encoded)
    }

    /// The same of hours that are packed already. Rows of columns go in by metric first, which is the order
    /// of their table.
    pub(crate) fn put_encoded(&mut self, hours: &[Encoded]) -> Result<u64, BlockError> {
        let tx = self.conn.transaction()?;
        put_columns(&tx, hours)?;
        for hour in hours {
            put_rest(&tx, hour)?;
        }
        tx.commit()?;
        Ok(hours.iter().map(Encoded::n_bytes).sum())
    }

    /// Which batches a whole part is made of, of one server.
    pub(crate) fn cover(&self, place: Place) -> Result<Cover, BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT batches_crc, batches FROM presence
             WHERE t0 = ?1 AND server_id = ?2 AND part = ?3",
        )?;
        let mut rows = query.query(params![place.t0, place.server.0, place.part])?;
        let Some(row) = rows.next()? else { return Ok(Vec::new()) };
        let body = blob(row, 1)?;
        check_crc(row.get(0)?, crc(Kind::Cover, place, 0, &[], body))?;
        body::take_cover(body).ok_or_else(|| bad("the list of batches is wrong"))
    }

    /// Empties the log beside the file and closes it: what is sealed is one file.
    pub(crate) fn close(self) -> Result<(), BlockError> {
        self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")?;
        self.conn.close().map_err(|(_, error)| error.into())
    }

    /// Notes that a part of an hour is whole.
    pub(crate) fn finish(&mut self, t0: i64, part: u32, n_servers: u64) -> Result<(), BlockError> {
        let tx = self.conn.transaction()?;
        let mut servers = Vec::new();
        {
            let mut query = tx.prepare_cached(
                "SELECT server_id FROM presence WHERE t0 = ?1 AND part = ?2 ORDER BY server_id",
            )?;
            let mut last = 0;
            for server in query.query_map(params![t0, part], |row| row.get::<_, i64>(0))? {
                let server = server?;
                put_varint(&mut servers, server.wrapping_sub(last).cast_unsigned());
                last = server;
            }
        }
        let n = n_servers.cast_signed();
        let crc = crc(Kind::Hour, Place { t0, server: ServerId(0), part }, 0, &[n], &servers);
        tx.execute(
            "INSERT OR REPLACE INTO hour(t0, part, n_servers, crc, servers) VALUES(?1, ?2, ?3, ?4, ?5)",
            params![t0, part, n, crc, servers],
        )?;
        Ok(tx.commit()?)
    }

    /// How many whole parts the file has of an hour, from 0 without a gap; lost ones among them.
    pub(crate) fn parts(&self, t0: i64) -> Result<u32, BlockError> {
        let mut query =
            self.conn.prepare_cached("SELECT part FROM hour WHERE t0 = ?1 ORDER BY part")?;
        let found: Vec<u32> = query.query_map([t0], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(found.iter().zip(0..).take_while(|(part, ix)| *part == ix).count() as u32)
    }

    /// Fails where the file has fewer whole parts of an hour than were written.
    pub(crate) fn check_parts(&self, t0: i64, written: u32) -> Result<(), BlockError> {
        let found = self.parts(t0)?;
        if found >= written {
            return Ok(());
        }
        Err(BlockError::Bad(format!(
            "it has {found} parts of the hour, the database says {written}: it is an older copy, or was \
             changed"
        )))
    }

    /// One column; `None` when the part has none.
    pub(crate) fn column(&self, place: Place, metric: i64) -> Result<Option<Column>, BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT metric, server_id, part, n, codec, vmin, vmax, vsum, crc, body FROM block
             WHERE t0 = ?1 AND metric = ?2 AND server_id = ?3 AND part = ?4",
        )?;
        let mut rows = query.query(params![place.t0, metric, place.server.0, place.part])?;
        match rows.next()? {
            Some(row) => Raw::read(place.t0, row)?.column().map(Some),
            None if self.metrics(place)?.contains(&metric) => Err(bad("a column is missing")),
            None => Ok(None),
        }
    }

    /// Shows `see` every column of one metric in one hour, by server and part, as it lies there: `see`
    /// decides whether it needs the values. Ends when `see` says false.
    pub(crate) fn columns_of(
        &self,
        t0: i64,
        metric: i64,
        see: &mut dyn FnMut(Raw<'_>) -> bool,
    ) -> Result<(), BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT metric, server_id, part, n, codec, vmin, vmax, vsum, crc, body FROM block
             WHERE t0 = ?1 AND metric = ?2 ORDER BY server_id, part",
        )?;
        let mut rows = query.query(params![t0, metric])?;
        while let Some(row) = rows.next()? {
            if !see(Raw::read(t0, row)?) {
                break;
            }
        }
        Ok(())
    }

    /// The same of the servers in `from..=to`.
    pub(crate) fn columns_in(
        &self,
        t0: i64,
        metric: i64,
        (from, to): (ServerId, ServerId),
        see: &mut dyn FnMut(Raw<'_>) -> bool,
    ) -> Result<(), BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT metric, server_id, part, n, codec, vmin, vmax, vsum, crc, body FROM block
             WHERE t0 = ?1 AND metric = ?2 AND server_id BETWEEN ?3 AND ?4
             ORDER BY server_id, part",
        )?;
        let mut rows = query.query(params![t0, metric, from.0, to.0])?;
        while let Some(row) = rows.next()? {
            if !see(Raw::read(t0, row)?) {
                break;
            }
        }
        Ok(())
    }

    /// Every metric an hour has a column of, rising. Costs a look-up each.
    pub(crate) fn metrics_of_hour(&self, t0: i64) -> Result<Vec<i64>, BlockError> {
        let mut query = self
            .conn
            .prepare_cached("SELECT min(metric) FROM block WHERE t0 = ?1 AND metric > ?2")?;
        let (mut metrics, mut last) = (Vec::new(), i64::MIN);
        while let Some(metric) =
            query.query_row(params![t0, last], |row| row.get::<_, Option<i64>>(0))?
        {
            metrics.push(metric);
            last = metric;
        }
        Ok(metrics)
    }

    /// Servers of which a part holds anything, in order; none while it is not whole.
    pub(crate) fn servers(&self, t0: i64, part: u32) -> Result<Vec<ServerId>, BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT n_servers, crc, servers FROM hour WHERE t0 = ?1 AND part = ?2",
        )?;
        let mut rows = query.query(params![t0, part])?;
        let Some(row) = rows.next()? else { return Ok(Vec::new()) };
        let (n, body): (i64, &[u8]) = (row.get(0)?, blob(row, 2)?);
        let place = Place { t0, server: ServerId(0), part };
        check_crc(row.get(1)?, crc(Kind::Hour, place, 0, &[n], body))?;
        if n == LOST {
            return Err(bad(IS_LOST));
        }
        let servers = take_rising(body).ok_or_else(|| bad("the list of servers is wrong"))?;
        Ok(servers.into_iter().map(ServerId).collect())
    }

    /// Which of [`HAS_COUNTS`] and [`HAS_EVENTS`] a part has of a server, and the metrics it has samples
    /// of. Keys are not in any checksum, so a row that a damaged page hides is told from one that never
    /// was by the list of the servers of its part.
    fn presence(&self, place: Place) -> Result<(i64, Vec<i64>), BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT crc, metrics, has FROM presence WHERE t0 = ?1 AND server_id = ?2 AND part = ?3",
        )?;
        let mut rows = query.query(params![place.t0, place.server.0, place.part])?;
        let Some(row) = rows.next()? else {
            let is_hidden =
                self.servers(place.t0, place.part)?.binary_search(&place.server).is_ok();
            return if is_hidden { Err(bad("a server is missing")) } else { Ok((0, Vec::new())) };
        };
        let (body, has) = (blob(row, 1)?, row.get(2)?);
        check_crc(row.get(0)?, crc(Kind::Presence, place, 0, &[has], body))?;
        let metrics = take_rising(body).ok_or_else(|| bad("the list of metrics is wrong"))?;
        Ok((has, metrics))
    }

    /// Metrics a part has samples of, rising.
    pub(crate) fn metrics(&self, place: Place) -> Result<Vec<i64>, BlockError> {
        Ok(self.presence(place)?.1)
    }

    /// Fails where a row that is not found should be there.
    fn check_absent(&self, place: Place, what: i64) -> Result<(), BlockError> {
        if self.presence(place)?.0 & what == 0 { Ok(()) } else { Err(bad("a row is missing")) }
    }

    /// Counts of the sites of one server, in order.
    pub(crate) fn counts(&self, place: Place) -> Result<Vec<SiteCount>, BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT n, crc, body FROM site_block WHERE t0 = ?1 AND server_id = ?2 AND part = ?3",
        )?;
        let mut rows = query.query(params![place.t0, place.server.0, place.part])?;
        let Some(row) = rows.next()? else {
            return self.check_absent(place, HAS_COUNTS).map(|()| Vec::new());
        };
        let (n, body): (i64, &[u8]) = (row.get(0)?, blob(row, 2)?);
        check_crc(row.get(1)?, crc(Kind::Counts, place, 0, &[n], body))?;
        unpack_counts(usize::try_from(n).unwrap_or(usize::MAX), body)
    }

    /// Events of one server; empty when there are none.
    pub(crate) fn events(&self, place: Place) -> Result<BatchBody, BlockError> {
        let mut query = self.conn.prepare_cached(
            "SELECT n, crc, body FROM event_block WHERE t0 = ?1 AND server_id = ?2 AND part = ?3",
        )?;
        let mut rows = query.query(params![place.t0, place.server.0, place.part])?;
        let Some(row) = rows.next()? else {
            return self.check_absent(place, HAS_EVENTS).map(|()| BatchBody::default());
        };
        let (n, body): (i64, &[u8]) = (row.get(0)?, blob(row, 2)?);
        check_crc(row.get(1)?, crc(Kind::Events, place, 0, &[n], body))?;
        let plain = zstd::bulk::decompress(body, EVENTS_BYTES_MAX).map_err(|_| bad("events"))?;
        BatchBody::decode(plain.as_slice()).map_err(|error| BlockError::Bad(error.to_string()))
    }

    /// Everything a part holds of one server.
    #[cfg(test)]
    pub(crate) fn server_hour(&self, place: Place) -> Result<ServerHour, BlockError> {
        let mut hour = ServerHour {
            columns: Vec::new(),
            counts: self.counts(place)?,
            events: self.events(place)?,
        };
        for metric in self.metrics(place)? {
            let column = self.column(place, metric)?;
            hour.columns.push(column.ok_or_else(|| bad("a column is missing"))?);
        }
        Ok(hour)
    }

    /// The connection, for checks of the whole file.
    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }
}

/// A row of `block`, not decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) place: Place,
    pub(crate) metric: i64,
    /// Not to be believed before [`Raw::check`].
    pub(crate) summary: Summary,
    codec: u8,
    crc: i64,
    body: &'a [u8],
}

impl<'a> Raw<'a> {
    fn read(t0: i64, row: &'a rusqlite::Row<'_>) -> Result<Self, BlockError> {
        let place = Place { t0, server: ServerId(row.get(1)?), part: row.get(2)? };
        let summary = Summary {
            n: row.get::<_, i64>(3)?.cast_unsigned(),
            min: row.get(5)?,
            max: row.get(6)?,
            sum: row.get(7)?,
        };
        let (metric, codec, crc) = (row.get(0)?, row.get(4)?, row.get(8)?);
        Ok(Self { place, metric, summary, codec, crc, body: blob(row, 9)? })
    }

    /// Whether the row is what was written.
    pub(crate) fn check(&self) -> Result<(), BlockError> {
        let Summary { n, min, max, sum } = self.summary;
        let numbers = [n.cast_signed(), i64::from(self.codec), min, max, sum];
        check_crc(self.crc, crc(Kind::Column, self.place, self.metric, &numbers, self.body))
    }

    /// Checks and decodes it.
    pub(crate) fn column(&self) -> Result<Column, BlockError> {
        self.check()?;
        let n = usize::try_from(self.summary.n).unwrap_or(usize::MAX);
        let mut rest = self.body;
        let at = take_ticks(&mut rest, n).ok_or_else(|| bad("the ticks of a column"))?;
        let values = columns::unpack(self.codec, rest, n)
            .map_err(|error| BlockError::Bad(error.to_string()))?;
        Ok(Column { metric: self.metric, at, values })
    }
}

/// Numbers as their steps, each a varint; `None` where it is no such list.
fn take_rising(mut from: &[u8]) -> Option<Vec<i64>> {
    let (mut last, mut numbers) = (0_i64, Vec::new());
    while !from.is_empty() {
        last = last.checked_add(i64::try_from(take_varint(&mut from)?).ok()?)?;
        numbers.push(last);
    }
    Some(numbers)
}

pub(super) fn check_crc(stored: i64, computed: i64) -> Result<(), BlockError> {
    if stored == computed { Ok(()) } else { Err(bad("its checksum does not fit")) }
}

pub(super) fn bad(why: &str) -> BlockError {
    BlockError::Bad(why.to_owned())
}

pub(super) fn blob<'a>(row: &'a rusqlite::Row<'_>, ix: usize) -> Result<&'a [u8], BlockError> {
    Ok(row.get_ref(ix)?.as_blob().map_err(rusqlite::Error::from)?)
}

fn name(day: Day) -> String {
    day.file().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
#[path = "blocks/tests.rs"]
mod tests;
