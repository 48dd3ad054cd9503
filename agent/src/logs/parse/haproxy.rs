//! HAProxy over syslog: `option httplog` and `tcplog` lines, errors of connections, and its messages
//! about servers. It writes the quotes and braces that a client sends as `#22` and the like.
//!
//! `client:port [accept date] frontend backend/server Tq/Tw/Tc/Tr/Tt status bytes - - SH-- …
//! {captured} "request"`. The termination state says whether the upstream failed.

use wire::signal::classify;
use wire::v1::Signal;

use crate::logs::parse::brief::{Brief, Times};
use crate::logs::parse::requests::is_digits;
use crate::logs::parse::traefik::EARLIER_MAX;
use crate::logs::parse::{access, time};
use crate::logs::scan::near;
use crate::logs::scan::program::find;
use crate::logs::{AccessRecord, Attempt, ErrorRecord, Line, LineTime, Rejected};

/// Which of the request headers that are captured is the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostAt {
    /// Nobody told: the first one, when it can be nothing else.
    First,
    /// None is: what looks like a host is what a client wrote elsewhere.
    Nowhere,
    /// Headers before it.
    After(u8),
}

impl HostAt {
    /// `0` for none, else its place counted from 1.
    pub(super) fn told(place: &str) -> Option<Self> {
        let is_number = place.bytes().all(|byte| byte.is_ascii_digit());
        let place = place.parse::<u8>().ok().filter(|_| is_number)?;
        Some(place.checked_sub(1).map_or(Self::Nowhere, Self::After))
    }
}

/// One line, with or without the header of syslog.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    parse_with(line, HostAt::First)
}

/// The same where it is known which captured header is the host.
pub(super) fn parse_with(line: &[u8], host_at: HostAt) -> Line<'_> {
    let (logged_at, text) = syslog_header(line);
    match fields(text, &mut Times::default(), host_at).map(|fields| record(&fields)) {
        Ok(record) => Line::Access(record),
        Err(reason) => tcp(text)
            .or_else(|| connection_error(text).map(Line::Error))
            .or_else(|| event(logged_at, text).map(Line::Error))
            .unwrap_or(Line::Rejected(reason)),
    }
}

/// The same for a sink that asks for no more.
pub(super) fn brief<'l>(line: &'l [u8], times: &mut Times, host_at: HostAt) -> Option<Brief<'l>> {
    let text = match times.after_syslog(without_priority(line)) {
        Some(after) => after_tag(after).unwrap_or(line),
        None => line,
    };
    let fields = fields(text, times, host_at).ok()?;
    let is_plain = !(502..=504).contains(&fields.status) && fields.retries.0 == 0;
    is_plain.then(|| Brief {
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
    let head = &text[..text.len().min(200)];
    let mut at = near(b':', head)?;
    while head.get(at + 1)? != &b' ' {
        at += 1 + near(b':', &head[at + 1..])?;
    }
    is_own_tag(&head[..at]).then(|| &text[at + 2..])
}

/// ` lb haproxy[14476]`: other programs may write the same words into a system log.
fn is_own_tag(head: &[u8]) -> bool {
    let at = memchr::memrchr2(b' ', b'/', head).map_or(0, |at| at + 1);
    let tag = &head[at..];
    tag.starts_with(b"haproxy") || tag.starts_with(b"hapee")
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
    /// Attempts that failed before, and whether the last one was at another server.
    retries: (usize, bool),
    /// Bytes and what follows.
    rest: &'l [u8],
}

impl Fields<'_> {
    /// No server was asked.
    fn is_nobody(&self) -> bool {
        self.backend.ends_with(b"/<NOSRV>")
    }
}

fn fields<'l>(text: &'l [u8], times: &mut Times, host_at: HostAt) -> Result<Fields<'l>, Rejected> {
    let (client, rest) = word(text).ok_or(Rejected::Malformed)?;
    let inside = rest.strip_prefix(b"[").filter(|_| is_peer(client)).ok_or(Rejected::Malformed)?;
    let end = near(b']', &inside[..inside.len().min(40)]).ok_or(Rejected::Malformed)?;
    let time = times.clf(&inside[..end]).ok_or(Rejected::BadTime)?;
    let rest = inside[end + 1..].strip_prefix(b" ").ok_or(Rejected::Malformed)?;
    let (_frontend, rest) = word(rest).ok_or(Rejected::Malformed)?;
    let (backend, mut rest) = word(rest).ok_or(Rejected::Malformed)?;
    let (mut timers, mut after) = word(rest).ok_or(Rejected::Malformed)?;
    let mut host = None;
    if timers.iter().fold(0, |n, byte| n + usize::from(*byte == b'/')) != 4 {
        // Some formats have the name the client asked for here.
        host = Some(timers).filter(|name| is_host(name));
        rest = after;
        (timers, after) = word(rest).ok_or(Rejected::Malformed)?;
    }
    let timers_ms = timers_ms(timers).ok_or(Rejected::Malformed)?;
    let (status_text, rest) = word(after).ok_or(Rejected::Malformed)?;
    let status = access::status(status_text).ok_or(Rejected::BadStatus)?;
    let (state, counters) = state_and_counters(rest).ok_or(Rejected::Malformed)?;
    let state = Some(state).filter(|state| is_state(state)).ok_or(Rejected::Malformed)?;
    let retries = retries(counters);
    let host = host.or_else(|| captured_host(rest, host_at));
    Ok(Fields { client, time, backend, host, timers_ms, status, state, retries, rest })
}

/// How a request or session ended, in four letters, or two without cookies.
fn is_state(state: &[u8]) -> bool {
    let [who, when, cookies @ ..] = state else { return false };
    b"-CSPLRIDUKcs".contains(who)
        && b"-RQCHDLT".contains(when)
        && cookies.len() <= 2
        && cookies.iter().all(|letter| letter.is_ascii_alphabetic() || *letter == b'-')
}

/// The last of `1/1/0/0/+2`: attempts that failed, with a `+` when another server was tried.
fn retries(counters: &[u8]) -> (usize, bool) {
    let last = counters.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let digits = last.strip_prefix(b"+").unwrap_or(last);
    let n = access::number(digits).filter(|_| counters.contains(&b'/')).unwrap_or_default();
    (n as usize, digits.len() < last.len())
}

fn record<'l>(fields: &Fields<'l>) -> AccessRecord<'l> {
    let nobody = fields.is_nobody();
    let Fields { client, time, backend, host, timers_ms, status, state, retries, rest } = *fields;
    let request = memchr::memchr(b'"', rest).map(|at| &rest[at + 1..]);
    // What a format adds may follow; a request that was too long has no end.
    let request = request.map(|r| &r[..memchr::memchr(b'"', r).unwrap_or(r.len())]);
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
            attempts(backend, retries, seconds(timers_ms[3]))
        },
        request_time: seconds(timers_ms[4]),
        upstream_failed: failed,
        signal,
        ..AccessRecord::default()
    }
}

fn attempts(backend: &[u8], retries: (usize, bool), time: Option<f64>) -> Vec<Attempt<'_>> {
    let (n_earlier, is_elsewhere) = retries;
    // The line names the last server only.
    let earlier = if is_elsewhere { "".into() } else { access::text(backend) };
    let earlier = Attempt { upstream: earlier, ..Attempt::default() };
    let mut attempts = vec![earlier; n_earlier.min(EARLIER_MAX)];
    attempts.push(Attempt { upstream: access::text(backend), time, ..Attempt::default() });
    attempts
}

/// `client [date] frontend backend/server Tw/Tc/Tt bytes state …`: a session, which has no status.
fn tcp(text: &[u8]) -> Option<Line<'_>> {
    let (client, time, rest) = peer_and_time(text)?;
    let (_frontend, rest) = word(rest)?;
    let (backend, rest) = word(rest)?;
    let (timers, rest) = word(rest)?;
    let (bytes, rest) = word(rest)?;
    let (state, rest) = word(rest)?;
    let is_timer = |timer: &[u8]| {
        let digits = timer.strip_prefix(b"+").unwrap_or(timer);
        digits == b"-1" || is_digits(digits)
    };
    let fits = timers.split(|byte| *byte == b'/').count() == 3
        && timers.split(|byte| *byte == b'/').all(is_timer)
        && is_digits(bytes.strip_prefix(b"+").unwrap_or(bytes))
        && state.len() == 2
        && is_state(state);
    if !fits {
        return None;
    }
    let nobody = backend.ends_with(b"/<NOSRV>");
    let client = Some(access::text(without_port(client))).filter(|client| client != "-");
    // A session is judged as a request that got 503 for want of an answer.
    let (signal, failed) = verdict(state, 503, nobody);
    if !failed {
        let record = AccessRecord { time: Some(time), client, ..AccessRecord::default() };
        return Some(Line::Access(AccessRecord { time_is_start: true, ..record }));
    }
    let (counters, _) = word(rest).unwrap_or((rest, b""));
    let known = text.len() - rest.len() + counters.len();
    Some(Line::Error(ErrorRecord {
        time: Some(time),
        client,
        signal,
        gateway: true,
        upstream: (!nobody).then(|| access::text(backend)),
        message: access::text(text.get(..known).unwrap_or(text)),
        ..ErrorRecord::default()
    }))
}

/// `client:port [date] ` and what follows.
fn peer_and_time(text: &[u8]) -> Option<(&[u8], LineTime, &[u8])> {
    let (client, rest) = word(text)?;
    let inside = rest.strip_prefix(b"[").filter(|_| is_peer(client))?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(40)])?;
    let time = time::clf(&inside[..end])?;
    Some((client, time, inside[end + 1..].strip_prefix(b" ")?))
}

/// `client:port [date] frontend/listener: what went wrong`, before there was a request.
fn connection_error(text: &[u8]) -> Option<ErrorRecord<'_>> {
    let (client, time, rest) = peer_and_time(text)?;
    let at = find(&rest[..rest.len().min(200)], b": ")?;
    let names = &rest[..at];
    if memchr::memchr(b' ', names).is_some() || memchr::memchr(b'/', names).is_none() {
        return None;
    }
    let message = access::text(&rest[at + 2..]);
    Some(ErrorRecord {
        time: Some(time),
        client: Some(access::text(without_port(client))).filter(|client| client != "-"),
        // The client's side of it: nothing here is about an upstream.
        signal: message.contains("SSL handshake").then_some(Signal::Tls),
        message,
        ..ErrorRecord::default()
    })
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = near(b' ', text)?;
    Some((&text[..at], &text[at + 1..]))
}

/// An address with its port, `unix:1`, `-`.
fn is_peer(client: &[u8]) -> bool {
    client.iter().all(|byte| byte.is_ascii_alphanumeric() || b".:-_%[]".contains(byte))
}

/// The fourth word, and the fifth, which may be missing.
fn state_and_counters(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = text;
    for _ in 0..3 {
        rest = word(rest)?.1;
    }
    let (state, rest) = word(rest).unwrap_or((rest, b""));
    Some((state, word(rest).map_or(rest, |(word, _)| word)))
}

fn without_port(client: &[u8]) -> &[u8] {
    client.iter().rposition(|byte| *byte == b':').map_or(client, |at| &client[..at])
}

/// Five timers; -1 = never came so far, `+` = still running when logged.
fn timers_ms(text: &[u8]) -> Option<[i64; 5]> {
    // Mostly short numbers, read in one go.
    let mut out = [0; 5];
    let mut rest = text;
    for (n, timer) in out.iter_mut().enumerate() {
        let mut len = 0;
        while let Some(digit @ b'0'..=b'9') = rest.get(len)
            && len < 18
        {
            *timer = *timer * 10 + i64::from(digit - b'0');
            len += 1;
        }
        rest = match &rest[len..] {
            [b'/', rest @ ..] if len > 0 && n < 4 => rest,
            [] if len > 0 && n == 4 => break,
            _ => return signed_timers_ms(text),
        };
    }
    Some(out)
}

/// The same with signs.
fn signed_timers_ms(text: &[u8]) -> Option<[i64; 5]> {
    let mut out = [0; 5];
    let mut parts = text.split(|b| *b == b'/');
    for timer in &mut out {
        let part = parts.next()?;
        let digits = part.strip_prefix(b"+").unwrap_or(part);
        *timer = std::str::from_utf8(digits).ok()?.parse().ok()?;
    }
    Some(out)
}

fn seconds(timer_ms: i64) -> Option<f64> {
    (timer_ms >= 0).then_some(timer_ms as f64 / 1000.0)
}

/// The captured header that is the host. HAProxy writes the bars and braces of a client as `#7C`.
fn captured_host(rest: &[u8], host_at: HostAt) -> Option<&[u8]> {
    let n_before = match host_at {
        HostAt::First => 0,
        HostAt::Nowhere => return None,
        HostAt::After(n_before) => n_before,
    };
    let brace = memchr::memchr2(b'"', b'{', rest).filter(|at| rest[*at] == b'{')?;
    let mut inside = &rest[brace + 1..];
    for _ in 0..n_before {
        let bar = memchr::memchr3(b'|', b'}', b'"', inside).filter(|at| inside[*at] == b'|')?;
        inside = &inside[bar + 1..];
    }
    let end = memchr::memchr3(b'|', b'}', b'"', inside).filter(|at| inside[*at] != b'"')?;
    let name = &inside[..end];
    let is_one = if host_at == HostAt::First { is_host(name) } else { may_be_host(name) };
    is_one.then_some(name)
}

/// What stands in the place of the host may be a name without a point, or an address.
fn may_be_host(name: &[u8]) -> bool {
    let is_sign = |b: &u8| b.is_ascii_alphanumeric() || b".-:_[]".contains(b);
    !name.is_empty() && name.iter().all(is_sign)
}

fn is_host(name: &[u8]) -> bool {
    const LETTER: u8 = 1;
    const POINT: u8 = 2;
    const KINDS: [u8; 256] = {
        let mut kinds = [4; 256];
        let mut byte = 0;
        while byte < 256 {
            kinds[byte] = match byte as u8 {
                b'a'..=b'z' | b'A'..=b'Z' => LETTER,
                b'.' => POINT,
                b'0'..=b'9' | b'-' | b':' | b'_' => 0,
                _ => 4,
            };
            byte += 1;
        }
        kinds
    };
    let kinds = name.iter().fold(0, |kinds, byte| kinds | KINDS[*byte as usize]);
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
    let client = text
        .strip_prefix(b"Connect from ")
        .and_then(word)
        .map(|(client, _)| access::text(without_port(client)));
    let pool = text
        .split(|b| *b == b' ')
        .find(|w| memchr::memchr(b'/', w).is_some())
        .filter(|_| is_message(b"Server ") || is_message(b"Backup Server "))
        .map(access::text);
    Some(ErrorRecord {
        time: Some(time),
        signal: classify(&message),
        message,
        client,
        pool,
        ..ErrorRecord::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::parse::{Parser, check_format};

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
    fn sessions_and_connections_have_no_status() {
        let head =
            "Nov 20 12:47:17 web haproxy[119]: 198.51.100.7:37858 [20/Nov/2026:12:47:17.812]";
        for (tail, want) in [
            ("in db/s1 0/1/7 212 -- 1/1/0/0/0 0/0", "a session"),
            ("in db/<NOSRV> -1/-1/1 212 SC 1/1/0/0/0 0/0", "no_live_upstreams"),
            ("in db/s1 0/-1/3001 0 sC 1/1/0/0/3 0/0", "connect_timeout"),
            ("in db/s1 0/-1/1 0 SC 1/1/0/0/3 0/0", "connect_refused"),
            ("in db/s1 0/1/7 212 CD 1/1/0/0/0 0/0", "a session"),
            ("in db/s1 0/1/7 212 XX 1/1/0/0/0 0/0", "nothing"),
            ("in db/s1 0/1 212 -- 1/1/0/0/0 0/0", "nothing"),
            ("in/1: SSL handshake failure", "tls"),
            ("in/1: Timeout during SSL handshake", "tls"),
            ("in/1: Connection closed during read", "an error"),
            ("in 1: x", "nothing"),
        ] {
            let line = format!("{head} {tail}");
            let got = match parse(line.as_bytes()) {
                Line::Access(record) => record.status.map_or("a session", |_| "a request"),
                Line::Error(r) => {
                    assert_eq!(r.client.as_deref(), Some("198.51.100.7"));
                    r.signal.and_then(Signal::name).unwrap_or("an error")
                }
                Line::Rejected(_) => "nothing",
            };
            assert_eq!(got, want, "{tail}");
        }
    }

    #[test]
    fn retries_are_attempts_that_failed() {
        for (counters, want) in [
            ("1/1/0/0/0", &["be/s2"][..]),
            ("1/1/0/0/1", &["be/s2", "be/s2"]),
            ("1/1/0/0/+2", &["", "", "be/s2"]),
            ("1", &["be/s2"]),
        ] {
            let line = format!(
                "198.51.100.7:1 [20/Nov/2026:12:47:17.812] in be/s2 0/0/0/3/4 200 9 - - ---- {counters} 0/0 {{a.example}} \"GET /p HTTP/1.1\" more \"x\""
            );
            let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
            let upstreams: Vec<_> = r.attempts.iter().map(|a| &*a.upstream).collect();
            assert_eq!(upstreams, want, "{counters}");
            assert_eq!(r.path.as_deref(), Some("/p"));
        }
    }

    #[test]
    fn timers_may_be_missing_or_still_running() {
        let nines = "9".repeat(18);
        for (text, want) in [
            ("0/0/1/65/66", Some([0, 0, 1, 65, 66])),
            ("0/-1/-1/-1/4", Some([0, -1, -1, -1, 4])),
            ("0/0/1/65/+2004", Some([0, 0, 1, 65, 2004])),
            ("007/0/1/65/66", Some([7, 0, 1, 65, 66])),
            (&format!("0/0/0/0/{nines}"), Some([0, 0, 0, 0, 999_999_999_999_999_999])),
            ("0/0/0/0/9223372036854775807", Some([0, 0, 0, 0, i64::MAX])),
            ("0/0/0/0/9223372036854775808", None),
            ("0/0/1/65/", None),
            ("//1/65/66", None),
            ("0/0/1/65", None),
            ("0/0/1/65/66x", None),
            ("", None),
        ] {
            assert_eq!(timers_ms(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn what_another_program_writes_is_no_message_of_haproxy() {
        let request = r#"198.51.100.7:5 [20/Nov/2026:12:47:17.812] in be/s1 0/0/-1/-1/1 503 9 - - SC-- 1/1/0/0/0 0/0 {a.example} "GET /p HTTP/1.1""#;
        let down = "Server be/s1 is DOWN, reason: Layer4 timeout.";
        for text in [request, down] {
            for (tag, is_own) in [
                ("lb haproxy[7]", true),
                ("haproxy[7]", true),
                ("lb haproxy", true),
                ("lb hapee-lb[7]", true),
                ("lb docker/haproxy[7]", true),
                ("lb php[7]", false),
                ("lb app", false),
                ("haproxy app[7]", false),
                ("lb app[7] x", false),
            ] {
                for time in ["Nov 20 12:47:17", "<134>Nov 20 12:47:17", "2026-11-20T12:47:17Z"] {
                    let line = format!("{time} {tag}: {text}");
                    let is_read = !matches!(parse(line.as_bytes()), Line::Rejected(_));
                    assert_eq!(is_read, is_own, "{line}");
                    let host_at = HostAt::First;
                    assert!(brief(line.as_bytes(), &mut Times::default(), host_at).is_none());
                }
            }
        }
        assert!(matches!(parse(request.as_bytes()), Line::Access(_)), "without any header");
    }

    #[test]
    fn a_captured_header_that_is_not_the_host_is_no_host() {
        for (format, captured, host) in [
            ("haproxy", "{a.example}", Some("a.example")),
            ("haproxy", "{a.example|curl}", Some("a.example")),
            ("haproxy", "{curl|a.example}", None),
            ("haproxy", "{shop}", None),
            ("haproxy:host=0", "{a.example}", None),
            ("haproxy:host=0", "{a.example|b.example}", None),
            ("haproxy:host=1", "{a.example|b.example}", Some("a.example")),
            ("haproxy:host=1", "{shop}", Some("shop")),
            ("haproxy:host=1", "{192.0.2.1:8080}", Some("192.0.2.1:8080")),
            ("haproxy:host=2", "{a.example|b.example}", Some("b.example")),
            ("haproxy:host=2", "{a.example|b.example} {c.example|d.example}", Some("b.example")),
            ("haproxy:host=2", "{a.example} {x|c.example}", None),
            ("haproxy:host=2", "{a.example|}", None),
            ("haproxy:host=2", "{a.example|b c}", None),
            ("haproxy:host=3", "{x|y|b.example|z}", Some("b.example")),
            ("haproxy:host=3", "{x|y}", None),
            ("haproxy:host=2", "", None),
        ] {
            assert_eq!(check_format(format), Ok(()));
            let line = |status| {
                format!(
                    r#"Nov 20 12:47:17 lb haproxy[7]: 198.51.100.7:5 [20/Nov/2026:12:47:17.812] in be/s1 0/0/0/1/1 {status} 9 - - ---- 1/1/0/0/0 0/0 {captured} "GET /{{a.example|b.example|c.example}} HTTP/1.1""#
                )
            };
            let mut parser = Parser::for_format(format, &[]);
            assert_eq!(parser.format(), "haproxy");
            let failed = line(502);
            let Line::Access(r) = parser.parse(failed.as_bytes()) else { panic!("{failed}") };
            assert_eq!(r.host.as_deref(), host, "{format} {captured}");
            let host_at = format
                .strip_prefix("haproxy:host=")
                .map_or(HostAt::First, |place| HostAt::told(place).unwrap());
            let good = line(200);
            let plain = brief(good.as_bytes(), &mut Times::default(), host_at).unwrap();
            assert_eq!(plain.host, host.unwrap_or_default().as_bytes(), "{format} {captured}");
        }
        for wrong in ["haproxy:host=", "haproxy:host=x", "haproxy:host=+1", "haproxy:host=256"] {
            assert!(
                check_format(wrong).is_err_and(|fix| fix.contains("haproxy:host=N")),
                "{wrong}"
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
