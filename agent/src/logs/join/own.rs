//! The agent's own requests, which its questions to servers of this machine leave in their logs.
//!
//! A question for a status page is nobody's visit and is not counted: a site that nobody visits any
//! more would never be seen to be idle. `HEAD` of a site is one the operator asked for; it counts, but
//! must not keep the agent in haste for ever. Each such failure is a client's of its own: a client that
//! fails again and again may itself be broken, and counts less and less for it, but this one asks at its
//! own pace, and nobody else may ever ask a quiet site.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use memchr::memmem::Finder;

use super::{Judge, Pending};
use crate::discover::Discovery;
use crate::discover::backends::StatusKind;
use crate::logs::AccessRecord;
use crate::logs::scan::Plain;
use crate::own_requests::user_agent;

/// Shortest time between two of its questions for one site, as `[probes] loopback_interval` allows.
const HEAD_EVERY_S: i64 = 10;

/// How own requests are told from others.
pub(super) struct Own {
    /// The addresses its questions for status pages come from; empty where it asks for none.
    askers: Vec<Box<[u8]>>,
    /// What it asks for there.
    paths: Vec<String>,
    agent: Finder<'static>,
}

impl Own {
    pub(super) fn of(discovery: &Discovery) -> Self {
        let pages = discovery.status_pages.iter();
        let pages = pages.filter(|page| page.kind != StatusKind::HaproxySocket);
        let paths = pages.clone().map(|page| page.path.clone()).collect();
        let ips = pages.filter_map(|page| Some(page.address.parse::<SocketAddr>().ok()?.ip()));
        let mut askers: Vec<Box<[u8]>> = ips
            .map(|ip| match ip {
                // Whatever address of loopback is asked, this one asks.
                IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.to_string(),
                ip => ip.to_string(),
            })
            .map(|ip| ip.into_bytes().into())
            .collect();
        askers.sort();
        askers.dedup();
        Self { askers, paths, agent: Finder::new(user_agent()) }
    }

    /// True for a line that may be a question for a status page. Cost: for nearly all, a comparison.
    pub(super) fn may_be(&self, plain: &Plain<'_>) -> bool {
        self.askers.iter().any(|asker| **asker == *plain.client)
            && self.agent.find(plain.raw).is_some()
    }
}

/// Without its query and parameters.
fn cut_query(path: &str) -> &str {
    path.split(['?', ';']).next().unwrap_or_default()
}

impl Pending {
    /// The client that it counts as.
    pub(super) fn asker(&self) -> Cow<'_, str> {
        if self.is_own {
            let nth = self.at.second().div_euclid(HEAD_EVERY_S);
            Cow::Owned(format!("{} {nth}", user_agent()))
        } else {
            Cow::Borrowed(&self.client)
        }
    }
}

impl Judge {
    /// True for a request that the agent made.
    pub(super) fn is_own(&self, record: &AccessRecord<'_>) -> bool {
        let peer = record.client.as_deref().unwrap_or_default();
        record.user_agent.as_deref() == Some(user_agent())
            && peer.parse::<IpAddr>().is_ok_and(|ip| self.sites.is_own(ip))
    }

    /// True for its question for a status page: of another path it is a visit, since sites learn the
    /// agent's name from its `HEAD`.
    #[must_use]
    pub fn is_own_page(&self, record: &AccessRecord<'_>) -> bool {
        let asked = record.path.as_deref().map(cut_query);
        let is_page = || self.own.paths.iter().any(|path| Some(cut_query(path)) == asked);
        record.method.as_deref() == Some("GET") && self.is_own(record) && is_page()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::backends::StatusPage;

    #[test]
    fn only_lines_of_who_asks_for_status_pages_are_looked_at_more_closely() {
        let page = |kind, address: &str| StatusPage {
            kind,
            address: address.to_owned(),
            path: "/s".to_owned(),
            host: "localhost".to_owned(),
            is_tls: false,
            source: String::new(),
        };
        let of = |status_pages| Own::of(&Discovery { status_pages, ..Discovery::default() });
        let may_be = |own: &Own, client: &str, agent: &str| {
            let raw = format!("{client} - - [x] \"GET /s HTTP/1.0\" 200 1 \"-\" \"{agent}\"");
            own.may_be(&Plain {
                raw: raw.as_bytes(),
                host: b"",
                client: client.as_bytes(),
                upstream: b"",
                second: None,
                status: 200,
            })
        };
        let own = of(vec![
            page(StatusKind::Nginx, "127.0.0.8:8080"),
            page(StatusKind::Apache, "192.0.2.7:80"),
            page(StatusKind::HaproxySocket, "/run/haproxy.sock"),
        ]);
        let name = user_agent();
        assert!(may_be(&own, "127.0.0.1", name) && may_be(&own, "192.0.2.7", name));
        assert!(!may_be(&own, "127.0.0.1", "curl/8") && !may_be(&own, "198.51.100.7", name));
        assert!(!may_be(&of(Vec::new()), "127.0.0.1", name), "it asks for none");
    }
}
