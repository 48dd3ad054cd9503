//! Logs that are renamed, deleted, truncated and swapped under the agent: every line counts once.

use std::fs;
use std::time::Duration;

use harness::{AgentSpec, Fleet, LogFeed, eventually};

use crate::farm::LIMIT;

/// Waits until exactly `n` requests of web-1 are stored.
fn stored(fleet: &Fleet, n: u64) {
    eventually(&format!("{n} requests are stored"), LIMIT, || {
        let have = fleet.db().n_requests("web-1");
        if have == n { Ok(()) } else { Err(format!("{have}")) }
    });
}

fn fleet() -> Fleet {
    Fleet::builder().agents(["web-1"]).batch_interval("100ms").start()
}

#[test]
fn renamed_log_is_read_to_its_last_byte() {
    let mut fleet = fleet();
    for round in 1..=5 {
        let log = fleet.log("web-1");
        log.requests("a.example", 200, 200);
        log.rotate();
        log.requests("a.example", 100, 200);
        if round % 2 == 0 {
            stored(&fleet, 300 * round); // sometimes it keeps up, sometimes it is behind
        }
    }
    stored(&fleet, 1500);
    fleet.agent_mut("web-1").stop();
    assert_eq!(fleet.db().n_requests("web-1"), 1500);
}

#[test]
fn lines_that_nginx_still_writes_to_the_renamed_file_are_counted() {
    let mut fleet = fleet();
    let path = fleet.log("web-1").path().to_owned();
    let old = path.with_extension("log.1");
    fleet.log("web-1").requests("a.example", 50, 200);
    stored(&fleet, 50);
    // logrotate renames; the server keeps its handle until it is told to reopen.
    fs::rename(&path, &old).expect("the log can be renamed");
    fleet.log("web-1").requests("a.example", 30, 200);
    stored(&fleet, 80);
    let mut new = LogFeed::open(&path);
    fleet.log("web-1").requests("a.example", 7, 200); // the last stragglers
    new.requests("a.example", 20, 200);
    stored(&fleet, 107);
}

#[test]
fn log_rotated_while_the_agent_was_down_is_read_from_where_it_was_left() {
    let mut fleet = fleet();
    fleet.log("web-1").requests("a.example", 40, 200);
    stored(&fleet, 40);
    fleet.agent_mut("web-1").stop();
    fleet.log("web-1").requests("a.example", 25, 200);
    fleet.log("web-1").rotate();
    fleet.log("web-1").requests("a.example", 35, 200);
    fleet.restart_agent("web-1");
    stored(&fleet, 100);
}

#[test]
fn offsets_do_not_run_ahead_of_what_is_spooled_while_the_collector_is_down() {
    let mut fleet = fleet();
    fleet.log("web-1").requests("a.example", 40, 200);
    stored(&fleet, 40);
    fleet.stop_collector();
    fleet.log("web-1").requests("a.example", 500, 200);
    eventually("500 lines wait in the spool", LIMIT, || {
        let status = fleet.agent("web-1").status()?;
        let file = &status["files"][0];
        let [read, spooled, acked] = ["read", "spooled", "acked"].map(|key| file[key].as_u64());
        if read == spooled && file["n_lines"] == 540 {
            assert!(acked < spooled, "nobody has acked: {file}");
            return Ok(());
        }
        Err(file.to_string())
    });
    fleet.kill9_agent("web-1");
    fleet.log("web-1").requests("a.example", 25, 200);
    fleet.log("web-1").rotate();
    fleet.log("web-1").requests("a.example", 35, 200);
    fleet.restart_agent("web-1");
    fleet.start_collector();
    stored(&fleet, 600);
}

#[test]
fn a_log_rotated_to_another_directory_while_the_agent_was_down_is_found_there() {
    let mut fleet = fleet();
    fleet.log("web-1").requests("a.example", 40, 200);
    stored(&fleet, 40);
    fleet.kill9_agent("web-1");
    fleet.log("web-1").requests("a.example", 25, 200);
    let path = fleet.log("web-1").path().to_owned();
    let old = path.parent().expect("in a directory").join("old");
    fs::create_dir(&old).expect("mine");
    fs::rename(&path, old.join("access.log-20261120")).expect("the log can be renamed");
    LogFeed::open(&path).requests("a.example", 35, 200);
    fleet.restart_agent("web-1");
    stored(&fleet, 100);
    let loss = fleet.db().loss("web-1");
    assert_eq!(loss.get("n_truncations").copied().unwrap_or_default(), 0, "{loss:?}");
}

#[test]
fn truncated_log_is_read_from_its_beginning() {
    let mut fleet = fleet();
    fleet.log("web-1").requests("a.example", 60, 200);
    stored(&fleet, 60);
    fleet.log("web-1").copytruncate();
    fleet.log("web-1").requests("a.example", 5, 200);
    stored(&fleet, 65);
    eventually("the truncation is in the ledger", LIMIT, || {
        let loss = fleet.db().loss("web-1");
        if loss.get("n_truncations") == Some(&1) { Ok(()) } else { Err(format!("{loss:?}")) }
    });
}

#[test]
fn deleted_and_recreated_log_is_followed_again() {
    let mut fleet = fleet();
    for round in 1..=3 {
        fleet.log("web-1").requests("a.example", 20, 200);
        stored(&fleet, 20 * round);
        fleet.log("web-1").recreate();
    }
    fleet.log("web-1").requests("a.example", 9, 200);
    stored(&fleet, 69);
}

#[test]
fn swapped_symlink_is_followed_to_its_new_target() {
    let dir = harness::Root::new();
    let link = dir.join("access.log");
    let mut first = LogFeed::open(&dir.join("2026-11-19.log"));
    std::os::unix::fs::symlink(first.path(), &link).expect("a link can be made");
    let toml = format!(
        "[[logs.source]]\npath = \"{}\"\nkind = \"access\"\nformat = \"vhost_combined\"\n",
        link.display()
    );
    let fleet =
        Fleet::builder().agent(AgentSpec::new("web-1").toml(&toml)).batch_interval("100ms").start();
    first.requests("a.example", 30, 200);
    stored(&fleet, 30);
    let mut second = LogFeed::open(&dir.join("2026-11-20.log"));
    second.requests("a.example", 12, 200);
    let fresh = dir.join("fresh");
    std::os::unix::fs::symlink(second.path(), &fresh).expect("a link can be made");
    fs::rename(&fresh, &link).expect("a link can be replaced");
    first.requests("a.example", 3, 200); // a straggler in the old target
    stored(&fleet, 45);
}

#[test]
fn new_match_of_a_glob_is_followed_within_seconds_and_named_by_it() {
    let dir = harness::Root::new();
    dir.mkdir("srv/a.example/logs");
    let toml = format!(
        "[[logs.source]]\npath = \"{}/srv/*/logs/access.log\"\nkind = \"access\"\n\
         format = \"combined\"\nsite = \"{{1}}\"\n",
        dir.path().display()
    );
    let fleet =
        Fleet::builder().agent(AgentSpec::new("web-1").toml(&toml)).batch_interval("100ms").start();
    let log = dir.mkdir("srv/b.example/logs").join("access.log");
    let line =
        "203.0.113.9 - - [20/Nov/2026:12:00:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\"\n";
    fs::write(log, line.repeat(4)).expect("writable");
    eventually("the new site is counted", Duration::from_secs(20), || {
        let counts = fleet.db().requests("web-1");
        let n = counts.get(&("b.example".to_owned(), 200)).copied();
        if n == Some(4) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
}
