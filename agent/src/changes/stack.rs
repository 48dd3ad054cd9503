//! Which packages, units and programs belong to what answers requests; pure.

/// Beginnings of names, most telling ones first.
const NAMES: [&str; 40] = [
    "php",
    "nginx",
    "openresty",
    "apache2",
    "httpd",
    "libapache2",
    "mod_",
    "haproxy",
    "varnish",
    "caddy",
    "traefik",
    "envoy",
    "lighttpd",
    "litespeed",
    "openlitespeed",
    "lsphp",
    "lsws",
    "ea-php",
    "ea-apache",
    "ea-nginx",
    "alt-php",
    "plesk-php",
    "mysql",
    "mariadb",
    "percona",
    "postgresql",
    "redis",
    "valkey",
    "memcached",
    "openssl",
    "libssl",
    "libc6",
    "glibc",
    "systemd",
    "linux-image",
    "kernel",
    "nodejs",
    "uwsgi",
    "gunicorn",
    "firewalld",
];

/// True for `php8.2-fpm 8.2.7 to 8.2.29`, `nginx.service`.
pub(super) fn is_of_stack(name: &str) -> bool {
    NAMES.iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_requests_is_told_from_the_rest() {
        for (name, want) in [
            ("php8.2-fpm 8.2.7 to 8.2.29", true),
            ("libssl3 3.0.1 to 3.0.2", true),
            ("nginx.service", true),
            ("mariadb@one.service", true),
            ("vim 9.0 installed", false),
            ("libperl5.36 1 to 2", false),
            ("", false),
        ] {
            assert_eq!(is_of_stack(name), want, "{name}");
        }
    }
}
