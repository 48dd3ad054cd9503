//! Stage 2: samples and records -> closed windows of one second. Pure.
//!
//! Counts are additive: a second that was closed may open again, and the sum of all its parts is
//! the truth. Also the types every source of the agent hands to the gather thread.

pub mod clients;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use wire::v1::Signal;
use wire::{UnixMillis, signal};

use crate::logs::join::{Exemplar, Request};

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
    /// Lines gone before they were read, of a source that is no file (kernel messages).
    LinesLost(u64),
    /// Packets that a firewall dropped between a gateway and a backend (kernel messages).
    Dropped(Dropped),
    /// Attacks that the firewall inside of a site's application recorded since it was looked at last.
    Attacked {
        /// Which site.
        site: String,
        /// How many.
        n: u32,
    },
}

/// Packets that a firewall dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The backend they were to reach, or came from.
    pub backend: SocketAddr,
    /// How many.
    pub n: u32,
    /// When the last one was.
    pub at: UnixMillis,
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
    /// What is known beside the state.
    pub detail: ServiceDetail,
}

/// Why a service is in its state. What is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceDetail {
    /// As systemd says: `running`, `auto-restart`.
    pub sub_state: Option<String>,
    /// Automatic restarts since somebody started it.
    pub n_restarts: Option<u32>,
    /// How its last run ended, as systemd says: `success`, `oom-kill`, `exit-code`.
    pub result: Option<String>,
    /// How its main process ended last.
    pub ended: Option<Ended>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// `exited`, `killed` or `dumped`.
    pub how: &'static str,
    /// Exit code, or number of the signal.
    pub status: i32,
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
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// File or folder that changed; empty when it is none.
    pub path: String,
    /// Hash of the file before; `None` when there was none or it could not be read.
    pub hash_before: Option<u64>,
    /// Hash of the file after; `None` also when it was removed.
    pub hash_after: Option<u64>,
}

impl Change {
    /// A change of the whole server that is no file's.
    #[must_use]
    pub fn new(kind: &'static str, what: String, at: UnixMillis) -> Self {
        Self { kind, what, at, ..Self::default() }
    }
}

/// Queue from probes, services and changes to the gather thread.
///
/// Full means the gather thread is stuck behind a full disk: the observation is dropped and counted
/// (`n_events_dropped`); samples come again, states are re-sent in the next full round.
pub const OBSERVATIONS_MAX: usize = 1024;

/// The loss ledger: what was lost or refused. Mirrors `wire::v1::Loss`, whose fields are explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Lines that are no record.
    pub n_lines_rejected: u64,
    /// Lines lost other than by eviction, which the spool declares.
    pub n_lines_lost: u64,
    /// Log bytes gone before they were read, as far as known.
    pub n_bytes_lost: u64,
    /// Logs that shrank in place, or were gone at a restart before their end was read.
    pub n_truncations: u64,
    /// Exemplars over the limit.
    pub n_exemplars_dropped: u64,
    /// Lines counted under `other`.
    pub n_lines_other: u64,
    /// Bytes of lines that are no record.
    pub n_bytes_rejected: u64,
    /// Bytes of truncated logs that were read from their copies.
    pub n_bytes_recovered: u64,
    /// Of the rejected lines, those over the limit of a line's length.
    pub n_lines_too_long: u64,
    /// Times too far ahead.
    pub n_times_clamped: u64,
    /// Spool records destroyed.
    pub n_spool_records_corrupt: u64,
    /// Observations a full queue refused.
    pub n_events_dropped: u64,
}

impl Loss {
    /// Adds another ledger to this one.
    pub fn add(&mut self, more: &Self) {
        self.n_lines_rejected += more.n_lines_rejected;
        self.n_lines_lost += more.n_lines_lost;
        self.n_bytes_lost += more.n_bytes_lost;
        self.n_truncations += more.n_truncations;
        self.n_exemplars_dropped += more.n_exemplars_dropped;
        self.n_lines_other += more.n_lines_other;
        self.n_bytes_rejected += more.n_bytes_rejected;
        self.n_bytes_recovered += more.n_bytes_recovered;
        self.n_lines_too_long += more.n_lines_too_long;
        self.n_times_clamped += more.n_times_clamped;
        self.n_spool_records_corrupt += more.n_spool_records_corrupt;
        self.n_events_dropped += more.n_events_dropped;
    }
}

/// Values sampled at one instant: metric, attribute, value.
pub type Samples = (UnixMillis, Vec<(&'static str, String, f64)>);

/// Everything folded since the last close; what one batch carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Closed {
    /// (second, site) -> (status or derived counter, requests), each status once.
    pub counts: BTreeMap<(i64, u32), Vec<(u32, u32)>>,
    /// Site and error, oldest second first.
    pub exemplars: Vec<(u32, Exemplar)>,
    /// In the order they came.
    pub samples: Vec<Samples>,
    /// In the order they came.
    pub services: Vec<ServiceState>,
    /// In the order they came.
    pub log_lines: Vec<LogEvidence>,
    /// In the order they came.
    pub changes: Vec<Change>,
    /// Since the last close.
    pub loss: Loss,
    /// Log lines read since the last close: counted, evidence or rejected.
    pub n_lines: u32,
    /// Their bytes, newlines included.
    pub n_line_bytes: u64,
    /// Holds a gateway error.
    pub is_urgent: bool,
}

/// Exemplars one site may send of one second.
pub const EXEMPLARS_PER_SITE_MAX: u32 = 5;
/// Exemplars a server may send of one second.
pub const EXEMPLARS_PER_SECOND_MAX: u32 = 50;
/// Lines of system logs in one batch; further ones are dropped and counted.
const LOG_LINES_MAX: usize = 500;
/// Changes in one batch; further ones are dropped and counted.
const CHANGES_MAX: usize = 500;
/// While memory is short each of these limits is divided by this.
const LEAN: u32 = 5;
/// Seconds whose exemplar tallies are remembered after a close, so that the limits hold although a
/// second may be spread over several batches. The oldest second is forgotten first.
const TALLIES_MAX: usize = 128;

/// What one second has sent and holds of exemplars.
#[derive(Clone, Debug, Default)]
struct Tally {
    n: u32,
    n_by_site: BTreeMap<u32, u32>,
    pairs: BTreeSet<(u32, Option<Signal>)>,
    /// Not sent yet: these can still make room.
    held: Vec<(u32, Exemplar)>,
}

/// The open windows. Memory is bounded by the caller, who closes when [`Windows::n_bytes`] nears
/// the size of a batch and folds nothing more while it cannot.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    open: Closed,
    sites: BTreeSet<u32>,
    tallies: BTreeMap<i64, Tally>,
    n_bytes: usize,
    is_lean: bool,
}

impl Windows {
    /// While memory is short less is kept of each error, and what is left out is counted; requests
    /// are counted as ever.
    pub fn set_lean(&mut self, is_lean: bool) {
        self.is_lean = is_lean;
    }

    fn limit(&self, most: u32) -> u32 {
        if self.is_lean { most / LEAN } else { most }
    }

    /// Counts one judged request.
    pub fn fold(&mut self, request: Request) {
        let (second, site) = (request.second, request.site);
        self.count_code(second, site, u32::from(request.status), 1);
        if request.gateway_503 {
            self.count_code(second, site, signal::counter::GATEWAY_503, 1);
        }
        if request.retried {
            self.count_code(second, site, signal::counter::RETRIED, 1);
        }
        if request.crawler {
            self.count_code(second, site, signal::counter::CRAWLER, 1);
        }
        self.open.loss.n_lines_other += u64::from(request.other);
        self.open.loss.n_times_clamped += u64::from(request.clamped);
        let is_failed = request.gateway_503 || matches!(request.status, 502 | 504);
        self.open.is_urgent |= is_failed && !request.own;
        if let Some(exemplar) = request.exemplar {
            self.keep(request.second, request.site, exemplar);
        }
    }

    /// Counts requests of one second, site and status that need no second look.
    pub fn count(&mut self, second: i64, site: u32, status: u16, n: u32) {
        self.count_code(second, site, u32::from(status), n);
    }

    /// Counts a request that a web application firewall refused.
    pub fn count_blocked(&mut self, second: i64, site: u32) {
        self.count_code(second, site, signal::counter::BLOCKED, 1);
    }

    fn count_code(&mut self, second: i64, site: u32, code: u32, n: u32) {
        if self.sites.insert(site) {
            self.n_bytes += 128; // its row in the batch's table of sites
        }
        let mut n_bytes = 0;
        let counts = self.open.counts.entry((second, site)).or_insert_with(|| {
            n_bytes += 16;
            Vec::new()
        });
        if let Some((_, known)) = counts.iter_mut().find(|(known, _)| *known == code) {
            *known += n;
        } else {
            counts.push((code, n));
            n_bytes += 6;
        }
        self.n_bytes += n_bytes;
    }

    /// Keeps an exemplar within the limits; one of a new (site, signal) pair takes the place of one
    /// whose pair is there twice.
    fn keep(&mut self, second: i64, site: u32, exemplar: Exemplar) {
        let (site_max, second_max) =
            (self.limit(EXEMPLARS_PER_SITE_MAX), self.limit(EXEMPLARS_PER_SECOND_MAX));
        let tally = self.tallies.entry(second).or_default();
        let n_site = tally.n_by_site.get(&site).copied().unwrap_or(0);
        let site_is_full = n_site >= site_max;
        if site_is_full || tally.n >= second_max {
            self.open.loss.n_exemplars_dropped += 1;
            let is_new = !tally.pairs.contains(&(site, exemplar.signal));
            let victim = is_new.then(|| tally.find_repeated(site_is_full.then_some(site)));
            let Some(victim) = victim.flatten() else { return };
            let (victim_site, victim) = tally.held.swap_remove(victim);
            self.n_bytes = self.n_bytes.saturating_sub(exemplar_bytes(&victim));
            tally.n -= 1;
            if let Some(n) = tally.n_by_site.get_mut(&victim_site) {
                *n -= 1;
            }
        }
        tally.n += 1;
        *tally.n_by_site.entry(site).or_default() += 1;
        tally.pairs.insert((site, exemplar.signal));
        self.n_bytes += exemplar_bytes(&exemplar);
        tally.held.push((site, exemplar));
    }

    /// Takes in what did not come out of an access log.
    pub fn observe(&mut self, observation: Observation) {
        self.n_bytes += 64;
        match observation {
            Observation::Samples { at, values } => {
                self.n_bytes +=
                    values.iter().map(|(_, attribute, _)| 12 + attribute.len()).sum::<usize>();
                self.open.samples.push((at, values));
            }
            Observation::Service(state) => {
                self.n_bytes += 32 + state.unit.len();
                self.open.services.push(state);
            }
            Observation::Log(_)
                if self.open.log_lines.len() >= self.limit(LOG_LINES_MAX as u32) as usize =>
            {
                self.open.loss.n_events_dropped += 1;
            }
            Observation::Log(line) => {
                self.n_bytes += line.message.len();
                self.open.log_lines.push(line);
            }
            Observation::Change(_)
                if self.open.changes.len() >= self.limit(CHANGES_MAX as u32) as usize =>
            {
                self.open.loss.n_events_dropped += 1;
            }
            Observation::Change(change) => {
                self.n_bytes += change.what.len() + change.path.len();
                self.open.changes.push(change);
            }
            Observation::LinesLost(n_lines) => self.open.loss.n_lines_lost += n_lines,
            // The judge makes a summary of them, which comes by as a line.
            Observation::Dropped(_) | Observation::Attacked { .. } => {}
        }
    }

    /// Adds to the loss ledger.
    pub fn lose(&mut self, loss: &Loss) {
        self.open.loss.add(loss);
    }

    /// Notes that lines of so many bytes were read, whatever became of them.
    pub fn read(&mut self, n_lines: u32, n_bytes: u64) {
        self.open.n_lines += n_lines;
        self.open.n_line_bytes += n_bytes;
    }

    /// Estimate of the encoded size before compression, rather too high than too low.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// True when a gateway error waits.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.open.is_urgent
    }

    /// True when nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open == Closed::default() && self.tallies.values().all(|tally| tally.held.is_empty())
    }

    /// Hands over everything folded so far and starts anew.
    pub fn close(&mut self) -> Closed {
        let mut closed = std::mem::take(&mut self.open);
        for tally in self.tallies.values_mut() {
            closed.exemplars.append(&mut tally.held);
        }
        while self.tallies.len() > TALLIES_MAX {
            self.tallies.pop_first();
        }
        self.sites.clear();
        self.n_bytes = 0;
        closed
    }
}

impl Tally {
    /// An exemplar not sent yet whose (site, signal) is held twice, of this site if one is given,
    /// else of the site that holds most.
    fn find_repeated(&self, site: Option<u32>) -> Option<usize> {
        let mut n_by_pair = BTreeMap::new();
        for (holder, exemplar) in &self.held {
            *n_by_pair.entry((*holder, exemplar.signal)).or_insert(0_u32) += 1;
        }
        let candidates = self.held.iter().enumerate().filter(|(_, (holder, exemplar))| {
            site.is_none_or(|site| site == *holder) && n_by_pair[&(*holder, exemplar.signal)] > 1
        });
        candidates.max_by_key(|(_, (holder, _))| self.n_by_site.get(holder)).map(|(ix, _)| ix)
    }
}

fn exemplar_bytes(exemplar: &Exemplar) -> usize {
    let texts =
        [&exemplar.client, &exemplar.method, &exemplar.path, &exemplar.upstream, &exemplar.pool];
    let message = exemplar.message.as_ref().map_or(0, String::len);
    64 + message + texts.into_iter().map(String::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(site: u32, second: i64, signal: Option<Signal>) -> Request {
        let at = UnixMillis::from_second(second);
        let exemplar = Exemplar { at, status: 502, signal, ..Exemplar::default() };
        Request {
            site,
            second,
            status: 502,
            gateway_503: false,
            retried: false,
            crawler: false,
            own: false,
            exemplar: Some(exemplar),
            other: false,
            clamped: false,
        }
    }

    #[test]
    fn counts_add_up_by_second_site_and_status() {
        let mut windows = Windows::default();
        let plain = Request { exemplar: None, ..request(1, 10, None) };
        windows.fold(Request { status: 200, ..plain.clone() });
        windows.fold(Request { status: 503, gateway_503: true, crawler: true, ..plain.clone() });
        windows.fold(Request { status: 503, ..plain.clone() });
        windows.fold(Request { status: 200, retried: true, other: true, clamped: true, ..plain });
        let closed = windows.close();
        let expected = [(200, 2), (503, 2), (signal::counter::GATEWAY_503, 1)];
        let others = [(signal::counter::RETRIED, 1), (signal::counter::CRAWLER, 1)];
        let counts = &closed.counts[&(10, 1)];
        assert_eq!(counts.iter().copied().collect::<BTreeSet<_>>(), {
            expected.into_iter().chain(others).collect()
        });
        assert!(closed.is_urgent, "a 503 that counts is a gateway error");
        assert_eq!((closed.loss.n_lines_other, closed.loss.n_times_clamped), (1, 1));
        assert!(
            windows.is_empty() && windows.n_bytes() == 0 && windows.close() == Closed::default()
        );
    }

    #[test]
    fn an_application_error_is_not_urgent() {
        let mut windows = Windows::default();
        for status in [200, 404, 499, 500, 503] {
            windows.fold(Request { status, exemplar: None, ..request(0, 1, None) });
        }
        assert!(!windows.is_urgent());
    }

    #[test]
    fn a_failure_of_the_agents_own_request_hurries_no_batch() {
        let mut windows = Windows::default();
        let failed = Request { status: 502, exemplar: None, ..request(0, 1, None) };
        windows.fold(Request { own: true, ..failed.clone() });
        assert!(!windows.is_urgent(), "nobody waits for it");
        windows.fold(failed);
        assert!(windows.is_urgent(), "a visitor's is sent at once");
    }

    #[test]
    fn exemplars_are_bounded_per_site_and_second_also_over_several_batches() {
        let mut windows = Windows::default();
        let mut n = 0;
        for _ in 0..3 {
            for site in 0..20 {
                for _ in 0..3 {
                    windows.fold(request(site, 10, None));
                }
            }
            let closed = windows.close();
            n += closed.exemplars.len() as u64 + closed.loss.n_exemplars_dropped;
            let sites = closed.exemplars.iter().map(|(site, _)| site);
            assert!(sites.clone().all(|site| sites.clone().filter(|s| *s == site).count() <= 5));
        }
        assert_eq!(n, 180, "every exemplar is kept or counted");
        windows.fold(request(0, 11, None));
        assert_eq!(windows.close().exemplars.len(), 1, "the next second has its own limit");
    }

    #[test]
    fn a_new_pair_of_site_and_signal_takes_the_place_of_a_repeated_one() {
        let mut windows = Windows::default();
        for site in 0..10 {
            for _ in 0..5 {
                windows.fold(request(site, 10, Some(Signal::Reset)));
            }
        }
        windows.fold(request(3, 10, Some(Signal::Oom)));
        windows.fold(request(77, 10, Some(Signal::Reset)));
        windows.fold(request(77, 10, Some(Signal::Reset)));
        let closed = windows.close();
        assert_eq!(closed.exemplars.len(), 50);
        let has = |site, signal| {
            closed.exemplars.iter().any(|(s, e)| *s == site && e.signal == Some(signal))
        };
        assert!(has(3, Signal::Oom) && has(77, Signal::Reset) && has(3, Signal::Reset));
        assert_eq!(closed.loss.n_exemplars_dropped, 3);
    }

    #[test]
    fn a_flood_of_system_lines_is_cut_and_counted() {
        let mut windows = Windows::default();
        for _ in 0..LOG_LINES_MAX + 7 {
            windows.observe(Observation::Log(LogEvidence {
                source: "kernel",
                message: "x".to_owned(),
                at: UnixMillis(1),
                signal: None,
                pool: None,
            }));
        }
        let closed = windows.close();
        assert_eq!((closed.log_lines.len(), closed.loss.n_events_dropped), (LOG_LINES_MAX, 7));
    }

    #[test]
    fn a_flood_of_changes_is_cut_and_counted() {
        let mut windows = Windows::default();
        let change = Change::new("plugin", "x".to_owned(), UnixMillis(1));
        for _ in 0..CHANGES_MAX + 7 {
            windows.observe(Observation::Change(change.clone()));
        }
        let closed = windows.close();
        assert_eq!((closed.changes.len(), closed.loss.n_events_dropped), (CHANGES_MAX, 7));
    }

    #[test]
    fn while_memory_is_short_less_is_kept_and_all_of_it_is_counted() {
        let mut windows = Windows::default();
        windows.set_lean(true);
        for site in 0..20 {
            for _ in 0..3 {
                windows.fold(request(site, 10, None));
            }
        }
        let line = LogEvidence {
            source: "kernel",
            message: "x".to_owned(),
            at: UnixMillis(1),
            signal: None,
            pool: None,
        };
        for _ in 0..LOG_LINES_MAX {
            windows.observe(Observation::Log(line.clone()));
        }
        let closed = windows.close();
        let n_requests: u32 = closed.counts.values().flatten().map(|(_, n)| n).sum();
        assert_eq!(n_requests, 60, "every request counts");
        assert_eq!((closed.exemplars.len(), closed.loss.n_exemplars_dropped), (10, 50));
        assert_eq!((closed.log_lines.len(), closed.loss.n_events_dropped), (100, 400));
        windows.set_lean(false);
        windows.fold(request(3, 10, None));
        assert_eq!(windows.close().exemplars.len(), 1, "there is room again");
    }

    #[test]
    fn lines_that_were_overwritten_before_they_were_read_reach_the_ledger() {
        let mut windows = Windows::default();
        windows.observe(Observation::LinesLost(7));
        windows.observe(Observation::LinesLost(2));
        assert!(!windows.is_empty(), "a loss is worth a batch");
        assert_eq!(windows.close().loss.n_lines_lost, 9);
    }

    #[test]
    fn memory_of_old_seconds_is_bounded() {
        let mut windows = Windows::default();
        for second in 0..1000 {
            windows.fold(request(0, second, None));
        }
        windows.close();
        assert_eq!(windows.tallies.len(), TALLIES_MAX);
    }
}
