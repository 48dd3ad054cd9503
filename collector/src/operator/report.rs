//! `report`: asks for a report, tells how far it is, and writes it where it belongs.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wire::UnixMillis;

use super::client::{Client, Failure, code_of};
use super::text::clean;
use super::{Answer, say};
use crate::cli::{ReportArgs, ReportFormat, exit};
use crate::config;
use crate::report::plans::Catalogue;
use crate::web::report::{Line, Rendered, ReportQuery};
use crate::{clock, errors, files};

/// Without a terminal, how often is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Longest line of an answer: the largest report is a tenth of it.
const LINE_BYTES_MAX: usize = 512 << 20;
/// Columns of text that goes to no terminal.
const WIDTH: usize = 100;

/// `report`
pub(super) async fn report(args: ReportArgs, client: &Client) -> Result<Answer, Failure> {
    let format = format(args.format, args.out.as_deref())?;
    let plans = args.plans.as_deref().map(plans).transpose()?;
    let query = query(&args, format, clock::now());
    let Rendered { mut text, .. } = ask(args.kind.name(), &query, plans, client).await?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let Some(out) = args.out else { return Ok(Answer::out(text)) };
    let shown = out.display();
    files::replace_private(&out, text.as_bytes()).map_err(|error| {
        Failure::usage(format!("{shown}: cannot be written: {error}"), "name another file")
    })?;
    Ok(Answer::talk(format!("written to {shown}")))
}

/// What was asked for, else what the name of the file says.
fn format(asked: Option<ReportFormat>, out: Option<&Path>) -> Result<ReportFormat, Failure> {
    let (Some(out), None) = (out, asked) else { return Ok(asked.unwrap_or(ReportFormat::Text)) };
    let ending = out.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    Ok(match ending.as_deref() {
        Some("html" | "htm") => ReportFormat::Html,
        Some("json") => ReportFormat::Json,
        Some("csv") => ReportFormat::Csv,
        Some("txt" | "text") => ReportFormat::Text,
        _ => {
            let what = format!("{}: its name says no format", out.display());
            return Err(Failure::usage(what, "add --format html, json, csv or text"));
        }
    })
}

/// The list of plans, read and checked here: its faults have their places in this file.
fn plans(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("{shown}: cannot be read: {error}"), "name a file of plans in TOML")
    })?;
    match Catalogue::parse(&shown.to_string(), &text) {
        Ok(_) => Ok(text),
        Err(problems) => Err(Failure {
            error: config::lines(&problems).trim_end().to_owned(),
            fix: "deploy/config/plans.toml shows how a catalogue is written".into(),
            code: exit::CONFIG,
        }),
    }
}

fn query(args: &ReportArgs, format: ReportFormat, now: UnixMillis) -> ReportQuery {
    let labels: Vec<String> = args.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let joined = |all: &[String]| (!all.is_empty()).then(|| all.join(","));
    ReportQuery {
        format: Some(format.name().to_owned()),
        from: args.from.map(|from| from.at(now).to_rfc3339()),
        to: args.to.map(|to| to.at(now).to_rfc3339()),
        server: args.server.clone(),
        label: joined(&labels),
        table: args.table.clone(),
        slo: args.slo,
        by: joined(&args.by),
        width: (format == ReportFormat::Text).then(|| width(args.out.is_none())),
    }
}

/// Columns of the terminal that stdout is.
fn width(to_stdout: bool) -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if to_stdout && columns > 0 { columns } else { WIDTH }
}

/// Follows the answer to its end.
async fn ask(
    kind: &str,
    query: &ReportQuery,
    plans: Option<String>,
    client: &Client,
) -> Result<Rendered, Failure> {
    let mut response = client.lines(&["report", kind], query, plans).await?;
    let (mut meter, mut pending) = (Meter::new(), Vec::new());
    loop {
        let piece = response.chunk().await.map_err(|error| broke_off(&errors::chain(&error)))?;
        let Some(piece) = piece else { return Err(broke_off("it has no end")) };
        let mut rest = &piece[..];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            pending.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            let read = serde_json::from_slice(&pending);
            pending.clear();
            match read.map_err(|error| broke_off(&format!("a line cannot be read: {error}")))? {
                Line::Report(rendered) => return Ok(rendered),
                Line::Failed { status, body } => {
                    return Err(Failure {
                        error: clean(&body.error),
                        fix: clean(&body.fix),
                        code: code_of(status),
                    });
                }
                Line::Waiting(n) => meter.waits(n),
                Line::Progress { what, n_done, n } => meter.goes(&clean(&what), n_done, n),
            }
        }
        pending.extend_from_slice(rest);
        if pending.len() > LINE_BYTES_MAX {
            return Err(broke_off("a line has no end"));
        }
    }
}

fn broke_off(why: &str) -> Failure {
    Failure {
        error: format!("the collector's answer broke off: {why}"),
        fix: "ask again; if it happens again, look into the collector's log".into(),
        code: exit::INTERNAL,
    }
}

/// Tells how far it is: a bar on a terminal, else a line now and then.
struct Meter {
    bar: Option<ProgressBar>,
    told_at: Instant,
}

impl Meter {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{bar:30} {percent:>3}%  {elapsed}  {wide_msg}";
            let style = ProgressStyle::with_template(template).expect("the template is sound");
            ProgressBar::new(0).with_style(style)
        });
        Self { bar, told_at: clock::instant() }
    }

    fn waits(&mut self, n: usize) {
        let many = if n == 1 { "another report is".to_owned() } else { format!("{n} others are") };
        let text = format!("waits: {many} made first");
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => say(&text),
        }
    }

    fn goes(&mut self, what: &str, n_done: u64, n: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(n);
            bar.set_position(n_done);
            bar.set_message(what.to_owned());
        } else if self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = clock::instant();
            say(&format!("{what}, {n_done} of {n}"));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(words: &[&str]) -> ReportArgs {
        let words = ["gatewatch-collector", "report"].iter().chain(words);
        match Cli::parse_from(words).command {
            Command::Report(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_format_is_what_was_asked_else_what_the_file_is_called() {
        for (words, want) in [
            (&["capacity"][..], Ok(ReportFormat::Text)),
            (&["capacity", "--format", "json"], Ok(ReportFormat::Json)),
            (&["capacity", "--out", "a.HTML"], Ok(ReportFormat::Html)),
            (&["capacity", "--out", "a.b/c.csv"], Ok(ReportFormat::Csv)),
            (&["capacity", "--out", "c.txt"], Ok(ReportFormat::Text)),
            (&["capacity", "--out", "c.csv", "--format", "html"], Ok(ReportFormat::Html)),
            (&["capacity", "--out", "report.pdf"], Err("report.pdf: its name says no format")),
            (&["capacity", "--out", "report"], Err("report: its name says no format")),
        ] {
            let args = args(words);
            let told = format(args.format, args.out.as_deref()).map_err(|failure| failure.error);
            assert_eq!(told, want.map_err(str::to_owned), "{words:?}");
        }
    }

    #[test]
    fn what_was_asked_reaches_the_api_whole() {
        let args = args(&[
            "outage",
            "--from",
            "2h",
            "--to",
            "2026-11-20T12:00:00Z",
            "--server",
            "web-1",
            "--label",
            "rack=r7",
            "--label",
            "customer=acme",
            "--slo",
            "0.99",
            "--by",
            "plan,region",
            "--table",
            "sites",
            "--format",
            "csv",
        ]);
        let query = query(&args, ReportFormat::Csv, UnixMillis(1_795_176_000_000));
        assert_eq!(query.from.as_deref(), Some("2026-11-20T10:00:00.000Z"));
        assert_eq!(query.to.as_deref(), Some("2026-11-20T12:00:00.000Z"));
        assert_eq!(query.label.as_deref(), Some("rack=r7,customer=acme"));
        assert_eq!(query.by.as_deref(), Some("plan,region"));
        assert_eq!((query.slo, query.width), (Some(0.99), None));
        assert_eq!(query.table.as_deref(), Some("sites"));
    }
}
