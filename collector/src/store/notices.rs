//! The notify log: what became of each page on each route, and why.

use rusqlite::{Connection, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

/// Lines kept; the oldest leave first.
const NOTICES_MAX: i64 = 100_000;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// The incident; null of a digest or a test.
    pub incident: Option<String>,
    /// Name of the route.
    pub route: String,
    /// `opened`, `updated`, `resolved`, `digest` or `test`.
    pub event: String,
    /// What became of it.
    pub what: What,
    /// Why, in words.
    pub why: String,
    /// Its message, when there is one.
    pub delivery: Option<String>,
}

/// What became of a page on one route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is in the outbox.
    Owed,
    /// The receiver took it.
    Delivered,
    /// It is not told, or not yet.
    Suppressed,
    /// The receiver will never take it.
    Refused,
    /// Nobody took it for two days.
    Expired,
    /// A newer message of the same incident took its place before it left.
    Superseded,
    /// There was nothing to tell any more, or the route is gone.
    Dropped,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Delivered => "delivered",
            Self::Suppressed => "suppressed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Dropped => "dropped",
        }
    }
}

/// Which lines `list` returns.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this incident.
    pub incident: Option<String>,
    /// Only of this route.
    pub route: Option<String>,
    /// Only at or after this.
    pub since: Option<UnixMillis>,
    /// At most so many, the newest; 0: 1,000.
    pub n_max: usize,
}

/// Writes a line.
pub fn add(tx: &Transaction<'_>, notice: &Notice) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO notice(at, incident, route, event, what, why, delivery) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        notice.at.0,
        notice.incident,
        notice.route,
        notice.event,
        notice.what.name(),
        notice.why,
        notice.delivery
    ])?;
    tx.prepare_cached("DELETE FROM notice WHERE id <= ?1")?
        .execute([tx.last_insert_rowid() - NOTICES_MAX])?;
    Ok(())
}

/// Lines, oldest first.
pub fn list(conn: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Notice>> {
    let n_max = if filter.n_max == 0 { 1000 } else { filter.n_max };
    let mut found = conn
        .prepare_cached(
            "SELECT at, incident, route, event, what, why, delivery FROM notice
             WHERE (?1 IS NULL OR incident = ?1) AND (?2 IS NULL OR route = ?2) AND (?3 IS NULL OR at >= ?3)
             ORDER BY id DESC LIMIT ?4",
        )?
        .query_map(
            params![filter.incident, filter.route, filter.since.map(|at| at.0), n_max as i64],
            read,
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    found.reverse();
    Ok(found)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Notice> {
    let what: String = row.get(4)?;
    let what = serde_json::from_value(serde_json::Value::String(what)).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into())
    })?;
    Ok(Notice {
        at: UnixMillis(row.get(0)?),
        incident: row.get(1)?,
        route: row.get(2)?,
        event: row.get(3)?,
        what,
        why: row.get(5)?,
        delivery: row.get(6)?,
    })
}
