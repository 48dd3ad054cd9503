//! What the judge hands on: requests, gateway errors kept whole, and their sites.

use wire::UnixMillis;
use wire::v1::Signal;

/// Name of the site that collects what has no own count: unknown hosts, sites over `sites_max`.
pub const OTHER: &str = "other";

/// One request, judged: what the window counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Index into `Judge::sites`.
    pub site: u32,
    /// Second of the event time.
    pub second: i64,
    /// 100..=599.
    pub status: u16,
    /// A 503 that a failed upstream explains (counter `GATEWAY_503`).
    pub gateway_503: bool,
    /// An upstream failed, another one answered (counter `RETRIED`).
    pub retried: bool,
    /// A search engine's crawler got this gateway error, by its own word (counter `CRAWLER`).
    pub crawler: bool,
    /// The agent made it itself: it counts, but shows no more than its own answer does.
    pub own: bool,
    /// Set for every gateway error; the window keeps a bounded number of them.
    pub exemplar: Option<Exemplar>,
    /// Counted under the site `other`.
    pub other: bool,
    /// Its time was too far ahead and was replaced by the time of reading.
    pub clamped: bool,
}

/// One gateway error, kept whole and already private; mirrors `wire::v1::Exemplar`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exemplar {
    /// Event time.
    pub at: UnixMillis,
    /// 502, 503 or 504.
    pub status: u16,
    /// What the error line said.
    pub signal: Option<Signal>,
    /// Keyed hash of the client; 0 unknown.
    pub client_hash: u64,
    /// Keyed hash of the path without query; 0 unknown.
    pub path_hash: u64,
    /// Address as far as allowed.
    pub client: String,
    /// Request method.
    pub method: String,
    /// Path as far as allowed.
    pub path: String,
    /// Upstream that failed.
    pub upstream: String,
    /// `Some("")`: the error log was read and holds no line for it. `None`: no readable error log.
    pub message: Option<String>,
    /// Pool this error names; empty = that of the site.
    pub pool: String,
}

/// What is known of one site; the index is stable for the life of the judge.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SiteInfo {
    /// Primary name.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    /// PHP-FPM pool, local socket or local port; empty unknown.
    pub pool: String,
    /// Upstream address of another machine; empty unknown.
    pub upstream: String,
    /// Unix user it belongs to; empty unknown.
    pub owner: String,
    /// Was configured, and is no longer: no part of the inventory.
    pub is_removed: bool,
}
