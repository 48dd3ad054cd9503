//! The command line of `gatewatch-collector`: all help text is the doc comments of this file and
//! those beside it.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use wire::UnixMillis;
use wire::units::Span;

pub use self::history::{SeriesArgs, TopArgs};
pub use self::report::{ReportArgs, ReportFormat, ReportKind};
use crate::operator::when::When;
use crate::replay::Until;

mod history;
mod report;

/// Exit codes of the contract.
pub mod exit {
    /// All is well.
    pub const GOOD: u8 = 0;
    /// The answer is no.
    pub const NO: u8 = 1;
    /// The command line is wrong, or names something that is not there.
    pub const USAGE: u8 = 2;
    /// Something else failed.
    pub const INTERNAL: u8 = 70;
    /// The configuration is wrong.
    pub const CONFIG: u8 = 78;
}

/// Watches a fleet's web servers for gateway errors and tells one story per outage.
///
/// stdout is data, stderr is talk. Exit codes: 0 good, 1 the answer is "no", 2 usage, 70 internal,
/// 78 configuration.
#[derive(Debug, Parser)]
#[command(name = "gatewatch-collector", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Config file; without it /etc/gatewatch/collector.toml if that exists, else the defaults.
    #[arg(long, value_name = "FILE", global = true, env = "GATEWATCH_CONFIG")]
    pub config: Option<PathBuf>,
    /// What to log to stderr: error, warn, info (default), debug or trace.
    #[arg(
        long,
        value_name = "LEVEL",
        global = true,
        env = "GATEWATCH_LOG_LEVEL",
        value_parser = ["error", "warn", "info", "debug", "trace"],
        ignore_case = true,
        hide_possible_values = true
    )]
    pub log_level: Option<String>,
    /// Collector to talk to, `http://HOST:PORT`; the token is read from GATEWATCH_TOKEN. Default: the
    /// collector on this machine, through its socket.
    #[arg(long, global = true, env = "GATEWATCH_URL")]
    pub url: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands of the collector.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the collector; the first start creates the data directory, the CA and the admin token.
    Run,
    /// Checks the configuration and prints every problem; exit 0 or 78.
    Check,
    /// Join tokens: what a new server needs to enrol.
    #[command(subcommand)]
    Token(TokenCommand),
    /// The fleet.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Incidents.
    #[command(subcommand)]
    Incident(IncidentCommand),
    /// Maintenance windows: pages are silenced, detection is not.
    #[command(subcommand)]
    Silence(SilenceCommand),
    /// Notifications: what was told to whom, how each route stands, a test.
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Tries the detector on recorded data: incidents as JSON lines.
    ///
    /// Reads a fleet stream as `GET /api/v1/export` gives it (JSON lines, plain, gzip or zstd), runs the
    /// detector of this release with the [detect] settings of --config on the stream's own clock, and
    /// prints one line for each change of an incident:
    /// {"at","event":"open|update|escalate|narrow|reopen|merge|resolve","incident"}. The same stream
    /// gives the same lines and ids each time. Needs no running collector and changes nothing. What was
    /// skipped is told on stderr.
    ///
    /// The clock stops with the last record: an outage that goes on then stays open. --until runs it on.
    Replay(ReplayArgs),
    /// Says what failing requests have in common: the smallest sets of values that explain them.
    Localize(LocalizeArgs),
    /// Shows what is kept of one metric of one server.
    Series(SeriesArgs),
    /// Shows the servers with the highest values of a metric.
    Top(TopArgs),
    /// Makes a report: for customers and managers, as text, a page, CSV or JSON.
    Report(ReportArgs),
    /// Makes a backup of everything: database, day and month files, authority, admin token.
    ///
    /// Of a running collector, at full load, through its socket or --url; of one that is stopped from its
    /// data directory. The archive is a tar with a checksum of each file. It holds the keys of the
    /// authority and the admin token: it is made for its owner alone (mode 0600) and has to stay so.
    Backup(BackupArgs),
    /// Puts a backup in the place of the data directory of a collector that is stopped.
    ///
    /// Everything is unpacked and every checksum compared before anything is touched; an interruption
    /// leaves the old or the new. What was there is moved to a folder beside it. Afterwards agents send
    /// anew what they keep, the last two hours. Backups of older releases are brought up to date at the
    /// next start, those of newer ones are refused.
    Restore(RestoreArgs),
    /// Checks that a data directory, or a backup, is what was written; changes nothing.
    ///
    /// Every database, the checksum of every packed column, and that the files have the hours that the
    /// database says. Prints each problem with its file and place, what it means and what to do. Exit 0:
    /// sound, 1: not. A running collector goes on, and serves again what was damaged and is sound by now.
    Verify(VerifyArgs),
    /// Prints shell completion.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Prints the manual page.
    Man,
}

/// `token ...`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a join token and prints the command that installs an agent with it.
    Create(TokenCreate),
    /// Lists the tokens that have not been forgotten; their secrets are not kept.
    List {
        /// JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Makes a token useless at once; servers that joined with it stay.
    Revoke {
        /// Id of the token, as `token list` shows it.
        id: String,
    },
}

/// `token create`
#[derive(Debug, Args)]
pub struct TokenCreate {
    /// Label of every server that joins with this token; stronger than the agent's own config.
    #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// How long the token can be used.
    #[arg(long, default_value = "1h", value_parser = parse_span)]
    pub ttl: Span,
    /// How many servers can join with it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub uses: u32,
    /// Lets a reinstalled server have its name and history back; its old certificate is revoked when
    /// it enrols.
    #[arg(long, value_name = "NAME")]
    pub replace: Option<String>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `agent ...`
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Lists the servers: state, version, last seen, losses.
    List {
        /// Only servers with this label.
        #[arg(long = "label", value_name = "K=V", value_parser = parse_label)]
        labels: Vec<(String, String)>,
        /// JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Shows one server: labels and where each is from, certificate, sites, loss ledger.
    Show {
        /// Name of the server.
        name: String,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Sets labels of a server, stronger than all others; `k=` takes one away again.
    Label {
        /// Name of the server.
        name: String,
        /// Labels to set.
        #[arg(required = true, value_name = "K=V", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// Revokes every certificate of a server and ends its connection; its history stays.
    Revoke {
        /// Name of the server.
        name: String,
    },
    /// Removes a server and its history; refused while it is connected, unless revoked first.
    Forget {
        /// Name of the server.
        name: String,
    },
}

/// `incident ...`
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// Lists incidents, newest first.
    List(IncidentList),
    /// Shows one incident: what fails, since when, why, what to do.
    Show {
        /// Id of the incident; a beginning is enough if no other has it.
        id: String,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Says that you are on it: others see your name, and it stays quiet if it comes back.
    Ack {
        /// Id of the incident.
        id: String,
        /// Your name; default: the user who runs this.
        #[arg(long)]
        by: Option<String>,
    },
    /// Makes the evidence bundle for the provider's support ticket: times, order of onset, servers,
    /// steal, losses, services and logs around it.
    Evidence {
        /// Id of the incident.
        id: String,
        /// What to make of it.
        #[arg(long, value_enum, default_value_t = EvidenceFormat::Json)]
        format: EvidenceFormat,
        /// File to write, readable by you alone; default: stdout.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Adds a line to an incident's timeline.
    Note {
        /// Id of the incident.
        id: String,
        /// What to say.
        text: String,
        /// Your name; default: the user who runs this.
        #[arg(long)]
        by: Option<String>,
    },
    /// Prints each change of any incident as a line until Ctrl-C.
    Follow {
        /// JSON lines: `{"event","incident"}`.
        #[arg(long)]
        json: bool,
    },
}

/// Forms of an evidence bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EvidenceFormat {
    /// One JSON object.
    Json,
    /// A page that prints well, in one file.
    Html,
}

/// `incident list`
#[derive(Debug, Args)]
pub struct IncidentList {
    /// Only those still open.
    #[arg(long)]
    pub open: bool,
    /// Only those not over before this: a time (RFC 3339) or an age (`2h`, `7d`).
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub since: Option<Since>,
    /// At most so many.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Exits with 1 when an incident is open.
    #[arg(long)]
    pub fail_if_open: bool,
    /// JSON lines.
    #[arg(long)]
    pub json: bool,
}

/// `silence ...`
#[derive(Debug, Subcommand)]
pub enum SilenceCommand {
    /// Makes a maintenance window: until it ends nobody is paged about what it covers whole.
    ///
    /// Incidents are still detected, stored and shown. One that is still open when the window ends is
    /// paged then, and who was paged before hears that it is over.
    Add(SilenceAdd),
    /// Lists the windows that are not over.
    List {
        /// Also those that are over.
        #[arg(long)]
        all: bool,
        /// JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Ends a window before its time.
    End {
        /// Id of the window; a beginning is enough if no other has it.
        id: String,
        /// Your name; default: the user who runs this.
        #[arg(long)]
        by: Option<String>,
    },
}

/// `silence add`
#[derive(Debug, Args)]
pub struct SilenceAdd {
    /// What to silence; all of them must hold. K is server, site, pool, scope, kind, cause, severity or
    /// the key of a label; V may hold `*`. An incident is silenced only when all of its servers, or all
    /// of its sites, match. Everything: `--match 'server=*'`.
    #[arg(long = "match", value_name = "K=V", value_parser = parse_label)]
    pub matches: Vec<(String, String)>,
    /// Its end: a time (RFC 3339, or `22:00` on this machine's clock, the next one after its begin), or
    /// how long it lasts (`2h`).
    #[arg(long, value_name = "TIME|SPAN", value_parser = When::parse)]
    pub until: When,
    /// What for, in one line: others see it.
    #[arg(long)]
    pub reason: String,
    /// Its begin: a time (as `--until`), or from now in so long (`30m`); default: now.
    #[arg(long, value_name = "TIME|SPAN", value_parser = When::parse)]
    pub from: Option<When>,
    /// Your name; default: the user who runs this.
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// One JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `notify ...`
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Lists what became of each page on each route, and why: owed, delivered, suppressed, unwanted,
    /// refused, expired, superseded or dropped.
    Log(NotifyLog),
    /// Lists the routes: whom they tell, of what, when, and how they stand.
    Routes {
        /// JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Sends a test message now, whatever hours and silences say. Exit 0: it arrived, 1: it did not.
    Test {
        /// Name of the route, as `notify routes` shows it.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        route: Option<String>,
        /// Tests every route, one after the other.
        #[arg(long)]
        all: bool,
        /// JSON lines: `{"route","ok",...}`.
        #[arg(long)]
        json: bool,
    },
}

/// `notify log`
#[derive(Debug, Args)]
pub struct NotifyLog {
    /// Only of this incident; a beginning of its id is enough.
    #[arg(long, value_name = "ID")]
    pub incident: Option<String>,
    /// Only of this route; `*` stands for all routes at once.
    #[arg(long)]
    pub route: Option<String>,
    /// Only since then: a time (RFC 3339) or an age (`2h`, `7d`).
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub since: Option<Since>,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// JSON lines.
    #[arg(long)]
    pub json: bool,
}

/// `replay`
///
/// Exit 0 also where lines are broken or the stream was cut off: stderr says so. Exit 70: a file
/// cannot be read to its end, or its packing is cut short; what came before is replayed.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Recorded streams, one after the other; `-` is stdin.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Only the last state of each incident, in order of their ids.
    #[arg(long = "final")]
    pub only_final: bool,
    /// With the decision trail: what each decision weighed, and why it was taken or left.
    #[arg(long)]
    pub explain: bool,
    /// Lets the clock run on after the last record, as if no more came: to a time (RFC 3339), or for so
    /// long (`1h`).
    #[arg(long, value_name = "TIME|SPAN", value_parser = parse_until)]
    pub until: Option<Until>,
}

/// `localize`
///
/// Prints JSON lines, best first: `{"where":{dimension:value},"score","n","n_failed","explained"}`.
/// `score` is in nats, `explained` the share of the excess failures. Exit 1: nothing stands out.
///
/// Of the store: the requests of a time against those before it, for as long but an hour at least.
/// Of a file: a header, columns `n` and `n_failed`, every other column a dimension; rows from before
/// the fault have 1 in a column `baseline`.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct LocalizeArgs {
    /// CSV file to read instead of the store; `-`: standard input.
    #[arg(conflicts_with_all = ["from", "to"])]
    pub file: Option<PathBuf>,
    /// Begin of the time in question: a time (RFC 3339) or an age (`2h`); default: 15 minutes before
    /// its end.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub from: Option<Since>,
    /// Its end; default: now.
    #[arg(long, value_name = "TIME|AGE", value_parser = parse_since)]
    pub to: Option<Since>,
    /// Dimensions, at most 8. Of the store: server, site, pool, signal, path, or keys of labels
    /// (default: labels that tell servers apart, server, site, pool). Of a file: its columns
    /// (default: all).
    #[arg(long, value_name = "DIM,...", value_delimiter = ',')]
    pub by: Vec<String>,
}

/// `backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// File to write; `-`: stdout. It gets its name when it is whole.
    pub file: PathBuf,
    /// Replaces a file that is there.
    #[arg(long)]
    pub force: bool,
}

/// `restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Backup to restore; `-`: stdin. One that was made by itself stays in its folder, where the files
    /// are that it names.
    pub file: PathBuf,
    /// Also where there is a database: it is moved aside, to a dated folder in the data directory.
    #[arg(long)]
    pub force: bool,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Backup to check; default: the data directory.
    pub file: Option<PathBuf>,
    /// One JSON object: {"sound","n_files","n_bytes","n_hours","n_bodies","n_problems",
    /// "problems":[{"file","place","what","means","fix"}]}.
    #[arg(long)]
    pub json: bool,
}

/// A point in the past: absolute, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A time.
    At(UnixMillis),
    /// An age.
    Ago(Span),
}

impl Since {
    /// The instant meant, when it is now `now`.
    #[must_use]
    pub fn at(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::At(at) => at,
            Self::Ago(span) => now.minus(span.0),
        }
    }
}

/// Writes the completion script of `shell` to `out`.
pub fn completions(shell: Shell, out: &mut dyn io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "gatewatch-collector", out);
}

/// Writes the manual page, one section per command, to `out`.
pub fn man(out: &mut dyn io::Write) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(out)?;
    for child in command.get_subcommands() {
        man_sections(child, out)?;
    }
    Ok(())
}

fn man_sections(command: &clap::Command, out: &mut dyn io::Write) -> io::Result<()> {
    let page = clap_mangen::Man::new(command.clone());
    page.render_name_section(out)?;
    page.render_synopsis_section(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    for child in command.get_subcommands() {
        man_sections(child, out)?;
    }
    Ok(())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_owned(), v.trim().to_owned())),
        _ => Err(format!("{text:?} is no KEY=VALUE: write it like \"rack=r7\"")),
    }
}

fn parse_span(text: &str) -> Result<Span, String> {
    text.parse()
}

fn parse_since(text: &str) -> Result<Since, String> {
    match (UnixMillis::parse_rfc3339(text), text.parse::<Span>()) {
        (Some(at), _) => Ok(Since::At(at)),
        (None, Ok(span)) => Ok(Since::Ago(span)),
        (None, Err(_)) => Err(format!(
            "{text:?} is neither a time like \"2026-11-20T12:00:00Z\" nor an age like \"2h\""
        )),
    }
}

fn parse_until(text: &str) -> Result<Until, String> {
    match (UnixMillis::parse_rfc3339(text), text.parse::<Span>()) {
        (Some(at), _) => Ok(Until::At(at)),
        (None, Ok(span)) => Ok(Until::After(span)),
        (None, Err(_)) => Err(format!(
            "{text:?} is neither a time like \"2026-11-20T12:00:00Z\" nor a span like \"1h\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_log_level_that_is_none_is_refused_as_usage() {
        let level = |text| Cli::try_parse_from(["gatewatch-collector", "--log-level", text, "run"]);
        assert!(level("DEBUG").is_ok());
        for bad in ["verbose", "", "info,x=1"] {
            assert_eq!(level(bad).map(drop).map_err(|e| e.exit_code()), Err(2), "{bad:?}");
        }
    }

    #[test]
    fn since_is_a_time_or_an_age() {
        let now = UnixMillis(1_795_176_067_000);
        for (text, expected) in [
            ("2h", Some(now.0 - 7_200_000)),
            ("2026-11-20T12:01:07Z", Some(1_795_176_067_000)),
            ("2026-11-20T13:01:07+01:00", Some(1_795_176_067_000)),
            ("yesterday", None),
        ] {
            assert_eq!(parse_since(text).ok().map(|since| since.at(now).0), expected, "{text}");
        }
    }

    #[test]
    fn labels_need_a_key() {
        assert_eq!(parse_label("rack=r7"), Ok(("rack".into(), "r7".into())));
        assert_eq!(parse_label("note=a=b"), Ok(("note".into(), "a=b".into())));
        assert_eq!(parse_label("rack="), Ok(("rack".into(), String::new())));
        for bad in ["rack", "=r7", ""] {
            assert!(parse_label(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn man_page_and_completions_name_every_command() {
        let mut page = Vec::new();
        man(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let mut script = Vec::new();
        completions(Shell::Bash, &mut script);
        let script = String::from_utf8(script).unwrap();
        for word in [
            "token", "revoke", "follow", "forget", "replay", "explain", "localize", "silence",
            "end", "notify", "routes", "test", "backup", "restore", "verify", "series", "top",
        ] {
            assert!(page.contains(word) && script.contains(word), "{word}");
        }
    }
}
