//! Seasons of a day and a week taken apart by MSTL, and what is left carried on: one of the forecasters.
//! Pure; about a millisecond for eight weeks.
//!
//! The rest is carried on flat, at the median of four levels: of the last day, three days and week, and an
//! exponentially smoothed one. The ETS models of the same library take much longer and were not compared.

use std::borrow::Cow;
use std::error::Error;

use augurs::mstl::{FittedTrendModel, MSTLModel, TrendModel, stlrs};
use augurs::{Fit as _, Forecast, Predict as _};

use super::five::profile;
use super::series::median;
use super::{DAY_H, WEEK_H};

type Carried<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Weight of the newest value in the smoothed level.
const ALPHA: f64 = 0.05;
/// Hours that the other levels are made of.
const LEVELS_H: [usize; 3] = [24, 72, 168];
/// Seasons are smoothed at each of so many hours and drawn straight between; trends at ten times that.
const JUMP: usize = 5;

/// The `n` hours after `past`, whose values lie within -1..=1. `None`: less than two weeks of it, or
/// nothing known.
pub(super) fn mstl(past: &[Option<f64>], n: usize) -> Option<Vec<f64>> {
    let values = filled(past)?;
    if values.len() < 2 * WEEK_H {
        return None;
    }
    let mut stl = stlrs::params();
    stl.seasonal_jump(JUMP).trend_jump(10 * JUMP).low_pass_jump(10 * JUMP);
    let mut params = stlrs::MstlParams::new();
    params.stl_params(stl).iterations(1);
    let model = MSTLModel::new(vec![DAY_H, WEEK_H], Levels).mstl_params(params);
    let told = model.fit(&values).ok()?.predict(n, None).ok()?.point;
    (told.len() == n && told.iter().all(|value| value.is_finite())).then_some(told)
}

/// Gaps get the median of their hour of the day.
fn filled(past: &[Option<f64>]) -> Option<Vec<f64>> {
    let level = median(&mut past.iter().flatten().copied().collect::<Vec<f64>>())?;
    let day = profile(past, DAY_H, |_| level);
    let first = DAY_H - past.len() % DAY_H;
    let told = past.iter().enumerate();
    Some(told.map(|(ix, value)| value.unwrap_or(day[(first + ix) % DAY_H])).collect())
}

/// Carries what is left without seasons on, flat.
#[derive(Debug)]
struct Levels;

/// The level that is carried on.
#[derive(Debug)]
struct Level {
    value: f64,
    n: usize,
}

impl TrendModel for Levels {
    fn name(&self) -> Cow<'_, str> {
        Cow::Borrowed("median of four levels")
    }

    fn fit(&self, rest: &[f64]) -> Carried<Box<dyn FittedTrendModel + Sync + Send>> {
        let smooth = rest.iter().copied().reduce(|level, value| level + ALPHA * (value - level));
        let newest = |n| median(&mut rest[rest.len().saturating_sub(n)..].to_vec());
        let mut levels: Vec<f64> = LEVELS_H.into_iter().filter_map(newest).chain(smooth).collect();
        let value = median(&mut levels).ok_or("nothing is left")?;
        Ok(Box::new(Level { value, n: rest.len() }))
    }
}

impl FittedTrendModel for Level {
    fn predict_inplace(&self, n: usize, _: Option<f64>, told: &mut Forecast) -> Carried<()> {
        told.point = vec![self.value; n];
        Ok(())
    }

    fn predict_in_sample_inplace(&self, _: Option<f64>, told: &mut Forecast) -> Carried<()> {
        told.point = vec![self.value; self.n];
        Ok(())
    }

    fn training_data_size(&self) -> Option<usize> {
        Some(self.n)
    }
}
