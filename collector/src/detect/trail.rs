//! What localisation weighed and why it took or left it: the answer to "why did you page me?".
//!
//! Off by default: nothing is kept, and what would be kept is not even made.

use serde::Serialize;
use wire::UnixMillis;

use super::Fleet;
use crate::model::SiteId;

/// One scope that was weighed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Weighed {
    /// When, on the collector's clock, ms.
    pub at: i64,
    /// Its key, as in the key of its incident: `server:web-07`.
    pub scope: String,
    /// Log odds, nats.
    pub score: f64,
    /// What it needed, nats.
    pub needed: f64,
    /// Sites, or servers for a group, that fail in it.
    pub n_failing: usize,
    /// Those that answer well.
    pub n_well: usize,
    /// Why it was left; `None` when it was taken.
    pub rejected: Option<String>,
}

/// Where the test of one failing site stood when its incident changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// Its server.
    pub server: String,
    /// Its name.
    pub site: String,
    /// Score of the sequential test, nats.
    pub score: f64,
    /// Failure rate that is normal for it.
    pub p_normal: f64,
    /// Smallest failure rate worth waking someone.
    pub p_bad: f64,
    /// Nats that one failure adds.
    pub gain: f64,
    /// Nats that one success takes back.
    pub loss: f64,
    /// Failures, de-duplicated by client and weighed.
    pub n_failed: f64,
    /// Nats that a failed unit, a killed process or a full disk add.
    pub corroboration: f64,
    /// First and newest failure.
    #[serde(with = "wire::rfc3339")]
    pub first_at: UnixMillis,
    /// The newest one: start of its second.
    #[serde(with = "wire::rfc3339")]
    pub last_at: UnixMillis,
}

/// The failing sites of one incident as they stood when it changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Stood {
    /// Id of the incident.
    pub id: String,
    /// When, on the collector's clock, ms.
    pub at: i64,
    /// The first [`SITES_MAX`] of its sites that fail.
    pub sites: Vec<Standing>,
}

/// A list of what was weighed, while somebody wants it.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    is_on: bool,
    weighed: Vec<Weighed>,
    stood: Vec<Stood>,
}

/// Failing sites of one incident that are told.
pub const SITES_MAX: usize = 100;

/// Scopes kept between two calls of `take`.
const WEIGHED_MAX: usize = 10_000;

impl Trail {
    pub(crate) fn start(&mut self) {
        self.is_on = true;
    }

    /// Notes a scope, made only while somebody wants it.
    pub fn note(&mut self, weighed: impl FnOnce() -> Weighed) {
        if self.is_on && self.weighed.len() < WEIGHED_MAX {
            self.weighed.push(weighed());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Weighed> {
        std::mem::take(&mut self.weighed)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Notes where the failing sites of an incident stand.
    pub(crate) fn stand(&mut self, fleet: &Fleet, id: &str, at: i64, sites: &[SiteId]) {
        if self.is_on && self.stood.len() < WEIGHED_MAX {
            let failing = sites.iter().filter_map(|site| standing(fleet, *site));
            let sites = failing.take(SITES_MAX).collect();
            self.stood.push(Stood { id: id.to_owned(), at, sites });
        }
    }

    pub(crate) fn take_stood(&mut self) -> Vec<Stood> {
        std::mem::take(&mut self.stood)
    }
}

fn standing(fleet: &Fleet, id: SiteId) -> Option<Standing> {
    let site = fleet.site(fleet.find(id)?);
    let (server, episode) = (fleet.server(site.server)?, site.episode.as_ref()?);
    let corroboration = server.corroboration(site.pool.as_deref(), episode.first_at);
    Some(Standing {
        server: server.name.clone(),
        site: site.name.clone(),
        score: site.score_then(),
        p_normal: site.rates.p_normal,
        p_bad: site.rates.p_bad,
        gain: site.rates.gain(),
        loss: site.rates.loss(),
        n_failed: episode.n_failed,
        corroboration,
        first_at: UnixMillis(episode.first_at),
        last_at: UnixMillis(episode.last_at),
    })
}
