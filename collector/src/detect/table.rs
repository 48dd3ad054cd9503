//! The evidence table: what each kind of evidence says about each cause, read from `evidence.toml`.
//!
//! The table is data: log odds in nats, added up (naive Bayes). A row lists causes; every cause that
//! it does not list gets its `else`. It is part of the program, and a broken one does not start.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use wire::v1::Signal;

use super::server::Level;

/// The table as it is shipped.
const SHIPPED: &str = include_str!("evidence.toml");
static TABLE: LazyLock<Table> = LazyLock::new(|| {
    Table::parse(SHIPPED).expect("a test reads the same text that is shipped in the program")
});

/// A cause that can be told from others.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// More requests than the pool or the server can take.
    Overload,
    /// The kernel killed processes for lack of memory.
    Oom,
    /// Processes crash.
    Crash,
    /// A service is stopped or failed.
    ServiceDown,
    /// The configuration points at nothing, or may not open it.
    Misconfig,
    /// A packet filter stands between gateway and backend.
    Firewall,
    /// A name does not resolve.
    Dns,
    /// The backend answers too late.
    Timeout,
    /// The site's own code.
    SiteCode,
    /// A flood of requests.
    Ddos,
    /// The hypervisor takes the processors away.
    Steal,
    /// A file system is full.
    DiskFull,
    /// The network between gateway and backend.
    Network,
}

const N_CLASSES: usize = 13;

impl Class {
    /// Every class, in the order of the contract.
    pub const ALL: [Self; N_CLASSES] = [
        Self::Overload,
        Self::Oom,
        Self::Crash,
        Self::ServiceDown,
        Self::Misconfig,
        Self::Firewall,
        Self::Dns,
        Self::Timeout,
        Self::SiteCode,
        Self::Ddos,
        Self::Steal,
        Self::DiskFull,
        Self::Network,
    ];

    /// Name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Oom => "oom",
            Self::Crash => "crash",
            Self::ServiceDown => "service_down",
            Self::Misconfig => "misconfig",
            Self::Firewall => "firewall",
            Self::Dns => "dns",
            Self::Timeout => "timeout",
            Self::SiteCode => "site_code",
            Self::Ddos => "ddos",
            Self::Steal => "steal",
            Self::DiskFull => "disk_full",
            Self::Network => "network",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }
}

/// Log odds of every class, nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Nats([f64; N_CLASSES]);

impl Nats {
    /// Nats for a cause.
    #[must_use]
    pub fn of(&self, class: Class) -> f64 {
        self.0[class as usize]
    }

    /// The same with another value for one cause.
    #[must_use]
    pub fn with(mut self, class: Class, nats: f64) -> Self {
        self.0[class as usize] = nats;
        self
    }

    fn listed(listed: &BTreeMap<String, f64>) -> Result<Self, String> {
        let mut nats = Self([listed.get(ELSE).copied().unwrap_or(0.0); N_CLASSES]);
        for (name, value) in listed.iter().filter(|(name, _)| *name != ELSE) {
            let class = Class::from_name(name).ok_or_else(|| format!("{name} is no cause"))?;
            if !value.is_finite() || value.abs() > NATS_MAX {
                return Err(format!("{name} = {value} is no log odds"));
            }
            nats = nats.with(class, *value);
        }
        Ok(nats)
    }
}

/// What causes get that a row does not list.
const ELSE: &str = "else";
/// No evidence says more than this, nats.
const NATS_MAX: f64 = 10.0;

/// What one kind of evidence says.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What is seen, in words.
    pub what: String,
    /// Recorded outages stand behind its values.
    pub measured: bool,
    /// Its log odds.
    pub nats: Nats,
}

/// Levels that a cause would have raised, and what it says that they are normal.
#[derive(Clone, Debug, PartialEq)]
pub struct Normal {
    /// The cause.
    pub class: Class,
    /// Levels that are normal then.
    pub levels: Vec<Level>,
    /// Nats for the cause.
    pub nats: f64,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    rows: BTreeMap<String, Row>,
    normal: Vec<Normal>,
    normal_else: f64,
    priors: BTreeMap<String, Nats>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    rows: BTreeMap<String, WrittenRow>,
    normal: BTreeMap<String, WrittenNormal>,
    prior: BTreeMap<String, BTreeMap<String, f64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    what: String,
    #[serde(default = "yes")]
    measured: bool,
    nats: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenNormal {
    #[serde(default)]
    levels: Vec<String>,
    nats: f64,
}

fn yes() -> bool {
    true
}

impl Table {
    /// Reads a table; says what is wrong with it, where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut rows = BTreeMap::new();
        for (key, row) in written.rows {
            if !row.nats.contains_key(ELSE) {
                return Err(format!("rows.{key} has no `else`"));
            }
            let nats = Nats::listed(&row.nats).map_err(|error| format!("rows.{key}: {error}"))?;
            rows.insert(key, Row { what: row.what, measured: row.measured, nats });
        }
        if let Some(key) = KEYS.iter().find(|key| !rows.contains_key(**key)) {
            return Err(format!("rows.{key} is missing"));
        }
        if let Some(key) = rows.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("rows.{key}: nothing is called so"));
        }
        let mut priors = BTreeMap::new();
        for scope in ["site", "pool", "server", "group"] {
            let prior = written.prior.get(scope);
            let prior = prior.ok_or_else(|| format!("prior.{scope} is missing"))?;
            let nats = Nats::listed(prior).map_err(|error| format!("prior.{scope}: {error}"))?;
            priors.insert(scope.to_owned(), nats);
        }
        let (normal, normal_else) = Self::normal_of(&written.normal)?;
        Ok(Self { rows, normal, normal_else, priors })
    }

    fn normal_of(written: &BTreeMap<String, WrittenNormal>) -> Result<(Vec<Normal>, f64), String> {
        let (mut normal, mut rest) = (Vec::new(), 0.0);
        for (name, entry) in written {
            if name == ELSE {
                rest = entry.nats;
                continue;
            }
            let class = Class::from_name(name);
            let class = class.ok_or_else(|| format!("normal.{name} is no cause"))?;
            let level = |key: &String| {
                let found = Level::ALL.into_iter().find(|level| level.key() == key);
                found.ok_or_else(|| format!("normal.{name}: {key} is no level"))
            };
            let levels = entry.levels.iter().map(level).collect::<Result<_, _>>()?;
            normal.push(Normal { class, levels, nats: entry.nats });
        }
        Ok((normal, rest))
    }
}

/// Every row that evidence may ask for.
pub const KEYS: [&str; 53] = [
    "connect_refused",
    "no_such_socket",
    "permission",
    "backlog_full",
    "premature_close",
    "reset",
    "timeout_read",
    "connect_timeout",
    "unreachable",
    "dns",
    "no_live_upstreams",
    "disk_full",
    "too_big_header",
    "invalid_header",
    "tls",
    "worker_connections",
    "server_down",
    "too_many_connections",
    "memory_limit",
    "worker_killed",
    "worker_timeout",
    "silent",
    "oom_kill",
    "memory_pressure",
    "memory_low",
    "cpu_busy",
    "cpu_pressure",
    "steal",
    "io_pressure",
    "max_children",
    "listen_overflow",
    "conntrack",
    "surge",
    "retransmit",
    "file_system_full",
    "unit_down",
    "segfault",
    "change_package",
    "change_config",
    "change_config_own",
    "change_firewall",
    "change_plugin",
    "upstream_down",
    "top_client",
    "crawler",
    "attack_refused",
    "packets_dropped",
    "change_restart",
    "change_boot",
    "change_dns",
    "change_certificate",
    "change_schedule",
    "change_clock",
];

/// A row by its name.
///
/// # Panics
/// When the name is none of `KEYS`.
#[must_use]
pub fn row(key: &str) -> &'static Row {
    TABLE.rows.get(key).expect("a table without one of its rows is refused when it is read")
}

/// Name of the row of an error line; `None` when its signal says nothing about the cause.
#[must_use]
pub fn line(signal: Signal) -> Option<&'static str> {
    Some(match signal {
        Signal::ConnectRefused => "connect_refused",
        Signal::NoSuchSocket => "no_such_socket",
        Signal::Permission => "permission",
        Signal::BacklogFull => "backlog_full",
        Signal::PrematureClose => "premature_close",
        Signal::Reset => "reset",
        Signal::TimeoutRead => "timeout_read",
        Signal::ConnectTimeout => "connect_timeout",
        Signal::Unreachable => "unreachable",
        Signal::Dns => "dns",
        Signal::NoLiveUpstreams => "no_live_upstreams",
        Signal::DiskFull => "disk_full",
        Signal::TooBigHeader => "too_big_header",
        Signal::InvalidHeader => "invalid_header",
        Signal::Tls => "tls",
        Signal::WorkerConnections => "worker_connections",
        Signal::ServerDown => "server_down",
        Signal::TooManyConnections => "too_many_connections",
        Signal::MemoryLimit => "memory_limit",
        _ => return None,
    })
}

/// Name of the row of a change, by its kind; `None` for kinds nobody knows.
#[must_use]
pub fn change(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "package" => "change_package",
        "config" => "change_config",
        "firewall" => "change_firewall",
        "plugin" => "change_plugin",
        "restart" => "change_restart",
        "boot" => "change_boot",
        "dns" => "change_dns",
        "certificate" => "change_certificate",
        "schedule" => "change_schedule",
        "clock" => "change_clock",
        _ => return None,
    })
}

/// Levels that causes would have raised, and the nats of all normal for every other cause.
#[must_use]
pub fn normal() -> (&'static [Normal], f64) {
    (&TABLE.normal, TABLE.normal_else)
}

/// Log prior of a cause for a scope named `site`, `pool`, `server` or `group`.
#[must_use]
pub fn prior(scope: &str, class: Class) -> f64 {
    TABLE.priors.get(scope).map_or(0.0, |nats| nats.of(class))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(from: &str, to: &str) -> String {
        let text = SHIPPED.replacen(from, to, 1);
        assert_ne!(text, SHIPPED, "{from} is in the table");
        Table::parse(&text).expect_err("it is broken")
    }

    #[test]
    fn a_broken_table_is_refused_with_what_is_wrong() {
        assert_eq!(Table::parse(SHIPPED).as_ref(), Ok(&*TABLE));
        assert_eq!(broken("oom = 0.9", "om = 0.9"), "rows.connect_refused: om is no cause");
        let infinite = broken("oom = 0.9", "oom = inf");
        assert_eq!(infinite, "rows.connect_refused: oom = inf is no log odds");
        assert_eq!(broken(", else = -1.2", ""), "rows.connect_refused has no `else`");
        assert_eq!(broken("[rows.reset]", "[rows.rest]"), "rows.reset is missing");
        assert_eq!(broken("\"retransmit\"", "\"loss\""), "normal.network: loss is no level");
        let more = "[rows.more]\nwhat = \"x\"\nnats = { else = 0.0 }\n[rows.reset]";
        assert_eq!(broken("[rows.reset]", more), "rows.more: nothing is called so");
        assert_eq!(broken("group = {", "grop = {"), "prior.group is missing");
    }

    #[test]
    fn every_row_and_level_has_its_words_and_speaks_for_something() {
        for key in KEYS {
            let row = row(key);
            assert!(!row.what.is_empty(), "{key}");
            let best = Class::ALL.map(|class| row.nats.of(class)).into_iter().fold(-9.0, f64::max);
            assert!(best >= 0.5, "{key} speaks for nothing");
        }
        assert!(Level::ALL.iter().all(|level| KEYS.contains(&level.key())));
        let n_guessed = KEYS.iter().filter(|key| !row(key).measured).count();
        assert_eq!(n_guessed, 21, "nine of lines and workers, twelve of what else is sent");
    }

    #[test]
    fn names_of_classes_are_those_of_json() {
        for class in Class::ALL {
            let json = serde_json::to_string(&class).unwrap();
            assert_eq!(json, format!("\"{}\"", class.name()));
            assert_eq!(Class::ALL[class as usize], class);
        }
    }
}
