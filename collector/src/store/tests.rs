//! The store as a whole, against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use proptest::prelude::*;
use wire::UnixMillis;

use super::*;

/// A batch that holds nothing.
pub(super) fn batch(server: i64, epoch: u64, seq: u64) -> NewBatch {
    NewBatch {
        server: ServerId(server),
        epoch,
        seq,
        n_evicted: 0,
        n_lines_evicted: 0,
        n_bytes_evicted: 0,
        at: UnixMillis(1_795_176_067_000),
        t_min: UnixMillis(0),
        t_max: UnixMillis(0),
        complete_until: UnixMillis(0),
        urgent: false,
        codec: 1,
        body: vec![0; 8],
        sites: Vec::new(),
        losses: Vec::new(),
        ledger: Ledger::default(),
    }
}

/// What `play` has a batch account for.
fn ledger_of(seq: u64) -> Ledger {
    Ledger {
        n_lines_counted: 2 * seq,
        n_lines_rejected: seq,
        n_lines_lost: 0,
        n_bytes_counted: 200 * seq,
        n_bytes_rejected: 100 * seq,
        n_bytes_lost: 7,
    }
}

/// Puts servers 1 to `n` into the fleet.
pub(crate) async fn enrol(store: &Store, n: i64) {
    let insert = move |tx: &Transaction<'_>| {
        for id in 1..=n {
            tx.execute(
                "INSERT OR IGNORE INTO server(server_id, uuid, name, first_seen) VALUES (?1, ?2, ?3, 0)",
                rusqlite::params![id, ulid::Ulid::from(id as u128).to_bytes(), format!("web-{id}")],
            )?;
        }
        Ok(())
    };
    store.write(insert).await.unwrap();
}

async fn append(store: &Store, batch: NewBatch) -> Result<Outcome, StoreError> {
    store.append(batch).await.unwrap().await.unwrap()
}

/// Every stored batch in order of commit: server, epoch, seq.
async fn stored(store: &Store) -> Vec<(i64, u64, u64)> {
    let rows = store.read(|conn| read::hot_after(conn, 0, usize::MAX, usize::MAX)).await.unwrap();
    rows.iter().map(|row| (row.server.0, row.epoch, row.seq)).collect()
}

async fn losses(store: &Store, server: i64) -> BTreeMap<String, u64> {
    let query = move |conn: &Connection| {
        let mut query = conn.prepare("SELECT k, n FROM loss WHERE server_id = ?1")?;
        let rows = query.query_map([server], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)));
        rows?.collect()
    };
    store.read(query).await.unwrap()
}

/// What kill -9 leaves: the files as they are now.
fn crashed_copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["gatewatch.db", "gatewatch.db-wal"] {
        std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// Each server's batches must be stored in order, each once, without an undeclared hole.
fn check_order(rows: &[(i64, u64, u64)], gaps: &BTreeSet<(i64, u64, u64)>) {
    let mut last: BTreeMap<i64, Watermark> = BTreeMap::new();
    for &(server, epoch, seq) in rows {
        let known = last.entry(server).or_default();
        let next = Watermark { epoch, seq };
        assert!(next > *known, "{server}: {next:?} after {known:?}");
        let start = if epoch == known.epoch { known.seq } else { 0 };
        for missing in start + 1..seq {
            assert!(gaps.contains(&(server, epoch, missing)), "{server} {epoch}:{missing} is lost");
        }
        *known = next;
    }
}

async fn gaps(store: &Store) -> BTreeSet<(i64, u64, u64)> {
    let query = |conn: &Connection| {
        let mut query = conn.prepare("SELECT server_id, epoch, seq_from, seq_to FROM gap")?;
        let rows = query.query_map([], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
        })?;
        rows.collect::<rusqlite::Result<Vec<(i64, i64, i64, i64)>>>()
    };
    let ranges = store.read(query).await.unwrap();
    let each = |(server, epoch, from, to): (i64, i64, i64, i64)| {
        (from..=to).map(move |seq| (server, epoch as u64, seq as u64))
    };
    ranges.into_iter().flat_map(each).collect()
}

/// One step of the model test.
#[derive(Clone, Debug)]
enum Step {
    /// Sends so many batches from where the store stands, skewed: duplicates and holes.
    Send { server: i64, skew: i64, n: u64, n_evicted: u64, urgent: bool },
    /// A new life of the spool, or (negative) an older one.
    Epoch { server: i64, change: i64 },
    /// Closes and opens again.
    Reopen,
    /// Goes on with what kill -9 left.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..=3_i64, -3..=3_i64, 1..=6_u64, 0..=3_u64, any::<bool>())
            .prop_map(|(server, skew, n, n_evicted, urgent)| Step::Send { server, skew, n, n_evicted, urgent }),
        1 => (1..=3_i64, -1..=2_i64).prop_map(|(server, change)| Step::Epoch { server, change }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// What the protocol says of a batch, told apart from the code under test.
fn expected(known: &mut Watermark, batch: &NewBatch) -> Outcome {
    let durable = if known.epoch == batch.epoch { known.seq } else { 0 };
    if batch.epoch < known.epoch {
        Outcome::OldEpoch { known: known.epoch }
    } else if batch.seq <= durable {
        Outcome::Duplicate
    } else if batch.seq - durable - 1 > batch.n_evicted {
        Outcome::Gap { wanted: durable + 1 }
    } else {
        *known = Watermark { epoch: batch.epoch, seq: batch.seq };
        Outcome::Stored
    }
}

/// What must be true after any steps: every acked batch is stored, each once, in order.
async fn run_model(steps: Vec<Step>) {
    let mut dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    enrol(&store, 3).await;
    let mut epochs = [100_u64; 4];
    let mut model: BTreeMap<i64, Watermark> = BTreeMap::new();
    let mut lines_lost: BTreeMap<i64, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Epoch { server, change } => {
                epochs[server as usize] = epochs[server as usize].saturating_add_signed(change);
            }
            Step::Reopen => {
                store.close().await.unwrap();
                drop(store);
                store = Store::open(dir.path()).unwrap();
            }
            Step::Crash => {
                dir = crashed_copy(dir.path());
                store = Store::open(dir.path()).unwrap();
            }
            Step::Send { server, skew, n, n_evicted, urgent } => {
                let epoch = epochs[server as usize];
                let known = model.get(&server).copied().unwrap_or_default();
                let durable = if known.epoch == epoch { known.seq } else { 0 };
                let first = durable.saturating_add_signed(skew).max(1);
                let mut waiting = Vec::new();
                for seq in first..first + n {
                    let mut batch = batch(server, epoch, seq);
                    batch.urgent = urgent;
                    batch.n_evicted = if seq == first { n_evicted } else { 0 };
                    batch.n_lines_evicted = batch.n_evicted * 10;
                    batch.n_bytes_evicted = batch.n_evicted * 1000;
                    batch.losses = vec![("n_lines_rejected", seq)];
                    batch.ledger = ledger_of(seq);
                    waiting.push((batch.clone(), store.append(batch).await.unwrap()));
                }
                for (batch, outcome) in waiting {
                    let outcome = outcome.await.unwrap().unwrap();
                    let known = model.entry(server).or_default();
                    let before = *known;
                    let expected = expected(known, &batch);
                    if expected == Outcome::Stored {
                        all.push((server, epoch, batch.seq));
                        let start = if before.epoch == epoch { before.seq } else { 0 };
                        if batch.seq > start + 1 {
                            *lines_lost.entry(server).or_default() += batch.n_lines_evicted;
                        }
                    }
                    assert_eq!(outcome, expected, "{server} {epoch}:{}", batch.seq);
                }
            }
        }
        for (server, mark) in &model {
            assert_eq!(store.durable(ServerId(*server)), *mark);
        }
    }
    assert_eq!(stored(&store).await, all, "each batch once, in order");
    check_order(&all, &gaps(&store).await);
    for server in 1..=3 {
        let own = all.iter().filter(|row| row.0 == server);
        let seqs: Vec<u64> = own.map(|row| row.2).collect();
        check_losses(&store, server, &seqs, lines_lost.get(&server).copied().unwrap_or(0)).await;
    }
}

/// The batches of a server were these, each with the losses that `play` gives it.
async fn check_losses(store: &Store, server: i64, seqs: &[u64], lines_lost: u64) {
    let known = losses(store, server).await;
    let loss = |k| known.get(k).copied().unwrap_or(0);
    let rejected: u64 = seqs.iter().sum();
    assert_eq!(loss("n_lines_rejected"), rejected);
    assert_eq!((loss("n_lines_lost"), loss("n_bytes_lost")), (lines_lost, 100 * lines_lost));
    let expected = Ledger {
        n_lines_counted: 2 * rejected,
        n_lines_rejected: rejected,
        n_lines_lost: lines_lost,
        n_bytes_counted: 200 * rejected,
        n_bytes_rejected: 100 * rejected,
        n_bytes_lost: 7 * seqs.len() as u64 + 100 * lines_lost,
    };
    let read = move |conn: &Connection| fleet::ledger(conn, ServerId(server));
    assert_eq!(store.read(read).await.unwrap(), expected);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_is_stored_exactly_once_whatever_is_sent(
        steps in proptest::collection::vec(step(), 1..14)
    ) {
        runtime().block_on(run_model(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_never_loses_what_was_acked() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 4).await;
    let mut copies = Vec::new();
    for round in 0..8_u64 {
        let mut waiting = Vec::new();
        for server in 1..=4 {
            for seq in round * 5 + 1..=round * 5 + 5 {
                let urgent = (seq + server as u64).is_multiple_of(7);
                let batch = NewBatch { urgent, ..batch(server, 1, seq) };
                waiting.push(store.append(batch).await.unwrap());
            }
        }
        // Half of this round is acked, the rest on its way when the power goes.
        for outcome in waiting.drain(..10) {
            assert_eq!(outcome.await.unwrap().unwrap(), Outcome::Stored);
        }
        let acked: Vec<_> = (1..=4).map(|id| store.durable(ServerId(id))).collect();
        copies.push((acked, crashed_copy(dir.path())));
        for outcome in waiting {
            assert_eq!(outcome.await.unwrap().unwrap(), Outcome::Stored);
        }
    }
    for (acked, copy) in copies {
        let wal = copy.path().join("gatewatch.db-wal");
        let n_bytes = std::fs::metadata(&wal).unwrap().len();
        let store = Store::open(copy.path()).unwrap();
        for (id, acked) in (1..).zip(acked) {
            assert!(store.durable(ServerId(id)) >= acked, "server {id}: {acked:?} was acked");
        }
        check_order(&stored(&store).await, &gaps(&store).await);
        drop(store);
        // A torn log: what is left is a beginning, and nothing but a beginning.
        let torn = crashed_copy(dir.path());
        let file = File::options().write(true).open(torn.path().join("gatewatch.db-wal")).unwrap();
        file.set_len(n_bytes / 2).unwrap();
        let store = Store::open(torn.path()).unwrap();
        check_order(&stored(&store).await, &gaps(&store).await);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_batches_until_there_is_space_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let limit = |pages: i64| {
        move |tx: &Transaction<'_>| {
            let set = format!("PRAGMA max_page_count = {pages}");
            tx.query_row(&set, [], |row| row.get::<_, i64>(0))
        }
    };
    let used = store.read(|conn| conn.pragma_query_value(None, "page_count", |row| row.get(0)));
    let used: i64 = used.await.unwrap();
    store.write(limit(used + 8)).await.unwrap();
    let large = |seq| NewBatch { body: vec![7; 9000], urgent: true, ..batch(1, 1, seq) };
    let mut seq = 1;
    let error = loop {
        match append(&store, large(seq)).await {
            Ok(outcome) => assert_eq!(outcome, Outcome::Stored),
            Err(error) => break error,
        }
        seq += 1;
    };
    let text = error.to_string();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(text.contains("gatewatch.db") && text.contains("free space"), "{text}");
    assert_eq!(store.durable(ServerId(1)).seq, seq - 1, "nothing is acked that is not stored");
    assert!(matches!(append(&store, large(seq)).await, Err(StoreError::Full { .. })));
    // An operator's write is refused by name too, and reads go on.
    let fill = |tx: &Transaction<'_>| {
        tx.execute("INSERT INTO state(k, v) SELECT hex(randomblob(8000)), 1 FROM hot", [])
    };
    assert!(matches!(store.write(fill).await, Err(StoreError::Full { .. })));
    assert_eq!(stored(&store).await.len() as u64, seq - 1);
    assert!(store.stats().commits_disk_full.get() >= 3);

    store.write(limit(1_000_000)).await.unwrap();
    assert_eq!(append(&store, large(seq - 1)).await.unwrap(), Outcome::Duplicate);
    for seq in seq..seq + 10 {
        assert_eq!(append(&store, large(seq)).await.unwrap(), Outcome::Stored);
    }
    let rows = stored(&store).await;
    assert_eq!(rows, (1..seq + 10).map(|seq| (1, 1, seq)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_second_collector_on_the_same_directory_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(error.contains("data_dir"), "{error}");
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_database_of_a_later_release_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gatewatch.db");
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA user_version = 99; CREATE TABLE later(x)").unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("later release"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_file_that_is_no_database_is_named_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gatewatch.db"), [b'x'; 5000]).unwrap();
    let error = Store::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("gatewatch.db") && error.contains("backup"), "{error}");
    let error = Store::open(&dir.path().join("missing")).err().unwrap().to_string();
    assert!(error.contains("missing"), "{error}");
}

#[tokio::test]
async fn a_failed_job_undoes_its_own_work_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let set = |k: &'static str| {
        move |tx: &Transaction<'_>| tx.execute("INSERT INTO state(k, v) VALUES (?1, 1)", [k])
    };
    let broken = |tx: &Transaction<'_>| {
        tx.execute("INSERT INTO state(k, v) VALUES ('undone', 1)", [])?;
        tx.execute("INSERT INTO no_such_table VALUES (1)", [])
    };
    // Queued together, so they share a transaction.
    let (a, b, c, d) = tokio::join!(
        append(&store, batch(1, 1, 1)),
        store.write(set("kept")),
        store.write(broken),
        append(&store, batch(1, 1, 2)),
    );
    assert_eq!((a.unwrap(), b.unwrap(), d.unwrap()), (Outcome::Stored, 1, Outcome::Stored));
    assert!(matches!(c, Err(StoreError::Sqlite(_))));
    let keys = |conn: &Connection| {
        let sql = "SELECT count(*) FROM state WHERE k IN ('kept', 'undone')";
        conn.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(store.read(keys).await.unwrap(), 1);
}

#[tokio::test]
async fn a_server_that_was_forgotten_hurts_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let site = SiteSeen { name: "a.example".into(), pool: None, upstream: None, owner: None };
    let stranger =
        NewBatch { sites: vec![site], losses: vec![("n_lines_lost", 1)], ..batch(9, 1, 1) };
    let (a, b) = tokio::join!(append(&store, stranger), append(&store, batch(1, 1, 1)));
    assert_eq!((a.unwrap(), b.unwrap()), (Outcome::UnknownServer, Outcome::Stored));
}

#[tokio::test]
async fn numbers_of_a_liar_overflow_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    for seq in [5, 1 << 40, i64::MAX as u64 - 1, i64::MAX as u64] {
        let losses = vec![("n_bytes_lost", u64::MAX), ("n_lines_lost", u64::MAX)];
        let (n_evicted, n_lines_evicted, n_bytes_evicted) = (u64::MAX, u64::MAX, u64::MAX);
        let ledger = Ledger { n_bytes_counted: u64::MAX, ..Ledger::default() };
        let batch = NewBatch {
            n_evicted,
            n_lines_evicted,
            n_bytes_evicted,
            losses,
            ledger,
            ..batch(1, 1, seq)
        };
        assert_eq!(append(&store, batch).await.unwrap(), Outcome::Stored);
    }
    assert_eq!(losses(&store, 1).await["n_bytes_lost"], 1 << 62);
    assert_eq!(stored(&store).await.len(), 4);
}

#[tokio::test]
async fn sites_follow_their_pool_and_forget_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 2).await;
    let sites = |server| {
        let store = store.clone();
        async move { store.read(move |conn| read::sites(conn, ServerId(server))).await.unwrap() }
    };
    let mut first = None;
    for (seq, pool, upstream, expected) in [
        (1, None, None, (None, None)),
        (2, Some("www"), None, (Some("www"), None)),
        (3, None, None, (Some("www"), None)),
        (4, None, Some("10.0.0.1:80"), (None, Some("10.0.0.1:80"))),
        (5, Some("www"), None, (Some("www"), None)),
        (6, Some("www"), None, (Some("www"), None)),
    ] {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let site = SiteSeen {
            name: "a.example".into(),
            pool: text(pool),
            upstream: text(upstream),
            owner: None,
        };
        append(&store, NewBatch { sites: vec![site], ..batch(1, 1, seq) }).await.unwrap();
        let rows = sites(1).await;
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].pool.as_deref(), rows[0].upstream.as_deref()), expected, "batch {seq}");
        assert_eq!(*first.get_or_insert(rows[0].site), rows[0].site, "its id stays");
    }
    assert!(sites(2).await.is_empty());
}

#[tokio::test]
async fn sites_go_to_a_new_owner_and_never_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let first = batch(1, 1, 1);
    for (seq, pool, owner, expected) in [
        (1, Some("www"), None, (Some("www"), None)),
        (2, None, Some("alice"), (Some("www"), Some("alice"))),
        (3, Some("app"), None, (Some("app"), Some("alice"))),
        (4, None, Some("bob"), (Some("app"), Some("bob"))),
        (5, None, None, (Some("app"), Some("bob"))),
    ] {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let (name, pool, owner) = ("a.example".to_owned(), text(pool), text(owner));
        let site = SiteSeen { name, pool, upstream: None, owner };
        let at = first.at.plus(Duration::from_secs(seq - 1));
        append(&store, NewBatch { sites: vec![site], at, ..batch(1, 1, seq) }).await.unwrap();
        let row = store.read(|conn| read::sites(conn, ServerId(1))).await.unwrap().remove(0);
        assert_eq!((row.pool.as_deref(), row.owner.as_deref()), expected, "batch {seq}");
        assert_eq!(row.since, first.at.into(), "it is known since its first batch");
    }
    let shown = store.read(|conn| fleet::show(conn, "web-1", UnixMillis(0))).await.unwrap();
    assert_eq!(shown.unwrap().sites[0].owner.as_deref(), Some("bob"));
}

#[tokio::test]
async fn watermarks_outlive_the_batches_they_speak_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    for seq in 1..=3 {
        append(&store, batch(1, 7, seq)).await.unwrap();
    }
    store.close().await.unwrap();
    assert!(matches!(store.write(|_| Ok(())).await, Err(StoreError::Closed)));
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(*store.committed().borrow(), 3);
    store.write(|tx| tx.execute("DELETE FROM hot", [])).await.unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.durable(ServerId(1)), Watermark { epoch: 7, seq: 3 });
    assert_eq!(append(&store, batch(1, 7, 3)).await.unwrap(), Outcome::Duplicate);
    append(&store, batch(1, 7, 4)).await.unwrap();
    assert_eq!(*store.committed().borrow(), 4, "ids are never used twice");
}

#[tokio::test]
async fn whoever_revokes_need_not_tell_the_streams() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let uuid = ulid::Ulid::from(1_u128);
    let peer = || store.read(move |conn| fleet::admit(conn, uuid, b"s1"));
    assert_eq!(peer().await.unwrap(), fleet::Admission::Unknown);
    let certify = |tx: &Transaction<'_>| {
        tx.execute("INSERT INTO certificate VALUES (x'7331', 1, 0, 0, NULL)", [])
    };
    store.write(certify).await.unwrap();
    assert!(matches!(peer().await.unwrap(), fleet::Admission::Known { .. }));
    let mut revoked = store.revoked();
    let revoke = |tx: &Transaction<'_>| tx.execute("UPDATE certificate SET revoked_at = 1", []);
    store.write(revoke).await.unwrap();
    let serials = revoked.wait_for(|serials| !serials.is_empty()).await.unwrap().clone();
    assert!(serials.contains(b"s1".as_slice()));
    assert_eq!(peer().await.unwrap(), fleet::Admission::Revoked);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(*store.revoked().borrow(), serials);
}

#[tokio::test]
async fn signs_of_life_are_written_at_the_latest_when_the_store_closes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let labels = BTreeMap::from([("rack".to_owned(), "r7".to_owned())]);
    let arrival = presence::Arrival { at: UnixMillis(10), n_cpu: 4, labels, ..Default::default() };
    store.write(move |tx| presence::arrived(tx, ServerId(1), &arrival)).await.unwrap();
    let seen = Seen { at: UnixMillis(20), clock_offset_ms: -7, spool_bytes: 5, n_sites: 3 };
    store.seen(ServerId(1), seen);
    store.close().await.unwrap();
    let row = |conn: &Connection| {
        let sql = "SELECT last_seen, state, meta ->> 'n_cpu', meta ->> 'clock_offset_ms',
                   (SELECT v FROM label WHERE k = 'rack' AND source = 1) FROM server";
        conn.query_row(sql, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
    };
    let row: (i64, String, i64, i64, String) = store.read(row).await.unwrap();
    assert_eq!(row, (20, "up".into(), 4, -7, "r7".into()));
}

/// `agent list` called an agent silent that had said goodbye: its last heartbeat was filed behind it.
#[tokio::test]
async fn a_goodbye_outlives_the_heartbeat_that_came_just_before_it() {
    for (on_purpose, state) in [(true, "goodbye"), (false, "silent")] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        enrol(&store, 1).await;
        let seen = |at| Seen { at: UnixMillis(at), clock_offset_ms: 0, spool_bytes: 0, n_sites: 3 };
        let hello = |at| presence::Arrival { at: UnixMillis(at), ..Default::default() };
        let filed = |conn: &Connection| {
            let sql = "SELECT state, last_seen, meta ->> 'n_sites' FROM server";
            conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        };
        let arrival = hello(10);
        store.write(move |tx| presence::arrived(tx, ServerId(1), &arrival)).await.unwrap();
        store.seen(ServerId(1), seen(20));
        let left =
            move |tx: &Transaction<'_>| presence::left(tx, ServerId(1), UnixMillis(20), on_purpose);
        store.write(left).await.unwrap();
        store.close().await.unwrap();
        let found: (String, i64, i64) = store.read(filed).await.unwrap();
        assert_eq!(
            found,
            (state.to_owned(), 20, 3),
            "what it says of itself is taken all the same"
        );
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let arrival = hello(30);
        store.write(move |tx| presence::arrived(tx, ServerId(1), &arrival)).await.unwrap();
        store.seen(ServerId(1), seen(40));
        store.close().await.unwrap();
        let found: (String, i64, i64) = store.read(filed).await.unwrap();
        assert_eq!(found, ("up".to_owned(), 40, 3), "until it is back");
    }
}

#[tokio::test]
async fn who_was_heard_while_the_clock_was_ahead_is_seen_by_the_right_clock_again() {
    const HOUR: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    let arrival = presence::Arrival { at: UnixMillis(2 * HOUR), ..Default::default() };
    store.write(move |tx| presence::arrived(tx, ServerId(1), &arrival)).await.unwrap();
    let left = |tx: &Transaction<'_>| presence::left(tx, ServerId(1), UnixMillis(2 * HOUR), false);
    store.write(left).await.unwrap();
    let seen = Seen { at: UnixMillis(HOUR), clock_offset_ms: 0, spool_bytes: 0, n_sites: 3 };
    store.seen(ServerId(1), seen);
    store.close().await.unwrap();
    let filed = |conn: &Connection| {
        let sql = "SELECT state, last_seen FROM server";
        conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    let found: (String, i64) = store.read(filed).await.unwrap();
    assert_eq!(found, ("up".to_owned(), HOUR));
}

#[tokio::test]
async fn a_database_of_the_first_release_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("gatewatch.db")).unwrap();
    old.execute_batch(include_str!("migrations/0001_init.sql")).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO server(server_id, uuid, name, first_seen) VALUES (1, x'00', 'web-1', 0);
         INSERT INTO gap VALUES (1, 1, 3, 4, 70, 0);
         INSERT INTO loss VALUES (1, 'n_lines_rejected', 5);",
    )
    .unwrap();
    drop(old);
    let store = Store::open(dir.path()).unwrap();
    let gap = |conn: &Connection| {
        conn.query_row("SELECT n_lines, n_bytes FROM gap", [], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    assert_eq!(store.read(gap).await.unwrap(), (70, 0), "what nobody knew is nothing");
    let ledger = ledger_of(3);
    let next = NewBatch { n_lines_evicted: 9, n_evicted: 2, ledger, ..batch(1, 1, 3) };
    assert_eq!(append(&store, next).await.unwrap(), Outcome::Stored);
    let read = |conn: &Connection| fleet::ledger(conn, ServerId(1));
    let want = Ledger { n_lines_lost: 9, ..ledger };
    assert_eq!(store.read(read).await.unwrap(), want, "counted from here on");
    assert_eq!(losses(&store, 1).await["n_lines_rejected"], 5);
}

/// Tables and indexes with the statements that make them, without comments and layout.
pub(super) fn objects(conn: &Connection) -> Vec<(String, String)> {
    let mut query = conn
        .prepare("SELECT name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name")
        .unwrap();
    let rows = query.query_map([], |row| {
        let sql: String = row.get(1)?;
        let bare = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
        let words: Vec<String> = bare.flat_map(str::split_whitespace).map(str::to_owned).collect();
        Ok((row.get::<_, String>(0)?, words.join(" ")))
    });
    rows.unwrap().collect::<rusqlite::Result<Vec<_>>>().unwrap()
}

/// Those of `schema.sql`.
pub(super) fn objects_of_today() -> Vec<(String, String)> {
    let written = Connection::open_in_memory().unwrap();
    written.execute_batch(include_str!("schema.sql")).unwrap();
    objects(&written)
}

#[test]
fn schema_sql_is_what_the_migrations_make() {
    let dir = tempfile::tempdir().unwrap();
    let migrated = open::writer(dir.path()).unwrap();
    assert_eq!(objects(&migrated), objects_of_today(), "bring schema.sql up to date");
    let version: i64 = migrated.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, open::MIGRATIONS.len() as i64);
}

#[tokio::test]
async fn a_hello_with_a_clock_at_the_end_of_time_is_filed_within_28_days() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    for (said, filed) in [(i64::MIN, -28), (-i64::MAX, -28), (i64::MAX, 28)] {
        let seen = Seen { at: UnixMillis(20), clock_offset_ms: said, spool_bytes: 0, n_sites: 0 };
        store.write(move |tx| presence::seen(tx, ServerId(1), &seen)).await.unwrap();
        let meta = "SELECT meta ->> 'clock_offset_ms' FROM server";
        let found = store.read(move |conn| conn.query_row(meta, [], |row| row.get::<_, i64>(0)));
        assert_eq!(found.await.unwrap(), filed * 86_400_000);
    }
    let filed_before = r#"{"clock_offset_ms":-9223372036854775807}"#;
    let meta: fleet::Meta = serde_json::from_str(filed_before).unwrap();
    assert_eq!(meta.clock_offset_ms, Some(-28 * 86_400_000));
    let none: fleet::Meta = serde_json::from_str("{}").unwrap();
    assert_eq!(none.clock_offset_ms, None);
}
