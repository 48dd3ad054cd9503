//! Connections of people and programs: the Unix socket and the HTTP port, bounded in number and in
//! patience, so that a local nuisance cannot use up the files that the agents' port needs.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::PeerUser;

/// Connections at once. When full, further ones wait in the backlog until one ends.
const CONNECTIONS_MAX: usize = 256;

/// Longest wait for the head of a request, the first of a connection or the next one.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest wait for answers in progress when the collector stops.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Serves the router to people on this machine until `stop` fires. The socket is removed at the end.
pub async fn serve_socket(
    listener: UnixListener,
    path: PathBuf,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let user = |stream: &UnixStream| Some(PeerUser::of(stream));
    serve(listener, router, user, HEAD_TIME_MAX, stop).await;
    std::fs::remove_file(path)
}

/// Serves the router over HTTP until `stop` fires.
pub async fn serve_http(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve(listener, router, |_| None, HEAD_TIME_MAX, stop).await;
}

async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    user: impl Fn(&L::Io) -> Option<PeerUser>,
    head_time_max: Duration,
    stop: CancellationToken,
) {
    let (places, connections) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), TaskTracker::new());
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, io) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Cancel-safe: cancelled at the end only.
            accepted = accept => accepted,
        };
        let router = match user(&io) {
            Some(user) => router.clone().layer(axum::Extension(ConnectInfo(user))),
            None => router.clone(),
        };
        let stop = stop.clone();
        connections.spawn(async move {
            let _place = place;
            converse(io, router, head_time_max, stop).await;
        });
    }
    connections.close();
    connections.wait().await;
}

async fn converse<I>(io: I, router: Router, head_time_max: Duration, stop: CancellationToken)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_time_max);
    let service = TowerToHyperService::new(router);
    let mut served = pin!(http.serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        // Cancel-safe: continued below.
        ended = served.as_mut() => Some(ended),
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        served.as_mut().graceful_shutdown();
        timeout(ANSWER_TIME_MAX, served).await.unwrap_or(Ok(()))
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection broke off");
    }
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
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_stop_ends_idle_connections_and_waits_for_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (asked_too, release_too) = (Arc::clone(&asked), Arc::clone(&release));
        let router = Router::new().route(
            "/",
            get(async move || {
                asked_too.add_permits(1);
                release_too.acquire().await.unwrap().forget();
                "late but whole"
            }),
        );
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve_http(listener, router, stop.clone()));
        let idle = TcpStream::connect(address).await.unwrap();
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        asked.acquire().await.unwrap().forget();
        stop.cancel();
        release.add_permits(1);
        let mut answer = String::new();
        busy.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("late but whole"), "{answer}");
        timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_others_out_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(async || "here"));
        let head_time_max = Duration::from_millis(300);
        tokio::spawn(serve(listener, router, |_| None, head_time_max, CancellationToken::new()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut patient = TcpStream::connect(address).await.unwrap();
        patient.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = timeout(Duration::from_secs(20), patient.read_to_string(&mut answer)).await;
        read.expect("silent ones are cut off").unwrap();
        assert!(answer.ends_with("here"), "{answer}");
    }
}
