//! Tables over made-up fleets, small enough to count by hand.

use super::*;
use crate::report::document::{Block, Level, Plot, Table, Value};

const MINUTE: i64 = 60_000;
/// The report's time in these tests: ten hours from a whole hour.
const FROM: i64 = 1_795_176_000_000;
const N: i64 = 600;

fn at(minute: i64) -> UnixMillis {
    UnixMillis(FROM + minute * MINUTE)
}

fn ask() -> Ask {
    Ask {
        kind: Kind::Outage,
        from: at(0),
        to: at(N),
        server: None,
        labels: BTreeMap::new(),
        now: at(N + 99),
    }
}

fn site(server: i64, name: &str, owner: &str) -> Site {
    let owner = (!owner.is_empty()).then(|| owner.to_owned());
    Site { owner, ..Site::new(ServerId(server), name) }
}

/// web-1 with a.example of alice and b.example of bob, web-2 with c.example of alice and d.example of nobody.
fn input() -> Input {
    let server = |name: &str| Server { name: name.into(), ..Server::default() };
    let sites = [
        (1, site(1, "a.example", "alice")),
        (2, site(1, "b.example", "bob")),
        (3, site(2, "c.example", "alice")),
        (4, site(2, "d.example", "")),
    ];
    Input {
        servers: [(1, server("web-1")), (2, server("web-2"))]
            .map(|(id, s)| (ServerId(id), s))
            .into(),
        sites: sites.map(|(id, site)| (SiteId(id), site)).into(),
        ..Input::default()
    }
}

fn happened(kind: &str, from: i64, to: Option<i64>) -> Happened {
    Happened {
        kind: kind.into(),
        severity: "critical".into(),
        title: format!("{kind} at {from}"),
        started: at(from),
        ended: to.map(at),
        cause: "overload".into(),
        confidence: 0.9,
        ..Happened::default()
    }
}

fn spell(incident: &str, site: i64, from: i64, to: Option<i64>) -> Spell {
    Spell { incident: incident.into(), site: SiteId(site), since: at(from), until: to.map(at) }
}

fn table<'r>(report: &'r Report, key: &str) -> &'r Table {
    report.tables().find(|table| table.key == key).unwrap_or_else(|| panic!("no table {key}"))
}

/// A value of the row whose first key is `row`.
fn value<'r>(report: &'r Report, of: &str, row: &str, column: &str) -> &'r Value {
    let table = table(report, of);
    let ix = table.columns.iter().position(|known| known.key == column);
    let ix = ix.unwrap_or_else(|| panic!("no column {column} in {of}"));
    let is_it = |cells: &&Vec<Value>| cells.contains(&Value::Text(row.to_owned()));
    &table.rows.iter().find(is_it).unwrap_or_else(|| panic!("no row {row} in {of}"))[ix]
}

fn lost(report: &Report, of: &str, row: &str) -> u64 {
    match value(report, of, row, "lost_minutes") {
        Value::Count(n) => *n,
        other => panic!("{other:?}"),
    }
}

fn made(input: &Input) -> Report {
    report(input, &Settings::default(), &ask())
}

#[test]
fn a_minute_in_several_incidents_is_lost_once() {
    let mut input = input();
    input.incidents.insert("A".into(), happened("gateway_errors", 10, Some(20)));
    input.incidents.insert("B".into(), happened("gateway_errors", 15, Some(30)));
    input.spells = vec![
        spell("A", 1, 10, Some(20)),
        spell("A", 1, 10, Some(12)),
        spell("B", 1, 15, Some(30)),
        spell("B", 2, 15, Some(16)),
    ];
    let report = made(&input);
    for (of, row, want) in [
        ("sites", "a.example", 20),
        ("sites", "b.example", 1),
        ("sites", "c.example", 0),
        ("owners", "alice", 20),
        ("owners", "bob", 1),
        ("owners", "not known", 0),
        ("servers", "web-1", 21),
        ("servers", "web-2", 0),
        ("incidents", "A", 10),
        ("incidents", "B", 16),
        ("causes", "overload", 26),
        ("totals", "all sites", 21),
    ] {
        assert_eq!(lost(&report, of, row), want, "{of} {row}");
    }
    assert_eq!(value(&report, "servers", "web-1", "any_minutes"), &Value::Count(20));
    assert_eq!(value(&report, "sites", "a.example", "incidents"), &Value::Count(2));
    let share = value(&report, "sites", "a.example", "availability_ratio");
    assert_eq!(share, &Value::Number(1.0 - 20.0 / 600.0));
    // Of 600 minutes 0.6 may be lost.
    let Value::Number(used) = value(&report, "sites", "a.example", "budget_used_ratio") else {
        panic!("a number")
    };
    assert!((used - 20.0 / 0.6).abs() < 1e-9, "{used}");
}

#[test]
fn incidents_are_cut_at_the_edges_of_the_report_and_open_ones_last_until_its_end() {
    for (from, to, want) in [
        (-50, Some(5), 5),
        (-50, Some(-1), 0),
        (590, Some(700), 10),
        (590, None, 10),
        (-50, None, 600),
        (600, None, 0),
        (30, Some(30), 1),
        (30, Some(20), 1),
    ] {
        let mut input = input();
        input.incidents.insert("A".into(), happened("gateway_errors", from, to));
        input.spells = vec![spell("A", 1, from, to)];
        let report = made(&input);
        assert_eq!(lost(&report, "sites", "a.example"), want, "{from} {to:?}");
        let n = table(&report, "incidents").rows.len();
        assert_eq!(n, usize::from(want > 0), "{from} {to:?}");
    }
}

#[test]
fn a_report_of_a_time_that_is_not_over_ends_now() {
    let mut input = input();
    input.incidents.insert("A".into(), happened("gateway_errors", 100, None));
    input.spells = vec![spell("A", 1, 100, None)];
    let report = report(&input, &Settings::default(), &Ask { now: at(120), ..ask() });
    assert_eq!(lost(&report, "sites", "a.example"), 20);
    assert_eq!(value(&report, "sites", "a.example", "site_minutes"), &Value::Count(120));
    assert!(matches!(value(&report, "incidents", "A", "ended"), Value::Unknown(_)));
    assert_eq!(value(&report, "incidents", "A", "lasted_seconds"), &Value::Number(1200.0));
    assert_eq!(report.findings[0].level, Level::Critical, "{:?}", report.findings);
}

#[test]
fn a_site_exists_from_when_it_was_known_until_its_server_was_heard_last() {
    let hour = |minute: i64| at(minute).second();
    for (since, hours, failed, heard, want) in [
        (None, None, None, None, 600),
        (Some(at(-9)), None, None, None, 600),
        (Some(at(540)), None, None, None, 60),
        // It answered, or failed, before a batch named it: what came late.
        (Some(at(540)), Some((hour(480), hour(480))), None, None, 120),
        (Some(at(540)), Some((hour(480), hour(480))), Some(470), None, 130),
        (Some(at(700)), None, None, None, 0),
        (None, None, None, Some(at(60)), 60),
        (None, Some((hour(0), hour(120))), None, Some(at(60)), 180),
        (None, None, None, Some(at(-60)), 0),
    ] {
        let mut input = input();
        let site = input.sites.get_mut(&SiteId(1)).unwrap();
        (site.since, site.hours) = (since, hours);
        input.servers.get_mut(&ServerId(1)).unwrap().heard_until = heard;
        if let Some(minute) = failed {
            input
                .incidents
                .insert("A".into(), happened("gateway_errors", minute, Some(minute + 1)));
            input.spells = vec![spell("A", 1, minute, Some(minute + 1))];
        }
        let report = made(&input);
        let is_it = |row: &&Vec<Value>| row[0] == Value::Text("a.example".into());
        let row = table(&report, "sites").rows.iter().find(is_it);
        let existed = row.map_or(&Value::Count(0), |row| row.last().unwrap());
        assert_eq!(existed, &Value::Count(want), "{since:?} {hours:?} {failed:?} {heard:?}");
    }
}

#[test]
fn slow_burns_are_told_apart_and_silence_costs_no_site_a_minute() {
    let mut input = input();
    input.incidents.insert("S".into(), happened("slow_burn", 0, Some(100)));
    input.incidents.insert("A".into(), happened("gateway_errors", 90, Some(110)));
    input.incidents.insert("Q".into(), happened("silence", 200, Some(230)));
    input.spells = vec![spell("S", 1, 0, Some(100)), spell("A", 1, 90, Some(110))];
    input.down = vec![Down {
        incident: "Q".into(),
        server: ServerId(2),
        since: at(200),
        until: Some(at(230)),
    }];
    let report = made(&input);
    assert_eq!(lost(&report, "sites", "a.example"), 110);
    assert_eq!(value(&report, "sites", "a.example", "slow_minutes"), &Value::Count(90));
    assert_eq!(lost(&report, "servers", "web-2"), 0);
    assert_eq!(value(&report, "servers", "web-2", "silent_minutes"), &Value::Count(30));
    assert_eq!(lost(&report, "incidents", "Q"), 0);
    let Some(Plot::Spans { rows, .. }) =
        report.charts().map(|chart| &chart.plot).find(|plot| matches!(plot, Plot::Spans { .. }))
    else {
        panic!("no timeline")
    };
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["web-1", "web-2"]);
}

#[test]
fn what_was_merged_counts_as_part_of_its_incident_and_circles_end() {
    let mut input = input();
    let merged =
        |id: &str| Happened { parent: Some(id.into()), ..happened("gateway_errors", 10, Some(20)) };
    input.incidents.insert("A".into(), happened("gateway_errors", 10, Some(40)));
    input.incidents.insert("B".into(), merged("A"));
    input.incidents.insert("C".into(), merged("nobody"));
    input.incidents.insert("X".into(), merged("Y"));
    input.incidents.insert("Y".into(), merged("X"));
    input.spells = vec![
        spell("A", 1, 10, Some(40)),
        spell("B", 1, 10, Some(20)),
        spell("B", 2, 10, Some(20)),
        spell("C", 3, 10, Some(20)),
        spell("X", 4, 10, Some(20)),
    ];
    let report = made(&input);
    assert_eq!(lost(&report, "incidents", "A"), 40, "30 of one site, 10 of the other");
    assert_eq!(lost(&report, "incidents", "C"), 10, "its parent is gone");
    assert_eq!(lost(&report, "sites", "d.example"), 10);
    assert_eq!(table(&report, "incidents").rows.len(), 3);
    let each = [1, 2, 3, 4].map(|id| (SiteId(id), 1));
    assert_eq!(incidents_of_sites(&input, &ask()), BTreeMap::from(each));
}

#[test]
fn sites_without_an_owner_belong_to_the_customer_of_their_server() {
    let mut input = input();
    let server = input.servers.get_mut(&ServerId(2)).unwrap();
    server.labels.insert("customer".into(), "carol".into());
    input.incidents.insert("A".into(), happened("gateway_errors", 10, Some(20)));
    input.spells = vec![spell("A", 4, 10, Some(20)), spell("A", 3, 10, Some(13))];
    let report = made(&input);
    let rows = &table(&report, "owners").rows;
    let names: Vec<&Value> = rows.iter().map(|row| &row[0]).collect();
    assert_eq!(names, ["carol", "alice", "bob"].map(|name| Value::Text(name.into())).each_ref());
    assert_eq!(lost(&report, "owners", "alice"), 3);
    assert!(report.caveats.is_empty(), "{:?}", report.caveats);
    assert_eq!(made(&super::tests::input()).caveats.len(), 1);
}

#[test]
fn a_fleet_without_incidents_or_sites_is_told_so() {
    let report = made(&input());
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.findings[0].level, Level::Good);
    assert!(report.findings[0].text.starts_with("No minute was lost: none of 4 sites"));
    assert_eq!(value(&report, "totals", "all sites", "availability_ratio"), &Value::Number(1.0));
    let report = made(&Input::default());
    assert_eq!(report.findings[0].text, "No site was known in this time.");
    assert!(report.tables().all(|table| table.rows.is_empty()));
}

#[test]
fn an_objective_of_all_minutes_has_no_budget_and_is_missed_by_one() {
    let mut input = input();
    input.incidents.insert("A".into(), happened("gateway_errors", 10, Some(11)));
    input.spells = vec![spell("A", 1, 10, Some(11))];
    let settings = Settings { slo: 1.0, ..Settings::default() };
    let report = report(&input, &settings, &ask());
    let used = value(&report, "sites", "a.example", "budget_used_ratio");
    assert!(matches!(used, Value::Unknown(_)), "{used:?}");
    let over =
        report.findings.iter().find(|finding| finding.text.contains("more than the objective"));
    assert!(over.is_some_and(|finding| finding.text.starts_with("1 of 4 sites")), "{over:?}");
}

#[test]
fn the_worst_findings_stand_first_and_no_open_critical_incident_is_folded() {
    let mut input = input();
    input.incidents.insert("A".into(), happened("gateway_errors", 10, Some(20)));
    input.spells = vec![spell("A", 1, 10, Some(20))];
    for n in 0..9 {
        let id = format!("B{n}");
        let severity = if n < 3 { "warning" } else { "critical" };
        let open = Happened { severity: severity.into(), ..happened("silence", 30 + n, None) };
        input.incidents.insert(id.clone(), open);
        input.spells.push(spell(&id, 2, 30 + n, None));
    }
    input.sites.get_mut(&SiteId(3)).unwrap().n_crawler = 10;
    let report = made(&input);
    let levels: Vec<Level> = report.findings.iter().map(|finding| finding.level).collect();
    assert!(levels.len() > 4 && levels.is_sorted_by(|a, b| a >= b), "{:#?}", report.findings);
    let open = &report.findings[0].text;
    assert!(open.starts_with("9 incidents are still open"), "{open}");
    assert!((33..39).all(|n| open.contains(&format!("silence at {n}"))), "{open}");
    assert!(open.ends_with("and 3 others."), "{open}");
}

#[test]
fn crawlers_are_told_by_site() {
    let mut input = input();
    let site = input.sites.get_mut(&SiteId(3)).unwrap();
    (site.n_requests, site.n_errors, site.n_crawler) = (1000, 40, 10);
    let report = made(&input);
    assert_eq!(table(&report, "crawlers").rows.len(), 1);
    assert_eq!(value(&report, "crawlers", "c.example", "crawler_ratio"), &Value::Number(0.25));
    assert_eq!(value(&report, "owners", "alice", "crawler_errors"), &Value::Count(10));
}

#[test]
fn every_row_is_as_long_as_its_columns_and_every_key_is_there_once() {
    let mut input = input();
    input.incidents.insert("A".into(), happened("gateway_errors", 10, Some(20)));
    input.spells = vec![spell("A", 1, 10, Some(20)), spell("A", 2, 10, Some(20))];
    input.sites.get_mut(&SiteId(1)).unwrap().n_crawler = 1;
    let report = made(&input);
    let mut keys: Vec<&str> = report.tables().map(|table| table.key).collect();
    for table in report.tables() {
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()), "{}", table.key);
        let n_keys = table.columns.iter().take_while(|column| column.is_key).count();
        assert!(n_keys > 0 && table.columns[n_keys..].iter().all(|column| !column.is_key));
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), report.tables().count());
    let is_chart = |block: &&Block| matches!(block, Block::Chart(_));
    let n_charts = report.sections.iter().flat_map(|section| &section.blocks).filter(is_chart);
    assert_eq!(n_charts.count(), 2, "a timeline and the bars of customers");
}
