//! Seeded randomness: the same seed gives the same world on every machine and with every release.

/// SplitMix64 (Steele, Lea and Flood 2014): small, fast, and good enough to draw traffic with.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator for one thing, by seed and name, so that one more draw elsewhere changes nothing.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut state = seed ^ 0x9E37_79B9_7F4A_7C15;
        for byte in name.bytes() {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
        let mut random = Self(state);
        random.bits();
        random
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform over `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform over `low..high`.
    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform over the whole numbers `low..high`.
    pub(crate) fn whole(&mut self, low: i64, high: i64) -> i64 {
        low + (self.unit() * (high - low) as f64) as i64
    }

    /// Uniform over `0..n`; `n` is at least 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// `n` of these positions, in rising order.
    pub(crate) fn some(&mut self, n: usize, of: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..of).collect();
        for i in 0..n.min(of) {
            let j = i + self.below(of - i);
            all.swap(i, j);
        }
        all.truncate(n);
        all.sort_unstable();
        all
    }

    /// Exponential with this mean: the gap to the next independent event.
    pub(crate) fn gap(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Standard normal (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Poisson with this mean, by multiplication (Knuth), or its normal limit above 60.
    pub(crate) fn poisson(&mut self, mean: f64) -> usize {
        if mean > 60.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as usize;
        }
        let limit = (-mean).exp();
        let (mut n, mut product) = (0, self.unit());
        while product > limit {
            n += 1;
            product *= self.unit();
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_name_give_the_same_draws_and_another_name_gives_others() {
        let draws = |name| Random::new(7, name).bits();
        assert_eq!(draws("a"), draws("a"));
        assert_ne!(draws("a"), draws("b"));
    }

    #[test]
    fn arrivals_have_the_mean_they_were_asked_for() {
        let mut random = Random::new(1, "poisson");
        for mean in [0.2, 3.0, 200.0] {
            let n: usize = (0..20_000).map(|_| random.poisson(mean)).sum();
            let seen = n as f64 / 20_000.0;
            assert!((seen / mean - 1.0).abs() < 0.05, "{mean}: {seen}");
        }
    }
}
