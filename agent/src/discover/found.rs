//! What the readers of the servers' configurations hand over, before it is put together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::discover::backends::StatusPage;
use crate::discover::files::has_wildcard;
use crate::discover::stores::Store;
use crate::discover::{LogKind, Pool};

/// Which web server a vhost is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Server {
    Nginx,
    Apache,
    Haproxy,
    Caddy,
    Varnish,
    Lighttpd,
    Litespeed,
    Traefik,
}

impl Server {
    /// Format of its error log.
    pub(super) fn error_format(self) -> &'static str {
        match self {
            Self::Nginx => "nginx_error",
            Self::Apache => "apache_error",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
            Self::Varnish | Self::Traefik => "auto",
            Self::Lighttpd => "lighttpd_error",
            Self::Litespeed => "litespeed_error",
        }
    }
}

/// An access log as a vhost writes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct VhostLog {
    /// With `*` for what only a request or the day decides.
    pub(super) path: PathBuf,
    /// A built-in name or the format string itself.
    pub(super) format: String,
    /// Which `*` of the path stands for the site, from 1.
    pub(super) host_wildcard: Option<usize>,
    /// Whether its lines name their site, where the format alone does not tell.
    pub(super) names_host: Option<bool>,
    /// Only some requests are written into it: `if=$loggable`, `env=slow`.
    pub(super) is_conditional: bool,
    /// Logs of one scope get the same requests, those of another one others: 0 is the vhost itself,
    /// the rest are its locations.
    pub(super) scope: usize,
}

impl VhostLog {
    pub(super) fn new(path: PathBuf, format: &str) -> Self {
        Self { path, format: format.to_owned(), ..Self::default() }
    }

    pub(super) fn names_host(&self) -> bool {
        self.names_host.unwrap_or_else(|| names_host(&self.format))
    }

    pub(super) fn is_pattern(&self) -> bool {
        has_wildcard(&self.path.to_string_lossy())
    }
}

/// One vhost as its server's configuration has it.
#[derive(Clone, Debug)]
pub(super) struct Vhost {
    pub(super) server: Server,
    pub(super) names: Vec<String>,
    /// What to call it when it has no name and something reaches it from outside.
    pub(super) label: Option<String>,
    pub(super) access_logs: Vec<VhostLog>,
    pub(super) error_logs: Vec<PathBuf>,
    /// Addresses that answer, the most telling one first.
    pub(super) backends: Vec<String>,
    /// Those of `backends` whose requests it does not log: `access_log off` beside the pass.
    pub(super) unlogged: Vec<String>,
    /// `80`, `127.0.0.1:8080`, `*:80`, `/run/a.sock`.
    pub(super) listen: Vec<String>,
    /// Those of `listen` at which it takes the hosts that no vhost names.
    pub(super) default_at: Vec<String>,
    /// Those of `listen` that speak TLS, and those that want the PROXY protocol first.
    pub(super) tls_at: Vec<String>,
    pub(super) wrapped_at: Vec<String>,
    /// Those of `backends` that are asked over TLS, and over FastCGI or the like.
    pub(super) tls_to: Vec<String>,
    pub(super) scripts: Vec<String>,
    pub(super) docroot: Option<String>,
    /// Certificates, as the configuration writes their paths.
    pub(super) certificates: Vec<String>,
    /// The Unix user and the PHP its configuration names.
    pub(super) owner: Option<String>,
    pub(super) php_version: Option<String>,
    pub(super) source: String,
}

impl Vhost {
    pub(super) fn new(server: Server, source: String) -> Self {
        Self {
            server,
            names: Vec::new(),
            label: None,
            access_logs: Vec::new(),
            error_logs: Vec::new(),
            backends: Vec::new(),
            unlogged: Vec::new(),
            listen: Vec::new(),
            default_at: Vec::new(),
            tls_at: Vec::new(),
            wrapped_at: Vec::new(),
            tls_to: Vec::new(),
            scripts: Vec::new(),
            docroot: None,
            certificates: Vec::new(),
            owner: None,
            php_version: None,
            source,
        }
    }
}

/// All that the readers found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) vhosts: Vec<Vhost>,
    /// Error logs that belong to no vhost alone.
    pub(super) error_logs: Vec<(PathBuf, Server)>,
    pub(super) services: BTreeSet<String>,
    pub(super) pools: Vec<Pool>,
    /// Logs of other programs, and their formats.
    pub(super) other_logs: Vec<(PathBuf, LogKind, &'static str)>,
    /// Where servers tell how they are.
    pub(super) status_pages: Vec<StatusPage>,
    /// Databases and caches.
    pub(super) stores: Vec<Store>,
}

impl Found {
    pub(super) fn add_error_log(&mut self, path: PathBuf, server: Server) {
        if !self.error_logs.iter().any(|(known, _)| *known == path) {
            self.error_logs.push((path, server));
        }
    }
}

/// True when lines of the format name a site.
pub(super) fn names_host(format: &str) -> bool {
    const VARIABLES: [&str; 6] = [
        "host",
        "http_host",
        "server_name",
        "http_x_forwarded_host",
        "ssl_server_name",
        "authority",
    ];
    const DIRECTIVES: [&str; 5] = ["%v", "%V", "%{host}i", "%{x-forwarded-host}i", "%{host}x"];
    if matches!(format, "vhost_combined" | "json" | "auto" | "caddy" | "varnish") {
        return true;
    }
    if let Some(place) = format.strip_prefix("haproxy:host=") {
        return place != "0";
    }
    let has_variable = format.split('$').skip(1).any(|rest| {
        let rest = rest.trim_start_matches('{');
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        VARIABLES.contains(&&rest[..end.unwrap_or(rest.len())])
    });
    let lower = format.to_ascii_lowercase();
    has_variable
        || DIRECTIVES.iter().any(|field| {
            // `%v` and `%V` differ in case alone and mean the same to us.
            lower.contains(&field.to_ascii_lowercase())
        })
}

/// True when lines of the format tell the status, without which no request can be counted.
pub(super) fn has_status(format: &str) -> bool {
    if format.contains('$') {
        return format.split('$').skip(1).any(|rest| {
            let rest = rest.trim_start_matches('{');
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            &rest[..end.unwrap_or(rest.len())] == "status"
        });
    }
    // `%>s`, `%s`, `%<s`, `%400,501>s`.
    let sign = |c: char| c.is_ascii_digit() || matches!(c, ',' | '!' | '<' | '>');
    let is_status = |rest: &str| rest.trim_start_matches(sign).starts_with('s');
    // A time has a format of its own: `%{%s}t`.
    let format = format.replace("%{%", "%{");
    !format.contains('%') || format.split('%').skip(1).any(is_status)
}

/// Files beside access logs that are none.
pub(super) fn is_no_log(path: &Path) -> bool {
    path == Path::new("/dev/null") || crate::logs::sources::is_no_log(path)
}

/// The PHP a path belongs to: `/etc/php/8.2/fpm`, `/opt/cpanel/ea-php82`, `/etc/php82rc`.
pub(crate) fn php_version(path: &str) -> Option<String> {
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        if part == "php"
            && let Some(next) = parts.peek()
        {
            if is_version(next) {
                return Some((*next).to_owned());
            }
            if let Some(version) = dotted(next) {
                return Some(version);
            }
        }
        let Some(at) = part.rfind("php") else { continue };
        let rest = part[at + 3..].trim_start_matches("-fpm").trim_start_matches('-');
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = rest[..end].trim_matches('.');
        if is_version(number) {
            return Some(number.to_owned());
        }
        if let Some(version) = dotted(number) {
            return Some(version);
        }
    }
    None
}

/// `8.2`.
fn is_version(text: &str) -> bool {
    let is_number = |part: &str| {
        !part.is_empty() && part.len() < 3 && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    text.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

/// `82` -> `8.2`, `74` -> `7.4`.
fn dotted(digits: &str) -> Option<String> {
    let is_number = (2..=3).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && digits.starts_with(['5', '7', '8', '9']);
    is_number.then(|| format!("{}.{}", &digits[..1], &digits[1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_names_its_site_or_does_not() {
        for (format, names) in [
            ("combined", false),
            ("vhost_combined", true),
            ("$remote_addr $host", true),
            ("$remote_addr $hostname", false),
            ("${host} $status", true),
            (r#"{"vhost":"$server_name","s":$status}"#, true),
            ("%h %l %u", false),
            ("%v:%p %h", true),
            ("%V %h", true),
            ("%h \"%{Host}i\"", true),
            ("%h \"%{User-Agent}i\"", false),
            ("varnish", true),
            ("haproxy", false),
            ("haproxy:host=2", true),
            ("haproxy:host=0", false),
        ] {
            assert_eq!(names_host(format), names, "{format}");
        }
    }

    #[test]
    fn a_format_tells_the_status_or_does_not() {
        for (format, has) in [
            ("combined", true),
            ("auto", true),
            ("$host $status $body_bytes_sent", true),
            ("${status} $host", true),
            ("$body_bytes_sent", false),
            ("$upstream_status $host", false),
            ("%h %l %u %t \"%r\" %>s %b", true),
            (r#"{"s":"%s"}"#, true),
            ("%400,501>s %r", true),
            ("%{%s}t %I", false),
            ("%I %O", false),
        ] {
            assert_eq!(has_status(format), has, "{format}");
        }
    }

    #[test]
    fn a_path_tells_the_version_of_php() {
        for (path, version) in [
            ("/etc/php/8.2/fpm/pool.d/www.conf", Some("8.2")),
            ("/etc/opt/remi/php74/php-fpm.d/www.conf", Some("7.4")),
            ("/opt/cpanel/ea-php81/root/etc/php-fpm.d/a.conf", Some("8.1")),
            ("/opt/plesk/php/8.3/etc/php-fpm.d/a.conf", Some("8.3")),
            ("/etc/php82rc/fpm.d/a.conf", Some("8.2")),
            ("/www/server/php/82/etc/php-fpm.conf", Some("8.2")),
            ("/usr/local/lsws/lsphp83/bin/lsphp", Some("8.3")),
            ("/run/php/php8.2-fpm.sock", Some("8.2")),
            ("/opt/alt/php-fpm82/usr/etc/php-fpm.d/u.conf", Some("8.2")),
            ("/etc/php-fpm.d/www.conf", None),
            ("/usr/local/php/etc/php-fpm.conf", None),
            ("php", None),
        ] {
            assert_eq!(php_version(path).as_deref(), version, "{path}");
        }
    }

    #[test]
    fn byte_counts_and_copies_are_no_logs() {
        for (name, is_log) in [
            ("/l/a.example.log", true),
            ("/l/a.example.bytes", false),
            ("/l/a.example-bytes_log", false),
            ("/l/access_log.processed", false),
            ("/l/access_log.webstat", false),
            ("/dev/null", false),
        ] {
            assert_eq!(!is_no_log(Path::new(name)), is_log, "{name}");
        }
    }
}
