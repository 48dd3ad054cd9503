//! What somebody wants to know: a report's kind, time and servers. Pure.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::document::Kind;

/// A report as it was asked for, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// What about.
    pub kind: Kind,
    /// First instant.
    pub from: UnixMillis,
    /// End; not part of it.
    pub to: UnixMillis,
    /// Only this server.
    pub server: Option<String>,
    /// Only servers with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// When it is made.
    pub now: UnixMillis,
}

/// How far a report is. Cheap to make, and given often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is done now: `reads system.cpu.utilization`.
    pub what: &'static str,
    /// Steps done, and all of them.
    pub n_done: u64,
    /// All steps.
    pub n: u64,
}
