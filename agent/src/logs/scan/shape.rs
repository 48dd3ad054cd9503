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
    /// All bits of each byte that must be the same.
    pub(crate) care: [u8; LITERAL_BYTES_MAX],
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
        literal.care[..len].fill(0xff);
        literal.len = len as u8;
        literal.n_marks = text[..len].iter().filter(|b| is_mark(**b)).count() as u8;
        literal
    }
}

/// Bytes that the index of a chunk lists.
pub(crate) const MARKS: [u8; 3] = [b'"', b'\\', b'\n'];

/// One of them that a literal may hold.
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
    /// At the n-th of this byte.
    Nth(u8, u8),
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
    /// The same, and it has to be a count.
    Number,
    /// No field: the rest of a literal longer than one vector.
    Here,
    /// A list with spaces in it when it has several entries: only one of one entry is read.
    List,
    /// A text to keep up to the first of a byte.
    Text,
    /// The time, which is mostly that of the line before.
    Time,
    Status,
    /// What nearly every server writes behind the time, in one go: `request" 200 17 "referer" "agent`.
    Request,
    /// Nothing is wanted of it, and it ends with the line.
    Rest,
    /// All others.
    Rare,
}

/// Marks of [`Kind::Request`] before the one that ends it.
pub(crate) const REQUEST_MARKS: usize = 4;

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
    /// The host of the URL in a request line.
    UrlHost,
    /// The client, with a port behind it.
    Peer,
    /// The client, perhaps with a port, and then with brackets if it is one of IPv6.
    Address,
}

/// What a value has to be, beyond having an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Any,
    /// Neither empty nor a dash: another field of the line would be asked instead.
    Said,
    /// The same, and without this byte.
    Without(u8),
    /// Not empty, and without this byte: a column.
    Column(u8),
    /// Where it starts, if it is not empty, else behind it, is another byte than this.
    Not(u8),
    /// One of these words.
    Of(&'static [&'static [u8]]),
    /// Not empty, and no space at its start.
    Name,
    /// One entry of what may be a list: no space in it, and no separator at its end.
    One,
    /// Digits or a dash.
    Count,
    Digits,
    /// Decimal numbers with a space between, or `-1` in the place of one.
    Decimals,
    /// ISO 8601 with a `T`, from the date to the zone or to parts of a second.
    Instant,
    /// `address:port` or a dash.
    Peer,
    /// Neither empty nor a dash, and only ASCII without commas and spaces.
    Alone,
    /// No `address:port`, and no space at its start.
    Portless,
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
    /// Marks of the line before this field.
    pub(crate) mark: u32,
    /// A byte that is not in the value of a [`Kind::Text`], or that no other value starts with; a
    /// newline when it may be any.
    pub(crate) never: u8,
    /// Of [`Kind::Text`] and [`Kind::List`]: see [`Value::Said`].
    pub(crate) is_said: bool,
    /// The text after a [`Kind::Text`] when the next field is a dash: both are then done at once.
    /// Empty = there is none.
    pub(crate) over_dash: Literal,
}

impl Op {
    fn new(end: End, until: Literal, keep: Keep, value: Value) -> Self {
        let (mut back, mut byte) = (0, 0);
        let never = match value {
            Value::Without(byte) | Value::Not(byte) => byte,
            Value::Digits => b'-',
            _ => b'\n',
        };
        let is_said = matches!(value, Value::Said | Value::Without(_));
        let is_skipped = matches!(value, Value::Any | Value::Not(_));
        let is_number = matches!(value, Value::Count | Value::Digits);
        let is_free = is_said || value == Value::Any;
        let kind = match (end, keep) {
            (End::Mark(n), Keep::Nothing) if is_skipped => {
                back = n;
                Kind::Skip
            }
            (End::Mark(n), Keep::Nothing) if value == Value::Count => {
                back = n;
                Kind::Count
            }
            (End::Byte(b), Keep::Nothing) if is_skipped || is_number => {
                byte = b;
                if is_number { Kind::Number } else { Kind::Word }
            }
            (End::List, Keep::Nothing | Keep::Upstream) if is_free => Kind::List,
            (End::Byte(b), Keep::Host | Keep::Client) if is_free => {
                byte = b;
                Kind::Text
            }
            (End::Here, Keep::Nothing) if value == Value::Any => Kind::Here,
            (End::Line, Keep::Nothing) if value == Value::Any => Kind::Rest,
            // Two times that differ in their seconds only must end at the same place.
            (End::Mark(_) | End::Nth(..), Keep::Time) => Kind::Time,
            (End::Byte(b), Keep::Time) if !b.is_ascii_digit() => Kind::Time,
            (End::Status, Keep::Status) => Kind::Status,
            _ => Kind::Rare,
        };
        let over_dash = Literal::default();
        Self { until, end, keep, value, kind, back, byte, mark: 0, never, is_said, over_dash }
    }
}

/// The one form of a format's plain lines.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) ops: Box<[Op]>,
    /// Marks of a line before its newline.
    pub(crate) n_marks: usize,
    /// Units of the duration per second, where the time of a line is the start of its request.
    pub(crate) duration_per_s: Option<f64>,
    /// The line has to be text as JSON wants it: UTF-8 without control characters.
    pub(crate) is_json: bool,
    /// More may follow on the line, whatever it is.
    pub(crate) is_open: bool,
    pub(crate) has_time: bool,
}

impl Shape {
    pub(crate) fn new(mut ops: Vec<Op>, duration_per_s: Option<f64>, is_json: bool) -> Self {
        let has_time = ops.iter().any(|op| op.keep == Keep::Time);
        let mut n_marks = 0;
        for op in &mut ops {
            op.mark = n_marks as u32;
            let inside = if op.kind == Kind::Request { REQUEST_MARKS } else { 0 };
            n_marks += inside + op.until.n_marks as usize;
        }
        Self { ops: ops.into(), n_marks, duration_per_s, is_json, is_open: false, has_time }
    }

    /// The shape of a program; `None` when its lines can be read in more than one way.
    ///
    /// `duration_per_s` is set for formats whose time is the start of a request.
    pub(crate) fn of(program: &Program, duration_per_s: Option<f64>) -> Option<Self> {
        let ops = ops_of(program, duration_per_s.is_some())?;
        Some(Self::new(see_requests(&ops), duration_per_s, false))
    }

    /// The same for the family of the Common Log Format, whose reader is stricter about some fields.
    pub(crate) fn of_clf(program: &Program) -> Option<Self> {
        let mut ops = ops_of(program, false)?;
        let mut after_status = false;
        for op in &mut ops {
            let value = match op.keep {
                Keep::Host | Keep::Client => Value::Without(b','),
                Keep::Nothing if after_status => Value::Count,
                Keep::Nothing if matches!(op.end, End::Before(..)) => Value::Name,
                _ => op.value,
            };
            after_status = op.keep == Keep::Status;
            *op = Op { over_dash: op.over_dash, ..Op::new(op.end, op.until, op.keep, value) };
        }
        Some(Self::new(see_requests(&ops), None, false))
    }
}

/// The ops of a program, one a step.
fn ops_of(program: &Program, time_is_start: bool) -> Option<Vec<Op>> {
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
            Slot::RequestTime if time_is_start => Keep::Duration,
            _ => Keep::Nothing,
        };
        let value = if again && keep != Keep::Nothing { Value::Said } else { Value::Any };
        push(&mut ops, end_of(step, rest.first(), keep)?, &step.until, keep, value);
    }
    see_dashes(&mut ops);
    let breaks = |op: &Op| op.until.bytes.contains(&b'\n');
    (!ops.iter().any(breaks)).then_some(ops)
}

/// Adds a field; a long text after it takes several ops.
pub(crate) fn push(ops: &mut Vec<Op>, end: End, until: &[u8], keep: Keep, value: Value) {
    ops.push(Op::new(end, Literal::new(until), keep, value));
    for more in until.chunks(LITERAL_BYTES_MAX).skip(1) {
        ops.push(Op::new(End::Here, Literal::new(more), Keep::Nothing, Value::Any));
    }
}

/// Most requests have no user: ` - - [` is looked for as one text.
pub(crate) fn see_dashes(ops: &mut [Op]) {
    for at in 2..ops.len() {
        let [op, next, then] = [ops[at - 2], ops[at - 1], ops[at]];
        let len = op.until.len as usize + 1 + next.until.len as usize;
        // Neither text may hold what the search for the end of the dash would stop at.
        let is_free = next.keep == Keep::Nothing && matches!(next.end, End::Before(b'[', _));
        let is_free = is_free && then.kind == Kind::Time;
        if is_free && op.kind == Kind::Text && op.until.len > 0 && len <= LITERAL_BYTES_MAX {
            let text = [
                &op.until.bytes[..op.until.len as usize],
                b"-",
                &next.until.bytes[..next.until.len as usize],
            ]
            .concat();
            ops[at - 2].over_dash = Literal::new(&text);
        }
    }
}

/// The same ops with those of a request as one.
fn see_requests(ops: &[Op]) -> Vec<Op> {
    let mut seen = Vec::new();
    let mut rest = ops;
    while let [op, more @ ..] = rest {
        let is = |at: usize, end, until: &[u8]| {
            let op = &rest[at];
            op.end == end && op.until == Literal::new(until) && op.over_dash.len == 0
        };
        let is_skip = |at: usize| rest[at].kind == Kind::Skip;
        let is_request = rest.len() >= 5
            && [0, 3, 4].into_iter().all(is_skip)
            && is(0, End::Mark(0), b"\" ")
            && is(1, End::Status, b" ")
            && rest[1].kind == Kind::Status
            && (is_skip(2) || rest[2].kind == Kind::Count)
            && is(2, End::Mark(1), b" \"")
            && is(3, End::Mark(0), b"\" \"")
            && rest[4].end == End::Mark(0);
        if is_request {
            let value = rest[2].value;
            seen.push(Op { kind: Kind::Request, value, ..rest[4] });
            rest = &rest[5..];
        } else {
            seen.push(*op);
            rest = more;
        }
    }
    seen
}

/// How the end of a step's field is found; the cases are those of `program::run`, in its order.
fn end_of(step: &Step, next: Option<&Step>, keep: Keep) -> Option<End> {
    let Some(first) = step.until.first() else { return Some(End::Line) };
    let time_follows = next.is_some_and(|next| next.slot == Slot::Time);
    let mark = step.until.iter().take(LITERAL_BYTES_MAX).position(|byte| is_mark(*byte));
    if step.is_loose || step.free && !time_follows {
        return None;
    }
    Some(match mark {
        _ if step.quoted => End::Mark(0),
        _ if step.words > 1 && *first == b' ' => End::Nth(b' ', u8::try_from(step.words).ok()?),
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
