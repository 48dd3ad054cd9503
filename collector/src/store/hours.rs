//! The calendar of sealed history, pure: hours, the UTC days they are filed under, months of days.
//!
//! An hour is named by its first second since the Unix epoch. Days and months are those of UTC, whatever
//! the zone of a server, of the collector or of whoever reads; the Unix epoch knows no leap seconds.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use wire::UnixMillis;

/// Seconds of an hour.
pub const HOUR_S: i64 = 3600;

/// The hour a second lies in.
#[must_use]
pub fn hour_of(second: i64) -> i64 {
    second.saturating_sub(second.rem_euclid(HOUR_S))
}

/// The hours with any instant in `from..to`; none when it is empty.
pub fn hours(from: UnixMillis, to: UnixMillis) -> impl DoubleEndedIterator<Item = i64> {
    let (first, last) = (hour_of(from.second()), hour_of(to.0.saturating_sub(1).div_euclid(1000)));
    let n = if from < to { (last - first) / HOUR_S + 1 } else { 0 };
    (0..n).map(move |ix| first + ix * HOUR_S)
}

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(Date);

/// A month in UTC, named by its first day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(Date);

fn date_of(second: i64) -> Option<Date> {
    let at = jiff::Timestamp::from_second(second).ok()?;
    Some(at.to_zoned(TimeZone::UTC).date())
}

fn first_second(date: Date) -> i64 {
    date.to_zoned(TimeZone::UTC).map_or(i64::MAX, |at| at.timestamp().as_second())
}

impl Day {
    /// The day a second lies in; `None` outside the years that have a name (1 to 9999).
    #[must_use]
    pub fn of(second: i64) -> Option<Self> {
        date_of(second).filter(|date| date.year() > 0).map(Self)
    }

    /// Its first second.
    #[must_use]
    pub fn first_second(self) -> i64 {
        first_second(self.0)
    }

    /// First second of the next day.
    #[must_use]
    pub fn end_second(self) -> i64 {
        self.first_second() + 24 * HOUR_S
    }

    /// Its file below the data directory: `blocks/20261130.db`.
    #[must_use]
    pub fn file(self) -> PathBuf {
        Path::new("blocks").join(format!("{}.db", self.0.strftime("%Y%m%d")))
    }

    /// The day whose file has this name: `20261130.db`.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<Self> {
        let day = Self(Date::strptime("%Y%m%d", name.strip_suffix(".db")?).ok()?);
        (day.file().file_name()?.to_str()? == name).then_some(day)
    }

    /// Where its file goes when it is damaged: `blocks/20261130.db.damaged-20261201T093000Z`.
    #[must_use]
    pub fn aside(self, at: UnixMillis) -> PathBuf {
        let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
        let mut name = self.file().into_os_string();
        name.push(at.strftime(".damaged-%Y%m%dT%H%M%SZ").to_string());
        name.into()
    }

    /// The day whose damaged file has this name: `20261130.db.damaged-20261201T093000Z`.
    #[must_use]
    pub fn of_aside_name(name: &str) -> Option<Self> {
        let (file, at) = name.split_once(".damaged-")?;
        let is_time = |b: u8| b.is_ascii_digit() || b"TZ".contains(&b);
        let is_aside = at.len() == 16 && at.bytes().all(is_time);
        Self::of_file_name(file).filter(|_| is_aside)
    }

    /// The month it is in.
    #[must_use]
    pub fn month(self) -> Month {
        Month(self.0.first_of_month())
    }
}

impl Month {
    /// The month a second lies in; as [`Day::of`].
    #[must_use]
    pub fn of(second: i64) -> Option<Self> {
        Day::of(second).map(Day::month)
    }

    /// Its first second.
    #[must_use]
    pub fn first_second(self) -> i64 {
        first_second(self.0)
    }

    /// First second of the next month.
    #[must_use]
    pub fn end_second(self) -> i64 {
        self.0.last_of_month().tomorrow().map_or(i64::MAX, first_second)
    }

    /// Its file below the data directory: `rollup/202611.db`.
    #[must_use]
    pub fn file(self) -> PathBuf {
        Path::new("rollup").join(format!("{}.db", self.0.strftime("%Y%m")))
    }

    /// The month whose file has this name: `202611.db`.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<Self> {
        let first = format!("{}01.db", name.strip_suffix(".db")?);
        let month = Day::of_file_name(&first)?.month();
        (month.file().file_name()?.to_str()? == name).then_some(month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    #[test]
    fn hours_belong_to_days_and_months_of_utc_leap_days_too() {
        let check = |time: &str, day: &str, month: &str, days: i64| {
            let second = at(time);
            let (is_day, is_month) = (Day::of(second).unwrap(), Month::of(second).unwrap());
            assert_eq!(is_day.file(), Path::new(day), "{time}");
            assert_eq!(is_month.file(), Path::new(month), "{time}");
            assert_eq!((is_month.end_second() - is_month.first_second()) / 86_400, days, "{time}");
            assert!((is_day.first_second()..is_day.end_second()).contains(&second));
        };
        check("2028-02-29T23:59:59Z", "blocks/20280229.db", "rollup/202802.db", 29);
        check("2028-03-01T00:00:00Z", "blocks/20280301.db", "rollup/202803.db", 31);
        check("2027-02-28T23:00:00Z", "blocks/20270228.db", "rollup/202702.db", 28);
        check("2100-02-28T12:00:00Z", "blocks/21000228.db", "rollup/210002.db", 28);
        check("2026-12-31T23:30:00-01:00", "blocks/20270101.db", "rollup/202701.db", 31);
        check("2026-11-30T12:00:00Z", "blocks/20261130.db", "rollup/202611.db", 30);
        assert_eq!(Day::of(i64::MAX), None);
        assert_eq!(Day::of(-62_167_219_201), None, "before the year 1");
    }

    #[test]
    fn file_names_lead_back_and_other_names_do_not() {
        let day = Day::of(at("2028-02-29T12:00:00Z")).unwrap();
        assert_eq!(Day::of_file_name("20280229.db"), Some(day));
        assert_eq!(Month::of_file_name("202802.db"), Some(day.month()));
        for name in
            ["20270229.db", "2028229.db", "20280229.db-wal", "20280229", "x.db", "202802.db"]
        {
            assert_eq!(Day::of_file_name(name), None, "{name}");
        }
        for name in ["202813.db", "20282.db", "202802.db-shm", "20280229.db"] {
            assert_eq!(Month::of_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_hours_of_a_span_are_those_with_an_instant_in_it() {
        let check = |from: i64, to: i64, want: &[i64]| {
            let found: Vec<i64> = hours(UnixMillis(from), UnixMillis(to)).collect();
            assert_eq!(found, want, "{from}..{to}");
        };
        check(0, 3_600_000, &[0]);
        check(0, 3_600_001, &[0, 3600]);
        check(3_599_999, 3_600_000, &[0]);
        check(5, 5, &[]);
        check(9, 5, &[]);
        check(-1, 1, &[-3600, 0]);
    }

    #[test]
    fn seconds_of_liars_have_an_hour_too() {
        assert_eq!([hour_of(-1), hour_of(0), hour_of(3599)], [-3600, 0, 0]);
        assert_eq!(hour_of(i64::MIN), i64::MIN, "there is no earlier one");
        assert!((0..HOUR_S).contains(&(i64::MAX - hour_of(i64::MAX))));
    }
}
