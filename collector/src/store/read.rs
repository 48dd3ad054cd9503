//! What the stages after the store read of it: committed batches and sites.

use rusqlite::{Connection, Result, params};
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
        let row = HotRow {
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
        };
        n_bytes += row.body.len();
        found.push(row);
        if n_bytes >= bytes_max {
            break;
        }
    }
    Ok(found)
}

/// Every site of one server, by name.
pub fn sites(conn: &Connection, server: ServerId) -> Result<Vec<SiteRow>> {
    let mut query = conn.prepare_cached(
        "SELECT site_id, host, pool, upstream FROM site WHERE server_id = ?1 ORDER BY host",
    )?;
    let rows = query.query_map([server.0], |row| {
        Ok(SiteRow {
            site: SiteId(row.get(0)?),
            server,
            name: row.get(1)?,
            pool: row.get(2)?,
            upstream: row.get(3)?,
        })
    })?;
    rows.collect()
}

/// Shows `see` codec and body of every stored batch of one server with events in `from..to`.
///
/// Cost: scans the table; batches of other servers are skipped without reading their bodies.
pub fn hot_of(
    conn: &Connection,
    server: ServerId,
    from: UnixMillis,
    to: UnixMillis,
    see: &mut dyn FnMut(u32, &[u8]),
) -> Result<()> {
    // A batch's range is in milliseconds, its counts in seconds: a second's slack on both sides.
    let mut query = conn.prepare_cached(
        "SELECT codec, body FROM hot WHERE server_id = ?1 AND t_max >= ?2 AND t_min < ?3 ORDER BY id",
    )?;
    let (from, to) = (from.0.saturating_sub(1000), to.0.saturating_add(1000));
    let mut rows = query.query(params![server.0, from, to])?;
    while let Some(row) = rows.next()? {
        let body = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        see(row.get(0)?, body);
    }
    Ok(())
}
