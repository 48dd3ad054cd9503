//! Reading over any mix of hot rows, sealed parts and late parts, against a model.

mod hourly;
mod rolled;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use prost::Message as _;
use rusqlite::params;
use wire::catalog;
use wire::v1;

use super::super::blocks::{Column, DayFile, Place, ServerHour, SiteCount};
use super::super::tests::enrol;
use super::super::{Ledger, NewBatch, SiteSeen, Store};
use super::*;
use crate::ingest::counts::ByStatus;
use crate::model::SiteId;

/// 2028-02-29T22:00:00Z: two hours before the end of a leap day that ends a month.
const START: i64 = 1_835_474_400;
const STEAL: &str = "system.cpu.steal";
const RECEIVE: &str = "system.network.io.receive";
const SITE: &str = "a.example";

fn at(second: i64) -> UnixMillis {
    UnixMillis::from_second(START + second)
}

/// What a server says of one second, from `START` on.
#[derive(Clone, Copy, Debug)]
struct Said {
    second: i64,
    steal: i64,
    n_200: u32,
    n_502: u32,
}

fn body(said: &[Said]) -> v1::BatchBody {
    let mut body = v1::BatchBody {
        sites: vec![v1::Site { name: SITE.into(), ..v1::Site::default() }],
        series: vec![v1::Series { metric: STEAL.into(), attribute: String::new() }],
        ..v1::BatchBody::default()
    };
    for one in said {
        body.ticks.push(v1::Tick {
            at_unix_ms: at(one.second).0 + 7,
            series: vec![0],
            value: vec![one.steal],
        });
        body.seconds.push(v1::SiteSecond {
            site: 0,
            second: START + one.second,
            status: vec![200, 502],
            count: vec![one.n_200, one.n_502],
        });
    }
    body
}

fn batch(server: i64, seq: u64, came: i64, body: &v1::BatchBody) -> NewBatch {
    let ticks = || body.ticks.iter().map(|tick| tick.at_unix_ms);
    NewBatch {
        server: ServerId(server),
        epoch: 1,
        seq,
        n_evicted: 0,
        n_lines_evicted: 0,
        n_bytes_evicted: 0,
        at: at(came),
        t_min: UnixMillis(ticks().min().unwrap_or(0)),
        t_max: UnixMillis(ticks().max().unwrap_or(0)),
        complete_until: at(came),
        urgent: false,
        codec: 1,
        body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
        sites: vec![SiteSeen { name: SITE.into(), pool: None, upstream: None, owner: None }],
        losses: Vec::new(),
        ledger: Ledger::default(),
    }
}

async fn append(store: &Store, batch: NewBatch) {
    store.append(batch).await.unwrap().await.unwrap().unwrap();
}

/// What an hour of one server is as a part, of bodies in order of commit.
fn hour_of_bodies(t0: i64, bodies: &[v1::BatchBody], metric: i64) -> ServerHour {
    let (mut samples, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for body in bodies {
        for tick in &body.ticks {
            let second = UnixMillis(tick.at_unix_ms).second();
            if hour_of(second) == t0 {
                samples.insert((second - t0) as u16, tick.value[0]);
            }
        }
        for second in body.seconds.iter().filter(|second| hour_of(second.second) == t0) {
            for (status, n) in second.status.iter().zip(&second.count) {
                let s = (second.second - t0) as u16;
                let s = if *status == 502 { s } else { s / 10 * 10 };
                *counts.entry((*status as u16, s)).or_insert(0) += u64::from(*n);
            }
        }
    }
    let (at, values) = samples.into_iter().unzip();
    let count = |((status, second), n)| SiteCount { site: SiteId(1), status, second, n };
    let mut counts: Vec<SiteCount> =
        counts.into_iter().filter(|(_, n)| *n > 0).map(count).collect();
    counts.sort_unstable();
    let columns = vec![Column { metric, at, values }];
    let columns = columns.into_iter().filter(|column| !column.at.is_empty()).collect();
    ServerHour { columns, counts, events: v1::BatchBody::default() }
}

fn put(dir: &Path, t0: i64, part: u32, hours: &[(i64, ServerHour)]) {
    let mut file = DayFile::create(dir, Day::of(t0).unwrap()).unwrap();
    let hours: Vec<_> = hours
        .iter()
        .map(|(server, hour)| (Place { t0, server: ServerId(*server), part }, hour.clone()))
        .collect();
    file.put(&hours).unwrap();
    file.finish(t0, part, hours.len() as u64).unwrap();
}

async fn note_sealed(store: &Store, t0: i64, cut: i64, parts: u32) {
    let note = move |tx: &rusqlite::Transaction<'_>| {
        tx.execute(
            "INSERT OR REPLACE INTO sealed(t0, hot_cut, parts, at) VALUES (?1, ?2, ?3, 0)",
            params![t0, cut, parts],
        )
    };
    store.write(note).await.unwrap();
}

async fn add_metric(store: &Store, id: i64, name: &'static str, attribute: &'static str) {
    let metric = catalog::find(name).unwrap();
    let add = move |tx: &rusqlite::Transaction<'_>| {
        tx.execute(
            "INSERT INTO metric(metric, name, attribute, scale, unit) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, name, attribute, metric.scale as i64, metric.unit],
        )
    };
    store.write(add).await.unwrap();
}

async fn raw(store: &Store, server: i64, from: i64, to: i64) -> Told<Vec<(i64, i64)>> {
    let metric = catalog::find(STEAL).unwrap();
    let wanted = Wanted {
        server: ServerId(server),
        metric,
        attribute: String::new(),
        from: at(from),
        to: at(to),
        step_s: None,
    };
    let told = store.history(Limits::default(), move |history| history.series(&wanted));
    let Told { value, notes } = told.await.unwrap();
    let point = |p: &Point| (p.at.second() - START, (p.sum * metric.scale).round() as i64);
    Told { value: value.points.iter().map(point).collect(), notes }
}

async fn counted(store: &Store, from: i64, to: i64) -> Told<BTreeMap<String, ByStatus>> {
    let span = (START + from, START + to);
    let told = store.history(Limits::default(), move |history| history.counts(ServerId(1), span));
    told.await.unwrap()
}

/// Everything a play tells: arrivals, and what was said.
async fn played(store: &Store, (from, to): (i64, i64), n_bytes: usize) -> (Vec<Piece>, Vec<Notes>) {
    let servers = (1..=2).map(|id| (ServerId(id), 0)).collect();
    let mut play = Play::new(servers, (at(from), at(to)), Samples::All);
    let (mut pieces, mut notes) = (Vec::new(), Vec::new());
    while !play.is_over() {
        let told = store.history(Limits::default(), move |history| {
            let pieces = history.play(&mut play, n_bytes)?;
            Ok((pieces, play))
        });
        let Told { value: (some, on), notes: noted } = told.await.unwrap();
        play = on;
        pieces.extend(some);
        notes.push(noted);
    }
    (pieces, notes)
}

/// A batch of the property test: server, first second of what it says, how many seconds, and values.
type Sent = (i64, i64, Vec<(i64, u32, u32)>);

#[derive(Clone, Debug)]
struct Story {
    sent: Vec<Sent>,
    /// After how many batches which of the hours is sealed, or sealed again.
    seals: Vec<(usize, i64)>,
    deletes: bool,
}

fn story() -> impl Strategy<Value = Story> {
    let values = prop::collection::vec((0..10_000_i64, 0..5_u32, 0..3_u32), 1..5);
    let sent = prop::collection::vec((1..=2_i64, 0..14_400_i64, values), 1..25);
    let seals = prop::collection::vec((0..25_usize, 0..4_i64), 0..6);
    (sent, seals, any::<bool>()).prop_map(|(sent, seals, deletes)| Story { sent, seals, deletes })
}

/// Sends the batches, seals as the story says, and returns what every reader must find.
async fn tell(store: &Store, story: &Story) -> Model {
    let mut model = Model::default();
    let (mut bodies, mut cuts, mut parts) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let (mut seqs, mut came) = (BTreeMap::new(), 0);
    for n in 0..=story.sent.len() {
        for (_, hour) in story.seals.iter().filter(|(after, _)| *after == n) {
            let t0 = START + hour * 3600;
            let cut: i64 = *cuts.get(&t0).unwrap_or(&0);
            let part = *parts.get(&t0).unwrap_or(&0);
            let hours = [1, 2].map(|server| {
                let of: Vec<v1::BatchBody> = bodies
                    .iter()
                    .filter(|(of, id, _)| *of == server && *id > cut)
                    .map(|(_, _, body): &(i64, i64, v1::BatchBody)| body.clone())
                    .collect();
                (server, hour_of_bodies(t0, &of, 5))
            });
            put(store.dir(), t0, part, &hours);
            note_sealed(store, t0, n as i64, part + 1).await;
            cuts.insert(t0, n as i64);
            parts.insert(t0, part + 1);
        }
        let Some((server, second, values)) = story.sent.get(n) else { continue };
        let said: Vec<Said> = (*second..)
            .zip(values)
            .map(|(second, (steal, n_200, n_502))| {
                // Whole ticks, so that what is folded is where it was.
                let second = second / 10 * 10 + second % 10;
                Said { second, steal: *steal, n_200: *n_200, n_502: *n_502 }
            })
            .collect();
        let body = body(&said);
        let seq = seqs.entry(*server).or_insert(0);
        *seq += 1;
        came = came.max(second + 10);
        append(store, batch(*server, *seq, came, &body)).await;
        bodies.push((*server, n as i64 + 1, body));
        for one in said {
            model.samples.entry(*server).or_default().insert(one.second, one.steal);
            let of = model.counts.entry((*server, one.second)).or_default();
            of[0] += u64::from(one.n_200);
            of[1] += u64::from(one.n_502);
        }
    }
    if story.deletes {
        // What is sealed wholly may go, and nothing else.
        let gone: Vec<i64> = bodies
            .iter()
            .filter(|(_, id, body)| {
                let sealed = |tick: &v1::Tick| {
                    let t0 = hour_of(UnixMillis(tick.at_unix_ms).second());
                    cuts.get(&t0).is_some_and(|cut| cut >= id)
                };
                body.ticks.iter().all(sealed)
            })
            .map(|(_, id, _)| *id)
            .collect();
        for id in gone {
            store.write(move |tx| tx.execute("DELETE FROM hot WHERE id = ?1", [id])).await.unwrap();
        }
    }
    model
}

#[derive(Debug, Default)]
struct Model {
    samples: BTreeMap<i64, BTreeMap<i64, i64>>,
    counts: BTreeMap<(i64, i64), [u64; 2]>,
}

impl Model {
    fn samples(&self, server: i64, from: i64, to: i64) -> Vec<(i64, i64)> {
        let of = self.samples.get(&server).into_iter();
        of.flat_map(|of| of.range(from..to)).map(|(second, value)| (*second, *value)).collect()
    }

    fn counts(&self, server: i64, from: i64, to: i64) -> [u64; 2] {
        let of = self
            .counts
            .iter()
            .filter(|((of, second), _)| *of == server && (from..to).contains(second));
        of.fold([0, 0], |sum, (_, n)| [sum[0] + n[0], sum[1] + n[1]])
    }
}

fn check_play(pieces: &[Piece], model: &Model) {
    assert!(pieces.is_sorted_by_key(|piece| piece.at.0), "in order of arrival");
    let mut samples: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
    let (mut all, mut failed): (BTreeMap<i64, u64>, BTreeMap<(i64, i64), u64>) = Default::default();
    for piece in pieces {
        let body = piece.body.as_ref().unwrap();
        for tick in &body.ticks {
            let second = UnixMillis(tick.at_unix_ms).second() - START;
            let of = samples.entry(piece.server.0).or_default();
            // Of one that was told twice the later batch holds.
            of.insert(second, tick.value[0]);
        }
        for second in &body.seconds {
            assert_eq!(body.sites[second.site as usize].name, SITE);
            for (status, n) in second.status.iter().zip(&second.count) {
                *all.entry(piece.server.0).or_default() += u64::from(*n);
                if *status == 502 && *n > 0 {
                    let key = (piece.server.0, second.second - START);
                    *failed.entry(key).or_default() += u64::from(*n);
                }
            }
        }
    }
    let sampled: BTreeSet<(i64, i64)> = samples
        .iter()
        .flat_map(|(server, of)| of.keys().map(|second| (*server, *second)))
        .collect();
    let wanted: BTreeSet<(i64, i64)> = (model.samples.iter())
        .flat_map(|(server, of)| of.keys().map(|second| (*server, *second)))
        .collect();
    assert_eq!(sampled, wanted);
    for server in [1, 2] {
        let [n_200, n_502] = model.counts(server, i64::MIN, i64::MAX);
        assert_eq!(all.get(&server).copied().unwrap_or(0), n_200 + n_502, "server {server}");
    }
    let wanted = model.counts.iter().filter(|(_, n)| n[1] > 0).map(|(key, n)| (*key, n[1]));
    assert_eq!(failed, wanted.collect(), "failures keep their second");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn whatever_is_sealed_readers_find_what_was_sent(
        story in story(), from in -100..15_000_i64, length in 1..15_000_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            enrol(&store, 2).await;
            add_metric(&store, 5, STEAL, "").await;
            let site = "INSERT INTO site(site_id, server_id, host) VALUES (1, 1, 'a.example')";
            store.write(|tx| tx.execute(site, [])).await.unwrap();
            let model = tell(&store, &story).await;
            for server in [1, 2] {
                let told = raw(&store, server, from, from + length).await;
                assert_eq!(told.value, model.samples(server, from, from + length));
                assert_eq!(told.notes, Notes::default());
            }
            let (from, to) = (from / 10 * 10, (from + length) / 10 * 10);
            let told = counted(&store, from, to).await;
            let of = told.value.get(SITE);
            let n = |status| of.and_then(|of| of.get(status)).copied().unwrap_or(0);
            assert_eq!([n("200"), n("502")], model.counts(1, from, to));
        });
    }

    #[test]
    fn a_play_tells_everything_once_and_in_order(story in story(), n_bytes in 200..20_000_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            enrol(&store, 2).await;
            add_metric(&store, 5, STEAL, "").await;
            // One site is both servers' here: only names are compared.
            let model = tell_with_sites(&store, &story).await;
            let (pieces, notes) = played(&store, (-1000, 20_000), n_bytes).await;
            assert!(notes.iter().all(|notes| *notes == Notes::default()));
            check_play(&pieces, &model);
        });
    }
}

/// The same story where the site has an id on each server; the one of the second is put in its place.
async fn tell_with_sites(store: &Store, story: &Story) -> Model {
    let mut story = story.clone();
    // Site 1 is that of server 1: the other one has no requests, only samples.
    for (server, _, values) in &mut story.sent {
        if *server == 2 {
            for value in values.iter_mut() {
                (value.1, value.2) = (0, 0);
            }
        }
    }
    let site = "INSERT INTO site(site_id, server_id, host) VALUES (1, 1, 'a.example')";
    store.write(|tx| tx.execute(site, [])).await.unwrap();
    tell(store, &story).await
}

/// A store with server 1, steal sampled each 10 s of two hours sealed before midnight of the leap day, one
/// after it, and half an hour that is hot.
async fn across_midnight() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    add_metric(&store, 5, STEAL, "").await;
    for hour in 0..3 {
        let t0 = START + hour * 3600;
        let at: Vec<u16> = (0..360).map(|n| n * 10).collect();
        let values = (0..360).map(|n| hour * 360 + n).collect();
        let columns = vec![Column { metric: 5, at, values }];
        put(dir.path(), t0, 0, &[(1, ServerHour { columns, ..ServerHour::default() })]);
        note_sealed(&store, t0, 0, 1).await;
    }
    for n in 0..180 {
        let said = Said { second: 10_800 + n * 10, steal: 1080 + n, n_200: 1, n_502: 0 };
        append(&store, batch(1, n as u64 + 1, said.second + 10, &body(&[said]))).await;
    }
    (dir, store)
}

#[tokio::test]
async fn a_series_runs_over_days_months_and_a_leap_day_into_what_is_not_sealed() {
    let (_dir, store) = across_midnight().await;
    assert_eq!(at(7200).to_string(), "2028-03-01T00:00:00.000Z");
    let told = raw(&store, 1, 0, 20_000).await;
    assert_eq!(told.notes, Notes::default());
    assert_eq!(told.value, (0..1260).map(|n| (n * 10, n)).collect::<Vec<_>>());
    let midnight = raw(&store, 1, 7190, 7210).await;
    assert_eq!(midnight.value, [(7190, 719), (7200, 720)]);
    let wanted = Wanted {
        server: ServerId(1),
        metric: catalog::find(STEAL).unwrap(),
        attribute: String::new(),
        from: at(0),
        to: at(20_000),
        step_s: Some(86_400),
    };
    let told = store.history(Limits::default(), move |history| history.series(&wanted));
    let days = told.await.unwrap().value.points;
    let shown: Vec<_> = days.iter().map(|day| (day.at.to_string(), day.n, day.max)).collect();
    assert_eq!(
        shown,
        [
            ("2028-02-29T00:00:00.000Z".to_owned(), 720, 0.0719),
            ("2028-03-01T00:00:00.000Z".to_owned(), 540, 0.1259)
        ]
    );
}

#[tokio::test]
async fn a_day_file_that_is_gone_or_damaged_is_a_hole_and_the_rest_is_served() {
    let (dir, store) = across_midnight().await;
    std::fs::remove_file(dir.path().join("blocks/20280229.db")).unwrap();
    let told = raw(&store, 1, 0, 20_000).await;
    assert_eq!(told.value.first(), Some(&(7200, 720)));
    assert_eq!(told.value.len(), 540);
    let hole = Hole { from: at(0), to: at(7200), server: None, why: "missing".into() };
    assert_eq!(told.notes.holes, [hole]);
    assert!(store.stats().day_files_missing.get() > 0);

    let file = DayFile::create(dir.path(), Day::of(START + 7200).unwrap()).unwrap();
    file.conn().execute("UPDATE block SET crc = crc + 1", []).unwrap();
    drop(file);
    let told = raw(&store, 1, 7200, 20_000).await;
    assert_eq!(told.value.len(), 180, "what is hot is whole");
    let hole = Hole {
        from: at(7200),
        to: at(10_800),
        server: Some("web-1".into()),
        why: "damaged".into(),
    };
    assert_eq!(told.notes.holes, [hole]);
    assert!(store.stats().blocks_damaged.get() > 0);
    let (pieces, notes) = played(&store, (0, 20_000), 1 << 20).await;
    assert_eq!(pieces.len(), 180);
    assert!(notes.iter().any(|notes| notes.holes.len() == 2), "{notes:?}");
}

#[tokio::test]
async fn an_hour_that_a_batch_spanned_without_a_word_of_it_is_no_hole() {
    let (dir, store) = across_midnight().await;
    // The day after has no file: nothing was packed of it.
    note_sealed(&store, START + 30 * 3600, 1, 0).await;
    let (from, to) = (29 * 3600, 32 * 3600);
    let told = raw(&store, 1, from, to).await;
    assert_eq!((told.value, told.notes), (Vec::new(), Notes::default()));
    let (pieces, notes) = played(&store, (from, to), 1 << 20).await;
    assert!(pieces.is_empty() && notes.iter().all(|notes| notes.holes.is_empty()), "{notes:?}");
    assert_eq!(store.stats().day_files_missing.get(), 0);
    let report = crate::store::verify::verify(dir.path(), UnixMillis(0));
    assert!(
        report.problems.iter().all(|problem| !problem.file.starts_with("blocks/")),
        "{report:?}"
    );
}

#[tokio::test]
async fn an_answer_that_was_cut_says_so() {
    let (_dir, store) = across_midnight().await;
    let wanted = Wanted {
        server: ServerId(1),
        metric: catalog::find(STEAL).unwrap(),
        attribute: String::new(),
        from: at(0),
        to: at(20_000),
        step_s: None,
    };
    let of = wanted.clone();
    let few = Limits { n_values: 100, ..Limits::default() };
    let told = store.history(few, move |history| history.series(&of)).await.unwrap();
    assert_eq!(told.value.points.len(), 100);
    assert_eq!(told.notes.cut.as_deref(), Some("there are more than 100 points"));
    let now = Limits::within(Duration::ZERO);
    let told = store.history(now, move |history| history.series(&wanted)).await.unwrap();
    assert_eq!(told.value.points, []);
    assert_eq!(told.notes.cut.as_deref(), Some("it took longer than 0 s"));
    assert_eq!(store.stats().reads_cut_short.get(), 2);
}

#[tokio::test]
async fn a_long_read_does_not_hold_up_the_writer_and_sees_one_state() {
    let (_dir, store) = across_midnight().await;
    let (started, begun) = tokio::sync::oneshot::channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let reader = store.clone();
    let long = tokio::spawn(async move {
        let read = reader.history(Limits::default(), move |history| {
            let span = (START, START + 20_000);
            let before = history.counts(ServerId(1), span)?;
            started.send(()).unwrap();
            gate.recv().unwrap();
            Ok((before, history.counts(ServerId(1), span)?))
        });
        read.await.unwrap().value
    });
    begun.await.unwrap();
    for n in 180..200 {
        let said = Said { second: 10_800 + n * 10, steal: 0, n_200: 1, n_502: 0 };
        append(&store, batch(1, n as u64 + 1, said.second + 10, &body(&[said]))).await;
    }
    let now = counted(&store, 0, 20_000).await.value;
    assert_eq!(now[SITE]["200"], 200, "the writer did not wait, nor do other readers");
    go_on.send(()).unwrap();
    let (before, after) = long.await.unwrap();
    assert_eq!((before[SITE]["200"], after[SITE]["200"]), (180, 180));
}

#[tokio::test]
async fn what_is_deleted_behind_a_snapshot_is_read_from_it_all_the_same() {
    let (_dir, store) = across_midnight().await;
    let (started, begun) = tokio::sync::oneshot::channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let reader = store.clone();
    let long = tokio::spawn(async move {
        let read = reader.history(Limits::default(), move |history| {
            // The snapshot is that of now; the list of batches is looked up later.
            history.conn().query_row("SELECT count(*) FROM sealed", [], |_| Ok(()))?;
            started.send(()).unwrap();
            gate.recv().unwrap();
            let counts = history.counts(ServerId(1), (START, START + 20_000))?;
            // Once for all servers: looking through all batches for each of 500 took two minutes.
            let listed = history.state.borrow().listed.clone().unwrap_or_default();
            Ok((counts, listed.get(&ServerId(1)).map_or(0, Vec::len)))
        });
        read.await.unwrap().value
    });
    begun.await.unwrap();
    store.write(|tx| tx.execute("DELETE FROM hot", [])).await.unwrap();
    let heads: Vec<super::super::hot::Head> = (1..=180)
        .map(|id| super::super::hot::Head {
            id,
            server: ServerId(1),
            at: at(0),
            t_min: at(0),
            t_max: at(0),
        })
        .collect();
    store.hot_mut().deleted(&heads);
    go_on.send(()).unwrap();
    let (counts, n_listed) = long.await.unwrap();
    assert_eq!((counts[SITE]["200"], n_listed), (180, 180));
}

/// Of a damaged row nobody knows whose it is: a list by server that is made anew has no place for it.
#[tokio::test]
async fn a_damaged_batch_is_told_also_where_the_lists_of_batches_are_made_anew() {
    let (_dir, store) = across_midnight().await;
    let damage = "UPDATE hot SET server_id = server_id + 1 WHERE id = 5";
    store.write(|tx| tx.execute(damage, [])).await.unwrap();
    let other = store.clone();
    let told = store.history(Limits::default(), move |history| {
        let (id, server, at) = (7, ServerId(1), at(0));
        let gone = super::super::hot::Head { id, server, at, t_min: at, t_max: at };
        other.hot_mut().deleted(&[gone]); // behind the snapshot, which has it
        history.counts(ServerId(1), (START, START + 20_000))
    });
    let Told { value, notes } = told.await.unwrap();
    assert_eq!((value[SITE]["200"], notes.n_batches_unreadable), (179, 1));
}

fn contest(stat: &str, metric: &str, from: i64, to: i64, k: usize) -> Contest {
    Contest {
        metric: catalog::find(metric).unwrap(),
        stat: Stat::named(stat).unwrap(),
        from: at(from),
        to: at(to),
        k,
        servers: (1..=3).map(|id| (ServerId(id), format!("web-{id}"))).collect(),
    }
}

async fn top(store: &Store, contest: Contest) -> Vec<(String, f64, u64)> {
    let told = store.history(Limits::default(), move |history| history.top(&contest)).await;
    let Told { value, notes } = told.unwrap();
    assert_eq!(notes, Notes::default());
    value.top.into_iter().map(|one| (one.server + &one.attribute, one.value, one.n)).collect()
}

#[tokio::test]
async fn the_fleet_is_ranked_from_all_samples_late_parts_and_hot_ones_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 3).await;
    add_metric(&store, 5, STEAL, "").await;
    let column = |at: Vec<u16>, values: Vec<i64>| ServerHour {
        columns: vec![Column { metric: 5, at, values }],
        ..ServerHour::default()
    };
    // Values of a hundred samples: 1 to 100; 201 to 300; 50 each.
    let ticks: Vec<u16> = (0..100).map(|n| n * 10).collect();
    let hours = [
        (1, column(ticks.clone(), (1..=100).collect())),
        (2, column(ticks.clone(), (201..=300).collect())),
        (3, column(ticks, vec![50; 100])),
    ];
    put(dir.path(), START, 0, &hours);
    note_sealed(&store, START, 0, 1).await;
    let found = top(&store, contest("p95", STEAL, 0, 3600, 2)).await;
    assert_eq!(found, [("web-2".into(), 0.0295, 100), ("web-1".into(), 0.0095, 100)]);
    let found = top(&store, contest("max", STEAL, 0, 3600, 9)).await;
    let want = [("web-2", 0.03), ("web-1", 0.01), ("web-3", 0.005)];
    assert_eq!(found, want.map(|(name, value)| (name.to_owned(), value, 100)));
    let found = top(&store, contest("avg", STEAL, 0, 3600, 1)).await;
    assert!((found[0].1 - 0.02505).abs() < 1e-9, "{found:?}");
    let half = top(&store, contest("max", STEAL, 0, 500, 1)).await;
    assert_eq!(half, [("web-2".into(), 0.025, 50)], "the ends are kept to");

    // A late part takes the place of ten samples and adds one.
    let at: Vec<u16> = (0..10).map(|n| n * 10).chain([3590]).collect();
    put(dir.path(), START, 1, &[(3, column(at, vec![9000; 11]))]);
    let found = top(&store, contest("max", STEAL, 0, 3600, 1)).await;
    assert_eq!(found, [("web-2".into(), 0.03, 100)], "the part is not yet told to be there");
    note_sealed(&store, START, 0, 2).await;
    let found = top(&store, contest("max", STEAL, 0, 3600, 1)).await;
    assert_eq!(found, [("web-3".into(), 0.9, 101)]);

    // What is hot counts in a short time; over a long one it is not looked at.
    let said = Said { second: 4000, steal: 10_000, n_200: 0, n_502: 0 };
    append(&store, batch(1, 1, 4010, &body(&[said]))).await;
    let found = top(&store, contest("max", STEAL, 0, 7200, 1)).await;
    assert_eq!(found, [("web-1".into(), 1.0, 101)]);
    let long = contest("max", STEAL, -86_400, 7200, 1);
    let told = store.history(Limits::default(), {
        let long = long.clone();
        move |history| history.top(&long)
    });
    let told = told.await.unwrap();
    assert_eq!((told.value.top[0].value, told.value.to), (1.0, self::at(7200)), "all there is");
    put(dir.path(), START - 7 * 3600, 0, &[]);
    note_sealed(&store, START - 7 * 3600, 0, 1).await;
    let told = store.history(Limits::default(), move |history| history.top(&long)).await.unwrap();
    assert_eq!(told.value.top[0].value, 0.9);
    assert_eq!(told.value.to, self::at(3600), "it says how far it looked");
    assert_eq!((told.value.n_series, told.value.error), (3, 0.0));
}

#[tokio::test]
async fn counters_are_ranked_by_their_rates_over_hours_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 2).await;
    add_metric(&store, 7, RECEIVE, "system.network.interface=eth0").await;
    for hour in 0..2 {
        let t0 = START + hour * 3600;
        let ticks: Vec<u16> = (0..360).map(|n| n * 10).collect();
        // 10 B/s, over the end of the hour; the machine is booted in the middle of the second.
        let value =
            |n: i64| if hour == 1 && n >= 180 { (n - 180) * 100 } else { (hour * 360 + n) * 100 };
        let values = (0..360).map(value).collect();
        let columns = vec![Column { metric: 7, at: ticks, values }];
        put(dir.path(), t0, 0, &[(1, ServerHour { columns, ..ServerHour::default() })]);
        note_sealed(&store, t0, 0, 1).await;
    }
    let found = top(&store, contest("max", RECEIVE, 0, 7200, 5)).await;
    // All but the first have a rate.
    assert_eq!(found, [("web-1system.network.interface=eth0".into(), 10.0, 719)]);
    let found = top(&store, contest("p50", RECEIVE, 0, 7200, 5)).await;
    assert_eq!(found[0].1, 10.0);
}

#[tokio::test]
async fn where_samples_are_kept_no_more_hourly_sums_are_told_and_said_to_be_such() {
    use super::super::rollup::month::{MonthFile, Rows};
    use super::super::rollup::rolled::{Rolled, SeriesDay};

    let (dir, store) = across_midnight().await;
    // The day before, of which there is no day file: steal is 0.01 for an hour, then 0.03.
    let day = Day::of(START - 86_400).unwrap();
    let mut series = SeriesDay::default();
    let hour = |value: i64| {
        let at: Vec<u16> = (0..360).map(|n| n * 10).collect();
        Rolled::of(&Column { metric: 5, values: vec![value; at.len()], at }, catalog::Kind::Gauge)
    };
    (series[0], series[1]) = (hour(100), hour(300));
    let rows = Rows { series: vec![(5, ServerId(1), series)], sites: Vec::new() };
    MonthFile::create(dir.path(), day.month()).unwrap().put(day, &rows).unwrap();
    let from = day.first_second() - START;
    let wanted = |step_s| Wanted {
        server: ServerId(1),
        metric: catalog::find(STEAL).unwrap(),
        attribute: String::new(),
        from: at(from),
        to: at(20_000),
        step_s,
    };
    let hourly = wanted(Some(7200));
    let told = store.history(Limits::default(), move |history| history.series(&hourly));
    let Told { value, notes } = told.await.unwrap();
    assert_eq!(notes, Notes::default());
    let first = value.points[0];
    assert_eq!(
        (first.at, first.n, first.min, first.max, first.last),
        (at(from), 720, 0.01, 0.03, None)
    );
    assert!((first.sum / 720.0 - 0.02).abs() < 1e-9);
    assert_eq!(value.points[1].at, at(0), "then come samples");
    assert!(value.points[1].last.is_some());
    assert_eq!(value.source, "hours and samples");
    let each = wanted(None);
    let told = store.history(Limits::default(), move |history| history.series(&each));
    let Told { value, notes } = told.await.unwrap();
    assert_eq!(value.points.len(), 1260);
    let why =
        "before 2028-02-29T22:00:00.000Z only hourly sums are kept: ask by a step of whole hours";
    assert_eq!(notes.cut.as_deref(), Some(why));

    for (stat, want) in [("max", 0.1079), ("p50", 0.03), ("avg", 0.04037)] {
        let contest = contest(stat, STEAL, from, 10_800, 3);
        let told = store.history(Limits::default(), move |history| history.top(&contest)).await;
        let ranking = told.unwrap().value;
        assert_eq!((ranking.source.as_str(), ranking.to), ("hours", at(10_800)));
        assert!((ranking.top[0].value / want - 1.0).abs() < 0.011, "{stat}: {:?}", ranking.top);
        assert_eq!(
            (ranking.top[0].n, ranking.error),
            (1800, if stat == "p50" { 0.01 } else { 0.0 })
        );
    }
}

#[tokio::test]
async fn requests_of_days_whose_samples_left_are_told_from_their_sums() {
    use super::super::rollup::month::{MonthFile, Rows};
    use super::super::rollup::rolled::SitesDay;

    let (dir, store) = across_midnight().await;
    let counts = |from: i64, to: i64| {
        let span = (START + from, START + to);
        store.history(Limits::default(), move |history| history.counts(ServerId(1), span))
    };
    let of = |told: Told<BTreeMap<String, BTreeMap<String, u64>>>| {
        assert_eq!(told.notes, Notes::default());
        told.value.into_values().next().unwrap_or_default()
    };
    let kept = of(counts(0, 86_400).await.unwrap());
    let day = Day::of(START - 86_400).unwrap();
    let from = day.first_second() - START;
    let mut sites = SitesDay::default();
    let count = |status, second, n| SiteCount { site: SiteId(1), status, second, n };
    sites.add(0, &[count(200, 0, 10), count(502, 61, 3)]);
    sites.add(5, &[count(200, 3590, 7), count(1000, 7, 2)]);
    let rows = Rows { series: Vec::new(), sites: vec![(ServerId(1), sites)] };
    MonthFile::create(dir.path(), day.month()).unwrap().put(day, &rows).unwrap();
    let first = of(counts(from, from + 3600).await.unwrap());
    assert_eq!(first, BTreeMap::from([("200".to_owned(), 10), ("502".to_owned(), 3)]));
    let second = of(counts(from + 1, from + 6 * 3600).await.unwrap());
    assert_eq!(second["200"], 7, "hours that begin in that time");
    assert_eq!(second.values().sum::<u64>(), 9, "minutes with errors are no requests");
    let all = of(counts(from, 86_400).await.unwrap());
    assert_eq!(all["200"], kept["200"] + 17, "then come the requests that are kept one by one");
}

#[tokio::test]
async fn large_bodies_are_not_all_unpacked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    // Small when packed, a megabyte of texts each; some samples beside them.
    for n in 0..20 {
        let mut body = body(&[Said { second: n, steal: 1, n_200: 1, n_502: 0 }]);
        let line = |_| v1::LogLine {
            at_unix_ms: at(n).0,
            message: "x".repeat(1000),
            ..v1::LogLine::default()
        };
        body.log_lines = (0..1000).map(line).collect();
        append(&store, batch(1, n as u64 + 1, n, &body)).await;
    }
    let mut play = Play::new([(ServerId(1), 0)].into(), (at(0), at(60)), Samples::Of(&[]));
    let (mut n, mut most) = (0, 0);
    while !play.is_over() {
        let told = store.history(Limits::default(), move |history| {
            let pieces = history.play(&mut play, 1000)?;
            Ok((pieces, play))
        });
        let (pieces, on) = told.await.unwrap().value;
        play = on;
        most = most.max(play.n_bytes_ahead());
        for piece in &pieces {
            let body = piece.body.as_ref().unwrap();
            assert!(body.ticks.is_empty() && body.series.is_empty(), "nobody asked for samples");
            assert_eq!((body.log_lines.len(), body.seconds.len()), (1000, 1));
            assert_eq!(piece.at, at(n), "in order");
            n += 1;
        }
    }
    assert_eq!(n, 20);
    assert!((1..7 << 20).contains(&most), "{most} bytes wait to be told");
}

#[tokio::test]
async fn what_came_last_is_read_bit_by_bit_when_it_is_much() {
    use super::super::evidence::arrived_last;

    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    for n in 0..40 {
        let mut body = body(&[Said { second: n, steal: 1, n_200: 1, n_502: 0 }]);
        let line = |_| v1::LogLine {
            at_unix_ms: at(n).0,
            message: "x".repeat(1000),
            ..v1::LogLine::default()
        };
        body.log_lines = (0..1000).map(line).collect();
        append(&store, batch(1, n as u64 + 1, n, &body)).await;
    }
    for (n_max, want) in [(100, 40), (7, 7)] {
        let told = store.history(Limits::default(), move |history| {
            let mut seen = Vec::new();
            let see = &mut |piece: Piece| seen.push(piece.at);
            let servers = [(ServerId(1), 0)].into();
            let span = (at(0), at(60));
            let whole = arrived_last(history, &servers, span, Samples::All, n_max, &|| false, see)?;
            Ok((whole, seen))
        });
        let newest_first: Vec<_> = (0..40).rev().take(want).map(at).collect();
        assert_eq!(told.await.unwrap().value, (want == 40, newest_first));
    }
}

#[tokio::test]
async fn a_clock_that_is_nonsense_hides_no_packed_history() {
    let (_dir, store) = across_midnight().await;
    for ms in [i64::MIN, -i64::MAX, i64::MAX] {
        let mut play = Play::new(
            [(ServerId(1), 0), (ServerId(2), ms)].into(),
            (at(0), at(20_000)),
            Samples::All,
        );
        let mut n = 0;
        while !play.is_over() {
            let told = store.history(Limits::default(), move |history| {
                let pieces = history.play(&mut play, 1 << 20)?;
                Ok((pieces, play))
            });
            let (pieces, on) = told.await.unwrap().value;
            play = on;
            let of_sealed = pieces.iter().filter(|piece| piece.id == 0);
            n += of_sealed.map(|piece| piece.body.as_ref().unwrap().ticks.len()).sum::<usize>();
        }
        assert!(n > 0, "an offset of {ms} ms");
    }
}

#[tokio::test]
async fn an_older_copy_of_a_day_file_is_a_hole_and_damage_and_what_it_has_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 1).await;
    add_metric(&store, 5, STEAL, "").await;
    let of = |second, steal| {
        hour_of_bodies(START, &[body(&[Said { second, steal, n_200: 1, n_502: 0 }])], 5)
    };
    put(dir.path(), START, 0, &[(1, of(0, 7))]);
    // The database knows of a part that is not in this copy.
    note_sealed(&store, START, 0, 2).await;
    let Told { value, notes } = raw(&store, 1, 0, 3600).await;
    assert_eq!(value, [(0, 7)]);
    assert_eq!(notes.holes.len(), 1, "{notes:?}");
    assert_eq!((notes.holes[0].from, notes.holes[0].why.as_str()), (at(0), "damaged"));
    let is_listed = || store.quarantine().n() == 1;
    assert!(is_listed());
    assert_eq!(super::super::verify::recheck(&store).await, (0, 1), "it is still the older copy");
    assert!(is_listed());
    put(dir.path(), START, 1, &[(1, of(10, 8))]);
    assert_eq!(super::super::verify::recheck(&store).await, (1, 0));
    let Told { value, notes } = raw(&store, 1, 0, 3600).await;
    assert_eq!((value, notes), (vec![(0, 7), (10, 8)], Notes::default()));
}

#[tokio::test]
async fn hours_that_wait_in_the_middle_of_a_long_ranking_are_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 3).await;
    add_metric(&store, 5, STEAL, "").await;
    let said = |second| body(&[Said { second, steal: 100, n_200: 0, n_502: 0 }]);
    for t0 in [0, 10 * 3600] {
        put(dir.path(), START + t0, 0, &[(1, hour_of_bodies(START + t0, &[said(t0)], 5))]);
        note_sealed(&store, START + t0, 0, 1).await;
    }
    append(&store, batch(1, 1, 3 * 3600 + 20, &said(3 * 3600 + 10))).await;
    let contest = contest("max", STEAL, 0, 11 * 3600, 3);
    let told = store.history(Limits::default(), move |history| history.top(&contest)).await;
    let Told { value, notes } = told.unwrap();
    assert_eq!(value.top[0].n, 2);
    let holes: Vec<_> = notes.holes.iter().map(|hole| (hole.from, hole.to)).collect();
    assert_eq!(holes, [(at(3 * 3600), at(4 * 3600))]);
}

#[tokio::test]
async fn a_fleet_larger_than_memory_is_ranked_in_groups() {
    use super::super::rollup::month::{MonthFile, Rows};
    use super::super::rollup::rolled::{Rolled, SeriesDay};

    let (dir, store) = across_midnight().await;
    let day = Day::of(START - 86_400).unwrap();
    let series = |id: i64| {
        let mut series = SeriesDay::default();
        let column = Column { metric: 5, at: vec![0], values: vec![id * 100] };
        series[0] = Rolled::of(&column, catalog::Kind::Gauge);
        (5, ServerId(id), series)
    };
    let rows = Rows { series: (1..=3).map(series).collect(), sites: Vec::new() };
    MonthFile::create(dir.path(), day.month()).unwrap().put(day, &rows).unwrap();
    let from = day.first_second() - START;
    let mut found = Vec::new();
    for n_bytes in [1, Limits::default().n_bytes] {
        let contest = contest("p50", STEAL, from, from + 7200, 3);
        let limits = Limits { n_bytes, ..Limits::default() };
        let told = store.history(limits, move |history| history.top(&contest)).await.unwrap();
        assert_eq!(told.notes.cut, None);
        assert_eq!((told.value.source.as_str(), told.value.n_series), ("hours", 3));
        found.push(told.value.top);
    }
    assert_eq!(found[0], found[1]);
}

#[tokio::test]
async fn a_state_that_lasts_since_long_is_told_once_of_sealed_and_of_hot_hours() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 2).await;
    // Since the hour before; sealed with the hour of its batch.
    let mut said = body(&[Said { second: 10, steal: 1, n_200: 1, n_502: 0 }]);
    let since = at(-4000).0;
    said.services = vec![v1::ServiceState { at_unix_ms: since, ..v1::ServiceState::default() }];
    append(&store, batch(1, 1, 20, &said)).await;
    let mut hour = hour_of_bodies(START, &[said.clone()], 5);
    hour.events.services = said.services.clone();
    put(dir.path(), START, 0, &[(1, hour)]);
    let n_told = async || {
        let (pieces, _) = played(&store, (0, 7200), 1 << 20).await;
        let bodies = pieces.iter().filter_map(|piece| piece.body.as_ref());
        bodies.map(|body| body.services.len()).sum::<usize>()
    };
    assert_eq!(n_told().await, 1, "of the batch");
    note_sealed(&store, START, 1, 1).await;
    assert_eq!(n_told().await, 1, "of the day file");
}
