//! What somebody with half a minute should read of an outage report. Pure.

use std::cmp::Reverse;

use super::causes::by_cause;
use super::figures::{Figures, OfIncident, OfSite};
use super::minutes::Minutes;
use super::tables;
use crate::report::document::{Finding, Level};
use crate::report::words::{count, list, many, minutes, percent};

const NAMES_MAX: usize = 3;

/// Sentences, the worst level first.
pub(super) fn findings(figures: &Figures<'_>) -> Vec<Finding> {
    let mut found: Vec<Finding> = [
        open(figures),
        Some(overall(figures)),
        over_budget(figures),
        costliest(figures),
        cause(figures),
        crawlers(figures),
        silent(figures),
    ]
    .into_iter()
    .flatten()
    .collect();
    found.sort_by_key(|finding| Reverse(finding.level));
    found
}

fn finding(level: Level, text: String) -> Finding {
    Finding { level, text }
}

fn open(figures: &Figures<'_>) -> Option<Finding> {
    let mut open: Vec<&OfIncident<'_>> =
        figures.incidents.values().filter(|of| of.happened.ended.is_none()).collect();
    open.sort_by_key(|of| of.happened.severity != "critical");
    let n_critical = open.iter().filter(|of| of.happened.severity == "critical").count();
    let titles: Vec<&str> = open.iter().map(|of| of.happened.title.as_str()).collect();
    (!titles.is_empty()).then(|| {
        let n = many(titles.len() as u64, "incident is", "incidents are");
        let told = list(&titles, NAMES_MAX.max(n_critical));
        finding(Level::Critical, format!("{n} still open: {told}."))
    })
}

fn overall(figures: &Figures<'_>) -> Finding {
    let total = figures.total();
    let sites = many(figures.sites.len() as u64, "site", "sites");
    let Some(availability) = total.availability() else {
        return finding(Level::Note, "No site was known in this time.".to_owned());
    };
    if total.n_lost == 0 {
        let text = format!("No minute was lost: none of {sites} was inside of an incident.");
        return finding(Level::Good, text);
    }
    let hit = figures.sites.values().filter(|of| of.time.n_lost > 0).count() as u64;
    let used = total
        .budget_used(figures.slo)
        .map_or(String::new(), |used| format!(": {} of the error budget is used", percent(used)));
    let slow = match total.n_slow {
        0 => String::new(),
        n => format!(" Of it {} were in slow burns, in which few requests failed.", minutes(n)),
    };
    let text = format!(
        "{} of {sites} lost {} of site time in {}. Availability {}, objective {}{used}.{slow}",
        count(hit),
        minutes(total.n_lost),
        many(figures.incidents.len() as u64, "incident", "incidents"),
        percent(availability),
        percent(figures.slo),
    );
    finding(tables::level(&total, figures.slo), text)
}

fn over_budget(figures: &Figures<'_>) -> Option<Finding> {
    let worst = figures.worst();
    let over: Vec<&&OfSite<'_>> =
        worst.iter().filter(|of| of.time.n_lost > 0 && of.time.is_over(figures.slo)).collect();
    let first = over.first()?;
    let text = format!(
        "{} of {} lost more than the objective of {} allows; most: {} on {} with {}, availability {}.",
        count(over.len() as u64),
        many(worst.len() as u64, "site", "sites"),
        percent(figures.slo),
        first.site.name,
        first.server.name,
        minutes(first.time.n_lost),
        percent(first.time.availability().unwrap_or(1.0)),
    );
    Some(finding(Level::Warning, text))
}

fn costliest(figures: &Figures<'_>) -> Option<Finding> {
    let most = |of: &&OfIncident<'_>| (of.n_lost, std::cmp::Reverse(of.happened.started));
    let worst = figures.incidents.values().max_by_key(most).filter(|of| of.n_lost > 0)?;
    let text = format!(
        "The costliest incident took {} of site time: {}.",
        minutes(worst.n_lost),
        worst.happened.title.trim_end_matches('.'),
    );
    Some(finding(Level::Note, text))
}

fn cause(figures: &Figures<'_>) -> Option<Finding> {
    let causes = by_cause(figures);
    let n_all: u64 = causes.iter().map(|(_, cost)| cost.1).sum();
    let (cause, (n, n_lost, _)) = causes.iter().find(|(_, cost)| cost.1 > 0)?;
    let share = percent(*n_lost as f64 / n_all.max(1) as f64);
    let text = if *cause == "unknown" {
        format!("{share} of the lost time has no known cause.")
    } else {
        let incidents = many(*n, "incident", "incidents");
        format!("{share} of the lost time came from {} ({incidents}).", cause.replace('_', " "))
    };
    Some(finding(Level::Note, text))
}

fn crawlers(figures: &Figures<'_>) -> Option<Finding> {
    let n: u64 = figures.sites.values().map(|of| of.site.n_crawler).sum();
    let most = figures.sites.values().max_by_key(|of| of.site.n_crawler);
    let most = most.filter(|of| of.site.n_crawler > 0)?;
    let text = format!(
        "Crawlers of search engines saw {}, most of them ({}) on {}.",
        many(n, "gateway error", "gateway errors"),
        count(most.site.n_crawler),
        most.site.name,
    );
    Some(finding(Level::Warning, text))
}

fn silent(figures: &Figures<'_>) -> Option<Finding> {
    let n: u64 = figures.silent.values().map(Minutes::n).sum();
    let names: Vec<&str> = figures
        .silent
        .keys()
        .filter_map(|id| figures.input.servers.get(id))
        .map(|server| server.name.as_str())
        .collect();
    (n > 0).then(|| {
        let who = list(&names, NAMES_MAX);
        let text = format!("{who} sent nothing for {}; that costs no site a minute.", minutes(n));
        finding(Level::Note, text)
    })
}

/// What makes the report less than whole.
pub(super) fn caveats(figures: &Figures<'_>) -> Vec<String> {
    let mut caveats = Vec::new();
    let unowned = figures.sites.values().filter(|of| of.owner.is_none()).count() as u64;
    if unowned > 0 {
        let sites = many(unowned, "site is", "sites are");
        caveats.push(format!(
            "Whose {sites} is not known: discovery found no owner. They are listed under \"not known\"."
        ));
    }
    caveats
}
