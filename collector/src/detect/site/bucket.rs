//! What one second of one site counted, and sums over seconds.

use serde::{Deserialize, Serialize};

use crate::model::Counts;

/// Failures a site counts in one second when no exemplar says who they hit.
const BLIND_MAX: u32 = 2;
/// Mean weight from which the failures kept of a second are a fair sample of all of them: lower, they
/// are a few clients that try again and again.
const FAIR_SAMPLE: f64 = 0.4;

/// One second of one site. A site keeps a minute of them and nearly all are without a failure, so what
/// only a failure needs is kept apart: a quiet second takes 24 bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub(crate) struct Bucket {
    pub(crate) second: i64,
    pub(super) n: u32,
    pub(crate) ok: u32,
    /// `None` is the same as nothing.
    trouble: Option<Box<Trouble>>,
}

/// What a second with failures, or one that an incident or the score has looked at, has beside.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trouble {
    pub(super) n_502: u32,
    pub(super) n_503: u32,
    pub(super) n_504: u32,
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
    pub(super) ok_healed: u32,
    pub(super) failed_healed: u32,
    /// What an incident that is over has counted of it.
    pub(super) booked: Totals,
}

static NO_TROUBLE: Trouble = Trouble {
    n_502: 0,
    n_503: 0,
    n_504: 0,
    n_crawler: 0,
    weight: 0.0,
    n_known: 0,
    first_at: None,
    weight_seen: 0.0,
    ok_seen: 0.0,
    failed_seen: false,
    ok_healed: 0,
    failed_healed: 0,
    booked: Totals { n: 0, n_502: 0, n_503: 0, n_504: 0, n_crawler: 0 },
};

impl Bucket {
    pub(super) fn new(second: i64) -> Self {
        Self { second, ..Self::default() }
    }

    pub(super) fn trouble(&self) -> &Trouble {
        self.trouble.as_deref().unwrap_or(&NO_TROUBLE)
    }

    pub(super) fn trouble_mut(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// Adds counts of its second.
    pub(super) fn fold(&mut self, counts: &Counts) {
        self.n = self.n.saturating_add(counts.n);
        let failed = u64::from(counts.n_502) + u64::from(counts.n_503) + u64::from(counts.n_504);
        if failed > 0 || counts.n_crawler > 0 {
            let trouble = self.trouble_mut();
            trouble.n_502 = trouble.n_502.saturating_add(counts.n_502);
            trouble.n_503 = trouble.n_503.saturating_add(counts.n_503);
            trouble.n_504 = trouble.n_504.saturating_add(counts.n_504);
            trouble.n_crawler = trouble.n_crawler.saturating_add(counts.n_crawler);
        }
        let answered = u64::from(counts.n).saturating_sub(failed);
        let ok = answered.saturating_sub(counts.n_499.into());
        self.ok = self.ok.saturating_add(ok as u32);
    }

    /// Successes and failures that the recovery has not seen yet; it has now.
    pub(super) fn heal(&mut self) -> (u32, u32) {
        let (ok, failed) = (self.ok, self.failed());
        let seen = self.trouble();
        let news = (ok - seen.ok_healed, failed - seen.failed_healed);
        if news != (0, 0) {
            let trouble = self.trouble_mut();
            (trouble.ok_healed, trouble.failed_healed) = (ok, failed);
        }
        news
    }

    /// All of it so far is counted by the incident that ends.
    pub(super) fn book(&mut self) {
        let totals = Totals::from(&*self);
        if totals != self.trouble().booked {
            self.trouble_mut().booked = totals;
        }
    }

    pub(crate) fn failed(&self) -> u32 {
        let of = self.trouble();
        of.n_502.saturating_add(of.n_503).saturating_add(of.n_504)
    }

    pub(super) fn weight(&self) -> f64 {
        let of = self.trouble();
        if of.n_known == 0 { f64::from(self.failed().min(BLIND_MAX)) } else { of.weight }
    }

    /// Successes that stand against `weight`.
    ///
    /// A busy site fails far more often than failures are kept. Then what is kept is a sample, and
    /// the successes count by the same share: a likelihood ratio holds for every fair sample of the
    /// requests. With all of them the failures of a site with thousands of requests a second could
    /// never outweigh its successes, though half of it is down.
    pub(super) fn weighed_ok(&self, p_bad: f64) -> f64 {
        let (ok, failed) = (f64::from(self.ok), f64::from(self.failed()));
        let of = self.trouble();
        let (kept, is_fair) = if of.n_known == 0 {
            // Who they hit is not known: one client alone must not bring a busy site down.
            (f64::from(BLIND_MAX), failed >= p_bad * (failed + ok))
        } else {
            let kept = f64::from(of.n_known);
            (kept, of.weight >= FAIR_SAMPLE * kept)
        };
        if is_fair && kept < failed { ok * kept / failed } else { ok }
    }
}

impl PartialEq for Bucket {
    fn eq(&self, other: &Self) -> bool {
        (self.second, self.n, self.ok) == (other.second, other.n, other.ok)
            && self.trouble() == other.trouble()
    }
}

/// A bucket as the engine's snapshot has it.
#[derive(Serialize, Deserialize)]
struct Saved {
    second: i64,
    n: u32,
    ok: u32,
    n_502: u32,
    n_503: u32,
    n_504: u32,
    #[serde(default)]
    n_crawler: u32,
    weight: f64,
    n_known: u32,
    first_at: Option<i64>,
    weight_seen: f64,
    ok_seen: f64,
    failed_seen: bool,
    ok_healed: u32,
    failed_healed: u32,
    #[serde(default, skip_serializing_if = "Totals::is_nothing")]
    booked: Totals,
}

impl From<Saved> for Bucket {
    fn from(saved: Saved) -> Self {
        let trouble = Trouble {
            n_502: saved.n_502,
            n_503: saved.n_503,
            n_504: saved.n_504,
            n_crawler: saved.n_crawler,
            weight: saved.weight,
            n_known: saved.n_known,
            first_at: saved.first_at,
            weight_seen: saved.weight_seen,
            ok_seen: saved.ok_seen,
            failed_seen: saved.failed_seen,
            ok_healed: saved.ok_healed,
            failed_healed: saved.failed_healed,
            booked: saved.booked,
        };
        let trouble = (trouble != NO_TROUBLE).then(|| Box::new(trouble));
        Self { second: saved.second, n: saved.n, ok: saved.ok, trouble }
    }
}

impl From<Bucket> for Saved {
    fn from(bucket: Bucket) -> Self {
        let of = bucket.trouble();
        Self {
            second: bucket.second,
            n: bucket.n,
            ok: bucket.ok,
            n_502: of.n_502,
            n_503: of.n_503,
            n_504: of.n_504,
            n_crawler: of.n_crawler,
            weight: of.weight,
            n_known: of.n_known,
            first_at: of.first_at,
            weight_seen: of.weight_seen,
            ok_seen: of.ok_seen,
            failed_seen: of.failed_seen,
            ok_healed: of.ok_healed,
            failed_healed: of.failed_healed,
            booked: of.booked,
        }
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
        let of = bucket.trouble();
        Self {
            n: bucket.n.into(),
            n_502: of.n_502.into(),
            n_503: of.n_503.into(),
            n_504: of.n_504.into(),
            n_crawler: of.n_crawler.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_second_is_small_and_every_second_is_saved_whole() {
        assert!(size_of::<Bucket>() <= 24, "{} bytes", size_of::<Bucket>());
        let mut bucket = Bucket::new(7);
        bucket.fold(&Counts { n: 3, ..Counts::default() });
        assert!(bucket.trouble.is_none());
        let reload = |bucket: &Bucket| {
            let text = serde_json::to_string(bucket).unwrap();
            serde_json::from_str::<Bucket>(&text).unwrap()
        };
        assert_eq!(reload(&bucket), bucket);
        assert!(reload(&bucket).trouble.is_none(), "nothing is loaded as nothing");
        bucket.fold(&Counts { n: 4, n_502: 1, n_504: 2, n_crawler: 1, ..Counts::default() });
        assert_eq!((bucket.heal(), bucket.heal()), ((4, 3), (0, 0)));
        bucket.book();
        bucket.trouble_mut().first_at = Some(7_250);
        assert_eq!(reload(&bucket), bucket);
        // As the first release saved it.
        let old = r#"{"second":7,"n":3,"ok":3,"n_502":0,"n_503":0,"n_504":0,"weight":0.0,"n_known":0,"first_at":null,"weight_seen":0.0,"ok_seen":3.0,"failed_seen":false,"ok_healed":0,"failed_healed":0}"#;
        let old: Bucket = serde_json::from_str(old).unwrap();
        assert_eq!((old.n, old.ok, old.trouble().ok_seen), (3, 3, 3.0));
    }
}
