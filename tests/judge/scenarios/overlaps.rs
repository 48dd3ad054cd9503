//! Two outages at once, beside and inside each other.

use super::groups::sharing;
use super::{Scenario, scenario};
use crate::faults::Cause;
use crate::fleet::{Backing, Front, Plan};
use crate::truth::Reach;
use crate::world::World;

pub(crate) const ALL: &[Scenario] = &[
    scenario("two_sites_of_one_server", 1, two_sites),
    scenario("two_servers_of_one_rack", 2, two_servers),
    scenario("site_beside_a_group", 2, site_beside_group),
    scenario("two_groups", 2, two_groups),
    scenario("two_groups_of_one_region", 2, two_hypervisors),
    scenario("two_rollouts", 1, two_rollouts),
    scenario("pool_inside_a_group", 2, pool_inside_group),
    scenario("group_after_group", 1, group_after_group),
];

fn plan() -> Plan {
    Plan { n_servers: 32, sites: (3, 9), front: Some(Front::Nginx), ..Plan::default() }
}

fn start(name: &str, seed: u64, plan: &Plan) -> (World, i64, i64) {
    let mut world = World::new(name, seed, plan, 460);
    world.weather(0.04);
    let start = world.random.between(100.0, 140.0);
    let lasts = world.random.between(90.0, 160.0);
    let (from, until) = (world.at(start), world.at(start + lasts));
    (world, from, until)
}

/// One crashes, one hangs, in one pool.
fn two_sites(name: &str, seed: u64) -> World {
    let plan = Plan { sites: (8, 16), backing: Some(Backing::OnePool), ..plan() };
    let (mut world, from, until) = start(name, seed, &plan);
    let server = world.random.below(32);
    let two = world.random.some(2, 8);
    for &ix in &two {
        let site = &mut world.fleet[server].sites[ix];
        (site.rate, site.n_clients) = (site.rate.max(0.3), site.n_clients.max(40));
    }
    world.inflict(Cause::Crash, &Reach::Site(server, two[0]), from, until);
    world.inflict(Cause::SiteCode, &Reach::Site(server, two[1]), from + 11_000, until + 9_000);
    world
}

/// Neighbours by chance: one out of memory, one with a full disk.
fn two_servers(name: &str, seed: u64) -> World {
    let (mut world, from, until) = start(name, seed, &plan());
    let rack = sharing(&mut world, &["rack"]);
    let two = world.random.some(2, rack.len());
    let gap = world.random.whole(0, 20_000);
    world.inflict(Cause::Oom, &Reach::Servers(vec![rack[two[0]]]), from, until);
    world.inflict(Cause::DiskFull, &Reach::Servers(vec![rack[two[1]]]), from + gap, until + gap);
    world
}

fn site_beside_group(name: &str, seed: u64) -> World {
    let (mut world, from, until) = start(name, seed, &plan());
    let group = sharing(&mut world, &["hypervisor"]);
    let site = world.busy_site(0.15, |server| !group.contains(&server));
    let gap = world.random.whole(-15_000, 15_000);
    world.inflict(Cause::Steal, &Reach::Servers(group), from, until);
    world.inflict(Cause::SiteCode, &Reach::Site(site.0, site.1), from + gap, until + gap);
    world
}

fn two_groups(name: &str, seed: u64) -> World {
    let (mut world, from, until) = start(name, seed, &plan());
    let (one, other) = (world.with_label("rack", "r0"), world.with_label("rack", "r3"));
    let gap = world.random.whole(0, 30_000);
    world.inflict(Cause::ServiceDown, &Reach::Servers(one), from, until);
    world.inflict(Cause::Steal, &Reach::Servers(other), from + gap, until + gap);
    world
}

/// Two hypervisors of one region, in two racks, for two reasons.
fn two_hypervisors(name: &str, seed: u64) -> World {
    let (mut world, from, until) = start(name, seed, &plan());
    let one = world.with_label("hypervisor", "hv-0");
    let other = world.with_label("hypervisor", "hv-3");
    let gap = world.random.whole(5_000, 30_000);
    world.inflict(Cause::Steal, &Reach::Servers(one), from, until);
    world.inflict(Cause::ServiceDown, &Reach::Servers(other), from + gap, until + gap);
    world
}

/// Two teams roll out two packages to two images at once.
fn two_rollouts(name: &str, seed: u64) -> World {
    let (mut world, from, until) = start(name, seed, &plan());
    for (image, gap) in [("debian-12", 0), ("alma-9", 8_000)] {
        let servers = world.with_label("image", image);
        let mut offsets: Vec<i64> = servers.iter().map(|_| world.random.whole(0, 30_000)).collect();
        offsets.sort_unstable();
        world.roll_out(&servers, &offsets, (from + gap, until + gap));
    }
    world
}

/// A pool fails; a minute later its whole rack does, and comes back before the pool.
fn pool_inside_group(name: &str, seed: u64) -> World {
    let plan = Plan { backing: Some(Backing::TwoVersions), sites: (6, 10), ..plan() };
    let mut world = World::new(name, seed, &plan, 560);
    let (from, until) = (world.at(170.0), world.at(290.0));
    let group = sharing(&mut world, &["rack"]);
    let inner = Reach::Pool(group[0], "php83".to_owned());
    let before = world.inflict(Cause::Crash, &inner, from - 60_000, until);
    // While the rack is down the pool may be its own incident or a part of it.
    world.faults[before].label.required = false;
    world.inflict(Cause::ServiceDown, &Reach::Servers(group), from, until);
    let after = world.inflict(Cause::Crash, &inner, until + 2_000, until + 130_000);
    let label = &mut world.faults[after].label;
    (label.timed, label.remains) = (false, true);
    world
}

/// The same rack again after a quarter of an hour: two outages.
fn group_after_group(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 16, sites: (3, 6), ..plan() };
    let mut world = World::new(name, seed, &plan, 1500);
    let group = sharing(&mut world, &["hypervisor"]);
    for start in [100.0, 1250.0] {
        let (from, until) = (world.at(start), world.at(start + 90.0));
        world.inflict(Cause::ServiceDown, &Reach::Servers(group.clone()), from, until);
    }
    world
}
