//! `GET /api/v1/export`: the recorded fleet as JSON lines, in order of arrival: input of `replay`.
//!
//! The answer is a stream of bounded pieces: what is stored is read a little at a time, and only as fast as
//! the reader takes it. Hours that are packed come as ten seconds each, a second after they were over.
//! An answer that breaks off was not whole: the connection is cut, and a packed one lacks its end. Anyone who may read incidents may read this; privacy is that of
//! what is stored.
//!
//! Heartbeats are not stored: batches are the only signs of life in it. Their pace is therefore what a
//! server is said to beat with, and what happened to the collector meanwhile and the goodbyes of agents
//! stand between them, so that a replay takes neither a slow pace, nor a gap of the collector's own, nor
//! an agent that was stopped on purpose for a silence. The last record is `end`: without it the stream
//! was cut off. It names the times of which history is missing (`holes`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::UnixMillis;

use super::AppState;
use super::error::{ApiError, Params, time};
use crate::model::{Record, ServerId, SiteId};
use crate::replay::write::{self, Writer};
use crate::store::happened::{self, Happened, Place};
use crate::store::history::{self, Hole, Limits, Notes, Piece, Play, Samples, Told};
use crate::store::incidents::Known;
use crate::store::{SiteRow, Store, StoreError, incidents, read};
use crate::{clock, errors};

/// Bytes put together at once, about, and how long that may take.
const PIECES_BYTES: usize = 4 << 20;
const READ_TIME: Duration = Duration::from_secs(10);
/// Size from which a piece of the answer is sent.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces that wait for a slow reader; when full, reading waits.
const PIECES_MAX: usize = 4;
/// Times told that an export lacks; more are put together.
const HOLES_MAX: usize = 10_000;
/// Events between batches read at once.
const EVENTS_MAX: u32 = 1000;

/// Least step of time.
const MOMENT: Duration = Duration::from_millis(1);
/// Batches come at least each minute, under load too: four of these are more than one and its delay.
const BEAT_MS_MIN: u64 = 30_000;

/// `GET /api/v1/export?...`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExportQuery {
    /// Arrival of the first batch, RFC 3339; default: all that is kept.
    from: Option<String>,
    /// First arrival no longer told, RFC 3339; default: now.
    to: Option<String>,
}

/// The stream of what arrived in that time.
pub(super) async fn show(
    State(state): State<AppState>,
    headers: HeaderMap,
    Params(query): Params<ExportQuery>,
) -> Result<Response, ApiError> {
    let now = clock::now();
    let to = time("to", query.to.as_deref())?.unwrap_or(now);
    let from = time("from", query.from.as_deref())?;
    if let Some(from) = from.filter(|from| *from >= to) {
        let error = format!("from: {from} is not before to: {to}");
        return Err(ApiError::bad(error, "give a `from` that is earlier than `to`"));
    }
    let place = state.streams.clone().try_acquire_owned().map_err(|_| {
        let fix = "wait until an export or a follower has ended";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many streams are open", fix)
    })?;
    let packed = accepts_gzip(&headers);
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let from = match from {
        Some(from) => from,
        None => state.store.read(history::oldest).await?.unwrap_or(to),
    };
    tokio::spawn(async move {
        let _place = place;
        let export = Export::new(state.store, from, to, Out::new(sender.clone(), packed));
        let ended = tokio::select! {
            biased;
            () = state.stop.cancelled() => Err(Broken::Stopped),
            // What is being read is left behind: nobody waits for it.
            () = sender.closed() => Err(Broken::ReaderGone),
            // Not cancelled but ended: by its end.
            ended = export.run() => ended,
        };
        let why = match ended {
            Ok(()) | Err(Broken::ReaderGone) => return,
            Err(Broken::Stopped) => "the collector stops".to_owned(),
            Err(Broken::TooSlow) => {
                let why = "its reader was too slow: batches it needed were packed meanwhile";
                tracing::warn!(why, "an export breaks off");
                why.to_owned()
            }
            Err(Broken::Store(error)) => {
                let why = errors::chain(&error);
                tracing::error!(error = why, "an export breaks off");
                why
            }
        };
        // The reader sees a connection that breaks off, never an end that is none.
        drop(sender.send(Err(std::io::Error::other(why))).await);
    });
    let mut response = Body::from_stream(ReceiverStream::new(receiver)).into_response();
    let headers = response.headers_mut();
    let value = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, value("application/x-ndjson"));
    headers.insert(header::VARY, value("accept-encoding"));
    if packed {
        headers.insert(header::CONTENT_ENCODING, value("gzip"));
    }
    Ok(response)
}

/// Whether the reader takes gzip: named, and not with a weight of 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut named = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    named.any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight.trim().strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

/// Why an export ends before its end.
enum Broken {
    ReaderGone,
    Stopped,
    TooSlow,
    Store(StoreError),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The answer on its way: lines in, bounded pieces out.
struct Out {
    sender: mpsc::Sender<std::io::Result<Bytes>>,
    pending: Vec<u8>,
    packer: Option<GzEncoder<Vec<u8>>>,
}

impl Out {
    fn new(sender: mpsc::Sender<std::io::Result<Bytes>>, is_packed: bool) -> Self {
        let packer = is_packed.then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Self { sender, pending: Vec::new(), packer }
    }

    /// Sends what is due; waits while the reader is slow.
    async fn send(&mut self, lines: &[u8]) -> Result<(), Broken> {
        match &mut self.packer {
            Some(packer) => {
                packer.write_all(lines).expect("memory can be written to");
                self.pending.append(packer.get_mut());
            }
            None => self.pending.extend_from_slice(lines),
        }
        if self.pending.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        let piece = Bytes::from(std::mem::take(&mut self.pending));
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(piece)).await.map_err(|_| Broken::ReaderGone)
    }

    async fn end(mut self) -> Result<(), Broken> {
        if let Some(packer) = self.packer.take() {
            let rest = packer.finish().expect("memory can be written to");
            self.pending.extend(rest);
        }
        self.flush().await
    }
}

/// Why something is missing, and of which server; `None`: of all.
type Lack = (String, Option<String>);

/// What an export lacks, read by read: by why and server, times that touch put together.
#[derive(Debug, Default)]
struct Lacks {
    times: BTreeMap<Lack, Vec<(UnixMillis, UnixMillis)>>,
    n: usize,
}

impl Lacks {
    fn add(&mut self, notes: &Notes) {
        for hole in &notes.holes {
            // Beyond a bound it is not told any more whose they are.
            let server = hole.server.clone().filter(|_| self.n < HOLES_MAX);
            let of = self.times.entry((hole.why.clone(), server)).or_default();
            match of.last_mut() {
                Some(last) if hole.from <= last.1 || self.n >= HOLES_MAX => {
                    *last = (last.0.min(hole.from), last.1.max(hole.to));
                }
                _ => {
                    self.n += 1;
                    of.push((hole.from, hole.to));
                }
            }
        }
    }

    /// In order of time.
    fn list(&self) -> Vec<Hole> {
        let mut holes: Vec<Hole> = Vec::new();
        for ((why, server), times) in &self.times {
            let (why, server) = (why.clone(), server.clone());
            let hole = |(from, to): &(UnixMillis, UnixMillis)| Hole {
                from: *from,
                to: *to,
                server: server.clone(),
                why: why.clone(),
            };
            holes.extend(times.iter().map(hole));
        }
        holes.sort_by(|a, b| (a.from, a.to, &a.server).cmp(&(b.from, b.to, &b.server)));
        holes
    }
}

/// Name of each server, and how far its clock is ahead, ms.
type Servers = HashMap<ServerId, (String, i64)>;

struct Export {
    store: Store,
    from: UnixMillis,
    to: UnixMillis,
    out: Out,
    /// Of each site its place as told last, both hashed: told again only when it changes.
    told: HashMap<(ServerId, u64), u64>,
    /// Servers whose clock is told.
    clocked: HashSet<ServerId>,
    /// Lines that stand between batches, with their time, soonest first, and how far they are read.
    between: VecDeque<(UnixMillis, Vec<u8>)>,
    read_upto: Place,
    /// What is missing.
    holes: Lacks,
    /// End of what was told from packed hours.
    packed_to: Option<UnixMillis>,
}

impl Export {
    fn new(store: Store, from: UnixMillis, to: UnixMillis, out: Out) -> Self {
        let (told, clocked, between) = (HashMap::new(), HashSet::new(), VecDeque::new());
        Self {
            store,
            from,
            to,
            out,
            told,
            clocked,
            between,
            read_upto: (from.minus(MOMENT), i64::MAX),
            holes: Lacks::default(),
            packed_to: None,
        }
    }

    async fn run(mut self) -> Result<(), Broken> {
        // Hours may be packed meanwhile: what the play began with stays.
        let hold = self.store.hold();
        let servers = self.fleet().await?;
        let ahead = servers.iter().map(|(server, (_, ahead_ms))| (*server, *ahead_ms)).collect();
        let mut play = Play::new(ahead, (self.from, self.to), Samples::All);
        while !play.is_over() {
            let limits = Limits { time: READ_TIME, pauses: true, ..Limits::default() };
            let read = self.store.history(limits, move |history| {
                let pieces = history.play(&mut play, PIECES_BYTES)?;
                Ok((pieces, play))
            });
            let Told { value: (pieces, on), notes } = read.await?;
            play = on;
            self.holes.add(&notes);
            if !hold.holds() && play.reads_batches() {
                return Err(Broken::TooSlow);
            }
            let newest = pieces.iter().map(|piece| piece.at).max().unwrap_or(self.from);
            for piece in pieces {
                self.send_between(&servers, piece.at, newest).await?;
                // A server that was forgotten has no name any more.
                let Some(server) = servers.get(&piece.server) else { continue };
                if piece.id == 0 {
                    self.packed_to = self.packed_to.max(Some(piece.at));
                }
                let lines = self.lines(&piece, server);
                self.out.send(&lines).await?;
            }
        }
        let last = self.to.minus(MOMENT);
        self.send_between(&servers, last, last).await?;
        self.end().await
    }

    /// The last record says what is missing, and so does the log.
    async fn end(mut self) -> Result<(), Broken> {
        let holes = self.holes.list();
        if let (Some(first), Some(last)) = (holes.first(), holes.last()) {
            let (from, to) = (first.from.to_rfc3339(), last.to.to_rfc3339());
            tracing::warn!(n_holes = holes.len(), from, to, "an export lacks history");
        }
        let mut lines = Vec::new();
        write::end(&mut lines, &holes, self.packed_to);
        self.out.send(&lines).await?;
        self.out.end().await
    }

    /// Sends what happened until `at`; `ahead` is how far events are read at once.
    async fn send_between(
        &mut self,
        servers: &Servers,
        at: UnixMillis,
        ahead: UnixMillis,
    ) -> Result<(), Broken> {
        let ahead = ahead.max(at).min(self.to.minus(MOMENT));
        loop {
            while let Some((_, lines)) = self.between.pop_front_if(|(due, _)| *due <= at) {
                self.out.send(&lines).await?;
            }
            if !self.between.is_empty() || self.read_upto.0 >= ahead {
                return Ok(());
            }
            let after = self.read_upto;
            let read = move |conn: &_| happened::after(conn, after, ahead, EVENTS_MAX);
            let events = self.store.read(read).await?;
            let is_page = events.len() == EVENTS_MAX as usize;
            let last = events.last().filter(|_| is_page);
            self.read_upto = last.map_or((ahead, i64::MAX), |event| event.place);
            for Happened { place: (at, _), record } in events {
                let lines = record.and_then(|record| between(servers, at, record));
                self.between.extend(lines.map(|lines| (at, lines)));
            }
        }
    }

    /// Header, servers and sites; returns the name of each server and how far its clock is ahead, ms.
    async fn fleet(&mut self) -> Result<Servers, Broken> {
        let names = self.store.read(read::server_names).await?;
        let mut labels = BTreeSet::new();
        let mut servers = HashMap::new();
        let mut lines = Vec::new();
        // The header names the labels, so the servers come before it is written; sites do not fit.
        for (id, _) in &names {
            for known in self.known(*id, false).await?.0 {
                labels.extend(known.labels.keys().cloned());
                let meta = &known.meta;
                let (n_cpu, heartbeat) = (meta.n_cpu.unwrap_or(0), meta.heartbeat_ms);
                let heartbeat = heartbeat.unwrap_or(0).max(BEAT_MS_MIN);
                write::server(&mut lines, &known.name, &known.labels, n_cpu, heartbeat);
                let ahead_ms = meta.clock_offset_ms.unwrap_or(0);
                servers.insert(known.server, (known.name, ahead_ms));
            }
        }
        let mut header = Vec::new();
        let labels: Vec<String> = labels.into_iter().collect();
        write::header(&mut header, &labels, self.from, self.to);
        self.out.send(&header).await?;
        self.out.send(&lines).await?;
        for (id, _) in names {
            let (known, pasts) = self.known(id, true).await?;
            let mut lines = Vec::new();
            for Known { server, name, sites, .. } in known {
                for site in sites {
                    let past = pasts.get(&site.site);
                    let past = past.and_then(|saved| write::baseline(saved, self.from));
                    let (pool, upstream) = (site.pool.as_deref(), site.upstream.as_deref());
                    write::site(&mut lines, &name, &site.name, pool, upstream, past);
                    self.is_news(server, &site.name, pool, upstream);
                }
            }
            self.out.send(&lines).await?;
        }
        Ok(servers)
    }

    /// One server, and if wanted the saved pasts of its sites.
    async fn known(
        &self,
        id: ServerId,
        with_pasts: bool,
    ) -> Result<(Vec<Known>, HashMap<SiteId, Vec<u8>>), StoreError> {
        let read = move |conn: &_| {
            let pasts = if with_pasts { read::baselines(conn, id)? } else { Vec::new() };
            Ok((incidents::known(conn, Some(id))?, pasts.into_iter().collect()))
        };
        self.store.read(read).await
    }

    fn is_news(
        &mut self,
        server: ServerId,
        name: &str,
        pool: Option<&str>,
        upstream: Option<&str>,
    ) -> bool {
        let hash = |value: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            value(&mut hasher);
            hasher.finish()
        };
        let key = (server, hash(&|hasher| name.hash(hasher)));
        let place = hash(&|hasher| (pool, upstream).hash(hasher));
        self.told.insert(key, place) != Some(place)
    }

    /// The lines of one piece. Sites are named by the piece itself, so no list of them is kept.
    fn lines(&mut self, piece: &Piece, (name, ahead_ms): &(String, i64)) -> Vec<u8> {
        let mut names: Vec<String> = Vec::new();
        let records = piece.records(&mut |site| {
            names.push(site.to_owned());
            let (site, server) = (SiteId(names.len() as i64 - 1), piece.server);
            let name = names.last().cloned().unwrap_or_default();
            Some(SiteRow {
                site,
                server,
                name,
                pool: None,
                upstream: None,
                owner: None,
                since: None,
            })
        });
        let name_of = |site: SiteId| names.get(usize::try_from(site.0).ok()?).cloned();
        let writer = Writer {
            server: name,
            arrived_at: piece.at,
            clock: UnixMillis(piece.at.0.saturating_add(*ahead_ms)),
            name_of: &name_of,
        };
        let mut lines = Vec::new();
        if self.clocked.insert(piece.server) {
            // Heartbeats are not stored: without this the first batch of a server whose clock is off
            // would be dated by it.
            write::clock(&mut lines, name, writer.clock, piece.at);
        }
        for record in &records {
            if let Record::Site { site, pool, upstream, .. } = record {
                // Unknown now does not take back what was known before.
                let known = pool.is_some() || upstream.is_some();
                let name = name_of(*site).unwrap_or_default();
                let (pool, upstream) = (pool.as_deref(), upstream.as_deref());
                if !known || !self.is_news(piece.server, &name, pool, upstream) {
                    continue;
                }
            }
            writer.record(&mut lines, record);
        }
        lines
    }
}

/// The lines of what happened at `at`; none of a server that was forgotten.
fn between(servers: &Servers, at: UnixMillis, record: Record) -> Option<Vec<u8>> {
    let name_and_clock = |server| {
        let (name, ahead_ms) = servers.get(&server)?;
        Some((name.as_str(), UnixMillis(at.0.saturating_add(*ahead_ms))))
    };
    let (server, clock, record) = match record {
        Record::Hello { server, .. } => {
            let (name, at) = name_and_clock(server)?;
            (name, at, Record::Hello { server, at })
        }
        Record::Goodbye { server, .. } => {
            let (name, at) = name_and_clock(server)?;
            (name, at, Record::Goodbye { server, at })
        }
        record => ("", at, record),
    };
    let mut lines = Vec::new();
    Writer { server, arrived_at: at, clock, name_of: &|_| None }.record(&mut lines, &record);
    Some(lines)
}

/// A whole export in memory.
#[cfg(test)]
pub(crate) async fn whole(
    store: Store,
    from: UnixMillis,
    to: UnixMillis,
    is_packed: bool,
) -> Vec<u8> {
    let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
    let export = Export::new(store, from, to, Out::new(sender, is_packed));
    let running = tokio::spawn(export.run());
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.recv().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert!(running.await.unwrap().is_ok());
    bytes
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use wire::v1;

    use super::*;
    use crate::model::CollectorEvent;
    use crate::store::{Ledger, NewBatch, SiteSeen, collector, presence};

    const NOON: i64 = 1_795_176_000_000;

    fn at(second: i64) -> UnixMillis {
        UnixMillis(NOON + second * 1000)
    }

    /// One good answer of one site.
    fn batch(n: i64, seq: u64, second: i64) -> NewBatch {
        let name = "a.example".to_owned();
        let count = v1::SiteSecond {
            site: 0,
            second: at(second - 1).second(),
            status: vec![200],
            count: vec![1],
        };
        let body = v1::BatchBody {
            sites: vec![v1::Site { name: name.clone(), ..v1::Site::default() }],
            seconds: vec![count],
            ..v1::BatchBody::default()
        };
        NewBatch {
            server: ServerId(n),
            epoch: 1,
            seq,
            n_evicted: 0,
            n_lines_evicted: 0,
            n_bytes_evicted: 0,
            at: at(second),
            t_min: at(second - 1),
            t_max: at(second - 1),
            complete_until: at(second),
            urgent: true,
            codec: 1,
            body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
            sites: vec![SiteSeen { name, pool: None, upstream: None, owner: None }],
            losses: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    /// Titles of what a replay of these lines tells.
    fn replay(lines: &str) -> Vec<String> {
        replay_with_talk(lines).0
    }

    /// And what it says beside them.
    fn replay_with_talk(lines: &str) -> (Vec<String>, String) {
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        let options =
            crate::replay::Options { only_final: true, ..crate::replay::Options::default() };
        let detect = crate::config::DetectConfig::default();
        let mut replay = crate::replay::Replay::new(&detect, options, &mut out, &mut talk);
        let lines = std::io::Cursor::new(lines.to_owned().into_bytes());
        let lines = crate::replay::input::unpacked(Box::new(lines));
        replay.read("export", lines.unwrap()).unwrap();
        assert_eq!(replay.end().unwrap().skipped, crate::replay::report::Skipped::default());
        let told = String::from_utf8(out).unwrap();
        let told = told.lines().map(serde_json::from_str::<serde_json::Value>);
        let titles = told.map(|line| line.unwrap()["incident"]["title"].to_string()).collect();
        (titles, String::from_utf8(talk).unwrap())
    }

    #[tokio::test]
    async fn an_export_over_a_restart_of_the_collector_and_goodbyes_replays_without_a_silence() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 5).await;
        // The collector is away from 301 to 900; agents come back within the minute. Load slows
        // their batches down to one a minute, the fourth is stopped for four minutes, the fifth for good.
        let mut seqs = [0; 5];
        for second in 0..1400 {
            for n in 1..=5 {
                let pace = if second < 1100 { 10 } else { 60 };
                let gone = (301..910 + 8 * n).contains(&second)
                    || (n == 5 && second > 1000)
                    || (n == 4 && (1011..1260).contains(&second));
                if (second + n) % pace == 0 && !gone {
                    let seq = &mut seqs[n as usize - 1];
                    *seq += 1;
                    store.append(batch(n, *seq, second)).await.unwrap().await.unwrap().unwrap();
                }
            }
        }
        let note = |tx: &crate::store::WriteTx<'_>| {
            presence::left(tx, ServerId(5), at(1000), true)?;
            presence::left(tx, ServerId(4), at(1010), true)?;
            let back = presence::Arrival { at: at(1260), ..presence::Arrival::default() };
            presence::arrived(tx, ServerId(4), &back)?;
            collector::note(tx, at(301), CollectorEvent::Stopping)?;
            collector::note(tx, at(900), CollectorEvent::Started)
        };
        store.write(note).await.unwrap();
        let stream = whole(store.clone(), at(0), at(1390), false).await;
        let stream = String::from_utf8(stream).unwrap();
        let n_requests = stream.matches(r#""type":"requests""#).count() as u64;
        assert_eq!(n_requests, seqs.iter().sum::<u64>(), "each batch has one");
        assert_eq!(replay(&stream), [""; 0]);
        assert!(stream.ends_with("{\"type\":\"end\"}\n"), "it says that it is whole");
        assert!(stream.contains(r#""type":"hello""#), "the fourth came back");
        for (kind, n) in [("collector", 2), ("goodbye", 2)] {
            let start = format!(r#"{{"type":"{kind}""#);
            let n_told = stream.lines().filter(|line| line.starts_with(&start)).count();
            assert_eq!(n_told, n, "{kind}");
            // Each of the two keeps a silence away.
            let others: Vec<&str> = stream.lines().filter(|l| !l.starts_with(&start)).collect();
            let told = replay(&others.join("\n"));
            assert!(
                told.iter().any(|title| title.contains("silent") || title.contains("nothing")),
                "{kind}: {told:?}"
            );
        }
        store.close().await.unwrap();
    }

    /// A second of one site: good answers and refused ones.
    fn second(n: i64, seq: u64, second: i64, n_200: u32, n_502: u32) -> NewBatch {
        let mut batch = batch(n, seq, second + 1);
        let site = v1::Site { name: "a.example".into(), ..v1::Site::default() };
        let counts = v1::SiteSecond {
            site: 0,
            second: at(second).second(),
            status: vec![200, 502],
            count: vec![n_200, n_502],
        };
        let exemplar = |ix: u64| v1::Exemplar {
            at_unix_ms: at(second).0,
            status: 502,
            client_hash: 1 + ix + second.unsigned_abs() * 10,
            message: Some("connect() failed (111: Connection refused) while connecting".into()),
            signal: v1::Signal::ConnectRefused.into(),
            ..v1::Exemplar::default()
        };
        let body = v1::BatchBody {
            sites: vec![site],
            seconds: vec![counts],
            exemplars: (0..u64::from(n_502.min(5))).map(exemplar).collect(),
            series: vec![v1::Series {
                metric: "system.cpu.steal".into(),
                attribute: String::new(),
            }],
            ticks: vec![v1::Tick { at_unix_ms: at(second).0, series: vec![0], value: vec![10] }],
            ..v1::BatchBody::default()
        };
        batch.body = zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap();
        batch
    }

    #[tokio::test]
    async fn a_packed_outage_replays_into_the_same_incident() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 2).await;
        let mut seqs = [0; 2];
        // An hour, two minutes of which the site of web-1 fails; a batch comes each ten seconds, each second
        // while it fails.
        for s in (0..3600).filter(|s| s % 10 == 0 || (1800..1920).contains(s)) {
            for n in 1..=2 {
                let fails = n == 1 && (1800..1920).contains(&s);
                let seq = &mut seqs[n as usize - 1];
                *seq += 1;
                let (n_200, n_502) = if fails { (1, 9) } else { (10, 0) };
                let stored = store.append(second(n, *seq, s, n_200, n_502)).await.unwrap();
                stored.await.unwrap().unwrap();
            }
        }
        let export = async || {
            let lines = whole(store.clone(), at(0), at(7200), false).await;
            String::from_utf8(lines).unwrap()
        };
        let hot = export().await;
        let told = replay(&hot);
        assert_eq!(told.len(), 1, "{told:?}");
        let keeper = crate::store::Keeper::new(
            store.clone(),
            crate::config::StoreConfig::default(),
            crate::config::RetentionConfig::default(),
            tokio_util::sync::CancellationToken::new(),
        );
        keeper.pass(at(3 * 3600)).await.unwrap();
        let sealed = "SELECT count(*) FROM sealed";
        let n = store.read(move |conn| conn.query_row(sealed, [], |row| row.get::<_, i64>(0)));
        assert_eq!(n.await.unwrap(), 1, "the hour is packed");
        let packed = export().await;
        assert_eq!(replay(&packed), told);
        let sum = |lines: &str, key: &str| -> u64 {
            let n = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()[key].as_u64();
            lines.lines().filter_map(n).sum()
        };
        for key in ["n", "n_502"] {
            assert_eq!(sum(&packed, key), sum(&hot, key), "each request once: {key}");
        }
        let n_samples = |lines: &str| lines.matches(r#""type":"sample""#).count();
        assert_eq!(n_samples(&packed), n_samples(&hot));
        let n_exemplars = packed.matches(r#""type":"exemplar""#).count();
        assert_eq!(n_exemplars, 20, "as many as are kept of one kind and hour");
        let (_, talk) = replay_with_talk(&packed);
        assert!(talk.contains("the stream is of packed hours"), "{talk}");
        assert!(!talk.contains("lacks history"), "{talk}");

        let day = crate::store::hours::Day::of(at(0).second()).unwrap();
        std::fs::remove_file(dir.path().join(day.file())).unwrap();
        let lines = export().await;
        let end: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        let hole = serde_json::json!({
            "from": at(0).0, "to": at(3600).0, "server": null, "why": "missing",
        });
        assert_eq!(end, serde_json::json!({"type": "end", "holes": [hole]}));
        let (told, talk) = replay_with_talk(&lines);
        assert_eq!(told, [""; 0]);
        let said = "export: the stream lacks history of all servers from 2026-11-20T12:00:00.000Z to \
                    2026-11-20T13:00:00.000Z (missing)";
        assert!(talk.contains(said), "{talk}");
        store.close().await.unwrap();
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        for (accepted, want) in [
            (None, false),
            (Some(""), false),
            (Some("gzip"), true),
            (Some("br, GZIP;q=0.5"), true),
            (Some("gzip;q=0, br"), false),
            (Some("x-gzip"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accepted) = accepted {
                headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
            }
            assert_eq!(accepts_gzip(&headers), want, "{accepted:?}");
        }
    }
}
