//! Envoy's access log: the default text, Istio's, and JSON. Response flags say what went wrong.
//!
//! It does not escape the quotes of a client in text, so the status is read where only one place
//! fits, and what follows the client's words from the right. The time is the start of the request.

use std::borrow::Cow;

use wire::v1::Signal;

use crate::logs::parse::json::form::{Role, Server};
use crate::logs::parse::json::said_list;
use crate::logs::parse::json::values::{Values, any_time, read_line};
use crate::logs::parse::requests::{is_count, is_digits, request, rsplit, word};
use crate::logs::parse::traefik::EARLIER_MAX;
use crate::logs::parse::{access, envelope, time};
use crate::logs::scan::program::find;
use crate::logs::scan::shape::{Keep, Value as Is};
use crate::logs::{AccessRecord, Attempt, Line, Rejected};

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    let Some(line) = envelope::open(line) else { return Line::Rejected(Rejected::Malformed) };
    if line.first() == Some(&b'{') {
        return read_line(&PATHS, line.trim_ascii_end(), |values| {
            json(values).map_or_else(Line::Rejected, Line::Access)
        });
    }
    match text(line) {
        Ok(record) => Line::Access(record),
        Err(reason) => Line::Rejected(reason),
    }
}

fn text(line: &[u8]) -> Result<AccessRecord<'_>, Rejected> {
    let inside = line.strip_prefix(b"[").ok_or(Rejected::Malformed)?;
    let end = find(&inside[..inside.len().min(64)], b"] \"").ok_or(Rejected::Malformed)?;
    let time = time::iso8601(&inside[..end]).ok_or(Rejected::Malformed)?;
    let (request, middle) = request(&inside[end + 3..], Middle::read, |middle| middle.status)
        .ok_or(Rejected::Malformed)?;
    let tail = Tail::read(middle.rest).ok_or(Rejected::Malformed)?;
    let (method, path) = access::request_line(request).unzip();
    let status = access::status(middle.status);
    let upstream = said(tail.upstream);
    let (signal, failed) =
        verdict(status, &access::text(middle.flags), &access::text(middle.reason));
    let forwarded = said(tail.forwarded_for);
    // Without the peer, the list that the client's side told is all there is.
    let client = said(tail.peer).or(forwarded);
    Ok(AccessRecord {
        time: Some(time),
        time_is_start: true,
        host: said(tail.authority).map(Cow::Borrowed),
        client: client.map(access::without_port).map(Cow::Borrowed),
        forwarded_for: forwarded.map(Cow::Borrowed).and_then(said_list),
        method,
        path,
        status,
        attempts: attempts(upstream.map(Cow::Borrowed), 1, middle.service_ms.map(|ms| ms / 1000.0)),
        request_time: Some(middle.duration_ms / 1000.0),
        user_agent: said(tail.user_agent).map(Cow::Borrowed),
        upstream_failed: failed,
        no_upstream: upstream.is_none() && !failed,
        signal,
    })
}

fn said(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok().filter(|text| !matches!(*text, "" | "-"))
}

fn attempts(upstream: Option<Cow<'_, str>>, n: usize, time: Option<f64>) -> Vec<Attempt<'_>> {
    let Some(upstream) = upstream else { return Vec::new() };
    let upstream = match upstream {
        Cow::Borrowed(address) => Cow::Borrowed(access::without_scheme(address)),
        Cow::Owned(address) => Cow::Owned(access::without_scheme(&address).to_owned()),
    };
    // Which servers were tried before is not logged, only how many failed.
    let mut attempts = vec![Attempt::default(); n.saturating_sub(1).min(EARLIER_MAX)];
    attempts.push(Attempt { upstream, time, ..Attempt::default() });
    attempts
}

/// `status flags bytes bytes duration service "`, all of the server's own. Istio has details and a
/// reason in quotes after the flags.
struct Middle<'l> {
    status: &'l [u8],
    flags: &'l [u8],
    reason: &'l [u8],
    duration_ms: f64,
    service_ms: Option<f64>,
    /// From the quote on.
    rest: &'l [u8],
}

impl<'l> Middle<'l> {
    fn read(after: &'l [u8]) -> Option<Self> {
        let (status, rest) = word(after)?;
        if status != b"0" && access::status(status).is_none() {
            return None;
        }
        let (flags, rest) = word(rest)?;
        if flags != b"-" && !flags.iter().all(|b| b.is_ascii_alphanumeric() || *b == b',') {
            return None;
        }
        let (reason, (duration_ms, service_ms, rest)) = if let Some(counts) = counts(rest) {
            (&rest[..0], counts)
        } else {
            let (_details, rest) = word(rest)?;
            let (_termination, rest) = word(rest)?;
            let inside = rest.strip_prefix(b"\"")?;
            let end = memchr::memchr(b'"', inside)?;
            (&inside[..end], counts(inside[end + 1..].strip_prefix(b" ")?)?)
        };
        Some(Self { status, flags, reason, duration_ms, service_ms, rest })
    }
}

fn counts(text: &[u8]) -> Option<(f64, Option<f64>, &[u8])> {
    let (received, rest) = word(text)?;
    let (sent, rest) = word(rest)?;
    let (duration, rest) = word(rest)?;
    let (service, rest) = word(rest)?;
    let fits = [received, sent, duration].into_iter().all(is_digits) && is_count(service);
    let duration = access::number(duration)?;
    (fits && rest.first() == Some(&b'"')).then(|| (duration, access::number(service), rest))
}

/// `"forwarded" "agent" "id" "authority" "upstream"`, and six words more of Istio.
struct Tail<'l> {
    forwarded_for: &'l [u8],
    user_agent: &'l [u8],
    authority: &'l [u8],
    upstream: &'l [u8],
    peer: &'l [u8],
}

impl<'l> Tail<'l> {
    fn read(text: &'l [u8]) -> Option<Self> {
        let (rest, more) = rsplit(text, b"\"")?;
        let mut words = more.split(|byte| *byte == b' ').skip(1);
        // cluster, local address, our address, peer, server name, route
        let peer = words.clone().nth(3).unwrap_or_default();
        let n_words = words.by_ref().count();
        if !(more.is_empty() || n_words == 6 && more.first() == Some(&b' ')) {
            return None;
        }
        let (rest, upstream) = rsplit(rest, b"\" \"")?;
        let (rest, authority) = rsplit(rest, b"\" \"")?;
        // Here the client's own words begin.
        let (rest, _id) = rsplit(rest, b"\" \"")?;
        let inside = rest.strip_prefix(b"\"")?;
        let end = find(inside, b"\" \"")?;
        let (forwarded_for, user_agent) = (&inside[..end], &inside[end + 3..]);
        Some(Self { forwarded_for, user_agent, authority, upstream, peer })
    }
}

const PATHS: [&str; 22] = [
    "response_code",
    "start_time",
    "response_flags",
    "upstream_transport_failure_reason",
    ":authority",
    "authority",
    "method",
    "x-envoy-origin-path",
    "x-envoy-original-path",
    "path",
    "duration",
    "upstream_host",
    "upstream_cluster",
    "downstream_remote_address",
    "x-forwarded-for",
    "x_forwarded_for",
    "user-agent",
    "user_agent",
    "x-envoy-upstream-service-time",
    "upstream_service_time",
    "upstream_request_attempt_count",
    ":path",
];

/// What a plain line of JSON says. Its flags are none: others tell what went wrong.
pub(super) const FORM: Server = Server {
    roles: &[
        ("response_code", Role::Status),
        ("start_time", Role::Time),
        ("response_flags", Role::Is("-")),
        (":authority", Role::Text(Keep::Host, Is::Said)),
        ("authority", Role::Text(Keep::Host, Is::Said)),
        ("x-envoy-origin-path", Role::Any),
        ("x-envoy-original-path", Role::Any),
        ("upstream_cluster", Role::Any),
        ("duration", Role::Duration),
        ("upstream_host", Role::Text(Keep::Upstream, Is::Without(b'/'))),
        ("downstream_remote_address", Role::Text(Keep::Address, Is::Said)),
        ("upstream_request_attempt_count", Role::Is("1")),
    ],
    duration_per_s: Some(1000.0),
};

fn json<'l>(values: &Values<'l>) -> Result<AccessRecord<'l>, Rejected> {
    let [
        code,
        start,
        flags,
        reason,
        authority_header,
        authority,
        method,
        origin_path,
        original_path,
        path,
        duration,
        upstream,
        cluster,
        peer,
        forwarded_header,
        forwarded,
        agent_header,
        agent,
        service_header,
        service,
        n_attempts,
        path_header,
    ] = std::array::from_fn(|at| at);
    // The operator chooses the keys; these come in every example and in no other server's.
    let is_envoy = [flags, authority_header, origin_path, original_path, cluster];
    if !values.has(code) || !values.has(start) || !is_envoy.into_iter().any(|at| values.has(at)) {
        return Err(Rejected::Malformed);
    }
    let first = |places: &[usize]| places.iter().find_map(|at| values.text(*at));
    // 0: the client went away before an answer.
    let status = match values.number(code) {
        Some(0.0) => None,
        _ => Some(values.status(code).ok_or(Rejected::BadStatus)?),
    };
    let (signal, failed) = verdict(status, values.str(flags), values.str(reason));
    let address = values.text(upstream);
    let peer = match values.get(peer) {
        super::json::values::Value::Text(Cow::Borrowed(peer)) => {
            Some(Cow::Borrowed(access::without_port(peer)))
        }
        _ => values.text(peer).map(|peer| access::without_port(&peer).to_owned().into()),
    };
    let service_ms = values.number(service_header).or_else(|| values.number(service));
    let n_attempts = values.number(n_attempts).map_or(1, |n| n as usize);
    Ok(AccessRecord {
        time: values.time(start, any_time),
        time_is_start: true,
        host: first(&[authority_header, authority]),
        client: peer.filter(|peer| !peer.is_empty() && peer != "-"),
        forwarded_for: first(&[forwarded_header, forwarded]).and_then(said_list),
        method: values.text(method),
        path: first(&[original_path, origin_path, path, path_header]),
        status,
        no_upstream: values.is_null(upstream) && !failed,
        attempts: attempts(address, n_attempts, service_ms.map(|ms| ms / 1000.0)),
        request_time: values.number(duration).map(|ms| ms / 1000.0),
        user_agent: first(&[agent_header, agent]),
        upstream_failed: failed,
        signal,
    })
}

/// What the flags of a failed request say, and whether it was an upstream.
fn verdict(status: Option<u16>, flags: &str, reason: &str) -> (Option<Signal>, bool) {
    if !status.is_some_and(|status| (500..600).contains(&status)) {
        return (None, false);
    }
    let mut found = (None, false);
    for flag in flags.split(',') {
        let signal = match flag {
            "UF" | "UpstreamConnectionFailure" => connection(reason),
            "UH" | "NoHealthyUpstream" => Signal::NoLiveUpstreams,
            "UT" | "UpstreamRequestTimeout" | "UMSDR" | "SI" | "StreamIdleTimeout" => {
                Signal::TimeoutRead
            }
            "UC" | "UpstreamConnectionTermination" => Signal::PrematureClose,
            "UR" | "UpstreamRemoteReset" | "LR" | "LocalReset" => Signal::Reset,
            "UPE" | "UpstreamProtocolError" => Signal::InvalidHeader,
            "DF" | "DnsResolutionFailed" => Signal::Dns,
            // A circuit breaker was open.
            "UO" | "UpstreamOverflow" => Signal::Other,
            // Says only that retries did not help; another flag tells why, if any does.
            "URX" | "UpstreamRetryLimitExceeded" => {
                found = (found.0.or(Some(Signal::Other)), true);
                continue;
            }
            _ => continue,
        };
        found = (Some(signal), true);
    }
    found
}

/// Why no connection came about.
fn connection(reason: &str) -> Signal {
    let has = |part: &str| reason.contains(part);
    if has("TLS_error") || has("CERTIFICATE") {
        Signal::Tls
    } else if has("timeout") || has("error:_110") {
        Signal::ConnectTimeout
    } else if has("error:_113") || has("error:_101") {
        Signal::Unreachable
    } else if has("error:_104") || has("reset") {
        Signal::Reset
    } else {
        Signal::ConnectRefused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_went_wrong() {
        for (status, flags, reason, want) in [
            ("200", "-", "-", (None, false)),
            ("503", "UF", "-", (Some(Signal::ConnectRefused), true)),
            ("503", "UF,URX", "-", (Some(Signal::ConnectRefused), true)),
            ("503", "URX", "-", (Some(Signal::Other), true)),
            ("503", "UF", "immediate_connect_error:_113", (Some(Signal::Unreachable), true)),
            ("503", "UF", "TLS_error:_x", (Some(Signal::Tls), true)),
            ("503", "UH", "-", (Some(Signal::NoLiveUpstreams), true)),
            ("504", "UT", "-", (Some(Signal::TimeoutRead), true)),
            ("503", "UC", "-", (Some(Signal::PrematureClose), true)),
            ("503", "UO", "-", (Some(Signal::Other), true)),
            ("503", "NC", "-", (None, false)),
            ("404", "NR", "-", (None, false)),
            ("503", "-", "-", (None, false)),
            ("200", "UF", "-", (None, false)),
        ] {
            let text = format!(
                r#"[2026-11-20T12:00:00.500Z] "GET /p?q HTTP/2" {status} {flags} - - "{reason}" 0 91 12 - "198.51.100.7, 10.0.0.9" "curl" "id" "a.example" "192.0.2.1:80" outbound|80||a 10.0.0.1:1 10.0.0.1:443 10.0.0.9:4711 a.example -"#
            );
            let json = format!(
                r#"{{"start_time":"2026-11-20T12:00:00.500Z","method":"GET","path":"/p?q","response_code":{status},"response_flags":"{flags}","upstream_transport_failure_reason":"{reason}","duration":12,"x_forwarded_for":"198.51.100.7, 10.0.0.9","user_agent":"curl","authority":"a.example","upstream_host":"192.0.2.1:80","downstream_remote_address":"10.0.0.9:4711"}}"#
            );
            for line in [text, json] {
                let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
                assert_eq!((r.signal, r.upstream_failed), want, "{line}");
                assert_eq!(
                    (r.host.as_deref(), r.path.as_deref()),
                    (Some("a.example"), Some("/p?q"))
                );
                assert_eq!(
                    (r.client.as_deref(), r.forwarded_for.as_deref()),
                    (Some("10.0.0.9"), Some("198.51.100.7, 10.0.0.9"))
                );
                assert_eq!((r.attempts.len(), r.request_time), (1, Some(0.012)), "{line}");
                assert_eq!(r.user_agent.as_deref(), Some("curl"));
            }
        }
    }

    #[test]
    fn the_default_text_has_no_peer() {
        let line = |status: &str, agent: &str, upstream: &str| {
            format!(
                r#"[2026-11-20T12:00:00.500Z] "GET / HTTP/1.1" {status} 0 91 12 11 "[2001:db8::7]" "{agent}" "id" "a.example" "{upstream}""#
            )
        };
        for (text, status, upstream) in [
            (line("200 -", "curl", "tcp://192.0.2.1:80"), Some(200), Some("192.0.2.1:80")),
            (line("503 UH", "curl", "-"), Some(503), None),
            (line("0 DC", "curl", "-"), None, None),
            (
                line("200 -", r#"x" "id" "b.example" "192.0.2.66:1"#, "192.0.2.1:80"),
                Some(200),
                Some("192.0.2.1:80"),
            ),
        ] {
            let Line::Access(r) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!((r.status, r.attempts.first().map(|a| &*a.upstream)), (status, upstream));
            assert_eq!(
                (r.host.as_deref(), r.client.as_deref()),
                (Some("a.example"), Some("2001:db8::7"))
            );
        }
        for text in [
            line("200 -", r#"x" 503 UF 0 0 0 - "y"#, "-"),
            line("x -", "curl", "-"),
            line("200 -", "curl", "-").replace("id\" ", ""),
        ] {
            assert!(matches!(parse(text.as_bytes()), Line::Rejected(_)), "{text}");
        }
    }

    #[test]
    fn earlier_attempts_are_counted() {
        let line = r#"{"start_time":"2026-11-20T12:00:00Z","response_code":200,"response_flags":"-","upstream_host":"192.0.2.1:80","upstream_request_attempt_count":3}"#;
        let Line::Access(r) = parse(line.as_bytes()) else { panic!() };
        let upstreams: Vec<_> = r.attempts.iter().map(|a| &*a.upstream).collect();
        assert_eq!(upstreams, ["", "", "192.0.2.1:80"]);
    }
}
