//! What speaks for a larger plan or another host. Pure.

use super::figures::{DISK_FULL, FULL, Figures, MARGIN, sane};
use super::{Resource, words};
use crate::report::need::ErrorMinutes;

/// Share of the minutes with waiting, or with stolen processors, that is too much.
const SATURATED: f64 = 0.01;
/// Minutes with gateway errors that one cause must have before it alone is a reason; at least half of all.
const ERROR_MINUTES_MIN: u64 = 5;
/// Days until the disk is full that are too few.
const DISK_DAYS: f64 = 30.0;

/// One reason.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sign {
    /// What is short.
    pub(super) resource: Resource,
    /// A sentence.
    pub(super) text: String,
    /// Whether somebody felt it, which usage alone does not say.
    pub(super) is_hard: bool,
    /// Whether the processors were stolen, which no plan mends.
    pub(super) is_steal: bool,
}

/// All of them, the weightiest first.
pub(super) fn of(figures: &Figures<'_>) -> Vec<Sign> {
    let mut signs = steal(figures);
    signs.extend(memory(figures));
    signs.extend(disk(figures));
    // What is stolen is missed by its own: how busy the processors are says little then.
    if !signs.iter().any(|sign| sign.is_steal) {
        signs.extend(cpu(figures));
    }
    signs.sort_by_key(|sign| !sign.is_hard);
    signs
}

/// A reason in a history that is too short for advice.
pub(super) fn so_far(sign: &Sign) -> String {
    format!("So far: {}", sign.text)
}

fn hard(resource: Resource, text: String) -> Sign {
    Sign { resource, text, is_hard: true, is_steal: false }
}

fn soft(resource: Resource, text: String) -> Sign {
    Sign { resource, text, is_hard: false, is_steal: false }
}

fn steal(figures: &Figures<'_>) -> Vec<Sign> {
    let need = figures.need;
    let mut signs = Vec::new();
    if let Some(share) = sane(need.steal_high).filter(|share| *share > SATURATED) {
        signs.push(Sign {
            is_steal: true,
            ..hard(
                Resource::Cpu,
                format!(
                    "In {} of the minutes the hypervisor kept more than 10 % of the processors' time for \
                     others: no plan helps, the provider owes it.",
                    words::percent(share)
                ),
            )
        });
    }
    if is_most(need.errors.steal, &need.errors) {
        signs.push(Sign {
            is_steal: true,
            ..hard(
                Resource::Cpu,
                format!(
                    "{} of {} with gateway errors came while processors were stolen.",
                    need.errors.steal,
                    words::n_of(need.errors.n, "minute")
                ),
            )
        });
    }
    signs
}

fn cpu(figures: &Figures<'_>) -> Vec<Sign> {
    let need = figures.need;
    let mut signs = Vec::new();
    if let Some(share) = sane(need.cpu_waited).filter(|share| *share > SATURATED) {
        signs.push(hard(Resource::Cpu, waited(share, "a processor")));
    }
    if is_most(need.errors.cpu_full, &need.errors) {
        let text = came(need.errors.cpu_full, need.errors.n, "while the processors were saturated");
        signs.push(hard(Resource::Cpu, text));
    }
    signs.extend(usage(figures, Resource::Cpu));
    signs
}

fn memory(figures: &Figures<'_>) -> Vec<Sign> {
    let need = figures.need;
    let mut signs = Vec::new();
    if need.n_oom_kills > 0 {
        let text =
            format!("The kernel killed {} for want of memory.", words::times(need.n_oom_kills));
        signs.push(hard(Resource::Memory, text));
    }
    if let Some(share) = sane(need.memory_waited).filter(|share| *share > SATURATED) {
        signs.push(hard(Resource::Memory, waited(share, "memory")));
    }
    if is_most(need.errors.memory_full, &need.errors) {
        let text = came(need.errors.memory_full, need.errors.n, "while memory was full");
        signs.push(hard(Resource::Memory, text));
    }
    signs.extend(usage(figures, Resource::Memory));
    signs
}

fn disk(figures: &Figures<'_>) -> Vec<Sign> {
    let mut signs = Vec::new();
    let (used, has) = (figures.counted(Resource::Disk), figures.has(Resource::Disk));
    let helps = if figures.has_plan_disk {
        "clear up, or take a plan with more"
    } else {
        "clear up, or make that volume larger"
    };
    if let (Some(used), Some(has)) = (used, has)
        && used > DISK_FULL * has
    {
        let text = format!(
            "The disk is {} full, {} of {}: {helps}.",
            words::percent((used / has).min(1.0)),
            words::bytes(used),
            words::bytes(has)
        );
        signs.push(hard(Resource::Disk, text));
    }
    if let Some((low, mid, high)) = soon_full(figures).filter(|_| !is_one_of_many(figures)) {
        let text = format!(
            "The disk will be full {} ({} to {} in eight cases of ten): {helps}.",
            words::in_days(mid),
            words::number(low.round()),
            if high.is_finite() { words::days(high.round()) } else { "never".to_owned() }
        );
        signs.push(soft(Resource::Disk, text));
    }
    // No plan has a part in another volume.
    signs.retain(|_| figures.has_plan_disk);
    signs
}

fn soon_full(figures: &Figures<'_>) -> Option<(f64, f64, f64)> {
    figures.days_to_full().filter(|(_, mid, _)| *mid < DISK_DAYS)
}

/// Whether what fills up can only be one of several file systems, or is no steady growth: all of them
/// together are half empty, and no plan makes one of them larger by itself.
fn is_one_of_many(figures: &Figures<'_>) -> bool {
    let (used, has) = (figures.counted(Resource::Disk), figures.has(Resource::Disk));
    used.zip(has).is_some_and(|(used, has)| used < 0.5 * has)
}

/// What needs somebody's time but no other plan.
pub(super) fn beside(figures: &Figures<'_>) -> Option<String> {
    let (_, mid, _) = soon_full(figures).filter(|_| is_one_of_many(figures))?;
    Some(format!(
        "One of its file systems will be full {} although half of its disk is free: look at what \
         grows there, or make that one larger.",
        words::in_days(mid)
    ))
}

/// How full processors or memory are, now and next week.
fn usage(figures: &Figures<'_>, resource: Resource) -> Option<Sign> {
    let has = figures.has(resource)?;
    let used = figures.counted(resource)?;
    let of = format!("of {}", words::amount_of(resource, has));
    let (minutes, is_used) = match resource {
        Resource::Cpu => ("95 of 100", "are busy"),
        Resource::Memory | Resource::Disk => ("995 of 1,000", "are in use"),
    };
    if used * MARGIN * figures.lower() > FULL * has {
        let text = format!(
            "In {minutes} minutes up to {} {of} {is_used}; with 15 % to spare that is {:.1} %, more than {}.",
            words::quantity(resource, used),
            100.0 * used * MARGIN / has,
            words::percent(FULL)
        );
        return Some(soft(resource, text));
    }
    let (low, mid, high) = figures.demand(resource).next_p95?;
    (low * MARGIN > FULL * has).then(|| {
        let text = format!(
            "Next week up to {} {of} will {} in 95 of 100 minutes ({} to {} in eight cases of ten); with 15 % \
             to spare even the least is more than {}.",
            words::quantity(resource, mid),
            if resource == Resource::Cpu { "be busy" } else { "be in use" },
            words::quantity(resource, low),
            words::quantity(resource, high),
            words::percent(FULL)
        );
        soft(resource, text)
    })
}

fn came(n: u64, of: u64, when: &str) -> String {
    format!("{n} of {} with gateway errors came {when}.", words::n_of(of, "minute"))
}

fn waited(share: f64, what: &str) -> String {
    format!(
        "In {} of the minutes something waited for {what} for more than 10 % of the time; 1 % is the most \
         that is well.",
        words::percent(share)
    )
}

/// Whether a cause has enough of the minutes with gateway errors to be a reason of its own.
fn is_most(n: u64, errors: &ErrorMinutes) -> bool {
    n >= ERROR_MINUTES_MIN && n.saturating_mul(2) >= errors.n
}

/// What the minutes with gateway errors came with and what helps, the most first.
pub(super) fn errors(errors: &ErrorMinutes) -> Vec<String> {
    let mut parts = [
        (
            errors.exhausted,
            "came while all children of a PHP-FPM pool were busy and memory was free: no plan is needed, raise \
             pm.max_children",
        ),
        (errors.memory_full, "came while memory was full: a plan with more memory helps"),
        (
            errors.steal,
            "came while processors were stolen: no plan helps, ask the provider for another host",
        ),
        (
            errors.cpu_full,
            "came while the processors were saturated: more of them help, or less work for each request",
        ),
        (
            errors.disk,
            "came while a disk was full or saturated: clear up, or take a larger or faster one",
        ),
        (errors.service, "came while a service was down or restarted: no plan helps"),
        (
            errors.site_code,
            "came from the code of a site, with room on the server: no plan helps, the site has to be mended",
        ),
        (
            errors.attack,
            "came while somebody flooded it with requests: no plan helps, limit or block them",
        ),
        (
            errors.network,
            "came while the network, a packet filter or name resolution stood in the way: no plan helps",
        ),
        (errors.config, "came from a wrong configuration: no plan helps, it has to be mended"),
        (
            errors.overload,
            "came with more requests than could be taken: more children or processors help",
        ),
        (
            errors.unexplained,
            "came in incidents whose cause is not known: it is not known what helps",
        ),
        (errors.unknown, "came with no incident and nothing that was sampled: single errors"),
    ];
    parts.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
    let told = parts.into_iter().filter(|(n, _)| *n > 0);
    told.map(|(n, what)| {
        let share = words::percent(n as f64 / errors.n.max(n) as f64);
        format!("Of {} with gateway errors {n} ({share}) {what}.", words::n_of(errors.n, "minute"))
    })
    .collect()
}
