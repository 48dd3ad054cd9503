//! The agent's program: flags, then one command, then an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use gatewatch_agent::cli::{self, Cli, Command};
use gatewatch_agent::config::{Config, Problem};

/// Something failed that is nobody's input: sysexits' EX_SOFTWARE.
const EXIT_INTERNAL: u8 = 70;
/// EX_CONFIG.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "gatewatch-agent: {error:#}");
            ExitCode::from(EXIT_INTERNAL)
        }
    }
}

fn dispatch(cli: &Cli) -> Result<u8> {
    match &cli.command {
        Command::Check => match config(cli) {
            Ok(_) => print(b"the config is sound\n"),
            Err(problems) => {
                let lines: Vec<_> = problems.iter().map(|p| format!("{p}\n")).collect();
                print(lines.concat().as_bytes()).map(|_| EXIT_CONFIG)
            }
        },
        Command::Completions { shell } => print(&cli::completions(*shell)),
        Command::Man => print(&cli::man().context("cannot render the man page")?),
    }
}

fn config(cli: &Cli) -> Result<Config, Vec<Problem>> {
    Config::load(cli.config.as_deref(), std::env::vars())
}

fn print(bytes: &[u8]) -> Result<u8> {
    std::io::stdout().lock().write_all(bytes).context("cannot write to stdout")?;
    Ok(0)
}
