//! Databases of every schema there has been are opened with nothing lost. `kept/README.md` tells what
//! they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::open::MIGRATIONS;
use super::tests::batch;
use super::{Outcome, Store, incidents, read, tests};
use crate::ingest::convert;
use crate::model::{Incident, ServerId};

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/kept").join(name)
}

/// A directory with the database of a schema, and what is in it.
fn unpacked(version: usize) -> (tempfile::TempDir, Value) {
    let packed = std::fs::read(kept(&format!("schema{version}.db.zst")))
        .unwrap_or_else(|error| panic!("no kept database of schema {version}: {error}"));
    let dir = tempfile::tempdir().unwrap();
    let bytes = zstd::decode_all(packed.as_slice()).unwrap();
    std::fs::write(dir.path().join("gatewatch.db"), bytes).unwrap();
    let told = std::fs::read(kept(&format!("schema{version}.json"))).unwrap();
    (dir, serde_json::from_slice(&told).unwrap())
}

/// The rows of a query, as lists of JSON values.
fn rows(conn: &Connection, sql: &str) -> rusqlite::Result<Value> {
    let mut query = conn.prepare(sql)?;
    let n = query.column_count();
    let rows = query.query_map([], |row| {
        let value = |ix| {
            Ok(match row.get(ix)? {
                rusqlite::types::Value::Integer(n) => json!(n),
                rusqlite::types::Value::Text(text) => json!(text),
                other => panic!("{other:?} in {sql}"),
            })
        };
        (0..n).map(value).collect::<rusqlite::Result<Value>>()
    })?;
    rows.collect()
}

/// Requests by server, site and status, of the batches that are hot.
fn requests(conn: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for row in read::hot_after(conn, 0, usize::MAX, usize::MAX)? {
        if row.codec == 0 {
            continue;
        }
        let body = convert::unpack(row.codec, &row.body).expect("it could be read when it came");
        let name: String = conn.query_row(
            "SELECT name FROM server WHERE server_id = ?1",
            [row.server.0],
            |row| row.get(0),
        )?;
        for second in &body.seconds {
            let site = &body.sites[second.site as usize].name;
            for (status, n) in second.status.iter().zip(&second.count) {
                *counts.entry(format!("{name} {site} {status}")).or_default() += u64::from(*n);
            }
        }
    }
    Ok(counts)
}

/// What is in a database of today, in the form of the files beside the kept ones.
fn told(conn: &Connection) -> rusqlite::Result<Value> {
    let rows = |sql| rows(conn, sql);
    Ok(json!({
        "servers": rows("SELECT server_id, name, state, hex(uuid) FROM server ORDER BY 1")?,
        "labels": rows("SELECT server_id, source, k, v FROM label ORDER BY 1, 2, 3")?,
        "tokens": rows("SELECT id, uses, COALESCE(revoked_at, 0) FROM token ORDER BY 1")?,
        "certificates":
            rows("SELECT hex(serial), server_id, not_after FROM certificate ORDER BY 1")?,
        "sites": rows("SELECT site_id, server_id, host FROM site ORDER BY 1")?,
        "gaps": rows("SELECT server_id, seq_from, seq_to, n_lines FROM gap")?,
        "losses": rows("SELECT server_id, k, n FROM loss ORDER BY 1, 2")?,
        "ledger": rows(
            "SELECT server_id, n_lines_counted, n_bytes_counted, n_lines_lost FROM ledger ORDER BY 1"
        )?,
        "incidents": rows(
            "SELECT id, COALESCE(closed, 0), body ->> '$.title', COALESCE(acked_by, '')
             FROM incident ORDER BY 1"
        )?,
        "notes": rows("SELECT incident, text FROM incident_note ORDER BY id")?,
        "incident_sites": rows(
            "SELECT incident, site_id, since, COALESCE(until, 0) FROM incident_site ORDER BY 1, 2"
        )?,
        "owed": rows("SELECT delivery, body ->> '$.event', route FROM outbox ORDER BY id")?,
        // An end that waited behind its beginning is decided anew: the route knows of the incident.
        "told": rows("SELECT incident, route FROM told ORDER BY 1")?,
        "silences": rows("SELECT id, matches, ends, reason FROM silence ORDER BY id")?,
        "hot": rows("SELECT count(*), max(id) FROM hot")?[0],
        "requests": requests(conn)?,
    }))
}

/// The watermark that a server is told at its next hello.
fn watermarks(store: &Store, servers: &Value) -> Value {
    let mark = |row: &Value| {
        let mark = store.durable(ServerId(row[0].as_i64().unwrap()));
        (row[1].as_str().unwrap().to_owned(), json!(format!("{}:{}", mark.epoch, mark.seq)))
    };
    servers.as_array().unwrap().iter().map(mark).collect()
}

async fn told_by(store: &Store) -> Value {
    let mut told = store.read(told).await.unwrap();
    told["watermarks"] = watermarks(store, &told["servers"]);
    told
}

#[test]
fn there_is_a_kept_database_of_every_schema_before_this_one() {
    for version in 1..MIGRATIONS.len() {
        let (dir, _) = unpacked(version);
        let conn = Connection::open(dir.path().join("gatewatch.db")).unwrap();
        let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(found, version as i64, "schema{version}.db.zst is another one");
    }
}

#[tokio::test]
async fn a_database_of_every_schema_is_opened_with_nothing_lost() {
    for version in 1..MIGRATIONS.len() {
        let (dir, want) = unpacked(version);
        for round in ["migrated", "opened again"] {
            let store = Store::open(dir.path()).unwrap();
            let is = told_by(&store).await;
            for (what, value) in want.as_object().unwrap() {
                assert_eq!(&is[what], value, "schema {version}, {round}: {what}");
            }
            store.close().await.unwrap();
        }
        let conn = Connection::open(dir.path().join("gatewatch.db")).unwrap();
        assert_eq!(tests::objects(&conn), tests::objects_of_today(), "schema {version}");
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        let stray = conn.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap();
        assert!(!stray, "schema {version}: a row belongs to none");
    }
}

#[tokio::test]
async fn incidents_of_every_schema_can_be_read_whole() {
    for version in 1..MIGRATIONS.len() {
        let (dir, _) = unpacked(version);
        let store = Store::open(dir.path()).unwrap();
        let bodies = |conn: &Connection| rows(conn, "SELECT body FROM incident ORDER BY id");
        let bodies = store.read(bodies).await.unwrap();
        let read = |row: &Value| serde_json::from_str::<Incident>(row[0].as_str().unwrap());
        let whole: Vec<Incident> =
            bodies.as_array().unwrap().iter().map(read).collect::<Result<_, _>>().unwrap();
        let states: Vec<&str> = whole.iter().map(|incident| &*incident.state).collect();
        assert_eq!(states, ["resolved", "open"], "schema {version}");
        assert_eq!(whole[0].place.members, ["web-1/a.example"]);
        assert!(whole[0].affected.n_502 > 0 && whole[1].affected.n_504 > 0);
        // What the API makes of them.
        let id = whole[0].id.clone();
        let shown = store.read(move |conn| incidents::get(conn, &id)).await.unwrap();
        assert_eq!(shown.map(|shown| shown.id), Some(whole[0].id.clone()));
    }
}

#[tokio::test]
async fn agents_go_on_where_they_were_after_every_migration() {
    for version in 1..MIGRATIONS.len() {
        let (dir, want) = unpacked(version);
        let store = Store::open(dir.path()).unwrap();
        let last_id = want["hot"][1].as_i64().unwrap();
        for (n, row) in (1..).zip(want["servers"].as_array().unwrap()) {
            let (server, name) = (row[0].as_i64().unwrap(), row[1].as_str().unwrap());
            let mark = want["watermarks"][name].as_str().unwrap();
            let (epoch, seq) = mark.split_once(':').unwrap();
            let (epoch, seq): (u64, u64) = (epoch.parse().unwrap(), seq.parse().unwrap());
            for (seq, outcome) in [
                (seq, Outcome::Duplicate),
                (seq + 2, Outcome::Gap { wanted: seq + 1 }),
                (seq + 1, Outcome::Stored),
            ] {
                let done = store.append(batch(server, epoch, seq)).await.unwrap().await.unwrap();
                assert_eq!(done.unwrap(), outcome, "schema {version}, {name}: {seq}");
            }
            assert_eq!(*store.committed().borrow(), last_id + n, "ids go on");
        }
    }
}
