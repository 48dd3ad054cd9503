//! Evidence made for real: programs that crash, a full disk, a saturated machine, a network that loses
//! packets, a full table of connections. What the agent records of it must be in the collector's
//! database. Steal is not here: only the host of a virtual machine can make it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{
    AgentSpec, Cgroup, Fleet, Machine, Nginx, Output, PhpFpm, Pool, Process, Root, Sample,
    SmallDisk, Vhost, eventually, find_program, get, loopback, now_ms, pause,
};
use wire::v1::{Exemplar, LogLine, Signal};

use crate::farm::LIMIT;
use crate::upstreams::far_blocks;

const SERVER: &str = "web-1";
const EACH_SECOND: &str = "[probes]\ninterval = \"1s\"\n";
const MIB: u64 = 1 << 20;

/// Waits until a line is stored that `is` wanted.
pub(crate) fn line(fleet: &Fleet, what: &str, is: impl Fn(&LogLine) -> bool) -> LogLine {
    eventually(what, LIMIT, || {
        let bodies = fleet.db().bodies(SERVER)?;
        let lines: Vec<_> = bodies.into_iter().flat_map(|body| body.log_lines).collect();
        let found = lines.iter().find(|line| is(line)).cloned();
        found.ok_or_else(|| format!("{lines:#?}\n{}", fleet.agent(SERVER).log_text()))
    })
}

/// Waits until a value of the metric is stored that `is` wanted.
fn sample(fleet: &Fleet, metric: &str, is: impl Fn(&Sample) -> bool) -> Sample {
    eventually(&format!("{metric} is stored as expected"), LIMIT, || {
        let samples = fleet.db().samples(SERVER, &[metric])?;
        let found = samples.iter().find(|sample| is(sample)).cloned();
        let told = || samples.iter().map(|s| format!("{} {} {}\n", s.at, s.attribute, s.value));
        found.ok_or_else(|| told().collect())
    })
}

/// Waits until an error of a site is stored with this status and signal.
pub(crate) fn exemplar(fleet: &Fleet, site: &str, status: u32, signal: Signal) -> Exemplar {
    eventually(&format!("{site} {status} is stored with {signal:?}"), LIMIT, || {
        let mut seen = Vec::new();
        for body in fleet.db().bodies(SERVER)? {
            for error in body.exemplars {
                if body.sites[error.site as usize].name == site {
                    if (error.status, error.signal()) == (status, signal) {
                        return Ok(error);
                    }
                    seen.push(error);
                }
            }
        }
        Err(format!("{seen:#?}\n{}", fleet.agent(SERVER).log_text()))
    })
}

/// Runs a script of Python through these words until the test drops it.
fn python(name: &str, words: &[String], script: &str, args: &[&str], root: &Root) -> Process {
    let python = find_program(&["python3"], "python3").display().to_string();
    let mut all: Vec<_> = words.to_vec();
    all.extend([python, "-c".to_owned(), script.to_owned()]);
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]).args(args);
    Process::start(name, &mut command, &root.mkdir("run").join(format!("{name}.out")))
}

#[test]
fn a_program_that_crashes_is_recorded_with_the_kernels_own_line() {
    let is_told = fs::read_to_string("/proc/sys/debug/exception-trace").expect("linux has it");
    assert_eq!(
        is_told.trim(),
        "1",
        "the kernel is to tell crashes: sysctl debug.exception-trace=1"
    );
    let root = Root::new();
    let source = "int main(void) { return *(volatile int *)0; }\n";
    let program = compile(&root, "gw-crasher", source);
    let agent = AgentSpec::new(SERVER).toml(EACH_SECOND);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();

    let mut pids = Vec::new();
    // The kernel limits the rate of its lines, and other programs of the machine may crash too.
    let line = eventually("the kernel's line is stored", LIMIT, || {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -c 0; exec \"$0\""]).arg(&program).current_dir(root.path());
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = shell.spawn().expect("a shell is there");
        pids.push(child.id());
        let status = child.wait().expect("it ends");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(11), "{status}");
        pause(Duration::from_secs(1)); // the pace of the crashes
        let bodies = fleet.db().bodies(SERVER)?;
        let lines: Vec<_> = bodies.into_iter().flat_map(|body| body.log_lines).collect();
        let heads = pids.iter().map(|pid| format!("gw-crasher[{pid}]: segfault at 0 ip "));
        let heads: Vec<_> = heads.collect();
        let is_ours = |line: &&LogLine| heads.iter().any(|head| line.message.starts_with(head));
        lines.iter().find(is_ours).cloned().ok_or_else(|| format!("{lines:#?}"))
    });
    assert_eq!((line.source.as_str(), line.signal()), ("kernel", Signal::Segfault));
}

/// Sends a body that nginx must keep on disk; returns the status line.
fn post(address: SocketAddr, site: &str, bytes: usize) -> String {
    let mut stream = TcpStream::connect(address).expect("nginx listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a fresh socket");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {site}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    );
    // nginx may answer before it has read all of it.
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; bytes])).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

/// Writes until there is no room.
fn fill_blocks(disk: &SmallDisk) {
    let mut file = fs::File::create(disk.path("ballast")).expect("it has room yet");
    let chunk = [0; 4096];
    let error = loop {
        if let Err(error) = file.write_all(&chunk) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
}

#[test]
fn a_full_disk_is_recorded_in_blocks_in_inodes_and_in_the_words_of_nginx() {
    const INODES: u32 = 256;
    let root = Root::new();
    let disk = SmallDisk::mount(&root, 16 * MIB, INODES);
    let at = loopback(8080);
    let logs = root.join("var/log/nginx").display().to_string();
    let temp = disk.mountpoint().join("body").display().to_string();
    let block = format!(
        "server {{ listen {at}; server_name full.test; access_log {logs}/full.test.log combined;\n\
         client_body_temp_path {temp}; client_body_buffer_size 8k;\n\
         location / {{ proxy_pass http://{}; }} }}",
        loopback(3000)
    );
    let blocks = [("full.test".to_owned(), block)];
    let _nginx = Nginx::start_inside(&root, at, &blocks, &disk.words());
    let agent = AgentSpec::new(SERVER).root(&root).toml(EACH_SECOND);
    let fleet = Fleet::builder().agent(agent).inside(&disk.words()).batch_interval("200ms").start();
    let mount = format!("system.filesystem.mountpoint={}", disk.mountpoint().display());
    let of_disk = |s: &Sample| s.attribute == mount;
    let (blocks, inodes) =
        ("system.filesystem.utilization", "system.filesystem.inodes.utilization");
    sample(&fleet, blocks, |s| of_disk(s) && s.value < 0.1);
    sample(&fleet, inodes, |s| of_disk(s) && s.value < 0.5);
    assert!(post(at, "full.test", 64 << 10).contains(" 502 "), "nobody is behind it");

    fill_blocks(&disk);
    let began = now_ms();
    sample(&fleet, blocks, |s| of_disk(s) && s.value > 0.99);
    sample(&fleet, "system.filesystem.free", |s| of_disk(s) && s.at > began && s.value < 1e6);
    let other = fleet.db().samples(SERVER, &[inodes]).expect("stored");
    assert!(!other.iter().any(|s| of_disk(s) && s.value > 0.9), "there are inodes: {other:?}");
    assert!(post(at, "full.test", 64 << 10).contains(" 500 "), "its body cannot be kept");
    let line = line(&fleet, "nginx says so", |line| line.signal() == Signal::DiskFull);
    assert_eq!(line.source, "nginx");
    assert!(line.message.contains("(28: No space left on device)"), "{line:?}");

    fs::remove_file(disk.path("ballast")).expect("ours");
    let began = now_ms();
    sample(&fleet, blocks, |s| of_disk(s) && s.at > began && s.value < 0.1);
    let made = (0..INODES).find_map(|n| fs::File::create(disk.path(&format!("{n}"))).err());
    assert_eq!(made.expect("no inode is left").kind(), ErrorKind::StorageFull);
    sample(&fleet, inodes, |s| of_disk(s) && s.value > 0.99);
    drop(fleet);
}

/// Processes that do nothing but use a processor.
fn burn(n: usize, root: &Root) -> Vec<Process> {
    let one = |ix| {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        Process::start("burner", &mut command, &root.join(&format!("run/burner-{ix}.out")))
    };
    (0..n).map(one).collect()
}

#[test]
fn a_saturated_machine_is_recorded_second_by_second_while_errors_flow() {
    const BURN_MS: i64 = 8_000;
    assert!(fs::read("/proc/pressure/cpu").is_ok(), "boot the machine with psi=1");
    let root = Root::new();
    let mut php = PhpFpm::start(&root, &[Pool::new("www"), Pool::new("shop")]);
    let nginx = Nginx::start(&root, &[Vhost::many("www", 1), Vhost::many("shop", 1)].concat());
    // The interval is that of an agent at rest: errors alone make it one second.
    let agent = AgentSpec::new(SERVER).root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    php.stop_pool("shop");
    let fails = || {
        assert_eq!(get(nginx.address(), "shop01.test", "/index.php"), 502);
        assert_eq!(get(nginx.address(), "www01.test", "/index.php"), 200);
    };
    fails();
    exemplar(&fleet, "shop01.test", 502, Signal::NoSuchSocket);

    let began = now_ms();
    let burners = burn(4, &root);
    while now_ms() < began + BURN_MS {
        fails();
        pause(Duration::from_millis(200)); // the pace of the traffic
    }
    let ended = now_ms();
    drop(burners);

    let metrics = ["system.cpu.utilization", "system.pressure.cpu", "phpfpm.active_processes"];
    let during = eventually("what was measured meanwhile is stored", LIMIT, || {
        let all = fleet.db().samples(SERVER, &metrics)?;
        let is_over = metrics.map(|m| all.iter().any(|s| s.metric == m && s.at > ended));
        if is_over.contains(&false) {
            return Err(format!("{all:#?}"));
        }
        Ok(all.into_iter().filter(|s| (began..ended).contains(&s.at)).collect::<Vec<_>>())
    });
    let n_seconds = (ended - began) / 1000;
    for metric in metrics {
        let of = during.iter().filter(|s| s.metric == metric);
        let seconds: std::collections::BTreeSet<_> = of.map(|s| s.at / 1000).collect();
        let n = seconds.len() as i64;
        assert!(n * 2 >= n_seconds, "{metric} in {n} of {n_seconds} seconds: {seconds:?}");
    }
    let max = |metric: &str| {
        let of = during.iter().filter(|s| s.metric == metric);
        of.map(|s| s.value).fold(0.0, f64::max)
    };
    assert!(max("system.cpu.utilization") > 0.85, "{during:#?}");
    assert!(max("system.pressure.cpu") > 0.2, "{during:#?}");
}

/// Share of the last 10 s in which somebody waited.
fn pressure(resource: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/pressure/{resource}")).expect("psi=1");
    let some = text.lines().next().and_then(|line| line.strip_prefix("some avg10="));
    let percent = some.and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    percent.expect("a number") / 100.0
}

/// Reads a file again and again that is larger than the memory it may have, next to memory that cannot
/// be given back.
const THRASH: &str = "
import os, sys, time
name, n = sys.argv[1], 32 << 20
f = os.open(name, os.O_RDWR | os.O_CREAT)
for at in range(0, n, 1 << 18): os.pwrite(f, os.urandom(1 << 18), at)
os.fsync(f)
keep = bytearray(os.urandom(1 << 20) * 8)
until = time.monotonic() + 8
while time.monotonic() < until:
    for at in range(0, n, 1 << 18): os.pread(f, 1 << 18, at)
";

#[test]
fn a_group_short_of_memory_is_recorded_as_pressure_and_as_a_container_without_memory() {
    assert!(fs::read("/proc/pressure/memory").is_ok(), "boot the machine with psi=1");
    let root = Root::new();
    let agent = AgentSpec::new(SERVER).toml(EACH_SECOND);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let group = Cgroup::with_memory_limit(24 * MIB);
    let began = now_ms();
    let file = root.join("thrash").display().to_string();
    let _thrash = python("thrash", &group.wrapper(), THRASH, &[&file], &root);
    // What the kernel says here and what the agent read of it at the same time: a mean of 10 s that
    // changes each 2 s.
    let mut seen = Vec::new();
    eventually("the kernel's own number is stored", LIMIT, || {
        seen.push((now_ms(), pressure("memory")));
        let samples = fleet.db().samples(SERVER, &["system.pressure.memory.some"])?;
        let is_same = |s: &&Sample| {
            let alike =
                |(at, v): &&(i64, f64)| (at - s.at).abs() < 500 && (v - s.value).abs() < 1e-5;
            s.at > began && s.value > 0.0 && seen.iter().any(|one| alike(&one))
        };
        let found = samples.iter().find(is_same).map(drop);
        found.ok_or_else(|| format!("{seen:?}\n{samples:?}"))
    });
    let full = fleet.db().samples(SERVER, &["system.pressure.memory"]).expect("stored");
    assert!(!full.is_empty(), "the share in which all stood still is told beside it");
    drop(fleet);

    // A container of 256 MiB, of which 230 are taken and some more is used.
    let group = Cgroup::with_memory_limit(256 * MIB);
    let words = group.container_wrapper();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let agent = AgentSpec::new(SERVER).toml(EACH_SECOND).wrapper(&words);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    sample(&fleet, "system.memory.available", |s| s.value > 0.5 * (256 * MIB) as f64);
    let script = "import time\nkeep = b'x' * (230 << 20)\ntime.sleep(60)";
    let _hog = python("hog", &group.wrapper(), script, &[], &root);
    sample(&fleet, "system.memory.available", |s| s.value < 0.08 * (256 * MIB) as f64);
    sample(&fleet, "system.memory.utilization", |s| s.value > 0.92);
}

/// Asks and waits for the answer, one byte each, on many connections at once.
const PING: &str = "
import socket, sys, threading
def ask():
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        s.send(b'x')
        if not s.recv(1): return
for _ in range(24): threading.Thread(target=ask).start()
";

/// Answers each byte with one, on every connection, until the other side is gone.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // The test is over when nobody can be accepted any more.
            let Ok(mut stream) = stream else { return };
            stream.set_nodelay(true).ok();
            stream.set_read_timeout(Some(LIMIT)).ok();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

#[test]
fn a_network_that_loses_packets_is_recorded_as_retransmits() {
    let root = Root::new();
    let machine = Machine::start();
    let agent = AgentSpec::new(SERVER).toml(EACH_SECOND);
    let fleet =
        Fleet::builder().agent(agent).inside(&machine.words()).batch_interval("200ms").start();
    let listener = TcpListener::bind(machine.address(1, 0)).expect("this end of the cable is ours");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    echo(listener);
    let far = machine.ip(1).to_string();
    let _ping = python("ping", &machine.words(), PING, &[&far, &port], &root);
    let metric = "system.network.tcp.retransmit";
    sample(&fleet, metric, |s| s.value < 0.01);
    let began = now_ms();
    // Loopback, where agent and collector speak, is left alone.
    machine.firewall(&format!(
        "add table ip lossy; add chain ip lossy input {{ type filter hook input priority 0; }}; \
         add rule ip lossy input ip saddr {far} numgen random mod 10 < 3 drop"
    ));
    let found = sample(&fleet, metric, |s| s.at > began && s.value > 0.05);
    assert!(found.value < 1.0, "{found:?}");
    let timeouts = |s: &Sample| s.at > began && s.value > 0.0;
    sample(&fleet, "system.tcp.timeouts", timeouts);
}

/// Fills the table of the namespace it runs in up to `argv[1]` entries, which the kernel may not evict.
const FILL_TABLE: &str = "
import socket, struct, sys
def attr(kind, data, nested=False):
    n = 4 + len(data)
    return struct.pack('=HH', n, kind | (0x8000 if nested else 0)) + data + bytes(-n % 4)
def way(kind, a, b, from_port, to_port):
    ip = attr(1, attr(1, a) + attr(2, b), True)
    ports = attr(2, struct.pack('!H', from_port)) + attr(3, struct.pack('!H', to_port))
    return attr(kind, ip + attr(2, attr(1, bytes([17])) + ports, True), True)
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
s.bind((0, 0))
a, b = socket.inet_aton('192.0.2.1'), socket.inet_aton('192.0.2.2')
# Confirmed, assured, seen in both directions; for ten minutes.
tail = attr(3, struct.pack('!I', 0xe)) + attr(7, struct.pack('!I', 600))
batch = []
def flush():
    s.send(b''.join(batch))
    batch.clear()
for n in range(int(sys.argv[1])):
    x, y = 1024 + n % 60000, 1 + n // 60000
    body = struct.pack('=BBH', 2, 0, 0) + way(1, a, b, x, y) + way(2, b, a, y, x) + tail
    batch.append(struct.pack('=IHHII', 16 + len(body), 0x100, 0x601, n, 0) + body)
    if len(batch) == 500: flush()
if batch: flush()
# Packets for which there is no room any more.
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(20):
    try: u.sendto(b'x', (sys.argv[2], 30000 + port))
    except PermissionError: pass
";

#[test]
fn a_full_table_of_connections_is_recorded_and_the_kernels_line_beside_it() {
    let root = Root::new();
    let machine = Machine::start();
    machine.firewall(
        "add table ip track; add chain ip track input { type filter hook input priority 0; }; \
         add rule ip track input ct state new counter accept",
    );
    let agent = AgentSpec::new(SERVER).toml(EACH_SECOND);
    let fleet =
        Fleet::builder().agent(agent).inside(&machine.words()).batch_interval("200ms").start();
    let limit = sample(&fleet, "system.conntrack.limit", |s| s.value > 0.0).value;
    sample(&fleet, "system.conntrack.utilization", |s| s.value < 0.1);

    // Each namespace has a table of its own, which may grow to the limit of the machine.
    let (began, far) = (now_ms(), machine.ip(1).to_string());
    let n = format!("{limit}");
    let _filler = python("filler", &machine.words(), FILL_TABLE, &[&n, &far], &root);
    sample(&fleet, "system.conntrack.utilization", |s| s.value > 0.6);
    let is_ours =
        |line: &LogLine| line.signal() == Signal::ConntrackFull && line.at_unix_ms >= began - 2000;
    let line = line(&fleet, "the kernel says so", is_ours);
    assert_eq!(line.source, "kernel");
    assert!(line.message.contains("table full"), "{line:?}");
    sample(&fleet, "system.conntrack.utilization", |s| s.value > 0.99);
    if Path::new("/proc/net/stat/nf_conntrack").exists() {
        sample(&fleet, "system.conntrack.drops", |s| s.at > began && s.value > 0.0);
    }
}

#[test]
fn what_a_firewall_does_to_a_gateway_is_recorded_by_its_errors_and_by_our_own_tries() {
    let root = Root::new();
    let mut machine = Machine::start();
    machine.serve(&root, 3000);
    machine.firewall(
        "add table ip filter; add chain ip filter input { type filter hook input priority 0; }; \
         add rule ip filter input tcp dport 3001 reject with icmp type host-unreachable; \
         add rule ip filter input tcp dport 3002 drop",
    );
    let far = |port: u16| machine.address(2, port).to_string();
    let names = [("good.test", 3000), ("rejected.test", 3001), ("dropped.test", 3002)];
    let sites = names.map(|(name, port)| (name, far(port)));
    let at = loopback(8080);
    let _nginx = Nginx::start_with(&root, at, &far_blocks(&root, at, &sites));
    let agent = AgentSpec::new(SERVER).root(&root).unprivileged();
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    assert_eq!(get(at, "good.test", "/"), 200);
    for (site, port, status, signal, words) in [
        ("rejected.test", 3001, 502, Signal::Unreachable, "(113: "),
        ("dropped.test", 3002, 504, Signal::ConnectTimeout, "(110: "),
    ] {
        assert_eq!(u32::from(get(at, site, "/")), status, "{site}");
        let error = exemplar(&fleet, site, status, signal);
        let said = error.message.expect("nginx says why");
        assert!(said.contains(words) && said.contains("while connecting to upstream"), "{said}");
        assert!(error.upstream.contains(&far(port)), "{}", error.upstream);
        let own = format!("cannot connect to {} ", far(port));
        line(&fleet, &format!("our own try of {site}"), |line| {
            line.source == "probe" && line.signal() == signal && line.message.starts_with(&own)
        });
    }
}

#[test]
fn a_clock_that_is_stepped_is_recorded_as_a_change() {
    let root = Root::new();
    let offset = root.write("srv/offset", "+0s\n");
    let faketime = find_program(&["faketime"], "faketime").display().to_string();
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", offset.display());
    // Read anew at each look at the wall clock; the clocks that only run are left alone.
    let words = [
        &faketime,
        "-f",
        "+0s",
        "env",
        "-u",
        "FAKETIME",
        &file,
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "DONT_FAKE_MONOTONIC=1",
    ];
    let agent = AgentSpec::new(SERVER).wrapper(&words);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let clocks = |fleet: &Fleet| {
        let bodies = fleet.db().bodies(SERVER).unwrap_or_default();
        let changes = bodies.into_iter().flat_map(|body| body.changes);
        changes.filter(|change| change.kind == "clock").collect::<Vec<_>>()
    };
    assert!(clocks(&fleet).is_empty(), "{:?}", clocks(&fleet));
    let step = |n: usize, text: &str, by_s: f64| {
        write_at_once(&offset, text);
        eventually(&format!("the step to {text} is stored"), LIMIT, || {
            let told = clocks(&fleet);
            let [.., last] = &told[..] else { return Err(fleet.agent(SERVER).log_text()) };
            let by = last.what.strip_prefix("clock stepped by ").and_then(|w| w.strip_suffix(" s"));
            let by: f64 = by.and_then(|by| by.parse().ok()).ok_or_else(|| format!("{told:?}"))?;
            let is_told = told.len() == n && (by - by_s).abs() < 1.0;
            if is_told { Ok(()) } else { Err(format!("{told:#?}")) }
        });
    };
    step(1, "+90s\n", 90.0);
    step(2, "+0s\n", -90.0);
}

/// Nobody ever reads half of it.
fn write_at_once(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).expect("it is ours");
    fs::rename(&new, path).expect("it is ours");
}

/// Writes the same few pages again and again, each time down to the disk; without rest for some seconds.
const WRITER: &str = "
#include <fcntl.h>
#include <time.h>
#include <unistd.h>
int main(int n, char **words) {
    static char pages[65536];
    int f = open(words[1], O_WRONLY | O_CREAT, 0644);
    for (time_t began = time(0); f >= 0;) {
        if (pwrite(f, pages, sizeof pages, 0) < 0 || fsync(f) < 0) return 1;
        if (time(0) > began + 6) usleep(100000);
    }
    return n;
}
";

/// Compiles a program in C; returns where it is.
fn compile(root: &Root, name: &str, source: &str) -> String {
    let source = root.write(&format!("srv/{name}.c"), source);
    let program = root.join(&format!("srv/{name}"));
    let mut cc = Command::new(find_program(&["cc"], "gcc"));
    cc.arg("-o").arg(&program).arg(source);
    Output::of(&mut cc).good().expect("it compiles");
    program.display().to_string()
}

#[test]
fn who_writes_to_the_disk_before_the_errors_is_recorded_by_name_and_as_pressure() {
    assert!(fs::read("/proc/pressure/io").is_ok(), "boot the machine with psi=1");
    let root = Root::new();
    let sites = [("closed.test", loopback(3003).to_string())];
    let at = loopback(8080);
    let _nginx = Nginx::start_with(&root, at, &far_blocks(&root, at, &sites));
    // Only root may see what others write.
    let agent = AgentSpec::new(SERVER).root(&root).toml(EACH_SECOND);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let dir = root.mkdir("srv/writes");
    rustix::fs::chown(&dir, Some(rustix::fs::Uid::from_raw(1)), None).expect("root may");
    let program = compile(&root, "gw-writer", WRITER);
    let began = now_ms();
    let one = |n: usize| {
        let mut command = Command::new(find_program(&["setpriv"], "util-linux"));
        // User 1 is `daemon` everywhere.
        command.args(["--reuid=1", "--regid=1", "--clear-groups", &program]);
        command.arg(dir.join(n.to_string()));
        Process::start("writer", &mut command, &root.join(&format!("run/writer-{n}.out")))
    };
    let mut writers: Vec<_> = (0..3).map(one).collect();
    // A walk over the processes comes every 10 s, and what they wrote is told between two.
    let n_walks = || {
        let walks = fleet.db().samples(SERVER, &["system.processes.zombie"]).unwrap_or_default();
        walks.into_iter().filter(|s| s.at > began).count()
    };
    eventually("three walks", LIMIT, || {
        let n = n_walks();
        if n >= 3 { Ok(()) } else { Err(n.to_string()) }
    });
    for writer in &mut writers {
        assert_eq!(writer.exited(), None, "{}", writer.log_text());
    }
    drop(writers);
    let onset = now_ms();
    assert_eq!(get(at, "closed.test", "/"), 502);
    for who in ["process.owner=daemon", "process.executable.name=gw-writer"] {
        sample(&fleet, "process.disk.io", |s| {
            s.attribute.starts_with(who) && s.at < onset && s.value > 65_536.0
        });
    }
    let waited = |s: &Sample| (began..onset).contains(&s.at) && s.value > 0.02;
    sample(&fleet, "system.pressure.io", waited);
}
