//! Stage 1c: what somebody changed on this server -> `Change`: packages, configuration, firewall,
//! resolver, certificates, schedules, and applications in document roots.
//!
//! Two watches, each on the blocking pool and each with a file of what it saw last in the state
//! directory, so that a change made while the agent was stopped is told after its start: one over the
//! system, every other second, which costs a few system calls while nothing happens, and one over
//! document roots, in turns. What belongs to anybody is looked at by a watch of its own: should a file
//! system hold it, the other one goes on.

mod added;
mod applications;
pub(crate) mod boot;
mod certificates;
pub(crate) mod clocks;
mod configs;
mod cron;
mod docroot;
mod docroots;
mod firewall_logs;
mod folders;
pub mod fuzzing;
mod kept;
mod mark;
mod package_lines;
mod packages;
mod places;
mod quota;
mod refused;
mod schedule;
mod shell;
mod shelves;
mod stack;
mod system;
mod touched;
mod wordfence;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::clock;
use crate::discover::Discovery;
use crate::probes::Outlet;
use crate::timer::Timer;
use crate::window::{Change, Observation};

/// Time between two looks at the system.
const SYSTEM_LOOK: Duration = Duration::from_secs(2);
/// Time between two looks at some document roots.
const DOCROOTS_LOOK: Duration = Duration::from_secs(6);
/// How long the end of the agent waits for a look that is under way.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Changes of one look told one by one; the others are told as one sum.
const CHANGES_MAX: usize = 200;

/// What the watch needs from the rest of the agent.
#[derive(Debug)]
pub struct ChangeInputs {
    /// `[logs] root`: prefix of every path looked at.
    pub root: PathBuf,
    /// Where `changes.json` and `applications.json` live.
    pub state_dir: PathBuf,
    /// What discovery found, and finds later.
    pub discovery: watch::Receiver<Arc<Discovery>>,
}

/// One of the two watches.
trait Look: Send + 'static {
    /// Looks once; keeps what it saw.
    fn look(&mut self, discovery: &Arc<Discovery>) -> Vec<Observation>;

    /// Keeps what it saw, for the next start.
    fn stop(&mut self);
}

/// Starts the watches on the current runtime; they end with `stop`.
pub fn spawn(inputs: ChangeInputs, outlet: Outlet, stop: CancellationToken) -> JoinHandle<()> {
    let ChangeInputs { root, state_dir, discovery } = inputs;
    if let Some(boot) = boot::look(&state_dir) {
        tracing::info!(kind = boot.kind, what = boot.what, "changed on this server");
        outlet.send(Observation::Change(boot));
    }
    let system = system::System::new(root.clone(), &state_dir);
    let docroots = docroots::Docroots::new(root, &state_dir);
    let system = run(system, SYSTEM_LOOK, discovery.clone(), outlet.clone(), stop.clone());
    let docroots = run(docroots, DOCROOTS_LOOK, discovery, outlet, stop);
    tokio::spawn(async move {
        tokio::join!(system, docroots);
    })
}

async fn run(
    mut watch: impl Look,
    period: Duration,
    mut discovery: watch::Receiver<Arc<Discovery>>,
    outlet: Outlet,
    stop: CancellationToken,
) {
    let mut timer = Timer::new();
    loop {
        let known = discovery.borrow_and_update().clone();
        // On the blocking pool: the first look reads every file, and a disk may hang.
        let mut looked = tokio::task::spawn_blocking(move || {
            let observations = watch.look(&known);
            (watch, observations)
        });
        let (back, observations) = tokio::select! {
            biased;
            () = stop.cancelled() => {
                // What was told before is kept, lest the next start tell it again; what this look finds
                // is found by the first one of that start. One that hangs is not waited for.
                if let Ok(Ok((mut watch, observations))) = timeout(LAST_LOOK, looked).await
                    && observations.is_empty()
                {
                    watch.stop();
                }
                return;
            }
            looked = &mut looked => match looked {
                Ok(looked) => looked,
                Err(_) => return,
            },
        };
        watch = back;
        for observation in observations {
            if let Observation::Change(change) = &observation {
                tracing::info!(kind = change.kind, what = change.what, "changed on this server");
            }
            outlet.send(observation);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                watch.stop();
                return;
            }
            // Cancel-safe: a timer.
            () = timer.wait(until_next(clock::now(), period)) => {}
            // Cancel-safe: what is new stays marked so.
            Ok(()) = discovery.changed() => {}
        }
    }
}

/// Until the next multiple of the period on the wall clock: one wake-up serves all that wait for it.
fn until_next(now: UnixMillis, period: Duration) -> Duration {
    let period_ms = i64::try_from(period.as_millis()).unwrap_or(i64::MAX);
    let left_ms = period_ms - now.0.rem_euclid(period_ms);
    Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
}

/// Cuts a flood: what answers requests comes first, the rest is summed up.
fn cut(changes: Vec<Change>, now: UnixMillis) -> Vec<Change> {
    if changes.len() <= CHANGES_MAX {
        return changes;
    }
    // Of one site that changes a lot the first ones: the others' stay.
    let mut n_by_site: BTreeMap<Option<String>, usize> = BTreeMap::new();
    let mut sorted: Vec<((bool, usize), Change)> = Vec::with_capacity(changes.len());
    for change in changes {
        let n_before = match &change.site {
            Some(_) => {
                let n = n_by_site.entry(change.site.clone()).or_default();
                std::mem::replace(n, *n + 1)
            }
            None => 0,
        };
        let is_minor = match change.kind {
            "package" => !stack::is_of_stack(&change.what),
            "plugin" => true,
            _ => false,
        };
        sorted.push(((is_minor, n_before), change));
    }
    sorted.sort_by_key(|(rank, _)| *rank);
    let mut changes: Vec<_> = sorted.into_iter().map(|(_, change)| change).collect();
    let rest = changes.split_off(CHANGES_MAX);
    let what = format!("and {} further changes at once", rest.len());
    // Where all are of sites, their sum is none of the server.
    let first = rest.iter().find(|change| change.site.is_none()).or(rest.first());
    let (kind, site) = first.map_or(("package", None), |first| (first.kind, first.site.clone()));
    changes.push(Change { site, ..Change::new(kind, what, now) });
    changes
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;

    /// The agent is stopped while it looks.
    struct Interrupted {
        stop: CancellationToken,
        finds: Vec<Observation>,
        is_kept: Arc<AtomicBool>,
    }

    impl Look for Interrupted {
        fn look(&mut self, _: &Arc<Discovery>) -> Vec<Observation> {
            self.stop.cancel();
            std::mem::take(&mut self.finds)
        }

        fn stop(&mut self) {
            self.is_kept.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_stop_in_the_middle_of_a_look_keeps_what_was_told_before_and_nothing_untold() {
        let found = Observation::Change(Change::new("plugin", "x".to_owned(), UnixMillis(1)));
        for (finds, want) in [(Vec::new(), true), (vec![found], false)] {
            let (stop, is_kept) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
            let watch = Interrupted { stop: stop.clone(), finds, is_kept: Arc::clone(&is_kept) };
            let (_discovery_tx, discovery) = watch::channel(Arc::new(Discovery::default()));
            let (observations_tx, mut observations) = tokio::sync::mpsc::channel(9);
            let outlet = Outlet::new(observations_tx, Arc::new(AtomicU64::new(0)));
            run(watch, SYSTEM_LOOK, discovery, outlet, stop).await;
            assert_eq!(is_kept.load(Ordering::Relaxed), want);
            assert!(observations.try_recv().is_err(), "the next start tells it");
        }
    }

    #[test]
    fn a_flood_is_summed_up_and_what_answers_requests_comes_first() {
        let change =
            |name: &str| Change::new("package", format!("{name} 1 installed"), UnixMillis(1));
        let mut all: Vec<_> = (0..250).map(|n| change(&format!("lib{n}"))).collect();
        all.push(change("php8.2-fpm"));
        let told = cut(all.clone(), UnixMillis(2));
        assert_eq!(told.len(), CHANGES_MAX + 1);
        assert_eq!(told[0].what, "php8.2-fpm 1 installed");
        assert_eq!(told[CHANGES_MAX].what, "and 51 further changes at once");
        all.truncate(CHANGES_MAX);
        assert_eq!(cut(all.clone(), UnixMillis(2)), all);
    }

    #[test]
    fn a_site_that_changes_a_lot_takes_no_place_of_another_ones_update() {
        let change = |kind, site: &str, n: usize| {
            let change = Change::new(kind, format!("{n}"), UnixMillis(1));
            Change { site: Some(site.to_owned()), ..change }
        };
        let mut all: Vec<_> = (0..300).map(|n| change("plugin", "loud.example", n)).collect();
        all.extend((0..5).map(|n| change("plugin", "calm.example", n)));
        let told = cut(all, UnixMillis(2));
        let of = |site: &str| told.iter().filter(|c| c.site.as_deref() == Some(site)).count();
        assert_eq!((of("calm.example"), of("loud.example")), (5, CHANGES_MAX - 5 + 1));
        assert_eq!(told[CHANGES_MAX].what, "and 105 further changes at once");
    }

    #[test]
    fn looks_are_at_multiples_of_their_period() {
        let wait = |now| until_next(UnixMillis(now), Duration::from_secs(2)).as_millis();
        assert_eq!([wait(0), wait(1), wait(1999), wait(2000)], [2000, 1999, 1, 2000]);
    }
}
