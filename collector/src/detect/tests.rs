//! The detector on simulated time: what it opens, where, when, and what it leaves alone.

use proptest::prelude::*;
use wire::UnixMillis;

use super::Engine;
use super::script::{
    Def, EAGAIN, Fate, NO_SOCKET, NOON, Played, REFUSED, RESET, Script, at, is_in, outage,
    two_pools,
};
use crate::config::DetectConfig;
use crate::model::{Counts, NotifyEvent, Record, Transition, TransitionEvent};

fn names(from: usize, until: usize) -> Vec<String> {
    (from..until).map(|ix| format!("shop{ix:02}.test")).collect()
}

fn seconds(at: UnixMillis) -> f64 {
    (at.0 - NOON) as f64 / 1000.0
}

#[test]
fn a_whole_server_is_one_incident_that_opens_within_two_seconds_and_resolves() {
    let script = Script::default().server("web-07", &[("www", 9), ("shop10", 1), ("shop11", 2)]);
    let played = outage(script, "*", (20, 50, 120), REFUSED).play(120);
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.severity.as_str()), ("server", "critical"));
    assert_eq!(incident.place.members, ["web-07"]);
    assert_eq!(incident.place.sites, names(1, 13));
    assert_eq!(incident.started_at.0, at(20));
    let first = seconds(incident.detected_at) - 20.0;
    assert!(first <= 2.0, "opened after {first} s");
    assert_eq!(incident.affected.n_502, 12 * 5 * 30);
    assert_eq!(incident.state, "resolved");
    let resolved = played.events(TransitionEvent::Resolve);
    assert_eq!(resolved.len(), 1, "{resolved:?}");
    assert!((70.0..75.0).contains(&resolved[0].0), "{resolved:?}");
    let told: Vec<NotifyEvent> = played.told().iter().map(|(event, _)| *event).collect();
    assert_eq!(told, [NotifyEvent::Opened, NotifyEvent::Resolved]);
    assert!(played.told()[0].1 <= 22.5, "{:?}", played.told());
}

#[test]
fn a_pool_that_fails_alone_is_one_pool_incident_with_exactly_its_sites() {
    let played = outage(two_pools(), "www", (20, 40, 100), NO_SOCKET).play(100);
    let incident = played.only();
    assert_eq!(incident.scope, "pool");
    assert_eq!(incident.place.members, ["web-07/www"]);
    assert_eq!(incident.place.sites, names(1, 9));
    assert_eq!(incident.place.server.as_deref(), Some("web-07"));
    assert_eq!(incident.affected.n_sites_active, 8);
    assert_eq!(incident.affected.n_gateway_errors, 8 * 5 * 20);
    assert_eq!(incident.state, "resolved");
}

#[test]
fn a_servers_only_pool_is_the_server_with_the_pool_named() {
    let script = Script::default().server("web-07", &[("www", 6)]);
    let incident = outage(script, "www", (20, 40, 60), EAGAIN)
        .line(
            21,
            1,
            "php_fpm",
            "[pool www] server reached pm.max_children setting (4), consider raising it",
        )
        .play(40)
        .only();
    assert_eq!((incident.scope.as_str(), incident.place.pool.as_deref()), ("server", Some("www")));
    assert_eq!(
        incident.title,
        "6 of 6 sites on web-07 fail with 502 since 12:00:20: PHP-FPM pool www is exhausted"
    );
}

#[test]
fn one_site_in_a_shared_pool_stays_one_site() {
    let played = outage(two_pools(), "shop03.test", (20, 60, 100), RESET).play(60);
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.severity.as_str()), ("site", "warning"));
    assert_eq!(incident.place.members, ["web-07/shop03.test"]);
    let delay = seconds(incident.detected_at) - 20.0;
    assert!(delay <= 2.0, "{delay}");
}

#[test]
fn three_clients_failing_in_a_row_open_a_site_with_a_clean_past() {
    let script =
        Script::default().server("web-07", &[("www", 1)]).slowly(0, 200, 2, |_, second| {
            if second >= 100 { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
    let incident = script.play(120).only();
    assert_eq!(incident.scope, "site");
    // Failures at 101, 103 and 105 s.
    let detected = seconds(incident.detected_at);
    assert!((105.0..106.5).contains(&detected), "{detected}");
    assert_eq!(incident.started_at.0, at(101));
}

#[test]
fn noise_opens_nothing() {
    let quiet = || Script::default().server("web-07", &[("www", 3), ("shop", 1)]);
    let stray = quiet().slowly(0, 900, 10, |def, second| {
        if def.site.0 == 4 && second == 302 { Fate::Fail(502, RESET) } else { Fate::Ok }
    });
    let aborts = |n| Counts { n, n_499: n, ..Counts::default() };
    let application = |n| Counts { n, n_5xx_app: n, ..Counts::default() };
    let mut hammering = quiet();
    hammering.only_client = Some(7);
    let in_storm = |second| (100..200).contains(&second);
    let scripts =
        [
            ("a stray 502 on a quiet site", stray),
            (
                "one client hammering one broken page",
                hammering.run(0, 400, 2, move |def, second| {
                    if def.site.0 == 1 && in_storm(second) {
                        Fate::Fail(502, RESET)
                    } else {
                        Fate::Idle
                    }
                }),
            ),
            (
                "clients that go away",
                quiet().run(0, 300, 20, move |_, second| {
                    if in_storm(second) { Fate::Other(aborts) } else { Fate::Ok }
                }),
            ),
            (
                "the application's own 503",
                quiet().run(0, 300, 20, move |_, second| {
                    if in_storm(second) { Fate::Other(application) } else { Fate::Ok }
                }),
            ),
            (
                "a scanner's 404 storm is traffic that is answered",
                quiet().run(0, 300, 200, |_, _| Fate::Ok),
            ),
            (
                "a stall of less than a second",
                quiet().run(0, 120, 40, |_, second| {
                    if second == 50 { Fate::Fail(502, RESET) } else { Fate::Ok }
                }),
            ),
            (
                "one failure in a hundred on a busy server",
                quiet().run(0, 600, 20, |def, second| {
                    if (second + def.site.0 * 13) % 25 == 0 {
                        Fate::Partly(2, 502, RESET)
                    } else {
                        Fate::Ok
                    }
                }),
            ),
        ];
    for (name, script) in scripts {
        let played = script.play(1000);
        let titles: Vec<_> = played.last().iter().map(|i| i.title.clone()).collect();
        assert!(played.transitions.is_empty(), "{name}: {titles:?}");
    }
}

#[test]
fn an_announced_reload_with_failures_opens_nothing_but_one_that_does_not_recover_does() {
    let base = || {
        Script::default()
            .server("web-07", &[("www", 6)])
            .unit(-30, 1, "php8.2-fpm.service", "active")
            .unit(20, 1, "php8.2-fpm.service", "reloading")
            .unit(22, 1, "php8.2-fpm.service", "active")
    };
    let fate = |until| {
        move |_: &Def, second: i64| {
            if (20..until).contains(&second) { Fate::Partly(5, 502, RESET) } else { Fate::Ok }
        }
    };
    let fine = base().run(0, 100, 5, fate(23)).play(100);
    assert!(fine.transitions.is_empty(), "{:?}", fine.last());
    let broken = base().run(0, 100, 5, fate(60)).play(50).only();
    assert_eq!(broken.scope, "server");
    assert!(seconds(broken.detected_at) < 34.0, "{}", broken.detected_at);
}

#[test]
fn an_escalation_keeps_the_oldest_id_and_merges_the_rest() {
    let script = two_pools().run(0, 100, 5, |def, second| {
        let from = match def.site.0 {
            1 => 20,
            2..=8 => 26,
            _ => 32,
        };
        if second >= from { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(60);
    let first = &played.transitions[0];
    assert_eq!((first.event, first.incident.scope.as_str()), (TransitionEvent::Open, "site"));
    let incident = played.only();
    assert_eq!(incident.id, first.incident.id);
    assert_eq!((incident.scope.as_str(), incident.affected.n_sites), ("server", 12));
    assert_eq!(incident.started_at.0, at(20));
    let scopes: Vec<_> = played
        .transitions
        .iter()
        .filter(|t| t.event == TransitionEvent::Escalate)
        .map(|t| t.incident.scope.as_str())
        .collect();
    assert_eq!(scopes, ["pool", "server"]);
    for transition in played.transitions.iter().filter(|t| t.event == TransitionEvent::Merge) {
        assert_eq!(transition.incident.parent.as_ref(), Some(&incident.id));
        assert!(incident.children.contains(&transition.incident.id));
    }
    let last = played.transitions.last().expect("there are some");
    assert!(last.incident.affected.n_502 >= 5 * (40 + 7 * 34 + 4 * 28 - 12 * 11));
}

#[test]
fn two_pools_with_different_causes_stay_two_incidents() {
    let script = two_pools().run(0, 90, 5, |def, second| {
        let text = if is_in(def, "www") { NO_SOCKET } else { EAGAIN };
        if (20..50).contains(&second) { Fate::Fail(502, text) } else { Fate::Ok }
    });
    let mut last = script.play(45).last();
    last.sort_by(|a, b| a.place.members.cmp(&b.place.members));
    let found: Vec<_> = last
        .iter()
        .map(|i| (i.scope.as_str(), i.place.members[0].as_str(), i.cause.class.as_str()))
        .collect();
    assert_eq!(
        found,
        [("pool", "web-07/shop", "overload"), ("pool", "web-07/www", "service_down")]
    );
}

#[test]
fn two_servers_are_two_incidents() {
    let script = Script::default().server("web-07", &[("www", 5)]).server("web-08", &[("www", 5)]);
    let last = outage(script, "*", (20, 50, 50), REFUSED).play(50).last();
    let mut members: Vec<_> = last.iter().flat_map(|i| i.place.members.clone()).collect();
    members.sort();
    assert_eq!(members, ["web-07", "web-08"]);
}

#[test]
fn an_upstream_that_two_servers_share_is_one_pool() {
    let pools = [("10.0.0.9:8080", 4), ("www", 4)];
    let script = Script::default().server("web-07", &pools).server("web-08", &pools);
    let script = script.run(0, 60, 5, |def, second| {
        let hit = def.pool.is_none() && second >= 20;
        if hit {
            Fate::Fail(
                504,
                "upstream timed out (110: Connection timed out) while connecting to upstream",
            )
        } else {
            Fate::Ok
        }
    });
    let incident = script.play(45).only();
    assert_eq!(incident.scope, "pool");
    assert_eq!(incident.place.members, ["web-07/10.0.0.9:8080", "web-08/10.0.0.9:8080"]);
    assert_eq!((incident.place.server, incident.affected.n_servers), (None, 2));
    assert_eq!(incident.affected.n_sites, 8);
    assert!(incident.title.contains("fail with 504"), "{}", incident.title);
}

#[test]
fn flapping_keeps_one_id_and_is_told_once() {
    let script = two_pools().run(0, 700, 5, |def, second| {
        let fails = second % 100 < 20 && (100..600).contains(&second);
        if is_in(def, "www") && fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(1000);
    let incident = played.only();
    let reopened = played.events(TransitionEvent::Reopen);
    assert!(reopened.len() >= 2, "{reopened:?}");
    assert!(incident.timeline.iter().any(|m| m.what.contains("reopened")), "{incident:?}");
    assert_eq!(played.told().len(), 2, "{:?}", played.told());
    assert_eq!(incident.affected.n_502, 8 * 5 * 20 * 5);
}

#[test]
fn what_fails_again_within_a_minute_counts_nothing_twice() {
    let script = two_pools().run(0, 400, 5, |def, second| {
        let fails = (100..110).contains(&second) || (140..150).contains(&second);
        if is_in(def, "www") && fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(400);
    assert_eq!(played.events(TransitionEvent::Reopen).len(), 1);
    let affected = played.only().affected;
    assert_eq!(affected.n_502, 8 * 5 * 20, "{affected:?}");
    assert!(affected.n_requests <= 8 * 5 * 110, "{affected:?}");
}

#[test]
fn the_incident_of_a_forgotten_server_does_not_stay_open() {
    let script = outage(two_pools(), "www", (20, 60, 60), REFUSED);
    let mut engine = Engine::new(&DetectConfig::default());
    for (arrived, record) in script.in_order() {
        engine.fold(UnixMillis(arrived), &record);
        engine.advance(UnixMillis(arrived));
    }
    let all = std::collections::BTreeSet::from([crate::model::ServerId(1)]);
    engine.keep(&all);
    assert_eq!(
        engine.advance(UnixMillis(at(300))).iter().filter(|t| t.incident.state != "open").count(),
        0
    );
    engine.keep(&std::collections::BTreeSet::new());
    let ended = engine.advance(UnixMillis(at(301))).pop().expect("it resolves");
    assert_eq!(ended.incident.state, "resolved");
    assert!(ended.incident.timeline.iter().any(|m| m.what.contains("forgotten")), "{ended:?}");
}

#[test]
fn a_flood_far_above_the_norm_of_the_hour_is_evidence() {
    let surge = |norm: Option<f64>| {
        let script = two_pools().run(0, 20, 5, |_, _| Fate::Ok).run(20, 50, 60, |def, second| {
            let full = is_in(def, "www") && second >= 25;
            if full { Fate::Partly(8, 502, EAGAIN) } else { Fate::Ok }
        });
        let mut engine = Engine::new(&DetectConfig::default());
        let mut transitions = Vec::new();
        for (arrived, record) in script.in_order() {
            let (early, beat) = (arrived < at(0), matches!(record, Record::Heartbeat { .. }));
            engine.fold(UnixMillis(arrived), &record);
            if let (true, Some(norm), Record::Site { site, .. }) = (early, norm, &record) {
                let mut past = serde_json::to_value(super::past::Past::default()).unwrap();
                past["hours"] = serde_json::Value::from(vec![norm; 24]);
                engine.set_past(*site, serde_json::from_value(past).unwrap());
            }
            if let (true, Record::Heartbeat { server, at, .. }) = (beat, record) {
                engine.fold(UnixMillis(arrived), &Record::Complete { server, at });
                transitions.extend(engine.advance(UnixMillis(arrived)));
            }
        }
        let last = transitions.pop().expect("it opens").incident;
        last.cause.evidence.into_iter().find(|e| e.text.contains("normal at this hour"))
    };
    let shown = surge(Some(5.0)).expect("12 times the norm is shown");
    assert_eq!(shown.kind, "resource");
    assert!(shown.text.ends_with(" times)") && shown.at.0 >= at(30), "{shown:?}");
    assert_eq!(surge(Some(30.0)), None, "twice the norm is a good day");
    assert_eq!(surge(None), None, "without a norm nothing is known");
}

#[test]
fn only_neighbours_of_failing_servers_are_asked_to_hurry() {
    let mut engine = Engine::new(&DetectConfig::default());
    let script = (1..=6)
        .fold(Script::default(), |script, n| script.server(&format!("web-{n:02}"), &[("www", 4)]));
    let script = script.run(0, 40, 5, |def, second| {
        let fails = def.site.0 <= 4 && second >= 20;
        if fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let labels = ["hypervisor", "network"].map(str::to_owned);
    let named = |n: i64| {
        let label = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let labels = match n {
            1 => vec![label("hypervisor", "hv-1"), label("network", "a"), label("os", "debian")],
            2 => vec![label("hypervisor", "hv-1")],
            3 => vec![label("network", "hv-1"), label("os", "debian")],
            _ => vec![label("network", "a")],
        };
        Record::Server {
            server: crate::model::ServerId(n),
            name: format!("web-{n:02}"),
            labels: labels.into_iter().collect(),
            n_cpu: 4,
            heartbeat: std::time::Duration::from_secs(5),
        }
    };
    for (arrived, record) in script.in_order() {
        let early = matches!(record, Record::Server { .. });
        engine.fold(UnixMillis(arrived), &record);
        if !early {
            engine.advance(UnixMillis(arrived));
        }
        if arrived < at(20) {
            assert!(engine.neighbours(&labels, 10).is_empty());
        }
    }
    (1..=6).for_each(|n| engine.fold(UnixMillis(at(40)), &named(n)));
    let near = |n_max| engine.neighbours(&labels, n_max).iter().map(|s| s.0).collect::<Vec<_>>();
    assert_eq!(near(10), [2, 4, 5, 6]);
    assert_eq!(near(3), [2], "a network of four is too many to ask");
}

#[test]
fn nonsense_of_a_hostile_agent_breaks_nothing_and_fills_no_memory() {
    let mut engine = Engine::new(&DetectConfig::default());
    let script = two_pools();
    for (arrived, record) in script.in_order() {
        engine.fold(UnixMillis(arrived), &record);
    }
    let (server, site) = (crate::model::ServerId(1), script.sites[0].site);
    let counts = Counts { n: 9, n_502: 9, ..Counts::default() };
    for ms in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX] {
        let at_ms = UnixMillis(ms);
        for clock in [at(0), i64::MAX, i64::MIN, 0] {
            engine.fold(UnixMillis(at(0)), &Record::Requests { site, at: at_ms, counts });
            engine.fold(UnixMillis(at(0)), &Record::Complete { server, at: at_ms });
            let clock = UnixMillis(clock);
            engine.fold(UnixMillis(at(0)), &Record::Heartbeat { server, at: at_ms, clock });
            engine.advance(UnixMillis(at(0)));
        }
    }
    for n in 0..5000 {
        let values = vec![("system.oom_kills", format!("cgroup-{n}"), f64::from(n))];
        engine.fold(UnixMillis(at(1)), &Record::Sample { server, at: UnixMillis(at(1)), values });
    }
    engine.advance(UnixMillis(at(2)));
    assert!(engine.save().len() < 500_000, "{}", engine.save().len());
}

#[test]
fn a_reopened_incident_that_lasts_is_told_after_all() {
    let script = two_pools().run(0, 700, 5, |def, second| {
        let fails = (100..120).contains(&second) || second >= 200;
        if is_in(def, "www") && fails { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(700);
    assert_eq!(played.only().state, "open");
    let told: Vec<NotifyEvent> = played.told().iter().map(|(event, _)| *event).collect();
    assert_eq!(told, [NotifyEvent::Opened, NotifyEvent::Resolved, NotifyEvent::Opened]);
}

#[test]
fn old_data_gives_a_retroactive_incident_that_nobody_is_told_of() {
    let mut script = two_pools();
    script.delay_ms = 600_000;
    let played = outage(script, "www", (20, 60, 200), REFUSED).play(1000);
    let incident = played.only();
    assert!(incident.retroactive);
    assert_eq!((incident.severity.as_str(), incident.state.as_str()), ("info", "resolved"));
    assert_eq!(incident.affected.n_502, 8 * 5 * 40);
    assert_eq!(played.told(), []);
}

#[test]
fn old_data_of_an_outage_that_still_goes_on_is_told_when_it_catches_up() {
    let script = outage(two_pools(), "www", (20, 400, 400), REFUSED);
    let mut records = script.in_order();
    for (arrived, record) in &mut records {
        // The agent could not reach the collector before second 300.
        if !matches!(record, Record::Server { .. } | Record::Site { .. } | Record::Heartbeat { .. })
        {
            *arrived = (*arrived).max(at(300));
        }
    }
    records.retain(|(arrived, r)| !matches!(r, Record::Heartbeat { .. }) || *arrived > at(300));
    records.sort_by_key(|(arrived, _)| *arrived);
    let played = Played { transitions: play(&records, 400) };
    let incident = played.only();
    assert!(!incident.retroactive);
    assert_eq!(incident.started_at.0, at(20));
    let told: Vec<NotifyEvent> = played.told().iter().map(|(event, _)| *event).collect();
    assert_eq!(told, [NotifyEvent::Opened]);
}

#[test]
fn an_incident_narrows_to_what_still_fails() {
    let script = two_pools().run(0, 150, 20, |def, second| {
        let until = if is_in(def, "shop") { 150 } else { 30 };
        if (20..until).contains(&second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(120);
    let incident = played.only();
    assert_eq!(incident.scope, "pool");
    assert_eq!(incident.place.members, ["web-07/shop"]);
    assert_eq!(incident.place.sites, names(9, 13));
    assert_eq!(played.events(TransitionEvent::Narrow).len(), 1);
}

#[test]
fn what_fails_on_after_its_parent_resolved_opens_by_itself() {
    // 14 busy sites recover, one keeps failing: its share of the server is small.
    let script = Script::default().server("web-07", &[("www", 14), ("own", 1)]);
    let script = script.run(0, 400, 4, |def, second| {
        let until = if is_in(def, "own") { 400 } else { 230 };
        if (20..until).contains(&second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(400);
    let mut last = played.last();
    last.sort_by_key(|incident| incident.started_at);
    let found: Vec<_> = last.iter().map(|i| (i.scope.as_str(), i.state.as_str())).collect();
    assert_eq!(found, [("server", "resolved"), ("site", "open")]);
    assert_eq!(last[1].place.sites, ["shop15.test"]);
}

#[test]
fn without_traffic_an_incident_resolves_unverified_after_half_an_hour() {
    let script = two_pools().run(0, 2400, 2, |def, second| match second {
        0..20 => Fate::Ok,
        20..40 if is_in(def, "www") => Fate::Fail(502, REFUSED),
        _ if is_in(def, "www") => Fate::Idle,
        _ => Fate::Ok,
    });
    let played = script.play(2400);
    let incident = played.only();
    assert_eq!(incident.state, "resolved");
    let last = &incident.timeline.last().expect("it has a timeline").what;
    assert!(last.contains("unverified"), "{last}");
    assert!(seconds(incident.resolved_at.expect("resolved")) > 1830.0);
}

#[test]
fn a_silent_server_is_unknown_and_resolves_nothing() {
    let script = outage(two_pools(), "www", (20, 40, 44), REFUSED);
    assert_eq!(script.play(1200).only().state, "open");
}

#[test]
fn a_server_with_a_wrong_clock_is_read_in_corrected_time() {
    let script = outage(two_pools(), "www", (20, 60, 60), REFUSED);
    let mut records = script.in_order();
    let day = 86_400_000;
    for (_, record) in &mut records {
        match record {
            Record::Heartbeat { at, clock, .. } => (at.0, clock.0) = (at.0 + day, clock.0 + day),
            Record::Requests { at, .. } => at.0 += day,
            Record::Exemplar(exemplar) => exemplar.at.0 += day,
            _ => {}
        }
    }
    let played = Played { transitions: play(&records, 50) };
    let incident = played.only();
    assert_eq!(incident.scope, "pool");
    let off = (incident.started_at.0 - at(20)).abs();
    assert!(off <= 1000, "{}", incident.started_at);
    assert!(!incident.retroactive);
}

#[test]
fn records_far_ahead_are_refused_and_counted() {
    let mut engine = Engine::new(&DetectConfig::default());
    let script = two_pools();
    for (arrived, record) in script.in_order() {
        engine.fold(UnixMillis(arrived), &record);
    }
    let counts = Counts { n: 9, n_502: 9, ..Counts::default() };
    let site = script.sites[0].site;
    let ahead = Record::Requests { site, at: UnixMillis(at(301)), counts };
    engine.fold(UnixMillis(at(0)), &ahead);
    let unknown = crate::model::SiteId(4711);
    engine
        .fold(UnixMillis(at(0)), &Record::Requests { site: unknown, at: UnixMillis(NOON), counts });
    assert_eq!((engine.refused().n_misdated, engine.refused().n_unknown), (1, 1));
}

#[test]
fn a_chronic_site_is_listed_and_not_opened() {
    let mut script = Script::default().server("web-07", &[("www", 1)]);
    for (_, record) in &mut script.records {
        if let Record::Site { baseline: Some(baseline), .. } = record {
            baseline.n_gateway_errors = baseline.n_requests / 2;
        }
    }
    let script = script.run(0, 200, 10, |_, _| Fate::Fail(502, REFUSED));
    assert!(script.play(200).transitions.is_empty());
    let mut engine = Engine::new(&DetectConfig::default());
    for (arrived, record) in script.in_order().into_iter().take(2) {
        engine.fold(UnixMillis(arrived), &record);
    }
    assert_eq!(engine.chronic(), [("web-07", "shop01.test")]);
}

#[test]
fn stored_numbers_are_throttled_and_final_at_the_end() {
    let played = outage(two_pools(), "www", (20, 620, 700), REFUSED).play(700);
    let updates = played.events(TransitionEvent::Update).len();
    assert!((40..90).contains(&updates), "{updates} updates in ten minutes");
    let incident = played.only();
    assert_eq!(incident.affected.n_502, 8 * 5 * 600);
    let revs: Vec<u64> = played.transitions.iter().map(|t| t.rev).collect();
    assert_eq!(revs, (1..=revs.len() as u64).collect::<Vec<_>>());
}

/// Plays records that are in order of arrival.
pub(super) fn play(records: &[(i64, Record)], until: i64) -> Vec<Transition> {
    let mut engine = Engine::new(&DetectConfig::default());
    let mut transitions = Vec::new();
    for (arrived, record) in records {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
    }
    transitions.extend(engine.advance(UnixMillis(at(until))));
    transitions
}

/// An eventful quarter of an hour: a site, its pool, the server, recovery, a relapse, a reload.
pub(super) fn eventful() -> Script {
    two_pools()
        .server("web-08", &[("www", 3), ("10.0.0.9:80", 2)])
        .unit(-30, 1, "php8.2-fpm.service", "active")
        .run(0, 300, 3, |def, second| match (def.site.0, second) {
            (1, 20..60) | (2..=8, 25..60) | (9..=12, 31..60) => Fate::Fail(502, REFUSED),
            (3, 130..150) => Fate::Partly(6, 502, RESET),
            (13..=15, 100..140) => Fate::Fail(504, EAGAIN),
            (16, 0..200) => Fate::Idle,
            _ => Fate::Ok,
        })
        .unit(150, 1, "php8.2-fpm.service", "reloading")
        .line(
            26,
            1,
            "php_fpm",
            "[pool www] server reached pm.max_children setting (4), consider raising it",
        )
        .change(15, 1, "config", "/etc/php/8.2/fpm/pool.d/www.conf")
        .sample(22, 1, &[("system.cpu.utilization", 0.97), ("system.oom_kills", 3.0)])
}

pub(super) fn json(transitions: &[Transition]) -> Vec<String> {
    let line = |t: &Transition| {
        let incident = serde_json::to_string(&t.incident).unwrap();
        format!("{:?} {} {} {:?} {:?} {incident}", t.event, t.key, t.rev, t.sites, t.notify)
    };
    transitions.iter().map(line).collect()
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let records = eventful().in_order();
    let once = json(&play(&records, 300));
    assert!(once.len() > 10, "{}", once.len());
    assert_eq!(once, json(&play(&records, 300)));
}

/// As `play`, but the engine is saved and loaded after these parts of the records, 0..1.
pub(super) fn restarted(records: &[(i64, Record)], until: i64, cuts: &[f64]) -> Vec<String> {
    let cuts: Vec<usize> = cuts.iter().map(|c| (c * records.len() as f64) as usize).collect();
    let config = DetectConfig::default();
    let mut engine = Engine::new(&config);
    let mut transitions = Vec::new();
    for (ix, (arrived, record)) in records.iter().enumerate() {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
        if cuts.contains(&ix) {
            engine = Engine::load(&engine.save(), &config).unwrap();
        }
    }
    transitions.extend(engine.advance(UnixMillis(at(until))));
    json(&transitions)
}

/// As `play`, but the engine is saved, dies later, and goes on from there with the stored incidents.
pub(super) fn crashed(
    (records, config): (&[(i64, Record)], &DetectConfig),
    until: i64,
    snapshot: f64,
    crash: f64,
) -> Played {
    let part = |share: f64| (share * records.len() as f64) as usize;
    let (snapshot, crash) = (part(snapshot), part(crash));
    let mut engine = Engine::new(config);
    let (mut saved, mut cases, mut decided) = (Vec::new(), None, 0);
    let mut stored = Vec::new();
    for (ix, (arrived, record)) in records[..crash].iter().enumerate() {
        let transitions = engine.advance(UnixMillis(arrived - 1));
        if !transitions.is_empty() {
            (cases, decided) = (Some(engine.save_cases()), ix);
        }
        stored.extend(transitions);
        engine.fold(UnixMillis(*arrived), record);
        if ix == snapshot {
            saved = engine.save();
        }
    }
    let mut engine = Engine::load(&saved, config).unwrap();
    for (ix, (arrived, record)) in records.iter().enumerate().skip(snapshot + 1) {
        let transitions = engine.advance(UnixMillis(arrived - 1));
        if ix > decided {
            stored.extend(transitions);
        }
        if ix == decided
            && let Some(cases) = cases.take()
        {
            engine.load_cases(&cases).unwrap();
        }
        engine.fold(UnixMillis(*arrived), record);
    }
    stored.extend(engine.advance(UnixMillis(at(until))));
    Played { transitions: stored }
}

/// What every incident came to.
pub(super) fn story(played: &Played) -> Vec<(String, crate::model::Affected, String)> {
    played.last().iter().map(|i| (i.id.clone(), i.affected, i.state.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_restart_from_a_snapshot_at_any_point_changes_nothing(
        cuts in proptest::collection::vec(0.0..1.0_f64, 1..6),
    ) {
        let records = eventful().in_order();
        prop_assert_eq!(json(&play(&records, 300)), restarted(&records, 300, &cuts));
    }

    #[test]
    fn cases_restored_over_an_older_snapshot_make_no_twins(
        snapshot in 0.05..0.6_f64, crash in 0.6..1.0_f64,
    ) {
        let records = eventful().in_order();
        let whole = Played { transitions: play(&records, 300) };
        let stored = crashed((&records, &DetectConfig::default()), 300, snapshot, crash);
        prop_assert_eq!(story(&whole), story(&stored));
        prop_assert_eq!(whole.told(), stored.told());
    }

    #[test]
    fn batches_that_arrive_out_of_order_give_the_same_scope(seed in 0_u64..1000) {
        let script = outage(two_pools(), "www", (20, 60, 120), REFUSED);
        let mut records = script.in_order();
        let mut state = seed;
        for (arrived, record) in &mut records {
            if matches!(record, Record::Server { .. } | Record::Site { .. }) {
                continue;
            }
            // Batches are late by up to three seconds, each server's by its own.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *arrived += (state >> 33).cast_signed() % 3000;
        }
        records.sort_by_key(|(arrived, _)| *arrived);
        let incident = Played { transitions: play(&records, 130) }.only();
        prop_assert_eq!(incident.scope.as_str(), "pool");
        prop_assert_eq!(incident.place.sites, names(1, 9));
        prop_assert_eq!(incident.affected.n_502, 8 * 5 * 40);
    }
}

#[test]
fn an_outage_that_began_and_ended_inside_one_late_lump_is_found_and_told_to_nobody() {
    let script = outage(two_pools(), "www", (20, 60, 200), REFUSED);
    let mut records: Vec<Record> =
        script.in_order().into_iter().map(|(_, record)| record).collect();
    records.retain(|record| !matches!(record, Record::Heartbeat { .. }));
    let server = records.iter().find_map(|record| match record {
        Record::Server { server, .. } => Some(*server),
        _ => None,
    });
    let (server, hours) = (server.expect("a script has servers"), 3 * 3600);
    // The agent is up to date: only this data is old.
    records.push(Record::Complete { server, at: UnixMillis(at(hours)) });
    let arrived = UnixMillis(at(hours));
    let mut engine = Engine::new(&DetectConfig::default());
    let mut transitions = engine.advance(arrived);
    transitions.extend(engine.fold_batch(arrived, records.iter()));
    transitions.extend(engine.advance(UnixMillis(at(hours + 2000))));
    let played = Played { transitions };
    let incident = played.only();
    assert!(incident.retroactive);
    assert_eq!((incident.scope.as_str(), incident.state.as_str()), ("pool", "resolved"));
    assert_eq!(incident.started_at.0, at(20));
    assert_eq!(incident.affected.n_502, 8 * 5 * 40);
    assert_eq!(played.told(), []);
}

#[test]
fn a_reopened_incident_counts_no_request_twice() {
    let fails = |second: i64| (20..60).contains(&second) || (84..110).contains(&second);
    let script = two_pools().run(0, 250, 5, move |def, second| {
        if is_in(def, "www") && fails(second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let played = script.play(300);
    let incident = played.only();
    assert!(played.transitions.iter().any(|t| t.event == TransitionEvent::Reopen));
    assert_eq!(incident.affected.n_502, 8 * 5 * (40 + 26));
}

#[test]
fn a_fault_in_the_middle_of_a_second_opens_as_soon_as_one_at_its_start() {
    let script = outage(two_pools(), "*", (20, 80, 120), REFUSED);
    // In the same second as the first failures: answers from before the fault.
    let played = script.run(20, 21, 10, |_, _| Fate::Ok).play(200);
    let opened = played.events(TransitionEvent::Open);
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert!(opened[0].0 <= 22.0, "{opened:?}");
}
