//! What a message cannot hold because only the store knows it: the chart, and what changed back.
//!
//! Bounded in time and servers. What cannot be read in time is left out: a page waits for nothing. One
//! message is read at a time whatever the number of routes, so that detection and commands find
//! connections of the store; what was read is shared by the routes that are told of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use wire::UnixMillis;

use super::chart::Chart;
use super::comeback::{self, Fact, Known, What};
use super::message::{Event, Message};
use crate::model::{Incident, Record, ServerId, SiteId};
use crate::store::evidence::{self, Ahead, Onset};
use crate::store::history::{self, History, Piece, Samples};
use crate::store::{Conn, ReadResult, SiteRow, Store, StoreError, fleet, read};
use crate::{clock, errors};

/// Time before the start that the chart shows, and the most it shows in all.
const BEFORE: Duration = Duration::from_secs(600);
const SPAN_MAX: Duration = Duration::from_secs(6 * 3600);
/// Time before the last sign of an incident in which it is looked for what ended it.
const END_SPAN: Duration = Duration::from_secs(20 * 60);
/// Batches may arrive so much later than what they tell.
const LATE: Duration = Duration::from_secs(120);
/// How long the end, and all, is read.
const END_READ_MAX: Duration = Duration::from_secs(1);
const READ_MAX: Duration = Duration::from_secs(2);
/// What a page waits for, its turn included.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Servers and batches looked at.
const SERVERS_MAX: usize = 100;
const ROWS_MAX: usize = 50_000;
/// What happened and how many requests failed is told, not how busy the server was.
const NO_SAMPLES: Samples = Samples::Of(&[]);
/// Facts kept, the newest.
const FACTS_MAX: usize = 2000;
/// Contexts kept for further routes, the newest.
const KEPT_MAX: usize = 64;

/// What the store knows about a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Requests around it.
    pub chart: Option<Chart>,
    /// What changed back before it was over, in words; only of a resolution.
    pub changed_back: Option<String>,
}

/// What is told of the same incident at the same time is the same.
type Key = (String, Event, UnixMillis);
type Kept = VecDeque<(Key, Arc<Context>)>;

/// Reads contexts, one after the other; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Library {
    store: Store,
    turns: Arc<Semaphore>,
    kept: Arc<Mutex<Kept>>,
    #[cfg(test)]
    on_read: Arc<dyn Fn() + Send + Sync>,
}

impl Library {
    /// One for all routes.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            turns: Arc::new(Semaphore::new(1)),
            kept: Arc::default(),
            #[cfg(test)]
            on_read: Arc::new(|| ()),
        }
    }

    /// The context of a message; never fails, and never takes more than 3 s.
    pub async fn gather(&self, message: &Message) -> Arc<Context> {
        let Some(incident) = message.incident.clone() else { return Arc::default() };
        if matches!(message.event, Event::Digest | Event::Report | Event::Test) {
            return Arc::default();
        }
        let id = incident.id.clone();
        let key = (id.clone(), message.event, message.at);
        match tokio::time::timeout(WAIT_MAX, self.find(key, incident)).await {
            Ok(Ok(context)) => context,
            Ok(Err(error)) => {
                let error = errors::chain(&error);
                tracing::debug!(incident = id, error, "a page goes without its chart");
                Arc::default()
            }
            Err(_) => {
                tracing::debug!(incident = id, "a page goes without its chart: it took too long");
                Arc::default()
            }
        }
    }

    async fn find(&self, key: Key, incident: Incident) -> Result<Arc<Context>, StoreError> {
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| StoreError::Closed)?;
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        let library = self.clone();
        let read = move |history: &History<'_>| {
            #[cfg(test)]
            (library.on_read)();
            let started = clock::instant();
            let limits = Limits {
                n_rows_max: ROWS_MAX,
                end_is_over: &|| started.elapsed() > END_READ_MAX,
                is_over: &|| started.elapsed() > READ_MAX,
            };
            let context = look(history, &incident, key.2, key.1 == Event::Resolved, &limits)?;
            let context = Arc::new(context);
            library.keep(key, &context);
            // Not before: who does not wait any more leaves a reading that goes on.
            drop(turn);
            Ok(context)
        };
        Ok(self.store.history(history::Limits::within(READ_MAX), read).await?.value)
    }

    fn known(&self, key: &Key) -> Option<Arc<Context>> {
        let kept = self.kept();
        let found = kept.iter().find(|(of, _)| of == key);
        found.map(|(_, context)| Arc::clone(context))
    }

    fn keep(&self, key: Key, context: &Arc<Context>) {
        let mut kept = self.kept();
        kept.push_back((key, Arc::clone(context)));
        if kept.len() > KEPT_MAX {
            kept.pop_front();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much may be read.
struct Limits<'a> {
    n_rows_max: usize,
    end_is_over: &'a dyn Fn() -> bool,
    is_over: &'a dyn Fn() -> bool,
}

/// Without a chart when not all of it could be read: half a chart would lie.
fn look(
    history: &History<'_>,
    incident: &Incident,
    now: UnixMillis,
    is_end: bool,
    limits: &Limits<'_>,
) -> ReadResult<Context> {
    let mut ids = vec![incident.id.clone()];
    ids.extend(incident.children.iter().cloned());
    let conn = history.conn();
    let onsets = evidence::onsets(conn, &ids)?;
    let hit = Hit::new(conn, &ids, &onsets, now)?;
    let end = incident.resolved_at.unwrap_or(now);
    let ending =
        if is_end { Some(ending(history, &hit, &onsets, end, now, limits)?) } else { None };
    let from = incident.started_at.minus(BEFORE);
    let to = end.min(from.plus(SPAN_MAX));
    let mut course = Look::new(&hit, from, to);
    let until = to.plus(LATE).min(now.max(to));
    let is_whole = onsets.len() <= SERVERS_MAX
        && evidence::arrived(
            history,
            &hit.servers,
            (from, until),
            NO_SAMPLES,
            limits.n_rows_max,
            limits.is_over,
            &mut |piece| {
                course.take_all(&piece);
                true
            },
        )?
        .is_none()
        && !history.has_holes();
    let changed_back = ending.and_then(|(ending, is_all)| {
        let is_partial = !(is_whole && is_all && to >= ending.from);
        let earlier = course.facts.iter().filter(|fact| !is_partial && fact.at < ending.from);
        let facts: Vec<Fact> = earlier.chain(&ending.facts).cloned().collect();
        let talks = onsets.iter().filter_map(|onset| Some((onset.name.clone(), onset.until?)));
        comeback::words(&Known {
            incident,
            facts: &facts,
            last_failed: ending.last_failed,
            well_again: talks.collect(),
            n_servers: onsets.len(),
            is_partial,
            now,
        })
    });
    let chart = Some(course.chart).filter(|chart| is_whole && !chart.is_empty());
    Ok(Context { chart, changed_back })
}

/// The last minutes before an incident was over at `end`, read from there backwards, and whether
/// nothing of them is missing.
fn ending<'a>(
    history: &History<'_>,
    hit: &'a Hit,
    onsets: &[Onset],
    end: UnixMillis,
    now: UnixMillis,
    limits: &Limits<'_>,
) -> ReadResult<(Look<'a>, bool)> {
    let signs = onsets.iter().map(|onset| onset.until.unwrap_or(end).min(end));
    let from = signs.max().unwrap_or(end).minus(END_SPAN);
    let mut look = Look::new(hit, from, end);
    let until = end.plus(LATE).min(now.max(end));
    let mut is_full = false;
    let see = &mut |piece: Piece| {
        // What is older than the facts that are kept must not push them out.
        is_full |= look.facts.len() >= FACTS_MAX;
        if !is_full {
            look.take_all(&piece);
        }
    };
    let span = (from, until);
    let (n_max, is_over) = (limits.n_rows_max, limits.end_is_over);
    let servers = &hit.servers;
    let is_all = evidence::arrived_last(history, servers, span, NO_SAMPLES, n_max, is_over, see)?;
    Ok((look, is_all && !is_full && onsets.len() <= SERVERS_MAX))
}

/// The servers that were hit, those that failed last when there are many.
struct Hit {
    servers: Ahead,
    names: BTreeMap<ServerId, String>,
    /// Failing sites; none known: all count.
    failing: BTreeSet<SiteId>,
    sites: BTreeMap<ServerId, BTreeMap<String, SiteRow>>,
}

impl Hit {
    fn new(conn: &Conn, ids: &[String], onsets: &[Onset], now: UnixMillis) -> ReadResult<Self> {
        let mut last: Vec<&Onset> = onsets.iter().collect();
        // One that is not well yet failed last.
        last.sort_by_key(|onset| std::cmp::Reverse(onset.until.map_or(i64::MAX, |until| until.0)));
        last.truncate(SERVERS_MAX);
        let mut sites = BTreeMap::new();
        for onset in &last {
            let rows = read::sites(conn, onset.server)?;
            let by_name: BTreeMap<_, _> =
                rows.into_iter().map(|row| (row.name.clone(), row)).collect();
            sites.insert(onset.server, by_name);
        }
        Ok(Self {
            servers: ahead(conn, &last, now)?,
            names: last.iter().map(|onset| (onset.server, onset.name.clone())).collect(),
            failing: evidence::sites(conn, ids)?,
            sites,
        })
    }

    /// An instant of a server's clock on the collector's.
    fn corrected(&self, server: ServerId, at: UnixMillis) -> UnixMillis {
        let offset = self.servers.get(&server).copied().unwrap_or(0);
        UnixMillis(at.0.saturating_sub(offset))
    }
}

/// How far the clock of each server is ahead, ms.
fn ahead(conn: &Conn, onsets: &[&Onset], now: UnixMillis) -> ReadResult<Ahead> {
    let views = fleet::list(conn, now)?;
    let offset = |name: &str| {
        let view = views.iter().find(|view| view.server == name);
        view.and_then(|view| view.clock_offset_ms).unwrap_or(0)
    };
    Ok(onsets.iter().map(|onset| (onset.server, offset(&onset.name))).collect())
}

/// What has been read so far.
struct Look<'a> {
    hit: &'a Hit,
    from: UnixMillis,
    to: UnixMillis,
    chart: Chart,
    facts: Vec<Fact>,
    last_failed: Option<UnixMillis>,
}

impl<'a> Look<'a> {
    fn new(hit: &'a Hit, from: UnixMillis, to: UnixMillis) -> Self {
        let (chart, facts, last_failed) = (Chart::new(from, to), Vec::new(), None);
        Self { hit, from, to, chart, facts, last_failed }
    }

    fn take_all(&mut self, piece: &Piece) {
        let known = self.hit.sites.get(&piece.server);
        let mut site_of = |name: &str| known.and_then(|rows| rows.get(name)).cloned();
        for record in piece.records(&mut site_of) {
            self.take(piece.server, &record);
        }
    }

    fn take(&mut self, server: ServerId, record: &Record) {
        match record {
            Record::Requests { site, at, counts } => {
                if !self.hit.failing.is_empty() && !self.hit.failing.contains(site) {
                    return;
                }
                let at = self.hit.corrected(server, *at);
                let n_failed =
                    [counts.n_502, counts.n_503, counts.n_504].into_iter().map(u64::from).sum();
                self.chart.add(at, u64::from(counts.n), n_failed);
                if n_failed > 0 && at <= self.to {
                    self.last_failed = self.last_failed.max(Some(at));
                }
            }
            Record::Service { at, unit, state, .. } => {
                let what = What::Service { unit: unit.clone(), state: state.clone() };
                self.note(server, *at, what);
            }
            Record::Change { at, kind, what, .. } => {
                let what = What::Change { kind: kind.clone(), text: what.clone() };
                self.note(server, *at, what);
            }
            _ => {}
        }
    }

    fn note(&mut self, server: ServerId, at: UnixMillis, what: What) {
        let at = self.hit.corrected(server, at);
        let Some(name) = self.hit.names.get(&server) else { return };
        if at < self.from {
            return;
        }
        if self.facts.len() == FACTS_MAX {
            self.facts.remove(0);
        }
        self.facts.push(Fact { server: name.clone(), at, what });
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prost::Message as _;
    use wire::v1;

    use super::*;
    use crate::model::{Transition, TransitionEvent};
    use crate::samples::{START, incident};
    use crate::store::{Ledger, NewBatch, SiteSeen, incidents};

    fn at(s: i64) -> UnixMillis {
        UnixMillis(START.0 + s * 1000)
    }

    /// Requests of one second: site, all, failed.
    type Second = (u32, u32, u32);

    fn batch(server: i64, seq: u64, s: i64, seconds: &[Second], state: Option<&str>) -> NewBatch {
        let names = ["a.example", "healthy.example"];
        let second = |(site, n, failed): &Second| v1::SiteSecond {
            site: *site,
            second: at(s).second(),
            status: vec![200, 502],
            count: vec![n - failed, *failed],
        };
        let service = |state: &str| v1::ServiceState {
            unit: "php8.2-fpm.service".into(),
            state: state.into(),
            at_unix_ms: at(s).0,
            ..v1::ServiceState::default()
        };
        let site = |name: &str| v1::Site { name: name.into(), ..v1::Site::default() };
        let body = v1::BatchBody {
            sites: names.map(site).to_vec(),
            seconds: seconds.iter().map(second).collect(),
            services: state.map(service).into_iter().collect(),
            ..v1::BatchBody::default()
        };
        let seen =
            |name: &str| SiteSeen { name: name.into(), pool: None, upstream: None, owner: None };
        NewBatch {
            server: ServerId(server),
            epoch: 1,
            seq,
            n_evicted: 0,
            n_lines_evicted: 0,
            n_bytes_evicted: 0,
            at: at(s + 1),
            t_min: at(s),
            t_max: at(s),
            complete_until: at(s),
            urgent: false,
            codec: 1,
            body: zstd::bulk::compress(&body.encode_to_vec(), 3).unwrap(),
            sites: names.map(seen).to_vec(),
            losses: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    type Row<'a> = (i64, i64, &'a [Second], Option<&'a str>);

    async fn send(store: &Store, rows: &[Row<'_>]) {
        let mut seqs: BTreeMap<i64, u64> = BTreeMap::new();
        for (server, s, seconds, state) in rows {
            let seq = seqs.entry(*server).or_default();
            *seq += 1;
            let stored = store.append(batch(*server, *seq, *s, seconds, *state)).await.unwrap();
            stored.await.unwrap().unwrap();
        }
    }

    /// The sample incident, of the first site of the first server, failing last at `last` and over half
    /// a minute later.
    async fn resolve(store: &Store, last: i64) -> Incident {
        let site = store.read(|conn| read::sites(conn, ServerId(1))).await.unwrap()[0].site;
        let incident = Incident { resolved_at: Some(at(last + 30)), ..incident() };
        let transition = Transition {
            event: TransitionEvent::Resolve,
            at: at(last + 30),
            key: "gateway_errors:server:web-07".into(),
            rev: 1,
            incident: incident.clone(),
            sites: vec![(site, at(0), Some(at(last)))],
            servers: Vec::new(),
            notify: None,
        };
        store.write(move |tx| incidents::commit(tx, &[transition], b"", 0)).await.unwrap();
        incident
    }

    /// Two servers, of which the first fails from 0 to 60 s with one of its sites.
    pub(in crate::notify) async fn store(dir: &tempfile::TempDir) -> (Store, Incident) {
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 2).await;
        let rows: [Row<'_>; 6] = [
            (1, -100, &[(0, 10, 0), (1, 7, 0)], Some("active")),
            (2, -100, &[(0, 500, 0)], None),
            (1, 0, &[(0, 10, 10), (1, 7, 0)], Some("failed")),
            (2, 30, &[(0, 500, 1)], None),
            (1, 60, &[(0, 10, 5)], Some("active")),
            (1, 70, &[(0, 10, 0)], None),
        ];
        send(&store, &rows).await;
        let incident = resolve(&store, 60).await;
        (store, incident)
    }

    pub(in crate::notify) fn told(event: Event, incident: Option<Incident>) -> Message {
        Message {
            event,
            delivery: "D".into(),
            at: at(91),
            reason: String::new(),
            incident,
            before: None,
            changed_back: None,
            digest: Vec::new(),
            report: None,
        }
    }

    #[tokio::test]
    async fn the_chart_counts_the_failing_sites_and_the_service_that_came_back_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (store, incident) = store(&dir).await;
        let library = Library::new(store);
        let context = library.gather(&told(Event::Resolved, Some(incident.clone()))).await;
        let words = context.chart.as_ref().unwrap().words();
        assert_eq!(words, "At worst 10 of 10 requests failed in 15 s");
        let back = "php8.2-fpm.service active again at 12:02:07, with the last failure";
        assert_eq!(context.changed_back.as_deref(), Some(back));
        let open = Incident { resolved_at: None, ..incident };
        let context = library.gather(&told(Event::Opened, Some(open))).await;
        assert!(context.chart.is_some() && context.changed_back.is_none(), "it is not over");
    }

    #[tokio::test]
    async fn what_is_not_about_one_incident_or_not_known_has_no_context() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut incident) = store(&dir).await;
        let library = Library::new(store);
        let nothing = Arc::new(Context::default());
        for event in [Event::Digest, Event::Test, Event::Opened] {
            assert_eq!(library.gather(&told(event, None)).await, nothing);
        }
        let test = told(Event::Test, Some(incident.clone()));
        assert_eq!(library.gather(&test).await, nothing);
        incident.id = "01JUNKNOWN".into();
        assert_eq!(library.gather(&told(Event::Opened, Some(incident))).await, nothing);
    }

    async fn looked(store: &Store, incident: &Incident, n_rows_max: usize, s: i64) -> Context {
        let incident = incident.clone();
        let read = store.history(history::Limits::default(), move |history| {
            let no: &dyn Fn() -> bool = &|| false;
            let limits = Limits { n_rows_max, end_is_over: no, is_over: no };
            look(history, &incident, at(s), true, &limits)
        });
        read.await.unwrap().value
    }

    #[tokio::test]
    async fn half_a_chart_is_none_and_what_changed_back_is_told_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (store, incident) = store(&dir).await;
        let whole = looked(&store, &incident, 99, 91).await;
        let back = "php8.2-fpm.service active again at 12:02:07, with the last failure";
        assert_eq!(whole.changed_back.as_deref(), Some(back));
        assert!(whole.chart.is_some());
        let half = looked(&store, &incident, 2, 91).await;
        assert_eq!(
            half,
            Context { chart: None, ..whole },
            "the batch that says it failed is cut off"
        );
        let no_time = store.history(history::Limits::default(), move |history| {
            let over: &dyn Fn() -> bool = &|| true;
            let limits = Limits { n_rows_max: 99, end_is_over: over, is_over: over };
            look(history, &incident, at(91), true, &limits)
        });
        assert_eq!(no_time.await.unwrap().value, Context::default());
    }

    #[tokio::test]
    async fn of_a_long_incident_what_ended_it_is_told_and_not_a_vain_restart_before() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 1).await;
        let hour = 3600;
        let rows: [Row<'_>; 8] = [
            (1, -100, &[(0, 10, 0)], Some("active")),
            (1, 0, &[(0, 10, 10)], None),
            (1, 5 * hour, &[(0, 10, 10)], Some("failed")),
            (1, 5 * hour + 5, &[(0, 10, 10)], Some("active")),
            // The last failure that the chart shows.
            (1, 5 * hour + 60, &[(0, 10, 10)], None),
            (1, 7 * hour - 8, &[(0, 10, 10)], Some("deactivating")),
            (1, 7 * hour - 3, &[(0, 10, 10)], Some("active")),
            (1, 7 * hour, &[(0, 10, 10)], None),
        ];
        send(&store, &rows).await;
        let incident = resolve(&store, 7 * hour).await;
        let context = looked(&store, &incident, 99, 7 * hour + 31).await;
        let back = "php8.2-fpm.service active again at 19:01:04, 3 s before the last failure";
        assert_eq!(context.changed_back.as_deref(), Some(back));
        assert!(context.chart.is_some());
    }

    #[tokio::test]
    async fn of_more_servers_than_are_looked_at_those_that_failed_last_say_what_changed_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let n = i64::try_from(SERVERS_MAX).unwrap() + 2;
        crate::store::tests::enrol(&store, n).await;
        let rows: [Row<'_>; 3] = [
            (n, 0, &[(0, 10, 10)], Some("failed")),
            (n, 50, &[(0, 10, 10)], Some("active")),
            (n, 60, &[(0, 10, 10)], None),
        ];
        send(&store, &rows).await;
        let incident = Incident { resolved_at: Some(at(90)), ..incident() };
        let transition = Transition {
            event: TransitionEvent::Resolve,
            at: at(90),
            key: "gateway_errors:group:all".into(),
            rev: 1,
            incident: incident.clone(),
            sites: Vec::new(),
            servers: (1..=n).map(|id| (ServerId(id), at(0), Some(at(60 - (n - id))))).collect(),
            notify: None,
        };
        store.write(move |tx| incidents::commit(tx, &[transition], b"", 0)).await.unwrap();
        let context = looked(&store, &incident, 99, 91).await;
        assert_eq!(context.chart, None);
        let back = context.changed_back.unwrap();
        assert!(back.starts_with("php8.2-fpm.service active again on "), "{back}");
        assert!(back.ends_with("10 s before the last failure"), "{back}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn readings_for_many_routes_leave_the_store_to_others_and_one_message_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, incident) = store(&dir).await;
        let mut library = Library::new(store.clone());
        let (closed, gate) = std::sync::mpsc::channel::<()>();
        let (gate, n_read) = (Mutex::new(gate), Arc::new(AtomicUsize::new(0)));
        let n = Arc::clone(&n_read);
        library.on_read = Arc::new(move || {
            n.fetch_add(1, Ordering::SeqCst);
            gate.lock().unwrap().recv().ok(); // until it is open
        });
        let of = |id: usize| {
            let incident = Incident { id: format!("{}{id}", incident.id), ..incident.clone() };
            told(Event::Opened, Some(incident))
        };
        let mut routes = tokio::task::JoinSet::new();
        for n in 0..32 {
            let (library, message) = (library.clone(), of(n / 4));
            routes.spawn(async move { library.gather(&message).await });
        }
        while n_read.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // All connections but the one that is held up serve others.
        store.read(|conn| conn.query_row("SELECT 1", [], |_| Ok(()))).await.unwrap();
        while let Some(context) = routes.join_next().await {
            assert_eq!(*context.unwrap(), Context::default(), "they go without");
        }
        assert_eq!(n_read.load(Ordering::SeqCst), 1, "one has its turn");
        drop(closed);
        let message = told(Event::Resolved, Some(incident.clone()));
        for _ in 0..4 {
            let (library, message) = (library.clone(), message.clone());
            routes.spawn(async move { library.gather(&message).await });
        }
        while let Some(context) = routes.join_next().await {
            assert!(context.unwrap().chart.is_some());
        }
        assert_eq!(n_read.load(Ordering::SeqCst), 2, "four routes are told of one reading");
    }
}
