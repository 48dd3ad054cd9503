//! The agents' port: accepts, shakes hands, and routes h2 to gRPC and http/1.1 to the downloads.
//!
//! One task per handshake, so that a slow client blocks nobody. Who has not shown a certificate is
//! bounded: in handshakes as a whole and per address, and in connections without a certificate.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use super::tls::PEER;
use crate::selfstats::SelfStats;

/// Longest handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Handshakes at the same time; when full, new connections are closed at once and come again.
const HANDSHAKES_MAX: usize = 2048;

/// The same of one address, so that a single machine cannot take them all.
const HANDSHAKES_PER_PEER_MAX: usize = 256;

/// Connections without a client certificate: enrolments and downloads.
const UNIDENTIFIED_MAX: usize = 256;

/// Longest life of an http/1.1 connection: a binary over a slow line.
const DOWNLOAD_TIME_MAX: Duration = Duration::from_secs(600);

/// Longest wait for the head of an http/1.1 request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Connections that wait for gRPC to take them; when full, their handshake tasks wait.
const ACCEPTED_MAX: usize = 64;

/// Pause when the machine has no more file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection whose handshake is done.
pub(crate) struct Conn {
    tls: TlsStream<TcpStream>,
    /// Its share of the connections without a certificate; `None` when it has shown one.
    _room: Option<OwnedSemaphorePermit>,
}

/// What all handshakes use.
struct Port {
    acceptor: TlsAcceptor,
    downloads: axum::Router,
    accepted: mpsc::Sender<io::Result<Conn>>,
    handshakes: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    unidentified: Arc<Semaphore>,
    stats: Arc<SelfStats>,
    stop: CancellationToken,
}

/// Starts accepting; the receiver gets the connections that speak h2. Ends with `stop`.
pub(crate) fn open(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    downloads: axum::Router,
    stats: Arc<SelfStats>,
    stop: CancellationToken,
) -> mpsc::Receiver<io::Result<Conn>> {
    let (accepted, connections) = mpsc::channel(ACCEPTED_MAX);
    let port = Arc::new(Port {
        acceptor,
        downloads,
        accepted,
        handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        peers: Arc::default(),
        unidentified: Arc::new(Semaphore::new(UNIDENTIFIED_MAX)),
        stats,
        stop,
    });
    tokio::spawn(accept(listener, port));
    connections
}

async fn accept(listener: TcpListener, port: Arc<Port>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = port.stop.cancelled() => return,
            // Cancel-safe: a connection is either taken or still in the backlog.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let Some(turn) = port.admit(peer) else {
                    port.stats.connections_refused.one();
                    tracing::debug!(%peer, "connection refused: too many handshakes");
                    continue;
                };
                let port = Arc::clone(&port);
                tokio::spawn(PEER.scope(peer, async move { port.shake(socket, peer, turn).await }));
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; check `ulimit -n`");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// A place among the handshakes.
struct Turn {
    peer: IpAddr,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = peers.get_mut(&self.peer) {
            *n -= 1;
            if *n == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

impl Port {
    fn admit(&self, peer: SocketAddr) -> Option<Turn> {
        let turn = Arc::clone(&self.handshakes).try_acquire_owned().ok()?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let n = peers.entry(peer.ip()).or_default();
        if *n >= HANDSHAKES_PER_PEER_MAX {
            return None;
        }
        *n += 1;
        Some(Turn { peer: peer.ip(), peers: Arc::clone(&self.peers), _permit: turn })
    }

    async fn shake(&self, socket: TcpStream, peer: SocketAddr, turn: Turn) {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%peer, %error, "small messages may be late");
        }
        let tls = match timeout(HANDSHAKE_TIME_MAX, self.acceptor.accept(socket)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                self.stats.handshakes_failed.one();
                // A refused certificate is already logged; the rest is scanners and lost peers, or
                // an agent that refused ours and says so in its own log.
                tracing::debug!(%peer, %error, "handshake failed");
                return;
            }
            Err(_) => {
                self.stats.handshakes_failed.one();
                tracing::debug!(%peer, "handshake took too long");
                return;
            }
        };
        drop(turn);
        let session = tls.get_ref().1;
        let is_h2 = session.alpn_protocol() == Some(b"h2");
        let room = if session.peer_certificates().is_some() {
            None
        } else if let Ok(room) = Arc::clone(&self.unidentified).try_acquire_owned() {
            Some(room)
        } else {
            self.stats.connections_refused.one();
            tracing::warn!(%peer, "connection refused: too many without a client certificate");
            return;
        };
        let conn = Conn { tls, _room: room };
        if is_h2 {
            if self.accepted.send(Ok(conn)).await.is_err() {
                tracing::debug!(%peer, "connection refused: the collector is stopping");
            }
        } else {
            self.download(conn, peer).await;
        }
    }

    async fn download(&self, conn: Conn, peer: SocketAddr) {
        let service = TowerToHyperService::new(self.downloads.clone());
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).keep_alive(false);
        let served = http.serve_connection(TokioIo::new(conn), service);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            // Cancel-safe: it is not continued after a cancellation.
            served = timeout(DOWNLOAD_TIME_MAX, served) => match served {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%peer, %error, "download broke off"),
                Err(_) => tracing::debug!(%peer, "download took too long"),
            }
        }
    }
}

impl Connected for Conn {
    type ConnectInfo = TlsConnectInfo<TcpConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.tls.connect_info()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
