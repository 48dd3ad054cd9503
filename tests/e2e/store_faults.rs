//! What disks and people do to the store while hours are sealed: acked batches survive each of it, which
//! the collector shows by counting.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Fleet, Output, eventually, find_program, is_root, on_a_slow_disk, program};

use crate::bad_input::{fill, on_a_tiny_disk};
use crate::farm::LIMIT;
use crate::store_kills::{EAGER, Truth, something_is_sealed};

#[test]
fn a_disk_that_is_full_while_hours_are_sealed_loses_nothing() {
    let mut fleet = Fleet::builder()
        .collector_wrapper(on_a_tiny_disk)
        .agents(["web-1"])
        .batch_interval("200ms")
        .toml(EAGER)
        .start();
    let mut truth = Truth::default();
    for hours in 1..=3 {
        truth.write(&mut fleet, "web-1", hours, 50, 200);
    }
    truth.is_counted(&fleet);
    let pid = fleet.collector().pid();
    for round in 0..3 {
        let filler = fill(pid, &fleet.data_dir());
        eventually("the collector says that its disk is full", LIMIT, || {
            for hours in 0..=3 {
                truth.write(&mut fleet, "web-1", hours, 30, 502);
            }
            let log = fleet.collector_log();
            let n_told = log.lines().filter(|l| l.contains("ERROR") && l.contains("full")).count();
            if n_told > round { Ok(()) } else { Err(log) }
        });
        assert!(fleet.cli(&["agent", "list"]).good().is_ok(), "it still answers");
        fs::remove_file(filler).expect("mine");
        truth.is_counted(&fleet);
    }
    fleet.kill9_agent("web-1"); // what is counted is not what it sends again
    truth.is_counted(&fleet);
}

/// Words that run a program with the data directory as it is, or read-only once a file beside it says so.
fn on_a_disk_that_may_be_read_only(dir: &Path) -> Vec<String> {
    let script = format!(
        "if [ -e {0}.read-only ]; then mount --bind {0} {0} && mount -o remount,bind,ro {0}; fi; \
         exec \"$@\"",
        dir.display()
    );
    let mut words = vec![find_program(&["unshare"], "util-linux").display().to_string()];
    if is_root() {
        words.push("--mount".to_owned());
    } else {
        words.extend(["--mount", "--user", "--map-root-user"].map(str::to_owned));
    }
    words.extend(["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]);
    words
}

/// Every file below a directory.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).expect("mine") {
            let path = entry.expect("mine").path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.clone(), fs::read(&path).expect("mine"));
            }
        }
    }
    found
}

#[test]
fn a_read_only_disk_is_named_and_nothing_on_it_is_touched() {
    let mut fleet = Fleet::builder()
        .collector_wrapper(on_a_disk_that_may_be_read_only)
        .agents(["web-1"])
        .batch_interval("200ms")
        .toml(EAGER)
        .start();
    let mut truth = Truth::default();
    for hours in 0..=3 {
        truth.write(&mut fleet, "web-1", hours, 50, 200);
    }
    truth.is_counted(&fleet);
    something_is_sealed(&fleet);
    fleet.kill9_collector(); // its log is not written back
    let dir = fleet.data_dir();
    let before = tree(&dir);
    let mark = PathBuf::from(format!("{}.read-only", dir.display()));
    fs::write(&mark, "").expect("mine");
    let done = fleet.run_collector();
    assert!(done.code == 70 || done.code == 78, "{done:?}");
    assert!(done.stderr.contains(&dir.display().to_string()), "it is named: {done:?}");
    assert!(done.stderr.contains("write"), "it says what is wrong: {done:?}");
    assert!(tree(&dir) == before, "nothing is touched");
    fs::remove_file(mark).expect("mine");
    truth.write(&mut fleet, "web-1", 2, 10, 200);
    fleet.start_collector();
    truth.is_counted(&fleet);
}

#[test]
fn a_disk_that_takes_half_a_second_for_each_sync_delays_acks_and_nothing_else() {
    let mut fleet = Fleet::builder()
        .collector_wrapper(|dir| on_a_slow_disk(dir, 500))
        .agents(["web-1", "web-2"])
        .batch_interval("200ms")
        .toml(EAGER)
        .start();
    let mut truth = Truth::default();
    let mut waits = Vec::new();
    for round in 0..8 {
        for name in ["web-1", "web-2"] {
            truth.write(&mut fleet, name, round % 4, 20, 200);
            truth.write(&mut fleet, name, round % 4, 1, 502);
        }
        let asked = harness::instant();
        assert!(fleet.cli(&["agent", "list", "--json"]).good().is_ok());
        let counted = fleet.counted("web-1");
        assert!(counted.is_ok(), "{counted:?}");
        waits.push(asked.elapsed());
    }
    // A sync takes half a second, and there is one at any time. A busy machine may delay some of them.
    waits.sort();
    assert!(waits[4] < Duration::from_secs(1), "reading waits for no sync: {waits:?}");
    truth.is_counted(&fleet);
    something_is_sealed(&fleet);
    fleet.kill9_collector();
    fleet.start_collector();
    truth.is_counted(&fleet);
    for name in ["web-1", "web-2"] {
        eventually("heartbeats are heard", LIMIT, || {
            let row = fleet.listed(name)?;
            if row["state"] == "up" { Ok(()) } else { Err(row.to_string()) }
        });
    }
}

#[test]
fn a_second_collector_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(EAGER).start();
    let mut truth = Truth::default();
    truth.write(&mut fleet, "web-1", 2, 50, 200);
    truth.is_counted(&fleet);
    let dir = fleet.data_dir();
    let other = dir.with_file_name("other.toml");
    let (grpc, http) = (harness::loopback(8502), harness::loopback(8503));
    let text = format!(
        "data_dir = \"{}\"\nsocket = \"{}\"\n[grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n{EAGER}",
        dir.display(),
        dir.with_file_name("other.sock").display(),
    );
    fs::write(&other, text).expect("mine");
    let addr = fs::read(dir.join("http.addr")).expect("the first one runs");
    for _ in 0..3 {
        let mut second = Command::new(program("gatewatch-collector"));
        let done = Output::of(second.arg("--config").arg(&other).arg("run"));
        assert!(done.code == 70 || done.code == 78, "{done:?}");
        assert!(done.stderr.contains("in use by another collector"), "{done:?}");
        assert!(done.stderr.contains(&fleet.collector().pid().to_string()), "{done:?}");
        truth.write(&mut fleet, "web-1", 3, 20, 200);
        truth.write(&mut fleet, "web-1", 0, 2, 502);
    }
    assert_eq!(fs::read(dir.join("http.addr")).expect("still there"), addr);
    truth.is_counted(&fleet);
    something_is_sealed(&fleet);
    fleet.stop_collector();
    fleet.start_collector();
    truth.is_counted(&fleet);
}
