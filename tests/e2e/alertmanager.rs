//! A real Alertmanager hears of incidents: it groups, inhibits and resolves them, and hears again what is
//! not over after it was restarted.

use harness::{Alertmanager, FedServer, Fleet, Incident, Traffic, Webhook, eventually};
use serde_json::Value;

use crate::estate::{LIMIT, NO_GROUPS, has_past};

/// The alert of a server's incident.
fn of<'a>(alerts: &'a [Value], server: &str) -> Option<&'a Value> {
    alerts.iter().find(|alert| alert["labels"]["server"] == server)
}

/// Waits until the Alertmanager has an alert for each of these servers, in this state.
fn until_all(alertmanager: &Alertmanager, what: &str, servers: &[(&str, &str)]) -> Vec<Value> {
    eventually(what, LIMIT, || {
        let alerts = alertmanager.alerts()?;
        let is_so = |(server, state): &(&str, &str)| {
            of(&alerts, server).is_some_and(|alert| alert["status"]["state"] == *state)
        };
        let all = alerts.len() == servers.len() && servers.iter().all(is_so);
        if all { Ok(alerts.clone()) } else { Err(format!("{alerts:#?}")) }
    })
}

/// Waits until one notification tells of all these servers, each in this state.
fn until_told(webhook: &Webhook, what: &str, servers: &[&str], status: &str) {
    eventually(what, LIMIT, || {
        let all: Vec<Value> = webhook.deliveries().iter().map(harness::Delivery::json).collect();
        let tells = |told: &Value, server: &&str| {
            let alerts = told["alerts"].as_array().map(Vec::as_slice).unwrap_or_default();
            of(alerts, server).is_some_and(|alert| alert["status"] == status)
        };
        let hit = all.iter().any(|told| servers.iter().all(|server| tells(told, server)));
        if hit { Ok(()) } else { Err(format!("{all:#?}")) }
    });
}

#[test]
fn an_alertmanager_groups_inhibits_and_resolves_incidents_and_hears_again_after_a_restart() {
    let person = Webhook::start(0);
    let mut alertmanager = Alertmanager::start(&person.url(), &["kind"], &["kind"]);
    let named = |n: usize| {
        // The first one has ten sites and more: all of them down are critical.
        let pools: &[(&str, usize)] =
            if n == 1 { &[("www", 12)] } else { &[("www", 6), ("shop", 3)] };
        FedServer::new(&format!("web-{n}"), pools)
    };
    let servers: Vec<FedServer> = (1..=5).map(named).collect();
    let toml = alertmanager.toml() + NO_GROUPS;
    let builder = Fleet::builder().batch_interval("500ms").toml(&toml);
    let fleet = servers.iter().fold(builder, |builder, one| builder.agent(one.agent())).start();
    let traffic = Traffic::start(&servers, 3.0);
    for server in &servers {
        has_past(&fleet, server.name(), &server.sites(), 10);
    }

    traffic.fail("web-2", "shop");
    until_all(&alertmanager, "the first one is there", &[("web-2", "active")]);
    traffic.fail("web-3", "shop");
    let both = [("web-2", "active"), ("web-3", "active")];
    let alerts = until_all(&alertmanager, "both are there", &both);
    for alert in &alerts {
        assert_eq!(alert["labels"]["severity"], "warning", "{alert}");
        assert!(!alert["annotations"]["summary"].is_null(), "{alert}");
    }
    until_told(&person, "one notification tells of both", &["web-2", "web-3"], "firing");

    traffic.fail("web-1", "www");
    let inhibited = [("web-1", "active"), ("web-2", "suppressed"), ("web-3", "suppressed")];
    let alerts = until_all(&alertmanager, "the critical one inhibits the others", &inhibited);
    let critical = of(&alerts, "web-1").expect("it is there");
    assert_eq!(critical["labels"]["severity"], "critical", "{critical}");
    let by = &of(&alerts, "web-2").expect("it is there")["status"]["inhibitedBy"];
    assert_eq!(by[0], critical["fingerprint"]);
    until_told(&person, "the critical one is told", &["web-1"], "firing");

    alertmanager.stop();
    alertmanager.start_again();
    let again = until_all(&alertmanager, "it hears again what is not over", &inhibited);
    for alert in &alerts {
        let same =
            again.iter().any(|other| other["labels"]["incident"] == alert["labels"]["incident"]);
        assert!(same, "the same incident: {alert} in {again:#?}");
    }

    traffic.mend();
    until_told(&person, "its end is told", &["web-1"], "resolved");
    until_all(&alertmanager, "nothing is left", &[]);
    eventually("every incident is over", LIMIT, || {
        let open = fleet.incidents()?.into_iter().filter(Incident::is_open).count();
        if open == 0 { Ok(()) } else { Err(format!("{open} open")) }
    });
    // Told again each second: what is over stays over.
    until_all(&alertmanager, "nothing is left", &[]);
}
