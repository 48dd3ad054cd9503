//! Servers in front of servers on one machine: each request counts once, in the log of the first one,
//! and the error log of the last one explains it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use harness::{
    Apache, Backends, Fault, Fleet, Haproxy, HaproxyLog, Nginx, ProxySite, Root, Volley, eventually,
};
use wire::signal::counter::GATEWAY_503;
use wire::v1::Signal as S;

use crate::farm::{LIMIT, difference};
use crate::faults::{Case, Known, Story, answers, assert_discovers_beside, fails, faults, known};

#[test]
fn apache_behind_nginx_is_counted_once_and_its_error_log_explains_the_503_that_nginx_passes_on() {
    const LOG: &str = "var/log/nginx/*.access.log";
    const CASES: [Case; 9] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], ""),
        fails(Fault::Reset, 502, &[S::Reset], "(104)Connection reset by peer"),
        fails(Fault::BadHeader, 502, &[S::InvalidHeader], "AH01106: bad HTTP/1.1 header"),
        fails(Fault::Hangs, 502, &[S::TimeoutRead], "(70007)The timeout specified has expired"),
        fails(Fault::Refused, 503, &[S::ConnectRefused], "(111)Connection refused: AH00957"),
        fails(Fault::NoSocket, 503, &[S::NoSuchSocket], "(2)No such file or directory: AH02454"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let apache = Apache::start_proxy(&root, backends.sites());
    let outer = ProxySite::all_to(backends.sites(), apache.address());
    let nginx = Nginx::start_proxy(&root, &outer);
    let volley = Volley::at(nginx.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    let inner_log = "var/log/apache2/other_vhosts_access.log";
    let truth = known_behind(backends.sites(), LOG, apache.address());
    assert_discovers_beside(&fleet, &root, truth, inner_log);

    drop(apache);
    assert_all_fail(&fleet, volley, backends.sites(), 502);
}

#[test]
fn nginx_behind_haproxy_is_counted_once_and_its_error_log_explains_the_502_that_haproxy_passes_on()
{
    const LOG: &str = "var/log/haproxy.log";
    const CASES: [Case; 10] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Answers(503), 503),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], ""),
        fails(Fault::Answers(504), 504, &[], ""),
        fails(Fault::Reset, 502, &[S::Reset], "recv() failed (104: Connection reset by peer)"),
        fails(Fault::Closed, 502, &[S::PrematureClose], "upstream prematurely closed connection"),
        fails(
            Fault::Hangs,
            504,
            &[S::TimeoutRead],
            "upstream timed out (110: Connection timed out)",
        ),
        fails(Fault::Refused, 502, &[S::ConnectRefused], "connect() failed (111: "),
        fails(Fault::NoSocket, 502, &[S::NoSuchSocket], "missing.sock failed (2: No such file"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let nginx = Nginx::start_proxy(&root, backends.sites());
    let outer = ProxySite::all_to(backends.sites(), nginx.address());
    let haproxy = Haproxy::start(&root, &outer, HaproxyLog::Iso);
    let volley = Volley::with_proxy_line(haproxy.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    let inner_log = "var/log/nginx/*.access.log";
    let truth = known_behind(backends.sites(), LOG, nginx.address());
    assert_discovers_beside(&fleet, &root, truth, inner_log);

    drop(nginx);
    assert_all_fail(&fleet, volley, backends.sites(), 503);
}

#[test]
fn nginx_behind_haproxy_is_counted_in_its_own_log_when_that_of_haproxy_names_no_host() {
    const LOG: &str = "var/log/nginx/*.access.log";
    const CASES: [Case; 5] = [
        answers(Fault::Answers(200), 200),
        answers(Fault::Planned, 503),
        fails(Fault::Answers(502), 502, &[], " 502 "),
        fails(Fault::Refused, 502, &[S::ConnectRefused], "connect() failed (111: "),
        fails(Fault::NoSocket, 502, &[S::NoSuchSocket], "missing.sock failed (2: No such file"),
    ];
    let root = Root::new();
    let backends = Backends::start(&root, &faults(&CASES));
    let nginx = Nginx::start_proxy(&root, backends.sites());
    let outer = ProxySite::all_to(backends.sites(), nginx.address());
    let haproxy = Haproxy::start(&root, &outer, HaproxyLog::WithoutHost);
    let volley = Volley::with_proxy_line(haproxy.address());
    let fleet = Story { root: &root, cases: &CASES, volley, access_log: LOG }.tell();
    let truth = known_behind(backends.sites(), LOG, nginx.address());
    assert_discovers_beside(&fleet, &root, truth, "var/log/haproxy.log");
}

/// What `discover` says of sites behind two servers: who answers in the end.
fn known_behind(sites: &[ProxySite], access_log: &str, inner: SocketAddr) -> Vec<Known> {
    let mut known = known(sites, access_log);
    for site in &mut known {
        // Planned pages are made by the inner server itself.
        site.pool.get_or_insert(inner.to_string());
    }
    known
}

/// The server in the middle is gone: every site fails at the first one, which says so itself.
fn assert_all_fail(fleet: &Fleet, volley: Volley, sites: &[ProxySite], status: u16) {
    let before = fleet.db();
    let (requests, signals) = (before.requests("web-1"), before.signals("web-1"));
    let n_503 = before.n_status("web-1", GATEWAY_503);
    let plan: Vec<_> = sites.iter().map(|site| (site.name.clone(), 2)).collect();
    let seen = volley.fire(&plan);
    assert_eq!(seen.n_status(status), 2 * sites.len() as u64, "{seen:?}");
    let mut truth = requests;
    for (key, n) in seen.by_site_and_status() {
        *truth.entry(key).or_default() += n;
    }
    eventually("the database holds what the clients saw", LIMIT, || {
        let diff = difference(&truth, &fleet.db().requests("web-1"));
        if diff.is_empty() { Ok(()) } else { Err(diff) }
    });
    let mut fresh: BTreeMap<_, u64> = fleet.db().signals("web-1");
    for (key, n) in signals {
        *fresh.entry(key).or_default() -= n;
    }
    fresh.retain(|_, n| *n > 0);
    let of_site =
        |site: &ProxySite| ((site.name.clone(), u32::from(status), S::ConnectRefused.name()), 2);
    assert_eq!(fresh, sites.iter().map(of_site).collect());
    let n_fresh = fleet.db().n_status("web-1", GATEWAY_503) - n_503;
    assert_eq!(n_fresh, if status == 503 { seen.n_status(503) } else { 0 });
}
