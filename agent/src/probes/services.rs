//! Which services matter here, their states, and the pools they serve.
//!
//! Asked of systemd over D-Bus where systemd runs this machine, else seen from the processes. All
//! states are told once at the start, then the changes. A state a full queue refused is told again
//! in the next round. A service that runs another life than before, or took new settings, is told as a
//! change.

mod patterns;
mod restarts;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::{Outlet, processes, systemd};
use crate::changes::boot;
use crate::clock;
use crate::discover::Discovery;
use crate::gather::GatherStatus;
use crate::window::{Change, Observation, ServiceState};

pub(crate) use patterns::{
    Matcher, is_named, is_php_fpm, is_service_process, is_transient, pool_of_unit, unit_name,
    unit_patterns,
};
use restarts::Restarts;
pub(crate) use restarts::Run;
pub(crate) use upstreams::Upstreams;

/// Services watched; further ones are left out, which is told once.
pub(crate) const UNITS_MAX: usize = 500;

/// A service that was down for longer was started, not restarted.
const RESTART_MS: i64 = 10_000;
/// A reload seen twice, as a signal of systemd and by its workers, is one.
const RELOAD_AGAIN: Duration = Duration::from_secs(10);
/// How long states wait at the start for the machine to be looked through.
const DISCOVERY_MAX: Duration = Duration::from_secs(10);
/// Between two words about a unit that restarts for ever.
const LOOP_TELL: Duration = Duration::from_secs(5);

/// Watches the services until told to stop.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) root: PathBuf,
    pub(crate) discovery: watch::Receiver<Arc<Discovery>>,
    /// `[probes] services`.
    pub(crate) configured: Vec<String>,
    /// Who answers at the local addresses of the sites.
    pub(crate) upstreams: Upstreams,
    gather: watch::Receiver<GatherStatus>,
    /// What was told last, by unit.
    told: BTreeMap<String, Told>,
    restarts: Restarts,
    reloaded: BTreeMap<String, Instant>,
    has_told_crowd: bool,
    has_told_store: bool,
}

#[derive(Debug)]
struct Told {
    state: ServiceState,
    when: Instant,
}

impl Watcher {
    pub(crate) fn new(
        root: PathBuf,
        state_dir: &std::path::Path,
        configured: Vec<String>,
        discovery: watch::Receiver<Arc<Discovery>>,
        gather: watch::Receiver<GatherStatus>,
    ) -> Self {
        Self {
            upstreams: Upstreams::new(&root),
            root,
            discovery,
            configured,
            gather,
            told: BTreeMap::new(),
            restarts: Restarts::open(state_dir, boot::id()),
            reloaded: BTreeMap::new(),
            has_told_crowd: false,
            has_told_store: false,
        }
    }

    pub(crate) async fn run(mut self, outlet: Outlet, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.discovered() => {}
        }
        if systemd::is_running(&self.root) {
            systemd::watch(&mut self, &outlet, &stop).await;
        } else {
            processes::watch(&mut self, &outlet, &stop).await;
        }
        self.save().await;
    }

    /// Until it is known which pools there are, within bounds: a state told before would be told again
    /// with its pool a moment later.
    async fn discovered(&self) {
        let mut discovery = self.discovery.clone();
        // Without anyone who looks there is nothing to wait for.
        tokio::time::timeout(DISCOVERY_MAX, discovery.changed()).await.ok();
    }

    /// True while gateway errors flow and for a minute after: look more often.
    pub(crate) fn is_fast(&self) -> bool {
        super::is_fast(self.gather.borrow().gateway_error_at, clock::now())
    }

    /// Names of services beside the usual ones: discovered, configured, and found behind the sites.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> =
            self.discovery.borrow().services.iter().chain(&self.configured).cloned().collect();
        names.extend(self.upstreams.units());
        names
    }

    /// The pool a unit serves, or the only address of a site that it answers at.
    pub(crate) fn pool_of(&self, unit: &str) -> Option<String> {
        pool_of_unit(unit, &self.discovery.borrow().pools)
            .or_else(|| self.upstreams.address_of(unit))
    }

    /// True when this state of the unit was told already, with the pool it serves and all else.
    pub(crate) fn was_told(&self, service: &ServiceState) -> bool {
        self.told.get(&service.unit).map(|told| &told.state).is_some_and(|known| {
            known.state == service.state
                && known.pool == service.pool
                && known.detail == service.detail
        })
    }

    /// Units told to be anything but stopped.
    pub(crate) fn told_running(&self) -> Vec<String> {
        let running = self.told.iter().filter(|(_, told)| is_up(told.state.state));
        running.map(|(unit, _)| unit.clone()).collect()
    }

    /// Units told that `all` does not hold: those that ran, and those that never come again.
    pub(crate) fn told_missing(&self, all: &BTreeSet<&str>) -> Vec<String> {
        let is_missing = |(unit, told): &(&String, &Told)| {
            !all.contains(unit.as_str()) && (is_up(told.state.state) || is_transient(unit))
        };
        self.told.iter().filter(is_missing).map(|(unit, _)| unit.clone()).collect()
    }

    /// Drops all that is known of a unit that is gone for good.
    pub(crate) fn forget(&mut self, unit: &str) {
        self.told.remove(unit);
        self.reloaded.remove(unit);
        self.restarts.forget(unit);
    }

    /// Makes room for another unit: one that stopped is forgotten, the first one first.
    fn forget_a_stopped_one(&mut self) {
        let stopped = self.told.iter().filter(|(_, told)| told.state.state == "inactive");
        let first = stopped.min_by_key(|(_, told)| told.when);
        if let Some(unit) = first.map(|(unit, _)| unit.clone()) {
            self.forget(&unit);
        }
    }

    /// Tells a state unless it was told already; again when more is known of it since. A unit that
    /// starts and dies again and again has failed.
    /// False when a full queue refused it.
    pub(crate) fn tell(&mut self, outlet: &Outlet, mut service: ServiceState) -> bool {
        let now = clock::instant();
        if self.told.len() >= UNITS_MAX && !self.told.contains_key(&service.unit) {
            self.forget_a_stopped_one();
        }
        let detail = &service.detail;
        let waits = detail.sub_state.as_deref().is_some_and(|sub| sub.starts_with("auto-restart"));
        self.restarts.note_automatic(&service.unit, detail.n_restarts, waits, now);
        let loops = self.restarts.is_looping(&service.unit, now);
        if loops && service.state != "inactive" {
            service.state = "failed";
        }
        if self.was_told(&service) {
            return true;
        }
        match self.told.get(&service.unit) {
            Some(told) if loops && told.state.state == "failed" && now < told.when + LOOP_TELL => {
                return true;
            }
            Some(_) => {
                let (unit, state) = (&service.unit, service.state);
                tracing::debug!(unit, state, "service changed its state");
            }
            None if self.told.len() >= UNITS_MAX => {
                if !std::mem::replace(&mut self.has_told_crowd, true) {
                    tracing::info!(
                        n_max = UNITS_MAX,
                        unit = service.unit,
                        "more services than are watched: this one and others are left out"
                    );
                }
                return true;
            }
            None => {}
        }
        let is_sent = outlet.send(Observation::Service(service.clone()));
        if is_sent {
            self.told.insert(service.unit.clone(), Told { state: service, when: now });
        }
        is_sent
    }

    /// Notes which life of a unit is running, before its state is told; another one than the last is a
    /// change.
    pub(crate) fn running(&mut self, outlet: &Outlet, unit: &str, pool: Option<&str>, run: &Run) {
        let now = clock::instant();
        if self.restarts.is_full() {
            let told = &self.told;
            self.restarts.retain(|known| known == unit || told.contains_key(known));
        }
        if !self.restarts.note(unit, run) || self.restarts.is_looping(unit, now) {
            return;
        }
        // What a new master's workers look like is no reload.
        self.reloaded.insert(unit.to_owned(), now);
        let down = self.told.get(unit).map(|told| &told.state).filter(|told| !is_up(told.state));
        let word = match down {
            Some(down) if run.at.0 - down.at.0 > RESTART_MS => "started",
            _ => "restarted",
        };
        Self::change(outlet, unit, word, pool.map(str::to_owned), run.at);
    }

    /// A unit took new settings without another life.
    pub(crate) fn reloaded(&mut self, outlet: &Outlet, unit: &str, at: UnixMillis) {
        let now = clock::instant();
        self.reloaded.retain(|_, at| now.saturating_duration_since(*at) < RELOAD_AGAIN);
        let known = self.reloaded.get(unit);
        if known.is_some_and(|last| now.saturating_duration_since(*last) < RELOAD_AGAIN)
            || (known.is_none() && self.reloaded.len() >= UNITS_MAX)
        {
            return;
        }
        self.reloaded.insert(unit.to_owned(), now);
        let pool = self.told.get(unit).and_then(|told| told.state.pool.clone());
        Self::change(outlet, unit, "reloaded", pool, at);
    }

    fn change(outlet: &Outlet, unit: &str, word: &str, pool: Option<String>, at: UnixMillis) {
        let what = format!("{unit} {word}");
        tracing::info!(kind = "restart", what, "changed on this server");
        let at = at.min(clock::now());
        let change = Change { pool, ..Change::new("restart", what, at) };
        outlet.send(Observation::Change(change));
    }

    /// Keeps which lives were seen, if there are others than were kept last.
    pub(crate) async fn save(&mut self) {
        let Some((path, bytes)) = self.restarts.take_moved() else { return };
        let stored = tokio::task::spawn_blocking(move || {
            let done = restarts::store(&path, &bytes);
            done.map_err(|error| (path, error))
        });
        if let Ok(Err((path, error))) = stored.await
            && !std::mem::replace(&mut self.has_told_store, true)
        {
            tracing::warn!(path = %path.display(), %error, "cannot keep which services ran: restarts while the agent is stopped will be missed");
        }
    }
}

fn is_up(state: &str) -> bool {
    !matches!(state, "inactive" | "failed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::{Ended, ServiceDetail};
    use std::path::Path;
    use std::task::{Context, Waker};
    use tokio::sync::mpsc;

    /// A watcher whose observations come out of the receiver, `n` at most.
    fn scene(state_dir: &Path, n: usize) -> (Watcher, Outlet, mpsc::Receiver<Observation>) {
        let (_, discovery) = watch::channel(Arc::new(Discovery::default()));
        let (_, errors) = watch::channel(GatherStatus::default());
        let watcher = Watcher::new("/".into(), state_dir, Vec::new(), discovery, errors);
        let (tx, rx) = mpsc::channel(n);
        (watcher, Outlet::new(tx, Arc::default()), rx)
    }

    fn state(unit: &str, state: &'static str) -> ServiceState {
        let detail = ServiceDetail::default();
        ServiceState { unit: unit.into(), state, pool: None, at: UnixMillis(1), detail }
    }

    #[tokio::test]
    async fn no_state_is_told_before_it_is_known_which_pools_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watcher, ..) = scene(dir.path(), 1);
        let (found, discovery) = watch::channel(Arc::new(Discovery::default()));
        watcher.discovery = discovery;
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = std::pin::pin!(watcher.discovered());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        found.send_replace(Arc::new(Discovery::default()));
        assert!(waits.as_mut().poll(&mut context).is_ready());
        assert!(watcher.discovery.has_changed().unwrap(), "it is still news to who looks for it");
    }

    #[test]
    fn a_state_is_told_once_and_again_when_the_queue_was_full() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watcher, outlet, mut rx) = scene(dir.path(), 1);
        assert!(watcher.tell(&outlet, state("a", "active")));
        assert!(watcher.tell(&outlet, state("a", "active")));
        assert!(!watcher.tell(&outlet, state("b", "active")), "no room");
        assert!(rx.try_recv().is_ok());
        assert!(rx.try_recv().is_err());
        watcher.tell(&outlet, state("b", "active"));
        assert_eq!(rx.try_recv(), Ok(Observation::Service(state("b", "active"))));
        assert_eq!(watcher.told_running(), ["a", "b"]);
        let learnt = ServiceState { pool: Some("www".into()), ..state("a", "active") };
        watcher.tell(&outlet, learnt.clone());
        assert_eq!(rx.try_recv(), Ok(Observation::Service(learnt)));
        let mut why = state("b", "failed");
        watcher.tell(&outlet, why.clone());
        assert!(rx.try_recv().is_ok());
        why.detail.ended = Some(Ended { how: "killed", status: 9 });
        watcher.tell(&outlet, why.clone());
        assert_eq!(rx.try_recv(), Ok(Observation::Service(why)), "its reason came later");
        assert_eq!(watcher.told_running(), ["a"]);
    }

    #[test]
    fn a_unit_that_restarts_for_ever_has_failed_and_floods_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watcher, outlet, mut rx) = scene(dir.path(), 1000);
        let step = |state: &'static str, sub: &str, n_restarts| ServiceState {
            detail: ServiceDetail {
                sub_state: Some(sub.into()),
                n_restarts: Some(n_restarts),
                ..ServiceDetail::default()
            },
            ..self::state("app.service", state)
        };
        for n in 0..100 {
            let run = Run { id: n.to_string(), at: UnixMillis(i64::from(n)) };
            watcher.running(&outlet, "app.service", None, &run);
            watcher.tell(&outlet, step("active", "running", n));
            watcher.tell(&outlet, step("failed", "auto-restart", n));
        }
        let mut told = Vec::new();
        while let Ok(observation) = rx.try_recv() {
            told.push(match observation {
                Observation::Service(service) => (service.state, service.detail.n_restarts),
                Observation::Change(change) => {
                    assert_eq!(change.what, "app.service restarted");
                    ("restarted", None)
                }
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(told[..2], [("active", Some(0)), ("failed", Some(0))], "{told:?}");
        assert!(told.len() < 15, "{told:?}");
        let last = told.iter().rfind(|(state, _)| *state != "restarted");
        assert_eq!(last.map(|(state, _)| *state), Some("failed"), "{told:?}");
        assert!(watcher.told_running().is_empty());
    }

    #[test]
    fn another_life_is_a_restart_or_a_start_and_a_reload_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watcher, outlet, mut rx) = scene(dir.path(), 100);
        let run = |id: &str, at| Run { id: id.into(), at: UnixMillis(at) };
        let unit = "php8.2-fpm.service";
        let mut play = |watcher: &mut Watcher, told: &[&'static str], now: Option<Run>| {
            for word in told {
                watcher.tell(&outlet, state(unit, word));
            }
            match now {
                Some(run) => watcher.running(&outlet, unit, Some("www"), &run),
                None => watcher.reloaded(&outlet, unit, UnixMillis(9)),
            }
            let mut last = None;
            while let Ok(observation) = rx.try_recv() {
                if let Observation::Change(change) = observation {
                    last = Some((change.kind, change.what, change.pool, change.at.0));
                }
            }
            last
        };
        let www = || Some("www".to_owned());
        let what = |word: &str| format!("{unit} {word}");
        assert_eq!(play(&mut watcher, &[], Some(run("a", 5))), None, "the first seen");
        assert_eq!(
            play(&mut watcher, &["active"], None),
            Some(("restart", what("reloaded"), None, 9))
        );
        assert_eq!(play(&mut watcher, &[], None), None, "its workers tell the same");
        assert_eq!(
            play(&mut watcher, &[], Some(run("b", 6))),
            Some(("restart", what("restarted"), www(), 6)),
            "nobody saw it stop"
        );
        assert_eq!(play(&mut watcher, &[], None), None, "new workers of a new master");
        assert_eq!(
            play(&mut watcher, &["failed"], Some(run("c", 8_000))),
            Some(("restart", what("restarted"), www(), 8_000))
        );
        assert_eq!(
            play(&mut watcher, &["active", "inactive"], Some(run("d", 60_000))),
            Some(("restart", what("started"), www(), 60_000))
        );
    }

    #[test]
    fn more_services_than_are_watched_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watcher, outlet, mut rx) = scene(dir.path(), UNITS_MAX + 10);
        for ix in 0..UNITS_MAX + 5 {
            assert!(watcher.tell(&outlet, state(&format!("app@{ix}.service"), "active")));
        }
        let mut n = 0;
        while rx.try_recv().is_ok() {
            n += 1;
        }
        assert_eq!((n, watcher.told_running().len()), (UNITS_MAX, UNITS_MAX));
    }

    #[test]
    fn units_that_come_and_go_leave_room_for_those_that_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watcher, outlet, mut rx) = scene(dir.path(), 8 * UNITS_MAX);
        for ix in 0..2 * UNITS_MAX {
            let unit = format!("docker-{ix}.scope");
            let run = Run { id: ix.to_string(), at: UnixMillis(1) };
            watcher.running(&outlet, &unit, None, &run);
            assert!(watcher.tell(&outlet, state(&unit, "active")));
            watcher.reloaded(&outlet, &unit, UnixMillis(1));
            watcher.tell(&outlet, state(&unit, "inactive"));
            let missing = watcher.told_missing(&BTreeSet::from(["nginx.service"]));
            assert_eq!(missing, [unit.as_str()], "it is looked for until it is forgotten");
            watcher.forget(&unit);
        }
        assert!(watcher.told.is_empty() && watcher.reloaded.is_empty());
        assert_eq!(watcher.restarts.n_known(), (0, 0));
        // Services that stopped and stay known give way to ones that run.
        for ix in 0..2 * UNITS_MAX {
            let unit = format!("app@{ix}.service");
            watcher.tell(&outlet, state(&unit, "active"));
            watcher.tell(&outlet, state(&unit, "inactive"));
        }
        while rx.try_recv().is_ok() {}
        watcher.tell(&outlet, state("nginx.service", "active"));
        assert_eq!(rx.try_recv(), Ok(Observation::Service(state("nginx.service", "active"))));
        assert!(watcher.told.len() <= UNITS_MAX);
    }
}
