//! Series of virtual machines of hosting whose future is known, made hard on purpose.
//!
//! Processors: a lognormal base; a rhythm of the day of two harmonics with the peak at any hour, and quieter
//! or busier weekends, of any strength down to none; noise that multiplies and lasts (AR(1)); drift; bursts
//! at Poisson times with heights of a Pareto tail; jobs at fixed hours of the day or week that at times are
//! left out; shifts of the level every some weeks to stay; some weeks of a campaign. Memory: a high base
//! that wanders, leaks and falls back at restarts, with a weak rhythm. Disks: growth by a rate that changes,
//! with noise, a sawtooth of rotated logs, clean-ups and uploads. Hours are lost one by one and in gaps.

use std::f64::consts::TAU;

/// SplitMix64: the same series from the same seed, on any machine.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    /// 0..1.
    pub(crate) fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.share()
    }

    pub(crate) fn is(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// Standard normal.
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.share()).ln()).sqrt() * (TAU * self.share()).cos()
    }

    /// At least 1, with the tail `1 / x^alpha`.
    fn pareto(&mut self, alpha: f64) -> f64 {
        (1.0 - self.share()).powf(-1.0 / alpha).min(100.0)
    }
}

const DAY_H: usize = 24;
const WEEK_H: usize = 168;
/// Half a year is lived through before a series is told: from its start it would only rise away.
const BEFORE_H: usize = 26 * WEEK_H;

/// Shape of a day: two harmonics, about -1..1.
fn rhythm(chance: &mut Chance) -> impl Fn(usize) -> f64 + use<> {
    let (peak, second, twice) =
        (chance.within(0.0, 24.0), chance.within(0.0, 24.0), chance.within(0.0, 0.6));
    move |hour| {
        let at = hour as f64;
        ((at - peak) / 24.0 * TAU).cos() + twice * ((at - second) / 12.0 * TAU).cos()
    }
}

/// Busy share of the processors of server `seed`, hour by hour.
pub(crate) fn cpu(seed: u64, n: usize) -> Vec<Option<f64>> {
    let mut chance = Chance::new(seed);
    let of_day = rhythm(&mut chance);
    let base = (-2.3 + 0.9 * chance.normal()).exp().clamp(0.005, 0.6);
    let swing = if chance.is(0.3) { chance.within(0.0, 0.1) } else { chance.within(0.1, 0.9) };
    let weekend = if chance.is(0.4) { 1.0 } else { chance.within(0.4, 1.2) };
    let (lasts, noise) = (chance.within(0.6, 0.98), chance.within(0.03, 0.3));
    let drift = if chance.is(0.6) { 0.0 } else { 0.006 * chance.normal() / DAY_H as f64 };
    let bursts = if chance.is(0.3) { 0.0 } else { chance.within(0.0, 0.06) };
    let shifts = 1.0 / (chance.within(2.0, 10.0) * WEEK_H as f64);
    let job = chance.is(0.5).then(|| (chance.within(0.0, 24.0) as usize, chance.within(0.05, 0.5)));
    let weekly =
        chance.is(0.3).then(|| (chance.within(0.0, 168.0) as usize, chance.within(0.1, 0.6)));
    let (mut level, mut wander, mut burst, mut campaign) = (base, 0.0, 0.0, 1.0);
    let mut values = Vec::with_capacity(n);
    for hour in 0..BEFORE_H + n {
        if chance.is(shifts) {
            // Around the base, so that years of shifts do not lead anywhere.
            level = (base * (0.9 * chance.normal()).exp()).clamp(0.003, 0.8);
        }
        if chance.is(1.0 / (3.0 * WEEK_H as f64)) {
            campaign = if campaign > 1.0 { 1.0 } else { chance.within(1.2, 2.5) };
        }
        level *= 1.0 + drift;
        wander = lasts * wander + noise * (1.0_f64 - lasts * lasts).sqrt() * chance.normal();
        burst = if chance.is(bursts) { 0.5 * base * chance.pareto(1.3) } else { burst * 0.5 };
        let day = if hour / DAY_H % 7 >= 5 { weekend } else { 1.0 };
        let jobs =
            [job.map(|(at, size)| (DAY_H, at, size)), weekly.map(|(at, size)| (WEEK_H, at, size))];
        let jobs = jobs.iter().flatten().filter(|(period, at, _)| hour % period == *at);
        let jobs: f64 = jobs.map(|(_, _, size)| size).sum();
        let jobs = if chance.is(0.1) { 0.0 } else { jobs * chance.within(0.8, 1.2) };
        let value = level * campaign * day * (1.0 + swing * of_day(hour)).max(0.05) * wander.exp();
        values.push(Some((value + burst + jobs).clamp(0.001, 1.0)));
    }
    values.drain(..BEFORE_H);
    lose(&mut chance, &mut values);
    values
}

/// Share of the memory in use of server `seed`, hour by hour.
pub(crate) fn memory(seed: u64, n: usize) -> Vec<Option<f64>> {
    let mut chance = Chance::new(seed ^ 0xA5A5_0000);
    let of_day = rhythm(&mut chance);
    let mut level = chance.within(0.15, 0.85);
    let swing = chance.within(0.0, 0.05);
    let weekend = chance.within(-0.03, 0.02);
    let (noise, lasts) = (chance.within(0.003, 0.04), chance.within(0.3, 0.95));
    let walk = chance.within(0.0, 0.0006);
    let leak = if chance.is(0.3) { chance.within(0.0001, 0.0003) } else { 0.0 };
    let restarts = 1.0 / (chance.within(1.0, 6.0) * WEEK_H as f64);
    let shifts = 1.0 / (chance.within(12.0, 80.0) * WEEK_H as f64);
    let (mut wander, mut leaked) = (0.0, 0.0);
    let mut values = Vec::with_capacity(n);
    for hour in 0..BEFORE_H + n {
        if chance.is(restarts) {
            leaked = 0.0;
        }
        if chance.is(shifts) {
            level = (level + 0.1 * chance.normal()).clamp(0.1, 0.9);
        }
        level = (level + walk * chance.normal()).clamp(0.08, 0.95);
        leaked += leak;
        wander = lasts * wander + noise * (1.0_f64 - lasts * lasts).sqrt() * chance.normal();
        let day = if hour / DAY_H % 7 >= 5 { weekend } else { 0.0 };
        values.push(Some((level + leaked + day + swing * of_day(hour) + wander).clamp(0.02, 0.99)));
    }
    values.drain(..BEFORE_H);
    lose(&mut chance, &mut values);
    values
}

/// Loses one hour in 200, and at times some days.
fn lose(chance: &mut Chance, values: &mut [Option<f64>]) {
    let rate = if chance.is(0.3) { 1.0 / (6.0 * WEEK_H as f64) } else { 0.0 };
    let mut lost = 0;
    for value in values {
        if chance.is(rate) {
            lost = chance.within(6.0, 96.0) as usize;
        }
        if lost > 0 || chance.is(0.005) {
            *value = None;
        }
        lost = lost.saturating_sub(1);
    }
}

/// Busy share of the processors in each minute of hours with these means.
pub(crate) fn minutes(seed: u64, hours: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut chance = Chance::new(seed ^ 0x5A5A_0000);
    let spread = chance.within(0.1, 0.6);
    let mut minutes = Vec::with_capacity(hours.len() * 60);
    let mut wander = 0.0_f64;
    for hour in hours {
        for _ in 0..60 {
            wander = 0.8 * wander + 0.6 * spread * chance.normal();
            let value = hour.map(|mean| (mean * (wander - spread * spread / 2.0).exp()).min(1.0));
            minutes.push(value);
        }
    }
    minutes
}

/// How full the disk of server `seed` is, day by day, never cleaned up because it is full: above 1 it
/// would have been.
pub(crate) fn disk(seed: u64, n: usize) -> Vec<Option<f64>> {
    let mut chance = Chance::new(seed ^ 0x0D15_C000);
    let mut level = chance.within(0.1, 0.85);
    let usual = if chance.is(0.25) { 0.0 } else { (-6.2 + 1.0 * chance.normal()).exp() };
    let noise = (-7.0 + 1.0 * chance.normal()).exp();
    let saw = if chance.is(0.4) { chance.within(0.0, 0.03) } else { 0.0 };
    let period = chance.within(5.0, 30.0);
    let changes = 1.0 / chance.within(20.0, 200.0);
    let (ups, downs) = (1.0 / chance.within(30.0, 300.0), 1.0 / chance.within(30.0, 300.0));
    let weekend = chance.within(0.3, 1.0);
    let grows = 1.0 + chance.within(-0.001, 0.003);
    let mut rate = usual;
    let mut values = Vec::with_capacity(n);
    for day in 0..n {
        if chance.is(changes) {
            rate = usual * (0.5 * chance.normal()).exp();
        }
        if chance.is(ups) {
            level += chance.within(0.01, 0.1);
        }
        if chance.is(downs) {
            level -= chance.within(0.01, 0.15) * level;
        }
        rate *= grows;
        let busy = if day % 7 >= 5 { weekend } else { 1.0 };
        level = (level + rate * busy * (1.0 + 0.5 * chance.normal())).max(0.02);
        let sawtooth = saw * (day as f64 % period / period);
        let value = (level + sawtooth + noise * chance.normal()).max(0.01);
        values.push((!chance.is(0.01)).then_some(value));
    }
    values
}
