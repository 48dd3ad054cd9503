//! The heartbeat: a URL asked for while the collector is healthy, so that its silence rings a bell at
//! whoever expects it.
//!
//! Healthy: the store commits, the detector reads what arrives, and no page waits for the clerk. The
//! URL may hold a secret: only its scheme and host are ever shown, and `url_file` is read for each ping.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Url, redirect};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::address;
use super::fault::{Fault, Wrong};
use crate::config::DeadmanConfig;
use crate::store::pulse::{self, Progress};
use crate::store::{Store, StoreError};
use crate::{clock, errors};

/// How long the store has to commit a tiny write, and to answer.
const STORE_MAX: Duration = Duration::from_secs(5);
/// How long the receiver has to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long the detector may stand still before batches it has not read.
const STILL_MAX: Duration = Duration::from_secs(60);
/// How long a page may wait for the clerk.
const OVERDUE_MAX: Duration = Duration::from_secs(60);
/// The first ping is sent when the detector is ready, but its absence is said after so long.
const START_MAX: Duration = Duration::from_secs(60);
const START_POLL: Duration = Duration::from_millis(100);
/// Shortest interval that makes sense.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Where a URL comes from.
#[derive(Clone, Debug)]
enum Source {
    Config(Url),
    File(PathBuf),
}

/// The heartbeat.
pub struct Deadman {
    client: Client,
    source: Source,
    interval: Duration,
    store: Store,
    ready: Arc<AtomicBool>,
    watch: Watch,
    /// Said last: not healthy; pings do not arrive.
    is_sick: bool,
    is_unheard: bool,
}

/// What is wrong with the URL of `[deadman]`; never with the URL itself.
#[must_use]
pub fn fault(config: &DeadmanConfig) -> Option<Fault> {
    source(config).err()
}

fn source(config: &DeadmanConfig) -> Result<Option<Source>, Fault> {
    match (&config.url, &config.url_file) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(Wrong::new("is set beside url", "keep one of them").at("url_file"))
        }
        (Some(url), None) => {
            let url = address::parse(url, address::WEB).map_err(|wrong| wrong.at("url"))?;
            Ok(Some(Source::Config(url)))
        }
        (None, Some(path)) => {
            address::read(path, address::WEB).map_err(|wrong| wrong.at("url_file"))?;
            Ok(Some(Source::File(path.clone())))
        }
    }
}

impl Deadman {
    /// `None` when `config` names no URL; `Err` says what is wrong with it. `ready` is true once the
    /// detector has read what was stored before its start.
    pub fn new(
        config: &DeadmanConfig,
        store: Store,
        ready: Arc<AtomicBool>,
    ) -> Result<Option<Self>, String> {
        let source = source(config).map_err(|fault| fault.to_string())?;
        let Some(source) = source else { return Ok(None) };
        let interval = config.interval.0.max(INTERVAL_MIN);
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder()
            .user_agent(concat!("gatewatch-collector/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .timeout(ANSWER_MAX)
            .build()
            .map_err(|error| format!("no HTTP client could be made: {}", errors::chain(&error)))?;
        let (watch, is_sick, is_unheard) = (Watch::default(), false, false);
        Ok(Some(Self { client, source, interval, store, ready, watch, is_sick, is_unheard }))
    }

    /// Pings at its interval while the collector is healthy, until `stop` fires.
    pub async fn run(mut self, stop: CancellationToken) {
        let started = clock::instant();
        while !self.ready.load(Ordering::Acquire) && started.elapsed() < START_MAX {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: it only waits.
                () = tokio::time::sleep(START_POLL) => {}
            }
        }
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a tick that is not taken is the next one.
                _ = tick.tick() => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // A beat that is cut off is one that is missing at the end of a collector.
                () = self.beat() => {}
            }
        }
    }

    /// Looks once, and pings when all is well.
    async fn beat(&mut self) {
        if let Err(reason) = self.health().await {
            if !std::mem::replace(&mut self.is_sick, true) {
                tracing::warn!(reason, "no heartbeat is sent: the collector is not healthy");
            }
            return;
        }
        if std::mem::take(&mut self.is_sick) {
            tracing::info!("heartbeats are sent again: the collector is healthy");
        }
        match self.ping().await {
            Ok(to) if std::mem::take(&mut self.is_unheard) => {
                tracing::info!(to, "heartbeats arrive again");
            }
            Ok(_) => {}
            Err((to, reason)) => {
                if !std::mem::replace(&mut self.is_unheard, true) {
                    tracing::warn!(to, reason, "heartbeats do not arrive");
                }
            }
        }
    }

    /// `Err` says in words what is wrong with the collector.
    async fn health(&mut self) -> Result<(), String> {
        if !self.ready.load(Ordering::Acquire) {
            return Err("the detector has not read what is stored yet".to_owned());
        }
        let now = clock::now();
        let arrived = *self.store.committed().borrow();
        in_time("write", self.store.write(move |tx| pulse::beat(tx, now))).await?;
        let progress = in_time("read", self.store.read(pulse::progress)).await?;
        self.watch.look(progress, arrived, now, clock::instant())
    }

    /// Asks once; `Ok` says whom, `Err` also why it was in vain.
    async fn ping(&self) -> Result<String, (String, String)> {
        let url = match &self.source {
            Source::Config(url) => Ok(url.clone()),
            Source::File(path) => address::read(path, address::WEB),
        };
        let url = url.map_err(|why| ("url_file".to_owned(), why.to_string()))?;
        let to = url.origin().ascii_serialization();
        match self.client.get(url).send().await {
            Ok(answer) if answer.status().is_success() => Ok(to),
            Ok(answer) => Err((to, format!("the receiver answered {}", answer.status()))),
            Err(error) => Err((to, errors::chain(&error.without_url()))),
        }
    }
}

async fn in_time<T>(
    verb: &str,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, String> {
    match tokio::time::timeout(STORE_MAX, asked).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("the store does not {verb}: {}", errors::chain(&error))),
        Err(_) => Err(format!("the store does not {verb} within {STORE_MAX:?}")),
    }
}

/// What was seen of the detector; pure.
#[derive(Debug, Default)]
struct Watch {
    /// Where it stands although more has arrived, and since when.
    still: Option<(i64, Instant)>,
}

impl Watch {
    /// `arrived`: the last batch committed before `progress` was read.
    fn look(
        &mut self,
        progress: Progress,
        arrived: i64,
        now: UnixMillis,
        instant: Instant,
    ) -> Result<(), String> {
        let read = progress.read_upto;
        if read >= arrived {
            self.still = None;
        } else if self.still.is_none_or(|(at, _)| at != read) {
            self.still = Some((read, instant));
        }
        let stood = self.still.map(|(_, since)| instant.saturating_duration_since(since));
        if let Some(stood) = stood.filter(|stood| *stood >= STILL_MAX) {
            let seconds = stood.as_secs();
            return Err(format!(
                "the detector has read no batch for {seconds} s, though some came"
            ));
        }
        let overdue = progress.oldest_page.map(|due| now.since(due));
        if let Some(overdue) = overdue.filter(|overdue| *overdue > OVERDUE_MAX) {
            return Err(format!("a page waits to be told for {} s", overdue.as_secs()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
