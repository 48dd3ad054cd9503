//! Redis log: `1234:M 20 Nov 2026 12:00:00.123 # text`, without year before version 5, `[1234] 20 Nov
//! 12:00:00 * text` and without process before version 3, and the handler of signals, which knows only
//! seconds since the epoch: `1234:signal-handler (1795176067) text`.

use wire::said;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, LineTime, Rejected};

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    match record(line) {
        Some(record) => Line::Error(record),
        None if line.first().is_some_and(u8::is_ascii_digit) => Line::Rejected(Rejected::Malformed),
        // The banner, and the report of a crash.
        None => Line::Rejected(Rejected::Continuation),
    }
}

fn record(line: &[u8]) -> Option<ErrorRecord<'_>> {
    let (time, rest, is_handler) = stamp(line)?;
    let (level, message) = match rest {
        [b' ', message @ ..] if is_handler => (None, message),
        [b' ', level @ (b'.' | b'-' | b'*' | b'#'), b' ', message @ ..] => {
            (Some(std::slice::from_ref(level)), message)
        }
        _ => return None,
    };
    let message = access::text(message);
    Some(ErrorRecord {
        time: Some(time),
        level: level.map(access::text),
        signal: said::redis(&message).filter(|_| matches!(level, Some(b"#"))),
        message,
        ..ErrorRecord::default()
    })
}

/// The time, what follows it, and whether the handler of signals wrote it.
fn stamp(line: &[u8]) -> Option<(LineTime, &[u8], bool)> {
    let n = line.iter().take_while(|b| b.is_ascii_digit()).count();
    let own = |(time, rest)| (time, rest, false);
    if n > 0
        && let Some(after) = line[n..].strip_prefix(b":")
    {
        // X sentinel, C child that writes, S replica, M master.
        if let [b'X' | b'C' | b'S' | b'M', b' ', rest @ ..] = after {
            return time::redis_prefix(rest).map(own);
        }
        let inside = after.strip_prefix(b"signal-handler (")?;
        let end = memchr::memchr(b')', &inside[..inside.len().min(24)])?;
        return Some((time::epoch_seconds(&inside[..end])?, &inside[end + 1..], true));
    }
    if let Some(inside) = line.strip_prefix(b"[") {
        let end = inside.iter().take_while(|b| b.is_ascii_digit()).count();
        let rest = inside[end..].strip_prefix(b"] ").filter(|_| end > 0)?;
        return time::redis_prefix(rest).map(own);
    }
    time::redis_prefix(line).map(own)
}

#[cfg(test)]
mod tests {
    use wire::v1::Signal;

    use super::*;

    #[test]
    fn every_version_is_read() {
        use Signal as S;
        for (line, level, signal) in [
            ("7:M 20 Nov 2026 12:00:00.123 * Ready to accept connections", Some("*"), None),
            (
                "7:C 20 Nov 2026 12:00:00.123 # Write error saving DB on disk: No space left on device",
                Some("#"),
                Some(S::DiskFull),
            ),
            (
                "7:M 20 Nov 12:00:00.123 # Redis 4.0.1 crashed by signal: 11",
                Some("#"),
                Some(S::Segfault),
            ),
            ("[7] 20 Nov 12:00:00 * The server is now ready", Some("*"), None),
            ("2 Nov 12:00:00 - Accepted 127.0.0.1:4", Some("-"), None),
            ("7:signal-handler (1795176067) Received SIGTERM scheduling shutdown...", None, None),
            ("7:M 20 Nov 2026 12:00:00.123 - client said No space left on device", Some("-"), None),
        ] {
            let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((r.level.as_deref(), r.signal, r.gateway), (level, signal, false), "{line}");
            assert!(r.time.is_some(), "{line}");
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "                _._",
            "=== REDIS BUG REPORT START: Cut & paste starting from here ===",
            "7:M 20 Nov 2026 12:00:00.123 text",
            "7:Q 20 Nov 2026 12:00:00.123 * text",
            "20 Nov 2026 12:00:00.123",
            "[7] x",
            "7:signal-handler (x) y",
            "20/Nov/2026:12:00:00 +0000 * x",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
