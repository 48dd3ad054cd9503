//! Words for people: times, spans, sizes, and strangers' texts made harmless. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use wire::UnixMillis;

/// Text of a stranger, fit for a terminal: control characters, escape sequences and marks that
/// change the direction of writing are shown instead of obeyed.
#[must_use]
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c.is_control() || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// `2026-11-20 12:01:07 UTC`
#[must_use]
pub(super) fn instant(at: UnixMillis) -> String {
    let text = at.to_rfc3339();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// `12:01:07`, with the day before it where that is not the day of `near`.
#[must_use]
pub(super) fn time_near(at: UnixMillis, near: UnixMillis) -> String {
    let (text, near) = (at.to_rfc3339(), near.to_rfc3339());
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) if near.get(..10) == Some(day) => time.to_owned(),
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}

/// The two largest units: `2 d 3 h`, `5 min 20 s`, `0 s`.
#[must_use]
pub(super) fn span(span: Duration) -> String {
    let s = span.as_secs();
    let (text, rest) = match s {
        0..60 => return format!("{s} s"),
        60..3600 => (format!("{} min", s / 60), (s % 60, "s")),
        3600..86_400 => (format!("{} h", s / 3600), (s % 3600 / 60, "min")),
        _ => (format!("{} d", s / 86_400), (s % 86_400 / 3600, "h")),
    };
    if rest.0 == 0 { text } else { format!("{text} {} {}", rest.0, rest.1) }
}

/// `512 B`, `1.5 KiB`, `3.2 MiB`
#[must_use]
pub(super) fn size(n_bytes: u64) -> String {
    wire::units::Bytes(n_bytes).rounded()
}

/// `1 site`, `2 sites`
#[must_use]
pub(super) fn plural(n: u64, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// `97 %`; never 100 or 0 for what is not quite sure.
#[must_use]
pub(super) fn percent(ratio: f64) -> String {
    let percent = (ratio * 100.0).round();
    match percent {
        p if p >= 100.0 && ratio < 1.0 => "99 %".into(),
        p if p <= 0.0 && ratio > 0.0 => "1 %".into(),
        p => format!("{p:.0} %"),
    }
}

/// `k=v k=v`
#[must_use]
pub(super) fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut text = String::new();
    for (k, v) in labels {
        let gap = if text.is_empty() { "" } else { " " };
        write!(text, "{gap}{}={}", clean(k), clean(v)).expect("writing to a String cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_cannot_move_the_cursor_or_turn_the_writing() {
        for (text, expected) in [
            ("connect() failed", "connect() failed"),
            ("größe ✓", "größe ✓"),
            ("\u{1b}[2J\u{1b}]0;owned\u{7}", "\\u{1b}[2J\\u{1b}]0;owned\\u{7}"),
            ("a\r\nb\tc\0", "a\\r\\nb\\tc\\u{0}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("gpj.\u{202e}exe", "gpj.\\u{202e}exe"),
        ] {
            assert_eq!(clean(text), expected);
        }
    }

    #[test]
    fn spans_sizes_and_shares_read_well() {
        for (s, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (320, "5 min 20 s"),
            (3600, "1 h"),
            (7260, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(size(n), text);
        }
        for (ratio, text) in
            [(0.0, "0 %"), (0.001, "1 %"), (0.5, "50 %"), (0.999, "99 %"), (1.0, "100 %")]
        {
            assert_eq!(percent(ratio), text);
        }
        assert_eq!((plural(1, "site"), plural(0, "site")), ("1 site".into(), "0 sites".into()));
    }

    #[test]
    fn times_say_the_day_only_where_it_differs() {
        let at = UnixMillis(1_795_176_067_042);
        assert_eq!(instant(at), "2026-11-20 12:01:07 UTC");
        assert_eq!(time_near(at, UnixMillis(at.0 + 1000)), "12:01:07");
        assert_eq!(time_near(at, UnixMillis(at.0 + 86_400_000)), "2026-11-20 12:01:07");
    }
}
