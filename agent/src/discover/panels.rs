//! Hosting panels by where they put logs, for machines whose web-server configuration the agent may
//! not read.
//!
//! What a configuration says is always stronger: a layout is only used when no vhost that was read
//! writes below its folder.

use std::path::Path;

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
    let mut taken: Vec<std::path::PathBuf> = Vec::new();
    for layout in &LAYOUTS {
        let pattern = files.below(layout.access);
        let folder = pattern
            .ancestors()
            .skip(1)
            .find(|folder| !has_wildcard(&folder.to_string_lossy()))
            .unwrap_or(Path::new("/"))
            .to_path_buf();
        let is_known = |vhost: &Vhost| {
            vhost.server == layout.server
                && vhost.access_logs.iter().any(|log| log.path.starts_with(&folder))
        };
        let of_configurations = &found.vhosts[..found.vhosts.len() - taken.len()];
        if of_configurations.iter().any(is_known) || !folder.is_dir() {
            continue;
        }
        for path in files.expand_logs(&pattern.to_string_lossy()).into_iter().take(SITES_MAX) {
            let Some(site) = site(layout.access, &path).filter(|_| !taken.contains(&path)) else {
                continue;
            };
            found.vhosts.push(vhost(files, layout, &site, &path));
            taken.push(path);
        }
    }
}

fn vhost(files: &Files, layout: &Layout, site: &str, path: &Path) -> Vhost {
    let mut vhost = Vhost::new(layout.server, format!("layout of {}", layout.panel));
    vhost.names.push(site.to_owned());
    vhost.access_logs.push(VhostLog::new(path.to_path_buf(), layout.format));
    if !layout.error.is_empty() {
        let error = files.below(&layout.error.replace("{}", site));
        vhost.error_logs.extend(Some(error).filter(|path| path.exists()));
    }
    // Who asks whom is not known; that the one stands before the other is.
    match layout.place {
        Place::Alone => {}
        Place::Front => vhost.backends.push("127.0.0.1:1".to_owned()),
        Place::Behind => vhost.listen.push("127.0.0.1:1".to_owned()),
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
    let is_rotated = name
        .rsplit_once('.')
        .is_some_and(|(_, end)| end.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'));
    (!name.is_empty() && !is_rotated).then(|| name.to_lowercase())
}
