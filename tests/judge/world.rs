//! A world: a fleet, and everything that will happen to it. It knows nothing of the detector.

use std::collections::BTreeMap;

use crate::fleet::{self, Plan, Server};
use crate::lines::Way;
use crate::random::Random;
use crate::traffic::End;
use crate::truth::{Fault, Outage, Reach};

/// Start of every world: 2026-03-02 09:00 UTC, a Monday, in ms.
pub(crate) const START_MS: i64 = 1_772_442_000_000;

/// Requests of one site that fail for a while.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// Share of its requests that fail; reached after `ramp_ms`.
    pub(crate) share: f64,
    pub(crate) ramp_ms: i64,
    /// How, with weights.
    pub(crate) ways: Vec<(f64, Way)>,
    /// How they end instead, where no gateway fails.
    pub(crate) instead: Option<End>,
    /// Outage that it belongs to; none for noise.
    pub(crate) fault: Option<usize>,
}

/// More requests than usual; `site` `None` means every site of the server.
#[derive(Clone, Debug)]
pub(crate) struct Surge {
    pub(crate) server: usize,
    pub(crate) site: Option<usize>,
    pub(crate) from: i64,
    pub(crate) until: i64,
    pub(crate) factor: f64,
    /// How many more clients come.
    pub(crate) n_clients: usize,
}

/// One client that asks for one address again and again.
#[derive(Clone, Debug)]
pub(crate) struct Bot {
    pub(crate) server: usize,
    pub(crate) site: usize,
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// How each of them fails; none for a scanner that gets 404.
    pub(crate) way: Option<Way>,
}

/// What a server's own records say beside requests.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Service { unit: String, state: &'static str, pool: Option<String> },
    Log { source: &'static str, message: String },
    Change { kind: &'static str, what: String, site: Option<String>, pool: Option<String> },
}

/// How a metric behaves for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    /// A gauge around this.
    Near(f64),
    /// A counter that rises by this each second.
    Rises(f64),
}

#[derive(Clone, Debug)]
pub(crate) struct Strain {
    pub(crate) server: usize,
    pub(crate) from: i64,
    pub(crate) until: i64,
    pub(crate) metric: &'static str,
    pub(crate) level: Level,
}

/// Why nothing comes from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The machine is off or cut off from everybody: no requests either.
    Dark,
    /// The agent cannot reach the collector and keeps what it counts.
    Uplink,
    /// The agent was stopped on purpose and goes on from its files later.
    Stopped,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) from: i64,
    pub(crate) until: i64,
    pub(crate) fleet: Vec<Server>,
    pub(crate) effects: BTreeMap<(usize, usize), Vec<Effect>>,
    pub(crate) surges: Vec<Surge>,
    pub(crate) bots: Vec<Bot>,
    pub(crate) said: Vec<(usize, i64, Said)>,
    pub(crate) strains: Vec<Strain>,
    pub(crate) gaps: Vec<(usize, i64, i64, Gap)>,
    /// (time, event) of the collector itself.
    pub(crate) collector: Vec<(i64, &'static str)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) random: Random,
    /// Rates follow the hour of the day.
    pub(crate) has_days: bool,
}

impl World {
    /// A healthy world of this length.
    pub(crate) fn new(name: &str, seed: u64, plan: &Plan, seconds: i64) -> Self {
        let mut random = Random::new(seed, name);
        let fleet = fleet::build(plan, &mut random);
        Self {
            from: START_MS,
            until: START_MS + seconds * 1000,
            fleet,
            effects: BTreeMap::new(),
            surges: Vec::new(),
            bots: Vec::new(),
            said: Vec::new(),
            strains: Vec::new(),
            gaps: Vec::new(),
            collector: Vec::new(),
            faults: Vec::new(),
            random,
            has_days: false,
        }
    }

    /// A moment of this world, from seconds since its start, a little off the whole second.
    pub(crate) fn at(&mut self, second: f64) -> i64 {
        self.from + (second * 1000.0) as i64 + self.random.whole(0, 1000)
    }

    /// Registers an outage; its label is completed by the traffic.
    pub(crate) fn fault(&mut self, name: &str, reach: Reach, from: i64, until: i64) -> usize {
        self.faults.push(Fault {
            label: Outage {
                name: name.to_owned(),
                kinds: vec!["gateway_errors".to_owned()],
                answers: Vec::new(),
                causes: Vec::new(),
                required: true,
                timed: true,
                remains: false,
                flaps: false,
                restarted: false,
                from,
                until,
                change: None,
                servers: [].into(),
                sites: [].into(),
                n_failed: 0,
                first_at: None,
                third_at: None,
                third_client_at: None,
                last_at: None,
                identifiable_at: None,
            },
            reach,
        });
        self.faults.len() - 1
    }

    /// Positions of a reach: (server, site).
    pub(crate) fn places(&self, reach: &Reach) -> Vec<(usize, usize)> {
        let all = self.fleet.iter().enumerate();
        let all = all.flat_map(|(s, server)| (0..server.sites.len()).map(move |ix| (s, ix)));
        let site = |&(s, ix): &(usize, usize)| &self.fleet[s].sites[ix];
        match reach {
            Reach::Site(server, ix) => vec![(*server, *ix)],
            Reach::Pool(server, pool) => {
                all.filter(|key| key.0 == *server && site(key).place() == pool).collect()
            }
            Reach::Upstream(address) => all.filter(|key| site(key).place() == address).collect(),
            Reach::Servers(servers) => all.filter(|key| servers.contains(&key.0)).collect(),
        }
    }

    pub(crate) fn say(&mut self, server: usize, at: i64, said: Said) {
        self.said.push((server, at, said));
    }

    pub(crate) fn service(
        &mut self,
        server: usize,
        at: i64,
        unit: &str,
        state: &'static str,
        pool: Option<&str>,
    ) {
        let pool = pool.map(str::to_owned);
        self.say(server, at, Said::Service { unit: unit.to_owned(), state, pool });
    }

    pub(crate) fn log(&mut self, server: usize, at: i64, source: &'static str, message: String) {
        self.say(server, at, Said::Log { source, message });
    }

    pub(crate) fn change(&mut self, server: usize, at: i64, kind: &'static str, what: &str) {
        let what = what.to_owned();
        self.say(server, at, Said::Change { kind, what, site: None, pool: None });
    }

    pub(crate) fn strain(
        &mut self,
        server: usize,
        (from, until): (i64, i64),
        metric: &'static str,
        level: Level,
    ) {
        self.strains.push(Strain { server, from, until, metric, level });
    }

    /// Servers with this label's value.
    pub(crate) fn with_label(&self, label: &str, value: &str) -> Vec<usize> {
        (0..self.fleet.len()).filter(|s| self.fleet[*s].label(label) == value).collect()
    }
}
