//! VictoriaMetrics of Debian: on an address of its own, in a directory of its own, always stopped.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use harness::{Process, Root, eventually, loopback};

use crate::measure::is_installed;

pub(super) const NAME: &str = "VictoriaMetrics";
const PROGRAM: &str = "victoria-metrics";
const LIMIT: Duration = Duration::from_secs(60);

/// A running one.
pub(super) struct Victoria {
    process: Option<Process>,
    pub(super) address: SocketAddr,
    pub(super) root: Root,
}

impl Victoria {
    /// On the first processor; `None` where it is not installed.
    pub(super) fn start() -> Option<Self> {
        if !is_installed(PROGRAM) {
            return None;
        }
        let mut victoria = Self { process: None, address: loopback(8428), root: Root::new() };
        victoria.run();
        Some(victoria)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// After a stop, on the same data.
    pub(super) fn start_again(&mut self) {
        self.run();
    }

    fn run(&mut self) {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", PROGRAM]);
        command.arg(format!("-storageDataPath={}", self.root.join("data").display()));
        command.arg(format!("-httpListenAddr={}", self.address));
        // A restart begins with empty caches; months, so that no day of the bench is too old.
        command.args(["-retentionPeriod=12", "-search.disableCache", "-search.latencyOffset=0s"]);
        let log = self.root.join("victoria.log");
        let mut process = Process::start(PROGRAM, &mut command, &log);
        process.listens_on(self.address);
        self.process = Some(process);
    }

    /// Writes everything out and merges it, as it does by itself in time.
    pub(super) fn settle(&self) {
        for path in ["/internal/force_flush", "/internal/force_merge"] {
            self.get(path).expect("it answers");
        }
        eventually("no merge runs", LIMIT, || {
            let (metrics, _) = self.get("/metrics")?;
            let running: Vec<&str> = metrics
                .lines()
                .filter(|line| line.starts_with("vm_active_merges") && !line.ends_with(" 0"))
                .collect();
            if running.is_empty() { Ok(()) } else { Err(running.join("; ")) }
        });
    }

    pub(super) fn stop(&mut self) {
        self.process.take().expect("it runs").stop();
    }

    /// Body of an answer, and the time until its last byte.
    pub(super) fn get(&self, path: &str) -> Result<(String, Duration), String> {
        let failed = |error: std::io::Error| format!("{path}: {error}");
        let began = harness::instant();
        let mut stream = TcpStream::connect(self.address).map_err(failed)?;
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(failed)?;
        let took = began.elapsed();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("headers have no end")?;
        let status = head.lines().next().unwrap_or_default();
        let is_good = status.contains(" 200") || status.contains(" 204");
        if is_good { Ok((body.to_owned(), took)) } else { Err(format!("{path}: {answer:.300}")) }
    }
}
