//! Traffic and faults of the network interfaces.

use std::collections::BTreeSet;
use std::path::Path;

use super::Values;
use super::procfile::ProcFile;

/// Interfaces beyond this are not sampled.
const INTERFACES_MAX: usize = 16;

/// /proc/net/dev.
#[derive(Debug)]
pub(crate) struct Network {
    dev: ProcFile,
    /// Interfaces with hardware (or a hypervisor) behind them; empty: this machine shows none.
    physical: BTreeSet<String>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { dev: ProcFile::new("/proc/net/dev"), physical: BTreeSet::new() }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        let Some(text) = self.dev.read() else { return };
        let wanted = |name: &str| {
            if self.physical.is_empty() { !is_virtual(name) } else { self.physical.contains(name) }
        };
        let found = parse_dev(text).filter(|interface| wanted(interface.name));
        for interface in found.take(INTERFACES_MAX) {
            let attribute = format!("network.interface.name={}", interface.name);
            for (metric, n) in [
                ("system.network.io.receive", interface.bytes_received),
                ("system.network.io.transmit", interface.bytes_sent),
                ("system.network.errors", interface.n_errors),
                ("system.network.dropped", interface.n_dropped),
            ] {
                out.push((metric, attribute.clone(), n as f64));
            }
        }
    }

    /// Looks again which interfaces are real: those with a device behind them.
    pub(crate) fn refresh_interfaces(&mut self) {
        let Ok(entries) = std::fs::read_dir("/sys/class/net") else { return };
        let real = |path: &Path| path.join("device").exists();
        self.physical = entries
            .flatten()
            .filter(|entry| real(&entry.path()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
    }
}

/// One interface since boot.
#[derive(Debug, PartialEq, Eq)]
struct Interface<'a> {
    name: &'a str,
    bytes_received: u64,
    bytes_sent: u64,
    n_errors: u64,
    n_dropped: u64,
}

/// `eth0: bytes packets errs drop fifo frame compressed multicast | the same for sending`
fn parse_dev(text: &str) -> impl Iterator<Item = Interface<'_>> {
    text.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let mut fields = [0_u64; 12];
        let mut words = numbers.split_ascii_whitespace();
        for field in &mut fields {
            *field = words.next()?.parse().ok()?;
        }
        Some(Interface {
            name: name.trim(),
            bytes_received: fields[0],
            bytes_sent: fields[8],
            n_errors: fields[2].saturating_add(fields[10]),
            n_dropped: fields[3].saturating_add(fields[11]),
        })
    })
}

/// Interfaces that carry what another one already counted, where nothing better tells them apart.
fn is_virtual(name: &str) -> bool {
    let kinds = [
        "lo", "veth", "docker", "br-", "virbr", "vnet", "tap", "tun", "ifb", "dummy", "cali",
        "flannel", "cni", "wg", "bond", "team",
    ];
    kinds.iter().any(|kind| name.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  eth0: 292001846    7315    1    2    0     0          0         0   357782    3846    3    4    0     0       0          0
eth1:18446744073709551615 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0
short: 1 2 3
";

    #[test]
    fn interfaces_are_read_with_or_without_a_blank_after_the_colon() {
        let found: Vec<_> = parse_dev(DEV).collect();
        let names: Vec<_> = found.iter().map(|interface| interface.name).collect();
        assert_eq!(names, ["lo", "eth0", "eth1"]);
        let eth0 = Interface {
            name: "eth0",
            bytes_received: 292_001_846,
            bytes_sent: 357_782,
            n_errors: 4,
            n_dropped: 6,
        };
        assert_eq!(found[1], eth0);
        assert_eq!(found[2].bytes_received, u64::MAX);
    }

    #[test]
    fn copies_of_traffic_are_told_by_name_where_nothing_else_tells() {
        for name in ["lo", "veth12ab", "docker0", "br-9f", "bond0", "tun0"] {
            assert!(is_virtual(name), "{name}");
        }
        for name in ["eth0", "ens3", "enp1s0", "venet0", "wlan0"] {
            assert!(!is_virtual(name), "{name}");
        }
    }
}
