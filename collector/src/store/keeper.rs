//! What keeps the store small: sealing, rollups, retention, in turns on one task.
//!
//! Nothing here is on the way of a batch: it reads like everybody, writes day and month files itself and
//! `gatewatch.db` through the writer in small steps. A crash anywhere repeats the step.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::{Store, StoreError, retention, rollup, seal};
use crate::config::{RetentionConfig, StoreConfig};
use crate::{clock, errors};

/// How far ahead of its agents a clock is believed, ms: they may be out of step by a zone, and keep batches.
const PROOF_MS: i64 = 86_400_000;

/// The task and what it works with.
#[derive(Clone)]
pub struct Keeper {
    pub(super) store: Store,
    /// The data directory.
    pub(super) dir: PathBuf,
    pub(super) pace: StoreConfig,
    pub(super) retention: RetentionConfig,
    /// Fires when the step that runs should end soon.
    pub(super) stop: CancellationToken,
    /// What was said once of a file, so that it is not said each minute.
    told: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Keeper {
    /// Describes the task; nothing runs yet.
    #[must_use]
    pub fn new(
        store: Store,
        pace: StoreConfig,
        retention: RetentionConfig,
        stop: CancellationToken,
    ) -> Self {
        let dir = store.dir().to_owned();
        Self { store, dir, pace, retention, stop, told: Arc::default() }
    }

    /// Looks each `seal_interval` until stopped.
    pub async fn run(self) {
        let mut turns =
            tokio::time::interval(self.pace.seal_interval.0.max(Duration::from_millis(1)));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                // Cancel-safe: a turn that is not taken is due at once.
                _ = turns.tick() => {}
            }
            // Told already, step by step; all of it is tried again at the next turn.
            drop(self.pass(clock::now()).await);
        }
    }

    /// The time against which history is old: `now` as far as agents confirm it, give or take a day. A clock
    /// that jumps ahead for some passes drops nothing, and neither does a collector that nobody talks to:
    /// `None`. One that was off for long goes on dropping when most of its agents have caught up.
    pub(super) fn proven(&self, now: UnixMillis) -> Option<UnixMillis> {
        let agreed = self.store.hot_mut().agreed()?;
        Some(now.min(UnixMillis(agreed.0.saturating_add(PROOF_MS))))
    }

    /// Whether something is said of this for the first time since the start.
    pub(super) fn is_news(&self, what: &Path) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(what.to_owned())
    }

    /// Does everything that is due at `now`, once: a step that fails keeps no other from its turn, because
    /// with a full disk it is the last one that makes room. Returns the first error.
    pub async fn pass(&self, now: UnixMillis) -> Result<(), StoreError> {
        let sealed = self.tell("packing", seal::pass(self, now).await);
        if self.stop.is_cancelled() {
            return sealed;
        }
        let rolled = self.tell("summing up", rollup::pass(self, now).await);
        let dropped = self.tell("dropping", retention::pass(self, now).await);
        sealed.and(rolled).and(dropped)
    }

    fn tell(&self, what: &str, ended: Result<(), StoreError>) -> Result<(), StoreError> {
        if let Err(error) = &ended {
            self.store.stats().sealings_failed.one();
            let error = errors::chain(error);
            tracing::error!(what, error, "history could not be kept in order; tried again");
        }
        ended
    }
}
