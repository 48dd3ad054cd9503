//! Power cuts at any moment, while batches come and hours are sealed: what was acked is there, once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Names, Recording, monotonic_ns, recorded};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::units::{Bytes, Span};

use super::hours::{Day, hour_of};
use super::proof::{self, N_SERVERS};
use super::{Keeper, Outcome, Store, incidents, retention, tests};
use crate::clock;
use crate::config::{RetentionConfig, StoreConfig};
use crate::model::ServerId;

/// Data directory of the program that runs under the recorder.
const DIR: &str = "GATEWATCH_TEST_POWER_DIR";
const N_LIVES: u64 = 3;
/// Batches of each server in each life.
const N_BATCHES: u64 = 60;
/// Batches of one server on their way at once.
const N_IN_FLIGHT: u64 = 4;
const N_CUTS: u64 = 60;
/// How many days ago everything happened: then days are over and summed up, and leave.
const DAYS: &str = "GATEWATCH_TEST_POWER_DAYS";
const DAY_MS: i64 = 86_400_000;
const N_CUTS_OF_DAYS: u64 = 40;
/// Servers whose batches are of today.
const N_FRESH: i64 = N_SERVERS + 1;

/// Everything is due at once.
pub(super) fn eager() -> StoreConfig {
    let zero = Span(Duration::ZERO);
    StoreConfig { seal_after: zero, late_after: zero, seal_interval: zero }
}

pub(super) fn keeper(store: &Store) -> Keeper {
    keeper_for(store, roomy())
}

/// Nothing leaves because the disk of this machine is full.
fn roomy() -> RetentionConfig {
    RetentionConfig { disk_bytes_max: Bytes(1 << 30), ..RetentionConfig::default() }
}

fn keeper_for(store: &Store, retention: RetentionConfig) -> Keeper {
    Keeper::new(store.clone(), eager(), retention, CancellationToken::new())
}

/// Keeps samples for a day only.
fn forgetful(store: &Store) -> Keeper {
    let raw = Span(Duration::from_secs(86_400));
    keeper_for(store, RetentionConfig { raw, ..roomy() })
}

/// What runs under the recorder: batches of some servers, acks noted with their time, and sealing as
/// fast as it goes. It ends like a killed one.
fn program(dir: &Path) {
    let beside = dir.parent().unwrap();
    let days: i64 = std::env::var(DAYS).unwrap().parse().unwrap();
    let now = UnixMillis(clock::now().0 - days * DAY_MS);
    fs::write(beside.join("began"), now.0.to_string()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for life in 0..N_LIVES {
        runtime.block_on(live(dir, beside, now, life));
    }
    std::mem::forget(runtime);
}

/// From one start of the store to its end; the last one ends like a killed one. Each start and end writes
/// the watermarks, without which no batch may go.
async fn live(dir: &Path, beside: &Path, now: UnixMillis, life: u64) {
    let store = Store::open(dir).unwrap();
    tests::enrol(&store, N_SERVERS + N_FRESH).await;
    let mut senders = Vec::new();
    for server in 1..=N_SERVERS {
        let path = beside.join(format!("acks-{server}"));
        let file = File::options().create(true).append(true).open(path).unwrap();
        let sending = send(store.clone(), ServerId(server), proof::base(now), life, file);
        senders.push(tokio::spawn(sending));
    }
    let keeper = keeper(&store);
    while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
        keeper.pass(clock::now()).await.unwrap();
        // The detector has seen everything, so that hot rows may go.
        let upto = *store.committed().borrow();
        store.write(move |tx| incidents::save_snapshot(tx, upto, b"x")).await.unwrap();
        // The pace of the passes: some batches are to come between two of them.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    for sender in senders {
        sender.await.unwrap();
    }
    keeper.pass(clock::now()).await.unwrap();
    if life + 1 == N_LIVES {
        tell_time(&store).await;
        fs::write(beside.join("leaves"), monotonic_ns().to_string()).unwrap();
        forgetful(&store).pass(clock::now()).await.unwrap();
    }
    if life + 1 < N_LIVES {
        store.close().await.unwrap();
    } else {
        std::mem::forget(store);
    }
}

/// More servers than sent of the past say something of now: nothing leaves by a clock they do not confirm.
async fn tell_time(store: &Store) {
    for server in (N_SERVERS + 1..=N_SERVERS + N_FRESH).map(ServerId) {
        let now = hour_of(clock::now().second()) - 3600;
        let seq = store.durable(server).seq + 1;
        let batch = proof::batch(server, now, seq);
        let outcome = store.append(batch).await.unwrap().await.unwrap().unwrap();
        assert_eq!(outcome, Outcome::Stored);
    }
}

async fn send(store: Store, server: ServerId, base: i64, life: u64, mut notes: File) {
    let mut waiting = std::collections::VecDeque::new();
    for ix in 1..=N_BATCHES + N_IN_FLIGHT {
        let seq = life * N_BATCHES + ix;
        if ix <= N_BATCHES {
            waiting.push_back(store.append(proof::batch(server, base, seq)).await.unwrap());
        }
        if ix > N_IN_FLIGHT {
            assert_eq!(waiting.pop_front().unwrap().await.unwrap().unwrap(), Outcome::Stored);
            writeln!(notes, "{} {}", seq - N_IN_FLIGHT, monotonic_ns()).unwrap();
        }
    }
}

struct Run {
    recording: Recording,
    base: i64,
    /// By server: seq, and when its ack came.
    acks: BTreeMap<i64, Vec<(u64, u64)>>,
    /// When what is over began to leave.
    leaves_ns: u64,
    data: PathBuf,
    _root: tempfile::TempDir,
}

fn run(test: &str, days: i64) -> Run {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    let log = root.path().join("power.log");
    let words = recorded(&data, &log);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(std::env::current_exe().unwrap()).args(["--exact", test]);
    command.env(DIR, &data).env(DAYS, days.to_string());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let recording = Recording::read(&data, &log);
    let text = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    let number = |line: &str| {
        let (seq, at) = line.split_once(' ').unwrap();
        (seq.parse().unwrap(), at.parse().unwrap())
    };
    let acks = (1..=N_SERVERS)
        .map(|server| (server, text(&format!("acks-{server}")).lines().map(number).collect()));
    let base = proof::base(UnixMillis(text("began").parse().unwrap()));
    let leaves_ns = text("leaves").parse().unwrap();
    Run { recording, base, acks: acks.collect(), leaves_ns, data, _root: root }
}

impl Run {
    fn acked_at(&self, ns: u64) -> BTreeMap<i64, u64> {
        let last = |acks: &Vec<(u64, u64)>| {
            acks.iter().filter(|(_, at)| *at <= ns).map(|(seq, _)| *seq).max().unwrap_or(0)
        };
        self.acks.iter().map(|(server, acks)| (*server, last(acks))).collect()
    }

    /// Cuts the power, opens what is left, goes on with sealing, and looks again.
    fn check_cut(&self, recording: &Recording, n: usize, names: Names, seed: u64) {
        let dir = tempfile::tempdir().unwrap();
        recording.cut(n, names, seed, dir.path());
        let acked = self.acked_at(recording.time_of(n));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(dir.path()).unwrap();
            proof::check_whole(&store, self.base, &acked);
            proof::check_integrity(dir.path());
            keeper(&store).pass(clock::now()).await.unwrap();
            proof::check_whole(&store, self.base, &acked);
        });
    }

    /// The same where everything is of a day that is over: sums are whole before and after it leaves,
    /// also when the power fails in the middle of that. True when some of it had left.
    fn check_days(&self, n: usize, seed: u64) -> bool {
        let dir = tempfile::tempdir().unwrap();
        self.recording.cut(n, Names::Journal, seed, dir.path());
        let acked = self.acked_at(self.recording.time_of(n));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(dir.path()).unwrap();
            proof::check_integrity(dir.path());
            let has_left = store.read(retention::raw_from).await.unwrap() > 0;
            if !has_left {
                proof::check_whole(&store, self.base, &acked);
                keeper(&store).pass(clock::now()).await.unwrap();
                proof::check_whole(&store, self.base, &acked);
            }
            let is_any = (1..=N_SERVERS).any(|server| store.durable(ServerId(server)).seq > 0);
            for _ in 0..if is_any { 2 } else { 0 } {
                proof::check_months(&store, self.base);
                tell_time(&store).await;
                forgetful(&store).pass(clock::now()).await.unwrap();
                proof::check_months(&store, self.base);
                let day = Day::of(self.base).unwrap();
                assert!(!dir.path().join(day.file()).exists(), "it left");
            }
            proof::check_integrity(dir.path());
            has_left
        })
    }
}

fn is_lost(check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(check).is_err()
}

#[test]
fn no_power_cut_loses_or_repeats_what_was_acked() {
    if let Ok(dir) = std::env::var(DIR) {
        return program(Path::new(&dir));
    }
    let run = run("store::power_tests::no_power_cut_loses_or_repeats_what_was_acked", 0);
    let n = run.recording.len();
    let moment = |seed: u64| (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize % n + 1;
    for seed in 0..N_CUTS {
        println!("cut {seed} after {} of {n}", moment(seed));
        // Some on a disk that keeps a name only once its directory was synced.
        let names = if seed.is_multiple_of(3) { Names::Strict } else { Names::Journal };
        run.check_cut(&run.recording, moment(seed), names, seed);
    }
    run.check_cut(&run.recording, n, Names::Journal, N_CUTS);
    let day_files = fs::read_dir(run.data.join("blocks")).map_or(0, Iterator::count);
    assert!(day_files > 0, "hours were sealed meanwhile");

    // Were a sync left out, some of these cuts would tell.
    let lazy: [Lazy; 2] = [
        ("gatewatch.db", |path| path.ends_with("gatewatch.db-wal")),
        ("blocks/", |path| path.starts_with("blocks") && path != Path::new("blocks")),
    ];
    for (what, is_one) in lazy {
        let lax = run.recording.without_syncs(is_one);
        let n = lax.len();
        let n_lost = (0..20_u64).filter(|seed| {
            let at = n - (*seed as usize * 17) % (n / 2);
            is_lost(std::panic::AssertUnwindSafe(|| run.check_cut(&lax, at, Names::Journal, *seed)))
        });
        assert!(n_lost.count() > 0, "nothing is lost without syncs of {what}");
    }
}

/// Files of which no sync counts, and their name.
type Lazy = (&'static str, fn(&Path) -> bool);

#[test]
fn no_power_cut_loses_or_repeats_what_days_that_are_over_are_summed_up_to() {
    if let Ok(dir) = std::env::var(DIR) {
        return program(Path::new(&dir));
    }
    let test = "store::power_tests::no_power_cut_loses_or_repeats_what_days_that_are_over_are_summed_up_to";
    let run = run(test, 3);
    let n = run.recording.len();
    // Days leave at the end, however much came before on a machine that takes its time for it.
    let leaves = (1..n).find(|at| run.recording.time_of(*at) >= run.leaves_ns).unwrap_or(n);
    let moment = |seed: u64| match seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 {
        at if seed.is_multiple_of(2) => n - at as usize % (n - leaves + 1),
        at => at as usize % n + 1,
    };
    let mut n_left = 0;
    for seed in 0..N_CUTS_OF_DAYS {
        println!("cut {seed} after {} of {n}", moment(seed));
        n_left += usize::from(run.check_days(moment(seed), seed));
    }
    println!("some of it had left at {n_left} of {N_CUTS_OF_DAYS} cuts");
    assert!(run.check_days(n, N_CUTS_OF_DAYS), "all of it left in the end");
    assert!(n_left > 0 && n_left < N_CUTS_OF_DAYS as usize, "{n_left}");
}
