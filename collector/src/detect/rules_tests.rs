//! The rules of a fair judgement, each as a test: who counts how much, which clock, which past, and
//! what the sequential test makes of one request an hour and of thousands a second.

use std::collections::BTreeSet;
use std::time::Duration;

use wire::UnixMillis;

use super::Engine;
use super::past::Rates;
use super::script::{Fate, NOON, Played, REFUSED, RESET, Script, at, two_pools};
use super::server::Server;
use super::site::step;
use crate::config::DetectConfig;
use crate::model::{
    Baseline, Counts, Exemplar, NotifyEvent, Record, ServerId, SiteId, Transition, TransitionEvent,
};

/// Splitmix64: numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn clean() -> Rates {
    Rates::of(2_000_000, 0, 28.0 * 86_400.0, 0.30)
}

#[test]
fn expected_requests_to_a_decision_are_3_6_11_and_54() {
    let rates = clean();
    for (p, want) in [(1.0, 3.0), (0.5, 6.0), (0.3, 11.0), (0.1, 54.0)] {
        let formula = 20.0 / (p * rates.gain() - (1.0 - p) * rates.loss());
        assert!((formula - want).abs() < 0.5, "{p}: {formula}");
        let (mut dice, mut n_requests) = (Dice(7), 0_u64);
        let runs = 3000;
        for _ in 0..runs {
            let mut score = 0.0;
            while score < 20.0 {
                let failed = f64::from(u8::from(dice.roll() < p));
                score = step(score, &rates, failed, 1.0 - failed, Duration::ZERO);
                n_requests += 1;
            }
        }
        let mean = n_requests as f64 / f64::from(runs);
        // A decision goes over the line by up to one failure, and a reset at zero costs nothing.
        assert!((0.75 * want..=1.45 * want).contains(&mean), "{p}: {mean} requests, not {want}");
    }
}

#[test]
fn one_stray_failure_crosses_the_line_no_oftener_than_walds_bound_says() {
    let rates = clean();
    for (line, runs) in [(8.0, 300_000), (10.0, 300_000), (14.0, 300_000), (20.0, 600_000)] {
        let (mut dice, mut n_crossed) = (Dice(1945), 0_u32);
        for _ in 0..runs {
            let mut score = rates.gain();
            while score > 0.0 && score < line {
                let failed = f64::from(u8::from(dice.roll() < rates.p_normal));
                score = step(score, &rates, failed, 1.0 - failed, Duration::ZERO);
            }
            n_crossed += u32::from(score >= line);
        }
        let bound = (-(line - rates.gain())).exp() * f64::from(runs);
        // Three deviations of a count.
        let most = bound + 3.0 * bound.sqrt() + 3.0;
        assert!(f64::from(n_crossed) <= most, "{line}: {n_crossed} of {runs}, at most {bound:.1}");
    }
}

#[test]
fn three_failures_open_with_a_clean_past_and_four_with_little() {
    for (n_requests, seconds, want) in [(2_000_000, 2_419_200.0, 3), (0, 0.0, 4), (50, 60.0, 4)] {
        let rates = Rates::of(n_requests, 0, seconds, 0.30);
        let n = (1..10).find(|n| f64::from(*n) * rates.gain() >= 20.0);
        assert_eq!(n, Some(want), "{n_requests} requests");
    }
}

/// A site with this past, alone on its server.
fn alone(n_requests: u64) -> Script {
    let mut script = Script::default().server("web-07", &[("www", 1)]);
    for (_, record) in &mut script.records {
        if let Record::Site { baseline: Some(baseline), .. } = record {
            *baseline = Baseline { days: 28.0, n_requests, n_gateway_errors: 0 };
        }
    }
    script
}

#[test]
fn a_site_with_one_request_an_hour_is_judged_fairly() {
    // Two days in which every seventh request fails: strays, each long after the one before.
    let strays = alone(672).slowly(0, 48 * 3600, 3600, |_, second| {
        if second / 3600 % 7 == 3 { Fate::Fail(502, RESET) } else { Fate::Ok }
    });
    let played = strays.play(48 * 3600);
    assert!(played.transitions.is_empty(), "{:?}", played.last());
    // Its visitors fail in a row: four within a few minutes are enough, three are not.
    let failing = |n: i64| {
        let script = alone(672).slowly(0, 9000, 180, move |_, second| {
            let n_before = (second - 7200).div_euclid(180);
            if (0..n).contains(&n_before) { Fate::Fail(502, RESET) } else { Fate::Idle }
        });
        script.play(9000)
    };
    assert!(failing(3).transitions.is_empty());
    let opened = failing(4);
    let incident = opened.transitions.first().expect("it opens").incident.clone();
    assert_eq!((incident.scope.as_str(), incident.affected.n_502), ("site", 4));
    let delay = (incident.detected_at.0 - NOON) / 1000 - 7200 - 3 * 180;
    assert!(delay <= 180, "{delay} s after its fourth failure");
}

/// Adds one second of a busy site: five failures are kept whole, as agents keep them.
fn busy(script: &mut Script, second: i64, n: u32, n_502: u32, client: &dyn Fn(u64) -> u64) {
    let (site, when, arrived) = (SiteId(1), UnixMillis(at(second)), at(second) + 1060);
    for ix in 0..u64::from(n_502.min(5)) {
        script.records.push((
            arrived,
            Record::Exemplar(Exemplar {
                site,
                at: when,
                status: 502,
                pool: None,
                client: client(second.cast_unsigned() * 5 + ix),
                path: ix,
                upstream: None,
                message: Some(RESET.to_owned()),
                signal: None,
            }),
        ));
    }
    let counts = Counts { n, n_502, ..Counts::default() };
    script.records.push((arrived, Record::Requests { site, at: when, counts }));
    let (server, until) = (ServerId(1), UnixMillis(at(second + 1)));
    script
        .records
        .push((arrived + 1, Record::Heartbeat { server, at: until, clock: UnixMillis(arrived) }));
}

/// 2,000 requests a second for two minutes; from second 60 on so many of them fail.
fn thousands(n_502: u32, client: &dyn Fn(u64) -> u64) -> Played {
    let mut script = alone(4_000_000_000);
    for second in 0..120 {
        busy(&mut script, second, 2000, if second < 60 { 0 } else { n_502 }, client);
    }
    script.play(118)
}

#[test]
fn a_site_with_thousands_of_requests_a_second_is_judged_fairly() {
    // Of 2,000: how many fail, and whether that opens within so many seconds.
    for (n_502, within) in
        [(2000, Some(3)), (1900, Some(3)), (800, Some(7)), (600, Some(7)), (20, None), (2, None)]
    {
        let played = thousands(n_502, &|n| n + 1);
        let opened = played.transitions.first().map(|t| (t.at.0 - at(60)) / 1000);
        match within {
            None => assert_eq!(opened, None, "{n_502} of 2000: {:?}", played.last()),
            Some(most) => {
                assert!(opened.is_some_and(|s| s <= most), "{n_502} of 2000: {opened:?}");
            }
        }
    }
}

#[test]
fn a_few_clients_that_hammer_a_broken_page_open_nothing_on_a_busy_site() {
    for n_clients in [1, 2, 3, 4] {
        for n_502 in [20, 200] {
            let played = thousands(n_502, &|n| 1 + n % n_clients);
            assert!(played.transitions.is_empty(), "{n_clients} clients, {n_502} of 2000 a second");
        }
    }
}

#[test]
fn without_clients_two_failures_a_second_count_and_a_broken_half_is_seen_all_the_same() {
    let nobody = |_: u64| 0;
    assert!(thousands(200, &nobody).transitions.is_empty(), "a tenth may be one client");
    let opened = thousands(900, &nobody).transitions.first().map(|t| (t.at.0 - at(60)) / 1000);
    assert!(opened.is_some_and(|s| s <= 7), "{opened:?}");
}

#[test]
fn what_is_no_gateway_error_opens_nothing_however_much_of_it_there_is() {
    let all = |name: &'static str, counts: fn(u32) -> Counts, rate: u32| {
        let script = two_pools().run(0, 200, 4, |_, _| Fate::Ok);
        (name, script.run(200, 500, rate, move |_, _| Fate::Other(counts)))
    };
    let base = Counts::default();
    assert_eq!(base.n, 0);
    for (name, script) in [
        all(
            "the application's own errors",
            |n| Counts { n, n_5xx_app: n, ..Counts::default() },
            20,
        ),
        all("client aborts", |n| Counts { n, n_499: n, ..Counts::default() }, 20),
        all(
            "failures that another upstream made good",
            |n| Counts { n, n_retried: n, ..Counts::default() },
            20,
        ),
        all("planned 503", |n| Counts { n, n_5xx_app: n, ..Counts::default() }, 400),
        all("a surge of a hundred times the traffic", |n| Counts { n, ..Counts::default() }, 400),
    ] {
        let played = script.play(700);
        assert!(played.transitions.is_empty(), "{name}: {:?}", played.last());
    }
}

#[test]
fn scanners_bots_and_retry_storms_open_nothing() {
    // One client walks through the site, and every page it tries is broken.
    let mut scanner = two_pools();
    scanner.only_client = Some(99);
    let scanner = scanner.run(0, 400, 4, |def, second| {
        if def.site.0 == 3 && (100..300).contains(&second) {
            Fate::Fail(502, RESET)
        } else {
            Fate::Ok
        }
    });
    assert!(scanner.play(400).transitions.is_empty());
    // A stray failure that its two clients try again and again while all others are answered.
    let mut storm = alone(2_000_000);
    for second in 0..300 {
        let n_502 = if (100..250).contains(&second) { 8 } else { 0 };
        busy(&mut storm, second, 60, n_502, &|n| 1 + n % 2);
    }
    assert!(storm.play(298).transitions.is_empty());
}

/// A server whose clock is behind by so much, as told by heartbeats: second of arrival, offset in ms.
fn clock(heartbeats: &[(i64, i64)]) -> i64 {
    let mut server = Server::new(ServerId(1));
    for (second, offset) in heartbeats {
        let arrived = NOON + second * 1000;
        server.fold_clock(arrived, arrived - offset);
    }
    server.corrected(0)
}

#[test]
fn the_least_difference_of_five_minutes_corrects_a_clock_in_whole_seconds_when_over_one() {
    for (heartbeats, want) in [
        (&[(0, 40)][..], 0),
        (&[(0, 999)], 0),
        (&[(0, 1000)], 1000),
        (&[(0, 2990), (5, 1700), (10, 2400)], 1000),
        (&[(0, -1999)], -1000),
        (&[(0, 1700), (299, 9000)], 1000),
        (&[(0, 1700), (301, 9000)], 9000),
        // Set back an hour: no message takes an hour.
        (&[(0, 20), (5, 3_600_020), (10, 3_600_030)], 3_600_000),
        // Held up on the way and delivered in one burst.
        (&[(0, 20), (70, 65_000), (70, 60_000), (70, 20)], 0),
        (&[(0, 20), (65, 64_000)], 0),
    ] {
        assert_eq!(clock(heartbeats), want, "{heartbeats:?}");
    }
}

#[test]
fn a_flood_of_heartbeats_with_any_clock_takes_little_room() {
    let mut server = Server::new(ServerId(1));
    for n in 0..200_000 {
        server.fold_clock(NOON + n, NOON - n * n);
    }
    server.fold_clock(NOON, i64::MIN);
    server.fold_clock(NOON, i64::MAX);
    assert!(serde_json::to_vec(&server).unwrap().len() < 20_000);
}

fn fold_all(engine: &mut Engine, script: &Script) -> Vec<Transition> {
    let mut transitions = Vec::new();
    for (arrived, record) in script.in_order() {
        transitions.extend(engine.advance(UnixMillis(arrived - 1)));
        engine.fold(UnixMillis(arrived), &record);
    }
    transitions
}

#[test]
fn records_ahead_or_older_than_the_past_are_refused_counted_and_said_of_whom() {
    const DAY: i64 = 86_400_000;
    let mut engine = Engine::new(&DetectConfig::default());
    fold_all(&mut engine, &two_pools());
    let counts = Counts { n: 9, n_502: 9, ..Counts::default() };
    let site = SiteId(1);
    for (when, n_misdated) in [
        (NOON + 299_000, 0),
        (NOON + 301_000, 1),
        (i64::MAX, 2),
        (-1, 3),
        (5_000, 4),
        (NOON - 29 * DAY, 5),
        (NOON - 27 * DAY, 5),
    ] {
        engine.fold(UnixMillis(NOON), &Record::Requests { site, at: UnixMillis(when), counts });
        assert_eq!(engine.refused().n_misdated, n_misdated, "{when}");
    }
    let (server, ahead) = (ServerId(1), UnixMillis(NOON + 2 * DAY));
    engine
        .fold(UnixMillis(NOON), &Record::Heartbeat { server, at: ahead, clock: UnixMillis(NOON) });
    engine.fold(UnixMillis(NOON), &Record::Complete { server, at: ahead });
    assert_eq!(engine.refused().n_misdated, 7);
    assert_eq!(engine.misdated().collect::<Vec<_>>(), [("web-07", 7)]);
    let server = engine.fleet.server(server).unwrap();
    assert!(server.known_until() <= NOON + 2000, "nobody knows what is to come");
}

#[test]
fn beyond_its_watermark_a_server_is_unknown_and_not_idle() {
    let outage = || {
        two_pools().run(0, 40, 5, |def, second| {
            let hit = def.site.0 <= 8 && second >= 20;
            if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        })
    };
    let heartbeats = |script: &mut Script, complete: &dyn Fn(i64) -> i64| {
        for second in (45..3000).step_by(5) {
            let (server, clock) = (ServerId(1), UnixMillis(at(second)));
            let complete = UnixMillis(at(complete(second)));
            script.records.push((at(second), Record::Heartbeat { server, at: complete, clock }));
        }
    };
    // It lives, but what happened after second 41 waits in its spool.
    let mut behind = outage();
    heartbeats(&mut behind, &|_| 41);
    assert_eq!(behind.play(3000).only().state, "open");
    let mut idle = outage();
    heartbeats(&mut idle, &|second| second);
    let incident = idle.play(3000).only();
    let last = &incident.timeline.last().expect("it has a timeline").what;
    assert!(incident.state == "resolved" && last.contains("unverified"), "{last}");
}

#[test]
fn failures_more_than_two_minutes_old_when_it_would_open_are_retroactive() {
    for (delay_ms, retroactive) in [(100_000, false), (118_000, false), (125_000, true)] {
        let mut script = two_pools();
        script.delay_ms = delay_ms;
        let script = script.run(0, 60, 5, |def, second| {
            let hit = def.site.0 <= 8 && second >= 20;
            if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let played = script.play(60 + delay_ms / 1000);
        let incident = played.only();
        assert_eq!(incident.retroactive, retroactive, "{delay_ms}");
        assert_eq!(played.told().is_empty(), retroactive, "{delay_ms}");
        let severity = if retroactive { "info" } else { "warning" };
        assert_eq!(incident.severity, severity);
    }
}

#[test]
fn late_records_go_to_their_own_second() {
    // What happened in second 30 comes twenty seconds later than the rest.
    let script = two_pools().run(0, 60, 5, |def, second| {
        let hit = def.site.0 <= 8 && (20..40).contains(&second);
        if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
    });
    let mut late = script.clone();
    for (arrived, record) in &mut late.records {
        let of_30 = match record {
            Record::Requests { at: when, .. } => when.0 == at(30),
            Record::Exemplar(exemplar) => exemplar.at.0 == at(30),
            _ => false,
        };
        *arrived += if of_30 { 20_000 } else { 0 };
    }
    let incident = late.play(80).only();
    assert_eq!(incident.affected.n_502, script.play(80).only().affected.n_502);
}

#[test]
fn an_announced_restart_excuses_six_seconds_and_fires_right_after() {
    let opened = |states: &[(i64, &str)], until: i64| {
        let script = Script::default().server("web-07", &[("www", 1)]);
        let script = script.unit(-30, 1, "php8.2-fpm.service", "active");
        let script = states.iter().fold(script, |script, (second, state)| {
            script.unit(*second, 1, "php8.2-fpm.service", state)
        });
        let played = script
            .run(0, 60, 5, |_, second| {
                if (20..until).contains(&second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
            })
            .play(60);
        played.events(TransitionEvent::Open).first().map(|(at, _)| *at)
    };
    let reloads = &[(20, "reloading"), (22, "active")];
    assert_eq!(opened(reloads, 25), None, "five seconds are a reload");
    let lasting = opened(reloads, 60).expect("it does not recover");
    assert!((22.0..29.0).contains(&lasting), "{lasting}");
    let restarts = &[(20, "activating"), (21, "failed")];
    let failed = opened(restarts, 60).expect("it failed");
    assert!(failed <= 23.5, "a unit that failed does not come back by itself: {failed}");
    let plain = opened(&[], 60).expect("it fails");
    assert!(plain <= 22.0, "{plain}");
}

#[test]
fn a_quiet_site_that_does_not_recover_from_a_reload_fires_right_after_it() {
    let opened = |until: i64| {
        let script = Script::default().server("web-07", &[("www", 1)]);
        let script = script.unit(-30, 1, "php8.2-fpm.service", "active");
        let script = script.unit(20, 1, "php8.2-fpm.service", "reloading");
        let script = script.unit(21, 1, "php8.2-fpm.service", "active");
        let played = script
            .slowly(0, 90, 2, |_, second| {
                if (20..until).contains(&second) { Fate::Fail(502, REFUSED) } else { Fate::Ok }
            })
            .play(90);
        played.events(TransitionEvent::Open).first().map(|(at, _)| *at)
    };
    assert_eq!(opened(26), None, "it recovered");
    let lasting = opened(90).expect("it does not recover");
    assert!((26.0..29.5).contains(&lasting), "{lasting}: its failures so far count in full");
}

#[test]
fn one_client_on_each_of_two_sites_is_no_outage_of_their_pool() {
    let script = Script::default().server("web-07", &[("www", 2), ("blog", 3)]);
    let mut script = script.run(0, 60, 4, |def, second| {
        let fails = def.site.0 <= 2 && second >= 20;
        if fails { Fate::Fail(502, RESET) } else { Fate::Ok }
    });
    for (_, record) in &mut script.records {
        if let Record::Exemplar(exemplar) = record {
            exemplar.client = exemplar.site.0.cast_unsigned();
        }
    }
    let played = script.play(60);
    assert!(played.transitions.is_empty(), "{:?}", played.last());
}

#[test]
fn other_facts_corroborate_by_two_and_by_one_and_a_half() {
    // Little history: three failures are 19.2 nats.
    let opened = |add: &dyn Fn(Script) -> Script| {
        let mut script = Script::default().server("web-07", &[("www", 1)]);
        for (_, record) in &mut script.records {
            if let Record::Site { baseline, .. } = record {
                *baseline = None;
            }
        }
        let script = script.unit(-30, 1, "php8.2-fpm.service", "active");
        let script = add(script).slowly(0, 60, 2, |_, second| {
            if (20..26).contains(&second) { Fate::Fail(502, REFUSED) } else { Fate::Idle }
        });
        let played = script.play(60);
        played.transitions.first().map(|t| t.incident.scope.clone())
    };
    assert_eq!(opened(&|script| script), None);
    let failed = opened(&|script| script.unit(19, 1, "php8.2-fpm.service", "failed"));
    assert_eq!(failed.as_deref(), Some("site"));
    let killed = "Out of memory: Killed process 4711 (php-fpm8.2) total-vm:1kB, anon-rss:1kB";
    let oom = opened(&|script| script.line(19, 1, "kernel", killed));
    assert_eq!(oom.as_deref(), Some("site"));
    let old = opened(&|script| script.line(-50, 1, "kernel", killed));
    assert_eq!(old, None, "a line more than a minute old says nothing");
}

#[test]
fn a_pool_that_opens_is_told_once_and_its_sites_are_the_failing_ones() {
    let played = two_pools()
        .run(0, 80, 5, |def, second| {
            let hit = def.site.0 <= 8 && (20..50).contains(&second);
            if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        })
        .play(80);
    let told: BTreeSet<_> = played.told().iter().map(|(event, _)| *event as u8).collect();
    assert_eq!(told, BTreeSet::from([NotifyEvent::Opened as u8, NotifyEvent::Resolved as u8]));
}

/// A server that names 30,000 sites, 140 of which fail each for itself while 1,760 answer, and tens of
/// thousands of units, changes, lines and metrics.
fn with_liar(mut script: Script) -> Script {
    script = script.server("liar", &[]);
    let server = ServerId(2);
    let count = |script: &mut Script, n: i64, second: i64, counts: Counts| {
        let (site, when) = (SiteId(1_000_000 + n), UnixMillis(at(second)));
        script.records.push((at(second) + 100, Record::Requests { site, at: when, counts }));
    };
    for n in 0..30_000 {
        let (site, name) = (SiteId(1_000_000 + n), format!("{n}.liar"));
        let upstream = Some(format!("10.9.8.7:{n}"));
        let record = Record::Site { site, server, name, pool: None, upstream, baseline: None };
        script.records.push((at(-50), record));
    }
    for second in 14..27 {
        for n in 0..1900 {
            let fails = n < 140 && second >= 20;
            let n_502 = if n == 0 { u32::MAX } else { 2 };
            let counts = Counts { n: 2, n_502: if fails { n_502 } else { 0 }, ..Counts::default() };
            count(&mut script, n, second, counts);
        }
    }
    let when = UnixMillis(at(10));
    for n in 0..20_000 {
        let (unit, name, state) =
            (format!("{n}.service"), format!("thing {n}"), "failed".to_owned());
        let (source, message, kind) = ("kernel".to_owned(), name.clone(), "package".to_owned());
        let what = name.clone();
        for record in [
            Record::Service { server, at: when, unit, state, pool: None, reason: None },
            Record::Change { server, at: when, kind, what, site: None, pool: None },
            Record::Log { server, at: when, source, message, signal: None, pool: None },
            Record::Sample { server, at: when, values: vec![("system.oom_kills", name, f64::MAX)] },
        ] {
            script.records.push((at(10), record));
        }
    }
    script
}

#[test]
fn a_million_things_of_one_liar_are_bounded_and_delay_nobody() {
    let outage = |script: Script| {
        let script = script.run(0, 26, 5, |def, second| {
            let hit = def.site.0 <= 8 && second >= 20;
            if hit { Fate::Fail(502, REFUSED) } else { Fate::Ok }
        });
        let mut engine = Engine::new(&DetectConfig::default());
        let transitions = fold_all(&mut engine, &script);
        let of_honest = transitions.iter().filter(|t| t.key.contains("web-07"));
        let opened = of_honest.filter(|t| t.event == TransitionEvent::Open);
        let opened: Vec<_> = opened.map(|t| (t.at, t.key.clone(), t.incident.id.clone())).collect();
        (opened, engine)
    };
    let (honest, _) = outage(two_pools());
    let (beside, engine) = outage(with_liar(two_pools()));
    assert_eq!(honest.len(), 1, "{honest:?}");
    assert_eq!(beside, honest, "the same incident at the same tick");
    assert_eq!(engine.refused().n_sites, 10_000, "sites over the limit");
    let n_failing = engine.book.memberships().count();
    assert!((50..=super::crowd::PARTS_MAX + 8).contains(&n_failing), "{n_failing} open");
    assert!(engine.refused().n_crowded_max >= 20, "{:?}", engine.refused());
    let liar = engine.fleet.server(ServerId(2)).expect("it is there");
    assert_eq!(liar.sites.len(), 20_000);
    assert!(liar.units.len() <= 500 && liar.lines.len() <= 200 && liar.changes.len() <= 100);
    assert!(serde_json::to_vec(liar).unwrap().len() < 2 << 20);
    assert!(engine.fleet.by_upstream.len() <= 20_000);
}

#[test]
fn old_data_in_very_many_pieces_is_decided_in_a_bounded_number_of_looks() {
    let mut engine = Engine::new(&DetectConfig::default());
    fold_all(&mut engine, &two_pools());
    engine.advance(UnixMillis(NOON));
    // A batch that speaks of every tenth second of 27 days, each time with a failure.
    let piece = |n: i64| Record::Requests {
        site: SiteId(1 + n % 12),
        at: UnixMillis(NOON - n * 10_000),
        counts: Counts { n: 2, n_502: 1, ..Counts::default() },
    };
    let records: Vec<Record> = (13..230_000).map(piece).collect();
    let transitions = engine.fold_batch(UnixMillis(NOON), records.iter());
    assert!(transitions.iter().all(|t| t.incident.retroactive && t.notify.is_none()));
    let (_, used) = engine.looked[&ServerId(1)];
    assert!((40_000..=super::LOOK_SITES_MAX).contains(&used), "{used} sites looked at");
    assert_eq!(engine.looks_left(ServerId(1), NOON, 9), 0, "the rest waits for the next tick");
    assert_eq!(engine.looks_left(ServerId(1), NOON + 250, 9), 9);
    assert!(transitions.len() < 3 * super::LOOK_SITES_MAX / 12, "{}", transitions.len());
}
