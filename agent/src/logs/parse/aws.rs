//! AWS load balancers: application (ALB) and classic ones (ELB); of network ones (NLB) nothing, as
//! a TLS connection is no request.
//!
//! Everything of ours comes before the client's words but the request line, which names the host.

use wire::v1::Signal;

use crate::logs::parse::{access, time};
use crate::logs::scan::program::quote_end;
use crate::logs::{AccessRecord, Attempt, Line, Rejected};

/// Types of requests that an application load balancer writes first.
pub(super) const TYPES: [&[u8]; 6] = [b"http", b"https", b"h2", b"grpcs", b"ws", b"wss"];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if line.starts_with(b"tls ") && find_version(line) {
        return Line::Rejected(Rejected::Directive);
    }
    match try_parse(line) {
        Ok(record) => Line::Access(record),
        Err(reason) => Line::Rejected(reason),
    }
}

/// `tls 2.0 2026-…` of a network load balancer.
fn find_version(line: &[u8]) -> bool {
    let mut words = line.split(|b| *b == b' ').skip(2);
    words.next().is_some_and(|word| time::iso8601(word).is_some())
}

fn try_parse(line: &[u8]) -> Result<AccessRecord<'_>, Rejected> {
    let mut rest = line;
    let mut word = || take_word(&mut rest).ok_or(Rejected::Malformed);
    let first = word()?;
    let is_alb = TYPES.contains(&first);
    let at = if is_alb { word()? } else { first };
    if at.len() < 20 || at.get(10) != Some(&b'T') {
        return Err(Rejected::Malformed);
    }
    let _name = word()?;
    let (client, target) = (word()?, word()?);
    let times = [word()?, word()?, word()?].map(seconds);
    let [Some(waited), Some(answered), Some(sent)] = times else { return Err(Rejected::Malformed) };
    let (status_text, target_status) = (word()?, word()?);
    let (received, sent_bytes) = (word()?, word()?);
    if ![client, target].into_iter().all(is_peer)
        || ![received, sent_bytes].into_iter().all(is_count)
    {
        return Err(Rejected::Malformed);
    }
    let status = match status_text {
        b"-" => None,
        text => Some(access::status(text).ok_or(Rejected::BadStatus)?),
    };
    let target_status = access::status(target_status);
    let time = time::iso8601(at).ok_or(Rejected::BadTime)?;
    let request = take_quoted(&mut rest).ok_or(Rejected::Malformed)?;
    let user_agent = take_quoted(&mut rest);
    let (method, target_path) = access::request_line(request).unzip();
    let (host, path) = match target_path {
        Some(target) if access::absolute(&target).is_some() => {
            access::split_absolute(target).unzip()
        }
        target => (None, target),
    };
    let upstream = (target != b"-").then_some(target);
    let (signal, upstream_failed) =
        verdict(status, target_status, upstream.is_some(), || is_fixed(rest));
    Ok(AccessRecord {
        time: Some(time),
        time_is_start: !is_alb,
        host,
        client: Some(access::text(without_port(client))).filter(|c| c != "-"),
        method: method.filter(|method| method != "-"),
        path,
        status,
        attempts: upstream
            .map(|upstream| Attempt {
                upstream: access::text(upstream),
                status: target_status,
                time: Some(answered).filter(|s| *s >= 0.0),
                is_other_group: false,
            })
            .into_iter()
            .collect(),
        request_time: total(waited, answered, sent),
        user_agent: user_agent.filter(|text| *text != b"-").map(access::text),
        no_upstream: upstream.is_none() && !upstream_failed,
        upstream_failed,
        signal,
        ..AccessRecord::default()
    })
}

fn take_word<'l>(rest: &mut &'l [u8]) -> Option<&'l [u8]> {
    let end = memchr::memchr(b' ', rest)?;
    let word = &rest[..end];
    *rest = &rest[end + 1..];
    (!word.is_empty()).then_some(word)
}

/// A text in quotes, and the space after it if more follows.
fn take_quoted<'l>(rest: &mut &'l [u8]) -> Option<&'l [u8]> {
    let inside = rest.strip_prefix(b"\"")?;
    let end = quote_end(inside)?;
    let after = &inside[end + 1..];
    *rest = after.strip_prefix(b" ").unwrap_or(after);
    Some(&inside[..end])
}

/// Seconds; -1 = never came so far.
fn seconds(text: &[u8]) -> Option<f64> {
    if text == b"-1" || text == b"-" { Some(-1.0) } else { access::number(text) }
}

fn total(waited: f64, answered: f64, sent: f64) -> Option<f64> {
    let parts = [waited, answered, sent].into_iter().filter(|part| *part >= 0.0);
    let n = parts.clone().count();
    (n > 0).then(|| (parts.sum::<f64>() * 1e6).round() / 1e6)
}

/// `address:port` or `-`.
fn is_peer(text: &[u8]) -> bool {
    text == b"-"
        || memchr::memrchr(b':', text).is_some_and(|at| {
            at > 0 && at + 1 < text.len() && text[at + 1..].iter().all(u8::is_ascii_digit)
        })
}

fn is_count(text: &[u8]) -> bool {
    matches!(text, b"-" | b"-1") || text.iter().all(u8::is_ascii_digit)
}

fn without_port(peer: &[u8]) -> &[u8] {
    memchr::memrchr(b':', peer).map_or(peer, |at| &peer[..at])
}

/// The answer is one that a rule of the balancer gives: `"fixed-response"` among its actions.
fn is_fixed(rest: &[u8]) -> bool {
    memchr::memmem::find(rest, b"fixed-response\"").is_some()
}

/// What the balancer's status says where the target gave none of its own.
fn verdict(
    status: Option<u16>,
    target_status: Option<u16>,
    has_target: bool,
    is_fixed: impl Fn() -> bool,
) -> (Option<Signal>, bool) {
    match (status, target_status) {
        (Some(502..=504), None) if !has_target && is_fixed() => (None, false),
        // It refused, reset or closed the connection, or its answer was not valid.
        (Some(502), None) => (Some(Signal::Other), true),
        // No target is registered, or none of them is in use.
        (Some(503), None) => (Some(Signal::NoLiveUpstreams), true),
        (Some(504), None) => (Some(Signal::TimeoutRead), true),
        _ => (None, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balancer_and_its_target_are_told_apart() {
        for (middle, tail, status, upstream, failed, signal) in [
            ("192.0.2.1:80 0.001 0.002 0.003 200 200", "", Some(200), Some(Some(200)), false, None),
            ("192.0.2.1:80 0.001 0.002 0.003 502 502", "", Some(502), Some(Some(502)), false, None),
            (
                "192.0.2.1:80 0.001 -1 -1 502 -",
                "",
                Some(502),
                Some(None),
                true,
                Some(Signal::Other),
            ),
            (
                "192.0.2.1:80 0.001 -1 -1 504 -",
                "",
                Some(504),
                Some(None),
                true,
                Some(Signal::TimeoutRead),
            ),
            ("- -1 -1 -1 503 -", "", Some(503), None, true, Some(Signal::NoLiveUpstreams)),
            (
                "- -1 -1 -1 503 -",
                r#" - - - "r" "d" "c" 0 2026-11-20T12:00:00Z "waf,fixed-response" "-""#,
                Some(503),
                None,
                false,
                None,
            ),
            ("- -1 -1 -1 404 -", "", Some(404), None, false, None),
        ] {
            let line = format!(
                r#"https 2026-11-20T12:00:00.123456Z app/lb/1 198.51.100.7:4711 {middle} 34 366 "GET https://a.example:443/p?q HTTP/1.1" "curl \"x" - -{tail}"#
            );
            let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((r.status, r.upstream_failed, r.signal), (status, failed, signal), "{line}");
            assert_eq!(r.attempts.first().map(|a| a.status), upstream, "{line}");
            assert_eq!(r.no_upstream, upstream.is_none() && !failed, "{line}");
            assert_eq!(
                (r.host.as_deref(), r.path.as_deref()),
                (Some("a.example:443"), Some("/p?q"))
            );
            assert_eq!((r.client.as_deref(), r.time_is_start), (Some("198.51.100.7"), false));
            let classic = line.replacen("https ", "", 1);
            let Line::Access(r) = parse(classic.as_bytes()) else { panic!("{classic}") };
            assert!(r.time_is_start && r.status == status);
        }
    }

    #[test]
    fn connections_that_are_no_requests_have_no_status() {
        let tcp = br#"2026-11-20T12:00:00.9Z lb 198.51.100.7:2817 192.0.2.1:80 0.001 0.002 0.003 - - 82 305 "- - - " "-" - -"#;
        let Line::Access(r) = parse(tcp) else { panic!() };
        assert_eq!((r.status, r.method, r.request_time), (None, None, Some(0.006)));
        let tls =
            b"tls 2.0 2026-11-20T12:00:00 net/lb/1 x 198.51.100.7:1 192.0.2.1:443 5 2 98 246 -";
        assert_eq!(parse(tls), Line::Rejected(Rejected::Directive));
        for line in
            [&b""[..], b"http x", br#"http 2026-11-20T12:00:00Z a b c 1 2 3 502 502 1 1 "x""#]
        {
            assert!(matches!(parse(line), Line::Rejected(_)));
        }
    }
}
