//! `GET /api/v1/backup`: the archive, as it is made. `POST /api/v1/quarantine/check`: looks again at
//! what was found damaged.
//!
//! The database is copied before the answer begins, so that what is wrong with that is an answer. What
//! goes wrong later breaks the connection off, and the archive has no end. A reader that takes nothing
//! for a minute is cut off: a copy takes room.

use std::io::{self, Write};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use super::AppState;
use super::error::ApiError;
use crate::store::backup::{Archive, BackupError, Source};
use crate::store::{Store, verify};

/// Size of a piece of the answer.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for a slow reader; when full, making the archive waits.
const PIECES_MAX: usize = 4;
/// Longest wait for a reader that takes nothing.
const READER_WAIT: Duration = Duration::from_secs(60);
/// Header of the size the archive will have, about.
pub(crate) const SIZE: &str = "x-gatewatch-bytes";

type Pieces = mpsc::Sender<Result<Bytes, io::Error>>;

/// The archive as a stream.
pub(super) async fn show(State(state): State<AppState>) -> Result<Response, ApiError> {
    let turn = state.store.backups().take_turn().ok_or_else(|| {
        let fix = "wait until it is done";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "another backup is being made", fix)
    })?;
    let (dir, stop) = (state.store.dir().to_owned(), state.stop.child_token());
    let prepared =
        tokio::task::spawn_blocking(move || Archive::prepare(Source::new(&dir, stop)?)).await;
    let archive = match prepared {
        Ok(Ok(archive)) => archive,
        Ok(Err(error)) => return Err(failed(&state.store, error)),
        Err(error) => {
            let error = BackupError::new(error.to_string(), "look into the collector's log");
            return Err(failed(&state.store, error));
        }
    };
    let n_bytes = archive.n_bytes;
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    let (store, runtime) = (state.store.clone(), Handle::current());
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut out = Out { pieces: pieces.clone(), runtime: runtime.clone(), piece: Vec::new() };
        match archive.write(&mut out, &mut |_, _| {}) {
            Ok(_) => store.stats().backups_made.one(),
            Err(error) => {
                store.stats().backups_failed.one();
                tracing::error!(%error, "a backup breaks off");
                // The reader sees a connection that breaks off, never an end that is none.
                drop(runtime.block_on(pieces.send(Err(io::Error::other(error)))));
            }
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    headers.insert(SIZE, HeaderValue::from(n_bytes));
    Ok(response)
}

fn failed(store: &Store, error: BackupError) -> ApiError {
    store.stats().backups_failed.one();
    tracing::error!(%error, "no backup is made");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.what, error.fix)
}

/// Writes pieces into the answer; waits for a slow reader.
struct Out {
    pieces: Pieces,
    runtime: Handle,
    piece: Vec<u8>,
}

impl Out {
    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let sent = self.runtime.block_on(timeout(READER_WAIT, self.pieces.send(Ok(piece))));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader went away")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// `POST /api/v1/quarantine/check`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rechecked {
    /// Places that are sound again and served.
    pub n_cleared: usize,
    /// Places that are still damaged.
    pub n_damaged: usize,
}

/// Looks again at what was found damaged.
pub(super) async fn recheck(State(state): State<AppState>) -> Json<Rechecked> {
    let (n_cleared, n_damaged) = verify::recheck(&state.store).await;
    Json(Rechecked { n_cleared, n_damaged })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;
    use crate::model::ServerId;
    use crate::store::quarantine::{Damage, Spot};
    use crate::web::tests::Site;

    #[tokio::test]
    async fn a_backup_is_streamed_whole_and_one_at_a_time() {
        let site = Site::new();
        let ask = || async {
            let request = Request::get("/api/v1/backup")
                .header("Authorization", format!("Bearer {}", site.admin_token()));
            let response = site.router.clone().oneshot(request.body(Body::empty()).unwrap()).await;
            let response = response.unwrap();
            let status = response.status().as_u16();
            (status, axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap())
        };
        let (status, bytes) = ask().await;
        assert_eq!(status, 200);
        let mut names = Vec::new();
        let manifest = crate::store::backup::read_archive(&*bytes, &mut |name, from| {
            names.push(name.to_owned());
            Ok(crate::store::backup::pour(from, &mut std::io::sink()).unwrap())
        });
        assert_eq!(manifest.unwrap().members.len(), names.len());
        assert!(names.contains(&"gatewatch.db".to_owned()), "{names:?}");
        let turn = site.state.store.backups().take_turn().unwrap();
        let (status, body) = ask().await;
        assert_eq!(status, 503, "{body:?}");
        assert!(String::from_utf8_lossy(&body).contains("another backup is being made"));
        drop(turn);
        assert_eq!(ask().await.0, 200);
        assert_eq!(site.state.selfstats.backups_made.get(), 2);
        let (status, body) = site.ask("post", "/api/v1/quarantine/check", json!({})).await;
        assert_eq!((status, body), (200, json!({"n_cleared": 0, "n_damaged": 0})));
    }

    #[tokio::test]
    async fn damaged_history_shows_in_health_and_metrics() {
        let site = Site::new();
        let health = site.get("/api/v1/health").await;
        assert_eq!((&health["state"], &health["n_damaged"]), (&json!("ok"), &json!(0)));
        site.add_server("web-07").await;
        let spot = Spot {
            file: "blocks/20261120.db".into(),
            t0: Some(1_795_176_000),
            metric: Some(-1),
            server: Some(ServerId(1)),
            part: Some(0),
        };
        let damage = Damage { spot, why: "its checksum does not fit".into() };
        site.state.store.quarantine().report(damage);
        let health = site.get("/api/v1/health").await;
        assert_eq!(health["state"], "degraded");
        let shown = &health["damaged"][0];
        assert_eq!(
            (&shown["file"], &shown["server"]),
            (&json!("blocks/20261120.db"), &json!("web-07"))
        );
        assert_eq!(
            (&shown["metric"], &shown["hour"]),
            (&json!("counts"), &json!("2026-11-20T12:00:00.000Z"))
        );
        assert!(shown["fix"].as_str().unwrap().contains("from a backup"));
        let (status, page) = site.ask("get", "/metrics", Value::Null).await;
        assert_eq!(status, 200);
        for line in [
            "gatewatch_history_damaged_places 1",
            "gatewatch_collector_history_damaged 1",
            "gatewatch_blocks_damaged_total 1",
        ] {
            assert!(page.as_str().unwrap().lines().any(|l| l == line), "{line}");
        }
    }
}
