//! How the body of a batch is packed: codecs, limits, and the dictionary of small bodies.
//!
//! A body of a server at rest says mostly names that every body says. The dictionary holds them, so that
//! they need not travel, nor be stored, each time. **It never changes**: bodies that were packed with it
//! are stored as they came. A better one is a codec of its own.

use std::sync::LazyLock;

use prost::Message as _;

use crate::v1::{
    BatchBody, Exemplar, FileOffset, Series, ServiceState, Signal, Site, SiteSecond, Tick,
};

/// `Batch.codec` of a zstd frame that holds one [`BatchBody`].
pub const CODEC_ZSTD_BODY: u32 = 1;

/// The same, packed with [`dictionary`]: exactly one frame, which says its size. Agents end it with a
/// checksum. Spoken from [`PROTOCOL_DICTIONARY`] on.
pub const CODEC_ZSTD_DICTIONARY: u32 = 2;

/// Lowest protocol version whose collectors know [`CODEC_ZSTD_DICTIONARY`].
pub const PROTOCOL_DICTIONARY: u32 = 2;

/// Largest compressed `Batch.body`, in bytes; the agent splits, the collector refuses.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Largest decompressed body, in bytes: the bound on what a hostile frame may unpack to.
pub const BODY_UNPACKED_BYTES_MAX: usize = 16 << 20;

/// What zstd takes as a dictionary of plain content: what small bodies say most, most likely last.
#[must_use]
pub fn dictionary() -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut bytes = TEXTS.concat().into_bytes();
        for body in [seldom(), usual()] {
            bytes.extend(body.encode_to_vec());
        }
        bytes
    });
    &BYTES
}

/// What is said when something fails or changes.
fn seldom() -> BatchBody {
    let service = |unit: &str, state: &str, sub_state: &str, pool: &str| ServiceState {
        unit: unit.to_owned(),
        state: state.to_owned(),
        pool: pool.to_owned(),
        at_unix_ms: AT_S * 1000,
        sub_state: sub_state.to_owned(),
        result: "success".to_owned(),
        ..ServiceState::default()
    };
    let exemplar = Exemplar {
        at_unix_ms: AT_S * 1000,
        status: 502,
        signal: Signal::NoSuchSocket.into(),
        client: "203.0.113.0/24".to_owned(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        upstream: "unix:/run/php/php8.2-fpm.sock".to_owned(),
        ..Exemplar::default()
    };
    BatchBody {
        exemplars: vec![exemplar],
        series: SELDOM.iter().copied().map(series).collect(),
        services: vec![
            service("nginx.service", "failed", "failed", ""),
            service("mysqld", "inactive", "dead", ""),
            service("php8.2-fpm.service", "active", "running", "www"),
            service("nginx.service", "active", "running", ""),
        ],
        ..BatchBody::default()
    }
}

/// A batch of a server at rest, in the order in which the agent measures.
fn usual() -> BatchBody {
    let site = |name: &str, owner: &str| Site {
        name: name.to_owned(),
        pool: "www".to_owned(),
        owner: owner.to_owned(),
        ..Site::default()
    };
    let second = |site, status: &[u32]| SiteSecond {
        site,
        second: AT_S,
        status: status.to_vec(),
        count: vec![1; status.len()],
    };
    // Most often 200 alone, or with one other.
    let others = [404, 403, 499, 500, 301, 302, 304];
    let pairs =
        others.iter().flat_map(|other| [second(1, &[*other, 200]), second(1, &[200, *other])]);
    let offset = |path: &str| FileOffset {
        path: path.to_owned(),
        device: 0x0801,
        fingerprint_bytes: 256,
        ..FileOffset::default()
    };
    let tick = Tick { at_unix_ms: AT_S * 1000, series: (0..N_POSITIONS).collect(), value: vec![0] };
    BatchBody {
        sites: vec![site("www.example.com", "www-data"), site("shop.example", "")],
        seconds: pairs.chain((0..4).map(|site| second(site, &[200]))).collect(),
        series: USUAL.iter().copied().map(series).collect(),
        ticks: vec![tick],
        offsets: ["/var/log/apache2/access.log", "/var/log/nginx/access.log"].map(offset).into(),
        ..BatchBody::default()
    }
}

fn series((metric, attribute): (&str, &str)) -> Series {
    Series { metric: metric.to_owned(), attribute: attribute.to_owned() }
}

/// Some second: its upper digits are those of the years to come.
const AT_S: i64 = 1_796_000_000;
/// Series that a tick names one after the other.
const N_POSITIONS: u32 = 128;

/// Parts of texts.
const TEXTS: [&str; 42] = [
    "no live upstreams while connecting to upstream",
    "upstream prematurely closed connection while reading response header from upstream",
    "upstream timed out (110: Connection timed out) while reading response header from upstream",
    "connect() failed (111: Connection refused) while connecting to upstream",
    "connect() failed (113: No route to host) while connecting to upstream",
    "recv() failed (104: Connection reset by peer) while reading response header from upstream",
    "connect() to unix:/run/php/php8.2-fpm.sock failed (11: Resource temporarily unavailable) while connecting to upstream",
    "connect() to unix:/run/php/php8.2-fpm.sock failed (13: Permission denied) while connecting to upstream",
    "connect() to unix:/run/php/php8.2-fpm.sock failed (2: No such file or directory) while connecting to upstream",
    "server reached pm.max_children setting (5), consider raising it",
    "Out of memory: Killed process ",
    "cannot connect to /run/php/php8.2-fpm.sock (no such socket), used by ",
    " (connection refused), used by ",
    " sites",
    "kernel",
    "php_fpm",
    "php_slow",
    "mysql",
    "redis",
    "syslog",
    "nginx",
    "apache",
    "modsecurity",
    "wordfence",
    "firewall",
    "probe",
    "package",
    "config",
    "plugin",
    "certificate",
    "schedule",
    "/etc/nginx/sites-enabled/",
    "/etc/php/8.2/fpm/pool.d/",
    "/wp-content/plugins/",
    "/wp-login.php",
    "/index.php",
    "mariadb.service",
    "apache2.service",
    "haproxy.service",
    "redis-server.service",
    "php8.1-fpm.service",
    "php8.3-fpm.service",
];

/// Series of few servers, and those of other devices.
const SELDOM: [(&str, &str); 79] = [
    ("gatewatch.upstream.connect.duration", "upstream=127.0.0.1:8080"),
    ("gatewatch.upstream.up", "upstream=127.0.0.1:8080"),
    ("container.memory.limit", ""),
    ("container.memory.usage", ""),
    ("container.memory.utilization", ""),
    ("container.memory.failures", ""),
    ("container.memory.oom_kills", ""),
    ("container.cpu.limit", ""),
    ("container.cpu.usage", ""),
    ("container.cpu.throttled", ""),
    ("container.cpu.throttled_time", ""),
    ("container.pids.count", ""),
    ("container.pids.limit", ""),
    ("container.pids.utilization", ""),
    ("container.pids.failures", ""),
    ("lve.entry_processes.utilization", ""),
    ("lve.entry_processes.failures", ""),
    ("openvz.beancounter.failures", ""),
    ("phpfpm.active_processes", "phpfpm.pool=www"),
    ("phpfpm.listen_queue", "phpfpm.pool=www"),
    ("phpfpm.max_children_reached", "phpfpm.pool=www"),
    ("phpfpm.total_processes", "phpfpm.pool=www"),
    ("phpfpm.max_children", "phpfpm.pool=www"),
    ("phpfpm.listen_queue.limit", "phpfpm.pool=www"),
    ("phpfpm.memory", "phpfpm.pool=www"),
    ("phpfpm.memory_per_process", "phpfpm.pool=www"),
    ("phpfpm.memory_per_process.max", "phpfpm.pool=www"),
    ("phpfpm.status.accepted_connections", "phpfpm.pool=www"),
    ("phpfpm.status.max_children_reached", "phpfpm.pool=www"),
    ("phpfpm.status.slow_requests", "phpfpm.pool=www"),
    ("phpfpm.status.max_active_processes", "phpfpm.pool=www"),
    ("phpfpm.status.max_listen_queue", "phpfpm.pool=www"),
    ("process.cpu.utilization", "process.owner=www-data"),
    ("process.memory.usage", "process.owner=www-data"),
    ("process.disk.io", "process.owner=www-data"),
    ("http.server.request.top_client.share", ""),
    ("http.server.request.crawler.share", ""),
    ("gatewatch.dns.duration", ""),
    ("gatewatch.dns.points_here", ""),
    ("http.server.probe.duration", ""),
    ("http.server.probe.status", ""),
    ("nginx.connections_current", ""),
    ("nginx.connections_accepted", ""),
    ("nginx.connections_handled", ""),
    ("nginx.requests", ""),
    ("apache.workers", ""),
    ("apache.scoreboard", ""),
    ("apache.requests", ""),
    ("haproxy.server.up", ""),
    ("haproxy.sessions.count", ""),
    ("haproxy.sessions.limit", ""),
    ("haproxy.requests.queued", ""),
    ("haproxy.connections.errors", ""),
    ("haproxy.connections.retries", ""),
    ("haproxy.connections.count", ""),
    ("haproxy.connections.limit", ""),
    ("db.client.connections.usage", ""),
    ("db.client.connections.limit", ""),
    ("redis.clients.blocked", ""),
    ("memcached.connections.refused", ""),
    ("memcached.evictions", ""),
    ("tls.server.expires_in", "server.address="),
    ("system.filesystem.utilization", "system.filesystem.mountpoint=/var"),
    ("system.filesystem.utilization", "system.filesystem.mountpoint=/boot"),
    ("system.filesystem.utilization", "system.filesystem.mountpoint=/home"),
    ("system.filesystem.free", "system.filesystem.mountpoint=/var"),
    ("system.filesystem.inodes.utilization", "system.filesystem.mountpoint=/var"),
    ("system.network.io.receive", "network.interface.name=ens18"),
    ("system.network.io.receive", "network.interface.name=ens3"),
    ("system.disk.io.read", "system.device=nvme0n1"),
    ("system.disk.io.read", "system.device=sda"),
    ("system.disk.io.write", "system.device=sda"),
    ("system.disk.operations", "system.device=sda"),
    ("system.disk.io_time", "system.device=sda"),
    ("system.disk.pending_operations", "system.device=sda"),
    ("system.disk.latency.read", "system.device=sda"),
    ("system.disk.latency.write", "system.device=sda"),
    ("system.disk.latency.discard", "system.device=sda"),
    ("system.disk.queue_length", "system.device=sda"),
];

/// Series of most servers, in the order in which the agent measures.
const USUAL: [(&str, &str); 91] = [
    ("gatewatch.agent.cpu_time", ""),
    ("gatewatch.agent.memory", ""),
    ("gatewatch.agent.spool", ""),
    ("system.cpu.utilization", ""),
    ("system.cpu.user", ""),
    ("system.cpu.system", ""),
    ("system.cpu.iowait", ""),
    ("system.cpu.steal", ""),
    ("system.cpu.nice", ""),
    ("system.cpu.interrupt", ""),
    ("system.cpu.softirq", ""),
    ("system.cpu.idle", ""),
    ("system.processes.running", ""),
    ("system.processes.blocked", ""),
    ("system.cpu.logical.count", ""),
    ("system.cpu.load_average.1m", ""),
    ("system.cpu.load_average.5m", ""),
    ("system.cpu.load_average.15m", ""),
    ("system.threads", ""),
    ("system.threads.utilization", ""),
    ("system.file_handles", ""),
    ("system.file_handles.utilization", ""),
    ("system.memory.limit", ""),
    ("system.memory.available", ""),
    ("system.memory.utilization", ""),
    ("system.memory.buffers", ""),
    ("system.memory.cached", ""),
    ("system.memory.shared", ""),
    ("system.memory.slab_unreclaimable", ""),
    ("system.memory.dirty", ""),
    ("system.memory.writeback", ""),
    ("system.memory.committed", ""),
    ("system.memory.commit_limit", ""),
    ("system.swap.used", ""),
    ("system.swap.utilization", ""),
    ("system.oom_kills", ""),
    ("system.paging.operations.in", ""),
    ("system.paging.operations.out", ""),
    ("system.paging.faults.major", ""),
    ("system.pressure.cpu", ""),
    ("system.pressure.cpu.full", ""),
    ("system.pressure.memory.some", ""),
    ("system.pressure.memory", ""),
    ("system.pressure.io", ""),
    ("system.pressure.io.full", ""),
    ("system.disk.io.read", "system.device=vda"),
    ("system.disk.io.write", "system.device=vda"),
    ("system.disk.operations", "system.device=vda"),
    ("system.disk.io_time", "system.device=vda"),
    ("system.disk.pending_operations", "system.device=vda"),
    ("system.disk.latency.read", "system.device=vda"),
    ("system.disk.latency.write", "system.device=vda"),
    ("system.disk.latency.discard", "system.device=vda"),
    ("system.disk.queue_length", "system.device=vda"),
    ("system.network.io.receive", "network.interface.name=eth0"),
    ("system.network.io.transmit", "network.interface.name=eth0"),
    ("system.network.errors", "network.interface.name=eth0"),
    ("system.network.dropped", "network.interface.name=eth0"),
    ("system.network.tcp.retransmit", ""),
    ("system.tcp.attempt_fails", ""),
    ("system.tcp.established_resets", ""),
    ("system.tcp.established", ""),
    ("system.udp.receive_buffer_errors", ""),
    ("system.udp.send_buffer_errors", ""),
    ("system.tcp.listen_overflows", ""),
    ("system.tcp.listen_drops", ""),
    ("system.tcp.syncookies_sent", ""),
    ("system.tcp.timeouts", ""),
    ("system.tcp.aborts_on_memory", ""),
    ("system.tcp.aborts_on_timeout", ""),
    ("system.tcp.backlog_drops", ""),
    ("system.tcp.syn_queue_full_cookies", ""),
    ("system.tcp.syn_queue_full_drops", ""),
    ("system.tcp.syn_retransmits", ""),
    ("system.tcp.receive_queue_drops", ""),
    ("system.sockets", ""),
    ("system.tcp.orphans", ""),
    ("system.tcp.time_wait", ""),
    ("system.tcp.memory", ""),
    ("system.tcp.memory.utilization", ""),
    ("system.conntrack.utilization", ""),
    ("system.conntrack.count", ""),
    ("system.conntrack.limit", ""),
    ("system.conntrack.drops", ""),
    ("system.conntrack.insert_failed", ""),
    ("system.processes", ""),
    ("system.processes.uninterruptible", ""),
    ("system.processes.zombie", ""),
    ("system.filesystem.utilization", "system.filesystem.mountpoint=/"),
    ("system.filesystem.free", "system.filesystem.mountpoint=/"),
    ("system.filesystem.inodes.utilization", "system.filesystem.mountpoint=/"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    /// FNV-1a, 64 bits.
    fn hash(bytes: &[u8]) -> u64 {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
    }

    #[test]
    fn the_dictionary_is_the_one_that_stored_bodies_were_packed_with() {
        let bytes = dictionary();
        assert_eq!(
            (bytes.len(), hash(bytes)),
            (8088, 0xf988_d541_c1f0_7223),
            "bodies of codec 2 are stored: a changed dictionary makes them unreadable"
        );
        assert!(
            !bytes.starts_with(&[0x37, 0xa4, 0x30, 0xec]),
            "zstd would take it for a trained one"
        );
    }

    #[test]
    fn its_metrics_are_those_of_the_catalog() {
        for (metric, _) in SELDOM.iter().chain(&USUAL) {
            assert!(catalog::find(metric).is_some(), "{metric}");
        }
    }
}
