//! The collector ends in the middle of an incident, as it is asked to and by kill -9: the incident is
//! neither told again nor lost nor resolved, and who acknowledged it still has.

use std::time::Duration;

use harness::{Delivery, FedServer, Fleet, Incident, Webhook, eventually, now_ms, pause};

use crate::estate::{Estate, reaches};
use crate::farm::{Farm, LIMIT};

/// How often a webhook was told this.
fn n_told(webhook: &Webhook, event: &str) -> usize {
    webhook.deliveries().iter().map(Delivery::json).filter(|told| told["event"] == event).count()
}

fn told_once(webhook: &Webhook, event: &str) {
    eventually(&format!("{event} is told"), LIMIT, || {
        let n = n_told(webhook, event);
        if n == 1 { Ok(()) } else { Err(format!("{n} times: {:?}", webhook.deliveries())) }
    });
}

/// Acknowledges an incident and ends the collector four times in its middle; `server` fails on.
fn restart_amid(fleet: &mut Fleet, open: &Incident, server: &str) {
    let id = open.id();
    fleet.cli(&["incident", "ack", id, "--by", "ann"]).good().expect("it can be acknowledged");
    for round in 0..4_u64 {
        let stored = fleet.db().n_status(server, 502);
        if round % 2 == 0 {
            fleet.stop_collector();
        } else {
            fleet.kill9_collector();
        }
        pause(Duration::from_millis(300 * round)); // failures that wait in the agent's spool
        fleet.start_collector();
        let back_ms = now_ms();
        eventually("failures arrive again", LIMIT, || {
            let n = fleet.db().n_status(server, 502);
            if n > stored + 10 { Ok(()) } else { Err(format!("{n}")) }
        });
        // Told of failures after the start: the engine has read on, whatever the list kept.
        let now = fleet.incident("the engine goes on with it", LIMIT, |i| {
            i.id() == id && i.at_ms("/updated_at") > back_ms
        });
        assert!(now.is_open() && now.scope() == open.scope(), "{}", now.json());
        assert_eq!(now.text("/started_at"), open.text("/started_at"), "{}", now.json());
        assert_eq!(now.texts("/where/members"), open.texts("/where/members"), "{}", now.json());
        assert_eq!(now.text("/acked_by"), "ann", "{}", now.json());
    }
}

/// It ended once, was never revived, and people were told its start and its end.
fn assert_told_once(over: &Incident, webhook: &Webhook) {
    let timeline = over.json()["timeline"].to_string();
    assert!(!timeline.contains("reopened"), "{timeline}");
    assert_eq!(over.text("/acked_by"), "ann", "{}", over.json());
    told_once(webhook, "resolved");
    assert_eq!(n_told(webhook, "opened"), 1, "{:?}", webhook.deliveries());
}

/// Sites on pools www and shop, the pool that stops, and the scope that this makes.
fn an_incident_lives_through_restarts(
    n_www: usize,
    n_shop: usize,
    pool: &'static str,
    scope: &str,
) {
    let webhook = Webhook::start(0);
    let mut farm = Farm::nginx_with(n_www, n_shop, Fleet::builder().toml(&webhook.toml()));
    let load = farm.load(5.0, "/");
    farm.php.stop_pool(pool);
    let open = farm.fleet.incident(&format!("the {scope} fails"), LIMIT, |i| i.scope() == scope);
    told_once(&webhook, "opened");
    restart_amid(&mut farm.fleet, &open, "web-1");
    farm.php.start_pool(pool);
    let id = open.id();
    let over = farm.fleet.incident("it resolves", LIMIT, |i| i.id() == id && !i.is_open());
    let seen = load.stop();
    assert_eq!(over.number("/affected/n_502"), seen.n_status(502), "{}", over.json());
    farm.assert_only(&[id]);
    assert_told_once(&over, &webhook);
}

#[test]
fn a_sites_incident_lives_through_restarts_of_the_collector() {
    an_incident_lives_through_restarts(6, 1, "shop", "site");
}

#[test]
fn a_pools_incident_lives_through_restarts_of_the_collector() {
    an_incident_lives_through_restarts(5, 4, "shop", "pool");
}

#[test]
fn a_servers_incident_lives_through_restarts_of_the_collector() {
    an_incident_lives_through_restarts(8, 0, "www", "server");
}

#[test]
fn a_groups_incident_lives_through_restarts_of_the_collector() {
    let server = |n: usize| {
        let labels = if n <= 3 { "hypervisor=hv-1 region=eu" } else { "hypervisor=hv-2 region=eu" };
        (FedServer::new(&format!("web-{n:02}"), &[("www", 5)]), labels.to_owned())
    };
    let mut estate = Estate::start((1..=6).map(server).collect(), 3.0);
    let group = ["web-01", "web-02", "web-03"];
    for server in group {
        estate.traffic.fail(server, "www");
    }
    let told = estate.told("the hypervisor fails", |all| reaches(all, "group", &group));
    told.assert_one_page_each();
    let open = told.only().clone();
    restart_amid(&mut estate.fleet, &open, "web-02");
    let told = estate.mended();
    told.assert_told_from_start_to_end();
    let over = told.only();
    assert_eq!(over.id(), open.id());
    assert_eq!(over.texts("/where/members"), group, "{}", over.json());
    assert_eq!(over.sites(), estate.sites_of(&group));
    assert_told_once(over, &estate.webhook);
}
