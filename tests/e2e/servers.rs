//! The harness itself: real servers answer and log as the other tests rely on.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use harness::{Apache, Load, Nginx, PhpFpm, Pool, Root, Vhost, eventually, get};

/// Statuses in a log whose status is the first number after the quoted request.
fn logged(text: &str) -> BTreeMap<u16, u64> {
    let mut by_status = BTreeMap::new();
    for line in text.lines() {
        let status = line.split('"').nth(2).and_then(|rest| rest.trim().get(..3));
        let status = status.and_then(|s| s.parse().ok());
        *by_status.entry(status.unwrap_or_else(|| panic!("no status in {line:?}"))).or_default() +=
            1;
    }
    by_status
}

#[test]
fn nginx_logs_exactly_what_the_load_client_saw() {
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &[Pool::new("www"), Pool::new("shop")]);
    let vhosts = [Vhost::many("www", 2), Vhost::many("shop", 2)].concat();
    let nginx = Nginx::start(&root, &vhosts);
    let names: Vec<_> = vhosts.iter().map(|v| v.name.clone()).collect();
    let load = Load::start(nginx.address(), &names, 20.0, "/");
    let wait_for = |status| {
        eventually("the load sees it", Duration::from_secs(20), || {
            let n = load.seen().n_status(status);
            if n >= 20 { Ok(()) } else { Err(format!("{n} of {status}")) }
        });
    };
    wait_for(200);
    php.stop_pool("www");
    wait_for(502);
    nginx.rename_logs();
    nginx.reload();
    nginx.reopen_logs();
    php.start_pool("www");
    let seen = load.stop();
    assert_eq!(seen.n_status(0), 0, "every request was answered");
    for site in ["www01.test", "www02.test"] {
        let path = root.join(&format!("var/log/nginx/{site}.access.log"));
        let old = fs::read_to_string(format!("{}.1", path.display())).unwrap();
        let mut counts = logged(&old);
        for (status, n) in logged(&fs::read_to_string(path).unwrap()) {
            *counts.entry(status).or_default() += n;
        }
        for status in [200, 502] {
            assert_eq!(counts.get(&status).copied(), Some(seen.n(site, status)), "{site} {status}");
        }
    }
    let errors = fs::read_to_string(root.join("var/log/nginx/error.log.1")).unwrap();
    assert!(errors.contains("(2: No such file or directory)"), "{errors}");
}

#[test]
fn apache_answers_503_for_a_stopped_pool() {
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &[Pool::new("www")]);
    let apache = Apache::start(&root, &Vhost::many("www", 2));
    assert_eq!(get(apache.address(), "www01.test", "/index.php"), 200);
    assert_eq!(get(apache.address(), "www02.test", "/planned"), 503);
    php.stop_pool("www");
    assert_eq!(get(apache.address(), "www02.test", "/index.php"), 503);
    let log = fs::read_to_string(root.join("var/log/apache2/other_vhosts_access.log")).unwrap();
    assert_eq!(logged(&log), BTreeMap::from([(200, 1), (503, 2)]), "{log}");
    assert!(log.contains("www02.test:80 203.0.113."), "the client is the one it names: {log}");
    let errors = fs::read_to_string(root.join("var/log/apache2/error.log")).unwrap();
    assert!(errors.contains("AH02454"), "{errors}");
}
