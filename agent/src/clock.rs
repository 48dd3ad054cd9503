//! The only reader of the clock in the agent: everything else takes time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wire::UnixMillis;

/// Wall-clock time now.
#[must_use]
pub fn now() -> UnixMillis {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let now = SystemTime::now();
    let ms = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
    UnixMillis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Time left until the wall clock shows `at`; zero when it is past.
#[must_use]
pub fn until(at: UnixMillis) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(at.0.max(0).unsigned_abs()).saturating_sub(now)
}

/// Monotonic time, for intervals.
#[must_use]
pub fn instant() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    Instant::now()
}

/// Time since the machine was booted, that included in which it slept.
#[must_use]
pub fn since_boot() -> Duration {
    read(rustix::time::ClockId::Boottime)
}

/// Processor time that this thread has used.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    read(rustix::time::ClockId::ThreadCPUTime)
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanoseconds)
}
