//! The process around the collector: log, threads, signals, limits.

use std::io::{self, IsTerminal as _};

use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::RunError;
use crate::config::Config;

/// What is logged when nothing says otherwise.
const LOG_LEVEL: &str = "info";

/// File descriptors below which the collector of a small fleet may run out of them.
const FILES_MIN: u64 = 4096;

/// Why the process ends with [`exit::INTERNAL`](crate::cli::exit::INTERNAL).
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The system gives no threads or no signals.
    #[error("the process cannot be set up")]
    System(#[from] io::Error),
    /// The collector does not run.
    #[error("the collector does not run")]
    Run(#[from] RunError),
}

/// Runs the collector until SIGTERM or SIGINT. `hints` are those of the config.
pub fn run(config: Config, hints: &[String], log_level: Option<&str>) -> Result<(), DaemonError> {
    let filter = EnvFilter::new(log_level.unwrap_or(LOG_LEVEL));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    for hint in hints {
        tracing::warn!(hint, "the config is sound but could be better");
    }
    keep_private();
    let files_max = getrlimit(Resource::Nofile).current;
    if files_max.is_some_and(|n| n < FILES_MIN) {
        tracing::warn!(
            files_max,
            "few file descriptors: at most half as many agents; raise LimitNOFILE"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(watch_signals(Signals::new()?, stop.clone()));
        crate::run(config, stop).await.map_err(DaemonError::from)
    });
    // Blocking work that does not end, such as a read of a dying disk, is left behind.
    runtime.shutdown_background();
    ended
}

/// What is not meant for others is readable to nobody else: database, log of writes, keys.
pub fn keep_private() {
    rustix::process::umask(Mode::from_raw_mode(0o077));
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// The first SIGTERM or SIGINT drains; settings are read at the start only, and SIGHUP says so.
async fn watch_signals(mut signals: Signals, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            // Cancel-safe, as the others: a signal that was not taken is still there.
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                tracing::warn!("SIGHUP changes nothing: restart to take over the config; agents keep their batches meanwhile");
            }
        }
    }
    stop.cancel();
}
