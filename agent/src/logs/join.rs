//! The judge: decides per request what is a failure, joins the error line that explains it, names
//! its site, and makes it as private as the operator asked. Pure apart from time arguments.
//!
//! Order of calls: after each chunk of access lines, all error logs are read to their end, then
//! [`Judge::settle`] judges what waited. Between a `settle` and the next `access` nothing waits, so
//! counts and read offsets can be saved together exactly then.

use jiff::tz::TimeZone;
use wire::UnixMillis;
use wire::v1::Signal;

use crate::config::PrivacyConfig;
use crate::discover::{Discovery, LogSource};
use crate::logs::{AccessRecord, ErrorRecord};
use crate::window::{LogEvidence, ServiceState};

/// Name of the site that collects what has no own count: unknown hosts, sites over `sites_max`.
pub const OTHER: &str = "other";

/// One request, judged: what the window counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Index into [`Judge::sites`].
    pub site: u32,
    /// Second of the event time.
    pub second: i64,
    /// 100..=599.
    pub status: u16,
    /// A 503 that a failed upstream explains (counter `GATEWAY_503`).
    pub gateway_503: bool,
    /// An upstream failed, another one answered (counter `RETRIED`).
    pub retried: bool,
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
}

/// See the module.
pub struct Judge {
    sites: Vec<SiteInfo>,
    n_sources: usize,
}

impl Judge {
    /// A judge that knows the discovered sites; `zone` is the machine's.
    #[must_use]
    pub fn new(
        discovery: &Discovery,
        privacy: PrivacyConfig,
        sites_max: usize,
        zone: TimeZone,
    ) -> Self {
        let _ = (discovery, privacy, sites_max, zone);
        Self {
            sites: vec![SiteInfo { name: OTHER.to_owned(), ..SiteInfo::default() }],
            n_sources: 0,
        }
    }

    /// Takes over a newer discovery; indices of sites and sources stay valid.
    pub fn rediscovered(&mut self, discovery: &Discovery) {
        let _ = discovery;
    }

    /// Registers a file that is followed; the index names it in the calls below. Registering the
    /// same path again returns the same index and takes over the new source.
    pub fn add_source(&mut self, source: &LogSource) -> usize {
        let _ = source;
        self.n_sources += 1;
        self.n_sources - 1
    }

    /// Tells whether a source can be read now: exemplars without an error line mean more when the
    /// error log is readable. Sources start as unreadable.
    pub fn set_readable(&mut self, source: usize, readable: bool) {
        let _ = (source, readable);
    }

    /// One line of an access log. Requests that need no error line come out at once, the others
    /// wait for [`Judge::settle`].
    pub fn access(
        &mut self,
        source: usize,
        record: &AccessRecord<'_>,
        now: UnixMillis,
        out: &mut dyn FnMut(Request),
    ) {
        let _ = source;
        let Some(status) = record.status else { return };
        out(Request {
            site: 0,
            second: now.second(),
            status,
            gateway_503: false,
            retried: false,
            exemplar: None,
            other: true,
            clamped: false,
        });
    }

    /// One line of an error or system log; returns it as evidence when it is worth sending by itself.
    pub fn error(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        now: UnixMillis,
    ) -> Option<LogEvidence> {
        let _ = (source, record, now);
        None
    }

    /// Judges every request that waited; call it when the error logs are read to their end.
    pub fn settle(&mut self, now: UnixMillis, out: &mut dyn FnMut(Request)) {
        let _ = (now, out);
    }

    /// A unit or pool changed its state: a pool that is down explains a 503.
    pub fn service(&mut self, state: &ServiceState) {
        let _ = state;
    }

    /// All sites so far; [`Request::site`] is an index into this. It only grows.
    #[must_use]
    pub fn sites(&self) -> &[SiteInfo] {
        &self.sites
    }
}
