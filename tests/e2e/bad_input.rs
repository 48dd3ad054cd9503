//! Bad input of every kind: a clear message that names the object and the fix, and nothing else stops.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use harness::{AgentSpec, Db, Fleet, Output, Root, eventually, find_program, program};

use crate::farm::LIMIT;

/// Waits until web-1 has stored exactly `n` requests.
fn stored(fleet: &Fleet, n: u64) {
    eventually(&format!("{n} requests are stored"), LIMIT, || {
        let have = fleet.db().n_requests("web-1");
        let log = fleet.agent("web-1").log_text();
        if have == n { Ok(()) } else { Err(format!("{have}\n{log}")) }
    });
}

/// Waits until one line of the agent's log has all these words.
fn logged(fleet: &Fleet, words: &[&str]) {
    eventually(&format!("the agent logs {words:?}"), LIMIT, || {
        let log = fleet.agent("web-1").log_text();
        let told = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if told { Ok(()) } else { Err(log) }
    });
}

/// One more explicit access log.
pub(crate) fn source(path: &Path) -> String {
    format!(
        "[[logs.source]]\npath = \"{}\"\nkind = \"access\"\nformat = \"vhost_combined\"\n",
        path.display()
    )
}

/// An agent with this configuration, and its collector.
pub(crate) fn one_agent(toml: &str) -> Fleet {
    Fleet::builder().agent(AgentSpec::new("web-1").toml(toml)).batch_interval("200ms").start()
}

#[test]
fn an_unreadable_log_is_named_with_the_command_that_grants_it_and_read_once_it_may_be() {
    let dir = Root::new();
    let secret = dir.write("secret.log", "");
    let user = AgentSpec::new("web-1").toml(&source(&secret)).unprivileged();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("mine");
    let mut fleet = Fleet::builder().agent(user).batch_interval("200ms").start();
    logged(&fleet, &["secret.log", "WARN"]);
    let told = fleet.agent("web-1").log_text();
    let told = told.lines().find(|l| l.contains("secret.log")).expect("just seen");
    assert!(
        ["setfacl", "chmod", "adm", "usermod"].iter().any(|fix| told.contains(fix)),
        "no fix in: {told}"
    );
    fleet.log("web-1").requests("a.example", 10, 200);
    stored(&fleet, 10);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("mine");
    logged(&fleet, &["secret.log", "can be read now"]);
    harness::LogFeed::open(&secret).requests("b.example", 5, 200);
    stored(&fleet, 15);
}

#[test]
fn a_missing_log_stops_nothing_and_is_followed_once_it_is_there() {
    let dir = Root::new();
    let path = dir.join("later.log");
    let mut fleet = one_agent(&source(&path));
    fleet.log("web-1").requests("a.example", 10, 200);
    stored(&fleet, 10);
    logged(&fleet, &["later.log"]);
    harness::LogFeed::open(&path).requests("b.example", 5, 200);
    stored(&fleet, 15);
}

#[test]
fn a_directory_in_place_of_a_log_is_named_and_stops_nothing() {
    let dir = Root::new();
    let path = dir.mkdir("directory.log");
    let mut fleet = one_agent(&source(&path));
    fleet.log("web-1").requests("a.example", 10, 200);
    stored(&fleet, 10);
    logged(&fleet, &["directory.log", "directory"]);
}

#[test]
fn hostile_lines_are_counted_as_rejected_and_the_good_ones_around_them_are_stored() {
    let mut fleet = one_agent("");
    let log = fleet.log("web-1");
    let good = |log: &mut harness::LogFeed| log.requests("a.example", 10, 200);
    good(log);
    log.raw(&[b"x".repeat(1 << 20), b"\n".to_vec()].concat()); // a line of 1 MiB
    good(log);
    log.raw(b"\0\0\0\0 NUL \0 bytes \0\n");
    good(log);
    log.raw(b"\xff\xfe\xc3\x28 no UTF-8 \xf0\x28\x8c\xbc\n");
    good(log);
    stored(&fleet, 40);
    eventually("the three lines are in the ledger", LIMIT, || {
        let row = fleet.listed("web-1")?;
        if row["loss"]["n_lines_rejected"] == 3 { Ok(()) } else { Err(row.to_string()) }
    });
}

#[test]
fn strange_bytes_inside_a_good_line_are_only_bytes() {
    let mut fleet = one_agent("");
    let when = jiff::Timestamp::from_second(harness::now_s()).expect("in range");
    let when = when.strftime("%d/%b/%Y:%H:%M:%S +0000");
    let line = |path: &[u8], agent: &[u8]| {
        let start = format!("a.example:80 203.0.113.9 - - [{when}] \"GET ");
        let middle = b" HTTP/1.1\" 200 5 \"-\" \"";
        [start.as_bytes(), path, middle, agent, b"\"\n"].concat()
    };
    let fake =
        "b.example:80 203.0.113.9 - - [20/Nov/2026:12:00:00 +0000] \\\"GET / HTTP/1.1\\\" 502 5";
    let log = fleet.log("web-1");
    log.raw(&line(b"/\xff\xfe", b"-")); // invalid UTF-8
    log.raw(&line(b"/nul\0byte", b"-"));
    log.raw(&line(b"/", fake.as_bytes())); // a UserAgent that imitates a log line
    log.raw(&line(b"/", b"\\n2026/11/20 12:00:00 [error] 1#1: *1 upstream timed out (110)"));
    stored(&fleet, 4);
    let truth = BTreeMap::from([(("a.example".to_owned(), 200), 4)]);
    assert_eq!(fleet.db().requests("web-1"), truth);
}

#[test]
fn every_problem_of_a_configuration_is_named_with_its_line_and_a_fix() {
    let dir = Root::new();
    let cases = [
        ("gatewatch-agent", "[collector]\nadress = \"x:1\"\n", vec!["adress", "address", "2"]),
        ("gatewatch-agent", "[limits]\nspool_bytes_max = \"64 parsecs\"\n", vec!["parsecs", "MiB"]),
        ("gatewatch-agent", "[probes]\ninterval = \"0s\"\n", vec!["interval"]),
        ("gatewatch-agent", "this is no TOML\n", vec!["1"]),
        ("gatewatch-collector", "[grpc]\nlistn = \"x\"\n", vec!["listn", "listen"]),
        ("gatewatch-collector", "[grpc]\nlisten = \"nowhere\"\n", vec!["nowhere", "listen"]),
        (
            "gatewatch-collector",
            "[[notify]]\nkind = \"pigeon\"\nurl = \"http://x/\"\n",
            vec!["pigeon", "webhook"],
        ),
    ];
    for (name, text, words) in cases {
        let config = dir.write("config.toml", text);
        for command in ["check", "run"] {
            let done =
                Output::of(Command::new(program(name)).arg("--config").arg(&config).arg(command));
            assert_eq!(done.code, 78, "{name} {command} with {text:?}: {done:?}");
            let told = format!("{}{}", done.stdout, done.stderr);
            assert!(told.contains("config.toml"), "the file is named: {told}");
            for word in &words {
                assert!(told.contains(word), "{name} {command} with {text:?}: no {word} in {told}");
            }
        }
    }
    let none = Output::of(Command::new(program("gatewatch-agent")).args([
        "--config",
        "/no/such.toml",
        "check",
    ]));
    assert_eq!(none.code, 78, "{none:?}");
    assert!(none.stdout.contains("/no/such.toml"), "{none:?}");
}

/// Tries to enrol with this token and hash; returns what happened.
fn enroll(fleet: &Fleet, token: &str, hash: &str) -> Output {
    let dir = Root::new();
    let config = dir.write(
        "agent.toml",
        &format!("state_dir = \"{}/state\"\n[host]\nname = \"web-9\"\n", dir.path().display()),
    );
    let done = Output::of(
        Command::new(program("gatewatch-agent"))
            .arg("--config")
            .arg(config)
            .args(["enroll", "--collector", &fleet.address().to_string()])
            .args(["--token", token, "--ca-hash", hash]),
    );
    let left: Vec<_> = fs::read_dir(dir.join("state")).map_or_else(
        |_| Vec::new(),
        |entries| entries.filter_map(Result::ok).map(|e| e.file_name()).collect(),
    );
    assert!(
        done.code == 0 || !left.iter().any(|name| name == "identity.pem"),
        "a refused agent has no identity: {left:?}"
    );
    done
}

#[test]
fn a_wrong_token_is_refused_with_the_reason_on_both_sides() {
    let fleet = Fleet::builder().start();
    let (token, hash) = fleet.token(&BTreeMap::new());
    let wrong: String = token.chars().rev().collect();
    let done = enroll(&fleet, &wrong, &hash);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains("token"), "{done:?}");
    assert!(done.stderr.contains("token create"), "the fix is named: {done:?}");
    assert!(!done.stderr.contains(&wrong), "secrets are not printed: {done:?}");
    eventually("the collector says so", LIMIT, || {
        let log = fleet.collector_log();
        let told = log.lines().any(|l| l.contains("WARN") && l.contains("token"));
        if told { Ok(()) } else { Err(log) }
    });
    let good = enroll(&fleet, &token, &hash);
    assert_eq!(good.code, 0, "the right one still works: {good:?}");
    let used_up = enroll(&fleet, &token, &hash);
    assert_ne!(used_up.code, 0, "it was for one server: {used_up:?}");
}

#[test]
fn a_wrong_ca_hash_is_refused_before_the_token_is_sent() {
    let fleet = Fleet::builder().start();
    let (token, hash) = fleet.token(&BTreeMap::new());
    let wrong = format!("sha256:{}", "0".repeat(64));
    let done = enroll(&fleet, &token, &wrong);
    assert_ne!(done.code, 0, "{done:?}");
    assert!(done.stderr.contains(&wrong), "{done:?}");
    assert!(done.stderr.contains(&hash), "what was presented is named: {done:?}");
    let malformed = enroll(&fleet, &token, "sha256:xyz");
    assert_ne!(malformed.code, 0, "{malformed:?}");
    assert!(malformed.stderr.contains("--ca-hash"), "{malformed:?}");
    let good = enroll(&fleet, &token, &hash);
    assert_eq!(good.code, 0, "the token was not used up: {good:?}");
}

#[test]
fn agents_whose_clocks_are_a_day_off_connect_and_are_shown_with_their_offset() {
    let faketime = find_program(&["faketime"], "faketime");
    let faketime = faketime.display().to_string();
    let mut fleet = Fleet::builder()
        .agent(AgentSpec::new("early").wrapper(&[&faketime, "-f", "+86400s"]))
        .agent(AgentSpec::new("late").wrapper(&[&faketime, "-f", "-86400s"]))
        .batch_interval("200ms")
        .start();
    for (name, offset_s) in [("early", 86_400), ("late", -86_400)] {
        fleet.log(name).shift_clock(offset_s);
        fleet.log(name).requests("a.example", 20, 200);
        eventually(&format!("{name} is stored and its clock is known"), LIMIT, || {
            let row = fleet.listed(name)?;
            let off = row["clock_offset_ms"].as_i64().unwrap_or(0);
            let n = fleet.db().n_requests(name);
            let near = (off.abs() - 86_400_000).abs() < 60_000;
            let sign = off.signum() == i64::signum(offset_s); // positive: it is ahead
            if near && sign && n == 20 { Ok(()) } else { Err(format!("{n}: {row}")) }
        });
    }
    for name in ["early", "late"] {
        eventually(&format!("the collector warns of {name}"), LIMIT, || {
            let log = fleet.collector_log();
            let told =
                log.lines().any(|l| l.contains("WARN") && l.contains("clock") && l.contains(name));
            if told { Ok(()) } else { Err(log) }
        });
        eventually(&format!("{name} warns of its own clock"), LIMIT, || {
            let log = fleet.agent(name).log_text();
            let told =
                log.lines().any(|l| l.contains("WARN") && l.contains("clock of this server"));
            if told { Ok(()) } else { Err(log) }
        });
    }
}

/// Words that run a program with a tiny file system of its own mounted over `path`.
pub(crate) fn on_a_tiny_disk(path: &Path) -> Vec<String> {
    on_a_disk_of(path, "4m")
}

/// The same of another size.
pub(crate) fn on_a_disk_of(path: &Path, size: &str) -> Vec<String> {
    let path = path.display();
    let script = format!("mount -t tmpfs -o size={size},mode=0755 tmpfs {path} && exec \"$@\"");
    let mut words = vec![find_program(&["unshare"], "util-linux").display().to_string()];
    if harness::is_root() {
        words.push("--mount".to_owned());
    } else {
        words.extend(["--mount", "--user", "--map-root-user"].map(str::to_owned));
    }
    words.extend(["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]);
    words
}

/// Fills the file system that the process `pid` sees at `dir`; returns the file that does it.
pub(crate) fn fill(pid: u32, dir: &Path) -> std::path::PathBuf {
    let inside = format!("/proc/{pid}/root{}/filler", dir.display());
    let mut size = 0;
    let mut file = fs::File::create(&inside).expect("the tiny disk can be seen");
    for block in [65_536, 4096, 512] {
        while std::io::Write::write_all(&mut file, &vec![7; block]).is_ok() {
            size += block;
            assert!(size < 16 << 20, "this is no tiny disk");
        }
    }
    inside.into()
}

#[test]
fn a_full_disk_under_the_spool_is_named_and_loses_nothing() {
    let mut fleet = Fleet::builder().batch_interval("200ms").start();
    let spool = fleet.data_dir().ancestors().nth(2).expect("the fleet").join("web-1/state/spool");
    fs::create_dir_all(&spool).expect("mine");
    let words = on_a_tiny_disk(&spool);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fleet.add_agent(AgentSpec::new("web-1").wrapper(&words), "200ms");
    fleet.log("web-1").requests("a.example", 10, 200);
    stored(&fleet, 10);
    let ballast = fill(fleet.agent("web-1").process().pid(), &spool);
    for _ in 0..5 {
        fleet.log("web-1").requests("a.example", 100, 200);
        fleet.log("web-1").requests("b.example", 100, 502);
    }
    logged(&fleet, &["WARN", "spool", "space"]);
    assert!(fleet.agent_mut("web-1").status().is_ok(), "it still answers");
    fs::remove_file(ballast).expect("mine");
    stored(&fleet, 1010);
    fleet.agent_mut("web-1").stop();
    assert_eq!(fleet.db().n_requests("web-1"), 1010);
}

#[test]
fn a_full_disk_under_the_database_is_named_and_agents_keep_their_batches() {
    let mut fleet = Fleet::builder()
        .collector_wrapper(on_a_tiny_disk)
        .agents(["web-1"])
        .batch_interval("200ms")
        .start();
    let pid = fleet.collector().pid();
    let dir = fleet.data_dir();
    let db = Db::inside(pid, &dir.join("gatewatch.db"));
    let stored = |n: u64| {
        eventually(&format!("{n} requests are stored"), LIMIT, || {
            let have = db.n_requests("web-1");
            if have == n { Ok(()) } else { Err(format!("{have}")) }
        });
    };
    fleet.log("web-1").requests("a.example", 10, 200);
    stored(10);
    let ballast = fill(pid, &dir);
    let mut written = 10;
    eventually("the collector says that its disk is full", LIMIT, || {
        for n in 0..200 {
            fleet.log("web-1").requests(&format!("{n}.of-a-few-sites.example"), 3, 502);
        }
        written += 600;
        let log = fleet.collector_log();
        let told = log.lines().any(|l| l.contains("full") && l.contains("gatewatch"));
        if told { Ok(()) } else { Err(log) }
    });
    assert!(fleet.cli(&["agent", "list"]).good().is_ok(), "it still answers");
    fs::remove_file(ballast).expect("mine");
    stored(written);
}

#[test]
fn a_port_in_use_is_named_and_the_collector_ends_with_a_message() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for (grpc, http) in [(address.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", &address)] {
        let dir = Root::new();
        let config = dir.write(
            "collector.toml",
            &format!(
                "data_dir = \"{0}/data\"\nsocket = \"{0}/c.sock\"\n[grpc]\nlisten = \"{grpc}\"\n\
                 [http]\nlisten = \"{http}\"\n",
                dir.path().display()
            ),
        );
        let done = Output::of(
            Command::new(program("gatewatch-collector")).arg("--config").arg(config).arg("run"),
        );
        assert!(done.code == 70 || done.code == 78, "{done:?}");
        assert!(done.stderr.contains(&address), "the address is named: {done:?}");
        assert!(done.stderr.contains("listen"), "the key to change is named: {done:?}");
    }
}
