//! A child process in a process group of its own, its output in a file, stopped in `Drop`.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::clock;
use crate::wait::{eventually, pause};

const STOP_LIMIT: Duration = Duration::from_secs(15);
/// How long a server may take to start: Varnish compiles its configuration on a busy machine.
const LISTEN_LIMIT: Duration = Duration::from_secs(30);

/// A running program and everything it forks.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` as leader of a new process group; stdout and stderr go to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("log is writable");
        let err = out.try_clone().expect("a file handle can be duplicated");
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Process id of the leader.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the leader alone.
    pub fn signal(&self, signal: Signal) {
        let sent = rustix::process::kill_process(self.raw(), signal);
        assert!(sent.is_ok(), "{} ({}) is gone: {}", self.name, self.pid(), self.log_text());
    }

    /// Stops every thread of the leader where it is, and waits until they stand: SIGSTOP comes a
    /// little later on another processor. `SIGCONT` lets them go on.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        eventually("every thread stands", STOP_LIMIT, || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
            let stats =
                tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
            let stands =
                |stat: &String| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"));
            let running = stats.filter(|stat| !stands(stat)).collect::<Vec<_>>();
            if running.is_empty() { Ok(()) } else { Err(running.concat()) }
        });
    }

    /// Asks it to stop and waits; kills the whole group when it takes longer than 15 s.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            self.kill_group(Signal::KILL);
            return Some(status);
        }
        self.kill_leader(Signal::TERM);
        let started = clock::instant();
        while started.elapsed() < STOP_LIMIT {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.kill_group(Signal::KILL); // what the leader forgot
                return Some(status);
            }
            pause(Duration::from_millis(5));
        }
        self.kill9();
        None
    }

    /// SIGKILL to the whole group: no handler runs, nothing is flushed.
    pub fn kill9(&mut self) {
        self.kill_group(Signal::KILL);
        self.child.wait().expect("a killed child can be waited for");
    }

    /// Its exit status if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until somebody accepts connections at `address`; panics when the program ends before.
    pub fn listens_on(&mut self, address: SocketAddr) {
        let name = self.name.clone();
        eventually(&format!("{name} listens"), LISTEN_LIMIT, || {
            if let Some(status) = self.exited() {
                panic!("{name} ended with {status}: {}", self.log_text());
            }
            TcpStream::connect(address).map(drop).map_err(|e| e.to_string())
        });
    }

    /// Everything it has printed.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read(&self.log).map_or_else(
            |e| format!("(no log {}: {e})", self.log.display()),
            |b| String::from_utf8_lossy(&b).into_owned(),
        )
    }

    /// Process ids of its direct children.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn raw(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn kill_leader(&self, signal: Signal) {
        // An error means that it ended meanwhile, which is what was asked for.
        rustix::process::kill_process(self.raw(), signal).ok();
    }

    fn kill_group(&self, signal: Signal) {
        // An error means that nobody is left in the group.
        rustix::process::kill_process_group(self.raw(), signal).ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            let text = self.log_text();
            let from = text.len().saturating_sub(6000);
            let tail = text.get(from..).unwrap_or(&text);
            eprintln!("---- last output of {} ----\n{tail}", self.name);
        }
    }
}

/// Copies a program that is run from its copy. Another process writes it: a file that this one holds open for
/// writing while another thread starts something would be "Text file busy" to who runs it.
///
/// # Panics
/// When it cannot be copied.
pub fn copy_program(from: &Path, to: &Path) {
    let done = Command::new("install").args(["-m", "755", "--"]).args([from, to]).status();
    assert!(done.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}

/// Path of the first of `names` in `PATH` or the system directories.
///
/// Panics with the package to install: a test that cannot run is a failure, never a skip.
#[must_use]
pub fn find_program(names: &[&str], package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin"]);
    for dir in dirs {
        for name in names {
            let candidate = Path::new(dir).join(name);
            if candidate.is_file() {
                return candidate;
            }
        }
    }
    panic!("none of {names:?} is installed: apt-get install {package}, or run tests/run.sh as root")
}

/// True when the tests run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
