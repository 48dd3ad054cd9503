//! The one writing thread: group commit, watermarks, gaps, sites and the loss ledger.
//!
//! What queues up during a commit is the next group. A group is one transaction: rows, sites,
//! losses and jobs of one group are on disk together or not at all. Watermarks are published after
//! the commit and only then is anything acked, so an ack never says more than a restart finds.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use super::ballast::Ballast;
use super::insert::{self, Books, Staged};
use super::{NewBatch, Outcome, Seen, Shared, StoreError, damage, open, presence};
use crate::clock;
use crate::ingest::convert::Opened;
use crate::model::ServerId;
use crate::selfstats::SelfStats;

/// Jobs of one transaction at most.
pub(super) const GROUP_MAX: usize = 4096;

/// How long a batch waits for others to share its commit with.
const GATHER: Duration = Duration::from_millis(50);

/// How often an idle writer looks whether something is due.
const TICK: Duration = Duration::from_secs(1);

/// How often watermarks go to their table; what is after that is replayed from `hot` at start.
const WATERMARKS_EVERY: Duration = Duration::from_secs(60);

/// How often signs of life are written: of a small fleet soon, because a server with short
/// heartbeats counts as silent after 5 s; of a large one seldom, because each rewrites a row.
const SEEN_EVERY: Duration = Duration::from_secs(1);
const SEEN_EVERY_LARGE: Duration = Duration::from_secs(5);
const LARGE_FLEET: usize = 500;

/// Pause before a locked database is tried again, and how often; each try waits 5 s by itself.
const BUSY_RETRY: Duration = Duration::from_millis(20);
const BUSY_TRIES: u32 = 12;

/// Tells the caller of a job how its transaction ended.
pub(super) type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Runs in the transaction, or is told that there is none; with an error its work is undone.
pub(super) type WriteJob =
    Box<dyn FnOnce(Option<&Transaction<'_>>) -> (Option<rusqlite::Error>, Finish) + Send>;

/// What goes through the writer's queue.
pub(super) enum Job {
    /// A batch of an agent.
    Append {
        /// The batch, and its body when it is open already.
        batch: Box<(NewBatch, Option<Opened>)>,
        /// Gets the outcome after the commit.
        done: oneshot::Sender<Result<Outcome, StoreError>>,
        /// Its share of the bytes that may wait.
        room: OwnedSemaphorePermit,
    },
    /// Somebody's statements; not waited for, so that people and the detective are served at once.
    Write(WriteJob),
    /// A sign of life.
    Seen(ServerId, Seen),
    /// The end.
    Close(oneshot::Sender<()>),
}

impl Job {
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Append { batch, .. } => batch.0.urgent,
            Self::Write(_) | Self::Close(_) => true,
            Self::Seen(..) => false,
        }
    }
}

/// The thread's state.
pub(super) struct Writer {
    conn: Connection,
    path: PathBuf,
    ballast: Ballast,
    books: Books,
    /// Heard of since they were last written.
    seen: HashMap<ServerId, Seen>,
    seen_written: Instant,
    marks_written: Option<Instant>,
    /// The last commit failed because the disk is full or broken.
    is_full: bool,
    /// Where those are who wait for batches, when it is known.
    runtime: Option<Handle>,
    shared: Arc<Shared>,
    /// Held until the thread ends.
    _lock: File,
}

impl Writer {
    /// Takes over the writing connection; `last` is the highest `hot.id`.
    pub(super) fn new(
        dir: &Path,
        conn: Connection,
        lock: File,
        ballast: Ballast,
        shared: Arc<Shared>,
        last: i64,
    ) -> Self {
        let marks = shared.watermarks.read().unwrap_or_else(PoisonError::into_inner).clone();
        let dirty = marks.keys().copied().collect();
        Self {
            conn,
            path: open::path(dir),
            ballast,
            books: Books { marks, dirty, sites: HashMap::new(), known: HashSet::new(), last },
            runtime: Handle::try_current().ok(),
            seen: HashMap::new(),
            seen_written: clock::instant(),
            marks_written: None,
            is_full: false,
            shared,
            _lock: lock,
        }
    }

    /// Commits group after group until the queue is closed.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let timer = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(timer) => timer,
            Err(error) => {
                tracing::error!(%error, "the store cannot start its timer");
                return;
            }
        };
        self.ballast.take();
        loop {
            let (group, end) = self.gather(&timer, &mut queue);
            let closing = match end {
                GroupEnd::Open => None,
                GroupEnd::Close(done) => Some(Some(done)),
                GroupEnd::Gone => Some(None),
            };
            let due = self.due(closing.is_some());
            if !group.is_empty() || due.is_any() {
                self.commit(&timer, group, due);
            }
            if let Some(done) = closing {
                self.shut();
                if done.is_some_and(|done| done.send(()).is_err()) {
                    tracing::debug!("nobody waited for the store to close");
                }
                return;
            }
        }
    }

    /// What should be written along with the next group, or without one.
    fn due(&self, closing: bool) -> Due {
        let now = clock::instant();
        let marks = self.marks_written.is_none_or(|at| now - at >= WATERMARKS_EVERY);
        let every = if self.seen.len() > LARGE_FLEET { SEEN_EVERY_LARGE } else { SEEN_EVERY };
        let seen = now - self.seen_written >= every;
        Due {
            marks: (marks || closing) && !self.books.dirty.is_empty(),
            seen: (seen || closing) && !self.seen.is_empty(),
            n_damaged: self.shared.quarantine.n_unfiled(),
        }
    }

    /// Waits for a job, then gathers more: for 50 ms, up to 4,096, or only what is there already
    /// when one of them is urgent. Signs of life are noted on the way and start no group.
    fn gather(&mut self, timer: &Runtime, queue: &mut mpsc::Receiver<Job>) -> (Vec<Job>, GroupEnd) {
        let mut group = Vec::new();
        let mut deadline = clock::instant() + TICK;
        while group.len() < GROUP_MAX {
            let wait = deadline.saturating_duration_since(clock::instant());
            let next = match queue.try_recv() {
                Ok(job) => Some(job),
                Err(TryRecvError::Disconnected) => None,
                Err(TryRecvError::Empty) if wait.is_zero() => break,
                Err(TryRecvError::Empty) if group.is_empty() => {
                    match timer.block_on(async { timeout(wait, queue.recv()).await }) {
                        Ok(next) => next,
                        Err(_) => break,
                    }
                }
                Err(TryRecvError::Empty) => {
                    // Not woken by each batch that joins.
                    let urgent = self.shared.urgent.notified();
                    if timer.block_on(async { timeout(wait, urgent).await }).is_err() {
                        deadline = clock::instant();
                    }
                    continue;
                }
            };
            let now = clock::instant();
            match next {
                None => return (group, GroupEnd::Gone),
                Some(Job::Close(done)) => {
                    queue.close();
                    return (group, GroupEnd::Close(done));
                }
                Some(Job::Seen(server, seen)) => {
                    self.seen.insert(server, seen);
                    if now >= deadline {
                        break;
                    }
                }
                Some(job) => {
                    deadline = if job.is_urgent() { now } else { deadline.min(now + GATHER) };
                    group.push(job);
                }
            }
        }
        (group, GroupEnd::Open)
    }

    fn shut(&mut self) {
        // Only makes the next start faster: the log is replayed anyhow.
        if let Err(error) = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
            tracing::warn!(%error, path = %self.path.display(), "the write-ahead log stays");
        }
    }

    /// Refuses a group: nothing is written to a damaged database.
    fn refuse(&self, group: Vec<Job>) {
        for job in group {
            let damaged = StoreError::Damaged { path: self.path.clone() };
            match job {
                Job::Append { done, .. } => drop(done.send(Err(damaged))),
                job => perform(job, None).0(Err(damaged)),
            }
        }
    }

    /// Runs a group in one transaction and tells everyone how it ended.
    fn commit(&mut self, timer: &Runtime, group: Vec<Job>, due: Due) {
        if self.shared.damaged.borrow().is_some() {
            return self.refuse(group);
        }
        let started = clock::instant();
        let stats = Arc::clone(&self.shared.stats);
        let wrote = group.iter().any(|job| matches!(job, Job::Write(_)));
        let mut staged = Staged::default();
        let mut finishes = Vec::with_capacity(group.len());
        let mut acks = Vec::new();
        let (tx, mut failed) = match begin(timer, &self.conn, &stats) {
            Ok(tx) => (Some(tx), None),
            Err(error) => (None, Some(error)),
        };
        for job in group {
            let tx = tx.as_ref().filter(|_| failed.is_none());
            let error = match job {
                Job::Append { batch, done, room } => {
                    let (batch, opened) = *batch;
                    let stored = tx.map(|tx| insert::store(tx, &batch, &self.books, &mut staged));
                    let (outcome, error) = match stored.transpose() {
                        Ok(outcome) => (outcome, None),
                        Err(error) => (None, Some(error)),
                    };
                    if let (Some(Outcome::Stored), Some(opened)) = (outcome, opened) {
                        staged.keep(&batch, opened, self.books.last);
                    }
                    acks.push(Waiting { done, outcome, _room: room });
                    error
                }
                job => {
                    staged.is_job_done = true;
                    let (finish, error) = perform(job, tx);
                    finishes.push(finish);
                    error
                }
            };
            failed = failed.or(error);
        }
        let ended = match (tx, failed) {
            (Some(tx), None) => self.flush(&tx, due).and_then(|()| tx.commit()),
            (_, failed) => Err(failed.expect("without a transaction there is an error")),
        };
        match ended {
            Ok(()) => {
                self.committed(staged, due, wrote);
                stats.commits.one();
                stats.commit_latency.record(clock::instant() - started);
                self.tell(acks);
                for finish in finishes {
                    finish(Ok(()));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                self.failed(&error);
                for Waiting { done, .. } in acks {
                    drop(done.send(Err(self.explain(&error))));
                }
                for finish in finishes {
                    finish(Err(self.explain(&error)));
                }
            }
        }
    }

    /// Says what became of batches that are committed; many at once within the runtime of those who
    /// wait, so that this thread does not wake it for each.
    fn tell(&self, acks: Vec<Waiting>) {
        match &self.runtime {
            Some(runtime) if acks.len() > 1 => {
                drop(runtime.spawn(async move { acks.into_iter().for_each(Waiting::tell) }));
            }
            _ => acks.into_iter().for_each(Waiting::tell),
        }
    }

    fn flush(&self, tx: &Transaction<'_>, due: Due) -> rusqlite::Result<()> {
        if due.marks {
            insert::write_marks(tx, &self.books)?;
        }
        if due.seen {
            for (server, seen) in &self.seen {
                presence::seen(tx, *server, seen)?;
            }
        }
        self.shared.quarantine.file_changes(tx, due.n_damaged)
    }

    /// Takes over what the committed transaction staged, and publishes it.
    fn committed(&mut self, staged: Staged, due: Due, wrote: bool) {
        let now = clock::instant();
        if due.marks {
            self.books.dirty.clear();
            self.marks_written = Some(now);
        }
        if due.seen {
            self.seen.clear();
            self.seen_written = now;
        }
        self.shared.quarantine.filed(due.n_damaged);
        staged.counts.publish(&self.shared.stats);
        for (server, name, row) in staged.sites {
            self.books.sites.entry(server).or_default().insert(name, row);
        }
        // First the rows, then the marks: whoever sees a mark can read the rows below it.
        if let Some(last) = staged.heads.last().map(|head| head.id) {
            let mut hot = self.shared.hot.write().unwrap_or_else(PoisonError::into_inner);
            staged.heads.iter().for_each(|head| hot.add(head));
            drop(hot);
            self.books.last = last;
            self.shared.fresh().add(staged.fresh);
            self.shared.committed.send_replace(last);
        }
        if !staged.marks.is_empty() {
            let mut published =
                self.shared.watermarks.write().unwrap_or_else(PoisonError::into_inner);
            for (server, mark) in staged.marks {
                published.insert(server, mark);
                self.books.marks.insert(server, mark);
                self.books.dirty.insert(server);
            }
        }
        if wrote {
            self.books.known.clear(); // any job may have removed a server
            self.publish_revoked();
        } else {
            self.books.known.extend(staged.known);
        }
        if self.is_full {
            self.is_full = false;
            self.shared.stats.disk_full.set(false);
            self.ballast.take();
            tracing::info!(path = %self.path.display(), "the database takes batches again");
        }
    }

    /// Any job may have revoked a certificate: nobody has to remember to say so.
    fn publish_revoked(&mut self) {
        match presence::revoked(&self.conn) {
            Ok(serials) => {
                self.shared.revoked.send_if_modified(|known| {
                    let is_new = **known != serials;
                    if is_new {
                        *known = Arc::new(serials);
                    }
                    is_new
                });
            }
            Err(error) => tracing::error!(%error, "the revoked certificates cannot be read"),
        }
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        self.shared.stats.commits_failed.one();
        let path = self.path.display();
        if damage::is_damage(error) {
            let why: Arc<str> = error.to_string().into();
            damage::found(self.path.parent().unwrap_or(Path::new("/")), &why);
            self.shared.damaged.send_replace(Some(why));
            return;
        }
        if !is_full(error) {
            tracing::error!(%error, %path, "the database did not commit; agents keep their batches");
            return;
        }
        self.shared.stats.commits_disk_full.one();
        if !self.is_full {
            let free_bytes = self.ballast.free_bytes();
            tracing::error!(
                %error, %path, free_bytes,
                "the disk under the database is full or broken: batches are refused and agents keep them; free space there"
            );
        }
        self.is_full = true;
        self.shared.stats.disk_full.set(true);
        let ballast_bytes = self.ballast.give_up();
        if ballast_bytes > 0 {
            tracing::warn!(%path, ballast_bytes, "the ballast file is given up");
        }
    }

    fn explain(&self, error: &Arc<rusqlite::Error>) -> StoreError {
        let path = self.path.clone();
        if damage::is_damage(error) {
            StoreError::Damaged { path }
        } else if is_full(error) {
            StoreError::Full { path, source: Arc::clone(error) }
        } else if is_busy(error) {
            StoreError::Busy { path }
        } else {
            StoreError::Commit(Arc::clone(error))
        }
    }
}

/// Somebody who waits for the commit of a batch.
struct Waiting {
    done: oneshot::Sender<Result<Outcome, StoreError>>,
    /// `None` when the group failed before its turn.
    outcome: Option<Outcome>,
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    fn tell(self) {
        drop(self.done.send(self.outcome.ok_or(StoreError::Closed)));
    }
}

/// What is written along with a group.
#[derive(Clone, Copy)]
struct Due {
    marks: bool,
    seen: bool,
    /// Changes of the quarantine.
    n_damaged: usize,
}

impl Due {
    fn is_any(self) -> bool {
        self.marks || self.seen || self.n_damaged > 0
    }
}

/// Why gathering ended.
enum GroupEnd {
    /// The group is complete, or nothing came for a while.
    Open,
    /// The store is to be closed.
    Close(oneshot::Sender<()>),
    /// Nobody can send any more.
    Gone,
}

/// Starts the transaction. Busy means that another program writes, which is a bug: counted.
fn begin<'a>(
    timer: &Runtime,
    conn: &'a Connection,
    stats: &SelfStats,
) -> rusqlite::Result<Transaction<'a>> {
    let mut n_tries = 0;
    loop {
        match Transaction::new_unchecked(conn, TransactionBehavior::Immediate) {
            Err(error) if is_busy(&error) && n_tries < BUSY_TRIES => {
                n_tries += 1;
                stats.commits_busy.one();
                tracing::warn!(%error, n_tries, "the database is locked by another program");
                timer.block_on(async { tokio::time::sleep(BUSY_RETRY).await });
            }
            begun => return begun,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn is_full(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

/// Does one job that is no batch; without a transaction only prepares its refusal. An error ends the
/// group.
fn perform(job: Job, tx: Option<&Transaction<'_>>) -> (Finish, Option<rusqlite::Error>) {
    match job {
        Job::Write(run) => run_job(run, tx),
        Job::Append { .. } | Job::Seen(..) | Job::Close(_) => {
            unreachable!("they are kept apart")
        }
    }
}

/// Runs somebody's statements in a savepoint, so that their failure is only theirs.
fn run_job(run: WriteJob, tx: Option<&Transaction<'_>>) -> (Finish, Option<rusqlite::Error>) {
    let Some(tx) = tx else { return (run(None).1, None) };
    if let Err(error) = tx.execute_batch("SAVEPOINT job") {
        return (run(None).1, Some(error));
    }
    match run(Some(tx)) {
        (None, finish) => (finish, tx.execute_batch("RELEASE job").err()),
        // SQLite may have rolled back everything already: the group is over.
        (Some(error), finish) if is_full(&error) || damage::is_damage(&error) => {
            (finish, Some(error))
        }
        (Some(error), finish) => {
            let undone = tx.execute_batch("ROLLBACK TO job; RELEASE job").err();
            (Box::new(move |_| finish(Err(StoreError::Sqlite(error)))), undone)
        }
    }
}
