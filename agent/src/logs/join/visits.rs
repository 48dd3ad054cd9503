//! Who a request came from, for the shares of clients: as far as the operator allows.

use std::net::IpAddr;

use wire::UnixMillis;

use super::{Judge, is_private};
use crate::config::ClientIp;
use crate::logs::AccessRecord;
use crate::logs::crawler::any_crawler;
use crate::window::clients::{Network, Shares, Visit};

impl Judge {
    /// What the sample keeps of a request: behind a proxy of ours the client that the proxy names.
    #[must_use]
    pub fn visit(&self, site: u32, record: &AccessRecord<'_>) -> Visit {
        let peer = record.client.as_deref().unwrap_or_default();
        let address = peer.parse::<IpAddr>().ok();
        let is_own = address.is_none_or(|ip| self.sites.is_own(ip) || is_private(ip));
        let forwarded = record.forwarded_for.as_deref().filter(|_| is_own);
        let client = forwarded.and_then(|text| text.parse().ok()).or(address);
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
