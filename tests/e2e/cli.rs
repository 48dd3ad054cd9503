//! The commands people and scripts rely on: exit codes, streams, JSON shapes.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use harness::{Fleet, Output, Process, Root, eventually, program};
use serde_json::Value;

use crate::farm::LIMIT;

fn agent(words: &[&str]) -> Output {
    Output::of(Command::new(program("gatewatch-agent")).args(words))
}

fn collector(words: &[&str]) -> Output {
    Output::of(Command::new(program("gatewatch-collector")).args(words))
}

#[test]
fn both_programs_explain_themselves() {
    for run in [agent, collector] {
        let version = run(&["--version"]).good().expect("--version is answered");
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
        let help = run(&["--help"]).good().expect("--help is answered");
        for word in ["run", "check", "--config", "--log-level"] {
            assert!(help.contains(word), "no {word} in {help}");
        }
        for shell in ["bash", "zsh", "fish"] {
            assert!(!run(&["completions", shell]).good().expect("completions").is_empty());
        }
        let man = run(&["man"]).good().expect("a man page");
        assert!(man.contains(".TH"), "{man}");
        let wrong = run(&["no-such-command"]);
        assert_eq!((wrong.code, wrong.stdout.as_str()), (2, ""), "{wrong:?}");
        assert!(wrong.stderr.contains("no-such-command"), "{wrong:?}");
    }
}

#[test]
fn a_machine_without_ca_certificates_asks_its_collector_all_the_same() {
    let root = Root::new();
    let config = root.path().join("collector.toml");
    let data_dir = root.path().join("data");
    std::fs::write(&config, format!("data_dir = {data_dir:?}\n")).expect("the root is writable");
    let mut command = Command::new(program("gatewatch-collector"));
    command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", root.path());
    command.arg("--config").arg(&config).args(["agent", "list"]);
    let asked = Output::of(&mut command);
    assert!(asked.stderr.contains("the collector is not running"), "{asked:?}");
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let dir = Root::new();
    for (run, name) in [(agent as fn(&[&str]) -> Output, "agent"), (collector, "collector")] {
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../deploy/config/{name}.toml"));
        let text = std::fs::read_to_string(&shipped).expect("it is shipped");
        let config = dir.write(&format!("{name}.toml"), &text);
        let done = run(&["--config", &config.display().to_string(), "check"]);
        assert_eq!(done.code, 0, "{done:?}");
    }
}

#[test]
fn tokens_are_made_listed_and_revoked_and_a_secret_is_shown_once() {
    let fleet = Fleet::builder().start();
    let made = fleet.cli(&["token", "create", "--label", "rack=r7", "--ttl", "2h", "--json"]);
    let made: Value = serde_json::from_str(&made.good().expect("made")).expect("one JSON object");
    for key in ["id", "token", "ca_hash", "expires_at", "uses", "labels", "command"] {
        assert!(!made[key].is_null(), "no {key} in {made}");
    }
    assert!(made["ca_hash"].as_str().is_some_and(|h| h.starts_with("sha256:") && h.len() == 71));
    assert_eq!(made["labels"]["rack"], "r7");
    let (id, secret) = (made["id"].as_str().expect("text"), made["token"].as_str().expect("text"));
    assert!(made["command"].as_str().is_some_and(|c| c.contains(secret)), "{made}");
    let listed = fleet.cli(&["token", "list", "--json"]).good().expect("listed");
    assert!(listed.contains(id), "{listed}");
    assert!(!listed.contains(secret), "secrets are not kept: {listed}");
    fleet.cli(&["token", "revoke", id]).good().expect("revoked");
    let gone = fleet.cli(&["token", "revoke", "no-such-token"]);
    assert_eq!(gone.code, 2, "{gone:?}");
    assert!(!fleet.collector_log().contains(secret), "secrets are not logged");
}

#[test]
fn the_agent_shows_its_files_its_spool_and_its_losses() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").start();
    fleet.log("web-1").requests("a.example", 10, 200);
    fleet.log("web-1").raw(b"this is no record\n");
    let status = eventually("everything is acked", LIMIT, || {
        let status = fleet.agent("web-1").status()?;
        let file = &status["files"][0];
        let done = file["acked"].as_u64().is_some_and(|n| n > 500) && file["acked"] == file["read"];
        if done { Ok(status) } else { Err(status.to_string()) }
    });
    let file = &status["files"][0];
    for key in ["path", "site", "format", "read", "spooled", "acked", "n_lines", "n_rejected"] {
        assert!(file.get(key).is_some(), "no {key} in {status}");
    }
    assert_eq!(file["n_rejected"], 1, "{status}");
    for pointer in ["/uplink", "/spool", "/self/cpu_seconds", "/self/rss_bytes"] {
        assert!(status.pointer(pointer).is_some(), "no {pointer} in {status}");
    }
    for key in ["n_lines_rejected", "n_lines_lost", "n_bytes_lost", "n_batches_evicted"] {
        assert!(status["loss"][key].is_u64(), "no {key} in {status}");
    }
    let listed = fleet.listed("web-1").expect("it is listed");
    for key in [
        "server",
        "labels",
        "version",
        "state",
        "last_seen_at",
        "clock_offset_ms",
        "spool_bytes",
        "n_sites",
        "loss",
    ] {
        assert!(listed.get(key).is_some(), "no {key} in {listed}");
    }
    assert_eq!(listed["loss"]["n_lines_rejected"], 1, "{listed}");
    let table = fleet.cli(&["agent", "list"]).good().expect("a table for people");
    assert!(table.contains("web-1") && table.contains("up"), "{table}");
}

#[test]
fn operator_commands_say_so_when_no_collector_runs() {
    let mut fleet = Fleet::builder().start();
    fleet.stop_collector();
    let done = fleet.cli(&["incident", "list"]);
    assert_eq!((done.code, done.stdout.as_str()), (70, ""), "{done:?}");
    assert!(done.stderr.contains("collector.sock"), "it names the socket: {done:?}");
}

#[test]
fn a_collector_on_port_0_writes_its_addresses_into_its_data_directory() {
    let dir = Root::new();
    let config = dir.write(
        "collector.toml",
        &format!(
            "data_dir = \"{0}/data\"\nsocket = \"{0}/c.sock\"\n[grpc]\nlisten = \"127.0.0.1:0\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n",
            dir.path().display()
        ),
    );
    let mut command = Command::new(program("gatewatch-collector"));
    command.arg("--config").arg(&config).arg("run");
    let collector = Process::start("collector", &mut command, &dir.join("log"));
    for name in ["grpc.addr", "http.addr"] {
        eventually(&format!("{name} names a port that answers"), LIMIT, || {
            let text = std::fs::read_to_string(dir.join("data").join(name))
                .map_err(|e| format!("{e}: {}", collector.log_text()))?;
            let address: SocketAddr =
                text.trim().parse().map_err(|e| format!("{e} in {text:?}"))?;
            TcpStream::connect(address).map(drop).map_err(|e| e.to_string())
        });
    }
    assert!(collector.log_text().contains("listening"), "{}", collector.log_text());
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.join("data/admin.token")).expect("it was made").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "the admin token is private");
}

#[test]
fn a_name_in_use_is_refused_and_a_replacement_keeps_its_history() {
    let fleet = Fleet::builder().agents(["web-1"]).start();
    let enroll = |token: &str, hash: &str, dir: &Root| {
        let config = dir.write(
            "agent.toml",
            &format!("state_dir = \"{}/state\"\n[host]\nname = \"web-1\"\n", dir.path().display()),
        );
        let (config, address) = (config.display().to_string(), fleet.address().to_string());
        agent(&[
            "--config",
            &config,
            "enroll",
            "--collector",
            &address,
            "--token",
            token,
            "--ca-hash",
            hash,
        ])
    };
    let dir = Root::new();
    let (token, hash) = fleet.token(&BTreeMap::new());
    let refused = enroll(&token, &hash, &dir);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stderr.contains("web-1") && refused.stderr.contains("--replace"),
        "{refused:?}"
    );
    let made = fleet.cli(&["token", "create", "--replace", "web-1", "--json"]).good();
    let made: Value = serde_json::from_str(&made.expect("made")).expect("JSON");
    let done = enroll(made["token"].as_str().expect("text"), &hash, &dir);
    assert_eq!(done.code, 0, "{done:?}");
    eventually("the old certificate is revoked", LIMIT, || {
        let log = fleet.agent("web-1").log_text();
        if log.contains("revoked") { Ok(()) } else { Err(log) }
    });
}
