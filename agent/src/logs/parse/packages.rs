//! Logs of package managers, one record a line: dpkg, apt's history, yum, dnf, zypper and pacman. They
//! tell of changes, never of failures.

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, LineTime, Rejected};

const DPKG: [&[u8]; 10] = [
    b"startup",
    b"status",
    b"install",
    b"upgrade",
    b"configure",
    b"trigproc",
    b"remove",
    b"purge",
    b"disappear",
    b"conffile",
];
/// Fields of an entry of apt's history, of which two have a time.
const APT: [&[u8]; 10] = [
    b"Commandline: ",
    b"Requested-By: ",
    b"Install: ",
    b"Upgrade: ",
    b"Downgrade: ",
    b"Remove: ",
    b"Purge: ",
    b"Reinstall: ",
    b"Error: ",
    b"Comment: ",
];
const YUM: [&[u8]; 7] = [
    b"Installed: ",
    b"Updated: ",
    b"Erased: ",
    b"Dep-Installed: ",
    b"Obsoleted: ",
    b"Downgraded: ",
    b"Reinstalled: ",
];
const DNF_LEVELS: [&[u8]; 8] =
    [b"DDEBUG", b"SUBDEBUG", b"DEBUG", b"INFO", b"WARNING", b"ERROR", b"CRITICAL", b"TRACE"];

fn record(time: Option<LineTime>, message: &[u8]) -> Line<'_> {
    Line::Error(ErrorRecord { time, message: access::text(message), ..ErrorRecord::default() })
}

fn is_word(text: &[u8], words: &[&[u8]]) -> bool {
    let word = text.split(|b| *b == b' ').next().unwrap_or_default();
    words.contains(&word)
}

/// `2026-11-20 12:00:00 upgrade php8.2-fpm:amd64 8.2.7 8.2.29`
pub(crate) fn dpkg(line: &[u8]) -> Line<'_> {
    let stamped = time::dated_prefix(line).and_then(|(time, rest)| {
        let message = rest.strip_prefix(b" ")?;
        is_word(message, &DPKG).then_some((time, message))
    });
    match stamped {
        Some((time, message)) => record(Some(time), message),
        None => Line::Rejected(Rejected::Malformed),
    }
}

/// `Start-Date: 2026-11-20  12:00:00`, `Upgrade: php8.2-fpm:amd64 (8.2.7, 8.2.29)`, …
pub(crate) fn apt_history(line: &[u8]) -> Line<'_> {
    let date = line.strip_prefix(b"Start-Date: ").or_else(|| line.strip_prefix(b"End-Date: "));
    if let Some(date) = date {
        return match time::dated_prefix(date) {
            Some((time, b"")) => record(Some(time), line),
            _ => Line::Rejected(Rejected::BadTime),
        };
    }
    if APT.iter().any(|field| line.starts_with(field)) {
        return record(None, line);
    }
    Line::Rejected(Rejected::Malformed)
}

/// `Nov 20 12:00:00 Updated: nginx-1.24.0-1.x86_64` of yum, `2026-11-20T12:00:00+0100 SUBDEBUG Upgrade:
/// nginx-1.24.0-1.x86_64` of dnf.
pub(crate) fn yum(line: &[u8]) -> Line<'_> {
    let stamped = time::syslog_prefix(line).and_then(|(time, rest)| {
        let message = rest.strip_prefix(b" ")?;
        let is_own = match time {
            LineTime::WallNoYear(_) => YUM.iter().any(|action| message.starts_with(action)),
            LineTime::Instant { .. } => is_word(message, &DNF_LEVELS),
            LineTime::Wall(_) => false,
        };
        is_own.then_some((time, message))
    });
    match stamped {
        Some((time, message)) => record(Some(time), message),
        None => Line::Rejected(Rejected::Malformed),
    }
}

/// `2026-11-20 12:00:00|install|nginx|1.24.0|x86_64|…`
pub(crate) fn zypper(line: &[u8]) -> Line<'_> {
    if line.first() == Some(&b'#') {
        return Line::Rejected(Rejected::Directive);
    }
    let stamped = time::dated_prefix(line)
        .and_then(|(time, rest)| Some((time, rest.strip_prefix(b"|")?)))
        .filter(|(_, message)| message.first().is_some_and(u8::is_ascii_alphabetic));
    match stamped {
        Some((time, message)) => record(Some(time), message),
        None => Line::Rejected(Rejected::Malformed),
    }
}

/// `[2026-11-20T12:00:00+0100] [ALPM] upgraded nginx (1.22 -> 1.24)`
pub(crate) fn pacman(line: &[u8]) -> Line<'_> {
    let stamped = || {
        let inside = line.strip_prefix(b"[")?;
        let end = memchr::memchr(b']', &inside[..inside.len().min(40)])?;
        let time = time::iso8601(&inside[..end])?;
        let message = inside[end + 1..].strip_prefix(b" ")?;
        [&b"[ALPM"[..], b"[PACMAN]"]
            .iter()
            .any(|by| message.starts_with(by))
            .then_some((time, message))
    };
    match stamped() {
        Some((time, message)) => record(Some(time), message),
        None => Line::Rejected(Rejected::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::parse::errors::Parse;

    #[test]
    fn each_manager_is_read_by_its_own_format_alone() {
        let formats: [(&str, Parse); 5] = [
            ("dpkg", dpkg),
            ("apt", apt_history),
            ("yum", yum),
            ("zypper", zypper),
            ("pacman", pacman),
        ];
        for (line, want) in [
            ("2026-11-20 12:00:00 upgrade php8.2-fpm:amd64 8.2.7 8.2.29", "dpkg"),
            ("2026-11-20 12:00:00 status half-configured a:amd64 1", "dpkg"),
            ("Start-Date: 2026-11-20  12:00:00", "apt"),
            ("Upgrade: php8.2-fpm:amd64 (8.2.7, 8.2.29)", "apt"),
            ("Nov 20 12:00:00 Updated: nginx-1.24.0-1.x86_64", "yum"),
            ("2026-11-20T12:00:00+0100 SUBDEBUG Upgrade: nginx-1.24.0-1.x86_64", "yum"),
            ("2026-11-20 12:00:00|install|nginx|1.24.0|x86_64|root@a|", "zypper"),
            ("[2026-11-20T12:00:00+0100] [ALPM] upgraded nginx (1.22 -> 1.24)", "pacman"),
            ("2026-11-20 12:00:00 7 [Note] x", ""),
            ("2026-11-20 12:00:00: (gw_backend.c.274) x", ""),
            ("Nov 20 12:00:00 web yum[7]: Updated: nginx-1.24.0-1.x86_64", ""),
            ("2026-11-20T12:00:00Z web app[7]: x", ""),
            ("Start-Date: yesterday", ""),
            ("", ""),
        ] {
            for (name, parse) in formats {
                let is_record = matches!(parse(line.as_bytes()), Line::Error(_));
                assert_eq!(is_record, name == want, "{name}: {line}");
            }
        }
    }
}
