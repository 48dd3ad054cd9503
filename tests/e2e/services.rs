//! Services without systemd, as real processes: killed, stopped, started again, reloaded, deaf.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{
    AgentSpec, Apache, Fleet, Nginx, PhpFpm, Pool, Process, ProxySite, Root, Upstream, Vhost,
    eventually, find_program, loopback, now_ms,
};
use rustix::process::Signal;
use wire::v1::{Change, ServiceState};

const LIMIT: Duration = Duration::from_secs(60);
/// From the fault to the row in the collector's database, with a batch each 200 ms.
const TOLD_WITHIN_MS: i64 = 2000;
/// Faults whose median is taken.
const ROUNDS: usize = 5;

/// Every state of a unit whose name starts so, in the order they were stored.
pub(crate) fn states(fleet: &Fleet, unit: &str) -> Vec<ServiceState> {
    let bodies = fleet.db().bodies("web-1").unwrap_or_default();
    let states = bodies.into_iter().flat_map(|body| body.services);
    states.filter(|state| state.unit.starts_with(unit)).collect()
}

/// Waits until the last state of a unit is this one, and returns it.
pub(crate) fn becomes(fleet: &Fleet, unit: &str, state: &str) -> ServiceState {
    becomes_so(fleet, unit, state, |_| true)
}

/// The same for a state that satisfies `probe`.
pub(crate) fn becomes_so(
    fleet: &Fleet,
    unit: &str,
    state: &str,
    probe: impl Fn(&ServiceState) -> bool,
) -> ServiceState {
    eventually(&format!("{unit} is {state}"), LIMIT, || {
        let all = states(fleet, unit);
        match all.last() {
            Some(last) if last.state == state && probe(last) => Ok(last.clone()),
            _ => Err(format!("{all:#?}")),
        }
    })
}

/// What changed, of one kind, in the order it was stored.
pub(crate) fn changes(fleet: &Fleet, kind: &str) -> Vec<Change> {
    let bodies = fleet.db().bodies("web-1").unwrap_or_default();
    bodies.into_iter().flat_map(|body| body.changes).filter(|change| change.kind == kind).collect()
}

/// Waits until this was told as often; other words of the same kind do not matter.
pub(crate) fn is_told(fleet: &Fleet, kind: &str, what: &str, n: usize) -> Change {
    eventually(&format!("{what} is told {n} times"), LIMIT, || {
        let all = changes(fleet, kind);
        let same: Vec<_> = all.iter().filter(|change| change.what == what).collect();
        match same.last() {
            Some(last) if same.len() == n => Ok((*last).clone()),
            _ => Err(format!("{all:#?}")),
        }
    })
}

/// Shows and checks how long states took from their cause to the database.
pub(crate) fn check_delays(what: &str, mut delays_ms: Vec<i64>) {
    delays_ms.sort_unstable();
    let median_ms = delays_ms[delays_ms.len() / 2];
    eprintln!("{what}: median {median_ms} ms of {delays_ms:?}");
    assert!(median_ms <= TOLD_WITHIN_MS, "{what}: {delays_ms:?}");
}

/// The unit of a master that was not started from the distribution's configuration.
fn fpm_unit(root: &Root, pool: &str) -> String {
    let php = find_program(&["php-fpm8.2", "php-fpm", "php-fpm8.4", "php-fpm8.3"], "php-fpm");
    let name = php.file_name().expect("a program has a name").to_string_lossy().into_owned();
    format!("{name} {}", root.join(&format!("run/php/{pool}-master.conf")).display())
}

#[test]
fn a_killed_pool_is_told_within_two_seconds_and_its_restart_is_a_change() {
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &[Pool::new("www"), Pool::new("shop")]);
    let _nginx = Nginx::start(&root, &Vhost::many("www", 1));
    let agent = AgentSpec::new("web-1").root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let (www, shop) = (fpm_unit(&root, "www"), fpm_unit(&root, "shop"));
    let state = becomes(&fleet, &www, "active");
    assert_eq!((state.pool.as_str(), state.ended.as_str()), ("www", ""));
    assert_eq!((state.n_restarts, state.ended_status), (None, None), "absent, never zero");
    becomes(&fleet, &shop, "active");
    becomes(&fleet, "nginx", "active");

    let mut delays_ms = Vec::new();
    for round in 1..=ROUNDS {
        let killed_at = now_ms();
        php.kill_pool("www");
        let state = becomes(&fleet, &www, "failed");
        delays_ms.push(now_ms() - killed_at);
        assert!(state.at_unix_ms >= killed_at, "{state:?}");
        php.start_pool("www");
        becomes(&fleet, &www, "active");
        let change = is_told(&fleet, "restart", &format!("{www} restarted"), round);
        assert_eq!(change.pool, "www");
    }
    check_delays("SIGKILL of PHP-FPM to its stored state", delays_ms);

    php.stop_pool("www");
    becomes(&fleet, &www, "inactive");
    let others: Vec<_> = states(&fleet, &shop).into_iter().map(|state| state.state).collect();
    assert_eq!(others, ["active"], "the other pool is another service");
}

#[test]
fn servers_that_take_new_settings_are_reloaded_and_workers_that_die_are_not() {
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &[Pool::new("www")]);
    let mut nginx = Nginx::start(&root, &Vhost::many("www", 1));
    let agent = AgentSpec::new("web-1").root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let www = fpm_unit(&root, "www");
    becomes(&fleet, &www, "active");
    becomes(&fleet, "nginx", "active");

    php.kill_workers("www");
    let before = php.master("www").children();
    php.kill_workers("www");
    eventually("the master has new workers", LIMIT, || {
        let now = php.master("www").children();
        let is_new = now.len() == before.len() && now.iter().all(|pid| !before.contains(pid));
        if is_new { Ok(()) } else { Err(format!("{now:?}")) }
    });
    nginx.reload();
    is_told(&fleet, "restart", "nginx reloaded", 1);
    php.master("www").signal(Signal::USR2);
    let change = is_told(&fleet, "restart", &format!("{www} reloaded"), 1);
    assert_eq!(change.pool, "www");
    let told: Vec<_> = changes(&fleet, "restart").into_iter().map(|change| change.what).collect();
    assert_eq!(told, ["nginx reloaded".to_owned(), format!("{www} reloaded")]);

    nginx.process().kill9();
    becomes(&fleet, "nginx", "failed");
    for unit in [www.as_str(), "nginx"] {
        let all: Vec<_> = states(&fleet, unit).into_iter().map(|state| state.state).collect();
        let want: &[&str] = if unit == "nginx" { &["active", "failed"] } else { &["active"] };
        assert_eq!(all, want, "{unit}");
    }
}

#[test]
fn a_reload_of_apache_and_one_of_haproxy_are_told() {
    let root = Root::new();
    let apache = Apache::start(&root, &Vhost::many("www", 1));
    let config = root.write(
        "run/haproxy.cfg",
        &format!(
            "defaults\n mode http\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n\
             frontend f\n bind {}\n",
            loopback(8080)
        ),
    );
    let mut haproxy = Command::new(find_program(&["haproxy"], "haproxy"));
    haproxy.arg("-W").arg("-f").arg(config);
    let haproxy = Process::start("haproxy", &mut haproxy, &root.join("run/haproxy.out"));
    let agent = AgentSpec::new("web-1").root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let apache_unit = find_program(&["apache2"], "apache2");
    let apache_unit = apache_unit.file_name().expect("a name").to_string_lossy().into_owned();
    becomes(&fleet, &apache_unit, "active");
    becomes(&fleet, "haproxy", "active");
    eventually("haproxy has its worker", LIMIT, || {
        if haproxy.children().is_empty() { Err("none".to_owned()) } else { Ok(()) }
    });
    apache.reload();
    is_told(&fleet, "restart", &format!("{apache_unit} reloaded"), 1);
    haproxy.signal(Signal::USR2);
    is_told(&fleet, "restart", "haproxy reloaded", 1);
    assert_eq!(changes(&fleet, "restart").len(), 2);
}

#[test]
fn a_restart_while_the_agent_was_stopped_is_told_once_after_its_start() {
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &[Pool::new("www")]);
    let _nginx = Nginx::start(&root, &Vhost::many("www", 1));
    let agent = AgentSpec::new("web-1").root(&root);
    let mut fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let www = fpm_unit(&root, "www");
    becomes(&fleet, &www, "active");
    fleet.agent_mut("web-1").stop();
    php.stop_pool("www");
    php.start_pool("www");
    for _ in 0..2 {
        let n = states(&fleet, &www).len();
        fleet.restart_agent("web-1");
        eventually("the next run tells all states", LIMIT, || {
            let now = states(&fleet, &www).len();
            if now > n { Ok(()) } else { Err(format!("{now} states")) }
        });
        is_told(&fleet, "restart", &format!("{www} restarted"), 1);
        fleet.agent_mut("web-1").stop();
    }
    assert_eq!(changes(&fleet, "restart").len(), 1, "nginx went on all the time");
    assert_eq!(changes(&fleet, "boot"), [], "and so did the machine");
}

#[test]
fn a_boot_since_the_last_run_is_told_once_with_both_kernels() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").start();
    fleet.agent_mut("web-1").stop();
    let file = fleet.agent("web-1").dir().join("state/boot.json");
    eventually("the first run noted the boot", LIMIT, || {
        std::fs::read_to_string(&file).map_err(|e| e.to_string())
    });
    let another =
        r#"{"id":"00000000-0000-4000-8000-000000000000","kernel":"3.10.0-1160.el7.x86_64"}"#;
    std::fs::write(&file, another).expect("the state is writable");
    let stat = std::fs::read_to_string("/proc/stat").expect("linux tells");
    let booted_at: i64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
        .expect("linux tells when it was booted");
    let is_recent = now_ms() - booted_at * 1000 < 86_400_000 - 600_000;
    fleet.restart_agent("web-1");
    eventually("the boot is noted", LIMIT, || {
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
        if text.contains("3.10.0") { Err(text) } else { Ok(()) }
    });
    if is_recent {
        let told = eventually("the boot is told", LIMIT, || {
            changes(&fleet, "boot").pop().ok_or_else(|| "none".to_owned())
        });
        let start = "machine booted, kernel 3.10.0-1160.el7.x86_64 to ";
        assert!(told.what.starts_with(start), "{told:?}");
        assert_eq!(told.at_unix_ms, booted_at * 1000);
    }
    fleet.agent_mut("web-1").stop();
    fleet.restart_agent("web-1");
    fleet.agent_mut("web-1").stop();
    // A boot of days ago explains nothing any more.
    assert_eq!(changes(&fleet, "boot").len(), usize::from(is_recent));
}

/// An application of its own: an HTTP server, which does not listen while there is the file `srv/wait`.
struct App {
    root: std::path::PathBuf,
    address: SocketAddr,
    process: Option<Process>,
}

impl App {
    fn start(root: &Root) -> Self {
        let script = format!(
            "import http.server as h, os, sys, time\n\
             while os.path.exists('{}'): time.sleep(0.1)\n\
             h.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), \
             h.SimpleHTTPRequestHandler).serve_forever()\n",
            root.join("srv/wait").display()
        );
        root.write("srv/app.py", &script);
        let mut app = Self { root: root.path().to_owned(), address: loopback(3000), process: None };
        app.run();
        app.process.as_mut().expect("it runs").listens_on(app.address);
        app
    }

    fn run(&mut self) {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(self.root.join("srv/app.py"));
        command.args([self.address.ip().to_string(), self.address.port().to_string()]);
        command.current_dir(Path::new("/"));
        let log = self.root.join("srv/app.log");
        self.process = Some(Process::start("app", &mut command, &log));
    }

    fn kill(&mut self) {
        self.process.take().expect("it runs").kill9();
    }
}

#[test]
fn an_application_behind_nginx_is_a_service_and_one_that_does_not_listen_has_failed() {
    let root = Root::new();
    let mut app = App::start(&root);
    let site = ProxySite { name: "app.test".into(), upstream: Some(Upstream::Tcp(app.address)) };
    let _nginx = Nginx::start_proxy(&root, &[site]);
    // Nobody may see the sockets of others: its command line names the address.
    let agent = AgentSpec::new("web-1").root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let unit = format!("{} {}", process_name(&app), app.address);
    let state = becomes(&fleet, &unit, "active");
    assert_eq!(state.pool, app.address.to_string(), "what the collector knows the site by");

    let mut delays_ms = Vec::new();
    for round in 1..=ROUNDS {
        app.kill();
        becomes(&fleet, &unit, "inactive");
        let started_at = now_ms();
        app.run();
        becomes_so(&fleet, &unit, "active", |state| state.at_unix_ms > started_at - 1_500);
        delays_ms.push(now_ms() - started_at);
        is_told(&fleet, "restart", &format!("{unit} restarted"), round);
    }
    check_delays("start of an application to its stored state", delays_ms);

    app.kill();
    becomes(&fleet, &unit, "inactive");
    // It lives and does not listen: starting at first, then as good as dead.
    let wait = root.write("srv/wait", "");
    app.run();
    becomes(&fleet, &unit, "activating");
    becomes(&fleet, &unit, "failed");
    std::fs::remove_file(wait).expect("it was just written");
    becomes(&fleet, &unit, "active");
}

/// As the kernel names it.
fn process_name(app: &App) -> String {
    let pid = app.process.as_ref().expect("it runs").pid();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it runs");
    name.trim_end().to_owned()
}
