//! What a clerk does when something goes wrong or comes back: merges, old acknowledgements, clocks, new
//! names, full disks, and thousands of messages at once.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::units::Span;

use super::clerk::TURN_MAX;
use super::office::{Office, at, incident, ops, over, route};
use super::page::Page;
use super::route::Route;
use crate::model::Incident;
use crate::model::Moment;
use crate::model::NotifyEvent::{Opened, Resolved, Updated};
use crate::store::silences::{self, Silence};

fn boss() -> Route {
    route("boss", |c| c.escalate_after = Some(Span(Duration::from_secs(600))))
}

fn back(incident: Incident, second: i64) -> Incident {
    let mut incident = Incident { state: "open".into(), resolved_at: None, ..incident };
    incident.timeline.push(Moment { at: at(second), what: "reopened (1)".into() });
    incident
}

#[tokio::test]
async fn an_incident_that_went_into_another_is_never_said_to_be_over() {
    let joined = |i: Incident| Incident { parent: Some("B".into()), ..i };
    let merged = |i: Incident| joined(over(i, 22));
    let wider = Incident { title: "hypervisor hv-3 fails".into(), ..incident("B") };
    let widest = Incident { title: "the fleet fails".into(), ..incident("W") };
    let into_widest = Incident { parent: Some("W".into()), ..over(wider.clone(), 25) };
    let known = incident("A").title;
    let goes_on = |id: &str, title: &str| {
        let reason = format!("it goes on as part of {id}: {title}");
        (reason, format!("MERGED: {known}, goes on as part of {title}"))
    };
    for (end, parents, (reason, headline)) in [
        (merged(incident("A")), vec![&wider], goes_on("B", "hypervisor hv-3 fails")),
        // One that stays open under its parent.
        (joined(incident("A")), vec![&wider], goes_on("B", "hypervisor hv-3 fails")),
        (merged(incident("A")), vec![&into_widest, &widest], goes_on("W", "the fleet fails")),
        (
            merged(incident("A")),
            vec![],
            ("it goes on as part of B".into(), format!("MERGED: {known}, goes on as part of B")),
        ),
        (
            merged(incident("A")),
            vec![&over(wider.clone(), 25)],
            ("it is over".into(), "RESOLVED after 22 s: its end".into()),
        ),
    ] {
        let mut office = Office::new(&[ops()]);
        office.page(&incident("A"), Opened).await;
        office.now = 30;
        for parent in parents {
            office.commit(parent, None).await;
        }
        office.page(&Incident { title: "its end".into(), ..end }, Resolved).await;
        let messages = office.messages().await;
        let [_, (_, told)] = &messages[..] else { panic!("{:?}", office.told().await) };
        let page = Page::new(told, "", None);
        assert_eq!((&told.reason, &page.headline), (&reason, &headline));
        let of = told.incident.as_ref().expect("it tells one");
        assert_eq!((of.state.as_str(), of.resolved_at.is_some()), ("resolved", true));
        let timeline = office.timeline("A").await;
        let is_over = timeline.contains(&"told ops that it is over".to_owned());
        assert_eq!(is_over, reason == "it is over", "{timeline:?}");
        office.turn(10).await;
        assert_eq!(office.told().await.len(), 2);
    }
}

#[tokio::test]
async fn who_took_an_incident_before_it_came_back_does_not_stop_its_escalation() {
    let mut office = Office::new(&[boss(), ops()]);
    office.page(&incident("A"), Opened).await;
    office.ack("A").await;
    office.turn(60).await;
    let ended = over(incident("A"), 60);
    office.page(&ended, Resolved).await;
    office.now = 100;
    office.page(&back(ended, 100), Opened).await;
    assert_eq!((office.told().await.len(), office.n_held().await), (3, 1));
    office.turn(599).await;
    assert_eq!(office.told().await.len(), 3, "{:?}", office.told().await);
    office.turn(1).await;
    assert_eq!(office.told().await[3..], ["boss opened: nobody acknowledged it for 10m"]);
    let timeline = office.timeline("A").await;
    assert!(timeline.contains(&"acknowledged by ada".to_owned()), "{timeline:?}");
}

#[tokio::test]
async fn who_takes_an_incident_that_came_back_is_on_it_whatever_the_clock_says() {
    for second in [110, -3500] {
        let mut office = Office::new(&[boss(), ops()]);
        office.page(&incident("A"), Opened).await;
        office.ack("A").await;
        office.now = 100;
        // It never ended for those who know of it.
        office.page(&back(incident("A"), 100), Updated).await;
        assert_eq!(office.n_held().await, 1, "{:?}", office.log().await);
        office.now = second;
        office.ack("A").await;
        office.turn(1).await;
        assert_eq!(office.n_held().await, 0, "{:?}", office.log().await);
        office.turn(700).await;
        assert_eq!(office.told().await, ["ops opened: it began"]);
    }
}

#[tokio::test]
async fn a_clock_set_back_by_an_hour_keeps_back_neither_page_nor_escalation() {
    let mut office = Office::new(&[boss(), ops()]);
    office.page(&incident("A"), Opened).await;
    office.commit(&incident("B"), Some((Opened, 3))).await;
    office.turn(1).await;
    assert_eq!(office.told().await.len(), 1);
    office.turn(-3600).await;
    assert_eq!(office.told().await, ["ops opened: it began", "ops opened: it began"]);
    office.turn(601).await;
    assert_eq!(office.told().await.len(), 4, "{:?}", office.told().await);
    // The same after a start, which knows of no step.
    let mut office = Office::new(&[ops()]);
    office.commit(&incident("A"), Some((Opened, 3))).await;
    let mut office = office.restart();
    office.turn(-3600).await;
    assert_eq!(office.told().await, ["ops opened: it began"]);
}

#[tokio::test]
async fn a_route_with_another_name_hears_of_what_is_open_and_of_its_end() {
    let first = || route("webhook:0", |_| ());
    let second = || route("webhook:1", |_| ());
    for (routes, names) in [
        // Renamed; and a table put in before, which moves the name of the one that was there.
        (vec![route("pager", |_| ())], vec!["pager"]),
        (vec![first(), second()], vec!["webhook:0", "webhook:1"]),
    ] {
        let mut office = Office::new(&[first()]);
        office.clerk.prepare(at(0)).await.unwrap();
        office.page(&incident("A"), Opened).await;
        // Nobody was to hear of this one.
        office.commit(&incident("Q"), None).await;
        office.routes = routes;
        let mut office = office.restart();
        for _ in 0..2 {
            office.clerk.prepare(at(office.now)).await.unwrap();
            office.turn(1).await;
        }
        let new = names.last().expect("there is one");
        let told = office.told().await;
        let opened = format!("{new} opened: it goes on; not told before: the route is new");
        assert_eq!(told.iter().rfind(|line| line.contains(" opened")), Some(&opened));
        assert_eq!(told.len(), names.len(), "{told:?}");
        office.page(&over(incident("A"), office.now), Resolved).await;
        let ends: Vec<String> =
            names.iter().map(|name| format!("{name} resolved: it is over")).collect();
        assert_eq!(office.told().await[told.len()..], ends);
    }
}

#[tokio::test]
async fn a_disk_that_stays_full_is_said_once_and_once_when_it_is_over() {
    let mut office = Office::new(&[ops()]);
    office.commit(&incident("A"), Some((Opened, 0))).await;
    let full =
        "CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    office.store.write(|tx| tx.execute_batch(full)).await.unwrap();
    for _ in 0..50 {
        office.now += 1;
        office.clerk.look(at(office.now), true).await;
    }
    assert_eq!((office.told().await.len(), office.clerk.trouble.n_said), (0, 1));
    office.store.write(|tx| tx.execute_batch("DROP TRIGGER full")).await.unwrap();
    for _ in 0..3 {
        office.clerk.look(at(office.now), true).await;
    }
    assert_eq!((office.told().await.len(), office.clerk.trouble.n_said), (1, 2));
}

#[tokio::test]
async fn an_incident_that_cannot_be_read_keeps_back_no_other() {
    let mut office = Office::new(&[ops(), boss()]);
    office.page(&incident("H"), Opened).await;
    office.page(&incident("E"), Opened).await;
    office.commit(&incident("A"), Some((Opened, 0))).await;
    office.commit(&incident("B"), Some((Opened, 0))).await;
    let spoil = "UPDATE incident SET body = '{}' WHERE id <> 'B'; UPDATE incident SET closed = 9 WHERE id = 'E'";
    office.store.write(|tx| tx.execute_batch(spoil)).await.unwrap();
    office.clerk.prepare(at(office.now)).await.unwrap();
    // The labels of servers are looked at anew after a minute.
    office.turn(61).await;
    office.turn(1).await;
    assert_eq!(office.told().await[2..], ["ops opened: it began"]);
    let log = office.log().await;
    let dropped = log.iter().filter(|line| line.contains("dropped: the incident cannot be read"));
    assert_eq!(dropped.count(), 3, "{log:?}");
    assert_eq!(office.n_held().await, 1);
}

/// Keys and values of two silences.
type Matches = [(&'static str, &'static str); 2];

#[tokio::test]
async fn silences_that_cover_an_incident_only_together_keep_it_back() {
    let two = || {
        let mut incident = incident("A");
        incident.scope = "group".into();
        incident.place.members = vec!["web-07".into(), "web-08".into()];
        incident.affected.n_sites = 2;
        incident
    };
    let cases: [(Matches, bool); 5] = [
        ([("server", "web-07"), ("server", "web-08")], true),
        ([("server", "web-07"), ("server", "web-09")], false),
        ([("site", "a.example"), ("site", "b.*")], true),
        ([("site", "a.example"), ("site", "c.*")], false),
        // Which site is on which server is not known here.
        ([("server", "web-07"), ("site", "b.example")], false),
    ];
    for (matches, is_covered) in cases {
        let mut office = Office::new(&[ops()]);
        for (ix, (key, value)) in matches.into_iter().enumerate() {
            let silence = Silence {
                id: format!("S{ix}"),
                matches: BTreeMap::from([(key.to_owned(), value.to_owned())]),
                starts_at: at(0),
                ends_at: at(60),
                reason: "new disks".into(),
                by: "ada".into(),
                made_at: at(0),
                ended_at: None,
                ended_by: None,
            };
            office.store.write(move |tx| silences::add(tx, &silence)).await.unwrap();
        }
        office.page(&two(), Opened).await;
        assert_eq!(office.n_held().await == 1, is_covered, "{matches:?}");
        let why = "ops opened suppressed: silences S1: new disks; S0: new disks".to_owned();
        assert_eq!(office.log().await.contains(&why), is_covered, "{:?}", office.log().await);
    }
}

#[tokio::test]
async fn a_silence_over_a_thousand_incidents_ends_a_few_at_a_time() {
    let names = ["one", "two", "three"];
    let mut office = Office::new(&names.map(|name| route(name, |_| ())));
    office.silence(&[("kind", "*")], 0, 60).await;
    for n in 0..300 {
        office.commit(&incident(&format!("I{n:04}")), Some((Opened, 0))).await;
    }
    for _ in 0..5 {
        office.turn(0).await;
    }
    assert_eq!((office.n_held().await, office.told().await.len()), (900, 0));
    office.now = 60;
    let (mut before, mut n_turns) = (0, 0);
    loop {
        let next = office.clerk.turn(at(office.now), true).await.unwrap();
        let told = office.told().await.len();
        assert!(told - before <= TURN_MAX * names.len(), "{told} after {before}");
        (before, n_turns) = (told, n_turns + 1);
        if !next.has_more {
            break;
        }
    }
    assert_eq!((before, office.n_held().await, n_turns), (900, 0, 5));
    let close = |tx: &crate::store::WriteTx<'_>| {
        tx.execute("UPDATE incident SET closed = 9, body = json_set(body, '$.state', 'resolved', '$.resolved_at', body ->> '$.updated_at')", [])
    };
    office.store.write(close).await.unwrap();
    loop {
        let next = office.clerk.turn(at(office.now), true).await.unwrap();
        let told = office.told().await.len();
        assert!(told - before <= TURN_MAX * names.len(), "{told} after {before}");
        before = told;
        if !next.has_more {
            break;
        }
    }
    assert_eq!(before, 1800);
}
