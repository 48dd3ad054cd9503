//! Advice about plans, worked out anew by the rules of the manual.
//!
//! What is told is within 1 % of the samples, so near a limit either side may be right: the rules are applied to
//! what was sampled, to a little less and to a little more, and one of the three must be what is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::ahead::next_weeks;
use super::capacity::Look;
use super::errors::Kinds;
use super::table::Table;
use super::truth::{HOUR, Minutes, Want};

/// Name, provider, processors, GiB of memory, GB of disk, price.
type Plan = (&'static str, &'static str, f64, f64, f64, f64);
const PLANS: [Plan; 8] = [
    ("small", "northcloud", 2.0, 4.0, 80.0, 7.9),
    ("medium", "northcloud", 4.0, 8.0, 160.0, 14.9),
    ("large", "northcloud", 8.0, 16.0, 240.0, 27.9),
    ("xlarge", "northcloud", 16.0, 32.0, 360.0, 53.9),
    ("memory-16", "northcloud", 4.0, 16.0, 160.0, 21.9),
    ("v2", "lakehost", 2.0, 4.0, 60.0, 6.5),
    ("v4", "lakehost", 4.0, 8.0, 120.0, 12.5),
    ("v8", "lakehost", 8.0, 16.0, 240.0, 24.5),
];
/// What usage may be off by.
const OFF: f64 = 0.015;

const CPU: usize = 0;
const MEMORY: usize = 1;
const DISK: usize = 2;

/// The catalogue as a file has it.
pub(super) fn catalogue() -> String {
    let mut text = "currency = \"EUR\"\n".to_owned();
    for (name, provider, vcpu, gib, gb, price) in PLANS {
        write!(
            text,
            "[[plan]]\nname = \"{name}\"\nprovider = \"{provider}\"\nvcpu = {vcpu:.0}\n\
             memory = \"{gib:.0}GiB\"\ndisk = \"{gb:.0}GB\"\nprice = {price:.2}\n"
        )
        .expect("text grows");
    }
    text
}

fn sizes(plan: &Plan) -> [f64; 3] {
    [plan.2, plan.3 * 1_073_741_824.0, plan.4 * 1e9]
}

/// What a server has and used, of processors, memory and disk.
#[derive(Clone, Debug, Default)]
struct Need {
    provider: String,
    plan: Option<&'static Plan>,
    has: [Option<f64>; 3],
    days: f64,
    coverage: f64,
    p95: [Option<f64>; 3],
    p995: [Option<f64>; 3],
    max: [Option<f64>; 3],
    peak: [Option<f64>; 3],
    next: [Option<[f64; 3]>; 3],
    /// Shares of minutes with waiting for processors, memory, disks.
    waited: [Option<f64>; 3],
    stolen: f64,
    n_killed: f64,
    full: Option<f64>,
    /// Minutes with errors: all, and those of stolen processors, full memory, busy processors.
    errors: [f64; 4],
}

/// What is advised.
#[derive(Clone, Debug, PartialEq)]
struct Advised {
    action: &'static str,
    to: Option<&'static Plan>,
    difference: Option<f64>,
    /// Left now and then.
    left: [(Option<f64>, Option<f64>); 3],
}

impl Need {
    fn counted(&self, of: usize) -> Option<f64> {
        if of == MEMORY { self.p995[of].or(self.p95[of]) } else { self.p95[of] }
    }

    fn has_plan_disk(&self) -> bool {
        self.plan.zip(self.has[DISK]).is_none_or(|(plan, has)| has <= 1.02 * sizes(plan)[DISK])
    }

    /// How much a short history may hide.
    fn upper(&self) -> f64 {
        1.0 + 1.0 / self.days.max(1.0)
    }

    /// Bytes a day.
    fn growth(&self) -> f64 {
        match (self.full, self.has[DISK], self.p95[DISK]) {
            (Some(days), Some(has), Some(used)) if days >= 1.0 => {
                ((0.95 * has - used) / days).max(0.0)
            }
            _ => 0.0,
        }
    }

    fn is_most(&self, n: f64) -> bool {
        n >= 5.0 && n * 2.0 >= self.errors[0]
    }

    /// What is short.
    fn short(&self, is_stolen: bool) -> Vec<usize> {
        let lower = (1.0 + 0.001 / self.days.max(1.0)).powi(-2);
        let is_full = |of: usize| {
            let (Some(has), Some(used)) = (self.has[of], self.counted(of)) else { return false };
            let next = self.next[of].map_or(0.0, |next| next[0]);
            (used * lower).max(next) * 1.15 > 0.8 * has
        };
        let waited = |of: usize| self.waited[of].is_some_and(|share| share > 0.01);
        let mut short = Vec::new();
        let is_cpu = waited(CPU) || self.is_most(self.errors[3]) || is_full(CPU);
        if !is_stolen && is_cpu {
            short.push(CPU);
        }
        let is_killed = self.n_killed > 0.0;
        if is_killed || waited(MEMORY) || self.is_most(self.errors[2]) || is_full(MEMORY) {
            short.push(MEMORY);
        }
        if let (true, Some(used), Some(has)) =
            (self.has_plan_disk(), self.p95[DISK], self.has[DISK])
        {
            let is_soon = self.full.is_some_and(|days| days < 30.0);
            if used > 0.9 * has || is_soon && used >= 0.5 * has {
                short.push(DISK);
            }
        }
        short
    }

    /// What a larger plan must have at least.
    fn floor(&self, of: usize, short: &[usize]) -> Option<f64> {
        let used = self.counted(of).map(|used| used * self.upper());
        let next = self.next[of].map_or(0.0, |next| next[1]);
        let room = match of {
            DISK => used.map(|used| (used + 90.0 * self.growth()) / 0.9),
            _ => used.map(|used| used.max(next) * 1.15 / 0.8),
        };
        let kept = self.has[of].map(|has| 0.98 * has);
        if !short.contains(&of) {
            return kept.or(room);
        }
        let grown = self.has[of].map(|has| {
            let killed = if of == MEMORY && self.n_killed > 0.0 {
                (1.2 * has).max(has + 100.0 * 1_048_576.0)
            } else {
                0.0
            };
            killed.max(1.15 * has)
        });
        room.into_iter().chain(grown).reduce(f64::max).or(kept)
    }

    fn larger(&self, short: &[usize]) -> Option<&'static Plan> {
        let fits = |plan: &&Plan| {
            Some(*plan) != self.plan
                && (0..3).all(|of| {
                    of == DISK && !self.has_plan_disk()
                        || self.floor(of, short).is_none_or(|floor| sizes(plan)[of] >= floor)
                })
        };
        let own = PLANS.iter().filter(fits).filter(|plan| plan.1 == self.provider);
        cheapest(own).or_else(|| cheapest(PLANS.iter().filter(fits)))
    }

    /// Whether a smaller plan would do.
    fn would_do(&self, plan: &Plan) -> bool {
        (0..3).all(|of| {
            let size = sizes(plan)[of];
            if self.has[of].is_some_and(|has| size >= 0.98 * has) {
                return true;
            }
            if of == DISK {
                let Some(used) = self.p95[DISK] else { return !self.has_plan_disk() };
                let later = used + 180.0 * self.growth();
                return !self.has_plan_disk() || used * 1.3 <= size && later <= 0.9 * size;
            }
            let is_above = |value: Option<f64>, share: f64| value.is_some_and(|v| v > share * size);
            !(is_above(self.p995[of].map(|used| used * 1.3 * self.upper()), 1.0)
                || is_above(self.counted(of).map(|used| used * 1.15 * self.upper()), 0.8)
                || is_above(self.next[of].map(|next| next[2] * 1.15), 0.8)
                || is_above(self.peak[of], 0.9)
                || of == MEMORY && is_above(self.max[of], 0.95))
        })
    }

    fn smaller(&self) -> Option<&'static Plan> {
        let is_known = |of: usize| self.p995[of].is_some() && self.has[of].is_some();
        let is_quiet = self.waited[DISK].is_none_or(|share| share <= 0.01);
        let is_long = self.days + 1.0 / 24.0 >= 14.0 && self.coverage >= 0.8;
        let own = self.plan.filter(|_| is_known(CPU) && is_known(MEMORY) && is_quiet && is_long)?;
        let smaller = PLANS.iter().filter(|plan| plan.1 == self.provider && plan.5 < own.5);
        let plan = cheapest(smaller.filter(|plan| self.would_do(plan)))?;
        ((own.5 - plan.5) / own.5 >= 0.05).then_some(plan)
    }

    fn advised(&self) -> Advised {
        let left = |to: Option<&Plan>| {
            [CPU, MEMORY, DISK].map(|of| {
                let now = self.counted(of).zip(self.has[of]).map(|(used, has)| 1.0 - used / has);
                let next = to.filter(|_| of != DISK || self.has_plan_disk());
                let next = next.map(|plan| sizes(plan)[of]).or(self.has[of]);
                (now, self.counted(of).zip(next).map(|(used, next)| 1.0 - used / next))
            })
        };
        let is_known = |of: usize| self.counted(of).is_some() && self.has[of].is_some();
        let has_changed = |of: &usize| {
            self.counted(*of).zip(self.has[*of]).is_some_and(|(used, has)| used > 1.05 * has)
        };
        if self.days + 1.0 / 24.0 < 7.0
            || self.coverage < 0.5
            || !is_known(CPU) && !is_known(MEMORY)
            || [CPU, MEMORY].iter().any(has_changed)
        {
            let action = "not enough data";
            return Advised { action, to: None, difference: None, left: left(None) };
        }
        let is_stolen = self.stolen > 0.01 || self.is_most(self.errors[1]);
        let short = self.short(is_stolen);
        let (action, to) = if !short.is_empty() {
            ("upgrade", self.larger(&short))
        } else if is_stolen {
            ("ask for another host", None)
        } else {
            self.smaller().map_or(("stay", None), |plan| ("downgrade", Some(plan)))
        };
        let difference = match (to, self.plan) {
            (Some(to), own) => own.map(|own| to.5 - own.5),
            (None, _) => (action != "upgrade").then_some(0.0),
        };
        Advised { action, to, difference, left: left(to) }
    }

    /// A little less or more of all that is not told exactly.
    fn times(&self, factor: f64) -> Self {
        let scaled = |all: [Option<f64>; 3]| all.map(|one| one.map(|value| value * factor));
        let next = self.next.map(|next| next.map(|all| all.map(|value| value * factor)));
        Self { p95: scaled(self.p95), p995: scaled(self.p995), next, ..self.clone() }
    }
}

fn cheapest(plans: impl Iterator<Item = &'static Plan>) -> Option<&'static Plan> {
    plans.min_by(|a, b| a.5.total_cmp(&b.5))
}

/// The middle of what a quantile must lie between.
fn middle(want: &Want) -> Option<f64> {
    want.ends().map(|[low, high]| f64::midpoint(low, high))
}

/// What each server needs: by least and by most of what is above limits.
fn needs(look: &Look<'_>, kinds: &Kinds, full: &BTreeMap<String, f64>) -> Vec<(String, [Need; 2])> {
    let cpu = next_weeks(look, "system.cpu.utilization");
    let memory = next_weeks(look, "system.memory.utilization");
    let mut found = Vec::new();
    for (server, labels) in look.labels {
        let label = |key: &str| labels.get(key).map_or("", String::as_str);
        let mut need = Need { provider: label("provider").to_owned(), ..Need::default() };
        let plan = PLANS.iter().find(|plan| plan.0 == label("plan") && plan.1 == need.provider);
        need.plan = plan;
        let seen = look.truth.hours(server, &look.hours);
        let n = seen.first().zip(seen.last()).map_or(0, |(a, b)| (b - a) / HOUR + 1);
        (need.days, need.coverage) = (n as f64 / 24.0, seen.len() as f64 / n.max(1) as f64);
        for (of, metric, size, next) in [
            (CPU, "system.cpu.utilization", "system.cpu.logical.count", &cpu),
            (MEMORY, "system.memory.utilization", "system.memory.limit", &memory),
        ] {
            let last = look.last(server, size, "").map(|(_, value)| value);
            need.has[of] = last.or(plan.map(|plan| sizes(plan)[of]));
            let (shares, size_at) = (look.own(server, metric), look.size(server, size, ""));
            let amounts = shares.map(|at, share| Some(share * size_at(at)?));
            need.put(of, &amounts);
            // The largest sample, of a size that never changes here.
            need.max[of] = need.has[of].filter(|_| amounts.n() > 0).map(|has| shares.max * has);
            let hours =
                look.hours_of(server, metric).into_iter().zip(look.hours.clone().step_by(3600));
            let peaks = hours.filter_map(|(mean, t0)| Some(mean? * size_at(t0.div_euclid(60))?));
            need.peak[of] = peaks.reduce(f64::max);
            let told = next.iter().find(|(of, _)| of == server).and_then(|(_, told)| *told);
            need.next[of] = told.zip(need.has[of]).map(|(told, has)| {
                [told[0].min(told[1]), told[1], told[2].max(told[1])].map(|share| share * has)
            });
        }
        let mounts = look.truth.of(server, "system.filesystem.utilization", &look.hours);
        let spaces = mounts.iter().map(|mount| Some((*mount, look.space(server, mount)?)));
        let spaces: Option<Vec<(&str, f64)>> = spaces.collect();
        if let Some(spaces) = spaces.filter(|all| !all.is_empty()) {
            need.has[DISK] = Some(spaces.iter().map(|(_, space)| space).sum());
            let p95 = |(mount, space): &(&str, f64)| {
                let minutes = look.minutes(server, "system.filesystem.utilization", mount);
                Some(middle(&minutes.quantile(0.95))? * space)
            };
            need.p95[DISK] = spaces.iter().map(p95).sum();
        }
        need.has[DISK] = need.has[DISK].or(plan.map(|plan| sizes(plan)[DISK]));
        need.n_killed = look.own(server, "system.oom_kills").rise.round();
        need.full = full.get(server).copied();
        let pair = [0, 1].map(|end| {
            let share = |metric: &str| {
                look.own(server, metric).share_above(0.1).ends().map(|both| both[end])
            };
            let pressures = ["cpu", "memory", "io"];
            let of = |words: &str| {
                let own = kinds.of(server).filter(|(of, _)| *of == words || words.is_empty());
                own.map(|(_, (least, most))| if end == 0 { least } else { most }).sum()
            };
            Need {
                waited: pressures.map(|of| share(&format!("system.pressure.{of}"))),
                stolen: share("system.cpu.steal").unwrap_or(0.0),
                errors: ["", "stolen processors", "full memory", "busy processors"].map(of),
                ..need.clone()
            }
        });
        found.push((server.clone(), pair));
    }
    found
}

impl Need {
    fn put(&mut self, of: usize, amounts: &Minutes) {
        self.p95[of] = middle(&amounts.quantile(0.95));
        self.p995[of] = middle(&amounts.quantile(0.995));
    }
}

/// Compares the advice; returns how many figures were compared.
pub(super) fn check(look: &Look<'_>, kinds: &Kinds, report: &Value, table: &Table) -> usize {
    // Out of the table before, which is compared by itself: the disk that is full first.
    let mut full = BTreeMap::<String, f64>::new();
    for row in report["tables"]["days_to_full"].as_array().expect("rows") {
        if let ("disk", Some(days)) =
            (row["resource"].as_str().expect("words"), row["days_to_full"]["mid"].as_f64())
        {
            let first = full.entry(row["server"].as_str().expect("a name").to_owned());
            let first = first.or_insert(days);
            *first = first.min(days);
        }
    }
    let (mut n, mut n_sure) = (0, 0);
    let needs = needs(look, kinds, &full);
    assert_eq!(table.rows.len(), needs.len());
    for (server, [least, most]) in needs {
        let row = table.rows.iter().find(|row| row["server"] == server.as_str());
        let row = row.unwrap_or_else(|| panic!("no row of {server}"));
        let may = [least.clone(), most.clone(), least.times(1.0 - OFF), most.times(1.0 + OFF)];
        let may = may.map(|need| need.advised());
        let is_same = |a: &Advised, b: &Advised| (a.action, a.to) == (b.action, b.to);
        n_sure += usize::from(may.iter().all(|one| is_same(one, &may[0])));
        let told = (row["advice"]["text"].as_str(), row["to"].as_str());
        let plan = least.plan;
        let shown = |one: &Advised| {
            let own = plan.filter(|_| ["stay", "ask for another host"].contains(&one.action));
            (one.action, one.to.or(own))
        };
        let one = may.iter().find(|one| {
            let (action, to) = shown(one);
            told == (Some(action), Some(to.map_or("", |plan| plan.0)))
        });
        let one = one.unwrap_or_else(|| panic!("{server}: {told:?} is none of {may:?}: {row}"));
        let price = |plan: Option<&Plan>| Want::maybe(plan.map(|plan| plan.5));
        let mut cells = vec![
            ("plan", Want::text(plan.map_or("", |plan| plan.0))),
            ("price_now", price(plan)),
            ("price_then", price(shown(one).1)),
            ("difference", Want::maybe(one.difference)),
        ];
        let left = ["cpu_left_share", "memory_left_share", "disk_left_share"];
        let after = ["cpu_left_after_share", "memory_left_after_share", "disk_left_after_share"];
        for (of, (now, then)) in one.left.iter().enumerate() {
            for (column, left) in [(left[of], now), (after[of], then)] {
                let near = left.map(|left| {
                    let off = 2.0 * OFF * (1.0 - left);
                    Want::Between(left - off, left + off)
                });
                cells.push((column, near.unwrap_or(Want::Unknown)));
            }
        }
        for (column, want) in cells {
            assert!(want.holds(&row[column]), "{server} {column}: wanted {want:?}: {row}");
            n += 1;
        }
        let how_sure = row["confidence"].as_str().expect("a word");
        assert!(["high", "medium", "low"].contains(&how_sure), "{row}");
        for (column, words) in [("gateway_errors", "minute"), ("reasons", "")] {
            let said = row[column].as_str().expect("words");
            let is_told = column == "reasons" || kinds.of(&server).next().is_some();
            assert!(!is_told || said.contains(words), "{server} {column}: {row}");
        }
        n += 2;
    }
    assert!(n_sure * 2 >= table.rows.len(), "only {n_sure} are far from any limit");
    n
}
