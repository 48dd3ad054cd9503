//! The ways log lines write a time. Total: anything else is `None`.

use wire::UnixMillis;

use crate::logs::LineTime;

const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// A wall clock as a line shows it.
#[derive(Clone, Copy, Default)]
struct Wall {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    millisecond: u32,
}

impl Wall {
    /// Milliseconds as if it were UTC; `None` when there is no such time.
    fn millis(self) -> Option<i64> {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let days = match self.month {
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u32::from(leap),
            1..=12 => 31,
            _ => return None,
        };
        if self.day < 1
            || self.day > days
            || self.hour > 23
            || self.minute > 59
            || self.second > 59
            || !(1970..10_000).contains(&self.year)
        {
            return None;
        }
        let seconds = days_from_civil(self.year, self.month, self.day) * 86_400
            + i64::from(self.hour * 3600 + self.minute * 60 + self.second);
        Some(seconds * 1000 + i64::from(self.millisecond))
    }
}

/// Days since 1970-01-01 in the Gregorian calendar, for years from 1970 on.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    // March is month 0, so that the leap day is the last of a year.
    let y = if month <= 2 { year - 1 } else { year };
    let m = i64::from((month + 9) % 12);
    let day_of_year = (153 * m + 2) / 5 + i64::from(day) - 1;
    y * 365 + y / 4 - y / 100 + y / 400 + day_of_year - 719_468
}

/// Reads digits and fixed bytes from the left.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn digits(&mut self, n: usize) -> Option<u32> {
        let (head, rest) = self.0.split_at_checked(n)?;
        let mut value = 0u32;
        for byte in head {
            if !byte.is_ascii_digit() {
                return None;
            }
            value = value * 10 + u32::from(byte - b'0');
        }
        self.0 = rest;
        Some(value)
    }

    fn byte(&mut self, want: u8) -> Option<()> {
        let (&first, rest) = self.0.split_first()?;
        (first == want).then(|| self.0 = rest)
    }

    fn month(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_at_checked(3)?;
        let month = MONTHS.iter().position(|m| *m == head)?;
        self.0 = rest;
        Some(month as u32 + 1)
    }

    /// Day of the month as one or two digits, perhaps after a second space.
    fn loose_day(&mut self) -> Option<u32> {
        if self.0.first() == Some(&b' ') {
            self.0 = &self.0[1..];
        }
        if self.0.get(1).is_some_and(u8::is_ascii_digit) { self.digits(2) } else { self.digits(1) }
    }

    fn clock(&mut self, wall: &mut Wall) -> Option<()> {
        wall.hour = self.digits(2)?;
        self.byte(b':')?;
        wall.minute = self.digits(2)?;
        self.byte(b':')?;
        wall.second = self.digits(2)?;
        wall.millisecond = self.fraction();
        Some(())
    }

    /// `09:46:45` or ` 9:46:45` after one more space.
    fn loose_clock(&mut self, wall: &mut Wall) -> Option<()> {
        if self.0.first() == Some(&b' ') {
            self.0 = &self.0[1..];
        }
        if self.0.get(1) != Some(&b':') {
            return self.clock(wall);
        }
        let hour = self.digits(1)?;
        self.byte(b':')?;
        wall.minute = self.digits(2)?;
        self.byte(b':')?;
        wall.second = self.digits(2)?;
        wall.hour = hour;
        Some(())
    }

    /// `.123456` or `,123` as milliseconds; nothing there is 0.
    fn fraction(&mut self) -> u32 {
        let [b'.' | b',', rest @ ..] = self.0 else { return 0 };
        let n = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        if n == 0 {
            return 0;
        }
        let mut value = 0;
        for digit in rest[..n].iter().chain(b"00").take(3) {
            value = value * 10 + u32::from(digit - b'0');
        }
        self.0 = &rest[n..];
        value
    }

    /// `Z`, `+0100` or `+01:00` in seconds east of UTC.
    fn offset(&mut self) -> Option<i32> {
        let (&sign, rest) = self.0.split_first()?;
        self.0 = rest;
        let sign = match sign {
            b'Z' | b'z' => return Some(0),
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hours = self.digits(2)?;
        if self.0.first() == Some(&b':') {
            self.0 = &self.0[1..];
        }
        let minutes = self.digits(2)?;
        (hours <= 18 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60) as i32)
    }

    fn rest(self) -> &'a [u8] {
        self.0
    }
}

fn instant(wall_ms: i64, offset_s: i32) -> LineTime {
    LineTime::Instant { at: UnixMillis(wall_ms - i64::from(offset_s) * 1000), offset_s }
}

/// `20/Nov/2026:13:12:55 +0000`; with milliseconds and without offset as HAProxy writes it.
#[must_use]
pub(super) fn clf(text: &[u8]) -> Option<LineTime> {
    let (head, rest) = text.split_first_chunk()?;
    clf_rest(clf_head(head)?, rest)
}

/// `20/Nov/2026:13:12:55` in milliseconds as if it were UTC.
pub(super) fn clf_head(text: &[u8; 20]) -> Option<i64> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { day: cursor.digits(2)?, ..Wall::default() };
    cursor.byte(b'/')?;
    wall.month = cursor.month()?;
    cursor.byte(b'/')?;
    wall.year = i64::from(cursor.digits(4)?);
    cursor.byte(b':')?;
    cursor.clock(&mut wall)?;
    wall.millis()
}

/// What follows it: milliseconds and an offset, if any.
pub(super) fn clf_rest(head_ms: i64, rest: &[u8]) -> Option<LineTime> {
    let mut cursor = Cursor(rest);
    let ms = head_ms + i64::from(cursor.fraction());
    if cursor.0.is_empty() {
        return Some(LineTime::Wall(ms));
    }
    cursor.byte(b' ')?;
    let offset = cursor.offset()?;
    cursor.rest().is_empty().then(|| instant(ms, offset))
}

/// `2026-11-20T12:46:39+00:00`, also with a space and without offset.
#[must_use]
pub(super) fn iso8601(text: &[u8]) -> Option<LineTime> {
    let (time, rest) = iso8601_prefix(text)?;
    rest.is_empty().then_some(time)
}

/// The same at the start of a longer text, and what follows it.
pub(super) fn iso8601_prefix(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { year: i64::from(cursor.digits(4)?), ..Wall::default() };
    cursor.byte(b'-')?;
    wall.month = cursor.digits(2)?;
    cursor.byte(b'-')?;
    wall.day = cursor.digits(2)?;
    cursor.byte(b'T').or_else(|| cursor.byte(b' '))?;
    cursor.clock(&mut wall)?;
    let ms = wall.millis()?;
    match cursor.0.first() {
        Some(b'Z' | b'+' | b'-') => {
            let offset = cursor.offset()?;
            Some((instant(ms, offset), cursor.rest()))
        }
        _ => Some((LineTime::Wall(ms), cursor.rest())),
    }
}

/// `1795176067.042` or `1795176067`: seconds since the epoch.
#[must_use]
pub(super) fn epoch_seconds(text: &[u8]) -> Option<LineTime> {
    let mut cursor = Cursor(text);
    let n = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let seconds: i64 = std::str::from_utf8(&text[..n]).ok()?.parse().ok()?;
    cursor.0 = &text[n..];
    let ms = cursor.fraction();
    let ok = cursor.rest().is_empty() && seconds < 253_402_300_800;
    ok.then(|| instant(seconds * 1000 + i64::from(ms), 0))
}

/// `1795176067042` in units of 1/`per_second` seconds since the epoch.
#[must_use]
pub(super) fn epoch_units(text: &[u8], per_second: i64) -> Option<LineTime> {
    let value: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    let seconds = value.div_euclid(per_second);
    let part = value.rem_euclid(per_second) * 1000 / per_second;
    (0..253_402_300_800).contains(&seconds).then(|| instant(seconds * 1000 + part, 0))
}

/// `2026/11/20 12:43:07` at the start of an nginx error line, and what follows it.
#[must_use]
pub(super) fn nginx_error_prefix(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { year: i64::from(cursor.digits(4)?), ..Wall::default() };
    cursor.byte(b'/')?;
    wall.month = cursor.digits(2)?;
    cursor.byte(b'/')?;
    wall.day = cursor.digits(2)?;
    cursor.byte(b' ')?;
    cursor.clock(&mut wall)?;
    Some((LineTime::Wall(wall.millis()?), cursor.rest()))
}

/// `Fri Nov 20 12:44:23.681114 2026`, the inside of Apache's first bracket.
#[must_use]
pub(super) fn apache_error(text: &[u8]) -> Option<LineTime> {
    let mut cursor = Cursor(text.get(4..)?);
    let mut wall = Wall { month: cursor.month()?, ..Wall::default() };
    cursor.byte(b' ')?;
    wall.day = cursor.loose_day()?;
    cursor.byte(b' ')?;
    cursor.clock(&mut wall)?;
    cursor.byte(b' ')?;
    wall.year = i64::from(cursor.digits(4)?);
    let ms = wall.millis()?;
    cursor.rest().is_empty().then_some(LineTime::Wall(ms))
}

/// `20-Nov-2026 12:59:19`, the inside of PHP-FPM's first bracket; a zone name after it is ignored.
#[must_use]
pub(super) fn php_fpm(text: &[u8]) -> Option<LineTime> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { day: cursor.digits(2)?, ..Wall::default() };
    cursor.byte(b'-')?;
    wall.month = cursor.month()?;
    cursor.byte(b'-')?;
    wall.year = i64::from(cursor.digits(4)?);
    cursor.byte(b' ')?;
    cursor.clock(&mut wall)?;
    let ms = wall.millis()?;
    match cursor.rest() {
        b" UTC" => Some(instant(ms, 0)),
        [] | [b' ', ..] => Some(LineTime::Wall(ms)),
        _ => None,
    }
}

/// `2026-11-20 12:59:19`, `2026-11-20  5:59:19` and `2026-11-20  12:59:19`, as MariaDB and apt write
/// it, and what follows it.
#[must_use]
pub(super) fn dated_prefix(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { year: i64::from(cursor.digits(4)?), ..Wall::default() };
    cursor.byte(b'-')?;
    wall.month = cursor.digits(2)?;
    cursor.byte(b'-')?;
    wall.day = cursor.digits(2)?;
    cursor.byte(b' ')?;
    cursor.loose_clock(&mut wall)?;
    Some((LineTime::Wall(wall.millis()?), cursor.rest()))
}

/// `261120  9:46:45`, as old versions of MySQL write it, and what follows it.
#[must_use]
pub(super) fn mysql_old_prefix(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { year: 2000 + i64::from(cursor.digits(2)?), ..Wall::default() };
    wall.month = cursor.digits(2)?;
    wall.day = cursor.digits(2)?;
    cursor.byte(b' ')?;
    cursor.loose_clock(&mut wall)?;
    Some((LineTime::Wall(wall.millis()?), cursor.rest()))
}

/// `20 Nov 2026 12:59:19.123`, without its year in old versions of Redis, and what follows it.
#[must_use]
pub(super) fn redis_prefix(text: &[u8]) -> Option<(LineTime, &[u8])> {
    let mut cursor = Cursor(text);
    let mut wall = Wall { year: 1972, day: cursor.loose_day()?, ..Wall::default() };
    cursor.byte(b' ')?;
    wall.month = cursor.month()?;
    cursor.byte(b' ')?;
    let has_year = cursor.0.get(2).is_some_and(u8::is_ascii_digit);
    if has_year {
        wall.year = i64::from(cursor.digits(4)?);
        cursor.byte(b' ')?;
    }
    cursor.clock(&mut wall)?;
    let ms = wall.millis()?;
    let time = if has_year { LineTime::Wall(ms) } else { LineTime::WallNoYear(ms) };
    Some((time, cursor.rest()))
}

/// The time at the start of a syslog line, old (`Nov 20 12:47:17`) or new (ISO 8601), and what
/// follows it.
#[must_use]
pub(super) fn syslog_prefix(text: &[u8]) -> Option<(LineTime, &[u8])> {
    if text.first().is_some_and(u8::is_ascii_digit) {
        return iso8601_prefix(text);
    }
    let mut cursor = Cursor(text);
    let mut wall = Wall { year: 1972, month: cursor.month()?, ..Wall::default() };
    cursor.byte(b' ')?;
    wall.day = cursor.loose_day()?;
    cursor.byte(b' ')?;
    cursor.clock(&mut wall)?;
    Some((LineTime::WallNoYear(wall.millis()?), cursor.rest()))
}

/// `%{format}t` of Apache, by the system's conversion letters; `None` for letters it does not know.
#[must_use]
pub(super) fn by_format(text: &[u8], format: &str) -> Option<LineTime> {
    let text = std::str::from_utf8(text).ok()?;
    let parsed = jiff::fmt::strtime::parse(format, text).ok()?;
    if let Ok(timestamp) = parsed.to_timestamp() {
        let offset_s = parsed.offset().map_or(0, jiff::tz::Offset::seconds);
        return Some(LineTime::Instant { at: UnixMillis(timestamp.as_millisecond()), offset_s });
    }
    let wall = parsed.to_datetime().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(LineTime::Wall(wall.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(time: Option<LineTime>) -> String {
        match time {
            Some(LineTime::Instant { at, offset_s }) => format!("{at} {offset_s}"),
            Some(LineTime::Wall(ms)) => format!("wall {}", UnixMillis(ms)),
            Some(LineTime::WallNoYear(ms)) => format!("no year {}", UnixMillis(ms)),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn every_way_of_writing_a_time_is_read() {
        for (time, want) in [
            (clf(b"20/Nov/2026:12:01:07 +0000"), "2026-11-20T12:01:07.000Z 0"),
            (clf(b"20/Nov/2026:12:01:07 -0530"), "2026-11-20T17:31:07.000Z -19800"),
            (clf(b"29/Feb/2024:00:00:00 +0000"), "2024-02-29T00:00:00.000Z 0"),
            (clf(b"29/Feb/2023:00:00:00 +0000"), "none"),
            (clf(b"20/Nov/2026:12:01:60 +0000"), "none"),
            (clf(b"20/Nov/2026:12:01:07 +0000]"), "none"),
            (clf(b"20/Nov/2026:12:47:17.812"), "wall 2026-11-20T12:47:17.812Z"),
            (clf(b"20/nov/2026:12:47:17 +0000"), "none"),
            (iso8601(b"2026-11-20T12:46:39+01:00"), "2026-11-20T11:46:39.000Z 3600"),
            (iso8601(b"2026-11-20 12:46:39.5"), "wall 2026-11-20T12:46:39.500Z"),
            (epoch_seconds(b"1795176067.042"), "2026-11-20T12:01:07.042Z 0"),
            (epoch_seconds(b"99999999999999"), "none"),
            (epoch_units(b"1795176067042000", 1_000_000), "2026-11-20T12:01:07.042Z 0"),
            (apache_error(b"Fri Nov 20 12:44:23.681114 2026"), "wall 2026-11-20T12:44:23.681Z"),
            (apache_error(b"Mon Dec  6 16:22:08 2016"), "wall 2016-12-06T16:22:08.000Z"),
            (php_fpm(b"20-Nov-2026 12:59:19"), "wall 2026-11-20T12:59:19.000Z"),
            (php_fpm(b"20-Nov-2026 12:59:19 UTC"), "2026-11-20T12:59:19.000Z 0"),
            (
                syslog_prefix(b"Nov  2 12:47:17 host").map(|t| t.0),
                "no year 1972-11-02T12:47:17.000Z",
            ),
            (
                nginx_error_prefix(b"2026/11/20 12:43:07 [error]").map(|t| t.0),
                "wall 2026-11-20T12:43:07.000Z",
            ),
            (
                by_format(b"2026-11-20 12:43:07 +0100", "%Y-%m-%d %H:%M:%S %z"),
                "2026-11-20T11:43:07.000Z 3600",
            ),
            (
                dated_prefix(b"2026-11-20  5:43:07 8 [Note]").map(|t| t.0),
                "wall 2026-11-20T05:43:07.000Z",
            ),
            (dated_prefix(b"2026-11-20  12:43:07").map(|t| t.0), "wall 2026-11-20T12:43:07.000Z"),
            (dated_prefix(b"2026-11-20   5:43:07").map(|t| t.0), "none"),
            (
                mysql_old_prefix(b"261120  9:46:45 [Note]").map(|t| t.0),
                "wall 2026-11-20T09:46:45.000Z",
            ),
            (mysql_old_prefix(b"261320  9:46:45").map(|t| t.0), "none"),
            (
                redis_prefix(b"20 Nov 2026 12:59:19.123 * x").map(|t| t.0),
                "wall 2026-11-20T12:59:19.123Z",
            ),
            (redis_prefix(b"2 Nov 12:59:19 * x").map(|t| t.0), "no year 1972-11-02T12:59:19.000Z"),
            (clf(b""), "none"),
            (apache_error(b"Fri"), "none"),
        ] {
            assert_eq!(show(time), want);
        }
    }

    #[test]
    fn days_are_counted_like_a_calendar() {
        for (y, m, d, want) in
            [(1970, 1, 1, 0), (2000, 2, 29, 11_016), (2000, 3, 1, 11_017), (2026, 11, 20, 20_777)]
        {
            assert_eq!(days_from_civil(y, m, d), want);
        }
    }
}
