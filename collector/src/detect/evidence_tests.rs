//! The evidence table row by row: what makes each row count, and what does not.

use std::collections::BTreeMap;

use super::cause::{self, Verdict};
use super::cause_scenes::{
    ALL, CLOSED, END, Fails, POOL, SITE, calm, fails, judge, played, pool_of, sampled, server,
};
use super::evidence::Case;
use super::group_scenes::fleet;
use super::script::{Fate, REFUSED, RESET, Script};
use super::table::{self, Class, KEYS};

const FPM: &str = "php8.2-fpm.service";
const CHILDREN: &str = "[pool www] server reached pm.max_children setting (3), consider raising it";
const PROBE: &str =
    "cannot connect to /run/php/php8.2-fpm-www.sock (connection refused), used by 8 sites";

/// Rows that apply, with their weights.
fn rows(script: &Script, scope: &str) -> BTreeMap<&'static str, f64> {
    let (engine, members, first) = played(script);
    let pool = pool_of(&engine, scope, &members);
    let case = Case::new(&engine.fleet, scope, &members, pool, first);
    let applied = case.collect();
    let rows: BTreeMap<_, _> = applied.iter().map(|a| (a.key, a.weight)).collect();
    assert_eq!(rows.len(), applied.len(), "each row once: {applied:#?}");
    rows
}

fn says(text: &'static [&'static str]) -> Script {
    fails(server(), Fails { texts: text, ..ALL })
}

fn line(source: &str, text: &str) -> Script {
    says(&[CLOSED]).line(20, 1, source, text)
}

fn level(metric: &'static str, value: f64) -> Script {
    sampled(says(&[CLOSED]), 1, &[(metric, value)])
}

fn change(kind: &str, what: &str) -> Script {
    says(&[CLOSED]).change(15, 1, kind, what)
}

/// What shows each row, on a server whose 12 sites fail.
#[expect(clippy::too_many_lines, reason = "a table: one entry after the other")]
fn shows() -> Vec<(&'static str, Script)> {
    let pre = |text: &'static str| Box::leak(Box::new([text])) as &'static [&'static str];
    let said = |text: &'static str| says(pre(text));
    let mut shows: Vec<(&'static str, Script)> = [
        ("connect_refused", "connect() failed (111: Connection refused) while connecting to upstream"),
        ("no_such_socket", "connect() to unix:/x failed (2: No such file or directory) while connecting to upstream"),
        ("permission", "connect() to unix:/x failed (13: Permission denied) while connecting to upstream"),
        ("backlog_full", "connect() to unix:/x failed (11: Resource temporarily unavailable) while connecting to upstream"),
        ("premature_close", "upstream prematurely closed connection while reading response header from upstream"),
        ("reset", "recv() failed (104: Connection reset by peer) while reading response header from upstream"),
        ("timeout_read", "upstream timed out (110: Connection timed out) while reading response header from upstream"),
        ("connect_timeout", "upstream timed out (110: Connection timed out) while connecting to upstream"),
        ("unreachable", "connect() failed (113: No route to host) while connecting to upstream"),
        ("dns", "app.internal could not be resolved (3: Host not found)"),
        ("no_live_upstreams", "no live upstreams while connecting to upstream"),
        ("disk_full", "writev() \"/var/x\" failed (28: No space left on device)"),
        ("too_big_header", "upstream sent too big header while reading response header from upstream"),
        ("invalid_header", "upstream sent invalid header: \"x\" while reading response header from upstream"),
        ("tls", "upstream SSL certificate verify error: (10:certificate has expired) while SSL handshaking to upstream"),
        ("worker_connections", "1024 worker_connections are not enough while connecting to upstream"),
        ("server_down", "Server app/s1 is DOWN, reason: Layer4 timeout"),
        ("silent", ""),
    ]
    .into_iter()
    .map(|(key, text)| (key, said(text)))
    .collect();
    shows.extend([
        ("too_many_connections", line("mysql", "[Warning] Too many connections")),
        (
            "memory_limit",
            said("PHP message: PHP Fatal error:  Allowed memory size of 16 bytes exhausted"),
        ),
        (
            "worker_killed",
            line("php_fpm", "[pool www] child 67 exited on signal 9 (SIGKILL) after 0.7 seconds"),
        ),
        (
            "worker_timeout",
            line(
                "php_fpm",
                "[pool www] child 31, script '/x' execution timed out (2.0 sec), terminating",
            ),
        ),
        ("segfault", line("kernel", "php-fpm[4711]: segfault at 0 ip 00007f sp 00007f error 4")),
        ("oom_kill", level("system.oom_kills", 2.0)),
        ("oom_kill", line("kernel", "Out of memory: Killed process 42 (backup) total-vm:1kB")),
        ("memory_pressure", level("system.pressure.memory", 0.2)),
        ("memory_low", level("system.memory.utilization", 0.93)),
        ("cpu_busy", level("system.cpu.utilization", 0.9)),
        ("cpu_pressure", level("system.pressure.cpu", 0.3)),
        ("steal", level("system.cpu.steal", 0.2)),
        ("io_pressure", level("system.pressure.io", 0.2)),
        ("max_children", level("phpfpm.max_children_reached", 3.0)),
        ("max_children", level("phpfpm.listen_queue", 1.0)),
        ("max_children", line("php_fpm", CHILDREN)),
        ("listen_overflow", level("system.tcp.listen_overflows", 40.0)),
        ("conntrack", level("system.conntrack.utilization", 0.7)),
        ("retransmit", level("system.network.tcp.retransmit", 0.1)),
        ("file_system_full", level("system.filesystem.utilization", 0.995)),
        ("file_system_full", level("system.filesystem.inodes.utilization", 0.995)),
        ("upstream_down", level("gatewatch.upstream.up", 0.0)),
        ("top_client", level("http.server.request.top_client.share", 0.8)),
        ("crawler", level("http.server.request.crawler.share", 0.8)),
        ("unit_down", says(&[CLOSED]).unit(19, 1, FPM, "failed")),
        (
            "attack_refused",
            line("modsecurity", "500 requests to shop01.test blocked by ModSecurity within 10 s"),
        ),
        (
            "packets_dropped",
            line(
                "firewall",
                "firewall dropped 9 packets between here and 10.0.0.1:8080 within 10 s",
            ),
        ),
        ("change_package", change("package", "php8.2-fpm 8.2.7 to 8.2.29")),
        ("change_config", change("config", "/etc/nginx/nginx.conf")),
        ("change_firewall", change("firewall", "nft ruleset changed")),
        ("change_restart", change("restart", "nginx.service reloaded")),
        ("change_boot", change("boot", "machine booted, kernel 6.1.0-18 to 6.1.0-21")),
        ("change_dns", change("dns", "app.internal: 10.0.0.1 to 10.0.0.9")),
        ("change_certificate", change("certificate", "/etc/ssl/app.pem renewed")),
        ("change_schedule", change("schedule", "/etc/cron.d/backup")),
        ("change_clock", change("clock", "machine was paused for 40 s")),
    ]);
    shows
}

#[test]
fn every_row_of_the_table_counts_once_when_it_is_shown() {
    let mut met = Vec::new();
    for (key, script) in shows() {
        let applied = rows(&script, "server");
        assert!(applied.contains_key(key), "{key}: {applied:?}");
        met.push(key);
    }
    // What only one site shows, and what needs a norm of the hour.
    let own = |kind: &str, what: &str| {
        let script = fails(server(), SITE).change_of(17, "shop03.test", kind, what);
        rows(&script, "site")
    };
    assert!(own("plugin", "woocommerce 8.1 to 8.2").contains_key("change_plugin"));
    let edit = own("config", "/etc/nginx/sites-enabled/shop03.conf");
    assert!(edit.contains_key("change_config_own") && !edit.contains_key("change_config"));
    assert!(own("config", "/srv/shop03/.htaccess").contains_key("change_config"));
    // Twenty times the requests, from a little before the first failure on.
    let calm = server().run(-59, 15, 1, |_, _| Fate::Ok);
    let surge = calm.run(
        15,
        END,
        20,
        |_, second| {
            if second < 20 { Fate::Ok } else { Fate::Fail(502, CLOSED) }
        },
    );
    assert!(rows(&surge, "server").contains_key("surge"), "{:?}", rows(&surge, "server"));
    met.extend(["change_plugin", "change_config_own", "surge"]);
    let missing: Vec<_> = KEYS.iter().filter(|key| !met.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn error_lines_count_by_their_share_and_as_three_at_most() {
    let mixed = rows(&says(&[REFUSED, RESET, REFUSED, REFUSED]), "server");
    let (refused, reset) = (mixed["connect_refused"], mixed["reset"]);
    assert!((refused + reset - 3.0).abs() < 1e-9, "{mixed:?}");
    assert!((refused - 2.25).abs() < 0.2, "{mixed:?}");
}

#[test]
fn one_server_that_writes_much_does_not_speak_for_the_others() {
    // Of five servers one has ten times the traffic and another error.
    let loud = |script: Script| {
        script.run(20, END, 60, |def, _| {
            let text = RESET;
            if def.site.0 <= 4 { Fate::Fail(502, text) } else { Fate::Idle }
        })
    };
    let script = loud(fails(fleet(), Fails { until: 20, status: 502, texts: &[REFUSED] }));
    let applied = rows(&script, "group");
    assert!(applied["reset"] < 0.7, "{applied:?}");
    assert!(applied["connect_refused"] > 2.3, "{applied:?}");
}

#[test]
fn what_few_of_the_servers_show_says_nothing_about_the_group() {
    let texts: &'static [&'static str] = &[CLOSED];
    let with = |n: i64| {
        let group = fails(fleet(), Fails { until: 20, status: 502, texts });
        let script = (1..=n).fold(group, |s, n| {
            sampled(s.unit(19, n, FPM, "failed"), n, &[("system.cpu.steal", 0.5)])
        });
        rows(&script, "group")
    };
    let (one, two) = (with(1), with(2));
    for key in ["unit_down", "steal"] {
        assert!(!one.contains_key(key) && two.contains_key(key), "{key}: {one:?} {two:?}");
    }
}

#[test]
fn a_signal_counts_only_if_it_began_with_the_failures() {
    let late = says(&[CLOSED])
        .sample(20, 1, &[("system.cpu.steal", 0.0)])
        .sample(31, 1, &[("system.cpu.steal", 0.5)])
        .line(31, 1, "kernel", "php-fpm[4711]: segfault at 0 ip 00007f sp 00007f error 4")
        .change(23, 1, "config", "/etc/nginx/nginx.conf");
    let applied = rows(&late, "server");
    for key in ["steal", "segfault", "change_config"] {
        assert!(!applied.contains_key(key), "{key}: {applied:?}");
    }
    // It speaks neither for steal nor, as something normal, against it.
    let verdict = judge(&late, "server");
    assert!(!verdict.evidence.iter().any(|e| e.text.contains("processor time")), "{verdict:?}");
}

#[test]
fn absence_counts_only_where_it_was_sampled() {
    let bare = |script: Script| fails(script, Fails { texts: &[CLOSED], ..ALL });
    let plain = Script::default().server("web-07", &[("www", 8), ("shop", 4)]);
    let normal = |script: &Script, scope: &str| {
        let (engine, members, first) = played(script);
        let case = Case::new(&engine.fleet, scope, &members, None, first);
        case.normal().map(|applied| [Class::Oom, Class::Crash].map(|class| applied.nats.of(class)))
    };
    assert_eq!(normal(&bare(plain.clone()), "server"), None, "nothing was sampled");
    let some = plain.sample(10, 1, &[("system.oom_kills", 1.0)]);
    assert_eq!(normal(&bare(some), "server"), Some([-2.0, 0.0]), "the counter alone");
    let all = sampled(bare(server()), 1, &[]);
    assert_eq!(normal(&all, "server"), Some([-2.0, 0.2]));
    assert_eq!(normal(&all, "site"), None, "one site says nothing about the machine");
    let killed = sampled(bare(calm(server(), 1)), 1, &[("system.oom_kills", 2.0)]);
    assert_eq!(normal(&killed, "server"), Some([0.0, 0.0]));
}

#[test]
fn what_the_agent_could_not_connect_to_is_not_counted_beside_the_line_that_says_so() {
    let logged = says(&[REFUSED]);
    let verdict = |script: &Script| {
        let Verdict { class, score, .. } = judge(script, "server");
        (class, score)
    };
    let both = logged.clone().line(21, 1, "probe", PROBE);
    assert_eq!(rows(&logged, "server"), rows(&both, "server"));
    assert_eq!(verdict(&logged), verdict(&both));
    // Without an error line the look of the agent is all there is: no application answered.
    let silent = fails(server(), Fails { texts: &[""], ..POOL });
    assert_eq!(judge(&silent, "pool").class, Some(Class::SiteCode));
    let named = PROBE.replace("/run/php/php8.2-fpm-www.sock", "www");
    let probed = silent.clone().line(21, 1, "probe", &named);
    assert_eq!(rows(&probed, "pool").get("connect_refused"), Some(&2.0));
    assert_eq!(judge(&probed, "pool").class, Some(Class::ServiceDown));
    // The backend of somebody else is no concern, and what answers again is none either.
    let other = silent.clone().line(21, 1, "probe", &PROBE.replace("-www", "-blog"));
    assert_eq!(rows(&other, "pool"), rows(&silent, "pool"));
    let again = silent.clone().line(21, 1, "probe", "www can be connected to again after 6 s");
    assert_eq!(rows(&again, "pool"), rows(&silent, "pool"));
}

#[test]
fn rules_come_before_the_sums_in_their_order_and_are_shown_with_what_they_add() {
    let full = "[crit] 37#37: *12 pwrite() \"/x\" failed (28: No space left on device)";
    let kill = "Out of memory: Killed process 4242 (php-fpm8.2) total-vm:512000kB";
    let down = || says(&[REFUSED]).unit(19, 1, FPM, "failed");
    let oom = || down().line(20, 1, "kernel", kill);
    let space = oom().line(20, 1, "nginx", full);
    for (script, want) in
        [(down(), Class::ServiceDown), (oom(), Class::Oom), (space.clone(), Class::DiskFull)]
    {
        let verdict = judge(&script, "server");
        assert_eq!(verdict.class, Some(want));
        assert!(verdict.confidence > 0.98 && verdict.margin >= 4.5, "{verdict:?}");
        let sum: f64 = verdict.evidence.iter().map(|e| e.weight).sum();
        assert!((sum - verdict.score).abs() < 1e-6);
    }
    // A kill of something else, and a unit that failed because of the outage, are no rules.
    let other = says(&[CLOSED]).line(20, 1, "kernel", "Out of memory: Killed process 1 (backup)");
    assert!(judge(&other, "server").margin < 4.5);
    let after = says(&[RESET]).unit(25, 1, FPM, "failed");
    assert!(judge(&after, "server").confidence < 0.98);
}

#[test]
fn nothing_decides_is_unknown_and_little_is_probable() {
    let (engine, members, first) = played(&says(&["something nobody has ever seen"]));
    let verdict = cause::assess_as(&engine.fleet, "server", &members, None, first);
    assert_eq!((verdict.class, verdict.confidence), (None, 0.0));
    assert_eq!(verdict.to_cause().class, "unknown");
    let sum: f64 = verdict.evidence.iter().map(|e| e.weight).sum();
    assert!((sum - verdict.score).abs() < 1e-6);
    assert!(table::row("reset").nats.of(Class::Crash) > 0.0);
}

#[test]
fn a_new_rule_of_the_packet_filter_explains_refusals_of_other_machines_alone() {
    let far = "connect() failed (111: Connection refused) while connecting to upstream, upstream: \"http://10.0.0.1:8080/\", host: \"a\"";
    let near = "connect() failed (111: Connection refused) while connecting to upstream, upstream: \"http://127.0.0.1:8080/\", host: \"a\"";
    let class = |text: &'static str, at: i64| {
        let texts = Box::leak(Box::new([text])) as &'static [&'static str];
        let script = says(texts).change(at, 1, "firewall", "nft ruleset changed");
        judge(&script, "server").class
    };
    assert_eq!(class(far, 14), Some(Class::Firewall));
    assert_eq!(class(near, 14), Some(Class::ServiceDown));
    assert_eq!(class(far, -300), Some(Class::ServiceDown), "that was long before");
    let down = says(&[REFUSED]).change(14, 1, "firewall", "nft ruleset changed");
    let down = down.unit(19, 1, FPM, "failed");
    assert_eq!(judge(&down, "server").class, Some(Class::ServiceDown));
}

#[test]
fn a_process_that_crashes_again_and_again_is_a_crash() {
    let texts: &'static [&'static str] = &[
        CLOSED,
        "connect() failed (111: Connection refused) while connecting to upstream, upstream: \"http://127.0.0.1:3005/\", host: \"a\"",
    ];
    let site = fails(server(), Fails { texts, ..SITE });
    assert_eq!(judge(&site, "site").class, Some(Class::Crash));
}
