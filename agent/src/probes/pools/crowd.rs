//! The processes of the machine: the workers of each pool, and who uses the machine.
//!
//! Apart from the sockets, since a walk over processes may hang: the title of a process whose memory is
//! locked is not read before that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use wire::UnixMillis;

use super::workers::{Here, Staff, staff};
use super::{Said, keys};
use crate::clock;
use crate::discover::{Discovery, Pool};
use crate::gather::GatherStatus;
use crate::probes::top::Tops;
use crate::probes::walk::Walk;
use crate::probes::{Values, is_fast, push};

/// What a walk saw is good for this long.
const FRESH: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Crowd {
    root: PathBuf,
    discovery: watch::Receiver<Arc<Discovery>>,
    gather: watch::Receiver<GatherStatus>,
    walk: Walk,
    tops: Tops,
    /// By attribute of the pool.
    said: BTreeMap<String, Said<u32>>,
    manned: Manned,
}

impl Crowd {
    pub(super) fn new(
        root: PathBuf,
        discovery: watch::Receiver<Arc<Discovery>>,
        gather: watch::Receiver<GatherStatus>,
        manned: Manned,
    ) -> Self {
        let walk = Walk::new(PathBuf::from("/proc"));
        Self { root, discovery, gather, walk, tops: Tops::new(), said: BTreeMap::new(), manned }
    }

    /// Walks over the processes, each 10 s and never more often.
    pub(crate) fn sample(&mut self, at: UnixMillis, out: &mut Values) {
        let error_at = self.error_at();
        let Some(census) = self.walk.look(is_fast(error_at, at)) else {
            self.manned.set(clock::instant(), BTreeSet::new());
            return;
        };
        if !census.is_cut {
            push(out, "system.processes", f64::from(census.n_processes));
            push(out, "system.processes.uninterruptible", f64::from(census.n_blocked));
            push(out, "system.processes.zombie", f64::from(census.n_zombies));
        }
        let discovery = Arc::clone(&self.discovery.borrow());
        let pools: Vec<&Pool> = discovery.pools.iter().collect();
        let here = Here { root: &self.root, config_files: &discovery.config_files };
        let staffs = staff(&pools, &census.workers, here);
        let (mut sums, mut said, mut manned) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for (key, staff) in keys(&discovery.pools).into_iter().zip(staffs) {
            let attribute = format!("phpfpm.pool={key}");
            let mut last = self.said.remove(&attribute).unwrap_or(Said(None));
            if let Some(staff) = staff {
                if staff.n > 0 {
                    sums.push((attribute.clone(), staff.sum));
                    manned.insert(attribute.clone());
                }
                // Of some processes the number of a pool's workers is not known.
                if !census.is_cut {
                    tell(&attribute, staff, last.is_due(staff.n, at), out);
                }
            }
            said.insert(attribute, last);
        }
        self.said = said;
        self.manned.set(clock::instant(), manned);
        self.tops.keep(at, &census, &sums);
    }

    /// Tops of the minutes before, while gateway errors flow, each with its time.
    pub(crate) fn take_tops(&mut self, now: UnixMillis) -> Vec<(UnixMillis, Values)> {
        let error_at = self.error_at();
        self.tops.take(error_at, now)
    }

    fn error_at(&self) -> Option<UnixMillis> {
        self.gather.borrow().gateway_error_at
    }
}

/// Workers of one pool; that there is none is said now and then.
fn tell(attribute: &str, staff: Staff, is_due: bool, out: &mut Values) {
    if staff.n == 0 && !is_due {
        return;
    }
    let mut push = |metric, value| out.push((metric, attribute.to_owned(), value));
    push("phpfpm.total_processes", f64::from(staff.n));
    if staff.n_known > 0 {
        push("phpfpm.memory", staff.own_bytes as f64);
        push("phpfpm.memory_per_process", staff.own_bytes as f64 / f64::from(staff.n_known));
        push("phpfpm.memory_per_process.max", staff.own_bytes_max as f64);
    }
}

/// Pools that had a worker at the last walk, by attribute, for whoever would need one.
#[derive(Clone, Debug, Default)]
pub(super) struct Manned(Arc<Mutex<Option<Walked>>>);

/// When, and what was seen.
type Walked = (Instant, BTreeSet<String>);

impl Manned {
    fn set(&self, now: Instant, attributes: BTreeSet<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, attributes));
    }

    /// True after the first walk, also one that saw nobody.
    pub(super) fn is_known(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// False also when the last walk is long ago, or has not ended.
    pub(super) fn has(&self, attribute: &str, now: Instant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref().is_some_and(|(at, attributes)| {
            now.saturating_duration_since(*at) <= FRESH && attributes.contains(attribute)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_walk_saw_long_ago_is_not_taken_for_now() {
        let (manned, now) = (Manned::default(), clock::instant());
        assert!(!manned.has("a", now) && !manned.is_known());
        manned.set(now, BTreeSet::from(["a".to_owned()]));
        assert!(manned.has("a", now + FRESH) && !manned.has("b", now));
        assert!(!manned.has("a", now + FRESH + Duration::from_millis(1)), "the walk hangs");
    }
}
