//! Which plan a server should have: stay, a larger or smaller one, another host, or no advice. Pure.
//!
//! The rules, each with the figures that it takes:
//!
//! - **Not enough data**: less than 7 days, samples in less than half of the hours, or neither
//!   processors nor memory are known.
//! - **Larger**: what counts (p95 of processors, p99.5 of memory, as what does not fit is killed) times
//!   1.15 is above 80 % of what there is; next week's p95 will be even by its low end; something
//!   waited (PSI) in more than 1 % of the minutes; the kernel killed for want of memory; most
//!   minutes with gateway errors came with it; the disk is above 90 % or full within 30 days.
//! - **Other host**: processors were stolen in more than 1 % of the minutes, or most minutes with gateway
//!   errors came with it. No plan helps; so processors are no reason for a larger one then.
//! - **Smaller**: at least 14 days in at least 80 % of their hours, nothing of the above, p99.5 times 1.3 and
//!   next week's p95 fit the smaller plan, as does the fullest hour of the last 35 days, and it saves 5 %.
//! - **Stay**: else.
//!
//! A larger plan is the cheapest in which everything fits and nothing becomes smaller, of the same
//! provider before others; a smaller one is the cheapest that fits, of the same provider only.
//! Short histories widen what must fit by `1 + 1/days`.

mod choose;
mod current;
mod figures;
mod signs;
mod sure;
mod words;

use super::need::{Need, Size};
use super::plans::{Catalogue, Plan};

use figures::Figures;

/// What should be done about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing.
    Stay,
    /// A larger plan.
    Upgrade,
    /// A smaller plan.
    Downgrade,
    /// The same plan on another host of the provider.
    MoveHost,
    /// The figures do not support any advice.
    NotEnoughData,
}

impl Action {
    /// Its name for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::MoveHost => "move_host",
            Self::NotEnoughData => "not_enough_data",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::MoveHost => "ask for another host",
            Self::NotEnoughData => "not enough data",
        }
    }
}

/// How sure an advice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// A hint; look yourself.
    Low,
    /// Likely right.
    Medium,
    /// Sure.
    High,
}

impl Confidence {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What a plan is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
    /// Disk.
    Disk,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Disk];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "processors",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// What is left of a resource: in its own unit or as a share; `None` where it is not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Headroom {
    /// Of what.
    pub resource: Resource,
    /// What counts as used: p95 of processors and disk, p99.5 of memory, by the means of minutes.
    pub used: Option<f64>,
    /// What there is now.
    pub has: Option<f64>,
    /// Share of it that is left, below 0 where more is used than there is.
    pub now: Option<f64>,
    /// What there would be.
    pub next: Option<f64>,
    /// Share of that which would be left.
    pub after: Option<f64>,
}

/// What should be done about a server, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Advice {
    /// What to do.
    pub action: Action,
    /// Its plan now; `None`: not known, or not in the catalogue.
    pub current: Option<Plan>,
    /// The plan to take; `None`: it keeps its own, or no plan of the catalogue is large enough.
    pub to: Option<Plan>,
    /// Processors, memory and disk, in this order.
    pub headroom: [Headroom; 3],
    /// What it needs at least, with room to spare; what is not known is `None`.
    pub needs: Size,
    /// Money a month that it costs more (above 0) or less (below 0); 0 where the plan stays; `None`: a price
    /// is not known, or there is no advice.
    pub difference: Option<f64>,
    /// Currency of all prices; empty where there is no catalogue.
    pub currency: String,
    /// Whether the provider should be asked for another host, beside what `action` says.
    pub asks_for_move: bool,
    /// Why, a sentence each, the weightiest first.
    pub reasons: Vec<String>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What keeps it from being surer, and what would change it, a sentence each.
    pub would_change: Vec<String>,
    /// What the minutes with gateway errors came with and what helps, a sentence each.
    pub errors: Vec<String>,
}

impl Advice {
    /// The advice in one sentence.
    #[must_use]
    pub fn headline(&self) -> String {
        words::headline(self)
    }
}

/// What should be done about this server. An empty catalogue gives the same advice without plans.
#[must_use]
pub fn advise(need: &Need, catalogue: &Catalogue) -> Advice {
    let current = current::of(need, catalogue);
    let figures = Figures::new(need, &current);
    let mut advice = Advice {
        action: Action::Stay,
        current: current.plan.cloned(),
        to: None,
        headroom: figures.headroom(None),
        needs: figures.needs(&[]),
        difference: None,
        currency: catalogue.currency.clone(),
        asks_for_move: false,
        reasons: Vec::new(),
        confidence: Confidence::Low,
        would_change: Vec::new(),
        errors: signs::errors(&need.errors),
    };
    let found = signs::of(&figures);
    if let Some(why) = figures.why_too_little() {
        advice.action = Action::NotEnoughData;
        advice.reasons = why;
        advice.reasons.extend(found.iter().filter(|sign| sign.is_hard).map(signs::so_far));
        advice.would_change.push(figures.what_is_missing());
        return advice;
    }
    let (moves, short): (Vec<_>, Vec<_>) = found.into_iter().partition(|sign| sign.is_steal);
    advice.asks_for_move = !moves.is_empty();
    advice.reasons.extend(moves.iter().map(|sign| sign.text.clone()));
    if short.is_empty() {
        settle(&mut advice, &figures, catalogue, &current);
    } else {
        grow(&mut advice, &figures, catalogue, &current, &short);
    }
    advice.reasons.extend(signs::beside(&figures));
    advice.headroom = figures.headroom(advice.to.as_ref());
    let from = advice.current.as_ref().map(|plan| plan.price);
    advice.difference = match (advice.action, &advice.to) {
        _ if catalogue.plans.is_empty() => None,
        (Action::Upgrade | Action::Downgrade, Some(to)) => from.map(|from| to.price - from),
        (Action::Upgrade, None) => None,
        _ => Some(0.0),
    };
    let (confidence, doubts) = sure::of(&figures, &current, &advice, &short, &moves);
    advice.confidence = confidence;
    advice.would_change.extend(doubts);
    advice
}

/// Something is short: the cheapest plan in which it is not.
fn grow(
    advice: &mut Advice,
    figures: &Figures<'_>,
    catalogue: &Catalogue,
    current: &current::Current<'_>,
    short: &[signs::Sign],
) {
    advice.action = Action::Upgrade;
    advice.reasons.extend(short.iter().map(|sign| sign.text.clone()));
    let resources: Vec<Resource> = short.iter().map(|sign| sign.resource).collect();
    advice.needs = figures.needs(&resources);
    advice.to = choose::larger(figures, catalogue, current, &resources).cloned();
    advice.reasons.extend(choose::about_larger(figures, catalogue, current, advice));
}

/// Nothing is short: another host, a smaller plan, or none of it.
fn settle(
    advice: &mut Advice,
    figures: &Figures<'_>,
    catalogue: &Catalogue,
    current: &current::Current<'_>,
) {
    if advice.asks_for_move {
        advice.action = Action::MoveHost;
        return;
    }
    advice.reasons.extend(figures.why_it_fits());
    match choose::smaller(figures, catalogue, current) {
        Ok(plan) => {
            advice.action = Action::Downgrade;
            advice.reasons.extend(choose::about_smaller(figures, current, plan));
            advice.to = Some(plan.clone());
        }
        Err(why) => advice.reasons.extend(why),
    }
}

#[cfg(test)]
mod tests;
