//! What changed among incidents: small marks to compare, so that followers need no history.

use rusqlite::{Connection, params};
use wire::UnixMillis;

/// Where one incident stands. Any change of what people read of it changes its mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Id of the incident.
    pub id: String,
    /// Not over.
    pub open: bool,
    /// Revision by the detector.
    pub rev: i64,
    /// When somebody took it.
    pub acked_at: Option<i64>,
    /// Notes on it.
    pub n_notes: i64,
}

/// Marks of all incidents that are open or ended after `closed_after`, oldest first.
pub fn marks(conn: &Connection, closed_after: UnixMillis) -> rusqlite::Result<Vec<Mark>> {
    conn.prepare_cached(
        "SELECT id, closed IS NULL, rev, acked_at,
           (SELECT count(*) FROM incident_note n WHERE n.incident = i.id)
         FROM incident i WHERE closed IS NULL OR closed >= ?1 ORDER BY opened, id",
    )?
    .query_map([closed_after.0], |row| {
        Ok(Mark {
            id: row.get(0)?,
            open: row.get(1)?,
            rev: row.get(2)?,
            acked_at: row.get(3)?,
            n_notes: row.get(4)?,
        })
    })?
    .collect()
}

/// Up to two ids that begin with `prefix`: one means the beginning was enough.
pub fn ids_with_prefix(conn: &Connection, prefix: &str) -> rusqlite::Result<Vec<String>> {
    conn.prepare_cached("SELECT id FROM incident WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2")?
        .query_map(params![prefix, format!("{prefix}~")], |row| row.get(0))?
        .collect()
}

/// Whether the database answers at all.
pub fn answers(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("SELECT 1", [], |_| Ok(()))
}
