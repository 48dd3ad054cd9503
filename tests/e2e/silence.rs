//! Agents that die together: one incident of their hypervisor, through restarts of the collector.

use std::net::TcpListener;
use std::time::Duration;

use harness::{AgentSpec, Fleet, Incident, eventually, now_ms};
use serde_json::Value;

/// Four heartbeats of a second and 5 s at least; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);
/// A collector judges nobody in its first minute.
const AFTER_GRACE: Duration = Duration::from_secs(150);

const ILL: [&str; 3] = ["web-1", "web-2", "web-3"];

/// Three servers of one hypervisor beside two of another.
fn fleet(witness: &str) -> Fleet {
    let mut fleet = Fleet::builder().toml(&format!("[detect]\nwitnesses = [\"{witness}\"]\n"));
    for (n, hypervisor) in [(1, "hv-3"), (2, "hv-3"), (3, "hv-3"), (4, "hv-4"), (5, "hv-4")] {
        let spec = AgentSpec::new(&format!("web-{n}")).label("hypervisor", hypervisor);
        fleet = fleet.agent(spec);
    }
    fleet.start()
}

/// Waits until the collector judges silence: a minute after its start.
fn wait_for_the_grace(fleet: &Fleet) {
    eventually("the collector's first minute is over", AFTER_GRACE, || {
        let since = now_ms() - fleet.db().collector_event_ms("started")?;
        if since > 61_000 { Ok(()) } else { Err(format!("{since} ms")) }
    });
}

fn silence(i: &Incident) -> bool {
    i.text("/kind") == "silence"
}

#[test]
fn agents_killed_together_are_one_group_incident_through_a_killed_collector() {
    let witness = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = witness.local_addr().expect("it is bound").to_string();
    let mut fleet = fleet(&address);
    wait_for_the_grace(&fleet);
    for name in ILL {
        fleet.kill9_agent(name);
    }
    let open = fleet.incident("the hypervisor is silent", LIMIT, |i| silence(i) && i.is_open());
    assert_eq!(open.scope(), "group", "{}", open.json());
    assert_eq!(open.text("/where/label"), "hypervisor");
    assert_eq!(open.text("/where/value"), "hv-3");
    assert_eq!(open.texts("/where/members"), ILL);
    assert_eq!((open.cause(), open.text("/severity")), ("agent_silence", "critical"));
    assert_eq!(open.number("/affected/n_gateway_errors"), 0);
    assert!(open.text("/title").starts_with("3 servers of hypervisor hv-3 send nothing since"));

    let text = fleet.cli(&["incident", "evidence", open.id()]).good().expect("a bundle");
    let bundle: Value = serde_json::from_str(&text).expect("it is JSON");
    let named = bundle["servers"].as_array().expect("a list").iter();
    let mut named: Vec<&str> = named.filter_map(|server| server["server"].as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, ILL);
    let page = fleet.cli(&["incident", "evidence", open.id(), "--format", "html"]).good();
    assert!(page.expect("a page").contains("hypervisor=hv-3"));

    fleet.kill9_collector();
    fleet.start_collector();
    wait_for_the_grace(&fleet);
    for name in ILL {
        fleet.restart_agent(name);
    }
    let id = open.id().to_owned();
    let over = fleet.incident("it resolves", LIMIT, |i| i.id() == id && !i.is_open());
    assert_eq!(over.text("/where/value"), "hv-3");
    let all = fleet.incidents().expect("they are listed");
    assert_eq!(all.len(), 1, "no twin and no fleet outage: {all:#?}");
    let text = fleet.cli(&["incident", "evidence", &id]).good().expect("a bundle");
    let bundle: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(bundle["servers"].as_array().map(Vec::len), Some(3), "the onset outlives it");
    drop(witness);
}

#[test]
fn goodbyes_are_no_silence_and_a_collector_without_its_uplink_blames_itself() {
    let mut fleet = fleet("witness.invalid:1");
    wait_for_the_grace(&fleet);
    for name in ILL {
        fleet.agent_mut(name).stop();
    }
    for name in ILL {
        eventually("the goodbye is filed", LIMIT, || {
            let row = fleet.listed(name)?;
            if row["state"] == "goodbye" { Ok(()) } else { Err(row.to_string()) }
        });
    }
    // The rest of the fleet vanishes, and no witness answers.
    for name in ["web-4", "web-5"] {
        fleet.kill9_agent(name);
    }
    eventually("the collector says that its own uplink is lost", LIMIT, || {
        let log = fleet.collector_log();
        if log.contains("own uplink is lost") { Ok(()) } else { Err(log) }
    });
    eventually("longer than one server alone may be silent", LIMIT, || {
        let since = now_ms() - fleet.db().collector_event_ms("uplink_lost")?;
        if since > 32_000 { Ok(()) } else { Err(format!("{since} ms")) }
    });
    let all = fleet.incidents().expect("they are listed");
    assert!(all.is_empty(), "{all:#?}");
}
