//! PHP-FPM master log: `[20-Nov-2026 12:59:19] WARNING: [pool www] child 67 exited on signal 9 …`, and
//! PHP's own error log, whose lines have a zone behind the time: `[20-Nov-2026 12:59:19 UTC] PHP Fatal
//! error: …`.
//!
//! What a script writes, and the request that a line quotes, are not believed for what the master says.

use wire::signal::{classify, classify_application};
use wire::v1::Signal;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

const LEVELS: [&[u8]; 5] = [b"ALERT", b"ERROR", b"WARNING", b"NOTICE", b"DEBUG"];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some(inside) = line.strip_prefix(b"[") else {
        return Line::Rejected(Rejected::Continuation);
    };
    let Some(end) = memchr::memchr(b']', &inside[..inside.len().min(64)]) else {
        return Line::Rejected(Rejected::Malformed);
    };
    let (stamp, rest) = (&inside[..end], &inside[end + 1..]);
    let Some(time) = time::php_fpm(stamp) else {
        return Line::Rejected(Rejected::Malformed);
    };
    // Two spaces and a pool begin an entry of the slow log.
    if rest.starts_with(b"  [pool ") {
        return Line::Rejected(Rejected::Malformed);
    }
    let rest = rest.trim_ascii_start();
    // Only PHP itself tells the zone.
    let record = if memchr::memchr_iter(b' ', stamp).count() > 1 {
        let text = access::text(rest);
        ErrorRecord { signal: classify_application(&text), message: text, ..ErrorRecord::default() }
    } else {
        message(rest)
    };
    Line::Error(ErrorRecord { time: Some(time), ..record })
}

/// What the master says, behind its time: `WARNING: [pool www] text`, with syslog `[WARNING] …`.
pub(super) fn message(text: &[u8]) -> ErrorRecord<'_> {
    let (level, message) = level(text);
    let said = without_place(message);
    let pool = pool(said);
    let event = pool.map_or(said, |pool| said[b"[pool ".len() + pool.len()..].trim_ascii_start());
    let event = event.strip_prefix(b"]").unwrap_or(event).trim_ascii_start();
    ErrorRecord {
        level: level.map(access::text),
        pool: pool.map(access::text),
        signal: signal(event),
        message: access::text(message),
        ..ErrorRecord::default()
    }
}

/// Level and what follows it.
fn level(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    for level in LEVELS {
        if let Some(rest) = text.strip_prefix(level).and_then(|rest| rest.strip_prefix(b": ")) {
            return (Some(level), rest);
        }
        let bracket = text.strip_prefix(b"[").and_then(|rest| rest.strip_prefix(level));
        if let Some(rest) = bracket.and_then(|rest| rest.strip_prefix(b"] ")) {
            return (Some(level), rest);
        }
    }
    (None, text)
}

/// Skips `pid 7, fpm_children_bury(), line 260: `, which the level `debug` adds to every line.
fn without_place(message: &[u8]) -> &[u8] {
    let near = &message[..message.len().min(120)];
    let end = message
        .starts_with(b"pid ")
        .then(|| memchr::memmem::find(near, b"(), line "))
        .flatten()
        .and_then(|at| memchr::memmem::find(&near[at..], b": ").map(|n| at + n + 2));
    end.map_or(message, |end| &message[end..])
}

/// `[pool www] …`.
fn pool(message: &[u8]) -> Option<&[u8]> {
    let name = message.strip_prefix(b"[pool ")?;
    Some(&name[..memchr::memchr(b']', name)?])
}

/// What happened, by the words the master begins with.
fn signal(event: &[u8]) -> Option<Signal> {
    let text = access::text(event);
    if text.starts_with("server reached ") {
        return classify(&text);
    }
    if let Some(child) = text.strip_prefix("child ") {
        let what = child.trim_start_matches(|c: char| c.is_ascii_digit());
        if what.starts_with(" exited on signal ") {
            return classify(&text);
        }
        if what.starts_with(" said into std") {
            return classify_application(what);
        }
        let is_slow = what.starts_with(", script '") && what.contains(" execution timed out (");
        return (is_slow && what.ends_with(" sec), terminating")).then_some(Signal::WorkerSignal);
    }
    if text.starts_with("PHP ") {
        return classify_application(&text);
    }
    text.ends_with("No space left on device (28)").then_some(Signal::DiskFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: (Option<&str>, Option<&str>, Option<Signal>)) {
        let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!((r.pool.as_deref(), r.level.as_deref(), r.signal), want, "{line}");
    }

    #[test]
    fn pools_and_what_happened_to_their_workers() {
        for (text, want) in [
            (
                "WARNING: [pool www] server reached pm.max_children setting (3), consider raising it",
                (Some("www"), Some("WARNING"), Some(Signal::MaxChildren)),
            ),
            (
                "WARNING: [pool a] child 67 exited on signal 9 (SIGKILL) after 0.731047 seconds from start",
                (Some("a"), Some("WARNING"), Some(Signal::WorkerSignal)),
            ),
            (
                "WARNING: [pool a] child 42 exited on signal 11 (SIGSEGV) after 1.651111 seconds from start",
                (Some("a"), Some("WARNING"), Some(Signal::Segfault)),
            ),
            (
                "WARNING: [pool b] child 31, script '/srv/index.php' (request: \"GET /index.php\") execution timed out (2.068746 sec), terminating",
                (Some("b"), Some("WARNING"), Some(Signal::WorkerSignal)),
            ),
            ("NOTICE: fpm is running, pid 1", (None, Some("NOTICE"), None)),
            (
                "WARNING: [pool www] child 32 said into stderr: \"child 1 exited on signal 9\"",
                (Some("www"), Some("WARNING"), None),
            ),
            (
                "WARNING: [pool b] child 31, script '/srv/index.php' (request: \"GET /x exited on signal 9\") executing too slow (5.0 sec), logging",
                (Some("b"), Some("WARNING"), None),
            ),
            (
                "WARNING: [pool b] child 31, script '/srv/x' (request: \"GET /') execution timed out (1 sec), terminating\") executing too slow (5.0 sec), logging",
                (Some("b"), Some("WARNING"), None),
            ),
            (
                "ERROR: failed to write: No space left on device (28)",
                (None, Some("ERROR"), Some(Signal::DiskFull)),
            ),
            (
                "WARNING: [pool www] child 32 said into stderr: \"PHP Fatal error:  Allowed memory size of 1 bytes exhausted\"",
                (Some("www"), Some("WARNING"), Some(Signal::MemoryLimit)),
            ),
        ] {
            check(&format!("[20-Nov-2026 12:59:19] {text}"), want);
        }
        check(
            "[20-Nov-2026 13:12:59 UTC] PHP Fatal error:  Uncaught Exception: exited on signal 9",
            (None, None, None),
        );
        // A script may write into the same log: its time has a zone, and it is no master.
        check(
            "[20-Nov-2026 13:12:59 Europe/Berlin] WARNING: [pool www] server reached pm.max_children setting (3)",
            (None, None, None),
        );
        check(
            "[20-Nov-2026 13:12:59 UTC] PHP Fatal error:  Allowed memory size of 9 bytes exhausted",
            (None, None, Some(Signal::MemoryLimit)),
        );
        check(
            "[20-Nov-2026 13:12:59.123456] DEBUG: pid 7, fpm_children_bury(), line 260: [pool www] child 9 exited on signal 9 (SIGKILL) after 1.1 seconds from start",
            (Some("www"), Some("DEBUG"), Some(Signal::WorkerSignal)),
        );
        assert!(matches!(
            parse(b"[20-Nov-2026 12:59:19]  [pool www] pid 7"),
            Line::Rejected(Rejected::Malformed)
        ));
        assert_eq!(parse(b"Stack trace:"), Line::Rejected(Rejected::Continuation));
    }
}
