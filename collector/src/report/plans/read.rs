//! Reads a catalogue of plans: every problem with its line and its fix. Pure.

use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Catalogue, Plan, is_same};
use crate::config::Problem;
use crate::notify::kinds::distance;

/// Plans of a catalogue at most.
pub const PLANS_MAX: usize = 2000;
/// Problems told at once.
const PROBLEMS_MAX: usize = 50;
/// Longest name of a plan or provider, bytes.
const NAME_BYTES_MAX: usize = 100;

const KEYS: [&str; 2] = ["currency", "plan"];
const PLAN_KEYS: [&str; 7] = ["name", "provider", "vcpu", "memory", "disk", "price", "currency"];

const VCPU: RangeInclusive<f64> = 0.1..=1024.0;
const PRICE: RangeInclusive<f64> = 0.0..=1e6;
/// Memory and disk that a plan may have, bytes, and how they are written.
const MEMORY: (u64, u64, &str) = (64 << 20, 64 << 40, "64MiB to 64TiB");
const DISK: (u64, u64, &str) = (100 << 20, 1 << 50, "100MiB to 1024TiB");

/// Units of sizes: those of 1024 and, as providers write disks, those of 1000.
const SIZES: [(&str, f64); 9] = [
    ("TiB", (1_u64 << 40) as f64),
    ("GiB", (1_u64 << 30) as f64),
    ("MiB", (1_u64 << 20) as f64),
    ("KiB", (1_u64 << 10) as f64),
    ("TB", 1e12),
    ("GB", 1e9),
    ("MB", 1e6),
    ("KB", 1e3),
    ("B", 1.0),
];

type Tables<'a, 'i> = &'a DeTable<'i>;
type Slot<'a, 'i> = &'a Spanned<DeValue<'i>>;

/// See [`Catalogue::parse`].
pub(super) fn catalogue(file: &str, text: &str) -> Result<Catalogue, Vec<Problem>> {
    let mut told = Told { file, text, problems: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        told.add(at, error.message(), "see https://toml.io for how to write it");
    }
    if !errors.is_empty() {
        return Err(told.sorted());
    }
    let root = root.get_ref();
    told.unknown_keys(root, &KEYS);
    let currency = root.get("currency").and_then(|slot| told.currency(slot));
    if !root.contains_key("currency") {
        told.add(0, "currency is missing", "write one for all prices, such as currency = \"EUR\"");
    }
    let plans = told.plans(root, currency.as_deref());
    match currency {
        Some(currency) if told.problems.is_empty() => Ok(Catalogue { currency, plans }),
        _ => Err(told.sorted()),
    }
}

/// What was found wrong so far.
struct Told<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<(usize, Problem)>,
}

impl Told<'_> {
    fn add(&mut self, at: usize, what: impl Into<String>, fix: impl Into<String>) {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let place = if self.text.is_empty() {
            self.file.to_owned()
        } else {
            format!("{}:{}", self.file, 1 + before.matches('\n').count())
        };
        self.problems.push((at, Problem { place, what: what.into(), fix: fix.into() }));
    }

    fn sorted(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|(at, _)| *at);
        self.problems.into_iter().map(|(_, problem)| problem).take(PROBLEMS_MAX).collect()
    }

    fn unknown_keys(&mut self, table: Tables<'_, '_>, known: &[&str]) {
        for (key, _) in table {
            let (at, key) = (key.span().start, key.get_ref().as_ref());
            if known.contains(&key) {
                continue;
            }
            let nearest = known.iter().map(|known| (distance(key, known), *known)).min();
            let fix = match nearest {
                Some((n, known)) if n <= 1 + known.len() / 3 => format!("did you mean {known}?"),
                _ => format!("remove it: known are {}", known.join(", ")),
            };
            self.add(at, format!("{} is not known", cut(key)), fix);
        }
    }

    /// The plans that could be read; what is wrong with the others is told.
    fn plans(&mut self, root: Tables<'_, '_>, currency: Option<&str>) -> Vec<Plan> {
        let slot = root.get("plan");
        let list = slot.map(|slot| (slot.span().start, slot.get_ref()));
        let all = match list {
            Some((_, DeValue::Array(all))) if !all.is_empty() => all,
            Some((at, DeValue::Table(_))) => {
                self.add(at, "plan is one table", "write it in two brackets: [[plan]]");
                return Vec::new();
            }
            Some((at, value)) if !value.is_array() => {
                self.add(at, "plan is no list of tables", "begin each plan with [[plan]]");
                return Vec::new();
            }
            _ => {
                let fix = "list at least one that begins with [[plan]]";
                self.add(self.text.len(), "there is no plan", fix);
                return Vec::new();
            }
        };
        if all.len() > PLANS_MAX {
            let what = format!("there are {} plans", all.len());
            self.add(0, what, format!("list {PLANS_MAX} at most: those you would buy"));
            return Vec::new();
        }
        let mut plans: Vec<(usize, Plan)> = Vec::new();
        for slot in all {
            let at = slot.span().start;
            let Some(table) = slot.get_ref().as_table() else {
                self.add(at, "plan is no table", "begin each plan with [[plan]]");
                continue;
            };
            let Some(plan) = self.plan(at, table, currency) else { continue };
            let is_twin = |other: &&(usize, Plan)| {
                is_same(&other.1.name, &plan.name) && is_same(provider(&other.1), provider(&plan))
            };
            if let Some((first, _)) = plans.iter().find(is_twin) {
                let line =
                    1 + self.text[..self.text.floor_char_boundary(*first)].matches('\n').count();
                let at = table.get("name").map_or(at, |name| name.span().start);
                let what = format!("plan {:?} is also in line {line}", cut(&plan.name));
                self.add(at, what, "give it another name or another provider, or remove one");
            }
            plans.push((at, plan));
        }
        plans.into_iter().map(|(_, plan)| plan).collect()
    }

    fn plan(&mut self, at: usize, table: Tables<'_, '_>, currency: Option<&str>) -> Option<Plan> {
        self.unknown_keys(table, &PLAN_KEYS);
        if let Some(slot) = table.get("currency")
            && let Some(own) = self.currency(slot)
            && let Some(currency) = currency
            && own != currency
        {
            let fix = format!("convert it to {currency}: prices are compared with each other");
            self.add(
                slot.span().start,
                format!("the price is in {own}, others are in {currency}"),
                fix,
            );
        }
        let name = self.needed(at, table, "name").and_then(|slot| self.name("name", slot));
        let shown =
            name.as_deref().map_or_else(|| "this plan".to_owned(), |name| cut(name).to_owned());
        let provider = table.get("provider").map(|slot| self.name("provider", slot));
        let vcpu = self
            .needed(at, table, "vcpu")
            .and_then(|slot| self.number(&shown, "vcpu", slot, &VCPU, "a plain number such as 4"));
        let memory = self.needed(at, table, "memory");
        let memory_bytes = memory.and_then(|slot| self.size(&shown, "memory", slot, MEMORY));
        let disk = self.needed(at, table, "disk");
        let disk_bytes = disk.and_then(|slot| self.size(&shown, "disk", slot, DISK));
        let price = self.needed(at, table, "price").and_then(|slot| {
            self.number(&shown, "price", slot, &PRICE, "a plain number such as 9.9, money a month")
        });
        Some(Plan {
            name: name?,
            provider: provider.map_or(Some(None), |given| given.map(Some))?,
            vcpu: vcpu?,
            memory_bytes: memory_bytes?,
            disk_bytes: disk_bytes?,
            price: price?,
        })
    }

    fn needed<'a, 'i>(
        &mut self,
        at: usize,
        table: Tables<'a, 'i>,
        key: &str,
    ) -> Option<Slot<'a, 'i>> {
        let slot = table.get(key);
        if slot.is_none() {
            let name = table.get("name").and_then(|slot| slot.get_ref().as_str());
            let what = match name {
                Some(name) => format!("{key} of plan {:?} is missing", cut(name)),
                None => format!("{key} of a plan is missing"),
            };
            let fix = match key {
                "name" => "write the name that the label plan of its servers has",
                "vcpu" => "write how many processors it has, such as vcpu = 4",
                "memory" => "write its memory with a unit, such as memory = \"8GiB\"",
                "disk" => "write its disk with a unit, such as disk = \"160GB\"",
                _ => "write what it costs a month, such as price = 9.9",
            };
            self.add(at, what, fix);
        }
        slot
    }

    fn name(&mut self, key: &str, slot: Slot<'_, '_>) -> Option<String> {
        let at = slot.span().start;
        let Some(text) = slot.get_ref().as_str() else {
            self.add(at, format!("{key} is no text"), "write it in quotes");
            return None;
        };
        let text = text.trim();
        if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            let what = format!("{key} {:?} is no name", cut(text));
            self.add(at, what, format!("write 1 to {NAME_BYTES_MAX} bytes in one line"));
            return None;
        }
        Some(text.to_owned())
    }

    fn currency(&mut self, slot: Slot<'_, '_>) -> Option<String> {
        let text = slot.get_ref().as_str().unwrap_or_default();
        if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Some(text.to_owned());
        }
        let fix = "write its code of three capital letters, such as \"EUR\"";
        self.add(slot.span().start, "currency is no currency", fix);
        None
    }

    fn number(
        &mut self,
        plan: &str,
        key: &str,
        slot: Slot<'_, '_>,
        range: &RangeInclusive<f64>,
        how: &str,
    ) -> Option<f64> {
        let at = slot.span().start;
        let Some(number) = number_of(slot.get_ref()) else {
            self.add(at, format!("{key} of {plan} is no number"), format!("write {how}"));
            return None;
        };
        // Also refuses what is no number.
        if !range.contains(&number) {
            let what = format!("{key} of {plan} = {number} is out of range");
            self.add(at, what, format!("write {} to {}", range.start(), range.end()));
            return None;
        }
        Some(number.abs())
    }

    fn size(
        &mut self,
        plan: &str,
        key: &str,
        slot: Slot<'_, '_>,
        (min, max, range): (u64, u64, &str),
    ) -> Option<u64> {
        let at = slot.span().start;
        let bytes =
            match slot.get_ref() {
                DeValue::String(text) => size_of(text).ok_or_else(|| format!("{:?}", cut(text))),
                value => Err(number_of(value)
                    .map_or("a value".to_owned(), |n| format!("{n} without a unit"))),
            };
        match bytes {
            Ok(bytes) if (min as f64..=max as f64).contains(&bytes) => Some(bytes.round() as u64),
            Ok(_) => {
                let text = slot.get_ref().as_str().unwrap_or_default();
                let what = format!("{key} of {plan} = {:?} is out of range", cut(text));
                self.add(at, what, format!("write {range}"));
                None
            }
            Err(shown) => {
                let fix = "write it like \"8GiB\" (1024 MiB each) or \"80GB\" (1000 MB each)";
                self.add(at, format!("{key} of {plan} is {shown}, no size"), fix);
                None
            }
        }
    }
}

fn provider(plan: &Plan) -> &str {
    plan.provider.as_deref().unwrap_or_default()
}

fn number_of(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64)
        }
        DeValue::Float(number) => number.as_str().parse().ok(),
        _ => None,
    }
}

/// Bytes of `8GiB`, `80 GB`, `0.5GiB`.
fn size_of(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let (_, factor) = SIZES.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit.trim()))?;
    Some(number * factor)
}

/// What of a foreign text is shown at most.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(40)]
}
