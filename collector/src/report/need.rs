//! What a server needs of a plan: the figures that advice is made of. Pure data.

use std::collections::BTreeMap;

/// What one server used and how it fared, over the time of a report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Need {
    /// Its name.
    pub server: String,
    /// Its labels: `plan` and `provider` name what it runs on, where somebody set them.
    pub labels: BTreeMap<String, String>,
    /// What it has now.
    pub has: Size,
    /// Days from its first to its last hour with samples.
    pub n_days: f64,
    /// Share of the hours of those days that have samples, 0..=1.
    pub coverage: f64,
    /// Processors it kept busy.
    pub vcpu: Demand,
    /// Memory it used, bytes.
    pub memory: Demand,
    /// Space used on its disk, bytes.
    pub disk: Demand,
    /// Share of the minutes in which more than 10 % of the time something waited for a processor.
    pub cpu_waited: Option<f64>,
    /// The same for memory.
    pub memory_waited: Option<f64>,
    /// The same for disks.
    pub io_waited: Option<f64>,
    /// Share of the minutes in which more than 10 % of the processors' time was stolen.
    pub steal_high: Option<f64>,
    /// How often the kernel killed for want of memory.
    pub n_oom_kills: u64,
    /// Days until the disk is 95 % full: low, likeliest, high of eight cases in ten; `None`: not in 180 days,
    /// or not known.
    pub days_to_full: Option<(f64, f64, f64)>,
    /// What its minutes with gateway errors came with.
    pub errors: ErrorMinutes,
}

/// A size of a machine; what is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    /// Processors.
    pub vcpu: Option<f64>,
    /// Memory, bytes.
    pub memory_bytes: Option<f64>,
    /// Disk, bytes.
    pub disk_bytes: Option<f64>,
}

/// How much of something was used, in its own unit, by the means of minutes; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Half of the minutes are below.
    pub p50: Option<f64>,
    /// 95 of 100 minutes are below.
    pub p95: Option<f64>,
    /// 995 of 1,000 minutes are below.
    pub p995: Option<f64>,
    /// The largest sample.
    pub max: Option<f64>,
    /// The largest of the last 35 days.
    pub max_35d: Option<f64>,
    /// What next week's p95 is expected to be: low, likeliest, high of eight cases in ten.
    pub next_p95: Option<(f64, f64, f64)>,
}

/// Minutes in which a site of the server answered with a gateway error, by what they came with. Each
/// minute counts once, under the first that holds, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorMinutes {
    /// All.
    pub n: u64,
    /// Processors were stolen: no plan helps, the provider owes it.
    pub steal: u64,
    /// Memory was full, or the kernel killed for want of it.
    pub memory_full: u64,
    /// All children of the pool were busy while memory was free: `pm.max_children` can be raised.
    pub exhausted: u64,
    /// The processors were saturated.
    pub cpu_full: u64,
    /// The disk was full or saturated.
    pub disk: u64,
    /// A service was down or restarted.
    pub service: u64,
    /// The code of a site: a timeout, a crash or an endless answer, with room on the server.
    pub site_code: u64,
    /// A flood of requests: no plan helps.
    pub attack: u64,
    /// The network, a packet filter, or a name that did not resolve.
    pub network: u64,
    /// A configuration that points at nothing, or may not open it.
    pub config: u64,
    /// More requests than the pool or the server could take, as an incident says.
    pub overload: u64,
    /// An incident whose cause is not known.
    pub unexplained: u64,
    /// No incident, and nothing that was sampled tells.
    pub unknown: u64,
}
