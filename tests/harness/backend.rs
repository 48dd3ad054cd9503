//! Backends that fail in one way each, and the sites a server under test puts in front of them.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::root::{Root, loopback};

/// How often a held connection looks whether the test is over.
const LOOK: Duration = Duration::from_millis(100);

/// What happens to a request that is passed on. The name of a site is that of its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The application answers with this status: 200 is no fault at all.
    Answers(u16),
    /// The connection is reset once the request was read.
    Reset,
    /// The connection is closed without a byte.
    Closed,
    /// The connection is closed within the headers.
    ClosedInHeaders,
    /// What comes back is no HTTP but a TLS alert.
    Garbage,
    /// One header line has no colon.
    BadHeader,
    /// Nothing comes back, ever.
    Hangs,
    /// Nobody listens on the port.
    Refused,
    /// The Unix socket does not exist.
    NoSocket,
    /// The Unix socket is there, but nobody listens on it.
    DeadSocket,
    /// The server in front answers 503 itself, on purpose; no backend is asked.
    Planned,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Answers(status) => return write!(f, "app-{status}"),
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::ClosedInHeaders => "cut",
            Self::Garbage => "garbage",
            Self::BadHeader => "badheader",
            Self::Hangs => "hangs",
            Self::Refused => "refused",
            Self::NoSocket => "nosocket",
            Self::DeadSocket => "deadsocket",
            Self::Planned => "planned",
        };
        f.write_str(word)
    }
}

impl Fault {
    /// Name of the site that has this fault.
    #[must_use]
    pub fn site(self) -> String {
        format!("{self}.test")
    }
}

/// Where a server passes requests on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// Host and port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// One virtual host of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySite {
    /// Primary name; `www.` before it is an alias where the server has aliases.
    pub name: String,
    /// Who answers; `None`: the server itself, with a planned 503.
    pub upstream: Option<Upstream>,
}

impl ProxySite {
    /// The same names, all passed on to one address: the outer server of a chain.
    #[must_use]
    pub fn all_to(sites: &[Self], next: SocketAddr) -> Vec<Self> {
        let one =
            |site: &Self| Self { name: site.name.clone(), upstream: Some(Upstream::Tcp(next)) };
        sites.iter().map(one).collect()
    }

    /// A word for names inside a configuration: `app_502`.
    pub(crate) fn word(&self) -> String {
        self.name.trim_end_matches(".test").replace(['-', '.'], "_")
    }
}

/// The listeners behind the sites; all stop in `Drop`.
#[derive(Debug)]
pub struct Backends {
    sites: Vec<ProxySite>,
    stop: Arc<AtomicBool>,
    threads: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl Backends {
    /// One site for each fault, each with a backend of its own on its own loopback address.
    #[must_use]
    pub fn start(root: &Root, faults: &[Fault]) -> Self {
        let mut backends =
            Self { sites: Vec::new(), stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        for fault in faults {
            let upstream = backends.upstream(root, *fault);
            backends.sites.push(ProxySite { name: fault.site(), upstream });
        }
        backends
    }

    /// The sites, in the order of their faults.
    #[must_use]
    pub fn sites(&self) -> &[ProxySite] {
        &self.sites
    }

    fn upstream(&mut self, root: &Root, fault: Fault) -> Option<Upstream> {
        let socket = |name: &str| root.mkdir("run/app").join(format!("{name}.sock"));
        match fault {
            Fault::Planned => None,
            Fault::Refused => Some(Upstream::Tcp(loopback(8000))),
            Fault::NoSocket => Some(Upstream::Unix(socket("missing"))),
            Fault::DeadSocket => {
                let path = socket("dead");
                // The file outlives its listener. Servers that are not root may use it as well.
                drop(UnixListener::bind(&path).expect("the root is writable"));
                fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
                Some(Upstream::Unix(path))
            }
            _ => Some(Upstream::Tcp(self.listen(fault))),
        }
    }

    fn listen(&mut self, fault: Fault) -> SocketAddr {
        let address = loopback(8000);
        let listener = TcpListener::bind(address).expect("the address was free just now");
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), stop) = (stream, Arc::clone(&stop)) else { continue };
                std::thread::spawn(move || serve(stream, fault, &stop));
            }
        });
        self.threads.push((address, thread));
        address
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (address, thread) in self.threads.drain(..) {
            drop(TcpStream::connect(address)); // wakes the listener
            thread.join().ok(); // it panics only in a test that has failed already
        }
    }
}

/// One request, one fault, one connection.
fn serve(mut stream: TcpStream, fault: Fault, stop: &AtomicBool) {
    if !read_request(&mut stream, stop) {
        return; // only a look whether somebody listens
    }
    let say = |stream: &mut TcpStream, text: &str| {
        // An error means that the server in front has left, which is its right.
        stream.write_all(text.as_bytes()).ok();
    };
    match fault {
        Fault::Answers(status) => say(&mut stream, &answer(status)),
        Fault::Reset => {
            let linger = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            linger.expect("a connected socket has options");
            return; // without the orderly end below
        }
        Fault::ClosedInHeaders => say(&mut stream, "HTTP/1.1 200 OK\r\nContent-Type: text/pl"),
        Fault::Garbage => say(&mut stream, "\x15\x03\x03\0\x02\x02\x28"),
        Fault::BadHeader => {
            say(&mut stream, "HTTP/1.1 200 OK\r\nBroken \x01 line\r\nContent-Length: 0\r\n\r\n");
        }
        Fault::Hangs => hold(&mut stream, stop),
        Fault::Closed | Fault::Refused | Fault::NoSocket | Fault::DeadSocket | Fault::Planned => {}
    }
    stream.shutdown(Shutdown::Write).ok(); // the other side may have closed first
    hold(&mut stream, stop);
}

fn answer(status: u16) -> String {
    let reason = match status {
        200 => "OK",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\
         Connection: close\r\n\r\napp\n"
    )
}

/// Reads to the end of the headers; false when the other side left before.
fn read_request(stream: &mut TcpStream, stop: &AtomicBool) -> bool {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Some(byte) = read_byte(stream, stop) else { return false };
        request.push(byte);
    }
    true
}

/// Reads until the other side closes, or the test is over.
fn hold(stream: &mut TcpStream, stop: &AtomicBool) {
    while read_byte(stream, stop).is_some() {}
}

fn read_byte(stream: &mut TcpStream, stop: &AtomicBool) -> Option<u8> {
    stream.set_read_timeout(Some(LOOK)).ok()?;
    let mut byte = [0];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => return Some(byte[0]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock
                        | std::io::ErrorKind::TimedOut
                        | std::io::ErrorKind::Interrupted
                ) => {}
            Err(_) => return None,
        }
    }
    None
}
