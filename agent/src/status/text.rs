//! The answer of `status` as text for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

use super::host::{self, ShownHost};

/// What the text form shows of the answer.
#[derive(Deserialize)]
pub(super) struct Shown {
    uplink: ShownUplink,
    spool: ShownSpool,
    loss: BTreeMap<String, u64>,
    ledger: ShownBytes,
    files: Vec<ShownFile>,
    unreadable: Vec<String>,
    #[serde(rename = "self")]
    own: ShownSelf,
    host: ShownHost,
}

#[derive(Deserialize)]
struct ShownUplink {
    state: String,
    collector: String,
    server: String,
    error: Option<String>,
    acked_at: Option<String>,
    certificate_not_after: Option<String>,
}

#[derive(Deserialize)]
struct ShownSpool {
    seq_last: u64,
    acked: u64,
    bytes_unacked: u64,
    bytes: u64,
    bytes_max: u64,
    blocked: Option<String>,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "counts are named n_")]
struct ShownBytes {
    n_bytes_seen: u64,
    n_bytes_counted: u64,
    n_bytes_rejected: u64,
    n_bytes_lost: u64,
}

#[derive(Deserialize)]
struct ShownFile {
    path: String,
    site: String,
    format: String,
    read: u64,
    size: u64,
    spooled: u64,
    acked: u64,
    n_lines: u64,
    n_rejected: u64,
    rejected: BTreeMap<String, u64>,
    skipped: BTreeMap<String, u64>,
    rejected_samples: Vec<ShownSample>,
    #[serde(flatten)]
    bytes: ShownBytes,
    n_bytes_recovered: u64,
    n_truncations: u64,
    problem: Option<String>,
    note: Option<String>,
}

#[derive(Deserialize)]
struct ShownSample {
    reason: String,
    line: String,
}

#[derive(Deserialize)]
struct ShownSelf {
    cpu_seconds: Option<f64>,
    rss_bytes: Option<u64>,
}

/// What each kind of loss means, and what to do about it.
const LOSSES: [(&str, &str); 14] = [
    (
        "n_batches_evicted",
        "the collector did not take them before the spool was full or its disk damaged them: look at \
         the uplink above, raise [limits] spool_bytes_max",
    ),
    ("n_bytes_evicted", "log bytes that those batches accounted for; part of n_bytes_lost"),
    (
        "n_bytes_lost",
        "log bytes that nobody counted: logs that vanished unread, and batches that were lost",
    ),
    ("n_bytes_recovered", "read from the copy of a truncated log; nothing is missing"),
    ("n_bytes_rejected", "bytes of the rejected lines"),
    (
        "n_events_dropped",
        "samples, states and log lines refused while the disk was full; no request is missing",
    ),
    (
        "n_exemplars_dropped",
        "gateway errors that were counted but not kept whole: too many in one second",
    ),
    ("n_lines_lost", "log lines whose counts were lost with their batches"),
    (
        "n_lines_other",
        "counted under the site `other`: raise [limits] sites_max, or name the host in a vhost",
    ),
    (
        "n_lines_rejected",
        "no record of their log's format: some are shown with their file below, `gatewatch-agent \
         parse FILE` prints all; set `format` of the source if it is the wrong one",
    ),
    ("n_lines_too_long", "of the rejected lines, those that are longer than any request"),
    ("n_spool_records_corrupt", "spooled batches that a torn write or bad disk destroyed"),
    ("n_times_clamped", "counted at the time of reading: the clock of what wrote them is ahead"),
    (
        "n_truncations",
        "logs cut in place, or gone before their end was read: rotate by renaming, not copytruncate",
    ),
];

/// The answer as text for people.
pub fn render(answer: &str) -> String {
    let shown: Shown = serde_json::from_str(answer).expect("`ask` returns only what this reads");
    let mut out = String::new();
    write_shown(&mut out, &shown).expect("writing to a string cannot fail");
    out
}

fn write_shown(out: &mut String, shown: &Shown) -> std::fmt::Result {
    let Shown { uplink, spool, loss, ledger, files, unreadable, own, host } = shown;
    let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    writeln!(out, "uplink  {} to {} as {}", uplink.state, uplink.collector, uplink.server)?;
    if let Some(error) = &uplink.error {
        writeln!(out, "        {error}")?;
    }
    writeln!(out, "        last ack {}", dash(&uplink.acked_at))?;
    writeln!(out, "        certificate until {}", dash(&uplink.certificate_not_after))?;
    let n_waiting = spool.seq_last - spool.acked.min(spool.seq_last);
    writeln!(out, "spool   {n_waiting} batches wait, {}", size(spool.bytes_unacked))?;
    writeln!(out, "        {} of {} on disk", size(spool.bytes), size(spool.bytes_max))?;
    if let Some(blocked) = &spool.blocked {
        writeln!(out, "        BLOCKED: {blocked}")?;
    }
    writeln!(out, "logs    {}, since the start", equation(ledger))?;
    let lost: Vec<_> = loss.iter().filter(|(_, n)| **n > 0).collect();
    writeln!(out, "loss    {}", if lost.is_empty() { "none" } else { "since the start:" })?;
    for (what, n) in lost {
        writeln!(out, "        {what} {n}")?;
        if let Some((_, why)) = LOSSES.iter().find(|(known, _)| known == what) {
            writeln!(out, "          {why}")?;
        }
    }
    let cpu = own.cpu_seconds.unwrap_or_default();
    writeln!(out, "self    {cpu:.2} s cpu, {} of memory", size(own.rss_bytes.unwrap_or_default()))?;
    host::write(out, host)?;
    writeln!(out, "files   {}", files.len())?;
    files.iter().try_for_each(|file| write_file(out, file))?;
    unreadable.iter().try_for_each(|text| writeln!(out, "        {text}"))
}

fn write_file(out: &mut String, file: &ShownFile) -> std::fmt::Result {
    writeln!(out, "        {} ({}, {})", file.path, file.site, file.format)?;
    let [read, all, spooled, acked] = [file.read, file.size, file.spooled, file.acked].map(size);
    let (n_lines, n_rejected) = (file.n_lines, file.n_rejected);
    writeln!(out, "          read {read} of {all}, spooled {spooled}, acked {acked}")?;
    let rejected = by_reason(": ", &file.rejected);
    let skipped = by_reason("; skipped: ", &file.skipped);
    writeln!(out, "          {n_lines} lines, {n_rejected} rejected{rejected}{skipped}")?;
    for sample in &file.rejected_samples {
        writeln!(out, "            {}: {}", sample.reason, sample.line.escape_debug())?;
    }
    writeln!(out, "          {}", equation(&file.bytes))?;
    if file.n_truncations > 0 {
        let recovered = size(file.n_bytes_recovered);
        let n = file.n_truncations;
        writeln!(
            out,
            "          truncated or gone unread {n} times; {recovered} read from copies"
        )?;
    }
    for text in file.problem.iter().chain(&file.note) {
        writeln!(out, "          {text}")?;
    }
    Ok(())
}

/// `3 blank, 7 malformed` after `before`; nothing when there is none.
fn by_reason(before: &str, reasons: &BTreeMap<String, u64>) -> String {
    let reasons: Vec<_> = reasons.iter().map(|(why, n)| format!("{n} {why}")).collect();
    if reasons.is_empty() { String::new() } else { format!("{before}{}", reasons.join(", ")) }
}

fn equation(bytes: &ShownBytes) -> String {
    let ShownBytes { n_bytes_seen, n_bytes_counted, n_bytes_rejected, n_bytes_lost } = bytes;
    let [seen, counted, rejected, lost] =
        [n_bytes_seen, n_bytes_counted, n_bytes_rejected, n_bytes_lost].map(|n| size(*n));
    format!("{seen} seen = {counted} counted + {rejected} rejected + {lost} lost")
}

/// `512 B`, `1.5 KiB`, `3.2 MiB`
fn size(n_bytes: u64) -> String {
    wire::units::Bytes(n_bytes).rounded()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_that_fits_them() {
        for (n_bytes, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 20, "5.0 MiB"),
            (1 << 50, "1024.0 TiB"),
        ] {
            assert_eq!(size(n_bytes), want);
        }
    }
}
