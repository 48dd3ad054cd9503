//! The collector, one per fleet: batches in, incidents out.
//!
//! ```text
//! agents  =>  ingest -> store -> detect -> incident -> notify
//!                         └> web
//! ```

pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod errors;
pub mod files;
mod listen;
pub mod model;
pub mod selfstats;
pub mod ingest;
pub mod notify;
#[cfg(test)]
mod samples;
pub mod store;
pub mod detect;
pub mod incident;
pub mod detective;
pub mod web;
pub mod operator;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use ca::{Ca, CaError, Revocations};
use config::Config;
use ingest::{Heard, Ingest, Live};
use store::{Store, StoreError};

/// Words of agents that wait for the detective. When full, heartbeats are dropped and counted (the
/// next one says more), hellos and goodbyes wait.
const HEARD_MAX: usize = 16_384;

/// Disk space kept back for the moment when there is none.
const BALLAST_BYTES: u64 = 64 << 20;

/// Why the collector does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] listen::ListenError),
    /// The agents' port broke.
    #[error(transparent)]
    Ingest(#[from] ingest::ServeError),
    /// A file of the data directory cannot be used.
    #[error(
        "{path}: cannot be used; check that this user may write there, or set another `data_dir`"
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Runs the collector until `stop` fires, then drains within `shutdown_grace`.
///
/// The order of the start: data directory, database, authority, ports; only then `listening`. The
/// order of the stop is that of the pipeline: streams, detective, notifications, database.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let dir = config.data_dir.clone();
    let file = |source| RunError::File { path: dir.clone(), source };
    files::create_private_dir(&dir).map_err(file)?;
    let store = Store::open_with(&dir, BALLAST_BYTES)?;
    let ca = Arc::new(Ca::load_or_create(&dir.join("ca"), clock::now())?);
    let grpc = listen::open("grpc", &config.grpc.listen, &dir).await?;
    let revocations = Revocations::default();
    let live = Live::default();
    let (heard, words) = mpsc::channel::<Heard>(HEARD_MAX);
    let ingest = Ingest {
        ca: Arc::clone(&ca),
        store: store.clone(),
        revocations: revocations.clone(),
        live: live.clone(),
        heard,
        downloads: axum::Router::new(),
    };
    tracing::info!(grpc = %grpc.address, data_dir = %dir.display(), ca_hash = ca.hash(), "listening");
    tell_systemd(&[NotifyState::Ready]);
    let ingest = tokio::spawn(ingest::serve(ingest, grpc.listener, stop.clone()));
    let drained = CancellationToken::new();
    let detective = detective::spawn(store.clone(), &config, words, drained.clone());

    stop.cancelled().await;
    tracing::info!("stopping");
    tell_systemd(&[NotifyState::Stopping]);
    let deadline = tokio::time::Instant::now() + config.shutdown_grace.0;
    match tokio::time::timeout_at(deadline, ingest).await {
        Ok(Ok(ended)) => ended?,
        Ok(Err(panic)) => tracing::error!(%panic, "the agents' port ended by a panic"),
        // A connection that never spoke can hold it up; nothing of it is stored.
        Err(_) => tracing::warn!("connections are cut off: the grace is over"),
    }
    drained.cancel();
    match tokio::time::timeout(LAST_COMMIT, detective).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => tracing::error!("the detective ended by a panic"),
        Err(_) => tracing::warn!("the detector's state is not saved: it is brought forward again"),
    }
    if tokio::time::timeout(LAST_COMMIT, store.close()).await.is_err() {
        tracing::warn!("the database is closed without its last notes: they are replayed");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Longest wait for the last commit, beyond the grace.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// Outside systemd this does nothing.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
