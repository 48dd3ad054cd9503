//! `agent.toml`: every key with its default, and the check that reports every problem.

mod check;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::units::{Bytes, Span};

pub use check::Problem;

/// Where the config is when nothing says otherwise; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/gatewatch/agent.toml";

/// The whole file. Precedence: flag > `GATEWATCH_*` environment > file > default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Identity, spool and checkpoints.
    pub state_dir: PathBuf,
    /// Socket that `status` asks.
    pub socket: PathBuf,
    /// Where to send.
    pub collector: CollectorConfig,
    /// Who this server is.
    pub host: HostConfig,
    /// What to read.
    pub logs: LogsConfig,
    /// Resource samples.
    pub probes: ProbesConfig,
    /// What leaves the machine.
    pub privacy: PrivacyConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Longest time the shutdown may take.
    pub shutdown_grace: Span,
}

/// `[collector]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollectorConfig {
    /// `host:port` of the collector's gRPC port; empty until enrolled.
    pub address: String,
    /// Liveness and watermark.
    pub heartbeat: Span,
    /// Time between batches while nothing fails.
    pub batch_interval: Span,
}

/// `[host]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// Name in the fleet; default: hostname.
    pub name: Option<String>,
    /// Labels, weaker than those fixed by the join token.
    pub labels: BTreeMap<String, String>,
}

/// `[logs]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Read web-server configs for sites, logs and formats.
    pub discover: bool,
    /// Prefix for discovery.
    pub root: PathBuf,
    /// Explicit sources, added to what is discovered.
    pub source: Vec<SourceConfig>,
}

/// `[[logs.source]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Path or glob; new matches are followed within 2 s.
    pub path: String,
    /// `access`, `error`, `php_fpm`, ...
    #[serde(default = "default_kind")]
    pub kind: String,
    /// `auto`, a built-in name, or a format string.
    #[serde(default = "default_format")]
    pub format: String,
    /// Fixed name, or `{n}` for the n-th glob match.
    #[serde(default)]
    pub site: Option<String>,
    /// Zone of times without offset.
    #[serde(default)]
    pub timezone: Option<String>,
}

fn default_kind() -> String {
    "access".to_owned()
}

fn default_format() -> String {
    "auto".to_owned()
}

/// `[probes]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbesConfig {
    /// Resource samples, at multiples of it on the wall clock; at rest their details every 10 s at most.
    pub interval: Span,
    /// Services watched beside those that are known by name: systemd units or process names.
    pub services: Vec<String>,
    /// Connect to backends, databases and status pages to see whether they answer.
    pub upstreams: bool,
    /// Resolve the names of upstreams and sites.
    pub dns: bool,
    /// Sites that are asked for `HEAD /` at their own server: names, with `*` for any part.
    pub loopback_head: Vec<String>,
    /// Time between two such requests to one site.
    pub loopback_interval: Span,
}

/// `[privacy]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacyConfig {
    /// What of a client's address leaves the machine.
    pub client_ip: ClientIp,
    /// What of a query string leaves the machine.
    pub query_string: QueryString,
}

/// `client_ip`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientIp {
    /// As logged.
    Full,
    /// /24 or /48.
    #[default]
    Prefix,
    /// Only the keyed hash.
    Hash,
    /// Nothing, not even the hash. Failures then cannot be told apart by client: at most two a
    /// second and site count.
    Drop,
}

/// `query_string`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryString {
    /// As logged.
    Keep,
    /// Cut off.
    #[default]
    Drop,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Memory the agent aims to stay under; more is warned of.
    pub memory_bytes_max: Bytes,
    /// Disk the spool may take.
    pub spool_bytes_max: Bytes,
    /// Sites counted by name; further ones are `other`.
    pub sites_max: usize,
}

impl Config {
    /// Reads the config; flag > `GATEWATCH_*` environment > file > default.
    ///
    /// `file` is that of the flag. Without one the default file is read if it exists. `Err` holds
    /// every problem there is, in the order of the file.
    pub fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Problem>> {
        let variables: Vec<_> = variables.collect();
        let named = variables.iter().find(|(name, _)| name == "GATEWATCH_CONFIG");
        let named = file.or(named.map(|(_, path)| Path::new(path.as_str())));
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let place = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
            Err(e) => return Err(vec![unreadable(place, &e)]),
        };
        let mut problems = check::check_text(&place, &text);
        let (values, more) = check::from_environment(variables.into_iter());
        problems.extend(more);
        if !problems.is_empty() {
            return Err(problems);
        }
        Self::build(&text, values).map_err(|error| {
            let what = error.message().to_owned();
            let fix = "see deploy/config/agent.toml for every key".to_owned();
            vec![Problem { place, what, fix }]
        })
    }

    fn build(
        text: &str,
        values: Vec<(&'static str, &'static str, toml::Value)>,
    ) -> Result<Self, toml::de::Error> {
        let mut root: toml::Table = toml::from_str(text)?;
        for (table, name, value) in values {
            let target = match table {
                "" => Some(&mut root),
                table => root
                    .entry(table)
                    .or_insert_with(|| toml::Value::Table(toml::Table::new()))
                    .as_table_mut(),
            };
            target.expect("checked to be a table").insert(name.to_owned(), value);
        }
        root.try_into()
    }

    /// Name this server wants in the fleet: `[host] name`, else the hostname.
    pub fn server_name(&self) -> String {
        self.host
            .name
            .clone()
            .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
    }
}

fn unreadable(place: String, error: &io::Error) -> Problem {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "name a file that exists".to_owned(),
        io::ErrorKind::PermissionDenied => format!("chmod o+r {place}, or run as its owner"),
        io::ErrorKind::IsADirectory => "name the file, not its directory".to_owned(),
        io::ErrorKind::InvalidData => "save it as UTF-8".to_owned(),
        _ => "mend the file system or name another file".to_owned(),
    };
    Problem { place, what: format!("cannot be read ({error})"), fix }
}

/// A time zone by name; `UTC` also on a machine without tzdata. `None` when it is not known here.
pub fn zone(name: &str) -> Option<jiff::tz::TimeZone> {
    match name {
        "UTC" => Some(jiff::tz::TimeZone::UTC),
        // A POSIX rule (`CET-1CEST,M3.5.0,M10.5.0/3`) needs no database.
        name => jiff::tz::TimeZone::get(name).or_else(|_| jiff::tz::TimeZone::posix(name)).ok(),
    }
}

/// `Ok` when this is `HOST:PORT`; else what to write.
pub fn check_address(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("write HOST:PORT".to_owned()) } else { check::address(text) }
}

/// `Ok` when a server may be called this; else what to write.
pub fn check_server_name(text: &str) -> Result<(), String> {
    check::server_name(text)
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/gatewatch-agent".into(),
            socket: "/run/gatewatch-agent/agent.sock".into(),
            collector: CollectorConfig::default(),
            host: HostConfig::default(),
            logs: LogsConfig::default(),
            probes: ProbesConfig::default(),
            privacy: PrivacyConfig::default(),
            limits: LimitsConfig::default(),
            shutdown_grace: Span(std::time::Duration::from_secs(10)),
        }
    }
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            address: String::new(),
            heartbeat: Span(std::time::Duration::from_secs(5)),
            batch_interval: Span(std::time::Duration::from_secs(10)),
        }
    }
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { discover: true, root: "/".into(), source: Vec::new() }
    }
}

impl Default for ProbesConfig {
    fn default() -> Self {
        Self {
            interval: Span(std::time::Duration::from_secs(10)),
            services: Vec::new(),
            upstreams: true,
            dns: true,
            loopback_head: Vec::new(),
            loopback_interval: Span(std::time::Duration::from_secs(60)),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            memory_bytes_max: Bytes(64 << 20),
            spool_bytes_max: Bytes(256 << 20),
            sites_max: 2000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_KEY: &str = include_str!("../../deploy/config/agent.toml");

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        std::fs::write(&file, text).unwrap();
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(Some(&file), variables).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            lines.join("\n").replace(&format!("{}/", dir.path().display()), "")
        })
    }

    #[test]
    fn the_shipped_file_names_every_key_with_its_default() {
        assert_eq!(load(EVERY_KEY, &[]), Ok(Config::default()));
        // Its commented keys have no default; with the comments off it must load as well.
        let all: String = EVERY_KEY
            .lines()
            .map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n")
            .collect::<String>()
            .replace("Europe/Berlin", "UTC"); // not every machine has tzdata
        let config = load(&all, &[]).unwrap();
        assert_eq!(config.collector.address, "collector.example:8502");
        assert_eq!(config.logs.source.len(), 1);
        for (table, name) in check::names() {
            let is_there = all.lines().any(|l| l.split('=').next().unwrap().trim() == name);
            assert!(is_there, "[{table}] {name} is not in deploy/config/agent.toml");
        }
    }

    #[test]
    fn environment_beats_file_beats_default() {
        let text = "state_dir = \"/a\"\n[collector]\nheartbeat = \"2s\"\n";
        let config = load(
            text,
            &[
                ("GATEWATCH_STATE_DIR", "/b"),
                ("GATEWATCH_HOST_LABELS", "rack=r1,region=fra"),
                ("GATEWATCH_LIMITS_SITES_MAX", "7"),
                ("GATEWATCH_PROBES_LOOPBACK_HEAD", "shop.example, *.agency.example"),
                ("GATEWATCH_PROBES_UPSTREAMS", "false"),
                ("GATEWATCH_URL", "belongs to another program"),
            ],
        )
        .unwrap();
        assert_eq!(config.state_dir, Path::new("/b"));
        assert_eq!(config.collector.heartbeat.to_string(), "2s");
        assert_eq!(config.collector.batch_interval.to_string(), "10s");
        assert_eq!(config.host.labels["region"], "fra");
        assert_eq!(config.limits.sites_max, 7);
        assert_eq!(config.probes.loopback_head, ["shop.example", "*.agency.example"]);
        assert!(!config.probes.upstreams && config.probes.dns);
    }

    #[test]
    fn every_problem_is_told_with_its_line_and_fix() {
        let text = "\
state_dri = \"/x\"
[collector]
address = \"collector.example\"
hearbeat = \"5s\"
batch_interval = 10
state_dir = \"/x\"
[probes]
interval = \"10\"
loopback_head = [\"a.example\", \"a b\"]
loopback_interval = \"1s\"
dns = \"yes\"
[privacy]
client_ip = \"all\"
[limits]
sites_max = \"many\"
spool_bytes_max = \"1KiB\"
[[logs.source]]
kind = \"acess\"
[[logs.source]]
path = \"/srv/a.log\"
site = \"{1}\"
timezone = \"Europe/Atlantis\"
format = \"combind\"
";
        let told = load(text, &[("GATEWATCH_PROBES_INTERVAL", "soon")]).unwrap_err();
        let expected = "\
agent.toml:1: state_dri is not known: did you mean state_dir?
agent.toml:3: [collector] address = \"collector.example\" is no good value: write HOST:PORT, like collector.example:8502
agent.toml:4: [collector] hearbeat is not known: did you mean heartbeat?
agent.toml:5: [collector] batch_interval = 10 is no good value: write a duration with its unit in quotes, like \"10s\"
agent.toml:6: [collector] state_dir is not known: it stands at the top of the file, before the first [collector]
agent.toml:8: [probes] interval = \"10\" is no good value: \"10\" has no unit: write it like \"10s\"
agent.toml:9: [probes] loopback_head = [\"a.example\", \"a b\"] is no good value: write names of sites, like \"shop.example\" or \"*.agency.example\"
agent.toml:10: [probes] loopback_interval = \"1s\" is no good value: write 10s to 1d
agent.toml:11: [probes] dns = \"yes\" is no good value: write true or false, without quotes
agent.toml:13: [privacy] client_ip = \"all\" is no good value: write one of full, prefix, hash, drop
agent.toml:15: [limits] sites_max = \"many\" is no good value: write a plain number from 1 to 1000000
agent.toml:16: [limits] spool_bytes_max = \"1KiB\" is no good value: write 8MiB to 16TiB
agent.toml:17: this [[logs.source]] has no path: add path = \"/srv/*/logs/access.log\"
agent.toml:18: [[logs.source]] kind = \"acess\" is no good value: write one of access, error, php_fpm, php_slow, mysql, redis, modsecurity, syslog, kernel, change
agent.toml:21: site names a glob match that is not there: path has no *: write the site's name
agent.toml:22: [[logs.source]] timezone = \"Europe/Atlantis\" is no good value: write a zone that is in /usr/share/zoneinfo (package tzdata), like Europe/Berlin
agent.toml:23: [[logs.source]] format = \"combind\" is no good value: write auto, combined, common, vhost_combined, json, haproxy, nginx_ingress, npm_access, caddy, traefik, envoy, varnish, litespeed, lighttpd, iis, alb, cloudflare, cloudfront, json: with names of keys, or an nginx log_format or Apache LogFormat itself; for an error or system log nginx_error, apache_error, lighttpd_error, litespeed_error, php_fpm, php_slow, kernel, syslog, journald, mysql, redis, modsecurity, dpkg, apt_history, yum, zypper, pacman, text
environment GATEWATCH_PROBES_INTERVAL: \"soon\" is no good value: \"soon\" is not understood: write it like \"10s\"";
        assert_eq!(told, expected);
    }

    #[test]
    fn services_are_named_one_by_one_and_nonsense_is_refused() {
        let services = |text: &str| {
            let text = format!("[probes]\nservices = {text}\n");
            load(&text, &[]).map(|config| config.probes.services)
        };
        let good = services(r#"["my-app.service", "node", "app@1.service", "a\\x2db.socket"]"#);
        let want = ["my-app.service", "node", "app@1.service", r"a\x2db.socket"];
        assert_eq!(good.unwrap(), want);
        assert!(services("[]").unwrap().is_empty());
        let check = |text: &str, fix: &str| {
            let told = services(text).unwrap_err();
            assert!(told.starts_with("agent.toml:2: [probes] services = "), "{told}");
            assert!(told.ends_with(fix), "{told}");
        };
        check("\"my-app.service\"", "write a list of names in quotes, like [\"name\"]");
        check("[7]", "put each name in quotes, like [\"name\"]");
        check("[\"\"]", "\"\" names no service: write one like \"my-app.service\"");
        check("[\"a*\"]", "\"a*\" names no service: write one like \"my-app.service\"");
        check("[\"../a\"]", "\"../a\" names no service: write one like \"my-app.service\"");
        check("[\"a.timer\"]", "\"a.timer\" is a timer: name the .service or .socket itself");
        let many = format!("[{}]", vec!["\"a\""; 101].join(","));
        check(&many, "name at most 100");
        let named = [("GATEWATCH_PROBES_SERVICES", "my-app.service, node")];
        assert_eq!(load("", &named).unwrap().probes.services, ["my-app.service", "node"]);
        let told = load("", &[("GATEWATCH_PROBES_SERVICES", "a b")]).unwrap_err();
        assert!(told.contains("names no service"), "{told}");
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_by_line() {
        let told = load("[collector]\naddress = collector:8502\n[host\n", &[]).unwrap_err();
        assert!(told.starts_with("agent.toml:2: "), "{told}");
        assert!(told.lines().any(|l| l.starts_with("agent.toml:3: ")), "{told}");
    }

    #[test]
    fn files_that_cannot_be_read_are_named_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("latin1"), b"[host]\nname = \"\xfc\"\n").unwrap();
        for (name, fix) in [
            ("missing", "name a file that exists"),
            (".", "name the file, not its directory"),
            ("latin1", "save it as UTF-8"),
        ] {
            let path = dir.path().join(name);
            let problems = Config::load(Some(&path), std::iter::empty()).unwrap_err();
            assert_eq!(problems[0].fix, fix);
            assert_eq!(problems[0].place, path.display().to_string());
        }
    }
}
