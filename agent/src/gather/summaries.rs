//! What the gather thread tells beside counts: shares of clients, what was refused; and how it keeps
//! to its memory.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use wire::UnixMillis;

use super::Gather;
use crate::clock;
use crate::window::Observation;

/// Shortest period that shares are told of: batches may be closer together while requests fail.
const SHARES_GAP: Duration = Duration::from_secs(5);
/// A longer period with few requests is forgotten: they would thin out those of a flood.
const SHARES_AGE_MAX: Duration = Duration::from_secs(60);

impl Gather {
    /// Before the windows close: the shares of who asked, when there were enough requests. A server at
    /// rest tells nothing.
    pub(super) fn tell_shares(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.shares_since);
        if age < SHARES_GAP {
            return;
        }
        let shares = self.files.clients().shares();
        if shares.is_none() && age < SHARES_AGE_MAX {
            return;
        }
        self.shares_since = now;
        let clients = self.files.clients();
        if self.is_lean {
            clients.pause();
        } else {
            clients.restart();
        }
        let at = clock::now();
        let values = shares.map(|shares| self.judge.shares(&shares, at)).unwrap_or_default();
        if !values.is_empty() {
            self.windows.observe(Observation::Samples { at, values });
        }
    }

    /// What was refused, in a few lines; with `all` also what could wait for more.
    pub(super) fn tell_refusals(&mut self, at: UnixMillis, all: bool) {
        for line in self.judge.take_refusals(at, all) {
            self.windows.observe(Observation::Log(line));
        }
    }

    /// Keeps less while the agent needs more memory than it may, and tells so.
    pub(super) fn keep_to_memory(&mut self) {
        let is_short = self.inputs.is_memory_short.load(Ordering::Relaxed);
        if is_short {
            // In each round: what is remembered of a flood comes again.
            self.judge.set_lean(true);
        }
        if std::mem::replace(&mut self.is_lean, is_short) == is_short {
            return;
        }
        self.judge.set_lean(is_short);
        self.windows.set_lean(is_short);
        let clients = self.files.clients();
        if is_short {
            clients.pause();
            tracing::warn!(
                "memory is short: fewer errors are kept whole, error lines are forgotten earlier and \
                 clients are not looked at; requests are counted as ever"
            );
        } else {
            clients.restart();
        }
    }
}
