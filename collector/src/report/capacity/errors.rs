//! What minutes with gateway errors came with: that tells what helps, and what does not. Pure.

use super::columns::{figure, key, section, table, text};
use super::input::Input;
use crate::report::document::{Section, Unit, Value};
use crate::report::need::ErrorMinutes;

/// Stolen time above which a minute is the provider's.
pub const STEAL: f64 = 0.1;
/// Memory in use above which it is full.
pub const MEMORY: f64 = 0.95;
/// Busy children, of those there may be, above which a pool is exhausted by the mean of a minute.
pub const CHILDREN: f64 = 0.95;
/// Busy processors above which they are saturated.
pub const CPU: f64 = 0.95;
/// Disk space or inodes in use above which a file system is full.
pub const DISK: f64 = 0.99;
/// Share of the time in which something waited for a disk above which it is saturated.
pub const IO: f64 = 0.5;

/// What a minute came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CameWith {
    /// Stolen processors.
    Steal,
    /// Full memory.
    MemoryFull,
    /// A flood of requests.
    Attack,
    /// Busy children while memory was free.
    Exhausted,
    /// Busy processors.
    CpuFull,
    /// A full or busy disk.
    Disk,
    /// A service that was down.
    Service,
    /// The network, a packet filter or the names.
    Network,
    /// A wrong configuration.
    Config,
    /// The code of a site.
    SiteCode,
    /// More requests than could be taken.
    Overload,
    /// An incident whose cause is not known.
    Unexplained,
    /// None of it.
    Unknown,
}

impl CameWith {
    /// All of them, in the order in which the first that holds counts.
    pub const ALL: [Self; 13] = [
        Self::Steal,
        Self::MemoryFull,
        Self::Attack,
        Self::Exhausted,
        Self::CpuFull,
        Self::Disk,
        Self::Service,
        Self::Network,
        Self::Config,
        Self::SiteCode,
        Self::Overload,
        Self::Unexplained,
        Self::Unknown,
    ];

    /// How many of these minutes came with it.
    #[must_use]
    pub fn of(self, minutes: &ErrorMinutes) -> u64 {
        match self {
            Self::Steal => minutes.steal,
            Self::MemoryFull => minutes.memory_full,
            Self::Attack => minutes.attack,
            Self::Exhausted => minutes.exhausted,
            Self::CpuFull => minutes.cpu_full,
            Self::Disk => minutes.disk,
            Self::Service => minutes.service,
            Self::Network => minutes.network,
            Self::Config => minutes.config,
            Self::SiteCode => minutes.site_code,
            Self::Overload => minutes.overload,
            Self::Unexplained => minutes.unexplained,
            Self::Unknown => minutes.unknown,
        }
    }

    /// Counts `n` minutes that came with it.
    pub fn add(self, minutes: &mut ErrorMinutes, n: u64) {
        minutes.n += n;
        *match self {
            Self::Steal => &mut minutes.steal,
            Self::MemoryFull => &mut minutes.memory_full,
            Self::Attack => &mut minutes.attack,
            Self::Exhausted => &mut minutes.exhausted,
            Self::CpuFull => &mut minutes.cpu_full,
            Self::Disk => &mut minutes.disk,
            Self::Service => &mut minutes.service,
            Self::Network => &mut minutes.network,
            Self::Config => &mut minutes.config,
            Self::SiteCode => &mut minutes.site_code,
            Self::Overload => &mut minutes.overload,
            Self::Unexplained => &mut minutes.unexplained,
            Self::Unknown => &mut minutes.unknown,
        } += n;
    }

    /// What a report calls it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Steal => "stolen processors",
            Self::MemoryFull => "full memory",
            Self::Attack => "a flood of requests",
            Self::Exhausted => "exhausted children, memory free",
            Self::CpuFull => "busy processors",
            Self::Disk => "full or busy disk",
            Self::Service => "a service down",
            Self::Network => "the network or names",
            Self::Config => "a wrong configuration",
            Self::SiteCode => "code of a site",
            Self::Overload => "more requests than fit",
            Self::Unexplained => "an incident of unknown cause",
            Self::Unknown => "no incident, and nothing that was sampled",
        }
    }

    /// What helps.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Steal => "no plan helps: the provider owes it, ask for a move to another host",
            Self::MemoryFull => "more memory: see the advice about plans",
            Self::Attack => "no plan helps: limit or block who floods, see the outage report",
            Self::Exhausted => "raise pm.max_children as the table of pools says",
            Self::CpuFull => "more processors, or less work: see the advice about plans",
            Self::Disk => "free or add space, or a faster disk",
            Self::Service => "no plan helps: see the outage report for what went down",
            Self::Network => "no plan helps: see the outage report for what could not be reached",
            Self::Config => "no plan helps: the configuration has to be mended",
            Self::SiteCode => "no plan helps: the site's owner has to mend its code",
            Self::Overload => "more children or processors: see pools, and the advice about plans",
            Self::Unexplained => "see the outage report",
            Self::Unknown => "a look at their sites, which the noise report names",
        }
    }
}

/// What is known of a minute, or of the fullest part of an hour; `None`: it was not sampled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Minute<'a> {
    /// Stolen time, share.
    pub steal: Option<f64>,
    /// Memory in use, share.
    pub memory: Option<f64>,
    /// The kernel killed for want of memory.
    pub has_oom: bool,
    /// Busy children of those there may be, of the fullest pool that answers for a failing site.
    pub children: Option<f64>,
    /// A pool's children were all busy while somebody waited.
    pub has_exhausted: bool,
    /// Busy processors, share.
    pub cpu: Option<f64>,
    /// The fullest file system, by space or inodes, share.
    pub disk: Option<f64>,
    /// Time in which something waited for a disk, share.
    pub io: Option<f64>,
    /// Classes of the causes of the incidents that a failing site was inside of.
    pub verdicts: &'a [&'a str],
}

/// The first that holds, in the order of [`CameWith::ALL`].
#[must_use]
pub fn classify(minute: &Minute<'_>) -> CameWith {
    let above = |value: Option<f64>, limit: f64| value.is_some_and(|value| value > limit);
    let is_said = |classes: &[&str]| minute.verdicts.iter().any(|said| classes.contains(said));
    let holds = |with: CameWith| match with {
        CameWith::Steal => above(minute.steal, STEAL) || is_said(&["steal"]),
        CameWith::MemoryFull => above(minute.memory, MEMORY) || minute.has_oom || is_said(&["oom"]),
        CameWith::Attack => is_said(&["ddos"]),
        CameWith::Exhausted => above(minute.children, CHILDREN) || minute.has_exhausted,
        CameWith::CpuFull => above(minute.cpu, CPU),
        CameWith::Disk => {
            above(minute.disk, DISK) || above(minute.io, IO) || is_said(&["disk_full"])
        }
        CameWith::Service => is_said(&["service_down"]),
        CameWith::Network => is_said(&["network", "firewall", "dns"]),
        CameWith::Config => is_said(&["misconfig"]),
        CameWith::SiteCode => is_said(&["site_code", "timeout", "crash"]),
        CameWith::Overload => is_said(&["overload"]),
        // A class that a later release knows is none of these either.
        CameWith::Unexplained => !minute.verdicts.is_empty(),
        CameWith::Unknown => true,
    };
    CameWith::ALL.into_iter().find(|with| holds(*with)).unwrap_or(CameWith::Unknown)
}

/// The table: what the minutes with gateway errors of each server came with.
pub(super) fn section_of(input: &Input) -> Section {
    let mut rows = Vec::new();
    for server in input.servers.values() {
        for with in CameWith::ALL {
            let n = with.of(&server.errors);
            if n > 0 {
                rows.push(vec![
                    text(&server.name),
                    text(with.words()),
                    Value::Count(n),
                    Value::Number(n as f64 / server.errors.n.max(1) as f64),
                    text(with.remedy()),
                ]);
            }
        }
    }
    let columns = vec![
        key("server", "server", "Name of the server."),
        key(
            "came_with",
            "came with",
            "The first that holds: stolen processors (more than 10 % of the minute), full memory (more than \
             95 % in use, or an OOM kill), a flood of requests, exhausted children (more than 95 % of \
             pm.max_children busy, or all while somebody waited), busy processors (more than 95 %), full or \
             busy disk (99 % of space or inodes, or something waited for it half of the time), a service \
             down, the network or names (a packet filter and DNS too), a wrong configuration, code of a site \
             (a timeout or a crash too), more requests than fit, an incident of unknown cause, no incident. \
             Each but exhausted children and busy processors holds as well where an incident has this cause \
             that a failing site was inside of.",
        ),
        figure(
            "minutes",
            "minutes",
            Unit::Minutes,
            "Minutes in which a site of the server answered 502, 503 or 504. Before samples are kept they are \
             known by the hour: the most of any site, under what held in at least half as many minutes of \
             that hour, incidents of a site that failed in it too.",
        ),
        figure("share", "share", Unit::Share, "Of all minutes with gateway errors of the server."),
        figure("remedy", "what helps", Unit::Text, "What helps against minutes that came with it."),
    ];
    let title = ("error_minutes", "What minutes with gateway errors came with");
    section(
        ("errors", "Gateway errors and what they came with"),
        &[],
        vec![table(title, columns, rows, "No gateway errors in this time.")],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(minute: Minute<'_>, want: CameWith) {
        assert_eq!(classify(&minute), want, "{minute:?}");
    }

    #[test]
    fn a_minute_counts_under_the_first_that_holds() {
        let calm = Minute {
            steal: Some(0.1),
            memory: Some(0.95),
            children: Some(0.95),
            cpu: Some(0.95),
            disk: Some(0.99),
            io: Some(0.5),
            ..Minute::default()
        };
        check(calm, CameWith::Unknown);
        check(Minute::default(), CameWith::Unknown);
        let all = Minute {
            steal: Some(0.11),
            memory: Some(0.96),
            has_oom: true,
            children: Some(1.0),
            has_exhausted: true,
            cpu: Some(1.0),
            disk: Some(1.0),
            io: Some(1.0),
            verdicts: &["service_down"],
        };
        check(all, CameWith::Steal);
        let all = Minute { steal: None, ..all };
        check(all, CameWith::MemoryFull);
        check(Minute { memory: Some(0.5), ..all }, CameWith::MemoryFull);
        let all = Minute { memory: Some(0.5), has_oom: false, ..all };
        check(all, CameWith::Exhausted);
        check(Minute { children: Some(0.5), ..all }, CameWith::Exhausted);
        let all = Minute { children: None, has_exhausted: false, ..all };
        check(all, CameWith::CpuFull);
        let all = Minute { cpu: None, ..all };
        check(all, CameWith::Disk);
        check(Minute { disk: None, ..all }, CameWith::Disk);
        let all = Minute { disk: None, io: None, ..all };
        check(all, CameWith::Service);
    }

    #[test]
    fn a_minute_of_which_samples_say_nothing_is_told_with_the_cause_of_its_incident() {
        let said = |classes: &[&str], want| {
            check(Minute { cpu: Some(0.2), verdicts: classes, ..Minute::default() }, want);
        };
        for (class, want) in [
            ("overload", CameWith::Overload),
            ("oom", CameWith::MemoryFull),
            ("crash", CameWith::SiteCode),
            ("service_down", CameWith::Service),
            ("misconfig", CameWith::Config),
            ("firewall", CameWith::Network),
            ("dns", CameWith::Network),
            ("timeout", CameWith::SiteCode),
            ("site_code", CameWith::SiteCode),
            ("ddos", CameWith::Attack),
            ("steal", CameWith::Steal),
            ("disk_full", CameWith::Disk),
            ("network", CameWith::Network),
            ("unknown", CameWith::Unexplained),
            ("of a later release", CameWith::Unexplained),
        ] {
            said(&[class], want);
            said(&["unknown", class], want);
        }
        for class in crate::detect::table::Class::ALL {
            let verdicts: &[&str] = &[class.name()];
            let told = classify(&Minute { verdicts, ..Minute::default() });
            assert!(told < CameWith::Unexplained, "{} is no cause of minutes", class.name());
        }
        said(&["site_code", "service_down"], CameWith::Service);
        said(&[], CameWith::Unknown);
        let busy = Minute { children: Some(1.0), verdicts: &["overload"], ..Minute::default() };
        check(busy, CameWith::Exhausted);
        check(Minute { verdicts: &["ddos"], ..busy }, CameWith::Attack);
    }

    #[test]
    fn every_kind_is_counted_in_its_place_and_in_the_sum() {
        let mut minutes = ErrorMinutes::default();
        for (n, with) in (1..).zip(CameWith::ALL) {
            with.add(&mut minutes, n);
        }
        let found: Vec<u64> = CameWith::ALL.iter().map(|with| with.of(&minutes)).collect();
        assert_eq!(found, (1..=13).collect::<Vec<u64>>());
        assert_eq!(minutes.n, 91);
    }
}
