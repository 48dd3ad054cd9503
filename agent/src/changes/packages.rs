//! Packages installed, upgraded and removed, from the package managers' own logs.
//!
//! One log is read per package manager: dpkg's own (apt's history says the same and is read only
//! where dpkg keeps none), dnf's, yum's, zypper's, pacman's and apk's. Where rpm alone was run, no log
//! tells; then the time of its database does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::added::{Mark, read_added};
use super::mark::Facts;
use super::package_lines::{self as lines, Parse, Reading, Scratch};
use super::refused::Refused;
use crate::window::Change;

/// A change of rpm's database belongs to the packages that a log tells this close to it, ms.
const RPM_SPAN_MS: i64 = 60_000;

/// The logs in order; of one group the first that is there is read.
const LOGS: [(&str, &str, Parse); 8] = [
    ("debian", "var/log/dpkg.log", lines::parse_dpkg),
    ("debian", "var/log/apt/history.log", lines::parse_apt),
    ("dnf", "var/log/dnf.rpm.log", lines::parse_dnf),
    ("dnf5", "var/log/dnf5.log", lines::parse_dnf5),
    ("yum", "var/log/yum.log", lines::parse_yum),
    ("zypper", "var/log/zypp/history", lines::parse_zypper),
    ("pacman", "var/log/pacman.log", lines::parse_pacman),
    ("apk", "var/log/apk.log", lines::parse_apk),
];

/// Databases of rpm, of old and new releases.
const DATABASES: [&str; 6] = [
    "var/lib/rpm/Packages",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/rpmdb.sqlite",
    "usr/lib/sysimage/rpm/Packages",
    "usr/lib/sysimage/rpm/Packages.db",
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
];

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    logs: BTreeMap<PathBuf, (Mark, Scratch)>,
    /// Modification times of rpm's databases, ms.
    databases: BTreeMap<PathBuf, i64>,
    /// A change of a database that no log has told yet, ms; 0 = none.
    untold_at: i64,
    /// Time of the last package that a log told, ms.
    told_at: i64,
}

/// Reads what was added to each log since the last look. The first look at a log tells nothing. Also
/// says whether `seen` is another now.
pub(super) fn look(
    root: &Path,
    seen: &mut Seen,
    refused: &mut Refused,
    now: UnixMillis,
) -> (Vec<Change>, bool) {
    let mut changes = Vec::new();
    let mut is_moved = false;
    let mut group_read = "";
    for (group, path, parse) in LOGS {
        let path = root.join(path);
        if group == group_read {
            continue;
        }
        let known = seen.logs.get(&path);
        match read_added(&path, known.map(|(mark, _)| *mark)) {
            Ok((mark, text)) => {
                group_read = group;
                if known.is_some_and(|(known, _)| *known == mark) {
                    continue;
                }
                is_moved = true;
                let mut scratch = known.map(|(_, scratch)| scratch.clone()).unwrap_or_default();
                // The zone is read anew: it may have been set.
                let reading = Reading { zone: &TimeZone::system(), now };
                let all = text.lines();
                let told: Vec<_> =
                    all.flat_map(|line| parse(line, &reading, &mut scratch)).collect();
                for (at, what) in lines::join(&told) {
                    let at = at.min(now);
                    seen.told_at = seen.told_at.max(at.0);
                    changes.push(Change::new("package", what, at));
                }
                seen.logs.insert(path, (mark, scratch));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Between rename and re-creation of a rotation: the new file is read from its start.
                if let Some((mark, _)) = seen.logs.get_mut(&path) {
                    is_moved |= *mark != Mark::rotated();
                    *mark = Mark::rotated();
                    group_read = group;
                }
            }
            Err(error) => refused.say(&path, &error, "packages that it names are"),
        }
    }
    is_moved |= look_at_databases(root, seen, now, &mut changes);
    (changes, is_moved)
}

/// A database that was written although no log told a package close to it.
fn look_at_databases(
    root: &Path,
    seen: &mut Seen,
    now: UnixMillis,
    changes: &mut Vec<Change>,
) -> bool {
    let mut is_moved = false;
    for path in DATABASES {
        let path = root.join(path);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let at = Facts::of(&metadata).modified_at;
        match seen.databases.get(&path) {
            Some(known) if *known == at => continue,
            Some(_) => seen.untold_at = at.min(now.0),
            None => {}
        }
        is_moved = true;
        seen.databases.insert(path, at);
    }
    if seen.untold_at != 0 && now.0 - seen.untold_at >= RPM_SPAN_MS {
        let at = std::mem::take(&mut seen.untold_at);
        is_moved = true;
        if (seen.told_at - at).abs() > RPM_SPAN_MS {
            let what = "packages changed (rpm database written)".to_owned();
            changes.push(Change::new("package", what, UnixMillis(at)));
        }
    }
    is_moved
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn told(root: &Path, seen: &mut Seen) -> Vec<String> {
        let refused = &mut Refused::default();
        look(root, seen, refused, clock::now()).0.into_iter().map(|change| change.what).collect()
    }

    #[test]
    fn a_log_is_read_from_its_end_then_by_whole_lines_through_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("var/log/dpkg.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        let line = |name: &str| format!("2026-11-20 14:00:00 install {name}:all <none> 1\n");
        let mut seen = Seen::default();
        let mut read = || told(dir.path(), &mut seen);
        assert!(read().is_empty(), "no log yet");
        fs::write(&log, line("before")).unwrap();
        assert!(read().is_empty(), "what happened before the first look is no news");
        let half = line("b");
        fs::write(&log, line("before") + &line("a") + &half[..20]).unwrap();
        assert_eq!(read(), ["a 1 installed"]);
        fs::write(&log, line("before") + &line("a") + &half).unwrap();
        assert_eq!(read(), ["b 1 installed"]);
        fs::rename(&log, log.with_extension("log.1")).unwrap();
        assert!(read().is_empty());
        fs::write(&log, line("c")).unwrap();
        assert_eq!(read(), ["c 1 installed"]);
        fs::write(&log, &line("d")[..10]).unwrap(); // shrunk in place
        assert!(read().is_empty());
        fs::write(&log, line("d")).unwrap();
        assert_eq!(read(), ["d 1 installed"]);
    }

    #[test]
    fn apt_history_is_read_only_where_dpkg_keeps_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let apt = dir.path().join("var/log/apt/history.log");
        fs::create_dir_all(apt.parent().unwrap()).unwrap();
        fs::write(&apt, "").unwrap();
        let mut seen = Seen::default();
        told(dir.path(), &mut seen);
        fs::write(&apt, "Start-Date: 2026-11-20  14:46:50\nUpgrade: a:all (1, 2)\n").unwrap();
        assert_eq!(told(dir.path(), &mut seen), ["a 1 to 2"]);
        fs::write(dir.path().join("var/log/dpkg.log"), "").unwrap();
        fs::write(&apt, "Upgrade: a:all (1, 2)\nUpgrade: b:all (1, 2)\nUpgrade: c:all (1, 2)\n")
            .unwrap();
        assert!(told(dir.path(), &mut seen).is_empty());
    }

    #[test]
    fn a_database_of_rpm_tells_what_no_log_does() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("var/lib/rpm/rpmdb.sqlite");
        let log = dir.path().join("var/log/yum.log");
        for path in [&database, &log] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut seen = Seen::default();
        let start = clock::now().0;
        let set = |at_ms: i64| {
            let file = fs::File::options().write(true).open(&database).unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at_ms as u64);
            file.set_modified(at).unwrap();
        };
        let mut look_at = |now: i64| -> Vec<(String, i64)> {
            let (changes, _) =
                look(dir.path(), &mut seen, &mut Refused::default(), UnixMillis(now));
            changes.into_iter().map(|change| (change.what, change.at.0)).collect()
        };
        let written = |at| vec![("packages changed (rpm database written)".to_owned(), at)];
        assert!(look_at(start).is_empty(), "the first look");
        set(start + 1000);
        assert!(look_at(start + 2000).is_empty(), "a log may tell it yet");
        assert_eq!(look_at(start + 61_000), written(start + 1000));
        assert!(look_at(start + 63_000).is_empty(), "told once");
        // A log told it.
        set(start + 100_000);
        let at = jiff::Timestamp::from_millisecond(start + 101_000).unwrap();
        let at = at.to_zoned(TimeZone::system()).strftime("%b %e %H:%M:%S").to_string();
        fs::write(&log, format!("{at} Updated: nginx-1.20.1-1.el7.x86_64\n")).unwrap();
        assert_eq!(look_at(start + 102_000)[0].0, "nginx 1.20.1-1.el7 upgraded");
        assert!(look_at(start + 170_000).is_empty());
    }
}
