//! Rows A8, A10 and A12: what an agent costs that has nothing to do.
//!
//! The agent samples each second, follows logs that nobody writes to, and streams to a real collector
//! over mTLS, through a relay that counts the bytes. node_exporter, asked each second as a monitoring
//! server would, and netdata run beside it, on the same processor, in the same span.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::{AgentSpec, Fleet, Process, Root, find_program, instant, loopback, pause};
use wire::v1::BatchBody;

use crate::live::Server;
use crate::measure::{Cost, is_installed, quantile, with_children};
use crate::table::{Row, Target, number};

const N_FILES: u32 = 50;
const N_FILES_MANY: u32 = 500;
/// Until caches, allocators and the first batches are done.
const SETTLE: Duration = Duration::from_secs(30);
const SPAN: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(60);
const EACH_SECOND: &str = "[probes]\ninterval = \"1s\"\n";
/// Rounds of a start.
const STARTS: usize = 9;

/// Asked each second for all it has, as Prometheus does.
struct Exporter {
    process: Process,
    address: SocketAddr,
}

impl Exporter {
    fn start(root: &Root) -> Self {
        let path = find_program(&["prometheus-node-exporter"], "prometheus-node-exporter");
        let address = loopback(9100);
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(path).arg(format!("--web.listen-address={address}"));
        let log = root.join("exporter.log");
        let mut process = Process::start("node_exporter", &mut command, &log);
        process.listens_on(address);
        Self { process, address }
    }

    /// Returns the bytes of the answer.
    fn ask(&self) -> std::io::Result<u64> {
        let mut stream = TcpStream::connect(self.address)?;
        let host = self.address;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: gzip\r\n")?;
        write!(stream, "Connection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.len() as u64)
    }
}

fn start_netdata(root: &Root) -> Process {
    let path = find_program(&["netdata"], "netdata");
    let address = loopback(19_999);
    let (dir, user) =
        (root.mkdir("netdata").display().to_string(), "[global]\n run as user = root\n");
    let mut conf =
        format!("{user}[web]\n bind to = {}\n default port = 19999\n[directories]\n", address.ip());
    for name in ["cache", "lib", "log", "lock", "home"] {
        root.mkdir(format!("netdata/{name}"));
        writeln!(conf, " {name} = {dir}/{name}").expect("to a string");
    }
    let conf = root.write("netdata.conf", &conf);
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(path).args(["-D", "-c"]).arg(conf);
    command.args(["-P", &format!("{dir}/pid")]);
    let mut process = Process::start("netdata", &mut command, &root.join("netdata.log"));
    process.listens_on(address);
    process
}

/// A8: processor time, memory, wake-ups, writes and bytes sent at rest.
pub(crate) fn a8() -> Vec<Row> {
    let server = Server::start(N_FILES, EACH_SECOND);
    let root = Root::new();
    let exporter = is_installed("prometheus-node-exporter").then(|| Exporter::start(&root));
    let netdata = is_installed("netdata").then(|| start_netdata(&root));
    let (mut n_answer, mut n_asked) = (0, 0);
    let mut ask_for = |span: Duration| {
        let (began, mut next) = (instant(), Duration::ZERO);
        while began.elapsed() < span {
            let asked = exporter.as_ref().and_then(|exporter| exporter.ask().ok());
            n_answer += asked.unwrap_or(0);
            n_asked += u64::from(asked.is_some());
            next += Duration::from_secs(1);
            pause(next.saturating_sub(began.elapsed()));
        }
    };
    ask_for(SETTLE);
    let pid = |process: Option<&Process>| process.map(|process| with_children(process.pid()));
    let theirs = [pid(exporter.as_ref().map(|e| &e.process)), pid(netdata.as_ref())];
    let cost_of = |pids: &Option<Vec<u32>>| pids.as_ref().map(|pids| Cost::of(pids));
    let (before, sent) = (Cost::of(&[server.pid()]), server.relay.bytes());
    let theirs_before = theirs.each_ref().map(cost_of);
    let began = instant();
    ask_for(SPAN);
    let seconds = began.elapsed().as_secs_f64();
    let own = Cost::of(&[server.pid()]).since(&before, seconds);
    let sent = (server.relay.bytes() - sent) as f64 / seconds;
    let mut rows = vec![
        Row::alone("A8", "agent at rest, 50 files: % of a core", own.cpu_share * 100.0, "%", 0.10),
        Row::alone("A8", "the same: memory", own.rss_mib, "MiB", 12.0),
        Row::alone("A8", "the same: wake-ups a second", own.wakeups_per_s, "/s", 6.0),
        Row::told("A8", "the same: written to disk an hour", own.written_per_s * 3.6e-3, "MB"),
    ];
    for (at, (name, least)) in [("node_exporter", 6.0), ("netdata", 10.0)].into_iter().enumerate() {
        let what = format!("CPU of {name} by ours, at rest");
        let its = theirs[at].as_ref().zip(theirs_before[at].as_ref());
        let Some((pids, before)) = its else {
            rows.push(Row::missing("A8", &what, name, &format!("{name} is not installed")));
            continue;
        };
        let its = Cost::of(pids).since(before, seconds);
        let row = |what: String, ours: f64, theirs: f64, unit, target| Row {
            reference: name.to_owned(),
            theirs: number(theirs, unit),
            figure: Ok((theirs / ours, "x")),
            target,
            ..Row::alone("A8", &what, ours, unit, 0.0)
        };
        let shares = (own.cpu_share * 100.0, its.cpu_share * 100.0);
        rows.push(row(what, shares.0, shares.1, "%", Target::AtLeast(least)));
        let what = format!("memory of {name} by ours");
        rows.push(row(what, own.rss_mib, its.rss_mib, "MiB", Target::None));
        let what = format!("wake-ups of {name} by ours");
        rows.push(row(what, own.wakeups_per_s, its.wakeups_per_s, "/s", Target::None));
        let written = (own.written_per_s * 3.6e-3, its.written_per_s * 3.6e-3);
        let what = format!("writes of {name} by ours, an hour");
        rows.push(row(what, written.0.max(1e-3), written.1, "MB", Target::None));
    }
    let answer = n_answer as f64 / (n_asked.max(1)) as f64;
    rows.push(Row {
        reference: "node_exporter".to_owned(),
        theirs: number(answer, "B"),
        figure: Ok((answer / sent, "x")),
        target: Target::None,
        ..Row::alone("A8", "bytes on the wire a second, both directions", sent, "B", 0.0)
    });
    rows
}

/// Bytes, values and entries of the batches of a span.
#[expect(clippy::struct_field_names, reason = "counts are named n_")]
#[derive(Debug, Default)]
struct Wire {
    n_batches: u64,
    n_bytes: u64,
    n_values: u64,
    /// Sites, seconds and offsets: what a site that has nothing to say must not cost.
    n_of_sites: u64,
}

impl Wire {
    fn of(bodies: &[(usize, BatchBody)]) -> Self {
        let mut wire = Self::default();
        for (n_bytes, body) in bodies {
            wire.n_batches += 1;
            wire.n_bytes += *n_bytes as u64;
            wire.n_values += body.ticks.iter().map(|tick| tick.value.len() as u64).sum::<u64>();
            let inventory = body.inventory.as_ref().map_or(0, |inventory| inventory.sites.len());
            let n = body.sites.len() + body.seconds.len() + body.offsets.len() + inventory;
            wire.n_of_sites += n as u64;
        }
        wire
    }

    fn per_batch(&self) -> f64 {
        self.n_bytes as f64 / self.n_batches.max(1) as f64
    }
}

/// A10: bytes of a value on the wire, and of a site that has nothing to say.
pub(crate) fn a10() -> Vec<Row> {
    let servers = [N_FILES, N_FILES_MANY].map(|n| Server::start(n, EACH_SECOND));
    pause(SETTLE);
    let n_before = servers.each_ref().map(|server| server.bodies().len());
    let sent = servers[0].relay.bytes();
    pause(SPAN);
    let sent = servers[0].relay.bytes() - sent;
    let [few, many] = [0, 1].map(|at| Wire::of(&servers[at].bodies()[n_before[at]..]));
    let per_value = few.n_bytes as f64 / few.n_values as f64;
    let all = sent as f64 / few.n_values as f64;
    let of_sites = (few.n_of_sites + many.n_of_sites) as f64;
    let what = format!(
        "entries of {N_FILES} and {N_FILES_MANY} idle sites (batches of {:.0} and {:.0} B)",
        few.per_batch(),
        many.per_batch()
    );
    vec![
        Row::alone("A10", "wire: a sample value in its batch", per_value, "B", 4.0),
        Row::told("A10", "the same with heartbeats, acks, HTTP/2 and TLS", all, "B"),
        Row::alone("A10", &what, of_sites, "", 0.0),
    ]
}

/// A12: size of the released program, and the time until it follows its logs.
pub(crate) fn a12() -> Result<Vec<Row>, String> {
    let what = "released program, stripped";
    let size = if let Some(path) = std::env::var_os("BENCH_DIST") {
        let size =
            fs::metadata(Path::new(&path)).map_err(|e| format!("{}: {e}", path.display()))?;
        Row::alone("A12", what, size.len() as f64 / f64::from(1 << 20), "MiB", 8.0)
    } else {
        Row::missing("A12", what, "", "it is built when A12 is asked for by name")
    };
    let root = Root::new();
    let dir = root.path().display().to_string();
    let mut conf = String::from("events {}\nhttp {\n");
    for n in 0..N_FILES {
        root.write(&format!("var/log/nginx/{n}.log"), "");
        writeln!(
            conf,
            "server {{ listen 80; server_name s{n}.example; \
             access_log {dir}/var/log/nginx/{n}.log; }}"
        )
        .expect("to a string");
    }
    conf.push_str("}\n");
    root.write("etc/nginx/nginx.conf", &conf);
    let spec = AgentSpec::new("web-1").root(&root);
    let mut fleet = Fleet::builder().batch_interval("10s").agent(spec).start();
    let mut took_ms = Vec::new();
    for _ in 0..STARTS {
        fleet.agent_mut("web-1").stop();
        let socket = fleet.agent("web-1").dir().join("state/agent.sock");
        let began = instant();
        fleet.agent_mut("web-1").start();
        while n_followed(&socket).unwrap_or(0) < N_FILES as usize {
            if began.elapsed() > LIMIT {
                return Err("it does not follow its logs".to_owned());
            }
            pause(Duration::from_millis(1));
        }
        took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let ms = quantile(&mut took_ms, 0.5);
    let what = format!("start to following the logs of {N_FILES} sites");
    Ok(vec![size, Row::alone("A12", &what, ms, "ms", 50.0)])
}

/// Logs that the agent reads, as it says itself.
fn n_followed(socket: &Path) -> Option<usize> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status: serde_json::Value = serde_json::from_str(&text).ok()?;
    let is_read = |file: &&serde_json::Value| file["problem"].is_null();
    Some(status["files"].as_array()?.iter().filter(is_read).count())
}
