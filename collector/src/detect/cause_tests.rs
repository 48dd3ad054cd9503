//! Causes from real lines: what the evidence table makes of the faults it was written for.

use super::script::{EAGAIN, NO_SOCKET, REFUSED, RESET, Script, at, outage, two_pools};

const FPM: &str = "php8.2-fpm.service";
const PERMISSION: &str = "connect() to unix:/run/php/php8.2-fpm-www.sock failed (13: Permission denied) while connecting to upstream, client: 203.0.113.4, server: shop06.test, request: \"GET /shop/ HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock:\", host: \"shop06.test\"";
const OLD_PHP: &str = "connect() to unix:/run/php/php7.4-fpm.sock failed (2: No such file or directory) while connecting to upstream, client: 203.0.113.8, server: shop05.test, request: \"GET /blog/2026/1858 HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php7.4-fpm.sock:\", host: \"shop05.test\"";
const SLOW: &str = "upstream timed out (110: Connection timed out) while reading response header from upstream, client: 203.0.113.1, server: shop11.test, request: \"GET /shop/ HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/php8.2-fpm-shop11.sock\", host: \"shop11.test\"";
const NAME: &str = "app.internal could not be resolved (3: Host not found), client: 203.0.113.1, server: shop06.test, request: \"GET /product/303 HTTP/1.1\", host: \"shop06.test\"";
const DROPPED: &str = "upstream timed out (110: Connection timed out) while connecting to upstream, client: 203.0.113.5, server: shop02.test, request: \"GET / HTTP/1.1\", upstream: \"http://10.0.0.1:8080/\", host: \"shop02.test\"";
const LINE_KERNEL: &str =
    "Out of memory: Killed process 4242 (php-fpm8.2) total-vm:512000kB, anon-rss:401000kB";
const LINE_FULL: &str = "[crit] 37#37: *12 pwrite() \"/var/lib/nginx/body/0000000012\" failed (28: No space left on device) while reading upstream";
const LINE_SEGFAULT: &str =
    "[pool www] child 43 exited on signal 11 (SIGSEGV) after 1.259416 seconds from start";
const LINE_KILLED: &str =
    "[pool www] child 67 exited on signal 9 (SIGKILL) after 0.731047 seconds from start";
const LINE_CHILDREN: &str =
    "[pool www] server reached pm.max_children setting (3), consider raising it";
const LINE_SLOW: &str = "[pool www] child 31, script '/var/www/shop12.test/index.php' (request: \"GET /index.php\") execution timed out (2.068746 sec), terminating";

fn two() -> Script {
    two_pools().unit(-30, 1, FPM, "active")
}

fn one() -> Script {
    Script::default().server("web-07", &[("www", 6)]).unit(-30, 1, FPM, "active")
}

fn fails(script: Script, place: &'static str, text: &'static str) -> Script {
    outage(script, place, (20, 60, 60), text)
}

/// Every resource sampled and normal.
fn calm(script: Script) -> Script {
    let values = [
        ("system.oom_kills", 0.0),
        ("system.cpu.utilization", 0.1),
        ("system.pressure.cpu", 0.0),
        ("system.cpu.steal", 0.0),
        ("system.filesystem.utilization", 0.5),
        ("system.tcp.listen_overflows", 0.0),
        ("system.network.tcp.retransmit", 0.0),
    ];
    (10..30).step_by(10).fold(script, |script, second| script.sample(second, 1, &values))
}

fn refused_or_full() -> Vec<(&'static str, Script, &'static str)> {
    vec![
        (
            "refused and the unit failed before",
            fails(one().unit(19, 1, FPM, "failed"), "*", REFUSED),
            "service_down",
        ),
        (
            "refused and the unit was killed for memory before",
            fails(one().unit(19, 1, FPM, "failed (oom-kill, restarted once)"), "*", REFUSED),
            "oom",
        ),
        (
            "stopped on purpose: sockets are gone",
            fails(one().unit(19, 1, FPM, "inactive"), "*", NO_SOCKET),
            "service_down",
        ),
        ("refused, nothing known of units", fails(one(), "*", REFUSED), "service_down"),
        ("a pool removed by a reload", fails(two(), "www", NO_SOCKET), "service_down"),
        (
            "backlog full and no child left",
            fails(two().line(21, 1, "php_fpm", LINE_CHILDREN), "www", EAGAIN),
            "overload",
        ),
        ("backlog full alone", fails(two(), "www", EAGAIN), "overload"),
        (
            "a worker that breaks memory rules",
            fails(two().line(21, 1, "php_fpm", LINE_SEGFAULT), "shop03.test", RESET),
            "crash",
        ),
        (
            "workers killed, the kernel killed none",
            fails(calm(one().line(21, 1, "php_fpm", LINE_KILLED)), "*", RESET),
            "crash",
        ),
    ]
}

fn broken_or_slow() -> Vec<(&'static str, Script, &'static str)> {
    vec![
        (
            "workers killed by the kernel",
            fails(
                one().line(20, 1, "kernel", LINE_KERNEL).line(21, 1, "php_fpm", LINE_KILLED),
                "*",
                RESET,
            ),
            "oom",
        ),
        ("a socket nobody may open", fails(two(), "www", PERMISSION), "misconfig"),
        (
            "a PHP that is not installed, after an edit",
            fails(
                two().change(10, 1, "config", "/etc/nginx/sites-enabled/shop05.conf"),
                "shop05.test",
                OLD_PHP,
            ),
            "misconfig",
        ),
        ("a script that hangs", fails(two(), "shop03.test", SLOW), "timeout"),
        (
            "workers ended for being slow",
            fails(two().line(21, 1, "php_fpm", LINE_SLOW), "shop03.test", RESET),
            "timeout",
        ),
        ("a name that does not resolve", fails(one(), "*", NAME), "dns"),
        (
            "a firewall rule dropped the way",
            fails(one().change(15, 1, "firewall", "nft ruleset"), "*", DROPPED),
            "firewall",
        ),
        (
            "a disk without space",
            fails(one().line(20, 1, "nginx", LINE_FULL), "*", RESET),
            "disk_full",
        ),
        ("the application answers 502 itself", fails(two(), "shop03.test", ""), "site_code"),
    ]
}

#[test]
fn causes_follow_from_the_lines_and_the_states_around_them() {
    for (name, script, want) in refused_or_full().into_iter().chain(broken_or_slow()) {
        let incident = script.play(50).only();
        assert_eq!(incident.cause.class, want, "{name}: {:#?}", incident.cause);
        assert!(incident.cause.confidence > 0.3 && incident.cause.confidence <= 1.0, "{name}");
        assert!(!incident.cause.evidence.is_empty(), "{name}");
        assert!(!incident.actions.is_empty(), "{name}");
        let sum: f64 = incident.cause.alternatives.iter().map(|a| a.confidence).sum();
        assert!(sum + incident.cause.confidence <= 1.01, "{name}: {:?}", incident.cause);
    }
}

#[test]
fn evidence_says_why_a_unit_is_down() {
    let script = one().unit(19, 1, FPM, "failed (killed by signal 9, restarted 5 times)");
    let incident = fails(script, "*", REFUSED).play(50).only();
    let texts: Vec<_> = incident.cause.evidence.iter().map(|e| e.text.as_str()).collect();
    let want = "php8.2-fpm.service is failed (killed by signal 9, restarted 5 times)";
    assert!(texts.contains(&want), "{texts:?}");
}

#[test]
fn actions_name_the_servers_own_units_and_sockets() {
    let script = Script::default()
        .server("web-07", &[("www", 6)])
        .unit(-30, 1, "php8.2-fpm.service", "active")
        .unit(19, 1, "php8.2-fpm.service", "failed");
    let incident = outage(script, "*", (20, 60, 60), REFUSED).play(50).only();
    let commands: Vec<_> = incident.actions.iter().filter_map(|a| a.command.as_deref()).collect();
    assert!(commands.contains(&"systemctl status php8.2-fpm.service"), "{commands:?}");
    // Without any unit the socket still names the service.
    let script = outage(two_pools(), "www", (20, 60, 60), NO_SOCKET);
    let incident = script.play(50).only();
    let commands: Vec<_> = incident.actions.iter().filter_map(|a| a.command.as_deref()).collect();
    assert!(commands.contains(&"systemctl start php8.2-fpm.service"), "{commands:?}");
}

#[test]
fn a_change_just_before_is_named_and_one_after_never() {
    let before = outage(two_pools(), "www", (20, 60, 60), NO_SOCKET)
        .change(10, 1, "config", "/etc/php/8.2/fpm/pool.d/www.conf")
        .play(50)
        .only();
    let change = before.change.expect("it is named");
    assert_eq!((change.kind.as_str(), change.at.0), ("config", at(10)));
    assert!(change.score > 0.5 && change.score <= 1.0);
    let after = outage(two_pools(), "www", (20, 60, 60), NO_SOCKET)
        .change(30, 1, "config", "/etc/php/8.2/fpm/pool.d/www.conf")
        .play(50)
        .only();
    assert_eq!(after.change, None);
}

#[test]
fn a_change_of_one_site_accuses_no_other_one() {
    let evidence = |incident: &crate::model::Incident| {
        let is_change = |e: &&crate::model::Evidence| e.kind == "change";
        incident.cause.evidence.iter().filter(is_change).count()
    };
    for kind in ["config", "plugin", "firewall", "package"] {
        let shop = |script: Script| script.change_of(19, "shop03.test", kind, "/srv/x/.htaccess");
        // Its pool, or its whole server, fails: an owner's edit is no reason.
        for place in ["shop", "*"] {
            let outage = outage(two_pools(), place, (20, 60, 60), REFUSED);
            let without = outage.play(50).only();
            let with = shop(outage).play(50).only();
            assert_eq!((&with.change, evidence(&with)), (&None, 0), "{kind} {place}");
            assert_eq!(with.cause, without.cause, "{kind} {place}");
        }
        // Another site fails.
        let other = shop(outage(two_pools(), "shop02.test", (20, 60, 60), REFUSED)).play(50).only();
        assert_eq!((&other.change, evidence(&other)), (&None, 0), "{kind}");
        // The site itself fails.
        let own = shop(outage(two_pools(), "shop03.test", (20, 60, 60), REFUSED)).play(50).only();
        assert_eq!(own.change.map(|c| c.kind).as_deref(), Some(kind));
        // All sites of one document root changed at once, and all of them fail.
        let mut script = outage(two_pools(), "shop", (20, 60, 60), REFUSED);
        for site in ["shop09.test", "shop10.test", "shop11.test", "shop12.test"] {
            script = script.change_of(19, site, kind, "/srv/x/.htaccess");
        }
        let shared = script.play(50).only();
        assert_eq!(shared.change.map(|c| c.kind).as_deref(), Some(kind));
    }
}
