//! What one server of the sample fleet measures: a day, a week, growth, noise, and what goes wrong.

use std::f64::consts::TAU;

use wire::catalog;
use wire::v1::{Series, Tick};

use crate::fleet::{Episode, Kind, Server};

/// Numbers that look random and are the same in every run (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Of what it is about and when.
    pub(crate) fn new(what: u64, when: i64) -> Self {
        let seed = what.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut dice = Self(seed ^ when.cast_unsigned().wrapping_mul(0xd1b5_4a32_d192_ed03));
        dice.next();
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal, mean 0 and deviation 1.
    pub(crate) fn noise(&mut self) -> f64 {
        (0..4).map(|_| self.share()).sum::<f64>().mul_add(1.732, -3.464)
    }

    /// How many of events that come by themselves, of a mean of so many.
    pub(crate) fn count(&mut self, mean: f64) -> u32 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.noise()).round().max(0.0) as u32;
        }
        let (mut n, mut left) = (0, mean + (1.0 - self.share()).ln());
        while left > 0.0 {
            n += 1;
            left += (1.0 - self.share()).ln();
        }
        n
    }
}

/// Share of the busiest hour's load at a second: the day has a long noon and an evening, the weekend less.
pub(crate) fn rhythm(server: u64, at: i64) -> f64 {
    let hour = at.rem_euclid(86_400) as f64 / 3600.0;
    let hill = |top: f64, width: f64| (-((hour - top) / width).powi(2)).exp();
    let day = 0.18 + 0.62 * hill(13.0, 4.2) + 0.55 * hill(20.0, 1.9);
    let is_weekend = (at.div_euclid(86_400) + 3).rem_euclid(7) >= 5;
    let week = if is_weekend { 0.78 } else { 1.0 };
    // Noise that lasts some minutes, the same whenever it is asked.
    let knot = |no: i64| Dice::new(server + 77, no).noise();
    let (no, share) = (at.div_euclid(900), at.rem_euclid(900) as f64 / 900.0);
    let noise = knot(no) * (1.0 - share) + knot(no + 1) * share;
    (day * week * (1.0 + 0.13 * noise)).max(0.02)
}

/// What was sampled at one instant: metric, attribute, value in the metric's unit.
pub(crate) type Sampled = Vec<(&'static str, String, f64)>;

/// The counters of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    at: Option<i64>,
    counters: [f64; 10],
}

impl Machine {
    /// What server number `no` measures at a second; seconds rise.
    pub(crate) fn sample(
        &mut self,
        (no, server): (usize, &Server),
        at: i64,
        end: i64,
        episode: Option<&Episode>,
    ) -> Sampled {
        let gone = self.at.map_or(0.0, |before| (at - before) as f64).clamp(0.0, 3600.0);
        self.at = Some(at);
        let kind = episode.map(|episode| episode.kind);
        let mut dice = Dice::new(no as u64 + 1, at);
        let days_left = (end - at) as f64 / 86_400.0;
        let load = rhythm(no as u64, at) * (1.0 - server.growth * days_left).max(0.2);
        let mut out = Sampled::new();
        let steal = stolen(server, at, kind, &mut dice);
        let busy = busy(server, load, kind, steal, &mut dice);
        processors(server, busy, steal, &mut dice, &mut out);
        self.memory(server, load, kind, gone, &mut dice, &mut out);
        self.disk(server, days_left, load, gone, &mut dice, &mut out);
        self.network(server, load, kind, gone, &mut dice, &mut out);
        self.pools(server, load, kind, gone, &mut dice, &mut out);
        out
    }

    fn memory(
        &mut self,
        server: &Server,
        load: f64,
        kind: Option<Kind>,
        gone: f64,
        dice: &mut Dice,
        out: &mut Sampled,
    ) {
        let children: f64 =
            server.pools.iter().map(|pool| pool.busy * load * pool.child_bytes).sum();
        let is_full = kind == Some(Kind::Oom);
        let used = server.used + children / server.memory + 0.008 * dice.noise();
        let used = if is_full { 0.955 + 0.03 * dice.share() } else { used.clamp(0.02, 0.94) };
        let swap = if is_full { 0.9 } else { ((used - 0.7) * 1.6).clamp(0.0, 0.8) };
        let stalls = if is_full { 0.25 + 0.2 * dice.share() } else { (used - 0.9).max(0.0) };
        self.counters[0] += if is_full { gone / 100.0 } else { 0.0 };
        for (metric, value) in [
            ("system.memory.limit", server.memory),
            ("system.memory.utilization", used),
            ("system.memory.available", (server.memory * (1.0 - used)).round()),
            ("system.swap.utilization", swap),
            ("system.swap.used", (swap * 2.0 * 1_073_741_824.0).round()),
            ("system.pressure.memory", stalls.min(1.0)),
            ("system.oom_kills", self.counters[0].floor()),
        ] {
            out.push((metric, String::new(), value));
        }
    }

    fn disk(
        &mut self,
        server: &Server,
        days_left: f64,
        load: f64,
        gone: f64,
        dice: &mut Dice,
        out: &mut Sampled,
    ) {
        let cleaned = 0.15e9 * (days_left * TAU / 7.0).sin();
        let used = server.full * server.disk - server.fills * days_left + cleaned;
        let used = used.clamp(0.02 * server.disk, 0.99 * server.disk);
        let moved = gone * (0.2 + load);
        for (counter, more) in self.counters[1..4].iter_mut().zip([
            moved * 180e3 * dice.share(),
            moved * 620e3 * (0.5 + dice.share()),
            moved * 45.0 * (0.5 + dice.share()),
        ]) {
            *counter += more;
        }
        let waits = 0.02 * load * dice.share();
        out.push(("system.pressure.io", String::new(), waits));
        for (metric, value) in [
            ("system.filesystem.utilization", used / server.disk),
            ("system.filesystem.free", (server.disk - used).round()),
            ("system.filesystem.inodes.utilization", 0.04 + 0.4 * used / server.disk),
        ] {
            out.push((metric, "system.filesystem.mountpoint=/".to_owned(), value));
        }
        for (metric, ix) in
            [("system.disk.io.read", 1), ("system.disk.io.write", 2), ("system.disk.io_time", 3)]
        {
            out.push((metric, "system.device=vda".to_owned(), self.counters[ix].floor()));
        }
    }

    fn network(
        &mut self,
        server: &Server,
        load: f64,
        kind: Option<Kind>,
        gone: f64,
        dice: &mut Dice,
        out: &mut Sampled,
    ) {
        let requests = server.sites.iter().map(|site| site.rate).sum::<f64>() * load * gone;
        let overflows = if matches!(kind, Some(Kind::Exhausted(_))) { gone * 0.4 } else { 0.0 };
        for (counter, more) in self.counters[4..8].iter_mut().zip([
            requests * 900.0 * (0.8 + 0.4 * dice.share()),
            requests * 46e3 * (0.8 + 0.4 * dice.share()),
            requests,
            overflows,
        ]) {
            *counter += more;
        }
        for (metric, ix) in [("system.network.io.receive", 4), ("system.network.io.transmit", 5)] {
            let attribute = "network.interface.name=eth0".to_owned();
            out.push((metric, attribute, self.counters[ix].floor()));
        }
        let open = (8.0 + load * 60.0 + 4.0 * dice.share()).round();
        for (metric, value) in [
            ("nginx.requests", self.counters[6].floor()),
            ("nginx.connections_current", open),
            ("system.tcp.established", (open * 1.4).round()),
            ("system.tcp.listen_overflows", self.counters[7].floor()),
        ] {
            out.push((metric, String::new(), value));
        }
    }

    fn pools(
        &mut self,
        server: &Server,
        load: f64,
        kind: Option<Kind>,
        gone: f64,
        dice: &mut Dice,
        out: &mut Sampled,
    ) {
        for (no, pool) in server.pools.iter().enumerate() {
            let is_full = kind == Some(Kind::Exhausted(no));
            let is_down = kind == Some(Kind::Service(no));
            let wanted = f64::from(dice.count(pool.busy * load));
            let active = match (is_full, is_down) {
                (true, _) => pool.max_children,
                (_, true) => 0.0,
                _ => wanted.min(pool.max_children - 1.0),
            };
            let total = if is_down { 0.0 } else { (active + 3.0).min(pool.max_children) };
            let waiting = if is_full { f64::from(dice.count(28.0)) } else { 0.0 };
            let counter = &mut self.counters[8 + no.min(1)];
            *counter += if is_full { gone / 15.0 } else { 0.0 };
            let each = (pool.child_bytes * (0.97 + 0.06 * dice.share())).round();
            for (metric, value) in [
                ("phpfpm.active_processes", active),
                ("phpfpm.total_processes", total),
                ("phpfpm.max_children", pool.max_children),
                ("phpfpm.listen_queue", waiting),
                ("phpfpm.max_children_reached", counter.floor()),
                ("phpfpm.memory_per_process", each),
                ("phpfpm.memory", (each * total).round()),
            ] {
                out.push((metric, format!("phpfpm.pool={}", pool.name), value));
            }
        }
    }
}

fn processors(server: &Server, busy: f64, steal: f64, dice: &mut Dice, out: &mut Sampled) {
    let iowait = (0.01 * dice.share()).min(1.0 - busy - steal).max(0.0);
    let waits = ((busy + steal - 0.72).max(0.0) * 1.4 + 0.01 * dice.share()).min(1.0);
    let user = busy * 0.74;
    for (metric, value) in [
        ("system.cpu.utilization", busy),
        ("system.cpu.user", user),
        ("system.cpu.system", busy - user),
        ("system.cpu.iowait", iowait),
        ("system.cpu.steal", steal),
        ("system.cpu.logical.count", server.vcpu),
        ("system.cpu.load_average.1m", (busy + steal) * server.vcpu * 1.1),
        ("system.processes.running", (1.0 + (busy + waits) * server.vcpu).round()),
        ("system.pressure.cpu", waits),
    ] {
        out.push((metric, String::new(), value));
    }
}

/// Share of the time that the hypervisor takes.
fn stolen(server: &Server, at: i64, kind: Option<Kind>, dice: &mut Dice) -> f64 {
    if kind == Some(Kind::Steal) {
        return 0.28 + 0.1 * dice.share();
    }
    let hour = at.rem_euclid(86_400) as f64 / 3600.0;
    let evening = (-((hour - 20.2) / 1.6).powi(2)).exp();
    (server.steal * (0.06 + evening) * (0.6 + 0.8 * dice.share())).min(0.5)
}

/// Share of the time in which processors work.
fn busy(server: &Server, load: f64, kind: Option<Kind>, steal: f64, dice: &mut Dice) -> f64 {
    let more = match kind {
        Some(Kind::Exhausted(_)) => 0.10,
        Some(Kind::Oom) => 0.22,
        _ => 0.0,
    };
    let busy = server.cpu * load * (1.0 + 0.05 * dice.noise()) + more;
    busy.clamp(0.005, (0.99 - steal).max(0.01))
}

/// Adds a tick to a body's table of series.
pub(crate) fn tick(series: &mut Vec<Series>, at: i64, sampled: Sampled) -> Tick {
    let mut tick = Tick { at_unix_ms: at * 1000, ..Tick::default() };
    for (metric, attribute, value) in sampled {
        let wire = catalog::find(metric).and_then(|row| row.to_wire(value));
        let Some(wire) = wire else { continue };
        let known = series.iter().position(|s| s.metric == metric && s.attribute == attribute);
        let ix = known.unwrap_or_else(|| {
            series.push(Series { metric: metric.to_owned(), attribute });
            series.len() - 1
        });
        tick.series.push(ix as u32);
        tick.value.push(wire);
    }
    tick
}
