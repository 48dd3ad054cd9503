//! Tables over made-up fleets.

use std::collections::BTreeSet;

use super::*;
use crate::report::document::{Level, Table, Value};

const MINUTE: i64 = 60_000;
const FROM: i64 = 1_795_176_000_000;

fn at(minute: i64) -> UnixMillis {
    UnixMillis(FROM + minute * MINUTE)
}

fn ask() -> Ask {
    Ask {
        kind: Kind::Noise,
        from: at(0),
        to: at(600),
        server: None,
        labels: BTreeMap::new(),
        now: at(600),
    }
}

fn server(name: &str, hypervisor: Option<&str>) -> Server {
    let labels = hypervisor.map(|value| ("hypervisor".to_owned(), value.to_owned()));
    Server { name: name.into(), labels: labels.into_iter().collect(), ..Server::default() }
}

fn input() -> Input {
    let servers = [
        (1, server("web-1", Some("hv-1"))),
        (2, server("web-2", Some("hv-2"))),
        (3, server("web-3", Some("hv-2"))),
        (4, server("web-4", None)),
    ];
    Input { servers: servers.map(|(id, server)| (ServerId(id), server)).into(), ..Input::default() }
}

fn table<'r>(report: &'r Report, key: &str) -> &'r Table {
    report.tables().find(|table| table.key == key).unwrap_or_else(|| panic!("no table {key}"))
}

/// The values of a column, from the first row on.
fn column(report: &Report, of: &str, column: &str) -> Vec<Value> {
    let table = table(report, of);
    let ix = table.columns.iter().position(|known| known.key == column);
    let ix = ix.unwrap_or_else(|| panic!("no column {column} in {of}"));
    table.rows.iter().map(|row| row[ix].clone()).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Value> {
    texts.map(|text| Value::Text(text.to_owned())).into()
}

fn made(input: &Input) -> Report {
    report(input, &Settings::default(), &ask())
}

#[test]
fn names_of_plugins_are_found_in_paths_and_lines_and_nothing_else_is() {
    for (text, want) in [
        ("", &[][..]),
        ("/wp-content/plugins/shiny-slider/x.php", &["plugin shiny-slider"]),
        ("/wp-content/plugins/a_b.2", &["plugin a_b.2"]),
        (
            "PHP Fatal error in /srv/a/wp-content/plugins/one/a.php:3 #1 /srv/a/wp-content/plugins/one/b.php \
             #2 /srv/a/wp-content/themes/two/f.php",
            &["plugin one", "theme two"],
        ),
        ("/wp-content/mu-plugins/loader/x.php", &["must-use plugin loader"]),
        ("/wp-content/plugins/", &[]),
        ("/wp-content/plugins/../../etc/passwd", &[]),
        ("/wp-content/plugins/index.php", &[]),
        ("/wp-content/uploads/plugins/x", &[]),
        ("wp-content/plugins/ünïcode/x", &[]),
    ] {
        let found: Vec<String> =
            Part::all_in(text).iter().map(|part| format!("{} {}", part.kind, part.name)).collect();
        assert_eq!(found, want, "{text}");
    }
    let long = format!("/wp-content/plugins/{}/a", "x".repeat(65));
    assert!(Part::all_in(&long).is_empty());
}

#[test]
fn sites_are_ranked_by_their_errors_with_their_share() {
    let mut input = input();
    for (id, name, n_errors) in [(1, "a", 10), (2, "b", 70), (3, "c", 0), (4, "d", 20)] {
        let site = Site { n_requests: 200, n_errors, ..Site::new(ServerId(1), name) };
        input.sites.insert(SiteId(id), site);
    }
    input.n_incidents = BTreeMap::from([(SiteId(2), 2), (SiteId(4), 1)]);
    let report = made(&input);
    assert_eq!(column(&report, "sites", "site"), texts(["b", "d", "a"]));
    let shares = [0.7, 0.2, 0.1].map(Value::Number);
    assert_eq!(column(&report, "sites", "errors_ratio"), shares);
    assert_eq!(column(&report, "sites", "so_far_ratio"), [0.7, 0.9, 1.0].map(Value::Number));
    assert_eq!(column(&report, "sites", "failed_ratio"), [0.35, 0.1, 0.05].map(Value::Number));
    assert_eq!(column(&report, "sites", "incidents"), [2, 1, 0].map(Value::Count));
    let said = &report.findings[0].text;
    assert!(said.starts_with("2 of 4 sites made 90 % of the 100 gateway errors: b on web-1 and d"));
}

#[test]
fn hypervisors_are_ranked_over_all_minutes_of_their_servers() {
    let mut input = input();
    let half: Vec<f64> = (0..60).map(|minute| if minute < 30 { 0.2 } else { 0.0 }).collect();
    for (id, minutes) in [(1, vec![0.01; 60]), (2, vec![0.0; 60]), (3, half), (4, vec![0.02; 60])] {
        input.steal.insert(ServerId(id), Spread::of_scaled_minutes(&minutes, 10_000.0));
    }
    let report = made(&input);
    let names = texts(["hv-2", "not known", "hv-1"]);
    assert_eq!(column(&report, "hypervisors", "hypervisor"), names);
    assert_eq!(column(&report, "hypervisors", "servers"), [2, 1, 1].map(Value::Count));
    let above = [0.25, 0.0, 0.0].map(Value::Number);
    assert_eq!(column(&report, "hypervisors", "above_ratio"), above);
    assert_eq!(column(&report, "hypervisors", "minutes"), [120, 60, 60].map(Value::Count));
    assert_eq!(column(&report, "hypervisors", "worst_server"), texts(["web-3", "web-4", "web-1"]));
    let said = &report.findings[0];
    assert_eq!(said.level, Level::Warning);
    assert!(said.text.starts_with("1 hypervisor is oversold: hv-2."), "{}", said.text);
    assert!(report.caveats[0].starts_with("1 server has no label"), "{:?}", report.caveats);
}

#[test]
fn services_are_counted_by_what_they_said_in_whatever_order_it_is_told() {
    let check = |told: &[(i64, &str, Option<u32>, &str)], want: (u64, u64, u64)| {
        let mut orders = vec![told.to_vec(), told.to_vec()];
        orders[1].reverse();
        for order in orders {
            let mut lives = Lives::default();
            for _ in 0..2 {
                for (minute, state, n_restarts, result) in &order {
                    lives.add(at(*minute), state, *n_restarts, result);
                }
            }
            let found = lives.restarts();
            assert_eq!((found.n_restarts, found.n_failed, found.n_changes), want, "{order:?}");
        }
    };
    check(&[], (0, 0, 0));
    check(&[(1, "failed", Some(9), "signal")], (0, 0, 0));
    check(&[(1, "active", Some(0), ""), (2, "failed", Some(5), "signal")], (5, 1, 1));
    check(
        &[(1, "active", Some(7), ""), (2, "active", Some(0), ""), (3, "active", Some(2), "")],
        (2, 0, 0),
    );
    check(
        &[(1, "active", None, ""), (2, "inactive", None, ""), (3, "active", None, "")],
        (0, 0, 2),
    );
    check(&[(1, "failed", None, ""), (2, "active", None, ""), (3, "failed", None, "")], (0, 1, 2));
}

#[test]
fn services_that_never_failed_are_not_listed_and_floods_are_bounded() {
    let mut input = input();
    let mut quiet = Lives::default();
    quiet.add(at(1), "active", Some(0), "");
    quiet.add(at(2), "reloading", Some(0), "");
    let mut loud = Lives::default();
    for minute in 0..30_000 {
        let state = if minute % 2 == 0 { "active" } else { "failed" };
        loud.add(at(minute), state, None, if minute % 2 == 0 { "" } else { "oom-kill" });
    }
    input.services.insert((ServerId(1), "nginx.service".into()), quiet);
    input.services.insert((ServerId(2), "php8.2-fpm.service".into()), loud);
    let report = made(&input);
    assert_eq!(column(&report, "services", "service"), texts(["php8.2-fpm.service"]));
    assert_eq!(column(&report, "services", "failures"), [Value::Count(10_000)]);
    assert_eq!(column(&report, "services", "ended"), texts(["oom-kill"]));
    assert!(report.caveats.iter().any(|said| said.starts_with("Of 1 service more states")));
}

#[test]
fn what_comes_again_is_told_with_the_time_that_it_took() {
    let mut input = input();
    let happened = |key: &str, from: i64, to: Option<i64>, cause: &str| Happened {
        key: key.into(),
        kind: "gateway_errors".into(),
        title: format!("at {from}"),
        started: at(from),
        ended: to.map(at),
        cause: cause.into(),
        ..Happened::default()
    };
    let key = "gateway_errors:site:web-1/a.example";
    input.incidents.insert("A".into(), happened(key, -10, Some(5), "oom"));
    input.incidents.insert("B".into(), happened(key, 100, Some(110), "oom"));
    input.incidents.insert("C".into(), happened(key, 590, None, "crash"));
    input.incidents.insert("D".into(), happened("gateway_errors:server:web-2", 1, Some(2), "oom"));
    let merged = Happened { parent: Some("D".into()), ..happened(key, 300, Some(400), "oom") };
    input.incidents.insert("E".into(), merged);
    let report = made(&input);
    assert_eq!(column(&report, "repeated", "place"), texts(["site web-1/a.example"]));
    assert_eq!(column(&report, "repeated", "incidents"), [Value::Count(3)]);
    assert_eq!(column(&report, "repeated", "minutes"), [Value::Count(5 + 10 + 10)]);
    assert_eq!(column(&report, "repeated", "cause"), texts(["oom"]));
    assert_eq!(column(&report, "repeated", "title"), texts(["at 590"]));
}

#[test]
fn plugins_are_ranked_by_what_names_them() {
    let mut input = input();
    let site = Site { n_errors: 9, ..Site::new(ServerId(1), "a.example") };
    input.sites.insert(SiteId(1), site);
    input.n_errors_told = 20;
    let part = |name: &str| Part { kind: "plugin", name: name.into() };
    let sites = BTreeSet::from([SiteId(1), SiteId(99)]);
    input.parts.insert(part("few"), Named { n_errors: 1.0, n_lines: 1, sites: BTreeSet::new() });
    input.parts.insert(part("most"), Named { n_errors: 5.0, n_lines: 0, sites });
    let report = made(&input);
    assert_eq!(column(&report, "parts", "part"), texts(["most", "few"]));
    assert_eq!(column(&report, "parts", "errors_ratio"), [0.25, 0.05].map(Value::Number));
    let example = column(&report, "parts", "worst_site");
    assert_eq!(example[0], Value::Text("a.example on web-1".into()));
    assert!(matches!(example[1], Value::Unknown(_)));
}

#[test]
fn a_quiet_fleet_is_told_so_and_every_row_fits_its_columns() {
    for input in [Input::default(), input()] {
        let report = made(&input);
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].level, Level::Good);
        assert_eq!(report.tables().count(), 5);
        for table in report.tables() {
            assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{}", table.key);
            assert!(table.columns[0].is_key && !table.empty.is_empty());
        }
    }
}
