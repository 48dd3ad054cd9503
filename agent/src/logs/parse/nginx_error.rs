//! nginx error log: `2026/11/20 12:43:07 [error] 94#94: *8 text, client: …, server: …, request: "…",
//! upstream: "…", host: "…", referrer: "…"`.
//!
//! nginx writes request, host and referrer raw. The order of the fields is fixed and the referrer is
//! the last, so what a client puts into one of them never becomes an earlier field.

use memchr::memmem;
use wire::signal::classify;
use wire::v1::Signal;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// The quoted fields, in the order nginx writes them, as they follow a closing quote or a comma.
const QUOTED: [&str; 5] = ["request", "subrequest", "upstream", "host", "referrer"];

/// One line. What PHP wrote over several lines goes on in lines without a time: `Continuation`.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some((time, rest)) = time::nginx_error_prefix(line) else {
        return Line::Rejected(Rejected::Continuation);
    };
    let Some((level, rest)) = level(rest) else { return Line::Rejected(Rejected::Malformed) };
    let (connection, text) = process_and_connection(rest);
    let mut record = ErrorRecord {
        time: Some(time),
        level: Some(access::text(level)),
        connection,
        ..ErrorRecord::default()
    };
    let (message, fields) = split_fields(text);
    record.message = access::text(message);
    read_fields(fields, &mut record);
    record.signal = classify(&record.message);
    record.gateway = is_gateway(&record, fields);
    Line::Error(record)
}

fn level(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = rest.strip_prefix(b" [")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(12)])?;
    Some((&inside[..end], inside[end + 1..].strip_prefix(b" ")?))
}

/// `94#94: *8 text`, `94#94: text`.
fn process_and_connection(rest: &[u8]) -> (Option<u64>, &[u8]) {
    let Some(at) = memmem::find(&rest[..rest.len().min(32)], b": ") else { return (None, rest) };
    let text = &rest[at + 2..];
    let Some(number) = text.strip_prefix(b"*") else { return (None, text) };
    let n = number.iter().take_while(|b| b.is_ascii_digit()).count();
    let connection = std::str::from_utf8(&number[..n]).ok().and_then(|d| d.parse().ok());
    match number[n..].strip_prefix(b" ") {
        Some(text) if connection.is_some() => (connection, text),
        _ => (None, text),
    }
}

/// The text and the fields after `, client: `.
fn split_fields(text: &[u8]) -> (&[u8], &[u8]) {
    for at in memmem::find_iter(text, b", client: ") {
        let fields = &text[at + 10..];
        let client_end = memchr::memchr(b',', fields).unwrap_or(fields.len());
        let address = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'.' | b':');
        let client = &fields[..client_end];
        if client == b"unix:" || !client.is_empty() && client.iter().all(address) {
            return (&text[..at], fields);
        }
    }
    (text, b"")
}

fn read_fields<'l>(fields: &'l [u8], record: &mut ErrorRecord<'l>) {
    if fields.is_empty() {
        return;
    }
    let end = memchr::memchr(b',', fields).unwrap_or(fields.len());
    record.client = Some(access::text(&fields[..end]));
    let mut rest = &fields[end..];
    if let Some(after) = rest.strip_prefix(b", server: ") {
        let end = memmem::find(after, b", ").unwrap_or(after.len());
        record.server_name = Some(access::text(&after[..end])).filter(|name| !name.is_empty());
        rest = &after[end..];
    }
    for (at, name) in QUOTED.iter().enumerate() {
        let Some(after) = strip_label(rest, name) else { continue };
        let end = value_end(after, &QUOTED[at + 1..]);
        let value = &after[..end];
        rest = after.get(end + 1..).unwrap_or_default();
        match *name {
            "request" => {
                (record.method, record.path) = access::request_line(value).unzip();
            }
            "upstream" => record.upstream = Some(upstream_address(value)),
            "host" => record.host = Some(access::text(value)).filter(|host| !host.is_empty()),
            _ => {}
        }
    }
}

fn strip_label<'l>(rest: &'l [u8], name: &str) -> Option<&'l [u8]> {
    rest.strip_prefix(b", ")?.strip_prefix(name.as_bytes())?.strip_prefix(b": \"")
}

/// Where a quoted value ends: before the first label that may follow it, else at the last quote.
fn value_end(value: &[u8], later: &[&str]) -> usize {
    later
        .iter()
        .filter_map(|name| memmem::find(value, format!("\", {name}: \"").as_bytes()))
        .min()
        .or_else(|| memchr::memrchr(b'"', value))
        .unwrap_or(value.len())
}

/// `http://127.0.0.1:4101/page` -> `127.0.0.1:4101`, `fastcgi://unix:/run/a.sock:` ->
/// `unix:/run/a.sock`.
pub(crate) fn upstream_address(url: &[u8]) -> std::borrow::Cow<'_, str> {
    let address = memmem::find(url, b"://").map_or(url, |at| &url[at + 3..]);
    let end = match address.strip_prefix(b"unix:") {
        Some(path) => 5 + memchr::memchr(b':', path).unwrap_or(path.len()),
        None => memchr::memchr(b'/', address).unwrap_or(address.len()),
    };
    access::text(&address[..end])
}

/// True when the request failed because of its upstream: the client got a 502, 503 or 504, or a
/// retry.
fn is_gateway(record: &ErrorRecord<'_>, fields: &[u8]) -> bool {
    let Some(signal) = record.signal else { return false };
    let text = &*record.message;
    let at_upstream = match signal {
        Signal::Dns => !text.contains("client address"),
        Signal::ConnectRefused
        | Signal::ConnectTimeout
        | Signal::Unreachable
        | Signal::Reset
        | Signal::PrematureClose
        | Signal::TimeoutRead
        | Signal::NoLiveUpstreams
        | Signal::TooBigHeader
        | Signal::InvalidHeader
        | Signal::Permission
        | Signal::NoSuchSocket
        | Signal::BacklogFull
        | Signal::Tls => text.contains("upstream"),
        _ => false,
    };
    // After the headers the client has its 200, whatever happens then.
    let answered = text.contains("while reading upstream") || text.contains("proxying upgraded");
    let for_a_request = !fields.is_empty() && record.method.is_some();
    at_upstream && for_a_request && !answered && !text.contains("FastCGI sent in stderr")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(line: &str) -> ErrorRecord<'_> {
        match parse(line.as_bytes()) {
            Line::Error(record) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failed_connect_tells_who_asked_whom_for_what() {
        let r = record(
            r#"2026/11/20 12:43:10 [error] 7#7: *31 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: a.example, request: "GET /x?y=1 HTTP/2.0", upstream: "http://127.0.0.1:3000/x?y=1", host: "www.a.example:8443", referrer: "https://a.example/""#,
        );
        assert_eq!(
            r.message,
            "connect() failed (111: Connection refused) while connecting to upstream"
        );
        assert_eq!(r.client.as_deref(), Some("198.51.100.7"));
        assert_eq!(r.server_name.as_deref(), Some("a.example"));
        assert_eq!(r.host.as_deref(), Some("www.a.example:8443"));
        assert_eq!((r.method.as_deref(), r.path.as_deref()), (Some("GET"), Some("/x?y=1")));
        assert_eq!(r.upstream.as_deref(), Some("127.0.0.1:3000"));
        assert_eq!(
            (r.connection, r.signal, r.gateway),
            (Some(31), Some(Signal::ConnectRefused), true)
        );
    }

    #[test]
    fn what_is_a_failed_request_and_what_is_not() {
        let tail = r#", client: 198.51.100.7, server: a.example, request: "GET / HTTP/1.1", upstream: "fastcgi://unix:/run/php/a.sock:", host: "a.example""#;
        for (text, want) in [
            (
                "connect() to unix:/run/php/a.sock failed (2: No such file or directory) while connecting to upstream",
                true,
            ),
            (
                "upstream timed out (110: Connection timed out) while reading response header from upstream",
                true,
            ),
            ("upstream prematurely closed connection while reading upstream", false),
            (
                r#"FastCGI sent in stderr: "Primary script unknown" while reading response header from upstream"#,
                false,
            ),
            ("upstream server temporarily disabled while connecting to upstream", false),
            (r#"open() "/srv/x" failed (2: No such file or directory)"#, false),
            ("app.internal could not be resolved (3: Host not found)", true),
            ("limiting requests, excess: 5.4 by zone \"one\"", false),
        ] {
            let line = format!("2026/11/20 12:43:10 [error] 7#7: *31 {text}{tail}");
            assert_eq!(record(&line).gateway, want, "{text}");
        }
        let resolver = "2026/11/20 12:46:42 [error] 7#7: send() failed (111: Connection refused) while resolving, resolver: 127.0.0.1:53";
        assert!(!record(resolver).gateway, "no client, no request");
    }

    #[test]
    fn a_clients_words_stay_inside_their_field() {
        let r = record(
            r#"2026/11/20 12:43:10 [error] 7#7: *3 access forbidden by rule, client: 198.51.100.7, server: a.example, request: "GET /", host: "b.example", x HTTP/1.1", host: "a.example", referrer: "x", upstream: "http://1.2.3.4/", host: "evil""#,
        );
        assert_eq!(r.upstream, None);
        assert!(!r.gateway);
        let r = record(
            r#"2026/11/20 12:43:10 [error] 7#7: *3 recv() failed (104: Connection reset by peer) while reading response header from upstream, client: 198.51.100.7, server: a.example, request: "GET / HTTP/1.0", upstream: "http://127.0.0.1:1/", referrer: "x", host: "evil.example""#,
        );
        assert_eq!(r.host, None, "the referrer is the last field");
    }

    #[test]
    fn lines_of_a_stack_trace_are_no_records() {
        assert_eq!(parse(b"#0 /srv/index.php(14): x()"), Line::Rejected(Rejected::Continuation));
        assert_eq!(parse(b"2026/11/20 12:43"), Line::Rejected(Rejected::Continuation));
        assert_eq!(parse(b"2026/11/20 12:43:10 nothing"), Line::Rejected(Rejected::Malformed));
    }

    #[test]
    fn upstream_urls_become_addresses() {
        for (url, want) in [
            ("http://127.0.0.1:4101/page", "127.0.0.1:4101"),
            ("fastcgi://unix:/run/php/a.sock:", "unix:/run/php/a.sock"),
            ("fastcgi://unix:/run/php/a.sock", "unix:/run/php/a.sock"),
            ("http://unix:/run/a.sock:/?n=8", "unix:/run/a.sock"),
            ("fastcgi://127.0.0.1:9000", "127.0.0.1:9000"),
            ("https://[::1]:8080/x", "[::1]:8080"),
            ("http://backend/x", "backend"),
        ] {
            assert_eq!(upstream_address(url.as_bytes()), want);
        }
    }
}
