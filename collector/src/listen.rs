//! Opening ports: names the port and the fix when it cannot, and leaves the address in a file.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, lookup_host};

use crate::files;

/// Connections that may wait to be accepted: a whole fleet comes back after a restart.
const BACKLOG: u32 = 4096;

/// Why a port is not open. `section` is the config's: `grpc` or `http`.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "port {port} is in use ([{section}] listen = \"{address}\"): find the program with `ss -ltnp 'sport = :{port}'` and stop it, or set another port"
    )]
    InUse {
        /// Table of the config.
        section: &'static str,
        /// What was to be opened.
        address: String,
        /// Its port.
        port: u16,
    },
    /// The system says no.
    #[error("cannot listen on \"{address}\" ([{section}] listen): {fix}")]
    Refused {
        /// Table of the config.
        section: &'static str,
        /// What was to be opened.
        address: String,
        /// What to do.
        fix: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The address file cannot be written.
    #[error("{path}: cannot be written; check that this user may write there")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open port.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The port.
    pub(crate) listener: TcpListener,
    /// Where it really is: port 0 has become one.
    pub(crate) address: SocketAddr,
}

/// Opens `address` and writes what became of it to `DIR/SECTION.addr`.
pub(crate) async fn open(
    section: &'static str,
    address: &str,
    dir: &Path,
) -> Result<Listening, ListenError> {
    let listener = bind(address).await.map_err(|source| explain(section, address, source))?;
    let address = listener.local_addr().map_err(|source| explain(section, address, source))?;
    let path = dir.join(format!("{section}.addr"));
    files::replace_private(&path, format!("{address}\n").as_bytes())
        .map_err(|source| ListenError::File { path, source })?;
    Ok(Listening { listener, address })
}

async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn explain(section: &'static str, address: &str, source: io::Error) -> ListenError {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let address = address.to_owned();
    match (source.kind(), port) {
        (io::ErrorKind::AddrInUse, Some(port)) => ListenError::InUse { section, address, port },
        (kind, _) => {
            let fix = match kind {
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need a right; use a higher one"
                }
                io::ErrorKind::AddrNotAvailable => "this machine has no such address; use 0.0.0.0",
                io::ErrorKind::InvalidInput => "write it as HOST:PORT",
                _ => "write HOST:PORT with an address of this machine",
            };
            ListenError::Refused { section, address, fix, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_free_port_is_found_and_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let open = open("grpc", "127.0.0.1:0", dir.path()).await.unwrap();
        assert_ne!(open.address.port(), 0);
        let written = std::fs::read_to_string(dir.path().join("grpc.addr")).unwrap();
        assert_eq!(written.trim(), open.address.to_string());
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let first = open("grpc", "127.0.0.1:0", dir.path()).await.unwrap();
        let address = first.address.to_string();
        let error = open("http", &address, dir.path()).await.unwrap_err().to_string();
        let port = first.address.port();
        for word in [format!("port {port} is in use"), format!(":{port}'`"), "[http]".to_owned()] {
            assert!(error.contains(&word), "{word} in {error}");
        }
        for (address, word) in [("192.0.2.1:0", "no such address"), ("nonsense", "HOST:PORT")] {
            let error = open("http", address, dir.path()).await.unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(address), "{error}");
        }
    }
}
