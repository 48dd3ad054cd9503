//! A format, compiled to steps: text of fixed bytes and fields in turn, run over one line.
//!
//! A program is what a `log_format` or `LogFormat` string says. Nothing is copied. Values a client
//! chooses cannot make fields: inside quotes the first quote without a backslash ends the value
//! (nginx and Apache escape the others), and unquoted free text is matched from the end of the line.

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
}

/// One part of a format string.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Text(Vec<u8>),
    Field {
        slot: Slot,
        /// The client chooses the value, and it may hold spaces.
        free: bool,
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
                Part::Field { slot, free, words } => {
                    let before = steps.last().map_or(&prefix[..], |step| &step.until);
                    if before.is_empty() && !steps.is_empty() {
                        // Two fields without a sign between them cannot be told apart.
                        let last = steps.last_mut().expect("not empty");
                        last.slot = Slot::Skip;
                        last.free |= free;
                        continue;
                    }
                    let quoted = before.last() == Some(&b'"');
                    steps.push(Step {
                        slot: *slot,
                        until: Box::default(),
                        quoted,
                        free: *free,
                        words: *words,
                        n_needed: 0,
                    });
                }
            }
        }
        for step in &mut steps {
            step.quoted &= step.until.first() == Some(&b'"');
            // A quote cannot be part of an escaped value, so text up to one is safe.
            step.free &= !step.quoted && !step.until.contains(&b'"') && !step.until.is_empty();
        }
        for at in 0..steps.len() {
            if let [sign] = *steps[at].until {
                // A line may be cut off in quotes.
                let later = steps[at + 1..].iter().take_while(|step| !step.quoted);
                let n = later.map(|step| memchr::memchr_iter(sign, &step.until).count()).sum();
                steps[at].n_needed = n;
            }
        }
        let has_status = steps.iter().any(|step| step.slot == Slot::Status);
        has_status.then(|| Self { prefix: prefix.into(), steps: steps.into() })
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
        let mut tries = TRIES_MAX;
        if run(&self.steps, rest, &mut spans, &mut tries) {
            Ok(spans)
        } else {
            Err(Rejected::Malformed)
        }
    }
}

/// Matches the steps against the rest of a line; false leaves `spans` in an unspecified state.
fn run<'l>(steps: &[Step], mut rest: &'l [u8], spans: &mut Spans<'l>, tries: &mut usize) -> bool {
    for (at, step) in steps.iter().enumerate() {
        let last = at + 1 == steps.len();
        if step.until.is_empty() {
            spans.set(step.slot, rest);
            return last;
        }
        let time_follows = steps.get(at + 1).is_some_and(|next| next.slot == Slot::Time);
        if step.free && !time_follows {
            return run_free(&steps[at..], rest, spans, tries);
        }
        let end = if step.quoted {
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
        };
        let Some(end) = end else {
            // A line cut off in its last words still tells of a request that happened.
            let told = steps[at..]
                .iter()
                .all(|s| matches!(s.slot, Slot::Skip | Slot::SkipList | Slot::UserAgent));
            return told && step.quoted;
        };
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
    places(rest, until).take(TRIES_MAX).find(|at| {
        let after = &rest[at + until.len()..];
        after.len() > 4
            && after[..2].iter().all(u8::is_ascii_digit)
            && (after[2] == b'/' || after[2].is_ascii_digit())
    })
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
        Part::Field { slot, free: slot == Slot::UserAgent, words: 1 }
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
