//! Vhosts of all servers -> sites.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::discover::backends;
use crate::discover::chain::Chain;
use crate::discover::counted::{self, Counted};
use crate::discover::docroot;
use crate::discover::files::Files;
use crate::discover::followed::{self, Chained};
use crate::discover::found::{Found, Server, Vhost, is_no_log, php_version};
use crate::discover::{AccessLog, Certificate, Discovery, NOBODY, Pool, Site};
use crate::logs::sites::{Backend, Sites, listen_address};

/// Name of a vhost without a name: it takes what no other one wants.
const NAMELESS: &str = "default";
/// Names of one site that are kept.
const ALIASES_MAX: usize = 1000;
/// Names and addresses of one vhost that are looked at.
const NAMES_MAX: usize = 10_000;
const LISTEN_MAX: usize = 256;
/// Certificates that are watched, and those of one vhost.
const CERTIFICATES_MAX: usize = 5_000;
const VHOST_CERTIFICATES_MAX: usize = 1_000;
/// Names of one vhost that are looked up to see whether it is another one's site too.
const UNIFIED_MAX: usize = 50;
/// Status pages that are kept: one for each server is enough.
const STATUS_PAGES_MAX: usize = 32;

/// Puts everything together.
pub(super) fn assemble(files: &mut Files, mut found: Found) -> Discovery {
    for vhost in &mut found.vhosts {
        vhost.access_logs.retain(|log| !is_no_log(&log.path));
        vhost.error_logs.retain(|path| !is_no_log(path));
        vhost.names.truncate(NAMES_MAX);
        vhost.listen.truncate(LISTEN_MAX);
    }
    let pools = std::mem::take(&mut found.pools);
    let mut discovery = Discovery { pools, addresses: own_addresses(), ..Discovery::default() };
    let mut chain = Chain::new(&found.vhosts, &discovery.addresses);
    let mut names: Vec<(String, Vec<String>)> = found.vhosts.iter().map(names).collect();
    unify(&found.vhosts, &chain, &mut names);
    let primary: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    let written = counted::written(files, &found, &primary);
    let counted = Counted::new(&found, &written, &primary);
    let fronts = counted.fronts(&found, &written);
    chain.mark_inner(&fronts, &primary);
    discovery.sites = sites(files, &found, &chain, &names, &discovery);
    discovery.certificates = certificates(files, &found.vhosts, &primary);
    discovery.backends = backends::backends(&found.vhosts, &primary, &discovery);
    backends::note_listens(&found.vhosts, &primary, &chain, &mut discovery);
    discovery.status_pages = std::mem::take(&mut found.status_pages);
    discovery.status_pages.truncate(STATUS_PAGES_MAX);
    discovery.stores = std::mem::take(&mut found.stores);
    discovery.services = found.services.iter().cloned().collect();
    discovery.services.extend(discovery.pools.iter().filter_map(|pool| pool.unit.clone()));
    discovery.services.sort();
    discovery.services.dedup();
    let chained = Chained {
        found: &found,
        sites: &primary,
        chain: &chain,
        written: &written,
        counted: &counted,
        fronts: &fronts,
    };
    discovery.logs = followed::logs(&discovery, &chained);
    followed::note_logs(files, &discovery, &chained);
    discovery
}

fn sites(
    files: &mut Files,
    found: &Found,
    chain: &Chain,
    names: &[(String, Vec<String>)],
    discovery: &Discovery,
) -> Vec<Site> {
    let primary: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    let backends = Sites::new(discovery, 0);
    let pools: HashMap<String, &Pool> =
        discovery.pools.iter().map(|pool| (listen_address(&pool.listen), pool)).collect();
    let mut sites: BTreeMap<&str, Site> = BTreeMap::new();
    let mut aliases: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    // The front of a chain first: it names the site.
    let mut order: Vec<usize> = (0..found.vhosts.len()).collect();
    order.sort_by_key(|ix| chain.is_inner(*ix));
    for ix in order {
        let vhost = &found.vhosts[ix];
        if is_mere_front(vhost) && chain.leads_only_on(ix) {
            continue;
        }
        let (name, more) = &names[ix];
        let site = sites.entry(name).or_insert_with(|| Site {
            name: name.clone(),
            source: vhost.source.clone(),
            ..Site::default()
        });
        let known = aliases.entry(name).or_default();
        for alias in more {
            if known.len() < ALIASES_MAX && known.insert(alias) {
                site.aliases.push(alias.clone());
            }
        }
        let logs = vhost.access_logs.iter();
        add_new(
            &mut site.access_logs,
            logs.map(|log| AccessLog { path: log.path.clone(), format: log.format.clone() }),
        );
        add_new(&mut site.error_logs, vhost.error_logs.iter().cloned());
        // What a server behind says may explain a failure that the front passes on.
        for behind in chain.all_behind(ix, false, &primary) {
            add_new(&mut site.error_logs, found.vhosts[behind].error_logs.iter().cloned());
        }
        let pool = add_backend(site, chain.answers(ix), &backends, &pools);
        add_docroot(files, site, vhost, pool);
    }
    sites.into_values().collect()
}

/// The certificates of all vhosts, each once; one that several sites name is no site's own.
fn certificates(files: &Files, vhosts: &[Vhost], names: &[&str]) -> Vec<Certificate> {
    let mut found: BTreeMap<PathBuf, Option<String>> = BTreeMap::new();
    for (vhost, name) in vhosts.iter().zip(names) {
        for path in vhost.certificates.iter().take(VHOST_CERTIFICATES_MAX) {
            let path = files.resolve(Path::new(path));
            if let Some(site) = found.get_mut(&path) {
                if site.as_deref().is_some_and(|known| known != *name) {
                    *site = None;
                }
            } else if found.len() < CERTIFICATES_MAX {
                found.insert(path, Some((*name).to_owned()));
            }
        }
    }
    found.into_iter().map(|(path, site)| Certificate { path, site }).collect()
}

/// One site has one name, whatever order its vhosts give their names in.
///
/// Two vhosts that each have the other's first name are one site, e.g. those for http and https. A
/// proxy that only tells hosts apart takes the name that the vhost behind it has for the host.
fn unify(vhosts: &[Vhost], chain: &Chain, names: &mut [(String, Vec<String>)]) {
    let mut first_of: HashMap<String, Vec<usize>> = HashMap::new();
    for (ix, (name, _)) in names.iter().enumerate() {
        first_of.entry(name.clone()).or_default().push(ix);
    }
    for ix in 0..names.len() {
        let (name, aliases) = &names[ix];
        let is_proxy =
            matches!(vhosts[ix].server, Server::Haproxy | Server::Varnish | Server::Traefik);
        let mut other = None;
        if is_proxy {
            let knows = |behind: &usize| names[*behind].1.contains(name);
            other = chain.behind(ix).take(ALIASES_MAX).find(knows);
        }
        // Only towards an earlier one, so that no two change places.
        let is_mutual = |earlier: &usize| *earlier < ix && names[*earlier].1.contains(name);
        let mut candidates = aliases.iter().take(UNIFIED_MAX);
        let other = other.or_else(|| {
            candidates.find_map(|alias| {
                first_of.get(alias)?.iter().take(UNIFIED_MAX).copied().find(is_mutual)
            })
        });
        if let Some(other) = other {
            let (old, new) = (names[ix].0.clone(), names[other].0.clone());
            let aliases = &mut names[ix].1;
            aliases.retain(|alias| *alias != new);
            aliases.push(old);
            names[ix].0 = new;
        }
    }
}

/// A proxy without names of its own is no site when all it does is to pass requests on to vhosts.
fn is_mere_front(vhost: &Vhost) -> bool {
    matches!(vhost.server, Server::Haproxy | Server::Varnish) && vhost.names.is_empty()
}

/// Name and aliases in lower case; regular expressions only when there is nothing else.
fn names(vhost: &Vhost) -> (String, Vec<String>) {
    let mut names: Vec<String> = Vec::with_capacity(vhost.names.len());
    for name in vhost.names.iter().take(2 * ALIASES_MAX) {
        let name = if name.starts_with('~') { name.clone() } else { name.to_lowercase() };
        match name.as_str() {
            "" | "." | "_" | "-" | "\"\"" => {}
            // nginx: the name itself and all below it.
            name if name.starts_with('.') => {
                names.extend([name[1..].to_owned(), format!("*{name}")]);
            }
            _ => names.push(name),
        }
    }
    let plain = |name: &String| !name.starts_with(['~', '*', '.', '$']) && !name.ends_with('*');
    let at = names.iter().position(plain).or(if names.is_empty() { None } else { Some(0) });
    if let Some(at) = at {
        let name = names.remove(at);
        names.retain(|alias| *alias != name && !alias.starts_with('~'));
        return (name, names);
    }
    let label = vhost.label.clone().filter(|label| !label.is_empty());
    (label.unwrap_or_else(|| NAMELESS.to_owned()), Vec::new())
}

fn add_new<T: PartialEq>(list: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// Notes who answers, unless a vhost before told; returns the PHP-FPM pool.
fn add_backend<'p>(
    site: &mut Site,
    address: Option<&str>,
    backends: &Sites,
    pools: &HashMap<String, &'p Pool>,
) -> Option<&'p Pool> {
    let address = address?;
    if site.pool.is_none() && site.upstream.is_none() {
        match backends.backend(address) {
            Backend::Pool(pool) => site.pool = Some(pool),
            Backend::Elsewhere(upstream) => site.upstream = Some(upstream),
            Backend::Unknown => {}
        }
    }
    let key = listen_address(address);
    let port = || pools.get(key.rsplit_once(':')?.1);
    let pool = pools.get(&key).or_else(port).copied();
    if site.php_version.is_none() {
        site.php_version =
            pool.map_or_else(|| php_version(address), |pool| pool.php_version.clone());
    }
    pool
}

fn add_docroot(files: &mut Files, site: &mut Site, vhost: &Vhost, pool: Option<&Pool>) {
    if site.php_version.is_none() {
        site.php_version.clone_from(&vhost.php_version);
    }
    if site.docroot.is_none()
        && let Some(docroot) = vhost.docroot.as_ref().filter(|docroot| docroot.starts_with('/'))
    {
        let docroot = files.resolve(Path::new(docroot));
        site.application = docroot::application(files, &docroot);
        site.owner = docroot::owner(files, &docroot);
        site.docroot = Some(docroot);
    }
    let is_nobody = |owner: &String| NOBODY.contains(&owner.as_str());
    if site.owner.as_ref().is_none_or(is_nobody) {
        let other = vhost.owner.as_ref().or_else(|| pool?.user.as_ref());
        if let Some(other) = other.filter(|other| site.owner.is_none() || !is_nobody(other)) {
            site.owner = Some(other.clone());
        }
    }
}

/// Addresses of this machine, as the kernel lists them.
fn own_addresses() -> Vec<IpAddr> {
    let mut addresses = BTreeSet::new();
    let proc =
        |file: &str| fs::read_to_string(PathBuf::from("/proc/net").join(file)).unwrap_or_default();
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
