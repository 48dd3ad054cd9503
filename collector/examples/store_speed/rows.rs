//! The same values as plain rows of SQLite: one a value, with the index that reads of a series need.

use std::path::{Path, PathBuf};

use gatewatch_collector::clock;
use rusqlite::{Connection, OpenFlags, params};
use serde_json::{Value, json};

use crate::Words;
use crate::agents::Failed;
use crate::cost::disk_bytes;
use crate::day::Days;

/// Servers that are told, and the share of the samples that their value is not below.
const N_TOP: usize = 10;
const P95: f64 = 0.95;

/// Writes days of a fleet, a transaction for each instant.
pub(crate) fn fill(path: &Path, days: Days) -> Result<Value, Failed> {
    let mut conn = Connection::open(path)?;
    conn.execute_batch(
        "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         PRAGMA cache_size=-65536;
         CREATE TABLE sample(server INTEGER NOT NULL, metric INTEGER NOT NULL,
           at INTEGER NOT NULL, value INTEGER NOT NULL);
         CREATE INDEX sample_of ON sample(server, metric, at);",
    )?;
    let mut machines = days.machines();
    let began = clock::instant();
    for hour in 0..days.n_hours {
        for seconds in days.batches(hour) {
            let tx = conn.transaction()?;
            for (server, machine) in machines.iter_mut().enumerate() {
                for second in &seconds {
                    let row = machine.sample(*second);
                    let mut insert =
                        tx.prepare_cached("INSERT INTO sample VALUES (?1, ?2, ?3, ?4)")?;
                    for (metric, value) in row.iter().take(days.n_series).enumerate() {
                        insert.execute(params![server as i64, metric as i64, second, value])?;
                    }
                }
            }
            tx.commit()?;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(conn);
    Ok(json!({"n_values": days.n_values(), "seconds": seconds, "bytes": disk_bytes(path)}))
}

/// One series, or the servers that stand out; with the time it took from the opening on.
pub(crate) fn read(words: &Words, is_top: bool) -> Result<Value, Failed> {
    let path: PathBuf = words.get("path")?;
    let metric: i64 = words.get("metric")?;
    let (from, to): (i64, i64) = (words.get("from")?, words.get("to")?);
    let servers = if is_top { 0..words.get("servers")? } else { one(words.get("server")?) };
    let began = clock::instant();
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut query = conn.prepare(
        "SELECT value FROM sample WHERE server = ?1 AND metric = ?2 AND at >= ?3 AND at < ?4",
    )?;
    let (mut n, mut ranked) = (0, Vec::new());
    for server in servers {
        let rows = query.query_map(params![server, metric, from, to], |row| row.get(0))?;
        let mut values: Vec<i64> = rows.collect::<Result<_, _>>()?;
        n += values.len();
        let at = (values.len() as f64 * P95) as usize;
        if is_top && at < values.len() {
            let (_, p95, _) = values.select_nth_unstable(at);
            ranked.push((*p95, server));
        }
    }
    ranked.sort_by_key(|(value, _)| std::cmp::Reverse(*value));
    ranked.truncate(N_TOP);
    let ms = began.elapsed().as_secs_f64() * 1000.0;
    Ok(json!({"n": n, "ms": ms, "top": ranked}))
}

fn one(server: i64) -> std::ops::Range<i64> {
    server..server + 1
}
