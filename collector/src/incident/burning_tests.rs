//! Slow burns on simulated time: what opens one, what it grows to, what it gives way to.

use wire::UnixMillis;

use crate::config::DetectConfig;
use crate::detect::Engine;
use crate::detect::script::{Def, Fate, NOON, Played, REFUSED, RESET, Script, at};
use crate::model::{Baseline, Incident, NotifyEvent, Record, Transition, TransitionEvent};

const HOUR: i64 = 3600;

/// Both requests of every so manyth second fail, each site at another second.
fn one_in(every: i64, def: &Def, second: i64) -> Fate {
    if (second + def.site.0 * 7) % every == 0 { Fate::Fail(502, RESET) } else { Fate::Ok }
}

fn titles(played: &Played) -> Vec<String> {
    played.last().into_iter().map(|incident| incident.title).collect()
}

fn burns(played: &Played) -> Vec<Incident> {
    played.last().into_iter().filter(|incident| incident.kind == "slow_burn").collect()
}

#[test]
fn a_site_that_fails_two_in_a_hundred_for_an_hour_is_told_once_as_information() {
    let script = Script::default().server("web-07", &[("www", 3)]);
    let script = script.run(0, 4 * HOUR, 2, |def, second| {
        let hit = def.site.0 == 2 && second < 2 * HOUR;
        if hit { one_in(50, def, second) } else { Fate::Ok }
    });
    let played = script.play(4 * HOUR);
    let incident = played.only();
    assert_eq!((incident.kind.as_str(), incident.severity.as_str()), ("slow_burn", "info"));
    assert_eq!((incident.scope.as_str(), incident.state.as_str()), ("site", "resolved"));
    assert_eq!(incident.place.members, ["web-07/shop02.test"]);
    let open = &played.transitions[0];
    assert_eq!(open.key, "slow_burn:site:web-07/shop02.test");
    let titles: Vec<&str> = played.transitions.iter().map(|t| t.incident.title.as_str()).collect();
    assert_eq!(
        titles[0],
        "shop02.test on web-07 fails 1.5 % of requests for 1 h (error budget of 30 days burns 15x too fast)"
    );
    assert!(
        titles.iter().any(|title| title.contains("fails 2.0 %") && title.contains(" 20x ")),
        "{titles:?}"
    );
    let minutes = (open.at.0 - NOON) / 60_000;
    // 14.4 times 0.1 % of an hour, of which half an hour is as busy as the norm has it.
    assert!((29..=32).contains(&minutes), "{minutes}");
    assert_eq!(incident.started_at.0, at(36));
    assert!(incident.affected.n_gateway_errors.abs_diff(2 * 144) <= 6, "{:?}", incident.affected);
    assert_eq!(incident.cause.evidence[0].text, RESET);
    assert!(incident.title.contains("failed 2.0 %"), "{}", incident.title);
    let told: Vec<_> = played.transitions.iter().filter_map(|t| t.notify.as_ref()).collect();
    let events: Vec<_> = told.iter().map(|notify| notify.event).collect();
    assert_eq!(events, [NotifyEvent::Opened, NotifyEvent::Resolved]);
    assert_eq!(incident.severity, "info");
    let over = played.events(TransitionEvent::Resolve)[0].0 / 60.0;
    assert!((150.0..185.0).contains(&over), "it calms for half an hour: {over}");
    let revs: Vec<u64> = played.transitions.iter().map(|t| t.rev).collect();
    assert_eq!(revs, (1..=revs.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_site_that_has_failed_as_often_for_weeks_is_chronic_and_no_slow_burn() {
    let burned = |n_gateway_errors: u64| {
        let mut script = Script::default().server("web-07", &[("www", 3)]);
        for (_, record) in &mut script.records {
            if let Record::Site { baseline, .. } = record {
                let n_requests = 2_000_000;
                *baseline = Some(Baseline { days: 28.0, n_requests, n_gateway_errors });
            }
        }
        let script = script.run(0, 2 * HOUR, 2, |def, second| {
            if def.site.0 == 2 { one_in(20, def, second) } else { Fate::Ok }
        });
        burns(&script.play(2 * HOUR)).len()
    };
    for (n_gateway_errors, want) in [(20, 1), (8_000, 1), (100_000, 0), (400_000, 0)] {
        assert_eq!(burned(n_gateway_errors), want, "{n_gateway_errors} of 2,000,000");
    }
}

#[test]
fn the_sites_of_a_pool_are_one_slow_burn_and_many_pools_of_a_server_as_well() {
    let own: Vec<(String, usize)> = (1..=6).map(|n| (format!("user{n}"), 1)).collect();
    let own: Vec<(&str, usize)> = own.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    for (pools, scope, members) in
        [(&[("www", 5), ("shop", 2)][..], "pool", "web-07/www"), (&own, "server", "web-07")]
    {
        let script =
            Script::default().server("web-07", pools).run(0, 2 * HOUR, 2, |def, second| {
                let hit = def.site.0 <= 5;
                if hit { one_in(50, def, second) } else { Fate::Ok }
            });
        let played = script.play(2 * HOUR);
        let incident = played.only();
        assert_eq!((incident.kind.as_str(), incident.scope.as_str()), ("slow_burn", scope));
        assert_eq!(
            (incident.affected.n_sites, incident.place.members),
            (5, vec![members.to_owned()])
        );
        let opened =
            played.told().iter().filter(|(event, _)| *event == NotifyEvent::Opened).count();
        let resolved =
            played.transitions.iter().filter(|t| t.event == TransitionEvent::Merge).count();
        assert_eq!(opened, 1 + resolved, "each but the last was merged: {:?}", played.told());
    }
}

#[test]
fn a_slow_burn_that_goes_from_a_site_to_its_pool_and_one_that_doubles_are_told_again() {
    // One site, two more an hour later, and all six in the end.
    let script = Script::default().server("web-07", &[("www", 6), ("shop", 2)]);
    let script = script.run(0, 5 * HOUR, 2, |def, second| {
        let from = [(1, 0), (3, HOUR), (6, 5 * HOUR / 2)];
        let from = from.iter().find(|(n, _)| def.site.0 <= *n).map(|(_, from)| *from);
        let hit = from.is_some_and(|from| second >= from);
        if hit { one_in(50, def, second) } else { Fate::Ok }
    });
    let played = script.play(5 * HOUR);
    let incident = played.only();
    assert_eq!((incident.scope.as_str(), incident.affected.n_sites), ("pool", 6));
    let of_it = played.transitions.iter().filter(|t| t.incident.id == incident.id);
    let told: Vec<_> =
        of_it.filter_map(|t| Some((t.notify?.event, t.incident.scope.as_str()))).collect();
    assert_eq!(
        told[..2],
        [(NotifyEvent::Opened, "site"), (NotifyEvent::Updated, "pool")],
        "{told:?}"
    );
    assert!((3..=4).contains(&told.len()), "{told:?}");
    assert!(told[2..].iter().all(|(event, _)| *event == NotifyEvent::Updated), "{told:?}");
}

#[test]
fn an_outage_that_is_over_leaves_no_slow_burn_behind() {
    // Two minutes without any answer are 3 % of an hour.
    let script = Script::default().server("web-07", &[("www", 3)]);
    let script = script.run(0, 3 * HOUR, 2, |def, second| {
        let hit = def.site.0 == 2 && (HOUR..HOUR + 120).contains(&second);
        if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let incident = script.play(3 * HOUR).only();
    assert_eq!((incident.kind.as_str(), incident.state.as_str()), ("gateway_errors", "resolved"));
}

#[test]
fn an_outage_takes_a_slow_burn_over_and_silences_it() {
    let script = Script::default().server("web-07", &[("www", 3)]);
    let script = script.run(0, 2 * HOUR, 2, |def, second| match (def.site.0, second) {
        (2, 4800..) => Fate::Fail(502, REFUSED),
        (2, _) => one_in(50, def, second),
        _ => Fate::Ok,
    });
    let played = script.play(2 * HOUR);
    let outage = played.only();
    assert_eq!((outage.kind.as_str(), outage.state.as_str()), ("gateway_errors", "open"));
    let burned = played.transitions.iter().rev().find(|t| t.incident.kind == "slow_burn");
    let burned = burned.expect("it burned before");
    assert_eq!(burned.event, TransitionEvent::Merge);
    assert_eq!(burned.incident.parent.as_ref(), Some(&outage.id));
    assert_eq!(burned.incident.state, "resolved");
    let after =
        played.transitions.iter().filter(|t| t.incident.kind == "slow_burn" && t.at > burned.at);
    assert_eq!(after.count(), 0, "nothing burns inside an outage");
}

#[test]
fn background_noise_few_clients_and_few_failures_burn_nothing() {
    let quiet = || Script::default().server("web-07", &[("www", 3)]);
    let mut hammering = quiet();
    hammering.only_client = Some(7);
    for (name, until, script) in [
        (
            "one in two thousand",
            2 * HOUR,
            quiet().run(0, 2 * HOUR, 2, |def, second| one_in(2000, def, second)),
        ),
        (
            "one client",
            2 * HOUR,
            hammering.run(0, 2 * HOUR, 2, |def, second| one_in(40, def, second)),
        ),
        (
            "a request a minute",
            12 * HOUR,
            quiet().slowly(0, 12 * HOUR, 60, |def, second| {
                if (second / 60 + def.site.0 * 13) % 40 == 0 {
                    Fate::Fail(502, RESET)
                } else {
                    Fate::Ok
                }
            }),
        ),
    ] {
        let played = script.play(until);
        assert!(played.transitions.is_empty(), "{name}: {:?}", titles(&played));
    }
}

#[test]
fn a_stricter_objective_burns_sooner() {
    let script = Script::default().server("web-07", &[("www", 1)]);
    let records = script.run(0, HOUR, 4, |def, second| one_in(200, def, second)).in_order();
    let opened = |slo: f64| {
        let config = DetectConfig { slo, ..DetectConfig::default() };
        let transitions = play(&records, &config, &|_| false);
        burns(&Played { transitions }).len()
    };
    assert_eq!((opened(0.999), opened(0.9999)), (0, 1));
}

fn play(
    records: &[(i64, Record)],
    config: &DetectConfig,
    restarts: &dyn Fn(usize) -> bool,
) -> Vec<Transition> {
    let mut engine = Engine::new(config);
    let mut transitions = Vec::new();
    for (ix, (arrived, record)) in records.iter().enumerate() {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(*arrived), record);
        if restarts(ix) {
            engine = Engine::load(&engine.save(), config).unwrap();
        }
    }
    transitions
}

#[test]
fn a_slow_burn_survives_restarts_without_a_twin() {
    let script = Script::default().server("web-07", &[("www", 2)]);
    let records = script
        .run(0, 3 * HOUR, 2, |def, second| match (def.site.0, second) {
            (1, 6000..6100) => Fate::Fail(502, REFUSED),
            (1, 0..5000) => one_in(50, def, second),
            _ => Fate::Ok,
        })
        .in_order();
    let config = DetectConfig::default();
    let whole = play(&records, &config, &|_| false);
    assert!(whole.iter().any(|t| t.incident.kind == "slow_burn"));
    let restarted = play(&records, &config, &|ix| ix % 997 == 0);
    assert_eq!(whole, restarted);
}

#[test]
fn the_cases_of_the_first_release_are_read() {
    let mut engine = Engine::new(&DetectConfig::default());
    engine.advance(UnixMillis(NOON));
    let saved: serde_json::Value = serde_json::from_slice(&engine.save_cases()).unwrap();
    let older = serde_json::to_vec(&[&saved[0], &saved[1]]).unwrap();
    let mut later = Engine::new(&DetectConfig::default());
    later.load_cases(&older).unwrap();
    assert_eq!(later.tick(), Some(UnixMillis(NOON)));
}

#[test]
fn what_burns_again_after_an_outage_has_an_id_of_its_own() {
    let script = Script::default().server("web-07", &[("www", 3)]);
    let script = script.run(0, 5 * HOUR, 2, |def, second| match (def.site.0, second) {
        (2, 2400..2460) => Fate::Fail(502, REFUSED),
        (2, _) => one_in(50, def, second),
        _ => Fate::Ok,
    });
    let played = script.play(5 * HOUR);
    let mut known: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for Transition { rev, incident, .. } in &played.transitions {
        let before = known.insert(incident.id.clone(), *rev).unwrap_or(0);
        assert!(*rev > before, "{} goes back to {rev} from {before}", incident.id);
    }
    let burns = played.transitions.iter().filter(|t| t.incident.kind == "slow_burn");
    let ids: std::collections::BTreeSet<&str> = burns.map(|t| t.incident.id.as_str()).collect();
    assert_eq!(ids.len(), 2, "it burns before the outage and after it");
}

#[test]
fn stored_slow_burns_are_read_by_a_collector_that_knows_fewer_sites() {
    let script = Script::default().server("web-07", &[("www", 9)]);
    let script = script.run(0, HOUR, 2, |def, second| one_in(50, def, second));
    let config = DetectConfig::default();
    let mut whole = Engine::new(&config);
    for (arrived, record) in &script.records {
        whole.advance(UnixMillis(arrived - 1));
        whole.fold(UnixMillis(*arrived), record);
    }
    let cases = whole.save_cases();
    let mut other = Engine::new(&config);
    let is_known = |record: &Record| !matches!(record, Record::Site { site, .. } if site.0 > 1);
    for (arrived, record) in script.records.iter().filter(|(_, record)| is_known(record)).take(3) {
        other.fold(UnixMillis(*arrived), record);
    }
    other.load_cases(&cases).unwrap();
    other.advance(UnixMillis(at(HOUR + 60)));
}
