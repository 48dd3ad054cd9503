//! The loop over the lines of a chunk: the index of a slab, then each line against the shapes.
//!
//! A slab is what one index covers; it begins at a line. All positions are counted from its start,
//! and a line that does not end in it starts the next one. Nothing here is unsafe: what a [`Search`]
//! finds is only believed after a bounds check.

use crate::logs::scan::second::Seconds;
use crate::logs::scan::shape::{End, Keep, Kind, Op, Shape, Value};
use crate::logs::scan::{Plain, Portable, Search};

/// Bytes of a slab: the index of the worst text stays in the first-level cache.
pub(crate) const SLAB_BYTES: usize = 4096;
/// Entries that [`Search::index`] may write beyond the marks there are.
pub(crate) const INDEX_SLACK: usize = 4;

/// Longest number that no reader of JSON finds too large.
const SCALAR_BYTES_MAX: usize = 24;

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

/// What the lines so far say of the next one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habit {
    seconds: Seconds,
    /// The shape that fitted last.
    shape: usize,
    /// Lines that fitted none since then.
    n_strange: u32,
}

/// Strange lines for each of which every shape is tried; of those after them, one in as many.
const STRANGE_MAX: u32 = 32;

/// Gives every line of a chunk that ends with a newline to `lines`; returns the bytes of the lines
/// given, fewer than there are only when `full` said so.
#[inline(always)]
pub(crate) fn run<'t, S: Search<'t>>(
    proof: S::Proof,
    shapes: &[Shape],
    habit: &mut Habit,
    chunk: &'t [u8],
    lines: &mut impl Lines,
) -> usize {
    let mut index: Index = [0; SLAB_BYTES + INDEX_SLACK];
    let Some(mut shape) = shapes.get(habit.shape) else { return 0 };
    let mut at = 0;
    while at < chunk.len() {
        let text = &chunk[at..];
        let slab = &text[..text.len().min(SLAB_BYTES)];
        let n = S::index(proof, slab, &mut index);
        let Some(n) = index[..n].iter().rposition(|mark| slab[*mark as usize] == b'\n') else {
            // A line longer than a slab.
            let Some(end) = memchr::memchr(b'\n', text) else { return at };
            at += end + 1;
            if !lines.full(&text[..end]) {
                return at;
            }
            continue;
        };
        let marks = &index;
        let search = S::of(proof, text);
        let mut line = Place { start: 0, mark: 0 };
        let mut changed_at = usize::MAX;
        while line.mark <= n {
            line = match fit(search, shape, &mut habit.seconds, text, marks, line, lines) {
                Some((plain, next)) if lines.plain(&plain) => next,
                fitting => {
                    let other = fitting.is_none() && changed_at != line.start;
                    if other && change(shapes, habit, text, marks, line, lines) {
                        shape = &shapes[habit.shape];
                        changed_at = line.start;
                        continue;
                    }
                    let (go_on, next) = full(text, marks, line, lines);
                    if !go_on {
                        return at + next.start;
                    }
                    next
                }
            };
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
fn full(text: &[u8], marks: &Index, line: Place, lines: &mut impl Lines) -> (bool, Place) {
    let mut mark = line.mark;
    while text[mark_at(marks, mark)] != b'\n' {
        mark += 1;
    }
    let end = mark_at(marks, mark);
    let go_on = lines.full(&text[line.start..end]);
    (go_on, Place { start: end + 1, mark: mark + 1 })
}

/// Looks for another shape that fits; true when the habit was changed to one.
#[inline(never)]
fn change(
    shapes: &[Shape],
    habit: &mut Habit,
    text: &[u8],
    marks: &Index,
    line: Place,
    lines: &mut impl Lines,
) -> bool {
    habit.n_strange = habit.n_strange.saturating_add(1);
    if habit.n_strange > STRANGE_MAX && !habit.n_strange.is_multiple_of(STRANGE_MAX) {
        return false;
    }
    for (at, shape) in shapes.iter().enumerate().filter(|(at, _)| *at != habit.shape) {
        // What follows a time is remembered with it, and may be another text here.
        let mut seconds = Seconds::default();
        let search = Portable::of((), text);
        if fit(search, shape, &mut seconds, text, marks, line, lines).is_some() {
            *habit = Habit { seconds, shape: at, n_strange: 0 };
            return true;
        }
    }
    false
}

/// What is kept of one line.
struct Found<'t> {
    /// Texts by [`Keep`]; the first is of no use.
    texts: [&'t [u8]; 4],
    /// Seconds since the epoch and milliseconds.
    second: i64,
    ms: i64,
    status: u16,
    duration: Option<u64>,
}

/// One line against one shape.
///
/// `mark` is always the first entry of the index that is not before `at`. That of the newline comes
/// before any of the next line and fits no literal, so nothing read here is beyond the line.
#[inline(always)]
fn fit<'t, S: Search<'t>>(
    search: S,
    shape: &Shape,
    seconds: &mut Seconds,
    text: &'t [u8],
    marks: &Index,
    line: Place,
    lines: &mut impl Lines,
) -> Option<(Plain<'t>, Place)> {
    let mut found = Found { texts: [&[]; 4], second: 0, ms: 0, status: 0, duration: None };
    let (mut at, mut mark) = (line.start, line.mark);
    let mut ops = shape.ops.iter();
    while let Some(op) = ops.next() {
        let next = mark_at(marks, mark);
        if op.kind == Kind::Skip {
            let end = next.checked_sub(op.back as usize)?;
            if end < at || !search.matches(end, &op.until) {
                return None;
            }
            at = end + op.until.len as usize;
            mark += op.until.n_marks as usize;
            continue;
        }
        let mut until = &op.until;
        let end = match op.kind {
            Kind::Text => {
                let end = search.find(at, op.byte);
                if end > next || !is_value(search, op.value, text, at, end) {
                    return None;
                }
                found.texts[op.keep as usize & 3] = &text[at..end];
                if op.over_dash.len > 0 && search.matches(end, &op.over_dash) {
                    ops.next();
                    at = end + op.over_dash.len as usize;
                    mark += op.over_dash.n_marks as usize;
                    continue;
                }
                end
            }
            Kind::Time if seconds.len > 0 && search.matches(at, &seconds.like) => {
                (found.second, found.ms) = seconds.read(text, at)?;
                until = &seconds.like;
                at += until.len as usize;
                mark += until.n_marks as usize;
                continue;
            }
            Kind::Status => {
                found.status = status(text, at)?;
                at + 3
            }
            Kind::Count | Kind::Word | Kind::List => {
                let end = short(search, op, text, at, next)?;
                found.texts[op.keep as usize & 3] = &text[at..end];
                end
            }
            _ => rare(op, &mut found, seconds, text, at, next, lines)?,
        };
        if end > next || !search.matches(end, until) {
            return None;
        }
        at = end + until.len as usize;
        mark += until.n_marks as usize;
    }
    finish(search, shape, found, text, mark_at(marks, mark), line, at)
        .map(|(plain, start)| (plain, Place { start, mark: mark + 1 }))
}

/// What is kept of a line that was read up to `at`, and where the next one starts.
#[inline(always)]
fn finish<'t, S: Search<'t>>(
    search: S,
    shape: &Shape,
    mut found: Found<'t>,
    text: &'t [u8],
    newline: usize,
    line: Place,
    at: usize,
) -> Option<(Plain<'t>, usize)> {
    if at != newline && (at + 1 != newline || text[at] != b'\r') || text[newline] != b'\n' {
        return None;
    }
    if shape.is_json && !search.is_json_text(line.start, at) {
        return None;
    }
    if shape.duration_per_s.is_some() {
        found.second += lasted(&found, shape);
    }
    let [_, host, client, upstream] = found.texts;
    let plain = Plain {
        raw: &text[line.start..newline],
        host: said(host),
        client: said(client),
        upstream: if upstream.is_empty() { upstream } else { one(upstream)? },
        second: shape.has_time.then_some(found.second),
        status: found.status,
    };
    Some((plain, newline + 1))
}

/// The end of a count, a word, or a list of one entry.
#[inline(always)]
fn short<'t, S: Search<'t>>(
    search: S,
    op: &Op,
    text: &[u8],
    at: usize,
    next: usize,
) -> Option<usize> {
    if op.kind == Kind::Word {
        return Some(search.find(at, op.byte));
    }
    if op.kind == Kind::Count {
        let end = next.checked_sub(op.back as usize)?;
        return (end >= at && is_value(search, Value::Count, text, at, end)).then_some(end);
    }
    let end = search.find(at, b' ');
    if end > next || !is_value(search, op.value, text, at, end) {
        return None;
    }
    // Beside another space of the list stands a comma or a colon.
    (text[at..end].last() != Some(&b',') && text[end + 1] != b':').then_some(end)
}

/// An entry of the index.
#[inline(always)]
fn mark_at(marks: &Index, mark: usize) -> usize {
    // Never cut off: a slab has no more marks than bytes.
    marks[mark & (SLAB_BYTES - 1)] as usize
}

/// Any field; returns its end. Kept out of the loop, which then has few things to hold.
#[inline(never)]
fn rare<'t>(
    op: &Op,
    found: &mut Found<'t>,
    seconds: &mut Seconds,
    text: &'t [u8],
    at: usize,
    next: usize,
    lines: &mut impl Lines,
) -> Option<usize> {
    let search = Portable::of((), text);
    let end = match op.end {
        End::Here => at,
        End::Mark(back) => next.checked_sub(back as usize)?,
        End::Byte(byte) => search.find(at, byte),
        End::Before(byte, back) => search.find(at, byte).checked_sub(back as usize)?,
        End::Status => at + 3,
        End::Space(n) => {
            let mut end = search.find(at, b' ');
            for _ in 1..n {
                end = search.find(end + 1, b' ');
            }
            end
        }
        End::List => list_end(text, at, next)?,
        // Only a newline ends a line; the carriage return before it is no part of the value.
        End::Line if text[next] != b'\n' => return None,
        End::Line => next - usize::from(next > at && text[next - 1] == b'\r'),
    };
    if end > next || end < at || !is_value(search, op.value, text, at, end) {
        return None;
    }
    match op.keep {
        Keep::Nothing => {}
        Keep::Time => (found.second, found.ms) = learn(op, seconds, &text[at..end], lines)?,
        Keep::Status if end == at + 3 => found.status = status(text, at)?,
        Keep::Status => return None,
        Keep::Duration => found.duration = Some(whole(&text[at..end])?),
        Keep::Host | Keep::Client | Keep::Upstream => {
            found.texts[op.keep as usize & 3] = &text[at..end];
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

#[inline(always)]
fn is_value<'t, S: Search<'t>>(
    search: S,
    value: Value,
    text: &[u8],
    at: usize,
    end: usize,
) -> bool {
    let is_said = end > at && !(end == at + 1 && text[at] == b'-');
    match value {
        Value::Any => true,
        Value::Said => is_said,
        Value::Word => is_said && !search.has(at, end, b','),
        Value::Name => end > at && text[at] != b' ',
        Value::Scalar => is_scalar(&text[at..end]),
        Value::Count => end > at && (!is_said || search.is_digits(at, end)),
    }
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
fn said(value: &[u8]) -> &[u8] {
    if value == b"-" { &[] } else { value }
}

/// The one upstream of a list; `None` when there may be several.
fn one(list: &[u8]) -> Option<&[u8]> {
    let is_one = !list.contains(&b' ') && !matches!(list, [.., b','] | b":");
    is_one.then(|| said(list))
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

/// A status that no gateway makes.
#[inline(always)]
fn status(text: &[u8], at: usize) -> Option<u16> {
    let four = u32::from_le_bytes(*text.get(at..)?.first_chunk::<4>()?);
    let digits = (four & 0x00ff_ffff) ^ 0x0030_3030;
    // A byte above nine shows in its high half, by itself or with six more.
    if ((digits + 0x0006_0606) | digits) & 0x00f0_f0f0 != 0 {
        return None;
    }
    let status = (digits & 0xff) * 100 + (digits >> 8 & 0xff) * 10 + (digits >> 16);
    let is_plain = status.wrapping_sub(100) < 500 && status.wrapping_sub(502) > 2;
    is_plain.then_some(status as u16)
}

/// A whole number that a float holds exactly.
fn whole(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 15 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
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
