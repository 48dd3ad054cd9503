//! One outage at a time: every cause at every scope inside a server, and shared backends.

use super::{Scenario, scenario};
use crate::faults::Cause;
use crate::fleet::{Backing, Front, Plan, share_upstream};
use crate::lines::Way;
use crate::truth::Reach;
use crate::world::World;

pub(crate) const ALL: &[Scenario] = &[
    scenario("site_misconfig", 2, |n, s| site(n, s, Cause::Misconfig, Backing::Mixed)),
    scenario("site_timeout", 2, |n, s| site(n, s, Cause::Timeout, Backing::Mixed)),
    scenario("site_code", 3, |n, s| site(n, s, Cause::SiteCode, Backing::OnePool)),
    scenario("site_crash", 2, |n, s| site(n, s, Cause::Crash, Backing::OnePool)),
    scenario("site_process_down", 2, |n, s| site(n, s, Cause::ServiceDown, Backing::Processes)),
    scenario("pool_overload", 2, |n, s| pool(n, s, Cause::Overload)),
    scenario("pool_crash", 2, |n, s| pool(n, s, Cause::Crash)),
    scenario("pool_down", 2, |n, s| pool(n, s, Cause::ServiceDown)),
    scenario("pool_oom", 2, |n, s| pool(n, s, Cause::Oom)),
    scenario("pool_misconfig", 1, |n, s| pool(n, s, Cause::Misconfig)),
    scenario("pool_timeout", 1, |n, s| pool(n, s, Cause::Timeout)),
    scenario("upstream_down", 2, |n, s| upstream(n, s, Cause::ServiceDown)),
    scenario("upstream_timeout", 1, |n, s| upstream(n, s, Cause::Timeout)),
    scenario("upstream_unreachable", 2, |n, s| upstream(n, s, Cause::Network)),
    scenario("server_down", 2, |n, s| server(n, s, Cause::ServiceDown, None)),
    scenario("server_oom", 2, |n, s| server(n, s, Cause::Oom, None)),
    scenario("server_disk_full", 2, |n, s| server(n, s, Cause::DiskFull, None)),
    scenario("server_steal", 2, |n, s| server(n, s, Cause::Steal, None)),
    scenario("server_firewall", 2, |n, s| server(n, s, Cause::Firewall, Some(Backing::Machines))),
    scenario("server_dns", 2, |n, s| server(n, s, Cause::Dns, Some(Backing::Names))),
    scenario("server_ddos", 2, |n, s| server(n, s, Cause::Ddos, None)),
    scenario("server_overload", 2, |n, s| server(n, s, Cause::Overload, None)),
    scenario("server_network", 2, |n, s| server(n, s, Cause::Network, Some(Backing::Machines))),
    scenario("server_misconfig", 1, |n, s| server(n, s, Cause::Misconfig, None)),
    scenario("server_of_two_sites", 2, two_sites),
    scenario("site_quiet", 2, quiet_site),
    scenario("site_partial", 2, partial_site),
    scenario("site_big_header", 1, big_header),
    scenario("fleet_of_two", 1, fleet_of_two),
];

/// Only nginx shows a full queue or a missing name as a gateway error.
fn front(cause: Cause) -> Option<Front> {
    let nginx = [Cause::Overload, Cause::Ddos, Cause::Dns, Cause::Steal, Cause::Misconfig];
    nginx.contains(&cause).then_some(Front::Nginx)
}

fn world(name: &str, seed: u64, plan: &Plan) -> (World, i64, i64) {
    let mut world = World::new(name, seed, plan, 480);
    world.weather(0.1);
    let start = world.random.between(100.0, 180.0);
    let lasts = world.random.between(70.0, 180.0);
    let (from, until) = (world.at(start), world.at(start + lasts));
    (world, from, until)
}

fn site(name: &str, seed: u64, cause: Cause, backing: Backing) -> World {
    let plan = Plan { backing: Some(backing), front: front(cause), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    let place = world.busy_site(0.15, |_| true);
    world.inflict(cause, &Reach::Site(place.0, place.1), from, until);
    world
}

fn pool(name: &str, seed: u64, cause: Cause) -> World {
    let backing = Some(if seed.is_multiple_of(2) { Backing::Mixed } else { Backing::TwoVersions });
    let plan = Plan { backing, sites: (6, 18), front: front(cause), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    let server = world.random.below(world.fleet.len());
    let pool = if seed.is_multiple_of(2) { "www" } else { "php83" };
    world.inflict(cause, &Reach::Pool(server, pool.to_owned()), from, until);
    world
}

fn upstream(name: &str, seed: u64, cause: Cause) -> World {
    let plan = Plan { n_servers: 12, sites: (4, 10), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    let address = "10.9.0.7:8080";
    let mut places = Vec::new();
    for server in world.random.some(4, 12) {
        let n = world.fleet[server].sites.len();
        places.extend(world.random.some(1 + n / 3, n).into_iter().map(|ix| (server, ix)));
    }
    for &(server, ix) in &places {
        let rate = &mut world.fleet[server].sites[ix].rate;
        *rate = rate.max(0.05);
    }
    share_upstream(&mut world.fleet, &places, address);
    world.inflict(cause, &Reach::Upstream(address.to_owned()), from, until);
    world
}

fn server(name: &str, seed: u64, cause: Cause, backing: Option<Backing>) -> World {
    let plan = Plan { backing, front: front(cause), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    let server = world.random.below(world.fleet.len());
    world.inflict(cause, &Reach::Servers(vec![server]), from, until);
    world
}

fn two_sites(name: &str, seed: u64) -> World {
    let plan = Plan { sites: (2, 2), rate: 1.0, backing: Some(Backing::Mixed), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    for server in &mut world.fleet {
        server.sites.iter_mut().for_each(|site| site.rate = site.rate.max(0.2));
    }
    let server = world.random.below(world.fleet.len());
    world.inflict(Cause::ServiceDown, &Reach::Servers(vec![server]), from, until);
    world
}

/// A request every half minute, and then each of them fails for a quarter of an hour.
fn quiet_site(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 5, rate: 0.05, rate_max: 1.0, ..Plan::default() };
    let mut world = World::new(name, seed, &plan, 1800);
    let (from, until) = (world.at(400.0), world.at(1300.0));
    let server = world.random.below(5);
    let site = &mut world.fleet[server].sites[0];
    (site.rate, site.n_clients) = (1.0 / 30.0, 60);
    world.inflict(Cause::SiteCode, &Reach::Site(server, 0), from, until);
    world
}

/// A third of the requests fail.
fn partial_site(name: &str, seed: u64) -> World {
    let (mut world, from, until) = world(name, seed, &Plan::default());
    let place = world.busy_site(0.5, |_| true);
    let fault = world.inflict(Cause::SiteCode, &Reach::Site(place.0, place.1), from, until);
    for effect in world.effects.get_mut(&place).into_iter().flatten() {
        if effect.fault == Some(fault) {
            effect.share = 0.33;
        }
    }
    world
}

/// After an update a site sends more cookies than the gateway's buffer takes: fault of either.
fn big_header(name: &str, seed: u64) -> World {
    let plan = Plan { front: Some(Front::Nginx), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    let place = world.busy_site(0.15, |_| true);
    let fault = world.inflict(Cause::SiteCode, &Reach::Site(place.0, place.1), from, until);
    for effect in world.effects.get_mut(&place).into_iter().flatten() {
        if effect.fault == Some(fault) {
            effect.ways = vec![(1.0, Way::BigHeader)];
        }
    }
    let label = &mut world.faults[fault].label;
    label.causes = vec!["misconfig".to_owned(), "site_code".to_owned()];
    world
}

fn fleet_of_two(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 2, sites: (4, 8), ..Plan::default() };
    let (mut world, from, until) = world(name, seed, &plan);
    world.inflict(Cause::ServiceDown, &Reach::Servers(vec![1]), from, until);
    world
}
