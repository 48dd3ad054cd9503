//! What somebody with half a minute should read of a noise report. Pure.

use super::{Input, flaps, repeats, sites, steal};
use crate::report::ask::Ask;
use crate::report::document::{Finding, Level};
use crate::report::settings::Settings;
use crate::report::words::{count, instant, list, many, minutes, percent};

/// Share of all errors that the few noisy sites make which are named.
const MOST: f64 = 0.8;
const NAMES_MAX: usize = 3;
/// Share of minutes above the limit from which a hypervisor is called oversold.
const OVERSOLD: f64 = 0.05;

/// Sentences, most important first.
pub(super) fn findings(input: &Input, settings: &Settings, ask: &Ask) -> Vec<Finding> {
    let mut found: Vec<Finding> = [
        noisy_sites(input),
        noisy_part(input),
        oversold(input, settings),
        flapping(input),
        again(input, ask),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() {
        let text =
            "No site answered with a gateway error, no service failed, and nothing was stolen.";
        found.push(Finding { level: Level::Good, text: text.to_owned() });
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found
}

fn noisy_sites(input: &Input) -> Option<Finding> {
    let (noisy, n_all) = (sites::noisiest(input), sites::n_errors(input));
    let mut n = 0_u64;
    let is_most = |n: u64| n as f64 >= MOST * n_all as f64;
    let few: Vec<String> = noisy
        .iter()
        .take_while(|site| {
            let goes_on = !is_most(n);
            n += if goes_on { site.n_errors } else { 0 };
            goes_on
        })
        .map(|site| sites::named(input, site))
        .collect();
    let names: Vec<&str> = few.iter().map(String::as_str).collect();
    (n_all > 0).then(|| {
        let text = format!(
            "{} of {} made {} of the {}: {}.",
            count(few.len() as u64),
            many(input.sites.len() as u64, "site", "sites"),
            percent(n as f64 / n_all as f64),
            many(n_all, "gateway error", "gateway errors"),
            list(&names, NAMES_MAX),
        );
        Finding { level: Level::Warning, text }
    })
}

fn noisy_part(input: &Input) -> Option<Finding> {
    let (part, named) = *sites::ranked(input).first()?;
    let counts = [
        (named.n_errors.round() as u64, "about ", "gateway error", "gateway errors"),
        (named.n_lines, "", "line of evidence", "lines of evidence"),
    ];
    let counts = counts.into_iter().filter(|(n, ..)| *n > 0);
    let what: Vec<String> =
        counts.map(|(n, about, one, more)| format!("{about}{}", many(n, one, more))).collect();
    let text = format!(
        "The {} {} is named by {}, more than any other.",
        part.kind,
        part.name,
        what.join(" and "),
    );
    Some(Finding { level: Level::Note, text })
}

fn oversold(input: &Input, settings: &Settings) -> Option<Finding> {
    let all = steal::ranked(input, settings);
    let over: Vec<&steal::Taken<'_>> =
        all.iter().filter(|taken| taken.name.is_some() && taken.above >= OVERSOLD).collect();
    let worst = over.first()?;
    let names: Vec<&str> = over.iter().filter_map(|taken| taken.name).collect();
    let text = format!(
        "{} oversold: {}. On {} more than {} of the processors' time was stolen in {} of all server-minutes.",
        many(over.len() as u64, "hypervisor is", "hypervisors are"),
        list(&names, NAMES_MAX),
        worst.name.unwrap_or_default(),
        percent(settings.limits.steal),
        percent(worst.above),
    );
    Some(Finding { level: Level::Warning, text })
}

fn flapping(input: &Input) -> Option<Finding> {
    let all = flaps::ranked(input);
    let ((server, unit), worst) = all.first()?;
    let server = input.servers.get(server).map_or("", |server| server.name.as_str());
    let others = match all.len() {
        1 => String::new(),
        n => format!(" {} failed or restarted as well.", many(n as u64 - 1, "other", "others")),
    };
    let text = format!(
        "{unit} on {server} restarted {} and failed {}.{others}",
        many(worst.n_restarts, "time", "times"),
        many(worst.n_failed, "time", "times"),
    );
    Some(Finding { level: if worst.n() > 2 { Level::Warning } else { Level::Note }, text })
}

fn again(input: &Input, ask: &Ask) -> Option<Finding> {
    let all = repeats::ranked(input, ask);
    let worst = all.first()?;
    let text = format!(
        "Nothing came back more often than {}: {}, {} in all. The last time: {}.",
        repeats::place(&worst.newest.key),
        many(worst.n, "time", "times"),
        minutes(worst.minutes),
        worst.newest.title.trim_end_matches('.'),
    );
    Some(Finding { level: Level::Note, text })
}

/// What makes the report less than whole.
pub(super) fn caveats(input: &Input) -> Vec<String> {
    let mut caveats = Vec::new();
    if let Some(from) = input.events_from {
        caveats.push(format!(
            "Plugins and services are told from {} on: before, gateway errors, evidence and states of \
             services are not kept ([retention] raw).",
            instant(from)
        ));
    }
    let unknown = input.steal.keys().filter_map(|id| input.servers.get(id));
    let n = unknown.filter(|server| !server.labels.contains_key("hypervisor")).count() as u64;
    if n > 0 {
        let servers = many(n, "server has", "servers have");
        caveats
            .push(format!("{servers} no label hypervisor, and stand together as \"not known\"."));
    }
    let is_cut = |lives: &&flaps::Lives| lives.is_cut;
    if let Some(n) = Some(input.services.values().filter(is_cut).count() as u64).filter(|n| *n > 0)
    {
        let services = many(n, "service", "services");
        caveats.push(format!("Of {services} more states were told than are counted."));
    }
    caveats
}
