//! CPU time by state with steal and iowait, load averages, number of processes.

use sysinfo::System;

use super::procfile::ProcFile;
use super::{Values, push};

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
    system: u64,
    idle: u64,
    iowait: u64,
    steal: u64,
}

impl Cpu {
    pub(crate) fn new() -> Self {
        Self { stat: ProcFile::head("/proc/stat", 512), last: None }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        if let Some(now) = self.stat.read().and_then(parse_stat) {
            match self.last.and_then(|last| shares(last, now)) {
                Some(shares) => {
                    out.extend(shares.map(|(metric, value)| (metric, String::new(), value)));
                    self.last = Some(now);
                }
                // Too short a time, or the counters went back: the older baseline would mislead
                // only in the second case.
                None if self.last.is_none_or(|last| now.total() < last.total()) => {
                    self.last = Some(now);
                }
                None => {}
            }
        }
        if let Ok(load) = System::load_average() {
            push(out, "system.cpu.load_average.1m", load.one);
            push(out, "system.cpu.load_average.5m", load.five);
            push(out, "system.cpu.load_average.15m", load.fifteen);
        }
    }
}

impl Ticks {
    fn total(self) -> u64 {
        self.user + self.system + self.idle + self.iowait + self.steal
    }
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are part of user.
fn parse_stat(text: &str) -> Option<Ticks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let mut fields = [0_u64; 8];
    let mut n_fields = 0;
    for (field, word) in fields.iter_mut().zip(line.split_ascii_whitespace()) {
        *field = word.parse().ok()?;
        n_fields += 1;
    }
    let [user, nice, system, idle, iowait, irq, softirq, steal] = fields;
    (n_fields >= 4).then_some(Ticks {
        user: user.saturating_add(nice),
        system: system.saturating_add(irq).saturating_add(softirq),
        idle,
        iowait,
        steal,
    })
}

/// Shares of the time between two looks. Utilization is what this machine's own work took: neither
/// idle, nor waiting for a disk, nor stolen by the hypervisor.
fn shares(last: Ticks, now: Ticks) -> Option<[(&'static str, f64); 5]> {
    // Idle and iowait may step back a little on a machine with hot-plugged or sleeping processors.
    let user = now.user.saturating_sub(last.user);
    let system = now.system.saturating_sub(last.system);
    let iowait = now.iowait.saturating_sub(last.iowait);
    let steal = now.steal.saturating_sub(last.steal);
    let idle = now.idle.saturating_sub(last.idle);
    let total = user + system + iowait + steal + idle;
    let share = |ticks: u64| ticks as f64 / total as f64;
    (total >= TICKS_MIN).then(|| {
        [
            ("system.cpu.utilization", share(user + system)),
            ("system.cpu.user", share(user)),
            ("system.cpu.system", share(system)),
            ("system.cpu.iowait", share(iowait)),
            ("system.cpu.steal", share(steal)),
        ]
    })
}

/// Number of processes. Cost: the names of /proc, no file in it is opened.
pub(crate) fn sample_processes(out: &mut Values) {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let is_pid = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let n = entries.flatten().filter(|entry| is_pid(&entry.file_name())).count();
    push(out, "system.processes", n as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_line_of_every_kernel_is_read() {
        let check = |text: &str, want: Option<[u64; 5]>| {
            let want = want.map(|[user, system, idle, iowait, steal]| Ticks {
                user,
                system,
                idle,
                iowait,
                steal,
            });
            assert_eq!(parse_stat(text), want, "{text:?}");
        };
        let modern = "cpu  31742 7 14747 205767 1028 3 135 20 99 0\ncpu0 15457 0 5763 105048 395\n";
        check(modern, Some([31_749, 14_885, 205_767, 1028, 20]));
        check("cpu 1 2 3 4\n", Some([3, 3, 4, 0, 0])); // 2.4: no iowait, no steal
        check("cpu  1 2 3", None);
        check("cpu  1 2 3 x 5", None);
        check("cpu0 1 2 3 4 5", None);
        check("", None);
        check("cpu  99999999999999999999 2 3 4", None);
    }

    #[test]
    fn shares_are_of_the_time_between_two_looks() {
        let last = Ticks { user: 100, system: 50, idle: 1000, iowait: 10, steal: 5 };
        let now = Ticks { user: 140, system: 60, idle: 1030, iowait: 15, steal: 20 };
        let shares = super::shares(last, now).expect("100 ticks passed");
        let values: Vec<f64> = shares.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [0.5, 0.4, 0.1, 0.05, 0.15]);
    }

    #[test]
    fn too_short_a_time_or_a_step_back_gives_no_share() {
        let last = Ticks { user: 100, system: 50, idle: 1000, iowait: 10, steal: 5 };
        assert_eq!(shares(last, last), None);
        assert_eq!(shares(last, Ticks { user: 110, ..last }), None);
        assert_eq!(shares(last, Ticks::default()), None);
        // iowait alone may step back: the others still count.
        let now = Ticks { user: 200, iowait: 9, ..last };
        assert_eq!(shares(last, now).expect("100 ticks")[3], ("system.cpu.iowait", 0.0));
    }
}
