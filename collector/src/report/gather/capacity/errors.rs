//! What minutes with gateway errors came with: by the minute where samples can be read, else by the hour.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use wire::{UnixMillis, catalog};

use super::Sizes;
use super::sites::BadHours;
use crate::model::{ServerId, SiteId};
use crate::report::capacity::errors::{
    CHILDREN, CPU, CameWith, DISK, IO, MEMORY, Minute, STEAL, classify,
};
use crate::report::capacity::input::{HOUR_S, Input, Server, named};
use crate::report::gather::outage::incidents;
use crate::store::ReadResult;
use crate::store::history::{History, HourOf};
use crate::store::spells;

/// A chain of incidents merged into each other that is longer is a circle.
const PARENTS_MAX: usize = 32;
/// Seconds of a minute.
const MINUTE_S: i64 = 60;

/// What is measured of a minute, and above what it holds.
const MEASURED: [(&str, Sign, f64); 8] = [
    ("system.cpu.steal", Sign::Steal, STEAL),
    ("system.memory.utilization", Sign::Memory, MEMORY),
    ("system.oom_kills", Sign::Oom, 0.0),
    ("container.memory.oom_kills", Sign::Oom, 0.0),
    ("system.cpu.utilization", Sign::Cpu, CPU),
    ("system.filesystem.utilization", Sign::Disk, DISK),
    ("system.filesystem.inodes.utilization", Sign::Disk, DISK),
    ("system.pressure.io", Sign::Io, IO),
];
/// Busy children, and how often they were exhausted.
const BUSY: &str = "phpfpm.active_processes";
const REACHED: &str = "phpfpm.max_children_reached";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Steal,
    Memory,
    Oom,
    Cpu,
    Disk,
    Io,
}

/// Minutes of an hour in which each sign held, as its sums tell.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    steal: u8,
    memory: u8,
    has_oom: bool,
    children: u8,
    has_exhausted: bool,
    cpu: u8,
    disk: u8,
    io: u8,
}

/// All hours with gateway errors by their sums: of which of them samples can still be read is known only when
/// they are.
#[derive(Default)]
pub(super) struct HeldHours(BTreeMap<(ServerId, i64), (u64, Held)>);

impl HeldHours {
    /// Of these hours.
    pub(super) fn new(bad: &BadHours) -> Self {
        Self(bad.iter().map(|(at, n)| (*at, (*n, Held::default()))).collect())
    }

    /// Notes what an hour of a metric says, if it is one of them.
    pub(super) fn see(&mut self, metric: &str, hour: &HourOf<'_>, size: f64) {
        let Some((_, held)) = self.0.get_mut(&(hour.server, hour.t0)) else { return };
        let spread = hour.spread;
        let above = |limit: f64| {
            let share = spread.share_above(limit).unwrap_or(0.0);
            (share * spread.n_minutes().min(60) as f64).round() as u8
        };
        let most = |known: &mut u8, n: u8| *known = n.max(*known);
        match metric {
            BUSY if size > 0.0 => most(&mut held.children, above(CHILDREN * size)),
            REACHED => held.has_exhausted |= spread.rise() > 0.0,
            _ => {}
        }
        for (_, sign, limit) in MEASURED.iter().filter(|(of, _, _)| *of == metric) {
            match sign {
                Sign::Steal => most(&mut held.steal, above(*limit)),
                Sign::Memory => most(&mut held.memory, above(*limit)),
                Sign::Oom => held.has_oom |= spread.rise() > 0.0,
                Sign::Cpu => most(&mut held.cpu, above(*limit)),
                Sign::Disk => most(&mut held.disk, above(*limit)),
                Sign::Io => most(&mut held.io, above(*limit)),
            }
        }
    }
}

impl Held {
    /// What held in at least half as many minutes as failed.
    fn minute<'a>(self, n_bad: u64, verdicts: &'a [&'a str]) -> Minute<'a> {
        let enough = |n: u8| Some(if n > 0 && u64::from(n) * 2 >= n_bad { 1.0 } else { 0.0 });
        Minute {
            steal: enough(self.steal),
            memory: enough(self.memory),
            has_oom: self.has_oom,
            children: enough(self.children),
            has_exhausted: self.has_exhausted,
            cpu: enough(self.cpu),
            disk: enough(self.disk),
            io: enough(self.io),
            verdicts,
        }
    }
}

/// A time in which a site was inside of an incident.
struct Verdict {
    /// First second of its first minute, and of the one after its last.
    minutes: Range<i64>,
    site: SiteId,
    /// Class of the incident's cause.
    class: String,
}

/// What incidents say of the sites of each server.
type Verdicts = BTreeMap<ServerId, Vec<Verdict>>;

/// Puts every minute with gateway errors where it belongs: those of hours before `raw_from`, and of hours whose
/// samples cannot be read (their day may leave while this reads), by what their sums say.
pub(super) fn read(
    history: &History<'_>,
    raw_from: i64,
    held: &HeldHours,
    children: Option<&Sizes>,
    input: &mut Input,
) -> ReadResult<()> {
    if held.0.is_empty() {
        return Ok(());
    }
    let verdicts = verdicts(history, input)?;
    let of = |id: &ServerId| verdicts.get(id).map_or(&[][..], Vec::as_slice);
    let (mut hours, mut by_hour) = (BTreeMap::<ServerId, BTreeSet<i64>>::new(), Vec::new());
    for (id, t0) in held.0.keys() {
        if *t0 < raw_from {
            by_hour.push((*id, *t0));
        } else {
            hours.entry(*id).or_default().insert(*t0);
        }
    }
    for (id, hours) in hours {
        if !history.goes_on() {
            break;
        }
        let Some(server) = input.servers.get_mut(&id) else { continue };
        let (told, unread) = told(history, (id, server), &hours, children)?;
        for (at, Told { minute, pool, failed }) in told {
            let inside = of(&id).iter().filter(|verdict| verdict.minutes.contains(&at));
            let inside = inside.filter(|verdict| failed.contains(&verdict.site));
            let verdicts: Vec<&str> = inside.map(|verdict| verdict.class.as_str()).collect();
            let with = classify(&Minute { verdicts: &verdicts, ..minute });
            with.add(&mut server.errors, 1);
            if let (CameWith::Exhausted, Some(pool)) = (with, pool) {
                *server.exhausted.entry(pool).or_default() += 1;
            }
        }
        by_hour.extend(unread.intersection(&hours).map(|t0| (id, *t0)));
    }
    for (id, t0) in by_hour {
        let (Some(server), Some((n, held))) = (input.servers.get_mut(&id), held.0.get(&(id, t0)))
        else {
            continue;
        };
        let n = (*n).min(60);
        let with = classify(&held.minute(n, &of_hour(of(&id), t0, n)));
        with.add(&mut server.errors, n);
        server.n_errors_by_hour += n;
    }
    Ok(())
}

/// A minute in which sites failed.
#[derive(Default)]
struct Told {
    minute: Minute<'static>,
    /// The pool whose children were busiest.
    pool: Option<String>,
    failed: BTreeSet<SiteId>,
}

/// What incidents held in at least half as many minutes of an hour as failed.
fn of_hour(verdicts: &[Verdict], t0: i64, n_bad: u64) -> Vec<&str> {
    let hour = t0..t0 + HOUR_S;
    let mut minutes: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for verdict in verdicts {
        let first = verdict.minutes.start.max(hour.start);
        let held = (first..verdict.minutes.end.min(hour.end)).step_by(MINUTE_S as usize);
        minutes.entry(&verdict.class).or_default().extend(held);
    }
    minutes.retain(|_, held| !held.is_empty() && held.len() as u64 * 2 >= n_bad);
    minutes.into_keys().collect()
}

/// The minutes of one server in which a site failed, in these hours; and those of the hours that cannot be
/// read, of which no minute is told.
fn told(
    history: &History<'_>,
    (id, server): (ServerId, &Server),
    hours: &BTreeSet<i64>,
    children: Option<&Sizes>,
) -> ReadResult<(BTreeMap<i64, Told>, BTreeSet<i64>)> {
    let (mut told, mut unread) = (BTreeMap::<i64, Told>::new(), BTreeSet::new());
    let rows = history.sites(id)?;
    let pools: BTreeMap<SiteId, Option<String>> =
        rows.into_iter().map(|row| (row.site, row.pool)).collect();
    for run in runs(hours) {
        // By minute, the pools of the sites that failed; `None`: of one it is not known.
        let mut failed: BTreeMap<i64, Option<BTreeSet<&str>>> = BTreeMap::new();
        let bad = history.bad_minutes(id, &run)?.unwrap_or_default();
        let is_read = |at: &i64| !bad.unread.contains(&(at.div_euclid(HOUR_S) * HOUR_S));
        for (site, minutes) in &bad.sites {
            let pool = pools.get(site).and_then(Option::as_deref);
            for minute in minutes.iter().copied().filter(is_read) {
                told.entry(minute).or_default().failed.insert(*site);
                let known = failed.entry(minute).or_insert_with(|| Some(BTreeSet::new()));
                match (pool, known.as_mut()) {
                    (Some(pool), Some(known)) => drop(known.insert(pool)),
                    _ => *known = None,
                }
            }
        }
        measured(history, (id, server), &run, &mut told)?;
        for (_, attribute) in server.series.keys().filter(|(metric, _)| *metric == BUSY) {
            let pool = named(attribute);
            // A pool's key may have a version or an address behind its name.
            let name = pool.split('@').next().unwrap_or(pool);
            let is_of = |at: &i64| {
                let pools = failed.get(at).and_then(Option::as_ref);
                pools.is_none_or(|pools| pools.contains(pool) || pools.contains(name))
            };
            if !told.keys().any(is_of) {
                continue;
            }
            let size = |at: i64| children.and_then(|sizes| sizes.of(id, attribute, at));
            busy(history, (id, attribute), &run, &mut |at, value, is_count| {
                let Some(Told { minute, pool: of, .. }) = told.get_mut(&at).filter(|_| is_of(&at))
                else {
                    return;
                };
                if is_count {
                    minute.has_exhausted |= value > 0.0;
                    if value > 0.0 && of.is_none() {
                        *of = Some(pool.to_owned());
                    }
                } else if let Some(share) = size(at).filter(|n| *n > 0.0).map(|n| value / n)
                    && minute.children.is_none_or(|known| known < share)
                {
                    minute.children = Some(share);
                    *of = Some(pool.to_owned());
                }
            })?;
        }
        unread.extend(bad.unread);
    }
    Ok((told, unread))
}

/// Fills in what was measured of the server.
fn measured(
    history: &History<'_>,
    (id, server): (ServerId, &Server),
    run: &Range<i64>,
    told: &mut BTreeMap<i64, Told>,
) -> ReadResult<()> {
    for (name, sign, _) in MEASURED {
        let Some(metric) = catalog::find(name) else { continue };
        for (_, attribute) in server.series.keys().filter(|(of, _)| *of == name) {
            history.minutes(id, metric, attribute, run, &mut |at, mean| {
                let Some(Told { minute, .. }) = told.get_mut(&at) else { return };
                let most = |known: &mut Option<f64>| {
                    *known = Some(known.map_or(mean, |known| known.max(mean)));
                };
                match sign {
                    Sign::Steal => most(&mut minute.steal),
                    Sign::Memory => most(&mut minute.memory),
                    Sign::Oom => minute.has_oom |= mean > 0.0,
                    Sign::Cpu => most(&mut minute.cpu),
                    Sign::Disk => most(&mut minute.disk),
                    Sign::Io => most(&mut minute.io),
                }
            })?;
        }
    }
    Ok(())
}

/// Busy children of one pool by the minute, and whether it was exhausted (`true`).
fn busy(
    history: &History<'_>,
    (id, attribute): (ServerId, &str),
    run: &Range<i64>,
    see: &mut dyn FnMut(i64, f64, bool),
) -> ReadResult<()> {
    for (name, is_count) in [(BUSY, false), (REACHED, true)] {
        let Some(metric) = catalog::find(name) else { continue };
        history.minutes(id, metric, attribute, run, &mut |at, value| see(at, value, is_count))?;
    }
    Ok(())
}

/// Hours that follow each other.
fn runs(hours: &BTreeSet<i64>) -> Vec<Range<i64>> {
    let mut runs: Vec<Range<i64>> = Vec::new();
    for t0 in hours {
        match runs.last_mut().filter(|run| run.end == *t0) {
            Some(run) => run.end += HOUR_S,
            None => runs.push(*t0..t0 + HOUR_S),
        }
    }
    runs
}

/// What incidents say of the sites of these servers: rounded outward to minutes.
fn verdicts(history: &History<'_>, input: &Input) -> ReadResult<Verdicts> {
    let [from, to] = [input.hours.start, input.hours.end].map(UnixMillis::from_second);
    let mut inside = spells::of_sites(history.conn(), (from, to))?;
    inside.retain(|spell| input.servers.contains_key(&spell.of.0));
    let ids = inside.iter().map(|spell| spell.incident.clone()).collect();
    let known = incidents(history, ids)?;
    let root = |id: &str| {
        let mut found = known.get(id)?;
        for _ in 0..PARENTS_MAX {
            let Some(parent) = found.parent.as_ref().and_then(|id| known.get(id)) else { break };
            found = parent;
        }
        Some(found)
    };
    let mut found = Verdicts::new();
    for spell in inside {
        let Some(incident) = root(&spell.incident) else { continue };
        let minute = |at: UnixMillis| at.second().div_euclid(MINUTE_S) * MINUTE_S;
        let end = spell.until.map_or(i64::MAX, |until| minute(until) + MINUTE_S);
        let (minutes, (server, site)) = (minute(spell.since)..end, spell.of);
        let verdict = Verdict { minutes, site, class: incident.cause.clone() };
        found.entry(server).or_default().push(verdict);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_that_follow_each_other_are_read_at_once() {
        let hours = BTreeSet::from([0, HOUR_S, 3 * HOUR_S]);
        assert_eq!(runs(&hours), [0..2 * HOUR_S, 3 * HOUR_S..4 * HOUR_S]);
    }

    #[test]
    fn an_hour_is_told_by_what_held_in_half_as_many_minutes_as_failed() {
        let check = |held: Held, n_bad, want| {
            assert_eq!(classify(&held.minute(n_bad, &[])), want, "{held:?} {n_bad}");
        };
        check(Held::default(), 1, CameWith::Unknown);
        check(Held { steal: 5, ..Held::default() }, 10, CameWith::Steal);
        check(Held { steal: 4, memory: 10, ..Held::default() }, 10, CameWith::MemoryFull);
        check(Held { has_exhausted: true, cpu: 60, ..Held::default() }, 60, CameWith::Exhausted);
        check(Held { disk: 1, ..Held::default() }, 2, CameWith::Disk);
    }

    #[test]
    fn an_incident_at_the_edge_of_an_hour_tells_of_its_minutes_with_errors() {
        let verdict = |from, to, site, class: &str| Verdict {
            minutes: from * MINUTE_S..to * MINUTE_S,
            site: SiteId(site),
            class: class.to_owned(),
        };
        let check = |verdicts: &[Verdict], n_bad, want: &[&str]| {
            assert_eq!(of_hour(verdicts, 0, n_bad), want, "{n_bad}");
        };
        let short = [verdict(50, 70, 1, "misconfig")];
        check(&short, 20, &["misconfig"]);
        check(&short, 21, &[]);
        check(&[], 1, &[]);
        let before = [verdict(-20, 0, 1, "crash"), verdict(60, 70, 1, "crash")];
        check(&before, 1, &[]);
        let two =
            [verdict(0, 5, 1, "dns"), verdict(3, 8, 2, "dns"), verdict(0, i64::MAX / 60, 3, "oom")];
        check(&two, 16, &["dns", "oom"]);
        check(&two, 17, &["oom"]);
    }
}
