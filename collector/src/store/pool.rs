//! The reading connections: one per core and one more.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{StoreError, open};
use crate::selfstats::SelfStats;

/// Longest read: an open reader keeps the write-ahead log from being reset, so it grows meanwhile.
const READ_TIME_MAX: Duration = Duration::from_secs(30);

/// How often a read over its time is interrupted.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(100);

/// Idle connections; a reader takes one and puts it back.
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    stats: Arc<SelfStats>,
    time_max: Duration,
}

impl Readers {
    /// Opens the connections.
    pub(super) fn open(dir: &Path, stats: Arc<SelfStats>) -> Result<Self, StoreError> {
        let n = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let idle = (0..n).map(|_| open::reader(dir)).collect::<Result<Vec<_>, _>>()?;
        let turns = Arc::new(Semaphore::new(n));
        Ok(Self { idle: Arc::new(Mutex::new(idle)), turns, stats, time_max: READ_TIME_MAX })
    }

    /// Runs `query` on one snapshot of the database, on a blocking thread. Waits for a free
    /// connection; cut off after [`READ_TIME_MAX`].
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Closed)?;
        let idle = Arc::clone(&self.idle);
        let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = taken.ok_or(StoreError::Closed)?;
        let interrupt = conn.get_interrupt_handle();
        let mut task = tokio::task::spawn_blocking(move || {
            // Put back also when the caller is gone or `query` panics.
            let conn = Borrowed { conn: Some(conn), idle };
            let result = conn.snapshot(query);
            drop(conn);
            drop(turn);
            result
        });
        if let Ok(done) = tokio::time::timeout(self.time_max, &mut task).await {
            return done.map_err(|_| StoreError::Closed)?.map_err(StoreError::Sqlite);
        }
        let ended = loop {
            // Again until it ends: an interrupt between two statements has nothing to cut off.
            interrupt.interrupt();
            if let Ok(ended) = tokio::time::timeout(INTERRUPT_AGAIN, &mut task).await {
                break ended;
            }
        };
        if let Ok(Ok(value)) = ended {
            return Ok(value); // it finished in the moment it was to be cut off
        }
        self.stats.reads_cut_off.one();
        Err(StoreError::ReadTooLong(self.time_max))
    }
}

/// A connection that returns to the idle ones when dropped.
struct Borrowed {
    conn: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Borrowed {
    fn snapshot<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let conn = self.conn.as_ref().expect("taken only by drop");
        let tx = conn.unchecked_transaction()?;
        query(&tx)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_read_that_never_ends_is_cut_off_and_its_connection_serves_again() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Store::open(dir.path()).unwrap();
        let stats = Arc::new(SelfStats::default());
        let mut readers = Readers::open(dir.path(), Arc::clone(&stats)).unwrap();
        readers.time_max = Duration::from_millis(50);
        let endless =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n";
        for _ in 0..5 {
            let count = readers.read(|conn| conn.query_row(endless, [], |r| r.get::<_, i64>(0)));
            assert!(matches!(count.await, Err(StoreError::ReadTooLong(_))));
        }
        assert_eq!(stats.reads_cut_off.get(), 5);
        let one = readers.read(|conn| conn.query_row("SELECT 1", [], |row| row.get::<_, i64>(0)));
        assert_eq!(one.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let written = store.read(|conn| conn.execute("DELETE FROM state", [])).await;
        assert!(written.is_err());
    }
}
