//! What real servers say of themselves in their logs, of a kind that no failing backend makes them say:
//! limits of their own, names and groups, certificates, a script that took too much.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use harness::{
    AgentSpec, Fleet, Haproxy, NameServer, Nginx, PhpFpm, Pool, ProxySite, Root, Upstream, Vhost,
    eventually, get, loopback,
};
use rustix::process::Signal as Kill;
use wire::v1::Signal as S;

use crate::evidence::{exemplar, line};
use crate::farm::LIMIT;

fn start(root: &Root) -> Fleet {
    let agent = AgentSpec::new("web-1").root(root);
    Fleet::builder().agent(agent).batch_interval("200ms").start()
}

/// A site of nginx, by what is in its block.
fn site(root: &Root, at: SocketAddr, name: &str, inside: &str) -> (String, String) {
    let log = root.join("var/log/nginx").join(format!("{name}.log"));
    let text = format!(
        "server {{ listen {at}; server_name {name}; access_log {} combined;\n{inside} }}",
        log.display()
    );
    (name.to_owned(), text)
}

/// Sends requests to a site until its failure is stored with this signal, and nginx's own words.
fn fails(fleet: &Fleet, at: SocketAddr, name: &str, signal: S, words: &str) {
    eventually(&format!("{name} fails with {signal:?}"), LIMIT, || {
        assert_eq!(get(at, name, "/"), 502, "{name}");
        let signals = fleet.db().signals("web-1");
        let is_there = signals.contains_key(&(name.to_owned(), 502, signal.name()));
        if is_there { Ok(()) } else { Err(format!("{signals:#?}")) }
    });
    let said = exemplar(fleet, name, 502, signal).message.expect("nginx says why");
    assert!(said.contains(words), "{name}: {said}");
}

#[test]
fn an_nginx_that_fails_before_or_after_its_backend_is_recorded_with_its_own_words() {
    let root = Root::new();
    let (at, behind, deaf) = (loopback(8080), loopback(3000), loopback(3001));
    let names = NameServer::start();
    let (one, other) = (loopback(3002), loopback(3003));
    let group = format!(
        "proxy_pass http://gone; }} }} upstream gone {{ server {one}; server {other}; server {behind} down;"
    );
    let long = "$x".repeat(12);
    let header =
        format!("set $x \"{}\"; add_header X-Long \"{long}\"; return 200;", "x".repeat(1000));
    let blocks = [
        site(&root, behind, "backend.internal", &header),
        site(&root, at, "header.test", &format!("location / {{ proxy_pass http://{behind}; }}")),
        site(&root, at, "tls.test", &format!("location / {{ proxy_pass https://{behind}; }}")),
        site(
            &root,
            at,
            "deaf.test",
            &format!("location / {{ proxy_pass http://{deaf}; proxy_read_timeout 5s; }}"),
        ),
        site(
            &root,
            at,
            "name.test",
            &format!(
                "resolver {}; location / {{ set $to app.gone.internal; proxy_pass http://$to; }}",
                names.address()
            ),
        ),
        site(&root, at, "group.test", &format!("location / {{ {group}")),
    ];
    let nginx = Nginx::start_with(&root, at, &blocks);
    let fleet = start(&root);
    fails(&fleet, at, "header.test", S::TooBigHeader, "upstream sent too big header");
    fails(&fleet, at, "tls.test", S::Tls, "SSL_do_handshake() failed");
    fails(&fleet, at, "name.test", S::Dns, "could not be resolved");
    fails(&fleet, at, "group.test", S::ConnectRefused, "connect() failed (111: ");
    fails(&fleet, at, "group.test", S::NoLiveUpstreams, "no live upstreams");

    // Each of two workers may have twelve connections, and each request takes two that nobody ends.
    let conf = root.join("etc/nginx/nginx.conf");
    let text = fs::read_to_string(&conf).expect("nginx has one");
    let small = text.replace("worker_connections 512", "worker_connections 12");
    assert_ne!(text, small);
    fs::write(&conf, small).expect("it is ours");
    nginx.reload();
    let _deaf = TcpListener::bind(deaf).expect("nobody else has it");
    let ask = |_| std::thread::spawn(move || get(at, "deaf.test", "/"));
    let asked: Vec<JoinHandle<u16>> = (0..40).map(ask).collect();
    let line =
        line(&fleet, "nginx has no connections left", |line| line.signal() == S::WorkerConnections);
    assert_eq!(line.source, "nginx");
    assert!(line.message.contains("worker_connections are not enough"), "{line:?}");
    for one in asked {
        one.join().expect("a request does not panic");
    }
}

#[test]
fn a_script_that_takes_too_much_memory_or_time_is_recorded() {
    let root = Root::new();
    let pool = Pool::new("www").with("request_terminate_timeout = 2s");
    let mut php = PhpFpm::start(&root, &[pool]);
    let script = "<?php\nif (isset($_GET['eat'])) { ini_set('memory_limit', '4M'); \
                  echo str_repeat('x', 64 << 20); }\nif (isset($_GET['wait'])) { sleep(30); }\n";
    root.write("srv/www/index.php", script);
    let nginx = Nginx::start(&root, &Vhost::many("www", 1));
    let fleet = start(&root);
    let ask = |query: &str| get(nginx.address(), "www01.test", &format!("/index.php?{query}"));
    assert_eq!(ask("eat"), 500);
    let eaten = line(&fleet, "PHP has no memory left", |line| line.signal() == S::MemoryLimit);
    assert!(eaten.message.contains("Allowed memory size of 4194304 bytes"), "{eaten:?}");

    assert_eq!(ask("wait"), 502);
    let killed = line(&fleet, "the worker is ended", |line| {
        line.signal() == S::WorkerSignal && line.message.contains("exited on signal 15")
    });
    assert_eq!((killed.source.as_str(), killed.pool.as_str()), ("php_fpm", "www"));
    let late = line(&fleet, "why it is ended", |line| line.message.contains("execution timed out"));
    assert_eq!((late.source.as_str(), late.pool.as_str()), ("php_fpm", "www"));
    assert!(php.signal_workers("www", Kill::KILL) > 0);
    line(&fleet, "workers killed", |line| line.message.contains("exited on signal 9"));
}

#[test]
fn a_server_that_haproxy_takes_out_is_recorded() {
    let root = Root::new();
    let behind = loopback(3000);
    let listener = TcpListener::bind(behind).expect("nobody else has it");
    let sites = [ProxySite { name: "far.test".into(), upstream: Some(Upstream::Tcp(behind)) }];
    let _haproxy = Haproxy::start_checking(&root, &sites);
    let fleet = start(&root);
    drop(listener);
    let line = line(&fleet, "HAProxy says so", |line| line.signal() == S::ServerDown);
    assert_eq!(line.source, "syslog");
    assert!(line.message.contains("be_far/s1 is DOWN"), "{line:?}");
}
