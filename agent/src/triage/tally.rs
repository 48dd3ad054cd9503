//! Lines -> counts per site. Bounded, and nothing is allocated for a request that went well.
//!
//! Error logs are tallied before access logs, so that each 503 can be judged when it is read.

use std::net::IpAddr;

use jiff::tz::TimeZone;
use wire::UnixMillis;

use super::explain::{About, Explained};
use super::faults::{Addresses, FaultGroups, Faults};
use super::sites::{OTHER_SITE, Sites};
use crate::logs::crawler::crawler;
use crate::logs::event_time::EventClock;
use crate::logs::join::is_evidence_of_a_web_server;
use crate::logs::scan::{Plain, Sink};
use crate::logs::sites::normal_host;
use crate::logs::{AccessRecord, ErrorRecord, Line, LineTime, Rejected};

/// Sites with a row of their own; further ones are `other`.
const SITES_MAX: usize = 2000;
/// Later than any line: of two readings of a repeated hour the later one is taken.
const FAR_FUTURE: UnixMillis = UnixMillis(253_402_300_799_000);
/// Reasons of lines that are no records, in order.
pub(super) const REASONS: [Rejected; 7] = [
    Rejected::Blank,
    Rejected::Directive,
    Rejected::Continuation,
    Rejected::Malformed,
    Rejected::TooLong,
    Rejected::BadStatus,
    Rejected::BadTime,
];

/// The requests of one site.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) n: u64,
    pub(super) n_502: u64,
    /// Gateway errors only.
    pub(super) n_503: u64,
    pub(super) n_504: u64,
    /// With `n_503_app`.
    pub(super) n_5xx_app: u64,
    /// 503s that nothing lays on an upstream.
    pub(super) n_503_app: u64,
    pub(super) n_499: u64,
    pub(super) n_retried: u64,
    /// Gateway errors that search engines saw.
    pub(super) n_crawler: u64,
    /// Lines without time.
    pub(super) n_timeless: u64,
    pub(super) lines: Range,
    pub(super) errors: Range,
}

impl Counts {
    pub(super) fn n_gateway(&self) -> u64 {
        self.n_502 + self.n_503 + self.n_504
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.n += more.n;
        self.n_502 += more.n_502;
        self.n_503 += more.n_503;
        self.n_504 += more.n_504;
        self.n_5xx_app += more.n_5xx_app;
        self.n_503_app += more.n_503_app;
        self.n_499 += more.n_499;
        self.n_retried += more.n_retried;
        self.n_crawler += more.n_crawler;
        self.n_timeless += more.n_timeless;
        self.lines.add(&more.lines);
        self.errors.add(&more.errors);
    }
}

/// First and last second of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    first: i64,
    last: i64,
}

impl Default for Range {
    fn default() -> Self {
        Self { first: i64::MAX, last: i64::MIN }
    }
}

impl Range {
    #[inline]
    pub(super) fn note(&mut self, second: i64) {
        self.first = self.first.min(second);
        self.last = self.last.max(second);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }

    /// First and last, when there is any.
    pub(super) fn ends(self) -> Option<(i64, i64)> {
        (self.first <= self.last).then_some((self.first, self.last))
    }
}

/// What one file gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FileCounts {
    pub(super) n_lines: u64,
    /// By the order of [`REASONS`].
    pub(super) rejected: [u64; REASONS.len()],
    pub(super) n_outside: u64,
    pub(super) n_error_lines: u64,
}

impl FileCounts {
    /// Lines that should have been records: blank lines, comments and the further lines of a stack
    /// trace are part of a sound log.
    pub(super) fn n_rejected(&self) -> u64 {
        self.rejected[3..].iter().sum()
    }

    /// What is to be said of a file of which nothing was understood, so that no failures in it does
    /// not read as none there were.
    pub(super) fn doubt(&self) -> Option<String> {
        let n_blank = self.rejected[0];
        let has_record = self.rejected.iter().sum::<u64>() < self.n_lines;
        (!has_record && n_blank < self.n_lines).then(|| {
            "none of its lines is a request or an error line: name the server's own format with \
             --format (one without a status counts nothing); `gatewatch-agent parse` says of each \
             line what it is taken for"
                .to_owned()
        })
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.n_lines += more.n_lines;
        self.n_outside += more.n_outside;
        self.n_error_lines += more.n_error_lines;
        for (sum, n) in self.rejected.iter_mut().zip(more.rejected) {
            *sum += n;
        }
    }
}

/// What holds for all files.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// One site for all lines, whatever they say.
    pub(super) site: Option<String>,
    /// First second that counts.
    pub(super) since: i64,
    /// First second that does not count any more.
    pub(super) until: i64,
    pub(super) zone: TimeZone,
    pub(super) now: UnixMillis,
}

/// See the module.
pub(super) struct Tally {
    rules: Rules,
    pub(super) sites: Sites,
    pub(super) counts: Vec<Counts>,
    pub(super) faults: Vec<Faults>,
    pub(super) groups: FaultGroups,
    pub(super) addresses: Addresses,
    pub(super) explained: Explained,
    pub(super) file: FileCounts,
    clock: EventClock,
    /// Site of access lines that name no host, and of such error lines.
    file_sites: (String, Option<String>),
    /// Index of the first of them once a line needed it.
    file_site: Option<u32>,
    /// Process of Apache error lines that told a reason but no client yet, and their second.
    first_parts: [(u64, i64); 16],
    n_first_parts: usize,
}

impl Tally {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            sites: Sites::new(SITES_MAX),
            counts: Vec::new(),
            faults: Vec::new(),
            groups: FaultGroups::new(SITES_MAX),
            addresses: Addresses::default(),
            explained: Explained::default(),
            file: FileCounts::default(),
            clock: EventClock::new(rules.zone.clone()),
            file_sites: Default::default(),
            file_site: None,
            first_parts: [(0, i64::MIN); 16],
            n_first_parts: 0,
            rules,
        }
    }

    /// Begins another file; `of_access` and `of_errors` are the sites of lines that name none.
    pub(super) fn begin_file(&mut self, of_access: String, of_errors: Option<String>) {
        self.file = FileCounts::default();
        self.file_sites = match &self.rules.site {
            Some(site) => (site.clone(), Some(site.clone())),
            None => (of_access, of_errors),
        };
        self.file_site = None;
        self.n_first_parts = 0;
        self.first_parts = [(0, i64::MIN); 16];
    }

    /// Lines that were too long to be looked at.
    pub(super) fn too_long(&mut self, n: u64) {
        self.file.n_lines += n;
        self.file.rejected[4] += n;
    }

    #[inline]
    fn is_outside(&self, second: i64) -> bool {
        second < self.rules.since || second >= self.rules.until
    }

    #[inline]
    fn site_of(&mut self, host: &[u8]) -> usize {
        let site = if host.is_empty() || self.rules.site.is_some() {
            match self.file_site {
                Some(site) => site,
                None => self.name_file_site(),
            }
        } else {
            self.sites.of_host(host)
        };
        if site as usize >= self.counts.len() {
            self.make_room();
        }
        site as usize
    }

    #[cold]
    fn name_file_site(&mut self) -> u32 {
        *self.file_site.insert(self.sites.named(&self.file_sites.0))
    }

    #[cold]
    fn make_room(&mut self) {
        self.counts.resize(self.sites.len(), Counts::default());
        self.faults.resize(self.sites.len(), Faults::default());
    }

    /// The second a record is filed under; `None` when it has no time.
    fn second_of(&mut self, time: Option<LineTime>, after_ms: i64) -> Option<i64> {
        // Only a line without a year needs to know what time it is.
        let now = match time? {
            LineTime::WallNoYear(_) => self.rules.now,
            LineTime::Instant { .. } | LineTime::Wall(_) => FAR_FUTURE,
        };
        Some(self.clock.resolve(time, after_ms, now).0.second())
    }

    fn access(&mut self, record: &AccessRecord<'_>) {
        let after_ms = match record.request_time.filter(|_| record.time_is_start) {
            Some(seconds) => (seconds.min(1e9) * 1000.0) as i64,
            None => 0,
        };
        let second = self.second_of(record.time, after_ms);
        if second.is_some_and(|second| self.is_outside(second)) {
            self.file.n_outside += 1;
            return;
        }
        let site = self.site_of(record.host.as_deref().unwrap_or_default().as_bytes());
        let status = record.status.unwrap_or_default();
        let is_gateway = match status {
            502 | 504 => true,
            503 => self.is_gateway_503(site, record, second),
            _ => false,
        };
        let counts = &mut self.counts[site];
        counts.n += 1;
        match second {
            Some(second) => counts.lines.note(second),
            None => counts.n_timeless += 1,
        }
        match status {
            502 => counts.n_502 += 1,
            503 if is_gateway => counts.n_503 += 1,
            504 => counts.n_504 += 1,
            500.. => counts.n_5xx_app += 1,
            499 => counts.n_499 += 1,
            _ => {}
        }
        counts.n_503_app += u64::from(status == 503 && !is_gateway);
        counts.n_retried += u64::from(record.hid_a_failure());
        let last = record.attempts.last();
        let faults = &mut self.faults[site];
        for attempt in record.failed_attempts() {
            faults.upstreams.add(self.addresses.index(&attempt.upstream));
        }
        if !is_gateway {
            return;
        }
        if let Some(second) = second {
            counts.errors.note(second);
        }
        let agent = record.user_agent.as_deref().unwrap_or_default();
        counts.n_crawler += u64::from(crawler(agent).is_some());
        if let Some(attempt) = last {
            faults.upstreams.add(self.addresses.index(&attempt.upstream));
        }
        if let Some(signal) = record.signal {
            faults.signals.add(signal);
        }
    }

    /// A 503 counts when its line or an error line says that an upstream failed.
    fn is_gateway_503(&self, site: usize, record: &AccessRecord<'_>, second: Option<i64>) -> bool {
        let last = record.attempts.last();
        // `error_page 502 =503 /sorry`
        let is_masked = matches!(last.and_then(|attempt| attempt.status), Some(502 | 504));
        if record.upstream_failed || is_masked {
            return true;
        }
        // Without any upstream it is the server's own: a limit, or `return 503`.
        let Some(second) = second.filter(|_| !record.no_upstream && self.explained.n_lines > 0)
        else {
            return false;
        };
        let client = record.client.as_deref().unwrap_or_default();
        let upstream = last.map(|attempt| &*attempt.upstream).unwrap_or_default();
        let about = [
            About::Site(self.sites.name(site as u32)),
            About::Upstream(upstream),
            About::Client(client),
            About::Front,
        ];
        // A line whose client is the front server is of no request that came in by another way.
        let about = if is_own(client) { &about[..3] } else { &about };
        self.explained.explains(about, second, record.request_time.is_some())
    }

    fn error(&mut self, record: &ErrorRecord<'_>) {
        self.file.n_error_lines += 1;
        let second = self.second_of(record.time, 0);
        let tells = |signal| record.client.is_none() || is_evidence_of_a_web_server(signal);
        let is_evidence = record.signal.is_some_and(tells);
        if !record.gateway && !is_evidence || self.is_second_part(record, second) {
            return;
        }
        let named = |name: &Option<std::borrow::Cow<'_, str>>| {
            let name = normal_host(name.as_deref().unwrap_or_default()).into_owned();
            if self.rules.site.is_some() { String::new() } else { name }
        };
        let (host, mut server) = (named(&record.host), named(&record.server_name));
        if let ("", "" | "_", Some(site)) = (&*host, &*server, &self.file_sites.1) {
            server.clone_from(site);
        }
        if let (true, Some(second)) = (record.gateway, second) {
            self.explain(record, &host, &server, second);
        }
        if second.is_some_and(|second| self.is_outside(second)) {
            self.file.n_outside += 1;
            return;
        }
        let address = record.upstream.as_deref().map(|address| self.addresses.index(address));
        let group = self.groups.of(&host, &server);
        group.note(second, record.gateway, record.signal, address);
    }

    fn explain(&mut self, record: &ErrorRecord<'_>, host: &str, server: &str, second: i64) {
        let sites = [host, server].into_iter().filter(|name| !matches!(*name, "" | "_"));
        let mut about: Vec<About<'_>> = sites.map(About::Site).collect();
        if about.is_empty() {
            let client = record.client.as_deref().unwrap_or_default();
            let upstream = record.upstream.as_deref().unwrap_or_default();
            about.extend((!upstream.is_empty()).then_some(About::Upstream(upstream)));
            about.extend((!client.is_empty()).then_some(About::Client(client)));
            about.extend(is_own(client).then_some(About::Front));
        }
        self.explained.add(&about, second);
    }

    /// True for the second line of a failure that Apache tells in two: the first has the reason,
    /// the second the client. It explains, but is not counted again.
    fn is_second_part(&mut self, record: &ErrorRecord<'_>, second: Option<i64>) -> bool {
        let (Some(process), Some(second)) = (record.connection, second) else { return false };
        // nginx names request and server in its lines.
        if !record.gateway || record.method.is_some() {
            return false;
        }
        if record.client.is_none() {
            self.first_parts[self.n_first_parts % 16] = (process, second);
            self.n_first_parts += 1;
            return false;
        }
        let mut parts = self.first_parts.iter_mut();
        let first = parts.find(|(of, at)| *of == process && (0..=2).contains(&(second - *at)));
        let Some(first) = first else { return false };
        *first = (0, i64::MIN);
        let server = self.file_sites.1.clone().unwrap_or_default();
        self.explain(record, "", &server, second);
        true
    }
}

impl Sink for Tally {
    #[expect(clippy::inline_always, reason = "one call a line, inside the kernel")]
    #[inline(always)]
    fn plain(&mut self, plain: &Plain<'_>) -> bool {
        self.file.n_lines += 1;
        if plain.second.is_some_and(|second| self.is_outside(second)) {
            self.file.n_outside += 1;
            return true;
        }
        let site = self.site_of(plain.host);
        let counts = &mut self.counts[site];
        counts.n += 1;
        match plain.second {
            Some(second) => counts.lines.note(second),
            None => counts.n_timeless += 1,
        }
        if plain.status >= 499 {
            let n = if plain.status == 499 { &mut counts.n_499 } else { &mut counts.n_5xx_app };
            *n += 1;
        }
        true
    }

    fn line(&mut self, _raw: &[u8], line: Line<'_>) {
        self.file.n_lines += 1;
        match line {
            Line::Access(record) => self.access(&record),
            Line::Error(record) => self.error(&record),
            Line::Rejected(reason) => {
                let at = REASONS.iter().position(|known| *known == reason);
                self.file.rejected[at.expect("every reason has a place")] += 1;
            }
        }
    }
}

impl Tally {
    /// Requests that count under `other`.
    pub(super) fn n_other(&self) -> u64 {
        self.counts.get(OTHER_SITE as usize).map_or(0, |counts| counts.n)
    }
}

/// Loopback: a server in front on the same machine.
fn is_own(client: &str) -> bool {
    client == "unix:" || client.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
