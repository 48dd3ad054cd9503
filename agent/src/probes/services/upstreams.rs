//! Who answers at the local addresses that sites are passed on to: an application's own service.
//!
//! The listening socket leads to its process where that may be seen (as root, or as the same user).
//! Otherwise the processes of the socket's user are asked: one whose command line names the address, or
//! the only service of that user. What none of this tells is said once; naming the service in `[probes]
//! services` helps. A container whose address is that of another machine is not found.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::clock;
use crate::discover::Discovery;
use crate::probes::listeners::local_address;
use crate::probes::sockets::{Lists, Name, Seen, State, Wanted};

use super::patterns::{CONTAINER_UNITS, is_type};

const ADDRESSES_MAX: usize = 500;
/// Links of open files looked at in one search; some 20 ms.
const LINKS_MAX: usize = 20_000;
const PROCESSES_MAX: usize = 32_768;
const CMDLINE_BYTES_MAX: u64 = 4096;

/// Who listens at an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Unit of systemd; `None` where there is none, or the process was started by hand.
    pub(crate) unit: Option<String>,
    /// Name of the process.
    pub(crate) process: String,
    pub(crate) pid: u32,
    inode: u64,
}

/// See the module. Who listened last stays known while nobody listens.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    root: PathBuf,
    holders: BTreeMap<String, Holder>,
    /// Addresses with a socket whose process cannot be found, by its inode.
    unknown: BTreeMap<String, u64>,
    told: BTreeSet<String>,
    lists: Lists,
    is_unlisted_told: bool,
}

impl Upstreams {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ..Self::default() }
    }

    /// Units found, and those that run containers where some answer.
    pub(crate) fn units(&self) -> impl Iterator<Item = String> {
        let units: BTreeSet<&String> =
            self.holders.values().filter_map(|holder| holder.unit.as_ref()).collect();
        let is_container = units.iter().any(|unit| {
            unit.as_str() == "docker.service"
                || is_type(unit, "scope")
                    && ["docker-", "libpod-", "cri-"].iter().any(|start| unit.starts_with(start))
        });
        let containers = CONTAINER_UNITS.iter().filter(move |_| is_container);
        let containers: Vec<String> = containers.map(|&unit| unit.to_owned()).collect();
        units.into_iter().cloned().chain(containers)
    }

    /// The address that a unit answers at, if it is one alone.
    pub(crate) fn address_of(&self, unit: &str) -> Option<String> {
        let mut of_unit =
            self.holders.iter().filter(|(_, holder)| holder.unit.as_deref() == Some(unit));
        match (of_unit.next(), of_unit.next()) {
            (Some((address, _)), None) => Some(address.clone()),
            _ => None,
        }
    }

    pub(crate) fn holders(&self) -> &BTreeMap<String, Holder> {
        &self.holders
    }

    /// Looks again on the blocking pool; true when somebody else answers somewhere.
    ///
    /// Cost: nothing without such sites; the kernel's lists of sockets; and where there is a new socket,
    /// one walk over processes.
    pub(crate) async fn look(&mut self, discovery: &Discovery) -> bool {
        let addresses = addresses(discovery);
        if addresses.is_empty() && self.holders.is_empty() {
            return false;
        }
        let before = self.holders.clone();
        let (root, unknown) = (self.root.clone(), self.unknown.clone());
        let mut lists = std::mem::take(&mut self.lists);
        let found = tokio::task::spawn_blocking(move || {
            let found = look(&mut lists, Path::new("/proc"), &root, &addresses, before, &unknown);
            (found, lists)
        });
        let Ok((found, lists)) = found.await else { return false };
        self.lists = lists;
        let (holders, unknown) = match found {
            Ok(found) => found,
            Err(error) => {
                if !std::mem::replace(&mut self.is_unlisted_told, true) {
                    tracing::info!(
                        %error,
                        fix = "name the services of applications in [probes] services",
                        "sockets cannot be listed: who answers for sites is not known"
                    );
                }
                return false;
            }
        };
        for address in unknown.keys() {
            if self.told.len() < ADDRESSES_MAX && self.told.insert(address.clone()) {
                tracing::info!(
                    address,
                    fix = "name its unit in [probes] services",
                    "cannot tell which service answers here: its process belongs to another user"
                );
            }
        }
        let is_new = holders != self.holders;
        (self.holders, self.unknown) = (holders, unknown);
        is_new
    }
}

/// Local addresses that answer for sites, other than those of PHP-FPM pools.
fn addresses(discovery: &Discovery) -> BTreeSet<String> {
    let pools = discovery.sites.iter().filter_map(|site| site.pool.as_deref());
    let is_address = |pool: &&str| {
        (pool.starts_with('/') || local_address(pool).is_some() || is_ip_and_port(pool))
            && !discovery.pools.iter().any(|known| known.name == **pool)
    };
    pools.filter(is_address).map(str::to_owned).take(ADDRESSES_MAX).collect()
}

fn is_ip_and_port(text: &str) -> bool {
    ip_and_port(text).is_some()
}

fn ip_and_port(text: &str) -> Option<(IpAddr, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).parse().ok()?, port.parse().ok()?))
}

/// A listening socket and the user it belongs to, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listening {
    inode: u64,
    uid: Option<u32>,
}

type Found = (BTreeMap<String, Holder>, BTreeMap<String, u64>);

/// An error says that it cannot be told: then what was known stays.
fn look(
    lists: &mut Lists,
    proc: &Path,
    root: &Path,
    addresses: &BTreeSet<String>,
    mut holders: BTreeMap<String, Holder>,
    unknown: &BTreeMap<String, u64>,
) -> io::Result<Found> {
    holders.retain(|address, _| addresses.contains(address));
    let listening = listening(lists, root, addresses)?;
    let mut still_unknown = unknown.clone();
    still_unknown.retain(|address, inode| {
        listening.get(address.as_str()).is_some_and(|socket| socket.inode == *inode)
    });
    let mut wanted: BTreeMap<&str, Listening> = listening;
    wanted.retain(|address, socket| {
        holders.get(*address).is_none_or(|holder| holder.inode != socket.inode)
            && !still_unknown.contains_key(*address)
    });
    if wanted.is_empty() {
        return Ok((holders, still_unknown));
    }
    let pids = pids(proc);
    let mut found = by_socket(proc, &pids, &wanted);
    wanted.retain(|address, _| !found.contains_key(*address));
    found.extend(by_user(proc, &pids, &wanted));
    for (address, socket) in wanted {
        if !found.contains_key(address) {
            still_unknown.insert(address.to_owned(), socket.inode);
        }
    }
    holders.extend(found);
    Ok((holders, still_unknown))
}

/// Listening sockets of these addresses, from the kernel's lists.
fn listening<'a>(
    lists: &mut Lists,
    root: &Path,
    addresses: &'a BTreeSet<String>,
) -> io::Result<BTreeMap<&'a str, Listening>> {
    let ports: Vec<(&str, (IpAddr, u16))> =
        addresses.iter().filter_map(|text| Some((text.as_str(), ip_and_port(text)?))).collect();
    let paths: Vec<(&str, PathBuf)> = addresses
        .iter()
        .filter(|text| text.starts_with('/'))
        .map(|text| (text.as_str(), root.join(text.trim_start_matches('/'))))
        .collect();
    let numbers = || ports.iter().map(|(_, (_, port))| *port);
    let wanted = Wanted {
        listening_only: true,
        unix: !paths.is_empty(),
        ports: numbers().min().zip(numbers().max()).map(|(least, most)| least..=most),
        families: [true; 2],
    };
    let note = |found: &mut BTreeMap<&'a str, Option<Listening>>, name: Name<'_>, seen: Seen| {
        let is_doubtful = match seen.state {
            State::Listens { .. } if seen.inode > 0 => false,
            State::Doubtful => true,
            _ => return,
        };
        match name {
            Name::Tcp(ip, port) => {
                let is_it =
                    |(of, at): &(IpAddr, u16)| *at == port && (*of == ip || ip.is_unspecified());
                for (address, _) in ports.iter().filter(|(_, wanted)| is_it(wanted)) {
                    let socket = Listening { inode: seen.inode, uid: seen.uid };
                    found.entry(address).or_insert(Some(socket));
                }
            }
            Name::Unix(path) => {
                let is_it = |(wanted, below): &&(&str, PathBuf)| {
                    wanted.as_bytes() == path || below.as_os_str().as_bytes() == path
                };
                if let Some((wanted, _)) = paths.iter().find(is_it) {
                    let path = Path::new(OsStr::from_bytes(path));
                    let uid = fs::symlink_metadata(path).map(|meta| meta.uid()).ok();
                    let socket = Some(Listening { inode: seen.inode, uid });
                    let known = found.entry(wanted).or_insert(socket);
                    *known = known.filter(|_| !is_doubtful); // for good
                }
            }
        }
    };
    let found = lists.look(&wanted, clock::instant(), BTreeMap::new, note)?;
    Ok(found.into_iter().filter_map(|(address, socket)| Some((address, socket?))).collect())
}

fn pids(proc: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let pid_of = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let mut pids: Vec<u32> = entries.flatten().filter_map(pid_of).take(PROCESSES_MAX).collect();
    pids.sort_unstable();
    pids
}

/// By the sockets that each process holds, the first process first: workers inherit their master's.
fn by_socket(
    proc: &Path,
    pids: &[u32],
    wanted: &BTreeMap<&str, Listening>,
) -> BTreeMap<String, Holder> {
    let mut found = BTreeMap::new();
    let mut n_links = 0;
    for &pid in pids {
        if found.len() == wanted.len() || n_links >= LINKS_MAX {
            break;
        }
        // Refused for processes of other users.
        let Ok(entries) = fs::read_dir(proc.join(format!("{pid}/fd"))) else { continue };
        for entry in entries.flatten() {
            n_links += 1;
            let Ok(link) = fs::read_link(entry.path()) else { continue };
            let Some(inode) = socket_inode(&link.to_string_lossy()) else { continue };
            for (address, _) in wanted.iter().filter(|(_, socket)| socket.inode == inode) {
                found.entry((*address).to_owned()).or_insert_with(|| holder(proc, pid, inode));
            }
        }
    }
    found
}

/// `socket:[31337]`
fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// By command lines that name the address, among processes of the socket's user; else the only unit
/// that this user has.
fn by_user(
    proc: &Path,
    pids: &[u32],
    wanted: &BTreeMap<&str, Listening>,
) -> BTreeMap<String, Holder> {
    let mut found: BTreeMap<String, (Named, Holder)> = BTreeMap::new();
    let users: BTreeSet<u32> = wanted.values().filter_map(|socket| socket.uid).collect();
    let mut units: BTreeMap<u32, BTreeMap<String, u32>> = BTreeMap::new();
    for &pid in pids.iter().filter(|_| !users.is_empty()) {
        let dir = proc.join(pid.to_string());
        let Some(uid) = fs::metadata(&dir).ok().map(|meta| meta.uid()) else { continue };
        if !users.contains(&uid) {
            continue;
        }
        let cmdline = read_head(&dir.join("cmdline"), CMDLINE_BYTES_MAX).replace('\0', " ");
        for (address, socket) in wanted.iter().filter(|(_, socket)| socket.uid == Some(uid)) {
            let Some(named) = names_address(&cmdline, address) else { continue };
            if found.get(*address).is_none_or(|(best, _)| named > *best) {
                found.insert((*address).to_owned(), (named, holder(proc, pid, socket.inode)));
            }
        }
        if uid != 0
            && let Some(unit) = unit_of(proc, pid)
        {
            units.entry(uid).or_default().entry(unit).or_insert(pid);
        }
    }
    for (address, socket) in wanted {
        let of_user = socket.uid.and_then(|uid| units.get(&uid));
        let only = of_user.filter(|units| units.len() == 1);
        if let Some(pid) = only.and_then(|units| units.values().next())
            && !found.contains_key(*address)
        {
            found.insert((*address).to_owned(), (Named::Port, holder(proc, *pid, socket.inode)));
        }
    }
    found.into_iter().map(|(address, (_, holder))| (address, holder)).collect()
}

/// How well a command line names an address. The same port is in use on several addresses of one
/// machine, so one that names the address too goes before one that names the port alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Port,
    Whole,
}

/// `gunicorn -b 127.0.0.1:8000`, `node app --port=3000`, `uwsgi --socket /run/app.sock`.
fn names_address(cmdline: &str, address: &str) -> Option<Named> {
    let Some((ip, port)) = ip_and_port(address) else {
        return has_word(cmdline, address, true).then_some(Named::Whole);
    };
    let has_ip = || cmdline.contains(&ip.to_string());
    let named = has_word(cmdline, &port.to_string(), false);
    named.then(|| if has_ip() { Named::Whole } else { Named::Port })
}

fn has_word(cmdline: &str, word: &str, is_path: bool) -> bool {
    cmdline.match_indices(word).any(|(at, _)| {
        let before = cmdline[..at].chars().next_back();
        let after = cmdline[at + word.len()..].chars().next();
        let ends = after.is_none_or(|c| matches!(c, ' ' | ')' | '/' | ',' | ';' | '\'' | '"'));
        let begins = before.is_none_or(|c| matches!(c, ':' | '=' | ' ' | '\'' | '"'));
        ends && (begins || is_path)
    })
}

fn holder(proc: &Path, pid: u32, inode: u64) -> Holder {
    let process = read_head(&proc.join(format!("{pid}/comm")), 64).trim_end().to_owned();
    Holder { unit: unit_of(proc, pid), process, pid, inode }
}

/// The unit a process belongs to.
fn unit_of(proc: &Path, pid: u32) -> Option<String> {
    unit_of_cgroup(&read_head(&proc.join(format!("{pid}/cgroup")), 16 << 10))
}

/// `0::/system.slice/my-app.service`, `1:name=systemd:/system.slice/docker-0f.scope`. A unit of the
/// service manager of a user is that manager to us; a unit inside a container is none of ours.
fn unit_of_cgroup(text: &str) -> Option<String> {
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if !matches!(controllers, "" | "name=systemd") {
            return None;
        }
        let unit = path.split('/').find(|part| !part.is_empty() && !is_type(part, "slice"))?;
        let is_unit = is_type(unit, "service") || is_type(unit, "scope");
        let by_hand = unit == "init.scope" || unit.starts_with("session-");
        // systemd puts `_` before a name that the kernel would take for a file of its own.
        (is_unit && !by_hand).then(|| unit.strip_prefix('_').unwrap_or(unit).to_owned())
    };
    text.lines().find_map(of_line)
}

/// The first bytes of a file as text; empty when it cannot be read.
fn read_head(path: &Path, bytes_max: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{Pool, Site};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    #[test]
    fn units_are_read_from_cgroups_of_old_and_new_kernels() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(unit_of_cgroup(text).as_deref(), want, "{text}");
        };
        check("0::/system.slice/my-app.service\n", Some("my-app.service"));
        check("0::/system.slice/my-app.service/supervised\n", Some("my-app.service"));
        check("0::/system.slice/system-app.slice/app@1.service", Some("app@1.service"));
        check(r"0::/system.slice/my\x2dapp.service", Some(r"my\x2dapp.service"));
        check("0::/system.slice/_memory.service", Some("memory.service"));
        check("0::/system.slice/docker-0f3a.scope", Some("docker-0f3a.scope"));
        check("0::/machine.slice/libpod-0f3a.scope/container", Some("libpod-0f3a.scope"));
        check(
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/pm2.service",
            Some("user@1000.service"),
        );
        check("0::/user.slice/user-1000.slice/session-3.scope", None);
        check("0::/init.scope", None);
        check("0::/docker/0f3a", None);
        check("0::/lxc/100/system.slice/nginx.service", None);
        check("0::/", None);
        // EL7.
        check(
            "11:memory:/system.slice/my-app.service\n4:cpuacct,cpu:/\n\
             1:name=systemd:/system.slice/my-app.service\n",
            Some("my-app.service"),
        );
        check("11:memory:/system.slice/other.service\n1:name=systemd:/\n", None);
        for broken in ["", ":", "::", "0::", "1:name=systemd", "x\ny:z"] {
            check(broken, None);
        }
    }

    #[test]
    fn command_lines_name_addresses() {
        let check = |cmdline: &str, address: &str, want: Option<Named>| {
            assert_eq!(names_address(cmdline, address), want, "{cmdline} at {address}");
        };
        check("gunicorn: master [app] -b 127.0.0.1:8000", "127.0.0.1:8000", Some(Named::Whole));
        check("node server.js --port=3000", "127.0.0.1:3000", Some(Named::Port));
        check("node server.js 3000", "[::1]:3000", Some(Named::Port));
        check("puma 5.6.5 (tcp://0.0.0.0:3000) [shop]", "127.0.0.1:3000", Some(Named::Port));
        check("node server.js --port=30001", "127.0.0.1:3000", None);
        check("node server.js --id=a3000", "127.0.0.1:3000", None);
        check("node /srv/v1.3000.js", "127.0.0.1:3000", None);
        check("uwsgi --socket /run/app.sock --master", "/run/app.sock", Some(Named::Whole));
        check("gunicorn --bind unix:/run/app.sock app:app", "/run/app.sock", Some(Named::Whole));
        check("gunicorn --bind unix:/run/app.sock2", "/run/app.sock", None);
        check("", "/run/app.sock", None);
    }

    #[test]
    fn this_process_is_found_by_its_sockets_and_stays_known_when_they_are_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (tcp, unix) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let address = tcp.local_addr().unwrap().to_string();
        let site = |pool: &str| Site { pool: Some(pool.into()), ..Site::default() };
        let discovery = Discovery {
            sites: vec![
                site(&address),
                site(&address),
                site("/a.sock"),
                site("www"),
                site("/run/nobody.sock"),
                site("/run/php.sock"),
            ],
            pools: vec![Pool { name: "/run/php.sock".into(), ..Pool::default() }],
            ..Discovery::default()
        };
        let wanted = addresses(&discovery);
        assert_eq!(wanted.len(), 3, "{wanted:?}");
        let look = |before, unknown: &_| {
            let (mut lists, proc) = (Lists::default(), Path::new("/proc"));
            look(&mut lists, proc, dir.path(), &wanted, before, unknown).unwrap()
        };
        let (holders, unknown) = look(BTreeMap::new(), &BTreeMap::new());
        assert!(unknown.is_empty(), "{unknown:?}");
        let pids: Vec<_> = holders.values().map(|holder| holder.pid).collect();
        assert_eq!(pids, [std::process::id(); 2], "{holders:?}");
        drop((tcp, unix));
        assert_eq!(look(holders.clone(), &unknown).0, holders);
    }

    #[test]
    fn without_the_right_to_see_sockets_the_users_processes_tell() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let uid = fs::metadata(proc).unwrap().uid();
        let process = |pid: u32, cmdline: &str, cgroup: &str| {
            let at = proc.join(pid.to_string());
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("comm"), "node\n").unwrap();
            fs::write(at.join("cmdline"), cmdline.replace(' ', "\0")).unwrap();
            fs::write(at.join("cgroup"), cgroup).unwrap();
        };
        process(7, "node a.js --port 3000", "0::/system.slice/a.service\n");
        process(8, "node b.js", "0::/system.slice/b.service\n");
        let socket = Listening { inode: 5, uid: Some(uid) };
        let wanted = BTreeMap::from([("127.0.0.1:3000", socket), ("127.0.0.1:4000", socket)]);
        let found = by_user(proc, &pids(proc), &wanted);
        let unit = |found: &BTreeMap<String, Holder>, address: &str| {
            found.get(address).and_then(|holder| holder.unit.clone())
        };
        assert_eq!(unit(&found, "127.0.0.1:3000").as_deref(), Some("a.service"));
        assert_eq!(unit(&found, "127.0.0.1:4000"), None, "two units of one user");
        fs::remove_dir_all(proc.join("7")).unwrap();
        let found = by_user(proc, &pids(proc), &wanted);
        // Everything belongs to root: the only unit of root is no hint.
        let want = (uid != 0).then_some("b.service");
        assert_eq!(unit(&found, "127.0.0.1:4000").as_deref(), want);
        let other = Listening { inode: 5, uid: Some(uid + 1) };
        assert!(
            by_user(proc, &pids(proc), &BTreeMap::from([("127.0.0.1:3000", other)])).is_empty()
        );
    }

    #[test]
    fn of_two_applications_on_one_port_the_one_that_names_the_address_answers_there() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let uid = fs::metadata(proc).unwrap().uid();
        for (pid, ip) in [(7, "127.0.0.8"), (8, "127.0.0.9")] {
            let at = proc.join(pid.to_string());
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("cmdline"), format!("python3\0app.py\0{ip}\x003000")).unwrap();
            fs::write(at.join("cgroup"), format!("0::/system.slice/{pid}.service\n")).unwrap();
        }
        let socket = Listening { inode: 5, uid: Some(uid) };
        let wanted = BTreeMap::from([("127.0.0.8:3000", socket), ("127.0.0.9:3000", socket)]);
        let found = by_user(proc, &pids(proc), &wanted);
        let found: Vec<_> = found.values().map(|holder| holder.pid).collect();
        assert_eq!(found, [7, 8]);
    }

    #[test]
    fn a_unit_serves_an_address_only_when_it_is_one_alone_and_containers_bring_their_runner() {
        let holder = |unit: &str| Holder { unit: Some(unit.into()), ..Holder::default() };
        let holders = [
            ("127.0.0.1:1", holder("a.service")),
            ("127.0.0.1:2", holder("b.service")),
            ("127.0.0.1:3", holder("b.service")),
            ("127.0.0.1:4", Holder::default()),
        ];
        let mut upstreams = Upstreams {
            holders: holders.map(|(address, holder)| (address.to_owned(), holder)).into(),
            ..Upstreams::default()
        };
        assert_eq!(upstreams.address_of("a.service").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(upstreams.address_of("b.service"), None);
        assert_eq!(upstreams.units().collect::<Vec<_>>(), ["a.service", "b.service"]);
        upstreams.holders.insert("127.0.0.1:5".into(), holder("docker-0f.scope"));
        assert!(upstreams.units().any(|unit| unit == "docker.service"));
    }
}
