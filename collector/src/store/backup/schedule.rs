//! Backups that are made by themselves: `[backup] dir interval keep`.
//!
//! `DIR/gatewatch-20261130T120000Z.tar` has the database, the authority and the manifest; day and month
//! files lie once in `DIR/files/SHA256.db`, however many archives name them. What no archive names any
//! more leaves. `DIR/owner` says whose authority they are of; the folder itself is made by people. A slow or full disk there delays nobody: all of it is done by a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::super::Store;
use super::archive::{Archive, Beside, pour};
use super::copy::{self, Source};
use super::{BackupError, BackupState, MANIFEST, Manifest, Member, place};
use crate::config::BackupConfig;
use crate::{clock, files};

/// The first backup waits so long after the start: agents come first.
const FIRST_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for another backup to end.
const TURN_WAIT: Duration = Duration::from_secs(3600);
/// Names in the folder whose backups are in it.
const OWNER: &str = "owner";
/// A file that changed so shortly before it was copied may have changed again within the same tick.
const TICK_NS: i64 = 2_000_000_000;

/// How far in the future the newest archive may be and still be taken for the newest.
const AHEAD_MS: i64 = 3_600_000;

/// The task.
#[derive(Clone, Debug)]
pub struct Schedule {
    dir: PathBuf,
    config: BackupConfig,
}

impl Schedule {
    /// `None` where the config asks for none.
    #[must_use]
    pub fn new(config: &BackupConfig) -> Option<Self> {
        let dir = config.dir.clone()?;
        Some(Self { dir, config: config.clone() })
    }

    /// Makes one whenever the newest is an interval old, until stopped.
    pub async fn run(self, store: Store, stop: CancellationToken) {
        let newest = archives(&self.dir).pop().map(|(at, _)| at);
        let mut state =
            BackupState { dir: self.dir.clone(), made_at: newest, ..BackupState::default() };
        store.backups().set(state.clone());
        let interval = self.config.interval.0;
        let age = newest.map_or(interval, |at| {
            // One from the future says nothing: the clock was wrong then.
            let ms = clock::now().0 - at.0;
            u64::try_from(ms).map_or(interval, Duration::from_millis)
        });
        let mut due = Instant::now() + interval.saturating_sub(age).max(FIRST_AFTER);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: only time passes.
                () = sleep_until(due) => {}
            }
            due = Instant::now() + interval;
            let made = tokio::select! {
                biased;
                // What is being written is left behind: without its name it is no backup.
                () = stop.cancelled() => return,
                made = self.make(&store, &stop, TURN_WAIT) => made,
            };
            match made {
                Ok(manifest) => {
                    store.stats().backups_made.one();
                    let dir = self.dir.display();
                    tracing::info!(%dir, made_at = %manifest.made_at, "a backup is made");
                    state.made_at = Some(manifest.made_at);
                    (state.failed_at, state.failure) = (None, None);
                }
                Err(error) => {
                    store.stats().backups_failed.one();
                    let dir = self.dir.display();
                    tracing::error!(%error, %dir, "no backup is made; tried again at the next interval");
                    state.failed_at = Some(clock::now());
                    state.failure = Some(error.to_string());
                }
            }
            store.backups().set(state.clone());
        }
    }

    pub(super) async fn make(
        &self,
        store: &Store,
        stop: &CancellationToken,
        wait: Duration,
    ) -> Result<Manifest, BackupError> {
        let busy = || {
            let fix = "end the download that holds it up; it is tried again at the next interval";
            BackupError::new("another backup is being made, and has been for long", fix)
        };
        let turn = timeout(wait, store.backups().wait_turn()).await.ok().flatten();
        let turn = turn.ok_or_else(busy)?;
        let (this, data, stop) = (self.clone(), store.dir().to_owned(), stop.child_token());
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            this.make_now(&data, stop)
        });
        let ended = |_| BackupError::new("the thread that makes it ended", "look into the log");
        task.await.map_err(ended)?
    }

    /// Whether the folder is there and takes backups of this collector: a disk that is not mounted is no
    /// empty folder, and two collectors with one folder would drop each other's files.
    fn check_dir(&self, data: &Path) -> Result<(), BackupError> {
        let dir = self.dir.display();
        if !self.dir.is_dir() {
            let fix = "mount its disk, or make it and give it to the collector's user";
            return Err(BackupError::new(format!("{dir}: there is no such folder"), fix));
        }
        let authority = data.join("ca/ca.pem");
        let summed = File::open(&authority).and_then(|pem| pour(pem, &mut io::sink()));
        let (_, mine) = summed.map_err(|error| BackupError::file(&authority, &error))?;
        let path = self.dir.join(OWNER);
        match fs::read_to_string(&path) {
            Ok(owner) if owner.trim() == mine => Ok(()),
            Ok(_) => {
                let what = format!("{dir}: it has the backups of another collector");
                let fix = format!("name another `[backup] dir`, or remove {}", path.display());
                Err(BackupError::new(what, fix))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = format!("{mine}\n");
                files::replace_private(&path, text.as_bytes())
                    .map_err(|error| BackupError::file(&path, &error))
            }
            Err(error) => Err(BackupError::file(&path, &error)),
        }
    }

    /// Makes one and drops those beyond `keep`. Blocks.
    pub(super) fn make_now(
        &self,
        data: &Path,
        stop: CancellationToken,
    ) -> Result<Manifest, BackupError> {
        self.check_dir(data)?;
        let store = self.dir.join("files");
        files::create_private_dir(&store).map_err(|error| BackupError::file(&store, &error))?;
        sweep_temporary(&self.dir);
        let known: BTreeMap<String, Member> = archives(&self.dir)
            .pop()
            .and_then(|(_, file)| manifest_of(&file).ok())
            .map(|old| settled(old).map(|member| (member.name.clone(), member)).collect())
            .unwrap_or_default();
        let archive = Archive::prepare(Source::new(data, stop)?)?;
        let name = next_name(&self.dir, clock::now());
        let (temp, path) = (self.dir.join(format!(".{name}.new")), self.dir.join(&name));
        let file = |error: io::Error| BackupError::file(&temp, &error);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let out = options.open(&temp).map_err(file)?;
        let mut out = BufWriter::with_capacity(1 << 20, out);
        let mut beside = |name: &str, source: &Source| {
            keep_beside(name, source, &store, known.get(name)).map(Some)
        };
        let written = archive.write_with(&mut out, &mut |_, _| {}, &mut beside);
        let synced = written.and_then(|manifest| {
            out.flush().and_then(|()| out.get_ref().sync_all()).map_err(file)?;
            place::sync_dir(&store).map_err(file)?;
            fs::rename(&temp, &path).and_then(|()| place::sync_dir(&self.dir)).map_err(file)?;
            Ok(manifest)
        });
        match synced {
            Ok(manifest) => {
                self.rotate(&store);
                Ok(manifest)
            }
            Err(error) => {
                fs::remove_file(&temp).ok(); // else swept before the next one
                Err(error)
            }
        }
    }

    /// Drops the oldest archives beyond `keep`, then the files that none names any more.
    fn rotate(&self, store: &Path) {
        let mut all = archives(&self.dir);
        let n_old = all.len().saturating_sub(self.config.keep as usize);
        for (_, file) in all.drain(..n_old) {
            if let Err(error) = fs::remove_file(&file) {
                tracing::warn!(%error, file = %file.display(), "an old backup cannot be dropped");
            }
        }
        let mut named: BTreeSet<String> = BTreeSet::new();
        for (_, file) in all {
            match manifest_of(&file) {
                Ok(manifest) => named.extend(manifest.members.into_iter().filter_map(|m| m.beside)),
                Err(error) => {
                    // Whatever it names must stay.
                    let file = file.display();
                    tracing::warn!(%error, %file, "no files are dropped: a backup cannot be read");
                    return;
                }
            }
        }
        for file in fs::read_dir(store).into_iter().flatten().filter_map(Result::ok) {
            let name = file.file_name().to_string_lossy().into_owned();
            if !named.contains(&format!("files/{name}"))
                && let Err(error) = fs::remove_file(file.path())
            {
                tracing::warn!(%error, name, "a file of dropped backups stays behind");
            }
        }
    }
}

/// Sees to it that a day or month file is beside the archive.
fn keep_beside(
    name: &str,
    source: &Source,
    store: &Path,
    known: Option<&Member>,
) -> Result<Beside, BackupError> {
    let path = source.dir().join(name);
    let log = path.with_extension("db-wal");
    let is_settled = fs::metadata(&log).map_or(true, |log| log.len() == 0);
    if let (Some(known), Ok(meta), true) = (known, fs::metadata(&path), is_settled) {
        let there = store.join(format!("{}.db", known.sha256));
        let is_there = fs::metadata(&there).is_ok_and(|there| there.len() == known.n_bytes);
        if is_there && known.mtime_ns == Some(copy::mtime_ns(&meta)) {
            return Ok(Beside::There(known.clone()));
        }
    }
    let Some(copy) = source.file(name)? else { return Ok(Beside::Gone) };
    let temp = store.join(".new");
    let file = |error: io::Error| BackupError::file(&temp, &error);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = options.open(&temp).map_err(file)?;
    let (n_bytes, sha256) = pour(copy.open()?, &mut out).map_err(file)?;
    out.sync_all().map_err(file)?;
    fs::rename(&temp, store.join(format!("{sha256}.db"))).map_err(file)?;
    Ok(Beside::There(Member {
        name: name.to_owned(),
        n_bytes,
        beside: Some(format!("files/{sha256}.db")),
        sha256,
        mtime_ns: Some(copy.mtime_ns),
    }))
}

/// Members whose file had not changed for a while when it was copied.
fn settled(manifest: Manifest) -> impl Iterator<Item = Member> {
    let made_ns = manifest.made_at.0.saturating_mul(1_000_000);
    let is_settled = move |member: &Member| {
        member.beside.is_some() && member.mtime_ns.is_some_and(|at| at < made_ns - TICK_NS)
    };
    manifest.members.into_iter().filter(is_settled)
}

/// The archives in `dir`, oldest first, by the time in their names.
pub(super) fn archives(dir: &Path) -> Vec<(UnixMillis, PathBuf)> {
    let files = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<(UnixMillis, PathBuf)> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let at = made_at(&name)?;
            file.path().is_file().then(|| (at, file.path()))
        })
        .collect();
    found.sort();
    found
}

/// `gatewatch-20261130T120000Z.tar`
fn made_at(name: &str) -> Option<UnixMillis> {
    let stamp = name.strip_prefix("gatewatch-")?.strip_suffix(".tar")?;
    let at = DateTime::strptime("%Y%m%dT%H%M%SZ", stamp).ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(UnixMillis(at.timestamp().as_millisecond()))
}

/// A name that sorts behind those of the archives there are. One from the future is left alone: the
/// clock was wrong then.
fn next_name(dir: &Path, now: UnixMillis) -> String {
    let newest = archives(dir).pop().map_or(0, |(at, _)| at.0.saturating_add(1000));
    let at = if newest < now.0.saturating_add(AHEAD_MS) { newest.max(now.0) } else { now.0 };
    let name = |n: i64| format!("gatewatch-{}.tar", place::stamp(UnixMillis(at + n * 1000)));
    (0..3600).map(name).find(|name| !dir.join(name).exists()).unwrap_or_else(|| name(3600))
}

/// What an archive says of itself: only its end is read.
pub(in super::super) fn manifest_of(file: &Path) -> Result<Manifest, BackupError> {
    let broken = |error: io::Error| BackupError::bad(format!("{}: {error}", file.display()));
    let mut tar = tar::Archive::new(File::open(file).map_err(broken)?);
    for entry in tar.entries_with_seek().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if *entry.path_bytes() == *MANIFEST.as_bytes() {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(broken)?;
            let read = serde_json::from_str(&text);
            return read.map_err(|error| broken(io::Error::other(error)));
        }
    }
    Err(BackupError::bad(format!("{}: it has no manifest", file.display())))
}

/// Removes what a backup that was killed left behind.
fn sweep_temporary(dir: &Path) {
    for file in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let name = file.file_name().to_string_lossy().into_owned();
        let is_ours = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
        if is_ours.and_then(made_at).is_some() {
            fs::remove_file(file.path()).ok(); // a nuisance, no more
        }
    }
}
