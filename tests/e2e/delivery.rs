//! Receivers that hang, refuse, break off or cannot be trusted, a collector that ends between decision
//! and delivery, and the heartbeat that says whether it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{
    Delivery, FedServer, Fleet, Incident, Reply, Root, Traffic, WEBHOOK_SECRET, Webhook,
    eventually, loopback, pause,
};

use crate::estate::{LIMIT, NO_GROUPS, has_past};

/// Stands in the path of every URL: a receiver may know its sender by it.
const PATH_SECRET: &str = "T0pS3cr3tPath";
/// How long a receiver wants to be left alone, s.
const RETRY_AFTER_S: i64 = 2;

/// A route with its name and a secret in its path.
fn route(webhook: &Webhook, name: &str) -> String {
    let url = format!("{}/{PATH_SECRET}", webhook.url());
    format!("{}name = \"{name}\"\n", webhook.toml_at(&url))
}

/// Servers with two pools of three sites each, all with a past; each fails for itself.
fn start(toml: &str, n_servers: usize) -> (Fleet, Traffic, Vec<FedServer>) {
    let named = |n: usize| FedServer::new(&format!("web-{n}"), &[("www", 3), ("shop", 3)]);
    let servers: Vec<FedServer> = (1..=n_servers).map(named).collect();
    let builder = Fleet::builder().batch_interval("500ms").toml(toml).toml(NO_GROUPS);
    let fleet = servers.iter().fold(builder, |builder, one| builder.agent(one.agent())).start();
    let traffic = Traffic::start(&servers, 3.0);
    for server in &servers {
        has_past(&fleet, server.name(), &server.sites(), 10);
    }
    (fleet, traffic, servers)
}

/// Waits until a message of this kind was taken; of a server other than that of `but`.
fn until_taken(webhook: &Webhook, event: &str, server: &str) -> Delivery {
    eventually(&format!("{event} of {server} is told"), LIMIT, || {
        let all = webhook.deliveries();
        let is_it = |one: &&Delivery| {
            let told = one.json();
            let members = told["incident"]["where"]["members"].to_string();
            one.is_taken() && told["event"] == event && members.contains(server)
        };
        all.iter().find(is_it).cloned().ok_or_else(|| format!("{} came", all.len()))
    })
}

/// The log says so once, in a line that holds `more` too.
fn said(fleet: &Fleet, text: &str, more: &str) {
    eventually(&format!("the log says {text:?} of {more}"), LIMIT, || {
        let log = fleet.collector_log();
        let hit = |line: &&str| line.contains(text) && line.contains(more);
        match log.lines().filter(hit).count() {
            1 => Ok(()),
            n => Err(format!("{n} times in {log}")),
        }
    });
}

fn assert_no_secret(what: &str, text: &str) {
    for secret in [PATH_SECRET, WEBHOOK_SECRET] {
        assert!(!text.contains(secret), "{what} holds {secret:?}: {text}");
    }
}

/// Nothing that people can read of the collector holds a secret.
fn assert_no_secrets(fleet: &Fleet) {
    assert_no_secret("the log", &fleet.collector_log());
    let check = fleet.cli(&["check"]);
    assert_eq!(check.code, 0, "{check:?}");
    assert_no_secret("check", &format!("{}{}", check.stdout, check.stderr));
    for path in [
        "/metrics",
        "/api/v1/incidents",
        "/api/v1/health",
        "/api/v1/openapi.json",
        "/api/v1/notify/log",
        "/api/v1/notify/routes",
    ] {
        let (head, body) = fleet.http_get(path, "");
        assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
        assert_no_secret(path, &String::from_utf8_lossy(&body));
    }
}

#[test]
fn no_receiver_delays_another_nor_detection_whatever_it_does() {
    let fine = Webhook::start(0);
    let hangs = Webhook::scripted(|_| Reply::Hang);
    let busy = Webhook::scripted(|n| match n {
        0 | 1 => Reply::With(429, format!("Retry-After: {RETRY_AFTER_S}")),
        _ => Reply::Status(200),
    });
    let broken = Webhook::scripted(|n| match n {
        0 | 2 => Reply::Status(500),
        1 | 3 => Reply::Close,
        _ => Reply::Status(200),
    });
    let (stranger, trusted) = (Webhook::tls(), Webhook::tls());
    let closed = Webhook::start(0);
    let toml = [
        route(&fine, "fine"),
        route(&hangs, "hangs"),
        route(&busy, "busy"),
        route(&broken, "broken"),
        route(&stranger, "stranger"),
        route(&trusted, "trusted") + &trusted.ca_toml(),
        closed.toml_at(&format!("http://{}/{PATH_SECRET}", loopback(80))) + "name = \"closed\"\n",
    ];
    let (fleet, traffic, _servers) = start(&toml.concat(), 4);
    traffic.fail("web-1", "shop");
    let first = until_taken(&fine, "opened", "web-1");
    // Nobody has an answer of the one that hangs, and one incident more is found and told meanwhile.
    eventually("one is told in vain", LIMIT, || {
        if hangs.deliveries().is_empty() { Err("nothing came".to_owned()) } else { Ok(()) }
    });
    traffic.fail("web-2", "shop");
    until_taken(&fine, "opened", "web-2");
    assert!(hangs.deliveries().iter().all(|one| !one.is_taken()));

    until_taken(&trusted, "opened", "web-1");
    assert_eq!(stranger.deliveries().len(), 0, "it says nothing to whom it cannot trust");
    let taken = until_taken(&broken, "opened", "web-1");
    let tries = broken.deliveries();
    let tries: Vec<_> = tries.iter().filter(|one| one.id() == taken.id()).collect();
    assert!(tries.len() > 1 && tries.iter().all(|one| one.body == taken.body), "{tries:?}");
    until_taken(&busy, "opened", "web-1");
    until_taken(&busy, "opened", "web-2");
    let asked = busy.deliveries();
    for pair in asked.windows(2).filter(|pair| !pair[0].is_taken()) {
        let waited = pair[1].at_ms - pair[0].at_ms;
        assert!(waited >= RETRY_AFTER_S * 1000 - 50, "{waited} ms: {asked:?}");
    }
    assert!(first.is_signed_with(WEBHOOK_SECRET.as_bytes()));

    let fails = "notifications do not arrive";
    for name in ["hangs", "stranger", "closed"] {
        said(&fleet, fails, &format!("route=\"{name}\""));
    }
    for name in ["busy", "broken"] {
        said(&fleet, fails, &format!("route=\"{name}\""));
        said(&fleet, "notifications arrive again", &format!("route=\"{name}\""));
    }
    assert!(!fleet.collector_log().contains("route=\"fine\" to"), "nothing failed there");
    for name in ["hangs", "stranger", "closed"] {
        let decided = fleet.db().decided(name).expect("the database can be read");
        assert!(decided.len() >= 2, "{name} still owes all: {decided:?}");
    }
    assert_no_secrets(&fleet);
}

/// How often each message was taken, by delivery.
fn n_taken(webhook: &Webhook) -> BTreeMap<String, usize> {
    let mut taken = BTreeMap::new();
    for one in webhook.deliveries().iter().filter(|one| one.is_taken()) {
        *taken.entry(one.id()).or_default() += 1;
    }
    taken
}

/// Waits until nothing is owed and what was taken is what was decided; each was taken once.
fn each_was_taken_once(fleet: &Fleet, webhook: &Webhook, route: &str) {
    let taken = eventually("what was decided arrived, and nothing else", LIMIT, || {
        let (owed, decided) = (fleet.db().n_owed()?, fleet.db().decided(route)?);
        let taken = n_taken(webhook);
        let all: BTreeSet<String> = taken.keys().cloned().collect();
        let state = || format!("{owed} owed, decided {decided:?}, taken {all:?}");
        if owed == 0 && all == decided { Ok(taken) } else { Err(state()) }
    });
    assert!(taken.values().all(|n| *n == 1), "each once: {taken:?}");
}

#[test]
fn a_collector_that_ends_between_decision_and_delivery_tells_everything_once() {
    let refuses = Arc::new(AtomicBool::new(false));
    let is_refused = Arc::clone(&refuses);
    let webhook = Webhook::scripted(move |_| {
        Reply::Status(if is_refused.load(Ordering::SeqCst) { 500 } else { 200 })
    });
    let toml = webhook.toml() + "name = \"pager\"\n";
    let (mut fleet, traffic, servers) = start(&toml, 4);
    for round in 0..5 {
        // All is told, so nothing can be on its way that is taken and not written down.
        each_was_taken_once(&fleet, &webhook, "pager");
        refuses.store(true, Ordering::SeqCst);
        let before = webhook.deliveries().len();
        match servers.get(round) {
            Some(server) => traffic.fail(server.name(), "shop"),
            None => traffic.mend(),
        }
        eventually("something was decided and refused", LIMIT, || {
            let all = webhook.deliveries();
            let new = all[before..].iter().filter(|one| !one.is_taken()).count();
            if new > 0 { Ok(()) } else { Err(format!("{} came", all.len())) }
        });
        if round % 2 == 0 {
            fleet.kill9_collector();
        } else {
            fleet.stop_collector();
        }
        refuses.store(false, Ordering::SeqCst);
        fleet.start_collector();
    }
    eventually("every incident is over", LIMIT, || {
        let open = fleet.incidents()?.into_iter().filter(Incident::is_open).count();
        if open == 0 { Ok(()) } else { Err(format!("{open} open")) }
    });
    each_was_taken_once(&fleet, &webhook, "pager");
    let mut events: BTreeMap<(String, String), usize> = BTreeMap::new();
    for one in webhook.deliveries().iter().filter(|one| one.is_taken()) {
        let told = one.json();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        *events.entry((text(&told["incident"]["id"]), text(&told["event"]))).or_default() += 1;
    }
    for ((id, event), n) in events.iter().filter(|((_, event), _)| event != "updated") {
        assert_eq!(*n, 1, "{id} {event}: {events:?}");
    }
    let n = |event: &str| events.keys().filter(|(_, of)| of == event).count();
    assert!(n("opened") > 0 && n("opened") == n("resolved"), "{events:?}");
}

#[test]
fn a_receiver_that_takes_its_time_while_the_collector_stops_is_told_once() {
    let is_told = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_told);
    let webhook = Webhook::scripted(move |n| {
        told.store(true, Ordering::SeqCst);
        if n == 0 {
            pause(Duration::from_secs(4)); // a slow receiver, and not what the test waits for
        }
        Reply::Status(200)
    });
    let (mut fleet, traffic, _servers) = start(&(webhook.toml() + "name = \"slow\"\n"), 1);
    traffic.fail("web-1", "shop");
    eventually("it is being told", LIMIT, || {
        if is_told.load(Ordering::SeqCst) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    fleet.stop_collector();
    let is_taken = webhook.deliveries().first().is_some_and(Delivery::is_taken);
    assert!(is_taken, "the stop waited for the answer");
    fleet.start_collector();
    each_was_taken_once(&fleet, &webhook, "slow");
}

#[test]
fn heartbeats_come_while_the_collector_is_healthy_and_stop_while_its_store_does_not_commit() {
    let bell = Webhook::start(0);
    let root = Root::new();
    let url = root.secret("deadman.url", &format!("{}/{PATH_SECRET}\n", bell.url()));
    let toml = format!("[deadman]\nurl_file = \"{}\"\ninterval = \"1s\"\n", url.display());
    let fleet = Fleet::builder().toml(&toml).start();
    let until_n = |n: usize| {
        eventually(&format!("{n} heartbeats came"), LIMIT, || {
            let came = bell.deliveries().len();
            if came >= n { Ok(()) } else { Err(format!("{came}")) }
        });
    };
    until_n(3);
    let held = fleet.db().hold();
    said(&fleet, "no heartbeat is sent", "the store does not write");
    let came = bell.deliveries().len();
    pause(Duration::from_secs(3)); // some intervals
    assert_eq!(bell.deliveries().len(), came, "none while it is sick");
    drop(held);
    until_n(came + 2);
    said(&fleet, "heartbeats are sent again", "healthy");
    assert_no_secrets(&fleet);
}
