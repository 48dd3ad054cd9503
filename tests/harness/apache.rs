//! A real Apache (event MPM) that hands PHP to PHP-FPM pools through mod_proxy_fcgi, or stands in
//! front of other servers through mod_proxy_http.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::backend::{ProxySite, Upstream};
use crate::nginx::Vhost;
use crate::php::PhpFpm;
use crate::process::{Process, find_program, is_root};
use crate::root::{Root, loopback};

const MODULES: &str = "/usr/lib/apache2/modules";
const MODULE_NAMES: [&str; 8] =
    ["mpm_event", "authz_core", "dir", "alias", "proxy", "proxy_fcgi", "proxy_http", "remoteip"];

/// The server. All sites share `other_vhosts_access.log` in Debian's `vhost_combined` format.
#[derive(Debug)]
pub struct Apache {
    address: SocketAddr,
    process: Process,
}

impl Apache {
    /// Writes `etc/apache2` below `root` and starts it on an address of its own.
    #[must_use]
    pub fn start(root: &Root, vhosts: &[Vhost]) -> Self {
        let blocks = vhosts.iter().map(|vhost| (vhost.name.clone(), vhost_block(root, vhost)));
        Self::start_with(root, &blocks.collect::<Vec<_>>())
    }

    /// The same in front of other servers (`ProxyPass`), with Apache's own defaults, but it waits
    /// for 1 s only.
    #[must_use]
    pub fn start_proxy(root: &Root, sites: &[ProxySite]) -> Self {
        let blocks = sites.iter().map(|site| (site.name.clone(), proxy_block(site)));
        Self::start_with(root, &blocks.collect::<Vec<_>>())
    }

    /// One that has no site but tells its status at `/server-status`.
    #[must_use]
    pub fn start_status(root: &Root) -> Self {
        let text = format!(
            "LoadModule status_module {MODULES}/mod_status.so\n\
             LoadModule authz_host_module {MODULES}/mod_authz_host.so\n\
             <Location /server-status>\n  SetHandler server-status\n  Require local\n</Location>\n"
        );
        root.write("etc/apache2/sites-enabled/status.conf", &text);
        Self::start_with(root, &[])
    }

    fn start_with(root: &Root, blocks: &[(String, String)]) -> Self {
        let program = find_program(&["apache2"], "apache2");
        assert!(Path::new(MODULES).is_dir(), "no {MODULES}: apt-get install apache2");
        let address = loopback(8080);
        let config = write_config(root, address, blocks);
        let mut command = Command::new(program);
        command.arg("-DFOREGROUND").arg("-f").arg(&config);
        let mut process = Process::start("apache2", &mut command, &root.join("run/apache2.out"));
        process.listens_on(address);
        Self { address, process }
    }

    /// Reads its configuration again and replaces its workers, as `apachectl graceful` does.
    pub fn reload(&self) {
        self.process.signal(Signal::USR1);
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn write_config(root: &Root, address: SocketAddr, blocks: &[(String, String)]) -> PathBuf {
    let dir = root.path().display();
    root.mkdir("var/log/apache2");
    root.mkdir("run/apache2");
    let modules =
        MODULE_NAMES.map(|m| format!("LoadModule {m}_module {MODULES}/mod_{m}.so\n")).concat();
    // Apache refuses to answer as root.
    let user = if is_root() { "User www-data\nGroup www-data\n" } else { "" };
    let main = format!(
        "ServerRoot {dir}/etc/apache2\nServerName localhost\nPidFile {dir}/run/apache2/apache2.pid\n\
         DefaultRuntimeDir {dir}/run/apache2\n{modules}{user}Listen {address}\n\
         StartServers 1\nThreadsPerChild 25\nMaxRequestWorkers 100\nMinSpareThreads 25\n\
         MaxSpareThreads 75\n\
         RemoteIPHeader X-Real-IP\nRemoteIPInternalProxy 127.0.0.0/8\n\
         ErrorLog {dir}/var/log/apache2/error.log\nLogLevel warn\n\
         LogFormat \"%v:%p %h %l %u %t \\\"%r\\\" %>s %O \\\"%{{Referer}}i\\\" \\\"%{{User-Agent}}i\\\"\" \
         vhost_combined\n\
         CustomLog {dir}/var/log/apache2/other_vhosts_access.log vhost_combined\n\
         IncludeOptional {dir}/etc/apache2/sites-enabled/*.conf\n"
    );
    for (name, block) in blocks {
        let text = format!("<VirtualHost {address}>\n{block}</VirtualHost>\n");
        root.write(&format!("etc/apache2/sites-enabled/{name}.conf"), &text);
    }
    root.write("etc/apache2/apache2.conf", &main)
}

fn vhost_block(root: &Root, vhost: &Vhost) -> String {
    format!(
        "  ServerName {name}\n  ServerAlias www.{name}\n\
           DocumentRoot {dir}/srv/www\n  DirectoryIndex index.php\n  Redirect 503 /planned\n\
           <Directory {dir}/srv/www>\n    Require all granted\n  </Directory>\n\
           <FilesMatch \\.php$>\n    SetHandler \"proxy:unix:{socket}|fcgi://localhost\"\n\
           </FilesMatch>\n",
        name = vhost.name,
        dir = root.path().display(),
        socket = PhpFpm::socket(root, vhost.pool).display(),
    )
}

fn proxy_block(site: &ProxySite) -> String {
    let answer = match &site.upstream {
        None => "  Redirect 503 /\n".to_owned(),
        Some(upstream) => {
            let target = match upstream {
                Upstream::Tcp(address) => format!("http://{address}/"),
                Upstream::Unix(path) => format!("unix:{}|http://localhost/", path.display()),
            };
            format!("  ProxyPass / {target}\n  ProxyPreserveHost On\n  ProxyTimeout 1\n")
        }
    };
    format!("  ServerName {name}\n  ServerAlias www.{name}\n{answer}", name = site.name)
}
