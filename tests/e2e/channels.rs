//! One outage, told to every kind of receiver there is: each request is what its service takes, and the
//! end comes under the identity of the beginning.

use std::time::Duration;

use harness::{Fleet, Incident, Request, StandIn, eventually, pause};
use serde_json::Value;

use crate::farm::LIMIT;

const SITES: [&str; 4] = ["a.example", "b.example", "c.example", "d.example"];

/// What a request tells, and of which incident.
fn told(kind: &str, request: &Request) -> (&'static str, String) {
    let body = &request.body;
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let all = body.to_string();
    match kind {
        "webhook" => {
            let event = if text("/event") == "resolved" { "over" } else { "on" };
            (event, text("/incident/id").to_owned())
        }
        "pagerduty" => {
            let event = if text("/event_action") == "resolve" { "over" } else { "on" };
            (event, text("/dedup_key").to_owned())
        }
        "opsgenie" if text("/alias").is_empty() => {
            let path = request.target.split('/').collect::<Vec<_>>();
            let event = if path[4].starts_with("close") { "over" } else { "on" };
            (event, path[3].to_owned())
        }
        "opsgenie" => ("on", text("/alias").to_owned()),
        "alertmanager" => {
            // An open alert ends a quarter of an hour from now.
            let is_over = text("/0/endsAt") < in_five_minutes().as_str();
            (if is_over { "over" } else { "on" }, text("/0/labels/incident").to_owned())
        }
        // The others are for people: the address of the incident names it.
        _ => {
            let id = all.split("/incidents/").nth(1).map(|rest| rest.chars().take(26).collect());
            (if all.contains("RESOLVED after") { "over" } else { "on" }, id.unwrap_or_default())
        }
    }
}

fn in_five_minutes() -> String {
    wire::UnixMillis(harness::now_ms()).plus(Duration::from_secs(300)).to_rfc3339()
}

fn ask(fleet: &mut Fleet, sites: &[&str], status: u16) {
    for site in sites {
        fleet.log("web-1").requests(site, 2, status);
    }
    pause(Duration::from_millis(250)); // the pace of the traffic
}

/// Waits until each receiver was told so of this incident.
fn until_told(receivers: &[(&str, StandIn)], event: &'static str, id: &str) {
    eventually(&format!("everybody hears that {id} is {event}"), LIMIT, || {
        let lacks = |(kind, receiver): &&(&str, StandIn)| {
            let requests = receiver.requests();
            let is_it = |request: &Request| told(kind, request) == (event, id.to_owned());
            !requests.iter().any(|request| request.answered < 300 && is_it(request))
        };
        match receivers.iter().find(lacks) {
            None => Ok(()),
            Some((kind, receiver)) => Err(format!("{kind}: {:#?}", receiver.requests())),
        }
    });
}

#[test]
fn every_kind_of_receiver_is_told_of_an_outage_from_start_to_end_as_it_takes_it() {
    let receivers = StandIn::KINDS.map(|kind| (kind, StandIn::start(kind)));
    let toml: String = receivers.iter().map(|(_, receiver)| receiver.toml()).collect();
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").toml(&toml).start();
    for site in SITES {
        fleet.log("web-1").requests(site, 30, 200);
    }
    eventually("the past is stored", LIMIT, || {
        let n = fleet.db().n_requests("web-1");
        if n == 120 { Ok(()) } else { Err(format!("{n}")) }
    });
    let open = |fleet: &Fleet, is_it: &dyn Fn(&Incident) -> bool| {
        let all = fleet.incidents()?;
        let open = all.iter().find(|i| i.is_top() && i.is_open() && is_it(i));
        open.cloned().ok_or_else(|| format!("{all:#?}"))
    };
    let small = eventually("one site fails", LIMIT, || {
        ask(&mut fleet, &SITES[..1], 502);
        ask(&mut fleet, &SITES[1..], 200);
        open(&fleet, &|incident| incident.scope() == "site")
    });
    until_told(&receivers, "on", small.id());
    let whole = eventually("the server fails", LIMIT, || {
        ask(&mut fleet, &SITES, 502);
        open(&fleet, &|incident| incident.scope() == "server")
    });
    until_told(&receivers, "on", whole.id());
    eventually("it is over", LIMIT, || {
        ask(&mut fleet, &SITES, 200);
        let all = fleet.incidents()?;
        let over = all.iter().find(|i| i.id() == whole.id() && !i.is_open());
        over.cloned().ok_or_else(|| format!("{all:#?}"))
    });
    until_told(&receivers, "over", whole.id());
    for (kind, receiver) in &receivers {
        for request in receiver.requests() {
            assert_eq!(request.problems, Vec::<String>::new(), "{kind}: {request:#?}");
        }
    }
    assert_alertmanager_knows_only_ended_alerts(&receivers);
    assert_pictures_came(&receivers);
    assert_pagers_were_raised(&receivers, &small, &whole);
    for secret in StandIn::secrets() {
        assert!(!fleet.collector_log().contains(secret), "the log holds {secret:?}");
    }
}

fn receiver<'a>(receivers: &'a [(&str, StandIn)], kind: &str) -> &'a StandIn {
    let found = receivers.iter().find(|(of, _)| *of == kind);
    &found.expect("there is one of each kind").1
}

/// Pictures came where they are shown. On a busy machine a message may go without one, and then it says
/// so: the stand-in refuses a name that is not attached.
fn assert_pictures_came(receivers: &[(&str, StandIn)]) {
    for kind in ["discord", "telegram"] {
        let mut requests = receiver(receivers, kind).requests();
        let all = format!("{kind}: {requests:#?}");
        requests.retain(|request| !request.pictures.is_empty());
        assert!(!requests.is_empty(), "{all}");
        for request in requests {
            let [(name, n_bytes)] = &request.pictures[..] else { panic!("{kind}: {request:#?}") };
            assert!(name == "chart.png" && *n_bytes > 100, "{kind}: {request:#?}");
            let shown = request.body.pointer("/embeds/0/image/url").and_then(Value::as_str);
            let expected = (kind == "discord").then_some("attachment://chart.png");
            assert_eq!(shown, expected, "{kind}: {request:#?}");
        }
    }
}

/// An alert is as urgent as its incident became, and over when that is.
fn assert_pagers_were_raised(receivers: &[(&str, StandIn)], small: &Incident, whole: &Incident) {
    assert_eq!(small.text("/severity"), "warning", "it has to grow");
    for (kind, urgent) in [("pagerduty", "critical"), ("opsgenie", "P1")] {
        let alerts = eventually(&format!("nothing is open at {kind}"), LIMIT, || {
            let alerts = receiver(receivers, kind).alerts();
            let is_over = alerts.values().all(|alert| !alert.is_open);
            if is_over { Ok(alerts) } else { Err(format!("{alerts:#?}")) }
        });
        assert_eq!(alerts[whole.id()].priority, urgent, "{alerts:#?}");
    }
    assert_eq!(small.id(), whole.id(), "one outage that widened");
    let alert = &receiver(receivers, "opsgenie").alerts()[whole.id()];
    assert!(alert.n_notes > 0 && alert.title.starts_with("CRITICAL "), "{alert:#?}");
}

#[test]
fn a_test_of_each_receiver_shows_its_picture_and_leaves_no_alert_behind() {
    let receivers = StandIn::KINDS.map(|kind| (kind, StandIn::start(kind)));
    let toml: String = receivers.iter().map(|(_, receiver)| receiver.toml()).collect();
    let fleet = Fleet::builder().agents(["web-1"]).toml(&toml).start();
    for (kind, receiver) in &receivers {
        fleet.cli(&["notify", "test", kind]).good().expect("it arrives");
        let requests = receiver.requests();
        for request in &requests {
            assert_eq!(request.problems, Vec::<String>::new(), "{kind}: {request:#?}");
            let all = request.body.to_string();
            assert!(!all.contains("TEST: TEST"), "{kind}: {all}");
        }
        let is_pager = ["pagerduty", "opsgenie"].contains(kind);
        assert_eq!(requests.len(), if is_pager { 2 } else { 1 }, "{kind}: {requests:#?}");
    }
    assert_pictures_came(&receivers);
    for (kind, lowest) in [("pagerduty", "info"), ("opsgenie", "P5")] {
        let alerts = receiver(&receivers, kind).alerts();
        assert_eq!(alerts.len(), 1, "{kind}: {alerts:#?}");
        for alert in alerts.values() {
            assert_eq!((alert.priority.as_str(), alert.is_open), (lowest, false), "{alert:#?}");
        }
    }
}

/// Every alert that was ever posted has ended: no set of labels was forgotten.
fn assert_alertmanager_knows_only_ended_alerts(receivers: &[(&str, StandIn)]) {
    let receiver = receiver(receivers, "alertmanager");
    let mut ends = std::collections::BTreeMap::new();
    for request in receiver.requests() {
        for alert in request.body.as_array().expect("a list of alerts") {
            ends.insert(alert["labels"].to_string(), alert["endsAt"].as_str().map(str::to_owned));
        }
    }
    let soon = in_five_minutes();
    let is_open = |end: &Option<String>| end.as_ref().is_none_or(|end| *end > soon);
    let open: Vec<_> = ends.iter().filter(|(_, end)| is_open(end)).collect();
    assert!(open.is_empty(), "{open:#?}\n{:#?}", receiver.requests());
}
