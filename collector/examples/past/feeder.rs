//! The way that batches of the past take: as an agent packs them, through ingest into the store, past the
//! real detector, and packed and summed up by the keeper when that is due.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use gatewatch_collector::config::{DetectConfig, RetentionConfig, StoreConfig};
use gatewatch_collector::detect::Engine;
use gatewatch_collector::ingest::convert::{self, Unpacker};
use gatewatch_collector::model::{CollectorEvent, Record, ServerId, SiteId, Transition};
use gatewatch_collector::store::fleet::{self, Joining, LabelSource};
use gatewatch_collector::store::incidents::{self, Known};
use gatewatch_collector::store::presence::{self, Arrival};
use gatewatch_collector::store::{Keeper, Outcome, SiteRow, Store, StoreError, WriteTx};
use prost::Message as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::v1::{Batch, BatchBody};

use crate::truth::Truth;

pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Batches on their way into the store.
const IN_FLIGHT: usize = 512;
/// As agents say it, ms.
const HEARTBEAT_MS: u32 = 5000;
/// First byte of a saved state of the detector: its format.
const SAVED_FORMAT: u8 = 1;

/// A server that joins.
#[derive(Clone, Debug)]
pub(crate) struct Joins {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) n_cpu: u32,
    pub(crate) n_sites: u32,
    pub(crate) at: UnixMillis,
}

/// A server that joined.
struct Joined {
    id: ServerId,
    name: String,
    epoch: u64,
    seq: u64,
    sites: HashMap<String, SiteRow>,
}

/// A store that is being filled, and the detector over what goes into it.
pub(crate) struct Feeder {
    store: Store,
    keeper: Keeper,
    unpacker: Unpacker,
    servers: Vec<Joined>,
    waiting: Vec<oneshot::Receiver<Result<Outcome, StoreError>>>,
    engine: Option<Engine>,
    told: HashSet<SiteId>,
    decided: Vec<Transition>,
    truth: Option<Truth>,
    pub(crate) n_batches: u64,
    pub(crate) n_incidents: u64,
}

impl Feeder {
    /// Opens a new store.
    pub(crate) fn open(
        dir: &Path,
        retention: RetentionConfig,
        truth: Option<Truth>,
    ) -> Result<Self, Failed> {
        let store = Store::open(dir)?;
        let pace = StoreConfig::default();
        let keeper = Keeper::new(store.clone(), pace, retention, CancellationToken::new());
        Ok(Self {
            store,
            keeper,
            unpacker: Unpacker::default(),
            servers: Vec::new(),
            waiting: Vec::new(),
            engine: None,
            told: HashSet::new(),
            decided: Vec::new(),
            truth,
            n_batches: 0,
            n_incidents: 0,
        })
    }

    /// Files a server, with a certificate of nobody, and lets it arrive; returns its number.
    pub(crate) async fn join(&mut self, joins: Joins) -> Result<usize, Failed> {
        let uuid = ulid::Ulid::from(self.servers.len() as u128 + 1);
        let name = joins.name.clone();
        let file = move |tx: &WriteTx<'_>| {
            let Joins { name, labels, n_cpu, n_sites, at } = joins;
            let joining = Joining { uuid, name: &name, token: "sample", key_sha256: [0; 32] };
            let server = fleet::create(tx, &joining, at)?;
            fleet::set_labels(tx, server, LabelSource::Token, &labels)?;
            let arrival = Arrival {
                at,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                protocol: 1,
                n_cpu,
                n_sites,
                heartbeat_ms: HEARTBEAT_MS,
                ..Arrival::default()
            };
            presence::arrived(tx, server, &arrival)?;
            Ok(server)
        };
        let id = self.store.write(file).await?;
        self.servers.push(Joined { id, name, epoch: 1, seq: 0, sites: HashMap::new() });
        Ok(self.servers.len() - 1)
    }

    /// Sends a body that arrives at `at` and says all there is to say up to `until`, a second.
    pub(crate) async fn send(
        &mut self,
        server: usize,
        body: &BatchBody,
        until: i64,
        at: UnixMillis,
    ) -> Result<(), Failed> {
        let joined = &mut self.servers[server];
        joined.seq += 1;
        let batch = Batch {
            epoch: joined.epoch,
            seq: joined.seq,
            complete_until_unix_ms: until * 1000,
            t_min_unix_ms: until * 1000,
            t_max_unix_ms: until * 1000,
            urgent: !body.exemplars.is_empty(),
            codec: wire::CODEC_ZSTD_BODY,
            body: zstd::bulk::compress(&body.encode_to_vec(), 3)?.into(),
            ..Batch::default()
        };
        let id = joined.id;
        let new = convert::batch(&mut self.unpacker, id, batch, at).new;
        if let Some(truth) = &mut self.truth {
            truth.tell(server, &joined.name, body)?;
        }
        self.fold(server, body, until, at);
        self.waiting.push(self.store.append(new).await?);
        self.n_batches += 1;
        if self.waiting.len() >= IN_FLIGHT { self.settle().await } else { Ok(()) }
    }

    /// Lets the detector see what was sent.
    fn fold(&mut self, server: usize, body: &BatchBody, until: i64, at: UnixMillis) {
        let Some(engine) = &mut self.engine else { return };
        let Joined { id, sites, .. } = &self.servers[server];
        let until = UnixMillis(until * 1000);
        let found = convert::records_of(*id, body, until, &mut |name| sites.get(name).cloned());
        self.decided.extend(engine.advance(UnixMillis(at.0 - 1)));
        let told = &mut self.told;
        let mut news: Vec<&Record> = found.records.iter().collect();
        news.retain(|record| match record {
            Record::Site { site, .. } => told.insert(*site),
            _ => true,
        });
        self.decided.extend(engine.fold_batch(at, news.into_iter()));
    }

    /// The machine was installed anew: its agent begins a new spool.
    pub(crate) async fn take_over(&mut self, server: usize) -> Result<(), Failed> {
        self.settle().await?;
        let joined = &mut self.servers[server];
        (joined.epoch, joined.seq) = (joined.epoch + 1, 0);
        let (id, name) = (joined.id, joined.name.clone());
        let uuid = ulid::Ulid::from(server as u128 + 1000);
        let file = move |tx: &WriteTx<'_>| {
            let joining = Joining { uuid, name: &name, token: "sample", key_sha256: [1; 32] };
            fleet::take_over(tx, id, &joining, UnixMillis(0))
        };
        Ok(self.store.write(file).await?)
    }

    /// The server is forgotten; it sends nothing more.
    pub(crate) async fn forget(&mut self, server: usize) -> Result<(), Failed> {
        self.settle().await?;
        let Joined { id, name, .. } = &self.servers[server];
        let (id, name) = (*id, name.clone());
        if let Some(truth) = &mut self.truth {
            truth.forget(server)?;
        }
        let file = move |tx: &WriteTx<'_>| {
            presence::left(tx, id, UnixMillis(0), true)?;
            fleet::forget(tx, &name, UnixMillis(0))
        };
        let refused = self.store.write(file).await?;
        refused.map_err(|refusal| format!("it cannot be forgotten: {refusal:?}").into())
    }

    /// Waits until all that was sent is committed.
    pub(crate) async fn settle(&mut self) -> Result<(), Failed> {
        for done in self.waiting.drain(..) {
            match done.await?? {
                Outcome::Stored => {}
                other => return Err(format!("a batch was not stored: {other:?}").into()),
            }
        }
        Ok(())
    }

    /// A detector begins to watch: it has heard everybody who is there.
    pub(crate) async fn watch(&mut self, at: UnixMillis, there: &[usize]) -> Result<(), Failed> {
        self.settle().await?;
        let known = self.store.read(|conn| incidents::known(conn, None)).await?;
        let mut engine = Engine::new(&DetectConfig::default());
        engine.fold(at, &Record::Collector { at, event: CollectorEvent::Started });
        self.told.clear();
        for Known { server, name, labels, meta, sites, .. } in known {
            let Some(no) = self.servers.iter().position(|joined| joined.id == server) else {
                continue;
            };
            let heartbeat = Duration::from_millis(u64::from(HEARTBEAT_MS));
            let n_cpu = meta.n_cpu.unwrap_or(0);
            engine.fold(at, &Record::Server { server, name, labels, n_cpu, heartbeat });
            if there.contains(&no) {
                engine.fold(at, &Record::Hello { server, at });
            }
            self.servers[no].sites =
                sites.into_iter().map(|site| (site.name.clone(), site)).collect();
        }
        self.engine = Some(engine);
        Ok(())
    }

    /// A sign of life.
    pub(crate) fn beat(&mut self, server: usize, at: UnixMillis) {
        let server = self.servers[server].id;
        if let Some(engine) = &mut self.engine {
            self.decided.extend(engine.advance(UnixMillis(at.0 - 1)));
            engine.fold(at, &Record::Heartbeat { server, at, clock: at });
        }
    }

    /// The detector is done with this time: what it decided is stored as it stores it.
    pub(crate) async fn unwatch(&mut self, at: UnixMillis) -> Result<(), Failed> {
        self.settle().await?;
        let Some(mut engine) = self.engine.take() else { return Ok(()) };
        self.decided.extend(engine.advance(at));
        let decided = std::mem::take(&mut self.decided);
        let ids: HashSet<&str> = decided.iter().map(|step| step.incident.id.as_str()).collect();
        self.n_incidents += ids.len() as u64;
        let (cases, upto) = (saved(&engine.save_cases())?, self.store.last_committed());
        self.store.write(move |tx| incidents::commit(tx, &decided, &cases, upto)).await?;
        Ok(())
    }

    /// The keeper's turn, as of `at`.
    pub(crate) async fn pack(&mut self, at: UnixMillis) -> Result<(), Failed> {
        self.settle().await?;
        let engine = Engine::new(&DetectConfig::default());
        let (body, upto) = (saved(&engine.save())?, self.store.last_committed());
        self.store.write(move |tx| incidents::save_snapshot(tx, upto, &body)).await?;
        Ok(self.keeper.pass(at).await?)
    }

    /// All servers say goodbye, so that nobody misses them, and the store is closed.
    pub(crate) async fn close(mut self, at: UnixMillis) -> Result<(), Failed> {
        self.settle().await?;
        if let Some(truth) = &mut self.truth {
            truth.flush()?;
        }
        let ids: Vec<ServerId> = self.servers.iter().map(|joined| joined.id).collect();
        let leave = move |tx: &WriteTx<'_>| {
            ids.iter().try_for_each(|server| presence::left(tx, *server, at, true))
        };
        self.store.write(leave).await?;
        drop(self.keeper);
        Ok(self.store.close().await?)
    }
}

/// A state of the detector as it is saved.
fn saved(body: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut saved = vec![SAVED_FORMAT];
    saved.extend(zstd::bulk::compress(body, 1)?);
    Ok(saved)
}
