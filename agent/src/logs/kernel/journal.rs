//! The journal through `journalctl`, where neither the device nor a file may be read.
//!
//! Nothing a log or the collector says reaches its command line, and its environment is empty.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::sleep;

use super::Sink;
use crate::clock;
use crate::logs::parse::journald;

/// All it is ever told.
pub(super) const ARGUMENTS: [&str; 6] =
    ["--follow", "--lines=0", "--output=json", "--no-pager", "--quiet", "_TRANSPORT=kernel"];
/// Longest entry that is looked at; a message of the kernel has at most a kilobyte or so.
const ENTRY_BYTES_MAX: usize = 64 << 10;
const READ_BYTES: usize = 16 << 10;
/// Looks for the end of a program that closed its output, and the time between them.
const END_LOOKS: u32 = 20;
const END_LOOK: Duration = Duration::from_millis(50);

/// Takes every entry to the sink until the program ends; tells how.
pub(super) async fn follow(program: &Path, sink: &mut Sink) -> io::Error {
    match try_follow(program, sink).await {
        Ok(status) => io::Error::other(format!("journalctl ended: {status}")),
        Err(error) => error,
    }
}

async fn try_follow(program: &Path, sink: &mut Sink) -> io::Result<ExitStatus> {
    let mut running = Running::start(program)?;
    let stdout = running.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
    let mut entries = Entries::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n = tokio::select! {
            biased;
            // Cancel-safe: what is not read stays in the pipe.
            n = output.read(&mut buffer) => n?,
            // Cancel-safe: a timer.
            () = sink.is_quiet() => {
                sink.tell_dropped();
                continue;
            }
        };
        if n == 0 {
            return running.ended().await;
        }
        let n_too_long = entries.take(&buffer[..n], &mut |entry| {
            sink.line(&journald::parse(entry), clock::now());
        });
        sink.lost(n_too_long);
        sink.tell_older(clock::now());
    }
}

/// The program, which does not outlive this.
struct Running(Child);

impl Running {
    fn start(program: &Path) -> io::Result<Self> {
        Command::new(program)
            .args(ARGUMENTS)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }

    /// How it ended; one that closed its output and goes on is ended.
    async fn ended(mut self) -> io::Result<ExitStatus> {
        for _ in 0..END_LOOKS {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(END_LOOK).await;
        }
        Err(io::Error::other("journalctl closed its output and went on"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, or is ended now. A program that waits for a disk ends later; without
        // a thread that waits for it, it is reaped with this process.
        drop(self.0.kill());
        if let Ok(None) = self.0.try_wait() {
            let pid = Pid::from_child(&self.0);
            let reap = move || waitpid(Some(pid), WaitOptions::empty()).is_ok();
            drop(std::thread::Builder::new().name("reap".to_owned()).spawn(reap));
        }
    }
}

/// Entries out of pieces of output.
#[derive(Default)]
struct Entries {
    held: Vec<u8>,
    /// Within an entry that is too long.
    is_skipping: bool,
}

impl Entries {
    /// Hands on every entry that ends in these bytes; returns how many were too long.
    fn take(&mut self, bytes: &[u8], each: &mut dyn FnMut(&[u8])) -> u64 {
        let mut n_too_long = 0;
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            n_too_long += self.hold(&rest[..end]);
            if !self.is_skipping {
                each(&self.held);
            }
            self.held.clear();
            self.is_skipping = false;
            rest = &rest[end + 1..];
        }
        n_too_long + self.hold(rest)
    }

    /// 1 when the entry has just become too long.
    fn hold(&mut self, bytes: &[u8]) -> u64 {
        if self.is_skipping {
            return 0;
        }
        if self.held.len() + bytes.len() > ENTRY_BYTES_MAX {
            self.held = Vec::new();
            self.is_skipping = true;
            return 1;
        }
        self.held.extend_from_slice(bytes);
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_put_together_and_long_ones_are_skipped() {
        let long = "x".repeat(ENTRY_BYTES_MAX + 1);
        let output = format!("one\ntwo\n{long}\nthree\n\nlast");
        for step in [1, 7, 1000, output.len()] {
            let (mut entries, mut got, mut n_too_long) = (Entries::default(), Vec::new(), 0);
            for piece in output.as_bytes().chunks(step) {
                n_too_long += entries.take(piece, &mut |entry| got.push(entry.to_vec()));
                assert!(entries.held.len() <= ENTRY_BYTES_MAX);
            }
            assert_eq!(got, [&b"one"[..], b"two", b"three", b""], "pieces of {step}");
            assert_eq!(n_too_long, 1);
        }
    }
}
