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
    /// Busy children while memory was free.
    Exhausted,
    /// Busy processors.
    CpuFull,
    /// A full or busy disk.
    Disk,
    /// A service that was down.
    Service,
    /// The code of a site.
    SiteCode,
    /// None of it.
    Unknown,
}

impl CameWith {
    /// All of them, in the order in which the first that holds counts.
    pub const ALL: [Self; 8] = [
        Self::Steal,
        Self::MemoryFull,
        Self::Exhausted,
        Self::CpuFull,
        Self::Disk,
        Self::Service,
        Self::SiteCode,
        Self::Unknown,
    ];

    /// How many of these minutes came with it.
    #[must_use]
    pub fn of(self, minutes: &ErrorMinutes) -> u64 {
        match self {
            Self::Steal => minutes.steal,
            Self::MemoryFull => minutes.memory_full,
            Self::Exhausted => minutes.exhausted,
            Self::CpuFull => minutes.cpu_full,
            Self::Disk => minutes.disk,
            Self::Service => minutes.service,
            Self::SiteCode => minutes.site_code,
            Self::Unknown => minutes.unknown,
        }
    }

    /// Counts `n` minutes that came with it.
    pub fn add(self, minutes: &mut ErrorMinutes, n: u64) {
        minutes.n += n;
        *match self {
            Self::Steal => &mut minutes.steal,
            Self::MemoryFull => &mut minutes.memory_full,
            Self::Exhausted => &mut minutes.exhausted,
            Self::CpuFull => &mut minutes.cpu_full,
            Self::Disk => &mut minutes.disk,
            Self::Service => &mut minutes.service,
            Self::SiteCode => &mut minutes.site_code,
            Self::Unknown => &mut minutes.unknown,
        } += n;
    }

    /// What a report calls it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Steal => "stolen processors",
            Self::MemoryFull => "full memory",
            Self::Exhausted => "exhausted children, memory free",
            Self::CpuFull => "busy processors",
            Self::Disk => "full or busy disk",
            Self::Service => "a service down",
            Self::SiteCode => "code of a site",
            Self::Unknown => "nothing that was sampled",
        }
    }

    /// What helps.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Steal => "no plan helps: the provider owes it, ask for a move to another host",
            Self::MemoryFull => "more memory: see the advice about plans",
            Self::Exhausted => "raise pm.max_children as the table of pools says",
            Self::CpuFull => "more processors, or less work: see the advice about plans",
            Self::Disk => "free or add space, or a faster disk",
            Self::Service => "no plan helps: see the outage report for what went down",
            Self::SiteCode => "no plan helps: the site's owner has to mend its code",
            Self::Unknown => "see the outage report",
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
    /// Class of the cause of an incident that covers it.
    pub verdict: Option<&'a str>,
}

/// The first that holds, in the order of [`CameWith::ALL`].
#[must_use]
pub fn classify(minute: &Minute<'_>) -> CameWith {
    let above = |value: Option<f64>, limit: f64| value.is_some_and(|value| value > limit);
    let is_said = |classes: &[&str]| minute.verdict.is_some_and(|said| classes.contains(&said));
    if above(minute.steal, STEAL) || is_said(&["steal"]) {
        CameWith::Steal
    } else if above(minute.memory, MEMORY) || minute.has_oom || is_said(&["oom"]) {
        CameWith::MemoryFull
    } else if above(minute.children, CHILDREN) || minute.has_exhausted {
        CameWith::Exhausted
    } else if above(minute.cpu, CPU) {
        CameWith::CpuFull
    } else if above(minute.disk, DISK) || above(minute.io, IO) || is_said(&["disk_full"]) {
        CameWith::Disk
    } else if is_said(&["service_down"]) {
        CameWith::Service
    } else if is_said(&["site_code", "timeout", "crash"]) {
        CameWith::SiteCode
    } else {
        CameWith::Unknown
    }
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
            "The first that holds: stolen processors (more than 10 % of the minute, or an incident with this \
             cause), full memory (more than 95 % in use, an OOM kill, or an incident), exhausted children \
             (more than 95 % of pm.max_children busy, or all while somebody waited), busy processors (more \
             than 95 %), full or busy disk (99 % of space or inodes, something waited for it half of the \
             time, or an incident), a service down, code of a site (an incident caused by a timeout, a \
             crash or the code of a site), nothing that was sampled.",
        ),
        figure(
            "minutes",
            "minutes",
            Unit::Minutes,
            "Minutes in which a site of the server answered 502, 503 or 504. Before samples are kept they are \
             known by the hour: the most of any site, under what held in at least half as many minutes of \
             that hour.",
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
            verdict: Some("service_down"),
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
        for said in ["site_code", "timeout", "crash"] {
            check(Minute { verdict: Some(said), ..calm }, CameWith::SiteCode);
        }
        check(Minute { verdict: Some("oom"), ..calm }, CameWith::MemoryFull);
        check(Minute { verdict: Some("steal"), ..calm }, CameWith::Steal);
        check(Minute { verdict: Some("unknown"), ..calm }, CameWith::Unknown);
    }

    #[test]
    fn every_kind_is_counted_in_its_place_and_in_the_sum() {
        let mut minutes = ErrorMinutes::default();
        for (n, with) in (1..).zip(CameWith::ALL) {
            with.add(&mut minutes, n);
        }
        let found: Vec<u64> = CameWith::ALL.iter().map(|with| with.of(&minutes)).collect();
        assert_eq!(found, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(minutes.n, 36);
    }
}
