//! PHP-FPM pools: their limits, how busy their sockets are, their workers; and who uses the machine.
//! Sockets and processes are looked at apart.
//!
//! A pool is named by its configuration; where two masters have one of the same name, by name and
//! version of PHP (`www@8.1`), or name and socket. A pool at rest is sampled once a minute while no
//! gateway errors flow, so that hundreds of them cost nothing.

mod crowd;
mod fastcgi;
pub(super) mod fuzzing;
mod status;
mod uses;
mod workers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use wire::UnixMillis;

pub(super) use self::crowd::Crowd;
use self::crowd::Manned;
use self::status::{Page, Pages};
use self::uses::{Address, Sockets, Use};
use super::{Values, is_fast};
use crate::clock;
use crate::discover::{Discovery, Pool};
use crate::gather::GatherStatus;

/// What does not change is said again after this.
const REPEAT_MS: i64 = 60_000;
/// A pool with this share of its workers busy is not asked for its status page.
const BUSY_SHARE: f64 = 0.8;

/// The sockets; see the module.
#[derive(Debug)]
pub(super) struct Pools {
    discovery: watch::Receiver<Arc<Discovery>>,
    gather: watch::Receiver<GatherStatus>,
    is_fresh: bool,
    tracked: Vec<Tracked>,
    sockets: Sockets,
    manned: Manned,
    pages: Pages,
    n_unknown_told: usize,
}

/// One pool and what was said of it last.
#[derive(Debug)]
struct Tracked {
    /// `phpfpm.pool=NAME`
    attribute: String,
    pool: Pool,
    /// Of this instant; `None` when nothing is known of it.
    used: Option<Use>,
    /// Times it was seen with every worker busy and connections waiting.
    n_exhausted: u64,
    is_exhausted: bool,
    said_use: Said<(u32, u32, u64)>,
    said_limits: Said<(Option<u32>, Option<u32>)>,
    /// A status page elsewhere was told of.
    is_page_told: bool,
}

/// A value and when it was sent last.
#[derive(Clone, Copy, Debug)]
struct Said<T>(Option<(T, UnixMillis)>);

impl<T: Copy + PartialEq> Said<T> {
    /// True when it is new or was not sent for a while; notes that it is sent now.
    fn is_due(&mut self, value: T, at: UnixMillis) -> bool {
        let is_known = self.0.is_some_and(|(said, said_at)| {
            said == value && (0..REPEAT_MS).contains(&(at.0 - said_at.0))
        });
        if !is_known {
            self.0 = Some((value, at));
        }
        !is_known
    }
}

/// The two halves.
pub(super) fn new(
    root: PathBuf,
    discovery: watch::Receiver<Arc<Discovery>>,
    gather: watch::Receiver<GatherStatus>,
) -> (Pools, Crowd) {
    let manned = Manned::default();
    let crowd = Crowd::new(root, discovery.clone(), gather.clone(), manned.clone());
    let pools = Pools {
        discovery,
        gather,
        is_fresh: false,
        tracked: Vec::new(),
        sockets: Sockets::default(),
        manned,
        pages: Pages::default(),
        n_unknown_told: 0,
    };
    (pools, crowd)
}

impl Pools {
    /// Samples the sockets, and now and then status pages.
    pub(super) fn sample(&mut self, at: UnixMillis, out: &mut Values) {
        self.refresh();
        let error_at = self.gather.borrow().gateway_error_at;
        let is_fast = is_fast(error_at, at);
        let uses = self.sockets.look(is_fast);
        self.fold_uses(uses, at, is_fast, out);
        self.ask_for_pages();
        out.extend(self.pages.take());
    }

    fn fold_uses(
        &mut self,
        uses: Option<Vec<Option<Use>>>,
        at: UnixMillis,
        is_fast: bool,
        out: &mut Values,
    ) {
        let Some(uses) = uses else {
            // A pool may have filled up since the last look.
            self.tracked.iter_mut().for_each(|tracked| tracked.used = None);
            return;
        };
        for (tracked, used) in self.tracked.iter_mut().zip(uses) {
            tracked.fold_use(used, at, is_fast, out);
        }
    }

    /// Takes over what discovery found; a pool that stays keeps its count.
    fn refresh(&mut self) {
        if std::mem::replace(&mut self.is_fresh, true)
            && !self.discovery.has_changed().unwrap_or(false)
        {
            return;
        }
        let discovery = Arc::clone(&self.discovery.borrow_and_update());
        let mut before: BTreeMap<String, Tracked> =
            self.tracked.drain(..).map(|tracked| (tracked.attribute.clone(), tracked)).collect();
        for (key, pool) in keys(&discovery.pools).into_iter().zip(&discovery.pools) {
            let attribute = format!("phpfpm.pool={key}");
            let known = before.remove(&attribute).filter(|known| known.pool == *pool);
            self.tracked.push(known.unwrap_or_else(|| Tracked::new(attribute, pool.clone())));
        }
        let addresses: Vec<_> =
            self.tracked.iter().map(|tracked| Address::parse(&tracked.pool.listen)).collect();
        let n_unknown = addresses.iter().filter(|address| address.is_none()).count();
        self.sockets.ask(addresses.into_iter());
        if n_unknown > self.n_unknown_told {
            tracing::info!(
                n_unknown,
                fix = "write `listen` as an absolute path, or as an address and a port in numbers",
                "pools listen where it cannot be told: their use is absent"
            );
        }
        self.n_unknown_told = n_unknown;
    }

    fn ask_for_pages(&mut self) {
        let now = clock::instant();
        // A page needs a worker, and only a walk over the processes tells of them.
        if self.pages.is_due(now) && self.manned.is_known() {
            let discovery = Arc::clone(&self.discovery.borrow());
            let (manned, own) = (&self.manned, &discovery.addresses);
            let page = |tracked: &mut Tracked| {
                let has_worker = manned.has(&tracked.attribute, now);
                tracked.page(has_worker, own)
            };
            let pages: Vec<Page> = self.tracked.iter_mut().filter_map(page).collect();
            if !pages.is_empty() {
                self.pages.ask(pages, now);
            }
        }
    }
}

impl Tracked {
    fn new(attribute: String, pool: Pool) -> Self {
        Self {
            attribute,
            pool,
            used: None,
            n_exhausted: 0,
            is_exhausted: false,
            said_use: Said(None),
            said_limits: Said(None),
            is_page_told: false,
        }
    }

    fn push(&self, out: &mut Values, metric: &'static str, value: f64) {
        out.push((metric, self.attribute.clone(), value));
    }

    /// `None`: nobody listens, and there is nothing to say of it.
    fn fold_use(&mut self, used: Option<Use>, at: UnixMillis, is_fast: bool, out: &mut Values) {
        self.used = used;
        let Some(used) = used else {
            (self.is_exhausted, self.said_use) = (false, Said(None));
            return;
        };
        let is_exhausted = self.is_full(&used) && used.n_waiting > 0;
        let began = is_exhausted && !std::mem::replace(&mut self.is_exhausted, is_exhausted);
        self.is_exhausted = is_exhausted;
        self.n_exhausted += u64::from(began);
        let is_at_rest = used.n_accepted == 0 && used.n_waiting == 0;
        let is_due = self.said_use.is_due((used.n_accepted, used.n_waiting, self.n_exhausted), at);
        if is_due || is_fast || !is_at_rest {
            self.push(out, "phpfpm.active_processes", f64::from(used.n_accepted));
            self.push(out, "phpfpm.listen_queue", f64::from(used.n_waiting));
            self.push(out, "phpfpm.max_children_reached", self.n_exhausted as f64);
        }
        let limits = (self.pool.max_children, used.limit.or_else(|| self.queue_limit()));
        if self.said_limits.is_due(limits, at) {
            for (metric, limit) in
                [("phpfpm.max_children", limits.0), ("phpfpm.listen_queue.limit", limits.1)]
            {
                if let Some(limit) = limit {
                    self.push(out, metric, f64::from(limit));
                }
            }
        }
    }

    fn is_full(&self, used: &Use) -> bool {
        self.pool.max_children.is_some_and(|max| max > 0 && used.n_accepted >= max)
    }

    /// As the kernel would cut the configured one; where it does not tell itself.
    fn queue_limit(&self) -> Option<u32> {
        let configured = self.pool.backlog? as u32; // -1: as many as may be
        let text = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?;
        Some(configured.min(text.trim().parse().ok()?))
    }

    /// The status page, unless asking for it could take what a visitor needs. One with an address of
    /// its own has workers of its own. No other machine is asked, whatever a configuration says: the
    /// addresses of this one are `own_addresses`, and loopback.
    fn page(&mut self, has_worker: bool, own_addresses: &[IpAddr]) -> Option<Page> {
        let path = self.pool.status_path.clone().filter(|path| path.starts_with('/'))?;
        let used = self.used?;
        let is_calm = used.n_waiting == 0
            && self
                .pool
                .max_children
                .is_some_and(|max| f64::from(used.n_accepted) + 1.0 <= BUSY_SHARE * f64::from(max));
        let own = self.pool.status_listen.clone();
        if own.is_none() && !(has_worker && is_calm) {
            return None;
        }
        let listen = own.unwrap_or_else(|| self.pool.listen.clone());
        if !is_here(&listen, own_addresses) {
            if !std::mem::replace(&mut self.is_page_told, true) {
                let pool = &self.pool.name;
                tracing::info!(
                    %pool,
                    %listen,
                    fix = "pm.status_listen with an address of this machine, or a path",
                    "status page of a pool is not asked for elsewhere: its counters are absent"
                );
            }
            return None;
        }
        Some(Page {
            attribute: self.attribute.clone(),
            pool: self.pool.name.clone(),
            path,
            listen,
            source: self.pool.source.clone(),
        })
    }
}

/// True when the address is surely one of this machine.
fn is_here(listen: &str, own: &[IpAddr]) -> bool {
    match Address::parse(listen) {
        Some(Address::Unix(_)) => true,
        Some(Address::Tcp(ip, _)) => {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip.is_unspecified() || own.contains(&ip)
        }
        None => false,
    }
}

/// Names that tell pools apart: the name alone where there is one of it.
fn keys(pools: &[Pool]) -> Vec<String> {
    let with_version = |pool: &Pool| match &pool.php_version {
        Some(version) => format!("{}@{version}", pool.name),
        None => pool.name.clone(),
    };
    let (mut n_names, mut n_versions) = (BTreeMap::new(), BTreeMap::new());
    for pool in pools {
        *n_names.entry(pool.name.as_str()).or_insert(0) += 1;
        *n_versions.entry(with_version(pool)).or_insert(0) += 1;
    }
    let key = |pool: &Pool| {
        if n_names[pool.name.as_str()] == 1 {
            return pool.name.clone();
        }
        let name = with_version(pool);
        if n_versions[&name] == 1 && pool.php_version.is_some() {
            return name;
        }
        format!("{}@{}", pool.name, pool.listen)
    };
    pools.iter().map(key).collect()
}

#[cfg(test)]
mod tests;
