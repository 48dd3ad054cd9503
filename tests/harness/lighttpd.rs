//! A real lighttpd: one access log for all sites, in its default format, which names the host.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use crate::backend::{ProxySite, Upstream};
use crate::process::{Process, find_program};
use crate::root::{Root, loopback};

/// The server. It writes its access log in bursts, up to 4 s late.
#[derive(Debug)]
pub struct Lighttpd {
    address: SocketAddr,
    _process: Process,
}

impl Lighttpd {
    /// Writes `etc/lighttpd` below `root` and starts it on an address of its own.
    #[must_use]
    pub fn start(root: &Root, sites: &[ProxySite]) -> Self {
        let program = find_program(&["lighttpd"], "lighttpd");
        let address = loopback(8080);
        let dir = root.path().display();
        root.mkdir("srv/www");
        root.mkdir("run");
        root.mkdir("var/log/lighttpd");
        root.write("etc/lighttpd/conf-enabled/50-sites.conf", &hosts(sites));
        let main = format!(
            "server.modules = (\n  \"mod_extforward\",\n  \"mod_proxy\",\n  \"mod_accesslog\",\n)\n\
             server.document-root = \"{dir}/srv/www\"\n\
             server.errorlog = \"{dir}/var/log/lighttpd/error.log\"\n\
             accesslog.filename = \"{dir}/var/log/lighttpd/access.log\"\n\
             server.port = {port}\nserver.bind = \"{ip}\"\n\
             extforward.forwarder = ( \"127.0.0.0/8\" => \"trust\" )\n\
             extforward.headers = ( \"X-Real-IP\" )\n\
             include \"{dir}/etc/lighttpd/conf-enabled/*.conf\"\n",
            port = address.port(),
            ip = address.ip(),
        );
        let config = root.write("etc/lighttpd/lighttpd.conf", &main);
        let mut command = Command::new(program);
        command.arg("-D").arg("-f").arg(config);
        let mut process = Process::start("lighttpd", &mut command, &root.join("run/lighttpd.out"));
        process.listens_on(address);
        Self { address, _process: process }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// One conditional block per site; each request tries its backend anew.
fn hosts(sites: &[ProxySite]) -> String {
    let mut text = String::new();
    for site in sites {
        let upstream = site.upstream.as_ref().expect("lighttpd has no planned pages here");
        let address = match upstream {
            Upstream::Tcp(address) => {
                format!("\"host\" => \"{}\", \"port\" => {}", address.ip(), address.port())
            }
            Upstream::Unix(path) => format!("\"socket\" => \"{}\"", path.display()),
        };
        writeln!(
            text,
            "$HTTP[\"host\"] == \"{}\" {{\n  proxy.server = ( \"\" => ( ( {address},\n    \
             \"connect-timeout\" => 2, \"read-timeout\" => 2, \"disable-time\" => 0 ) ) )\n}}",
            site.name
        )
        .expect("to a string");
    }
    text
}
