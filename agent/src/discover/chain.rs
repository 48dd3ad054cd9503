//! Who stands in front of whom: vhosts whose backend is another vhost of this machine.
//!
//! One request is counted once, in the front-most log that can be read and tells its site. So a
//! vhost counts as inner when such a log lies on the way to it, over however many steps.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::discover::found::Vhost;
use crate::logs::sites::listen_address;

/// Backends of one vhost that are looked at: a group may have hundreds of members.
const BACKENDS_MAX: usize = 32;
/// Edges altogether. A front without a name leads to every vhost behind it.
const EDGES_MAX: usize = 200_000;
/// Steps from a front to who answers in the end.
const STEPS_MAX: u32 = 8;

/// Where a server listens, or whom it asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Address {
    /// No address: all of the machine's.
    Port(Option<IpAddr>, u16),
    Socket(String),
}

/// The vhosts of all servers as a graph.
#[derive(Debug)]
pub(super) struct Chain {
    /// By vhost: each backend with the vhosts it leads to, in the order of the backends.
    next: Vec<Vec<(String, Vec<usize>)>>,
    /// A front with a log that counts stands before it.
    inner: Vec<bool>,
    /// By vhost: its names that are one host each, in lower case and sorted.
    names: Vec<Vec<String>>,
}

impl Chain {
    /// `own` are the machine's addresses beside loopback.
    pub(super) fn new(vhosts: &[Vhost], own: &[IpAddr]) -> Self {
        let plain = |vhost: &Vhost| {
            let mut names: Vec<String> = vhost.names.iter().map(|n| n.to_lowercase()).collect();
            names.retain(|name| is_plain(name));
            names.sort_unstable();
            names.dedup();
            names
        };
        let names: Vec<Vec<String>> = vhosts.iter().map(plain).collect();
        let listeners = Listeners::new(vhosts, &names, own);
        let mut n_edges = 0;
        let mut next = Vec::with_capacity(vhosts.len());
        for (ix, vhost) in vhosts.iter().enumerate() {
            let mut edges = Vec::new();
            for backend in vhost.backends.iter().take(BACKENDS_MAX) {
                let mut behind = listeners.behind(&names, ix, backend);
                behind.truncate(EDGES_MAX - n_edges);
                n_edges += behind.len();
                edges.push((backend.clone(), behind));
            }
            next.push(edges);
        }
        Self { next, inner: vec![false; vhosts.len()], names }
    }

    /// `counts[ix]` tells that the vhost has a log that is read and tells its sites: what stands
    /// behind it is inner.
    pub(super) fn mark_inner(&mut self, counts: &[bool]) {
        for (ix, counts) in counts.iter().enumerate() {
            // What is behind an inner one is marked already, unless both ask each other.
            if *counts && !self.inner[ix] {
                self.mark_behind(ix);
            }
        }
    }

    fn mark_behind(&mut self, front: usize) {
        let mut seen = BTreeSet::from([front]);
        let mut queue = VecDeque::from([front]);
        while let Some(ix) = queue.pop_front() {
            for behind in self.next[ix].iter().flat_map(|(_, behind)| behind) {
                // A step without names in between must not lose those of the front.
                let is_on_the_way = self.names[ix].is_empty() && ix != front;
                if is_on_the_way && !share(&self.names[front], &self.names[*behind]) {
                    continue;
                }
                if seen.insert(*behind) {
                    self.inner[*behind] = true;
                    queue.push_back(*behind);
                }
            }
        }
    }

    pub(super) fn is_inner(&self, ix: usize) -> bool {
        self.inner[ix]
    }

    /// The vhosts right behind one.
    pub(super) fn behind(&self, ix: usize) -> impl Iterator<Item = usize> + '_ {
        self.next[ix].iter().flat_map(|(_, behind)| behind).copied()
    }

    /// True when every backend of a vhost is another vhost of this machine.
    pub(super) fn leads_only_on(&self, ix: usize) -> bool {
        let edges = &self.next[ix];
        !edges.is_empty() && edges.iter().all(|(_, behind)| !behind.is_empty())
    }

    /// The address that answers in the end for a vhost: the innermost server's.
    pub(super) fn answers(&self, ix: usize) -> Option<&str> {
        self.answers_after(ix, ix, 0)
    }

    fn answers_after(&self, front: usize, ix: usize, n_steps: u32) -> Option<&str> {
        // What is no server of ours is where the way ends; a script's interpreter comes first.
        let (backend, behind) = self.next[ix].first()?;
        let fits = |behind: &&usize| share(&self.names[front], &self.names[**behind]);
        let further = behind.iter().find(fits).or(behind.first()).filter(|_| n_steps < STEPS_MAX);
        let further = further.and_then(|ix| self.answers_after(front, *ix, n_steps + 1));
        further.or(Some(backend))
    }
}

/// True when a request for a name of one may be for a name of the other.
fn share(front: &[String], behind: &[String]) -> bool {
    front.is_empty()
        || behind.is_empty()
        || front.iter().any(|name| behind.binary_search(name).is_ok())
}

/// True for a name that is one host.
fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "_" | "-" | "\"\"")
        && !name.contains(['*', '~', '$'])
        && !name.starts_with('.')
}

/// Which vhosts listen where.
struct Listeners {
    by_address: HashMap<Address, Vec<usize>>,
    /// The port, then the name.
    by_name: HashMap<(u16, String), Vec<usize>>,
    own: BTreeSet<IpAddr>,
}

impl Listeners {
    fn new(vhosts: &[Vhost], names: &[Vec<String>], own: &[IpAddr]) -> Self {
        let mut listeners = Self {
            by_address: HashMap::new(),
            by_name: HashMap::new(),
            own: own.iter().copied().collect(),
        };
        for (ix, vhost) in vhosts.iter().enumerate() {
            let addresses: BTreeSet<Address> =
                vhost.listen.iter().filter_map(|text| address(text)).collect();
            let mut ports = BTreeSet::new();
            for address in addresses {
                if let Address::Port(ip, port) = address {
                    // Nobody can listen on the address of another machine.
                    listeners.own.extend(ip);
                    ports.insert(port);
                }
                listeners.by_address.entry(address).or_default().push(ix);
            }
            for name in &names[ix] {
                for port in &ports {
                    let key = (*port, name.clone());
                    let same = listeners.by_name.entry(key).or_default();
                    if same.last() != Some(&ix) {
                        same.push(ix);
                    }
                }
            }
        }
        listeners
    }

    /// The vhosts that get the requests which a vhost passes to an address.
    fn behind(&self, names: &[Vec<String>], front: usize, backend: &str) -> Vec<usize> {
        let Some(wanted) = address(backend) else { return Vec::new() };
        let (exact, everywhere) = match &wanted {
            Address::Port(ip, port) => {
                if ip.is_some_and(|ip| !ip.is_loopback() && !self.own.contains(&ip)) {
                    return Vec::new();
                }
                (self.of(&wanted), self.of(&Address::Port(None, *port)))
            }
            Address::Socket(_) => (self.of(&wanted), &[][..]),
        };
        let listens = |ix: &usize| {
            *ix != front
                && (exact.binary_search(ix).is_ok() || everywhere.binary_search(ix).is_ok())
        };
        let all = || exact.iter().chain(everywhere).copied().filter(|ix| *ix != front);
        if names[front].is_empty() {
            return all().collect();
        }
        let mut found: Vec<usize> = Vec::new();
        if let Address::Port(_, port) = wanted {
            for name in &names[front] {
                let same = self.by_name.get(&(port, name.clone()));
                found.extend(same.into_iter().flatten().copied().filter(listens));
            }
        } else {
            found.extend(all().filter(|ix| share(&names[front], &names[*ix])));
        }
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            // No vhost has the name: the one without any takes it, else the first.
            let nameless = all().find(|ix| names[*ix].is_empty());
            found.extend(nameless.or_else(|| all().next()));
        }
        found
    }

    fn of(&self, address: &Address) -> &[usize] {
        self.by_address.get(address).map_or(&[], Vec::as_slice)
    }
}

/// `80`, `:80`, `*:80`, `_default_:80`, `127.0.0.1:80`, `[::]:80`, `localhost:80`, `unix:/a`, `/a`.
/// A name other than localhost is no address of this machine that we could know.
fn address(text: &str) -> Option<Address> {
    let text = listen_address(text);
    if text.starts_with(['/', '@']) {
        return Some(Address::Socket(text));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", &text));
    let port = port.parse().ok()?;
    let ip = match host.trim_matches(['[', ']']) {
        "" | "*" | "_default_" | "0.0.0.0" | "::" => None,
        "ip6-localhost" => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        host => match host.parse::<IpAddr>().ok()? {
            // Whoever listens on one loopback address is asked by it, or by `localhost`.
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ip => Some(ip),
        },
    };
    Some(Address::Port(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::found::Server;

    /// `name listen>backend`, a vhost each; a leading `-` means its log does not count.
    fn chain(vhosts: &[&str]) -> (Chain, Vec<Vhost>) {
        let mut counts = Vec::new();
        let parsed: Vec<Vhost> = vhosts
            .iter()
            .map(|text| {
                counts.push(!text.starts_with('-'));
                let (names, rest) = text.trim_start_matches('-').split_once(' ').unwrap();
                let (listen, backends) = rest.split_once('>').unwrap_or((rest, ""));
                let mut vhost = Vhost::new(Server::Nginx, String::new());
                let list = |text: &str| -> Vec<String> {
                    text.split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect()
                };
                vhost.names = list(names);
                vhost.listen = list(listen);
                vhost.backends = list(backends);
                vhost
            })
            .collect();
        let own = ["192.0.2.1".parse().unwrap()];
        let mut chain = Chain::new(&parsed, &own);
        chain.mark_inner(&counts);
        (chain, parsed)
    }

    #[test]
    fn a_vhost_behind_a_log_that_counts_is_inner_over_any_number_of_steps() {
        for (about, vhosts, inner) in [
            ("alone", &["a 80>127.0.0.1:3000"][..], &[][..]),
            ("two", &["a 80>127.0.0.1:8080", "a 8080"], &[1]),
            ("listener with an address", &["a 80>localhost:8080", "a 127.0.0.1:8080"], &[1]),
            ("another address", &["a 80>127.0.0.1:8080", "a 192.0.2.1:8080"], &[]),
            ("own address", &["a 80>192.0.2.1:8080", "a *:8080"], &[1]),
            ("another machine", &["a 80>198.51.100.1:8080", "a *:8080"], &[]),
            ("the name decides", &["a 80>[::1]:81", "b *:81", "a,c *:81"], &[2]),
            ("no such name", &["x 80>127.0.0.1:81", "b *:81", "c *:81"], &[1]),
            ("the nameless one", &["x 80>127.0.0.1:81", "b *:81", "_ *:81"], &[2]),
            ("front without name", &["_ 80>127.0.0.1:81", "b *:81", "c *:81"], &[1, 2]),
            ("socket", &["a 80>unix:/var/run/x", "a unix:/run/x"], &[1]),
            ("log does not count", &["-a 80>127.0.0.1:81", "a 81"], &[]),
            (
                "four in a row",
                &["a 80>127.0.0.1:81", "-_ 81>127.0.0.1:82", "a 82>127.0.0.1:83", "a 83"],
                &[1, 2, 3],
            ),
            (
                "names outlast a step without",
                &[",a 80>127.0.0.1:81", ", 81>127.0.0.1:82", "a 82", "b 82"],
                &[1, 2],
            ),
            (
                "the first does not count",
                &["-_ 80>127.0.0.1:81", "a 81>127.0.0.1:82", "a 82"],
                &[2],
            ),
            ("a circle", &["a 80>127.0.0.1:81", "a 81>127.0.0.1:80"], &[1]),
            ("itself", &["a 80>127.0.0.1:80"], &[]),
        ] {
            let (chain, vhosts) = chain(vhosts);
            let found: Vec<usize> = (0..vhosts.len()).filter(|ix| chain.is_inner(*ix)).collect();
            assert_eq!(found, inner, "{about}");
        }
    }

    #[test]
    fn the_innermost_server_knows_who_answers() {
        let (chain, _) = chain(&[
            "a 80>127.0.0.1:81",
            "- 81>127.0.0.1:82",
            "a 82>/run/php.sock,127.0.0.1:9",
            "b 80>127.0.0.1:83",
            "b 83",
            "c 90>127.0.0.1:91",
            "c 91>127.0.0.1:90",
            "d 80>127.0.0.1:61",
            ", 61>127.0.0.1:62",
            "x 62>/run/x.sock",
            "d 62>/run/d.sock",
        ]);
        assert_eq!(chain.answers(0), Some("/run/php.sock"));
        assert_eq!(chain.answers(3), Some("127.0.0.1:83"), "modules of the server itself");
        assert_eq!(chain.answers(4), None);
        assert_eq!(chain.answers(7), Some("/run/d.sock"), "names outlast a step without");
        assert!(chain.answers(5).is_some(), "a circle ends");
        assert!(chain.leads_only_on(0) && !chain.leads_only_on(2) && !chain.leads_only_on(4));
    }
}
