//! Days of a fleet, put into stores at once: ours, hour by hour as its keeper sees them, and beside it
//! VictoriaMetrics and plain rows of SQLite with the same values.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gatewatch_collector::clock;
use gatewatch_collector::config::{RetentionConfig, StoreConfig};
use gatewatch_collector::model::ServerId;
use gatewatch_collector::store::fleet::{self, Joining};
use gatewatch_collector::store::{Keeper, Ledger, NewBatch, SiteSeen, Store, incidents};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::units::Span;
use wire::v1::BatchBody;

use crate::agents::{Failed, name, sites};
use crate::cost::{cpu_s, disk_bytes};
use crate::pack::pack;
use crate::values::{Machine, table, tick};
use crate::victoria::{Remote, Sample, WriteRequest, series};

/// Seconds that sites have counted before a batch of one sample.
const STEP_S: i64 = 10;
const HOUR_S: i64 = 3600;
/// Batches on their way into the store.
const IN_FLIGHT: usize = 2048;

/// What is put into a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Days {
    pub(crate) n_servers: u64,
    /// First second; of an hour.
    pub(crate) from: i64,
    pub(crate) n_hours: i64,
    /// Series of each server.
    pub(crate) n_series: usize,
    pub(crate) n_sites: u32,
    /// Samples of a batch.
    pub(crate) per_batch: i64,
    /// Seconds between samples.
    pub(crate) step_s: i64,
}

impl Days {
    pub(crate) fn n_values(&self) -> i64 {
        self.n_servers as i64 * self.n_hours * (HOUR_S / self.step_s) * self.n_series as i64
    }

    /// Seconds of the batches of an hour.
    pub(crate) fn batches(&self, hour: i64) -> Vec<Vec<i64>> {
        let first = self.from + hour * HOUR_S;
        let seconds: Vec<i64> =
            (0..HOUR_S / self.step_s).map(|no| first + no * self.step_s).collect();
        seconds.chunks(self.per_batch as usize).map(<[i64]>::to_vec).collect()
    }

    pub(crate) fn machines(&self) -> Vec<Machine> {
        (0..self.n_servers).map(Machine::new).collect()
    }
}

/// A packed body with the samples of some seconds, and what sites counted since the one before.
pub(crate) fn body(
    machine: &mut Machine,
    seconds: &[i64],
    n_series: usize,
    (server, n_sites): (u64, u32),
) -> (u32, Vec<u8>) {
    let ticks = seconds.iter().map(|at| tick(*at, &machine.sample(*at), n_series)).collect();
    let mut body = BatchBody { series: table(n_series), ticks, ..BatchBody::default() };
    if let (1.., [first, .., last] | [first @ last]) = (n_sites, seconds) {
        crate::sites::add(&mut body, server, n_sites, first - STEP_S..*last);
    }
    pack(&body)
}

/// Fills a new store in `dir`; with `seals` its keeper packs each hour when it is due.
pub(crate) async fn fill(dir: &Path, days: Days, seals: bool) -> Result<Value, Failed> {
    let store = Store::open(dir)?;
    let servers = found(&store, days).await?;
    let retention = RetentionConfig {
        raw: Span(Duration::from_secs(400 * 86_400)),
        ..RetentionConfig::default()
    };
    let pace = StoreConfig::default();
    let keeper = Keeper::new(store.clone(), pace, retention, CancellationToken::new());
    let mut machines = days.machines();
    let (mut append_s, mut seal_s, mut seal_cpu_s, mut n_batches) = (0.0, 0.0, 0.0, 0);
    let me = std::process::id();
    for hour in 0..days.n_hours {
        let batches = days.batches(hour);
        let bodies = packed(&mut machines, &batches, days);
        let began = clock::instant();
        n_batches += append(&store, &servers, &batches, bodies, (hour, days)).await?;
        append_s += began.elapsed().as_secs_f64();
        if seals {
            let (began, cpu) = (clock::instant(), cpu_s(me));
            pass(&store, &keeper, days.from + (hour + 1) * HOUR_S).await?;
            seal_s += began.elapsed().as_secs_f64();
            seal_cpu_s += cpu_s(me) - cpu;
        }
    }
    if seals {
        // The last hours, then the days that are over.
        for later in [2 * HOUR_S, 2 * HOUR_S, 30 * HOUR_S, 60 * HOUR_S] {
            pass(&store, &keeper, days.from + days.n_hours * HOUR_S + later).await?;
        }
    }
    store.close().await?;
    drop((keeper, store));
    let size = |name: &str| disk_bytes(&dir.join(name));
    Ok(json!({
        "n_values": days.n_values(), "n_batches": n_batches, "append_s": append_s,
        "seal_s": seal_s, "seal_cpu_s": seal_cpu_s,
        "hot_bytes": size("gatewatch.db") + size("gatewatch.db-wal"),
        "block_bytes": size("blocks"), "rollup_bytes": size("rollup"),
    }))
}

/// Fills a new store whose keeper packs each hour when it is due; the last one stays as it came.
pub(crate) async fn fill_open(dir: &Path, days: Days) -> Result<(), Failed> {
    let store = Store::open(dir)?;
    let servers = found(&store, days).await?;
    let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
    let keeper = Keeper::new(store.clone(), pace, retention, CancellationToken::new());
    let mut machines = days.machines();
    for hour in 0..days.n_hours {
        let batches = days.batches(hour);
        let bodies = packed(&mut machines, &batches, days);
        append(&store, &servers, &batches, bodies, (hour, days)).await?;
        pass(&store, &keeper, days.from + (hour + 1) * HOUR_S).await?;
    }
    Ok(store.close().await?)
}

/// As the task of the collector does; the detector has read everything.
async fn pass(store: &Store, keeper: &Keeper, at: i64) -> Result<(), Failed> {
    let upto = *store.committed().borrow();
    store.write(move |tx| incidents::save_snapshot(tx, upto, b"bench")).await?;
    Ok(keeper.pass(UnixMillis(at * 1000)).await?)
}

/// Files the servers.
async fn found(store: &Store, days: Days) -> Result<Vec<ServerId>, Failed> {
    let now = UnixMillis(days.from * 1000);
    let file = move |tx: &gatewatch_collector::store::WriteTx<'_>| {
        let one = |server: u64| {
            let (uuid, name) = (ulid::Ulid::from(u128::from(server) + 1), name(server));
            let joining = Joining { uuid, name: &name, token: "bench", key_sha256: [0; 32] };
            fleet::create(tx, &joining, now)
        };
        (0..days.n_servers).map(one).collect::<Result<Vec<_>, _>>()
    };
    Ok(store.write(file).await?)
}

/// A body with its codec.
type Packed = (u32, Vec<u8>);

/// Bodies of an hour: of each server, one for each batch. On two processors.
fn packed(machines: &mut [Machine], batches: &[Vec<i64>], days: Days) -> Vec<Vec<Packed>> {
    let half = machines.len().div_ceil(2).max(1);
    std::thread::scope(|scope| {
        let part = |(part, machines): (usize, &mut [Machine])| {
            let of = |(no, machine): (usize, &mut Machine)| {
                let server = (part * half + no) as u64;
                let one = |at: &Vec<i64>| body(machine, at, days.n_series, (server, days.n_sites));
                batches.iter().map(one).collect::<Vec<_>>()
            };
            machines.iter_mut().enumerate().map(of).collect::<Vec<_>>()
        };
        let parts: Vec<_> = machines.chunks_mut(half).enumerate().collect();
        let running: Vec<_> =
            parts.into_iter().map(|chunk| scope.spawn(move || part(chunk))).collect();
        running.into_iter().flat_map(|part| part.join().expect("it packs")).collect()
    })
}

/// Batches in the order in which they come: all servers, then the next.
async fn append(
    store: &Store,
    servers: &[ServerId],
    batches: &[Vec<i64>],
    mut bodies: Vec<Vec<Packed>>,
    (hour, days): (i64, Days),
) -> Result<u64, Failed> {
    let names: Vec<SiteSeen> = sites(days.n_sites)
        .into_iter()
        .map(|site| SiteSeen {
            name: site.name,
            pool: Some(site.pool),
            upstream: None,
            owner: None,
        })
        .collect();
    let (mut waiting, mut n) = (Vec::new(), 0);
    for (no, seconds) in batches.iter().enumerate() {
        let ms = |at: Option<&i64>| UnixMillis(at.copied().unwrap_or_default() * 1000);
        let (t_min, t_max) = (ms(seconds.first()), ms(seconds.last()));
        for (server, bodies) in servers.iter().zip(&mut bodies) {
            let (codec, body) = std::mem::take(&mut bodies[no]);
            let batch = NewBatch {
                server: *server,
                epoch: 1,
                seq: hour as u64 * batches.len() as u64 + no as u64 + 1,
                n_evicted: 0,
                n_lines_evicted: 0,
                n_bytes_evicted: 0,
                at: UnixMillis(t_max.0 + 500),
                t_min: if days.n_sites > 0 { UnixMillis(t_min.0 - STEP_S * 1000) } else { t_min },
                t_max,
                complete_until: t_max,
                urgent: false,
                codec,
                body,
                sites: names.clone(),
                losses: Vec::new(),
                ledger: Ledger::default(),
            };
            waiting.push(store.append(batch).await?);
            n += 1;
            if waiting.len() >= IN_FLIGHT {
                for done in waiting.drain(..) {
                    done.await??;
                }
            }
        }
    }
    for done in waiting {
        done.await??;
    }
    Ok(n)
}

/// The same values by remote write, an hour of a server in a request.
pub(crate) async fn fill_victoria(address: SocketAddr, days: Days) -> Result<Value, Failed> {
    let mut remote = Remote::connect(address).await?;
    let mut machines = days.machines();
    for hour in 0..days.n_hours {
        let seconds = days.batches(hour).concat();
        for (server, machine) in machines.iter_mut().enumerate() {
            let mut timeseries = series(server as u64, days.n_series);
            for second in &seconds {
                let row = machine.sample(*second);
                for (no, (series, value)) in timeseries.iter_mut().zip(row).enumerate() {
                    series.samples.push(Sample::new(no, value, *second));
                }
            }
            remote.write(&WriteRequest { timeseries }).await?;
        }
    }
    Ok(json!({"n_values": days.n_values()}))
}
