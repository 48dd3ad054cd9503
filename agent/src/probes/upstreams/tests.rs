//! Rounds against servers of this process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use wire::catalog;

use super::*;
use crate::discover::Site;
use crate::discover::stores::{Store, StoreKind};

/// A prober with a discovery, and what it hands on.
struct Bench {
    prober: Prober,
    discovery: watch::Sender<Arc<Discovery>>,
    sent: mpsc::Receiver<Observation>,
}

impl Bench {
    fn new(discovery: Discovery) -> Self {
        let (tx, sent) = mpsc::channel(1000);
        let (discovery_tx, discovery) = watch::channel(Arc::new(discovery));
        let (_, gather) = watch::channel(GatherStatus::default());
        let config = ProbesConfig { dns: false, ..ProbesConfig::default() };
        let mut inputs = UpstreamInputs { config, root: "/".into(), discovery, gather };
        let mut prober = Prober::new(&mut inputs, Outlet::new(tx, Arc::default()));
        prober.late = patience(LATE);
        Self { prober, discovery: discovery_tx, sent }
    }

    /// One round; its values as `metric{attribute} value`, without those of time, and its lines.
    async fn round(&mut self, is_full: bool, after_s: u64) -> (Vec<String>, Vec<LogEvidence>) {
        let now = clock::instant() + Duration::from_secs(after_s);
        let at = UnixMillis(0);
        let round = Round::new(at, now, !is_full, is_full);
        self.prober.round(round).await;
        let (mut values, mut lines) = (Vec::new(), Vec::new());
        while let Ok(observation) = self.sent.try_recv() {
            match observation {
                Observation::Samples { values: more, .. } => values.extend(more),
                Observation::Log(line) => lines.push(line),
                other => panic!("{other:?}"),
            }
        }
        for (metric, attribute, value) in &values {
            let row = catalog::find(metric).unwrap_or_else(|| panic!("{metric} has no row"));
            assert!(row.to_wire(*value).is_some(), "{metric}{{{attribute}}} = {value}");
        }
        let shown = values.iter().filter(|(metric, ..)| !metric.ends_with("duration"));
        (shown.map(|(m, a, v)| format!("{m}{{{a}}} {v}")).collect(), lines)
    }
}

fn backend(address: &str, is_script: bool) -> Backend {
    let sites = vec!["a.example".to_owned()];
    let address = address.to_owned();
    Backend { address, sites, n_sites: 1, is_script, ..Backend::default() }
}

/// A server that answers every connection with these bytes and counts them.
fn answers(bytes: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    serve(bytes, true)
}

fn serve(bytes: &'static [u8], hangs_up: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let n = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Ordering::Relaxed);
            let Ok(mut stream) = stream else { continue };
            std::thread::spawn(move || {
                drop(stream.write_all(bytes));
                let mut question = [0; 256];
                // So that the answer is read before the connection is reset.
                if hangs_up {
                    drop(stream.shutdown(std::net::Shutdown::Write));
                }
                while stream.read(&mut question).is_ok_and(|n| n > 0) {}
            });
        }
    });
    (address, n)
}

#[tokio::test]
async fn backends_are_connected_to_but_a_worker_of_php_is_never_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let script = UnixListener::bind(path("php.sock")).unwrap();
    script.set_nonblocking(true).unwrap();
    let _app = UnixListener::bind(path("app.sock")).unwrap();
    drop(UnixListener::bind(path("dead.sock")).unwrap());
    let (tcp, n_tcp) = answers(b"");
    let backends = vec![
        backend(&path("php.sock"), true),
        backend(&path("app.sock"), false),
        backend(&path("dead.sock"), false),
        backend(&path("none.sock"), true),
        backend(&tcp.to_string(), false),
        backend("app.internal:80", false),
    ];
    let mut bench = Bench::new(Discovery { backends, ..Discovery::default() });
    let (mut values, lines) = bench.round(true, 0).await;
    let up = |address: &str, n: u32| format!("gatewatch.upstream.up{{upstream={address}}} {n}");
    values.sort();
    let mut want = vec![
        up(&path("php.sock"), 1),
        up(&path("app.sock"), 1),
        up(&path("dead.sock"), 0),
        up(&path("none.sock"), 0),
        up(&tcp.to_string(), 1),
    ];
    want.sort();
    assert_eq!(values, want);
    let started = clock::instant();
    while n_tcp.load(Ordering::Relaxed) < 1 {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody connected");
        std::thread::yield_now();
    }
    assert!(script.accept().is_err(), "nobody connected to PHP");
    let mut told: Vec<_> = lines.iter().map(|l| (l.signal, l.message.as_str())).collect();
    told.sort_by_key(|(signal, _)| signal.map(|signal| signal as i32));
    let dead =
        format!("cannot connect to {} (connection refused), used by a.example", path("dead.sock"));
    let none =
        format!("cannot connect to {} (no such socket), used by a.example", path("none.sock"));
    let want = [(Some(Signal::ConnectRefused), &*dead), (Some(Signal::NoSuchSocket), &*none)];
    assert_eq!(told, want);
    assert!(lines.iter().all(|line| line.source == "probe"));

    // While errors flow only those that fail are asked each second, and told once.
    let (values, lines) = bench.round(false, 1).await;
    assert_eq!((values.len(), lines.len()), (2, 0), "{values:?}");
    let _alive = UnixListener::bind(path("none.sock")).unwrap();
    // What it knows is good for 1 s.
    *bench.prober.listeners.lock().unwrap() = Listeners::new("/".as_ref());
    let (values, lines) = bench.round(false, 61).await;
    assert!(values.contains(&up(&path("none.sock"), 1)), "{values:?}");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].message.contains("can be connected to again after 6"), "{lines:?}");
}

#[tokio::test]
async fn more_backends_than_one_round_takes_are_asked_in_turns() {
    let backends: Vec<_> =
        (0..ROUND_MAX + 50).map(|n| backend(&format!("/none/{n}.sock"), false)).collect();
    let mut bench = Bench::new(Discovery { backends, ..Discovery::default() });
    let (first, _) = bench.round(true, 0).await;
    assert_eq!(first.len(), ROUND_MAX);
    let second = bench.prober.pick(&bench.discovery.borrow().backends.clone(), true);
    assert_eq!(second[0].address, "/none/200.sock", "first those that had no turn");
    assert_eq!(second.len(), ROUND_MAX + 50, "then others, and those that fail");
    let fast = bench.prober.pick(&bench.discovery.borrow().backends.clone(), false);
    assert_eq!(fast.len(), FAILING_MAX);
}

fn store(kind: StoreKind, address: SocketAddr) -> Store {
    let bind = Some(address.ip().to_string());
    let sockets = vec!["/none/a.sock".to_owned()];
    Store {
        sockets,
        port: Some(address.port()),
        bind,
        connections_max: Some(1),
        ..Store::usual(kind)
    }
}

#[tokio::test]
async fn a_database_at_rest_is_not_connected_to_and_a_full_one_says_so() {
    let (mysql, n_mysql) = serve(b"\x17\0\0\x01\xff\x10\x04Too many connections", false);
    let stores = vec![store(StoreKind::Mysql, mysql)];
    let mut bench = Bench::new(Discovery { stores, ..Discovery::default() });
    let up = |n: u32| format!("gatewatch.upstream.up{{upstream={mysql}}} {n}");
    let usage = |n: u32| format!("db.client.connections.usage{{service=mysql}} {n}");
    let limit = "db.client.connections.limit{service=mysql} 1".to_owned();
    let (values, lines) = bench.round(true, 0).await;
    assert_eq!(values, [up(1), usage(0), limit.clone()]);
    assert_eq!((n_mysql.load(Ordering::Relaxed), lines), (0, Vec::new()));
    // All its connections are taken: now its greeting is read.
    let _client = std::net::TcpStream::connect(mysql).unwrap();
    let taken = tokio::time::timeout(Duration::from_secs(60), async {
        // A connection that nobody accepted yet is held by nobody.
        while n_mysql.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    taken.await.expect("the server accepts");
    let (values, lines) = bench.round(true, 10).await;
    assert_eq!(values, [up(0), usage(1), limit]);
    assert_eq!(lines[0].signal, Some(Signal::TooManyConnections));
    let want = format!("cannot connect to mysql at {mysql} (error 1040: Too many connections)");
    assert_eq!(lines[0].message, want);
}

#[tokio::test]
async fn caches_tell_their_own_connections() {
    let (redis, _) = answers(
        b"+PONG\r\n$9\r\nconnected_clients:3\r\nmaxclients:100\r\nblocked_clients:1\r\n\r\n+OK\r\n",
    );
    let (memcached, _) =
        answers(b"STAT curr_connections 5\r\nSTAT max_connections 1024\r\nEND\r\n");
    let stores = vec![
        store(StoreKind::Redis, redis),
        Store { connections_max: None, ..store(StoreKind::Memcached, memcached) },
        Store {
            sockets: vec!["/none/p.sock".into()],
            port: Some(0),
            ..Store::usual(StoreKind::Postgres)
        },
    ];
    let mut bench = Bench::new(Discovery { stores, ..Discovery::default() });
    let (values, lines) = bench.round(true, 0).await;
    let want = [
        format!("gatewatch.upstream.up{{upstream={redis}}} 1"),
        "db.client.connections.usage{service=redis} 2".to_owned(),
        "db.client.connections.limit{service=redis} 100".to_owned(),
        "redis.clients.blocked{service=redis} 1".to_owned(),
        format!("gatewatch.upstream.up{{upstream={memcached}}} 1"),
        "db.client.connections.usage{service=memcached} 4".to_owned(),
        "db.client.connections.limit{service=memcached} 1024".to_owned(),
    ];
    assert_eq!((values, lines), (want.to_vec(), Vec::new()), "what never ran is absent");
}

#[tokio::test]
async fn no_site_is_asked_for_its_page_unless_it_is_named() {
    let (address, n) = answers(b"HTTP/1.1 301 Moved\r\n\r\n");
    let listen = vec![crate::discover::backends::Listen { address, is_tls: false }];
    let site = Site { name: "shop.example".into(), listen, ..Site::default() };
    let discovery = Discovery { sites: vec![site], ..Discovery::default() };
    let mut bench = Bench::new(discovery.clone());
    assert_eq!(bench.round(true, 0).await, (Vec::new(), Vec::new()));
    assert_eq!(n.load(Ordering::Relaxed), 0);
    let mut bench = Bench::new(discovery);
    let config = ProbesConfig { loopback_head: vec!["shop.*".into()], ..ProbesConfig::default() };
    bench.prober.heads = Heads::new(&config);
    let (values, _) = bench.round(true, 0).await;
    assert_eq!(values, ["http.server.probe.status{site=shop.example} 301"]);
    assert_eq!(bench.round(true, 10).await.0, [""; 0], "once a minute");
    assert_eq!(n.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_socket_in_a_folder_that_only_others_see_is_unknown_and_never_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.sock");
    let _app = UnixListener::bind(&path).unwrap();
    // Its file is gone from sight, as under a private /tmp; the kernel still lists it.
    std::fs::remove_file(&path).unwrap();
    let address = path.display().to_string();
    let store = Store {
        sockets: vec![address.clone()],
        port: Some(0),
        ..Store::usual(StoreKind::Postgres)
    };
    let discovery = Discovery {
        backends: vec![backend(&address, false)],
        stores: vec![store],
        ..Discovery::default()
    };
    let mut bench = Bench::new(discovery);
    let (values, lines) = bench.round(true, 0).await;
    let counted = "db.client.connections.usage{service=postgresql} 0".to_owned();
    assert_eq!((values, lines), (vec![counted], Vec::new()), "only what the kernel tells");
}

#[tokio::test]
async fn whoever_runs_scripts_is_not_dialled_when_the_kernel_cannot_tell_either() {
    let (php, n_php) = answers(b"");
    let backends = vec![backend(&php.to_string(), true), backend("app.internal:9000", true)];
    let mut bench = Bench::new(Discovery { backends, ..Discovery::default() });
    // The kernel's lists are out of reach.
    let listeners = Arc::clone(&bench.prober.listeners);
    let (release, hung) = std::sync::mpsc::channel::<()>();
    let (tell, is_held) = std::sync::mpsc::channel::<()>();
    let hanging = std::thread::spawn(move || {
        let _held = listeners.lock().unwrap();
        tell.send(()).unwrap();
        assert!(hung.recv().is_err());
    });
    is_held.recv().unwrap();
    let seen = bench.round(true, 0).await;
    drop(release);
    hanging.join().unwrap();
    assert_eq!(seen, (Vec::new(), Vec::new()));
    assert_eq!(n_php.load(Ordering::Relaxed), 0);
}

/// A port of all addresses of loopback whose backlog is full: connections get no answer.
fn deaf() -> (TcpListener, Vec<std::net::TcpStream>) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let limit = Duration::from_millis(300);
    let mut held = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, limit) {
        held.push(stream);
        assert!(held.len() < 100, "it takes any number");
    }
    (listener, held)
}

#[tokio::test]
async fn hundreds_of_backends_behind_one_dead_switch_do_not_block_a_round_for_a_minute() {
    let (listener, _held) = deaf();
    let port = listener.local_addr().unwrap().port();
    let backends: Vec<_> =
        (1..=200).map(|n| backend(&format!("127.0.0.{n}:{port}"), false)).collect();
    let mut bench = Bench::new(Discovery { backends, ..Discovery::default() });
    bench.prober.late = LATE;
    // One try each would take 25 s. Where the machine stands still for its time a round asks nobody.
    let mut first = BTreeSet::new();
    for _ in 0..10 {
        if first.is_empty() {
            first = bench.round(true, 0).await.0.into_iter().collect();
        }
    }
    assert!((1..200).contains(&first.len()), "the rest waits: {}", first.len());
    assert!(first.iter().all(|value| value.ends_with(" 0")), "{first:?}");
    let picked = bench.prober.pick(&bench.discovery.borrow().backends.clone(), true);
    let next = format!("gatewatch.upstream.up{{upstream={}}} 0", picked[0].address);
    assert!(!first.contains(&next), "those that waited come first: {next}");
}

#[tokio::test]
async fn a_local_user_at_a_usual_socket_is_no_database() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("tmp");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let path = folder.join("mysql.sock").display().to_string();
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let store = |sockets_are_guessed| Store {
        sockets: vec![path.clone()],
        sockets_are_guessed,
        port: Some(0),
        ..Store::usual(StoreKind::Mysql)
    };
    let found = |store| Discovery { stores: vec![store], ..Discovery::default() };
    let mut bench = Bench::new(found(store(true)));
    assert_eq!(bench.round(false, 0).await, (Vec::new(), Vec::new()));
    assert!(listener.accept().is_err(), "it is not even asked");
    let mut bench = Bench::new(found(store(false)));
    let (values, lines) = bench.round(true, 0).await;
    let want = [
        format!("gatewatch.upstream.up{{upstream={path}}} 1"),
        "db.client.connections.usage{service=mysql} 0".to_owned(),
    ];
    assert_eq!((values, lines), (want.to_vec(), Vec::new()), "no limit is made up");
}

#[tokio::test]
async fn status_pages_are_not_asked_each_second_and_a_bad_site_name_is_no_answer() {
    use crate::discover::backends::{Listen, StatusKind, StatusPage};
    let (page, n_page) = answers(b"HTTP/1.0 200 OK\r\n\r\nActive connections: 7 \n");
    let status_page = StatusPage {
        kind: StatusKind::Nginx,
        address: page.to_string(),
        path: "/s".into(),
        host: "localhost".into(),
        is_tls: false,
        source: String::new(),
    };
    let listen = vec![Listen { address: page, is_tls: false }];
    let site = Site { name: "*.shop.example".into(), listen, ..Site::default() };
    let discovery =
        Discovery { status_pages: vec![status_page], sites: vec![site], ..Discovery::default() };
    let mut bench = Bench::new(discovery);
    let config = ProbesConfig { loopback_head: vec!["*".into()], ..ProbesConfig::default() };
    bench.prober.heads = Heads::new(&config);
    for (is_full, want) in [(true, 1), (false, 1), (false, 1), (true, 2)] {
        let (values, _) = bench.round(is_full, 0).await;
        assert_eq!(n_page.load(Ordering::Relaxed), want);
        assert!(!values.iter().any(|value| value.starts_with("http.")), "{values:?}");
    }
}

#[tokio::test]
async fn a_question_that_fails_by_our_own_fault_is_no_answer_of_the_site() {
    use crate::discover::backends::Listen;
    // A name that TLS cannot ask for.
    let (address, _) = answers(b"");
    let listen = vec![Listen { address, is_tls: true }];
    let site = Site { name: "a..example".into(), listen, ..Site::default() };
    let discovery = Discovery { sites: vec![site], ..Discovery::default() };
    let mut bench = Bench::new(discovery);
    let config = ProbesConfig { loopback_head: vec!["*".into()], ..ProbesConfig::default() };
    bench.prober.heads = Heads::new(&config);
    assert_eq!(bench.round(true, 0).await, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn states_of_who_is_gone_are_forgotten_whatever_they_are_called() {
    let dead = "127.0.0.1:1";
    let backends = vec![backend(dead, false)];
    let mut bench = Bench::new(Discovery { backends, ..Discovery::default() });
    let now = clock::instant();
    let gone = ["name app.internal", "site old.example", "tls 10.0.0.7:443", "10.0.0.7:443"];
    let kept = format!("tls {dead}");
    for address in gone.iter().copied().chain([kept.as_str()]) {
        let subject = Subject {
            address: address.to_owned(),
            title: String::new(),
            used_by: String::new(),
            pool: None,
        };
        bench.prober.ledger.fold(&subject, &Err(Failure::no_answer(LATE)), now);
    }
    bench.round(true, 0).await;
    assert!(gone.iter().all(|address| !bench.prober.ledger.is_down(address)));
    assert!(bench.prober.ledger.is_down(dead) && bench.prober.ledger.is_down(&kept));
}
