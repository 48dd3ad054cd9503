//! The judge's other input: lines of error and system logs, states of services. What a failed request
//! may be due to is remembered, what tells of the machine becomes evidence.

use std::collections::BTreeMap;

use wire::UnixMillis;
use wire::v1::Signal;

use super::{CLIENT_BYTES_MAX, Down, Judge};
use crate::discover::{LogKind, LogSource, SiteRule};
use crate::logs::ErrorRecord;
use crate::logs::evidence::Seen;
use crate::logs::privacy::{TEXT_BYTES_MAX, cut};
use crate::window::{LogEvidence, ServiceState};

/// Evidence lines let through per second and kind, the first ones: the rest says the same.
const EVIDENCE_PER_SECOND_MAX: u32 = 5;
/// Kinds of evidence told apart in one second: a log may name any number of pools.
pub(super) const EVIDENCE_KINDS_MAX: usize = 256;
/// The name of a PHP-FPM pool is never longer.
pub(super) const POOL_BYTES_MAX: usize = 128;
/// Characters kept of a rejected line.
pub(super) const SAMPLE_BYTES_MAX: usize = 256;
/// Rejected lines kept over all logs: half a megabyte at most.
pub(super) const SAMPLES_MAX: usize = 2_000;
/// A pool counts as down a little before it was seen to be.
const DOWN_BEFORE_MS: i64 = 2_000;

impl Judge {
    /// One line of an error or system log; returns it as evidence when it is worth sending by itself.
    pub fn error(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        now: UnixMillis,
    ) -> Option<LogEvidence> {
        let (at, _) = self.sources[source].clock.resolve(record.time, 0, now);
        if self.refusal(source, record, at, now) {
            return None;
        }
        // Caddy writes requests and their errors into one log, and others may log them to syslog.
        let of_requests =
            matches!(self.sources[source].kind, LogKind::Error | LogKind::Access | LogKind::Syslog);
        // A header that is no good fails some requests and spoils others: its line explains a
        // failure, and makes none.
        let is_reason = matches!(record.signal, Some(Signal::InvalidHeader | Signal::TooBigHeader));
        if of_requests && (record.gateway || is_reason) {
            let mut line = self.seen(source, record, at, now);
            line.is_reason_only = !record.gateway;
            self.memory.add(line);
            return None;
        }
        self.evidence(source, record, at, now)
    }

    /// When a record of a source was written.
    pub(crate) fn time_of(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        now: UnixMillis,
    ) -> UnixMillis {
        self.sources[source].clock.resolve(record.time, 0, now).0
    }

    /// Evidence that was made of several lines, as private as what is sent.
    pub(crate) fn private(&mut self, evidence: LogEvidence, now: UnixMillis) -> LogEvidence {
        let message = self.privacy.text(&evidence.message, "", now);
        LogEvidence { message, ..evidence }
    }

    fn seen(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Seen {
        let named = record.host.as_deref().into_iter().chain(record.server_name.as_deref());
        let mut named = named;
        let mut site = named.find_map(|host| self.sites.find_host(host));
        if let (None, SiteRule::Fixed(name)) = (site, &self.sources[source].rule) {
            site = self.sites.find_host(name);
        }
        let upstream = record.upstream.as_deref().unwrap_or_default();
        let backend = self.sites.backend(upstream);
        if let Some(site) = site {
            self.sites.note_backend(site, &backend);
        }
        let client = record.client.as_deref().unwrap_or_default();
        let client_is_own =
            client == "unix:" || client.parse().is_ok_and(|ip| self.sites.is_own(ip));
        Seen {
            at,
            source,
            site,
            pool: backend.name().to_owned(),
            upstream: cut(upstream, TEXT_BYTES_MAX).to_owned(),
            client: cut(client, CLIENT_BYTES_MAX).to_owned(),
            client_is_own,
            request: self.line_key(record),
            connection: record.connection,
            signal: record.signal,
            message: self.privacy.text(&record.message, upstream, now),
            ..Seen::default()
        }
    }

    /// A line that says something of the machine and not of one request.
    fn evidence(
        &mut self,
        source: usize,
        record: &ErrorRecord<'_>,
        at: UnixMillis,
        now: UnixMillis,
    ) -> Option<LogEvidence> {
        // A server that HAProxy takes out is evidence whatever its check ran into.
        let is_taken_out = record.client.is_none()
            && record.pool.is_some()
            && record.message.contains("is DOWN, reason:");
        let signal = if is_taken_out { Signal::ServerDown } else { record.signal? };
        let kind = self.sources[source].kind;
        let is_of_web_server =
            matches!(kind, LogKind::Error | LogKind::Access) || record.client.is_some();
        if is_of_web_server && !is_evidence_of_a_web_server(signal) {
            return None;
        }
        let name = self.sources[source].evidence_name?;
        let pool = record.pool.as_deref().map(|pool| cut(pool, POOL_BYTES_MAX).to_owned());
        if self.evidence.0 != now.second() {
            self.evidence = (now.second(), BTreeMap::new());
        }
        let key = (name, signal as i32, pool.clone().unwrap_or_default());
        if self.evidence.1.len() >= EVIDENCE_KINDS_MAX && !self.evidence.1.contains_key(&key) {
            return None;
        }
        let n = self.evidence.1.entry(key).or_default();
        *n += 1;
        if *n > EVIDENCE_PER_SECOND_MAX {
            return None;
        }
        let upstream = record.upstream.as_deref().unwrap_or_default();
        let message = self.privacy.text(&record.message, upstream, now);
        Some(LogEvidence { source: name, message, at, signal: Some(signal), pool })
    }

    /// The beginning of a rejected line, as private as what is sent; `None` = enough were kept.
    pub fn sample(&mut self, line: &[u8], now: UnixMillis) -> Option<String> {
        if self.n_samples >= SAMPLES_MAX {
            return None;
        }
        self.n_samples += 1;
        // A little more than is kept, so that an address at its end is seen whole.
        let head = &line[..line.len().min(4 * SAMPLE_BYTES_MAX)];
        let text = self.privacy.text(&String::from_utf8_lossy(head), "", now);
        Some(cut(&text, SAMPLE_BYTES_MAX).to_owned())
    }

    /// The same for an error line; lighttpd writes the path alone, and a `?` whatever the query.
    fn line_key(&self, record: &ErrorRecord<'_>) -> u64 {
        match (record.method.as_deref(), record.path.as_deref()) {
            (None, Some(path)) => self.request_key(None, Some(path.trim_end_matches('?'))),
            (method, path) => self.request_key(method, path),
        }
    }

    /// A unit or pool changed its state: a pool that is down explains a 503.
    pub fn service(&mut self, state: &ServiceState) {
        let of_unit = |unit: &Option<String>| unit.as_deref() == Some(&*state.unit);
        let pools: Vec<String> = if let Some(pool) = &state.pool {
            vec![pool.clone()]
        } else {
            let pools = self.discovery.pools.iter().filter(|pool| of_unit(&pool.unit));
            pools.map(|pool| pool.name.clone()).collect()
        };
        let is_down = matches!(state.state, "failed" | "inactive" | "deactivating");
        for pool in pools {
            let known = self.down.get_mut(&pool).filter(|down| down.upto.is_none());
            if is_down && known.is_none() {
                self.down.insert(pool, Down { from: state.at, upto: None });
            } else if let (false, Some(down)) = (is_down, known) {
                down.upto = Some(state.at);
            }
        }
    }

    pub(super) fn is_down(&self, pool: &str, at: UnixMillis) -> bool {
        self.down.get(pool).is_some_and(|down| {
            at.0 >= down.from.0 - DOWN_BEFORE_MS && down.upto.is_none_or(|upto| at <= upto)
        })
    }
}

/// The wire's name for the source of evidence lines.
pub(super) fn evidence_name(source: &LogSource) -> Option<&'static str> {
    let path = source.path.to_string_lossy();
    Some(match source.kind {
        LogKind::PhpFpm | LogKind::PhpSlow => "php_fpm",
        LogKind::Kernel => "kernel",
        LogKind::Mysql => "mysql",
        LogKind::Redis => "redis",
        LogKind::Syslog => "syslog",
        LogKind::Error if source.format == "apache_error" => "apache",
        LogKind::Error if source.format == "nginx_error" => "nginx",
        LogKind::Error if source.format == "lighttpd_error" => "lighttpd",
        LogKind::Error if source.format == "litespeed_error" => "litespeed",
        LogKind::Error | LogKind::Access if source.format == "caddy" => "caddy",
        LogKind::Error if path.contains("apache") || path.contains("httpd") => "apache",
        LogKind::Error => "nginx",
        // HAProxy speaks of requests and of servers in one log.
        LogKind::Access if source.format.starts_with("haproxy") || path.contains("haproxy") => {
            "syslog"
        }
        LogKind::Access | LogKind::Modsecurity | LogKind::Change => return None,
    })
}

/// What a web server says of itself and its machine, not of one failed request.
pub(crate) fn is_evidence_of_a_web_server(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::Dns
            | Signal::WorkerConnections
            | Signal::DiskFull
            | Signal::ServerDown
            | Signal::NoLiveUpstreams
            | Signal::TooManyConnections
            | Signal::MemoryLimit
            | Signal::Segfault
            | Signal::WorkerSignal
    )
}
