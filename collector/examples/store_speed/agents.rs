//! Agents as the collector meets them: mTLS, HTTP/2, hello, batches one after the other, acks.
//!
//! They are enrolled by writing into the store of a collector that does not run, and come from many
//! addresses of the loopback network, because the collector bounds handshakes by address.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatewatch_collector::ca::Ca;
use gatewatch_collector::clock;
use gatewatch_collector::store::Store;
use gatewatch_collector::store::fleet::{self, Joining};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use wire::UnixMillis;
use wire::v1::agent_message::Message as Word;
use wire::v1::collector_message::Message as Answer;
use wire::v1::uplink_client::UplinkClient;
use wire::v1::{AgentMessage, Batch, BatchBody, CollectorMessage, Heartbeat, Hello, Site};

use crate::pack::pack;
use crate::values::{Machine, SERIES, table, tick};

/// Longest wait for any answer.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// As agents and collector set it.
const WINDOW: u32 = 2 << 20;
const EPOCH: u64 = 1_795_000_000_000;
/// Agents of one address.
const PER_ADDRESS: u64 = 200;

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// What proves who an agent is.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Card {
    server: u64,
    cert: Vec<u8>,
    key: Vec<u8>,
    root: Vec<u8>,
}

/// Files `n` servers in the store of `dir` and writes what their agents need to `cards`.
pub(crate) async fn enrol(dir: &Path, n: u64, cards: &Path) -> Result<(), Failed> {
    let store = Store::open(dir)?;
    let now = clock::now();
    let ca = Ca::load_or_create(&dir.join("ca"), now)?;
    let mut made = Vec::new();
    let mut rows = Vec::new();
    for server in 0..n {
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
        let (uuid, name) = (ulid::Ulid::from(u128::from(server) + 1), name(server));
        let cert = ca.sign(csr.der(), uuid, &name, now)?;
        let root = ca.root().to_vec();
        made.push(Card { server, cert: cert.der.clone(), key: key.serialize_der(), root });
        rows.push((uuid, name, cert));
    }
    let file = move |tx: &gatewatch_collector::store::WriteTx<'_>| {
        for (uuid, name, cert) in &rows {
            let key_sha256 = cert.key_sha256;
            let joining = Joining { uuid: *uuid, name, token: "bench", key_sha256 };
            let server = fleet::create(tx, &joining, now)?;
            fleet::add_certificate(tx, server, &cert.serial, cert.not_after, now)?;
        }
        Ok(())
    };
    store.write(file).await?;
    store.close().await?;
    fs::write(cards, serde_json::to_vec(&made)?)?;
    Ok(())
}

pub(crate) fn name(server: u64) -> String {
    format!("web-{server:05}")
}

/// Reads cards from `from` on, `n` of them.
pub(crate) fn cards(path: &Path, from: usize, n: usize) -> Result<Vec<Card>, Failed> {
    let all: Vec<Card> = serde_json::from_slice(&fs::read(path)?)?;
    let some: Vec<Card> = all.into_iter().skip(from).take(n).collect();
    if some.len() == n { Ok(some) } else { Err(format!("{} cards of {n}", some.len()).into()) }
}

/// An agent with an open stream.
pub(crate) struct Agent {
    words: mpsc::Sender<AgentMessage>,
    answers: Streaming<CollectorMessage>,
    machine: Machine,
    server: u64,
    epoch: u64,
    /// Last one sent.
    seq: u64,
    /// Batches that are not acked, and since when they wait.
    waiting: VecDeque<(u64, Instant)>,
    n_sites: u32,
}

impl Agent {
    /// Connects, says hello and is welcome.
    pub(crate) async fn join(
        card: Card,
        address: SocketAddr,
        n_sites: u32,
    ) -> Result<Self, Failed> {
        let server = card.server;
        let (connector, from) = (connector(card)?, source(server));
        let tower = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(from.into(), 0))?;
                socket.set_nodelay(true)?;
                let socket = socket.connect(address).await?;
                let name = wire::COLLECTOR_NAME.try_into().map_err(io::Error::other)?;
                connector.connect(name, socket).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://collector.gatewatch")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let channel = endpoint.connect_with_connector(tower).await?;
        let (words, outbound) = mpsc::channel(8);
        let hello = Hello {
            protocol_version_min: 2,
            protocol_version_max: 2,
            epoch: EPOCH,
            agent_version: "0.1.0".into(),
            clock_unix_ms: clock::now().0,
            n_cpu: 8,
            n_sites,
            heartbeat_ms: 5000,
            ..Hello::default()
        };
        words.send(AgentMessage { message: Some(Word::Hello(hello)) }).await?;
        let answers = UplinkClient::new(channel).stream(ReceiverStream::new(outbound)).await?;
        let mut agent = Self {
            words,
            answers: answers.into_inner(),
            machine: Machine::new(server),
            server,
            epoch: EPOCH,
            seq: 0,
            waiting: VecDeque::new(),
            n_sites,
        };
        match agent.answer().await? {
            Answer::Welcome(welcome) => {
                agent.epoch = welcome.epoch.max(EPOCH);
                agent.seq = welcome.seq_durable;
                Ok(agent)
            }
            other => Err(format!("no welcome but {other:?}").into()),
        }
    }

    async fn answer(&mut self) -> Result<Answer, Failed> {
        let message = tokio::time::timeout(LIMIT, self.answers.message()).await??;
        let message = message.ok_or("the collector ended the stream")?;
        message.message.ok_or_else(|| "an answer says nothing".into())
    }

    pub(crate) fn server(&self) -> u64 {
        self.server
    }

    pub(crate) fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sends the tick of this second, alone in its batch.
    pub(crate) async fn send_now(&mut self) -> Result<(), Failed> {
        let second = now_s();
        self.send(second..=second, false).await
    }

    /// Sends the ticks of some seconds in one batch.
    pub(crate) async fn send(
        &mut self,
        seconds: RangeInclusive<i64>,
        is_urgent: bool,
    ) -> Result<(), Failed> {
        let (first, second) = (*seconds.start(), *seconds.end());
        let ticks = seconds.map(|at| tick(at, &self.machine.sample(at), SERIES.len())).collect();
        let mut body = BatchBody { series: table(SERIES.len()), ticks, ..BatchBody::default() };
        if self.n_sites > 0 {
            crate::sites::add(&mut body, self.server, self.n_sites, second - 10..second);
        }
        if is_urgent {
            crate::sites::add_gateway_error(&mut body, second);
        }
        self.seq += 1;
        let (codec, packed) = pack(&body);
        let batch = Batch {
            epoch: self.epoch,
            seq: self.seq,
            complete_until_unix_ms: second * 1000,
            t_min_unix_ms: first * 1000,
            t_max_unix_ms: second * 1000,
            urgent: is_urgent,
            codec,
            body: packed.into(),
            ..Batch::default()
        };
        self.waiting.push_back((self.seq, clock::instant()));
        Ok(self.words.send(AgentMessage { message: Some(Word::Batch(batch)) }).await?)
    }

    pub(crate) async fn beat(&mut self) -> Result<(), Failed> {
        let now = clock::now();
        let heartbeat = Heartbeat {
            clock_unix_ms: now.0,
            complete_until_unix_ms: now.0,
            seq_last: self.seq,
            spool_bytes: 0,
            n_sites: self.n_sites,
        };
        Ok(self.words.send(AgentMessage { message: Some(Word::Heartbeat(heartbeat)) }).await?)
    }

    /// Waits for the next ack; returns how long each batch it speaks of has waited.
    pub(crate) async fn acked(&mut self) -> Result<Vec<Duration>, Failed> {
        loop {
            match self.answer().await? {
                Answer::Ack(ack) => {
                    let n = self.waiting.iter().take_while(|(seq, _)| *seq <= ack.seq).count();
                    return Ok(self.waiting.drain(..n).map(|(_, at)| at.elapsed()).collect());
                }
                Answer::Throttle(_) => {}
                other => return Err(format!("no ack but {other:?}").into()),
            }
        }
    }

    /// Until a batch waits no more.
    pub(crate) async fn settled(&mut self) -> Result<Vec<Duration>, Failed> {
        let mut waits = Vec::new();
        while !self.waiting.is_empty() {
            waits.extend(self.acked().await?);
        }
        Ok(waits)
    }
}

/// Whole seconds of the wall clock.
pub(crate) fn now_s() -> i64 {
    let UnixMillis(ms) = clock::now();
    ms.div_euclid(1000)
}

/// The sites of a server, as batches name them.
pub(crate) fn sites(n: u32) -> Vec<Site> {
    let site = |no| Site {
        name: format!("shop{no:03}.example"),
        pool: "www".to_owned(),
        ..Site::default()
    };
    (0..n).map(site).collect()
}

fn source(server: u64) -> Ipv4Addr {
    let (block, no) = (server / PER_ADDRESS, server % PER_ADDRESS);
    Ipv4Addr::new(127, 1, block as u8, 1 + (no % 250) as u8)
}

fn connector(card: Card) -> Result<TlsConnector, Failed> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(card.root))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(card.key));
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![card.cert.into()], key)?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(client)))
}
