//! A known past through a real store: hot, sealed and summed up it tells the same figures, those of the samples.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use tokio_util::sync::CancellationToken;
use wire::units::Span;
use wire::v1::{self, BatchBody, SiteSecond, Tick};
use wire::{UnixMillis, catalog};

use crate::config::{RetentionConfig, StoreConfig};
use crate::model::ServerId;
use crate::report::ask::{Ask, Progress};
use crate::report::capacity::input::{Input, Series, Server};
use crate::report::document::Kind;
use crate::report::gather;
use crate::store::history::{Limits, Notes, Told};
use crate::store::{Keeper, Ledger, NewBatch, SiteSeen, Store, WriteTx};

/// 2026-11-02T00:00:00Z.
const START: i64 = 1_793_577_600;
const HOURS: i64 = 26;
/// Seconds between samples: three a minute.
const EVERY_S: i64 = 20;
const POOL: &str = "phpfpm.pool=www";
const ROOT: &str = "system.filesystem.mountpoint=/";
const RECEIVE: &str = "system.network.io.receive";
const ETH: &str = "network.interface.name=eth0";

/// Anything, always the same.
fn noise(seed: i64, second: i64) -> f64 {
    let mut x = (seed * 1_000_003 + second).cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x >> 40) as f64 / (1_u64 << 24) as f64
}

/// What server 1 says of a second.
fn said(second: i64) -> Vec<(&'static str, &'static str, f64)> {
    let minute = second / 60;
    let busy = if minute == 90 { 10.0 } else { (noise(1, second) * 8.0).floor() };
    let memory = if minute == 100 { 0.99 } else { 0.4 + 0.2 * noise(2, second) };
    let steal = if minute == 110 { 0.3 } else { 0.01 };
    let used = 0.5 + 0.1 * second as f64 / (HOURS * 3600) as f64;
    // The machine boots again in the 20th hour.
    let counted = if second < 20 * 3600 { second * 1000 } else { (second - 20 * 3600) * 500 };
    vec![
        ("system.cpu.logical.count", "", if second < 12 * 3600 { 4.0 } else { 8.0 }),
        ("system.cpu.utilization", "", noise(3, second)),
        ("system.cpu.steal", "", steal),
        ("system.memory.limit", "", 8e9),
        ("system.memory.available", "", 4e9),
        ("system.memory.utilization", "", memory),
        ("system.filesystem.utilization", ROOT, used),
        ("system.filesystem.free", ROOT, ((1.0 - used) * 1e11).round()),
        ("phpfpm.active_processes", POOL, busy),
        ("phpfpm.max_children", POOL, 10.0),
        ("phpfpm.listen_queue", POOL, if minute == 90 { 3.0 } else { 0.0 }),
        ("phpfpm.max_children_reached", POOL, if minute < 90 { 0.0 } else { 1.0 }),
        ("phpfpm.total_processes", POOL, 10.0),
        ("phpfpm.memory_per_process", POOL, 1e8),
        (RECEIVE, ETH, counted as f64),
    ]
}

/// The statuses of a second of `a.example`.
fn answered(second: i64) -> (u32, u32) {
    let n_502 = if [90, 100, 110, 120].contains(&(second / 60)) { 2 } else { 0 };
    (if second % 10 == 0 { 7 } else { 0 }, n_502)
}

fn hour(hour: i64) -> BatchBody {
    let mut body = BatchBody {
        sites: vec![v1::Site { name: "a.example".into(), ..v1::Site::default() }],
        ..BatchBody::default()
    };
    for (metric, attribute, _) in said(0) {
        body.series.push(v1::Series { metric: metric.into(), attribute: attribute.into() });
    }
    for second in (hour * 3600..hour * 3600 + 3600).filter(|second| second % 10 == 0) {
        let (n_200, n_502) = answered(second);
        let (status, count) = (vec![200, 502], vec![n_200, n_502]);
        body.seconds.push(SiteSecond { site: 0, second: START + second, status, count });
        if second % EVERY_S == 0 {
            let scaled = |(metric, _, value): (&str, &str, f64)| {
                catalog::find(metric).unwrap().to_wire(value).unwrap()
            };
            body.ticks.push(Tick {
                at_unix_ms: (START + second) * 1000,
                series: (0..said(0).len() as u32).collect(),
                value: said(second).into_iter().map(scaled).collect(),
            });
        }
    }
    body
}

async fn append(store: &Store, server: i64, seq: u64, body: &BatchBody) {
    let times = || body.ticks.iter().map(|tick| tick.at_unix_ms);
    let (first, last) = (times().min().unwrap(), times().max().unwrap());
    let pool = Some("www".to_owned());
    let site = SiteSeen { name: "a.example".into(), pool, upstream: None, owner: None };
    let batch = NewBatch {
        server: ServerId(server),
        epoch: 1,
        seq,
        n_evicted: 0,
        n_lines_evicted: 0,
        n_bytes_evicted: 0,
        at: UnixMillis(last + 1000),
        t_min: UnixMillis(first),
        t_max: UnixMillis(last),
        complete_until: UnixMillis(last + 1000),
        urgent: false,
        codec: 1,
        body: zstd::bulk::compress(&body.encode_to_vec(), 1).unwrap(),
        sites: if body.sites.is_empty() { Vec::new() } else { vec![site] },
        losses: Vec::new(),
        ledger: Ledger::default(),
    };
    store.append(batch).await.unwrap().await.unwrap().unwrap();
}

async fn enrol(store: &Store) {
    let insert = |tx: &WriteTx<'_>| {
        for (id, name) in [(1_i64, "web-1"), (2, "web-2"), (3, "web-3")] {
            let insert = "INSERT INTO server(server_id, uuid, name, first_seen, last_seen)
                          VALUES (?1, ?2, ?3, 0, 0)";
            tx.execute(insert, (id, ulid::Ulid::from(id as u128).to_bytes(), name))?;
        }
        Ok(())
    };
    store.write(insert).await.unwrap();
}

async fn capacity(store: &Store) -> Input {
    let told = capacity_while(store, |_| {}).await;
    assert_eq!(told.notes, Notes::default());
    told.value
}

/// The same, with something that happens while it is read.
async fn capacity_while(
    store: &Store,
    mut happens: impl FnMut(Progress) + Send + 'static,
) -> Told<Input> {
    let ask = Ask {
        kind: Kind::Capacity,
        from: UnixMillis::from_second(START),
        to: UnixMillis::from_second(START + HOURS * 3600),
        server: None,
        labels: BTreeMap::new(),
        now: UnixMillis::from_second(START + HOURS * 3600),
    };
    let told = store.history(Limits::default(), move |history| {
        let members = gather::members(history, &ask)?;
        super::capacity(history, &ask, &members, &mut happens)
    });
    told.await.unwrap()
}

fn keeper(store: &Store, retention: RetentionConfig) -> Keeper {
    let none = Span(Duration::ZERO);
    let pace = StoreConfig {
        seal_after: none,
        late_after: none,
        seal_interval: Span(Duration::from_secs(60)),
    };
    Keeper::new(store.clone(), pace, retention, CancellationToken::new())
}

async fn n_summed(store: &Store) -> i64 {
    let n = "SELECT count(*) FROM sealed WHERE rolled > 0";
    store.read(move |conn| conn.query_row(n, [], |row| row.get(0))).await.unwrap()
}

/// Means of minutes of a gauge, least first.
fn means(metric: &str, attribute: &str) -> Vec<f64> {
    let scale = catalog::find(metric).unwrap().scale;
    let value = |second: i64| {
        let of = |(m, a, _): &(&str, &str, f64)| *m == metric && *a == attribute;
        let value = said(second).into_iter().find(of).unwrap().2;
        (value * scale).round() / scale
    };
    let mut means: Vec<f64> = (0..HOURS * 60)
        .map(|minute| (0..3).map(|n| value(minute * 60 + n * EVERY_S)).sum::<f64>() / 3.0)
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    means
}

fn near(found: Option<f64>, want: f64, what: &str) {
    let found = found.unwrap_or_else(|| panic!("{what} is not known"));
    assert!((found - want).abs() <= 0.0101 * want.abs() + 1e-9, "{what}: {found}, not {want}");
}

fn series<'a>(server: &'a Server, metric: &'static str, attribute: &str) -> &'a Series {
    &server.series[&(metric, Box::from(attribute))]
}

fn check_gauges(server: &Server) {
    for (metric, attribute) in [
        ("system.cpu.utilization", ""),
        ("system.cpu.steal", ""),
        ("system.memory.utilization", ""),
        ("system.filesystem.utilization", ROOT),
        ("phpfpm.active_processes", POOL),
        ("phpfpm.listen_queue", POOL),
    ] {
        let (view, means) =
            (series(server, metric, attribute).parts.plain(), means(metric, attribute));
        assert_eq!(view.n_minutes(), means.len() as u64, "{metric}");
        if series(server, metric, attribute).parts.n() == 1 {
            for q in [0.5, 0.95, 0.99] {
                let want = means[(q * (means.len() - 1) as f64) as usize];
                near(view.quantile(q), want, &format!("{metric} {q}"));
            }
        }
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        near(view.mean(), mean, metric);
    }
}

fn check(input: &Input) {
    let web_1 = &input.servers[&ServerId(1)];
    check_gauges(web_1);
    assert_eq!(web_1.seen.n() as i64, HOURS);
    let cpu = series(web_1, "system.cpu.utilization", "");
    let mut busy: Vec<f64> = Vec::new();
    for minute in 0..HOURS * 60 {
        let n_cpu = if minute < 12 * 60 { 4.0 } else { 8.0 };
        let value = |n: i64| (noise(3, minute * 60 + n * EVERY_S) * 1e4).round() / 1e4;
        busy.push(n_cpu * (value(0) + value(1) + value(2)) / 3.0);
    }
    busy.sort_unstable_by(f64::total_cmp);
    let want = busy[(0.95 * (busy.len() - 1) as f64) as usize];
    let found = cpu.parts.amounts().quantile(0.95).unwrap();
    assert!((found - want).abs() < 0.025 * want, "{found} of {want} processors");
    assert_eq!(web_1.vcpu(), Some(8.0));
    near(web_1.disk(), 1e11, "disk");
    let received = series(web_1, RECEIVE, ETH);
    near(received.parts.plain().quantile(0.5), 1000.0, "received a second");
    // An hour's first sample follows none: 20 s of each are not told, 40 after the boot.
    let told = 20.0 * 3580.0 * 1000.0 + 6.0 * 3580.0 * 500.0;
    near(Some(received.rise), told, "received");
    let site = &web_1.sites[0];
    let (mut n, mut n_502) = (0, 0);
    for second in (0..HOURS * 3600).step_by(10) {
        let (ok, bad) = answered(second);
        n += u64::from(ok + bad);
        n_502 += u64::from(bad);
    }
    assert_eq!(
        (site.name.as_str(), site.n, site.n_gateway, site.n_bad_minutes),
        ("a.example", n, n_502, 4)
    );
    let errors = web_1.errors;
    assert_eq!(
        (errors.n, errors.exhausted, errors.memory_full, errors.steal, errors.unknown),
        (4, 1, 1, 1, 1)
    );
    assert_eq!(web_1.exhausted, BTreeMap::from([("www".to_owned(), 1)]));
    assert_eq!(web_1.n_errors_by_hour, 0);
    let web_2 = &input.servers[&ServerId(2)];
    assert_eq!((web_2.seen.n(), web_2.n_days()), (1, 1.0 / 24.0), "one sample");
    assert_eq!(
        series(web_2, "system.cpu.utilization", "").parts.plain().quantile(0.99),
        Some(0.25)
    );
    assert_eq!(input.servers[&ServerId(3)].seen.n(), 0, "nothing was ever sent");
}

#[tokio::test]
async fn hot_sealed_and_summed_up_hours_tell_the_same_figures() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store).await;
    for n in 0..HOURS {
        append(&store, 1, n as u64 + 1, &hour(n)).await;
    }
    let one = BatchBody {
        series: vec![v1::Series {
            metric: "system.cpu.utilization".into(),
            attribute: String::new(),
        }],
        ticks: vec![Tick { at_unix_ms: (START + 30) * 1000, series: vec![0], value: vec![2500] }],
        ..BatchBody::default()
    };
    append(&store, 2, 1, &one).await;
    let hot = capacity(&store).await;
    check(&hot);
    let keeper = keeper(&store, RetentionConfig::default());
    keeper.pass(UnixMillis::from_second(START + HOURS * 3600)).await.unwrap();
    let sealed = capacity(&store).await;
    check(&sealed);
    for _ in 0..3 {
        keeper.pass(UnixMillis::from_second(START + 4 * 86_400)).await.unwrap();
    }
    assert!(n_summed(&store).await >= 24, "a day is summed up");
    let summed = capacity(&store).await;
    check(&summed);
    for id in [1, 3] {
        let id = ServerId(id);
        assert_eq!(sealed.servers[&id], hot.servers[&id]);
        assert_eq!(summed.servers[&id], sealed.servers[&id]);
    }
}

#[tokio::test]
async fn no_minute_with_errors_is_lost_when_its_day_leaves_while_a_report_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store).await;
    for n in 0..HOURS {
        append(&store, 1, n as u64 + 1, &hour(n)).await;
    }
    let days_later = |n: i64| UnixMillis::from_second(START + n * 86_400);
    let summing = keeper(&store, RetentionConfig::default());
    for _ in 0..3 {
        summing.pass(days_later(4)).await.unwrap();
    }
    assert!(n_summed(&store).await >= 24, "a day is summed up");
    let before = capacity(&store).await;
    let errors = before.servers[&ServerId(1)].errors;
    assert_eq!((errors.n, before.servers[&ServerId(1)].n_errors_by_hour), (4, 0));
    let day = dir.path().join("blocks/20261102.db");
    assert!(day.exists());
    let short = RetentionConfig { raw: Span(Duration::from_secs(86_400)), ..Default::default() };
    let (leaving, here) = (keeper(&store, short), tokio::runtime::Handle::current());
    let told = capacity_while(&store, move |progress| {
        if progress.what == "reads minutes with errors" {
            here.block_on(leaving.pass(days_later(4))).unwrap();
        }
    });
    let told = told.await;
    assert!(!day.exists(), "it left while the report was read");
    let web_1 = &told.value.servers[&ServerId(1)];
    assert_eq!((web_1.errors.n, web_1.n_errors_by_hour), (4, 4), "{:?}", web_1.errors);
    assert_eq!(web_1.sites[0].n_bad_minutes, 4);
    let whys: Vec<&str> = told.notes.holes.iter().map(|hole| hole.why.as_str()).collect();
    assert!(!whys.is_empty() && whys.iter().all(|why| *why == "missing"), "{whys:?}");
    // The next one knows that only sums are left.
    let after = capacity_while(&store, |_| {}).await;
    assert_eq!(after.notes, Notes::default());
    let again = &after.value.servers[&ServerId(1)];
    assert_eq!((again.errors, again.n_errors_by_hour), (web_1.errors, 4));
}
