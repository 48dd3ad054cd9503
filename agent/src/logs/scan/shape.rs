//! A format as the kernel runs it: how each field of a plain line ends, and what is kept of it.
//!
//! A shape is stricter than the program it is made from: what fits the shape is read in the same
//! way by the program. It looks at no byte twice and never goes back, so whatever leaves a choice
//! (a backslash, a quote in the wrong place, several upstreams) does not fit and is parsed in full.

use crate::logs::scan::program::{Program, Slot, Step};

/// Bytes that a literal holds at most: one vector.
pub(crate) const LITERAL_BYTES_MAX: usize = 32;

/// Fixed text, or a text in which some bytes do not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Literal {
    pub(crate) bytes: [u8; LITERAL_BYTES_MAX],
    /// A bit for each byte that must be the same.
    pub(crate) mask: u32,
    pub(crate) len: u8,
    /// Quotes and backslashes in it.
    pub(crate) n_marks: u8,
    /// Every byte matters.
    pub(crate) is_whole: bool,
}

impl Literal {
    /// The first bytes of a text, as many as fit.
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut literal = Self::default();
        let len = text.len().min(LITERAL_BYTES_MAX);
        literal.bytes[..len].copy_from_slice(&text[..len]);
        literal.mask = ((1u64 << len) - 1) as u32;
        literal.len = len as u8;
        literal.is_whole = true;
        literal.n_marks = text[..len].iter().filter(|b| is_mark(**b)).count() as u8;
        literal
    }
}

/// Bytes that the index of a chunk lists, beside the newline.
pub(crate) fn is_mark(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\')
}

/// Where a field ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    /// At once: the rest of a literal longer than one vector.
    Here,
    /// So many bytes before the next mark.
    Mark(u8),
    /// At the first of this byte.
    Byte(u8),
    /// So many bytes before the first of this byte.
    Before(u8, u8),
    /// At the n-th space.
    Space(u8),
    /// At the first space that no separator of a list stands beside.
    List,
    /// After three bytes.
    Status,
    /// At the end of the line.
    Line,
}

/// The few ways most fields are read, each of which the kernel does in one go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Nothing is wanted of it, and its end is counted back from the next mark.
    Skip,
    /// The same, and it has to be a count.
    Count,
    /// Nothing is wanted of it, and it ends at the first of a byte.
    Word,
    /// A list with spaces in it when it has several entries: only one of one entry is read.
    List,
    /// A text to keep up to the first of a byte.
    Text,
    /// The time, which is mostly that of the line before.
    Time,
    Status,
    /// All others.
    Rare,
}

/// What is kept of a field; the first ones as their place in the line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub(crate) enum Keep {
    Nothing = 0,
    Host = 1,
    Client = 2,
    Upstream = 3,
    Time,
    Status,
    /// Duration in units of the format, whole numbers only.
    Duration,
}

/// What a value has to be, beyond having an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Any,
    /// Neither empty nor a dash: another field of the line would be asked instead.
    Said,
    /// The same, and without a comma.
    Word,
    /// Not empty, and no space at its start.
    Name,
    /// Digits or a dash.
    Count,
    /// A number, true, false or null of JSON.
    Scalar,
}

/// One field and the text after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Op {
    pub(crate) until: Literal,
    pub(crate) end: End,
    pub(crate) keep: Keep,
    pub(crate) value: Value,
    pub(crate) kind: Kind,
    /// Of [`End::Mark`] and [`End::Byte`], for the kinds that need them.
    pub(crate) back: u8,
    pub(crate) byte: u8,
    /// The text after a [`Kind::Text`] when the next field is a dash: both are then done at once.
    /// Empty = there is none.
    pub(crate) over_dash: Literal,
}

impl Op {
    fn new(end: End, until: Literal, keep: Keep, value: Value) -> Self {
        let (mut back, mut byte) = (0, 0);
        let kind = match (end, keep) {
            (End::Mark(n), Keep::Nothing) if value == Value::Any => {
                back = n;
                Kind::Skip
            }
            (End::Mark(n), Keep::Nothing) if value == Value::Count => {
                back = n;
                Kind::Count
            }
            (End::Byte(b), Keep::Nothing) if value == Value::Any => {
                byte = b;
                Kind::Word
            }
            (End::List, Keep::Nothing | Keep::Upstream) => Kind::List,
            (End::Byte(b), Keep::Host | Keep::Client | Keep::Upstream) => {
                byte = b;
                Kind::Text
            }
            // Two times that differ in their seconds only must end at the same place.
            (End::Mark(_), Keep::Time) => Kind::Time,
            (End::Byte(b), Keep::Time) if !b.is_ascii_digit() => Kind::Time,
            (End::Status, Keep::Status) => Kind::Status,
            _ => Kind::Rare,
        };
        Self { until, end, keep, value, kind, back, byte, over_dash: Literal::default() }
    }
}

/// The one form of a format's plain lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) ops: Box<[Op]>,
    /// Units of the duration per second, where the time of a line is the start of its request.
    pub(crate) duration_per_s: Option<f64>,
    /// The line has to be text as JSON wants it: UTF-8 without control characters.
    pub(crate) is_json: bool,
    pub(crate) has_time: bool,
}

impl Shape {
    pub(crate) fn new(ops: Vec<Op>, duration_per_s: Option<f64>, is_json: bool) -> Self {
        let has_time = ops.iter().any(|op| op.keep == Keep::Time);
        Self { ops: ops.into(), duration_per_s, is_json, has_time }
    }

    /// The shape of a program; `None` when its lines can be read in more than one way.
    ///
    /// `duration_per_s` is set for formats whose time is the start of a request.
    pub(crate) fn of(program: &Program, duration_per_s: Option<f64>) -> Option<Self> {
        let mut ops = Vec::new();
        push(&mut ops, End::Here, &program.prefix, Keep::Nothing, Value::Any);
        if program.prefix.is_empty() {
            ops.clear();
        }
        for (at, step) in program.steps.iter().enumerate() {
            let rest = &program.steps[at + 1..];
            let first = !program.steps[..at].iter().any(|before| before.slot == step.slot);
            let again = rest.iter().any(|later| later.slot == step.slot);
            let keep = match step.slot {
                _ if !first => Keep::Nothing,
                Slot::Host => Keep::Host,
                Slot::Client => Keep::Client,
                Slot::UpstreamAddr => Keep::Upstream,
                Slot::Time => Keep::Time,
                Slot::Status => Keep::Status,
                Slot::RequestTime if duration_per_s.is_some() => Keep::Duration,
                _ => Keep::Nothing,
            };
            let value = if again && keep != Keep::Nothing { Value::Said } else { Value::Any };
            push(&mut ops, end_of(step, rest.first(), keep)?, &step.until, keep, value);
        }
        see_dashes(&mut ops);
        let breaks = |op: &Op| op.until.bytes.contains(&b'\n');
        (!ops.iter().any(breaks)).then(|| Self::new(ops, duration_per_s, false))
    }

    /// The same for the family of the Common Log Format, whose reader is stricter about some fields.
    pub(crate) fn of_clf(program: &Program) -> Option<Self> {
        let mut shape = Self::of(program, None)?;
        let mut after_status = false;
        for op in &mut shape.ops {
            let value = match op.keep {
                Keep::Host | Keep::Client => Value::Word,
                Keep::Nothing if after_status => Value::Count,
                Keep::Nothing if matches!(op.end, End::Before(..)) => Value::Name,
                _ => op.value,
            };
            after_status = op.keep == Keep::Status;
            *op = Op { over_dash: op.over_dash, ..Op::new(op.end, op.until, op.keep, value) };
        }
        Some(shape)
    }
}

/// Adds a field; a long text after it takes several ops.
pub(crate) fn push(ops: &mut Vec<Op>, end: End, until: &[u8], keep: Keep, value: Value) {
    ops.push(Op::new(end, Literal::new(until), keep, value));
    for more in until.chunks(LITERAL_BYTES_MAX).skip(1) {
        ops.push(Op::new(End::Here, Literal::new(more), Keep::Nothing, Value::Any));
    }
}

/// Most requests have no user: ` - - [` is looked for as one text.
fn see_dashes(ops: &mut [Op]) {
    for at in 1..ops.len() {
        let [op, next] = [ops[at - 1], ops[at]];
        let len = op.until.len as usize + 1 + next.until.len as usize;
        // Neither text may hold what the search for the end of the dash would stop at.
        let is_free = next.keep == Keep::Nothing && matches!(next.end, End::Before(b'[', _));
        if is_free && op.kind == Kind::Text && op.until.len > 0 && len <= LITERAL_BYTES_MAX {
            let text = [
                &op.until.bytes[..op.until.len as usize],
                b"-",
                &next.until.bytes[..next.until.len as usize],
            ]
            .concat();
            ops[at - 1].over_dash = Literal::new(&text);
        }
    }
}

/// How the end of a step's field is found; the cases are those of `program::run`, in its order.
fn end_of(step: &Step, next: Option<&Step>, keep: Keep) -> Option<End> {
    let Some(first) = step.until.first() else { return Some(End::Line) };
    let time_follows = next.is_some_and(|next| next.slot == Slot::Time);
    let mark = step.until.iter().take(LITERAL_BYTES_MAX).position(|byte| is_mark(*byte));
    if step.free && !time_follows {
        return None;
    }
    Some(match mark {
        _ if step.quoted => End::Mark(0),
        _ if step.words > 1 && *first == b' ' => End::Space(u8::try_from(step.words).ok()?),
        _ if step.slot.is_list() && *first == b' ' => End::List,
        _ if keep == Keep::Status && !first.is_ascii_digit() => End::Status,
        // No mark is in the value, so the first one is that of the text after it.
        Some(at) => End::Mark(at as u8),
        None if time_follows && step.until.len() <= LITERAL_BYTES_MAX => {
            let back = step.until.len() - 1;
            End::Before(step.until[back], back as u8)
        }
        None => End::Byte(*first),
    })
}
