//! Rows A5, A9 and A11: the running agent on logs that are being written.
//!
//! A real agent streams to a real collector over mTLS. The writer does what servers do by default:
//! one `write` a request, to the log of one site after the other in random order, at a steady rate.
//! Agent and mtail share one processor; writer and collector have the others.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use harness::{AgentSpec, Fleet, eventually, find_program, instant, loopback, now_s, pause};
use harness::{Process, Root};
use rustix::fs::inotify;
use wire::v1::BatchBody;

use crate::generate::{Dice, Lines, Style};
use crate::measure::{Cost, Rates, is_installed, pin_process, quantile};
use crate::relay::Relay;
use crate::scan::MTAIL_PROGRAM;
use crate::table::{Row, Target, number};

/// Files of rows A5 and A9.
const N_FILES: u32 = 50;
/// The same for memory alone.
const N_FILES_MANY: u32 = 600;
/// How long processor time is added up: at least 3,000 times its unit of 10 ms.
const SPAN: Duration = Duration::from_secs(30);
/// Before that, until caches and allocators have what they want.
const SETTLE: Duration = Duration::from_secs(5);
/// Samples of row A5.
const N_NOTICES: usize = 600;
/// Processes of row A11, beside those that run here anyway.
const N_PROCESSES: u32 = 2000;
const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "web-1";

/// Logs in a directory of their own, and an agent that follows them.
pub(crate) struct Server {
    root: Root,
    files: Vec<PathBuf>,
    fleet: Fleet,
    pub(crate) relay: Relay,
}

impl Server {
    /// `batch_interval` and `[probes]` as they are without configuration.
    pub(crate) fn start(n_files: u32, more_toml: &str) -> Self {
        let root = Root::new();
        let path = |n| root.write(&format!("srv/www.site-{n}.example.log"), "");
        crate::hosting::write(&root);
        let files: Vec<PathBuf> = (0..n_files).map(path).collect();
        let toml = format!(
            "\n[[logs.source]]\npath = \"{}/srv/*.log\"\nkind = \"access\"\nformat = \"combined\"\n\
             site = \"{{1}}\"\n{more_toml}",
            root.path().display()
        );
        let mut fleet = Fleet::builder().start();
        let relay = Relay::start(fleet.address());
        let through = format!("GATEWATCH_COLLECTOR_ADDRESS={}", relay.address);
        let wrapper = ["env", &through, "taskset", "-c", "0"];
        let agent = AgentSpec::new(NAME).root(&root).toml(&toml).wrapper(&wrapper).heartbeat("5s");
        fleet.add_agent(agent, "10s");
        let server = Self { root, files, fleet, relay };
        eventually("the agent follows every log", LIMIT, || {
            let status = server.fleet.agent(NAME).status()?;
            let files = status["files"].as_array().map_or(&[][..], Vec::as_slice);
            let is_ours = |file: &&serde_json::Value| {
                file["path"].as_str().is_some_and(|path| path.contains("/srv/www.site-"))
            };
            let n = files.iter().filter(is_ours).count();
            if n == n_files as usize { Ok(()) } else { Err(format!("{n} of {n_files} files")) }
        });
        eventually("the agent knows every site", LIMIT, || {
            let n = server.fleet.agent(NAME).status()?["n_sites"].as_u64().unwrap_or(0);
            if n >= crate::hosting::N_VHOSTS as u64 { Ok(()) } else { Err(format!("{n} sites")) }
        });
        server
    }

    pub(crate) fn pid(&self) -> u32 {
        self.fleet.agent(NAME).process().pid()
    }

    /// Every batch so far: its bytes, and what is in it.
    pub(crate) fn bodies(&self) -> Vec<(usize, BatchBody)> {
        self.fleet.db().packed(NAME).expect("the collector stores what comes")
    }

    /// Waits until every line written is counted.
    fn counts(&self, n_lines: u64) {
        eventually("every line is counted", LIMIT, || {
            let status = self.fleet.agent(NAME).status()?;
            let files = status["files"].as_array().ok_or("no files")?;
            let n: u64 = files.iter().filter_map(|file| file["n_lines"].as_u64()).sum();
            if n == n_lines { Ok(()) } else { Err(format!("{n} of {n_lines} lines")) }
        });
    }
}

/// Appends lines at a steady rate until it is stopped; returns how many.
fn write_lines(files: &[PathBuf], per_second: u32, stop: &AtomicBool) -> u64 {
    let mut logs: Vec<File> = files
        .iter()
        .map(|path| File::options().append(true).open(path).expect("a log of ours"))
        .collect();
    let (mut lines, mut dice) = (Lines::new(Style::Combined, 1, 11), Dice::new(5));
    let (started, mut n, mut line) = (instant(), 0_u64, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        lines.set_second(now_s());
        let due = (started.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        while n < due {
            line.clear();
            lines.push_now(&mut line);
            let log = dice.below(logs.len() as u32) as usize;
            logs[log].write_all(&line).expect("the disk has room");
            n += 1;
        }
        pause(Duration::from_millis(1));
    }
    n
}

/// Seconds of processor time a process and its threads have used, those that ended included.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let (_, after) = stat.rsplit_once(')').expect("the name stands in brackets");
    let ticks = after.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|word| word.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0 // USER_HZ, a constant of the Linux ABI
}

fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).expect("linux tells") / 1024.0
}

/// What processes cost while lines are written: share of a core in percent, and the rest.
fn shares(pids: &[u32], files: &[PathBuf], per_second: u32) -> (Vec<(f64, Rates)>, u64) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_lines(files, per_second, &stop));
        pause(SETTLE);
        let look = |pid: &u32| (cpu_seconds(*pid), Cost::of(&[*pid]));
        let (started, before): (Instant, Vec<_>) = (instant(), pids.iter().map(look).collect());
        pause(SPAN);
        let seconds = started.elapsed().as_secs_f64();
        let share = |(pid, (cpu, cost)): (&u32, &(f64, Cost))| {
            let rates = Cost::of(&[*pid]).since(cost, seconds);
            ((cpu_seconds(*pid) - cpu) / seconds * 100.0, rates)
        };
        let shares = pids.iter().zip(&before).map(share).collect();
        stop.store(true, Ordering::Relaxed);
        (shares, writer.join().expect("the writer writes"))
    })
}

/// mtail on the same logs with the program of row A1, as it is without configuration.
fn start_mtail(root: &Root, n_files: u32) -> Process {
    let mtail = find_program(&["mtail"], "mtail");
    let program = root.write("mtail/requests.mtail", MTAIL_PROGRAM);
    let address = loopback(3903);
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(mtail).arg(format!("--progs={}", program.display()));
    command.arg(format!("--logs={}/srv/*.log", root.path().display()));
    command.arg(format!("--address={}", address.ip())).arg(format!("--port={}", address.port()));
    let process = Process::start("mtail", &mut command, &root.join("mtail.log"));
    eventually("mtail follows every log", LIMIT, || {
        let fds = fs::read_dir(format!("/proc/{}/fd", process.pid())).map_err(|e| e.to_string())?;
        let targets = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        let n = targets.filter(|path| path.extension().is_some_and(|end| end == "log")).count();
        let is_all = n >= n_files as usize;
        if is_all { Ok(()) } else { Err(format!("{n} files, {}", process.log_text())) }
    });
    process
}

/// A9: processor time and memory of the agent while logs grow.
pub(crate) fn a9() -> Vec<Row> {
    let server = Server::start(N_FILES, "");
    let agent = server.pid();
    let mtail = is_installed("mtail").then(|| start_mtail(&server.root, N_FILES));
    let pids: Vec<u32> = std::iter::once(agent).chain(mtail.as_ref().map(Process::pid)).collect();
    let mut rows = Vec::new();
    let mut n_written = 0;
    for (what, per_second, most) in [
        ("agent, 10,000 lines/s over 50 files: % of a core", 10_000, 0.5),
        ("agent, 100,000 lines/s over 50 files: % of a core", 100_000, 5.0),
    ] {
        let (sent, began) = (server.relay.bytes(), instant());
        let (costs, n) = shares(&pids, &server.files, per_second);
        let sent = (server.relay.bytes() - sent) as f64 / began.elapsed().as_secs_f64();
        n_written += n;
        let shares: Vec<f64> = costs.iter().map(|(share, _)| *share).collect();
        rows.push(Row::alone("A9", what, shares[0], "%", most));
        let what = what.replace(": % of a core", ": CPU of mtail by ours");
        let target = if per_second == 10_000 { Target::AtLeast(8.0) } else { Target::None };
        rows.push(match shares.get(1) {
            None => Row::missing("A9", &what, "mtail", "mtail is not installed"),
            Some(theirs) => Row {
                reference: "mtail".to_owned(),
                theirs: number(*theirs, "%"),
                figure: Ok((theirs / shares[0], "x")),
                target,
                ..Row::alone("A9", &what, shares[0], "%", 0.0)
            },
        });
        if per_second == 10_000 {
            rows.push(Row::alone("A9", "agent, the same: memory", rss_mib(agent), "MiB", 14.0));
            rows.push(Row::told("A9", "the same: bytes on the wire a second", sent, "B"));
            let written: Vec<f64> =
                costs.iter().map(|(_, rates)| rates.written_per_s * 3.6e-3).collect();
            let what = "the same: written to disk an hour";
            rows.push(match written.get(1) {
                None => Row::told("A9", what, written[0], "MB"),
                Some(theirs) => Row {
                    reference: "mtail".to_owned(),
                    theirs: number(*theirs, "MB"),
                    ..Row::told("A9", what, written[0], "MB")
                },
            });
        }
    }
    drop(mtail);
    server.counts(n_written);
    drop(server);
    let server = Server::start(N_FILES_MANY, "");
    let (_, n_written) = shares(&[server.pid()], &server.files, 10_000);
    let rss = rss_mib(server.pid());
    server.counts(n_written);
    rows.push(Row::alone("A9", "agent, 10,000 lines/s over 600 files: memory", rss, "MiB", 20.0));
    rows
}

/// A5: from the append of a line to the agent's read of it, while all other logs grow too.
///
/// The kernel tells of each read of a file that is watched for it (inotify, `IN_ACCESS`): the agent
/// itself is not touched. The log is appended to at random times, so that it falls anywhere in the
/// 20 ms in which the agent gathers what is written.
pub(crate) fn a5() -> Vec<Row> {
    let server = Server::start(N_FILES, "");
    let (log, others) = server.files.split_first().expect("there are some");
    let stop = AtomicBool::new(false);
    let (mut waits_ms, n_written) = thread::scope(|scope| {
        let writer = scope.spawn(|| write_lines(others, 1000, &stop));
        pause(SETTLE);
        let waits = notices(log);
        stop.store(true, Ordering::Relaxed);
        (waits, writer.join().expect("the writer writes"))
    });
    server.counts(n_written + waits_ms.len() as u64);
    let half = quantile(&mut waits_ms, 0.5);
    let p99 = quantile(&mut waits_ms, 0.99);
    let what = format!("append to the agent's read, p99 of {} (p50 {half:.1} ms)", waits_ms.len());
    vec![Row::alone("A5", &what, p99, "ms", 25.0)]
}

fn notices(log: &Path) -> Vec<f64> {
    let watched = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify is there");
    inotify::add_watch(&watched, log, inotify::WatchFlags::ACCESS).expect("the log is there");
    let (tx, reads) = mpsc::channel();
    // Ends with the program: it waits for reads of a file that nobody reads any more.
    thread::spawn(move || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watched, &mut buffer);
        while reader.next().is_ok() && tx.send(instant()).is_ok() {}
    });
    let mut file = File::options().append(true).open(log).expect("a log of ours");
    let (mut lines, mut dice) = (Lines::new(Style::Combined, 1, 13), Dice::new(17));
    let mut waits_ms = Vec::with_capacity(N_NOTICES);
    let mut line = Vec::new();
    while waits_ms.len() < N_NOTICES {
        pause(Duration::from_micros(u64::from(30_000 + dice.below(40_000))));
        lines.set_second(now_s());
        line.clear();
        lines.push_now(&mut line);
        while reads.try_recv().is_ok() {} // looks at the file that came before
        let written = instant();
        file.write_all(&line).expect("the disk has room");
        let read = reads.recv_timeout(LIMIT).expect("the agent reads what is written");
        waits_ms.push(read.saturating_duration_since(written).as_secs_f64() * 1000.0);
    }
    waits_ms
}

/// A11: what each process of the machine costs the agent where no systemd tells of services.
///
/// Under a root of its own the agent looks at the processes itself. Measured as the processor time
/// that thousands of sleeping processes add to an agent that does nothing else.
pub(crate) fn a11() -> Vec<Row> {
    let root = Root::new();
    let log = root.write("srv/www.site-0.example.log", "");
    let toml = format!("[[logs.source]]\npath = \"{}\"\nkind = \"access\"\n", log.display());
    let agent = AgentSpec::new(NAME).root(&root).toml(&toml).wrapper(&["taskset", "-c", "0"]);
    let fleet = Fleet::builder().batch_interval("10s").agent(agent).start();
    let pid = fleet.agent(NAME).process().pid();
    pause(SETTLE);
    let alone = cpu_of(pid);
    let sleepers = Sleepers::start(N_PROCESSES);
    pause(SETTLE);
    let crowded = cpu_of(pid);
    drop(sleepers);
    // A walk every 10 s is what the schedule allows; a test of the agent holds it to that.
    let n_walks = SPAN.as_secs_f64() / 10.0;
    let us = (crowded - alone).max(0.0) * 1e6 / n_walks / f64::from(N_PROCESSES);
    let what = format!("a look at a process (of {N_PROCESSES} more, each 10 s)");
    vec![Row::alone("A11", &what, us, "us", 15.0)]
}

fn cpu_of(pid: u32) -> f64 {
    let before = cpu_seconds(pid);
    pause(SPAN);
    cpu_seconds(pid) - before
}

/// Processes that sleep; ended in `Drop`.
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn start(n: u32) -> Self {
        let sleeper = |_| {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("a process can be started")
        };
        Self((0..n).map(sleeper).collect())
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for sleeper in &mut self.0 {
            sleeper.kill().ok(); // an error means that it has ended
        }
        for sleeper in &mut self.0 {
            sleeper.wait().ok(); // the same
        }
    }
}

/// Keeps the bench itself off the processor of agent and mtail, where there is another one.
pub(crate) fn step_aside() -> Result<(), String> {
    let n = thread::available_parallelism().map_or(1, usize::from);
    if n < 2 {
        return Ok(());
    }
    pin_process(std::process::id(), &format!("1-{}", n - 1))
}
