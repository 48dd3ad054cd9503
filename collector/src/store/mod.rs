//! Stage 7: SQLite. One thread writes, a pool of connections reads.
//!
//! Invariant: what `write` returned `Ok` for, and what `append` calls stored, is on disk
//! (WAL with `synchronous=FULL`). Watermarks and `committed` change only after the commit.
//! rusqlite is used only in this folder: other stages call the functions of its files.

pub mod backup;
mod ballast;
mod batch;
mod blocks;
pub mod collector;
mod columns;
mod damage;
pub mod digests;
pub mod fleet;
pub mod evidence;
pub mod happened;
pub mod history;
mod fresh;
mod guard;
mod hot;
pub mod hours;
pub mod follow;
pub mod incidents;
mod insert;
pub mod join;
mod keeper;
pub mod metrics;
mod migrate;
pub mod notices;
mod open;
pub mod outbox;
mod pool;
pub mod presence;
pub mod pulse;
pub mod quarantine;
pub mod read;
mod retention;
pub mod rollup;
pub mod routes;
pub mod schedules;
mod seal;
pub mod silences;
pub mod spells;
pub mod sketch;
pub mod subjects;
pub mod tokens;
pub mod verify;
mod watermark;
mod writer;

#[cfg(test)]
mod bad_input_tests;
#[cfg(test)]
mod flip_tests;
#[cfg(test)]
mod hot_flip_tests;
#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
#[path = "proof_tests.rs"]
mod proof;
#[cfg(test)]
mod stall_tests;
#[cfg(test)]
mod upset_tests;
#[cfg(test)]
mod upgrade_tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Transaction};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

pub use batch::{HotRow, Ledger, NewBatch, Outcome, SiteRow, SiteSeen, Watermark};
pub use fresh::FreshRow;
pub(crate) use hot::is_plausible;
pub use keeper::Keeper;
pub use open::peek;
pub use presence::Seen;

/// What reads get, and what they give: for the stages that put several reads together.
pub use rusqlite::{Connection as Conn, Result as ReadResult, Transaction as WriteTx};

use crate::ingest::convert::Opened;
use crate::model::ServerId;
use crate::selfstats::SelfStats;
use writer::{Finish, Job, Writer};

/// Makes a job fail, and with it all it wrote, for a reason that is not the database's.
pub fn failed(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// The site that counts for all sites beyond the limit of their server; agents name theirs alike.
pub const OTHER: &str = "other";

/// Jobs that may wait for the writer: one full group. When full, callers wait.
const QUEUE_JOBS_MAX: usize = writer::GROUP_MAX;

/// KiB of batch bodies that may wait for the writer. When full, callers wait.
const QUEUE_KIB_MAX: u32 = 64 * 1024;

/// Longest check of the whole database, which reads all of it.
const LOOK_TIME_MAX: Duration = Duration::from_secs(600);

/// Why the store could not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("the database refused")]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that held the job could not be committed: nothing of it happened.
    #[error("the database did not commit")]
    Commit(#[source] Arc<rusqlite::Error>),
    /// The disk is full or broken.
    #[error("{path}: the disk is full or does not write; free space on it")]
    Full {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// Another program holds the database's lock for long.
    #[error("{path}: another program holds the database; find it with `fuser {path}` and stop it")]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// A read took longer than the store allows.
    #[error("the read took longer than {0:?}: ask for a shorter time or less")]
    ReadTooLong(Duration),
    /// Another collector uses the directory.
    #[error(
        "{dir}: in use by another collector (process {pid}); stop it, or set another `data_dir`"
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Process that holds it.
        pid: String,
    },
    /// A later release wrote the database.
    #[error(
        "{path}: written by a later release (schema {found}, this one knows {known}) and left untouched; install that release again or restore a backup"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// The file is no database, or a broken one.
    #[error(
        "{path}: the database is damaged; restore a backup with `gatewatch-collector restore FILE --force`, which keeps the damaged one"
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It was found damaged while it was used.
    #[error("{path}: the database is damaged and takes nothing more")]
    Damaged {
        /// The database.
        path: PathBuf,
    },
    /// A restore that was interrupted cannot be finished.
    #[error("a restore cannot be finished")]
    Restore(#[source] backup::BackupError),
    /// The file cannot be opened.
    #[error("{path}: the database cannot be opened; check that this user may write there")]
    Open {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file system cannot do what WAL needs.
    #[error("{path}: the file system does not support a write-ahead log; use a local disk")]
    NoWal {
        /// The database.
        path: PathBuf,
    },
    /// The schema could not be brought up to date.
    #[error(
        "{path}: the schema could not be brought up to date, and the database is left as it was; start the release before, and report this"
    )]
    Migration {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        source: rusqlite_migration::Error,
    },
    /// There is no space to bring the schema up to date.
    #[error(
        "{path}: the schema cannot be brought up to date: that takes {need_mib} MiB, and {free_mib} MiB are free there; the database is left as it was: free space, then start again"
    )]
    NoSpaceToMigrate {
        /// The database.
        path: PathBuf,
        /// What it may take.
        need_mib: u64,
        /// What the disk has.
        free_mib: u64,
    },
    /// A file beside the database could not be used.
    #[error("{path}: cannot be used; check that this user may write there")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A day or month file cannot be used; what was to go into it stays where it is.
    #[error("{path}: history cannot be written or read there")]
    DayFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The writer thread is gone.
    #[error("the store is closed")]
    Closed,
}

/// A handle on the store; cheap to clone. The last one dropped closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    bytes: Arc<Semaphore>,
    readers: pool::Readers,
    shared: Arc<Shared>,
    dir: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer publishes after each commit.
struct Shared {
    watermarks: RwLock<HashMap<ServerId, Watermark>>,
    hot: RwLock<hot::HotIndex>,
    fresh: Mutex<fresh::Fresh>,
    /// A job that does not wait for others is in the queue, or nothing comes any more.
    urgent: Notify,
    committed: watch::Sender<i64>,
    revoked: watch::Sender<Arc<BTreeSet<Vec<u8>>>>,
    stats: Arc<SelfStats>,
    /// Who reads `hot` in several turns.
    holds: Arc<history::Holds>,
    /// How full the catalog of series is.
    catalog: Mutex<metrics::Catalog>,
    quarantine: quarantine::Quarantine,
    backups: backup::Backups,
    damaged_batches: damage::Batches,
    /// Held while the database is checked.
    looks: tokio::sync::Mutex<()>,
    /// Why the database can be used no more.
    damaged: watch::Sender<Option<Arc<str>>>,
}

impl Shared {
    fn fresh(&self) -> MutexGuard<'_, fresh::Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Opens or creates `gatewatch.db` in `dir` and brings its schema up to date.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, 0)
    }

    /// The same, with a ballast file of so many bytes: space that is given up when the disk is
    /// full, because even deleting needs some.
    pub fn open_with(dir: &Path, ballast_bytes: u64) -> Result<Self, StoreError> {
        let lock = open::lock(dir)?;
        damage::finish_interrupted(dir)?;
        damage::look_closer(dir)?;
        let conn = open::writer(dir)?;
        let (watermarks, last) = open::watermarks(&conn)?;
        let (hot, lacks_rows) = hot::HotIndex::load(&open::passer(dir)?)?;
        if lacks_rows {
            damage::check_all(&conn, dir)?;
        }
        let damaged = hot.damaged().to_vec();
        let stats = Arc::new(SelfStats::default());
        let shared = Arc::new(Shared {
            watermarks: RwLock::new(watermarks),
            hot: RwLock::new(hot),
            fresh: Mutex::default(),
            urgent: Notify::new(),
            committed: watch::Sender::new(last),
            revoked: watch::Sender::new(Arc::new(presence::revoked(&conn)?)),
            quarantine: quarantine::Quarantine::load(&conn, Arc::clone(&stats))?,
            stats: Arc::clone(&stats),
            holds: Arc::default(),
            catalog: Mutex::default(),
            backups: backup::Backups::default(),
            damaged_batches: damage::Batches::default(),
            looks: tokio::sync::Mutex::default(),
            damaged: watch::Sender::new(None),
        });
        let readers = pool::Readers::open(dir, stats)?;
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS_MAX);
        let ballast = ballast::Ballast::new(dir, ballast_bytes);
        let writer = Writer::new(dir, conn, lock, ballast, Arc::clone(&shared), last);
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(queue))
            .map_err(|source| StoreError::File { path: dir.to_owned(), source })?;
        let bytes = Arc::new(Semaphore::new(QUEUE_KIB_MAX as usize));
        let thread = Mutex::new(Some(thread));
        let store = Self {
            inner: Arc::new(Inner {
                jobs: Some(jobs),
                bytes,
                readers,
                shared,
                dir: dir.to_owned(),
                thread,
            }),
        };
        for id in damaged {
            store.batch_damaged(id, None);
        }
        Ok(store)
    }

    /// Runs `job` on the writing thread; committed when this returns `Ok`.
    ///
    /// It shares its transaction with the batches and jobs around it: if it fails only its own
    /// work is undone, if the commit fails all of it is. Waits while the queue is full.
    pub async fn write<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let run = move |tx: Option<&Transaction<'_>>| -> (Option<rusqlite::Error>, Finish) {
            let (value, error) = match tx.map(job).transpose() {
                Ok(value) => (value, None),
                Err(error) => (None, Some(error)),
            };
            let finish = |end: Result<(), StoreError>| {
                drop(done.send(end.and_then(|()| value.ok_or(StoreError::Closed))));
            };
            (error, Box::new(finish))
        };
        self.send(Job::Write(Box::new(run))).await?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `query` on one snapshot of the database; cut off after 30 s.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let done = self.inner.readers.read(query).await;
        self.mind_damage(done).await
    }

    /// What a reader came back with. Where it met damage, perhaps of another file: looks whether it is the
    /// database's. That goes on when whoever met it does not wait for so long.
    async fn mind_damage<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Sqlite(error)) = &done
            && damage::may_be_damage(error)
        {
            let this = self.clone();
            let look = tokio::spawn(async move { this.look_at_all().await });
            drop(tokio::time::timeout(pool::READ_TIME_MAX, look).await);
        }
        done
    }

    /// Checks all of the database, once at a time.
    async fn look_at_all(&self) {
        let Ok(_turn) = self.inner.shared.looks.try_lock() else { return };
        if self.inner.shared.damaged.borrow().is_some() {
            return;
        }
        let readers = &self.inner.readers;
        let checked = readers.read_long(LOOK_TIME_MAX, |conn, _| damage::quick_check(conn)).await;
        let why = match checked {
            Ok(None) => return,
            Ok(Some(why)) => why,
            Err(StoreError::Sqlite(error)) if damage::is_damage(&error) => error.to_string(),
            Err(error) => {
                tracing::warn!(%error, "the database cannot be checked");
                return;
            }
        };
        damage::found(&self.inner.dir, &why);
        self.inner.shared.damaged.send_replace(Some(why.into()));
    }

    /// Queues a batch for the next group commit; waits here while the queue is full.
    ///
    /// The receiver gets the outcome after the commit. Batches of one server are committed in the
    /// order in which they were appended.
    pub async fn append(
        &self,
        batch: NewBatch,
    ) -> Result<oneshot::Receiver<Result<Outcome, StoreError>>, StoreError> {
        self.append_opened(batch, None).await
    }

    /// The same of a batch whose body is open already: that goes to whoever folds it, if there is room.
    pub async fn append_opened(
        &self,
        batch: NewBatch,
        mut opened: Option<Opened>,
    ) -> Result<oneshot::Receiver<Result<Outcome, StoreError>>, StoreError> {
        let bytes = Arc::clone(&self.inner.bytes);
        let kib_of = |n: usize| u32::try_from(n / 1024 + 1).unwrap_or(u32::MAX).min(QUEUE_KIB_MAX);
        let n_opened = opened.as_ref().map_or(0, |opened| opened.n_bytes_max);
        let both = kib_of(batch.body.len().saturating_add(n_opened));
        let room = if let Ok(room) = Arc::clone(&bytes).try_acquire_many_owned(both) {
            room
        } else {
            opened = None;
            let room = bytes.acquire_many_owned(kib_of(batch.body.len())).await;
            room.map_err(|_| StoreError::Closed)?
        };
        let (done, outcome) = oneshot::channel();
        self.send(Job::Append { batch: Box::new((batch, opened)), done, room }).await?;
        Ok(outcome)
    }

    /// Takes the batches after position `after`, as far as they are still there as they came: they are
    /// for one reader. Empty when the next one must be read from `hot`, or there is none.
    pub fn take_fresh(&self, after: i64, n_max: usize) -> Vec<FreshRow> {
        self.inner.shared.fresh().take(after, n_max)
    }

    /// Notes that a server was heard of; written with the next commit, within seconds.
    ///
    /// Dropped when the queue is full: the next heartbeat says it again.
    pub fn seen(&self, server: ServerId, seen: Seen) {
        if let Some(jobs) = &self.inner.jobs {
            drop(jobs.try_send(Job::Seen(server, seen)));
        }
    }

    /// Position of the last committed batch: `hot.id`. Changes after its commit.
    pub fn committed(&self) -> watch::Receiver<i64> {
        self.inner.shared.committed.subscribe()
    }

    /// Position of the last committed batch, now.
    pub fn last_committed(&self) -> i64 {
        *self.inner.shared.committed.borrow()
    }

    /// Serial numbers of the revoked certificates. Changes after the commit that revokes one.
    pub fn revoked(&self) -> watch::Receiver<Arc<BTreeSet<Vec<u8>>>> {
        self.inner.shared.revoked.subscribe()
    }

    /// Positions of the batches of one server that are in `hot`, rising. Take them before the snapshot
    /// they are looked up in: a position without a row was sealed and deleted in between.
    pub fn hot_ids(&self, server: ServerId) -> Vec<i64> {
        self.hot().ids(server)
    }

    /// Servers with a batch in `hot`, by id.
    pub fn hot_servers(&self) -> Vec<ServerId> {
        self.hot().servers()
    }

    fn hot(&self) -> RwLockReadGuard<'_, hot::HotIndex> {
        self.inner.shared.hot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn hot_mut(&self) -> RwLockWriteGuard<'_, hot::HotIndex> {
        self.inner.shared.hot.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog(&self) -> MutexGuard<'_, metrics::Catalog> {
        self.inner.shared.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this server's batches are committed.
    pub fn durable(&self, server: ServerId) -> Watermark {
        let marks = self.inner.shared.watermarks.read().unwrap_or_else(PoisonError::into_inner);
        marks.get(&server).copied().unwrap_or_default()
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Counters of ingest and store.
    pub fn stats(&self) -> &Arc<SelfStats> {
        &self.inner.shared.stats
    }

    /// What was found damaged.
    pub fn quarantine(&self) -> &quarantine::Quarantine {
        &self.inner.shared.quarantine
    }

    /// Who may make a backup, and how those stand that are made by themselves.
    pub fn backups(&self) -> &backup::Backups {
        &self.inner.shared.backups
    }

    /// Why the database can be used no more, once that is found: nothing is written from then on.
    pub fn damaged(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.inner.shared.damaged.subscribe()
    }

    /// Commits what is queued, writes the watermarks and ends the writer; later jobs get `Closed`.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (done, closed) = oneshot::channel();
        self.send(Job::Close(done)).await?;
        closed.await.map_err(|_| StoreError::Closed)
    }

    async fn send(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.inner.jobs.as_ref().ok_or(StoreError::Closed)?;
        let is_urgent = job.is_urgent();
        if jobs.capacity() == 0 {
            self.inner.shared.urgent.notify_one(); // the group is complete
        }
        jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        if is_urgent {
            self.inner.shared.urgent.notify_one();
        }
        Ok(())
    }
}

impl Drop for Inner {
    /// Waits for the last commit, so that whoever opens the directory next finds it free.
    fn drop(&mut self) {
        self.jobs = None;
        self.shared.urgent.notify_one();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread ended by a panic");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
