//! What the agent sees when it asks what stands behind the sites: real servers, databases and caches,
//! firewalls between two machines, names that change and vanish.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{
    AgentSpec, Apache, Fleet, Haproxy, HaproxyLog, Machine, Mariadb, Memcached, NameServer, Nginx,
    Output, ProxySite, Redis, Root, Upstream, eventually, find_program, get, loopback,
};
use wire::catalog;
use wire::v1::{LogLine, Signal as S};

/// Rounds come every 10 s, some answers last a minute.
const LIMIT: Duration = Duration::from_secs(100);

/// All values of each series, `metric{attribute}`, oldest first.
type Values = BTreeMap<String, Vec<f64>>;

fn values(fleet: &Fleet) -> Values {
    let mut all = Values::new();
    for body in fleet.db().bodies("web-1").unwrap_or_default() {
        for tick in &body.ticks {
            for (at, value) in tick.series.iter().zip(&tick.value) {
                let series = &body.series[*at as usize];
                let row = catalog::find(&series.metric).expect("a metric of the catalog");
                let value = row.from_wire(*value).expect("a value in range");
                let key = format!("{}{{{}}}", series.metric, series.attribute);
                all.entry(key).or_default().push(value);
            }
        }
    }
    all
}

fn probed(fleet: &Fleet) -> Vec<LogLine> {
    let bodies = fleet.db().bodies("web-1").unwrap_or_default();
    let lines = bodies.into_iter().flat_map(|body| body.log_lines);
    lines.filter(|line| line.source == "probe").collect()
}

fn changes(fleet: &Fleet, kind: &str) -> Vec<String> {
    let bodies = fleet.db().bodies("web-1").unwrap_or_default();
    let changes = bodies.into_iter().flat_map(|body| body.changes);
    changes.filter(|change| change.kind == kind).map(|change| change.what).collect()
}

/// Waits until a series has a value that this accepts; returns it.
fn await_value(fleet: &Fleet, key: &str, is_good: impl Fn(f64) -> bool) -> f64 {
    eventually(&format!("a good value of {key}"), LIMIT, || {
        let all = values(fleet);
        let found = all.get(key).and_then(|v| v.iter().copied().rfind(|v| is_good(*v)));
        let near: Vec<_> = all.keys().filter(|k| !k.starts_with("system.")).collect();
        found.ok_or_else(|| format!("{:?}\nof {near:#?}\n{}", all.get(key), told(fleet)))
    })
}

/// Waits for a line of this signal that holds these words.
fn await_line(fleet: &Fleet, signal: S, words: &str) -> LogLine {
    eventually(&format!("{signal:?}: {words}"), LIMIT, || {
        let mut lines = probed(fleet).into_iter();
        let found = lines.find(|l| l.signal == signal as i32 && l.message.contains(words));
        found.ok_or_else(|| told(fleet))
    })
}

fn told(fleet: &Fleet) -> String {
    let lines = probed(fleet).into_iter().map(|l| format!("{:?} {}", l.signal(), l.message));
    format!("{:#?}\n{}", lines.collect::<Vec<_>>(), fleet.agent("web-1").log_text())
}

/// A certificate for a name that is good for some days, and its key.
fn certificate(root: &Root, name: &str, days: u32) -> (PathBuf, PathBuf) {
    let dir = root.mkdir("etc/ssl/private");
    let (cert, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    let mut command = Command::new(find_program(&["openssl"], "openssl"));
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-subj", &format!("/CN={name}"), "-days", &days.to_string()]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&cert);
    Output::of(&mut command).good().expect("openssl makes a certificate");
    (cert, key)
}

/// Every line of the logs of a web server.
fn log_lines(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("the logs are readable");
    let texts = entries.map(|entry| fs::read_to_string(entry.expect("listed").path()));
    texts.collect::<Result<String, _>>().expect("a log is text")
}

fn proxy(name: &str, to: impl Into<String>) -> (String, String) {
    (name.to_owned(), to.into())
}

/// Sites that are asked, one over TLS behind another, and a status page.
fn asked_blocks(root: &Root, plain: SocketAddr, secure: SocketAddr) -> Vec<(String, String)> {
    let (cert, key) = certificate(root, "secure.test", 3);
    let logs = root.join("var/log/nginx").display().to_string();
    let site = |name: &str, inside: &str| {
        let log = format!("access_log {logs}/{name}.log combined;");
        let block = format!(
            "server {{ listen {plain}; server_name {name}; {log} location / {{ {inside} }} }}"
        );
        proxy(name, block)
    };
    let tls = format!(
        "server {{ listen {secure} ssl; server_name secure.test; access_log {logs}/tls.log combined;\n\
         ssl_certificate {}; ssl_certificate_key {}; location / {{ return 204; }} }}",
        cert.display(),
        key.display()
    );
    let status = format!(
        "server {{ listen {plain}; server_name status.test; access_log off;\n\
         location = /nginx_status {{ stub_status; allow 127.0.0.0/8; deny all; }} }}"
    );
    vec![
        site("asked.test", "return 204;"),
        site("other.test", "return 204;"),
        site("front.test", &format!("proxy_pass https://{secure};")),
        proxy("secure.test", tls),
        proxy("status.test", status),
    ]
}

/// The tests' HAProxy wants to know who asks.
const BEHIND_A_PROXY: &str =
    "PROXY TCP4 198.51.100.7 127.0.0.1 40000 80\r\nGET / HTTP/1.1\r\nHost: far.test\r\n\r\n";

/// Clients that say this and wait.
fn hold(address: SocketAddr, n: usize, text: &str) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(text.as_bytes()).expect("it reads");
        stream
    };
    (0..n).map(open).collect()
}

#[test]
fn servers_databases_and_caches_tell_how_they_are() {
    let root = Root::new();
    let (plain, secure) = (loopback(8080), loopback(8443));
    let blocks = asked_blocks(&root, plain, secure);
    let _nginx = Nginx::start_with(&root, plain, &blocks);
    let apache = Apache::start_status(&root);
    let slow = slow_server();
    let sites = [ProxySite { name: "far.test".into(), upstream: Some(Upstream::Tcp(slow)) }];
    let haproxy = Haproxy::start(&root, &sites, HaproxyLog::Traditional);
    let mut redis = Redis::start(&root, 77);
    let memcached = Memcached::start(&root, 64);
    // As root: HAProxy's socket lets nobody else in.
    let agent = AgentSpec::new("web-1").root(&root).toml(
        "[probes]\nloopback_head = [\"asked.*\", \"secure.test\"]\nloopback_interval = \"10s\"\n",
    );
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let at_least = |n: f64| move |value: f64| value >= n;
    // Clients that are seen in the numbers: requests that never end, and idle connections.
    let _held = [
        hold(apache.address(), 3, "GET / HTTP/1.1\r\n"),
        hold(haproxy.address(), 2, BEHIND_A_PROXY),
        hold(redis.address(), 5, ""),
        hold(memcached.address(), 4, ""),
    ];

    await_value(&fleet, "nginx.connections_current{state=active}", at_least(1.0));
    await_value(&fleet, "nginx.requests{}", at_least(1.0));
    await_value(&fleet, "apache.workers{state=busy}", at_least(4.0));
    await_value(&fleet, "apache.scoreboard{state=open}", at_least(1.0));
    await_value(&fleet, "haproxy.connections.limit{}", |v| v == 500.0);
    await_value(&fleet, "haproxy.sessions.count{backend=be_far}", |v| v == 2.0);
    await_value(&fleet, "db.client.connections.limit{service=memcached}", |v| v == 64.0);
    await_value(&fleet, &up(&memcached.address().to_string()), |v| v == 1.0);
    await_value(&fleet, "db.client.connections.usage{service=memcached}", |v| v == 4.0);
    await_value(&fleet, "db.client.connections.usage{service=redis}", |v| v == 5.0);
    await_value(&fleet, &up(&redis.address().to_string()), |v| v == 1.0);

    let days = 86_400.0;
    let three_days = |v: f64| v > 2.9 * days && v <= 3.0 * days;
    await_value(&fleet, &format!("tls.server.expires_in{{upstream={secure}}}"), three_days);
    await_value(&fleet, "tls.server.expires_in{site=secure.test}", three_days);
    // It is good for now: no cause of anything.
    await_line(&fleet, S::Unspecified, "certificate of secure.test expires in 2 days");

    await_value(&fleet, "http.server.probe.status{site=asked.test}", |v| v == 204.0);
    await_value(&fleet, "http.server.probe.status{site=secure.test}", |v| v == 204.0);
    await_value(&fleet, "http.server.probe.duration{site=asked.test}", |v| v > 0.0 && v < 5.0);
    let nginx_logs = log_lines(&root.join("var/log/nginx"));
    let asked: Vec<_> =
        nginx_logs.lines().filter(|line| line.contains("gatewatch-probe")).collect();
    assert!(!asked.is_empty() && asked.iter().all(|line| line.contains("\"HEAD / ")), "{asked:#?}");
    let other = fs::read_to_string(root.join("var/log/nginx/other.test.log")).expect("it has one");
    assert_eq!(other, "", "a site that is not named is not asked");

    let of_redis = || probed(&fleet).into_iter().filter(|l| l.message.contains("redis")).count();
    let n_before = of_redis(); // a busy machine may have made it slow for once
    redis.stop();
    let line = await_line(&fleet, S::ConnectRefused, "cannot connect to redis at");
    assert!(line.message.ends_with("(nobody listens there)"), "{}", line.message);
    await_value(&fleet, &up(&redis.address().to_string()), |v| v == 0.0);
    assert_eq!(of_redis() - n_before, 1, "{}", told(&fleet));
    assert!(!probed(&fleet).iter().any(|line| line.signal() == S::Tls), "{}", told(&fleet));
}

/// A server that answers and never gets to the end.
fn slow_server() -> SocketAddr {
    let listener = TcpListener::bind(loopback(3000)).expect("the address was free just now");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut text = &b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"[..];
                while stream.write_all(text).is_ok() {
                    harness::pause(Duration::from_millis(500));
                    text = b"x";
                }
            });
        }
    });
    address
}

#[test]
fn own_questions_are_no_traffic_and_keep_nobody_in_haste() {
    let root = Root::new();
    let at = loopback(8080);
    let logs = root.join("var/log/nginx").display().to_string();
    let block = |name: &str, inside: &str| {
        let log = format!("access_log {logs}/{name}.log combined;");
        let text = format!(
            "server {{ listen {at}; server_name {name}; {log} location / {{ {inside} }} }}"
        );
        proxy(name, text)
    };
    let dead = loopback(3000);
    let blocks = [
        block("status.test", "stub_status;"),
        block("dead.test", &format!("proxy_pass http://{dead};")),
    ];
    let _nginx = Nginx::start_with(&root, at, &blocks);
    let agent = AgentSpec::new("web-1")
        .root(&root)
        .unprivileged()
        .toml("[probes]\nloopback_head = [\"dead.test\"]\nloopback_interval = \"10s\"\n");
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let counted = |site: &str, status| {
        fleet.db().requests("web-1").get(&(site.to_owned(), status)).copied().unwrap_or_default()
    };
    await_value(&fleet, "nginx.connections_current{state=active}", |v| v >= 1.0);
    await_value(&fleet, "http.server.probe.status{site=dead.test}", |v| v == 502.0);
    eventually("three failed questions are counted", LIMIT, || {
        let n = counted("dead.test", 502);
        if n >= 3 { Ok(()) } else { Err(format!("{n}\n{}", told(&fleet))) }
    });
    let log = fs::read_to_string(root.join("var/log/nginx/status.test.log")).expect("it has one");
    assert!(log.lines().filter(|line| line.contains("gatewatch-probe/")).count() >= 2, "{log}");
    assert_eq!(counted("status.test", 200), 0, "nobody visits it");
    let status = fleet.agent("web-1").status().expect("it runs").to_string();
    assert!(status.contains("\"own_request\":"), "{status}");
    // At rest the backend is asked every 10 s; while errors flow, each second.
    let n_asked = values(&fleet)[&up(&dead.to_string())].len();
    let n_failed = counted("dead.test", 502) as usize;
    assert!(n_asked <= 2 * n_failed + 3, "{n_asked} for {n_failed}: {}", told(&fleet));
}

#[test]
fn a_socket_that_only_others_see_is_absent_and_never_down() {
    let root = Root::new();
    let folder = root.mkdir("srv/private");
    let path = folder.join("app.sock");
    let _listener = UnixListener::bind(&path).expect("the root is writable");
    let (at, alive) = (loopback(8080), loopback(8081));
    let _alive = TcpListener::bind(alive).expect("the address was free just now");
    let sites =
        [("hidden.test", format!("unix:{}:", path.display())), ("alive.test", alive.to_string())];
    let _nginx = Nginx::start_with(&root, at, &far_blocks(&root, at, &sites));
    // Its own folder there, as `PrivateTmp=` makes it.
    let unshare = find_program(&["unshare"], "util-linux").display().to_string();
    let script = "mount -t tmpfs none \"$0\" && exec \"$@\"";
    let folder = folder.display().to_string();
    let words = [&unshare, "--mount", "--propagation", "private", "sh", "-c", script, &folder];
    let agent = AgentSpec::new("web-1").root(&root).wrapper(&words);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    eventually("two rounds", LIMIT, || {
        let n = values(&fleet).get(&up(&alive.to_string())).map_or(0, Vec::len);
        if n >= 2 { Ok(()) } else { Err(told(&fleet)) }
    });
    let all = values(&fleet);
    assert!(!all.keys().any(|key| key.contains("app.sock")), "{:?}", all.keys());
    assert!(probed(&fleet).is_empty(), "{}", told(&fleet));
    let log = fleet.agent("web-1").log_text();
    let n = log.matches("app.sock: its socket lies where the agent does not see it").count();
    assert_eq!(n, 1, "absent, and told once: {log}");
}

fn up(address: &str) -> String {
    format!("gatewatch.upstream.up{{upstream={address}}}")
}

#[test]
fn a_mariadb_without_room_is_seen_from_outside_and_left_alone_while_it_has_some() {
    let root = Root::new();
    let mariadb = Mariadb::start(&root);
    let planned = [ProxySite { name: "planned.test".into(), upstream: None }];
    let _nginx = Nginx::start_proxy(&root, &planned);
    let agent = AgentSpec::new("web-1").root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let socket = mariadb.socket().display().to_string();
    await_value(&fleet, "db.client.connections.limit{service=mysql}", |v| v == 10.0);
    await_value(&fleet, "db.client.connections.usage{service=mysql}", |v| v == 0.0);
    await_value(&fleet, &up(&socket), |v| v == 1.0);
    let before = mariadb.log_text().matches("Aborted connection").count();
    let n_rounds = || values(&fleet).get(&up(&socket)).map_or(0, Vec::len);
    let n = n_rounds();
    eventually(
        "a further round",
        LIMIT,
        || {
            if n_rounds() > n { Ok(()) } else { Err(told(&fleet)) }
        },
    );
    let after = mariadb.log_text().matches("Aborted connection").count();
    assert_eq!(after, before, "MariaDB logs who only connects: {}", mariadb.log_text());

    // MariaDB hangs up on who does not log in, after 10 s, so they are taken anew.
    let line = eventually("it has no room", LIMIT, || {
        let held = mariadb.take_all();
        let seen = |l: &LogLine| l.signal() == S::TooManyConnections;
        let started = harness::instant();
        while started.elapsed() < Duration::from_secs(8) {
            if let Some(line) = probed(&fleet).into_iter().find(seen) {
                drop(held);
                return Ok(line);
            }
            harness::pause(Duration::from_millis(100));
        }
        Err(told(&fleet))
    });
    let want = format!("cannot connect to mysql at {socket} (error 1040: Too many connections)");
    assert_eq!(line.message, want);
    await_value(&fleet, "db.client.connections.usage{service=mysql}", |v| v >= 10.0);
    await_value(&fleet, &up(&socket), |v| v == 0.0);
}

/// Sites of an nginx that passes each to another address; those with a variable resolve names late.
pub(crate) fn far_blocks(
    root: &Root,
    at: SocketAddr,
    sites: &[(&str, String)],
) -> Vec<(String, String)> {
    let logs = root.join("var/log/nginx").display().to_string();
    let block = |(name, to): &(&str, String)| {
        let text = format!(
            "server {{ listen {at}; server_name {name}; access_log {logs}/{name}.log combined;\n\
             location / {{ set $far {to}; proxy_pass http://$far; proxy_connect_timeout 1s; }} }}"
        );
        proxy(name, text)
    };
    sites.iter().map(block).collect()
}

#[test]
fn firewalls_between_gateway_and_backend_are_told_apart() {
    let root = Root::new();
    let mut machine = Machine::start();
    machine.serve(&root, 3000);
    machine.firewall(
        "add table ip filter; add chain ip filter input { type filter hook input priority 0; }; \
         add rule ip filter input tcp dport 3001 reject with icmp type host-unreachable; \
         add rule ip filter input tcp dport 3002 drop; \
         add rule ip filter input tcp dport 3004 reject with tcp reset",
    );
    let far = |port: u16| machine.address(2, port).to_string();
    let names = ["good.test", "rejected.test", "dropped.test", "closed.test", "reset.test"];
    let ports = [3000, 3001, 3002, 3003, 3004];
    let mut sites: Vec<_> =
        names.iter().zip(ports).map(|(name, port)| (*name, far(port))).collect();
    // One that the agent's user may not open: nothing is known of it.
    let locked = root.mkdir("run").join("locked.sock");
    let _listener = UnixListener::bind(&locked).expect("the root is writable");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o600)).expect("it is ours");
    sites.push(("locked.test", format!("unix:{}:", locked.display())));
    let at = loopback(8080);
    let _nginx = Nginx::start_with(&root, at, &far_blocks(&root, at, &sites));
    let agent = AgentSpec::new("web-1").root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();

    await_value(&fleet, &up(&far(3000)), |v| v == 1.0);
    for (signal, port, words) in [
        (S::Unreachable, 3001, "(no route to host), used by rejected.test"),
        (S::ConnectTimeout, 3002, "(connection timed out after 1.0 s), used by dropped.test"),
        (S::ConnectRefused, 3003, "(connection refused), used by closed.test"),
        (S::ConnectRefused, 3004, "(connection refused), used by reset.test"),
    ] {
        let line = await_line(&fleet, signal, &far(port));
        assert_eq!(line.message, format!("cannot connect to {} {words}", far(port)));
        await_value(&fleet, &up(&far(port)), |v| v == 0.0);
    }
    let all = values(&fleet);
    assert!(!all.keys().any(|key| key.contains("locked.sock")), "{:?}", all.keys());
    let log = fleet.agent("web-1").log_text();
    let n = log.matches("locked.sock: the agent's user may not open it").count();
    assert_eq!(n, 1, "absent, and told once: {log}");
    let took = |port| format!("gatewatch.upstream.connect.duration{{upstream={}}}", far(port));
    await_value(&fleet, &took(3000), |v| v < 0.5);
    await_value(&fleet, &took(3001), |v| v < 0.9);
    await_value(&fleet, &took(3002), |v| (1.0..2.0).contains(&v));

    // The firewall of the good one is closed and opened again: each is told once.
    machine.firewall("insert rule ip filter input tcp dport 3000 drop");
    await_line(&fleet, S::ConnectTimeout, &far(3000));
    machine.firewall("flush chain ip filter input");
    await_line(&fleet, S::Unspecified, &format!("{} can be connected to again", far(3000)));
    let n = probed(&fleet).iter().filter(|l| l.message.contains(&far(3000))).count();
    assert_eq!(n, 2, "{}", told(&fleet));
    let logs = log_lines(&root.join("var/log/nginx"));
    assert!(!logs.contains("gatewatch-probe"), "no site is asked unless it is named: {logs}");
}

#[test]
fn names_that_change_and_vanish_are_told() {
    let root = Root::new();
    let mut machine = Machine::start();
    machine.serve(&root, 3000);
    let mut names = NameServer::start();
    names.set("app.internal", machine.ip(2));
    names.set("here.test", machine.ip(1));
    let sites = [
        ("here.test", "app.internal:3000".to_owned()),
        ("closed.test", machine.address(2, 3003).to_string()),
    ];
    let at = loopback(8080);
    let _nginx = Nginx::start_with(&root, at, &far_blocks(&root, at, &sites));
    let wrapper = names.wrapper(&root);
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let agent = AgentSpec::new("web-1").root(&root).wrapper(&words);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();

    await_value(&fleet, &up("app.internal:3000"), |v| v == 1.0);
    await_value(&fleet, "gatewatch.dns.duration{name=app.internal}", |v| v < 2.0);
    await_value(&fleet, "gatewatch.dns.points_here{site=here.test}", |v| v == 1.0);
    names.set("app.internal", machine.ip(3));
    // Errors flow: names are asked for more often.
    let want = format!("app.internal {} to {}", machine.ip(2), machine.ip(3));
    eventually("the name has another address", LIMIT, || {
        assert_eq!(get(at, "closed.test", "/"), 502);
        let told = changes(&fleet, "dns");
        if told == [want.clone()] { Ok(()) } else { Err(format!("{told:?}")) }
    });
    names.stop();
    let line = await_line(&fleet, S::Dns, "cannot resolve app.internal (");
    assert!(line.message.ends_with("), used by here.test"), "{}", line.message);
    // Its last address is known, and answers.
    let all = values(&fleet);
    assert_eq!(all[&up("app.internal:3000")].last(), Some(&1.0));
}

#[test]
fn nothing_is_connected_to_when_it_is_switched_off() {
    let root = Root::new();
    let at = loopback(8080);
    let status = format!(
        "server {{ listen {at}; server_name status.test;\n\
         access_log {}/status.log combined; location /s {{ stub_status; }} }}",
        root.join("var/log/nginx").display()
    );
    let _nginx = Nginx::start_with(&root, at, &[proxy("status.test", status)]);
    let agent =
        AgentSpec::new("web-1").root(&root).unprivileged().toml("[probes]\nupstreams = false\n");
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    eventually("two rounds of samples", LIMIT, || {
        let n = values(&fleet).get("system.memory.available{}").map_or(0, Vec::len);
        if n >= 2 { Ok(()) } else { Err(format!("{n}")) }
    });
    let ours = ["nginx.", "gatewatch.upstream.", "db.client."];
    let all = values(&fleet);
    let asked: Vec<_> = all.keys().filter(|k| ours.iter().any(|o| k.starts_with(o))).collect();
    assert!(asked.is_empty(), "{asked:?}");
    let log = fs::read_to_string(root.join("var/log/nginx/status.log")).expect("it has one");
    assert_eq!(log, "");
}
