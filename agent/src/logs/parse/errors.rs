//! The formats of error and system logs by name, and which of them `auto` tries for each kind of log.

use crate::discover::LogKind;
use crate::logs::Line;
use crate::logs::parse::{
    apache_error, journald, kernel, lighttpd_error, litespeed_error, modsecurity, mysql,
    nginx_error, packages, php_fpm, php_slow, redis, syslog,
};

/// Reads one line.
pub(super) type Parse = for<'l> fn(&'l [u8]) -> Line<'l>;

/// No two of them read the same line, but for a line that one program handed to another.
const FORMATS: [(&str, Parse); 18] = [
    ("nginx_error", nginx_error::parse),
    ("apache_error", apache_error::parse),
    ("lighttpd_error", lighttpd_error::parse),
    ("litespeed_error", litespeed_error::parse),
    ("php_fpm", php_fpm::parse),
    ("php_slow", php_slow::parse),
    ("kernel", kernel::parse),
    ("syslog", syslog::parse),
    ("journald", journald::parse),
    ("mysql", mysql::parse),
    ("redis", redis::parse),
    ("modsecurity", modsecurity::parse),
    ("dpkg", packages::dpkg),
    ("apt_history", packages::apt_history),
    ("yum", packages::yum),
    ("zypper", packages::zypper),
    ("pacman", packages::pacman),
    // A name of the first version of this program.
    ("text", syslog::parse),
];

/// Of objects in JSON, tried before access logs in JSON are.
pub(super) const BEFORE_ACCESS: [&str; 2] = ["journald", "modsecurity"];
/// What no access log and no error log of a web server has read.
pub(super) const AFTER_ACCESS: [&str; 13] = [
    "lighttpd_error",
    "litespeed_error",
    "php_slow",
    "mysql",
    "redis",
    "dpkg",
    "apt_history",
    "yum",
    "zypper",
    "pacman",
    "modsecurity",
    "syslog",
    "kernel",
];

/// The names of all formats here.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|(name, _)| *name)
}

/// The format with this name, and the name to keep.
pub(super) fn by_name(name: &str) -> Option<(&'static str, Parse)> {
    FORMATS.iter().find(|(known, _)| *known == name).copied()
}

/// What `auto` tries for a log of this kind; `None` for the kinds of web servers.
pub(super) fn of_kind(kind: LogKind) -> Option<&'static [&'static str]> {
    Some(match kind {
        LogKind::Access | LogKind::Error => return None,
        LogKind::PhpFpm => &["php_fpm"],
        LogKind::PhpSlow => &["php_slow"],
        LogKind::Mysql => &["mysql", "syslog"],
        LogKind::Redis => &["redis", "syslog"],
        LogKind::Modsecurity => &["modsecurity", "nginx_error", "apache_error"],
        LogKind::Syslog => &["syslog", "journald"],
        LogKind::Kernel => &["kernel", "journald"],
        LogKind::Change => &["dpkg", "apt_history", "yum", "zypper", "pacman"],
    })
}

#[cfg(test)]
mod tests;
