//! Probes of what stands behind the sites: can it be connected to, how long does that take, and what
//! does it tell of itself. Read-only, rate-limited, everything with a deadline.
//!
//! A round every 10 s, or every `[probes] interval` where that is longer; while gateway errors flow
//! one each second, in which only those that fail, status pages and databases are asked again.
//!
//! Sockets of PHP-FPM and the like on this machine are never connected to: a worker would have to
//! take the connection, which is what a saturated pool lacks. Whether they listen the kernel tells.

mod apache_status;
mod beside;
mod certificate;
mod certificates;
mod connect;
mod dial;
pub(super) mod fuzzing;
mod haproxy_stats;
mod heads;
mod held;
mod http;
mod memcached;
mod mysql;
mod names;
mod nginx_status;
mod pages;
mod postgres;
mod redis;
mod resolve;
mod stores;
mod tls;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;
use wire::v1::Signal;

use super::listeners::Listeners;
use super::{FAST, Outlet, Values, is_fast};
use crate::clock;
use crate::config::ProbesConfig;
use crate::discover::Discovery;
use crate::discover::backends::Backend;
use crate::gather::GatherStatus;
use crate::timer::patience;
use crate::timer::{Timer, next_due};
use crate::window::{Change, LogEvidence, Observation};

use beside::{Shared, beside};
use certificates::Certificates;
use connect::{Ledger, Line, Subject};
use dial::{Failure, Target, dial, printable};
use heads::Heads;
use held::Held;
use names::Names;
use pages::Pages;
use stores::Stores;
use tls::Handshaker;

/// Shortest time between two rounds while nothing fails.
const REST: Duration = Duration::from_secs(10);
/// Connections that are being made at one time.
const IN_FLIGHT_MAX: usize = 8;
/// The same for those known to fail, which mostly take the whole second.
const FAILING_IN_FLIGHT_MAX: usize = 32;
/// Backends of one round; the others take their turn in the next ones.
const ROUND_MAX: usize = 200;
/// Of those that fail so many are asked in each round beside the others.
const FAILING_MAX: usize = 100;
/// Of a round so many may get no answer at all until the others are given less patience: then a
/// switch or a machine with many of them is gone.
const UNANSWERED_MAX: usize = 4;
/// Connections that took this long to make start no more of them: the rest waits for its turn.
const LATE: Duration = Duration::from_secs(4);
/// The same for each of the steps that ask others than backends: names, sites, certificates.
const STEP_LATE: Duration = patience(Duration::from_secs(2));
/// What was measured is handed on at least this often, with the time it was measured at.
const PORTION: Duration = Duration::from_secs(1);
/// A line of evidence is cut here.
const MESSAGE_CHARS_MAX: usize = 300;

/// What the probes of upstreams need from the rest of the agent.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamInputs {
    /// `[probes]`.
    pub(crate) config: ProbesConfig,
    /// `[logs] root`: sockets are looked for below it first.
    pub(crate) root: PathBuf,
    /// What discovery found, and finds later.
    pub(crate) discovery: watch::Receiver<Arc<Discovery>>,
    /// Tells when the last gateway error was read.
    pub(crate) gather: watch::Receiver<GatherStatus>,
}

/// One round: when, how, and what it came to.
struct Round {
    at: UnixMillis,
    now: Instant,
    /// Gateway errors flow.
    is_fast: bool,
    /// All are asked, not only those that fail.
    is_full: bool,
    values: Values,
    /// When values were handed on last.
    sent_at: Instant,
}

/// Time in which one step of a round may start something: each has its own, so that one that hangs
/// leaves the others theirs.
#[derive(Clone, Copy, Debug)]
struct Budget {
    from: Instant,
    limit: Duration,
}

impl Budget {
    fn of(limit: Duration) -> Self {
        Self { from: clock::instant(), limit }
    }

    fn is_spent(&self) -> bool {
        self.from.elapsed() > self.limit
    }
}

impl Round {
    fn new(at: UnixMillis, now: Instant, is_fast: bool, is_full: bool) -> Self {
        Self { at, now, is_fast, is_full, values: Values::new(), sent_at: clock::instant() }
    }

    fn push(&mut self, metric: &'static str, attribute: String, value: f64) {
        self.values.push((metric, attribute, value));
    }
}

/// Asks until told to stop. Wakes at whole seconds, with the samples.
pub(crate) async fn run(mut inputs: UpstreamInputs, outlet: Outlet, stop: CancellationToken) {
    if !inputs.config.upstreams {
        return;
    }
    let interval = inputs.config.interval.0.max(REST);
    let gather = inputs.gather.clone();
    let mut timer = Timer::new();
    let mut prober = Prober::new(&mut inputs, outlet);
    let mut last = clock::now();
    let mut full_at: Option<UnixMillis> = None;
    let mut was_fast = false;
    loop {
        let now = clock::now();
        let error_at = gather.borrow().gateway_error_at;
        let is_fast = is_fast(error_at, now);
        let due = next_due(last, now, if is_fast { interval.min(FAST) } else { interval });
        if due.0 > now.0 {
            // Looks at the errors each second rather than waiting for a change of the gather thread's
            // status, which changes with every line read.
            let look = next_due(now, now, FAST).0.min(due.0);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a timer, set anew from the wall clock each time.
                () = timer.wait(clock::until(UnixMillis(look))) => {}
            }
            continue;
        }
        last = due;
        let rest_ms = interval.as_millis() as i64;
        let is_old = full_at.is_none_or(|at| due.0 - at.0 >= rest_ms || due.0 < at.0);
        let is_full = is_old || is_fast && !was_fast;
        if is_full {
            full_at = Some(due);
        }
        was_fast = is_fast;
        let round = Round::new(due, clock::instant(), is_fast, is_full);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Not resumed: what is being asked is dropped with everything else.
            () = prober.round(round) => {}
        }
    }
}

/// All that is remembered between two rounds.
struct Prober {
    config: ProbesConfig,
    root: PathBuf,
    discovery: watch::Receiver<Arc<Discovery>>,
    outlet: Outlet,
    ledger: Ledger,
    listeners: Shared<Listeners>,
    held: Shared<Held>,
    names: Names,
    pages: Pages,
    stores: Stores,
    certificates: Certificates,
    heads: Heads,
    handshaker: Handshaker,
    /// First of the backends whose turn it is, and of those that fail.
    turn: usize,
    failing_turn: usize,
    /// [`LATE`], but for tests.
    late: Duration,
}

impl Prober {
    fn new(inputs: &mut UpstreamInputs, outlet: Outlet) -> Self {
        Self {
            config: inputs.config.clone(),
            root: inputs.root.clone(),
            discovery: inputs.discovery.clone(),
            outlet,
            ledger: Ledger::default(),
            listeners: Arc::new(Mutex::new(Listeners::new(&inputs.root))),
            held: Arc::new(Mutex::new(Held::new(&inputs.root))),
            names: Names::new(),
            pages: Pages::default(),
            stores: Stores::default(),
            certificates: Certificates::default(),
            heads: Heads::new(&inputs.config),
            handshaker: Handshaker::new(),
            turn: 0,
            failing_turn: 0,
            late: LATE,
        }
    }

    async fn round(&mut self, mut round: Round) {
        let discovery = Arc::clone(&self.discovery.borrow());
        let wanted = self.pick(&discovery.backends, round.is_full);
        self.connect(&discovery, &wanted, &mut round).await;
        self.ask_pages(&discovery, &mut round).await;
        self.ask_stores(&discovery, &mut round).await;
        self.send(&mut round);
        // What waits for others comes last, so that it delays nothing.
        if self.config.dns {
            self.ask_names(&discovery, &wanted, &mut round).await;
        }
        if round.is_full {
            self.ask_heads(&discovery, &mut round).await;
            self.ask_certificates(&discovery, &mut round).await;
            self.forget(&discovery);
        }
        self.send(&mut round);
    }

    /// Forgets whom nothing names any more.
    fn forget(&mut self, discovery: &Discovery) {
        let backends: BTreeSet<&str> = discovery.backends.iter().map(|b| &*b.address).collect();
        let hosts: BTreeSet<&str> = names::hosts(&discovery.backends).collect();
        let sites: BTreeSet<&str> = discovery.sites.iter().map(|site| &*site.name).collect();
        let stores = &self.stores;
        self.ledger.keep(|key| match key.split_once(' ') {
            Some(("name", host)) => hosts.contains(host),
            Some(("site", site)) => sites.contains(site),
            Some(("tls", address)) => backends.contains(address),
            _ => backends.contains(key) || stores.has(key),
        });
    }

    /// Hands on what was measured so far.
    fn send(&self, round: &mut Round) {
        let values = std::mem::take(&mut round.values);
        let now = clock::instant();
        // What was measured at once has the instant of the samples.
        let is_prompt = now.saturating_duration_since(round.now) < PORTION;
        let at = if is_prompt { round.at } else { clock::now() };
        round.sent_at = now;
        if !values.is_empty() {
            self.outlet.send(Observation::Samples { at, values });
        }
    }

    /// The same where it is time.
    fn send_portion(&self, round: &mut Round) {
        if round.sent_at.elapsed() >= PORTION {
            self.send(round);
        }
    }

    /// In a full round the next ones of all, and in each those that fail.
    fn pick(&mut self, backends: &[Backend], is_full: bool) -> Vec<Backend> {
        let mut picked: Vec<&Backend> = Vec::new();
        if is_full && !backends.is_empty() {
            let from = self.turn % backends.len();
            let n = ROUND_MAX.min(backends.len());
            picked.extend(backends.iter().cycle().skip(from).take(n));
            self.turn = from + n;
        }
        let known: BTreeSet<&str> = picked.iter().map(|backend| &*backend.address).collect();
        let is_new = |backend: &&Backend| !known.contains(&*backend.address);
        let down = backends.iter().filter(|backend| self.ledger.is_down(&backend.address));
        let down: Vec<&Backend> = down.filter(is_new).collect();
        if !down.is_empty() {
            let from = self.failing_turn % down.len();
            let n = FAILING_MAX.min(down.len());
            picked.extend(down.iter().cycle().skip(from).take(n));
            self.failing_turn = from + n;
        }
        picked.into_iter().cloned().collect()
    }

    /// Connects to backends known by number or socket, or asks the kernel whether they listen.
    async fn connect(&mut self, discovery: &Discovery, wanted: &[Backend], round: &mut Round) {
        let is_script = |backend: &&Backend| backend.is_script;
        let scripts: Vec<String> =
            wanted.iter().filter(is_script).map(|b| b.address.clone()).collect();
        let seen = self.look(scripts, discovery).await;
        let mut dialled = Vec::new();
        for backend in wanted {
            // Whoever runs scripts is never dialled: where the kernel cannot tell, nothing is known.
            if backend.is_script {
                let found = seen.iter().find(|(address, _)| *address == backend.address);
                if let Some((_, Some(result))) = found {
                    self.note(&Subject::of(backend), &heard(*result), None, round);
                }
            } else if let Some(target) = Target::of(&self.root, &backend.address) {
                dialled.push((backend.clone(), target));
            }
        }
        let Some(left) = self.dial_all(dialled, Budget::of(self.late), discovery, round).await
        else {
            return;
        };
        // Those that had no turn are the next ones; behind them come those that fail.
        let n_in_turn = if round.is_full { ROUND_MAX.min(wanted.len()) } else { 0 };
        if wanted[..n_in_turn].iter().any(|backend| backend.address == left) {
            let at = discovery.backends.iter().position(|backend| backend.address == left);
            self.turn = at.unwrap_or(self.turn);
        }
    }

    /// Whether somebody listens at these addresses, as the kernel sees it.
    async fn look(
        &mut self,
        addresses: Vec<String>,
        discovery: &Discovery,
    ) -> Vec<(String, Option<Result<(), Signal>>)> {
        if addresses.is_empty() {
            return Vec::new();
        }
        let own = discovery.addresses.clone();
        // A socket may lie on a disk that hangs.
        let looked = beside(&self.listeners, move |listeners| {
            let now = clock::instant();
            let look = |address: String| {
                let found = listeners.look(&address, &own, now);
                (address, found)
            };
            addresses.into_iter().map(look).collect()
        });
        looked.await.unwrap_or_default()
    }

    /// Connects to all of them, a few at a time; returns the first for whom there was no time.
    async fn dial_all(
        &mut self,
        wanted: Vec<(Backend, Target)>,
        budget: Budget,
        discovery: &Discovery,
        round: &mut Round,
    ) -> Option<String> {
        let mut wanted = wanted.into_iter().peekable();
        let mut running = JoinSet::new();
        let n_unanswered = Arc::new(AtomicUsize::new(0));
        let mut missing = Vec::new();
        loop {
            while let Some((backend, _)) = wanted.peek().filter(|_| !budget.is_spent()) {
                let is_down = self.ledger.is_down(&backend.address);
                let is_bad = n_unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX;
                let most = if is_down || is_bad { FAILING_IN_FLIGHT_MAX } else { IN_FLIGHT_MAX };
                if running.len() >= most {
                    break;
                }
                let Some((backend, target)) = wanted.next() else { break };
                let n_unanswered = Arc::clone(&n_unanswered);
                running.spawn(async move {
                    let (result, took) = timed(&target, is_down, &n_unanswered).await;
                    (backend, result, took)
                });
            }
            // A task that died measured nothing.
            let Some(done) = running.join_next().await else { break };
            if let Ok((backend, result, took)) = done {
                if matches!(&result, Err(f) if f.signal == Some(Signal::NoSuchSocket)) {
                    missing.push((backend, result, took));
                } else {
                    self.note(&Subject::of(&backend), &result, Some(took), round);
                }
            }
            self.send_portion(round);
        }
        self.note_missing(missing, discovery, round).await;
        wanted.next().map(|(backend, _)| backend.address)
    }

    /// Takes in sockets that are not there. One that the kernel lists all the same lies in a file
    /// system that only others see: a `/tmp` of their own, a container.
    async fn note_missing(
        &mut self,
        missing: Vec<(Backend, Result<(), Failure>, Duration)>,
        discovery: &Discovery,
        round: &mut Round,
    ) {
        let addresses = missing.iter().map(|(backend, ..)| backend.address.clone()).collect();
        let seen = self.look(addresses, discovery).await;
        for (backend, result, took) in missing {
            let found = seen.iter().find(|(address, _)| *address == backend.address);
            // Only what the kernel does not list either is not there; it may not have answered.
            let is_absent = matches!(found, Some((_, Some(Err(_)))));
            let result = if is_absent { result } else { Err(out_of_sight()) };
            self.note(&Subject::of(&backend), &result, Some(took), round);
        }
    }

    /// Takes in one result: its values, and a line when it is news.
    fn note(
        &mut self,
        subject: &Subject,
        result: &Result<(), Failure>,
        took: Option<Duration>,
        round: &mut Round,
    ) {
        let verdict = self.ledger.fold(subject, result, round.now);
        if let Some(note) = verdict.note {
            tracing::info!(what = note, "not probed: its metrics are absent");
        }
        if let Some(is_up) = verdict.is_up {
            let attribute = format!("upstream={}", subject.address);
            if let Some(took) = took {
                round.push(
                    "gatewatch.upstream.connect.duration",
                    attribute.clone(),
                    took.as_secs_f64(),
                );
            }
            round.push("gatewatch.upstream.up", attribute, f64::from(u8::from(is_up)));
        }
        if let Some(line) = verdict.line {
            self.tell(line);
        }
    }

    fn tell(&self, line: Line) {
        let Line { message, signal, pool } = line;
        let message = printable(&message, MESSAGE_CHARS_MAX);
        let at = clock::now();
        let line = LogEvidence { source: "probe", message, at, signal, pool };
        self.outlet.send(Observation::Log(line));
    }

    fn tell_change(&self, kind: &'static str, what: &str, site: Option<String>) {
        let what = printable(what, MESSAGE_CHARS_MAX);
        let change = Change { site, ..Change::new(kind, what, clock::now()) };
        self.outlet.send(Observation::Change(change));
    }
}

/// What the kernel's list means to who would connect.
fn heard(result: Result<(), Signal>) -> Result<(), Failure> {
    result.map_err(|signal| match signal {
        Signal::NoSuchSocket => Failure::new(signal, "no such socket"),
        signal => Failure::new(signal, "nobody listens there"),
    })
}

/// Somebody listens at a socket whose file the agent does not see.
fn out_of_sight() -> Failure {
    Failure::ours("its socket lies where the agent does not see it: a private /tmp or a container")
}

/// One connection, and how long it took. A packet may get lost: what was well before is tried twice
/// before it counts as failed, unless too many others get no answer either.
async fn timed(
    target: &Target,
    is_down: bool,
    n_unanswered: &AtomicUsize,
) -> (Result<(), Failure>, Duration) {
    let started = clock::instant();
    let result = dial(target).await.map(drop);
    let took = started.elapsed();
    let is_lost = matches!(&result, Err(f) if f.signal == Some(Signal::ConnectTimeout));
    if !is_lost {
        return (result, took);
    }
    let n_before = n_unanswered.fetch_add(1, Ordering::Relaxed);
    if is_down || n_before >= UNANSWERED_MAX {
        return (result, took);
    }
    let started = clock::instant();
    let result = dial(target).await.map(drop);
    (result, started.elapsed())
}

#[cfg(test)]
mod tests;
