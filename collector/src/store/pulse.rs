//! What the heartbeat asks the store: whether it commits, and how far the detector is.

use rusqlite::{Connection, OptionalExtension, Transaction};
use wire::UnixMillis;

use super::outbox;

/// How far the stages behind the store are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last batch the detector has read.
    pub read_upto: i64,
    /// When the page was due that waits longest for the clerk.
    pub oldest_page: Option<UnixMillis>,
}

/// A tiny write: it shows that the disk takes one.
pub fn beat(tx: &Transaction<'_>, now: UnixMillis) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO state(k, v) VALUES('pulse', ?1) ON CONFLICT(k) DO UPDATE SET v = excluded.v",
    )?
    .execute([now.0])?;
    Ok(())
}

/// How far they are.
pub fn progress(conn: &Connection) -> rusqlite::Result<Progress> {
    let read_upto = conn
        .prepare_cached("SELECT v FROM state WHERE k = 'detect_upto'")?
        .query_row([], |row| row.get(0))
        .optional()?
        .unwrap_or(0);
    Ok(Progress { read_upto, oldest_page: outbox::next_page(conn)? })
}
