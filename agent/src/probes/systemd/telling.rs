//! What is told of the units of systemd.

use std::collections::BTreeSet;
use std::path::Path;

use wire::UnixMillis;

use super::units::{Mark, Unit};
use crate::clock;
use crate::probes::Outlet;
use crate::probes::processes::Workers;
use crate::probes::services::{Watcher, is_transient};
use crate::window::{ServiceDetail, ServiceState};

/// Tells the state of a unit, and whether it is another life or took new settings since `before`.
pub(super) fn tell(watcher: &mut Watcher, outlet: &Outlet, unit: &mut Unit, before: &Mark) {
    let Some(state) = unit.state else { return };
    let at = unit.since().unwrap_or_else(clock::now);
    if state == "active" {
        let (run, pool) = (unit.run(), watcher.pool_of(&unit.name));
        watcher.running(outlet, &unit.name, pool.as_deref(), &run);
        if unit.was_reloaded(before, &run) {
            watcher.reloaded(outlet, &unit.name, at);
        }
    }
    unit.is_reloading = state == "reloading";
    tell_state(watcher, outlet, unit, state, at);
}

pub(super) fn tell_state(
    watcher: &mut Watcher,
    outlet: &Outlet,
    unit: &Unit,
    state: &'static str,
    at: UnixMillis,
) {
    let (unit, detail) = (unit.name.clone(), unit.detail.clone());
    let pool = pool_of(watcher, &unit, state);
    watcher.tell(outlet, ServiceState { unit, state, pool, at, detail });
}

/// The pool a unit serves; none of a container that was stopped: another one of another name will.
fn pool_of(watcher: &Watcher, unit: &str, state: &str) -> Option<String> {
    let is_over = state == "inactive" && is_transient(unit);
    if is_over { None } else { watcher.pool_of(unit) }
}

/// systemd forgets a stopped unit that nothing else wants.
pub(super) fn tell_missing(all: &BTreeSet<&str>, watcher: &mut Watcher, outlet: &Outlet) {
    for unit in watcher.told_missing(all) {
        let (state, at, detail) = ("inactive", clock::now(), ServiceDetail::default());
        let pool = pool_of(watcher, &unit, state);
        let is_told =
            watcher.tell(outlet, ServiceState { unit: unit.clone(), state, pool, at, detail });
        if is_told && is_transient(&unit) {
            watcher.forget(&unit);
        }
    }
}

impl Unit {
    /// A server that was told to reload by its own command has other workers, and systemd knows nothing.
    pub(super) fn look_at_workers(&mut self, watcher: &mut Watcher, outlet: &Outlet) {
        if self.state != Some("active") || !Workers::tell_reloads(&self.name) {
            return;
        }
        let Some(pid) = self.main_pid.filter(|_| watcher.root == Path::new("/")) else { return };
        let workers = self.workers.get_or_insert_with(|| Workers::new(pid, &self.name));
        if workers.pid != pid {
            *workers = Workers::new(pid, &self.name);
        }
        if workers.look(Path::new("/proc")) {
            watcher.reloaded(outlet, &self.name, clock::now());
        }
    }
}
