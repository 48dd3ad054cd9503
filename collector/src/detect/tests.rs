//! The detector on simulated time: what it opens, where, when, and what it leaves alone.

use super::script::{Def, EAGAIN, Fate, NO_SOCKET, Played, REFUSED, RESET, Script, at};
use crate::model::{Counts, NotifyEvent, TransitionEvent};

fn names(from: usize, until: usize) -> Vec<String> {
    (from..until).map(|ix| format!("shop{ix:02}.test")).collect()
}

fn in_pool<'a>(pool: &'a str) -> impl Fn(&Def) -> bool + 'a {
    move |def| def.pool.as_deref() == Some(pool)
}

/// A server whose sites in `pool` fail with `text` in the seconds `from..until`.
fn outage(
    script: Script,
    pool: &'static str,
    from: i64,
    until: i64,
    end: i64,
    text: &'static str,
) -> Script {
    script.run(0, end, 5, move |def, second| {
        let hit = pool == "*" || in_pool(pool)(def);
        if hit && (from..until).contains(&second) { Fate::Fail(502, text) } else { Fate::Ok }
    })
}

#[test]
fn a_whole_server_is_one_incident_that_opens_within_two_seconds_and_resolves() {
    let script = Script::default().server("web-07", &[("www", 9), ("shop10", 1), ("shop11", 2)]);
    let played = outage(script, "*", 20, 50, 120, REFUSED).play(120);
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.severity.as_str()), ("server", "critical"));
    assert_eq!(incident.place.members, ["web-07"]);
    assert_eq!(incident.place.sites, names(1, 13));
    assert_eq!(incident.started_at.0, at(20));
    let first = (incident.detected_at.0 - at(20)) as f64 / 1000.0;
    assert!(first <= 2.0, "opened after {first} s");
    assert_eq!(incident.affected.n_502, 12 * 5 * 30);
    assert_eq!(incident.state, "resolved");
    let resolved = played.events(TransitionEvent::Resolve);
    assert_eq!(resolved.len(), 1, "{resolved:?}");
    assert!((70.0..75.0).contains(&resolved[0].0), "{resolved:?}");
    assert_eq!(
        played.told().iter().map(|(event, _)| *event).collect::<Vec<_>>(),
        [NotifyEvent::Opened, NotifyEvent::Resolved],
    );
}
