//! Worlds without an outage: whatever is told here is false.

use super::groups::sharing;
use super::{Scenario, scenario};
use crate::fleet::{Backing, Plan};
use crate::lines::Way;
use crate::traffic::End;
use crate::world::{Bot, Effect, Gap, Said, Surge, World};

pub(crate) const ALL: &[Scenario] = &[
    scenario("quiet_days", 3, quiet_days),
    scenario("busy_hour", 2, busy_hour),
    scenario("surges", 1, surges),
    scenario("bots_and_retries", 2, bots),
    scenario("deploys", 2, deploys),
    scenario("deploys_of_busy_servers", 2, busy_deploys),
    scenario("planned_503", 1, |n, s| ends(n, s, End::ByApplication, 1.0)),
    scenario("database_down_500", 1, |n, s| ends(n, s, End::ByApplication, 0.95)),
    scenario("clients_leave", 1, |n, s| ends(n, s, End::Left, 0.4)),
    scenario("failures_made_good", 1, |n, s| ends(n, s, End::Retried, 0.5)),
    scenario("chronic_sites", 2, chronic),
    scenario("strays_under_one_label", 2, strays),
    scenario("collector_restarts", 1, collector_restarts),
    scenario("collector_cut_off", 1, collector_cut_off),
    scenario("collector_disk_full", 1, collector_disk_full),
    scenario("goodbyes", 1, goodbyes),
];

/// Half a day of many small servers: most sites have a request every few minutes.
fn quiet_days(name: &str, seed: u64) -> World {
    let plan =
        Plan { n_servers: 250, sites: (2, 8), rate: 0.003, rate_max: 0.05, ..Plan::default() };
    let mut world = World::new(name, seed, &plan, 43_200);
    world.has_days = true;
    for server in &mut world.fleet {
        (server.heartbeat_ms, server.batch_ms, server.sample_ms) = (60_000, 60_000, 300_000);
    }
    world.weather(1.5);
    world
}

fn busy_hour(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 8, sites: (4, 12), rate: 0.3, rate_max: 15.0, ..Plan::default() };
    let mut world = World::new(name, seed, &plan, 1800);
    world.weather(0.6);
    world
}

/// Ten times the traffic, on one site and on whole servers, and every answer is good.
fn surges(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 480);
    for server in 0..4 {
        let (from, until) = (world.at(100.0), world.at(350.0));
        let site = (server % 2 == 0).then_some(0);
        world.surges.push(Surge { server, site, from, until, factor: 10.0, n_clients: 900 });
    }
    world
}

/// Crawlers on a broken address, impatient clients that repeat a failed request, scanners.
fn bots(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 600);
    for server in 0..10 {
        let start = world.random.between(20.0, 300.0);
        let (from, until) = (world.at(start), world.at(start + 240.0));
        let way = world.random.pick(&[Some(Way::Closed), Some(Way::ReadTimeout), None]);
        let rate = world.random.pick(&[0.2, 1.0, 5.0]);
        let site = world.random.below(world.fleet[server].sites.len());
        world.bots.push(Bot { server, site, from, until, rate, way });
    }
    world
}

/// Restarts and reloads that are announced, on every server, some of them together.
fn deploys(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 480);
    for server in 0..10 {
        let start = if server < 5 { 150.0 } else { world.random.between(60.0, 400.0) };
        let at = world.at(start);
        world.restart_service(server, at, 3_500);
    }
    world
}

/// The same where each second hundreds of requests are asked for, so that a restart fails many.
fn busy_deploys(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 6, sites: (4, 8), rate: 8.0, rate_max: 60.0, ..Plan::default() };
    let mut world = World::new(name, seed, &plan, 240);
    for server in 0..6 {
        let start = if server < 3 { 100.0 } else { world.random.between(40.0, 200.0) };
        let (at, lasts) = (world.at(start), world.random.whole(1_500, 4_500));
        world.restart_service(server, at, lasts);
    }
    world
}

/// For some minutes the requests of whole servers end in a way that no gateway is to blame for.
fn ends(name: &str, seed: u64, end: End, share: f64) -> World {
    let mut world = World::new(name, seed, &Plan { n_servers: 6, ..Plan::default() }, 420);
    let (from, until) = (world.at(100.0), world.at(300.0));
    for server in 0..3 {
        for ix in 0..world.fleet[server].sites.len() {
            let effect = Effect {
                from,
                until,
                share,
                ramp_ms: 0,
                ways: Vec::new(),
                instead: Some(end),
                fault: None,
            };
            world.effects.entry((server, ix)).or_default().push(effect);
        }
    }
    world
}

/// Sites that have failed at a fifth to a half of their requests for weeks.
fn chronic(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 900);
    for server in 0..5 {
        let share = world.random.between(0.2, 0.5);
        let site = &mut world.fleet[server].sites[0];
        (site.stray, site.days) = (share, 28.0);
        (site.rate, site.n_clients) = (site.rate.max(0.2), site.n_clients.max(50));
    }
    world
}

/// One stray failure each on quiet servers that happen to share a rack.
fn strays(name: &str, seed: u64) -> World {
    let plan = Plan {
        n_servers: 24,
        rate: 0.004,
        rate_max: 0.02,
        backing: Some(Backing::Mixed),
        ..Plan::default()
    };
    let mut world = World::new(name, seed, &plan, 1200);
    for server in sharing(&mut world, &["rack"]) {
        for _ in 0..2 {
            let start = world.random.between(300.0, 900.0);
            let (from, site) =
                (world.at(start), world.random.below(world.fleet[server].sites.len()));
            let until = from + 1_200;
            let way = Some(Way::Reset);
            world.bots.push(Bot { server, site, from, until, rate: 1.5, way });
        }
    }
    world
}

/// Every agent keeps what it counts until the collector is back.
fn all_cut(world: &mut World, from: i64, until: i64) {
    for server in 0..world.fleet.len() {
        let back = until + world.random.whole(200, 6_000);
        world.gaps.push((server, from, back, Gap::Uplink));
    }
}

fn collector_restarts(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 600);
    for (stop, seconds) in [(100.0, 4.0), (250.0, 45.0)] {
        let (stops, starts) = (world.at(stop), world.at(stop + seconds));
        world.collector.extend([(stops, "stopping"), (starts, "started")]);
        all_cut(&mut world, stops - 100, starts);
    }
    world
}

fn collector_cut_off(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 500);
    let (lost, back) = (world.at(150.0), world.at(280.0));
    all_cut(&mut world, lost, back);
    world.collector.extend([(lost + 5_000, "uplink_lost"), (back - 500, "uplink_back")]);
    world
}

fn collector_disk_full(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 500);
    let (full, free) = (world.at(150.0), world.at(280.0));
    all_cut(&mut world, full, free);
    world.collector.extend([(full, "disk_full"), (free, "started")]);
    world
}

/// Half of the agents are stopped for an upgrade, one after the other, and one for good.
fn goodbyes(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan::default(), 600);
    for server in 0..5 {
        let from = world.at(120.0 + 8.0 * server as f64);
        let until = from + world.random.whole(4_000, 25_000);
        world.gaps.push((server, from, until, Gap::Stopped));
    }
    let from = world.at(200.0);
    world.gaps.push((7, from, world.until + 1_000_000, Gap::Stopped));
    world
}

impl World {
    /// A bad but ordinary day: `per_server` of each kind of noise on a server, on average.
    pub(crate) fn weather(&mut self, per_server: f64) {
        for server in 0..self.fleet.len() {
            for _ in 0..self.random.poisson(per_server) {
                self.broken_address(server);
            }
            for _ in 0..self.random.poisson(per_server * 0.5) {
                let at = self.any_moment();
                let lasts = self.random.whole(300, 2_500);
                self.restart_service(server, at, lasts);
            }
            for _ in 0..self.random.poisson(per_server) {
                self.worker_dies(server);
            }
        }
    }

    fn any_moment(&mut self) -> i64 {
        self.random.whole(self.from + 20_000, self.until - 5_000)
    }

    /// One client asks for an address that always fails.
    fn broken_address(&mut self, server: usize) {
        let (from, lasts) = (self.any_moment(), self.random.whole(5_000, 200_000));
        let site = self.random.below(self.fleet[server].sites.len());
        let rate = self.random.pick(&[0.05, 0.3, 2.0]);
        let way = Some(self.random.pick(&[Way::Closed, Way::ReadTimeout]));
        self.bots.push(Bot { server, site, from, until: from + lasts, rate, way });
    }

    /// An announced restart: what is asked meanwhile fails.
    pub(crate) fn restart_service(&mut self, server: usize, at: i64, lasts: i64) {
        let unit = "php8.2-fpm.service";
        self.service(server, at - 30, unit, "reloading", None);
        self.service(server, at + lasts, unit, "active", None);
        let what = format!("{unit} reloaded");
        let said = Said::Change { kind: "restart", what, site: None, pool: None };
        self.say(server, at - 20, said);
        self.everything_fails(server, at, at + lasts, Way::Reset, 0.7);
    }

    /// A worker dies: the two or three requests it had fail.
    fn worker_dies(&mut self, server: usize) {
        let (at, lasts) = (self.any_moment(), self.random.whole(40, 400));
        self.everything_fails(server, at, at + lasts, Way::Reset, 1.0);
    }

    fn everything_fails(&mut self, server: usize, from: i64, until: i64, way: Way, share: f64) {
        for ix in 0..self.fleet[server].sites.len() {
            self.effects.entry((server, ix)).or_default().push(Effect {
                from,
                until,
                share,
                ramp_ms: 0,
                ways: vec![(1.0, way)],
                instead: None,
                fault: None,
            });
        }
    }

    /// A site with at least this many requests a second, on a server that `may` be it.
    pub(crate) fn busy_site(&mut self, rate: f64, may: impl Fn(usize) -> bool) -> (usize, usize) {
        let n = self.fleet.len();
        for _ in 0..1_000 {
            let server = self.random.below(n);
            let ix = self.random.below(self.fleet[server].sites.len());
            if may(server) && self.fleet[server].sites[ix].rate >= rate {
                return (server, ix);
            }
        }
        // None has that many: one that may be it gets them.
        let server = (0..n).find(|server| may(*server)).unwrap_or(0);
        self.fleet[server].sites[0].rate = rate;
        (server, 0)
    }
}
