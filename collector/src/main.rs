//! The collector's program: flags, then one command, then an exit code.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use gatewatch_collector::cli::{self, Cli, Command, ReplayArgs, exit};
use gatewatch_collector::config::{self, Config, Problem};
use gatewatch_collector::daemon;
use gatewatch_collector::operator::{self, Order};
use gatewatch_collector::replay::{self, ReplayError};

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
            let loaded = load();
            for hint in loaded.iter().flat_map(|config| config.hints(cli.config.as_deref())) {
                writeln!(io::stderr().lock(), "hint: {hint}").context("no stderr")?;
            }
            let told = loaded.err().map(|problems| config::lines(&problems));
            let text = told.as_deref().unwrap_or("the config is sound\n");
            io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
            return Ok(if told.is_some() { exit::CONFIG } else { exit::GOOD });
        }
        Command::Run => {
            let told = match load() {
                Ok(config) => {
                    let hints = config.hints(cli.config.as_deref());
                    return Ok(daemon::run(config, &hints, cli.log_level.as_deref()).map(|()| 0)?);
                }
                Err(problems) => config::lines(&problems),
            };
            return io::stderr()
                .write_all(told.as_bytes())
                .map(|()| exit::CONFIG)
                .context("no stderr");
        }
        Command::Replay(args) => return replay(&args, load()),
        command @ (Command::Backup(_) | Command::Restore(_) | Command::Verify(_)) => {
            return keep(&command, cli.url.as_deref(), load());
        }
        Command::Token(command) => Order::Token(command),
        Command::Agent(command) => Order::Agent(command),
        Command::Incident(command) => Order::Incident(command),
        Command::Silence(command) => Order::Silence(command),
        Command::Notify(command) => Order::Notify(command),
        Command::Localize(args) => match &args.file {
            Some(file) => return Ok(operator::localize::file(file, &args.by)),
            None => Order::Localize(args),
        },
        Command::Series(args) => Order::Series(args),
        Command::Top(args) => Order::Top(args),
        Command::Report(args) => Order::Report(args),
    };
    let socket = match Config::socket(cli.config.as_deref(), std::env::vars()) {
        Ok(socket) => socket,
        Err(_) if cli.url.is_some() => PathBuf::new(),
        Err(problem) => {
            writeln!(io::stderr().lock(), "{problem}").context("no stderr")?;
            return Ok(exit::CONFIG);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(operator::run(order, cli.url.as_deref(), &socket)))
}

/// What works on the data directory, with a running collector or without one.
fn keep(command: &Command, url: Option<&str>, config: Result<Config, Vec<Problem>>) -> Result<u8> {
    let config = match config {
        Ok(config) => config,
        // Nothing of this machine is needed.
        Err(_) if url.is_some() => Config::default(),
        Err(problems) => {
            let told = config::lines(&problems);
            let mut talk = io::stderr().lock();
            return talk.write_all(told.as_bytes()).map(|()| exit::CONFIG).context("no stderr");
        }
    };
    daemon::keep_private();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(match command {
        Command::Backup(args) => runtime.block_on(operator::backup::backup(args, url, &config)),
        Command::Restore(args) => operator::backup::restore(args, &config),
        Command::Verify(args) => runtime.block_on(operator::backup::verify(args, &config)),
        _ => exit::USAGE,
    })
}

/// Exit code: 2 where a file is not there or holds no record at all, 70 where one cannot be read to its
/// end or its packing is cut short, else good: also where a record is broken or cut, or the `end` of
/// an export is missing, which is said on stderr.
fn replay(args: &ReplayArgs, config: Result<Config, Vec<Problem>>) -> Result<u8> {
    let mut talk = io::stderr().lock();
    let config = match config {
        Ok(config) => config,
        Err(problems) => {
            let told = config::lines(&problems);
            return talk.write_all(told.as_bytes()).map(|()| exit::CONFIG).context("no stderr");
        }
    };
    let options =
        replay::Options { only_final: args.only_final, explain: args.explain, until: args.until };
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match replay::run(&args.files, &config.detect, options, &mut out, &mut talk) {
        Ok(outcome) if outcome.n_records == 0 && outcome.skipped.n_broken > 0 => {
            let told = "gatewatch-collector: no line is a record; a stream is what GET /api/v1/export gives\n";
            talk.write_all(told.as_bytes()).map(|()| exit::USAGE).context("no stderr")
        }
        Ok(outcome) if outcome.is_unreadable => Ok(exit::INTERNAL),
        Ok(_) => Ok(exit::GOOD),
        Err(ReplayError::Open(error)) => {
            writeln!(talk, "gatewatch-collector: {error}").context("no stderr")?;
            Ok(exit::USAGE)
        }
        // `| head` has seen enough.
        Err(ReplayError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(exit::GOOD)
        }
        Err(error) => Err(error.into()),
    }
}
