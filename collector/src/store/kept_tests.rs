//! Databases of every schema there has been are opened with nothing lost. `kept/README.md` tells what
//! they are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};

use wire::{UnixMillis, catalog};

use super::bad_input_tests::{flush, keeper};
use super::history::{History, Limits, Notes, Wanted};
use super::open::MIGRATIONS;
use super::tests::batch;
use super::{NewBatch, Outcome, Store, blocks, incidents, rollup, tests};
use crate::model::{Incident, ServerId};

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/kept")
}

/// The files of a schema, below the data directory; none: there are none kept.
fn files_of(version: usize) -> Vec<PathBuf> {
    let dir = kept().join(format!("schema{version}"));
    let mut files = Vec::new();
    for folder in ["", "blocks", "rollup"] {
        let Ok(entries) = std::fs::read_dir(dir.join(folder)) else { continue };
        let paths = entries.map(|entry| entry.unwrap().path());
        let packed = paths.filter(|path| path.extension().is_some_and(|end| end == "zst"));
        files.extend(packed.map(|path| path.strip_prefix(&dir).unwrap().with_extension("")));
    }
    files
}

/// A directory with the files of a schema, and what is in them.
fn unpacked(version: usize) -> (tempfile::TempDir, Value) {
    let (dir, from) = (tempfile::tempdir().unwrap(), kept().join(format!("schema{version}")));
    let files = files_of(version);
    assert!(!files.is_empty(), "no kept files of schema {version}: kept/README.md tells how");
    for file in files {
        let packed = std::fs::read(from.join(format!("{}.zst", file.display()))).unwrap();
        let to = dir.path().join(&file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, zstd::decode_all(packed.as_slice()).unwrap()).unwrap();
    }
    let told = std::fs::read(from.join("told.json")).unwrap();
    (dir, serde_json::from_slice(&told).unwrap())
}

/// The schemas there are files of: all before today's, and today's when it is kept already.
fn versions() -> std::ops::RangeInclusive<usize> {
    let today = MIGRATIONS.len();
    1..=if files_of(today).is_empty() { today - 1 } else { today }
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

/// Requests by server, site and status, and samples by server and metric, of batches and day files.
async fn history(store: &Store, servers: &Value) -> (Value, Value) {
    let names: Vec<(i64, String)> = servers
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row[0].as_i64().unwrap(), row[1].as_str().unwrap().to_owned()))
        .collect();
    let read = move |history: &History<'_>| {
        let (mut requests, mut samples) = (BTreeMap::new(), BTreeMap::new());
        for (server, name) in names {
            let server = ServerId(server);
            for (site, by_status) in history.counts(server, (0, i64::MAX))? {
                for (status, n) in by_status {
                    requests.insert(format!("{name} {site} {status}"), n);
                }
            }
            for metric in ["system.cpu.utilization", "system.memory.utilization"] {
                let wanted = Wanted {
                    server,
                    metric: catalog::find(metric).unwrap(),
                    attribute: String::new(),
                    from: UnixMillis(0),
                    to: UnixMillis(i64::MAX),
                    step_s: None,
                };
                let points = history.series(&wanted)?.points;
                let sum: f64 = points.iter().map(|point| point.sum * 10_000.0).sum();
                samples.insert(format!("{name} {metric}"), json!([points.len(), sum.round()]));
            }
        }
        Ok((json!(requests), json!(samples)))
    };
    let told = store.history(Limits::default(), read).await.unwrap();
    assert_eq!(told.notes, Notes::default(), "it is whole");
    told.value
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
        "owners": rows("SELECT site_id, owner FROM site WHERE owner IS NOT NULL ORDER BY 1")?,
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
        "hot": rows("SELECT count(*), COALESCE(max(id), 0) FROM hot")?[0],
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
    (told["requests"], told["samples"]) = history(store, &told["servers"]).await;
    told
}

#[test]
fn there_is_a_kept_database_of_every_schema_before_this_one() {
    let (mut kept, mut formats) = (Vec::new(), BTreeSet::new());
    for version in versions() {
        let (dir, _) = unpacked(version);
        let format = |file: &Path| -> i64 {
            let conn = Connection::open(dir.path().join(file)).unwrap();
            conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
        };
        kept.push(format(Path::new("gatewatch.db")));
        for file in files_of(version) {
            let folder = file.parent().unwrap().display().to_string();
            formats.insert((folder, format(&file)));
        }
    }
    let today = MIGRATIONS.len() as i64;
    let before: Vec<i64> = (1..today).collect();
    kept.retain(|version| *version < today);
    assert_eq!(kept, before, "each is of the schema that its folder says");
    // Day and month files of every format, that of today too.
    for (folder, last) in [("blocks", blocks::FORMAT), ("rollup", rollup::month::FORMAT)] {
        for format in 1..=last {
            let is_kept = formats.contains(&(folder.to_owned(), format));
            assert!(is_kept, "no kept file of format {format} in {folder}");
        }
    }
}

#[tokio::test]
async fn a_database_of_every_schema_is_opened_with_nothing_lost() {
    for version in versions() {
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
    for version in versions() {
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
    for version in versions() {
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

/// Packs everything, as if two days had passed since the last batch came.
async fn pack(store: &Store) {
    let newest = |conn: &Connection| {
        conn.query_row("SELECT COALESCE(max(at), 0) FROM hot", [], |row| row.get::<_, i64>(0))
    };
    let newest = store.read(newest).await.unwrap();
    flush(store).await;
    keeper(store).pass(UnixMillis(newest + 2 * 86_400_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_every_schema_can_be_packed_with_nothing_lost() {
    for version in versions() {
        let (dir, want) = unpacked(version);
        let store = Store::open(dir.path()).unwrap();
        pack(&store).await;
        let is = told_by(&store).await;
        assert_eq!(is["hot"][0], 0, "schema {version}: all is in day files");
        for what in ["requests", "samples", "watermarks"] {
            assert_eq!(is[what], want[what], "schema {version}: {what}");
        }
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(told_by(&store).await, is, "schema {version}, opened again");
    }
}

/// Run by hand, before a migration ends this schema:
/// `cargo test --workspace --lib store::kept_tests -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into the source tree: see kept/README.md"]
async fn write_the_kept_files_of_this_schema() {
    let version = MIGRATIONS.len();
    let (dir, _) = unpacked(version - 1);
    let store = Store::open(dir.path()).unwrap();
    // What it has is packed, and the first batches come once more: for hours that are packed.
    let rows = store.read(|conn| super::read::hot_after(conn, 0, usize::MAX, usize::MAX));
    let rows = rows.await.unwrap();
    pack(&store).await;
    for (n, row) in rows.iter().take(30).enumerate() {
        let server = row.server.0;
        // The first of them say whose the sites of their server are.
        let known = super::read::sites;
        let (of, by) = (row.server, format!("user{n}"));
        let sites = store.read(move |conn| known(conn, of)).await.unwrap().into_iter();
        let owned = |site: super::SiteRow| super::SiteSeen {
            name: site.name,
            pool: None,
            upstream: None,
            owner: Some(by.clone()),
        };
        let sites = if n < 3 { sites.map(owned).collect() } else { Vec::new() };
        let mark = store.durable(row.server);
        let again = NewBatch {
            at: row.at,
            t_min: row.t_min,
            t_max: row.t_max,
            body: row.body.clone(),
            sites,
            ..batch(server, mark.epoch, mark.seq + 1)
        };
        store.append(again).await.unwrap().await.unwrap().unwrap();
    }
    let told = told_by(&store).await;
    store.close().await.unwrap();
    drop(store);
    let to = kept().join(format!("schema{version}"));
    for folder in ["", "blocks", "rollup"] {
        let Ok(entries) = std::fs::read_dir(dir.path().join(folder)) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|end| end == "db") {
                let name = path.strip_prefix(dir.path()).unwrap().display().to_string();
                let file = to.join(format!("{name}.zst"));
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(file, zstd::encode_all(bytes.as_slice(), 19).unwrap()).unwrap();
            }
        }
    }
    std::fs::write(to.join("told.json"), serde_json::to_vec_pretty(&told).unwrap()).unwrap();
}
