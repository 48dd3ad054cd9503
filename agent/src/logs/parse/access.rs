//! Spans of an access line -> [`AccessRecord`], the same for every text format.

use std::borrow::Cow;

use crate::logs::parse::brief::{Brief, Times};
use crate::logs::parse::log_format::{LogFormat, TimeStyle};
use crate::logs::parse::time;
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
    match record(&spans, time) {
        Ok(mut record) => {
            record.time_is_start = format.time_is_start;
            record.request_time = record.request_time.map(|t| t / format.request_time_per_s);
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
        TimeStyle::Custom(format) => time::by_format(text, format),
    }
}

/// Builds the record; a line without a readable status is none.
pub(crate) fn record<'l>(
    spans: &Spans<'l>,
    time: Option<LineTime>,
) -> Result<AccessRecord<'l>, Rejected> {
    let status = spans.get(Slot::Status).and_then(status).ok_or(Rejected::BadStatus)?;
    let (method, target) = spans.get(Slot::Request).and_then(request_line).unzip();
    let path = match (spans.get(Slot::Path), target, spans.get(Slot::PathOnly)) {
        (Some(path), _, _) => Some(text(path)),
        (None, Some(target), _) => Some(target),
        (None, None, Some(path)) => Some(match spans.get(Slot::Query) {
            Some(query) => {
                let mark = if query.starts_with(b"?") { "" } else { "?" };
                Cow::Owned(format!("{}{mark}{}", text(path), text(query)))
            }
            None => text(path),
        }),
        _ => None,
    };
    Ok(AccessRecord {
        time,
        host: spans.get(Slot::Host).map(text),
        client: spans.get(Slot::Client).map(text),
        forwarded_for: spans.get(Slot::ForwardedFor).and_then(first_of_list).map(text),
        method: spans.get(Slot::Method).map(text).or(method),
        path,
        status: Some(status),
        attempts: attempts(
            spans.get(Slot::UpstreamAddr),
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

fn first_of_list(list: &[u8]) -> Option<&[u8]> {
    let first = list.split(|b| *b == b',').next()?.trim_ascii();
    (!first.is_empty() && first != b"-").then_some(first)
}

/// `$upstream_addr`, `$upstream_status` and `$upstream_response_time`: `, ` before the next
/// server, ` : ` before the next group.
pub(crate) fn attempts<'l>(
    addresses: Option<&'l [u8]>,
    statuses: Option<&'l [u8]>,
    times: Option<&'l [u8]>,
) -> Vec<Attempt<'l>> {
    let Some(addresses) = addresses else { return Vec::new() };
    let mut statuses = split_attempts(statuses.unwrap_or_default());
    let mut times = split_attempts(times.unwrap_or_default());
    split_attempts(addresses)
        .map(|address| Attempt {
            upstream: text(address),
            status: statuses.next().and_then(status),
            time: times.next().and_then(number),
        })
        .filter(|attempt| attempt.upstream != "-" && !attempt.upstream.is_empty())
        .collect()
}

fn split_attempts(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    // `, ` and ` : ` are the only places with a space.
    list.split(|b| *b == b' ')
        .map(|item| item.strip_suffix(b",").unwrap_or(item))
        .filter(|item| !item.is_empty() && *item != b":")
}
