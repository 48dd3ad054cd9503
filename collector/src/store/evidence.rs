//! What an evidence bundle is made of: the order in which servers were hit, and the batches of a time.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use wire::UnixMillis;

use super::HotRow;
use crate::model::ServerId;

/// When a server was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onset {
    /// Its id.
    pub server: ServerId,
    /// Its name then, or now.
    pub name: String,
    /// Its first sign.
    pub since: UnixMillis,
    /// When it was well again.
    pub until: Option<UnixMillis>,
}

/// The servers of an incident and of those merged into it, in the order they were hit.
pub fn onsets(conn: &Connection, ids: &[String]) -> rusqlite::Result<Vec<Onset>> {
    // A site that fails on has no end, so neither has its server.
    let mut query = conn.prepare_cached(
        "SELECT server_id, name, min(since), iif(count(*) = count(until), max(until), NULL) FROM (
           SELECT t.server_id AS server_id, s.name AS name, i.since AS since, i.until AS until
             FROM incident_site i JOIN site t USING(site_id) JOIN server s USING(server_id)
             WHERE i.incident = ?1
           UNION ALL
           SELECT server_id, name, since, until FROM incident_server WHERE incident = ?1)
         GROUP BY server_id",
    )?;
    let mut found: Vec<Onset> = Vec::new();
    for id in ids {
        let rows = query.query_map([id], |row| {
            Ok(Onset {
                server: ServerId(row.get(0)?),
                name: row.get(1)?,
                since: UnixMillis(row.get(2)?),
                until: row.get::<_, Option<i64>>(3)?.map(UnixMillis),
            })
        })?;
        for onset in rows {
            let onset = onset?;
            match found.iter_mut().find(|known| known.server == onset.server) {
                Some(known) => {
                    known.since = known.since.min(onset.since);
                    known.until = known.until.zip(onset.until).map(|(a, b)| a.max(b));
                }
                None => found.push(onset),
            }
        }
    }
    found.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    Ok(found)
}

/// Shows `see` the batches of these servers that arrived from `from` to `to`, in order of commit, until
/// it says false or `n_rows_max` batches of any server have been passed; whether all were shown.
///
/// Arrival rises with the id but for moments, so the first one is found by halving; bodies of other
/// servers are not read.
pub fn arrived(
    conn: &Connection,
    servers: &BTreeSet<ServerId>,
    (from, to): (UnixMillis, UnixMillis),
    n_rows_max: usize,
    see: &mut dyn FnMut(HotRow) -> bool,
) -> rusqlite::Result<bool> {
    let first = first_at(conn, from)?;
    let mut heads = conn
        .prepare_cached("SELECT id, server_id, at FROM hot WHERE id >= ?1 ORDER BY id LIMIT ?2")?;
    let mut whole = conn.prepare_cached(
        "SELECT id, server_id, epoch, seq, at, t_min, t_max, complete_until, codec, body
         FROM hot WHERE id = ?1",
    )?;
    let limit = i64::try_from(n_rows_max).unwrap_or(i64::MAX);
    let mut rows = heads.query(params![first, limit])?;
    let mut n_rows = 0;
    while let Some(head) = rows.next()? {
        n_rows += 1;
        let (id, server, at): (i64, i64, i64) = (head.get(0)?, head.get(1)?, head.get(2)?);
        if at > to.0 {
            return Ok(true);
        }
        if !servers.contains(&ServerId(server)) {
            continue;
        }
        let row = whole.query_row([id], |row| {
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
        })?;
        if !see(row) {
            return Ok(false);
        }
    }
    Ok(n_rows < n_rows_max)
}

/// The first id whose batch arrived at or after `from`.
fn first_at(conn: &Connection, from: UnixMillis) -> rusqlite::Result<i64> {
    let ends: (Option<i64>, Option<i64>) =
        conn.query_row("SELECT min(id), max(id) FROM hot", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let (Some(mut low), Some(high)) = ends else { return Ok(0) };
    let mut high = high + 1;
    let mut next =
        conn.prepare_cached("SELECT id, at FROM hot WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, i64)> =
            next.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match found {
            Some((id, at)) if at < from.0 => low = id + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}
