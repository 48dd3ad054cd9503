//! What is on the disks of the simulated servers: nginx sites, one PHP-FPM pool, empty logs.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Socket of the only pool.
pub(crate) const SOCKET: &str = "/run/php/php8.2-fpm.sock";

/// The machine under the last half of the servers.
pub(crate) const SECOND_HYPERVISOR: &str = "hv-2";

/// Name of the n-th server, from 1.
pub(crate) fn name(n: u32) -> String {
    format!("web-{n}")
}

/// Root directory of the n-th server.
pub(crate) fn root(dir: &Path, n: u32) -> PathBuf {
    dir.join(name(n))
}

/// Host name of a site.
pub(crate) fn site(server: u32, n: u32) -> String {
    const WORDS: [&str; 8] =
        ["bakery", "florist", "garage", "gallery", "dentist", "choir", "museum", "bikes"];
    let round = (n - 1) / 8;
    let tail = if round == 0 { String::new() } else { format!("-{}", round + 1) };
    format!("{}{server}{tail}.example", WORDS[(n as usize - 1) % 8])
}

/// The servers on the second hypervisor: the last half.
pub(crate) fn on_second_hypervisor(servers: u32) -> Vec<u32> {
    (servers / 2 + 1..=servers).collect()
}

/// Writes everything, and prints name, hypervisor and root of each server.
pub(crate) fn write(dir: &Path, servers: u32, sites: u32) -> Result<()> {
    for n in 1..=servers {
        let root = root(dir, n);
        let mut blocks = String::new();
        for i in 1..=sites {
            let name = site(n, i);
            write!(
                blocks,
                "server {{\n  listen 80;\n  server_name {name} www.{name};\n  \
                 root /srv/{name};\n  location ~ \\.php$ {{ fastcgi_pass unix:{SOCKET}; }}\n}}\n"
            )?;
        }
        put(&root, "etc/nginx/nginx.conf", &main_config())?;
        put(&root, "etc/nginx/sites-enabled/all", &blocks)?;
        put(
            &root,
            "etc/php/8.2/fpm/pool.d/www.conf",
            &format!("[www]\nlisten = {SOCKET}\npm = dynamic\npm.max_children = 20\n"),
        )?;
        put(&root, "var/log/nginx/access.log", "")?;
        put(&root, "var/log/nginx/error.log", "")?;
        let hypervisor = if n <= servers / 2 { "hv-1" } else { SECOND_HYPERVISOR };
        writeln!(io::stdout().lock(), "{} {hypervisor} {}", name(n), root.display())?;
    }
    Ok(())
}

fn main_config() -> String {
    "http {\n  log_format hosted '$host $remote_addr - $remote_user [$time_local] \"$request\" '\n    \
     '$status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"';\n  \
     access_log /var/log/nginx/access.log hosted;\n  error_log /var/log/nginx/error.log;\n  \
     include /etc/nginx/sites-enabled/*;\n}\n"
        .to_owned()
}

fn put(root: &Path, relative: &str, text: &str) -> Result<()> {
    let path = root.join(relative);
    let parent = path.parent().unwrap_or(root);
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
