//! The life of an incident: who is told when, what comes back under its id, and what a restart at
//! any moment changes: nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;
use wire::UnixMillis;

use super::Engine;
use super::script::{EAGAIN, Fate, NOON, Played, REFUSED, RESET, Script, at, is_in, two_pools};
use super::tests::{crashed, eventful, json, play};
use crate::config::DetectConfig;
use crate::model::{NotifyEvent, Record, ServerId, Transition, TransitionEvent};

/// Sites of a pool, a site by name or "*" fail in each of these spans of seconds.
fn spells(spells: &'static [(&'static str, i64, i64)], until: i64) -> Script {
    two_pools().run(0, until, 5, move |def, second| {
        let hit =
            |(who, from, to): &(&str, i64, i64)| is_in(def, who) && (*from..*to).contains(&second);
        if spells.iter().any(hit) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    })
}

fn kinds(played: &Played) -> Vec<(TransitionEvent, String)> {
    let news = played.transitions.iter().filter(|t| t.event != TransitionEvent::Update);
    news.map(|t| (t.event, t.incident.scope.clone())).collect()
}

#[test]
fn a_site_waits_a_second_before_it_is_told_and_a_server_two_while_others_turn_suspect() {
    let site = spells(&[("shop03.test", 20, 50)], 60).play(60);
    let opened = site.events(TransitionEvent::Open)[0].0;
    let told = site.told()[0].1;
    // A second after the test of the site held, which is before it has lasted long enough to open.
    assert!(told >= 21.75 && (0.25..=1.25).contains(&(told - opened)), "{opened}, told at {told}");

    let servers = |n: i64| {
        let fleet =
            (1..=n).fold(Script::default(), |s, n| s.server(&format!("web-{n}"), &[("www", 6)]));
        let played = fleet
            .run(0, 40, 5, |def, second| {
                // Of the others one site fails for a moment: they turn suspect, and are no group.
                let moment = second == 20 && def.site.0 % 6 == 0;
                let fails = moment || (second >= 20 && def.server == 1);
                if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
            })
            .play(40);
        let first = played.transitions.iter().find(|t| t.incident.scope == "server");
        let first = first.expect("a server opens");
        first.notify.as_ref().map_or(0, |notify| notify.due.0)
    };
    assert_eq!(servers(3) - servers(1), 1000, "it may be wider still");
}

#[test]
fn what_fails_inside_an_open_scope_joins_it_and_is_never_told_by_itself() {
    let played = spells(&[("www", 20, 80), ("shop02.test", 20, 80)], 120).play(70);
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.affected.n_sites), ("pool", 8));
    // One of its sites begins late, when the pool is open already.
    let script = two_pools().run(0, 80, 5, |def, second| {
        let from = if def.site.0 == 5 { 45 } else { 20 };
        let hit = is_in(def, "www") && second >= from;
        if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(70);
    let incident = played.only();
    assert_eq!(incident.affected.n_sites, 8);
    assert_eq!(played.told().len(), 1, "{:?}", played.told());
}

#[test]
fn the_same_scope_comes_back_under_its_id_for_ten_minutes_and_not_longer() {
    for (again, n_incidents) in [(70 + 500, 1), (70 + 700, 2)] {
        let script = two_pools().run(0, again + 60, 5, |def, second| {
            let fails = (20..50).contains(&second) || (again..again + 30).contains(&second);
            if is_in(def, "www") && fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let played = script.play(again + 55);
        assert_eq!(played.last().len(), n_incidents, "{again}");
        let opened =
            played.told().iter().filter(|(event, _)| *event == NotifyEvent::Opened).count();
        assert_eq!(opened, n_incidents, "a reopened one is not told anew: {:?}", played.told());
    }
}

#[test]
fn an_inner_scope_revives_its_incident_for_two_minutes_and_a_wider_one_never_does() {
    // The server fails, recovers at about 70 s; then one pool of it.
    for (again, n_incidents) in [(120, 1), (260, 2)] {
        let script = two_pools().run(0, again + 40, 5, |def, second| {
            let hit = (20..50).contains(&second) || (is_in(def, "www") && second >= again);
            if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let played = script.play(again + 30);
        assert_eq!(played.last().len(), n_incidents, "{again}: {:?}", kinds(&played));
        assert_eq!(played.only_open().scope, "pool", "{again}");
    }
    // A pool fails and recovers; then the whole server.
    let wider = spells(&[("www", 20, 50), ("*", 120, 170)], 170).play(165);
    let mut last = wider.last();
    last.sort_by_key(|incident| incident.started_at);
    let found: Vec<_> = last.iter().map(|i| (i.scope.as_str(), i.state.as_str())).collect();
    assert_eq!(found, [("pool", "resolved"), ("server", "open")], "{:?}", kinds(&wider));
}

#[test]
fn an_escalation_to_a_scope_that_just_resolved_revives_it_with_its_children() {
    let script = two_pools().run(0, 200, 5, |def, second| {
        let again = if is_in(def, "www") { 112 } else { 100 };
        let hit = (20..50).contains(&second) || second >= again;
        if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(150);
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.affected.n_sites), ("server", 12));
    assert_eq!(incident.started_at.0, at(20), "the id of the first time: {:?}", kinds(&played));
    assert!(incident.timeline.iter().any(|m| m.what.starts_with("reopened")), "{incident:?}");
}

#[test]
fn each_reopen_doubles_the_quiet_time_and_three_are_flapping() {
    let script = two_pools().run(0, 900, 5, |def, second| {
        let fails = second % 220 < 15 && second >= 220;
        if is_in(def, "www") && fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(1200);
    let resolved: Vec<i64> =
        played.events(TransitionEvent::Resolve).iter().map(|(at, _)| *at as i64).collect();
    let quiet: Vec<i64> = resolved.iter().map(|at| at % 220 - 15).collect();
    for (quiet, want) in quiet.iter().zip([20, 40, 80, 160]) {
        assert!((want..want + 4).contains(quiet), "{quiet} s, not {want}");
    }
    let flapping = played.transitions.iter().filter(|t| t.incident.title.ends_with("(flapping)"));
    let reopens = |t: &&Transition| {
        t.incident.timeline.iter().filter(|m| m.what.starts_with("reopened")).count()
    };
    assert_eq!(flapping.map(|t| reopens(&t)).min(), Some(3));
}

#[test]
fn an_acknowledged_incident_that_comes_back_is_told() {
    let told = |acked: bool| {
        let script = spells(&[("www", 20, 50), ("www", 150, 180)], 200);
        let mut engine = Engine::new(&DetectConfig::default());
        let mut transitions = Vec::new();
        for (arrived, record) in script.in_order() {
            transitions.extend(engine.advance(UnixMillis(arrived - 1)));
            engine.fold(UnixMillis(arrived), &record);
            if acked && let Some(first) = transitions.first() {
                engine.set_acked(&BTreeSet::from([first.incident.id.clone()]));
            }
        }
        assert!(transitions.iter().any(|t| t.event == TransitionEvent::Reopen));
        let reopened = transitions.iter().filter(|t| t.event == TransitionEvent::Reopen);
        reopened.filter(|t| t.notify.is_some()).count()
    };
    assert_eq!((told(false), told(true)), (0, 1));
}

/// Everything at once: several incidents on two servers, a shared upstream, half of it late, and a
/// site that burns slowly while the rest of its server fails and recovers.
fn crowded() -> (Vec<(i64, Record)>, DetectConfig) {
    let script = Script::default()
        .server("web-07", &[("www", 4), ("shop", 3)])
        .server("web-08", &[("10.0.0.9:80", 2), ("www", 2)])
        .server("web-09", &[("10.0.0.9:80", 2)])
        .unit(-30, 1, "php8.2-fpm.service", "active")
        .run(0, 640, 4, |def, second| match (def.site.0, second) {
            (1..=4, 40..80) | (5..=7, 60..80) => Fate::Fail(502, REFUSED),
            (5, 200..230) => Fate::Fail(502, RESET),
            (8 | 9 | 12 | 13, 100..150) => Fate::Fail(504, EAGAIN),
            (10..=11, 130..160) => Fate::Partly(7, 502, RESET),
            (7, _) if second % 12 == 0 => Fate::Partly(5, 502, RESET),
            _ => Fate::Ok,
        })
        .unit(81, 1, "php8.2-fpm.service", "reloading");
    let mut records = script.in_order();
    for (ix, (arrived, record)) in records.iter_mut().enumerate() {
        let late = match record {
            Record::Requests { site, .. } => site.0 == 6 || ix % 17 == 0,
            Record::Exemplar(exemplar) => exemplar.site.0 == 6,
            _ => false,
        };
        *arrived += if late { 9_000 + (ix % 5) as i64 * 700 } else { 0 };
    }
    records.sort_by_key(|(arrived, _)| *arrived);
    (records, DetectConfig { slo: 0.9999, ..DetectConfig::default() })
}

fn run(
    records: &[(i64, Record)],
    config: &DetectConfig,
    restart: &dyn Fn(i64) -> bool,
) -> Vec<Transition> {
    let mut engine = Engine::new(config);
    let (mut transitions, mut last) = (Vec::new(), 0);
    for (arrived, record) in records {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
        let tick = engine.tick().map_or(0, |tick| tick.0);
        if tick != last && restart(tick) {
            engine = Engine::load(&engine.save(), config).unwrap();
        }
        last = tick;
    }
    transitions.extend(engine.advance(UnixMillis(at(700))));
    transitions
}

#[test]
fn a_restart_at_every_tick_of_a_busy_time_changes_nothing() {
    let records = eventful().in_order();
    let whole = json(&play(&records, 300));
    let mut engine = Engine::new(&DetectConfig::default());
    let (mut transitions, mut last) = (Vec::new(), None);
    for (arrived, record) in &records {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
        let second = (arrived - NOON) / 1000;
        let is_busy = (18..36).contains(&second)
            || (58..66).contains(&second)
            || (128..134).contains(&second);
        if is_busy && engine.tick() != last {
            engine = Engine::load(&engine.save(), &DetectConfig::default()).unwrap();
            last = engine.tick();
        }
    }
    transitions.extend(engine.advance(UnixMillis(at(300))));
    assert_eq!(whole, json(&transitions));
}

#[test]
fn many_incidents_late_data_and_a_slow_burn_survive_restarts() {
    let (records, config) = crowded();
    let whole = run(&records, &config, &|_| false);
    let kinds: BTreeSet<_> =
        whole.iter().map(|t| (t.incident.kind.clone(), t.incident.scope.clone())).collect();
    assert!(kinds.len() >= 3 && kinds.iter().any(|(kind, _)| kind == "slow_burn"), "{kinds:?}");
    let restarted = run(&records, &config, &|tick| (tick - NOON) / 250 % 31 == 0);
    assert_eq!(json(&whole), json(&restarted));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// As a collector starts again: an older snapshot, the same records anew, and then the cases as
    /// of the last stored decision.
    #[test]
    fn an_older_snapshot_brought_forward_tells_nothing_twice_and_loses_nothing(
        snapshot in 0.05..0.6_f64, crash in 0.6..1.0_f64,
    ) {
        let (records, config) = crowded();
        let whole = Played { transitions: run(&records, &config, &|_| false) };
        let stored = crashed((&records, &config), 700, snapshot, crash);
        let ids = |played: &Played| -> Vec<_> {
            played.last().iter().map(|i| (i.id.clone(), i.state.clone(), i.affected)).collect()
        };
        prop_assert_eq!(ids(&whole), ids(&stored));
        prop_assert_eq!(whole.told(), stored.told());
    }
}

#[test]
fn servers_without_a_word_keep_their_incident_through_a_restart() {
    let records = spells(&[("www", 20, 60)], 60).in_order();
    let config = DetectConfig::default();
    let mut engine = Engine::new(&config);
    let mut transitions = Vec::new();
    for (arrived, record) in &records {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
    }
    // The collector was away for an hour; nothing came since.
    let mut engine = Engine::load(&engine.save(), &config).unwrap();
    transitions.extend(engine.advance(UnixMillis(at(3600))));
    assert!(engine.fleet.server(ServerId(1)).is_some());
    // That its agent is silent for an hour is told as what it is, and not the end of this.
    transitions.retain(|transition| transition.incident.kind == "gateway_errors");
    assert_eq!(Played { transitions }.only().state, "open");
}
