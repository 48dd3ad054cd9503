//! Requests that need no second look: their site and second, mostly from what earlier lines taught.
//!
//! Invariant: [`Judge::plain`] says `Counted` or `Inner` only where [`Judge::access`] would do the
//! same with the whole record, and would learn nothing new from it.

use std::collections::HashMap;

use wire::UnixMillis;

use super::{Judge, Verdict};
use crate::discover::SiteRule;
use crate::logs::AccessRecord;
use crate::logs::event_time::is_ahead;
use crate::logs::scan::Plain;

/// Hosts remembered for one log; a log with more begins anew, so that invented hosts cost no memory.
const HOSTS_MAX: usize = 4096;
/// Longer hosts are not remembered.
const HOST_BYTES_MAX: usize = 253;
/// Memory for the hosts of all logs together, about; beyond it all of them begin anew.
const ALL_BYTES_MAX: usize = 8 << 20;
/// What remembering a host costs beside its bytes, which are kept twice.
const KNOWN_BYTES: usize = 112;

/// What the lines of one log that name this host have in common.
#[derive(Clone, Debug)]
struct Known {
    host: Box<[u8]>,
    site: u32,
    is_other: bool,
}

/// Known hosts of one log by their exact bytes.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    by_host: HashMap<Box<[u8]>, usize>,
    known: Vec<Known>,
    /// The one asked for last; lines of a host mostly come together.
    last: usize,
}

impl Hosts {
    fn find(&mut self, host: &[u8]) -> Option<&Known> {
        // Two empty names are not compared: reading no bytes at an address that is none costs a
        // hundred times what reading a few costs.
        let is_same = |last: &Known| {
            last.host.len() == host.len() && (host.is_empty() || *last.host == *host)
        };
        if !self.known.get(self.last).is_some_and(is_same) {
            self.last = *self.by_host.get(host)?;
        }
        self.known.get(self.last)
    }

    /// Returns about how many bytes that took.
    fn learn(&mut self, known: Known) -> usize {
        if let Some(ix) = self.by_host.get(&known.host) {
            self.known[*ix] = known;
            return 0;
        }
        if self.known.len() >= HOSTS_MAX {
            *self = Self::default();
        }
        let n_bytes = 2 * known.host.len() + KNOWN_BYTES;
        self.by_host.insert(known.host.clone(), self.known.len());
        self.known.push(known);
        n_bytes
    }
}

impl Judge {
    /// One plain request of an access log. Cost: a look into a hash table; allocates nothing for a
    /// host seen before.
    pub fn plain(&mut self, source: usize, plain: &Plain<'_>, now: UnixMillis) -> Verdict {
        let its = &mut self.sources[source];
        if its.inner {
            return Verdict::Inner;
        }
        let host = if matches!(its.rule, SiteRule::Fixed(_)) { b"" } else { plain.host };
        let Some(known) = its.hosts.find(host) else { return Verdict::Unsure };
        let (site, other) = (known.site, known.is_other);
        if its.inner_sites.contains(&site) {
            return Verdict::Inner;
        }
        if self.sites.is_news(site, plain.upstream) || self.own.may_be(plain) {
            return Verdict::Unsure;
        }
        if !plain.client.is_empty() {
            let front = self.fronts.get(&site);
            if *plain.client == *its.own_client {
                if !its.has_remote_clients && front.is_some_and(|front| *front != source) {
                    return Verdict::Inner;
                }
            } else if !its.has_remote_clients || front.is_none() {
                return Verdict::Unsure;
            }
        }
        let second = match plain.second {
            Some(second) if is_ahead(second, now) => return Verdict::Unsure,
            Some(second) => second,
            None => now.second(),
        };
        Verdict::Counted { site, second, other }
    }

    /// Remembers what [`Judge::plain`] may take for granted after this record.
    pub(super) fn learn_host(
        &mut self,
        source: usize,
        record: &AccessRecord<'_>,
        site: u32,
        is_other: bool,
        peer_is_own: bool,
    ) {
        let its = &mut self.sources[source];
        let peer = record.client.as_deref().unwrap_or_default();
        if peer_is_own && *its.own_client != *peer.as_bytes() {
            its.own_client = peer.into();
        }
        let host = match &record.host {
            Some(host) if !matches!(its.rule, SiteRule::Fixed(_)) => host.as_bytes(),
            _ => b"",
        };
        if host.len() > HOST_BYTES_MAX {
            return;
        }
        self.host_bytes += its.hosts.learn(Known { host: host.into(), site, is_other });
        if self.host_bytes > ALL_BYTES_MAX {
            self.forget_hosts();
        }
    }

    /// The next line of each host is read whole again.
    pub(super) fn forget_hosts(&mut self) {
        self.sources.iter_mut().for_each(|source| source.hosts = Hosts::default());
        self.host_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::config::PrivacyConfig;
    use crate::discover::{Discovery, LogKind, LogSource, Site};
    use crate::logs::{Attempt, LineTime};

    const NOW: i64 = 1_800_000_000;

    fn judge() -> Judge {
        let site = Site {
            name: "a.example".to_owned(),
            aliases: vec!["www.a.example".to_owned()],
            upstream: Some("192.0.2.7:80".to_owned()),
            ..Site::default()
        };
        let discovery = Discovery { sites: vec![site], ..Discovery::default() };
        let mut judge = Judge::new(&discovery, PrivacyConfig::default(), 3, TimeZone::UTC);
        for (path, rule) in [
            ("/var/log/nginx/access.log", SiteRule::Host),
            ("/var/log/apache2/access.log", SiteRule::Host),
            ("/srv/b.example/access.log", SiteRule::Fixed("b.example".to_owned())),
        ] {
            let source = LogSource {
                path: path.into(),
                kind: LogKind::Access,
                site: rule,
                format: "auto".to_owned(),
                timezone: None,
                inner: false,
                inner_sites: Vec::new(),
            };
            judge.add_source(&source);
        }
        judge
    }

    fn record<'a>(plain: &Plain<'a>) -> AccessRecord<'a> {
        let text = |bytes: &'a [u8]| {
            (!bytes.is_empty()).then(|| std::str::from_utf8(bytes).unwrap().into())
        };
        let at = |second: i64| UnixMillis::from_second(second);
        AccessRecord {
            time: plain.second.map(|s| LineTime::Instant { at: at(s), offset_s: 0 }),
            host: text(plain.host),
            client: text(plain.client),
            status: Some(plain.status),
            attempts: text(plain.upstream)
                .map(|upstream| Attempt {
                    upstream,
                    status: Some(plain.status),
                    ..Attempt::default()
                })
                .into_iter()
                .collect(),
            ..AccessRecord::default()
        }
    }

    /// Counts a request by its whole record.
    fn by_record(judge: &mut Judge, source: usize, plain: &Plain<'_>) -> Option<(u32, i64, bool)> {
        let mut counted = None;
        judge.access(source, &record(plain), UnixMillis::from_second(NOW), &mut |request| {
            counted = Some((request.site, request.second, request.other));
        });
        counted
    }

    #[test]
    fn a_plain_request_counts_as_its_whole_record_would() {
        let mut seed = 11_u64;
        let (mut n_fast, mut n_inner) = (0, 0);
        for round in 0..200 {
            let (mut fast, mut slow) = (judge(), judge());
            for _ in 0..100 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = |shift: u32, from: &[&'static str]| {
                    from[(seed >> shift) as usize % from.len()].as_bytes()
                };
                let source = (seed >> 44) as usize % 3;
                // In half of the rounds one log is behind another one.
                let n_clients = if source == 1 && round % 2 == 0 { 1 } else { 1 + round % 4 };
                let plain = Plain {
                    raw: b"",
                    host: pick(20, &["", "a.example", "WWW.a.example", "c.example", "x y", "d.e"]),
                    client: pick(26, &["127.0.0.1", "192.0.2.1", "", "unix:"][..n_clients]),
                    upstream: pick(32, &["", "192.0.2.9:80", "unix:/run/b.sock"]),
                    second: [Some(NOW), Some(NOW - 9), Some(NOW + 4), Some(NOW + 9), None]
                        [(seed >> 38) as usize % 5],
                    status: 200,
                };
                let want = by_record(&mut slow, source, &plain);
                let got = match fast.plain(source, &plain, UnixMillis::from_second(NOW)) {
                    Verdict::Counted { site, second, other } => {
                        n_fast += 1;
                        Some((site, second, other))
                    }
                    Verdict::Inner => {
                        n_inner += 1;
                        None
                    }
                    Verdict::Unsure => by_record(&mut fast, source, &plain),
                };
                assert_eq!(got, want, "{plain:?} of source {source}, round {round}");
                assert_eq!(fast.sites(), slow.sites(), "after {plain:?}");
            }
        }
        assert!(n_fast > 5_000 && n_inner > 100, "{n_fast} fast, {n_inner} inner");
    }

    #[test]
    fn hosts_invented_in_many_logs_are_forgotten_too() {
        let mut judge = judge();
        let source = |n: usize| LogSource {
            path: format!("/srv/{n}/access.log").into(),
            kind: LogKind::Access,
            site: SiteRule::Host,
            format: "auto".to_owned(),
            timezone: None,
            inner: false,
            inner_sites: Vec::new(),
        };
        let sources: Vec<usize> = (0..40).map(|n| judge.add_source(&source(n))).collect();
        let kept = |judge: &Judge| -> usize {
            let hosts = judge.sources.iter().flat_map(|source| &source.hosts.known);
            hosts.map(|known| 2 * known.host.len() + KNOWN_BYTES).sum()
        };
        let mut most = 0;
        for n in 0..1000 {
            for source in &sources {
                let host = format!("{n}.{}.example", "x".repeat(230));
                let plain = Plain {
                    raw: b"",
                    host: host.as_bytes(),
                    client: b"",
                    upstream: b"",
                    second: Some(NOW),
                    status: 200,
                };
                by_record(&mut judge, *source, &plain);
            }
            most = most.max(kept(&judge));
        }
        assert!(most <= ALL_BYTES_MAX && most > ALL_BYTES_MAX / 2, "{most}");
    }

    #[test]
    fn a_flood_of_invented_hosts_is_forgotten() {
        let mut hosts = Hosts::default();
        for n in 0..3 * HOSTS_MAX {
            let host = format!("{n}.example").into_bytes().into();
            hosts.learn(Known { host, site: 0, is_other: true });
            assert!(hosts.known.len() <= HOSTS_MAX && hosts.by_host.len() <= HOSTS_MAX);
        }
        assert!(hosts.find(format!("{}.example", 3 * HOSTS_MAX - 1).as_bytes()).is_some());
        assert!(hosts.find(b"0.example").is_none());
    }
}
