//! How many connections servers of this machine hold, and whose they are: from the kernel's lists. That
//! takes no login, and works when a server answers nobody any more.
//!
//! One pass over the lists for all servers, line by line; a list that is too long tells nothing, and a
//! long one is read every 10 s at most.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::probes::sockets::hex_address;

/// Bytes of one list that are read: some 14,000 connections. Longer ones cost more than they tell.
const BYTES_MAX: u64 = 2 << 20;
/// Lists longer than this are not read again before [`LONG_GAP`] is over.
const LONG_BYTES: u64 = 128 << 10;
const LONG_GAP: Duration = Duration::from_millis(9_500);
/// `TCP_ESTABLISHED`, `TCP_LISTEN`, and `SS_CONNECTED` of a Unix socket that was accepted.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";
const CONNECTED: &str = "03";

/// What is known of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Connections that are held there; `None` = it cannot be told.
    pub(super) n_held: Option<u64>,
    /// Only a user of the system can listen there, or have put the socket there.
    pub(super) is_of_system: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    root: PathBuf,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    is_long: bool,
    places: BTreeMap<String, Place>,
}

impl Held {
    /// `root` is the prefix of discovery, for sockets that lie below it.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), last: None }
    }

    /// Looks at all these addresses, which listen on this machine.
    pub(super) fn look(&mut self, addresses: &[String], now: Instant) -> BTreeMap<String, Place> {
        let is_known = |last: &&Last| addresses.iter().all(|a| last.places.contains_key(a));
        let is_fresh = |last: &&Last| now.saturating_duration_since(last.at) < LONG_GAP;
        if let Some(last) = self.last.as_ref().filter(|last| last.is_long).filter(is_fresh)
            && is_known(&last)
        {
            return last.places.clone();
        }
        let mut lists = Lists::of(addresses, &self.root);
        let mut n_bytes = 0;
        if !lists.ports.is_empty() {
            let v4 = open("/proc/net/tcp").and_then(|list| each(list, |line| lists.tcp(line)));
            // A kernel without IPv6 has no second list.
            let v6 =
                open("/proc/net/tcp6").map_or(Some(0), |list| each(list, |line| lists.tcp(line)));
            lists.is_tcp_whole = v4.is_some() && v6.is_some();
            n_bytes += v4.unwrap_or(BYTES_MAX) + v6.unwrap_or(BYTES_MAX);
        }
        if !lists.paths.is_empty() {
            let unix = open("/proc/net/unix").and_then(|list| each(list, |line| lists.unix(line)));
            lists.is_unix_whole = unix.is_some();
            n_bytes += unix.unwrap_or(BYTES_MAX);
        }
        let places: BTreeMap<String, Place> =
            addresses.iter().map(|address| (address.clone(), lists.place(address))).collect();
        let is_long = n_bytes > LONG_BYTES;
        self.last = Some(Last { at: now, is_long, places: places.clone() });
        places
    }
}

/// What one pass gathers.
#[derive(Debug, Default)]
struct Lists {
    root: PathBuf,
    /// Connections by port, and by the name a socket was bound by.
    ports: BTreeMap<u16, u64>,
    paths: BTreeMap<String, u64>,
    is_tcp_whole: bool,
    is_unix_whole: bool,
    /// Who listens.
    owners: Vec<(IpAddr, u16, u32)>,
}

impl Lists {
    fn of(addresses: &[String], root: &Path) -> Self {
        let mut lists = Self { root: root.to_owned(), ..Self::default() };
        for address in addresses {
            if address.starts_with('/') {
                lists.paths.extend(names(address, root).into_iter().map(|name| (name, 0)));
            } else if let Some((_, port)) = ip_and_port(address) {
                lists.ports.insert(port, 0);
            }
        }
        lists
    }

    /// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid ...`
    fn tcp(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace().skip(1);
        let Some(local) = words.next() else { return };
        let port = local.rsplit_once(':').and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
        let Some(n) = port.and_then(|port| self.ports.get_mut(&port)) else { return };
        match words.nth(1) {
            Some(ESTABLISHED) => *n += 1,
            Some(LISTEN) => {
                let owner = words.nth(3).and_then(|word| word.parse().ok());
                let listener = hex_address(local).zip(owner);
                self.owners.extend(listener.map(|((ip, port), uid)| (ip, port, uid)));
            }
            _ => {}
        }
    }

    /// `0: 00000003 00000000 00000000 0001 03 17 /run/a.sock`: the socket that a server accepted has
    /// the path that it listens at.
    fn unix(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        if words.nth(5) == Some(CONNECTED)
            && let Some(path) = words.nth(1)
            && let Some(n) = self.paths.get_mut(path)
        {
            *n += 1;
        }
    }

    fn place(&self, address: &str) -> Place {
        if address.starts_with('/') {
            let names = names(address, &self.root);
            let n = names.iter().filter_map(|name| self.paths.get(name)).sum();
            let is_of_system = is_socket_of_system(address, &self.root);
            return Place { n_held: self.is_unix_whole.then_some(n), is_of_system };
        }
        let Some((ip, port)) = ip_and_port(address) else { return Place::default() };
        let n_held = self.ports.get(&port).copied().filter(|_| self.is_tcp_whole);
        // What listens at all addresses of IPv4 does not at those of IPv6.
        let is_any = |known: &IpAddr| known.is_unspecified() && (known.is_ipv6() || ip.is_ipv4());
        let is_asked = |known: &IpAddr| *known == ip || is_any(known);
        let at = self.owners.iter().filter(|(known, of, _)| *of == port && is_asked(known));
        let users: BTreeSet<u32> = at.map(|(.., uid)| *uid).collect();
        let is_of_system = !users.is_empty() && users.into_iter().all(is_system);
        Place { n_held, is_of_system }
    }
}

/// The kernel has a socket under the name it was bound by.
fn names(address: &str, root: &Path) -> BTreeSet<String> {
    let below = root.join(address.trim_start_matches('/'));
    let by_link = address.strip_prefix("/run/").map(|rest| format!("/var/run/{rest}").into());
    let real = Path::new(address).canonicalize().ok();
    let all = [PathBuf::from(address), below].into_iter().chain(by_link).chain(real);
    all.map(|name| name.to_string_lossy().into_owned()).collect()
}

fn ip_and_port(address: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).parse().ok()?, port.parse().ok()?))
}

/// Users that people are not: those of packages, and those that systemd makes up for a service.
fn is_system(uid: u32) -> bool {
    uid < 1000 || (61_184..=65_519).contains(&uid)
}

/// The socket belongs to the system, in folders where nobody else can put one.
fn is_socket_of_system(address: &str, root: &Path) -> bool {
    let below = root.join(address.trim_start_matches('/'));
    let there = [below, PathBuf::from(address)].into_iter().find(|p| p.symlink_metadata().is_ok());
    let Some(path) = there else { return false };
    let Ok(real) = path.canonicalize() else { return false };
    let is_socket =
        fs::metadata(&real).is_ok_and(|meta| meta.file_type().is_socket() && is_system(meta.uid()));
    let is_safe = |path: &Path| {
        let folder = path.parent().and_then(|folder| fs::metadata(folder).ok());
        folder.is_some_and(|meta| is_system(meta.uid()) && meta.mode() & 0o1002 == 0)
    };
    is_socket && is_safe(&path) && is_safe(&real)
}

fn open(path: &str) -> Option<impl BufRead> {
    Some(BufReader::with_capacity(16 << 10, File::open(path).ok()?.take(BYTES_MAX)))
}

/// Shows every line; the number of bytes, `None` when they are too many or cannot be read.
fn each(mut list: impl BufRead, mut take: impl FnMut(&str)) -> Option<u64> {
    let (mut n_bytes, mut line) = (0, Vec::new());
    loop {
        line.clear();
        match list.read_until(b'\n', &mut line).ok()? {
            0 if n_bytes >= BYTES_MAX => return None,
            0 => return Some(n_bytes),
            n_read => n_bytes += n_read as u64,
        }
        if let Ok(line) = std::str::from_utf8(&line) {
            take(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::{UnixListener, UnixStream};

    const UNIX: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 17 /run/mysqld/mysqld.sock
0000000000000000: 00000003 00000000 00000000 0001 03 18 /run/mysqld/mysqld.sock
0000000000000000: 00000003 00000000 00000000 0001 03 19 /run/mysqld/mysqld.sock
0000000000000000: 00000002 00000000 00000000 0001 02 0 /run/mysqld/mysqld.sock
0000000000000000: 00000003 00000000 00000000 0001 03 20 /run/mysqld/mysqld.sock2
0000000000000000: 00000003 00000000 00000000 0001 03 21
";

    fn tcp(uid: u32) -> String {
        format!(
            "  sl  local_address rem_address   st tx_queue rx_queue\n\
   0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {uid} 0 31\n\
   1: 0100007F:0CEA 0100007F:B1A2 01 00000000:00000000 00:00000000 00000000 {uid} 0 32\n\
   2: 0100007F:B1A2 0100007F:0CEA 01 00000000:00000000 00:00000000 00000000 33 0 33\n\
   3: 0100007F:0CEA 0100007F:B1A3 06 00000000:00000000 00:00000000 00000000 0 0 0\n"
        )
    }

    fn read_tcp(text: &str) -> Option<Place> {
        let address = "127.0.0.1:3306".to_owned();
        let mut lists = Lists::of(std::slice::from_ref(&address), "/".as_ref());
        each(text.as_bytes(), |line| lists.tcp(line))?;
        lists.is_tcp_whole = true;
        Some(lists.place(&address))
    }

    #[test]
    fn accepted_connections_are_counted_and_no_others() {
        let address = "/run/mysqld/mysqld.sock".to_owned();
        let mut lists = Lists::of(std::slice::from_ref(&address), "/".as_ref());
        each(UNIX.as_bytes(), |line| lists.unix(line)).unwrap();
        assert_eq!(lists.place(&address).n_held, None, "the list may be cut");
        lists.is_unix_whole = true;
        assert_eq!(lists.place(&address).n_held, Some(2));
        assert_eq!(read_tcp(&tcp(110)), Some(Place { n_held: Some(1), is_of_system: true }));
        for odd in ["", "\n\n", "é\0", "a b c d e 03 f", "0: :0CEA x 0A", "0: 0CEA"] {
            assert_eq!(read_tcp(odd), Some(Place { n_held: Some(0), is_of_system: false }));
            each(odd.as_bytes(), |line| lists.unix(line)).unwrap();
        }
        assert_eq!(lists.place(&address).n_held, Some(2));
        assert_eq!(read_tcp(&"x\n".repeat(BYTES_MAX as usize / 2)), None, "too long to tell");
    }

    #[test]
    fn a_local_user_who_listens_at_the_port_of_a_database_is_no_database() {
        for (uid, want) in [(0, true), (999, true), (1000, false), (33_000, false), (65_534, false)]
        {
            assert_eq!(read_tcp(&tcp(uid)).unwrap().is_of_system, want, "{uid}");
        }
        // One at the address itself beside that of the system at all addresses.
        let both =
            format!("{}{}", tcp(1000), tcp(0).replace("0100007F:0CEA 00", "00000000:0CEA 00"));
        assert!(!read_tcp(&both).unwrap().is_of_system);
    }

    #[test]
    fn a_socket_in_a_folder_where_anybody_may_put_one_is_not_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let is_root = fs::metadata(dir.path()).unwrap().uid() == 0;
        let folder = dir.path().join("tmp");
        fs::create_dir(&folder).unwrap();
        let _listener = UnixListener::bind(folder.join("mysql.sock")).unwrap();
        for (mode, want) in [(0o755, true), (0o1777, false), (0o777, false)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            let got = is_socket_of_system("/tmp/mysql.sock", dir.path());
            assert_eq!(got, want && is_root, "{mode:o}");
        }
        let text = folder.join("mysql.sock").display().to_string();
        std::os::unix::fs::symlink(&text, dir.path().join("link.sock")).unwrap();
        assert!(!is_socket_of_system("/link.sock", dir.path()), "a link into such a folder");
        assert!(!is_socket_of_system("/none.sock", dir.path()));
    }

    #[test]
    fn connections_of_this_machine_are_counted_in_one_look() {
        let mut seen = Vec::new();
        // A port that was free to listen at may be the own one of a client that another test is.
        for _ in 0..10 {
            let counted = counted_at_rest_and_with_one_client();
            if counted == [[Some(0); 2], [Some(1); 2]] {
                return;
            }
            seen.push(counted);
        }
        panic!("{seen:?}");
    }

    fn counted_at_rest_and_with_one_client() -> [[Option<u64>; 2]; 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let all = [path.display().to_string(), address.to_string()];
        let (mut held, now) = (Held::new("/".as_ref()), clock::instant());
        let mut n_held = |after_s: u64| {
            let found = held.look(&all, now + Duration::from_secs(after_s));
            all.each_ref().map(|address| found[address].n_held)
        };
        let at_rest = n_held(0);
        let _clients = (UnixStream::connect(&path).unwrap(), TcpStream::connect(address).unwrap());
        let _server = unix.accept().unwrap();
        [at_rest, n_held(60)]
    }

    #[test]
    fn long_lists_are_not_read_each_second() {
        let (mut held, now) = (Held::new("/".as_ref()), clock::instant());
        let address = "127.0.0.1:1".to_owned();
        let known = Place { n_held: Some(70_000), is_of_system: true };
        let places = BTreeMap::from([(address.clone(), known.clone())]);
        held.last = Some(Last { at: now, is_long: true, places });
        let addresses = [address.clone()];
        let mut look = |after_s| held.look(&addresses, now + Duration::from_secs(after_s));
        assert_eq!(look(5)[&address], known);
        assert_ne!(look(10)[&address], known);
    }
}
