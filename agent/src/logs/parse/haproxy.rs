//! HAProxy over syslog: `option httplog` lines, and its messages about servers.
//!
//! `client:port [accept date] frontend backend/server Tq/Tw/Tc/Tr/Tt status bytes - - SH-- …
//! {captured} "request"`. The termination state says whether the upstream failed.

use wire::signal::classify;
use wire::v1::Signal;

use crate::logs::parse::brief::{Brief, Times};
use crate::logs::parse::{access, time};
use crate::logs::scan::program::find;
use crate::logs::{AccessRecord, Attempt, ErrorRecord, Line, LineTime, Rejected};

/// One line, with or without the header of syslog.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let (logged_at, text) = syslog_header(line);
    match fields(text, &mut Times::default()).map(|fields| record(&fields)) {
        Ok(record) => Line::Access(record),
        Err(reason) => match event(logged_at, text) {
            Some(record) => Line::Error(record),
            None => Line::Rejected(reason),
        },
    }
}

/// The same for a sink that asks for no more.
pub(super) fn brief<'l>(line: &'l [u8], times: &mut Times) -> Option<Brief<'l>> {
    let text = match times.after_syslog(without_priority(line)) {
        Some(after) => after_tag(after).unwrap_or(line),
        None => line,
    };
    let fields = fields(text, times).ok()?;
    (!(502..=504).contains(&fields.status)).then(|| Brief {
        host: fields.host.unwrap_or_default(),
        client: Some(without_port(fields.client)).filter(|c| *c != b"-").unwrap_or_default(),
        upstream: if fields.is_nobody() { b"" } else { fields.backend },
        time: Some(fields.time),
        duration_s: seconds(fields.timers_ms[4]),
        status: fields.status,
    })
}

/// Cuts `<134>Nov 20 12:47:48 localhost haproxy[14476]: `.
fn syslog_header(line: &[u8]) -> (Option<LineTime>, &[u8]) {
    let Some((time, after)) = time::syslog_prefix(without_priority(line)) else {
        return (None, line);
    };
    after_tag(after).map_or((None, line), |text| (Some(time), text))
}

fn without_priority(line: &[u8]) -> &[u8] {
    let Some(inside) = line.strip_prefix(b"<") else { return line };
    memchr::memchr(b'>', &inside[..inside.len().min(4)]).map_or(line, |end| &inside[end + 1..])
}

/// The tag ends at the first ": "; an address never holds one.
fn after_tag(text: &[u8]) -> Option<&[u8]> {
    find(&text[..text.len().min(200)], b": ").map(|at| &text[at + 2..])
}

/// The fields of a request.
struct Fields<'l> {
    client: &'l [u8],
    time: LineTime,
    backend: &'l [u8],
    /// Where the client asked for one, or the first header that was captured.
    host: Option<&'l [u8]>,
    timers_ms: [i64; 5],
    status: u16,
    state: &'l [u8],
    /// Bytes and what follows.
    rest: &'l [u8],
}

impl Fields<'_> {
    /// No server was asked.
    fn is_nobody(&self) -> bool {
        self.backend.ends_with(b"/<NOSRV>")
    }
}

fn fields<'l>(text: &'l [u8], times: &mut Times) -> Result<Fields<'l>, Rejected> {
    let (client, rest) = word(text).ok_or(Rejected::Malformed)?;
    let inside = rest.strip_prefix(b"[").ok_or(Rejected::Malformed)?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(40)]).ok_or(Rejected::Malformed)?;
    let time = times.clf(&inside[..end]).ok_or(Rejected::BadTime)?;
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
    let timers_ms = timers_ms(timers).ok_or(Rejected::Malformed)?;
    let (status_text, rest) = word(after).ok_or(Rejected::Malformed)?;
    let status = access::status(status_text).ok_or(Rejected::BadStatus)?;
    let mut words = rest.split(|b| *b == b' ');
    let state = words.nth(3).filter(|s| s.len() == 4).ok_or(Rejected::Malformed)?;
    let host = host.or_else(|| captured_host(rest));
    Ok(Fields { client, time, backend, host, timers_ms, status, state, rest })
}

fn record<'l>(fields: &Fields<'l>) -> AccessRecord<'l> {
    let nobody = fields.is_nobody();
    let Fields { client, time, backend, host, timers_ms, status, state, rest } = *fields;
    let request = memchr::memchr(b'"', rest).map(|at| &rest[at + 1..]);
    let request = request.map(|r| r.strip_suffix(b"\"").unwrap_or(r));
    let (method, path) = request.and_then(access::request_line).unzip();
    let (signal, failed) = verdict(state, status, nobody);
    AccessRecord {
        time: Some(time),
        time_is_start: true,
        host: host.map(access::text),
        client: Some(access::text(without_port(client))).filter(|c| c != "-"),
        method,
        path,
        status: Some(status),
        attempts: if nobody {
            Vec::new()
        } else {
            vec![Attempt {
                upstream: access::text(backend),
                status: None,
                time: seconds(timers_ms[3]),
            }]
        },
        request_time: seconds(timers_ms[4]),
        upstream_failed: failed,
        signal,
        ..AccessRecord::default()
    }
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', text)?;
    Some((&text[..at], &text[at + 1..]))
}

fn without_port(client: &[u8]) -> &[u8] {
    memchr::memrchr(b':', client).map_or(client, |at| &client[..at])
}

/// Five timers; -1 = never came so far, `+` = still running when logged.
fn timers_ms(text: &[u8]) -> Option<[i64; 5]> {
    let mut out = [0; 5];
    let mut parts = text.split(|b| *b == b'/');
    for timer in &mut out {
        let part = parts.next()?;
        let digits = part.strip_prefix(b"+").unwrap_or(part);
        *timer = if (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
            digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0'))
        } else {
            std::str::from_utf8(digits).ok()?.parse().ok()?
        };
    }
    Some(out)
}

fn seconds(timer_ms: i64) -> Option<f64> {
    (timer_ms >= 0).then_some(timer_ms as f64 / 1000.0)
}

/// The first captured header, when it can only be a host.
fn captured_host(rest: &[u8]) -> Option<&[u8]> {
    let before_request = &rest[..memchr::memchr(b'"', rest).unwrap_or(rest.len())];
    let inside = &before_request[memchr::memchr(b'{', before_request)? + 1..];
    let end = memchr::memchr2(b'|', b'}', inside)?;
    Some(&inside[..end]).filter(|name| is_host(name))
}

fn is_host(name: &[u8]) -> bool {
    const LETTER: u8 = 1;
    const POINT: u8 = 2;
    let kinds = name.iter().fold(0, |kinds, byte| {
        kinds
            | match byte {
                b'a'..=b'z' | b'A'..=b'Z' => LETTER,
                b'.' => POINT,
                b'0'..=b'9' | b'-' | b':' | b'_' => 0,
                _ => 4,
            }
    });
    kinds == LETTER | POINT
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
