//! What the machine itself has to say: killed for want of memory, full listen queues, the limits of a
//! container. The real kernel makes each of them, and the collector's database must have it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

use harness::{AgentSpec, Cgroup, Fleet, Output, eventually, find_program, loopback, now_ms};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use wire::catalog;
use wire::v1::Signal;

use crate::farm::LIMIT;

const EACH_SECOND: &str = "[probes]\ninterval = \"1s\"\n";
const MIB: u64 = 1 << 20;

/// Connections tried until the listener's queue has overflown often enough.
const CONNECTS_MAX: u32 = 400;

/// Values of a metric that the collector stored of `web-1`, oldest first: instant in ms, value.
fn series(fleet: &Fleet, metric: &str) -> Result<Vec<(i64, f64)>, String> {
    let row = catalog::find(metric).unwrap_or_else(|| panic!("{metric} is in the catalog"));
    let mut found = Vec::new();
    for body in fleet.db().bodies("web-1")? {
        for tick in &body.ticks {
            for (ix, scaled) in tick.series.iter().zip(&tick.value) {
                if body.series[*ix as usize].metric == metric {
                    found.push((tick.at_unix_ms, row.from_wire(*scaled).ok_or("out of range")?));
                }
            }
        }
    }
    Ok(found)
}

/// Waits for a value sampled at `after` or later that `wanted` takes.
fn sampled(fleet: &Fleet, metric: &str, after: i64, wanted: impl Fn(f64) -> bool) -> f64 {
    eventually(&format!("{metric} is stored as expected"), LIMIT, || {
        let values = series(fleet, metric)?;
        let fits = values.iter().find(|(at, value)| *at >= after && wanted(*value));
        fits.map(|(_, value)| *value).ok_or_else(|| format!("{values:?}, after {after}"))
    })
}

/// Metrics that begin with `prefix` and were ever stored of `web-1`.
fn metrics(fleet: &Fleet, prefix: &str) -> BTreeSet<String> {
    let bodies = fleet.db().bodies("web-1").expect("the database can be read");
    let series = bodies.into_iter().flat_map(|body| body.series);
    series.map(|series| series.metric).filter(|metric| metric.starts_with(prefix)).collect()
}

/// Runs a process in the group that needs more memory than it may have.
fn kill_for_want_of_memory(group: &Cgroup) {
    let python = find_program(&["python3"], "python3");
    let words = group.wrapper();
    let mut hog = Command::new(&words[0]);
    hog.args(&words[1..]).arg(python).args(["-c", "b = b'x' * (256 << 20)"]);
    let done = Output::of(&mut hog);
    assert_eq!(done.code, -1, "the kernel killed it: {done:?}");
}

#[test]
fn a_process_killed_for_want_of_memory_is_recorded_with_the_kernels_own_line() {
    let group = Cgroup::with_memory_limit(48 * MIB);
    let agent = AgentSpec::new("web-1").toml(EACH_SECOND);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let before = sampled(&fleet, "system.oom_kills", 0, |_| true);
    let began = now_ms();
    kill_for_want_of_memory(&group);

    sampled(&fleet, "system.oom_kills", began, |n| n > before);
    assert!(fs::File::open("/dev/kmsg").is_ok(), "root reads the kernel's messages");
    eventually("the kernel's line is stored as evidence", LIMIT, || {
        let bodies = fleet.db().bodies("web-1")?;
        let lines: Vec<_> = bodies.into_iter().flat_map(|body| body.log_lines).collect();
        let told = lines.iter().any(|line| {
            line.source == "kernel"
                && line.signal() == Signal::Oom
                && line.at_unix_ms >= began - 2000
                && line.message.contains("Killed process")
        });
        if told { Ok(()) } else { Err(format!("{lines:#?}")) }
    });
}

/// A listener with the shortest queue there is, which nobody ever takes a connection from.
fn deaf_listener() -> (OwnedFd, SocketAddr) {
    let address = loopback(9000);
    let SocketAddr::V4(v4) = address else { panic!("loopback is an address of version 4") };
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).expect("sockets are there");
    bind(&fd, &SocketAddrV4::new(Ipv4Addr::from(v4.ip().octets()), v4.port())).expect("it is free");
    listen(&fd, 1).expect("a bound socket listens");
    (fd, address)
}

/// How often a listen queue of this network namespace was full when a connection came.
fn n_overflows() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").expect("linux has it");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let n = pairs.find(|(name, _)| *name == "ListenOverflows").expect("every kernel has it").1;
    n.parse().expect("a number")
}

#[test]
fn a_listen_queue_that_overflows_is_recorded_by_an_unprivileged_agent() {
    let agent = AgentSpec::new("web-1").unprivileged().toml(EACH_SECOND);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let before = sampled(&fleet, "system.tcp.listen_overflows", 0, |_| true);

    let (_listener, address) = deaf_listener();
    let (began, n_before) = (now_ms(), n_overflows());
    // Whatever net.core.somaxconn and net.ipv4.tcp_syncookies say: a queue of one holds two.
    let mut waiting = Vec::new();
    for _ in 0..CONNECTS_MAX {
        waiting.extend(TcpStream::connect_timeout(&address, Duration::from_millis(20)).ok());
        if n_overflows() >= n_before + 25 {
            break;
        }
    }
    let n = n_overflows();
    assert!(n >= n_before + 25, "{n_before}, then {n} with {} connections", waiting.len());
    let rise = (n - n_before) as f64;
    sampled(&fleet, "system.tcp.listen_overflows", began, |now| now >= before + rise);
    // What only explains comes along every 10 s.
    sampled(&fleet, "system.tcp.syn_retransmits", began, |now| now > 0.0);
}

#[test]
fn a_container_reports_its_own_memory_limit_and_a_limited_service_that_of_the_machine() {
    let group = Cgroup::with_memory_limit(400 * MIB);
    let meminfo = fs::read_to_string("/proc/meminfo").expect("linux has it");
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let machine = kib.expect("memory has a size") * 1024;
    assert!(machine > 400 * MIB, "the limit must be below the machine's {machine} bytes");

    for (words, limit) in [(group.container_wrapper(), 400 * MIB), (group.wrapper(), machine)] {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let agent = AgentSpec::new("web-1").toml(EACH_SECOND).wrapper(&words);
        let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
        let is_container = limit != machine;
        let stored = sampled(&fleet, "system.memory.limit", 0, |_| true);
        assert_eq!(stored, limit as f64, "container {is_container}");
        let available = sampled(&fleet, "system.memory.available", 0, |_| true);
        assert!(available > 0.0 && available < limit as f64, "{available} of {limit}");
        let own = metrics(&fleet, "container.");
        assert_eq!(!own.is_empty(), is_container, "{own:?}");
        if is_container {
            assert_eq!(sampled(&fleet, "container.memory.limit", 0, |_| true), limit as f64);
            let usage = sampled(&fleet, "container.memory.usage", 0, |_| true);
            assert!(usage > 1e6 && usage < limit as f64, "the agent itself uses it: {usage}");
            sampled(&fleet, "container.memory.utilization", 0, |share| share > 0.0 && share < 1.0);
            let log = fleet.agent("web-1").log_text();
            assert!(log.contains("this is a container"), "{log}");
        }
    }
}

#[test]
fn a_container_counts_the_kills_in_it_and_not_those_of_its_neighbour() {
    let [group, neighbour] = [160, 48].map(|n| Cgroup::with_memory_limit(n * MIB));
    let words = group.container_wrapper();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let agent = AgentSpec::new("web-1").toml(EACH_SECOND).wrapper(&words);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let before = sampled(&fleet, "system.oom_kills", 0, |_| true);
    kill_for_want_of_memory(&neighbour);
    let after = now_ms() + 1000;
    assert_eq!(sampled(&fleet, "system.oom_kills", after, |_| true), before, "not its own");
    kill_for_want_of_memory(&group);
    sampled(&fleet, "system.oom_kills", after, |n| n >= before + 1.0);
    let all = series(&fleet, "system.oom_kills").expect("it is stored");
    assert!(all.iter().all(|(_, n)| *n <= before + 1.0), "{all:?}");
}
