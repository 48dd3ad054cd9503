//! One line against one shape: field by field, from mark to mark. Nothing here is unsafe: what a
//! [`Search`] finds is only believed after a check of the bounds.

use crate::logs::scan::lines::{Lines, Page, Place, SLAB_BYTES, Slab, mark_at, part};
use crate::logs::scan::second::Seconds;
use crate::logs::scan::shape::{End, Keep, Kind, Op, REQUEST_MARKS, Shape, Value};
use crate::logs::scan::value::{
    bare_address, is_count, is_one, is_value, said, says, status, url_host, whole, without_port,
};
use crate::logs::scan::{Plain, Search};

/// What is kept of one line.
#[derive(Clone, Copy, Default)]
pub(super) struct Found<'s> {
    /// By [`Keep`]; the first is of no use.
    texts: [&'s [u8]; 4],
    /// Seconds since the epoch and milliseconds.
    second: i64,
    ms: i64,
    status: u16,
    duration: Option<u64>,
}

/// One line against one shape.
///
/// `mark` is always the first entry of the index that is not before `at`: what matched so far holds
/// as many as the ops say. That of the newline comes before any of the next line and fits no
/// literal, so nothing read here is beyond the line.
#[inline(always)]
pub(super) fn fit<'s, S: Search>(
    search: S,
    shape: &Shape,
    seconds: &mut Seconds,
    found: &mut Found<'s>,
    page: Page<'s>,
    line: Place,
    lines: &mut impl Lines,
) -> Option<(Plain<'s>, Place)> {
    let slab = page.slab;
    let mut at = line.start;
    let mut ops = shape.ops.iter();
    while let Some(op) = ops.next() {
        let mark = line.mark + op.mark as usize;
        let next = mark_at(page.marks, mark);
        let end = match op.kind {
            Kind::Skip => before(next, op.back, at).filter(|_| starts(slab, at, op))?,
            Kind::Count => before(next, op.back, at).filter(|end| is_count(slab, at, *end))?,
            Kind::Status => {
                found.status = status(u32::from_le_bytes(*part(slab, at)))?;
                at + 3
            }
            Kind::Request => {
                let (status, end) = request(page, mark, op.value == Value::Count)?;
                found.status = status;
                end
            }
            Kind::Time => match known_time(search, seconds, found, slab, at) {
                Some(behind) => {
                    at = behind;
                    continue;
                }
                None => rare(op, found, seconds, slab, at, next, lines)?,
            },
            Kind::Text => {
                let end = text(search, op, found, slab, at, next)?;
                if op.over_dash.len > 0 && search.matches(slab, end, &op.over_dash) {
                    ops.next();
                    at = end + op.over_dash.len as usize;
                    // Behind the dash stands the time.
                    if let Some(behind) = known_time(search, seconds, found, slab, at) {
                        ops.next();
                        at = behind;
                    }
                    continue;
                }
                end
            }
            Kind::Word => Some(search.find(slab, at, next, op.byte))
                .filter(|end| *end <= next && starts(slab, at, op))?,
            Kind::Here => at,
            Kind::Number => Some(search.find(slab, at, next, op.byte))
                .filter(|end| *end <= next && is_count(slab, at, *end) && starts(slab, at, op))?,
            Kind::List => one_entry(search, op, found, slab, at, next)?,
            Kind::Rest if slab[next] != b'\n' => return None,
            Kind::Rest => next - usize::from(next > at && slab[next - 1] == b'\r'),
            Kind::Rare => rare(op, found, seconds, slab, at, next, lines)?,
        };
        if !search.matches(slab, end, &op.until) {
            return None;
        }
        at = end + op.until.len as usize;
    }
    let mut mark = line.mark + shape.n_marks;
    if shape.is_open {
        while slab[mark_at(page.marks, mark)] != b'\n' {
            mark += 1;
        }
        at = mark_at(page.marks, mark);
    }
    let newline = mark_at(page.marks, mark);
    let plain = finish(search, shape, found, slab, newline, line.start, at)?;
    Some((plain, Place { start: newline + 1, mark: mark + 1 }))
}

/// Reads a time that is like the one before; returns where the text that follows it ends.
#[inline(always)]
fn known_time<S: Search>(
    search: S,
    seconds: &Seconds,
    found: &mut Found<'_>,
    slab: &Slab,
    at: usize,
) -> Option<usize> {
    if seconds.len == 0 || !search.matches(slab, at, &seconds.like) {
        return None;
    }
    (found.second, found.ms) = seconds.read(part(slab, at))?;
    Some(at + seconds.like.len as usize)
}

/// Keeps a [`Kind::Text`]; returns its end.
#[inline(always)]
fn text<'s, S: Search>(
    search: S,
    op: &Op,
    found: &mut Found<'s>,
    slab: &'s Slab,
    at: usize,
    next: usize,
) -> Option<usize> {
    let end = search.find(slab, at, next, op.byte);
    let is_good = end <= next
        && (!op.is_said || says(slab, at, end))
        && (op.never == b'\n' || !search.has(slab, at, end, op.never));
    is_good.then(|| {
        found.texts[op.keep as usize & 3] = &slab[at..end];
        end
    })
}

/// Keeps a [`Kind::List`], unless it has several entries or none; returns its end.
#[inline(always)]
fn one_entry<'s, S: Search>(
    search: S,
    op: &Op,
    found: &mut Found<'s>,
    slab: &'s Slab,
    at: usize,
    next: usize,
) -> Option<usize> {
    let end = search.find(slab, at, next, b' ');
    if end > next || end <= at || op.is_said && !says(slab, at, end) {
        return None;
    }
    // Beside another space of the list stands a comma or a colon.
    let [last, _, then] = *part(slab, end - 1);
    (!matches!(last, b',' | b':') && then != b':').then(|| {
        found.texts[op.keep as usize & 3] = &slab[at..end];
        end
    })
}

/// What stands around a status, `" 200 `, in the lowest six bytes, and where it is.
const AROUND_STATUS: u64 = u64::from_le_bytes(*b"\" \0\0\0 \0\0");
const IS_AROUND: u64 = 0x0000_ff00_0000_ffff;

/// What [`Kind::Request`] stands for, from the first letter of the request on: status and end.
#[inline(always)]
fn request(page: Page<'_>, mark: usize, counts: bool) -> Option<(u16, usize)> {
    let Page { slab, marks } = page;
    let [request_end, referer, referer_end, _, end] =
        marks[mark & (SLAB_BYTES - 1)..].first_chunk::<{ REQUEST_MARKS + 1 }>()?;
    let [request_end, referer] = [*request_end as usize, *referer as usize];
    let [referer_end, end] = [*referer_end as usize, *end as usize];
    let six = u64::from_le_bytes(*part(slab, request_end));
    let count = request_end + b"\" 200 ".len();
    let three = u32::from_le_bytes(*part(slab, referer_end)) & 0x00ff_ffff;
    let is_so = six & IS_AROUND == AROUND_STATUS
        && count < referer
        && part(slab, referer - 1) == b" \""
        && three == u32::from_le_bytes(*b"\" \"\0")
        && (!counts || is_count(slab, count, referer - 1));
    if !is_so {
        return None;
    }
    Some((status((six >> 16) as u32)?, end))
}

/// The value at `at` may start so.
#[inline(always)]
fn starts(slab: &Slab, at: usize, op: &Op) -> bool {
    *part(slab, at) != [op.never]
}

/// So many bytes before a mark, if that is not before `at`.
#[inline(always)]
fn before(mark: usize, back: u8, at: usize) -> Option<usize> {
    (at + back as usize <= mark).then(|| mark - back as usize)
}

/// What is kept of a line that was read up to `at`.
#[inline(always)]
fn finish<'s, S: Search>(
    search: S,
    shape: &Shape,
    found: &Found<'s>,
    slab: &'s Slab,
    newline: usize,
    start: usize,
    at: usize,
) -> Option<Plain<'s>> {
    if at != newline && (at + 1 != newline || slab[at] != b'\r') || slab[newline] != b'\n' {
        return None;
    }
    if shape.is_json && !search.is_json_text(&slab[start..at]) {
        return None;
    }
    let lasted_s = if shape.duration_per_s.is_some() { lasted(found, shape) } else { 0 };
    let [_, host, client, upstream] = found.texts;
    Some(Plain {
        raw: &slab[start..newline],
        host: said(host),
        client: said(client),
        upstream: said(upstream),
        second: shape.has_time.then_some(found.second + lasted_s),
        status: found.status,
    })
}

/// Any field; returns its end. Kept out of the loop, which then has few things to hold.
#[inline(never)]
fn rare<'s>(
    op: &Op,
    found: &mut Found<'s>,
    seconds: &mut Seconds,
    slab: &'s Slab,
    at: usize,
    next: usize,
    lines: &mut impl Lines,
) -> Option<usize> {
    let text = &slab[..=next];
    let find = |from: usize, byte| {
        let rest = text.get(from..).unwrap_or_default();
        memchr::memchr(byte, rest).map(|n| from + n)
    };
    let end = match op.end {
        End::Here => at,
        End::Mark(back) => next.checked_sub(back as usize)?,
        End::Byte(byte) => find(at, byte)?,
        End::Before(byte, back) => find(at, byte)?.checked_sub(back as usize)?,
        End::Status => at + 3,
        End::Nth(byte, n) => {
            let mut end = find(at, byte)?;
            for _ in 1..n {
                end = find(end + 1, byte)?;
            }
            end
        }
        End::List => list_end(text, at, next)?,
        // Only a newline ends a line; the carriage return before it is no part of the value.
        End::Line if text[next] != b'\n' => return None,
        End::Line => next - usize::from(next > at && text[next - 1] == b'\r'),
    };
    if end > next || end < at || !is_value(op.value, slab, at, end) {
        return None;
    }
    match op.keep {
        Keep::Nothing => {}
        Keep::Time => (found.second, found.ms) = learn(op, seconds, &text[at..end], lines)?,
        Keep::Status if end == at + 3 => {
            found.status = status(u32::from_le_bytes(*part(slab, at)))?;
        }
        Keep::Status => return None,
        Keep::Duration => found.duration = Some(whole(&text[at..end])?),
        Keep::UrlHost => found.texts[Keep::Host as usize] = url_host(&text[at..end])?,
        Keep::Peer => found.texts[Keep::Client as usize] = without_port(&text[at..end])?,
        Keep::Address => found.texts[Keep::Client as usize] = bare_address(&text[at..end])?,
        Keep::Upstream if !is_one(&slab[at..end]) => return None,
        Keep::Host | Keep::Client | Keep::Upstream => {
            found.texts[op.keep as usize & 3] = &slab[at..end];
        }
    }
    Some(end)
}

/// The first space that no separator stands before or after.
fn list_end(text: &[u8], at: usize, next: usize) -> Option<usize> {
    memchr::memchr_iter(b' ', &text[at..next]).map(|n| at + n).find(|end| {
        let value = &text[at..*end];
        !value.ends_with(b",") && !value.ends_with(b" :") && !text[*end..].starts_with(b" : ")
    })
}

/// A time that is not like the one of the line before: seconds since the epoch, milliseconds.
fn learn(
    op: &Op,
    seconds: &mut Seconds,
    text: &[u8],
    lines: &mut impl Lines,
) -> Option<(i64, i64)> {
    // The program finds the time behind free text by these bytes.
    let is_found = matches!(text, [a, b, c, _, _, ..]
        if a.is_ascii_digit() && b.is_ascii_digit() && (*c == b'/' || c.is_ascii_digit()));
    if !is_found {
        return None;
    }
    let (ms, is_usual) = lines.time(text)?;
    let learned = if is_usual { Seconds::new(text, ms) } else { Seconds::whole(text, ms) };
    *seconds = learned.before(&op.until);
    Some((ms.div_euclid(1000), ms.rem_euclid(1000)))
}

/// Seconds from the one in which the request started to the one in which it ended.
#[inline(never)]
fn lasted(found: &Found<'_>, shape: &Shape) -> i64 {
    match (shape.duration_per_s, found.duration) {
        (Some(per_s), Some(duration)) => {
            let lasted_ms = ((duration as f64 / per_s).min(1e9) * 1000.0) as i64;
            (found.ms + lasted_ms).div_euclid(1000)
        }
        _ => 0,
    }
}
