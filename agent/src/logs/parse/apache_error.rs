//! Apache error log: `[Fri Nov 20 12:44:23.68 2026] [proxy:error] [pid 121:tid 127] (104)Text: [client
//! A:1] AH01102: …`, the older form without module and process, forms with the virtual host or other
//! groups in brackets, and the same through syslog, without the time.
//!
//! By default the site is in none of these lines. Lines of one request share process and thread. What
//! a client sent may follow the first words of a message, and an application may write what it likes:
//! only what a proxy module says in its fixed words, from the start of the message, is a failure.

use memchr::memmem;
use wire::signal::{classify, classify_application};
use wire::v1::Signal;

use crate::logs::parse::{access, syslog, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// How the messages of failed requests begin, behind their code, and whether the client got the answer
/// of a gateway for it: after a body has begun, or for a header that is no good, it got something else.
const FAILURES: [(&[u8], bool); 17] = [
    (b"error reading status line from remote server ", true),
    (b"Error reading from remote server", true),
    (b"Error reading headers from backend", true),
    (b"DNS lookup failure for: ", true),
    (b"failed to make connection to backend: ", true),
    (b"HTTP: failed to make connection to backend: ", true),
    (b"ajp: failed to make connection to backend: ", true),
    (b"read response failed from ", true),
    (b"Error dispatching request to : (reading input brigade)", false),
    (b"Error dispatching request to ", true),
    (b"Failed to read FastCGI header", true),
    (b"Got bogus version ", true),
    (b"Error parsing script headers", false),
    (b"bad HTTP/", false),
    (b"header size is over the limit", false),
    (b"error reading response", false),
    (b"malformed header from script", false),
];
/// Codes by which the server speaks of its workers, and of handshakes that came to nothing.
const OWN_CODES: [&[u8]; 8] = [
    b"AH00484", b"AH00161", b"AH00051", b"AH00052", b"AH02006", b"AH02007", b"AH02008", b"AH02032",
];
/// The server hands on what an application or a script wrote.
const APPLICATION_CODES: [&[u8]; 3] = [b"AH01071", b"AH01215", b"AH02811"];
const LEVELS: [&[u8]; 8] =
    [b"emerg", b"alert", b"crit", b"error", b"warn", b"notice", b"info", b"debug"];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if let Some((first, rest)) = bracket(line) {
        let Some(time) = time::apache_error(first).or_else(|| time::iso8601(first)) else {
            return Line::Rejected(Rejected::Malformed);
        };
        return match body(rest) {
            Some(record) => Line::Error(ErrorRecord { time: Some(time), ..record }),
            None => Line::Rejected(Rejected::Malformed),
        };
    }
    let relayed = syslog::inside(line, is_apache)
        .and_then(|(time, _, text)| Some(ErrorRecord { time, ..body(text)? }));
    relayed.map_or(Line::Rejected(Rejected::Continuation), Line::Error)
}

/// `httpd/backend1` is one of several servers of a machine.
fn is_apache(program: &[u8]) -> bool {
    let name = &program[..memchr::memchr(b'/', program).unwrap_or(program.len())];
    matches!(name, b"httpd" | b"apache2" | b"apache")
}

/// What follows the time; `None` when neither level, nor process, nor client is told.
pub(super) fn body(text: &[u8]) -> Option<ErrorRecord<'_>> {
    let mut record = ErrorRecord::default();
    let mut module = None;
    let mut rest = text;
    while record.client.is_none()
        && let Some((group, after)) = bracket_of_groups(rest)
    {
        if !take_group(group, &mut record, &mut module) {
            break;
        }
        rest = after;
    }
    let is_told = record.level.is_some() || record.connection.is_some() || record.client.is_some();
    is_told.then_some(())?;
    let parts = Parts::of(rest, &mut record);
    record.message = access::text(parts.message);
    record.module = module.map(access::text);
    judge(&parts, module, &mut record);
    Some(record)
}

/// Takes what a group in brackets says; false when it is none and the message has begun.
fn take_group<'l>(
    group: &'l [u8],
    record: &mut ErrorRecord<'l>,
    module: &mut Option<&'l [u8]>,
) -> bool {
    let (name, level) = match memchr::memrchr(b':', group) {
        Some(at) => (Some(&group[..at]), &group[at + 1..]),
        None => (None, group),
    };
    let is_level = LEVELS.contains(&level)
        || level.strip_prefix(b"trace").is_some_and(|n| n.len() == 1 && n[0].is_ascii_digit());
    if is_level && record.level.is_none() {
        record.level = Some(access::text(level));
        *module = name;
        return true;
    }
    if group.starts_with(b"pid ") {
        record.connection = Some(process_key(group));
        return true;
    }
    if let Some(client) = client_of(group) {
        record.client = Some(access::text(without_port(client)));
        return true;
    }
    for label in [&b"host "[..], b"vhost ", b"server "] {
        if let Some(name) = group.strip_prefix(label).filter(|name| is_host(name)) {
            record.server_name.get_or_insert(access::text(name));
            return true;
        }
    }
    // Ids of connection and request, `tid 7`, or a host without a label before the level.
    let is_id = group.get(1) == Some(&b':') || group.starts_with(b"tid ");
    if record.level.is_none() && is_host(group) && group.contains(&b'.') {
        record.server_name.get_or_insert(access::text(group));
        return true;
    }
    is_id
}

fn is_host(name: &[u8]) -> bool {
    let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    !name.is_empty() && name.iter().all(is_part)
}

fn client_of(group: &[u8]) -> Option<&[u8]> {
    group.strip_prefix(b"client ").or_else(|| group.strip_prefix(b"remote "))
}

/// `[…]` at the start, and what follows it and a space.
fn bracket(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(200)])?;
    let after = &inside[end + 1..];
    Some((&inside[..end], after.strip_prefix(b" ").unwrap_or(after)))
}

/// The same, where the group may be `[client [2001:db8::1]:51548]`.
fn bracket_of_groups(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (inside, after) = bracket(text)?;
    if !client_of(inside).is_some_and(|client| client.starts_with(b"[")) {
        return Some((inside, after));
    }
    let inside = text.strip_prefix(b"[")?;
    let first = memchr::memchr(b']', inside)?;
    let second = memchr::memchr(b']', &inside[first + 1..]).filter(|n| *n < 16)? + first + 1;
    let after = &inside[second + 1..];
    Some((&inside[..second], after.strip_prefix(b" ").unwrap_or(after)))
}

/// A message taken apart.
struct Parts<'l> {
    /// As it is shown: from the error number on.
    message: &'l [u8],
    /// `(104)Connection reset by peer`, empty where there is none.
    errno: &'l [u8],
    /// `AH01102`
    code: Option<&'l [u8]>,
    /// What follows all of that.
    said: &'l [u8],
}

impl<'l> Parts<'l> {
    /// `file.c(12): (104)Text: [client A:1] AH01102: said`; old versions have the client first.
    fn of(text: &'l [u8], record: &mut ErrorRecord<'l>) -> Self {
        let mut rest = without_clients(text);
        let mut message = rest;
        if let Some(after) = after_file(rest) {
            (rest, message) = (after, after);
        }
        let mut errno = &b""[..];
        if let Some((number, after)) = errno_of(rest) {
            (errno, rest) = (number, after);
        }
        if record.client.is_none()
            && let Some((group, after)) = bracket_of_groups(rest)
            && let Some(client) = client_of(group)
        {
            record.client = Some(access::text(without_port(client)));
            rest = without_clients(after);
            if errno.is_empty() {
                message = rest;
            }
        }
        let is_code = |code: &[u8]| {
            code.strip_prefix(b"AH").is_some_and(|n| n.iter().all(u8::is_ascii_digit))
        };
        let code = rest
            .split_at_checked(7)
            .filter(|(code, after)| is_code(code) && after.starts_with(b": "));
        let (code, said) = match code {
            Some((code, after)) => (Some(code), &after[2..]),
            None => (None, rest),
        };
        Self { message, errno, code, said }
    }
}

/// Skips the same client again, as ModSecurity writes it.
fn without_clients(mut text: &[u8]) -> &[u8] {
    while let Some((group, after)) = bracket_of_groups(text)
        && client_of(group).is_some()
    {
        text = after;
    }
    text
}

/// Skips `mod_authz_core.c(820): `.
fn after_file(text: &[u8]) -> Option<&[u8]> {
    let at = memmem::find(&text[..text.len().min(80)], b".c(")?;
    let is_name = text[..at].iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let rest = &text[at + 3..];
    let n = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if is_name && n > 0 { rest[n..].strip_prefix(b"): ") } else { None }
}

/// `(104)Connection reset by peer: ` and `(EAI 2)Name or service not known: `.
fn errno_of(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"(")?;
    let digits = inside.strip_prefix(b"EAI ").unwrap_or(inside);
    let n = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    if n == 0 || digits.get(n) != Some(&b')') {
        return None;
    }
    let end = memmem::find(&text[..text.len().min(160)], b": ")?;
    Some((&text[..end], &text[end + 2..]))
}

/// A number for process and thread, the same for all lines of one request.
fn process_key(process: &[u8]) -> u64 {
    process.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
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

/// Fills in what happened, whether a request failed by it, and the backend.
fn judge<'l>(parts: &Parts<'l>, module: Option<&[u8]>, record: &mut ErrorRecord<'l>) {
    let is_of_application = parts.code.is_some_and(|code| APPLICATION_CODES.contains(&code))
        || module.is_some_and(|module| module.starts_with(b"php"))
        || parts.said.starts_with(b"PHP ");
    if is_of_application {
        record.signal = classify_application(&access::text(parts.said));
        return;
    }
    // Version 2.2 has no modules and no codes in its lines, and says whose words they are.
    let is_old = module.is_none() && parts.code.is_none();
    let said = if is_old { parts.said.strip_prefix(b"proxy: ") } else { Some(parts.said) };
    let may_speak = match module {
        Some(module) => module.starts_with(b"proxy"),
        None => is_old || parts.code.is_some(),
    };
    if let Some(failure) = said.filter(|_| may_speak).and_then(failure) {
        let Failure { words, is_gateway, upstream } = failure;
        let (errno, code) = (access::text(parts.errno), access::text(parts.code.unwrap_or(b"")));
        record.signal = classify(&format!("{errno}: {code}: {}", access::text(words)));
        record.gateway = is_gateway && record.signal.is_some();
        record.upstream = upstream.map(access::text);
        return;
    }
    record.signal = own_trouble(parts, module, record.client.is_some());
}

/// What a message says of a failure.
struct Failure<'l> {
    /// The fixed words it begins with.
    words: &'l [u8],
    /// A request failed by it.
    is_gateway: bool,
    upstream: Option<&'l [u8]>,
}

/// Reads a message that begins with the words of a failure.
fn failure(said: &[u8]) -> Option<Failure<'_>> {
    // `http: attempt to connect to 127.0.0.1:4999 (127.0.0.1) failed`
    let near = &said[..said.len().min(64)];
    if let Some(at) = memmem::find(near, b": attempt to connect to ")
        && near[..at].iter().all(u8::is_ascii_alphanumeric)
    {
        let end = at + b": attempt to connect to ".len();
        let target = &said[end..];
        let target = target.strip_prefix(b"Unix domain socket ").unwrap_or(target);
        let (words, upstream) = (&said[..end], first_word(target));
        return Some(Failure { words, is_gateway: true, upstream });
    }
    let near = &said[..said.len().min(200)];
    if said.starts_with(b"balancer://")
        && let Some(at) = memmem::find(near, b": All workers are in error state")
    {
        let words = &said[at..at + b": All workers are in error state".len()];
        return Some(Failure { words, is_gateway: true, upstream: None });
    }
    let (start, is_gateway) = FAILURES.iter().find(|(start, _)| said.starts_with(start))?;
    let (words, rest) = said.split_at(start.len());
    let names_backend = start.ends_with(b"backend: ")
        || start.ends_with(b"remote server ")
        || start.ends_with(b"failed from ");
    let upstream = first_word(rest).filter(|_| names_backend);
    Some(Failure { words, is_gateway: *is_gateway, upstream })
}

fn first_word(text: &[u8]) -> Option<&[u8]> {
    let end = text.iter().position(|b| matches!(b, b' ' | b',')).unwrap_or(text.len());
    Some(&text[..end]).filter(|word| !word.is_empty())
}

/// What the server says of itself.
fn own_trouble(parts: &Parts<'_>, module: Option<&[u8]>, has_client: bool) -> Option<Signal> {
    // A module without a name hands on the words of scripts.
    if matches!(module, Some(b"")) {
        return None;
    }
    if parts.errno.starts_with(b"(28)") {
        return Some(Signal::DiskFull);
    }
    let is_script = parts.said.starts_with(b"Premature end of script headers")
        || parts.said.starts_with(b"malformed header from script");
    if is_script {
        return Some(Signal::InvalidHeader);
    }
    let is_own = match parts.code {
        Some(code) => OWN_CODES.contains(&code),
        // Version 2.2.
        None => {
            module.is_none()
                && !has_client
                && (parts.said.starts_with(b"child pid ")
                    || parts.said.starts_with(b"server reached MaxClients setting"))
        }
    };
    let words = &parts.said[..parts.said.len().min(80)];
    let code = access::text(parts.code.unwrap_or(b""));
    is_own.then(|| classify(&format!("{code}: {}", access::text(words)))).flatten()
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
        for line in [
            "",
            "[",
            "[x",
            "thrown in /srv/x.php on line 14",
            "[20-Nov-2026 12:59:19] NOTICE: x",
            "[Fri Nov 20 12:44:23 2026] Out of memory: Killed process 7 (php)",
            "[Fri Nov 20 12:44:23 2026] [UFW BLOCK] IN=eth0",
            "Nov 20 12:44:23 web app[7]: [error] [client 192.0.2.1] x",
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }

    #[test]
    fn forms_with_a_virtual_host_a_request_id_or_of_old_versions_are_read() {
        let refused = "(111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:4999 (127.0.0.1) failed";
        for (line, host, client, gateway) in [
            (
                format!("[Fri Nov 20 12:44:23 2026] [host a.example] [proxy:error] [pid 1] {refused}"),
                Some("a.example"),
                None,
                true,
            ),
            (
                format!("[Fri Nov 20 12:44:23 2026] [proxy:error] [pid 1:tid 2] [vhost a.example] {refused}"),
                Some("a.example"),
                None,
                true,
            ),
            (
                format!("[2026-11-20 12:44:23.68] [a.example] [proxy:error] [R:x1] [C:y2] {refused}"),
                Some("a.example"),
                None,
                true,
            ),
            (
                "[Fri Nov 20 12:44:23 2026] [error] (111)Connection refused: proxy: HTTP: attempt to connect to 127.0.0.1:4999 (127.0.0.1) failed".to_owned(),
                None,
                None,
                true,
            ),
            (
                "[Fri Nov 20 12:44:23 2026] [error] [client 192.0.2.1] (104)Connection reset by peer: proxy: error reading status line from remote server 127.0.0.1".to_owned(),
                None,
                Some("192.0.2.1"),
                true,
            ),
            (
                "[Fri Nov 20 12:44:23 2026] [proxy_balancer:error] [pid 1:tid 2] [client 192.0.2.1:5] AH01167: balancer://app: All workers are in error state for route (a)".to_owned(),
                None,
                Some("192.0.2.1"),
                true,
            ),
            (
                "Nov 20 12:44:23 web httpd/b1[7]: [proxy_fcgi:error] [pid 1:tid 2] (104)Connection reset by peer: [client [2001:db8::1]:5] AH01075: Error dispatching request to : ".to_owned(),
                None,
                Some("2001:db8::1"),
                true,
            ),
            (
                "[Fri Nov 20 12:44:23 2026] [:error] [pid 1:tid 2] [remote 192.0.2.1:0] [client 192.0.2.1] ModSecurity: Warning. x".to_owned(),
                None,
                Some("192.0.2.1"),
                false,
            ),
        ] {
            let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
            let got = (r.server_name.as_deref(), r.client.as_deref(), r.gateway);
            assert_eq!(got, (host, client, gateway), "{line}");
            assert!(r.time.is_some() && !gateway || r.signal.is_some(), "{line}");
        }
    }

    #[test]
    fn the_server_tells_of_its_own_troubles() {
        for (text, signal) in [
            (
                "[mpm_event:error] [pid 1:tid 2] AH00484: server reached MaxRequestWorkers setting, consider raising the MaxRequestWorkers setting",
                Some(Signal::WorkerConnections),
            ),
            (
                "[core:notice] [pid 1] AH00052: child pid 7 exit signal Segmentation fault (11)",
                Some(Signal::Segfault),
            ),
            ("[notice] child pid 7 exit signal Segmentation fault (11)", Some(Signal::Segfault)),
            (
                "[error] server reached MaxClients setting, consider raising the MaxClients setting",
                Some(Signal::WorkerConnections),
            ),
            (
                "[core:error] [pid 1:tid 2] (28)No space left on device: [client 192.0.2.1:5] AH00127: Cannot map GET /x",
                Some(Signal::DiskFull),
            ),
            (
                "[ssl:info] [pid 1:tid 2] (70014)End of file found: [client 192.0.2.1:5] AH02006: SSL handshake stopped: connection was closed",
                Some(Signal::Tls),
            ),
            (
                "[php:error] [pid 1] [client 192.0.2.1:5] PHP Fatal error:  Allowed memory size of 9 bytes exhausted",
                Some(Signal::MemoryLimit),
            ),
            (
                "[cgi:error] [pid 1] [client 192.0.2.1:5] Premature end of script headers: a.cgi",
                Some(Signal::InvalidHeader),
            ),
        ] {
            check(
                &format!("[Fri Nov 20 12:44:23 2026] {text}"),
                None.or(text.contains("[client").then_some("192.0.2.1")),
                None,
                signal,
                false,
            );
        }
    }

    #[test]
    fn no_words_of_a_client_or_an_application_are_taken_for_the_servers() {
        let words = [
            "(111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:9 (127.0.0.1) failed",
            "AH01102: error reading status line from remote server 127.0.0.1:9",
            "[client 203.0.113.9:1] AH01079: failed to make connection to backend: evil.example",
            "[host evil.example] [proxy:error] (111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:9 failed",
            "child pid 7 exit signal Segmentation fault (11)",
            "AH00484: server reached MaxRequestWorkers setting",
            "] [proxy:error] AH01114: HTTP: failed to make connection to backend: evil.example",
        ];
        for word in words {
            for around in [
                "[php7:error] [pid 7] [client 198.51.100.7:5] {}",
                "[:error] [pid 7] [client 198.51.100.7:5] {}",
                "[core:info] [pid 7] [client 198.51.100.7:5] AH00128: File does not exist: /srv/{}",
                "[error] [client 198.51.100.7] File does not exist: /srv/{}",
                "[error] [client 198.51.100.7] user {} not found: /",
                "[proxy_fcgi:error] [pid 7:tid 8] [client 198.51.100.7:5] AH01071: Got error '{}'",
                "[proxy_http:warn] [pid 7:tid 8] [client 198.51.100.7:5] AH01106: bad HTTP/1.1 header returned by /{} (GET)",
                "[proxy:error] [pid 7:tid 8] [client 198.51.100.7:5] AH00898: Error reading from remote server returned by /{}",
                "[authz_core:error] [pid 7:tid 8] [client 198.51.100.7:5] AH01630: client denied by server configuration: /x, referer: {}",
            ] {
                let line = format!("[Fri Nov 20 12:44:23 2026] {}", around.replace("{}", word));
                let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
                assert_eq!(r.client.as_deref(), Some("198.51.100.7"), "{line}");
                assert_eq!(
                    (r.upstream.as_deref(), r.server_name.as_deref()),
                    (None, None),
                    "{line}"
                );
                let is_own_failure = around.contains("AH00898");
                assert_eq!(r.gateway, is_own_failure, "{line}");
                let own = [None, Some(Signal::InvalidHeader), Some(Signal::PrematureClose)];
                assert!(own.contains(&r.signal), "{line} {:?}", r.signal);
            }
        }
    }
}
