//! Faults that lie close together and are not one, and servers that say nothing any more.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::Engine;
use super::group_tests::TIMED_OUT;
use super::script::{Fate, NOON, Played, REFUSED, RESET, Script, at};
use super::server::Changed;
use crate::config::DetectConfig;
use crate::model::{NotifyEvent, Record, ServerId, SiteId, Transition, TransitionEvent};

const DISK_FULL: &str =
    "open() \"/var/cache/nginx/x\" failed (28: No space left on device) while reading upstream";

/// Three servers a hypervisor.
fn by_three(n: i64) -> String {
    format!("hypervisor=hv-{}", (n - 1) / 3 + 1)
}

fn scopes(played: &Played) -> Vec<(String, u64)> {
    let mut last = played.last();
    last.sort_by_key(|incident| incident.started_at);
    last.iter().map(|i| (i.scope.clone(), i.affected.n_servers)).collect()
}

/// Plays records that arrive one by one, and stops behind the last.
fn fold_all(engine: &mut Engine, records: &[(i64, Record)]) -> Vec<Transition> {
    let mut transitions = Vec::new();
    for (arrived, record) in records {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
    }
    transitions
}

#[test]
fn an_upstream_that_fails_on_under_two_server_incidents_opens_none_without_members() {
    let pools = [("10.0.0.9:80", 2), ("www", 2)];
    let script = Script::default().server("web-1", &pools).server("web-2", &pools);
    let script = script.run(0, 200, 4, |def, second| match second {
        20..50 => Fate::Fail(502, REFUSED),
        50..150 if def.pool.is_none() => Fate::Fail(502, REFUSED),
        _ => Fate::Ok,
    });
    let played = script.play(190);
    assert_eq!(scopes(&played), [("server".to_owned(), 1), ("server".to_owned(), 1)]);
    let told = played.told();
    let n_told = |event| told.iter().filter(|(told, _)| *told == event).count();
    assert_eq!((n_told(NotifyEvent::Opened), n_told(NotifyEvent::Resolved)), (2, 2), "{told:?}");
    assert_eq!(played.events(TransitionEvent::Reopen), []);
}

#[test]
fn three_faults_of_three_kinds_on_one_hypervisor_are_no_group() {
    let script = Script::default().fleet(12, 3, by_three);
    let script = script.run(0, 200, 4, |def, second| match (def.server, second) {
        (1, 20..) => Fate::Fail(502, REFUSED),
        (2, 60..) => Fate::Fail(504, TIMED_OUT),
        (3, 100..) => Fate::Fail(502, DISK_FULL),
        _ => Fate::Ok,
    });
    let played = script.play(190);
    assert_eq!(scopes(&played), vec![("server".to_owned(), 1); 3]);
    let n_groups = played.transitions.iter().filter(|t| t.incident.scope == "group").count();
    assert_eq!(n_groups, 0);
}

#[test]
fn a_server_that_fails_in_another_way_is_no_part_of_the_group_around_it() {
    let label = |n: i64| format!("hypervisor=hv-{}", (n - 1) / 6 + 1);
    let script = Script::default().fleet(18, 3, label);
    let script = script.run(0, 120, 4, |def, second| match (def.server, second) {
        (1..=5, 20..) => Fate::Fail(502, REFUSED),
        (6, 20..) => Fate::Fail(502, DISK_FULL),
        _ => Fate::Ok,
    });
    let played = script.play(110);
    let all = played.last();
    let group = all.iter().find(|incident| incident.scope == "group").expect("five are a group");
    assert_eq!((group.affected.n_servers, group.affected.n_sites), (5, 15));
    let told = played.told();
    let opened = told.iter().filter(|(event, _)| *event == NotifyEvent::Opened);
    assert!((1..=2).contains(&opened.count()), "{told:?}");
}

#[test]
fn a_server_that_fell_silent_while_it_failed_makes_no_group_with_two_others() {
    let script = Script::default().fleet(12, 3, by_three);
    let script = script.run(0, 140, 4, |def, second| match (def.server, second) {
        (1, 20..) | (2 | 3, 60..) => Fate::Fail(502, REFUSED),
        _ => Fate::Ok,
    });
    let mut records = script.in_order();
    let is_of_first = |record: &Record| match record {
        Record::Requests { site, .. } => site.0 <= 3,
        Record::Exemplar(exemplar) => exemplar.site.0 <= 3,
        Record::Heartbeat { server, .. } => *server == ServerId(1),
        _ => false,
    };
    records.retain(|(arrived, record)| *arrived < at(24) || !is_of_first(record));
    let mut engine = Engine::new(&DetectConfig::default());
    let played = Played { transitions: fold_all(&mut engine, &records) };
    assert_eq!(scopes(&played), vec![("server".to_owned(), 1); 3]);
    let n_groups = played.transitions.iter().filter(|t| t.incident.scope == "group").count();
    assert_eq!(n_groups, 0, "it was silent for half a minute when the others began");
}

#[test]
fn a_stuck_watermark_of_one_server_holds_no_incident_of_others_open() {
    let script = Script::default().fleet(12, 3, by_three);
    let script = script.run(0, 400, 4, |def, second| match (def.server, second) {
        (1, 41..) => Fate::Idle,
        (1..=3, 20..50) => Fate::Fail(502, REFUSED),
        _ => Fate::Ok,
    });
    let mut records = script.in_order();
    for (_, record) in &mut records {
        if let Record::Heartbeat { server: ServerId(1), at: known, .. } = record {
            *known = UnixMillis(known.0.min(at(41)));
        }
    }
    let mut engine = Engine::new(&DetectConfig::default());
    let played = Played { transitions: fold_all(&mut engine, &records) };
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.state.as_str()), ("group", "resolved"));
    let resolved = incident.resolved_at.expect("it is over").0;
    assert!(resolved <= at(50 + 120), "{}", resolved - NOON);
}

#[test]
fn a_lump_of_the_old_data_of_two_servers_holds_the_outages_of_both() {
    let pool = [("www", 4)];
    let script = Script::default().server("web-1", &pool).server("web-2", &pool);
    let script = script.run(0, 400, 5, |def, second| match (def.server, second) {
        (1, 20..60) => Fate::Fail(502, REFUSED),
        (2, 200..240) => Fate::Fail(502, RESET),
        _ => Fate::Ok,
    });
    let mut records: Vec<Record> =
        script.in_order().into_iter().map(|(_, record)| record).collect();
    records.retain(|record| !matches!(record, Record::Heartbeat { .. }));
    let hours = 3 * 3600;
    for server in [1, 2] {
        records.push(Record::Complete { server: ServerId(server), at: UnixMillis(at(hours)) });
    }
    let arrived = UnixMillis(at(hours));
    let mut engine = Engine::new(&DetectConfig::default());
    let mut transitions = engine.advance(arrived);
    // Their agents said a moment ago that everything up to then was sent.
    for server in [1, 2] {
        let clock = UnixMillis(at(hours) - 1);
        engine.fold(clock, &Record::Heartbeat { server: ServerId(server), at: clock, clock });
    }
    transitions.extend(engine.fold_batch(arrived, records.iter()));
    transitions.extend(engine.advance(UnixMillis(at(hours + 2000))));
    let played = Played { transitions };
    let mut all = played.last();
    all.sort_by_key(|incident| incident.started_at);
    let seen: Vec<_> =
        all.iter().map(|i| (i.started_at.0, i.retroactive, i.state.as_str())).collect();
    assert_eq!(seen, [(at(20), true, "resolved"), (at(200), true, "resolved")]);
    assert_eq!(played.told(), []);
}

/// One failure of site 1 at second 10, which nobody asks for again; the other site answers.
fn one_stray(until: i64, every: usize) -> Vec<(i64, Record)> {
    let script = Script::default().server("web-07", &[("www", 2)]);
    let script = script.run(10, 11, 1, |def, _| match def.site {
        SiteId(1) => Fate::Fail(502, RESET),
        _ => Fate::Ok,
    });
    let script = (11..until).step_by(every).fold(script, |script, second| {
        script.run(second, second + 1, 1, |def, _| match def.site {
            SiteId(1) => Fate::Idle,
            _ => Fate::Ok,
        })
    });
    script.in_order()
}

#[test]
fn a_server_with_a_stray_failure_a_while_ago_turns_suspect_anew() {
    let mut engine = Engine::new(&DetectConfig::default());
    fold_all(&mut engine, &one_stray(20, 1));
    let since = |engine: &Engine| engine.fleet.server(ServerId(1)).unwrap().suspect_since;
    assert!(since(&engine).is_some_and(|since| since <= at(12)));
    let later = one_stray(100, 1).into_iter().filter(|(arrived, _)| *arrived > at(20));
    fold_all(&mut engine, &later.collect::<Vec<_>>());
    assert_eq!((since(&engine), engine.attention.len()), (None, 0));
    assert_eq!(engine.fleet.suspects(ServerId(1)).count(), 1, "its score stands");
    let again = Script::default().server("web-07", &[("www", 2)]);
    let again = again.run(100, 103, 1, |_, _| Fate::Fail(502, RESET)).in_order();
    fold_all(&mut engine, &again[3..]);
    assert!(since(&engine).is_some_and(|since| since >= at(100)), "{:?}", since(&engine));
}

#[test]
fn a_stray_failure_of_a_site_that_nobody_asks_for_is_forgotten_some_day() {
    let mut engine = Engine::new(&DetectConfig::default());
    let records = one_stray(6 * 3600, 60);
    let until = |second: i64| records.partition_point(|(arrived, _)| *arrived < at(second));
    fold_all(&mut engine, &records[..until(140)]);
    assert_eq!(engine.fleet.suspects(ServerId(1)).count(), 1, "two minutes later it still counts");
    fold_all(&mut engine, &records[until(140)..]);
    assert_eq!(engine.fleet.suspects.len(), 0);
    let site = engine.fleet.site(0);
    assert!(site.episode.is_none() && site.score_then() == 0.0);
}

#[test]
fn what_a_change_is_called_is_worked_out_once_and_anew_when_its_server_is_renamed() {
    let mut engine = Engine::new(&DetectConfig::default());
    let mut script = Script::default().fleet(3, 1, by_three);
    for server in 1..=3 {
        let what = format!("/etc/nginx/conf.d/web-00{server}.conf");
        script = script.change(1, server, "config", &what).change(2, server, "package", "vim 9.1");
    }
    fold_all(&mut engine, &script.in_order());
    let keys = |engine: &Engine| {
        let changes = engine.fleet.servers.values().flat_map(|server| &server.changes);
        changes.map(|c: &Changed| (c.key.clone(), c.of_stack)).collect::<BTreeMap<_, _>>()
    };
    let conf = "config /etc/nginx/conf.d/(server).conf".to_owned();
    let want = BTreeMap::from([(conf.clone(), true), ("package vim 9.1".to_owned(), false)]);
    assert_eq!(keys(&engine), want);
    let cohorts = |engine: &Engine| {
        let found = super::change::cohorts(&engine.fleet, at(3));
        found.into_iter().map(|cohort| (cohort.key, cohort.servers.len())).collect::<Vec<_>>()
    };
    assert_eq!(cohorts(&engine), [(conf.clone(), 3)]);
    engine.fleet.servers.get_mut(&ServerId(1)).unwrap().rename("db-1");
    assert_eq!(cohorts(&engine), [(conf, 2)], "web-001 is not its own name any more");
}

#[test]
fn an_upstream_of_many_servers_of_which_one_fails_is_no_shared_pool_yet() {
    let script = |n_failing: i64| {
        let address = [("api.example.net:443", 2)];
        let all = (1..=20)
            .fold(Script::default(), |script, n| script.server(&format!("web-{n:02}"), &address));
        all.run(0, 30, 3, move |def, second| match (def.server, second) {
            (n, 10..) if n <= n_failing => Fate::Fail(502, REFUSED),
            _ => Fate::Ok,
        })
    };
    for n_failing in [1, 2] {
        let mut engine = Engine::new(&DetectConfig::default());
        let transitions = fold_all(&mut engine, &script(n_failing).in_order());
        let several = super::scope::several_fail_on(&engine.fleet, "api.example.net:443");
        assert_eq!(several, n_failing > 1);
        assert!(!super::scope::several_fail_on(&engine.fleet, "10.0.0.9:80"));
        assert!(transitions.iter().any(|t| t.event == TransitionEvent::Open), "{n_failing}");
    }
}
