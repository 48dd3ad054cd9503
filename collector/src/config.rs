//! `collector.toml`: every key with its default, and the check that reports every problem.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use wire::units::{Bytes, Span};

/// The whole file. Precedence: flag > `GATEWATCH_*` environment > file > default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Database, CA, admin token, address files.
    pub data_dir: PathBuf,
    /// Socket of the operator commands.
    pub socket: PathBuf,
    /// Port of the agents.
    pub grpc: GrpcConfig,
    /// Port of people.
    pub http: HttpConfig,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// Knobs of the detector.
    pub detect: DetectConfig,
    /// Where incidents are told.
    pub notify: Vec<NotifyConfig>,
    /// Longest time the shutdown may take.
    pub shutdown_grace: Span,
}

/// `[grpc]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: String,
    /// `host:port` that agents reach this collector at; printed by `token create`.
    pub advertise: Option<String>,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: String,
}

/// `[retention]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Samples and counts as they came.
    pub raw: Span,
    /// One value set per hour.
    pub rollup: Span,
    /// Disk the data directory may take.
    pub disk_bytes_max: Bytes,
}

/// `[detect]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectConfig {
    /// Labels whose values make groups, the most physical first.
    pub group_labels: Vec<String>,
    /// `host:port` that answer while the collector's own uplink works.
    pub witnesses: Vec<String>,
    /// Score at which a site opens, nats.
    pub open_nats: f64,
    /// Smallest failure rate worth waking someone.
    pub p_bad_min: f64,
    /// De-duplicated failures a site needs at least.
    pub n_failed_min: f64,
    /// Score at which a pool opens, nats.
    pub pool_nats: f64,
    /// Score at which a server opens, nats.
    pub server_nats: f64,
    /// Quiet time before an incident resolves.
    pub quiet: Span,
    /// Age of the newest failure beyond which an incident is retroactive.
    pub retroactive_after: Span,
    /// Time after resolution in which the same scope revives its incident.
    pub cooldown: Span,
}

/// `[[notify]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyConfig {
    /// `webhook`; others come with the notifications issue.
    pub kind: String,
    /// Where to POST.
    pub url: String,
    /// File that holds the HMAC key.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// `info`, `warning` or `critical`.
    #[serde(default = "default_severity")]
    pub min_severity: String,
}

fn default_severity() -> String {
    "warning".to_owned()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/gatewatch".into(),
            socket: "/run/gatewatch/collector.sock".into(),
            grpc: GrpcConfig::default(),
            http: HttpConfig::default(),
            retention: RetentionConfig::default(),
            detect: DetectConfig::default(),
            notify: Vec::new(),
            shutdown_grace: Span(Duration::from_secs(10)),
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self { listen: "0.0.0.0:8502".into(), advertise: None }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8503".into() }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            raw: Span(Duration::from_secs(14 * 86_400)),
            rollup: Span(Duration::from_secs(2 * 365 * 86_400)),
            disk_bytes_max: Bytes(20 << 30),
        }
    }
}

impl Default for DetectConfig {
    fn default() -> Self {
        let labels = ["hypervisor", "rack", "network", "region", "provider", "image", "plan"];
        Self {
            group_labels: labels.map(str::to_owned).to_vec(),
            witnesses: Vec::new(),
            open_nats: 20.0,
            p_bad_min: 0.30,
            n_failed_min: 3.0,
            pool_nats: 12.0,
            server_nats: 14.0,
            quiet: Span(Duration::from_secs(20)),
            retroactive_after: Span(Duration::from_secs(120)),
            cooldown: Span(Duration::from_secs(600)),
        }
    }
}
