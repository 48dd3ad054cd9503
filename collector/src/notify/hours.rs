//! Hours of a route and times of a digest: `Mon-Fri 08:00-18:00`, `Sat,Sun 10:00-12:00`, `08:00`.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use wire::UnixMillis;

/// Spans of the week in one time zone; empty: always.
#[derive(Clone, Debug)]
pub struct Hours {
    spans: Vec<(Vec<Weekday>, Time, Time)>,
    zone: TimeZone,
}

impl Hours {
    /// `zone`: IANA name; `None`: the machine's. `Err` says what is no span or no zone.
    pub fn parse(texts: &[String], zone: Option<&str>) -> Result<Self, String> {
        let zone = time_zone(zone)?;
        let span = |text: &String| {
            let fault = || {
                format!("{text:?} is no span of the week: write it like \"Mon-Fri 08:00-18:00\"")
            };
            let (days, hours) = text.trim().rsplit_once(' ').unwrap_or(("", text.trim()));
            let (from, to) = hours.split_once('-').ok_or_else(fault)?;
            let from = time(from).ok_or_else(fault)?;
            let to = if to == "24:00" { Time::MAX } else { time(to).ok_or_else(fault)? };
            Ok((weekdays(days).ok_or_else(fault)?, from, to))
        };
        Ok(Self { spans: texts.iter().map(span).collect::<Result<_, String>>()?, zone })
    }

    /// Whether `at` is inside. A span whose end is before its begin goes over midnight, and belongs to
    /// the day it begins on.
    #[must_use]
    pub fn contain(&self, at: UnixMillis) -> bool {
        if self.spans.is_empty() {
            return true;
        }
        let here = zoned(at, &self.zone);
        let (today, time) = (here.weekday(), here.time());
        let yesterday = today.previous();
        self.spans.iter().any(|(days, from, to)| {
            if from < to {
                days.contains(&today) && *from <= time && time < *to
            } else {
                days.contains(&today) && *from <= time || days.contains(&yesterday) && time < *to
            }
        })
    }
}

/// The zone of this name; of the machine without one.
pub fn time_zone(name: Option<&str>) -> Result<TimeZone, String> {
    match name {
        None => Ok(TimeZone::system()),
        Some(name) => TimeZone::get(name).map_err(|_| {
            format!("timezone {name:?} is not known: write it like \"Europe/Berlin\"")
        }),
    }
}

/// `Mon-Fri`, `Sat,Sun`, or nothing: every day.
pub(crate) fn weekdays(text: &str) -> Option<Vec<Weekday>> {
    const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let day = |name: &str| {
        let name = name.trim().to_lowercase();
        NAMES.iter().position(|known| *known == name)
    };
    if text.trim().is_empty() {
        return Some(every_day());
    }
    let mut found = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            None => found.push(day(part)?),
            Some((from, to)) => {
                let (from, to) = (day(from)?, day(to)?);
                found.extend((0..7).map(|n| (from + n) % 7).take((to + 7 - from) % 7 + 1));
            }
        }
    }
    Some(days(found))
}

/// The days of the week.
pub(crate) fn every_day() -> Vec<Weekday> {
    days((0..7).collect())
}

fn days(found: Vec<usize>) -> Vec<Weekday> {
    let day = |n| Weekday::from_monday_zero_offset(n as i8).expect("it is below 7");
    found.into_iter().map(day).collect()
}

pub(crate) fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.trim().split_once(':')?;
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

pub(crate) fn zoned(at: UnixMillis, zone: &TimeZone) -> Zoned {
    Timestamp::from_millisecond(at.0).unwrap_or_default().to_zoned(zone.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMillis {
        UnixMillis::parse_rfc3339(text).unwrap()
    }

    fn check(spans: &[&str], zone: &str, cases: &[(&str, bool)]) {
        let texts: Vec<String> = spans.iter().map(|span| (*span).to_owned()).collect();
        let hours = Hours::parse(&texts, Some(zone)).unwrap();
        for (text, expected) in cases {
            assert_eq!(hours.contain(at(text)), *expected, "{spans:?} {zone} {text}");
        }
    }

    #[test]
    fn hours_contain_their_spans_in_their_zone() {
        check(&[], "UTC", &[("2026-11-28T03:00:00Z", true)]);
        // 2026-11-30 is a Monday.
        check(
            &["Mon-Fri 08:00-18:00"],
            "Europe/Berlin",
            &[
                ("2026-11-30T06:59:59.999Z", false),
                ("2026-11-30T07:00:00Z", true),
                ("2026-11-30T16:59:59Z", true),
                ("2026-11-30T17:00:00Z", false),
                ("2026-11-29T10:00:00Z", false),
                ("2026-07-01T06:00:00Z", true),
            ],
        );
        check(
            &["Fri 22:00-06:00"],
            "UTC",
            &[
                ("2026-11-27T21:59:00Z", false),
                ("2026-11-27T22:00:00Z", true),
                ("2026-11-28T05:59:00Z", true),
                ("2026-11-28T06:00:00Z", false),
                ("2026-11-28T23:00:00Z", false),
            ],
        );
        check(
            &["Sat,Sun 10:00-12:00", "18:00-24:00"],
            "UTC",
            &[
                ("2026-11-28T11:00:00Z", true),
                ("2026-11-30T11:00:00Z", false),
                ("2026-11-30T23:59:59Z", true),
                ("2026-12-01T00:00:00Z", false),
            ],
        );
        check(
            &["Sat-Mon 00:00-24:00"],
            "UTC",
            &[
                ("2026-11-28T00:00:00Z", true),
                ("2026-11-30T23:00:00Z", true),
                ("2026-12-01T00:00:00Z", false),
            ],
        );
    }

    #[test]
    fn hours_hold_through_gaps_and_folds() {
        // Berlin, 2026-03-29: 02:00 to 03:00 does not exist.
        check(
            &["02:30-03:30"],
            "Europe/Berlin",
            &[
                ("2026-03-29T00:59:00Z", false),
                ("2026-03-29T01:00:00Z", true),
                ("2026-03-29T01:29:00Z", true),
                ("2026-03-29T01:30:00Z", false),
            ],
        );
        check(
            &["02:00-03:00"],
            "Europe/Berlin",
            &[
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", false),
                ("2026-03-30T00:30:00Z", true),
            ],
        );
        // Berlin, 2026-10-25: 02:00 to 03:00 is there twice, and inside both times.
        check(
            &["02:00-03:00"],
            "Europe/Berlin",
            &[
                ("2026-10-24T23:59:00Z", false),
                ("2026-10-25T00:00:00Z", true),
                ("2026-10-25T01:30:00Z", true),
                ("2026-10-25T02:00:00Z", false),
            ],
        );
    }

    #[test]
    fn what_is_no_span_or_no_zone_is_said() {
        for (text, zone, expected) in [
            ("Mon-Fri", "UTC", "\"Mon-Fri\" is no span of the week"),
            ("Mon-Fry 08:00-18:00", "UTC", "is no span of the week"),
            ("08:00-25:00", "UTC", "is no span of the week"),
            ("08:60-09:00", "UTC", "is no span of the week"),
            ("08:00", "UTC", "is no span of the week"),
            ("", "UTC", "is no span of the week"),
            ("08:00-18:00", "Europe/Bonn", "timezone \"Europe/Bonn\" is not known"),
        ] {
            let told = Hours::parse(&[text.to_owned()], Some(zone)).unwrap_err();
            assert!(told.contains(expected), "{text:?}: {told}");
        }
    }
}
