//! What is seen around an incident: every row of the evidence table that applies, with its weight.
//!
//! A row is added at most once, whatever shows it: a counter and a line of the kernel about the same
//! kill are one piece of evidence. What only some servers show counts when enough of them do.

use std::collections::{BTreeMap, BTreeSet};

use wire::v1::Signal;

use super::server::{Level, Line, Server, Unit};
use super::site::Lines;
use super::table::{self, Nats};
use super::{Fleet, change, runbook};
use crate::model::ServerId;

/// A signal counts only if it began at most this after the first failure, ms: overflows, pressure
/// and exhausted pools follow almost any outage.
pub(super) const BEGAN_MS: i64 = 10_000;
/// A line or state this close after the first failure counts as before it, ms.
pub(super) const SLACK_MS: i64 = 2_000;
/// Lines older than this before the first failure say nothing, ms.
const LINE_MS: i64 = 60_000;
/// A backend that cannot be connected to for longer than this is not what began to fail, ms.
const UPSTREAM_MS: i64 = 300_000;
/// Share of the affected servers that must show a signal.
const SHARE: f64 = 0.4;
/// Lines that count at most: of the incident, and of one of its servers.
const LINES_MAX: f64 = 3.0;
/// Lines that one look of the agent at a backend counts for: it looks twice before it tells.
const PROBE_LINES: f64 = 2.0;
/// Addresses of backends compared.
const ADDRESSES_MAX: usize = 8;
/// What the gateway sees of a worker that is ended, and what is left of it once that is known.
const BROKEN_OFF: [&str; 2] = ["reset", "premature_close"];
const EXPLAINED: f64 = 0.25;
/// Weight of a change of the packet filter, two minutes old, from which it may be the reason.
const FRESH: f64 = 0.36;
/// What the gateway or the agent sees of a backend that cannot be reached.
const UNREACHED: [&str; 8] = [
    "connect_refused",
    "no_such_socket",
    "permission",
    "backlog_full",
    "connect_timeout",
    "unreachable",
    "dns",
    "server_down",
];

/// One row that applies.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    /// Name of the row.
    pub(super) key: &'static str,
    /// What it says.
    pub(super) nats: Nats,
    /// How much of it counts.
    pub(super) weight: f64,
    /// Kind of the evidence.
    pub(super) kind: &'static str,
    /// The line or the fact.
    pub(super) text: String,
    /// When, corrected.
    pub(super) at: i64,
    /// On which server first.
    pub(super) server: Option<String>,
}

impl Applied {
    pub(super) fn new(key: &'static str, kind: &'static str, text: String, at: i64) -> Self {
        let nats = table::row(key).nats;
        Self { key, nats, weight: 1.0, kind, text, at, server: None }
    }
}

/// Error lines of one kind: how many, and the earliest with its server.
type Kind<'a> = (u64, Option<(&'a Lines, ServerId)>);

/// Something seen on one server.
pub(super) struct Seen {
    pub(super) kind: &'static str,
    pub(super) text: String,
    pub(super) at: i64,
}

/// Everything an assessment looks at.
pub(super) struct Case<'a> {
    pub(super) fleet: &'a Fleet,
    /// `site`, `pool`, `server` or `group`.
    pub(super) scope: &'a str,
    pub(super) members: &'a [u32],
    /// Affected servers with the first failure of each: servers of a rollout fail one by one.
    pub(super) servers: Vec<(&'a Server, i64)>,
    pub(super) pool: Option<String>,
    pub(super) first: i64,
    addresses: BTreeSet<String>,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        fleet: &'a Fleet,
        scope: &'a str,
        members: &'a [u32],
        pool: Option<String>,
        first: i64,
    ) -> Self {
        let firsts = change::firsts(fleet, members, first);
        let servers = firsts.iter().filter_map(|(id, at)| Some((fleet.server(*id)?, *at)));
        let servers = servers.collect();
        let mut addresses = BTreeSet::new();
        for site in members.iter().map(|ix| fleet.site(*ix)) {
            let named = site.said.lines.values().filter_map(|lines| lines.upstream.as_deref());
            let known = [site.upstream_named.as_deref(), site.upstream.as_deref()];
            let all = named.chain(known.into_iter().flatten()).chain(site.pool.as_deref());
            addresses.extend(all.map(|text| address(text).to_owned()));
            if addresses.len() >= ADDRESSES_MAX {
                break;
            }
        }
        addresses.remove("");
        Self { fleet, scope, members, servers, pool, first, addresses }
    }

    /// Every row that applies, but for what is normal.
    pub(super) fn collect(&self) -> Vec<Applied> {
        let mut applied = self.log_mixture();
        let probes = self.probes(&applied);
        if !probes.is_empty() {
            // The application did not answer: the agent could not even connect to it.
            applied.retain(|a| a.key != "silent");
        }
        applied.extend(probes);
        let workers = self.workers(&applied);
        applied.extend(workers);
        if applied.iter().any(|a| a.key == "worker_timeout") {
            // The workers' own log says why their connections broke off.
            let broken = applied.iter_mut().filter(|a| BROKEN_OFF.contains(&a.key));
            broken.for_each(|a| a.weight *= EXPLAINED);
        }
        applied.extend(self.unit());
        let levels = self.levels(&applied);
        applied.extend(levels);
        applied.extend(self.refusals());
        applied.extend(self.changes());
        if self.may_be_filtered(&applied) {
            let refused = applied.iter_mut().filter(|a| a.key == "connect_refused");
            refused.for_each(|a| a.weight *= EXPLAINED);
        }
        applied
    }

    /// Whether a packet filter that changed just before may be what refuses: it does so in the words
    /// of a backend that is down, but only on the way to another machine.
    fn may_be_filtered(&self, applied: &[Applied]) -> bool {
        let changed = applied.iter().any(|a| a.key == "change_firewall" && a.weight >= FRESH);
        let down = applied.iter().any(|a| a.key == "unit_down");
        changed && !down && self.addresses.iter().any(|address| !runbook::is_local(address))
    }

    /// Whether so many of the affected servers are enough.
    pub(super) fn is_enough(&self, n: usize) -> bool {
        n > 0 && n as f64 >= SHARE * self.servers.len() as f64
    }

    /// A row that enough of the servers show; the earliest of them is quoted.
    pub(super) fn spread(
        &self,
        key: &'static str,
        look: &dyn Fn(&Server, i64) -> Option<Seen>,
    ) -> Option<Applied> {
        let seen = self.servers.iter().filter_map(|(server, first)| {
            let seen = look(server, *first)?;
            Some((seen, server.name.as_str()))
        });
        let mut seen: Vec<(Seen, &str)> = seen.collect();
        if !self.is_enough(seen.len()) {
            return None;
        }
        let (n, of) = (seen.len(), self.servers.len());
        seen.sort_by_key(|(seen, _)| seen.at);
        let (first, server) = seen.swap_remove(0);
        let spread = if of > 1 { format!(" (on {n} of {of} servers)") } else { String::new() };
        let text = format!("{}{spread}", first.text);
        let server = Some(server.to_owned());
        Some(Applied { server, ..Applied::new(key, first.kind, text, first.at) })
    }

    /// Error lines of the member sites: share of each kind times at most three lines. A server
    /// brings at most three, so that one that writes much does not speak for all of them.
    fn log_mixture(&self) -> Vec<Applied> {
        let mut servers: BTreeMap<ServerId, (u64, BTreeMap<&'static str, u64>)> = BTreeMap::new();
        let mut kinds: BTreeMap<&'static str, Kind> = BTreeMap::new();
        for site in self.members.iter().map(|ix| self.fleet.site(*ix)) {
            let (n_lines, rows) = servers.entry(site.server).or_default();
            if site.said.n_silent > 0 {
                *n_lines += site.said.n_silent;
                *rows.entry("silent").or_default() += site.said.n_silent;
                kinds.entry("silent").or_default().0 += site.said.n_silent;
            }
            for (signal, lines) in &site.said.lines {
                *n_lines += lines.n;
                let key = Signal::try_from(*signal).ok().and_then(table::line);
                let Some(key) = key else { continue };
                *rows.entry(key).or_default() += lines.n;
                let (n, earliest) = kinds.entry(key).or_default();
                *n += lines.n;
                if earliest.is_none_or(|(known, _)| lines.at < known.at) {
                    *earliest = Some((lines, site.server));
                }
            }
        }
        let n_all: u64 = servers.values().map(|(n, _)| n).sum();
        let capped = |n: u64| (n as f64).min(LINES_MAX);
        let total: f64 = servers.values().map(|(n, _)| capped(*n)).sum();
        let mixed = |key: &str| -> f64 {
            let share = |(n, rows): &(u64, BTreeMap<&str, u64>)| {
                rows.get(key).map_or(0.0, |of| *of as f64 / *n as f64 * capped(*n))
            };
            servers.values().map(share).sum::<f64>() / total * total.min(LINES_MAX)
        };
        let mut applied = Vec::new();
        for (key, (n, earliest)) in kinds {
            let (text, at, server) = if let Some((lines, id)) = earliest {
                let server = self.fleet.server(id).map(|server| server.name.clone());
                (format!("{n} of {n_all} error lines: {}", lines.text), lines.at, server)
            } else {
                let text = format!("{n} failures have no line in the error log that was read");
                (text, self.first, None)
            };
            let weight = mixed(key);
            applied.push(Applied { weight, server, ..Applied::new(key, "log", text, at) });
        }
        applied
    }

    /// Whether a line lies in the time that can explain the incident, and speaks of its pool.
    pub(super) fn is_near(&self, line: &Line, first: i64) -> bool {
        let near = line.at >= first - LINE_MS && line.at <= first + BEGAN_MS;
        let named = line.pool.is_none() || self.pool.is_none() || line.pool == self.pool;
        near && (named || matches!(self.scope, "server" | "group"))
    }

    /// The first line near the first failure that says something.
    pub(super) fn line<'b>(
        &self,
        server: &'b Server,
        first: i64,
        is_it: &dyn Fn(&Line) -> bool,
    ) -> Option<&'b Line> {
        let near = |line: &&Line| line.source != "probe" && self.is_near(line, first);
        server.lines.iter().filter(near).find(|line| is_it(line))
    }

    /// What the agent could not connect to, where no error line says the same.
    fn probes(&self, said: &[Applied]) -> Vec<Applied> {
        let has_lines = said.iter().any(|a| a.key != "silent");
        let mut keys = BTreeSet::new();
        for (server, first) in &self.servers {
            keys.extend(server.lines.iter().filter_map(|line| self.probed(line, *first)));
        }
        let new = keys.into_iter().filter(|key| said.iter().all(|a| a.key != *key));
        let look = |key: &'static str| {
            let applied = self.spread(key, &|server, first| {
                let mut lines = server.lines.iter();
                let line = lines.find(|line| self.probed(line, first) == Some(key))?;
                Some(Seen { kind: "log", text: line.text.clone(), at: line.at })
            })?;
            let weight = if has_lines { 1.0 } else { PROBE_LINES };
            Some(Applied { weight, ..applied })
        };
        new.filter_map(look).collect()
    }

    /// Row of a line that the agent's own look at a backend of the incident gave.
    fn probed(&self, line: &Line, first: i64) -> Option<&'static str> {
        if line.source != "probe" || !self.is_near(line, first) || !self.is_own_backend(&line.text)
        {
            return None;
        }
        let signal = Signal::try_from(line.signal).ok().filter(|s| *s != Signal::Unspecified);
        table::line(signal.or_else(|| probe_signal(&line.text))?)
    }

    /// Whether a text names a backend of the incident, by its address, host or pool.
    fn is_own_backend(&self, text: &str) -> bool {
        let names = |address: &String| {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let is_word = |name: &str| {
                let is_part = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
                text.match_indices(name).any(|(at, _)| {
                    !text[..at].ends_with(is_part)
                        && !text[at + name.len()..].trim_end_matches('.').starts_with(is_part)
                })
            };
            is_word(address) || (host.len() > 3 && host != "127.0.0.1" && is_word(host))
        };
        self.addresses.iter().any(names)
    }

    /// What workers and the kernel say of them; `said` are the rows of the error lines.
    fn workers(&self, said: &[Applied]) -> Vec<Applied> {
        type Says = fn(&Line) -> bool;
        let signs: [(&'static str, Says); 3] = [
            ("worker_killed", Line::is_killed),
            ("worker_timeout", Line::is_timeout),
            ("segfault", Line::is_segfault),
        ];
        let mut found: Vec<Applied> =
            signs.iter().filter_map(|(key, is_it)| self.said_or_logged(key, is_it)).collect();
        for signal in [Signal::TooManyConnections, Signal::DiskFull] {
            let Some(key) = table::line(signal) else { continue };
            if said.iter().all(|a| a.key != key) {
                found.extend(self.said_or_logged(key, &|line: &Line| line.says(signal)));
            }
        }
        found
    }

    /// A sign in system logs, or in the error lines of the sites themselves.
    fn said_or_logged(&self, key: &'static str, is_it: &dyn Fn(&Line) -> bool) -> Option<Applied> {
        self.spread(key, &|server, first| {
            let seen = |line: &Line| Seen { kind: "log", text: line.text.clone(), at: line.at };
            if let Some(line) = self.line(server, first, is_it) {
                return Some(seen(line));
            }
            let lines = self.said_lines(server.id);
            lines.iter().find(|line| is_it(line) && line.at <= first + BEGAN_MS).map(seen)
        })
    }

    /// Error lines of the member sites of a server, as lines of a log.
    pub(super) fn said_lines(&self, server: ServerId) -> Vec<Line> {
        let sites = self.members.iter().map(|ix| self.fleet.site(*ix));
        let said = sites.filter(|site| site.server == server).flat_map(|site| &site.said.lines);
        let line = |(signal, lines): (&i32, &Lines)| Line {
            at: lines.at,
            source: String::new(),
            text: lines.text.clone(),
            signal: *signal,
            pool: None,
        };
        said.map(line).collect()
    }

    /// The unit that is down on a server.
    pub(super) fn down(
        server: &Server,
        pool: Option<&str>,
        first: i64,
        slack: i64,
    ) -> Option<Seen> {
        let (name, unit) = server.unit_down(pool, first, slack)?;
        Some(Self::seen_down(name, unit))
    }

    fn seen_down(name: &str, unit: &Unit) -> Seen {
        let at = unit.down_at.unwrap_or(unit.since);
        Seen { kind: "service", text: format!("{name} is {}", unit.state_in_words()), at }
    }

    fn unit(&self) -> Option<Applied> {
        let pool = self.pool.as_deref();
        self.spread("unit_down", &|server, first| Self::down(server, pool, first, BEGAN_MS))
    }

    /// Whether a level may count here: what is of the whole server says nothing about one site.
    fn is_used(&self, level: Level) -> bool {
        match level {
            Level::UpstreamDown | Level::TopClient => true,
            Level::MaxChildren => self.scope != "site" || self.has_own_pool(),
            _ => self.scope != "site",
        }
    }

    /// Whether the only site of an incident is the only one of its pool.
    fn has_own_pool(&self) -> bool {
        let Some(site) = self.members.first().map(|ix| self.fleet.site(*ix)) else { return false };
        let Some(server) = self.fleet.server(site.server) else { return false };
        let of_pool = |ix: &&u32| self.fleet.site(**ix).pool == site.pool;
        site.pool.is_some() && server.sites.iter().filter(of_pool).count() == 1
    }

    /// Whether a level of something is one of the incident.
    fn is_own(&self, level: Level, of: &str) -> bool {
        let name = of.split_once('=').map_or("", |(_, name)| name);
        match level {
            Level::UpstreamDown => of.is_empty() || self.is_own_backend(name),
            Level::MaxChildren if matches!(self.scope, "site" | "pool") => {
                let pool = self.pool.as_deref();
                let own = |pool: &str| name == pool || name.ends_with(&format!("/{pool}"));
                (name.is_empty() && self.scope == "pool") || pool.is_some_and(own)
            }
            Level::TopClient if of.starts_with("server.address=") => {
                let is_it = |ix: &u32| self.fleet.site(*ix).name == name;
                self.scope == "site" && self.members.iter().any(is_it)
            }
            Level::TopClient => self.scope != "site",
            _ => true,
        }
    }

    fn levels(&self, said: &[Applied]) -> Vec<Applied> {
        let mut applied = Vec::new();
        for level in Level::ALL.into_iter().filter(|level| self.is_used(*level)) {
            if level == Level::UpstreamDown && said.iter().any(|a| UNREACHED.contains(&a.key)) {
                continue;
            }
            applied.extend(self.spread(level.key(), &|server, first| {
                self.logged(level, server, first).or_else(|| self.sampled(level, server, first))
            }));
        }
        applied
    }

    /// A line that says what a level says.
    fn logged(&self, level: Level, server: &Server, first: i64) -> Option<Seen> {
        let signal = match level {
            Level::OomKill => Signal::Oom,
            Level::MaxChildren => Signal::MaxChildren,
            Level::Conntrack => Signal::ConntrackFull,
            _ => return None,
        };
        let own = |line: &Line| {
            line.says(signal)
                && (self.scope != "site" || (line.pool.is_some() && line.pool == self.pool))
        };
        let line = self.line(server, first, &own)?;
        Some(Seen { kind: "log", text: line.text.clone(), at: line.at })
    }

    pub(super) fn sampled(&self, level: Level, server: &Server, first: i64) -> Option<Seen> {
        let is_of = |of: &str| self.is_own(level, of);
        let spell = server.held(level, first, BEGAN_MS, &is_of)?;
        if level == Level::UpstreamDown && spell.began < first - UPSTREAM_MS {
            return None;
        }
        let words = &table::row(level.key()).what;
        let value = match level {
            Level::OomKill | Level::MaxChildren | Level::ListenOverflow | Level::UpstreamDown => {
                String::new()
            }
            Level::Surge => format!(" ({:.0} times)", spell.value),
            _ => format!(" ({:.0} %)", spell.value * 100.0),
        };
        let of = spell.of.split_once('=').map_or("", |(_, name)| name);
        let of = if of.is_empty() { String::new() } else { format!(": {of}") };
        Some(Seen { kind: "resource", text: format!("{words}{value}{of}"), at: spell.began })
    }

    /// What application firewalls and packet filters say they refused.
    fn refusals(&self) -> Vec<Applied> {
        let look = |key: &'static str, is_it: &dyn Fn(&Line) -> bool| {
            self.spread(key, &|server, first| {
                let line = self.line(server, first, is_it)?;
                Some(Seen { kind: "log", text: line.text.clone(), at: line.at })
            })
        };
        let attack = |line: &Line| matches!(line.source.as_str(), "modsecurity" | "wordfence");
        let drops = |line: &Line| line.source == "firewall" && line.text.contains(" dropped ");
        [look("attack_refused", &attack), look("packets_dropped", &drops)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn changes(&self) -> Vec<Applied> {
        let rows = change::rows(self.fleet, self.scope, self.members, self.first);
        let rows = rows.into_iter().filter(|row| self.is_enough(row.n_servers));
        rows.map(|row| Applied {
            weight: row.weight,
            server: Some(row.server.to_owned()),
            ..Applied::new(row.key, "change", change::words(row.change), row.change.at)
        })
        .collect()
    }

    /// Nats of levels that were sampled and are normal; `None` when none was.
    pub(super) fn normal(&self) -> Option<Applied> {
        if self.scope == "site" || self.servers.is_empty() {
            return None;
        }
        let calm = |level: &Level| {
            let sampled = self.servers.iter().filter(|(server, _)| server.samples(*level));
            let (mut n, mut n_calm) = (0, 0);
            for (server, first) in sampled {
                n += 1;
                n_calm += usize::from(server.is_normal(*level, *first));
            }
            self.is_enough(n) && n == n_calm
        };
        let (normal, rest) = table::normal();
        let (mut nats, mut all) = (Nats::default(), true);
        for row in normal {
            let is_calm = row.levels.iter().all(calm);
            all &= is_calm;
            nats = nats.with(row.class, if is_calm { row.nats } else { 0.0 });
        }
        if all {
            let own = |class| normal.iter().any(|row| row.class == class);
            let others = table::Class::ALL.into_iter().filter(|class| !own(*class));
            nats = others.fold(nats, |nats, class| nats.with(class, rest));
        }
        let text = "resources that were sampled are normal".to_owned();
        let (kind, at) = ("resource", self.first);
        let found = Applied { key: "normal", nats, weight: 1.0, kind, text, at, server: None };
        (found.nats != Nats::default()).then_some(found)
    }

    /// Who used the machine when it began to fail: context, no evidence.
    pub(super) fn users(&self) -> Option<Seen> {
        let (server, first) = self.servers.first()?;
        let (user, share) = server.top("process.cpu.utilization", *first)?;
        let (kind, name) = user.split_once('=')?;
        let kind = match kind {
            "process.owner" => "user",
            "process.executable.name" => "process",
            _ => "pool",
        };
        let text = format!("most of the processors went to {kind} {name} ({:.0} %)", share * 100.0);
        Some(Seen { kind: "resource", text, at: *first })
    }
}

/// An address without scheme and path: `127.0.0.1:9000`, `/run/php/www.sock`.
pub(super) fn address(named: &str) -> &str {
    let address = named.split_once("://").map_or(named, |(_, rest)| rest);
    let is_file = address.starts_with("unix:") || address.starts_with('/');
    let end = if is_file { None } else { address.find('/') }.unwrap_or(address.len());
    let address = address[..end].trim_end_matches(':');
    address.strip_prefix("unix:").unwrap_or(address)
}

/// What the agent's words about a backend mean, where its signal did not come along.
fn probe_signal(text: &str) -> Option<Signal> {
    if text.starts_with("cannot resolve ") {
        return Some(Signal::Dns);
    }
    if !text.starts_with("cannot connect to ") {
        return text.contains(" does not answer (").then_some(Signal::TimeoutRead);
    }
    let has = |words: &str| text.contains(words);
    Some(match () {
        () if has("refused") || has("nobody listens") => Signal::ConnectRefused,
        () if has("no such") => Signal::NoSuchSocket,
        () if has("ermission denied") => Signal::Permission,
        () if has("timed out") => Signal::ConnectTimeout,
        () if has("o route") || has("unreachable") => Signal::Unreachable,
        () if has("temporarily unavailable") => Signal::BacklogFull,
        () => return None,
    })
}
