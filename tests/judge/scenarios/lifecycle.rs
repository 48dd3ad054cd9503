//! Outages that come and go, or fall together with restarts, gaps and wrong clocks.

use super::groups::sharing;
use super::{Scenario, scenario};
use crate::faults::Cause;
use crate::fleet::{Backing, Front, Plan};
use crate::truth::Reach;
use crate::world::{Gap, World};

pub(crate) const ALL: &[Scenario] = &[
    scenario("flapping_pool", 2, flapping_pool),
    scenario("flapping_group", 1, flapping_group),
    scenario("restart_in_a_server_outage", 2, |n, s| restart(n, s, false)),
    scenario("restart_in_a_group_outage", 2, |n, s| restart(n, s, true)),
    scenario("replayed_after_a_gap", 2, replayed),
    scenario("short_gap_in_an_outage", 2, short_gap),
    scenario("agent_restart_in_an_outage", 1, agent_restart),
    scenario("wrong_clocks", 2, wrong_clocks),
    scenario("slow_leak", 1, slow_leak),
    scenario("half_of_a_group_recovers_first", 1, two_halves),
];

fn plan() -> Plan {
    Plan { n_servers: 16, sites: (4, 10), front: Some(Front::Nginx), ..Plan::default() }
}

/// Down and up by turns; each down is real, all of them are one outage.
fn flaps(world: &mut World, reach: &Reach) {
    let (from, until) = (world.at(100.0), world.at(100.0 + 5.0 * 55.0));
    let fault = world.inflict(Cause::Crash, reach, from, until);
    world.faults[fault].label.flaps = true;
    let phases: Vec<(i64, i64)> =
        (0..5).map(|n| from + n * 55_000).map(|at| (at, at + 25_000)).collect();
    for effects in world.effects.values_mut() {
        let mut parts = Vec::new();
        for effect in effects.iter().filter(|effect| effect.fault == Some(fault)) {
            for &(start, end) in &phases {
                let mut part = effect.clone();
                (part.from, part.until) = (start, end);
                parts.push(part);
            }
        }
        effects.retain(|effect| effect.fault != Some(fault));
        effects.extend(parts);
    }
    let up = |at: i64| !phases.iter().any(|(start, end)| (*start..*end).contains(&at));
    world.said.retain(|(_, at, said)| {
        !(matches!(said, crate::world::Said::Log { .. }) && *at > from && up(*at))
    });
}

fn flapping_pool(name: &str, seed: u64) -> World {
    let plan = Plan { backing: Some(Backing::TwoVersions), sites: (8, 12), ..plan() };
    let mut world = World::new(name, seed, &plan, 560);
    let server = world.random.below(16);
    flaps(&mut world, &Reach::Pool(server, "php83".to_owned()));
    world
}

fn flapping_group(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &plan(), 560);
    let servers = sharing(&mut world, &["hypervisor"]);
    flaps(&mut world, &Reach::Servers(servers));
    world
}

/// The collector is away for some seconds in the middle; agents keep what they count.
fn restart(name: &str, seed: u64, is_group: bool) -> World {
    let mut world = World::new(name, seed, &plan(), 460);
    let servers =
        if is_group { sharing(&mut world, &["hypervisor"]) } else { vec![world.random.below(16)] };
    let (from, until) = (world.at(110.0), world.at(270.0));
    let fault = world.inflict(Cause::ServiceDown, &Reach::Servers(servers), from, until);
    world.faults[fault].label.restarted = true;
    let stops = world.at(170.0);
    let starts = stops + world.random.whole(2_000, 20_000);
    world.collector.extend([(stops, "stopping"), (starts, "started")]);
    for server in 0..16 {
        let back = starts + world.random.whole(300, 6_000);
        world.gaps.push((server, stops - 200, back, Gap::Uplink));
    }
    world
}

/// A server's line to the collector is cut for ten minutes; its outage falls into that gap.
fn replayed(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &plan(), 900);
    let server = world.random.below(16);
    let (from, until) = (world.at(220.0), world.at(340.0));
    let fault = world.inflict(Cause::ServiceDown, &Reach::Servers(vec![server]), from, until);
    world.faults[fault].label.timed = false;
    let (cut, back) = (world.at(200.0), world.at(760.0));
    world.gaps.push((server, cut, back, Gap::Uplink));
    // The agent is silent meanwhile, and that is told as well.
    let silence = world.fault("Silence", Reach::Servers(vec![server]), cut, back);
    let label = &mut world.faults[silence].label;
    (label.kinds, label.timed) = (vec!["silence".to_owned()], false);
    world
}

fn short_gap(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &plan(), 420);
    let servers = sharing(&mut world, &["hypervisor"]);
    let (from, until) = (world.at(110.0), world.at(240.0));
    let cut = servers[0];
    world.inflict(Cause::ServiceDown, &Reach::Servers(servers), from, until);
    let start = world.at(140.0);
    world.gaps.push((cut, start, start + 14_000, Gap::Uplink));
    world
}

fn agent_restart(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &plan(), 420);
    let server = world.random.below(16);
    let (from, until) = (world.at(110.0), world.at(260.0));
    world.inflict(Cause::ServiceDown, &Reach::Servers(vec![server]), from, until);
    let start = world.at(150.0);
    world.gaps.push((server, start, start + 6_000, Gap::Stopped));
    world
}

/// Most clocks of the fleet are wrong, some by minutes.
fn wrong_clocks(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &Plan { skewed: 0.7, ..plan() }, 460);
    let servers = sharing(&mut world, &["hypervisor"]);
    let (from, until) = (world.at(130.0), world.at(260.0));
    world.inflict(Cause::ServiceDown, &Reach::Servers(servers), from, until);
    world
}

/// One request of twenty fails for more than an hour.
fn slow_leak(name: &str, seed: u64) -> World {
    let plan = Plan { n_servers: 4, sites: (2, 4), rate: 0.1, rate_max: 0.5, ..plan() };
    let mut world = World::new(name, seed, &plan, 5400);
    let site = &mut world.fleet[1].sites[0];
    (site.rate, site.n_clients, site.stray, site.days) = (4.0, 900, 2e-5, 28.0);
    let (from, until) = (world.at(300.0), world.at(5000.0));
    let fault = world.inflict(Cause::SiteCode, &Reach::Site(1, 0), from, until);
    for effect in world.effects.get_mut(&(1, 0)).into_iter().flatten() {
        effect.share = 0.05;
    }
    let label = &mut world.faults[fault].label;
    label.kinds = vec!["slow_burn".to_owned(), "gateway_errors".to_owned()];
    label.timed = false;
    label.causes.clear();
    label.change = None;
    world
}

/// A rack fails; one of its hypervisors is repaired long before the other.
fn two_halves(name: &str, seed: u64) -> World {
    let mut world = World::new(name, seed, &plan(), 520);
    let servers = world.with_label("rack", "r0");
    let (from, early, late) = (world.at(110.0), world.at(210.0), world.at(330.0));
    world.inflict(Cause::ServiceDown, &Reach::Servers(servers), from, late);
    let first = world.with_label("hypervisor", "hv-0");
    for ((server, _), effects) in &mut world.effects {
        for effect in effects.iter_mut().filter(|_| first.contains(server)) {
            effect.until = effect.until.min(early);
        }
    }
    let until = world.faults[0].label.until;
    for (server, at, _) in &mut world.said {
        if first.contains(server) && *at >= until - 1_000 {
            *at = early + (*at - until).max(-400);
        }
    }
    world
}
