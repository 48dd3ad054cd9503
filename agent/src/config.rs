//! `agent.toml`: every key with its default, and the check that reports every problem.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use wire::units::{Bytes, Span};

/// The whole file. Precedence: flag > `GATEWATCH_*` environment > file > default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Identity, spool and checkpoints.
    pub state_dir: PathBuf,
    /// Socket that `status` asks.
    pub socket: PathBuf,
    /// Where to send.
    pub collector: CollectorConfig,
    /// Who this server is.
    pub host: HostConfig,
    /// What to read.
    pub logs: LogsConfig,
    /// Resource samples.
    pub probes: ProbesConfig,
    /// What leaves the machine.
    pub privacy: PrivacyConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Longest time the shutdown may take, seconds.
    pub shutdown_grace: Span,
}

/// `[collector]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectorConfig {
    /// `host:port` of the collector's gRPC port; empty until enrolled.
    pub address: String,
    /// Liveness and watermark.
    pub heartbeat: Span,
    /// Time between batches while nothing fails.
    pub batch_interval: Span,
}

/// `[host]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Name in the fleet; default: hostname.
    pub name: Option<String>,
    /// Labels, weaker than those fixed by the join token.
    pub labels: BTreeMap<String, String>,
}

/// `[logs]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Read web-server configs for sites, logs and formats.
    pub discover: bool,
    /// Prefix for discovery.
    pub root: PathBuf,
    /// Explicit sources, added to what is discovered.
    pub source: Vec<SourceConfig>,
}

/// `[[logs.source]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Path or glob; new matches are followed within 2 s.
    pub path: String,
    /// `access`, `error`, `php_fpm`, ...
    #[serde(default = "default_kind")]
    pub kind: String,
    /// `auto`, a built-in name, or a format string.
    #[serde(default = "default_format")]
    pub format: String,
    /// Fixed name, or `{n}` for the n-th glob match.
    #[serde(default)]
    pub site: Option<String>,
    /// Zone of times without offset.
    #[serde(default)]
    pub timezone: Option<String>,
}

fn default_kind() -> String {
    "access".to_owned()
}

fn default_format() -> String {
    "auto".to_owned()
}

/// `[probes]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbesConfig {
    /// Resource samples, at multiples of it on the wall clock.
    pub interval: Span,
}

/// `[privacy]`
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacyConfig {
    /// What of a client's address leaves the machine.
    pub client_ip: ClientIp,
    /// What of a query string leaves the machine.
    pub query_string: QueryString,
}

/// `client_ip`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientIp {
    /// As logged.
    Full,
    /// /24 or /48.
    #[default]
    Prefix,
    /// Only the keyed hash.
    Hash,
    /// Nothing, not even the hash as text.
    Drop,
}

/// `query_string`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryString {
    /// As logged.
    Keep,
    /// Cut off.
    #[default]
    Drop,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Memory the agent aims to stay under.
    pub memory_bytes_max: Bytes,
    /// Disk the spool may take.
    pub spool_bytes_max: Bytes,
    /// Sites counted by name; further ones are `other`.
    pub sites_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/gatewatch-agent".into(),
            socket: "/run/gatewatch-agent/agent.sock".into(),
            collector: CollectorConfig::default(),
            host: HostConfig::default(),
            logs: LogsConfig::default(),
            probes: ProbesConfig::default(),
            privacy: PrivacyConfig::default(),
            limits: LimitsConfig::default(),
            shutdown_grace: Span(std::time::Duration::from_secs(10)),
        }
    }
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            address: String::new(),
            heartbeat: Span(std::time::Duration::from_secs(5)),
            batch_interval: Span(std::time::Duration::from_secs(10)),
        }
    }
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { discover: true, root: "/".into(), source: Vec::new() }
    }
}

impl Default for ProbesConfig {
    fn default() -> Self {
        Self { interval: Span(std::time::Duration::from_secs(10)) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: Bytes(64 << 20),
            spool_bytes_max: Bytes(256 << 20),
            sites_max: 2000,
        }
    }
}
