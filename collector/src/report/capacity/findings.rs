//! What somebody with half a minute should read. Pure.

use super::ahead::Ahead;
use super::errors::CameWith;
use super::input::Input;
use super::{plans, pools};
use crate::report::advice::Advice;
use crate::report::document::{Finding, Level};
use crate::report::need::Need;
use crate::report::settings::Settings;

/// Days to full below which somebody has to act, and below which it is worth planning.
const SOON_DAYS: f64 = 14.0;
const LATER_DAYS: f64 = 60.0;
/// Share of the minutes above which waiting or stolen time matters.
const OFTEN: f64 = 0.01;
/// Findings of one sort that are told one by one.
const EACH_MAX: usize = 5;

/// All of them, most important first.
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
    let mut found = Vec::new();
    found.extend(few(filling(input, ahead), "more file systems are filling up"));
    found.extend(few(killed(needs), "more servers ran out of memory"));
    found.extend(few(failed(input, settings.slo), "more servers had minutes with gateway errors"));
    found.extend(few(exhausted(input, settings), "more pools were exhausted"));
    found.extend(few(stolen(needs), "more servers had processors stolen"));
    found.extend(few(waited(needs), "more servers waited"));
    found.extend(plans::findings(needs, advice));
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    if found.iter().all(|finding| finding.level < Level::Warning) {
        let text = "Nothing was short: no disk fills up within 60 days, nothing waited, nothing was stolen."
            .to_owned();
        found.insert(0, Finding { level: Level::Good, text });
    }
    found
}

/// The first few, and how many more there are. `all` has the weight of each, the largest first.
fn few(mut all: Vec<(f64, Finding)>, more: &str) -> Vec<Finding> {
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let n_more = all.len().saturating_sub(EACH_MAX);
    let level = all.get(EACH_MAX).map_or(Level::Note, |(_, finding)| finding.level);
    let mut told: Vec<Finding> = all.into_iter().take(EACH_MAX).map(|(_, f)| f).collect();
    if n_more > 0 {
        told.push(Finding { level, text: format!("{n_more} {more}: see the tables.") });
    }
    told
}

fn filling(input: &Input, ahead: &Ahead) -> Vec<(f64, Finding)> {
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
            format!("{server}: {mount} is full: more than 95 % of its {of} are used.")
        } else {
            let lasts =
                if *what == "disk" { "the space of / lasts" } else { "the inodes of / last" };
            let lasts = lasts.replace(" / ", &format!(" {mount} "));
            format!(
                "{server}: {lasts} for about {:.0} days more ({:.0} to {:.0}).",
                days.mid, days.low, days.high
            )
        };
        found.push((-days.mid, Finding { level, text }));
    }
    found
}

fn killed(needs: &[Need]) -> Vec<(f64, Finding)> {
    let killed = needs.iter().filter(|need| need.n_oom_kills > 0);
    let told = killed.map(|need| {
        let times = match need.n_oom_kills {
            1 => "once".to_owned(),
            n => format!("{n} times"),
        };
        let text = format!("{}: the kernel killed {times} for want of memory.", need.server);
        (need.n_oom_kills as f64, Finding { level: Level::Critical, text })
    });
    told.collect()
}

/// Critical: more minutes than the objective allows.
fn failed(input: &Input, slo: f64) -> Vec<(f64, Finding)> {
    let mut found = Vec::new();
    for server in input.servers.values().filter(|server| server.errors.n > 0) {
        let n = server.errors.n;
        let mut with: Vec<(u64, CameWith)> =
            CameWith::ALL.iter().map(|with| (with.of(&server.errors), *with)).collect();
        with.retain(|(n, _)| *n > 0);
        with.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let share = |n_with: u64| n_with as f64 / n as f64 * 100.0;
        let parts: Vec<String> = with
            .iter()
            .take(3)
            .map(|(n_with, with)| format!("{:.0} % with {}", share(*n_with), with.words()))
            .collect();
        // Of most minutes often nothing is known: what is known of the others can be helped.
        let known = with.iter().find(|(_, with)| *with != CameWith::Unknown).or(with.first());
        let remedy = known.map_or("", |(_, with)| with.remedy());
        let minutes = if n == 1 { "minute" } else { "minutes" };
        let text = format!(
            "{}: {n} {minutes} with gateway errors: {}. What helps: {remedy}.",
            server.name,
            parts.join("; ")
        );
        let allowed = (1.0 - slo) * server.seen.n() as f64 * 60.0;
        let level = if n as f64 > allowed { Level::Critical } else { Level::Warning };
        found.push((n as f64, Finding { level, text }));
    }
    found
}

fn exhausted(input: &Input, settings: &Settings) -> Vec<(f64, Finding)> {
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
            let (server, name) = (&server.name, pool.name);
            let text = match (pool.raise_to, pool.child_bytes) {
                (Some(to), Some(each)) => format!(
                    "{server}: pool {name} kept visitors waiting for {n} minutes. Raise pm.max_children from \
                     {max:.0} to {to:.0}: a child takes {:.0} MiB, and the memory is there.",
                    each / 1_048_576.0
                ),
                (None, Some(each)) => format!(
                    "{server}: pool {name} kept visitors waiting for {n} minutes with all {max:.0} children \
                     busy; of {:.0} MiB each no more fit into its memory.",
                    each / 1_048_576.0
                ),
                _ => format!(
                    "{server}: pool {name} kept visitors waiting for {n} minutes with all {max:.0} children \
                     busy; whether more fit is not known."
                ),
            };
            found.push((n as f64, Finding { level: Level::Warning, text }));
        }
    }
    found
}

fn stolen(needs: &[Need]) -> Vec<(f64, Finding)> {
    let often = needs.iter().filter_map(|need| {
        let share = need.steal_high.filter(|share| *share > OFTEN)?;
        let text = format!(
            "{}: more than 10 % of its processors' time was stolen in {:.1} % of the minutes. No plan helps: ask \
             the provider for a move to another host.",
            need.server,
            share * 100.0
        );
        Some((share, Finding { level: Level::Warning, text }))
    });
    often.collect()
}

fn waited(needs: &[Need]) -> Vec<(f64, Finding)> {
    let mut found = Vec::new();
    for need in needs {
        for (share, what) in [
            (need.memory_waited, "memory"),
            (need.cpu_waited, "a processor"),
            (need.io_waited, "a disk"),
        ] {
            let Some(share) = share.filter(|share| *share > OFTEN) else { continue };
            let text = format!(
                "{}: something waited for {what} for more than 10 % of the time in {:.1} % of the minutes.",
                need.server,
                share * 100.0
            );
            found.push((share, Finding { level: Level::Note, text }));
        }
    }
    found
}
