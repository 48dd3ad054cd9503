//! Cloudflare Logpush, HTTP requests as one JSON object per line.
//!
//! The edge's status is what the client saw; an origin's status of 0 means that no origin answered.

use std::borrow::Cow;

use wire::v1::Signal;

use crate::logs::parse::json::values::{Values, any_time, read_line};
use crate::logs::{AccessRecord, Attempt, Line, Rejected};

const PATHS: [&str; 13] = [
    "EdgeResponseStatus",
    "EdgeStartTimestamp",
    "EdgeEndTimestamp",
    "ClientIP",
    "ClientRequestHost",
    "ClientRequestMethod",
    "ClientRequestURI",
    "ClientRequestUserAgent",
    "OriginResponseStatus",
    "OriginIP",
    "OriginResponseDurationMs",
    "ClientRequestPath",
    "RayID",
];

/// One line.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    read_line(&PATHS, line.trim_ascii(), |values| {
        record(values).map_or_else(Line::Rejected, Line::Access)
    })
}

fn record<'l>(values: &Values<'l>) -> Result<AccessRecord<'l>, Rejected> {
    let [edge, start, end, client, host, method, uri, agent, origin, address, took, path, ray] =
        std::array::from_fn(|at| at);
    // Which fields are pushed is the customer's choice; these two tell Cloudflare from the others.
    if !values.has(edge) || !(values.has(ray) || values.has(host)) {
        return Err(Rejected::Malformed);
    }
    let status = values.status(edge).ok_or(Rejected::BadStatus)?;
    let origin_status = values.status(origin);
    let none_answered = values.number(origin) == Some(0.0);
    let address = values.text(address);
    let was_asked = origin_status.is_some() || address.is_some();
    let started = values.time(start, any_time);
    let ended = values.time(end, any_time);
    let lasted_ms = match (started, ended) {
        (Some(a), Some(b)) => millis(b).zip(millis(a)).map(|(b, a)| b.saturating_sub(a).max(0)),
        _ => None,
    };
    Ok(AccessRecord {
        time: started.or(ended),
        time_is_start: started.is_some(),
        request_time: lasted_ms.map(|ms| ms as f64 / 1000.0),
        host: values.text(host),
        client: values.text(client),
        method: values.text(method),
        path: values.text(uri).or_else(|| values.text(path)),
        status: Some(status),
        attempts: if was_asked {
            vec![Attempt {
                upstream: address.unwrap_or(Cow::Borrowed("")),
                status: origin_status,
                time: values.number(took).map(|ms| ms / 1000.0),
                is_other_group: false,
            }]
        } else {
            Vec::new()
        },
        user_agent: values.text(agent),
        upstream_failed: matches!(status, 502 | 504) && none_answered,
        no_upstream: none_answered && !matches!(status, 502 | 504),
        signal: signal(status),
        ..AccessRecord::default()
    })
}

fn millis(time: crate::logs::LineTime) -> Option<i64> {
    match time {
        crate::logs::LineTime::Instant { at, .. } => Some(at.0),
        _ => None,
    }
}

/// What Cloudflare's own statuses say of the origin.
fn signal(status: u16) -> Option<Signal> {
    match status {
        521 => Some(Signal::ConnectRefused),
        522 => Some(Signal::ConnectTimeout),
        523 => Some(Signal::Unreachable),
        524 => Some(Signal::TimeoutRead),
        525 | 526 => Some(Signal::Tls),
        530 => Some(Signal::Dns),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_and_the_origin_are_told_apart() {
        for (fields, status, upstream, failed) in [
            (r#""EdgeResponseStatus":200,"OriginResponseStatus":0"#, Some(200), None, false),
            (
                r#""EdgeResponseStatus":502,"OriginResponseStatus":502,"OriginIP":"192.0.2.1""#,
                Some(502),
                Some(("192.0.2.1", Some(502))),
                false,
            ),
            (
                r#""EdgeResponseStatus":502,"OriginResponseStatus":0,"OriginIP":"192.0.2.1""#,
                Some(502),
                Some(("192.0.2.1", None)),
                true,
            ),
            (r#""EdgeResponseStatus":504,"OriginResponseStatus":0"#, Some(504), None, true),
            (r#""EdgeResponseStatus":503,"OriginResponseStatus":0"#, Some(503), None, false),
            (r#""EdgeResponseStatus":522"#, Some(522), None, false),
            (r#""EdgeResponseStatus":0"#, None, None, false),
            (r#""OriginResponseStatus":502"#, None, None, false),
        ] {
            let line = format!(
                r#"{{"ClientIP":"198.51.100.7","ClientRequestHost":"a.example","ClientRequestMethod":"GET","ClientRequestURI":"/p","EdgeStartTimestamp":1795176067000000000,"EdgeEndTimestamp":"2026-11-20T12:01:08Z",{fields}}}"#
            );
            let Line::Access(r) = parse(line.as_bytes()) else {
                assert_eq!(status, None, "{fields}");
                continue;
            };
            assert_eq!((r.status, r.upstream_failed), (status, failed), "{fields}");
            let last = r.attempts.first().map(|a| (&*a.upstream, a.status));
            assert_eq!(last, upstream, "{fields}");
            assert_eq!((r.request_time, r.time_is_start), (Some(1.0), true), "{fields}");
        }
    }
}
