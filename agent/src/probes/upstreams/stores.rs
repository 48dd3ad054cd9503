//! Databases and caches: whether they answer, and how many of their connections are taken.
//!
//! MySQL counts and logs who connects and does not log in, so at rest it is not connected to: that it
//! listens the kernel tells, and how many connections it holds too. Only while gateway errors flow,
//! or when nine tenths of its connections are taken, its greeting is read, every 30 s at most; by its
//! Unix socket or over loopback, and there only so often, since MySQL blocks hosts that connect and do
//! not log in.
//!
//! Whoever listens where one usually does is only taken for one when a user of the system does, or
//! its configuration names the place: nothing that a local user says becomes evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use wire::v1::Signal;

use super::connect::Subject;
use super::dial::{Failure, Target, ask};
use super::held::Place;
use super::{Prober, Round, beside, heard, memcached, mysql, out_of_sight, postgres, redis};
use crate::clock;
use crate::discover::Discovery;
use crate::discover::stores::{Store, StoreKind};
use crate::timer::patience;

/// Longest wait for an answer.
const TIMEOUT: Duration = patience(Duration::from_millis(500));
/// Time between two questions to those who make a process or a line of log of each.
const SHY_GAP: Duration = Duration::from_secs(30);
/// Share of connections from which on MySQL is asked whether it has room.
const NEARLY_FULL: f64 = 0.9;
/// MySQL's greeting is read over TCP at most so often in [`TCP_GAP`]: it blocks after 100 times.
const TCP_ASKED_MAX: u32 = 40;
const TCP_GAP: Duration = Duration::from_secs(3600);
/// What it said last says nothing any more after this time.
const STALE: Duration = Duration::from_secs(90);

/// What is remembered of stores, by their names in series.
#[derive(Debug, Default)]
pub(super) struct Stores {
    known: BTreeMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Where it answered or listened.
    address: String,
    asked_at: Option<Instant>,
    /// Since when questions over TCP are counted, and how many there were.
    tcp_asked: Option<(Instant, u32)>,
    /// What the last question came to.
    last: Option<Failure>,
    /// It was told that a stranger listens at its place.
    is_noted: bool,
}

impl Known {
    /// Counts a question to MySQL; false when there were enough.
    fn may_ask(&mut self, address: &str, now: Instant) -> bool {
        if address.starts_with('/') {
            return true;
        }
        let ip = address.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']));
        if !ip.is_some_and(|ip| ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())) {
            return false;
        }
        let is_old = |(since, _): &(Instant, u32)| now.saturating_duration_since(*since) >= TCP_GAP;
        let (since, n) = self.tcp_asked.filter(|asked| !is_old(asked)).unwrap_or((now, 0));
        self.tcp_asked = Some((since, n.saturating_add(1)));
        n < TCP_ASKED_MAX
    }
}

/// What the kernel tells of one.
#[derive(Debug)]
struct Seen {
    address: String,
    listens: Result<(), Signal>,
    n_held: Option<u64>,
}

/// What a store said of itself.
#[derive(Debug, Default)]
struct Told {
    usage: Option<u64>,
    limit: Option<u64>,
    more: Vec<(&'static str, Option<u64>)>,
}

impl Stores {
    /// True for the address of one.
    pub(super) fn has(&self, address: &str) -> bool {
        self.known.values().any(|known| known.address == address)
    }
}

impl Prober {
    /// Looks at each store that runs here.
    pub(super) async fn ask_stores(&mut self, discovery: &Discovery, round: &mut Round) {
        let addresses = discovery.stores.iter().flat_map(Store::addresses).collect();
        let looked: BTreeMap<_, _> = self.look(addresses, discovery).await.into_iter().collect();
        let there: Vec<String> = looked
            .iter()
            .filter(|(_, found)| **found == Some(Ok(())))
            .map(|(a, _)| a.clone())
            .collect();
        let mut places = BTreeMap::new();
        if !there.is_empty() {
            let look = beside(&self.held, move |held| held.look(&there, clock::instant()));
            places = look.await.unwrap_or_default();
        }
        let mut n_of_kind: BTreeMap<StoreKind, usize> = BTreeMap::new();
        let mut named = BTreeSet::new();
        for store in &discovery.stores {
            let n = n_of_kind.entry(store.kind).or_default();
            *n += 1;
            // A second one is told apart by where it listens.
            let mut name = store.kind.name().to_owned();
            if *n > 1 {
                let at = store.addresses().into_iter().next().unwrap_or_default();
                name = format!("{name}@{at}");
            }
            if let Some(seen) = self.see_store(&name, store, &looked, &places) {
                self.ask_store(&name, store, seen, round).await;
            }
            named.insert(name);
        }
        self.stores.known.retain(|name, _| named.contains(name));
    }

    /// Where it listens, or that it no longer does; `None`: it never did.
    fn see_store(
        &mut self,
        name: &str,
        store: &Store,
        looked: &BTreeMap<String, Option<Result<(), Signal>>>,
        places: &BTreeMap<String, Place>,
    ) -> Option<Seen> {
        let all = store.addresses();
        let there = all.iter().filter(|address| looked.get(*address) == Some(&Some(Ok(()))));
        let is_its = |address: &&String| {
            store.names(address) || places.get(*address).is_some_and(|place| place.is_of_system)
        };
        let (its, strange): (Vec<&String>, Vec<&String>) = there.partition(is_its);
        let known = self.stores.known.get_mut(name).filter(|known| !known.address.is_empty());
        let (address, listens) = match (its.first(), known) {
            (Some(address), _) => ((*address).clone(), Ok(())),
            (None, Some(known)) if !strange.contains(&&known.address) => {
                (known.address.clone(), (*looked.get(&known.address)?)?)
            }
            _ => {
                self.note_stranger(name, strange.first()?);
                return None;
            }
        };
        // Those that tell themselves need not be counted.
        if listens.is_err() || matches!(store.kind, StoreKind::Redis | StoreKind::Memcached) {
            return Some(Seen { address, listens, n_held: None });
        }
        let counts = its.iter().map(|address| places.get(*address)?.n_held);
        let n_held = counts.sum::<Option<u64>>();
        Some(Seen { address, listens, n_held })
    }

    fn note_stranger(&mut self, name: &str, address: &str) {
        let known = self.stores.known.entry(name.to_owned()).or_default();
        if !std::mem::replace(&mut known.is_noted, true) {
            tracing::info!(
                what = name,
                address,
                fix = "name its address in its configuration, and let the agent's user read that",
                "not probed: no user of the system listens there"
            );
        }
    }

    async fn ask_store(&mut self, name: &str, store: &Store, seen: Seen, round: &mut Round) {
        let Seen { address, listens, n_held } = seen;
        let limit = store.connections_max.filter(|max| is_plausible(n_held, *max));
        let share = n_held.zip(limit).map(|(n, max)| n as f64 / max.max(1) as f64);
        let is_mysql = store.kind == StoreKind::Mysql;
        let is_shy = is_mysql || store.kind == StoreKind::Postgres;
        let known = self.stores.known.entry(name.to_owned()).or_default();
        known.address.clone_from(&address);
        // One that failed is asked until it does no longer.
        let is_worth = !is_mysql
            || round.is_fast
            || known.last.is_some()
            || share.is_some_and(|share| share >= NEARLY_FULL);
        let age = known.asked_at.map(|at| round.now.saturating_duration_since(at));
        let is_due = is_worth && (!is_shy || age.is_none_or(|age| age >= SHY_GAP));
        let is_asked = listens.is_ok() && is_due;
        let is_asked = is_asked && (!is_mysql || known.may_ask(&address, round.now));
        let subject = Subject {
            title: format!("{name} at {address}"),
            address: address.clone(),
            used_by: String::new(),
            pool: None,
        };
        let mut told = Told { usage: n_held, limit, more: Vec::new() };
        let (result, took) = if listens.is_err() {
            known.last = None;
            (heard(listens), None)
        } else if is_asked && let Some(target) = Target::of(&self.root, &address) {
            known.asked_at = Some(round.now);
            let started = clock::instant();
            let answer = question(store.kind, &target).await;
            let took = started.elapsed();
            // The kernel says that somebody listens.
            let is_hidden = |f: &Failure| f.signal == Some(Signal::NoSuchSocket);
            let answer = answer.map_err(|f| if is_hidden(&f) { out_of_sight() } else { f });
            let known = self.stores.known.entry(name.to_owned()).or_default();
            known.last = answer.as_ref().err().filter(|f| f.signal.is_some()).cloned();
            let answer = answer.map(|answer| {
                told.usage = answer.usage.or(told.usage);
                told.limit = answer.limit.or(told.limit);
                told.more = answer.more;
            });
            (answer, Some(took))
        } else {
            // What it said last holds as long as it would not be asked again.
            let result = match known.last.clone() {
                None => Ok(()),
                Some(_) if age.is_none_or(|age| age >= STALE) => Err(Failure::ours(
                    "it was asked as often as it takes without blocking this host",
                )),
                Some(last) => Err(last),
            };
            (result, None)
        };
        self.note(&subject, &result, took, round);
        let service = format!("service={name}");
        let values = [
            ("db.client.connections.usage", told.usage),
            ("db.client.connections.limit", told.limit.filter(|_| listens.is_ok())),
        ];
        for (metric, value) in values.into_iter().chain(told.more) {
            round.values.extend(value.map(|n| (metric, service.clone(), n as f64)));
        }
    }
}

/// A limit that the connections exceed is not the one that holds. A few more than it are held all the
/// same: one for an administrator, and those that wait or are about to be refused.
fn is_plausible(n_held: Option<u64>, limit: u64) -> bool {
    n_held.is_none_or(|n| n <= limit.saturating_add(limit / 10).saturating_add(2))
}

async fn question(kind: StoreKind, target: &Target) -> Result<Told, Failure> {
    match kind {
        StoreKind::Mysql => {
            let answer = ask(target, b"", TIMEOUT, mysql::BYTES_MAX, mysql::is_whole).await?;
            mysql::parse(&answer).map(|()| Told::default())
        }
        StoreKind::Postgres => {
            let (question, most) = (&postgres::QUESTION, postgres::BYTES_MAX);
            let answer = ask(target, question, TIMEOUT, most, postgres::is_whole).await?;
            postgres::parse(&answer).map(|()| Told::default())
        }
        StoreKind::Redis => {
            let (question, most) = (redis::QUESTION, redis::BYTES_MAX);
            let answer = ask(target, question, TIMEOUT, most, redis::is_whole).await?;
            let clients = redis::parse(&answer)?;
            let more = vec![("redis.clients.blocked", clients.blocked)];
            Ok(Told { usage: clients.connected, limit: clients.limit, more })
        }
        StoreKind::Memcached => {
            let (question, most) = (memcached::QUESTION, memcached::BYTES_MAX);
            let answer = ask(target, question, TIMEOUT, most, memcached::is_whole).await?;
            let stats = memcached::parse(&answer)?;
            let more = vec![
                ("memcached.connections.refused", stats.n_full),
                ("memcached.evictions", stats.n_evictions),
            ];
            Ok(Told { usage: stats.connections, limit: stats.limit, more })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mysql_that_blocks_hosts_is_greeted_over_loopback_alone_and_only_so_often() {
        let (mut known, start) = (Known::default(), clock::instant());
        assert!(!known.may_ask("10.0.0.5:3306", start), "it would count against that host");
        let ask = |known: &mut Known, n: u32, at_s: u64| {
            let now = start + Duration::from_secs(at_s);
            (0..n).filter(|_| known.may_ask("127.0.0.1:3306", now)).count()
        };
        assert_eq!(ask(&mut known, 200, 0), 40);
        assert_eq!(ask(&mut known, 200, 3000), 0);
        assert_eq!(ask(&mut known, 200, 3600), 40);
        assert_eq!((0..200).filter(|_| known.may_ask("/run/m.sock", start)).count(), 200);
    }

    #[test]
    fn a_limit_that_more_connections_than_it_are_held_under_is_not_the_limit() {
        for (n_held, limit, want) in [
            (Some(500), 151, false),
            (Some(500), 2000, true),
            (Some(152), 151, true),
            (Some(11), 10, true),
            (Some(20), 10, false),
            (None, 10, true),
            (Some(u64::MAX), u64::MAX, true),
        ] {
            assert_eq!(is_plausible(n_held, limit), want, "{n_held:?} of {limit}");
        }
    }
}
