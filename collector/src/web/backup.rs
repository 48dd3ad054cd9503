//! `GET /api/v1/backup`: the archive, as it is made. `POST /api/v1/quarantine/check`: looks again at
//! what was found damaged.
//!
//! The database is copied before the answer begins, so that what is wrong with that is an answer. What
//! goes wrong later breaks the connection off, and the archive has no end. A reader that takes nothing
//! for a minute, or less than 64 KiB a second, is cut off: a copy takes room, and others wait.

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
use crate::clock;
use crate::store::backup::{Archive, BackupError, Source};
use crate::store::{Store, verify};

/// Size of a piece of the answer.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for a slow reader; when full, making the archive waits.
const PIECES_MAX: usize = 4;
/// Longest wait for a reader that takes nothing.
const READER_WAIT: Duration = Duration::from_secs(60);
/// Least bytes a second that a reader takes after that wait: it holds up other backups.
const READER_BYTES_S: u64 = 64 << 10;
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
    // A reader that goes away now ends the copy; the turn is given back when that has ended.
    let gone = stop.clone().drop_guard();
    let prepare = move || {
        let turn = turn;
        Ok((Archive::prepare(Source::new(&dir, stop)?)?, turn))
    };
    let prepared = tokio::task::spawn_blocking(prepare).await;
    gone.disarm();
    let (archive, turn) = match prepared {
        Ok(Ok(prepared)) => prepared,
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
        let mut out = Out::new(pieces.clone(), runtime.clone());
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
    /// Bytes that were taken, and how long that was waited for.
    n_bytes: u64,
    waited: Duration,
}

/// Whether a reader that took so much after such a wait holds up other backups.
fn is_too_slow(n_bytes: u64, waited: Duration) -> bool {
    waited > READER_WAIT + Duration::from_secs(n_bytes / READER_BYTES_S)
}

impl Out {
    fn new(pieces: Pieces, runtime: Handle) -> Self {
        Self { pieces, runtime, piece: Vec::new(), n_bytes: 0, waited: Duration::ZERO }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let (n_bytes, since) = (piece.len() as u64, clock::instant());
        let sent = self.runtime.block_on(timeout(READER_WAIT, self.pieces.send(Ok(piece))));
        self.n_bytes += n_bytes;
        self.waited += clock::instant().saturating_duration_since(since);
        match sent {
            Ok(Ok(())) if is_too_slow(self.n_bytes, self.waited) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes too little"))
            }
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

    #[test]
    fn a_reader_of_a_piece_a_minute_does_not_hold_the_turn() {
        let pieces = |n: u64, s: u64| is_too_slow(n * PIECE_BYTES as u64, Duration::from_secs(s));
        assert!(!pieces(1, 59));
        assert!(pieces(2, 2 * 59));
        assert!(!pieces(4000, 4 * 4000), "a slow link of 64 KiB a second");
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_while_the_database_is_copied_gives_the_turn_back_at_its_end() {
        let site = Site::new();
        let fill =
            "CREATE TABLE big AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n
                    WHERE i < 20000) SELECT randomblob(1000) AS body FROM n";
        site.state.store.write(move |tx| tx.execute_batch(fill)).await.unwrap();
        let copy = site.state.store.dir().join("backup.tmp");
        let turn = || site.state.store.backups().take_turn();
        for _ in 0..3 {
            let request = Request::get("/api/v1/backup")
                .header("Authorization", format!("Bearer {}", site.admin_token()));
            let request = request.body(Body::empty()).unwrap();
            let asked = site.router.clone().oneshot(request);
            let begun = async {
                while turn().is_some() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = asked => {}
                () = begun => {}
            }
            // Whoever gets the turn finds no copy that goes on.
            let freed = async {
                loop {
                    match turn() {
                        Some(turn) => break turn,
                        None => tokio::task::yield_now().await,
                    }
                }
            };
            let turn = tokio::time::timeout(Duration::from_secs(30), freed).await.unwrap();
            assert!(!copy.exists());
            drop(turn);
        }
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
