//! A flipped bit in `gatewatch.db`: what is served of its batches is what was sent, the rest is said to be
//! missing, or the database is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::Connection;
use wire::UnixMillis;
use wire::v1::BatchBody;

use super::flip_tests::Dice;
use super::history::Limits;
use super::hours::hour_of;
use super::proof::{self, N_SERVERS};
use super::{Outcome, Store, StoreError, bad_input_tests, open, power_tests, read, tests};
use crate::clock;
use crate::ingest::convert;
use crate::model::ServerId;

/// Batches of each server.
const N_BATCHES: u64 = 25;
/// Databases with a flipped bit in a batch, and with some anywhere.
const N_DAMAGED: (u64, u64) = (60, 60);

/// Requests by server, ten seconds and status.
type Counts = BTreeMap<(i64, i64, u32), u64>;

fn add(counts: &mut Counts, server: ServerId, body: &BatchBody) {
    for second in &body.seconds {
        for (status, n) in second.status.iter().zip(&second.count) {
            let key = (server.0, second.second / 10 * 10, *status);
            *counts.entry(key).or_default() += u64::from(*n);
        }
    }
}

/// A database of batches that are not sealed; its bytes, where in them the bodies are, and what they hold.
struct Sound {
    base: i64,
    bytes: Vec<u8>,
    bodies: Vec<(usize, usize)>,
    truth: Counts,
}

async fn sound(base: i64) -> Sound {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    tests::enrol(&store, N_SERVERS).await;
    let (mut truth, mut packed) = (Counts::new(), Vec::new());
    for seq in 1..=N_BATCHES {
        for server in (1..=N_SERVERS).map(ServerId) {
            let batch = proof::batch(server, base, seq);
            add(&mut truth, server, &convert::unpack(batch.codec, &batch.body).unwrap());
            packed.push(batch.body.clone());
            let outcome = store.append(batch).await.unwrap().await.unwrap().unwrap();
            assert_eq!(outcome, Outcome::Stored);
        }
    }
    store.close().await.unwrap();
    let bytes = fs::read(open::path(dir.path())).unwrap();
    let place = |body: Vec<u8>| {
        let at = bytes.windows(body.len()).position(|window| window == body).unwrap();
        (at, body.len())
    };
    let bodies = packed.into_iter().map(place).collect();
    Sound { base, bytes, bodies, truth }
}

/// What a database says of its batches.
struct Said {
    counts: Counts,
    n_unreadable: u64,
    has_holes: bool,
}

async fn ask(store: &Store, base: i64) -> Result<Said, StoreError> {
    let at = UnixMillis::from_second;
    let span = (at(base), at(base + 4 * 3600));
    let told = store
        .history(Limits::default(), move |history| {
            let mut counts = Counts::new();
            let servers = (1..=N_SERVERS).map(|server| (ServerId(server), 0)).collect();
            history.requests(&servers, span, &mut |server, body| add(&mut counts, server, body))?;
            Ok(counts)
        })
        .await?;
    let (notes, counts) = (told.notes, told.value);
    Ok(Said {
        counts,
        n_unreadable: notes.n_batches_unreadable,
        has_holes: !notes.holes.is_empty(),
    })
}

/// What became of one damaged database.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Not opened, or nothing answered: the damage is told.
    is_refused: bool,
    /// Counts that are not what was sent, and ones that are missing without a word.
    n_wrong: usize,
    n_untold: usize,
    /// Batches told to be damaged.
    n_told: u64,
}

impl Seen {
    fn compare(&mut self, truth: &Counts, said: &Said, n_damaged: u64) {
        let is_wrong = |(key, n): &(&_, &u64)| truth.get(*key) != Some(*n);
        self.n_wrong += said.counts.iter().filter(is_wrong).count();
        if said.n_unreadable == 0 && !said.has_holes && n_damaged == 0 {
            self.n_untold += truth.keys().filter(|key| !said.counts.contains_key(*key)).count();
        }
    }
}

/// Opens what is left, asks, reads it as the detector does, seals its hours, and asks again.
async fn look(dir: &Path, sound: &Sound) -> Seen {
    let refused = Seen { is_refused: true, ..Seen::default() };
    let Ok(store) = Store::open(dir) else { return refused };
    let mut seen = Seen::default();
    let Ok(hot) = ask(&store, sound.base).await else { return refused };
    seen.compare(&sound.truth, &hot, 0);
    let rows = store.read(|conn| read::hot_after(conn, 0, usize::MAX, usize::MAX)).await;
    let Ok(rows) = rows else { return refused };
    let is_damaged = |row: &_| convert::records(row, &mut |_| None).is_damaged;
    let n_damaged = rows.iter().filter(|row| is_damaged(*row)).count();
    if power_tests::keeper(&store).pass(clock::now()).await.is_err() {
        return refused;
    }
    seen.n_told = store.stats().batches_damaged.get();
    let Ok(sealed) = ask(&store, sound.base).await else { return refused };
    // Counts of a site whose name is another one now are left out, and counted.
    let n_told = seen.n_told + store.stats().counts_refused.get();
    seen.compare(&sound.truth, &sealed, n_told);
    assert!(seen.n_told >= n_damaged as u64, "{n_damaged}: {seen:?}");
    seen
}

async fn look_at(bytes: &[u8], sound: &Sound) -> Seen {
    let dir = tempfile::tempdir().unwrap();
    fs::write(open::path(dir.path()), bytes).unwrap();
    look(dir.path(), sound).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_of_a_batch_is_found_told_and_keeps_nothing_else_from_being_served() {
    let sound = sound(hour_of(proof::base(clock::now()))).await;
    assert_eq!(look_at(&sound.bytes, &sound).await, Seen::default());
    for seed in 0..N_DAMAGED.0 {
        let (mut bytes, mut dice) = (sound.bytes.clone(), Dice(seed));
        let (at, len) = sound.bodies[dice.below(sound.bodies.len())];
        let (byte, bit) = (at + dice.below(len), dice.below(8));
        bytes[byte] ^= 1 << bit;
        let seen = look_at(&bytes, &sound).await;
        let what = format!("seed {seed}, bit {bit} of byte {} of {len}", byte - at);
        assert!(!seen.is_refused && seen.n_wrong == 0 && seen.n_untold == 0, "{what}: {seen:?}");
        // Some bits of a frame mean nothing.
        assert!(seen.n_told <= 1, "{what}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_damage_anywhere_is_refused_or_serves_the_rest() {
    let sound = sound(hour_of(proof::base(clock::now()))).await;
    let (mut n_refused, mut odd) = (0, Vec::new());
    for seed in 0..N_DAMAGED.1 {
        let (mut bytes, mut dice) = (sound.bytes.clone(), Dice(1000 + seed));
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        let seen = look_at(&bytes, &sound).await;
        n_refused += u64::from(seen.is_refused);
        if seen.n_wrong > 0 || seen.n_untold > 0 {
            odd.push(format!("seed {seed}: {seen:?}"));
        }
    }
    println!("{n_refused} of {} are refused", N_DAMAGED.1);
    assert!(n_refused < N_DAMAGED.1 / 2, "{n_refused}");
    assert!(odd.is_empty(), "{}", odd.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_flipped_bit_gave_another_server_or_time_is_told_and_served_nowhere() {
    let sound = sound(hour_of(proof::base(clock::now()))).await;
    for changed in [
        "server_id = server_id % 3 + 1",
        "epoch = epoch + 1024",
        "seq = seq + 1024",
        "at = at + 4194304",
        "t_min = t_min - 4194304",
        "t_max = t_max + 4194304",
        "(t_min, t_max) = (t_min - 4194304, t_max - 4194304)",
        "complete_until = complete_until + 1",
        "id = id + 1024",
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(open::path(dir.path()), &sound.bytes).unwrap();
        let conn = Connection::open(open::path(dir.path())).unwrap();
        let n = conn.execute(&format!("UPDATE hot SET {changed} WHERE id = 20"), []).unwrap();
        assert_eq!(n, 1);
        drop(conn);
        let want = Seen { n_told: 1, ..Seen::default() };
        assert_eq!(look(dir.path(), &sound).await, want, "{changed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_page_lost_are_noticed_at_start() {
    let sound = sound(hour_of(proof::base(clock::now()))).await;
    let (mut bytes, page) = (sound.bytes.clone(), sound.bodies[30].0 / 4096 * 4096);
    // The head of a leaf of SQLite: its kind, and how many rows it has.
    assert_eq!(bytes[page], 13);
    bytes[page + 4] -= 2;
    let refused = Seen { is_refused: true, ..Seen::default() };
    assert_eq!(look_at(&bytes, &sound).await, refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_newest_batch_does_not_make_its_agent_pass_over_others() {
    let sound = sound(hour_of(proof::base(clock::now()))).await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(open::path(dir.path()), &sound.bytes).unwrap();
    let conn = Connection::open(open::path(dir.path())).unwrap();
    // As a kill leaves it: no watermark is in its table.
    conn.execute_batch(
        "DELETE FROM watermark; DELETE FROM state WHERE k = 'hw_upto';
         UPDATE hot SET seq = seq + 64 WHERE server_id = 1 AND seq = 25;",
    )
    .unwrap();
    drop(conn);
    let store = Store::open(dir.path()).unwrap();
    let mark = |server| store.durable(ServerId(server)).seq;
    assert_eq!((mark(1), mark(2)), (N_BATCHES - 1, N_BATCHES), "it is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_batch_leaves_with_those_beside_it() {
    let sound = sound(hour_of(proof::base(clock::now()))).await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(open::path(dir.path()), &sound.bytes).unwrap();
    let conn = Connection::open(open::path(dir.path())).unwrap();
    conn.execute("UPDATE hot SET server_id = server_id + 64 WHERE id = 20", []).unwrap();
    drop(conn);
    let store = Store::open(dir.path()).unwrap();
    bad_input_tests::flush(&store).await;
    let until = UnixMillis(clock::now().0 + 2 * 86_400_000);
    power_tests::keeper(&store).pass(until).await.unwrap();
    let n = "SELECT count(*) FROM hot";
    let n = store.read(|conn| conn.query_row(n, [], |row| row.get::<_, i64>(0)));
    assert_eq!(n.await.unwrap(), 0);
    let said = ask(&store, sound.base).await.unwrap();
    assert_eq!((said.n_unreadable, store.stats().batches_damaged.get()), (0, 1));
}
