//! What minutes with gateway errors came with, worked out anew: by the minute where samples are kept, by the
//! hour where only sums are.

use std::collections::{BTreeMap, BTreeSet};

use super::capacity::Look;
use super::rows::Verdict;
use super::truth::{HOUR, Minutes};
use super::{DAY, KEPT_DAYS, RAW_DAYS};

const STEAL: f64 = 0.1;
const MEMORY: f64 = 0.95;
const CHILDREN: f64 = 0.95;
const CPU: f64 = 0.95;
const DISK: f64 = 0.99;
const IO: f64 = 0.5;
/// Up to so many times a limit a mean may be left out of those above it.
const MISSED: f64 = 1.0205;

/// What a minute can have come with, in the order in which the first that holds counts.
const KINDS: [(&str, &[&str]); 13] = [
    ("stolen processors", &["steal"]),
    ("full memory", &["oom"]),
    ("a flood of requests", &["ddos"]),
    ("exhausted children, memory free", &[]),
    ("busy processors", &[]),
    ("full or busy disk", &["disk_full"]),
    ("a service down", &["service_down"]),
    ("the network or names", &["network", "firewall", "dns"]),
    ("a wrong configuration", &["misconfig"]),
    ("code of a site", &["site_code", "timeout", "crash"]),
    ("more requests than fit", &["overload"]),
    ("an incident of unknown cause", &["unknown"]),
    ("no incident, and nothing that was sampled", &[]),
];
const STOLEN: usize = 0;
const FULL: usize = 1;
const EXHAUSTED: usize = 3;
const BUSY: usize = 4;
const DISKS: usize = 5;
const NOTHING: usize = 12;

/// Metric, above what it holds, and what holds then; of counters any rise.
const MEASURED: [(&str, f64, usize); 8] = [
    ("system.cpu.steal", STEAL, STOLEN),
    ("system.memory.utilization", MEMORY, FULL),
    ("system.oom_kills", 0.0, FULL),
    ("container.memory.oom_kills", 0.0, FULL),
    ("system.cpu.utilization", CPU, BUSY),
    ("system.filesystem.utilization", DISK, DISKS),
    ("system.filesystem.inodes.utilization", DISK, DISKS),
    ("system.pressure.io", IO, DISKS),
];

/// At least and at most so many minutes.
type Range = (f64, f64);

/// Minutes with errors by what they came with.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    /// By server and words.
    pub(super) minutes: BTreeMap<(String, &'static str), Range>,
    /// Those with exhausted children by server and pool.
    pub(super) pools: BTreeMap<(String, String), Range>,
}

impl Kinds {
    fn add(&mut self, server: &str, kind: usize, n: f64, is_certain: bool) {
        let key = (server.to_owned(), KINDS[kind].0);
        widen(self.minutes.entry(key).or_default(), n, is_certain);
    }

    /// All of a server.
    pub(super) fn of(&self, server: &str) -> impl Iterator<Item = (&'static str, Range)> {
        let own = self.minutes.iter().filter(move |((of, _), _)| of == server);
        own.map(|((_, words), range)| (*words, *range))
    }
}

fn widen(range: &mut Range, n: f64, is_certain: bool) {
    range.0 += if is_certain { n } else { 0.0 };
    range.1 += n;
}

/// Means by minute.
type Means = BTreeMap<i64, f64>;

/// What was measured of one server.
struct Measured<'a> {
    server: &'a str,
    /// Minutes of what is above which limit, and what holds then.
    signs: Vec<(Means, f64, usize)>,
    /// Pools with shares of busy children, and rises of how often they were exhausted.
    pools: Vec<(String, Means, Means)>,
    /// Its sites: pool, bad minutes, what incidents said of it.
    sites: Vec<(&'a str, BTreeSet<i64>, Vec<Verdict<'a>>)>,
}

fn map(minutes: &Minutes) -> Means {
    minutes.means.iter().copied().collect()
}

/// Works out the minutes of all servers.
pub(super) fn kinds(look: &Look<'_>) -> Kinds {
    let mut kinds = Kinds::default();
    for server in look.labels.keys() {
        let measured = Measured::of(look, server);
        let hours: BTreeSet<i64> = measured.bad().map(|minute| minute.div_euclid(60)).collect();
        for hour in hours {
            let since = look.end - hour * HOUR;
            let is_old = !look.is_raw && since > RAW_DAYS * DAY;
            let is_certain = !is_old || since > (KEPT_DAYS + 2) * DAY;
            if is_old {
                measured.add_hour(hour, is_certain, &mut kinds);
            }
            if !is_old || !is_certain {
                measured.add_minutes(hour, is_certain, &mut kinds);
            }
        }
    }
    kinds
}

impl<'a> Measured<'a> {
    fn of(look: &'a Look<'a>, server: &'a str) -> Self {
        let minutes = |metric, of: &str| look.truth.minutes(server, metric, of, &look.hours);
        let mut signs = Vec::new();
        for (metric, limit, kind) in MEASURED {
            for of in look.truth.of(server, metric, &look.hours) {
                signs.push((map(&minutes(metric, of)), limit, kind));
            }
        }
        let busy = "phpfpm.active_processes";
        let pool = |of: &&str| {
            let size = look.size(server, "phpfpm.max_children", of);
            let share = |at, mean| Some(mean / size(at).filter(|size| *size > 0.0)?);
            let reached = minutes("phpfpm.max_children_reached", of);
            ((*of).to_owned(), map(&minutes(busy, of).map(share)), map(&reached))
        };
        let pools = look.truth.of(server, busy, &look.hours).iter().map(pool).collect();
        let own = look.truth.sites.iter().filter(|((of, _), _)| of == server);
        let sites = own.map(|((_, name), site)| {
            let verdicts = look.rows.verdicts(server, name);
            (site.pool.as_str(), site.bad_minutes(&look.hours), verdicts)
        });
        Self { server, signs, pools, sites: sites.collect() }
    }

    fn bad(&self) -> impl Iterator<Item = i64> {
        self.sites.iter().flat_map(|(_, bad, _)| bad.iter().copied())
    }

    /// Each minute of an hour by itself.
    fn add_minutes(&self, hour: i64, is_certain: bool, kinds: &mut Kinds) {
        let minutes: BTreeSet<i64> = self.bad().filter(|at| at.div_euclid(60) == hour).collect();
        for at in minutes {
            let failed = || self.sites.iter().filter(|(_, bad, _)| bad.contains(&at));
            let mut holds = [false; 13];
            for (means, limit, kind) in &self.signs {
                holds[*kind] |= means.get(&at).is_some_and(|mean| mean > limit);
            }
            // Where the pool of a site is not known it can have been any.
            let known: Option<BTreeSet<&str>> =
                failed().map(|(pool, ..)| (!pool.is_empty()).then_some(*pool)).collect();
            let asked = self.pools.iter().filter(|(pool, ..)| {
                known.as_ref().is_none_or(|known| known.contains(pool.as_str()))
            });
            let mut busiest: Option<(f64, &str)> = None;
            for (pool, shares, reached) in asked {
                let share = shares.get(&at).copied().unwrap_or(0.0);
                holds[EXHAUSTED] |= share > CHILDREN || reached.get(&at).is_some_and(|n| *n > 0.0);
                if busiest.is_none_or(|(most, _)| share > most) {
                    busiest = Some((share, pool));
                }
            }
            let said = failed().flat_map(|(.., verdicts)| verdicts);
            let said = said.filter(|verdict| verdict.minutes.contains(&at));
            let kind = first(&holds, &said.map(|verdict| verdict.class).collect());
            kinds.add(self.server, kind, 1.0, is_certain);
            if let (EXHAUSTED, Some((_, pool))) = (kind, busiest) {
                let key = (self.server.to_owned(), pool.to_owned());
                widen(kinds.pools.entry(key).or_default(), 1.0, is_certain);
            }
        }
    }

    /// All minutes of an hour by what held in at least half as many.
    fn add_hour(&self, hour: i64, is_certain: bool, kinds: &mut Kinds) {
        let within = hour * 60..hour * 60 + 60;
        let n_bad = self.sites.iter().map(|(_, bad, _)| bad.range(within.clone()).count()).max();
        let n_bad = n_bad.unwrap_or(0);
        let is_enough = |n: usize| n > 0 && n * 2 >= n_bad;
        let held = |means: &Means, limit: f64| {
            is_enough(means.range(within.clone()).filter(|(_, mean)| **mean > limit).count())
        };
        let mut classes = BTreeMap::<&str, BTreeSet<i64>>::new();
        for verdict in self.sites.iter().flat_map(|(.., verdicts)| verdicts) {
            let (from, to) = (*verdict.minutes.start(), *verdict.minutes.end());
            let minutes = from.max(within.start)..=to.min(within.end - 1);
            classes.entry(verdict.class).or_default().extend(minutes);
        }
        classes.retain(|_, minutes| is_enough(minutes.len()));
        let classes = classes.into_keys().collect();
        // A mean just above a limit may be left out.
        let found = [1.0 - 1e-9, MISSED].map(|near| {
            let mut holds = [false; 13];
            for (means, limit, kind) in &self.signs {
                holds[*kind] |= if *limit > 0.0 {
                    held(means, limit * near)
                } else {
                    means.range(within.clone()).any(|(_, mean)| *mean > 0.0)
                };
            }
            for (_, shares, reached) in &self.pools {
                let was_reached = reached.range(within.clone()).any(|(_, n)| *n > 0.0);
                holds[EXHAUSTED] |= held(shares, CHILDREN * near) || was_reached;
            }
            first(&holds, &classes)
        });
        let (n, is_same) = (n_bad as f64, found[0] == found[1]);
        kinds.add(self.server, found[0], n, is_certain && is_same);
        if !is_same {
            kinds.add(self.server, found[1], n, false);
        }
    }
}

fn first(holds: &[bool; 13], said: &BTreeSet<&str>) -> usize {
    let is_it =
        |kind: &usize| holds[*kind] || KINDS[*kind].1.iter().any(|class| said.contains(class));
    (0..KINDS.len()).find(is_it).unwrap_or(NOTHING)
}
