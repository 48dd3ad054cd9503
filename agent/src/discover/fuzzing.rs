//! A door for the fuzz targets of `tests/`: one server's reader on any bytes, without the disk.

use std::path::Path;

use super::assemble::assemble;
use super::files::Files;
use super::found::Found;
use super::{
    Discovery, apache, caddy, daemons, haproxy, lighttpd, litespeed, nginx, php_fpm, traefik,
    varnish,
};

/// The names [`read`] knows.
pub const READERS: [&str; 12] = [
    "nginx",
    "apache",
    "php_fpm",
    "haproxy",
    "caddy",
    "caddy_json",
    "lighttpd",
    "varnish",
    "litespeed",
    "traefik",
    "traefik_toml",
    "daemons",
];

/// Reads these bytes as the main configuration file of a server; what they include is not there.
/// An unknown name finds nothing.
#[must_use]
pub fn read(reader: &str, bytes: &[u8]) -> Discovery {
    let mut files = Files::without_disk();
    let mut found = Found::default();
    let text = String::from_utf8_lossy(bytes);
    let path = Path::new(if reader == "traefik_toml" { "/etc/main.toml" } else { "/etc/main" });
    let read: fn(&mut Files, &mut Found, &Path, &str) = match reader {
        "nginx" => nginx::read,
        "apache" => apache::read,
        "php_fpm" => php_fpm::read,
        "haproxy" => haproxy::read,
        "caddy" => caddy::read,
        "caddy_json" => caddy::read_json,
        "lighttpd" => lighttpd::read,
        "varnish" => varnish::read,
        "litespeed" => litespeed::read,
        "traefik" | "traefik_toml" => traefik::read,
        "daemons" => daemons::read,
        _ => return Discovery::default(),
    };
    read(&mut files, &mut found, path, &text);
    let mut discovery = assemble(&mut files, found);
    files.finish(&mut discovery);
    discovery
}
