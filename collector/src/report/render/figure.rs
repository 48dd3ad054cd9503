//! How one value is written: whole for programs, short for people. Pure.

use wire::UnixMillis;

use crate::report::document::{Level, Unit, Value};

/// What stands where nothing is known.
pub(super) const NOT_KNOWN: &str = "–";
/// Above this a number is written with an exponent.
const PLAIN_MAX: f64 = 1e15;

/// A number that reads back as itself, the same in all formats for programs; `None`: it is none.
pub(super) fn exact(number: f64) -> Option<String> {
    let number = finite(number)?;
    let text = serde_json::Value::from(number).to_string();
    Some(text.strip_suffix(".0").map_or(text.clone(), str::to_owned))
}

/// The number, when it is one; minus zero is zero.
pub(super) fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number + 0.0)
}

/// Name of a unit for programs: OpenTelemetry's where it has one.
pub(super) fn unit_name(unit: &Unit) -> String {
    match unit {
        Unit::Text => "text",
        Unit::Count => "count",
        Unit::Number => "number",
        Unit::Share => "ratio",
        Unit::Bytes => "By",
        Unit::BytesPerSecond => "By/s",
        Unit::PerSecond => "1/s",
        Unit::Seconds => "s",
        Unit::Minutes => "min",
        Unit::Days => "d",
        Unit::Time => "RFC 3339",
        Unit::Money(currency) => return format!("{currency}/month"),
        Unit::Spark => "series",
    }
    .to_owned()
}

/// A unit in words, for those who read what a column means; empty: it says itself.
pub(super) fn unit_words(unit: &Unit) -> String {
    match unit {
        Unit::Text | Unit::Count | Unit::Number | Unit::Spark => "",
        Unit::Share => "percent",
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "bytes a second",
        Unit::PerSecond => "a second",
        Unit::Seconds => "seconds",
        Unit::Minutes => "minutes",
        Unit::Days => "days",
        Unit::Time => "UTC",
        Unit::Money(currency) => return format!("{currency} a month"),
    }
    .to_owned()
}

/// Whether values of this unit stand at the right, digit below digit.
pub(super) fn is_numeric(unit: &Unit) -> bool {
    !matches!(unit, Unit::Text | Unit::Time | Unit::Spark)
}

/// A value as people read it. Text comes out as it is: escape it.
pub(super) fn shown(value: &Value, unit: &Unit) -> String {
    match value {
        Value::Unknown(_) => NOT_KNOWN.to_owned(),
        Value::Text(text) | Value::Level(_, text) => text.clone(),
        Value::Number(number) => self::number(*number, unit),
        Value::Count(n) => match unit {
            Unit::Text | Unit::Number | Unit::Count | Unit::Time | Unit::Spark => whole(*n),
            _ => self::number(*n as f64, unit),
        },
        Value::Interval { mid, low, high } => interval([*mid, *low, *high], unit),
        Value::Time(at) => time(*at),
        Value::Spark(points) => spark_words(points),
    }
}

/// `23 d (18 to 31)`: the unit once where all three have the same.
fn interval(mid_low_high: [f64; 3], unit: &Unit) -> String {
    let [mid, low, high] = mid_low_high.map(|number| self::number(number, unit));
    let unit_of = |text: &str| text.split_once(' ').map(|(_, unit)| unit.to_owned());
    let of = unit_of(&mid);
    let same = of.is_some() && [&low, &high].iter().all(|text| unit_of(text) == of);
    let bare = |text: &str| match text.split_once(' ') {
        Some((digits, _)) if same => digits.to_owned(),
        _ => text.to_owned(),
    };
    format!("{mid} ({} to {})", bare(&low), bare(&high))
}

/// A number with its unit, to about three digits.
pub(super) fn number(number: f64, unit: &Unit) -> String {
    let Some(number) = finite(number) else { return NOT_KNOWN.to_owned() };
    match unit {
        Unit::Share => percent(number),
        Unit::Bytes => bytes(number),
        Unit::BytesPerSecond => format!("{}/s", bytes(number)),
        Unit::PerSecond => format!("{} /s", short(number)),
        Unit::Seconds => seconds(number),
        Unit::Minutes => format!("{} min", short(number)),
        Unit::Days => format!("{} d", days(number)),
        Unit::Money(currency) => format!("{} {currency}", grouped(number, 2)),
        Unit::Text | Unit::Count | Unit::Number | Unit::Time | Unit::Spark => short(number),
    }
}

/// Percent with one decimal; more where it would look like nothing, or like all, and is not.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let is_whole = share == 0.0 || share == 1.0;
    let decimals = match percent.abs() {
        _ if is_whole => 0,
        p if p < 0.1 || (p > 99.0 && p < 100.0) => 3,
        p if p >= 1000.0 => 0,
        _ => 1,
    };
    let text = grouped(percent, decimals);
    let text = match (decimals, text.as_str()) {
        (3, "100.000") => "> 99.999".to_owned(),
        (3, "0.000") if share < 0.0 => "> -0.001".to_owned(),
        (3, "0.000") => "< 0.001".to_owned(),
        (3, _) => {
            let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
            let part = part.trim_end_matches('0');
            format!("{whole}.{}", if part.is_empty() { "0" } else { part })
        }
        _ => text,
    };
    format!("{text} %")
}

/// `3.8 GiB`.
fn bytes(number: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut left, mut at) = (number, 0);
    while left.abs() >= 999.5 && at + 1 < UNITS.len() {
        left /= 1024.0;
        at += 1;
    }
    format!("{} {}", short(left), UNITS[at])
}

/// `240 ms`, `1.24 s`, `12 min 4 s`, `2 h 5 min`, `3 d 4 h`.
fn seconds(number: f64) -> String {
    let two = |s: f64, big: f64, unit: &str, of: f64, small: &str| {
        let s = (s / of).round() * of;
        let (n, left) = ((s / big).floor(), (s % big / of).round());
        let n = grouped(n, 0);
        if left == 0.0 { format!("{n} {unit}") } else { format!("{n} {unit} {left} {small}") }
    };
    let sign = if number < 0.0 { "-" } else { "" };
    let text = match number.abs() {
        0.0 => "0 s".to_owned(),
        s if s < 0.9995 => format!("{} ms", short(s * 1e3)),
        s if s < 59.95 => format!("{} s", short(s)),
        s if s < 3599.5 => two(s, 60.0, "min", 1.0, "s"),
        s if s < 86_370.0 => two(s, 3600.0, "h", 60.0, "min"),
        s => two(s, 86_400.0, "d", 3600.0, "h"),
    };
    format!("{sign}{text}")
}

/// A decimal at most: nobody knows a day to the minute.
fn days(number: f64) -> String {
    let is_short = number.abs() < 9.95 && number.fract() != 0.0;
    grouped(number, usize::from(is_short))
}

/// `2026-11-20 12:01`, with seconds where there are some; UTC.
pub(super) fn time(at: UnixMillis) -> String {
    let Ok(instant) = jiff::Timestamp::from_millisecond(at.0) else { return at.to_rfc3339() };
    let form = if at.0.rem_euclid(60_000) == 0 { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M:%S" };
    instant.strftime(form).to_string()
}

/// About three digits: `0.00123`, `1.23`, `12.3`, `123`, `1,234`; whole numbers as they are.
pub(super) fn short(number: f64) -> String {
    let size = number.abs();
    let is_whole = size < PLAIN_MAX && number.fract() == 0.0;
    match size {
        _ if is_whole => grouped(number, 0),
        s if !(1e-6..PLAIN_MAX).contains(&s) => format!("{number:.2e}"),
        s if s >= 99.95 => grouped(number, 0),
        s if s >= 9.995 => grouped(number, 1),
        s if s >= 0.9995 => grouped(number, 2),
        s => grouped(number, (2 - s.log10().floor() as i32).clamp(3, 8) as usize),
    }
}

/// `1,234`.
pub(super) fn whole(n: u64) -> String {
    with_commas(&n.to_string())
}

/// `-1,234.50`; with an exponent where that would be longer than anybody reads.
fn grouped(number: f64, decimals: usize) -> String {
    if number.abs() >= PLAIN_MAX {
        return format!("{number:.2e}");
    }
    let text = format!("{:.decimals$}", number.abs());
    let (whole, part) = text.split_once('.').map_or((&*text, None), |(w, p)| (w, Some(p)));
    let is_zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
    let sign = if number < 0.0 && !is_zero { "-" } else { "" };
    let part = part.map(|part| format!(".{part}")).unwrap_or_default();
    format!("{sign}{}{part}", with_commas(whole))
}

fn with_commas(digits: &str) -> String {
    let mut out = String::new();
    for (ix, digit) in digits.chars().enumerate() {
        if ix > 0 && (digits.len() - ix).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// What a small line shows, for those who do not see it.
pub(super) fn spark_words(points: &[Option<f64>]) -> String {
    let known = || points.iter().flatten().copied().filter(|point| point.is_finite());
    let (Some(low), Some(high), Some(last)) =
        (known().reduce(f64::min), known().reduce(f64::max), known().next_back())
    else {
        return NOT_KNOWN.to_owned();
    };
    format!("{} to {}, last {}", short(low), short(high), short(last))
}

/// A level as a word.
pub(super) fn level_word(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Note => "note",
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}

/// A level as a sign whose shape alone tells it from the others.
pub(super) fn level_sign(level: Level) -> char {
    match level {
        Level::Good => '●',
        Level::Note => '◆',
        Level::Warning => '▲',
        Level::Critical => '■',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: f64, unit: &Unit, expected: &str) {
        assert_eq!(number(value, unit), expected, "{value} {unit:?}");
    }

    #[test]
    fn a_share_looks_like_all_or_nothing_only_when_it_is() {
        for (share, expected) in [
            (0.0, "0 %"),
            (1.0, "100 %"),
            (0.8123, "81.2 %"),
            (0.99953, "99.953 %"),
            (0.999, "99.9 %"),
            (0.995, "99.5 %"),
            (0.999_999_9, "> 99.999 %"),
            (0.000_001, "< 0.001 %"),
            (0.000_47, "0.047 %"),
            (0.0047, "0.5 %"),
            (1.204, "120.4 %"),
            (-0.02, "-2.0 %"),
            (-0.000_000_4, "> -0.001 %"),
        ] {
            check(share, &Unit::Share, expected);
        }
    }

    #[test]
    fn numbers_are_short_and_carry_their_unit() {
        check(512.0, &Unit::Bytes, "512 B");
        check(1023.0 * 1024.0, &Unit::Bytes, "0.999 MiB");
        check(4.0 * 1024.0 * 1024.0 * 1024.0, &Unit::Bytes, "4 GiB");
        check(12_345_678.0, &Unit::BytesPerSecond, "11.8 MiB/s");
        check(0.24, &Unit::Seconds, "240 ms");
        check(724.0, &Unit::Seconds, "12 min 4 s");
        check(3599.9, &Unit::Seconds, "1 h");
        check(7500.0, &Unit::Seconds, "2 h 5 min");
        check(273_600.0, &Unit::Seconds, "3 d 4 h");
        check(-4.0, &Unit::Money("EUR".into()), "-4.00 EUR");
        check(1234.5, &Unit::Money("EUR".into()), "1,234.50 EUR");
        check(17.25, &Unit::Days, "17 d");
        check(7.14, &Unit::Days, "7.1 d");
        check(125.0, &Unit::Minutes, "125 min");
        check(-0.0, &Unit::Number, "0");
        check(0.012_34, &Unit::Number, "0.0123");
        check(0.5, &Unit::PerSecond, "0.500 /s");
        check(f64::NAN, &Unit::Share, NOT_KNOWN);
        check(f64::INFINITY, &Unit::Days, NOT_KNOWN);
        check(1e300, &Unit::Number, "1.00e300");
    }

    #[test]
    fn an_interval_says_its_unit_once() {
        let value = |mid, low, high| Value::Interval { mid, low, high };
        for (value, unit, expected) in [
            (value(23.0, 18.0, 31.0), Unit::Days, "23 d (18 to 31)"),
            (value(0.9, 0.85, 1.0), Unit::Share, "90.0 % (85.0 to 100)"),
            (value(1_048_576.0, 1024.0, 1_048_576.0), Unit::Bytes, "1 MiB (1 KiB to 1 MiB)"),
            (value(2.0, 1.0, 3.0), Unit::Number, "2 (1 to 3)"),
            (value(23.0, 18.0, f64::INFINITY), Unit::Days, "23 d (18 d to –)"),
        ] {
            assert_eq!(shown(&value, &unit), expected);
        }
    }

    #[test]
    fn a_number_for_programs_reads_back_as_itself() {
        for number in [0.1, 1.0 / 3.0, 1e300, 5e-324, -17.0, 4_294_967_296.0] {
            assert_eq!(exact(number).unwrap().parse::<f64>().unwrap(), number);
        }
        assert_eq!(exact(-0.0).as_deref(), Some("0"));
        assert_eq!(exact(81.0).as_deref(), Some("81"));
        assert_eq!(exact(f64::NAN), None);
    }
}
