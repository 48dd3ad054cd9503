//! What upsets sealing: clocks that jump, crashes between any two passes, batches that come late.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::UnixMillis;

use super::proof::{self, N_SERVERS};
use super::{Outcome, Store, incidents, power_tests, tests};
use crate::clock;
use crate::model::ServerId;

const HOUR_MS: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_while_hours_are_sealed_lose_nothing_and_repeat_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let now = clock::now();
    let base = proof::base(now);
    let mut sent = BTreeMap::new();
    // Set back by a day, ahead by one, and back again; each time the store is opened anew as well.
    let jumps = [0, -24, 24, -1, 30, 0, -48, 2, 0];
    for (life, hours) in jumps.into_iter().enumerate() {
        let store = Store::open(dir.path()).unwrap();
        tests::enrol(&store, N_SERVERS).await;
        let mut waiting = Vec::new();
        for seq in 1..=20 {
            let seq = life as u64 * 20 + seq;
            for server in 1..=N_SERVERS {
                let batch = proof::batch(ServerId(server), base, seq);
                waiting.push(store.append(batch).await.unwrap());
                sent.insert(server, seq);
            }
        }
        for outcome in waiting {
            assert_eq!(outcome.await.unwrap().unwrap(), Outcome::Stored);
        }
        let keeper = power_tests::keeper(&store);
        for step in [0, 2, -3] {
            keeper.pass(UnixMillis(now.0 + (hours + step) * HOUR_MS)).await.unwrap();
            let upto = *store.committed().borrow();
            store.write(move |tx| incidents::save_snapshot(tx, upto, b"x")).await.unwrap();
            proof::check_whole(&store, base, &sent);
        }
        store.close().await.unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    power_tests::keeper(&store).pass(now.plus(Duration::from_secs(1))).await.unwrap();
    proof::check_whole(&store, base, &sent);
    proof::check_integrity(dir.path());
    let n_hot: i64 = store
        .read(|conn| conn.query_row("SELECT count(*) FROM hot", [], |row| row.get(0)))
        .await
        .unwrap();
    assert_eq!(n_hot, 0, "everything is sealed, nothing waits for ever");
}
