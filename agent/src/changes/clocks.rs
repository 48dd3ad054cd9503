//! Steps of the wall clock, and time the machine stood still, from three clocks read together. Pure.
//!
//! Slewing, as NTP does all day, moves the clock by at most 0.05 % and is neither.

use std::time::{Duration, Instant};

use wire::UnixMillis;

use crate::window::Change;

/// A step worth telling, ms.
const STEP_MS: i64 = 2000;

/// The clocks as they were at the last look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockWatch {
    /// Stands while the machine sleeps.
    monotonic: Instant,
    /// Goes on while the machine sleeps.
    since_boot: Duration,
    wall: UnixMillis,
}

impl ClockWatch {
    pub(crate) fn new(monotonic: Instant, since_boot: Duration, wall: UnixMillis) -> Self {
        Self { monotonic, since_boot, wall }
    }

    /// What became of the clocks since the last look: a pause, a step, both, or neither.
    ///
    /// A machine that its host stopped without a word wakes up with all clocks late: to us its clock is
    /// stepped when NTP mends it.
    pub(crate) fn look(
        &mut self,
        monotonic: Instant,
        since_boot: Duration,
        wall: UnixMillis,
    ) -> Vec<Change> {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let awake_ms = ms(monotonic.saturating_duration_since(self.monotonic));
        let real_ms = ms(since_boot.saturating_sub(self.since_boot));
        let wall_ms = wall.0.saturating_sub(self.wall.0);
        *self = Self::new(monotonic, since_boot, wall);
        let told = |what| Change::new("clock", what, wall);
        let mut changes = Vec::new();
        let paused_ms = real_ms.saturating_sub(awake_ms);
        if paused_ms >= STEP_MS {
            changes.push(told(format!("machine was paused for {} s", paused_ms / 1000)));
        }
        let step_ms = wall_ms.saturating_sub(real_ms.max(awake_ms));
        if step_ms.abs() >= STEP_MS {
            changes.push(told(format!("clock stepped by {:+.1} s", step_ms as f64 / 1000.0)));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn steps_and_pauses_are_told_apart_and_slewing_is_neither() {
        let start = clock::instant();
        let ms = Duration::from_millis;
        // What each clock went on by, in ms: monotonic, since boot, wall.
        let check = |awake: u64, real: u64, wall: i64, want: &[&str]| {
            let mut watch = ClockWatch::new(start, ms(5_000), UnixMillis(1_000_000));
            let at = UnixMillis(1_000_000 + wall);
            let told = watch.look(start + ms(awake), ms(5_000 + real), at);
            let words: Vec<_> = told.iter().map(|change| change.what.as_str()).collect();
            assert_eq!(words, want, "{awake} {real} {wall}");
            assert!(told.iter().all(|change| change.kind == "clock" && change.at == at));
            let again = watch.look(start + ms(awake + 500), ms(5_500 + real), at.plus(ms(500)));
            assert!(again.is_empty(), "told once: {again:?}");
        };
        check(1_000, 1_000, 1_000, &[]);
        check(1_000, 1_000, 1_001, &[]);
        check(100_000, 100_000, 100_050, &[]); // slewed at full speed
        check(1_000, 1_000, 2_999, &[]);
        check(1_000, 1_000, 3_601_000, &["clock stepped by +3600.0 s"]);
        check(1_000, 1_000, -59_000, &["clock stepped by -60.0 s"]);
        check(1_000, 13_400, 13_400, &["machine was paused for 12 s"]);
        check(1_000, 13_400, 1_000, &["machine was paused for 12 s", "clock stepped by -12.4 s"]);
        check(600_000, 600_000, 600_000, &[]); // a machine that was starved for minutes
        check(0, 0, i64::MAX - 1_000_000 - 500, &["clock stepped by +9223372036853776.0 s"]);
    }
}
