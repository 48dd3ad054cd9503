//! The thread that reads committed batches, runs the detector over them and stores what it decides.
//!
//! Batches come in order of `hot.id` with their time of arrival, words that are not stored
//! (heartbeats, hellos, goodbyes) over a bounded channel. Transitions, the messages they owe, the
//! open cases and the position go into one transaction, the position also each second while batches
//! come and nothing is decided. After a crash the last snapshot of the engine is brought forward over the
//! batches after it; what it decides again up to the stored position is dropped: the stored cases hold it.

mod own;
mod saved;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::v1::BatchBody;

use crate::config::Config;
use crate::detect::crowd::PARTS_MAX;
use crate::detect::past::Past;
use crate::detect::{Engine, Refused, TICK_MS};
use crate::ingest::convert::Unpacked;
use crate::ingest::{Heard, Live, convert, opener};
use crate::model::{CollectorEvent, Record, ServerId, SiteId, Transition};
use crate::store::incidents::{self, Known};
use crate::store::{FreshRow, HotRow, SiteRow, Store, StoreError, read};
use crate::{clock, errors};
use saved::{pack, unpack};

/// Batches and bytes read at once: bounds memory while catching up.
const ROWS_MAX: usize = 256;
const ROWS_BYTES_MAX: usize = 8 << 20;
/// Words taken from the channel at once.
const WORDS_MAX: usize = 1024;
/// How often the whole engine is saved, ms.
const SNAPSHOT_MS: i64 = 60_000;
/// How often names, labels and pools are read again, ms.
const KNOWN_MS: i64 = 60_000;
/// How often the pasts of sites are saved, ms, and how many in one transaction.
const PAST_MS: i64 = 3_600_000;
const PAST_ROWS_MAX: usize = 1000;
/// How long the neighbours of a failing server are asked for a batch each second, ms, and the most
/// servers of one label value that are.
const HURRY_MS: i64 = 120_000;
const NEIGHBOURS_MAX: usize = 200;
/// How often the position is stored while nothing is decided, ms.
const POSITION_MS: i64 = 1000;
/// How often acknowledgements are read while incidents are open or may come back, ms.
const ACKED_MS: i64 = 1000;
/// How far back a detector reads that has lost its snapshot, ms.
const LOST_MS: i64 = 600_000;

/// Runs the detective on a thread of its own until `stop` fires. `ready` turns true when it has read
/// what was stored before its start. The receiver hears when it has saved its state and ended; an
/// error says that it ended by a panic. `doubt` is true while the collector's own uplink is in doubt.
///
/// # Panics
/// When the system refuses a thread.
pub fn spawn(
    store: Store,
    config: &Config,
    heard: mpsc::Receiver<Heard>,
    live: Live,
    ready: Arc<AtomicBool>,
    doubt: watch::Sender<bool>,
    stop: CancellationToken,
) -> oneshot::Receiver<()> {
    let runtime = tokio::runtime::Handle::current();
    let mut detective = Detective::new(store, config, live);
    detective.doubt = doubt;
    let (ended, hears) = oneshot::channel();
    let run = move || {
        runtime.block_on(detective.run(heard, &ready, stop));
        if ended.send(()).is_err() {
            tracing::debug!("nobody waited for the detective to end");
        }
    };
    std::thread::Builder::new()
        .name("detective".to_owned())
        .spawn(run)
        .expect("a process at its start may have one more thread");
    hears
}

struct Detective {
    store: Store,
    live: Live,
    config: crate::config::DetectConfig,
    engine: Engine,
    /// Last `hot.id` folded.
    position: i64,
    /// Up to here the stored cases hold every decision.
    decided: i64,
    /// The position in the database.
    stored: i64,
    /// Cases as of `decided`, until it is reached.
    cases: Option<Vec<u8>>,
    /// Decided, not stored yet.
    pending: Vec<Transition>,
    sites: HashMap<ServerId, HashMap<String, SiteRow>>,
    told: HashMap<SiteId, (Option<String>, Option<String>)>,
    /// Servers that name sites which are not stored, and until when they are not looked for.
    overfull: HashMap<ServerId, i64>,
    /// Servers whose refused records have been told.
    misdated: HashSet<String>,
    /// Of what the engine refused, what is counted already.
    refused: Refused,
    next_snapshot: i64,
    next_known: i64,
    next_past: i64,
    next_acked: i64,
    next_position: i64,
    /// Servers asked for a batch each second, and until when, ms.
    hurried: BTreeMap<ServerId, i64>,
    next_hurry: i64,
    /// Label values that make no groups, as last said.
    n_left_out: u64,
    /// The last commit failed: said once.
    failing: bool,
    /// Whether the collector's own uplink is in doubt.
    doubt: watch::Sender<bool>,
    /// What happened to the collector, not stored yet; the newest ones.
    own: Vec<(UnixMillis, CollectorEvent)>,
    /// Whether the disk was full, and when that is told again.
    is_full: bool,
    next_full: i64,
    next_standing: i64,
    /// When it looked at the clock last.
    looked_at: Option<UnixMillis>,
    /// Up to when it is said that it lags behind what arrives.
    lags_until: i64,
}

/// Which batch, and when it came.
struct Place {
    id: i64,
    server: ServerId,
    at: UnixMillis,
    complete_until: UnixMillis,
}

impl Detective {
    fn new(store: Store, config: &Config, live: Live) -> Self {
        Self {
            store,
            live,
            engine: Engine::new(&config.detect),
            config: config.detect.clone(),
            position: 0,
            decided: 0,
            stored: 0,
            cases: None,
            pending: Vec::new(),
            sites: HashMap::new(),
            told: HashMap::new(),
            overfull: HashMap::new(),
            misdated: HashSet::new(),
            refused: Refused::default(),
            next_snapshot: 0,
            next_known: 0,
            next_past: 0,
            next_acked: 0,
            next_position: 0,
            hurried: BTreeMap::new(),
            next_hurry: 0,
            n_left_out: 0,
            failing: false,
            doubt: watch::Sender::new(false),
            own: Vec::new(),
            is_full: false,
            next_full: 0,
            next_standing: 0,
            looked_at: None,
            lags_until: 0,
        }
    }

    async fn run(
        mut self,
        mut heard: mpsc::Receiver<Heard>,
        ready: &AtomicBool,
        stop: CancellationToken,
    ) {
        let mut committed = self.store.committed();
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS as u64));
        // A late tick is made up for by `advance`, which acts on every point of the grid.
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while let Err(error) = self.start(clock::now()).await {
            tracing::warn!(error = %errors::chain(&error), "the detector cannot read its state yet");
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: an interval keeps its schedule.
                _ = tick.tick() => {}
            }
        }
        self.work(None).await;
        ready.store(true, Ordering::Release);
        let mut words = Vec::new();
        loop {
            let due = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Cancel-safe: what was not received stays in the channel.
                n = heard.recv_many(&mut words, WORDS_MAX), if !heard.is_closed() || !heard.is_empty() => {
                    let _ = n;
                    false
                }
                // Cancel-safe: the mark of what was seen moves only when this branch is taken.
                changed = committed.changed() => changed.is_err(),
                // Cancel-safe: an interval keeps its schedule.
                _ = tick.tick() => true,
            };
            for (at, record) in words.drain(..) {
                self.take_word(at, &record);
            }
            self.work(due.then(clock::now)).await;
        }
        for (at, record) in std::iter::from_fn(|| heard.try_recv().ok()) {
            self.take_word(at, &record);
        }
        // Agents are sent away: from here on nobody is silent.
        self.happens(clock::now(), CollectorEvent::Stopping);
        self.work(Some(clock::now())).await;
        self.save_state(clock::now()).await;
        tracing::debug!(position = self.position, "the detective has stopped");
    }

    /// Reads what is committed, decides and stores; `now` when the clock moved on as well.
    async fn work(&mut self, now: Option<UnixMillis>) {
        let outcome = self.try_work(now).await;
        match outcome {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("the detector stores its decisions again");
            }
            Err(error) if !self.failing => {
                self.failing = true;
                let error = errors::chain(&error);
                tracing::error!(error, "the detector cannot read or store; it keeps trying");
            }
            Ok(()) | Err(_) => {}
        }
    }

    async fn try_work(&mut self, now: Option<UnixMillis>) -> Result<(), StoreError> {
        if let Some(now) = now {
            self.see_own(now).await?;
        }
        self.catch_up().await?;
        let Some(now) = now else { return Ok(()) };
        self.store_own().await?;
        self.look_up(now).await?;
        if now.0 >= self.next_acked && self.engine.has_cases() {
            self.next_acked = now.0 + ACKED_MS;
            let since = now.minus(Duration::from_secs(900));
            let acked = self.store.read(move |conn| incidents::acked(conn, since)).await?;
            self.engine.set_acked(&acked.into_iter().collect());
        }
        let transitions = self.engine.advance(now);
        self.pending.extend(transitions);
        let doubts = self.engine.doubts_uplink();
        self.doubt.send_if_modified(|known| std::mem::replace(known, doubts) != doubts);
        if now.0 >= self.next_position && self.position > self.stored {
            self.next_position = now.0 + POSITION_MS;
            self.store_decided().await?;
        }
        self.store_pending().await?;
        if now.0 >= self.next_hurry {
            self.next_hurry = now.0 + 1000;
            self.hurry(now);
        }
        if now.0 >= self.next_known {
            self.next_known = now.0 + KNOWN_MS;
            self.learn(None, now).await?;
            self.publish();
        }
        if now.0 >= self.next_snapshot {
            self.save_state(now).await;
        }
        Ok(())
    }

    /// Asks the neighbours of failing servers for a batch each second, so that "healthy" is not ten
    /// seconds old; a while after the last incident they go back to their own pace.
    fn hurry(&mut self, now: UnixMillis) {
        for server in self.engine.neighbours(&self.config.group_labels, NEIGHBOURS_MAX) {
            self.hurried.insert(server, now.0 + HURRY_MS);
        }
        let live = &self.live;
        self.hurried.retain(|server, until| {
            let goes_on = now.0 < *until;
            // Who is not connected has its own pace, and is asked again when it is back.
            live.throttle(*server, goes_on.then_some(Duration::from_secs(1)));
            goes_on
        });
    }

    /// Folds all batches that are committed and not folded yet.
    async fn catch_up(&mut self) -> Result<(), StoreError> {
        loop {
            let after = self.position;
            let fresh = self.store.take_fresh(after, ROWS_MAX);
            if !fresh.is_empty() {
                for FreshRow { id, server, at, complete_until, opened, .. } in fresh {
                    let place = Place { id, server, at, complete_until };
                    self.fold_body(place, Some(&opened.body)).await?;
                }
                self.store_pending().await?;
                continue;
            }
            let rows = if after < self.store.last_committed() {
                let read = move |conn: &_| read::hot_after(conn, after, ROWS_MAX, ROWS_BYTES_MAX);
                self.store.read(read).await?
            } else {
                Vec::new()
            };
            if rows.is_empty() {
                // Batches before the stored decisions may have left the table already.
                self.position = self.position.max(self.decided);
                self.take_cases();
                return Ok(());
            }
            for row in rows {
                self.fold(&row).await?;
            }
            self.store_pending().await?;
        }
    }

    /// A batch that was read again.
    async fn fold(&mut self, row: &HotRow) -> Result<(), StoreError> {
        let HotRow { id, server, at, complete_until, .. } = *row;
        let body = opener::unpack(row.codec, &row.body).ok();
        self.fold_body(Place { id, server, at, complete_until }, body.as_ref()).await
    }

    /// An unreadable batch only moves the position.
    async fn fold_body(&mut self, row: Place, body: Option<&BatchBody>) -> Result<(), StoreError> {
        self.see_lag(row.at, clock::now());
        let known = self.sites.contains_key(&row.server);
        if !known {
            self.learn(Some(row.server), row.at).await?;
        }
        let (mut unpacked, missed) = self.convert(&row, body);
        // The rows of its sites were stored with the batch. What is not there now was refused: not
        // to be looked for again with each batch of a server that names too many.
        let refused = self.overfull.get(&row.server).is_some_and(|until| row.at.0 < *until);
        if missed && !refused {
            self.learn(Some(row.server), row.at).await?;
            let (again, still_missed) = self.convert(&row, body);
            unpacked = again;
            if still_missed {
                self.overfull.insert(row.server, row.at.0 + KNOWN_MS);
            }
        }
        self.store.stats().entries_refused.add(unpacked.n_refused);
        if unpacked.is_damaged {
            self.store.batch_damaged(row.id, Some(row.server));
        }
        let records = unpacked.records;
        // What the clock brought before this batch arrived comes first.
        let transitions = self.engine.advance(UnixMillis(row.at.0 - 1));
        if row.id > self.decided {
            self.pending.extend(transitions);
        }
        let news: Vec<&Record> = records.iter().filter(|record| self.is_news(record)).collect();
        let transitions = self.engine.fold_batch(row.at, news.into_iter());
        if row.id > self.decided {
            self.pending.extend(transitions);
        }
        self.position = row.id;
        if self.position >= self.decided {
            self.take_cases();
        }
        Ok(())
    }

    /// Records of a batch, and whether it names a site that is not in the cache.
    fn convert(&self, row: &Place, body: Option<&BatchBody>) -> (Unpacked, bool) {
        let Some(body) = body else { return (Unpacked::default(), false) };
        let cached = self.sites.get(&row.server);
        let mut missed = false;
        let unpacked = convert::records_of(row.server, body, row.complete_until, &mut |name| {
            let found = cached.and_then(|sites| sites.get(name)).cloned();
            missed |= found.is_none();
            found
        });
        (unpacked, missed)
    }

    /// False for a site told before with the same pool.
    fn is_news(&mut self, record: &Record) -> bool {
        let Record::Site { site, pool, upstream, .. } = record else { return true };
        let place = (pool.clone(), upstream.clone());
        let before = self.told.insert(*site, place.clone());
        before.is_none_or(|before| before != place)
    }

    /// Reads names, labels and sites: of one server, or of all.
    async fn learn(&mut self, only: Option<ServerId>, at: UnixMillis) -> Result<(), StoreError> {
        let known = self.store.read(move |conn| incidents::known(conn, only)).await?;
        if only.is_none() {
            let counts = known.iter().filter(|known| known.state != "revoked");
            self.engine.keep(&counts.map(|known| known.server).collect());
        }
        for Known { server, name, labels, meta, sites, .. } in known {
            let heartbeat = Duration::from_millis(meta.heartbeat_ms.unwrap_or(5000));
            let n_cpu = meta.n_cpu.unwrap_or(0);
            self.engine.fold(at, &Record::Server { server, name, labels, n_cpu, heartbeat });
            if let Some(ahead_ms) = meta.clock_offset_ms
                && !self.engine.knows_clock(server)
            {
                // Heartbeats are not stored: without the last offset the batches of a server whose
                // clock is ahead would be refused until its next one.
                let at_its_clock = UnixMillis(at.0.saturating_add(ahead_ms));
                self.engine.set_clock(server, at, at_its_clock);
            }
            let cache = self.sites.entry(server).or_default();
            let mut records = Vec::new();
            for row in sites {
                let (site, name) = (row.site, row.name.clone());
                let (pool, upstream) = (row.pool.clone(), row.upstream.clone());
                if cache.insert(name.clone(), row).is_none() {
                    let baseline = None;
                    records.push(Record::Site { site, server, name, pool, upstream, baseline });
                }
            }
            for record in records {
                if self.is_news(&record) {
                    self.engine.fold(at, &record);
                }
            }
        }
        Ok(())
    }

    /// The refolded batches have reached the stored decisions: from here on they count.
    fn take_cases(&mut self) {
        let Some(cases) = self.cases.take() else { return };
        if let Err(error) = self.engine.load_cases(&cases) {
            tracing::error!(%error, "the open incidents cannot be read; they may be told again");
        }
    }

    async fn store_pending(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() { Ok(()) } else { self.store_decided().await }
    }

    /// Stores what is decided, be it nothing, and how far that goes.
    async fn store_decided(&mut self) -> Result<(), StoreError> {
        if self.position < self.decided {
            return Ok(());
        }
        let transitions = self.pending.clone();
        let (cases, upto) = (pack(&self.engine.save_cases()), self.position);
        self.store.write(move |tx| incidents::commit(tx, &transitions, &cases, upto)).await?;
        self.stored = upto;
        for Transition { event, incident, .. } in self.pending.drain(..) {
            let name = format!("{event:?}").to_lowercase();
            tracing::info!(id = incident.id, event = name, title = incident.title, "incident");
        }
        Ok(())
    }

    /// Loads the saved engine, or begins anew.
    async fn start(&mut self, now: UnixMillis) -> Result<(), StoreError> {
        let saved = self.store.read(incidents::load).await?;
        let unpacked = saved.engine.as_ref().map(|engine| unpack(&engine.body));
        let loaded = unpacked.map(|body| {
            let body = body?;
            Engine::load(&body, &self.config).map_err(|error| error.to_string())
        });
        match (saved.engine, loaded) {
            (Some(memory), Some(Ok(engine))) => {
                self.engine = engine;
                self.position = memory.upto;
            }
            (_, Some(Err(reason))) => {
                tracing::warn!(
                    reason,
                    "the detector's snapshot is of no use; it starts from the last minutes"
                );
                let since = now.minus(Duration::from_millis(LOST_MS as u64));
                self.position =
                    self.store.read(move |conn| incidents::position_before(conn, since)).await?;
            }
            _ => {}
        }
        let fresh = self.engine.tick().is_none();
        self.learn(None, now).await?;
        if fresh {
            self.load_pasts().await?;
        }
        self.wake_up(fresh, now).await?;
        if let Some(cases) = saved.cases {
            match unpack(&cases.body) {
                Ok(body) => {
                    (self.decided, self.stored) = (cases.upto, cases.upto);
                    self.cases = Some(body);
                    if self.position >= self.decided {
                        self.take_cases();
                    }
                }
                Err(reason) => {
                    tracing::error!(
                        reason,
                        "the open incidents cannot be read; they may be told again"
                    );
                }
            }
        }
        self.refused = self.engine.refused();
        self.publish();
        self.next_snapshot = now.0 + SNAPSHOT_MS;
        self.next_known = now.0 + KNOWN_MS;
        self.next_past = now.0 + PAST_MS;
        Ok(())
    }

    /// Shows what the engine left out.
    fn publish(&mut self) {
        let (stats, refused) = (self.store.stats(), self.engine.refused());
        stats.records_misdated.add(refused.n_misdated - self.refused.n_misdated);
        stats.records_homeless.add(refused.n_unknown - self.refused.n_unknown);
        stats.sites_refused.add(refused.n_sites - self.refused.n_sites);
        if refused.n_crowded_max > self.refused.n_crowded_max {
            tracing::warn!(
                n_left_out = refused.n_crowded_max,
                n_max = PARTS_MAX,
                "so many sites and pools of one server fail, each for itself, that not all open an incident"
            );
        }
        self.refused = refused;
        for (server, n_records) in self.engine.misdated() {
            if self.misdated.insert(server.to_owned()) {
                tracing::warn!(
                    server,
                    n_records,
                    "records of a server are not used: more than five minutes ahead, or older than 28 days; set its clock, e.g. with chrony"
                );
            }
        }
        let n_left_out = self.engine.n_groups_left_out();
        if n_left_out > self.n_left_out {
            tracing::warn!(n_left_out, "label values are too many or too long to make groups");
        }
        self.n_left_out = n_left_out;
        let owned = |(server, site): (&str, &str)| (server.to_owned(), site.to_owned());
        stats.chronic.set(self.engine.chronic().into_iter().map(owned).collect());
    }

    async fn load_pasts(&mut self) -> Result<(), StoreError> {
        for (site, body) in self.store.read(incidents::load_baselines).await? {
            match serde_json::from_slice::<Past>(&body) {
                Ok(past) => self.engine.set_past(site, past),
                Err(error) => tracing::warn!(site = site.0, %error, "a site's past is unreadable"),
            }
        }
        Ok(())
    }

    /// Saves the engine and, each hour, the pasts. Undecided or unstored work stays out of it.
    async fn save_state(&mut self, now: UnixMillis) {
        if !self.pending.is_empty() || self.position < self.decided {
            return;
        }
        self.next_snapshot = now.0 + SNAPSHOT_MS;
        let (body, upto) = (pack(&self.engine.save()), self.position);
        let saved = self.store.write(move |tx| incidents::save_snapshot(tx, upto, &body)).await;
        if let Err(error) = saved {
            tracing::warn!(error = %errors::chain(&error), "the detector's snapshot is not saved");
        }
        if now.0 < self.next_past {
            return;
        }
        self.next_past = now.0 + PAST_MS;
        let pasts: Vec<(SiteId, Vec<u8>)> = self
            .engine
            .pasts()
            .filter_map(|(site, past)| Some((site, serde_json::to_vec(past).ok()?)))
            .collect();
        for rows in pasts.chunks(PAST_ROWS_MAX) {
            let rows = rows.to_vec();
            let saved = self.store.write(move |tx| incidents::save_baselines(tx, &rows)).await;
            if let Err(error) = saved {
                tracing::warn!(error = %errors::chain(&error), "pasts of sites are not saved");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use wire::v1;

    use super::*;
    use crate::config::NotifyConfig;
    use crate::store::{Ledger, NewBatch, SiteSeen};

    const NOON: i64 = 1_795_176_000_000;
    const SITES: usize = 12;
    /// The pool fails in these quarters of a second, and the play ends at the last one.
    const FAILS: std::ops::Range<i64> = 20..60;
    const END: i64 = 200;

    fn config() -> Config {
        let notify = |min_severity: &str| NotifyConfig {
            kind: "webhook".into(),
            url: Some("http://127.0.0.1:9/".into()),
            min_severity: min_severity.into(),
            ..NotifyConfig::default()
        };
        let notify = vec![notify("warning"), notify("critical")];
        Config { notify, ..Config::default() }
    }

    /// What one server sends in one quarter of a second: two requests of every site.
    fn batch(quarter: i64) -> NewBatch {
        let at = NOON + quarter * 250;
        let second = at.div_euclid(1000);
        let status = if FAILS.contains(&quarter) { 502 } else { 200 };
        let name = |ix: usize| format!("shop{ix:02}.example");
        let ix = 0..SITES as u32;
        let exemplar = |site: u32, n: u64| v1::Exemplar {
            site,
            at_unix_ms: second * 1000,
            status: 502,
            signal: v1::Signal::ConnectRefused.into(),
            client_hash: 1 + quarter as u64 * 100 + u64::from(site) * 2 + n,
            message: Some("connect() failed (111: Connection refused)".into()),
            ..v1::Exemplar::default()
        };
        let site = |ix| v1::Site { name: name(ix), pool: "www".into(), ..v1::Site::default() };
        let count = |site| v1::SiteSecond { site, second, status: vec![status], count: vec![2] };
        let failed = ix.clone().filter(|_| status == 502);
        let body = v1::BatchBody {
            sites: (0..SITES).map(site).collect(),
            seconds: ix.map(count).collect(),
            exemplars: failed.flat_map(|site| [exemplar(site, 0), exemplar(site, 1)]).collect(),
            ..v1::BatchBody::default()
        };
        let seen =
            |ix| SiteSeen { name: name(ix), pool: Some("www".into()), upstream: None, owner: None };
        NewBatch {
            server: ServerId(1),
            epoch: 1,
            seq: quarter as u64 + 1,
            n_evicted: 0,
            n_lines_evicted: 0,
            n_bytes_evicted: 0,
            at: UnixMillis(at + 260),
            t_min: UnixMillis(at),
            t_max: UnixMillis(at),
            complete_until: UnixMillis(at),
            urgent: true,
            codec: 1,
            body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
            sites: (0..SITES).map(seen).collect(),
            losses: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    /// What everybody can see in the end.
    #[derive(Debug, PartialEq)]
    struct Seen {
        incidents: Vec<(String, String, u64, u64, u64)>,
        owed: Vec<(String, String)>,
        n_sites: i64,
    }

    async fn seen(store: &Store) -> Seen {
        store
            .read(|conn| {
                let all = incidents::Filter { merged: true, ..incidents::Filter::default() };
                let incident = |i: crate::model::Incident| {
                    (i.id, i.state, i.affected.n_sites, i.affected.n_502, i.affected.n_servers)
                };
                let incidents = incidents::list(conn, &all)?.into_iter().map(incident).collect();
                let mut owed = conn.prepare("SELECT incident, event FROM page ORDER BY id")?;
                let owed = owed.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                let owed = owed.collect::<rusqlite::Result<_>>()?;
                let n_sites = "SELECT count(*) FROM incident_site WHERE until IS NOT NULL";
                let n_sites = conn.query_row(n_sites, [], |row| row.get(0))?;
                Ok(Seen { incidents, owed, n_sites })
            })
            .await
            .unwrap()
    }

    /// Plays the outage; the detective dies without a word before each of these quarters.
    async fn play(crashes: &[i64]) -> Seen {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        let config = config();
        let mut detective = Detective::new(store.clone(), &config, Live::default());
        detective.start(UnixMillis(NOON)).await.unwrap();
        detective.next_snapshot = NOON + 8_000;
        for quarter in 0..END {
            let now = UnixMillis(NOON + quarter * 250 + 300);
            if crashes.contains(&quarter) {
                detective = Detective::new(store.clone(), &config, Live::default());
                detective.start(now).await.unwrap();
            }
            store.append(batch(quarter)).await.unwrap().await.unwrap().unwrap();
            detective.try_work(Some(now)).await.unwrap();
        }
        let seen = seen(&store).await;
        store.close().await.unwrap();
        seen
    }

    #[tokio::test]
    async fn a_crash_at_any_moment_makes_no_twin_and_tells_nobody_twice() {
        let whole = play(&[]).await;
        assert_eq!(whole.incidents.len(), 1, "{whole:?}");
        let (_, state, n_sites, n_502, n_servers) = &whole.incidents[0];
        let n = (FAILS.end - FAILS.start) as u64 * SITES as u64 * 2;
        assert_eq!((state.as_str(), *n_sites, *n_502, *n_servers), ("resolved", 12, n, 1));
        let told: Vec<_> = whole.owed.iter().map(|(_, event)| &**event).collect();
        assert_eq!(told, ["opened", "resolved"]);
        assert_eq!(whole.n_sites, 12);
        for crashes in [&[23, 24, 25][..], &[26, 27, 28], &[33, 58, 61], &[40, 141, 160], &[199]] {
            assert_eq!(play(crashes).await, whole, "crashes at {crashes:?}");
        }
    }

    /// Plays the outage while the clock is an hour ahead until this quarter, and right from then on.
    async fn play_set_back(
        right_from: i64,
    ) -> (Vec<crate::model::Incident>, Vec<(String, String)>) {
        let ahead = |quarter: i64| if quarter < right_from { 3_600_000 } else { 0 };
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        detective.start(UnixMillis(NOON + ahead(0))).await.unwrap();
        for quarter in 0..END {
            let clock = |at: i64| UnixMillis(at + ahead(quarter));
            let now = clock(NOON + quarter * 250 + 300);
            if quarter % 4 == 0 {
                let clock = UnixMillis(NOON + quarter * 250 + 300);
                let at = UnixMillis(0);
                let beat = Record::Heartbeat { server: ServerId(1), at, clock };
                detective.take_word(now, &beat);
            }
            let batch = batch(quarter);
            let batch = NewBatch { at: clock(batch.at.0), ..batch };
            store.append(batch).await.unwrap().await.unwrap().unwrap();
            detective.try_work(Some(now)).await.unwrap();
        }
        let all = incidents::Filter { merged: true, ..incidents::Filter::default() };
        let found = store.read(move |conn| incidents::list(conn, &all)).await.unwrap();
        let owed = seen(&store).await.owed;
        store.close().await.unwrap();
        (found, owed)
    }

    #[tokio::test]
    async fn a_clock_that_is_set_back_does_not_stop_detection_until_that_time_comes_again() {
        let (found, owed) = play_set_back(12).await;
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!((found[0].state.as_str(), found[0].affected.n_sites), ("resolved", 12));
        let owed: Vec<&str> = owed.iter().map(|(_, event)| event.as_str()).collect();
        assert_eq!(owed, ["opened", "resolved"]);
    }

    #[tokio::test]
    async fn what_is_open_while_the_clock_is_set_back_is_closed_and_opens_anew_if_it_fails_on() {
        let (mut found, _) = play_set_back(40).await;
        found.sort_by_key(|incident| incident.started_at);
        let [anew, before] = &found[..] else { panic!("{found:#?}") };
        assert!(before.started_at.0 >= NOON + 3_600_000, "{before:#?}");
        let why = "resolved unverified: the clock of the collector was set back";
        assert!(before.timeline.iter().any(|moment| moment.what == why), "{before:#?}");
        assert_eq!((before.state.as_str(), anew.state.as_str()), ("resolved", "resolved"));
        assert!(anew.resolved_at.unwrap().0 < NOON + 60_000, "{anew:#?}");
    }

    #[tokio::test]
    async fn an_export_of_what_was_stored_replays_to_the_incidents_that_were_told_live() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 2).await;
        let meta = r#"UPDATE server SET meta = '{"clock_offset_ms":7200000}' WHERE server_id = 2"#;
        store.write(|tx| tx.execute(meta, [])).await.unwrap();
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        detective.start(UnixMillis(NOON)).await.unwrap();
        for quarter in 0..END {
            // The second server's clock is two hours ahead, and it fails ten seconds later.
            let (arrived, later) = (batch(quarter).at, batch((quarter - 40).max(0)));
            let ahead = |mut batch: NewBatch| {
                (batch.server, batch.seq) = (ServerId(2), quarter as u64 + 1);
                let shift = arrived.0 - batch.at.0 + 7_200_000;
                let mut body = convert::unpack(batch.codec, &batch.body).unwrap();
                body.seconds.iter_mut().for_each(|s| s.second += shift.div_euclid(1000));
                body.exemplars.iter_mut().for_each(|e| e.at_unix_ms += shift);
                batch.body = zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap();
                batch.complete_until = UnixMillis(batch.complete_until.0 + shift);
                batch.at = arrived;
                batch
            };
            for batch in [batch(quarter), ahead(later)] {
                store.append(batch).await.unwrap().await.unwrap().unwrap();
            }
            let now = UnixMillis(NOON + quarter * 250 + 300);
            detective.try_work(Some(now)).await.unwrap();
        }
        let all = incidents::Filter { merged: true, ..incidents::Filter::default() };
        let live = store.read(move |conn| incidents::list(conn, &all)).await.unwrap();
        assert!(live.len() >= 2, "{live:#?}");
        let told = |incidents: &mut dyn Iterator<Item = &crate::model::Incident>| {
            let one = |i: &crate::model::Incident| {
                let (id, scope, state) = (i.id.clone(), i.scope.clone(), i.state.clone());
                (id, scope, state, i.affected.n_502, i.cause.class.clone())
            };
            incidents.map(one).collect::<std::collections::BTreeSet<_>>()
        };
        let (from, to) = (UnixMillis(NOON), UnixMillis(NOON + END * 250 + 1000));
        for is_packed in [false, true] {
            let stream = crate::web::export::whole(store.clone(), from, to, is_packed).await;
            let (mut out, mut talk) = (Vec::new(), Vec::new());
            let options =
                crate::replay::Options { only_final: true, ..crate::replay::Options::default() };
            let detect = crate::config::DetectConfig::default();
            let mut replay = crate::replay::Replay::new(&detect, options, &mut out, &mut talk);
            let lines = crate::replay::input::unpacked(Box::new(std::io::Cursor::new(stream)));
            replay.read("export", lines.unwrap()).unwrap();
            let outcome = replay.end().unwrap();
            assert_eq!(outcome.skipped, crate::replay::report::Skipped::default());
            let replayed: Vec<crate::model::Incident> = String::from_utf8(out)
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
                .map(|line| serde_json::from_value(line["incident"].clone()).unwrap())
                .collect();
            assert_eq!(told(&mut replayed.iter()), told(&mut live.iter()));
        }
        let none =
            crate::web::export::whole(store.clone(), from, UnixMillis(NOON + 1), false).await;
        let none = String::from_utf8(none).unwrap();
        assert!(!none.contains("requests") && none.starts_with(r#"{"type":"header""#), "{none}");
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn the_last_failures_are_counted_also_when_nothing_follows_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        detective.start(UnixMillis(NOON)).await.unwrap();
        // The server falls silent after its last failure; 11 s later the clock alone has told it.
        for quarter in 0..FAILS.end + 44 {
            if quarter < FAILS.end {
                store.append(batch(quarter)).await.unwrap().await.unwrap().unwrap();
            }
            let now = UnixMillis(NOON + quarter * 250 + 300);
            detective.try_work(Some(now)).await.unwrap();
        }
        let seen = seen(&store).await;
        let [(_, state, _, n_502, _)] = &seen.incidents[..] else { panic!("{seen:?}") };
        assert_ne!(state, "resolved");
        assert_eq!(*n_502, (FAILS.end - FAILS.start) as u64 * SITES as u64 * 2);
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn the_position_is_stored_also_while_nothing_happens() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        detective.start(UnixMillis(NOON)).await.unwrap();
        for quarter in 0..=8 {
            store.append(batch(quarter)).await.unwrap().await.unwrap().unwrap();
            detective.try_work(Some(UnixMillis(NOON + quarter * 250 + 300))).await.unwrap();
            let upto = "SELECT v FROM state WHERE k = 'detect_upto'";
            let upto =
                move |conn: &rusqlite::Connection| conn.query_row(upto, [], |row| row.get(0));
            let upto: i64 = store.read(upto).await.unwrap();
            assert_eq!(upto, quarter / 4 * 4 + 1, "at most one commit a second");
        }
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_clock_a_day_ahead_is_known_also_after_a_restart_without_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        let meta = r#"UPDATE server SET meta = '{"clock_offset_ms":86400000}'"#;
        store.write(|tx| tx.execute(meta, [])).await.unwrap();
        for quarter in 0..FAILS.end {
            let arrived = UnixMillis(batch(quarter).at.0 - 86_400_000);
            let late = NewBatch { at: arrived, ..batch(quarter) };
            store.append(late).await.unwrap().await.unwrap().unwrap();
        }
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        let now = UnixMillis(NOON - 86_400_000 + FAILS.end * 250 + 300);
        detective.start(now).await.unwrap();
        detective.try_work(Some(now)).await.unwrap();
        assert_eq!(detective.engine.refused().n_misdated, 0);
        let seen = seen(&store).await;
        assert_eq!(seen.incidents.len(), 1, "{seen:?}");
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn neighbours_hurry_for_two_minutes_and_then_go_back_to_their_own_pace() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for n in [1, 2] {
            crate::store::tests::enrol(&store, n).await;
        }
        let label = |tx: &rusqlite::Transaction<'_>| {
            let labels = BTreeMap::from([("rack".to_owned(), "r1".to_owned())]);
            for n in [1, 2] {
                let source = crate::store::fleet::LabelSource::Token;
                crate::store::fleet::set_labels(tx, ServerId(n), source, &labels)?;
            }
            Ok(())
        };
        store.write(label).await.unwrap();
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        detective.start(UnixMillis(NOON)).await.unwrap();
        let mut seen = Vec::new();
        for quarter in 0..END + 480 {
            let now = UnixMillis(NOON + quarter * 250 + 300);
            if quarter < END {
                store.append(batch(quarter)).await.unwrap().await.unwrap().unwrap();
            }
            detective.try_work(Some(now)).await.unwrap();
            let hurried: Vec<i64> = detective.hurried.keys().map(|server| server.0).collect();
            if seen.last().is_none_or(|(_, before)| *before != hurried) {
                seen.push((quarter, hurried));
            }
        }
        let hurried: Vec<_> = seen.iter().map(|(_, hurried)| hurried.clone()).collect();
        assert_eq!(hurried, [vec![], vec![2], vec![]], "{seen:?}");
        assert!(seen[2].0 - seen[1].0 >= 480, "{seen:?}");
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_snapshot_of_another_format_is_told_and_does_not_stop_the_detector() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        store.write(|tx| incidents::save_snapshot(tx, 7, b"\x63nonsense")).await.unwrap();
        let mut detective = Detective::new(store.clone(), &config(), Live::default());
        let now = UnixMillis(NOON + 300);
        detective.start(now).await.unwrap();
        store.append(batch(0)).await.unwrap().await.unwrap().unwrap();
        detective.try_work(Some(now)).await.unwrap();
        assert_eq!(detective.position, 1);
        detective.save_state(now).await;
        let saved = store.read(incidents::load).await.unwrap().engine.expect("it is saved");
        assert_eq!(saved.upto, 1);
        assert!(Engine::load(&unpack(&saved.body).unwrap(), &detective.config).is_ok());
        store.close().await.unwrap();
    }
}
