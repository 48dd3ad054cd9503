//! The message of a test: an incident that nobody can take for a real one.

use std::time::Duration;

use ulid::Ulid;
use wire::UnixMillis;

use super::chart::Chart;
use super::message::{Event, Message};
use crate::ca;
use crate::model::{
    Action, Affected, Alternative, Cause, ChangeBefore, Evidence, Incident, Moment, Place,
};

/// What every test says first.
pub const TITLE: &str =
    "TEST of gatewatch, nothing is broken: 3 of 4 sites on test-server fail with 502";

/// A test that begins at `now`.
#[must_use]
pub fn message(now: UnixMillis) -> Message {
    let id = || ca::new_id(now).unwrap_or_else(|_| Ulid::nil()).to_string();
    Message {
        event: Event::Test,
        delivery: id(),
        at: now,
        reason: "somebody asked for a test".into(),
        incident: Some(incident(id(), now)),
        before: None,
        changed_back: None,
        digest: Vec::new(),
        report: None,
    }
}

/// Requests around it: four a second, of which most fail at last.
#[must_use]
pub fn chart(now: UnixMillis) -> Chart {
    let ago = |s: u64| now.minus(Duration::from_secs(s));
    let mut chart = Chart::new(ago(600), now);
    for s in (0..600).step_by(10) {
        chart.add(ago(s), 40, if s <= 30 { 32 } else { 0 });
    }
    chart
}

fn incident(id: String, now: UnixMillis) -> Incident {
    let ago = |s: u64| now.minus(Duration::from_secs(s));
    let server = || Some("test-server".to_owned());
    Incident {
        id,
        kind: "gateway_errors".into(),
        state: "open".into(),
        severity: "warning".into(),
        scope: "server".into(),
        place: Place {
            server: server(),
            pool: Some("www".into()),
            members: vec!["test-server".into()],
            sites: ["shop.test", "blog.test", "wiki.test"].map(str::to_owned).to_vec(),
            ..Place::default()
        },
        title: TITLE.into(),
        started_at: ago(32),
        detected_at: ago(30),
        resolved_at: None,
        updated_at: now,
        retroactive: false,
        affected: Affected {
            n_sites: 3,
            n_sites_active: 4,
            n_servers: 1,
            n_requests: 120,
            n_gateway_errors: 96,
            n_502: 96,
            ..Affected::default()
        },
        cause: Cause {
            class: "overload".into(),
            confidence: 0.97,
            evidence: vec![
                Evidence {
                    kind: "log".into(),
                    text: "(test) server reached pm.max_children setting (5), consider raising it"
                        .into(),
                    at: ago(33),
                    server: server(),
                    weight: 3.1,
                },
                Evidence {
                    kind: "resource".into(),
                    text: "(test) all 5 workers of pool www are busy".into(),
                    at: ago(31),
                    server: server(),
                    weight: 2.0,
                },
            ],
            alternatives: vec![Alternative { class: "oom".into(), confidence: 0.02 }],
        },
        change: Some(ChangeBefore {
            kind: "package".into(),
            text: "(test) php8.2-fpm 8.2.7 to 8.2.29".into(),
            at: ago(97),
            score: 0.8,
        }),
        actions: vec![Action {
            text: "Nothing is to be done: this is a test of the route".into(),
            command: Some("gatewatch-collector notify log".into()),
        }],
        parent: None,
        children: Vec::new(),
        acked_by: None,
        silenced: false,
        timeline: vec![Moment { at: ago(30), what: "opened as a test".into() }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_a_picture_of_what_it_tells() {
        let chart = chart(UnixMillis(1_795_176_067_000));
        assert!(chart.words().contains("requests failed in"), "{}", chart.words());
        assert!(chart.png().starts_with(b"\x89PNG"));
    }

    #[test]
    fn nobody_can_take_a_test_for_an_outage() {
        let now = UnixMillis(1_795_176_067_000);
        let told = message(now);
        assert_eq!((told.event, told.at), (Event::Test, now));
        let incident = told.incident.unwrap();
        assert!(incident.title.starts_with("TEST of gatewatch, nothing is broken"));
        assert_ne!(incident.id, told.delivery);
        assert!(incident.place.sites.iter().all(|site| site.split('.').nth(1) == Some("test")));
        let texts = incident.cause.evidence.iter().map(|evidence| &evidence.text);
        let texts = texts.chain(incident.change.iter().map(|change| &change.text));
        assert!(texts.clone().count() == 3 && texts.clone().all(|text| text.contains("test")));
    }
}
