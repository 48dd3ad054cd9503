//! HAProxy over syslog: `option httplog` lines, and its messages about servers.
//!
//! `client:port [accept date] frontend backend/server Tq/Tw/Tc/Tr/Tt status bytes - - SH-- …
//! {captured} "request"`. The termination state says whether the upstream failed.

use memchr::memmem;
use wire::signal::classify;
use wire::v1::Signal;

use crate::logs::parse::{access, time};
use crate::logs::{AccessRecord, Attempt, ErrorRecord, Line, LineTime, Rejected};

/// One line, with or without the header of syslog.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let (logged_at, text) = syslog_header(line);
    match http(text) {
        Ok(record) => Line::Access(record),
        Err(reason) => match event(logged_at, text) {
            Some(record) => Line::Error(record),
            None => Line::Rejected(reason),
        },
    }
}

/// Cuts `<134>Nov 20 12:47:48 localhost haproxy[14476]: `.
fn syslog_header(line: &[u8]) -> (Option<LineTime>, &[u8]) {
    let mut rest = line;
    if let Some(inside) = rest.strip_prefix(b"<")
        && let Some(end) = memchr::memchr(b'>', &inside[..inside.len().min(4)])
    {
        rest = &inside[end + 1..];
    }
    let Some((time, after)) = time::syslog_prefix(rest) else { return (None, line) };
    // The tag ends at the first ": "; an address never holds one.
    match memmem::find(&after[..after.len().min(200)], b": ") {
        Some(at) => (Some(time), &after[at + 2..]),
        None => (None, line),
    }
}

fn http(text: &[u8]) -> Result<AccessRecord<'_>, Rejected> {
    let (client, rest) = word(text).ok_or(Rejected::Malformed)?;
    let inside = rest.strip_prefix(b"[").ok_or(Rejected::Malformed)?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(40)]).ok_or(Rejected::Malformed)?;
    let time = time::clf(&inside[..end]).ok_or(Rejected::BadTime)?;
    let rest = inside[end + 1..].strip_prefix(b" ").ok_or(Rejected::Malformed)?;
    let (_frontend, rest) = word(rest).ok_or(Rejected::Malformed)?;
    let (backend, mut rest) = word(rest).ok_or(Rejected::Malformed)?;
    let (mut timers, mut after) = word(rest).ok_or(Rejected::Malformed)?;
    let mut host = None;
    if memchr::memchr_iter(b'/', timers).count() != 4 {
        // Some formats have the name the client asked for here.
        host = Some(timers).filter(|name| is_host(name));
        rest = after;
        (timers, after) = word(rest).ok_or(Rejected::Malformed)?;
    }
    let timers = timers_ms(timers).ok_or(Rejected::Malformed)?;
    let (status_text, rest) = word(after).ok_or(Rejected::Malformed)?;
    let status = access::status(status_text).ok_or(Rejected::BadStatus)?;
    let mut words = rest.split(|b| *b == b' ');
    let state = words.nth(3).filter(|s| s.len() == 4).ok_or(Rejected::Malformed)?;
    let request = memchr::memchr(b'"', rest).map(|at| &rest[at + 1..]);
    let request = request.map(|r| r.strip_suffix(b"\"").unwrap_or(r));
    let (method, path) = request.and_then(access::request_line).unzip();
    let nobody = backend.ends_with(b"/<NOSRV>");
    let (signal, failed) = verdict(state, status, nobody);
    Ok(AccessRecord {
        time: Some(time),
        time_is_start: true,
        host: host.or_else(|| captured_host(rest)).map(access::text),
        client: Some(access::text(without_port(client))).filter(|c| c != "-"),
        method,
        path,
        status: Some(status),
        attempts: if nobody {
            Vec::new()
        } else {
            vec![Attempt { upstream: access::text(backend), status: None, time: timers[3] }]
        },
        request_time: timers[4],
        upstream_failed: failed,
        signal,
        ..AccessRecord::default()
    })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', text)?;
    Some((&text[..at], &text[at + 1..]))
}

fn without_port(client: &[u8]) -> &[u8] {
    memchr::memrchr(b':', client).map_or(client, |at| &client[..at])
}

/// Five timers as seconds; -1 = never came so far, `+` = still running when logged.
fn timers_ms(text: &[u8]) -> Option<[Option<f64>; 5]> {
    let mut out = [None; 5];
    let mut parts = text.split(|b| *b == b'/');
    for slot in &mut out {
        let part = parts.next()?;
        let digits = part.strip_prefix(b"+").unwrap_or(part);
        let value: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        *slot = (value >= 0).then_some(value as f64 / 1000.0);
    }
    Some(out)
}

/// The first captured header, when it can only be a host.
fn captured_host(rest: &[u8]) -> Option<&[u8]> {
    let before_request = &rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())];
    let inside = &before_request[memchr::memchr(b'{', before_request)? + 1..];
    let end = inside.iter().position(|b| matches!(b, b'|' | b'}'))?;
    Some(&inside[..end]).filter(|name| is_host(name))
}

fn is_host(name: &[u8]) -> bool {
    let sign = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'_');
    name.iter().all(sign)
        && memchr::memchr(b'.', name).is_some()
        && name.iter().any(u8::is_ascii_alphabetic)
}

/// What the termination state says: a signal, and whether an upstream failed.
fn verdict(state: &[u8], status: u16, nobody: bool) -> (Option<Signal>, bool) {
    if !(502..=504).contains(&status) {
        return (None, false);
    }
    match (state[0], state[1]) {
        (b'S', b'C') if nobody => (Some(Signal::NoLiveUpstreams), true),
        (b'S', b'C') => (Some(Signal::ConnectRefused), true),
        (b's', b'C') => (Some(Signal::ConnectTimeout), true),
        (b'S', _) => (Some(Signal::PrematureClose), true),
        (b's', b'H' | b'D' | b'L' | b'R' | b'T') => (Some(Signal::TimeoutRead), true),
        // P: an answer too large or not valid; s: waited too long in the queue.
        (b'P', b'H') | (b's' | b'D' | b'K' | b'U' | b'R', _) => (Some(Signal::Other), true),
        _ => (None, false),
    }
}

/// `Server be/s1 is DOWN, …`, `backend be has no server available!`, and other messages.
fn event(logged_at: Option<LineTime>, text: &[u8]) -> Option<ErrorRecord<'_>> {
    let time = logged_at?;
    let is_message = |start: &[u8]| text.starts_with(start);
    let known = [
        &b"Server "[..],
        b"Backup Server ",
        b"backend ",
        b"Proxy ",
        b"Health check ",
        b"Connect from ",
    ];
    if !known.iter().any(|start| is_message(start)) {
        return None;
    }
    let message = access::text(text);
    let pool = text
        .split(|b| *b == b' ')
        .find(|w| memchr::memchr(b'/', w).is_some())
        .filter(|_| is_message(b"Server ") || is_message(b"Backup Server "))
        .map(access::text);
    Some(ErrorRecord {
        time: Some(time),
        signal: classify(&message),
        message,
        pool,
        ..ErrorRecord::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_termination_state_tells_a_dead_backend_from_its_own_answer() {
        for (tail, status, failed, signal) in [
            (
                "be/s1 0/0/0/-1/4 502 209 - - SH-- 1/1/0/0/0 0/0",
                502,
                true,
                Some(Signal::PrematureClose),
            ),
            ("be/s1 0/0/0/0/0 502 114 - - ---- 1/1/0/0/0 0/0", 502, false, None),
            (
                "be/s1 0/0/-1/-1/1001 503 217 - - SC-- 1/1/0/0/1 0/0",
                503,
                true,
                Some(Signal::ConnectRefused),
            ),
            (
                "be/<NOSRV> 0/-1/-1/-1/0 503 217 - - SC-- 1/1/0/0/0 0/0",
                503,
                true,
                Some(Signal::NoLiveUpstreams),
            ),
            ("be/s1 0/0/0/1/1 503 122 - - ---- 1/1/0/0/0 0/0", 503, false, None),
            ("be/<NOSRV> 0/-1/-1/-1/0 503 217 - - PR-- 1/1/0/0/0 0/0", 503, false, None),
            (
                "be/s1 0/0/0/-1/2004 504 198 - - sH-- 1/1/0/0/0 0/0",
                504,
                true,
                Some(Signal::TimeoutRead),
            ),
            ("be/s1 0/0/0/0/65 200 2161 - - SD-- 1/1/0/0/0 0/0", 200, false, None),
        ] {
            let line = format!(
                "Nov 20 12:47:17 web haproxy[119]: 198.51.100.7:37858 [20/Nov/2026:12:47:17.812] in {tail} {{a.example}} \"GET /p HTTP/1.1\""
            );
            let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(
                (r.status, r.upstream_failed, r.signal),
                (Some(status), failed, signal),
                "{tail}"
            );
            assert_eq!(
                (r.host.as_deref(), r.client.as_deref()),
                (Some("a.example"), Some("198.51.100.7"))
            );
        }
    }

    #[test]
    fn server_messages_and_rubbish() {
        let Line::Error(r) = parse(
            b"<129>Nov 20 12:47:48 h haproxy[1]: Server be/s1 is DOWN, reason: Layer4 timeout.",
        ) else {
            panic!("an event")
        };
        assert_eq!((r.signal, r.pool.as_deref()), (Some(Signal::ServerDown), Some("be/s1")));
        for line in
            [&b""[..], b"x", b"<134>Nov 20 12:47:48 h haproxy[1]: a b c", b"a:1 [x] b c d 502"]
        {
            assert!(matches!(parse(line), Line::Rejected(_)));
        }
    }
}
