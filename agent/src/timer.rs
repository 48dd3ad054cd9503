//! Timers that wake their thread once, and at the same instant as all others.
//!
//! A timer of tokio wakes its thread on its way through the timer wheel as well, two or three times
//! for a wait of seconds; one of the kernel only when it is due. What is done again and again is tied
//! to whole multiples of the wall clock, so that everything that is due in a second costs one
//! wake-up together.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use wire::UnixMillis;

use crate::clock;

/// Shortest time between two ticks, whatever is asked for.
const STEP_MS_MIN: i64 = 100;
/// A part of a limit that ends this much too late was none: this process stood still meanwhile.
const STANDSTILL: Duration = Duration::from_millis(250);
/// So often a limit begins anew at most.
const STANDSTILLS_MAX: usize = 5;
/// A limit passes in so many parts, so that a standstill within it is seen as well.
const PARTS: u32 = 10;

/// One timer of the kernel; a tokio timer where it gives none.
#[derive(Debug)]
pub struct Timer {
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Timer {
    /// Must be called within the runtime that will wait for it.
    #[must_use]
    #[expect(
        deprecated,
        reason = "sound here: OwnedFd owns its descriptor; the successor is unsafe"
    )]
    #[expect(clippy::new_without_default, reason = "makes a kernel object, needs a runtime")]
    pub fn new() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(Into::into);
        let fd = fd.and_then(AsyncFd::new);
        if let Err(error) = &fd {
            tracing::info!(%error, "no timers of the kernel: the agent wakes more often");
        }
        Self { fd: fd.ok() }
    }

    /// Returns after `span`. Cancel-safe: the next wait begins anew.
    pub async fn wait(&mut self, span: Duration) {
        if self.arm(span) {
            self.fired().await;
        } else {
            tokio::time::sleep(span).await;
        }
    }

    /// Starts the timer anew; false when it cannot be used.
    fn arm(&mut self, span: Duration) -> bool {
        let Some(fd) = &self.fd else { return false };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A time of zero would stop it.
        let span = span.max(Duration::from_nanos(1));
        let Ok(value) = Timespec::try_from(span) else { return false };
        let once = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(fd, TimerfdTimerFlags::empty(), &once).is_ok()
    }

    /// Returns when the timer that was armed last is due.
    async fn fired(&mut self) {
        let Some(fd) = &self.fd else { return };
        let mut n_times = [0_u8; 8];
        while let Ok(mut guard) = fd.readable().await {
            let read = rustix::io::read(fd, &mut n_times);
            // It was armed to be due once, so nothing more comes before it is armed again.
            guard.clear_ready();
            match read {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                _ => return,
            }
        }
    }
}

/// Ticks at the wall clock's multiples of a span, the first time at once. Missed ticks are made up
/// for once, and a clock that is set is followed.
#[derive(Debug)]
pub struct Ticker {
    timer: Timer,
    every: Duration,
    last: Option<UnixMillis>,
    /// The timer runs for this instant already.
    armed: Option<UnixMillis>,
}

impl Ticker {
    /// Must be called within the runtime that will wait for it.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { timer: Timer::new(), every, last: None, armed: None }
    }

    /// Returns at the next tick. Cancel-safe: a tick that nobody waited for is made up for.
    pub async fn tick(&mut self) {
        let Some(last) = self.last else {
            self.last = Some(clock::now());
            return;
        };
        let due = next_due(last, clock::now(), self.every);
        let left = clock::until(due);
        if !left.is_zero() {
            if self.armed == Some(due) || self.timer.arm(left) {
                self.armed = Some(due);
                self.timer.fired().await;
            } else {
                tokio::time::sleep(left).await;
            }
        }
        self.armed = None;
        self.last = Some(due);
    }
}

/// What `future` comes to; `None` when it takes longer than `limit`.
///
/// When this process stood still, as all do where a machine is paused or short of processors, nothing
/// is known of how long the others took: then they get the whole time once more.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let part = limit / PARTS;
    let (mut left, mut n_standstills) = (limit, 0);
    loop {
        let span = part.max(Duration::from_millis(1)).min(left);
        let began = clock::instant();
        if let Ok(done) = tokio::time::timeout(span, future.as_mut()).await {
            return Some(done);
        }
        let is_standstill = clock::instant().saturating_duration_since(began) >= span + STANDSTILL;
        if is_standstill && n_standstills < STANDSTILLS_MAX {
            n_standstills += 1;
            left = limit;
        } else {
            left -= span;
        }
        if left.is_zero() {
            return None;
        }
    }
}

/// A limit of something that is there at once or never, in a test as long as a machine under load
/// may take.
pub const fn patience(limit: Duration) -> Duration {
    if cfg!(test) { Duration::from_secs(60) } else { limit }
}

/// Sleeps outside of the runtime, at most for `span_max`: what comes meanwhile is seen by the next
/// round anyway, and turning the runtime would cost more than reading a few lines.
#[expect(clippy::disallowed_methods, reason = "gathers writes; nothing is waited for")]
pub fn rest_until(until: Instant, span_max: Duration) {
    std::thread::sleep(until.saturating_duration_since(clock::instant()).min(span_max));
}

/// The instant due next: the latest multiple of `interval` up to `now` if it is past `last`, else
/// the next one. So missed instants are made up for once, and a clock set back starts anew.
pub fn next_due(last: UnixMillis, now: UnixMillis, interval: Duration) -> UnixMillis {
    let step = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(STEP_MS_MIN);
    let latest = now.0.div_euclid(step) * step;
    let missed = last.0 < latest;
    UnixMillis(if missed { latest } else { latest.saturating_add(step) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_due_at_wall_clock_multiples_and_missed_ones_are_skipped() {
        let check = |last: i64, now: i64, step_ms: u64, due: i64| {
            let step = Duration::from_millis(step_ms);
            let got = next_due(UnixMillis(last), UnixMillis(now), step);
            assert_eq!(got, UnixMillis(due), "last {last}, now {now}, every {step_ms}");
        };
        check(5_000, 12_345, 10_000, 10_000); // just passed, not sampled yet
        check(10_000, 12_345, 10_000, 20_000); // sampled: the next one
        check(10_000, 19_999, 10_000, 20_000); // a timer that fired early waits again
        check(10_000, 20_000, 10_000, 20_000);
        check(10_000, 57_000, 10_000, 50_000); // after a standstill: once, not four times
        check(10_000, 12_345, 1_000, 12_000); // sped up
        check(90_000, 12_345, 10_000, 20_000); // the clock was set back
    }

    #[tokio::test]
    async fn a_timer_is_due_after_its_span_and_can_be_used_again() {
        let mut timer = Timer::new();
        assert!(timer.fd.is_some(), "this kernel has timers");
        for span in [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(5)] {
            let began = clock::instant();
            timer.wait(span).await;
            assert!(began.elapsed() >= span, "{span:?}");
        }
        // Given up while it runs, and when it was due: the next wait is a whole one.
        for given_up in [Duration::from_millis(5), Duration::from_millis(40)] {
            let long = timer.wait(Duration::from_millis(20));
            drop(tokio::time::timeout(Duration::ZERO, long).await);
            tokio::time::sleep(given_up).await;
            let began = clock::instant();
            timer.wait(Duration::from_millis(30)).await;
            assert!(began.elapsed() >= Duration::from_millis(30), "{given_up:?}");
        }
    }

    /// A database on a machine that was paused for a second was told as down.
    #[tokio::test]
    async fn who_answers_after_a_standstill_of_our_own_is_not_late() {
        let limit = Duration::from_millis(400);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let other = tokio::spawn(async move {
            // Nobody runs, from the start of the limit to soon after it.
            rest_until(clock::instant() + 2 * STANDSTILL, 2 * STANDSTILL);
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            answer.send(7).unwrap();
        });
        assert_eq!(within(limit, answered).await, Some(Ok(7)));
        other.await.unwrap();
        let began = clock::instant();
        assert_eq!(within(limit, std::future::pending::<()>()).await, None);
        assert!(began.elapsed() >= limit);
    }

    #[tokio::test]
    async fn a_ticker_ticks_at_once_and_then_at_its_multiples() {
        let mut ticker = Ticker::new(Duration::from_millis(200));
        ticker.tick().await;
        let mut before = ticker.last.unwrap();
        for _ in 0..3 {
            // Given up once, as a select does.
            drop(tokio::time::timeout(Duration::ZERO, ticker.tick()).await);
            ticker.tick().await;
            let (instant, now) = (ticker.last.unwrap(), clock::now());
            assert_eq!(instant.0.rem_euclid(200), 0);
            // The clock may be slewed by some of a millisecond meanwhile.
            let is_due = instant.0 <= now.0 + 5;
            assert!(before < instant && is_due, "{before:?} {instant:?} {now:?}");
            before = instant;
        }
    }
}
