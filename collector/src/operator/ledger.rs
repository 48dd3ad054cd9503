//! What became of every log line and byte of a server, in words. Pure.

use super::text::clean;
use crate::store::fleet::{LedgerView, ServerView};

/// The equation of lines and of bytes, then each kind of loss with what it means.
#[must_use]
pub(super) fn lines(server: &ServerView) -> Vec<String> {
    let LedgerView { n_lines_seen, n_bytes_seen, parts } = &server.ledger;
    let (counted, rejected, lost) =
        (parts.n_lines_counted, parts.n_lines_rejected, parts.n_lines_lost);
    let mut page = vec![
        "Log lines and bytes: seen = counted + rejected + lost".to_owned(),
        format!("  {n_lines_seen} lines = {counted} + {rejected} + {lost}"),
    ];
    let (counted, rejected, lost) =
        (parts.n_bytes_counted, parts.n_bytes_rejected, parts.n_bytes_lost);
    page.push(format!("  {n_bytes_seen} bytes = {counted} + {rejected} + {lost}"));
    page.push(String::new());
    page.push("Loss ledger".to_owned());
    for (k, n) in &server.loss {
        page.push(format!("  {:<24} {n}", clean(k)));
        if let Some((_, why)) = LOSSES.iter().find(|(known, _)| known == k).filter(|_| *n > 0) {
            page.push(format!("      {why}"));
        }
    }
    page
}

/// What a counter of the loss ledger means, and what to do about it.
const LOSSES: [(&str, &str); 14] = [
    ("n_batches_evicted", "the spool was full or damaged: raise spool_bytes_max, see to its disk"),
    (
        "n_batches_unreadable",
        "stored by their reason; upgrade this collector, or see to the agent's disk",
    ),
    ("n_bytes_evicted", "log bytes those batches accounted for; part of n_bytes_lost"),
    ("n_bytes_lost", "log bytes that vanished unread, or whose counts were lost"),
    ("n_bytes_recovered", "read from the copy of a truncated log; not lost"),
    ("n_bytes_rejected", "bytes of the rejected lines"),
    (
        "n_events_dropped",
        "samples, states and log lines a full queue refused: see to the agent's disk",
    ),
    ("n_exemplars_dropped", "gateway errors counted, but not kept whole; no count is missing"),
    ("n_lines_lost", "log lines whose counts were lost with their batches"),
    ("n_lines_other", "counted under the site `other`: raise sites_max, or give the host a vhost"),
    ("n_lines_rejected", "no record of their log's format: `gatewatch-agent parse` shows which"),
    ("n_lines_too_long", "of the rejected ones, those over the limit of a line's length"),
    ("n_times_clamped", "filed under the time of reading: the clock of what writes them is ahead"),
    ("n_truncations", "logs cut in place or gone before their end was read: rotate by rename"),
];
