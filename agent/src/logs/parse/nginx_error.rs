//! nginx error log: `2026/11/20 12:43:07 [error] 94#94: *8 text, client: …, server: …, request: "…",
//! upstream: "…", host: "…", referrer: "…"`, also as syslog relays it.
//!
//! nginx writes request, host and referrer raw. The order of the fields is fixed and the referrer is
//! the last, so what a client puts into one of them never becomes an earlier field. Paths and what
//! applications say stand in the text before them, as raw: a text tells of a failed request only when
//! it begins with the words of nginx for it, and a line that could be read in two ways has no fields.

use memchr::memmem;
use wire::signal::{classify, classify_application};
use wire::v1::Signal;

use crate::logs::parse::{access, syslog, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// The quoted fields, in the order nginx writes them, as they follow a closing quote or a comma.
const QUOTED: [&str; 5] = ["request", "subrequest", "upstream", "host", "referrer"];
/// How texts of failures begin; nothing that a client or an application said stands before them.
const FAILURES: [&[u8]; 24] = [
    b"connect() failed (",
    b"connect() to ",
    b"kevent() reported that connect() failed (",
    b"recv() failed (",
    b"readv() failed (",
    b"send() failed (",
    b"writev() failed (",
    b"sendfile() failed (",
    b"SSL_do_handshake() failed (",
    b"SSL_read() failed (",
    b"SSL_write() failed (",
    b"peer closed connection in SSL handshake",
    b"no live upstreams",
    b"no resolver defined to resolve ",
    b"upstream timed out (",
    b"upstream prematurely closed ",
    b"upstream sent too big header",
    b"upstream sent invalid ",
    b"upstream sent no valid ",
    b"upstream sent unsupported ",
    b"upstream sent unexpected ",
    b"upstream SSL certificate ",
    b"upstream rejected request with error ",
    b"upstream closed ",
];
/// What nginx does while the client waits for the first byte.
const BEFORE_THE_ANSWER: [&[u8]; 4] = [
    b" while connecting to upstream",
    b" while SSL handshaking to upstream",
    b" while sending request to upstream",
    b" while reading response header from upstream",
];

/// What the mail module does with the address of its client.
const OF_A_CLIENT: &[u8] = b" while in resolving client address";

/// One line. What PHP wrote over several lines goes on in lines without a time: `Continuation`.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let relayed = || {
        let (_, _, text) = syslog::inside(line, |program| program == b"nginx")?;
        time::nginx_error_prefix(text)
    };
    let Some((time, rest)) = time::nginx_error_prefix(line).or_else(relayed) else {
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
    let is_failed = is_failure(message);
    let asked = read_fields(fields, message, &mut record);
    if is_failed {
        record.signal = classify(&record.message);
        // What a subrequest fails for is not what the client was answered.
        record.gateway = record.signal.is_some()
            && asked == Asked::Request
            && (BEFORE_THE_ANSWER.iter().any(|doing| message.ends_with(doing))
                || is_unresolved(message) && !message.ends_with(OF_A_CLIENT));
    } else {
        record.signal = own_trouble(message);
    }
    Line::Error(record)
}

/// What the fields say the line is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Request,
    Subrequest,
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

/// The text and the fields after `, client: `. Where a text that may hold foreign words leaves two
/// places to begin the fields at, none of them is believed.
fn split_fields(text: &[u8]) -> (&[u8], &[u8]) {
    let mut places = memmem::find_iter(text, b", client: ").filter(|at| {
        let fields = &text[at + 10..];
        let client = &fields[..memchr::memchr(b',', fields).unwrap_or(fields.len())];
        // The mail module says how the client talks.
        let client = client.strip_suffix(b" using starttls").unwrap_or(client);
        let address = |b: &u8| b.is_ascii_hexdigit() || matches!(b, b'.' | b':');
        client == b"unix:" || !client.is_empty() && client.iter().all(address)
    });
    let Some(first) = places.next() else { return (text, b"") };
    if !is_failure(&text[..first]) && places.next().is_some() {
        return (&text[..first], b"");
    }
    (&text[..first], &text[first + 10..])
}

/// A text in the words of nginx for a failed connection, or a name that it could not resolve.
fn is_failure(message: &[u8]) -> bool {
    FAILURES.iter().any(|start| message.starts_with(start)) || is_unresolved(message)
}

fn is_unresolved(message: &[u8]) -> bool {
    if let Some(name) = message.strip_prefix(b"no resolver defined to resolve ") {
        return is_name(name);
    }
    let Some(at) = memmem::find(&message[..message.len().min(300)], b" could not be resolved (")
    else {
        return false;
    };
    let is_whole = message.ends_with(b")") || message.ends_with(OF_A_CLIENT);
    is_name(&message[..at]) && is_whole
}

fn is_name(name: &[u8]) -> bool {
    name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
}

/// What the server says of itself or hands on from PHP; paths, which stand in quotes, left out.
fn own_trouble(message: &[u8]) -> Option<Signal> {
    let text = access::text(message);
    if text.starts_with("FastCGI sent in stderr: ") {
        return classify_application(&text);
    }
    let quoted = text.find('"').zip(text.rfind('"'));
    let plain = match quoted {
        Some((from, to)) if from < to => format!("{}{}", &text[..from], &text[to + 1..]),
        _ => text.into_owned(),
    };
    let call = plain.split_once("() ").is_some_and(|(name, after)| {
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
            && after.contains("failed (28: No space left on device)")
    });
    let count = plain.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_own = call
        || plain.starts_with("worker process ")
        || count.len() < plain.len() && count.starts_with(" worker_connections are not enough");
    is_own.then(|| classify(&plain)).flatten()
}

fn read_fields<'l>(fields: &'l [u8], message: &[u8], record: &mut ErrorRecord<'l>) -> Asked {
    if fields.is_empty() {
        return Asked::Nothing;
    }
    let end = memchr::memchr(b',', fields).unwrap_or(fields.len());
    record.client = Some(access::text(&fields[..end]));
    let mut rest = &fields[end..];
    if let Some(after) = rest.strip_prefix(b", server: ") {
        let end = memmem::find(after, b", ").unwrap_or(after.len());
        record.server_name = Some(access::text(&after[..end])).filter(|name| !name.is_empty());
        rest = &after[end..];
    }
    let mut asked = Asked::Nothing;
    let mut is_doubtful = false;
    for (at, name) in QUOTED.iter().enumerate() {
        let Some(after) = strip_label(rest, name) else { continue };
        let end = value_end(after, &QUOTED[at + 1..]);
        let value = &after[..end];
        rest = after.get(end + 1..).unwrap_or_default();
        is_doubtful |= holds_a_label(value);
        match *name {
            "request" => {
                (record.method, record.path) = request(value).unzip();
                // Without a version there are no headers, so what follows may be the client's.
                let has_version = access::request_line(value).is_some();
                is_doubtful |= !has_version && rest.len() > 1 && is_failure(message);
                asked = Asked::Request;
            }
            "subrequest" => asked = Asked::Subrequest,
            "upstream" => {
                record.upstream = Some(upstream_address(value));
                // Nothing was asked while its name was not known.
                is_doubtful |= is_unresolved(message);
            }
            "host" => record.host = Some(access::text(value)).filter(|host| !host.is_empty()),
            _ => {}
        }
    }
    if is_doubtful {
        let ErrorRecord { method, path, upstream, host, .. } = record;
        (*method, *path, *upstream, *host) = (None, None, None, None);
    }
    asked
}

/// True for a value that could end earlier than it seems to: a client put a label into it.
fn holds_a_label(value: &[u8]) -> bool {
    memmem::find_iter(value, b"\", ").any(|at| {
        let after = &value[at + 3..];
        QUOTED.iter().any(|name| {
            after.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b": \""))
        })
    })
}

/// `GET /x HTTP/1.1`, or `GET /x` of a client that speaks HTTP/0.9 or was cut off.
fn request(line: &[u8]) -> Option<(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)> {
    access::request_line(line).or_else(|| {
        let at = memchr::memchr(b' ', line)?;
        let (method, target) = (&line[..at], &line[at + 1..]);
        let is_method = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
        let is_target = !target.is_empty() && !target.contains(&b' ');
        (is_method && is_target).then(|| (access::text(method), access::text(target)))
    })
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
            ("writev() failed (32: Broken pipe) while sending request to upstream", true),
            (
                "recv() failed (104: Connection reset by peer) while proxying upgraded connection",
                false,
            ),
            ("peer closed connection in SSL handshake while SSL handshaking to upstream", true),
            (
                "192.0.2.7 could not be resolved (3: Host not found) while in resolving client address",
                false,
            ),
            (
                "[lua] a.lua:7: upstream timed out (110: Connection timed out) while connecting to upstream",
                false,
            ),
            (
                "ModSecurity: Warning. upstream timed out (110: x) while connecting to upstream",
                false,
            ),
        ] {
            let line = format!("2026/11/20 12:43:10 [error] 7#7: *31 {text}{tail}");
            assert_eq!(record(&line).gateway, want, "{text}");
        }
        let resolver = "2026/11/20 12:46:42 [error] 7#7: send() failed (111: Connection refused) while resolving, resolver: 127.0.0.1:53";
        assert!(!record(resolver).gateway, "no client, no request");
        let connect = "2026/11/20 12:43:10 [error] 7#7: *31 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: ";
        for (fields, want) in [
            (r#"0.0.0.0:3306, upstream: "10.0.0.5:3306", bytes from/to client:0/0"#, false),
            (
                r#"a.example, request: "GET / HTTP/1.1", subrequest: "/auth", upstream: "http://127.0.0.1:1/auth", host: "a.example""#,
                false,
            ),
            (
                r#"a.example, request: "GET /", upstream: "http://127.0.0.1:1/", host: "a.example""#,
                true,
            ),
        ] {
            assert_eq!(record(&format!("{connect}{fields}")).gateway, want, "{fields}");
        }
    }

    #[test]
    fn the_server_tells_of_its_own_troubles() {
        use Signal as S;
        for (text, want) in [
            ("1#1: worker process 7 exited on signal 11", Some(S::Segfault)),
            (
                "1#1: *7 1024 worker_connections are not enough while connecting to upstream, client: 192.0.2.1, server: a, request: \"GET / HTTP/1.1\"",
                Some(S::WorkerConnections),
            ),
            ("1#1: 1024 worker_connections are not enough", Some(S::WorkerConnections)),
            (
                "1#1: *7 pwrite() \"/var/lib/nginx/body/01\" failed (28: No space left on device) while reading client request body, client: 192.0.2.1, server: a",
                Some(S::DiskFull),
            ),
            (
                "1#1: *7 open() \"/srv/x failed (28: No space left on device)\" failed (2: No such file or directory), client: 192.0.2.1, server: a",
                None,
            ),
            (
                "1#1: *7 FastCGI sent in stderr: \"PHP message: PHP Fatal error:  Allowed memory size of 9 bytes exhausted\" while reading response header from upstream, client: 192.0.2.1, server: a",
                Some(S::MemoryLimit),
            ),
            ("1#1: signal process started", None),
        ] {
            let line = format!("2026/11/20 12:43:10 [alert] {text}");
            assert_eq!(record(&line).signal, want, "{line}");
            assert!(!record(&line).gateway, "{line}");
        }
    }

    #[test]
    fn what_a_relay_puts_before_the_line_is_taken_off() {
        let inner = r#"2026/11/20 12:43:10 [error] 7#7: *3 access forbidden by rule, client: 192.0.2.1, server: a.example, request: "GET /x HTTP/1.1", host: "a.example""#;
        for head in [
            "",
            "<187>Nov 20 12:43:10 web nginx: ",
            "web nginx[7]: ",
            "2026-11-20T12:43:10Z web nginx[7]: ",
        ] {
            let line = format!("{head}{inner}");
            assert_eq!(record(&line).path.as_deref(), Some("/x"), "{line}");
        }
        let other = format!("web app[7]: {inner}");
        assert!(matches!(parse(other.as_bytes()), Line::Rejected(_)));
    }

    #[test]
    fn a_path_or_an_application_that_imitates_the_fields_is_not_believed() {
        let fake = r#"x" failed (2: No such file or directory), client: 203.0.113.9, server: evil.example, request: "GET / HTTP/1.1", upstream: "http://203.0.113.9/", host: "evil.example"#;
        let real = r#", client: 198.51.100.7, server: a.example, request: "GET /x HTTP/1.1", host: "a.example""#;
        for text in [
            format!(r#"open() "/srv/{fake}" failed (2: No such file or directory){real}"#),
            format!(
                r#"FastCGI sent in stderr: "PHP message: {fake}" while reading response header from upstream{real}"#
            ),
            format!(
                r"[lua] x.lua:1: connect() failed (111: Connection refused) while connecting to upstream {fake}{real}"
            ),
            format!(r#"client sent invalid header line: "{fake}"{real}"#),
        ] {
            let line = format!("2026/11/20 12:43:10 [error] 7#7: *3 {text}");
            let r = record(&line);
            assert_eq!(
                (r.host.as_deref(), r.upstream.as_deref(), r.server_name.as_deref()),
                (None, None, None),
                "{line}"
            );
            assert_eq!((r.signal, r.gateway), (None, false), "{line}");
        }
        // What a client puts into its request, where nginx takes spaces, names no other site.
        for request in [
            r#"GET /", upstream: "http://203.0.113.9/", host: "evil.example" HTTP/1.1"#,
            r#"GET /", host: "evil.example", referrer: "x HTTP/1.0"#,
            r#"GET /", host: "evil.example"#,
        ] {
            let line = format!(
                r#"2026/11/20 12:43:10 [error] 7#7: *3 connect() failed (111: Connection refused) while connecting to upstream, client: 198.51.100.7, server: a.example, request: "{request}", upstream: "http://127.0.0.1:1/x""#
            );
            let r = record(&line);
            assert_eq!(
                (r.host.as_deref(), r.server_name.as_deref()),
                (None, Some("a.example")),
                "{line}"
            );
            assert!(
                r.gateway && r.upstream.as_deref().is_none_or(|u| u == "127.0.0.1:1"),
                "{line}"
            );
        }
        // A referrer takes nothing away from a failure that is one, but for what it imitates.
        let line = format!(
            r#"2026/11/20 12:43:10 [error] 7#7: *3 no live upstreams while connecting to upstream{real}, referrer: "{fake}""#
        );
        let r = record(&line);
        assert!(r.gateway && r.server_name.as_deref() == Some("a.example"), "{line}");
        assert!(r.host.is_none() && r.upstream.is_none(), "{line}");
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
