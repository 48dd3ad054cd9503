//! The form of a line of the Common Log Format with `name=value` pairs behind it -> a shape: a server
//! writes the same names in the same order each time.
//!
//! Invariant: what fits the shape is read by `tail_fields` in the same way: as many strings and
//! pairs, with the same names, each with one value.

use super::pair_slot;
use crate::logs::parse::log_format::{self, COMBINED, TimeStyle};
use crate::logs::scan::program::Slot;
use crate::logs::scan::shape::{End, Keep, Op, Shape, Value, push};

/// Behind the fields of `combined`, the text up to the first value: no value stands in it.
const FIRST_BYTES_MAX: usize = 64;

/// A string or the value of a pair, and the text after it.
struct Field<'l> {
    name: &'l [u8],
    is_quoted: bool,
    value: &'l [u8],
    until: &'l [u8],
}

/// The shape of lines like this one, which was read as a request.
///
/// `None` when it is none of `combined` with strings and pairs behind it, or holds an escape.
pub(in crate::logs::parse) fn learn(line: &[u8]) -> Option<(Shape, TimeStyle)> {
    // Other whitespace than the space is left out before a name.
    if line.iter().any(|byte| matches!(byte, b'\\' | b'$') || byte.is_ascii_control()) {
        return None;
    }
    // The quotes around request, referer and agent: what they hold is the client's.
    let (at, _) = line.iter().enumerate().filter(|(_, byte)| **byte == b'"').nth(5)?;
    let (first, fields) = fields(&line[at + 1..])?;
    let head = format!("{COMBINED}{}$rest", std::str::from_utf8(first).ok()?);
    let head = Shape::of_clf(&log_format::compile(&head)?.program)?;
    let mut ops: Vec<Op> = head.ops.into();
    ops.pop()?;
    let mut seen = Vec::new();
    for field in fields {
        let slot = if field.name.is_empty() { None } else { pair_slot(field.name, field.value) };
        // To some it is the user agent, to others an upstream: each line would have to be asked.
        let is_clear = field.name != b"ua" && !slot.is_some_and(|slot| seen.contains(&slot));
        if !is_clear {
            return None;
        }
        seen.extend(slot);
        let keep = match slot {
            Some(Slot::Host) => Keep::Host,
            Some(Slot::UpstreamAddr) => Keep::Upstream,
            _ => Keep::Nothing,
        };
        let is_last = field.until.is_empty();
        let (end, value) = match keep {
            // A string may hold several attempts.
            Keep::Nothing if field.is_quoted && slot.is_some() => (End::Mark(0), Value::One),
            _ if field.is_quoted => (End::Mark(0), Value::Any),
            // Behind a space more pairs could follow.
            _ if is_last => (End::Line, Value::One),
            Keep::Host => (End::Byte(b' '), Value::Without(b',')),
            _ => (End::List, Value::Any),
        };
        push(&mut ops, end, field.until, keep, value);
    }
    Some((Shape::new(ops, None, false), TimeStyle::Clf))
}

/// The text before the first value of a tail, and its fields; `None` when there are others than
/// strings and pairs.
fn fields(tail: &[u8]) -> Option<(&[u8], Vec<Field<'_>>)> {
    let mut fields: Vec<Field<'_>> = Vec::new();
    let mut first = None;
    // The text since the last value begins here.
    let (mut from, mut at) = (0, 0);
    while at < tail.len() {
        if tail[at] == b' ' {
            at += 1;
            continue;
        }
        let name_len = tail[at..].iter().position(|byte| matches!(byte, b'=' | b' ' | b'"'))?;
        let name = &tail[at..at + name_len];
        let is_pair = tail[at + name_len] == b'=';
        let value_at = at + name_len + usize::from(is_pair);
        let is_quoted = tail.get(value_at) == Some(&b'"');
        if !is_pair && (!is_quoted || name_len > 0) {
            return None;
        }
        let start = value_at + usize::from(is_quoted);
        let rest = &tail[start..];
        let len = if is_quoted {
            memchr::memchr(b'"', rest)?
        } else {
            memchr::memchr(b' ', rest).unwrap_or(rest.len())
        };
        match fields.last_mut() {
            Some(last) => last.until = &tail[from..start],
            None => first = Some(&tail[..start]),
        }
        fields.push(Field { name, is_quoted, value: &rest[..len], until: b"" });
        from = start + len;
        at = from + usize::from(is_quoted);
    }
    if let Some(last) = fields.last_mut() {
        last.until = &tail[from..];
    }
    first.filter(|first| first.len() <= FIRST_BYTES_MAX).map(|first| (first, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_learned_where_each_value_has_its_name() {
        for (tail, n_ops) in [
            (" rt=0.1", Some(5)),
            (" rt=0.1 host=a.example", Some(6)),
            (" \"a, b\" rt=\"0.1\" us=\"200, 502\" upstream=10.0.0.1:80, b:2", None),
            (" \"a, b\" rt=\"0.1\" us=\"200, 502\" upstream=\"a:1, b:2\"", Some(8)),
            (" host=a.example vhost=b.example", None),
            (" ua=10.0.0.1:80", None),
            (" 12 rt=0.1", None),
            (" rt=0.1 12", None),
            (" rt=0.1\thost=a.example", None),
            (" rt=\"0.1", None),
            (" x\"0.1\"", None),
            (" a=$b", None),
            (" a=\\x22", None),
            ("", None),
        ] {
            let line = format!(
                "192.0.2.1 - - [20/Nov/2026:12:00:05 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"x\"{tail}"
            );
            let n = learn(line.as_bytes()).map(|(shape, _)| shape.ops.len());
            assert_eq!(n, n_ops, "{tail}");
        }
        assert!(learn(b"").is_none() && learn(b"\"\"\"\"\"\"").is_none());
    }
}
