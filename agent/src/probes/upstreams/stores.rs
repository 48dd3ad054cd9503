//! Databases and caches: whether they answer, and how many of their connections are taken.
//!
//! MySQL counts and logs who connects and does not log in, so at rest it is not connected to: that it
//! listens the kernel tells, and how many connections it holds too. Only while gateway errors flow,
//! or when nine tenths of its connections are taken, its greeting is read, every 30 s at most; by its
//! Unix socket where it has one, since failed logins over TCP would block the host in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wire::v1::Signal;

use super::connect::Subject;
use super::dial::{Failure, Target, ask};
use super::{Prober, Round, heard, held, memcached, mysql, postgres, redis};
use crate::clock;
use crate::discover::Discovery;
use crate::discover::stores::{Store, StoreKind};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Time between two questions to those who make a process or a line of log of each.
const SHY_GAP: Duration = Duration::from_secs(30);
/// Share of connections from which on MySQL is asked whether it has room.
const NEARLY_FULL: f64 = 0.9;

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
    /// What the last question came to.
    last: Option<Failure>,
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
        let mut n_of_kind: BTreeMap<StoreKind, usize> = BTreeMap::new();
        for store in &discovery.stores {
            let n = n_of_kind.entry(store.kind).or_default();
            *n += 1;
            // A second one is told apart by where it listens.
            let mut name = store.kind.name().to_owned();
            if *n > 1 {
                let at = store.addresses().into_iter().next().unwrap_or_default();
                name = format!("{name}@{at}");
            }
            if let Some(seen) = self.see_store(&name, store, &looked).await {
                self.ask_store(&name, store, seen, round).await;
            }
        }
    }

    /// Where it listens, or that it no longer does; `None`: it never did.
    async fn see_store(
        &mut self,
        name: &str,
        store: &Store,
        looked: &BTreeMap<String, Option<Result<(), Signal>>>,
    ) -> Option<Seen> {
        let listens_at = |address: &String| looked.get(address) == Some(&Some(Ok(())));
        let all: Vec<String> = store.addresses().into_iter().filter(listens_at).collect();
        let known = self.stores.known.get(name).map(|known| &known.address);
        let (address, listens) = match (all.first(), known) {
            (Some(address), _) => (address.clone(), Ok(())),
            (None, Some(known)) => (known.clone(), (*looked.get(known)?)?),
            (None, None) => return None,
        };
        // Those that tell themselves need not be counted.
        if listens.is_err() || matches!(store.kind, StoreKind::Redis | StoreKind::Memcached) {
            return Some(Seen { address, listens, n_held: None });
        }
        let root = self.root.clone();
        let n_held = tokio::task::spawn_blocking(move || count_held(&all, &root)).await;
        Some(Seen { address, listens, n_held: n_held.ok().flatten() })
    }

    async fn ask_store(&mut self, name: &str, store: &Store, seen: Seen, round: &mut Round) {
        let Seen { address, listens, n_held } = seen;
        let limit = store.limit();
        let share = n_held.zip(limit).map(|(n, max)| n as f64 / max.max(1) as f64);
        let is_worth = store.kind != StoreKind::Mysql
            || round.is_fast
            || share.is_some_and(|share| share >= NEARLY_FULL);
        let is_shy = matches!(store.kind, StoreKind::Mysql | StoreKind::Postgres);
        let known = self.stores.known.entry(name.to_owned()).or_default();
        known.address.clone_from(&address);
        let age = known.asked_at.map(|at| round.now.saturating_duration_since(at));
        let is_due = is_worth && (!is_shy || age.is_none_or(|age| age >= SHY_GAP));
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
        } else if is_due && let Some(target) = Target::of(&self.root, &address) {
            known.asked_at = Some(round.now);
            let started = clock::instant();
            let answer = question(store.kind, &target).await;
            let took = started.elapsed();
            let known = self.stores.known.entry(name.to_owned()).or_default();
            known.last = answer.as_ref().err().cloned();
            let answer = answer.map(|answer| {
                told.usage = answer.usage.or(told.usage);
                told.limit = answer.limit.or(told.limit);
                told.more = answer.more;
            });
            (answer, Some(took))
        } else {
            // What it said last holds as long as it would not be asked again.
            let last = known.last.clone().filter(|_| is_worth);
            (last.map_or(Ok(()), Err), None)
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

/// Connections held at all addresses of one store; `None` when one cannot be told.
fn count_held(addresses: &[String], root: &Path) -> Option<u64> {
    let mut n = 0;
    for address in addresses {
        if !address.starts_with('/') {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())?;
            n += held::tcp(port)?;
            continue;
        }
        // The kernel has a socket under the name it was bound by.
        let mut names = vec![PathBuf::from(address), root.join(address.trim_start_matches('/'))];
        names.extend(address.strip_prefix("/run/").map(|rest| format!("/var/run/{rest}").into()));
        names.extend(Path::new(address).canonicalize());
        names.sort();
        names.dedup();
        for name in names {
            n += held::unix(&name.to_string_lossy())?;
        }
    }
    Some(n)
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
