//! Which plan of the catalogue: the cheapest that fits. Pure.

use super::current::Current;
use super::figures::{
    COVERAGE_DOWN_MIN, DAYS_DOWN_MIN, DISK_DOWN_DAYS, DISK_FULL, DOWN_MARGIN, FULL, Figures,
    MARGIN, plan_size, sane,
};
use super::{Advice, Resource, words};
use crate::report::need::Size;
use crate::report::plans::{Catalogue, Plan};

/// Share of the price that a smaller plan must save.
const SAVING_MIN: f64 = 0.05;
/// Share of a smaller plan that its fullest hour may fill.
const PEAK: f64 = 0.9;
/// Share of a smaller plan's memory that the largest sample may fill.
const MEMORY_PEAK: f64 = 0.95;
/// Share of the minutes with waiting for disks above which nothing is made smaller.
const IO_WAITED: f64 = 0.01;
/// A disk counts as kept from this share on: file systems take some, and GB are not GiB.
const KEPT: f64 = 0.98;

/// The cheapest plan that has all that is needed and nothing less than now; of the same provider if any.
pub(super) fn larger<'a>(
    figures: &Figures<'_>,
    catalogue: &'a Catalogue,
    current: &Current<'_>,
    short: &[Resource],
) -> Option<&'a Plan> {
    let needs = figures.needs(short);
    let is_enough = |plan: &Plan, resource: Resource| {
        let size = plan_size(plan, resource);
        let kept = figures.has(resource).map(|has| KEPT * has);
        let floor = of_size(&needs, resource);
        let is_left_out = resource == Resource::Disk && !figures.has_plan_disk;
        // What is not short now is not short with as much as now.
        let floor = if short.contains(&resource) { floor.or(kept) } else { kept.or(floor) };
        is_left_out || floor.is_none_or(|floor| size >= floor)
    };
    let fits = |plan: &&Plan| {
        !current.is(plan) && Resource::ALL.into_iter().all(|resource| is_enough(plan, resource))
    };
    let all = || catalogue.plans.iter().filter(fits);
    match current.provider {
        Some(_) => {
            cheapest(all().filter(|plan| plan.is_of(current.provider))).or_else(|| cheapest(all()))
        }
        None => cheapest(all()),
    }
}

/// What is to be said about a larger plan, or that there is none.
pub(super) fn about_larger(
    figures: &Figures<'_>,
    catalogue: &Catalogue,
    current: &Current<'_>,
    advice: &Advice,
) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    if !figures.has_plan_disk {
        told.push(other_disk(figures));
    }
    let Some(to) = &advice.to else {
        if !catalogue.plans.is_empty() {
            told.push(format!(
                "It needs at least {}; no plan of the catalogue has that.",
                words::needs(&advice.needs)
            ));
        }
        return told;
    };
    let is_other = current.provider.is_some() && !to.is_of(current.provider);
    let why = if is_other {
        format!(
            "is the cheapest that fits, as no plan of {} does",
            current.provider.unwrap_or_default()
        )
    } else {
        "is the cheapest that fits".to_owned()
    };
    let left = figures.headroom(Some(to)).map(|headroom| (headroom.resource, headroom.after));
    let left: Vec<String> = left
        .into_iter()
        .filter_map(|(resource, after)| Some((resource, after?)))
        .map(|(resource, after)| format!("{} of its {}", words::percent(after), resource.name()))
        .collect();
    told.push(format!("{} {why}; it leaves {} free.", words::plan(to), words::list(&left)));
    told
}

/// The cheapest plan of the same provider that still fits, or why there is none: a sentence each.
pub(super) fn smaller<'a>(
    figures: &Figures<'_>,
    catalogue: &'a Catalogue,
    current: &Current<'_>,
) -> Result<&'a Plan, Vec<String>> {
    if catalogue.plans.is_empty() {
        return Err(Vec::new());
    }
    let lacks = why_nothing_smaller(figures, current);
    if !lacks.is_empty() {
        return Err(lacks);
    }
    let ratio = |plan: &Plan, resource| {
        figures.has(resource).map_or(1.0, |has| plan_size(plan, resource) / has)
    };
    let is_smaller = |plan: &&Plan| {
        let ratios = [ratio(plan, Resource::Cpu), ratio(plan, Resource::Memory)];
        let is_less =
            ratios.iter().all(|ratio| *ratio <= 1.02) && ratios.iter().any(|ratio| *ratio < PEAK);
        current.plan.map_or(is_less, |own| plan.price < own.price && !current.is(plan))
    };
    let of_provider = |plan: &&Plan| plan.is_of(current.provider);
    let smaller = || catalogue.plans.iter().filter(of_provider).filter(is_smaller);
    if let Some(plan) = cheapest(smaller().filter(|plan| why_not(figures, plan).is_none())) {
        let saves = current.plan.map(|own| (own.price - plan.price) / own.price);
        return match saves {
            Some(saves) if saves < SAVING_MIN => Err(vec![format!(
                "{} would do as well, but saves only {}.",
                words::plan(plan),
                words::percent(saves)
            )]),
            _ => Ok(plan),
        };
    }
    let nearest = smaller().max_by(|a, b| a.price.total_cmp(&b.price));
    Err(match nearest.and_then(|plan| Some((plan, why_not(figures, plan)?))) {
        Some((plan, why)) => vec![format!("{} would be too small: {why}.", words::plan(plan))],
        None => match current.provider {
            Some(provider) => vec![format!("{provider} has no smaller plan in the catalogue.")],
            None => vec!["The catalogue has no smaller plan.".to_owned()],
        },
    })
}

/// What is to be said about a smaller plan.
pub(super) fn about_smaller(
    figures: &Figures<'_>,
    current: &Current<'_>,
    plan: &Plan,
) -> Vec<String> {
    if current.plan.is_some_and(|own| plan.is_as_large_as(own)) {
        return vec![format!("{} has no less of anything and costs less.", words::plan(plan))];
    }
    let p995 = |resource: Resource| {
        let size = plan_size(plan, resource);
        let used = figures.demand(resource).p995?;
        Some(match resource {
            Resource::Cpu => {
                format!("{} of {}", words::number(DOWN_MARGIN * used), words::processors(size))
            }
            _ => {
                format!("{} of {} of memory", words::bytes(DOWN_MARGIN * used), words::bytes(size))
            }
        })
    };
    let parts: Vec<String> =
        [Resource::Cpu, Resource::Memory].into_iter().filter_map(p995).collect();
    let mut told = vec![format!(
        "{} is the cheapest that fits: 995 of 1,000 minutes with 30 % to spare take {}, nothing waited, and no \
         hour of the last 35 days would fill it.",
        words::plan(plan),
        words::list(&parts)
    )];
    if !figures.has_plan_disk {
        told.push(other_disk(figures));
    } else if figures.has(Resource::Disk).is_some_and(|has| (plan.disk_bytes as f64) < KEPT * has) {
        told.push(
            "Its disk would be smaller: where the provider cannot shrink it, this takes a new server and a move."
                .to_owned(),
        );
    }
    if current.plan.is_none() {
        told.push("What it saves is not known, as its plan of now is not.".to_owned());
    }
    told
}

fn other_disk(figures: &Figures<'_>) -> String {
    let has = figures.has(Resource::Disk).map(words::bytes).unwrap_or_default();
    format!("Its disk of {has} is larger than that of its plan, so disks of plans are left out.")
}

/// What forbids any smaller plan.
fn why_nothing_smaller(figures: &Figures<'_>, current: &Current<'_>) -> Vec<String> {
    let mut why = Vec::new();
    if figures.is_shorter_than(DAYS_DOWN_MIN) {
        why.push(format!(
            "A smaller plan takes {} of history; there are {}.",
            words::days(DAYS_DOWN_MIN),
            words::days(figures.n_days)
        ));
    }
    if figures.coverage < COVERAGE_DOWN_MIN {
        why.push(format!(
            "A smaller plan takes samples in {} of the hours; {} have some.",
            words::percent(COVERAGE_DOWN_MIN),
            words::percent(figures.coverage)
        ));
    }
    if let Some(share) = sane(figures.need.io_waited).filter(|share| *share > IO_WAITED) {
        why.push(format!(
            "In {} of the minutes something waited for a disk: a smaller plan would make that worse.",
            words::percent(share)
        ));
    }
    for resource in [Resource::Cpu, Resource::Memory] {
        if figures.demand(resource).p995.is_none() || figures.has(resource).is_none() {
            let name = words::usage(resource);
            why.push(format!("Whether a smaller plan fits is not known, as {name} is not."));
        }
    }
    if current.plan.is_none() && current.provider.is_none() && why.is_empty() {
        why.push(
            "Which smaller plan it can have is not known: give it the labels plan and provider."
                .into(),
        );
    }
    why
}

/// Why this plan is too small; `None`: it fits.
fn why_not(figures: &Figures<'_>, plan: &Plan) -> Option<String> {
    Resource::ALL.into_iter().find_map(|resource| {
        let size = plan_size(plan, resource);
        // As much as now does, as nothing is short now.
        if figures.has(resource).is_some_and(|has| size >= KEPT * has) {
            return None;
        }
        match resource {
            Resource::Disk if !figures.has_plan_disk => None,
            Resource::Disk => why_not_disk(figures, size),
            _ => why_not_of(figures, resource, size),
        }
    })
}

fn why_not_of(figures: &Figures<'_>, resource: Resource, size: f64) -> Option<String> {
    let demand = figures.demand(resource);
    let of = words::amount_of(resource, size);
    let shown = |quantity: f64| words::quantity(resource, quantity);
    let p995 = demand.p995?;
    if p995 * DOWN_MARGIN * figures.upper() > size {
        return Some(format!(
            "995 of 1,000 minutes take up to {}; with 30 % to spare, and what {} may hide, that is {} of {of}",
            words::amount_of(resource, p995),
            words::days(figures.n_days),
            shown(p995 * DOWN_MARGIN * figures.upper())
        ));
    }
    let used = figures.counted(resource)? * MARGIN * figures.upper();
    if used > FULL * size {
        let name = resource.name();
        return Some(format!("its {name} would be more than {} full", words::percent(FULL)));
    }
    if let Some((_, _, high)) = demand.next_p95.filter(|(_, _, high)| high * MARGIN > FULL * size) {
        return Some(format!("next week it may take {} of {of}", shown(high)));
    }
    if let Some(peak) = demand.max_35d.filter(|peak| *peak > PEAK * size) {
        return Some(format!("in the last 35 days an hour took {} of {of}", shown(peak)));
    }
    let largest =
        demand.max.filter(|max| resource == Resource::Memory && *max > MEMORY_PEAK * size);
    largest.map(|max| format!("once {} of {of} were in use", shown(max)))
}

fn why_not_disk(figures: &Figures<'_>, size: f64) -> Option<String> {
    let Some(used) = figures.counted(Resource::Disk) else {
        return Some("how full its disk is is not known".to_owned());
    };
    let later = used + DISK_DOWN_DAYS * figures.disk_growth();
    let of = words::bytes(size);
    if used * DOWN_MARGIN > size {
        return Some(format!(
            "its disk holds {}; with 30 % to spare that is more than {of}",
            words::bytes(used)
        ));
    }
    (later > DISK_FULL * size).then(|| {
        format!(
            "in {} its disk will hold {} of {of}",
            words::days(DISK_DOWN_DAYS),
            words::bytes(later)
        )
    })
}

/// The cheapest; of several the one with more memory, then with more processors, then by name.
fn cheapest<'a>(plans: impl Iterator<Item = &'a Plan>) -> Option<&'a Plan> {
    plans.min_by(|a, b| {
        let by_price = a.price.total_cmp(&b.price);
        let by_memory = b.memory_bytes.cmp(&a.memory_bytes);
        let by_vcpu = b.vcpu.total_cmp(&a.vcpu);
        by_price.then(by_memory).then(by_vcpu).then_with(|| a.name.cmp(&b.name))
    })
}

fn of_size(size: &Size, resource: Resource) -> Option<f64> {
    match resource {
        Resource::Cpu => size.vcpu,
        Resource::Memory => size.memory_bytes,
        Resource::Disk => size.disk_bytes,
    }
}
