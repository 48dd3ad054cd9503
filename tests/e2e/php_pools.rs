//! Real PHP-FPM pools that stop, die and lose their workers: the same faults behind nginx and behind
//! Apache, which answers 503 to all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{
    AgentSpec, Apache, Fleet, Nginx, PhpFpm, Pool, Root, Seen, Vhost, eventually, get, pause,
};
use wire::signal::counter::GATEWAY_503;
use wire::v1::Signal as S;

use crate::farm::{Front, LIMIT, difference};
use crate::faults::discovered;

const POOLS: [&str; 4] = ["www", "shop", "blog", "forum"];

#[test]
fn stopped_killed_and_crashing_pools_behind_nginx_are_told_apart() {
    pools_fail_in_front_of_the_agent(502, |root, vhosts| Front::Nginx(Nginx::start(root, vhosts)));
}

#[test]
fn stopped_killed_and_crashing_pools_behind_apache_are_told_apart_by_its_error_log() {
    pools_fail_in_front_of_the_agent(503, |root, vhosts| {
        Front::Apache(Apache::start(root, vhosts))
    });
}

/// `status` is what the server answers when a pool fails.
fn pools_fail_in_front_of_the_agent(status: u16, start: fn(&Root, &[Vhost]) -> Front) {
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &POOLS.map(Pool::new));
    let vhosts: Vec<_> = POOLS.iter().flat_map(|pool| Vhost::many(pool, 1)).collect();
    let front = start(&root, &vhosts);
    let address = match &front {
        Front::Nginx(nginx) => nginx.address(),
        Front::Apache(apache) => apache.address(),
    };
    let agent = AgentSpec::new("web-1").root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    assert_discovers_pools(&fleet);

    let mut seen = Seen::default();
    let mut ask = |pool: &str, query: &str, n: u64, want: u16| {
        let site = format!("{pool}01.test");
        for _ in 0..n {
            seen.record(&site, get(address, &site, &format!("/index.php{query}")));
        }
        assert_eq!(seen.n(&site, want), n, "{site} answers otherwise: {seen:?}");
    };
    for pool in POOLS {
        ask(pool, "", 3, 200);
    }
    ask("forum", "?status=500", 2, 500);
    ask("forum", "?status=503", 3, 503);
    ask("forum", "?status=502", 2, 502);
    ask("forum", "?status=504", 3, 504);
    php.stop_pool("www");
    ask("www", "", 3, status);
    php.kill_pool("shop");
    ask("shop", "", 4, status);
    let slow = std::thread::spawn(move || get(address, "blog01.test", "/index.php?ms=20000"));
    // The request may still be on its way to a worker when the first ones die.
    while !slow.is_finished() {
        php.kill_workers("blog");
        pause(Duration::from_millis(100));
    }
    seen.record("blog01.test", slow.join().expect("a request does not panic"));
    assert_eq!(seen.n("blog01.test", status), 1, "{seen:?}");

    eventually("the database holds what the clients saw", LIMIT, || {
        let diff = difference(&seen.by_site_and_status(), &fleet.db().requests("web-1"));
        if diff.is_empty() { Ok(()) } else { Err(diff) }
    });
    assert_explained(&fleet, u32::from(status));
}

fn assert_discovers_pools(fleet: &Fleet) {
    let found = discovered(fleet);
    let sites = found["sites"].as_array().expect("a list").iter();
    let have: BTreeMap<_, _> =
        sites.map(|site| (site["site"].as_str(), site["pool"].as_str())).collect();
    let names = POOLS.map(|pool| (format!("{pool}01.test"), pool));
    let want = names.iter().map(|(name, pool)| (Some(name.as_str()), Some(*pool))).collect();
    assert_eq!(have, want, "{found:#}");
}

fn assert_explained(fleet: &Fleet, status: u32) {
    let n_503 = |site: &str| {
        let counts = fleet.db().counts("web-1");
        counts.get(&(format!("{site}01.test"), GATEWAY_503)).copied().unwrap_or(0)
    };
    let if_503 = |n| if status == 503 { n } else { 0 };
    let n_503: Vec<_> = POOLS.iter().map(|pool| n_503(pool)).collect();
    assert_eq!(n_503, [if_503(3), if_503(4), if_503(1), 0], "of {POOLS:?}");
    let signals = fleet.db().signals("web-1");
    let n = |site: &str, status: u32, signal: Option<S>| {
        let key = (format!("{site}01.test"), status, signal.and_then(S::name));
        signals.get(&key).copied().unwrap_or(0)
    };
    let told = [
        n("www", status, Some(S::NoSuchSocket)),
        n("shop", status, Some(S::ConnectRefused)),
        n("blog", status, Some(S::Reset)) + n("blog", status, Some(S::PrematureClose)),
        // The application's own.
        n("forum", 502, None),
        n("forum", 504, None),
    ];
    assert_eq!(told, [3, 4, 1, 2, 3], "{signals:#?}");
    assert_eq!(signals.values().sum::<u64>(), told.iter().sum::<u64>(), "{signals:#?}");
}
