//! Arguments of `report`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Since, parse_label, parse_since};

/// `report KIND`
///
/// Progress is told on stderr: a bar on a terminal, else a line now and then. Exit 2: what was asked
/// makes no sense or names something that is not there; 78: the list of plans has faults.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// What about.
    #[arg(value_enum)]
    pub kind: ReportKind,
    /// What to make of it; default: by the name of --out, else text.
    #[arg(long, value_enum)]
    pub format: Option<ReportFormat>,
    /// First instant: a time (RFC 3339) or an age (`30d`), widened to a whole hour; default: 30 days
    /// before its end.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub from: Option<Since>,
    /// End, widened to a whole hour; default: now.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub to: Option<Since>,
    /// Only this server.
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
    /// Only servers with this label; may be given several times: all of them.
    #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// File to write, readable by you alone; it is replaced when the report is whole. Default: stdout.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Plans to choose from, as a TOML file; default: those of `[report] plans`.
    #[arg(long, value_name = "FILE")]
    pub plans: Option<PathBuf>,
    /// Share of the minutes in which a site is to be outside of any incident, like 0.999; default:
    /// `[report] slo`.
    #[arg(long, value_name = "SHARE")]
    pub slo: Option<f64>,
    /// Labels by whose values servers are put together; default: `[report] by`.
    #[arg(long, value_name = "LABEL,...", value_delimiter = ',')]
    pub by: Vec<String>,
    /// Only this table, of csv (then with a column for each of its own) and json.
    #[arg(long, value_name = "KEY")]
    pub table: Option<String>,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportKind {
    /// What is used of what there is, how long it lasts, and which plan fits.
    Capacity,
    /// What failed, when, for whom and why, minutes lost, and what is left of the error budget.
    Outage,
    /// Who makes most of the trouble: sites, plugins, hypervisors, services.
    Noise,
}

impl ReportKind {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Outage => "outage",
            Self::Noise => "noise",
        }
    }
}

/// Forms of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// A page in one file, for light, dark and paper.
    Html,
    /// One JSON object.
    Json,
    /// A line for each figure; with --table a line for each row.
    Csv,
    /// For a terminal.
    Text,
}

impl ReportFormat {
    /// As the API names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Text => "text",
        }
    }
}
