//! Old rows of `gatewatch.db`, incidents for want of space, and the pages they leave.

use std::time::Duration;

use rusqlite::{Connection, Result, params};
use wire::UnixMillis;

use super::{PAGES_MAX, ROWS_MAX, step};
use crate::store::StoreError;
use crate::store::keeper::Keeper;

/// Tables that grow with time: name, key, and which rows are older than `?1` (ms), at most `?2`.
const OLD: [(&str, &str, &str); 5] = [
    // In the order of their ids, which is nearly that of time: no look at the whole table.
    (
        "gap",
        "rowid",
        "SELECT rowid FROM (SELECT rowid, at FROM gap ORDER BY rowid LIMIT ?2) WHERE at < ?1",
    ),
    ("event", "id", "SELECT id FROM event WHERE ts < ?1 ORDER BY ts LIMIT ?2"),
    (
        "notice",
        "id",
        "SELECT id FROM notice WHERE at < ?1 AND (incident IS NULL OR NOT EXISTS (
           SELECT 1 FROM incident WHERE incident.id = notice.incident AND closed IS NULL))
         ORDER BY at LIMIT ?2",
    ),
    (
        "silence",
        "id",
        "SELECT id FROM silence WHERE max(ends, coalesce(ended_at, 0)) < ?1 LIMIT ?2",
    ),
    ("certificate", "serial", "SELECT serial FROM certificate WHERE not_after < ?1 LIMIT ?2"),
];

/// Resolved incidents that one pass drops at most.
const INCIDENTS_MAX: usize = 50;
/// An incident resolved so lately may open again under its id.
const LATELY: Duration = Duration::from_secs(86_400);
/// Free pages that stay for what comes, of a database that is not too large: 4 MiB, or a quarter.
const SPARE_PAGES: u64 = 1024;

/// What belongs to an incident, by the key of its table.
const PARTS: [(&str, &str); 4] = [
    ("incident_note", "id"),
    ("incident_site", "incident, site_id, since"),
    ("incident_server", "incident, server_id"),
    ("notice", "id"),
];

/// Deletes rows older than `[retention] rollup`.
pub(super) async fn drop_old(keeper: &Keeper, now: UnixMillis) -> Result<(), StoreError> {
    let before = now.minus(keeper.retention.rollup.0);
    for (table, key, select) in OLD {
        let any = format!("SELECT EXISTS ({select})");
        let delete = format!("DELETE FROM {table} WHERE {key} IN ({select})");
        loop {
            let (any, delete) = (any.clone(), delete.clone());
            let args = params_of(before);
            let is_due = keeper.store.read(move |conn| {
                conn.prepare_cached(&any)?.query_row(args, |row| row.get::<_, bool>(0))
            });
            if !is_due.await? || keeper.stop.is_cancelled() {
                break;
            }
            let n = step(keeper, move |tx| tx.prepare_cached(&delete)?.execute(args)).await?;
            keeper.store.stats().rows_dropped.add(n as u64);
            if n < ROWS_MAX {
                break;
            }
        }
    }
    Ok(())
}

fn params_of(before: UnixMillis) -> [i64; 2] {
    [before.0, ROWS_MAX as i64]
}

/// Drops the incidents resolved longest ago that nobody is to be told of any more.
pub(super) async fn drop_incidents(
    keeper: &Keeper,
    now: UnixMillis,
    why: &'static str,
) -> Result<(), StoreError> {
    let before = now.minus(LATELY);
    let old = move |conn: &Connection| {
        let mut query = conn.prepare_cached(
            "SELECT id FROM incident WHERE closed < ?1
             AND NOT EXISTS (SELECT 1 FROM page WHERE page.incident = incident.id)
             AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.incident = incident.id)
             AND NOT EXISTS (SELECT 1 FROM told WHERE told.incident = incident.id)
             AND NOT EXISTS (SELECT 1 FROM held WHERE held.incident = incident.id)
             ORDER BY closed, id LIMIT ?2",
        )?;
        let rows = query.query_map(params![before.0, INCIDENTS_MAX as i64], |row| row.get(0))?;
        rows.collect::<Result<Vec<String>>>()
    };
    for id in keeper.store.read(old).await? {
        let mut room = ROWS_MAX;
        while room == ROWS_MAX {
            let id = id.clone();
            room = step(keeper, move |tx| drop_incident(tx, &id)).await?;
            if keeper.stop.is_cancelled() {
                return Ok(());
            }
        }
        keeper.store.stats().incidents_dropped.one();
        tracing::warn!(incident = id, why, "a resolved incident left early");
    }
    Ok(())
}

/// Deletes at most [`ROWS_MAX`] rows of an incident, itself last; returns how many.
fn drop_incident(tx: &Connection, id: &str) -> Result<usize> {
    let mut n = 0;
    for (table, key) in PARTS {
        let delete = format!(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE incident = ?1 LIMIT ?2)"
        );
        n += tx.prepare_cached(&delete)?.execute(params![id, (ROWS_MAX - n) as i64])?;
    }
    if n < ROWS_MAX {
        tx.prepare_cached("DELETE FROM incident WHERE id = ?1 AND closed IS NOT NULL")?
            .execute([id])?;
    }
    Ok(n)
}

/// Gives free pages back to the file system: `all` of them, or those beyond what is soon used again.
pub(super) async fn give_back(keeper: &Keeper, all: bool) -> Result<(), StoreError> {
    let (mode, mut n_free, n_pages) = keeper.store.read(pages).await?;
    if mode != super::super::open::INCREMENTAL {
        return Ok(());
    }
    let spare = if all { 0 } else { SPARE_PAGES.max(n_pages / 4) };
    while n_free > spare && !keeper.stop.is_cancelled() {
        let n = PAGES_MAX.min(n_free - spare);
        step(keeper, move |tx| vacuum(tx, n)).await?;
        n_free -= n;
    }
    Ok(())
}

fn pages(conn: &Connection) -> Result<(i64, u64, u64)> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (mode, n_free) = (pragma("auto_vacuum")?, pragma("freelist_count")?);
    Ok((mode, n_free.unsigned_abs(), pragma("page_count")?.unsigned_abs()))
}

/// Moves the last pages of the file to free ones and cuts it, at most `n_pages`.
fn vacuum(tx: &Connection, n_pages: u64) -> Result<()> {
    // It does one page a step and gives no rows.
    let mut query = tx.prepare(&format!("PRAGMA incremental_vacuum({n_pages})"))?;
    let mut rows = query.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
