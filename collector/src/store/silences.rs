//! Maintenance windows: what matches one is detected and shown, but not paged.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

/// A maintenance window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// ULID.
    pub id: String,
    /// What it silences: key to value, all of them; see [`crate::notify::matcher`].
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, String>,
    /// Since when.
    #[serde(with = "wire::rfc3339")]
    pub starts_at: UnixMillis,
    /// Until when.
    #[serde(with = "wire::rfc3339")]
    pub ends_at: UnixMillis,
    /// What for.
    pub reason: String,
    /// Who made it.
    pub by: String,
    /// When it was made.
    #[serde(with = "wire::rfc3339")]
    pub made_at: UnixMillis,
    /// When somebody ended it before its time.
    #[serde(with = "wire::rfc3339::option")]
    pub ended_at: Option<UnixMillis>,
    /// Who did.
    pub ended_by: Option<String>,
}

impl Silence {
    /// Whether it silences at `now`.
    #[must_use]
    pub fn is_active(&self, now: UnixMillis) -> bool {
        self.starts_at <= now && now < self.end()
    }

    /// When it ends, or ended.
    #[must_use]
    pub fn end(&self) -> UnixMillis {
        self.ended_at.map_or(self.ends_at, |at| at.min(self.ends_at))
    }
}

/// Stores a new one.
pub fn add(tx: &Transaction<'_>, silence: &Silence) -> rusqlite::Result<()> {
    let matches = serde_json::to_string(&silence.matches).expect("strings are JSON");
    tx.execute(
        "INSERT INTO silence(id, matches, starts, ends, reason, by, made_at)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            silence.id,
            matches,
            silence.starts_at.0,
            silence.ends_at.0,
            silence.reason,
            silence.by,
            silence.made_at.0
        ],
    )?;
    Ok(())
}

/// Those that are not over before `since`, newest first.
pub fn list(conn: &Connection, since: UnixMillis) -> rusqlite::Result<Vec<Silence>> {
    conn.prepare_cached(
        "SELECT id, matches, starts, ends, reason, by, made_at, ended_at, ended_by FROM silence
         WHERE min(ends, coalesce(ended_at, ends)) > ?1 ORDER BY id DESC",
    )?
    .query_map([since.0], read)?
    .collect()
}

/// The newest ones, over or not; at most `n_max`.
pub fn newest(conn: &Connection, n_max: usize) -> rusqlite::Result<Vec<Silence>> {
    conn.prepare_cached(
        "SELECT id, matches, starts, ends, reason, by, made_at, ended_at, ended_by FROM silence
         ORDER BY id DESC LIMIT ?1",
    )?
    .query_map([n_max as i64], read)?
    .collect()
}

/// Up to two whose ids begin with `prefix`, letters and digits: one means the beginning was enough.
pub fn with_prefix(conn: &Connection, prefix: &str) -> rusqlite::Result<Vec<Silence>> {
    conn.prepare_cached(
        "SELECT id, matches, starts, ends, reason, by, made_at, ended_at, ended_by FROM silence
         WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2",
    )?
    .query_map(params![prefix, format!("{prefix}~")], read)?
    .collect()
}

/// Ends one; false when there is none of this id that is not over.
pub fn end(tx: &Transaction<'_>, id: &str, by: &str, at: UnixMillis) -> rusqlite::Result<bool> {
    let n = tx.execute(
        "UPDATE silence SET ended_at = ?2, ended_by = ?3 WHERE id = ?1 AND ended_at IS NULL AND ends > ?2",
        params![id, at.0, by],
    )?;
    Ok(n == 1)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Silence> {
    let matches: String = row.get(1)?;
    let matches = serde_json::from_str(&matches).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(Silence {
        id: row.get(0)?,
        matches,
        starts_at: UnixMillis(row.get(2)?),
        ends_at: UnixMillis(row.get(3)?),
        reason: row.get(4)?,
        by: row.get(5)?,
        made_at: UnixMillis(row.get(6)?),
        ended_at: row.get::<_, Option<i64>>(7)?.map(UnixMillis),
        ended_by: row.get(8)?,
    })
}
