//! A real Prometheus Alertmanager, alone, that tells a [`crate::Webhook`].

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use serde_json::Value;

use crate::process::{Process, find_program};
use crate::root::{Root, loopback};

/// The Alertmanager; stops in `Drop`.
#[derive(Debug)]
pub struct Alertmanager {
    root: Root,
    address: SocketAddr,
    process: Option<Process>,
}

impl Alertmanager {
    /// Starts one that groups by `group_by`, lets a critical alert inhibit a warning with the same
    /// values of `equal`, and tells `url` of beginnings and ends.
    #[must_use]
    pub fn start(url: &str, group_by: &[&str], equal: &[&str]) -> Self {
        let root = Root::new();
        root.mkdir("data");
        let list = |names: &[&str]| names.join(", ");
        let config = format!(
            "route:\n  receiver: stand-in\n  group_by: [{}]\n  group_wait: 1s\n  \
             group_interval: 1s\n  repeat_interval: 1h\n\
             inhibit_rules:\n- source_matchers: ['severity=\"critical\"']\n  \
             target_matchers: ['severity=\"warning\"']\n  equal: [{}]\n\
             receivers:\n- name: stand-in\n  webhook_configs:\n  - url: '{url}'\n    \
             send_resolved: true\n",
            list(group_by),
            list(equal)
        );
        root.write("alertmanager.yml", &config);
        let mut this = Self { root, address: loopback(9093), process: None };
        this.start_again();
        this
    }

    /// Starts it after a stop; it has forgotten every alert.
    pub fn start_again(&mut self) {
        let names = ["prometheus-alertmanager", "alertmanager"];
        let mut command = Command::new(find_program(&names, "prometheus-alertmanager"));
        command
            .arg(format!("--config.file={}", self.root.join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", self.root.join("data").display()))
            .arg(format!("--web.listen-address={}", self.address))
            .arg("--cluster.listen-address="); // alone
        let log = self.root.join("alertmanager.log");
        let mut process = Process::start("alertmanager", &mut command, &log);
        process.listens_on(self.address);
        self.process = Some(process);
    }

    /// SIGTERM, and waits until it has ended.
    pub fn stop(&mut self) {
        self.process.take().expect("the Alertmanager runs").stop();
    }

    /// What `collector.toml` says so that it hears of everything, and again each second.
    #[must_use]
    pub fn toml(&self) -> String {
        format!(
            "[[notify]]\nkind = \"alertmanager\"\nurl = \"http://{}\"\nmin_severity = \"info\"\n\
             repeat_interval = \"1s\"\n",
            self.address
        )
    }

    /// Its alerts that have not ended, suppressed ones too.
    pub fn alerts(&self) -> Result<Vec<Value>, String> {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.write_all(b"GET /api/v2/alerts HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().map_err(|error| error.to_string())?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no end of headers")?;
        serde_json::from_str(body).map_err(|error| format!("{error}: {head} {body}"))
    }
}
