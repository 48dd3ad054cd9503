//! Real outages behind a real nginx: one incident, the right scope, cause and times, exact counts.

use std::time::Duration;

use harness::{Fleet, Incident, Pool, eventually, now_ms, pause};

use crate::farm::{Farm, LIMIT, until_seen};

/// How far `started_at` may be from the truth: logs have whole seconds.
const START_SLACK_MS: i64 = 2000;

fn assert_times(incident: &Incident, truth_ms: i64) {
    let started = incident.at_ms("/started_at");
    assert!(
        (started - truth_ms).abs() <= START_SLACK_MS,
        "started {} ms from the truth: {}",
        started - truth_ms,
        incident.json()
    );
    let delay = incident.at_ms("/detected_at") - truth_ms;
    assert!((-1000..=8000).contains(&delay), "detected after {delay} ms: {}", incident.json());
}

#[test]
fn a_stopped_pool_is_one_incident_with_its_seven_sites_through_reload_and_rotation() {
    let mut farm = Farm::nginx(Pool::new("shop"));
    let load = farm.load(4.0, "/");
    let truth = now_ms();
    farm.php.stop_pool("www");

    let sites = farm.sites_of("www");
    let open =
        farm.fleet.incident("pool www fails", LIMIT, |i| i.scope() == "pool" && i.sites() == sites);
    assert_eq!(open.texts("/where/members"), ["web-1/www"]);
    assert_eq!(open.text("/where/pool"), "www");
    assert_eq!(open.text("/kind"), "gateway_errors");
    assert_eq!(open.text("/severity"), "warning");
    assert!(open.text("/title").contains("502"), "{}", open.text("/title"));
    assert_times(&open, truth);

    // The middle of an outage is when people reload and logrotate runs.
    farm.the_nginx().rename_logs();
    let seen = load.seen().n_status(502);
    until_seen(&load, 502, seen + 30); // goes to the renamed files
    farm.the_nginx().reload();
    farm.the_nginx().reopen_logs();
    until_seen(&load, 502, seen + 90); // goes to the new ones
    farm.php.start_pool("www");

    let id = open.id().to_owned();
    let over = farm.fleet.incident("it resolves", LIMIT, |i| i.id() == id && !i.is_open());
    let seen = load.stop();
    assert_eq!(over.cause(), "service_down", "{}", over.json());
    assert_eq!(over.sites(), sites);
    assert_eq!(over.number("/affected/n_502"), seen.n_status(502));
    assert_eq!(over.number("/affected/n_sites"), 7);
    for site in farm.sites_of("shop") {
        assert_eq!(seen.n(&site, 502), 0, "{site} has its own pool");
    }
    farm.assert_exact_after_drain(&seen);
    farm.assert_only(&[&id]);
}

#[test]
fn an_exhausted_pool_is_overload_of_all_its_sites() {
    let mut farm = Farm::nginx(Pool::tiny("shop"));
    let load = farm.load(2.0, "/");
    let truth = now_ms();
    // The slow code is in one site; with two workers and a queue of one it takes its neighbours along.
    let slow_sites = vec!["shop01.test".to_owned(); 8];
    let slow = harness::Load::start(farm.address(), &slow_sites, 2.0, "/?ms=1500");

    let sites = farm.sites_of("shop");
    let open = farm.fleet.incident("pool shop is exhausted", LIMIT, |i| {
        i.scope() == "pool" && i.sites() == sites && i.cause() == "overload"
    });
    assert_eq!(open.texts("/where/members"), ["web-1/shop"]);
    assert!((open.at_ms("/started_at") - truth).abs() <= START_SLACK_MS, "{}", open.json());

    let mut seen = slow.stop();
    seen.add(load.stop());
    assert!(seen.n_status(502) > 20, "{} responses 502", seen.n_status(502));
    farm.assert_exact_after_drain(&seen);
    farm.assert_only(&[open.id()]);
}

#[test]
fn workers_killed_over_and_over_are_a_crash_of_their_pool() {
    let mut farm = Farm::nginx(Pool::new("shop"));
    let load = farm.load(3.0, "/?ms=150");
    let truth = now_ms();
    let sites = farm.sites_of("www");
    let open = eventually("the workers of pool www crash", LIMIT, || {
        // The fault itself: it goes on for as long as nobody has noticed.
        for _ in 0..5 {
            farm.php.kill_workers("www");
            pause(Duration::from_millis(100));
        }
        let all = farm.fleet.incidents()?;
        let is = |i: &&Incident| i.scope() == "pool" && i.sites() == sites && i.cause() == "crash";
        all.iter().find(is).cloned().ok_or_else(|| format!("{all:#?}"))
    });
    assert_eq!(open.texts("/where/members"), ["web-1/www"]);
    assert_times(&open, truth);
    let seen = load.stop();
    farm.assert_exact_after_drain(&seen);
    farm.assert_only(&[open.id()]);
}

#[test]
fn the_only_pool_of_a_server_killed_is_one_incident_of_the_server() {
    let mut farm = Farm::nginx_with_one_pool(Fleet::builder());
    let load = farm.load(4.0, "/");
    let truth = now_ms();
    farm.php.kill_pool("www");
    let open = farm.fleet.incident("the server fails", LIMIT, |i| {
        i.scope() == "server" && i.number("/affected/n_sites") == 12
    });
    assert_eq!(open.texts("/where/members"), ["web-1"]);
    assert_eq!(open.text("/severity"), "critical");
    assert_times(&open, truth);
    let late = open.at_ms("/detected_at") - truth;
    assert!(late <= 5000, "a dead pool is known within 5 s, not {late} ms");
    farm.fleet.incident("its cause", LIMIT, |i| i.cause() == "service_down");
    let seen = load.stop();
    farm.assert_exact_after_drain(&seen);
    farm.assert_only(&[open.id()]);
}

#[test]
fn a_single_stray_502_on_a_quiet_site_opens_nothing() {
    let mut farm = Farm::nginx(Pool::new("shop"));
    let load = farm.load(1.0, "/");
    // A worker dies under one request: the smallest real 502 there is.
    let address = farm.address();
    let slow = std::thread::spawn(move || harness::get(address, "shop03.test", "/?ms=1500"));
    pause(Duration::from_millis(500));
    farm.php.kill_workers("shop");
    let status = slow.join().expect("the client does not panic");
    assert_eq!(status, 502);
    let mut seen = load.stop();
    seen.record("shop03.test", status);
    let others = seen.n_status(502) - 1;
    assert!(others <= 1, "one request at most was with another worker, not {others}");
    farm.assert_exact(&seen);
    farm.assert_nothing_opened();
}

#[test]
fn a_storm_of_404_opens_nothing() {
    let mut farm = Farm::nginx(Pool::new("shop"));
    let mut seen = farm.load(2.0, "/").stop();
    let storm = harness::Load::start(farm.address(), &farm.sites(), 25.0, "/missing");
    until_seen(&storm, 404, 1000);
    seen.add(storm.stop());
    farm.assert_exact(&seen);
    farm.assert_nothing_opened();
}

#[test]
fn a_storm_of_clients_that_hang_up_opens_nothing() {
    let mut farm = Farm::nginx(Pool::new("shop"));
    let mut seen = farm.load(2.0, "/").stop();
    let address = farm.address();
    let hung_up = farm.sites().into_iter().map(|site| {
        std::thread::spawn(move || {
            for _ in 0..6 {
                let patience = Duration::from_millis(40);
                harness::get_and_hang_up(address, &site, "/?ms=400", patience);
            }
        })
    });
    for thread in hung_up.collect::<Vec<_>>() {
        thread.join().expect("the client does not panic");
    }
    for site in farm.sites() {
        for _ in 0..6 {
            seen.record(&site, 499);
        }
    }
    farm.assert_exact(&seen);
    farm.assert_nothing_opened();
}
