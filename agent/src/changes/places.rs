//! Which files beside the discovered ones are watched, by kind of change: the places of distributions
//! and panels. A name that is not there costs nothing but its folder's listing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::stack::is_of_stack;

/// Names of one folder that are compared with a pattern.
const NAMES_MAX: usize = 5_000;

/// Kind and pattern, without the leading `/`; a `*` stands for a part of one name. Not among them is
/// what a daemon appends to at each ban: `csf.deny`, `hosts.deny`.
const PLACES: [(&str, &[&str]); 5] = [
    (
        "config",
        &[
            // PHP, of every version and panel.
            "etc/php/*/*/php.ini",
            "etc/php/*/*/conf.d/*.ini",
            "etc/php/*/mods-available/*.ini",
            "etc/php/*/fpm/php-fpm.conf",
            "etc/php/*/fpm/pool.d/*.conf",
            "etc/php.ini",
            "etc/php.d/*.ini",
            "etc/php-fpm.conf",
            "etc/php-fpm.d/*.conf",
            "etc/php*/php.ini",
            "etc/php*/conf.d/*.ini",
            "etc/php*/*/php.ini",
            "etc/php*/php-fpm.conf",
            "etc/php*/php-fpm.d/*.conf",
            "etc/opt/remi/php*/php.ini",
            "etc/opt/remi/php*/php.d/*.ini",
            "etc/opt/remi/php*/php-fpm.conf",
            "etc/opt/remi/php*/php-fpm.d/*.conf",
            "opt/cpanel/ea-php*/root/etc/php.ini",
            "opt/cpanel/ea-php*/root/etc/php.d/*.ini",
            "opt/cpanel/ea-php*/root/etc/php-fpm.conf",
            "opt/cpanel/ea-php*/root/etc/php-fpm.d/*.conf",
            "opt/plesk/php/*/etc/php.ini",
            "opt/plesk/php/*/etc/php.d/*.ini",
            "opt/plesk/php/*/etc/php-fpm.d/*.conf",
            "opt/alt/php*/etc/php.ini",
            "opt/alt/php*/etc/php.d.all/*.ini",
            "opt/alt/php*/link/conf/*.ini",
            "opt/alt/php-fpm*/usr/etc/php-fpm.d/*.conf",
            "usr/local/php*/lib/php.ini",
            "usr/local/php*/lib/php.conf.d/*.ini",
            "usr/local/lsws/lsphp*/etc/php.ini",
            "usr/local/lsws/lsphp*/etc/php/*/litespeed/php.ini",
            "www/server/php/*/etc/php.ini",
            "www/server/php/*/etc/php-fpm.conf",
            // What stands beside them.
            "etc/default/apache2",
            "etc/default/haproxy",
            "etc/default/nginx",
            "etc/default/varnish",
            "etc/sysconfig/httpd",
            "etc/sysconfig/nginx",
            "etc/sysconfig/php-fpm",
            "etc/sysconfig/memcached",
            "etc/varnish/*.vcl",
            "etc/varnish/varnish.params",
            // Databases and caches.
            "etc/my.cnf",
            "etc/my.cnf.d/*.cnf",
            "etc/mysql/my.cnf",
            "etc/mysql/mariadb.cnf",
            "etc/mysql/conf.d/*.cnf",
            "etc/mysql/mysql.conf.d/*.cnf",
            "etc/mysql/mariadb.conf.d/*.cnf",
            "etc/redis.conf",
            "etc/redis/*.conf",
            "etc/valkey/*.conf",
            "etc/memcached*.conf",
            "etc/postgresql/*/*/postgresql.conf",
            "etc/postgresql/*/*/pg_hba.conf",
            "etc/postgresql/*/*/conf.d/*.conf",
            "var/lib/pgsql/data/postgresql.conf",
            "var/lib/pgsql/data/pg_hba.conf",
            "var/lib/pgsql/*/data/postgresql.conf",
            // The kernel and its limits.
            "etc/sysctl.conf",
            "etc/sysctl.d/*.conf",
            "etc/security/limits.conf",
            "etc/security/limits.d/*.conf",
        ],
    ),
    (
        "firewall",
        &[
            "etc/nftables.conf",
            "etc/nftables.d/*",
            "etc/nftables/*",
            "etc/sysconfig/nftables.conf",
            "etc/iptables/rules.v4",
            "etc/iptables/rules.v6",
            "etc/iptables/*.rules",
            "etc/sysconfig/iptables",
            "etc/sysconfig/ip6tables",
            "etc/ufw/*.rules",
            "etc/ufw/ufw.conf",
            "etc/firewalld/*.xml",
            "etc/firewalld/*.conf",
            "etc/firewalld/*/*.xml",
            "etc/csf/csf.conf",
            "etc/csf/csf.allow",
            "etc/csf/csf.ignore",
            "etc/fail2ban/jail.conf",
            "etc/fail2ban/jail.local",
            "etc/fail2ban/jail.d/*",
            "etc/shorewall/*",
            "etc/hosts.allow",
        ],
    ),
    (
        "dns",
        &[
            "etc/resolv.conf",
            "etc/hosts",
            "etc/nsswitch.conf",
            "etc/nscd.conf",
            "etc/systemd/resolved.conf",
            "etc/systemd/resolved.conf.d/*.conf",
            "etc/unbound/*.conf",
            "etc/unbound/unbound.conf.d/*.conf",
            "etc/unbound/conf.d/*.conf",
            "etc/named.conf",
            "etc/bind/named.conf*",
            "etc/dnsmasq.conf",
            "etc/dnsmasq.d/*",
        ],
    ),
    (
        "schedule",
        &[
            "etc/crontab",
            "etc/anacrontab",
            "etc/cron.d/*",
            "etc/cron.hourly/*",
            "etc/cron.daily/*",
            "etc/cron.weekly/*",
            "etc/cron.monthly/*",
            "var/spool/cron/*",
            "var/spool/cron/crontabs/*",
            "etc/systemd/system/*.timer",
            "etc/systemd/system/*.timer.d/*.conf",
        ],
    ),
    // Only of units that matter, see `is_wanted`.
    ("config", &["etc/systemd/system/*.service", "etc/systemd/system/*.service.d/*.conf"]),
];

/// The files that are there.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Path and kind, as the table has them.
    pub(super) files: Vec<(PathBuf, &'static str)>,
    /// Folders in which a new name would match.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Folders that may not be listed.
    pub(super) refused: Vec<PathBuf>,
}

/// Lists every place below the root; `services` are the units that matter beside the known ones.
pub(super) fn list(root: &Path, services: &[String]) -> Listing {
    let mut listing = Listing::default();
    for (ix, (kind, patterns)) in PLACES.iter().enumerate() {
        let is_units = ix + 1 == PLACES.len();
        for pattern in *patterns {
            let from = listing.files.len();
            let parts: Vec<&str> = pattern.split('/').collect();
            walk(root.to_owned(), &parts, kind, &mut listing);
            if is_units {
                let mut new = listing.files.split_off(from);
                new.retain(|(path, _)| is_wanted(path, services));
                listing.files.append(&mut new);
            }
        }
    }
    listing
}

fn walk(mut path: PathBuf, parts: &[&str], kind: &'static str, listing: &mut Listing) {
    for (ix, part) in parts.iter().enumerate() {
        if !part.contains('*') {
            path.push(part);
            continue;
        }
        let is_last = ix + 1 == parts.len();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    listing.refused.push(path);
                }
                return;
            }
        };
        let mut names: Vec<_> = entries
            .take(NAMES_MAX)
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| matches(part, name) && !is_leaving(name))
            .collect();
        names.sort_unstable();
        for name in names {
            walk(path.join(name), &parts[ix + 1..], kind, listing);
        }
        if is_last {
            listing.folders.insert(path);
        }
        return;
    }
    listing.files.push((path, kind));
}

/// One `*` stands for any part of a name.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, end)) = pattern.split_once('*') else { return pattern == name };
    name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
}

/// Units, and drop-ins of such, that answer requests.
fn is_wanted(path: &Path, services: &[String]) -> bool {
    let mut parts = path.iter().rev().map(|part| part.to_string_lossy());
    let Some(unit) = parts.find(|part| part.contains(".service")) else { return false };
    let unit = unit.trim_end_matches(".d");
    is_of_stack(unit) || services.iter().any(|service| service == unit)
}

/// Editors' and package managers' leavings.
pub(super) fn is_leaving(name: &str) -> bool {
    const ENDS: [&str; 14] = [
        "~",
        ".swp",
        ".swx",
        ".tmp",
        ".bak",
        ".orig",
        ".dpkg-new",
        ".dpkg-old",
        ".dpkg-dist",
        ".dpkg-tmp",
        ".rpmnew",
        ".rpmsave",
        ".rpmorig",
        ".ucf-dist",
    ];
    name.starts_with(['.', '#']) || ENDS.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_a_part_of_one_name() {
        for (pattern, name, want) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("*", "a", true),
            ("php*", "php82", true),
            ("php*", "ph", false),
            ("a*a", "a", false),
            ("named.conf*", "named.conf.local", true),
            ("*.service.d", "nginx.service.d", true),
            ("a", "b", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn places_of_every_kind_are_listed_and_units_only_where_they_answer_requests() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "etc/php/8.2/fpm/php.ini",
            "etc/php/8.2/fpm/conf.d/10-opcache.ini",
            "etc/php/8.2/fpm/conf.d/.10-opcache.ini.swp",
            "opt/cpanel/ea-php81/root/etc/php.ini",
            "etc/mysql/mariadb.conf.d/50-server.cnf",
            "etc/systemd/system/php8.2-fpm.service.d/limits.conf",
            "etc/systemd/system/app.service",
            "etc/systemd/system/printer.service",
            "etc/systemd/system/backup.timer",
            "etc/firewalld/zones/public.xml",
            "etc/csf/csf.conf",
            "etc/csf/csf.deny",
            "etc/hosts.deny",
            "etc/bind/named.conf.local",
            "etc/cron.d/site",
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let listing = list(dir.path(), &["app.service".to_owned()]);
        let found: Vec<_> = listing
            .files
            .iter()
            .filter(|(path, _)| path.exists())
            .map(|(path, kind)| (*kind, path.strip_prefix(dir.path()).unwrap().to_str().unwrap()))
            .collect();
        let want = [
            ("config", "etc/php/8.2/fpm/php.ini"),
            ("config", "etc/php/8.2/fpm/conf.d/10-opcache.ini"),
            ("config", "opt/cpanel/ea-php81/root/etc/php.ini"),
            ("config", "etc/mysql/mariadb.conf.d/50-server.cnf"),
            ("firewall", "etc/firewalld/zones/public.xml"),
            ("firewall", "etc/csf/csf.conf"),
            ("dns", "etc/bind/named.conf.local"),
            ("schedule", "etc/cron.d/site"),
            ("schedule", "etc/systemd/system/backup.timer"),
            ("config", "etc/systemd/system/app.service"),
            ("config", "etc/systemd/system/php8.2-fpm.service.d/limits.conf"),
        ];
        assert_eq!(found, want);
        assert!(listing.folders.contains(&dir.path().join("etc/cron.d")));
    }
}
