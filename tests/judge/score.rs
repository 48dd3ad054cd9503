//! Compares what was told with what happened, world by world, and adds up.

use std::collections::BTreeSet;

use crate::told::Told;
use crate::truth::{Answer, Outage};

/// It may open this long after the last failure of an outage, ms.
const LATE_MS: i64 = 120_000;
/// People are told of an incident this long after it opens, with what it has become by then, ms.
const PAGE_MS: i64 = 2_000;
/// Sites from which one outage has to be one page.
const N_SITES_MANY: usize = 2_000;

/// Sums over many worlds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Score {
    pub(crate) server_years: f64,
    pub(crate) n_outages: usize,
    pub(crate) n_found: usize,
    pub(crate) n_exact: usize,
    /// Incidents that tell an outage exactly: one of a wider outage may go on as what is left of it.
    pub(crate) n_exact_told: usize,
    /// Incidents that stand for themselves, and those of them that are of an outage.
    pub(crate) n_incidents: usize,
    pub(crate) n_real: usize,
    /// F1 of the set of sites, one for each outage found.
    pub(crate) site_f1: Vec<f64>,
    pub(crate) n_caused: usize,
    pub(crate) n_cause_first: usize,
    pub(crate) n_cause_second: usize,
    pub(crate) n_changed: usize,
    pub(crate) n_change_named: usize,
    /// Seconds from the third failing request to opening.
    pub(crate) delays_s: Vec<f64>,
    /// The same from the third client that failed: one client alone proves nothing.
    pub(crate) client_delays_s: Vec<f64>,
    /// Seconds from when a server-wide outage was to be seen to its exact scope.
    pub(crate) server_delays_s: Vec<f64>,
    pub(crate) n_false_site: usize,
    pub(crate) n_false_wide: usize,
    pub(crate) n_duplicates: usize,
    pub(crate) n_twins: usize,
    pub(crate) n_restarted: usize,
    pub(crate) n_flapping: usize,
    pub(crate) n_flapping_one_id: usize,
    /// Outages of very many sites, and most pages of one of them.
    pub(crate) n_many: usize,
    pub(crate) pages_max: usize,
}

/// One thing that was not as it should be, for people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Miss {
    pub(crate) what: &'static str,
    pub(crate) text: String,
}

impl Score {
    pub(crate) fn add(&mut self, other: Self) {
        self.server_years += other.server_years;
        self.n_outages += other.n_outages;
        self.n_found += other.n_found;
        self.n_exact += other.n_exact;
        self.n_exact_told += other.n_exact_told;
        self.n_incidents += other.n_incidents;
        self.n_real += other.n_real;
        self.site_f1.extend(other.site_f1);
        self.n_caused += other.n_caused;
        self.n_cause_first += other.n_cause_first;
        self.n_cause_second += other.n_cause_second;
        self.n_changed += other.n_changed;
        self.n_change_named += other.n_change_named;
        self.delays_s.extend(other.delays_s);
        self.client_delays_s.extend(other.client_delays_s);
        self.server_delays_s.extend(other.server_delays_s);
        self.n_false_site += other.n_false_site;
        self.n_false_wide += other.n_false_wide;
        self.n_duplicates += other.n_duplicates;
        self.n_twins += other.n_twins;
        self.n_restarted += other.n_restarted;
        self.n_flapping += other.n_flapping;
        self.n_flapping_one_id += other.n_flapping_one_id;
        self.n_many += other.n_many;
        self.pages_max = self.pages_max.max(other.pages_max);
    }

    /// Harmonic mean of the share of outages told exactly and of incidents that tell one exactly.
    pub(crate) fn scope_f1(&self) -> f64 {
        let recall = share(self.n_exact, self.n_outages);
        let precision = share(self.n_exact_told, self.n_incidents);
        if recall + precision > 0.0 { 2.0 * recall * precision / (recall + precision) } else { 0.0 }
    }

    pub(crate) fn recall(&self) -> f64 {
        share(self.n_found, self.n_outages)
    }

    pub(crate) fn precision(&self) -> f64 {
        share(self.n_real, self.n_incidents)
    }
}

/// `part / whole`; 0 of nothing, so that an empty run reaches no floor.
pub(crate) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The value below which this share of `values` lies; infinite when there are none.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).ceil() as usize).copied().unwrap_or(f64::INFINITY)
}

/// Scores one world.
pub(crate) fn world(outages: &[Outage], told: &[Told], server_years: f64) -> (Score, Vec<Miss>) {
    let mut score = Score { server_years, ..Score::default() };
    let mut misses = Vec::new();
    let owners: Vec<Option<usize>> = told.iter().map(|told| owner(told, outages)).collect();
    for (told, owner) in told.iter().zip(&owners).filter(|(told, _)| !told.is_part()) {
        // One that may be told or not counts for nothing, unless it is told.
        match owner {
            Some(ix) if !outages[*ix].required => {}
            Some(ix) if is_too_wide(told, &outages[*ix]) => {
                score.n_incidents += 1;
                score.n_false_wide += 1;
                misses.push(Miss { what: "too wide", text: tell(told) });
            }
            Some(_) => {
                score.n_incidents += 1;
                score.n_real += 1;
            }
            None => {
                score.n_incidents += 1;
                let is_site = told.last().scope == "site";
                score.n_false_site += usize::from(is_site);
                score.n_false_wide += usize::from(!is_site);
                misses.push(Miss { what: "false", text: tell(told) });
            }
        }
    }
    for (ix, outage) in outages.iter().enumerate().filter(|(_, outage)| outage.required) {
        let mine = told.iter().zip(&owners).filter(|(_, owner)| **owner == Some(ix));
        let mine: Vec<&Told> = mine.map(|(told, _)| told).collect();
        if outage.sites.len() >= N_SITES_MANY {
            score.pages_max = score.pages_max.max(pages(&mine));
            score.n_many += 1;
        }
        let alone: Vec<&Told> = mine.into_iter().filter(|told| !told.is_part()).collect();
        if outage.remains && alone.is_empty() && told.iter().any(|told| goes_on_as(outage, told)) {
            score.n_outages += 1;
            score.n_found += 1;
            score.n_exact += 1;
            continue;
        }
        judge(outage, &alone, &mut score, &mut misses);
    }
    (score, misses)
}

/// The outage that an incident tells: the one it shares most with, at the same time.
fn owner(told: &Told, outages: &[Outage]) -> Option<usize> {
    let fits = |(ix, outage): (usize, &Outage)| {
        let kind = outage.kinds.contains(&told.kind);
        let first = outage.first_at.unwrap_or(outage.from).min(outage.from);
        let last = outage.last_at.unwrap_or(outage.until).max(outage.until);
        let ended = told.resolved_at.unwrap_or(i64::MAX);
        let in_time = told.started_at <= last + LATE_MS && ended >= first;
        let shared = overlap(told, outage);
        (kind && in_time && shared > 0.0).then_some((shared, ix))
    };
    let best = outages.iter().enumerate().filter_map(fits);
    best.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, ix)| ix)
}

/// Share of common sites, or of common servers where no request shows it; of the whole of both.
fn overlap(told: &Told, outage: &Outage) -> f64 {
    if outage.sites.is_empty() {
        let truth: BTreeSet<&str> = outage.servers.iter().map(String::as_str).collect();
        return jaccard(&truth, &told.servers());
    }
    let truth: BTreeSet<&str> = outage.sites.iter().map(String::as_str).collect();
    let named = told.states.iter().flat_map(|state| &state.sites).map(String::as_str).collect();
    jaccard(&truth, &named)
}

fn jaccard(a: &BTreeSet<&str>, b: &BTreeSet<&str>) -> f64 {
    share(a.intersection(b).count(), a.union(b).count())
}

fn judge(outage: &Outage, mine: &[&Told], score: &mut Score, misses: &mut Vec<Miss>) {
    score.n_outages += 1;
    let mut miss = |what, told: &str| {
        misses.push(Miss { what, text: format!("{}\n      told: {told}", truth(outage)) });
    };
    let last = outage.last_at.unwrap_or(outage.until);
    score.n_restarted += usize::from(outage.restarted);
    score.n_flapping += usize::from(outage.flaps);
    let Some(main) = mine.iter().copied().max_by(|a, b| {
        let exact = |told: &Told| is_exact(outage, told, last);
        let shared = overlap(a, outage).total_cmp(&overlap(b, outage));
        exact(a).cmp(&exact(b)).then(shared).then(b.started_at.cmp(&a.started_at))
    }) else {
        miss("missed", "nothing");
        return;
    };
    score.n_found += 1;
    let more = mine.len() - 1;
    score.n_duplicates += more;
    if more > 0 {
        let all: Vec<String> = mine.iter().map(|told| tell(told)).collect();
        miss("duplicate", &all.join("\n            "));
    }
    score.n_twins += if outage.restarted { more } else { 0 };
    score.n_flapping_one_id += usize::from(outage.flaps && more == 0);
    if is_exact(outage, main, last) {
        score.n_exact += 1;
        score.n_exact_told += 1;
    } else {
        miss("scope", &tell(main));
    }
    if !outage.sites.is_empty() {
        let told: BTreeSet<&str> = main.last().sites.iter().map(String::as_str).collect();
        let truth: BTreeSet<&str> = outage.sites.iter().map(String::as_str).collect();
        let both = told.intersection(&truth).count();
        score.site_f1.push(2.0 * share(both, told.len() + truth.len()));
    }
    judge_cause(outage, main, score, &mut miss);
    judge_delay(outage, main, score, &mut miss);
}

fn judge_cause(
    outage: &Outage,
    main: &Told,
    score: &mut Score,
    miss: &mut impl FnMut(&'static str, &str),
) {
    let named = main.last();
    if !outage.causes.is_empty() {
        score.n_caused += 1;
        let first = outage.causes.contains(&named.cause);
        let second = named.runner_up.as_ref().is_some_and(|class| outage.causes.contains(class));
        score.n_cause_first += usize::from(first);
        score.n_cause_second += usize::from(first || second);
        if !first {
            miss("cause", &tell(main));
        }
    }
    if let Some(change) = &outage.change {
        score.n_changed += 1;
        score.n_change_named += usize::from(named.change.as_ref() == Some(change));
    }
}

fn judge_delay(
    outage: &Outage,
    main: &Told,
    score: &mut Score,
    miss: &mut impl FnMut(&'static str, &str),
) {
    // What was spooled during a gap of the uplink cannot be told in time.
    let (Some(third_at), true) = (outage.third_at, outage.timed) else { return };
    let delay_s = (main.detected_at - third_at) as f64 / 1000.0;
    score.delays_s.push(delay_s.max(0.0));
    let third_client_at = outage.third_client_at.unwrap_or(third_at);
    score.client_delays_s.push(((main.detected_at - third_client_at) as f64 / 1000.0).max(0.0));
    if delay_s > 4.0 {
        miss("late", &format!("{delay_s:.1} s after the third: {}", tell(main)));
    }
    if let Some(at) = outage.identifiable_at
        && let Some(exact) = main.states.iter().find(|state| is_right(outage, state))
    {
        score.server_delays_s.push(((exact.at - at) as f64 / 1000.0).max(0.0));
    }
}

/// Whether an incident of something wider became exactly this while it lasted.
fn goes_on_as(outage: &Outage, told: &Told) -> bool {
    let from = outage.first_at.unwrap_or(outage.from);
    let until = outage.last_at.unwrap_or(outage.until) + LATE_MS;
    let then = |state: &&crate::told::State| (from..until).contains(&state.at);
    told.states.iter().filter(then).any(|state| is_right(outage, state))
}

fn is_right(outage: &Outage, state: &crate::told::State) -> bool {
    outage.answers.iter().any(|answer| answer.is(&state.scope, &state.members))
}

/// Whether it named the scope and its members as they are, while the outage was on.
fn is_exact(outage: &Outage, told: &Told, last: i64) -> bool {
    is_right(outage, told.during(last.max(told.detected_at + PAGE_MS)))
}

/// Whether it claims a server, while the outage goes on, that no right answer names: whoever is paged
/// for a whole fleet because of one site is misled.
fn is_too_wide(told: &Told, outage: &Outage) -> bool {
    let last = outage.last_at.unwrap_or(outage.until);
    if is_exact(outage, told, last) {
        return false;
    }
    let server = |member: &String| member.split('/').next().unwrap_or(member).to_owned();
    let state = told.during(last.max(told.detected_at + PAGE_MS));
    let claimed: BTreeSet<String> = state.members.iter().map(server).collect();
    let fits = |answer: &Answer| {
        let may: BTreeSet<String> = answer.may.iter().map(server).collect();
        claimed.is_subset(&may)
    };
    !outage.answers.iter().any(fits)
}

/// Incidents of one outage that people are told of: open, and after the wait still on their own.
fn pages(mine: &[&Told]) -> usize {
    let told = mine.iter().filter(|told| {
        let due = told.detected_at + PAGE_MS;
        let then = told.states.iter().rev().find(|state| state.at <= due);
        !told.retroactive && then.is_some_and(|state| state.parent.is_none())
    });
    told.count()
}

fn truth(outage: &Outage) -> String {
    let answer = outage.answers.first();
    let scope = answer.map_or("?", |answer| answer.scope.as_str());
    let members = answer.map(|answer| list(&answer.may)).unwrap_or_default();
    format!(
        "truth: {} {scope} {members}, {} sites, {} failed, {}..{} s, cause {}",
        outage.name,
        outage.sites.len(),
        outage.n_failed,
        second(outage.first_at.unwrap_or(outage.from)),
        second(outage.last_at.unwrap_or(outage.until)),
        outage.causes.join("|"),
    )
}

fn tell(told: &Told) -> String {
    let state = told.during(i64::MAX);
    let end = told.resolved_at.map_or("open".to_owned(), |at| second(at).to_string());
    let path: Vec<String> = told
        .states
        .iter()
        .filter(|state| state.event != "update")
        .map(|state| format!("{}@{}:{}", state.event, second(state.at), state.scope))
        .collect();
    format!(
        "{} {} {}, {} sites, {}..{end} s, cause {}/{} [{}]",
        told.kind,
        state.scope,
        list(&state.members),
        told.last().sites.len(),
        second(told.started_at),
        told.last().cause,
        told.last().runner_up.as_deref().unwrap_or("-"),
        path.join(" "),
    )
}

/// Seconds since the start of the world.
fn second(at: i64) -> i64 {
    (at - crate::world::START_MS) / 1000
}

fn list(names: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = names.iter().take(6).map(String::as_str).collect();
    let rest = names.len().saturating_sub(shown.len());
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{{{}{more}}}", shown.join(" "))
}
