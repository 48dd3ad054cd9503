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
            (
                if all.contains("It lasted") || all.contains("Lasted") { "over" } else { "on" },
                id.unwrap_or_default(),
            )
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
    for secret in StandIn::secrets() {
        assert!(!fleet.collector_log().contains(secret), "the log holds {secret:?}");
    }
}

/// Every alert that was ever posted has ended: no set of labels was forgotten.
fn assert_alertmanager_knows_only_ended_alerts(receivers: &[(&str, StandIn)]) {
    let (_, receiver) = receivers.iter().find(|(kind, _)| *kind == "alertmanager").expect("one");
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
