//! An incident as people see it: its id, where it is, its title and its numbers. Pure.

use std::collections::BTreeSet;

use wire::UnixMillis;

use super::FLAPPING;
use super::case::Case;
use crate::detect::Fleet;
use crate::detect::runbook::{self, About};
use crate::detect::scope::{self, Group, Pool, Scope};
use crate::detect::site::Totals;
use crate::model::{Affected, Incident, Place};

/// Failing sites listed at most; their number is always whole.
const SITES_MAX: usize = 1000;
/// A site is active when it had a request this short before the start, seconds.
const ACTIVE_S: i64 = 600;

/// The ULID of an incident: its first failure, and the first 80 bits of
/// SHA-256(kind, scope key, that time), separated by NUL, the time in decimal milliseconds.
#[must_use]
pub fn id(kind: &str, key: &str, started_at: i64) -> String {
    hashed(&format!("{kind}\0{key}\0{started_at}"), started_at)
}

fn hashed(text: &str, started_at: i64) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let mut bytes = [0; 16];
    bytes[6..].copy_from_slice(&digest.as_ref()[..10]);
    let random = u128::from_be_bytes(bytes);
    ulid::Ulid::from_parts(u64::try_from(started_at).unwrap_or(0), random).to_string()
}

/// The id of an incident whose kind, scope and start another one may have had: an outage that was
/// merged or took another scope keeps its id. Then the hashed text ends in a further NUL and how many
/// had it before.
#[must_use]
pub fn free_id(kind: &str, key: &str, started_at: i64, taken: impl Fn(&str) -> bool) -> String {
    let first = id(kind, key, started_at);
    if !taken(&first) {
        return first;
    }
    let again = (1_u64..).map(|n| hashed(&format!("{kind}\0{key}\0{started_at}\0{n}"), started_at));
    again.into_iter().find(|id| !taken(id)).expect("fewer ids are taken than there are numbers")
}

/// Name of a scope that is the same in every replay.
#[must_use]
pub fn scope_key(fleet: &Fleet, scope: &Scope) -> String {
    let server = |id| fleet.server(id).map_or_else(String::new, |server| server.name.clone());
    match scope {
        Scope::Group(group) => format!("group:{}", group_name(group)),
        Scope::Server(id) => format!("server:{}", server(*id)),
        Scope::Pool(Pool::Local(id, pool)) => format!("pool:{}/{pool}", server(*id)),
        Scope::Pool(Pool::Upstream(address)) => format!("pool:{address}"),
        Scope::Site(id) => {
            let site = fleet.find(*id).map(|ix| fleet.site(ix));
            site.map_or_else(String::new, |s| format!("site:{}/{}", server(s.server), s.name))
        }
    }
}

/// `region=eu image=deb12`, `all`, or the change of a cohort.
#[must_use]
pub fn group_name(group: &Group) -> String {
    match group {
        Group::All => "all".to_owned(),
        Group::Labels(labels) => {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            pairs.join(" ")
        }
        Group::Cohort(change, _) => format!("changed {change}"),
    }
}

/// A scope in words, for the timeline.
#[must_use]
pub fn place_name(fleet: &Fleet, scope: &Scope) -> String {
    let key = scope_key(fleet, scope);
    match key.split_once(':') {
        Some((kind, name)) => format!("{kind} {name}"),
        None => key,
    }
}

/// The pool that all these sites share; `None` when they do not, or it is unknown.
#[must_use]
pub fn shared_pool(fleet: &Fleet, sites: &[u32]) -> Option<String> {
    let first = fleet.site(*sites.first()?).place.as_ref()?;
    let shared = sites.iter().all(|ix| fleet.site(*ix).place.as_ref() == Some(first));
    shared.then(|| first.name().to_owned())
}

/// The one pool of a server; `None` when it has several, or none is known.
fn only_pool(fleet: &Fleet, scope: &Scope) -> Option<String> {
    let Scope::Server(id) = scope else { return None };
    let sites = &fleet.server(*id)?.sites;
    let places = sites.iter().filter_map(|ix| fleet.site(*ix).place.as_ref());
    let pools: BTreeSet<&Pool> = places.collect();
    let mut pools = pools.into_iter();
    match (pools.next(), pools.next()) {
        (Some(pool), None) => Some(pool.name().to_owned()),
        _ => None,
    }
}

/// The status that most gateway errors had; 502 when there are none.
#[must_use]
pub fn dominant_status(totals: &Totals) -> u16 {
    let Totals { n_502, n_503, n_504, .. } = *totals;
    match () {
        () if n_503 > n_502 && n_503 >= n_504 => 503,
        () if n_504 > n_502 => 504,
        () => 502,
    }
}

/// The object of the contract.
#[must_use]
pub(super) fn incident(kind: &str, case: &Case, fleet: &Fleet, now: i64) -> Incident {
    let members = case.positions(fleet);
    let pool = shared_pool(fleet, &members);
    let about = About { fleet, members: &members, pool: pool.as_deref(), verdict: &case.verdict };
    let affected = affected(case, fleet, &members);
    Incident {
        id: case.id.clone(),
        kind: kind.to_owned(),
        state: if case.is_open() { "open" } else { "resolved" }.to_owned(),
        severity: case.severity().to_owned(),
        scope: case.scope.name().to_owned(),
        place: place(case, fleet, &members),
        title: title(case, fleet, &affected, &runbook::phrase(&about, !case.is_open())),
        started_at: UnixMillis(case.started_at),
        detected_at: UnixMillis(case.detected_at),
        resolved_at: case.resolved_at.map(UnixMillis),
        updated_at: UnixMillis(now),
        retroactive: case.retroactive,
        affected,
        cause: case.verdict.to_cause(),
        change: case.verdict.change.clone(),
        actions: runbook::actions(&about),
        parent: case.parent.clone(),
        children: case.children.clone(),
        acked_by: None,
        silenced: false,
        timeline: case.timeline.clone(),
    }
}

fn place(case: &Case, fleet: &Fleet, members: &[u32]) -> Place {
    let names: BTreeSet<&str> = members
        .iter()
        .filter_map(|ix| fleet.server(fleet.site(*ix).server))
        .map(|server| server.name.as_str())
        .collect();
    let server = match (names.len(), names.first()) {
        (1, Some(name)) => Some((*name).to_owned()),
        _ => None,
    };
    let (pool, members_named) = match &case.scope {
        Scope::Group(group) => {
            let servers = fleet.members(group).into_iter().filter_map(|id| fleet.server(id));
            (None, servers.map(|server| server.name.clone()).collect())
        }
        Scope::Server(_) => {
            (only_pool(fleet, &case.scope), names.iter().map(|&name| name.to_owned()).collect())
        }
        Scope::Pool(Pool::Local(_, pool) | Pool::Upstream(pool)) => {
            (Some(pool.clone()), names.iter().map(|name| format!("{name}/{pool}")).collect())
        }
        Scope::Site(_) => {
            let site = |ix: &u32| {
                let site = fleet.site(*ix);
                Some(format!("{}/{}", fleet.server(site.server)?.name, site.name))
            };
            (None, members.iter().filter_map(site).collect())
        }
    };
    let mut sites: Vec<String> = members.iter().map(|ix| fleet.site(*ix).name.clone()).collect();
    sites.sort();
    sites.truncate(SITES_MAX);
    let place = Place { server, pool, members: members_named, sites, ..Place::default() };
    match &case.scope {
        Scope::Group(Group::Labels(labels)) if labels.len() == 1 => {
            let (label, value) = labels
                .first_key_value()
                .map_or((None, None), |(k, v)| (Some(k.clone()), Some(v.clone())));
            Place { server: None, label, value, ..place }
        }
        Scope::Group(Group::Labels(labels)) => {
            Place { server: None, labels: Some(labels.clone()), ..place }
        }
        Scope::Group(_) => Place { server: None, ..place },
        _ => place,
    }
}

fn affected(case: &Case, fleet: &Fleet, members: &[u32]) -> Affected {
    let servers: BTreeSet<_> = members.iter().map(|ix| fleet.site(*ix).server).collect();
    let since = case.started_at.div_euclid(1000) - ACTIVE_S;
    let is_active = |ix: &&u32| fleet.site(**ix).last_request >= since;
    let in_scope: Vec<u32> = match &case.scope {
        Scope::Group(group) => {
            let servers = fleet.members(group).into_iter().filter_map(|id| fleet.server(id));
            servers.flat_map(|server| server.sites.iter().copied()).collect()
        }
        Scope::Server(id) => fleet.server(*id).map_or_else(Vec::new, |s| s.sites.clone()),
        Scope::Pool(Pool::Upstream(address)) => fleet.users(address).to_vec(),
        Scope::Pool(Pool::Local(id, _)) => {
            let sites = fleet.server(*id).map_or_else(Vec::new, |s| s.sites.clone());
            sites.into_iter().filter(|ix| scope::holds_site(fleet, &case.scope, *ix)).collect()
        }
        Scope::Site(_) => members.to_vec(),
    };
    let n_sites = members.len() as u64;
    let n_active = in_scope.iter().filter(is_active).count() as u64;
    let totals = case.totals();
    Affected {
        n_sites,
        n_sites_active: n_active.max(n_sites),
        n_servers: servers.len() as u64,
        n_requests: totals.n,
        n_gateway_errors: totals.failed(),
        n_502: totals.n_502,
        n_503: totals.n_503,
        n_504: totals.n_504,
        n_crawler: totals.n_crawler,
    }
}

/// "37 of 41 sites on web-07 fail with 502 since 12:01:07: PHP-FPM pool www is exhausted".
fn title(case: &Case, fleet: &Fleet, affected: &Affected, why: &str) -> String {
    let server = |id| fleet.server(id).map_or("", |server| server.name.as_str());
    let many = format!("{} of {} sites", affected.n_sites, affected.n_sites_active);
    let who = match &case.scope {
        Scope::Group(group) => in_group(group, fleet, affected),
        Scope::Site(id) => fleet.find(*id).map_or_else(String::new, |ix| {
            let site = fleet.site(ix);
            format!("{} on {}", site.name, server(site.server))
        }),
        Scope::Pool(Pool::Local(id, pool)) => {
            format!("{many} of pool {pool} on {}", server(*id))
        }
        Scope::Pool(Pool::Upstream(address)) => {
            format!("{many} on {} servers that use {address}", affected.n_servers)
        }
        Scope::Server(id) => format!("{many} on {}", server(*id)),
    };
    let status = dominant_status(&case.totals());
    let one = matches!(case.scope, Scope::Site(_)) || affected.n_sites == 1;
    let from = clock(case.started_at);
    let flaps = if case.reopens >= FLAPPING { " (flapping)" } else { "" };
    if case.is_open() {
        let fails = if one { "fails" } else { "fail" };
        return format!("{who} {fails} with {status} since {from}: {why}{flaps}");
    }
    let until = clock(case.recovery.last_failed());
    format!("{who} failed with {status} from {from} to {until}: {why}{flaps}")
}

/// "all 14 servers of hypervisor hv-3", with the sites where not about all of them fail.
fn in_group(group: &Group, fleet: &Fleet, affected: &Affected) -> String {
    let (n, n_all) = (affected.n_servers, fleet.members(group).len() as u64);
    let servers = if n >= n_all { format!("all {n}") } else { format!("{n} of {n_all}") };
    let place = match group {
        Group::All => "of the fleet".to_owned(),
        Group::Labels(labels) => {
            let named: Vec<String> = labels.iter().map(|(k, v)| format!("{k} {v}")).collect();
            format!("of {}", named.join(" and "))
        }
        Group::Cohort(change, _) => match change.split_once(' ') {
            Some((kind, what)) => format!("with the {kind} change {what}"),
            None => format!("with the change {change}"),
        },
    };
    let sites = affected.n_sites;
    if sites * 10 >= affected.n_sites_active * 9 || sites <= n {
        return format!("{servers} servers {place}");
    }
    format!("{sites} of {} sites on {servers} servers {place}", affected.n_sites_active)
}

/// Time of day, UTC.
pub(super) fn clock(at: i64) -> String {
    let second = at.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}
