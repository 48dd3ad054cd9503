//! Batches that span many hours: they keep nobody else's hours waiting, and lose nothing.

use super::tests::{Sent, T0, detect, file, found, n_hot, open, pass_of, send};
use super::*;
use crate::store::tests::enrol;

const HOURS: i64 = 240;
const N_WIDE: u64 = 5;

async fn is_sealed(store: &Store, t0: i64) -> bool {
    let query = "SELECT EXISTS (SELECT 1 FROM sealed WHERE t0 = ?1)";
    store.read(move |conn| conn.query_row(query, [t0], |row| row.get(0))).await.unwrap()
}

#[tokio::test]
async fn a_liar_among_honest_servers_keeps_their_hours_waiting_in_no_pass() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 3).await;
    let mut model = Default::default();
    for seq in 1..=N_WIDE {
        // The liar has something of each of many hours in every batch.
        let second = |ix: i64| (-ix * 3600 + seq as i64, ix, 1 + seq as u32);
        let liar =
            Sent { server: 3, seconds: (1..=HOURS).map(second).collect(), is_unreadable: false };
        send(&store, &liar, seq, 3000).await;
        file(&mut model, &liar);
    }
    // Honest ones of this hour, and one that was away a few days.
    for (server, second) in [(1, 3001), (2, 3002), (2, -50 * 3600)] {
        let seq = if second < 0 { 2 } else { 1 };
        let sent = Sent { server, seconds: vec![(second, 5, 3)], is_unreadable: false };
        send(&store, &sent, seq, 3003).await;
        file(&mut model, &sent);
    }
    detect(&store).await;
    assert!(!pass_of(&store, 3 * 3600, i64::MAX).await);
    assert!(is_sealed(&store, T0).await && is_sealed(&store, T0 - 50 * 3600).await);
    let n_sealed = store.stats().hours_sealed.get();
    let n_opened = (n_sealed - 1) * N_WIDE;
    assert!(n_opened <= u64::from(WIDE_MAX) + 2 * N_WIDE, "{n_opened} bodies opened in one pass");
    assert!(store.stats().sealing_behind_s.get() > 0, "and it is said that some wait");
    assert_eq!(found(&store).await, model);
    // What is left has its turns, and nothing of it is lost.
    let mut n_passes = 1;
    while store.stats().sealing_behind_s.get() > 0 {
        assert!(!pass_of(&store, 3 * 3600, i64::MAX).await);
        n_passes += 1;
        assert!(n_passes < 10, "no end of it");
    }
    assert!(n_passes > 2, "the bound was never met");
    assert_eq!((found(&store).await, n_hot(&store).await), (model, 0));
    assert_eq!(store.stats().hours_sealed.get(), HOURS as u64 + 1);
}

#[tokio::test]
async fn a_batch_with_one_old_entry_is_opened_for_its_hours_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 1).await;
    let mut model = Default::default();
    for seq in 1..=3 {
        let seconds = vec![(-300 * 3600, 1, 2), (-20 * 3600, 4, 1), (seq as i64, 3, 4)];
        let sent = Sent { server: 1, seconds, is_unreadable: false };
        send(&store, &sent, seq, 100).await;
        file(&mut model, &sent);
    }
    // 301 hours of three batches would be 903: more than one pass opens.
    assert!(!pass_of(&store, 3 * 3600, i64::MAX).await);
    assert_eq!(store.stats().sealing_behind_s.get(), 0, "one pass is enough");
    assert!(store.hot().has_nothing(2, T0 - 150 * 3600) && !store.hot().has_nothing(2, T0));
    assert_eq!(found(&store).await, model);
    detect(&store).await;
    assert!(!pass_of(&store, 3 * 3600, i64::MAX).await);
    assert_eq!((found(&store).await, n_hot(&store).await), (model, 0));
    assert!(!store.hot().is_narrowed(2), "what left is forgotten");
}
