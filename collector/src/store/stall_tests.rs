//! Nothing that keeps history in order keeps an agent waiting: acks go on coming while hours are packed,
//! a day is summed up and old rows leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use wire::UnixMillis;

use super::bad_input_tests::{flush, keeper};
use super::{Outcome, Store, proof, retention, rollup, seal, tests};
use crate::clock;
use crate::model::ServerId;

const N_SERVERS: i64 = 60;
/// Of each server: they fill some hours.
const N_BATCHES: u64 = 20;
const N_OLD_ROWS: i64 = 6000;
/// Longest wait for an ack that is no stall, where the machine is none of the reasons.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// A store that has nothing else to do acks at most so many times more.
const IDLE_FASTER_MAX: u64 = 20;
const N_TRIES: usize = 3;

/// Acks of one agent that sends the next batch as soon as the last one is acked.
#[derive(Debug, Default)]
struct Acks {
    n: AtomicU64,
    longest_us: AtomicU64,
    is_over: AtomicBool,
}

async fn go_on(store: Store, server: ServerId, acks: Arc<Acks>) {
    let base = proof::base(clock::now());
    let mut seq = 0;
    while !acks.is_over.load(Ordering::Relaxed) {
        seq += 1;
        let sent = clock::instant();
        let ack = store.append(proof::batch(server, base, seq)).await.unwrap();
        assert_eq!(ack.await.unwrap().unwrap(), Outcome::Stored);
        acks.longest_us.fetch_max(sent.elapsed().as_micros() as u64, Ordering::Relaxed);
        acks.n.fetch_add(1, Ordering::Relaxed);
    }
}

/// Batches of many servers, of a day that is over, which the detector has seen; and rows that are too old.
async fn fill(store: &Store) {
    let base = proof::base(UnixMillis(clock::now().0 - 2 * 86_400_000));
    let mut acks = Vec::new();
    for seq in 1..=N_BATCHES {
        for server in (1..=N_SERVERS).map(ServerId) {
            acks.push(store.append(proof::batch(server, base, seq)).await.unwrap());
        }
    }
    for ack in acks {
        assert_eq!(ack.await.unwrap().unwrap(), Outcome::Stored);
    }
    flush(store).await;
    let rows = format!(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {N_OLD_ROWS})
         INSERT INTO event SELECT i, 1, 1, 0, printf('%0500d', i) FROM c"
    );
    store.write(move |tx| tx.execute_batch(&rows)).await.unwrap();
}

/// What is seen of the acks of a store whose hours are packed, beside one that has nothing else to do: on
/// a machine that stands still, or with a slow disk, both wait.
async fn watched() -> Result<(), String> {
    let (dir, idle_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, idle) = (Store::open(dir.path()).unwrap(), Store::open(idle_dir.path()).unwrap());
    tests::enrol(&store, N_SERVERS + 1).await;
    tests::enrol(&idle, 1).await;
    fill(&store).await;
    let (acks, idle_acks) = (Arc::new(Acks::default()), Arc::new(Acks::default()));
    let agents = [
        tokio::spawn(go_on(store.clone(), ServerId(N_SERVERS + 1), acks.clone())),
        tokio::spawn(go_on(idle.clone(), ServerId(1), idle_acks.clone())),
    ];
    let keeper = keeper(&store);
    let now = clock::now();
    let n_now = || [&acks, &idle_acks].map(|acks| acks.n.load(Ordering::Relaxed));
    let mut seen = Vec::new();
    let mut is_held = false;
    for pass in ["packing", "summing up", "dropping"] {
        let [n_before, n_idle_before] = n_now();
        match pass {
            "packing" => seal::pass(&keeper, now).await.unwrap(),
            "summing up" => rollup::pass(&keeper, now).await.unwrap(),
            _ => retention::pass(&keeper, now).await.unwrap(),
        }
        let [n, n_idle] = n_now();
        let (n, n_idle) = (n - n_before, n_idle - n_idle_before);
        seen.push(format!("{pass}: {n} acks, {n_idle} where nothing else was done"));
        // Whoever holds the writer all the time is seen by this before the wait is too long.
        is_held |= (n + 1) * IDLE_FASTER_MAX < n_idle;
    }
    for acks in [&acks, &idle_acks] {
        acks.is_over.store(true, Ordering::Relaxed);
    }
    for agent in agents {
        agent.await.unwrap();
    }
    let [longest, longest_idle] = [&acks, &idle_acks]
        .map(|acks| Duration::from_micros(acks.longest_us.load(Ordering::Relaxed)));
    seen.push(format!("longest {longest:?}, {longest_idle:?}"));
    let stats = store.stats();
    assert!(stats.hours_sealed.get() >= 3, "{} hours are packed", stats.hours_sealed.get());
    assert!(stats.batches_swept.get() >= N_BATCHES * N_SERVERS.unsigned_abs());
    assert!(stats.hours_rolled.get() >= 3, "{} are summed up", stats.hours_rolled.get());
    assert_eq!(stats.rows_dropped.get(), N_OLD_ROWS.unsigned_abs());
    let seen = seen.join("; ");
    println!("{seen}");
    let is_stalled = is_held || longest > WAIT_MAX + 10 * longest_idle;
    if is_stalled { Err(seen) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_waits_for_packing_summing_up_or_dropping() {
    let mut stalls = Vec::new();
    // A disk that stalls for one file alone does so once; who holds the writer does each time.
    for _ in 0..N_TRIES {
        match watched().await {
            Ok(()) => return,
            Err(seen) => stalls.push(seen),
        }
    }
    panic!("acks wait: {stalls:#?}");
}
