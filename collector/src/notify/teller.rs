//! Sends what a route owes, and forgets a message once it arrived.
//!
//! One task per route, so a dead receiver delays no other. Messages of one incident go out in
//! order; those of different incidents side by side, at most [`IN_FLIGHT_MAX`] at once. A message
//! is tried again with full-jitter backoff until it is [`AGE_MAX`] old.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;
use wire::UnixMillis;

use super::{Message, Page, Target};
use crate::store::notices::{self, Notice, What};
use crate::store::{Store, StoreError, outbox};
use crate::{ca, clock, errors};

/// Messages of one route on their way at once: enough for a burst, few for a receiver that hangs.
pub const IN_FLIGHT_MAX: usize = 8;

/// Age, counted from its first try, at which a message is given up. A page about an outage of the
/// day before yesterday helps nobody; the incident itself stays in the store.
pub const AGE_MAX: Duration = Duration::from_secs(2 * 86_400);

/// How long a stop waits for answers; what is cut off is sent again at the next start.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// How often a route looks into the outbox. Most messages are due a second after their decision, so
/// they are seen before and leave on time; one that is due at once waits so long at most.
const POLL: Duration = Duration::from_millis(250);

/// How long to wait after the n-th failure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Upper bound after the first failure; doubles with each.
    pub base: Duration,
    /// Where the doubling ends.
    pub cap: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(300) }
    }
}

impl Pace {
    /// Full jitter: uniform over 0..bound, `random` being uniform over 0..1; never quite nothing.
    #[must_use]
    pub fn delay(&self, tries: u32, random: f64) -> Duration {
        let bound = self.base.saturating_mul(2_u32.saturating_pow(tries)).min(self.cap);
        bound.mul_f64(random.clamp(0.0, 1.0)).max(self.base / 10)
    }
}

/// What became of messages since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// They arrived.
    pub n_delivered: AtomicU64,
    /// Tries that failed.
    pub n_failed: AtomicU64,
    /// Messages given up at [`AGE_MAX`].
    pub n_expired: AtomicU64,
    /// Messages that had nothing to tell any more.
    pub n_dropped: AtomicU64,
}

/// Delivers until `stop` fires. What is in flight then may still arrive within [`STOP_GRACE`].
pub async fn run(
    store: Store,
    targets: Vec<Target>,
    links: String,
    pace: Pace,
    stats: Arc<Stats>,
    stop: CancellationToken,
) {
    let mut routes = JoinSet::new();
    for target in targets {
        let (store, stats, links) = (store.clone(), Arc::clone(&stats), links.clone());
        let teller = Teller { store, target, links, pace, stats };
        routes.spawn(teller.run(stop.clone()));
    }
    while routes.join_next().await.is_some() {}
}

/// One route's task.
#[derive(Clone)]
struct Teller {
    store: Store,
    target: Target,
    /// What the address of an incident begins with.
    links: String,
    pace: Pace,
    stats: Arc<Stats>,
}

/// How one try ended.
enum Tried {
    Delivered,
    Failed(String),
}

impl Teller {
    async fn run(self, stop: CancellationToken) {
        let mut in_flight = JoinSet::new();
        let mut busy: BTreeSet<i64> = BTreeSet::new();
        let mut n_failed_in_a_row = 0_u64;
        loop {
            let free = IN_FLIGHT_MAX.saturating_sub(busy.len());
            for row in self.due(free, &busy).await {
                busy.insert(row.id);
                let teller = self.clone();
                in_flight.spawn(async move { (row.id, teller.try_once(row).await) });
            }
            let wait = self.until_next(&busy).await;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Cancel-safe: a finished send stays in the set until it is taken.
                Some(done) = in_flight.join_next(), if !in_flight.is_empty() => {
                    let (id, tried) = done.expect("a send neither panics nor is aborted");
                    busy.remove(&id);
                    self.account(tried, &mut n_failed_in_a_row);
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
        let finish = async {
            while let Some(done) = in_flight.join_next().await {
                let (_, tried) = done.expect("a send neither panics nor is aborted");
                self.account(tried, &mut n_failed_in_a_row);
            }
        };
        if tokio::time::timeout(STOP_GRACE, finish).await.is_err() {
            tracing::info!(
                route = self.target.route.name,
                "notifications cut off, sent again after the next start"
            );
        }
    }

    async fn due(&self, n_max: usize, busy: &BTreeSet<i64>) -> Vec<outbox::DueRow> {
        let (route, now) = (self.target.route.name.clone(), clock::now());
        // Those in flight are still due in the table: ask for as many more.
        let limit = n_max + busy.len();
        match self.store.read(move |conn| outbox::due(conn, &route, now, limit)).await {
            Ok(rows) => {
                rows.into_iter().filter(|row| !busy.contains(&row.id)).take(n_max).collect()
            }
            Err(error) => {
                tracing::error!(error = %errors::chain(&error), "outbox cannot be read");
                Vec::new()
            }
        }
    }

    async fn until_next(&self, busy: &BTreeSet<i64>) -> Duration {
        let route = self.target.route.name.clone();
        if !busy.is_empty() {
            return POLL;
        }
        match self.store.read(move |conn| outbox::next_due(conn, &route)).await {
            Ok(Some(due)) => due.since(clock::now()).clamp(Duration::from_millis(5), POLL),
            Ok(None) | Err(_) => POLL,
        }
    }

    async fn try_once(&self, row: outbox::DueRow) -> Tried {
        let now = clock::now();
        let sent = match serde_json::from_str::<Message>(&row.body) {
            Ok(message) => {
                let page = Page::new(&message, &self.links);
                self.target.sender.send(&message, &page, now).await
            }
            Err(error) => {
                let why = format!("the message cannot be read: {error}");
                Err(super::SendError { why, retry_after: None, is_final: true })
            }
        };
        let is_old = clock::now().since(decided_at(&row.delivery)) > AGE_MAX;
        let (id, notice) = (row.id, |what, why: &str| self.notice(&row, what, why));
        let settled = match &sent {
            Ok(()) => {
                let notice = notice(What::Delivered, "");
                self.store
                    .write(move |tx| {
                        outbox::delivered(tx, id)?;
                        notices::add(tx, &notice)
                    })
                    .await
            }
            Err(error) if error.is_final || is_old => {
                self.stats.n_expired.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    route = self.target.route.name,
                    incident = row.incident,
                    reason = error.why,
                    "notification given up"
                );
                let notice = notice(if is_old { What::Expired } else { What::Refused }, &error.why);
                self.store
                    .write(move |tx| {
                        outbox::delivered(tx, id)?;
                        notices::add(tx, &notice)
                    })
                    .await
            }
            Err(error) => {
                let wait =
                    self.pace.delay(row.tries, random()).max(error.retry_after.unwrap_or_default());
                let due = clock::now().plus(wait);
                self.store.write(move |tx| outbox::postpone(tx, id, due)).await
            }
        };
        match (settled, sent) {
            (Err(error), _) => unwritable(&error).await,
            (Ok(()), Ok(())) => {
                tracing::info!(
                    route = self.target.route.name,
                    incident = row.incident,
                    delivery = row.delivery,
                    "notification delivered"
                );
                Tried::Delivered
            }
            (Ok(()), Err(error)) => Tried::Failed(error.why),
        }
    }

    fn notice(&self, row: &outbox::DueRow, what: What, why: &str) -> Notice {
        let event = serde_json::from_str::<Message>(&row.body).map(|message| message.event.name());
        Notice {
            at: clock::now(),
            incident: Some(row.incident.clone()).filter(|id| !id.is_empty()),
            route: self.target.route.name.clone(),
            event: event.unwrap_or("opened").to_owned(),
            what,
            why: why.to_owned(),
            delivery: Some(row.delivery.clone()),
        }
    }

    /// Counts, and logs a failing route once when it begins and once when it ends.
    fn account(&self, tried: Tried, n_failed_in_a_row: &mut u64) {
        let (route, to) = (&self.target.route.name, self.target.sender.place());
        match tried {
            Tried::Delivered => {
                self.stats.n_delivered.fetch_add(1, Ordering::Relaxed);
                if std::mem::take(n_failed_in_a_row) > 0 {
                    tracing::info!(route, to, "notifications arrive again");
                }
            }
            Tried::Failed(reason) => {
                self.stats.n_failed.fetch_add(1, Ordering::Relaxed);
                if *n_failed_in_a_row == 0 {
                    tracing::warn!(
                        route,
                        to,
                        reason,
                        "notifications do not arrive, trying again until they do"
                    );
                }
                *n_failed_in_a_row += 1;
            }
        }
    }
}

/// Waits before the row is taken again: it is still due, and the disk may be full for long.
async fn unwritable(error: &StoreError) -> Tried {
    tokio::time::sleep(POLL).await;
    Tried::Failed(format!("the outbox cannot be written: {}", errors::chain(error)))
}

/// The time in a delivery's ULID.
fn decided_at(delivery: &str) -> UnixMillis {
    let ms = Ulid::from_string(delivery).map_or(u64::MAX, |delivery| delivery.timestamp_ms());
    UnixMillis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Uniform over 0..1; 1 when the system has no random bytes.
fn random() -> f64 {
    ca::random::<4>()
        .map_or(1.0, |bytes| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::sync::Mutex;

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
            let run =
                crate::notify::run(store, targets, links, QUICK, Arc::clone(&stats), stop.clone());
            Worker { task: tokio::spawn(run), stop, stats }
        }

        async fn owed(&self) -> u64 {
            let owed = self.store.read(outbox::owed).await.unwrap();
            let pages = self.store.read(outbox::next_page).await.unwrap();
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
        assert_eq!(keys, ["delivery", "event", "incident"]);
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
        assert_eq!(worker.stop().await.n_dropped.load(Ordering::Relaxed), 1);
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
        let body = serde_json::json!({"event": "opened", "delivery": delivery, "incident": {}});
        let write = collector.store.write(move |tx| {
            let set = "UPDATE outbox SET body = ?1 WHERE incident = 'A'";
            tx.execute(set, [body.to_string()])
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
}
