//! Who asks: the shares of client networks and of crawlers, from a sample of the requests. Pure.
//!
//! The sample is a reservoir (Li 1994, algorithm L): each request of a period is in it with the same
//! chance, whatever came before it, so no pattern of requests slips between the looks. Most requests
//! cost a decrement; of 100,000 in a period some 3,200 are looked at. A share `p` of `n` sampled
//! requests has the standard error `sqrt(p * (1 - p) / n)`: at most 2.2 points with a full sample.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Requests kept of one period. 16 KiB.
const SAMPLE_MAX: usize = 512;
/// A period with fewer requests tells nothing of its clients.
pub const REQUESTS_MIN: u64 = 100;
/// Networks that are named, the largest first.
const NETWORKS_MAX: usize = 3;
/// A smaller share of a server's requests is not named: visitors of one provider come together too.
const NETWORK_SHARE_MIN: f64 = 0.10;
/// Busy sites that are looked at by themselves.
const SITES_MAX: usize = 3;
/// Sampled requests of a site from which on its share is worth telling.
const SITE_SAMPLE_MIN: usize = 50;
/// A smaller share of a site's requests is not told.
const SITE_SHARE_MIN: f64 = 0.25;
/// Crawlers that are named, and the smallest share told.
const CRAWLERS_MAX: usize = 5;
const CRAWLER_SHARE_MIN: f64 = 0.02;

/// The network of a client: a /24 of IPv4, a /48 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network(IpAddr);

impl Network {
    /// The network an address is in.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Ipv4Addr::new(a, b, c, 0).into()
            }
            IpAddr::V6(v6) => {
                let [a, b, c, ..] = v6.segments();
                Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
            }
        })
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bits = if self.0.is_ipv4() { 24 } else { 48 };
        write!(f, "{}/{bits}", self.0)
    }
}

/// One sampled request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Visit {
    /// Index of its site.
    pub site: u32,
    /// `None` = the line names no address.
    pub network: Option<Network>,
    /// The crawler it says to be.
    pub crawler: Option<&'static str>,
}

/// The shares of one period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shares {
    /// Requests of the period.
    pub n: u64,
    /// Networks with the largest shares of the server's requests.
    pub networks: Vec<(Network, f64)>,
    /// Busy sites most of whose requests come from few: the largest network's share of the site.
    pub sites: Vec<(u32, f64)>,
    /// Shares of crawlers in the server's requests.
    pub crawlers: Vec<(&'static str, f64)>,
}

/// The open period. Memory is fixed.
#[derive(Clone, Debug)]
pub struct Clients {
    n: u64,
    /// Requests until the next one is looked at.
    skip: u64,
    /// Of algorithm L: the largest of the chances that the sampled ones have drawn.
    w: f64,
    state: u64,
    sample: Vec<Visit>,
}

impl Clients {
    /// `seed` chooses which requests are looked at.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { n: 0, skip: 0, w: 1.0, state: seed, sample: Vec::new() }
    }

    /// Counts a request; true when it is to be looked at, and then [`Clients::take`] follows.
    #[inline]
    pub fn count(&mut self) -> bool {
        self.n += 1;
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    /// Takes a request into the sample.
    pub fn take(&mut self, visit: Visit) {
        if self.sample.len() < SAMPLE_MAX {
            self.sample.push(visit);
            if self.sample.len() < SAMPLE_MAX {
                return;
            }
        } else {
            let at = (self.random() * SAMPLE_MAX as f64) as usize;
            self.sample[at.min(SAMPLE_MAX - 1)] = visit;
        }
        self.w *= (self.random().ln() / SAMPLE_MAX as f64).exp();
        let skip = (self.random().ln() / (-self.w).ln_1p()).floor();
        self.skip = if skip.is_finite() { skip as u64 } else { u64::MAX };
    }

    /// Requests of the open period.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Ends the period, its memory too, and begins the next.
    pub fn restart(&mut self) {
        *self = Self::new(self.state);
    }

    /// The same, and nothing of the next period is looked at.
    pub fn pause(&mut self) {
        self.restart();
        self.skip = u64::MAX;
    }

    /// The shares of the period so far; `None` while it has too few requests.
    #[must_use]
    pub fn shares(&self) -> Option<Shares> {
        if self.n < REQUESTS_MIN || self.sample.is_empty() {
            return None;
        }
        let all = self.sample.iter();
        let networks = largest(all.clone().filter_map(|visit| visit.network), self.sample.len());
        let crawlers = largest(all.clone().filter_map(|visit| visit.crawler), self.sample.len());
        let told = |(_, share): &(Network, f64)| *share >= NETWORK_SHARE_MIN;
        Some(Shares {
            n: self.n,
            networks: networks.into_iter().take(NETWORKS_MAX).take_while(told).collect(),
            sites: self.sites(),
            crawlers: crawlers
                .into_iter()
                .take(CRAWLERS_MAX)
                .take_while(|(_, share)| *share >= CRAWLER_SHARE_MIN)
                .collect(),
        })
    }

    fn sites(&self) -> Vec<(u32, f64)> {
        let n_all = self.sample.len();
        let busy = largest(self.sample.iter().map(|visit| visit.site), n_all);
        let share_of = |(site, _): (u32, f64)| {
            let its = self.sample.iter().filter(|visit| visit.site == site);
            let n_its = its.clone().count();
            let (_, share) = *largest(its.filter_map(|visit| visit.network), n_its).first()?;
            (n_its >= SITE_SAMPLE_MIN && share >= SITE_SHARE_MIN).then_some((site, share))
        };
        busy.into_iter().take(SITES_MAX).filter_map(share_of).collect()
    }

    /// In (0, 1]: the generator of Steele and others (2014), which is enough for sampling.
    fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
    }
}

/// What comes most often, with its share of `n_all`, largest first; equal ones in their own order.
fn largest<K: Ord + Copy>(keys: impl Iterator<Item = K>, n_all: usize) -> Vec<(K, f64)> {
    let mut counts: BTreeMap<K, u32> = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    let mut counts: Vec<(K, u32)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    counts.into_iter().map(|(key, n)| (key, f64::from(n) / n_all.max(1) as f64)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(site: u32, address: &str, crawler: Option<&'static str>) -> Visit {
        Visit { site, network: address.parse().ok().map(Network::of), crawler }
    }

    /// Feeds `n` requests; returns how many of them were looked at.
    fn feed(clients: &mut Clients, n: u64, visit_of: impl Fn(u64) -> Visit) -> u64 {
        let mut n_looked_at = 0;
        for at in 0..n {
            if clients.count() {
                n_looked_at += 1;
                clients.take(visit_of(at));
            }
        }
        n_looked_at
    }

    fn near(got: f64, want: f64) -> bool {
        (got - want).abs() < 0.08
    }

    #[test]
    fn networks_are_written_as_they_are_called() {
        let check = |address: &str, want: &str| {
            let network = Network::of(address.parse().unwrap());
            assert_eq!(network.to_string(), want, "{address}");
        };
        check("198.51.100.77", "198.51.100.0/24");
        check("::ffff:198.51.100.77", "198.51.100.0/24");
        check("2001:db8:1:2::3", "2001:db8:1::/48");
        check("::1", "::/48");
    }

    #[test]
    fn a_flood_from_one_network_shows_its_share_whatever_the_order() {
        for n in [100, 700, 20_000, 300_000] {
            // In turns, and the flood first or last: each request has the same chance.
            let orders: [fn(u64, u64) -> bool; 3] =
                [|at, _| at % 10 < 7, |at, n| at < n / 10 * 7, |at, n| at >= n - n / 10 * 7];
            for (order, is_flood) in orders.into_iter().enumerate() {
                let mut clients = Clients::new(n + order as u64);
                feed(&mut clients, n, |at| {
                    if is_flood(at, n) {
                        visit(0, &format!("198.51.100.{}", at % 256), None)
                    } else {
                        visit(1, &format!("203.0.{}.9", at % 200), None)
                    }
                });
                let shares = clients.shares().unwrap();
                let (network, share) = shares.networks[0];
                assert_eq!(network.to_string(), "198.51.100.0/24", "{n}, order {order}");
                assert!(near(share, 0.7), "{share} of {n}, order {order}");
                assert_eq!((shares.n, shares.networks.len()), (n, 1), "small ones are not named");
                assert_eq!(shares.sites, [(0, 1.0)], "{n}, order {order}");
            }
        }
    }

    #[test]
    fn a_site_shows_its_share_when_enough_of_its_requests_were_looked_at() {
        // Of 100 requests all are in the sample.
        for (n_its, want) in [(SITE_SAMPLE_MIN as u64 - 1, vec![]), (50, vec![(7, 1.0)])] {
            let mut clients = Clients::new(n_its);
            feed(&mut clients, REQUESTS_MIN, |at| match at {
                at if at < n_its => visit(7, "198.51.100.7", None),
                at => visit(at as u32 + 100, &format!("203.0.{at}.9"), None),
            });
            assert_eq!(clients.shares().unwrap().sites, want, "{n_its} of site 7");
        }
        // Enough of them, and from nobody in particular.
        let mut clients = Clients::new(5);
        feed(&mut clients, 400, |at| visit(7, &format!("203.0.{}.9", at % 200), None));
        assert_eq!(clients.shares().unwrap().sites, []);
    }

    #[test]
    fn few_requests_are_looked_at_and_memory_is_fixed() {
        let mut clients = Clients::new(1);
        let n = feed(&mut clients, 100_000, |_| visit(0, "203.0.113.9", None));
        assert!((2_000..4_500).contains(&n), "{n} of 100,000");
        assert_eq!(clients.sample.len(), SAMPLE_MAX);
        clients.restart();
        assert_eq!((clients.n(), clients.sample.capacity()), (0, 0));
        assert_eq!(clients.shares(), None);
    }

    #[test]
    fn crawlers_show_their_shares_and_a_quiet_period_tells_nothing() {
        let mut clients = Clients::new(3);
        let name = |at: u64| match at % 20 {
            0..5 => Some("openai"),
            5..7 => Some("google"),
            _ => None,
        };
        feed(&mut clients, 5_000, |at| visit(0, "", name(at)));
        let shares = clients.shares().unwrap();
        let names: Vec<_> = shares.crawlers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["openai", "google"]);
        assert!(near(shares.crawlers[0].1, 0.25) && near(shares.crawlers[1].1, 0.10), "{shares:?}");
        assert!(shares.networks.is_empty() && shares.sites.is_empty(), "nobody was named");
        let mut quiet = Clients::new(3);
        feed(&mut quiet, REQUESTS_MIN - 1, |_| visit(0, "203.0.113.9", None));
        assert_eq!(quiet.shares(), None);
    }
}
