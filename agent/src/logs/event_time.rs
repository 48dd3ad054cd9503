//! What a line says about its time -> the instant it is filed under.

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use wire::UnixMillis;

use crate::logs::LineTime;

/// How far ahead of the agent's clock a line may be before it is filed under the time of reading.
const AHEAD_MS_MAX: i64 = 5_000;
/// How far ahead a line without year may be before it belongs to the year before.
const NO_YEAR_AHEAD_MS_MAX: i64 = 86_400_000;
/// No zone changes its offset between two instants of such a quarter of an hour of the wall clock.
const QUARTER_MS: i64 = 900_000;

/// True for a second so far ahead that the time of reading may count instead.
pub(crate) fn is_ahead(second: i64, now: UnixMillis) -> bool {
    second.saturating_mul(1000) > now.0.saturating_add(AHEAD_MS_MAX - 1000)
}

/// Reads the times of one file; remembers the offset of the last quarter of an hour.
#[derive(Clone, Debug)]
pub(crate) struct EventClock {
    zone: TimeZone,
    /// Quarter of the wall clock, and its offset in milliseconds, where there is only one.
    known: Option<(i64, i64)>,
}

impl EventClock {
    /// `zone` is that of times without offset.
    pub(crate) fn new(zone: TimeZone) -> Self {
        Self { zone, known: None }
    }

    pub(crate) fn zone(&self) -> TimeZone {
        self.zone.clone()
    }

    /// The event time; true when it was too far ahead of `now` and `now` was taken instead.
    ///
    /// `after_ms` is added first: the duration of a request whose line tells its start. A line
    /// without any time is filed under `now`.
    pub(crate) fn resolve(
        &mut self,
        time: Option<LineTime>,
        after_ms: i64,
        now: UnixMillis,
    ) -> (UnixMillis, bool) {
        let at = match time {
            None => return (now, false),
            Some(LineTime::Instant { at, .. }) => at.0,
            Some(LineTime::Wall(wall)) => self.instant_of(wall, now),
            Some(LineTime::WallNoYear(wall)) => self.instant_of_yearless(wall, now),
        };
        let at = at.saturating_add(after_ms);
        if at > now.0.saturating_add(AHEAD_MS_MAX) { (now, true) } else { (UnixMillis(at), false) }
    }

    /// What a wall clock means whenever it is read; `None` in a repeated or missing hour.
    pub(crate) fn instant_at_any_time(&mut self, wall: i64) -> Option<i64> {
        let quarter = wall.div_euclid(QUARTER_MS);
        if self.known.is_none_or(|(known, _)| known != quarter) {
            self.instant_of(wall, UnixMillis(0));
        }
        self.known.filter(|(known, _)| *known == quarter).map(|(_, offset)| wall - offset)
    }

    /// In a repeated hour the later reading, unless it is after the time of reading.
    pub(crate) fn instant_of(&mut self, wall: i64, now: UnixMillis) -> i64 {
        let quarter = wall.div_euclid(QUARTER_MS);
        if let Some((known, offset)) = self.known
            && known == quarter
        {
            return wall - offset;
        }
        let Ok(as_utc) = Timestamp::from_millisecond(wall) else { return wall };
        let civil = Offset::UTC.to_datetime(as_utc);
        let ms = |offset: Offset| i64::from(offset.seconds()) * 1000;
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset } => {
                self.known = Some((quarter, ms(offset)));
                wall - ms(offset)
            }
            AmbiguousOffset::Gap { before, .. } => wall - ms(before),
            AmbiguousOffset::Fold { before, after } => {
                let later = wall - ms(after);
                if later <= now.0 { later } else { wall - ms(before) }
            }
        }
    }

    /// The latest year that is not more than a day ahead; `wall` is of the year 1972.
    fn instant_of_yearless(&mut self, wall: i64, now: UnixMillis) -> i64 {
        let Ok(of_1972) = Timestamp::from_millisecond(wall) else { return wall };
        let civil = Offset::UTC.to_datetime(of_1972);
        let this_year = Timestamp::from_millisecond(now.0)
            .map_or(1972, |now| Offset::UTC.to_datetime(now).year());
        // Up to eight years back, for the 29th of February.
        for year in (this_year - 8..=this_year + 1).rev() {
            let Ok(dated) = civil.with().year(year).build() else { continue };
            let Ok(as_utc) = Offset::UTC.to_timestamp(dated) else { continue };
            let at = self.instant_of(as_utc.as_millisecond(), now);
            if at <= now.0.saturating_add(NO_YEAR_AHEAD_MS_MAX) {
                return at;
            }
        }
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMillis {
        UnixMillis::parse_rfc3339(text).unwrap()
    }

    fn check(zone: &str, time: LineTime, now: &str, want: &str, clamped: bool) {
        let zone = match zone {
            "Europe/Berlin" => "CET-1CEST,M3.5.0,M10.5.0/3",
            "America/New_York" => "EST5EDT,M3.2.0,M11.1.0",
            other => other,
        };
        let zone = crate::config::zone(zone).unwrap();
        let got = EventClock::new(zone).resolve(Some(time), 0, at(now));
        assert_eq!(got, (at(want), clamped), "{time:?} read at {now}");
    }

    #[test]
    fn wall_clocks_are_read_in_the_zone_of_the_source() {
        let wall = LineTime::Wall(at("2026-11-20T12:00:00Z").0);
        check("Europe/Berlin", wall, "2026-11-20T12:00:00Z", "2026-11-20T11:00:00Z", false);
        check("America/New_York", wall, "2026-11-20T20:00:00Z", "2026-11-20T17:00:00Z", false);
        // In summer the offset is another one.
        let wall = LineTime::Wall(at("2026-07-20T12:00:00Z").0);
        check("Europe/Berlin", wall, "2026-11-20T12:00:00Z", "2026-07-20T10:00:00Z", false);
    }

    #[test]
    fn a_wall_clock_is_certain_except_in_the_hours_of_the_change() {
        let mut clock = EventClock::new(crate::config::zone("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
        for (wall, want) in [
            ("2026-11-20T12:00:00Z", Some("2026-11-20T11:00:00Z")),
            ("2026-10-25T01:59:59Z", Some("2026-10-24T23:59:59Z")),
            ("2026-10-25T02:30:00Z", None),
            ("2026-10-25T03:00:00Z", Some("2026-10-25T02:00:00Z")),
            ("2026-03-29T02:30:00Z", None),
            ("2026-03-29T03:00:00Z", Some("2026-03-29T01:00:00Z")),
        ] {
            let wall = at(wall).0;
            assert_eq!(clock.instant_at_any_time(wall).map(UnixMillis), want.map(at), "{wall}");
        }
    }

    #[test]
    fn in_the_repeated_hour_the_latest_reading_not_after_now_counts() {
        let wall = LineTime::Wall(at("2026-10-25T02:30:00Z").0);
        check("Europe/Berlin", wall, "2026-10-25T00:30:01Z", "2026-10-25T00:30:00Z", false);
        check("Europe/Berlin", wall, "2026-10-25T01:30:01Z", "2026-10-25T01:30:00Z", false);
    }

    #[test]
    fn without_a_year_it_is_the_latest_that_is_not_a_day_ahead() {
        let day = |text: &str| LineTime::WallNoYear(at(text).0);
        check(
            "UTC",
            day("1972-11-20T12:00:00Z"),
            "2026-11-20T12:00:01Z",
            "2026-11-20T12:00:00Z",
            false,
        );
        check(
            "UTC",
            day("1972-12-31T23:59:59Z"),
            "2027-01-01T00:00:01Z",
            "2026-12-31T23:59:59Z",
            false,
        );
        check(
            "UTC",
            day("1972-02-29T12:00:00Z"),
            "2026-11-20T12:00:01Z",
            "2024-02-29T12:00:00Z",
            false,
        );
        // A little ahead is this year's, and filed under the time of reading.
        check(
            "UTC",
            day("1972-11-20T13:00:00Z"),
            "2026-11-20T12:00:00Z",
            "2026-11-20T12:00:00Z",
            true,
        );
    }

    #[test]
    fn a_line_from_the_future_is_filed_under_the_time_of_reading() {
        let ahead =
            |s: i64| LineTime::Instant { at: UnixMillis(1_000_000 + s * 1000), offset_s: 0 };
        let mut clock = EventClock::new(TimeZone::UTC);
        let now = UnixMillis(1_000_000);
        assert_eq!(clock.resolve(Some(ahead(5)), 0, now), (UnixMillis(1_005_000), false));
        assert_eq!(clock.resolve(Some(ahead(6)), 0, now), (now, true));
        assert_eq!(clock.resolve(Some(ahead(-6)), 2_500, now), (UnixMillis(996_500), false));
        assert_eq!(clock.resolve(None, 0, now), (now, false));
        assert_eq!(clock.resolve(Some(LineTime::Wall(i64::MAX)), 0, now), (now, true));
    }
}
