//! What a message cannot hold because only the store knows it: the chart, and what changed back.
//!
//! Bounded in time and servers. What cannot be read in time is left out: a page waits for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wire::UnixMillis;

use super::chart::Chart;
use super::comeback::{self, Fact, Known, What};
use super::message::{Event, Message};
use crate::ingest::convert;
use crate::model::{Incident, Record, ServerId, SiteId};
use crate::store::evidence::{self, Onset};
use crate::store::{Conn, ReadResult, SiteRow, Store, fleet, read};
use crate::{clock, errors};

/// Time before the start that the chart shows, and the most it shows in all.
const BEFORE: Duration = Duration::from_secs(600);
const SPAN_MAX: Duration = Duration::from_secs(6 * 3600);
/// Batches may arrive so much later than what they tell.
const LATE: Duration = Duration::from_secs(120);
/// What a page waits for, and in all, when the readers of the store are busy.
const READ_MAX: Duration = Duration::from_secs(2);
const WAIT_MAX: Duration = Duration::from_secs(3);
/// Servers and batches looked at.
const SERVERS_MAX: usize = 100;
const ROWS_MAX: usize = 50_000;
/// Facts kept, the newest.
const FACTS_MAX: usize = 2000;

/// What the store knows about a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Requests around it.
    pub chart: Option<Chart>,
    /// What changed back before it was over, in words; only of a resolution.
    pub changed_back: Option<String>,
}

/// Reads the context of a message; never fails, and never takes more than 3 s.
pub async fn gather(store: &Store, message: &Message) -> Context {
    let Some(incident) = message.incident.clone() else { return Context::default() };
    if matches!(message.event, Event::Digest | Event::Test) {
        return Context::default();
    }
    let (id, at, is_end) = (incident.id.clone(), message.at, message.event == Event::Resolved);
    let read = store.read(move |conn| {
        let started = clock::instant();
        look(conn, &incident, at, is_end, &|| started.elapsed() > READ_MAX)
    });
    match tokio::time::timeout(WAIT_MAX, read).await {
        Ok(Ok(Some(context))) => context,
        Ok(Ok(None)) | Err(_) => {
            tracing::debug!(incident = id, "a page goes without its chart: it took too long");
            Context::default()
        }
        Ok(Err(error)) => {
            let error = errors::chain(&error);
            tracing::debug!(incident = id, error, "a page goes without its chart");
            Context::default()
        }
    }
}

/// `None` when not all of it could be read: half a chart would lie.
fn look(
    conn: &Conn,
    incident: &Incident,
    now: UnixMillis,
    is_end: bool,
    is_over: &dyn Fn() -> bool,
) -> ReadResult<Option<Context>> {
    let mut ids = vec![incident.id.clone()];
    ids.extend(incident.children.iter().cloned());
    let onsets = evidence::onsets(conn, &ids)?;
    if onsets.len() > SERVERS_MAX {
        return Ok(None);
    }
    let from = incident.started_at.minus(BEFORE);
    let to = incident.resolved_at.unwrap_or(now).min(from.plus(SPAN_MAX));
    let mut look = Look {
        sites: evidence::sites(conn, &ids)?,
        names: onsets.iter().map(|onset| (onset.server, onset.name.clone())).collect(),
        offsets: offsets(conn, &onsets, now)?,
        from,
        chart: Chart::new(from, to),
        facts: Vec::new(),
        last_failed: None,
    };
    let servers: BTreeSet<ServerId> = onsets.iter().map(|onset| onset.server).collect();
    let mut site_rows: BTreeMap<ServerId, BTreeMap<String, SiteRow>> = BTreeMap::new();
    for server in &servers {
        let rows = read::sites(conn, *server)?;
        site_rows.insert(*server, rows.into_iter().map(|row| (row.name.clone(), row)).collect());
    }
    let until = to.plus(LATE).min(now.max(to));
    let cut = evidence::arrived(conn, &servers, (from, until), ROWS_MAX, is_over, &mut |row| {
        let known = site_rows.get(&row.server);
        let mut site_of = |name: &str| known.and_then(|rows| rows.get(name)).cloned();
        for record in convert::records(&row, &mut site_of).records {
            look.take(row.server, &record);
        }
        true
    })?;
    if cut.is_some() {
        return Ok(None);
    }
    let changed_back = is_end.then(|| look.changed_back(incident, &onsets, now)).flatten();
    Ok(Some(Context { chart: Some(look.chart).filter(|chart| !chart.is_empty()), changed_back }))
}

/// How far the clock of each server is ahead, ms.
fn offsets(conn: &Conn, onsets: &[Onset], now: UnixMillis) -> ReadResult<BTreeMap<ServerId, i64>> {
    let views = fleet::list(conn, now)?;
    let offset = |name: &str| {
        let view = views.iter().find(|view| view.server == name);
        view.and_then(|view| view.clock_offset_ms).unwrap_or(0)
    };
    Ok(onsets.iter().map(|onset| (onset.server, offset(&onset.name))).collect())
}

/// What has been read so far.
struct Look {
    /// Failing sites; none known: all count.
    sites: BTreeSet<SiteId>,
    names: BTreeMap<ServerId, String>,
    offsets: BTreeMap<ServerId, i64>,
    from: UnixMillis,
    chart: Chart,
    facts: Vec<Fact>,
    last_failed: Option<UnixMillis>,
}

impl Look {
    /// An instant of a server's clock on the collector's.
    fn corrected(&self, server: ServerId, at: UnixMillis) -> UnixMillis {
        let offset = self.offsets.get(&server).copied().unwrap_or(0);
        UnixMillis(at.0.saturating_sub(offset))
    }

    fn take(&mut self, server: ServerId, record: &Record) {
        match record {
            Record::Requests { site, at, counts } => {
                if !self.sites.is_empty() && !self.sites.contains(site) {
                    return;
                }
                let at = self.corrected(server, *at);
                let n_failed =
                    [counts.n_502, counts.n_503, counts.n_504].into_iter().map(u64::from).sum();
                self.chart.add(at, u64::from(counts.n), n_failed);
                if n_failed > 0 {
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
        let at = self.corrected(server, at);
        let Some(name) = self.names.get(&server) else { return };
        if at < self.from {
            return;
        }
        if self.facts.len() == FACTS_MAX {
            self.facts.remove(0);
        }
        self.facts.push(Fact { server: name.clone(), at, what });
    }

    fn changed_back(
        &self,
        incident: &Incident,
        onsets: &[Onset],
        now: UnixMillis,
    ) -> Option<String> {
        let talks = onsets.iter().filter_map(|onset| Some((onset.name.clone(), onset.until?)));
        comeback::words(&Known {
            incident,
            facts: &self.facts,
            last_failed: self.last_failed,
            well_again: talks.collect(),
            n_servers: onsets.len(),
            now,
        })
    }
}

#[cfg(test)]
mod tests {
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
        let seen = |name: &str| SiteSeen { name: name.into(), pool: None, upstream: None };
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

    /// Two servers, of which the first fails from 0 to 60 s with one of its sites.
    async fn store(dir: &tempfile::TempDir) -> (Store, Incident) {
        let store = Store::open(dir.path()).unwrap();
        crate::store::tests::enrol(&store, 2).await;
        for (server, seq, s, seconds, state) in [
            (1, 1, -100, &[(0, 10, 0), (1, 7, 0)][..], Some("active")),
            (2, 1, -100, &[(0, 500, 0)], None),
            (1, 2, 0, &[(0, 10, 10), (1, 7, 0)], Some("failed")),
            (2, 2, 30, &[(0, 500, 1)], None),
            (1, 3, 60, &[(0, 10, 5)], Some("active")),
            (1, 4, 70, &[(0, 10, 0)], None),
        ] {
            store
                .append(batch(server, seq, s, seconds, state))
                .await
                .unwrap()
                .await
                .unwrap()
                .unwrap();
        }
        let site = store.read(|conn| read::sites(conn, ServerId(1))).await.unwrap()[0].site;
        let incident = Incident { resolved_at: Some(at(90)), ..incident() };
        let transition = Transition {
            event: TransitionEvent::Resolve,
            at: at(90),
            key: "gateway_errors:server:web-07".into(),
            rev: 1,
            incident: incident.clone(),
            sites: vec![(site, at(0), Some(at(60)))],
            servers: Vec::new(),
            notify: None,
        };
        store.write(move |tx| incidents::commit(tx, &[transition], b"", 0)).await.unwrap();
        (store, incident)
    }

    fn told(event: Event, incident: Option<Incident>) -> Message {
        Message {
            event,
            delivery: "D".into(),
            at: at(91),
            reason: String::new(),
            incident,
            before: None,
            changed_back: None,
            digest: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_chart_counts_the_failing_sites_and_the_service_that_came_back_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (store, incident) = store(&dir).await;
        let context = gather(&store, &told(Event::Resolved, Some(incident.clone()))).await;
        let words = context.chart.unwrap().words();
        assert_eq!(words, "At worst 10 of 10 requests failed in 15 s");
        let back = "php8.2-fpm.service active again at 12:02:07, with the last failure";
        assert_eq!(context.changed_back.as_deref(), Some(back));
        let open = Incident { resolved_at: None, ..incident };
        let context = gather(&store, &told(Event::Opened, Some(open))).await;
        assert!(context.chart.is_some() && context.changed_back.is_none(), "it is not over");
    }

    #[tokio::test]
    async fn what_is_not_about_one_incident_or_not_known_has_no_context() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mut incident) = store(&dir).await;
        for event in [Event::Digest, Event::Test, Event::Opened] {
            assert_eq!(gather(&store, &told(event, None)).await, Context::default());
        }
        assert_eq!(
            gather(&store, &told(Event::Test, Some(incident.clone()))).await,
            Context::default()
        );
        incident.id = "01JUNKNOWN".into();
        assert_eq!(gather(&store, &told(Event::Opened, Some(incident))).await, Context::default());
    }

    #[tokio::test]
    async fn half_a_chart_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (store, incident) = store(&dir).await;
        let cut = store.read(move |conn| look(conn, &incident, at(91), true, &|| true)).await;
        assert_eq!(cut.unwrap(), None);
    }
}
