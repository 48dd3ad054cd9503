//! The agent's program: flags, then one command, then an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use gatewatch_agent::cli::{self, Cli, Command};

/// Something failed that is nobody's input: sysexits' EX_SOFTWARE.
const EXIT_INTERNAL: u8 = 70;

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
        Command::Completions { shell } => print(&cli::completions(*shell)),
        Command::Man => print(&cli::man().context("cannot render the man page")?),
    }
}

fn print(bytes: &[u8]) -> Result<u8> {
    std::io::stdout().lock().write_all(bytes).context("cannot write to stdout")?;
    Ok(0)
}
