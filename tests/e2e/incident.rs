//! What an operator is told: webhooks, the incident list, the shape of its JSON.

use std::fmt::Write as _;
use std::time::Duration;

use harness::{Fleet, FleetBuilder, Incident, Webhook, eventually, pause};

use crate::farm::LIMIT;

const SITES: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];

/// A collector that tells `webhook`, signed with `secret`.
fn told_to(webhook: &Webhook, secret_file: &std::path::Path) -> FleetBuilder {
    let toml = format!(
        "[[notify]]\nkind = \"webhook\"\nurl = \"{}\"\nsecret_file = \"{}\"\n",
        webhook.url(),
        secret_file.display()
    );
    Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(&toml)
}

/// Good traffic, then 502s on every site until the server's incident is open.
pub(crate) fn break_server(fleet: &mut Fleet, server: &str) -> Incident {
    for site in SITES {
        fleet.log(server).requests(site, 30, 200);
    }
    eventually("the past is stored", LIMIT, || {
        let n = fleet.db().n_requests(server);
        if n == 120 { Ok(()) } else { Err(format!("{n}")) }
    });
    eventually("the server's incident opens", LIMIT, || {
        for site in SITES {
            fleet.log(server).requests(site, 1, 502);
        }
        pause(Duration::from_millis(250)); // the pace of the failing traffic
        let all = fleet.incidents()?;
        let open = all.iter().find(|i| i.is_top() && i.is_open() && i.scope() == "server");
        open.cloned().ok_or_else(|| format!("{all:#?}"))
    })
}

/// Good traffic until the incident has resolved.
pub(crate) fn mend_server(fleet: &mut Fleet, server: &str, id: &str) -> Incident {
    eventually("it resolves", LIMIT, || {
        for site in SITES {
            fleet.log(server).requests(site, 2, 200);
        }
        pause(Duration::from_millis(250)); // the pace of the good traffic
        let all = fleet.incidents()?;
        let over = all.iter().find(|i| i.id() == id && !i.is_open());
        over.cloned().ok_or_else(|| format!("{all:#?}"))
    })
}

#[test]
fn a_webhook_receives_opened_and_resolved_once_each_with_a_valid_signature() {
    let dir = harness::Root::new();
    let secret = dir.secret("webhook.key", "correct horse battery staple");
    let webhook = Webhook::start(1); // the first try meets a broken receiver
    let mut fleet = told_to(&webhook, &secret).start();
    let open = break_server(&mut fleet, "web-1");
    let told = |event: &str| {
        let all = webhook.deliveries();
        all.into_iter().filter(|d| d.json()["event"] == event).collect::<Vec<_>>()
    };
    eventually("opened is delivered", LIMIT, || {
        let n = told("opened").iter().filter(|d| d.answered == 200).count();
        if n == 1 { Ok(()) } else { Err(format!("{:?}", webhook.deliveries())) }
    });
    mend_server(&mut fleet, "web-1", open.id());
    eventually("resolved is delivered", LIMIT, || {
        let n = told("resolved").len();
        if n == 1 { Ok(()) } else { Err(format!("{:?}", webhook.deliveries())) }
    });
    let opened = told("opened");
    assert_eq!(opened.len(), 2, "one refused try and one good one");
    assert_eq!(opened[0].body, opened[1].body, "a retry sends the same bytes");
    assert_eq!((opened[0].answered, opened[1].answered), (500, 200));
    for delivery in webhook.deliveries() {
        assert!(delivery.is_signed_with(b"correct horse battery staple"), "{delivery:?}");
        assert_eq!(delivery.json()["incident"]["id"], open.id());
        assert!(delivery.json()["delivery"].as_str().is_some_and(|d| !d.is_empty()));
    }
}

#[test]
fn an_incident_has_every_field_of_the_contract() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").start();
    let open = break_server(&mut fleet, "web-1");
    for pointer in [
        "/id",
        "/kind",
        "/state",
        "/severity",
        "/scope",
        "/title",
        "/started_at",
        "/detected_at",
        "/updated_at",
        "/cause/class",
        "/where/server",
    ] {
        assert!(!open.text(pointer).is_empty(), "no {pointer} in {}", open.json());
    }
    for pointer in [
        "/resolved_at",
        "/retroactive",
        "/where/pool",
        "/where/label",
        "/where/value",
        "/where/labels",
        "/where/members",
        "/where/sites",
        "/affected/n_sites",
        "/affected/n_sites_active",
        "/affected/n_servers",
        "/affected/n_requests",
        "/affected/n_gateway_errors",
        "/affected/n_502",
        "/affected/n_503",
        "/affected/n_504",
        "/affected/n_crawler",
        "/cause/confidence",
        "/cause/evidence",
        "/cause/alternatives",
        "/change",
        "/actions",
        "/parent",
        "/children",
        "/acked_by",
        "/silenced",
        "/timeline",
    ] {
        assert!(open.json().pointer(pointer).is_some(), "no {pointer} in {}", open.json());
    }
    assert_eq!(open.texts("/where/members"), ["web-1"]);
    assert_eq!(open.text("/where/server"), "web-1");
    assert_eq!(open.number("/affected/n_servers"), 1);
    assert_eq!(open.id().len(), 26, "a ULID");
    assert!(open.text("/timeline/0/what").starts_with("opened"), "{}", open.json());
    assert!(open.text("/started_at").ends_with('Z') && open.text("/started_at").len() == 24);
}

#[test]
fn operators_list_show_acknowledge_and_note_an_incident() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").start();
    let quiet = fleet.cli(&["incident", "list", "--open", "--fail-if-open"]);
    assert_eq!(quiet.code, 0, "{quiet:?}");
    let open = break_server(&mut fleet, "web-1");
    let id = open.id();
    let alarm = fleet.cli(&["incident", "list", "--open", "--fail-if-open"]);
    assert_eq!(alarm.code, 1, "{alarm:?}");
    assert!(alarm.stdout.contains("web-1"), "{alarm:?}");
    let shown = fleet.cli(&["incident", "show", id]).good().expect("it can be shown");
    for word in [open.text("/title"), open.cause(), "a.example", id] {
        assert!(shown.contains(word), "no {word} in {shown}");
    }
    fleet.cli(&["incident", "ack", id, "--by", "ann"]).good().expect("it can be acknowledged");
    fleet.cli(&["incident", "note", id, "php restarted"]).good().expect("it can be noted");
    eventually("ack and note are shown", LIMIT, || {
        let text = fleet.cli(&["incident", "show", id, "--json"]).good()?;
        let noted = text.contains("php restarted") && text.contains("\"acked_by\":\"ann\"");
        if noted { Ok(()) } else { Err(text) }
    });
    let unknown = fleet.cli(&["incident", "show", "01JUNKNOWN"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("01JUNKNOWN"), "{unknown:?}");
}

#[test]
fn a_restarted_collector_tells_an_open_incident_no_second_time_and_still_resolves_it() {
    let dir = harness::Root::new();
    let secret = dir.secret("webhook.key", "correct horse battery staple");
    let webhook = Webhook::start(0);
    let mut fleet = told_to(&webhook, &secret).start();
    let open = break_server(&mut fleet, "web-1");
    // A kill between the receiver's answer and its commit repeats a message, with its `delivery`.
    let events = || {
        let all = webhook.deliveries();
        let text =
            |d: &serde_json::Value, key: &str| d[key].as_str().unwrap_or_default().to_owned();
        let told = all
            .iter()
            .map(harness::Delivery::json)
            .map(|d| (text(&d, "delivery"), text(&d, "event")));
        told.collect::<std::collections::BTreeMap<_, _>>().into_values().collect()
    };
    eventually("opened is delivered", LIMIT, || {
        let events: Vec<String> = events();
        if events.contains(&"opened".to_owned()) { Ok(()) } else { Err(format!("{events:?}")) }
    });
    fleet.kill9_collector();
    fleet.start_collector();
    let over = mend_server(&mut fleet, "web-1", open.id());
    assert_eq!(over.text("/started_at"), open.text("/started_at"));
    eventually("resolved is delivered", LIMIT, || {
        let events: Vec<String> = events();
        if events.contains(&"resolved".to_owned()) { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let events: Vec<String> = events();
    assert_eq!(events.iter().filter(|e| *e == "opened").count(), 1, "{events:?}");
    assert_eq!(events.iter().filter(|e| *e == "resolved").count(), 1, "{events:?}");
}

#[test]
fn an_outage_that_arrives_hours_late_is_stored_as_retroactive_and_never_told() {
    let dir = harness::Root::new();
    let secret = dir.secret("webhook.key", "correct horse battery staple");
    let webhook = Webhook::start(0);
    let mut fleet = told_to(&webhook, &secret).start();
    let mut old = String::new();
    for minute in 0..4 {
        for n in 1..=40 {
            let status = if minute == 3 { 502 } else { 200 };
            let at = harness::now_s() - 3 * 3600 + minute * 60 + n;
            let at = jiff::Timestamp::from_second(at).expect("in range");
            for site in SITES {
                writeln!(
                    old,
                    "{site}:80 203.0.113.{n} - - [{}] \"GET /{n} HTTP/1.1\" {status} 5 \"-\" \"-\"",
                    at.strftime("%d/%b/%Y:%H:%M:%S +0000")
                )
                .expect("to a string");
            }
        }
    }
    fleet.log("web-1").raw(old.as_bytes());
    eventually("its lines are stored", LIMIT, || {
        let n = fleet.db().n_status("web-1", 502);
        if n == 160 { Ok(()) } else { Err(format!("{n}")) }
    });
    let late = eventually("the old outage is known", LIMIT, || {
        let all = fleet.incidents()?;
        let found = all.iter().find(|i| i.is_top() && i.scope() == "server").cloned();
        found.ok_or_else(|| format!("{all:#?}"))
    });
    assert_eq!(late.json()["retroactive"], true, "{}", late.json());
    mend_server(&mut fleet, "web-1", late.id());
    assert_eq!(webhook.deliveries().len(), 0, "{:?}", webhook.deliveries());
}
