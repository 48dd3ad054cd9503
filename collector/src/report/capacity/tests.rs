//! Figures to tables, findings and caveats.

use std::collections::{BTreeMap, BTreeSet};

use super::input::{HOUR_S, Series, Server, Site};
use super::*;
use crate::model::ServerId;
use crate::report::document::{Level, Table, Value};
use crate::report::plans::{Catalogue, Plan};
use crate::store::history::Spread;

const CPU: &str = "system.cpu.utilization";
const GIB: f64 = (1_u64 << 30) as f64;

fn ask(n_hours: i64) -> Ask {
    let to = UnixMillis::from_second(n_hours * HOUR_S);
    let (server, labels) = (None, BTreeMap::new());
    Ask { kind: Kind::Capacity, from: UnixMillis(0), to, server, labels, now: to }
}

fn input(n_hours: i64, servers: Vec<Server>) -> Input {
    let servers = (1..).map(ServerId).zip(servers).collect();
    Input { hours: 0..n_hours * HOUR_S, raw_from: None, servers }
}

fn server(name: &str) -> Server {
    Server { name: name.to_owned(), ..Server::default() }
}

/// Gives a server hours of a metric, each with these means of minutes.
fn put(
    server: &mut Server,
    (metric, attribute): (&'static str, &str),
    (n_hours, size): (usize, f64),
    minutes: impl Fn(usize) -> Vec<f64>,
) {
    let row = wire::catalog::find(metric).unwrap();
    let n_days = n_hours.div_ceil(24);
    let is_hourly = metric == CPU || metric == "system.memory.utilization";
    let mut series = Series::new(if is_hourly { n_hours } else { 0 }, n_days);
    for day in 0..n_days {
        let mut of_day: Option<Spread> = None;
        for hour in day * 24..(day * 24 + 24).min(n_hours) {
            let spread = Spread::of_means(row, minutes(hour));
            series.add((hour as i64 * HOUR_S, hour), size, &spread, true);
            server.seen.add(hour);
            match &mut of_day {
                Some(of_day) => of_day.merge(&spread),
                None => of_day = Some(spread),
            }
        }
        series.add_day(day, vec![(size, of_day.unwrap())]);
    }
    server.series.insert((metric, attribute.into()), series);
}

fn flat(server: &mut Server, of: (&'static str, &str), n_hours: usize, value: f64) {
    put(server, of, (n_hours, 1.0), |_| vec![value; 60]);
}

fn table<'a>(report: &'a Report, key: &str) -> &'a Table {
    report.tables().find(|table| table.key == key).expect(key)
}

/// The cell of a column in the row whose first cells are these words.
fn cell<'a>(table: &'a Table, row: &[&str], column: &str) -> &'a Value {
    let ix = table.columns.iter().position(|known| known.key == column).expect(column);
    let is_it = |cells: &&Vec<Value>| {
        cells.iter().zip(row).all(|(cell, want)| *cell == Value::Text((*want).to_owned()))
    };
    &table.rows.iter().find(is_it).unwrap_or_else(|| panic!("no row {row:?}"))[ix]
}

fn said(report: &Report, words: &str) -> bool {
    report.findings.iter().any(|finding| finding.text.contains(words))
}

/// A server of which everything is known for `n_days`: a filling disk, a busy pool, stolen time.
fn rich(name: &str, n_days: usize) -> Server {
    let n = n_days * 24;
    let mut server = server(name);
    put(&mut server, (CPU, ""), (n, 4.0), |hour| {
        (0..60).map(|minute| 0.1 + 0.3 * ((hour % 24 * 60 + minute) as f64 / 1440.0)).collect()
    });
    put(&mut server, ("system.memory.utilization", ""), (n, 8.0 * GIB), |_| vec![0.5; 60]);
    flat(&mut server, ("system.cpu.logical.count", ""), n, 4.0);
    flat(&mut server, ("system.memory.limit", ""), n, 8.0 * GIB);
    flat(&mut server, ("system.memory.available", ""), n, 4.0 * GIB);
    put(
        &mut server,
        ("system.filesystem.utilization", "system.filesystem.mountpoint=/"),
        (n, 1.0),
        |hour| vec![0.9 - 0.01 * ((n - hour) as f64 / 24.0); 60],
    );
    put(
        &mut server,
        ("system.filesystem.free", "system.filesystem.mountpoint=/"),
        (n, 1.0),
        |hour| vec![100.0 * GIB * (0.1 + 0.01 * ((n - hour) as f64 / 24.0)); 60],
    );
    put(&mut server, ("system.cpu.steal", ""), (n, 1.0), |hour| {
        vec![if hour % 10 == 0 { 0.2 } else { 0.0 }; 60]
    });
    put(&mut server, ("phpfpm.active_processes", "phpfpm.pool=www"), (n, 10.0), |hour| {
        vec![if hour % 24 == 0 { 10.0 } else { 2.0 }; 60]
    });
    put(&mut server, ("phpfpm.listen_queue", "phpfpm.pool=www"), (n, 1.0), |hour| {
        vec![if hour % 24 == 0 { 5.0 } else { 0.0 }; 60]
    });
    put(&mut server, ("phpfpm.max_children_reached", "phpfpm.pool=www"), (n, 1.0), |hour| {
        vec![if hour % 24 == 0 { 1.0 / 60.0 } else { 0.0 }; 60]
    });
    flat(&mut server, ("phpfpm.max_children", "phpfpm.pool=www"), n, 10.0);
    flat(&mut server, ("phpfpm.total_processes", "phpfpm.pool=www"), n, 10.0);
    flat(&mut server, ("phpfpm.memory_per_process", "phpfpm.pool=www"), n, 0.1 * GIB);
    flat(&mut server, ("system.network.io.receive", "network.interface.name=eth0"), n, 1000.0);
    server.labels = BTreeMap::from([("customer".to_owned(), "acme".to_owned())]);
    server.sites = vec![Site {
        name: "a.example".to_owned(),
        n: 1000,
        n_gateway: 10,
        n_bad_minutes: 4,
        rate: Some((1.0, 2.0, 3.0)),
        ..Site::default()
    }];
    errors::CameWith::Exhausted.add(&mut server.errors, 3);
    errors::CameWith::Unknown.add(&mut server.errors, 1);
    server
}

#[test]
fn of_no_servers_and_no_samples_no_number_is_told() {
    for servers in [Vec::new(), vec![server("web-1"), server("web-2")]] {
        let report = report(&input(48, servers), &Settings::default(), &ask(48));
        assert_eq!(report.findings.len(), 1);
        assert_eq!(report.findings[0].level, Level::Warning);
        assert!(said(&report, "no samples"));
        for table in report.tables().filter(|table| !["servers", "plans"].contains(&table.key)) {
            assert_eq!(table.rows, Vec::<Vec<Value>>::new(), "{}", table.key);
        }
        assert_eq!(report.charts().count(), 0);
    }
}

#[test]
fn one_sample_has_its_figures_and_no_forecast_and_no_advice() {
    let mut one = server("web-1");
    put(&mut one, (CPU, ""), (1, 2.0), |_| vec![0.25]);
    flat(&mut one, ("system.filesystem.utilization", "system.filesystem.mountpoint=/"), 1, 0.5);
    let report = report(&input(1, vec![one]), &Settings::default(), &ask(1));
    let utilization = table(&report, "utilization");
    assert_eq!(*cell(utilization, &["web-1", "cpu", ""], "p95_share"), Value::Number(0.25));
    assert_eq!(*cell(utilization, &["web-1", "cpu", ""], "minutes"), Value::Count(1));
    let days = cell(table(&report, "days_to_full"), &["web-1", "disk", "/"], "days_to_full");
    assert_eq!(*days, Value::Unknown("too short a history"));
    let next = cell(table(&report, "outlook"), &["web-1", "cpu"], "next_p95_share");
    assert!(matches!(next, Value::Unknown(_)), "{next:?}");
    let advice = cell(table(&report, "plans"), &["web-1"], "advice");
    assert_eq!(*advice, Value::Level(Level::Note, "not enough data".to_owned()));
    assert!(report.caveats[0].contains("web-1 (0.0 days)"), "{:?}", report.caveats);
}

#[test]
fn a_whole_fleet_gives_rows_as_long_as_their_columns_and_keys_of_their_own() {
    let fleet = input(28 * 24, vec![rich("web-1", 28), rich("web-2", 28), server("web-3")]);
    let report = report(&fleet, &Settings::default(), &ask(28 * 24));
    let mut keys = BTreeSet::new();
    for table in report.tables() {
        assert!(keys.insert(table.key), "{} twice", table.key);
        assert!(!table.rows.is_empty() || table.key == "connections", "{} is empty", table.key);
        let columns: BTreeSet<&str> = table.columns.iter().map(|column| column.key).collect();
        assert_eq!(columns.len(), table.columns.len(), "{}", table.key);
        for column in &table.columns {
            assert!(!column.definition.is_empty() && !column.title.is_empty(), "{}", column.key);
        }
        let n_keys = table.columns.iter().take_while(|column| column.is_key).count();
        assert!(table.columns[n_keys..].iter().all(|column| !column.is_key), "{}", table.key);
        for row in &table.rows {
            assert_eq!(row.len(), table.columns.len(), "{}", table.key);
        }
    }
    let charts: BTreeSet<&str> = report.charts().map(|chart| chart.key.as_str()).collect();
    for key in ["days_to_full", "cpu_web-1", "memory_web-2"] {
        assert!(charts.contains(key), "{charts:?}");
    }
    assert!(report.caveats.iter().any(|caveat| caveat.contains("web-3")), "{:?}", report.caveats);
}

#[test]
fn what_is_wrong_is_found_and_said_with_its_numbers() {
    let report =
        report(&input(28 * 24, vec![rich("web-1", 28)]), &Settings::default(), &ask(28 * 24));
    for words in [
        "web-1: the space of / lasts for about ",
        "4 minutes with gateway errors: 75 % with exhausted children, memory free; 25 %",
        "Pool www kept visitors waiting for 1,680 minutes. Raise pm.max_children from 10 to 18",
        "stolen in 10.",
    ] {
        let texts: Vec<&str> = report.findings.iter().map(|found| found.text.as_str()).collect();
        assert!(said(&report, words), "{words} is not in {texts:#?}");
    }
    let levels: Vec<Level> = report.findings.iter().map(|finding| finding.level).collect();
    assert!(levels.is_sorted_by(|a, b| a >= b), "{levels:?}");
    let days = cell(table(&report, "days_to_full"), &["web-1", "disk", "/"], "days_to_full");
    let Value::Interval { mid, low, high } = days else { panic!("{days:?}") };
    assert!((4.0..=8.0).contains(mid) && low <= mid && mid <= high, "{days:?}");
    let share = cell(
        table(&report, "error_minutes"),
        &["web-1", "exhausted children, memory free"],
        "share",
    );
    assert_eq!(*share, Value::Number(0.75));
}

#[test]
fn what_is_critical_is_never_folded() {
    let mut servers: Vec<Server> = (0..9).map(|n| rich(&format!("web-{n}"), 21)).collect();
    let n = 21 * 24;
    for mount in ["/a", "/b", "/c", "/d", "/e"] {
        let of = format!("system.filesystem.mountpoint={mount}");
        put(&mut servers[0], ("system.filesystem.utilization", &of), (n, 1.0), |hour| {
            vec![0.9 - 0.01 * ((n - hour) as f64 / 24.0); 60]
        });
    }
    for name in ["calm-1", "calm-2", "calm-3"] {
        let mut calm = server(name);
        flat(&mut calm, ("system.pressure.io", ""), n, 0.2);
        servers.push(calm);
    }
    let report = report(&input(21 * 24, servers), &Settings::default(), &ask(21 * 24));
    let critical: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Critical)
        .map(|finding| finding.text.as_str())
        .collect();
    assert_eq!(critical.len(), 9, "{critical:#?}");
    assert!(critical.iter().all(|text| text.contains("of / lasts for about")), "{critical:#?}");
    let first = critical.iter().find(|text| text.starts_with("web-0: ")).unwrap();
    for mount in ["/a", "/b", "/c", "/d", "/e"] {
        assert!(first.contains(&format!("pace of {mount} lasts for")), "{mount}: {first}");
    }
    assert!(said(&report, "3 more servers are in the tables: 3 on which something waited."));
}

#[test]
fn children_are_raised_to_what_is_wanted_as_far_as_memory_reaches() {
    let check = |available_gib: f64, child_gib: f64, queue: f64, want: Option<f64>| {
        let mut server = server("web-1");
        flat(&mut server, ("system.memory.limit", ""), 1, 10.0 * GIB);
        flat(&mut server, ("system.memory.available", ""), 1, available_gib * GIB);
        flat(&mut server, ("phpfpm.max_children", "phpfpm.pool=www"), 1, 10.0);
        flat(&mut server, ("phpfpm.total_processes", "phpfpm.pool=www"), 1, 10.0);
        flat(&mut server, ("phpfpm.memory_per_process", "phpfpm.pool=www"), 1, child_gib * GIB);
        flat(&mut server, ("phpfpm.active_processes", "phpfpm.pool=www"), 1, 10.0);
        flat(&mut server, ("phpfpm.listen_queue", "phpfpm.pool=www"), 1, queue);
        flat(&mut server, ("phpfpm.max_children_reached", "phpfpm.pool=www"), 1, 1.0);
        let pools = pools::of(&server, 0.9);
        assert_eq!(pools[0].raise_to, want, "{available_gib} {child_gib} {queue}");
    };
    check(9.0, 0.1, 5.0, Some(18.0));
    check(9.0, 0.1, 0.0, None);
    check(1.35, 0.1, 5.0, Some(13.0));
    check(1.0, 0.1, 5.0, None);
    check(0.5, 0.1, 5.0, None);
}

#[test]
fn labels_are_those_that_were_chosen_or_that_two_servers_share() {
    let check = |by: &[&str], want: &[&str]| {
        let (mut a, mut b) = (rich("web-1", 1), rich("web-2", 1));
        a.labels.insert("os".to_owned(), "x".to_owned());
        b.labels.insert("os".to_owned(), "y".to_owned());
        let settings = Settings {
            by: by.iter().map(|key| (*key).to_owned()).collect(),
            ..Settings::default()
        };
        let report = report(&input(24, vec![a, b]), &settings, &ask(24));
        let found: BTreeSet<String> = table(&report, "labels")
            .rows
            .iter()
            .map(|row| {
                format!("{:?}={:?}", row[0], row[1]).replace("Text(\"", "").replace("\")", "")
            })
            .collect();
        assert_eq!(found, want.iter().map(|want| (*want).to_owned()).collect(), "{by:?}");
    };
    check(&[], &["customer=acme"]);
    check(&["os"], &["os=x", "os=y"]);
    check(&["none"], &[]);
}

#[test]
fn gaps_short_times_and_rounded_hours_are_said() {
    let mut gappy = rich("web-1", 1);
    gappy.seen.add(20 * 24);
    gappy.n_errors_by_hour = 7;
    let mut asked = ask(21 * 24);
    asked.from = UnixMillis(1);
    let mut input = input(21 * 24, vec![gappy]);
    input.raw_from = Some(14 * 24 * HOUR_S);
    let report = report(&input, &Settings::default(), &asked);
    let all = report.caveats.join("\n");
    for words in
        ["longest 19.0 days, 5 % covered", "7 minutes with gateway errors", "rounded outward"]
    {
        assert!(all.contains(words), "{words} is not in {all}");
    }
}

#[test]
fn advice_names_plans_and_money_where_a_catalogue_is_set() {
    let plan = |name: &str, vcpu, gib: f64, price| Plan {
        name: name.to_owned(),
        provider: None,
        vcpu,
        memory_bytes: (gib * GIB) as u64,
        disk_bytes: (400.0 * GIB) as u64,
        price,
    };
    let plans = vec![plan("M", 4.0, 8.0, 20.0), plan("L", 8.0, 16.0, 40.0)];
    let plans = Some(Catalogue { currency: "EUR".to_owned(), plans });
    let settings = Settings { plans, ..Settings::default() };
    let mut server = rich("web-1", 28);
    server.labels.insert("plan".to_owned(), "M".to_owned());
    flat(&mut server, ("system.oom_kills", ""), 28 * 24, 0.001);
    let report = report(&input(28 * 24, vec![server]), &settings, &ask(28 * 24));
    let plans = table(&report, "plans");
    assert_eq!(
        *cell(plans, &["web-1"], "advice"),
        Value::Level(Level::Warning, "upgrade".to_owned())
    );
    assert_eq!(*cell(plans, &["web-1"], "to"), Value::Text("L".to_owned()));
    assert_eq!(*cell(plans, &["web-1"], "difference"), Value::Number(20.0));
    assert!(said(&report, "20.00 EUR a month more"));
}
