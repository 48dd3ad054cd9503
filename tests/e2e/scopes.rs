//! Site, pool and server behind real nginx, Apache and HAProxy: each outage is one incident of the right
//! scope, told once, and its title names the status that clients saw.

use harness::{Incident, Load, Pool, eventually};

use crate::estate::{Hall, Kind, LIMIT, RealBox, assert_counts, reaches};

const POOLS: [(&str, usize); 2] = [("www", 4), ("shop", 3)];
/// The incident is there, alone, paged once, and says what is the matter.
fn assert_one(hall: &Hall, scope: &str, members: &[&str], since_ms: i64) -> Incident {
    let told = hall.told(&format!("one {scope} fails"), |all| reaches(all, scope, members));
    told.assert_one_page_each();
    let only = told.only().clone();
    assert!(only.is_open(), "{}", only.json());
    let late = only.at_ms("/started_at") - since_ms;
    let front = hall.boxes[0].kind;
    assert!((-1000..=front.first_failure_ms_max()).contains(&late), "{late} ms: {}", only.json());
    only
}

/// It ends under its id, and its numbers are what clients saw.
fn assert_ends(hall: &mut Hall, open: &Incident, sites: &[String]) {
    let told = hall.over();
    told.assert_told_from_start_to_end();
    let seen = hall.quiet();
    let over = told.only();
    assert_eq!(over.id(), open.id());
    assert_eq!(over.sites(), sites);
    assert_counts(over, &seen, sites);
}

fn assert_title(incident: &Incident, status: u16) {
    let title = incident.text("/title");
    assert!(title.contains(&format!(" with {status} ")), "{title}");
}

/// One of two pools of a box dies and comes back.
fn a_pool_dies_behind(kind: Kind) {
    let mut hall = Hall::start(vec![RealBox::start("web-1", "", kind, &POOLS)]);
    let truth = harness::now_ms();
    hall.the("web-1").kill("www");
    let (sites, status) = (hall.boxes[0].sites_of("www"), hall.boxes[0].status());
    // A pool of HAProxy has no name but its address.
    let open =
        hall.fleet.incident("the pool fails", LIMIT, |i| i.scope() == "pool" && i.sites() == sites);
    let member = format!("web-1/{}", open.text("/where/pool"));
    let open = assert_one(&hall, "pool", &[&member], truth);
    if kind != Kind::Haproxy {
        assert_eq!(member, "web-1/www");
    }
    assert_eq!((open.text("/where/server"), open.text("/severity")), ("web-1", "warning"));
    assert_title(&open, status);
    hall.the("web-1").start_again("www");
    assert_ends(&mut hall, &open, &sites);
}

/// The only pool of a box dies and comes back.
fn a_server_dies_behind(kind: Kind) {
    let mut hall = Hall::start(vec![RealBox::start("web-1", "", kind, &[("www", 5)])]);
    let truth = harness::now_ms();
    hall.the("web-1").kill("www");
    let (sites, status) = (hall.boxes[0].sites(), hall.boxes[0].status());
    let open = assert_one(&hall, "server", &["web-1"], truth);
    assert_eq!((open.text("/where/server"), open.text("/severity")), ("web-1", "critical"));
    assert_title(&open, status);
    hall.the("web-1").start_again("www");
    assert_ends(&mut hall, &open, &sites);
}

/// The code of one site kills each worker that runs it; its neighbours in the pool are well.
fn a_site_kills_its_workers_behind(kind: Kind) {
    let pools = [Pool { max_children: 16, ..Pool::new("www") }];
    let one = RealBox::with_pools("web-1", "", kind, &[("www", 5)], &pools);
    let (sick, volley, status) = (one.sites()[2].clone(), one.volley(), one.status());
    let mut hall = Hall::start(vec![one]);
    let truth = harness::now_ms();
    let bad = Load::through(volley, std::slice::from_ref(&sick), 5.0, "/index.php?die=1");
    let member = format!("web-1/{sick}");
    let open = assert_one(&hall, "site", &[&member], truth);
    assert_eq!(open.sites(), [sick.as_str()]);
    assert_eq!(open.text("/severity"), "warning");
    assert_title(&open, status);
    let bad = bad.stop();
    let told = hall.over();
    told.assert_told_from_start_to_end();
    let over = told.only();
    assert_eq!(over.id(), open.id());
    let mut seen = hall.quiet();
    seen.add(bad);
    assert_counts(over, &seen, &[sick]);
}

/// Two slow requests at a time exhaust a pool with two workers and next to no queue.
fn a_pool_is_exhausted_behind(kind: Kind) {
    let pools = [Pool::new("www"), Pool::tiny("shop")];
    let one = RealBox::with_pools("web-1", "", kind, &POOLS, &pools);
    let (volley, status, sites) = (one.volley(), one.status(), one.sites_of("shop"));
    let mut hall = Hall::start(vec![one]);
    let truth = harness::now_ms();
    let lanes = vec![sites[0].clone(); 8];
    let slow = Load::through(volley, &lanes, 2.0, "/index.php?ms=1500");
    let open = assert_one(&hall, "pool", &["web-1/shop"], truth);
    assert_eq!((open.cause(), open.text("/where/pool")), ("overload", "shop"), "{}", open.json());
    assert_title(&open, status);
    // A site that gets a worker each time it asks joins later.
    let all_fail = |all: &[Incident]| all.iter().any(|open| open.sites() == sites);
    hall.told("every site of the pool fails", all_fail);
    let slow = slow.stop();
    let told = hall.over();
    told.assert_told_from_start_to_end();
    let over = told.only();
    assert_eq!((over.id(), over.sites()), (open.id(), sites.clone()));
    let mut seen = hall.quiet();
    seen.add(slow);
    let n_seen: u64 = sites.iter().map(|site| seen.n(site, status)).sum();
    eventually("what clients saw is stored", LIMIT, || {
        let n = hall.fleet.db().n_status("web-1", u32::from(status));
        if n == n_seen { Ok(()) } else { Err(format!("{n} of {n_seen}")) }
    });
    // So small a pool refuses one on a busy machine that was never overloaded, or is no more.
    let [from, to] = ["/started_at", "/resolved_at"].map(|at| over.at_ms(at).div_euclid(1000));
    let counts = hall.fleet.db().counts_of("web-1", from..=to);
    let n: u64 = sites.iter().filter_map(|s| counts.get(&(s.clone(), u32::from(status)))).sum();
    // One in the last moment may be told only after the end.
    let told = over.number(&format!("/affected/n_{status}"));
    assert!((n.saturating_sub(3)..=n).contains(&told), "{told} of {n}: {}", over.json());
}

#[test]
fn one_site_that_kills_its_workers_behind_nginx_is_an_incident_of_that_site_alone() {
    a_site_kills_its_workers_behind(Kind::Nginx);
}

#[test]
fn one_site_that_kills_its_workers_behind_apache_is_an_incident_of_that_site_alone() {
    a_site_kills_its_workers_behind(Kind::Apache);
}

#[test]
fn one_dead_application_behind_haproxy_is_an_incident_of_its_site_alone() {
    let pools = [("one", 1), ("www", 4)];
    let mut hall = Hall::start(vec![RealBox::start("web-1", "", Kind::Haproxy, &pools)]);
    let truth = harness::now_ms();
    hall.the("web-1").kill("one");
    let sites = hall.boxes[0].sites_of("one");
    let open = assert_one(&hall, "site", &[&format!("web-1/{}", sites[0])], truth);
    assert_title(&open, 503);
    hall.the("web-1").start_again("one");
    assert_ends(&mut hall, &open, &sites);
}

#[test]
fn an_exhausted_pool_is_overload_of_its_sites_and_told_once() {
    // Apache would wait for a place in the queue, as long as it takes.
    a_pool_is_exhausted_behind(Kind::Nginx);
}

#[test]
fn a_dead_pool_behind_apache_is_one_incident_with_503() {
    a_pool_dies_behind(Kind::Apache);
}

#[test]
fn a_dead_pool_behind_haproxy_is_one_incident_with_503() {
    a_pool_dies_behind(Kind::Haproxy);
}

#[test]
fn the_only_pool_behind_apache_is_one_incident_of_the_server_with_503() {
    a_server_dies_behind(Kind::Apache);
}

#[test]
fn the_only_application_behind_haproxy_is_one_incident_of_the_server_with_503() {
    a_server_dies_behind(Kind::Haproxy);
}

#[test]
fn the_only_pool_behind_nginx_is_one_incident_of_the_server_with_502_and_one_page() {
    a_server_dies_behind(Kind::Nginx);
}

#[test]
fn a_pool_on_one_box_and_another_box_as_a_whole_are_two_incidents() {
    let labels = "hypervisor=hv-1 region=eu";
    let mut hall = Hall::start(vec![
        RealBox::start("web-1", labels, Kind::Nginx, &POOLS),
        RealBox::start("web-2", labels, Kind::Apache, &[("www", 4)]),
        RealBox::start("web-3", labels, Kind::Haproxy, &[("www", 4)]),
        RealBox::start("web-4", "hypervisor=hv-2 region=eu", Kind::Nginx, &[("www", 4)]),
    ]);
    hall.the("web-1").kill("shop");
    hall.the("web-2").kill("www");
    let told = hall.told("a pool and a server fail", |all| {
        reaches(all, "pool", &["web-1/shop"]) && reaches(all, "server", &["web-2"])
    });
    assert_eq!(told.tops().len(), 2, "{told:#?}");
    told.assert_one_page_each();
    let of = |scope: &str| {
        let tops = told.tops().into_iter();
        tops.filter(|i| i.scope() == scope).map(Incident::clone).collect::<Vec<_>>().remove(0)
    };
    let (pool, server) = (of("pool"), of("server"));
    assert_title(&pool, 502);
    assert_title(&server, 503);
    assert_eq!(pool.sites(), hall.boxes[0].sites_of("shop"));
    assert_eq!(server.sites(), hall.boxes[1].sites());
    hall.the("web-1").start_again("shop");
    hall.the("web-2").start_again("www");
    let told = hall.over();
    told.assert_told_from_start_to_end();
    let seen = hall.quiet();
    assert_eq!(told.tops().len(), 2, "{told:#?}");
    for over in told.tops() {
        assert_counts(over, &seen, &over.sites());
    }
}
