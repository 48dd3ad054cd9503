//! Resource levels of one server: what its samples show, since when, and of what.

use serde::{Deserialize, Serialize};

use super::server::{FACTS_MS, LINE_FRESH_MS, Server};

/// Span over which the rate of requests is taken, seconds.
const RATE_S: i64 = 30;
/// Memory of what the rate usually is, seconds, and how many times that is a rise.
const PACE_S: f64 = 300.0;
const RISES_TIMES: f64 = 3.0;
/// How many times the norm, and how many a second, make a surge.
const SURGE_TIMES: f64 = 6.0;
const SURGE_MIN: f64 = 1.0;
/// Times in which a level held that are remembered: a counter that rises again and again has many,
/// and the first of them says when it began.
const SPELLS_MAX: usize = 16;
/// Gauges whose last value is kept.
const GAUGES_MAX: usize = 1000;
/// Share of all requests that a network of clients, or crawlers, must have to be the reason.
const CROWD: f64 = 0.5;
/// Counters whose last value is kept: no honest server has more pools and devices.
const COUNTERS_MAX: usize = 2000;
/// A level that held before and after a gap this short held all the time, ms.
const SPELL_GAP_MS: i64 = 20_000;
/// How far from the first failure a sample of who uses the machine may lie, ms.
const TOP_MS: i64 = 120_000;

/// What a resource sample can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// The kernel killed a process for lack of memory.
    OomKill,
    /// Processes stall for memory.
    MemoryPressure,
    /// Little memory is available.
    MemoryLow,
    /// The processors are busy.
    CpuBusy,
    /// Processes wait for a processor.
    CpuPressure,
    /// The hypervisor takes the processors away.
    Steal,
    /// Processes wait for disks.
    IoPressure,
    /// PHP-FPM ran out of children or requests queue for one.
    MaxChildren,
    /// Full listen queues dropped connections.
    ListenOverflow,
    /// The connection table fills up.
    Conntrack,
    /// Segments are sent again.
    Retransmit,
    /// A file system has no room.
    DiskFull,
    /// Requests come far faster than is normal at this hour of the day.
    Surge,
    /// The agent cannot connect to a backend.
    UpstreamDown,
    /// One network of clients sends most of the requests.
    TopClient,
    /// Crawlers send most of the requests.
    Crawler,
}

impl Level {
    /// Every level, in the order in which evidence is looked for.
    pub const ALL: [Self; 16] = [
        Self::OomKill,
        Self::MemoryPressure,
        Self::MemoryLow,
        Self::CpuBusy,
        Self::CpuPressure,
        Self::Steal,
        Self::IoPressure,
        Self::MaxChildren,
        Self::ListenOverflow,
        Self::Conntrack,
        Self::Retransmit,
        Self::DiskFull,
        Self::Surge,
        Self::UpstreamDown,
        Self::TopClient,
        Self::Crawler,
    ];

    /// Name of its row in the evidence table.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::OomKill => "oom_kill",
            Self::MemoryPressure => "memory_pressure",
            Self::MemoryLow => "memory_low",
            Self::CpuBusy => "cpu_busy",
            Self::CpuPressure => "cpu_pressure",
            Self::Steal => "steal",
            Self::IoPressure => "io_pressure",
            Self::MaxChildren => "max_children",
            Self::ListenOverflow => "listen_overflow",
            Self::Conntrack => "conntrack",
            Self::Retransmit => "retransmit",
            Self::DiskFull => "file_system_full",
            Self::Surge => "surge",
            Self::UpstreamDown => "upstream_down",
            Self::TopClient => "top_client",
            Self::Crawler => "crawler",
        }
    }
}

/// A time in which a level held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spell {
    /// Since when, corrected.
    pub began: i64,
    /// When it was last seen to hold.
    pub held: i64,
    /// The highest value.
    pub value: f64,
    /// What it is of: a pool, a file system, an upstream; "" the server.
    pub of: String,
}

/// A level over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// When the last time it held began.
    pub began: Option<i64>,
    /// When it was last seen to hold.
    pub held: Option<i64>,
    /// When it was last sampled.
    pub sampled: i64,
    /// The highest value of the last time it held.
    pub value: f64,
}

impl Server {
    pub(crate) fn fold_value(&mut self, at: i64, metric: &str, attribute: &str, value: f64) {
        if is_gauge(metric) {
            self.gauge_at(at, metric, attribute, value);
        }
        let level = match metric {
            "system.pressure.memory" => (Level::MemoryPressure, value > 0.15),
            "system.memory.utilization" => (Level::MemoryLow, value > 0.92),
            "system.cpu.utilization" => (Level::CpuBusy, value > 0.85),
            "system.pressure.cpu" => (Level::CpuPressure, value > 0.20),
            "system.cpu.steal" => (Level::Steal, value > 0.15),
            "system.pressure.io" => (Level::IoPressure, value > 0.10),
            "phpfpm.listen_queue" => (Level::MaxChildren, value > 0.0),
            "system.conntrack.utilization" => (Level::Conntrack, value > 0.60),
            "system.network.tcp.retransmit" => (Level::Retransmit, value > 0.05),
            "system.filesystem.utilization" | "system.filesystem.inodes.utilization" => {
                (Level::DiskFull, value > 0.99)
            }
            "system.oom_kills" => (Level::OomKill, self.rise(metric, attribute, value) > 0.0),
            "phpfpm.max_children_reached" => {
                (Level::MaxChildren, self.rise(metric, attribute, value) > 0.0)
            }
            "system.tcp.listen_overflows" | "system.tcp.listen_drops" => {
                (Level::ListenOverflow, self.rise(metric, attribute, value) > 20.0)
            }
            "gatewatch.upstream.up" => (Level::UpstreamDown, value < 0.5),
            "http.server.request.top_client.share" => (Level::TopClient, value > CROWD),
            "http.server.request.crawler.share" => (Level::Crawler, value > CROWD),
            _ => return,
        };
        let (level, holds) = level;
        self.note(at, level, attribute, holds, value);
    }

    fn gauge_at(&mut self, at: i64, metric: &str, attribute: &str, value: f64) {
        let name = format!("{metric}{{{attribute}}}");
        if self.gauges.len() >= GAUGES_MAX && !self.gauges.contains_key(&name) {
            let oldest = self.gauges.iter().min_by_key(|(_, (at, _))| *at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.gauges.remove(&oldest);
        }
        self.gauges.insert(name, (at, value));
    }

    /// Last value of a gauge of this pool, or of none when that is all that is known.
    #[must_use]
    pub fn gauge(&self, metric: &str, pool: Option<&str>) -> Option<f64> {
        let of_pool = pool.map(|pool| format!("{metric}{{phpfpm.pool={pool}}}"));
        let own = of_pool.and_then(|name| self.gauges.get(&name));
        own.or_else(|| self.gauges.get(&format!("{metric}{{}}"))).map(|(_, value)| *value)
    }

    /// Who used most of a resource shortly before or after `first`: attribute and value.
    #[must_use]
    pub fn top(&self, metric: &str, first: i64) -> Option<(&str, f64)> {
        let head = format!("{metric}{{");
        let near = |at: i64| at >= first - TOP_MS && at <= first + TOP_MS;
        let users = self.gauges.range(head.clone()..).take_while(|(k, _)| k.starts_with(&head));
        let named = users.filter(|(_, (at, _))| near(*at)).filter_map(|(name, (_, value))| {
            let attribute = name.strip_prefix(&head)?.strip_suffix('}')?;
            (!attribute.is_empty()).then_some((attribute, *value))
        });
        named.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Adds requests of one second, of sites whose norm is known.
    pub(crate) fn fold_requests(&mut self, second: i64, n: u32) {
        *self.requests.entry(second).or_default() += u64::from(n);
        while self.requests.len() > RATE_S as usize {
            self.requests.pop_first();
        }
        self.requests_since.get_or_insert(second);
    }

    /// Newest second with such requests.
    pub(crate) fn requested(&self) -> Option<i64> {
        self.requests.last_key_value().map(|(second, _)| *second)
    }

    /// Compares the requests of the newest seconds with the norm, requests a second. A norm that is
    /// the mean of all hours is a poor one: then they must also have risen lately.
    pub(crate) fn weigh_requests(&mut self, norm: f64, is_mean: bool) {
        let Some(second) = self.requested().filter(|_| norm > 0.0) else { return };
        let Some(since) = self.requests_since.filter(|since| second - since >= RATE_S) else {
            return;
        };
        let recent = self.requests.range(second - RATE_S + 1..);
        let rate = recent.map(|(_, n)| n).sum::<u64>() as f64 / RATE_S as f64;
        let (paced, pace) = self.pace.unwrap_or((since, rate));
        let rises = rate > RISES_TIMES * pace;
        let surges = rate > SURGE_MIN && rate > SURGE_TIMES * norm && (rises || !is_mean);
        // What surges is not what is usual.
        let gained = if surges { 0.0 } else { 1.0 - (-((second - paced) as f64) / PACE_S).exp() };
        self.pace = Some((second, pace + (rate - pace) * gained));
        self.note(second * 1000, Level::Surge, "", surges, rate / norm);
    }

    /// Notes whether a level holds at an instant.
    fn note(&mut self, at: i64, level: Level, of: &str, holds: bool, value: f64) {
        if holds {
            self.spell(at, level, of, value);
        }
        let span = self.levels.entry(level).or_default();
        if span.sampled > at {
            return;
        }
        // Several series may speak of one level at one instant: one that holds is enough.
        let again = span.sampled == at && span.held == Some(at);
        let ongoing = span.held == Some(span.sampled) && span.held.is_some();
        if holds {
            if !ongoing {
                span.began = Some(at);
            }
            span.held = Some(at);
            span.value = if again || ongoing { span.value.max(value) } else { value };
        }
        span.sampled = at;
    }

    /// Adds to the time in which a level of something holds, or begins another.
    fn spell(&mut self, at: i64, level: Level, of: &str, value: f64) {
        // Other series of the level may have been sampled in between.
        let last = self.levels.get(&level).map_or(i64::MIN, |span| span.sampled);
        let spells = self.spells.entry(level).or_default();
        let ongoing = spells.iter_mut().rev().find(|spell| spell.of == of);
        match ongoing.filter(|spell| at >= spell.began && spell.held >= last.min(at - SPELL_GAP_MS))
        {
            Some(spell) => {
                spell.held = spell.held.max(at);
                spell.value =
                    if level == Level::UpstreamDown { value } else { spell.value.max(value) };
            }
            None => spells.push_back(Spell { began: at, held: at, value, of: of.to_owned() }),
        }
        while spells.len() > SPELLS_MAX || spells.front().is_some_and(|s| s.held < at - FACTS_MS) {
            spells.pop_front();
        }
    }

    /// A time in which a level of something that `is_of` wants held: it began at most `slack` ms
    /// after `first` and held shortly before or after it. The first that did.
    #[must_use]
    pub fn held(
        &self,
        level: Level,
        first: i64,
        slack: i64,
        is_of: &dyn Fn(&str) -> bool,
    ) -> Option<&Spell> {
        let near = |s: &&Spell| s.began <= first + slack && s.held >= first - LINE_FRESH_MS;
        self.spells.get(&level)?.iter().filter(near).find(|spell| is_of(&spell.of))
    }

    /// Whether a level was ever sampled.
    #[must_use]
    pub fn samples(&self, level: Level) -> bool {
        self.levels.contains_key(&level)
    }

    /// How much a counter rose since it was last seen; 0 the first time and after a boot.
    fn rise(&mut self, metric: &str, attribute: &str, value: f64) -> f64 {
        let name = format!("{metric}{{{attribute}}}");
        if self.counters.len() >= COUNTERS_MAX && !self.counters.contains_key(&name) {
            return 0.0;
        }
        let before = self.counters.insert(name, value);
        before.map_or(0.0, |before| (value - before).max(0.0))
    }

    /// Whether a level was sampled around `first` and did not hold.
    #[must_use]
    pub fn is_normal(&self, level: Level, first: i64) -> bool {
        self.levels.get(&level).is_some_and(|span| {
            span.sampled >= first - LINE_FRESH_MS
                && span.held.is_none_or(|held| held < first - LINE_FRESH_MS)
        })
    }
}

/// Whether the last value of a metric is kept for words and commands.
fn is_gauge(metric: &str) -> bool {
    const NAMES: [&str; 8] = [
        "phpfpm.max_children",
        "phpfpm.memory_per_process",
        "phpfpm.total_processes",
        "system.memory.limit",
        "system.memory.available",
        "process.cpu.utilization",
        "process.memory.usage",
        "process.disk.io",
    ];
    NAMES.contains(&metric)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServerId;

    #[test]
    fn evidence_shows_the_value_that_held_not_the_one_after_it() {
        let mut server = Server::new(ServerId(1));
        for (at, value) in [(1_000, 0.2), (2_000, 0.4), (3_000, 0.3), (4_000, 0.0)] {
            server.fold_value(at, "system.pressure.memory", "", value);
        }
        let spell = server.held(Level::MemoryPressure, 2_000, 0, &|_| true).expect("it held");
        assert_eq!((spell.began, spell.held, spell.value), (1_000, 3_000, 0.4));
    }

    #[test]
    fn requests_far_above_the_norm_are_a_surge_only_if_they_rose() {
        let play = |is_mean: bool, rate: &dyn Fn(i64) -> u32| {
            let mut server = Server::new(ServerId(1));
            for second in 0..300 {
                server.fold_requests(second, rate(second));
                server.weigh_requests(2.0, is_mean);
            }
            let spell = server.held(Level::Surge, 300_000, 0, &|_| true);
            spell.map(|spell| (spell.began / 1000, (spell.value * 10.0).round() / 10.0))
        };
        let jump = |second: i64| if second < 200 { 2 } else { 40 };
        assert_eq!(play(false, &jump), Some((207, 20.0)));
        assert_eq!(play(true, &jump), Some((207, 20.0)));
        assert!(play(false, &|_| 40).is_some(), "the norm of this very hour");
        assert_eq!(play(true, &|_| 40), None, "it was so all the time: the mean is a poor norm");
        assert_eq!(play(true, &|second| 2 + second as u32 % 5), None);
    }

    #[test]
    fn a_counter_that_rises_again_and_again_began_with_its_first_rise() {
        let mut server = Server::new(ServerId(1));
        for (at, value) in [(0, 1.0), (10_000, 2.0), (20_000, 2.0), (40_000, 2.0), (50_000, 3.0)] {
            server.fold_value(at, "system.oom_kills", "", value);
        }
        let began = |first| server.held(Level::OomKill, first, 10_000, &|_| true).map(|s| s.began);
        assert_eq!((began(5_000), began(45_000)), (Some(10_000), Some(10_000)));
        assert_eq!(began(200_000), None, "that was long ago");
        assert!(!server.is_normal(Level::OomKill, 5_000));
    }

    #[test]
    fn what_runs_dry_in_one_pool_is_not_of_another() {
        let mut server = Server::new(ServerId(1));
        server.fold_value(1_000, "phpfpm.listen_queue", "phpfpm.pool=shop", 3.0);
        server.fold_value(1_000, "phpfpm.listen_queue", "phpfpm.pool=www", 0.0);
        server.fold_value(1_000, "phpfpm.max_children", "phpfpm.pool=www", 5.0);
        server.fold_value(1_000, "process.cpu.utilization", "process.owner=shop", 0.7);
        server.fold_value(1_000, "process.cpu.utilization", "process.owner=mysql", 0.1);
        let of = |pool: &'static str| {
            let is_of = move |of: &str| of.ends_with(pool);
            server.held(Level::MaxChildren, 1_000, 0, &is_of).is_some()
        };
        assert!(of("=shop") && !of("=www"));
        assert_eq!(server.gauge("phpfpm.max_children", Some("www")), Some(5.0));
        assert_eq!(server.gauge("phpfpm.max_children", Some("shop")), None);
        let top = server.top("process.cpu.utilization", 0);
        assert_eq!(top, Some(("process.owner=shop", 0.7)));
    }
}
