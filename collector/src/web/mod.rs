//! Stage 10b: what people and programs ask. One router, on the Unix socket and on the HTTP port.
//!
//! Reads the store; the few writes (tokens, labels, revocation, acknowledgements, notes) are the
//! operator's. Every answer that is no success is JSON `{"error","fix"}`.

pub mod api;
pub mod auth;
pub mod backup;
mod counts;
pub mod downloads;
pub mod error;
mod events;
pub(crate) mod export;
pub mod localize;
mod evidence;
pub mod health;
mod metrics;
pub mod notify;
mod openapi;
pub mod report;
mod serve;
pub mod series;
pub mod silences;
pub mod top;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::ca::Ca;
use crate::clock;
use crate::config::{Config, ReportConfig};
use crate::notify::{Receiver, Stats};
use crate::report::Desk;
use crate::selfstats::SelfStats;
use crate::store::Store;
pub use auth::AdminToken;
use error::ApiError;
pub use serve::{bind_socket, serve_http, serve_socket};

/// Largest request body: the longest one is a note.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What the handlers share; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The store.
    pub store: Store,
    /// For the words of join commands.
    pub ca: Arc<Ca>,
    /// Opens everything.
    pub admin_token: AdminToken,
    /// `HOST:PORT` that agents reach this collector at; see [`agents_address`].
    pub agents_address: String,
    /// What became of notifications.
    pub notify_stats: Arc<Stats>,
    /// Who is told of incidents.
    pub receivers: Arc<[Receiver]>,
    /// What links for people begin with; see [`links`].
    pub links: Arc<str>,
    /// When this collector started.
    pub started_at: UnixMillis,
    /// The collector's own counters.
    pub selfstats: Arc<SelfStats>,
    /// Whether the detector has read what was stored before the start.
    pub ready: Arc<AtomicBool>,
    /// User of this process: admin over the socket, as is root.
    pub own_uid: u32,
    /// Ends streams.
    pub stop: CancellationToken,
    /// Makes reports.
    pub desk: Desk,
    streams: Arc<Semaphore>,
    /// Held by the one that localizes.
    localizing: Arc<Semaphore>,
}

impl AppState {
    /// State that is not ready yet; the caller puts in the receivers, the links and who makes reports.
    pub fn new(
        store: Store,
        ca: Arc<Ca>,
        admin_token: AdminToken,
        agents_address: String,
        stop: CancellationToken,
    ) -> Self {
        Self {
            selfstats: Arc::clone(store.stats()),
            desk: Desk::new(store.clone(), ReportConfig::default()),
            store,
            ca,
            admin_token,
            agents_address,
            notify_stats: Arc::default(),
            receivers: Arc::default(),
            links: Arc::default(),
            started_at: clock::now(),
            ready: Arc::default(),
            own_uid: rustix::process::geteuid().as_raw(),
            stop,
            streams: Arc::new(Semaphore::new(events::STREAMS_MAX)),
            localizing: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Address for join commands: `[grpc] advertise`, else the port that was chosen on the address it
/// listens on, else on this machine's hostname.
#[must_use]
pub fn agents_address(config: &Config, chosen: std::net::SocketAddr) -> String {
    if let Some(address) = &config.grpc.advertise {
        return address.clone();
    }
    if !chosen.ip().is_unspecified() {
        return chosen.to_string();
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}", chosen.port())
}

/// What links for people begin with: `[http] public_url`, else the address it listens on.
#[must_use]
pub fn links(config: &Config, chosen: std::net::SocketAddr) -> String {
    let url = config.http.public_url.clone().unwrap_or_else(|| format!("http://{chosen}"));
    url.trim().trim_end_matches('/').to_owned()
}

/// All routes.
pub fn router(state: AppState) -> Router {
    let plans = DefaultBodyLimit::max(report::PLANS_BYTES_MAX);
    let with_plans = post(report::show_with_plans).layer(plans);
    let admin = Router::new()
        .route("/api/v1/incidents", get(api::list_incidents))
        .route("/api/v1/incidents/{id}", get(api::show_incident))
        .route("/api/v1/incidents/{id}/ack", post(api::ack_incident))
        .route("/api/v1/incidents/{id}/notes", post(api::note_incident))
        .route("/api/v1/incidents/{id}/evidence", get(evidence::json))
        .route("/api/v1/incidents/{id}/evidence.html", get(evidence::html))
        .route("/api/v1/health", get(health::show))
        .route("/api/v1/backup", get(backup::show))
        .route("/api/v1/quarantine/check", post(backup::recheck))
        .route("/api/v1/agents", get(api::list_agents))
        .route("/api/v1/agents/{name}", get(api::show_agent).delete(api::forget_agent))
        .route("/api/v1/agents/{name}/labels", patch(api::label_agent))
        .route("/api/v1/agents/{name}/revoke", post(api::revoke_agent))
        .route("/api/v1/tokens", get(api::list_tokens).post(api::create_token))
        .route("/api/v1/tokens/{id}", delete(api::revoke_token))
        .route("/api/v1/silences", get(silences::list).post(silences::create))
        .route("/api/v1/silences/{id}", delete(silences::end))
        .route("/api/v1/notify/log", get(notify::log))
        .route("/api/v1/notify/routes", get(notify::list))
        .route("/api/v1/notify/routes/{name}/test", post(notify::test))
        .route("/api/v1/counts", get(counts::show))
        .route("/api/v1/series", get(series::show))
        .route("/api/v1/metrics-known", get(series::metrics))
        .route("/api/v1/top", get(top::show))
        .route("/api/v1/export", get(export::show))
        .route("/api/v1/localize", get(localize::show))
        .route("/api/v1/report/{kind}", get(report::show).merge(with_plans))
        .route("/api/v1/stream", get(events::stream))
        .route("/incidents/{id}", get(evidence::html))
        .route("/metrics", get(metrics::show))
        .route_layer(from_fn_with_state(state.clone(), auth::require_admin));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/api/v1/openapi.json", get(async || Json(openapi::document())))
        .merge(admin)
        .fallback(async || {
            ApiError::not_found("there is nothing at this path", "see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(async || {
            let error = "this path does not know this method";
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error, "see /api/v1/openapi.json")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn(async |request, next: axum::middleware::Next| {
            let mut response = next.run(request).await;
            let headers = response.headers_mut();
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }))
        .with_state(state)
}

async fn ready(State(state): State<AppState>) -> Response {
    let not_yet = |error: &str| {
        let fix = "wait; if it stays, look into the collector's log";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error, fix).into_response()
    };
    if !state.ready.load(Ordering::Acquire) {
        return not_yet("the collector is starting");
    }
    match state.store.read(crate::store::follow::answers).await {
        Ok(()) => "ready\n".into_response(),
        Err(_) => not_yet("the database does not answer"),
    }
}

#[cfg(test)]
pub(crate) mod tests;
