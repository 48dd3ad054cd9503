//! What goes into the store and comes out of it: batches, watermarks, sites, losses.

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::model::{ServerId, SiteId};

/// How far one server's batches are committed. Ordered: a later life of the spool is further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watermark {
    /// Life of the agent's spool; 0 when the server never sent a batch.
    pub epoch: u64,
    /// Highest committed position in it.
    pub seq: u64,
}

/// A batch on its way into the database.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Whose; out of the certificate.
    pub server: ServerId,
    /// Life of the agent's spool; at most `i64::MAX`.
    pub epoch: u64,
    /// Position in it, from 1; at most `i64::MAX`.
    pub seq: u64,
    /// Batches just before this one that the agent declares lost.
    pub n_evicted: u64,
    /// Log lines those accounted for.
    pub n_lines_evicted: u64,
    /// Log bytes those accounted for.
    pub n_bytes_evicted: u64,
    /// Arrival, on the collector's clock.
    pub at: UnixMillis,
    /// Oldest event time in it.
    pub t_min: UnixMillis,
    /// Newest event time in it.
    pub t_max: UnixMillis,
    /// No older count is unsent after it.
    pub complete_until: UnixMillis,
    /// Holds a gateway error: committed at once.
    pub urgent: bool,
    /// As received; 0 when unreadable.
    pub codec: u32,
    /// As received; the reason as text when unreadable.
    pub body: Vec<u8>,
    /// Sites it speaks of.
    pub sites: Vec<SiteSeen>,
    /// What its loss ledger adds, by column of `agent list`.
    pub losses: Vec<(&'static str, u64)>,
    /// What became of the lines and bytes it accounts for; evicted ones are not in it.
    pub ledger: Ledger,
}

/// What became of log lines and bytes. Those seen are the counted, rejected and lost together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Lines counted as requests or read as error lines; blank lines and comments included.
    pub n_lines_counted: u64,
    /// Lines that are no record of their file's format.
    pub n_lines_rejected: u64,
    /// Lines of batches that were evicted, destroyed or cannot be read.
    pub n_lines_lost: u64,
    /// Bytes of the counted lines.
    pub n_bytes_counted: u64,
    /// Bytes of the rejected lines.
    pub n_bytes_rejected: u64,
    /// Bytes of the lost lines, and of logs that vanished before they were read.
    pub n_bytes_lost: u64,
}

impl Ledger {
    /// All lines that there were to see.
    #[must_use]
    pub fn n_lines_seen(&self) -> u64 {
        self.n_lines_counted + self.n_lines_rejected + self.n_lines_lost
    }

    /// All bytes that there were to see.
    #[must_use]
    pub fn n_bytes_seen(&self) -> u64 {
        self.n_bytes_counted + self.n_bytes_rejected + self.n_bytes_lost
    }
}

/// A site as a batch names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteSeen {
    /// Primary name, lower case.
    pub name: String,
    /// What serves it on this server; `None` unknown.
    pub pool: Option<String>,
    /// Upstream on another machine; `None` when local or unknown.
    pub upstream: Option<String>,
    /// Unix user it belongs to; `None` unknown.
    pub owner: Option<String>,
}

/// A site as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// Its id.
    pub site: SiteId,
    /// The server it is on.
    pub server: ServerId,
    /// Primary name.
    pub name: String,
    /// What serves it on this server.
    pub pool: Option<String>,
    /// Upstream on another machine.
    pub upstream: Option<String>,
    /// Unix user it belongs to.
    pub owner: Option<String>,
    /// When the first batch that names it came; `None`: before that was kept.
    pub since: Option<UnixMillis>,
}

/// A stored batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotRow {
    /// Position in the store; rises in order of commit.
    pub id: i64,
    /// Whose.
    pub server: ServerId,
    /// Life of the agent's spool.
    pub epoch: u64,
    /// Position in it.
    pub seq: u64,
    /// Arrival, on the collector's clock.
    pub at: UnixMillis,
    /// Oldest event time in it.
    pub t_min: UnixMillis,
    /// Newest event time in it.
    pub t_max: UnixMillis,
    /// No older count is unsent after it.
    pub complete_until: UnixMillis,
    /// How `body` is encoded; 0: unreadable, `body` is the reason as text.
    pub codec: u32,
    /// As received.
    pub body: Vec<u8>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed, now.
    Stored,
    /// Committed before; acked again.
    Duplicate,
    /// Something before it is missing and not declared lost: nothing was stored, rewind.
    Gap {
        /// The first position that is wanted.
        wanted: u64,
    },
    /// Of an earlier life of the spool than the one known: nothing was stored.
    OldEpoch {
        /// The epoch known.
        known: u64,
    },
    /// The server is not (or no longer) in the fleet: nothing was stored.
    UnknownServer,
}
