//! The figures that advice weighs, out of what a server needs. Pure.
//!
//! Invariant: every number in here is finite and not below 0; what is not so counts as not known.

use super::current::Current;
use super::{Headroom, Resource, words};
use crate::report::need::{Demand, Need, Size};
use crate::report::plans::Plan;

/// Room that is left above what counts.
pub(super) const MARGIN: f64 = 1.15;
/// Share of a plan that may be used with that room.
pub(super) const FULL: f64 = 0.8;
/// Room that a smaller plan must leave above p99.5.
pub(super) const DOWN_MARGIN: f64 = 1.3;
/// Days of history that any advice needs, and a smaller plan.
pub(super) const DAYS_MIN: f64 = 7.0;
pub(super) const DAYS_DOWN_MIN: f64 = 14.0;
/// Share of the hours that must have samples for any advice, and for a smaller plan.
pub(super) const COVERAGE_MIN: f64 = 0.5;
pub(super) const COVERAGE_DOWN_MIN: f64 = 0.8;
/// Share of a disk that may be used in the end.
pub(super) const DISK_FULL: f64 = 0.9;
/// Days for which a disk of a larger plan must last, and of a smaller one.
pub(super) const DISK_UP_DAYS: f64 = 90.0;
pub(super) const DISK_DOWN_DAYS: f64 = 180.0;
/// Space that is more than the likeliest use of memory after a kill: a fifth or 100 MiB, the larger.
const OOM_SHARE: f64 = 1.2;
const OOM_BYTES: f64 = 100.0 * 1_048_576.0;
/// First and last hours are seldom whole.
const HOUR_DAYS: f64 = 1.0 / 24.0;

/// What one server used, has and needs.
pub(super) struct Figures<'a> {
    pub(super) need: &'a Need,
    pub(super) n_days: f64,
    pub(super) coverage: f64,
    /// Whether its disk is the one that plans have.
    pub(super) has_plan_disk: bool,
    has: [Option<f64>; 3],
    demands: [Demand; 3],
}

impl<'a> Figures<'a> {
    pub(super) fn new(need: &'a Need, current: &Current<'a>) -> Self {
        let plan = current.plan;
        let has = sane_size(&need.has);
        let has = [
            has.vcpu.or(plan.map(|plan| plan.vcpu)),
            has.memory_bytes.or(plan.map(|plan| plan.memory_bytes as f64)),
            has.disk_bytes.or(plan.map(|plan| plan.disk_bytes as f64)),
        ];
        Self {
            need,
            n_days: sane(Some(need.n_days)).unwrap_or_default(),
            coverage: sane(Some(need.coverage)).unwrap_or_default().min(1.0),
            has_plan_disk: current.has_plan_disk(has[Resource::Disk as usize]),
            has,
            demands: [&need.vcpu, &need.memory, &need.disk].map(sane_demand),
        }
    }

    /// What there is now.
    pub(super) fn has(&self, resource: Resource) -> Option<f64> {
        self.has[resource as usize]
    }

    pub(super) fn demand(&self, resource: Resource) -> &Demand {
        &self.demands[resource as usize]
    }

    /// What counts as used: p99.5 of memory, as what does not fit is killed, p95 of the others.
    pub(super) fn counted(&self, resource: Resource) -> Option<f64> {
        let demand = self.demand(resource);
        match resource {
            Resource::Memory => demand.p995.or(demand.p95),
            Resource::Cpu | Resource::Disk => demand.p95,
        }
    }

    /// How much more than what was seen a short history may hide.
    pub(super) fn upper(&self) -> f64 {
        1.0 + 1.0 / self.n_days.max(1.0)
    }

    /// How much less the true demand may be.
    pub(super) fn lower(&self) -> f64 {
        (1.0 + 0.001 / self.n_days.max(1.0)).powi(-2)
    }

    /// Growth of the disk a day, bytes, by the days until it is full.
    pub(super) fn disk_growth(&self) -> f64 {
        let used = self.counted(Resource::Disk);
        match (self.days_to_full(), self.has(Resource::Disk), used) {
            (Some((_, days, _)), Some(has), Some(used)) if days >= 1.0 => {
                ((0.95 * has - used) / days).max(0.0)
            }
            _ => 0.0,
        }
    }

    pub(super) fn days_to_full(&self) -> Option<(f64, f64, f64)> {
        let (low, mid, high) = self.need.days_to_full?;
        Some((sane(Some(low))?, sane(Some(mid))?, high.max(mid)))
    }

    /// What is needed at least with room to spare, more than there is of what is short.
    pub(super) fn needs(&self, short: &[Resource]) -> Size {
        let floor = |resource: Resource| {
            let used = self.counted(resource).map(|used| self.upper() * used);
            let next = self.demand(resource).next_p95.map(|(_, mid, _)| mid);
            let room = match resource {
                Resource::Disk => {
                    let later = used.map(|used| used + DISK_UP_DAYS * self.disk_growth());
                    later.map(|later| later / DISK_FULL)
                }
                _ => most(used, next).map(|used| used * MARGIN / FULL),
            };
            let is_short = short.contains(&resource);
            let grown = self.has(resource).filter(|_| is_short).map(|has| MARGIN * has);
            most(room, most(grown, self.after_kills(resource).filter(|_| is_short)))
        };
        Size {
            vcpu: floor(Resource::Cpu),
            memory_bytes: floor(Resource::Memory),
            disk_bytes: floor(Resource::Disk).filter(|_| self.has_plan_disk),
        }
    }

    /// Memory after the kernel killed: all that there was did not do.
    fn after_kills(&self, resource: Resource) -> Option<f64> {
        let is_killed = resource == Resource::Memory && self.need.n_oom_kills > 0;
        let has = self.has(resource).filter(|_| is_killed)?;
        Some((OOM_SHARE * has).max(has + OOM_BYTES))
    }

    /// What is left now, and on another plan.
    pub(super) fn headroom(&self, to: Option<&Plan>) -> [Headroom; 3] {
        Resource::ALL.map(|resource| {
            let (used, has) = (self.counted(resource), self.has(resource));
            let is_other = resource == Resource::Disk && !self.has_plan_disk;
            let next = to.map(|to| plan_size(to, resource)).filter(|_| !is_other).or(has);
            let left = |of: Option<f64>| Some(1.0 - used? / of?);
            Headroom { resource, used, has, now: left(has), next, after: left(next) }
        })
    }

    /// Why the figures support no advice; `None`: they do.
    pub(super) fn why_too_little(&self) -> Option<Vec<String>> {
        let mut why = Vec::new();
        if self.is_shorter_than(DAYS_MIN) {
            why.push(format!(
                "Its history of {} is too short: advice needs {}.",
                words::days(self.n_days),
                words::days(DAYS_MIN)
            ));
        }
        if self.coverage < COVERAGE_MIN {
            why.push(format!(
                "Only {} of the hours of its history have samples: advice needs {}.",
                words::percent(self.coverage),
                words::percent(COVERAGE_MIN)
            ));
        }
        let is_known = |resource| self.counted(resource).is_some() && self.has(resource).is_some();
        if !is_known(Resource::Cpu) && !is_known(Resource::Memory) {
            why.push(
                "Neither how busy its processors were nor how full its memory was is known.".into(),
            );
        }
        for resource in [Resource::Cpu, Resource::Memory] {
            let (Some(used), Some(has)) = (self.counted(resource), self.has(resource)) else {
                continue;
            };
            if used > 1.05 * has {
                why.push(format!(
                    "It used {}, more than the {} that it has now: its size changed in this time.",
                    words::amount_of(resource, used),
                    words::quantity(resource, has)
                ));
            }
        }
        (!why.is_empty()).then_some(why)
    }

    /// What would make advice possible.
    pub(super) fn what_is_missing(&self) -> String {
        if self.is_shorter_than(DAYS_MIN) {
            let days = (DAYS_MIN - self.n_days).ceil().max(1.0);
            format!("Ask for a longer time, or again in {}.", words::days(days))
        } else if self.coverage < COVERAGE_MIN {
            "Find out why its agent was away so often, or ask for a time without the gaps."
                .to_owned()
        } else if self
            .why_too_little()
            .is_some_and(|why| why.iter().any(|why| why.contains("size changed")))
        {
            "Ask for the time since then with --from.".to_owned()
        } else {
            "See with `agent show` what its agent reports.".to_owned()
        }
    }

    pub(super) fn is_shorter_than(&self, days: f64) -> bool {
        self.n_days + HOUR_DAYS < days
    }

    /// How full everything is, in one sentence.
    pub(super) fn why_it_fits(&self) -> Option<String> {
        let part = |resource: Resource| {
            let (used, has) = (self.counted(resource)?, self.has(resource)?);
            let share = words::percent(used / has);
            Some(match resource {
                Resource::Cpu => {
                    format!("{} of {} ({share})", words::number(used), words::processors(has))
                }
                Resource::Memory => {
                    format!("{} of {} of memory ({share})", words::bytes(used), words::bytes(has))
                }
                Resource::Disk => {
                    format!("{} of {} of disk ({share})", words::bytes(used), words::bytes(has))
                }
            })
        };
        let parts: Vec<String> = Resource::ALL.into_iter().filter_map(part).collect();
        let (last, first) = parts.split_last()?;
        let list = if first.is_empty() {
            last.clone()
        } else {
            format!("{} and {last}", first.join(", "))
        };
        Some(format!("Nearly always it uses no more than {list}."))
    }

    /// Whether the kernel tells what waited for processors and memory.
    pub(super) fn knows_waits(&self) -> bool {
        self.need.cpu_waited.is_some() && self.need.memory_waited.is_some()
    }
}

/// What a plan has of a resource.
pub(super) fn plan_size(plan: &Plan, resource: Resource) -> f64 {
    match resource {
        Resource::Cpu => plan.vcpu,
        Resource::Memory => plan.memory_bytes as f64,
        Resource::Disk => plan.disk_bytes as f64,
    }
}

/// A size without what cannot be one.
pub(super) fn sane_size(size: &Size) -> Size {
    let some = |value: Option<f64>, least: f64| sane(value).filter(|value| *value >= least);
    Size {
        vcpu: some(size.vcpu, 0.01),
        memory_bytes: some(size.memory_bytes, 1e6),
        disk_bytes: some(size.disk_bytes, 1e6),
    }
}

/// A number that can be one.
pub(super) fn sane(value: Option<f64>) -> Option<f64> {
    value.filter(|value| (0.0..=1e18).contains(value))
}

fn sane_demand(demand: &Demand) -> Demand {
    let next = demand
        .next_p95
        .and_then(|(low, mid, high)| Some((sane(Some(low))?, sane(Some(mid))?, sane(Some(high))?)));
    Demand {
        p50: sane(demand.p50),
        p95: sane(demand.p95),
        p995: sane(demand.p995),
        max: sane(demand.max),
        max_35d: sane(demand.max_35d),
        next_p95: next,
    }
}

fn most(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}
