//! When a scheduled report is due, and what time it is over then. Pure.

use std::time::Duration;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use wire::UnixMillis;
use wire::units::Span;

use crate::notify::{Wrong, hours};

/// Days looked back for a time: a month has at most 31, and one more for the zone.
const DAYS_BACK: i32 = 32;
/// Last day of a month that every month has.
const DAY_MAX: i8 = 28;
const DAY: Duration = Duration::from_secs(86_400);
/// Longest period.
const DAYS_MAX: u64 = 1000;

/// On which days.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Days {
    OfWeek(Vec<Weekday>),
    OfMonth(i8),
}

/// Times of the week or month in one zone.
#[derive(Clone, Debug)]
pub(super) struct Times {
    times: Vec<(Days, Time)>,
    zone: TimeZone,
}

/// What a report is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Period {
    /// So many whole days before the one it is due on.
    Days(i32),
    /// The calendar month before.
    Month,
    /// So long before it is due.
    Before(Duration),
}

impl Period {
    /// Reads `7d`, `month` or `12h`.
    pub(super) fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = || {
            let what = format!("{text:?} is no time that a report can be over");
            Wrong::new(what, "write it like \"7d\", \"month\" or \"12h\"")
        };
        if text == "month" {
            return Ok(Self::Month);
        }
        let Span(span) = text.parse().map_err(|_| wrong())?;
        if span.is_zero() || span > DAY * DAYS_MAX as u32 {
            return Err(wrong());
        }
        if span.as_millis() % DAY.as_millis() == 0 {
            return Ok(Self::Days(i32::try_from(span.as_secs() / 86_400).map_err(|_| wrong())?));
        }
        Ok(Self::Before(span))
    }
}

impl Times {
    /// Reads `Mon-Fri 08:00`, `08:00` or `1st 08:00`; `zone` is an IANA name, `None` the machine's. `Err`:
    /// the key, and what is wrong with it.
    pub(super) fn parse(
        texts: &[String],
        zone: Option<&str>,
    ) -> Result<Self, (&'static str, Wrong)> {
        let fix = "write it like \"Europe/Berlin\"";
        let zone = hours::time_zone(zone)
            .map_err(|_| ("timezone", Wrong::new(format!("{zone:?} is not known"), fix)))?;
        let fix =
            "write it like \"Mon 08:00\", or \"1st 08:00\" for a day of the month up to the 28th";
        if texts.is_empty() {
            return Err(("at", Wrong::new("is missing", fix)));
        }
        let time = |text: &String| {
            let wrong = || ("at", Wrong::new(format!("{text:?} is no time"), fix));
            let (days, time) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
            let time = hours::time(time).ok_or_else(wrong)?;
            let days = match day_of_month(days.trim()) {
                Some(day) => Days::OfMonth(day),
                None => Days::OfWeek(hours::weekdays(days).ok_or_else(wrong)?),
            };
            Ok((days, time))
        };
        Ok(Self { times: texts.iter().map(time).collect::<Result<_, _>>()?, zone })
    }

    /// What a report at these times is over when nothing is said.
    pub(super) fn usual_period(&self) -> &'static str {
        let is_monthly = self.times.iter().any(|(days, _)| matches!(days, Days::OfMonth(_)));
        if is_monthly { "month" } else { "7d" }
    }

    /// The last one at or before `at`. A time that a day leaves out when clocks go forward comes as much
    /// later, one that a day has twice comes the first time.
    pub(super) fn latest(&self, at: UnixMillis) -> Option<UnixMillis> {
        let today = hours::zoned(at, &self.zone).date();
        let dates = (-DAYS_BACK..=1).filter_map(|n| today.checked_add(n.days()).ok());
        let on = |date: Date| {
            let here = self.times.iter().filter(move |(days, _)| match days {
                Days::OfWeek(days) => days.contains(&date.weekday()),
                Days::OfMonth(day) => date.day() == *day,
            });
            here.filter_map(move |(_, time)| {
                instant(date.to_datetime(*time).to_zoned(self.zone.clone()))
            })
        };
        dates.flat_map(on).filter(|time| *time <= at).max()
    }

    /// Begin and end of what a report that is due then is over.
    pub(super) fn span(&self, period: Period, due: UnixMillis) -> (UnixMillis, UnixMillis) {
        let today = hours::zoned(due, &self.zone).date();
        let begin_of = |date: Date| instant(date.to_zoned(self.zone.clone()));
        let days = |from: Option<Date>, to: Date| Some((begin_of(from?)?, begin_of(to)?));
        let span = match period {
            Period::Before(span) => Some((due.minus(span), due)),
            Period::Days(n) => days(today.checked_sub(n.days()).ok(), today),
            Period::Month => {
                let to = today.first_of_month();
                days(to.checked_sub(1.month()).ok(), to)
            }
        };
        span.unwrap_or((due.minus(DAY), due))
    }
}

/// `1st` to `28th`.
fn day_of_month(text: &str) -> Option<i8> {
    let n = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, ending) = text.split_at(n);
    let day: i8 = number.parse().ok()?;
    let is_written = ["st", "nd", "rd", "th"].contains(&ending);
    (is_written && (1..=DAY_MAX).contains(&day)).then_some(day)
}

fn instant(zoned: Result<Zoned, jiff::Error>) -> Option<UnixMillis> {
    zoned.ok().map(|zoned| UnixMillis(zoned.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMillis {
        UnixMillis::parse_rfc3339(text).unwrap()
    }

    fn times(text: &str, zone: &str) -> Times {
        Times::parse(&[text.to_owned()], Some(zone)).unwrap()
    }

    #[test]
    fn a_report_is_due_at_the_newest_of_its_times() {
        // 2026-11-30 is a Monday.
        for (text, zone, now, want) in [
            ("Mon 08:00", "UTC", "2026-11-30T08:00:00Z", "2026-11-30T08:00:00.000Z"),
            ("Mon 08:00", "UTC", "2026-11-30T07:59:59Z", "2026-11-23T08:00:00.000Z"),
            ("Mon 08:00", "Europe/Berlin", "2026-11-30T07:00:00Z", "2026-11-30T07:00:00.000Z"),
            ("08:00", "UTC", "2026-11-30T07:59:59Z", "2026-11-29T08:00:00.000Z"),
            ("1st 08:00", "UTC", "2026-11-30T09:00:00Z", "2026-11-01T08:00:00.000Z"),
            ("28th 23:59", "UTC", "2026-03-28T23:58:00Z", "2026-02-28T23:59:00.000Z"),
            ("1st 00:00", "Pacific/Auckland", "2026-11-30T11:00:00Z", "2026-11-30T11:00:00.000Z"),
            // Clocks go forward over it: an hour later.
            ("Sun 02:30", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-29T01:30:00.000Z"),
        ] {
            let latest = times(text, zone).latest(at(now)).unwrap();
            assert_eq!(latest.to_rfc3339(), want, "{text} {zone} {now}");
        }
    }

    #[test]
    fn a_report_is_over_whole_days_of_its_zone_the_month_before_or_hours() {
        for (period, zone, due, from, to) in [
            ("7d", "UTC", "2026-11-30T08:00:00Z", "2026-11-23T00:00:00", "2026-11-30T00:00:00"),
            // A day of 25 hours is among them.
            (
                "7d",
                "Europe/Berlin",
                "2026-10-26T07:00:00Z",
                "2026-10-18T22:00:00",
                "2026-10-25T23:00:00",
            ),
            ("month", "UTC", "2026-12-01T08:00:00Z", "2026-11-01T00:00:00", "2026-12-01T00:00:00"),
            ("month", "UTC", "2026-01-15T08:00:00Z", "2025-12-01T00:00:00", "2026-01-01T00:00:00"),
            ("12h", "UTC", "2026-11-30T08:00:00Z", "2026-11-29T20:00:00", "2026-11-30T08:00:00"),
            ("48h", "UTC", "2026-11-30T08:00:00Z", "2026-11-28T00:00:00", "2026-11-30T00:00:00"),
        ] {
            let span = times("08:00", zone).span(Period::parse(period).unwrap(), at(due));
            let told = (span.0.to_rfc3339(), span.1.to_rfc3339());
            assert_eq!(told, (format!("{from}.000Z"), format!("{to}.000Z")), "{period} {zone}");
        }
    }

    #[test]
    fn what_is_no_time_zone_or_period_is_told_at_its_key() {
        for (texts, zone, key) in [
            (&["Mon 25:00"][..], Some("UTC"), "at"),
            (&["Someday 08:00"], None, "at"),
            (&["31st 08:00"], None, "at"),
            (&["0th 08:00"], None, "at"),
            (&["08:00", "1 08:00"], None, "at"),
            (&[], None, "at"),
            (&["08:00"], Some("Berlin"), "timezone"),
        ] {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(Times::parse(&texts, zone).unwrap_err().0, key, "{texts:?} {zone:?}");
        }
        for text in ["", "0d", "week", "7", "-7d", "2000d"] {
            assert!(Period::parse(text).is_err(), "{text}");
        }
        assert_eq!(times("1st 08:00", "UTC").usual_period(), "month");
        assert_eq!(times("Mon 08:00", "UTC").usual_period(), "7d");
    }
}
