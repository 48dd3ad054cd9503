//! What happened to the collector itself, so that its own faults can be told from those of the fleet
//! also later: rows of `event` without a server.

use rusqlite::{Connection, Transaction, params};
use wire::UnixMillis;

use crate::model::CollectorEvent;

/// `event.kind` of these rows.
pub(super) const KIND: i64 = 1;
/// Events read at once.
const EVENTS_MAX: i64 = 10_000;

/// Files what happened to the collector.
pub fn note(tx: &Transaction<'_>, at: UnixMillis, event: CollectorEvent) -> rusqlite::Result<()> {
    let body = serde_json::to_string(&event)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    tx.prepare_cached("INSERT INTO event(ts, server_id, kind, body) VALUES(?1, NULL, ?2, ?3)")?
        .execute(params![at.0, KIND, body])?;
    Ok(())
}

/// What happened to it from `from` to `to`, oldest first, at most 10,000 events.
pub fn events(
    conn: &Connection,
    from: UnixMillis,
    to: UnixMillis,
) -> rusqlite::Result<Vec<(UnixMillis, CollectorEvent)>> {
    let mut query = conn.prepare_cached(
        "SELECT ts, body FROM event WHERE ts >= ?1 AND ts <= ?2 AND kind = ?3 AND server_id IS NULL
         ORDER BY ts, id LIMIT ?4",
    )?;
    let rows = query.query_map(params![from.0, to.0, KIND, EVENTS_MAX], |row| {
        Ok((UnixMillis(row.get(0)?), row.get::<_, String>(1)?))
    })?;
    let mut events = Vec::new();
    for row in rows {
        let (at, body) = row?;
        // A later release may know more events.
        events.extend(serde_json::from_str(&body).ok().map(|event| (at, event)));
    }
    Ok(events)
}
