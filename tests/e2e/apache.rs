//! The same outage behind Apache, which answers 503 where nginx answers 502.

use harness::{Load, now_ms};

use crate::farm::{Farm, LIMIT, until_seen};

#[test]
fn a_stopped_pool_behind_apache_is_the_same_incident_with_503() {
    let mut farm = Farm::apache();
    let load = farm.load(4.0, "/index.php");
    let truth = now_ms();
    farm.php.stop_pool("www");
    let sites = farm.sites_of("www");
    let open =
        farm.fleet.incident("pool www fails", LIMIT, |i| i.scope() == "pool" && i.sites() == sites);
    assert_eq!(open.texts("/where/members"), ["web-1/www"]);
    assert!(open.text("/title").contains("503"), "{}", open.text("/title"));
    assert!((open.at_ms("/started_at") - truth).abs() <= 2000, "{}", open.json());
    farm.php.start_pool("www");
    let id = open.id().to_owned();
    let over = farm.fleet.incident("it resolves", LIMIT, |i| i.id() == id && !i.is_open());
    let seen = load.stop();
    assert_eq!(over.cause(), "service_down", "{}", over.json());
    assert_eq!(over.number("/affected/n_502"), 0);
    assert_eq!(over.number("/affected/n_503"), seen.n_status(503));
    farm.assert_exact_after_drain(&seen);
    farm.assert_only(&[&id]);
}

#[test]
fn a_planned_503_page_opens_nothing() {
    let mut farm = Farm::apache();
    let mut seen = farm.load(2.0, "/index.php").stop();
    let planned = Load::start(farm.address(), &farm.sites(), 10.0, "/planned");
    until_seen(&planned, 503, 400);
    seen.add(planned.stop());
    farm.assert_exact(&seen);
    assert_eq!(farm.fleet.db().n_status("web-1", wire::signal::counter::GATEWAY_503), 0);
    farm.assert_nothing_opened();
}

#[test]
fn a_planned_503_page_of_nginx_opens_nothing() {
    let mut farm = Farm::nginx(harness::Pool::new("shop"));
    let mut seen = farm.load(2.0, "/").stop();
    let planned = Load::start(farm.address(), &farm.sites(), 10.0, "/planned");
    until_seen(&planned, 503, 400);
    seen.add(planned.stop());
    farm.assert_exact(&seen);
    farm.assert_nothing_opened();
}
