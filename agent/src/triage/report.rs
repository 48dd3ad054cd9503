//! What a scan found: one row per site, worst first, and how it was counted. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::faults::{FaultGroup, Faults};
use super::render::plain_text;
use super::tally::{Counts, FileCounts, Rules, Tally};
use crate::logs::join::OTHER;

/// What was found.
pub struct Report {
    /// Worst site first.
    pub(super) rows: Vec<Row>,
    pub(super) total: Row,
    /// As named on the command line.
    pub(super) files: Vec<FileReport>,
    pub(super) sum: FileCounts,
    /// Requests counted under `other`.
    pub(super) n_other: u64,
    /// Error lines of failed requests that explain 503s, and those that found no room.
    pub(super) n_explaining: u64,
    pub(super) n_not_explaining: u64,
    /// An error log was given.
    pub(super) has_error_log: bool,
    pub(super) since: Option<i64>,
    pub(super) until: Option<i64>,
    /// Of the times in the table.
    pub(super) zone: TimeZone,
}

impl Report {
    /// True when every file was read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.files.iter().all(|file| file.problem.is_none())
    }

    /// What is to be said of which file, in words for the terminal.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        self.files.iter().filter_map(|file| {
            let remark = file.problem.as_deref().or(file.note.as_deref())?;
            Some(plain_text(&format!("{}: {remark}", file.name())))
        })
    }
}

/// One site, or all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) site: String,
    pub(super) counts: Counts,
    /// Error lines of failed upstream requests.
    pub(super) n_error_lines: u64,
    pub(super) signals: BTreeMap<&'static str, u64>,
    pub(super) upstreams: BTreeMap<String, u64>,
}

impl Row {
    /// What fails most often; `other` only when there is nothing else.
    pub(super) fn top_signal(&self) -> Option<(&str, u64)> {
        top(self.signals.iter().map(|(name, n)| (*name, *n)))
    }

    pub(super) fn worst_upstream(&self) -> Option<(&str, u64)> {
        top(self.upstreams.iter().map(|(name, n)| (&**name, *n)))
    }
}

fn top<'a>(named: impl Iterator<Item = (&'a str, u64)>) -> Option<(&'a str, u64)> {
    named.max_by_key(|(name, n)| (*name != OTHER, *n, std::cmp::Reverse(*name)))
}

/// One file of the command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FileReport {
    pub(super) path: PathBuf,
    /// `access`, `error` or `mixed`; empty when it was not read.
    pub(super) kind: &'static str,
    pub(super) format: &'static str,
    /// Unpacked.
    pub(super) n_bytes: u64,
    pub(super) counts: FileCounts,
    /// Why it was not read to its end.
    pub(super) problem: Option<String>,
    /// Why it was left out without harm, or why what it says is to be doubted.
    pub(super) note: Option<String>,
}

impl FileReport {
    pub(super) fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// Adds everything up.
pub(super) fn report(tally: &Tally, rules: &Rules, files: Vec<FileReport>) -> Report {
    let mut rows = rows(tally);
    let mut total = Row::default();
    let mut faults = Faults::default();
    let mut errors = FaultGroup::default();
    for counts in &tally.counts {
        total.counts.add(counts);
    }
    for of_site in &tally.faults {
        faults.signals.merge(&of_site.signals);
        faults.upstreams.merge(&of_site.upstreams);
    }
    let groups = tally.groups.sorted().into_iter().map(|(_, _, group)| group);
    for group in groups.chain([&tally.groups.nameless, &tally.groups.other]) {
        errors.merge(group);
    }
    fill(&mut total, tally, faults, &errors);
    rows.sort_by(|a, b| {
        let key = |row: &Row| {
            let counts = &row.counts;
            (counts.n_gateway(), row.n_error_lines, counts.n_5xx_app, counts.n)
        };
        key(b).cmp(&key(a)).then_with(|| a.site.cmp(&b.site))
    });
    let mut sum = FileCounts::default();
    for file in &files {
        sum.add(&file.counts);
    }
    Report {
        rows,
        total,
        has_error_log: files.iter().any(|file| matches!(file.kind, "error" | "mixed")),
        files,
        sum,
        n_other: tally.n_other(),
        n_explaining: tally.explained.n_lines,
        n_not_explaining: tally.explained.n_dropped,
        since: (rules.since != i64::MIN).then_some(rules.since),
        until: (rules.until != i64::MAX).then_some(rules.until),
        zone: rules.zone.clone(),
    }
}

/// The sites with requests, and those that only error lines name.
fn rows(tally: &Tally) -> Vec<Row> {
    let mut errors: BTreeMap<String, FaultGroup> = BTreeMap::new();
    for (host, server, group) in tally.groups.sorted() {
        errors.entry(site_of_group(tally, host, server)).or_default().merge(group);
    }
    if tally.groups.other.n_lines > 0 {
        errors.entry(OTHER.to_owned()).or_default().merge(&tally.groups.other);
    }
    let mut rows = Vec::new();
    for (site, counts) in tally.counts.iter().enumerate() {
        let name = tally.sites.name(site as u32);
        let group = errors.remove(name).unwrap_or_default();
        if counts.n == 0 && group == FaultGroup::default() {
            continue;
        }
        let mut row = Row { site: name.to_owned(), counts: counts.clone(), ..Row::default() };
        fill(&mut row, tally, tally.faults[site].clone(), &group);
        rows.push(row);
    }
    for (site, group) in errors {
        let mut row = Row { site, ..Row::default() };
        fill(&mut row, tally, Faults::default(), &group);
        rows.push(row);
    }
    rows
}

/// The site of error lines: the name under which access logs know it, else the server's own one.
fn site_of_group(tally: &Tally, host: &str, server: &str) -> String {
    let known = [host, server].into_iter().find(|name| {
        let site = tally.sites.find(name).and_then(|site| tally.counts.get(site as usize));
        site.is_some_and(|counts| counts.n > 0)
    });
    let own = if matches!(server, "" | "_") || !server.contains('.') && !host.is_empty() {
        host
    } else {
        server
    };
    known.unwrap_or(own).to_owned()
}

/// Upstreams come from access lines where they name any: the error lines are of the same requests.
fn fill(row: &mut Row, tally: &Tally, mut faults: Faults, errors: &FaultGroup) {
    row.n_error_lines = errors.n_lines;
    faults.signals.merge(&errors.faults.signals);
    row.signals = faults.signals.named();
    let upstreams =
        if faults.upstreams.is_empty() { &errors.faults.upstreams } else { &faults.upstreams };
    row.upstreams = upstreams.named(&tally.addresses);
}
