//! The agent's program: flags, then one command, then an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use gatewatch_agent::chain;
use gatewatch_agent::cli::{Cli, dispatch};

fn main() -> ExitCode {
    match dispatch(&Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            drop(writeln!(std::io::stderr().lock(), "gatewatch-agent: {}", chain(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}
