//! What the probes said last, for whoever asks the running agent. Nothing else reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::UnixMillis;

use crate::window::{Observation, ServiceState};

/// A value not sampled again for this long is no longer shown: its disk, pool or site is gone.
const SHOWN_MS: i64 = 70_000;

/// Series kept at most; more are not shown, but sent as ever.
const SERIES_MAX: usize = 5000;

/// A value and when it was sampled.
pub(crate) type Value = (UnixMillis, f64);

/// Shared between the outlet, which writes, and `status`, which reads.
#[derive(Clone, Debug, Default)]
pub struct Latest(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By metric and attribute.
    values: BTreeMap<&'static str, BTreeMap<String, Value>>,
    n_series: usize,
    newest: UnixMillis,
    services: BTreeMap<String, ServiceState>,
}

impl Latest {
    /// Remembers what is about to be sent.
    pub(crate) fn keep(&self, observation: &Observation) {
        match observation {
            Observation::Samples { at, values } => self.lock().keep_values(*at, values),
            Observation::Service(state) => {
                self.lock().services.insert(state.unit.clone(), state.clone());
            }
            _ => {}
        }
    }

    /// Metric, attribute and value of every series that is still sampled.
    pub(crate) fn values(&self) -> Vec<(&'static str, String, Value)> {
        let known = self.lock();
        let all = known.values.iter().flat_map(|(metric, by_attribute)| {
            by_attribute.iter().map(|(attribute, value)| (*metric, attribute.clone(), *value))
        });
        all.filter(|(.., (at, _))| known.newest.0 - at.0 <= SHOWN_MS).collect()
    }

    /// Every service with its last state.
    pub(crate) fn services(&self) -> Vec<ServiceState> {
        self.lock().services.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn keep_values(&mut self, at: UnixMillis, values: &[(&'static str, String, f64)]) {
        self.newest = self.newest.max(at);
        if self.n_series >= SERIES_MAX {
            self.forget_old();
        }
        for (metric, attribute, value) in values {
            let by_attribute = self.values.entry(metric).or_default();
            // What was sampled later stays: some samples are told after the fact.
            match by_attribute.get_mut(attribute) {
                Some(known) if known.0 <= at => *known = (at, *value),
                None if self.n_series < SERIES_MAX => {
                    by_attribute.insert(attribute.clone(), (at, *value));
                    self.n_series += 1;
                }
                _ => {}
            }
        }
    }

    fn forget_old(&mut self) {
        let newest = self.newest;
        for by_attribute in self.values.values_mut() {
            by_attribute.retain(|_, (at, _)| newest.0 - at.0 <= SHOWN_MS);
        }
        self.n_series = self.values.values().map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(at: i64, values: &[(&'static str, &str, f64)]) -> Observation {
        let values = values.iter().map(|(m, a, v)| (*m, (*a).to_owned(), *v)).collect();
        Observation::Samples { at: UnixMillis(at), values }
    }

    #[test]
    fn the_newest_value_of_each_series_is_shown_and_what_is_gone_is_not() {
        let latest = Latest::default();
        latest.keep(&samples(1000, &[("a", "", 1.0), ("b", "disk=x", 5.0)]));
        latest.keep(&samples(2000, &[("a", "", 2.0)]));
        latest.keep(&samples(500, &[("a", "", 0.5)])); // told after the fact
        let shown = |latest: &Latest| -> Vec<(&str, f64)> {
            latest.values().into_iter().map(|(metric, _, (_, value))| (metric, value)).collect()
        };
        assert_eq!(shown(&latest), [("a", 2.0), ("b", 5.0)]);
        latest.keep(&samples(1000 + SHOWN_MS + 1, &[("a", "", 3.0)]));
        assert_eq!(shown(&latest), [("a", 3.0)]);
    }

    #[test]
    fn a_flood_of_series_stays_bounded_and_makes_room_when_old_ones_are_gone() {
        let latest = Latest::default();
        for ix in 0..SERIES_MAX + 100 {
            latest.keep(&samples(1000, &[("a", &ix.to_string(), 1.0)]));
        }
        assert_eq!(latest.values().len(), SERIES_MAX);
        latest.keep(&samples(2000 + SHOWN_MS, &[("b", "", 1.0)]));
        assert_eq!(latest.values().len(), 1);
    }
}
