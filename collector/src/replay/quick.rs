//! The lines that nearly all of a stream are, counts of one second of one site, read at once.
//!
//! Takes only what a recorder writes: the type first, no blanks, plain whole numbers, texts without
//! escapes. Of anything else, valid or broken, it says nothing: `line` reads that. Pure.

use std::borrow::Cow;

use memchr::memchr;

use super::line::{AT_MAX, Kind, Line};

/// Longest number that is read here, digits: it fits whatever the digits are.
const DIGITS_MAX: usize = 18;

/// The line, when it is such a one.
pub(super) fn requests(text: &[u8]) -> Option<Line<'_>> {
    let mut rest = text.strip_prefix(br#"{"type":"requests""#)?;
    let mut line = Line { kind: Kind::Requests, ..Line::default() };
    loop {
        rest = match rest {
            b"}" => return Some(line),
            [b',', b'"', rest @ ..] => rest,
            _ => return None,
        };
        let end = rest.iter().position(|byte| *byte == b'"')?;
        let (key, after) = rest.split_at(end);
        let value = after.strip_prefix(br#"":"#)?;
        rest = match key {
            b"server" => text_into(&mut line.server, value)?,
            b"site" => text_into(&mut line.site, value)?,
            b"at" => instant_into(&mut line.at, value)?,
            b"arrived_at" => instant_into(&mut line.arrived_at, value)?,
            b"n" => count_into(&mut line.n, value)?,
            b"n_502" => count_into(&mut line.n_502, value)?,
            b"n_503" => count_into(&mut line.n_503, value)?,
            b"n_504" => count_into(&mut line.n_504, value)?,
            b"n_5xx_app" => count_into(&mut line.n_5xx_app, value)?,
            b"n_499" => count_into(&mut line.n_499, value)?,
            b"n_retried" => count_into(&mut line.n_retried, value)?,
            b"n_crawler" => count_into(&mut line.n_crawler, value)?,
            _ => return None,
        };
    }
}

/// Reads a text without escapes; gives what follows.
fn text_into<'l>(to: &mut Option<Cow<'l, str>>, value: &'l [u8]) -> Option<&'l [u8]> {
    let value = value.strip_prefix(b"\"")?;
    let (text, after) = value.split_at(memchr(b'"', value)?);
    if text.iter().any(|byte| *byte == b'\\' || *byte < b' ') {
        return None;
    }
    *to = Some(Cow::Borrowed(std::str::from_utf8(text).ok()?));
    Some(&after[1..])
}

fn instant_into<'l>(to: &mut Option<i64>, value: &'l [u8]) -> Option<&'l [u8]> {
    let (n, after) = whole(value)?;
    *to = Some(n.cast_signed()).filter(|at| *at <= AT_MAX);
    to.and(Some(after))
}

fn count_into<'l>(to: &mut u32, value: &'l [u8]) -> Option<&'l [u8]> {
    let (n, after) = whole(value)?;
    *to = u32::try_from(n).ok()?;
    Some(after)
}

/// A whole number and what follows it.
fn whole(value: &[u8]) -> Option<(u64, &[u8])> {
    let n_digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, after) = value.split_at(n_digits);
    // JSON has no number that begins with a needless 0.
    if digits.is_empty() || digits.len() > DIGITS_MAX || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    let n = digits.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0'));
    Some((n, after))
}

#[cfg(test)]
mod tests {
    use super::super::line::decode_any;
    use super::*;

    const LINE: &str = r#"{"type":"requests","at":1795176000000,"arrived_at":1795176000300,"server":"web-1","site":"a.example","n":7,"n_502":2,"n_503":0,"n_504":1,"n_5xx_app":3,"n_499":1,"n_retried":4,"n_crawler":1}"#;

    #[test]
    fn a_plain_line_is_read_as_the_reader_of_all_lines_reads_it() {
        for text in [
            LINE,
            r#"{"type":"requests"}"#,
            r#"{"type":"requests","n":1,"n":2,"site":"é"}"#,
            r#"{"type":"requests","at":253402300799999,"n":4294967295,"site":""}"#,
        ] {
            let line = requests(text.as_bytes());
            assert!(line.is_some(), "{text}");
            assert_eq!(line, decode_any(text.as_bytes()).ok(), "{text}");
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_the_reader_of_all_lines() {
        for text in [
            "",
            "{",
            r#"{"type":"requests""#,
            r#"{"type":"requests"} "#,
            r#"{"type":"requests",}"#,
            r#"{"type":"requests","n":1,}"#,
            r#"{"type":"requests","n":01}"#,
            r#"{"type":"requests","n":-1}"#,
            r#"{"type":"requests","n":1.0}"#,
            r#"{"type":"requests","n":null}"#,
            r#"{"type":"requests","n":4294967296}"#,
            r#"{"type":"requests","n":"1"}"#,
            r#"{"type":"requests","n": 1}"#,
            r#"{"type":"requests","at":253402300800000}"#,
            r#"{"type":"requests","at":9999999999999999999}"#,
            r#"{"type":"requests","site":"a\u002db"}"#,
            r#"{"type":"requests","site":"a"#,
            r#"{"type":"requests","colour":1}"#,
            r#"{"type":"requests","type":"log"}"#,
            r#"{"type":"heartbeat","at":5}"#,
            "{\"type\":\"requests\",\"site\":\"a\tb\"}",
        ] {
            assert_eq!(requests(text.as_bytes()), None, "{text}");
        }
        assert_eq!(requests(b"{\"type\":\"requests\",\"site\":\"\xff\"}"), None);
    }

    proptest::proptest! {
        #[test]
        fn it_never_reads_a_line_differently(at in 0..LINE.len(), n in 0..4_usize, with: Vec<u8>) {
            let mut text = LINE.as_bytes().to_vec();
            text.splice(at..(at + n).min(LINE.len()), with.into_iter().take(3));
            if let Some(line) = requests(&text) {
                proptest::prop_assert_eq!(Ok(line), decode_any(&text));
            }
        }
    }
}
