//! Pools on real sockets, and the names and rhythms of what is said of them.

use std::os::unix::net::{UnixListener, UnixStream};

use wire::catalog;

use super::*;

fn pool(name: &str, version: Option<&str>, listen: &str) -> Pool {
    Pool {
        name: name.into(),
        php_version: version.map(Into::into),
        listen: listen.into(),
        max_children: Some(2),
        ..Pool::default()
    }
}

#[test]
fn pools_of_one_name_are_told_apart() {
    let pools = [
        pool("shop", Some("8.2"), "/run/shop.sock"),
        pool("www", Some("7.4"), "/run/www74.sock"),
        pool("www", Some("8.2"), "/run/www82.sock"),
        pool("blog", Some("8.2"), "9001"),
        pool("blog", Some("8.2"), "9002"),
        pool("old", None, "9003"),
        pool("old", Some("5.6"), "9004"),
    ];
    let want = ["shop", "www@7.4", "www@8.2", "blog@9001", "blog@9002", "old@9003", "old@5.6"];
    assert_eq!(keys(&pools), want);
}

fn used(n_accepted: u32, n_waiting: u32) -> Use {
    Use { n_accepted, n_waiting, ..Use::default() }
}

#[test]
fn a_pool_at_rest_is_silent_and_an_exhausted_one_is_counted_once() {
    let mut tracked = Tracked::new("phpfpm.pool=www".into(), pool("www", None, "/run/www.sock"));
    let mut check = |second: i64, used, is_fast, want: &[(&str, f64)]| {
        let mut out = Values::new();
        tracked.fold_use(used, UnixMillis(second * 1000), is_fast, &mut out);
        let got: Vec<_> = out.iter().map(|(metric, _, value)| (*metric, *value)).collect();
        let want: Vec<_> =
            want.iter().map(|(metric, value)| (format!("phpfpm.{metric}"), *value)).collect();
        let want: Vec<_> = want.iter().map(|(metric, value)| (metric.as_str(), *value)).collect();
        assert_eq!(got, want, "at {second} s");
    };
    let busy = |n, waiting, reached| {
        [("active_processes", n), ("listen_queue", waiting), ("max_children_reached", reached)]
    };
    let max = [("max_children", 2.0)];
    check(0, Some(used(0, 0)), false, &[&busy(0.0, 0.0, 0.0)[..], &max].concat());
    check(10, Some(used(0, 0)), false, &[]);
    check(20, Some(used(0, 0)), true, &busy(0.0, 0.0, 0.0));
    check(30, Some(used(2, 0)), false, &busy(2.0, 0.0, 0.0));
    check(31, Some(used(2, 3)), false, &busy(2.0, 3.0, 1.0));
    check(32, Some(used(2, 4)), false, &busy(2.0, 4.0, 1.0));
    check(33, Some(used(1, 0)), false, &busy(1.0, 0.0, 1.0));
    check(34, Some(used(2, 1)), false, &busy(2.0, 1.0, 2.0));
    check(35, None, true, &[]);
    check(40, Some(used(0, 0)), false, &busy(0.0, 0.0, 2.0));
    check(50, Some(used(0, 0)), false, &[]);
    check(60, Some(used(0, 0)), false, &max);
    check(100, Some(used(0, 0)), false, &busy(0.0, 0.0, 2.0));
    // The clock was set back.
    check(50, Some(used(0, 0)), false, &[&busy(0.0, 0.0, 2.0)[..], &max].concat());
}

#[test]
fn a_status_page_is_only_asked_for_when_it_takes_no_visitors_worker() {
    let check = |status_listen: Option<&str>, n, used, max, want: Option<&str>| {
        let pool = Pool {
            status_path: Some("/status".into()),
            status_listen: status_listen.map(Into::into),
            max_children: max,
            ..pool("www", None, "/run/www.sock")
        };
        let mut tracked = Tracked::new(String::new(), pool);
        tracked.used = used;
        let own = ["192.0.2.7".parse().unwrap()];
        let listen = tracked.page(n > 0, &own).map(|page| page.listen);
        assert_eq!(listen.as_deref(), want, "{n} workers, {used:?}, at most {max:?}");
    };
    let own = Some("/run/www.sock");
    check(None, 3, Some(used(0, 0)), Some(5), own);
    check(None, 3, Some(used(3, 0)), Some(5), own);
    check(None, 5, Some(used(4, 0)), Some(5), None);
    check(None, 3, Some(used(0, 1)), Some(5), None);
    check(None, 0, Some(used(0, 0)), Some(5), None);
    check(None, 1, Some(used(0, 0)), None, None);
    check(None, 1, None, Some(5), None);
    check(Some("9001"), 5, Some(used(5, 9)), Some(5), Some("9001"));
    // No other machine is asked, whatever a configuration says.
    let full = Some(used(5, 9));
    for here in ["127.0.0.1:9001", "[::1]:9001", "192.0.2.7:9001", "*:9001", "[::]:9001"] {
        check(Some(here), 5, full, Some(5), Some(here));
    }
    for elsewhere in ["192.0.2.8:9001", "[2001:db8::1]:9001", "[::ffff:192.0.2.8]:1", "app:9001"] {
        check(Some(elsewhere), 5, full, Some(5), None);
    }
}

#[test]
fn a_pool_that_was_not_looked_at_is_not_asked_for_its_status_page() {
    let (_found, discovered) = watch::channel(Arc::new(Discovery {
        pools: vec![Pool {
            status_path: Some("/status".into()),
            ..pool("www", None, "/run/www.sock")
        }],
        ..Discovery::default()
    }));
    let (_status, gather) = watch::channel(GatherStatus::default());
    let (mut pools, _) = super::new(PathBuf::from("/"), discovered, gather);
    pools.refresh();
    let mut out = Values::new();
    pools.fold_uses(Some(vec![Some(used(0, 0))]), UnixMillis(0), false, &mut out);
    assert!(pools.tracked[0].page(true, &[]).is_some());
    pools.fold_uses(None, UnixMillis(1000), false, &mut out);
    assert!(pools.tracked[0].page(true, &[]).is_none(), "it may be full by now");
}

#[test]
fn a_pool_that_discovery_finds_is_sampled_on_its_real_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("www.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let discovery = Discovery {
        pools: vec![pool("www", None, path.to_str().unwrap())],
        ..Discovery::default()
    };
    let (found, discovered) = watch::channel(Arc::new(Discovery::default()));
    let (_status, gather) = watch::channel(GatherStatus::default());
    let (mut pools, mut crowd) = super::new(PathBuf::from("/"), discovered, gather);
    let mut out = Values::new();
    pools.sample(UnixMillis(0), &mut out);
    crowd.sample(UnixMillis(0), &mut out);
    assert!(out.iter().all(|(metric, ..)| !metric.starts_with("phpfpm.")), "{out:?}");
    found.send_replace(Arc::new(discovery));
    let clients: Vec<_> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let accepted: Vec<_> = (0..2).map(|_| listener.accept().unwrap()).collect();
    out.clear();
    pools.sample(UnixMillis(10_000), &mut out);
    crowd.sample(UnixMillis(10_000), &mut out);
    let get = |metric: &str| {
        let mut of_metric = out.iter().filter(|(m, ..)| *m == metric);
        of_metric.next().map(|(_, attribute, value)| (attribute.as_str(), *value))
    };
    for (metric, value) in [
        ("phpfpm.active_processes", 2.0),
        ("phpfpm.listen_queue", 1.0),
        ("phpfpm.max_children_reached", 1.0),
        ("phpfpm.max_children", 2.0),
        ("phpfpm.total_processes", 0.0),
    ] {
        assert_eq!(get(metric), Some(("phpfpm.pool=www", value)), "{out:?}");
    }
    assert!(get("phpfpm.listen_queue.limit").is_some_and(|(_, limit)| limit >= 1.0));
    assert!(get("system.processes.zombie").is_some());
    assert!(get("system.processes").is_some_and(|(_, n)| n >= 2.0), "{out:?}");
    for (metric, attribute, value) in &out {
        let row = catalog::find(metric).unwrap_or_else(|| panic!("{metric} is in the catalog"));
        assert!(row.to_wire(*value).is_some(), "{metric}{{{attribute}}} = {value}");
    }
    drop((clients, accepted));
}
