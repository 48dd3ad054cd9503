//! `collector.toml`: every key with its default, and the check that reports every problem.

mod check;
mod hints;
mod notify;
mod report;
mod schedule;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use wire::units::{Bytes, Span};

pub use check::Problem;
use check::{KEYS, Source, value_of, variable};
pub use notify::{DeadmanConfig, NotifyConfig};
pub use report::{CatalogueError, ReportConfig};
pub use schedule::ScheduleConfig;

/// Where the config is when nothing says otherwise; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/gatewatch/collector.toml";

/// The whole file. Precedence: flag > `GATEWATCH_*` environment > file > default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Database, CA, admin token, address files.
    pub data_dir: PathBuf,
    /// Socket of the operator commands.
    pub socket: PathBuf,
    /// Port of the agents.
    pub grpc: GrpcConfig,
    /// Port of people.
    pub http: HttpConfig,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// How history is packed.
    pub store: StoreConfig,
    /// Copies that are made by themselves.
    pub backup: BackupConfig,
    /// Knobs of the detector.
    pub detect: DetectConfig,
    /// What reports take for granted.
    pub report: ReportConfig,
    /// Where incidents are told.
    pub notify: Vec<NotifyConfig>,
    /// The heartbeat that says that this collector lives.
    pub deadman: DeadmanConfig,
    /// Longest time the shutdown may take.
    pub shutdown_grace: Span,
}

/// `[grpc]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: String,
    /// `host:port` that agents reach this collector at; printed by `token create`.
    pub advertise: Option<String>,
}

/// `[http]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port; port 0 picks a free one.
    pub listen: String,
    /// `https://HOST` that people reach this collector at: links in notifications begin with it.
    pub public_url: Option<String>,
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Samples and counts as they came.
    pub raw: Span,
    /// One value set per hour.
    pub rollup: Span,
    /// Disk the data directory may take.
    pub disk_bytes_max: Bytes,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Time after the end of an hour in which its batches are waited for; then it is sealed.
    pub seal_after: Span,
    /// Age from which batches that came after their hour was sealed are sealed as well.
    pub late_after: Span,
    /// How often is looked what there is to seal, to roll up and to drop.
    pub seal_interval: Span,
}

/// `[backup]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// Folder of the copies, best on another disk; `None`: none are made.
    pub dir: Option<PathBuf>,
    /// How often one is made.
    pub interval: Span,
    /// How many are kept.
    pub keep: u32,
}

/// `[detect]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectConfig {
    /// Labels whose values make groups, the most physical first.
    pub group_labels: Vec<String>,
    /// `host:port` that answer while the collector's own uplink works.
    pub witnesses: Vec<String>,
    /// Score at which a site opens, nats.
    pub open_nats: f64,
    /// Smallest failure rate worth waking someone.
    pub p_bad_min: f64,
    /// De-duplicated failures a site needs at least.
    pub n_failed_min: f64,
    /// Score at which a pool opens, nats.
    pub pool_nats: f64,
    /// Score at which a server opens, nats.
    pub server_nats: f64,
    /// Score at which a group opens, nats.
    pub group_nats: f64,
    /// Failing servers a group needs at least; never less than three.
    pub group_servers_min: f64,
    /// Share of a group's servers with traffic that must fail, 0..1.
    pub group_share_min: f64,
    /// Quiet time before an incident resolves.
    pub quiet: Span,
    /// Age of the newest failure beyond which an incident is retroactive.
    pub retroactive_after: Span,
    /// Time after resolution in which the same scope revives its incident.
    pub cooldown: Span,
    /// Share of requests that ought to be answered; slow burns are measured by what is left of 1.
    pub slo: f64,
}

impl Config {
    /// Reads the config; `GATEWATCH_*` environment > file > default. `file` is that of the flag.
    ///
    /// Only the default file, read when there is no flag, may be missing. `Err` holds every problem there is, in the order of
    /// the file.
    pub fn load(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Problem>> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let place = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
                String::new()
            }
            Err(error) => return Err(vec![unreadable(place, &error)]),
        };
        let source = Source::new(&place, &text);
        let (root, mut problems) = match source.read() {
            Ok(root) => (root, Vec::new()),
            Err(problems) => (toml::Table::new(), problems),
        };
        let (root, set_by, wrong) = with_environment(root, variables);
        problems.extend(wrong);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut config: Self = root.try_into().map_err(|error: toml::de::Error| {
            let fix = "see deploy/config/collector.toml for every key".to_owned();
            vec![Problem { place: place.clone(), what: error.message().to_owned(), fix }]
        })?;
        if !set_by.contains_key(&("report", "plans")) {
            config.report.stand_beside(path);
        }
        let problems = source.ranges(&config, &set_by);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }
}

impl Config {
    /// Where the operator commands ask: only this key, also out of a file with faults, so that an
    /// operator can still look while the next start would fail. A file that was named and cannot be
    /// read is a fault: its collector is not the one of the default socket.
    pub fn socket(
        file: Option<&Path>,
        mut variables: impl Iterator<Item = (String, String)>,
    ) -> Result<PathBuf, Problem> {
        if let Some((_, set)) = variables.find(|(known, _)| *known == variable("", "socket")) {
            return Ok(set.into());
        }
        let text = match std::fs::read_to_string(file.unwrap_or(Path::new(DEFAULT_FILE))) {
            Ok(text) => text,
            Err(error) => {
                return file.map_or(Ok(Self::default().socket), |file| {
                    Err(unreadable(file.display().to_string(), &error))
                });
            }
        };
        let (root, _) = toml::de::DeTable::parse_recoverable(&text);
        let set = root.get_ref().get("socket").and_then(|value| value.get_ref().as_str());
        Ok(set.map_or_else(|| Self::default().socket, PathBuf::from))
    }
}

/// Puts the environment over the file; also which variable set which key, and what is wrong.
fn with_environment(
    mut root: toml::Table,
    variables: impl Iterator<Item = (String, String)>,
) -> (toml::Table, BTreeMap<(&'static str, &'static str), String>, Vec<Problem>) {
    let variables: BTreeMap<String, String> = variables.collect();
    let (mut set_by, mut problems) = (BTreeMap::new(), Vec::new());
    for (table, name, kind) in KEYS {
        let variable = variable(table, name);
        let Some(text) = variables.get(&variable) else { continue };
        let mut alone = toml::Table::new();
        let value = value_of(*kind, text);
        let checked = value.and_then(|value| {
            put(&mut alone, table, name, value.clone());
            let read = Config::deserialize(alone).map_err(|error| error.message().to_owned());
            read.map(|_| value)
        });
        match checked {
            Ok(value) => {
                put(&mut root, table, name, value);
                set_by.insert((*table, *name), variable);
            }
            Err(fix) => {
                let what = format!("{text:?} is no good value");
                problems.push(Problem { place: format!("environment {variable}"), what, fix });
            }
        }
    }
    (root, set_by, problems)
}

fn put(root: &mut toml::Table, table: &str, name: &str, value: toml::Value) {
    let inside = match table {
        "" => Some(root),
        table => root
            .entry(table)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut(),
    };
    inside.expect("the file was read, so it is a table").insert(name.to_owned(), value);
}

/// One line per problem.
pub fn lines(problems: &[Problem]) -> String {
    problems.iter().flat_map(|problem| [problem.to_string(), "\n".to_owned()]).collect()
}

fn unreadable(place: String, error: &io::Error) -> Problem {
    let fix = match error.kind() {
        io::ErrorKind::NotFound => "name a file that exists".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!("let this user read it: chgrp and chmod g+r {place}")
        }
        io::ErrorKind::IsADirectory => "name the file, not its directory".to_owned(),
        io::ErrorKind::InvalidData => "save it as UTF-8".to_owned(),
        _ => "mend the file system or name another file".to_owned(),
    };
    Problem { place, what: format!("cannot be read ({error})"), fix }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/gatewatch".into(),
            socket: "/run/gatewatch/collector.sock".into(),
            grpc: GrpcConfig::default(),
            http: HttpConfig::default(),
            retention: RetentionConfig::default(),
            store: StoreConfig::default(),
            backup: BackupConfig::default(),
            detect: DetectConfig::default(),
            report: ReportConfig::default(),
            notify: Vec::new(),
            deadman: DeadmanConfig::default(),
            shutdown_grace: Span(Duration::from_secs(10)),
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self { listen: "0.0.0.0:8502".into(), advertise: None }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8503".into(), public_url: None }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            raw: Span(Duration::from_secs(14 * 86_400)),
            rollup: Span(Duration::from_secs(2 * 365 * 86_400)),
            disk_bytes_max: Bytes(20 << 30),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            seal_after: Span(Duration::from_secs(5 * 60)),
            late_after: Span(Duration::from_secs(15 * 60)),
            seal_interval: Span(Duration::from_secs(60)),
        }
    }
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self { dir: None, interval: Span(Duration::from_secs(3600)), keep: 24 }
    }
}

impl Default for DetectConfig {
    fn default() -> Self {
        let labels = ["hypervisor", "rack", "network", "region", "provider", "image", "plan"];
        Self {
            group_labels: labels.map(str::to_owned).to_vec(),
            witnesses: Vec::new(),
            open_nats: 20.0,
            p_bad_min: 0.30,
            n_failed_min: 3.0,
            pool_nats: 12.0,
            server_nats: 14.0,
            group_nats: 12.0,
            group_servers_min: 3.0,
            group_share_min: 0.6,
            quiet: Span(Duration::from_secs(20)),
            retroactive_after: Span(Duration::from_secs(120)),
            cooldown: Span(Duration::from_secs(600)),
            slo: 0.999,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_KEY: &str = include_str!("../../deploy/config/collector.toml");
    const PLANS: &str = include_str!("../../deploy/config/plans.toml");

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(Some(&file), variables).map_err(|problems| {
            let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
            shown.join("\n").replace(&format!("{}/", dir.path().display()), "")
        })
    }

    /// The shipped file with its shown keys, its files replaced by real ones in `dir`.
    fn shown(dir: &Path) -> String {
        let mut text =
            EVERY_KEY.replace("#: ", "").replace("/etc/gatewatch/", &format!("{}/", dir.display()));
        std::fs::write(dir.join("plans.toml"), PLANS).unwrap();
        for line in
            EVERY_KEY.lines().filter(|line| line.starts_with("#: ") && line.contains("_file = "))
        {
            let name = line.split('"').nth(1).unwrap().rsplit('/').next().unwrap();
            let is_url = line.starts_with("#: url_file");
            let held = if is_url { "https://hooks.example/T0/x" } else { "0123456789abcdef" };
            crate::files::replace_private(&dir.join(name), held.as_bytes()).unwrap();
        }
        // Of these two only one may be set.
        let beside = |line: &&str| line.starts_with("url_file") && line.contains("deadman.url");
        let both: Vec<String> = text.lines().filter(beside).map(str::to_owned).collect();
        for line in &both {
            text = text.replace(line.as_str(), "");
        }
        assert_eq!(both.len(), 1);
        text
    }

    #[test]
    fn the_shipped_file_has_every_key_with_its_default() {
        assert_eq!(load(EVERY_KEY, &[]).unwrap(), Config::default());
        let root: toml::Table = toml::from_str(&EVERY_KEY.replace("#: ", "")).unwrap();
        for (table, name, _) in KEYS {
            let inside = if table.is_empty() { Some(&root) } else { root[*table].as_table() };
            assert!(inside.unwrap().contains_key(*name), "[{table}] {name} is not in the file");
        }
        let n_keys = root.values().map(|v| v.as_table().map_or(1, toml::Table::len)).sum::<usize>();
        // Neither the receivers nor the reports that are sent by themselves: they are lists of tables.
        assert_eq!(n_keys - 2, KEYS.len(), "a key of the file cannot be set in the environment");
    }

    #[test]
    fn every_example_of_the_shipped_file_is_sound() {
        let dir = tempfile::tempdir().unwrap();
        let config: Config = toml::from_str(&shown(dir.path())).unwrap();
        assert_eq!(config.grpc.advertise.as_deref(), Some("collector.example:8502"));
        assert_eq!(config.http.public_url.as_deref(), Some("https://gatewatch.example"));
        assert!(config.deadman.url.is_some() && config.deadman.url_file.is_none());
        for kind in crate::notify::kinds::KINDS {
            assert!(
                config.notify.iter().any(|n| n.kind == kind.name),
                "no example of {}",
                kind.name
            );
        }
        for notify in &config.notify {
            assert_eq!(crate::notify::kinds::check(notify), [], "{}", notify.kind);
        }
        let told = load(&shown(dir.path()), &[]).err().unwrap_or_default();
        // A kind whose sender this build does not have.
        let is_built = |line: &&str| !line.contains("is not known here");
        assert_eq!(told.lines().filter(is_built).collect::<Vec<_>>(), Vec::<&str>::new());
    }

    #[test]
    fn every_problem_is_told_with_its_line_and_fix() {
        let text = r#"data_dir = ""
shutdown_grace = 10
[grcp]
listen = "x"
[http]
lisen = "127.0.0.1:1"
listen = "127.0.0.1"
[detect]
group_labels = ["rack",
  "rack"]
open_nats = "high"
p_bad_min = 1.5
quiet = "20"
retention = "x"
[retention]
raw = "1s"
"#;
        let told = load(text, &[]).unwrap_err();
        let told: Vec<&str> = told.lines().collect();
        for (line, word, fix) in [
            (1, "data_dir is empty", "leave the line out"),
            (2, "shutdown_grace", "quotes"),
            (3, "grcp is not known", "did you mean grpc?"),
            (6, "lisen is not known", "did you mean listen?"),
            (7, "[http] listen", "HOST:PORT"),
            (9, "twice", "remove one"),
            (11, "open_nats", "plain number"),
            (12, "p_bad_min = 1.5", "0.01 to 0.95"),
            (13, "quiet", "10s"),
            (14, "retention is not known", "remove it"),
            (16, "[retention] raw = 1s", "1h"),
        ] {
            let place = format!("c.toml:{line}: ");
            let hit = told.iter().find(|told| told.starts_with(&place) && told.contains(word));
            assert!(hit.is_some_and(|hit| hit.contains(fix)), "{place}{word} {fix} in {told:#?}");
        }
        assert_eq!(told.len(), 11, "{told:#?}");
        assert!(told[0].starts_with("c.toml:1:"), "in the order of the file: {told:#?}");
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let told = load("data_dir = \"/x\"\n[grpc\nlisten = 1\n", &[]).unwrap_err();
        assert!(told.starts_with("c.toml:2: "), "{told}");
        let error = Config::load(Some(Path::new("/no/such.toml")), std::iter::empty()).unwrap_err();
        assert!(error[0].to_string().starts_with("/no/such.toml: cannot be read"), "{error:?}");
        let error = Config::load(Some(Path::new("/")), std::iter::empty()).unwrap_err();
        assert!(error[0].fix.contains("directory"), "{error:?}");
    }

    #[test]
    fn a_value_of_the_wrong_shape_is_told_with_the_right_one() {
        for (text, fix) in [
            ("[notify]\nkind = \"slack\"\n", "two brackets: [[notify]]"),
            ("[[notify]]\nkind = \"slack\"\nhours = \"08:00-18:00\"\n", "write a list: [\""),
            ("[[notify]]\nkind = \"slack\"\nmatch = \"server=a\"\n", "write a table: { key"),
        ] {
            let told = load(text, &[]).unwrap_err();
            assert!(told.contains(fix), "{text}: {told}");
        }
    }

    #[test]
    fn the_environment_beats_the_file() {
        let text = "[grpc]\nlisten = \"127.0.0.1:1\"\n";
        let set = [
            ("GATEWATCH_GRPC_LISTEN", "127.0.0.1:0"),
            ("GATEWATCH_DETECT_OPEN_NATS", "25"),
            ("GATEWATCH_DETECT_WITNESSES", "a:1, b:2"),
            ("GATEWATCH_URL", "http://x"),
        ];
        let config = load(text, &set).unwrap();
        assert_eq!(config.grpc.listen, "127.0.0.1:0");
        assert_eq!(config.detect.open_nats, 25.0);
        assert_eq!(config.detect.witnesses, ["a:1", "b:2"]);
        for (variable, value, fix) in [
            ("GATEWATCH_DETECT_OPEN_NATS", "high", "plain number"),
            ("GATEWATCH_RETENTION_RAW", "14", "unit"),
            ("GATEWATCH_GRPC_LISTEN", "nowhere", "HOST:PORT"),
        ] {
            let told = load(text, &[(variable, value)]).unwrap_err();
            assert!(told.starts_with(&format!("environment {variable}: ")), "{told}");
            assert!(told.contains(fix), "{told}");
        }
    }

    #[test]
    fn operators_find_the_socket_although_the_config_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let none = || std::iter::empty();
        let told = Config::socket(Some(&file), none()).unwrap_err().to_string();
        assert!(told.contains("c.toml: cannot be read"), "{told}");
        std::fs::write(&file, "socket = \"/x/y\"\nnonsense = 1\n[grpc\n").unwrap();
        assert_eq!(Config::socket(Some(&file), none()).unwrap(), Path::new("/x/y"));
        let set = [("GATEWATCH_SOCKET".to_owned(), "/z".to_owned())];
        assert_eq!(Config::socket(Some(&file), set.into_iter()).unwrap(), Path::new("/z"));
    }

    #[test]
    fn a_witness_too_many_is_refused_and_not_ignored() {
        let with = |n: usize| {
            let all: Vec<String> = (0..n).map(|n| format!("\"192.0.2.{n}:53\"")).collect();
            load(&format!("[detect]\nwitnesses = [{}]\n", all.join(", ")), &[])
        };
        assert_eq!(with(16).unwrap().detect.witnesses.len(), 16);
        let told = with(17).unwrap_err();
        assert!(told.starts_with("c.toml:2: [detect] witnesses holds 17 addresses"), "{told}");
        assert!(told.contains("name 16 at most"), "{told}");
    }

    #[test]
    fn receivers_are_checked_at_their_keys_and_the_heartbeat_shows_no_url() {
        let dir = tempfile::tempdir().unwrap();
        crate::files::replace_private(&dir.path().join("k"), &[b'k'; 64]).unwrap();
        let key = dir.path().join("k").display().to_string();
        let good = format!(
            "[[notify]]\nkind = \"webhook\"\nurl = \"http://x\"\nsecret_file = \"{key}\"\n"
        );
        load(&good, &[]).unwrap();
        let bad = "[[notify]]\nname = \"b\"\nkind = \"fax\"\nhours = [\"late\"]\n[notify.match]\nscope = \"moon\"\n\
                   [[notify]]\nkind = \"slack\"\nname = \"b\"\nchat_id = \"1\"\n\
                   [deadman]\nurl = \"hunter2\"\ninterval = \"0s\"\n\
                   [http]\npublic_url = \"gw\"\n";
        let told = load(&format!("{good}{bad}"), &[]).unwrap_err();
        let told: Vec<&str> = told.lines().collect();
        let expected = [
            "7: [[notify]] kind \"fax\" is not known: write one of ",
            "8: [[notify]] hours \"late\" is no span of the week: write it like ",
            "9: [[notify]] match scope: no incident has \"moon\": write one of site, ",
            "11: [[notify]] url is missing: slack shows one for its incoming webhook: write it to a file",
            "13: [[notify]] name \"b\" is taken: give every route its own",
            "14: [[notify]] chat_id is nothing that slack takes: remove it, it is for telegram",
            "16: [deadman] url is no URL (relative URL without a base): write it like ",
            "17: [deadman] interval = 0ms is out of range: write 1s to 1d",
            "19: [http] public_url is no URL",
        ];
        for expected in expected {
            let place = format!("c.toml:{expected}");
            assert!(told.iter().any(|told| told.starts_with(&place)), "{place} in {told:#?}");
        }
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        assert!(!told.join("").contains("hunter2"));
    }

    #[test]
    fn the_url_of_the_heartbeat_comes_from_the_file_the_environment_or_a_file_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("url");
        crate::files::replace_private(&file, b"https://heartbeat.example/hunter2\n").unwrap();
        let set = |url: &str| [("GATEWATCH_DEADMAN_URL".to_owned(), url.to_owned())];
        let variable = |url: &str| Config::load(None, set(url).into_iter());
        let url = Some("https://h.example/x".to_owned());
        assert_eq!(variable("https://h.example/x").unwrap().deadman.url, url);
        let told = lines(&variable("ftp://h.example/hunter2").unwrap_err());
        assert!(
            told.starts_with("environment GATEWATCH_DEADMAN_URL: [deadman] url \"ftp\" is not"),
            "{told}"
        );
        assert!(!told.contains("hunter2"));
        let in_file = format!("[deadman]\nurl_file = '{}'\n", file.display());
        load(&in_file, &[]).unwrap();
        let told = load(&in_file, &[("GATEWATCH_DEADMAN_URL", "https://x")]).unwrap_err();
        assert!(told.contains("[deadman] url_file is set beside url: keep one"), "{told}");
        std::fs::write(&file, "hunter2").unwrap();
        let told = load(&in_file, &[]).unwrap_err();
        assert!(told.contains("url: is no URL") && !told.contains("hunter2"), "{told}");
    }
}
