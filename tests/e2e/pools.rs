//! What the agent, unprivileged, records of real PHP-FPM pools: how busy their sockets are, what their
//! workers need, what became of them, and who used the machine before the first error.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread::JoinHandle;

use harness::{
    AgentSpec, Fleet, Nginx, PhpFpm, Pool, Process, Root, Vhost, eventually, find_program, get,
    is_root, now_ms,
};
use rustix::process::Signal as Kill;
use wire::catalog;
use wire::v1::{LogLine, Signal};

use crate::farm::LIMIT;

const SERVER: &str = "web-1";
const SITE: &str = "www01.test";
const POOL: &str = "phpfpm.pool=www";

/// One recorded value.
#[derive(Clone, Debug)]
struct Recorded {
    at: i64,
    metric: String,
    attribute: String,
    value: f64,
}

/// A server with one pool and one site, and its agent.
struct Stage {
    fleet: Fleet,
    php: PhpFpm,
    nginx: Nginx,
    root: Root,
}

impl Stage {
    fn with(pool: Pool) -> Self {
        let root = Root::new();
        // Made before PHP-FPM would make them for itself alone.
        root.write("var/log/php8.2-fpm.log", "");
        let slow = root.write("var/log/www.slow", "");
        let pool = pool.with(&format!("slowlog = {}", slow.display()));
        let php = PhpFpm::start(&root, &[pool]);
        let nginx = Nginx::start(&root, &Vhost::many("www", 1));
        let agent = AgentSpec::new(SERVER).root(&root).unprivileged();
        let agent = agent.toml("[probes]\ninterval = \"1s\"\n");
        let fleet = Fleet::builder().agent(agent).batch_interval("500ms").start();
        Self { fleet, php, nginx, root }
    }

    fn address(&self) -> SocketAddr {
        self.nginx.address()
    }

    /// Requests that are served, or wait, for so long.
    fn ask(&self, n: usize, query: &str) -> Vec<JoinHandle<u16>> {
        let address = self.address();
        let path = format!("/index.php?{query}");
        let one = |_| {
            let path = path.clone();
            std::thread::spawn(move || get(address, SITE, &path))
        };
        (0..n).map(one).collect()
    }

    /// All values of a metric in the order they were taken.
    fn values(&self, metric: &str) -> Vec<Recorded> {
        let all = self.all_values();
        all.into_iter().filter(|value| value.metric == metric).collect()
    }

    fn all_values(&self) -> Vec<Recorded> {
        let mut values = Vec::new();
        for body in self.fleet.db().bodies(SERVER).unwrap_or_default() {
            for tick in &body.ticks {
                for (ix, scaled) in tick.series.iter().zip(&tick.value) {
                    let series = &body.series[*ix as usize];
                    let row = catalog::find(&series.metric).expect("it is in the catalog");
                    values.push(Recorded {
                        at: tick.at_unix_ms,
                        metric: series.metric.clone(),
                        attribute: series.attribute.clone(),
                        value: row.from_wire(*scaled).expect("in range"),
                    });
                }
            }
        }
        values.sort_by_key(|value| value.at);
        values
    }

    /// Waits until this is recorded of the pool; returns when it was so.
    fn recorded(&self, what: &str, metric: &str, is: impl Fn(f64) -> bool) -> i64 {
        eventually(&format!("{what}: {metric}"), LIMIT, || {
            let values = self.values(metric);
            let found = values.iter().find(|value| value.attribute == POOL && is(value.value));
            found
                .map(|value| value.at)
                .ok_or_else(|| format!("{values:?}\n{}", self.fleet.agent(SERVER).log_text()))
        })
    }

    /// Waits until so many are busy and so many wait at one instant; returns when it was so.
    fn busy(&self, n_busy: f64, n_waiting: f64) -> i64 {
        eventually(&format!("{n_busy} are busy and {n_waiting} wait"), LIMIT, || {
            let waiting = self.values("phpfpm.listen_queue");
            let busy = self.values("phpfpm.active_processes");
            let is = |v: &&Recorded| v.value == n_waiting && v.attribute == POOL;
            let both = |w: &&Recorded| {
                busy.iter().any(|b| b.at == w.at && b.attribute == POOL && b.value == n_busy)
            };
            let found = waiting.iter().filter(is).find(both);
            let numbers = |all: &[Recorded]| all.iter().map(|v| v.value).collect::<Vec<_>>();
            found.map(|value| value.at).ok_or_else(|| {
                format!("busy {:?}, waiting {:?}", numbers(&busy), numbers(&waiting))
            })
        })
    }

    /// Waits for a line of evidence.
    fn line(&self, what: &str, is: impl Fn(&LogLine) -> bool) -> LogLine {
        eventually(what, LIMIT, || {
            let bodies = self.fleet.db().bodies(SERVER)?;
            let lines: Vec<LogLine> = bodies.into_iter().flat_map(|body| body.log_lines).collect();
            let found = lines.iter().find(|line| is(line)).cloned();
            found.ok_or_else(|| format!("{lines:#?}"))
        })
    }

    /// Waits until so many gateway errors of a status have this signal.
    fn explained(&self, status: u32, signal: Signal, n: u64) {
        eventually(&format!("{n} errors {status} are explained by {signal:?}"), LIMIT, || {
            let signals = self.fleet.db().signals(SERVER);
            let key = (SITE.to_owned(), status, signal.name());
            let seen = signals.get(&key).copied().unwrap_or(0);
            if seen >= n { Ok(()) } else { Err(format!("{signals:#?}")) }
        });
    }
}

#[test]
fn an_exhausted_pool_is_seen_on_its_socket_when_its_status_page_cannot_answer() {
    let dynamic = "pm = dynamic\npm.start_servers = 1\npm.min_spare_servers = 1\n\
                   pm.max_spare_servers = 1\npm.status_path = /fpm-status";
    let mut stage = Stage::with(Pool::tiny("www").with(dynamic));
    assert_eq!(get(stage.address(), SITE, "/index.php"), 200);
    stage.recorded("at rest", "phpfpm.active_processes", |n| n == 0.0);
    stage.recorded("the status page", "phpfpm.status.accepted_connections", |n| n >= 1.0);
    stage.recorded("the limit", "phpfpm.max_children", |n| n == 2.0);
    stage.recorded("the limit of the queue", "phpfpm.listen_queue.limit", |n| n == 1.0);
    assert_memory(&mut stage);

    // Two are served, two wait in a backlog that takes one and the one more that Linux allows.
    let from = now_ms();
    let served = stage.ask(2, "ms=50000");
    stage.busy(2.0, 0.0); // the second worker has come
    let waits = stage.ask(1, "ms=50000");
    stage.busy(2.0, 1.0);
    let waits_too = stage.ask(1, "ms=50000");
    let at = stage.busy(2.0, 2.0);
    let refused = stage.ask(3, "");
    for one in refused {
        assert_eq!(one.join().expect("a request does not panic"), 502, "nobody gets in");
    }
    stage.explained(502, Signal::BacklogFull, 3);
    stage.recorded("it is counted once", "phpfpm.max_children_reached", |n| n == 1.0);
    stage.recorded("two workers live", "phpfpm.total_processes", |n| n == 2.0);
    let line = stage.line("PHP-FPM says so too", |l| l.signal() == Signal::MaxChildren);
    assert_eq!((line.source.as_str(), line.pool.as_str()), ("php_fpm", "www"));

    // The walk after the errors comes 10 s later at most, and no page was asked for meanwhile.
    let walks = || stage.values("phpfpm.total_processes").into_iter().filter(|v| v.at > at).count();
    eventually("two more walks", LIMIT, || if walks() > 1 { Ok(()) } else { Err(String::new()) });
    let until = stage.values("phpfpm.listen_queue").last().map_or(0, |value| value.at);
    let all = stage.all_values();
    let page = all.iter().find(|v| v.metric.starts_with("phpfpm.status") && v.at > from + 2000);
    assert!(page.is_none_or(|page| page.at > until), "a full pool was asked: {page:?}");
    drop((served, waits, waits_too)); // they end when the servers do
}

/// What the agent says of the workers' memory is what /proc says here.
fn assert_memory(stage: &mut Stage) {
    let pages: Vec<u64> = stage
        .php
        .workers("www")
        .iter()
        .map(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
            let pages: Vec<u64> = text.split(' ').filter_map(|n| n.trim().parse().ok()).collect();
            pages[1] - pages[2]
        })
        .collect();
    let truth =
        pages.iter().sum::<u64>() as f64 / pages.len() as f64 * rustix::param::page_size() as f64;
    let is_near = |value: f64| value > 1e6 && (value - truth).abs() <= 0.3 * truth;
    eventually(&format!("memory of a worker is near {truth}"), LIMIT, || {
        let values = stage.values("phpfpm.memory_per_process");
        let last = values.last().ok_or("none")?;
        if is_near(last.value) { Ok(()) } else { Err(format!("{values:?}")) }
    });
}

#[test]
fn a_pool_on_tcp_is_counted_as_one_on_a_file_is() {
    let pool = Pool { backlog: 8, ..Pool::tiny("www") }.on_tcp(9000);
    let stage = Stage::with(pool);
    stage.recorded("at rest", "phpfpm.active_processes", |n| n == 0.0);
    let asked = stage.ask(5, "ms=40000");
    stage.busy(2.0, 3.0);
    stage.recorded("it is counted", "phpfpm.max_children_reached", |n| n == 1.0);
    stage.recorded("the limit of the queue", "phpfpm.listen_queue.limit", |n| n == 8.0);
    drop(asked);
}

#[test]
fn what_becomes_of_workers_and_sockets_is_recorded() {
    let mut stage = Stage::with(
        Pool::new("www")
            .with("request_slowlog_timeout = 1s\npm.status_path = /fpm-status\nlisten.mode = 0600"),
    );
    assert_eq!(get(stage.address(), SITE, "/index.php"), 200);
    let slow = stage.ask(1, "ms=4000");
    let line = stage.line("the slow request is told", |line| line.source == "php_slow");
    let script = stage.root.join("srv/www/index.php");
    assert_eq!(line.message, format!("1 slow request in usleep() {}:2", script.display()));
    assert_eq!(line.pool, "www");
    for one in slow {
        assert_eq!(one.join().expect("a request does not panic"), 200);
    }

    assert!(stage.php.signal_workers("www", Kill::KILL) > 0);
    let is_killed = |line: &LogLine| line.message.contains("exited on signal 9");
    let line = stage.line("workers killed", is_killed);
    assert_eq!((line.signal(), line.pool.as_str()), (Signal::WorkerSignal, "www"));
    assert!(stage.php.signal_workers("www", Kill::SEGV) > 0);
    let is_crashed = |line: &LogLine| line.message.contains("exited on signal 11");
    let line = stage.line("workers crashed", is_crashed);
    assert!(matches!(line.signal(), Signal::WorkerSignal | Signal::Segfault), "{line:?}");
    assert_eq!(line.pool, "www");

    if is_root() {
        let conf = stage.root.join("etc/nginx/nginx.conf");
        let text = fs::read_to_string(&conf).expect("nginx has one");
        fs::write(&conf, text.replace("user root;", "user daemon;")).expect("it is ours");
        stage.nginx.reload();
    } else {
        // Not even its owner may connect then.
        let socket = PhpFpm::socket(&stage.root, "www");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).expect("it is ours");
    }
    assert_eq!(get(stage.address(), SITE, "/index.php"), 502);
    stage.explained(502, Signal::Permission, 1);
    eventually("the agent says that it may not ask the pool", LIMIT, || {
        let log = stage.fleet.agent(SERVER).log_text();
        if log.contains("status page of a pool is not read") { Ok(()) } else { Err(log) }
    });
    stage.recorded("the socket is counted all the same", "phpfpm.active_processes", |n| n == 0.0);
    let log = stage.fleet.agent(SERVER).log_text();
    assert_eq!(log.matches("status page of a pool is not read").count(), 1, "told once: {log}");
    assert!(log.contains("listen.acl_users"), "with the fix: {log}");
}

#[test]
fn who_used_the_machine_before_the_first_error_is_told_only_then() {
    let mut stage = Stage::with(Pool::new("www"));
    // User 1 is `daemon` everywhere.
    let setpriv = find_program(&["setpriv"], "util-linux");
    let mut command = Command::new(if is_root() { setpriv } else { "/usr/bin/env".into() });
    if is_root() {
        command.args(["--reuid=1", "--regid=1", "--clear-groups"]);
    }
    command.args(["sh", "-c", "while :; do :; done"]);
    let mut burner = Process::start("burner", &mut command, &stage.root.join("burner.out"));
    let n_walks = || stage.values("system.processes.zombie").len();
    let before = n_walks();
    eventually("three walks", LIMIT, || {
        let n = n_walks() - before;
        if n >= 3 { Ok(()) } else { Err(format!("{n}")) }
    });
    assert!(!stage.all_values().iter().any(|v| v.metric.starts_with("process.")), "all was well");
    burner.stop();
    let onset = now_ms();
    stage.php.stop_pool("www");
    assert_eq!(get(stage.address(), SITE, "/index.php"), 502);
    let owner = if is_root() { "process.owner=daemon" } else { "process.owner=" };
    for attribute in [owner, "process.executable.name=sh"] {
        eventually(&format!("{attribute} is named"), LIMIT, || {
            let values = stage.values("process.cpu.utilization");
            let is_named = |v: &&Recorded| v.attribute.starts_with(attribute) && v.at < onset;
            // One of the processors at most, shared with whatever else runs here.
            let found = values.iter().find(is_named).filter(|v| v.value >= 0.005);
            found.map(|_| ()).ok_or_else(|| format!("onset {onset}: {values:?}"))
        });
    }
    let memory = stage.values("process.memory.usage");
    let names = |v: &Recorded| v.attribute.starts_with("process.executable.name=");
    assert!(memory.iter().any(|v| names(v) && v.value > 1e6), "{memory:?}");
    assert!(memory.iter().any(|v| v.attribute == POOL), "{memory:?}");
    let ats: Vec<_> = memory.iter().filter(|v| names(v) && v.at < onset).map(|v| v.at).collect();
    assert!(ats.iter().any(|at| *at != ats[0]), "each top has its own time: {ats:?}");
}
