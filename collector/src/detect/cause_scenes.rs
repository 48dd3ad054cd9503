//! Whole outages as servers show them, and the cause each has: written from recorded faults, not from
//! the evidence table, so that they judge it.

use super::Engine;
use super::cause::{self, Verdict};
use super::script::{EAGAIN, Fate, NO_SOCKET, REFUSED, RESET, Script};
use crate::config::DetectConfig;
use crate::incident::story::shared_pool;
use wire::UnixMillis;

pub(crate) const FPM: &str = "php8.2-fpm.service";
/// First failure and end of a scene, seconds.
pub(crate) const START: i64 = 20;
pub(crate) const END: i64 = 45;

// Error lines of gateways.
pub(crate) const PERMISSION: &str = "connect() to unix:/run/php/php8.2-fpm-www.sock failed (13: Permission denied) while connecting to upstream, client: 203.0.113.4, server: shop06.test, upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock:\", host: \"shop06.test\"";
pub(crate) const OLD_PHP: &str = "connect() to unix:/run/php/php7.4-fpm.sock failed (2: No such file or directory) while connecting to upstream, client: 203.0.113.8, server: shop05.test, upstream: \"fastcgi://unix:/run/php/php7.4-fpm.sock:\", host: \"shop05.test\"";
pub(crate) const REFUSED_APP: &str = "connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.8, server: shop02.test, upstream: \"http://127.0.0.1:3002/contact\", host: \"shop02.test\"";
pub(crate) const REFUSED_FAR: &str = "connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.3, server: shop01.test, upstream: \"http://10.0.0.1:8080/shop/\", host: \"shop01.test\"";
pub(crate) const SLOW: &str = "upstream timed out (110: Connection timed out) while reading response header from upstream, client: 203.0.113.1, server: shop11.test, upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock\", host: \"shop11.test\"";
pub(crate) const CLOSED: &str = "upstream prematurely closed connection while reading response header from upstream, client: 203.0.113.3, server: shop05.test, upstream: \"http://127.0.0.1:3005/product/3326\", host: \"shop05.test\"";
pub(crate) const NO_HTTP: &str = "upstream sent no valid HTTP/1.0 header while reading response header from upstream, client: 203.0.113.3, server: shop05.test, upstream: \"http://127.0.0.1:3005/\", host: \"shop05.test\"";
pub(crate) const BIG: &str = "upstream sent too big header while reading response header from upstream, client: 203.0.113.3, server: shop05.test, upstream: \"fastcgi://unix:/run/php/php8.2-fpm-www.sock:\", host: \"shop05.test\"";
pub(crate) const NAME: &str = "app.internal could not be resolved (3: Host not found), client: 203.0.113.1, server: shop06.test, host: \"shop06.test\"";
pub(crate) const RESOLVER: &str = "app.internal could not be resolved (110: Operation timed out), client: 203.0.113.4, server: shop02.test, host: \"shop02.test\"";
pub(crate) const NONE_LEFT: &str = "no live upstreams while connecting to upstream, client: 203.0.113.3, server: shop01.test, upstream: \"http://app/\", host: \"shop01.test\"";
pub(crate) const DROPPED: &str = "upstream timed out (110: Connection timed out) while connecting to upstream, client: 203.0.113.5, server: shop02.test, upstream: \"http://10.0.0.1:8080/\", host: \"shop02.test\"";
pub(crate) const NO_ROUTE: &str = "connect() failed (113: No route to host) while connecting to upstream, client: 203.0.113.5, server: shop02.test, upstream: \"http://10.0.0.1:8080/\", host: \"shop02.test\"";
pub(crate) const APACHE_GONE: &str = "(2)No such file or directory: AH02454: FCGI: attempt to connect to Unix domain socket /run/php/php8.2-fpm-www.sock (shop01.test:8000) failed";
pub(crate) const TOO_FEW: &str = "1024 worker_connections are not enough while connecting to upstream, client: 203.0.113.5, server: shop02.test, host: \"shop02.test\"";
pub(crate) const TLS: &str = "peer closed connection in SSL handshake (104: Connection reset by peer) while SSL handshaking to upstream, client: 203.0.113.5, server: shop02.test, upstream: \"https://10.0.0.1:8443/\", host: \"shop02.test\"";
// Lines of other logs.
pub(crate) const KILLED_FPM: &str =
    "Out of memory: Killed process 4242 (php-fpm8.2) total-vm:512000kB, anon-rss:401000kB";
pub(crate) const KILLED_DB: &str =
    "Out of memory: Killed process 911 (mariadbd) total-vm:4120000kB, anon-rss:3010000kB";
pub(crate) const SIGNAL_9: &str =
    "[pool www] child 67 exited on signal 9 (SIGKILL) after 0.731047 seconds from start";
pub(crate) const SIGNAL_11: &str =
    "[pool www] child 43 exited on signal 11 (SIGSEGV) after 1.259416 seconds from start";
pub(crate) const SEGFAULT: &str = "php-fpm8.2[4711]: segfault at 0 ip 00007f2c8a sp 00007ffd error 4 in opcache.so[7f2c8a000000+5000]";
pub(crate) const CHILDREN: &str =
    "[pool www] server reached pm.max_children setting (3), consider raising it";
pub(crate) const ENDED: &str = "[pool www] child 31, script '/var/www/shop12.test/index.php' (request: \"GET /index.php\") execution timed out (2.068746 sec), terminating";
pub(crate) const NO_SPACE: &str = "[crit] 37#37: *12 pwrite() \"/var/lib/nginx/body/0000000012\" failed (28: No space left on device) while reading upstream";
pub(crate) const PROBE_REFUSED: &str =
    "cannot connect to 10.0.0.1:8080 (connection refused), used by 8 sites";
pub(crate) const PROBE_NAME: &str =
    "cannot resolve app.internal (the name has no address), used by 8 sites";
pub(crate) const DROPS: &str =
    "firewall dropped 340 packets between here and 10.0.0.1:8080 within 10 s";

/// One outage.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) want: &'static str,
    pub(crate) scope: &'static str,
    pub(crate) script: Script,
}

/// What the gateways write about the failing sites: texts in turns.
#[derive(Clone, Copy)]
pub(crate) struct Fails {
    /// Sites 1 to this one fail; 0 only site 3.
    pub(crate) until: i64,
    pub(crate) status: u16,
    pub(crate) texts: &'static [&'static str],
}

pub(crate) fn fails(script: Script, fails: Fails) -> Script {
    script.run(0, END, 5, move |def, second| {
        let hit = if fails.until == 0 { def.site.0 == 3 } else { def.site.0 <= fails.until };
        let text = fails.texts[(second % fails.texts.len() as i64) as usize];
        if hit && second >= START { Fate::Fail(fails.status, text) } else { Fate::Ok }
    })
}

/// One server with two pools of 8 and 4 sites, all resources sampled and normal before and after.
pub(crate) fn server() -> Script {
    calm(Script::default().server("web-07", &[("www", 8), ("shop", 4)]), 1)
        .unit(-30, 1, FPM, "active")
}

pub(crate) fn calm(script: Script, server: i64) -> Script {
    script.sample(0, server, &NORMAL).sample(10, server, &NORMAL)
}

const NORMAL: [(&str, f64); 10] = [
    ("system.oom_kills", 1.0),
    ("system.cpu.utilization", 0.2),
    ("system.pressure.cpu", 0.02),
    ("system.pressure.memory", 0.0),
    ("system.memory.utilization", 0.5),
    ("system.cpu.steal", 0.0),
    ("system.filesystem.utilization", 0.5),
    ("system.tcp.listen_overflows", 4.0),
    ("system.network.tcp.retransmit", 0.001),
    ("phpfpm.max_children_reached", 2.0),
];

/// The next samples, but for these values.
pub(crate) fn sampled(script: Script, server: i64, values: &[(&'static str, f64)]) -> Script {
    let value = |(name, normal): &(&'static str, f64)| {
        let other = values.iter().find(|(k, _)| k == name);
        (*name, other.map_or(*normal, |(_, value)| *value))
    };
    let mut all: Vec<_> = NORMAL.iter().map(value).collect();
    all.extend(values.iter().filter(|(k, _)| NORMAL.iter().all(|(name, _)| name != k)));
    script.sample(20, server, &all).sample(30, server, &all)
}

pub(crate) fn one(
    name: &'static str,
    want: &'static str,
    scope: &'static str,
    script: Script,
) -> Scene {
    Scene { name, want, scope, script }
}

pub(crate) const ALL: Fails = Fails { until: 12, status: 502, texts: &[REFUSED] };
pub(crate) const POOL: Fails = Fails { until: 8, status: 502, texts: &[REFUSED] };
pub(crate) const SITE: Fails = Fails { until: 0, status: 502, texts: &[REFUSED] };

#[expect(clippy::too_many_lines, reason = "a table: one entry after the other")]
fn of_servers() -> Vec<Scene> {
    let all =
        |texts: &'static [&'static str], script: Script| fails(script, Fails { texts, ..ALL });
    let cpu: &[(&str, f64)] = &[("system.cpu.utilization", 0.97), ("system.pressure.cpu", 0.6)];
    let flood: &[(&str, f64)] = &[
        ("system.cpu.utilization", 0.97),
        ("system.tcp.listen_overflows", 900.0),
        ("system.conntrack.utilization", 0.8),
    ];
    let busy = |script, values| sampled(script, 1, values);
    let quiet = |script| sampled(script, 1, &[]);
    vec![
        one(
            "php stopped by hand",
            "service_down",
            "server",
            all(&[NO_SOCKET], quiet(server().unit(19, 1, FPM, "inactive"))),
        ),
        one(
            "php failed, the stream holds only its failure",
            "service_down",
            "server",
            all(
                &[REFUSED],
                quiet(
                    calm(Script::default().server("web-07", &[("www", 8), ("shop", 4)]), 1)
                        .unit(19, 1, FPM, "failed"),
                ),
            ),
        ),
        one(
            "php gone, no unit is known",
            "service_down",
            "server",
            all(&[NO_SOCKET], quiet(server())),
        ),
        one(
            "php behind Apache gone",
            "service_down",
            "server",
            all(&[APACHE_GONE], quiet(server().unit(19, 1, FPM, "inactive"))),
        ),
        one(
            "php killed for memory, its log says so",
            "oom",
            "server",
            all(
                &[REFUSED],
                sampled(
                    server().line(19, 1, "kernel", KILLED_FPM).unit(19, 1, FPM, "failed"),
                    1,
                    &[("system.oom_kills", 2.0)],
                ),
            ),
        ),
        one(
            "php killed for memory, only the counter says so",
            "oom",
            "server",
            all(
                &[REFUSED],
                busy(
                    server().unit(19, 1, FPM, "failed"),
                    &[("system.oom_kills", 2.0), ("system.memory.utilization", 0.97)],
                ),
            ),
        ),
        one(
            "workers killed for memory again and again",
            "oom",
            "server",
            all(
                &[RESET],
                busy(
                    server().line(21, 1, "php_fpm", SIGNAL_9),
                    &[("system.oom_kills", 3.0), ("system.pressure.memory", 0.4)],
                ),
            ),
        ),
        one(
            "the database was killed for memory and pages answer 502",
            "oom",
            "server",
            all(
                &[""],
                busy(server().line(19, 1, "kernel", KILLED_DB), &[("system.oom_kills", 2.0)]),
            ),
        ),
        one(
            "a database that was stopped, and pages answer 502",
            "service_down",
            "server",
            all(
                &[""],
                quiet(server().unit(-30, 1, "mariadb.service", "active").unit(
                    18,
                    1,
                    "mariadb.service",
                    "inactive",
                )),
            ),
        ),
        one(
            "more requests than processors",
            "overload",
            "server",
            all(&[EAGAIN, SLOW], busy(server().line(19, 1, "php_fpm", CHILDREN), cpu)),
        ),
        one("a flood", "ddos", "server", all(&[EAGAIN, SLOW], busy(server(), flood))),
        one(
            "a flood that uses up connections",
            "ddos",
            "server",
            all(
                &[TOO_FEW],
                busy(
                    server(),
                    &[
                        ("system.tcp.listen_overflows", 400.0),
                        ("system.conntrack.utilization", 0.9),
                    ],
                ),
            ),
        ),
        one(
            "processors taken away",
            "steal",
            "server",
            all(
                &[SLOW, EAGAIN],
                busy(server(), &[("system.cpu.steal", 0.45), ("system.pressure.cpu", 0.5)]),
            ),
        ),
        one(
            "a disk that is full, by its level",
            "disk_full",
            "server",
            all(&[CLOSED], busy(server(), &[("system.filesystem.utilization", 1.0)])),
        ),
        one(
            "a disk that is full, by a line",
            "disk_full",
            "server",
            all(&[CLOSED], quiet(server().line(20, 1, "nginx", NO_SPACE))),
        ),
        one(
            "an extension that breaks every worker",
            "crash",
            "server",
            all(
                &[RESET],
                quiet(server().line(20, 1, "kernel", SEGFAULT).line(20, 1, "php_fpm", SIGNAL_11)),
            ),
        ),
        one(
            "a rule drops the way to the backend",
            "firewall",
            "server",
            all(&[DROPPED], quiet(server().change(12, 1, "firewall", "nft ruleset changed"))),
        ),
        one(
            "packets are seen to be dropped",
            "firewall",
            "server",
            all(&[DROPPED], quiet(server().line(24, 1, "firewall", DROPS))),
        ),
        one(
            "a rule refuses the way",
            "firewall",
            "server",
            all(
                &[DROPPED, NO_ROUTE],
                quiet(server().change(15, 1, "firewall", "firewalld reloaded")),
            ),
        ),
        one(
            "a link that loses packets",
            "network",
            "server",
            all(&[DROPPED], busy(server(), &[("system.network.tcp.retransmit", 0.3)])),
        ),
        one(
            "a machine that is gone, packets sent again",
            "network",
            "server",
            all(&[NO_ROUTE], busy(server(), &[("system.network.tcp.retransmit", 0.2)])),
        ),
        one("a name that is gone", "dns", "server", all(&[NAME], quiet(server()))),
        one(
            "a resolver that is silent",
            "dns",
            "server",
            all(&[RESOLVER, NONE_LEFT], quiet(server())),
        ),
        one(
            "every backend refused, then none is left",
            "service_down",
            "server",
            all(&[REFUSED_FAR, NONE_LEFT], quiet(server())),
        ),
        one(
            "none is left, the agent's look was refused",
            "service_down",
            "server",
            all(&[NONE_LEFT, REFUSED_FAR], quiet(server().line(22, 1, "probe", PROBE_REFUSED))),
        ),
        one(
            "a disk so slow that pages wait",
            "timeout",
            "server",
            fails(
                busy(server(), &[("system.pressure.io", 0.6)]),
                Fails { status: 504, texts: &[SLOW], ..ALL },
            ),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table: one entry after the other")]
fn of_pools_and_sites() -> Vec<Scene> {
    let pool =
        |texts: &'static [&'static str], script: Script| fails(script, Fails { texts, ..POOL });
    let site =
        |texts: &'static [&'static str], script: Script| fails(script, Fails { texts, ..SITE });
    let late = |until, script| fails(script, Fails { until, status: 504, texts: &[SLOW] });
    let quiet = |script| sampled(script, 1, &[]);
    let no_child: &[(&str, f64)] =
        &[("phpfpm.max_children_reached", 5.0), ("phpfpm.listen_queue", 40.0)];
    vec![
        one(
            "a pool without a free child",
            "overload",
            "pool",
            pool(&[EAGAIN], sampled(server().line(18, 1, "php_fpm", CHILDREN), 1, no_child)),
        ),
        one(
            "a pool without a free child, only counted",
            "overload",
            "pool",
            pool(&[EAGAIN], sampled(server(), 1, no_child)),
        ),
        one("a pool that waits for a slow database", "timeout", "pool", late(8, quiet(server()))),
        one(
            "a pool lost in a reload",
            "service_down",
            "pool",
            pool(&[NO_SOCKET, RESET], quiet(server())),
        ),
        one(
            "a pool's socket nobody may open, after an edit",
            "misconfig",
            "pool",
            pool(
                &[PERMISSION],
                quiet(server().change(15, 1, "config", "/etc/php/8.2/fpm/pool.d/www.conf")),
            ),
        ),
        one(
            "workers of a pool crash",
            "crash",
            "pool",
            pool(&[RESET], quiet(server().line(21, 1, "php_fpm", SIGNAL_11))),
        ),
        one(
            "workers of a pool killed for memory",
            "oom",
            "pool",
            pool(
                &[RESET],
                sampled(
                    server().line(20, 1, "kernel", KILLED_FPM).line(20, 1, "php_fpm", SIGNAL_9),
                    1,
                    &[("system.oom_kills", 4.0)],
                ),
            ),
        ),
        one(
            "an application's process died",
            "service_down",
            "site",
            site(&[REFUSED_APP], quiet(server())),
        ),
        one(
            "a proxy points at a port nobody listens on, after an edit",
            "misconfig",
            "site",
            site(
                &[REFUSED_APP],
                quiet(server().change_of(
                    17,
                    "shop03.test",
                    "config",
                    "/etc/nginx/sites-enabled/shop03.conf",
                )),
            ),
        ),
        one(
            "a site that wants an old PHP, after an edit",
            "misconfig",
            "site",
            site(
                &[OLD_PHP],
                quiet(server().change_of(
                    14,
                    "shop03.test",
                    "config",
                    "/etc/nginx/sites-enabled/shop03.conf",
                )),
            ),
        ),
        one(
            "a site's plugin breaks workers",
            "crash",
            "site",
            site(&[RESET], quiet(server().line(21, 1, "php_fpm", SIGNAL_11))),
        ),
        one("a site hangs", "timeout", "site", late(0, quiet(server()))),
        one(
            "a site's scripts are ended",
            "timeout",
            "site",
            site(&[RESET], quiet(server().line(21, 1, "php_fpm", ENDED))),
        ),
        one("the application answers 502", "site_code", "site", site(&[""], quiet(server()))),
        one(
            "an application that closes, after an update",
            "site_code",
            "site",
            site(
                &[CLOSED],
                quiet(server().change_of(5, "shop03.test", "plugin", "woocommerce 8.1 to 8.2")),
            ),
        ),
        one(
            "an application that answers no HTTP",
            "site_code",
            "site",
            site(&[NO_HTTP], quiet(server())),
        ),
        one("headers larger than the buffer", "misconfig", "pool", pool(&[BIG], quiet(server()))),
        one(
            "TLS to the backend broken by an edit",
            "misconfig",
            "site",
            site(
                &[TLS],
                quiet(server().change_of(
                    15,
                    "shop03.test",
                    "config",
                    "/etc/nginx/sites-enabled/shop03.conf",
                )),
            ),
        ),
        one("a site whose upstream's name is gone", "dns", "site", site(&[NAME], quiet(server()))),
        one(
            "a full disk that one site meets",
            "disk_full",
            "site",
            site(&[NO_SPACE], quiet(server())),
        ),
    ]
}

/// A script played to its end: the engine, its failing sites, their first failure.
pub(crate) fn played(script: &Script) -> (Engine, Vec<u32>, i64) {
    played_until(script, END)
}

fn played_until(script: &Script, end: i64) -> (Engine, Vec<u32>, i64) {
    let mut engine = Engine::new(&DetectConfig::default());
    let mut acted = i64::MIN;
    for (arrived, record) in script.in_order() {
        if arrived > super::script::at(end) {
            break;
        }
        // The cause alone is looked at: no need to open incidents on every tick.
        if arrived > acted + 5_000 {
            engine.advance(UnixMillis(arrived - 1));
            acted = arrived;
        }
        engine.fold(UnixMillis(arrived), &record);
    }
    engine.advance(UnixMillis(super::script::at(end)));
    let failing = |ix: &u32| engine.fleet.site(*ix).episode.is_some();
    let members: Vec<u32> = (0..script.sites.len() as u32).filter(failing).collect();
    let first = |ix: &u32| engine.fleet.site(*ix).episode.as_ref().map(|episode| episode.first_at);
    let first = members.iter().filter_map(first).min().expect("something fails");
    (engine, members, first)
}

/// The pool that a scope names.
pub(crate) fn pool_of(engine: &Engine, scope: &str, members: &[u32]) -> Option<String> {
    matches!(scope, "pool" | "site").then(|| shared_pool(&engine.fleet, members))?
}

/// What the evidence says of the failing sites of a scene, at its scope.
pub(crate) fn judge(script: &Script, scope: &str) -> Verdict {
    judge_until(script, scope, END)
}

fn judge_until(script: &Script, scope: &str, end: i64) -> Verdict {
    let (engine, members, first) = played_until(script, end);
    let pool = pool_of(&engine, scope, &members);
    cause::assess_as(&engine.fleet, scope, &members, pool, first)
}

/// What is shown adds up: the weights to the score, and the confidences to the margin.
fn adds_up(name: &str, verdict: &Verdict) {
    let sum: f64 = verdict.evidence.iter().map(|evidence| evidence.weight).sum();
    assert!((sum - verdict.score).abs() < 1e-6, "{name}: {sum} is not {}", verdict.score);
    let all: f64 = verdict.alternatives.iter().map(|(_, c)| c).sum::<f64>() + verdict.confidence;
    assert!(all < 1.003, "{name}: {all}");
    if let (Some(_), Some((_, second))) = (verdict.class, verdict.alternatives.first()) {
        // Confidences are rounded to thousandths: of a small one little is left.
        let lead = (verdict.confidence / second).ln();
        let lost = 0.0006 / second + 0.0006 / verdict.confidence;
        assert!((lead - verdict.margin).abs() <= lost, "{name}: {lead} {}", verdict.margin);
    }
}

fn scenes() -> Vec<Scene> {
    let all = of_servers().into_iter().chain(of_pools_and_sites());
    all.chain(super::group_scenes::of_groups()).collect()
}

/// Shares of scenes whose cause is the first guess, one of the first two; what was guessed wrong.
fn shares(judge: &dyn Fn(&Scene) -> Verdict) -> (f64, f64, Vec<String>) {
    let (scenes, mut wrong, mut n_two) = (scenes(), Vec::new(), 0);
    for scene in &scenes {
        let verdict = judge(scene);
        adds_up(scene.name, &verdict);
        let first = verdict.class.map_or("unknown", super::table::Class::name);
        let second = verdict.alternatives.first().map_or("", |(class, _)| class.name());
        n_two += usize::from(first == scene.want || second == scene.want);
        if first != scene.want {
            let why: Vec<_> = verdict.evidence.iter().map(|e| (e.weight, &e.text)).collect();
            wrong.push(format!("{}: {first}, {second}, not {}: {why:#?}", scene.name, scene.want));
        }
    }
    let n = scenes.len() as f64;
    (1.0 - wrong.len() as f64 / n, n_two as f64 / n, wrong)
}

#[test]
fn outages_as_servers_show_them_get_their_cause() {
    assert!(scenes().len() >= 40);
    let (_, _, wrong) = shares(&|scene| judge(&scene.script, scene.scope));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn most_causes_are_found_with_less_to_see() {
    use crate::model::Record;
    type Kept = fn(&Record) -> bool;
    let without: [(&str, Kept, i64, f64); 5] = [
        ("samples", |record| !matches!(record, Record::Sample { .. }), END, 0.85),
        ("units", |record| !matches!(record, Record::Service { .. }), END, 0.9),
        ("logs", |record| !matches!(record, Record::Log { .. }), END, 0.8),
        ("changes", |record| !matches!(record, Record::Change { .. }), END, 0.8),
        ("time", |_| true, START + 4, 0.85),
    ];
    for (what, kept, end, floor) in without {
        let (first, two, wrong) = shares(&|scene| {
            let mut script = scene.script.clone();
            script.records.retain(|(_, record)| kept(record));
            judge_until(&script, scene.scope, end)
        });
        println!("without {what}: {first:.3} {two:.3}");
        assert!(first >= floor, "without {what}: {first} {two}\n{}", wrong.join("\n"));
    }
}
