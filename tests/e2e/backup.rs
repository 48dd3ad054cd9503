//! Backups under load, restores that lose nothing, damage that is found, named and survived.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Fleet, Output, eventually};
use rusqlite::Connection;
use serde_json::Value;

use crate::farm::LIMIT;
use crate::store_kills::{EAGER, Truth, something_is_sealed};

/// Longest that an ack may take while a backup is made: the agent gathers for 0.2 s, and a machine that
/// builds and tests at once is slow.
const ACK_MAX: Duration = Duration::from_secs(5);

/// Waits until exactly these requests of web-1 are stored: 200s and 502s.
fn stored(fleet: &Fleet, truth: (u64, u64)) {
    eventually("every request is stored once", LIMIT, || {
        let stored = (n_counted(fleet, "200")?, n_counted(fleet, "502")?);
        if stored == truth { Ok(()) } else { Err(format!("{stored:?} instead of {truth:?}")) }
    });
}

/// Requests of web-1 with a status, sealed or not.
fn n_counted(fleet: &Fleet, status: &str) -> Result<u64, String> {
    let counted = fleet.counted("web-1")?;
    Ok(counted.iter().filter(|((_, found), _)| found == status).map(|(_, n)| n).sum())
}

/// Whether the collector has acked every line of an agent's log.
fn is_acked(fleet: &Fleet, name: &str) -> Result<(), String> {
    let status = fleet.agent(name).status()?;
    let file = &status["files"][0];
    let path = file["path"].as_str().ok_or_else(|| format!("no file yet: {status}"))?;
    let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
    if file["acked"].as_u64() == Some(size) { Ok(()) } else { Err(status.to_string()) }
}

fn verify(fleet: &Fleet, words: &[&str]) -> (i32, Value) {
    let done = fleet.cli(&[&["verify", "--json"], words].concat());
    let report = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    (done.code, report)
}

#[test]
fn a_backup_made_under_load_is_restored_and_agents_bring_the_rest_exactly() {
    let names = ["web-1", "web-2", "web-3"];
    let mut fleet = Fleet::builder().agents(names).batch_interval("200ms").toml(EAGER).start();
    let mut truth = Truth::default();
    for hours in 0..=3 {
        for name in names {
            truth.write(&mut fleet, name, hours, 500, 200);
        }
    }
    truth.is_counted(&fleet);
    something_is_sealed(&fleet);
    let n_before = 4 * 500;
    let file = fleet.data_dir().with_file_name("b.tar");
    let shown = file.display().to_string();
    // Lines come while it is made, of all agents, and hours are sealed.
    let mut command = fleet.collector_command();
    let making = std::thread::spawn(move || Output::of(command.args(["backup", &shown])));
    let (mut round, mut waits) = (0, Vec::new());
    while !making.is_finished() || round < 10 {
        truth.write(&mut fleet, "web-1", round % 4, 10, 200);
        truth.write(&mut fleet, "web-1", round % 4, 1, 502);
        let sent = harness::instant();
        eventually("an agent's lines are acked", LIMIT, || {
            for name in ["web-2", "web-3"] {
                truth.write(&mut fleet, name, round % 4, 10, 200);
            }
            is_acked(&fleet, "web-1")
        });
        waits.push(sent.elapsed());
        round += 1;
    }
    assert!(waits.iter().all(|wait| *wait < ACK_MAX), "{waits:?}");
    let made = making.join().expect("it does not panic");
    assert_eq!(made.code, 0, "{made:?}");
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shown = file.display().to_string();
    assert_eq!(fleet.cli(&["backup", &shown]).code, 2, "no file is replaced without --force");
    truth.write(&mut fleet, "web-1", 0, 300, 200);
    let n_all = n_before + 11 * round.unsigned_abs() + 300;
    truth.is_counted(&fleet);
    let (code, report) = verify(&fleet, &[&shown]);
    assert_eq!(code, 0, "{report:#}");
    let (code, report) = verify(&fleet, &[]);
    assert_eq!(code, 0, "while it runs: {report:#}");

    restore(&mut fleet, &shown);
    for name in names {
        fleet.kill9_agent(name);
    }
    fleet.start_collector();
    let restored = eventually("it answers", LIMIT, || {
        Ok(n_counted(&fleet, "200")? + n_counted(&fleet, "502")?)
    });
    assert!(restored >= n_before && restored < n_all, "{restored} of {n_before} to {n_all}");
    for name in names {
        fleet.restart_agent(name);
    }
    truth.is_counted(&fleet);
    truth.write(&mut fleet, "web-1", 0, 7, 200);
    truth.is_counted(&fleet);
    assert_eq!(fleet.db().n_gaps(), Ok(0));
    // Also without a collector.
    fleet.stop_collector();
    assert_eq!(fleet.cli(&["backup", &shown, "--force"]).code, 0);
    assert_eq!(verify(&fleet, &[&shown]).0, 0);
    let half = fs::read_dir(file.parent().expect("a folder")).expect("readable");
    let is_half = |path: PathBuf| path.extension().is_some_and(|extension| extension == "new");
    assert_eq!(half.filter(|f| f.as_ref().is_ok_and(|f| is_half(f.path()))).count(), 0);
}

/// Restores a backup in the place of what is there, after it was refused.
fn restore(fleet: &mut Fleet, shown: &str) {
    let refused = fleet.cli(&["restore", shown, "--force"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.stderr.contains("a collector runs on it"), "{refused:?}");
    fleet.stop_collector();
    let refused = fleet.cli(&["restore", shown]);
    assert!(refused.code == 2 && refused.stderr.contains("--force"), "{refused:?}");
    let done = fleet.cli(&["restore", shown, "--force"]);
    assert_eq!(done.code, 0, "{done:?}");
}

/// A fleet with sealed hours of two hours ago, its collector stopped; its first day file.
fn sealed() -> (Fleet, PathBuf) {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(EAGER).start();
    fleet.log("web-1").shift_clock(-3 * 3600);
    fleet.log("web-1").requests("a.example", 400, 200);
    let blocks = fleet.data_dir().join("blocks");
    eventually("an hour is sealed", LIMIT, || {
        let (code, report) = verify(&fleet, &[]);
        if code == 0 && report["n_hours"].as_u64() > Some(0) {
            Ok(())
        } else {
            Err(report.to_string())
        }
    });
    fleet.stop_collector();
    let mut days =
        fs::read_dir(blocks).expect("there are days").filter_map(|f| Some(f.ok()?.path()));
    let day = days.find(|path| path.extension().is_some_and(|ext| ext == "db"));
    (fleet, day.expect("there is a day"))
}

fn only_problem(fleet: &Fleet) -> String {
    let (code, report) = verify(fleet, &[]);
    assert_eq!((code, &report["n_problems"]), (1, &Value::from(1)), "{report:#}");
    let told = fleet.cli(&["verify"]);
    assert!(told.code == 1 && told.stdout.contains("fix: "), "{told:?}");
    report["problems"][0].to_string()
}

#[test]
fn a_flipped_byte_a_deleted_and_a_swapped_day_file_are_named() {
    let (mut fleet, day) = sealed();
    let whole = fs::read(&day).expect("readable");
    let name = day.file_name().expect("a file").to_string_lossy().into_owned();
    let db = Connection::open(&day).expect("a database");
    let flip =
        "UPDATE site_block SET body = CAST(substr(body, 1, length(body) - 1) || x'5a' AS BLOB)";
    assert!(db.execute(flip, []).expect("writable") > 0);
    drop(db);
    let said = only_problem(&fleet);
    assert!(said.contains(&format!("blocks/{name}")) && said.contains("counts"), "{said}");
    fs::remove_file(&day).expect("it is there");
    assert!(only_problem(&fleet).contains("it is missing"), "{}", only_problem(&fleet));
    let db = Connection::open(&day).expect("a new database");
    db.execute_batch("CREATE TABLE file(day TEXT)").expect("writable");
    drop(db);
    assert!(only_problem(&fleet).contains("it is no day file"), "{}", only_problem(&fleet));
    fs::write(&day, &whole).expect("writable");
    assert_eq!(verify(&fleet, &[]).0, 0);
    // Sealed history comes back with a backup.
    let shown = fleet.data_dir().with_file_name("b.tar").display().to_string();
    assert_eq!(fleet.cli(&["backup", &shown]).code, 0);
    fs::remove_file(&day).expect("it is there");
    assert_eq!(fleet.cli(&["restore", &shown, "--force"]).code, 0);
    let (code, report) = verify(&fleet, &[]);
    assert!(code == 0 && report["n_hours"].as_u64() > Some(0), "{report:#}");
    fleet.start_collector();
}

fn damage(database: &Path) {
    for tail in ["-wal", "-shm"] {
        let beside = format!("{}{tail}", database.display());
        fs::remove_file(beside).ok(); // there only after a kill
    }
    fs::write(database, vec![0xa5; 64 << 10]).expect("writable");
}

#[test]
fn a_damaged_database_is_replaced_by_the_backup_made_by_itself_and_no_request_is_lost() {
    let root = harness::Root::new();
    let copies = root.mkdir("copies");
    let toml = format!("[backup]\ndir = \"{}\"\ninterval = \"1h\"\nkeep = 3\n", copies.display());
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(&toml).start();
    fleet.log("web-1").requests("a.example", 200, 200);
    let archive = || {
        let files = fs::read_dir(&copies).expect("readable").filter_map(|f| Some(f.ok()?.path()));
        let mut files = files.filter(|path| path.extension().is_some_and(|ext| ext == "tar"));
        files.next().ok_or_else(|| "no backup yet".to_owned())
    };
    let file = eventually("a backup is made by itself", LIMIT, archive);
    assert_eq!(verify(&fleet, &[&file.display().to_string()]).0, 0);
    fleet.log("web-1").requests("a.example", 300, 200);
    fleet.log("web-1").requests("b.example", 5, 502);
    stored(&fleet, (500, 5));
    fleet.kill9_collector();
    damage(&fleet.data_dir().join("gatewatch.db"));
    let (code, report) = verify(&fleet, &[]);
    assert!(code == 1 && report["problems"][0]["file"] == "gatewatch.db", "{report:#}");
    fleet.start_collector();
    let log = fleet.collector_log();
    assert!(log.contains("the database was damaged: the newest backup took its place"), "{log}");
    stored(&fleet, (500, 5));
    assert_eq!(fleet.db().n_gaps(), Ok(0));
    let kept = fs::read_dir(fleet.data_dir()).expect("readable").filter_map(Result::ok);
    let mut kept = kept.filter(|f| f.file_name().to_string_lossy().starts_with("damaged-"));
    assert!(kept.any(|folder| folder.path().join("gatewatch.db").exists()), "nothing is deleted");
}

#[test]
fn a_damaged_database_without_a_backup_is_left_alone_and_the_way_out_is_said() {
    let mut fleet = Fleet::builder().agents(["web-1"]).start();
    fleet.stop_collector();
    let database = fleet.data_dir().join("gatewatch.db");
    damage(&database);
    let before = fs::read(&database).expect("readable");
    let done = Output::of(fleet.collector_command().arg("run"));
    assert_eq!(done.code, 70, "{done:?}");
    assert!(done.stderr.contains("gatewatch-collector restore FILE --force"), "{done:?}");
    assert_eq!(fs::read(&database).expect("readable"), before);
}
