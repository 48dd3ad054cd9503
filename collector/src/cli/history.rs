//! Arguments of the commands that read stored history.

use clap::Args;
use wire::units::Span;

use super::{Since, parse_label, parse_since, parse_span};

/// `series SERVER METRIC`
///
/// Values of counters are rates a second; a restart is none, and neither is a gap. For people steps are
/// chosen so that they fit on a page; with --json and without --step each sample is told.
#[derive(Debug, Args)]
pub struct SeriesArgs {
    /// Name of the server.
    pub server: String,
    /// Name of the metric, as `GET /api/v1/metrics-known` lists them.
    pub metric: String,
    /// Its attribute, where it has any: `system.filesystem.mountpoint=/var`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub attribute: Option<String>,
    /// First instant: a time (RFC 3339) or an age (`2h`); default: an hour before its end.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub from: Option<Since>,
    /// End; default: now.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub to: Option<Since>,
    /// Put samples together by so much.
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    pub step: Option<Span>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `top METRIC`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Name of the metric, as `GET /api/v1/metrics-known` lists them.
    pub metric: String,
    /// What the servers are judged by: a percentile of all samples (over long times of the means of all
    /// minutes, within 1 %), the highest or the mean.
    #[arg(long, value_name = "STAT", default_value = "p95",
          value_parser = ["p50", "p95", "p99", "max", "avg"])]
    pub by: String,
    /// First instant: a time (RFC 3339) or an age (`7d`); default: a day before its end.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub from: Option<Since>,
    /// End; default: now.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub to: Option<Since>,
    /// How many are told.
    #[arg(short, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub k: u16,
    /// Only servers with this label; may be given several times.
    #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}
