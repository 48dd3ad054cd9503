//! What the agent itself costs: CPU time and memory of this process, and bytes in the spool.

use procfs::WithCurrentSystemInfo;
use procfs::process::Process;

use crate::probes::{Values, push};

/// Cost of this process so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfStats {
    /// User and system time of all threads, in ms; steps of a clock tick, usually 10 ms.
    pub cpu_ms: u64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// Reads both now; `None` where /proc is not mounted.
#[must_use]
pub fn read() -> Option<SelfStats> {
    let stat = Process::myself().ok()?.stat().ok()?;
    let ticks = stat.utime.saturating_add(stat.stime);
    Some(SelfStats {
        cpu_ms: ticks.saturating_mul(1000) / procfs::ticks_per_second().max(1),
        rss_bytes: stat.rss_bytes().get(),
    })
}

/// Adds the agent's own series to a sampling.
pub(crate) fn sample(spool_bytes: u64, out: &mut Values) {
    if let Some(stats) = read() {
        push(out, "gatewatch.agent.cpu_time", stats.cpu_ms as f64);
        push(out, "gatewatch.agent.memory", stats.rss_bytes as f64);
    }
    push(out, "gatewatch.agent.spool", spool_bytes as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_rises_with_work() {
        let before = read().expect("linux has /proc");
        let mut sum = 0_u64;
        while read().is_some_and(|now| now.cpu_ms == before.cpu_ms) {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, u64::wrapping_add));
        }
        assert!(before.rss_bytes > 100_000, "{before:?}");
    }
}
