//! Who a request came from, for the shares of clients: as far as the operator allows.

use std::net::{IpAddr, SocketAddr};

use wire::UnixMillis;

use super::{Judge, is_private};
use crate::config::ClientIp;
use crate::logs::AccessRecord;
use crate::logs::crawler::any_crawler;
use crate::window::clients::{Network, Shares, Visit};

/// Addresses of a list that are looked at, from its end.
const PROXIES_MAX: usize = 16;

/// An address of X-Forwarded-For, which may have a port; in W3C logs blanks are escaped.
fn forwarded(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim().trim_start_matches(['+', ' ']);
    let entry = entry.strip_prefix("%20").unwrap_or(entry);
    let with_port = || Some(entry.parse::<SocketAddr>().ok()?.ip());
    entry.parse().ok().or_else(with_port)
}

impl Judge {
    /// What the sample keeps of a request: behind a proxy of ours the client that the proxy names.
    #[must_use]
    pub fn visit(&self, site: u32, record: &AccessRecord<'_>) -> Visit {
        let peer = record.client.as_deref().unwrap_or_default();
        let address = peer.parse::<IpAddr>().ok();
        let is_inner = |ip: &IpAddr| self.sites.is_own(*ip) || is_private(ip.to_canonical());
        // A proxy of ours is nobody's client. What stands first in the list is the client's own word:
        // the last address that is not ours was seen by a proxy of ours.
        let named = || {
            let list = record.forwarded_for.as_deref().unwrap_or_default();
            let mut named = list.rsplit(',').take(PROXIES_MAX).filter_map(forwarded);
            named.find(|ip| !is_inner(ip))
        };
        let client = match address {
            None => named(),
            Some(peer) if is_inner(&peer) => named(),
            Some(peer) => Some(peer),
        };
        Visit {
            site,
            network: client.map(Network::of),
            crawler: record.user_agent.as_deref().and_then(any_crawler),
        }
    }

    /// The shares as samples: metric, attribute, value.
    pub fn shares(&mut self, shares: &Shares, now: UnixMillis) -> Vec<(&'static str, String, f64)> {
        const TOP: &str = "http.server.request.top_client.share";
        const CRAWLER: &str = "http.server.request.crawler.share";
        let mut values = Vec::new();
        for (network, share) in &shares.networks {
            let name = match self.privacy.client_ip() {
                ClientIp::Full | ClientIp::Prefix => network.to_string(),
                ClientIp::Hash => self.privacy.client(&network.to_string(), now),
                ClientIp::Drop => {
                    // Only how much the largest has.
                    values.push((TOP, String::new(), *share));
                    break;
                }
            };
            values.push((TOP, format!("client.prefix={name}"), *share));
        }
        for (site, share) in &shares.sites {
            if let Some(info) = self.sites.infos().get(*site as usize) {
                values.push((TOP, format!("server.address={}", info.name), *share));
            }
        }
        for (crawler, share) in &shares.crawlers {
            values.push((CRAWLER, format!("gatewatch.crawler={crawler}"), *share));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::config::{PrivacyConfig, QueryString};
    use crate::discover::{Discovery, Site};

    fn judge(client_ip: ClientIp) -> Judge {
        let site = Site { name: "a.example".to_owned(), ..Site::default() };
        let addresses = vec!["192.0.2.1".parse().unwrap()];
        let discovery = Discovery { sites: vec![site], addresses, ..Discovery::default() };
        let privacy = PrivacyConfig { client_ip, query_string: QueryString::Drop };
        Judge::new(&discovery, privacy, 10, TimeZone::UTC)
    }

    #[test]
    fn a_share_names_no_more_of_a_client_than_the_operator_allows() {
        let network = Network::of("198.51.100.77".parse().unwrap());
        let shares = Shares {
            n: 1000,
            networks: vec![(network, 0.71), (Network::of("2001:db8::1".parse().unwrap()), 0.1)],
            sites: vec![(0, 0.9), (77, 0.8)],
            crawlers: vec![("openai", 0.2)],
        };
        let of_site = "server.address=a.example";
        let crawler = "gatewatch.crawler=openai";
        let (v4, v6) = ("client.prefix=198.51.100.0/24", "client.prefix=2001:db8::/48");
        for (wish, want) in [
            (ClientIp::Full, vec![v4, v6, of_site, crawler]),
            (ClientIp::Prefix, vec![v4, v6, of_site, crawler]),
            (ClientIp::Drop, vec!["", of_site, crawler]),
        ] {
            let values = judge(wish).shares(&shares, UnixMillis(0));
            let names: Vec<_> = values.iter().map(|(_, attribute, _)| attribute.as_str()).collect();
            assert_eq!(names, want, "{wish:?}");
            assert_eq!(values[0].2, 0.71);
            for (metric, _, value) in &values {
                let row = wire::catalog::find(metric).expect("it is in the catalog");
                assert!(row.to_wire(*value).is_some());
            }
        }
        let values = judge(ClientIp::Hash).shares(&shares, UnixMillis(0));
        assert_eq!(values[0].1.len(), "client.prefix=".len() + 16);
        assert!(values.iter().all(|(_, attribute, _)| !attribute.contains("198.51")));
    }

    #[test]
    fn behind_a_proxy_of_ours_the_client_is_the_one_that_it_names() {
        let judge = judge(ClientIp::Prefix);
        for (peer, forwarded, want) in [
            ("198.51.100.7", Some("203.0.113.9"), Some("198.51.100.0/24")),
            ("127.0.0.1", Some("203.0.113.9"), Some("203.0.113.0/24")),
            ("192.0.2.1", Some("203.0.113.9"), Some("203.0.113.0/24")),
            ("10.0.0.7", Some("2001:db8:1::9"), Some("2001:db8:1::/48")),
            ("unix:", Some("203.0.113.9"), Some("203.0.113.0/24")),
            // The client invents what stands first; our proxies add who asked them.
            ("10.0.0.7", Some("8.8.8.8, 203.0.113.9"), Some("203.0.113.0/24")),
            ("127.0.0.1", Some("8.8.8.8, 203.0.113.9, 10.0.0.3"), Some("203.0.113.0/24")),
            ("127.0.0.1", Some("8.8.8.8,203.0.113.9,+192.0.2.1"), Some("203.0.113.0/24")),
            ("127.0.0.1", Some("203.0.113.9:4711"), Some("203.0.113.0/24")),
            ("::ffff:10.0.0.7", Some("[2001:db8:1::9]:80"), Some("2001:db8:1::/48")),
            // A proxy of ours is no client.
            ("10.0.0.7", Some("unknown"), None),
            ("10.0.0.7", Some("10.0.0.9"), None),
            ("10.0.0.7", None, None),
            ("192.0.2.1", None, None),
            ("unix:", None, None),
        ] {
            let record = AccessRecord {
                client: Some(peer.into()),
                forwarded_for: forwarded.map(Into::into),
                ..AccessRecord::default()
            };
            let network = judge.visit(0, &record).network.map(|network| network.to_string());
            assert_eq!(network.as_deref(), want, "{peer} {forwarded:?}");
        }
    }
}
