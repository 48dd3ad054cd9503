//! Hosting panels by where they put logs, for machines whose web-server configuration the agent may
//! not read.
//!
//! What a configuration says is always stronger: a layout is only used when no vhost that was read
//! writes below its folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::discover::files::{Files, has_wildcard};
use crate::discover::found::{Found, Server, Vhost, VhostLog, is_no_log};

/// Where in a chain the server that writes a log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Alone,
    Front,
    Behind,
}

/// Logs of one server as a panel lays them out; the last `*` is the site.
struct Layout {
    panel: &'static str,
    server: Server,
    place: Place,
    access: &'static str,
    /// `{}` is the site.
    error: &'static str,
    format: &'static str,
}

const fn layout(
    panel: &'static str,
    server: Server,
    place: Place,
    access: &'static str,
    error: &'static str,
) -> Layout {
    Layout { panel, server, place, access, error, format: "combined" }
}

const PLESK: &str = "%a %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"";
const CYBERPANEL: &str = "%v %h %l %u %t \"%r\" %>s %b";

/// Panels whose logs are named after a user or an application instead of a domain.
const BY_USER: [&str; 2] = ["CloudPanel", "RunCloud"];
/// Names beside those of domains that are no sites.
const NO_SITES: [&str; 2] = ["localhost", ".localhost"];

const LAYOUTS: [Layout; 19] = {
    use Place::{Alone, Behind, Front};
    use Server::{Apache, Litespeed, Nginx};
    [
        layout(
            "cPanel",
            Apache,
            Behind,
            "/etc/apache2/logs/domlogs/*",
            "/etc/apache2/logs/error_log",
        ),
        layout(
            "cPanel",
            Apache,
            Behind,
            "/var/log/apache2/domlogs/*",
            "/var/log/apache2/error_log",
        ),
        layout(
            "cPanel",
            Apache,
            Behind,
            "/usr/local/apache/domlogs/*",
            "/usr/local/apache/logs/error_log",
        ),
        layout(
            "Plesk",
            Nginx,
            Front,
            "/var/www/vhosts/system/*/logs/proxy_access_log",
            "/var/www/vhosts/system/{}/logs/proxy_error_log",
        ),
        layout(
            "Plesk",
            Nginx,
            Front,
            "/var/www/vhosts/system/*/logs/proxy_access_ssl_log",
            "/var/www/vhosts/system/{}/logs/proxy_error_log",
        ),
        Layout {
            format: PLESK,
            ..layout(
                "Plesk",
                Apache,
                Behind,
                "/var/www/vhosts/system/*/logs/access_log",
                "/var/www/vhosts/system/{}/logs/error_log",
            )
        },
        Layout {
            format: PLESK,
            ..layout(
                "Plesk",
                Apache,
                Behind,
                "/var/www/vhosts/system/*/logs/access_ssl_log",
                "/var/www/vhosts/system/{}/logs/error_log",
            )
        },
        layout(
            "DirectAdmin",
            Apache,
            Behind,
            "/var/log/httpd/domains/*.log",
            "/var/log/httpd/domains/{}.error.log",
        ),
        layout(
            "HestiaCP",
            Nginx,
            Front,
            "/var/log/nginx/domains/*.log",
            "/var/log/nginx/domains/{}.error.log",
        ),
        layout(
            "HestiaCP",
            Apache,
            Behind,
            "/var/log/apache2/domains/*.log",
            "/var/log/apache2/domains/{}.error.log",
        ),
        layout("cPanel", Nginx, Front, "/var/log/nginx/domains/*", "/var/log/nginx/error.log"),
        layout(
            "ISPConfig",
            Apache,
            Alone,
            "/var/log/ispconfig/httpd/*/access.log",
            "/var/log/ispconfig/httpd/{}/error.log",
        ),
        layout(
            "CloudPanel",
            Nginx,
            Alone,
            concat!("/home", "/*/logs/nginx/access.log"),
            concat!("/home", "/{}/logs/nginx/error.log"),
        ),
        Layout {
            format: CYBERPANEL,
            ..layout(
                "CyberPanel",
                Litespeed,
                Alone,
                concat!("/home", "/*/logs/*.access_log"),
                concat!("/home", "/{}/logs/{}.error_log"),
            )
        },
        layout("RunCloud", Nginx, Alone, concat!("/home", "/*/logs/nginx/*_access.log"), ""),
        layout(
            "ispmanager",
            Nginx,
            Alone,
            "/var/www/httpd-logs/*.access.log",
            "/var/www/httpd-logs/{}.error.log",
        ),
        layout(
            "Virtualmin",
            Apache,
            Alone,
            "/var/log/virtualmin/*_access_log",
            "/var/log/virtualmin/{}_error_log",
        ),
        layout("aaPanel", Nginx, Alone, "/www/wwwlogs/*.log", "/www/wwwlogs/{}.error.log"),
        layout(
            "CWP",
            Apache,
            Behind,
            "/usr/local/apache/domlogs/*.log",
            "/usr/local/apache/domlogs/{}.error.log",
        ),
    ]
};

/// What stands behind the name of a site in its file's name.
const ENDINGS: [&str; 3] = ["-ssl_log", "_ssl", "-ssl"];
/// Sites of one layout that are taken over.
const SITES_MAX: usize = 20_000;

/// Adds the sites of layouts that nothing else told of.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    // Panels link folders of logs from where others have them.
    let mut taken: BTreeSet<PathBuf> = BTreeSet::new();
    let configured = folders(found);
    for layout in &LAYOUTS {
        let pattern = files.below(layout.access);
        let folder = pattern
            .ancestors()
            .skip(1)
            .find(|folder| !has_wildcard(&folder.to_string_lossy()))
            .unwrap_or(Path::new("/"))
            .to_path_buf();
        if !folder.is_dir() {
            continue;
        }
        let real_folder = real(&folder);
        let is_known = |(server, known): &(Server, PathBuf)| {
            *server == layout.server
                && (known.starts_with(&folder) || known.starts_with(&real_folder))
        };
        if configured.iter().any(is_known) {
            continue;
        }
        for path in files.expand_logs(&pattern.to_string_lossy()).into_iter().take(SITES_MAX) {
            let is_site = |site: &String| BY_USER.contains(&layout.panel) || is_domain(site);
            let Some(site) = site(layout.access, &path).filter(is_site) else { continue };
            if taken.insert(real(&path)) {
                found.vhosts.push(vhost(files, layout, &site, &path));
            }
        }
    }
}

/// The folders that the servers' own configurations put access logs into, as written and as they are.
fn folders(found: &Found) -> BTreeSet<(Server, PathBuf)> {
    let of = |vhost: &Vhost| -> Vec<(Server, PathBuf)> {
        let folders = vhost.access_logs.iter().filter_map(|log| log.path.parent());
        folders.map(|folder| (vhost.server, folder.to_path_buf())).collect()
    };
    let mut folders: BTreeSet<(Server, PathBuf)> = found.vhosts.iter().flat_map(of).collect();
    let real_ones: Vec<_> =
        folders.iter().map(|(server, folder)| (*server, real(folder))).collect();
    folders.extend(real_ones);
    folders
}

/// Where a path is in truth.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// True for what may be the name of a site: a domain or an address.
fn is_domain(name: &str) -> bool {
    is_address(name) || name.contains('.') && !NO_SITES.iter().any(|end| name.ends_with(end))
}

fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

fn vhost(files: &Files, layout: &Layout, site: &str, path: &Path) -> Vhost {
    let mut vhost = Vhost::new(layout.server, format!("layout of {}", layout.panel));
    vhost.names.push(site.to_owned());
    vhost.access_logs.push(VhostLog::new(path.to_path_buf(), layout.format));
    if !layout.error.is_empty() {
        let error = files.below(&layout.error.replace("{}", site));
        vhost.error_logs.extend(Some(error).filter(|path| path.exists()));
    }
    // Who asks whom is not known; that for one site the one stands before the other is.
    let address = format!("@{site}");
    match layout.place {
        Place::Alone => {}
        Place::Front => vhost.backends.push(address),
        Place::Behind => vhost.listen.push(address),
    }
    vhost
}

/// The site a path is of, or nothing when it is no access log.
fn site(pattern: &str, path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    let is_other = is_no_log(path)
        || ["-ftp_log", "-bytes_log", ".error.log", ".error_log", "error_log", ".offset", ".bkup"]
            .iter()
            .any(|end| text.ends_with(end))
        || [".gz", ".bz2", ".xz", ".zst", ".zip"].iter().any(|end| text.ends_with(end));
    if is_other || path.is_dir() {
        return None;
    }
    let (_, after) = pattern.rsplit_once('*')?;
    let mut name = text.strip_suffix(after)?.rsplit('/').next()?;
    while let Some(shorter) = ENDINGS.iter().find_map(|end| name.strip_suffix(end)) {
        name = shorter;
    }
    let is_number = |end: &str| end.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let is_rotated =
        !is_address(name) && name.rsplit_once('.').is_some_and(|(_, end)| is_number(end));
    (!name.is_empty() && !is_rotated).then(|| name.to_lowercase())
}
