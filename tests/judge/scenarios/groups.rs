//! Outages of many servers: by one label, by two, by a rollout, in silence, by pressure.

use super::{Scenario, scenario};
use crate::faults::Cause;
use crate::fleet::{Backing, Front, Plan};
use crate::truth::Reach;
use crate::world::{Gap, Level, World};

pub(crate) const ALL: &[Scenario] = &[
    scenario("hypervisor_steal", 2, |n, s| {
        labelled(n, s, Cause::Steal, &["hypervisor"], &nginx(None))
    }),
    scenario("hypervisor_down", 2, |n, s| {
        labelled(n, s, Cause::ServiceDown, &["hypervisor"], &nginx(None))
    }),
    scenario("rack_network", 2, |n, s| {
        labelled(n, s, Cause::Network, &["rack"], &any(Backing::Machines))
    }),
    scenario("region_dns", 2, |n, s| {
        labelled(n, s, Cause::Dns, &["region"], &nginx(Some(Backing::Names)))
    }),
    scenario("region_firewall", 1, |n, s| {
        labelled(n, s, Cause::Firewall, &["region"], &any(Backing::Machines))
    }),
    scenario("image_crash", 2, |n, s| labelled(n, s, Cause::Crash, &["image"], &nginx(None))),
    scenario("region_and_image", 3, |n, s| {
        labelled(n, s, Cause::Crash, &["region", "image"], &nginx(None))
    }),
    scenario("rack_quiet", 2, quiet_rack),
    scenario("rack_shared_mount", 1, shared_mount),
    scenario("whole_fleet", 1, whole_fleet),
    scenario("rollout_of_an_image", 2, rollout_label),
    scenario("rollout_of_some", 2, rollout_cohort),
    scenario("many_sites", 1, many_sites),
    scenario("hypervisor_vanishes", 2, |n, s| vanishes(n, s, "hypervisor")),
    scenario("provider_cut_off", 1, |n, s| vanishes(n, s, "provider")),
    scenario("one_server_vanishes", 1, one_vanishes),
    scenario("pressure_without_failures", 2, pressure),
    scenario("services_at_night", 2, services),
];

fn any(backing: Backing) -> Plan {
    Plan { n_servers: 24, sites: (3, 10), backing: Some(backing), ..Plan::default() }
}

fn nginx(backing: Option<Backing>) -> Plan {
    let front = Some(Front::Nginx);
    Plan { n_servers: 24, sites: (3, 10), backing, front, ..Plan::default() }
}

fn times(world: &mut World) -> (i64, i64) {
    let start = world.random.between(100.0, 150.0);
    let lasts = world.random.between(80.0, 160.0);
    (world.at(start), world.at(start + lasts))
}

/// Servers that share one value of each of these labels: at least three, and not all.
pub(super) fn sharing(world: &mut World, labels: &[&str]) -> Vec<usize> {
    let n = world.fleet.len();
    for _ in 0..200 {
        let model = world.random.below(n);
        let shares = |s: &usize| {
            labels.iter().all(|l| world.fleet[*s].label(l) == world.fleet[model].label(l))
        };
        let found: Vec<usize> = (0..n).filter(shares).collect();
        if found.len() >= 3 && found.len() < n {
            return found;
        }
    }
    world.with_label("hypervisor", "hv-0")
}

fn labelled(name: &str, seed: u64, cause: Cause, labels: &[&str], plan: &Plan) -> World {
    let mut world = World::new(name, seed, plan, 420);
    world.weather(0.05);
    let servers = sharing(&mut world, labels);
    let (from, until) = times(&mut world);
    world.inflict(cause, &Reach::Servers(servers), from, until);
    world
}

/// A rack whose busiest site has a request every ten seconds.
fn quiet_rack(name: &str, seed: u64) -> World {
    let plan = Plan { rate: 0.03, rate_max: 0.1, sites: (4, 10), ..any(Backing::Machines) };
    let mut world = World::new(name, seed, &plan, 600);
    let servers = sharing(&mut world, &["rack"]);
    let (from, until) = (world.at(200.0), world.at(430.0));
    world.inflict(Cause::Network, &Reach::Servers(servers), from, until);
    world
}

/// Workers block on a mount that hangs: queues fill, and no resource shows why.
fn shared_mount(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &nginx(None), 420);
    world.weather(0.05);
    let servers = sharing(&mut world, &["rack"]);
    let (from, until) = times(&mut world);
    let fault = world.inflict(Cause::Overload, &Reach::Servers(servers), from, until);
    world.faults[fault].label.causes.clear();
    world.surges.clear();
    world.strains.retain(|strain| strain.metric == "phpfpm.max_children_reached");
    world
}

fn whole_fleet(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 12, ..any(Backing::Machines) };
    let mut world = World::new(name, seed, &plan, 400);
    let (from, until) = times(&mut world);
    world.inflict(Cause::Firewall, &Reach::Servers((0..12).collect()), from, until);
    world
}

/// Offsets of a rollout that takes about this long, ms.
fn offsets(world: &mut World, n: usize, seconds: f64) -> Vec<i64> {
    let mut offsets: Vec<i64> =
        (0..n).map(|_| (world.random.between(0.0, seconds) * 1000.0) as i64).collect();
    offsets.sort_unstable();
    offsets
}

fn rollout_label(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 40, sites: (3, 8), ..nginx(None) };
    let mut world = World::new(name, seed, &plan, 420);
    world.weather(0.03);
    let servers = sharing(&mut world, &["image"]);
    let (from, until) = (world.at(110.0), world.at(260.0));
    let offsets = offsets(&mut world, servers.len(), 40.0);
    world.roll_out(&servers, &offsets, (from, until));
    world
}

/// Servers that share nothing but the change.
fn rollout_cohort(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 40, sites: (3, 8), ..nginx(None) };
    let mut world = World::new(name, seed, &plan, 420);
    world.weather(0.03);
    let servers = world.random.some(12, 40);
    let (from, until) = (world.at(110.0), world.at(260.0));
    let offsets = offsets(&mut world, servers.len(), 40.0);
    world.roll_out(&servers, &offsets, (from, until));
    world
}

fn many_sites(name: &str, seed: u64) -> World {
    let plan = Plan {
        n_servers: 24,
        sites: (240, 240),
        rate: 0.08,
        rate_max: 3.0,
        per_hypervisor: 3,
        ..nginx(None)
    };
    let mut world = World::new(name, seed, &plan, 170);
    let servers = world.with_label("region", "reg-0");
    let (from, until) = (world.at(40.0), world.at(110.0));
    world.inflict(Cause::ServiceDown, &Reach::Servers(servers), from, until);
    world
}

/// Machines are gone: no request is answered, no agent speaks.
fn vanishes(name: &str, seed: u64, label: &str) -> World {
    let mut world = World::new(name, seed, &nginx(None), 420);
    world.weather(0.03);
    let servers = if label == "provider" {
        world.with_label("provider", "prov-0")
    } else {
        sharing(&mut world, &[label])
    };
    // Half of the fleet at once would be the collector's own line.
    let servers: Vec<usize> = if servers.len() * 2 > world.fleet.len() {
        world.with_label("rack", "r0")
    } else {
        servers
    };
    let (from, until) = times(&mut world);
    silent(&mut world, servers, from, until);
    world
}

fn silent(world: &mut World, servers: Vec<usize>, from: i64, until: i64) {
    for &server in &servers {
        let start = from + world.random.whole(0, 800);
        let end = until + world.random.whole(0, 9_000);
        world.gaps.push((server, start, end, Gap::Dark));
    }
    let fault = world.fault("Silence", Reach::Servers(servers), from, until);
    let label = &mut world.faults[fault].label;
    (label.kinds, label.timed) = (vec!["silence".to_owned()], false);
    label.causes = vec!["agent_silence".to_owned()];
}

fn one_vanishes(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &nginx(None), 420);
    let server = world.random.below(24);
    let (from, until) = times(&mut world);
    silent(&mut world, vec![server], from, until);
    world
}

/// The hypervisor takes the processors away, and nothing fails yet.
fn pressure(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &nginx(None), 480);
    world.weather(0.03);
    let servers = sharing(&mut world, &["hypervisor"]);
    let (from, until) = (world.at(100.0), world.at(340.0));
    for &server in &servers {
        let steal = world.random.between(0.3, 0.55);
        let span = (from + world.random.whole(0, 2_000), until);
        world.strain(server, span, "system.cpu.steal", Level::Near(steal));
    }
    let fault = world.fault("Pressure", Reach::Servers(servers), from, until);
    let label = &mut world.faults[fault].label;
    (label.kinds, label.timed) = (vec!["pressure".to_owned()], false);
    label.causes = vec!["steal".to_owned()];
    world
}

/// A bad package stops a service on many servers while nobody asks.
fn services(name: &str, seed: u64) -> World {
    let plan = Plan { rate: 0.0004, rate_max: 0.0008, ..nginx(None) };
    let mut world = World::new(name, seed, &plan, 420);
    let servers = sharing(&mut world, &["rack"]);
    let (from, until) = times(&mut world);
    for &server in &servers {
        let at = from + world.random.whole(0, 15_000);
        world.change(server, at - 1_500, "package", "php8.2-fpm 8.2.7 to 8.2.29");
        world.service(server, at, "php8.2-fpm.service", "failed", None);
        world.service(server, until, "php8.2-fpm.service", "active", None);
    }
    let fault = world.fault("Services", Reach::Servers(servers), from, until);
    let label = &mut world.faults[fault].label;
    (label.kinds, label.timed) = (vec!["services".to_owned()], false);
    label.causes = vec!["service_down".to_owned()];
    world
}
