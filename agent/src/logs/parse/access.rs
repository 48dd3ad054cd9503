//! Spans of an access line -> [`AccessRecord`], the same for every text format.

use std::borrow::Cow;

use crate::logs::parse::brief::{Brief, Times};
use crate::logs::parse::log_format::{LogFormat, TimeStyle};
use crate::logs::parse::{time, varnish, w3c};
use crate::logs::scan::program::{Slot, Spans, is_status};
use crate::logs::{AccessRecord, Attempt, Line, LineTime, Rejected};

/// One line by a compiled format.
pub(crate) fn parse<'l>(format: &LogFormat, line: &'l [u8]) -> Line<'l> {
    let spans = match format.program.scan(line) {
        Ok(spans) => spans,
        Err(reason) => return Line::Rejected(reason),
    };
    let time = match spans.get(Slot::Time) {
        None => None,
        Some(text) => match read_time(&format.time, text) {
            Some(time) => Some(time),
            None => return Line::Rejected(Rejected::BadTime),
        },
    };
    match record(&spans, time, format.escapes) {
        Ok(mut record) => {
            record.time_is_start = format.time_is_start;
            record.request_time = record.request_time.map(|t| t / format.request_time_per_s);
            // Apache names its balancer's worker only; without one, another may have been asked.
            record.no_upstream &= !format.time_is_start;
            if format.is_varnish {
                varnish::complete(&mut record, spans.get(Slot::Reason));
            }
            Line::Access(record)
        }
        Err(reason) => Line::Rejected(reason),
    }
}

/// The same for a sink that asks for no more.
pub(super) fn brief<'l>(
    format: &LogFormat,
    line: &'l [u8],
    times: &mut Times,
) -> Option<Brief<'l>> {
    if format.is_varnish {
        return None;
    }
    let spans = format.program.scan(line).ok()?;
    let mut brief = brief_of(&spans)?;
    if let Some(text) = spans.get(Slot::Time) {
        brief.time = Some(match format.time {
            TimeStyle::Clf => times.clf(text)?,
            _ => read_time(&format.time, text)?,
        });
    }
    if format.time_is_start {
        let duration = spans.get(Slot::RequestTime).and_then(number);
        brief.duration_s = duration.map(|t| t / format.request_time_per_s);
    }
    Some(brief)
}

/// Without the time; `None` when the whole record tells more than a plain line may.
pub(super) fn brief_of<'l>(spans: &Spans<'l>) -> Option<Brief<'l>> {
    let upstream = spans.get(Slot::UpstreamAddr).unwrap_or_default();
    let is_one = !upstream.contains(&b' ') && !matches!(upstream, b":" | [.., b',']);
    // Without addresses, statuses tell of attempts.
    let has_addresses = spans.is_there(Slot::UpstreamAddr);
    let is_one = is_one && (has_addresses || spans.get(Slot::UpstreamStatus).is_none());
    let status = spans.get(Slot::Status).and_then(status)?;
    (is_one && !(502..=504).contains(&status)).then(|| Brief {
        host: spans.get(Slot::Host).unwrap_or_default(),
        client: spans.get(Slot::Client).unwrap_or_default(),
        upstream,
        time: None,
        duration_s: None,
        status,
    })
}

pub(crate) fn read_time(style: &TimeStyle, text: &[u8]) -> Option<LineTime> {
    match style {
        TimeStyle::Clf => time::clf(text),
        TimeStyle::Iso8601 => time::iso8601(text),
        TimeStyle::EpochSeconds => time::epoch_seconds(text),
        TimeStyle::EpochUnits(per_second) => time::epoch_units(text, *per_second),
        TimeStyle::W3c => w3c::date_time(text),
        TimeStyle::Custom(format) => time::by_format(text, format),
    }
}

/// Builds the record; a line without a readable status is none.
pub(crate) fn record<'l>(
    spans: &Spans<'l>,
    time: Option<LineTime>,
    escapes: Escapes,
) -> Result<AccessRecord<'l>, Rejected> {
    let status = spans.get(Slot::Status).and_then(status).ok_or(Rejected::BadStatus)?;
    let (method, target) = spans.get(Slot::Request).and_then(request_line).unzip();
    let path = match (spans.get(Slot::Path), target, spans.get(Slot::PathOnly)) {
        (Some(path), _, _) => Some(unescaped(text(path), escapes)),
        (None, Some(target), _) => Some(unescaped(target, escapes)),
        (None, None, Some(path)) => Some(match spans.get(Slot::Query) {
            Some(query) => {
                let mark = if query.starts_with(b"?") { "" } else { "?" };
                Cow::Owned(format!(
                    "{}{mark}{}",
                    unescaped(text(path), escapes),
                    unescaped(text(query), escapes)
                ))
            }
            None => unescaped(text(path), escapes),
        }),
        _ => None,
    };
    Ok(AccessRecord {
        time,
        host: spans.get(Slot::Host).map(text),
        client: spans.get(Slot::Client).map(text),
        forwarded_for: spans.get(Slot::ForwardedFor).and_then(said_list).map(text),
        method: spans.get(Slot::Method).map(text).or(method),
        path,
        status: Some(status),
        attempts: attempts(
            spans
                .is_there(Slot::UpstreamAddr)
                .then(|| spans.get(Slot::UpstreamAddr).unwrap_or_default()),
            spans.get(Slot::UpstreamStatus),
            spans.get(Slot::UpstreamTime),
        ),
        request_time: spans.get(Slot::RequestTime).and_then(number),
        user_agent: spans.get(Slot::UserAgent).map(text),
        no_upstream: spans.is_dash(Slot::UpstreamAddr),
        ..AccessRecord::default()
    })
}

/// Three digits from 100 to 599.
pub(crate) fn status(text: &[u8]) -> Option<u16> {
    is_status(text).then(|| text.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0')))
}

/// Bytes as text: borrowed when they are UTF-8, else with replacement characters.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// How a server writes the bytes that could break its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Escapes {
    /// `\x22`.
    Hex,
    /// `\"`, `\\`, `\/`, `\u0022`.
    Json,
}

/// What a server escaped, as the client sent it. Control characters stay as they are written. Cost:
/// nothing where no backslash is.
pub(crate) fn unescaped(text: Cow<'_, str>, escapes: Escapes) -> Cow<'_, str> {
    if !text.contains('\\') {
        return text;
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |from: usize, n: usize| {
            let digits =
                bytes.get(from..from + n).filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
            u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (decoded, len) = match (byte, bytes.get(at + 1), escapes) {
            (b'\\', Some(b'x'), Escapes::Hex) => (hex(at + 2, 2), 4),
            (b'\\', Some(b'u'), Escapes::Json) => (hex(at + 2, 4).filter(|code| *code < 0x80), 6),
            (b'\\', Some(sign @ (b'"' | b'\\' | b'/')), Escapes::Json) => {
                (Some(u32::from(*sign)), 2)
            }
            _ => (None, 1),
        };
        if let Some(code) = decoded.filter(|code| *code >= 0x20 && *code != 0x7f) {
            out.push(code as u8);
            at += len;
        } else {
            // A backslash that is itself escaped takes its second half along.
            let n = 1 + usize::from(byte == b'\\' && bytes.get(at + 1) == Some(&b'\\'));
            out.extend_from_slice(&bytes[at..at + n]);
            at += n;
        }
    }
    Cow::Owned(
        String::from_utf8(out)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// `http://a.example:80/path` as host and path; `None` for a target that is a path.
pub(crate) fn absolute(target: &str) -> Option<(&str, &str)> {
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    (!host.is_empty()).then_some((host, if path.is_empty() { "/" } else { path }))
}

/// The same of a target that may be owned.
pub(crate) fn split_absolute(target: Cow<'_, str>) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    match target {
        Cow::Borrowed(target) => {
            absolute(target).map(|(host, path)| (Cow::Borrowed(host), Cow::Borrowed(path)))
        }
        Cow::Owned(target) => {
            absolute(&target).map(|(host, path)| (host.to_owned().into(), path.to_owned().into()))
        }
    }
}

/// `10.0.0.1:80`, `[2001:db8::1]:80` or an address alone -> the address.
pub(crate) fn without_port(peer: &str) -> &str {
    if let Some(inside) = peer.strip_prefix('[') {
        return inside.split_once(']').map_or(peer, |(address, _)| address);
    }
    match peer.split_once(':') {
        Some((address, port)) if !port.contains(':') => address,
        _ => peer,
    }
}

/// `tcp://10.0.0.1:80` -> `10.0.0.1:80`: upstreams are named without a scheme.
pub(crate) fn without_scheme(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.strip_suffix('/').filter(|rest| !rest.contains('/')).unwrap_or(rest)
}

/// Not negative and finite.
pub(crate) fn number(bytes: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(bytes).ok()?.trim().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// `METHOD target HTTP/x`; anything else has no method and no target.
pub(crate) fn request_line(request: &[u8]) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let method_end = memchr::memchr(b' ', request)?;
    let version = memchr::memrchr(b' ', request)?;
    let method = &request[..method_end];
    let named = !method.is_empty() && method.iter().all(|b| b.is_ascii_alphabetic() || *b == b'-');
    if version <= method_end || !named || !request[version + 1..].starts_with(b"HTTP/") {
        return None;
    }
    Some((text(method), text(&request[method_end + 1..version])))
}

fn said_list(list: &[u8]) -> Option<&[u8]> {
    let list = list.trim_ascii();
    (!list.is_empty() && list != b"-").then_some(list)
}

/// `$upstream_addr`, `$upstream_status` and `$upstream_response_time`: `, ` before the next
/// server, ` : ` before the next group. Where no address is logged the statuses tell of attempts.
pub(crate) fn attempts<'l>(
    addresses: Option<&'l [u8]>,
    statuses: Option<&[u8]>,
    times: Option<&[u8]>,
) -> Vec<Attempt<'l>> {
    let mut times = split_attempts(times.unwrap_or_default());
    let mut next_time = || times.next().and_then(|(time, _)| number(time));
    let Some(addresses) = addresses else {
        let attempt = |(text, is_other_group)| Attempt {
            upstream: "".into(),
            status: status(text),
            time: next_time(),
            is_other_group,
        };
        return split_attempts(statuses.unwrap_or_default()).map(attempt).collect();
    };
    let mut statuses = split_attempts(statuses.unwrap_or_default());
    split_attempts(addresses)
        .map(|(address, is_other_group)| Attempt {
            upstream: text(address),
            status: statuses.next().and_then(|(text, _)| status(text)),
            time: next_time(),
            is_other_group,
        })
        .filter(|attempt| attempt.upstream != "-" && !attempt.upstream.is_empty())
        .collect()
}

/// The items, each with whether it is the first of another group.
fn split_attempts(list: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    let mut is_other_group = false;
    // `, ` and ` : ` are the only places with a space.
    list.split(|b| *b == b' ').filter_map(move |item| {
        let item = item.strip_suffix(b",").unwrap_or(item);
        if item == b":" {
            is_other_group = true;
            return None;
        }
        (!item.is_empty()).then(|| (item, std::mem::take(&mut is_other_group)))
    })
}
