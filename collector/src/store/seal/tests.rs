//! Sealing as a whole, against a model: nothing lost, nothing twice, wherever it stops.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use proptest::prelude::*;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use wire::v1::{BatchBody, Series, Site, SiteSecond, Tick};

use super::super::blocks::Place;
use super::super::tests::{batch, enrol};
use super::super::{Outcome, incidents, read};
use super::*;
use crate::config::RetentionConfig;
use crate::ingest::convert;
use crate::model::ServerId;
use crate::store::{NewBatch, SiteSeen};

/// 2026-11-30T22:00:00Z: the hours of the tests lie in two days.
pub(super) const T0: i64 = 1_796_076_000;
const METRICS: [&str; 2] = ["system.cpu.utilization", "system.memory.limit"];
const SITES: [&str; 2] = ["a.example", "b.example"];
const STATUSES: [u32; 4] = [200, 404, 502, 1000];

/// Samples by server, metric and second.
pub(super) type Samples = BTreeMap<(i64, String, i64), i64>;
/// Requests by server, site, status and second as it is kept.
pub(super) type Requests = BTreeMap<(i64, String, u16, i64), u64>;

/// What is sent at once: server, seconds after `T0`, values.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) server: i64,
    /// Each a tick with samples of both metrics and a request of each site.
    pub(super) seconds: Vec<(i64, i64, u32)>,
    /// Hidden behind more, so that its bytes cannot be read.
    pub(super) is_unreadable: bool,
}

pub(super) fn keeper(store: &Store) -> Keeper {
    Keeper::new(
        store.clone(),
        StoreConfig::default(),
        RetentionConfig::default(),
        CancellationToken::new(),
    )
}

fn body(sent: &Sent) -> BatchBody {
    let tick = |(second, value, _): &(i64, i64, u32)| Tick {
        at_unix_ms: (T0 + second) * 1000,
        series: vec![0, 1],
        value: vec![*value, value + 1],
    };
    let count = |(second, _, n): &(i64, i64, u32)| SiteSecond {
        site: (n % 2),
        second: T0 + second,
        status: vec![STATUSES[*n as usize % STATUSES.len()]],
        count: vec![*n],
    };
    BatchBody {
        sites: SITES.map(|name| Site { name: name.into(), ..Site::default() }).into(),
        series: METRICS.map(|name| Series { metric: name.into(), ..Series::default() }).into(),
        ticks: sent.seconds.iter().map(tick).collect(),
        seconds: sent.seconds.iter().map(count).collect(),
        ..BatchBody::default()
    }
}

fn new_batch(sent: &Sent, seq: u64, at: i64) -> NewBatch {
    let times = || sent.seconds.iter().map(|(second, ..)| UnixMillis::from_second(T0 + second));
    let at = UnixMillis::from_second(T0 + at);
    let sites =
        SITES.map(|name| SiteSeen { name: name.into(), pool: None, upstream: None, owner: None });
    let packed = zstd::bulk::compress(&body(sent).encode_to_vec(), 1).unwrap();
    NewBatch {
        at,
        t_min: times().min().unwrap_or(at),
        t_max: times().max().unwrap_or(at),
        body: if sent.is_unreadable { b"why".to_vec() } else { packed },
        codec: u32::from(!sent.is_unreadable),
        sites: sites.into(),
        ..batch(sent.server, 1, seq)
    }
}

pub(super) fn file(model: &mut (Samples, Requests), sent: &Sent) {
    if sent.is_unreadable {
        return;
    }
    for (second, value, n) in &sent.seconds {
        for (metric, value) in METRICS.iter().zip([*value, value + 1]) {
            model.0.insert((sent.server, (*metric).to_owned(), T0 + second), value);
        }
        let status = STATUSES[*n as usize % STATUSES.len()] as u16;
        let kept = if matches!(status, 502 | 1000) { *second } else { second.div_euclid(10) * 10 };
        let site = SITES[*n as usize % 2].to_owned();
        *model.1.entry((sent.server, site, status, T0 + kept)).or_default() += u64::from(*n);
    }
}

/// What a reader finds: parts of day files below `sealed.parts`, and batches above `hot_cut`.
pub(super) async fn found(store: &Store) -> (Samples, Requests) {
    let dir = store.dir().to_owned();
    let read = move |conn: &Connection| {
        let sealed: Vec<(i64, i64, u32)> = conn
            .prepare("SELECT t0, hot_cut, parts FROM sealed ORDER BY t0")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut all = (Samples::new(), Requests::new());
        for (t0, _, parts) in &sealed {
            let day = Day::of(*t0).unwrap();
            let Some(file) = DayFile::open(&dir, day).unwrap() else {
                assert_eq!(*parts, 0, "the file of {t0} is gone");
                continue;
            };
            assert!(file.parts(*t0).unwrap() >= *parts);
            for part in 0..*parts {
                for server in file.servers(*t0, part).unwrap() {
                    sealed_part(conn, &file, Place { t0: *t0, server, part }, &mut all)?;
                }
            }
        }
        for row in read::hot_after(conn, 0, usize::MAX, usize::MAX)? {
            hot_row(conn, &sealed, &row, &mut all);
        }
        Ok(all)
    };
    store.read(read).await.unwrap()
}

fn sealed_part(
    conn: &Connection,
    file: &DayFile,
    place: Place,
    all: &mut (Samples, Requests),
) -> rusqlite::Result<()> {
    let hour = file.server_hour(place).unwrap();
    for column in hour.columns {
        let row = metrics::series_by_id(conn, column.metric)?.unwrap();
        for (second, value) in column.at.iter().zip(&column.values) {
            let key = (place.server.0, row.name.clone(), place.t0 + i64::from(*second));
            all.0.insert(key, *value);
        }
    }
    let names = read::sites(conn, place.server)?;
    for count in hour.counts {
        let name = &names.iter().find(|row| row.site == count.site).unwrap().name;
        let key = (place.server.0, name.clone(), count.status, place.t0 + i64::from(count.second));
        *all.1.entry(key).or_default() += count.n;
    }
    Ok(())
}

fn hot_row(
    conn: &Connection,
    sealed: &[(i64, i64, u32)],
    row: &crate::store::HotRow,
    all: &mut (Samples, Requests),
) {
    let head =
        Head { id: row.id, server: row.server, at: row.at, t_min: row.t_min, t_max: row.t_max };
    let Ok(body) = convert::unpack(row.codec, &row.body) else { return };
    let names = read::sites(conn, row.server).unwrap();
    let sites = names.into_iter().map(|row| (row.name, row.site)).collect();
    for t0 in head.hours() {
        if sealed.iter().any(|(hour, cut, _)| *hour == t0 && *cut >= row.id) {
            continue;
        }
        let mut fold = fold::Fold::new(t0, &sites);
        fold.add(&head, &body);
        let folded = fold.finish();
        for series in folded.series {
            for (second, value) in series.samples {
                let key = (row.server.0, series.metric.name.to_owned(), t0 + i64::from(second));
                all.0.insert(key, value);
            }
        }
        for count in folded.counts {
            let name = sites.iter().find(|(_, site)| **site == count.site).unwrap().0;
            let key = (row.server.0, name.clone(), count.status, t0 + i64::from(count.second));
            *all.1.entry(key).or_default() += count.n;
        }
    }
}

/// What a killed collector leaves.
fn crashed_copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir, copy.path());
    copy
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            std::fs::create_dir(to.join(&name)).unwrap();
            copy_files(&path, &to.join(&name));
        } else if !name.to_string_lossy().ends_with("-shm") && name != "collector.lock" {
            std::fs::copy(&path, to.join(&name)).unwrap();
        }
    }
}

/// Runs a pass that is stopped after so many steps; true when it was.
pub(super) async fn pass_of(store: &Store, now: i64, n_steps: i64) -> bool {
    let left = Arc::new(AtomicI64::new(n_steps));
    let gate: Gate = Arc::new(move || left.fetch_sub(1, Ordering::SeqCst) > 0);
    let now = UnixMillis::from_second(T0 + now);
    match on_thread(Pass::new(&keeper(store), now, gate)).await {
        Ok(()) => false,
        Err(SealError::Stopped) => true,
        Err(error) => panic!("{error:?}"),
    }
}

/// The detector has read everything, and the watermarks are on disk.
pub(super) async fn detect(store: &Store) {
    let upto = *store.committed().borrow();
    let marks: Vec<_> = (1..=3).map(|server| store.durable(ServerId(server))).collect();
    let save = move |tx: &crate::store::WriteTx<'_>| {
        incidents::save_snapshot(tx, upto, b"")?;
        for (server, mark) in (1..).zip(marks) {
            let row = params![server, mark.epoch as i64, mark.seq as i64];
            tx.execute("INSERT OR REPLACE INTO watermark VALUES (?1, ?2, ?3)", row)?;
        }
        tx.execute("INSERT OR REPLACE INTO state(k, v) VALUES ('hw_upto', ?1)", [upto])
    };
    store.write(save).await.unwrap();
}

pub(super) async fn n_hot(store: &Store) -> i64 {
    let count =
        |conn: &Connection| conn.query_row("SELECT count(*) FROM hot", [], |row| row.get(0));
    store.read(count).await.unwrap()
}

pub(super) async fn send(store: &Store, sent: &Sent, seq: u64, at: i64) {
    let outcome = store.append(new_batch(sent, seq, at)).await.unwrap().await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Stored);
}

pub(super) fn open(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Send(Sent),
    /// Time goes on, seconds.
    Wait(i64),
    /// A pass that is stopped after so many steps.
    Pass(i64),
    /// The detector reads on.
    Detect,
    /// Goes on with what kill -9 left.
    Crash,
    Reopen,
}

fn sent() -> impl Strategy<Value = Sent> {
    let second = (-7200..300_i64, 0..10_000_i64, 1..9_u32);
    (1..=3_i64, prop::collection::vec(second, 1..4), prop::bool::weighted(0.1))
        .prop_map(|(server, seconds, is_unreadable)| Sent { server, seconds, is_unreadable })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => sent().prop_map(Step::Send),
        3 => (0..4000_i64).prop_map(Step::Wait),
        4 => prop_oneof![0..25_i64, Just(i64::MAX)].prop_map(Step::Pass),
        2 => Just(Step::Detect),
        1 => Just(Step::Crash),
        1 => Just(Step::Reopen),
    ]
}

async fn play(steps: Vec<Step>) {
    let mut dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    enrol(&store, 3).await;
    let (mut model, mut now) = ((Samples::new(), Requests::new()), 0);
    let mut seqs = [0_u64; 4];
    for step in steps {
        match step {
            Step::Send(mut sent) => {
                // Seconds are told from now.
                sent.seconds.iter_mut().for_each(|(second, ..)| *second += now);
                seqs[sent.server as usize] += 1;
                send(&store, &sent, seqs[sent.server as usize], now).await;
                file(&mut model, &sent);
            }
            Step::Wait(seconds) => now += seconds,
            Step::Pass(n_steps) => {
                pass_of(&store, now, n_steps).await;
            }
            Step::Detect => detect(&store).await,
            Step::Crash => {
                let copy = crashed_copy(dir.path());
                store = open(copy.path());
                dir = copy;
            }
            Step::Reopen => {
                drop(store);
                store = open(dir.path());
            }
        }
        assert_eq!(found(&store).await, model);
    }
    // At last everything is sealed, and nothing is left.
    detect(&store).await;
    assert!(!pass_of(&store, now + 3 * 3600, i64::MAX).await);
    let turn = now + 3 * 86_400;
    assert!(!pass_of(&store, turn, i64::MAX).await, "what came late has its turn");
    assert_eq!(found(&store).await, model);
    assert_eq!(n_hot(&store).await, 0);
    assert_eq!(store.hot_servers(), []);
    assert_eq!(store.stats().sealing_behind_s.get(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_and_nothing_twice_wherever_it_stops(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(steps));
    }
}

/// One server, two hours over midnight, some late; and what is in them.
pub(super) async fn two_days(store: &Store) -> (Samples, Requests) {
    let mut model = (Samples::new(), Requests::new());
    enrol(store, 2).await;
    for (seq, seconds) in [(1, 7100..7108), (2, 7195..7205), (3, 7300..7303)] {
        let seconds = seconds.map(|second| (second, second, 1 + second as u32 % 7)).collect();
        for server in 1..=2 {
            let sent = Sent { server, seconds: Vec::clone(&seconds), is_unreadable: false };
            send(store, &sent, seq, 7310).await;
            file(&mut model, &sent);
        }
    }
    model
}

#[tokio::test]
async fn a_crash_after_any_step_changes_nothing_that_is_read() {
    for n_steps in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let model = two_days(&store).await;
        detect(&store).await;
        let stopped = pass_of(&store, 4 * 3600, n_steps).await;
        assert_eq!(found(&store).await, model, "stopped after {n_steps} steps");
        let copy = crashed_copy(dir.path());
        let again = open(copy.path());
        assert_eq!(found(&again).await, model, "opened after {n_steps} steps");
        assert!(!pass_of(&again, 4 * 3600, i64::MAX).await);
        assert_eq!(found(&again).await, model, "repeated after {n_steps} steps");
        assert_eq!(n_hot(&again).await, 0);
        if !stopped {
            assert!(n_steps > 10, "{n_steps} steps are not all of them");
            return;
        }
    }
}

#[tokio::test]
async fn nothing_is_deleted_that_the_detector_has_not_read_and_ids_are_never_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let model = two_days(&store).await;
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!(n_hot(&store).await, 6, "no snapshot: the detector has read nothing");
    let save = |upto: i64| store.write(move |tx| incidents::save_snapshot(tx, upto, b""));
    detect(&store).await;
    save(4).await.unwrap();
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!(n_hot(&store).await, 2);
    assert_eq!(store.hot_ids(ServerId(1)), [5]);
    detect(&store).await;
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!((n_hot(&store).await, store.hot_servers()), (0, vec![]));
    assert_eq!(found(&store).await, model);
    drop(store);
    let store = open(dir.path());
    let late = Sent { server: 1, seconds: vec![(7000, 1, 1)], is_unreadable: false };
    send(&store, &late, 4, 14_500).await;
    assert_eq!(store.hot_ids(ServerId(1)), [7], "never below a cut");
}

#[tokio::test]
async fn readers_that_follow_each_other_hold_up_only_what_was_packed_since_the_oldest_began() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    two_days(&store).await;
    detect(&store).await;
    let one = store.hold();
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!(n_hot(&store).await, 6, "who began before the hours were packed reads them here");
    // Another begins before the first ends, and so on: of packed hours it needs no batch.
    let two = store.hold();
    drop(one);
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!(n_hot(&store).await, 0);
    // What comes late is another part, and stays for those who know of the first one only.
    let late = Sent { server: 1, seconds: vec![(7000, 1, 1)], is_unreadable: false };
    send(&store, &late, 4, 14_500).await;
    detect(&store).await;
    assert!(!pass_of(&store, 8 * 3600, i64::MAX).await);
    assert_eq!(n_hot(&store).await, 1);
    let three = store.hold();
    assert!(two.holds() && three.holds());
    drop(two);
    assert!(!pass_of(&store, 8 * 3600, i64::MAX).await);
    assert_eq!(n_hot(&store).await, 0);
    drop(three);
}

/// The database is restored to before the hour was sealed, and agents send again what came since.
#[tokio::test]
async fn an_older_database_beside_a_newer_day_file_counts_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 1).await;
    let mut model = (Samples::new(), Requests::new());
    let sent = |second| Sent {
        server: 1,
        seconds: vec![(second, 5, 3), (second + 1, 6, 2)],
        is_unreadable: false,
    };
    send(&store, &sent(10), 1, 15).await;
    file(&mut model, &sent(10));
    let backup = crashed_copy(dir.path());
    send(&store, &sent(20), 2, 25).await;
    file(&mut model, &sent(20));
    assert!(!pass_of(&store, 2 * 3600, i64::MAX).await);
    drop(store);
    std::fs::create_dir(backup.path().join("blocks")).unwrap();
    copy_files(&dir.path().join("blocks"), &backup.path().join("blocks"));
    let store = open(backup.path());
    send(&store, &sent(20), 2, 7300).await;
    send(&store, &sent(30), 3, 7301).await;
    file(&mut model, &sent(30));
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!(found(&store).await, model);
}

#[tokio::test]
async fn what_comes_late_is_another_part_once_it_had_time_to_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 1).await;
    let sent = |second| Sent { server: 1, seconds: vec![(second, 5, 3)], is_unreadable: false };
    let parts = || {
        let count = "SELECT coalesce(max(parts), 0) FROM sealed";
        store.read(move |conn| conn.query_row(count, [], |row| row.get::<_, u32>(0)))
    };
    send(&store, &sent(10), 1, 15).await;
    for (now, want) in [(3599, 0), (3899, 0), (3900, 1), (9000, 1)] {
        pass_of(&store, now, i64::MAX).await;
        assert_eq!(parts().await.unwrap(), want, "at {now}");
    }
    send(&store, &sent(20), 2, 9000).await;
    for (now, want) in [(9000, 1), (9899, 1), (9900, 2)] {
        pass_of(&store, now, i64::MAX).await;
        assert_eq!(parts().await.unwrap(), want, "at {now}");
    }
    let stats = store.stats();
    assert_eq!((stats.hours_sealed.get(), stats.parts_late.get()), (1, 1));
    assert_eq!(stats.samples_sealed.get(), 4);
}

#[tokio::test]
async fn what_is_too_old_to_be_kept_is_counted_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 3).await;
    // Days before what is kept of a raw retention of 35 days come by a collector that was off.
    let sent = Sent { server: 1, seconds: vec![(10, 5, 3), (11, 5, 3)], is_unreadable: false };
    send(&store, &sent, 1, 20).await;
    let gone = Sent { server: 2, ..sent };
    send(&store, &gone, 1, 20).await;
    store.write(|tx| tx.execute("DELETE FROM server WHERE server_id = 2", [])).await.unwrap();
    let raw_s = RetentionConfig::default().raw.0.as_secs() as i64;
    let now = raw_s + 86_400;
    for (server, seq) in [(1, 2), (3, 1)] {
        // Most agents confirm how late it is.
        let sent = Sent { server, seconds: vec![(now, 5, 3)], is_unreadable: false };
        send(&store, &sent, seq, now).await;
    }
    detect(&store).await;
    assert!(!pass_of(&store, now, i64::MAX).await);
    assert!(!dir.path().join("blocks").exists());
    assert_eq!(n_hot(&store).await, 2, "what is not due");
    assert_eq!(store.stats().entries_expired.get(), 6);
    assert_eq!(store.stats().batches_forgotten.get(), 1);
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_packs_what_comes_and_calls_nothing_expired() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = two_days(&store).await;
    detect(&store).await;
    assert!(!pass_of(&store, 9 * 365 * 86_400, i64::MAX).await);
    assert_eq!((found(&store).await, n_hot(&store).await), (model.clone(), 0));
    // What comes after the clock is right again waits for no time of those years.
    let late = Sent { server: 1, seconds: vec![(7100, 9, 4)], is_unreadable: false };
    send(&store, &late, 4, 7400).await;
    file(&mut model, &late);
    detect(&store).await;
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!((found(&store).await, n_hot(&store).await), (model, 0));
    assert_eq!(store.stats().entries_expired.get(), 0);
}

/// A day leaves early for want of space; then an agent sends what it kept of it.
#[tokio::test]
async fn what_comes_late_for_a_day_that_left_early_is_counted_and_makes_no_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    two_days(&store).await;
    detect(&store).await;
    let first = Day::of(T0).unwrap();
    let late_on = 3 * 86_400;
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    // It was not even summed up.
    let mut keeper = keeper(&store);
    keeper.retention.disk_bytes_max = wire::units::Bytes(1);
    let now = UnixMillis::from_second(T0 + late_on);
    let sent = Sent { server: 2, seconds: vec![(late_on, 5, 3)], is_unreadable: false };
    send(&store, &sent, 4, late_on).await;
    let again = Sent { server: 1, seconds: vec![(late_on, 5, 3)], is_unreadable: false };
    send(&store, &again, 4, late_on).await;
    keeper.pass(now).await.unwrap();
    assert!(!dir.path().join(first.file()).exists(), "it left");
    assert_eq!(store.stats().entries_expired.get(), 0);
    let late = Sent { server: 1, seconds: vec![(10, 5, 3), (7190, 5, 3)], is_unreadable: false };
    send(&store, &late, 5, late_on + 10).await;
    detect(&store).await;
    assert!(!pass_of(&store, late_on + 3 * 3600, i64::MAX).await);
    assert!(!dir.path().join(first.file()).exists(), "a part of it would pass for the day");
    assert_eq!(store.stats().entries_expired.get(), 6);
    assert_eq!(n_hot(&store).await, 0);
}

#[tokio::test]
async fn a_broken_day_file_keeps_no_other_day_waiting_and_its_batches_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let model = two_days(&store).await;
    detect(&store).await;
    // The file of another day: not damaged, so nobody touches it.
    let (day, other) = (Day::of(T0).unwrap(), Day::of(T0 - 86_400).unwrap());
    DayFile::create(dir.path(), other).unwrap().close().unwrap();
    std::fs::rename(dir.path().join(other.file()), dir.path().join(day.file())).unwrap();
    let pass =
        Pass::new(&keeper(&store), UnixMillis::from_second(T0 + 4 * 3600), Arc::new(|| true));
    let error = on_thread(pass).await.unwrap_err();
    assert!(matches!(error, SealError::Day(_, BlockError::Bad(_))), "{error:?}");
    assert_eq!(store.stats().hours_sealed.get(), 1, "the hour of the next day");
    assert_eq!(n_hot(&store).await, 4, "all that holds something of the broken day");
    assert!(store.stats().sealing_behind_s.get() > 0);
    std::fs::remove_file(dir.path().join(day.file())).unwrap();
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    assert_eq!(found(&store).await, model);
    assert_eq!((n_hot(&store).await, store.stats().sealing_behind_s.get()), (0, 0));
}

/// Half an hour is stored, the collector's clock is set back by two hours, and right again a little later.
#[tokio::test]
async fn a_clock_that_was_set_back_for_a_while_loses_no_batch_of_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 1).await;
    let mut model = (Samples::new(), Requests::new());
    let right = (0..30).map(|ix| ix * 60);
    let back = (0..20).map(|ix| ix * 15 - 5400);
    for (seq, at) in (1..).zip(right.chain(back).chain((35..45).map(|ix| ix * 60))) {
        let sent = Sent { server: 1, seconds: vec![(at, 5, 3)], is_unreadable: false };
        send(&store, &sent, seq, at + 1).await;
        file(&mut model, &sent);
    }
    detect(&store).await;
    assert!(!pass_of(&store, 2 * 3600, i64::MAX).await);
    assert_eq!((found(&store).await, n_hot(&store).await), (model, 0));
}

#[tokio::test]
async fn a_day_file_that_cannot_be_used_keeps_no_younger_day_waiting() {
    let spoil: [fn(&Path) -> Option<Connection>; 3] = [
        |path| {
            std::fs::create_dir(path).unwrap();
            None
        },
        |path| {
            Connection::open(path).unwrap().execute("DROP TABLE hour", []).unwrap();
            None
        },
        |path| {
            // Somebody looks at it with another program.
            let other = Connection::open(path).unwrap();
            let lock = "PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t(x); COMMIT;";
            other.execute_batch(lock).unwrap();
            Some(other)
        },
    ];
    for (case, spoil) in spoil.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let model = two_days(&store).await;
        detect(&store).await;
        let day = Day::of(T0).unwrap();
        let path = dir.path().join(day.file());
        std::fs::create_dir(dir.path().join("blocks")).unwrap();
        if case > 0 {
            DayFile::create(dir.path(), day).unwrap().close().unwrap();
        }
        let held = spoil(&path);
        let keeper = keeper(&store);
        let now = UnixMillis::from_second(T0 + 4 * 3600);
        let ended = on_thread(Pass::new(&keeper, now, Arc::new(|| true))).await;
        assert!(matches!(ended, Err(SealError::Day(..))), "case {case}: {ended:?}");
        assert_eq!(store.stats().hours_sealed.get(), 1, "case {case}: the hour of the next day");
        assert_eq!(n_hot(&store).await, 4, "case {case}");
        assert_eq!(store.stats().sealings_failed.get(), 1);
        assert!(!keeper.is_news(&path), "case {case}: it was told");
        assert!(pass(&keeper, now).await.is_ok(), "case {case}: what is told is no news");
        assert_eq!(store.stats().sealings_failed.get(), 2);
        drop(held);
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        } else {
            for suffix in ["", "-wal", "-shm"] {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                drop(std::fs::remove_file(name));
            }
        }
        assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
        assert_eq!((found(&store).await, n_hot(&store).await), (model, 0), "case {case}");
    }
}

#[tokio::test]
async fn batches_wait_for_a_day_file_that_somebody_moved() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut model = two_days(&store).await;
    detect(&store).await;
    assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
    let path = dir.path().join(Day::of(T0).unwrap().file());
    let elsewhere = dir.path().join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    let late = Sent { server: 1, seconds: vec![(7100, 9, 4)], is_unreadable: false };
    send(&store, &late, 4, 4 * 3600).await;
    file(&mut model, &late);
    detect(&store).await;
    let (keeper, later) = (keeper(&store), UnixMillis::from_second(T0 + 6 * 3600));
    assert!(pass(&keeper, later).await.is_ok());
    assert!(!keeper.is_news(&path), "it was told");
    assert_eq!((n_hot(&store).await, store.stats().entries_expired.get()), (1, 0));
    assert!(!path.exists(), "a part of it would pass for the day");
    std::fs::rename(&elsewhere, &path).unwrap();
    assert!(!pass_of(&store, 6 * 3600, i64::MAX).await);
    assert_eq!((found(&store).await, n_hot(&store).await), (model, 0));
}

#[tokio::test]
async fn a_stop_is_heeded_between_any_two_servers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    enrol(&store, 3).await;
    for server in 1..=3 {
        let sent = Sent { server, seconds: vec![(10, 5, 3)], is_unreadable: false };
        send(&store, &sent, 1, 20).await;
    }
    // One step for the hour, one for each server and one for its new series.
    for n_steps in 0..5 {
        assert!(pass_of(&store, 2 * 3600, n_steps).await);
        assert!(!dir.path().join("blocks").exists(), "after {n_steps} steps");
    }
}
