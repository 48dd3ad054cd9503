//! What comes: the next week by hours, the day a disk is full, next week's p95. Pure.
//!
//! Each answer has an interval that holds the truth in eight of ten cases, learned from how wrong the same
//! method was on the past of the same series and of the fleet. Where the past does not support an answer,
//! a [`Refusal`] says why. Invariant: no input panics, and every number told is finite.

mod backtest;
mod five;
mod full;
mod mstl;
mod next;
mod rhythm;
mod series;
#[cfg(test)]
mod tests;
mod week;

pub use backtest::{Errors, Method};
pub use five::median_of_five;
pub use full::{FULL_DAYS_MAX, Filling, Ratios, days_to_full};
pub use next::{Day, Next, Rises, next_p95};
pub use week::{Pool, Week, fleet, week};

/// Hours of a week, and how far [`week`] looks.
pub const WEEK_H: usize = 168;
/// Hours of a day.
pub const DAY_H: usize = 24;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing was sampled.
    Nothing,
    /// The samples span too little time.
    TooShort,
    /// Too little of that time has samples.
    TooManyGaps,
    /// Nothing was sampled lately.
    TooOld,
}

impl Refusal {
    /// Said in the place of the answer.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "no samples",
            Self::TooShort => "too short a history",
            Self::TooManyGaps => "too many gaps in the history",
            Self::TooOld => "no samples of the last days",
        }
    }
}

/// A number that is not sure yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Expected {
    /// Nine of ten outcomes are above.
    pub low: f64,
    /// The likeliest.
    pub mid: f64,
    /// Nine of ten outcomes are below.
    pub high: f64,
}

impl Expected {
    /// The same in another unit, or kept within a range: `f` must not fall.
    #[must_use]
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { low: f(self.low), mid: f(self.mid), high: f(self.high) }
    }
}
