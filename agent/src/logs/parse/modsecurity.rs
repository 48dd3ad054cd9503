//! ModSecurity's audit logs: the native one in sections (`--a1b2c3d4-A--`), its index of one line a
//! request, and JSON. What it writes into a web server's error log is read there.
//!
//! Nearly all of a section is what a client sent, so only the line that opens an entry is a record. No
//! line of it says that an upstream failed.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::logs::parse::{access, clf, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    match line.first() {
        Some(b'{') => json(line),
        Some(b'[') => opening(line).map_or(Line::Rejected(Rejected::Continuation), Line::Error),
        Some(b'-') if is_boundary(line) => Line::Rejected(Rejected::Directive),
        _ => index(line).map_or(Line::Rejected(Rejected::Continuation), Line::Error),
    }
}

/// The number of the rule by which a request was refused, 0 when none is named; `None` for any other
/// message.
///
/// A client may write what looks like another rule's number into what the rule found, so the number is
/// a hint; that something was refused is told by the first words, which are not the client's.
pub(crate) fn blocked(message: &str) -> Option<u32> {
    let mut said = message;
    // The module for nginx names the client first.
    if let Some(inside) = said.strip_prefix("[client ") {
        said = inside.split_once("] ")?.1;
    }
    let said = said.strip_prefix("ModSecurity: ").unwrap_or(said);
    let rest = said.strip_prefix("Access denied with ")?;
    // `code 403 (phase 2)`, `redirection to`, `connection close`.
    let is_known = ["code ", "redirection ", "connection ", "proxy "];
    is_known.iter().any(|words| rest.starts_with(words)).then_some(())?;
    Some(quoted(rest, "[id \"").and_then(|id| id.parse().ok()).unwrap_or(0))
}

/// The host that was asked for, where the message tells.
pub(crate) fn hostname(message: &str) -> Option<&str> {
    quoted(message, "[hostname \"")
}

/// What stands in quotes behind the last of these labels: behind it comes less of the client's.
fn quoted<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let inside = &text[text.rfind(label)? + label.len()..];
    inside.split_once("\"]").map(|(value, _)| value)
}

/// `--a1b2c3d4-A--`, with three dashes in version 3: the letter names the section.
fn is_boundary(line: &[u8]) -> bool {
    let Some(inside) = line.strip_prefix(b"--").and_then(|rest| rest.strip_suffix(b"--")) else {
        return false;
    };
    let id = inside.strip_prefix(b"-").unwrap_or(inside);
    let n = id.iter().take_while(|b| b.is_ascii_alphanumeric()).count();
    let section = id[n..].iter().copied().filter(|b| *b != b'-').collect::<Vec<u8>>();
    (6..=64).contains(&n) && matches!(section[..], [b'A'..=b'Z'])
}

/// `[20/Nov/2026:12:00:00 +0000] UNIQUE-ID 198.51.100.7 4242 192.0.2.1 443`, of section A.
fn opening(line: &[u8]) -> Option<ErrorRecord<'_>> {
    let inside = line.strip_prefix(b"[")?;
    let end = memchr::memchr(b']', &inside[..inside.len().min(48)])?;
    let time = time::clf(&inside[..end])?;
    let rest = inside[end + 1..].strip_prefix(b" ")?;
    let mut words = rest.split(|b| *b == b' ');
    let (_id, client, port, server, server_port) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let is_port = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let is_opening = is_address(client)
        && is_port(port)
        && !server.is_empty()
        && is_port(server_port)
        && words.next().is_none();
    is_opening.then(|| ErrorRecord {
        time: Some(time),
        client: Some(access::text(client)),
        message: access::text(rest),
        ..ErrorRecord::default()
    })
}

fn is_address(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<std::net::IpAddr>().is_ok())
}

/// A line of the index of a concurrent log: an access line that goes on with the unique id, the
/// session, the entry's file, its offset and size and an `md5:`.
fn index(line: &[u8]) -> Option<ErrorRecord<'_>> {
    let is_index = memchr::memmem::rfind(line, b" md5:").is_some_and(|at| {
        let digest = &line[at + 5..];
        digest.len() == 32 && digest.iter().all(u8::is_ascii_hexdigit)
    });
    let Line::Access(request) = (if is_index { clf::parse(line) } else { return None }) else {
        return None;
    };
    Some(ErrorRecord {
        time: request.time,
        host: request.host,
        client: request.client,
        method: request.method,
        path: request.path,
        message: access::text(line),
        ..ErrorRecord::default()
    })
}

fn json<'l>(line: &[u8]) -> Line<'l> {
    let entry = serde_json::from_slice::<Map<String, Value>>(line).ok();
    let record = entry.as_ref().and_then(of_entry);
    record.map_or(Line::Rejected(Rejected::Malformed), Line::Error)
}

/// Version 3 has everything inside `transaction`, version 2 beside it.
fn of_entry<'l>(entry: &Map<String, Value>) -> Option<ErrorRecord<'l>> {
    let transaction = entry.get("transaction")?.as_object()?;
    let text = |key: &str| transaction.get(key).and_then(Value::as_str);
    let client = text("client_ip").or_else(|| text("remote_address"))?;
    let time = match (text("time_stamp"), text("time")) {
        (Some(stamp), _) => time::apache_error(stamp.as_bytes()),
        (None, Some(stamp)) => time::clf(stamp.as_bytes()),
        (None, None) => None,
    };
    let request = transaction.get("request").or_else(|| entry.get("request"))?.as_object()?;
    let of_request = |key: &str| request.get(key).and_then(Value::as_str);
    let line = of_request("request_line").unwrap_or_default();
    let (method, path) = access::request_line(line.as_bytes()).unzip();
    let owned = |text: &str| Cow::<'l, str>::Owned(text.to_owned());
    let host = request.get("headers").and_then(Value::as_object).and_then(|headers| {
        let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        host.and_then(|(_, value)| value.as_str())
    });
    Some(ErrorRecord {
        time,
        client: Some(owned(client)),
        host: host.filter(|host| !host.is_empty()).map(owned),
        method: of_request("method").map(owned).or_else(|| method.map(|m| owned(&m))),
        path: of_request("uri").map(owned).or_else(|| path.map(|p| owned(&p))),
        message: Cow::Owned(messages(entry, transaction).unwrap_or_default()),
        ..ErrorRecord::default()
    })
}

/// The most telling of the messages, in either version.
fn messages(entry: &Map<String, Value>, transaction: &Map<String, Value>) -> Option<String> {
    let list = transaction
        .get("messages")
        .or_else(|| entry.get("audit_data")?.get("messages"))?
        .as_array()?;
    let texts = || list.iter().map(|one| one.get("message").unwrap_or(one).as_str());
    // The one that says why the request was refused, if it was.
    let refused = texts().flatten().find(|text| blocked(text).is_some());
    refused.or(texts().next()?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, client: &str, host: Option<&str>, path: Option<&str>) {
        let Line::Error(r) = parse(line.as_bytes()) else { panic!("{line}") };
        let got = (r.client.as_deref(), r.host.as_deref(), r.path.as_deref());
        assert_eq!(got, (Some(client), host, path), "{line}");
        assert_eq!((r.signal, r.gateway, r.time.is_some()), (None, false, true), "{line}");
    }

    #[test]
    fn each_form_opens_an_entry() {
        check(
            "[20/Nov/2026:12:00:00 +0000] Zq@x1AebAO5-Tfs4 198.51.100.7 4242 192.0.2.1 443",
            "198.51.100.7",
            None,
            None,
        );
        check(
            r#"a.example 198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET /x?a HTTP/1.1" 403 199 "-" "-" Zq@x1 "-" /20261120/20261120-1200/x 0 1234 md5:0123456789abcdef0123456789abcdef"#,
            "198.51.100.7",
            Some("a.example"),
            Some("/x?a"),
        );
        check(
            r#"{"transaction":{"client_ip":"198.51.100.7","time_stamp":"Fri Nov 20 12:00:00 2026","request":{"method":"GET","uri":"/x","headers":{"Host":"a.example"}},"response":{"http_code":502},"messages":[{"message":"m","details":{}}]}}"#,
            "198.51.100.7",
            Some("a.example"),
            Some("/x"),
        );
        check(
            r#"{"transaction":{"time":"20/Nov/2026:12:00:00 +0000","remote_address":"198.51.100.7"},"request":{"request_line":"GET /x HTTP/1.1","headers":{"host":"a.example"}},"response":{"status":502},"audit_data":{"messages":["m"]}}"#,
            "198.51.100.7",
            Some("a.example"),
            Some("/x"),
        );
    }

    #[test]
    fn a_refusal_is_known_by_its_first_words_and_names_its_rule() {
        let apache = r#"ModSecurity: Access denied with code 403 (phase 2). Operator GE matched 5 at TX:anomaly_score. [file "/usr/share/modsecurity-crs/rules/REQUEST-949.conf"] [line "94"] [id "949110"] [msg "Inbound Anomaly Score Exceeded"] [hostname "a.example"] [uri "/x"] [unique_id "Zq"]"#;
        let nginx = r#"[client 198.51.100.7] ModSecurity: Access denied with code 403 (phase 2). Matched "Operator `Ge' with parameter `5' [file "x"] [line "79"] [id "949110"] [rev ""] [hostname "192.0.2.1"] [uri "/"] [ref ""]"#;
        for (message, rule) in [
            (apache, Some(949_110)),
            (nginx, Some(949_110)),
            (&apache["ModSecurity: ".len()..], Some(949_110)),
            ("ModSecurity: Access denied with connection close (phase 1).", Some(0)),
            (r#"ModSecurity: Access denied with code 403 [id "99999999999999"]"#, Some(0)),
            (r#"ModSecurity: Warning. Access denied with code 403 [id "1"]"#, None),
            (r#"PHP message: ModSecurity: Access denied with code 403 [id "1"]"#, None),
            ("[client ModSecurity: Access denied with code 403", None),
            ("ModSecurity: Access denied with \u{e4}", None),
            ("", None),
        ] {
            assert_eq!(blocked(message), rule, "{message}");
        }
        assert_eq!((hostname(apache), hostname("x")), (Some("a.example"), None));
    }

    #[test]
    fn of_an_entry_in_json_the_message_that_refused_is_kept() {
        let line = r#"{"transaction":{"time":"20/Nov/2026:12:00:00 +0000","remote_address":"198.51.100.7"},"request":{"request_line":"GET /x HTTP/1.1","headers":{"Host":"a.example"}},"response":{"status":403},"audit_data":{"messages":["Warning. Pattern match [id \"1\"]","Access denied with code 403 (phase 2). [id \"949110\"]"],"action":{"intercepted":true}}}"#;
        let Line::Error(record) = parse(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(blocked(&record.message), Some(949_110));
    }

    #[test]
    fn what_a_client_sent_is_no_record() {
        for (line, reason) in [
            ("--a1b2c3d4-A--", Rejected::Directive),
            ("---AbCdEf12---H--", Rejected::Directive),
            ("--a1b2c3d4-a--", Rejected::Continuation),
            ("Message: Access denied with code 502 (phase 2).", Rejected::Continuation),
            ("HTTP/1.1 502 Bad Gateway", Rejected::Continuation),
            ("", Rejected::Continuation),
            (
                "[20/Nov/2026:12:00:00 +0000] x 198.51.100.7 4242 192.0.2.1 443 and more",
                Rejected::Continuation,
            ),
            (r#"{"status":502}"#, Rejected::Malformed),
            (r#"{"transaction":{}}"#, Rejected::Malformed),
            (
                r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 1 "-" "x""#,
                Rejected::Continuation,
            ),
        ] {
            assert_eq!(parse(line.as_bytes()), Line::Rejected(reason), "{line}");
        }
    }
}
