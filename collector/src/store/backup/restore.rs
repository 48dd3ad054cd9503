//! `restore`: an archive becomes the data directory.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::super::{StoreError, open};
use super::archive::{pour, read_archive};
use super::place::{self, Finished, Plan};
use super::{BackupError, DATABASE, MARKER, Manifest, Member};
use crate::{clock, files};

/// What of a data directory a restore replaces; the write-ahead log first.
const REPLACED: [&str; 8] = [
    "gatewatch.db-wal",
    "gatewatch.db-shm",
    MARKER,
    DATABASE,
    "admin.token",
    "ca",
    "blocks",
    "rollup",
];

/// A restore that is done.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What was in the backup.
    pub manifest: Manifest,
    /// What became of the old files.
    pub finished: Finished,
}

/// Replaces what is in `dir` by the backup in `file`; `-` is stdin.
///
/// Everything is unpacked and checked first, beside what is there: until the end nothing is touched. An
/// interruption leaves the old or the new, and the next start says which. Refused while a collector runs,
/// and without `force` when there is a database, which otherwise is moved aside.
pub fn restore(dir: &Path, file: &Path, force: bool) -> Result<Restored, BackupError> {
    files::create_private_dir(dir).map_err(|error| BackupError::file(dir, &error))?;
    let _lock = lock(dir)?;
    place::finish_interrupted(dir)?;
    let database = dir.join(DATABASE);
    if database.exists() && !force {
        let what = format!("{}: there is a database", database.display());
        let fix = "with --force it and all that belongs to it is moved to a folder beside it, and the \
                   backup takes its place";
        return Err(BackupError::usage(what, fix));
    }
    let done = unpack(dir, file);
    let manifest = match done {
        Ok(manifest) => manifest,
        Err(error) => {
            place::give_up(dir);
            return Err(error);
        }
    };
    let mut members: Vec<String> = Vec::new();
    for member in &manifest.members {
        let top = member.name.split('/').next().unwrap_or_default().to_owned();
        if !members.contains(&top) {
            members.push(top);
        }
    }
    let plan = Plan {
        aside: place::dated(dir, "replaced", clock::now()),
        replaced: REPLACED.map(str::to_owned).to_vec(),
        members,
        keeps_days: false,
    };
    let finished = place::commit(dir, &plan)?;
    Ok(Restored { manifest, finished })
}

/// Takes the data directory of a collector that is stopped; held as long as the file is open.
pub fn lock(dir: &Path) -> Result<File, BackupError> {
    let lock = open::lock(dir).map_err(|error| match error {
        StoreError::InUse { pid, .. } => BackupError::usage(
            format!("{}: a collector runs on it (process {pid})", dir.display()),
            "stop it: `systemctl stop gatewatch-collector`",
        ),
        StoreError::File { path, source } => BackupError::file(&path, &source),
        other => BackupError::new(other.to_string(), "check the data directory"),
    })?;
    let path = dir.join("collector.lock");
    place::give_to_owner(dir, &path).map_err(|error| BackupError::file(&path, &error))?;
    Ok(lock)
}

/// Unpacks everything and checks it.
fn unpack(dir: &Path, file: &Path) -> Result<Manifest, BackupError> {
    let is_stdin = file == Path::new("-");
    let from: Box<dyn Read> = if is_stdin {
        Box::new(io::stdin().lock())
    } else {
        let file_error = |error: io::Error| BackupError {
            code: crate::cli::exit::USAGE,
            ..BackupError::file(file, &error)
        };
        let opened = File::open(file).map_err(file_error)?;
        let n_bytes = opened.metadata().map_err(file_error)?.len();
        check_room(dir, n_bytes)?;
        Box::new(opened)
    };
    let to = place::begin(dir)?;
    let manifest = read_archive(BufReader::with_capacity(1 << 20, from), &mut |name, entry| {
        write(&to.join(name), entry)
    })
    .map_err(|error| named(file, error))?;
    let known = super::super::open::MIGRATIONS.len() as i64;
    if manifest.schema > known {
        let what = format!(
            "{}: made by a later release ({}, schema {}; this one knows {known})",
            file.display(),
            manifest.release,
            manifest.schema
        );
        return Err(BackupError::usage(what, "install that release, or use an older backup"));
    }
    // What is in the archive is written by now; a scheduled one has its days beside it.
    let beside = manifest.members.iter().filter(|member| member.beside.is_some());
    let n_beside = beside.fold(0_u64, |sum, member| sum.saturating_add(member.n_bytes));
    check_room(dir, n_beside)?;
    for member in &manifest.members {
        fetch(file, member, &to)?;
    }
    schema_of(&to.join(DATABASE), manifest.schema)?;
    Ok(manifest)
}

/// Copies what lies beside the archive.
fn fetch(file: &Path, member: &Member, to: &Path) -> Result<(), BackupError> {
    let Some(beside) = &member.beside else { return Ok(()) };
    let from = beside_of(file, beside)?;
    let mut opened = File::open(&from).map_err(|error| missing(&from, &error))?;
    let (n_bytes, sha256) = write(&to.join(&member.name), &mut opened)?;
    if (n_bytes, &sha256) != (member.n_bytes, &member.sha256) {
        return Err(BackupError::bad(format!("{}: it is damaged", from.display())));
    }
    Ok(())
}

/// Where a file beside an archive is.
pub(in super::super) fn beside_of(file: &Path, beside: &str) -> Result<PathBuf, BackupError> {
    if file == Path::new("-") {
        let what = "the backup names files beside it";
        return Err(BackupError::usage(what, "give it as a file, in the folder it was made in"));
    }
    Ok(file.parent().unwrap_or(Path::new("")).join(beside))
}

/// Says that a file beside an archive is not there.
pub(in super::super) fn missing(path: &Path, error: &io::Error) -> BackupError {
    let what = format!("{}: a file of the backup cannot be read: {error}", path.display());
    let fix = "put the archive into the folder it was made in, with all of its `files`";
    BackupError { code: crate::cli::exit::NO, ..BackupError::new(what, fix) }
}

fn named(file: &Path, mut error: BackupError) -> BackupError {
    if error.code != crate::cli::exit::INTERNAL {
        error.what = format!("{}: {}", file.display(), error.what);
    }
    error
}

/// Writes a new file that only its owner reads.
pub(in super::super) fn write(
    path: &Path,
    from: &mut dyn Read,
) -> Result<(u64, String), BackupError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = |error: io::Error| BackupError::file(path, &error);
    files::create_private_dir(path.parent().unwrap_or(Path::new("."))).map_err(file)?;
    let mut out = File::options().write(true).create_new(true).mode(0o600).open(path);
    let out = out.as_mut().map_err(|error| BackupError::file(path, error))?;
    let mut reading = Reading { from, error: None };
    let poured = pour(&mut reading, out);
    match (poured, reading.error) {
        // What cannot be read is the archive's fault, what cannot be written the disk's.
        (Err(error), Some(())) => {
            Err(BackupError::bad(format!("it is cut off or damaged: {error}")))
        }
        (Err(error), None) => Err(file(error)),
        (Ok(poured), _) => Ok(poured),
    }
}

/// Remembers that reading failed.
struct Reading<'a> {
    from: &'a mut dyn Read,
    error: Option<()>,
}

impl Read for Reading<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.from.read(to).inspect_err(|_| self.error = Some(()))
    }
}

fn schema_of(path: &Path, schema: i64) -> Result<(), BackupError> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_URI;
    let found = rusqlite::Connection::open_with_flags(open::immutable_uri(path), flags)
        .and_then(|conn| conn.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)));
    match found {
        Ok(found) if found == schema => Ok(()),
        Ok(_) => Err(BackupError::bad("its database is not the one its manifest tells of")),
        Err(error) => Err(BackupError::bad(format!("its database cannot be read: {error}"))),
    }
}

fn check_room(dir: &Path, n_bytes: u64) -> Result<(), BackupError> {
    let free = statvfs(dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if free >= n_bytes {
        return Ok(());
    }
    let what = format!(
        "{}: not enough room for the backup: {} MiB are needed, {} MiB are free; nothing was changed",
        dir.display(),
        n_bytes >> 20,
        free >> 20
    );
    Err(BackupError::new(what, "free space on its disk"))
}
