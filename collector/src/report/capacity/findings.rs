//! What somebody with half a minute should read. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::ahead::Ahead;
use super::errors::CameWith;
use super::input::Input;
use super::{plans, pools};
use crate::report::advice::Advice;
use crate::report::document::{Finding, Level};
use crate::report::need::Need;
use crate::report::settings::Settings;
use crate::report::words::many;

/// Days to full below which somebody has to act, and below which it is worth planning.
const SOON_DAYS: f64 = 14.0;
const LATER_DAYS: f64 = 60.0;
/// Share of the minutes above which waiting or stolen time matters.
const OFTEN: f64 = 0.01;
/// Servers that are told one by one, but for those with something critical: each of these is.
const SERVERS_MAX: usize = 6;
/// Sentences about one of them, but for critical ones.
const SENTENCES_MAX: usize = 4;

/// What is to be said of a server, without its name.
pub(super) struct Said {
    pub(super) server: String,
    /// What places it among those of its sort: the larger the worse.
    pub(super) weight: f64,
    pub(super) level: Level,
    pub(super) text: String,
}

/// All of them, the worst level first: each server once, the worst of every sort before others.
pub(super) fn of(
    input: &Input,
    ahead: &Ahead,
    (needs, advice): (&[Need], &[Advice]),
    settings: &Settings,
) -> Vec<Finding> {
    if input.servers.values().all(|server| server.seen.n() == 0) {
        let text = "There are no samples of this time: nothing can be said.".to_owned();
        return vec![Finding { level: Level::Warning, text }];
    }
    let mut found = by_server(vec![
        (filling(input, ahead), "with a file system that fills up"),
        (killed(needs), "that ran out of memory"),
        (failed(input, settings.slo), "with gateway errors"),
        (exhausted(input, settings), "with exhausted pools"),
        (stolen(needs), "with stolen processors"),
        (plans::larger(needs, advice), "in need of a larger plan"),
        (waited(needs), "on which something waited"),
    ]);
    found.extend(plans::finding(advice));
    if found.iter().all(|finding| finding.level < Level::Warning) {
        let text = "Nothing was short: no disk fills up within 60 days, nothing waited, nothing was stolen."
            .to_owned();
        found.push(Finding { level: Level::Good, text });
    }
    found.sort_by_key(|finding| Reverse(finding.level));
    found
}

/// A sentence of a server: its sort, its place among those of that sort, and itself.
type Ranked = (usize, usize, Said);

/// One finding for each of the servers that it is worst with, and one for all others. What is critical is
/// never among the others.
fn by_server(sorts: Vec<(Vec<Said>, &'static str)>) -> Vec<Finding> {
    let words: Vec<&str> = sorts.iter().map(|(_, words)| *words).collect();
    let mut servers: BTreeMap<String, Vec<Ranked>> = BTreeMap::new();
    for (sort, (mut all, _)) in sorts.into_iter().enumerate() {
        all.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        for (place, said) in all.into_iter().enumerate() {
            servers.entry(said.server.clone()).or_default().push((sort, place, said));
        }
    }
    let mut ranked: Vec<(Level, usize, Vec<Ranked>)> = servers
        .into_values()
        .map(|mut all| {
            all.sort_by_key(|(sort, place, said)| (Reverse(said.level), *sort, *place));
            let level = all.first().map_or(Level::Note, |(_, _, said)| said.level);
            // The worst of a sort is told even where many have something worse of another.
            let matters = |said: &Said| said.level >= level.min(Level::Warning);
            let place = all.iter().filter(|(_, _, said)| matters(said)).map(|all| all.1);
            (level, place.min().unwrap_or(usize::MAX), all)
        })
        .collect();
    ranked.sort_by_key(|(level, place, _)| (Reverse(*level), *place));
    let n_critical = ranked.iter().filter(|(level, ..)| *level == Level::Critical).count();
    let n_max = SERVERS_MAX.max(n_critical);
    let n_told = if ranked.len() == n_max + 1 { ranked.len() } else { n_max };
    let others = ranked.split_off(n_told.min(ranked.len()));
    let mut found: Vec<Finding> =
        ranked.into_iter().map(|(level, _, all)| told(level, all)).collect();
    found.extend(the_others(&others, &words));
    found
}

/// What matters most of a server, behind its name.
fn told(level: Level, all: Vec<Ranked>) -> Finding {
    let mut text = String::new();
    let is_told =
        |(ix, (_, _, said)): &(usize, Ranked)| *ix < SENTENCES_MAX || said.level == Level::Critical;
    for (_, (_, _, said)) in all.into_iter().enumerate().filter(is_told) {
        if text.is_empty() {
            text = format!("{}: {}", said.server, said.text);
        } else {
            let mut chars = said.text.chars();
            text.push(' ');
            text.extend(chars.next().into_iter().flat_map(char::to_uppercase));
            text.push_str(chars.as_str());
        }
    }
    Finding { level, text }
}

/// How many servers there are besides, of each sort.
fn the_others(others: &[(Level, usize, Vec<Ranked>)], words: &[&str]) -> Option<Finding> {
    let level = others.iter().map(|(level, ..)| *level).max()?;
    let of_sort = |sort: usize| {
        let has = |all: &[Ranked]| all.iter().any(|(of, ..)| *of == sort);
        others.iter().filter(|(_, _, all)| has(all)).count()
    };
    let parts: Vec<String> = (0..words.len())
        .map(|sort| (of_sort(sort), words[sort]))
        .filter(|(n, _)| *n > 0)
        .map(|(n, words)| format!("{n} {words}"))
        .collect();
    let text = format!("{} more servers are in the tables: {}.", others.len(), parts.join(", "));
    Some(Finding { level, text })
}

fn filling(input: &Input, ahead: &Ahead) -> Vec<Said> {
    let mut found = Vec::new();
    for ((id, what, mount), told) in &ahead.fills {
        let Some(days) = told.ok().and_then(|filling| filling.days) else { continue };
        let level = match days.mid {
            mid if mid <= SOON_DAYS => Level::Critical,
            mid if mid <= LATER_DAYS => Level::Warning,
            _ => continue,
        };
        let server = input.servers.get(id).map_or("", |server| server.name.as_str());
        let of = if *what == "disk" { "space" } else { "inodes" };
        let text = if days.mid <= 0.0 {
            format!("{mount} is full: more than 95 % of its {of} are used.")
        } else {
            let lasts =
                if *what == "disk" { "the space of / lasts" } else { "the inodes of / last" };
            let lasts = lasts.replace(" / ", &format!(" {mount} "));
            format!(
                "{lasts} for about {:.0} days more ({:.0} to {:.0}).",
                days.mid, days.low, days.high
            )
        };
        found.push(Said { server: server.to_owned(), weight: -days.mid, level, text });
    }
    found
}

fn killed(needs: &[Need]) -> Vec<Said> {
    let killed = needs.iter().filter(|need| need.n_oom_kills > 0);
    let told = killed.map(|need| {
        let times = match need.n_oom_kills {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        let text = format!("the kernel killed {times} for want of memory.");
        let (server, weight) = (need.server.clone(), need.n_oom_kills as f64);
        Said { server, weight, level: Level::Critical, text }
    });
    told.collect()
}

/// Critical: more minutes than the objective allows.
fn failed(input: &Input, slo: f64) -> Vec<Said> {
    let mut found = Vec::new();
    for server in input.servers.values().filter(|server| server.errors.n > 0) {
        let n = server.errors.n;
        let mut with: Vec<(u64, CameWith)> =
            CameWith::ALL.iter().map(|with| (with.of(&server.errors), *with)).collect();
        with.retain(|(n, _)| *n > 0);
        with.sort_by_key(|(n, _)| Reverse(*n));
        let share = |n_with: u64| n_with as f64 / n as f64 * 100.0;
        let parts: Vec<String> = with
            .iter()
            .take(3)
            .map(|(n_with, with)| format!("{:.0} % with {}", share(*n_with), with.words()))
            .collect();
        // Of most minutes often nothing is known: what is known of the others can be helped.
        let is_known = |with: CameWith| with < CameWith::Unexplained;
        let known = with.iter().find(|(_, with)| is_known(*with)).or(with.first());
        let remedy = known.map_or("", |(_, with)| with.remedy());
        let helps = match remedy.strip_prefix("no plan helps") {
            Some(rest) => format!("No plan helps{rest}"),
            None => format!("What helps: {remedy}"),
        };
        let text = format!(
            "{} with gateway errors: {}. {helps}.",
            many(n, "minute", "minutes"),
            parts.join("; ")
        );
        let allowed = (1.0 - slo) * server.seen.n() as f64 * 60.0;
        let level = if n as f64 > allowed { Level::Critical } else { Level::Warning };
        found.push(Said { server: server.name.clone(), weight: n as f64, level, text });
    }
    found
}

fn exhausted(input: &Input, settings: &Settings) -> Vec<Said> {
    let mut found = Vec::new();
    for server in input.servers.values() {
        for pool in pools::of(server, settings.limits.children) {
            let (Some(n), Some(max)) = (pool.n_waiting.filter(|n| *n > 0), pool.max_children)
            else {
                continue;
            };
            if pool.n_exhausted.unwrap_or(0) == 0 {
                continue;
            }
            let (name, waited) = (pool.name, many(n, "minute", "minutes"));
            let text = match (pool.raise_to, pool.child_bytes) {
                (Some(to), Some(each)) => format!(
                    "pool {name} kept visitors waiting for {waited}. Raise pm.max_children from \
                     {max:.0} to {to:.0}: a child takes {:.0} MiB, and the memory is there.",
                    each / 1_048_576.0
                ),
                (None, Some(each)) => format!(
                    "pool {name} kept visitors waiting for {waited} with all {max:.0} children \
                     busy; of {:.0} MiB each no more fit into its memory.",
                    each / 1_048_576.0
                ),
                _ => format!(
                    "pool {name} kept visitors waiting for {waited} with all {max:.0} children \
                     busy; whether more fit is not known."
                ),
            };
            let (server, level) = (server.name.clone(), Level::Warning);
            found.push(Said { server, weight: n as f64, level, text });
        }
    }
    found
}

fn stolen(needs: &[Need]) -> Vec<Said> {
    let often = needs.iter().filter_map(|need| {
        let share = need.steal_high.filter(|share| *share > OFTEN)?;
        let text = format!(
            "more than 10 % of its processors' time was stolen in {:.1} % of the minutes{}.",
            share * 100.0,
            // Else the remedy is told with the errors.
            if need.errors.n > 0 {
                ""
            } else {
                ", and no plan helps: ask for a move to another host"
            },
        );
        Some(Said { server: need.server.clone(), weight: share, level: Level::Warning, text })
    });
    often.collect()
}

fn waited(needs: &[Need]) -> Vec<Said> {
    let mut found = Vec::new();
    for need in needs {
        for (share, what) in [
            (need.memory_waited, "memory"),
            (need.cpu_waited, "a processor"),
            (need.io_waited, "a disk"),
        ] {
            let Some(share) = share.filter(|share| *share > OFTEN) else { continue };
            let text = format!(
                "something waited for {what} for more than 10 % of the time in {:.1} % of the minutes.",
                share * 100.0
            );
            let (server, level) = (need.server.clone(), Level::Note);
            found.push(Said { server, weight: share, level, text });
        }
    }
    found
}
