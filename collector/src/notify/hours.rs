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
pub(super) fn weekdays(text: &str) -> Option<Vec<Weekday>> {
    const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let day = |name: &str| {
        let name = name.trim().to_lowercase();
        NAMES.iter().position(|known| *known == name)
    };
    if text.trim().is_empty() {
        return Some(days((0..7).collect()));
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

fn days(found: Vec<usize>) -> Vec<Weekday> {
    let day = |n| Weekday::from_monday_zero_offset(n as i8).expect("it is below 7");
    found.into_iter().map(day).collect()
}

pub(super) fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.trim().split_once(':')?;
    Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
}

pub(super) fn zoned(at: UnixMillis, zone: &TimeZone) -> Zoned {
    Timestamp::from_millisecond(at.0).unwrap_or_default().to_zoned(zone.clone())
}
