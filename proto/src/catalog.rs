//! The metric catalog: one row per metric that an agent may send.
//!
//! Names and units follow the OpenTelemetry system conventions. A value travels as an integer:
//! the value in its unit times `scale`, rounded. A metric not sampled is absent, never zero.

use std::collections::HashMap;
use std::sync::LazyLock;

/// How values of a metric behave over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A level: the value now.
    Gauge,
    /// Only rises until the machine boots again.
    Counter,
}

/// One row of the catalog.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name, e.g. `system.cpu.utilization`.
    pub name: &'static str,
    /// Unit in UCUM: `1` (ratio or count), `By`, `By/s`, `s`.
    pub unit: &'static str,
    /// Level or counter.
    pub kind: Kind,
    /// The wire carries `value * scale`, rounded.
    pub scale: f64,
    /// Smallest and largest value that is no nonsense.
    pub range: (f64, f64),
}

const RATIO: (f64, f64) = (0.0, 1.0);
const COUNT: (f64, f64) = (0.0, 9e15);

const fn ratio(name: &'static str) -> Metric {
    Metric { name, unit: "1", kind: Kind::Gauge, scale: 10_000.0, range: RATIO }
}

const fn gauge(name: &'static str, unit: &'static str, scale: f64) -> Metric {
    Metric { name, unit, kind: Kind::Gauge, scale, range: COUNT }
}

const fn counter(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, kind: Kind::Counter, scale: 1.0, range: COUNT }
}

/// Every metric. Rows are found by name and never removed.
pub const METRICS: &[Metric] = &[
    ratio("system.cpu.utilization"),
    ratio("system.cpu.user"),
    ratio("system.cpu.system"),
    ratio("system.cpu.iowait"),
    ratio("system.cpu.steal"),
    // Parts of the above: `utilization` is `user` and `system`, `nice` is in `user`, `interrupt` and
    // `softirq` are in `system`; `user`, `system`, `iowait`, `steal` and `idle` add up to 1. In a
    // container with a limit `utilization` is the share used of the limit; the others stay those of
    // the machine around it.
    ratio("system.cpu.nice"),
    ratio("system.cpu.interrupt"),
    ratio("system.cpu.softirq"),
    ratio("system.cpu.idle"),
    // Processors that are online.
    gauge("system.cpu.logical.count", "1", 1.0),
    gauge("system.cpu.load_average.1m", "1", 100.0),
    gauge("system.cpu.load_average.5m", "1", 100.0),
    gauge("system.cpu.load_average.15m", "1", 100.0),
    gauge("system.memory.limit", "By", 1.0),
    gauge("system.memory.available", "By", 1.0),
    ratio("system.memory.utilization"),
    // What holds memory. Buffers and cache can mostly be given back, `shared` (shared memory and
    // tmpfs, part of `cached`) and `slab_unreclaimable` (the kernel's own) cannot.
    gauge("system.memory.buffers", "By", 1.0),
    gauge("system.memory.cached", "By", 1.0),
    gauge("system.memory.shared", "By", 1.0),
    gauge("system.memory.slab_unreclaimable", "By", 1.0),
    // Waits to be written to a disk; is being written. Writers stand still when it is too much.
    gauge("system.memory.dirty", "By", 1.0),
    gauge("system.memory.writeback", "By", 1.0),
    // Promised to programs, and how much may be (only kept to with vm.overcommit_memory 2).
    gauge("system.memory.committed", "By", 1.0),
    gauge("system.memory.commit_limit", "By", 1.0),
    gauge("system.swap.used", "By", 1.0),
    ratio("system.swap.utilization"),
    // Pages read from and written to swap; faults that waited for a disk.
    counter("system.paging.operations.in", "1"),
    counter("system.paging.operations.out", "1"),
    counter("system.paging.faults.major", "1"),
    ratio("system.pressure.cpu"),
    ratio("system.pressure.memory"),
    ratio("system.pressure.io"),
    // The short names are `some` of CPU and disk and `full` of memory; these are the others. Full
    // pressure of the CPU is always 0 but in a container.
    ratio("system.pressure.cpu.full"),
    ratio("system.pressure.memory.some"),
    ratio("system.pressure.io.full"),
    // Of the container where the kernel counts them for it, else of the machine.
    counter("system.oom_kills", "1"),
    ratio("system.filesystem.utilization"),
    gauge("system.filesystem.free", "By", 1.0),
    ratio("system.filesystem.inodes.utilization"),
    counter("system.disk.io.read", "By"),
    counter("system.disk.io.write", "By"),
    counter("system.disk.operations", "1"),
    counter("system.disk.io_time", "ms"),
    // Mean time of the reads, writes and discards since the last sample; absent while there were
    // none. Operations on their way now, and how many there were on average since then.
    gauge("system.disk.latency.read", "s", 1e6),
    gauge("system.disk.latency.write", "s", 1e6),
    gauge("system.disk.latency.discard", "s", 1e6),
    gauge("system.disk.pending_operations", "1", 1.0),
    gauge("system.disk.queue_length", "1", 100.0),
    counter("system.network.io.receive", "By"),
    counter("system.network.io.transmit", "By"),
    counter("system.network.errors", "1"),
    counter("system.network.dropped", "1"),
    ratio("system.network.tcp.retransmit"),
    counter("system.tcp.listen_overflows", "1"),
    counter("system.tcp.listen_drops", "1"),
    // SYN queue of a listener full: answered with a cookie, dropped; cookies sent for any reason.
    counter("system.tcp.syn_queue_full_cookies", "1"),
    counter("system.tcp.syn_queue_full_drops", "1"),
    counter("system.tcp.syncookies_sent", "1"),
    // Segments dropped because the program that should read them did not keep up.
    counter("system.tcp.backlog_drops", "1"),
    counter("system.tcp.receive_queue_drops", "1"),
    // Nothing came back in time; of these SYNs, which a firewall or a dead backend swallowed;
    // connections given up after too many; connections cut because TCP had no memory.
    counter("system.tcp.timeouts", "1"),
    counter("system.tcp.syn_retransmits", "1"),
    counter("system.tcp.aborts_on_timeout", "1"),
    counter("system.tcp.aborts_on_memory", "1"),
    // Connections refused or timed out before they stood; connections reset after they stood.
    counter("system.tcp.attempt_fails", "1"),
    counter("system.tcp.established_resets", "1"),
    gauge("system.tcp.established", "1", 1.0),
    // Closed by their program but not by the other side; waiting before their port is free again.
    gauge("system.tcp.orphans", "1", 1.0),
    gauge("system.tcp.time_wait", "1", 1.0),
    // Memory of all TCP sockets, and its share of what the sysctl tcp_mem allows.
    gauge("system.tcp.memory", "By", 1.0),
    ratio("system.tcp.memory.utilization"),
    gauge("system.sockets", "1", 1.0),
    // Datagrams lost for want of room: answers of the name server among them.
    counter("system.udp.receive_buffer_errors", "1"),
    counter("system.udp.send_buffer_errors", "1"),
    ratio("system.conntrack.utilization"),
    gauge("system.conntrack.count", "1", 1.0),
    gauge("system.conntrack.limit", "1", 1.0),
    // Packets dropped for want of an entry; entries that could not be made, as another took the
    // place at the same time. Added over processors.
    counter("system.conntrack.drops", "1"),
    counter("system.conntrack.insert_failed", "1"),
    // Open files of the whole machine, and their share of fs.file-max.
    gauge("system.file_handles", "1", 1.0),
    ratio("system.file_handles.utilization"),
    gauge("system.processes", "1", 1.0),
    // Threads that run or wait for a processor; that wait for a disk.
    gauge("system.processes.running", "1", 1.0),
    gauge("system.processes.blocked", "1", 1.0),
    // Processes that nothing can wake (a disk, a network file system), and dead ones nobody waited for.
    gauge("system.processes.uninterruptible", "1", 1.0),
    gauge("system.processes.zombie", "1", 1.0),
    // Threads of all processes, and their share of the lower of kernel.pid_max and threads-max.
    gauge("system.threads", "1", 1.0),
    ratio("system.threads.utilization"),
    // In a container (control groups, LXC, an LVE of CloudLinux): its own limits and what it uses
    // of them. The limits of the agent's own service are none of these. Memory is used without what
    // the kernel only caches; `failures` count how often a limit was met.
    gauge("container.memory.limit", "By", 1.0),
    gauge("container.memory.usage", "By", 1.0),
    ratio("container.memory.utilization"),
    counter("container.memory.failures", "1"),
    counter("container.memory.oom_kills", "1"),
    // In processors, also parts of one.
    gauge("container.cpu.limit", "1", 1000.0),
    gauge("container.cpu.usage", "1", 1000.0),
    // Share of the scheduler's periods in which it was stopped because its time was used up, and for
    // how long in all.
    ratio("container.cpu.throttled"),
    counter("container.cpu.throttled_time", "ms"),
    gauge("container.pids.count", "1", 1.0),
    gauge("container.pids.limit", "1", 1.0),
    ratio("container.pids.utilization"),
    counter("container.pids.failures", "1"),
    // Requests inside an LVE at once against what it allows, and those refused (answered 508).
    ratio("lve.entry_processes.utilization"),
    counter("lve.entry_processes.failures", "1"),
    // What OpenVZ refused, by resource.
    counter("openvz.beancounter.failures", "1"),
    gauge("phpfpm.active_processes", "1", 1.0),
    gauge("phpfpm.listen_queue", "1", 1.0),
    counter("phpfpm.max_children_reached", "1"),
    gauge("phpfpm.total_processes", "1", 1.0),
    gauge("phpfpm.max_children", "1", 1.0),
    gauge("phpfpm.listen_queue.limit", "1", 1.0),
    gauge("phpfpm.memory", "By", 1.0),
    gauge("phpfpm.memory_per_process", "By", 1.0),
    gauge("phpfpm.memory_per_process.max", "By", 1.0),
    counter("phpfpm.status.accepted_connections", "1"),
    counter("phpfpm.status.max_children_reached", "1"),
    counter("phpfpm.status.slow_requests", "1"),
    gauge("phpfpm.status.max_active_processes", "1", 1.0),
    gauge("phpfpm.status.max_listen_queue", "1", 1.0),
    ratio("process.cpu.utilization"),
    gauge("process.memory.usage", "By", 1.0),
    gauge("process.disk.io", "By/s", 1.0),
    // Of a sample of the requests; only while there are many, and only shares worth telling.
    // client.prefix=198.51.100.0/24: of the server's requests; server.address=a.example: the share
    // that the site's largest prefix has of the site.
    ratio("http.server.request.top_client.share"),
    // gatewatch.crawler=google, by the User-Agent given.
    ratio("http.server.request.crawler.share"),
    gauge("gatewatch.upstream.up", "1", 1.0),
    gauge("gatewatch.upstream.connect.duration", "s", 1e6),
    gauge("gatewatch.dns.duration", "s", 1e6),
    ratio("gatewatch.dns.points_here"),
    // Seconds until the certificate ends; negative once it has.
    Metric {
        name: "tls.server.expires_in",
        unit: "s",
        kind: Kind::Gauge,
        scale: 1.0,
        range: (-9e15, 9e15),
    },
    gauge("http.server.probe.duration", "s", 1e6),
    gauge("http.server.probe.status", "1", 1.0),
    gauge("nginx.connections_current", "1", 1.0),
    counter("nginx.connections_accepted", "1"),
    counter("nginx.connections_handled", "1"),
    counter("nginx.requests", "1"),
    gauge("apache.workers", "1", 1.0),
    gauge("apache.scoreboard", "1", 1.0),
    counter("apache.requests", "1"),
    gauge("haproxy.server.up", "1", 1.0),
    gauge("haproxy.sessions.count", "1", 1.0),
    gauge("haproxy.sessions.limit", "1", 1.0),
    gauge("haproxy.requests.queued", "1", 1.0),
    counter("haproxy.connections.errors", "1"),
    counter("haproxy.connections.retries", "1"),
    gauge("haproxy.connections.count", "1", 1.0),
    gauge("haproxy.connections.limit", "1", 1.0),
    gauge("db.client.connections.usage", "1", 1.0),
    gauge("db.client.connections.limit", "1", 1.0),
    gauge("redis.clients.blocked", "1", 1.0),
    counter("memcached.connections.refused", "1"),
    counter("memcached.evictions", "1"),
    counter("gatewatch.agent.cpu_time", "ms"),
    gauge("gatewatch.agent.memory", "By", 1.0),
    gauge("gatewatch.agent.spool", "By", 1.0),
];

/// The row of a metric; `None` when the catalog does not have it.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    // Asked for every series of every batch.
    static ROWS: LazyLock<HashMap<&str, &Metric>> =
        LazyLock::new(|| METRICS.iter().map(|metric| (metric.name, metric)).collect());
    ROWS.get(name).copied()
}

impl Metric {
    /// The integer the wire carries for `value`; `None` when it is out of range or no number.
    #[must_use]
    pub fn to_wire(&self, value: f64) -> Option<i64> {
        let (low, high) = self.range;
        (value.is_finite() && value >= low && value <= high)
            .then(|| (value * self.scale).round() as i64)
    }

    /// The value behind an integer of the wire; `None` when it is out of range.
    #[must_use]
    pub fn from_wire(&self, scaled: i64) -> Option<f64> {
        let value = scaled as f64 / self.scale;
        (value >= self.range.0 && value <= self.range.1).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_values_survive_the_wire_within_half_a_step() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let value = metric.range.1.min(0.1234);
            let back = metric.to_wire(value).and_then(|scaled| metric.from_wire(scaled));
            let back = back.expect("a value in range survives");
            assert!((back - value).abs() <= 0.5 / metric.scale, "{}: {back}", metric.name);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let steal = find("system.cpu.steal").expect("steal is in the catalog");
        for value in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
            assert_eq!(steal.to_wire(value), None, "{value}");
        }
        assert_eq!(steal.from_wire(10_001), None);
        assert!(find("no.such.metric").is_none());
    }
}
