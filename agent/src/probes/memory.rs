//! Memory and swap, and how often the kernel had to kill for want of it.

use sysinfo::System;

use super::procfile::ProcFile;
use super::{Values, push};

/// Memory as the kernel estimates it can still be given out without swapping (`MemAvailable`).
#[derive(Debug)]
pub(crate) struct Memory {
    system: Option<System>,
    vmstat: ProcFile,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let system = System::new();
        if let Err(error) = &system {
            tracing::warn!(%error, "memory cannot be sampled: its metrics are absent");
        }
        Self { system: system.ok(), vmstat: ProcFile::new("/proc/vmstat") }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        if let Some(system) = &mut self.system {
            system.refresh_memory();
            let limit = system.total_memory() as f64;
            if limit > 0.0 {
                // Inside some containers the two come from different places.
                let available = (system.available_memory() as f64).min(limit);
                push(out, "system.memory.limit", limit);
                push(out, "system.memory.available", available);
                push(out, "system.memory.utilization", 1.0 - available / limit);
            }
            let swap = system.total_swap() as f64;
            if swap > 0.0 {
                let used = (system.used_swap() as f64).min(swap);
                push(out, "system.swap.used", used);
                push(out, "system.swap.utilization", used / swap);
            }
        }
        if let Some(n) = self.vmstat.read().and_then(parse_oom_kills) {
            push(out, "system.oom_kills", n as f64);
        }
    }
}

/// `oom_kill` of /proc/vmstat, since boot; kernels before 4.13 do not count it.
fn parse_oom_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_found_among_their_neighbours() {
        let check = |text: &str, want| assert_eq!(parse_oom_kills(text), want, "{text:?}");
        check("pgmajfault 12\noom_kill 3\nnuma_hit 5\n", Some(3));
        check("drop_slab 0\noom_kill_victims 9\n", None);
        check("oom_kill many\n", None);
        check("", None);
    }
}
