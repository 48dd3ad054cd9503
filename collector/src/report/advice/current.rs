//! Which plan of the catalogue a server is on. Pure.

use super::{figures, words};
use crate::report::need::{Need, Size};
use crate::report::plans::{Catalogue, Plan};

/// Share of a plan's memory that a server may see of it: the kernel keeps some.
const MEMORY: std::ops::RangeInclusive<f64> = 0.8..=1.02;
/// The same of its disk: the file system and other partitions keep some.
const DISK: std::ops::RangeInclusive<f64> = 0.8..=1.02;

/// The plan of a server, as far as it is known.
pub(super) struct Current<'a> {
    /// The plan.
    pub(super) plan: Option<&'a Plan>,
    /// Whose it is: by the label, or by the plan.
    pub(super) provider: Option<&'a str>,
    /// Why the plan is not known or not sure, a sentence.
    pub(super) doubt: Option<String>,
    /// Whether the plan was found by its size alone.
    pub(super) is_by_size: bool,
}

/// The plan of this server: by its labels, else by its size where one plan alone has it.
pub(super) fn of<'a>(need: &'a Need, catalogue: &'a Catalogue) -> Current<'a> {
    let label = |name: &str| {
        let text = need.labels.get(name).map(String::as_str).map(str::trim);
        text.filter(|text| !text.is_empty())
    };
    let provider = label("provider");
    let has = figures::sane_size(&need.has);
    let mut current = Current { plan: None, provider, doubt: None, is_by_size: false };
    if catalogue.plans.is_empty() {
        return current;
    }
    if let Some(name) = label("plan") {
        match catalogue.find(name, provider) {
            Some(plan) if is_size(plan, &has, false) => current.plan = Some(plan),
            Some(plan) => current.doubt = Some(words::wrong_label(plan, &has)),
            None => {
                let of = provider.map(|of| format!(" of {of}")).unwrap_or_default();
                let what = format!("Its plan {name:?}{of} is not in the catalogue");
                current.doubt = Some(format!("{what}, so what it costs is not known."));
            }
        }
    } else {
        let mut fitting = catalogue.plans.iter().filter(|plan| {
            let is_of = provider.is_none() || plan.is_of(provider);
            is_of && has.vcpu.is_some() && has.memory_bytes.is_some() && is_size(plan, &has, true)
        });
        let (first, second) = (fitting.next(), fitting.next());
        current.plan = first.filter(|_| second.is_none());
        current.is_by_size = current.plan.is_some();
        current.doubt = Some(match (first, second) {
            (Some(plan), None) => {
                format!("It has no label plan; {} is the only plan of its size.", words::plan(plan))
            }
            (Some(_), Some(_)) => {
                "It has no label plan, and several plans have its size, so what it \
                                   costs is not known."
                    .to_owned()
            }
            _ => "It has no label plan, and no plan has its size, so what it costs is not known."
                .to_owned(),
        });
    }
    current.provider = provider.or(current.plan.and_then(|plan| plan.provider.as_deref()));
    current
}

/// Whether a server of this size can be on this plan; what is not known does not speak against it.
fn is_size(plan: &Plan, has: &Size, with_disk: bool) -> bool {
    let is_in = |has: Option<f64>, of: u64, range: &std::ops::RangeInclusive<f64>| {
        has.is_none_or(|has| range.contains(&(has / of as f64)))
    };
    has.vcpu.is_none_or(|vcpu| (vcpu - plan.vcpu).abs() < 0.01)
        && is_in(has.memory_bytes, plan.memory_bytes, &MEMORY)
        && (!with_disk || is_in(has.disk_bytes, plan.disk_bytes, &DISK))
}

impl Current<'_> {
    /// Whether this plan is the server's own.
    pub(super) fn is(&self, plan: &Plan) -> bool {
        self.plan.is_some_and(|own| own == plan)
    }

    /// Whether the server's disk is the one of plans: a volume of its own is none of their business.
    pub(super) fn has_plan_disk(&self, disk_bytes: Option<f64>) -> bool {
        match (self.plan, disk_bytes) {
            (Some(plan), Some(bytes)) => bytes <= *DISK.end() * plan.disk_bytes as f64,
            _ => true,
        }
    }
}
