//! Backups are whole or not there; a restore is the old or the new; damage finds the newest backup.

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::BackupConfig;
use crate::model::ServerId;
use crate::store::Store;
use crate::store::blocks::{Column, DayFile, Place, ServerHour, SiteCount};
use crate::store::rollup::month::{MonthFile, Rows};
use crate::store::rollup::rolled::Rolled;
use crate::store::{proof, verify};

const T0: i64 = 1_795_176_000;

fn day() -> Day {
    Day::of(T0).unwrap()
}

fn hour(metric: i64) -> ServerHour {
    let at: Vec<u16> = (0..360).map(|ix| ix * 10).collect();
    let values = at.iter().map(|at| i64::from(*at) * 7919 % 1000).collect();
    let site = crate::model::SiteId(1);
    ServerHour {
        columns: vec![Column { metric, at, values }],
        counts: vec![SiteCount { site, status: 200, second: 10, n: 7 }],
        ..ServerHour::default()
    }
}

/// Packs an hour of servers 1 to 3 as this part, and says so in the database.
async fn seal(store: &Store, t0: i64, part: u32) {
    let mut file = DayFile::create(store.dir(), Day::of(t0).unwrap()).unwrap();
    let servers = (1..=3).map(|id| (Place { t0, server: ServerId(id), part }, hour(3)));
    file.put(&servers.collect::<Vec<_>>()).unwrap();
    file.finish(t0, part, 3).unwrap();
    let sealed = "INSERT OR REPLACE INTO sealed(t0, hot_cut, parts, at) VALUES(?1, 0, ?2, 0)";
    let row = (t0, part + 1);
    store.write(move |tx| tx.execute(sealed, row)).await.unwrap();
}

/// A data directory with one sealed hour, a number in `state`, an authority and a token.
async fn filled(dir: &Path, number: i64) -> Store {
    let store = Store::open(dir).unwrap();
    for name in ["ca/ca.pem", "ca/ca.key", "admin.token"] {
        fs::create_dir_all(dir.join("ca")).unwrap();
        fs::write(dir.join(name), name).unwrap();
    }
    seal(&store, T0, 0).await;
    set(&store, number).await;
    store
}

async fn set(store: &Store, number: i64) {
    let sql = "INSERT OR REPLACE INTO state(k, v) VALUES('number', ?1)";
    store.write(move |tx| tx.execute(sql, [number])).await.unwrap();
}

async fn number(store: &Store) -> i64 {
    let sql = "SELECT v FROM state WHERE k = 'number'";
    store.read(move |conn| conn.query_row(sql, [], |row| row.get(0))).await.unwrap()
}

async fn close(store: Store) {
    store.close().await.unwrap();
    drop(store);
}

fn archive(dir: &Path) -> Vec<u8> {
    let source = Source::new(dir, CancellationToken::new()).unwrap();
    let mut out = Vec::new();
    Archive::prepare(source).unwrap().write(&mut out, &mut |_, _| {}).unwrap();
    out
}

fn sound(dir: &Path) -> Vec<String> {
    let report = verify::verify(dir, UnixMillis(0));
    report.problems.into_iter().map(|p| format!("{}: {} {}", p.file, p.place, p.what)).collect()
}

#[tokio::test]
async fn a_backup_of_a_running_store_is_restored_as_it_was() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 7).await;
    let bytes = archive(dir.path());
    assert!(!dir.path().join("backup.tmp").exists(), "no copy stays behind");
    set(&store, 8).await;
    let file = elsewhere.path().join("b.tar");
    fs::write(&file, &bytes).unwrap();
    let (report, manifest) = verify::verify_archive(&file).unwrap();
    assert!(report.sound, "{report:#?}");
    assert_eq!((report.n_hours, report.n_bodies), (1, 3 * 5));
    assert_eq!(manifest.unwrap().members.len(), 5);

    let refused = restore(dir.path(), &file, true).unwrap_err();
    assert!(refused.what.contains("a collector runs on it"), "{refused}");
    let new = elsewhere.path().join("data");
    let done = restore(&new, &file, false).unwrap();
    assert_eq!(done.finished, place::Finished::default());
    assert_eq!(sound(&new), Vec::<String>::new());
    let copy = Store::open(&new).unwrap();
    assert_eq!(number(&copy).await, 7);
    let read = DayFile::open(&new, day()).unwrap().unwrap();
    let place = Place { t0: T0, server: ServerId(2), part: 0 };
    assert_eq!(read.server_hour(place).unwrap(), hour(3));
    assert_eq!(fs::read_to_string(new.join("ca/ca.key")).unwrap(), "ca/ca.key");
    close(copy).await;

    // Where there is a database it takes a word more, and the old one stays.
    close(store).await;
    assert!(restore(dir.path(), &file, false).unwrap_err().what.contains("there is a database"));
    let done = restore(dir.path(), &file, true).unwrap();
    let aside = done.finished.aside.unwrap();
    assert!(aside.join("gatewatch.db").exists() && aside.join("blocks").exists());
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(number(&store).await, 7);
    close(store).await;
    fs::rename(aside.join("gatewatch.db"), dir.path().join("gatewatch.db")).unwrap();
    assert_eq!(number(&Store::open(dir.path()).unwrap()).await, 8, "what was moved aside is whole");
}

#[tokio::test]
async fn parts_that_were_packed_after_the_database_was_copied_are_cut_out() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 7).await;
    let source = Source::new(dir.path(), CancellationToken::new()).unwrap();
    let prepared = Archive::prepare(source).unwrap();
    seal(&store, T0, 1).await;
    seal(&store, T0 + 3600, 0).await;
    let mut bytes = Vec::new();
    prepared.write(&mut bytes, &mut |_, _| {}).unwrap();
    let (file, new) = (elsewhere.path().join("b.tar"), elsewhere.path().join("data"));
    fs::write(&file, bytes).unwrap();
    assert_eq!(restore(&new, &file, false).unwrap().finished.n_parts_cut, 2);
    let read = DayFile::open(&new, day()).unwrap().unwrap();
    assert_eq!([read.parts(T0).unwrap(), read.parts(T0 + 3600).unwrap()], [1, 0]);
    assert_eq!(read.servers(T0, 1).unwrap(), []);
    assert_eq!(read.servers(T0, 0).unwrap().len(), 3);
    assert_eq!(sound(&new), Vec::<String>::new());
}

#[tokio::test]
async fn days_that_were_summed_up_after_the_database_was_copied_are_cut_out() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 7).await;
    let roll = |t0: i64| {
        let mut file = MonthFile::create(dir.path(), Month::of(t0).unwrap()).unwrap();
        let hour = || Some(Rolled { n: 1, min: 1, max: 1, sum: 1, ..Rolled::default() });
        let series = vec![(3, ServerId(1), std::array::from_fn(|_| hour()))];
        file.put(Day::of(t0).unwrap(), &Rows { series, ..Rows::default() }).unwrap();
        store.write(move |tx| tx.execute("UPDATE sealed SET rolled = parts WHERE t0 = ?1", [t0]))
    };
    roll(T0 - 5 * 86_400).await.unwrap(); // its day file and its rows of `sealed` left by age
    roll(T0).await.unwrap();
    let source = Source::new(dir.path(), CancellationToken::new()).unwrap();
    let prepared = Archive::prepare(source).unwrap();
    seal(&store, T0 + 86_400, 0).await;
    roll(T0 + 86_400).await.unwrap();
    let mut bytes = Vec::new();
    prepared.write(&mut bytes, &mut |_, _| {}).unwrap();
    let (file, new) = (elsewhere.path().join("b.tar"), elsewhere.path().join("data"));
    fs::write(&file, bytes).unwrap();
    restore(&new, &file, false).unwrap();
    let month = MonthFile::open(&new, Month::of(T0).unwrap()).unwrap().unwrap();
    let has = |t0| month.series_day(Day::of(t0).unwrap(), 3, ServerId(1)).unwrap().is_some();
    let found = [T0 - 5 * 86_400, T0, T0 + 86_400].map(has);
    assert_eq!(found, [true, true, false]);
    assert_eq!(sound(&new), Vec::<String>::new());
}

#[tokio::test]
async fn no_byte_of_a_backup_can_change_or_be_missing() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 7).await;
    let bytes = archive(dir.path());
    let (file, new) = (elsewhere.path().join("b.tar"), elsewhere.path().join("data"));
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let error = restore(&new, &file, false).expect_err(what);
        assert!(!new.join("gatewatch.db").exists(), "{what}: {error}");
        assert!(!new.join("restore.tmp").exists(), "{what}: no file stays behind");
        let (report, _) = verify::verify_archive(&file).unwrap();
        assert!(!report.sound, "{what}");
    };
    // After the last checksum there is only padding.
    let end = bytes.len() - 1024 - 512;
    for at in (0..end).step_by(end / 40) {
        refused(&bytes[..at], &format!("cut off at {at}"));
        // Not in padding, which nothing says anything about.
        let mut flipped = bytes.clone();
        if at >= 512 && flipped[at] != 0 {
            flipped[at] ^= 0x10;
            refused(&flipped, &format!("a flipped bit at {at}"));
        }
    }
    refused(b"no tar at all", "text");
    for name in ["../x", "/etc/passwd", "ca/../../x", "blocks/x.db", "gatewatch.db-wal"] {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(1);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut evil = tar::Builder::new(Vec::new());
        evil.append(&header, Cursor::new(b"x")).unwrap();
        refused(&evil.into_inner().unwrap(), name);
    }
    close(store).await;
}

#[tokio::test]
async fn a_restore_needs_room_also_for_what_lies_beside_the_archive() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 7).await;
    let source = Source::new(dir.path(), CancellationToken::new()).unwrap();
    let mut bytes = Vec::new();
    // A day that is larger than any disk.
    let mut beside = |name: &str, _: &Source| {
        let member = Member {
            name: name.to_owned(),
            n_bytes: 1 << 62,
            sha256: "0".repeat(64),
            beside: Some(format!("files/{}.db", "0".repeat(64))),
            mtime_ns: None,
        };
        Ok(Some(archive::Beside::There(member)))
    };
    let prepared = Archive::prepare(source).unwrap();
    prepared.write_with(&mut bytes, &mut |_, _| {}, &mut beside).unwrap();
    let file = elsewhere.path().join("b.tar");
    fs::write(&file, &bytes).unwrap();
    let new = elsewhere.path().join("data");
    let error = restore(&new, &file, false).unwrap_err();
    assert!(error.what.contains("not enough room for the backup"), "{error}");
    let left: Vec<_> = fs::read_dir(&new).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["collector.lock"], "nothing was changed");
    close(store).await;
}

#[tokio::test]
async fn a_newer_format_or_schema_is_refused_and_an_older_schema_is_not() {
    let elsewhere = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    close(filled(dir.path(), 7).await).await;
    let file = elsewhere.path().join("b.tar");
    let known = crate::store::open::MIGRATIONS.len() as i64;
    let conn = rusqlite::Connection::open(dir.path().join(DATABASE)).unwrap();
    conn.pragma_update(None, "user_version", known + 1).unwrap();
    fs::write(&file, archive(dir.path())).unwrap();
    let error = restore(&elsewhere.path().join("data"), &file, false).unwrap_err();
    assert!(error.what.contains("made by a later release"), "{error}");
    conn.pragma_update(None, "user_version", known - 1).unwrap();
    fs::write(&file, archive(dir.path())).unwrap();
    restore(&elsewhere.path().join("data"), &file, false).unwrap();
}

#[tokio::test]
async fn a_restore_that_is_interrupted_anywhere_leaves_the_old_or_the_new() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    close(filled(other.path(), 8).await).await;
    let file = other.path().join("b.tar");
    fs::write(&file, archive(other.path())).unwrap();
    close(filled(dir.path(), 7).await).await;
    // Before it was ready: the old.
    let partial = dir.path().join("restore.tmp");
    fs::create_dir_all(partial.join("blocks")).unwrap();
    fs::write(partial.join("gatewatch.db"), "half").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(number(&store).await, 7);
    assert!(!partial.exists());
    close(store).await;
    // After it was ready, at each step: the new. The files that a crash left are made by a restore into
    // a directory of its own, and put back as they lay before each of its renames.
    let names = ["gatewatch.db", "admin.token", "ca", "blocks"];
    for n_placed in 0..=names.len() {
        let (dir, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        close(filled(dir.path(), 7).await).await;
        restore(new.path(), &file, false).unwrap();
        let (ready, aside) = (dir.path().join("restore.ready"), dir.path().join("replaced-x"));
        fs::create_dir_all(&ready).unwrap();
        fs::create_dir_all(&aside).unwrap();
        let plan = place::Plan {
            aside: "replaced-x".into(),
            replaced: names
                .iter()
                .chain(&["gatewatch.db-wal", "rollup"])
                .map(|n| (*n).into())
                .collect(),
            members: names.map(Into::into).to_vec(),
            keeps_days: false,
        };
        fs::write(ready.join("plan.json"), serde_json::to_vec(&plan).unwrap()).unwrap();
        for (n, name) in names.iter().enumerate() {
            let to = if n < n_placed { dir.path().join(name) } else { ready.join(name) };
            if n < n_placed {
                fs::rename(&to, aside.join(name)).unwrap();
            }
            fs::rename(new.path().join(name), to).unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(number(&store).await, 8, "{n_placed} were in place");
        assert!(!ready.exists());
        let kept: BTreeSet<_> =
            fs::read_dir(&aside).unwrap().map(|f| f.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| kept.contains(std::ffi::OsStr::new(name))), "{kept:?}");
        close(store).await;
        assert_eq!(sound(dir.path()), Vec::<String>::new());
    }
}

fn schedule(dir: &Path, keep: u32) -> Schedule {
    let config = BackupConfig { dir: Some(dir.to_owned()), keep, ..BackupConfig::default() };
    Schedule::new(&config).unwrap()
}

#[tokio::test]
async fn backups_made_by_themselves_share_files_and_the_oldest_leave() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 0).await;
    let schedule = schedule(copies.path(), 2);
    let files = || fs::read_dir(copies.path().join("files")).unwrap().count();
    let make = || schedule.make_now(dir.path(), CancellationToken::new()).unwrap();
    for n in 1..=3 {
        set(&store, n).await;
        make();
        assert_eq!(files(), 1, "the day did not change");
    }
    let kept = schedule::archives(copies.path());
    assert_eq!(kept.len(), 2);
    seal(&store, T0 + 3600, 0).await;
    make();
    assert_eq!(files(), 2, "one of each state of the day");
    make();
    assert_eq!(files(), 1, "no backup names the first any more");
    let (_, newest) = schedule::archives(copies.path()).pop().unwrap();
    let (report, _) = verify::verify_archive(&newest).unwrap();
    assert!(report.sound && report.n_hours == 2, "{report:#?}");
    let new = copies.path().join("data");
    restore(&new, &newest, false).unwrap();
    assert_eq!(sound(&new), Vec::<String>::new());
    let restored = Store::open(&new).unwrap();
    assert_eq!(number(&restored).await, 3);
    close(restored).await;

    // One whose files are gone is no backup.
    for file in fs::read_dir(copies.path().join("files")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(!verify::verify_archive(&newest).unwrap().0.sound);
    let error = restore(&copies.path().join("data2"), &newest, false).unwrap_err();
    assert!(error.what.contains("a file of the backup cannot be read"), "{error}");
    close(store).await;
}

#[tokio::test]
async fn a_folder_that_takes_nothing_is_counted_and_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 0).await;
    let error = schedule(Path::new("/proc/none"), 2)
        .make_now(dir.path(), CancellationToken::new())
        .unwrap_err();
    assert!(error.what.contains("/proc/none"), "{error}");
    let stop = CancellationToken::new();
    stop.cancel();
    let copies = tempfile::tempdir().unwrap();
    schedule(copies.path(), 2).make_now(dir.path(), stop).unwrap_err();
    assert_eq!(fs::read_dir(copies.path()).unwrap().count(), 2, "the folder `files`, and `owner`");
    assert!(!dir.path().join("backup.tmp").exists());
    close(store).await;
}

#[tokio::test]
async fn a_damaged_database_gives_way_to_the_newest_sound_backup() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 1).await;
    let make = || schedule(copies.path(), 9).make_now(dir.path(), CancellationToken::new());
    make().unwrap();
    set(&store, 2).await;
    seal(&store, T0, 1).await;
    make().unwrap();
    let (_, newest) = schedule::archives(copies.path()).pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[2000] ^= 1;
    fs::write(&newest, bytes).unwrap();
    close(store).await;
    let damage =
        || fs::write(dir.path().join(DATABASE), "this is no database, not at all").unwrap();
    damage();
    let error = Store::open(dir.path()).err().unwrap();
    let why = error.damage().unwrap();
    let told = mend(dir.path(), None, &why).unwrap_err();
    assert!(told.fix.contains("gatewatch-collector restore FILE --force"), "{told}");
    assert!(dir.path().join(DATABASE).exists(), "without a backup nothing is touched");

    mend(dir.path(), Some(copies.path()), &why).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(number(&store).await, 1, "the newest that is sound");
    let read = DayFile::open(dir.path(), day()).unwrap().unwrap();
    assert_eq!(read.parts(T0).unwrap(), 1, "what came after it is cut out");
    let aside = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let aside = aside.into_iter().find(|path| path.to_string_lossy().contains("damaged-")).unwrap();
    assert!(aside.join(DATABASE).exists());
    let whole = DayFile::open(&aside, day()).unwrap().unwrap();
    assert_eq!(whole.parts(T0).unwrap(), 2, "and kept aside");
    close(store).await;
    assert_eq!(sound(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_reader_that_speaks_of_damage_is_not_believed_unchecked() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 1).await;
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    let read = store.read(move |_| -> rusqlite::Result<()> {
        Err(rusqlite::Error::SqliteFailure(code, Some("of another file".into())))
    });
    assert!(read.await.is_err());
    assert!(store.damaged().borrow().is_none());
    set(&store, 2).await;
    assert_eq!(number(&store).await, 2);
}

#[tokio::test]
async fn damage_met_while_running_stops_the_store_and_marks_it_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 1).await;
    let mut damaged = store.damaged();
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    let job = store.write(move |_| -> rusqlite::Result<()> {
        Err(rusqlite::Error::SqliteFailure(code, Some("malformed".into())))
    });
    assert!(matches!(job.await, Err(crate::store::StoreError::Damaged { .. })));
    damaged.wait_for(Option::is_some).await.unwrap();
    let after = store.write(|tx| tx.execute("DELETE FROM state", [])).await;
    assert!(matches!(after, Err(crate::store::StoreError::Damaged { .. })), "nothing is taken");
    close(store).await;
    assert!(dir.path().join(MARKER).exists());
    // Sound after all: a bit of memory, not of the disk.
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(number(&store).await, 1);
    assert!(!dir.path().join(MARKER).exists());
}

/// Whoever receives a backup, and takes no more of it before so many further batches are stored.
struct Slow {
    store: Store,
    /// Whether more batches come.
    load: Arc<watch::Sender<bool>>,
    runtime: tokio::runtime::Handle,
    n_waits: u64,
}

impl io::Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.n_waits > 0 {
            self.n_waits -= 1;
            let mut committed = self.store.committed();
            let until = *committed.borrow() + 100;
            self.load.send_replace(true);
            let stored = committed.wait_for(|id| *id >= until);
            self.runtime.block_on(stored).map_err(io::Error::other)?;
            self.load.send_replace(false);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_stays_small_while_a_backup_is_taken_slowly_under_load() {
    const BODY_BYTES: usize = 32 << 10;
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 7).await;
    crate::store::tests::enrol(&store, 1).await;
    // Only while the backup waits for its disk: how much comes while it reads is the machine's affair.
    let (gate, mut open) = watch::channel(false);
    let gate = Arc::new(gate);
    let sending = store.clone();
    let load = tokio::spawn(async move {
        let mut seq = 0;
        while open.wait_for(|open| *open).await.is_ok() {
            let mut waiting = Vec::new();
            for _ in 0..10 {
                seq += 1;
                let mut batch = proof::batch(ServerId(1), T0, seq);
                (batch.codec, batch.body) = (0, vec![seq as u8; BODY_BYTES]);
                waiting.push(sending.append(batch).await.unwrap());
            }
            for outcome in waiting {
                outcome.await.unwrap().unwrap();
            }
        }
    });
    let log = dir.path().join("gatewatch.db-wal");
    let mut most = 0;
    for _ in 0..3 {
        let source = Source::new(dir.path(), CancellationToken::new()).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let mut out = Slow { store: store.clone(), load: Arc::clone(&gate), runtime, n_waits: 4 };
        let making = tokio::task::spawn_blocking(move || {
            Archive::prepare(source).unwrap().write(&mut out, &mut |_, _| {}).unwrap();
            assert_eq!(out.n_waits, 0, "it was slow");
        });
        making.await.unwrap();
        most = most.max(fs::metadata(&log).unwrap().len());
    }
    drop(gate);
    load.await.unwrap();
    let written = store.committed().borrow().unsigned_abs() * BODY_BYTES as u64;
    println!("{most} bytes of log at most, {written} bytes of batches");
    assert!(written > 36 << 20, "{written}");
    // A backup that held its reading while it waits would keep the 12 MiB that came meanwhile.
    assert!(most < 8 << 20, "{most} of {written}");
    close(store).await;
    assert_eq!(sound(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_backup_disk_that_is_not_mounted_is_told_and_its_folder_not_made() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 0).await;
    let absent = copies.path().join("disk/gatewatch");
    let made = schedule(&absent, 2).make_now(dir.path(), CancellationToken::new());
    let error = made.unwrap_err().to_string();
    assert!(error.contains("there is no such folder; mount its disk"), "{error}");
    assert!(!copies.path().join("disk").exists());
    close(store).await;
}

#[tokio::test]
async fn two_collectors_with_one_backup_folder_do_not_drop_each_others_files() {
    let copies = tempfile::tempdir().unwrap();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let stores = [filled(one.path(), 1).await, filled(two.path(), 2).await];
    fs::write(two.path().join("ca/ca.pem"), "another authority").unwrap();
    let make = |dir: &Path| schedule(copies.path(), 1).make_now(dir, CancellationToken::new());
    make(one.path()).unwrap();
    let error = make(two.path()).unwrap_err().to_string();
    assert!(error.contains("the backups of another collector"), "{error}");
    make(one.path()).unwrap();
    let (_, newest) = schedule::archives(copies.path()).pop().unwrap();
    assert!(verify::verify_archive(&newest).unwrap().0.sound);
    // Restored elsewhere it goes on with its own.
    let new = copies.path().join("data");
    restore(&new, &newest, false).unwrap();
    make(&new).unwrap();
    for store in stores {
        close(store).await;
    }
}

#[tokio::test]
async fn a_scheduled_backup_does_not_wait_for_its_turn_for_ever() {
    let (dir, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = filled(dir.path(), 0).await;
    let turn = store.backups().take_turn().unwrap();
    let (schedule, stop) = (schedule(copies.path(), 1), CancellationToken::new());
    let made = schedule.make(&store, &stop, Duration::from_millis(10)).await;
    assert!(made.unwrap_err().what.contains("has been for long"));
    drop(turn);
    close(store).await;
}

#[tokio::test]
async fn sums_of_servers_and_series_that_came_after_the_backup_are_cut_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 0).await;
    let ids =
        "INSERT OR REPLACE INTO sqlite_sequence(name, seq) VALUES('server', 2), ('metric', 5);
               UPDATE sealed SET rolled = parts";
    store.write(move |tx| tx.execute_batch(ids)).await.unwrap();
    let bytes = archive(dir.path());
    let mut file = MonthFile::create(dir.path(), Month::of(T0).unwrap()).unwrap();
    let hour = || Some(Rolled { n: 1, min: 1, max: 1, sum: 1, ..Rolled::default() });
    let row = |metric, server| (metric, ServerId(server), std::array::from_fn(|_| hour()));
    let series = vec![row(5, 2), row(5, 3), row(6, 2)];
    file.put(day(), &Rows { series, ..Rows::default() }).unwrap();
    drop(file);
    close(store).await;
    let archived = dir.path().join("b.tar");
    fs::write(&archived, bytes).unwrap();
    fs::write(dir.path().join(DATABASE), "damaged").unwrap();
    fs::write(dir.path().join(Day::of(T0 + 86_400).unwrap().file()), "no database at all").unwrap();
    place_back(dir.path(), &archived);
    let month = MonthFile::open(dir.path(), Month::of(T0).unwrap()).unwrap().unwrap();
    let has =
        |(metric, server)| month.series_day(day(), metric, ServerId(server)).unwrap().is_some();
    assert_eq!([(5, 2), (5, 3), (6, 2)].map(has), [true, false, false]);
    let of_no_use = dir.path().join(Day::of(T0 + 86_400).unwrap().file());
    assert!(!of_no_use.exists(), "what cannot be compared is put aside");
}

/// As the start does when the database is damaged: day and month files stay.
fn place_back(dir: &Path, archived: &Path) {
    let copies = tempfile::tempdir().unwrap();
    fs::copy(archived, copies.path().join("gatewatch-20261130T120000Z.tar")).unwrap();
    mend(dir, Some(copies.path()), "it is damaged").unwrap();
}

#[tokio::test]
async fn damage_that_a_read_of_history_meets_is_looked_at() {
    use crate::store::history::Limits;

    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 1).await;
    let fill = "CREATE TABLE big AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
                WHERE i < 1000) SELECT randomblob(1000) AS body FROM n";
    store.write(move |tx| tx.execute_batch(fill)).await.unwrap();
    close(store).await;
    let store = Store::open(dir.path()).unwrap();
    let path = dir.path().join(DATABASE);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 8192 * 4096;
    bytes[half..half + 8192].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let read = store.history(Limits::default(), |history| {
        history
            .conn()
            .query_row("SELECT sum(length(body)) FROM big", [], |row| row.get::<_, i64>(0))
    });
    assert!(read.await.is_err());
    assert!(store.damaged().borrow().is_some());
}

#[tokio::test]
async fn a_day_file_that_is_just_being_made_is_left_out_of_a_backup() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 7).await;
    // As it is between its creation and its first transaction.
    let young = rusqlite::Connection::open(dir.path().join("blocks/20301231.db")).unwrap();
    young.execute_batch("PRAGMA page_size=16384; PRAGMA journal_mode=WAL").unwrap();
    let source = Source::new(dir.path(), CancellationToken::new()).unwrap();
    let mut bytes = Vec::new();
    let making = tokio::task::spawn_blocking(move || {
        Archive::prepare(source).unwrap().write(&mut bytes, &mut |_, _| {}).unwrap();
        bytes
    });
    let bytes = making.await.unwrap();
    let mut names = Vec::new();
    super::read_archive(&*bytes, &mut |name, from| {
        names.push(name.to_owned());
        Ok(super::pour(from, &mut io::sink()).unwrap())
    })
    .unwrap();
    assert!(names.iter().any(|name| name.starts_with("blocks/")), "{names:?}");
    assert!(!names.contains(&"blocks/20301231.db".to_owned()), "{names:?}");
    drop(young);
    close(store).await;
}
