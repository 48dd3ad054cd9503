//! Series with gaps, made safe to reckon with. Pure.

/// Values at even steps, oldest first, each within -1..=1, and what they were divided by.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// `None` where nothing is known.
    pub(super) values: Vec<Option<f64>>,
    /// What a value of 1 is.
    pub(super) unit: f64,
}

impl Series {
    /// The last `n_max` of these without the unknown ones before the first that is known. What is not
    /// finite is unknown.
    pub(super) fn new(values: &[Option<f64>], n_max: usize) -> Self {
        let known = |value: &Option<f64>| value.filter(|value| value.is_finite());
        let tail = &values[values.len().saturating_sub(n_max)..];
        let first = tail.iter().position(|value| known(value).is_some()).unwrap_or(tail.len());
        let tail: Vec<Option<f64>> = tail[first..].iter().map(known).collect();
        let largest = tail.iter().flatten().fold(0.0_f64, |most, value| most.max(value.abs()));
        // A unit below the least normal number would lose digits; all such values are as good as 0.
        let unit = if largest < f64::MIN_POSITIVE { 1.0 } else { largest };
        let values = tail.iter().map(|value| value.map(|value| value / unit)).collect();
        Self { values, unit }
    }

    /// How many of the values are known.
    pub(super) fn n_known(&self) -> usize {
        self.values.iter().flatten().count()
    }
}

/// The value below which a share `q` of `values` lies, between neighbours by their distance; sorts them.
/// `None` of nothing.
pub(super) fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    values.sort_unstable_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

/// Half of `values` lie below; reorders them, in linear time.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let (below, &mut middle, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 {
        return Some(middle);
    }
    let other = below.iter().copied().max_by(f64::total_cmp)?;
    Some(f64::midpoint(middle, other))
}

/// Mean of the absolute differences of values `step` apart, over those pairs that are known: what an error
/// is scaled by. `None`: there is no such pair.
pub(super) fn naive_error(values: &[Option<f64>], step: usize) -> Option<f64> {
    let pairs = values.iter().zip(values.get(step..)?);
    let (mut sum, mut n) = (0.0, 0_u32);
    for (before, after) in pairs.filter_map(|(a, b)| a.zip(*b)) {
        sum += (after - before).abs();
        n += 1;
    }
    (n > 0).then(|| sum / f64::from(n))
}
