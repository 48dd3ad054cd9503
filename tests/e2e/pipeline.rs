//! The pipeline from a log line to the database, its identity, and its bridge over outages.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::{AgentSpec, Fleet, Load, Nginx, PhpFpm, Pool, Root, Vhost, eventually};
use serde_json::Value;

use crate::farm::{LIMIT, difference};

#[test]
fn every_line_is_stored_once_under_its_server_site_and_status() {
    let mut fleet = Fleet::builder().agents(["web-1", "web-2"]).batch_interval("200ms").start();
    fleet.log("web-1").requests("a.example", 500, 200);
    fleet.log("web-1").requests("b.example", 20, 404);
    fleet.log("web-1").requests("a.example", 2, 502);
    fleet.log("web-2").requests("a.example", 7, 500);
    let truth = |rows: &[(&str, u32, u64)]| -> BTreeMap<(String, u32), u64> {
        rows.iter().map(|(site, status, n)| (((*site).to_owned(), *status), *n)).collect()
    };
    let web_1 = truth(&[("a.example", 200, 500), ("b.example", 404, 20), ("a.example", 502, 2)]);
    let web_2 = truth(&[("a.example", 500, 7)]);
    for (server, truth) in [("web-1", web_1), ("web-2", web_2)] {
        eventually(&format!("the lines of {server} are stored"), LIMIT, || {
            let diff = difference(&truth, &fleet.db().requests(server));
            if diff.is_empty() { Ok(()) } else { Err(diff) }
        });
    }
}

#[test]
fn a_collector_outage_loses_nothing_and_repeats_nothing() {
    let mut fleet = Fleet::builder().agents(["web-1", "web-2"]).batch_interval("200ms").start();
    fleet.log("web-1").requests("a.example", 500, 200);
    fleet.stop_collector();
    fleet.log("web-1").requests("a.example", 500, 502);
    fleet.log("web-2").requests("a.example", 30, 200);
    fleet.start_collector();
    eventually("1030 requests are stored", LIMIT, || {
        let have = (fleet.db().n_requests("web-1"), fleet.db().n_requests("web-2"));
        if have == (1000, 30) { Ok(()) } else { Err(format!("{have:?}")) }
    });
    assert_eq!(fleet.db().n_status("web-1", 502), 500);
    let status = fleet.agent("web-1").status().expect("the agent answers");
    assert_eq!(status["loss"]["n_batches_evicted"], 0, "{status}");
}

#[test]
fn an_agent_that_is_stopped_drains_first_and_says_goodbye() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("60s").start();
    fleet.log("web-1").requests("a.example", 123, 200);
    eventually("the lines are read", LIMIT, || {
        let status = fleet.agent("web-1").status()?;
        let read = status["files"][0]["n_lines"].as_u64();
        if read == Some(123) { Ok(()) } else { Err(status.to_string()) }
    });
    fleet.agent_mut("web-1").stop();
    eventually("all of it is stored", LIMIT, || {
        let have = fleet.db().n_requests("web-1");
        if have == 123 { Ok(()) } else { Err(format!("{have}")) }
    });
    eventually("the goodbye is known", LIMIT, || {
        let row = fleet.listed("web-1")?;
        if row["state"] == "goodbye" { Ok(()) } else { Err(row.to_string()) }
    });
}

#[test]
fn an_unprivileged_agent_in_group_adm_discovers_and_reads_twelve_sites_of_two_pools() {
    let root = Root::new();
    let _php = PhpFpm::start(&root, &[Pool::new("www"), Pool::new("shop")]);
    let vhosts = [Vhost::many("www", 7), Vhost::many("shop", 5)].concat();
    let nginx = Nginx::start(&root, &vhosts);
    if harness::is_root() {
        restrict_to_adm(&root);
    }
    let fleet = Fleet::builder().agent(AgentSpec::new("web-1").root(&root).unprivileged()).start();
    let found = fleet.agent("web-1").run(&["discover", "--json"]).good().expect("it discovers");
    let found: Value = serde_json::from_str(&found).expect("discover prints one JSON object");
    let names = |list: &Value, key: &str| -> Vec<String> {
        let list = list.as_array().expect("a list");
        list.iter().filter_map(|x| x[key].as_str()).map(str::to_owned).collect()
    };
    let mut sites = names(&found["sites"], "site");
    sites.sort();
    let mut truth: Vec<_> = vhosts.iter().map(|v| v.name.clone()).collect();
    truth.sort();
    assert_eq!(sites, truth, "{found:#}");
    let pool_of = |name: &str| {
        let list = found["sites"].as_array().expect("a list");
        let site = list.iter().find(|s| s["site"] == name).expect("it was found");
        site["pool"].as_str().unwrap_or_default().to_owned()
    };
    for vhost in &vhosts {
        assert_eq!(pool_of(&vhost.name), vhost.pool, "{found:#}");
    }

    let names: Vec<_> = vhosts.iter().map(|v| v.name.clone()).collect();
    let load = Load::start(nginx.address(), &names, 5.0, "/");
    eventually("the load has seen enough", LIMIT, || {
        let n = load.seen().n_status(200);
        if n > 200 { Ok(()) } else { Err(format!("{n}")) }
    });
    let seen = load.stop().by_site_and_status();
    eventually("the database holds what the clients saw", LIMIT, || {
        let diff = difference(&seen, &fleet.db().requests("web-1"));
        if diff.is_empty() { Ok(()) } else { Err(diff) }
    });
    let pid = fleet.agent("web-1").process().pid();
    let uids = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let uid = uids.lines().find(|l| l.starts_with("Uid:")).expect("Linux says");
    assert!(!uid.split_whitespace().skip(1).any(|id| id == "0"), "not root: {uid}");
}

/// Logs as Debian has them: readable for group adm, not for the world.
fn restrict_to_adm(root: &Root) {
    let adm = Some(rustix::fs::Gid::from_raw(4));
    let logs = root.join("var/log/nginx");
    for entry in fs::read_dir(&logs).expect("it is there") {
        let path = entry.expect("it is readable").path();
        rustix::fs::chown(&path, None, adm).expect("root may chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("root may chmod");
    }
    rustix::fs::chown(&logs, None, adm).expect("root may chown");
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o750)).expect("root may chmod");
}

#[test]
fn labels_of_the_token_are_stronger_than_those_of_the_agent() {
    let spec = AgentSpec::new("web-1")
        .label("hypervisor", "hv-3")
        .toml("[host.labels]\nhypervisor = \"mine\"\nrack = \"r7\"\n");
    let fleet = Fleet::builder().agent(spec).start();
    let row = fleet.listed("web-1").expect("it is listed");
    assert_eq!(row["labels"]["hypervisor"], "hv-3", "{row}");
    assert_eq!(row["labels"]["rack"], "r7", "{row}");
}

#[test]
fn a_revoked_agent_is_refused_with_a_clear_line_on_both_sides() {
    let mut fleet = Fleet::builder().agents(["web-1", "web-2"]).batch_interval("200ms").start();
    fleet.cli(&["agent", "revoke", "web-1"]).good().expect("it can be revoked");
    fleet.log("web-1").requests("a.example", 10, 200);
    fleet.log("web-2").requests("a.example", 10, 200);
    eventually("the agent says so", LIMIT, || {
        let log = fleet.agent("web-1").log_text();
        if log.contains("revoked") { Ok(()) } else { Err(log) }
    });
    eventually("the collector says so", LIMIT, || {
        let log = fleet.collector_log();
        let told = log.lines().any(|l| l.contains("revoked") && l.contains("web-1"));
        if told { Ok(()) } else { Err(log) }
    });
    eventually("the other one goes on", LIMIT, || {
        let n = fleet.db().n_requests("web-2");
        if n == 10 { Ok(()) } else { Err(format!("{n}")) }
    });
    assert_eq!(fleet.db().n_requests("web-1"), 0);
}
