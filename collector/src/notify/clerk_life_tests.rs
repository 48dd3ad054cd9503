//! What a route hears whatever happens: beginnings and ends in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use wire::units::Span;

use super::message::Event;
use super::office::{Office, at, incident, ops, over, route};
use crate::model::Incident;
use crate::model::NotifyEvent::{self, Opened, Resolved, Updated};
use crate::store::incidents;

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Act {
    Page(NotifyEvent),
    Quiet,
    End(bool),
    Merge,
    Ack,
    Silence(i64),
    Pass(i64),
    Severity(bool),
    Restart,
    Deliver,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => Just(Act::Page(Opened)),
        3 => Just(Act::Page(Updated)),
        1 => Just(Act::Quiet),
        3 => any::<bool>().prop_map(Act::End),
        1 => Just(Act::Merge),
        1 => Just(Act::Ack),
        2 => (5_i64..60).prop_map(Act::Silence),
        6 => (0_i64..90).prop_map(Act::Pass),
        1 => any::<bool>().prop_map(Act::Severity),
        1 => Just(Act::Restart),
        2 => Just(Act::Deliver),
    ];
    proptest::collection::vec(act, 1..40)
}

/// What each route heard in order: `opened updated* resolved`, again and again.
fn is_in_order(events: &[Event]) -> bool {
    let mut is_open = false;
    events.iter().all(|event| match event {
        Event::Opened => !std::mem::replace(&mut is_open, true),
        Event::Updated => is_open,
        Event::Resolved => std::mem::replace(&mut is_open, false),
        Event::Digest | Event::Report | Event::Test => false,
    })
}

async fn live(acts: Vec<Act>) -> BTreeMap<String, Vec<Event>> {
    let mut office = Office::new(&[
        ops(),
        route("critical", |c| c.min_severity = "critical".into()),
        route("boss", |c| c.escalate_after = Some(Span(Duration::from_secs(60)))),
        route("office", |c| c.hours = vec!["12:03-12:06".into()]),
    ]);
    let (mut incident, mut is_open, mut heard) = (incident("A"), false, BTreeMap::new());
    let mut deliver = async |office: &Office| {
        for (route, message) in office.messages().await {
            heard.entry(route).or_insert_with(Vec::new).push(message.event);
        }
        office.store.write(|tx| tx.execute("DELETE FROM outbox", [])).await.unwrap();
    };
    for (n, act) in acts.into_iter().enumerate() {
        match act {
            Act::Page(event) => {
                is_open = true;
                incident =
                    Incident { state: "open".into(), resolved_at: None, parent: None, ..incident };
                incident.affected.n_sites += n as u64 * 7;
                office.commit(&incident, Some((event, n as i64 % 3))).await;
            }
            Act::Quiet => office.commit(&incident, None).await,
            Act::End(_) | Act::Merge if !is_open => {}
            Act::End(is_told) => {
                is_open = false;
                incident = over(incident, office.now);
                office.commit(&incident, is_told.then_some((Resolved, 0))).await;
            }
            Act::Merge => {
                is_open = false;
                incident = Incident { parent: Some("B".into()), ..over(incident, office.now) };
                office.commit(&incident, Some((Resolved, 0))).await;
            }
            Act::Ack => {
                let now = at(office.now);
                office.store.write(move |tx| incidents::ack(tx, "A", "ada", now)).await.unwrap();
            }
            Act::Silence(span) => {
                office.store.write(|tx| tx.execute("DELETE FROM silence", [])).await.unwrap();
                office.silence(&[("kind", "*")], office.now, office.now + span).await;
            }
            Act::Pass(seconds) => office.turn(seconds).await,
            Act::Severity(is_high) => {
                incident.severity = if is_high { "critical" } else { "warning" }.into();
            }
            Act::Restart => office = office.restart(),
            Act::Deliver => deliver(&office).await,
        }
    }
    // In the end all is over, and everybody knows.
    office.commit(&over(incident, office.now), None).await;
    for _ in 0..3 {
        office.turn(5).await;
    }
    deliver(&office).await;
    assert_eq!(office.n_held().await, 0);
    heard
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_a_route_hears_beginnings_and_ends_in_turn(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (route, events) in runtime.block_on(live(acts)) {
            prop_assert!(is_in_order(&events), "{}: {:?}", route, events);
            prop_assert!(events.last().is_none_or(|last| *last == Event::Resolved), "{}: {:?}", route, events);
        }
    }
}
