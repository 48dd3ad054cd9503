//! MySQL and MariaDB error logs: `2026-11-20T12:00:00.1Z 7 [Warning] [MY-010055] [Server] text`,
//! `2026-11-20  9:00:00 7 [Note] text`, old `261120  9:00:00 [ERROR] text`, the line a crash leaves, and
//! the statements of a general log, which are records that say nothing.
//!
//! Names of users and databases, and statements, come from clients: only the words before the first
//! quotation mark, in the server's own order, are believed.

use memchr::memmem;
use wire::said;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

const LEVELS: [&[u8]; 6] = [b"Note", b"Warning", b"ERROR", b"Error", b"System", b"Warn"];
/// Commands of the general log.
const COMMANDS: [&[u8]; 14] = [
    b"Query",
    b"Connect",
    b"Quit",
    b"Init DB",
    b"Prepare",
    b"Execute",
    b"Close stmt",
    b"Reset stmt",
    b"Field List",
    b"Change user",
    b"Ping",
    b"Statistics",
    b"Shutdown",
    b"Binlog Dump",
];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if let Some(record) = crash(line) {
        return Line::Error(record);
    }
    let is_iso = line.get(10) == Some(&b'T');
    let stamped = if is_iso { time::iso8601_prefix(line) } else { time::dated_prefix(line) };
    let (time, rest, is_old) = match stamped {
        Some((time, rest)) => (time, rest, false),
        None => match time::mysql_old_prefix(line) {
            Some((time, rest)) => (time, rest, true),
            None => return Line::Rejected(Rejected::Continuation),
        },
    };
    if !rest.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        return Line::Rejected(Rejected::Malformed);
    }
    match body(rest.trim_ascii_start(), is_old) {
        Some(record) => Line::Error(ErrorRecord { time: Some(time), ..record }),
        None => Line::Rejected(Rejected::Malformed),
    }
}

/// `12:34:56 UTC - mysqld got signal 6 ;`
fn crash(line: &[u8]) -> Option<ErrorRecord<'_>> {
    let at = memmem::find(&line[..line.len().min(48)], b" UTC - ")?;
    let clock = &line[..at];
    let is_clock = clock.len() >= 8
        && clock.iter().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'-' | b'T' | b'Z'));
    let message = &line[at + b" UTC - ".len()..];
    let is_server = message.starts_with(b"mysqld got ") || message.starts_with(b"mariadbd got ");
    (is_clock && is_server).then(|| {
        let message = access::text(message);
        let time = time::iso8601(clock);
        ErrorRecord { time, signal: said::mysql(&message), message, ..ErrorRecord::default() }
    })
}

/// What follows the time.
fn body(text: &[u8], is_old: bool) -> Option<ErrorRecord<'_>> {
    if let Some((level, message)) = level(text) {
        return Some(record(Some(level), message));
    }
    let n = text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let after = &text[n..];
    if n > 0 && after.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
        let after = after.trim_ascii_start();
        if let Some((level, message)) = level(after) {
            return Some(record(Some(level), message));
        }
        let is_command = COMMANDS.iter().any(|command| {
            let rest = after.strip_prefix(*command);
            rest.is_some_and(|rest| rest.first().is_none_or(|b| matches!(b, b' ' | b'\t')))
        });
        if is_command || after.starts_with(b"InnoDB: ") {
            return Some(record(None, after));
        }
    }
    let is_own = text.starts_with(b"mysqld_safe ")
        || is_old && (text.starts_with(b"InnoDB: ") || text.starts_with(b"mysqld "));
    is_own.then(|| record(None, text))
}

/// `[Warning] ` and, of newer versions, `[MY-010055] [Server] `.
fn level(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (level, mut rest) = group(text)?;
    LEVELS.contains(&level).then_some(())?;
    if let Some((code, after)) = group(rest)
        && code.starts_with(b"MY-")
    {
        rest = group(after).map_or(after, |(_, after)| after);
    }
    Some((level, rest))
}

fn group(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(32)])?;
    let after = &inside[end + 1..];
    Some((&inside[..end], after.strip_prefix(b" ").unwrap_or(after)))
}

fn record<'l>(level: Option<&'l [u8]>, message: &'l [u8]) -> ErrorRecord<'l> {
    let message = access::text(message);
    ErrorRecord {
        level: level.map(access::text),
        signal: said::mysql(&message),
        message,
        ..ErrorRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use wire::v1::Signal;

    use super::*;

    fn check(line: &str, level: Option<&str>, signal: Option<Signal>) {
        let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!((r.level.as_deref(), r.signal, r.gateway), (level, signal, false), "{line}");
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn every_version_is_read() {
        use Signal as S;
        for (line, level, signal) in [
            (
                "2026-11-20T12:00:00.123456Z 7 [Warning] [MY-010055] [Server] Too many connections",
                Some("Warning"),
                Some(S::TooManyConnections),
            ),
            (
                "2026-11-20T12:00:00.123456+01:00 0 [System] [MY-010910] [Server] /usr/sbin/mysqld: Shutdown complete (mysqld 8.0.36)  MySQL Community Server - GPL.",
                Some("System"),
                None,
            ),
            (
                "2026-11-20T12:00:00.1Z 7 [Note] Access denied for user 'a'@'192.0.2.1' (using password: YES)",
                Some("Note"),
                None,
            ),
            (
                "2026-11-20  9:00:00 7 [Warning] Too many connections",
                Some("Warning"),
                Some(S::TooManyConnections),
            ),
            (
                "2026-11-20 12:00:00 0 [Note] /usr/sbin/mariadbd: ready for connections.",
                Some("Note"),
                None,
            ),
            (
                "2026-11-20 12:00:00 0 [Note] /usr/sbin/mariadbd (initiated by: unknown): Normal shutdown",
                Some("Note"),
                None,
            ),
            ("2026-11-20 12:00:00 7f0a InnoDB: x", None, None),
            (
                "261120  9:00:00 [ERROR] mysqld got signal 11 ;",
                Some("ERROR"),
                Some(S::WorkerSignal),
            ),
            (
                "261120 12:00:00 [ERROR] /usr/sbin/mariadbd got signal 6 ;",
                Some("ERROR"),
                Some(S::WorkerSignal),
            ),
            ("261120 12:00:00 InnoDB: Completed initialization of buffer pool", None, None),
            ("261120 12:00:00 mysqld_safe Starting mysqld daemon", None, None),
            ("12:00:00 UTC - mysqld got signal 6 ;", None, Some(S::WorkerSignal)),
            ("2026-11-20T12:00:00Z UTC - mysqld got signal 11 ;", None, Some(S::WorkerSignal)),
            (
                "2026-11-20 12:00:00 0 [ERROR] InnoDB: Error number 28 means 'No space left on device'",
                Some("ERROR"),
                Some(S::DiskFull),
            ),
            (
                "2026-11-20 12:00:00 7 [ERROR] mysqld: Disk full (/tmp/x); waiting for someone to free some space...",
                Some("ERROR"),
                Some(S::DiskFull),
            ),
            (
                "2026-11-20 12:00:00 7 [ERROR] Disk is full writing './a/b.MYD' (Errcode: 28 \"No space left on device\"). Waiting",
                Some("ERROR"),
                Some(S::DiskFull),
            ),
            (
                "2026-11-20 12:00:00 7 [ERROR] /usr/sbin/mysqld: Error writing file './binlog' (errno: 28 - No space left on device)",
                Some("ERROR"),
                Some(S::DiskFull),
            ),
            ("261120 12:00:00\t    7 Query\tSELECT 1", None, None),
            ("2026-11-20T12:00:00.1Z\t   14 Connect\troot@localhost on  using Socket", None, None),
        ] {
            check(line, level, signal);
        }
    }

    #[test]
    fn users_databases_and_statements_are_not_believed() {
        for words in [
            "Too many connections",
            "mysqld got signal 11 ;",
            "Disk is full writing ",
            "No space left on device",
            "Error number 28 ",
            "' (Errcode: 28 ",
        ] {
            for around in [
                "2026-11-20 12:00:00 7 [Warning] Access denied for user '{}'@'192.0.2.1' (using password: YES)",
                "2026-11-20 12:00:00 7 [Warning] Aborted connection 7 to db: '{}' user: 'a' host: 'b' (Got timeout)",
                "2026-11-20 12:00:00 7 [Warning] Unsafe statement. Statement: INSERT INTO a VALUES ('{}')",
                "2026-11-20T12:00:00.1Z\t   14 Query\tSELECT {}",
                "261120 12:00:00\t    7 Query\t{}",
                "2026-11-20 12:00:00 7 [Note] Event Scheduler: [a@b][c.d] {}",
            ] {
                let line = around.replace("{}", words);
                let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
                assert_eq!(r.signal, None, "{line}");
            }
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "Version: '10.11.1-MariaDB'  socket: '/run/mysqld/mysqld.sock'  port: 3306",
            "2026-11-20 12:00:00 install a:amd64 <none> 1",
            "2026-11-20 12:00:00: (gw_backend.c.274) x",
            "2026-11-20 12:00:00.1 [NOTICE] [7] x",
            "2026-11-20T12:00:00Z web app[7]: x",
            "2026-11-20T12:00:00Z 7 Querying x",
            "261120 12:00:00",
            "12:00:00 UTC - app got signal 6 ;",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
