//! Tests of the tellers: against a receiver on loopback, over lines of which each answer is known, and
//! through crashes.

mod crash;
mod lines;

use std::collections::VecDeque;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::super::{Target, targets};
use super::*;
use crate::config::NotifyConfig;
use crate::model::{Incident, Notify, NotifyEvent, Transition, TransitionEvent};
use crate::store::incidents;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const QUICK: Pace = Pace { base: Duration::from_millis(20), cap: Duration::from_millis(40) };

/// A receiver on loopback: answers with the codes it was given, then 200, and keeps all.
#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<Mutex<VecDeque<u16>>>,
    got: Arc<Mutex<Vec<(String, String)>>>,
}

impl Receiver {
    async fn start(answers: &[u16]) -> (Self, String) {
        let receiver = Self::default();
        receiver.answers.lock().unwrap().extend(answers);
        let app = axum::Router::new()
            .route("/hook", axum::routing::post(Self::take))
            .with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (receiver, url)
    }

    #[expect(clippy::unused_async, reason = "axum calls async functions")]
    async fn take(State(this): State<Self>, headers: HeaderMap, body: String) -> StatusCode {
        let signature =
            headers[super::super::webhook::SIGNATURE_HEADER].to_str().unwrap().to_owned();
        this.got.lock().unwrap().push((signature, body));
        let code = this.answers.lock().unwrap().pop_front().unwrap_or(200);
        StatusCode::from_u16(code).unwrap()
    }

    fn got(&self) -> Vec<(String, String)> {
        self.got.lock().unwrap().clone()
    }

    async fn until_got(&self, n: usize) {
        for _ in 0..2000 {
            if self.got().len() >= n {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{n} wanted, got {:?}", self.events());
    }

    fn events(&self) -> Vec<String> {
        let event = |(_, body): &(String, String)| -> String {
            let body: Value = serde_json::from_str(body).unwrap();
            body["event"].as_str().unwrap().to_owned()
        };
        self.got().iter().map(event).collect()
    }
}

struct Collector {
    dir: tempfile::TempDir,
    store: Store,
}

impl Collector {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), format!("{KEY}\n")).unwrap();
        protect(&dir.path().join("key"), 0o600);
        Self { store: Store::open(dir.path()).unwrap(), dir }
    }

    fn targets(&self, urls: &[&str]) -> Vec<Target> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let configs: Vec<NotifyConfig> = urls.iter().map(|url| self.config(url)).collect();
        targets(&configs).unwrap()
    }

    fn config(&self, url: &str) -> NotifyConfig {
        NotifyConfig {
            kind: "webhook".into(),
            url: Some(url.to_owned()),
            secret_file: Some(self.dir.path().join("key")),
            ..NotifyConfig::default()
        }
    }

    /// Commits one change of the incident, which asks for a notification.
    async fn decide(&self, rev: u64, incident: Incident, event: NotifyEvent) {
        let transition = Transition {
            event: TransitionEvent::Update,
            at: clock::now(),
            key: incident.id.clone(),
            rev,
            sites: Vec::new(),
            servers: Vec::new(),
            notify: Some(Notify { event, due: clock::now() }),
            incident,
        };
        let write = self.store.write(move |tx| incidents::commit(tx, &[transition], b"", 0));
        write.await.unwrap();
    }

    fn start(&self, targets: Vec<Target>) -> Worker {
        let (stop, stats) = (CancellationToken::new(), Arc::new(Stats::default()));
        let (store, links) = (self.store.clone(), "http://gw".to_owned());
        let cut = CancellationToken::new();
        let run = crate::notify::run(
            store,
            targets,
            links,
            QUICK,
            Arc::clone(&stats),
            (stop.clone(), cut),
        );
        Worker { task: tokio::spawn(run), stop, stats }
    }

    /// Lets the clerk ask every route about what was decided, while nothing is sent.
    async fn ask(&self, targets: &[Target]) {
        let routes = targets.iter().map(|target| target.route.clone()).collect();
        let mut clerk = crate::notify::Clerk::new(self.store.clone(), routes);
        clerk.turn(clock::now(), false).await.unwrap();
    }

    async fn owed(&self) -> u64 {
        // In one reading: a page that is decided in between would count as nothing.
        let read = self.store.read(|conn| Ok((outbox::owed(conn)?, outbox::next_page(conn)?)));
        let (owed, pages) = read.await.unwrap();
        owed.iter().map(|owed| owed.n).sum::<u64>() + u64::from(pages.is_some())
    }

    async fn until_owed(&self, n: u64) {
        for _ in 0..2000 {
            if self.owed().await == n {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{n} wanted, owed: {:?}", self.store.read(outbox::owed).await);
    }
}

struct Worker {
    task: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    stats: Arc<Stats>,
}

impl Worker {
    /// The counters at the end: all is counted by then.
    async fn stop(self) -> Arc<Stats> {
        self.stop.cancel();
        self.task.await.unwrap();
        self.stats
    }
}

fn protect(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn incident(id: &str) -> Incident {
    Incident { id: id.to_owned(), ..crate::samples::incident() }
}

/// HMAC-SHA256 written out by its definition (RFC 2104), apart from the code under test.
fn hmac_sha256(key: &[u8], text: &[u8]) -> String {
    let pad = |byte: u8| -> Vec<u8> {
        (0..64).map(|i| key.get(i).copied().unwrap_or(0) ^ byte).collect()
    };
    let inner = ca::sha256(&[pad(0x36).as_slice(), text].concat());
    ca::hex(&ca::sha256(&[pad(0x5c).as_slice(), &inner].concat()))
}

#[tokio::test]
async fn a_message_is_signed_and_told_once() {
    let (receiver, url) = Receiver::start(&[]).await;
    let collector = Collector::new();
    let targets = collector.targets(&[&url]);
    collector.decide(1, incident("A"), NotifyEvent::Opened).await;
    let worker = collector.start(targets);
    collector.until_owed(0).await;
    let [(signature, body)] = &receiver.got()[..] else { panic!("{:?}", receiver.got()) };
    let message: Value = serde_json::from_str(body).unwrap();
    let keys: Vec<&String> = message.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["delivery", "event", "incident", "reason"]);
    assert_eq!(message["event"], "opened");
    assert_eq!(message["incident"], serde_json::to_value(incident("A")).unwrap());
    let (t, v1) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    assert_eq!(v1, hmac_sha256(KEY.as_bytes(), format!("{t}.{body}").as_bytes()));
    let age = clock::now().second() - t.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "{age}");
    assert_eq!(worker.stop().await.n_delivered.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_refused_message_comes_again_with_the_same_delivery_and_then_never() {
    let (receiver, url) = Receiver::start(&[500, 302]).await;
    let collector = Collector::new();
    let targets = collector.targets(&[&url]);
    collector.decide(1, incident("A"), NotifyEvent::Opened).await;
    let worker = collector.start(targets);
    collector.until_owed(0).await;
    let bodies: Vec<String> = receiver.got().into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies.iter().all(|body| *body == bodies[0]), "the same bytes");
    tokio::time::sleep(QUICK.cap * 3).await;
    assert_eq!(receiver.got().len(), 3);
    assert_eq!(worker.stop().await.n_failed.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_crash_between_decision_and_delivery_tells_it_once() {
    let collector = Collector::new();
    let nobody = collector.targets(&["http://127.0.0.1:9/hook"]);
    collector.decide(1, incident("A"), NotifyEvent::Opened).await;
    let worker = collector.start(nobody);
    for _ in 0..1000 {
        if worker.stats.n_failed.load(Ordering::Relaxed) > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    worker.task.abort();
    assert!(worker.task.await.is_err(), "cut off, not stopped");
    let Collector { dir, store } = collector;
    drop(store);
    let (receiver, url) = Receiver::start(&[]).await;
    let collector = Collector { store: Store::open(dir.path()).unwrap(), dir };
    assert_eq!(collector.owed().await, 1);
    let worker = collector.start(collector.targets(&[&url]));
    collector.until_owed(0).await;
    worker.stop().await;
    let worker = collector.start(collector.targets(&[&url]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    worker.stop().await;
    assert_eq!(receiver.events(), ["opened"]);
}

#[tokio::test]
async fn an_incident_is_told_in_order_as_it_stands_and_a_dead_route_delays_no_other() {
    let (receiver, url) = Receiver::start(&[503, 503, 503]).await;
    let collector = Collector::new();
    let targets = collector.targets(&[&url, "http://127.0.0.1:9/hook"]);
    collector.decide(1, incident("A"), NotifyEvent::Opened).await;
    collector.decide(2, incident("A"), NotifyEvent::Updated).await;
    let grown = Incident { title: "grown".into(), ..incident("A") };
    collector.decide(3, grown, NotifyEvent::Updated).await;
    let worker = collector.start(targets.clone());
    receiver.until_got(4).await;
    let over = Incident { state: "resolved".into(), ..incident("A") };
    collector.decide(4, over, NotifyEvent::Resolved).await;
    receiver.until_got(5).await;
    assert_eq!(receiver.events(), ["opened", "opened", "opened", "opened", "resolved"]);
    let first: Value = serde_json::from_str(&receiver.got()[0].1).unwrap();
    assert_eq!(first["incident"]["title"], "grown", "both updates are in the first message");
    // Opened and resolved of the dead route.
    collector.until_owed(2).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_incident_merged_before_anybody_heard_of_it_is_not_told() {
    let (receiver, url) = Receiver::start(&[]).await;
    let collector = Collector::new();
    let targets = collector.targets(&[&url]);
    let child = Incident { parent: Some("B".into()), ..incident("A") };
    collector.decide(1, child.clone(), NotifyEvent::Opened).await;
    collector.decide(2, child, NotifyEvent::Resolved).await;
    collector.decide(1, incident("B"), NotifyEvent::Opened).await;
    let worker = collector.start(targets);
    collector.until_owed(0).await;
    worker.stop().await;
    assert_eq!(receiver.events(), ["opened"]);
    assert!(receiver.got()[0].1.contains("\"id\":\"B\""));
}

#[tokio::test]
async fn a_message_nobody_took_for_two_days_is_given_up() {
    let (receiver, url) = Receiver::start(&[500, 500]).await;
    let collector = Collector::new();
    let targets = collector.targets(&[&url]);
    for id in ["A", "B"] {
        collector.decide(1, incident(id), NotifyEvent::Opened).await;
    }
    // The first try of A was two days and a minute ago.
    let long_ago = clock::now().minus(AGE_MAX + Duration::from_secs(60));
    let delivery = ca::new_id(long_ago).unwrap().to_string();
    collector.ask(&targets).await;
    let write = collector.store.write(move |tx| {
        tx.execute("UPDATE outbox SET delivery = ?1 WHERE incident = 'A'", [delivery])
    });
    assert_eq!(write.await.unwrap(), 1);
    let worker = collector.start(targets);
    collector.until_owed(0).await;
    assert_eq!(receiver.got().len(), 3, "A once, B until it was taken");
    let stats = worker.stop().await;
    assert_eq!(stats.n_expired.load(Ordering::Relaxed), 1);
    assert_eq!(stats.n_delivered.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_is_owed_to_a_route_that_was_taken_out_is_dropped() {
    let collector = Collector::new();
    let targets = collector.targets(&["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"]);
    collector.decide(1, incident("A"), NotifyEvent::Opened).await;
    collector.ask(&targets).await;
    assert_eq!(collector.owed().await, 2);
    let worker = collector.start(targets[..1].to_vec());
    collector.until_owed(1).await;
    let owed = collector.store.read(outbox::owed).await.unwrap();
    assert_eq!(owed.iter().map(|owed| owed.route.as_str()).collect::<Vec<_>>(), ["webhook:0"]);
    worker.stop().await;
}

#[test]
fn a_key_that_is_missing_open_to_all_or_short_is_a_config_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let collector = Collector::new();
    let mut config = collector.config("https://example.com/hook");
    config.secret_file = Some(path.clone());
    let mut check = |text: &str, expected: &str, change: &dyn Fn(&mut NotifyConfig)| {
        change(&mut config);
        let problems = crate::notify::check(std::slice::from_ref(&config)).join("\n");
        assert!(
            problems.contains(expected) && !expected.is_empty() || problems == expected,
            "{text}: {problems:?}"
        );
    };
    check("missing", "No such file", &|_| ());
    std::fs::write(&path, KEY).unwrap();
    protect(&path, 0o644);
    check("open to all", "everybody can use it: `chmod o=", &|_| ());
    protect(&path, 0o640);
    check("good", "", &|_| ());
    std::fs::write(&path, "short").unwrap();
    check("short", "shorter than 16 bytes", &|_| ());
    std::fs::write(&path, KEY).unwrap();
    check("no host", "notify[0].url:", &|c| c.url = Some("nonsense".into()));
    check("scheme", "\"ftp\" is not http or https", &|c| c.url = Some("ftp://x/".into()));
    check("severity", "min_severity: \"loud\"", &|c| c.min_severity = "loud".into());
    check("no key", "secret_file: is missing", &|c| {
        c.url = Some("https://example.com/".into());
        c.secret_file = None;
    });
    check("kind", "kind: \"pigeon\"", &|c| c.kind = "pigeon".into());
}

#[test]
fn retries_back_off_with_jitter_and_a_cap() {
    let pace = Pace::default();
    for (tries, random, expected_ms) in [
        (0, 1.0, 1000),
        (0, 0.5, 500),
        (0, 0.0, 100),
        (4, 1.0, 16_000),
        (20, 1.0, 300_000),
        (u32::MAX, 0.5, 150_000),
    ] {
        assert_eq!(pace.delay(tries, random).as_millis(), expected_ms, "{tries} {random}");
    }
}
