//! Which site or pool a configuration file touches, when it touches one alone; pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::configs::under;
use crate::discover::{Discovery, Pool, php_version};

/// The only site or pool defined in this file; none when it defines several or other things too. Also
/// the only pool of the PHP, or of the service, that the file is of.
pub(super) fn touched(
    root: &Path,
    path: &Path,
    discovery: &Discovery,
) -> (Option<String>, Option<String>) {
    let defines = |source: &str| under(root, source_file(source)) == path;
    let sites: Vec<&str> = discovery
        .sites
        .iter()
        .filter(|site| defines(&site.source))
        .map(|site| &*site.name)
        .collect();
    let pools: Vec<&str> = discovery
        .pools
        .iter()
        .filter(|pool| defines(&pool.source))
        .map(|pool| &*pool.name)
        .collect();
    match (&sites[..], &pools[..]) {
        ([site], []) => (Some((*site).to_owned()), None),
        ([], [pool]) => (None, Some((*pool).to_owned())),
        ([], []) => (None, only_pool(path, discovery)),
        _ => (None, None),
    }
}

/// The one pool that a unit or a version of PHP runs.
fn only_pool(path: &Path, discovery: &Discovery) -> Option<String> {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let unit = parts.iter().rev().take(2).map(|part| part.trim_end_matches(".d"));
    let unit = unit.clone().find(|part| part.ends_with(".service"));
    // What a command line or another server reads is no pool's.
    let is_foreign = parts.iter().any(|part| matches!(&**part, "cli" | "apache2" | "cgi"));
    let version = php_version(&path.to_string_lossy()).filter(|_| !is_foreign);
    let runs = |pool: &&Pool| match (unit, &version) {
        (Some(unit), _) => pool.unit.as_deref() == Some(unit),
        (None, Some(version)) => pool.php_version.as_ref() == Some(version),
        (None, None) => false,
    };
    let mut pools = discovery.pools.iter().filter(runs);
    let only = pools.next()?;
    pools.next().is_none().then(|| only.name.clone())
}

/// `/etc/nginx/sites-enabled/a:3` without its line.
pub(super) fn source_file(source: &str) -> &Path {
    let numbered = source.rsplit_once(':').filter(|(_, line)| line.parse::<u64>().is_ok());
    Path::new(numbered.map_or(source, |(file, _)| file))
}

/// The names of the sites that have a document root, by it; none outside of `root`.
pub(super) fn docroots(root: &Path, discovery: &Discovery) -> Vec<(PathBuf, Vec<String>)> {
    let mut found: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for site in &discovery.sites {
        let Some(docroot) = &site.docroot else { continue };
        let sites = found.entry(under(root, docroot)).or_default();
        if !sites.contains(&site.name) {
            sites.push(site.name.clone());
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::Site;

    #[test]
    fn a_file_of_one_site_or_pool_touches_only_that() {
        let site = |name: &str, source: &str| Site {
            name: name.into(),
            source: source.into(),
            ..Site::default()
        };
        let pool = |name: &str, version: &str| Pool {
            name: name.into(),
            source: format!("/p/{name}.conf:4"),
            unit: Some(format!("php{version}-fpm.service")),
            php_version: Some(version.into()),
            ..Pool::default()
        };
        let discovery = Discovery {
            sites: vec![site("a", "/n/a:3"), site("b", "/n/two:1"), site("c", "/n/two:9")],
            pools: vec![pool("www", "8.2"), pool("x", "7.4"), pool("y", "7.4")],
            ..Discovery::default()
        };
        let check = |path: &str, site: Option<&str>, pool: Option<&str>| {
            let found = touched(Path::new("/"), Path::new(path), &discovery);
            assert_eq!((found.0.as_deref(), found.1.as_deref()), (site, pool), "{path}");
        };
        check("/n/a", Some("a"), None);
        check("/n/two", None, None);
        check("/p/www.conf", None, Some("www"));
        check("/n/nginx.conf", None, None);
        check("/etc/php/8.2/fpm/php.ini", None, Some("www"));
        check("/etc/php/8.2/cli/php.ini", None, None);
        check("/etc/php/7.4/fpm/php.ini", None, None);
        check("/etc/systemd/system/php8.2-fpm.service.d/limits.conf", None, Some("www"));
        check("/etc/systemd/system/php8.2-fpm.service", None, Some("www"));
        check("/etc/systemd/system/nginx.service", None, None);
    }

    #[test]
    fn a_document_root_of_several_sites_is_that_of_each() {
        let site = |name: &str, docroot: &str| Site {
            name: name.into(),
            docroot: Some(docroot.into()),
            ..Site::default()
        };
        let discovery = Discovery {
            sites: vec![site("a", "/srv/a"), site("b", "/srv/all"), site("c", "/srv/all")],
            ..Discovery::default()
        };
        let want = |root: &str| {
            let sites = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let path = |path: &str| Path::new(root).join(path);
            [(path("srv/a"), sites(&["a"])), (path("srv/all"), sites(&["b", "c"]))]
        };
        assert_eq!(docroots(Path::new("/"), &discovery), want("/"));
        assert_eq!(docroots(Path::new("/host"), &discovery), want("/host"), "none outside");
    }
}
