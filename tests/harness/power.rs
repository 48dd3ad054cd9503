//! Power cuts: what a program had written to a directory, and what of it a disk without power holds.
//!
//! A library preloaded into the program (`power.c`) writes down every change and every sync. The model of
//! what is on disk after a cut at any moment of the recording:
//! - Contents of a file: all that was written, truncated or extended before the start of its last `fsync`
//!   or `fdatasync` that had ended, and of what came later any part, in pieces of 512 or 4096 bytes: torn
//!   writes, later ones without earlier ones, size without content.
//! - Names (files and directories made, renamed, removed): all before the start of the last sync that had
//!   ended of anything, as with the journal of ext4, XFS and others, which is written as a whole; of the
//!   later ones some, in their order. With [`Names::Strict`] only those whose directory was synced.
//!
//! `sync_file_range` and mappings promise nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::find_program;

const MAGIC: u32 = 0x7277_7067;
const HEAD_BYTES: usize = 48;

/// When names are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// With the next sync of anything: a journal.
    Journal,
    /// With the next sync of their directory: all that POSIX promises.
    Strict,
}

/// One change, or one sync.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Made,
    MadeDir,
    Size(u64),
    Written {
        offset: u64,
        bytes: Vec<u8>,
    },
    Renamed(PathBuf),
    Removed,
    /// Began at this time; ended at that of the record.
    Synced(u64),
}

#[derive(Clone, Debug)]
struct Record {
    at_ns: u64,
    path: PathBuf,
    what: What,
}

/// What a program did to a directory.
#[derive(Clone, Debug)]
pub struct Recording {
    dir: PathBuf,
    records: Vec<Record>,
}

/// Words that run a program, which follows them, so that what it does to `dir` is recorded in `log`.
#[must_use]
pub fn recorded(dir: &Path, log: &Path) -> Vec<String> {
    let mut words = preloaded(dir);
    words.push(format!("POWER_LOG={}", log.display()));
    words
}

/// Words that run a program, which follows them, on a disk that takes `sync_ms` longer for each sync of
/// anything in `dir`.
#[must_use]
pub fn on_a_slow_disk(dir: &Path, sync_ms: u32) -> Vec<String> {
    let mut words = preloaded(dir);
    words.push(format!("POWER_SYNC_MS={sync_ms}"));
    words
}

fn preloaded(dir: &Path) -> Vec<String> {
    let dir = fs::canonicalize(dir).expect("the directory is there");
    let beside = dir.parent().expect("no root directory").to_owned();
    let library = beside.join("power.so");
    let source = beside.join("power.c");
    fs::write(&source, include_str!("power.c")).expect("writable");
    let mut cc = Command::new(find_program(&["cc"], "gcc libc6-dev"));
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    let done = cc.args(["-ldl", "-lpthread"]).output().expect("cc runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    vec![
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("POWER_DIR={}", dir.display()),
    ]
}

/// Nanoseconds of the clock that the recorder reads.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    at.tv_sec.cast_unsigned() * 1_000_000_000 + at.tv_nsec.cast_unsigned()
}

impl Recording {
    /// Reads a recording of `dir`; a record that is cut at the end is left out.
    #[must_use]
    pub fn read(dir: &Path, log: &Path) -> Self {
        let dir = fs::canonicalize(dir).expect("the directory is there");
        let bytes = fs::read(log).unwrap_or_else(|e| panic!("no recording {}: {e}", log.display()));
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some((record, after)) = take(rest) {
            records.push(record);
            rest = after;
        }
        Self { dir, records }
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when nothing was recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// When the first `n` records were done, on the clock of [`monotonic_ns`].
    #[must_use]
    pub fn time_of(&self, n: usize) -> u64 {
        n.checked_sub(1).map_or(0, |ix| self.records[ix].at_ns)
    }

    /// Syncs of files whose path ends in `tail`.
    #[must_use]
    pub fn n_syncs(&self, tail: &str) -> usize {
        let is_one = |r: &&Record| {
            matches!(r.what, What::Synced(_)) && r.path.to_string_lossy().ends_with(tail)
        };
        self.records.iter().filter(is_one).count()
    }

    /// The same recording of a program that never syncs the files that `is_one` says, by their path
    /// below the directory.
    #[must_use]
    pub fn without_syncs(&self, is_one: impl Fn(&Path) -> bool) -> Self {
        let mut records = self.records.clone();
        let below = |path: &Path| path.strip_prefix(&self.dir).is_ok_and(&is_one);
        records.retain(|r| !(matches!(r.what, What::Synced(_)) && below(&r.path)));
        Self { dir: self.dir.clone(), records }
    }

    /// Writes to `to` what a disk may hold when the power fails after the first `n` records; `seed`
    /// decides what of the unsynced part.
    pub fn cut(&self, n: usize, names: Names, seed: u64, to: &Path) {
        let records = &self.records[..n];
        let mut dice = Dice(seed);
        let inodes = inodes(records);
        let kept = kept_names(records, &inodes, names, &mut dice);
        let mut began = BTreeMap::new();
        for (record, inode) in records.iter().zip(&inodes) {
            if let What::Synced(at) = record.what {
                let last = began.entry(*inode).or_insert(0);
                *last = at.max(*last);
            }
        }
        // Nothing, little, half, most or all of what was on its way has arrived.
        let luck = [0, 10, 50, 90, 100][dice.below(5)];
        let piece = if dice.below(2) == 0 { 512 } else { 4096 };
        let mut disk = Disk::default();
        for ((record, inode), is_kept) in records.iter().zip(&inodes).zip(kept) {
            let is_synced = began.get(inode).is_some_and(|at| record.at_ns <= *at);
            let mut arrives = || is_synced || dice.below(100) < luck;
            match &record.what {
                What::Written { offset, bytes } => {
                    let mut from = 0;
                    while from < bytes.len() {
                        let at = *offset as usize + from;
                        let upto = (from + piece - at % piece).min(bytes.len());
                        if arrives() {
                            disk.put(*inode, at, &bytes[from..upto]);
                        }
                        from = upto;
                    }
                }
                What::Size(size) if arrives() => disk.resize(*inode, *size as usize),
                What::Size(_) | What::Synced(_) => {}
                _ if is_kept => disk.rename(record, *inode),
                _ => {}
            }
        }
        disk.write(&self.dir, to);
    }

    /// Writes to `to` everything that was written, synced or not: what the program itself saw.
    pub fn whole(&self, to: &Path) {
        let mut disk = Disk::default();
        for (record, inode) in self.records.iter().zip(inodes(&self.records)) {
            match &record.what {
                What::Written { offset, bytes } => disk.put(inode, *offset as usize, bytes),
                What::Size(size) => disk.resize(inode, *size as usize),
                What::Synced(_) => {}
                _ => disk.rename(record, inode),
            }
        }
        disk.write(&self.dir, to);
    }
}

/// The first record of a recording, and what is left; `None` when it is not whole.
fn take(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    assert_eq!(short(44), MAGIC, "this is no recording");
    let (path, rest) = rest.split_at_checked(short(32) as usize)?;
    let (more, rest) = rest.split_at_checked(long(24) as usize)?;
    let text = |bytes: &[u8]| PathBuf::from(std::str::from_utf8(bytes).expect("names of ours"));
    let what = match char::from_u32(short(40)) {
        Some('c') => What::Made,
        Some('d') => What::MadeDir,
        Some('t') => What::Size(long(16)),
        Some('w') => What::Written { offset: long(16), bytes: more.to_vec() },
        Some('r') => What::Renamed(text(more)),
        Some('u') => What::Removed,
        Some('s') => What::Synced(long(8)),
        other => panic!("a record of {other:?}"),
    };
    Some((Record { at_ns: long(0), path: text(path), what }, rest))
}

/// The file or directory that each record is about, which keeps its number when it is renamed.
fn inodes(records: &[Record]) -> Vec<usize> {
    let mut now: BTreeMap<&Path, usize> = BTreeMap::new();
    let mut n = 0;
    let mut next = || {
        n += 1;
        n
    };
    records
        .iter()
        .map(|record| {
            let path = record.path.as_path();
            match &record.what {
                What::Made | What::MadeDir => {
                    let inode = next();
                    now.insert(path, inode);
                    inode
                }
                What::Removed => now.remove(path).unwrap_or_else(&mut next),
                What::Renamed(to) => {
                    let inode = now.remove(path).unwrap_or_else(&mut next);
                    now.insert(to, inode);
                    inode
                }
                What::Size(_) | What::Written { .. } | What::Synced(_) => {
                    *now.entry(path).or_insert_with(&mut next)
                }
            }
        })
        .collect()
}

/// Which changes of names are on disk; true for all other records.
fn kept_names(records: &[Record], inodes: &[usize], names: Names, dice: &mut Dice) -> Vec<bool> {
    let is_name = |record: &Record| {
        !matches!(record.what, What::Size(_) | What::Written { .. } | What::Synced(_))
    };
    let dirs: BTreeSet<&Path> = records.iter().filter_map(|r| r.path.parent()).collect();
    // A file that was synced before may be synced again without its journal.
    let mut synced = BTreeSet::new();
    let mut all_until = 0;
    let mut until: BTreeMap<&Path, u64> = BTreeMap::new();
    for (record, inode) in records.iter().zip(inodes) {
        let What::Synced(began) = record.what else { continue };
        let (is_first, is_dir) = (synced.insert(*inode), dirs.contains(record.path.as_path()));
        if names == Names::Journal && (is_first || is_dir) {
            all_until = began.max(all_until);
        }
        let dir_until = until.entry(&record.path).or_default();
        *dir_until = began.max(*dir_until);
    }
    let is_safe = |record: &Record| {
        let dir = record.path.parent().and_then(|dir| until.get(dir)).copied();
        record.at_ns <= dir.unwrap_or(0).max(all_until)
    };
    let mut safe: Vec<bool> = records.iter().map(is_safe).collect();
    // Of the others the first few: a journal keeps their order.
    let left = records.iter().zip(&safe).filter(|(r, safe)| is_name(r) && !**safe).count();
    let mut n_lucky = dice.below(left + 1);
    for (record, safe) in records.iter().zip(&mut safe) {
        if !is_name(record) {
            *safe = true;
        } else if !*safe && n_lucky > 0 {
            n_lucky -= 1;
            *safe = true;
        }
    }
    safe
}

/// What is on disk.
#[derive(Debug, Default)]
struct Disk {
    contents: BTreeMap<usize, Vec<u8>>,
    /// True for directories.
    names: BTreeMap<PathBuf, (usize, bool)>,
}

impl Disk {
    fn put(&mut self, inode: usize, at: usize, bytes: &[u8]) {
        let content = self.contents.entry(inode).or_default();
        content.resize(content.len().max(at + bytes.len()), 0);
        content[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn resize(&mut self, inode: usize, size: usize) {
        self.contents.entry(inode).or_default().resize(size, 0);
    }

    fn rename(&mut self, record: &Record, inode: usize) {
        match &record.what {
            What::Made => drop(self.names.insert(record.path.clone(), (inode, false))),
            What::MadeDir => drop(self.names.insert(record.path.clone(), (inode, true))),
            What::Removed => drop(self.names.remove(&record.path)),
            What::Renamed(to) => {
                let is_dir = self.names.remove(&record.path).is_some_and(|(_, is_dir)| is_dir);
                self.names.insert(to.clone(), (inode, is_dir));
            }
            What::Size(_) | What::Written { .. } | What::Synced(_) => {}
        }
    }

    fn write(&self, from: &Path, to: &Path) {
        for (path, (inode, is_dir)) in &self.names {
            let path = to.join(path.strip_prefix(from).expect("only below it is recorded"));
            let parent = path.parent().expect("it is below something");
            if !parent.is_dir() {
                continue; // its directory has no name on disk
            }
            let mode = if *is_dir {
                fs::create_dir(&path).expect("the place is empty");
                0o700
            } else {
                let nothing = Vec::new();
                fs::write(&path, self.contents.get(inode).unwrap_or(&nothing)).expect("writable");
                0o600
            };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mine");
        }
    }
}

/// Splitmix64.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;
    use std::fmt::Write as _;
    use std::fs::File;
    use std::io::{Read as _, Seek as _, Write as _};

    const TEST: &str =
        "power::tests::what_is_committed_survives_any_cut_and_what_is_not_synced_does_not";
    const ROLE: &str = "GATEWATCH_TEST_POWER";

    /// What runs under the recorder: rows are committed one by one, and noted with their time.
    fn program(dir: &Path) {
        let synchronous = std::env::var(ROLE).unwrap();
        let mut notes = File::create(dir.parent().unwrap().join("acks")).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        File::open(dir).unwrap().sync_all().unwrap();
        let db = Connection::open(dir.join("sub/rows.db")).unwrap();
        db.execute_batch(&format!("PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};"))
            .unwrap();
        db.execute_batch(
            "PRAGMA wal_autocheckpoint=20; CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)",
        )
        .unwrap();
        for n in 1..=60 {
            db.execute("INSERT INTO t VALUES(?1, randomblob(3000))", [n]).unwrap();
            writeln!(notes, "{n} {}", monotonic_ns()).unwrap();
        }
        // And what the standard library does.
        let mut file = File::create(dir.join("plain.tmp")).unwrap();
        file.write_all(b"one two three").unwrap();
        file.seek(std::io::SeekFrom::Start(4)).unwrap();
        file.write_all(b"2").unwrap();
        file.set_len(9).unwrap();
        file.sync_all().unwrap();
        fs::rename(dir.join("plain.tmp"), dir.join("plain")).unwrap();
        File::open(dir).unwrap().sync_all().unwrap();
        fs::write(dir.join("gone"), "x").unwrap();
        fs::remove_file(dir.join("gone")).unwrap();
        std::mem::forget(db); // as if killed: the log stays
    }

    /// Rows that were noted before the cut and are not there, over many cuts.
    fn n_lost(recording: &Recording, acks: &[(i64, u64)], names: Names) -> usize {
        let mut n_lost = 0;
        for seed in 0..40 {
            let n = Dice(seed ^ 0x55).below(recording.len()) + 1;
            let to = tempfile::tempdir().unwrap();
            recording.cut(n, names, seed, to.path());
            let rows = || {
                let db = Connection::open(to.path().join("sub/rows.db")).ok()?;
                let mut select = db.prepare("SELECT a FROM t WHERE length(b) = 3000").ok()?;
                let rows = select.query_map([], |row| row.get(0)).ok()?;
                rows.collect::<Result<BTreeSet<i64>, _>>().ok()
            };
            let rows = rows().unwrap_or_default();
            let before = acks.iter().filter(|(_, at)| *at <= recording.time_of(n));
            n_lost += before.filter(|(row, _)| !rows.contains(row)).count();
        }
        n_lost
    }

    fn record(synchronous: &str) -> (Recording, Vec<(i64, u64)>, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data");
        fs::create_dir(&dir).unwrap();
        let log = root.path().join("power.log");
        let words = recorded(&dir, &log);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(format!("{ROLE}={synchronous}"));
        command.arg(std::env::current_exe().unwrap()).args(["--exact", TEST]);
        let done = command.env("GATEWATCH_TEST_POWER_DIR", &dir).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        let recording = Recording::read(&dir, &log);
        let acks = fs::read_to_string(root.path().join("acks")).unwrap();
        let number = |line: &str| {
            let (row, at) = line.split_once(' ').unwrap();
            (row.parse().unwrap(), at.parse().unwrap())
        };
        (recording, acks.lines().map(number).collect(), root)
    }

    /// Every file below a directory, by its name there.
    fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut left = vec![dir.to_owned()];
        while let Some(at) = left.pop() {
            for entry in fs::read_dir(&at).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                } else if !path.to_string_lossy().ends_with("-shm") {
                    let mut bytes = Vec::new();
                    File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
                    found.insert(path.strip_prefix(dir).unwrap().to_owned(), bytes);
                }
            }
        }
        found
    }

    #[test]
    fn what_is_committed_survives_any_cut_and_what_is_not_synced_does_not() {
        if let Ok(dir) = std::env::var("GATEWATCH_TEST_POWER_DIR") {
            return program(Path::new(&dir));
        }
        let (full, acks, root) = record("FULL");
        assert_eq!(acks.len(), 60);
        let copy = tempfile::tempdir().unwrap();
        full.whole(copy.path());
        let (seen, real) = (tree(copy.path()), tree(&root.path().join("data")));
        let mut differ = String::new();
        for path in seen.keys().chain(real.keys()).filter(|path| seen.get(*path) != real.get(*path))
        {
            writeln!(differ, "{}", path.display()).unwrap();
        }
        assert_eq!(differ, "", "every change is seen");
        assert_eq!(real[Path::new("plain")], b"one 2wo t");
        assert!(full.n_syncs("rows.db-wal") >= 60, "{}", full.n_syncs("rows.db-wal"));

        for names in [Names::Journal, Names::Strict] {
            assert_eq!(n_lost(&full, &acks, names), 0, "{names:?}");
        }
        // Strict is stricter: a directory that is never synced holds no name.
        let unnamed = full.without_syncs(|path| path == Path::new("sub"));
        assert_eq!(n_lost(&unnamed, &acks, Names::Journal), 0);
        assert!(n_lost(&unnamed, &acks, Names::Strict) > 20);
        // The same program without its syncs loses, so the cuts are real.
        let lost = n_lost(
            &full.without_syncs(|path| path.ends_with("rows.db-wal")),
            &acks,
            Names::Journal,
        );
        assert!(lost > 20, "{lost}");
        let (off, acks, _root) = record("OFF");
        assert_eq!(off.n_syncs("rows.db-wal"), 0);
        let lost = n_lost(&off, &acks, Names::Journal);
        assert!(lost > 20, "{lost}");
    }
}
