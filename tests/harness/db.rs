//! Reads the collector's database as it is on disk: what is here was committed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use rusqlite::{Connection, OpenFlags};
use wire::catalog;
use wire::v1::BatchBody;

/// Requests by (site, status); derived counters are statuses from 1000 on.
pub type Counts = BTreeMap<(String, u32), u64>;

/// Gateway errors by (site, status, signal).
pub type Signals = BTreeMap<(String, u32, Option<&'static str>), u64>;

/// One value that an agent measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When, milliseconds since the epoch.
    pub at: i64,
    /// Name in the catalog.
    pub metric: String,
    /// `""` or `key=value`.
    pub attribute: String,
    /// In the metric's unit.
    pub value: f64,
}

/// The lock of a database; given back in `Drop`.
#[derive(Debug)]
pub struct Held {
    _db: Connection,
}

/// A handle on `gatewatch.db`; each question opens it anew, read-only.
#[derive(Clone, Debug)]
pub struct Db {
    path: PathBuf,
    is_far: bool,
}

impl Db {
    /// The database at `path`, which need not exist yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), is_far: false }
    }

    /// The database at `path` as the process `pid` sees it, in a mount namespace of its own.
    #[must_use]
    pub fn inside(pid: u32, path: &Path) -> Self {
        Self { path: format!("/proc/{pid}/root{}", path.display()).into(), is_far: true }
    }

    /// When something happened to the collector itself last, on its clock, in ms: `started`, ...
    pub fn collector_event_ms(&self, event: &str) -> Result<i64, String> {
        let db = self.open()?;
        let select = "SELECT max(ts) FROM event WHERE server_id IS NULL AND body = ?1";
        let at = db.query_row(select, [format!("{event:?}")], |row| row.get::<_, Option<i64>>(0));
        at.map_err(|e| e.to_string())?.ok_or_else(|| format!("no {event} is filed"))
    }

    /// Every batch body of a server, oldest first.
    pub fn bodies(&self, server: &str) -> Result<Vec<BatchBody>, String> {
        Ok(self.packed(server)?.into_iter().map(|(_, body)| body).collect())
    }

    /// When each of them came, on the collector's clock, in ms.
    pub fn arrivals(&self, server: &str) -> Result<Vec<i64>, String> {
        let db = self.open()?;
        let mut select = db
            .prepare(
                "SELECT at FROM hot JOIN server USING (server_id) WHERE name = ?1 ORDER BY hot.id",
            )
            .map_err(|e| e.to_string())?;
        let rows = select.query_map([server], |row| row.get(0)).map_err(|e| e.to_string())?;
        rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
    }

    /// The same as [`Db::bodies`], each with its bytes as it came.
    pub fn packed(&self, server: &str) -> Result<Vec<(usize, BatchBody)>, String> {
        let db = self.open()?;
        let mut select = db
            .prepare(
                "SELECT codec & 255, body FROM hot JOIN server USING (server_id) WHERE name = ?1 \
                 ORDER BY hot.id",
            )
            .map_err(|e| e.to_string())?;
        let rows = select
            .query_map([server], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, Vec<u8>>(1)?)))
            .map_err(|e| e.to_string())?;
        let mut bodies = Vec::new();
        for row in rows {
            let (codec, body) = row.map_err(|e| e.to_string())?;
            let dictionary = match codec {
                wire::CODEC_ZSTD_BODY => &[],
                wire::CODEC_ZSTD_DICTIONARY => wire::dictionary(),
                _ => panic!("unreadable: {:?}", String::from_utf8(body)),
            };
            let raw = zstd::bulk::Decompressor::with_dictionary(dictionary)
                .and_then(|mut opening| opening.decompress(&body, wire::BODY_UNPACKED_BYTES_MAX))
                .map_err(|e| format!("a stored body does not unpack: {e}"))?;
            let unpacked =
                BatchBody::decode(&*raw).map_err(|e| format!("a stored body is no body: {e}"))?;
            bodies.push((body.len(), unpacked));
        }
        Ok(bodies)
    }

    /// Every value of these metrics of a server, in the order they were measured.
    pub fn samples(&self, server: &str, metrics: &[&str]) -> Result<Vec<Sample>, String> {
        let mut samples = Vec::new();
        for body in self.bodies(server)? {
            for tick in &body.ticks {
                for (ix, scaled) in tick.series.iter().zip(&tick.value) {
                    let series = &body.series[*ix as usize];
                    if !metrics.contains(&series.metric.as_str()) {
                        continue;
                    }
                    let row = catalog::find(&series.metric).ok_or("not in the catalog")?;
                    samples.push(Sample {
                        at: tick.at_unix_ms,
                        metric: series.metric.clone(),
                        attribute: series.attribute.clone(),
                        value: row.from_wire(*scaled).ok_or("out of range")?,
                    });
                }
            }
        }
        samples.sort_by_key(|sample| sample.at);
        Ok(samples)
    }

    /// Hours that are sealed, and parts of hours that were sealed after them because they came late.
    pub fn sealed(&self) -> Result<(i64, i64), String> {
        let db = self.open()?;
        let sums = "SELECT count(*), coalesce(sum(max(parts - 1, 0)), 0) FROM sealed";
        db.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|e| e.to_string())
    }

    /// Requests of a server by site and status; empty while nothing is stored.
    #[must_use]
    pub fn counts(&self, server: &str) -> Counts {
        self.counts_of(server, i64::MIN..=i64::MAX)
    }

    /// The same of some seconds of event time.
    #[must_use]
    pub fn counts_of(&self, server: &str, of_s: RangeInclusive<i64>) -> Counts {
        let mut counts = Counts::new();
        for body in self.bodies(server).unwrap_or_default() {
            for second in body.seconds.iter().filter(|second| of_s.contains(&second.second)) {
                let site = &body.sites[second.site as usize].name;
                for (status, n) in second.status.iter().zip(&second.count) {
                    *counts.entry((site.clone(), *status)).or_default() += u64::from(*n);
                }
            }
        }
        counts
    }

    /// Requests of a server with their HTTP status; derived counters left out.
    #[must_use]
    pub fn requests(&self, server: &str) -> Counts {
        let mut counts = self.counts(server);
        counts.retain(|(_, status), _| *status < 1000);
        counts
    }

    /// All requests of a server.
    #[must_use]
    pub fn n_requests(&self, server: &str) -> u64 {
        self.requests(server).values().sum()
    }

    /// Requests of a server with one status, or one derived counter.
    #[must_use]
    pub fn n_status(&self, server: &str, status: u32) -> u64 {
        let counts = self.counts(server);
        counts.iter().filter(|((_, s), _)| *s == status).map(|(_, n)| n).sum()
    }

    /// Gateway errors of a server that were kept whole, by site, status and signal; `None`: nothing
    /// explains them.
    #[must_use]
    pub fn signals(&self, server: &str) -> Signals {
        let mut signals = Signals::new();
        for body in self.bodies(server).unwrap_or_default() {
            for exemplar in &body.exemplars {
                let site = &body.sites[exemplar.site as usize].name;
                let signal = exemplar.signal().name();
                *signals.entry((site.clone(), exemplar.status, signal)).or_default() += 1;
            }
        }
        signals
    }

    /// Names of the sites in the newest inventory of a server; empty while there is none.
    #[must_use]
    pub fn inventory(&self, server: &str) -> Vec<String> {
        let bodies = self.bodies(server).unwrap_or_default();
        let newest = bodies.into_iter().rev().find_map(|body| body.inventory).unwrap_or_default();
        let mut names: Vec<_> = newest.sites.into_iter().map(|site| site.name).collect();
        names.sort();
        names
    }

    /// The loss ledger of a server as the collector sums it.
    #[must_use]
    pub fn loss(&self, server: &str) -> BTreeMap<String, i64> {
        let read = || -> Result<BTreeMap<String, i64>, String> {
            let db = self.open()?;
            let mut select = db
                .prepare("SELECT k, n FROM loss JOIN server USING (server_id) WHERE name = ?1")
                .map_err(|e| e.to_string())?;
            let rows = select.query_map([server], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.map_err(|e| e.to_string())?
                .collect::<Result<_, _>>()
                .map_err(|e: rusqlite::Error| e.to_string())
        };
        read().unwrap_or_default()
    }

    /// Rows the collector wrote because batches are gone for good; healthy: 0.
    pub fn n_gaps(&self) -> Result<i64, String> {
        let db = self.open()?;
        db.query_row("SELECT count(*) FROM gap", [], |row| row.get(0)).map_err(|e| e.to_string())
    }

    /// When the newest batch came that the detector has judged, on the collector's clock, in ms.
    pub fn judged_until(&self) -> Result<i64, String> {
        let db = self.open()?;
        let newest =
            "SELECT max(at) FROM hot WHERE id <= (SELECT v FROM state WHERE k = 'detect_upto')";
        let at = db.query_row(newest, [], |row| row.get::<_, Option<i64>>(0));
        at.map_err(|e| e.to_string())?.ok_or_else(|| "nothing is judged yet".to_owned())
    }

    /// Hours in a time, in seconds, that are packed.
    pub fn n_sealed(&self, of: Range<i64>) -> Result<i64, String> {
        let select = "SELECT count(*) FROM sealed WHERE t0 >= ?1 AND t0 < ?2";
        let n = self.open()?.query_row(select, [of.start, of.end], |row| row.get(0));
        n.map_err(|e| e.to_string())
    }

    /// Stored batches whose newest event is older than this, in ms.
    pub fn n_hot_until(&self, at_ms: i64) -> Result<i64, String> {
        let select = "SELECT count(*) FROM hot WHERE t_max < ?1";
        let n = self.open()?.query_row(select, [at_ms], |row| row.get(0));
        n.map_err(|e| e.to_string())
    }

    /// Messages that receivers have not taken yet, and pages that no route was asked about.
    pub fn n_owed(&self) -> Result<i64, String> {
        let db = self.open()?;
        db.query_row(
            "SELECT (SELECT count(*) FROM page) + (SELECT count(*) FROM outbox)",
            [],
            |row| row.get(0),
        )
        .map_err(|e| e.to_string())
    }

    /// Messages of a route that were put into the outbox and not superseded, by delivery.
    pub fn decided(&self, route: &str) -> Result<BTreeSet<String>, String> {
        let db = self.open()?;
        let select = "SELECT delivery FROM notice WHERE route = ?1 AND what = 'owed'
                      EXCEPT SELECT delivery FROM notice WHERE what = 'superseded'";
        let mut select = db.prepare(select).map_err(|e| e.to_string())?;
        let rows = select.query_map([route], |row| row.get(0)).map_err(|e| e.to_string())?;
        rows.collect::<Result<_, _>>().map_err(|e| e.to_string())
    }

    /// Holds the lock for writing, as a program that hangs would.
    #[must_use]
    pub fn hold(&self) -> Held {
        let db = Connection::open(&self.path).expect("the database is there");
        db.busy_timeout(Duration::from_secs(30)).expect("it is a number");
        db.execute_batch("BEGIN IMMEDIATE").expect("the collector lets go of the lock");
        Held { _db: db }
    }

    fn open(&self) -> Result<Connection, String> {
        if self.is_far {
            return self.open_copy();
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&self.path, flags)
            .map_err(|e| format!("{}: {e}", self.path.display()))?;
        db.busy_timeout(Duration::from_secs(5)).map_err(|e| e.to_string())?;
        Ok(db)
    }

    /// SQLite resolves the links of /proc and would look into our own mounts, so it gets a copy.
    fn open_copy(&self) -> Result<Connection, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let copy = dir.path().join("gatewatch.db");
        for tail in ["", "-wal"] {
            let from = format!("{}{tail}", self.path.display());
            let to = format!("{}{tail}", copy.display());
            std::fs::copy(&from, to).map_err(|e| format!("{from}: {e}"))?;
        }
        // Open files outlive their directory.
        let db = Connection::open(&copy).map_err(|e| e.to_string())?;
        db.query_row("SELECT count(*) FROM hot", [], |_| Ok(())).map_err(|e| e.to_string())?;
        Ok(db)
    }
}
