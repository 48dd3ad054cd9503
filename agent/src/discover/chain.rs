//! Who stands in front of whom: vhosts whose backend is another vhost of this machine.
//!
//! One request is counted once, in the front-most log that can be read and tells its site. So a
//! vhost counts as inner when such a log lies on the way to it, over however many steps.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::discover::found::{Server, Vhost};
use crate::discover::host_names::{HostNames, suffixes_of};
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

/// What the access logs of a vhost make of it, as a front of others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Front {
    /// A log of it is read and tells its site.
    pub(super) counts: bool,
    /// The same once that log is there: nothing has written it yet, or it is gone.
    pub(super) may_count: bool,
    /// That log names the host of each request, so that it counts other sites too.
    pub(super) names_hosts: bool,
    /// A log of it, whichever, is there and may be read.
    pub(super) is_read: bool,
}

/// The vhosts of all servers as a graph.
#[derive(Debug)]
pub(super) struct Chain {
    /// By vhost: each backend with the vhosts it leads to, in the order of the backends.
    next: Vec<Vec<(String, Vec<usize>)>>,
    /// By vhost: further ones it leads to because it takes the hosts that no other vhost of its
    /// address names.
    strays: Vec<Vec<usize>>,
    /// A front with a log that counts stands before it.
    inner: Vec<bool>,
    names: Vec<HostNames>,
    /// By vhost: backends that it logs no requests to.
    unlogged: Vec<Vec<String>>,
}

impl Chain {
    /// `own` are the machine's addresses beside loopback.
    pub(super) fn new(vhosts: &[Vhost], own: &[IpAddr]) -> Self {
        let names: Vec<HostNames> = vhosts.iter().map(|v| HostNames::new(&v.names)).collect();
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
        // Only now, so that no vhost loses its own edges for them.
        let mut strays = vec![Vec::new(); vhosts.len()];
        for (ix, addresses) in listeners.defaults(vhosts) {
            if names[ix].is_any() || n_edges >= EDGES_MAX {
                continue;
            }
            let logged =
                |(backend, _): &&(String, Vec<usize>)| !vhosts[ix].unlogged.contains(backend);
            for (backend, behind) in next[ix].iter().filter(logged) {
                let further = listeners.strays(&names, ix, &addresses, backend);
                strays[ix].extend(further.into_iter().filter(|further| !behind.contains(further)));
            }
            strays[ix].truncate(EDGES_MAX - n_edges);
            n_edges += strays[ix].len();
        }
        let unlogged = vhosts.iter().map(|vhost| vhost.unlogged.clone()).collect();
        Self { next, strays, inner: vec![false; vhosts.len()], names, unlogged }
    }

    /// What stands behind a front that counts it is inner. `sites` are the names of the vhosts' sites.
    ///
    /// A front whose log is not there yet hides only what is not read either.
    pub(super) fn mark_inner(&mut self, fronts: &[Front], sites: &[&str]) {
        for (ix, front) in fronts.iter().enumerate() {
            // What is behind an inner one is marked already, unless both ask each other.
            if front.counts && !self.inner[ix] {
                for behind in self.all_behind(ix, front.names_hosts, sites) {
                    self.inner[behind] = true;
                }
            }
        }
        for (ix, front) in fronts.iter().enumerate() {
            if front.may_count && !front.counts && !self.inner[ix] {
                for behind in self.all_behind(ix, front.names_hosts, sites) {
                    self.inner[behind] |= !fronts[behind].is_read;
                }
            }
        }
    }

    /// The vhosts whose requests the log of a front counts, over any number of steps.
    pub(super) fn all_behind(
        &self,
        front: usize,
        names_hosts: bool,
        sites: &[&str],
    ) -> BTreeSet<usize> {
        let mut seen = BTreeSet::from([front]);
        let mut queue = VecDeque::from([front]);
        while let Some(ix) = queue.pop_front() {
            let mut found = Vec::new();
            for (backend, edge) in &self.next[ix] {
                if ix == front && self.unlogged[ix].contains(backend) {
                    continue;
                }
                if names_hosts {
                    found.extend(edge);
                } else {
                    found.extend(self.of_site(front, edge, sites));
                }
            }
            if ix != front || names_hosts {
                let is_ours = |behind: &&usize| self.names[front].share(&self.names[**behind]);
                found.extend(self.strays[ix].iter().filter(|b| ix == front || is_ours(b)));
            }
            for behind in found {
                // A step without names in between must not lose those of the front.
                let is_on_the_way = self.names[ix].is_any() && ix != front;
                if is_on_the_way && !self.names[front].share(&self.names[behind]) {
                    continue;
                }
                if seen.insert(behind) {
                    queue.push_back(behind);
                }
            }
        }
        seen.remove(&front);
        seen
    }

    /// Of the vhosts behind one backend those that get the requests for the site of a front, whose
    /// log takes all requests for that site.
    fn of_site(&self, front: usize, edge: &[usize], sites: &[&str]) -> Vec<usize> {
        let site = sites[front];
        let takes = |ix: &usize| sites[*ix] == site || self.names[*ix].takes(site);
        let is_known = edge.iter().any(takes);
        let is_one = edge.len() == 1;
        let is_named = !self.names[front].is_any();
        let first = edge.first().copied().filter(|_| !is_known && is_named);
        let gets = |ix: &usize| {
            is_one || takes(ix) || self.names[*ix].is_any() || first.is_some_and(|f| f == *ix)
        };
        edge.iter().copied().filter(gets).collect()
    }

    /// True when a vhost passes requests for other sites to vhosts of this machine.
    pub(super) fn hands_on_others(&self, ix: usize, sites: &[&str]) -> bool {
        let other =
            |behind: &&usize| !self.names[**behind].is_any() && sites[**behind] != sites[ix];
        let edges = self.next[ix].iter().filter(|(_, edge)| edge.len() > 1);
        let mut behind = edges.flat_map(|(_, edge)| edge).chain(&self.strays[ix]);
        behind.any(|behind| other(&behind))
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
        let fits = |behind: &&usize| self.names[front].share(&self.names[**behind]);
        let further = behind.iter().find(fits).or(behind.first()).filter(|_| n_steps < STEPS_MAX);
        let further = further.and_then(|ix| self.answers_after(front, *ix, n_steps + 1));
        further.or(Some(backend))
    }
}

/// Which vhosts listen where.
struct Listeners {
    /// By vhost.
    addresses: Vec<BTreeSet<Address>>,
    by_address: HashMap<Address, Vec<usize>>,
    /// The socket, or the port on all addresses; then the name.
    by_name: HashMap<(Address, String), Vec<usize>>,
    /// The same for `.a.example` of `*.a.example`.
    by_suffix: HashMap<(Address, String), Vec<usize>>,
    own: BTreeSet<IpAddr>,
}

impl Listeners {
    fn new(vhosts: &[Vhost], names: &[HostNames], own: &[IpAddr]) -> Self {
        let mut listeners = Self {
            addresses: Vec::with_capacity(vhosts.len()),
            by_address: HashMap::new(),
            by_name: HashMap::new(),
            by_suffix: HashMap::new(),
            own: own.iter().copied().collect(),
        };
        for (ix, vhost) in vhosts.iter().enumerate() {
            let addresses: BTreeSet<Address> =
                vhost.listen.iter().filter_map(|text| address(text)).collect();
            let mut places = BTreeSet::new();
            for address in &addresses {
                if let Address::Port(ip, _) = address {
                    // Nobody can listen on the address of another machine.
                    listeners.own.extend(*ip);
                }
                places.insert(everywhere(address));
                listeners.by_address.entry(address.clone()).or_default().push(ix);
            }
            listeners.addresses.push(addresses);
            for place in &places {
                for name in &names[ix].exact {
                    listeners.by_name.entry((place.clone(), name.clone())).or_default().push(ix);
                }
                for suffix in &names[ix].suffixes {
                    let key = (place.clone(), suffix.clone());
                    listeners.by_suffix.entry(key).or_default().push(ix);
                }
            }
        }
        listeners
    }

    /// Those that listen on an address itself, and those on its port on all addresses; none when it
    /// is of another machine.
    fn at(&self, wanted: &Address) -> (&[usize], &[usize]) {
        let Address::Port(ip, port) = wanted else { return (self.of(wanted), &[]) };
        if ip.is_some_and(|ip| !ip.is_loopback() && !self.own.contains(&ip)) {
            return (&[], &[]);
        }
        (self.of(wanted), self.of(&Address::Port(None, *port)))
    }

    /// The vhosts that get the requests which a vhost passes to an address.
    fn behind(&self, names: &[HostNames], front: usize, backend: &str) -> Vec<usize> {
        let Some(wanted) = address(backend) else { return Vec::new() };
        let (exact, general) = self.at(&wanted);
        let listens = |ix: usize| {
            ix != front && (exact.binary_search(&ix).is_ok() || general.binary_search(&ix).is_ok())
        };
        let all = || exact.iter().chain(general).copied().filter(|ix| *ix != front);
        let mut found: Vec<usize> = Vec::new();
        if names[front].is_any() {
            found.extend(all());
        }
        let place = everywhere(&wanted);
        for name in &names[front].exact {
            found.extend(self.takers(&place, name, listens));
        }
        if names[front].has_wildcards() {
            let leads = |ix: &usize| {
                let own = |name: &String| {
                    names[front].takes_by_wildcard(name) && !self.is_named_beside(front, name)
                };
                let its = &names[*ix];
                its.exact.iter().any(own) || its.has_wildcards() && its.share(&names[front])
            };
            found.extend(all().filter(leads));
        }
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            // No vhost has the name: the one without any takes it, else the first.
            let nameless = all().find(|ix| names[*ix].is_any());
            found.extend(nameless.or_else(|| all().next()));
        }
        found
    }

    /// The vhosts of a port or socket that take a host: those that name it, else those with the
    /// longest wildcard that fits.
    fn takers(&self, place: &Address, host: &str, fits: impl Fn(usize) -> bool) -> Vec<usize> {
        let of = |map: &HashMap<(Address, String), Vec<usize>>, name: &str| -> Vec<usize> {
            let found = map.get(&(place.clone(), name.to_owned()));
            found.into_iter().flatten().copied().filter(|ix| fits(*ix)).collect()
        };
        let exact = of(&self.by_name, host);
        if !exact.is_empty() || self.by_suffix.is_empty() {
            return exact;
        }
        let by_suffix = suffixes_of(host).map(|suffix| of(&self.by_suffix, suffix));
        by_suffix.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// True for a host that another vhost names wherever this one listens, so that no wildcard of
    /// this one takes it.
    fn is_named_beside(&self, front: usize, host: &str) -> bool {
        self.addresses[front].iter().all(|address| {
            let others = self.by_name.get(&(everywhere(address), host.to_owned()));
            let beside = |ix: &usize| *ix != front && self.of(address).binary_search(ix).is_ok();
            others.into_iter().flatten().any(beside)
        })
    }

    /// The vhosts of nginx and Apache that take what no other one of their address names, and those
    /// addresses: the one that says so, else the first.
    fn defaults(&self, vhosts: &[Vhost]) -> BTreeMap<usize, Vec<Address>> {
        let mut defaults: BTreeMap<usize, Vec<Address>> = BTreeMap::new();
        for (at, all) in &self.by_address {
            let says_so = |ix: &&usize| {
                vhosts[**ix].default_at.iter().any(|listen| address(listen).as_ref() == Some(at))
            };
            let Some(ix) = all.iter().find(says_so).or(all.first()) else { continue };
            if matches!(vhosts[*ix].server, Server::Nginx | Server::Apache) {
                defaults.entry(*ix).or_default().push(at.clone());
            }
        }
        defaults
    }

    /// The vhosts behind a backend of a default vhost that get requests for hosts which no other
    /// vhost of its addresses names.
    fn strays(
        &self,
        names: &[HostNames],
        front: usize,
        addresses: &[Address],
        backend: &str,
    ) -> Vec<usize> {
        let Some(wanted) = address(backend) else { return Vec::new() };
        let (exact, general) = self.at(&wanted);
        let is_unnamed = |host: &str| {
            addresses.iter().any(|address| {
                let beside = |ix: usize| ix != front && self.of(address).binary_search(&ix).is_ok();
                self.takers(&everywhere(address), host, beside).is_empty()
            })
        };
        let leads = |ix: &usize| {
            let its = &names[*ix];
            *ix != front
                && (its.is_any()
                    || its.exact.iter().chain(&its.suffixes).any(|host| is_unnamed(host)))
        };
        exact.iter().chain(general).copied().filter(leads).collect()
    }

    fn of(&self, address: &Address) -> &[usize] {
        self.by_address.get(address).map_or(&[], Vec::as_slice)
    }
}

/// The socket, or the port on all addresses.
fn everywhere(address: &Address) -> Address {
    match address {
        Address::Port(_, port) => Address::Port(None, *port),
        Address::Socket(_) => address.clone(),
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

    /// `name listen>backend`, a vhost each; a leading `-` means its log does not count, `!` that it
    /// is not there, `=` that it names no host.
    fn chain(vhosts: &[&str]) -> (Chain, Vec<Vhost>) {
        let mut counts = Vec::new();
        let parsed: Vec<Vhost> = vhosts
            .iter()
            .map(|text| {
                counts.push(Front {
                    counts: !text.starts_with(['-', '!']),
                    may_count: !text.starts_with('-'),
                    names_hosts: !text.starts_with('='),
                    is_read: !text.starts_with('!'),
                });
                let (names, rest) =
                    text.trim_start_matches(['-', '!', '=']).split_once(' ').unwrap();
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
        let sites: Vec<&str> =
            parsed.iter().map(|v| v.names.first().map_or("default", String::as_str)).collect();
        chain.mark_inner(&counts, &sites);
        (chain, parsed)
    }

    fn check_inner(about: &str, vhosts: &[&str], inner: &[usize]) {
        let (chain, vhosts) = chain(vhosts);
        let found: Vec<usize> = (0..vhosts.len()).filter(|ix| chain.is_inner(*ix)).collect();
        assert_eq!(found, inner, "{about}");
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
            ("the name decides", &["x 80", "a 80>[::1]:81", "b *:81", "a,c *:81"], &[3]),
            ("no such name", &["d 80", "x 80>127.0.0.1:81", "b *:81", "c *:81"], &[2]),
            ("the nameless one", &["d 80", "x 80>127.0.0.1:81", "b *:81", "_ *:81"], &[3]),
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
            check_inner(about, vhosts, inner);
        }
    }

    #[test]
    fn default_servers_wildcards_and_logs_decide_what_a_front_counts() {
        for (about, vhosts, inner) in [
            (
                "the first takes any host",
                &["a 80>127.0.0.1:81", "a 81", "b 81", "c 81"][..],
                &[1, 2, 3][..],
            ),
            (
                "but not what another one names",
                &["a 80>127.0.0.1:81", "-b 80>127.0.0.1:81", "a 81", "b 81", "c 81"],
                &[2, 4],
            ),
            ("nor a second one", &["x 80", "a 80>127.0.0.1:81", "a 81", "b 81"], &[2]),
            (
                "a log without hosts counts its own site alone",
                &["=a 80>127.0.0.1:81", "a 81", "b 81"],
                &[1],
            ),
            ("whatever the only one behind is called", &["=a 80>127.0.0.1:81", "b 81"], &[1]),
            (
                "a wildcard",
                &["a.example,*.a.example 80>127.0.0.1:81", "b.a.example 81", "a.example 81"],
                &[1, 2],
            ),
            (
                "a wildcard and who takes one of its hosts",
                &[
                    "x.example 80",
                    "*.a.example 80>127.0.0.1:81",
                    "-b.a.example 80>127.0.0.1:81",
                    "b.a.example 81",
                    "c.a.example 81",
                ],
                &[4],
            ),
            (
                "a wildcard behind",
                &["s.a.example 80>127.0.0.1:81", "x 81", "*.a.example 81"],
                &[1, 2],
            ),
            ("a log that is gone", &["!a 80>127.0.0.1:81", "a 81"], &[]),
            ("two that are not there yet", &["!a 80>127.0.0.1:81", "!a 81"], &[1]),
        ] {
            check_inner(about, vhosts, inner);
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
