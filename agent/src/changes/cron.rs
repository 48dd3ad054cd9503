//! When a line of a crontab runs; pure.

use jiff::civil::DateTime;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Five fields of a crontab as sets of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are restricted: then either is enough.
    is_either_day: bool,
}

impl Cron {
    /// `25 6 * * 1-5` -> when; `None` when only the daemon knows (`@reboot`, a random minute) or it is
    /// none.
    pub(super) fn parse(fields: [&str; 5]) -> Option<Self> {
        let [minutes, hours, days, months, weekdays] = fields;
        let is_restricted = |field: &str| !field.starts_with('*');
        let week = set(weekdays, 0, 7, &WEEKDAYS, 0)?;
        Some(Self {
            minutes: set(minutes, 0, 59, &[], 0)?,
            hours: set(hours, 0, 23, &[], 0)?,
            days: set(days, 1, 31, &[], 0)?,
            months: set(months, 1, 12, &MONTHS, 1)?,
            // Sunday is 0 and 7.
            weekdays: (week | week >> 7) & 0x7f,
            is_either_day: is_restricted(days) && is_restricted(weekdays),
        })
    }

    /// `@daily` and the like.
    pub(super) fn named(name: &str) -> Option<Self> {
        let fields = match name {
            "@hourly" => ["0", "*", "*", "*", "*"],
            "@daily" | "@midnight" => ["0", "0", "*", "*", "*"],
            "@weekly" => ["0", "0", "*", "*", "0"],
            "@monthly" => ["0", "0", "1", "*", "*"],
            "@yearly" | "@annually" => ["0", "0", "1", "1", "*"],
            _ => return None,
        };
        Self::parse(fields)
    }

    /// True when it starts in this minute of the wall clock.
    pub(super) fn runs_at(&self, at: DateTime) -> bool {
        let has = |set: u64, value: i8| u32::try_from(value).is_ok_and(|bit| set >> bit & 1 == 1);
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        let is_day = if self.is_either_day { day || weekday } else { day && weekday };
        is_day
            && has(self.months, at.month())
            && has(self.hours, at.hour())
            && has(self.minutes, at.minute())
    }

    /// How often it runs on a day on which it does.
    pub(super) fn n_a_day(&self) -> u32 {
        self.minutes.count_ones() * self.hours.count_ones()
    }
}

/// `1,5-10/2,mon` as bits.
fn set(field: &str, low: u32, high: u32, names: &[&str], names_from: u32) -> Option<u64> {
    let value = |text: &str| {
        let by_name = || {
            let at = names.iter().position(|name| text.eq_ignore_ascii_case(name))?;
            Some(u32::try_from(at).ok()? + names_from)
        };
        let is_number = text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if is_number { text.parse().ok() } else { by_name() };
        number.filter(|value| (low..=high).contains(value))
    };
    let mut bits = 0;
    for item in field.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
            None => (item, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (value(from)?, value(to)?),
            None => {
                let from = value(range)?;
                // `5/10` goes on to the end.
                (from, if step == 1 { from } else { high })
            }
        };
        if from > to {
            return None;
        }
        for value in (from..=to).step_by(step) {
            bits |= 1 << value;
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Cron> {
        let fields: Vec<&str> = text.split(' ').collect();
        Cron::parse(fields.try_into().unwrap())
    }

    /// 2026-11-30 is a Monday.
    fn check(text: &str, at: &str, want: bool) {
        let cron = parse(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(cron.runs_at(at.parse().unwrap()), want, "{text} at {at}");
    }

    #[test]
    fn fields_are_numbers_names_lists_ranges_and_steps() {
        check("25 6 * * *", "2026-11-30T06:25", true);
        check("25 6 * * *", "2026-11-30T06:26", false);
        check("*/15 * * * *", "2026-11-30T11:45", true);
        check("*/15 * * * *", "2026-11-30T11:46", false);
        check("5-20/5 1,13 * * *", "2026-11-30T13:15", true);
        check("5-20/5 1,13 * * *", "2026-11-30T13:25", false);
        check("10/20 * * * *", "2026-11-30T13:50", true);
        check("0 0 * Nov Mon-fri", "2026-11-30T00:00", true);
        check("0 0 * dec *", "2026-11-30T00:00", false);
        check("0 0 * * 7", "2026-11-29T00:00", true);
        check("0 0 * * 0", "2026-11-29T00:00", true);
        check("0 0 * * 6-7", "2026-11-29T00:00", true);
    }

    #[test]
    fn two_restricted_days_are_alternatives() {
        check("0 0 13 * 1", "2026-11-30T00:00", true);
        check("0 0 13 * 1", "2026-11-13T00:00", true);
        check("0 0 13 * 1", "2026-11-14T00:00", false);
        check("0 0 13 * *", "2026-11-30T00:00", false);
        check("0 0 * * 1", "2026-11-13T00:00", false);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "*/0 * * * *",
            "5-1 * * * *",
            "H * * * *",
            "1~9 * * * *",
            "a * * * *",
            ", * * * *",
            "+5 * * * *",
            "* * * * monday",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(Cron::named("@reboot"), None);
        assert_eq!(Cron::named("@daily"), parse("0 0 * * *"));
        assert_eq!(parse("*/15 * * * *").unwrap().n_a_day(), 96);
    }
}
