//! Which services matter here, their states, and the pools they serve.
//!
//! Asked of systemd over D-Bus where systemd runs this machine, else seen from the processes. All
//! states are told once at the start, then the changes. A state a full queue refused is told again
//! in the next round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{FAST_FOR, Outlet, processes, systemd};
use crate::clock;
use crate::discover::{Discovery, Pool};
use crate::gather::GatherStatus;
use crate::window::{Observation, ServiceState};

/// systemd units that stand between a request and its answer.
const UNIT_PATTERNS: [&str; 24] = [
    "nginx*.service",
    "angie*.service",
    "openresty*.service",
    "apache2*.service",
    "httpd*.service",
    "haproxy*.service",
    "caddy*.service",
    "traefik*.service",
    "envoy*.service",
    "lighttpd*.service",
    "lshttpd*.service",
    "lsws*.service",
    "php*fpm*.service",
    "ea-php*fpm*.service",
    "plesk-php*fpm*.service",
    "mysql*.service",
    "mariadb*.service",
    "postgresql*.service",
    "redis*.service",
    "valkey*.service",
    "memcached*.service",
    "varnish*.service",
    "rh-php*fpm*.service",
    "percona-server*.service",
];

/// Names of the processes behind them.
const PROCESS_NAMES: [&str; 21] = [
    "nginx",
    "angie",
    "openresty",
    "apache2",
    "httpd",
    "haproxy",
    "caddy",
    "traefik",
    "envoy",
    "lighttpd",
    "lshttpd",
    "litespeed",
    "openlitespeed",
    "mysqld",
    "mariadbd",
    "postgres",
    "redis-server",
    "valkey-server",
    "memcached",
    "varnishd",
    "php-fpm",
];

/// Watches the services until told to stop.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) root: PathBuf,
    pub(crate) discovery: watch::Receiver<Arc<Discovery>>,
    gather: watch::Receiver<GatherStatus>,
    /// State and pool told last, by unit.
    told: BTreeMap<String, (&'static str, Option<String>)>,
}

impl Watcher {
    pub(crate) fn new(
        root: PathBuf,
        discovery: watch::Receiver<Arc<Discovery>>,
        gather: watch::Receiver<GatherStatus>,
    ) -> Self {
        Self { root, discovery, gather, told: BTreeMap::new() }
    }

    pub(crate) async fn run(mut self, outlet: Outlet, stop: CancellationToken) {
        if self.root == Path::new("/") && systemd::is_running() {
            systemd::watch(&mut self, &outlet, &stop).await;
        } else {
            processes::watch(&mut self, &outlet, &stop).await;
        }
    }

    /// True while gateway errors flow and for a minute after: look more often.
    pub(crate) fn is_fast(&self) -> bool {
        let now = clock::now().0;
        let error_at = self.gather.borrow().gateway_error_at;
        error_at.is_some_and(|at| now - at.0 <= FAST_FOR.as_millis() as i64)
    }

    /// True when this state of the unit was told already, with the pool it serves.
    pub(crate) fn was_told(&self, unit: &str, state: &'static str, pool: Option<&str>) -> bool {
        self.told.get(unit).is_some_and(|told| *told == (state, pool.map(str::to_owned)))
    }

    /// Units told to be anything but stopped.
    pub(crate) fn told_running(&self) -> Vec<String> {
        let running =
            self.told.iter().filter(|(_, (state, _))| !matches!(*state, "inactive" | "failed"));
        running.map(|(unit, _)| unit.clone()).collect()
    }

    /// Tells a state unless it was told already; again when discovery learnt the pool since.
    pub(crate) fn tell(&mut self, outlet: &Outlet, service: ServiceState) {
        let ServiceState { unit, state, pool, .. } = &service;
        if self.was_told(unit, state, pool.as_deref()) {
            return;
        }
        if self.told.contains_key(unit) {
            tracing::debug!(unit, state, "service changed its state");
        }
        let told = (unit.clone(), (*state, pool.clone()));
        if outlet.send(Observation::Service(service)) {
            self.told.insert(told.0, told.1);
        }
    }
}

/// Patterns of unit names for systemd: the usual ones and those discovery named.
pub(crate) fn unit_patterns(services: &[String]) -> Vec<String> {
    let mut patterns: Vec<String> =
        UNIT_PATTERNS.iter().map(|&pattern| pattern.to_owned()).collect();
    for service in services {
        // The name is no pattern: what systemd would read as one cannot be in a unit's name.
        if service.is_empty() || service.contains(['*', '?', '[', '/']) {
            continue;
        }
        let has_type = service.contains('.')
            && [".service", ".socket"].iter().any(|kind| service.ends_with(kind));
        patterns.push(if has_type { service.clone() } else { format!("{service}.service") });
    }
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

/// True for the name of a process (at most 15 bytes of it, as the kernel keeps) that is a service.
pub(crate) fn is_service_process(name: &str, services: &[String]) -> bool {
    let cut = |known: &str| !name.is_empty() && name == &known[..known.floor_char_boundary(15)];
    PROCESS_NAMES.iter().any(|known| cut(known))
        || is_php_fpm(name)
        || services.iter().any(|service| cut(service.trim_end_matches(".service")))
}

/// `php-fpm`, `php-fpm8.2`, `php-fpm82`.
pub(crate) fn is_php_fpm(name: &str) -> bool {
    name.strip_prefix("php-fpm").is_some_and(|version| {
        version.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-')
    })
}

/// The pool a unit serves, if it serves one alone.
pub(crate) fn pool_of_unit(unit: &str, pools: &[Pool]) -> Option<String> {
    let mut served = pools.iter().filter(|pool| pool.unit.as_deref() == Some(unit));
    match (served.next(), served.next()) {
        (Some(pool), None) => Some(pool.name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::UnixMillis;

    fn pool(name: &str, unit: &str) -> Pool {
        Pool { name: name.into(), unit: Some(unit.into()), ..Pool::default() }
    }

    #[test]
    fn a_unit_is_mapped_to_a_pool_only_when_it_serves_one_alone() {
        let pools = [
            pool("www", "php8.2-fpm.service"),
            pool("a", "php7.4-fpm.service"),
            pool("b", "php7.4-fpm.service"),
            Pool { name: "c".into(), ..Pool::default() },
        ];
        let check = |unit: &str, want: Option<&str>| {
            assert_eq!(pool_of_unit(unit, &pools).as_deref(), want, "{unit}");
        };
        check("php8.2-fpm.service", Some("www"));
        check("php7.4-fpm.service", None);
        check("nginx.service", None);
        check("", None);
    }

    #[test]
    fn services_of_discovery_join_the_usual_ones() {
        let services = ["nginx.service", "my-app", "app@1.service", "", "evil*"].map(String::from);
        let patterns = unit_patterns(&services);
        for want in ["nginx.service", "my-app.service", "app@1.service", "php*fpm*.service"] {
            assert!(patterns.iter().any(|pattern| pattern == want), "{want}");
        }
        assert!(!patterns.iter().any(|pattern| pattern.contains("evil")));
        let check = |name: &str, want| {
            assert_eq!(is_service_process(name, &services), want, "{name}");
        };
        check("nginx", true);
        check("my-app", true);
        check("php-fpm8.2", true);
        check("php-fpm", true);
        check("php-fpmish", false);
        check("bash", false);
        check("", false);
    }

    #[test]
    fn a_long_name_is_known_by_its_first_fifteen_bytes() {
        let services = ["a-very-long-service-name.service".to_owned()];
        assert!(is_service_process("a-very-long-ser", &services));
        assert!(!is_service_process("a-very-long", &services));
    }

    #[test]
    fn a_state_is_told_once_and_again_when_the_queue_was_full() {
        let (_keep, discovery) = watch::channel(Arc::new(Discovery::default()));
        let (_keep_too, errors) = watch::channel(GatherStatus::default());
        let mut watcher = Watcher::new("/".into(), discovery, errors);
        let (tx, mut rx) = tokio::sync::mpsc::channel(1);
        let n_dropped = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let outlet = Outlet::new(tx, n_dropped.clone());
        let state = |unit: &str, state| ServiceState {
            unit: unit.into(),
            state,
            pool: None,
            at: UnixMillis(1),
        };
        watcher.tell(&outlet, state("a", "active"));
        watcher.tell(&outlet, state("a", "active"));
        watcher.tell(&outlet, state("b", "active")); // no room
        assert_eq!(n_dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert!(rx.try_recv().is_ok());
        assert!(rx.try_recv().is_err());
        watcher.tell(&outlet, state("b", "active"));
        assert_eq!(rx.try_recv(), Ok(Observation::Service(state("b", "active"))));
        assert_eq!(watcher.told_running(), ["a", "b"]);
        let learnt = ServiceState { pool: Some("www".into()), ..state("a", "active") };
        watcher.tell(&outlet, learnt.clone());
        assert_eq!(rx.try_recv(), Ok(Observation::Service(learnt)));
        watcher.tell(&outlet, state("b", "failed"));
        assert_eq!(watcher.told_running(), ["a"]);
    }
}
