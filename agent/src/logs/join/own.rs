//! The agent's own requests, which its questions to servers of this machine leave in their logs.
//!
//! A question for a status page is nobody's visit and is not counted: a site that nobody visits any
//! more would never be seen to be idle. `HEAD` of a site is one the operator asked for; it counts, as
//! one client's, but must not keep the agent in haste for ever.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use memchr::memmem::Finder;

use super::Judge;
use crate::discover::Discovery;
use crate::discover::backends::StatusKind;
use crate::logs::AccessRecord;
use crate::logs::scan::Plain;
use crate::own_requests::user_agent;

/// How own requests are told from others.
pub(super) struct Own {
    /// The addresses its questions for status pages come from; empty where it asks for none.
    askers: Vec<Box<[u8]>>,
    agent: Finder<'static>,
}

impl Own {
    pub(super) fn of(discovery: &Discovery) -> Self {
        let pages = discovery.status_pages.iter();
        let pages = pages.filter(|page| page.kind != StatusKind::HaproxySocket);
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
        Self { askers, agent: Finder::new(user_agent()) }
    }

    /// True for a line that may be a question for a status page. Cost: for nearly all, a comparison.
    pub(super) fn may_be(&self, plain: &Plain<'_>) -> bool {
        self.askers.iter().any(|asker| **asker == *plain.client)
            && self.agent.find(plain.raw).is_some()
    }
}

impl Judge {
    /// True for a request that the agent made.
    pub(super) fn is_own(&self, record: &AccessRecord<'_>) -> bool {
        let peer = record.client.as_deref().unwrap_or_default();
        record.user_agent.as_deref() == Some(user_agent())
            && peer.parse::<IpAddr>().is_ok_and(|ip| self.sites.is_own(ip))
    }

    /// True for its question for a status page.
    #[must_use]
    pub fn is_own_page(&self, record: &AccessRecord<'_>) -> bool {
        record.method.as_deref() == Some("GET") && self.is_own(record)
    }
}
