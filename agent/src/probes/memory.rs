//! Memory and swap: how much is left, what holds it, and how often the kernel had to kill for want
//! of it.

use super::container::{OomKills, OwnMemory};
use super::procfile::ProcFile;
use super::{Detail, Values, push};

/// Memory as the kernel estimates it can still be given out without swapping (`MemAvailable`).
#[derive(Debug)]
pub(crate) struct Memory {
    meminfo: ProcFile,
    vmstat: ProcFile,
}

/// Lines of /proc/meminfo, in bytes; `None` where the kernel does not have the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Meminfo {
    total: Option<u64>,
    free: Option<u64>,
    available: Option<u64>,
    buffers: Option<u64>,
    cached: Option<u64>,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    shared: Option<u64>,
    slab_reclaimable: Option<u64>,
    slab_unreclaimable: Option<u64>,
    commit_limit: Option<u64>,
    committed: Option<u64>,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { meminfo: ProcFile::new("/proc/meminfo"), vmstat: ProcFile::new("/proc/vmstat") }
    }

    /// `own`: what a container may use, has used, and how often the kernel killed in it.
    pub(crate) fn sample(&mut self, own: OwnMemory, detail: Detail, out: &mut Values) {
        if let Some(meminfo) = self.meminfo.read().map(parse_meminfo) {
            push_memory(meminfo, own.limit_and_used, out);
            push_swap(meminfo, out);
            if detail == Detail::Full {
                push_detail(meminfo, out);
            }
        }
        let vmstat = self.vmstat.read();
        let n_oom_kills = match own.oom_kills {
            OomKills::Own(n) => n,
            OomKills::OfMachine => vmstat.and_then(|text| counter(text, "oom_kill")),
        };
        if let Some(n) = n_oom_kills {
            push(out, "system.oom_kills", n as f64);
        }
        for (metric, name) in [
            ("system.paging.operations.in", "pswpin"),
            ("system.paging.operations.out", "pswpout"),
            ("system.paging.faults.major", "pgmajfault"),
        ] {
            if detail == Detail::Full
                && let Some(n) = vmstat.and_then(|text| counter(text, name))
            {
                push(out, metric, n as f64);
            }
        }
    }
}

/// `MemTotal:       24684084 kB` and so on; a line that is none of ours is left out.
fn parse_meminfo(text: &str) -> Meminfo {
    let mut meminfo = Meminfo::default();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let field = match name {
            "MemTotal" => &mut meminfo.total,
            "MemFree" => &mut meminfo.free,
            "MemAvailable" => &mut meminfo.available,
            "Buffers" => &mut meminfo.buffers,
            "Cached" => &mut meminfo.cached,
            "SwapTotal" => &mut meminfo.swap_total,
            "SwapFree" => &mut meminfo.swap_free,
            "Dirty" => &mut meminfo.dirty,
            "Writeback" => &mut meminfo.writeback,
            "Shmem" => &mut meminfo.shared,
            "SReclaimable" => &mut meminfo.slab_reclaimable,
            "SUnreclaim" => &mut meminfo.slab_unreclaimable,
            "CommitLimit" => &mut meminfo.commit_limit,
            "Committed_AS" => &mut meminfo.committed,
            _ => continue,
        };
        let kib = rest.split_ascii_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        *field = kib.and_then(|kib| kib.checked_mul(1024));
    }
    meminfo
}

impl Meminfo {
    /// Memory that can still be given out. Kernels before 3.14 that did not take the estimate over
    /// (the first of EL7) say nothing: free memory and what the kernel only caches, less what looks
    /// like a cache and is none.
    fn available(self) -> Option<u64> {
        self.available.or_else(|| {
            let cached = [self.buffers, self.cached, self.slab_reclaimable];
            let cached = cached.into_iter().flatten().fold(0, u64::saturating_add);
            let given_back = cached.saturating_sub(self.shared.unwrap_or(0));
            self.free.map(|free| free.saturating_add(given_back))
        })
    }
}

fn push_memory(meminfo: Meminfo, own: Option<(u64, u64)>, out: &mut Values) {
    let limit = match (meminfo.total, own) {
        (Some(total), Some((limit, _))) => total.min(limit),
        (Some(total), None) => total,
        (None, _) => return,
    };
    let Some(left) = meminfo.available().filter(|_| limit > 0) else { return };
    // Inside some containers the two come from different places. In one with a limit the machine
    // around it may have less than the limit leaves.
    let own_left = own.map_or(u64::MAX, |(limit, used)| limit.saturating_sub(used));
    let left = left.min(own_left).min(limit);
    push(out, "system.memory.limit", limit as f64);
    push(out, "system.memory.available", left as f64);
    push(out, "system.memory.utilization", 1.0 - left as f64 / limit as f64);
}

fn push_swap(meminfo: Meminfo, out: &mut Values) {
    let (Some(total), Some(free)) = (meminfo.swap_total, meminfo.swap_free) else { return };
    if total > 0 {
        let used = total.saturating_sub(free) as f64;
        push(out, "system.swap.used", used);
        push(out, "system.swap.utilization", used / total as f64);
    }
}

fn push_detail(meminfo: Meminfo, out: &mut Values) {
    for (metric, bytes) in [
        ("system.memory.buffers", meminfo.buffers),
        ("system.memory.cached", meminfo.cached),
        ("system.memory.shared", meminfo.shared),
        ("system.memory.slab_unreclaimable", meminfo.slab_unreclaimable),
        ("system.memory.dirty", meminfo.dirty),
        ("system.memory.writeback", meminfo.writeback),
        ("system.memory.committed", meminfo.committed),
        ("system.memory.commit_limit", meminfo.commit_limit),
    ] {
        if let Some(bytes) = bytes {
            push(out, metric, bytes as f64);
        }
    }
}

/// A counter of /proc/vmstat or memory.events, since boot; kernels before 4.13 have no `oom_kill`.
pub(super) fn counter(text: &str, name: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_among_their_neighbours() {
        let check = |text: &str, want| assert_eq!(counter(text, "oom_kill"), want, "{text:?}");
        check("pgmajfault 12\noom_kill 3\nnuma_hit 5\n", Some(3));
        check("drop_slab 0\noom_kill_victims 9\n", None);
        check("low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n", Some(1));
        check("oom_kill many\n", None);
        check("oom_kill\n", None);
        check("", None);
    }

    /// What memory.limit, memory.available and swap.used are, in KiB, and the number of details.
    fn check(text: &str, own: Option<(u64, u64)>, want: [Option<u64>; 3], n_details: usize) {
        let (mut out, mut details) = (Values::new(), Values::new());
        let meminfo = parse_meminfo(text);
        push_memory(meminfo, own.map(|(limit, used)| (limit * 1024, used * 1024)), &mut out);
        push_swap(meminfo, &mut out);
        push_detail(meminfo, &mut details);
        let kib = |name: &str| {
            let found = out.iter().find(|(metric, _, _)| *metric == name);
            found.map(|(_, _, value)| (value / 1024.0) as u64)
        };
        let got = ["system.memory.limit", "system.memory.available", "system.swap.used"].map(kib);
        assert_eq!((got, details.len()), (want, n_details), "{text}");
        let share = out.iter().find(|(metric, _, _)| *metric == "system.memory.utilization");
        assert_eq!(share.is_some(), want[0].is_some());
        assert!(share.is_none_or(|(_, _, share)| (0.0..=1.0).contains(share)), "{share:?}");
    }

    const EL8: &str = "MemTotal:        3880336 kB\nMemFree:          163840 kB\n\
        MemAvailable:    2457600 kB\nBuffers:            2072 kB\nCached:          2351104 kB\n\
        SwapCached:         1204 kB\nSwapTotal:       2097148 kB\nSwapFree:        2047996 kB\n\
        Dirty:              1428 kB\nWriteback:             0 kB\nShmem:             10168 kB\n\
        KReclaimable:     210268 kB\nSlab:             293932 kB\nSReclaimable:     210268 kB\n\
        SUnreclaim:        83664 kB\nCommitLimit:     4037316 kB\nCommitted_AS:    1869236 kB\n";

    #[test]
    fn meminfo_of_every_kernel_is_read() {
        check(EL8, None, [Some(3_880_336), Some(2_457_600), Some(49_152)], 8);
        // The first kernel of EL7 has no estimate of its own: 100 + 20 + 500 + 80 - 60.
        let el7 = "MemTotal:           1000 kB\nMemFree:             100 kB\n\
            Buffers:              20 kB\nCached:              500 kB\nShmem:                60 kB\n\
            SReclaimable:         80 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n";
        check(el7, None, [Some(1000), Some(640), None], 3);
        // OpenVZ shows a few lines only.
        let openvz = "MemTotal:        1048576 kB\nMemFree:          524288 kB\n\
            MemAvailable:     800000 kB\nSwapTotal:        262144 kB\nSwapFree:         262144 kB\n";
        check(openvz, None, [Some(1_048_576), Some(800_000), Some(0)], 0);
        check("MemTotal: 5 kB\n", None, [None, None, None], 0);
        check("MemTotal: 0 kB\nMemFree: 0 kB\n", None, [None, None, None], 0);
        check("MemTotal: many kB\nMemFree 1\n\0: 9", None, [None, None, None], 0);
        check(
            "MemTotal: 99999999999999999999 kB\nMemFree: 18446744073709551615 kB",
            None,
            [None; 3],
            0,
        );
        check("", None, [None, None, None], 0);
    }

    #[test]
    fn a_container_has_what_its_limit_and_the_machine_around_it_leave() {
        let swap = Some(49_152);
        check(EL8, Some((1_000_000, 600_000)), [Some(1_000_000), Some(400_000), swap], 8);
        check(EL8, Some((3_000_000, 100_000)), [Some(3_000_000), Some(2_457_600), swap], 8);
        check(EL8, Some((9_000_000, 100_000)), [Some(3_880_336), Some(2_457_600), swap], 8);
        check(EL8, Some((1_000_000, 1_200_000)), [Some(1_000_000), Some(0), swap], 8);
    }
}
