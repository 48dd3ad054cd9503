//! A collector and agents: the real programs, enrolled by real tokens, each in its own directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Gid, Uid, chown};
use serde_json::Value;

use crate::db::Db;
use crate::feed::LogFeed;
use crate::incident::Incident;
use crate::process::{Process, copy_program, find_program, is_root};
use crate::root::{Root, loopback};
use crate::wait::eventually;

/// How long the programs may take to start, enrol or answer: generous, the machine may be busy.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How systemd starts the collector.
const UNIT: &str = include_str!("../../deploy/systemd/gatewatch-collector.service");

/// User and group of an unprivileged agent: nobody, in group adm (fixed ids on Debian).
const NOBODY: u32 = 65_534;
const ADM: u32 = 4;

/// One of our binaries, built next to the running test or benchmark, or another one, which
/// `BENCH_AGENT` or `BENCH_COLLECTOR` names.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let variable = match name {
        "gatewatch-agent" => "BENCH_AGENT",
        "gatewatch-collector" => "BENCH_COLLECTOR",
        _ => "",
    };
    if let Some(other) = Some(variable).filter(|v| !v.is_empty()).and_then(std::env::var_os) {
        return other.into();
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let dir = test.parent().expect("a program is in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("of a profile") } else { dir };
    let path = dir.join(name);
    assert!(path.is_file(), "no {}: run `cargo build --workspace` first", path.display());
    path
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs a command to its end.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let done = command.output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
        Self {
            code: done.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// Its standard output; an error with everything when it did not exit 0.
    pub fn good(self) -> Result<String, String> {
        if self.code == 0 { Ok(self.stdout) } else { Err(format!("{self:?}")) }
    }
}

/// How one agent is configured.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    name: String,
    labels: BTreeMap<String, String>,
    root: Option<PathBuf>,
    unprivileged: bool,
    toml: String,
    wrapper: Vec<String>,
    heartbeat: String,
    collector: Option<SocketAddr>,
}

impl AgentSpec {
    /// An agent that follows the log of [`Fleet::log`] and nothing else.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            root: None,
            unprivileged: false,
            toml: String::new(),
            wrapper: Vec::new(),
            heartbeat: "1s".to_owned(),
            collector: None,
        }
    }

    /// Reaches the collector at this address, which leads there.
    #[must_use]
    pub fn through(mut self, address: SocketAddr) -> Self {
        self.collector = Some(address);
        self
    }

    /// Time between its heartbeats; default 1 s.
    #[must_use]
    pub fn heartbeat(mut self, span: &str) -> Self {
        span.clone_into(&mut self.heartbeat);
        self
    }

    /// Discovers everything below `root` instead; no explicit sources.
    #[must_use]
    pub fn root(mut self, root: &Root) -> Self {
        self.root = Some(root.path().to_owned());
        self
    }

    /// Fixes a label with the join token.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Runs as nobody in group adm when the tests are root; as the tests' own user otherwise.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = is_root();
        self
    }

    /// Adds lines to `agent.toml`, after the sections the harness writes.
    #[must_use]
    pub fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self
    }

    /// Runs the agent through another program, e.g. `faketime`.
    #[must_use]
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }
}

/// One agent of the fleet.
#[derive(Debug)]
pub struct Agent {
    spec: AgentSpec,
    dir: PathBuf,
    program: PathBuf,
    process: Option<Process>,
}

impl Agent {
    fn prepare(dir: PathBuf, spec: AgentSpec, collector: SocketAddr, batch: &str) -> Self {
        fs::create_dir_all(dir.join("state")).expect("the fleet's directory is writable");
        let log = feed_path(&dir);
        fs::create_dir_all(log.parent().expect("a log has a directory")).expect("writable");
        let mut toml = format!(
            "state_dir = \"{0}/state\"\nsocket = \"{0}/state/agent.sock\"\n\
             [collector]\naddress = \"{collector}\"\nbatch_interval = \"{batch}\"\n\
             heartbeat = \"{2}\"\n[host]\nname = \"{1}\"\n",
            dir.display(),
            spec.name,
            spec.heartbeat
        );
        if let Some(root) = &spec.root {
            writeln!(toml, "[logs]\nroot = \"{}\"", root.display()).expect("to a string");
        } else {
            fs::File::create(&log).expect("writable");
            writeln!(
                toml,
                "[logs]\ndiscover = false\n[[logs.source]]\npath = \"{}\"\nkind = \"access\"\n\
                 format = \"vhost_combined\"",
                log.display()
            )
            .expect("to a string");
        }
        toml.push_str(&spec.toml);
        fs::write(dir.join("agent.toml"), toml).expect("writable");
        let mut program = program("gatewatch-agent");
        if spec.unprivileged {
            let copy = dir.join("gatewatch-agent"); // the target directory may be private to root
            copy_program(&program, &copy);
            program = copy;
            give(&dir.join("state"), NOBODY, NOBODY);
        }
        Self { spec, dir, program, process: None }
    }

    /// A command that runs the agent's binary with its configuration, as its user.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut words: Vec<String> = Vec::new();
        if self.spec.unprivileged {
            let setpriv = find_program(&["setpriv"], "util-linux");
            words.push(setpriv.display().to_string());
            words.extend([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
            words.extend([format!("--groups={ADM}"), "--no-new-privs".to_owned()]);
        }
        words.extend(self.spec.wrapper.iter().cloned());
        words.push(self.program.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--config").arg(self.dir.join("agent.toml"));
        command.current_dir(&self.dir);
        command
    }

    /// Runs one command of the agent to its end.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Output {
        Output::of(self.command().args(words))
    }

    /// Starts the daemon.
    pub fn start(&mut self) {
        let mut command = self.command();
        command.arg("run");
        let log = self.dir.join("agent.log");
        self.process = Some(Process::start(&self.spec.name, &mut command, &log));
    }

    /// SIGTERM, and waits until it has drained.
    pub fn stop(&mut self) {
        self.process.take().expect("the agent runs").stop();
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.process.take().expect("the agent runs").kill9();
    }

    /// The daemon's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the agent runs")
    }

    /// `status --json` of the running daemon.
    pub fn status(&self) -> Result<Value, String> {
        let text = self.run(&["status", "--json"]).good()?;
        serde_json::from_str(&text).map_err(|e| format!("{e} in {text:?}"))
    }

    /// Everything the daemon logged, over all its lives.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Directory of its configuration, log and state.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Describes a fleet before it starts.
#[derive(Clone, Debug)]
pub struct FleetBuilder {
    agents: Vec<AgentSpec>,
    batch_interval: String,
    toml: String,
    wrapper: Option<fn(&Path) -> Vec<String>>,
    inside: Vec<String>,
}

impl FleetBuilder {
    /// Adds agents that follow the logs of [`Fleet::log`].
    #[must_use]
    pub fn agents<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.agents.extend(names.map(AgentSpec::new));
        self
    }

    /// Adds one agent.
    #[must_use]
    pub fn agent(mut self, spec: AgentSpec) -> Self {
        self.agents.push(spec);
        self
    }

    /// Time between batches while nothing fails; default 1 s.
    #[must_use]
    pub fn batch_interval(mut self, span: &str) -> Self {
        span.clone_into(&mut self.batch_interval);
        self
    }

    /// Adds lines to `collector.toml`, after the sections the harness writes.
    #[must_use]
    pub fn toml(mut self, text: &str) -> Self {
        self.toml.push_str(text);
        self
    }

    /// Runs the collector through the words that `wrapper` makes of its data directory.
    #[must_use]
    pub fn collector_wrapper(mut self, wrapper: fn(&Path) -> Vec<String>) -> Self {
        self.wrapper = Some(wrapper);
        self
    }

    /// Runs the collector and the agents added before through words that lead into a namespace.
    #[must_use]
    pub fn inside(mut self, words: &[String]) -> Self {
        self.inside = words.to_vec();
        for agent in &mut self.agents {
            agent.wrapper.splice(0..0, words.iter().cloned());
        }
        self
    }

    /// Starts the collector, enrols and starts every agent, waits until each of them streams.
    #[must_use]
    pub fn start(self) -> Fleet {
        let root = Root::new();
        let (grpc, http) = (loopback(8502), loopback(8503));
        let data_dir = root.mkdir("collector/data");
        let mut wrapper = self.inside;
        wrapper.extend(self.wrapper.map(|words| words(&data_dir)).unwrap_or_default());
        let toml = format!(
            "data_dir = \"{0}/collector/data\"\nsocket = \"{0}/collector/collector.sock\"\n\
             [grpc]\nlisten = \"{grpc}\"\n[http]\nlisten = \"{http}\"\n{1}",
            root.path().display(),
            self.toml
        );
        root.write("collector/collector.toml", &toml);
        let mut fleet = Fleet {
            agents: BTreeMap::new(),
            feeds: BTreeMap::new(),
            collector: None,
            wrapper,
            grpc,
            root,
        };
        fleet.start_collector();
        for spec in self.agents {
            fleet.add_agent(spec, &self.batch_interval);
        }
        fleet
    }
}

/// A running collector and its agents; all stop in `Drop`.
#[derive(Debug)]
pub struct Fleet {
    agents: BTreeMap<String, Agent>,
    feeds: BTreeMap<String, LogFeed>,
    collector: Option<Process>,
    wrapper: Vec<String>,
    grpc: SocketAddr,
    root: Root,
}

impl Fleet {
    /// Starts to describe a fleet.
    #[must_use]
    pub fn builder() -> FleetBuilder {
        FleetBuilder {
            agents: Vec::new(),
            batch_interval: "1s".to_owned(),
            toml: String::new(),
            wrapper: None,
            inside: Vec::new(),
        }
    }

    /// Starts the collector, and waits until it answers on its socket.
    pub fn start_collector(&mut self) {
        let mut command = self.daemon();
        let log = self.root.join("collector/collector.log");
        let mut process = Process::start("collector", &mut command, &log);
        eventually("the collector answers on its socket", START_LIMIT, || {
            if let Some(status) = process.exited() {
                panic!("the collector ended with {status}: {}", process.log_text());
            }
            Output::of(self.collector_command().args(["agent", "list", "--json"])).good()
        });
        self.collector = Some(process);
    }

    /// Starts the collector as [`Fleet::start_collector`] does, when it is to end by itself.
    #[must_use]
    pub fn run_collector(&self) -> Output {
        Output::of(&mut self.daemon())
    }

    fn daemon(&self) -> Command {
        let mut words = self.wrapper.clone();
        words.push(program("gatewatch-collector").display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--config").arg(self.root.join("collector/collector.toml"));
        command.arg("run");
        // As systemd starts it.
        let settings = UNIT.lines().filter_map(|line| line.strip_prefix("Environment="));
        command.envs(settings.filter_map(|setting| setting.split_once('=')));
        command
    }

    /// SIGTERM to the collector, and waits until it has ended.
    pub fn stop_collector(&mut self) {
        self.collector.take().expect("the collector runs").stop();
    }

    /// SIGKILL to the collector.
    pub fn kill9_collector(&mut self) {
        self.collector.take().expect("the collector runs").kill9();
    }

    /// SIGKILL to an agent.
    pub fn kill9_agent(&mut self, name: &str) {
        self.agent_mut(name).kill9();
    }

    /// Starts an agent that was stopped or killed.
    pub fn restart_agent(&mut self, name: &str) {
        self.agent_mut(name).start();
    }

    /// Makes, enrols and starts one more agent; waits until it follows its logs and streams.
    pub fn add_agent(&mut self, spec: AgentSpec, batch: &str) {
        let name = spec.name.clone();
        let dir = self.root.join(&name);
        let collector = spec.collector.unwrap_or(self.grpc);
        let mut agent = Agent::prepare(dir, spec, collector, batch);
        let (token, hash) = self.token(&agent.spec.labels);
        let address = collector.to_string();
        let words = ["enroll", "--collector", &address, "--token", &token, "--ca-hash", &hash];
        let done = agent.run(&words);
        assert_eq!(done.code, 0, "{name} cannot enrol: {done:?}");
        agent.start();
        self.agents.insert(name.clone(), agent);
        // What is in a log at the first start of all is history and not counted, so a test may write
        // only when the agent follows it.
        eventually(&format!("{name} follows its logs and streams"), START_LIMIT, || {
            let status = self.agent(&name).status()?;
            let follows = status["files"].as_array().is_some_and(|files| !files.is_empty());
            if follows { self.is_up(&name) } else { Err(status.to_string()) }
        });
    }

    /// Makes a join token that fixes these labels; returns it with the CA's hash.
    #[must_use]
    pub fn token(&self, labels: &BTreeMap<String, String>) -> (String, String) {
        let labels: Vec<String> =
            labels.iter().flat_map(|(k, v)| ["--label".to_owned(), format!("{k}={v}")]).collect();
        let mut words = vec!["token", "create", "--json"];
        words.extend(labels.iter().map(String::as_str));
        let made = self.cli(&words).good().expect("a token can be made");
        let made: Value = serde_json::from_str(&made).expect("token create prints JSON");
        let text = |key: &str| made[key].as_str().expect("token create names it").to_owned();
        (text("token"), text("ca_hash"))
    }

    /// The log feed of an agent that was not given a root.
    pub fn log(&mut self, name: &str) -> &mut LogFeed {
        let path = feed_path(self.agent(name).dir());
        self.feeds.entry(name.to_owned()).or_insert_with(|| LogFeed::open(&path))
    }

    /// An agent.
    #[must_use]
    pub fn agent(&self, name: &str) -> &Agent {
        self.agents.get(name).unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// An agent, to stop or start it.
    pub fn agent_mut(&mut self, name: &str) -> &mut Agent {
        self.agents.get_mut(name).unwrap_or_else(|| panic!("no agent {name}"))
    }

    /// The collector's database.
    #[must_use]
    pub fn db(&self) -> Db {
        Db::at(&self.root.join("collector/data/gatewatch.db"))
    }

    /// The collector's process.
    #[must_use]
    pub fn collector(&self) -> &Process {
        self.collector.as_ref().expect("the collector runs")
    }

    /// The collector's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.root.join("collector/data")
    }

    /// Where the agents reach the collector.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.grpc
    }

    /// A command that runs the collector's binary with its configuration.
    #[must_use]
    pub fn collector_command(&self) -> Command {
        let mut command = Command::new(program("gatewatch-collector"));
        command.arg("--config").arg(self.root.join("collector/collector.toml"));
        command
    }

    /// Runs one operator command.
    #[must_use]
    pub fn cli(&self, words: &[&str]) -> Output {
        Output::of(self.collector_command().args(words))
    }

    /// Every incident, as `incident list --json` prints them.
    pub fn incidents(&self) -> Result<Vec<Incident>, String> {
        Incident::parse_lines(&self.cli(&["incident", "list", "--json"]).good()?)
    }

    /// The notify log of one incident, as `notify log --json` prints it, oldest first.
    pub fn notices(&self, incident: &str) -> Result<Vec<Value>, String> {
        let text = self.cli(&["notify", "log", "--incident", incident, "--json"]).good()?;
        let line = |line| serde_json::from_str(line).map_err(|e| format!("{e} in {line:?}"));
        text.lines().map(line).collect()
    }

    /// `agent list --json` of one agent.
    pub fn listed(&self, name: &str) -> Result<Value, String> {
        let text = self.cli(&["agent", "list", "--json"]).good()?;
        let mut rows = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        rows.find(|row| row["server"] == name).ok_or_else(|| format!("no {name} in {text:?}"))
    }

    /// Everything the collector logged, over all its lives.
    #[must_use]
    pub fn collector_log(&self) -> String {
        fs::read_to_string(self.root.join("collector/collector.log")).unwrap_or_default()
    }

    /// Waits until the only incident that is no child of another satisfies `probe`.
    pub fn incident(
        &self,
        what: &str,
        limit: Duration,
        probe: impl Fn(&Incident) -> bool,
    ) -> Incident {
        eventually(what, limit, || {
            let all = self.incidents()?;
            let found = all.iter().find(|i| i.is_top() && probe(i)).cloned();
            found.ok_or_else(|| {
                let seen: Vec<_> = all.iter().map(|i| i.json().to_string()).collect();
                format!("{} incidents\n{}", all.len(), seen.join("\n"))
            })
        })
    }

    fn is_up(&self, name: &str) -> Result<(), String> {
        let row = self.listed(name)?;
        if row["state"] == "up" {
            Ok(())
        } else {
            Err(format!("{row}\n{}", self.agent(name).log_text()))
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.agents.clear(); // agents first: their goodbyes want a collector
        drop(self.collector.take());
    }
}

fn feed_path(dir: &Path) -> PathBuf {
    dir.join("logs/access.log")
}

/// Hands a file or directory to another user and opens it to that user alone.
fn give(path: &Path, uid: u32, gid: u32) {
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).expect("root may chown");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("root may chmod");
}
