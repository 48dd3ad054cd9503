//! Traffic and faults of the network: interfaces, TCP, listen queues, connection tracking.

use std::collections::BTreeSet;
use std::path::Path;

use super::procfile::ProcFile;
use super::{Values, push};

/// Interfaces beyond this are not sampled.
const INTERFACES_MAX: usize = 16;

/// A share of fewer segments than this says nothing: one lost one of two is no bad network.
const SEGMENTS_MIN: u64 = 50;

/// Everything under /proc/net that tells of trouble.
#[derive(Debug)]
pub(crate) struct Network {
    dev: ProcFile,
    snmp: ProcFile,
    netstat: ProcFile,
    conntrack: ProcFile,
    conntrack_max: ProcFile,
    /// Interfaces with hardware (or a hypervisor) behind them; empty: this machine shows none.
    physical: BTreeSet<String>,
    segments: Option<Segments>,
}

/// TCP segments since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segments {
    sent: u64,
    again: u64,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self {
            dev: ProcFile::new("/proc/net/dev"),
            snmp: ProcFile::new("/proc/net/snmp"),
            netstat: ProcFile::new("/proc/net/netstat"),
            conntrack: ProcFile::new("/proc/sys/net/netfilter/nf_conntrack_count"),
            conntrack_max: ProcFile::new("/proc/sys/net/netfilter/nf_conntrack_max"),
            physical: BTreeSet::new(),
            segments: None,
        }
    }

    pub(crate) fn sample(&mut self, out: &mut Values) {
        self.sample_interfaces(out);
        if let Some(now) = self.snmp.read().and_then(parse_segments) {
            match self.segments.map(|last| retransmitted(last, now)) {
                // Too few yet: the share is taken over a longer time.
                Some(Share::Wait) => {}
                Some(Share::Is(ratio)) => {
                    push(out, "system.network.tcp.retransmit", ratio);
                    self.segments = Some(now);
                }
                Some(Share::Restart) | None => self.segments = Some(now),
            }
        }
        if let Some(text) = self.netstat.read() {
            for (metric, field) in [
                ("system.tcp.listen_overflows", "ListenOverflows"),
                ("system.tcp.listen_drops", "ListenDrops"),
            ] {
                if let Some(n) = parse_field(text, "TcpExt:", field) {
                    push(out, metric, n as f64);
                }
            }
        }
        let number = |file: &mut ProcFile| file.read().and_then(|text| text.trim().parse().ok());
        let used: Option<u64> = number(&mut self.conntrack);
        if let (Some(used), Some(max)) = (used, number(&mut self.conntrack_max))
            && max > 0
        {
            let ratio = (used as f64 / max as f64).min(1.0);
            push(out, "system.conntrack.utilization", ratio);
        }
    }

    fn sample_interfaces(&mut self, out: &mut Values) {
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

/// One field of a file of paired lines: `TcpExt: A B C` above `TcpExt: 1 2 3`.
fn parse_field(text: &str, prefix: &str, field: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|name| name == field)?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

fn parse_segments(text: &str) -> Option<Segments> {
    let sent = parse_field(text, "Tcp:", "OutSegs")?;
    let again = parse_field(text, "Tcp:", "RetransSegs")?;
    Some(Segments { sent, again })
}

#[derive(Debug, PartialEq)]
enum Share {
    Is(f64),
    Wait,
    Restart,
}

/// Share of segments sent again. `OutSegs` does not count those that were only sent again.
fn retransmitted(last: Segments, now: Segments) -> Share {
    match (now.sent.checked_sub(last.sent), now.again.checked_sub(last.again)) {
        (Some(sent), Some(again)) if sent + again >= SEGMENTS_MIN => {
            Share::Is(again as f64 / (sent + again) as f64)
        }
        (Some(_), Some(_)) => Share::Wait,
        _ => Share::Restart,
    }
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
    fn fields_are_found_by_name_in_paired_lines() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 20 39\n\
                    IpExt: InNoRoutes ListenDrops\nIpExt: 5 6\n";
        let check = |prefix: &str, field: &str, want| {
            assert_eq!(parse_field(text, prefix, field), want, "{prefix} {field}");
        };
        check("TcpExt:", "ListenOverflows", Some(20));
        check("TcpExt:", "ListenDrops", Some(39));
        check("IpExt:", "ListenDrops", Some(6));
        check("TcpExt:", "Listen", None);
        check("MPTcpExt:", "ListenDrops", None);
        assert_eq!(parse_field("TcpExt: A B\nTcpExt: 1\n", "TcpExt:", "B"), None);
        assert_eq!(parse_field("TcpExt: A\n", "TcpExt:", "A"), None);
        // MaxConn is -1 on every machine; its neighbours still count.
        let snmp = "Tcp: MaxConn OutSegs RetransSegs\nTcp: -1 1000 7\n";
        assert_eq!(parse_segments(snmp), Some(Segments { sent: 1000, again: 7 }));
        assert_eq!(parse_field(snmp, "Tcp:", "MaxConn"), None);
    }

    #[test]
    fn a_share_of_few_segments_waits_for_more() {
        let last = Segments { sent: 1000, again: 10 };
        let check = |sent, again, want| {
            assert_eq!(retransmitted(last, Segments { sent, again }), want, "{sent} {again}");
        };
        check(1095, 15, Share::Is(0.05));
        check(1001, 11, Share::Wait);
        check(1000, 10, Share::Wait);
        check(1100, 10, Share::Is(0.0));
        check(999, 10, Share::Restart);
        check(5000, 9, Share::Restart);
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
