//! Stage 10b: what people and programs ask. One router, on the Unix socket and on the HTTP port.
//!
//! Reads the store; the few writes (tokens, labels, revocation, acknowledgements, notes) are the
//! operator's. Every answer that is no success is JSON `{"error","fix"}`.

pub mod api;
pub mod auth;
mod counts;
pub mod downloads;
pub mod error;
mod events;
mod metrics;
mod openapi;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::ca::{Ca, Revocations};
use crate::config::Config;
use crate::notify;
use crate::selfstats::SelfStats;
use crate::store::Store;
use auth::{AdminToken, PeerUser};
use error::ApiError;

/// Largest request body: the longest one is a note.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What the handlers share; cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// The store.
    pub store: Store,
    /// For the words of join commands.
    pub ca: Arc<Ca>,
    /// Hears of revoked certificates.
    pub revocations: Revocations,
    /// Opens everything.
    pub admin_token: AdminToken,
    /// `HOST:PORT` that agents reach this collector at; see [`agents_address`].
    pub agents_address: String,
    /// What became of notifications.
    pub notify_stats: Arc<notify::Stats>,
    /// The collector's own counters.
    pub selfstats: Arc<SelfStats>,
    /// Whether the agents' port is open and the detector has caught up.
    pub ready: Arc<AtomicBool>,
    /// User of this process: admin over the socket, as is root.
    pub own_uid: u32,
    /// Ends streams.
    pub stop: CancellationToken,
    streams: Arc<Semaphore>,
}

impl AppState {
    /// State with counters of its own and not ready: the caller puts in those it shares.
    pub fn new(
        store: Store,
        ca: Arc<Ca>,
        revocations: Revocations,
        admin_token: AdminToken,
        agents_address: String,
        stop: CancellationToken,
    ) -> Self {
        Self {
            store,
            ca,
            revocations,
            admin_token,
            agents_address,
            notify_stats: Arc::default(),
            selfstats: Arc::default(),
            ready: Arc::default(),
            own_uid: rustix::process::geteuid().as_raw(),
            stop,
            streams: Arc::new(Semaphore::new(events::STREAMS_MAX)),
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

/// All routes.
pub fn router(state: AppState) -> Router {
    let admin = Router::new()
        .route("/api/v1/incidents", get(api::list_incidents))
        .route("/api/v1/incidents/{id}", get(api::show_incident))
        .route("/api/v1/incidents/{id}/ack", post(api::ack_incident))
        .route("/api/v1/incidents/{id}/notes", post(api::note_incident))
        .route("/api/v1/agents", get(api::list_agents))
        .route("/api/v1/agents/{name}", get(api::show_agent).delete(api::forget_agent))
        .route("/api/v1/agents/{name}/labels", patch(api::label_agent))
        .route("/api/v1/agents/{name}/revoke", post(api::revoke_agent))
        .route("/api/v1/tokens", get(api::list_tokens).post(api::create_token))
        .route("/api/v1/tokens/{id}", delete(api::revoke_token))
        .route("/api/v1/counts", get(counts::show))
        .route("/api/v1/stream", get(events::stream))
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

/// Serves the router to people on this machine until `stop` fires. The socket is removed at the end.
pub async fn serve_socket(
    listener: UnixListener,
    path: PathBuf,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<PeerUser>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await?;
    std::fs::remove_file(path)
}

/// Serves the router over HTTP until `stop` fires.
pub async fn serve_http(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Binds the operators' socket, mode 0660. One left by a crash is replaced; a living one is not.
///
/// Inside the runtime: asks a socket that is there whether anybody answers.
pub async fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        let error = "another collector answers on this socket: stop it, or set another `socket`";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, error));
    }
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir)?;
    }
    // Bound under another name and renamed, so that nobody meets it with open rights.
    let temp = path.with_extension("new");
    match std::fs::remove_file(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temp)?;
    std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&temp, path)?;
    Ok(listener)
}

#[cfg(test)]
pub(crate) mod tests;
