//! Fleets of many servers: fed ones, whose traffic is written, and real boxes with a web server each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use harness::{
    AgentSpec, Apache, FedServer, Fleet, FleetBuilder, Haproxy, HaproxyLog, Incident, Load, Nginx,
    PhpFpm, Pool, ProxySite, Root, Seen, Told, Traffic, Upstream, Vhost, Volley, Webhook,
    eventually, loopback,
};

/// Many agents on few processors: nothing waits for it when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// For `collector.toml`: servers that fail together are an incident each.
pub(crate) const NO_GROUPS: &str = "[detect]\ngroup_servers_min = 1000\n";

/// A collector that tells `webhook` all there is, and has a batch from each agent twice a second.
pub(crate) fn told_to(webhook: &Webhook) -> FleetBuilder {
    Fleet::builder().batch_interval("500ms").toml(&webhook.toml())
}

/// `n` fed servers, named from `first` on, with one pool of `n_sites` each and the same labels.
pub(crate) fn fed(
    first: usize,
    n: usize,
    n_sites: usize,
    labels: &str,
) -> Vec<(FedServer, String)> {
    let server = |i| FedServer::new(&format!("web-{i:02}"), &[("www", n_sites)]);
    (first..first + n).map(|i| (server(i), labels.to_owned())).collect()
}

/// Fed servers with their agents, their traffic, and somebody who is paged.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) traffic: Traffic,
    pub(crate) fleet: Fleet,
    pub(crate) webhook: Webhook,
    pub(crate) servers: Vec<FedServer>,
}

impl Estate {
    /// Servers and their labels (`hypervisor=hv-1 region=eu`); each site is asked `per_second` times
    /// a second, and has a past of ten good answers.
    pub(crate) fn start(servers: Vec<(FedServer, String)>, per_second: f64) -> Self {
        Self::with(servers, per_second, "")
    }

    /// The same with more lines of `collector.toml`.
    pub(crate) fn with(servers: Vec<(FedServer, String)>, per_second: f64, toml: &str) -> Self {
        let webhook = Webhook::start(0);
        let mut builder = told_to(&webhook).toml(toml);
        for (server, labels) in &servers {
            let agent = server.agent().toml("[limits]\nsites_max = 3000\n");
            builder = builder.agent(labelled(agent, labels));
        }
        let servers: Vec<FedServer> = servers.into_iter().map(|(server, _)| server).collect();
        let fleet = builder.start();
        for server in &servers {
            knows_sites(&fleet, server.name(), server.sites().len());
        }
        let traffic = Traffic::start(&servers, per_second);
        for server in &servers {
            has_past(&fleet, server.name(), &server.sites(), 10);
        }
        Self { traffic, fleet, webhook, servers }
    }

    /// What people know when nothing more can come of what happened so far.
    pub(crate) fn told(&self, what: &str, is_done: impl Fn(&[Incident]) -> bool) -> Told {
        self.fleet.told(what, LIMIT, &self.webhook, is_done)
    }

    /// Mends everything and waits until each incident is over.
    pub(crate) fn mended(&self) -> Told {
        self.traffic.mend();
        self.told("everything is over", |all| all.iter().all(|i| !i.is_open()))
    }

    /// All sites of these servers, sorted.
    pub(crate) fn sites_of(&self, names: &[&str]) -> Vec<String> {
        let servers = self.servers.iter().filter(|server| names.contains(&server.name()));
        let mut sites: Vec<String> = servers.flat_map(FedServer::sites).collect();
        sites.sort();
        sites
    }
}

/// Whether an incident that is no part of another one reaches exactly these members.
pub(crate) fn reaches(all: &[Incident], scope: &str, members: &[&str]) -> bool {
    all.iter().any(|i| i.is_top() && i.scope() == scope && i.texts("/where/members") == members)
}

fn labelled(agent: AgentSpec, labels: &str) -> AgentSpec {
    labels.split_whitespace().fold(agent, |agent, label| {
        let (key, value) = label.split_once('=').expect("labels are key=value");
        agent.label(key, value)
    })
}

/// Waits until the agent counts each site apart.
fn knows_sites(fleet: &Fleet, server: &str, n_sites: usize) {
    eventually(&format!("{server} knows its sites"), LIMIT, || {
        let status = fleet.agent(server).status()?;
        let n = status["n_sites"].as_u64().unwrap_or(0);
        if n >= n_sites as u64 { Ok(()) } else { Err(status.to_string()) }
    });
}

pub(crate) fn has_past(fleet: &Fleet, server: &str, sites: &[String], n_good: u64) {
    eventually(&format!("every site of {server} has a past"), LIMIT, || {
        let stored = fleet.db().requests(server);
        let young =
            |site: &&String| stored.get(&((*site).clone(), 200)).is_none_or(|n| *n < n_good);
        let young: Vec<_> = sites.iter().filter(young).collect();
        if young.is_empty() { Ok(()) } else { Err(format!("without a past: {young:?}")) }
    });
}

/// What stands in front of the sites of a real box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nginx with PHP-FPM: 502 when nobody answers.
    Nginx,
    /// Apache with PHP-FPM: 503.
    Apache,
    /// HAProxy with an application behind each pool: 503.
    Haproxy,
}

impl Kind {
    /// How long after its application died the first request may have failed. HAProxy answers only
    /// when it has tried three more times, a second apart; logs have whole seconds.
    pub(crate) fn first_failure_ms_max(self) -> i64 {
        if self == Self::Haproxy { 6000 } else { 2000 }
    }
}

enum Front {
    Nginx(Nginx),
    Apache(Apache),
    Haproxy(Haproxy),
}

/// The applications of a box.
enum Back {
    Php(PhpFpm),
    /// By pool; `None` while one is dead.
    Apps(BTreeMap<&'static str, (SocketAddr, Root, Option<Nginx>)>),
}

/// A box with real servers and its pools, each with some sites.
pub(crate) struct RealBox {
    pub(crate) name: &'static str,
    labels: &'static str,
    pub(crate) kind: Kind,
    pools: Vec<(&'static str, usize)>,
    front: Front,
    back: Back,
    root: Root,
}

impl RealBox {
    pub(crate) fn start(
        name: &'static str,
        labels: &'static str,
        kind: Kind,
        pools: &[(&'static str, usize)],
    ) -> Self {
        let configs: Vec<Pool> = pools.iter().map(|(pool, _)| Pool::new(pool)).collect();
        Self::with_pools(name, labels, kind, pools, &configs)
    }

    /// The same with PHP-FPM pools of one's own making.
    pub(crate) fn with_pools(
        name: &'static str,
        labels: &'static str,
        kind: Kind,
        pools: &[(&'static str, usize)],
        configs: &[Pool],
    ) -> Self {
        let root = Root::new();
        let vhosts = || -> Vec<Vhost> {
            let vhost = |(pool, site)| Vhost { name: site, pool };
            named(name, pools).into_iter().map(vhost).collect()
        };
        let (front, back) = match kind {
            Kind::Nginx => {
                let php = PhpFpm::start(&root, configs);
                (Front::Nginx(Nginx::start(&root, &vhosts())), Back::Php(php))
            }
            Kind::Apache => {
                let php = PhpFpm::start(&root, configs);
                (Front::Apache(Apache::start(&root, &vhosts())), Back::Php(php))
            }
            Kind::Haproxy => {
                let app = |(pool, _): &(&'static str, usize)| {
                    let (address, root) = (loopback(8000), Root::new());
                    let app = start_app(&root, address);
                    (*pool, (address, root, Some(app)))
                };
                let apps: BTreeMap<_, _> = pools.iter().map(app).collect();
                let site = |(pool, name)| {
                    let (address, ..) = apps[pool];
                    ProxySite { name, upstream: Some(Upstream::Tcp(address)) }
                };
                let sites: Vec<_> = named(name, pools).into_iter().map(site).collect();
                let haproxy = Haproxy::start(&root, &sites, HaproxyLog::Iso);
                (Front::Haproxy(haproxy), Back::Apps(apps))
            }
        };
        Self { name, labels, kind, pools: pools.to_vec(), front, back, root }
    }

    pub(crate) fn agent(&self) -> AgentSpec {
        labelled(AgentSpec::new(self.name).root(&self.root), self.labels)
    }

    pub(crate) fn volley(&self) -> Volley {
        match &self.front {
            Front::Nginx(nginx) => Volley::at(nginx.address()),
            Front::Apache(apache) => Volley::at(apache.address()),
            Front::Haproxy(haproxy) => Volley::with_proxy_line(haproxy.address()),
        }
    }

    /// All its sites, sorted.
    pub(crate) fn sites(&self) -> Vec<String> {
        let mut sites: Vec<_> = named(self.name, &self.pools).into_iter().map(|(_, s)| s).collect();
        sites.sort();
        sites
    }

    /// The sites of one pool, sorted.
    pub(crate) fn sites_of(&self, pool: &str) -> Vec<String> {
        let named = named(self.name, &self.pools).into_iter();
        let mut sites: Vec<_> = named.filter(|(of, _)| *of == pool).map(|(_, s)| s).collect();
        sites.sort();
        sites
    }

    /// What its front answers when nobody is behind it.
    pub(crate) fn status(&self) -> u16 {
        if self.kind == Kind::Nginx { 502 } else { 503 }
    }

    pub(crate) fn load(&self, per_second: f64) -> Load {
        Load::through(self.volley(), &self.sites(), per_second, "/index.php")
    }

    /// Kills what answers for a pool: connections are refused from then on.
    pub(crate) fn kill(&mut self, pool: &str) {
        match &mut self.back {
            Back::Php(php) => php.kill_pool(pool),
            Back::Apps(apps) => drop(apps.get_mut(pool).expect("a pool of it").2.take()),
        }
    }

    /// Starts it again.
    pub(crate) fn start_again(&mut self, pool: &str) {
        match &mut self.back {
            Back::Php(php) => php.start_pool(pool),
            Back::Apps(apps) => {
                let (address, root, app) = apps.get_mut(pool).expect("a pool of it");
                *app = Some(start_app(root, *address));
            }
        }
    }
}

/// A server of applications, out of the agent's sight.
pub(crate) fn start_app(root: &Root, address: SocketAddr) -> Nginx {
    let block = format!("server {{ listen {address}; location / {{ return 200 \"app\\n\"; }} }}\n");
    Nginx::start_with(root, address, &[("app".to_owned(), block)])
}

/// Pool and name of each site of a box.
fn named(name: &str, pools: &[(&'static str, usize)]) -> Vec<(&'static str, String)> {
    let of_pool = |(pool, n): &(&'static str, usize)| {
        let pool = *pool;
        (1..=*n).map(move |i| (pool, format!("{pool}{i}.{name}.test"))).collect::<Vec<_>>()
    };
    pools.iter().flat_map(of_pool).collect()
}

/// Real boxes under load, with their agents, and somebody who is paged.
pub(crate) struct Hall {
    pub(crate) boxes: Vec<RealBox>,
    pub(crate) webhook: Webhook,
    pub(crate) fleet: Fleet,
    loads: Vec<Load>,
}

impl Hall {
    /// Every site is asked three times a second and has a past.
    pub(crate) fn start(boxes: Vec<RealBox>) -> Self {
        let webhook = Webhook::start(0);
        let agents = boxes.iter().map(RealBox::agent);
        let fleet = agents.fold(told_to(&webhook), FleetBuilder::agent).start();
        let loads = boxes.iter().map(|one| one.load(3.0)).collect();
        for one in &boxes {
            has_past(&fleet, one.name, &one.sites(), 8);
        }
        Self { boxes, webhook, fleet, loads }
    }

    pub(crate) fn the(&mut self, name: &str) -> &mut RealBox {
        let found = self.boxes.iter_mut().find(|one| one.name == name);
        found.unwrap_or_else(|| panic!("no box {name}"))
    }

    /// What people know when nothing more can come of what happened so far.
    pub(crate) fn told(&self, what: &str, is_done: impl Fn(&[Incident]) -> bool) -> Told {
        self.fleet.told(what, LIMIT, &self.webhook, is_done)
    }

    /// The same when every incident is over.
    pub(crate) fn over(&self) -> Told {
        self.told("everything is over", |all| all.iter().all(|i| !i.is_open()))
    }

    /// Ends the traffic; all that clients saw.
    pub(crate) fn quiet(&mut self) -> Seen {
        let mut seen = Seen::default();
        for load in self.loads.drain(..) {
            seen.add(load.stop());
        }
        seen
    }
}

/// An incident's own numbers are what clients saw of `sites`.
pub(crate) fn assert_counts(incident: &Incident, seen: &Seen, sites: &[String]) {
    for (pointer, status) in [("/affected/n_502", 502), ("/affected/n_503", 503)] {
        let n: u64 = sites.iter().map(|site| seen.n(site, status)).sum();
        assert_eq!(incident.number(pointer), n, "{status}: {}", incident.json());
    }
}
