//! Random receivers and random crashes: nothing is lost, doubled or out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::super::line::{Line, Sending};
use super::super::super::{Clerk, Message, Route, Stats};
use super::super::{Pace, Signals, run};
use super::lines::{Answer, answered};
use crate::clock;
use crate::config::NotifyConfig;
use crate::model::{Incident, Notify, NotifyEvent, Transition, TransitionEvent};
use crate::store::notices::{self, Filter, Notice, What};
use crate::store::{Store, incidents, outbox};

const QUICK: Pace = Pace { base: Duration::from_millis(2), cap: Duration::from_millis(6) };
const ROUTES: [&str; 2] = ["a", "b"];

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// What a receiver saw of one delivery, in order.
#[derive(Clone, Debug)]
struct Seen {
    route: &'static str,
    incident: String,
    delivery: String,
    /// The body, to see that every try has the same.
    message: Message,
    took_it: bool,
    /// The outbox had forgotten it before.
    was_settled: bool,
}

#[derive(Clone)]
struct World {
    dice: Arc<Mutex<Dice>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// From now on every receiver takes all.
    is_calm: Arc<AtomicBool>,
}

impl World {
    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    fn answer(&self) -> (Answer, bool) {
        if self.is_calm() {
            return (Answer::Takes, true);
        }
        match self.dice.lock().unwrap().below(20) {
            0..=8 => (Answer::Takes, true),
            9..=11 => (Answer::Fails, false),
            12 => (Answer::Later(Duration::from_millis(15)), false),
            13 => (Answer::Hangs, false),
            14 => (Answer::Hangs, true), // it took it, and its answer never comes
            15 => (Answer::Refuses, false),
            _ => (Answer::Fails, true), // it took it, and the connection dropped
        }
    }

    fn line(&self, route: &'static str, store: &Store) -> Line {
        let (world, store) = (self.clone(), store.clone());
        let send = move |message: Message| -> Sending {
            let (world, store) = (world.clone(), store.clone());
            Box::pin(async move {
                let settled = settled(&store, route).await;
                let was_settled = settled.contains(&message.delivery);
                let (answer, took_it) = world.answer();
                let delivery = message.delivery.clone();
                let incident = message.incident.as_ref().unwrap().id.clone();
                let seen = Seen { route, incident, delivery, message, took_it, was_settled };
                world.seen.lock().unwrap().push(seen);
                answered(answer).await
            })
        };
        Line {
            route: route.to_owned(),
            to: "there".to_owned(),
            per_minute: 1_000_000,
            answer_max: Duration::from_millis(if self.is_calm() { 60_000 } else { 60 }),
            send: Arc::new(send),
            again: None,
        }
    }
}

async fn log(store: &Store, route: &str) -> Vec<Notice> {
    let filter = Filter { route: Some(route.to_owned()), n_max: 100_000, ..Filter::default() };
    store.read(move |conn| notices::list(conn, &filter)).await.unwrap()
}

/// Deliveries that arrived or were given up.
async fn settled(store: &Store, route: &str) -> BTreeSet<String> {
    let ends = [What::Delivered, What::Refused, What::Expired];
    let log = log(store, route).await.into_iter().filter(|notice| ends.contains(&notice.what));
    log.filter_map(|notice| notice.delivery).collect()
}

fn route(name: &str) -> Route {
    let config = NotifyConfig { name: Some(name.to_owned()), ..NotifyConfig::default() };
    Route::new(&config, 0).unwrap()
}

/// One change of an incident: it opens, grows or is over.
async fn decide(store: &Store, id: &str, rev: u64, event: NotifyEvent) {
    let mut incident = Incident { id: id.to_owned(), ..crate::samples::incident() };
    incident.affected.n_sites = 10_u64 << rev; // twice as much each time
    incident.title = format!("{id} as of {rev}");
    if event == NotifyEvent::Resolved {
        incident.state = "resolved".to_owned();
        incident.resolved_at = Some(clock::now());
    }
    let transition = Transition {
        event: TransitionEvent::Update,
        at: clock::now(),
        key: id.to_owned(),
        rev,
        sites: Vec::new(),
        servers: Vec::new(),
        notify: Some(Notify { event, due: clock::now() }),
        incident,
    };
    store.write(move |tx| incidents::commit(tx, &[transition], b"", 0)).await.unwrap();
}

/// Opens the store as soon as the life before has let go of it.
async fn open(dir: &std::path::Path) -> Store {
    for _ in 0..2000 {
        match Store::open(dir) {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Store::open(dir).unwrap()
}

/// What the routes still have to hear.
async fn n_owed(store: &Store) -> u64 {
    // In one reading: a page that is decided in between would count as nothing.
    let read = store.read(|conn| Ok((outbox::owed(conn)?, outbox::next_page(conn)?)));
    let (owed, pages) = read.await.unwrap();
    owed.iter().map(|owed| owed.n).sum::<u64>() + u64::from(pages.is_some())
}

fn start(store: &Store, world: &World) -> tokio::task::JoinHandle<()> {
    let lines = ROUTES.map(|route| world.line(route, store)).to_vec();
    let clerk = Clerk::new(store.clone(), ROUTES.map(route).to_vec());
    let (stats, stop) = (Arc::new(Stats::default()), CancellationToken::new());
    let (cut, decided) = (CancellationToken::new(), clerk.decided());
    let signals = Signals { stop: stop.clone(), cut, decided };
    let tellers = run(store.clone(), lines, QUICK, stats, signals);
    tokio::spawn(async move {
        tokio::join!(clerk.run(stop), tellers);
    })
}

async fn live_and_crash(seed: u64) -> (Vec<Seen>, BTreeMap<&'static str, Vec<Notice>>) {
    let dir = tempfile::tempdir().unwrap();
    let world = World {
        dice: Arc::new(Mutex::new(Dice(seed))),
        seen: Arc::default(),
        is_calm: Arc::default(),
    };
    let mut dice = Dice(seed ^ 0x9E37_79B9_7F4A_7C15);
    let mut revs: BTreeMap<String, u64> = BTreeMap::new();
    for _life in 0..8 {
        let store = open(dir.path()).await;
        let task = start(&store, &world);
        for _ in 0..dice.below(5) {
            let id = format!("I{}", dice.below(4));
            let rev = revs.entry(id.clone()).or_default();
            *rev += 1;
            let event = match *rev {
                1 => NotifyEvent::Opened,
                2..=4 => NotifyEvent::Updated,
                5 => NotifyEvent::Resolved,
                _ => continue,
            };
            decide(&store, &id, *rev, event).await;
            tokio::time::sleep(Duration::from_millis(dice.below(30))).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(250))).await;
        task.abort(); // at whatever it waits for
        assert!(task.await.is_err());
    }
    world.is_calm.store(true, Ordering::Relaxed);
    let store = open(dir.path()).await;
    let task = start(&store, &world);
    for n in 0.. {
        if n_owed(&store).await == 0 {
            break;
        }
        assert!(n < 3000, "still owed: {:?}", store.read(outbox::owed).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut logs = BTreeMap::new();
    for route in ROUTES {
        logs.insert(route, log(&store, route).await);
    }
    task.abort();
    let seen = world.seen.lock().unwrap().clone();
    (seen, logs)
}

fn judge(seed: u64, seen: &[Seen], route: &str, log: &[Notice]) {
    let shown = || format!("seed {seed}, route {route}\nseen {seen:#?}\nlog {log:#?}");
    let of_route: Vec<&Seen> = seen.iter().filter(|seen| seen.route == route).collect();
    let deliveries = |what: What| {
        let lines = log.iter().filter(move |notice| notice.what == what);
        lines.filter_map(|notice| notice.delivery.clone()).collect::<Vec<_>>()
    };
    let owed = deliveries(What::Owed);
    let gone = deliveries(What::Superseded);
    let given_up = [deliveries(What::Refused), deliveries(What::Expired)].concat();
    for delivery in &owed {
        let n_ends = [deliveries(What::Delivered), given_up.clone(), gone.clone()].concat();
        let n_ends = n_ends.iter().filter(|ended| *ended == delivery).count();
        assert_eq!(n_ends, 1, "{delivery} ends once: {}", shown());
        let tries: Vec<_> = of_route.iter().filter(|seen| seen.delivery == *delivery).collect();
        let was_taken = tries.iter().any(|seen| seen.took_it);
        let is_lost = !was_taken && !given_up.contains(delivery) && !gone.contains(delivery);
        assert!(!is_lost, "{delivery} is lost: {}", shown());
        assert!(tries.iter().all(|seen| !seen.was_settled), "sent again: {}", shown());
        assert!(tries.iter().all(|seen| seen.message == tries[0].message), "same: {}", shown());
    }
    for seen in &of_route {
        assert!(owed.contains(&seen.delivery), "nobody decided it: {}", shown());
    }
    let incidents: BTreeSet<&String> = of_route.iter().map(|seen| &seen.incident).collect();
    for incident in incidents {
        let tries = of_route.iter().filter(|seen| seen.incident == *incident);
        let mut order: Vec<usize> = tries
            .map(|seen| owed.iter().position(|delivery| *delivery == seen.delivery).unwrap())
            .collect();
        assert!(order.is_sorted(), "{incident} in order: {order:?} {}", shown());
        order.dedup();
        let lines = log.iter().filter(|n| n.incident.as_ref() == Some(incident));
        let lines: Vec<_> = lines.filter(|notice| notice.what == What::Owed).collect();
        for event in ["opened", "resolved"] {
            let n = lines.iter().filter(|notice| notice.event == event).count();
            assert!(n <= 1, "{incident} was {event} {n} times: {}", shown());
        }
    }
}

#[tokio::test]
async fn through_random_answers_and_crashes_no_message_is_lost_doubled_or_out_of_order() {
    let (mut n_tries, mut n_refused) = (0, 0);
    for seed in [3, 7919, 104_729, 15_485_863] {
        let (seen, logs) = live_and_crash(seed).await;
        for (route, log) in &logs {
            judge(seed, &seen, route, log);
            n_refused += log.iter().filter(|notice| notice.what == What::Refused).count();
        }
        n_tries += seen.len();
    }
    assert!(n_tries > 40 && n_refused > 0, "it saw something: {n_tries} {n_refused}");
}
