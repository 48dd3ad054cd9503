//! `GET /api/v1/health`: how the collector itself is, so that its faults are not taken for the fleet's.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::AppState;
use super::error::ApiError;
use crate::clock;
use crate::model::CollectorEvent;
use crate::store::collector;

/// How far back events are shown.
const SINCE: std::time::Duration = std::time::Duration::from_secs(86_400);

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// `ok`, or `degraded` while one of the faults below holds.
    pub state: String,
    /// Its own network is gone: silence of agents is not judged.
    pub uplink_lost: bool,
    /// The disk under the database takes nothing: agents keep their batches.
    pub disk_full: bool,
    /// When it began to listen last.
    #[serde(with = "wire::rfc3339::option")]
    pub started_at: Option<UnixMillis>,
    /// What happened to it in the last day, oldest first.
    pub events: Vec<HealthEvent>,
    /// What links for people begin with, e.g. `https://gatewatch.example`.
    #[serde(default)]
    pub links: String,
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
    let events = state.store.read(move |conn| collector::events(conn, now.minus(SINCE), now));
    let events: Vec<HealthEvent> =
        events.await?.into_iter().map(|(at, event)| HealthEvent { at, event }).collect();
    let mut starts = events.iter().filter(|event| event.event == CollectorEvent::Started);
    let (uplink_lost, disk_full) =
        (state.selfstats.uplink_lost.get(), state.selfstats.disk_full.get());
    Ok(Json(HealthView {
        state: if uplink_lost || disk_full { "degraded" } else { "ok" }.to_owned(),
        uplink_lost,
        disk_full,
        started_at: starts.next_back().map(|event| event.at),
        events,
        links: state.links.to_string(),
    }))
}
