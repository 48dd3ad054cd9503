//! The collector, one per fleet: batches in, incidents out.
//!
//! ```text
//! agents  =>  ingest -> store -> detect -> incident -> notify
//!                         └> web, report
//! ```

pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod errors;
pub mod files;
mod listen;
pub mod model;
pub mod selfstats;
pub mod ingest;
pub mod notify;
#[cfg(test)]
mod samples;
pub mod store;
pub mod detect;
pub mod incident;
pub mod localize;
pub mod detective;
pub mod witness;
pub mod report;
pub mod web;
pub mod operator;
pub mod replay;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use ca::{Ca, CaError};
use config::Config;
use ingest::{Heard, Ingest, Live};
use listen::ListenError;
use store::{Keeper, Store, StoreError, backup, verify};
use web::AppState;
use web::auth::AdminToken;
use witness::Witness;

/// Words of agents that wait for the detective. When full, heartbeats are dropped and counted (the
/// next one says more), hellos and goodbyes wait.
const HEARD_MAX: usize = 16_384;

/// Disk space kept back for the moment when there is none.
const BALLAST_BYTES: u64 = 64 << 20;

/// Shortest wait for the answers of receivers that are being told when the collector stops.
const ANSWER_MIN: Duration = Duration::from_secs(2);

/// Longest wait for the last commit, beyond the grace.
const LAST_COMMIT: Duration = Duration::from_secs(5);

/// Why the collector does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A port cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The agents' port broke.
    #[error(transparent)]
    Ingest(#[from] ingest::ServeError),
    /// The HTTP port or the socket broke.
    #[error("a port for people broke")]
    Web(#[source] std::io::Error),
    /// A stage ended by itself, which is a bug.
    #[error("{0} ended by itself")]
    Ended(&'static str),
    /// The database is damaged, and there is no backup to restore by itself.
    #[error(transparent)]
    Mend(#[from] backup::BackupError),
    /// The database was found damaged while it was used.
    #[error(
        "the database is damaged ({0}): the next start restores the newest backup of `[backup] dir`, or says what to do"
    )]
    Damaged(String),
    /// A receiver of notifications cannot be used.
    #[error("notifications cannot be sent: {0}")]
    Notify(String),
    /// A file cannot be used.
    #[error("{path}: cannot be used; check that this user may write there, or set another `{key}`")]
    File {
        /// Which.
        path: PathBuf,
        /// Key of the config that names it.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// What is open before anything runs.
struct Opened {
    store: Store,
    ca: Arc<Ca>,
    admin_token: AdminToken,
    targets: Vec<notify::Target>,
    deadman: Option<notify::Deadman>,
    schedules: Vec<report::schedule::Schedule>,
    ready: Arc<AtomicBool>,
    grpc: listen::Listening,
    http: listen::Listening,
    socket: UnixListener,
}

/// Runs the collector until `stop` fires, then drains within `shutdown_grace`.
///
/// The order of the start: data directory, database, authority, ports; only then `listening`. The
/// order of the stop is that of the pipeline: streams, detective, notifications, database.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let opened = open(&config).await?;
    let store = opened.store.clone();
    // Ends what comes after the streams, once they are drained.
    let drained = CancellationToken::new();
    // Ends what waits for answers of others.
    let cut = CancellationToken::new();
    let mut doors = JoinSet::new();
    let mut rest = JoinSet::new();
    let ends = Ends { stop: stop.clone(), drained: drained.clone(), cut: cut.clone() };
    start(opened, &config, &ends, &mut doors, &mut rest);
    tell_systemd(&[NotifyState::Ready]);

    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        // Cancel-safe: what has ended stays in its set.
        Some(ended) = doors.join_next() => {
            ended.unwrap_or(Err(RunError::Ended("a port"))).and(Err(RunError::Ended("a port")))
        }
        Some(ended) = rest.join_next() => Err(RunError::Ended(ended.unwrap_or("a stage"))),
        error = damaged(&store) => Err(error),
    };
    if ended.is_ok() {
        tracing::info!("stopping");
    }
    tell_systemd(&[NotifyState::Stopping]);
    stop.cancel();
    let deadline = Instant::now() + config.shutdown_grace.0;
    let doors_closed = async { while doors.join_next().await.is_some() {} };
    // Connections that never spoke can hold it up; nothing of them is stored.
    if timeout_at(deadline, doors_closed).await.is_err() {
        tracing::warn!("connections are cut off: the grace is over");
    }
    drained.cancel();
    let mut rest_ended = std::pin::pin!(async { while rest.join_next().await.is_some() {} });
    // A receiver that is being told gets the time to say so: else it would be told again.
    let last_answer = deadline - config.shutdown_grace.0 / 5;
    let last_answer = last_answer.max(Instant::now() + ANSWER_MIN);
    let is_over = timeout_at(last_answer, rest_ended.as_mut()).await.is_ok();
    cut.cancel();
    if !is_over && timeout_at(deadline + LAST_COMMIT, rest_ended).await.is_err() {
        tracing::warn!("a stage does not stop; what it had not stored is done again");
    }
    if timeout(LAST_COMMIT, store.close()).await.is_err() {
        tracing::warn!("the database is closed without its last notes; they are replayed");
    }
    tracing::info!("stopped");
    ended
}

/// Opens files and ports; nothing of it runs yet.
async fn open(config: &Config) -> Result<Opened, RunError> {
    let dir = &config.data_dir;
    let file = |path: PathBuf, key| move |source| RunError::File { path, key, source };
    files::create_private_dir(dir).map_err(file(dir.clone(), "data_dir"))?;
    if files::is_open_to_others(dir).map_err(file(dir.clone(), "data_dir"))? {
        let path = dir.display();
        tracing::warn!(%path, "others can enter the data directory; to keep them out: chmod 0700");
    }
    let store = open_store(config)?;
    let ca = Arc::new(Ca::load_or_create(&dir.join("ca"), clock::now())?);
    let token = dir.join("admin.token");
    let admin_token =
        AdminToken::load_or_create(&token).map_err(file(token.clone(), "data_dir"))?;
    let targets = notify::targets(&config.notify);
    let targets = targets.map_err(|problems| RunError::Notify(problems.join("; ")))?;
    let schedules = report::schedule::all(&config.report.schedule);
    let schedules =
        schedules.map_err(|why| RunError::Notify(format!("[[report.schedule]] {why}")))?;
    let ready = Arc::<AtomicBool>::default();
    let deadman = notify::Deadman::new(&config.deadman, store.clone(), Arc::clone(&ready));
    let deadman = deadman.map_err(|why| RunError::Notify(format!("[deadman] {why}")))?;
    let grpc = listen::open("grpc", &config.grpc.listen, dir).await?;
    let http = listen::open("http", &config.http.listen, dir).await?;
    let socket = web::bind_socket(&config.socket).await;
    let socket = socket.map_err(file(config.socket.clone(), "socket"))?;
    Ok(Opened { store, ca, admin_token, targets, deadman, schedules, ready, grpc, http, socket })
}

/// Opens the database; one that is damaged gives way to the newest backup that was made by itself.
fn open_store(config: &Config) -> Result<Store, RunError> {
    let dir = &config.data_dir;
    let why = match Store::open_with(dir, BALLAST_BYTES) {
        Ok(store) => return Ok(store),
        Err(error) => error.damage().ok_or(error)?,
    };
    backup::mend(dir, config.backup.dir.as_deref(), &why)?;
    Ok(Store::open_with(dir, BALLAST_BYTES)?)
}

/// Ends when the database is found damaged.
async fn damaged(store: &Store) -> RunError {
    let mut damage = store.damaged();
    let why = damage.wait_for(Option::is_some).await.map(|why| why.clone().unwrap_or_default());
    RunError::Damaged(why.map(|why| why.to_string()).unwrap_or_default())
}

/// What ends the stages, in this order.
struct Ends {
    /// The ports.
    stop: CancellationToken,
    /// What comes after the streams.
    drained: CancellationToken,
    /// What waits for answers of others.
    cut: CancellationToken,
}

/// Starts every stage: the ports into `doors`, what outlives them into `rest`.
fn start(
    opened: Opened,
    config: &Config,
    ends: &Ends,
    doors: &mut JoinSet<Result<(), RunError>>,
    rest: &mut JoinSet<&'static str>,
) {
    let Ends { stop, drained, cut } = ends;
    let Opened { store, ca, admin_token, targets, deadman, schedules, ready, grpc, http, socket } =
        opened;
    let address = web::agents_address(config, grpc.address);
    let links = web::links(config, http.address);
    let mut state =
        AppState::new(store.clone(), Arc::clone(&ca), admin_token, address, stop.clone());
    state.receivers = notify::receivers(&config.notify, &targets);
    state.desk = report::Desk::new(store.clone(), config.report.clone());
    state.links = links.as_str().into();
    state.ready = Arc::clone(&ready);
    let (heard, words) = mpsc::channel::<Heard>(HEARD_MAX);
    let live = Live::default();
    let (doubt, doubts) = watch::channel(false);
    let witnesses = &config.detect.witnesses;
    let witness = Witness::new(witnesses, live.clone(), heard.clone(), Arc::clone(store.stats()));
    let (detective_of, until) = (store.clone(), drained.clone());
    let ended = detective::spawn(detective_of, config, words, live.clone(), ready, doubt, until);
    let until = drained.clone();
    rest.spawn(async move {
        witness.run(doubts, until.clone()).await;
        until.cancelled().await; // ends early only after the detective
        "the witness"
    });
    rest.spawn(async move {
        if ended.await.is_err() {
            tracing::error!("the detective ended by a panic");
        }
        "the detective"
    });
    let (of_reports, desk, until) = (store.clone(), state.desk.clone(), drained.clone());
    rest.spawn(async move {
        report::schedule::run(of_reports, desk, schedules, until.clone()).await;
        until.cancelled().await; // without schedules it has nothing to do
        "the sender of reports"
    });
    let notified = Arc::clone(&state.notify_stats);
    let (outbox, pace) = (store.clone(), notify::Pace::default());
    let (until, cut) = (drained.clone(), cut.clone());
    rest.spawn(async move {
        notify::run(outbox, targets, links, pace, notified, (until.clone(), cut)).await;
        until.cancelled().await; // without receivers it has nothing to do
        "the notifier"
    });
    let keeper =
        Keeper::new(store.clone(), config.store.clone(), config.retention.clone(), drained.clone());
    rest.spawn(async move {
        keeper.run().await;
        "the keeper of history"
    });
    keep_sound(&store, config, drained, rest);
    if let Some(deadman) = deadman {
        let until = drained.clone();
        rest.spawn(async move {
            deadman.run(until).await;
            "the heartbeat"
        });
    }
    let downloads = web::downloads::router(config.data_dir.join("dl"));
    let ingest = Ingest { ca: Arc::clone(&ca), store, live, heard, downloads };
    let until = stop.clone();
    doors.spawn(async move { Ok(ingest::serve(ingest, grpc.listener, until).await?) });
    serve_web(state, http.listener, socket, config, stop, doors);
    tracing::info!(
        grpc = %grpc.address, http = %http.address, socket = %config.socket.display(),
        data_dir = %config.data_dir.display(), ca_hash = ca.hash(), "listening"
    );
}

/// Backups that are made by themselves, and the second look at what was damaged.
fn keep_sound(
    store: &Store,
    config: &Config,
    until: &CancellationToken,
    rest: &mut JoinSet<&'static str>,
) {
    if let Some(schedule) = backup::Schedule::new(&config.backup) {
        let (store, until) = (store.clone(), until.clone());
        rest.spawn(async move {
            schedule.run(store, until).await;
            "the maker of backups"
        });
    }
    let (store, until) = (store.clone(), until.clone());
    rest.spawn(async move {
        verify::recheck_hourly(store, until).await;
        "the second look at damage"
    });
}

fn serve_web(
    state: AppState,
    http: TcpListener,
    socket: UnixListener,
    config: &Config,
    stop: &CancellationToken,
    doors: &mut JoinSet<Result<(), RunError>>,
) {
    let router = web::router(state);
    let (over_socket, path, until) = (router.clone(), config.socket.clone(), stop.clone());
    doors.spawn(async move {
        web::serve_socket(socket, path, over_socket, until).await.map_err(RunError::Web)
    });
    let until = stop.clone();
    doors.spawn(async move {
        web::serve_http(http, router, until).await;
        Ok(())
    });
}

/// Outside systemd this does nothing.
fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
