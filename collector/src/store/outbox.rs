//! Messages owed to people. A row leaves when it was delivered, so a crash in between repeats it.
//!
//! `body` is `{"event"}` until the first try; then the whole message with its `delivery`, so that
//! every try sends the same bytes. The time of the first try is in the delivery's ULID.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use wire::UnixMillis;

use super::incidents;
use crate::model::{Incident, NotifyEvent};

/// A message that is due, the oldest of its incident on its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRow {
    /// Its row.
    pub id: i64,
    /// How often it was tried.
    pub tries: u32,
}

/// A message as every try sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The bytes to send.
    pub body: String,
    /// Its id; the same on every try.
    pub delivery: Ulid,
    /// Incident it tells.
    pub incident: String,
}

/// What `route` owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Name of the route.
    pub route: String,
    /// Messages waiting.
    pub n: u64,
    /// When the oldest was, or is, due.
    pub due: UnixMillis,
}

#[derive(Serialize)]
struct Message<'a> {
    event: NotifyEvent,
    delivery: String,
    incident: &'a Incident,
}

#[derive(Deserialize)]
struct Stored {
    event: NotifyEvent,
    delivery: Option<String>,
}

/// Up to `n_max` messages of `route` that are due. Only the oldest of each incident is ever due:
/// what follows waits until it left, so people hear of an incident in order.
pub fn due(
    conn: &Connection,
    route: &str,
    now: UnixMillis,
    n_max: usize,
) -> rusqlite::Result<Vec<DueRow>> {
    conn.prepare_cached(
        "SELECT id, tries FROM outbox o WHERE route = ?1 AND due <= ?2 AND id =
           (SELECT min(id) FROM outbox f WHERE f.incident = o.incident AND f.route = o.route)
         ORDER BY due, id LIMIT ?3",
    )?
    .query_map(params![route, now.0, n_max as i64], |row| {
        Ok(DueRow { id: row.get(0)?, tries: row.get(1)? })
    })?
    .collect()
}

/// When `route` has to look again; `None` while it owes nothing.
pub fn next_due(conn: &Connection, route: &str) -> rusqlite::Result<Option<UnixMillis>> {
    conn.prepare_cached(
        "SELECT min(due) FROM outbox o WHERE route = ?1 AND id =
           (SELECT min(id) FROM outbox f WHERE f.incident = o.incident AND f.route = o.route)",
    )?
    .query_row([route], |row| Ok(row.get::<_, Option<i64>>(0)?.map(UnixMillis)))
}

/// Renders a message as its incident stands now and keeps it; one tried before comes back as it is.
///
/// `None`: there is nothing to tell any more (the incident went into another one before anybody
/// heard of it), and the row is gone. Waiting updates that this message already covers leave too.
pub fn freeze(tx: &Transaction<'_>, id: i64, delivery: Ulid) -> rusqlite::Result<Option<Frozen>> {
    let row = tx
        .prepare_cached("SELECT incident, route, body FROM outbox WHERE id = ?1")?
        .query_row([id], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    let Some((incident, route, body)) = row else { return Ok(None) };
    let stored = serde_json::from_str::<Stored>(&body).ok();
    let event = stored.as_ref().map(|stored| stored.event);
    if let Some(known) = stored.and_then(|s| s.delivery).and_then(|d| Ulid::from_string(&d).ok()) {
        return Ok(Some(Frozen { body, delivery: known, incident }));
    }
    let found = incidents::get(tx, &incident)?;
    let (Some(event), Some(found)) = (event, found) else {
        delivered(tx, id)?;
        return Ok(None);
    };
    if found.parent.is_some() && event != NotifyEvent::Resolved {
        delivered(tx, id)?;
        if event == NotifyEvent::Opened {
            // Who never hears that it began must not hear that it is over.
            tx.prepare_cached("DELETE FROM outbox WHERE incident = ?1 AND route = ?2")?
                .execute([&incident, &route])?;
        }
        return Ok(None);
    }
    let message = Message { event, delivery: delivery.to_string(), incident: &found };
    let body = serde_json::to_string(&message).expect("an incident is JSON");
    tx.prepare_cached("UPDATE outbox SET body = ?2 WHERE id = ?1")?.execute(params![id, body])?;
    tx.prepare_cached(
        "DELETE FROM outbox WHERE incident = ?1 AND route = ?2 AND id > ?3
           AND body ->> '$.event' = 'updated'
           AND rev <= (SELECT rev FROM incident WHERE id = ?1)",
    )?
    .execute(params![incident, route, id])?;
    Ok(Some(Frozen { body, delivery, incident }))
}

/// Forgets a message: it arrived, or nobody wants it any more.
pub fn delivered(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Puts a message that failed off until `due`.
pub fn postpone(tx: &Transaction<'_>, id: i64, due: UnixMillis) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE outbox SET tries = tries + 1, due = ?2 WHERE id = ?1")?
        .execute(params![id, due.0])?;
    Ok(())
}

/// Removes what is owed to routes that are no longer configured; how many messages.
pub fn drop_other_routes(tx: &Transaction<'_>, routes: &[String]) -> rusqlite::Result<usize> {
    let routes = serde_json::to_string(routes).expect("strings are JSON");
    tx.execute("DELETE FROM outbox WHERE route NOT IN (SELECT value FROM json_each(?1))", [routes])
}

/// What each route owes.
pub fn owed(conn: &Connection) -> rusqlite::Result<Vec<Owed>> {
    conn.prepare_cached(
        "SELECT route, count(*), min(due) FROM outbox GROUP BY route ORDER BY route",
    )?
    .query_map([], |row| {
        Ok(Owed {
            route: row.get(0)?,
            n: row.get::<_, i64>(1)?.cast_unsigned(),
            due: UnixMillis(row.get(2)?),
        })
    })?
    .collect()
}
