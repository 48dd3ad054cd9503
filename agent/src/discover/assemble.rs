//! Vhosts of all servers -> sites, the logs to follow, and who stands in front of whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::discover::files::Files;
use crate::discover::{AccessLog, Discovery, LogKind, LogSource, Pool, Site, SiteRule};
use crate::logs::sites::{Backend, Sites};

/// Which web server a vhost is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Server {
    Nginx,
    Apache,
}

impl Server {
    fn error_format(self) -> &'static str {
        match self {
            Self::Nginx => "nginx_error",
            Self::Apache => "apache_error",
        }
    }
}

/// One vhost as its server's configuration has it.
#[derive(Clone, Debug)]
pub(super) struct Vhost {
    pub(super) server: Server,
    pub(super) names: Vec<String>,
    pub(super) access_logs: Vec<AccessLog>,
    pub(super) error_logs: Vec<PathBuf>,
    /// Address that answers.
    pub(super) backend: Option<String>,
    /// `80`, `127.0.0.1:8080`, `*:80`.
    pub(super) listen: Vec<String>,
    pub(super) docroot: Option<String>,
    pub(super) source: String,
}

/// All that the readers of the servers' configurations found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) vhosts: Vec<Vhost>,
    pub(super) error_logs: Vec<(PathBuf, Server)>,
    pub(super) services: BTreeSet<String>,
    pub(super) haproxy_targets: Vec<String>,
    /// HAProxy's log, and whether it names hosts.
    pub(super) haproxy_log: Option<(PathBuf, bool)>,
}

/// Name of a vhost without a name: it takes what no other one wants.
const NAMELESS: &str = "default";

/// Puts everything together.
pub(super) fn assemble(files: &mut Files, found: &Found, pools: Vec<Pool>) -> Discovery {
    let mut discovery = Discovery { pools, addresses: own_addresses(), ..Discovery::default() };
    let backends = Sites::new(&discovery, 0);
    let inner = inner_servers(found, &backends);
    let mut sites: BTreeMap<String, Site> = BTreeMap::new();
    // The front of a chain first: it names the site, the server behind it knows the pool.
    let mut vhosts: Vec<&Vhost> = found.vhosts.iter().collect();
    vhosts.sort_by_key(|vhost| inner.contains(&vhost.server));
    for vhost in vhosts {
        let (name, aliases) = names(&vhost.names);
        let site = sites.entry(name.clone()).or_insert_with(|| Site {
            name,
            source: vhost.source.clone(),
            ..Site::default()
        });
        add_new(&mut site.aliases, aliases);
        add_new(&mut site.access_logs, vhost.access_logs.iter().cloned());
        add_new(&mut site.error_logs, vhost.error_logs.iter().cloned());
        add_backend(site, vhost, &backends, &inner);
        if site.owner.is_none()
            && let Some(docroot) = &vhost.docroot
        {
            let docroot = files.resolve(Path::new(docroot));
            site.owner = owner(files, &docroot);
            site.application = application(&docroot).map(str::to_owned);
        }
    }
    discovery.sites = sites.into_values().collect();
    discovery.services = found.services.iter().cloned().collect();
    discovery.services.extend(discovery.pools.iter().filter_map(|pool| pool.unit.clone()));
    discovery.services.sort();
    discovery.services.dedup();
    discovery.logs = logs(found, &discovery, &inner);
    note_logs(files, &discovery);
    discovery
}

/// Name and aliases in lower case; regular expressions only when there is nothing else.
fn names(all: &[String]) -> (String, Vec<String>) {
    let mut names: Vec<String> = all
        .iter()
        .map(|name| name.to_lowercase())
        .filter(|name| !matches!(name.as_str(), "" | "_" | "-" | "\"\""))
        .collect();
    let plain = |name: &String| !name.starts_with(['~', '*', '.', '$']) && !name.ends_with('*');
    match names.iter().position(plain).or(if names.is_empty() { None } else { Some(0) }) {
        Some(at) => {
            let name = names.remove(at);
            names.retain(|alias| *alias != name && !alias.starts_with('~'));
            (name, names)
        }
        None => (NAMELESS.to_owned(), Vec::new()),
    }
}

fn add_new<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// A front's backend is only the next server here: what answers is that one's pool.
fn add_backend(site: &mut Site, vhost: &Vhost, backends: &Sites, inner: &BTreeSet<Server>) {
    let Some(address) = &vhost.backend else { return };
    let known = site.pool.is_some() || site.upstream.is_some();
    if known && !inner.contains(&vhost.server) {
        return;
    }
    match backends.backend(address) {
        Backend::Pool(pool) => (site.pool, site.upstream) = (Some(pool), None),
        Backend::Elsewhere(upstream) => (site.pool, site.upstream) = (None, Some(upstream)),
        Backend::Unknown => {}
    }
}

/// Servers that another one of this machine stands in front of.
fn inner_servers(found: &Found, backends: &Sites) -> BTreeSet<Server> {
    let mut inner = BTreeSet::new();
    let ports = |server: Server| -> BTreeSet<String> {
        let of = found.vhosts.iter().filter(|vhost| vhost.server == server);
        of.flat_map(|vhost| vhost.listen.iter()).filter_map(|listen| port(listen)).collect()
    };
    let local_port = |address: &String| match backends.backend(address) {
        Backend::Pool(_) => port(address),
        _ => None,
    };
    for (front, behind) in [(Server::Nginx, Server::Apache), (Server::Apache, Server::Nginx)] {
        let ports = ports(behind);
        let of = found.vhosts.iter().filter(|vhost| vhost.server == front);
        let targets = of.filter_map(|vhost| vhost.backend.as_ref()).filter_map(local_port);
        if !inner.contains(&front) && targets.into_iter().any(|port| ports.contains(&port)) {
            inner.insert(behind);
        }
    }
    // HAProxy counts only where its log tells sites apart.
    if found.haproxy_log.as_ref().is_some_and(|(_, names_host)| *names_host) {
        for server in [Server::Nginx, Server::Apache] {
            let ports = ports(server);
            if found.haproxy_targets.iter().filter_map(local_port).any(|port| ports.contains(&port))
            {
                inner.insert(server);
            }
        }
    }
    inner
}

/// The port of `80`, `*:80`, `127.0.0.1:80`, `[::]:80`.
fn port(listen: &str) -> Option<String> {
    let port = listen.rsplit(':').next()?;
    let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    is_port.then(|| port.to_owned())
}

fn logs(found: &Found, discovery: &Discovery, inner: &BTreeSet<Server>) -> Vec<LogSource> {
    let mut logs: Vec<LogSource> = Vec::new();
    let mut add = |path: &Path, kind, format: &str, site, inner| {
        if !logs.iter().any(|log| log.path == path && log.kind == kind) {
            let path = path.to_path_buf();
            logs.push(LogSource {
                path,
                kind,
                format: format.to_owned(),
                site,
                timezone: None,
                inner,
            });
        }
    };
    for vhost in &found.vhosts {
        for log in &vhost.access_logs {
            let owners =
                discovery.sites.iter().filter(|s| s.access_logs.iter().any(|l| l.path == log.path));
            let owners: Vec<&str> = owners.map(|site| site.name.as_str()).collect();
            let site = match owners.as_slice() {
                [only] if !names_host(&log.format) => SiteRule::Fixed((*only).to_owned()),
                _ => SiteRule::Host,
            };
            add(&log.path, LogKind::Access, &log.format, site, inner.contains(&vhost.server));
        }
    }
    if let Some((path, names_host)) = &found.haproxy_log
        && (*names_host || found.vhosts.is_empty())
        && path.exists()
    {
        add(path, LogKind::Access, "haproxy", SiteRule::Host, false);
    }
    let error_logs = found.vhosts.iter().flat_map(|v| v.error_logs.iter().map(|p| (p, v.server)));
    for (path, server) in
        found.error_logs.iter().map(|(path, server)| (path, *server)).chain(error_logs)
    {
        let owners = discovery.sites.iter().filter(|s| s.error_logs.contains(path));
        let owners: Vec<&str> = owners.map(|site| site.name.as_str()).collect();
        let in_main =
            found.error_logs.iter().any(|(main, _)| main == path) && found.vhosts.len() > 1;
        let site = match owners.as_slice() {
            [only] if !in_main => SiteRule::Fixed((*only).to_owned()),
            _ => SiteRule::Host,
        };
        add(path, LogKind::Error, server.error_format(), site, inner.contains(&server));
    }
    for pool in &discovery.pools {
        if let Some(path) = &pool.error_log {
            add(path, LogKind::PhpFpm, "php_fpm", SiteRule::Host, false);
        }
    }
    logs
}

/// True when lines of the format name a site.
fn names_host(format: &str) -> bool {
    ["$host", "$http_host", "$server_name", "%v", "%V", "%{Host}i", "%{host}i"]
        .iter()
        .any(|field| format.contains(field))
        || matches!(format, "vhost_combined" | "json" | "auto")
}

/// Lists logs that cannot be read, and logs whose sites nobody can tell apart.
fn note_logs(files: &mut Files, discovery: &Discovery) {
    for log in &discovery.logs {
        if log.path.to_string_lossy().contains('*') {
            continue;
        }
        match fs::File::open(&log.path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let fix = "nothing to do if the server has not written it yet".to_owned();
                files.note(&log.path, "does not exist".to_owned(), fix);
            }
            Err(error) => files.cannot_read(&log.path, &error),
        }
        let sharers =
            discovery.sites.iter().filter(|s| s.access_logs.iter().any(|l| l.path == log.path));
        let n = sharers.count();
        if log.kind == LogKind::Access
            && log.site == SiteRule::Host
            && n > 1
            && !names_host(&log.format)
        {
            let reason =
                format!("{n} sites write into it and no line names its site: they count as one");
            let field = if log.format.contains('%') {
                "%v to its LogFormat"
            } else {
                "$host to its log_format"
            };
            files.note(&log.path, reason, format!("add {field}, or give each site its own log"));
        }
    }
}

/// Addresses of this machine, as the kernel lists them.
fn own_addresses() -> Vec<IpAddr> {
    let mut addresses = BTreeSet::new();
    let proc =
        |file: &str| fs::read_to_string(Path::new("/proc/net").join(file)).unwrap_or_default();
    let mut last = None;
    for line in proc("fib_trie").lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.trim().parse::<IpAddr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            addresses.extend(last);
        }
    }
    for line in proc("if_inet6").lines() {
        let digits = line.split_whitespace().next().unwrap_or_default();
        if let Ok(bits) = u128::from_str_radix(digits, 16) {
            addresses.insert(IpAddr::V6(bits.into()));
        }
    }
    addresses.into_iter().filter(|address| !address.is_loopback()).collect()
}

/// The name of the Unix user a folder belongs to.
fn owner(files: &mut Files, folder: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let uid = fs::metadata(folder).ok()?.uid().to_string();
    let passwd = fs::read_to_string(files.resolve(Path::new("/etc/passwd"))).unwrap_or_default();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&*uid)).then(|| name.to_owned())
    })
}

/// What runs in a document root, by a file that only it has.
fn application(docroot: &Path) -> Option<&'static str> {
    const MARKS: [(&str, &str); 9] = [
        ("wp-includes/version.php", "wordpress"),
        ("wp-config.php", "wordpress"),
        ("../artisan", "laravel"),
        ("core/lib/Drupal.php", "drupal"),
        ("administrator/manifests/files/joomla.xml", "joomla"),
        ("../bin/magento", "magento"),
        ("config/settings.inc.php", "prestashop"),
        ("typo3conf", "typo3"),
        ("../bin/console", "symfony"),
    ];
    MARKS.iter().find(|(mark, _)| docroot.join(mark).exists()).map(|(_, name)| *name)
}
