//! A site that nobody visits but the agent: its own question (`[probes] loopback_head`) is traffic.

use std::time::Duration;

use harness::{AgentSpec, Fleet, Nginx, ProxySite, Root, Upstream, eventually, loopback, now_ms};

use crate::estate::start_app;

/// Some questions, one each 10 s; the machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_site_that_only_the_agent_asks_is_an_incident_when_its_backend_dies_and_over_when_it_is_back() {
    let root = Root::new();
    let (address, app_root) = (loopback(8000), Root::new());
    let (other_address, other_root) = (loopback(8000), Root::new());
    let app = start_app(&app_root, address);
    let _other = start_app(&other_root, other_address);
    let site = |name: &str, at| ProxySite { name: name.into(), upstream: Some(Upstream::Tcp(at)) };
    let sites = [site("quiet.test", address), site("other.test", other_address)];
    let _nginx = Nginx::start_proxy(&root, &sites);
    let agent = AgentSpec::new("web-1")
        .root(&root)
        .toml("[probes]\nloopback_head = [\"*.test\"]\nloopback_interval = \"10s\"\n");
    let fleet = Fleet::builder().agent(agent).start();
    eventually("both sites have a past", LIMIT, || {
        let stored = fleet.db().requests("web-1");
        let n = |site: &str| stored.get(&(site.to_owned(), 200)).copied().unwrap_or_default();
        if n("quiet.test") >= 2 && n("other.test") >= 2 {
            Ok(())
        } else {
            Err(format!("{stored:?}"))
        }
    });
    let truth = now_ms();
    drop(app);
    let open = fleet.incident("the quiet site fails", LIMIT, |i| i.scope() == "site");
    assert_eq!(open.sites(), ["quiet.test"], "{}", open.json());
    assert_eq!(open.text("/kind"), "gateway_errors");
    assert_eq!(open.json()["retroactive"], false, "{}", open.json());
    let started = open.at_ms("/started_at") - truth;
    assert!((-1000..=15_000).contains(&started), "started after {started} ms: {}", open.json());
    let detected = open.at_ms("/detected_at") - truth;
    assert!(detected <= 60_000, "detected after {detected} ms: {}", open.json());
    println!("started {started} ms, detected {detected} ms after the backend died");
    let n = open.number("/affected/n_502");
    assert!((3..=6).contains(&n), "the fewest that can be told from a stray one: {}", open.json());

    let _app = start_app(&app_root, address);
    let id = open.id();
    let over = fleet.incident("it resolves", LIMIT, |i| i.id() == id && !i.is_open());
    assert_eq!(over.sites(), ["quiet.test"], "{}", over.json());
    let all = fleet.incidents().expect("they are listed");
    assert!(all.iter().filter(|i| i.text("/kind") == "gateway_errors").count() == 1, "{all:#?}");
}
