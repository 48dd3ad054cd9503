//! The loop over the lines of a chunk: the index of a slab, then each line against the shapes.
//!
//! A slab is what one index covers; it begins at a line. All positions are counted from its start,
//! and a line that does not end in it starts the next one. Nothing here is unsafe: what a [`Search`]
//! finds is only believed after a bounds check.

use crate::logs::scan::program::is_status;
use crate::logs::scan::second::Seconds;
use crate::logs::scan::shape::{End, Keep, Literal, Op, Shape, Value};
use crate::logs::scan::{Plain, Search};

/// Bytes of a slab: the index of the worst text stays in the first-level cache.
const SLAB_BYTES: usize = 4096;
/// Entries that [`Search::index`] may write beyond the marks there are.
pub(crate) const INDEX_SLACK: usize = 8;

/// Positions of the marks and newlines of a slab, in order.
pub(crate) type Index = [u16; SLAB_BYTES + INDEX_SLACK];

/// What takes the lines that the loop finds.
pub(crate) trait Lines {
    /// A line that fits a shape. False = it is wanted whole, and comes by `full`.
    fn plain(&mut self, plain: &Plain<'_>) -> bool;
    /// Reads a time that is not like the one of the line before, in milliseconds since the epoch;
    /// only one with an offset counts. True = in one of the ways that [`Seconds`] knows.
    fn time(&mut self, text: &[u8]) -> Option<(i64, bool)>;
    /// Any other line. False = the shapes are those of this file no more.
    fn full(&mut self, raw: &[u8]) -> bool;
}

/// Gives every line of a chunk that ends with a newline to `lines`; returns the bytes of the lines
/// given, fewer than there are only when `full` said so.
#[inline(always)]
pub(crate) fn run<S: Search>(
    search: S,
    shapes: &[Shape],
    seconds: &mut Seconds,
    chunk: &[u8],
    lines: &mut impl Lines,
) -> usize {
    let mut index: Index = [0; SLAB_BYTES + INDEX_SLACK];
    let mut at = 0;
    let mut likely = 0;
    while at < chunk.len() {
        let text = &chunk[at..];
        let slab = &text[..text.len().min(SLAB_BYTES)];
        let n = search.index(slab, &mut index);
        let Some(n) = index[..n].iter().rposition(|mark| slab[*mark as usize] == b'\n') else {
            // A line longer than a slab.
            let Some(end) = memchr::memchr(b'\n', text) else { return at };
            at += end + 1;
            if !lines.full(&text[..end]) {
                return at;
            }
            continue;
        };
        let marks = &index[..=n];
        let mut line = Place { start: 0, mark: 0 };
        while line.mark <= n {
            let fitting = fit_any(search, shapes, seconds, text, marks, line, &mut likely, lines);
            let next = match fitting {
                Some((plain, next)) if lines.plain(&plain) => next,
                _ => {
                    let (go_on, next) = full(text, marks, line, lines);
                    if !go_on {
                        return at + next.start;
                    }
                    next
                }
            };
            line = next;
        }
        at += line.start;
    }
    at
}

/// Start of a line, and its first entry in the index.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    mark: usize,
}

/// Hands on a line that fits no shape.
#[inline(never)]
fn full(text: &[u8], marks: &[u16], line: Place, lines: &mut impl Lines) -> (bool, Place) {
    let mut mark = line.mark;
    while text[marks[mark] as usize] != b'\n' {
        mark += 1;
    }
    let end = marks[mark] as usize;
    let go_on = lines.full(&text[line.start..end]);
    (go_on, Place { start: end + 1, mark: mark + 1 })
}

/// Tries the shape that fitted last, then the others.
#[expect(clippy::too_many_arguments, reason = "one inlined step of the loop above")]
#[inline(always)]
fn fit_any<'t, S: Search>(
    search: S,
    shapes: &[Shape],
    seconds: &mut Seconds,
    text: &'t [u8],
    marks: &[u16],
    line: Place,
    likely: &mut usize,
    lines: &mut impl Lines,
) -> Option<(Plain<'t>, Place)> {
    let mut which = *likely;
    for _ in shapes {
        let shape = &shapes[which];
        if let Some(fitting) = fit(search, shape, seconds, text, marks, line, lines) {
            *likely = which;
            return Some(fitting);
        }
        which = if which + 1 < shapes.len() { which + 1 } else { 0 };
    }
    None
}

/// What is kept of one line.
#[derive(Default)]
struct Found<'t> {
    host: &'t [u8],
    client: &'t [u8],
    upstream: &'t [u8],
    at_ms: Option<i64>,
    status: u16,
    duration: Option<u64>,
}

/// One line against one shape.
#[inline(always)]
fn fit<'t, S: Search>(
    search: S,
    shape: &Shape,
    seconds: &mut Seconds,
    text: &'t [u8],
    marks: &[u16],
    line: Place,
    lines: &mut impl Lines,
) -> Option<(Plain<'t>, Place)> {
    let mut found = Found::default();
    let (mut at, mut mark) = (line.start, line.mark);
    for op in &shape.ops {
        // The mark of the newline is met before one of the next line, and fits no literal.
        let next = *marks.get(mark)? as usize;
        let end = end(search, op, text, at, next)?;
        if end > next || end < at || !search.matches(text, end, &op.until) {
            return None;
        }
        if op.value != Value::Any && !is_value(search, op.value, text, at, end) {
            return None;
        }
        match op.keep {
            Keep::Nothing => {}
            Keep::Host => found.host = &text[at..end],
            Keep::Client => found.client = &text[at..end],
            Keep::Upstream => found.upstream = upstream(search, text, at, end)?,
            Keep::Time => found.at_ms = Some(time(search, seconds, text, at, end, lines)?),
            Keep::Status => found.status = status(&text[at..end])?,
            Keep::Duration => found.duration = Some(whole(&text[at..end])?),
        }
        at = end + op.until.len as usize;
        mark += op.until.n_marks as usize;
    }
    let newline = *marks.get(mark)? as usize;
    let returns = usize::from(at + 1 == newline && text[at] == b'\r');
    if at + returns != newline || text[newline] != b'\n' {
        return None;
    }
    let plain = Plain {
        raw: &text[line.start..newline],
        host: said(found.host),
        client: said(found.client),
        upstream: found.upstream,
        second: second(&found, shape),
        status: found.status,
    };
    Some((plain, Place { start: newline + 1, mark: mark + 1 }))
}

/// Where the value that starts at `at` ends; `next` is the next mark.
#[inline(always)]
fn end<S: Search>(search: S, op: &Op, text: &[u8], at: usize, next: usize) -> Option<usize> {
    Some(match op.end {
        End::Here => at,
        End::Mark(back) => next.checked_sub(back as usize)?,
        End::Byte(byte) => search.find(text, at, byte),
        End::Before(byte, back) => search.find(text, at, byte).checked_sub(back as usize)?,
        End::Status => at + 3,
        End::Space(n) => {
            let mut end = search.find(text, at, b' ');
            for _ in 1..n {
                end = search.find(text, end + 1, b' ');
            }
            end
        }
        End::List => list_end(search, text, at, next)?,
        // Only a newline ends a line; the carriage return before it is no part of the value.
        End::Line if text[next] != b'\n' => return None,
        End::Line => next - usize::from(next > at && text[next - 1] == b'\r'),
    })
}

/// The first space that no separator stands before or after.
#[inline(always)]
fn list_end<S: Search>(search: S, text: &[u8], at: usize, next: usize) -> Option<usize> {
    let mut from = at;
    loop {
        let end = search.find(text, from, b' ');
        if end >= next {
            return None;
        }
        let value = &text[at..end];
        let goes_on = value.last() == Some(&b',')
            || value.ends_with(b" :")
            || text[end..].starts_with(b" : ");
        if !goes_on {
            return Some(end);
        }
        from = end + 1;
    }
}

#[inline(always)]
fn is_value<S: Search>(search: S, value: Value, text: &[u8], at: usize, end: usize) -> bool {
    let is_said = end > at && !(end == at + 1 && text[at] == b'-');
    match value {
        Value::Any => true,
        Value::Said => is_said,
        Value::Word => is_said && !search.has(text, at, end, b','),
        Value::Name => end > at && text[at] != b' ',
        Value::Count => end > at && (!is_said || search.is_digits(text, at, end)),
    }
}

/// The field as the line has it, empty when it says nothing.
#[inline(always)]
fn said(value: &[u8]) -> &[u8] {
    if value == b"-" { &[] } else { value }
}

/// The one upstream of a list; `None` when there may be several.
#[inline(always)]
fn upstream<S: Search>(search: S, text: &[u8], at: usize, end: usize) -> Option<&[u8]> {
    let value = said(&text[at..end]);
    let one = !search.has(text, at, end, b' ') && !matches!(value, [.., b','] | b":");
    one.then_some(value)
}

/// Milliseconds since the epoch.
#[inline(always)]
fn time<S: Search>(
    search: S,
    seconds: &mut Seconds,
    text: &[u8],
    at: usize,
    end: usize,
    lines: &mut impl Lines,
) -> Option<i64> {
    if end == at {
        return None;
    }
    if end - at == seconds.like.len as usize
        && search.matches(text, at, &seconds.like)
        && let Some(ms) = seconds.read(&text[at..end])
    {
        return Some(ms);
    }
    learn(seconds, &text[at..end], lines)
}

#[inline(never)]
#[cold]
fn learn(seconds: &mut Seconds, text: &[u8], lines: &mut impl Lines) -> Option<i64> {
    let is_found = |text: &[u8]| {
        matches!(text, [a, b, c, _, _, ..]
            if a.is_ascii_digit() && b.is_ascii_digit() && (*c == b'/' || c.is_ascii_digit()))
    };
    // The program finds the time behind free text by these bytes.
    let (ms, is_usual) = lines.time(text).filter(|_| is_found(text))?;
    *seconds = if is_usual { Seconds::new(text, ms) } else { Seconds::whole(text, ms) };
    Some(ms)
}

/// A status that no gateway makes.
#[inline(always)]
fn status(text: &[u8]) -> Option<u16> {
    let [a, b, c] = *text else { return None };
    let digit = |byte: u8| u16::from(byte.wrapping_sub(b'0'));
    let status = digit(a) * 100 + digit(b) * 10 + digit(c);
    (is_status(text) && !(502..=504).contains(&status)).then_some(status)
}

/// A whole number that a float holds exactly.
#[inline(always)]
fn whole(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

/// The second in which the request ended.
#[inline(always)]
fn second(found: &Found<'_>, shape: &Shape) -> Option<i64> {
    let start = found.at_ms?;
    let lasted = match (shape.duration_per_s, found.duration) {
        (Some(per_s), Some(duration)) => ((duration as f64 / per_s).min(1e9) * 1000.0) as i64,
        _ => 0,
    };
    Some((start + lasted).div_euclid(1000))
}

/// Every byte of `literal` that matters is at `at`; for text too close to the end of a chunk.
#[cold]
pub(crate) fn matches_short(text: &[u8], at: usize, literal: &Literal) -> bool {
    let Some(there) = text.get(at..at + literal.len as usize) else { return false };
    there
        .iter()
        .zip(&literal.bytes)
        .enumerate()
        .all(|(bit, (a, b))| literal.mask >> bit & 1 == 0 || a == b)
}
