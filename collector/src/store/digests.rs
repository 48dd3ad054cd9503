//! Where the last digest of each route ended, and what began or ended since.
//!
//! A mark names rows, not times: an incident that the detector stores late, or that was found in old
//! logs, stands in the first digest after it was stored, and in no other. A mark moves in the
//! transaction that puts the digest into the outbox, so a crash neither loses nor repeats one.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::incidents;
use crate::model::Incident;

/// Where a digest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// The newest row of an incident then.
    row: i64,
    /// Incidents that were not over.
    open: Vec<String>,
}

/// Where the last digest of `route` ended; `None` before its first look.
pub fn mark(conn: &Connection, route: &str) -> rusqlite::Result<Option<Mark>> {
    let body = conn
        .prepare_cached("SELECT body FROM snapshot WHERE k = ?1")?
        .query_row([key(route)], |row| row.get::<_, Vec<u8>>(0))
        .optional()?;
    Ok(body.and_then(|body| serde_json::from_slice(&body).ok()))
}

/// Sets it.
pub fn set_mark(tx: &Transaction<'_>, route: &str, mark: &Mark) -> rusqlite::Result<()> {
    let body = serde_json::to_vec(mark).expect("a mark is JSON");
    tx.prepare_cached(
        "INSERT INTO snapshot(k, upto, body) VALUES(?1, ?2, ?3)
         ON CONFLICT(k) DO UPDATE SET upto = excluded.upto, body = excluded.body",
    )?
    .execute(params![key(route), mark.row, body])?;
    Ok(())
}

/// Forgets the marks of routes that are no longer told by digest.
pub fn forget_other(tx: &Transaction<'_>, routes: &[String]) -> rusqlite::Result<usize> {
    let keys: Vec<String> = routes.iter().map(|route| key(route)).collect();
    let keys = serde_json::to_string(&keys).expect("strings are JSON");
    let delete = "DELETE FROM snapshot WHERE k GLOB 'digest:*'
                  AND k NOT IN (SELECT value FROM json_each(?1))";
    tx.execute(delete, [keys])
}

/// A mark at this state of the database.
pub fn mark_now(conn: &Connection, at: UnixMillis) -> rusqlite::Result<Mark> {
    let row =
        conn.query_row("SELECT coalesce(max(rowid), 0) FROM incident", [], |row| row.get(0))?;
    let open = conn
        .prepare_cached("SELECT id FROM incident WHERE closed IS NULL ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Mark { at, row, open })
}

/// Incidents that began or ended after `mark`, without those that went into another one, oldest first.
pub fn since(conn: &Connection, mark: &Mark) -> rusqlite::Result<Vec<Incident>> {
    let newest = mark_now(conn, mark.at)?.row;
    let open = serde_json::to_string(&mark.open).expect("strings are JSON");
    // A restored backup numbers rows anew: then the time has to do.
    let is_renumbered = newest < mark.row;
    let ids = conn
        .prepare_cached(
            "SELECT id FROM incident
             WHERE (CASE WHEN ?3 THEN body ->> '$.detected_at' > ?4 ELSE rowid > ?1 END
                    OR closed IS NOT NULL AND id IN (SELECT value FROM json_each(?2)))
               AND body ->> '$.parent' IS NULL
             ORDER BY opened, id",
        )?
        .query_map(params![mark.row, open, is_renumbered, mark.at.to_rfc3339()], |row| {
            row.get::<_, String>(0)
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        found.extend(incidents::get(conn, &id)?);
    }
    Ok(found)
}

fn key(route: &str) -> String {
    format!("digest:{route}")
}
