//! Who can be asked how it is: the backends of all vhosts, status pages of servers, and where sites
//! listen.
//!
//! Everything here comes out of configurations, so it is checked before anybody connects to it: an
//! address is a socket's path, or a host with a port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::discover::Discovery;
use crate::discover::chain::Chain;
use crate::discover::found::{Server, Vhost};
use crate::logs::sites::listen_address;

/// Backends of one machine that are known by name.
const BACKENDS_MAX: usize = 2000;
/// Backends of one vhost that are looked at.
const PER_VHOST_MAX: usize = 32;
/// Names of sites that are kept for each backend.
const SITES_MAX: usize = 20;
/// Addresses at which one site is asked.
const LISTEN_MAX: usize = 4;
/// The longest path of a socket, and the longest host with a port.
const ADDRESS_BYTES_MAX: usize = 300;

/// Somebody to whom requests are passed on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Backend {
    /// `10.0.0.7:3000`, `app.internal:8080` or `/run/app.sock`.
    pub address: String,
    /// Sites it answers for, the first ones by name.
    pub sites: Vec<String>,
    /// How many there are in all.
    pub n_sites: usize,
    /// It is asked over TLS.
    pub is_tls: bool,
    /// It is asked over FastCGI or the like: each connection takes one of its few workers.
    pub is_script: bool,
    /// PHP-FPM pool that listens there.
    pub pool: Option<String>,
}

/// Which server a status page is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusKind {
    /// `stub_status` of nginx.
    Nginx,
    /// `mod_status` of Apache.
    Apache,
    /// `stats socket` of HAProxy.
    HaproxySocket,
    /// `stats uri` of HAProxy, as CSV.
    HaproxyPage,
}

impl StatusKind {
    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx stub_status",
            Self::Apache => "Apache mod_status",
            Self::HaproxySocket => "HAProxy stats socket",
            Self::HaproxyPage => "HAProxy stats page",
        }
    }
}

/// Where a server tells how it is.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusPage {
    /// Of which.
    pub kind: StatusKind,
    /// Loopback or own address with a port, or the path of a socket.
    pub address: String,
    /// Path of the page; empty for a socket.
    pub path: String,
    /// Host that is asked for.
    pub host: String,
    /// It is asked over TLS.
    pub is_tls: bool,
    /// File and line it was found in.
    pub source: String,
}

/// Where a site can be asked from this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// One of loopback or of the machine's own.
    pub address: SocketAddr,
    /// It speaks TLS.
    pub is_tls: bool,
}

/// The backends of all vhosts, each once.
pub(super) fn backends(vhosts: &[Vhost], sites: &[&str], discovery: &Discovery) -> Vec<Backend> {
    let pools: BTreeMap<String, &str> =
        discovery.pools.iter().map(|p| (listen_address(&p.listen), p.name.as_str())).collect();
    let mut found: BTreeMap<String, (Backend, BTreeSet<&str>)> = BTreeMap::new();
    for (vhost, site) in vhosts.iter().zip(sites) {
        for written in vhost.backends.iter().take(PER_VHOST_MAX) {
            let Some(address) = checked_address(written) else { continue };
            if found.len() >= BACKENDS_MAX && !found.contains_key(&address) {
                continue;
            }
            let (backend, of) = found.entry(address.clone()).or_default();
            // A pool that listens everywhere listens at the machine's own addresses.
            let socket = address.parse::<SocketAddr>().ok();
            let is_own = |ip: IpAddr| ip.is_loopback() || discovery.addresses.contains(&ip);
            let port = socket.filter(|s| is_own(s.ip())).map(|s| s.port().to_string());
            let pool = pools.get(&address).or_else(|| pools.get(&port?)).map(|p| (*p).to_owned());
            let is_socket = address.starts_with('/');
            let starts_scripts = matches!(vhost.server, Server::Lighttpd | Server::Litespeed);
            backend.is_script |= is_socket && (starts_scripts || address.contains("php"));
            backend.address = address;
            backend.is_tls |= vhost.tls_to.contains(written);
            backend.is_script |= pool.is_some() || vhost.scripts.contains(written);
            backend.pool = backend.pool.take().or(pool);
            of.insert(*site);
        }
    }
    let finish = |(mut backend, of): (Backend, BTreeSet<&str>)| {
        backend.n_sites = of.len();
        backend.sites = of.into_iter().take(SITES_MAX).map(str::to_owned).collect();
        backend
    };
    found.into_values().map(finish).collect()
}

/// Where each site listens: the front-most vhosts say so. The sites of `discovery` are filled in.
pub(super) fn note_listens(
    vhosts: &[Vhost],
    sites: &[&str],
    chain: &Chain,
    discovery: &mut Discovery,
) {
    let mut by_site: BTreeMap<&str, Vec<Listen>> = BTreeMap::new();
    let fronts = (0..vhosts.len()).filter(|ix| !chain.is_inner(*ix));
    for ix in fronts.chain((0..vhosts.len()).filter(|ix| chain.is_inner(*ix))) {
        let known = by_site.entry(sites[ix]).or_default();
        // An inner vhost only counts where no front is known.
        if chain.is_inner(ix) && !known.is_empty() {
            continue;
        }
        for listen in listens(&vhosts[ix], &discovery.addresses) {
            if known.len() < LISTEN_MAX && !known.contains(&listen) {
                known.push(listen);
            }
        }
    }
    for site in &mut discovery.sites {
        site.listen = by_site.remove(site.name.as_str()).unwrap_or_default();
    }
}

/// Where one vhost can be asked from this machine, plain before TLS.
pub(super) fn listens(vhost: &Vhost, own: &[IpAddr]) -> Vec<Listen> {
    let asked = vhost.listen.iter().filter(|listen| !vhost.wrapped_at.contains(listen));
    let mut all: Vec<Listen> = asked
        .filter_map(|listen| {
            let address = reachable(listen, own)?;
            let is_tls = vhost.tls_at.contains(listen) || address.port() == 443;
            Some(Listen { address, is_tls })
        })
        .collect();
    all.sort_by_key(|listen| listen.is_tls);
    all
}

/// The address at which a listener of this machine is reached from itself: `80`, `*:80`,
/// `0.0.0.0:80`, `[::]:80`, `_default_:443`, `127.0.0.1`, `192.0.2.7:8080`.
pub(super) fn reachable(listen: &str, own: &[IpAddr]) -> Option<SocketAddr> {
    let bracket = listen.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match listen[bracket..].rsplit_once(':') {
        Some((_, port)) => (&listen[..listen.len() - port.len() - 1], port),
        None if listen.bytes().all(|byte| byte.is_ascii_digit()) => ("*", listen),
        None => (listen, "80"),
    };
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let ip = match host {
        "" | "*" | "_default_" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.trim_matches(['[', ']']).parse().ok()?,
    };
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    (ip.is_loopback() || own.contains(&ip)).then_some(SocketAddr::new(ip, port))
}

/// An address as it is compared and connected to; `None` for what is none.
pub(super) fn checked_address(written: &str) -> Option<String> {
    let address = listen_address(written);
    let is_printable = address.bytes().all(|byte| byte.is_ascii_graphic());
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || !is_printable {
        return None;
    }
    if address.starts_with('/') {
        // What only a request decides, or another machine's socket family.
        return (!address.contains(['$', '*', '%'])).then_some(address);
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port),
        // A bare port is one of this machine.
        None => ("127.0.0.1", address.as_str()),
    };
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let bare = host.trim_matches(['[', ']']);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_good = bare.parse::<IpAddr>().is_ok()
        || (!host.is_empty() && host.len() <= 253 && host.chars().all(is_name));
    is_good.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_configurations_are_checked_before_anybody_connects() {
        for (written, want) in [
            ("10.0.0.7:3000", Some("10.0.0.7:3000")),
            ("LOCALHOST:80", Some("127.0.0.1:80")),
            ("app.internal:8080", Some("app.internal:8080")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
            ("9000", Some("127.0.0.1:9000")),
            ("unix:/var/run/a.sock", Some("/run/a.sock")),
            ("/run/$site.sock", None),
            ("/run/a b.sock", None),
            ("$backend:80", None),
            ("a/b:80", None),
            ("app", None),
            ("app:", None),
            ("app:0", None),
            ("app:70000", None),
            (":80", None),
            ("", None),
        ] {
            assert_eq!(checked_address(written).as_deref(), want, "{written}");
        }
        assert_eq!(checked_address(&format!("{}:80", "a".repeat(400))), None);
    }

    #[test]
    fn a_listener_is_reached_at_loopback_or_at_its_own_address() {
        let own = ["192.0.2.7".parse().unwrap()];
        for (listen, want) in [
            ("80", Some("127.0.0.1:80")),
            ("*:8080", Some("127.0.0.1:8080")),
            ("0.0.0.0:80", Some("127.0.0.1:80")),
            ("_default_:443", Some("127.0.0.1:443")),
            (":81", Some("127.0.0.1:81")),
            ("[::]:80", Some("[::1]:80")),
            ("[::1]", Some("[::1]:80")),
            ("127.0.0.5", Some("127.0.0.5:80")),
            ("192.0.2.7:8080", Some("192.0.2.7:8080")),
            ("192.0.2.8:8080", None), // gone from this machine
            ("unix:/run/a.sock", None),
            ("/run/a.sock", None),
            ("*", Some("127.0.0.1:80")),
            ("*:x", None),
            ("", None),
        ] {
            let got = reachable(listen, &own).map(|address| address.to_string());
            assert_eq!(got.as_deref(), want, "{listen}");
        }
    }

    #[test]
    fn a_backend_of_many_sites_is_known_once() {
        let vhost = |to: &str, tls: bool| {
            let mut vhost = Vhost::new(Server::Nginx, "a:1".into());
            vhost.backends = vec![to.to_owned(), "$junk".to_owned()];
            vhost.tls_to = if tls { vec![to.to_owned()] } else { Vec::new() };
            vhost
        };
        let vhosts =
            [vhost("10.0.0.7:80", false), vhost("10.0.0.7:80", true), vhost("9000", false)];
        let pool = crate::discover::Pool {
            name: "www".into(),
            listen: "127.0.0.1:9000".into(),
            ..crate::discover::Pool::default()
        };
        let discovery = Discovery { pools: vec![pool], ..Discovery::default() };
        let found = backends(&vhosts, &["b.example", "a.example", "c.example"], &discovery);
        let shown: Vec<_> = found
            .iter()
            .map(|b| (b.address.as_str(), b.sites.join(","), b.is_tls, b.is_script, b.pool.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.7:80", "a.example,b.example".to_owned(), true, false, None),
                ("127.0.0.1:9000", "c.example".to_owned(), false, true, Some("www".to_owned())),
            ]
        );
    }
}
