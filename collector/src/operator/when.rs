//! Times that people type: `2026-11-20T22:00:00Z`, `2h`, or `22:00` on this machine's clock.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use wire::UnixMillis;
use wire::units::Span;

use crate::notify::digest::Times;
use crate::notify::hours;

/// A time to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// An instant.
    At(UnixMillis),
    /// So long after the begin.
    After(Span),
    /// When clocks show this the next time.
    Clock(Time),
}

impl When {
    /// `Err` says what is wrong, with an example of each kind.
    pub fn parse(text: &str) -> Result<Self, String> {
        let instant = UnixMillis::parse_rfc3339(text).map(Self::At);
        let clock = || hours::time(text).map(Self::Clock);
        let span = || text.parse().ok().map(Self::After);
        instant.or_else(clock).or_else(span).ok_or_else(|| {
            format!(
                "{text:?} is neither a time like \"2026-11-20T12:00:00Z\" or \"22:00\" nor a span like \"1h\""
            )
        })
    }

    /// The instant, counted from `base`, clocks showing the time of `zone`.
    #[must_use]
    pub fn instant(self, base: UnixMillis, zone: &TimeZone) -> UnixMillis {
        match self {
            Self::At(at) => at,
            Self::After(span) => base.plus(span.0),
            Self::Clock(time) => Times::daily(time, zone.clone()).next(base).unwrap_or(base),
        }
    }

    /// How a clock time was taken, with its day and zone; `None` of what says that by itself.
    #[must_use]
    pub fn taken(self, base: UnixMillis, zone: &TimeZone) -> Option<String> {
        let Self::Clock(time) = self else { return None };
        let at = hours::zoned(self.instant(base, zone), zone);
        Some(format!("{} is taken as {}", time.strftime("%H:%M"), at.strftime("%F %H:%M %Z (%:z)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_time_is_the_next_such_time_of_this_machines_zone() {
        let at = |text: &str| UnixMillis::parse_rfc3339(text).unwrap();
        for (typed, base, zone, expected) in [
            ("22:00", "2026-11-20T12:00:00Z", "UTC", "2026-11-20T22:00:00.000Z"),
            ("22:00", "2026-11-20T22:00:00Z", "UTC", "2026-11-21T22:00:00.000Z"),
            ("6:05", "2026-11-20T12:00:00Z", "Europe/Berlin", "2026-11-21T05:05:00.000Z"),
            // Berlin leaves out 02:00 to 03:00 of that night, and has it twice in the other one.
            ("02:30", "2026-03-28T12:00:00Z", "Europe/Berlin", "2026-03-29T01:30:00.000Z"),
            ("02:30", "2026-10-24T12:00:00Z", "Europe/Berlin", "2026-10-25T00:30:00.000Z"),
            ("2h", "2026-11-20T12:00:00Z", "Europe/Berlin", "2026-11-20T14:00:00.000Z"),
            (
                "2026-11-20T13:00:00+01:00",
                "2026-11-20T10:00:00Z",
                "UTC",
                "2026-11-20T12:00:00.000Z",
            ),
        ] {
            let zone = TimeZone::get(zone).unwrap();
            let when = When::parse(typed).unwrap();
            assert_eq!(when.instant(at(base), &zone).to_rfc3339(), expected, "{typed} {base}");
        }
        for bad in ["24:00", "22:60", "22:0x", "22", "", "tomorrow", "-1:00"] {
            assert!(When::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_clock_time_says_its_day_and_zone() {
        let (base, zone) = (UnixMillis(1_795_176_067_000), TimeZone::get("Europe/Berlin").unwrap());
        let taken = |text: &str| When::parse(text).unwrap().taken(base, &zone);
        assert_eq!(taken("22:00").unwrap(), "22:00 is taken as 2026-11-20 22:00 CET (+01:00)");
        assert_eq!((taken("2h"), taken("2026-11-20T22:00:00Z")), (None, None));
    }
}
