//! Domain types of the collector: ids, the records the detector reads, the incident people see.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::v1::Signal;

/// A server: `server.server_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub i64);

/// A site on one server: `site.site_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SiteId(pub i64);

/// A server is silent after so many heartbeats without a word, and not before this, ms.
const HEARTBEATS: i64 = 4;
const SILENT_MIN_MS: i64 = 5_000;
/// Longest heartbeat that is believed, ms.
pub const HEARTBEAT_MAX_MS: i64 = 600_000;

/// How long without a word a server with this heartbeat is silent, ms: 4 heartbeats, 5 s at least.
#[must_use]
pub fn silent_after_ms(heartbeat_ms: i64) -> i64 {
    SILENT_MIN_MS.max(HEARTBEATS * heartbeat_ms.clamp(0, HEARTBEAT_MAX_MS))
}

/// One thing the detector is told. Times are event times on the server's own clock.
///
/// Records come in order of arrival; nothing in them is a verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A server, before its first other record and when its labels change.
    Server {
        /// Its id.
        server: ServerId,
        /// Its name in the fleet.
        name: String,
        /// Effective labels.
        labels: BTreeMap<String, String>,
        /// Logical processors; 0 unknown.
        n_cpu: u32,
        /// Interval of its heartbeats.
        heartbeat: Duration,
    },
    /// A site, before its first request and when its pool changes.
    Site {
        /// Its id.
        site: SiteId,
        /// The server it is on.
        server: ServerId,
        /// Primary name.
        name: String,
        /// What serves it on this server.
        pool: Option<String>,
        /// Upstream on another machine.
        upstream: Option<String>,
        /// Its past, when one is known.
        baseline: Option<Baseline>,
    },
    /// Requests of one second; additive.
    Requests {
        /// Whose.
        site: SiteId,
        /// In which second.
        at: UnixMillis,
        /// How many.
        counts: Counts,
    },
    /// One gateway error.
    Exemplar(Exemplar),
    /// Resource samples: catalog name, attribute, value in the metric's unit.
    Sample {
        /// Whose.
        server: ServerId,
        /// When.
        at: UnixMillis,
        /// What.
        values: Vec<(&'static str, String, f64)>,
    },
    /// A service's state changed.
    Service {
        /// On which server.
        server: ServerId,
        /// Since when.
        at: UnixMillis,
        /// systemd unit or process.
        unit: String,
        /// `active`, `reloading`, `activating`, `deactivating`, `inactive`, `failed`.
        state: String,
        /// Pool it serves.
        pool: Option<String>,
        /// Why, in words: `oom-kill`, `killed by signal 9, restarted 5 times`.
        reason: Option<String>,
    },
    /// A system log line.
    Log {
        /// On which server.
        server: ServerId,
        /// When.
        at: UnixMillis,
        /// `kernel`, `php_fpm`, ...
        source: String,
        /// The line.
        message: String,
        /// What it says.
        signal: Option<Signal>,
        /// Pool it names.
        pool: Option<String>,
    },
    /// Something changed.
    Change {
        /// On which server.
        server: ServerId,
        /// When.
        at: UnixMillis,
        /// `package`, `config`, ...
        kind: String,
        /// In words.
        what: String,
        /// Only site it touches.
        site: Option<String>,
        /// Only pool it touches.
        pool: Option<String>,
    },
    /// The server's watermark: every count before `at` has been sent.
    Heartbeat {
        /// Whose.
        server: ServerId,
        /// Complete until.
        at: UnixMillis,
        /// Its clock when sent.
        clock: UnixMillis,
    },
    /// A batch's watermark: every count before `at` has been sent. Says nothing about the clock,
    /// because the batch may have waited in the spool for hours.
    Complete {
        /// Whose.
        server: ServerId,
        /// Complete until.
        at: UnixMillis,
    },
    /// The agent stopped on purpose.
    Goodbye {
        /// Whose.
        server: ServerId,
        /// When.
        at: UnixMillis,
    },
    /// The agent connected.
    Hello {
        /// Whose.
        server: ServerId,
        /// When.
        at: UnixMillis,
    },
    /// Something happened to the collector itself.
    Collector {
        /// When.
        at: UnixMillis,
        /// What.
        event: CollectorEvent,
    },
}

/// What happens to the collector itself: its own faults must never read as faults of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectorEvent {
    /// It began to listen.
    Started,
    /// It ends on purpose.
    Stopping,
    /// It cannot store what comes; told again while that lasts.
    DiskFull,
    /// It can store again.
    DiskFree,
    /// Its own network is gone.
    UplinkLost,
    /// Its own network works again.
    UplinkBack,
}

/// Requests of one site in one second. Gateway errors are `n_502 + n_503 + n_504`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All requests.
    pub n: u32,
    /// Status 502.
    pub n_502: u32,
    /// Status 503 that a gateway made for a failed upstream.
    pub n_503: u32,
    /// Status 504.
    pub n_504: u32,
    /// Other 5xx, the application's own 503 included.
    pub n_5xx_app: u32,
    /// Clients that went away.
    pub n_499: u32,
    /// Failures another upstream made good.
    pub n_retried: u32,
    /// Gateway errors that a search engine's crawler saw, by its own word.
    pub n_crawler: u32,
}

impl Counts {
    /// Whether there is a gateway error among them.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.n_502 > 0 || self.n_503 > 0 || self.n_504 > 0
    }
}

/// One gateway error, kept whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Whose.
    pub site: SiteId,
    /// When.
    pub at: UnixMillis,
    /// 502, 503 or 504.
    pub status: u16,
    /// Pool the error names; else that of the site.
    pub pool: Option<String>,
    /// Hash of the client; 0 unknown.
    pub client: u64,
    /// Hash of the path; 0 unknown.
    pub path: u64,
    /// Address of the upstream.
    pub upstream: Option<String>,
    /// Error-log text. `Some("")`: log read, no line for it. `None`: no log could be read.
    pub message: Option<String>,
    /// What the text says.
    pub signal: Option<Signal>,
}

/// A site's past, outages excluded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Days of history, at most 28.
    pub days: f64,
    /// Requests in them.
    pub n_requests: u64,
    /// Gateway errors among those.
    pub n_gateway_errors: u64,
}

/// The incident object of the API, the CLI, the webhook and `replay`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// ULID; its time is that of the first failure.
    pub id: String,
    /// `gateway_errors`, `slow_burn`, `silence`, `pressure` or `services`.
    pub kind: String,
    /// `open` or `resolved`.
    pub state: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// `site`, `pool`, `server` or `group`.
    pub scope: String,
    /// What it covers.
    #[serde(rename = "where")]
    pub place: Place,
    /// One sentence for a person.
    pub title: String,
    /// First failure.
    #[serde(with = "wire::rfc3339")]
    pub started_at: UnixMillis,
    /// When the detector opened it.
    #[serde(with = "wire::rfc3339")]
    pub detected_at: UnixMillis,
    /// When it ended.
    #[serde(with = "wire::rfc3339::option")]
    pub resolved_at: Option<UnixMillis>,
    /// Last change of this object.
    #[serde(with = "wire::rfc3339")]
    pub updated_at: UnixMillis,
    /// Found in replayed data: stored and shown, never notified.
    pub retroactive: bool,
    /// How much is affected.
    pub affected: Affected,
    /// Why.
    pub cause: Cause,
    /// What changed just before.
    pub change: Option<ChangeBefore>,
    /// What to do next.
    pub actions: Vec<Action>,
    /// Incident this one was merged into or is suppressed by.
    pub parent: Option<String>,
    /// Incidents merged into this one.
    pub children: Vec<String>,
    /// Who acknowledged it.
    pub acked_by: Option<String>,
    /// A maintenance window covers it.
    pub silenced: bool,
    /// What happened to it.
    pub timeline: Vec<Moment>,
}

/// `where` of an incident.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Server name; null for groups and pools shared by servers.
    pub server: Option<String>,
    /// Pool, where the scope is one or a server's only one.
    pub pool: Option<String>,
    /// Label name of a group.
    pub label: Option<String>,
    /// Label value of a group.
    pub value: Option<String>,
    /// The pair of a two-label group.
    pub labels: Option<BTreeMap<String, String>>,
    /// Exactly what it claims: servers, `server/pool` or `server/site`.
    pub members: Vec<String>,
    /// Failing sites, at most 1,000.
    pub sites: Vec<String>,
}

/// `affected` of an incident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// Failing sites.
    pub n_sites: u64,
    /// Sites in scope with a request since 10 minutes before the start.
    pub n_sites_active: u64,
    /// Servers with failing sites.
    pub n_servers: u64,
    /// Requests of the failing sites since the start.
    pub n_requests: u64,
    /// 502, 503 and 504 among them.
    pub n_gateway_errors: u64,
    /// 502.
    pub n_502: u64,
    /// 503 made by a gateway.
    pub n_503: u64,
    /// 504.
    pub n_504: u64,
    /// Of the gateway errors, those a search engine's crawler saw, by its own word.
    #[serde(default)]
    pub n_crawler: u64,
}

/// `cause` of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cause {
    /// `overload`, `oom`, `crash`, ... or `unknown`.
    pub class: String,
    /// 0..1.
    pub confidence: f64,
    /// Strongest first.
    pub evidence: Vec<Evidence>,
    /// Runners-up.
    pub alternatives: Vec<Alternative>,
}

/// One piece of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `log`, `service`, `resource`, `change` or `prior`.
    pub kind: String,
    /// The line or the fact, in words.
    pub text: String,
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// On which server.
    pub server: Option<String>,
    /// Nats it adds to the cause.
    pub weight: f64,
}

/// Another possible cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// Its class.
    pub class: String,
    /// 0..1.
    pub confidence: f64,
}

/// The change that preceded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangeBefore {
    /// `package`, `config`, ...
    pub kind: String,
    /// In words.
    pub text: String,
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// How suspicious, 0..1.
    pub score: f64,
}

/// A next step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// In words; says who can do it.
    pub text: String,
    /// A command that only looks, or is safe to run; null when there is none.
    pub command: Option<String>,
}

/// One line of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// When.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// What, in words.
    pub what: String,
}

/// What the incident stage tells the rest: one stored change of one incident.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// What happened.
    pub event: TransitionEvent,
    /// When, on the collector's clock.
    pub at: UnixMillis,
    /// Key of the scope: (kind, scope key); unique among open incidents.
    pub key: String,
    /// Revision of the incident after it, from 1.
    pub rev: u64,
    /// The incident after it.
    pub incident: Incident,
    /// Sites that joined or left since the last revision: site, since, until.
    pub sites: Vec<(SiteId, UnixMillis, Option<UnixMillis>)>,
    /// The same of servers, in an incident of whole servers.
    pub servers: Vec<(ServerId, UnixMillis, Option<UnixMillis>)>,
    /// Whether people are told, and not before when.
    pub notify: Option<Notify>,
}

/// What happened to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransitionEvent {
    /// New.
    Open,
    /// Numbers, cause or sites changed.
    Update,
    /// Took a wider scope.
    Escalate,
    /// Took a narrower scope.
    Narrow,
    /// Came back under its old id.
    Reopen,
    /// Went into another incident.
    Merge,
    /// Over.
    Resolve,
}

/// A notification that a transition asks for; who hears it is the notifier's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify {
    /// `opened`, `updated` or `resolved`.
    pub event: NotifyEvent,
    /// Not before this; told as the incident stands then.
    pub due: UnixMillis,
}

/// `event` of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyEvent {
    /// It began.
    Opened,
    /// It grew, or its scope or cause changed.
    Updated,
    /// It ended.
    Resolved,
}
