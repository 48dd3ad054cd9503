//! LiteSpeed and OpenLiteSpeed error log: `2026-11-20 12:51:34.774649 [NOTICE] [1226033]
//! [198.51.100.7:45164:HTTP2-41#a.example] text`.
//!
//! The third group names process or thread and may be absent; the next one is the session: client,
//! connection and virtual host. `[STDERR]` begins what an application wrote.

use memchr::memmem;
use wire::signal::{classify, classify_application};

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, LineTime, Rejected};

const LEVELS: [&[u8]; 9] =
    [b"DEBUG", b"INFO", b"NOTICE", b"WARN", b"WARNING", b"ERROR", b"CRIT", b"ALERT", b"FATAL"];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some((time, rest)) = time::iso8601_prefix(line)
        .filter(|(time, rest)| matches!(time, LineTime::Wall(_)) && rest.starts_with(b" ["))
    else {
        return Line::Rejected(Rejected::Continuation);
    };
    let Some((level, rest)) = group(&rest[1..]).filter(|(level, _)| is_level(level)) else {
        return Line::Rejected(Rejected::Malformed);
    };
    let mut record = ErrorRecord {
        time: Some(time),
        level: Some(access::text(level)),
        ..ErrorRecord::default()
    };
    let text = take_groups(rest, &mut record);
    record.message = access::text(text);
    judge(text, &mut record);
    Line::Error(record)
}

fn is_level(group: &[u8]) -> bool {
    LEVELS.contains(&group) || group.starts_with(b"DEBUG:")
}

/// `[…]` at the start, and what follows it and a space.
fn group(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    let near = &inside[..inside.len().min(200)];
    // An IPv6 address has brackets of its own.
    let own = if near.starts_with(b"[") { memchr::memchr(b']', near)? + 1 } else { 0 };
    let end = own + memchr::memchr(b']', &near[own..])?;
    let after = &inside[end + 1..];
    Some((&inside[..end], after.strip_prefix(b" ").unwrap_or(after)))
}

/// Takes process, thread and session off; what is left is the text.
fn take_groups<'l>(mut text: &'l [u8], record: &mut ErrorRecord<'l>) -> &'l [u8] {
    for _ in 0..3 {
        let Some((inside, after)) = group(text) else { break };
        if let Some((client, host)) = session(inside) {
            record.client = Some(access::text(client));
            record.server_name = host.map(access::text);
            return after;
        }
        let id = inside.strip_prefix(b"T").unwrap_or(inside);
        let is_process = !id.is_empty()
            && id.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'T'));
        if !is_process {
            break;
        }
        text = after;
    }
    text
}

/// `198.51.100.7:45164:HTTP2-41#a.example:lsapi`: client and virtual host.
fn session(inside: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (peer, host) = match memchr::memchr(b'#', inside) {
        Some(at) => (&inside[..at], Some(&inside[at + 1..])),
        None => (inside, None),
    };
    let (address, rest) = if let Some(inside) = peer.strip_prefix(b"[") {
        inside.split_at(memchr::memchr(b']', inside)?)
    } else {
        peer.split_at(memchr::memchr(b':', peer)?)
    };
    let is_port = rest.iter().skip_while(|b| **b == b']').nth(1).is_some_and(u8::is_ascii_digit);
    let is_address = std::str::from_utf8(address).ok()?.parse::<std::net::IpAddr>().is_ok();
    let host = host.map(|host| &host[..memchr::memchr(b':', host).unwrap_or(host.len())]);
    (is_port && is_address).then_some((address, host.filter(|host| !host.is_empty())))
}

fn judge<'l>(text: &'l [u8], record: &mut ErrorRecord<'l>) {
    let starts = |words: &[u8]| text.starts_with(words);
    if let Some(said) = text.strip_prefix(b"[STDERR] ") {
        let shown = access::text(said);
        // lsphp is the master of its workers, and this is how it speaks.
        let is_master = shown.starts_with("Reached max children process limit: ")
            || shown.starts_with("Child process with pid: ")
                && shown.contains(" was killed by signal: ");
        record.signal = if is_master { classify(&shown) } else { classify_application(&shown) };
        return;
    }
    if starts(b"oops! 503 ") || starts(b"oops! 502 ") || starts(b"oops! 504 ") {
        record.gateway = true;
        return;
    }
    let text = text.strip_prefix(b"[LSAPI] ").unwrap_or(text);
    let (socket, said) = match group(text) {
        Some((socket, said)) if memmem::find(socket, b"://").is_some() => (Some(socket), said),
        _ => (None, text),
    };
    let connection = said.get(1..).filter(|rest| rest.starts_with(b"onnection to ["));
    let is_failure = [&b"ExtConn timed out while "[..], b"Premature end of response header"]
        .iter()
        .any(|words| said.starts_with(words))
        || connection.is_some() && memmem::find(said, b"] on request #").is_some();
    if !is_failure {
        return;
    }
    let named = connection.and_then(|rest| {
        let inside = &rest[b"onnection to [".len()..];
        Some(&inside[..memchr::memchr(b']', inside)?])
    });
    record.upstream = named.or(socket).map(address);
    record.signal = classify(&access::text(said).replacen("Connection to", "connection to", 1));
    record.gateway = record.signal.is_some();
}

/// `uds://tmp/lshttpd/lsphp.sock` is the socket `/tmp/lshttpd/lsphp.sock`.
fn address(url: &[u8]) -> std::borrow::Cow<'_, str> {
    let text = access::text(url);
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("uds://") {
        return format!("unix:/{}", text[6..].trim_start_matches('/')).into();
    }
    match lower.find("://") {
        Some(at) => text[at + 3..].to_owned().into(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::Signal;

    fn record(line: &str) -> ErrorRecord<'_> {
        match parse(line.as_bytes()) {
            Line::Error(record) => record,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn sessions_name_the_client_and_the_virtual_host() {
        for (groups, client, host) in [
            (
                "[INFO] [1226038] [198.51.100.7:61120-5#Example] x",
                Some("198.51.100.7"),
                Some("Example"),
            ),
            (
                "[NOTICE] [7] [198.51.100.7:45164:HTTP2-41#a.example] x",
                Some("198.51.100.7"),
                Some("a.example"),
            ),
            (
                "[NOTICE] [7] [T0] [[2001:db8::1]:4242-0#a.example:lsapi] x",
                Some("2001:db8::1"),
                Some("a.example"),
            ),
            ("[NOTICE] [198.51.100.7:40740#a.example] x", Some("198.51.100.7"), Some("a.example")),
            ("[NOTICE] [7] [config:server] x", None, None),
            ("[NOTICE] x", None, None),
        ] {
            let line = format!("2026-11-20 12:51:34.774649 {groups}");
            let r = record(&line);
            assert_eq!((r.client.as_deref(), r.server_name.as_deref()), (client, host), "{line}");
        }
    }

    #[test]
    fn failures_of_the_application_server_are_told_from_all_else() {
        use Signal as S;
        let sock = Some("unix:/tmp/lshttpd/lsphp.sock");
        for (text, upstream, signal, gateway) in [
            ("oops! 503 Service Unavailable", None, None, true),
            (
                "[uds://tmp/lshttpd/lsphp.sock] ExtConn timed out while connecting.",
                sock,
                Some(S::ConnectTimeout),
                true,
            ),
            ("ExtConn timed out while processing.", None, Some(S::TimeoutRead), true),
            (
                "[LSAPI] [uds://tmp/lshttpd/lsphp.sock] Connection to [uds://tmp/lshttpd/lsphp.sock] on request #0, confirmed 0, error: Connection refused!",
                sock,
                Some(S::ConnectRefused),
                true,
            ),
            (
                "connection to [127.0.0.1:5000] on request #7, error: Connection reset by peer!",
                Some("127.0.0.1:5000"),
                Some(S::Reset),
                true,
            ),
            ("Premature end of response header.", None, Some(S::PrematureClose), true),
            ("File not found [/srv/oops! 503 x]", None, None, false),
            ("[STDERR] oops! 503 Service Unavailable", None, None, false),
            (
                "[STDERR] connection to [127.0.0.1:5000] on request #7, error: Connection refused!",
                None,
                None,
                false,
            ),
            (
                "[STDERR] Reached max children process limit: 10, extra: 3, current: 13, busy: 13, please increase LSAPI_CHILDREN.",
                None,
                Some(S::MaxChildren),
                false,
            ),
            (
                "[STDERR] PHP Fatal error:  Allowed memory size of 9 bytes exhausted",
                None,
                Some(S::MemoryLimit),
                false,
            ),
        ] {
            let line = format!(
                "2026-11-20 12:51:34.774649 [NOTICE] [7] [198.51.100.7:4#a.example] {text}"
            );
            let r = record(&line);
            assert_eq!(
                (r.upstream.as_deref(), r.signal, r.gateway),
                (upstream, signal, gateway),
                "{line}"
            );
        }
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "2026-11-20 12:51:34: (gw_backend.c.274) x",
            "2026-11-20T12:51:34Z [NOTICE] [7] x",
            "2026-11-20 12:51:34.1 [Note] x",
            "2026-11-20 12:51:34 7 [Note] x",
            "#0 /srv/x.php(1): y()",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
