//! What a machine without an agent may fetch from the agents' port: the installer and `DATA_DIR/dl`.

use std::path::{Component, Path, PathBuf};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::AsyncReadExt;

use super::error::{ApiError, InPath};

/// Bytes read ahead of a slow client.
const CHUNK_BYTES: usize = 64 << 10;

/// The installer of this release.
const INSTALLER: &str = include_str!("../../../deploy/install.sh");

const SHELL_SCRIPT: &str = "text/x-shellscript; charset=utf-8";

/// GET `/install.sh` and `/dl/*`, nothing else; no secret is in reach. `dir` is `DATA_DIR/dl`.
///
/// A file `dl/install.sh` stands in for the built-in installer. `/dl/ca.pem` is the CA certificate:
/// public, and checked by the installer against the hash its command line carries.
pub fn router(dir: PathBuf) -> Router {
    Router::new()
        .route("/install.sh", get(install))
        .route("/dl/ca.pem", get(ca_certificate))
        .route("/dl/{*path}", get(download))
        .fallback(|| async { not_found() })
        .with_state(dir)
}

async fn install(State(dir): State<PathBuf>) -> Response {
    match send(&dir.join("install.sh"), SHELL_SCRIPT).await {
        Ok(response) => response,
        Err(_) => ([(header::CONTENT_TYPE, SHELL_SCRIPT)], INSTALLER).into_response(),
    }
}

async fn ca_certificate(State(dir): State<PathBuf>) -> Result<Response, ApiError> {
    send(&dir.with_file_name("ca").join("ca.pem"), "application/x-pem-file").await
}

async fn download(State(dir): State<PathBuf>, path: InPath<String>) -> Result<Response, ApiError> {
    let path = inside(&dir, &path.0).ok_or_else(not_found)?;
    send(&path, "application/octet-stream").await
}

/// The file below `dir` that a path of a stranger names; `None` when it leads anywhere else.
fn inside(dir: &Path, asked: &str) -> Option<PathBuf> {
    let relative = Path::new(asked);
    let plain = relative.components().all(|part| match part {
        Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
        _ => false,
    });
    if !plain || asked.contains('\0') {
        return None;
    }
    // A symbolic link may lead out of the directory: only what is really below it is served.
    let real = dir.join(relative).canonicalize().ok()?;
    real.starts_with(dir.canonicalize().ok()?).then_some(real)
}

async fn send(path: &Path, kind: &'static str) -> Result<Response, ApiError> {
    let file = tokio::fs::File::open(path).await.map_err(|_| not_found())?;
    let meta = file.metadata().await.map_err(|_| not_found())?;
    if !meta.is_file() {
        return Err(not_found());
    }
    let n_bytes = meta.len();
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        // At most what the header promised, also if the file grows meanwhile.
        let mut file = file.take(n_bytes);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await;
            let item = match read {
                Ok(0) => return,
                Ok(_) => Ok(chunk),
                Err(error) => Err(error),
            };
            let last = item.is_err();
            if sender.send(item).await.is_err() || last {
                return;
            }
        }
    });
    let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let mut response = (StatusCode::OK, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(n_bytes));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn not_found() -> ApiError {
    ApiError::not_found(
        "there is no such file",
        "files for servers are in DATA_DIR/dl of the collector",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use tower::ServiceExt as _;

    async fn get(router: &Router, path: &str) -> (StatusCode, Vec<u8>) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, body.to_vec())
    }

    #[tokio::test]
    async fn the_ca_certificate_is_public_and_its_key_is_not() {
        let root = tempfile::tempdir().unwrap();
        let ca = root.path().join("ca");
        std::fs::create_dir_all(&ca).unwrap();
        std::fs::write(ca.join("ca.pem"), "certificate").unwrap();
        std::fs::write(ca.join("ca.key"), "key").unwrap();
        // Also before anybody made the directory of downloads.
        let router = router(root.path().join("dl"));
        assert_eq!(get(&router, "/dl/ca.pem").await, (StatusCode::OK, b"certificate".to_vec()));
        for path in ["/dl/ca.key", "/dl/../ca/ca.key", "/dl/ca.pem/../ca.key", "/ca/ca.key"] {
            assert_eq!(get(&router, path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn files_of_the_directory_are_served_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        let dl = root.path().join("dl");
        std::fs::create_dir_all(dl.join("sub")).unwrap();
        let big: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        std::fs::write(root.path().join("secret"), "secret").unwrap();
        std::fs::write(dl.join("sub/agent"), &big).unwrap();
        std::fs::write(dl.join(".hidden"), "hidden").unwrap();
        std::os::unix::fs::symlink(root.path().join("secret"), dl.join("link")).unwrap();
        let router = router(dl.clone());
        assert_eq!(get(&router, "/dl/sub/agent").await, (StatusCode::OK, big));
        for path in [
            "/dl/../secret",
            "/dl/%2e%2e/secret",
            "/dl/sub/..%2f..%2fsecret",
            "/dl/link",
            "/dl/.hidden",
            "/dl/sub",
            "/dl/none",
            "/dl//etc/passwd",
            "/dl/%00",
            "/api/v1/agents",
            "/",
        ] {
            let (status, body) = get(&router, path).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
            assert!(String::from_utf8(body).unwrap().contains("\"fix\""), "{path}");
        }
        assert_eq!(get(&router, "/install.sh").await, (StatusCode::OK, INSTALLER.into()));
        std::fs::write(dl.join("install.sh"), "#!/bin/sh\n").unwrap();
        assert_eq!(get(&router, "/install.sh").await.1, b"#!/bin/sh\n");
    }
}
