//! The command line: every word of help is a doc comment here.

mod commands;
mod scan;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use commands::{CommandError, dispatch};

/// Finds every site of this server, reads its logs and state, and streams what fails to the collector.
///
/// Exit codes: 0 good, 1 the answer is no, 2 usage, 70 internal, 78 config.
#[derive(Clone, Debug, Parser)]
#[command(name = "gatewatch-agent", version, propagate_version = true)]
pub struct Cli {
    /// Config file; without it /etc/gatewatch/agent.toml if that exists, else the defaults.
    ///
    /// The environment variable GATEWATCH_CONFIG says the same; any key of the file can be set as
    /// GATEWATCH_KEY or GATEWATCH_TABLE_KEY, such as GATEWATCH_COLLECTOR_ADDRESS.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// What to log to stderr: error, warn, info (default), debug or trace; or GATEWATCH_LOG_LEVEL.
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: needs no root; SIGTERM drains and says goodbye, SIGHUP re-reads the config.
    Run,
    /// Join a fleet: make a key, get a certificate for it, write both to the state directory.
    ///
    /// Does nothing when this server is already enrolled with that collector. The key never leaves
    /// the machine and is never printed.
    Enroll(EnrollArgs),
    /// Ask the running agent: uplink, spool, losses, files with their offsets, own cpu and memory.
    Status {
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Show what there is to watch: sites, logs, pools, services, and what cannot be read and why.
    Discover {
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
        /// Look below this folder instead of the config's `[logs] root`.
        #[arg(long, value_name = "DIR")]
        root: Option<PathBuf>,
    },
    /// Print one JSON object per line of a log, in order: what the line says.
    Parse {
        /// Format of the lines: auto, a known name, or an nginx log_format or Apache LogFormat string.
        #[arg(long, value_name = "F", default_value = "auto")]
        format: String,
        /// Log file; - is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Say what failed in logs that are already there: per site requests, gateway errors, causes.
    ///
    /// Needs no agent, no configuration and no root beside the right to read the files. Logs may be
    /// plain, .gz or .zst (told by their first bytes), access and error logs in any order and of any
    /// format that `parse` reads. Memory stays small whatever the size: the first 2,000 sites get a
    /// row, all further ones are counted as `other`.
    ///
    /// A request failed when its status is 502 or 504, or a 503 whose line says that an upstream
    /// failed, or that a line of an error log, less than 10 s older and of the same site (of the same
    /// client or upstream where it names no site), explains. Any other 503 counts as the
    /// application's own. So name the error logs too; they also tell the causes.
    ///
    /// The site is the host in the line, else the name of the file. first_at and last_at (JSON) are
    /// those of all lines of a site; first_error_at, last_error_at and the columns of the table those
    /// of its gateway errors.
    ///
    /// Exit codes: 0 all files were read, 1 one could not be read to its end (the others are
    /// counted), 2 usage.
    Scan(ScanArgs),
    /// Check the config: every problem with file, line and fix; exit 0 or 78.
    Check,
    /// Print the completion script of a shell.
    Completions {
        /// bash, elvish, fish, powershell or zsh.
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
}

/// `enroll`
#[derive(Clone, Debug, clap::Args)]
pub struct EnrollArgs {
    /// Where the collector listens for agents, like collector.example:8502.
    #[arg(long, value_name = "HOST:PORT")]
    pub collector: String,
    /// Join token, as `gatewatch-collector token create` printed it; or GATEWATCH_TOKEN, which
    /// other users of this machine cannot see.
    #[arg(long)]
    pub token: Option<String>,
    /// SHA-256 of the fleet's CA certificate, printed beside the token.
    #[arg(long, value_name = "sha256:HEX")]
    pub ca_hash: String,
    /// Label of this server, weaker than those the token fixes; may be repeated.
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub labels: Vec<(String, String)>,
}

/// `scan`
#[derive(Clone, Debug, clap::Args)]
pub struct ScanArgs {
    /// Print JSON lines instead of a table: one per site, worst first, then the total.
    #[arg(long)]
    pub json: bool,
    /// Count only lines from this time on: 2026-11-20T12:00:00Z, "2026-11-20 12:00", 12:00 (today)
    /// or how long ago, like 15m, 2h, 1d. Lines without a time always count.
    #[arg(long, value_name = "T")]
    pub since: Option<String>,
    /// Count only lines before this time.
    #[arg(long, value_name = "T")]
    pub until: Option<String>,
    /// Zone of times without offset, on the command line and in error logs, and of the times in the
    /// table: UTC or a name like Europe/Berlin; default: the machine's.
    #[arg(long, value_name = "Z")]
    pub timezone: Option<String>,
    /// Format of the access logs: auto, a known name, or an nginx log_format or Apache LogFormat
    /// string.
    #[arg(long, value_name = "F", default_value = "auto")]
    pub format: String,
    /// Site of all lines, whatever they say.
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Sites and files in the tables, the worst ones; 0 shows all. JSON always has all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,
    /// Read without vector instructions, to measure what they give; the answer is the same.
    #[arg(long, hide = true)]
    pub portable: bool,
    /// Logs; - is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: write it like hypervisor=hv-3")),
    }
}

/// The completion script of a shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gatewatch-agent", &mut out);
    out
}

/// The man page of the program, each command a section.
pub fn man() -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut out)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let name = format!("gatewatch-agent-{}", sub.get_name());
        clap_mangen::Man::new(sub.clone()).title(name).render(&mut out)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("rack=a=1"), Ok(("rack".into(), "a=1".into())));
        for bad in ["rack", "=x", ""] {
            assert!(label(bad).unwrap_err().contains("hypervisor=hv-3"), "{bad:?}");
        }
    }

    #[test]
    fn completions_and_man_page_name_every_command() {
        let man = String::from_utf8(man().unwrap()).unwrap();
        let bash = String::from_utf8(completions(clap_complete::Shell::Bash)).unwrap();
        for command in Cli::command().get_subcommands() {
            assert!(man.contains(command.get_name()), "{}", command.get_name());
            assert!(bash.contains(command.get_name()), "{}", command.get_name());
        }
    }
}
