//! Connections to what is asked: to a socket or an address, each with a deadline, and why one failed.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use wire::v1::Signal;

use crate::timer::{patience, within};

/// Longest wait for a connection: what takes longer is of no use to a visitor either.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Threads that follow the paths of sockets at one time: a file system that hangs keeps its thread.
static LOOKUPS: Semaphore = Semaphore::const_new(4);

/// A connection, whatever it is made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Any of these, the first that answers.
    Tcp(Vec<SocketAddr>),
    /// The first of these that is there.
    Unix(Vec<PathBuf>),
}

impl Target {
    /// The socket of a configuration below the root of discovery, or where it is written.
    pub(super) fn socket(root: &Path, path: &str) -> Self {
        let mut paths = vec![root.join(path.trim_start_matches('/')), PathBuf::from(path)];
        paths.dedup();
        Self::Unix(paths)
    }

    /// An address of numbers or a socket; `None` for a name.
    pub(super) fn of(root: &Path, address: &str) -> Option<Self> {
        if address.starts_with('/') {
            return Some(Self::socket(root, address));
        }
        address.parse().ok().map(|address| Self::Tcp(vec![address]))
    }
}

/// Why something did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What it means for those who ask it; `None`: it says nothing of it, only of us.
    pub(super) signal: Option<Signal>,
    /// In words.
    pub(super) words: String,
}

impl Failure {
    pub(super) fn new(signal: Signal, words: impl Into<String>) -> Self {
        Self { signal: Some(signal), words: words.into() }
    }

    /// A failure of our own: nothing was measured.
    pub(super) fn ours(words: impl Into<String>) -> Self {
        Self { signal: None, words: words.into() }
    }

    pub(super) fn timed_out(limit: Duration) -> Self {
        let words = format!("connection timed out after {:.1} s", limit.as_secs_f64());
        Self::new(Signal::ConnectTimeout, words)
    }

    pub(super) fn no_answer(limit: Duration) -> Self {
        let words = format!("no answer within {:.1} s", limit.as_secs_f64());
        Self::new(Signal::TimeoutRead, words)
    }

    pub(super) fn of(error: &io::Error, is_unix: bool) -> Self {
        let Some(errno) = Errno::from_io_error(error) else {
            return Self::new(Signal::Other, error.to_string());
        };
        match errno {
            Errno::CONNREFUSED => Self::new(Signal::ConnectRefused, "connection refused"),
            Errno::TIMEDOUT => Self::new(Signal::ConnectTimeout, "connection timed out"),
            Errno::HOSTUNREACH | Errno::HOSTDOWN => {
                Self::new(Signal::Unreachable, "no route to host")
            }
            Errno::NETUNREACH | Errno::NETDOWN => {
                Self::new(Signal::Unreachable, "network is unreachable")
            }
            Errno::CONNRESET | Errno::PIPE => Self::new(Signal::Reset, "connection reset"),
            Errno::NOENT => Self::new(Signal::NoSuchSocket, "no such socket"),
            Errno::AGAIN if is_unix => Self::new(Signal::BacklogFull, "its backlog is full"),
            // What filters packets of this machine answers so, whoever asks.
            Errno::PERM if !is_unix => {
                Self::new(Signal::Unreachable, "a firewall of this machine forbids it")
            }
            Errno::ACCESS | Errno::PERM => Self::ours("the agent's user may not open it"),
            Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AFNOSUPPORT => {
                Self::ours(error.to_string())
            }
            _ => Self::new(Signal::Other, error.to_string()),
        }
    }
}

/// Connects and says nothing yet.
pub(super) async fn dial(target: &Target) -> Result<Box<dyn Stream>, Failure> {
    match target {
        Target::Unix(paths) => dial_unix(&LOOKUPS, patience(CONNECT_TIMEOUT), paths.clone()).await,
        Target::Tcp(addresses) => {
            let mut failure = Failure::ours("it has no address");
            for address in addresses {
                match within(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                    Some(Ok(stream)) => return Ok(Box::new(stream)),
                    Some(Err(error)) => failure = Failure::of(&error, false),
                    None => failure = Failure::timed_out(CONNECT_TIMEOUT),
                }
            }
            Err(failure)
        }
    }
}

/// On a thread: a path may lead over a file system that hangs, and would take everything with it.
async fn dial_unix(
    lookups: &'static Semaphore,
    limit: Duration,
    paths: Vec<PathBuf>,
) -> Result<Box<dyn Stream>, Failure> {
    let connected = async {
        let permit = lookups.acquire().await;
        let made = tokio::task::spawn_blocking(move || {
            let made = connect_unix(&paths);
            drop(permit); // also when nobody waits for it any more
            made
        });
        let made = made.await.map_err(|_| Failure::ours("the thread that connects died"))?;
        let made = made.map_err(|error| Failure::of(&error, true))?;
        UnixStream::from_std(made).map_err(|error| Failure::ours(error.to_string()))
    };
    // A connection to a socket is there at once or never: what takes time is the way to its file.
    match within(limit, connected).await {
        Some(stream) => Ok(Box::new(stream?)),
        None => Err(Failure::ours("the file system of its path does not answer")),
    }
}

fn connect_unix(paths: &[PathBuf]) -> io::Result<StdStream> {
    let there = paths.iter().find(|path| path.symlink_metadata().is_ok()).or(paths.last());
    let address = SocketAddrUnix::new(there.ok_or(Errno::NOENT)?.as_path())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(StdStream::from(socket))
}

/// Connects, sends a question, and reads until `is_whole` or the end, at most `n_bytes_max`.
pub(super) async fn ask(
    target: &Target,
    question: &[u8],
    limit: Duration,
    n_bytes_max: usize,
    is_whole: fn(&[u8]) -> bool,
) -> Result<Vec<u8>, Failure> {
    let mut stream = dial(target).await?;
    within(limit, exchange(&mut stream, question, n_bytes_max, is_whole))
        .await
        .unwrap_or_else(|| Err(Failure::no_answer(limit)))
}

/// The same on a connection that is there.
pub(super) async fn exchange(
    stream: &mut Box<dyn Stream>,
    question: &[u8],
    n_bytes_max: usize,
    is_whole: fn(&[u8]) -> bool,
) -> Result<Vec<u8>, Failure> {
    let mut answer = Vec::new();
    // Whoever has no room for clients may answer at once and hang up before it reads.
    let sent = stream.write_all(question).await;
    let mut chunk = [0_u8; 4096];
    while answer.len() < n_bytes_max && !is_whole(&answer) {
        let room = chunk.len().min(n_bytes_max - answer.len());
        match stream.read(&mut chunk[..room]).await {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(_) if !answer.is_empty() => break,
            Err(error) => return Err(Failure::of(&error, false)),
        }
    }
    match sent {
        Err(error) if answer.is_empty() => Err(Failure::of(&error, false)),
        _ if answer.is_empty() && n_bytes_max > 0 => {
            Err(Failure::new(Signal::PrematureClose, "it closed the connection without a word"))
        }
        _ => Ok(answer),
    }
}

/// Text of another program as one short printable line.
pub(super) fn printable(text: &str, n_chars_max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(n_chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_a_failed_connection_is_told_apart() {
        let check = |errno: Errno, is_unix: bool, want: Option<Signal>| {
            let failure = Failure::of(&io::Error::from_raw_os_error(errno.raw_os_error()), is_unix);
            assert_eq!(failure.signal, want, "{errno:?}: {}", failure.words);
        };
        check(Errno::CONNREFUSED, false, Some(Signal::ConnectRefused));
        check(Errno::HOSTUNREACH, false, Some(Signal::Unreachable));
        check(Errno::NETUNREACH, false, Some(Signal::Unreachable));
        check(Errno::TIMEDOUT, false, Some(Signal::ConnectTimeout));
        check(Errno::NOENT, true, Some(Signal::NoSuchSocket));
        check(Errno::AGAIN, true, Some(Signal::BacklogFull));
        check(Errno::ACCESS, true, None);
        check(Errno::PERM, true, None);
        check(Errno::PERM, false, Some(Signal::Unreachable));
        check(Errno::MFILE, false, None);
        let other = Failure::of(&io::Error::other("odd"), false);
        assert_eq!((other.signal, other.words.as_str()), (Some(Signal::Other), "odd"));
    }

    #[tokio::test]
    async fn the_path_of_a_socket_is_followed_on_a_thread_and_for_a_limited_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let lookups: &Semaphore = Box::leak(Box::new(Semaphore::new(1)));
        let limit = Duration::from_millis(200);
        let paths = || vec![dir.path().join("none.sock"), path.clone()];
        let Target::Unix(known) = Target::socket(dir.path(), "/a.sock") else { panic!() };
        assert_eq!(known, [path.clone(), "/a.sock".into()]);
        assert!(dial_unix(lookups, Duration::from_secs(20), paths()).await.is_ok());
        let none = dial_unix(lookups, Duration::from_secs(20), vec!["/none/a.sock".into()]).await;
        assert_eq!(none.err().and_then(|f| f.signal), Some(Signal::NoSuchSocket));
        // All threads hang: nothing is known of the socket.
        let hung = lookups.acquire().await.unwrap();
        let failed = dial_unix(lookups, limit, paths()).await.err().unwrap();
        assert_eq!(failed, Failure::ours("the file system of its path does not answer"));
        drop(hung);
        assert!(dial_unix(lookups, Duration::from_secs(20), paths()).await.is_ok());
    }

    #[test]
    fn words_of_others_are_one_short_line() {
        assert_eq!(printable("a\r\nb\u{1b}[31m\0é", 6), "ab[31m");
    }
}
