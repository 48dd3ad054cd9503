//! What servers measure: thirty series that move like those of a machine that serves websites.
//!
//! Load follows the hour of day with noise that lasts minutes; everything else follows the load. All
//! of it comes from the number of the server, so that every store is given the same values.

use std::sync::LazyLock;

use wire::catalog::{self, Metric};
use wire::v1::{Series, Tick};

/// Series of a server: metric and attribute.
pub(crate) const SERIES: [(&str, &str); 30] = [
    ("system.cpu.utilization", ""),
    ("system.cpu.user", ""),
    ("system.cpu.system", ""),
    ("system.cpu.iowait", ""),
    ("system.cpu.steal", ""),
    ("system.cpu.load_average.1m", ""),
    ("system.cpu.load_average.5m", ""),
    ("system.cpu.load_average.15m", ""),
    ("system.memory.available", ""),
    ("system.memory.utilization", ""),
    ("system.memory.cached", ""),
    ("system.swap.used", ""),
    ("system.pressure.cpu", ""),
    ("system.pressure.memory", ""),
    ("system.pressure.io", ""),
    ("system.filesystem.utilization", "system.filesystem.mountpoint=/"),
    ("system.filesystem.free", "system.filesystem.mountpoint=/"),
    ("system.filesystem.inodes.utilization", "system.filesystem.mountpoint=/"),
    ("system.disk.io.read", "system.device=vda"),
    ("system.disk.io.write", "system.device=vda"),
    ("system.disk.operations", "system.device=vda"),
    ("system.disk.io_time", "system.device=vda"),
    ("system.network.io.receive", "network.interface.name=eth0"),
    ("system.network.io.transmit", "network.interface.name=eth0"),
    ("system.network.tcp.retransmit", ""),
    ("system.tcp.established", ""),
    ("system.processes.running", ""),
    ("phpfpm.active_processes", "phpfpm.pool=www"),
    ("system.sockets", ""),
    ("nginx.requests", ""),
];

/// Their rows in the catalog.
pub(crate) static METRICS: LazyLock<[&'static Metric; SERIES.len()]> =
    LazyLock::new(|| SERIES.map(|(name, _)| catalog::find(name).expect("all are in the catalog")));

/// Memory and disk of every machine, and its processors.
const MEMORY: f64 = 16.0 * 1024.0 * 1024.0 * 1024.0;
const DISK: f64 = 200e9;
const N_CPU: f64 = 8.0;

/// Numbers that look random and are the same in every run (splitmix64, Steele et al. 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
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

    /// About normal, mean 0 and deviation 1: the sum of some even ones.
    fn noise(&mut self) -> f64 {
        (0..4).map(|_| self.share()).sum::<f64>().mul_add(1.732, -3.464)
    }

    /// A time until the next of rare events, mean 1.
    fn wait(&mut self) -> f64 {
        -(1.0 - self.share()).ln()
    }

    /// How many of rare events happened, of a mean of so many.
    pub(crate) fn count(&mut self, mean: f64) -> u64 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.noise()).round().max(0.0) as u64;
        }
        let (mut n, mut left) = (0, mean - self.wait());
        while left > 0.0 {
            n += 1;
            left -= self.wait();
        }
        n
    }
}

/// One server as its probes see it.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    dice: Dice,
    /// Mean load, 0..1, and hour of its peak.
    base: f64,
    peak_s: f64,
    drift: f64,
    loads: [f64; 3],
    available: f64,
    cached: f64,
    swap: f64,
    free: f64,
    inodes: f64,
    /// Counters: bytes read and written, operations, ms, bytes in and out, requests.
    counters: [u64; 7],
    at: Option<i64>,
}

impl Machine {
    pub(crate) fn new(server: u64) -> Self {
        let mut dice = Dice::new(server + 1);
        let base = 0.04 + 0.4 * dice.share().powi(2);
        let peak_s = (13.0 + 6.0 * dice.share()) * 3600.0;
        let available = MEMORY * (0.25 + 0.5 * dice.share());
        let counters = std::array::from_fn(|_| dice.next() >> 24);
        let swap = if dice.share() < 0.5 { 0.0 } else { 2e8 * dice.share() };
        Self {
            base,
            peak_s,
            drift: 0.0,
            loads: [base * N_CPU; 3],
            available,
            cached: (MEMORY - available) * 0.8,
            swap,
            free: DISK * (0.2 + 0.6 * dice.share()),
            inodes: 0.02 + 0.3 * dice.share(),
            counters,
            at: None,
            dice,
        }
    }

    /// What is sampled at a second; seconds rise. As the wire carries it, in the order of [`SERIES`].
    pub(crate) fn sample(&mut self, second: i64) -> [i64; SERIES.len()] {
        let gone = self.at.map_or(10.0, |at| (second - at) as f64).clamp(1.0, 3600.0);
        self.at = Some(second);
        let dice = &mut self.dice;
        // Noise that is forgotten within two minutes, and what one sample alone has.
        let kept = (-gone / 120.0).exp();
        self.drift = self.drift * kept + dice.noise() * 0.25 * (1.0 - kept * kept).sqrt();
        let turn = (second as f64 - self.peak_s) / 86_400.0 * std::f64::consts::TAU;
        let level = self.base * (1.0 + 0.6 * turn.cos()) * (1.0 + self.drift).max(0.1);
        let cron = if second.rem_euclid(300) < 20 { 0.03 * dice.share() } else { 0.0 };
        let busy = (level * (1.0 + 0.12 * dice.noise()) + cron).clamp(0.001, 0.97);
        let user = busy * (0.72 + 0.04 * dice.noise()).clamp(0.4, 0.95);
        let iowait = (0.002 * dice.wait() * (1.0 + 4.0 * level)).min(0.97 - busy).max(0.0);
        let steal = if dice.share() < 0.8 { 0.0 } else { 0.001 * dice.wait().min(9.0) };
        for (load, span) in self.loads.iter_mut().zip([60.0, 300.0, 900.0]) {
            let kept = (-gone / span).exp();
            *load = *load * kept + busy * N_CPU * (1.0 - kept);
        }
        self.go_on(level, gone);
        let dice = &mut self.dice;
        let resent = if dice.share() < 0.7 { 0.0 } else { 0.002 * dice.wait().min(9.0) };
        let open = dice.count(20.0 + level * 300.0) as f64;
        let pages = |bytes: f64| (bytes / 4096.0).floor() * 4096.0;
        let [read, write, operations, busy_ms, received, sent, served] =
            self.counters.map(|counter| counter as f64);
        let values = [
            busy,
            user,
            busy - user,
            iowait,
            steal,
            self.loads[0],
            self.loads[1],
            self.loads[2],
            pages(self.available),
            1.0 - self.available / MEMORY,
            pages(self.cached),
            pages(self.swap),
            (busy * busy * 0.3 * dice.share()).min(1.0),
            0.0,
            (iowait * 2.0 * dice.share()).min(1.0),
            1.0 - self.free / DISK,
            pages(self.free),
            self.inodes,
            read,
            write,
            operations,
            busy_ms,
            received,
            sent,
            resent,
            open,
            1.0 + dice.count(busy * 3.0) as f64,
            dice.count(level * 12.0) as f64,
            open + 140.0 + dice.count(2.0) as f64,
            served,
        ];
        let mut row = [0; SERIES.len()];
        for ((slot, value), metric) in row.iter_mut().zip(values).zip(METRICS.iter()) {
            *slot = metric.to_wire(value).expect("all are in range");
        }
        row
    }

    /// Memory, disk and counters after some seconds at a load.
    fn go_on(&mut self, level: f64, gone: f64) {
        let dice = &mut self.dice;
        self.available =
            (self.available + dice.noise() * 2e6 * gone.sqrt()).clamp(MEMORY * 0.1, MEMORY * 0.9);
        self.cached = (self.cached + dice.noise() * 5e5 * gone.sqrt())
            .clamp(MEMORY * 0.02, MEMORY - self.available);
        if self.swap > 0.0 && dice.share() < 0.01 {
            self.swap = (self.swap + dice.noise() * 1e5).max(4096.0);
        }
        self.free = (self.free - dice.noise().abs() * 3e4 * gone + 2e4 * gone).clamp(1e9, DISK);
        self.inodes = (self.inodes + dice.noise() * 1e-6).clamp(0.001, 0.999);
        let requests = dice.count(level * 60.0 * gone);
        let moved = requests as f64;
        let disk = if dice.share() < 0.6 { 0 } else { dice.count(2.0 * gone) };
        let written = dice.count((1.0 + level * 20.0) * gone);
        for (counter, more) in self.counters.iter_mut().zip([
            disk * 16_384,
            written * 4096 + dice.count(gone) * 512,
            disk + written,
            dice.count(level * 15.0 * gone),
            (moved * 900.0 * (1.0 + 0.2 * dice.noise())).max(0.0) as u64,
            (moved * 24e3 * (1.0 + 0.3 * dice.noise())).max(0.0) as u64,
            requests,
        ]) {
            *counter += more;
        }
    }
}

/// The table of the first `n` series, as a body has it.
pub(crate) fn table(n: usize) -> Vec<Series> {
    let series = |(metric, attribute): &(&str, &str)| Series {
        metric: (*metric).to_owned(),
        attribute: (*attribute).to_owned(),
    };
    SERIES.iter().take(n).map(series).collect()
}

/// A tick of the first `n` series.
pub(crate) fn tick(second: i64, row: &[i64], n: usize) -> Tick {
    let series = (0..n as u32).collect();
    Tick { at_unix_ms: second * 1000, series, value: row[..n].to_vec() }
}
