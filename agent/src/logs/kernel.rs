//! Stage 1b, beside the files: the kernel's messages, live, as evidence.
//!
//! They are read from `/dev/kmsg` where that is allowed; else the files a syslog daemon writes are
//! followed like any log, and nothing is done here; else the journal is asked. `journalctl`, with
//! fixed arguments, is the only program the agent ever starts. What ends is begun anew, for ever.

mod journal;
mod kmsg;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use crate::backoff::Backoff;
use crate::clock;
use crate::config::Config;
use crate::discover::{Discovery, LogKind, LogSource};
use crate::logs::event_time::EventClock;
use crate::logs::parse::firewall;
use crate::logs::privacy::Privacy;
use crate::logs::refused::Backends;
use crate::logs::{ErrorRecord, Line, sources};
use crate::probes::Outlet;
use crate::window::{Dropped, LogEvidence, Observation};

/// Where systemd's distributions have it. Never looked for by name: the path is nobody's to choose.
const JOURNALCTL: [&str; 2] = ["/usr/bin/journalctl", "/bin/journalctl"];
/// Evidence lines let through per second and kind, the first ones: the rest says the same.
const EVIDENCE_PER_SECOND_MAX: u32 = 5;
/// Backends whose refused packets are counted apart; more of them in a second are told sooner.
const BACKENDS_MAX: usize = 256;
/// Until what was counted is told when nothing more comes.
const TOLD_AFTER: Duration = Duration::from_secs(1);
/// Waits between two tries to read; what was read for the longer of them was sound.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Wait for the first discovery, which tells whether files have the messages.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the stage needs from the rest of the agent.
pub struct KernelInputs {
    /// `[logs] root`: prefix of `/dev/kmsg`. Under another root than `/` no program is started.
    pub root: PathBuf,
    /// What may leave the machine, and which logs are named.
    pub config: watch::Receiver<Arc<Config>>,
    /// What discovery found, and finds later.
    pub discovery: watch::Receiver<Arc<Discovery>>,
}

/// Starts the stage on the current runtime; it ends with `stop`, and with it what it started.
pub fn spawn(inputs: KernelInputs, outlet: Outlet, stop: CancellationToken) -> JoinHandle<()> {
    let kmsg = kmsg_path(&inputs.root);
    let journalctl = (inputs.root == Path::new("/"))
        .then(|| JOURNALCTL.iter().map(Path::new).find(|path| path.is_file()))
        .flatten();
    let stage = Kernel::new(kmsg, journalctl.map(Path::to_owned), inputs, outlet);
    tokio::spawn(stage.run(RETRY, stop))
}

/// True where the kernel's own log may be read: files that repeat it need not be followed then.
#[must_use]
pub fn is_kmsg_readable(root: &Path) -> bool {
    kmsg::open(&kmsg_path(root)).is_ok()
}

fn kmsg_path(root: &Path) -> PathBuf {
    root.join("dev/kmsg")
}

type Configs = watch::Receiver<Arc<Config>>;
type Discoveries = watch::Receiver<Arc<Discovery>>;

/// Waits until a followed log has the messages too: nothing is told twice.
async fn until_files(config: &Configs, discovery: &mut Discoveries) {
    while discovery.changed().await.is_ok() {
        if has_files(config, discovery).await {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// True when a log that is followed has the kernel's messages and may be read.
async fn has_files(config: &Configs, discovery: &Discoveries) -> bool {
    let (config, discovery) = (Arc::clone(&config.borrow()), Arc::clone(&discovery.borrow()));
    let looked = tokio::task::spawn_blocking(move || {
        let logs = sources::expand(&config.logs, &discovery.logs).logs;
        logs.iter().any(|log| has_kernel(log) && File::open(&log.path).is_ok())
    });
    looked.await.unwrap_or(false)
}

/// True for a log with the kernel's messages: other programs have syslog files of their own.
fn has_kernel(log: &LogSource) -> bool {
    let name = log.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match log.kind {
        LogKind::Kernel => true,
        LogKind::Syslog => matches!(name, "syslog" | "messages" | "kern.log"),
        _ => false,
    }
}

/// Takes records to the outlet, from wherever they come.
struct Kernel {
    kmsg: PathBuf,
    journalctl: Option<PathBuf>,
    inputs: KernelInputs,
    sink: Sink,
    has_kmsg_failed: bool,
    /// What was told last of where messages come from.
    told: &'static str,
}

/// Where messages come from, or why they do not.
enum Ended {
    /// The files have them, and discovery found something new.
    Files,
    /// Reading stopped.
    Failed(io::Error),
}

impl Kernel {
    fn new(
        kmsg: PathBuf,
        journalctl: Option<PathBuf>,
        inputs: KernelInputs,
        outlet: Outlet,
    ) -> Self {
        let sink = Sink::new(inputs.config.clone(), inputs.discovery.clone(), outlet);
        Self { kmsg, journalctl, inputs, sink, has_kmsg_failed: false, told: "" }
    }

    async fn run(mut self, retry: (Duration, Duration), stop: CancellationToken) {
        let mut backoff = Backoff::new(retry.0, retry.1);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: the newest discovery stays in the channel.
            _ = timeout(DISCOVERY_TIMEOUT, self.inputs.discovery.changed()) => {}
        }
        loop {
            let began = clock::instant();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.sink.tell_dropped();
                    return;
                }
                // Dropping it closes the device, or ends the program it started.
                ended = self.follow() => ended,
            };
            self.sink.tell_dropped();
            if began.elapsed() >= retry.1 {
                backoff.reset();
            }
            if let Ended::Failed(error) = ended {
                self.tell_failure(&error);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                () = sleep(backoff.next(crate::random_unit())) => {}
            }
        }
    }

    /// Reads from the best place there is until that ends. A device that may be opened but not read, as
    /// in some containers, is tried in turn with what comes after it.
    async fn follow(&mut self) -> Ended {
        if !std::mem::take(&mut self.has_kmsg_failed) {
            match kmsg::open(&self.kmsg) {
                Ok(device) => {
                    self.tell("/dev/kmsg");
                    let error = kmsg::follow(device, &mut self.sink).await;
                    self.has_kmsg_failed = true;
                    return Ended::Failed(error);
                }
                Err(error) => tracing::debug!(path = %self.kmsg.display(), %error, "no kernel log"),
            }
        }
        let KernelInputs { config, discovery, .. } = &mut self.inputs;
        if has_files(config, discovery).await {
            self.tell("files");
            // An error means that the gather thread is gone, and then everything ends.
            return match self.inputs.discovery.changed().await {
                Ok(()) => Ended::Files,
                Err(error) => Ended::Failed(io::Error::other(error)),
            };
        }
        let Some(program) = self.journalctl.clone() else {
            return Ended::Failed(io::ErrorKind::NotFound.into());
        };
        self.tell("journal");
        let KernelInputs { config, discovery, .. } = &mut self.inputs;
        tokio::select! {
            biased;
            // Cancel-safe: the newest discovery stays in the channel.
            () = until_files(config, discovery) => Ended::Files,
            // Dropping it ends the program.
            error = journal::follow(&program, &mut self.sink) => Ended::Failed(error),
        }
    }

    fn tell(&mut self, from: &'static str) {
        if self.told != from {
            self.told = from;
            tracing::info!(from, "kernel messages are read");
        }
    }

    fn tell_failure(&mut self, error: &io::Error) {
        const FAILED: &str = "nowhere";
        if self.told != FAILED {
            let was = std::mem::replace(&mut self.told, FAILED);
            if error.kind() == io::ErrorKind::NotFound && self.journalctl.is_none() {
                tracing::info!("no kernel messages: there is neither a log of them nor a journal");
                return;
            }
            tracing::warn!(
                %error,
                was,
                "kernel messages cannot be read: let the agent read /dev/kmsg (CAP_SYSLOG) or put its user into the group systemd-journal or adm"
            );
        }
    }
}

/// Makes records evidence: as private as the operator asked, a few of each kind a second.
struct Sink {
    config: Configs,
    privacy: Privacy,
    clock: EventClock,
    outlet: Outlet,
    /// Second of reading, and lines let through in it by their signal.
    sent: (i64, BTreeMap<i32, u32>),
    discovery: Discoveries,
    /// As the newest discovery has them.
    backends: Backends,
    /// Second of reading, and packets of it by backend: their number, and when the first was.
    dropped: (i64, BTreeMap<SocketAddr, (u32, UnixMillis)>),
}

impl Sink {
    fn new(config: Configs, discovery: Discoveries, outlet: Outlet) -> Self {
        let privacy = Privacy::new(config.borrow().privacy);
        let clock = EventClock::new(TimeZone::UTC);
        let backends = Backends::of(&discovery.borrow());
        let (sent, dropped) = ((0, BTreeMap::new()), (0, BTreeMap::new()));
        Self { config, privacy, clock, outlet, sent, discovery, backends, dropped }
    }

    /// A line of a log that the kernel's messages come in.
    fn line(&mut self, line: &Line<'_>, now: UnixMillis) {
        if let Line::Error(record) = line {
            self.record(record, now);
        }
    }

    fn record(&mut self, record: &ErrorRecord<'_>, now: UnixMillis) {
        let Some(signal) = record.signal else {
            self.packet(record, now);
            return;
        };
        if self.sent.0 != now.second() {
            self.sent = (now.second(), BTreeMap::new());
        }
        let n = self.sent.1.entry(signal as i32).or_default();
        *n += 1;
        if *n > EVIDENCE_PER_SECOND_MAX {
            return;
        }
        if self.config.has_changed().unwrap_or(false) {
            self.privacy.set_rules(self.config.borrow_and_update().privacy);
        }
        let (at, _) = self.clock.resolve(record.time, 0, now);
        let message = self.privacy.text(&record.message, "", now);
        let evidence =
            LogEvidence { source: "kernel", message, at, signal: Some(signal), pool: None };
        self.outlet.send(Observation::Log(evidence));
    }

    /// Counts packets that a firewall refused between a gateway and a backend; they are told once a
    /// second for each backend.
    fn packet(&mut self, record: &ErrorRecord<'_>, now: UnixMillis) {
        let Some(packet) = firewall::refused(&record.message) else { return };
        if self.discovery.has_changed().unwrap_or(false) {
            self.backends = Backends::of(&self.discovery.borrow_and_update());
        }
        let Some(backend) = self.backends.of_packet(&packet) else { return };
        self.tell_older(now);
        if self.dropped.1.len() >= BACKENDS_MAX && !self.dropped.1.contains_key(&backend) {
            self.tell_dropped();
        }
        let (at, _) = self.clock.resolve(record.time, 0, now);
        self.dropped.0 = now.second();
        let (n, first) = self.dropped.1.entry(backend).or_insert((0, at));
        *n = n.saturating_add(1);
        *first = at.min(*first);
    }

    /// Waits until packets are to be told of after which nothing came; for ever while there are none.
    async fn is_quiet(&self) {
        if self.dropped.1.is_empty() {
            std::future::pending::<()>().await;
        }
        sleep(TOLD_AFTER).await;
    }

    /// Tells of the packets of a second that is over.
    fn tell_older(&mut self, now: UnixMillis) {
        if self.dropped.0 != now.second() {
            self.tell_dropped();
        }
    }

    /// Tells of all packets that are not told yet.
    fn tell_dropped(&mut self) {
        for (backend, (n, at)) in std::mem::take(&mut self.dropped.1) {
            self.outlet.send(Observation::Dropped(Dropped { backend, n, at }));
        }
    }

    /// Messages that were gone before they could be read.
    fn lost(&mut self, n_lines: u64) {
        if n_lines > 0 {
            self.outlet.send(Observation::LinesLost(n_lines));
        }
    }
}

#[cfg(test)]
mod tests;
