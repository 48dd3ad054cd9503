//! Who hears what, and when, one case after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::units::Span;

use super::clerk;
use super::message::Event;
use super::office::{Office, SILENCE, at, incident, ops, over, route};
use crate::model::Incident;
use crate::model::NotifyEvent::{Opened, Resolved, Updated};
use crate::samples::START;
use crate::store::{StoreError, incidents};

#[tokio::test]
async fn each_route_hears_what_reaches_its_severity_and_matches_it() {
    let mut office = Office::new(&[
        ops(),
        route("critical", |c| c.min_severity = "critical".into()),
        route("db", |c| c.matches = BTreeMap::from([("server".into(), "db-*".into())])),
        route("daily", |c| c.digest = vec!["08:00".into()]),
    ]);
    let warning = Incident { severity: "warning".into(), ..incident("A") };
    office.page(&warning, Opened).await;
    assert_eq!(office.told().await, ["ops opened: it began"]);
    // It becomes critical: whoever knows of it hears nothing.
    office.page(&incident("A"), Updated).await;
    assert_eq!(office.told().await[1..], ["critical opened: it is critical now"]);
    office.now += 60;
    office.page(&over(incident("A"), 60), Resolved).await;
    let ends = ["ops resolved: it is over", "critical resolved: it is over"];
    assert_eq!(office.told().await[2..], ends);
    assert!(office.log().await.contains(&"db opened unwanted: it is about something else".into()));
    let timeline = office.timeline("A").await;
    let paged =
        ["paged ops", "paged critical: it is critical now", "told ops, critical that it is over"];
    assert!(paged.iter().all(|line| timeline.iter().any(|of| of == line)), "{timeline:?}");
    assert!(!timeline.iter().any(|line| line.contains("db")), "{timeline:?}");
}

#[tokio::test]
async fn what_nobody_wants_says_so_in_its_timeline() {
    let critical = route("critical", |c| c.min_severity = "critical".into());
    for (routes, why) in [(vec![critical], "no route wants it"), (vec![], "no route is configured")]
    {
        let mut office = Office::new(&routes);
        office.page(&Incident { severity: "warning".into(), ..incident("A") }, Opened).await;
        assert_eq!(office.told().await, [""; 0]);
        let timeline = office.timeline("A").await;
        assert!(timeline.contains(&format!("nobody was paged: {why}")), "{timeline:?}");
    }
}

#[tokio::test]
async fn a_page_waits_for_the_end_of_a_silence_and_comes_if_the_incident_goes_on() {
    let mut office = Office::new(&[ops()]);
    office.silence(&[("server", "web-07")], 0, 60).await;
    office.page(&incident("A"), Opened).await;
    office.turn(40).await;
    assert_eq!((office.told().await.len(), office.n_held().await), (0, 1));
    let kept = format!("page to ops suppressed: silence {SILENCE}: kernel upgrade");
    assert!(office.timeline("A").await.contains(&kept), "{:?}", office.timeline("A").await);
    office = office.restart();
    office.turn(10).await;
    let reason = format!("it goes on; not told before: silence {SILENCE}: kernel upgrade");
    assert_eq!(office.told().await, [format!("ops opened: {reason}")]);
    office.turn(10).await;
    assert_eq!((office.told().await.len(), office.n_held().await), (1, 0));
}

#[tokio::test]
async fn what_comes_back_while_its_end_is_decided_is_not_told_as_over() {
    let mut office = Office::new(&[ops()]);
    office.page(&incident("A"), Opened).await;
    // It was over for a moment: when that was seen it was open again already.
    let (routes, now) = (office.routes.clone(), at(office.now));
    let decide = move |tx: &crate::store::WriteTx<'_>| {
        clerk::turn(tx, &routes, now, &["A".to_owned()], &BTreeMap::new())
    };
    office.store.write(decide).await.unwrap();
    assert_eq!(office.told().await, ["ops opened: it began"]);
    office.commit(&over(incident("A"), 30), None).await;
    office.turn(20).await;
    assert_eq!(office.told().await[1..], ["ops resolved: it is over"]);
}

#[tokio::test]
async fn a_silence_never_keeps_back_the_end_of_what_was_told() {
    let mut office = Office::new(&[ops()]);
    office.page(&incident("A"), Opened).await;
    office.silence(&[("server", "*")], 15, 600).await;
    office.now = 20;
    let wider = Incident { scope: "group".into(), ..incident("A") };
    office.page(&wider, Updated).await;
    assert_eq!((office.told().await.len(), office.n_held().await), (1, 1));
    office.now = 50;
    office.page(&over(wider, 50), Resolved).await;
    assert_eq!(office.told().await, ["ops opened: it began", "ops resolved: it is over"]);
    assert_eq!(office.n_held().await, 0);
    let last = office.messages().await.pop().expect("it was told").1;
    assert!(last.incident.is_some_and(|incident| incident.silenced));
}

#[tokio::test]
async fn an_update_that_a_silence_kept_back_is_told_as_it_then_is_or_not_at_all() {
    for (scope, n) in [("group", 2), ("server", 1)] {
        let mut office = Office::new(&[ops()]);
        office.page(&incident("A"), Opened).await;
        office.silence(&[("kind", "*")], 15, 60).await;
        office.now = 20;
        office.page(&Incident { scope: "group".into(), ..incident("A") }, Updated).await;
        // It may have gone back meanwhile.
        office.commit(&Incident { scope: scope.into(), ..incident("A") }, None).await;
        office.turn(30).await;
        office.turn(30).await;
        assert_eq!(office.told().await.len(), n, "{:?}", office.told().await);
        assert_eq!(office.n_held().await, 0);
    }
}

#[tokio::test]
async fn what_is_over_before_anybody_could_hear_is_not_told_and_the_log_says_so() {
    // Under a silence, and before its page was due.
    for (is_silenced, line) in [
        (true, "ops opened dropped: it was over before it could be told"),
        (false, "* opened dropped: it was over before anybody was to hear of it"),
    ] {
        let mut office = Office::new(&[ops()]);
        if is_silenced {
            office.silence(&[("kind", "*")], 0, 600).await;
        }
        office.commit(&incident("A"), Some((Opened, 5))).await;
        office.turn(if is_silenced { 6 } else { 1 }).await;
        office.page(&over(incident("A"), office.now), Resolved).await;
        office.turn(10).await;
        office.turn(700).await;
        assert_eq!((office.told().await.len(), office.n_held().await), (0, 0));
        assert!(office.log().await.iter().any(|of| of == line), "{:?}", office.log().await);
    }
}

#[tokio::test]
async fn a_page_that_was_due_while_the_collector_was_away_is_told_with_its_end() {
    let mut office = Office::new(&[ops()]);
    office.commit(&incident("A"), Some((Opened, 1))).await;
    let mut office = office.restart();
    office.now += 3600;
    office.page(&over(incident("A"), 3600), Resolved).await;
    assert_eq!(office.told().await, ["ops opened: it began", "ops resolved: it is over"]);
}

#[tokio::test]
async fn outside_its_hours_a_route_waits_for_them() {
    // The sample begins at 12:01:07 on a Friday.
    let mut office = Office::new(&[route("office", |c| c.hours = vec!["Fri 12:05-18:00".into()])]);
    office.page(&incident("A"), Opened).await;
    office.turn(200).await;
    assert_eq!(office.told().await, [""; 0]);
    office.turn(60).await;
    assert_eq!(
        office.told().await,
        ["office opened: it goes on; not told before: outside its hours"]
    );
    // Its end is told at any hour.
    office.now = 8 * 3600;
    office.page(&over(incident("A"), office.now), Resolved).await;
    assert_eq!(office.told().await[1..], ["office resolved: it is over"]);
}

#[tokio::test]
async fn it_is_escalated_when_nobody_acknowledged_and_only_then() {
    let boss = || route("boss", |c| c.escalate_after = Some(Span(Duration::from_secs(600))));
    for acked in [false, true] {
        let mut office = Office::new(&[boss(), ops()]);
        office.page(&incident("A"), Opened).await;
        assert_eq!(office.told().await, ["ops opened: it began"]);
        office.turn(500).await;
        if acked {
            office.ack("A").await;
            office.turn(1).await;
            assert_eq!(office.n_held().await, 0, "at once");
            assert!(office.log().await.contains(&"boss opened dropped: ada is on it".into()));
        }
        office.turn(99).await;
        office.turn(2).await;
        office.turn(600).await;
        let boss: Vec<String> =
            if acked { vec![] } else { vec!["boss opened: nobody acknowledged it for 10m".into()] };
        assert_eq!(office.told().await[1..], boss);
    }
}

#[tokio::test]
async fn the_time_to_acknowledge_begins_when_somebody_was_told() {
    let boss = route("boss", |c| c.escalate_after = Some(Span(Duration::from_secs(600))));
    let mut office = Office::new(&[boss, ops()]);
    office.silence(&[("kind", "*")], 0, 1000).await;
    office.page(&incident("A"), Opened).await;
    office.now = 1000;
    office.turn(0).await;
    assert_eq!(office.told().await.len(), 1, "{:?}", office.told().await);
    office.turn(599).await;
    assert_eq!(office.told().await.len(), 1);
    office.turn(1).await;
    assert_eq!(office.told().await[1..], ["boss opened: nobody acknowledged it for 10m"]);
}

#[tokio::test]
async fn of_a_merged_incident_nobody_hears_or_those_who_heard_hear_its_end() {
    let mut office = Office::new(&[ops()]);
    let merged =
        |id: &str, second| Incident { parent: Some("B".into()), ..over(incident(id), second) };
    office.commit(&incident("A"), Some((Opened, 3))).await;
    office.commit(&merged("A", 10), None).await;
    office.page(&incident("C"), Opened).await;
    office.page(&merged("C", 10), Resolved).await;
    office.page(&incident("B"), Opened).await;
    office.turn(5).await;
    let told: Vec<_> = office
        .messages()
        .await
        .into_iter()
        .map(|(_, m)| (m.incident.map(|incident| incident.id).unwrap_or_default(), m.event))
        .collect();
    let want = [("C", Event::Opened), ("C", Event::Resolved), ("B", Event::Opened)];
    assert_eq!(told, want.map(|(id, event)| (id.to_owned(), event)));
    assert!(office.log().await.contains(&"* opened dropped: it is part of B".into()));
}

#[tokio::test]
async fn what_came_back_before_its_end_was_told_never_ended_for_those_who_know_of_it() {
    let mut office = Office::new(&[ops()]);
    office.page(&incident("A"), Opened).await;
    // Both while the clerk was away.
    office.commit(&over(incident("A"), 20), Some((Resolved, 0))).await;
    office.commit(&incident("A"), None).await;
    office.turn(10).await;
    assert_eq!(office.told().await, ["ops opened: it began"]);
    // It came back quietly, so the detector asks for no page about its end.
    office.commit(&over(incident("A"), 30), None).await;
    office.turn(10).await;
    assert_eq!(office.told().await[1..], ["ops resolved: it is over"]);
    office.turn(10).await;
    assert_eq!(office.told().await.len(), 2);
}

#[tokio::test]
async fn an_update_nobody_has_sent_yet_gives_way_to_a_newer_one_that_tells_both() {
    let mut office = Office::new(&[ops()]);
    let sites = |n_sites: u64| {
        let mut incident = incident("A");
        incident.affected.n_sites = n_sites;
        incident
    };
    office.page(&sites(4), Opened).await;
    office.page(&sites(8), Updated).await;
    office.page(&sites(16), Updated).await;
    assert_eq!(office.told().await, ["ops opened: it began", "ops updated: from 4 to 16 sites"]);
    let last = office.messages().await.pop().expect("it was told").1;
    assert_eq!(last.before.map(|before| before.affected.n_sites), Some(4));
    office.page(&over(sites(16), 60), Resolved).await;
    assert_eq!(office.told().await[1..], ["ops resolved: it is over"]);
    let gone = office.log().await.iter().filter(|line| line.contains("superseded")).count();
    assert_eq!(gone, 2);
}

#[tokio::test]
async fn a_page_that_is_put_off_moves_and_is_told_once_as_the_incident_then_stands() {
    let mut office = Office::new(&[ops()]);
    let pool = Incident { scope: "pool".into(), ..incident("A") };
    office.commit(&pool, Some((Opened, 1))).await;
    office.commit(&incident("A"), Some((Opened, 3))).await;
    office.turn(2).await;
    assert_eq!(office.told().await, [""; 0]);
    office.turn(1).await;
    office.turn(5).await;
    let [(_, message)] = &office.messages().await[..] else { panic!("{:?}", office.told().await) };
    assert_eq!(message.incident.as_ref().map(|incident| incident.scope.as_str()), Some("server"));
}

#[tokio::test]
async fn a_turn_that_is_cut_off_before_its_commit_is_the_same_when_it_is_repeated() {
    let mut office =
        Office::new(&[ops(), route("critical", |c| c.min_severity = "critical".into())]);
    office.commit(&incident("A"), Some((Opened, 0))).await;
    office.commit(&incident("B"), Some((Opened, 0))).await;
    let (routes, now) = (office.routes.clone(), at(office.now));
    let cut = office.store.write(move |tx| {
        clerk::turn(tx, &routes, now, &[], &BTreeMap::new())?;
        Err::<(), _>(crate::store::failed(std::io::Error::other("the power goes")))
    });
    assert!(matches!(cut.await, Err(StoreError::Sqlite(_))));
    assert_eq!(office.told().await, [""; 0]);
    office.turn(0).await;
    let told = ["ops opened: it began", "critical opened: it began"];
    assert_eq!(office.told().await, [told, told].concat());
    let messages = office.messages().await;
    let deliveries: BTreeSet<_> = messages.iter().map(|(_, m)| &m.delivery).collect();
    assert_eq!(deliveries.len(), 4);
    office.turn(1).await;
    assert_eq!(office.told().await.len(), 4);
}

#[tokio::test]
async fn what_belongs_to_a_route_that_was_taken_out_leaves_with_a_word_in_the_log() {
    let mut office = Office::new(&[
        ops(),
        route("gone", |_| ()),
        route("late", |c| c.hours = vec!["03:00-03:01".into()]),
    ]);
    office.page(&incident("A"), Opened).await;
    office.routes.truncate(1);
    let office = office.restart();
    assert_eq!(office.clerk.prepare(at(office.now)).await.unwrap(), 1);
    assert_eq!(
        (office.told().await, office.n_held().await),
        (vec!["ops opened: it began".into()], 0)
    );
    let log = office.log().await;
    for line in ["gone opened dropped", "late updated dropped"] {
        let line = format!("{line}: the route is no longer configured");
        assert!(log.contains(&line), "{log:?}");
    }
    assert_eq!(office.clerk.prepare(at(office.now)).await.unwrap(), 0);
    assert_eq!(office.log().await.len(), log.len());
}

#[tokio::test]
async fn thousands_of_pages_kept_back_are_looked_at_and_not_written() {
    let mut office = Office::new(&[
        ops(),
        route("boss", |c| c.escalate_after = Some(Span(Duration::from_secs(600)))),
    ]);
    office.silence(&[("kind", "*")], 0, 5000).await;
    for n in 0..1000 {
        let id = format!("I{n:04}");
        office.commit(&incident(&id), Some((Opened, 0))).await;
    }
    for _ in 0..20 {
        office.turn(0).await;
    }
    assert_eq!(office.n_held().await, 2000);
    let guard = office.store.write(|tx| {
        for (table, what) in [("held", "INSERT"), ("held", "UPDATE"), ("held", "DELETE"), ("notice", "INSERT"), ("told", "INSERT")] {
            tx.execute_batch(&format!(
                "CREATE TRIGGER no_{what}_{table} BEFORE {what} ON {table} BEGIN SELECT RAISE(ABORT, 'written'); END"
            ))?;
        }
        Ok(())
    });
    guard.await.unwrap();
    for _ in 0..5 {
        office.turn(10).await;
    }
}

#[tokio::test]
async fn an_incident_says_whether_a_silence_covers_it_now() {
    let mut office = Office::new(&[]);
    office.page(&incident("A"), Opened).await;
    let now = (crate::clock::now().0 - START.0) / 1000;
    let silenced = async |office: &Office| {
        let all = office
            .store
            .read(|conn| incidents::list(conn, &incidents::Filter::default()))
            .await
            .unwrap();
        let one = office.store.read(|conn| incidents::get(conn, "A")).await.unwrap().unwrap();
        assert_eq!(all[0].silenced, one.silenced);
        one.silenced
    };
    assert!(!silenced(&office).await);
    office.silence(&[("server", "web-0*")], now - 60, now + 3600).await;
    assert!(silenced(&office).await);
    office.now = now;
    office.page(&over(incident("A"), now), Resolved).await;
    assert!(!silenced(&office).await, "what is over is not silenced");
}
