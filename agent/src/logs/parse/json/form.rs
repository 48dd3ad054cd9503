//! The form of a JSON line -> a shape: loggers write the same keys in the same order each time.
//!
//! Keys and punctuation are fixed text, values are fields. A line of another form, or with an
//! escape in it, does not fit and is parsed in full; so does what serde would not take as JSON.

use crate::logs::parse::json::{CLIENT, EPOCH, HOST, ISO, STATUS, TIME_LOCAL, UPSTREAM};
use crate::logs::parse::log_format::TimeStyle;
use crate::logs::parse::time;
use crate::logs::scan::shape::{End, Keep, LITERAL_BYTES_MAX, Op, Shape, Value, is_mark, push};

/// A value of the line and the key it stands under.
struct Field<'l> {
    /// Empty for values inside of others.
    key: &'l [u8],
    text: &'l [u8],
    start: usize,
    is_string: bool,
}

/// The shape of lines like this one, which is valid JSON, and how their time is written.
///
/// `None` when it holds an escape, or does not tell what a plain line must.
pub(crate) fn learn(line: &[u8]) -> Option<(Shape, TimeStyle)> {
    if line.contains(&b'\\') {
        return None;
    }
    let fields = fields(line)?;
    let mut keeps = vec![(Keep::Nothing, Value::Any); fields.len()];
    let mut keep = |at: Option<usize>, what: Keep, may_be_empty: bool| {
        if let Some(at) = at {
            keeps[at] = (what, if may_be_empty { Value::Any } else { Value::Said });
        }
    };
    let status = present(&fields, &STATUS);
    keep(Some(*status.first()?), Keep::Status, false);
    for (keys, what) in
        [(&HOST[..], Keep::Host), (&CLIENT[..], Keep::Client), (&UPSTREAM[..], Keep::Upstream)]
    {
        let at = present(&fields, keys);
        if at.first().is_some_and(|at| !fields[*at].is_string) {
            return None;
        }
        keep(at.first().copied(), what, at.len() == 1);
    }
    let (time_at, style) = time_of(&fields)?;
    keep(time_at, Keep::Time, false);
    Some((shape(line, &fields, &keeps), style))
}

/// Fields under these keys, in the order of the keys.
fn present(fields: &[Field<'_>], keys: &[&str]) -> Vec<usize> {
    keys.iter()
        .filter_map(|key| fields.iter().position(|field| field.key == key.as_bytes()))
        .collect()
}

/// The field that `json::record_time` reads, if each line of this form has it read there.
fn time_of(fields: &[Field<'_>]) -> Option<(Option<usize>, TimeStyle)> {
    let is = |at: usize, read: fn(&[u8]) -> Option<crate::logs::LineTime>| {
        fields[at].is_string && read(fields[at].text).is_some()
    };
    if let [at] = present(fields, &[TIME_LOCAL])[..] {
        return is(at, time::clf).then_some((Some(at), TimeStyle::Clf));
    }
    let dated = present(fields, &ISO);
    let epoch = present(fields, &EPOCH);
    // Other styles are looked for under some of these keys only.
    let only = |at: usize, key: &str| fields[at].key == key.as_bytes() && dated.len() == 1;
    match (&dated[..], &epoch[..]) {
        ([at, ..], _) if is(*at, time::iso8601) => Some((Some(*at), TimeStyle::Iso8601)),
        ([at], _) if (only(*at, "time") || only(*at, "timestamp")) && is(*at, time::clf) => {
            Some((Some(*at), TimeStyle::Clf))
        }
        ([at], [first]) if only(*at, "time") && first == at => {
            Some((Some(*at), TimeStyle::EpochSeconds))
        }
        ([], [at, ..]) => Some((Some(*at), TimeStyle::EpochSeconds)),
        ([], []) => Some((None, TimeStyle::Iso8601)),
        _ => None,
    }
}

fn shape(line: &[u8], fields: &[Field<'_>], keeps: &[(Keep, Value)]) -> Shape {
    let mut ops: Vec<Op> = Vec::new();
    let head = fields.first().map_or(line.len(), |field| field.start);
    push(&mut ops, End::Here, &line[..head], Keep::Nothing, Value::Any);
    for (at, field) in fields.iter().enumerate() {
        let upto = fields.get(at + 1).map_or(line.len(), |next| next.start);
        let until = &line[field.start + field.text.len()..upto];
        let (keep, value) = keeps[at];
        if field.is_string {
            push(&mut ops, End::Mark(0), until, keep, value);
        } else {
            let mark = until.iter().take(LITERAL_BYTES_MAX).position(|byte| is_mark(*byte));
            let end = mark.map_or(End::Byte(until[0]), |at| End::Mark(at as u8));
            push(&mut ops, end, until, keep, Value::Scalar);
        }
    }
    Shape::new(ops, None, true)
}

/// All values of a valid object without escapes; `None` when a key comes twice.
fn fields(line: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    let mut keys: Vec<&[u8]> = Vec::new();
    let (mut at, mut depth) = (0, 0);
    let mut key = &line[..0];
    while at < line.len() {
        match line[at] {
            b'"' => {
                let start = at + 1;
                let end = start + memchr::memchr(b'"', line.get(start..)?)?;
                let text = &line[start..end];
                at = end + 1;
                if line[at..].trim_ascii_start().first() == Some(&b':') {
                    key = text;
                    if depth == 1 && keys.contains(&key) {
                        return None;
                    }
                    keys.extend((depth == 1).then_some(key));
                } else {
                    let key = if depth == 1 { key } else { b"" };
                    fields.push(Field { key, text, start, is_string: true });
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                let ends =
                    |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let len = line[at..].iter().position(ends)?;
                let key = if depth == 1 { key } else { b"" };
                fields.push(Field { key, text: &line[at..at + len], start: at, is_string: false });
                at += len;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Some(fields)
}
