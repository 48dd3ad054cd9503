//! Numbers as sentences of reports have them. Pure.

use wire::UnixMillis;

/// `1,234`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (ix, digit) in digits.chars().enumerate() {
        if ix > 0 && (digits.len() - ix).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 site`, `1,234 sites`.
pub(super) fn many(n: u64, one: &str, more: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { more })
}

/// `37 minutes`, `4 h 5 min`, `3 d 2 h`.
pub(super) fn minutes(n: u64) -> String {
    let (hours, days) = (n / 60, n / 1440);
    match n {
        0..120 => many(n, "minute", "minutes"),
        120..2880 => format!("{hours} h {} min", n % 60),
        _ => format!("{} d {} h", count(days), hours % 24),
    }
}

/// `99.93 %`: with as many places as tell a share near 1 from 1.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let places = match 1.0 - share {
        rest if rest <= 0.0 || rest >= 0.1 => 1,
        rest if rest >= 0.000_1 => 2,
        _ => 4,
    };
    // What is not all must not read as all.
    let rounded = format!("{percent:.places$}");
    if share < 1.0 && trimmed(&rounded) == "100" {
        return "just below 100 %".to_owned();
    }
    format!("{} %", trimmed(&rounded))
}

fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// `a`, `a and b`, `a, b and 3 others`: about so many by name.
pub(super) fn list(names: &[&str], n_max: usize) -> String {
    // One more takes no more room than to say that there is one more.
    let n_shown = if names.len() == n_max + 1 { n_max + 1 } else { names.len().min(n_max) };
    let (shown, rest) = (&names[..n_shown], names.len() - n_shown);
    match (shown, rest) {
        ([], _) => String::new(),
        ([one], 0) => (*one).to_owned(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (shown, rest) => format!("{} and {} others", shown.join(", "), count(rest as u64)),
    }
}

/// A text that is at most about so many characters long.
pub(super) fn short(text: &str, n_max: usize) -> String {
    match text.char_indices().nth(n_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
    }
}

/// `2026-11-30 22:00 UTC`.
pub(super) fn instant(at: UnixMillis) -> String {
    let text = at.to_rfc3339();
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(many(1, "site", "sites"), "1 site");
        for (n, want) in [
            (1, "1 minute"),
            (119, "119 minutes"),
            (120, "2 h 0 min"),
            (2879, "47 h 59 min"),
            (2880, "2 d 0 h"),
        ] {
            assert_eq!(minutes(n), want);
        }
    }

    #[test]
    fn a_share_below_all_never_reads_as_all() {
        for (share, want) in [
            (1.0, "100 %"),
            (0.999, "99.9 %"),
            (0.9995, "99.95 %"),
            (0.999_98, "99.998 %"),
            (0.999_999_999, "just below 100 %"),
            (0.25, "25 %"),
            (0.0, "0 %"),
            (1.5, "150 %"),
        ] {
            assert_eq!(percent(share), want, "{share}");
        }
    }

    #[test]
    fn names_are_few() {
        assert_eq!(list(&[], 3), "");
        assert_eq!(list(&["a"], 3), "a");
        assert_eq!(list(&["a", "b", "c"], 3), "a, b and c");
        assert_eq!(list(&["a", "b", "c", "d"], 3), "a, b, c and d");
        assert_eq!(list(&["a", "b", "c", "d", "e"], 2), "a, b and 3 others");
    }

    #[test]
    fn texts_and_times_are_short() {
        assert_eq!([short("añb", 3), short("añb c", 3)], ["añb", "añb…"]);
        assert_eq!(short("añb c", 4), "añb…");
        assert_eq!(instant(UnixMillis(1_795_176_067_000)), "2026-11-20 12:01 UTC");
    }
}
