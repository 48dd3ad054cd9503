//! Caddy: access lines, errors of requests, and what the server says of itself, as JSON or as the
//! text of its console.
//!
//! An access line does not say who answered; the error line of a request does, and joins it.

use std::borrow::Cow;

use wire::signal::classify;
use wire::v1::Signal;

use crate::logs::parse::json::form::{Role, Server};
use crate::logs::parse::json::said_list;
use crate::logs::parse::json::values::{Values, any_time};
use crate::logs::parse::{access, envelope, time};
use crate::logs::scan::shape::{Keep, Value};
use crate::logs::{AccessRecord, ErrorRecord, Line, LineTime, Rejected};

const PATHS: [&str; 17] = [
    "level",
    "ts",
    "logger",
    "msg",
    "status",
    "duration",
    "request.method",
    "request.host",
    "request.uri",
    "request.client_ip",
    "request.remote_ip",
    "request.remote_addr",
    "request.headers.User-Agent",
    "request.headers.X-Forwarded-For",
    "error",
    "err_trace",
    "upstream",
];

/// What a plain access line says.
pub(super) const FORM: Server = Server {
    roles: &[
        ("level", Role::Same),
        ("logger", Role::Same),
        ("msg", Role::Same),
        ("ts", Role::Time),
        ("status", Role::Status),
        ("request.method", Role::Any),
        ("request.host", Role::Text(Keep::Host, Value::Said)),
        ("request.client_ip", Role::Text(Keep::Client, Value::Said)),
        ("request.remote_ip", Role::Text(Keep::Client, Value::Said)),
        ("request.remote_addr", Role::Text(Keep::Address, Value::Said)),
    ],
    duration_per_s: None,
};

const LEVEL: usize = 0;
const TS: usize = 1;
const LOGGER: usize = 2;
const MSG: usize = 3;
const STATUS: usize = 4;
const DURATION: usize = 5;
const METHOD: usize = 6;
const HOST: usize = 7;
const URI: usize = 8;
const CLIENT: [usize; 3] = [9, 10, 11];
const USER_AGENT: usize = 12;
const FORWARDED_FOR: usize = 13;
const ERROR: usize = 14;
const TRACE: usize = 15;
const UPSTREAM: usize = 16;

const LEVELS: [&str; 7] = ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some(line) = envelope::open(line) else { return Line::Rejected(Rejected::Malformed) };
    let line = line.trim_ascii_end();
    if line.first() == Some(&b'{') {
        return read(line, None);
    }
    match console(line) {
        Some((head, fields)) => read(fields, Some(&head)),
        None => Line::Rejected(Rejected::Malformed),
    }
}

fn read<'l>(fields: &'l [u8], console: Option<&Head<'l>>) -> Line<'l> {
    // Caddy writes JSON as it should be: no other kind of line can be an error record.
    let Some(values) = Values::read(&PATHS, fields) else {
        return Line::Rejected(Rejected::Malformed);
    };
    let head = match console {
        Some(head) => Some(head.clone()),
        None => Head::of(&values),
    };
    match head {
        Some(head) => record(head, &values),
        None => Line::Rejected(Rejected::Malformed),
    }
}

/// What every line says.
#[derive(Clone)]
struct Head<'l> {
    time: Option<LineTime>,
    level: Cow<'l, str>,
    logger: Cow<'l, str>,
    message: Cow<'l, str>,
}

impl<'l> Head<'l> {
    fn of(values: &Values<'l>) -> Option<Self> {
        let level = values.text(LEVEL)?;
        let known = LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known));
        let logger = values.text(LOGGER).unwrap_or_default();
        (known && values.has(TS)).then_some(())?;
        let message = values.text(MSG)?;
        Some(Self { time: values.time(TS, any_time), level, logger, message })
    }
}

/// `2026/11/20 12:00:00.123<tab>INFO<tab>http.log.access<tab>handled request<tab>{…}`, in UTC.
fn console(line: &[u8]) -> Option<(Head<'_>, &[u8])> {
    let (time, rest) = time::nginx_error_prefix(line)?;
    let time = match time {
        LineTime::Wall(ms) => LineTime::Instant { at: wire::UnixMillis(ms), offset_s: 0 },
        time => time,
    };
    let mut parts = rest.strip_prefix(b"\t")?.splitn(4, |byte| *byte == b'\t');
    let level = parts.next().map(access::text)?;
    let known = LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known));
    let (logger, message, fields) = (parts.next()?, parts.next(), parts.next());
    // A line of no logger has a part less.
    let (logger, message, fields) = match (message, fields) {
        (Some(message), Some(fields)) => (logger, message, fields),
        (Some(fields), None) if fields.first() == Some(&b'{') => (&b""[..], logger, fields),
        (Some(message), None) => (logger, message, &b"{}"[..]),
        (None, _) => (&b""[..], logger, &b"{}"[..]),
    };
    let head = Head {
        time: Some(time),
        level,
        logger: access::text(logger),
        message: access::text(message),
    };
    known.then_some((head, fields))
}

fn record<'l>(head: Head<'l>, values: &Values<'l>) -> Line<'l> {
    let is_access = head.logger.starts_with("http.log.access");
    if is_access && head.message == "handled request" {
        return access_record(&head, values).map_or_else(Line::Rejected, Line::Access);
    }
    if head.logger == "http.log.error" || head.logger.starts_with("http.log.error.") {
        return Line::Error(request_error(head, values));
    }
    if values.has(STATUS) && !head.logger.starts_with("http.") {
        // Somebody else's requests, by a logger of the same make.
        return Line::Rejected(Rejected::Malformed);
    }
    let message: Cow<'l, str> = match values.text(ERROR) {
        Some(error) => format!("{}: {error}", head.message).into(),
        None => head.message,
    };
    Line::Error(ErrorRecord {
        time: head.time,
        level: Some(head.level),
        signal: classify(&message),
        message,
        ..ErrorRecord::default()
    })
}

fn client<'l>(values: &Values<'l>) -> Option<Cow<'l, str>> {
    let [client, peer, peer_and_port] = CLIENT;
    values.text(client).or_else(|| values.text(peer)).or_else(|| {
        values.text(peer_and_port).map(|peer| access::without_port(&peer).to_owned().into())
    })
}

fn access_record<'l>(head: &Head<'l>, values: &Values<'l>) -> Result<AccessRecord<'l>, Rejected> {
    if !values.has(STATUS) || !values.has(METHOD) {
        return Err(Rejected::Malformed);
    }
    // 0: no handler wrote an answer.
    let status = match values.number(STATUS) {
        Some(0.0) => None,
        _ => Some(values.status(STATUS).ok_or(Rejected::BadStatus)?),
    };
    Ok(AccessRecord {
        time: head.time,
        host: values.text(HOST),
        client: client(values),
        forwarded_for: values.text(FORWARDED_FOR).and_then(said_list),
        method: values.text(METHOD),
        path: values.text(URI),
        status,
        request_time: duration(values),
        user_agent: values.text(USER_AGENT),
        ..AccessRecord::default()
    })
}

/// Seconds; some write them as `1.5ms`.
fn duration(values: &Values<'_>) -> Option<f64> {
    values.number(DURATION).or_else(|| {
        let text = values.str(DURATION);
        let units = [("ns", 1e9), ("µs", 1e6), ("us", 1e6), ("ms", 1e3), ("s", 1.0)];
        units.into_iter().find_map(|(unit, per_s)| {
            access::number(text.strip_suffix(unit)?.as_bytes()).map(|n| n / per_s)
        })
    })
}

fn request_error<'l>(head: Head<'l>, values: &Values<'l>) -> ErrorRecord<'l> {
    let status = values.status(STATUS);
    let is_proxy =
        values.str(TRACE).contains("reverseproxy.") || values.str(TRACE).contains("fastcgi.");
    let signal = go_error(&head.message);
    let gateway = matches!(status, Some(502..=504)) && (is_proxy || signal.is_some());
    let upstream = dialed(&head.message).map(|address| Cow::Owned(address.to_owned()));
    ErrorRecord {
        time: head.time,
        level: Some(head.level),
        signal,
        gateway,
        client: client(values),
        host: values.text(HOST),
        method: values.text(METHOD),
        path: values.text(URI),
        upstream: values.text(UPSTREAM).or(upstream),
        status,
        request_time: duration(values),
        message: head.message,
        ..ErrorRecord::default()
    }
}

/// The address of `dial tcp 192.0.2.1:80: …`.
fn dialed(message: &str) -> Option<&str> {
    let rest = message.split_once("dial ")?.1;
    let (network, rest) = rest.split_once(' ')?;
    let address = rest.split_once(": ").map_or(rest, |(address, _)| address);
    let is_address = network.starts_with("tcp") && !address.contains(' ')
        || network == "unix" && address.starts_with('/');
    is_address.then_some(address)
}

/// What an error of Go's network library says.
fn go_error(text: &str) -> Option<Signal> {
    let has = |part: &str| text.contains(part);
    let dialing = has("dial tcp") || has("dial unix") || has("dial udp");
    Some(if has("no upstreams available") {
        Signal::NoLiveUpstreams
    } else if has(": lookup ") || has("no such host") {
        Signal::Dns
    } else if has("connection refused") {
        Signal::ConnectRefused
    } else if dialing && has("no such file or directory") {
        Signal::NoSuchSocket
    } else if dialing && has("permission denied") {
        Signal::Permission
    } else if has("no route to host") || has("network is unreachable") {
        Signal::Unreachable
    } else if dialing && has("resource temporarily unavailable") {
        Signal::BacklogFull
    } else if dialing && (has("timeout") || has("deadline exceeded") || has("timed out")) {
        Signal::ConnectTimeout
    } else if has("tls: ") || has("x509: ") {
        Signal::Tls
    } else if has("timeout awaiting response headers")
        || has("deadline exceeded")
        || has("i/o timeout")
    {
        Signal::TimeoutRead
    } else if has("connection reset by peer") || has("broken pipe") {
        Signal::Reset
    } else if has("response headers exceeded") {
        Signal::TooBigHeader
    } else if has("malformed ") {
        Signal::InvalidHeader
    } else if text.ends_with("EOF") || has("server closed idle connection") {
        Signal::PrematureClose
    } else if has("transport connection broken") {
        Signal::InvalidHeader
    } else {
        return None;
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = r#""request":{"remote_ip":"10.0.0.9","client_ip":"198.51.100.7","method":"GET","host":"a.example","uri":"/p?q","headers":{"User-Agent":["x\" status:502"]}}"#;

    fn line(logger: &str, msg: &str, status: u32) -> String {
        format!(
            r#"{{"level":"error","ts":1795176067.042,"logger":"{logger}","msg":"{msg}",{REQUEST},"duration":0.0015,"status":{status},"err_trace":"reverseproxy.statusError (x)"}}"#
        )
    }

    #[test]
    fn a_handled_request_is_a_request() {
        let text = line("http.log.access.log0", "handled request", 502);
        let Line::Access(r) = parse(text.as_bytes()) else { panic!("{text}") };
        assert_eq!((r.status, r.host.as_deref()), (Some(502), Some("a.example")));
        assert_eq!((r.client.as_deref(), r.path.as_deref()), (Some("198.51.100.7"), Some("/p?q")));
        assert_eq!(
            (r.request_time, r.time),
            (Some(0.0015), time::epoch_seconds(b"1795176067.042"))
        );
        let text = line("http.log.access", "handled request", 0);
        let Line::Access(r) = parse(text.as_bytes()) else { panic!("{text}") };
        assert_eq!(r.status, None);
    }

    #[test]
    fn an_error_of_a_request_says_what_happened() {
        for (msg, status, signal, gateway, upstream) in [
            (
                "dial tcp 192.0.2.1:80: connect: connection refused",
                502,
                Some(Signal::ConnectRefused),
                true,
                Some("192.0.2.1:80"),
            ),
            (
                "dial unix /run/a.sock: connect: no such file or directory",
                502,
                Some(Signal::NoSuchSocket),
                true,
                Some("/run/a.sock"),
            ),
            (
                "dial tcp 192.0.2.1:80: i/o timeout",
                504,
                Some(Signal::ConnectTimeout),
                true,
                Some("192.0.2.1:80"),
            ),
            (
                "dial tcp: lookup a.internal on 192.0.2.53:53: no such host",
                502,
                Some(Signal::Dns),
                true,
                None,
            ),
            (
                "net/http: timeout awaiting response headers",
                504,
                Some(Signal::TimeoutRead),
                true,
                None,
            ),
            ("EOF", 502, Some(Signal::PrematureClose), true, None),
            (
                "net/http: HTTP/1.x transport connection broken: unexpected EOF",
                502,
                Some(Signal::PrematureClose),
                true,
                None,
            ),
            (
                "tls: first record does not look like a TLS handshake",
                502,
                Some(Signal::Tls),
                true,
                None,
            ),
            ("no upstreams available", 503, Some(Signal::NoLiveUpstreams), true, None),
            ("something new", 502, None, true, None),
            ("template: EOF", 500, Some(Signal::PrematureClose), false, None),
        ] {
            let text = line("http.log.error", msg, status);
            let Line::Error(r) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(
                (r.signal, r.gateway, r.upstream.as_deref()),
                (signal, gateway, upstream),
                "{msg}"
            );
            assert_eq!((r.host.as_deref(), r.method.as_deref()), (Some("a.example"), Some("GET")));
            assert_eq!(r.message, msg);
        }
    }

    #[test]
    fn the_console_writes_the_same() {
        for (line, want) in [
            (
                format!(
                    "2026/11/20 12:00:00.123\tINFO\thttp.log.access\thandled request\t{{{REQUEST},\"status\":200}}"
                ),
                "a request",
            ),
            (
                format!(
                    "2026/11/20 12:00:00\tERROR\thttp.log.error\tEOF\t{{{REQUEST},\"status\":502,\"err_trace\":\"reverseproxy.x\"}}"
                ),
                "an error",
            ),
            ("2026/11/20 12:00:00\tINFO\tserver running\t{\"name\":\"srv0\"}".to_owned(), "a word"),
            ("2026/11/20 12:00:00\tINFO\tadmin\tstarted".to_owned(), "a word"),
            ("2026/11/20 12:00:00\tHELLO\tadmin\tstarted".to_owned(), "nothing"),
            ("2026/11/20 12:00:00 [error] 7#7: *31 connect() failed".to_owned(), "nothing"),
        ] {
            let got = match parse(line.as_bytes()) {
                Line::Access(record) if record.status == Some(200) => "a request",
                Line::Error(record) if record.gateway => "an error",
                Line::Error(_) => "a word",
                _ => "nothing",
            };
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn other_lines_are_words_of_the_server_or_left_alone() {
        for (line, is_error) in [
            (r#"web | {"level":"info","ts":1795176067.1,"msg":"using config"}"#, true),
            (
                r#"{"level":"error","ts":1795176067.1,"logger":"tls.obtain","msg":"x","error":"y"}"#,
                true,
            ),
            (r#"{"level":"info","ts":1795176067.1,"msg":"request","status":502}"#, false),
            (r#"{"level":"info","msg":"x"}"#, false),
            (r#"{"level":"loud","ts":1,"msg":"x"}"#, false),
            (r#"{"ts":1795176067.1,"msg":"x"}"#, false),
        ] {
            assert_eq!(matches!(parse(line.as_bytes()), Line::Error(_)), is_error, "{line}");
        }
    }
}
