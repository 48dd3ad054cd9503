//! Requests: who asks for what when, and how it ends, by what the world does at that moment.

use std::collections::BTreeMap;

use crate::lines::Way;
use crate::random::Random;
use crate::truth::{Active, Seen};
use crate::world::{Effect, Gap, World};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Good,
    /// The application's own 5xx.
    ByApplication,
    /// The client went away.
    Left,
    /// Another backend made it good.
    Retried,
    Failed(Way),
}

/// One request as its access-log line tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    /// When its line was written, true time, ms.
    pub(crate) at: i64,
    pub(crate) site: u32,
    pub(crate) client: u64,
    pub(crate) end: End,
}

/// Share of requests that end in the application's own 5xx, and of clients that leave.
const BY_APPLICATION: f64 = 2e-3;
const LEFT: f64 = 4e-3;
const RETRIED: f64 = 3e-4;

/// All requests of one server in order, and what they show of each outage.
pub(crate) fn of_server(
    world: &World,
    server: usize,
    seen: &mut [Seen],
    active: &mut [Active],
) -> Vec<Hit> {
    let mut hits = Vec::new();
    for ix in 0..world.fleet[server].sites.len() {
        let mut random = world.random.clone();
        let mut random = Random::new(random.bits(), &world.fleet[server].sites[ix].name);
        let mut desk = Desk { world, server, ix, seen, active, hits: &mut hits };
        desk.visitors(&mut random);
        for bot in world.bots.iter().filter(|bot| (bot.server, bot.site) == (server, ix)) {
            let client = random.bits();
            let mut at = bot.from;
            loop {
                at += (random.gap(1.0 / bot.rate) * 1000.0) as i64 + 1;
                if at >= bot.until {
                    break;
                }
                let end = bot.way.map_or(End::Good, End::Failed);
                desk.answer(at, client, end, None);
            }
        }
    }
    hits.sort_by_key(|hit| (hit.at, hit.site));
    hits
}

struct Desk<'a> {
    world: &'a World,
    server: usize,
    ix: usize,
    seen: &'a mut [Seen],
    active: &'a mut [Active],
    hits: &'a mut Vec<Hit>,
}

impl Desk<'_> {
    fn visitors(&mut self, random: &mut Random) {
        let (from, until) = (self.world.from, self.world.until);
        let mut at = from;
        // In steps of a second where there is traffic, from request to request where there is not.
        while at < until {
            let (rate, n_clients) = self.rate(at);
            if rate < 0.3 {
                let next = at + (random.gap(1.0 / rate) * 1000.0) as i64;
                // A change of rate further on must not be jumped over.
                let edge = self.next_edge(at);
                if next < edge.min(until) {
                    self.visit(next, n_clients, random);
                }
                at = (next + 1).min(edge.max(at + 1));
                continue;
            }
            for _ in 0..random.poisson(rate) {
                let moment = at + random.whole(0, 1000);
                self.visit(moment, n_clients, random);
            }
            at += 1000;
        }
    }

    fn rate(&self, at: i64) -> (f64, usize) {
        let site = &self.world.fleet[self.server].sites[self.ix];
        let (mut rate, mut n_clients) = (site.rate, site.n_clients);
        if self.world.has_days {
            let hour = (at / 1000 % 86_400) as f64 / 3600.0;
            rate *= 1.0 + 0.8 * ((hour - 15.0) / 24.0 * std::f64::consts::TAU).cos();
        }
        for surge in &self.world.surges {
            let here = surge.server == self.server && surge.site.is_none_or(|ix| ix == self.ix);
            if here && (surge.from..surge.until).contains(&at) {
                rate *= surge.factor;
                n_clients += surge.n_clients;
            }
        }
        (rate, n_clients)
    }

    fn next_edge(&self, at: i64) -> i64 {
        let here = |surge: &&crate::world::Surge| surge.server == self.server;
        let edges = self.world.surges.iter().filter(here).flat_map(|s| [s.from, s.until]);
        edges.filter(|edge| *edge > at).min().unwrap_or(i64::MAX)
    }

    fn visit(&mut self, at: i64, n_clients: usize, random: &mut Random) {
        let world = self.world;
        let dark = |(server, from, until, gap): &(usize, i64, i64, Gap)| {
            *gap == Gap::Dark && *server == self.server && (*from..*until).contains(&at)
        };
        if world.gaps.iter().any(dark) {
            return;
        }
        // Some clients come often, most rarely.
        let nth = (n_clients as f64 * random.unit() * random.unit()) as u64;
        let client = ((self.server as u64) << 40 | (self.ix as u64) << 24 | nth)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            | 1;
        let effects = world.effects.get(&(self.server, self.ix)).map_or(&[][..], Vec::as_slice);
        for effect in effects {
            if let Some(end) = strikes(effect, at, random) {
                self.answer(at, client, end, effect.fault);
                return;
            }
        }
        let site = &world.fleet[self.server].sites[self.ix];
        let end = if random.chance(site.stray) {
            End::Failed(random.pick(&[Way::Closed, Way::Reset, Way::ReadTimeout]))
        } else {
            match random.unit() {
                u if u < BY_APPLICATION => End::ByApplication,
                u if u < BY_APPLICATION + LEFT => End::Left,
                u if u < BY_APPLICATION + LEFT + RETRIED => End::Retried,
                _ => End::Good,
            }
        };
        self.answer(at, client, end, None);
    }

    fn answer(&mut self, at: i64, client: u64, end: End, fault: Option<usize>) {
        let server = &self.world.fleet[self.server];
        let took = match end {
            End::Failed(way) if way.waits() => server.timeout_ms,
            _ => 0,
        };
        let at = at + took;
        if at >= self.world.until {
            return;
        }
        if let Some(fault) = fault {
            self.seen[fault].failed.push((at, self.server, self.ix));
            let first = self.seen[fault].clients.entry(client).or_insert(at);
            *first = at.min(*first);
        }
        for (fault, active) in self.world.faults.iter().zip(&mut *self.active) {
            if (fault.label.from..fault.label.until).contains(&at) {
                *active.entry((self.server, self.ix)).or_default() += 1;
            }
        }
        self.hits.push(Hit { at, site: self.ix as u32, client, end });
    }
}

/// How this request ends by an effect, if that strikes it.
fn strikes(effect: &Effect, at: i64, random: &mut Random) -> Option<End> {
    if !(effect.from..effect.until).contains(&at) {
        return None;
    }
    let age = (at - effect.from) as f64;
    let ramp = if effect.ramp_ms > 0 { (age / effect.ramp_ms as f64).min(1.0) } else { 1.0 };
    if !random.chance(effect.share * ramp) {
        return None;
    }
    if effect.instead.is_some() {
        return effect.instead;
    }
    let whole: f64 = effect.ways.iter().map(|(weight, _)| weight).sum();
    let mut left = random.unit() * whole;
    for (weight, way) in &effect.ways {
        left -= weight;
        if left <= 0.0 {
            return Some(End::Failed(*way));
        }
    }
    effect.ways.last().map(|(_, way)| End::Failed(*way))
}

/// Spans in which gateway errors of a server flow: from its third within five seconds, on.
pub(crate) fn troubled(hits: &[Hit]) -> Vec<i64> {
    let failed: Vec<i64> =
        hits.iter().filter(|h| matches!(h.end, End::Failed(_))).map(|h| h.at).collect();
    failed.windows(3).filter(|w| w[2] - w[0] <= 5_000).map(|w| w[2]).collect()
}

/// Distinct gaps of a server by start, for its agent.
pub(crate) fn gaps(world: &World, server: usize) -> BTreeMap<i64, (i64, Gap)> {
    let own = world.gaps.iter().filter(|gap| gap.0 == server);
    own.map(|(_, from, until, gap)| (*from, (*until, *gap))).collect()
}
