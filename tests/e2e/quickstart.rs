//! The README's first command, as a newcomer runs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Incident, Output, Process, Root, eventually, program};
use serde_json::Value;
use wire::UnixMillis;

use crate::farm::LIMIT;

fn script() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart.sh")
}

/// Command lines of running processes that name `dir`.
fn running_in(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    fs::read_dir("/proc")
        .expect("Linux")
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&dir))
        .collect()
}

#[test]
fn the_demo_shows_a_server_incident_within_5_s_then_one_of_a_hypervisor_and_leaves_nothing_running()
{
    let root = Root::new();
    let dir = root.join("state");
    let bin = program("gatewatch-agent").parent().expect("it is in a directory").to_owned();
    let mut command = Command::new(script());
    command.args(["--demo", "--for", "95", "--dir"]).arg(&dir).arg("--bin").arg(&bin);
    let mut quickstart = Process::start("quickstart", &mut command, &root.join("out"));

    let config = dir.join("collector.toml");
    let incidents = || -> Result<Vec<Incident>, String> {
        let mut list = Command::new(program("gatewatch-collector"));
        list.arg("--config").arg(&config).args(["incident", "list", "--json"]);
        Incident::parse_lines(&Output::of(&mut list).good()?)
    };
    let of = |server: &str, all: &[Incident]| -> Option<Incident> {
        let is = |i: &&Incident| i.scope() == "server" && i.text("/where/server") == server;
        all.iter().find(is).cloned()
    };
    let first = eventually("web-2 fails", 2 * LIMIT, || {
        incidents().and_then(|all| of("web-2", &all).ok_or_else(|| format!("{all:#?}")))
    });
    let truth = fs::read_to_string(dir.join("simulated/truth.jsonl")).expect("the demo runs");
    let truth: Value = serde_json::from_str(truth.lines().next().expect("a fact")).expect("JSON");
    let died = truth["at"].as_str().and_then(UnixMillis::parse_rfc3339).expect("a time").0;
    let delay = first.at_ms("/detected_at") - died;
    assert!((0..=5000).contains(&delay), "detected after {delay} ms: {}", first.json());
    assert!((first.at_ms("/started_at") - died).abs() <= 2000, "{}", first.json());
    let group = eventually("web-2 recovers and hv-2 fails", 2 * LIMIT, || {
        let all = incidents()?;
        let over = of("web-2", &all).is_some_and(|i| !i.is_open());
        let group = all.iter().find(|i| i.is_top() && i.scope() == "group").cloned();
        group.filter(|_| over).ok_or_else(|| format!("{all:#?}"))
    });
    assert_eq!(group.text("/where/label"), "hypervisor", "{}", group.json());
    assert_eq!(group.text("/where/value"), "hv-2", "{}", group.json());
    assert_eq!(group.texts("/where/members"), ["web-4", "web-5", "web-6"]);
    let truth = fs::read_to_string(dir.join("simulated/truth.jsonl")).expect("the demo runs");
    let truth = truth.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let died = truth.into_iter().find(|fact| fact["hypervisor"] == "hv-2").expect("it is told");
    let died = died["at"].as_str().and_then(UnixMillis::parse_rfc3339).expect("a time").0;
    assert!((group.at_ms("/started_at") - died).abs() <= 2000, "{}", group.json());
    let over = eventually("hv-2 recovers", 2 * LIMIT, || {
        let all = incidents()?;
        let over = all.iter().any(|i| i.id() == group.id() && !i.is_open());
        if over { Ok(all) } else { Err(format!("{all:#?}")) }
    });
    // What the machine under this test lacks is nothing the demo plays.
    let tops = over.iter().filter(|i| i.is_top() && i.text("/kind") != "pressure");
    let mut tops: Vec<&str> = tops.map(Incident::id).collect();
    tops.sort_unstable();
    assert_eq!(tops, [first.id(), group.id()], "two outages, two incidents: {over:#?}");
    eventually("it ends by itself", 2 * LIMIT, || match quickstart.exited() {
        Some(status) if status.success() => Ok(()),
        Some(status) => panic!("it ended with {status}: {}", quickstart.log_text()),
        None => Err("it runs".to_owned()),
    });
    assert_eq!(running_in(&dir), Vec::<String>::new(), "nothing is left running");
    let out = quickstart.log_text();
    for words in
        ["simulated", "web-2", "hypervisor=hv-2", "Collector:", "Stopped; nothing is left running"]
    {
        assert!(out.contains(words), "no {words:?} in {out}");
    }
    let n_long = out.lines().filter(|l| l.contains(" INFO ") || l.contains(" WARN ")).count();
    assert_eq!(n_long, 0, "log lines are noise here: {out}");
}

#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    let root = Root::new();
    let precious = root.write("state/precious.txt", "mine");
    let bin = program("gatewatch-agent").parent().expect("it is in a directory").to_owned();
    let mut command = Command::new(script());
    command.arg("--dir").arg(root.join("state")).arg("--bin").arg(bin);
    let done = Output::of(&mut command);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("--dir"), "{done:?}");
    assert_eq!(fs::read_to_string(precious).expect("still there"), "mine");
}
