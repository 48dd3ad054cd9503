//! A real Caddy: an access log per site, and one for everything else it has to say.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use crate::backend::{ProxySite, Upstream};
use crate::process::{Process, find_program};
use crate::root::{Root, loopback};

/// The server.
#[derive(Debug)]
pub struct Caddy {
    address: SocketAddr,
    _process: Process,
}

impl Caddy {
    /// Writes `etc/caddy/Caddyfile` below `root` and starts it on an address of its own.
    #[must_use]
    pub fn start(root: &Root, sites: &[ProxySite]) -> Self {
        let program = find_program(&["caddy"], "caddy");
        let address = loopback(8080);
        root.mkdir("run");
        root.mkdir("var/log/caddy");
        let home = root.mkdir("var/lib/caddy");
        let config = root.write("etc/caddy/Caddyfile", &caddyfile(root, address, sites));
        let mut command = Command::new(program);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("HOME", &home).env("XDG_DATA_HOME", &home).env("XDG_CONFIG_HOME", &home);
        let mut process = Process::start("caddy", &mut command, &root.join("run/caddy.out"));
        process.listens_on(address);
        Self { address, _process: process }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn caddyfile(root: &Root, address: SocketAddr, sites: &[ProxySite]) -> String {
    let logs = root.join("var/log/caddy");
    let (logs, port) = (logs.display(), address.port());
    let mut text = format!(
        "{{\n\tadmin off\n\tauto_https off\n\thttp_port {port}\n\tlog default {{\n\t\toutput file {logs}/caddy.log\n\
         \t}}\n}}\n"
    );
    for site in sites {
        let (name, ip) = (&site.name, address.ip());
        let answer = match &site.upstream {
            None => "respond \"planned\" 503".to_owned(),
            Some(upstream) => {
                let address = match upstream {
                    Upstream::Tcp(address) => address.to_string(),
                    Upstream::Unix(path) => format!("unix/{}", path.display()),
                };
                format!(
                    "reverse_proxy {address} {{\n\t\ttransport http {{\n\
                     \t\t\tdial_timeout 2s\n\t\t\tresponse_header_timeout 2s\n\t\t}}\n\t}}"
                )
            }
        };
        writeln!(
            text,
            "\nhttp://{name}, http://www.{name} {{\n\tbind {ip}\n\tlog {{\n\
             \t\toutput file {logs}/{name}.log\n\t}}\n\t{answer}\n}}"
        )
        .expect("to a string");
    }
    text
}
