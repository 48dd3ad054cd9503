//! The family of the Common Log Format when nobody told the exact format: common, combined, with
//! the vhost in front, with `name=value` pairs behind.
//!
//! Everything hangs on the time in brackets and the quotes after it; both are the server's own, as
//! it escapes the quotes a client sends.

pub(super) mod form;

use crate::logs::parse::brief::{Brief, Times};
use crate::logs::parse::{access, traefik};
use crate::logs::scan::program::{Slot, Spans, find, is_status, places, quote_end};
use crate::logs::{AccessRecord, Line, LineTime, Rejected};

/// One line of the family.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    match try_parse(line) {
        Ok(record) => Line::Access(record),
        Err(reason) => Line::Rejected(reason),
    }
}

/// The same of `LiteSpeed`, which some panels make write each line in quotes.
pub(crate) fn parse_litespeed(line: &[u8]) -> Line<'_> {
    parse(unquoted(line).unwrap_or(line))
}

/// Only lines in quotes: all others are those of any server.
pub(crate) fn parse_in_quotes(line: &[u8]) -> Line<'_> {
    unquoted(line).map_or(Line::Rejected(Rejected::Malformed), parse)
}

fn unquoted(line: &[u8]) -> Option<&[u8]> {
    // A list of addresses in quotes may stand first in other logs.
    let inside = line.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', inside)?;
    let is_line = memchr::memchr(b'[', &inside[..end]).is_some();
    is_line.then(|| inside.strip_suffix(b"\"").unwrap_or(inside))
}

/// The same for a sink that asks for no more.
pub(super) fn brief<'l>(line: &'l [u8], times: &mut Times) -> Option<Brief<'l>> {
    let (spans, time, micros) = fields(line, times).ok()?;
    let brief = access::brief_of(&spans)?;
    let duration_s = micros.map(|micros| micros / 1e6);
    let is_list = brief.client.contains(&b',');
    (!is_list).then_some(Brief { time: Some(time), duration_s, ..brief })
}

/// The fields, the time, and microseconds the request took, if Apache wrote them last.
fn fields<'l>(
    line: &'l [u8],
    times: &mut Times,
) -> Result<(Spans<'l>, LineTime, Option<f64>), Rejected> {
    // Traefik escapes no quotes: a line of its own that it does not read is none of this family.
    if line.ends_with(b"ms") && traefik::has_tail(line) {
        return Err(Rejected::Malformed);
    }
    let (head, time, rest) = split_at_time(line, times)?;
    let mut spans = Spans::default();
    head_fields(head, &mut spans)?;
    let rest = request_and_status(rest, &mut spans)?;
    let micros = tail_fields(rest, &mut spans);
    Ok((spans, time, micros))
}

fn try_parse(line: &[u8]) -> Result<AccessRecord<'_>, Rejected> {
    let (spans, time, micros) = fields(line, &mut Times::default())?;
    let mut record = access::record(&spans, Some(time), access::Escapes::Hex)?;
    if let Some(micros) = micros {
        // A server that writes this writes the start of the request.
        record.request_time = Some(micros / 1e6);
        record.time_is_start = true;
    }
    if let Some(list) = record.client.as_ref().filter(|c| c.contains(',')) {
        // `$proxy_add_x_forwarded_for` in place of the peer.
        let first = list.split(',').next().unwrap_or_default().trim().to_owned();
        record.client = Some(first.into());
    }
    Ok(record)
}

/// Head, time, and what follows `] `.
pub(super) fn split_at_time<'l>(
    line: &'l [u8],
    times: &mut Times,
) -> Result<(&'l [u8], LineTime, &'l [u8]), Rejected> {
    let mut bad = Rejected::Malformed;
    for at in places(line, b" [").take(16) {
        let inside = &line[at + 2..];
        let Some(end) = memchr::memchr(b']', &inside[..inside.len().min(40)]) else { continue };
        match times.clf(&inside[..end]) {
            Some(time @ LineTime::Instant { .. }) => {
                let rest = inside[end + 1..].strip_prefix(b" ").ok_or(Rejected::Malformed)?;
                return Ok((&line[..at], time, rest));
            }
            _ if inside.len() > 2 && inside[2] == b'/' => bad = Rejected::BadTime,
            _ => {}
        }
    }
    Err(bad)
}

/// `client ident user`, `host client ident user`, or the client alone.
fn head_fields<'l>(head: &'l [u8], spans: &mut Spans<'l>) -> Result<(), Rejected> {
    let mut words = head.split(|b| *b == b' ').filter(|w| !w.is_empty());
    let first = words.next().ok_or(Rejected::Malformed)?;
    let second = words.next().unwrap_or_default();
    let third = words.next();
    let n_more = usize::from(third.is_some()) + words.count();
    // With four words and more the first is the vhost, unless a user name holds a space. An address
    // is one where no other word can be the client.
    let is_name = !is_address(first) || third == Some(b"-");
    let vhost =
        !second.is_empty() && second != b"-" && (is_address(second) || n_more >= 2 && is_name);
    if vhost && !(is_address(first) && first.ends_with(b",")) {
        spans.set(Slot::Host, first);
        spans.set(Slot::Client, list(&head[first.len() + 1..]));
        return Ok(());
    }
    spans.set(Slot::Client, list(head));
    if is_address(first) && memchr::memchr(b'.', second).is_some() {
        // One provider writes the vhost in place of the ident.
        spans.set(Slot::Host, second);
    }
    Ok(())
}

/// A list of addresses, `a, b, c`, perhaps in quotes, at the start of the text.
fn list(text: &[u8]) -> &[u8] {
    if let Some(inside) = text.strip_prefix(b"\"") {
        return &inside[..quote_end(inside).unwrap_or(inside.len())];
    }
    let mut end = 0;
    loop {
        end += memchr::memchr(b' ', &text[end..]).unwrap_or(text.len() - end);
        if end == text.len() || end == 0 || text[end - 1] != b',' {
            return &text[..end];
        }
        end += 1;
    }
}

fn is_address(word: &[u8]) -> bool {
    let word = word.strip_suffix(b",").unwrap_or(word);
    word.len() <= 45
        && std::str::from_utf8(word).is_ok_and(|w| w.parse::<std::net::IpAddr>().is_ok())
}

/// `"request" status bytes`, also `request "status" bytes` of one panel; returns what follows.
fn request_and_status<'l>(rest: &'l [u8], spans: &mut Spans<'l>) -> Result<&'l [u8], Rejected> {
    if let Some(inside) = rest.strip_prefix(b"\"") {
        let end = quote_end(inside).ok_or(Rejected::Malformed)?;
        spans.set(Slot::Request, &inside[..end]);
        let after = inside[end + 1..].strip_prefix(b" ").ok_or(Rejected::Malformed)?;
        let (status, after) = word(after);
        spans.set(Slot::Status, status);
        let (bytes, after) = word(after);
        let counted = bytes == b"-" || !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
        // Some servers write a client's quotes as they are: the end of the real request follows.
        let is_whole = counted && !has_second_request(after);
        return if is_whole { Ok(after) } else { Err(Rejected::Malformed) };
    }
    let end = find(rest, b" \"").ok_or(Rejected::Malformed)?;
    spans.set(Slot::Request, &rest[..end]);
    let after = &rest[end + 2..];
    let close = memchr::memchr(b'"', after).ok_or(Rejected::Malformed)?;
    spans.set(Slot::Status, &after[..close]);
    let (_bytes, after) = word(after[close + 1..].strip_prefix(b" ").unwrap_or_default());
    Ok(after)
}

/// True for `HTTP/1.1" 200` in what follows the first request.
fn has_second_request(text: &[u8]) -> bool {
    memchr::memchr_iter(b'"', text).any(|at| {
        let [b' ', status @ ..] = &text[at + 1..] else { return false };
        let (status, _) = word(status);
        is_status(status) && find(&text[at.saturating_sub(9)..at], b"HTTP/").is_some()
    })
}

/// The first word, and what follows the space after it.
fn word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b' ', text).unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

/// `"referer" "agent"`, then `name=value` or `name="value"` pairs; what it does not know it skips.
///
/// A single number at the end is the duration: with a point nginx's seconds, without one Apache's
/// microseconds, which are returned.
fn tail_fields<'l>(mut rest: &'l [u8], spans: &mut Spans<'l>) -> Option<f64> {
    let mut n_quoted = 0;
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix(b"\"") {
            let end = quote_end(inside)?;
            n_quoted += 1;
            rest = inside[end + 1..].trim_ascii_start();
            if n_quoted == 2 {
                spans.set(Slot::UserAgent, &inside[..end]);
                if !rest.is_empty() && rest.len() <= 12 && rest.iter().all(u8::is_ascii_digit) {
                    return access::number(rest);
                }
                if is_seconds(rest) {
                    spans.set(Slot::RequestTime, rest);
                }
            }
            continue;
        }
        let name_end = rest.iter().position(|b| matches!(b, b'=' | b' ' | b'"'));
        let Some(name_end) = name_end.filter(|end| rest[*end] == b'=') else {
            rest = word(rest).1;
            continue;
        };
        let name = &rest[..name_end];
        let after = &rest[name_end + 1..];
        let value = if let Some(inside) = after.strip_prefix(b"\"") {
            let end = quote_end(inside)?;
            rest = inside[end + 1..].trim_ascii_start();
            &inside[..end]
        } else {
            // An unquoted list of attempts goes on after its comma.
            let mut end = memchr::memchr(b' ', after).unwrap_or(after.len());
            while end < after.len() && end > 0 && after[end - 1] == b',' {
                let next = end + 1;
                end = next + memchr::memchr(b' ', &after[next..]).unwrap_or(after.len() - next);
            }
            rest = after[end..].trim_ascii_start();
            &after[..end]
        };
        if let Some(slot) = pair_slot(name, value) {
            spans.set(slot, value);
        }
    }
    None
}

/// `0.123`, and nothing else.
fn is_seconds(text: &[u8]) -> bool {
    let Some(point) = memchr::memchr(b'.', &text[..text.len().min(12)]) else { return false };
    let (whole, part) = (&text[..point], &text[point + 1..]);
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number(whole) && part.len() <= 6 && is_number(part)
}

/// Names that operators give to what nginx can log.
fn pair_slot(name: &[u8], value: &[u8]) -> Option<Slot> {
    Some(match name {
        // To some it is the user agent: a text of the client's, which must never pass for an address.
        b"ua" if !is_upstream(value) => Slot::UserAgent,
        b"host" | b"vhost" | b"http_host" | b"server_name" => Slot::Host,
        b"rt" | b"request_time" => Slot::RequestTime,
        b"urt" | b"upstream_response_time" => Slot::UpstreamTime,
        b"ua" | b"upstream" | b"upstream_addr" => Slot::UpstreamAddr,
        b"us" | b"upstream_status" => Slot::UpstreamStatus,
        b"xff" | b"x_forwarded_for" | b"http_x_forwarded_for" => Slot::ForwardedFor,
        _ => return None,
    })
}

/// True for what `$upstream_addr` may be: a list of addresses with a port, of sockets, or the name
/// of a group.
fn is_upstream(value: &[u8]) -> bool {
    let mut may_follow = true;
    value.split(|b| *b == b' ').all(|word| {
        let is_gap = word == b":";
        let follows = std::mem::replace(&mut may_follow, is_gap || word.ends_with(b","));
        let is_text = word.iter().any(|b| matches!(b, b'/' | b'(' | b')' | b';'));
        is_gap || follows && (word.starts_with(b"unix:") || !is_text && !is_address(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_that_some_name_after_the_user_agent_is_no_upstream_with_its_text() {
        for (value, upstreams, user_agent) in [
            ("10.0.0.5:80", &["10.0.0.5:80"][..], None),
            ("10.0.0.5:80, [2001:db8::5]:80 : unix:/run/a b.sock", &[], Some(())),
            (
                "10.0.0.5:80, 10.0.0.6:80 : unix:/run/a.sock",
                &["10.0.0.5:80", "10.0.0.6:80", "unix:/run/a.sock"],
                None,
            ),
            ("php_backend", &["php_backend"], None),
            ("-", &[], None),
            ("Mozilla/5.0 (X11; Linux x86_64) Safari/537.36", &[], Some(())),
            ("Googlebot/2.1", &[], Some(())),
            ("proxy for 198.51.100.77", &[], Some(())),
            ("198.51.100.77", &[], Some(())),
            ("2001:db8::77", &[], Some(())),
        ] {
            let line = format!(
                r#"192.0.2.1 - - [20/Nov/2026:12:00:05 +0000] "GET / HTTP/1.1" 200 5 ua="{value}""#
            );
            let record = try_parse(line.as_bytes()).unwrap();
            let attempts: Vec<_> = record.attempts.iter().map(|a| &*a.upstream).collect();
            assert_eq!(attempts, upstreams, "{value}");
            assert_eq!(record.user_agent.as_deref(), user_agent.map(|()| value), "{value}");
        }
    }
}
