//! Small words of a page: spans, times of day, numbers, texts made safe to show. Pure.

use std::time::Duration;

use jiff::tz::TimeZone;
use wire::UnixMillis;

use super::hours::zoned;

/// `12 s`, `4 min`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn span(span: Duration) -> String {
    let s = span.as_secs();
    let two = |big: u64, unit: &str, small: u64, of: &str| {
        if small == 0 { format!("{big} {unit}") } else { format!("{big} {unit} {small} {of}") }
    };
    match s {
        0..60 => format!("{s} s"),
        60..600 => two(s / 60, "min", s % 60, "s"),
        600..3600 => format!("{} min", s / 60),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// `4 min`, `2 h`: the biggest unit only.
#[must_use]
pub fn rough(span: Duration) -> String {
    match span.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min", s / 60),
        s @ 3600..86_400 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// `12:01:07`, and with its day, `20 Nov 12:01:07`, when that is another than the one of `now`; UTC.
#[must_use]
pub fn clock(at: UnixMillis, now: UnixMillis) -> String {
    let (at, now) = (zoned(at, &TimeZone::UTC), zoned(now, &TimeZone::UTC));
    let form = if at.date() == now.date() { "%H:%M:%S" } else { "%-d %b %H:%M:%S" };
    at.strftime(form).to_string()
}

/// The text with each RFC 3339 time of it as `clock` shows it.
#[must_use]
pub fn short_times(text: &str, now: UnixMillis) -> String {
    let is_of_time = |c: char| c.is_ascii_digit() || "-:.TZ".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_of_time(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let time = word.trim_end_matches(|c| c != 'Z');
        out.push_str(before);
        match time.parse::<jiff::Timestamp>() {
            Ok(at) => {
                out.push_str(&clock(UnixMillis(at.as_millisecond()), now));
                out.push_str(&word[time.len()..]);
            }
            Err(_) => out.push_str(word),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `since yesterday 08:00`, `since Fri 08:00`, `since 2 Nov 08:00`: for a digest, in its time zone.
#[must_use]
pub fn since(from: UnixMillis, now: UnixMillis, zone: &TimeZone) -> String {
    let (from, now) = (zoned(from, zone), zoned(now, zone));
    let days = from.date().until(now.date()).map_or(i32::MAX, |span| span.get_days());
    let day = match days {
        0 => "today".to_owned(),
        1 => "yesterday".to_owned(),
        2..7 => from.strftime("%a").to_string(),
        _ => from.strftime("%-d %b").to_string(),
    };
    format!("since {day} {}", from.strftime("%H:%M"))
}

/// `1,234`.
#[must_use]
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (ix, digit) in digits.chars().enumerate() {
        if ix > 0 && (digits.len() - ix).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 site`, `37 sites`.
#[must_use]
pub fn many(n: u64, one: &str) -> String {
    format!("{} {one}{}", number(n), if n == 1 { "" } else { "s" })
}

/// One line of at most `chars_max` characters without anything that moves the cursor, hides text or
/// turns its direction; what is cut off ends in `...`.
#[must_use]
pub fn clean(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let mut n = 0;
    let mut is_gap = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            is_gap = !out.is_empty();
            continue;
        }
        if is_hidden(c) {
            continue;
        }
        let more = 1 + usize::from(is_gap);
        if n + more > chars_max {
            while n + 3 > chars_max && out.pop().is_some() {
                n -= 1;
            }
            let kept = out.trim_end().len();
            out.truncate(kept);
            out.push_str("...");
            return out;
        }
        if std::mem::take(&mut is_gap) {
            out.push(' ');
        }
        out.push(c);
        n += more;
    }
    out
}

/// Marks of direction, joiners, tags and the like: nothing to see, much to deceive with.
pub(super) fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::START;

    #[test]
    fn spans_are_told_in_two_units_at_most() {
        for (s, exact, about) in [
            (0, "0 s", "0 s"),
            (59, "59 s", "59 s"),
            (60, "1 min", "1 min"),
            (247, "4 min 7 s", "4 min"),
            (724, "12 min", "12 min"),
            (3600, "1 h", "1 h"),
            (7500, "2 h 5 min", "2 h"),
            (86_400, "1 d", "1 d"),
            (273_600, "3 d 4 h", "3 d"),
        ] {
            let given = Duration::from_secs(s);
            assert_eq!((span(given).as_str(), rough(given).as_str()), (exact, about), "{s}");
        }
    }

    #[test]
    fn a_time_of_day_has_its_day_only_when_it_is_not_today() {
        assert_eq!(clock(START, START.plus(Duration::from_secs(3600))), "12:01:07");
        assert_eq!(clock(START, START.plus(Duration::from_secs(43_200))), "20 Nov 12:01:07");
    }

    #[test]
    fn times_of_machines_become_times_of_day_and_nothing_else_changes() {
        for (text, expected) in [
            (
                "Show: 2026-11-20T12:01:07.000Z steal 12.5 %; more",
                "Show: 12:01:07 steal 12.5 %; more",
            ),
            (
                "of 2026-11-19T23:00:00Z: php 8.2.7 to 8.2.29",
                "of 19 Nov 23:00:00: php 8.2.7 to 8.2.29",
            ),
            ("web-07, 10.0.0.1:8080, 2026-11-20", "web-07, 10.0.0.1:8080, 2026-11-20"),
            ("", ""),
        ] {
            assert_eq!(short_times(text, START), expected);
        }
    }

    #[test]
    fn a_digest_says_since_when_in_its_own_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        for (hours, expected) in [
            (1, "since today 13:01"),
            (24, "since yesterday 13:01"),
            (72, "since Fri 13:01"),
            (24 * 18, "since 20 Nov 13:01"),
        ] {
            let now = START.plus(Duration::from_secs(hours * 3600));
            assert_eq!(since(START, now, &berlin), expected, "{hours}");
        }
    }

    #[test]
    fn numbers_are_grouped_and_counted() {
        for (n, expected) in
            [(0, "0 sites"), (1, "1 site"), (999, "999 sites"), (1_234_567, "1,234,567 sites")]
        {
            assert_eq!(many(n, "site"), expected);
        }
    }

    #[test]
    fn a_text_is_one_line_without_tricks_and_never_longer_than_allowed() {
        for (text, max, expected) in [
            ("plain", 10, "plain"),
            ("  two\r\n\tlines \n", 20, "two lines"),
            ("a\u{1b}[31mred\u{7}", 20, "a [31mred"),
            ("\u{202e}evil\u{2066}\u{200b}\u{feff}", 20, "evil"),
            ("exactly ten", 11, "exactly ten"),
            ("exactly ten", 10, "exactly..."),
            ("\u{e4}\u{f6}\u{fc}\u{e4}\u{f6}\u{fc}", 5, "\u{e4}\u{f6}..."),
            ("Subject\r\nBcc: all@example", 40, "Subject Bcc: all@example"),
            ("", 5, ""),
        ] {
            let out = clean(text, max);
            assert_eq!(out, expected, "{text:?}");
            assert!(out.chars().count() <= max);
        }
    }
}
