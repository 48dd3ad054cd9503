//! What the stages after the store read of it: committed batches and sites.

use rusqlite::{CachedStatement, Connection, Result};
use wire::UnixMillis;

use super::guard::{self, Numbers};
use super::hot::Head;
use super::{HotRow, SiteRow};
use crate::model::{ServerId, SiteId};

/// Batches after position `after`, in order of commit: at most `n_max`, at most about `bytes_max`. What is
/// damaged but for its body is left out: nothing that it says is true.
pub fn hot_after(
    conn: &Connection,
    after: i64,
    n_max: usize,
    bytes_max: usize,
) -> Result<Vec<HotRow>> {
    let query = format!("SELECT {}, body FROM hot WHERE id > ?1 ORDER BY id", guard::COLUMNS);
    let mut query = conn.prepare_cached(&query)?;
    let mut rows = query.query([after])?;
    let (mut found, mut n_bytes) = (Vec::new(), 0);
    while found.len() < n_max && n_bytes < bytes_max {
        let Some(row) = rows.next()? else { break };
        let Some(Numbers { head, epoch, seq, complete_until, codec }) = Numbers::read(row) else {
            continue;
        };
        let Head { id, server, at, t_min, t_max } = head;
        let body = body(row)?.to_vec();
        n_bytes += body.len();
        found.push(HotRow {
            id,
            server,
            epoch,
            seq,
            at,
            t_min,
            t_max,
            complete_until,
            codec,
            body,
        });
    }
    Ok(found)
}

/// The body of a row of `hot`, behind its numbers; empty where a flipped bit made something else of it.
pub(super) fn body<'r>(row: &'r rusqlite::Row<'_>) -> Result<&'r [u8]> {
    Ok(row.get_ref(guard::N_COLUMNS)?.as_blob().unwrap_or_default())
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
    let mut query = conn.prepare_cached(&from_id())?;
    Ok(next_sound(&mut query, i64::MIN)?.map(|head| head.at))
}

/// All rows of `hot` from an id on.
fn from_id() -> String {
    format!("SELECT {} FROM hot WHERE id >= ?1 ORDER BY id", guard::COLUMNS)
}

/// The first of them that is not damaged.
fn next_sound(query: &mut CachedStatement<'_>, from: i64) -> Result<Option<Head>> {
    let mut rows = query.query([from])?;
    while let Some(row) = rows.next()? {
        if let Some(numbers) = Numbers::read(row) {
            return Ok(Some(numbers.head));
        }
    }
    Ok(None)
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
    let mut next = conn.prepare_cached(&from_id())?;
    // Every batch before `low` arrived too early; the one at `high`, or behind the end, did not.
    high += 1;
    while low < high {
        let middle = low + (high - low) / 2;
        match next_sound(&mut next, middle)? {
            Some(head) if head.at < at => low = head.id + 1,
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
        conn.execute_batch(
            "CREATE TABLE hot(id INTEGER PRIMARY KEY, server_id INTEGER DEFAULT 1, epoch INTEGER DEFAULT 1,
               seq INTEGER DEFAULT 1, at INTEGER, t_min INTEGER DEFAULT 0, t_max INTEGER DEFAULT 0,
               complete_until INTEGER DEFAULT 0, codec INTEGER DEFAULT 0)",
        )
        .unwrap();
        assert_eq!(first_after(&conn, UnixMillis(5)).unwrap(), 0, "nothing is stored");
        assert_eq!(position_near(&conn, UnixMillis(5)).unwrap(), -1);
        for (id, at) in [(7, 100), (8, 200), (5000, 200), (5001, 300)] {
            conn.execute("INSERT INTO hot(id, at) VALUES (?1, ?2)", [id, at]).unwrap();
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
