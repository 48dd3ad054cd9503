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
/// Longest wait for an ack that is no stall, on a busy machine with a slow disk.
const WAIT_MAX: Duration = Duration::from_secs(1);

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

#[tokio::test(flavor = "multi_thread")]
async fn no_ack_waits_for_packing_summing_up_or_dropping() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    tests::enrol(&store, N_SERVERS + 1).await;
    fill(&store).await;
    let acks = Arc::new(Acks::default());
    let agent = tokio::spawn(go_on(store.clone(), ServerId(N_SERVERS + 1), acks.clone()));
    let keeper = keeper(&store);
    let now = clock::now();
    let mut n_all = 0;
    for pass in ["packing", "summing up", "dropping"] {
        let (began, n_before) = (clock::instant(), acks.n.load(Ordering::Relaxed));
        match pass {
            "packing" => seal::pass(&keeper, now).await.unwrap(),
            "summing up" => rollup::pass(&keeper, now).await.unwrap(),
            _ => retention::pass(&keeper, now).await.unwrap(),
        }
        let (took, n) = (began.elapsed(), acks.n.load(Ordering::Relaxed) - n_before);
        println!("{pass}: {n} acks in {took:?}");
        // Whoever holds the writer all the time is seen by this before the wait is too long.
        assert!(u128::from(n) >= took.as_millis() / 200, "{pass}: {n} acks in {took:?}");
        n_all += n;
    }
    acks.is_over.store(true, Ordering::Relaxed);
    agent.await.unwrap();
    let longest = Duration::from_micros(acks.longest_us.load(Ordering::Relaxed));
    assert!(longest < WAIT_MAX, "an ack took {longest:?}");
    assert!(n_all >= 10, "{n_all} acks meanwhile");
    let stats = store.stats();
    assert!(stats.hours_sealed.get() >= 3, "{} hours are packed", stats.hours_sealed.get());
    assert!(stats.batches_swept.get() >= N_BATCHES * N_SERVERS.unsigned_abs());
    assert!(stats.hours_rolled.get() >= 3, "{} are summed up", stats.hours_rolled.get());
    assert_eq!(stats.rows_dropped.get(), N_OLD_ROWS.unsigned_abs());
}
