//! The agents' port as agents meet it: real TLS, real gRPC, a client of our own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use wire::UnixMillis;
use wire::v1::agent_message::Message as Word;
use wire::v1::collector_message::Message as Answer;
use wire::v1::uplink_client::UplinkClient;
use wire::v1::{self, AgentMessage, Batch, BatchBody, CollectorMessage, Heartbeat, Hello};

use super::*;
use crate::clock;
use crate::model::{Record, ServerId};
use crate::store::{Watermark, fleet, read};

#[path = "hostile_tests.rs"]
mod hostile;

const EPOCH: u64 = 1_795_000_000_000;

/// A collector's port with its store.
struct Port {
    store: Store,
    ca: Arc<Ca>,
    live: Live,
    address: SocketAddr,
    heard: mpsc::Receiver<Heard>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
    dir: tempfile::TempDir,
}

/// What proves who an agent is.
#[derive(Clone)]
struct Card {
    cert: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Port {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 3).await;
        let ca = Arc::new(Ca::load_or_create(&dir.path().join("ca"), clock::now()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard_by, heard) = mpsc::channel(100);
        let (live, stop) = (Live::default(), CancellationToken::new());
        let hello = axum::routing::get(async || "hello\n");
        let ingest = Ingest {
            ca: Arc::clone(&ca),
            store: store.clone(),
            live: live.clone(),
            heard: heard_by,
            downloads: axum::Router::new().route("/install.sh", hello),
        };
        let served = tokio::spawn(serve(ingest, listener, stop.clone()));
        Self { store, ca, live, address, heard, stop, served, dir }
    }

    /// A certificate of server `id`, made `age` ago.
    async fn card(&self, id: u64, age: Duration) -> Card {
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let made = clock::now().minus(age);
        let uuid = ulid::Ulid::from(u128::from(id));
        let cert = self.ca.sign(csr.der(), uuid, &format!("web-{id}"), made).unwrap();
        let (serial, end) = (cert.serial.clone(), cert.not_after);
        let file = self.store.write(move |tx| {
            fleet::add_certificate(tx, ServerId(id.cast_signed()), &serial, end, made)
        });
        file.await.unwrap();
        Card { cert: cert.der.into(), key: key.serialize_der() }
    }

    async fn channel(&self, card: Option<Card>) -> Result<Channel, tonic::transport::Error> {
        let (connector, address) = (self.connector(card, b"h2"), self.address);
        let tower = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                let name = wire::COLLECTOR_NAME.try_into().unwrap();
                connector.connect(name, socket).await.map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://collector.gatewatch").connect_with_connector(tower).await
    }

    fn connector(&self, card: Option<Card>, alpn: &[u8]) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.root().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut client = match card {
            None => client.with_no_client_auth(),
            Some(card) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(card.key));
                client.with_client_auth_cert(vec![card.cert], key).unwrap()
            }
        };
        client.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(client))
    }

    /// Opens a stream without a word.
    async fn stream(&self, card: Option<Card>) -> Result<Agent, Status> {
        let refused = |error: tonic::transport::Error| {
            let mut text = format!("{error:?}");
            text.insert_str(0, "transport: ");
            Status::unavailable(text)
        };
        let channel = self.channel(card).await.map_err(refused)?;
        let (words, outbound) = mpsc::channel(64);
        let answers = UplinkClient::new(channel).stream(ReceiverStream::new(outbound)).await?;
        Ok(Agent { words, answers: answers.into_inner() })
    }

    /// Opens a stream and says hello.
    async fn agent(&self, id: u64) -> (Agent, v1::Welcome) {
        let card = self.card(id, Duration::ZERO).await;
        let mut agent = self.stream(Some(card)).await.unwrap();
        agent.say(Word::Hello(hello())).await;
        let welcome = agent.welcome().await;
        (agent, welcome)
    }

    async fn bodies(&self) -> Vec<(u64, u32, String)> {
        let rows = self.store.read(|conn| read::hot_after(conn, 0, 1000, usize::MAX)).await;
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        rows.unwrap().iter().map(|row| (row.seq, row.codec, text(&row.body))).collect()
    }
}

/// The agent's end of a stream.
struct Agent {
    words: mpsc::Sender<AgentMessage>,
    answers: Streaming<CollectorMessage>,
}

impl Agent {
    async fn say(&self, word: Word) {
        self.words.send(AgentMessage { message: Some(word) }).await.unwrap();
    }

    async fn answer(&mut self) -> Result<Option<Answer>, Status> {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.answers.message());
        let message = wait.await.expect("an answer within 20 s")?;
        Ok(message.map(|message| message.message.expect("an answer says something")))
    }

    async fn welcome(&mut self) -> v1::Welcome {
        match self.answer().await.unwrap() {
            Some(Answer::Welcome(welcome)) => welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Reads acks until `seq` is acked. A wish for another batch interval may come at any time.
    async fn acked(&mut self, seq: u64) {
        loop {
            match self.answer().await.unwrap() {
                Some(Answer::Ack(ack)) if ack.seq == seq => return,
                Some(Answer::Ack(ack)) => assert!(ack.seq < seq, "{} acked early", ack.seq),
                Some(Answer::Throttle(_)) => {}
                other => panic!("no ack but {other:?}"),
            }
        }
    }

    /// The status the stream ends with.
    async fn end(&mut self) -> Status {
        loop {
            match self.answer().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("closed"),
                Err(status) => return status,
            }
        }
    }
}

fn hello() -> Hello {
    Hello {
        protocol_version_min: 1,
        protocol_version_max: 1,
        epoch: EPOCH,
        agent_version: "0.1.0".into(),
        labels: BTreeMap::from([("rack".to_owned(), "r7".to_owned())]),
        clock_unix_ms: clock::now().0,
        n_cpu: 4,
        heartbeat_ms: 5000,
        ..Hello::default()
    }
}

fn batch(seq: u64) -> Batch {
    let site = v1::Site { name: "A.example".into(), pool: "www".into(), ..v1::Site::default() };
    let second = v1::SiteSecond { site: 0, second: 1, status: vec![502], count: vec![1] };
    let loss = v1::Loss { n_lines_rejected: 1, ..v1::Loss::default() };
    let body = BatchBody {
        sites: vec![site],
        seconds: vec![second],
        loss: Some(loss),
        ..BatchBody::default()
    };
    packed(seq, &body.encode_to_vec())
}

fn packed(seq: u64, body: &[u8]) -> Batch {
    let body = zstd::bulk::compress(body, 3).unwrap().into();
    Batch { epoch: EPOCH, seq, codec: 1, body, n_lines: 5, urgent: true, ..Batch::default() }
}

#[tokio::test]
async fn batches_are_acked_in_order_and_a_new_stream_goes_on_where_the_old_one_ended() {
    let mut port = Port::open().await;
    let (mut agent, welcome) = port.agent(1).await;
    assert_eq!((welcome.protocol_version, welcome.server.as_str()), (1, "web-1"));
    assert_eq!((welcome.epoch, welcome.seq_durable), (0, 0));
    assert!(welcome.retry_jitter_s >= 5.0);
    for seq in 1..=50 {
        agent.say(Word::Batch(batch(seq))).await;
    }
    agent.acked(50).await;
    let wanted = Watermark { epoch: EPOCH, seq: 50 };
    assert_eq!(port.store.durable(ServerId(1)), wanted);
    assert_eq!(port.bodies().await.len(), 50);
    agent.say(Word::Batch(batch(7))).await;
    agent.acked(50).await;
    let now = clock::now();
    let heartbeat = |seq_last| Heartbeat {
        clock_unix_ms: now.0,
        complete_until_unix_ms: 77,
        seq_last,
        spool_bytes: 9,
        n_sites: 1,
    };
    agent.say(Word::Heartbeat(heartbeat(50))).await;
    agent.say(Word::Heartbeat(heartbeat(51))).await;
    drop(agent.words);
    let status = Agent { words: mpsc::channel(1).0, answers: agent.answers }.end().await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let (_agent, welcome) = port.agent(1).await;
    assert_eq!((welcome.epoch, welcome.seq_durable), (EPOCH, 50));

    let server = ServerId(1);
    assert!(matches!(port.heard.recv().await, Some((_, Record::Hello { .. }))));
    for complete in [77, 0] {
        // What is spooled but not here is not complete.
        let at = UnixMillis(complete);
        let record = Record::Heartbeat { server, at, clock: now };
        assert_eq!(port.heard.recv().await.unwrap().1, record);
    }
    let shown = port.store.read(move |conn| fleet::show(conn, "web-1", clock::now())).await;
    let shown = shown.unwrap().unwrap();
    assert_eq!((shown.view.labels["rack"].as_str(), shown.n_cpu), ("r7", Some(4)));
    assert_eq!(shown.view.loss["n_lines_rejected"], 50);
    assert_eq!(shown.sites[0].site, "a.example");
}

#[tokio::test]
async fn agents_of_each_version_are_understood_and_stored_as_they_packed() {
    let port = Port::open().await;
    for (server, highest, chosen) in [(1, 1, 1), (2, 2, 2), (3, 7, 2)] {
        let card = port.card(server, Duration::ZERO).await;
        let mut agent = port.stream(Some(card)).await.unwrap();
        let hello = Hello { protocol_version_max: highest, ..hello() };
        agent.say(Word::Hello(hello)).await;
        let welcome = agent.welcome().await;
        assert_eq!(welcome.protocol_version, chosen);
        let plain = batch(1);
        let unpacked = zstd::bulk::decompress(&plain.body, 1 << 20).unwrap();
        let dictionary = wire::dictionary();
        let mut packing = zstd::bulk::Compressor::with_dictionary(15, dictionary).unwrap();
        let body = packing.compress(&unpacked).unwrap().into();
        let packed = Batch { codec: wire::CODEC_ZSTD_DICTIONARY, body, ..batch(2) };
        // One put back to an earlier release sends what the later one left in its spool, as it is.
        let sent = [plain, packed];
        for batch in sent.clone() {
            agent.say(Word::Batch(batch)).await;
        }
        agent.acked(2).await;
        let rows = port.store.read(|conn| read::hot_after(conn, 0, 100, usize::MAX)).await.unwrap();
        let stored = rows.into_iter().filter(|row| row.server == ServerId(server as i64));
        let stored: Vec<_> = stored.collect();
        for (row, sent) in stored.iter().zip(&sent) {
            assert_eq!((row.codec, row.body.as_slice()), (sent.codec, &*sent.body));
            let body = convert::unpack(row.codec, &row.body).unwrap();
            assert_eq!(body.encode_to_vec(), unpacked);
        }
        assert_eq!(stored.len(), 2);
    }
    assert_eq!(port.store.stats().batches_unreadable.get(), 0);
}

#[tokio::test]
async fn a_missing_batch_asks_for_a_rewind_and_an_old_epoch_ends_the_stream() {
    let port = Port::open().await;
    let (mut agent, _) = port.agent(1).await;
    agent.say(Word::Batch(batch(1))).await;
    agent.acked(1).await;
    agent.say(Word::Batch(batch(3))).await;
    let rewind = agent.answer().await.unwrap();
    assert_eq!(rewind, Some(Answer::Rewind(v1::Rewind { epoch: EPOCH, seq: 2 })));
    assert_eq!(agent.end().await.code(), Code::Aborted);

    let (mut agent, welcome) = port.agent(1).await;
    assert_eq!(welcome.seq_durable, 1);
    let declared = Batch { n_evicted: 3, n_lines_evicted: 30, ..batch(5) };
    agent.say(Word::Batch(declared)).await;
    agent.acked(5).await;
    agent.say(Word::Batch(Batch { epoch: EPOCH - 1, ..batch(6) })).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains(&EPOCH.to_string()), "{status:?}");
    let list = port.store.read(|conn| fleet::list(conn, clock::now())).await.unwrap();
    let loss = &list.iter().find(|view| view.server == "web-1").unwrap().loss;
    assert_eq!((loss["n_batches_evicted"], loss["n_lines_lost"]), (3, 30));
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate_of_ours_that_counts() {
    let port = Port::open().await;
    let status = port.stream(None).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("enrol"), "{status:?}");

    let stranger = Port::open().await.card(1, Duration::ZERO).await;
    let expired = port.card(1, Duration::from_secs(40 * 86_400)).await;
    for (card, word) in [(stranger, "UnknownCA"), (expired, "CertificateExpired")] {
        let status = match port.stream(Some(card)).await {
            Ok(mut agent) => agent.end().await,
            Err(status) => status,
        };
        let text = format!("{status:?}");
        assert!(text.contains(&format!("fatal alert: {word}")), "{word} in {text}");
    }
    assert!(port.store.stats().handshakes_failed.get() >= 2);

    // Of a clock a day off in either direction.
    for age in [Duration::from_secs(86_400), Duration::ZERO] {
        let card = port.card(2, age).await;
        port.stream(Some(card)).await.unwrap();
    }
    let card = port.card(3, Duration::ZERO).await;
    port.store.write(|tx| tx.execute("DELETE FROM server WHERE server_id = 3", [])).await.unwrap();
    let status = port.stream(Some(card)).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_revoked_certificate_ends_its_stream_and_opens_no_other() {
    let port = Port::open().await;
    let card = port.card(1, Duration::ZERO).await;
    let mut agent = port.stream(Some(card.clone())).await.unwrap();
    agent.say(Word::Hello(hello())).await;
    agent.welcome().await;
    let (mut other, _) = port.agent(2).await;
    port.store.write(|tx| fleet::revoke(tx, "web-1", clock::now())).await.unwrap();
    let status = agent.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("token create --replace"), "{status:?}");
    let status = port.stream(Some(card)).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    other.say(Word::Batch(batch(1))).await;
    other.acked(1).await;
}

#[tokio::test]
async fn a_newer_stream_of_a_server_ends_the_older_one() {
    let port = Port::open().await;
    let (mut first, _) = port.agent(1).await;
    let (mut second, _) = port.agent(1).await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    second.say(Word::Batch(batch(1))).await;
    second.acked(1).await;
    assert_eq!(port.live.n_streams(), 1);
    let list = port.store.read(|conn| fleet::list(conn, clock::now())).await.unwrap();
    assert_eq!(list[0].state, "up", "the old stream's end does not file the server as gone");
}

#[tokio::test]
async fn a_version_not_spoken_here_is_refused_with_the_fix() {
    let port = Port::open().await;
    for (low, high, fix) in [(3, 4, "update the collector"), (0, 0, "update the agent")] {
        let card = port.card(1, Duration::ZERO).await;
        let mut agent = port.stream(Some(card)).await.unwrap();
        let (protocol_version_min, protocol_version_max) = (low, high);
        agent
            .say(Word::Hello(Hello { protocol_version_min, protocol_version_max, ..hello() }))
            .await;
        let status = agent.end().await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(fix), "{status:?}");
    }
    let card = port.card(1, Duration::ZERO).await;
    let mut agent = port.stream(Some(card)).await.unwrap();
    agent.say(Word::Batch(batch(1))).await;
    assert_eq!(agent.end().await.code(), Code::InvalidArgument, "hello comes first");
}

#[tokio::test]
async fn an_unreadable_batch_becomes_its_reason_and_the_watermark_passes_it() {
    let port = Port::open().await;
    let (mut agent, _) = port.agent(1).await;
    let bomb = packed(1, &vec![0; wire::BODY_UNPACKED_BYTES_MAX + 1]);
    let noise = Batch { body: vec![7; 1000].into(), ..batch(2) };
    let later = Batch { codec: 9, ..batch(3) };
    let no_message = packed(4, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    for batch in [bomb, noise, later, no_message, batch(5)] {
        agent.say(Word::Batch(batch)).await;
    }
    agent.acked(5).await;
    let bodies = port.bodies().await;
    for ((seq, codec, body), reason) in
        bodies.iter().zip(["unpacks", "zstd", "codec 9", "BatchBody"])
    {
        assert!(*codec == 0 && body.contains(reason), "{seq}: {body}");
    }
    assert_eq!((bodies.len(), bodies[4].1), (5, 1));
    assert_eq!(port.store.stats().batches_unreadable.get(), 4);
}

#[tokio::test]
async fn what_breaks_the_limits_ends_only_its_own_stream() {
    let port = Port::open().await;
    let (mut good, _) = port.agent(1).await;
    for (word, code) in [
        (Batch { body: vec![0; 2 << 20].into(), ..batch(1) }, Code::Ok),
        (Batch { seq: 0, ..batch(1) }, Code::InvalidArgument),
        (Batch { epoch: 0, ..batch(1) }, Code::InvalidArgument),
        (Batch { seq: u64::MAX, n_evicted: u64::MAX, ..batch(1) }, Code::InvalidArgument),
    ] {
        let (mut liar, _) = port.agent(2).await;
        liar.say(Word::Batch(word)).await;
        let status = liar.end().await;
        assert_ne!(status.code(), Code::Internal, "{status:?}");
        if code != Code::Ok {
            assert_eq!(status.code(), code, "{status:?}");
        }
    }
    good.say(Word::Batch(batch(1))).await;
    good.acked(1).await;
    assert_eq!(port.bodies().await.len(), 1, "nothing of a liar is stored");
}

#[tokio::test]
async fn a_full_disk_asks_agents_to_keep_their_batches_and_to_come_back() {
    let port = Port::open().await;
    let limit = |pages: i64| {
        let set = format!("PRAGMA max_page_count = {pages}");
        port.store.write(move |tx| tx.query_row(&set, [], |row| row.get::<_, i64>(0)))
    };
    let (mut agent, _) = port.agent(1).await;
    limit(1).await.unwrap(); // as many as there are
    let mut seq = 0;
    let status = loop {
        seq += 1;
        let noise: Vec<u8> = (0..9000_u64).map(|n| (n * n * seq / 7 % 251) as u8).collect();
        let body = BatchBody {
            log_lines: vec![v1::LogLine { message: format!("{noise:?}"), ..Default::default() }],
            ..BatchBody::default()
        };
        agent.say(Word::Batch(packed(seq, &body.encode_to_vec()))).await;
        match agent.answer().await {
            Ok(Some(Answer::Ack(ack))) => assert_eq!(ack.seq, seq),
            Err(status) => break status,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("disk is full"), "{status:?}");
    assert_eq!(status.metadata().get("retry-after").unwrap(), "10");
    limit(1_000_000).await.unwrap();
    let (mut agent, welcome) = port.agent(1).await;
    assert_eq!(welcome.seq_durable, seq - 1);
    agent.say(Word::Batch(batch(seq))).await;
    agent.acked(seq).await;
}

#[tokio::test]
async fn agents_can_be_asked_for_another_batch_interval() {
    let port = Port::open().await;
    let (mut agent, _) = port.agent(1).await;
    for (interval, batch_interval_ms) in [(Some(Duration::from_secs(2)), 2000), (None, 0)] {
        assert!(port.live.throttle(ServerId(1), interval));
        let asked = agent.answer().await.unwrap();
        assert_eq!(asked, Some(Answer::Throttle(v1::Throttle { batch_interval_ms })));
    }
}

#[tokio::test]
async fn a_clock_a_day_off_is_told_and_stops_nothing() {
    let port = Port::open().await;
    let card = port.card(1, Duration::ZERO).await;
    let mut agent = port.stream(Some(card)).await.unwrap();
    let clock_unix_ms = clock::now().0 + 86_400_000;
    agent.say(Word::Hello(Hello { clock_unix_ms, ..hello() })).await;
    agent.welcome().await;
    agent.say(Word::Batch(batch(1))).await;
    agent.acked(1).await;
    let list = port.store.read(|conn| fleet::list(conn, clock::now())).await.unwrap();
    let offset = list[0].clock_offset_ms.unwrap();
    assert!((86_390_000..=86_400_000).contains(&offset), "{offset}");
}

#[tokio::test]
async fn a_goodbye_is_told_as_such() {
    let mut port = Port::open().await;
    let (mut agent, _) = port.agent(1).await;
    agent.say(Word::Goodbye(v1::Goodbye { reason: "stopped".into() })).await;
    agent.words = mpsc::channel(1).0;
    assert_eq!(agent.end().await.code(), Code::Ok);
    assert!(matches!(port.heard.recv().await, Some((_, Record::Hello { .. }))));
    assert!(matches!(port.heard.recv().await, Some((_, Record::Goodbye { .. }))));
    let list = port.store.read(|conn| fleet::list(conn, clock::now())).await.unwrap();
    assert_eq!(list[0].state, "goodbye");
}

#[tokio::test]
async fn the_stop_ends_streams_and_is_not_held_up_by_them() {
    let port = Port::open().await;
    let (mut agent, _) = port.agent(1).await;
    agent.say(Word::Batch(batch(1))).await;
    agent.acked(1).await;
    port.stop.cancel();
    assert_eq!(agent.end().await.code(), Code::Unavailable);
    drop(agent);
    let ended = tokio::time::timeout(Duration::from_secs(20), port.served).await;
    ended.expect("within its time").unwrap().unwrap();
    drop(port.store);
    assert!(port.dir.path().join("gatewatch.db").exists());
}

#[tokio::test]
async fn health_is_told_to_the_fleet_only_and_downloads_to_everybody() {
    let port = Port::open().await;
    let card = port.card(1, Duration::ZERO).await;
    for (card, code) in [(None, Some(Code::Unauthenticated)), (Some(card), None)] {
        let channel = port.channel(card).await.unwrap();
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
        let service = "gatewatch.v1.Uplink".to_owned();
        let request = tonic_health::pb::HealthCheckRequest { service };
        let answer = client.check(request).await;
        assert_eq!(answer.as_ref().err().map(Status::code), code);
        if let Ok(answer) = answer {
            assert_eq!(answer.into_inner().status(), tonic_health::ServingStatus::Serving.into());
        }
    }
    let socket = TcpStream::connect(port.address).await.unwrap();
    let name = wire::COLLECTOR_NAME.try_into().unwrap();
    let mut tls = port.connector(None, b"http/1.1").connect(name, socket).await.unwrap();
    let request = b"GET /install.sh HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    tls.write_all(request).await.unwrap();
    let mut answer = String::new();
    // The server closes without a word of TLS: what was read before counts.
    drop(tls.read_to_string(&mut answer).await);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello\n"), "{answer}");
}

#[tokio::test]
async fn who_shakes_hands_for_ever_holds_up_nobody() {
    let port = Port::open().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    let mut noisy = TcpStream::connect(port.address).await.unwrap();
    noisy.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let started: Instant = clock::instant();
    let (mut agent, _) = port.agent(1).await;
    agent.say(Word::Batch(batch(1))).await;
    agent.acked(1).await;
    assert!(clock::instant() - started < Duration::from_secs(5));
}
