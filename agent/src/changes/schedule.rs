//! Windows of work: jobs that matter when they start, by crontabs, timers and anacron.
//!
//! Of a command only the name of the program leaves the server: the rest may hold passwords. A job that
//! runs more often than once an hour is no window and is not told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::cron::Cron;
use super::mark::{self, Facts};
use super::shell;
use crate::window::Change;

/// Parts of the names of programs that load a server or restart something.
const MATTERS: [&str; 38] = [
    "backup",
    "bkup",
    "dump",
    "snapshot",
    "rsync",
    "borg",
    "restic",
    "duplicity",
    "rclone",
    "rdiff",
    "certbot",
    "acme",
    "letsencrypt",
    "logrotate",
    "wp-cron",
    "freshclam",
    "clamscan",
    "maldet",
    "rkhunter",
    "imunify",
    "updatedb",
    "locate",
    "cron.daily",
    "cron.weekly",
    "cron.monthly",
    "cron-daily",
    "upcp",
    "pmm",
    "optimize",
    "mysqlcheck",
    "vacuumdb",
    "reindex",
    "apt-daily",
    "dnf-automatic",
    "unattended-upgrade",
    "yum-cron",
    "fstrim",
    "awstats",
];

const FILE_BYTES_MAX: u64 = 256 << 10;
const JOBS_MAX: usize = 1_000;
const NAME_BYTES_MAX: usize = 64;
/// A job that starts more often is no window.
const STARTS_A_DAY_MAX: u32 = 24;
/// Minutes that are made up for after a pause: a restart, a suspended machine.
const MINUTES_MAX: i64 = 10;
/// Starts of one minute told one by one.
const STARTS_MAX: usize = 20;
/// Names of stamps that are looked at.
const STAMPS_MAX: usize = 500;

/// Folders whose files have the time at which a timer or an anacron job ran.
const STAMPS: [&str; 2] = ["var/lib/systemd/timers", "var/spool/anacron"];

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    /// The last minute that was looked at, since the epoch; 0 = none.
    minute: i64,
    /// Times of stamps, ms.
    stamps: BTreeMap<String, i64>,
}

/// A job that matters.
#[derive(Clone, Debug, PartialEq)]
struct Job {
    /// Stays here; what it starts is decided when it is due.
    command: String,
    when: Cron,
    /// `CRON_TZ`, else the machine's.
    zone: Option<TimeZone>,
    path: PathBuf,
}

/// The jobs of all crontabs that can be read.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    jobs: Vec<Job>,
}

/// The folders that wake a look when a timer elapses.
pub(super) fn stamp_folders(root: &Path) -> Vec<PathBuf> {
    STAMPS.iter().map(|folder| root.join(folder)).collect()
}

impl Schedule {
    /// Reads all crontabs anew; other files among them are passed over.
    pub(super) fn read<'p>(&mut self, root: &Path, paths: impl Iterator<Item = &'p Path>) {
        self.jobs.clear();
        for path in paths {
            let Ok(below) = path.strip_prefix(root) else { continue };
            let is_user = below.starts_with("var/spool/cron");
            let is_crontab = is_user || below == Path::new("etc/crontab");
            if !is_crontab && !below.starts_with("etc/cron.d") {
                continue;
            }
            let Ok(bytes) = mark::read(path, FILE_BYTES_MAX) else { continue };
            let jobs = parse_crontab(&String::from_utf8_lossy(&bytes), !is_user, path);
            self.jobs.extend(jobs);
            self.jobs.truncate(JOBS_MAX);
        }
    }

    /// Jobs that started since the last call. Also says whether `seen` is another now.
    pub(super) fn starts(&self, root: &Path, seen: &mut Seen, now: UnixMillis) -> Vec<Change> {
        let minute = now.0.div_euclid(60_000);
        let last = std::mem::replace(&mut seen.minute, minute);
        if last == 0 || minute <= last || self.jobs.is_empty() {
            return Vec::new();
        }
        let system = TimeZone::system();
        let mut changes = Vec::new();
        for minute in (last + 1).max(minute - MINUTES_MAX + 1)..=minute {
            changes.extend(self.starts_at(root, minute, &system));
        }
        changes
    }

    fn starts_at(&self, root: &Path, minute: i64, system: &TimeZone) -> Vec<Change> {
        let Ok(at) = jiff::Timestamp::from_second(minute * 60) else { return Vec::new() };
        let here = at.to_zoned(system.clone()).datetime();
        let mut told = BTreeSet::new();
        for job in &self.jobs {
            let wall = match &job.zone {
                Some(zone) => at.to_zoned(zone.clone()).datetime(),
                None => here,
            };
            if job.when.runs_at(wall) {
                told.extend(program(&job.command, root).map(|name| (name, &job.path)));
            }
        }
        let at = UnixMillis(minute * 60_000);
        let n_more = told.len().saturating_sub(STARTS_MAX);
        let start = |(name, path): (String, &PathBuf)| {
            let path = path.display().to_string();
            let what = format!("{name} is due by schedule ({path})");
            Change { path, ..Change::new("schedule", what, at) }
        };
        let mut changes: Vec<_> = told.into_iter().take(STARTS_MAX).map(start).collect();
        if n_more > 0 {
            let what = format!("{n_more} further jobs are due by schedule");
            changes.push(Change::new("schedule", what, at));
        }
        changes
    }
}

/// Timers that elapsed and anacron jobs that ran since the last call; the first one tells nothing.
pub(super) fn look_at_stamps(root: &Path, seen: &mut Seen, now: UnixMillis) -> Vec<Change> {
    let mut changes = Vec::new();
    for folder in stamp_folders(root) {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.take(STAMPS_MAX).filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let timer = name.strip_prefix("stamp-").filter(|timer| is_timer(timer));
            let Ok(metadata) = entry.metadata() else { continue };
            if !matters(&name) || !metadata.is_file() {
                continue;
            }
            let what = match timer {
                Some(timer) => format!("{timer} elapsed"),
                None => format!("{name} was run by anacron"),
            };
            let at = Facts::of(&metadata).modified_at;
            let known = seen.stamps.insert(name, at);
            if known.is_some_and(|known| known != at) {
                let path = entry.path().display().to_string();
                let at = UnixMillis(at).min(now);
                changes.push(Change { path, ..Change::new("schedule", what, at) });
            }
        }
    }
    changes
}

/// The jobs of a crontab that may matter.
fn parse_crontab(text: &str, has_user: bool, path: &Path) -> Vec<Job> {
    let mut zone = None;
    let mut jobs = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((key, value)) = variable(line) {
            if key == "CRON_TZ" {
                zone = TimeZone::get(value.trim_matches(['"', '\''])).ok();
            }
            continue;
        }
        let mut rest = line;
        let mut next = || {
            let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            rest = after.trim_start();
            word
        };
        let when = if line.starts_with('@') {
            Cron::named(next())
        } else {
            Cron::parse([next(), next(), next(), next(), next()])
        };
        if has_user {
            next();
        }
        let Some(when) = when.filter(|when| when.n_a_day() <= STARTS_A_DAY_MAX) else { continue };
        if rest.contains("wp cron ") || matters(rest) {
            let (command, zone) = (rest.to_owned(), zone.clone());
            jobs.push(Job { command, when, zone, path: path.to_owned() });
        }
    }
    jobs
}

/// `NAME = value`, which stands where a job could.
fn variable(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && key.chars().all(is_name))
        .then_some((key, value.trim()))
}

/// The first program of a command line that matters, of those that it starts here.
fn program(command: &str, root: &Path) -> Option<String> {
    shell::started(command, root).iter().find_map(|words| program_of(words))
}

/// The program of one command; of its arguments only paths count.
fn program_of(words: &[String]) -> Option<String> {
    let whole = words.join(" ");
    if whole.contains("wp-cron.php") || whole.contains("wp cron ") {
        return Some("wp-cron".to_owned());
    }
    let mut is_command = true;
    for word in words {
        let is_assignment = is_command && variable(word).is_some();
        let starts = is_command && !is_assignment;
        // What `nice` and the like run is a command as well.
        let is_wrapper = matches!(word.as_str(), "nice" | "ionice" | "exec" | "sudo");
        if starts && !is_wrapper {
            is_command = false;
        }
        if !starts && !word.starts_with('/') {
            continue;
        }
        let base = word.rsplit('/').next().unwrap_or_default();
        if matters(base) && is_plain(base) {
            return Some(base.to_owned());
        }
    }
    None
}

fn is_timer(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "timer")
}

fn matters(name: &str) -> bool {
    MATTERS.iter().any(|part| name.contains(part))
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+@".contains(c);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_program_that_matters_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for (command, want) in [
            ("/usr/local/bin/backup.sh --all", Some("backup.sh")),
            ("mysqldump -pbackup-secret shop | gzip > /srv/x.gz", Some("mysqldump")),
            ("PASSWORD=backup-secret /usr/bin/restic backup /srv", Some("restic")),
            ("curl -u backup:secret https://a.example/x", None),
            ("curl -s https://a.example/wp-cron.php?key=secret", Some("wp-cron")),
            (
                "test -x /usr/sbin/anacron || { cd / && run-parts --report /etc/cron.daily; }",
                Some("cron.daily"),
            ),
            ("test -x /usr/bin/certbot -a \\! -d /run/systemd/system && certbot -q renew", None),
            ("[ -d /backup ] || mail -s none root", None),
            ("\"/opt/my backup\" now", None),
            ("nice -n 19 rsync -a /a /b", None),
            ("nice rsync -a /a /b", Some("rsync")),
            ("php artisan schedule:run", None),
            ("/x/backup\u{1b}[31m", None),
            ("", None),
        ] {
            assert_eq!(program(command, dir.path()).as_deref(), want, "{command}");
        }
    }

    #[test]
    fn a_crontab_has_variables_users_and_zones() {
        let text = "SHELL=/bin/sh\nCRON_TZ=UTC\n# m h\n25 6 * * * root run-parts /etc/cron.daily\n\
                    @daily root /usr/bin/certbot renew\n*/5 * * * * root /bin/backup\n\
                    bad * * * * root /bin/backup\n17 * * * *\n";
        let jobs = parse_crontab(text, true, Path::new("/etc/crontab"));
        let commands: Vec<_> = jobs.iter().map(|job| job.command.as_str()).collect();
        assert_eq!(commands, ["run-parts /etc/cron.daily", "/usr/bin/certbot renew"]);
        assert_eq!(jobs[0].zone, Some(TimeZone::UTC));
        let own = parse_crontab("0 3 * * * /srv/a/dump.sh", false, Path::new("/x"));
        assert_eq!(own[0].command, "/srv/a/dump.sh");
    }

    #[test]
    fn a_job_is_told_in_the_minute_in_which_it_starts_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/cron.d/night");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = "CRON_TZ=UTC\n30 2 * * * root /opt/backup.sh\n31 2 * * * root mysqldump x\n";
        fs::write(&path, text).unwrap();
        let mut schedule = Schedule::default();
        schedule.read(dir.path(), [path.as_path()].into_iter());
        // 2026-11-20 02:29:58 UTC.
        let start = 1_795_141_798_000;
        let mut seen = Seen::default();
        let mut told = |after_s: i64| -> Vec<(String, i64)> {
            let changes =
                schedule.starts(dir.path(), &mut seen, UnixMillis(start + after_s * 1000));
            let place = format!(" is due by schedule ({})", path.display());
            let first = |what: &str| what.strip_suffix(&*place).unwrap().to_owned();
            changes.iter().map(|c| (first(&c.what), c.at.0 - start)).collect()
        };
        assert!(told(0).is_empty(), "the first look");
        assert_eq!(told(2), [("backup.sh".to_owned(), 2000)]);
        assert!(told(4).is_empty());
        // The machine was suspended for a while.
        assert_eq!(told(150), [("mysqldump".to_owned(), 62_000)]);
        assert!(told(40_000).is_empty());
    }

    #[test]
    fn timers_and_anacron_leave_stamps() {
        let dir = tempfile::tempdir().unwrap();
        let timers = dir.path().join("var/lib/systemd/timers");
        fs::create_dir_all(&timers).unwrap();
        let (stamp, other) = (timers.join("stamp-logrotate.timer"), timers.join("stamp-x.timer"));
        let set = |path: &Path, second: u64| {
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(second);
            fs::File::create(path).unwrap().set_modified(at).unwrap();
        };
        let mut seen = Seen::default();
        let mut told = || -> Vec<(String, i64)> {
            let changes = look_at_stamps(dir.path(), &mut seen, UnixMillis(100_000));
            changes.into_iter().map(|change| (change.what, change.at.0)).collect()
        };
        set(&stamp, 50);
        assert!(told().is_empty(), "the first look");
        set(&stamp, 60);
        set(&other, 60);
        assert_eq!(told(), [("logrotate.timer elapsed".to_owned(), 60_000)]);
        assert!(told().is_empty());
    }
}
