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
}

impl Literal {
    /// The first bytes of a text, as many as fit.
    pub(crate) fn new(text: &[u8]) -> Self {
        let mut literal = Self::default();
        let len = text.len().min(LITERAL_BYTES_MAX);
        literal.bytes[..len].copy_from_slice(&text[..len]);
        literal.mask = ((1u64 << len) - 1) as u32;
        literal.len = len as u8;
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

/// What is kept of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Keep {
    Nothing,
    Host,
    Client,
    Upstream,
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
}

/// One field and the text after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Op {
    pub(crate) until: Literal,
    pub(crate) end: End,
    pub(crate) keep: Keep,
    pub(crate) value: Value,
}

/// The one form of a format's plain lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) ops: Box<[Op]>,
    /// Units of the duration per second, where the time of a line is the start of its request.
    pub(crate) duration_per_s: Option<f64>,
}

impl Shape {
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
        let breaks = |op: &Op| op.until.bytes.contains(&b'\n');
        (!ops.iter().any(breaks)).then(|| Self { ops: ops.into(), duration_per_s })
    }

    /// The same for the family of the Common Log Format, whose reader is stricter about some fields.
    pub(crate) fn of_clf(program: &Program) -> Option<Self> {
        let mut shape = Self::of(program, None)?;
        let mut after_status = false;
        for op in &mut shape.ops {
            match op.keep {
                Keep::Host | Keep::Client => op.value = Value::Word,
                Keep::Nothing if std::mem::take(&mut after_status) => op.value = Value::Count,
                Keep::Nothing if matches!(op.end, End::Before(..)) => op.value = Value::Name,
                _ => {}
            }
            after_status = op.keep == Keep::Status;
        }
        Some(shape)
    }
}

/// Adds a field; a long text after it takes several ops.
pub(crate) fn push(ops: &mut Vec<Op>, end: End, until: &[u8], keep: Keep, value: Value) {
    ops.push(Op { until: Literal::new(until), end, keep, value });
    for more in until.chunks(LITERAL_BYTES_MAX).skip(1) {
        let until = Literal::new(more);
        ops.push(Op { until, end: End::Here, keep: Keep::Nothing, value: Value::Any });
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
