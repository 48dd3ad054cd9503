//! Advice about plans, server by server. Pure.

use super::columns::{figure, key, number, section, table, text};
use super::findings::Said;
use crate::report::advice::{Action, Advice, Confidence, advise};
use crate::report::document::{Column, Finding, Level, Section, Unit, Value};
use crate::report::need::Need;
use crate::report::plans::Catalogue;
use crate::report::settings::Settings;
use crate::report::words::many;

/// The advice about each server; without a catalogue there is advice but no plan in it.
pub(super) fn advised(needs: &[Need], settings: &Settings) -> Vec<Advice> {
    let none = Catalogue { currency: String::new(), plans: Vec::new() };
    let catalogue = settings.plans.as_ref().unwrap_or(&none);
    needs.iter().map(|need| advise(need, catalogue)).collect()
}

/// The table of advice, what costs or fails most first.
pub(super) fn section_of(needs: &[Need], advice: &[Advice], settings: &Settings) -> Section {
    let mut found: Vec<(&Need, &Advice)> = needs.iter().zip(advice).collect();
    found.sort_by(|a, b| (rank(a.1), &a.0.server).cmp(&(rank(b.1), &b.0.server)));
    let rows = found.into_iter().map(|(need, advice)| row(need, advice)).collect();
    let currency = settings.plans.as_ref().map_or("", |plans| plans.currency.as_str());
    let title = ("plans", "Advice about plans");
    let text: &[&str] = if settings.plans.is_some() {
        &[
            "Saturation, not use alone, justifies a larger plan; a smaller one takes two quiet weeks at least. Where \
           the figures do not support advice, it says so.",
        ]
    } else {
        &[
            "No catalogue of plans is set (`[report] plans`), so no plan is named and no money reckoned.",
        ]
    };
    section(
        title,
        text,
        vec![table(title, columns(currency), rows, "There is no server to advise on.")],
    )
}

fn rank(advice: &Advice) -> u8 {
    match advice.action {
        Action::Upgrade => 0,
        Action::MoveHost => 1,
        Action::Downgrade => 2,
        Action::Stay => 3,
        Action::NotEnoughData => 4,
    }
}

fn row(need: &Need, advice: &Advice) -> Vec<Value> {
    let level = match advice.action {
        Action::Upgrade | Action::MoveHost => Level::Warning,
        Action::Downgrade | Action::NotEnoughData => Level::Note,
        Action::Stay => Level::Good,
    };
    let (current, to) = (advice.current.as_ref(), advice.to.as_ref());
    let named = need.labels.get("plan").map_or("", String::as_str);
    let kept = to.or(current.filter(|_| matches!(advice.action, Action::Stay | Action::MoveHost)));
    let money = |value: Option<f64>| Value::or(value, "price not known");
    let mut row = vec![
        text(&need.server),
        Value::Level(level, advice.action.words().to_owned()),
        text(current.map_or(named, |plan| plan.name.as_str())),
        text(kept.map_or("", |plan| plan.name.as_str())),
        money(current.map(|plan| plan.price)),
        money(kept.map(|plan| plan.price)),
        money(advice.difference),
    ];
    for headroom in &advice.headroom {
        row.extend([number(headroom.now), Value::or(headroom.after, "not known")]);
    }
    row.extend([
        text(advice.confidence.name()),
        text(advice.reasons.join(" ")),
        text(advice.errors.join(" ")),
        text(advice.would_change.join(" ")),
    ]);
    row
}

fn columns(currency: &str) -> Vec<Column> {
    let words = |key, title, definition| figure(key, title, Unit::Text, definition);
    let money =
        |key, title, definition| figure(key, title, Unit::Money(currency.to_owned()), definition);
    let share = |key, title, definition| figure(key, title, Unit::Share, definition);
    let now = "Share that is left now: of processors and disk over the p95, of memory over the p99.5 of \
               one-minute means.";
    let after = "The same in the plan to take, or as it is where none is taken.";
    vec![
        key("server", "server", "Name of the server."),
        words(
            "advice",
            "advice",
            "stay, upgrade, downgrade, ask for another host, or not enough data; by the rules in the manual.",
        ),
        words(
            "plan",
            "plan now",
            "Its plan: the label `plan`, or the plan of the catalogue with its size.",
        ),
        words("to", "plan to take", "The plan to take; empty where none fits or none is known."),
        money("price_now", "price now", "Money a month of the plan now, by the catalogue."),
        money("price_then", "price then", "Money a month of the plan to take."),
        money("difference", "difference", "Money a month that it costs more; below 0: less."),
        share("cpu_left_share", "CPU left", now),
        share("cpu_left_after_share", "CPU left after", after),
        share("memory_left_share", "memory left", now),
        share("memory_left_after_share", "memory left after", after),
        share("disk_left_share", "disk left", now),
        share("disk_left_after_share", "disk left after", after),
        words(
            "confidence",
            "how sure",
            "high, medium or low: by how much and how well it was sampled.",
        ),
        words("reasons", "why", "The figures that speak for it."),
        words(
            "gateway_errors",
            "gateway errors",
            "What its minutes with gateway errors came with, and what helps.",
        ),
        words("would_change", "what would change it", "What keeps it from being surer."),
    ]
}

/// Servers that need a larger plan, those that it is surest of first.
pub(super) fn larger(needs: &[Need], advice: &[Advice]) -> Vec<Said> {
    let all = needs.iter().zip(advice).filter(|(_, advice)| advice.action == Action::Upgrade);
    let said = |(need, advice): (&Need, &Advice)| {
        // What the kernel killed is told by itself.
        let why = advice.reasons.iter().find(|why| !why.starts_with("The kernel killed"));
        let why = why.map_or("", String::as_str);
        let weight = match advice.confidence {
            Confidence::High => 2.0,
            Confidence::Medium => 1.0,
            Confidence::Low => 0.0,
        };
        let text = format!("{} {why}", advice.headline()).trim_end().to_owned();
        Said { server: need.server.clone(), weight, level: Level::Warning, text }
    };
    all.map(said).collect()
}

/// What the advice comes to, in money and in servers.
pub(super) fn finding(advice: &[Advice]) -> Option<Finding> {
    let (mut more, mut less, mut n_less) = (0.0, 0.0, 0_u64);
    for advice in advice {
        let difference = advice.difference.unwrap_or(0.0);
        if difference > 0.0 {
            more += difference;
        } else if difference < 0.0 && advice.confidence > Confidence::Low {
            less -= difference;
            n_less += 1;
        }
    }
    let currency = advice.first().map_or("", |advice| advice.currency.as_str());
    let mut said = Vec::new();
    if more > 0.0 {
        said.push(format!("All larger plans together cost {more:.2} {currency} a month more."));
    }
    if less > 0.0 {
        said.push(format!(
            "Smaller plans would save {less:.2} {currency} a month on {}, counting advice of which it is at \
             least fairly sure.",
            many(n_less, "server", "servers")
        ));
    }
    let n_unknown = advice.iter().filter(|advice| advice.action == Action::NotEnoughData).count();
    if n_unknown > 0 {
        let few = many(n_unknown as u64, "server", "servers");
        said.push(format!(
            "Of {few} too little is known to advise: too short a time, or too many gaps."
        ));
    }
    (!said.is_empty()).then(|| Finding { level: Level::Note, text: said.join(" ") })
}
