//! Whether anybody listens at a local address, as the kernel lists its sockets.
//!
//! Some servers answer 503 for a dead backend and log no word of it (Varnish), or log it where nobody
//! may read: then a backend that nobody serves is what explains the 503. Nothing is connected to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wire::v1::Signal;

use crate::probes::sockets::{Lists, Name, Seen, State, Wanted};

/// What the kernel said is good for this long.
const FRESH: Duration = Duration::from_secs(1);
/// Sockets asked for, of which it is remembered that somebody listened.
const SERVED_MAX: usize = 1024;
/// Between two looks for sockets that nobody serves.
const REMEMBER_GAP: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Listeners {
    root: PathBuf,
    lists: Lists,
    read_at: Option<Instant>,
    /// `None` = cannot be told.
    now: Option<Listening>,
    /// Paths asked for that somebody listened at, here. The kernel lists the sockets of one network
    /// namespace: of a file that was never served from here, the server may be in another one.
    served: BTreeSet<String>,
    /// What [`Listeners::remember`] last looked for, and when.
    unserved: BTreeSet<String>,
    tried_at: Option<Instant>,
    is_told: bool,
}

#[derive(Debug, Default)]
struct Listening {
    ports: BTreeSet<(IpAddr, u16)>,
    paths: BTreeSet<Vec<u8>>,
    /// May be made up, or not.
    doubtful: BTreeSet<Vec<u8>>,
}

impl Listeners {
    /// `root` is the prefix of discovery, for sockets that lie below it.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            lists: Lists::default(),
            read_at: None,
            now: None,
            served: BTreeSet::new(),
            unserved: BTreeSet::new(),
            tried_at: None,
            is_told: false,
        }
    }

    /// Remembers which of these sockets are served now; addresses of another kind do not matter.
    ///
    /// A socket whose server dies before anybody has asked for it would not be told as dead.
    pub(crate) fn remember<'a>(&mut self, addresses: impl Iterator<Item = &'a str>, now: Instant) {
        let addresses = addresses.map(|address| address.strip_prefix("unix:").unwrap_or(address));
        let paths = addresses.filter(|address| address.starts_with('/'));
        let new = paths.filter(|path| !self.served.contains(*path)).take(SERVED_MAX);
        let new: BTreeSet<String> = new.map(str::to_owned).collect();
        let is_early = |at: Instant| now.saturating_duration_since(at) < REMEMBER_GAP;
        if new.is_empty() || new == self.unserved && self.tried_at.is_some_and(is_early) {
            return;
        }
        self.refresh(now);
        let Some(listening) = &self.now else { return };
        // By name alone: to follow links may hang on the file system of somebody's socket.
        let is_listed = |path: &String| {
            let by_link = path.strip_prefix("/run/").map(|rest| format!("/var/run/{rest}").into());
            let mut names = self.candidates(path).into_iter().chain(by_link);
            names.any(|name: PathBuf| listening.paths.contains(name.as_os_str().as_bytes()))
        };
        let room = SERVED_MAX.saturating_sub(self.served.len());
        let found: Vec<String> =
            new.iter().filter(|path| is_listed(path)).take(room).cloned().collect();
        self.served.extend(found);
        (self.unserved, self.tried_at) = (new, Some(now));
    }

    /// Why a connection to this address must fail now: `ConnectRefused` or `NoSuchSocket`. `None` =
    /// somebody listens, or it cannot be told, as for addresses of other machines and names.
    ///
    /// Cost: one list of those who listen a second, only while somebody asks.
    pub(crate) fn why_absent(&mut self, address: &str, now: Instant) -> Option<Signal> {
        self.refresh(now);
        let address = address.strip_prefix("unix:").unwrap_or(address);
        if address.starts_with('/') {
            return self.why_no_socket(address);
        }
        let (ip, port) = local_address(address)?;
        let ports = &self.now.as_ref()?.ports;
        let is_asked = |(known, of): &(IpAddr, u16)| {
            *of == port && (known.is_unspecified() || *known == ip || ip.is_unspecified())
        };
        (!ports.iter().any(is_asked)).then_some(Signal::ConnectRefused)
    }

    /// Whether somebody listens at an address of this machine, whose own addresses beside loopback are
    /// `own`; `None` = it cannot be told.
    pub(crate) fn look(
        &mut self,
        address: &str,
        own: &[IpAddr],
        now: Instant,
    ) -> Option<Result<(), Signal>> {
        self.refresh(now);
        if address.starts_with('/') {
            if self.is_served(address)? {
                return Some(Ok(()));
            }
            return self.why_no_socket(address).map(Err);
        }
        let (host, port) = address.rsplit_once(':')?;
        let ip: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
        let port: u16 = port.parse().ok()?;
        if !ip.is_loopback() && !own.contains(&ip) {
            return None;
        }
        let is_asked =
            |(known, of): &(IpAddr, u16)| *of == port && (known.is_unspecified() || *known == ip);
        let is_there = self.now.as_ref()?.ports.iter().any(is_asked);
        Some(if is_there { Ok(()) } else { Err(Signal::ConnectRefused) })
    }

    fn refresh(&mut self, now: Instant) {
        if self.read_at.is_some_and(|last| now.saturating_duration_since(last) < FRESH) {
            return;
        }
        self.read_at = Some(now);
        let all = Some(0..=u16::MAX);
        let wanted = Wanted { listening_only: true, unix: true, ports: all, families: [true; 2] };
        self.now = match self.lists.look(&wanted, now, Listening::default, Listening::note) {
            Ok(listening) => Some(listening),
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    tracing::info!(%error, "sockets cannot be listed: who listens is not told");
                }
                None
            }
        };
    }

    /// Whether somebody listens at this path, by whatever name; `None` = it cannot be told.
    fn is_served(&mut self, path: &str) -> Option<bool> {
        let listening = self.now.as_ref()?;
        let candidates = self.candidates(path);
        // `/var/run` is `/run`, and a server names its socket as its configuration does.
        let by_link = path.strip_prefix("/run/").map(|rest| format!("/var/run/{rest}").into());
        let is_in = |known: &BTreeSet<Vec<u8>>| {
            let has = |path: &PathBuf| known.contains(path.as_os_str().as_bytes());
            let real = || candidates.iter().filter_map(|path| path.canonicalize().ok());
            !known.is_empty()
                && (candidates.iter().chain(&by_link).any(has) || real().any(|path| has(&path)))
        };
        if is_in(&listening.doubtful) {
            return None;
        }
        let is_served = is_in(&listening.paths);
        if is_served && !self.served.contains(path) {
            if self.served.len() >= SERVED_MAX {
                self.served.retain(|path| Path::new(path).symlink_metadata().is_ok());
            }
            if self.served.len() < SERVED_MAX {
                self.served.insert(path.to_owned());
            }
        }
        Some(is_served)
    }

    fn candidates(&self, path: &str) -> [PathBuf; 2] {
        [PathBuf::from(path), self.root.join(path.trim_start_matches('/'))]
    }

    fn why_no_socket(&mut self, path: &str) -> Option<Signal> {
        if self.is_served(path)? {
            return None;
        }
        // What may not be looked at may be there.
        let mut is_there = false;
        for candidate in self.candidates(path) {
            match candidate.symlink_metadata() {
                // A link may lead to where the kernel has another name for it.
                Ok(meta) if meta.file_type().is_symlink() => return None,
                Ok(meta) if meta.file_type().is_socket() && !self.served.contains(path) => {
                    return None;
                }
                Ok(_) => is_there = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
        Some(if is_there { Signal::ConnectRefused } else { Signal::NoSuchSocket })
    }
}

impl Listening {
    fn note(&mut self, name: Name<'_>, seen: Seen) {
        match (name, seen.state) {
            (Name::Tcp(ip, port), State::Listens { .. }) => {
                self.ports.insert((ip, port));
            }
            (Name::Unix(path), state) if path.starts_with(b"/") => {
                match state {
                    State::Listens { .. } => self.paths.insert(path.to_vec()),
                    State::Doubtful => self.doubtful.insert(path.to_vec()),
                    _ => false,
                };
            }
            _ => {}
        }
    }
}

/// `127.0.0.1:9000`, `[::1]:9000`, `9000`; `None` for what is no address of numbers, and for those
/// that are not surely this machine's: another network namespace has its own loopback, but the
/// front server that uses the address shares ours, or its configuration would not be here.
pub(crate) fn local_address(address: &str) -> Option<(IpAddr, u16)> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Some((Ipv4Addr::UNSPECIFIED.into(), address.parse().ok()?));
    };
    let ip: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
    ip.is_loopback().then_some((ip, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use super::*;
    use crate::clock;

    #[test]
    fn who_listens_is_seen_and_who_stopped_too() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        let path = socket.display().to_string();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let (mut listeners, now) = (Listeners::new(Path::new("/")), clock::instant());
        let unix = UnixListener::bind(&socket).unwrap();
        assert_eq!(listeners.why_absent(&address, now), None);
        assert_eq!(listeners.why_absent(&path, now), None);
        assert_eq!(listeners.why_absent(&format!("unix:{path}"), now), None);
        drop((tcp, unix));
        let later = now + FRESH;
        assert_eq!(listeners.why_absent(&address, later), Some(Signal::ConnectRefused));
        assert_eq!(listeners.why_absent(&path, later), Some(Signal::ConnectRefused), "its file");
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(listeners.why_absent(&path, later), Some(Signal::NoSuchSocket));
        for elsewhere in ["198.51.100.4:80", "app.internal:80", "backend", "", "localhost"] {
            assert_eq!(listeners.why_absent(elsewhere, later), None, "{elsewhere}");
        }
    }

    #[test]
    fn who_listens_at_an_own_address_is_told_from_who_cannot_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("a.sock");
        let _unix = UnixListener::bind(&socket).unwrap();
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let own = ["192.0.2.7".parse().unwrap()];
        let (mut listeners, now) = (Listeners::new(Path::new("/")), clock::instant());
        let mut check = |address: &str, want: Option<Result<(), Signal>>| {
            assert_eq!(listeners.look(address, &own, now), want, "{address}");
        };
        check(&socket.display().to_string(), Some(Ok(())));
        check(&dir.path().join("b.sock").display().to_string(), Some(Err(Signal::NoSuchSocket)));
        check(&format!("127.0.0.1:{port}"), Some(Ok(())));
        check(&format!("192.0.2.7:{port}"), Some(Ok(())));
        check("127.0.0.1:1", Some(Err(Signal::ConnectRefused)));
        check(&format!("192.0.2.8:{port}"), None);
        check("app.internal:80", None);
        check("", None);
    }

    #[test]
    fn sockets_below_the_root_and_behind_links_are_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::os::unix::fs::symlink("run", dir.path().join("link")).unwrap();
        let _unix = UnixListener::bind(dir.path().join("run/a.sock")).unwrap();
        let (mut listeners, now) = (Listeners::new(dir.path()), clock::instant());
        assert_eq!(listeners.why_absent("/run/a.sock", now), None);
        assert_eq!(listeners.why_absent("/link/a.sock", now), None);
        assert_eq!(listeners.why_absent("/run/b.sock", now), Some(Signal::NoSuchSocket));
    }

    #[test]
    fn a_socket_that_was_never_served_from_this_network_namespace_is_not_told_as_dead() {
        let dir = tempfile::tempdir().unwrap();
        // The file that a server in a container's network namespace would leave here.
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        let text = path.display().to_string();
        let (mut listeners, now) = (Listeners::new(Path::new("/")), clock::instant());
        assert_eq!(listeners.why_absent(&text, now), None);
        assert_eq!(listeners.look(&text, &[], now), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(listeners.why_absent(&text, now), Some(Signal::NoSuchSocket));
        let unix = UnixListener::bind(&path).unwrap();
        listeners.remember(["127.0.0.1:80", &format!("unix:{text}")].into_iter(), now + FRESH);
        drop(unix);
        let later = now + 2 * FRESH;
        assert_eq!(listeners.why_absent(&text, later), Some(Signal::ConnectRefused));
    }

    #[test]
    fn a_user_cannot_make_up_a_listener_by_a_name_with_a_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        std::fs::write(&path, "").unwrap();
        let line = format!("\nf: 00000002 00000000 00010000 0001 01 5 {}", path.display());
        let name = SocketAddr::from_abstract_name(line).unwrap();
        let _forged = UnixListener::bind_addr(&name).unwrap();
        let text = std::fs::read_to_string("/proc/net/unix").unwrap();
        let path = path.display().to_string();
        assert!(text.lines().any(|line| line.ends_with(&path)), "the text is deceived: {text}");
        let (mut listeners, now) = (Listeners::new(Path::new("/")), clock::instant());
        assert_eq!(listeners.look(&path, &[], now), Some(Err(Signal::ConnectRefused)));
    }
}
