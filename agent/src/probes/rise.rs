//! How much a counter of the kernel rose between two looks. Pure.
//!
//! Counters begin anew with a boot, also that of a container, and some are 32 bits wide on every
//! kernel (times of /proc/diskstats) or on old ones, and start again at 0 when they are full.

/// A counter that was closer than this to its 32 bits' end and is below this now went past it.
const NEAR_END: u64 = 1 << 30;
const END: u64 = 1 << 32;

/// The rise from `last` to `now`; `None` when the counter began anew.
pub(crate) fn rise(last: u64, now: u64) -> Option<u64> {
    let wrapped = (END - NEAR_END..END).contains(&last) && now < NEAR_END;
    now.checked_sub(last).or_else(|| wrapped.then(|| END - last + now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_counter_goes_on_and_one_that_began_anew_says_nothing() {
        let check = |last: u64, now: u64, want| assert_eq!(rise(last, now), want, "{last} {now}");
        check(5, 12, Some(7));
        check(5, 5, Some(0));
        check(4_294_967_290, 4, Some(10)); // 32 bits were full
        check(4_294_967_295, 0, Some(1));
        check(4_294_967_290, 2_000_000_000, None); // too far for one interval
        check(1_000_000, 12, None); // a boot
        check(u64::MAX, 3, None);
        check(0, u64::MAX, Some(u64::MAX));
    }
}
