//! What was refused before it came to a site or a backend: counted, and told in a few words. Pure.
//!
//! A site's first refusals are told 10 s after the first one, further ones once a minute: whatever
//! is refused, a site and a backend cost a line a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use wire::UnixMillis;

use crate::discover::Discovery;
use crate::logs::parse::firewall::Packet;
use crate::window::LogEvidence;

/// From the first refusal to its summary, and between two summaries.
const FIRST_AFTER: Duration = Duration::from_secs(10);
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Sites and backends told apart; what is refused of further ones is told of the server.
const KEYS_MAX: usize = 256;
/// Rules told apart for one site.
const RULES_MAX: usize = 16;

/// What something was refused to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refused {
    /// Requests to a site, by `ModSecurity`.
    Site(String),
    /// Requests to sites that nobody knows, or to more of them than are told apart.
    Sites,
    /// Attacks on a site, as Wordfence recorded them.
    Recorded(String),
    /// Packets between this server and a backend.
    Backend(SocketAddr),
    /// The same of more backends than are told apart.
    Backends,
}

/// What is not told yet of one of them.
#[derive(Clone, Debug, Default)]
struct Untold {
    n: u64,
    since: UnixMillis,
    last: UnixMillis,
    by_rule: BTreeMap<u32, u64>,
    /// By the clock of reading.
    first_read_at: UnixMillis,
    told_at: Option<UnixMillis>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(BTreeMap<Refused, Untold>);

impl Refusals {
    /// Counts what was refused at `at` and read at `now`; `rule` is 0 when none is named.
    pub(crate) fn note(
        &mut self,
        what: Refused,
        rule: u32,
        n: u32,
        at: UnixMillis,
        now: UnixMillis,
    ) {
        let is_new = self.0.len() >= KEYS_MAX && !self.0.contains_key(&what);
        let what = match what {
            Refused::Site(_) if is_new => Refused::Sites,
            Refused::Recorded(_) if is_new => Refused::Recorded("further sites".to_owned()),
            Refused::Backend(_) if is_new => Refused::Backends,
            what => what,
        };
        let untold = self.0.entry(what).or_default();
        if untold.n == 0 {
            (untold.since, untold.first_read_at) = (at, now);
        }
        untold.since = untold.since.min(at);
        untold.last = untold.last.max(at);
        untold.n += u64::from(n);
        if rule != 0 && (untold.by_rule.len() < RULES_MAX || untold.by_rule.contains_key(&rule)) {
            *untold.by_rule.entry(rule).or_default() += u64::from(n);
        }
    }

    /// The summaries that are due; with `all` those that are not, too.
    pub(crate) fn take_due(&mut self, now: UnixMillis, all: bool) -> Vec<LogEvidence> {
        let mut told = Vec::new();
        self.0.retain(|what, untold| {
            // A clock set back would keep them until it is there again.
            let told_at = untold.told_at.filter(|at| *at <= now);
            let again = told_at.map_or(UnixMillis(i64::MIN), |at| at.plus(TOLD_EVERY));
            let due = untold.first_read_at.plus(FIRST_AFTER).max(again);
            let is_due = now >= due || now < untold.first_read_at;
            if untold.n == 0 {
                return now < again;
            }
            if is_due || all {
                told.push(summary(what, untold));
                *untold = Untold { told_at: Some(now), ..Untold::default() };
            }
            true
        });
        told
    }
}

fn summary(what: &Refused, untold: &Untold) -> LogEvidence {
    let Untold { n, since, last, .. } = untold;
    let span_s = (last.0.saturating_sub(since.0) / 1000).max(0) + 1;
    let most = untold.by_rule.iter().max_by_key(|(_, n)| **n);
    let by = match most {
        Some((rule, of_rule)) if of_rule == n => format!("ModSecurity rule {rule}"),
        Some((rule, _)) => format!("ModSecurity, most by rule {rule},"),
        None => "ModSecurity".to_owned(),
    };
    let (source, message) = match what {
        Refused::Site(site) => {
            ("modsecurity", format!("{n} requests to {site} blocked by {by} within {span_s} s"))
        }
        Refused::Sites => {
            ("modsecurity", format!("{n} requests blocked by {by} within {span_s} s"))
        }
        Refused::Recorded(site) => {
            ("wordfence", format!("Wordfence recorded {n} attacks on {site} within a minute"))
        }
        Refused::Backend(backend) => (
            "firewall",
            format!("firewall dropped {n} packets between here and {backend} within {span_s} s"),
        ),
        Refused::Backends => (
            "firewall",
            format!("firewall dropped {n} packets of further backends within {span_s} s"),
        ),
    };
    LogEvidence { source, message, at: *since, signal: None, pool: None }
}

/// The backends that discovery found, as far as they are addresses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backends {
    elsewhere: BTreeSet<SocketAddr>,
    own_ports: BTreeSet<u16>,
    own: Vec<IpAddr>,
}

impl Backends {
    pub(crate) fn of(discovery: &Discovery) -> Self {
        let mut backends = Self { own: discovery.addresses.clone(), ..Self::default() };
        let of_sites = discovery.sites.iter().flat_map(|site| [&site.upstream, &site.pool]);
        let of_pools = discovery.pools.iter().map(|pool| pool.listen.as_str());
        for address in of_sites.flatten().map(String::as_str).chain(of_pools) {
            match address.parse::<SocketAddr>() {
                Ok(known) if !backends.is_here(known.ip()) => {
                    backends.elsewhere.insert(known);
                }
                _ => backends.own_ports.extend(own_port(address)),
            }
        }
        backends
    }

    /// The backend that a packet was to reach, or came from.
    ///
    /// Of ports of this machine only machines nearby may be gateways: from far away strangers knock
    /// at any port all day.
    pub(crate) fn of_packet(&self, packet: &Packet) -> Option<SocketAddr> {
        let Packet { source, target } = *packet;
        let is_own = |at: SocketAddr, from: IpAddr| {
            self.own_ports.contains(&at.port())
                && self.is_here(at.ip())
                && (self.is_here(from) || super::join::is_private(from))
        };
        if self.elsewhere.contains(&target) || is_own(target, source.ip()) {
            Some(target)
        } else if self.elsewhere.contains(&source) || is_own(source, target.ip()) {
            Some(source)
        } else {
            None
        }
    }

    fn is_here(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || self.own.contains(&ip)
    }
}

/// `9000`, `127.0.0.1:9000`, `*:9000`, `[::]:9000`; `None` for a socket file.
fn own_port(listen: &str) -> Option<u16> {
    let (host, port) = listen.rsplit_once(':').unwrap_or(("", listen));
    let is_any = matches!(host, "" | "*" | "localhost" | "[::]")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if is_any { port.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{Pool, Site};

    fn texts(told: &[LogEvidence]) -> Vec<&str> {
        told.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn a_flood_of_refusals_is_a_line_a_minute_and_none_is_forgotten() {
        let mut refusals = Refusals::default();
        let site = || Refused::Site("a.example".to_owned());
        let at = |s: i64| UnixMillis::from_second(1_000 + s);
        let mut told = Vec::new();
        for second in 0..130 {
            for n in 0..10 {
                refusals.note(site(), 949_110 + u32::from(n == 0), 1, at(second), at(second));
            }
            told.extend(refusals.take_due(at(second), false));
        }
        told.extend(refusals.take_due(at(130), true));
        assert_eq!(
            texts(&told),
            [
                "110 requests to a.example blocked by ModSecurity, most by rule 949110, within 11 s",
                "600 requests to a.example blocked by ModSecurity, most by rule 949110, within 60 s",
                "590 requests to a.example blocked by ModSecurity, most by rule 949110, within 59 s",
            ]
        );
        assert_eq!((told[1].source, told[1].at), ("modsecurity", at(11)));
        assert!(refusals.take_due(at(500), true).is_empty() && refusals.0.is_empty());
    }

    #[test]
    fn a_clock_set_back_holds_no_summary() {
        let mut refusals = Refusals::default();
        let site = || Refused::Site("a.example".to_owned());
        let (later, now) = (UnixMillis::from_second(90_000), UnixMillis::from_second(1_000));
        refusals.note(site(), 7, 3, later, later);
        assert_eq!(refusals.take_due(later, true).len(), 1, "told by the clock of before");
        refusals.note(site(), 7, 2, now, now);
        assert!(refusals.take_due(now, false).is_empty(), "more may come");
        assert_eq!(refusals.take_due(now.plus(FIRST_AFTER), false).len(), 1);
        // What was told in the future and has nothing more to tell is forgotten.
        refusals.note(site(), 7, 3, later, later);
        assert_eq!(refusals.take_due(later, true).len(), 1);
        assert!(refusals.take_due(now, false).is_empty() && refusals.0.is_empty());
    }

    #[test]
    fn a_single_rule_and_a_backend_are_named() {
        let mut refusals = Refusals::default();
        let now = UnixMillis(5_000);
        let backend = Refused::Backend("10.0.0.7:9000".parse().unwrap());
        refusals.note(backend, 0, 120, UnixMillis(4_000), now);
        refusals.note(Refused::Recorded("a.example".to_owned()), 0, 7, now, now);
        refusals.note(Refused::Site("a.example".to_owned()), 911, 41, now, now);
        assert!(refusals.take_due(now, false).is_empty(), "more may come");
        assert_eq!(
            texts(&refusals.take_due(UnixMillis(15_000), false)),
            [
                "41 requests to a.example blocked by ModSecurity rule 911 within 1 s",
                "Wordfence recorded 7 attacks on a.example within a minute",
                "firewall dropped 120 packets between here and 10.0.0.7:9000 within 1 s",
            ]
        );
    }

    #[test]
    fn invented_sites_and_rules_cost_a_bounded_memory() {
        let mut refusals = Refusals::default();
        let now = UnixMillis(5_000);
        for n in 0..10_000 {
            refusals.note(Refused::Site(format!("{n}.example")), n + 1, 1, now, now);
            refusals.note(Refused::Site("0.example".to_owned()), n + 1, 1, now, now);
        }
        assert_eq!(refusals.0.len(), KEYS_MAX + 1);
        assert!(refusals.0.values().all(|untold| untold.by_rule.len() <= RULES_MAX));
        let told = refusals.take_due(now, true);
        let n = told.iter().filter_map(|line| line.message.split(' ').next()?.parse::<u64>().ok());
        assert_eq!(n.sum::<u64>(), 20_000, "each is in one of the lines");
    }

    #[test]
    fn only_packets_of_backends_count() {
        let discovery = Discovery {
            sites: vec![
                Site { upstream: Some("10.0.0.7:9000".to_owned()), ..Site::default() },
                Site { upstream: Some("app.internal:80".to_owned()), ..Site::default() },
                Site { pool: Some("127.0.0.1:3000".to_owned()), ..Site::default() },
            ],
            pools: vec![
                Pool { listen: "9001".to_owned(), ..Pool::default() },
                Pool { listen: "/run/php.sock".to_owned(), ..Pool::default() },
            ],
            addresses: vec!["10.0.0.5".parse().unwrap()],
            ..Discovery::default()
        };
        let backends = Backends::of(&discovery);
        for (source, target, want) in [
            ("10.0.0.5:4000", "10.0.0.7:9000", Some("10.0.0.7:9000")),
            ("10.0.0.7:9000", "10.0.0.5:4000", Some("10.0.0.7:9000")),
            ("10.0.0.5:4000", "10.0.0.7:9001", None),
            ("10.0.0.9:4000", "10.0.0.5:9001", Some("10.0.0.5:9001")),
            ("127.0.0.1:4000", "127.0.0.1:3000", Some("127.0.0.1:3000")),
            ("198.51.100.7:4000", "10.0.0.5:9001", None),
            ("10.0.0.9:4000", "10.0.0.5:22", None),
        ] {
            let packet =
                Packet { source: source.parse().unwrap(), target: target.parse().unwrap() };
            let got = backends.of_packet(&packet);
            assert_eq!(got, want.map(|want| want.parse().unwrap()), "{source} to {target}");
        }
    }
}
