//! Tests of digests: their times, and what stands in them through restarts.

use std::collections::BTreeMap;

use super::*;
use crate::model::{Transition, TransitionEvent};
use crate::store::incidents;
use crate::store::notices::Filter;

fn at(text: &str) -> UnixMillis {
    UnixMillis::parse_rfc3339(text).unwrap()
}

fn times(texts: &[&str], zone: &str) -> Times {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    Times::parse(&texts, Some(zone)).unwrap()
}

#[test]
fn times_follow_their_zone_through_gaps_and_folds() {
    let check = |texts: &[&str], zone: &str, cases: &[(&str, &str, &str)]| {
        let times = times(texts, zone);
        for (now, latest, next) in cases {
            let what = format!("{texts:?} {zone} {now}");
            assert_eq!(times.latest(at(now)), Some(at(latest)), "latest: {what}");
            assert_eq!(times.next(at(now)), Some(at(next)), "next: {what}");
        }
    };
    // 2026-11-30 is a Monday.
    check(
        &["Mon-Fri 08:00"],
        "UTC",
        &[
            ("2026-11-30T07:59:59.999Z", "2026-11-27T08:00:00Z", "2026-11-30T08:00:00Z"),
            ("2026-11-30T08:00:00Z", "2026-11-30T08:00:00Z", "2026-12-01T08:00:00Z"),
            ("2026-12-05T12:00:00Z", "2026-12-04T08:00:00Z", "2026-12-07T08:00:00Z"),
        ],
    );
    check(
        &["08:00", "Sat 20:00"],
        "Asia/Kolkata",
        &[
            ("2026-12-05T14:30:00Z", "2026-12-05T14:30:00Z", "2026-12-06T02:30:00Z"),
            ("2026-12-05T14:29:00Z", "2026-12-05T02:30:00Z", "2026-12-05T14:30:00Z"),
        ],
    );
    check(
        &["Wed 06:00"],
        "UTC",
        &[
            ("2026-12-02T06:00:00Z", "2026-12-02T06:00:00Z", "2026-12-09T06:00:00Z"),
            ("2026-12-02T05:00:00Z", "2026-11-25T06:00:00Z", "2026-12-02T06:00:00Z"),
        ],
    );
    // 08:00 stays 08:00 when clocks change.
    check(
        &["08:00"],
        "Europe/Berlin",
        &[
            ("2026-03-29T05:00:00Z", "2026-03-28T07:00:00Z", "2026-03-29T06:00:00Z"),
            ("2026-10-25T06:30:00Z", "2026-10-24T06:00:00Z", "2026-10-25T07:00:00Z"),
        ],
    );
    // 02:30 does not exist on 2026-03-29 and comes an hour later; on 2026-10-25 it comes once.
    check(
        &["02:30"],
        "Europe/Berlin",
        &[
            ("2026-03-29T00:59:00Z", "2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z"),
            ("2026-03-29T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"),
            ("2026-10-25T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
            ("2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ],
    );
}

#[test]
fn every_time_of_a_year_comes_once_whatever_the_zone() {
    for zone in ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "UTC"] {
        for text in ["02:30", "00:00", "01:45"] {
            let times = times(&[text], zone);
            let first = times.next(at("2026-01-01T12:00:00Z")).unwrap();
            let mut now = first;
            for day in 0..365 {
                let next = times.next(now).unwrap();
                assert_eq!(times.latest(next), Some(next), "{zone} {text} day {day}");
                assert_eq!(times.latest(UnixMillis(next.0 - 1)), Some(now));
                let hours = next.since(now).as_secs_f64() / 3600.0;
                assert!((22.5..=25.5).contains(&hours), "{zone} {text} {now}: {hours} hours");
                now = next;
            }
            let year = Duration::from_secs(365 * 86_400);
            assert_eq!(now, first.plus(year), "{zone} {text}");
        }
    }
}

#[test]
fn what_is_no_time_is_said() {
    for text in ["", "8", "Mon-Fri", "Mon 08:00-09:00", "24:00", "Mun 08:00"] {
        let told = Times::parse(&[text.to_owned()], Some("UTC")).unwrap_err();
        assert!(told.contains("is no time of the week"), "{text:?}: {told}");
    }
    assert!(Times::parse(&["08:00".to_owned()], Some("Mars/Base")).is_err());
}

struct Desk {
    store: Store,
    digest: Digest,
    dir: tempfile::TempDir,
}

const EVE: &str = "2026-11-30T12:00:00Z";
const MORNING: &str = "2026-12-01T08:00:00Z";
const NEXT: &str = "2026-12-02T08:00:00Z";

impl Desk {
    /// A route that hears of `info` at 08:00 UTC, and was set up the noon before.
    async fn new(change: impl Fn(&mut NotifyConfig)) -> Self {
        let mut config = NotifyConfig {
            kind: "webhook".to_owned(),
            name: Some("daily".to_owned()),
            min_severity: "info".to_owned(),
            digest: vec!["08:00".to_owned()],
            timezone: Some("UTC".to_owned()),
            ..NotifyConfig::default()
        };
        change(&mut config);
        let route = Route::new(&config, 0).unwrap();
        let digest = Digest::new(&config, &route).unwrap().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let desk = Self { store: Store::open(dir.path()).unwrap(), digest, dir };
        desk.turn(EVE).await;
        desk
    }

    async fn turn(&self, now: &str) {
        self.digest.turn(&self.store, at(now)).await.unwrap();
    }

    /// The same after a crash and a start.
    fn restart(self) -> Self {
        let Self { store, digest, dir } = self;
        drop(store);
        Self { store: Store::open(dir.path()).unwrap(), digest, dir }
    }

    async fn change(&self, rev: u64, incident: Incident) {
        let transition = Transition {
            event: TransitionEvent::Update,
            at: incident.updated_at,
            key: incident.id.clone(),
            rev,
            sites: Vec::new(),
            servers: Vec::new(),
            notify: None,
            incident,
        };
        let write = self.store.write(move |tx| incidents::commit(tx, &[transition], b"", 0));
        write.await.unwrap();
    }

    async fn messages(&self) -> Vec<Message> {
        let rows = self.store.read(|conn| outbox::due(conn, "daily", UnixMillis(i64::MAX), 1));
        // One at a time is due: the oldest of those that tell no incident.
        let mut messages = Vec::new();
        for row in rows.await.unwrap() {
            messages.push(serde_json::from_str(&row.body).unwrap());
            self.store.write(move |tx| outbox::delivered(tx, row.id)).await.unwrap();
        }
        messages
    }

    /// Ids in the one message there is.
    async fn told(&self) -> Vec<String> {
        let messages = self.messages().await;
        let [message] = &messages[..] else { panic!("one message, not {messages:#?}") };
        assert!(self.messages().await.is_empty(), "one digest");
        assert_eq!(message.event, Event::Digest);
        message.digest.iter().map(|incident| incident.id.clone()).collect()
    }

    async fn log(&self) -> Vec<(What, String)> {
        let read = self.store.read(|conn| notices::list(conn, &Filter::default()));
        read.await.unwrap().into_iter().map(|notice| (notice.what, notice.why)).collect()
    }
}

fn incident(id: &str, severity: &str) -> Incident {
    let severity = severity.to_owned();
    Incident { id: id.to_owned(), severity, ..crate::samples::incident() }
}

fn over(mut incident: Incident) -> Incident {
    incident.state = "resolved".to_owned();
    incident.resolved_at = Some(incident.updated_at);
    incident
}

#[tokio::test]
async fn each_digest_tells_what_began_or_ended_since_the_last_one() {
    let desk = Desk::new(|_| ()).await;
    desk.change(1, incident("A", "info")).await;
    desk.change(1, over(Incident { retroactive: true, ..incident("B", "info") })).await;
    desk.change(1, Incident { parent: Some("A".to_owned()), ..incident("C", "info") }).await;
    desk.turn("2026-12-01T07:59:59Z").await;
    assert!(desk.messages().await.is_empty(), "not yet");
    desk.turn(MORNING).await;
    assert_eq!(desk.told().await, ["A", "B"], "found in old logs too, but no part of another one");
    desk.turn("2026-12-01T08:00:01Z").await;
    assert!(desk.messages().await.is_empty(), "once");
    // A goes on all day, and ends; D begins.
    desk.change(2, incident("A", "info")).await;
    desk.change(1, incident("D", "warning")).await;
    desk.change(3, over(incident("A", "info"))).await;
    desk.turn(NEXT).await;
    assert_eq!(desk.told().await, ["A", "D"]);
    desk.turn("2026-12-03T08:00:00Z").await;
    assert!(desk.messages().await.is_empty(), "D goes on, and nothing is new");
    let log = desk.log().await;
    let whats: Vec<What> = log.iter().map(|(what, _)| *what).collect();
    assert_eq!(whats, [What::Owed, What::Owed, What::Suppressed], "{log:?}");
    let since = "since yesterday 08:00";
    assert_eq!(log[1].1, since);
}

#[tokio::test]
async fn a_collector_that_was_down_sends_one_digest_when_it_is_back_within_a_day() {
    for (back, is_sent) in [
        ("2026-12-01T11:00:00Z", true),
        ("2026-12-02T07:59:00Z", true),
        ("2026-12-09T07:59:00Z", true), // the one of the eighth; seven are in it
    ] {
        let desk = Desk::new(|_| ()).await;
        desk.change(1, incident("A", "info")).await;
        let desk = desk.restart();
        desk.turn(back).await;
        desk.turn(back).await;
        assert_eq!(desk.messages().await.len(), usize::from(is_sent), "{back}");
    }
    // Weekly: a day late is too late, but nothing is lost.
    let desk = Desk::new(|config| config.digest = vec!["Tue 08:00".to_owned()]).await;
    desk.change(1, incident("A", "info")).await;
    desk.turn("2026-12-02T08:00:00Z").await;
    assert!(desk.messages().await.is_empty());
    desk.turn("2026-12-08T08:00:00Z").await;
    assert_eq!(desk.told().await, ["A"]);
}

#[tokio::test]
async fn a_crash_between_mark_and_delivery_neither_loses_nor_repeats_a_digest() {
    let desk = Desk::new(|_| ()).await;
    desk.change(1, incident("A", "info")).await;
    desk.turn(MORNING).await;
    let desk = desk.restart();
    desk.turn("2026-12-01T08:00:05Z").await;
    assert_eq!(desk.told().await, ["A"]);
    let desk = desk.restart();
    desk.turn("2026-12-01T08:00:10Z").await;
    assert!(desk.messages().await.is_empty());
}

#[tokio::test]
async fn a_digest_takes_what_its_route_wants_and_no_more() {
    let all = ["A", "B", "C"];
    let check = async |expected: &[&str], change: &dyn Fn(&mut NotifyConfig)| {
        let desk = Desk::new(change).await;
        for (id, severity) in all.iter().zip(["info", "warning", "critical"]) {
            desk.change(1, incident(id, severity)).await;
        }
        desk.turn(MORNING).await;
        assert_eq!(desk.told().await, expected);
    };
    check(&all, &|_| ()).await;
    check(&["B", "C"], &|config| config.min_severity = "warning".to_owned()).await;
    let only = |key: &str, value: &str| {
        let matches = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        move |config: &mut NotifyConfig| config.matches = matches.clone()
    };
    check(&["A"], &only("severity", "info")).await;
    check(&all, &only("server", "web-*")).await;
    // Who does not hear of ends hears only of what began.
    let desk = Desk::new(|config| config.send_resolved = false).await;
    desk.change(1, Incident { detected_at: at(EVE), ..incident("A", "info") }).await;
    desk.turn(MORNING).await;
    assert_eq!(desk.told().await, ["A"]);
    desk.change(2, over(Incident { detected_at: at(EVE), ..incident("A", "info") })).await;
    desk.turn(NEXT).await;
    assert!(desk.messages().await.is_empty());
}

#[tokio::test]
async fn a_digest_is_bounded_and_counts_the_rest() {
    let desk = Desk::new(|_| ()).await;
    for n in 0..INCIDENTS_MAX + 30 {
        let mut incident = incident(&format!("I{n:04}"), "info");
        incident.place.sites = (0..1000).map(|n| format!("s{n}.example")).collect();
        desk.change(1, incident).await;
    }
    desk.turn(MORNING).await;
    let messages = desk.messages().await;
    let [message] = &messages[..] else { panic!("{}", messages.len()) };
    assert_eq!(message.digest.len(), INCIDENTS_MAX);
    assert_eq!(message.digest[0].id, "I0030", "the newest, oldest first");
    let reason = "since yesterday 12:00, the newest 200 of 230";
    assert_eq!(message.reason, reason);
    let bytes = serde_json::to_string(message).unwrap().len();
    assert!(bytes < 1 << 20, "{bytes}");
}

#[tokio::test]
async fn a_clock_that_was_ahead_by_years_does_not_silence_a_digest_for_years() {
    let desk = Desk::new(|_| ()).await;
    desk.turn("2036-12-01T08:00:00Z").await;
    desk.turn(MORNING).await;
    desk.change(1, incident("A", "info")).await;
    desk.turn(NEXT).await;
    assert_eq!(desk.told().await, ["A"]);
}

#[tokio::test]
async fn a_route_that_is_no_digest_any_more_leaves_no_mark() {
    let desk = Desk::new(|_| ()).await;
    let mark = async || desk.store.read(|conn| digests::mark(conn, "daily")).await.unwrap();
    assert!(mark().await.is_some());
    let (store, stop) = (desk.store.clone(), CancellationToken::new());
    run(store, Vec::new(), stop).await;
    assert!(mark().await.is_none());
}
