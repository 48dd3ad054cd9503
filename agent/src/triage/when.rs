//! `--since` and `--until`: what people write for a time -> the instant they mean. Pure.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, fmt::strtime};
use wire::UnixMillis;
use wire::units::Span;

/// What is understood, for the error message.
const ACCEPTED: &str = "write a time like 2026-11-20T12:00:00Z, \"2026-11-20 12:00\", 2026-11-20, \
     12:00 (today), 20/Nov/2026:12:00:00 +0000 (as in the log), or how long ago: 15m, 2h, 1d";

/// Reads a time; one without offset is in `zone`, a day alone is its midnight. `Err` says what to
/// write.
pub fn parse_when(text: &str, now: UnixMillis, zone: &TimeZone) -> Result<UnixMillis, String> {
    let text = text.trim();
    let ms = |at: Timestamp| UnixMillis(at.as_millisecond());
    if text == "now" {
        return Ok(now);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(ms(at));
    }
    let ago = text.strip_suffix("ago").unwrap_or(text).trim();
    if let Ok(Span(ago)) = ago.parse() {
        return Ok(now.minus(ago));
    }
    if let Ok(parsed) = strtime::parse("%d/%b/%Y:%H:%M:%S %z", text)
        && let Ok(at) = parsed.to_timestamp()
    {
        return Ok(ms(at));
    }
    wall(text, now, zone)
        .and_then(|wall| wall.to_zoned(zone.clone()).ok())
        .map(|at| ms(at.timestamp()))
        .ok_or_else(|| ACCEPTED.to_owned())
}

/// A wall clock: date and time, date, time of today.
fn wall(text: &str, now: UnixMillis, zone: &TimeZone) -> Option<DateTime> {
    if let Ok(parsed) = strtime::parse("%d/%b/%Y:%H:%M:%S", text) {
        return parsed.to_datetime().ok();
    }
    if text.contains(':') && !text.contains('-') {
        let time: Time = text.parse().ok()?;
        let today = zone.to_datetime(Timestamp::from_millisecond(now.0).ok()?).date();
        return Some(today.to_datetime(time));
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Option<&str>) {
        let zone = crate::config::zone("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now = UnixMillis::parse_rfc3339("2026-11-20T23:30:00Z").unwrap();
        let got = parse_when(text, now, &zone);
        assert_eq!(got.as_ref().ok().map(|at| at.to_rfc3339()).as_deref(), want, "{text}");
        if let Err(fix) = got {
            assert!(fix.contains("2026-11-20T12:00:00Z") && fix.contains("2h"), "{fix}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, want) in [
            ("2026-11-20T12:00:00Z", "2026-11-20T12:00:00.000Z"),
            ("2026-11-20T12:00:00+02:00", "2026-11-20T10:00:00.000Z"),
            ("2026-11-20 12:00+02:00", "2026-11-20T10:00:00.000Z"),
            ("2026-11-20 12:00", "2026-11-20T11:00:00.000Z"),
            ("2026-11-20T12:00:30.5", "2026-11-20T11:00:30.500Z"),
            ("2026-07-20", "2026-07-19T22:00:00.000Z"),
            // It is the 21st in the zone.
            ("12:00", "2026-11-21T11:00:00.000Z"),
            ("00:15:30", "2026-11-20T23:15:30.000Z"),
            ("20/Nov/2026:12:00:00 +0000", "2026-11-20T12:00:00.000Z"),
            ("20/Nov/2026:12:00:00", "2026-11-20T11:00:00.000Z"),
            ("2h", "2026-11-20T21:30:00.000Z"),
            ("15m ago", "2026-11-20T23:15:00.000Z"),
            ("1d", "2026-11-19T23:30:00.000Z"),
            ("now", "2026-11-20T23:30:00.000Z"),
        ] {
            check(text, Some(want));
        }
        for bad in ["", "yesterday", "25:00", "2026-13-01", "2026-02-30", "12", "-2h", "2 h 3"] {
            check(bad, None);
        }
    }
}
