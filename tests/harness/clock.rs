//! The only reader of the clock in the tests.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time, milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Wall-clock time, whole seconds since the epoch.
#[must_use]
pub fn now_s() -> i64 {
    now_ms().div_euclid(1000)
}

/// Monotonic time, for limits and benchmarks.
#[must_use]
pub fn instant() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    Instant::now()
}
