//! The worst that agents and people do to history: times that are wrong, servers that come back or are
//! another machine, names by the million, day files moved by hand. What is right stays exact beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use rusqlite::Connection;
use tokio_util::sync::CancellationToken;
use wire::units::Span;
use wire::v1::{self, BatchBody};
use wire::{UnixMillis, catalog};

use super::history::{Limits, Notes, Point, Told, Wanted};
use super::hours::Day;
use super::keeper::Keeper;
use super::tests::enrol;
use super::tokens::TokenTerms;
use super::{Outcome, Store, fleet, incidents, join, tokens};
use crate::ca::SignedCert;
use crate::config::{RetentionConfig, StoreConfig};
use crate::ingest::convert;
use crate::model::ServerId;

/// 2026-11-20T12:00:00Z.
const NOON: i64 = 1_795_176_000;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;
const CPU: &str = "system.cpu.utilization";
const FAULTS: &str = "system.paging.faults.major";

/// What a server sends at once: requests by site, second and status; samples by metric and second.
#[derive(Clone, Debug, Default)]
struct Sent {
    requests: Vec<(String, i64, u32, u32)>,
    samples: Vec<(&'static str, String, i64, i64)>,
}

impl Sent {
    fn requests(site: &str, second: i64, n: u32) -> Self {
        Self { requests: vec![(site.to_owned(), second, 200, n)], ..Self::default() }
    }

    fn and(mut self, more: Self) -> Self {
        self.requests.extend(more.requests);
        self.samples.extend(more.samples);
        self
    }

    fn sample(metric: &'static str, second: i64, scaled: i64) -> Self {
        Self { samples: vec![(metric, String::new(), second, scaled)], ..Self::default() }
    }

    fn body(&self) -> BatchBody {
        let mut body = BatchBody::default();
        let mut sites = BTreeMap::new();
        for (site, second, status, n) in &self.requests {
            let ix = *sites.entry(site).or_insert_with(|| {
                body.sites.push(v1::Site { name: site.clone(), ..v1::Site::default() });
                body.sites.len() as u32 - 1
            });
            let (status, count) = (vec![*status], vec![*n]);
            body.seconds.push(v1::SiteSecond { site: ix, second: *second, status, count });
        }
        let mut series = BTreeMap::new();
        for (metric, attribute, second, scaled) in &self.samples {
            let ix = *series.entry((metric, attribute)).or_insert_with(|| {
                let (metric, attribute) = ((*metric).to_owned(), attribute.clone());
                body.series.push(v1::Series { metric, attribute });
                body.series.len() as u32 - 1
            });
            let at_unix_ms = second.saturating_mul(1000);
            body.ticks.push(v1::Tick { at_unix_ms, series: vec![ix], value: vec![*scaled] });
        }
        body
    }

    /// First and last millisecond of it, as an honest agent says them.
    fn span(&self) -> (i64, i64) {
        let seconds = self.requests.iter().map(|sent| sent.1);
        let all: BTreeSet<i64> = seconds.chain(self.samples.iter().map(|sent| sent.2)).collect();
        let ms = |second: Option<&i64>| second.map_or(0, |second| second.saturating_mul(1000));
        (ms(all.first()), ms(all.last()))
    }
}

/// A keeper that packs whatever is complete.
pub(super) fn keeper(store: &Store) -> Keeper {
    let none = Span(Duration::ZERO);
    let pace = StoreConfig {
        seal_after: none,
        late_after: none,
        seal_interval: Span(Duration::from_secs(60)),
    };
    let retention = RetentionConfig::default();
    Keeper::new(store.clone(), pace, retention, CancellationToken::new())
}

/// What the writer does once a minute, and the detector every ten seconds: nobody needs what is stored
/// any more.
pub(super) async fn flush(store: &Store) {
    let last = *store.committed().borrow();
    let servers = |conn: &Connection| {
        conn.query_row("SELECT COALESCE(max(server_id), 0) FROM server", [], |row| row.get(0))
    };
    let servers: i64 = store.read(servers).await.unwrap();
    let marks: Vec<_> = (1..=servers)
        .map(|id| (id, store.durable(ServerId(id))))
        .filter(|(_, mark)| mark.seq > 0)
        .collect();
    let seen = move |tx: &rusqlite::Transaction<'_>| {
        for (id, mark) in marks {
            tx.execute(
                "INSERT OR REPLACE INTO watermark VALUES (?1, ?2, ?3)",
                (id, mark.epoch as i64, mark.seq as i64),
            )?;
        }
        tx.execute("INSERT OR REPLACE INTO state VALUES ('hw_upto', ?1)", [last])?;
        incidents::save_snapshot(tx, last, b"as if the detector had seen it")
    };
    store.write(seen).await.unwrap();
}

/// A store with its keeper.
struct Bench {
    store: Store,
    keeper: Keeper,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new(n_servers: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        enrol(&store, n_servers).await;
        let keeper = keeper(&store);
        Self { store, keeper, dir }
    }

    /// Appends it as ingest does; `at`: arrival, in seconds.
    async fn send(&self, server: i64, epoch: u64, seq: u64, at: i64, sent: &Sent) -> Outcome {
        self.send_as(server, epoch, seq, at, sent, sent.span()).await
    }

    async fn send_as(
        &self,
        server: i64,
        epoch: u64,
        seq: u64,
        at: i64,
        sent: &Sent,
        (t_min_unix_ms, t_max_unix_ms): (i64, i64),
    ) -> Outcome {
        let body = sent.body().encode_to_vec();
        let batch = v1::Batch {
            epoch,
            seq,
            complete_until_unix_ms: at.saturating_mul(1000),
            t_min_unix_ms,
            t_max_unix_ms,
            codec: wire::CODEC_ZSTD_BODY,
            body: zstd::bulk::compress(&body, 3).unwrap().into(),
            ..v1::Batch::default()
        };
        let taken = convert::batch(
            &mut convert::Unpacker::default(),
            ServerId(server),
            batch,
            UnixMillis(at * 1000),
        );
        let (batch, reason) = (taken.new, taken.opened.err());
        assert!(reason.is_none(), "{reason:?}");
        self.store.append(batch).await.unwrap().await.unwrap().unwrap()
    }

    /// Says that the detector has seen all of it, and packs what is due at `now`, in seconds.
    async fn pack(&self, now: i64) {
        flush(&self.store).await;
        self.keeper.pass(UnixMillis(now * 1000)).await.unwrap();
    }

    async fn counts(&self, server: i64, from: i64, to: i64) -> Told<BTreeMap<String, u64>> {
        let read = move |history: &super::history::History<'_>| {
            let sites = history.counts(ServerId(server), (from, to))?;
            let all = |(site, by_status): (String, BTreeMap<String, u64>)| {
                (site, by_status.values().sum::<u64>())
            };
            Ok(sites.into_iter().map(all).collect())
        };
        self.store.history(Limits::default(), read).await.unwrap()
    }

    async fn n_requests(&self, server: i64, from: i64, to: i64) -> u64 {
        let told = self.counts(server, from, to).await;
        assert_eq!(told.notes, Notes::default(), "the answer is whole");
        told.value.values().sum()
    }

    async fn points(&self, server: i64, metric: &str, from: i64, to: i64) -> Vec<Point> {
        let wanted = Wanted {
            server: ServerId(server),
            metric: catalog::find(metric).unwrap(),
            attribute: String::new(),
            from: UnixMillis(from * 1000),
            to: UnixMillis(to * 1000),
            step_s: None,
        };
        let read = move |history: &super::history::History<'_>| history.series(&wanted);
        self.store.history(Limits::default(), read).await.unwrap().value.points
    }

    async fn n_of(&self, sql: &'static str) -> i64 {
        self.store.read(move |conn| conn.query_row(sql, [], |row| row.get(0))).await.unwrap()
    }

    /// Names of the day files.
    fn days(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("blocks")) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| Day::of_file_name(name).is_some())
            .collect();
        names.sort();
        names
    }

    fn day_file(&self, second: i64) -> PathBuf {
        self.dir.path().join(Day::of(second).unwrap().file())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_make_no_sense_are_counted_and_harm_nothing_around_them() {
    // What a batch says of its times; only that of the first server is true.
    let ranges =
        [None, Some((i64::MIN, i64::MAX)), Some((i64::MAX, i64::MIN)), Some((0, 0)), Some((1, 1))];
    let n_servers = ranges.len() as i64;
    let bench = Bench::new(n_servers).await;
    let good = |n| {
        Sent::requests("a.example", NOON + 10 * n, 3).and(Sent::sample(CPU, NOON + 10 * n, 500 + n))
    };
    let (in_1970, in_2100) = (0, 4_102_444_800);
    let far = [i64::MIN, i64::MIN + 1, -1, in_1970, 1, in_2100, i64::MAX - 1, i64::MAX];
    for (seq, second) in (1..).zip(far) {
        let sent = Sent::requests("a.example", second, 1_000_000)
            .and(Sent::sample(CPU, second, 9_999))
            .and(good(seq as i64));
        for (server, range) in (1..).zip(ranges) {
            let said = range.unwrap_or_else(|| sent.span());
            let outcome = bench.send_as(server, 7, seq, NOON + 100, &sent, said).await;
            assert_eq!(outcome, Outcome::Stored);
        }
    }
    let n = far.len() as u64;
    for round in ["hot", "sealed", "looked at again"] {
        for (server, range) in (1..).zip(ranges) {
            let told = bench.n_requests(server, NOON, NOON + HOUR).await;
            assert_eq!(told, 3 * n, "{round}, {range:?}");
            let points = bench.points(server, CPU, NOON, NOON + HOUR).await;
            let values: Vec<i64> =
                points.iter().map(|point| (point.max * 10_000.0).round() as i64).collect();
            let want: Vec<i64> = (1..=n as i64).map(|n| 500 + n).collect();
            assert_eq!(values, want, "{round}, {range:?}");
        }
        bench.pack(NOON + 3 * HOUR).await;
    }
    // Two entries of each batch are nonsense, and each of them is counted once.
    let stats = bench.store.stats();
    let counted = (stats.entries_misdated.get(), stats.entries_expired.get());
    assert_eq!(counted, (2 * n * n_servers.unsigned_abs(), 0));
    assert_eq!(bench.days(), ["20261120.db"]);
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0, "nothing stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_back_loses_and_doubles_no_request() {
    let bench = Bench::new(1).await;
    // On time; two hours back; on time again. The clock is right all the time at the collector.
    let mut n_sent = 0;
    for seq in 1..=90_u64 {
        let at = NOON + 40 * seq as i64;
        let clock = if (30..60).contains(&seq) { at - 2 * HOUR } else { at };
        let sent = Sent::requests("a.example", clock, 2).and(Sent::sample(CPU, clock, seq as i64));
        assert_eq!(bench.send(1, 7, seq, at, &sent).await, Outcome::Stored);
        n_sent += 2;
        if seq == 45 {
            // The hour before noon is sealed while the clock is back in it.
            bench.pack(at).await;
        }
    }
    let span = (NOON - 3 * HOUR, NOON + 3 * HOUR);
    let points = bench.points(1, CPU, span.0, span.1).await;
    assert_eq!(points.len(), 90, "no instant twice");
    assert_eq!(bench.n_requests(1, span.0, span.1).await, n_sent);
    bench.pack(NOON + 5 * HOUR).await;
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    assert!(bench.n_of("SELECT max(parts) FROM sealed").await > 1, "what came late is a part");
    assert_eq!(bench.n_requests(1, span.0, span.1).await, n_sent);
    assert_eq!(bench.points(1, CPU, span.0, span.1).await, points);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counter_that_begins_anew_gives_the_same_rates_sealed_and_not() {
    let bench = Bench::new(1).await;
    // The machine boots after 20 samples, and again; the counter begins below where it was.
    let counter = |n: i64| 1000 * (n % 20) + if n < 20 { 5_000_000 } else { 3 };
    for seq in 1..=60_u64 {
        let at = NOON + 10 * seq as i64;
        let sent = Sent::sample(FAULTS, at, counter(seq as i64));
        assert_eq!(bench.send(1, 7, seq, at, &sent).await, Outcome::Stored);
    }
    // By the position of the sample: the first has none before it, and what a counter shows after the
    // machine booted came since. Hundredths, so that they can be compared.
    let want: Vec<(i64, i64)> =
        (2..=60).map(|n| (NOON + 10 * n, if n % 20 == 0 { 30 } else { 10_000 })).collect();
    for round in ["hot", "sealed"] {
        let points = bench.points(1, FAULTS, NOON, NOON + HOUR).await;
        let rate = |value: f64| (value * 100.0).round() as i64;
        let rates: Vec<(i64, i64)> =
            points.iter().map(|point| (point.at.0 / 1000, rate(point.max))).collect();
        assert_eq!(rates, want, "{round}");
        assert!(points.iter().all(|point| rate(point.min) == rate(point.max)), "{round}");
        bench.pack(NOON + 3 * HOUR).await;
    }
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reinstalled_server_goes_on_with_its_history() {
    let bench = Bench::new(1).await;
    for seq in 1..=5 {
        let sent = Sent::requests("a.example", NOON + seq as i64, 1);
        assert_eq!(bench.send(1, 1_000, seq, NOON + 60, &sent).await, Outcome::Stored);
    }
    bench.pack(NOON + 2 * HOUR).await;
    let joining = |tx: &rusqlite::Transaction<'_>| {
        let joining = fleet::Joining {
            uuid: ulid::Ulid::from(1_u128),
            name: "web-1",
            token: "replaced",
            key_sha256: [7; 32],
        };
        fleet::take_over(tx, ServerId(1), &joining, UnixMillis(NOON * 1000 + 1))
    };
    bench.store.write(joining).await.unwrap();
    // The new spool counts from 1 again, in a later epoch; the old machine is not heard any more.
    let at = NOON + 2 * HOUR;
    let sent = Sent::requests("a.example", at, 1);
    assert_eq!(bench.send(1, 2_000, 1, at, &sent).await, Outcome::Stored);
    assert_eq!(bench.send(1, 2_000, 1, at, &sent).await, Outcome::Duplicate);
    let old = bench.send(1, 1_000, 6, at, &sent).await;
    assert_eq!(old, Outcome::OldEpoch { known: 2_000 });
    bench.pack(NOON + 5 * HOUR).await;
    assert_eq!(bench.n_requests(1, NOON, NOON + 5 * HOUR).await, 6);
    assert_eq!(bench.n_of("SELECT count(*) FROM site").await, 1, "its site is the same one");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_under_a_forgotten_name_has_no_history_of_the_first() {
    let bench = Bench::new(1).await;
    let sent = Sent::requests("a.example", NOON, 11).and(Sent::sample(CPU, NOON, 5_000));
    bench.send(1, 7, 1, NOON + 60, &sent).await;
    bench.pack(NOON + 2 * HOUR).await;
    // Its last batch is hot when it is forgotten.
    let sent = Sent::requests("a.example", NOON + 2 * HOUR, 13);
    bench.send(1, 7, 2, NOON + 2 * HOUR, &sent).await;
    let again = |tx: &rusqlite::Transaction<'_>| {
        let now = UnixMillis((NOON + 2 * HOUR) * 1000);
        fleet::forget(tx, "web-1", now)?.expect("it is silent");
        let uuid = ulid::Ulid::from(99_u128);
        let joining = fleet::Joining { uuid, name: "web-1", token: "another", key_sha256: [9; 32] };
        fleet::create(tx, &joining, now)
    };
    let new = bench.store.write(again).await.unwrap().0;
    assert!(new > 1, "an id is never given twice");
    assert_eq!(bench.store.durable(ServerId(new)).seq, 0, "it begins with its own first batch");
    let at = NOON + 2 * HOUR + 60;
    let sent = Sent::requests("a.example", at, 17).and(Sent::sample(CPU, at, 1_000));
    assert_eq!(bench.send(new, 3, 1, at, &sent).await, Outcome::Stored);
    for round in ["hot", "sealed"] {
        let span = (NOON - HOUR, NOON + 5 * HOUR);
        let told = bench.counts(new, span.0, span.1).await.value;
        assert_eq!(told, BTreeMap::from([("a.example".to_owned(), 17)]), "{round}");
        assert_eq!(bench.points(new, CPU, span.0, span.1).await.len(), 1, "{round}");
        bench.pack(NOON + 5 * HOUR).await;
    }
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0, "the forgotten one's leaves too");
    assert_eq!(bench.send(1, 7, 3, at, &sent).await, Outcome::UnknownServer);
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_by_the_hundred_thousand_are_bounded_counted_and_add_up() {
    let bench = Bench::new(2).await;
    let (n_batches, n_sites) = (8_u64, 20_000_u32);
    for seq in 1..=n_batches {
        let site = |n| Sent::requests(&format!("{n}.{seq}.liar.example"), NOON + seq as i64, 1);
        let sent = (0..n_sites).map(site).reduce(Sent::and).unwrap();
        assert_eq!(bench.send(1, 7, seq, NOON + 60, &sent).await, Outcome::Stored);
        let honest = Sent::requests("a.example", NOON + seq as i64, 2);
        assert_eq!(bench.send(2, 7, seq, NOON + 60, &honest).await, Outcome::Stored);
    }
    let sites = bench.n_of("SELECT count(*) FROM site WHERE server_id = 1").await;
    assert!(sites <= i64::from(n_sites) + 1, "{sites} sites of one server");
    let n_all = n_batches * u64::from(n_sites);
    assert!(bench.store.stats().sites_refused.get() >= n_all - u64::from(n_sites));
    bench.pack(NOON + 3 * HOUR).await;
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    let told = bench.counts(1, NOON, NOON + HOUR).await;
    assert_eq!(told.notes, Notes::default());
    assert!(told.value.len() <= n_sites as usize + 1, "{} sites", told.value.len());
    assert_eq!(told.value.values().sum::<u64>(), n_all, "each request is counted");
    assert!(told.value[super::OTHER] >= n_all - u64::from(n_sites), "beyond the bound as `other`");
    let honest = bench.counts(2, NOON, NOON + HOUR).await.value;
    assert_eq!(honest, BTreeMap::from([("a.example".to_owned(), 2 * n_batches)]));
    let size = bench.day_file(NOON).metadata().unwrap().len();
    assert!(size < 4 << 20, "{size} bytes for an hour of one liar");
}

/// Has a machine enrol with a token of its own; `replace`: the server whose place it takes.
async fn join(
    store: &Store,
    key: u8,
    name: &str,
    replace: Option<&str>,
) -> Result<join::Joined, join::JoinRefusal> {
    let id = format!("token-{key}");
    let terms = TokenTerms {
        labels: BTreeMap::new(),
        replace: replace.map(str::to_owned),
        expires_at: UnixMillis((NOON + HOUR) * 1000),
        uses_max: 1,
    };
    let wish = join::JoinWish {
        token: format!("{id}.secret"),
        name: name.to_owned(),
        config: BTreeMap::new(),
        detected: BTreeMap::new(),
        new_uuid: ulid::Ulid::from(u128::from(key) << 64),
    };
    let now = UnixMillis(NOON * 1000);
    let cert = move |_, _: &str| {
        let (serial, key_sha256) = (vec![key; 16], [key; 32]);
        let not_after = UnixMillis((NOON + 90 * DAY) * 1000);
        Ok(SignedCert { der: Vec::new(), serial, key_sha256, not_after, renew_after: not_after })
    };
    let joining = move |tx: &rusqlite::Transaction<'_>| {
        tokens::insert(tx, &id, "secret", &terms, now)?;
        join::join(tx, &wish, now, cert)
    };
    store.write(joining).await.unwrap()
}

/// The server, and its name, that a certificate speaks for.
async fn admitted(store: &Store, joined: &join::Joined, uuid_of: i64) -> (i64, String) {
    let serial = joined.cert.serial.clone();
    let known = move |conn: &Connection| {
        let uuid = "SELECT uuid FROM server WHERE server_id = ?1";
        let uuid = conn.query_row(uuid, [uuid_of], |row| row.get(0))?;
        fleet::admit(conn, ulid::Ulid::from_bytes(uuid), &serial)
    };
    match store.read(known).await.unwrap() {
        fleet::Admission::Known { server, name } => (server.0, name),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_renamed_goes_on_as_the_old_one_or_as_another_and_never_as_a_mix() {
    let bench = Bench::new(0).await;
    let sent = |second, n| {
        Sent::requests("a.example", second, n).and(Sent::sample(CPU, second, i64::from(n)))
    };
    let first = join(&bench.store, 1, "web-1", None).await.unwrap();
    assert_eq!(bench.send(1, 7, 1, NOON + 60, &sent(NOON, 11)).await, Outcome::Stored);
    bench.pack(NOON + 2 * HOUR).await;
    // With its certificate it is who it was, whatever its host is called now.
    let known = (1, "web-1".to_owned());
    assert_eq!(admitted(&bench.store, &first, 1).await, known);
    // Without it, it is another server: a new name is a new history, and a name in use is refused.
    let refused = join(&bench.store, 2, "web-1", None).await.unwrap_err();
    assert!(matches!(&refused, join::JoinRefusal::NameInUse(name) if name == "web-1"), "{refused}");
    let other = join(&bench.store, 3, "shop-1", None).await.unwrap();
    assert_eq!(admitted(&bench.store, &other, 2).await, (2, "shop-1".to_owned()));
    let at = NOON + 2 * HOUR;
    assert_eq!(bench.send(2, 8, 1, at + 60, &sent(at, 13)).await, Outcome::Stored);
    // With a token that gives it the place of the old one it has its name and its history.
    let again = join(&bench.store, 4, "fresh-hostname", Some("web-1")).await.unwrap();
    assert_eq!((again.name.as_str(), again.replaced), ("web-1", true));
    assert_eq!(admitted(&bench.store, &again, 1).await, known);
    assert_eq!(bench.send(1, 9, 1, at + 60, &sent(at, 17)).await, Outcome::Stored);
    for round in ["hot", "sealed"] {
        let mut found = Vec::new();
        for server in [1, 2] {
            let n = bench.n_requests(server, NOON - HOUR, NOON + 5 * HOUR).await;
            let points = bench.points(server, CPU, NOON - HOUR, NOON + 5 * HOUR).await;
            let values = points.iter().map(|point| (point.max * 10_000.0).round() as i64);
            found.push((n, values.collect::<Vec<_>>()));
        }
        assert_eq!(found, [(11 + 17, vec![11, 17]), (13, vec![13])], "{round}");
        bench.pack(NOON + 5 * HOUR).await;
    }
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    assert_eq!(bench.n_of("SELECT count(*) FROM server").await, 2, "nobody else came of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_sites_of_servers_at_their_limit_are_all_kept_and_add_up() {
    const N_SITES: u32 = 20_000;
    const N_SERVERS: i64 = 10;
    let bench = Bench::new(N_SERVERS).await;
    for server in 1..=N_SERVERS {
        let site =
            |n| (format!("{n}.{server}.example"), NOON + i64::from(n % 3600), 200, 1 + n % 2);
        let sent = Sent { requests: (0..N_SITES).map(site).collect(), ..Sent::default() };
        assert_eq!(bench.send(server, 7, 1, NOON + HOUR, &sent).await, Outcome::Stored);
    }
    let n_sites = N_SERVERS * i64::from(N_SITES);
    assert_eq!(bench.n_of("SELECT count(*) FROM site").await, n_sites);
    assert_eq!(bench.store.stats().sites_refused.get(), 0);
    bench.pack(NOON + 3 * HOUR).await;
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    for server in [1, N_SERVERS / 2, N_SERVERS] {
        let told = bench.counts(server, NOON, NOON + HOUR).await;
        assert_eq!(told.notes, Notes::default());
        assert_eq!(told.value.len(), N_SITES as usize, "the sites of server {server}");
        assert_eq!(told.value.values().sum::<u64>(), u64::from(N_SITES) * 3 / 2);
        assert!(told.value.contains_key(&format!("7.{server}.example")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_by_the_ten_thousand_are_bounded_and_the_honest_series_stay() {
    let bench = Bench::new(2).await;
    let n_batches = 6_u64;
    for seq in 1..=n_batches {
        let at = NOON + 10 * seq as i64;
        let samples = (0..10_000)
            .map(|n| ("system.filesystem.utilization", format!("lie={n}.{seq}"), at, n % 10_000));
        let sent = Sent { samples: samples.collect(), ..Sent::default() };
        assert_eq!(bench.send(1, 7, seq, at, &sent).await, Outcome::Stored);
        let honest = Sent::sample(CPU, at, seq as i64);
        assert_eq!(bench.send(2, 7, seq, at, &honest).await, Outcome::Stored);
    }
    bench.pack(NOON + 3 * HOUR).await;
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    let n_series = bench.n_of("SELECT count(*) FROM metric").await;
    assert!(n_series <= 4096, "{n_series} series of an hour of two servers");
    assert!(bench.store.stats().samples_refused.get() > 0, "refused ones are counted");
    assert_eq!(bench.points(2, CPU, NOON, NOON + HOUR).await.len() as u64, n_batches);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_cannot_fill_the_catalog_of_series_hour_by_hour() {
    let bench = Bench::new(2).await;
    let metric = "system.filesystem.utilization";
    for hour in 0..4 {
        let at = NOON + hour * HOUR + 10;
        let samples = (0..1000).map(|n| (metric, format!("lie={n}.{hour}"), at, 1)).collect();
        let lies = Sent { samples, ..Sent::default() };
        assert_eq!(bench.send(1, 7, hour as u64 + 1, at, &lies).await, Outcome::Stored);
        let samples = (0..50).map(|n| (metric, format!("disk={n}.{hour}"), at, 1)).collect();
        let honest = Sent { samples, ..Sent::default() };
        assert_eq!(bench.send(2, 7, hour as u64 + 1, at, &honest).await, Outcome::Stored);
    }
    let of = async || {
        let lies = "SELECT count(*) FROM metric WHERE attribute LIKE 'lie=%'";
        let disks = "SELECT count(*) FROM metric WHERE attribute LIKE 'disk=%'";
        (bench.n_of(lies).await, bench.n_of(disks).await)
    };
    bench.pack(NOON + 6 * HOUR).await;
    assert_eq!(of().await, (2000, 200), "who lies pays alone");
    assert_eq!(bench.store.stats().samples_refused.get(), 2000);
    // Parts that come late are no way around it, but another day is.
    let at = NOON + 2 * HOUR + 20;
    for (seq, now, want) in [(5, NOON + 7 * HOUR, 2000), (6, NOON + 2 * DAY, 2500)] {
        let samples = (0..500).map(|n| (metric, format!("lie={n}.late{seq}"), at, 1)).collect();
        let lies = Sent { samples, ..Sent::default() };
        assert_eq!(bench.send(1, 7, seq, NOON + 6 * HOUR, &lies).await, Outcome::Stored);
        bench.pack(now).await;
        assert_eq!(of().await, (want, 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_and_days_in_which_nothing_fell_are_not_missing() {
    let bench = Bench::new(1).await;
    let (first, last) = (NOON + 10, NOON + 3 * DAY);
    // One batch over three days: the hours between are sealed with it, and have nothing.
    let sent = Sent::requests("a.example", first, 1).and(Sent::requests("a.example", last, 2));
    assert_eq!(bench.send(1, 7, 1, last, &sent).await, Outcome::Stored);
    bench.pack(last + 2 * HOUR).await;
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    assert_eq!(bench.n_of("SELECT count(*) FROM sealed WHERE parts = 0").await, 71);
    assert_eq!(bench.days(), ["20261120.db", "20261123.db"]);
    assert_eq!(bench.n_requests(1, NOON, last + HOUR).await, 3, "and no holes");
    bench.points(1, CPU, NOON, last + HOUR).await;
    assert_eq!(bench.store.stats().day_files_missing.get(), 0);
    let report = super::verify::verify(bench.dir.path(), UnixMillis(0));
    let of_days = report.problems.iter().filter(|problem| problem.file.starts_with("blocks"));
    assert_eq!(of_days.count(), 0, "{:?}", report.problems);
}

/// Three days with a request each 600 s, sealed; sends `1 + day` each time.
async fn three_days() -> Bench {
    let bench = Bench::new(1).await;
    let mut seq = 0;
    for day in 0..3 {
        for step in 0..12 {
            let at = NOON + day * DAY + step * 600;
            seq += 1;
            let sent = Sent::requests("a.example", at, 1 + day as u32);
            assert_eq!(bench.send(1, 7, seq, at, &sent).await, Outcome::Stored);
        }
    }
    bench.pack(NOON + 3 * DAY).await;
    assert_eq!(bench.days(), ["20261120.db", "20261121.db", "20261122.db"]);
    assert_eq!(bench.n_requests(1, NOON, NOON + 3 * DAY).await, 12 + 24 + 36);
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_file_deleted_by_hand_is_missing_and_the_other_days_are_served() {
    let bench = three_days().await;
    for tail in ["", "-wal", "-shm"] {
        let path = format!("{}{tail}", bench.day_file(NOON + DAY).display());
        drop(fs::remove_file(path));
    }
    let told = bench.counts(1, NOON, NOON + 3 * DAY).await;
    assert_eq!(told.value, BTreeMap::from([("a.example".to_owned(), 12 + 36)]));
    assert!(!told.notes.holes.is_empty(), "{:?}", told.notes);
    for hole in &told.notes.holes {
        assert_eq!(hole.why, "missing");
        assert!(hole.from.0 >= (NOON + DAY) * 1000 - 12 * HOUR * 1000, "{hole:?}");
        assert!(hole.to.0 <= (NOON + 2 * DAY) * 1000, "{hole:?}");
    }
    bench.pack(NOON + 3 * DAY + HOUR).await;
    assert_eq!(bench.counts(1, NOON, NOON + 3 * DAY).await.value["a.example"], 12 + 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn day_files_swapped_by_hand_are_never_served_as_another_day() {
    let bench = three_days().await;
    let (first, second) = (bench.day_file(NOON), bench.day_file(NOON + DAY));
    let aside = bench.dir.path().join("aside");
    for (from, to) in [(&first, &aside), (&second, &first), (&aside, &second)] {
        fs::rename(from, to).unwrap();
    }
    let told = bench.counts(1, NOON, NOON + 3 * DAY).await;
    assert_eq!(told.value, BTreeMap::from([("a.example".to_owned(), 36)]), "the third day alone");
    assert!(told.notes.holes.iter().all(|hole| hole.why == "damaged"), "{:?}", told.notes);
    assert!(!told.notes.holes.is_empty());
    assert!(first.exists() && second.exists(), "nothing is deleted");
}

/// Bytes and time of change of a file.
fn state_of(path: &Path) -> (Vec<u8>, std::time::SystemTime) {
    (fs::read(path).unwrap(), path.metadata().unwrap().modified().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_file_of_a_later_release_is_told_and_not_touched() {
    let bench = three_days().await;
    let path = bench.day_file(NOON + DAY);
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(conn);
    let was = state_of(&path);
    for n_late in 0..2 {
        let told = bench.counts(1, NOON, NOON + 3 * DAY).await;
        // What comes late stays with the batches.
        assert_eq!(told.value, BTreeMap::from([("a.example".to_owned(), 12 + 36 + n_late)]));
        assert!(!told.notes.holes.is_empty());
        let at = NOON + 3 * DAY;
        let seq = bench.store.durable(ServerId(1)).seq + 1;
        bench.send(1, 7, seq, at, &Sent::requests("a.example", NOON + DAY + 5, 1)).await;
        flush(&bench.store).await;
        drop(bench.keeper.pass(UnixMillis((at + HOUR) * 1000)).await);
        assert_eq!(state_of(&path), was, "not a byte");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leap_days_and_turns_of_months_and_years_are_days_like_others() {
    let bench = Bench::new(1).await;
    // The last and the first ten seconds around midnight, UTC, of each.
    let midnights = [
        ("20280229", 1_835_481_600), // 2028-03-01T00:00:00Z, after a leap day
        ("20270228", 1_803_859_200), // 2027-03-01T00:00:00Z, none that year
        ("20271231", 1_830_297_600), // 2028-01-01T00:00:00Z
        ("20280430", 1_840_752_000), // 2028-05-01T00:00:00Z
    ];
    let mut n_days = 0;
    let mut seq = 0;
    let mut order = midnights;
    order.sort_by_key(|(_, midnight)| *midnight);
    for (day, midnight) in order {
        for (second, n) in [(midnight - 10, 3), (midnight - 1, 5), (midnight, 7), (midnight + 9, 9)]
        {
            seq += 1;
            let sent =
                Sent::requests("a.example", second, n).and(Sent::sample(CPU, second, i64::from(n)));
            assert_eq!(bench.send(1, 7, seq, second + 1, &sent).await, Outcome::Stored);
        }
        bench.pack(midnight + 3 * HOUR).await;
        let name = format!("{day}.db");
        // Those of the months before have left by age.
        assert_eq!(bench.days()[0], name, "{:?}", bench.days());
        n_days += bench.days().len();
        assert_eq!(bench.n_requests(1, midnight - HOUR, midnight).await, 8, "{day} before");
        assert_eq!(bench.n_requests(1, midnight, midnight + HOUR).await, 16, "{day} after");
        let points = bench.points(1, CPU, midnight - HOUR, midnight + HOUR).await;
        let at: Vec<i64> = points.iter().map(|point| point.at.0 / 1000 - midnight).collect();
        assert_eq!(at, [-10, -1, 0, 9], "{day}");
    }
    assert_eq!(bench.n_of("SELECT count(*) FROM hot").await, 0);
    assert_eq!(n_days, 2 * midnights.len(), "one before and one after each midnight");
}
