//! What became of messages since the start: in all, and by route.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::UnixMillis;

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it.
    Delivered,
    /// It did not, and is asked again.
    Failed,
    /// It will never take it.
    Refused,
    /// Nobody took it for two days.
    Expired,
}

/// The counters of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that arrived.
    pub n_delivered: u64,
    /// Tries that failed.
    pub n_failed: u64,
    /// Messages that the receiver will never take.
    pub n_refused: u64,
    /// Messages given up because they were too old.
    pub n_expired: u64,
    /// When a try failed last, and why.
    pub last_error: Option<(UnixMillis, String)>,
}

/// Counters that only rise; they start at zero with the process.
#[derive(Debug, Default)]
pub struct Stats {
    /// They arrived.
    pub n_delivered: AtomicU64,
    /// Tries that failed.
    pub n_failed: AtomicU64,
    /// Messages that their receiver will never take.
    pub n_refused: AtomicU64,
    /// Messages given up because they were too old.
    pub n_expired: AtomicU64,
    /// Bodies for which the built-in template stood in, because the operator's failed.
    pub n_fallbacks: Arc<AtomicU64>,
    by_route: Mutex<BTreeMap<String, Counts>>,
}

impl Stats {
    /// Counts how a try on `route` ended.
    pub fn count(&self, route: &str, outcome: Outcome) {
        let mut by_route = self.routes();
        let of_route = by_route.entry(route.to_owned()).or_default();
        let (all, of_route) = match outcome {
            Outcome::Delivered => (&self.n_delivered, &mut of_route.n_delivered),
            Outcome::Failed => (&self.n_failed, &mut of_route.n_failed),
            Outcome::Refused => (&self.n_refused, &mut of_route.n_refused),
            Outcome::Expired => (&self.n_expired, &mut of_route.n_expired),
        };
        *of_route += 1;
        all.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps why a try on `route` failed; no secret may be in it.
    pub fn failed(&self, route: &str, at: UnixMillis, why: &str) {
        let why = why.to_owned();
        self.routes().entry(route.to_owned()).or_default().last_error = Some((at, why));
    }

    /// A route that has sent nothing yet shows zeros.
    pub fn know(&self, route: &str) {
        self.routes().entry(route.to_owned()).or_default();
    }

    /// The counters of each route, by name.
    #[must_use]
    pub fn by_route(&self) -> BTreeMap<String, Counts> {
        self.routes().clone()
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<String, Counts>> {
        self.by_route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
