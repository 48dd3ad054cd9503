//! The tail against a model: random things happen to a log, and every line is counted once.

use super::*;
use crate::clock;
use crate::logs::file::lies::{LIE, Lie};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

/// Small and repeatable; the seed of a failure is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// What may happen in a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Rename rotation, with late reopening and compression: nothing may be lost.
    Rename,
    /// The same on a file system that gives a file another inode each time.
    Renumbered,
    /// copytruncate: nothing may be lost, since nothing is written between copy and truncation.
    Copy,
    /// Links that change their target, one target a look.
    Symlink,
    /// Everything, truncation and deletion included: what is lost must be told.
    Anything,
}

/// How rotated files are named; one way for a whole story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// `access.log.1`, moving on to `.2` with the next rotation.
    Numbers,
    /// The same in another directory.
    Olddir,
    /// `access.log-20260001`.
    Dates,
    /// `access-20260001.log`.
    DatesBefore,
}

/// A log with its writer, the tail, and what a spool would hold.
struct Story {
    dir: tempfile::TempDir,
    kind: Kind,
    naming: Naming,
    /// After a copytruncate the tail looks at once, so that the ledger must be exact.
    is_attentive: bool,
    /// Set while the file system lies.
    _lying: Option<Lying>,
    random: Random,
    writer: File,
    /// What the wall clock is off by after its jumps.
    clock_ms: i64,
    began: Instant,
    began_at: UnixMillis,
    /// While the agent was stopped; once is enough.
    has_jumped: bool,
    n_rotations: u64,
    n_bytes_put: u64,
    /// Handed out since the last spooling, and spooled.
    n_bytes_counted: u64,
    n_bytes_spooled: u64,
    /// Of truncations that were looked at: how many, and the bytes nobody had read.
    n_truncations: u64,
    n_bytes_recovered: u64,
    /// Half a line the writer has begun.
    begun: Option<u64>,
    n_written: u64,
    /// Lines too long to hold.
    long: BTreeSet<u64>,
    n_targets: u64,
    /// The agent is stopped.
    is_down: bool,
    /// Lines by the inode of the file they were written to.
    by_file: BTreeMap<u64, BTreeSet<u64>>,
    /// Lines whose file was truncated or deleted before they were spooled.
    at_risk: BTreeSet<u64>,
    /// Of these, lines of files that a spooled batch names.
    at_known_risk: BTreeSet<u64>,
    tail: Tail,
    buffer: Vec<u8>,
    now: Instant,
    counted: Vec<u64>,
    spooled: BTreeSet<u64>,
    positions: Vec<Position>,
    saved_at: UnixMillis,
    vanished: Vanished,
    /// Over all lives, repetitions after a crash included.
    n_too_long: u64,
    trace: Vec<String>,
}

impl Story {
    fn new(kind: Kind, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        if kind == Kind::Symlink {
            File::create(dir.path().join("target-0")).unwrap();
            std::os::unix::fs::symlink("target-0", &path).unwrap();
        }
        let writer = open_to_append(&path);
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let namings = [Naming::Numbers, Naming::Olddir, Naming::Dates, Naming::DatesBefore];
        let naming = namings[random.below(4) as usize];
        if naming == Naming::Olddir {
            fs::create_dir(dir.path().join("old")).unwrap();
        }
        let (now, at) = (clock::instant(), clock::now());
        let mut story = Self {
            kind,
            naming,
            is_attentive: random.below(2) == 0,
            _lying: (kind == Kind::Renumbered).then(|| Lying::with(Lie::Changing(0))),
            random,
            clock_ms: 0,
            began: now,
            began_at: at,
            has_jumped: false,
            n_rotations: 0,
            n_bytes_put: 0,
            n_bytes_counted: 0,
            n_bytes_spooled: 0,
            n_truncations: 0,
            n_bytes_recovered: 0,
            tail: Tail::new(&path, Vec::new(), at),
            dir,
            writer,
            begun: None,
            n_written: 0,
            long: BTreeSet::new(),
            n_targets: 0,
            is_down: false,
            by_file: BTreeMap::new(),
            at_risk: BTreeSet::new(),
            at_known_risk: BTreeSet::new(),
            buffer: vec![0; super::super::file::BUFFER_BYTES],
            now,
            counted: Vec::new(),
            spooled: BTreeSet::new(),
            positions: Vec::new(),
            saved_at: at,
            vanished: Vanished::default(),
            n_too_long: 0,
            trace: Vec::new(),
        };
        story.look();
        story.spool();
        story
    }

    fn note(&mut self, what: impl Into<String>) {
        self.trace.push(what.into());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> PathBuf {
        self.path("access.log")
    }

    fn run(&mut self, n_steps: u64) {
        for _ in 0..n_steps {
            let what = self.random.below(21);
            self.now += Duration::from_millis(1); // a pass of the gather thread
            if self.is_down && (6..17).contains(&what) {
                if what < 9 {
                    (self.is_down, self.has_jumped) = (false, false);
                    self.look();
                    self.spool(); // the agent saves where it joined its logs
                }
                continue;
            }
            match what {
                0..6 => self.write(),
                6 => self.write_half(),
                7..10 => {
                    self.read();
                }
                10..12 => self.look(),
                12..14 => self.spool(),
                14 => self.crash(),
                15 => self.restart(),
                16 => self.wait(),
                17 if !self.has_jumped => {
                    self.has_jumped = self.is_down;
                    self.jump();
                }
                _ => self.rotate_somehow(),
            }
        }
        self.finish_line();
        self.is_down = false;
        self.now += Duration::from_millis(1);
        self.look();
        for _ in 0..3 {
            self.now += RETIRED_LOOK;
            self.look();
            self.read_all();
        }
        self.spool();
    }

    fn rotate_somehow(&mut self) {
        match self.kind {
            Kind::Rename | Kind::Renumbered => self.rotate(),
            Kind::Copy => self.copytruncate(),
            Kind::Symlink => self.swap(),
            Kind::Anything => match self.random.below(5) {
                0 => self.rotate(),
                1 => self.copytruncate(),
                2 => self.truncate(),
                3 => self.delete(),
                _ => self.recreate(),
            },
        }
    }

    /// One to five lines, rarely one that is too long to hold.
    fn write(&mut self) {
        self.note(format!("write@{}", self.n_written));
        for _ in 0..=self.random.below(5) {
            self.finish_line();
            let is_long = self.random.below(500) == 0;
            let number = self.n_written;
            if is_long {
                self.long.insert(number);
            }
            self.n_written += 1;
            let n =
                if is_long { self.buffer.len() + 1000 } else { self.random.below(120) as usize };
            self.put(&format!("line {number} is at least "), number);
            self.put(&"x".repeat(n), number);
            self.put("\n", number);
        }
    }

    fn write_half(&mut self) {
        self.note("half");
        if self.begun.is_none() {
            self.begun = Some(self.n_written);
            self.put(&format!("line {} was begun here ", self.n_written), self.n_written);
            self.n_written += 1;
        }
    }

    fn finish_line(&mut self) {
        if let Some(number) = self.begun.take() {
            self.put("end\n", number);
        }
    }

    fn put(&mut self, text: &str, number: u64) {
        self.writer.write_all(text.as_bytes()).unwrap();
        self.writer.set_modified(self.clock()).unwrap();
        self.n_bytes_put += text.len() as u64;
        let meta = self.writer.metadata().unwrap();
        if meta.nlink() == 0 {
            self.at_risk.insert(number); // and another file may get its inode
        } else {
            self.by_file.entry(meta.ino()).or_default().insert(number);
        }
    }

    /// The wall clock, which goes on with the other one between its jumps.
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.began_at.plus(self.now - self.began).0 + self.clock_ms)
    }

    /// What a file written now has as its time.
    fn clock(&self) -> SystemTime {
        std::time::UNIX_EPOCH + Duration::from_millis(self.wall().0.cast_unsigned())
    }

    /// The wall clock is set, up to an hour forth or back.
    fn jump(&mut self) {
        self.note("jump");
        self.clock_ms += self.random.below(7_200_000).cast_signed() - 3_600_000;
        if !self.is_down {
            // Not twice within two looks, nor within the seconds between two checkpoints.
            self.look();
            self.look();
            self.spool();
        }
    }

    fn reopen(&mut self) {
        self.finish_line();
        self.writer = open_to_append(&self.log());
        if self.writer.metadata().unwrap().len() == 0 {
            self.writer.set_modified(self.clock()).unwrap();
        }
    }

    /// What the file at the path holds may be lost from now on; told, if the agent knew the file.
    fn endanger(&mut self) {
        if let Ok(meta) = fs::metadata(self.log()) {
            let lines = self.by_file.remove(&meta.ino()).unwrap_or_default();
            let lines: BTreeSet<u64> = lines.difference(&self.spooled).copied().collect();
            let content = fs::read(self.log()).unwrap();
            let is_it = |known: &Position| {
                let is_same = known.key == key_of(&meta) && known.fingerprint.matches(&content);
                is_same && !rotated::is_vague(known.fingerprint)
            };
            if self.positions.iter().any(is_it) {
                self.at_known_risk.extend(&lines);
            }
            self.at_risk.extend(lines);
        }
    }

    /// Makes room for the next rotated file and returns its name; older ones are compressed now
    /// and then.
    fn shift(&mut self) -> PathBuf {
        self.n_rotations += 1;
        let n = self.n_rotations;
        let name = |n: u64| match self.naming {
            Naming::Numbers => self.path(&format!("access.log.{n}")),
            Naming::Olddir => self.path(&format!("old/access.log.{n}")),
            Naming::Dates => self.path(&format!("access.log-2026{n:04}")),
            Naming::DatesBefore => self.path(&format!("access-2026{n:04}.log")),
        };
        if matches!(self.naming, Naming::Dates | Naming::DatesBefore) {
            let last = name(n - 1);
            let new = name(n);
            self.compress_perhaps(&last);
            return new;
        }
        for n in (1..30).rev() {
            for end in ["", ".gz", ".zst"] {
                let of = |n| PathBuf::from(format!("{}{end}", name(n).display()));
                if of(n).exists() {
                    fs::rename(of(n), of(n + 1)).unwrap();
                }
            }
        }
        let (first, second) = (name(1), name(2));
        self.compress_perhaps(&second);
        first
    }

    fn compress_perhaps(&mut self, path: &Path) {
        if path.exists() && self.random.below(2) == 0 {
            self.note("gzip");
            compress(path, if self.random.below(2) == 0 { ".gz" } else { ".zst" });
        }
    }

    fn rotate(&mut self) {
        self.note("rotate");
        self.reopen(); // at the latest now the writer leaves the file before
        let rotated = self.shift();
        fs::rename(self.log(), &rotated).unwrap();
        if self.random.below(2) == 0 {
            File::create(self.log()).unwrap().set_modified(self.clock()).unwrap();
        }
        if self.random.below(2) == 0 {
            self.reopen();
            if self.random.below(3) == 0 {
                self.compress_perhaps(&rotated); // at once
            }
        }
    }

    fn copytruncate(&mut self) {
        self.note("copytruncate");
        self.reopen();
        let is_exact = self.is_attentive && !self.is_down;
        if is_exact {
            self.read_all();
            self.write(); // what nobody reads before it is truncated
            self.finish_line();
            self.look();
            let n_unread = self.writer.metadata().unwrap().len() - self.tail.offset();
            self.n_truncations += 1;
            self.n_bytes_recovered += n_unread;
        }
        let copy = self.shift();
        fs::copy(self.log(), &copy).unwrap();
        let copy = OpenOptions::new().write(true).open(copy).unwrap();
        copy.set_modified(self.clock()).unwrap();
        self.writer.set_len(0).unwrap();
        self.writer.set_modified(self.clock()).unwrap();
        if is_exact {
            self.now += Duration::from_millis(1);
            self.look();
            self.read_all();
        }
    }

    fn truncate(&mut self) {
        self.note("truncate");
        self.reopen();
        self.endanger();
        self.writer.set_len(0).unwrap();
        self.writer.set_modified(self.clock()).unwrap();
    }

    fn delete(&mut self) {
        self.note("delete");
        self.endanger();
        drop(fs::remove_file(self.log()));
    }

    fn recreate(&mut self) {
        self.note("recreate");
        self.delete();
        self.reopen();
    }

    fn swap(&mut self) {
        self.note("swap");
        self.finish_line();
        self.n_targets += 1;
        let target = format!("target-{}", self.n_targets);
        File::create(self.path(&target)).unwrap().set_modified(self.clock()).unwrap();
        if !self.is_down && self.random.below(2) == 0 {
            self.look(); // it lies there before the link leads to it
        }
        std::os::unix::fs::symlink(&target, self.path("new")).unwrap();
        fs::rename(self.path("new"), self.log()).unwrap();
        if self.random.below(2) == 0 {
            self.reopen();
        } else {
            self.write();
            self.reopen();
        }
    }

    fn look(&mut self) {
        self.note("look");
        let at = self.wall();
        let listings = &Listings::default();
        let look = alone(Start::Beginning, self.now, at, listings);
        match self.tail.look(look, &mut self.buffer) {
            Ok(()) | Err(TailError::Missing { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        self.vanished.add(&self.tail.take_vanished());
    }

    fn wait(&mut self) {
        self.note("wait");
        self.now += Duration::from_secs(self.random.below(100));
        self.look();
    }

    /// One chunk.
    fn read(&mut self) -> bool {
        let chunk = self.tail.read(self.now, &mut self.buffer).unwrap();
        self.vanished.add(&self.tail.take_vanished());
        let Some(chunk) = chunk else { return false };
        let n_before = self.counted.len();
        self.n_bytes_counted += chunk.lines.len() as u64;
        let lines = self.buffer[chunk.lines].split_inclusive(|byte| *byte == b'\n');
        for line in lines {
            assert_eq!(line.last(), Some(&b'\n'), "only whole lines leave");
            // Half a line before a truncation or its end alone name no line.
            let text = String::from_utf8_lossy(line);
            let number = text.strip_prefix("line ").and_then(|rest| rest.split(' ').next());
            self.counted.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        self.n_too_long += u64::from(chunk.n_too_long);
        self.n_bytes_counted += chunk.n_bytes_too_long;
        let new = &self.counted[n_before..];
        self.note(format!("read{:?}", new.first().zip(new.last())));
        true
    }

    fn read_all(&mut self) {
        while self.read() {}
    }

    /// Counts and offsets become durable together.
    fn spool(&mut self) {
        self.note("spool");
        for number in self.counted.drain(..) {
            assert!(self.spooled.insert(number), "line {number} is counted twice");
        }
        self.n_bytes_spooled += std::mem::take(&mut self.n_bytes_counted);
        self.positions = self.tail.positions().collect();
        self.saved_at = self.tail.looked_at[0];
    }

    fn crash(&mut self) {
        self.note("crash");
        self.counted.clear();
        self.n_bytes_counted = 0;
        // What is gone from the disk and was not spooled is gone.
        self.tail = Tail::new(&self.log(), self.positions.clone(), self.saved_at);
        self.is_down = true;
    }

    fn restart(&mut self) {
        self.note("restart");
        self.look();
        self.read_all();
        self.spool();
        self.crash();
    }

    fn check(&self) {
        let all = (0..self.n_written).filter(|number| !self.long.contains(number));
        if self.at_risk.is_empty() {
            assert!(self.n_too_long >= self.long.len() as u64, "a long line is not told");
        }
        let missing: BTreeSet<u64> = all.filter(|number| !self.spooled.contains(number)).collect();
        let unexplained: Vec<_> = missing.difference(&self.at_risk).collect();
        assert!(unexplained.is_empty(), "lines {unexplained:?} are missing");
        if self.kind != Kind::Anything {
            assert_eq!(self.n_bytes_spooled, self.n_bytes_put, "bytes counted are those written");
            assert_eq!((self.vanished.n_bytes, self.vanished.n_gone), (0, 0), "a false loss");
        }
        if self.kind == Kind::Copy && self.is_attentive {
            let told = (self.vanished.n_truncations, self.vanished.n_bytes_recovered);
            assert_eq!(told, (self.n_truncations, self.n_bytes_recovered), "truncations told");
        } else if self.kind != Kind::Anything && self.kind != Kind::Copy {
            assert_eq!(self.vanished, Vanished::default());
        }
        let silent: Vec<_> = missing.intersection(&self.at_known_risk).collect();
        let n_told = self.vanished.n_truncations + self.vanished.n_gone;
        assert!(silent.is_empty() || n_told > 0, "lines {silent:?} silently lost");
    }
}

/// A look at a log that no other one has to do with.
fn alone(start: Start, now: Instant, at: UnixMillis, listings: &Listings) -> Look<'_> {
    Look { start, now, at, is_held: &|_| false, is_followed: &|_| false, listings }
}

fn open_to_append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

fn compress(path: &Path, ending: &str) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut compressed = path.as_os_str().to_owned();
    compressed.push(ending);
    let mut file = File::create(&compressed).unwrap();
    let text = fs::read(path).unwrap();
    let packed = match ending {
        ".gz" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&text).unwrap();
            encoder.finish().unwrap()
        }
        ".zst" => zstd::encode_all(text.as_slice(), 1).unwrap(),
        _ => b"\xfd7zXZ\0 nobody here reads this".to_vec(),
    };
    file.write_all(&packed).unwrap();
    file.set_modified(modified).unwrap();
    fs::remove_file(path).unwrap();
}

fn check_stories(kind: Kind) {
    let first: u64 = std::env::var("TAIL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let n = std::env::var("TAIL_SEEDS").ok().and_then(|n| n.parse().ok());
    let n = n.unwrap_or(if std::env::var_os("TAIL_SEED").is_some() { 1 } else { 60 });
    for seed in first..first + n {
        let outcome = std::panic::catch_unwind(|| {
            let mut story = Story::new(kind, seed);
            let run = std::panic::AssertUnwindSafe(|| {
                story.run(80);
                story.check();
            });
            if let Err(panic) = std::panic::catch_unwind(run) {
                eprintln!("{kind:?}: {}", story.trace.join(" "));
                std::panic::resume_unwind(panic);
            }
        });
        assert!(outcome.is_ok(), "{kind:?}: run again with TAIL_SEED={seed}");
    }
}

#[test]
fn rename_rotation_loses_and_repeats_no_line() {
    check_stories(Kind::Rename);
}

#[test]
fn rename_rotation_loses_and_repeats_no_line_where_inodes_change_at_every_look() {
    check_stories(Kind::Renumbered);
}

#[test]
fn copytruncate_loses_and_repeats_no_line_that_is_in_the_copy() {
    check_stories(Kind::Copy);
}

#[test]
fn a_link_that_changes_its_target_loses_and_repeats_no_line() {
    check_stories(Kind::Symlink);
}

#[test]
fn whatever_happens_no_line_is_repeated_and_every_loss_is_told() {
    check_stories(Kind::Anything);
}

/// A tail on one path, read to its end after each look.
struct Follower {
    tail: Tail,
    buffer: Vec<u8>,
    now: Instant,
    /// What the wall clock is off by.
    clock_ms: i64,
}

impl Follower {
    fn new(path: &Path, positions: Vec<Position>) -> Self {
        let buffer = vec![0; super::super::file::BUFFER_BYTES];
        let tail = Tail::new(path, positions, clock::now());
        Self { tail, buffer, now: clock::instant(), clock_ms: 0 }
    }

    fn look(&mut self, start: Start) -> Result<(), TailError> {
        let listings = &Listings::default();
        let at = UnixMillis(clock::now().0 + self.clock_ms);
        let look = alone(start, self.now, at, listings);
        self.tail.look(look, &mut self.buffer)
    }

    /// Looks, then all text that can be read, and how many lines were too long.
    fn read(&mut self) -> (String, u32) {
        self.look(Start::Beginning).ok();
        let mut text = Vec::new();
        let mut n_too_long = 0;
        while let Some(chunk) = self.tail.read(self.now, &mut self.buffer).unwrap() {
            text.extend_from_slice(&self.buffer[chunk.lines]);
            n_too_long += chunk.n_too_long;
        }
        (String::from_utf8_lossy(&text).into_owned(), n_too_long)
    }

    fn text(&mut self) -> String {
        self.read().0
    }

    fn positions(&self) -> Vec<Position> {
        self.tail.positions().collect()
    }
}

fn append(path: &Path, text: &str) {
    open_to_append(path).write_all(text.as_bytes()).unwrap();
}

fn wall_time() -> SystemTime {
    std::time::UNIX_EPOCH + Duration::from_millis(clock::now().0.cast_unsigned())
}

fn long_line(name: &str) -> String {
    format!("{name} is a line with enough bytes to tell this file from others\n")
}

#[test]
fn a_stale_inode_in_the_checkpoint_does_not_silence_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("old").repeat(20));
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    let mut positions = follower.positions();
    drop(follower);
    fs::remove_file(&log).unwrap();
    append(&log, &long_line("new"));
    // Whether the file system hands out the inode again or not: say that it did.
    positions[0].key = key_of(&fs::metadata(&log).unwrap());
    let mut follower = Follower::new(&log, positions);
    assert_eq!(follower.text(), long_line("new"));
    append(&log, &long_line("newer"));
    assert_eq!(follower.text(), long_line("newer"));
}

#[test]
fn a_rotation_during_the_restart_loses_no_rotated_line() {
    for name in [
        "a.log.1",
        "a.log-20261120",
        "a-20261120.log",
        "a.log.1.gz",
        "a.log.1.zst",
        "archive.log",
        "old/a.log.1",
        "archive/a.log-20261120.gz",
        "a.d/a.log.1",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        append(&log, &long_line("read"));
        let mut follower = Follower::new(&log, Vec::new());
        follower.text();
        let positions = follower.positions();
        drop(follower);
        append(&log, &long_line("rotated"));
        let plain = name.strip_suffix(".gz").or(name.strip_suffix(".zst"));
        let rotated = dir.path().join(plain.unwrap_or(name));
        fs::create_dir_all(rotated.parent().unwrap()).unwrap();
        fs::rename(&log, &rotated).unwrap();
        if let Some(plain) = plain {
            compress(&rotated, &name[plain.len()..]);
        }
        append(&log, &long_line("new"));
        let mut follower = Follower::new(&log, positions);
        assert_eq!(follower.text(), long_line("rotated") + &long_line("new"), "{name}");
        assert_eq!(follower.tail.take_vanished(), Vanished::default(), "{name}");
    }
}

#[test]
fn a_rotated_copy_that_cannot_be_unpacked_is_a_told_loss_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("read"));
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    let positions = follower.positions();
    drop(follower);
    append(&log, &long_line("rotated"));
    fs::rename(&log, dir.path().join("a.log.1")).unwrap();
    compress(&dir.path().join("a.log.1"), ".xz");
    append(&log, &long_line("new"));
    let mut follower = Follower::new(&log, positions);
    assert_eq!(follower.text(), long_line("new"));
    let vanished = Vanished { n_gone: 1, ..Vanished::default() };
    assert_eq!(follower.tail.take_vanished(), vanished);
    let note = follower.tail.note().unwrap();
    assert!(note.contains("use gzip or zstd, or delaycompress"), "{note}");
}

#[test]
fn a_rotated_file_that_was_read_to_its_end_may_go_while_the_agent_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let (log, rotated) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    append(&log, &long_line("1"));
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    fs::rename(&log, &rotated).unwrap();
    append(&log, &long_line("2"));
    assert_eq!(follower.text(), long_line("2"));
    let positions = follower.positions(); // all that is known after kill -9
    drop(follower);
    fs::rename(&log, &rotated).unwrap(); // over the first one
    append(&log, &long_line("3"));
    let mut follower = Follower::new(&log, positions.clone());
    assert_eq!(follower.text(), long_line("3"));
    assert_eq!(follower.tail.take_vanished(), Vanished::default());
    drop(follower);

    fs::remove_file(&rotated).unwrap();
    let mut follower = Follower::new(&log, positions);
    follower.text();
    let vanished = Vanished { n_gone: 1, ..Vanished::default() };
    assert_eq!(follower.tail.take_vanished(), vanished, "the second one could still grow");
}

#[test]
fn a_reboot_that_numbers_the_devices_anew_repeats_and_loses_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("1"));
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    fs::rename(&log, dir.path().join("a.log.1")).unwrap();
    append(&log, &long_line("2"));
    follower.text();
    let mut positions = follower.positions();
    drop(follower);
    for position in &mut positions {
        position.key.device += 1;
    }
    append(&dir.path().join("a.log.1"), &long_line("late"));
    append(&log, &long_line("3"));
    let mut follower = Follower::new(&log, positions);
    assert_eq!(follower.text(), long_line("late") + &long_line("3"));
    assert_eq!(follower.tail.take_vanished(), Vanished::default());
}

/// Restores the truth when a test ends.
struct Lying;

impl Lying {
    fn with(lie: Lie) -> Self {
        LIE.set(Some(lie));
        Self
    }
}

impl Drop for Lying {
    fn drop(&mut self) {
        LIE.set(None);
    }
}

#[test]
fn a_file_system_that_numbers_files_anew_at_every_look_repeats_and_loses_no_line() {
    let lying = Lying::with(Lie::Changing(0));
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    let mut follower = Follower::new(&log, Vec::new());
    append(&log, &long_line("1"));
    assert_eq!(follower.text(), long_line("1"));
    for n in 2..5 {
        assert_eq!(follower.text(), "");
        let old = open_to_append(&log);
        append(&log, &long_line(&n.to_string()));
        assert_eq!(follower.text(), long_line(&n.to_string()));
        fs::rename(&log, dir.path().join(format!("a.log.{n}"))).unwrap();
        { old }.write_all(long_line("late").as_bytes()).unwrap();
        append(&log, &long_line("first"));
        assert_eq!(follower.text(), long_line("late") + &long_line("first"));
    }
    let positions = follower.positions();
    append(&log, &long_line("after"));
    let mut follower = Follower::new(&log, positions);
    assert_eq!(follower.text(), long_line("after"));
    drop(lying);
}

#[test]
fn a_file_system_that_gives_every_file_one_number_silences_no_new_log() {
    let lying = Lying::with(Lie::Same);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("1"));
    let mut follower = Follower::new(&log, Vec::new());
    assert_eq!(follower.text(), long_line("1"));
    for n in 2..5 {
        let mut old = open_to_append(&log);
        fs::rename(&log, dir.path().join(format!("a.log.{n}"))).unwrap();
        append(&log, &long_line(&n.to_string()).repeat(n));
        assert_eq!(follower.text(), long_line(&n.to_string()).repeat(n));
        old.write_all(long_line("late").as_bytes()).unwrap();
        assert_eq!(follower.text(), long_line("late"));
    }
    assert_eq!(follower.tail.take_vanished(), Vanished::default());
    drop(lying);
}

#[test]
fn a_log_that_another_one_holds_is_not_read_twice_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("1"));
    let mut follower = Follower::new(&log, Vec::new());
    let listings = &Listings::default();
    let (start, now, at) = (Start::Beginning, follower.now, clock::now());
    let look = Look { is_held: &|_| true, ..alone(start, now, at, listings) };
    follower.tail.look(look, &mut follower.buffer).unwrap();
    assert_eq!(follower.tail.read(now, &mut follower.buffer).unwrap(), None);
    assert!(follower.tail.note().unwrap().contains("it is read there"));
    follower.look(Start::Beginning).unwrap();
    assert_eq!(follower.tail.note(), None, "let go by the other one, it is followed from its end");
}

#[test]
fn a_rotated_file_is_read_while_it_is_still_written_and_when_it_grows_after_closing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, rotated) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    let mut writer = open_to_append(&log);
    writer.write_all(long_line("1").as_bytes()).unwrap();
    let mut follower = Follower::new(&log, Vec::new());
    assert_eq!(follower.text(), long_line("1"));
    fs::rename(&log, &rotated).unwrap();
    append(&log, &long_line("2"));
    assert_eq!(follower.text(), long_line("2"));
    writer.write_all(long_line("3").as_bytes()).unwrap();
    assert_eq!(follower.text(), long_line("3"));
    for _ in 0..3 {
        follower.now += Duration::from_secs(61);
        assert_eq!(follower.text(), "");
    }
    assert!(!follower.tail.has_rotated(), "an idle rotated file keeps no descriptor");
    writer.write_all(long_line("4").as_bytes()).unwrap();
    follower.now += RETIRED_LOOK;
    assert_eq!(follower.text(), long_line("4"));
}

#[test]
fn a_deleted_log_is_let_go_so_that_its_disk_space_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    let mut writer = open_to_append(&log);
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    fs::remove_file(&log).unwrap();
    writer.write_all(b"to nobody but us\nhalf").unwrap();
    assert_eq!(follower.text(), "to nobody but us\n");
    follower.now += Duration::from_secs(301);
    follower.text();
    assert!(!follower.tail.is_open());
    assert_eq!(follower.tail.take_vanished().n_bytes, 4);
}

#[test]
fn a_truncation_is_told_with_the_bytes_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("1"));
    let mut follower = Follower::new(&log, Vec::new());
    assert_eq!(follower.text(), long_line("1"));
    append(&log, &long_line("unread"));
    follower.look(Start::Beginning).unwrap();
    File::create(&log).unwrap();
    append(&log, &long_line("x"));
    assert_eq!(follower.text(), long_line("x"));
    let n_bytes = long_line("unread").len() as u64;
    let vanished = Vanished { n_truncations: 1, n_bytes, ..Vanished::default() };
    assert_eq!(follower.tail.take_vanished(), vanished);
}

#[test]
fn a_log_truncated_and_rotated_away_between_two_looks_is_a_told_loss() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("1").repeat(9));
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    assert_eq!(follower.read(), (String::new(), 0));
    append(&log, &long_line("nobody reads this"));
    let mut writer = open_to_append(&log);
    writer.set_len(0).unwrap();
    fs::rename(&log, dir.path().join("a.log.1")).unwrap();
    follower.now += Duration::from_secs(61);
    follower.look(Start::Beginning).unwrap_err();
    assert_eq!(follower.tail.take_vanished().n_truncations, 1);
    writer.write_all(long_line("2").as_bytes()).unwrap();
    assert_eq!(follower.text(), long_line("2"));
}

#[test]
fn a_log_truncated_before_the_rotation_and_a_kill_is_read_from_its_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let (log, rotated) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    append(&log, &long_line("unread"));
    let mut follower = Follower::new(&log, Vec::new());
    follower.look(Start::Beginning).unwrap();
    follower.look(Start::Beginning).unwrap(); // the first one does not ask for its size
    File::create(&log).unwrap();
    append(&log, &long_line("new"));
    follower.look(Start::Beginning).unwrap();
    let n_bytes = long_line("unread").len() as u64;
    let vanished = Vanished { n_truncations: 1, n_bytes, ..Vanished::default() };
    assert_eq!(follower.tail.take_vanished(), vanished);
    let positions = follower.positions(); // all that is known after kill -9
    drop(follower);
    fs::rename(&log, &rotated).unwrap();
    open_to_append(&rotated).set_modified(wall_time() - Duration::from_secs(7200)).unwrap();
    append(&log, &long_line("newer"));
    let mut follower = Follower::new(&log, positions);
    assert_eq!(follower.text(), long_line("new") + &long_line("newer"));
    assert_eq!(follower.tail.take_vanished(), Vanished::default());
}

#[test]
fn a_file_that_rotated_while_empty_is_read_though_the_clock_was_set_before_a_kill() {
    for lie in [None, Some(Lie::Changing(0))] {
        let lying = lie.map(Lying::with);
        let dir = tempfile::tempdir().unwrap();
        let (log, rotated) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
        let mut writer = open_to_append(&log);
        let mut follower = Follower::new(&log, Vec::new());
        assert_eq!(follower.text(), "");
        fs::rename(&log, &rotated).unwrap();
        append(&log, &long_line("new"));
        assert_eq!(follower.text(), long_line("new"));
        let positions = follower.positions();
        drop(follower);
        writer.set_modified(wall_time() - Duration::from_secs(7200)).unwrap();
        let mut follower = Follower::new(&log, positions);
        assert_eq!(follower.text(), "");
        writer.write_all(long_line("late").as_bytes()).unwrap();
        assert_eq!(follower.text(), long_line("late"));
        assert_eq!(follower.tail.take_vanished(), Vanished::default());
        drop(lying);
    }
}

#[test]
fn an_empty_twin_of_a_log_without_a_number_is_read_once_it_is_written() {
    let lying = Lying::with(Lie::Changing(0));
    let stamp = |path: &Path| Stamp::of(&fs::metadata(path).unwrap());
    let is_told = (0..1000).any(|_| {
        let dir = tempfile::tempdir().unwrap();
        let (log, rotated) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
        let mut follower = Follower::new(&log, Vec::new());
        follower.look(Start::Beginning).unwrap_err();
        let at = wall_time();
        let mut writer = open_to_append(&log);
        writer.set_modified(at).unwrap();
        fs::rename(&log, &rotated).unwrap();
        File::create(&log).unwrap().set_modified(at).unwrap();
        if stamp(&log) != stamp(&rotated) {
            return false; // the clock of the file system ticked
        }
        follower.look(Start::Beginning).unwrap();
        follower.clock_ms = 7_200_000;
        for _ in 0..3 {
            follower.look(Start::Beginning).unwrap();
        }
        writer.write_all(long_line("late").as_bytes()).unwrap();
        writer.set_modified(at + Duration::from_secs(7200)).unwrap();
        follower.now += Duration::from_secs(1);
        assert_eq!(follower.text(), long_line("late"));
        true
    });
    assert!(is_told, "no two files of one tick");
    drop(lying);
}

#[test]
fn a_copytruncate_is_told_with_the_bytes_found_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &long_line("1"));
    let mut follower = Follower::new(&log, Vec::new());
    assert_eq!(follower.text(), long_line("1"));
    append(&log, &(long_line("2") + &long_line("3")));
    fs::copy(&log, dir.path().join("a.log.1")).unwrap();
    open_to_append(&log).set_len(0).unwrap();
    append(&log, &long_line("4"));
    assert_eq!(follower.text(), long_line("2") + &long_line("3") + &long_line("4"));
    let n_bytes_recovered = 2 * long_line("2").len() as u64;
    let vanished = Vanished { n_truncations: 1, n_bytes_recovered, ..Vanished::default() };
    assert_eq!(follower.tail.take_vanished(), vanished);
}

#[test]
fn a_log_cut_back_to_a_part_that_was_read_goes_on_at_its_new_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, &(long_line("1") + &long_line("2")));
    let mut follower = Follower::new(&log, Vec::new());
    follower.text();
    let file = open_to_append(&log);
    file.set_len(long_line("1").len() as u64).unwrap();
    assert_eq!(follower.text(), "");
    append(&log, &long_line("3"));
    assert_eq!(follower.text(), long_line("3"));
    assert_eq!(follower.tail.take_vanished().n_truncations, 1);
}

#[test]
fn copytruncate_leaves_nobody_stuck_also_when_the_writer_keeps_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    let mut writer = File::create(&log).unwrap(); // not O_APPEND: leaves a hole of zeros
    writer.write_all(long_line("1").repeat(2000).as_bytes()).unwrap();
    let mut follower = Follower::new(&log, Vec::new());
    assert_eq!(follower.text().lines().count(), 2000);
    fs::copy(&log, dir.path().join("a.log.1")).unwrap();
    writer.set_len(0).unwrap();
    assert_eq!(follower.text(), "");
    writer.write_all(long_line("2").as_bytes()).unwrap();
    writer.write_all(long_line("3").as_bytes()).unwrap();
    let text = follower.text();
    assert!(text == long_line("2") + &long_line("3"), "{} bytes, no zeros expected", text.len());
    append(&log, &long_line("4"));
    assert_eq!(follower.text(), long_line("4"));
}

#[test]
fn the_first_start_follows_a_log_from_its_end_and_keeps_half_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, "history\nhalf ");
    let mut follower = Follower::new(&log, Vec::new());
    follower.look(Start::End).unwrap();
    assert_eq!(follower.text(), "");
    append(&log, "a line\n");
    assert_eq!(follower.text(), "half a line\n");
}

#[test]
fn what_is_no_log_is_told_with_its_fix_and_read_when_it_becomes_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    let mut follower = Follower::new(&log, Vec::new());
    let error = follower.look(Start::Beginning).unwrap_err().to_string();
    assert!(error.contains("a.log does not exist"), "{error}");
    fs::create_dir(&log).unwrap();
    let error = follower.look(Start::Beginning).unwrap_err().to_string();
    assert!(error.contains("a.log is a directory: name the log file itself"), "{error}");
    fs::remove_dir(&log).unwrap();
    std::os::unix::fs::symlink("/dev/null", &log).unwrap();
    let error = follower.look(Start::Beginning).unwrap_err().to_string();
    assert!(error.contains("a.log is a device or pipe"), "{error}");
    fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink("nowhere", &log).unwrap();
    assert!(matches!(follower.look(Start::Beginning), Err(TailError::Missing { .. })));
    fs::remove_file(&log).unwrap();
    append(&log, "first\n");
    assert_eq!(follower.text(), "first\n");
}

/// What was written to the new target before the next look was counted twice.
#[test]
fn a_target_that_was_seen_empty_beside_the_old_one_is_read_once_when_the_link_leads_to_it() {
    let line = "a line that is long enough to tell one file from another one\n";
    for (n_before, n_after) in [(0, 2), (2, 0), (2, 3)] {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, link, fresh] = ["2026-11-19.log", "2026-11-20.log", "access.log", "fresh"]
            .map(|name| dir.path().join(name));
        append(&old, &"what the old target holds is another text than that\n".repeat(2));
        std::os::unix::fs::symlink(&old, &link).unwrap();
        let mut follower = Follower::new(&link, Vec::new());
        assert_eq!(follower.text().lines().count(), 2);
        append(&new, "");
        assert_eq!(follower.text(), "");
        append(&new, &line.repeat(n_before));
        std::os::unix::fs::symlink(&new, &fresh).unwrap();
        fs::rename(&fresh, &link).unwrap();
        let before = follower.text();
        append(&new, &line.repeat(n_after));
        let text = before + &follower.text() + &follower.text();
        assert_eq!(text.lines().count(), n_before + n_after, "{n_before} {n_after}");
    }
}

#[test]
fn a_refused_log_is_told_with_the_command_that_helps() {
    // As root no mode refuses, so the error of the system is given.
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    append(&log, "x\n");
    let error = to_error(&log, io::Error::from(io::ErrorKind::PermissionDenied)).to_string();
    assert!(error.contains("may not read log") && error.contains("a.log"), "{error}");
    assert!(error.contains("usermod -aG") || error.contains("setfacl -m"), "{error}");
}

#[test]
fn any_bytes_pass_and_a_line_of_a_mebibyte_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("a.log");
    let mut writer = open_to_append(&log);
    writer.write_all(b"nul \0 and \xff\xfe\n\n\r\n").unwrap();
    let mut follower = Follower::new(&log, Vec::new());
    assert_eq!(follower.read(), ("nul \0 and \u{fffd}\u{fffd}\n\n\r\n".to_owned(), 0));
    let offset = follower.tail.offset();
    writer.write_all(&vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(follower.read(), (String::new(), 0));
    assert_eq!(follower.tail.offset(), offset, "a crash now begins the long line again");
    writer.write_all(b"its end\nnext\n").unwrap();
    assert_eq!(follower.read(), ("next\n".to_owned(), 1));
}

#[test]
fn a_log_born_before_the_first_start_is_history() {
    let first = UnixMillis(10_000);
    let born = |ms| Some(UNIX_EPOCH + Duration::from_millis(ms));
    assert_eq!(Start::by_birth(born(9_999), first), Start::End);
    assert_eq!(Start::by_birth(born(10_000), first), Start::Beginning);
    assert_eq!(Start::by_birth(None, first), Start::Beginning);
}
