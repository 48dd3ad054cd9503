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
pub mod model;
pub mod selfstats;
pub mod ingest;
pub mod notify;
#[cfg(test)]
mod samples;
pub mod store;
pub mod web;

use tokio_util::sync::CancellationToken;

/// Runs the collector until `stop` fires, then drains within `shutdown_grace`.
pub async fn run(config: config::Config, stop: CancellationToken) -> anyhow::Result<()> {
    let store = store::Store::open(&config.data_dir)?;
    stop.cancelled().await;
    drop(store);
    Ok(())
}
