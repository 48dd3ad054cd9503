//! Stage 1a: the machine -> resource samples and service states.
//!
//! Samples are taken at wall-clock multiples of `[probes] interval`, so that series of all servers
//! line up; once a second while gateway errors flow and for 60 s after. What only explains
//! ([`Detail::Full`]) is taken with them then, and else every 10 s at most. A value that cannot be
//! read is absent, never zero.

mod beancounters;
mod cgroup;
mod conntrack;
mod container;
mod cpu;
mod disk;
mod latest;
mod disk_io;
pub mod fuzzing;
mod groups;
pub(crate) mod listeners;
mod load;
mod lve;
mod memory;
mod network;
mod pools;
mod pressure;
mod processes;
mod procfile;
mod rise;
mod services;
pub(crate) mod sockets;
mod systemd;
mod tcp;
mod top;
mod upstreams;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::clock;
use crate::config::ProbesConfig;
use crate::discover::Discovery;
use crate::gather::GatherStatus;
use crate::selfstats;
use crate::timer::{Timer, next_due};
use crate::window::Observation;
pub use latest::Latest;
use upstreams::UpstreamInputs;

/// What one sampling yields: metric of the catalog, attribute (`""` or `key=value`), value.
pub(crate) type Values = Vec<(&'static str, String, f64)>;

/// How much of it is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// What decides: what every incident is judged by.
    Core,
    /// And what explains it.
    Full,
}

/// Interval while gateway errors flow, and for [`FAST_FOR`] after the last one.
const FAST: Duration = Duration::from_secs(1);
const FAST_FOR: Duration = Duration::from_secs(60);

/// What changes slowly or only explains is looked at every 10 s, give or take a late timer.
const SLOW_MS: i64 = 9_500;

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
    /// `[probes]`.
    pub config: ProbesConfig,
    /// `[logs] root`: under another root than `/` only processes started from there are services.
    pub root: PathBuf,
    /// Where `services.json` lives.
    pub state_dir: PathBuf,
    /// What discovery found, and finds later.
    pub discovery: watch::Receiver<Arc<Discovery>>,
    /// Tells when the last gateway error was read; probes speed up for a minute.
    pub gather: watch::Receiver<GatherStatus>,
    /// Bytes of unacked batches, for the agent's own series.
    pub spool_bytes: Arc<AtomicU64>,
}

/// Starts the resource probes and the service watch on the current runtime; both end with `stop`.
///
/// The kernel's own files never hang and are read where the runtime runs: handing them to another
/// thread would cost more than reading them. Filesystems may hang, and a walk over
/// the processes takes long, see [`Aside`].
pub fn spawn(inputs: ProbeInputs, outlet: Outlet, stop: CancellationToken) -> JoinHandle<()> {
    let watcher = services::Watcher::new(
        inputs.root.clone(),
        &inputs.state_dir,
        inputs.config.services.clone(),
        inputs.discovery.clone(),
        inputs.gather.clone(),
    );
    let upstreams = UpstreamInputs {
        config: inputs.config.clone(),
        root: inputs.root.clone(),
        discovery: inputs.discovery.clone(),
        gather: inputs.gather.clone(),
    };
    tokio::spawn(async move {
        tokio::join!(
            watcher.run(outlet.clone(), stop.clone()),
            upstreams::run(upstreams, outlet.clone(), stop.clone()),
            sample_until(inputs, &outlet, &stop)
        );
    })
}

async fn sample_until(inputs: ProbeInputs, outlet: &Outlet, stop: &CancellationToken) {
    let ProbeInputs { config, root, discovery, gather, spool_bytes, .. } = inputs;
    let interval = config.interval.0;
    let mut sampler = Sampler::new(spool_bytes);
    let mut usage = Aside::new("use of filesystems", disk::Disk::new());
    let (pools, crowd) = pools::new(root, discovery, gather.clone());
    let mut pools = Aside::new("sockets of pools", pools);
    let mut crowd = Aside::new("processes", crowd);
    let mut timer = Timer::new();
    // The first look only sets the baseline that shares of time are taken against.
    let mut last = clock::now();
    sampler.sample(last, clock::instant(), false, &mut Values::new());
    sampler.slow_at = None;
    loop {
        let now = clock::now();
        let error_at = gather.borrow().gateway_error_at;
        let is_fast = is_fast(error_at, now);
        let current = if is_fast { interval.min(FAST) } else { interval };
        let due = next_due(last, now, current);
        if due.0 > now.0 {
            // Looks at the errors each second rather than waiting for a change of the gather thread's
            // status, which changes with every line read.
            let look = next_due(now, now, FAST).0.min(due.0);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a timer. It is set anew from the wall clock each round, so missed
                // instants are skipped and a stepped clock is followed.
                () = timer.wait(clock::until(UnixMillis(look))) => continue,
            }
        }
        last = due;
        let at = if now.0 - due.0 <= LATE_MS { due } else { now };
        let mut values = Values::new();
        let is_slow = sampler.sample(at, clock::instant(), is_fast, &mut values);
        if is_slow {
            let look = move |disk: &mut disk::Disk| {
                let mut values = Values::new();
                disk.sample(&mut values);
                vec![(at, values)]
            };
            usage.look(outlet, look).await;
        }
        if is_slow || is_fast {
            let look = move |crowd: &mut pools::Crowd| {
                let mut values = Values::new();
                if is_slow {
                    crowd.sample(at, &mut values);
                }
                let mut found = crowd.take_tops(at);
                found.push((at, values));
                found
            };
            crowd.look(outlet, look).await;
        }
        let look = move |pools: &mut pools::Pools| {
            let mut values = Values::new();
            pools.sample(at, &mut values);
            vec![(at, values)]
        };
        pools.look(outlet, look).await;
        outlet.send(Observation::Samples { at, values });
        if stop.is_cancelled() {
            return;
        }
    }
}

/// A probe that takes long or may hang, run on the blocking pool: then only its samples are missing.
#[derive(Debug)]
struct Aside<T> {
    what: &'static str,
    probe: Option<T>,
    task: Option<JoinHandle<T>>,
    began: Instant,
    is_late_told: bool,
}

/// A look that takes longer hangs, which is worth a word.
const HANGS_AFTER: Duration = Duration::from_secs(30);

impl<T: Send + 'static> Aside<T> {
    fn new(what: &'static str, probe: T) -> Self {
        Self { what, probe: Some(probe), task: None, began: clock::instant(), is_late_told: false }
    }

    /// Begins a look, unless the last one has not ended; what it finds goes to `outlet`.
    async fn look<F>(&mut self, outlet: &Outlet, look: F)
    where
        F: FnOnce(&mut T) -> Vec<(UnixMillis, Values)> + Send + 'static,
    {
        let now = clock::instant();
        if let Some(task) = self.task.take_if(|task| task.is_finished()) {
            self.probe = task.await.ok();
        }
        let Some(mut probe) = self.probe.take() else {
            self.tell_if_late(now);
            return;
        };
        self.began = now;
        let outlet = outlet.clone();
        self.task = Some(tokio::task::spawn_blocking(move || {
            let found = look(&mut probe).into_iter().filter(|(_, values)| !values.is_empty());
            for (at, values) in found {
                outlet.send(Observation::Samples { at, values });
            }
            probe
        }));
    }

    fn tell_if_late(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.began);
        if age >= HANGS_AFTER && !std::mem::replace(&mut self.is_late_told, true) {
            tracing::warn!(
                what = self.what,
                since_s = age.as_secs(),
                "a look at the machine hangs or failed: what it samples is absent until it ends"
            );
        }
    }
}

/// Between the clock's reading and the error's there may be a little work.
const SKEW_MS: i64 = 1000;

/// True while the last gateway error is at most a minute old: every second counts. One of the future
/// was read before the clock was set back.
pub(crate) fn is_fast(error_at: Option<UnixMillis>, now: UnixMillis) -> bool {
    let fast_ms = FAST_FOR.as_millis() as i64;
    error_at.is_some_and(|at| (-SKEW_MS..=fast_ms).contains(&now.0.saturating_sub(at.0)))
}

/// Until the wall clock's next whole second, when the samples are taken: what is done then needs no
/// wake-up of its own.
pub(crate) fn until_whole_second() -> Duration {
    Duration::from_millis(1000 - clock::now().0.rem_euclid(1000) as u64)
}

/// All resource probes but the filesystems, with what they remember between two looks.
#[derive(Debug)]
struct Sampler {
    container: container::Container,
    cpu: cpu::Cpu,
    load: load::Load,
    memory: memory::Memory,
    pressure: pressure::Pressure,
    disk_io: disk_io::DiskIo,
    network: network::Network,
    tcp: tcp::Tcp,
    conntrack: conntrack::Conntrack,
    spool_bytes: Arc<AtomicU64>,
    slow_at: Option<UnixMillis>,
}

impl Sampler {
    fn new(spool_bytes: Arc<AtomicU64>) -> Self {
        let container = container::Container::new(Path::new("/"));
        Self {
            cpu: cpu::Cpu::new(),
            load: load::Load::new(),
            memory: memory::Memory::new(),
            pressure: pressure::Pressure::new(container.unified_dir().as_deref()),
            disk_io: disk_io::DiskIo::new(),
            network: network::Network::new(),
            tcp: tcp::Tcp::new(),
            conntrack: conntrack::Conntrack::new(),
            container,
            spool_bytes,
            slow_at: None,
        }
    }

    /// Takes every value once, the details too when `is_fast`; true when what changes slowly was
    /// looked at as well. Cost: a dozen small files of /proc, no walk over processes.
    fn sample(&mut self, at: UnixMillis, now: Instant, is_fast: bool, out: &mut Values) -> bool {
        let is_slow = self.slow_at.is_none_or(|last| at.0 - last.0 >= SLOW_MS || at.0 < last.0);
        let detail = if is_fast || is_slow { Detail::Full } else { Detail::Core };
        if is_slow {
            self.slow_at = Some(at);
            self.container.refresh();
            self.network.refresh_interfaces();
            selfstats::sample(self.spool_bytes.load(Ordering::Relaxed), out);
        }
        let (own_memory, own_cpu) = self.container.sample(now, detail, out);
        self.cpu.sample(own_cpu, detail, out);
        self.load.sample(detail, out);
        self.memory.sample(own_memory, detail, out);
        self.pressure.sample(out);
        self.disk_io.sample(now, out);
        self.network.sample(out);
        self.tcp.sample(detail, out);
        self.conntrack.sample(detail, out);
        is_slow
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
    fn gateway_errors_speed_sampling_up_for_a_minute_and_no_longer_when_the_clock_is_set_back() {
        let check = |error_at: Option<i64>, want: bool| {
            let got = is_fast(error_at.map(UnixMillis), UnixMillis(100_000));
            assert_eq!(got, want, "{error_at:?}");
        };
        check(None, false);
        check(Some(99_000), true);
        check(Some(40_000), true);
        check(Some(39_999), false);
        check(Some(101_000), true);
        check(Some(101_001), false); // the clock was set back
        check(Some(i64::MIN), false);
    }

    #[test]
    fn a_look_that_hangs_is_told_once_and_holds_up_no_other_one() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (tx, mut sent) = mpsc::channel(8);
        let outlet = Outlet::new(tx, Arc::default());
        let (release, held) = std::sync::mpsc::channel::<()>();
        let value = || vec![(UnixMillis(1), vec![("system.processes", String::new(), 1.0)])];
        runtime.block_on(async {
            let (mut stuck, mut other) = (Aside::new("a", ()), Aside::new("b", ()));
            let hang = move |(): &mut ()| {
                held.recv().ok();
                Vec::new()
            };
            stuck.look(&outlet, hang).await;
            other.look(&outlet, move |()| value()).await;
            assert!(sent.recv().await.is_some(), "the other one is looked at");
            stuck.look(&outlet, |()| unreachable!()).await;
            assert!(!stuck.is_late_told);
            stuck.tell_if_late(stuck.began + HANGS_AFTER);
            assert!(stuck.is_late_told);
            drop(release);
        });
    }

    /// The values of a second look at this machine, all of which must fit the catalog.
    fn sampled(is_fast: bool, at: UnixMillis) -> Values {
        let mut sampler = Sampler::new(Arc::new(AtomicU64::new(7)));
        sampler.sample(UnixMillis(0), clock::instant(), false, &mut Values::new());
        let mut values = Values::new();
        let start = clock::instant();
        // CPU shares need some ticks of the clock to have passed.
        while !values.iter().any(|(name, _, _)| *name == "system.cpu.utilization") {
            assert!(start.elapsed() < Duration::from_secs(60), "no CPU share within 60 s");
            values.clear();
            sampler.slow_at = Some(UnixMillis(0));
            sampler.sample(at, clock::instant(), is_fast, &mut values);
            std::thread::yield_now();
        }
        for (name, attribute, value) in &values {
            let metric = catalog::find(name);
            let metric = metric.unwrap_or_else(|| panic!("{name} is not in the catalog"));
            assert!(metric.to_wire(*value).is_some(), "{name}{{{attribute}}} = {value}");
        }
        values
    }

    fn get(values: &Values, name: &str) -> Option<f64> {
        values.iter().find(|(n, _, _)| *n == name).map(|(_, _, value)| *value)
    }

    #[test]
    fn this_machine_is_sampled_and_every_value_fits_the_catalog() {
        let mut values = sampled(false, UnixMillis(20_000));
        disk::Disk::new().sample(&mut values);
        for name in [
            "system.cpu.utilization",
            "system.cpu.steal",
            "system.cpu.idle",
            "system.cpu.logical.count",
            "system.cpu.load_average.1m",
            "system.memory.utilization",
            "system.memory.committed",
            "system.paging.faults.major",
            "system.processes.running",
            "system.threads.utilization",
            "system.file_handles",
            "system.tcp.listen_overflows",
            "system.tcp.timeouts",
            "system.sockets",
            "system.filesystem.utilization",
            "gatewatch.agent.cpu_time",
        ] {
            assert!(get(&values, name).is_some(), "{name} was not sampled");
        }
        let limit = get(&values, "system.memory.limit").expect("memory has a size");
        assert!(limit > 16e6, "more than 16 MB of memory: {limit}");
        assert!(get(&values, "system.memory.available").expect("some is available") <= limit);
        assert!(get(&values, "gatewatch.agent.memory").expect("this process has memory") > 1e5);
        assert_eq!(get(&values, "gatewatch.agent.spool"), Some(7.0));
    }

    #[test]
    fn what_only_explains_is_sampled_each_second_in_an_incident_and_every_10_s_at_rest() {
        let check = |is_fast, at: i64, want: bool| {
            let values = sampled(is_fast, UnixMillis(at));
            assert!(get(&values, "system.tcp.listen_overflows").is_some(), "this decides");
            let has_details = get(&values, "system.tcp.timeouts").is_some();
            assert_eq!(has_details, want, "fast {is_fast}, {at} ms after the last details");
        };
        check(false, 1_000, false);
        check(false, 9_000, false);
        check(false, 10_000, true);
        check(true, 1_000, true);
    }
}
