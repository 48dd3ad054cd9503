//! Apache error log: `[Fri Nov 20 12:44:23.68 2026] [proxy:error] [pid 121:tid 127] (104)Text: [client
//! A:1] AH01102: …`, and the older form without module and process.
//!
//! The site is in none of these lines. Lines of one request share process and thread.

use memchr::memmem;
use wire::signal::classify;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// Codes of lines that speak of a request its backend failed.
const GATEWAY_CODES: [&str; 10] = [
    "AH00957", "AH02454", "AH01114", "AH01079", "AH01102", "AH01075", "AH01067", "AH01068",
    "AH00898", "AH10404",
];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some((first, mut rest)) = bracket(line) else {
        return Line::Rejected(Rejected::Continuation);
    };
    let Some(time) = time::apache_error(first) else {
        return Line::Rejected(Rejected::Malformed);
    };
    let mut record = ErrorRecord { time: Some(time), ..ErrorRecord::default() };
    if let Some((level, after)) = bracket(rest) {
        let level = memchr::memrchr(b':', level).map_or(level, |at| &level[at + 1..]);
        record.level = Some(access::text(level));
        rest = after;
    }
    if let Some((process, after)) = bracket(rest).filter(|(p, _)| p.starts_with(b"pid ")) {
        record.connection = Some(process_key(process));
        rest = after;
    }
    let message = take_client(rest, &mut record);
    let text = access::text(message);
    record.signal = classify(&text);
    record.gateway = GATEWAY_CODES.iter().any(|code| text.contains(code));
    record.upstream = upstream(message);
    record.message = text;
    Line::Error(record)
}

/// `[…]` at the start, and what follows it and a space.
fn bracket(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(200)])?;
    let after = &inside[end + 1..];
    Some((&inside[..end], after.strip_prefix(b" ").unwrap_or(after)))
}

/// A number for process and thread, the same for all lines of one request.
fn process_key(process: &[u8]) -> u64 {
    process.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Takes `[client A:port] ` out of the front of the text, also after `(104)Reset by peer: ` or a
/// source file.
fn take_client<'l>(rest: &'l [u8], record: &mut ErrorRecord<'l>) -> &'l [u8] {
    let near = &rest[..rest.len().min(160)];
    let label = [&b"[client "[..], b"[remote "]
        .into_iter()
        .find_map(|label| memmem::find(near, label).map(|at| (at, label.len())));
    let Some((at, len)) = label else { return rest };
    let ours = at == 0 || rest[..at].ends_with(b": ");
    let inside = &rest[at + len..];
    // `[client [2001:db8::1]:51548]`
    let brackets = if inside.starts_with(b"[") {
        memchr::memchr(b']', inside).map_or(0, |e| e + 1)
    } else {
        0
    };
    let Some(end) =
        memchr::memchr(b']', &inside[brackets..]).map(|e| e + brackets).filter(|_| ours)
    else {
        return rest;
    };
    record.client = Some(access::text(without_port(&inside[..end])));
    if at == 0 {
        inside[end + 1..].strip_prefix(b" ").unwrap_or_default()
    } else {
        // The error number stands before the client and is wanted too.
        rest
    }
}

/// `198.51.100.7:4242`, `[::1]:4242` and the bare address of old versions.
fn without_port(client: &[u8]) -> &[u8] {
    if let Some(inside) = client.strip_prefix(b"[") {
        return &inside[..memchr::memchr(b']', inside).unwrap_or(inside.len())];
    }
    let whole = std::str::from_utf8(client).is_ok_and(|c| c.parse::<std::net::IpAddr>().is_ok());
    match memchr::memrchr(b':', client) {
        Some(at) if !whole => &client[..at],
        _ => client,
    }
}

/// The backend the line names.
fn upstream(message: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    let after = |label: &[u8]| memmem::find(message, label).map(|at| &message[at + label.len()..]);
    let word =
        |text: &[u8]| text.iter().position(|b| matches!(b, b' ' | b',')).unwrap_or(text.len());
    if let Some(path) = after(b"Unix domain socket ") {
        return Some(access::text(&path[..word(path)]));
    }
    for label in
        [&b"attempt to connect to "[..], b"from remote server ", b"connection to backend: "]
    {
        if let Some(address) = after(label) {
            let address = &address[..word(address)];
            if !address.is_empty() && address != b"returned" {
                return Some(access::text(address));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::Signal;

    fn check(
        line: &str,
        client: Option<&str>,
        upstream: Option<&str>,
        signal: Option<Signal>,
        gateway: bool,
    ) {
        let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(
            (r.client.as_deref(), r.upstream.as_deref(), r.signal, r.gateway),
            (client, upstream, signal, gateway),
            "{line}"
        );
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn proxy_lines_tell_client_backend_and_reason() {
        let head = "[Fri Nov 20 12:44:23.681114 2026] [proxy_http:error] [pid 121:tid 127] ";
        let c = Some("198.51.100.7");
        for (text, client, upstream, signal, gateway) in [
            (
                "(111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:4999 (127.0.0.1:4999) failed",
                None,
                Some("127.0.0.1:4999"),
                Some(Signal::ConnectRefused),
                true,
            ),
            (
                "[client 198.51.100.7:5610] AH01114: HTTP: failed to make connection to backend: 127.0.0.1",
                c,
                Some("127.0.0.1"),
                Some(Signal::ConnectRefused),
                true,
            ),
            (
                "(2)No such file or directory: AH02454: FCGI: attempt to connect to Unix domain socket /run/php/a.sock (localhost:8000) failed",
                None,
                Some("/run/php/a.sock"),
                Some(Signal::NoSuchSocket),
                true,
            ),
            (
                "(104)Connection reset by peer: [client 198.51.100.7:5610] AH01102: error reading status line from remote server 127.0.0.1:4101",
                c,
                Some("127.0.0.1:4101"),
                Some(Signal::Reset),
                true,
            ),
            (
                "[client 198.51.100.7:5610] AH00898: Error reading from remote server returned by /page",
                c,
                None,
                Some(Signal::PrematureClose),
                true,
            ),
            (
                "(70014)End of file found: [client 198.51.100.7:5610] AH01075: Error dispatching request to : ",
                c,
                None,
                Some(Signal::PrematureClose),
                true,
            ),
            (
                "[client 198.51.100.7:5610] AH01071: Got error 'PHP message: connect() failed (111: Connection refused)'",
                c,
                None,
                None,
                false,
            ),
            (
                "(28)No space left on device: [client 198.51.100.7:5610] AH10124: header size is over the limit allowed by ResponseFieldSize (8192 bytes)",
                c,
                None,
                Some(Signal::TooBigHeader),
                false,
            ),
            (
                "AH00959: ap_proxy_connect_backend disabling worker for (127.0.0.1:4998) for 60s",
                None,
                None,
                None,
                false,
            ),
        ] {
            check(&format!("{head}{text}"), client, upstream, signal, gateway);
        }
        check(
            "[Mon Dec 26 16:22:08 2016] [error] [client 192.0.2.1] File does not exist: /x",
            Some("192.0.2.1"),
            None,
            None,
            false,
        );
        check(
            "[Mon Dec 26 16:22:08 2016] [error] [client ::1] File does not exist: /x",
            Some("::1"),
            None,
            None,
            false,
        );
    }

    #[test]
    fn what_is_no_line_is_said_so() {
        for line in
            ["", "[", "[x", "thrown in /srv/x.php on line 14", "[20-Nov-2026 12:59:19] NOTICE: x"]
        {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }
}
