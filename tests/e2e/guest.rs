//! The guest rule: an agent under attack stays inside `[limits]` and says what it dropped; it opens no
//! port, starts no program, and its unit takes away what it does not need.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{
    AgentSpec, Fleet, Output, Root, copy_program, eventually, find_program, instant, is_root,
    now_s, pause, program,
};

/// A flood takes its time on two processors that other tests use too.
const LIMIT: Duration = Duration::from_secs(120);
const NAME: &str = "web-1";
const MIB: u64 = 1 << 20;

const MEMORY_MIB_MAX: u64 = 64;
/// What comes between two looks at the memory, which are 5 s apart, and pages of the program itself.
const MEMORY_MIB_SLACK: u64 = 16;
/// What an agent that is to run short of memory may need beside what it needs at rest.
const MEMORY_KIB_MORE: u64 = 6 * 1024;
const SPOOL_MIB_MAX: u64 = 8;
/// A segment that is being written while the oldest one is deleted.
const SPOOL_MIB_SLACK: u64 = 1;
const SITES_MAX: u64 = 500;
const FDS_MAX: u64 = 1024;
const VHOSTS: usize = 3_000;
const HOSTS: usize = 100_000;
const NEW_LOGS: usize = 5_000;
/// Upstreams of these tests are other machines, which nobody asked to be part of them.
const NO_PACKETS: &str = "[probes]\nupstreams = false\n";
/// User of the crowd: an ordinary one.
const CROWD_UID: u32 = 12_345;

#[test]
fn an_agent_under_attack_stays_inside_its_limits_and_says_what_it_dropped() {
    let root = Root::new();
    vhosts(&root);
    root.mkdir("srv");
    let odd = odd_logs(&root);
    let fleet = Fleet::builder().agent(besieged(&root)).batch_interval("200ms").start();
    let pid = fleet.agent(NAME).process().pid();
    let spool = fleet.agent(NAME).dir().join("state/spool");
    let base = cpu_seconds(pid);
    let is_over = AtomicBool::new(false);
    let (n_bytes, most) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(pid, &spool, &is_over));
        let crowd = Crowd::start(&root);
        let n_bytes = flood(&root, &odd);
        eventually("the flood is read to its end", LIMIT, || {
            let status = fleet.agent(NAME).status()?;
            let seen = status["ledger"]["n_bytes_seen"].as_u64().unwrap_or(0);
            let is_read = seen >= n_bytes && is_read_to_the_end(&root, &status);
            if is_read { Ok(()) } else { Err(format!("{seen} of {n_bytes} bytes")) }
        });
        drop(crowd);
        is_over.store(true, Ordering::Relaxed);
        (n_bytes, watcher.join().expect("the watcher watches"))
    });
    let cpu = cpu_seconds(pid) - base;
    // Several times what an unoptimized build takes.
    let bound = 20.0 + n_bytes as f64 / MIB as f64;
    eprintln!("flood of {} KiB: {most:?}, {cpu:.1} s of a processor", n_bytes / 1024);
    assert!(most.rss_kib <= (MEMORY_MIB_MAX + MEMORY_MIB_SLACK) * 1024, "{most:?}");
    assert!(most.spool_bytes <= (SPOOL_MIB_MAX + SPOOL_MIB_SLACK) * MIB, "{most:?}");
    assert!(most.n_fds < FDS_MAX, "{most:?}");
    assert!(most.children.is_empty(), "it started programs: {most:?}");
    assert!(cpu < bound, "{cpu:.1} s of a processor for {n_bytes} bytes");
    assert_says_what_it_dropped(&fleet);
    assert_says_nothing_of_the_crowd(&root, &fleet);
    eventually("the collector knows what was no record", LIMIT, || {
        let row = fleet.listed(NAME)?;
        let n_sites = row["n_sites"].as_u64().unwrap_or(u64::MAX);
        let rejected = row["loss"]["n_lines_rejected"].as_u64().unwrap_or(0);
        let is_told = row["state"] == "up" && rejected > 3 && n_sites <= SITES_MAX + 1;
        if is_told { Ok(()) } else { Err(row.to_string()) }
    });
}

fn besieged(root: &Root) -> AgentSpec {
    let dir = root.path().display();
    let toml = format!(
        "[[logs.source]]\npath = \"{dir}/srv/*/access.log\"\nkind = \"access\"\nsite = \"{{1}}\"\n\
         [[logs.source]]\npath = \"{dir}/odd/*.log\"\nkind = \"access\"\n\
         format = \"vhost_combined\"\n\
         [[logs.source]]\npath = \"{dir}/odd/directory.log\"\nkind = \"access\"\n\
         [[logs.source]]\npath = \"{dir}/odd/*.err\"\nkind = \"error\"\n\
         [limits]\nmemory_bytes_max = \"{MEMORY_MIB_MAX}MiB\"\n\
         spool_bytes_max = \"{SPOOL_MIB_MAX}MiB\"\nsites_max = {SITES_MAX}\n{NO_PACKETS}"
    );
    let limit = format!("--nofile={FDS_MAX}:{FDS_MAX}");
    let prlimit = find_program(&["prlimit"], "util-linux");
    let prlimit = prlimit.display().to_string();
    AgentSpec::new(NAME).root(root).unprivileged().toml(&toml).wrapper(&[&prlimit, &limit])
}

/// More vhosts than the agent may tell apart, all with one log.
fn vhosts(root: &Root) {
    let mut conf = String::from("events {}\nhttp {\n");
    writeln!(conf, "access_log {}/var/log/nginx/access.log;", root.path().display()).expect("text");
    for n in 0..VHOSTS {
        writeln!(
            conf,
            "server {{ listen 80; server_name v{n}.example; location / {{ \
             proxy_pass http://10.99.{}.{}:8080; }} }}",
            n / 250,
            n % 250 + 1
        )
        .expect("text");
    }
    conf.push_str("}\n");
    root.write("etc/nginx/nginx.conf", &conf);
    root.write("var/log/nginx/access.log", "");
}

/// Logs, and what is named like one: a pipe and a directory.
fn odd_logs(root: &Root) -> Vec<std::path::PathBuf> {
    root.mkdir("odd/directory.log");
    let pipe = root.join("odd/pipe.log");
    let done = Output::of(Command::new("mkfifo").arg(&pipe));
    assert_eq!(done.code, 0, "{done:?}");
    ["long.log", "binary.log", "hosts.log", "errors.err"]
        .map(|name| root.write(&format!("odd/{name}"), ""))
        .to_vec()
}

/// Writes all that is hostile; returns its bytes.
fn flood(root: &Root, odd: &[std::path::PathBuf]) -> u64 {
    let at = jiff::Timestamp::from_second(now_s()).expect("in range");
    let at = at.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
    let request = |host: &str, n: usize| {
        format!(
            "{host}:80 203.0.{}.{} - - [{at}] \"GET /{n} HTTP/1.1\" {} 9 \"-\" \"x\"\n",
            n % 200,
            n % 250,
            if n.is_multiple_of(7) { 502 } else { 200 }
        )
    };
    let mut n_bytes = 0;
    let mut append = |path: &Path, bytes: &[u8]| {
        let mut file = File::options().append(true).create(true).open(path).expect("a log of ours");
        file.write_all(bytes).expect("the disk has room");
        n_bytes += bytes.len() as u64;
    };
    for _ in 0..3 {
        append(&odd[0], &[b"y".repeat(2 << 20), b"\n".to_vec()].concat());
    }
    let noise: Vec<u8> =
        (0..2_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    append(&odd[1], &noise);
    append(&odd[1], b"\n");
    for start in (0..HOSTS).step_by(10_000) {
        let text: String =
            (start..start + 10_000).map(|n| request(&format!("{n}.invented.example"), n)).collect();
        append(&odd[2], text.as_bytes());
    }
    let errors: String = (0..20_000).map(error_line).collect();
    append(&odd[3], errors.as_bytes());
    for n in 0..NEW_LOGS {
        let log = root.mkdir(format!("srv/n{n}.example")).join("access.log");
        let line = request("x.example", n).replace("x.example:80 ", "");
        fs::write(&log, line).expect("the disk has room");
    }
    n_bytes
}

/// A failure of an upstream that nothing else names.
fn error_line(n: usize) -> String {
    let at = jiff::Timestamp::from_second(now_s()).expect("in range");
    let at = at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y/%m/%d %H:%M:%S").to_string();
    let (a, b) = (n % 200, n % 250);
    format!(
        "{at} [error] 7#7: *{n} connect() failed (111: Connection refused) while connecting to \
         upstream, client: 203.0.{a}.{b}, server: {n}.example, request: \"GET /{n} HTTP/1.1\", \
         upstream: \"http://10.9.{a}.{b}:80/\", host: \"\u{1b}[31m{n}\"\n"
    )
}

/// Each of the large files, to its last byte.
fn is_read_to_the_end(root: &Root, status: &serde_json::Value) -> bool {
    let files = status["files"].as_array().map_or(&[][..], Vec::as_slice);
    let is_read = |name: &str| {
        let path = root.join(name);
        let size = fs::metadata(&path).expect("it was written").len();
        let its = files.iter().filter(|file| file["path"].as_str().map(Path::new) == Some(&path));
        its.clone().count() == 1 && its.clone().all(|file| file["read"].as_u64() == Some(size))
    };
    ["odd/long.log", "odd/binary.log", "odd/hosts.log", "odd/errors.err"]
        .iter()
        .all(|name| is_read(name))
}

/// Nobody of an ordinary user becomes a service or a pool by its name, and no terminal sees it.
fn assert_says_nothing_of_the_crowd(root: &Root, fleet: &Fleet) {
    let is_hostile = |text: &str| {
        let words = ["\u{1b}", "passwd", "pool (", "process\n", "usr/sbin/"];
        words.iter().any(|word| text.contains(word)) || text.contains(&"x".repeat(100))
    };
    let bodies = fleet.db().bodies(NAME).expect("the database can be read");
    assert!(!bodies.is_empty());
    let own = root.path().display().to_string();
    for body in bodies {
        for service in &body.services {
            // Servers of other tests name the file of their configuration.
            let is_of_crowd = matches!(&*service.unit, "php-fpm8.2" | "mysqld");
            let is_told = service.unit.contains(&own) || is_hostile(&service.unit);
            assert!(!is_of_crowd && !is_told && !is_hostile(&service.pool), "{service:?}");
        }
        for series in body.series.iter().filter(|series| series.metric.starts_with("phpfpm.")) {
            assert!(!is_hostile(&series.attribute), "{series:?}");
        }
    }
    let log = fleet.agent(NAME).log_text();
    let told: Vec<&str> = log.lines().filter(|line| is_hostile(line)).collect();
    assert!(told.is_empty(), "{told:?}");
}

/// What the agent held at most, looked at ten times a second.
#[derive(Debug, Default)]
struct Most {
    rss_kib: u64,
    n_fds: u64,
    spool_bytes: u64,
    children: BTreeSet<String>,
}

fn watch(pid: u32, spool: &Path, is_over: &AtomicBool) -> Most {
    let mut most = Most::default();
    while !is_over.load(Ordering::Relaxed) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
        let kib = |label: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(label))?;
            line.split_whitespace().next()?.parse().ok()
        };
        // The kernel's own peak, beside what is there now.
        most.rss_kib = most.rss_kib.max(kib("VmHWM:").or(kib("VmRSS:")).unwrap_or(0));
        let count = |dir: &Path| fs::read_dir(dir).map_or(0, |entries| entries.count() as u64);
        most.n_fds = most.n_fds.max(count(Path::new(&format!("/proc/{pid}/fd"))));
        let sizes = fs::read_dir(spool).into_iter().flatten().flatten();
        let bytes = sizes.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        most.spool_bytes = most.spool_bytes.max(bytes);
        most.children.extend(children(pid));
        pause(Duration::from_millis(100));
    }
    most
}

/// The children of every thread.
fn children(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    texts.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Seconds of processor time, those of threads that ended included.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the agent runs");
    let (_, after) = stat.rsplit_once(')').expect("the name stands in brackets");
    let ticks = after.split_ascii_whitespace().skip(11).take(2);
    ticks.filter_map(|word| word.parse::<u64>().ok()).sum::<u64>() as f64 / 100.0
}

/// Processes with names and arguments that no terminal should see; ended in `Drop`.
struct Crowd(Vec<Child>);

impl Crowd {
    fn start(root: &Root) -> Self {
        let sleep = find_program(&["sleep"], "coreutils");
        root.mkdir("usr/sbin");
        let titles = [
            "php-fpm: pool \u{1b}[31m".to_owned(),
            "nginx: master\nprocess\n".to_owned(),
            "x".repeat(4096),
            "php-fpm: master process (/etc/../../etc/passwd)".to_owned(),
        ];
        let names = ["php-fpm8.2", "nginx\n\u{1b}[31m", "mysqld", "php-fpm: pool ("];
        let mut all = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let copy = root.join(&format!("usr/sbin/{name}"));
            copy_program(&sleep, &copy);
            for n in 0..50 {
                let mut command = Command::new(&copy);
                command.arg0(&titles[(at + n) % titles.len()]).arg("600");
                if is_root() {
                    command.uid(CROWD_UID).gid(CROWD_UID);
                }
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                all.push(command.spawn().expect("a process can be started"));
            }
            for _ in 0..125 {
                let mut short = Command::new(&copy);
                let status = short.arg("0").status().expect("a process can be started");
                assert!(status.success());
            }
        }
        Self(all)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok(); // an error means that it has ended
        }
        for child in &mut self.0 {
            child.wait().ok(); // the same
        }
    }
}

fn assert_says_what_it_dropped(fleet: &Fleet) {
    // The bytes are seen before their lines are judged.
    let status = eventually("every line of the flood is judged", LIMIT, || {
        let status = fleet.agent(NAME).status()?;
        let n_other = status["loss"]["n_lines_other"].as_u64().unwrap_or(0);
        if n_other >= HOSTS as u64 { Ok(status) } else { Err(format!("{n_other} lines")) }
    });
    let n = |key: &str| status["loss"][key].as_u64().unwrap_or(0);
    let loss = &status["loss"];
    assert!(n("n_lines_too_long") >= 3, "{loss}");
    assert!(n("n_lines_rejected") > n("n_lines_too_long"), "{loss}");
    assert!(n("n_exemplars_dropped") > 0, "{loss}");
    assert!(status["n_sites"].as_u64() <= Some(SITES_MAX), "{}", status["n_sites"]);
    let unreadable = status["unreadable"].to_string();
    assert!(unreadable.contains("more logs are not followed"), "{unreadable}");
    let files = status["files"].as_array().expect("a list");
    for name in ["pipe.log", "directory.log"] {
        let its =
            files.iter().find(|file| file["path"].as_str().is_some_and(|p| p.ends_with(name)));
        let problem = its.map(|file| file["problem"].to_string()).unwrap_or_default();
        assert!(problem.len() > 10, "nothing is said of {name}: {its:?}");
    }
    let ledger = &status["ledger"];
    let of = |key: &str| ledger[key].as_u64().unwrap_or(0);
    let accounted = of("n_bytes_counted") + of("n_bytes_rejected") + of("n_bytes_lost");
    assert_eq!(of("n_bytes_seen"), accounted, "each byte has its place: {ledger}");
}

#[test]
fn a_flood_that_needs_more_memory_than_allowed_makes_the_agent_keep_less_and_count_on() {
    let dir = Root::new();
    let errors = dir.write("error.log", "");
    let source = format!("[[logs.source]]\npath = \"{}\"\nkind = \"error\"\n", errors.display());
    let idle_kib = {
        let fleet = Fleet::builder().agent(AgentSpec::new(NAME).toml(&source)).start();
        eventually("the collector hears of an agent at rest", LIMIT, || {
            if fleet.db().bodies(NAME)?.len() > 2 { Ok(()) } else { Err("no batches".to_owned()) }
        });
        memory_kib(fleet.agent(NAME).process().pid(), "VmRSS:")
    };
    let limit_kib = idle_kib + MEMORY_KIB_MORE;
    let toml = format!("{source}[limits]\nmemory_bytes_max = \"{limit_kib}KiB\"\n");
    let spec = AgentSpec::new(NAME).toml(&toml);
    let mut fleet = Fleet::builder().agent(spec).batch_interval("200ms").start();
    let pid = fleet.agent(NAME).process().pid();
    // The agent looks at its memory every 5 s.
    let began = instant();
    eventually("an agent at rest has looked at its memory", LIMIT, || {
        if began.elapsed() > Duration::from_secs(7) { Ok(()) } else { Err("too early".to_owned()) }
    });
    let log = fleet.agent(NAME).log_text();
    assert!(!log.contains("memory_bytes_max"), "nothing came yet: {log}");
    let mut errors = File::options().append(true).open(errors).expect("ours");
    let mut n = 0;
    let mut flood = |fleet: &mut Fleet| {
        let text: String = (n..n + 2_000).map(|n| error_line(n as usize)).collect();
        errors.write_all(text.as_bytes()).expect("the disk has room");
        for at in n..n + 2_000 {
            let status = if at % 4 == 0 { 502 } else { 200 };
            fleet.log(NAME).requests(&format!("{at}.{}.example", "x".repeat(60)), 1, status);
        }
        n += 2_000;
        n
    };
    let dropped = |fleet: &Fleet| -> Result<u64, String> {
        let loss = &fleet.agent(NAME).status()?["loss"];
        let of = |key: &str| loss[key].as_u64().unwrap_or(0);
        Ok(of("n_exemplars_dropped") + of("n_events_dropped"))
    };
    eventually("the agent says that memory is short", LIMIT, || {
        let n = flood(&mut fleet);
        let log = fleet.agent(NAME).log_text();
        let is_told = log.contains("memory is short") && log.contains("more memory than");
        if is_told { Ok(()) } else { Err(format!("after {n}: {}", fleet.agent(NAME).status()?)) }
    });
    let before = dropped(&fleet).expect("it answers");
    let mut n = 0;
    eventually("less is kept and it is said", LIMIT, || {
        n = flood(&mut fleet);
        let now = dropped(&fleet)?;
        if now > before { Ok(()) } else { Err(format!("{now} dropped, {before} before")) }
    });
    eventually("every request is counted", LIMIT, || {
        let (good, failed) = (fleet.db().n_status(NAME, 200), fleet.db().n_status(NAME, 502));
        if (good, failed) == (n / 4 * 3, n / 4) {
            Ok(())
        } else {
            Err(format!("{good}, {failed} of {n}"))
        }
    });
    let peak_kib = memory_kib(pid, "VmHWM:");
    eprintln!("{n} requests: at rest {idle_kib} KiB, limit {limit_kib}, peak {peak_kib}");
    assert!(peak_kib <= limit_kib + MEMORY_MIB_SLACK * 1024, "{peak_kib} KiB");
}

/// A line of a process's memory.
fn memory_kib(pid: u32, label: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    let line = status.lines().find_map(|line| line.strip_prefix(label)).expect("linux tells");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn a_running_agent_listens_on_no_port_and_starts_no_program() {
    let mut fleet = Fleet::builder().agent(AgentSpec::new(NAME)).batch_interval("200ms").start();
    let pid = fleet.agent(NAME).process().pid();
    for round in 1..=20_u64 {
        fleet.log(NAME).requests("a.example", 10, 200);
        let sockets = sockets(pid);
        let own = |table: &str| owned(pid, table, &sockets);
        let (mut tcp, mut udp) = (own("tcp"), own("udp"));
        tcp.extend(own("tcp6"));
        udp.extend(own("udp6"));
        // One that asks for a name has another end.
        udp.retain(|line| line.split_whitespace().nth(2).is_none_or(|far| far.ends_with(":0000")));
        let listening: Vec<&String> = tcp.iter().filter(|line| state_of(line) == "0A").collect();
        assert!(listening.is_empty(), "{listening:?}");
        assert!(
            !tcp.is_empty() && udp.is_empty(),
            "a stream to the collector alone: {tcp:?} {udp:?}"
        );
        assert!(own("raw").is_empty() && own("raw6").is_empty());
        assert_eq!(children(pid), [""; 0]);
        eventually("the lines are stored", LIMIT, || {
            let n = fleet.db().n_requests(NAME);
            if n == round * 10 { Ok(()) } else { Err(format!("{n}")) }
        });
    }
}

/// Inodes of the sockets a process has open.
fn sockets(pid: u32) -> BTreeSet<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("the agent runs").flatten();
    let targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    let inode = |target: std::path::PathBuf| {
        let text = target.to_string_lossy().into_owned();
        Some(text.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    targets.filter_map(inode).collect()
}

/// The lines of a table of the network that are of these sockets.
fn owned(pid: u32, table: &str, sockets: &BTreeSet<String>) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let is_own =
        |line: &&str| line.split_whitespace().nth(9).is_some_and(|inode| sockets.contains(inode));
    text.lines().skip(1).filter(is_own).map(str::to_owned).collect()
}

fn state_of(line: &str) -> &str {
    line.split_whitespace().nth(3).unwrap_or_default()
}

#[test]
fn packets_that_a_firewall_keeps_from_a_backend_are_told_in_one_line() {
    let root = Root::new();
    root.write(
        "etc/nginx/nginx.conf",
        &format!(
            "events {{}}\nhttp {{ access_log {}/var/log/nginx/access.log;\nserver {{ listen 80; \
             server_name a.example; location / {{ proxy_pass http://10.99.0.7:9000; }} }} }}\n",
            root.path().display()
        ),
    );
    root.write("var/log/nginx/access.log", "");
    let kernel = root.write("var/log/kern.log", "");
    let agent = AgentSpec::new(NAME).root(&root).toml(NO_PACKETS);
    let fleet = Fleet::builder().agent(agent).batch_interval("200ms").start();
    let at = jiff::Timestamp::from_second(now_s()).expect("in range");
    let line = |target: &str, port: u16| {
        format!(
            "{at} web kernel: [12345.678901] [UFW BLOCK] IN= OUT=eth0 SRC=10.99.0.5 DST={target} \
             LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=1 DF PROTO=TCP SPT=40000 DPT={port} WINDOW=64240 \
             RES=0x00 SYN URGP=0\n"
        )
    };
    // Strangers that knock elsewhere are no news.
    let text = line("10.99.0.7", 9000).repeat(120) + &line("198.51.100.7", 22).repeat(50);
    File::options()
        .append(true)
        .open(kernel)
        .expect("ours")
        .write_all(text.as_bytes())
        .expect("room");
    eventually("one line tells of the packets", LIMIT, || {
        let bodies = fleet.db().bodies(NAME)?;
        let lines: Vec<_> = bodies.iter().flat_map(|body| &body.log_lines).collect();
        let told: Vec<_> = lines.iter().filter(|line| line.source == "firewall").collect();
        match told[..] {
            [] => Err(format!("{lines:?}\n{}", fleet.agent(NAME).log_text())),
            [line] => {
                let want =
                    "firewall dropped 120 packets between here and 10.99.0.7:9000 within 1 s";
                assert_eq!(line.message, want);
                Ok(())
            }
            _ => panic!("told more than once: {told:?}"),
        }
    });
}

/// Exposure of the unit, 0 (sandboxed) to 10, as systemd rates it; 0.2 of it is the /tmp of all, where
/// backends have their sockets.
const EXPOSURE_MAX: f64 = 1.8;

#[test]
fn the_unit_is_sandboxed_to_what_the_agent_needs() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in it");
    let unit = repository.join("deploy/systemd/gatewatch-agent.service");
    let text = fs::read_to_string(&unit).expect("it is part of the repository");
    let sets = |line: &str| text.lines().any(|known| known == line);
    for line in [
        "User=gatewatch-agent",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        "ProtectHome=read-only",
        "PrivateDevices=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged @resources",
        "Environment=MALLOC_ARENA_MAX=2",
    ] {
        assert!(sets(line), "the unit does not say {line}");
    }
    // What it must see: all of /proc and its processes, the network of the machine, sockets in /tmp.
    for word in [
        "ProcSubset=",
        "ProtectProc=",
        "PrivateNetwork=",
        "PrivateUsers=",
        "PrivateTmp=",
        "IPAddressDeny=",
    ] {
        assert!(!text.lines().any(|line| line.starts_with(word)), "{word} would blind it");
    }
    let analyze = find_program(&["systemd-analyze"], "systemd");
    let rated = Output::of(
        Command::new(&analyze).args(["security", "--offline=true", "--no-pager"]).arg(&unit),
    );
    let overall = rated.stdout.lines().find(|line| line.contains("Overall exposure level"));
    let exposure =
        overall.and_then(|line| line.split_whitespace().find_map(|word| word.parse::<f64>().ok()));
    assert!(exposure.is_some_and(|level| level <= EXPOSURE_MAX), "{rated:?}");

    let root = Root::new();
    let here = program("gatewatch-agent").display().to_string();
    let copy = text.replace("/usr/local/bin/gatewatch-agent", &here);
    let copy = root.write("gatewatch-agent.service", &copy);
    let verified = Output::of(Command::new(&analyze).arg("verify").arg(copy));
    let complaints: Vec<&str> =
        verified.stderr.lines().filter(|line| line.contains("gatewatch-agent")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}
