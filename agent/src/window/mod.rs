//! Stage 2: samples and records -> closed windows of one second. Pure.
//!
//! The types every source of the agent hands to the gather thread.

use wire::UnixMillis;

/// Something observed beside the logs, on its way into the next batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Resource samples taken at one instant.
    Samples {
        /// When.
        at: UnixMillis,
        /// Metric name of the catalog, attribute (`""` or `key=value`), value in the metric's unit.
        values: Vec<(&'static str, String, f64)>,
    },
    /// A service's state.
    Service(ServiceState),
    /// A line worth evidence that did not come out of a followed log (kernel messages).
    Log(LogEvidence),
    /// Something changed.
    Change(Change),
}

/// State of one service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceState {
    /// systemd unit, or process name.
    pub unit: String,
    /// `active`, `reloading`, `activating`, `deactivating`, `inactive` or `failed`.
    pub state: &'static str,
    /// Pool it serves, if it serves one alone.
    pub pool: Option<String>,
    /// Since when.
    pub at: UnixMillis,
}

/// A system log line.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEvidence {
    /// `kernel`, `php_fpm`, `mysql`, ...
    pub source: &'static str,
    /// The line.
    pub message: String,
    /// Event time.
    pub at: UnixMillis,
    /// What it says.
    pub signal: Option<wire::v1::Signal>,
    /// Pool it names.
    pub pool: Option<String>,
}

/// Something changed on the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// `package`, `config`, `plugin`, `firewall`, `restart`, `boot`, ...
    pub kind: &'static str,
    /// In words.
    pub what: String,
    /// Only site it touches.
    pub site: Option<String>,
    /// Only pool it touches.
    pub pool: Option<String>,
    /// When.
    pub at: UnixMillis,
}

/// Queue from probes, services and changes to the gather thread.
///
/// Full means the gather thread is stuck behind a full disk: the observation is dropped and counted
/// (`n_events_dropped`); samples come again, states are re-sent in the next full round.
pub const OBSERVATIONS_MAX: usize = 1024;
