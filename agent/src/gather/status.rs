//! What the gather thread says of itself, for `status`, the heartbeat and the probes.

use std::path::PathBuf;

use wire::UnixMillis;

use super::rejects::Rejects;
use crate::window::Loss;

/// What the gather thread says of itself; sent through a watch channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatherStatus {
    /// Every log that is followed or should be.
    pub files: Vec<FileStatus>,
    /// Patterns and configuration files that could not be read: path, reason and fix.
    pub unreadable: Vec<String>,
    /// The loss ledger since the agent started; evictions are the spool's to tell.
    pub loss: Loss,
    /// Sites known.
    pub n_sites: u32,
    /// Agent's clock: no older count is unsent and unspooled.
    pub complete_until: UnixMillis,
    /// When the newest gateway error was read, agent's clock; probes sample faster for a while.
    pub gateway_error_at: Option<UnixMillis>,
    /// Why nothing is read at the moment: the spool cannot append.
    pub blocked: Option<String>,
}

/// One followed log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileStatus {
    /// As followed.
    pub path: PathBuf,
    /// Fixed site of its lines, or `host` when each line names its own.
    pub site: String,
    /// Format in use.
    pub format: String,
    /// Offset up to which it is read.
    pub read: u64,
    /// Its size as far as known; `size - read` bytes still wait.
    pub size: u64,
    /// Offset up to which it is in spooled batches.
    pub spooled: u64,
    /// Offset up to which it is in acked batches, as far as known.
    pub acked: u64,
    /// Lines read since the agent started.
    pub n_lines: u64,
    /// Of these no record.
    pub n_rejected: u64,
    /// Why, and some of them.
    pub rejects: Rejects,
    /// Bytes of the log that were there to read since the agent started, rotated files included:
    /// always `n_bytes_counted + n_bytes_rejected + n_bytes_lost`.
    pub n_bytes_seen: u64,
    /// Bytes of lines that are records, blank, or comments.
    pub n_bytes_counted: u64,
    /// Bytes of lines that are no record.
    pub n_bytes_rejected: u64,
    /// Bytes that vanished before they were read, as far as known.
    pub n_bytes_lost: u64,
    /// Bytes of a truncated log that were read from its copy; part of the counted and rejected.
    pub n_bytes_recovered: u64,
    /// Times it shrank in place, or was gone at a restart before its end was read.
    pub n_truncations: u64,
    /// Why it is not read, and the fix.
    pub problem: Option<String>,
    /// What of it was lost last, and why.
    pub note: Option<String>,
}
