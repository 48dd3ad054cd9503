//! `GET /api/v1/health`: how the collector itself is, so that its faults are not taken for the fleet's.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::ApiError;
use crate::clock;
use crate::model::CollectorEvent;
use crate::selfstats::DiskUse;
use crate::store::backup::{BackupState, MANIFEST};
use crate::store::quarantine::Entry;
use crate::store::{Conn, ReadResult, collector, quarantine};

/// How far back events are shown.
const SINCE: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Damaged places shown.
const DAMAGED_MAX: usize = 100;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// `ok`, or `degraded` while one of the faults below holds.
    pub state: String,
    /// Its own network is gone: silence of agents is not judged.
    pub uplink_lost: bool,
    /// The disk under the database takes nothing: agents keep their batches.
    pub disk_full: bool,
    /// Places of history that are damaged and not served, at most 100; the rest is served.
    #[serde(default)]
    pub damaged: Vec<DamageView>,
    /// How many there are.
    #[serde(default)]
    pub n_damaged: usize,
    /// How the backups stand that are made by themselves.
    #[serde(default)]
    pub backup: Option<BackupState>,
    /// What the data directory takes, measured each `[store] seal_interval`; `null` before the first time.
    #[serde(default)]
    pub disk: Option<DiskUse>,
    /// When it began to listen last.
    #[serde(with = "wire::rfc3339::option")]
    pub started_at: Option<UnixMillis>,
    /// What happened to it in the last day, oldest first.
    pub events: Vec<HealthEvent>,
    /// What links for people begin with, e.g. `https://gatewatch.example`.
    #[serde(default)]
    pub links: String,
}

/// A place of history that is damaged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageView {
    /// Below the data directory.
    pub file: String,
    /// Begin of the hour; without it the whole file.
    #[serde(with = "wire::rfc3339::option")]
    pub hour: Option<UnixMillis>,
    /// Whose; without it everybody's.
    pub server: Option<String>,
    /// `counts`, `events`, `list` or the metric; without it all.
    pub metric: Option<String>,
    /// Which part of the hour.
    pub part: Option<u32>,
    /// What is wrong.
    pub why: String,
    /// When it was found.
    #[serde(with = "wire::rfc3339")]
    pub since: UnixMillis,
    /// What to do.
    pub fix: String,
}

/// One thing that happened to the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthEvent {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// `started`, `stopping`, `disk_full`, `disk_free`, `uplink_lost` or `uplink_back`.
    pub event: CollectorEvent,
}

/// Answers with it.
pub(super) async fn show(State(state): State<AppState>) -> Result<Json<HealthView>, ApiError> {
    let now = clock::now();
    let entries = state.store.quarantine().list();
    let n_damaged = entries.len();
    let read = state.store.read(move |conn| {
        let events = collector::events(conn, now.minus(SINCE), now)?;
        let damaged = entries.iter().take(DAMAGED_MAX).map(|entry| damage(conn, entry));
        Ok((events, damaged.collect::<ReadResult<Vec<_>>>()?))
    });
    let (events, damaged) = read.await?;
    let backup = state.store.backups().state();
    let is_behind = backup.as_ref().is_some_and(|backup| backup.failed_at.is_some());
    let events: Vec<HealthEvent> =
        events.into_iter().map(|(at, event)| HealthEvent { at, event }).collect();
    let mut starts = events.iter().filter(|event| event.event == CollectorEvent::Started);
    let (uplink_lost, disk_full) =
        (state.selfstats.uplink_lost.get(), state.selfstats.disk_full.get());
    let disk = state.selfstats.disk_use.get();
    let is_over = disk.is_some_and(|disk| disk.is_over);
    Ok(Json(HealthView {
        state: if uplink_lost || disk_full || is_over || is_behind || n_damaged > 0 {
            "degraded"
        } else {
            "ok"
        }
        .to_owned(),
        uplink_lost,
        disk_full,
        damaged,
        n_damaged,
        backup,
        disk,
        started_at: starts.next_back().map(|event| event.at),
        events,
        links: state.links.to_string(),
    }))
}

fn damage(conn: &Conn, entry: &Entry) -> ReadResult<DamageView> {
    let spot = &entry.damage.spot;
    let (server, metric) = quarantine::names(conn, spot)?;
    Ok(DamageView {
        file: spot.file.clone(),
        hour: spot.t0.map(|t0| UnixMillis(t0.saturating_mul(1000))),
        server,
        metric,
        part: spot.part,
        why: entry.damage.why.clone(),
        since: entry.since,
        fix: format!(
            "stop the collector, put {} back from a backup (one made by hand has it: `tar -xf FILE {0}`; of \
             one made by itself it is the file `beside`, as `tar -xOf FILE {MANIFEST}` tells), start it; \
             `gatewatch-collector verify` says whether it is sound",
            spot.file
        ),
    })
}
