//! A collector for tests: a real port with TLS, the real protocol, and faults on request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::UnixMillis;
use wire::v1::agent_message::Message as Up;
use wire::v1::collector_message::Message as Down;
use wire::v1::enrollment_server::{Enrollment, EnrollmentServer};
use wire::v1::uplink_server::{Uplink, UplinkServer};
use wire::v1::{
    Ack, AgentMessage, Batch, CollectorMessage, EnrollRequest, EnrollResponse, Heartbeat, Hello,
    RenewRequest, RenewResponse, Rewind, Throttle, Welcome,
};

use crate::clock;
use crate::identity::{CaHash, Enrolment};

pub(crate) const TOKEN: &str = "good-token";
const DAY: Duration = Duration::from_secs(86_400);

/// What the collector has seen and is told to do.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Watermark by epoch, and what is behind it.
    pub(crate) durable: (u64, u64),
    pub(crate) batches: Vec<Batch>,
    pub(crate) hellos: Vec<Hello>,
    pub(crate) heartbeats: Vec<Heartbeat>,
    pub(crate) n_goodbyes: u32,
    pub(crate) csrs: Vec<Vec<u8>>,
    pub(crate) n_renewals: u32,
    /// Streams are refused with this.
    pub(crate) refusal: Option<Status>,
    /// End the stream, without ack, after this many batches.
    pub(crate) break_after: Option<u32>,
    /// Store nothing, and ack nothing.
    pub(crate) is_stuck: bool,
    pub(crate) throttle_ms: Option<u32>,
    /// The answer to Enroll and Renew gets lost.
    pub(crate) loses_answer: bool,
    pub(crate) renew_at: Option<UnixMillis>,
    /// Highest protocol version it speaks; 0: as the agent.
    pub(crate) protocol: u32,
    /// Said in place of the true welcome, one a stream.
    pub(crate) welcomes: Vec<Welcome>,
    /// Said after each heartbeat, one at a time.
    pub(crate) lies: Vec<Option<Down>>,
}

/// The collector; ends when it is dropped.
pub(crate) struct FakeCollector {
    pub(crate) address: SocketAddr,
    pub(crate) ca_hash: CaHash,
    service: Service,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeCollector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    issuer: Arc<Issuer<'static, KeyPair>>,
    ca_der: Vec<u8>,
    /// Ends all streams when it changes.
    cut: watch::Sender<u64>,
}

fn validity(params: &mut CertificateParams, from: UnixMillis, until: UnixMillis) {
    let date = |at: UnixMillis| {
        let at = jiff::Timestamp::from_second(at.second()).unwrap();
        let at = at.to_zoned(jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(at.year().into(), at.month() as u8, at.day() as u8)
    };
    params.not_before = date(from);
    params.not_after = date(until);
}

impl FakeCollector {
    /// With certificates from two days back, as the real one makes them.
    pub(crate) async fn start() -> Self {
        Self::start_named(wire::COLLECTOR_NAME).await
    }

    pub(crate) async fn start_named(name: &str) -> Self {
        let (from, until) = (clock::now().minus(2 * DAY), clock::now().plus(30 * DAY));
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "test fleet");
        validity(&mut ca, from, until);
        let ca_der = ca.self_signed(&ca_key).unwrap().der().to_vec();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        validity(&mut leaf, from, until);
        let leaf = leaf.signed_by(&key, &issuer).unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca_der.clone())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(
                vec![leaf.der().clone(), CertificateDer::from(ca_der.clone())],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];

        let service = Service {
            state: Arc::default(),
            issuer: Arc::new(issuer),
            ca_der: ca_der.clone(),
            cut: watch::channel(0).0,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), service.clone()));
        Self { address, ca_hash: CaHash::of(&ca_der), service, task }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.service.state.lock().unwrap())
    }

    /// Ends all streams as a restart would.
    pub(crate) fn cut(&self) {
        self.service.cut.send_modify(|n| *n += 1);
    }

    pub(crate) fn enrolment(&self, state_dir: &std::path::Path) -> Enrolment {
        Enrolment {
            state_dir: state_dir.to_owned(),
            collector: self.address.to_string(),
            token: TOKEN.to_owned(),
            ca_hash: self.ca_hash,
            name: "web-1".to_owned(),
            labels: BTreeMap::new(),
            detected: BTreeMap::new(),
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, service: Service) {
    let (tx, rx) = mpsc::channel(16);
    let accept = async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, tx) = (acceptor.clone(), tx.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(socket).await {
                    drop(tx.send(Ok::<_, std::io::Error>(stream)).await);
                }
            });
        }
    };
    let server = tonic::transport::Server::builder()
        .add_service(EnrollmentServer::new(service.clone()))
        .add_service(UplinkServer::new(service))
        .serve_with_incoming(ReceiverStream::new(rx));
    let (served, ()) = tokio::join!(server, accept);
    served.unwrap();
}

impl Service {
    fn sign(&self, csr: &[u8]) -> Result<(Vec<u8>, UnixMillis, UnixMillis), Status> {
        let mut csr = CertificateSigningRequestParams::from_der(&csr.to_vec().into())
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (from, until) = (clock::now().minus(2 * DAY), clock::now().plus(30 * DAY));
        validity(&mut csr.params, from, until);
        let renew = self.state.lock().unwrap().renew_at.unwrap_or(clock::now().plus(20 * DAY));
        let certificate = csr.signed_by(&self.issuer).unwrap();
        Ok((certificate.der().to_vec(), until, renew))
    }
}

#[tonic::async_trait]
impl Enrollment for Service {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.token != TOKEN {
            return Err(Status::unauthenticated("the token is not known here"));
        }
        let (certificate_der, not_after, renew_after) = self.sign(&request.csr_der)?;
        let mut state = self.state.lock().unwrap();
        state.csrs.push(request.csr_der);
        if state.loses_answer {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(EnrollResponse {
            certificate_der,
            ca_der: self.ca_der.clone(),
            server: request.name,
            not_after_unix_ms: not_after.0,
            renew_after_unix_ms: renew_after.0,
        }))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<RenewResponse>, Status> {
        if request.peer_certs().is_none() {
            return Err(Status::unauthenticated("no certificate"));
        }
        {
            let mut state = self.state.lock().unwrap();
            state.n_renewals += 1;
            state.renew_at = None;
        }
        let (certificate_der, not_after, renew_after) = self.sign(&request.into_inner().csr_der)?;
        Ok(Response::new(RenewResponse {
            certificate_der,
            ca_der: self.ca_der.clone(),
            not_after_unix_ms: not_after.0,
            renew_after_unix_ms: renew_after.0,
        }))
    }
}

impl Service {
    /// Takes one batch as storage.md has it; the answer, and whether the stream goes on.
    fn take(&self, batch: Batch) -> (Option<Down>, bool) {
        let mut state = self.state.lock().unwrap();
        if state.is_stuck {
            return (None, true);
        }
        if let Some(left) = &mut state.break_after {
            if *left == 0 {
                state.break_after = None;
                return (None, false);
            }
            *left -= 1;
        }
        let (epoch, durable) = state.durable;
        if batch.epoch < epoch {
            return (None, false);
        }
        if batch.epoch > epoch {
            state.durable = (batch.epoch, 0);
        }
        let expected = state.durable.1 + 1;
        if batch.seq > expected && batch.seq - batch.n_evicted > expected {
            return (Some(Down::Rewind(Rewind { epoch, seq: durable + 1 })), false);
        }
        if batch.seq >= expected {
            state.durable.1 = batch.seq;
            state.batches.push(batch);
        }
        let (epoch, seq) = state.durable;
        (Some(Down::Ack(Ack { epoch, seq })), true)
    }
}

#[tonic::async_trait]
impl Uplink for Service {
    type StreamStream = ReceiverStream<Result<CollectorMessage, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        if request.peer_certs().is_none() {
            return Err(Status::unauthenticated("no certificate"));
        }
        if let Some(refusal) = self.state.lock().unwrap().refusal.clone() {
            return Err(refusal);
        }
        let mut inbound = request.into_inner();
        let (tx, rx) = mpsc::channel(64);
        let service = self.clone();
        let mut cut = self.cut.subscribe();
        tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    _ = cut.changed() => break,
                    message = inbound.next() => message,
                };
                let Some(Ok(AgentMessage { message: Some(message) })) = message else { break };
                let (answer, goes_on) = match message {
                    Up::Hello(hello) => {
                        let mut state = service.state.lock().unwrap();
                        let (epoch, seq_durable) = state.durable;
                        let protocol_version = match state.protocol {
                            0 => hello.protocol_version_max,
                            version => version.min(hello.protocol_version_max),
                        };
                        state.hellos.push(hello);
                        let welcome = Welcome {
                            protocol_version,
                            server: "web-1".to_owned(),
                            epoch,
                            seq_durable,
                            retry_jitter_s: 0.1,
                            clock_unix_ms: 0,
                        };
                        let welcome = state.welcomes.pop().unwrap_or(welcome);
                        (Some(Down::Welcome(welcome)), true)
                    }
                    Up::Batch(batch) => service.take(batch),
                    Up::Heartbeat(heartbeat) => {
                        let mut state = service.state.lock().unwrap();
                        state.heartbeats.push(heartbeat);
                        let throttle = state.throttle_ms.take();
                        let throttle = throttle.map(|ms| Throttle { batch_interval_ms: ms });
                        let lie = state.lies.pop();
                        if let Some(None) = &lie {
                            // A message of a later protocol: nothing in it is known.
                            tx.try_send(Ok(CollectorMessage { message: None })).ok();
                        }
                        (lie.flatten().or(throttle.map(Down::Throttle)), true)
                    }
                    Up::Goodbye(_) => {
                        service.state.lock().unwrap().n_goodbyes += 1;
                        (None, true)
                    }
                };
                if let Some(answer) = answer
                    && tx.send(Ok(CollectorMessage { message: Some(answer) })).await.is_err()
                {
                    break;
                }
                if !goes_on {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}
