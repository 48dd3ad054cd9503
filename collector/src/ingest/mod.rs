//! Stage 6: the agents' port. Bytes of strangers in, batches for the store out.

pub mod convert;
pub mod counts;
pub mod enroll;
mod limits;
pub mod live;
pub mod opener;
mod port;
pub mod service;
mod session;
mod status;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Status};
use wire::v1::enrollment_server::EnrollmentServer;
use wire::v1::uplink_server::UplinkServer;

use crate::ca::Ca;
use crate::store::Store;
use enroll::EnrollService;
pub use live::Live;
pub use service::Heard;
use service::UplinkService;
pub use tls::TlsError;

/// How often an idle connection is asked whether it is still there, and how long for an answer.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Bytes of one stream that may be on their way: a full body and more.
const STREAM_WINDOW: u32 = 2 << 20;

/// Streams of one connection: its uplink, a renewal, a health check, and some to spare.
const STREAMS_MAX: u32 = 8;

/// What the agents' port is made of.
pub struct Ingest {
    /// The fleet's authority.
    pub ca: Arc<Ca>,
    /// Where batches go.
    pub store: Store,
    /// Who is connected.
    pub live: Live,
    /// To the detective.
    pub heard: mpsc::Sender<Heard>,
    /// What is served to http/1.1: the installer.
    pub downloads: axum::Router,
}

/// Serves the agents' port until `stop` fires; returns when the last stream has ended.
///
/// A connection that never speaks can keep it from returning: the caller bounds the wait.
pub async fn serve(
    ingest: Ingest,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let Ingest { ca, store, live, heard, downloads } = ingest;
    let acceptor = TlsAcceptor::from(Arc::new(tls::config(&ca)?));
    let stats = Arc::clone(store.stats());
    let connections = port::open(listener, acceptor, downloads, stats, stop.clone());
    let sessions = TaskTracker::new();
    let enroll = EnrollmentServer::new(EnrollService::new(ca, store.clone()));
    let uplink = UplinkService::new(store, live, heard, stop.clone(), sessions.clone());
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<UplinkServer<UplinkService>>().await;
    let identified =
        tonic::service::interceptor::InterceptedService::new(health, only_with_certificate);
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(enroll)
        .add_service(uplink.into_server())
        .add_service(identified)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            stop.cancelled().await;
            reporter.set_not_serving::<UplinkServer<UplinkService>>().await;
        })
        .await;
    sessions.close();
    sessions.wait().await;
    Ok(served?)
}

/// Why the agents' port does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No TLS with this authority.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server broke.
    #[error("the agents' port broke")]
    Transport(#[from] tonic::transport::Error),
}

/// Without a certificate only enrolment is served.
fn only_with_certificate(request: Request<()>) -> Result<Request<()>, Status> {
    match request.peer_certs() {
        Some(certs) if !certs.is_empty() => Ok(request),
        _ => Err(status::no_identity("a client certificate is needed")),
    }
}

#[cfg(test)]
mod tests;
