//! Whether anybody listens at a local address, as the kernel lists its sockets.
//!
//! Some servers answer 503 for a dead backend and log no word of it (Varnish), or log it where nobody
//! may read: then a backend that nobody serves is what explains the 503. Nothing is connected to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use wire::v1::Signal;

use crate::probes::procfile::ProcFile;

/// What the kernel said is good for this long.
const FRESH: Duration = Duration::from_secs(1);
/// The kernel lists listening sockets before all others: with 100 bytes each, 2,500 of them.
const TCP_BYTES: usize = 256 << 10;
/// Unix sockets are listed in no order: of more than some 20,000 nothing can be told.
const UNIX_BYTES: usize = 2 << 20;
/// State of a listening socket.
const LISTEN: &str = "0A";

/// See the module.
pub(crate) struct Listeners {
    root: PathBuf,
    tcp: [ProcFile; 2],
    unix: ProcFile,
    read_at: Option<Instant>,
    /// Address and port; `None` = not known.
    ports: Option<BTreeSet<(IpAddr, u16)>>,
    sockets: Option<BTreeSet<String>>,
}

impl Listeners {
    /// `root` is the prefix of discovery, for sockets that lie below it.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            tcp: ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| ProcFile::head(path, TCP_BYTES)),
            unix: ProcFile::head("/proc/net/unix", UNIX_BYTES),
            read_at: None,
            ports: None,
            sockets: None,
        }
    }

    /// Why a connection to this address must fail now: `ConnectRefused` or `NoSuchSocket`. `None` =
    /// somebody listens, or it cannot be told, as for addresses of other machines and names.
    ///
    /// Cost: two small reads of /proc a second, only while somebody asks.
    pub(crate) fn why_absent(&mut self, address: &str, now: Instant) -> Option<Signal> {
        self.refresh(now);
        let address = address.strip_prefix("unix:").unwrap_or(address);
        if address.starts_with('/') {
            return self.why_no_socket(address);
        }
        let (ip, port) = local_address(address)?;
        let ports = self.ports.as_ref()?;
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
            let sockets = self.sockets.as_ref()?;
            let below = self.root.join(address.trim_start_matches('/'));
            let candidates = [PathBuf::from(address), below];
            let real = candidates.iter().filter_map(|path| path.canonicalize().ok());
            // `/var/run` is `/run`, and a server names its socket as its configuration does.
            let by_link =
                address.strip_prefix("/run/").map(|rest| format!("/var/run/{rest}").into());
            let mut names = candidates.iter().cloned().chain(real).chain(by_link);
            if names.any(|path| sockets.contains(&*path.to_string_lossy())) {
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
        let is_there = self.ports.as_ref()?.iter().any(is_asked);
        Some(if is_there { Ok(()) } else { Err(Signal::ConnectRefused) })
    }

    fn refresh(&mut self, now: Instant) {
        if self.read_at.is_none_or(|last| now.saturating_duration_since(last) >= FRESH) {
            self.read_at = Some(now);
            self.ports = ports(&mut self.tcp);
            self.sockets = self.unix.read().filter(|text| text.len() < UNIX_BYTES).map(sockets);
        }
    }

    fn why_no_socket(&self, path: &str) -> Option<Signal> {
        let sockets = self.sockets.as_ref()?;
        let below = self.root.join(path.trim_start_matches('/'));
        let candidates = [Path::new(path), &below];
        if candidates.iter().any(|path| sockets.contains(&*path.to_string_lossy())) {
            return None;
        }
        // What may not be looked at may be there.
        let mut is_there = false;
        for path in candidates {
            match path.symlink_metadata() {
                // A link, or the socket of another file system: the kernel has another name for it.
                Ok(meta) if meta.file_type().is_symlink() => return None,
                Ok(_) => is_there = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => return None,
            }
        }
        // `/var/run` is `/run`: a directory on the way may have another name too.
        let real = candidates.iter().filter_map(|path| path.canonicalize().ok());
        if real.into_iter().any(|path| sockets.contains(&*path.to_string_lossy())) {
            return None;
        }
        Some(if is_there { Signal::ConnectRefused } else { Signal::NoSuchSocket })
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

/// The listening sockets; `None` when there are too many to see all, or none can be seen.
fn ports(files: &mut [ProcFile; 2]) -> Option<BTreeSet<(IpAddr, u16)>> {
    let mut all = BTreeSet::new();
    let mut is_known = false;
    for file in files {
        // A kernel without IPv6 has no second file.
        let Some(text) = file.read() else { continue };
        is_known = true;
        let mut saw_end = text.len() < TCP_BYTES;
        for line in text.lines().skip(1) {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (Some(local), Some(state)) = (words.next(), words.nth(1)) else { continue };
            if state != LISTEN {
                saw_end = true;
                break;
            }
            all.extend(hex_address(local));
        }
        if !saw_end {
            return None;
        }
    }
    is_known.then_some(all)
}

/// `0100007F:2328`: an address in words of the machine's byte order, and a port.
pub(crate) fn hex_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if address.len() == 8 {
        return Some((Ipv4Addr::from(word(0)?).into(), port));
    }
    let mut bytes = [0; 16];
    for (ix, part) in bytes.chunks_exact_mut(4).enumerate() {
        part.copy_from_slice(&word(8 * ix)?);
    }
    Some((Ipv6Addr::from(bytes).to_canonical(), port))
}

/// Paths of the Unix sockets that accept connections (flag `__SO_ACCEPTCON`).
fn sockets(text: &str) -> BTreeSet<String> {
    let of_line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
        let path = words.nth(3)?;
        (flags & 0x1_0000 != 0 && path.starts_with('/')).then(|| path.to_owned())
    };
    text.lines().skip(1).filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

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
    fn addresses_of_the_kernel_are_read() {
        let v4 = |text: &str| hex_address(text).map(|(ip, port)| format!("{ip} {port}"));
        assert_eq!(v4("0100007F:2328").as_deref(), Some("127.0.0.1 9000"));
        assert_eq!(
            v4("00000000000000000000000001000000:0050").as_deref(),
            Some("::1 80"),
            "four words"
        );
        assert_eq!(v4("0000000000000000FFFF00000100007F:0050").as_deref(), Some("127.0.0.1 80"));
        for broken in ["", ":", "0100007F", "01:1", "zz00007F:1", "0100007F:", "é100007F:1"] {
            assert_eq!(v4(broken), None, "{broken}");
        }
    }
}
