//! How much the owner of one document root can make the agent tell; pure.

use wire::UnixMillis;

use crate::window::Change;

/// Changes at once.
pub(super) const AT_ONCE_MAX: usize = 20;
/// Time in which one more may be told, ms: 20 an hour.
const REFILL_MS: i64 = 180_000;

/// A bucket that holds `AT_ONCE_MAX` changes and fills by one each `REFILL_MS`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Quota {
    /// When it is full again, ms.
    full_at: i64,
    n_untold: usize,
}

impl Quota {
    /// Leaves as many changes as may be told now. With a number, the last one that may be told is the
    /// sum of those that are not.
    pub(super) fn cut(&mut self, changes: &mut Vec<Change>, now: UnixMillis) -> Option<usize> {
        self.full_at = self.full_at.clamp(now.0, now.0 + REFILL_MS * AT_ONCE_MAX as i64);
        let n_missing = ((self.full_at - now.0 + REFILL_MS - 1) / REFILL_MS) as usize;
        let n_left = AT_ONCE_MAX.saturating_sub(n_missing);
        if self.n_untold == 0 && changes.len() <= n_left {
            self.full_at += REFILL_MS * changes.len() as i64;
            return None;
        }
        let n_told = changes.len().min(n_left.saturating_sub(1));
        self.n_untold += changes.len() - n_told;
        changes.truncate(n_told);
        if n_left == 0 {
            return None;
        }
        self.full_at += REFILL_MS * (n_told as i64 + 1);
        Some(std::mem::take(&mut self.n_untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_who_edits_all_the_time_is_told_twenty_times_an_hour_and_nothing_is_left_out() {
        let mut quota = Quota::default();
        let change = Change::new("config", ".htaccess".to_owned(), UnixMillis(0));
        let mut told = |second: i64, n: usize| {
            let mut changes = vec![change.clone(); n];
            let sum = quota.cut(&mut changes, UnixMillis(second * 1000));
            (changes.len(), sum)
        };
        assert_eq!(told(0, 3), (3, None));
        assert_eq!(told(6, 0), (0, None));
        assert_eq!(told(12, 20), (16, Some(4)), "17 were left");
        assert_eq!(told(18, 5), (0, None));
        assert_eq!(told(24, 0), (0, None));
        assert_eq!(told(180, 0), (0, Some(5)), "one may be told again");
        // For a day, two changes at each visit.
        let (mut n_told, mut n_summed) = (0, 0);
        for visit in 0..14_400 {
            let (n, sum) = told(200 + visit * 6, 2);
            n_told += n + usize::from(sum.is_some());
            n_summed += n + sum.unwrap_or(0);
        }
        assert!((470..=500).contains(&n_told), "{n_told} in 24 hours");
        assert!(n_summed >= 28_800 - 62, "{n_summed}: those since the last sum wait");
        // A quiet day fills it, and no more than that.
        assert_eq!(told(200_000, 0).0, 0);
        assert_eq!(told(290_000, 30), (19, Some(11)));
        // A clock that was set back.
        assert_eq!(told(0, 1), (0, None));
        assert_eq!(told(180, 0), (0, Some(1)));
    }
}
