//! A report as JSON lines for programs and as a table for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use wire::UnixMillis;

use super::report::{FileReport, Report, Row};
use super::tally::{FileCounts, REASONS};
use crate::logs::join::OTHER;

/// Longest text in a column.
const CELL_CHARS_MAX: usize = 48;

/// One JSON object per site, worst first, and the total in a last line.
pub fn render_json(report: &Report) -> String {
    let mut out = String::new();
    for row in &report.rows {
        push_line(&mut out, &SiteLine { site: &row.site, counts: CountsJson::of(row) });
    }
    let second = |at: Option<i64>| at.map(UnixMillis::from_second);
    let last = LastLine {
        total: Total { n_sites: report.rows.len(), counts: CountsJson::of(&report.total) },
        n_lines: report.sum.n_lines,
        n_rejected: report.sum.n_rejected(),
        rejected: rejected(&report.sum),
        n_bytes: report.files.iter().map(|file| file.n_bytes).sum(),
        n_outside: report.sum.n_outside,
        n_other: report.n_other,
        since: second(report.since),
        until: second(report.until),
        rule_503: if report.n_explaining > 0 { "line_or_error_log" } else { "line" },
        n_explanations_dropped: report.n_not_explaining,
        files: report.files.iter().map(FileJson::of).collect(),
    };
    push_line(&mut out, &last);
    out
}

#[derive(Serialize)]
struct SiteLine<'r> {
    site: &'r str,
    #[serde(flatten)]
    counts: CountsJson<'r>,
}

#[derive(Serialize)]
struct Total<'r> {
    n_sites: usize,
    #[serde(flatten)]
    counts: CountsJson<'r>,
}

#[derive(Serialize)]
struct LastLine<'r> {
    total: Total<'r>,
    n_lines: u64,
    n_rejected: u64,
    rejected: BTreeMap<&'static str, u64>,
    n_bytes: u64,
    n_outside: u64,
    n_other: u64,
    #[serde(with = "wire::rfc3339::option")]
    since: Option<UnixMillis>,
    #[serde(with = "wire::rfc3339::option")]
    until: Option<UnixMillis>,
    /// What a 503 had to show to count as a gateway error.
    rule_503: &'static str,
    n_explanations_dropped: u64,
    files: Vec<FileJson<'r>>,
}

#[derive(Serialize)]
struct CountsJson<'r> {
    n: u64,
    n_502: u64,
    n_503: u64,
    n_504: u64,
    n_5xx_app: u64,
    n_503_app: u64,
    n_499: u64,
    n_retried: u64,
    n_crawler: u64,
    n_timeless: u64,
    n_error_lines: u64,
    #[serde(with = "wire::rfc3339::option")]
    first_at: Option<UnixMillis>,
    #[serde(with = "wire::rfc3339::option")]
    last_at: Option<UnixMillis>,
    #[serde(with = "wire::rfc3339::option")]
    first_error_at: Option<UnixMillis>,
    #[serde(with = "wire::rfc3339::option")]
    last_error_at: Option<UnixMillis>,
    signals: &'r BTreeMap<&'static str, u64>,
    upstreams: &'r BTreeMap<String, u64>,
}

impl<'r> CountsJson<'r> {
    fn of(row: &'r Row) -> Self {
        let counts = &row.counts;
        let (first, last) = counts.lines.ends().unzip();
        let (first_error, last_error) = counts.errors.ends().unzip();
        Self {
            n: counts.n,
            n_502: counts.n_502,
            n_503: counts.n_503,
            n_504: counts.n_504,
            n_5xx_app: counts.n_5xx_app,
            n_503_app: counts.n_503_app,
            n_499: counts.n_499,
            n_retried: counts.n_retried,
            n_crawler: counts.n_crawler,
            n_timeless: counts.n_timeless,
            n_error_lines: row.n_error_lines,
            first_at: first.map(UnixMillis::from_second),
            last_at: last.map(UnixMillis::from_second),
            first_error_at: first_error.map(UnixMillis::from_second),
            last_error_at: last_error.map(UnixMillis::from_second),
            signals: &row.signals,
            upstreams: &row.upstreams,
        }
    }
}

#[derive(Serialize)]
struct FileJson<'r> {
    path: String,
    kind: Option<&'static str>,
    format: Option<&'static str>,
    n_bytes: u64,
    n_lines: u64,
    n_rejected: u64,
    rejected: BTreeMap<&'static str, u64>,
    n_outside: u64,
    /// Lines of error logs; those of failed requests are the `n_error_lines` of the total.
    n_error_log_lines: u64,
    problem: Option<&'r str>,
    note: Option<&'r str>,
}

impl<'r> FileJson<'r> {
    fn of(file: &'r FileReport) -> Self {
        Self {
            path: file.name(),
            kind: (!file.kind.is_empty()).then_some(file.kind),
            format: (!file.format.is_empty()).then_some(file.format),
            n_bytes: file.n_bytes,
            n_lines: file.counts.n_lines,
            n_rejected: file.counts.n_rejected(),
            rejected: rejected(&file.counts),
            n_outside: file.counts.n_outside,
            n_error_log_lines: file.counts.n_error_lines,
            problem: file.problem.as_deref(),
            note: file.note.as_deref(),
        }
    }
}

/// Lines that are no records, by reason; reasons without a line are left out.
fn rejected(counts: &FileCounts) -> BTreeMap<&'static str, u64> {
    let named = REASONS.iter().zip(counts.rejected).filter(|(_, n)| *n > 0);
    named.map(|(reason, n)| (reason.name(), n)).collect()
}

/// Writes one line; signs that steer a terminal stand escaped in it.
fn push_line(out: &mut String, value: &impl Serialize) {
    let text = serde_json::to_string(value).expect("counts and text are JSON");
    for c in text.chars() {
        if steers(c) {
            write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a string cannot fail");
        } else {
            out.push(c);
        }
    }
    out.push('\n');
}

/// Control characters, and those that hide or turn around the text beside them.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text of a log or a path, safe to show.
pub(super) fn plain_text(text: &str) -> String {
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

fn cell(text: &str) -> String {
    let text = plain_text(text);
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    let start: String = text.chars().take(CELL_CHARS_MAX - 1).collect();
    start + "\u{2026}"
}

/// The table of the worst `top` sites (0 = all), and what else is to be known.
pub fn render_text(report: &Report, top: usize) -> String {
    let n_shown = if top == 0 { report.rows.len() } else { top.min(report.rows.len()) };
    let mut out = sites(&report.rows[..n_shown], &report.zone);
    let more = report.rows.len() - n_shown;
    if more > 0 {
        line(&mut out, &format!("and {} more sites: --top 0 shows all\n", number(more as u64)));
    } else {
        out.push('\n');
    }
    totals(&mut out, report);
    files(&mut out, report, top);
    out
}

fn sites(rows: &[Row], zone: &TimeZone) -> String {
    let head = [
        "SITE",
        "REQUESTS",
        "502",
        "503",
        "504",
        "APP 5XX",
        "499",
        "FIRST ERROR",
        "LAST ERROR",
        "TOP CAUSE",
        "WORST UPSTREAM",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let counts = &row.counts;
        let (first, last) = counts.errors.ends().unzip();
        let at = |second: Option<i64>| second.map_or("-".to_owned(), |s| time(s, zone));
        let most = |most: Option<(&str, u64)>| {
            most.map_or("-".to_owned(), |(name, n)| format!("{} ({})", cell(name), number(n)))
        };
        table.push(vec![
            cell(&row.site),
            number(counts.n),
            number(counts.n_502),
            number(counts.n_503),
            number(counts.n_504),
            number(counts.n_5xx_app),
            number(counts.n_499),
            at(first),
            at(last),
            most(row.top_signal()),
            most(row.worst_upstream()),
        ]);
    }
    aligned(&table, 1..7)
}

/// Columns as wide as their widest cell; those in `right` are flush right.
fn aligned(table: &[Vec<String>], right: std::ops::Range<usize>) -> String {
    let n_columns = table.first().map_or(0, Vec::len);
    let width = |at: usize| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut out = String::new();
    for row in table {
        let mut text = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let fill = " ".repeat(width - cell.chars().count());
            let gap = if at == 0 { "" } else { "  " };
            let (before, after) = if right.contains(&at) { (&*fill, "") } else { ("", &*fill) };
            text.extend([gap, before, cell, after]);
        }
        line(&mut out, text.trim_end());
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn totals(out: &mut String, report: &Report) {
    let (total, sum) = (&report.total.counts, &report.sum);
    let mut text = format!("Requests   {}", number(total.n));
    if let Some((first, last)) = total.lines.ends() {
        let (first, last) = (time(first, &report.zone), time(last, &report.zone));
        let zone = report.zone.iana_name().map_or(String::new(), |name| format!(" ({name})"));
        write!(text, " from {first} to {last}{zone}").expect("writing to a string cannot fail");
    }
    line(out, &(text + &listed(", ", &[(total.n_timeless, "without time")])));
    let gateway = [(total.n_502, "x 502"), (total.n_503, "x 503"), (total.n_504, "x 504")];
    let mut text = format!("Failed     {}", number(total.n_gateway()));
    text += &listed(": ", &gateway);
    text += &listed("; ", &[(total.n_crawler, "of them seen by crawlers of search engines")]);
    line(out, &text);
    let beside = [
        (total.n_5xx_app, "x 5xx of the applications"),
        (total.n_499, "x 499 (the client left)"),
        (total.n_retried, "answered by another upstream after a failed one"),
    ];
    if beside.iter().any(|(n, _)| *n > 0) {
        line(out, &format!("Beside     {}", listed("", &beside)));
    }
    if !report.total.signals.is_empty() {
        let mut causes: Vec<_> = report.total.signals.iter().map(|(s, n)| (*n, *s)).collect();
        causes.sort_by_key(|(n, name)| (std::cmp::Reverse(*n), *name));
        line(out, &format!("Causes     {}", listed("", &causes)));
    }
    if total.n_503 + total.n_503_app > 0 {
        line(out, &format!("503        {}", rule_503(report)));
    }
    let mut text = format!("Lines      {}", number(sum.n_lines));
    text += &listed(", ", &[(sum.n_outside, "outside --since and --until")]);
    text += &listed(", ", &[(sum.n_rejected(), "rejected")]);
    let reasons = REASONS.iter().zip(sum.rejected).skip(3).map(|(reason, n)| (n, reason.name()));
    let reasons = listed("", &reasons.collect::<Vec<_>>());
    line(out, &if reasons.is_empty() { text } else { format!("{text} ({reasons})") });
    if report.n_other > 0 {
        let n = number(report.n_other);
        line(
            out,
            &format!(
                "Other      {n} requests of hosts over the limit of sites, or of no host, are counted as `{OTHER}`"
            ),
        );
    }
}

/// Which of the 503s count, and why.
fn rule_503(report: &Report) -> String {
    let (n, n_app) = (report.total.counts.n_503, report.total.counts.n_503_app);
    let by = if report.n_explaining > 0 {
        "their lines, or error lines of the 10 s before,"
    } else {
        "their lines"
    };
    let some = if n == 0 { "none".to_owned() } else { number(n) };
    let all = number(n + n_app);
    let mut text = format!("{some} of {all} failed at an upstream, as {by} say");
    if n_app > 0 {
        text += "; the others are planned, a limit, or the application's own";
    }
    if report.n_not_explaining > 0 {
        let n = number(report.n_not_explaining);
        write!(text, "; {n} error lines found no room to explain one")
            .expect("writing to a string cannot fail");
    }
    text
}

/// `, 3 this, 4 that` of what is not 0.
fn listed(before: &str, parts: &[(u64, &str)]) -> String {
    let some = parts.iter().filter(|(n, _)| *n > 0);
    let parts: Vec<String> = some.map(|(n, what)| format!("{} {what}", number(*n))).collect();
    if parts.is_empty() { String::new() } else { format!("{before}{}", parts.join(", ")) }
}

/// The files, those with trouble first when they are too many.
fn files(out: &mut String, report: &Report, top: usize) {
    let mut files: Vec<&FileReport> = report.files.iter().collect();
    let n_shown = if top == 0 { files.len() } else { top.min(files.len()) };
    if n_shown < files.len() {
        files.sort_by_key(|file| {
            std::cmp::Reverse((file.problem.is_some(), file.counts.n_rejected()))
        });
    }
    let head = ["FILE", "LINES", "REJECTED", "KIND", "FORMAT"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for file in &files[..n_shown] {
        let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        table.push(vec![
            plain_text(&file.name()),
            number(file.counts.n_lines),
            number(file.counts.n_rejected()),
            or_dash(file.kind),
            or_dash(file.format),
        ]);
    }
    out.push('\n');
    out.push_str(&aligned(&table, 1..3));
    let more = files.len() - n_shown;
    if more > 0 {
        line(out, &format!("and {} more files", number(more as u64)));
    }
}

/// What to do next, for a person.
pub fn hints(report: &Report) -> Vec<String> {
    let mut hints = Vec::new();
    let (total, sum) = (&report.total.counts, &report.sum);
    let n_records = sum.n_lines.saturating_sub(sum.n_rejected());
    if sum.n_rejected() > n_records {
        hints.push(
            "most lines are not understood: give the server's own format with --format, as its \
             log_format or LogFormat says"
                .to_owned(),
        );
    }
    let has_requests_only = |row: &Row| row.counts.n > 0 && row.n_error_lines == 0;
    let errors_only = report.rows.iter().find(|row| row.n_error_lines > 0 && row.counts.n == 0);
    if let Some(row) = errors_only.filter(|_| report.rows.iter().any(has_requests_only)) {
        hints.push(format!(
            "error lines of {site} explain no request, since no request is known to be of that \
             site: where the access log names no host, --site {site} says whose it is",
            site = plain_text(&row.site)
        ));
    }
    if total.n_gateway() > 0 && !report.has_error_log {
        hints.push(
            "for the cause add the error log of the same time, like: gatewatch-agent scan \
             access.log error.log"
                .to_owned(),
        );
    }
    if total.n_gateway() > 0 {
        hints.push(
            "to hear of the next one within seconds, with its cause: deploy/install.sh".to_owned(),
        );
    }
    hints
}

/// Wall clock of the zone.
fn time(second: i64, zone: &TimeZone) -> String {
    match Timestamp::from_second(second) {
        Ok(at) => zone.to_datetime(at).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "-".to_owned(),
    }
}

/// `1,234,567`
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_flush_right() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let table = [row(["SITE", "N", "CAUSE"]), row(["\u{e4}.example", "1,234", "reset (2)"])];
        assert_eq!(
            aligned(&table, 1..2),
            "SITE           N  CAUSE\n\u{e4}.example  1,234  reset (2)\n"
        );
        assert_eq!(aligned(&[], 0..0), "");
    }

    #[test]
    fn text_is_made_harmless_and_short() {
        assert_eq!(
            plain_text("a\u{1b}[31m\u{9b}\n\u{202e}b"),
            "a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}b"
        );
        let long = "\u{e4}".repeat(100);
        assert_eq!(cell(&long).chars().count(), CELL_CHARS_MAX);
        let mut out = String::new();
        push_line(&mut out, &"\u{9b}\u{1b}\u{e4}");
        assert_eq!(out, "\"\\u009b\\u001b\u{e4}\"\n");
    }

    #[test]
    fn numbers_and_lists_are_easy_to_read() {
        for (n, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(n), want);
        }
        assert_eq!(listed(": ", &[(1, "x"), (0, "y"), (2000, "z")]), ": 1 x, 2,000 z");
        assert_eq!(listed(": ", &[(0, "y")]), "");
    }
}
