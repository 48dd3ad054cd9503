//! Servers and sites that the detector knows, found by id, by what serves them and by what goes on there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Serialize};

use super::scope;
use super::server::Server;
use super::site::Site;
use crate::model::{ServerId, SiteId};

/// Hashes ids, which the store gives out one after the other: one multiplication (Knuth, The Art of
/// Computer Programming 6.4).
#[derive(Clone, Copy, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_i64(&mut self, id: i64) {
        self.write_u64(id.cast_unsigned());
    }

    fn finish(&self) -> u64 {
        // The table takes its place from the low bits, the multiplication leaves the best ones high.
        self.0.rotate_left(32)
    }
}

/// Servers and sites the detector knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    pub(super) sites: Vec<Site>,
    pub(crate) servers: BTreeMap<ServerId, Server>,
    #[serde(skip)]
    pub(super) index: HashMap<SiteId, u32, BuildHasherDefault<IdHasher>>,
    #[serde(skip)]
    pub(super) by_upstream: BTreeMap<String, Vec<u32>>,
    /// Sites of each server that may be in the middle of an episode; the others are not.
    #[serde(skip)]
    pub(super) suspects: BTreeMap<ServerId, BTreeSet<u32>>,
    /// Counts changes of servers and labels.
    #[serde(skip)]
    pub(super) revision: u64,
}

impl Fleet {
    /// The site at a position.
    #[must_use]
    pub fn site(&self, ix: u32) -> &Site {
        &self.sites[ix as usize]
    }

    pub(crate) fn site_mut(&mut self, ix: u32) -> &mut Site {
        &mut self.sites[ix as usize]
    }

    /// Position of a site.
    #[must_use]
    pub fn find(&self, id: SiteId) -> Option<u32> {
        self.index.get(&id).copied()
    }

    /// A server.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(&id)
    }

    /// Rises whenever a server or its labels change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn changed(&mut self) {
        self.revision += 1;
    }

    /// Sites of a server in the middle of an episode of failures.
    pub(crate) fn suspects(&self, id: ServerId) -> impl Iterator<Item = u32> {
        let sites = self.suspects.get(&id).into_iter().flatten().copied();
        sites.filter(|ix| self.site(*ix).episode.is_some())
    }

    /// All servers with such sites whose last failure arrived since `since`, ms, with their sites.
    pub(crate) fn all_suspects(&self, since: i64) -> BTreeMap<ServerId, Vec<u32>> {
        let recent = |ix: &u32| {
            let episode = self.site(*ix).episode.as_ref();
            episode.is_some_and(|episode| episode.last_arrival >= since)
        };
        let of = |(id, sites): (&ServerId, &BTreeSet<u32>)| {
            let sites: Vec<u32> = sites.iter().copied().filter(recent).collect();
            (!sites.is_empty()).then_some((*id, sites))
        };
        self.suspects.iter().filter_map(of).collect()
    }

    /// Forgets sites that are suspect no more: whose failures are answered, or so long ago that they
    /// say nothing any more.
    pub(super) fn prune_suspects(&mut self, now: i64) {
        let Self { sites, suspects, servers, .. } = self;
        suspects.retain(|id, of| {
            let known = servers.get(id).map_or(i64::MIN, Server::known_until).div_euclid(1000);
            of.retain(|ix| {
                let site = &mut sites[*ix as usize];
                site.fade(known, now);
                site.episode.is_some()
            });
            !of.is_empty()
        });
    }

    /// All sites that use an upstream on another machine.
    #[must_use]
    pub fn users(&self, address: &str) -> &[u32] {
        self.by_upstream.get(address).map_or(&[], Vec::as_slice)
    }

    /// Whether a server belongs to a group.
    #[must_use]
    pub fn is_in(&self, group: &scope::Group, id: ServerId) -> bool {
        let Some(server) = self.server(id).filter(|server| !server.forgotten) else { return false };
        match group {
            scope::Group::All => true,
            scope::Group::Labels(wanted) => {
                wanted.iter().all(|(k, v)| server.labels.get(k) == Some(v))
            }
            scope::Group::Cohort(_, members) => members.contains(&id),
        }
    }

    /// The servers of a group.
    #[must_use]
    pub fn members(&self, group: &scope::Group) -> BTreeSet<ServerId> {
        self.servers.keys().copied().filter(|id| self.is_in(group, *id)).collect()
    }

    pub(super) fn reindex(&mut self) {
        self.index = (0_u32..).zip(&self.sites).map(|(ix, site)| (site.id, ix)).collect();
        self.by_upstream.clear();
        self.suspects.clear();
        for ix in 0..self.sites.len() as u32 {
            self.index_upstream(ix);
            let site = self.site(ix);
            if site.episode.is_some() {
                self.suspects.entry(site.server).or_default().insert(ix);
            }
        }
    }

    /// Files a site under what serves it now.
    pub(super) fn place(&mut self, ix: u32) {
        self.displace(ix);
        let site = self.site_mut(ix);
        site.place = scope::pool_of(site);
        self.index_upstream(ix);
    }

    pub(super) fn index_upstream(&mut self, ix: u32) {
        if let Some(scope::Pool::Upstream(address)) = &self.sites[ix as usize].place {
            let users = self.by_upstream.entry(address.clone()).or_default();
            if let Err(place) = users.binary_search(&ix) {
                users.insert(place, ix);
            }
        }
    }

    pub(super) fn displace(&mut self, ix: u32) {
        if let Some(scope::Pool::Upstream(address)) = &self.sites[ix as usize].place
            && let Some(users) = self.by_upstream.get_mut(address)
        {
            users.retain(|user| *user != ix);
            if users.is_empty() {
                let address = address.clone();
                self.by_upstream.remove(&address);
            }
        }
    }
}
