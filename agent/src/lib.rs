//! The agent, one per server: logs, probes and changes in, batches of closed windows out.
//!
//! ```text
//! discover > probes  ┐
//!            logs    ┼> window -> batch -> spool -> uplink  =>  collector
//!            changes ┘
//! ```

pub mod cli;
pub mod clock;
pub mod timer;
pub mod config;
pub mod files;
pub mod globs;
pub mod discover;
pub mod probes;
pub(crate) mod own_requests;
pub mod logs;
pub mod changes;
pub mod window;
pub mod batch;
pub mod gather;
pub mod spool;
pub mod uplink;
pub mod backoff;
pub mod identity;
pub mod selfstats;
pub mod status;
pub mod triage;

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use changes::ChangeInputs;
use config::{Config, Problem};
use discover::Discovery;
use gather::{GatherInputs, GatherStatus};
use identity::{Identity, IdentityError};
use logs::kernel::{self, KernelInputs};
use probes::{Latest, Outlet, ProbeInputs};
use spool::{Spool, SpoolError};
use timer::Ticker;
use uplink::UplinkStatus;

/// How often the spool's size is looked at for the agent's own series, and systemd is told that
/// the agent lives.
const PULSE: Duration = Duration::from_secs(5);
/// Threads of the blocking pool at most: each stage has one look under way, and names a few. Well below
/// what the unit allows (`TasksMax`), where one thread more would end the agent.
const BLOCKING_THREADS_MAX: usize = 32;
/// Wait for threads of the blocking pool that hang in a system call, at the very end.
const THREADS_TIMEOUT: Duration = Duration::from_secs(1);

type Labels = std::collections::BTreeMap<String, String>;

/// Re-reads the config on SIGHUP.
pub type Reload = Box<dyn Fn() -> Result<Config, Vec<Problem>>>;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no identity yet.
    #[error(
        "this server is not enrolled ({state_dir} holds no identity): on the collector run \
         `gatewatch-collector token create` and run the `gatewatch-agent enroll` command it prints here"
    )]
    NotEnrolled {
        /// Where it was looked for.
        state_dir: PathBuf,
    },
    /// Another agent works in the same directory.
    #[error(
        "another agent (process {pid}) uses {state_dir}: stop it \
         (systemctl stop gatewatch-agent), or set another state_dir"
    )]
    AlreadyRunning {
        /// Of the other one.
        pid: String,
        /// Which both want.
        state_dir: PathBuf,
    },
    /// The state directory cannot be used.
    #[error("cannot use the state directory {path}: it must belong to the user this runs as")]
    StateDir {
        /// Which.
        path: PathBuf,
        /// From the operating system.
        source: io::Error,
    },
    /// See the source.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// See the source.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The operating system gives no threads or signals.
    #[error("the operating system refuses what every program needs")]
    System(#[from] io::Error),
    /// A bug: its panic is in the log.
    #[error("the gather thread died")]
    GatherDied,
}

impl RunError {
    /// True when starting again cannot help before somebody mends something.
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            Self::NotEnrolled { .. }
                | Self::Identity(IdentityError::Damaged { .. })
                | Self::Spool(SpoolError::Version { .. })
        )
    }
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// Threads: this one runs every async task, `gather` the data path, and the blocking pool what may
/// hang on a disk. Shutdown goes left to right: sources stop, windows close, the last batch is
/// spooled, the uplink sends what is left and says goodbye; all within `shutdown_grace`.
pub fn run(config: Config, reload: Reload) -> Result<(), RunError> {
    let _lock = lock_state_dir(&config.state_dir)?;
    let identity = Identity::load(&config.state_dir)?
        .ok_or_else(|| RunError::NotEnrolled { state_dir: config.state_dir.clone() })?;
    let spool_dir = config.state_dir.join("spool");
    let bytes_max = config.limits.spool_bytes_max.0;
    let (spool, recovery) = Spool::open(&spool_dir, bytes_max, clock::now())?;
    tell_recovery(&recovery);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    let done = runtime.block_on(serve(config, reload, identity, Arc::new(Mutex::new(spool))));
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    done
}

fn tell_recovery(recovery: &spool::Recovery) {
    let spool::Recovery { n_records, n_bytes_torn, n_records_corrupt, corrupt, .. } = *recovery;
    tracing::info!(n_records, "spool opened");
    if n_bytes_torn > 0 {
        tracing::warn!(n_bytes_torn, "unfinished or unreadable end of the spool was cut off");
    }
    if n_records_corrupt > 0 {
        let spool::Volume { n_lines, n_bytes } = corrupt;
        tracing::error!(n_records_corrupt, n_lines, n_bytes, "spooled batches were destroyed");
    }
    if recovery.is_renumbered {
        tracing::warn!("the spool's numbering was lost: it begins a new epoch");
    }
}

/// Starts the stages, passes signals on, and waits for the end.
async fn serve(
    config: Config,
    reload: Reload,
    identity: Identity,
    spool: Arc<Mutex<Spool>>,
) -> Result<(), RunError> {
    let (mut signals, mut hangup) = (Stop::new()?, signal(SignalKind::hangup())?);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        server = identity.server,
        state_dir = %config.state_dir.display(),
        "agent starts"
    );
    let mut stages = Stages::start(Arc::new(config), identity, spool)?;
    tell_systemd(NotifyState::Ready);
    let mut pulse = Ticker::new(PULSE);
    let mut is_large = false;
    let name = loop {
        tokio::select! {
            biased;
            // Cancel-safe: a signal that is not taken stays pending.
            name = signals.wait() => break name,
            // Cancel-safe, as above.
            _ = hangup.recv() => take_over(&stages.config, &reload, &stages.reloaded, &stages.labels),
            // Cancel-safe: the result stays in the handle.
            _ = &mut stages.gather => return Err(RunError::GatherDied),
            // Cancel-safe: a missed tick comes late.
            () = pulse.tick() => {
                if let Ok(spool) = stages.spool.try_lock() {
                    stages.spool_bytes.store(spool.bytes_unacked(), Ordering::Relaxed);
                }
                let rss_bytes = selfstats::read().map_or(0, |own| own.rss_bytes);
                is_large = tell_memory(rss_bytes, stages.config.limits.memory_bytes_max.0, is_large);
                stages.is_memory_short.store(is_large, Ordering::Relaxed);
                tell_systemd(NotifyState::Watchdog);
            }
        }
    };
    tell_systemd(NotifyState::Stopping);
    tracing::info!(signal = name, "agent stops");
    stages.drain().await
}

/// Tells once that the agent needs more memory than it may, and once that it no longer does;
/// returns whether it was told last. It needs less than nine tenths again before it is called good.
fn tell_memory(rss_bytes: u64, memory_bytes_max: u64, was_large: bool) -> bool {
    let bound = if was_large { memory_bytes_max / 10 * 9 } else { memory_bytes_max };
    let is_large = rss_bytes > bound;
    match (was_large, is_large) {
        (false, true) => tracing::warn!(
            rss_bytes,
            memory_bytes_max,
            "agent needs more memory than [limits] memory_bytes_max: raise it, or follow fewer logs"
        ),
        (true, false) => tracing::info!(rss_bytes, "agent is back below memory_bytes_max"),
        _ => {}
    }
    is_large
}

/// All that runs, and the ends of the channels that stay outside of it.
struct Stages {
    config: Arc<Config>,
    reloaded: watch::Sender<Arc<Config>>,
    labels: watch::Sender<Labels>,
    spool: Arc<Mutex<Spool>>,
    spool_bytes: Arc<AtomicU64>,
    is_memory_short: Arc<AtomicBool>,
    /// First the sources stop, then, when all is spooled, the uplink drains.
    stop: CancellationToken,
    drain: CancellationToken,
    gather: JoinHandle<thread::Result<()>>,
    changes: JoinHandle<()>,
    uplink: JoinHandle<()>,
    status: JoinHandle<()>,
}

impl Stages {
    /// Joins the stages: the only place that does.
    fn start(
        config: Arc<Config>,
        identity: Identity,
        spool: Arc<Mutex<Spool>>,
    ) -> Result<Self, RunError> {
        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
        let (config_tx, reloaded) = watch::channel(Arc::clone(&config));
        let (labels_tx, labels) = watch::channel(config.host.labels.clone());
        let (gather_tx, gather_rx) = watch::channel(GatherStatus::default());
        let (discovery_tx, discovery) = watch::channel(Arc::new(Discovery::default()));
        let (interval, batch_interval) = watch::channel(config.collector.batch_interval.0);
        let (observations_tx, observations) = mpsc::channel(window::OBSERVATIONS_MAX);
        let n_observations_dropped = Arc::new(AtomicU64::new(0));
        let outlet = Outlet::new(observations_tx, Arc::clone(&n_observations_dropped));
        let latest = outlet.latest();
        let spool_bytes = Arc::new(AtomicU64::new(0));
        let is_memory_short = Arc::new(AtomicBool::new(false));
        let spooled = Arc::new(Notify::new());
        let gather = gather::spawn(GatherInputs {
            config: Arc::clone(&config),
            reloaded,
            spool: Arc::clone(&spool),
            spooled: Arc::clone(&spooled),
            observations,
            n_observations_dropped,
            status: gather_tx,
            discovery: discovery_tx,
            batch_interval,
            is_memory_short: Arc::clone(&is_memory_short),
            stop: stop.clone(),
        })?;
        let gather = tokio::task::spawn_blocking(move || gather.join());
        let probes = ProbeInputs {
            config: config.probes.clone(),
            root: config.logs.root.clone(),
            state_dir: config.state_dir.clone(),
            discovery: discovery.clone(),
            gather: gather_rx.clone(),
            spool_bytes: Arc::clone(&spool_bytes),
        };
        probes::spawn(probes, outlet.clone(), stop.clone());
        let changes = start_watchers(&config, config_tx.subscribe(), discovery, outlet, &stop);
        let right = Right { spool: &spool, spooled, gather: gather_rx, latest, labels, interval };
        let (uplink, status) = right.start(&config, identity, &stop, &drain);
        Ok(Self {
            config,
            reloaded: config_tx,
            labels: labels_tx,
            spool,
            spool_bytes,
            is_memory_short,
            stop,
            drain,
            gather,
            changes,
            uplink,
            status,
        })
    }

    /// From left to right, within `shutdown_grace`; what is not sent by then stays in the spool.
    async fn drain(self) -> Result<(), RunError> {
        self.stop.cancel();
        let drained = timeout(self.config.shutdown_grace.0, async {
            let is_spooled = self.gather.await.is_ok_and(|joined| joined.is_ok());
            self.drain.cancel();
            let is_sent = (self.uplink.await.is_ok(), self.status.await.is_ok());
            (is_spooled, is_sent, self.changes.await.is_ok())
        });
        match drained.await {
            Ok((true, ..)) => {}
            Ok((false, ..)) => return Err(RunError::GatherDied),
            Err(_) => tracing::warn!("shutdown_grace is over: the rest is sent at the next start"),
        }
        // Not `lock`: past the grace somebody may still hold it, waiting for a disk.
        if let Ok(mut spool) = self.spool.try_lock() {
            spool.close()?;
        } else {
            tracing::warn!("the spool is busy: it is checked at the next start");
        }
        tracing::info!("agent stopped");
        Ok(())
    }
}

/// Starts what watches the machine beside its probes and logs: the kernel, and what is changed. The
/// latter writes when it ends what it has told.
fn start_watchers(
    config: &Config,
    reloaded: watch::Receiver<Arc<Config>>,
    discovery: watch::Receiver<Arc<Discovery>>,
    outlet: Outlet,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let (root, state_dir) = (config.logs.root.clone(), config.state_dir.clone());
    let kernel =
        KernelInputs { root: root.clone(), config: reloaded, discovery: discovery.clone() };
    kernel::spawn(kernel, outlet.clone(), stop.clone());
    changes::spawn(ChangeInputs { root, state_dir, discovery }, outlet, stop.clone())
}

/// What the stages right of the spool take from those left of it.
struct Right<'s> {
    spool: &'s Arc<Mutex<Spool>>,
    spooled: Arc<Notify>,
    gather: watch::Receiver<GatherStatus>,
    latest: Latest,
    labels: watch::Receiver<Labels>,
    interval: watch::Sender<Duration>,
}

impl Right<'_> {
    /// Starts uplink, renewal and the status socket.
    fn start(
        self,
        config: &Config,
        identity: Identity,
        stop: &CancellationToken,
        drain: &CancellationToken,
    ) -> (JoinHandle<()>, JoinHandle<()>) {
        let address = match config.collector.address.as_str() {
            "" => identity.collector.clone(),
            address => address.to_owned(),
        };
        let (identity_tx, identity) = watch::channel(Arc::new(identity));
        let (uplink_tx, uplink_rx) = watch::channel(UplinkStatus {
            state: "connecting",
            collector: address.clone(),
            ..UplinkStatus::default()
        });
        let uplink = tokio::spawn(uplink::run(uplink::Inputs {
            address: address.clone(),
            identity,
            labels: self.labels,
            detected: identity::detected_labels(&config.logs.root),
            heartbeat: config.collector.heartbeat.0,
            batch_interval: config.collector.batch_interval.0,
            spool: Arc::clone(self.spool),
            appended: self.spooled,
            gather: self.gather.clone(),
            interval: self.interval,
            status: uplink_tx,
            drain: drain.clone(),
            drain_max: config.shutdown_grace.0 / 2,
            state_dir: config.state_dir.clone(),
        }));
        let state_dir = config.state_dir.clone();
        tokio::spawn(identity::keep_fresh(state_dir, address, identity_tx, stop.clone()));
        let spool = Arc::clone(self.spool);
        let (gather, latest) = (self.gather, self.latest);
        let sources = status::Sources { gather, uplink: uplink_rx, spool, latest };
        let status = tokio::spawn(status::serve(config.socket.clone(), sources, drain.clone()));
        (uplink, status)
    }
}

/// SIGHUP: labels, sources and privacy change now, the rest needs a restart and is told.
fn take_over(
    running: &Config,
    reload: &Reload,
    config: &watch::Sender<Arc<Config>>,
    labels: &watch::Sender<Labels>,
) {
    let new = match reload() {
        Ok(new) => new,
        Err(problems) => {
            for problem in problems {
                tracing::error!(%problem, "config not taken over");
            }
            return;
        }
    };
    for (key, is_same) in [
        ("state_dir", new.state_dir == running.state_dir),
        ("socket", new.socket == running.socket),
        ("shutdown_grace", new.shutdown_grace == running.shutdown_grace),
        ("[collector]", new.collector == running.collector),
        ("[host] name", new.host.name == running.host.name),
        ("[logs] root", new.logs.root == running.logs.root),
        ("[probes]", new.probes == running.probes),
        ("[limits]", new.limits == running.limits),
    ] {
        if !is_same {
            tracing::warn!(key, "this change takes effect at the next start");
        }
    }
    labels.send_if_modified(|old| {
        let is_new = *old != new.host.labels;
        old.clone_from(&new.host.labels);
        is_new
    });
    // What needs a restart stays as it is, so that no stage sees half of a change.
    let mut taken = running.clone();
    taken.host.labels.clone_from(&new.host.labels);
    taken.logs = new.logs;
    taken.logs.root.clone_from(&running.logs.root);
    taken.privacy = new.privacy;
    config.send_replace(Arc::new(taken));
    tracing::info!("config taken over");
}

/// The signals that end a daemon.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Nothing happens outside systemd.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Takes the state directory for this process; freed when the file is closed, also by a crash.
fn lock_state_dir(state_dir: &Path) -> Result<File, RunError> {
    let failed = |source| RunError::StateDir { path: state_dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
    let mut file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state_dir.join("lock"))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            let pid = format!("{}\n", std::process::id());
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            file.write_all(pid.as_bytes()).map_err(failed)?;
            Ok(file)
        }
        Err(fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            let (pid, state_dir) = (pid.trim().to_owned(), state_dir.to_owned());
            Err(RunError::AlreadyRunning { pid, state_dir })
        }
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// An error with all its causes, for logs and stderr.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Uniform over `0.0..1.0`, from the system; for jitter.
fn random_unit() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness retries are only less evenly spread.
    let filled = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes);
    if filled.is_err() { 0.5 } else { f64::from(u32::from_le_bytes(bytes)) / 4_294_967_296.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::units::Bytes;

    fn config(dir: &Path) -> Config {
        let mut config = Config { state_dir: dir.join("state"), ..Config::default() };
        config.socket = dir.join("agent.sock");
        config.limits.spool_bytes_max = Bytes(8 << 20);
        config
    }

    #[test]
    fn a_second_agent_on_the_same_state_names_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let held = lock_state_dir(&config.state_dir).unwrap();
        let error = run(config.clone(), Box::new(|| Ok(Config::default()))).unwrap_err();
        assert!(matches!(error, RunError::AlreadyRunning { .. }), "{error}");
        let told = error.to_string();
        assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
        assert!(told.contains("set another state_dir"), "{told}");
        assert!(!error.is_config(), "systemd tries again, the other one may end");
        drop(held);
        lock_state_dir(&config.state_dir).unwrap();
    }

    #[test]
    fn memory_over_its_limit_is_told_once_until_it_is_well_below() {
        let mut is_large = false;
        let mut told = Vec::new();
        for rss_bytes in [90, 100, 101, 95, 120, 91, 90, 100, 101] {
            is_large = tell_memory(rss_bytes, 100, is_large);
            told.push(is_large);
        }
        assert_eq!(told, [false, false, true, true, true, true, false, false, true]);
    }

    #[test]
    fn a_server_that_is_not_enrolled_is_told_how() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(config(dir.path()), Box::new(|| Ok(Config::default()))).unwrap_err();
        assert!(matches!(error, RunError::NotEnrolled { .. }), "{error}");
        assert!(error.to_string().contains("token create"), "{error}");
        assert!(error.is_config());
    }

    #[test]
    fn a_state_directory_that_is_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        fs::write(&config.state_dir, b"").unwrap();
        let error = run(config, Box::new(|| Ok(Config::default()))).unwrap_err();
        assert!(matches!(error, RunError::StateDir { .. }), "{error}");
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_reload_takes_over_what_it_can_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let running = config(dir.path());
        let (config_tx, config_rx) = watch::channel(Arc::new(running.clone()));
        let (labels_tx, mut labels_rx) = watch::channel(running.host.labels.clone());
        let mut new = running.clone();
        new.host.labels.insert("rack".into(), "r2".into());
        new.privacy.query_string = config::QueryString::Keep;
        new.limits.sites_max = 7;
        new.logs.root = "/elsewhere".into();
        let expected = new.clone();
        let reload: Reload = Box::new(move || Ok(new.clone()));
        take_over(&running, &reload, &config_tx, &labels_tx);
        let taken = config_rx.borrow().clone();
        assert_eq!(taken.privacy, expected.privacy);
        assert_eq!(taken.host.labels, expected.host.labels);
        assert_eq!((taken.limits.sites_max, &taken.logs.root), (2000, &running.logs.root));
        assert_eq!(labels_rx.borrow_and_update()["rack"], "r2");

        let problem = || Problem { place: "x:1".into(), what: "bad".into(), fix: "mend".into() };
        let reload: Reload = Box::new(move || Err(vec![problem()]));
        take_over(&running, &reload, &config_tx, &labels_tx);
        assert_eq!(*config_rx.borrow(), taken, "a bad file changes nothing");
        assert!(!labels_rx.has_changed().unwrap());
    }
}
