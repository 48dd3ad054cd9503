//! Lines of package managers' logs -> packages; pure.

use jiff::civil;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

/// Names of one transaction that are remembered.
const NAMES_MAX: usize = 5_000;
const ARCHITECTURES: [&str; 10] = [
    "x86_64", "noarch", "aarch64", "i686", "i586", "i386", "ppc64le", "s390x", "armv7hl", "riscv64",
];

/// What lines before said, of a format with several lines an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Scratch {
    /// The last `Start-Date` of apt's history, ms.
    started_at: i64,
    /// What dnf 5 has installed in this transaction: it removes what was there before later on.
    installed: Vec<String>,
}

/// Where and when lines are read.
pub(super) struct Reading<'z> {
    /// Of times without offset.
    pub(super) zone: &'z TimeZone,
    /// Of lines without a time.
    pub(super) now: UnixMillis,
}

/// What a line says of one package.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    at: UnixMillis,
    package: String,
    step: Step,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// All there is to say: `8.2.7 to 8.2.29`.
    Whole(String),
    /// A version came, by this verb; the one it replaces may be in another line.
    Came(String, &'static str),
    /// A version went; alone it is a removal, or only the end of what was told before.
    Went { version: String, is_removal: bool },
}

/// Turns one line into what it says.
pub(super) type Parse = fn(&str, &Reading<'_>, &mut Scratch) -> Vec<Told>;

/// Joins lines that speak of one package: `nginx 1.20 to 1.22`.
pub(super) fn join(told: &[Told]) -> Vec<(UnixMillis, String)> {
    let mut changes = Vec::new();
    let mut is_used = vec![false; told.len()];
    for (ix, Told { at, package, step }) in told.iter().enumerate() {
        let what = match step {
            Step::Whole(what) => what.clone(),
            Step::Came(new, verb) => {
                let went = |(at, other): (usize, &Told)| match &other.step {
                    Step::Went { version, .. } if other.package == *package && !is_used[at] => {
                        Some((at, version.clone()))
                    }
                    _ => None,
                };
                match told.iter().enumerate().find_map(went) {
                    Some((at, old)) => {
                        is_used[at] = true;
                        if old == *new {
                            format!("{new} reinstalled")
                        } else {
                            format!("{old} to {new}")
                        }
                    }
                    None => format!("{new} {verb}"),
                }
            }
            Step::Went { .. } => continue,
        };
        changes.push((ix, *at, format!("{package} {what}")));
    }
    for (ix, Told { at, package, step }) in told.iter().enumerate() {
        if let Step::Went { version, is_removal: true } = step
            && !is_used[ix]
        {
            let version = if version.is_empty() { String::new() } else { format!(" {version}") };
            changes.push((ix, *at, format!("{package}{version} removed")));
        }
    }
    changes.sort_by_key(|(ix, ..)| *ix);
    changes.into_iter().map(|(_, at, what)| (at, what)).collect()
}

/// `8.2.7 to 8.2.29`, `1.22 installed`, `1.22 removed`.
fn whole(at: UnixMillis, package: &str, old: Option<&str>, new: Option<&str>) -> Option<Told> {
    // The architecture adds nothing.
    let package = package.split(':').next().filter(|name| !name.is_empty())?;
    let what = match (old, new) {
        (Some(old), Some(new)) if old == new => format!("{new} reinstalled"),
        (Some(old), Some(new)) => format!("{old} to {new}"),
        (None, Some(new)) => format!("{new} installed"),
        (Some(old), None) => format!("{old} removed"),
        (None, None) => return None,
    };
    Some(Told { at, package: package.to_owned(), step: Step::Whole(what) })
}

fn one(told: Option<Told>) -> Vec<Told> {
    told.into_iter().collect()
}

/// A wall-clock time of the server, `2026-11-20 14:47:36`.
pub(super) fn wall(date: &str, time: &str, zone: &TimeZone) -> Option<UnixMillis> {
    let at: civil::DateTime = format!("{date}T{time}").parse().ok()?;
    let at = zone.to_ambiguous_zoned(at).compatible().ok()?;
    Some(UnixMillis(at.timestamp().as_millisecond()))
}

/// A time with its offset, `2026-11-20T14:47:36+0100`; dnf of EL 8.0 to 8.3 writes `Z` instead.
fn with_offset(text: &str) -> Option<UnixMillis> {
    if let Some((date, time)) = text.strip_suffix('Z').and_then(|text| text.split_once('T')) {
        return wall(date, time, &TimeZone::UTC);
    }
    let at = jiff::fmt::strtime::parse("%Y-%m-%dT%H:%M:%S%z", text).ok()?.to_timestamp().ok()?;
    Some(UnixMillis(at.as_millisecond()))
}

/// `Nov 20 14:47:36`, of this year or of the last one: logs tell the past.
pub(super) fn without_year(text: &str, reading: &Reading<'_>) -> Option<UnixMillis> {
    const DAY_MS: i64 = 86_400_000;
    let now = jiff::Timestamp::from_millisecond(reading.now.0).ok()?;
    let year = now.to_zoned(reading.zone.clone()).year();
    let of = |year: i16| {
        let at = jiff::fmt::strtime::parse("%Y %b %d %H:%M:%S", format!("{year} {text}")).ok()?;
        let at = reading.zone.to_ambiguous_zoned(at.to_datetime().ok()?).compatible().ok()?;
        Some(UnixMillis(at.timestamp().as_millisecond()))
    };
    of(year).filter(|at| at.0 <= reading.now.0 + DAY_MS).or_else(|| of(year - 1))
}

fn version(text: &str) -> Option<&str> {
    (text != "<none>" && !text.is_empty()).then_some(text)
}

/// `nginx-1:1.20.1-14.el9.x86_64` and `1:nginx-1.20.1-14.el9.x86_64` -> name and version.
fn name_and_version(text: &str) -> (String, String) {
    let text = match text.rsplit_once('.') {
        Some((rest, architecture)) if ARCHITECTURES.contains(&architecture) => rest,
        _ => text,
    };
    let is_epoch = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let (epoch, text) = match text.split_once(':') {
        Some((epoch, rest)) if is_epoch(epoch) => (epoch, rest),
        _ => ("0", text),
    };
    let mut parts = text.rsplitn(3, '-');
    let (Some(release), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next())
    else {
        return (text.to_owned(), String::new());
    };
    let version = version.strip_prefix("0:").unwrap_or(version);
    let epoch = if epoch == "0" { String::new() } else { format!("{epoch}:") };
    (name.to_owned(), format!("{epoch}{version}-{release}"))
}

fn rpm(at: UnixMillis, package: &str, step: impl FnOnce(String) -> Step) -> Vec<Told> {
    let (package, version) = name_and_version(package);
    vec![Told { at, package, step: step(version) }]
}

/// `2026-11-20 14:47:36 upgrade php8.2-fpm:amd64 8.2.7 8.2.29`
pub(super) fn parse_dpkg(line: &str, reading: &Reading<'_>, _: &mut Scratch) -> Vec<Told> {
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
    let at = wall(date, time, reading.zone).unwrap_or(reading.now);
    one(whole(at, package, version(old), new))
}

/// `Start-Date: 2026-11-20  14:46:50`, then `Upgrade: a:amd64 (1, 2), b:amd64 (3, 4)`.
pub(super) fn parse_apt(line: &str, reading: &Reading<'_>, scratch: &mut Scratch) -> Vec<Told> {
    let Some((key, value)) = line.split_once(": ") else { return Vec::new() };
    if key == "Start-Date" {
        let at = value.split_once("  ");
        let at = at.and_then(|(date, time)| wall(date, time.trim(), reading.zone));
        scratch.started_at = at.map_or(0, |at| at.0);
        return Vec::new();
    }
    let removes = matches!(key, "Remove" | "Purge");
    if !removes && !matches!(key, "Install" | "Upgrade" | "Downgrade" | "Reinstall") {
        return Vec::new();
    }
    let at = if scratch.started_at == 0 { reading.now } else { UnixMillis(scratch.started_at) };
    let entries = value.split("),").filter_map(|entry| {
        let (package, versions) = entry.trim().trim_end_matches(')').split_once(" (")?;
        let mut versions = versions.split(", ").filter(|word| *word != "automatic");
        let (first, second) = (versions.next(), versions.next());
        match second {
            Some(new) => whole(at, package, first, Some(new)),
            None if removes => whole(at, package, first, None),
            None => whole(at, package, None, first),
        }
    });
    entries.collect()
}

/// `2026-11-20T14:47:36+0100 SUBDEBUG Upgrade: nginx-1:1.20.1-14.el9.x86_64`; `Upgraded:` names what
/// was replaced and follows.
pub(super) fn parse_dnf(line: &str, _: &Reading<'_>, _: &mut Scratch) -> Vec<Told> {
    let mut words = line.split_ascii_whitespace();
    let (Some(time), Some(_level), Some(action), Some(package)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Vec::new();
    };
    let Some(at) = with_offset(time) else { return Vec::new() };
    let went = |is_removal| move |version| Step::Went { version, is_removal };
    match action {
        "Installed:" | "Install:" => rpm(at, package, |v| Step::Came(v, "installed")),
        "Upgrade:" => rpm(at, package, |v| Step::Came(v, "upgraded")),
        "Downgrade:" => rpm(at, package, |v| Step::Came(v, "downgraded")),
        "Reinstall:" => rpm(at, package, |v| Step::Came(v, "reinstalled")),
        "Upgraded:" | "Downgraded:" | "Reinstalled:" => rpm(at, package, went(false)),
        "Erase:" | "Removed:" | "Obsoleted:" => rpm(at, package, went(true)),
        _ => Vec::new(),
    }
}

/// `2026-11-20T14:47:36+0000 [18165] INFO RPM callback install start "nginx-1:1.24.0-1.fc40.x86_64"
/// total 9084`; an upgrade installs the new version and uninstalls the old one later.
pub(super) fn parse_dnf5(line: &str, _: &Reading<'_>, scratch: &mut Scratch) -> Vec<Told> {
    let Some((start, rest)) = line.split_once(" INFO RPM callback ") else { return Vec::new() };
    if rest.starts_with("transaction start") {
        scratch.installed.clear();
        return Vec::new();
    }
    let at = start.split(' ').next().and_then(with_offset);
    let package = || rest.split('"').nth(1).filter(|package| !package.is_empty());
    let (Some(at), Some(package)) = (at, package()) else { return Vec::new() };
    if rest.starts_with("install start ") {
        let told = rpm(at, package, |v| Step::Came(v, "installed"));
        if scratch.installed.len() < NAMES_MAX {
            scratch.installed.extend(told.iter().map(|told| told.package.clone()));
        }
        return told;
    }
    if rest.starts_with("uninstall start ") {
        let name = name_and_version(package).0;
        let is_removal = !scratch.installed.contains(&name);
        return rpm(at, package, |version| Step::Went { version, is_removal });
    }
    Vec::new()
}

/// `Nov 20 14:47:36 Updated: 1:nginx-1.20.1-1.el7.x86_64`
pub(super) fn parse_yum(line: &str, reading: &Reading<'_>, _: &mut Scratch) -> Vec<Told> {
    let Some((time, rest)) = line.split_at_checked(15) else { return Vec::new() };
    let Some((action, package)) = rest.trim_start().split_once(": ") else { return Vec::new() };
    let verb = match action {
        "Installed" | "Dep-Installed" => "installed",
        "Updated" => "upgraded",
        "Downgraded" => "downgraded",
        "Reinstalled" => "reinstalled",
        "Erased" | "Obsoleted" => "",
        _ => return Vec::new(),
    };
    let Some(at) = without_year(time, reading) else { return Vec::new() };
    rpm(at, package.trim(), |version| match verb {
        "" => Step::Went { version, is_removal: true },
        verb => Step::Came(version, verb),
    })
}

/// `2026-11-20 14:47:36|install|nginx|1.21.5-1.1|x86_64||repo|checksum|`
pub(super) fn parse_zypper(line: &str, reading: &Reading<'_>, _: &mut Scratch) -> Vec<Told> {
    let words: Vec<&str> = line.split('|').collect();
    let [at, action, package, new, ..] = words[..] else { return Vec::new() };
    let at = at.split_once(' ').and_then(|(date, time)| wall(date, time, reading.zone));
    let at = at.unwrap_or(reading.now);
    match action.trim() {
        "install" => one(whole(at, package, None, version(new))),
        "remove" => one(whole(at, package, version(new), None)),
        _ => Vec::new(),
    }
}

/// `[2026-11-20T14:47:36+0100] [ALPM] upgraded nginx (1.24.0-1 -> 1.26.0-1)`
pub(super) fn parse_pacman(line: &str, reading: &Reading<'_>, _: &mut Scratch) -> Vec<Told> {
    let Some((at, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] [ALPM] "))
    else {
        return Vec::new();
    };
    let words: Vec<&str> = rest.splitn(3, ' ').collect();
    let [action, package, versions] = words[..] else { return Vec::new() };
    let versions = versions.trim_matches(['(', ')']);
    let at = with_offset(at).unwrap_or(reading.now);
    one(match action {
        "installed" => whole(at, package, None, Some(versions)),
        "removed" => whole(at, package, Some(versions), None),
        "upgraded" | "downgraded" | "reinstalled" => {
            let (old, new) = versions.split_once(" -> ").unwrap_or((versions, versions));
            whole(at, package, Some(old), Some(new))
        }
        _ => None,
    })
}

/// `(1/3) Upgrading nginx (1.24.0-r0 -> 1.26.0-r0)`; without a time, so it happened just now.
pub(super) fn parse_apk(line: &str, reading: &Reading<'_>, _: &mut Scratch) -> Vec<Told> {
    let Some((_, rest)) = line.strip_prefix('(').and_then(|rest| rest.split_once(") ")) else {
        return Vec::new();
    };
    let words: Vec<&str> = rest.splitn(3, ' ').collect();
    let [action, package, versions] = words[..] else { return Vec::new() };
    let versions = versions.trim_matches(['(', ')']);
    let at = reading.now;
    one(match action {
        "Installing" => whole(at, package, None, Some(versions)),
        "Purging" => whole(at, package, Some(versions), None),
        "Upgrading" | "Downgrading" => versions
            .split_once(" -> ")
            .and_then(|(old, new)| whole(at, package, Some(old), Some(new))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-20 15:00:00 UTC.
    const NOW: UnixMillis = UnixMillis(1_795_186_800_000);

    fn read(parse: Parse, text: &str, scratch: &mut Scratch) -> Vec<(UnixMillis, String)> {
        let reading = Reading { zone: &TimeZone::UTC, now: NOW };
        let lines = text.lines();
        let told: Vec<_> = lines.flat_map(|line| parse(line, &reading, scratch)).collect();
        join(&told)
    }

    /// Checks the texts; `""` means that the lines are no change.
    fn check(parse: Parse, text: &str, want: &str) {
        let found = read(parse, text, &mut Scratch::default());
        let found: Vec<_> = found.into_iter().map(|(_, what)| what).collect();
        assert_eq!(found.join("; "), want, "{text}");
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
    fn dnf_names_the_version_before_in_another_line() {
        let check = |text, want| check(parse_dnf, text, want);
        check(
            "2026-11-20T14:47:36+0100 SUBDEBUG Upgrade: nginx-1:1.22.0-1.el9.x86_64\n\
             2026-11-20T14:47:36+0100 SUBDEBUG Upgrade: php-fpm-8.2.29-1.el9.x86_64\n\
             2026-11-20T14:47:37+0100 SUBDEBUG Upgraded: php-fpm-8.2.7-1.el9.x86_64\n\
             2026-11-20T14:47:38+0100 SUBDEBUG Upgraded: nginx-1:1.20.1-13.el9.x86_64",
            "nginx 1:1.20.1-13.el9 to 1:1.22.0-1.el9; php-fpm 8.2.7-1.el9 to 8.2.29-1.el9",
        );
        check(
            "2026-11-20T14:47:36+0100 SUBDEBUG Upgrade: nginx-1:1.20.1-14.el9.x86_64",
            "nginx 1:1.20.1-14.el9 upgraded",
        );
        check("2026-11-20T14:47:36+0100 SUBDEBUG Upgraded: nginx-1:1.20.1-13.el9.x86_64", "");
        check(
            "2026-11-20T14:47:36+0100 SUBDEBUG Erase: nginx-1:1.20.1-13.el9.x86_64",
            "nginx 1:1.20.1-13.el9 removed",
        );
        check(
            "2019-02-26T18:27:00Z SUBDEBUG Installed: nginx-1:1.14.1-9.module_el8.x86_64",
            "nginx 1:1.14.1-9.module_el8 installed",
        );
        check("2026-11-20T14:47:36+0100 INFO --- logging initialized ---", "");
        check("yesterday SUBDEBUG Upgrade: nginx-1-1.x86_64", "");
    }

    #[test]
    fn dnf_5_installs_the_new_version_and_uninstalls_the_old_one() {
        let install = "2026-11-20T14:47:36+0000 [7] INFO RPM callback install start \
                       \"nginx-1:1.24.0-1.fc40.x86_64\" total 9";
        let uninstall = "2026-11-20T14:47:39+0000 [7] INFO RPM callback uninstall start \
                         \"nginx-1:1.22.0-1.fc40.x86_64\" total 9";
        let other = "2026-11-20T14:47:36+0000 [7] INFO RPM callback start trigger-install \
                     scriptlet \"man-db-0:2.13.0-1.fc42.x86_64\"";
        let both = format!("{install}\n{other}\n{uninstall}");
        check(parse_dnf5, &both, "nginx 1:1.22.0-1.fc40 to 1:1.24.0-1.fc40");
        check(parse_dnf5, uninstall, "nginx 1:1.22.0-1.fc40 removed");
        check(parse_dnf5, other, "");
        check(parse_dnf5, "2026-11-20T14:47:36+0000 [7] INFO RPM callback install start", "");
        // Read in two looks, the end of an upgrade is no removal.
        let mut scratch = Scratch::default();
        let first = read(parse_dnf5, install, &mut scratch);
        assert_eq!(first[0].1, "nginx 1:1.24.0-1.fc40 installed");
        assert!(read(parse_dnf5, uninstall, &mut scratch).is_empty());
        let start = "2026-11-20T15:47:36+0000 [8] INFO RPM callback transaction start, total 1";
        read(parse_dnf5, start, &mut scratch);
        assert_eq!(read(parse_dnf5, uninstall, &mut scratch).len(), 1);
    }

    #[test]
    fn yum_tells_no_year() {
        let check_at = |line: &str, want: &str, at: &str| {
            let found = read(parse_yum, line, &mut Scratch::default());
            let found: Vec<_> = found.iter().map(|(at, what)| (&**what, at.to_rfc3339())).collect();
            assert_eq!(found, [(want, at.to_owned())], "{line}");
        };
        check_at(
            "Nov 20 14:47:36 Updated: 1:nginx-1.20.1-1.el7.x86_64",
            "nginx 1:1.20.1-1.el7 upgraded",
            "2026-11-20T14:47:36.000Z",
        );
        check_at(
            "Dec 31 23:59:59 Dep-Installed: php-common-5.4.16-48.el7.x86_64",
            "php-common 5.4.16-48.el7 installed",
            "2025-12-31T23:59:59.000Z",
        );
        check_at("Nov  2 01:00:00 Erased: nginx", "nginx removed", "2026-11-02T01:00:00.000Z");
        check(parse_yum, "Nov 20 14:47:36 web yum[7]: Updated: nginx-1-1.x86_64", "");
        check(parse_yum, "Foo 20 14:47:36 Updated: nginx-1-1.x86_64", "");
        check(parse_yum, "", "");
        check(parse_yum, "Nov 20 14:47:3\u{e9} Updated: x", "");
    }

    #[test]
    fn other_package_managers_are_understood() {
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
        assert_eq!(with_offset("1970-01-01T00:00:05Z"), Some(UnixMillis(5000)));
        assert_eq!(with_offset("1970-01-01T00:00:05"), None);
        assert_eq!(wall("1970-13-01", "01:00:05", &berlin), None);
        let text = "Start-Date: 1970-01-01  00:00:07\nUpgrade: a:all (1, 2)";
        let found = read(parse_apt, text, &mut Scratch::default());
        assert_eq!(found, [(UnixMillis(7000), "a 1 to 2".to_owned())]);
    }

    #[test]
    fn names_and_versions_of_rpm_are_told_apart() {
        for (text, name, version) in [
            ("nginx-1:1.20.1-14.el9.x86_64", "nginx", "1:1.20.1-14.el9"),
            ("1:nginx-1.20.1-14.el9.x86_64", "nginx", "1:1.20.1-14.el9"),
            ("cmake-rpm-macros-0:3.31.11-1.fc43.noarch", "cmake-rpm-macros", "3.31.11-1.fc43"),
            ("php-fpm-8.2.7-1.el9.x86_64", "php-fpm", "8.2.7-1.el9"),
            ("nginx", "nginx", ""),
            ("", "", ""),
        ] {
            assert_eq!(name_and_version(text), (name.to_owned(), version.to_owned()), "{text}");
        }
    }
}
