//! What most stories start with: a web server with two pools, an agent that discovers it, a collector.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use harness::{
    AgentSpec, Apache, Fleet, FleetBuilder, Incident, Load, Nginx, PhpFpm, Pool, Root, Seen, Vhost,
    eventually, now_ms,
};

/// Long enough for a busy machine; nothing waits for it when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The web server in front.
#[derive(Debug)]
pub(crate) enum Front {
    Nginx(Nginx),
    Apache(Apache),
}

/// One server with real sites, watched by one agent named `web-1`.
#[derive(Debug)]
pub(crate) struct Farm {
    pub(crate) fleet: Fleet,
    pub(crate) front: Front,
    pub(crate) php: PhpFpm,
    pub(crate) vhosts: Vec<Vhost>,
    _root: Root,
}

impl Farm {
    /// nginx with 12 sites: 7 on pool www, 5 on pool `shop`.
    pub(crate) fn nginx(shop: Pool) -> Self {
        let vhosts = [Vhost::many("www", 7), Vhost::many("shop", 5)].concat();
        Self::build(vhosts, &[Pool::new("www"), shop], true, Fleet::builder())
    }

    /// nginx with 12 sites, all on the only pool.
    pub(crate) fn nginx_with_one_pool(fleet: FleetBuilder) -> Self {
        Self::build(Vhost::many("www", 12), &[Pool::new("www")], true, fleet)
    }

    /// nginx with so many sites on the pools www and shop; a pool without a site does not exist.
    pub(crate) fn nginx_with(n_www: usize, n_shop: usize, fleet: FleetBuilder) -> Self {
        let vhosts = [Vhost::many("www", n_www), Vhost::many("shop", n_shop)].concat();
        let has_sites = |pool: &&str| vhosts.iter().any(|vhost| vhost.pool == *pool);
        let pools: Vec<Pool> =
            ["www", "shop"].into_iter().filter(has_sites).map(Pool::new).collect();
        Self::build(vhosts, &pools, true, fleet)
    }

    /// Apache with 7 sites on pool www and 5 on pool shop, through mod_proxy_fcgi.
    pub(crate) fn apache() -> Self {
        let vhosts = [Vhost::many("www", 7), Vhost::many("shop", 5)].concat();
        Self::build(vhosts, &[Pool::new("www"), Pool::new("shop")], false, Fleet::builder())
    }

    fn build(vhosts: Vec<Vhost>, pools: &[Pool], nginx: bool, fleet: FleetBuilder) -> Self {
        let root = Root::new();
        let php = PhpFpm::start(&root, pools);
        let front = if nginx {
            Front::Nginx(Nginx::start(&root, &vhosts))
        } else {
            Front::Apache(Apache::start(&root, &vhosts))
        };
        let fleet = fleet.agent(AgentSpec::new("web-1").root(&root)).start();
        Self { fleet, front, php, vhosts, _root: root }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match &self.front {
            Front::Nginx(nginx) => nginx.address(),
            Front::Apache(apache) => apache.address(),
        }
    }

    pub(crate) fn the_nginx(&self) -> &Nginx {
        match &self.front {
            Front::Nginx(nginx) => nginx,
            Front::Apache(_) => panic!("this farm has Apache in front"),
        }
    }

    /// Names of the sites of a pool.
    pub(crate) fn sites_of(&self, pool: &str) -> Vec<String> {
        self.vhosts.iter().filter(|v| v.pool == pool).map(|v| v.name.clone()).collect()
    }

    /// Names of all sites.
    pub(crate) fn sites(&self) -> Vec<String> {
        self.vhosts.iter().map(|v| v.name.clone()).collect()
    }

    /// Steady traffic on all sites, once every site has a past of a few good answers.
    pub(crate) fn load(&self, per_second: f64, path: &str) -> Load {
        let load = Load::start(self.address(), &self.sites(), per_second, path);
        eventually("every site has a past in the database", LIMIT, || {
            let stored = self.fleet.db().requests("web-1");
            let young = |site: &&String| stored.get(&((*site).clone(), 200)).is_none_or(|n| *n < 8);
            let young: Vec<_> = self.sites().iter().filter(young).cloned().collect();
            if young.is_empty() { Ok(()) } else { Err(format!("without a past: {young:?}")) }
        });
        load
    }

    /// The database holds exactly what the clients saw: nothing lost, nothing repeated.
    pub(crate) fn assert_exact(&self, seen: &Seen) {
        assert_eq!(seen.n_status(0), 0, "every request got an answer");
        let truth = seen.by_site_and_status();
        eventually("the database holds what the clients saw", LIMIT, || {
            let stored = self.fleet.db().requests("web-1");
            let diff = difference(&truth, &stored);
            if diff.is_empty() { Ok(()) } else { Err(diff) }
        });
        assert_eq!(self.fleet.db().n_gaps(), Ok(0));
    }

    /// Stops the agent, which drains, and compares again: what came late would show now.
    pub(crate) fn assert_exact_after_drain(&mut self, seen: &Seen) {
        self.assert_exact(seen);
        self.fleet.agent_mut("web-1").stop();
        let stored = self.fleet.db().requests("web-1");
        assert_eq!(difference(&seen.by_site_and_status(), &stored), "");
        for (key, n) in self.fleet.db().loss("web-1") {
            let harmless = key == "n_exemplars_dropped" || key == "n_lines_other" || n == 0;
            assert!(harmless, "the loss ledger says {key} = {n}");
        }
    }

    /// Nothing but the incidents in `ids` was ever told as an incident of its own.
    pub(crate) fn assert_only(&self, ids: &[&str]) {
        let all = self.fleet.incidents().expect("incidents can be listed");
        let tops: Vec<_> = all.iter().filter(|i| i.is_top()).map(Incident::id).collect();
        assert_eq!(tops, ids, "{all:#?}");
    }

    /// Nothing that went before opened an incident.
    ///
    /// Silence of a detector that lags or sleeps would prove nothing, so pool www then really fails:
    /// its incident comes after everything before it was judged, and must be the only one.
    pub(crate) fn assert_nothing_opened(&mut self) {
        let path = if matches!(self.front, Front::Apache(_)) { "/index.php" } else { "/" };
        let truth = now_ms();
        self.php.stop_pool("www");
        let load = Load::start(self.address(), &self.sites(), 4.0, path);
        let real = self.fleet.incident("the real outage opens", LIMIT, |i| {
            i.scope() == "pool" && i.text("/where/pool") == "www"
        });
        drop(load.stop());
        assert!(real.at_ms("/started_at") >= truth - 2000, "{}", real.json());
        self.assert_only(&[real.id()]);
    }
}

/// Waits until clients have seen `n` responses with this status.
pub(crate) fn until_seen(load: &Load, status: u16, n: u64) {
    eventually(&format!("clients saw {n} responses {status}"), LIMIT, || {
        let seen = load.seen().n_status(status);
        if seen >= n { Ok(()) } else { Err(format!("{seen}")) }
    });
}

/// What differs, one line per (site, status); empty when nothing does.
pub(crate) fn difference(
    truth: &BTreeMap<(String, u32), u64>,
    stored: &BTreeMap<(String, u32), u64>,
) -> String {
    let mut keys: Vec<_> = truth.keys().chain(stored.keys()).collect();
    keys.sort();
    keys.dedup();
    let lines: Vec<_> = keys
        .into_iter()
        .map(|key| (key, truth.get(key).unwrap_or(&0), stored.get(key).unwrap_or(&0)))
        .filter(|(_, seen, stored)| seen != stored)
        .map(|((site, status), seen, stored)| {
            format!("{site} {status}: clients saw {seen}, stored {stored}")
        })
        .collect();
    lines.join("\n")
}
