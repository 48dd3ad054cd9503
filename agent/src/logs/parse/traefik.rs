//! Traefik's access log: the Common Log Format with fields of its own behind, and JSON.
//!
//! `… "request" status bytes "referer" "agent" count "router" "url" 12ms`. It does not escape the
//! quotes of a client, so the ends are read: the status where only one place fits, the rest from the
//! right. The time is the start of the request.

use std::borrow::Cow;

use wire::v1::Signal;

use crate::logs::parse::brief::Times;
use crate::logs::parse::json::form::{Role, Server};
use crate::logs::parse::json::values::{Value, Values, any_time, read_line};
use crate::logs::parse::json::{first_of_list, said_list};
use crate::logs::parse::requests::{is_count, is_digits, request, rsplit, word};
use crate::logs::parse::{access, clf, envelope};
use crate::logs::scan::program::is_status;
use crate::logs::scan::shape::{Keep, Value as Is};
use crate::logs::{AccessRecord, Attempt, Line, Rejected};

/// Earlier attempts that are kept of one request.
pub(super) const EARLIER_MAX: usize = 7;

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
    // Its own end tells a line of this format; most lines of others are refused here.
    let tail = line.strip_suffix(b"ms").ok_or(Rejected::Malformed)?;
    let (head, time, rest) = clf::split_at_time(line, &mut Times::default())?;
    let (client, _) = word(head).ok_or(Rejected::Malformed)?;
    let inside = rest.strip_prefix(b"\"").ok_or(Rejected::Malformed)?;
    let (request, (status, after)) =
        request(inside, after_request, |(status, _)| *status).ok_or(Rejected::Malformed)?;
    let used = line.len() - after.len();
    let fields = fields(tail.get(used..).unwrap_or_default()).ok_or(Rejected::Malformed)?;
    let (method, path) = access::request_line(request).unzip();
    let upstream = Some(fields.url).filter(|url| !matches!(*url, b"" | b"-"));
    let has_router = !matches!(fields.router, b"" | b"-");
    let none_left = status == Some(503) && upstream.is_none() && has_router;
    Ok(AccessRecord {
        time: Some(time),
        time_is_start: true,
        client: Some(access::text(client)).filter(|client| client != "-"),
        method,
        path,
        status,
        attempts: upstream
            .map(access::text)
            .map(|url| attempt(url, None, None))
            .into_iter()
            .collect(),
        request_time: Some(fields.duration_ms / 1000.0),
        user_agent: Some(access::text(fields.user_agent)).filter(|agent| agent != "-"),
        no_upstream: upstream.is_none() && !none_left,
        upstream_failed: none_left,
        signal: none_left.then_some(Signal::NoLiveUpstreams),
        ..AccessRecord::default()
    })
}

/// `status bytes "`; a request without an answer has neither.
fn after_request(after: &[u8]) -> Option<(Option<u16>, &[u8])> {
    let (status, rest) = word(after)?;
    let (bytes, rest) = word(rest)?;
    let known = is_status(status).then(|| access::status(status)).flatten();
    let fits = known.is_some() || matches!(status, b"-" | b"0");
    (fits && is_count(bytes) && rest.first() == Some(&b'"')).then_some((known, rest))
}

/// The line ends as each of this format does.
pub(super) fn has_tail(line: &[u8]) -> bool {
    line.strip_suffix(b"ms").and_then(fields).is_some()
}

struct Fields<'l> {
    user_agent: &'l [u8],
    router: &'l [u8],
    url: &'l [u8],
    duration_ms: f64,
}

/// `"referer" "agent" count "router" "url" 12`, from the right. Some versions forget a quote of the
/// router.
fn fields(text: &[u8]) -> Option<Fields<'_>> {
    let (rest, duration) = rsplit(text, b"\" ")?;
    let (rest, url) = rsplit(rest, b"\"")?;
    let rest = rest.strip_suffix(b" ")?;
    let rest = rest.strip_suffix(b"\"").unwrap_or(rest);
    let (rest, router) = rsplit(rest, b" \"")?;
    let (rest, count) = rsplit(rest, b"\" ")?;
    let user_agent = rsplit(rest, b"\" \"").map_or(&rest[..0], |(_, agent)| agent);
    let fits = is_digits(duration) && is_count(count);
    let duration_ms = access::number(duration)?;
    fits.then_some(Fields { user_agent, router, url, duration_ms })
}

fn attempt(url: Cow<'_, str>, status: Option<u16>, time: Option<f64>) -> Attempt<'_> {
    let upstream = match url {
        Cow::Borrowed(url) => Cow::Borrowed(access::without_scheme(url)),
        Cow::Owned(url) => Cow::Owned(access::without_scheme(&url).to_owned()),
    };
    Attempt { upstream, status, time, is_other_group: false }
}

const PATHS: [&str; 16] = [
    "DownstreamStatus",
    "OriginStatus",
    "RequestHost",
    "RequestMethod",
    "RequestPath",
    "ClientHost",
    "StartUTC",
    "Duration",
    "OriginDuration",
    "ServiceAddr",
    "ServiceURL",
    "ServiceURL.Host",
    "ServiceName",
    "RetryAttempts",
    "request_User-Agent",
    "request_X-Forwarded-For",
];

/// What a plain line of JSON says.
pub(super) const FORM: Server = Server {
    roles: &[
        ("DownstreamStatus", Role::Status),
        ("RequestMethod", Role::Any),
        ("RequestHost", Role::Text(Keep::Host, Is::Said)),
        ("ClientHost", Role::Text(Keep::Client, Is::Alone)),
        ("StartUTC", Role::Time),
        ("Duration", Role::Duration),
        ("ServiceAddr", Role::Text(Keep::Upstream, Is::Without(b'/'))),
        ("ServiceURL", Role::Text(Keep::Upstream, Is::Without(b'/'))),
        ("ServiceURL.Host", Role::Text(Keep::Upstream, Is::Without(b'/'))),
        ("RetryAttempts", Role::Is("0")),
    ],
    duration_per_s: Some(1e9),
};

fn json<'l>(values: &Values<'l>) -> Result<AccessRecord<'l>, Rejected> {
    let [
        downstream,
        origin,
        host,
        method,
        path,
        client,
        start,
        duration,
        origin_duration,
        address,
        url,
        url_host,
        service,
        retries,
        agent,
        forwarded,
    ] = std::array::from_fn(|at| at);
    // Which fields are written is the operator's choice; one of these is in every example.
    if !values.has(downstream) || !(values.has(method) || values.has(host)) {
        return Err(Rejected::Malformed);
    }
    // 0: the client went away before an answer.
    let status = match values.get(downstream) {
        Value::Unsigned(0) => None,
        _ => Some(values.status(downstream).ok_or(Rejected::BadStatus)?),
    };
    let seconds = |at| values.number(at).map(|ns| ns / 1e9);
    let upstream =
        values.text(address).or_else(|| values.text(url)).or_else(|| values.text(url_host));
    let none_left = status == Some(503) && upstream.is_none() && values.text(service).is_some();
    let n_earlier = values.number(retries).map_or(0, |n| (n as usize).min(EARLIER_MAX));
    let has_answered = values.status(origin).is_some();
    let no_upstream = upstream.is_none() && !none_left && !has_answered;
    let mut attempts = Vec::new();
    if let Some(upstream) = upstream {
        // Which servers were tried before is not logged, only how many failed.
        attempts.resize(n_earlier, Attempt::default());
        let origin_time = seconds(origin_duration).filter(|_| values.has(origin));
        attempts.push(attempt(upstream, values.status(origin), origin_time));
    }
    Ok(AccessRecord {
        time: values.time(start, any_time),
        time_is_start: true,
        host: values.text(host),
        client: values.text(client).and_then(first_of_list),
        forwarded_for: values.text(forwarded).and_then(said_list),
        method: values.text(method),
        path: values.text(path),
        status,
        attempts,
        request_time: seconds(duration),
        user_agent: values.text(agent),
        no_upstream,
        upstream_failed: none_left,
        signal: none_left.then_some(Signal::NoLiveUpstreams),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"198.51.100.7 - - [20/Nov/2026:12:00:00 +0000] "GET /p?q HTTP/1.1" "#;

    #[test]
    fn the_count_of_requests_is_no_status() {
        for (tail, status, upstream, none_left) in [
            (
                r#"200 5 "-" "curl" 502 "a@docker" "http://192.0.2.1:80" 12ms"#,
                Some(200),
                Some("192.0.2.1:80"),
                false,
            ),
            (
                r#"502 5 "-" "curl" 200 "a -> b@docker" "http://192.0.2.1:80" 12ms"#,
                Some(502),
                Some("192.0.2.1:80"),
                false,
            ),
            (r#"503 5 "-" "a "b" c" 7 "a@docker" "-" 12ms"#, Some(503), None, true),
            (r#"404 5 "-" "-" 7 "-" "-" 12ms"#, Some(404), None, false),
            (r#"- - "-" "-" 7 "-" "-" 12ms"#, None, None, false),
            (
                r#"200 5 "-" "x" 7 "forgotten "http://192.0.2.1:80" 12ms"#,
                Some(200),
                Some("192.0.2.1:80"),
                false,
            ),
        ] {
            let line = format!("{HEAD}{tail}");
            let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!((r.status, r.upstream_failed), (status, none_left), "{line}");
            assert_eq!(r.attempts.first().map(|a| &*a.upstream), upstream, "{line}");
            assert_eq!((r.path.as_deref(), r.request_time), (Some("/p?q"), Some(0.012)));
        }
    }

    #[test]
    fn a_quote_of_the_client_makes_no_status() {
        for line in [
            format!(r#"{HEAD}200 5 "-" "x" 502 0 "y" 7 "a" "http://192.0.2.1:80" 12ms"#),
            format!(r#"{HEAD}200 5 "x" 502 0 "-" "y" 7 "a" "http://192.0.2.1:80" 12ms"#),
            format!(
                r#"198.51.100.7 - x [20/Nov/2026:12:00:00 +0000] "GET / HTTP/1.1" 502 0 "-" "-" 1 "r" "u" 1ms {}200 5 "-" "y" 7 "a" "u" 12ms"#,
                &HEAD[13..]
            ),
            format!(r#"{HEAD}200 5 "-" "curl""#),
            format!(r#"{HEAD}200 5 "-" "curl" 7 "a" "u" 12"#),
        ] {
            assert!(matches!(parse(line.as_bytes()), Line::Rejected(_)), "{line}");
        }
    }

    #[test]
    fn json_tells_attempts_and_who_answered() {
        for (fields, status, attempts, none_left) in [
            (
                r#""DownstreamStatus":200,"OriginStatus":200,"ServiceAddr":"192.0.2.1:80","RetryAttempts":0"#,
                Some(200),
                1,
                false,
            ),
            (
                r#""DownstreamStatus":200,"OriginStatus":200,"ServiceURL":{"Host":"192.0.2.1:80"},"RetryAttempts":2"#,
                Some(200),
                3,
                false,
            ),
            (
                r#""DownstreamStatus":502,"OriginStatus":502,"ServiceURL":"http://192.0.2.1:80""#,
                Some(502),
                1,
                false,
            ),
            (
                r#""DownstreamStatus":503,"OriginStatus":0,"ServiceName":"a@docker""#,
                Some(503),
                0,
                true,
            ),
            (r#""DownstreamStatus":503,"OriginStatus":0"#, Some(503), 0, false),
            (r#""DownstreamStatus":0,"OriginStatus":0"#, None, 0, false),
        ] {
            let line = format!(
                r#"web  | {{"ClientHost":"198.51.100.7","Duration":357313,"OriginDuration":324669,"RequestHost":"a.example","RequestMethod":"GET","RequestPath":"/p","StartUTC":"2026-11-20T12:00:00.5Z",{fields}}}"#
            );
            let Line::Access(r) = parse(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(
                (r.status, r.attempts.len(), r.upstream_failed),
                (status, attempts, none_left),
                "{line}"
            );
            assert!(r.attempts.iter().rev().skip(1).all(|a| a.status.is_none()));
            assert!(
                r.attempts
                    .last()
                    .is_none_or(|a| a.upstream == "192.0.2.1:80" && a.status == status)
            );
        }
    }
}
