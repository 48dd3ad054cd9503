//! `backup`, `restore`, `verify`: of a running collector through its API, of one that is stopped through
//! its data directory.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::client::{Client, Failure};
use crate::cli::{BackupArgs, RestoreArgs, VerifyArgs, exit};
use crate::config::Config;
use crate::store::backup::{self, Archive, BackupError, Manifest, Source};
use crate::store::verify::{self, Problem, Report};
use crate::web::backup::{Rechecked, SIZE};
use crate::{clock, errors};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self { error: error.what, fix: error.fix, code: error.code }
    }
}

/// Where a backup is written: a file that has its name only when it is whole, or stdout.
enum Target {
    Stdout,
    File { temp: PathBuf, path: PathBuf, out: File, is_done: bool },
}

impl Target {
    fn new(args: &BackupArgs) -> Result<Self, Failure> {
        let path = &args.file;
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                let fix = "name a file, or pipe it: `gatewatch-collector backup - | ...`";
                return Err(Failure::usage("a backup is nothing for a terminal", fix));
            }
            return Ok(Self::Stdout);
        }
        if path.exists() && !args.force {
            let fix = "name another file, or use --force to replace it";
            return Err(Failure::usage(format!("{}: it is there already", path.display()), fix));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temp = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let out = options.open(&temp).map_err(|error| BackupError::file(path, &error))?;
        Ok(Self::File { temp, path: path.clone(), out, is_done: false })
    }

    fn finish(mut self) -> Result<(), Failure> {
        let Self::File { temp, path, out, is_done } = &mut self else {
            return io::stdout().flush().map_err(|error| stdout(&error).into());
        };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = File::open(dir.unwrap_or(Path::new(".")));
        let renamed = out.sync_all().and_then(|()| fs::rename(&*temp, &*path));
        let synced = renamed.and_then(|()| dir?.sync_all());
        synced.map_err(|error| BackupError::file(path, &error))?;
        *is_done = true;
        Ok(())
    }

    fn explain(&self, error: &io::Error) -> BackupError {
        match self {
            Self::Stdout => stdout(error),
            Self::File { path, .. } => BackupError::file(path, error),
        }
    }
}

fn stdout(error: &io::Error) -> BackupError {
    BackupError::new(format!("stdout cannot be written: {error}"), "is the disk full?")
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => io::stdout().write_all(bytes).map(|()| bytes.len()),
            Self::File { out, .. } => out.write_all(bytes).map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::File { temp, is_done: false, .. } = self {
            fs::remove_file(temp).ok(); // half a backup is none
        }
    }
}

/// `backup`; the exit code.
pub async fn backup(args: &BackupArgs, url: Option<&str>, config: &Config) -> u8 {
    let made = match url {
        Some(url) => match Client::remote(url, std::env::var("GATEWATCH_TOKEN").ok()) {
            Ok(client) => fetch(args, &client).await,
            Err(failure) => Err(failure),
        },
        None if is_answering(&config.socket) => match Client::local(&config.socket) {
            Ok(client) => fetch(args, &client).await,
            Err(failure) => Err(failure),
        },
        None => direct(args, &config.data_dir),
    };
    match made {
        Ok(n_bytes) => {
            if args.file != Path::new("-") {
                let shown = args.file.display();
                super::say(&format!(
                    "{shown}: {} MiB; it holds the keys of the authority and the admin token: keep it where nobody else reads",
                    n_bytes.div_ceil(1 << 20)
                ));
            }
            exit::GOOD
        }
        Err(failure) => {
            super::say(&format!("error: {failure}"));
            failure.code
        }
    }
}

fn is_answering(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        // It runs, and says why not.
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// From a running collector.
async fn fetch(args: &BackupArgs, client: &Client) -> Result<u64, Failure> {
    let mut target = Target::new(args)?;
    let mut response = client.stream(&["backup"]).await?;
    let total = response.headers().get(SIZE).and_then(|size| size.to_str().ok()?.parse().ok());
    let mut told = Told::new(total.unwrap_or(0));
    let mut n_bytes = 0;
    loop {
        let piece = response.chunk().await.map_err(|error| {
            let why = errors::chain(&error);
            Failure::from(BackupError::new(
                format!("the backup broke off: {why}"),
                "look into the collector's log",
            ))
        })?;
        let Some(piece) = piece else { break };
        target.write_all(&piece).map_err(|error| target.explain(&error))?;
        n_bytes += piece.len() as u64;
        told.progress(n_bytes);
    }
    target.finish()?;
    Ok(n_bytes)
}

/// From the data directory of a collector that is stopped.
fn direct(args: &BackupArgs, dir: &Path) -> Result<u64, Failure> {
    if !dir.join(backup::DATABASE).is_file() {
        let what = format!("{}: no collector runs and no database is there", dir.display());
        let fix = "give the config of the collector with --config, as the user it runs as or root";
        return Err(Failure::usage(what, fix));
    }
    let _lock = backup::lock(dir)?;
    let mut target = Target::new(args)?;
    let archive = Archive::prepare(Source::new(dir, CancellationToken::new())?)?;
    let mut told = Told::new(archive.n_bytes);
    let manifest = archive.write(&mut target, &mut |n, _| told.progress(n))?;
    target.finish()?;
    Ok(manifest.members.iter().map(|member| member.n_bytes).sum())
}

/// Tells progress on a terminal.
struct Told {
    total: u64,
    at: std::time::Instant,
    is_shown: bool,
}

impl Told {
    fn new(total: u64) -> Self {
        Self { total, at: clock::instant(), is_shown: io::stderr().is_terminal() }
    }

    fn progress(&mut self, n_bytes: u64) {
        if self.is_shown && self.at.elapsed() >= TELL_EVERY {
            self.at = clock::instant();
            super::say(&format!("{} of about {} MiB", n_bytes >> 20, self.total >> 20));
        }
    }
}

/// `restore`; the exit code.
pub fn restore(args: &RestoreArgs, config: &Config) -> u8 {
    match backup::restore(&config.data_dir, &args.file, args.force) {
        Ok(done) => {
            super::say(&restored(&config.data_dir, &done));
            exit::GOOD
        }
        Err(error) => {
            let failure = Failure::from(error);
            super::say(&format!("error: {failure}"));
            failure.code
        }
    }
}

fn restored(dir: &Path, done: &backup::Restored) -> String {
    let Manifest { made_at, release, members, .. } = &done.manifest;
    let (shown, n) = (dir.display(), members.len());
    let mut text =
        format!("{shown}: restored as it was at {made_at}, {n} files (release {release})");
    if let Some(aside) = &done.finished.aside {
        let aside = aside.display();
        write!(text, "\nwhat was there is in {aside}; remove it when it is not needed")
            .expect("writing to a String cannot fail");
    }
    text + "\nstart the collector: agents send anew what they keep, the last two hours"
}

/// `verify`; the exit code: 0 sound, 1 not.
pub async fn verify(args: &VerifyArgs, config: &Config) -> u8 {
    let report = if let Some(file) = &args.file {
        verify::verify_archive(file).map(|(report, _)| report)
    } else {
        let raw_from = UnixMillis(clock::now().0 - config.retention.raw.0.as_millis() as i64);
        let report = verify::verify(&config.data_dir, raw_from);
        recheck(&config.socket).await;
        Ok(report)
    };
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            let failure = Failure::from(error);
            super::say(&format!("error: {failure}"));
            return failure.code;
        }
    };
    let text = if args.json {
        serde_json::to_string(&report).expect("our own types are JSON") + "\n"
    } else {
        told(&report)
    };
    if let Err(failure) = super::print(&text) {
        super::say(&format!("error: {failure}"));
        return failure.code;
    }
    if report.sound { exit::GOOD } else { exit::NO }
}

/// Lets a running collector look again at what it found damaged.
async fn recheck(socket: &Path) {
    if !is_answering(socket) {
        return;
    }
    let Ok(client) = Client::local(socket) else { return };
    let asked = client.put::<Rechecked>(Method::POST, &["quarantine", "check"], &json!({})).await;
    match asked {
        Ok(Rechecked { n_cleared: 0, .. }) => {}
        Ok(Rechecked { n_cleared, .. }) => {
            super::say(&format!("{n_cleared} places that were damaged are sound and served again"));
        }
        Err(failure) => super::say(&format!("the collector does not look again: {failure}")),
    }
}

fn told(report: &Report) -> String {
    let line = |problem: &Problem| {
        let Problem { file, place, what, means, fix } = problem;
        let place = if place.is_empty() { String::new() } else { format!(", {place}") };
        format!("{file}{place}: {what}\n  means: {means}\n  fix: {fix}\n")
    };
    let mut text: String = report.problems.iter().map(line).collect();
    let more = report.n_problems.saturating_sub(report.problems.len() as u64);
    if more > 0 {
        writeln!(text, "and {more} more problems").expect("writing to a String cannot fail");
    }
    let Report { n_files, n_bytes, n_hours, n_bodies, n_problems, .. } = report;
    text + &format!(
        "{}: {n_files} files, {} MiB, {n_hours} sealed hours, {n_bodies} packed bodies, {n_problems} \
         problems\n",
        if report.sound { "sound" } else { "not sound" },
        n_bytes.div_ceil(1 << 20)
    )
}
