//! Stage 1a: the machine -> resource samples and service states.
//!
//! Samples are taken at wall-clock multiples of `[probes] interval`, so that series of all servers
//! line up; once a second while gateway errors flow and for 60 s after. A value that cannot be read
//! is absent, never zero.

mod cpu;
mod disk;
mod latest;
pub(crate) mod listeners;
mod memory;
mod network;
mod pressure;
mod processes;
mod procfile;
mod services;
mod systemd;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::clock;
use crate::discover::Discovery;
use crate::gather::GatherStatus;
use crate::selfstats;
use crate::window::Observation;
pub use latest::Latest;

/// What one sampling yields: metric of the catalog, attribute (`""` or `key=value`), value.
pub(crate) type Values = Vec<(&'static str, String, f64)>;

/// Interval while gateway errors flow, and for [`FAST_FOR`] after the last one.
const FAST: Duration = Duration::from_secs(1);
const FAST_FOR: Duration = Duration::from_secs(60);

/// Filesystems and agent counters change slowly: looked at every 10 s, give or take a late timer.
const SLOW_MS: i64 = 9_500;

/// Shortest interval, whatever is configured.
const STEP_MS_MIN: i64 = 100;

/// A sample taken this little after its instant is stamped with the instant itself.
const LATE_MS: i64 = 20;

/// The way observations take to the gather thread.
///
/// Never waits: a full queue means that the gather thread is stuck behind a full disk, so the
/// observation is dropped and counted, and the count travels as `n_events_dropped`.
#[derive(Clone, Debug)]
pub struct Outlet {
    tx: mpsc::Sender<Observation>,
    n_dropped: Arc<AtomicU64>,
    latest: Latest,
}

impl Outlet {
    /// `n_dropped` is shared with the gather thread, which takes (`swap(0)`) it into the loss ledger.
    #[must_use]
    pub fn new(tx: mpsc::Sender<Observation>, n_dropped: Arc<AtomicU64>) -> Self {
        Self { tx, n_dropped, latest: Latest::default() }
    }

    /// What was handed on last, for `status`.
    #[must_use]
    pub fn latest(&self) -> Latest {
        self.latest.clone()
    }

    /// Hands one observation on; false when it was dropped and counted.
    pub fn send(&self, observation: Observation) -> bool {
        self.latest.keep(&observation);
        let sent = self.tx.try_send(observation).is_ok();
        if !sent {
            self.n_dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }
}

/// What the probes need from the rest of the agent.
#[derive(Debug)]
pub struct ProbeInputs {
    /// `[probes] interval`.
    pub interval: Duration,
    /// `[logs] root`: under another root than `/` only processes started from there are services.
    pub root: PathBuf,
    /// What discovery found, and finds later.
    pub discovery: watch::Receiver<Arc<Discovery>>,
    /// Tells when the last gateway error was read; probes speed up for a minute.
    pub gather: watch::Receiver<GatherStatus>,
    /// Bytes of unacked batches, for the agent's own series.
    pub spool_bytes: Arc<AtomicU64>,
}

/// Starts the resource probes and the service watch on the current runtime; both end with `stop`.
///
/// Sampling itself runs on the blocking pool: `statvfs` on a dying disk may hang, and then only the
/// samples stop.
pub fn spawn(inputs: ProbeInputs, outlet: Outlet, stop: CancellationToken) -> JoinHandle<()> {
    let watcher = services::Watcher::new(
        inputs.root.clone(),
        inputs.discovery.clone(),
        inputs.gather.clone(),
    );
    tokio::spawn(async move {
        tokio::join!(
            watcher.run(outlet.clone(), stop.clone()),
            sample_until(inputs, &outlet, &stop)
        );
    })
}

async fn sample_until(inputs: ProbeInputs, outlet: &Outlet, stop: &CancellationToken) {
    let ProbeInputs { interval, gather, spool_bytes, .. } = inputs;
    let mut sampler = Sampler::new(spool_bytes);
    // The first look only sets the baseline that shares of time are taken against.
    sampler.sample(clock::now(), &mut Values::new());
    sampler.slow_at = None;
    let mut last = clock::now();
    loop {
        let now = clock::now();
        let error_at = gather.borrow().gateway_error_at;
        let due = next_due(last, now, current_interval(interval, error_at, now));
        if due.0 > now.0 {
            // Looks at the errors each second rather than waiting for a change of the gather thread's
            // status, which changes with every line read.
            let wait = Duration::from_millis((due.0 - now.0).unsigned_abs()).min(FAST);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a timer. It is set anew from the wall clock each round, so missed
                // instants are skipped and a stepped clock is followed.
                () = tokio::time::sleep(wait) => continue,
            }
        }
        last = due;
        let at = if now.0 - due.0 <= LATE_MS { due } else { now };
        let sampled = tokio::task::spawn_blocking(move || {
            let mut values = Values::new();
            sampler.sample(at, &mut values);
            (sampler, values)
        });
        let Ok((back, values)) = sampled.await else { return };
        sampler = back;
        outlet.send(Observation::Samples { at, values });
        if stop.is_cancelled() {
            return;
        }
    }
}

/// One second while the last gateway error is at most a minute old, else the configured interval.
fn current_interval(
    configured: Duration,
    error_at: Option<UnixMillis>,
    now: UnixMillis,
) -> Duration {
    let fast_ms = FAST_FOR.as_millis() as i64;
    match error_at {
        Some(at) if now.0 - at.0 <= fast_ms => configured.min(FAST),
        _ => configured,
    }
}

/// The instant to sample at: the latest multiple of `interval` up to `now` if it is past `last`, else
/// the next one. So missed instants are made up for once, and a clock set back starts anew.
fn next_due(last: UnixMillis, now: UnixMillis, interval: Duration) -> UnixMillis {
    let step = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(STEP_MS_MIN);
    let latest = now.0.div_euclid(step) * step;
    let missed = last.0 < latest;
    UnixMillis(if missed { latest } else { latest.saturating_add(step) })
}

/// All resource probes with what they remember between two looks.
#[derive(Debug)]
struct Sampler {
    cpu: cpu::Cpu,
    memory: memory::Memory,
    pressure: pressure::Pressure,
    disk: disk::Disk,
    network: network::Network,
    spool_bytes: Arc<AtomicU64>,
    slow_at: Option<UnixMillis>,
}

impl Sampler {
    fn new(spool_bytes: Arc<AtomicU64>) -> Self {
        Self {
            cpu: cpu::Cpu::new(),
            memory: memory::Memory::new(),
            pressure: pressure::Pressure::new(),
            disk: disk::Disk::new(),
            network: network::Network::new(),
            spool_bytes,
            slow_at: None,
        }
    }

    /// Takes every value once. Cost: a dozen small files of /proc, no walk over processes.
    fn sample(&mut self, at: UnixMillis, out: &mut Values) {
        self.cpu.sample(out);
        self.memory.sample(out);
        self.pressure.sample(out);
        self.network.sample(out);
        self.disk.sample_io(out);
        let slow = self.slow_at.is_none_or(|last| at.0 - last.0 >= SLOW_MS || at.0 < last.0);
        if slow {
            self.slow_at = Some(at);
            self.disk.sample_usage(out);
            self.network.refresh_interfaces();
            cpu::sample_processes(out);
            selfstats::sample(self.spool_bytes.load(Ordering::Relaxed), out);
        }
    }
}

/// Adds a value without attribute.
pub(crate) fn push(out: &mut Values, metric: &'static str, value: f64) {
    out.push((metric, String::new(), value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::catalog;

    #[test]
    fn samples_are_due_at_wall_clock_multiples_and_missed_ones_are_skipped() {
        let check = |last: i64, now: i64, step_ms: u64, due: i64| {
            let step = Duration::from_millis(step_ms);
            let got = next_due(UnixMillis(last), UnixMillis(now), step);
            assert_eq!(got, UnixMillis(due), "last {last}, now {now}, every {step_ms}");
        };
        check(5_000, 12_345, 10_000, 10_000); // just passed, not sampled yet
        check(10_000, 12_345, 10_000, 20_000); // sampled: the next one
        check(10_000, 19_999, 10_000, 20_000); // a timer that fired early waits again
        check(10_000, 20_000, 10_000, 20_000);
        check(10_000, 57_000, 10_000, 50_000); // after a standstill: once, not four times
        check(10_000, 12_345, 1_000, 12_000); // sped up
        check(90_000, 12_345, 10_000, 20_000); // the clock was set back
    }

    #[test]
    fn gateway_errors_speed_sampling_up_for_a_minute() {
        let check = |error_at: Option<i64>, configured_s: u64, want_s: u64| {
            let configured = Duration::from_secs(configured_s);
            let got = current_interval(configured, error_at.map(UnixMillis), UnixMillis(100_000));
            assert_eq!(got, Duration::from_secs(want_s), "{error_at:?}");
        };
        check(None, 10, 10);
        check(Some(99_000), 10, 1);
        check(Some(40_000), 10, 1);
        check(Some(39_999), 10, 10);
        check(Some(101_000), 10, 1);
    }

    #[test]
    fn this_machine_is_sampled_and_every_value_fits_the_catalog() {
        let mut sampler = Sampler::new(Arc::new(AtomicU64::new(7)));
        sampler.sample(UnixMillis(0), &mut Values::new());
        let mut values = Values::new();
        let start = clock::instant();
        // CPU shares need some ticks of the clock to have passed.
        while !values.iter().any(|(name, _, _)| *name == "system.cpu.utilization") {
            assert!(start.elapsed() < Duration::from_secs(20), "no CPU share within 20 s");
            values.clear();
            sampler.sample(UnixMillis(20_000), &mut values);
            std::thread::yield_now();
        }
        sampler.sample(UnixMillis(40_000), &mut values);
        for (name, attribute, value) in &values {
            let metric = catalog::find(name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not in the catalog"));
            assert!(metric.to_wire(*value).is_some(), "{name}{{{attribute}}} = {value}");
        }
        let get = |name: &str| values.iter().find(|(n, _, _)| *n == name).map(|(_, _, v)| *v);
        for name in [
            "system.cpu.utilization",
            "system.cpu.steal",
            "system.cpu.load_average.1m",
            "system.memory.utilization",
            "system.filesystem.utilization",
            "gatewatch.agent.cpu_time",
        ] {
            assert!(get(name).is_some(), "{name} was not sampled");
        }
        let limit = get("system.memory.limit").expect("memory has a size");
        assert!(limit > 16e6, "more than 16 MB of memory: {limit}");
        assert!(get("system.memory.available").expect("some is available") <= limit);
        assert!(get("gatewatch.agent.memory").expect("this process has memory") > 1e5);
        assert_eq!(get("gatewatch.agent.spool"), Some(7.0));
    }
}
