//! Why: evidence around an incident, added up by the table, with rules that come before the sums.
//!
//! The weights that an incident shows add up: rounded to thousandths of a nat before they are added,
//! those of the named cause sum to its score, and its confidence is the share of exp(score) in the
//! sum over all causes.

use serde::{Deserialize, Serialize};
use wire::UnixMillis;
use wire::v1::Signal;

use super::Fleet;
use super::change;
use super::evidence::{Applied, BEGAN_MS, Case, SLACK_MS, Seen};
use super::scope::Scope;
use super::server::{Level, Line, Server};
use super::table::{self, Class, Nats};
use crate::model::{Alternative, Cause, ChangeBefore, Evidence};

/// A file system with less than this free has no space, ratio.
const FULL: f64 = 0.9999;
/// Nats by which a rule that comes before the sums lets its cause lead all others together.
const RULE_NATS: f64 = 4.5;
/// Runners-up shown, and the least confidence of one.
const ALTERNATIVES_MAX: usize = 3;
const ALTERNATIVE_MIN: f64 = 0.005;
/// The least confidence of a guess that is shown while the cause is unknown.
const GUESS_MIN: f64 = 0.05;
/// A kill that the kernel counted and a unit that failed this close together are one, ms.
const KILL_MS: i64 = 15_000;

/// The verdict on one incident.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The cause; `None` unknown.
    pub class: Option<Class>,
    /// 0..1.
    pub confidence: f64,
    /// Nats before the runner-up.
    pub margin: f64,
    /// Sum of the weights of the evidence, nats.
    #[serde(default)]
    pub score: f64,
    /// What speaks for it, strongest first, then what speaks against it.
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

/// Assesses why the member sites of a scope fail since `first` (corrected, ms).
#[must_use]
pub fn assess(
    fleet: &Fleet,
    scope: &Scope,
    members: &[u32],
    pool: Option<String>,
    first: i64,
) -> Verdict {
    assess_as(fleet, scope.name(), members, pool, first)
}

/// The same for a scope by its name.
#[must_use]
pub fn assess_as(
    fleet: &Fleet,
    scope: &str,
    members: &[u32],
    pool: Option<String>,
    first: i64,
) -> Verdict {
    let case = Case::new(fleet, scope, members, pool, first);
    let applied = case.collect();
    let rule = rule(&case);
    let mut verdict = sum(&case, applied, rule);
    if matches!(verdict.class, Some(Class::Overload | Class::Oom | Class::Ddos | Class::Timeout))
        && let Some(users) = case.users()
    {
        let server = case.servers.first().map(|(server, _)| server.name.clone());
        verdict.evidence.push(shown(users, server, 0.0));
    }
    verdict.change = change::before(fleet, scope, members, first);
    verdict
}

fn shown(seen: Seen, server: Option<String>, weight: f64) -> Evidence {
    let Seen { kind, text, at } = seen;
    Evidence { kind: kind.to_owned(), text, at: UnixMillis(at), server, weight }
}

/// What one row adds to a cause: in thousandths of a nat, so that what is shown adds up.
fn part(applied: &Applied, class: Class) -> f64 {
    round(applied.weight * applied.nats.of(class))
}

fn sum(case: &Case, applied: Vec<Applied>, rule: Option<(Class, Applied)>) -> Verdict {
    if applied.is_empty() && rule.is_none() {
        return Verdict::default();
    }
    let mut all = applied;
    let n_evidence = all.len();
    all.extend(case.normal());
    let score = |all: &[Applied], class: Class| {
        let rows: f64 = all.iter().map(|applied| part(applied, class)).sum();
        round(table::prior(case.scope, class)) + rows
    };
    if let Some((class, mut applied)) = rule {
        let others = Class::ALL.into_iter().filter(|other| *other != class);
        let others = log_sum_exp(others.map(|other| score(&all, other)));
        let lead = (others + RULE_NATS - score(&all, class)).max(RULE_NATS);
        applied.nats = Nats::default().with(class, lead);
        all.insert(0, applied);
    }
    let mut scores: Vec<(Class, f64)> =
        Class::ALL.into_iter().map(|class| (class, score(&all, class))).collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    let (top, best) = scores[0];
    let total = log_sum_exp(scores.iter().map(|(_, score)| *score));
    let share = |score: f64| round((score - total).exp());
    let n_rules = usize::from(all.len() > n_evidence && all[0].key == RULE);
    let found: f64 = all[..n_evidence + n_rules].iter().map(|a| part(a, top)).sum();
    let evidence = evidence(case, all, top);
    let others = scores.iter().map(|(class, score)| (*class, share(*score)));
    if found <= 0.0 {
        // Nothing that was seen speaks for it: the prior alone is no reason.
        let alternatives = others.take(2).filter(|(_, c)| *c >= GUESS_MIN).collect();
        return Verdict { evidence, alternatives, score: round(best), ..Verdict::default() };
    }
    let alternatives = others.skip(1).take(ALTERNATIVES_MAX);
    Verdict {
        class: Some(top),
        confidence: share(best),
        margin: best - scores[1].1,
        score: round(best),
        evidence,
        alternatives: alternatives.filter(|(_, c)| *c >= ALTERNATIVE_MIN).collect(),
        change: None,
    }
}

/// Rows by what they add to a cause, strongest first; those against it last.
fn evidence(case: &Case, all: Vec<Applied>, class: Class) -> Vec<Evidence> {
    let show = |applied: Applied| {
        let weight = part(&applied, class);
        let Applied { kind, text, at, server, .. } = applied;
        shown(Seen { kind, text, at }, server, weight)
    };
    let mut evidence: Vec<Evidence> = all.into_iter().map(show).collect();
    let prior = round(table::prior(case.scope, class));
    let text = format!("how often {} is the cause for a {}", class.name(), case.scope);
    evidence.push(shown(Seen { kind: "prior", text, at: case.first }, None, prior));
    evidence.retain(|evidence| evidence.weight != 0.0);
    evidence.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    evidence
}

/// Name of what a rule adds; no row of the table.
const RULE: &str = "rule";

/// What needs no sum: no space left, a process killed for memory, a unit that failed before.
fn rule(case: &Case) -> Option<(Class, Applied)> {
    let found = |class, look: &dyn Fn(&Server, i64) -> Option<Seen>| {
        let mut applied = case.spread("unit_down", look)?;
        applied.key = RULE;
        Some((class, applied))
    };
    found(Class::DiskFull, &|server, first| no_space(case, server, first))
        .or_else(|| found(Class::Oom, &|server, first| killed(case, server, first)))
        .or_else(|| {
            let pool = case.pool.as_deref();
            found(Class::ServiceDown, &|server, first| Case::down(server, pool, first, SLACK_MS))
        })
}

fn no_space(case: &Case, server: &Server, first: i64) -> Option<Seen> {
    let is_full = |line: &Line| line.says(Signal::DiskFull);
    let seen = |line: &Line| Seen { kind: "log", text: line.text.clone(), at: line.at };
    let said = case.said_lines(server.id);
    let said = said.iter().find(|line| is_full(line) && line.at <= first + BEGAN_MS);
    let line = said.or_else(|| case.line(server, first, &is_full));
    if let Some(line) = line {
        return Some(seen(line));
    }
    if case.scope == "site" {
        return None;
    }
    let spell = server.held(Level::DiskFull, first, BEGAN_MS, &|_| true)?;
    (spell.value >= FULL).then(|| case.sampled(Level::DiskFull, server, first))?
}

fn killed(case: &Case, server: &Server, first: i64) -> Option<Seen> {
    if let Some(line) = case.line(server, first, &is_backend_oom) {
        return Some(Seen { kind: "log", text: line.text.clone(), at: line.at });
    }
    let (name, unit) = server.unit_down(case.pool.as_deref(), first, SLACK_MS)?;
    let at = unit.down_at.unwrap_or(unit.since);
    if unit.is_oom() {
        let text = format!("{name} is {}", unit.state_in_words());
        return Some(Seen { kind: "service", text, at });
    }
    // Where only the kernel's count is known: what failed when it rose is what was killed.
    let kill = server.held(Level::OomKill, first, BEGAN_MS, &|_| true)?;
    ((kill.began - at).abs() <= KILL_MS).then(|| Seen {
        kind: "resource",
        text: format!("the kernel killed processes for lack of memory when {name} failed"),
        at: kill.began,
    })
}

/// Whether the kernel killed a worker, its master or a database.
fn is_backend_oom(line: &Line) -> bool {
    const NAMES: [&str; 22] = [
        "php",
        "mysqld",
        "mariadb",
        "postgres",
        "apache",
        "httpd",
        "nginx",
        "node",
        "lsphp",
        "litespeed",
        "lshttpd",
        "caddy",
        "haproxy",
        "varnish",
        "ruby",
        "puma",
        "python",
        "gunicorn",
        "uwsgi",
        "java",
        "redis",
        "mongod",
    ];
    line.says(Signal::Oom) && NAMES.iter().any(|name| line.text.contains(name))
}

/// Log of the sum of exponentials.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let high = values.clone().fold(f64::NEG_INFINITY, f64::max);
    high + values.map(|value| (value - high).exp()).sum::<f64>().ln()
}

/// Thousandths are as much as these numbers can mean.
fn round(value: f64) -> f64 {
    // Adding zero turns -0.0 into 0.0.
    (value * 1000.0).round() / 1000.0 + 0.0
}
