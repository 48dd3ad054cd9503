//! What a process has cost, and what files take: Linux, proc(5).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Seconds of processor time a process and its threads have used.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0 // USER_HZ, a constant of the Linux ABI
}

/// Memory of a process that is in use, KiB.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0)
}

/// The most memory a process ever had in use, KiB.
pub(crate) fn peak_rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Bytes that the files below a folder take on the disk, whole blocks.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = if meta.is_file() { meta.blocks() * 512 } else { 0 };
    let below = fs::read_dir(path).into_iter().flatten().flatten();
    own + below.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}
