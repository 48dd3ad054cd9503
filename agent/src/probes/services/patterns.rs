//! Which units and processes stand between a request and its answer, by their names.

use crate::discover::Pool;

/// systemd units, the usual ones.
const UNIT_PATTERNS: [&str; 52] = [
    // Servers, proxies and caches.
    "nginx*.service",
    "angie*.service",
    "openresty*.service",
    "apache2*.service",
    "httpd*.service",
    "haproxy*.service",
    "caddy*.service",
    "traefik*.service",
    "envoy*.service",
    "lighttpd*.service",
    "lshttpd*.service",
    "lsws*.service",
    "openlitespeed*.service",
    "varnish*.service",
    // What runs the applications.
    "php*fpm*.service",
    "ea-php*fpm*.service",
    "plesk-php*fpm*.service",
    "rh-php*fpm*.service",
    "uwsgi*.service",
    "gunicorn*.service",
    "unicorn*.service",
    "puma*.service",
    "pm2-*.service",
    "tomcat*.service",
    // Sockets that start the above.
    "gunicorn*.socket",
    "uwsgi*.socket",
    "puma*.socket",
    // What the applications ask.
    "mysql*.service",
    "mariadb*.service",
    "percona-server*.service",
    "postgresql*.service",
    "pgbouncer*.service",
    "proxysql*.service",
    "redis*.service",
    "valkey*.service",
    "keydb*.service",
    "dragonfly*.service",
    "memcached*.service",
    "rabbitmq*.service",
    // Names.
    "named*.service",
    "bind9.service",
    "systemd-resolved.service",
    "unbound*.service",
    "dnsmasq*.service",
    // What may come between.
    "csf.service",
    "lfd.service",
    "firewalld.service",
    "nftables.service",
    "iptables.service",
    "ufw.service",
    "fail2ban.service",
    "imunify360*.service",
];

/// What runs the containers, where sites are answered by some.
pub(crate) const CONTAINER_UNITS: [&str; 3] =
    ["docker.service", "containerd.service", "podman.service"];

/// Names of the processes behind them.
const PROCESS_NAMES: [&str; 32] = [
    "nginx",
    "angie",
    "openresty",
    "apache2",
    "httpd",
    "haproxy",
    "caddy",
    "traefik",
    "envoy",
    "lighttpd",
    "lshttpd",
    "litespeed",
    "openlitespeed",
    "varnishd",
    "php-fpm",
    "uwsgi",
    "gunicorn",
    "unicorn",
    "puma",
    "mysqld",
    "mariadbd",
    "postgres",
    "pgbouncer",
    "proxysql",
    "redis-server",
    "valkey-server",
    "keydb-server",
    "dragonfly",
    "memcached",
    "named",
    "unbound",
    "dnsmasq",
];

/// Patterns of unit names for systemd: the usual ones, and names as they are.
pub(crate) fn unit_patterns(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut patterns: Vec<String> =
        UNIT_PATTERNS.iter().map(|&pattern| pattern.to_owned()).collect();
    patterns.extend(names.filter_map(|name| unit_name(&name)));
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

/// The unit that a name means: `my-app` is `my-app.service`. `None` for what is no name: what systemd
/// would read as a pattern cannot be in one.
pub(crate) fn unit_name(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > 255 || name.contains(['*', '?', '[', '/']) {
        return None;
    }
    let has_type = ["service", "socket", "scope"].iter().any(|kind| is_type(name, kind));
    Some(if has_type { name.to_owned() } else { format!("{name}.service") })
}

/// True for a unit of this type: `service`, `scope`, `slice`.
pub(crate) fn is_type(unit: &str, kind: &str) -> bool {
    unit.rsplit_once('.').is_some_and(|(_, of)| of == kind)
}

/// True for units that live once, under a name that does not come again: containers, sessions, and
/// commands that were run as a unit.
pub(crate) fn is_transient(unit: &str) -> bool {
    is_type(unit, "scope") || unit.starts_with("run-") || unit.starts_with("session-")
}

/// Patterns made ready to look many names up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matcher {
    globs: Vec<glob::Pattern>,
    /// Without wildcards; these hold `[` as such.
    names: Vec<String>,
}

impl Matcher {
    pub(crate) fn new(patterns: &[String]) -> Self {
        let (globs, names) = patterns.iter().partition::<Vec<_>, _>(|text| text.contains('*'));
        let globs = globs.into_iter().filter_map(|text| glob::Pattern::new(text).ok()).collect();
        Self { globs, names: names.into_iter().cloned().collect() }
    }

    pub(crate) fn matches(&self, unit: &str) -> bool {
        self.names.iter().any(|name| name == unit)
            || self.globs.iter().any(|glob| glob.matches(unit))
    }
}

/// True for the name of a process (at most 15 bytes of it, as the kernel keeps) that is a service.
pub(crate) fn is_service_process(name: &str, services: &[String]) -> bool {
    PROCESS_NAMES.iter().any(|known| is_cut(name, known))
        || is_php_fpm(name)
        || is_named(name, services)
}

/// True for the name of a process that is one of these services.
pub(crate) fn is_named(name: &str, services: &[String]) -> bool {
    services.iter().any(|service| is_cut(name, service.trim_end_matches(".service")))
}

fn is_cut(name: &str, known: &str) -> bool {
    !name.is_empty() && name == &known[..known.floor_char_boundary(15)]
}

/// `php-fpm`, `php-fpm8.2`, `php-fpm82`.
pub(crate) fn is_php_fpm(name: &str) -> bool {
    name.strip_prefix("php-fpm").is_some_and(|version| {
        version.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'-')
    })
}

/// The pool a unit serves, if it serves one alone.
pub(crate) fn pool_of_unit(unit: &str, pools: &[Pool]) -> Option<String> {
    let mut served = pools.iter().filter(|pool| pool.unit.as_deref() == Some(unit));
    match (served.next(), served.next()) {
        (Some(pool), None) => Some(pool.name.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, unit: &str) -> Pool {
        Pool { name: name.into(), unit: Some(unit.into()), ..Pool::default() }
    }

    #[test]
    fn a_unit_is_mapped_to_a_pool_only_when_it_serves_one_alone() {
        let pools = [
            pool("www", "php8.2-fpm.service"),
            pool("a", "php7.4-fpm.service"),
            pool("b", "php7.4-fpm.service"),
            Pool { name: "c".into(), ..Pool::default() },
        ];
        let check = |unit: &str, want: Option<&str>| {
            assert_eq!(pool_of_unit(unit, &pools).as_deref(), want, "{unit}");
        };
        check("php8.2-fpm.service", Some("www"));
        check("php7.4-fpm.service", None);
        check("nginx.service", None);
        check("", None);
    }

    #[test]
    fn services_of_discovery_join_the_usual_ones() {
        let services =
            ["nginx.service", "my-app", "app@1.service", "", "evil*", "a.socket"].map(String::from);
        let patterns = unit_patterns(services.iter().cloned());
        for want in
            ["nginx.service", "my-app.service", "app@1.service", "php*fpm*.service", "a.socket"]
        {
            assert!(patterns.iter().any(|pattern| pattern == want), "{want}");
        }
        assert!(!patterns.iter().any(|pattern| pattern.contains("evil")));
        let check = |name: &str, want| {
            assert_eq!(is_service_process(name, &services), want, "{name}");
        };
        check("nginx", true);
        check("my-app", true);
        check("php-fpm8.2", true);
        check("php-fpm", true);
        check("gunicorn", true);
        check("php-fpmish", false);
        check("bash", false);
        check("", false);
    }

    #[test]
    fn units_are_matched_as_systemd_would_with_templates_and_escapes() {
        let own = ["app@.service", r"my\x2dapp.service", "docker-0f.scope", "a[1].service"];
        let matcher = Matcher::new(&unit_patterns(own.iter().map(|name| (*name).to_owned())));
        let check = |unit: &str, want| assert_eq!(matcher.matches(unit), want, "{unit}");
        check("nginx.service", true);
        check("nginx@blog.service", true);
        check("php8.2-fpm.service", true);
        check("php-fpm.service", true);
        check("rh-php72-php-fpm.service", true);
        check("postgresql@15-main.service", true);
        check(r"my\x2dapp.service", true);
        check("my-app.service", false);
        check("app@.service", true);
        check("app@1.service", false);
        check("docker-0f.scope", true);
        check("docker-ff.scope", false);
        check("a1.service", false);
        check("gunicorn.socket", true);
        check("dbus.socket", false);
        check("ssh.service", false);
        check("-.mount", false);
        check("", false);
    }

    #[test]
    fn containers_and_sessions_never_come_again_under_their_name() {
        let check = |unit: &str, want| assert_eq!(is_transient(unit), want, "{unit}");
        check("docker-0f3a.scope", true);
        check("libpod-0f3a.scope", true);
        check("session-3.scope", true);
        check("run-r0f3a.service", true);
        check("run-u7.scope", true);
        check("nginx.service", false);
        check("runner.service", false);
        check("", false);
    }

    #[test]
    fn a_long_name_is_known_by_its_first_fifteen_bytes() {
        let services = ["a-very-long-service-name.service".to_owned()];
        assert!(is_service_process("a-very-long-ser", &services));
        assert!(!is_service_process("a-very-long", &services));
    }
}
