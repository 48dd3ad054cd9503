//! The judge: decides per request what is a failure, joins the error line that explains it, names
//! its site, and makes it as private as the operator asked. Pure apart from time arguments and the
//! key of the day.
//!
//! Order of calls: after each chunk of access lines, all error logs are read to their end, then
//! [`Judge::settle`] judges what waited. Between a `settle` and the next `access` nothing waits, so
//! counts and read offsets can be saved together exactly then.

mod lines;
mod own;
mod plain;
mod refusals;
mod visits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use wire::UnixMillis;
use wire::v1::Signal;

use crate::config::{PrivacyConfig, zone};
use crate::discover::{Discovery, LogKind, LogSource, Site, SiteRule};
use crate::logs::AccessRecord;
use crate::logs::crawler::crawler;
use crate::logs::event_time::EventClock;
use crate::logs::evidence::{Memory, Question, Seen};
pub use crate::logs::judged::{Exemplar, OTHER, Request, SiteInfo};
use crate::logs::privacy::{Privacy, TEXT_BYTES_MAX, cut, method, without_query};
use crate::logs::refused::{Backends, Refusals};
use crate::logs::sites::{Sites, name_from_path};
use lines::evidence_name;
pub(crate) use lines::is_evidence_of_a_web_server;
use plain::Hosts;

/// How long after an access line's time its error line may come, when no duration is logged: the
/// time may be the start of the request, and backends are waited for for a minute.
const UNKNOWN_DURATION_MS: i64 = 70_000;
/// Clock seconds of two logs of one machine may differ by this.
const SLACK_MS: i64 = 1_000;
/// An address in text, or a method, is never longer.
const CLIENT_BYTES_MAX: usize = 64;
/// Who listens now says nothing of a 503 older than this.
const ABSENT_MS: i64 = 10_000;

/// What a plain request is to the judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Counted {
        /// Index into [`Judge::sites`].
        site: u32,
        /// Event time.
        second: i64,
        /// Counted under the site `other`.
        other: bool,
    },
    /// Another log of this machine counts it.
    Inner,
    /// Only its whole record tells: [`Judge::access`].
    Unsure,
}

/// A followed file.
struct Source {
    path: PathBuf,
    kind: LogKind,
    inner: bool,
    /// Sites whose requests another log counts.
    inner_sites: BTreeSet<u32>,
    rule: SiteRule,
    /// Site of lines that name no host; found at the first such line.
    default_site: Option<u32>,
    clock: EventClock,
    readable: bool,
    /// What evidence lines of it are called; `None` = it gives none.
    evidence_name: Option<&'static str>,
    /// Its server has no error log: the access line says all there is.
    says_all: bool,
    /// Saw a client that is not this machine.
    has_remote_clients: bool,
    /// Last client that was this machine.
    own_client: Vec<u8>,
    hosts: Hosts,
}

/// A request that waits for its error line.
struct Pending {
    source: usize,
    site: u32,
    other: bool,
    at: UnixMillis,
    clamped: bool,
    status: u16,
    slack_ms: i64,
    upstream_failed: bool,
    no_upstream: bool,
    signal: Option<Signal>,
    /// Peer as the line has it: what the error line has too.
    peer: String,
    peer_is_own: bool,
    client: String,
    method: String,
    path: String,
    upstream: String,
    n_attempts: usize,
    is_crawler: bool,
    is_own: bool,
}

/// When a pool was down.
#[derive(Clone, Copy)]
struct Down {
    from: UnixMillis,
    /// `None` = still.
    upto: Option<UnixMillis>,
}

/// See the module.
pub struct Judge {
    sites: Sites,
    sources: Vec<Source>,
    /// Sources by path and kind: there may be 10,000.
    source_numbers: HashMap<(PathBuf, LogKind), usize>,
    /// Of logs that are no longer followed.
    free: Vec<usize>,
    /// By site, as far as asked for: the logs that may speak of its failures, if that is known.
    error_logs: HashMap<u32, Option<Vec<usize>>>,
    privacy: Privacy,
    zone: TimeZone,
    /// What the remembered hosts of all sources take.
    host_bytes: usize,
    memory: Memory,
    pending: Vec<Pending>,
    down: BTreeMap<String, Down>,
    discovery: Discovery,
    /// Random, so that nobody can choose requests that look the same.
    hasher: RandomState,
    /// First source per site that showed it clients from outside: the front of a chain.
    fronts: BTreeMap<u32, usize>,
    /// Second of reading, and evidence lines let through in it by what they say.
    evidence: (i64, BTreeMap<(&'static str, i32, String), u32>),
    /// Rejected lines that were kept so far.
    n_samples: usize,
    refusals: Refusals,
    backends: Backends,
    own: own::Own,
    /// Of the last line that told of a refused request.
    blocked_last: Option<(i64, u32)>,
    /// By site: when a web server's log told last what ModSecurity refused.
    error_log_blocks: BTreeMap<Option<u32>, UnixMillis>,
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
        Self {
            sites: Sites::new(discovery, sites_max),
            sources: Vec::new(),
            source_numbers: HashMap::new(),
            free: Vec::new(),
            error_logs: HashMap::new(),
            privacy: Privacy::new(privacy),
            zone,
            host_bytes: 0,
            memory: Memory::default(),
            pending: Vec::new(),
            down: BTreeMap::new(),
            discovery: discovery.clone(),
            hasher: RandomState::new(),
            fronts: BTreeMap::new(),
            evidence: (0, BTreeMap::new()),
            n_samples: 0,
            refusals: Refusals::default(),
            backends: Backends::of(discovery),
            own: own::Own::of(discovery),
            blocked_last: None,
            error_log_blocks: BTreeMap::new(),
        }
    }

    /// While memory is short less is remembered: what a request needs of it, it learns again.
    pub fn set_lean(&mut self, is_lean: bool) {
        self.memory.set_lean(is_lean);
        if is_lean {
            self.forget_hosts();
        }
    }

    /// Takes over other rules for what leaves the machine; the day's key stays.
    pub fn set_privacy(&mut self, privacy: PrivacyConfig) {
        self.privacy.set_rules(privacy);
    }

    /// Takes over a newer discovery; indices of sites and sources stay valid.
    pub fn rediscovered(&mut self, discovery: &Discovery) {
        self.sites.learn(discovery);
        self.backends = Backends::of(discovery);
        self.own = own::Own::of(discovery);
        self.discovery = discovery.clone();
        self.error_logs.clear();
        self.sources.iter_mut().for_each(|source| source.default_site = None);
        self.forget_hosts();
    }

    /// Zone of the times without offset of a file.
    #[must_use]
    pub fn zone_of(&self, source: usize) -> TimeZone {
        self.sources[source].clock.zone()
    }

    /// Registers a file that is followed; the index names it in the calls below. Registering the
    /// same path again returns the same index and takes over the new source.
    pub fn add_source(&mut self, source: &LogSource) -> usize {
        let zone = source.timezone.as_deref().and_then(zone);
        let mut new = Source {
            path: source.path.clone(),
            kind: source.kind,
            inner: source.inner,
            inner_sites: source.inner_sites.iter().map(|site| self.sites.named(site).0).collect(),
            rule: source.site.clone(),
            default_site: None,
            clock: EventClock::new(zone.unwrap_or_else(|| self.zone.clone())),
            readable: false,
            evidence_name: evidence_name(source),
            says_all: says_all(source),
            has_remote_clients: false,
            own_client: Vec::new(),
            hosts: Hosts::default(),
        };
        self.error_logs.clear();
        let key = (source.path.clone(), source.kind);
        if let Some(ix) = self.source_numbers.get(&key).copied() {
            new.readable = self.sources[ix].readable;
            new.has_remote_clients = self.sources[ix].has_remote_clients;
            self.sources[ix] = new;
            return ix;
        }
        let ix = self.free.pop().unwrap_or(self.sources.len());
        self.source_numbers.insert(key, ix);
        match self.sources.get_mut(ix) {
            Some(place) => *place = new,
            None => self.sources.push(new),
        }
        ix
    }

    /// Forgets a file that is no longer followed; its index is given to another one. Call it while
    /// nothing waits.
    pub fn remove_source(&mut self, source: usize) {
        let its = &mut self.sources[source];
        self.source_numbers.remove(&(std::mem::take(&mut its.path), its.kind));
        (its.readable, its.hosts) = (false, Hosts::default());
        self.free.push(source);
        self.fronts.retain(|_, front| *front != source);
        self.error_logs.clear();
    }

    /// Tells whether a source can be read now: exemplars without an error line mean more when the
    /// error log is readable. Sources start as unreadable.
    pub fn set_readable(&mut self, source: usize, readable: bool) {
        self.sources[source].readable = readable;
    }

    /// One line of an access log. Requests that need no error line come out at once, the others
    /// wait for [`Judge::settle`]. Returns the site it counts for, and the second; `None` = another log
    /// counts it.
    pub fn access(
        &mut self,
        source: usize,
        record: &AccessRecord<'_>,
        now: UnixMillis,
        out: &mut dyn FnMut(Request),
    ) -> Option<(u32, i64)> {
        let status = record.status?;
        let (site, other) = self.site_of(source, record);
        let peer = record.client.as_deref().unwrap_or_default();
        let peer_address = peer.parse::<IpAddr>().ok();
        let peer_is_own = peer == "unix:" || peer_address.is_some_and(|ip| self.sites.is_own(ip));
        self.learn_host(source, record, site, other, peer_is_own);
        if self.is_inner(source, site, peer_is_own, peer_address.is_some()) {
            return None;
        }
        let after_ms = match record.request_time.filter(|_| record.time_is_start) {
            Some(seconds) => (seconds.min(1e9) * 1000.0) as i64,
            None => 0,
        };
        let (at, clamped) = self.sources[source].clock.resolve(record.time, after_ms, now);
        if let Some(last) = record.attempts.last() {
            self.sites.note_upstream(site, &last.upstream);
        }
        if !(502..=504).contains(&status) {
            out(Request {
                site,
                second: at.second(),
                status,
                gateway_503: false,
                retried: record.hid_a_failure(),
                crawler: false,
                own: false,
                exemplar: None,
                other,
                clamped,
            });
            return Some((site, at.second()));
        }
        let behind_proxy = peer_is_own || peer_address.is_none_or(is_private);
        let client = record.forwarded_first().filter(|_| behind_proxy).unwrap_or(peer);
        let slack_ms = if record.request_time.is_some() { SLACK_MS } else { UNKNOWN_DURATION_MS };
        self.pending.push(Pending {
            source,
            site,
            other,
            at,
            clamped,
            status,
            slack_ms,
            upstream_failed: record.upstream_failed || is_masked_failure(status, record),
            no_upstream: record.no_upstream,
            signal: record.signal,
            peer: cut(peer, CLIENT_BYTES_MAX).to_owned(),
            peer_is_own,
            client: cut(client, CLIENT_BYTES_MAX).to_owned(),
            method: cut(record.method.as_deref().unwrap_or_default(), CLIENT_BYTES_MAX).to_owned(),
            path: record.path.as_deref().unwrap_or_default().to_owned(),
            upstream: record
                .attempts
                .last()
                .map(|a| cut(&a.upstream, TEXT_BYTES_MAX).to_owned())
                .unwrap_or_default(),
            n_attempts: record.attempts.len(),
            is_crawler: record.user_agent.as_deref().and_then(crawler).is_some(),
            is_own: self.is_own(record),
        });
        Some((site, at.second()))
    }

    fn site_of(&mut self, source: usize, record: &AccessRecord<'_>) -> (u32, bool) {
        if let SiteRule::Fixed(name) = &self.sources[source].rule {
            return self.sites.named(name);
        }
        if let Some(host) = &record.host {
            return self.sites.of_host(host);
        }
        if let Some(site) = self.sources[source].default_site {
            return (site, self.sites.infos()[site as usize].name == OTHER);
        }
        let path = &self.sources[source].path;
        let logs_here =
            |site: &&crate::discover::Site| site.access_logs.iter().any(|log| log.path == *path);
        let mut owners = self.discovery.sites.iter().filter(logs_here);
        let name = match (owners.next(), owners.next()) {
            (Some(only), None) => only.name.clone(),
            _ => name_from_path(path),
        };
        let (site, other) = self.sites.named(&name);
        self.sources[source].default_site = Some(site);
        (site, other)
    }

    /// True for a log behind another one of this machine that counts the same requests.
    fn is_inner(&mut self, source: usize, site: u32, peer_is_own: bool, has_peer: bool) -> bool {
        if self.sources[source].inner || self.sources[source].inner_sites.contains(&site) {
            return true;
        }
        if has_peer && !peer_is_own {
            self.sources[source].has_remote_clients = true;
            self.fronts.entry(site).or_insert(source);
            return false;
        }
        let front = self.fronts.get(&site).is_some_and(|front| *front != source);
        front && peer_is_own && !self.sources[source].has_remote_clients
    }

    /// True while a request waits for its error line.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Judges every request that waited; call it when the error logs are read to their end.
    ///
    /// `why_absent` says why nobody answers at a local address now; `None` = somebody does, or it
    /// cannot be told.
    pub fn settle(
        &mut self,
        now: UnixMillis,
        why_absent: &mut dyn FnMut(&str) -> Option<Signal>,
        out: &mut dyn FnMut(Request),
    ) {
        for pending in std::mem::take(&mut self.pending) {
            self.find_error_logs(pending.site);
            out(self.judge(&pending, now, why_absent));
        }
    }

    fn judge(
        &mut self,
        pending: &Pending,
        now: UnixMillis,
        why_absent: &mut dyn FnMut(&str) -> Option<Signal>,
    ) -> Request {
        let info = &self.sites.infos()[pending.site as usize];
        let request = self.request_key(Some(&pending.method), Some(&pending.path));
        let error_logs = self.error_logs.get(&pending.site).and_then(|logs| logs.as_deref());
        let question = Question {
            site: pending.site,
            pool: if info.pool.is_empty() { &info.upstream } else { &info.pool },
            client: &pending.peer,
            client_is_own: pending.peer_is_own,
            request,
            target: self.request_key(None, Some(&pending.path)),
            upstream: &pending.upstream,
            at: pending.at,
            slack_ms: pending.slack_ms,
            n_attempts: pending.n_attempts,
            error_logs,
        };
        // A 503 without any upstream is the server's own: a limit, or `return 503`.
        let may_be_due = pending.status != 503 || !pending.no_upstream;
        let own = if may_be_due { self.memory.take(&question) } else { None };
        let mut explained = pending.status != 503
            || pending.upstream_failed
            || own.is_some()
            || may_be_due && self.memory.explains(&question)
            || may_be_due && self.is_down(&info.pool, pending.at);
        let mut absence = None;
        if !explained && may_be_due && now.0 - pending.at.0 < ABSENT_MS {
            absence = self.sites.address_of(&info.pool).and_then(&mut *why_absent);
            explained = absence.is_some();
        }
        let mut request = Request {
            site: pending.site,
            second: pending.at.second(),
            status: pending.status,
            gateway_503: pending.status == 503 && explained,
            retried: false,
            crawler: explained && pending.is_crawler,
            own: pending.is_own,
            exemplar: None,
            other: pending.other,
            clamped: pending.clamped,
        };
        if explained {
            // Only a 503 may be due to a line that is not its own: servers that know a backend to be
            // down no longer write one for each request. What a request says itself comes first.
            let due_to = own.or_else(|| {
                let untold = pending.status == 503 && pending.signal.is_none();
                untold.then(|| self.memory.nearest(&question).cloned()).flatten()
            });
            let mut exemplar = self.exemplar(pending, due_to, now);
            exemplar.signal = exemplar.signal.or(absence);
            request.exemplar = Some(exemplar);
        }
        request
    }

    fn exemplar(&mut self, pending: &Pending, line: Option<Seen>, now: UnixMillis) -> Exemplar {
        let readable = self.error_log_is_read(pending);
        let info = &self.sites.infos()[pending.site as usize];
        let upstream = match &line {
            Some(line) if !line.upstream.is_empty() => line.upstream.clone(),
            _ => pending.upstream.clone(),
        };
        let mut pool = self.sites.backend(&upstream).pool().to_owned();
        // The other members of an upstream group are no pools of their own.
        if !info.pool.is_empty() && !self.sites.is_php_pool(&pool) || pool == info.pool {
            pool.clear();
        }
        let path = without_query(&pending.path);
        Exemplar {
            at: pending.at,
            status: pending.status,
            signal: line.as_ref().and_then(|line| line.signal).or(pending.signal),
            client_hash: self.privacy.client_hash(&pending.asker(), now),
            path_hash: if path.is_empty() { 0 } else { self.privacy.hash(path, now) },
            client: self.privacy.client(&pending.client, now),
            method: method(&pending.method).to_owned(),
            path: self.privacy.path(&pending.path, now),
            upstream: without_query(&upstream).to_owned(),
            message: line.map(|line| line.message).or_else(|| readable.then(String::new)),
            pool,
        }
    }

    /// Finds the error logs of the servers that the requests of a site pass, once until the next
    /// discovery.
    fn find_error_logs(&mut self, site: u32) {
        if self.error_logs.contains_key(&site) {
            return;
        }
        let name = &self.sites.infos()[site as usize].name;
        let its = self.discovery.sites.iter().find(|known| known.name == *name);
        let its = its.filter(|its| !its.error_logs.is_empty());
        let may_speak = |its: &Site, source: &Source| match source.kind {
            LogKind::Error => its.error_logs.contains(&source.path),
            LogKind::Access => its.access_logs.iter().any(|log| log.path == source.path),
            kind => kind == LogKind::Syslog,
        };
        let found = its.map(|its| {
            let sources = self.sources.iter().enumerate();
            sources.filter(|(_, source)| may_speak(its, source)).map(|(ix, _)| ix).collect()
        });
        self.error_logs.insert(site, found);
    }

    /// True when the error log that would hold the request's line is being read.
    fn error_log_is_read(&self, pending: &Pending) -> bool {
        let name = &self.sites.infos()[pending.site as usize].name;
        let discovered = self.discovery.sites.iter().find(|site| site.name == *name);
        let logs = discovered.map_or(&[][..], |site| &site.error_logs);
        let mut readable =
            self.sources.iter().filter(|source| source.kind == LogKind::Error && source.readable);
        if self.sources[pending.source].says_all {
            return false;
        }
        if logs.is_empty() {
            return readable.next().is_some();
        }
        readable.any(|source| logs.contains(&source.path))
    }

    /// One number for method and path; 0 when there is neither.
    fn request_key(&self, method: Option<&str>, path: Option<&str>) -> u64 {
        match (method.unwrap_or_default(), path.unwrap_or_default()) {
            ("", "") => 0,
            request => self.hasher.hash_one(request).max(1),
        }
    }

    /// All sites so far; [`Request::site`] is an index into this. It only grows.
    #[must_use]
    pub fn sites(&self) -> &[SiteInfo] {
        self.sites.infos()
    }
}

/// True for servers without an error log of requests.
fn says_all(source: &LogSource) -> bool {
    let without = ["haproxy", "varnish", "traefik", "envoy", "alb", "cloudflare", "iis"];
    let format = source.format.split(':').next().unwrap_or_default();
    without.contains(&format) || evidence_name(source) == Some("syslog")
}

/// A 503 that nginx wrote in place of its own 502 or 504 (`error_page 502 =503 /sorry`).
fn is_masked_failure(status: u16, record: &AccessRecord<'_>) -> bool {
    let last = record.attempts.last().and_then(|attempt| attempt.status);
    status == 503 && matches!(last, Some(502 | 504))
}

pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
