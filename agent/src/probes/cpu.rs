//! CPU time by state with steal and iowait, the run queue, and how many processors there are.
//!
//! What contains what: `utilization` is `user` and `system`; `user` holds `nice`, `system` holds
//! `interrupt` and `softirq`; with `iowait`, `steal` and `idle` they add up to 1.

use super::container::OwnCpu;
use super::procfile::ProcFile;
use super::rise::rise;
use super::{Detail, Values, push};

/// Fewer ticks than this between two looks (0.1 s of two processors) give no honest share.
const TICKS_MIN: u64 = 20;

/// Shares of CPU time since the last look.
#[derive(Debug)]
pub(crate) struct Cpu {
    stat: ProcFile,
    last: Option<Ticks>,
}

/// The line `cpu` of /proc/stat, in clock ticks since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    user: u64,
    nice: u64,
    system: u64,
    idle: u64,
    iowait: u64,
    interrupt: u64,
    softirq: u64,
    steal: u64,
}

/// What /proc/stat says now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stat {
    ticks: Ticks,
    n_processors: u64,
    /// Threads that run or wait for a processor, the reader of the file among them.
    n_running: Option<u64>,
    /// Threads that wait for a disk and cannot even be killed.
    n_blocked: Option<u64>,
}

impl Cpu {
    pub(crate) fn new() -> Self {
        Self { stat: ProcFile::new("/proc/stat"), last: None }
    }

    /// `own`: what a container with a limit used of it, which then is the utilization.
    pub(crate) fn sample(&mut self, own: OwnCpu, detail: Detail, out: &mut Values) {
        let stat = self.stat.read().and_then(parse_stat);
        let rose = self.last.zip(stat).and_then(|(last, stat)| rose(last, stat.ticks));
        if let Some(rose) = rose.filter(|rose| rose.total() >= TICKS_MIN) {
            push_shares(rose, !own.is_limited, detail, out);
            self.last = stat.map(|stat| stat.ticks);
        } else if rose.is_none() {
            // The first look, or the counters went back. Too short a time keeps the older baseline.
            self.last = stat.map(|stat| stat.ticks);
        }
        if let Some(share) = own.share {
            push(out, "system.cpu.utilization", share);
        }
        let Some(stat) = stat else { return };
        for (metric, n) in [
            ("system.processes.running", stat.n_running),
            ("system.processes.blocked", stat.n_blocked),
        ] {
            if let Some(n) = n {
                push(out, metric, n as f64);
            }
        }
        if detail == Detail::Full && stat.n_processors > 0 {
            push(out, "system.cpu.logical.count", stat.n_processors as f64);
        }
    }
}

impl Ticks {
    fn total(self) -> u64 {
        self.busy().saturating_add(self.idle).saturating_add(self.iowait).saturating_add(self.steal)
    }

    fn busy(self) -> u64 {
        [self.user, self.nice, self.system, self.interrupt, self.softirq]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are part of user.
fn parse_ticks(line: &str) -> Option<Ticks> {
    let mut fields = [0_u64; 8];
    let mut n_fields = 0;
    for (field, word) in fields.iter_mut().zip(line.split_ascii_whitespace()) {
        *field = word.parse().ok()?;
        n_fields += 1;
    }
    let [user, nice, system, idle, iowait, interrupt, softirq, steal] = fields;
    (n_fields >= 4).then_some(Ticks { user, nice, system, idle, iowait, interrupt, softirq, steal })
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (mut stat, mut ticks) = (Stat::default(), None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("cpu") {
            match rest.as_bytes().first() {
                Some(b' ') => ticks = parse_ticks(rest),
                Some(b'0'..=b'9') => stat.n_processors += 1,
                _ => {}
            }
        } else if let Some(n) = line.strip_prefix("procs_running ") {
            stat.n_running = n.trim().parse().ok();
        } else if let Some(n) = line.strip_prefix("procs_blocked ") {
            stat.n_blocked = n.trim().parse().ok();
        }
    }
    ticks.map(|ticks| Stat { ticks, ..stat })
}

/// Ticks between two looks; `None` when the counters went back, as they do when a container boots.
fn rose(last: Ticks, now: Ticks) -> Option<Ticks> {
    rise(last.total(), now.total())?;
    // Idle and iowait may step back a little on a machine with hot-plugged or sleeping processors.
    let since = |last: u64, now: u64| rise(last, now).unwrap_or(0);
    Some(Ticks {
        user: since(last.user, now.user),
        nice: since(last.nice, now.nice),
        system: since(last.system, now.system),
        idle: since(last.idle, now.idle),
        iowait: since(last.iowait, now.iowait),
        interrupt: since(last.interrupt, now.interrupt),
        softirq: since(last.softirq, now.softirq),
        steal: since(last.steal, now.steal),
    })
}

/// Shares of the time between two looks. Utilization is what this machine's own work took: neither
/// idle, nor waiting for a disk, nor stolen by the hypervisor.
fn push_shares(rose: Ticks, is_utilization: bool, detail: Detail, out: &mut Values) {
    let total = rose.total() as f64;
    let mut share = |metric, ticks: u64| push(out, metric, ticks as f64 / total);
    if is_utilization {
        share("system.cpu.utilization", rose.busy());
    }
    share("system.cpu.user", rose.user.saturating_add(rose.nice));
    let interrupts = rose.interrupt.saturating_add(rose.softirq);
    share("system.cpu.system", rose.system.saturating_add(interrupts));
    share("system.cpu.iowait", rose.iowait);
    share("system.cpu.steal", rose.steal);
    if detail == Detail::Full {
        share("system.cpu.nice", rose.nice);
        share("system.cpu.interrupt", rose.interrupt);
        share("system.cpu.softirq", rose.softirq);
        share("system.cpu.idle", rose.idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_line_of_every_kernel_is_read() {
        let check = |text: &str, want: Option<[u64; 8]>| {
            let got = parse_stat(text).map(|Stat { ticks: t, .. }| {
                [t.user, t.nice, t.system, t.idle, t.iowait, t.interrupt, t.softirq, t.steal]
            });
            assert_eq!(got, want, "{text:?}");
        };
        let modern = "cpu  31742 7 14747 205767 1028 3 135 20 99 0\ncpu0 15457 0 5763 105048 395\n";
        check(modern, Some([31_742, 7, 14_747, 205_767, 1028, 3, 135, 20]));
        check("cpu 1 2 3 4\n", Some([1, 2, 3, 4, 0, 0, 0, 0])); // 2.4: no iowait, no steal
        check("cpu  1 2 3", None);
        check("cpu  1 2 3 x 5", None);
        check("cpu0 1 2 3 4 5", None);
        check("", None);
        check("cpu  99999999999999999999 2 3 4", None);
    }

    #[test]
    fn processors_and_the_run_queue_are_counted() {
        let check = |text: &str, want: (u64, Option<u64>, Option<u64>)| {
            let stat = parse_stat(text).expect("it has a line of all processors");
            assert_eq!((stat.n_processors, stat.n_running, stat.n_blocked), want, "{text}");
        };
        // 3.10 and 6.x end alike; a long line of interrupts stands between.
        check(
            "cpu  9 0 9 99 1 0 0 0 0 0\ncpu0 4 0 4 50 0 0 0 0 0 0\ncpu1 5 0 5 49 1 0 0 0 0 0\n\
             intr 7577379 44 9 0 0 0 0 0\nctxt 17741180\nbtime 1796019275\nprocesses 336864\n\
             procs_running 12\nprocs_blocked 3\nsoftirq 7577379 0 976000\n",
            (2, Some(12), Some(3)),
        );
        // OpenVZ 7: one processor of many, no softirq line.
        check(
            "cpu  9 0 9 99 1 0 0 0 0 0\ncpu0 9 0 9 99 1 0 0 0\nprocs_running 1\n",
            (1, Some(1), None),
        );
        check("cpu  9 0 9 99\nprocs_running many\ncpufreq 4\n", (0, None, None));
    }

    const LAST: Ticks = Ticks {
        user: 100,
        nice: 10,
        system: 50,
        idle: 1000,
        iowait: 10,
        interrupt: 1,
        softirq: 2,
        steal: 5,
    };

    fn shares(now: Ticks, detail: Detail) -> Vec<(&'static str, f64)> {
        let mut out = Values::new();
        push_shares(rose(LAST, now).expect("time passed"), true, detail, &mut out);
        out.into_iter().map(|(metric, _, value)| (metric, value)).collect()
    }

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let now = Ticks {
            user: 130,
            nice: 20,
            system: 54,
            idle: 1030,
            iowait: 15,
            interrupt: 3,
            softirq: 6,
            steal: 20,
        };
        let want = [
            ("system.cpu.utilization", 0.5),
            ("system.cpu.user", 0.4),
            ("system.cpu.system", 0.1),
            ("system.cpu.iowait", 0.05),
            ("system.cpu.steal", 0.15),
            ("system.cpu.nice", 0.1),
            ("system.cpu.interrupt", 0.02),
            ("system.cpu.softirq", 0.04),
            ("system.cpu.idle", 0.3),
        ];
        assert_eq!(shares(now, Detail::Full), want);
        assert_eq!(shares(now, Detail::Core), want[..5]);
    }

    #[test]
    fn a_step_back_of_all_gives_no_share_and_one_of_iowait_alone_does() {
        assert_eq!(rose(LAST, Ticks::default()), None);
        assert_eq!(rose(LAST, LAST).map(Ticks::total), Some(0));
        let now = Ticks { user: 200, iowait: 9, ..LAST };
        let shares = shares(now, Detail::Core);
        assert_eq!(shares[0], ("system.cpu.utilization", 1.0));
        assert_eq!(shares[3], ("system.cpu.iowait", 0.0));
    }

    #[test]
    fn a_container_says_what_it_may_use() {
        let mut out = Values::new();
        let mut cpu = Cpu::new();
        cpu.sample(OwnCpu { is_limited: true, share: Some(0.75) }, Detail::Core, &mut out);
        let utilization: Vec<_> =
            out.iter().filter(|(metric, _, _)| *metric == "system.cpu.utilization").collect();
        assert_eq!(utilization, [&("system.cpu.utilization", String::new(), 0.75)]);
    }
}
