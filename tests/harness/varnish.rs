//! A real Varnish, and `varnishncsa` beside it, which writes its access log.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::backend::{ProxySite, Upstream};
use crate::load::Volley;
use crate::process::{Process, find_program};
use crate::root::{Root, loopback};
use crate::wait::eventually;

/// What `varnishncsa` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NcsaFormat {
    /// Its default: nothing in it tells a failed fetch from a 503 of the application.
    Default,
    /// The default with the reason of the response behind it.
    WithReason,
}

const WITH_REASON: &str =
    r#"%h %l %u %t "%r" %s %b "%{Referer}i" "%{User-agent}i" "%{VSL:RespReason}x""#;

/// The server. It wants the PROXY line in front of each request, which names the client.
#[derive(Debug)]
pub struct Varnish {
    address: SocketAddr,
    // Stopped in this order: the log writer reads the memory of the server.
    _ncsa: Process,
    _process: Process,
}

impl Varnish {
    /// Writes `etc/varnish` and the two unit files below `root` and starts both programs.
    #[must_use]
    pub fn start(root: &Root, sites: &[ProxySite], format: NcsaFormat) -> Self {
        let program = find_program(&["varnishd"], "varnish");
        let ncsa = find_program(&["varnishncsa"], "varnish");
        let address = loopback(6081);
        let dir = root.mkdir("var/lib/varnish/main");
        let log = root.mkdir("var/log/varnish").join("varnishncsa.log");
        root.mkdir("run");
        let vcl = root.write("etc/varnish/default.vcl", &vcl(sites));
        let (dir, log) = (dir.display().to_string(), log.display().to_string());
        let server = [
            "-n".to_owned(),
            dir.clone(),
            "-F".to_owned(),
            "-a".to_owned(),
            format!("{address},PROXY"),
            "-f".to_owned(),
            vcl.display().to_string(),
            "-s".to_owned(),
            "malloc,16m".to_owned(),
        ];
        let mut writer = vec!["-n".to_owned(), dir, "-w".to_owned(), log.clone()];
        if format == NcsaFormat::WithReason {
            writer.extend(["-F".to_owned(), WITH_REASON.to_owned()]);
        }
        unit(root, "varnish", "/usr/sbin/varnishd", &server);
        unit(root, "varnishncsa", "/usr/bin/varnishncsa", &writer);
        let mut command = Command::new(program);
        // The jail would change the user; nothing of it matters here. Little memory, no console.
        command.args(["-j", "none", "-T", "none", "-p", "vsl_space=4M", "-p", "thread_pools=1"]);
        command.args(["-p", "thread_pool_min=20"]).args(&server);
        let mut process = Process::start("varnishd", &mut command, &root.join("run/varnish.out"));
        process.listens_on(address);
        let mut command = Command::new(ncsa);
        command.args(&writer);
        let mut ncsa = Process::start("varnishncsa", &mut command, &root.join("run/ncsa.out"));
        // What is asked before it has found the memory of the server is never written.
        eventually("varnishncsa writes its log", Duration::from_secs(20), || {
            if let Some(status) = ncsa.exited() {
                panic!("varnishncsa ended with {status}: {}", ncsa.log_text());
            }
            let asked =
                Volley::with_proxy_line(address).ask("ready.test", "/", "203.0.113.250", 40_000);
            let text = fs::read_to_string(&log).map_err(|e| e.to_string())?;
            if text.contains("ready.test") { Ok(()) } else { Err(format!("answered {asked}")) }
        });
        Self { address, _ncsa: ncsa, _process: process }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Writes a unit file in `etc/systemd/system`; `%` and `"` are systemd's own there.
fn unit(root: &Root, name: &str, program: &str, words: &[String]) {
    let quoted = words.iter().map(|word| {
        let word = word.replace('%', "%%").replace('"', "\\\"");
        if word.contains(' ') { format!("\"{word}\"") } else { word }
    });
    let words: Vec<_> = quoted.collect();
    let text = format!(
        "[Unit]\nDescription={name}\n\n[Service]\nType=simple\n\
         ExecStart={program} \\\n          {}\n\n[Install]\nWantedBy=multi-user.target\n",
        words.join(" \\\n          ")
    );
    root.write(&format!("etc/systemd/system/{name}.service"), &text);
}

fn vcl(sites: &[ProxySite]) -> String {
    let mut text = "vcl 4.1;\n\n".to_owned();
    let mut choice = "sub vcl_recv {\n".to_owned();
    for site in sites {
        let word = site.word();
        let name = &site.name;
        let action = match &site.upstream {
            Some(upstream) => {
                let address = match upstream {
                    Upstream::Tcp(address) => {
                        format!(".host = \"{}\";\n  .port = \"{}\";", address.ip(), address.port())
                    }
                    Upstream::Unix(path) => format!(".path = \"{}\";", path.display()),
                };
                writeln!(
                    text,
                    "backend b_{word} {{\n  {address}\n  .connect_timeout = 2s;\n  \
                     .first_byte_timeout = 2s;\n}}\n"
                )
                .expect("to a string");
                format!("set req.backend_hint = b_{word};")
            }
            None => "return (synth(503, \"Planned\"));".to_owned(),
        };
        writeln!(choice, "  if (req.http.host == \"{name}\") {{\n    {action}\n  }}")
            .expect("to a string");
    }
    format!("{text}{choice}  return (pass);\n}}\n")
}
