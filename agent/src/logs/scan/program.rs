//! A format, compiled to steps: text of fixed bytes and fields in turn, run over one line.
//!
//! A program is what a `log_format` or `LogFormat` string says. Nothing is copied. Values a client
//! chooses cannot make fields: inside quotes the first quote without a backslash ends the value
//! (nginx and Apache escape the others). Where such a value stands bare beside fields that count, a
//! line is refused unless all ways to read it say the same of them.

use crate::logs::Rejected;

/// What a field of a line means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Slot {
    Time,
    Client,
    ForwardedFor,
    Host,
    Request,
    Method,
    Path,
    /// Path without query, when there is no better one.
    PathOnly,
    Query,
    Status,
    UpstreamAddr,
    UpstreamStatus,
    UpstreamTime,
    RequestTime,
    UserAgent,
    /// The reason phrase after the status.
    Reason,
    /// A field that nobody asks for.
    Skip,
    /// The same, with a value for each upstream attempt.
    SkipList,
}

impl Slot {
    /// Fields that may hold several values: `a, b : c`.
    pub(super) fn is_list(self) -> bool {
        matches!(
            self,
            Self::UpstreamAddr
                | Self::UpstreamStatus
                | Self::UpstreamTime
                | Self::ForwardedFor
                | Self::SkipList
        )
    }
}

/// Number of slots that are kept.
const SLOTS: usize = Slot::Skip as usize;

/// The spans of one line by slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spans<'l>([Option<&'l [u8]>; SLOTS]);

impl<'l> Spans<'l> {
    /// The text of a field; `None` when absent, empty or `-`.
    pub(crate) fn get(&self, slot: Slot) -> Option<&'l [u8]> {
        self.0.get(slot as usize).copied().flatten().filter(|text| !matches!(*text, b"" | b"-"))
    }

    /// True when the field is there and the server wrote that it has no value.
    pub(crate) fn is_dash(&self, slot: Slot) -> bool {
        self.0.get(slot as usize).copied().flatten() == Some(b"-")
    }

    /// True when the format has the field, whatever it says.
    pub(crate) fn is_there(&self, slot: Slot) -> bool {
        self.0.get(slot as usize).copied().flatten().is_some()
    }

    pub(crate) fn set(&mut self, slot: Slot, text: &'l [u8]) {
        // The first field that says something wins: `%V` before `%{Host}i`.
        if (slot as usize) < SLOTS && self.get(slot).is_none() {
            self.0[slot as usize] = Some(text);
        }
    }
}

/// Who chooses the text of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The server, which writes one word or a list of them.
    Server,
    /// The server, which writes a number or a dash.
    Count,
    /// The server, which writes a time.
    Time,
    /// The client, though mostly one word: a host, a path, or who knows.
    Word,
    /// The client, with spaces.
    Client,
}

/// One step: a field, and the fixed text that ends it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) slot: Slot,
    /// Fixed text after the field; empty = to the end of the line.
    pub(super) until: Box<[u8]>,
    /// In quotes: ends at the first quote without a backslash.
    pub(super) quoted: bool,
    /// Unquoted text of the client's choice: ends at the last place that lets the rest match.
    pub(super) free: bool,
    /// The same, and its words could pass for fields that count: every end is tried.
    pub(super) is_loose: bool,
    writer: Writer,
    /// Words the value has.
    pub(super) words: usize,
    /// For one sign after free text: how often the fixed text of the later fields has the sign, so
    /// that the rest of a line matches after no later one.
    n_needed: usize,
}

/// A format, compiled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    pub(super) prefix: Box<[u8]>,
    pub(super) steps: Box<[Step]>,
    /// Some step is loose: lines may have to be refused as ambiguous.
    has_loose: bool,
}

/// One part of a format string.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Text(Vec<u8>),
    Field {
        slot: Slot,
        writer: Writer,
        /// Words the value always has: a time may be written in several.
        words: usize,
    },
}

/// Places tried for one free field before the line is given up.
const TRIES_MAX: usize = 256;

impl Program {
    /// Compiles the parts; `None` when no field holds a status, so that the lines are no requests.
    pub(crate) fn compile(parts: &[Part]) -> Option<Self> {
        let mut prefix = Vec::new();
        let mut steps: Vec<Step> = Vec::new();
        for part in parts {
            match part {
                Part::Text(text) => match steps.last_mut() {
                    None => prefix.extend_from_slice(text),
                    Some(step) => {
                        let mut until = std::mem::take(&mut step.until).into_vec();
                        until.extend_from_slice(text);
                        step.until = until.into();
                    }
                },
                Part::Field { slot, writer, words } => {
                    let before = steps.last().map_or(&prefix[..], |step| &step.until);
                    if before.is_empty() && !steps.is_empty() {
                        // Two fields without a sign between them cannot be told apart.
                        let last = steps.last_mut().expect("not empty");
                        last.slot = Slot::Skip;
                        if is_clients(*writer) || is_clients(last.writer) {
                            last.writer = Writer::Client;
                        }
                        continue;
                    }
                    let quoted = before.last() == Some(&b'"');
                    steps.push(Step {
                        slot: *slot,
                        until: Box::default(),
                        quoted,
                        free: false,
                        is_loose: false,
                        writer: *writer,
                        words: *words,
                        n_needed: 0,
                    });
                }
            }
        }
        let has_status = steps.iter().any(|step| step.slot == Slot::Status);
        if !has_status {
            return None;
        }
        for step in &mut steps {
            step.quoted &= step.until.first() == Some(&b'"');
        }
        for at in 0..steps.len() {
            let step = &steps[at];
            let is_bare = !step.until.is_empty() && !is_anchor(&step.until);
            let is_loose = is_bare && is_clients(step.writer) && exposes(&steps[at..]);
            let free = is_loose || is_bare && step.writer == Writer::Client;
            let mut n_needed = 0;
            if let [sign] = *step.until {
                // A line may be cut off in quotes.
                let later = steps[at + 1..].iter().take_while(|step| !step.quoted);
                n_needed = later.map(|step| memchr::memchr_iter(sign, &step.until).count()).sum();
            }
            steps[at] = Step { free, is_loose, n_needed, ..steps[at].clone() };
        }
        let has_loose = steps.iter().any(|step| step.is_loose);
        Some(Self { prefix: prefix.into(), steps: steps.into(), has_loose })
    }

    /// Statuses of attempts without the addresses they are of.
    pub(crate) fn has_bare_attempts(&self) -> bool {
        let has = |slot| self.steps.iter().any(|step| step.slot == slot);
        has(Slot::UpstreamStatus) && !has(Slot::UpstreamAddr)
    }

    /// Finds the fields of a line. Cost: one pass; lines with unquoted free text a few more.
    pub(crate) fn scan<'l>(&self, line: &'l [u8]) -> Result<Spans<'l>, Rejected> {
        let rest = line.strip_prefix(&*self.prefix).ok_or(Rejected::Malformed)?;
        let mut spans = Spans::default();
        if self.has_loose {
            let mut readings = Readings { first: None, is_doubtful: false, tries: TRIES_MAX };
            readings.read(&self.steps, rest, spans);
            let is_sure = !readings.is_doubtful;
            return readings.first.filter(|_| is_sure).ok_or(Rejected::Malformed);
        }
        let mut tries = TRIES_MAX;
        if run(&self.steps, rest, &mut spans, &mut tries) {
            Ok(spans)
        } else {
            Err(Rejected::Malformed)
        }
    }
}

/// True for text of the client's.
fn is_clients(writer: Writer) -> bool {
    matches!(writer, Writer::Word | Writer::Client)
}

/// No value holds such text: servers escape quotes and control characters.
fn is_anchor(until: &[u8]) -> bool {
    until.iter().any(|byte| *byte == b'"' || byte.is_ascii_control())
}

/// True when words in the first of these fields could pass for one that counts behind it.
fn exposes(steps: &[Step]) -> bool {
    let is_host = steps[0].slot == Slot::Host;
    for step in &steps[1..] {
        match step.slot {
            Slot::Status | Slot::UpstreamAddr | Slot::UpstreamStatus => return true,
            // A client that wants another host asks for it.
            Slot::Host if !is_host => return true,
            _ => {}
        }
        if is_anchor(&step.until) {
            return false;
        }
    }
    false
}

/// All ways to read a line with loose fields, as far as they say different things.
struct Readings<'l> {
    first: Option<Spans<'l>>,
    /// Two of them differ, or there were too many.
    is_doubtful: bool,
    tries: usize,
}

impl<'l> Readings<'l> {
    /// Reads the rest of a line by the steps; each loose field ends in all places it can.
    fn read(&mut self, steps: &[Step], mut rest: &'l [u8], mut spans: Spans<'l>) {
        for (at, step) in steps.iter().enumerate() {
            let next = steps.get(at + 1);
            if step.is_loose {
                return self.read_loose(&steps[at..], rest, &spans);
            }
            let time_follows = next.is_some_and(|next| next.slot == Slot::Time);
            if step.free && !time_follows {
                let mut tries = self.tries;
                let is_read = run_free(&steps[at..], rest, &mut spans, &mut tries);
                self.tries = tries;
                self.is_doubtful |= tries == 0;
                if is_read {
                    self.note(spans);
                }
                return;
            }
            if step.until.is_empty() {
                if fits(step, rest) {
                    spans.set(step.slot, rest);
                    self.note(spans);
                }
                return;
            }
            let Some(end) = end_of(step, time_follows, rest) else {
                if is_cut(&steps[at..]) {
                    self.note(spans);
                }
                return;
            };
            if !rest[end..].starts_with(&step.until) || !step.quoted && !fits(step, &rest[..end]) {
                return;
            }
            spans.set(step.slot, &rest[..end]);
            rest = &rest[end + step.until.len()..];
        }
        if rest.is_empty() {
            self.note(spans);
        }
    }

    /// A text with spaces is read to its last place first, a word to its first.
    fn read_loose(&mut self, steps: &[Step], rest: &'l [u8], spans: &Spans<'l>) {
        let step = &steps[0];
        // Servers escape the quotes of a client.
        let bare = &rest[..quote_end(rest).map_or(rest.len(), |end| end + 1)];
        let time_follows = steps.get(1).is_some_and(|next| next.slot == Slot::Time);
        let ends = places(rest, &step.until)
            .take_while(|end| *end < bare.len())
            .filter(|end| !time_follows || is_time(&rest[end + step.until.len()..]));
        if step.writer == Writer::Word {
            for end in ends {
                self.read_to(steps, rest, end, spans);
            }
            return;
        }
        let ends: Vec<usize> = ends.take(TRIES_MAX + 1).collect();
        for end in ends.into_iter().rev() {
            self.read_to(steps, rest, end, spans);
        }
    }

    fn read_to(&mut self, steps: &[Step], rest: &'l [u8], end: usize, spans: &Spans<'l>) {
        if self.is_doubtful {
            return;
        }
        if self.tries == 0 {
            self.is_doubtful = true;
            return;
        }
        self.tries -= 1;
        let mut spans = *spans;
        spans.set(steps[0].slot, &rest[..end]);
        self.read(&steps[1..], &rest[end + steps[0].until.len()..], spans);
    }

    fn note(&mut self, spans: Spans<'l>) {
        match &self.first {
            None => self.first = Some(spans),
            Some(first) => self.is_doubtful |= !says_the_same(first, &spans),
        }
    }
}

/// True when two readings agree on what counts.
fn says_the_same(one: &Spans<'_>, other: &Spans<'_>) -> bool {
    let slots = [Slot::Status, Slot::UpstreamAddr, Slot::UpstreamStatus, Slot::Time];
    let is_same_host = match (one.get(Slot::Host), other.get(Slot::Host)) {
        (Some(one), Some(other)) => extends(one, other) || extends(other, one),
        (one, other) => one == other,
    };
    is_same_host && slots.into_iter().all(|slot| one.get(slot) == other.get(slot))
}

/// The same host, or one with words before or behind it.
fn extends(long: &[u8], host: &[u8]) -> bool {
    let is_end = |byte: Option<&u8>| {
        byte.is_none_or(|b| !b.is_ascii_alphanumeric() && !matches!(b, b'.' | b'-' | b'_' | b':'))
    };
    long.strip_suffix(host).is_some_and(|before| is_end(before.last()))
        || long.strip_prefix(host).is_some_and(|after| is_end(after.first()))
}

/// True when the server may have written this value of an unquoted field.
fn fits(step: &Step, value: &[u8]) -> bool {
    let items = || value.split(|b| *b == b' ').map(|item| item.strip_suffix(b",").unwrap_or(item));
    match (step.slot, step.writer) {
        (Slot::Status, _) => is_status(value),
        (_, Writer::Word | Writer::Client | Writer::Time) => true,
        (_, Writer::Count) => is_count(value),
        (Slot::UpstreamStatus | Slot::UpstreamTime, _) => {
            items().all(|item| item == b":" || item.is_empty() || is_count(item))
        }
        (slot, Writer::Server) if slot.is_list() => {
            list_end(value).is_none() && !value.iter().any(|b| matches!(b, b'|' | b';'))
        }
        (_, Writer::Server) => !value.iter().any(|b| matches!(b, b' ' | b'|' | b';' | b'"')),
    }
}

fn is_count(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'))
}

/// A line cut off in its last words still tells of a request that happened.
fn is_cut(steps: &[Step]) -> bool {
    let is_idle = |step: &Step| matches!(step.slot, Slot::Skip | Slot::SkipList | Slot::UserAgent);
    steps.first().is_some_and(|step| step.quoted) && steps.iter().all(is_idle)
}

/// Where a field ends that is not free.
fn end_of(step: &Step, time_follows: bool, rest: &[u8]) -> Option<usize> {
    // Apache writes the quote of a client as `\"`.
    if step.until.first() == Some(&b'"') {
        quote_end(rest)
    } else if step.words > 1 && step.until.first() == Some(&b' ') {
        memchr::memchr_iter(b' ', rest).nth(step.words - 1)
    } else if step.slot.is_list() && step.until.first() == Some(&b' ') {
        list_end(rest)
    } else if time_follows {
        before_time(rest, &step.until)
    } else if step.until.len() == 1 {
        memchr::memchr(step.until[0], rest)
    } else {
        find(rest, &step.until)
    }
}

/// Matches the steps against the rest of a line; false leaves `spans` in an unspecified state.
fn run<'l>(steps: &[Step], mut rest: &'l [u8], spans: &mut Spans<'l>, tries: &mut usize) -> bool {
    for (at, step) in steps.iter().enumerate() {
        let last = at + 1 == steps.len();
        if step.until.is_empty() {
            spans.set(step.slot, rest);
            // A quote in what the server writes: a client's quotes were not escaped.
            return last && (is_clients(step.writer) || memchr::memchr(b'"', rest).is_none());
        }
        let time_follows = steps.get(at + 1).is_some_and(|next| next.slot == Slot::Time);
        if step.free && !time_follows {
            return run_free(&steps[at..], rest, spans, tries);
        }
        let Some(end) = end_of(step, time_follows, rest) else { return is_cut(&steps[at..]) };
        if step.until.len() > 1 && !rest[end..].starts_with(&step.until) {
            return false;
        }
        spans.set(step.slot, &rest[..end]);
        rest = &rest[end + step.until.len()..];
    }
    rest.is_empty()
}

/// Tries the ends of an unquoted free field from the right: the fixed fields after it cannot hold
/// what the client wrote.
fn run_free<'l>(steps: &[Step], rest: &'l [u8], spans: &mut Spans<'l>, tries: &mut usize) -> bool {
    let step = &steps[0];
    let mut upto = rest.len();
    for _ in 0..step.n_needed {
        let Some(end) = rfind(&rest[..upto], &step.until) else { return false };
        upto = end;
    }
    while let Some(end) = rfind(&rest[..upto], &step.until) {
        if *tries == 0 {
            return false;
        }
        *tries -= 1;
        let mut attempt = *spans;
        attempt.set(step.slot, &rest[..end]);
        if run(&steps[1..], &rest[end + step.until.len()..], &mut attempt, tries)
            && attempt.get(Slot::Status).is_none_or(is_status)
        {
            *spans = attempt;
            return true;
        }
        upto = end + step.until.len() - 1;
    }
    false
}

/// The end of an unquoted list: the first space that no separator stands before or after.
fn list_end(rest: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b' ', rest).find(|at| {
        let before = &rest[..*at];
        !before.ends_with(b",") && !before.ends_with(b" :") && !rest[*at..].starts_with(b" : ")
    })
}

/// The first place of `until` that a time follows: a user name may hold the same signs.
fn before_time(rest: &[u8], until: &[u8]) -> Option<usize> {
    places(rest, until).take(TRIES_MAX).find(|at| is_time(&rest[at + until.len()..]))
}

fn is_time(text: &[u8]) -> bool {
    text.len() > 4
        && text[..2].iter().all(u8::is_ascii_digit)
        && (text[2] == b'/' || text[2].is_ascii_digit())
}

/// Where a short text is in a longer one; cheaper than a search that prepares itself.
pub(crate) fn places<'l>(rest: &'l [u8], text: &'l [u8]) -> impl Iterator<Item = usize> + 'l {
    let first = text.first().copied().unwrap_or_default();
    memchr::memchr_iter(first, rest).filter(move |at| rest[*at..].starts_with(text))
}

pub(crate) fn find(rest: &[u8], text: &[u8]) -> Option<usize> {
    places(rest, text).next()
}

fn rfind(rest: &[u8], text: &[u8]) -> Option<usize> {
    let first = text.first().copied().unwrap_or_default();
    memchr::memrchr_iter(first, rest).find(|at| rest[*at..].starts_with(text))
}

/// Position of the first quote that no backslash escapes.
pub(crate) fn quote_end(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', text.get(from..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        from = at + 2;
    }
}

/// Three digits, the first of them 1 to 5.
pub(crate) fn is_status(text: &[u8]) -> bool {
    matches!(text, [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> Part {
        Part::Text(t.as_bytes().to_vec())
    }

    fn field(slot: Slot) -> Part {
        let writer = if slot == Slot::UserAgent { Writer::Client } else { Writer::Server };
        Part::Field { slot, writer, words: 1 }
    }

    fn check(parts: &[Part], line: &str, want: Option<(&str, &str)>) {
        let program = Program::compile(parts).expect("has a status");
        let got = program.scan(line.as_bytes()).ok().map(|spans| {
            let show = |slot| String::from_utf8_lossy(spans.get(slot).unwrap_or(b"-")).into_owned();
            (show(Slot::Status), show(Slot::UserAgent))
        });
        let got = got.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
        assert_eq!(got, want, "{line}");
    }

    #[test]
    fn quoted_fields_end_at_the_first_bare_quote() {
        let parts = [field(Slot::Status), text(" \""), field(Slot::UserAgent), text("\"")];
        check(&parts, "200 \"curl\"", Some(("200", "curl")));
        check(&parts, r#"200 "a \" 502 \"b""#, Some(("200", r#"a \" 502 \"b"#)));
        check(&parts, r#"200 "a" 502 "b""#, None);
        check(&parts, "200 \"cut", Some(("200", "-")));
        check(&parts, "200", None);
        check(&parts, r#"200 "a\"#, Some(("200", "-")));
    }

    #[test]
    fn unquoted_text_of_the_client_makes_no_status() {
        let parts =
            [field(Slot::UserAgent), text(" "), field(Slot::Status), text(" "), field(Slot::Skip)];
        check(&parts, "curl 200 17", Some(("200", "curl")));
        check(&parts, "x 502 17 200 33", Some(("200", "x 502 17")));
        check(&parts, "200", None);
    }

    #[test]
    fn a_format_without_status_is_no_access_log() {
        assert_eq!(Program::compile(&[field(Slot::Skip), text(" "), field(Slot::Skip)]), None);
    }
}
