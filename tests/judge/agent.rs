//! What an agent makes of a server's day: batches, heartbeats, samples, and when they arrive.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;

use crate::fleet::Server;
use crate::lines;
use crate::random::Random;
use crate::traffic::{self, End, Hit};
use crate::world::{Gap, Level, Said, World};

/// One line of the stream: when it arrived, and its JSON.
pub(crate) type Line = (i64, Box<str>);

/// Exemplars of one site and second, and of one server and second, at most.
const EXEMPLARS: (usize, usize) = (5, 50);
/// Gateway errors are sent this often at most, ms.
const URGENT_MS: i64 = 250;
/// Samples come each second while gateway errors flow and this long after, ms.
const CLOSE_LOOK_MS: i64 = 60_000;
/// A server asked for batches each second is asked for this long, ms.
const ASKED_MS: i64 = 120_000;

#[derive(Clone, Copy, Default)]
struct Counts {
    n: u32,
    by_status: [u32; 3],
    n_5xx_app: u32,
    n_499: u32,
    n_retried: u32,
}

/// A record that waits for the next batch: its place in the batch, and its JSON without arrival.
struct Waiting {
    at: i64,
    rank: u8,
    json: String,
}

pub(crate) struct Agent<'a> {
    world: &'a World,
    server: usize,
    me: &'a Server,
    random: Random,
    gaps: BTreeMap<i64, (i64, Gap)>,
    /// When the collector asks for a batch each second: neighbours of a failing server.
    asked: &'a [i64],
    counts: BTreeMap<(i64, u32), Counts>,
    exemplars: BTreeMap<(i64, u32), usize>,
    waiting: Vec<Waiting>,
    flushed: i64,
    due: i64,
    failed_last: i64,
    counters: BTreeMap<&'static str, f64>,
    sampled: i64,
    /// A batch never overtakes the one before it.
    arrived: i64,
    lines: Vec<Line>,
}

impl<'a> Agent<'a> {
    pub(crate) fn new(world: &'a World, server: usize, asked: &'a [i64]) -> Self {
        let me = &world.fleet[server];
        let mut random = Random::new(world.random.clone().bits(), &me.name);
        let phase = random.whole(0, me.batch_ms);
        let far = world.from - 10_000_000;
        let counters = COUNTERS.iter().map(|name| (*name, random.between(0.0, 900.0).floor()));
        let counters = counters.collect();
        Self {
            world,
            server,
            me,
            random,
            gaps: traffic::gaps(world, server),
            asked,
            counts: BTreeMap::new(),
            exemplars: BTreeMap::new(),
            waiting: Vec::new(),
            flushed: world.from,
            due: world.from + phase,
            failed_last: far,
            counters,
            sampled: world.from,
            arrived: world.from,
            lines: Vec::new(),
        }
    }

    /// Everything this agent sends, in order of arrival.
    pub(crate) fn run(mut self, hits: &[Hit]) -> Vec<Line> {
        self.introduce();
        let mut said: Vec<&(usize, i64, Said)> =
            self.world.said.iter().filter(|said| said.0 == self.server).collect();
        said.sort_by_key(|said| said.1);
        let mut said = said.into_iter().peekable();
        let mut hits = hits.iter().peekable();
        let mut beat = self.world.from + self.random.whole(0, self.me.heartbeat_ms);
        loop {
            let next_hit = hits.peek().map_or(i64::MAX, |hit| hit.at);
            let next_said = said.peek().map_or(i64::MAX, |said| said.1);
            let next_sample = self.next_sample();
            let next = next_hit.min(next_said).min(next_sample).min(beat).min(self.due);
            if next >= self.world.until {
                break;
            }
            if next == self.due {
                self.flush(next);
            } else if next == next_hit {
                self.count(hits.next().expect("it was peeked"));
            } else if next == next_said {
                let (_, at, said) = said.next().expect("it was peeked");
                self.say(*at, said);
            } else if next == next_sample {
                self.sample(next);
            } else {
                self.heartbeat(next);
                let jitter = self.random.whole(-40, 40);
                beat = next + self.me.heartbeat_ms + jitter;
            }
        }
        self.part_and_return();
        self.lines.sort_by_key(|line| line.0);
        self.lines
    }

    fn introduce(&mut self) {
        let labels: BTreeMap<&str, &str> =
            self.me.labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let at = self.world.from;
        let server = json!({
            "type": "server", "at": at, "server": self.me.name, "labels": labels,
            "n_cpu": self.me.n_cpu, "heartbeat_ms": self.me.heartbeat_ms
        });
        self.lines.push((at, server.to_string().into()));
        for site in &self.me.sites {
            let n = (site.days * 86_400.0 * site.rate) as u64;
            let baseline = (site.days > 0.0).then(|| {
                json!({"days": site.days, "n_requests": n,
                       "n_gateway_errors": (n as f64 * site.stray).round() as u64})
            });
            let site = json!({
                "type": "site", "at": at, "server": self.me.name, "site": site.name,
                "pool": site.pool, "upstream": site.upstream, "baseline": baseline
            });
            self.lines.push((at, site.to_string().into()));
        }
    }

    /// The gap that holds this moment.
    fn gap(&self, at: i64) -> Option<(i64, i64, Gap)> {
        let (from, (until, gap)) = self.gaps.range(..=at).next_back()?;
        (at < *until).then_some((*from, *until, *gap))
    }

    fn own(&self, at: i64) -> i64 {
        at + self.me.skew_ms
    }

    fn count(&mut self, hit: &Hit) {
        let site = &self.me.sites[hit.site as usize];
        let second = self.own(hit.at).div_euclid(1000);
        let counts = self.counts.entry((second, hit.site)).or_default();
        counts.n += 1;
        match hit.end {
            End::Good => {}
            End::ByApplication => counts.n_5xx_app += 1,
            End::Left => counts.n_499 += 1,
            End::Retried => counts.n_retried += 1,
            End::Failed(way) => {
                let status = lines::status(self.me.front, site, way);
                counts.by_status[usize::from(status - 502)] += 1;
                let place = (second, hit.site);
                let n_server: usize =
                    self.exemplars.range((second, 0)..(second + 1, 0)).map(|(_, n)| n).sum();
                let n_site = self.exemplars.entry(place).or_default();
                if *n_site < EXEMPLARS.0 && n_server < EXEMPLARS.1 {
                    *n_site += 1;
                    let client = format!("203.0.{}.0", hit.client >> 20 & 0xFF);
                    let json = json!({
                        "type": "exemplar", "at": self.own(hit.at), "server": self.me.name,
                        "site": site.name, "pool": null, "status": status,
                        "client": hit.client >> 12, "path": hit.client % 37 + 1,
                        "upstream": site.backend,
                        "message": lines::message(self.me, site, way, &client)
                    });
                    self.wait(self.own(hit.at), 3, json.to_string());
                }
                self.failed_last = hit.at;
                // A gateway error does not wait for the batch, but errors do gather a little.
                let soon = (hit.at + 20).max(self.flushed + URGENT_MS);
                self.due = self.due.min(soon);
            }
        }
    }

    fn wait(&mut self, at: i64, rank: u8, json: String) {
        self.waiting.push(Waiting { at, rank, json });
    }

    fn say(&mut self, at: i64, said: &Said) {
        if self.gap(at).is_some_and(|(_, _, gap)| gap == Gap::Dark) {
            return;
        }
        let (own, name) = (self.own(at), &self.me.name);
        let (rank, json) = match said {
            Said::Service { unit, state, pool } => (
                0,
                json!({"type": "service", "at": own, "server": name, "unit": unit,
                       "state": state, "pool": pool}),
            ),
            Said::Change { kind, what, site, pool } => (
                1,
                json!({"type": "change", "at": own, "server": name, "kind": kind, "what": what,
                       "site": site, "pool": pool}),
            ),
            Said::Log { source, message } => (
                2,
                json!({"type": "log", "at": own, "server": name, "source": source,
                       "message": message}),
            ),
        };
        self.wait(own, rank, json.to_string());
    }

    fn next_sample(&self) -> i64 {
        let close = self.sampled - self.failed_last < CLOSE_LOOK_MS && self.me.sample_ms <= 10_000;
        let step = if close { 1_000 } else { self.me.sample_ms };
        (self.sampled.div_euclid(step) + 1) * step
    }

    fn sample(&mut self, at: i64) {
        let elapsed = (at - self.sampled) as f64 / 1000.0;
        self.sampled = at;
        if self.gap(at).is_some_and(|(_, _, gap)| gap != Gap::Uplink) {
            return;
        }
        let strains = self.world.strains.iter();
        let now: BTreeMap<&str, Level> = strains
            .filter(|s| s.server == self.server && (s.from..s.until).contains(&at))
            .map(|s| (s.metric, s.level))
            .collect();
        let mut json = format!(
            "{{\"type\":\"sample\",\"at\":{},\"server\":\"{}\",\"values\":{{",
            self.own(at),
            self.me.name
        );
        let usual = [
            ("system.cpu.utilization", self.me.cpu),
            ("system.cpu.steal", 0.004),
            ("system.cpu.iowait", 0.02),
            ("system.pressure.cpu", self.me.cpu * 0.1),
            ("system.pressure.memory", 0.0),
            ("system.pressure.io", 0.02),
            ("system.memory.utilization", self.me.memory),
            ("system.filesystem.utilization", self.me.disk),
            ("system.conntrack.utilization", 0.06),
            ("system.network.tcp.retransmit", 0.004),
        ];
        for (metric, mean) in usual {
            let mean = match now.get(metric) {
                Some(Level::Near(level)) => *level,
                _ => mean,
            };
            let noise = if mean >= 1.0 { 0.0 } else { 0.12 * self.random.normal() };
            let value = (mean * (1.0 + noise)).clamp(0.0, 1.0);
            let slow =
                matches!(metric, "system.memory.utilization" | "system.filesystem.utilization");
            let value = if slow { mean } else { value };
            write!(json, "\"{metric}\":{value:.4},").expect("a String takes everything");
        }
        for metric in COUNTERS {
            let rate = match now.get(metric) {
                Some(Level::Rises(rate)) => *rate,
                _ => 0.0,
            };
            let n = self.random.poisson(rate * elapsed) as f64;
            let counter = self.counters.entry(metric).or_default();
            *counter += n;
            write!(json, "\"{metric}\":{counter},").expect("a String takes everything");
        }
        json.pop();
        json.push_str("}}");
        self.wait(self.own(at), 5, json);
    }

    fn heartbeat(&mut self, at: i64) {
        if self.gap(at).is_some() {
            return;
        }
        let arrives = self.travel(at);
        let oldest = self.counts.keys().next().map_or(i64::MAX, |(second, _)| second * 1000);
        let clock = self.own(at);
        let until = clock.min(oldest);
        let json = format!(
            "{{\"type\":\"heartbeat\",\"at\":{until},\"clock\":{clock},\"arrived_at\":{arrives},\
             \"server\":\"{}\"}}",
            self.me.name
        );
        self.lines.push((arrives, json.into()));
    }

    /// When something sent now arrives; never before what was sent earlier.
    fn travel(&mut self, at: i64) -> i64 {
        let took = self.me.latency_ms + self.random.gap(8.0);
        self.arrived = self.arrived.max(at + took as i64);
        self.arrived
    }

    fn flush(&mut self, at: i64) {
        self.flushed = at;
        let asked = self.asked.partition_point(|from| *from <= at);
        let is_asked = asked > 0 && at - self.asked[asked - 1] < ASKED_MS;
        let step = if is_asked { 1_000 } else { self.me.batch_ms };
        self.due = at + step + self.random.whole(0, 40);
        let gap = self.gap(at);
        if let Some((_, until, Gap::Stopped)) = gap {
            // Its files are read when it is back.
            self.due = until + 200;
            return;
        }
        if matches!(gap, Some((_, _, Gap::Dark))) {
            self.counts.clear();
            self.waiting.clear();
            return;
        }
        let arrives = match gap {
            // From the spool, one batch after the other.
            Some((_, until, _)) => {
                let back = until + self.random.whole(300, 900);
                self.arrived = self.arrived.max(back) + 2;
                self.arrived
            }
            None => self.travel(at),
        };
        self.send(arrives);
    }

    fn send(&mut self, arrives: i64) {
        let name = &self.me.name;
        for ((second, ix), counts) in std::mem::take(&mut self.counts) {
            let site = &self.me.sites[ix as usize].name;
            let at = second * 1000;
            let mut json = format!(
                "{{\"type\":\"requests\",\"at\":{at},\"server\":\"{name}\",\"site\":\"{site}\",\
                 \"n\":{}",
                counts.n
            );
            let [n_502, n_503, n_504] = counts.by_status;
            let rest = [
                ("n_502", n_502),
                ("n_503", n_503),
                ("n_504", n_504),
                ("n_5xx_app", counts.n_5xx_app),
                ("n_499", counts.n_499),
                ("n_retried", counts.n_retried),
            ];
            for (key, n) in rest.into_iter().filter(|(_, n)| *n > 0) {
                write!(json, ",\"{key}\":{n}").expect("a String takes everything");
            }
            json.push('}');
            self.waiting.push(Waiting { at, rank: 4, json });
        }
        let oldest = self.own(self.flushed).div_euclid(1000) - 5;
        self.exemplars.retain(|(second, _), _| *second > oldest);
        let mut batch = std::mem::take(&mut self.waiting);
        batch.sort_by_key(|waiting| (waiting.at.div_euclid(1000), waiting.rank));
        for Waiting { mut json, .. } in batch {
            json.pop();
            write!(json, ",\"arrived_at\":{arrives}}}").expect("a String takes everything");
            self.lines.push((arrives, json.into()));
        }
    }

    /// Goodbyes and hellos around gaps.
    fn part_and_return(&mut self) {
        for (from, (until, gap)) in self.gaps.clone() {
            if gap == Gap::Stopped {
                self.word("goodbye", from + 30);
            }
            if until + 250 < self.world.until {
                self.word("hello", until + 250);
            }
        }
    }

    fn word(&mut self, kind: &str, at: i64) {
        let json = json!({"type": kind, "server": self.me.name, "at": self.own(at),
                          "arrived_at": at});
        self.lines.push((at, json.to_string().into()));
    }
}

const COUNTERS: [&str; 4] = [
    "system.oom_kills",
    "system.tcp.listen_overflows",
    "system.tcp.listen_drops",
    "phpfpm.max_children_reached",
];

/// Plays a world: the lines of its stream in order of arrival, and the labels of its outages.
pub(crate) fn play(world: &World) -> (Vec<Line>, Vec<crate::truth::Outage>) {
    let n = world.fleet.len();
    let mut seen = vec![crate::truth::Seen::default(); world.faults.len()];
    let mut active = vec![crate::truth::Active::new(); world.faults.len()];
    let hits: Vec<Vec<Hit>> =
        (0..n).map(|server| traffic::of_server(world, server, &mut seen, &mut active)).collect();
    let troubled: Vec<Vec<i64>> = hits.iter().map(|hits| traffic::troubled(hits)).collect();
    let names = ["hypervisor", "rack", "region", "provider", "image", "plan"];
    let header = json!({
        "type": "header", "version": 1, "label_names": names,
        "from": world.from, "to": world.until
    });
    let mut lines: Vec<Line> = vec![(i64::MIN, header.to_string().into())];
    for (server, hits) in hits.iter().enumerate() {
        let asked = asked(world, server, &troubled);
        lines.extend(Agent::new(world, server, &asked).run(hits));
    }
    for (at, event) in &world.collector {
        let json = json!({"type": "collector", "event": event, "at": at, "arrived_at": at});
        lines.push((*at, json.to_string().into()));
    }
    lines.sort_by_key(|line| line.0);
    let completed = world.faults.iter().zip(&mut seen).zip(&active);
    let labels = completed
        .map(|((fault, seen), active)| crate::truth::complete(fault, seen, active, &world.fleet))
        .collect();
    (lines, labels)
}

/// Moments from which this server is asked for a batch each second: a server that shares a label
/// with it is in trouble, and a second has passed until the asking reached it.
fn asked(world: &World, server: usize, troubled: &[Vec<i64>]) -> Vec<i64> {
    let mine = &world.fleet[server].labels;
    let mut moments: Vec<i64> = Vec::new();
    for (other, times) in troubled.iter().enumerate() {
        let shares = world.fleet[other].labels.iter().any(|label| mine.contains(label));
        if other != server && shares {
            moments.extend(times.iter().map(|at| at + 1_500));
        }
    }
    moments.sort_unstable();
    moments.dedup_by_key(|at| *at / 1000);
    moments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Cause;
    use crate::fleet::Plan;
    use crate::truth::Reach;

    fn world() -> World {
        let plan = Plan { n_servers: 3, ..Plan::default() };
        let mut world = World::new("test", 3, &plan, 120);
        let (from, until) = (world.at(60.0), world.at(90.0));
        world.inflict(Cause::Crash, &Reach::Servers(vec![0]), from, until);
        world
    }

    #[test]
    fn the_same_seed_plays_the_same_stream() {
        assert_eq!(play(&world()), play(&world()));
    }

    #[test]
    fn lines_come_in_order_of_arrival_and_each_is_one_json_object() {
        let (lines, _) = play(&world());
        assert!(lines.is_sorted_by_key(|line| line.0));
        for (arrived, json) in &lines {
            let record: serde_json::Value = serde_json::from_str(json).unwrap();
            if record["type"] == "requests" || record["type"] == "exemplar" {
                assert_eq!(record["arrived_at"], *arrived);
                assert!(record["at"].as_i64().unwrap() < *arrived + 1_000_000);
            }
        }
        assert!(lines.len() > 200);
    }

    #[test]
    fn every_failed_request_of_the_label_is_counted_once_in_the_stream() {
        let mut world = world();
        for server in &mut world.fleet {
            server.sites.iter_mut().for_each(|site| site.stray = 0.0);
        }
        let (lines, labels) = play(&world);
        let mut n_failed = 0;
        for (_, json) in &lines {
            let record: serde_json::Value = serde_json::from_str(json).unwrap();
            if record["type"] == "requests" {
                n_failed += ["n_502", "n_503", "n_504"]
                    .iter()
                    .filter_map(|key| record[*key].as_u64())
                    .sum::<u64>();
            }
        }
        // What failed in the last batch of the world is not sent any more.
        assert!(n_failed > 0 && n_failed <= labels[0].n_failed);
        assert!(labels[0].n_failed - n_failed < 20);
    }
}
