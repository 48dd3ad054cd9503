//! The syslog of a machine, old and new: `Nov 20 12:00:00 web php-fpm[7]: text`, the same with an ISO
//! time, and `<131>1 2026-11-20T12:00:00Z web nginx 7 - - text`.
//!
//! Any program writes what it likes, and some of it comes from clients. So what a line says is believed
//! only of the program whose business it is, by that program's own rules.

use memchr::memmem;
use wire::said;
use wire::signal::{classify, classify_kernel};
use wire::v1::Signal;

use crate::logs::parse::{
    access, apache_error, clf, haproxy, lighttpd_error, mysql, nginx_error, php_fpm, time,
};
use crate::logs::{ErrorRecord, Line, LineTime, Rejected};

/// Longest tag, and longest name of a machine.
const WORD_BYTES_MAX: usize = 255;
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// What stands before the text of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'l> {
    pub(super) time: Option<LineTime>,
    pub(super) level: Option<&'static str>,
    pub(super) program: &'l [u8],
    /// Program and text, without time and machine.
    pub(super) message: &'l [u8],
    pub(super) text: &'l [u8],
}

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some(header) = header(line) else {
        let goes_on = line.first().is_some_and(u8::is_ascii_whitespace);
        return Line::Rejected(if goes_on { Rejected::Continuation } else { Rejected::Malformed });
    };
    record(header, line).map_or(Line::Rejected(Rejected::Directive), Line::Error)
}

/// The record of a line by the rules of its program; `None` for a request, which is none of a system
/// log's business.
fn record<'l>(header: Header<'l>, line: &'l [u8]) -> Option<ErrorRecord<'l>> {
    let plain = ErrorRecord {
        time: header.time,
        level: header.level.map(Into::into),
        message: access::text(header.message),
        ..ErrorRecord::default()
    };
    let (program, text) = (header.program, header.text);
    // `httpd/backend1` and `jabberd/sm` are parts of one program.
    let name = &program[..memchr::memchr(b'/', program).unwrap_or(program.len())];
    let own = match name {
        b"nginx" | b"httpd" | b"apache2" | b"apache" | b"lighttpd" => {
            let own = of_web_server(name, text);
            if own.is_none() && matches!(clf::parse(text), Line::Access(_)) {
                return None;
            }
            own.unwrap_or(plain.clone())
        }
        b"haproxy" => match haproxy::parse(line) {
            Line::Error(record) => record,
            _ => return None,
        },
        _ if name.starts_with(b"php") => {
            let fpm = php_fpm::message(text);
            ErrorRecord { pool: fpm.pool, signal: fpm.signal, ..plain.clone() }
        }
        _ => ErrorRecord { signal: signal_of(name, text), ..plain.clone() },
    };
    Some(ErrorRecord {
        time: own.time.or(plain.time),
        level: own.level.clone().or(plain.level),
        ..own
    })
}

fn of_web_server<'l>(name: &[u8], text: &'l [u8]) -> Option<ErrorRecord<'l>> {
    let line = match name {
        b"nginx" => nginx_error::parse(text),
        b"lighttpd" => Line::Error(lighttpd_error::message(text)?),
        _ => Line::Error(apache_error::body(text)?),
    };
    match line {
        Line::Error(record) => Some(record),
        _ => None,
    }
}

/// What a program may say: nothing, unless it is one that knows.
pub(super) fn signal_of(program: &[u8], text: &[u8]) -> Option<Signal> {
    let shown = access::text(text);
    match program {
        b"kernel" | b"systemd" | b"systemd-oomd" | b"earlyoom" => classify_kernel(&shown),
        b"mysqld" | b"mariadbd" | b"mysqld_safe" | b"mariadb" | b"mysql" => said::mysql(&shown)
            .or_else(|| match mysql::parse(text) {
                Line::Error(record) => record.signal,
                _ => None,
            }),
        b"redis" | b"redis-server" => said::redis(&shown),
        b"rsyslogd" | b"systemd-journald" | b"systemd-journal" => {
            classify(&shown).filter(|signal| *signal == Signal::DiskFull)
        }
        _ => None,
    }
}

/// Takes the header off a line; `None` when it has none.
pub(super) fn header(line: &[u8]) -> Option<Header<'_>> {
    let (level, rest) = priority(line);
    if level.is_some()
        && let Some(rest) = rest.strip_prefix(b"1 ")
    {
        return rfc5424(level, rest);
    }
    let (time, rest) = stamp(rest)?;
    let rest = rest.strip_prefix(b" ")?;
    let (host, rest) = word(rest)?;
    // busybox names facility and level before the program.
    let rest = match word(rest) {
        Some((word, after)) if is_priority_name(word) => after,
        _ => rest,
    };
    is_machine(host).then_some(())?;
    let (program, text) = tag(rest)?;
    Some(Header { time: Some(time), level, program, message: rest, text })
}

/// The text that one of these programs logged, also where what relays it has cut off the time:
/// `web nginx[7]: text`.
pub(super) fn inside(
    line: &[u8],
    is_program: fn(&[u8]) -> bool,
) -> Option<(Option<LineTime>, Option<&'static str>, &[u8])> {
    if let Some(header) = header(line) {
        return is_program(header.program).then_some((header.time, header.level, header.text));
    }
    let (level, rest) = priority(line);
    let (host, after) = word(rest)?;
    let (program, text) = if is_machine(host) { tag(after).or_else(|| tag(rest)) } else { None }?;
    is_program(program).then_some((None, level, text))
}

/// `<131>`, and the level in it.
fn priority(line: &[u8]) -> (Option<&'static str>, &[u8]) {
    let number = || {
        let inside = line.strip_prefix(b"<")?;
        let end = memchr::memchr(b'>', &inside[..inside.len().min(4)])?;
        let number: usize = std::str::from_utf8(&inside[..end]).ok()?.parse().ok()?;
        (number < 192).then(|| (LEVELS[number % 8], &inside[end + 1..]))
    };
    match number() {
        Some((level, rest)) => (Some(level), rest),
        None => (None, line),
    }
}

/// The old form without year, or ISO 8601 with its `T`: a date and a time with a space between them
/// begin the lines of too many other logs.
fn stamp(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let is_iso = text.first()?.is_ascii_digit();
    if is_iso && text.get(10) != Some(&b'T') {
        return None;
    }
    time::syslog_prefix(text)
}

/// `TIME HOST PROGRAM PROCESS MESSAGE-ID [data] text`, what is absent as `-`.
fn rfc5424<'l>(level: Option<&'static str>, text: &'l [u8]) -> Option<Header<'l>> {
    let (at, rest) = word(text)?;
    let time = if at == b"-" { None } else { Some(time::iso8601(at)?) };
    let (_host, message) = word(rest)?;
    let (program, rest) = word(message)?;
    let (_process, rest) = word(rest)?;
    let (_id, rest) = word(rest).unwrap_or((rest, b""));
    let text = after_structured(rest)?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    Some(Header { time, level, program, message, text })
}

/// Cuts `- ` or `[id name="value"][…] `; a value may hold anything, with `"`, `\` and `]` escaped.
fn after_structured(text: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = text.strip_prefix(b"-") {
        return Some(rest.strip_prefix(b" ").unwrap_or(rest));
    }
    let mut rest = text;
    while let Some(inside) = rest.strip_prefix(b"[") {
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = inside.iter().position(|byte| {
            let is_end = !is_quoted && *byte == b']';
            is_quoted ^= *byte == b'"' && !is_escaped;
            is_escaped = *byte == b'\\' && !is_escaped;
            is_end
        })?;
        rest = &inside[end + 1..];
    }
    let is_any = rest.len() < text.len();
    is_any.then(|| rest.strip_prefix(b" ").unwrap_or(rest))
}

/// `php-fpm8.2[7]: text`: a name without space, perhaps a process, a colon.
fn tag(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let near = &text[..text.len().min(WORD_BYTES_MAX)];
    let end = match memmem::find(near, b": ") {
        Some(end) => end,
        // A message may be empty.
        None => near.strip_suffix(b":").filter(|_| near.len() == text.len())?.len(),
    };
    let whole = &text[..end];
    let name = match memchr::memchr(b'[', whole) {
        Some(at) => {
            let process = whole[at + 1..].strip_suffix(b"]")?;
            process.iter().all(u8::is_ascii_alphanumeric).then_some(&whole[..at])?
        }
        None => whole,
    };
    let is_name =
        name.first().is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'('))
            && name.iter().all(|b| b.is_ascii_graphic() && *b != b':');
    let text = text.get(end + 2..).unwrap_or_default();
    is_name.then_some((name, text))
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', &text[..text.len().min(WORD_BYTES_MAX)])?;
    Some((&text[..at], &text[at + 1..]))
}

fn is_machine(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
        && name.last() != Some(&b':')
}

/// `daemon.err`
fn is_priority_name(word: &[u8]) -> bool {
    let Some(at) = memchr::memchr(b'.', word) else { return false };
    let level = &word[at + 1..];
    let is_level = LEVELS.iter().any(|known| known.as_bytes() == level) || level == b"warn";
    is_level && word[..at].iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(line: &str) -> ErrorRecord<'_> {
        match parse(line.as_bytes()) {
            Line::Error(record) => record,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_header_is_taken_off() {
        for (line, level, message) in [
            ("Nov  2 12:00:00 web app[7]: a text", None, "app[7]: a text"),
            ("Nov 20 12:00:00 web.example app: a: text", None, "app: a: text"),
            ("<131>Nov 20 12:00:00 web app[7]: a text", Some("err"), "app[7]: a text"),
            ("2026-11-20T12:00:00.123456+01:00 web app[7]: x", None, "app[7]: x"),
            ("<13>1 2026-11-20T12:00:00Z web app 7 ID1 - x", Some("notice"), "app 7 ID1 - x"),
            (
                r#"<165>1 2026-11-20T12:00:00.1Z web app - - [a@1 k="v\"] kernel: x"][b] text"#,
                Some("notice"),
                r#"app - - [a@1 k="v\"] kernel: x"][b] text"#,
            ),
            ("Nov 20 12:00:00 web daemon.err app[7]: x", None, "app[7]: x"),
            ("Nov 20 12:00:00 web jabberd/sm[7]: x", None, "jabberd/sm[7]: x"),
            ("Nov 20 12:00:00 web sudo: x : TTY=pts/6", None, "sudo: x : TTY=pts/6"),
            ("Nov 20 12:00:00 web app:", None, "app:"),
        ] {
            let r = record_of(line);
            assert_eq!((r.level.as_deref(), &*r.message), (level, message), "{line}");
            assert!(r.time.is_some() && r.signal.is_none() && !r.gateway, "{line}");
        }
    }

    #[test]
    fn lines_of_other_logs_are_none() {
        for line in [
            "",
            "x",
            "\tgoes on",
            "Nov 20 12:00:00 web Job `cron.daily' terminated",
            "Nov 20 12:00:00: --- last message repeated 5 times ---",
            "2026-11-20 12:00:00 install a:amd64 <none> 1.2",
            "2026-11-20 12:00:00: (gw_backend.c.274) x: y",
            "2026-11-20 12:00:00.1 [NOTICE] [7] x: y",
            "2026-11-20T12:00:00.1Z 0 [Note] InnoDB: x",
            "[Fri Nov 20 12:00:00 2026] x: y",
            "<999>Nov 20 12:00:00 web app: x",
            "<13>1 yesterday web app - - - x",
            "<13>1 - web app - - [a x",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }

    #[test]
    fn programs_are_believed_in_their_own_business_only() {
        use Signal as S;
        let oom = "Out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB";
        for (said, signal) in [
            (format!("kernel: [12.3] {oom}"), Some(S::Oom)),
            (format!("kernel: {oom}"), Some(S::Oom)),
            (format!("sshd[7]: Invalid user {oom} from 198.51.100.7"), None),
            (format!("app[7]: kernel: {oom}"), None),
            (format!("nginx: {oom}"), None),
            (format!("php-fpm[7]: {oom}"), None),
            ("php-fpm[7]: [WARNING] [pool www] server reached pm.max_children setting (3), consider raising it".to_owned(), Some(S::MaxChildren)),
            ("php-fpm8.2[7]: [WARNING] [pool www] child 9 exited on signal 11 (SIGSEGV) after 1 seconds from start".to_owned(), Some(S::Segfault)),
            ("systemd[1]: php8.2-fpm.service: A process of this unit has been killed by the OOM killer.".to_owned(), Some(S::Oom)),
            ("mysqld[7]: 2026-11-20 12:00:00 7 [Warning] Too many connections".to_owned(), Some(S::TooManyConnections)),
            ("app[7]: Too many connections".to_owned(), None),
            ("rsyslogd: action 'action-0-builtin:omfile' suspended: No space left on device".to_owned(), Some(S::DiskFull)),
            ("sshd[7]: Invalid user No space left on device from 198.51.100.7".to_owned(), None),
            ("haproxy[7]: Server be/s1 is DOWN, reason: Layer4 timeout.".to_owned(), Some(S::ServerDown)),
        ] {
            let line = format!("Nov 20 12:00:00 web {said}");
            assert_eq!(record_of(&line).signal, signal, "{line}");
        }
        let r = record_of(
            "Nov 20 12:00:00 web php-fpm[7]: [WARNING] [pool shop] server reached pm.max_children setting (3), consider raising it",
        );
        assert_eq!(r.pool.as_deref(), Some("shop"));
    }

    #[test]
    fn a_web_server_that_logs_to_syslog_is_read_by_its_own_rules() {
        let r = record_of(
            r#"<131>Nov 20 12:00:00 web nginx: 2026/11/20 12:00:00 [error] 7#7: *1 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: a.example, request: "GET / HTTP/1.1", upstream: "http://127.0.0.1:3000/", host: "a.example""#,
        );
        assert!(r.gateway && r.host.as_deref() == Some("a.example"));
        let r = record_of(
            "Nov 20 12:00:00 web apache2[7]: [proxy_http:error] [pid 7:tid 8] [client 198.51.100.7:5610] AH01114: HTTP: failed to make connection to backend: 127.0.0.1",
        );
        assert!(r.gateway && r.time.is_some(), "{r:?}");
        assert_eq!(
            (r.client.as_deref(), r.level.as_deref()),
            (Some("198.51.100.7"), Some("error"))
        );
        let r = record_of(
            "Nov 20 12:00:00 web lighttpd[7]: (gw_backend.c.274) establishing connection failed: socket: unix:/run/a.sock: Connection refused",
        );
        assert!(r.gateway && r.upstream.as_deref() == Some("unix:/run/a.sock"));
        for request in [
            r#"haproxy[7]: 198.51.100.7:5 [20/Nov/2026:12:00:00.1] a b/s1 0/0/0/-1/4 502 209 - - SH-- 1/1/0/0/0 0/0 "GET / HTTP/1.1""#,
            r#"nginx: 198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 5 "-" "x""#,
        ] {
            let line = format!("Nov 20 12:00:00 web {request}");
            assert_eq!(parse(line.as_bytes()), Line::Rejected(Rejected::Directive), "{line}");
        }
    }
}
