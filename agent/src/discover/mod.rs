//! Stage 0: what there is to watch on this server, read from its configuration files.

mod apache;
mod apache_pages;
mod apache_words;
mod assemble;
pub mod backends;
mod caddy;
mod chain;
mod counted;
mod daemons;
mod docroot;
mod files;
mod followed;
mod found;
pub mod fuzzing;
mod haproxy;
mod host_names;
mod lighttpd;
mod litespeed;
mod nginx;
mod nginx_pages;
mod nginx_targets;
mod nginx_tokens;
mod panels;
mod php_fpm;
mod pipes;
pub mod render;
pub mod stores;
mod traefik;
mod varnish;
mod words;
mod yaml;

use std::path::{Path, PathBuf};

use backends::{Backend, Listen, StatusPage};
use files::Files;
pub(crate) use found::php_version;
use stores::Store;

/// All that discovery found; the input of the tail, the join and the `discover` command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Discovery {
    /// Virtual hosts, by primary name.
    pub sites: Vec<Site>,
    /// PHP-FPM pools.
    pub pools: Vec<Pool>,
    /// To whom the sites' requests are passed on.
    pub backends: Vec<Backend>,
    /// Where servers tell how they are.
    pub status_pages: Vec<StatusPage>,
    /// Databases and caches that may run here.
    pub stores: Vec<Store>,
    /// Services worth watching: systemd unit names or process names.
    pub services: Vec<String>,
    /// Every log to follow, each once.
    pub logs: Vec<LogSource>,
    /// Configuration files and their folders: discover again when one changes. At most 20,000, one
    /// `stat` each to see it.
    pub config_files: Vec<PathBuf>,
    /// What is no configuration and decides as well: folders that new configurations or logs would
    /// appear in, and the files that tell an application's version. As `config_files`.
    pub watched: Vec<PathBuf>,
    /// Certificates that vhosts name; at most 5,000.
    pub certificates: Vec<Certificate>,
    /// Addresses of this machine beside loopback.
    pub addresses: Vec<std::net::IpAddr>,
    /// What could not be read, why, and the one command that grants it.
    pub unreadable: Vec<Unreadable>,
}

/// Reads the configuration files under `root` (`/` on a real machine); runs nothing.
///
/// Absolute paths inside them are looked for below `root` first, then as they are written. Never
/// fails: what cannot be read is listed. Cost: one read of every configuration file.
#[must_use]
pub fn discover(root: &Path) -> Discovery {
    let mut files = Files::new(root);
    let mut found = found::Found::default();
    php_fpm::discover(&mut files, &mut found);
    nginx::discover(&mut files, &mut found);
    apache::discover(&mut files, &mut found);
    haproxy::discover(&mut files, &mut found);
    caddy::discover(&mut files, &mut found);
    lighttpd::discover(&mut files, &mut found);
    varnish::discover(&mut files, &mut found);
    litespeed::discover(&mut files, &mut found);
    traefik::discover(&mut files, &mut found);
    panels::discover(&mut files, &mut found);
    daemons::discover(&mut files, &mut found);
    stores::discover(&mut files, &mut found);
    let mut discovery = assemble::assemble(&mut files, found);
    files.finish(&mut discovery);
    discovery
}

/// One virtual host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// Primary name, lower case.
    pub name: String,
    /// Other names, lower case.
    pub aliases: Vec<String>,
    /// Access logs with the format they are written in.
    pub access_logs: Vec<AccessLog>,
    /// Error logs that may speak of this site.
    pub error_logs: Vec<PathBuf>,
    /// PHP-FPM pool name, or the local socket or port that serves it.
    pub pool: Option<String>,
    /// Upstream address of another machine.
    pub upstream: Option<String>,
    /// Unix user that owns it.
    pub owner: Option<String>,
    /// Application found in the document root, with its version: `WordPress 6.4.2`.
    pub application: Option<String>,
    /// Version of the PHP that serves it, e.g. `8.2`.
    pub php_version: Option<String>,
    /// Document root.
    pub docroot: Option<PathBuf>,
    /// Where its front-most server can be asked from this machine, plain before TLS.
    pub listen: Vec<Listen>,
    /// File and line it was found in, e.g. `/etc/nginx/sites-enabled/a:3`.
    pub source: String,
}

impl Site {
    /// Its owner, where that is somebody: not the user of a web server, to whom sites of many belong.
    #[must_use]
    pub fn customer(&self) -> Option<&str> {
        self.owner.as_deref().filter(|owner| !NOBODY.contains(owner))
    }
}

/// Users that own what belongs to no site owner.
const NOBODY: [&str; 6] = ["root", "www-data", "apache", "nginx", "nobody", "http"];

/// An access log of a site.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessLog {
    /// Where it is.
    pub path: PathBuf,
    /// A built-in name (`combined`) or the format string itself.
    pub format: String,
}

/// A certificate that a vhost names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// File, or folder of files.
    pub path: PathBuf,
    /// The site it is for; `None` when several sites name it.
    pub site: Option<String>,
}

/// One PHP-FPM pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// Name in brackets in its configuration.
    pub name: String,
    /// Socket path or `address:port` as configured.
    pub listen: String,
    /// systemd unit that runs it, e.g. `php8.2-fpm.service`, when its path tells.
    pub unit: Option<String>,
    /// `pm.max_children`.
    pub max_children: Option<u32>,
    /// `listen.backlog`.
    pub backlog: Option<i32>,
    /// Error log of the master.
    pub error_log: Option<PathBuf>,
    /// Slow log of the pool.
    pub slow_log: Option<PathBuf>,
    /// Version of PHP, when its path tells.
    pub php_version: Option<String>,
    /// Unix user and group of the workers.
    pub user: Option<String>,
    /// See `user`.
    pub group: Option<String>,
    /// `pm`: `static`, `dynamic` or `ondemand`.
    pub pm: Option<String>,
    /// `pm.start_servers`.
    pub start_servers: Option<u32>,
    /// `pm.min_spare_servers`.
    pub min_spare_servers: Option<u32>,
    /// `pm.max_spare_servers`.
    pub max_spare_servers: Option<u32>,
    /// `pm.max_requests`; 0 = a worker lives for ever.
    pub max_requests: Option<u32>,
    /// `pm.process_idle_timeout`, in seconds.
    pub process_idle_timeout_s: Option<u64>,
    /// `request_terminate_timeout`, in seconds; 0 = never.
    pub request_terminate_timeout_s: Option<u64>,
    /// `request_slowlog_timeout`, in seconds; 0 = no slow log.
    pub request_slowlog_timeout_s: Option<u64>,
    /// `pm.status_path`.
    pub status_path: Option<String>,
    /// `pm.status_listen`: an address of its own for the status page (PHP 8).
    pub status_listen: Option<String>,
    /// File and line it was found in.
    pub source: String,
}

/// What kind of lines a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKind {
    /// Requests.
    Access,
    /// Errors of a web server or proxy.
    Error,
    /// PHP-FPM master log.
    PhpFpm,
    /// PHP-FPM slow log.
    PhpSlow,
    /// MySQL or MariaDB error log.
    Mysql,
    /// Redis log.
    Redis,
    /// ModSecurity audit log.
    Modsecurity,
    /// syslog.
    Syslog,
    /// Kernel log.
    Kernel,
    /// Package manager logs and the like.
    Change,
}

/// How the site of a line is found when the line does not name one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteRule {
    /// Always this site.
    Fixed(String),
    /// The host the line names, looked up among the known names; else the file name.
    Host,
}

/// One log to follow.
#[derive(Clone, Debug, PartialEq)]
pub struct LogSource {
    /// The file; globs are expanded before this.
    pub path: PathBuf,
    /// What its lines are.
    pub kind: LogKind,
    /// `auto`, a built-in name, or the format string.
    pub format: String,
    /// Whose lines these are.
    pub site: SiteRule,
    /// Zone of times without offset; `None` = the machine's.
    pub timezone: Option<String>,
    /// True for a log behind another web server of this machine: evidence, never counted.
    pub inner: bool,
    /// Sites whose requests another log counts, where not all sites of this log are such.
    pub inner_sites: Vec<String>,
}

/// Something discovery wanted to read and could not.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    /// What.
    pub path: PathBuf,
    /// Why, in words.
    pub reason: String,
    /// The one command that grants it.
    pub fix: String,
}

#[cfg(test)]
mod tests;
