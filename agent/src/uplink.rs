//! Stage 5: spooled batches to the collector, deleted on ack; one stream, reconnected for ever.
//!
//! The collector's word on what it holds decides where to go on: `Welcome` and `Rewind` may ask for
//! batches that were acked before. The spool is touched on the blocking pool only, since the gather
//! thread may hold it through a slow `fdatasync`, and heartbeats must not wait for a disk.

mod session;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use wire::UnixMillis;

use crate::backoff::Backoff;
use crate::clock;
use crate::gather::GatherStatus;
use crate::identity::{Identity, IdentityError};
use crate::spool::Spool;

/// First and largest wait while the collector cannot be reached, until a `Welcome` says otherwise.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The same while it refuses us: only a person can change that.
const REFUSED_FIRST: Duration = Duration::from_secs(30);
const REFUSED_MAX: Duration = Duration::from_secs(600);
/// Reconnections that need no wait (new epoch, rewind, renewed certificate), as long as no stream
/// lasts for this long between them; more look like a loop.
const IMMEDIATE_MAX: u32 = 3;
const LASTING: Duration = Duration::from_secs(60);
/// A failure that goes on is logged again after this long.
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// What the uplink needs from the rest of the agent.
pub struct Inputs {
    /// `HOST:PORT`.
    pub address: String,
    /// Renewed while running.
    pub identity: watch::Receiver<Arc<Identity>>,
    /// Labels of the config, re-read on SIGHUP; labels found out.
    pub labels: watch::Receiver<BTreeMap<String, String>>,
    /// See `labels`.
    pub detected: BTreeMap<String, String>,
    /// `[collector] heartbeat`.
    pub heartbeat: Duration,
    /// `[collector] batch_interval`: in force when no `Throttle` is.
    pub batch_interval: Duration,
    /// The queue.
    pub spool: Arc<Mutex<Spool>>,
    /// Fires (`notify_one`) after each append.
    pub appended: Arc<Notify>,
    /// For heartbeats.
    pub gather: watch::Receiver<GatherStatus>,
    /// Batch interval of the gather thread.
    pub interval: watch::Sender<Duration>,
    /// For `status`.
    pub status: watch::Sender<UplinkStatus>,
    /// Fires when the last batch is spooled: send what is left, say goodbye, end.
    pub drain: CancellationToken,
    /// Longest time for that.
    pub drain_max: Duration,
    /// Where it is noted that the collector refuses this server's certificate.
    pub state_dir: PathBuf,
}

/// What `status` says of the uplink.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkStatus {
    /// `connecting`, `connected`, `waiting`, `refused` or `stopped`.
    pub state: &'static str,
    /// `HOST:PORT`.
    pub collector: String,
    /// Name the collector knows this server by.
    pub server: String,
    /// Since when the stream is up.
    #[serde(with = "wire::rfc3339::option")]
    pub connected_at: Option<UnixMillis>,
    /// When something was acked last.
    #[serde(with = "wire::rfc3339::option")]
    pub acked_at: Option<UnixMillis>,
    /// Why there is no stream.
    pub error: Option<String>,
    /// Highest seq sent on this stream.
    pub seq_sent: u64,
    /// Streams since the start.
    pub n_streams: u64,
    /// In force: the config's, or the collector's `Throttle`.
    pub batch_interval_ms: u64,
    /// End of the client certificate.
    #[serde(with = "wire::rfc3339::option")]
    pub certificate_not_after: Option<UnixMillis>,
}

/// Kinds of failure, each logged once until it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// No connection, or it broke.
    Lost,
    /// The collector has no room or is stopping.
    Busy,
    /// It refuses our certificate: revoked, expired, of another fleet.
    Refused,
    /// We refuse its certificate.
    Untrusted,
    /// Protocol versions do not meet.
    Version,
    /// Our own disk or key.
    Local,
}

/// How a stream ended.
#[derive(Debug)]
enum Ended {
    /// Stopped on purpose, all said.
    Drained,
    /// Connect again at once.
    Again(&'static str),
    /// Wait first.
    Failed { class: Class, error: String, wait_min: Duration },
}

/// Runs until drained.
pub async fn run(inputs: Inputs) {
    Uplink {
        backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
        refused: Backoff::new(REFUSED_FIRST, REFUSED_MAX),
        said: None,
        inputs,
    }
    .run()
    .await;
}

struct Uplink {
    inputs: Inputs,
    backoff: Backoff,
    refused: Backoff,
    /// The failure logged last, and when.
    said: Option<(Class, std::time::Instant)>,
}

impl Uplink {
    async fn run(mut self) {
        let drain = self.inputs.drain.clone();
        let interval = self.inputs.batch_interval;
        self.note(|s| s.batch_interval_ms = millis(interval));
        let mut n_immediate = 0;
        loop {
            let is_last_try = drain.is_cancelled();
            let began = clock::instant();
            let ended = self.session().await;
            n_immediate = n_immediate_after(n_immediate, clock::instant() - began);
            // A throttle holds until its stream ends.
            self.inputs.interval.send_replace(interval);
            self.note(|s| s.batch_interval_ms = millis(interval));
            let wait = match ended {
                Ended::Drained => break,
                Ended::Again(why) if n_immediate < IMMEDIATE_MAX => {
                    tracing::info!(why, "connecting again");
                    n_immediate += 1;
                    continue;
                }
                Ended::Again(why) => self.slow_down(why),
                Ended::Failed { class, error, wait_min } => self.failed(class, &error, wait_min),
            };
            n_immediate = 0;
            if is_last_try {
                break; // what is left stays in the spool
            }
            tokio::select! {
                biased;
                // One more try, to send what is left and to say goodbye.
                () = drain.cancelled() => {}
                // Cancel-safe: versions are compared. With a new certificate it may work at once.
                Ok(()) = self.inputs.identity.changed() => {}
                // Cancel-safe: a timer.
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.note(|s| s.state = "stopped");
    }

    /// How long to wait before a stream that is wanted at once, for the time being too often.
    fn slow_down(&mut self, why: &str) -> Duration {
        let wait = self.backoff.next(crate::random_unit());
        tracing::info!(why, ?wait, "connecting again");
        self.note_waiting("waiting", why);
        wait
    }

    /// Tells the failure, once per kind; returns how long to wait.
    fn failed(&mut self, class: Class, error: &str, wait_min: Duration) -> Duration {
        let backoff = match class {
            Class::Lost | Class::Busy | Class::Local => &mut self.backoff,
            Class::Refused | Class::Untrusted | Class::Version => &mut self.refused,
        };
        let wait = backoff.next(crate::random_unit()).max(wait_min);
        let now = clock::instant();
        if class == Class::Refused {
            // So that `enroll` knows that the certificate is good for nothing.
            self.inputs.identity.borrow().mark_refused(&self.inputs.state_dir);
        }
        let is_said =
            self.said.is_some_and(|(said, at)| said == class && now.duration_since(at) < SAY_AGAIN);
        let collector = &self.inputs.address;
        if is_said {
            tracing::debug!(collector, error, ?wait, "no stream, trying again");
        } else if !matches!(class, Class::Lost | Class::Busy) {
            tracing::error!(collector, error, "the collector gets nothing until this is mended");
            self.said = Some((class, now));
        } else {
            tracing::warn!(collector, error, "no stream: spooling, trying again for ever");
            self.said = Some((class, now));
        }
        let state = match class {
            Class::Refused | Class::Untrusted | Class::Version => "refused",
            Class::Lost | Class::Busy | Class::Local => "waiting",
        };
        self.note_waiting(state, error);
        wait
    }

    fn note_waiting(&self, state: &'static str, why: &str) {
        self.note(|s| {
            s.state = state;
            s.error = Some(why.to_owned());
            s.connected_at = None;
        });
    }

    fn welcomed(&mut self, retry_jitter_s: f64) {
        let jitter = Duration::try_from_secs_f64(retry_jitter_s).unwrap_or(RETRY_FIRST);
        let first = jitter.clamp(Duration::from_millis(100), Duration::from_secs(3600));
        self.backoff.set_bounds(first, RETRY_MAX);
        self.backoff.reset();
        self.refused.reset();
        self.said = None;
    }

    fn note(&self, change: impl FnOnce(&mut UplinkStatus)) {
        self.inputs.status.send_modify(change);
    }
}

/// How many reconnections without a wait count after a stream that lasted for so long.
fn n_immediate_after(n_immediate: u32, lasted: Duration) -> u32 {
    if lasted < LASTING { n_immediate } else { 0 }
}

/// The spool, for as short as possible; a panic elsewhere does not stop the uplink.
fn lock(spool: &Mutex<Spool>) -> MutexGuard<'_, Spool> {
    spool.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Ended {
    fn failed(class: Class, error: impl Into<String>) -> Self {
        Self::Failed { class, error: error.into(), wait_min: Duration::ZERO }
    }

    fn from_identity(error: &IdentityError) -> Self {
        use crate::identity::LinkError as Link;
        let class = match error {
            IdentityError::Link(Link::Unreachable { .. }) | IdentityError::Answer { .. } => {
                Class::Lost
            }
            IdentityError::Link(Link::OursRefused { .. }) | IdentityError::Refused { .. } => {
                Class::Refused
            }
            IdentityError::Link(_) => Class::Untrusted,
            _ => Class::Local,
        };
        Self::failed(class, crate::chain(error))
    }

    fn from_status(status: &Status) -> Self {
        let (lowest, highest) = wire::PROTOCOL_VERSIONS;
        let said = status.message();
        let (class, error) = match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                (Class::Refused, format!("the collector refuses this server: {said}"))
            }
            Code::FailedPrecondition | Code::Unimplemented => (
                Class::Version,
                format!(
                    "no common protocol version: this agent {} speaks {lowest} to {highest}, the \
                     collector says: {said}; upgrade the older of the two",
                    env!("CARGO_PKG_VERSION"),
                ),
            ),
            Code::ResourceExhausted => (Class::Busy, format!("the collector has no room: {said}")),
            code => (Class::Lost, format!("the stream ended: {code:?}: {}", crate::chain(status))),
        };
        let retry_after = status.metadata().get("retry-after").and_then(|v| v.to_str().ok());
        let seconds = retry_after.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Self::Failed { class, error, wait_min: Duration::from_secs(seconds.min(600)) }
    }
}

#[cfg(test)]
pub(crate) mod fake_collector;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod tests;
