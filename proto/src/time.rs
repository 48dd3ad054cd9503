//! Wall time as both programs carry it: milliseconds since the Unix epoch, UTC.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC. Printed and parsed as RFC 3339 with milliseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The second this instant lies in, seconds since the epoch.
    #[must_use]
    pub fn second(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The first instant of a second.
    #[must_use]
    pub fn from_second(second: i64) -> Self {
        Self(second.saturating_mul(1000))
    }

    /// Time since `earlier`; zero when `earlier` is the later one.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant plus a span, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This instant minus a span, saturating.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-20T12:01:07.000Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => format!("{instant:.3}"),
            Err(_) => format!("out of range: {} ms", self.0),
        }
    }

    /// Reads RFC 3339 with an offset or `Z`; `None` when it is something else.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Self(t.as_millisecond()))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// For `#[serde(with = "wire::rfc3339")]` on fields that JSON shows as RFC 3339.
pub mod rfc3339 {
    use super::UnixMillis;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the instant as text.
    pub fn serialize<S: Serializer>(at: &UnixMillis, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&at.to_rfc3339())
    }

    /// Reads the instant from text.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<UnixMillis, D::Error> {
        let text = String::deserialize(d)?;
        UnixMillis::parse_rfc3339(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not an RFC 3339 time")))
    }

    /// The same for `Option<UnixMillis>`; `null` when absent.
    pub mod option {
        use super::UnixMillis;
        use serde::{Deserialize, Deserializer, Serializer, de::Error};

        /// Writes the instant as text, or null.
        pub fn serialize<S: Serializer>(at: &Option<UnixMillis>, s: S) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => s.serialize_str(&at.to_rfc3339()),
                None => s.serialize_none(),
            }
        }

        /// Reads the instant from text, or null.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            d: D,
        ) -> Result<Option<UnixMillis>, D::Error> {
            let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
            UnixMillis::parse_rfc3339(&text)
                .map(Some)
                .ok_or_else(|| D::Error::custom(format!("{text:?} is not an RFC 3339 time")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_with_milliseconds_and_come_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_795_176_067_000, "2026-11-20T12:01:07.000Z"),
            (1_795_176_067_042, "2026-11-20T12:01:07.042Z"),
        ] {
            assert_eq!(UnixMillis(ms).to_rfc3339(), text);
            assert_eq!(UnixMillis::parse_rfc3339(text), Some(UnixMillis(ms)));
        }
        assert_eq!(UnixMillis(-1).second(), -1);
    }
}
