//! A real HAProxy. It only speaks to syslog, so this plays syslog too: a socket that appends each
//! line to `var/log/haproxy.log` as rsyslog would.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::{ProxySite, Upstream};
use crate::clock;
use crate::process::{Process, find_program};
use crate::root::{Root, loopback};

/// Longest message that syslog takes.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// What Debian's package tells rsyslog.
const RSYSLOG: &str = "# Send HAProxy messages to a dedicated logfile\n\
                       :programname, startswith, \"haproxy\" {\n  /var/log/haproxy.log\n  stop\n}\n";

/// What the lines of its log look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaproxyLog {
    /// rsyslog dates them `Nov 20 12:01:07`, as it always did.
    Traditional,
    /// rsyslog dates them `2026-11-20T12:01:07.123456+00:00`, its default since Debian 12.
    Iso,
    /// Traditional, and no line names the host that was asked for, which is HAProxy's default.
    WithoutHost,
}

/// The server. It wants the PROXY line in front of each request, which names the client, and waits
/// for 3 s for an answer.
#[derive(Debug)]
pub struct Haproxy {
    address: SocketAddr,
    _process: Process,
    _syslog: Syslog,
}

impl Haproxy {
    /// Writes `etc/haproxy/haproxy.cfg` below `root` and starts it on an address of its own.
    #[must_use]
    pub fn start(root: &Root, sites: &[ProxySite], log: HaproxyLog) -> Self {
        Self::start_with(root, sites, log, "")
    }

    /// The same, and it looks after its servers twice a second.
    #[must_use]
    pub fn start_checking(root: &Root, sites: &[ProxySite]) -> Self {
        Self::start_with(root, sites, HaproxyLog::Traditional, "check inter 500ms")
    }

    fn start_with(root: &Root, sites: &[ProxySite], log: HaproxyLog, check: &str) -> Self {
        let program = find_program(&["haproxy"], "haproxy");
        let address = loopback(8080);
        root.mkdir("run");
        let syslog = Syslog::start(root, log);
        root.write("etc/rsyslog.d/49-haproxy.conf", RSYSLOG);
        let stats = root.join("run/haproxy.sock");
        let mut text = config(&stats, address, syslog.address, sites, log);
        if !check.is_empty() {
            text = text.replace("defaults\n", &format!("defaults\n  default-server {check}\n"));
        }
        let config = root.write("etc/haproxy/haproxy.cfg", &text);
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(config);
        let mut process = Process::start("haproxy", &mut command, &root.join("run/haproxy.out"));
        process.listens_on(address);
        Self { address, _process: process, _syslog: syslog }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn config(
    stats: &Path,
    address: SocketAddr,
    syslog: SocketAddr,
    sites: &[ProxySite],
    log: HaproxyLog,
) -> String {
    let capture = match log {
        HaproxyLog::WithoutHost => "",
        HaproxyLog::Traditional | HaproxyLog::Iso => "  capture request header Host len 64\n",
    };
    let stats = stats.display();
    let mut text = format!(
        "global\n  log {syslog} local0\n  maxconn 500\n\
         \x20 stats socket {stats} mode 600 level admin\n\
         defaults\n  log global\n  mode http\n  option httplog\n  option dontlognull\n\
         \x20 timeout connect 2s\n  timeout client 20s\n  timeout server 3s\n\
         frontend http-in\n  bind {address} accept-proxy\n{capture}\
         \x20 http-request set-header X-Real-IP %[src]\n",
    );
    let mut backends = String::new();
    for site in sites {
        let (name, word) = (&site.name, site.word());
        writeln!(text, "  acl is_{word} hdr(host) -i {name} www.{name}").expect("to a string");
        match &site.upstream {
            Some(upstream) => {
                writeln!(text, "  use_backend be_{word} if is_{word}").expect("to a string");
                let address = match upstream {
                    Upstream::Tcp(address) => address.to_string(),
                    Upstream::Unix(path) => format!("unix@{}", path.display()),
                };
                writeln!(backends, "backend be_{word}\n  server s1 {address}")
                    .expect("to a string");
            }
            None => writeln!(text, "  http-request return status 503 if is_{word}")
                .expect("to a string"),
        }
    }
    // All `http-request` rules come before `use_backend`, or HAProxy warns.
    let (rules, others): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.trim_start().starts_with("use_backend"));
    format!("{}\n{}\n{backends}", others.join("\n"), rules.join("\n"))
}

/// The port of a syslog, and the file that its lines go to. No `/dev/log`: HAProxy never waits, and
/// there the kernel holds ten lines, so a busy machine would lose some.
#[derive(Debug)]
struct Syslog {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Syslog {
    fn start(root: &Root, log: HaproxyLog) -> Self {
        let address = loopback(5140);
        let receiver = UdpSocket::bind(address).expect("nobody else has the address");
        receiver.set_read_timeout(Some(Duration::from_millis(100))).expect("a fresh socket");
        let path = root.write("var/log/haproxy.log", "");
        let mut file = File::options().append(true).open(path).expect("just written");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; MESSAGE_BYTES_MAX];
            while !stopped.load(Ordering::Relaxed) {
                // An error is the timeout.
                let Ok(n) = receiver.recv(&mut buffer) else { continue };
                let line = written(&String::from_utf8_lossy(&buffer[..n]), log, clock::now_ms());
                file.write_all(line.as_bytes()).expect("the log is writable");
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok(); // it panics only in a test that has failed already
        }
    }
}

/// The line that rsyslog writes for `<134>Nov 20 12:01:07 haproxy[7]: text`.
fn written(message: &str, log: HaproxyLog, now_ms: i64) -> String {
    let text = message.split_once('>').map_or(message, |(_, text)| text).trim_end();
    let (stamp, text) = text.split_at_checked(15).unwrap_or(("", text));
    let stamp = match log {
        HaproxyLog::Traditional | HaproxyLog::WithoutHost => stamp.to_owned(),
        HaproxyLog::Iso => jiff::Timestamp::from_millisecond(now_ms)
            .expect("now is in range")
            .strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00")
            .to_string(),
    };
    format!("{stamp} lb-1 {}\n", text.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_rsyslog_does() {
        let message = "<134>Nov 20 12:01:07 haproxy[7]: 203.0.113.9:1 [20/Nov/2026:12:01:07.1] x\n";
        let rest = "lb-1 haproxy[7]: 203.0.113.9:1 [20/Nov/2026:12:01:07.1] x\n";
        for (time, stamp) in [
            (HaproxyLog::Traditional, "Nov 20 12:01:07"),
            (HaproxyLog::Iso, "2026-11-20T12:01:07.250000+00:00"),
        ] {
            assert_eq!(written(message, time, 1_795_176_067_250), format!("{stamp} {rest}"));
        }
    }
}
