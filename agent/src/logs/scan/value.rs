//! What the text of a field may be for its line to be plain.

use crate::logs::scan::lines::{Slab, part};
use crate::logs::scan::near;
use crate::logs::scan::shape::Value;

/// Longest number that no reader of JSON finds too large.
const SCALAR_BYTES_MAX: usize = 24;

/// Neither empty nor a dash.
#[inline(always)]
pub(super) fn says(slab: &Slab, at: usize, end: usize) -> bool {
    end > at && !(end == at + 1 && slab[at] == b'-')
}

pub(super) fn is_value(value: Value, slab: &Slab, at: usize, end: usize) -> bool {
    match value {
        Value::Any => true,
        Value::Said => says(slab, at, end),
        Value::Without(byte) => says(slab, at, end) && near(byte, &slab[at..end]).is_none(),
        Value::Column(byte) => end > at && near(byte, &slab[at..end]).is_none(),
        Value::Not(byte) => *part(slab, at) != [byte],
        Value::Of(words) => words.contains(&&slab[at..end]),
        Value::Name => end > at && slab[at] != b' ',
        Value::One => is_one(&slab[at..end]),
        Value::Scalar => is_scalar(&slab[at..end]),
        Value::Count => is_count(slab, at, end),
        Value::Digits => is_count(slab, at, end) && slab[at] != b'-',
        Value::Decimals => slab[at..end].split(|byte| *byte == b' ').all(is_decimal),
        Value::Instant => is_instant(&slab[at..end]),
        Value::Peer => slab[at..end] == *b"-" || port_at(&slab[at..end]).is_some(),
        Value::Alone => says(slab, at, end) && is_alone(&slab[at..end]),
        Value::Portless => is_portless(&slab[at..end]),
    }
}

/// Digits, or a dash.
#[inline(always)]
pub(super) fn is_count(slab: &Slab, at: usize, end: usize) -> bool {
    const ZEROS: u64 = u64::from_ne_bytes([b'0'; 8]);
    const SIXES: u64 = u64::from_ne_bytes([6; 8]);
    const HALVES: u64 = u64::from_ne_bytes([0xf0; 8]);
    let len = end.wrapping_sub(at);
    if len.wrapping_sub(1) >= 8 {
        return end > at && slab[at..end].iter().all(u8::is_ascii_digit);
    }
    let digits = (u64::from_le_bytes(*part(slab, at)) ^ ZEROS) << (64 - 8 * len);
    // A byte above nine shows in its high half, by itself or with six more.
    (digits.wrapping_add(SIXES) | digits) & HALVES == 0 || len == 1 && slab[at] == b'-'
}

/// `0.001`, `17` or `-1`.
fn is_decimal(text: &[u8]) -> bool {
    let n_whole = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let part = match &text[n_whole..] {
        [b'.', part @ ..] => part,
        [] => b"0",
        _ => return text == b"-1",
    };
    n_whole > 0 && !part.is_empty() && part.iter().all(u8::is_ascii_digit)
}

/// Not shorter than `2026-11-20T12:00:00Z`, and not longer than any server has it.
fn is_instant(text: &[u8]) -> bool {
    (20..=40).contains(&text.len()) && text[10] == b'T'
}

/// Where the port of an address begins, with its colon.
fn port_at(peer: &[u8]) -> Option<usize> {
    let n_port = peer.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let colon = peer.len().checked_sub(n_port + 1)?;
    (n_port > 0 && colon > 0 && peer[colon] == b':').then_some(colon)
}

/// The address of one with a port; a dash is none.
pub(super) fn without_port(peer: &[u8]) -> Option<&[u8]> {
    port_at(peer).map(|colon| &peer[..colon])
}

/// No list, and nothing that a reader would trim.
fn is_alone(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',')
}

/// The address of one with or without a port, of which only those of IPv6 have brackets.
pub(super) fn bare_address(peer: &[u8]) -> Option<&[u8]> {
    let address = match peer.strip_prefix(b"[") {
        Some(inside) => &inside[..near(b']', inside)?],
        None => match near(b':', peer) {
            Some(colon) if near(b':', &peer[colon + 1..]).is_none() => &peer[..colon],
            _ => peer,
        },
    };
    (!matches!(address, b"" | b"-")).then_some(address)
}

/// No bracket around an address, and not one colon alone.
fn is_portless(text: &[u8]) -> bool {
    let n_colons = || text.iter().filter(|byte| **byte == b':').take(2).count();
    !matches!(text, [b'[' | b' ', ..]) && n_colons() != 1
}

/// The host of the URL in `GET http://a.example/p HTTP/1.1`, with its port; `None` for any other
/// text, and where a user stands before the host.
pub(super) fn url_host(request: &[u8]) -> Option<&[u8]> {
    let (method_end, version) = (memchr::memchr(b' ', request)?, memchr::memrchr(b' ', request)?);
    let is_method = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-';
    let is_named = method_end > 0 && request[..method_end].iter().all(is_method);
    if !is_named || !request[version + 1..].starts_with(b"HTTP/") {
        return None;
    }
    let target = request.get(method_end + 1..version)?;
    let rest = target.strip_prefix(b"http")?;
    let rest = rest.strip_prefix(b"s").unwrap_or(rest).strip_prefix(b"://")?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'));
    let host = &rest[..end.unwrap_or(rest.len())];
    let has_user = memchr::memchr(b'@', rest).is_some();
    (!host.is_empty() && !has_user).then_some(host)
}

/// A number without exponent, true, false or null.
fn is_scalar(text: &[u8]) -> bool {
    let is_digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = text.strip_prefix(b"-").unwrap_or(text);
    let whole = number.iter().position(|byte| *byte == b'.').unwrap_or(number.len());
    let (whole, part) = number.split_at(whole);
    let is_number = text.len() <= SCALAR_BYTES_MAX
        && is_digits(whole)
        && (whole.len() == 1 || whole[0] != b'0')
        && part.split_first().is_none_or(|(_, digits)| is_digits(digits));
    is_number || matches!(text, b"true" | b"false" | b"null")
}

/// The field as the line has it, empty when it says nothing.
#[inline(always)]
pub(super) fn said(value: &[u8]) -> &[u8] {
    if value == b"-" { &[] } else { value }
}

/// False when there may be several upstreams.
pub(super) fn is_one(list: &[u8]) -> bool {
    near(b' ', list).is_none() && !matches!(list, [.., b','] | b":")
}

/// A status that no gateway makes.
#[inline(always)]
pub(super) fn status(text: u32) -> Option<u16> {
    let digits = (text & 0x00ff_ffff) ^ 0x0030_3030;
    // A byte above nine shows in its high half, by itself or with six more.
    if ((digits + 0x0006_0606) | digits) & 0x00f0_f0f0 != 0 {
        return None;
    }
    let status = (digits & 0xff) * 100 + (digits >> 8 & 0xff) * 10 + (digits >> 16);
    let is_plain = status.wrapping_sub(100) < 500 && status.wrapping_sub(502) > 2;
    is_plain.then_some(status as u16)
}

/// A whole number that a float holds exactly.
pub(super) fn whole(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}
