//! PHP-FPM master log: `[20-Nov-2026 12:59:19] WARNING: [pool www] child 67 exited on signal 9 …`.

use memchr::memmem;
use wire::signal::classify;
use wire::v1::Signal;

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
    let Some(time) = time::php_fpm(&inside[..end]) else {
        return Line::Rejected(Rejected::Malformed);
    };
    let rest = inside[end + 1..].trim_ascii_start();
    let (level, message) = level(rest);
    let text = access::text(message);
    let said = text.contains("said into stderr") || text.starts_with("PHP ");
    let signal = classify(&text).filter(|signal| {
        // A script may write anything to stderr; only its own troubles are believed.
        !said
            || matches!(signal, Signal::MemoryLimit | Signal::TooManyConnections | Signal::DiskFull)
    });
    Line::Error(ErrorRecord {
        time: Some(time),
        level: level.map(access::text),
        pool: pool(message).map(access::text),
        signal,
        message: text,
        ..ErrorRecord::default()
    })
}

/// `WARNING: text`.
fn level(rest: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match memmem::find(&rest[..rest.len().min(12)], b": ") {
        Some(at) if rest[..at].iter().all(u8::is_ascii_uppercase) => {
            (Some(&rest[..at]), &rest[at + 2..])
        }
        _ => (None, rest),
    }
}

/// `[pool www] …`.
fn pool(message: &[u8]) -> Option<&[u8]> {
    let name = message.strip_prefix(b"[pool ")?;
    Some(&name[..memchr::memchr(b']', name)?])
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
        assert_eq!(parse(b"Stack trace:"), Line::Rejected(Rejected::Continuation));
    }
}
