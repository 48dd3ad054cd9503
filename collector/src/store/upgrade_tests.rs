//! A database of the release before: what it told, and what it owed, goes on.

use std::path::Path;

use rusqlite::{Connection, params};
use serde_json::json;
use wire::UnixMillis;

use super::open::MIGRATIONS;
use super::{Store, outbox};
use crate::config::NotifyConfig;
use crate::model::Incident;
use crate::notify::{Clerk, Message, Route};
use crate::samples::{self, START};

/// A database as its first three migrations made it, with these incidents: id, severity, whether over.
fn before(dir: &Path, incidents: &[(&str, &str, bool)]) -> Connection {
    let mut conn = Connection::open(dir.join("gatewatch.db")).unwrap();
    let steps = MIGRATIONS[..3].iter().map(|sql| rusqlite_migration::M::up(sql)).collect();
    rusqlite_migration::Migrations::new(steps).to_latest(&mut conn).unwrap();
    for (id, severity, is_over) in incidents {
        let closed = is_over.then_some(START.0 + 5000);
        let incident = Incident {
            id: (*id).to_owned(),
            severity: (*severity).to_owned(),
            resolved_at: closed.map(UnixMillis),
            ..samples::incident()
        };
        let body = serde_json::to_string(&incident).unwrap();
        conn.execute(
            "INSERT INTO incident(id, key, opened, closed, rev, body) VALUES(?1, ?1, ?2, ?3, 1, ?4)",
            params![id, START.0, closed, body],
        )
        .unwrap();
    }
    conn
}

/// A row of its outbox; `delivery`: it was tried, so the whole message is there.
fn owe(
    conn: &Connection,
    incident: &str,
    rev: i64,
    route: &str,
    event: &str,
    delivery: Option<&str>,
) {
    let body = match delivery {
        None => json!({"event": event}),
        Some(delivery) => {
            let whole = Incident { id: incident.to_owned(), ..samples::incident() };
            json!({"event": event, "delivery": delivery, "incident": whole})
        }
    };
    conn.execute(
        "INSERT INTO outbox(incident, rev, route, due, tries, body) VALUES(?1, ?2, ?3, ?4, 0, ?5)",
        params![incident, rev, route, START.0, body.to_string()],
    )
    .unwrap();
}

fn routes() -> Vec<Route> {
    let route = |(index, min_severity): (usize, &str)| {
        let min_severity = min_severity.to_owned();
        let config =
            NotifyConfig { kind: "webhook".into(), min_severity, ..NotifyConfig::default() };
        Route::new(&config, index).unwrap()
    };
    ["warning", "critical"].into_iter().enumerate().map(route).collect()
}

async fn messages(store: &Store) -> Vec<String> {
    let read = |conn: &Connection| {
        let mut query = conn.prepare("SELECT route, incident, body FROM outbox ORDER BY id")?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect::<Result<Vec<(String, String, String)>, _>>()
    };
    let rows = store.read(read).await.unwrap();
    let line = |(route, incident, body): &(String, String, String)| {
        let message: Message = serde_json::from_str(body).expect("it is a message");
        format!("{route} {incident} {}", message.event.name())
    };
    rows.iter().map(line).collect()
}

async fn start(dir: &Path, second: i64) -> (Store, Clerk) {
    let store = Store::open(dir).unwrap();
    let mut clerk = Clerk::new(store.clone(), routes());
    let now = UnixMillis(START.0 + second * 1000);
    clerk.prepare(now).await.unwrap();
    clerk.turn(now, true).await.unwrap();
    (store, clerk)
}

#[tokio::test]
async fn what_the_release_before_told_is_resolved_on_the_routes_that_heard_it() {
    let dir = tempfile::tempdir().unwrap();
    drop(before(
        dir.path(),
        &[("A", "critical", false), ("B", "warning", false), ("C", "critical", true)],
    ));
    let (store, mut clerk) = start(dir.path(), 60).await;
    assert_eq!(messages(&store).await, [""; 0], "nothing is told again");
    let over = |tx: &rusqlite::Transaction<'_>| {
        tx.execute("UPDATE incident SET closed = ?1", [START.0 + 90_000])
    };
    store.write(over).await.unwrap();
    clerk.turn(UnixMillis(START.0 + 90_000), true).await.unwrap();
    let want = ["webhook:0 A resolved", "webhook:1 A resolved", "webhook:0 B resolved"];
    assert_eq!(messages(&store).await, want);
}

#[tokio::test]
async fn what_the_release_before_owed_is_sent_once_tried_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let conn = before(
        dir.path(),
        &[("A", "critical", false), ("B", "critical", true), ("C", "critical", true)],
    );
    // The first route took A; the second was tried once; of B both know, of its end only one.
    owe(&conn, "A", 1, "webhook:1", "opened", Some("01JA"));
    owe(&conn, "B", 2, "webhook:0", "resolved", None);
    owe(&conn, "C", 1, "webhook:1", "opened", None);
    owe(&conn, "C", 2, "webhook:1", "resolved", None);
    drop(conn);
    let (store, clerk) = start(dir.path(), 60).await;
    assert_eq!(messages(&store).await, ["webhook:1 A opened", "webhook:0 B resolved"]);
    drop((store, clerk));
    let (store, _clerk) = start(dir.path(), 70).await;
    assert_eq!(messages(&store).await.len(), 2, "once");
}

#[tokio::test]
async fn a_beginning_that_was_not_sent_yet_is_told_on_its_route_alone() {
    let dir = tempfile::tempdir().unwrap();
    let conn = before(dir.path(), &[("A", "critical", false)]);
    owe(&conn, "A", 1, "webhook:1", "opened", None);
    owe(&conn, "A", 2, "webhook:1", "updated", None);
    drop(conn);
    let (store, _clerk) = start(dir.path(), 60).await;
    assert_eq!(messages(&store).await, ["webhook:1 A opened"]);
    let told = store.read(|conn| outbox::told_since(conn, "A")).await.unwrap();
    assert_eq!(
        told.iter().map(|(route, _)| &**route).collect::<Vec<_>>(),
        ["webhook:0", "webhook:1"]
    );
}
