//! Services as units of systemd, told by a stand-in on a private bus in the words of systemd 252 and 219.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{AgentSpec, Cgroup, Fleet, Root, Systemd, eventually, now_ms, pause};
use serde_json::json;

use crate::services::{
    App, arrived_at, becomes, becomes_so, changes, check_delays, is_told, states,
};

const LIMIT: Duration = Duration::from_secs(60);
const FPM: &str = "php8.2-fpm.service";
const ROUNDS: usize = 5;
/// The promise of one second, and the interval of the batches.
const TOLD_WITHIN_MS: i64 = 1_200;

/// A server with one site, whose PHP-FPM pool is that of [`FPM`].
fn server() -> Root {
    let root = Root::new();
    let conf = format!(
        "events {{}}\nhttp {{ server {{ listen 127.0.0.1:80; server_name a.test;\n\
         access_log {0}/var/log/a.log combined; root {0}/srv;\n\
         location / {{ fastcgi_pass unix:/run/php/www.sock; }} }} }}\n",
        root.path().display()
    );
    root.write("etc/nginx/nginx.conf", &conf);
    root.write("var/log/a.log", "");
    root.write("etc/php/8.2/fpm/php-fpm.conf", "include=/etc/php/8.2/fpm/pool.d/*.conf\n");
    let pool = "[www]\nlisten = /run/php/www.sock\npm = static\npm.max_children = 2\n";
    root.write("etc/php/8.2/fpm/pool.d/www.conf", pool);
    root
}

fn fleet(root: &Root) -> Fleet {
    let agent = AgentSpec::new("web-1").root(root).unprivileged();
    let agent = agent.toml("[probes]\nservices = [\"my-app\", \"alias.service\"]\n");
    Fleet::builder().agent(agent).batch_interval("200ms").start()
}

#[test]
fn a_unit_that_fails_is_told_within_a_second_each_time_with_its_reason() {
    let root = server();
    let systemd = Systemd::start(&root, 252);
    let none = json!({});
    systemd.set(FPM, "active", "running", &none);
    systemd.set("nginx.service", "active", "running", &none);
    systemd.set("my-app.service", "inactive", "dead", &none);
    systemd.set("real.service", "active", "running", &json!({ "alias": "alias.service" }));
    systemd.set("ssh.service", "active", "running", &none);
    systemd.set("mysql.service", "inactive", "dead", &json!({ "load": "not-found" }));
    systemd.set("mariadb.service", "active", "running", &json!({ "load": "masked" }));
    let fleet = fleet(&root);
    let state = becomes(&fleet, FPM, "active");
    assert_eq!((state.pool.as_str(), state.sub_state.as_str()), ("www", "running"));
    assert_eq!((state.n_restarts, state.result.as_str()), (Some(0), "success"));
    assert_eq!((state.ended.as_str(), state.ended_status), ("", None));
    becomes(&fleet, "my-app.service", "inactive");
    becomes(&fleet, "real.service", "active");
    becomes(&fleet, "mariadb.service", "active");

    let mut delays_ms = Vec::new();
    for _ in 0..ROUNDS {
        let killed_at = now_ms();
        let killed = json!({ "result": "oom-kill", "code": 2, "status": 9 });
        systemd.set(FPM, "failed", "failed", &killed);
        let state = becomes(&fleet, FPM, "failed");
        // When systemd says that it failed.
        delays_ms.push(arrived_at(&fleet, &state) - state.at_unix_ms);
        assert_eq!((state.result.as_str(), state.ended.as_str()), ("oom-kill", "killed"));
        assert_eq!(state.ended_status, Some(9));
        assert!((state.at_unix_ms - killed_at).abs() < 5_000, "{state:?}");
        systemd.set(FPM, "active", "running", &none);
        becomes(&fleet, FPM, "active");
    }
    check_delays("signal of systemd to the stored state", &delays_ms, TOLD_WITHIN_MS);

    let code = json!({ "result": "exit-code", "code": 1, "status": 3 });
    systemd.set("my-app.service", "failed", "failed", &code);
    let state = becomes(&fleet, "my-app.service", "failed");
    assert_eq!((state.ended.as_str(), state.ended_status), ("exited", Some(3)));
    let core = json!({ "result": "core-dump", "code": 3, "status": 11 });
    systemd.set("my-app.service", "failed", "failed", &core);
    becomes_so(&fleet, "my-app.service", "failed", |state| state.ended == "dumped");
    for other in ["ssh.service", "mysql.service"] {
        assert_eq!(states(&fleet, other), [], "{other} does not matter or is not there");
    }
    // What was not there at the start, and what systemd forgets.
    systemd.set("redis-server.service", "active", "running", &none);
    becomes(&fleet, "redis-server.service", "active");
    systemd.forget("redis-server.service");
    becomes(&fleet, "redis-server.service", "inactive");
    let told: Vec<_> = states(&fleet, "mariadb").into_iter().map(|state| state.state).collect();
    assert_eq!(told, ["active"], "it runs, although it was masked meanwhile");
}

/// A full queue of signals would keep the answers from coming, and any user may send signals.
#[test]
fn a_burst_of_signals_while_units_are_listed_stops_nothing() {
    let root = server();
    let systemd = Systemd::start(&root, 252);
    let none = json!({});
    systemd.set(FPM, "active", "running", &none);
    systemd.set("nginx.service", "active", "running", &none);
    systemd.set("redis-server.service", "active", "running", &none);
    let fleet = fleet(&root);
    for unit in [FPM, "nginx.service", "redis-server.service"] {
        becomes(&fleet, unit, "active");
    }
    systemd.burst(FPM, 350); // two signals each
    // Only a listing tells this.
    systemd.forget("redis-server.service");
    becomes(&fleet, "redis-server.service", "inactive");
    systemd.set("nginx.service", "failed", "failed", &none);
    becomes(&fleet, "nginx.service", "failed");
    let told = states(&fleet, FPM);
    let words: Vec<_> = told.iter().map(|state| state.state.as_str()).collect();
    assert_eq!(words, ["active"], "{told:#?}");
    let log = fleet.agent("web-1").log_text();
    assert!(!log.contains("cannot ask systemd"), "{log}");
}

#[test]
fn what_answers_for_sites_is_the_unit_of_its_process_and_a_container_that_ends_serves_nothing() {
    let root = Root::new();
    let id = std::process::id();
    let service = format!("gatewatch-shop-{id}.service");
    let scope = format!("docker-{id:016x}.scope");
    let groups = [&service, &scope].map(|unit| Cgroup::of_unit(unit));
    let apps = [(&groups[0], 3000), (&groups[1], 3100)]
        .map(|(group, port)| App::start_in(&root, port, group.wrapper()));
    let sites = apps.iter().enumerate().map(|(ix, app)| {
        format!(
            "server {{ listen 127.0.0.1:80; server_name {ix}.test; access_log {}/var/log/{ix}.log;\n\
             location / {{ proxy_pass http://{}; }} }}\n",
            root.path().display(),
            app.address
        )
    });
    let sites: String = sites.collect();
    root.write("etc/nginx/nginx.conf", &format!("events {{}}\nhttp {{ {sites} }}\n"));
    root.write("var/log/0.log", "");
    root.write("var/log/1.log", "");
    let systemd = Systemd::start(&root, 252);
    let none = json!({});
    systemd.set(&service, "active", "running", &none);
    systemd.set(&scope, "active", "running", &none);
    let fleet = fleet(&root);
    for (unit, app) in [(&service, &apps[0]), (&scope, &apps[1])] {
        let address = app.address.to_string();
        becomes_so(&fleet, unit, "active", |state| state.pool == address);
    }
    systemd.set(&service, "failed", "failed", &json!({ "result": "oom-kill" }));
    let state = becomes(&fleet, &service, "failed");
    assert_eq!(state.pool, apps[0].address.to_string());
    systemd.forget(&scope);
    let state = becomes(&fleet, &scope, "inactive");
    assert_eq!(state.pool, "", "another one of another name will serve it");
}

#[test]
fn without_signals_every_unit_of_many_is_asked_and_a_change_is_told_at_the_next_listing() {
    let root = server();
    let systemd = Systemd::start_silent(&root, 252);
    let none = json!({});
    let wish = |n| Systemd::wish(&format!("nginx@{n}.service"), "active", "running", &none);
    systemd.set_all((0..150).map(wish).collect());
    systemd.set(FPM, "active", "running", &none);
    let fleet = fleet(&root);
    eventually("all details are told", LIMIT, || {
        let all = states(&fleet, "nginx@");
        let known = all.into_iter().filter(|state| state.result == "success");
        let known: BTreeSet<_> = known.map(|state| state.unit).collect();
        if known.len() == 150 { Ok(()) } else { Err(format!("{} units", known.len())) }
    });
    becomes(&fleet, FPM, "active");
    let mut delays_ms = Vec::new();
    for state in ["failed", "active", "failed"] {
        systemd.set(FPM, state, state, &none);
        let state = becomes(&fleet, FPM, state);
        delays_ms.push(arrived_at(&fleet, &state) - state.at_unix_ms);
    }
    // A listing each second, the batch, and a machine that runs other tests.
    check_delays("state of a listing to the stored state", &delays_ms, 2_500);
}

/// Any user of a machine may send any signal on its system bus.
#[test]
fn a_failure_that_another_user_of_the_bus_makes_up_is_not_told() {
    let root = server();
    let systemd = Systemd::start(&root, 252);
    let none = json!({});
    systemd.set(FPM, "active", "running", &none);
    systemd.set("nginx.service", "active", "running", &none);
    let fleet = fleet(&root);
    becomes(&fleet, FPM, "active");
    becomes(&fleet, "nginx.service", "active");
    systemd.forge_failure(FPM);
    // What systemd itself says afterwards is told, so what came before it was read.
    systemd.set("nginx.service", "failed", "failed", &none);
    becomes(&fleet, "nginx.service", "failed");
    let told: Vec<_> = states(&fleet, FPM).into_iter().map(|state| state.state).collect();
    assert_eq!(told, ["active"]);
}

#[test]
fn a_restart_loop_has_failed_until_it_rests() {
    let root = server();
    let systemd = Systemd::start(&root, 252);
    systemd.set(FPM, "active", "running", &json!({}));
    let fleet = fleet(&root);
    becomes(&fleet, FPM, "active");
    for n in 1..=6 {
        let died = json!({ "result": "exit-code", "code": 1, "status": 255, "n_restarts": n });
        systemd.set(FPM, "activating", "auto-restart", &died);
        pause(Duration::from_millis(100));
        systemd.set(FPM, "active", "running", &json!({}));
        pause(Duration::from_millis(100));
    }
    let state = becomes_so(&fleet, FPM, "failed", |state| state.n_restarts >= Some(3));
    assert_eq!(state.n_restarts.map(|n| n <= 6), Some(true), "{state:?}");
    assert!(changes(&fleet, "restart").len() <= 4, "a loop is no change each time");
    // It runs now: told once it has for a while.
    let state = becomes(&fleet, FPM, "active");
    assert_eq!(state.n_restarts, Some(6));
}

#[test]
fn restarts_and_reloads_are_changes_even_if_nobody_saw_the_states_between() {
    let root = server();
    let systemd = Systemd::start(&root, 252);
    let none = json!({});
    systemd.set(FPM, "active", "running", &none);
    systemd.set("nginx.service", "active", "running", &none);
    let mut fleet = fleet(&root);
    becomes(&fleet, FPM, "active");
    becomes(&fleet, "nginx.service", "active");

    let at = now_ms();
    systemd.set_all(vec![
        Systemd::wish("nginx.service", "reloading", "reload", &none),
        Systemd::wish("nginx.service", "active", "running", &none),
    ]);
    let change = is_told(&fleet, "restart", "nginx.service reloaded", 1);
    assert!((change.at_unix_ms - at).abs() < 5_000, "{change:?}");
    // No state between: another invocation.
    systemd.set(FPM, "active", "running", &json!({ "restarted": true }));
    let change = is_told(&fleet, "restart", &format!("{FPM} restarted"), 1);
    assert_eq!(change.pool, "www");

    fleet.agent_mut("web-1").stop();
    let at = now_ms();
    systemd.set(FPM, "active", "running", &json!({ "restarted": true }));
    pause(Duration::from_millis(1500));
    fleet.restart_agent("web-1");
    let change = is_told(&fleet, "restart", &format!("{FPM} restarted"), 2);
    assert!(
        (change.at_unix_ms - at).abs() < 1_000,
        "when it was, not when it was seen: {change:?}"
    );
    fleet.agent_mut("web-1").stop();
    fleet.restart_agent("web-1");
    becomes(&fleet, FPM, "active");
    assert_eq!(changes(&fleet, "restart").len(), 3, "each once");
}

#[test]
fn systemd_219_is_asked_in_its_own_words() {
    let root = server();
    let systemd = Systemd::start_silent(&root, 219);
    let none = json!({});
    systemd.set(FPM, "active", "running", &none);
    systemd.set("nginx@blog.service", "active", "running", &none);
    systemd.set(r"my\x2dapp.service", "active", "running", &none);
    systemd.set("sshd.service", "active", "running", &none);
    let fleet = fleet(&root);
    let state = becomes(&fleet, FPM, "active");
    assert_eq!((state.n_restarts, state.pool.as_str()), (None, "www"), "absent, never zero");
    becomes(&fleet, "nginx@blog.service", "active");
    let killed = json!({ "result": "signal", "code": 2, "status": 9 });
    systemd.set(FPM, "failed", "failed", &killed);
    let state = becomes(&fleet, FPM, "failed");
    assert_eq!((state.result.as_str(), state.ended_status), ("signal", Some(9)));
    systemd.set(FPM, "active", "running", &none);
    is_told(&fleet, "restart", &format!("{FPM} restarted"), 1);
    assert_eq!(states(&fleet, "sshd.service"), []);
    assert_eq!(states(&fleet, "my"), [], "another name than my-app");
    let log = fleet.agent("web-1").log_text();
    for told in ["systemd lists no units by pattern", "systemd sends no signals"] {
        assert_eq!(log.matches(told).count(), 1, "{told}: {log}");
    }
}

#[test]
fn a_bus_that_dies_hangs_or_lies_is_told_once_and_asked_again() {
    let root = server();
    let mut systemd = Systemd::start(&root, 252);
    let none = json!({});
    systemd.set(FPM, "active", "running", &none);
    let fleet = fleet(&root);
    becomes(&fleet, FPM, "active");
    let n_told = || {
        let log = fleet.agent("web-1").log_text();
        log.matches("cannot ask systemd for service states").count()
    };
    let is_told_of_the_bus = |n: usize| {
        eventually("the agent says that the bus is lost", LIMIT, || {
            if n_told() == n { Ok(()) } else { Err(fleet.agent("web-1").log_text()) }
        });
    };

    systemd.kill_bus();
    is_told_of_the_bus(1);
    systemd.start_bus();
    systemd.set(FPM, "failed", "failed", &json!({ "result": "timeout" }));
    let state = becomes(&fleet, FPM, "failed");
    assert_eq!((state.result.as_str(), state.ended.as_str()), ("timeout", ""));

    systemd.freeze();
    is_told_of_the_bus(2);
    systemd.thaw();
    systemd.set(FPM, "active", "running", &none);
    becomes(&fleet, FPM, "active");

    systemd.lie(true);
    is_told_of_the_bus(3);
    systemd.lie(false);
    systemd.set(FPM, "inactive", "dead", &none);
    becomes(&fleet, FPM, "inactive");

    // More units than are watched, all at once.
    let wish = |n| Systemd::wish(&format!("nginx@{n}.service"), "active", "running", &none);
    systemd.set_all((0..700).map(wish).collect());
    systemd.set(FPM, "active", "running", &none);
    becomes(&fleet, FPM, "active");
    eventually("hundreds of them are told", LIMIT, || {
        let n = units(&fleet).len();
        if n >= 490 { Ok(()) } else { Err(format!("{n} units")) }
    });
    // What ends leaves its place to another one, and nothing else ends.
    systemd.forget("nginx@0.service");
    becomes(&fleet, "nginx@0.service", "inactive");
    let ended = states(&fleet, "nginx@").into_iter().filter(|state| state.state == "inactive");
    assert_eq!(ended.map(|state| state.unit).collect::<Vec<_>>(), ["nginx@0.service"]);
    assert_eq!(n_told(), 3, "{}", fleet.agent("web-1").log_text());
    assert!(units(&fleet).len() <= 501, "{}", units(&fleet).len());
}

/// Units of one template that were told.
fn units(fleet: &Fleet) -> BTreeSet<String> {
    states(fleet, "nginx@").into_iter().map(|state| state.unit).collect()
}
