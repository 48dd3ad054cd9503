//! Servers as a hosting company has them: labels, sites with a heavy tail of traffic, pools, clocks.

use crate::random::Random;

/// The web server whose logs an agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Nginx,
    Apache,
    Haproxy,
}

/// What serves the sites of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backing {
    /// One PHP-FPM pool for all sites.
    OnePool,
    /// A PHP-FPM pool for each user; the smaller half of the sites shares `www`.
    Mixed,
    /// Two PHP versions, one pool each.
    TwoVersions,
    /// Own application machines behind each server, by address.
    Machines,
    /// The same by name, which a resolver has to know.
    Names,
    /// One process for each site, on a local port.
    Processes,
}

/// One virtual host on one server.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) pool: Option<String>,
    pub(crate) upstream: Option<String>,
    /// What nginx calls the backend in an error line.
    pub(crate) backend: String,
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) n_clients: usize,
    /// Share of its requests that fail at a gateway on a good day.
    pub(crate) stray: f64,
    /// Days of history; 0 for a site nobody has seen before.
    pub(crate) days: f64,
}

impl Site {
    /// Pool as an incident names it.
    pub(crate) fn place(&self) -> &str {
        self.upstream.as_deref().or(self.pool.as_deref()).unwrap_or("")
    }
}

/// One server with an agent.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) front: Front,
    pub(crate) n_cpu: u32,
    /// Its clock minus true time, ms.
    pub(crate) skew_ms: i64,
    /// Way to the collector, ms.
    pub(crate) latency_ms: f64,
    pub(crate) heartbeat_ms: i64,
    pub(crate) batch_ms: i64,
    pub(crate) sample_ms: i64,
    /// Its error logs can be read.
    pub(crate) log_is_readable: bool,
    /// Read and connect timeouts of its gateway, ms.
    pub(crate) timeout_ms: i64,
    pub(crate) sites: Vec<Site>,
    /// Processor share of a normal hour.
    pub(crate) cpu: f64,
    pub(crate) memory: f64,
    pub(crate) disk: f64,
}

impl Server {
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v.as_str())
    }
}

/// What kind of fleet a scenario wants.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) n_servers: usize,
    pub(crate) sites: (i64, i64),
    /// Median requests per second of a site.
    pub(crate) rate: f64,
    /// Most requests per second of a site.
    pub(crate) rate_max: f64,
    /// Virtual machines on one hypervisor.
    pub(crate) per_hypervisor: usize,
    pub(crate) backing: Option<Backing>,
    pub(crate) front: Option<Front>,
    /// Share of servers whose clock is seconds or minutes off.
    pub(crate) skewed: f64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            n_servers: 10,
            sites: (3, 16),
            rate: 0.4,
            rate_max: 40.0,
            per_hypervisor: 4,
            backing: None,
            front: None,
            skewed: 0.1,
        }
    }
}

/// Builds the fleet of a plan.
pub(crate) fn build(plan: &Plan, random: &mut Random) -> Vec<Server> {
    (0..plan.n_servers).map(|n| server(n, plan, random)).collect()
}

fn server(n: usize, plan: &Plan, random: &mut Random) -> Server {
    let hypervisor = n / plan.per_hypervisor;
    let (rack, region) = (hypervisor / 2, hypervisor / 4);
    let labels = vec![
        ("hypervisor", format!("hv-{hypervisor}")),
        ("rack", format!("r{rack}")),
        ("region", format!("reg-{region}")),
        ("provider", format!("prov-{}", region / 2)),
        ("image", random.pick(&["debian-12", "alma-9", "ubuntu-24"]).to_owned()),
        ("plan", random.pick(&["s", "m", "l"]).to_owned()),
    ];
    let fronts = [Front::Nginx, Front::Nginx, Front::Nginx, Front::Apache, Front::Haproxy];
    let front = plan.front.unwrap_or_else(|| random.pick(&fronts));
    let backings = [Backing::OnePool, Backing::Mixed, Backing::Mixed, Backing::TwoVersions];
    let backing = plan.backing.unwrap_or_else(|| random.pick(&backings));
    let over_http = matches!(backing, Backing::Machines | Backing::Names | Backing::Processes);
    let front = if front == Front::Haproxy && !over_http { Front::Nginx } else { front };
    let skew_ms = if random.chance(plan.skewed) {
        let size = random.pick(&[2_500.0, 7_000.0, 40_000.0, 130_000.0]);
        (size * random.between(-1.0, 1.0)) as i64
    } else {
        random.whole(-200, 200)
    };
    let n_sites = random.whole(plan.sites.0, plan.sites.1 + 1) as usize;
    let sites = (0..n_sites).map(|ix| site((n, ix, n_sites), backing, plan, random)).collect();
    Server {
        name: format!("web-{n:02}"),
        labels,
        front,
        n_cpu: random.pick(&[2, 4, 8, 16]),
        skew_ms,
        latency_ms: random.between(3.0, 60.0),
        heartbeat_ms: 5_000,
        batch_ms: 10_000,
        sample_ms: 10_000,
        log_is_readable: random.chance(0.95),
        timeout_ms: random.pick(&[2_000, 5_000, 10_000, 30_000]),
        sites,
        cpu: random.between(0.05, 0.5),
        memory: random.between(0.35, 0.8),
        disk: random.between(0.2, 0.9),
    }
}

/// The site `ix` of `n_sites` on server `n`.
fn site(
    (n, ix, n_sites): (usize, usize, usize),
    backing: Backing,
    plan: &Plan,
    random: &mut Random,
) -> Site {
    let name = format!("shop{n:02}-{ix:03}.example");
    let machine = ix * (2 + n % 3) / n_sites;
    let (pool, upstream, backend) = match backing {
        Backing::OnePool => php("www"),
        Backing::Mixed if ix * 2 < n_sites => php("www"),
        Backing::Mixed => php(&format!("u{ix}")),
        Backing::TwoVersions if ix * 3 < n_sites => php("php81"),
        Backing::TwoVersions => php("php83"),
        Backing::Machines => remote(&format!("10.1.{n}.{}:8080", 10 + machine)),
        Backing::Names => remote(&format!("app{machine}.web-{n:02}.internal:8080")),
        Backing::Processes => {
            let port = format!("127.0.0.1:{}", 3000 + ix);
            (Some(port.clone()), None, format!("http://{port}/"))
        }
    };
    // A heavy tail: a few sites have nearly all requests, many have one a minute or less.
    let rate = (plan.rate * (1.3 * random.normal()).exp()).clamp(1.0 / 3600.0, plan.rate_max);
    let n_clients = if random.chance(0.15) {
        3 + random.below(6)
    } else {
        20 + (rate * random.between(60.0, 400.0)) as usize
    };
    let stray = random.pick(&[0.0, 1e-5, 5e-5, 2e-4]);
    let days = if random.chance(0.1) { random.between(0.0, 2.0) } else { 28.0 };
    Site { name, pool, upstream, backend, rate, n_clients, stray, days }
}

fn php(pool: &str) -> (Option<String>, Option<String>, String) {
    let backend = format!("fastcgi://unix:/run/php/php8.2-fpm-{pool}.sock:");
    (Some(pool.to_owned()), None, backend)
}

fn remote(address: &str) -> (Option<String>, Option<String>, String) {
    (None, Some(address.to_owned()), format!("http://{address}/"))
}

/// Puts sites of several servers behind one application machine.
pub(crate) fn share_upstream(servers: &mut [Server], sites: &[(usize, usize)], address: &str) {
    for &(server, ix) in sites {
        let site = &mut servers[server].sites[ix];
        (site.pool, site.upstream, site.backend) = remote(address);
    }
}
