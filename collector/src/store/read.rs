//! What the stages after the store read of it: committed batches and sites.

use rusqlite::{Connection, OptionalExtension as _, Result, params};
use wire::UnixMillis;

use super::{HotRow, SiteRow};
use crate::model::{ServerId, SiteId};

/// Batches after position `after`, in order of commit: at most `n_max`, at most about `bytes_max`.
pub fn hot_after(
    conn: &Connection,
    after: i64,
    n_max: usize,
    bytes_max: usize,
) -> Result<Vec<HotRow>> {
    let mut query = conn.prepare_cached(
        "SELECT id, server_id, epoch, seq, at, t_min, t_max, complete_until, codec, body
         FROM hot WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut rows = query.query(params![after, i64::try_from(n_max).unwrap_or(i64::MAX)])?;
    let (mut found, mut n_bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let row = hot_row(row)?;
        n_bytes += row.body.len();
        found.push(row);
        if n_bytes >= bytes_max {
            break;
        }
    }
    Ok(found)
}

/// A row of `hot`, its columns in the order of the table.
pub(super) fn hot_row(row: &rusqlite::Row<'_>) -> Result<HotRow> {
    Ok(HotRow {
        id: row.get(0)?,
        server: ServerId(row.get(1)?),
        epoch: row.get::<_, i64>(2)?.cast_unsigned(),
        seq: row.get::<_, i64>(3)?.cast_unsigned(),
        at: UnixMillis(row.get(4)?),
        t_min: UnixMillis(row.get(5)?),
        t_max: UnixMillis(row.get(6)?),
        complete_until: UnixMillis(row.get(7)?),
        codec: row.get(8)?,
        body: row.get(9)?,
    })
}

/// Ids and names of all servers, by id.
pub fn server_names(conn: &Connection) -> Result<Vec<(ServerId, String)>> {
    let mut query = conn.prepare_cached("SELECT server_id, name FROM server ORDER BY server_id")?;
    query.query_map([], |row| Ok((ServerId(row.get(0)?), row.get(1)?)))?.collect()
}

/// Saved pasts of one server's sites.
pub fn baselines(conn: &Connection, server: ServerId) -> Result<Vec<(SiteId, Vec<u8>)>> {
    let mut query = conn.prepare_cached(
        "SELECT site_id, body FROM baseline JOIN site USING (site_id) WHERE server_id = ?1",
    )?;
    query.query_map([server.0], |row| Ok((SiteId(row.get(0)?), row.get(1)?)))?.collect()
}

/// Arrival of the oldest batch that is kept.
pub fn oldest_arrival(conn: &Connection) -> Result<Option<UnixMillis>> {
    let first = "SELECT at FROM hot ORDER BY id LIMIT 1";
    conn.query_row(first, [], |row| Ok(UnixMillis(row.get(0)?))).optional()
}

/// A position before every batch that arrived at or after `at`, and close to the first of them.
pub fn position_near(conn: &Connection, at: UnixMillis) -> Result<i64> {
    /// How far the order of ids and that of arrivals may differ, ms.
    const SLACK_MS: i64 = 60_000;
    Ok(first_after(conn, UnixMillis(at.0.saturating_sub(SLACK_MS)))? - 1)
}

/// Every site of one server, by name.
pub fn sites(conn: &Connection, server: ServerId) -> Result<Vec<SiteRow>> {
    let mut query = conn.prepare_cached(
        "SELECT site_id, host, pool, upstream, owner, since FROM site WHERE server_id = ?1 ORDER BY host",
    )?;
    let rows = query.query_map([server.0], |row| {
        Ok(SiteRow {
            site: SiteId(row.get(0)?),
            server,
            name: row.get(1)?,
            pool: row.get(2)?,
            upstream: row.get(3)?,
            owner: row.get(4)?,
            since: row.get::<_, Option<i64>>(5)?.map(UnixMillis),
        })
    })?;
    rows.collect()
}

/// The first batch that came at `at` or later, by halving the range of ids: batches are stored nearly
/// in order of arrival, so it takes no index and no walk over the table. Where the collector's clock
/// was set back it may be a later one, and batches that came before are left out: good enough to
/// read by, never to decide what is packed or deleted.
pub fn first_after(conn: &Connection, at: UnixMillis) -> Result<i64> {
    let ends = "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM hot";
    let (mut low, mut high): (i64, i64) =
        conn.query_row(ends, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut next =
        conn.prepare_cached("SELECT id, at FROM hot WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    // Every batch before `low` arrived too early; the one at `high`, or behind the end, did not.
    high += 1;
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, i64)> =
            next.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((id, came)) if came < at.0 => low = id + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_batch_after_an_instant_is_found_over_gaps_in_the_ids() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute("CREATE TABLE hot(id INTEGER PRIMARY KEY, at INTEGER)", []).unwrap();
        assert_eq!(first_after(&conn, UnixMillis(5)).unwrap(), 0, "nothing is stored");
        assert_eq!(position_near(&conn, UnixMillis(5)).unwrap(), -1);
        for (id, at) in [(7, 100), (8, 200), (5000, 200), (5001, 300)] {
            conn.execute("INSERT INTO hot VALUES (?1, ?2)", [id, at]).unwrap();
        }
        for (at, before, first) in
            [(0, 6, 7), (100, 6, 7), (101, 7, 8), (200, 7, 8), (201, 5000, 5001), (301, 5001, 5002)]
        {
            let found = first_after(&conn, UnixMillis(at)).unwrap();
            // No batch is too early, and none that is due is left out.
            assert!(found > before && found <= first, "{at}: {found}");
        }
        assert_eq!(position_near(&conn, UnixMillis(60_150)).unwrap(), 7);
    }
}
