//! When every file and configuration is looked at, whatever inotify says. Pure.
//!
//! Looks come with each second of the wall clock. When samples are taken each second, the first that
//! comes wakes the thread and takes the look along; it is only woken for the look itself a little
//! later. Nothing but what inotify cannot see depends on them.

use std::time::{Duration, Instant};

use wire::UnixMillis;

/// From the second to the waking for its look: time for the samples to come first.
const LAG: Duration = Duration::from_millis(100);
/// The thread is awake, and the last look is longer ago than this: no need to wait for the second.
const GAP: Duration = Duration::from_millis(900);
/// A look less than this before a second stands for that of the second.
const GAP_MS_MIN: i64 = 500;
/// Time between looks without inotify.
const POLL_GAP: Duration = Duration::from_millis(250);
/// Time between looks at globs and configuration files: new logs are followed within 2 s.
pub(super) const REFRESH_GAP: Duration = Duration::from_millis(1700);
/// A glob that matches very many files is expanded less often: this many times its work apart.
const EXPANDING_REST: u32 = 200;
/// Discovery only follows a change, and of all the time that looks take most is waiting: 200 ms of it
/// still leave 2 s.
const WHOLE_REST: u32 = 8;

/// When the next look is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// From here on whatever wakes the thread takes it along.
    pub(super) early: Instant,
    /// Here the thread is woken for it.
    pub(super) at: Instant,
}

/// After a look at `last`, which is `at` on the wall clock. `refresh`: when globs are due, which
/// waits for no second, so that new logs are followed in time.
///
/// `is_blind`: events may be missing, and looks are all there is.
pub(super) fn after(
    last: Instant,
    at: UnixMillis,
    refresh: Option<Instant>,
    is_blind: bool,
) -> Due {
    if is_blind {
        return Due::both(last + POLL_GAP);
    }
    let mut gap_ms = 1000 - at.0.rem_euclid(1000);
    if gap_ms < GAP_MS_MIN {
        gap_ms += 1000;
    }
    let second = last + Duration::from_millis(gap_ms.unsigned_abs());
    let refresh = refresh.unwrap_or(last);
    Due { early: second.min(last + GAP).min(refresh), at: (second + LAG).min(refresh) }
}

/// How long globs and configuration rest after a look that took `whole`, and the processor for
/// `expanding` of it.
///
/// By the processor, since a machine that stands still for a second matches no more files than before.
pub(super) fn refresh_gap(expanding: Duration, whole: Duration) -> Duration {
    REFRESH_GAP.max(expanding * EXPANDING_REST).max(whole * WHOLE_REST)
}

impl Due {
    /// Nothing takes it along before.
    pub(super) fn both(at: Instant) -> Self {
        Self { early: at, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn looks_come_with_the_seconds_and_globs_whenever_they_are_due() {
        let last = clock::instant();
        let ms = |n: u64| last + Duration::from_millis(n);
        let check = |at: i64, refresh: Option<u64>, early: u64, late: u64| {
            let due = after(last, UnixMillis(at), refresh.map(ms), false);
            assert_eq!(due, Due { early: ms(early), at: ms(late) }, "{at} {refresh:?}");
        };
        check(7_000, Some(1700), 900, 1100);
        check(7_100, Some(1700), 900, 1000); // woken for it: the next sample takes it along
        check(7_400, Some(1700), 600, 700);
        check(7_501, Some(1700), 900, 1599); // stands for the look of the next second
        check(7_000, Some(700), 700, 700);
        check(7_000, Some(1010), 900, 1010);
        check(7_000, None, 0, 0);
        assert_eq!(after(last, UnixMillis(7), Some(ms(1700)), true), Due::both(ms(250)));
    }

    /// After a second without a processor no new log was followed for more than three minutes.
    #[test]
    fn a_machine_that_stood_still_for_a_second_follows_new_logs_soon_after() {
        let ms = Duration::from_millis;
        for (expanding, whole, gap) in [
            (0, 0, 1_700),
            (5, 10, 1_700),
            (5, 200, 1_700),
            (5, 1_000, 8_000),
            (500, 500, 100_000), // very many files
        ] {
            assert_eq!(refresh_gap(ms(expanding), ms(whole)), ms(gap), "{expanding} {whole}");
        }
    }
}
