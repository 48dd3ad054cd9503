//! Why: evidence around an incident, added up by the table, with rules that come before the sums.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::v1::Signal;

use super::Fleet;
use super::change;
use super::scope::Scope;
use super::server::{Level, Line, Server, Unit};
use super::table::{self, Class, Row};
use crate::model::{Alternative, Cause, ChangeBefore, Evidence, ServerId};

/// A signal counts only if it began at most this after the first failure, ms: overflows, pressure
/// and exhausted pools follow almost any outage.
const BEGAN_MS: i64 = 10_000;
/// A line or state this close after the first failure counts as before it, ms.
const SLACK_MS: i64 = 2_000;
/// Lines older than this before the first failure say nothing, ms.
const LINE_MS: i64 = 60_000;
/// Share of the affected servers that must show a signal.
const SHARE: f64 = 0.4;
/// Confidence of a rule that comes before the sums.
const CERTAIN: f64 = 0.97;
/// Evidence listed at most.
const EVIDENCE_MAX: usize = 12;
/// Share of a sum that a rule of before it stands on, nats: what its evidence is shown with.
const RULE_NATS: f64 = 4.5;

/// The verdict on one incident.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The cause; `None` unknown.
    pub class: Option<Class>,
    /// 0..1.
    pub confidence: f64,
    /// Nats before the runner-up.
    pub margin: f64,
    /// What speaks for it, strongest first.
    pub evidence: Vec<Evidence>,
    /// Runners-up.
    pub alternatives: Vec<(Class, f64)>,
    /// The change that preceded.
    pub change: Option<ChangeBefore>,
}

impl Verdict {
    /// As the incident shows it.
    #[must_use]
    pub fn to_cause(&self) -> Cause {
        let alternative = |(class, confidence): &(Class, f64)| Alternative {
            class: class.name().to_owned(),
            confidence: *confidence,
        };
        Cause {
            class: self.class.map_or("unknown", Class::name).to_owned(),
            confidence: self.confidence,
            evidence: self.evidence.clone(),
            alternatives: self.alternatives.iter().map(alternative).collect(),
        }
    }
}

/// What the gateway sees of a worker that is ended, and what is left of it once that is known.
const BROKEN_OFF: [Signal; 2] = [Signal::Reset, Signal::PrematureClose];
const EXPLAINED: f64 = 0.25;

/// One row that applies.
struct Applied {
    signal: Signal,
    row: Row,
    weight: f64,
    kind: &'static str,
    text: String,
    at: i64,
    server: Option<String>,
}

/// Everything an assessment looks at.
struct Case<'a> {
    fleet: &'a Fleet,
    scope: &'a Scope,
    members: &'a [u32],
    servers: Vec<&'a Server>,
    pool: Option<String>,
    first: i64,
}

/// Assesses why the member sites of a scope fail since `first` (corrected, ms).
#[must_use]
pub fn assess(
    fleet: &Fleet,
    scope: &Scope,
    members: &[u32],
    pool: Option<String>,
    first: i64,
) -> Verdict {
    let ids: BTreeSet<ServerId> = members.iter().map(|ix| fleet.site(*ix).server).collect();
    let servers = ids.iter().filter_map(|id| fleet.server(*id)).collect();
    let case = Case { fleet, scope, members, servers, pool, first };
    let mut applied = case.log_mixture();
    if let Some(slow) = case.shared_line(table::WORKER_TIMEOUT, &Line::is_timeout) {
        // The workers' own log says why their connections broke off.
        let broken = applied.iter_mut().filter(|a| BROKEN_OFF.contains(&a.signal));
        broken.for_each(|a| a.weight *= EXPLAINED);
        applied.push(slow);
    }
    applied.extend(case.shared_lines());
    applied.extend(case.units());
    if scope.name() != "site" {
        applied.extend(case.levels());
    }
    let change = change::before(fleet, members, first);
    applied.extend(case.changes());
    let mut verdict = case.sum(&applied);
    if let Some((class, why)) = case.rule() {
        verdict.overrule(class, why);
    }
    verdict.change = change;
    verdict
}

impl Verdict {
    fn overrule(&mut self, class: Class, why: Evidence) {
        if self.class != Some(class) {
            self.evidence.clear();
            let before = self.class.map(|class| (class, 1.0 - CERTAIN));
            self.alternatives.retain(|(other, _)| *other != class);
            self.alternatives.splice(0..0, before);
            self.alternatives.truncate(3);
        }
        let known = self.evidence.iter().any(|evidence| evidence.text == why.text);
        if !known {
            self.evidence.insert(0, why);
            self.evidence.truncate(EVIDENCE_MAX);
        }
        self.class = Some(class);
        self.margin = self.margin.max(RULE_NATS);
        self.confidence = self.confidence.max(CERTAIN);
        let rest = 1.0 - self.confidence;
        let sum: f64 = self.alternatives.iter().map(|(_, c)| c).sum();
        if sum > rest {
            self.alternatives.iter_mut().for_each(|(_, c)| *c = round(*c * rest / sum));
        }
    }
}

impl Case<'_> {
    /// Error lines of the member sites: share of each kind times at most three lines.
    fn log_mixture(&self) -> Vec<Applied> {
        let mut kinds: BTreeMap<i32, (u64, i64, String, ServerId)> = BTreeMap::new();
        let (mut n_silent, mut n_lines) = (0, 0);
        for site in self.members.iter().map(|ix| self.fleet.site(*ix)) {
            n_silent += site.said.n_silent;
            for (signal, lines) in &site.said.lines {
                n_lines += lines.n;
                let kind = kinds
                    .entry(*signal)
                    .or_insert_with(|| (0, lines.at, lines.text.clone(), site.server));
                kind.0 += lines.n;
                if lines.at < kind.1 {
                    (kind.1, kind.2, kind.3) = (lines.at, lines.text.clone(), site.server);
                }
            }
        }
        let total = (n_lines + n_silent) as f64;
        let lines = total.min(3.0);
        let mut applied = Vec::new();
        for (signal, (n, at, text, server)) in kinds {
            let Ok(signal) = Signal::try_from(signal) else { continue };
            let Some(row) = table::line(signal) else { continue };
            let text = format!("{n} of {} error lines: {text}", n_lines + n_silent);
            let server = self.fleet.server(server).map(|server| server.name.clone());
            let weight = n as f64 / total * lines;
            applied.push(Applied { signal, row, weight, kind: "log", text, at, server });
        }
        if n_silent > 0 {
            let text = format!("{n_silent} failures have no line in the error log that was read");
            let weight = n_silent as f64 / total * lines;
            let (at, server) = (self.first, None);
            applied.push(Applied {
                signal: Signal::Unspecified,
                row: table::SILENT,
                weight,
                kind: "log",
                text,
                at,
                server,
            });
        }
        applied
    }

    /// Whether a line lies in the time that can explain the incident, and speaks of its pool.
    fn is_near(&self, line: &Line) -> bool {
        let near = line.at >= self.first - LINE_MS && line.at <= self.first + BEGAN_MS;
        let named = line.pool.is_none() || self.pool.is_none() || line.pool == self.pool;
        near && (named || self.scope.name() == "server")
    }

    /// A signal of system logs that enough of the servers show.
    fn shared_line(&self, row: Row, is_it: &dyn Fn(&Line) -> bool) -> Option<Applied> {
        let shown: Vec<(&Line, &str)> = self
            .servers
            .iter()
            .filter_map(|server| {
                let line = server.lines.iter().find(|line| is_it(line) && self.is_near(line))?;
                Some((line, server.name.as_str()))
            })
            .collect();
        let (line, server) = shown.first()?;
        let enough = shown.len() as f64 >= SHARE * self.servers.len() as f64;
        enough.then(|| Applied {
            signal: Signal::Unspecified,
            row,
            weight: 1.0,
            kind: "log",
            text: line.text.clone(),
            at: line.at,
            server: Some((*server).to_owned()),
        })
    }

    fn shared_lines(&self) -> Vec<Applied> {
        let mut applied = vec![
            self.shared_line(table::WORKER_KILLED, &Line::is_killed),
            self.shared_line(table::SEGFAULT, &Line::is_segfault),
        ];
        if self.scope.name() != "site" {
            let oom = |line: &Line| line.says(Signal::Oom);
            applied.push(self.shared_line(table::level(Level::OomKill), &oom));
            let children = |line: &Line| line.says(Signal::MaxChildren);
            applied.push(self.shared_line(table::level(Level::MaxChildren), &children));
            let conntrack = |line: &Line| line.says(Signal::ConntrackFull);
            applied.push(self.shared_line(table::level(Level::Conntrack), &conntrack));
        }
        for signal in [Signal::TooManyConnections, Signal::DiskFull] {
            if let Some(row) = table::line(signal) {
                applied.push(self.shared_line(row, &|line: &Line| line.says(signal)));
            }
        }
        applied.into_iter().flatten().collect()
    }

    /// The first unit that is down, on which server, and on how many servers one is.
    fn down(&self, slack: i64) -> Option<(&str, &Unit, &str, usize)> {
        let mut down = self.servers.iter().filter_map(|server| {
            let (name, unit) = server.unit_down(self.pool.as_deref(), self.first, slack)?;
            Some((name, unit, server.name.as_str()))
        });
        let (name, unit, server) = down.next()?;
        Some((name, unit, server, 1 + down.count()))
    }

    fn unit(&self, slack: i64) -> Option<(Applied, usize)> {
        let (name, unit, server, n) = self.down(slack)?;
        let at = unit.down_at.unwrap_or(unit.since);
        let text = format!("{name} is {}", unit.state_in_words());
        let server = Some(server.to_owned());
        let row = table::UNIT_DOWN;
        Some((
            Applied {
                signal: Signal::Unspecified,
                row,
                weight: 1.0,
                kind: "service",
                text,
                at,
                server,
            },
            n,
        ))
    }

    fn units(&self) -> Option<Applied> {
        let (applied, n) = self.unit(BEGAN_MS)?;
        (n as f64 >= SHARE * self.servers.len() as f64).then_some(applied)
    }

    fn levels(&self) -> Vec<Applied> {
        let mut applied = Vec::new();
        for (level, words) in table::LEVELS {
            let shown: Vec<_> = self
                .servers
                .iter()
                .filter_map(|server| Some((server.level(level, self.first, BEGAN_MS)?, server)))
                .collect();
            let Some((span, server)) = shown.first() else { continue };
            if (shown.len() as f64) < SHARE * self.servers.len() as f64 {
                continue;
            }
            let value = match level {
                Level::OomKill | Level::MaxChildren | Level::ListenOverflow => String::new(),
                Level::Surge => format!(" ({:.0} times)", span.value),
                _ => format!(" ({:.0} %)", span.value * 100.0),
            };
            applied.push(Applied {
                signal: Signal::Unspecified,
                row: table::level(level),
                weight: 1.0,
                kind: "resource",
                text: format!("{words}{value}"),
                at: span.began.unwrap_or(self.first),
                server: Some(server.name.clone()),
            });
        }
        applied
    }

    fn changes(&self) -> Vec<Applied> {
        let mut applied = Vec::new();
        for (row, change, age_s, server) in change::rows(self.fleet, self.members, self.first) {
            applied.push(Applied {
                signal: Signal::Unspecified,
                row,
                weight: (-age_s / change::FADE_S).exp(),
                kind: "change",
                text: format!("{}: {}", change.kind, change.what),
                at: change.at,
                server: Some(server.to_owned()),
            });
        }
        applied
    }

    /// Nats against causes whose levels were sampled and are normal.
    fn normal(&self, class: Class) -> f64 {
        if self.scope.name() == "site" {
            return 0.0;
        }
        let is_normal = |levels: &[Level]| {
            let calm =
                |server: &&&Server| levels.iter().all(|level| server.is_normal(*level, self.first));
            !self.servers.is_empty()
                && self.servers.iter().filter(calm).count() == self.servers.len()
        };
        let own = table::NORMAL.iter().find(|(of, ..)| *of == class);
        match own {
            Some((_, levels, nats)) => f64::from(u8::from(is_normal(levels))) * nats,
            None if table::NORMAL.iter().all(|(_, levels, _)| is_normal(levels)) => {
                table::NORMAL_REST
            }
            None => 0.0,
        }
    }

    fn sum(&self, applied: &[Applied]) -> Verdict {
        if applied.is_empty() {
            return Verdict::default();
        }
        let score = |class: Class| {
            let rows: f64 = applied.iter().map(|a| a.weight * a.row.nats(class)).sum();
            table::prior(self.scope.name(), class) + self.normal(class) + rows
        };
        let mut scores: Vec<(Class, f64)> =
            Class::ALL.iter().map(|class| (*class, score(*class))).collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (top, best) = scores[0];
        let total: f64 = scores.iter().map(|(_, score)| (score - best).exp()).sum();
        let share = |score: f64| round((score - best).exp() / total);
        let evidence = self.evidence(applied, top);
        let sum: f64 = applied.iter().map(|a| a.weight * a.row.nats(top)).sum();
        let others = scores.iter().map(|(class, score)| (*class, share(*score)));
        if sum <= 0.0 {
            let alternatives = others.take(2).filter(|(_, c)| *c >= 0.05).collect();
            return Verdict { evidence, alternatives, ..Verdict::default() };
        }
        Verdict {
            class: Some(top),
            confidence: share(best),
            margin: best - scores[1].1,
            evidence,
            alternatives: others.skip(1).take(3).filter(|(_, c)| *c >= 0.005).collect(),
            change: None,
        }
    }

    /// Rows by what they add to a cause, strongest first; those against it last.
    fn evidence(&self, applied: &[Applied], class: Class) -> Vec<Evidence> {
        let mut evidence: Vec<Evidence> = applied
            .iter()
            .map(|a| Evidence {
                kind: a.kind.to_owned(),
                text: a.text.clone(),
                at: UnixMillis(a.at),
                server: a.server.clone(),
                weight: round(a.weight * a.row.nats(class)),
            })
            .filter(|evidence| evidence.weight != 0.0)
            .collect();
        let prior = round(table::prior(self.scope.name(), class));
        if prior != 0.0 {
            let text =
                format!("how often {} is the cause for a {}", class.name(), self.scope.name());
            let at = UnixMillis(self.first);
            evidence.push(Evidence { kind: "prior".into(), text, at, server: None, weight: prior });
        }
        evidence.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        evidence.truncate(EVIDENCE_MAX);
        evidence
    }

    /// What needs no sum: no space left, a process killed for memory, a unit that failed before.
    fn rule(&self) -> Option<(Class, Evidence)> {
        let found = |class, kind: &str, text: &str, at, server: &str| {
            let (kind, text, server) = (kind.to_owned(), text.to_owned(), Some(server.to_owned()));
            Some((class, Evidence { kind, text, at: UnixMillis(at), server, weight: RULE_NATS }))
        };
        for site in self.members.iter().map(|ix| self.fleet.site(*ix)) {
            if let Some(lines) = site.said.lines.get(&(Signal::DiskFull as i32)) {
                let server = self.fleet.server(site.server).map_or("", |s| s.name.as_str());
                return found(Class::DiskFull, "log", &lines.text, lines.at, server);
            }
        }
        for server in &self.servers {
            let full = |line: &&Line| line.says(Signal::DiskFull) && self.is_near(line);
            if let Some(line) = server.lines.iter().find(full) {
                return found(Class::DiskFull, "log", &line.text, line.at, &server.name);
            }
            let level = server.level(Level::DiskFull, self.first, BEGAN_MS);
            if let Some(span) = level.filter(|span| span.value >= 0.9999) {
                let at = span.began.unwrap_or(self.first);
                return found(
                    Class::DiskFull,
                    "resource",
                    "a file system is full",
                    at,
                    &server.name,
                );
            }
        }
        for server in &self.servers {
            let killed = |line: &&Line| is_backend_oom(line) && self.is_near(line);
            if let Some(line) = server.lines.iter().find(killed) {
                return found(Class::Oom, "log", &line.text, line.at, &server.name);
            }
        }
        let (name, unit, server, n) = self.down(SLACK_MS)?;
        let enough = n as f64 >= SHARE * self.servers.len() as f64;
        let class = if unit.is_oom() { Class::Oom } else { Class::ServiceDown };
        let text = format!("{name} is {}", unit.state_in_words());
        let at = unit.down_at.unwrap_or(unit.since);
        enough.then(|| found(class, "service", &text, at, server))?
    }
}

/// Whether the kernel killed a worker, its master or a database.
fn is_backend_oom(line: &Line) -> bool {
    const NAMES: [&str; 9] =
        ["php", "mysqld", "mariadb", "postgres", "apache", "httpd", "nginx", "node", "lsphp"];
    line.says(Signal::Oom) && NAMES.iter().any(|name| line.text.contains(name))
}

/// Thousandths are as much as these numbers can mean.
fn round(value: f64) -> f64 {
    // Adding zero turns -0.0 into 0.0.
    (value * 1000.0).round() / 1000.0 + 0.0
}
