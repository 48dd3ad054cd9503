//! What one second of one site counted, and sums over seconds.

use serde::{Deserialize, Serialize};

use crate::model::Counts;

/// Failures a site counts in one second when no exemplar says who they hit.
const BLIND_MAX: u32 = 2;
/// Mean weight from which the failures kept of a second are a fair sample of all of them: lower, they
/// are a few clients that try again and again.
const FAIR_SAMPLE: f64 = 0.4;

/// One second of one site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bucket {
    pub(crate) second: i64,
    pub(crate) n: u32,
    pub(crate) ok: u32,
    pub(crate) n_502: u32,
    pub(crate) n_503: u32,
    pub(crate) n_504: u32,
    #[serde(default)]
    pub(super) n_crawler: u32,
    /// Weight of the failures whose client is known, and how many those are.
    pub(super) weight: f64,
    pub(super) n_known: u32,
    /// Instant of the first exemplar.
    pub(super) first_at: Option<i64>,
    /// What the score has already seen of this bucket.
    pub(super) weight_seen: f64,
    /// Successes, thinned like the failures of their second.
    pub(super) ok_seen: f64,
    pub(super) failed_seen: bool,
    /// What the recovery of the site's incident has already seen.
    pub(crate) ok_healed: u32,
    pub(crate) failed_healed: u32,
    /// What an incident that is over has counted of it.
    #[serde(default, skip_serializing_if = "Totals::is_nothing")]
    pub(super) booked: Totals,
}

impl Bucket {
    pub(crate) fn failed(&self) -> u32 {
        self.n_502.saturating_add(self.n_503).saturating_add(self.n_504)
    }

    pub(super) fn weight(&self) -> f64 {
        if self.n_known == 0 { f64::from(self.failed().min(BLIND_MAX)) } else { self.weight }
    }

    /// Successes that stand against `weight`.
    ///
    /// A busy site fails far more often than failures are kept. Then what is kept is a sample, and
    /// the successes count by the same share: a likelihood ratio holds for every fair sample of the
    /// requests. With all of them the failures of a site with thousands of requests a second could
    /// never outweigh its successes, though half of it is down.
    pub(super) fn weighed_ok(&self, p_bad: f64) -> f64 {
        let (ok, failed) = (f64::from(self.ok), f64::from(self.failed()));
        let (kept, is_fair) = if self.n_known == 0 {
            // Who they hit is not known: one client alone must not bring a busy site down.
            (f64::from(BLIND_MAX), failed >= p_bad * (failed + ok))
        } else {
            let kept = f64::from(self.n_known);
            (kept, self.weight >= FAIR_SAMPLE * kept)
        };
        if is_fair && kept < failed { ok * kept / failed } else { ok }
    }
}

/// Requests and gateway errors of a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Requests.
    pub n: u64,
    /// Status 502.
    pub n_502: u64,
    /// Status 503 made by a gateway.
    pub n_503: u64,
    /// Status 504.
    pub n_504: u64,
    /// Of the gateway errors, those a search engine's crawler saw.
    #[serde(default)]
    pub n_crawler: u64,
}

impl Totals {
    /// Gateway errors.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.n_502 + self.n_503 + self.n_504
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// What is more than in an earlier span.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            n: self.n.saturating_sub(other.n),
            n_502: self.n_502.saturating_sub(other.n_502),
            n_503: self.n_503.saturating_sub(other.n_503),
            n_504: self.n_504.saturating_sub(other.n_504),
            n_crawler: self.n_crawler.saturating_sub(other.n_crawler),
        }
    }

    /// Adds another span.
    pub fn add(&mut self, other: Totals) {
        self.n += other.n;
        self.n_502 += other.n_502;
        self.n_503 += other.n_503;
        self.n_504 += other.n_504;
        self.n_crawler += other.n_crawler;
    }
}

impl From<&Counts> for Totals {
    fn from(counts: &Counts) -> Self {
        Self {
            n: counts.n.into(),
            n_502: counts.n_502.into(),
            n_503: counts.n_503.into(),
            n_504: counts.n_504.into(),
            n_crawler: counts.n_crawler.into(),
        }
    }
}

impl From<&Bucket> for Totals {
    fn from(bucket: &Bucket) -> Self {
        Self {
            n: bucket.n.into(),
            n_502: bucket.n_502.into(),
            n_503: bucket.n_503.into(),
            n_504: bucket.n_504.into(),
            n_crawler: bucket.n_crawler.into(),
        }
    }
}
