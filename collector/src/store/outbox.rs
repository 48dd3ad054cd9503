//! What people are to hear: pages the detector decided, what each route knows, what is kept back from
//! it, and the messages owed.
//!
//! Invariant: a page leaves in the transaction that puts its messages into the outbox, so a crash
//! neither loses nor repeats one; a message leaves when it was delivered, so a crash in between sends it
//! again with the same `delivery`.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use wire::UnixMillis;

use super::routes::count_dropped;
use crate::model::{Incident, NotifyEvent};

/// A page that is due further ahead was decided before the clock was set back: it is due now.
const PAGE_AHEAD_MAX: Duration = Duration::from_secs(10);
/// The same of a message that was tried: no receiver puts one off for longer.
const OUTBOX_AHEAD_MAX: Duration = Duration::from_secs(3_605);

/// A decision of the detector that no route has been asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its row.
    pub id: i64,
    /// The incident it tells.
    pub incident: String,
    /// What happened to it.
    pub event: NotifyEvent,
    /// When people were to hear it.
    pub due: UnixMillis,
}

/// A page kept back from a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The incident.
    pub incident: String,
    /// Name of the route.
    pub route: String,
    /// Since when.
    pub since: UnixMillis,
    /// Why, in words.
    pub why: String,
}

/// A message that is due, the oldest of its incident on its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRow {
    /// Its row.
    pub id: i64,
    /// How often it was tried.
    pub tries: u32,
    /// Its id; the same on every try.
    pub delivery: String,
    /// Incident it tells; empty: none.
    pub incident: String,
    /// The message, JSON.
    pub body: String,
}

/// What a route owes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Name of the route.
    pub route: String,
    /// Messages waiting.
    pub n: u64,
    /// When the oldest was, or is, due.
    pub due: UnixMillis,
}

/// Puts a decision of the detector down; once for each revision of an incident. While a page of the
/// incident waits, one more is the same one, told as the incident then stands: it moves to the later
/// time. What is over makes an update that waits superfluous.
pub fn decide(
    tx: &Transaction<'_>,
    incident: &str,
    rev: u64,
    event: NotifyEvent,
    due: UnixMillis,
) -> rusqlite::Result<()> {
    if event == NotifyEvent::Resolved {
        tx.prepare_cached(
            "DELETE FROM page WHERE incident = ?1 AND event = 'updated' AND rev < ?2",
        )?
        .execute(params![incident, rev as i64])?;
    } else {
        let n = tx
            .prepare_cached(
                "UPDATE page SET rev = ?2, due = max(due, ?3)
                 WHERE id = (SELECT max(id) FROM page WHERE incident = ?1)
                   AND event <> 'resolved' AND rev < ?2",
            )?
            .execute(params![incident, rev as i64, due.0])?;
        if n > 0 {
            return Ok(());
        }
    }
    tx.prepare_cached(
        "INSERT INTO page(incident, rev, event, due) SELECT ?1, ?2, ?3, ?4
         WHERE NOT EXISTS (SELECT 1 FROM page WHERE incident = ?1 AND rev >= ?2)",
    )?
    .execute(params![incident, rev as i64, name(event), due.0])?;
    Ok(())
}

/// Up to `n_max` pages that are due, in order; of one incident only those behind which none waits.
pub fn pages_due(conn: &Connection, now: UnixMillis, n_max: usize) -> rusqlite::Result<Vec<Page>> {
    let late = now.plus(PAGE_AHEAD_MAX);
    conn.prepare_cached(
        "SELECT id, incident, event, due FROM page p WHERE (due <= ?1 OR due > ?3) AND NOT EXISTS
           (SELECT 1 FROM page f
            WHERE f.incident = p.incident AND f.id < p.id AND f.due > ?1 AND f.due <= ?3)
         ORDER BY id LIMIT ?2",
    )?
    .query_map(params![now.0, n_max as i64, late.0], |row| {
        let event: String = row.get(2)?;
        let due = UnixMillis(row.get(3)?);
        Ok(Page { id: row.get(0)?, incident: row.get(1)?, event: event_of(&event), due })
    })?
    .collect()
}

/// When the first page is due; `None` while there is none.
pub fn next_page(conn: &Connection) -> rusqlite::Result<Option<UnixMillis>> {
    conn.prepare_cached("SELECT min(due) FROM page")?
        .query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(UnixMillis)))
}

/// When the clerk has to look at the pages again; `None` while there is none.
pub fn next_look(conn: &Connection, now: UnixMillis) -> rusqlite::Result<Option<UnixMillis>> {
    conn.prepare_cached("SELECT min(CASE WHEN due > ?2 THEN ?1 ELSE due END) FROM page")?
        .query_row([now.0, now.plus(PAGE_AHEAD_MAX).0], |row| {
            Ok(row.get::<_, Option<i64>>(0)?.map(UnixMillis))
        })
}

/// The clock was set back to `now`: what is due after it is due now, and nobody knows of anything since
/// a time that is yet to come.
pub fn clock_went_back(tx: &Transaction<'_>, now: UnixMillis) -> rusqlite::Result<()> {
    for update in [
        "UPDATE page SET due = ?1 WHERE due > ?1",
        "UPDATE outbox SET due = ?1 WHERE due > ?1",
        "UPDATE told SET since = ?1 WHERE since > ?1",
    ] {
        tx.prepare_cached(update)?.execute([now.0])?;
    }
    Ok(())
}

/// Every route was asked about a page.
pub fn page_done(tx: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM page WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// The incident as `route` was told it last, while it is not over for it.
pub fn told(conn: &Connection, incident: &str, route: &str) -> rusqlite::Result<Option<Incident>> {
    let body = conn
        .prepare_cached("SELECT body FROM told WHERE incident = ?1 AND route = ?2")?
        .query_row([incident, route], |row| row.get::<_, String>(0))
        .optional()?;
    Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
}

/// Every incident that is not over for `route`, as it was told last.
pub fn told_on(conn: &Connection, route: &str) -> rusqlite::Result<Vec<Incident>> {
    let rows = conn
        .prepare_cached("SELECT body FROM told WHERE route = ?1 ORDER BY incident")?
        .query_map([route], |row| row.get::<_, String>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.iter().filter_map(|body| serde_json::from_str(body).ok()).collect())
}

/// Since when each route knows of an incident.
pub fn told_since(
    conn: &Connection,
    incident: &str,
) -> rusqlite::Result<Vec<(String, UnixMillis)>> {
    conn.prepare_cached("SELECT route, since FROM told WHERE incident = ?1 ORDER BY route")?
        .query_map([incident], |row| Ok((row.get(0)?, UnixMillis(row.get(1)?))))?
        .collect()
}

/// Incidents that are over while some route still thinks that they are not, and no page will say so.
/// Up to `n_max`.
pub fn over_unheard(conn: &Connection, n_max: usize) -> rusqlite::Result<Vec<String>> {
    conn.prepare_cached(
        "SELECT DISTINCT t.incident FROM told t LEFT JOIN incident i ON i.id = t.incident
         WHERE (i.id IS NULL OR i.closed IS NOT NULL)
           AND NOT EXISTS (SELECT 1 FROM page p WHERE p.incident = t.incident) LIMIT ?1",
    )?
    .query_map([n_max as i64], |row| row.get(0))?
    .collect()
}

/// `route` now knows the incident as it is here, but for its timeline.
pub fn set_told(
    tx: &Transaction<'_>,
    incident: &Incident,
    route: &str,
    at: UnixMillis,
) -> rusqlite::Result<()> {
    let known = Incident { timeline: Vec::new(), ..incident.clone() };
    let body = serde_json::to_string(&known).expect("an incident is JSON");
    tx.prepare_cached(
        "INSERT INTO told(incident, route, since, at, body) VALUES(?1, ?2, ?3, ?3, ?4)
         ON CONFLICT(incident, route) DO UPDATE SET at = excluded.at, body = excluded.body",
    )?
    .execute(params![incident.id, route, at.0, body])?;
    Ok(())
}

/// The incident is over for everybody: nobody knows of it, and nothing of it is kept back.
pub fn forget(tx: &Transaction<'_>, incident: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM told WHERE incident = ?1")?.execute([incident])?;
    tx.prepare_cached("DELETE FROM held WHERE incident = ?1")?.execute([incident])?;
    Ok(())
}

/// The incident is over for `route`.
pub fn forget_told(tx: &Transaction<'_>, incident: &str, route: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM told WHERE incident = ?1 AND route = ?2")?
        .execute([incident, route])?;
    Ok(())
}

/// Keeps a page back from a route; false when it was for the same reason before.
pub fn hold(
    tx: &Transaction<'_>,
    incident: &str,
    route: &str,
    since: UnixMillis,
    why: &str,
) -> rusqlite::Result<bool> {
    let n = tx
        .prepare_cached(
            "INSERT INTO held(incident, route, since, why) VALUES(?1, ?2, ?3, ?4)
             ON CONFLICT(incident, route) DO UPDATE SET why = excluded.why WHERE why <> excluded.why",
        )?
        .execute(params![incident, route, since.0, why])?;
    Ok(n == 1)
}

/// Nothing is kept back from a route any more; false when nothing was.
pub fn release(tx: &Transaction<'_>, incident: &str, route: &str) -> rusqlite::Result<bool> {
    let n = tx
        .prepare_cached("DELETE FROM held WHERE incident = ?1 AND route = ?2")?
        .execute([incident, route])?;
    Ok(n == 1)
}

/// Something kept back, with what may have changed the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldState {
    /// It.
    pub held: Held,
    /// Revision of the incident.
    pub rev: u64,
    /// Since when somebody takes care of it.
    pub acked_at: Option<i64>,
    /// It is over, or unknown.
    pub is_over: bool,
}

/// All that is kept back and whose incident no page waits for, in order of incident and route.
pub fn held_states(conn: &Connection) -> rusqlite::Result<Vec<HeldState>> {
    conn.prepare_cached(
        "SELECT h.incident, h.route, h.since, h.why, coalesce(i.rev, 0), i.acked_at,
           i.id IS NULL OR i.closed IS NOT NULL
         FROM held h LEFT JOIN incident i ON i.id = h.incident
         WHERE NOT EXISTS (SELECT 1 FROM page p WHERE p.incident = h.incident)
         ORDER BY h.incident, h.route",
    )?
    .query_map([], |row| {
        let held = Held {
            incident: row.get(0)?,
            route: row.get(1)?,
            since: UnixMillis(row.get(2)?),
            why: row.get(3)?,
        };
        let rev = row.get::<_, i64>(4)?.cast_unsigned();
        Ok(HeldState { held, rev, acked_at: row.get(5)?, is_over: row.get(6)? })
    })?
    .collect()
}

/// Why a page is kept back from a route; `None` when none is.
pub fn held_why(
    conn: &Connection,
    incident: &str,
    route: &str,
) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT why FROM held WHERE incident = ?1 AND route = ?2")?
        .query_row([incident, route], |row| row.get(0))
        .optional()
}

/// All that is kept back, in order of incident and route.
pub fn held(conn: &Connection) -> rusqlite::Result<Vec<Held>> {
    conn.prepare_cached("SELECT incident, route, since, why FROM held ORDER BY incident, route")?
        .query_map([], |row| {
            Ok(Held {
                incident: row.get(0)?,
                route: row.get(1)?,
                since: UnixMillis(row.get(2)?),
                why: row.get(3)?,
            })
        })?
        .collect()
}

/// Puts a message into the outbox; `incident` is empty for one that tells none.
pub fn owe(
    tx: &Transaction<'_>,
    incident: &str,
    route: &str,
    due: UnixMillis,
    delivery: &str,
    body: &str,
) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO outbox(incident, route, due, tries, delivery, body) VALUES(?1, ?2, ?3, 0, ?4, ?5)",
    )?
    .execute(params![incident, route, due.0, delivery, body])?;
    Ok(())
}

/// Takes updates of an incident that never were tried out of the outbox; their deliveries and bodies.
pub fn supersede(
    tx: &Transaction<'_>,
    incident: &str,
    route: &str,
) -> rusqlite::Result<Vec<(String, String)>> {
    tx.prepare_cached(
        "DELETE FROM outbox WHERE incident = ?1 AND route = ?2 AND tries = 0
           AND body ->> '$.event' = 'updated'
           AND id > (SELECT min(id) FROM outbox WHERE incident = ?1 AND route = ?2)
         RETURNING delivery, body",
    )?
    .query_map([incident, route], |row| Ok((row.get(0)?, row.get(1)?)))?
    .collect()
}

/// Up to `n_max` messages of `route` that are due. Only the oldest of each incident is ever due:
/// what follows waits until it left, so people hear of an incident in order. Digests and reports wait for
/// no other: each stands alone.
pub fn due(
    conn: &Connection,
    route: &str,
    now: UnixMillis,
    n_max: usize,
) -> rusqlite::Result<Vec<DueRow>> {
    let late = (now.plus(PAGE_AHEAD_MAX), now.plus(OUTBOX_AHEAD_MAX));
    conn.prepare_cached(
        "SELECT id, tries, delivery, incident, body FROM outbox o
         WHERE route = ?1 AND (due <= ?2 OR due > CASE tries WHEN 0 THEN ?4 ELSE ?5 END)
           AND (incident = '' OR id =
             (SELECT min(id) FROM outbox f WHERE f.incident = o.incident AND f.route = o.route))
         ORDER BY body ->> '$.event' = 'updated', due, id LIMIT ?3",
    )?
    .query_map(params![route, now.0, n_max as i64, late.0.0, late.1.0], |row| {
        Ok(DueRow {
            id: row.get(0)?,
            tries: row.get(1)?,
            delivery: row.get(2)?,
            incident: row.get(3)?,
            body: row.get(4)?,
        })
    })?
    .collect()
}

/// When a message of `route` falls due after `now`; `None` when none will.
pub fn next_due(
    conn: &Connection,
    route: &str,
    now: UnixMillis,
) -> rusqlite::Result<Option<UnixMillis>> {
    conn.prepare_cached(
        "SELECT min(due) FROM outbox o WHERE route = ?1 AND due > ?2 AND (incident = '' OR id =
           (SELECT min(id) FROM outbox f WHERE f.incident = o.incident AND f.route = o.route))",
    )?
    .query_row(params![route, now.0], |row| Ok(row.get::<_, Option<i64>>(0)?.map(UnixMillis)))
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

/// Removes what belongs to routes that are no longer configured, and notes it; how many messages.
pub fn drop_other_routes(
    tx: &Transaction<'_>,
    routes: &[String],
    now: UnixMillis,
) -> rusqlite::Result<usize> {
    const GONE: &str = "WHERE route NOT IN (SELECT value FROM json_each(?1))";
    let routes = serde_json::to_string(routes).expect("strings are JSON");
    let n_dropped = tx.execute(
        &format!(
            "INSERT INTO notice(at, incident, route, event, what, why, delivery)
             SELECT ?2, nullif(incident, ''), route, coalesce(max(event), 'updated'), 'dropped',
               'the route is no longer configured', max(delivery) FROM (
                 SELECT incident, route, body ->> '$.event' AS event, delivery FROM outbox {GONE}
                 UNION ALL SELECT incident, route, NULL, NULL FROM told {GONE}
                 UNION ALL SELECT incident, route, NULL, NULL FROM held {GONE})
             GROUP BY incident, route ORDER BY incident, route"
        ),
        params![routes, now.0],
    )?;
    tx.execute(
        "DELETE FROM state WHERE k GLOB 'route:*'
           AND substr(k, 7) NOT IN (SELECT value FROM json_each(?1))",
        [&routes],
    )?;
    count_dropped(tx, n_dropped)?;
    tx.execute(&format!("DELETE FROM told {GONE}"), [&routes])?;
    tx.execute(&format!("DELETE FROM held {GONE}"), [&routes])?;
    tx.execute(&format!("DELETE FROM outbox {GONE}"), [&routes])
}

/// Notes that there is a route of this name; true when there was none at the last start.
pub fn is_new_route(tx: &Transaction<'_>, route: &str, now: UnixMillis) -> rusqlite::Result<bool> {
    let n = tx
        .prepare_cached("INSERT OR IGNORE INTO state(k, v) VALUES('route:' || ?1, ?2)")?
        .execute(params![route, now.0])?;
    Ok(n == 1)
}

/// True once in the life of a database: what the release before told is not in `told` yet.
pub fn is_first_start(tx: &Transaction<'_>) -> rusqlite::Result<bool> {
    Ok(tx.execute("INSERT OR IGNORE INTO state(k, v) VALUES('told_carried_over', 1)", [])? == 1)
}

/// Whether people were to hear of the incident: the notify log has a line of it.
pub fn had_page(conn: &Connection, incident: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM notice WHERE incident = ?1)")?
        .query_row([incident], |row| row.get(0))
}

/// Whether a page of the incident waits.
pub fn has_page(conn: &Connection, incident: &str) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM page WHERE incident = ?1)")?
        .query_row([incident], |row| row.get(0))
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

fn name(event: NotifyEvent) -> &'static str {
    match event {
        NotifyEvent::Opened => "opened",
        NotifyEvent::Updated => "updated",
        NotifyEvent::Resolved => "resolved",
    }
}

fn event_of(name: &str) -> NotifyEvent {
    match name {
        "resolved" => NotifyEvent::Resolved,
        "updated" => NotifyEvent::Updated,
        _ => NotifyEvent::Opened,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn of_an_incident_one_page_waits_and_moves_to_the_later_time() {
        use NotifyEvent::{Opened, Resolved, Updated};
        // What is decided, revision by revision, and what is there then.
        type Decided = &'static [(u64, NotifyEvent, i64)];
        type Left = &'static [(NotifyEvent, i64)];
        let cases: [(Decided, Left); 8] = [
            (&[(1, Opened, 10)], &[(Opened, 10)]),
            (&[(1, Opened, 10), (1, Opened, 10)], &[(Opened, 10)]),
            (&[(1, Opened, 10), (2, Opened, 20)], &[(Opened, 20)]),
            (&[(1, Opened, 10), (2, Opened, 20), (1, Opened, 10)], &[(Opened, 20)]),
            (&[(1, Opened, 10), (2, Updated, 5)], &[(Opened, 10)]),
            (&[(1, Opened, 10), (2, Resolved, 5)], &[(Opened, 10), (Resolved, 5)]),
            (&[(1, Updated, 10), (2, Resolved, 5)], &[(Resolved, 5)]),
            (
                &[(1, Opened, 1), (2, Resolved, 2), (3, Opened, 3), (4, Updated, 4)],
                &[(Opened, 1), (Resolved, 2), (Opened, 4)],
            ),
        ];
        for (decided, left) in cases {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let job = move |tx: &Transaction<'_>| {
                for (rev, event, due) in decided {
                    decide(tx, "A", *rev, *event, UnixMillis(*due))?;
                }
                decide(tx, "B", 1, Opened, UnixMillis(7))?;
                let pages = tx
                    .prepare("SELECT event, due FROM page WHERE incident = 'A' ORDER BY id")?
                    .query_map([], |row| Ok((event_of(&row.get::<_, String>(0)?), row.get(1)?)))?
                    .collect::<rusqlite::Result<Vec<(NotifyEvent, i64)>>>()?;
                Ok(pages)
            };
            assert_eq!(store.write(job).await.unwrap(), left, "{decided:?}");
        }
    }

    #[tokio::test]
    async fn a_report_that_does_not_arrive_keeps_back_no_other_and_no_digest() {
        let at = |second: i64| UnixMillis(1_000_000_000 + second * 1000);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let job = move |tx: &Transaction<'_>| {
            for (n, incident) in [(1, ""), (2, "A"), (3, ""), (4, "A"), (5, "")] {
                owe(tx, incident, "ops", at(n), &format!("D{n}"), "{}")?;
            }
            postpone(tx, 1, at(300))?;
            postpone(tx, 2, at(200))?;
            let rows: Vec<i64> = due(tx, "ops", at(9), 9)?.iter().map(|row| row.id).collect();
            for id in [3, 5] {
                delivered(tx, id)?;
            }
            Ok((rows, next_due(tx, "ops", at(9))?))
        };
        let (rows, next) = store.write(job).await.unwrap();
        assert_eq!(rows, [3, 5], "4 waits for 2, which is of the same incident");
        assert_eq!(next, Some(at(200)));
    }

    #[tokio::test]
    async fn what_was_due_before_the_clock_was_set_back_does_not_wait_for_that_time_to_come_again()
    {
        let t = UnixMillis(1_000_000_000);
        let at = move |seconds: i64| UnixMillis(t.0 + seconds * 1000);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let job = move |tx: &Transaction<'_>| {
            decide(tx, "A", 1, NotifyEvent::Opened, at(2))?;
            for (id, tries, due) in [(1, 0, 0), (2, 3, 300), (3, 1, 1)] {
                owe(tx, &format!("I{id}"), "ops", at(due), &format!("D{id}"), "{}")?;
                for _ in 0..tries {
                    postpone(tx, id, at(due))?;
                }
            }
            let looks = |now: UnixMillis| -> rusqlite::Result<_> {
                let pages = pages_due(tx, now, 9)?.len();
                let rows: Vec<i64> = due(tx, "ops", now, 9)?.iter().map(|row| row.id).collect();
                Ok((pages, next_look(tx, now)?.map(|at| at.0 - now.0), rows))
            };
            let (before, after) = (looks(at(0))?, looks(at(-3600))?);
            clock_went_back(tx, at(-3600))?;
            Ok((before, after, looks(at(-3600))?))
        };
        let (before, after, told) = store.write(job).await.unwrap();
        assert_eq!(before, (0, Some(2000), vec![1]));
        // One that was put off by seconds may as well have been put off for an hour.
        assert_eq!(after, (1, Some(0), vec![1, 2]));
        assert_eq!(told, (1, Some(0), vec![1, 2, 3]));
    }
}
