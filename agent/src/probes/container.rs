//! The limits of a container that the machine is, and what it uses of them.
//!
//! From its control group ([`super::cgroup`]), or on CloudLinux from the agent's own LVE
//! ([`super::lve`]); OpenVZ counts its refusals beside ([`super::beancounters`]). On a machine that
//! is no container nothing of this is told, and nothing misses.
//!
//! Where a limit is in force, `system.memory.*` and `system.cpu.utilization` are against it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::beancounters::Beancounters;
use super::groups::Groups;
use super::lve::Lve;
use super::rise::rise;
use super::{Detail, Values, push};

/// A shorter time between two looks gives no honest share.
const SPAN_MIN: Duration = Duration::from_millis(100);

/// What is read of a container at one instant, from whatever limits it; `None`: not told there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    pub(crate) memory_limit: Option<u64>,
    /// Without what the kernel only caches and gives back first.
    pub(crate) memory_used: Option<u64>,
    /// In the container, its neighbours' not among them.
    pub(crate) n_oom_kills: Option<u64>,
    /// Times memory was at its limit.
    pub(crate) n_memory_failures: Option<u64>,
    /// Processors it may use, also parts of one.
    pub(crate) cpu_limit: Option<f64>,
    pub(crate) cpu_ns: Option<u64>,
    /// Periods of the scheduler in which it wanted to run, those in which it was stopped, and for
    /// how long.
    pub(crate) n_periods: Option<u64>,
    pub(crate) n_throttled: Option<u64>,
    pub(crate) throttled_ms: Option<u64>,
    pub(crate) n_pids: Option<u64>,
    pub(crate) pids_max: Option<u64>,
    pub(crate) n_pids_failures: Option<u64>,
    /// Requests that run inside an LVE at this moment, how many may, and how many were refused.
    pub(crate) n_entries: Option<u64>,
    pub(crate) entries_max: Option<u64>,
    pub(crate) n_entries_failures: Option<u64>,
}

/// Memory as the container has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnMemory {
    /// Where there is a limit.
    pub(crate) limit_and_used: Option<(u64, u64)>,
    pub(crate) oom_kills: OomKills,
}

/// Whose processes the kernel killed for want of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OomKills {
    /// Everybody's: this is no container.
    #[default]
    OfMachine,
    /// The container's, as far as they can be read now. The machine's never stand in for them: they are
    /// its neighbours' as well.
    Own(Option<u64>),
}

/// Processors as the container has them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OwnCpu {
    /// The machine's utilization is not the container's.
    pub(crate) is_limited: bool,
    /// Share of the limit used since the last look; `None` at the first.
    pub(crate) share: Option<f64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Container {
    groups: Groups,
    lve: Lve,
    beancounters: Beancounters,
    last: Option<(Instant, Reading)>,
    share: Option<f64>,
}

impl Container {
    /// Looks for limits below `root`, which is `/` but in tests.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            groups: Groups::new(root),
            lve: Lve::new(root, rustix::process::getuid().as_raw()),
            beancounters: Beancounters::new(root),
            last: None,
            share: None,
        }
    }

    /// Directory of the container's group where it is certain that this is a container and it has
    /// files of its own: only there is its pressure.
    pub(crate) fn unified_dir(&self) -> Option<PathBuf> {
        self.groups.unified_dir()
    }

    /// Looks again what the limits are; they may be changed while the container runs.
    pub(crate) fn refresh(&mut self) {
        self.groups.refresh();
        self.lve.refresh();
    }

    /// Adds what the container uses, and returns what the machine's own metrics are against.
    pub(crate) fn sample(
        &mut self,
        now: Instant,
        detail: Detail,
        out: &mut Values,
    ) -> (OwnMemory, OwnCpu) {
        if detail == Detail::Full {
            self.beancounters.sample(out);
        }
        let lve = self.lve.read();
        // What others on the machine do is not this account's either.
        let is_container = lve.is_some() || self.groups.is_container();
        let reading = lve.or_else(|| self.groups.read());
        let oom_kills = if is_container {
            OomKills::Own(reading.and_then(|own| own.n_oom_kills))
        } else {
            OomKills::OfMachine
        };
        let Some(reading) = reading else {
            return (OwnMemory { limit_and_used: None, oom_kills }, OwnCpu::default());
        };
        push_reading(reading, detail, out);
        match self.last {
            None => self.last = Some((now, reading)),
            Some((at, last)) => {
                let span = now.saturating_duration_since(at);
                if span >= SPAN_MIN {
                    self.share = push_used(last, reading, span, out);
                    self.last = Some((now, reading));
                }
            }
        }
        let limit_and_used = reading.memory_limit.zip(reading.memory_used);
        let memory = OwnMemory { limit_and_used, oom_kills };
        let is_limited = reading.cpu_limit.is_some() && reading.cpu_ns.is_some();
        (memory, OwnCpu { is_limited, share: self.share.filter(|_| is_limited) })
    }
}

/// Levels and counters.
fn push_reading(reading: Reading, detail: Detail, out: &mut Values) {
    let bytes = |n: Option<u64>| n.map(|n| n as f64);
    for (metric, value) in [
        ("container.memory.limit", bytes(reading.memory_limit)),
        ("container.memory.usage", bytes(reading.memory_used)),
        ("container.memory.utilization", ratio(reading.memory_used, reading.memory_limit)),
        ("container.memory.oom_kills", bytes(reading.n_oom_kills)),
        ("container.cpu.limit", reading.cpu_limit),
        ("container.cpu.throttled_time", bytes(reading.throttled_ms)),
        ("container.pids.utilization", ratio(reading.n_pids, reading.pids_max)),
        ("lve.entry_processes.utilization", ratio(reading.n_entries, reading.entries_max)),
    ] {
        if let Some(value) = value {
            push(out, metric, value);
        }
    }
    if detail == Detail::Core {
        return;
    }
    for (metric, n) in [
        ("container.memory.failures", reading.n_memory_failures),
        ("container.pids.count", reading.n_pids),
        ("container.pids.limit", reading.pids_max),
        ("container.pids.failures", reading.n_pids_failures),
        ("lve.entry_processes.failures", reading.n_entries_failures),
    ] {
        if let Some(n) = n {
            push(out, metric, n as f64);
        }
    }
}

/// Processor time since the last look: processors used, and the share of periods in which it was
/// stopped. Returns the share of the limit.
fn push_used(last: Reading, now: Reading, span: Duration, out: &mut Values) -> Option<f64> {
    let rose = |last: Option<u64>, now: Option<u64>| rise(last?, now?);
    if let (Some(n_periods @ 1..), Some(n_throttled)) =
        (rose(last.n_periods, now.n_periods), rose(last.n_throttled, now.n_throttled))
    {
        let share = (n_throttled as f64 / n_periods as f64).min(1.0);
        push(out, "container.cpu.throttled", share);
    }
    let used = rose(last.cpu_ns, now.cpu_ns)? as f64 / span.as_nanos() as f64;
    push(out, "container.cpu.usage", used);
    now.cpu_limit.map(|limit| (used / limit).clamp(0.0, 1.0))
}

fn ratio(used: Option<u64>, limit: Option<u64>) -> Option<f64> {
    let limit = limit.filter(|limit| *limit > 0)?;
    Some((used? as f64 / limit as f64).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that two looks a second apart give, by name.
    fn told(last: Reading, now: Reading) -> (Vec<(&'static str, f64)>, Option<f64>) {
        let mut out = Values::new();
        push_reading(now, Detail::Full, &mut out);
        let share = push_used(last, now, Duration::from_secs(1), &mut out);
        (out.into_iter().map(|(metric, _, value)| (metric, value)).collect(), share)
    }

    #[test]
    fn usage_is_told_against_the_limits() {
        let last = Reading {
            memory_limit: Some(1000),
            memory_used: Some(100),
            cpu_limit: Some(1.5),
            cpu_ns: Some(5_000_000_000),
            n_periods: Some(100),
            n_throttled: Some(7),
            ..Reading::default()
        };
        let now = Reading {
            memory_used: Some(250),
            cpu_ns: Some(5_750_000_000),
            n_periods: Some(110),
            n_throttled: Some(12),
            throttled_ms: Some(420),
            n_oom_kills: Some(2),
            n_pids: Some(30),
            pids_max: Some(40),
            ..last
        };
        let want = [
            ("container.memory.limit", 1000.0),
            ("container.memory.usage", 250.0),
            ("container.memory.utilization", 0.25),
            ("container.memory.oom_kills", 2.0),
            ("container.cpu.limit", 1.5),
            ("container.cpu.throttled_time", 420.0),
            ("container.pids.utilization", 0.75),
            ("container.pids.count", 30.0),
            ("container.pids.limit", 40.0),
            ("container.cpu.throttled", 0.5),
            ("container.cpu.usage", 0.75),
        ];
        assert_eq!(told(last, now), (want.to_vec(), Some(0.5)));
    }

    #[test]
    fn a_container_that_was_started_again_and_one_without_limits_say_what_they_know() {
        let last = Reading { cpu_ns: Some(9_000_000_000_000), ..Reading::default() };
        let now = Reading { cpu_ns: Some(5), n_periods: Some(0), ..Reading::default() };
        assert_eq!(told(last, now), (Vec::new(), None));
        let now = Reading { cpu_ns: Some(9_002_000_000_000), ..Reading::default() };
        assert_eq!(told(last, now), (vec![("container.cpu.usage", 2.0)], None));
        assert_eq!(told(Reading::default(), Reading::default()), (Vec::new(), None));
        let full = Reading { memory_used: Some(5), memory_limit: Some(0), ..Reading::default() };
        assert_eq!(
            told(full, full),
            (vec![("container.memory.limit", 0.0), ("container.memory.usage", 5.0),], None)
        );
    }

    #[test]
    fn kills_of_the_machine_never_stand_in_for_those_of_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/mountinfo", "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        write("proc/1/cgroup", "0::/\n");
        write("sys/fs/cgroup/cgroup.events", "populated 1\n");
        write("sys/fs/cgroup/memory.current", "5000\n");
        let mut container = Container::new(dir.path());
        let mut kills = || {
            let (memory, _) =
                container.sample(crate::clock::instant(), Detail::Core, &mut Values::new());
            memory.oom_kills
        };
        assert_eq!(kills(), OomKills::Own(None), "this kernel counts none");
        write("sys/fs/cgroup/memory.events", "max 0\noom_kill 3\n");
        let own = OomKills::Own(Some(3));
        assert!((0..20).any(|_| kills() == own), "a file that comes late is found");
        write("sys/fs/cgroup/memory.events", "");
        assert_eq!(kills(), OomKills::Own(None));
        let plain = Container::new(&dir.path().join("proc")).sample(
            crate::clock::instant(),
            Detail::Full,
            &mut Values::new(),
        );
        assert_eq!(plain, Default::default());
    }
}
