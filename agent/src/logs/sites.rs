//! Which site a request belongs to, and which pool or upstream answers for it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;

use crate::discover::Discovery;
use crate::logs::join::{OTHER, SiteInfo};

/// Longest name DNS knows.
const HOST_BYTES_MAX: usize = 253;
/// A host name with a port, or the path of a socket, is never longer.
const ADDRESS_BYTES_MAX: usize = 300;

/// The sites of the server by any of their names. Indices are stable; the table only grows.
pub(crate) struct Sites {
    infos: Vec<SiteInfo>,
    /// Pool and upstream were learned from lines, not read from a configuration.
    learned: Vec<bool>,
    /// The upstream a line named last, as written; empty when it came otherwise.
    named_last: Vec<Box<[u8]>>,
    by_name: HashMap<String, u32>,
    /// Sites of the newest discovery.
    configured: Vec<u32>,
    /// `.example.com` of `*.example.com`, longest first.
    suffixes: Vec<(String, u32)>,
    /// `www.` of `www.*`.
    prefixes: Vec<(String, u32)>,
    /// At least one vhost has a name: a host without one is a stranger.
    vhosts_known: bool,
    limit: usize,
    other: Option<u32>,
    /// PHP-FPM pool by the address it listens on.
    pools: BTreeMap<String, String>,
    addresses: Vec<IpAddr>,
}

impl Sites {
    pub(crate) fn new(discovery: &Discovery, sites_max: usize) -> Self {
        let mut sites = Self {
            infos: Vec::new(),
            learned: Vec::new(),
            named_last: Vec::new(),
            by_name: HashMap::new(),
            configured: Vec::new(),
            suffixes: Vec::new(),
            prefixes: Vec::new(),
            vhosts_known: false,
            limit: sites_max,
            other: None,
            pools: BTreeMap::new(),
            addresses: Vec::new(),
        };
        sites.learn(discovery);
        sites
    }

    /// Takes over a discovery: new sites are added, known ones get their new names and pools.
    pub(crate) fn learn(&mut self, discovery: &Discovery) {
        self.addresses.clone_from(&discovery.addresses);
        self.pools = discovery
            .pools
            .iter()
            .map(|pool| (listen_address(&pool.listen), pool.name.clone()))
            .collect();
        // Only a configuration takes away what a configuration gave.
        for ix in std::mem::take(&mut self.configured) {
            self.infos[ix as usize].is_removed = true;
        }
        for site in &discovery.sites {
            let (ix, _) = self.named(&site.name);
            self.configured.push(ix);
            self.infos[ix as usize].is_removed = false;
            if Some(ix) == self.other {
                continue;
            }
            self.vhosts_known |= is_host_name(&site.name);
            for alias in &site.aliases {
                self.add_name(alias, ix);
            }
            let info = &mut self.infos[ix as usize];
            info.aliases.clone_from(&site.aliases);
            site.customer().unwrap_or_default().clone_into(&mut info.owner);
            if site.pool.is_some() || site.upstream.is_some() {
                info.pool = site.pool.clone().unwrap_or_default();
                info.upstream = site.upstream.clone().unwrap_or_default();
                self.learned[ix as usize] = false;
            }
        }
        self.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
    }

    pub(crate) fn infos(&self) -> &[SiteInfo] {
        &self.infos
    }

    /// The site of a host as a line writes it; true when it counts as `other`.
    pub(crate) fn of_host(&mut self, host: &str) -> (u32, bool) {
        let host = normal_host(host);
        match self.known_host(&host) {
            Some(ix) => (ix, Some(ix) == self.other),
            None if self.vhosts_known || !could_be_host(&host) => (self.other(), true),
            None => self.named(&host),
        }
    }

    /// The site of a host, if a vhost or an earlier line named it.
    pub(crate) fn find_host(&self, host: &str) -> Option<u32> {
        self.known_host(&normal_host(host))
    }

    fn known_host(&self, host: &str) -> Option<u32> {
        let exact = self.by_name.get(host).copied();
        let by_suffix = || self.suffixes.iter().find(|(s, _)| host.ends_with(s.as_str()));
        let by_prefix = || self.prefixes.iter().find(|(p, _)| host.starts_with(p.as_str()));
        exact.or_else(|| by_suffix().or_else(by_prefix).map(|(_, ix)| *ix))
    }

    /// The site with this name, made when it is new; `other` when there are too many.
    pub(crate) fn named(&mut self, name: &str) -> (u32, bool) {
        if let Some(ix) = self.by_name.get(name) {
            return (*ix, Some(*ix) == self.other);
        }
        let n_own = self.infos.len() - usize::from(self.other.is_some());
        if n_own >= self.limit {
            return (self.other(), true);
        }
        let ix = self.push(name);
        self.add_name(name, ix);
        (ix, false)
    }

    fn other(&mut self) -> u32 {
        if let Some(ix) = self.other {
            return ix;
        }
        let ix = self.push(OTHER);
        self.other = Some(ix);
        ix
    }

    fn push(&mut self, name: &str) -> u32 {
        let ix = u32::try_from(self.infos.len()).expect("sites_max is far below");
        self.infos.push(SiteInfo { name: name.to_owned(), ..SiteInfo::default() });
        self.learned.push(true);
        self.named_last.push(Box::default());
        ix
    }

    fn add_name(&mut self, name: &str, ix: u32) {
        if let Some(suffix) = name.strip_prefix('*') {
            self.suffixes.push((suffix.to_owned(), ix));
        } else if let Some(rest) = name.strip_prefix('.') {
            // nginx: `.example.com` is example.com and everything below it.
            self.suffixes.push((name.to_owned(), ix));
            self.by_name.entry(rest.to_owned()).or_insert(ix);
        } else if let Some(prefix) = name.strip_suffix('*') {
            self.prefixes.push((prefix.to_owned(), ix));
        }
        self.by_name.entry(name.to_owned()).or_insert(ix);
    }

    /// What the upstream address of a line is to us: a pool of this machine, an upstream elsewhere,
    /// or nothing (the name of a group).
    pub(crate) fn backend(&self, address: &str) -> Backend {
        if address.len() > ADDRESS_BYTES_MAX {
            return Backend::Unknown;
        }
        let key = listen_address(address);
        if let Some(pool) = self.pools.get(&key) {
            return Backend::Pool(pool.clone());
        }
        if key.starts_with('/') {
            return Backend::Pool(key);
        }
        let Some((host, port)) = key.rsplit_once(':') else { return Backend::Unknown };
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Backend::Unknown;
        }
        let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
        if ip.is_ok_and(|ip| self.is_own(ip)) {
            return Backend::Pool(self.pools.get(port).cloned().unwrap_or(key));
        }
        Backend::Elsewhere(key)
    }

    /// The local address behind the name of a pool; `None` when there is none.
    pub(crate) fn address_of<'p>(&'p self, pool: &'p str) -> Option<&'p str> {
        if pool.is_empty() {
            return None;
        }
        let named = self.pools.iter().find(|(_, name)| *name == pool);
        Some(named.map_or(pool, |(address, _)| address.as_str()))
    }

    /// True for the name of a PHP-FPM pool that a configuration defines.
    pub(crate) fn is_php_pool(&self, name: &str) -> bool {
        self.pools.values().any(|pool| pool == name)
    }

    /// True for loopback and the machine's own addresses.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// True when a line that names this upstream would teach who answers for the site.
    pub(crate) fn is_news(&self, ix: u32, upstream: &[u8]) -> bool {
        !upstream.is_empty()
            && *self.named_last[ix as usize] != *upstream
            && self.learns_backends(ix)
    }

    /// Notes the upstream an access line named.
    pub(crate) fn note_upstream(&mut self, ix: u32, upstream: &str) {
        let backend = self.backend(upstream);
        self.note_backend(ix, &backend);
        if self.learns_backends(ix) {
            self.named_last[ix as usize] = upstream.as_bytes().into();
        }
    }

    fn learns_backends(&self, ix: u32) -> bool {
        Some(ix) != self.other && self.learned[ix as usize]
    }

    /// Notes the backend a line named for a site whose configuration does not tell.
    pub(crate) fn note_backend(&mut self, ix: u32, backend: &Backend) {
        if !self.learns_backends(ix) {
            return;
        }
        self.named_last[ix as usize] = Box::default();
        let info = &mut self.infos[ix as usize];
        match backend {
            Backend::Pool(pool) if info.pool != *pool => {
                info.pool.clone_from(pool);
                info.upstream.clear();
            }
            Backend::Elsewhere(address) if info.upstream != *address => {
                info.upstream.clone_from(address);
                info.pool.clear();
            }
            _ => {}
        }
    }
}

/// Who answers for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// PHP-FPM pool, or a local socket or port.
    Pool(String),
    /// Address of another machine.
    Elsewhere(String),
    /// A name that is no address.
    Unknown,
}

impl Backend {
    /// The pool's name, or the address elsewhere; empty when it is not known.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Pool(name) | Self::Elsewhere(name) => name,
            Self::Unknown => "",
        }
    }

    /// The pool's name, empty when it is none of this machine.
    pub(crate) fn pool(&self) -> &str {
        if let Self::Pool(name) = self { name } else { "" }
    }
}

/// One spelling for an address, as servers and pools write it: sockets as their path, `/run` for
/// `/var/run`, a port alone for a pool that listens everywhere.
pub(crate) fn listen_address(address: &str) -> String {
    let address = address.trim().trim_start_matches("unix:");
    if address.starts_with('/') {
        return address
            .strip_prefix("/var/run/")
            .map_or(address.to_owned(), |r| format!("/run/{r}"));
    }
    let address = address.to_ascii_lowercase();
    for everywhere in ["0.0.0.0:", "[::]:", "*:"] {
        if let Some(port) = address.strip_prefix(everywhere) {
            return port.to_owned();
        }
    }
    match address.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => address,
    }
}

/// Lower case, without port and without a last dot.
pub(crate) fn normal_host(host: &str) -> std::borrow::Cow<'_, str> {
    let bare = match host.strip_prefix('[') {
        Some(inside) => inside.split(']').next().unwrap_or(inside),
        None => match host.rsplit_once(':') {
            Some((name, port))
                if !name.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) =>
            {
                name
            }
            _ => host,
        },
    };
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        bare.to_ascii_lowercase().into()
    } else {
        bare.into()
    }
}

/// False for what no client can have meant as a host: it would only fill the table.
pub(crate) fn could_be_host(host: &str) -> bool {
    let sign =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':') || b >= 128;
    !host.is_empty() && host.len() <= HOST_BYTES_MAX && host.bytes().all(sign)
}

/// False for `_`, `default` and the like, which name no host.
fn is_host_name(name: &str) -> bool {
    name.contains('.') && !name.starts_with('~')
}

/// What panels put behind the name of a site.
const ENDINGS: [&str; 12] = [
    ".log",
    ".access",
    "-access",
    "_access",
    ".access_log",
    "-access_log",
    "_access_log",
    "-ssl_log",
    "_ssl_log",
    "-ssl",
    "_ssl",
    ".ssl",
];

/// The name of a site by the path of its log, as hosting panels lay them out.
pub(crate) fn name_from_path(path: &Path) -> String {
    let file = path.file_name().map(|f| f.to_string_lossy().to_lowercase()).unwrap_or_default();
    let mut stem = file.as_str();
    while let Some(shorter) = ENDINGS.iter().find_map(|end| stem.strip_suffix(end)) {
        stem = shorter;
    }
    let names_a_site =
        stem.contains('.') && !stem.starts_with("access") && !stem.ends_with("access_log");
    if names_a_site {
        return stem.to_owned();
    }
    // `/srv/a.example/logs/access.log`
    let folder = path
        .ancestors()
        .skip(1)
        .filter_map(|folder| folder.file_name()?.to_str())
        .find(|name| name.contains('.') && !name.starts_with('.'));
    match folder {
        Some(name) => name.to_lowercase(),
        None if stem.is_empty() => file,
        None => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{Pool, Site};

    fn sites(max: usize) -> Sites {
        let site = |name: &str, aliases: &[&str], pool: Option<&str>| Site {
            name: name.to_owned(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
            pool: pool.map(str::to_owned),
            ..Site::default()
        };
        let discovery = Discovery {
            sites: vec![
                site("a.example", &["www.a.example"], Some("www")),
                site("b.example", &["*.b.example", "b.*"], None),
                site("c.example", &[".c.example"], None),
            ],
            pools: vec![
                Pool {
                    name: "www".to_owned(),
                    listen: "/run/php/www.sock".to_owned(),
                    ..Pool::default()
                },
                Pool { name: "tcp".to_owned(), listen: "9000".to_owned(), ..Pool::default() },
            ],
            addresses: vec!["192.0.2.10".parse().unwrap()],
            ..Discovery::default()
        };
        Sites::new(&discovery, max)
    }

    #[test]
    fn hosts_find_their_site_by_any_of_its_names() {
        let mut sites = sites(100);
        for (host, want) in [
            ("a.example", "a.example"),
            ("WWW.A.Example:8443", "a.example"),
            ("a.example.", "a.example"),
            ("x.y.b.example", "b.example"),
            ("b.test", "b.example"),
            ("c.example", "c.example"),
            ("d.c.example", "c.example"),
            ("evil.example", "other"),
            ("198.51.100.1", "other"),
            ("[2001:db8::1]:80", "other"),
            ("", "other"),
        ] {
            let (ix, other) = sites.of_host(host);
            assert_eq!(sites.infos()[ix as usize].name, want, "{host}");
            assert_eq!(other, want == "other", "{host}");
        }
        assert_eq!(sites.infos().len(), 4);
    }

    #[test]
    fn a_site_belongs_to_its_owner_and_never_to_a_web_server() {
        let mut sites = Sites::new(&Discovery::default(), 9);
        for (owner, want) in [
            (Some("alice"), "alice"),
            (Some("www-data"), ""),
            (Some("bob"), "bob"),
            (Some("root"), ""),
            (None, ""),
        ] {
            let site = Site {
                name: "a.example".to_owned(),
                owner: owner.map(str::to_owned),
                ..Site::default()
            };
            sites.learn(&Discovery { sites: vec![site], ..Discovery::default() });
            assert_eq!(sites.infos()[0].owner, want, "{owner:?}");
        }
    }

    #[test]
    fn without_vhosts_every_host_is_a_site_until_there_are_too_many() {
        let mut sites = Sites::new(&Discovery::default(), 2);
        for (host, want) in [
            ("a", "a"),
            ("b:80", "b"),
            ("c", "other"),
            ("b", "b"),
            ("d", "other"),
            ("", "other"),
            ("a b", "other"),
        ] {
            let (ix, _) = sites.of_host(host);
            assert_eq!(sites.infos()[ix as usize].name, want);
        }
        assert_eq!(sites.infos().len(), 3);
    }

    #[test]
    fn addresses_become_pools_and_upstreams() {
        let sites = sites(100);
        let pool = |name: &str| Backend::Pool(name.to_owned());
        for (address, want) in [
            ("unix:/run/php/www.sock", pool("www")),
            ("unix:/var/run/php/www.sock", pool("www")),
            ("/run/app.sock", pool("/run/app.sock")),
            ("127.0.0.1:9000", pool("tcp")),
            ("localhost:3000", pool("127.0.0.1:3000")),
            ("192.0.2.10:3000", pool("192.0.2.10:3000")),
            ("198.51.100.4:8080", Backend::Elsewhere("198.51.100.4:8080".to_owned())),
            ("app.internal:8080", Backend::Elsewhere("app.internal:8080".to_owned())),
            ("backend", Backend::Unknown),
        ] {
            assert_eq!(sites.backend(address), want, "{address}");
        }
    }

    #[test]
    fn text_too_long_for_an_address_is_kept_of_no_site() {
        let mut sites = sites(100);
        let ix = sites.find_host("b.example").unwrap();
        for long in [format!("unix:/{}", "x".repeat(5000)), format!("{}:80", "x".repeat(5000))] {
            let backend = sites.backend(&long);
            sites.note_backend(ix, &backend);
            assert_eq!(backend, Backend::Unknown);
        }
        let info = &sites.infos()[ix as usize];
        assert_eq!((info.pool.as_str(), info.upstream.as_str()), ("", ""));
    }

    #[test]
    fn panels_name_logs_after_sites() {
        for (path, want) in [
            ("/var/log/nginx/domains/a.example.log", "a.example"),
            ("/var/log/apache2/domlogs/a.example-ssl_log", "a.example"),
            ("/var/log/apache2/domlogs/a.example", "a.example"),
            ("/var/log/virtualmin/a.example_access_log", "a.example"),
            ("/var/www/vhosts/system/a.example/logs/access_ssl_log", "a.example"),
            ("/srv/a.example/logs/a.example.access_log", "a.example"),
            ("/srv/a.example/logs/access.log", "a.example"),
            ("/var/log/nginx/shop.access.log", "shop"),
            ("/var/log/nginx/access.log", "access"),
        ] {
            assert_eq!(name_from_path(Path::new(path)), want, "{path}");
        }
    }

    #[test]
    fn a_site_without_known_pool_learns_it_from_its_lines() {
        let mut sites = sites(100);
        let ix = |sites: &Sites, name: &str| sites.find_host(name).unwrap();
        let (a, b) = (ix(&sites, "a.example"), ix(&sites, "b.example"));
        sites.note_backend(a, &Backend::Pool("new".to_owned()));
        sites.note_backend(b, &Backend::Pool("new".to_owned()));
        assert_eq!(sites.infos()[a as usize].pool, "www", "the configuration knows better");
        assert_eq!(sites.infos()[b as usize].pool, "new");
        sites.note_backend(b, &Backend::Elsewhere("198.51.100.4:80".to_owned()));
        assert_eq!(
            (sites.infos()[b as usize].pool.as_str(), sites.infos()[b as usize].upstream.as_str()),
            ("", "198.51.100.4:80")
        );
    }
}
