//! The collector's program: flags, then one command, then an exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use gatewatch_collector::cli::{self, Cli, Command, exit};
use gatewatch_collector::config::{self, Config};
use gatewatch_collector::daemon;
use gatewatch_collector::operator::{self, Order};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            drop(writeln!(io::stderr().lock(), "gatewatch-collector: {error:#}"));
            ExitCode::from(exit::INTERNAL)
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8> {
    // Before anything makes a TLS client or server: there is one provider.
    drop(rustls::crypto::ring::default_provider().install_default());
    let load = || Config::load(cli.config.as_deref(), std::env::vars());
    let order = match cli.command {
        Command::Completions { shell } => {
            cli::completions(shell, &mut io::stdout().lock());
            return Ok(exit::GOOD);
        }
        Command::Man => {
            cli::man(&mut io::stdout().lock()).context("cannot print the man page")?;
            return Ok(exit::GOOD);
        }
        Command::Check => {
            let problems = load().err().unwrap_or_default();
            let (text, code) = match config::lines(&problems) {
                none if none.is_empty() => ("the config is sound\n".to_owned(), exit::GOOD),
                told => (told, exit::CONFIG),
            };
            return io::stdout().write_all(text.as_bytes()).map(|()| code).context("no stdout");
        }
        Command::Run => match load() {
            Ok(config) => {
                daemon::run(config, cli.log_level.as_deref())?;
                return Ok(exit::GOOD);
            }
            Err(problems) => {
                let told = io::stderr().write_all(config::lines(&problems).as_bytes());
                return told.map(|()| exit::CONFIG).context("no stderr");
            }
        },
        Command::Token(command) => Order::Token(command),
        Command::Agent(command) => Order::Agent(command),
        Command::Incident(command) => Order::Incident(command),
    };
    let socket = Config::socket(cli.config.as_deref(), std::env::vars());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    Ok(runtime.block_on(operator::run(order, cli.url.as_deref(), &socket)))
}
