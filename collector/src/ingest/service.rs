//! The `Uplink` service: one stream per agent, batches in, cumulative acks out, both in order.
//!
//! An ack means committed: the agent may delete the batch even if we lose power right after.
//! What an agent sends can hurt only its own stream: its batches in flight, its messages a second
//! and the memory of one decoded body are bounded.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use wire::UnixMillis;
use wire::v1::uplink_server::{Uplink, UplinkServer};
use wire::v1::{AgentMessage, CollectorMessage};

use super::live::Live;
use super::session::Session;
use super::status;
use crate::ca;
use crate::clock;
use crate::errors;
use crate::model::{Record, ServerId};
use crate::store::Store;
use crate::store::fleet::{self, Admission};

/// Answers that may wait for a slow agent. When full, its session waits; acks are cumulative.
const ANSWERS_MAX: usize = 16;

/// Largest message of an agent: a full body and its envelope.
const MESSAGE_BYTES_MAX: usize = wire::BODY_BYTES_MAX + 64 * 1024;

/// Something heard of an agent that is not stored: hello, heartbeat, goodbye; and when it came.
pub type Heard = (UnixMillis, Record);

/// Serves the streams of all agents.
pub struct UplinkService {
    shared: Arc<Shared>,
}

/// What all sessions use.
pub(super) struct Shared {
    /// Where batches go.
    pub(super) store: Store,
    /// Who is connected.
    pub(super) live: Live,
    /// To the detective. Heartbeats are dropped when it is full, the others wait.
    pub(super) heard: mpsc::Sender<Heard>,
    /// Bodies decoded at the same time: bounds their memory.
    pub(super) decoding: Arc<Semaphore>,
    /// The collector stops.
    pub(super) stop: CancellationToken,
    /// The sessions, so that the stop can wait for them.
    pub(super) sessions: TaskTracker,
}

/// The agent at the other end, as its certificate and the fleet name it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) server: ServerId,
    pub(super) name: String,
    pub(super) serial: Vec<u8>,
    pub(super) peer: SocketAddr,
    pub(super) revoked: watch::Receiver<Arc<BTreeSet<Vec<u8>>>>,
}

impl UplinkService {
    /// `sessions` tracks the streams: after `stop` it is empty when the last one has ended.
    pub fn new(
        store: Store,
        live: Live,
        heard: mpsc::Sender<Heard>,
        stop: CancellationToken,
        sessions: TaskTracker,
    ) -> Self {
        let n_decoding = std::thread::available_parallelism().map_or(2, usize::from);
        let decoding = Arc::new(Semaphore::new(n_decoding));
        Self { shared: Arc::new(Shared { store, live, heard, decoding, stop, sessions }) }
    }

    /// The service with its limits.
    pub fn into_server(self) -> UplinkServer<Self> {
        UplinkServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Says who calls, or why it may not.
    async fn identify<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let peer = request.remote_addr().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let refuse = |server: &str, status: Status| {
            self.shared.store.stats().streams_refused.one();
            tracing::warn!(%peer, server, reason = status.message(), "stream refused");
            status
        };
        let certs = request.peer_certs().unwrap_or_default();
        let Some(cert) = certs.first() else {
            return Err(refuse("", status::no_identity("a client certificate is needed")));
        };
        let who = ca::identity(cert).map_err(|why| {
            refuse(
                "",
                status::no_identity(&format!("the client certificate names no server, {why}")),
            )
        })?;
        // Before the question, so that a revocation in between is not missed.
        let revoked = self.shared.store.revoked();
        let (uuid, serial) = (who.uuid, who.serial.clone());
        let admission = self.shared.store.read(move |conn| fleet::admit(conn, uuid, &serial)).await;
        match admission {
            Ok(Admission::Known { server, name }) => {
                Ok(Caller { server, name, serial: who.serial, peer, revoked })
            }
            Ok(Admission::Revoked) => Err(refuse(&who.name, status::revoked())),
            Ok(Admission::Unknown) => Err(refuse(&who.name, status::unknown_server())),
            Err(error) => {
                tracing::error!(%peer, server = who.name, error = %errors::chain(&error), "the fleet cannot be read");
                Err(status::from_store(&error))
            }
        }
    }
}

#[tonic::async_trait]
impl Uplink for UplinkService {
    type StreamStream = ReceiverStream<Result<CollectorMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = self.identify(&request).await?;
        self.shared.store.stats().streams_opened.one();
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let session = Session::new(Arc::clone(&self.shared), caller, request.into_inner(), answers);
        self.shared.sessions.spawn(session.run(clock::instant()));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Longest wait for an agent to take an answer.
pub(super) const SEND_TIME_MAX: Duration = Duration::from_secs(30);
