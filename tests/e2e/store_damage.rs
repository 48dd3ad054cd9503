//! Day files that are damaged, swapped or deleted under a running collector, and backups whose target
//! fails: the rest is served, what is missing is said, what is put back is served again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Fleet, eventually, on_a_slow_disk};
use rusqlite::Connection;
use serde_json::Value;

use crate::bad_input::on_a_disk_of;
use crate::farm::LIMIT;
use crate::store_kills::{EAGER, Truth};

fn get(fleet: &Fleet, path: &str) -> Result<Value, String> {
    let (head, body) = fleet.http_get(path, "");
    if !head.starts_with("HTTP/1.0 200") {
        return Err(format!("{path}: {head}"));
    }
    serde_json::from_slice(&body).map_err(|e| format!("{path}: {e}"))
}

/// The value of a series of /metrics.
fn metric(fleet: &Fleet, name: &str) -> f64 {
    let (_, body) = fleet.http_get("/metrics", "");
    let text = String::from_utf8_lossy(&body).into_owned();
    let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn n_served(fleet: &Fleet, answer: &Value, site: &str) -> u64 {
    let of = &answer["sites"][site]["200"];
    of.as_u64().unwrap_or_else(|| {
        assert!(of.is_null(), "{answer} {}", fleet.collector_log());
        0
    })
}

/// The counts of web-1, once there are holes in them for this reason.
fn holes(fleet: &Fleet, why: &str) -> Value {
    eventually("the answer says what is missing", LIMIT, || {
        let answer = get(fleet, "/api/v1/counts?server=web-1")?;
        let holes = answer["holes"].as_array().ok_or_else(|| answer.to_string())?;
        let is_told = holes.iter().any(|hole| hole["why"] == why);
        if is_told { Ok(answer.clone()) } else { Err(answer.to_string()) }
    })
}

/// The damage is told wherever somebody looks.
fn is_told(fleet: &Fleet, file: &str) {
    let health = get(fleet, "/api/v1/health").expect("it answers");
    assert_eq!(health["state"], "degraded", "{health}");
    assert!(health["damaged"].to_string().contains(file), "{health}");
    assert!(metric(fleet, "gatewatch_history_damaged_places") >= 1.0);
    let done = fleet.cli(&["verify"]);
    assert!(done.code == 1 && done.stdout.contains(file), "{done:?}");
}

/// Everything is served again once `verify` has looked.
fn is_well(fleet: &Fleet) {
    eventually("what was put back is served", LIMIT, || {
        let done = fleet.cli(&["verify"]);
        let health = get(fleet, "/api/v1/health")?;
        let answer = get(fleet, "/api/v1/counts?server=web-1")?;
        let is_whole = answer["holes"] == Value::Array(Vec::new());
        if done.code == 0 && health["state"] == "ok" && is_whole {
            return Ok(());
        }
        Err(format!("{done:?} {health} {answer}"))
    });
}

/// Two days with sealed hours, of which nothing is hot any more; the files, the older one first.
fn two_days() -> (Fleet, Truth, PathBuf, PathBuf) {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(EAGER).start();
    let mut truth = Truth::default();
    truth.write_to(&mut fleet, "web-1", 72, "old.example", 300, 200);
    truth.write_to(&mut fleet, "web-1", 26, "young.example", 200, 200);
    truth.is_counted(&fleet);
    let now = harness::now_s();
    for hours in [72, 26] {
        let at = now - hours * 3600;
        eventually("its hour is sealed", LIMIT, || {
            let n = fleet.db().n_sealed(at - 3600..at + 1)?;
            if n > 0 { Ok(()) } else { Err(fleet.collector_log()) }
        });
    }
    let day = |hours: i64| {
        let at = jiff::Timestamp::from_second(now - hours * 3600).expect("this century");
        let name = at.strftime("%Y%m%d.db").to_string();
        fleet.data_dir().join("blocks").join(name)
    };
    let (old, young) = (day(72), day(26));
    (fleet, truth, old, young)
}

/// Puts other bytes under the name of a file at once, as `mv` does.
fn replace(path: &Path, bytes: &[u8]) {
    for tail in ["-wal", "-shm"] {
        fs::remove_file(format!("{}{tail}", path.display())).ok(); // there only while it is written
    }
    let new = path.with_extension("new");
    fs::write(&new, bytes).expect("mine");
    fs::rename(&new, path).expect("mine");
}

#[test]
fn day_files_that_are_damaged_swapped_or_deleted_while_it_runs_are_told_and_served_again() {
    let (fleet, truth, old, young) = two_days();
    let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
    let whole = fs::read(&old).expect("mine");
    let other = fs::read(&young).expect("mine");

    let db = Connection::open(&old).expect("a database");
    let flip =
        "UPDATE site_block SET body = CAST(substr(body, 1, length(body) - 1) || x'5a' AS BLOB)";
    assert!(db.execute(flip, []).expect("writable") > 0);
    drop(db);
    let answer = holes(&fleet, "damaged");
    assert_eq!(n_served(&fleet, &answer, "old.example"), 0);
    assert_eq!(n_served(&fleet, &answer, "young.example"), 200, "the rest is served");
    is_told(&fleet, &name(&old));
    replace(&old, &whole);
    is_well(&fleet);
    truth.is_counted(&fleet);

    replace(&old, &other); // another day's file under its name
    let answer = holes(&fleet, "damaged");
    assert_eq!(n_served(&fleet, &answer, "old.example"), 0);
    assert_eq!(n_served(&fleet, &answer, "young.example"), 200);
    is_told(&fleet, &name(&old));
    assert!(fs::read(&old).expect("mine") == other, "nothing that is damaged is touched");
    replace(&old, &whole);
    is_well(&fleet);

    fs::remove_file(&old).expect("mine");
    let answer = holes(&fleet, "missing");
    assert_eq!(n_served(&fleet, &answer, "young.example"), 200);
    is_told(&fleet, &name(&old));
    assert!(metric(&fleet, "gatewatch_day_files_missing_total") >= 1.0);
    replace(&old, &whole);
    is_well(&fleet);
    truth.is_counted(&fleet);
}

/// Where its backups go, as the collector sees it: beside the data directory.
fn copies(dir: &Path) -> PathBuf {
    dir.with_file_name("copies")
}

/// Words that run a program with a file system of 256 KiB where its backups go.
fn with_little_room_for_copies(dir: &Path) -> Vec<String> {
    fs::create_dir_all(copies(dir)).expect("mine");
    on_a_disk_of(&copies(dir), "256k")
}

/// Words that run a program for which each sync of its backups takes three seconds.
fn with_slow_copies(dir: &Path) -> Vec<String> {
    fs::create_dir_all(copies(dir)).expect("mine");
    on_a_slow_disk(&copies(dir), 3000)
}

/// A collector that makes a backup by itself, five seconds after its start; with it how many lines came.
fn backing_up(wrapper: fn(&Path) -> Vec<String>) -> (Fleet, Truth) {
    let builder = Fleet::builder().collector_wrapper(wrapper).agents(["web-1"]);
    let mut fleet = builder.batch_interval("200ms").toml(EAGER).start();
    let mut truth = Truth::default();
    truth.write_to(&mut fleet, "web-1", 2, "a.example", 500, 200);
    truth.is_counted(&fleet);
    let dir = copies(&fleet.data_dir());
    fs::create_dir_all(&dir).expect("mine");
    let text = format!("\n[backup]\ndir = \"{}\"\ninterval = \"1h\"\nkeep = 2\n", dir.display());
    configure(&mut fleet, |config| config + &text);
    (fleet, truth)
}

/// Changes the configuration and starts the collector anew.
fn configure(fleet: &mut Fleet, change: impl FnOnce(String) -> String) {
    fleet.stop_collector();
    let file = fleet.data_dir().with_file_name("collector.toml");
    let text = fs::read_to_string(&file).expect("the harness wrote it");
    fs::write(&file, change(text)).expect("mine");
    fleet.start_collector();
}

/// Waits for a failed backup; every line that is written meanwhile is counted within seconds.
fn fails_to_back_up(fleet: &mut Fleet, truth: &mut Truth, why: &str) {
    eventually("it is told that no backup was made", LIMIT, || {
        truth.write_to(fleet, "web-1", 2, "a.example", 1, 502);
        let health = get(fleet, "/api/v1/health")?;
        let failure = health["backup"]["failure"].as_str().unwrap_or_default().to_owned();
        if health["state"] == "degraded" && failure.contains(why) {
            Ok(())
        } else {
            Err(format!("{health} {}", fleet.collector_log()))
        }
    });
    truth.is_counted(fleet);
    assert!((metric(fleet, "gatewatch_collector_backup_failing") - 1.0).abs() < f64::EPSILON);
    assert!(metric(fleet, "gatewatch_backups_failed_total") >= 1.0);
    assert!(!fleet.data_dir().join("backup.tmp").exists(), "no copy is left behind");
}

#[test]
fn backups_to_a_disk_that_is_full_or_not_there_are_told_and_delay_nothing() {
    let (mut fleet, mut truth) = backing_up(with_little_room_for_copies);
    fails_to_back_up(&mut fleet, &mut truth, "space");
    let inside =
        format!("/proc/{}/root{}", fleet.collector().pid(), copies(&fleet.data_dir()).display());
    let left: Vec<_> = fs::read_dir(&inside)
        .expect("it is seen")
        .map(|file| file.expect("readable").file_name().into_string().expect("ASCII"))
        .filter(|name| name != "files" && name != "owner")
        .collect();
    assert!(left.is_empty(), "no half backup stays: {left:?}");

    let plain = fleet.data_dir().with_file_name("plain");
    fs::write(&plain, "").expect("mine");
    let from = copies(&fleet.data_dir()).display().to_string();
    configure(&mut fleet, |config| config.replace(&from, &format!("{}/copies", plain.display())));
    fails_to_back_up(&mut fleet, &mut truth, "plain");
}

#[test]
fn backups_to_a_slow_disk_delay_nothing() {
    let (mut fleet, mut truth) = backing_up(with_slow_copies);
    let begun = harness::instant();
    let mut waits = Vec::new();
    eventually("a backup is made by itself", LIMIT, || {
        let asked = harness::instant();
        truth.write_to(&mut fleet, "web-1", 2, "a.example", 1, 502);
        truth.is_counted(&fleet);
        waits.push(asked.elapsed());
        let health = get(&fleet, "/api/v1/health")?;
        if health["backup"]["made_at"].is_string() { Ok(()) } else { Err(health.to_string()) }
    });
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(3), "its syncs were slow: {took:?}");
    waits.sort();
    let median = waits[waits.len() / 2];
    assert!(
        median < Duration::from_millis(2500),
        "lines wait for no backup: {waits:?} of {took:?}"
    );
}
