//! Servers that share a label fail together: one incident of the group, one page, whatever stands in
//! front of their sites and however many there are.

use std::fs;
use std::time::Duration;

use harness::{FedServer, Incident, Root, Told, now_ms, pause};
use serde_json::Value;

use crate::estate::{Estate, Hall, Kind, LIMIT, RealBox, assert_counts, fed, reaches};

const START_SLACK_MS: i64 = 2000;

/// `where` of an incident names this value of a label, and exactly these servers.
fn assert_place(incident: &Incident, label: &str, value: &str, members: &[&str]) {
    assert_eq!(incident.scope(), "group", "{}", incident.json());
    assert_eq!(incident.text("/where/label"), label, "{}", incident.json());
    assert_eq!(incident.text("/where/value"), value, "{}", incident.json());
    assert_eq!(incident.texts("/where/members"), members, "{}", incident.json());
    assert_eq!(incident.number("/affected/n_servers"), members.len() as u64);
    for pointer in ["/where/server", "/where/pool", "/where/labels"] {
        let value = incident.json().pointer(pointer).expect("it has the field");
        assert!(value.is_null(), "{pointer}: {}", incident.json());
    }
    assert_eq!(incident.text("/severity"), "critical");
}

/// Three real boxes of one hypervisor die beside three healthy ones of others, and come back; `status` is
/// what most of their clients see.
fn a_hypervisor_dies_under(kinds: [Kind; 3], status: u16) {
    let failing = ["web-1", "web-2", "web-3"];
    let start = |(name, labels, kind)| RealBox::start(name, labels, kind, &[("www", 3)]);
    let boxes = [
        ("web-1", "hypervisor=hv-1 region=eu", kinds[0]),
        ("web-2", "hypervisor=hv-1 region=eu", kinds[1]),
        ("web-3", "hypervisor=hv-1 region=eu", kinds[2]),
        ("web-4", "hypervisor=hv-2 region=eu", Kind::Nginx),
        ("web-5", "hypervisor=hv-2 region=eu", Kind::Apache),
        ("web-6", "hypervisor=hv-3 region=eu", Kind::Haproxy),
    ];
    let mut hall = Hall::start(boxes.into_iter().map(start).collect());
    let truth = now_ms();
    for name in failing {
        hall.the(name).kill("www");
    }
    let told = hall.told("the hypervisor fails", |all| reaches(all, "group", &failing));
    told.assert_one_page_each();
    let open = told.only().clone();
    assert_place(&open, "hypervisor", "hv-1", &failing);
    let mut sites: Vec<String> = hall.boxes[..3].iter().flat_map(RealBox::sites).collect();
    sites.sort();
    assert_eq!(open.sites(), sites);
    let late = open.at_ms("/started_at") - truth;
    assert!((-1000..=kinds[0].first_failure_ms_max()).contains(&late), "{}", open.json());
    let title = open.text("/title");
    assert!(title.contains(&format!(" with {status} ")) && title.contains("hv-1"), "{title}");

    for name in failing {
        hall.the(name).start_again("www");
    }
    let told = hall.over();
    told.assert_told_from_start_to_end();
    let seen = hall.quiet();
    let over = told.only();
    assert_eq!(over.id(), open.id());
    assert_place(over, "hypervisor", "hv-1", &failing);
    assert_counts(over, &seen, &sites);
}

#[test]
fn boxes_with_nginx_and_apache_on_one_hypervisor_that_fail_beside_healthy_ones_are_one_incident() {
    a_hypervisor_dies_under([Kind::Nginx, Kind::Apache, Kind::Nginx], 502);
}

#[test]
fn boxes_with_haproxy_on_one_hypervisor_that_fail_beside_healthy_ones_are_one_incident() {
    a_hypervisor_dies_under([Kind::Haproxy; 3], 503);
}

#[test]
fn two_hypervisors_that_fail_at_once_are_two_incidents() {
    let mut servers = Vec::new();
    for (n, labels) in [
        "hypervisor=hv-1 region=eu",
        "hypervisor=hv-2 region=eu",
        "hypervisor=hv-3 region=us",
        "hypervisor=hv-4 region=us",
    ]
    .into_iter()
    .enumerate()
    {
        servers.extend(fed(1 + 3 * n, 3, 5, labels));
    }
    let estate = Estate::start(servers, 3.0);
    let (first, second) = (["web-01", "web-02", "web-03"], ["web-07", "web-08", "web-09"]);
    let truth = now_ms();
    for server in first.iter().chain(&second) {
        estate.traffic.fail(server, "www");
    }
    let told = estate.told("two hypervisors fail", |all| {
        reaches(all, "group", &first) && reaches(all, "group", &second)
    });
    told.assert_one_page_each();
    assert_two(&estate, &told, &first, &second);
    for open in told.tops() {
        assert!((open.at_ms("/started_at") - truth).abs() <= START_SLACK_MS, "{}", open.json());
    }
    let told = estate.mended();
    told.assert_told_from_start_to_end();
    assert_two(&estate, &told, &first, &second);
}

fn assert_two(estate: &Estate, told: &Told, first: &[&str], second: &[&str]) {
    let mut tops = told.tops();
    tops.sort_by_key(|top| top.text("/where/value").to_owned());
    let [one, two] = tops[..] else { panic!("{} incidents, not two: {told:#?}", tops.len()) };
    assert_place(one, "hypervisor", "hv-1", first);
    assert_place(two, "hypervisor", "hv-3", second);
    assert_eq!(one.sites(), estate.sites_of(first));
    assert_eq!(two.sites(), estate.sites_of(second));
}

#[test]
fn a_replay_of_the_export_tells_a_hypervisor_and_its_end_under_the_same_id() {
    let mut servers = fed(1, 3, 5, "hypervisor=hv-1 region=eu");
    servers.extend(fed(4, 3, 5, "hypervisor=hv-2 region=eu"));
    let estate = Estate::start(servers, 3.0);
    let group = ["web-01", "web-02", "web-03"];
    for server in group {
        estate.traffic.fail(server, "www");
    }
    let told = estate.told("the hypervisor fails", |all| reaches(all, "group", &group));
    assert_place(told.only(), "hypervisor", "hv-1", &group);
    let live = estate.mended();
    let (headers, stream) = estate.fleet.http_get("/api/v1/export", "");
    assert!(headers.starts_with("HTTP/1.0 200"), "{headers}");
    let root = Root::new();
    let file = root.join("export.jsonl");
    fs::write(&file, stream).expect("it is ours");
    let file = file.display().to_string();
    let out = estate.fleet.cli(&["replay", "--final", &file]).good().expect("it replays");
    let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let again: Vec<Incident> = lines.map(|l| Incident::from_json(&l["incident"])).collect();
    let tops: Vec<&Incident> =
        again.iter().filter(|i| i.is_top() && i.text("/kind") != "pressure").collect();
    let [again] = tops[..] else { panic!("{} incidents: {tops:#?}", tops.len()) };
    let live = live.only();
    assert_place(again, "hypervisor", "hv-1", &group);
    for pointer in ["/id", "/state", "/started_at", "/cause/class"] {
        assert_eq!(again.text(pointer), live.text(pointer), "{pointer} {out}");
    }
    let affected = |incident: &Incident| {
        let mut affected = incident.json()["affected"].clone();
        let n = affected["n_requests"].take().as_u64().expect("a number");
        (n, affected)
    };
    let ((n, again), (n_live, live)) = (affected(again), affected(live));
    assert_eq!(again, live);
    // Whoever asks while the sites are well is counted until the tick that ends it: a busy machine's is late.
    let n_failed = live["n_gateway_errors"].as_u64().expect("a number");
    assert!(n > n_failed && n_live > n_failed, "{n} and {n_live} requests, {n_failed} failed");
}

#[test]
fn a_hypervisor_and_a_pool_of_a_box_on_another_one_are_two_incidents() {
    let mut servers = fed(1, 3, 5, "hypervisor=hv-1 region=eu");
    servers.extend(fed(5, 3, 5, "hypervisor=hv-2 region=eu"));
    let mixed = FedServer::new("web-04", &[("www", 4), ("shop", 4)]);
    servers.push((mixed, "hypervisor=hv-2 region=eu".to_owned()));
    let estate = Estate::start(servers, 3.0);
    let group = ["web-01", "web-02", "web-03"];
    for server in group {
        estate.traffic.fail(server, "www");
    }
    estate.traffic.fail("web-04", "shop");
    let told = estate.told("a hypervisor and a pool fail", |all| {
        reaches(all, "group", &group) && reaches(all, "pool", &["web-04/shop"])
    });
    told.assert_one_page_each();
    assert_eq!(told.tops().len(), 2, "{told:#?}");
    let told = estate.mended();
    told.assert_told_from_start_to_end();
    assert_eq!(told.tops().len(), 2, "{told:#?}");
}

#[test]
fn a_fault_that_grows_from_a_pool_to_a_server_to_a_hypervisor_is_paged_once() {
    let mut servers = fed(2, 2, 6, "hypervisor=hv-1 region=eu");
    let first = FedServer::new("web-01", &[("www", 4), ("shop", 4)]);
    servers.push((first, "hypervisor=hv-1 region=eu".to_owned()));
    servers.extend(fed(4, 3, 6, "hypervisor=hv-2 region=eu"));
    let estate = Estate::start(servers, 4.0);
    let group = ["web-01", "web-02", "web-03"];
    let truth = now_ms();
    estate.traffic.fail("web-01", "www");
    let pool = estate.fleet.incident("the pool fails", LIMIT, |i| i.scope() == "pool");
    estate.traffic.fail("web-01", "shop");
    pause(Duration::from_millis(1500)); // what makes it grow, not a wait for a result
    estate.traffic.fail("web-02", "www");
    estate.traffic.fail("web-03", "www");
    let told = estate.told("the hypervisor fails", |all| reaches(all, "group", &group));
    told.assert_one_page_each();
    let open = told.only();
    assert_place(open, "hypervisor", "hv-1", &group);
    assert_eq!(open.id(), pool.id(), "the oldest keeps its id: {}", open.json());
    assert!((open.at_ms("/started_at") - truth).abs() <= START_SLACK_MS, "{}", open.json());
    assert_eq!(open.sites(), estate.sites_of(&group));
    let told = estate.mended();
    told.assert_told_from_start_to_end();
    assert_eq!(told.only().id(), pool.id());
}

#[test]
fn a_package_that_breaks_one_server_after_the_other_is_one_incident_in_the_end() {
    let changed = ["web-01", "web-02", "web-03", "web-04"];
    let labels = |n| format!("hypervisor=hv-{n} region=eu");
    let mut servers: Vec<(FedServer, String)> = Vec::new();
    for n in 1..=8 {
        servers.extend(fed(n, 1, 6, &labels(n)));
    }
    let estate = Estate::start(servers, 3.0);
    for server in estate.servers.iter().filter(|server| changed.contains(&server.name())) {
        server.upgrade("php8.2-fpm:amd64", "8.2.7-1", "8.2.29-1");
    }
    pause(Duration::from_secs(3));
    for server in changed {
        estate.traffic.fail(server, "www");
        pause(Duration::from_secs(12)); // the rollout's own pace
    }
    let told = estate.told("the rollout is one story", |all| reaches(all, "group", &changed));
    let open = told.only();
    assert!(open.json()["where"]["label"].is_null(), "no label covers it: {}", open.json());
    assert_eq!(open.sites(), estate.sites_of(&changed));
    assert_eq!(open.text("/change/kind"), "package", "{}", open.json());
    assert!(open.text("/change/text").contains("php8.2-fpm"), "{}", open.json());
    // Whoever was paged for the first server hears that it went into the story of all.
    let told = estate.mended();
    assert_eq!(told.only().id(), open.id());
    assert_eq!(told.n_told("opened"), told.n_told("resolved"), "{told:#?}");
}

#[test]
fn one_server_with_2800_failing_sites_is_one_incident_and_one_page() {
    let server = FedServer::new("web-01", &[("www", 1400), ("shop", 1400)]);
    let estate = Estate::start(vec![(server, String::new())], 0.5);
    for pool in ["www", "shop"] {
        estate.traffic.fail("web-01", pool);
    }
    let told = estate.told("2,800 sites fail", |all| {
        all.iter().any(|i| i.is_top() && i.number("/affected/n_sites") == 2800)
    });
    told.assert_one_page_each();
    let open = told.only();
    assert_eq!((open.scope(), open.text("/where/server")), ("server", "web-01"));
    assert_eq!(open.number("/affected/n_sites_active"), 2800);
    let told = estate.mended();
    told.assert_told_from_start_to_end();
}
