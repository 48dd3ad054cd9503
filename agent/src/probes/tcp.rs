//! TCP and UDP as the kernel counts them: what was lost, refused or dropped, and the sockets there are.
//!
//! Each counter is one way in which a connection between gateway and backend, or a look-up of its
//! name, comes to nothing. All are of this network namespace; memory of sockets is the machine's.

use super::procfile::ProcFile;
use super::rise::rise;
use super::{Detail, Values, push};

/// A share of fewer segments than this says nothing: one lost one of two is no bad network.
const SEGMENTS_MIN: u64 = 50;

/// Fields of `TcpExt` in /proc/net/netstat that are told at every sampling: full listen queues.
const CORE: [(&str, &str); 2] = [
    ("ListenOverflows", "system.tcp.listen_overflows"),
    ("ListenDrops", "system.tcp.listen_drops"),
];

/// The same with the details; a kernel without a field has no such metric.
const FULL: [(&str, &str); 9] = [
    ("SyncookiesSent", "system.tcp.syncookies_sent"),
    ("TCPReqQFullDoCookies", "system.tcp.syn_queue_full_cookies"),
    ("TCPReqQFullDrop", "system.tcp.syn_queue_full_drops"),
    ("TCPBacklogDrop", "system.tcp.backlog_drops"),
    ("TCPRcvQDrop", "system.tcp.receive_queue_drops"),
    ("TCPTimeouts", "system.tcp.timeouts"),
    ("TCPSynRetrans", "system.tcp.syn_retransmits"),
    ("TCPAbortOnTimeout", "system.tcp.aborts_on_timeout"),
    ("TCPAbortOnMemory", "system.tcp.aborts_on_memory"),
];

/// Fields of `Tcp` and `Udp` in /proc/net/snmp.
const SNMP_TCP: [(&str, &str); 3] = [
    ("AttemptFails", "system.tcp.attempt_fails"),
    ("EstabResets", "system.tcp.established_resets"),
    ("CurrEstab", "system.tcp.established"),
];
const SNMP_UDP: [(&str, &str); 2] = [
    ("RcvbufErrors", "system.udp.receive_buffer_errors"),
    ("SndbufErrors", "system.udp.send_buffer_errors"),
];

/// Files of /proc/net that speak of TCP and UDP.
#[derive(Debug)]
pub(crate) struct Tcp {
    snmp: ProcFile,
    netstat: ProcFile,
    sockstat: ProcFile,
    memory_max: ProcFile,
    page_bytes: u64,
    segments: Option<Segments>,
}

/// TCP segments since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segments {
    sent: u64,
    again: u64,
}

impl Tcp {
    pub(crate) fn new() -> Self {
        Self {
            snmp: ProcFile::new("/proc/net/snmp"),
            netstat: ProcFile::new("/proc/net/netstat"),
            sockstat: ProcFile::new("/proc/net/sockstat"),
            memory_max: ProcFile::new("/proc/sys/net/ipv4/tcp_mem"),
            page_bytes: procfs::page_size(),
            segments: None,
        }
    }

    pub(crate) fn sample(&mut self, detail: Detail, out: &mut Values) {
        if let Some(text) = self.snmp.read() {
            if let Some(now) = parse_segments(text) {
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
            if detail == Detail::Full {
                push_fields(text, "Tcp:", &SNMP_TCP, out);
                push_fields(text, "Udp:", &SNMP_UDP, out);
            }
        }
        if let Some(text) = self.netstat.read() {
            push_fields(text, "TcpExt:", &CORE, out);
            if detail == Detail::Full {
                push_fields(text, "TcpExt:", &FULL, out);
            }
        }
        if detail == Detail::Full {
            let pages_max = self.memory_max.read().and_then(parse_tcp_mem);
            let sockstat = self.sockstat.read().map(parse_sockstat).unwrap_or_default();
            push_sockets(sockstat, pages_max, self.page_bytes, out);
        }
    }
}

/// Adds those of `fields` that the kernel has.
fn push_fields(
    text: &str,
    prefix: &str,
    fields: &[(&'static str, &'static str)],
    out: &mut Values,
) {
    for (name, value) in paired(text, prefix) {
        let known = fields.iter().find(|(field, _)| *field == name);
        if let (Some((_, metric)), Ok(n)) = (known, value.parse::<u64>()) {
            push(out, metric, n as f64);
        }
    }
}

/// Names and values of a file of paired lines: `TcpExt: A B C` above `TcpExt: 1 2 3`.
fn paired<'t>(text: &'t str, prefix: &str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    names.split_ascii_whitespace().zip(values.split_ascii_whitespace())
}

fn parse_segments(text: &str) -> Option<Segments> {
    let field =
        |field: &str| paired(text, "Tcp:").find(|(name, _)| *name == field)?.1.parse::<u64>().ok();
    Some(Segments { sent: field("OutSegs")?, again: field("RetransSegs")? })
}

#[derive(Debug, PartialEq)]
enum Share {
    Is(f64),
    Wait,
    Restart,
}

/// Share of segments sent again. `OutSegs` does not count those that were only sent again.
fn retransmitted(last: Segments, now: Segments) -> Share {
    match (rise(last.sent, now.sent), rise(last.again, now.again)) {
        (Some(sent), Some(again)) if sent.saturating_add(again) >= SEGMENTS_MIN => {
            Share::Is(again as f64 / sent.saturating_add(again) as f64)
        }
        (Some(_), Some(_)) => Share::Wait,
        _ => Share::Restart,
    }
}

/// Sockets there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sockets {
    used: Option<u64>,
    /// Closed by their program, and still to be told to the other side.
    orphans: Option<u64>,
    time_wait: Option<u64>,
    tcp_pages: Option<u64>,
}

/// `sockets: used 15` and `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 80`.
fn parse_sockstat(text: &str) -> Sockets {
    let field = |prefix: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
        let mut words = line.split_ascii_whitespace().skip_while(|word| *word != name);
        words.nth(1)?.parse().ok()
    };
    Sockets {
        used: field("sockets:", "used"),
        orphans: field("TCP:", "orphan"),
        time_wait: field("TCP:", "tw"),
        tcp_pages: field("TCP:", "mem"),
    }
}

/// `low pressure high` in pages: beyond the last the kernel aborts connections.
fn parse_tcp_mem(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(2)?.parse().ok().filter(|pages| *pages > 0)
}

fn push_sockets(sockets: Sockets, pages_max: Option<u64>, page_bytes: u64, out: &mut Values) {
    let bytes = sockets.tcp_pages.map(|pages| pages.saturating_mul(page_bytes));
    for (metric, n) in [
        ("system.sockets", sockets.used),
        ("system.tcp.orphans", sockets.orphans),
        ("system.tcp.time_wait", sockets.time_wait),
        ("system.tcp.memory", bytes),
    ] {
        if let Some(n) = n {
            push(out, metric, n as f64);
        }
    }
    if let (Some(pages), Some(max)) = (sockets.tcp_pages, pages_max) {
        push(out, "system.tcp.memory.utilization", (pages as f64 / max as f64).min(1.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metrics told of a file, without their `system.` and sorted.
    fn told(text: &str, prefix: &str, fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut out = Values::new();
        push_fields(text, prefix, fields, &mut out);
        let name = |metric: &str| metric.trim_start_matches("system.").to_owned();
        let mut told: Vec<_> =
            out.iter().map(|(metric, _, n)| format!("{} {n}", name(metric))).collect();
        told.sort();
        told
    }

    #[test]
    fn fields_are_found_by_name_whatever_the_kernel_adds() {
        let el7 = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPTimeouts TCPAbortOnMemory \
                   TCPBacklogDrop\nTcpExt: 1 20 39 4 5 6\nIpExt: InNoRoutes ListenDrops\nIpExt: 5 6\n";
        assert_eq!(told(el7, "TcpExt:", &CORE), ["tcp.listen_drops 39", "tcp.listen_overflows 20"]);
        let full = [
            "tcp.aborts_on_memory 5",
            "tcp.backlog_drops 6",
            "tcp.syncookies_sent 1",
            "tcp.timeouts 4",
        ];
        assert_eq!(told(el7, "TcpExt:", &FULL), full);
        let v6 = "TcpExt: TCPReqQFullDrop TCPSynRetrans TCPReqQFullDoCookies TCPRcvQDrop New\n\
                  TcpExt: 7 8 9 10 11\n";
        let full = [
            "tcp.receive_queue_drops 10",
            "tcp.syn_queue_full_cookies 9",
            "tcp.syn_queue_full_drops 7",
            "tcp.syn_retransmits 8",
        ];
        assert_eq!(told(v6, "TcpExt:", &FULL), full);
        for torn in
            ["TcpExt: ListenDrops ListenOverflows\nTcpExt: 1\n", "TcpExt: ListenDrops\n", ""]
        {
            assert!(told(torn, "TcpExt:", &CORE).len() <= 1, "{torn:?}");
        }
        assert!(told("TcpExt: ListenDrops\nTcpExt: many\n", "TcpExt:", &CORE).is_empty());
    }

    #[test]
    fn the_numbers_of_tcp_and_udp_are_told_apart() {
        // MaxConn is -1 on every machine; its neighbours still count.
        let snmp = "Tcp: MaxConn AttemptFails EstabResets CurrEstab OutSegs RetransSegs\n\
                    Tcp: -1 3 4 5 1000 7\nUdp: InErrors RcvbufErrors SndbufErrors\nUdp: 9 1 2\n\
                    UdpLite: InErrors RcvbufErrors SndbufErrors\nUdpLite: 0 0 0\n";
        assert_eq!(parse_segments(snmp), Some(Segments { sent: 1000, again: 7 }));
        let tcp = ["tcp.attempt_fails 3", "tcp.established 5", "tcp.established_resets 4"];
        assert_eq!(told(snmp, "Tcp:", &SNMP_TCP), tcp);
        let udp = ["udp.receive_buffer_errors 1", "udp.send_buffer_errors 2"];
        assert_eq!(told(snmp, "Udp:", &SNMP_UDP), udp);
        assert_eq!(parse_segments("Tcp: OutSegs\nTcp: 4\n"), None);
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
    fn sockets_and_their_memory_are_read() {
        let text =
            "sockets: used 15\nTCP: inuse 1 orphan 2 tw 3 alloc 4 mem 80\nUDP: inuse 0 mem 0\n";
        let sockets = parse_sockstat(text);
        let want =
            Sockets { used: Some(15), orphans: Some(2), time_wait: Some(3), tcp_pages: Some(80) };
        assert_eq!(sockets, want);
        assert_eq!(parse_sockstat("TCP: tw mem\nsockets:\n"), Sockets::default());
        assert_eq!(parse_tcp_mem("188955\t251940\t377910\n"), Some(377_910));
        for nonsense in ["", "1 2", "1 2 x", "0 0 0"] {
            assert_eq!(parse_tcp_mem(nonsense), None, "{nonsense}");
        }
        let mut out = Values::new();
        push_sockets(sockets, Some(160), 4096, &mut out);
        let values: Vec<f64> = out.iter().map(|(_, _, value)| *value).collect();
        assert_eq!(values, [15.0, 2.0, 3.0, 80.0 * 4096.0, 0.5]);
    }
}
