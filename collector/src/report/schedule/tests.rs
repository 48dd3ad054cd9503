//! Scheduled reports against a real store: once, whole, also over restarts and with faults.

use std::collections::BTreeMap;

use super::*;
use crate::config::{NotifyConfig, ReportConfig};
use crate::store::{Conn, ReadResult};

/// 2026-11-30 is a Monday.
fn at(text: &str) -> UnixMillis {
    UnixMillis::parse_rfc3339(text).unwrap()
}

fn config(kind: &str) -> ScheduleConfig {
    ScheduleConfig {
        kind: kind.into(),
        name: Some("weekly".into()),
        route: "mail".into(),
        at: vec!["Mon 08:00".into()],
        timezone: Some("UTC".into()),
        ..ScheduleConfig::default()
    }
}

/// All messages in the outbox, oldest first: also those that wait behind another.
async fn owed(store: &Store) -> Vec<Message> {
    let rows = |conn: &Conn| {
        let mut query = conn.prepare("SELECT body FROM outbox WHERE route = 'mail' ORDER BY id")?;
        let rows = query.query_map([], |row| row.get::<_, String>(0))?;
        rows.collect::<ReadResult<Vec<_>>>()
    };
    let rows = store.read(rows).await.unwrap();
    rows.iter().map(|body| serde_json::from_str(body).unwrap()).collect()
}

#[tokio::test]
async fn a_report_is_owed_once_at_its_time_also_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    crate::store::tests::enrol(&store, 2).await;
    let schedule = Schedule::new(&config("noise"), 0).unwrap();
    for (now, n) in [
        // The first look: what was due before is not made up for.
        ("2026-11-29T12:00:00Z", 0),
        ("2026-11-30T07:59:59Z", 0),
        ("2026-11-30T08:00:00Z", 1),
        ("2026-11-30T08:00:01Z", 1),
        ("2026-12-06T23:00:00Z", 1),
        // A missed time is made up for, once.
        ("2026-12-08T12:00:00Z", 2),
        ("2026-12-08T12:00:01Z", 2),
        // Three weeks without the collector: only the newest.
        ("2026-12-30T12:00:00Z", 3),
    ] {
        let desk = Desk::new(store.clone(), ReportConfig::default());
        schedule.turn(&desk, &store, at(now)).await.unwrap();
        assert_eq!(owed(&store).await.len(), n, "{now}");
        store.close().await.unwrap();
        drop((desk, store));
        store = Store::open(dir.path()).unwrap();
    }
    let messages = owed(&store).await;
    let report = messages[0].report.as_ref().unwrap();
    assert_eq!(messages[0].event, Event::Report);
    assert!(report.subject.contains("2026-11-23 to 2026-11-29"), "{}", report.subject);
    let names: Vec<&str> = report.files.iter().map(|file| file.name.as_str()).collect();
    let stem = "noise-2026-11-23-to-2026-11-29";
    assert_eq!(names, [format!("{stem}.html"), format!("{stem}.csv")]);
    let page = String::from_utf8(report.files[0].bytes().unwrap()).unwrap();
    assert!(page.starts_with("<!doctype html>"), "{page}");
    assert!(report.text.contains(names[0]), "{}", report.text);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_reported_is_mailed_as_that_and_not_tried_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    crate::store::tests::enrol(&store, 1).await;
    let label = BTreeMap::from([("customer".to_owned(), "<gone>".to_owned())]);
    let config = ScheduleConfig { label, to: vec!["boss@acme.example".into()], ..config("outage") };
    let schedule = Schedule::new(&config, 0).unwrap();
    let desk = Desk::new(store.clone(), ReportConfig::default());
    for now in ["2026-11-29T12:00:00Z", "2026-11-30T08:00:00Z", "2026-11-30T08:01:00Z"] {
        schedule.turn(&desk, &store, at(now)).await.unwrap();
    }
    let messages = owed(&store).await;
    let [Message { report: Some(report), .. }] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(report.to, ["boss@acme.example"]);
    assert_eq!(report.subject, "The outage report weekly was not made");
    assert!(report.text.contains("no server has a label \"customer\""), "{}", report.text);
    assert!(!report.html.contains("<gone>"), "{}", report.html);
    store.close().await.unwrap();
}

#[test]
fn faults_of_a_schedule_are_told_at_their_keys() {
    let routes = [("mail".to_owned(), "email".to_owned()), ("chat".to_owned(), "slack".to_owned())];
    let told = |configs: &[ScheduleConfig]| -> Vec<String> {
        faults(configs, &routes)
            .iter()
            .map(|(index, fault)| format!("{index} {}", fault.key))
            .collect()
    };
    assert_eq!(told(&[config("capacity")]), Vec::<String>::new());
    assert_eq!(told(&[config("capacity"), config("noise")]), ["1 name"]);
    let wrong = ScheduleConfig {
        route: "chat".into(),
        to: vec!["nobody".into()],
        at: Vec::new(),
        timezone: None,
        period: Some("week".into()),
        slo: Some(99.9),
        ..config("weather")
    };
    let keys = ["0 route", "0 kind", "0 at", "0 period", "0 slo", "0 to"];
    assert_eq!(told(&[wrong]), keys);
    let route = ScheduleConfig { route: String::new(), ..config("noise") };
    assert_eq!(told(&[route]), ["0 route"]);
    assert_eq!(NotifyConfig::default().route(2), ":2", "names of routes as the check has them");
}
