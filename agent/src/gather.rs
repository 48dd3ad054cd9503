//! The data path of the agent, one blocking thread: files in, spooled batches out.
//!
//! Invariant: the counts folded so far are exactly the lines before the read offsets so far. So a
//! batch and the offsets inside it are atomic: what the spool has is never read again, and what it
//! does not have is read again after a crash. The checkpoint file is a shortcut for the spool.
//!
//! While the spool cannot append, nothing is read: the log itself is the queue.

mod cells;
mod configured;
mod files;
mod followed;
mod looks;
mod losses;
mod recovery;
mod rejects;
mod release;
mod status;
mod summaries;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::batch::{self, Cover, Encoded};
use crate::changes::clocks::ClockWatch;
use crate::config::Config;
use crate::discover::Discovery;
use crate::logs::checkpoint::{Checkpoint, Position};
use crate::logs::join::{Judge, OTHER};
use crate::logs::watch::Watch;
use crate::spool::{Pos, Spool, SpoolError, Volume};
use crate::timer::{self, Timer};
use crate::window::{Loss, Observation, Windows};
use crate::{chain, clock};

use files::{Files, PassEnd};
use looks::Due;
use recovery::{moved, recover};
pub use rejects::{Rejects, Sample};
pub use status::{FileStatus, GatherStatus};

/// Time a first gateway error waits for its companions.
const URGENT_GATHER: Duration = Duration::from_millis(10);
/// Shortest time between two batches.
const BATCH_GAP: Duration = Duration::from_millis(250);
/// Shortest time between two readings: writes that come in bursts are read together.
const READ_GAP: Duration = Duration::from_millis(20);
/// Time between tries of a spool that could not append.
const RETRY_GAP: Duration = Duration::from_secs(1);
/// Time between checkpoints; the spooled records since the last one are applied at start, so that a
/// disk at rest is not written to for each batch.
const CHECKPOINT_GAP: Duration = Duration::from_secs(60);
/// Batches whose offsets are remembered until they are acked; beyond it `acked` lags in `status`.
const UNACKED_MAX: usize = 4096;

/// What the thread works with; the other ends are joined in `lib.rs`.
pub struct GatherInputs {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// A newer one after SIGHUP, of which sources and privacy are taken over. Logs that are no
    /// longer named are followed while they are written, and for a day more.
    pub reloaded: watch::Receiver<Arc<Config>>,
    /// Where batches go.
    pub spool: Arc<Mutex<Spool>>,
    /// Told after each append.
    pub spooled: Arc<Notify>,
    /// From probes and changes; at most [`crate::window::OBSERVATIONS_MAX`] wait.
    pub observations: mpsc::Receiver<Observation>,
    /// What the queue of observations refused; taken into the loss ledger.
    pub n_observations_dropped: Arc<AtomicU64>,
    /// Status for heartbeats, probes and the `status` command. Receivers are only woken by a
    /// gateway error, a batch, or a change of `blocked`; the rest is updated in place.
    pub status: watch::Sender<GatherStatus>,
    /// What discovery found; sent again when a configuration file changed.
    pub discovery: watch::Sender<Arc<Discovery>>,
    /// Time between batches while nothing fails; the collector throttles through it.
    pub batch_interval: watch::Receiver<Duration>,
    /// The agent needs more memory than it may: less is remembered until that is over.
    pub is_memory_short: Arc<AtomicBool>,
    /// Ends the thread: it reads every file to its end once more, appends, saves, returns.
    pub stop: CancellationToken,
}

/// Starts the thread. It returns only after `stop`, also when the disk is full.
pub fn spawn(inputs: GatherInputs) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("gather".to_owned()).spawn(move || {
        let _context = runtime.enter();
        let mut gather = Gather::start(inputs);
        while !gather.inputs.stop.is_cancelled() {
            gather.step();
            let until = gather.next_due();
            runtime.block_on(gather.wait(until));
        }
        gather.finish();
    })
}

/// A batch on its way to the disk, with everything its success means.
struct Pending {
    encoded: Encoded,
    positions: Vec<Position>,
    complete_until: UnixMillis,
    loss: Loss,
}

struct Gather {
    inputs: GatherInputs,
    files: Files,
    watch: Watch,
    timer: Timer,
    judge: Judge,
    windows: Windows,
    checkpoint_path: PathBuf,
    /// What is spooled: the offsets of the last appended batch.
    checkpoint: Checkpoint,
    pending: Option<Pending>,
    /// Spooled batches not acked yet: position, and offsets by file.
    unacked: VecDeque<(Pos, Vec<(usize, u64)>)>,
    has_new_inventory: bool,
    /// Every line written before this is folded.
    read_until: UnixMillis,
    /// The last pass stopped before the end of a file.
    has_more: bool,
    loss: Loss,
    n_spool_corrupt: u64,
    has_save_failed: bool,
    last_read: Instant,
    last_look: Option<Instant>,
    /// Wall clock at the look before the last: rotated files older than this are known.
    looked_at: UnixMillis,
    last_looked_at: UnixMillis,
    last_batch: Instant,
    last_save: Instant,
    last_try: Option<Instant>,
    /// When the first gateway error of the open windows was read.
    urgent_since: Option<Instant>,
    clocks: ClockWatch,
    /// Since when who asks is looked at.
    shares_since: Instant,
    /// Memory is short.
    is_lean: bool,
}

impl Gather {
    /// Loads the checkpoint, applies the spooled records after it, opens every log.
    fn start(inputs: GatherInputs) -> Self {
        let (now, at) = (clock::instant(), clock::now());
        let checkpoint_path = inputs.config.state_dir.join("checkpoint");
        let (checkpoint, is_first_start) = recover(&checkpoint_path, &inputs.spool, at);
        let config = &inputs.config;
        let mut files = Files::new(&config.logs, &checkpoint, is_first_start);
        let judge = Judge::new(
            files.discovery(),
            config.privacy,
            config.limits.sites_max,
            jiff::tz::TimeZone::system(),
        );
        inputs.discovery.send_replace(Arc::new(files.discovery().clone()));
        files.set_spooled();
        let mut gather = Self {
            files,
            watch: Watch::new(),
            timer: Timer::new(),
            judge,
            windows: Windows::default(),
            checkpoint_path,
            pending: None,
            unacked: VecDeque::new(),
            has_new_inventory: true,
            read_until: UnixMillis::default(),
            has_more: false,
            loss: Loss::default(),
            n_spool_corrupt: 0,
            has_save_failed: false,
            last_read: now,
            last_look: None,
            looked_at: checkpoint.saved_at,
            last_looked_at: checkpoint.saved_at,
            checkpoint,
            last_batch: now,
            last_save: now,
            last_try: None,
            urgent_since: None,
            clocks: ClockWatch::new(now, clock::since_boot(), at),
            shares_since: now,
            is_lean: false,
            inputs,
        };
        gather.files.watch_configs(&mut gather.watch);
        gather.look(now, at);
        gather.files.set_spooled();
        // Before anything is read: where a log was first joined must survive a crash.
        gather.checkpoint.positions = gather.files.positions();
        gather.save_checkpoint(now);
        gather.publish(true);
        gather
    }

    /// One round: look, read, and send what is due. Never waits.
    fn step(&mut self) {
        let (now, at) = (clock::instant(), clock::now());
        for change in self.clocks.look(now, clock::since_boot(), at) {
            tracing::warn!(what = change.what, "clocks");
            self.observe(Observation::Change(change));
        }
        if self.pending.is_some() {
            if self.last_try.is_none_or(|last| now >= last + RETRY_GAP) {
                self.append(now);
            }
            if self.pending.is_some() {
                self.publish(true);
                return; // the log itself is the queue
            }
        }
        self.observe_waiting();
        if self.inputs.reloaded.has_changed().unwrap_or(false) {
            self.reload();
        }
        let mut is_look_due = now >= self.look_due().early;
        let files = &mut self.files;
        self.watch.drain(|event| files.mark(event));
        if self.files.take_look_wanted() {
            self.files.rewatch();
            self.files.watch_configs(&mut self.watch);
            is_look_due = true;
        }
        is_look_due |= self.files.touched_due().is_some_and(|due| now >= due);
        if is_look_due {
            self.look(now, at);
            self.keep_to_memory();
            self.tell_refusals(at, false);
        }
        if now >= self.last_read + READ_GAP || is_look_due {
            self.files.look(false, now, at, &mut self.judge, &mut self.watch);
            self.read(is_look_due, now, at);
        }
        if self.is_batch_due(now) {
            self.close(now);
        }
        self.publish(is_look_due);
    }

    /// When everything is looked at next.
    fn look_due(&self) -> Due {
        let Some(last) = self.last_look else { return Due::both(self.last_read) };
        let is_blind = !self.watch.is_complete();
        looks::after(last, self.last_looked_at, self.files.refresh_due(), is_blind)
    }

    /// Takes over sources and privacy of a config that was read again.
    fn reload(&mut self) {
        let config = Arc::clone(&self.inputs.reloaded.borrow_and_update());
        self.judge.set_privacy(config.privacy);
        self.inputs.config = config;
        self.files.discover_again();
        self.last_look = None;
    }

    /// Looks at configuration, globs and the identity of every file.
    fn look(&mut self, now: Instant, at: UnixMillis) {
        self.last_look = Some(now);
        self.looked_at = std::mem::replace(&mut self.last_looked_at, at);
        self.refresh(now, at);
        self.files.release(now, &mut self.judge, &mut self.watch);
        self.files.look(true, now, at, &mut self.judge, &mut self.watch);
        if self.files.is_stale() && self.refresh(now, at) {
            // Before a line of a log that can be read only now is counted.
            self.files.look(true, now, at, &mut self.judge, &mut self.watch);
        }
        self.lose_vanished();
    }

    /// Looks at configuration and globs if it is time; true when there is a new discovery.
    fn refresh(&mut self, now: Instant, at: UnixMillis) -> bool {
        let Some(discovery) = self.files.refresh(&self.inputs.config.logs, now, at) else {
            return false;
        };
        self.judge.rediscovered(discovery);
        self.inputs.discovery.send_replace(Arc::new(discovery.clone()));
        self.has_new_inventory = true;
        self.files.watch_configs(&mut self.watch);
        true
    }

    /// Reads every file that may have something, as far as one batch takes it.
    ///
    /// `has_looked`: every file was looked at in this round, which only counts without inotify.
    fn read(&mut self, has_looked: bool, now: Instant, at: UnixMillis) {
        self.last_read = now;
        let was_urgent = self.windows.is_urgent();
        let end = self.files.read_pass(&mut self.judge, &mut self.windows, now, at);
        self.files.adapt(now, &mut self.watch);
        self.has_more = end != PassEnd::AllRead;
        if end == PassEnd::AllRead && (has_looked || self.watch.is_complete()) {
            self.read_until = at;
        }
        self.lose_vanished();
        if self.windows.is_urgent() && !was_urgent {
            self.urgent_since = Some(now);
        }
        if self.files.take_gateway_error() {
            self.inputs.status.send_if_modified(|status| {
                let is_first =
                    status.gateway_error_at.is_none_or(|last| at.since(last) > BATCH_GAP);
                status.gateway_error_at = Some(at);
                is_first
            });
        }
        if end == PassEnd::WindowFull {
            self.close(now);
        }
    }

    fn observe(&mut self, observation: Observation) {
        match &observation {
            Observation::Service(state) => self.judge.service(state),
            Observation::Dropped(dropped) => self.judge.dropped(*dropped, clock::now()),
            Observation::Attacked { site, n } => self.judge.recorded(site, *n, clock::now()),
            _ => {}
        }
        self.windows.observe(observation);
    }

    fn observe_waiting(&mut self) {
        while self.windows.n_bytes() < batch::WINDOW_BYTES_MAX {
            let Ok(observation) = self.inputs.observations.try_recv() else { break };
            self.observe(observation);
        }
    }

    fn is_batch_due(&self, now: Instant) -> bool {
        self.batch_due().is_some_and(|due| now >= due)
    }

    /// When the open windows are to be closed; `None` while they are empty.
    fn batch_due(&self) -> Option<Instant> {
        if self.windows.n_bytes() >= batch::WINDOW_BYTES_MAX {
            return Some(self.last_batch);
        }
        if let Some(since) = self.urgent_since {
            return Some((since + URGENT_GATHER).max(self.last_batch + BATCH_GAP));
        }
        let is_wanted = !self.windows.is_empty() || self.has_new_inventory;
        let interval = *self.inputs.batch_interval.borrow();
        is_wanted.then(|| self.last_batch + interval.max(BATCH_GAP))
    }

    /// Closes the windows into one batch and appends it.
    fn close(&mut self, now: Instant) {
        if self.pending.is_some() {
            return; // it goes first; what is open is closed after it
        }
        self.lose_elsewhere();
        self.tell_shares(now);
        let has_inventory = std::mem::take(&mut self.has_new_inventory);
        if self.windows.is_empty() && !has_inventory {
            return;
        }
        self.urgent_since = None;
        self.last_batch = now;
        let positions = self.files.positions();
        let cover = Cover {
            complete_until: self.read_until,
            offsets: moved(&positions, &self.checkpoint.positions),
            inventory: has_inventory.then(|| self.files.pools()),
        };
        let closed = self.windows.close();
        let encoded = batch::encode(&closed, self.judge.sites(), &cover);
        if encoded.n_left_out > 0 {
            tracing::warn!(n = encoded.n_left_out, "batch is full: texts were left out");
        }
        let complete_until = cover.complete_until;
        self.pending = Some(Pending { encoded, positions, complete_until, loss: closed.loss });
        self.append(now);
    }

    /// Tries to bring the pending batch to disk; on failure it stays pending.
    fn append(&mut self, now: Instant) {
        let Some(pending) = self.pending.take() else { return };
        self.last_try = Some(now);
        let Encoded { payload, n_lines, n_bytes, .. } = &pending.encoded;
        let volume = Volume { n_lines: (*n_lines).into(), n_bytes: *n_bytes };
        let mut result = self.spool(|spool| spool.append(payload, volume));
        if matches!(result, Err(SpoolError::Full { source: None, .. })) {
            // The budget is full of records that only wait for a checkpoint.
            self.save_checkpoint(now);
            result = self.spool(|spool| spool.append(payload, volume));
        }
        match result {
            Ok(pos) => self.appended(pending, pos, now),
            Err(error) => {
                self.pending = Some(pending);
                self.blocked(&error);
            }
        }
    }

    fn appended(&mut self, pending: Pending, pos: Pos, now: Instant) {
        self.inputs.spooled.notify_one();
        self.loss.add(&pending.loss);
        self.checkpoint.spool_pos = pos.0;
        self.checkpoint.positions = pending.positions;
        let offsets = self.files.set_spooled();
        if self.unacked.len() >= UNACKED_MAX {
            self.unacked.pop_front();
        }
        self.unacked.push_back((pos, offsets));
        if self.inputs.status.borrow().blocked.is_some() {
            tracing::info!("spool takes batches again: reading on");
        }
        let loss = self.loss;
        self.inputs.status.send_modify(|status| {
            status.blocked = None;
            status.loss = loss;
            status.complete_until = pending.complete_until;
        });
        if now >= self.last_save + CHECKPOINT_GAP {
            self.save_checkpoint(now);
        }
    }

    fn blocked(&mut self, error: &SpoolError) {
        let reason = chain(error);
        let mut is_new = false;
        self.inputs.status.send_if_modified(|status| {
            is_new = status.blocked.is_none();
            status.blocked = Some(reason.clone());
            is_new
        });
        if is_new {
            tracing::warn!(
                error = %reason,
                "spool cannot take a batch: reading pauses, the logs themselves are the queue"
            );
        }
    }

    /// Saves what is spooled. A failure is told once; the spooled records carry the same.
    fn save_checkpoint(&mut self, now: Instant) {
        self.last_save = now;
        self.checkpoint.saved_at = self.looked_at;
        match self.checkpoint.save(&self.checkpoint_path) {
            Ok(()) => {
                self.has_save_failed = false;
                let pos = Pos(self.checkpoint.spool_pos);
                if let Err(error) = self.spool(|spool| spool.set_checkpointed(pos)) {
                    tracing::warn!(error = %chain(&error), "cannot trim the spool");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.has_save_failed, true) {
                    tracing::warn!(error = %chain(&error), "cannot save the checkpoint");
                }
            }
        }
    }

    /// Updates the status; the list of files only when `with_files`, since it is long.
    fn publish(&mut self, with_files: bool) {
        let is_idle = self.windows.is_empty() && self.pending.is_none() && !self.has_more;
        let n_sites = self.judge.sites().iter().filter(|site| site.name != OTHER).count() as u32;
        if with_files {
            let stats = self.spool(|spool| (spool.last(), spool.stats()));
            let n_unacked = stats.1.seq_last.saturating_sub(stats.1.seq_acked);
            let acked = Pos(stats.0.0.saturating_sub(n_unacked));
            while self.unacked.front().is_some_and(|(pos, _)| *pos <= acked) {
                let (_, offsets) = self.unacked.pop_front().expect("just seen");
                self.files.set_acked(&offsets);
            }
        }
        let (files, read_until) = (&self.files, self.read_until);
        self.inputs.status.send_if_modified(|status| {
            status.n_sites = n_sites;
            if is_idle {
                status.complete_until = read_until;
            }
            if with_files {
                status.files = files.status();
                status.unreadable = files.unreadable();
            }
            false
        });
    }

    fn spool<T>(&self, work: impl FnOnce(&mut Spool) -> T) -> T {
        work(&mut self.inputs.spool.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the next round has something to do, events and observations aside.
    fn next_due(&self) -> Instant {
        if self.pending.is_some() {
            return self.last_try.unwrap_or(self.last_read) + RETRY_GAP;
        }
        let read = (self.has_more || self.files.has_marks()).then(|| self.last_read + READ_GAP);
        let read = if self.has_more { Some(self.last_read) } else { read };
        [read, self.batch_due(), self.files.touched_due()]
            .into_iter()
            .flatten()
            .fold(self.look_due().at, Instant::min)
    }

    /// Waits for a file event, an observation, a throttle, the stop, or the time `until`.
    async fn wait(&mut self, until: Instant) {
        let is_blocked = self.pending.is_some();
        let may_read = self.last_read + READ_GAP;
        if self.files.is_hot() && !self.has_more && !is_blocked {
            timer::rest_until(may_read.min(until), READ_GAP);
            return;
        }
        let stop = self.inputs.stop.clone();
        let left = until.saturating_duration_since(clock::instant());
        let mut is_written = false;
        let observation = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            // Cancel-safe: recv takes nothing unless it completes. Not taken while blocked, so
            // that the queue fills and its senders count what they drop.
            Some(observation) = self.inputs.observations.recv(), if !is_blocked => Some(observation),
            // Cancel-safe: events stay queued in the kernel until `drain`.
            () = self.watch.ready(), if !is_blocked => {
                is_written = true;
                None
            }
            // Cancel-safe: the value is read elsewhere. An error means that nobody throttles.
            Ok(()) = self.inputs.batch_interval.changed() => None,
            // Cancel-safe: a timer.
            () = self.timer.wait(left) => None,
        };
        if let Some(observation) = observation {
            self.observe(observation);
        }
        if is_written {
            timer::rest_until(may_read.min(until), READ_GAP);
        }
    }

    /// Reads every file to its end once, appends, saves.
    ///
    /// A backlog that does not fit half of the grace stays in the logs until the next start.
    fn finish(&mut self) {
        let (began, at) = (clock::instant(), clock::now());
        self.observe_waiting();
        loop {
            let now = clock::instant();
            if self.pending.is_some() {
                self.append(now);
            }
            if self.pending.is_some() {
                tracing::warn!("stopping while the spool is full: the rest is read at next start");
                break;
            }
            self.files.mark_all();
            self.look(now, at);
            self.read(true, now, at);
            let is_late = now > began + self.inputs.config.shutdown_grace.0 / 2;
            let is_last = !self.has_more || is_late;
            self.tell_refusals(at, is_last);
            if is_last || self.windows.n_bytes() >= batch::WINDOW_BYTES_MAX {
                self.close(now);
            }
            if is_last && self.pending.is_none() {
                break;
            }
        }
        self.save_checkpoint(clock::instant());
        self.publish(true);
    }
}

#[cfg(test)]
mod tests;
