//! PHP-FPM slow log: entries of several lines, of which the first is the record: `[20-Nov-2026 12:59:19]
//! [pool www] pid 1234` with two spaces before the pool. The script and its stack, innermost function
//! first, go on in `Continuation` lines.

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if is_inner(line) {
        return Line::Rejected(Rejected::Continuation);
    }
    header(line).map_or(Line::Rejected(Rejected::Malformed), Line::Error)
}

fn header(line: &[u8]) -> Option<ErrorRecord<'_>> {
    let inside = line.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(64)])?;
    let time = time::php_fpm(&inside[..end])?;
    let message = inside[end + 1..].trim_ascii_start();
    let name = message.strip_prefix(b"[pool ")?;
    let end = memchr::memchr(b']', name)?;
    let process = name[end + 1..].strip_prefix(b" pid ")?;
    let is_process = !process.is_empty() && process.iter().all(u8::is_ascii_digit);
    is_process.then(|| ErrorRecord {
        time: Some(time),
        pool: Some(access::text(&name[..end])),
        message: access::text(message),
        ..ErrorRecord::default()
    })
}

/// `script_filename = /srv/index.php`, `[0x00007f0000000000] sleep() /srv/index.php:4`.
fn is_inner(line: &[u8]) -> bool {
    line.starts_with(b"script_filename = ")
        || line
            .strip_prefix(b"[0x")
            .and_then(|rest| rest.first())
            .is_some_and(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_record_and_the_stack_under_it() {
        let Line::Error(r) = parse(b"[20-Nov-2026 12:59:19]  [pool www] pid 1234") else {
            panic!("a record")
        };
        assert_eq!((r.pool.as_deref(), r.signal, r.gateway), (Some("www"), None, false));
        assert!(r.time.is_some());
        for line in [
            &b"script_filename = /srv/a/index.php"[..],
            b"[0x00007f1234567890] sleep() /srv/a/index.php:4",
            b"[0x00007f1234567890] curl_exec() /srv/a/[20-Nov-2026].php:4",
        ] {
            assert_eq!(parse(line), Line::Rejected(Rejected::Continuation));
        }
        for line in [
            &b""[..],
            b"[20-Nov-2026 12:59:19] WARNING: [pool www] child 7 exited on signal 9",
            b"[20-Nov-2026 12:59:19]  [pool www] pid x",
            b"[20-Nov-2026 12:59:19]  [pool www",
        ] {
            assert_eq!(parse(line), Line::Rejected(Rejected::Malformed));
        }
    }
}
