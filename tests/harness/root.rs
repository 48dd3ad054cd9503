//! A throw-away root directory with the layout of a server, and loopback addresses of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::clock;

/// A directory that looks like `/` of a web server: `etc/`, `run/`, `srv/`, `var/log/`.
///
/// World-readable, because web servers started by root answer as another user.
#[derive(Debug)]
pub struct Root {
    dir: TempDir,
}

impl Root {
    /// Makes an empty one.
    #[must_use]
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("gw-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("the temporary directory is writable");
        Self { dir }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `relative` below the root.
    #[must_use]
    pub fn join(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    /// Writes a file below the root with its parents; returns where it is.
    pub fn write(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.join(relative);
        self.mkdir(path.parent().expect("a file has a parent"));
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        path
    }

    /// Writes a file that nobody else may read.
    pub fn secret(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.write(relative, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
        path
    }

    /// Makes a directory below the root with its parents.
    pub fn mkdir(&self, relative: impl AsRef<Path>) -> PathBuf {
        let path = self.dir.path().join(relative);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        path
    }
}

impl Default for Root {
    fn default() -> Self {
        Self::new()
    }
}

/// A loopback address nobody listens on: its own 127.x.y.z, so that neither parallel tests nor the
/// kernel's choice of outgoing ports can take it before the server that is given it binds.
#[must_use]
pub fn loopback(port: u16) -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let seed = std::process::id().wrapping_mul(2_654_435_761) ^ (clock::now_ms() as u32);
    for _ in 0..1000 {
        let n = seed.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(7919));
        let [_, b, c, d] = n.to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(127, b | 1, c, d.clamp(1, 254)), port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free loopback address with port {port} in 1000 tries");
}
