//! Packages installed, upgraded and removed, from the package managers' own logs.
//!
//! One log is read per package manager: dpkg's own (apt's history says the same and is read only
//! where dpkg keeps none), dnf's, zypper's and pacman's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::clock;
use crate::window::Change;

/// Read at most this much of a log in one look; the rest follows in the next.
const READ_BYTES_MAX: u64 = 1 << 20;

/// How far one log was read, and which file that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    inode: u64,
    offset: u64,
    /// The last `Start-Date` of apt's history, in ms: its entries span several lines.
    started_at: i64,
}

/// Turns one line into a change; `started_at` is the scratch of a format with several lines an entry.
type Parse = fn(line: &str, zone: &TimeZone, started_at: &mut i64) -> Vec<(UnixMillis, String)>;

/// The logs in order; of one group the first that is there is read.
const LOGS: [(&str, &str, Parse); 6] = [
    ("debian", "var/log/dpkg.log", parse_dpkg),
    ("debian", "var/log/apt/history.log", parse_apt),
    ("dnf", "var/log/dnf.rpm.log", parse_dnf),
    ("zypper", "var/log/zypp/history", parse_zypper),
    ("pacman", "var/log/pacman.log", parse_pacman),
    ("apk", "var/log/apk.log", parse_apk),
];

/// Reads what was added to each log since the last look. The first look at a log tells nothing.
pub(super) fn look(root: &Path, marks: &mut BTreeMap<PathBuf, Mark>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut group_read = "";
    let zone = TimeZone::system();
    for (group, path, parse) in LOGS {
        let path = root.join(path);
        if group == group_read {
            continue;
        }
        let known = marks.get(&path).copied();
        match read_new(&path, known) {
            Ok((mut mark, text)) => {
                group_read = group;
                for line in text.lines() {
                    let found = parse(line, &zone, &mut mark.started_at);
                    changes.extend(found.into_iter().map(|(at, what)| change(at, what)));
                }
                marks.insert(path, mark);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Between rename and re-creation of a rotation: the new file is read from its start.
                if let Some(mark) = marks.get_mut(&path) {
                    *mark = Mark::default();
                    group_read = group;
                }
            }
            // Told by discovery, with its fix, when it matters; here it is only no news.
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read package log");
            }
        }
    }
    changes
}

fn change(at: UnixMillis, what: String) -> Change {
    Change { kind: "package", what, site: None, pool: None, at }
}

/// The whole lines after `known`; none on the first look. A replaced or shrunk file is read from its
/// start.
fn read_new(path: &Path, known: Option<Mark>) -> io::Result<(Mark, String)> {
    let metadata = std::fs::metadata(path)?;
    let (inode, size) = (metadata.ino(), metadata.len());
    let Some(known) = known else {
        return Ok((Mark { inode, offset: size, started_at: 0 }, String::new()));
    };
    let mut mark = known;
    if known.inode != inode || known.offset > size {
        mark = Mark { inode, offset: 0, started_at: 0 };
    }
    if mark.offset == size {
        return Ok((mark, String::new()));
    }
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(mark.offset))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => end + 1,
        // One line of a megabyte is no package log: step over it.
        None if bytes.len() as u64 == READ_BYTES_MAX => bytes.len(),
        None => 0,
    };
    mark.offset += whole as u64;
    Ok((mark, String::from_utf8_lossy(&bytes[..whole]).into_owned()))
}

/// `php8.2-fpm 8.2.7 to 8.2.29`, `nginx 1.22 installed`, `nginx 1.22 removed`.
fn describe(package: &str, old: Option<&str>, new: Option<&str>) -> Option<String> {
    // The architecture adds nothing.
    let package = package.split(':').next().filter(|name| !name.is_empty())?;
    Some(match (old, new) {
        (Some(old), Some(new)) if old == new => format!("{package} {new} reinstalled"),
        (Some(old), Some(new)) => format!("{package} {old} to {new}"),
        (None, Some(new)) => format!("{package} {new} installed"),
        (Some(old), None) => format!("{package} {old} removed"),
        (None, None) => return None,
    })
}

fn one(at: Option<UnixMillis>, what: Option<String>) -> Vec<(UnixMillis, String)> {
    what.map(|what| (at.unwrap_or_else(clock::now), what)).into_iter().collect()
}

/// A wall-clock time of the server, `2026-11-20 14:47:36`.
fn wall(date: &str, time: &str, zone: &TimeZone) -> Option<UnixMillis> {
    let at: civil::DateTime = format!("{date}T{time}").parse().ok()?;
    let at = zone.to_ambiguous_zoned(at).compatible().ok()?;
    Some(UnixMillis(at.timestamp().as_millisecond()))
}

/// A time with its offset, `2026-11-20T14:47:36+0100`.
fn with_offset(text: &str) -> Option<UnixMillis> {
    let at = jiff::fmt::strtime::parse("%Y-%m-%dT%H:%M:%S%z", text).ok()?.to_timestamp().ok()?;
    Some(UnixMillis(at.as_millisecond()))
}

fn version(text: &str) -> Option<&str> {
    (text != "<none>" && !text.is_empty()).then_some(text)
}

/// `2026-11-20 14:47:36 upgrade php8.2-fpm:amd64 8.2.7 8.2.29`
fn parse_dpkg(line: &str, zone: &TimeZone, _: &mut i64) -> Vec<(UnixMillis, String)> {
    let words: Vec<&str> = line.split(' ').collect();
    let [date, time, action @ ("install" | "upgrade" | "remove" | "purge"), package, old, new] =
        words[..]
    else {
        return Vec::new();
    };
    // A purge follows its removal; of one that was removed before only settings go.
    if action == "purge" {
        return Vec::new();
    }
    let new = version(new).filter(|_| action != "remove");
    one(wall(date, time, zone), describe(package, version(old), new))
}

/// `Start-Date: 2026-11-20  14:46:50`, then `Upgrade: a:amd64 (1, 2), b:amd64 (3, 4)`.
fn parse_apt(line: &str, zone: &TimeZone, started_at: &mut i64) -> Vec<(UnixMillis, String)> {
    let Some((key, value)) = line.split_once(": ") else { return Vec::new() };
    if key == "Start-Date" {
        let at = value.split_once("  ").and_then(|(date, time)| wall(date, time.trim(), zone));
        *started_at = at.map_or(0, |at| at.0);
        return Vec::new();
    }
    let removes = matches!(key, "Remove" | "Purge");
    if !removes && !matches!(key, "Install" | "Upgrade" | "Downgrade" | "Reinstall") {
        return Vec::new();
    }
    let at = if *started_at == 0 { clock::now() } else { UnixMillis(*started_at) };
    let entries = value.split("),").filter_map(|entry| {
        let (package, versions) = entry.trim().trim_end_matches(')').split_once(" (")?;
        let mut versions = versions.split(", ").filter(|word| *word != "automatic");
        let (first, second) = (versions.next(), versions.next());
        let what = match second {
            Some(new) => describe(package, first, Some(new)),
            None if removes => describe(package, first, None),
            None => describe(package, None, first),
        };
        what.map(|what| (at, what))
    });
    entries.collect()
}

/// `2026-11-20T14:47:36+0100 SUBDEBUG Upgrade: nginx-1:1.20.1-14.el9.x86_64`; `Upgraded:` names what
/// was replaced and follows.
fn parse_dnf(line: &str, _: &TimeZone, _: &mut i64) -> Vec<(UnixMillis, String)> {
    let mut words = line.split_ascii_whitespace();
    let (Some(time), Some(_level), Some(action), Some(package)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Vec::new();
    };
    let verb = match action {
        "Installed:" | "Install:" => "installed",
        "Upgrade:" => "upgraded",
        "Downgrade:" => "downgraded",
        "Reinstall:" => "reinstalled",
        "Erase:" | "Removed:" => "removed",
        _ => return Vec::new(),
    };
    let package = package.rsplit_once('.').map_or(package, |(name, _arch)| name);
    one(with_offset(time), Some(format!("{package} {verb}")))
}

/// `2026-11-20 14:47:36|install|nginx|1.21.5-1.1|x86_64||repo|checksum|`
fn parse_zypper(line: &str, zone: &TimeZone, _: &mut i64) -> Vec<(UnixMillis, String)> {
    let words: Vec<&str> = line.split('|').collect();
    let [at, action, package, new, ..] = words[..] else { return Vec::new() };
    let at = at.split_once(' ').and_then(|(date, time)| wall(date, time, zone));
    match action.trim() {
        "install" => one(at, describe(package, None, version(new))),
        "remove" => one(at, describe(package, version(new), None)),
        _ => Vec::new(),
    }
}

/// `[2026-11-20T14:47:36+0100] [ALPM] upgraded nginx (1.24.0-1 -> 1.26.0-1)`
fn parse_pacman(line: &str, _: &TimeZone, _: &mut i64) -> Vec<(UnixMillis, String)> {
    let Some((at, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] [ALPM] "))
    else {
        return Vec::new();
    };
    let words: Vec<&str> = rest.splitn(3, ' ').collect();
    let [action, package, versions] = words[..] else { return Vec::new() };
    let versions = versions.trim_matches(['(', ')']);
    let what = match action {
        "installed" => describe(package, None, Some(versions)),
        "removed" => describe(package, Some(versions), None),
        "upgraded" | "downgraded" | "reinstalled" => {
            let (old, new) = versions.split_once(" -> ").unwrap_or((versions, versions));
            describe(package, Some(old), Some(new))
        }
        _ => None,
    };
    one(with_offset(at), what)
}

/// `(1/3) Upgrading nginx (1.24.0-r0 -> 1.26.0-r0)`; without a time, so it happened just now.
fn parse_apk(line: &str, _: &TimeZone, _: &mut i64) -> Vec<(UnixMillis, String)> {
    let Some((_, rest)) = line.strip_prefix('(').and_then(|rest| rest.split_once(") ")) else {
        return Vec::new();
    };
    let words: Vec<&str> = rest.splitn(3, ' ').collect();
    let [action, package, versions] = words[..] else { return Vec::new() };
    let versions = versions.trim_matches(['(', ')']);
    let what = match action {
        "Installing" => describe(package, None, Some(versions)),
        "Purging" => describe(package, Some(versions), None),
        "Upgrading" | "Downgrading" => versions
            .split_once(" -> ")
            .and_then(|(old, new)| describe(package, Some(old), Some(new))),
        _ => None,
    };
    one(None, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Checks text and time (UTC); `""` means that the line is no change.
    fn check(parse: Parse, line: &str, want: &str) {
        let mut started_at = 1000;
        let found = parse(line, &TimeZone::UTC, &mut started_at);
        let found: Vec<_> = found.iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(found.join("; "), want, "{line}");
    }

    #[test]
    fn dpkg_tells_installs_upgrades_and_removals() {
        let check = |line, want| check(parse_dpkg, line, want);
        check(
            "2026-11-20 14:47:36 upgrade php8.2-fpm:amd64 8.2.7 8.2.29",
            "php8.2-fpm 8.2.7 to 8.2.29",
        );
        check(
            "2016-08-06 17:35:39 install base-passwd:amd64 <none> 3.5.33",
            "base-passwd 3.5.33 installed",
        );
        check("2026-11-20 14:47:36 remove nginx:amd64 1.22 <none>", "nginx 1.22 removed");
        check("2026-11-20 14:47:36 upgrade nginx:amd64 1.22 1.22", "nginx 1.22 reinstalled");
        check("2026-11-20 14:47:36 install was-here:all 1 2", "was-here 1 to 2");
        check("2026-11-20 14:47:36 purge nginx:amd64 1.22 <none>", "");
        check("2026-11-20 14:47:36 status installed dbus:amd64 1.14.10-1~deb12u1", "");
        check("2016-08-03 15:25:53 startup archives install", "");
        check("2009-02-25 11:45:23 conffile /etc/X11/Xsession keep", "");
        check("garbage \u{fffd}", "");
        check("", "");
    }

    #[test]
    fn apt_history_names_several_packages_in_a_line() {
        let check = |line, want| check(parse_apt, line, want);
        check(
            "Upgrade: libperl5.36:amd64 (5.36.0-7+deb12u2, 5.36.0-7+deb12u4), perl:amd64 (1, 2)",
            "libperl5.36 5.36.0-7+deb12u2 to 5.36.0-7+deb12u4; perl 1 to 2",
        );
        check(
            "Install: libaio1:amd64 (0.3.113-4, automatic), nginx:amd64 (1.22.1-9)",
            "libaio1 0.3.113-4 installed; nginx 1.22.1-9 installed",
        );
        check("Remove: nginx:amd64 (1.22.1-9)", "nginx 1.22.1-9 removed");
        check("Commandline: apt-get upgrade", "");
        check("Install: broken", "");
    }

    #[test]
    fn other_package_managers_are_understood() {
        check(
            parse_dnf,
            "2026-11-20T14:47:36+0100 SUBDEBUG Upgrade: nginx-1:1.20.1-14.el9.x86_64",
            "nginx-1:1.20.1-14.el9 upgraded",
        );
        check(
            parse_dnf,
            "2026-11-20T14:47:36+0100 SUBDEBUG Upgraded: nginx-1:1.20.1-13.el9.x86_64",
            "",
        );
        check(parse_dnf, "2026-11-20T14:47:36+0100 INFO --- logging initialized ---", "");
        check(
            parse_zypper,
            "2026-11-20 14:47:36|install|nginx|1.21.5-1.1|x86_64||repo|sum|",
            "nginx 1.21.5-1.1 installed",
        );
        check(parse_zypper, "2026-11-20 14:47:36|command|root@a|'zypper' 'up'|", "");
        check(
            parse_pacman,
            "[2026-11-20T14:47:36+0100] [ALPM] upgraded nginx (1.24.0-1 -> 1.26.0-1)",
            "nginx 1.24.0-1 to 1.26.0-1",
        );
        check(parse_pacman, "[2026-11-20T14:47:36+0100] [ALPM] transaction started", "");
        check(
            parse_apk,
            "(1/3) Upgrading nginx (1.24.0-r0 -> 1.26.0-r0)",
            "nginx 1.24.0-r0 to 1.26.0-r0",
        );
        check(parse_apk, "OK: 10 MiB in 20 packages", "");
    }

    #[test]
    fn times_are_those_of_the_server_or_carry_their_offset() {
        let berlin = TimeZone::posix("CET-1").expect("a POSIX zone");
        assert_eq!(wall("1970-01-01", "01:00:05", &berlin), Some(UnixMillis(5000)));
        assert_eq!(with_offset("1970-01-01T01:00:05+0100"), Some(UnixMillis(5000)));
        assert_eq!(wall("1970-13-01", "01:00:05", &berlin), None);
        let mut started_at = 0;
        parse_apt("Start-Date: 1970-01-01  00:00:07", &TimeZone::UTC, &mut started_at);
        let found = parse_apt("Upgrade: a:all (1, 2)", &TimeZone::UTC, &mut started_at);
        assert_eq!(found, [(UnixMillis(7000), "a 1 to 2".to_owned())]);
    }

    #[test]
    fn a_log_is_read_from_its_end_then_by_whole_lines_through_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("var/log/dpkg.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        let line = |name: &str| format!("2026-11-20 14:00:00 install {name}:all <none> 1\n");
        let mut marks = BTreeMap::new();
        let mut read = || -> Vec<String> {
            look(dir.path(), &mut marks).into_iter().map(|change| change.what).collect()
        };
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
        let mut marks = BTreeMap::new();
        look(dir.path(), &mut marks);
        fs::write(&apt, "Start-Date: 2026-11-20  14:46:50\nUpgrade: a:all (1, 2)\n").unwrap();
        assert_eq!(look(dir.path(), &mut marks).len(), 1);
        fs::write(dir.path().join("var/log/dpkg.log"), "").unwrap();
        fs::write(&apt, "Upgrade: a:all (1, 2)\nUpgrade: b:all (1, 2)\nUpgrade: c:all (1, 2)\n")
            .unwrap();
        assert!(look(dir.path(), &mut marks).is_empty());
    }
}
