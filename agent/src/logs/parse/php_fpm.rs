//! PHP-FPM master log: `[20-Nov-2026 12:59:19] WARNING: [pool www] child 67 exited on signal 9 …`, and
//! PHP's own error log, whose lines have a zone behind the time: `[20-Nov-2026 12:59:19 UTC] PHP Fatal
//! error: …`.
//!
//! What a script writes, and the request that a line quotes, are not believed for what the master says.

use std::borrow::Cow;

use wire::said;
use wire::signal::classify_application;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

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
    let (level, message) = said::php_fpm_level(text);
    let message = access::text(message);
    let (pool, signal) = match &message {
        Cow::Borrowed(text) => {
            let read = said::php_fpm(text);
            (read.pool.map(Cow::Borrowed), read.signal)
        }
        Cow::Owned(text) => {
            let read = said::php_fpm(text);
            (read.pool.map(|pool| Cow::Owned(pool.to_owned())), read.signal)
        }
    };
    ErrorRecord { level: level.map(access::text), pool, signal, message, ..ErrorRecord::default() }
}

#[cfg(test)]
mod tests {
    use wire::v1::Signal;

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
