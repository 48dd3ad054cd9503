//! Request lines in quotes, of servers that do not escape the quotes a client sends.
//!
//! Invariant: a line in which more than one place could be the status is not believed at all.

use crate::logs::scan::program::places;

/// The request up to the closing quote after which `read` finds what the server wrote next.
///
/// `inside` begins after the opening quote. `None` where nothing fits, or where the client's words
/// hold another place that would fit and say something else. Cost: one pass.
pub(super) fn request<'l, T, S: PartialEq>(
    inside: &'l [u8],
    read: impl Fn(&'l [u8]) -> Option<T>,
    status: impl Fn(&T) -> S,
) -> Option<(&'l [u8], T)> {
    let mut found: Option<(&[u8], T)> = None;
    for at in places(inside, b"\" ") {
        let Some(next) = inside.get(at + 2..).and_then(&read) else { continue };
        match &found {
            None => found = Some((&inside[..at], next)),
            Some((_, known)) if status(known) == status(&next) => {}
            Some(_) => return None,
        }
    }
    // Neither a method, a target nor a version holds what ends a time.
    found.filter(|(request, _)| !request.windows(3).any(|sign| sign == b"] \""))
}

/// The first word, and what follows the space after it.
pub(super) fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b' ', text)?;
    (at > 0).then(|| (&text[..at], &text[at + 1..]))
}

pub(super) fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Digits, or `-`.
pub(super) fn is_count(text: &[u8]) -> bool {
    text == b"-" || is_digits(text)
}

/// Splits at the last place of a text.
pub(super) fn rsplit<'l>(text: &'l [u8], at: &[u8]) -> Option<(&'l [u8], &'l [u8])> {
    let last = *at.last()?;
    let end = memchr::memrchr_iter(last, text).find(|end| text[..=*end].ends_with(at))?;
    Some((&text[..end + 1 - at.len()], &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_two_statuses_is_not_believed() {
        let read = |after: &[u8]| {
            word(after)
                .and_then(|(status, _)| std::str::from_utf8(status).ok()?.parse::<u16>().ok())
        };
        for (inside, want) in [
            (r#"GET / HTTP/1.1" 200 5"#, Some(("GET / HTTP/1.1", 200))),
            (r#"GET /" x HTTP/1.1" 200 5"#, Some(("GET /\" x HTTP/1.1", 200))),
            (r#"GET / HTTP/1.1" 200 5 "x" 502 5"#, None),
            (r#"GET / HTTP/1.1" 200 5 "x" 200 5"#, Some(("GET / HTTP/1.1", 200))),
            (r#"x] "GET / HTTP/1.1" 200 5"#, None),
            ("GET / HTTP/1.1", None),
            ("", None),
        ] {
            let got = request(inside.as_bytes(), read, |status| *status);
            let want = want.map(|(request, status)| (request.as_bytes(), status));
            assert_eq!(got, want, "{inside}");
        }
    }

    #[test]
    fn texts_are_split_from_the_right() {
        for (text, want) in
            [("a\" \"b\" \"c", Some(("a\" \"b", "c"))), ("a", None), ("\" \"", Some(("", "")))]
        {
            let want = want.map(|(a, b): (&str, &str)| (a.as_bytes(), b.as_bytes()));
            assert_eq!(rsplit(text.as_bytes(), b"\" \""), want, "{text}");
        }
    }
}
