//! The reading connections: one per core and one more.
//!
//! A read ends when it is done, when its time is over, or soon after whoever asked has gone away. Long
//! ones take turns among themselves, so that short ones always find a connection.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{StoreError, open};
use crate::selfstats::SelfStats;

/// Longest read: an open reader keeps the write-ahead log from being reset, so it grows meanwhile.
pub(super) const READ_TIME_MAX: Duration = Duration::from_secs(30);

/// Steps of SQLite's machine between two looks whether a read should end: well under a millisecond.
const STEPS_PER_LOOK: i32 = 1000;

/// Idle connections; a reader takes one and puts it back.
pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    /// One less than `turns`.
    long_turns: Arc<Semaphore>,
    stats: Arc<SelfStats>,
    time_max: Duration,
}

/// Set when a read should end: its statements are cut off, its loops look at it.
#[derive(Clone, Debug, Default)]
pub(super) struct End(Arc<AtomicBool>);

impl End {
    fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the read should end.
    pub(super) fn is_due(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends the read of a future that is dropped.
struct EndOnDrop(End);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.now();
    }
}

impl Readers {
    /// Opens the connections.
    pub(super) fn open(dir: &Path, stats: Arc<SelfStats>) -> Result<Self, StoreError> {
        let n = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let idle = (0..n).map(|_| open::reader(dir)).collect::<Result<Vec<_>, _>>()?;
        let (turns, long_turns) = (Arc::new(Semaphore::new(n)), Arc::new(Semaphore::new(n - 1)));
        let idle = Arc::new(Mutex::new(idle));
        Ok(Self { idle, turns, long_turns, stats, time_max: READ_TIME_MAX })
    }

    /// How many long reads may begin now.
    #[cfg(test)]
    pub(super) fn n_long_turns(&self) -> usize {
        self.long_turns.available_permits()
    }

    /// Runs `query` on one snapshot of the database, on a blocking thread. Waits for a free
    /// connection; cut off after [`READ_TIME_MAX`], and when the future is dropped.
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.read_within(self.time_max, move |conn, _| query(conn)).await
    }

    /// The same for a read that may take long: at most all but one are on their way at once. `query`
    /// should end by itself before `time_max`.
    pub(super) async fn read_long<T, F>(
        &self,
        time_max: Duration,
        query: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &End) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = Arc::clone(&self.long_turns).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Closed)?;
        let query = move |conn: &Connection, end: &End| {
            let _turn = turn;
            query(conn, end)
        };
        self.read_within(time_max, query).await
    }

    async fn read_within<T, F>(&self, time_max: Duration, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &End) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Closed)?;
        let idle = Arc::clone(&self.idle);
        let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = taken.ok_or(StoreError::Closed)?;
        // One of its own for each read: that of the last one may be set at any time.
        let end = End::default();
        let looked_at = end.clone();
        conn.progress_handler(STEPS_PER_LOOK, Some(move || looked_at.is_due()))?;
        let at_drop = EndOnDrop(end.clone());
        let mut task = tokio::task::spawn_blocking(move || {
            // Put back also when the caller is gone or `query` panics.
            let conn = Borrowed { conn: Some(conn), idle };
            let result = conn.snapshot(|conn| query(conn, &end));
            drop(conn);
            drop(turn);
            result
        });
        if let Ok(done) = tokio::time::timeout(time_max, &mut task).await {
            return done.map_err(|_| StoreError::Closed)?.map_err(StoreError::Sqlite);
        }
        at_drop.0.now();
        if let Ok(Ok(value)) = task.await {
            return Ok(value); // it finished in the moment it was to be cut off
        }
        self.stats.reads_cut_off.one();
        Err(StoreError::ReadTooLong(time_max))
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
    async fn a_read_nobody_waits_for_any_more_gives_its_connection_back() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Store::open(dir.path()).unwrap();
        let readers = Readers::open(dir.path(), Arc::default()).unwrap();
        let n = readers.turns.available_permits();
        for _ in 0..3 * n {
            // Statement after statement: there is a moment between any two.
            let (started, begun) = tokio::sync::oneshot::channel();
            let endless = readers.read_long(READ_TIME_MAX, move |conn, end| {
                started.send(()).ok();
                while !end.is_due() {
                    let n: i64 = conn.query_row("SELECT 1", [], |row| row.get(0))?;
                    assert_eq!(n, 1);
                }
                Ok(())
            });
            tokio::select! {
                biased;
                _ = endless => panic!("it ended by itself"),
                _ = begun => {}
            }
        }
        // All of them, at once.
        let all = Arc::clone(&readers.turns).acquire_many_owned(n as u32);
        drop(tokio::time::timeout(Duration::from_secs(60), all).await.unwrap().unwrap());
        let one = readers.read(|conn| conn.query_row("SELECT 1", [], |row| row.get::<_, i64>(0)));
        assert_eq!(one.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn however_many_read_long_a_short_read_finds_a_connection() {
        let dir = tempfile::tempdir().unwrap();
        let _store = Store::open(dir.path()).unwrap();
        let readers = Readers::open(dir.path(), Arc::default()).unwrap();
        let wait = |end: &End| {
            while !end.is_due() {
                std::thread::yield_now();
            }
        };
        let (readers, mut long) = (Arc::new(readers), tokio::task::JoinSet::new());
        for _ in 0..20 {
            let readers = Arc::clone(&readers);
            long.spawn(async move {
                let read = readers.read_long(READ_TIME_MAX, move |_, end| {
                    wait(end);
                    Ok(())
                });
                read.await.unwrap();
            });
        }
        for _ in 0..50 {
            tokio::task::yield_now().await;
            let one = readers.read(|conn| conn.query_row("SELECT 1", [], |r| r.get::<_, i64>(0)));
            assert_eq!(one.await.unwrap(), 1);
        }
        long.abort_all();
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let written = store.read(|conn| conn.execute("DELETE FROM state", [])).await;
        assert!(written.is_err());
    }
}
