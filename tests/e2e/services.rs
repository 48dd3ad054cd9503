//! Services without systemd, as real processes: killed, stopped, started again, reloaded, deaf.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{
    AgentSpec, Apache, Fleet, Nginx, PhpFpm, Pool, Process, ProxySite, Root, Upstream, Vhost,
    copy_program, eventually, find_program, loopback, now_ms,
};
use rustix::process::Signal;
use wire::v1::{Change, ServiceState};

const LIMIT: Duration = Duration::from_secs(60);
/// Processes are looked at each second; half of one more for a machine that runs other tests.
const SEEN_WITHIN_MS: i64 = 1_500;
/// From there to the collector, with a batch each 200 ms, on a machine that runs other tests.
const STORED_WITHIN_MS: i64 = 3_000;
/// Faults of one kind.
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

/// When a state came to the collector, ms.
pub(crate) fn arrived_at(fleet: &Fleet, state: &ServiceState) -> i64 {
    let at = fleet.db().arrivals("web-1").expect("the database is readable");
    let bodies = fleet.db().bodies("web-1").expect("the database is readable");
    let found = at.into_iter().zip(bodies).rfind(|(_, body)| body.services.contains(state));
    found.expect("it is stored").0
}

/// Shows how long each of the same causes took, and checks every one.
pub(crate) fn check_delays(what: &str, delays_ms: &[i64], max_ms: i64) {
    eprintln!("{what}: {delays_ms:?} ms of at most {max_ms}");
    assert!(delays_ms.iter().all(|ms| *ms <= max_ms), "{what}: {delays_ms:?} ms");
}

/// The unit of a master that was not started from the distribution's configuration.
fn fpm_unit(root: &Root, pool: &str) -> String {
    let php = find_program(&["php-fpm8.2", "php-fpm", "php-fpm8.4", "php-fpm8.3"], "php-fpm");
    let name = php.file_name().expect("a program has a name").to_string_lossy().into_owned();
    format!("{name} {}", root.join(&format!("run/php/{pool}-master.conf")).display())
}

#[test]
fn a_killed_pool_is_seen_at_the_next_look_each_time_and_its_restart_is_a_change() {
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

    let (mut seen_ms, mut stored_ms) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let killed_at = now_ms();
        php.kill_pool("www");
        let state = becomes(&fleet, &www, "failed");
        seen_ms.push(state.at_unix_ms - killed_at);
        stored_ms.push(arrived_at(&fleet, &state) - killed_at);
        assert!(state.at_unix_ms >= killed_at, "{state:?}");
        php.start_pool("www");
        becomes(&fleet, &www, "active");
        let change = is_told(&fleet, "restart", &format!("{www} restarted"), round);
        assert_eq!(change.pool, "www");
    }
    check_delays("SIGKILL of PHP-FPM until it is seen", &seen_ms, SEEN_WITHIN_MS);
    check_delays("SIGKILL of PHP-FPM to its stored state", &stored_ms, STORED_WITHIN_MS);

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

    // Twice; how many there are is known before they begin to die.
    for _ in 0..2 {
        let before = php.master("www").children();
        php.kill_workers("www");
        eventually("the master has new workers", LIMIT, || {
            let now = php.master("www").children();
            let is_new = now.len() == before.len() && now.iter().all(|pid| !before.contains(pid));
            if is_new { Ok(()) } else { Err(format!("{now:?}, before {before:?}")) }
        });
    }
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

/// The kernel's own words but for the time of boot.
fn stat_of_a_boot_at(second: i64) -> String {
    let stat = std::fs::read_to_string("/proc/stat").expect("linux tells");
    let line = |line: &str| {
        let is_boot = line.starts_with("btime ");
        if is_boot { format!("btime {second}\n") } else { format!("{line}\n") }
    };
    stat.lines().map(line).collect()
}

#[test]
fn a_boot_since_the_last_run_is_told_once_with_both_kernels_and_one_of_days_ago_is_not() {
    let root = Root::new();
    let booted_s = now_ms() / 1000 - 3600;
    let stat = root.write("stat", &stat_of_a_boot_at(booted_s));
    // A /proc/stat of the agent's own, so that the machine of the test may have run for days.
    let script = format!("mount --bind {} /proc/stat && exec \"$@\"", stat.display());
    let agent = AgentSpec::new("web-1");
    let agent = agent.wrapper(&["unshare", "--mount", "sh", "-c", &script, "sh"]);
    let mut fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let file = fleet.agent("web-1").dir().join("state/boot.json");
    let is_noted = |when: &str| {
        eventually(when, LIMIT, || {
            let text = std::fs::read_to_string(&file).map_err(|e| e.to_string())?;
            if text.contains("3.10.0") { Err(text) } else { Ok(()) }
        });
    };
    is_noted("the first run notes the boot");
    fleet.agent_mut("web-1").stop();
    let another =
        r#"{"id":"00000000-0000-4000-8000-000000000000","kernel":"3.10.0-1160.el7.x86_64"}"#;
    std::fs::write(&file, another).expect("the state is writable");
    fleet.restart_agent("web-1");
    let told = eventually("the boot is told", LIMIT, || {
        changes(&fleet, "boot").pop().ok_or_else(|| "none".to_owned())
    });
    let start = "machine booted, kernel 3.10.0-1160.el7.x86_64 to ";
    assert!(told.what.starts_with(start), "{told:?}");
    assert_eq!(told.at_unix_ms, booted_s * 1000);
    fleet.agent_mut("web-1").stop();
    fleet.restart_agent("web-1");
    fleet.agent_mut("web-1").stop();
    // A boot of days ago explains nothing any more.
    std::fs::write(&stat, stat_of_a_boot_at(booted_s - 30 * 3600)).expect("the root is writable");
    std::fs::write(&file, another).expect("the state is writable");
    fleet.restart_agent("web-1");
    is_noted("the last run notes the boot");
    fleet.agent_mut("web-1").stop();
    assert_eq!(changes(&fleet, "boot").len(), 1);
}

/// A program that sleeps under the name of a service, as some user, with a title.
fn sleeper(root: &Root, name: &str, uid: u32, title: &str) -> Process {
    let program = root.join(&format!("usr/{name}"));
    root.mkdir("usr");
    copy_program(Path::new("/bin/sleep"), &program);
    let mut command = Command::new(find_program(&["setpriv"], "util-linux"));
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]);
    command.args(["bash", "-c", "exec -a \"$1\" \"$2\" 1000", "bash"]).arg(title).arg(&program);
    Process::start(name, &mut command, &root.join("usr/log"))
}

#[test]
fn processes_that_a_user_names_like_services_are_none_and_their_titles_stop_nothing() {
    let root = Root::new();
    let _nginx = Nginx::start(&root, &Vhost::many("www", 1));
    let nobody = 65_534;
    let mut database = sleeper(&root, "mysqld", 0, &root.join("usr/mysqld").display().to_string());
    let forged = sleeper(&root, "redis-server", nobody, &root.path().display().to_string());
    let pipe = root.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("coreutils are installed");
    assert!(made.success());
    let title = format!("php-fpm: master process ({})", pipe.display());
    let _stuck = sleeper(&root, "php-fpm7.4", 0, &title);
    let _forged_pool = sleeper(&root, "php-fpm8.2", nobody, &title);
    let agent = AgentSpec::new("web-1").root(&root);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    becomes(&fleet, "mysqld", "active");
    becomes(&fleet, "php-fpm7.4", "active");
    drop(forged);
    database.kill9();
    // Seen, although nobody will ever write into the pipe.
    becomes(&fleet, "mysqld", "inactive");
    for other in ["redis-server", "php-fpm8.2"] {
        assert_eq!(states(&fleet, other), [], "{other} is a user's own");
    }
}

/// An application of its own: an HTTP server, which does not listen while there is the file `srv/wait`.
pub(crate) struct App {
    root: std::path::PathBuf,
    pub(crate) address: SocketAddr,
    wrapper: Vec<String>,
    process: Option<Process>,
}

impl App {
    fn start(root: &Root) -> Self {
        Self::start_in(root, 3000, Vec::new())
    }

    /// Starts it through the words of a wrapper. Nobody may see the sockets of others: the port tells
    /// two of them apart.
    pub(crate) fn start_in(root: &Root, port: u16, wrapper: Vec<String>) -> Self {
        let script = format!(
            "import http.server as h, os, sys, time\n\
             while os.path.exists('{}'): time.sleep(0.1)\n\
             h.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), \
             h.SimpleHTTPRequestHandler).serve_forever()\n",
            root.join("srv/wait").display()
        );
        root.write("srv/app.py", &script);
        let root = root.path().to_owned();
        let mut app = Self { root, address: loopback(port), wrapper, process: None };
        app.run();
        app.process.as_mut().expect("it runs").listens_on(app.address);
        app
    }

    fn run(&mut self) {
        let mut words = self.wrapper.clone();
        words.push("/usr/bin/python3".to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(self.root.join("srv/app.py"));
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
        app.process.as_mut().expect("it runs").listens_on(app.address);
        let listens_at = now_ms();
        let is_new = |state: &ServiceState| state.at_unix_ms > started_at - 1_500;
        let state = becomes_so(&fleet, &unit, "active", is_new);
        delays_ms.push(arrived_at(&fleet, &state) - listens_at);
        is_told(&fleet, "restart", &format!("{unit} restarted"), round);
    }
    check_delays("an application that listens to its stored state", &delays_ms, STORED_WITHIN_MS);

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
