//! Numbers and plans in sentences. Pure.

use wire::units::Bytes;

use super::{Action, Advice, Resource};
use crate::report::need::Size;
use crate::report::plans::Plan;

/// `14.90 EUR`.
pub(super) fn money(amount: f64, currency: &str) -> String {
    format!("{amount:.2} {currency}")
}

/// `83 %`; the smaller it is the more decimals: `4.2 %`, `1.01 %`.
pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    match percent.abs() {
        size if size == 0.0 || size >= 9.95 => format!("{percent:.0} %"),
        size if size < 0.005 => "less than 0.01 %".to_owned(),
        size if size < 2.0 => format!("{} %", number(percent)),
        _ => format!("{} %", number((10.0 * percent).round() / 10.0)),
    }
}

/// Bytes with a unit that fits.
pub(super) fn bytes(bytes: f64) -> String {
    Bytes(bytes.clamp(0.0, u64::MAX as f64) as u64).rounded()
}

/// `4 processors`, `1 processor`, `0.5 processors`.
pub(super) fn processors(n: f64) -> String {
    let shown = number(n);
    if shown == "1" { "1 processor".to_owned() } else { format!("{shown} processors") }
}

/// With at most two decimals: `3.4`, `4`, `0.25`.
pub(super) fn number(n: f64) -> String {
    let text = format!("{n:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `1 minute`, `12 minutes`.
pub(super) fn n_of(n: u64, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// Days, rounded as far as anybody cares.
pub(super) fn days(days: f64) -> String {
    let shown =
        if days < 9.95 { number((10.0 * days).round() / 10.0) } else { format!("{days:.0}") };
    if shown == "1" { "1 day".to_owned() } else { format!("{shown} days") }
}

/// When something ends, in so many days: `in about 9 days`, `within a day`.
pub(super) fn in_days(days: f64) -> String {
    if days < 1.0 { "within a day".to_owned() } else { format!("in about {}", self::days(days)) }
}

/// `medium of northcloud`.
pub(super) fn plan(plan: &Plan) -> String {
    match &plan.provider {
        Some(provider) => format!("{} of {provider}", plan.name),
        None => plan.name.clone(),
    }
}

/// `4 processors and 8.0 GiB of memory`.
pub(super) fn size(vcpu: Option<f64>, memory_bytes: Option<f64>) -> String {
    let memory = memory_bytes.map(|memory| format!("{} of memory", bytes(memory)));
    let parts: Vec<String> = vcpu.map(processors).into_iter().chain(memory).collect();
    parts.join(" and ")
}

/// A server whose label names a plan of another size.
pub(super) fn wrong_label(named: &Plan, has: &Size) -> String {
    format!(
        "Its label names {}, which has {}, but the server has {}: correct the label. Until then what it \
         costs is not known.",
        plan(named),
        size(Some(named.vcpu), Some(named.memory_bytes as f64)),
        size(has.vcpu, has.memory_bytes),
    )
}

/// What a server needs at least, in words.
pub(super) fn needs(needs: &Size) -> String {
    let disk = needs.disk_bytes.map(|disk| format!("{} of disk", bytes(disk)));
    let memory = needs.memory_bytes.map(|memory| format!("{} of memory", bytes(memory)));
    // Plans have whole ones, but for the smallest.
    let vcpu = needs.vcpu.map(|n| processors(if n > 1.0 { n.ceil() } else { n }));
    let parts: Vec<String> = vcpu.into_iter().chain(memory).chain(disk).collect();
    parts.join(", ")
}

/// See [`Advice::headline`].
pub(super) fn headline(advice: &Advice) -> String {
    let name = |of: Option<&Plan>| of.map(plan);
    let from = name(advice.current.as_ref());
    let on = from.as_ref().map(|from| format!(" {from}")).unwrap_or_default();
    match (advice.action, &advice.to) {
        (Action::NotEnoughData, _) => "There is not enough data for advice.".to_owned(),
        (Action::Stay, _) => match from {
            Some(from) => format!("Stay on {from}."),
            None => "Stay on this plan.".to_owned(),
        },
        (Action::MoveHost, _) => {
            format!("Keep the plan{on} and ask the provider for another host.")
        }
        (Action::Upgrade, None) if advice.currency.is_empty() => {
            format!("Take a larger plan: at least {}.", needs(&advice.needs))
        }
        (Action::Upgrade, None) => format!(
            "A larger plan is needed, at least {}; the catalogue has none.",
            needs(&advice.needs)
        ),
        (action, to) => {
            let is_as_large = |from: &Plan| to.as_ref().is_some_and(|to| to.is_as_large_as(from));
            let verb = match action {
                Action::Downgrade if advice.current.as_ref().is_some_and(is_as_large) => "Change",
                Action::Downgrade => "Downgrade",
                _ => "Upgrade",
            };
            let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
            let target = name(to.as_ref()).map(|to| format!(" to {to}")).unwrap_or_default();
            let cost = to.as_ref().map(|to| cost(advice, to.price)).unwrap_or_default();
            let beside = if advice.asks_for_move { ", and ask for another host" } else { "" };
            format!("{verb}{from}{target}{beside}: {cost}.")
        }
    }
}

fn cost(advice: &Advice, price: f64) -> String {
    let currency = &advice.currency;
    match advice.difference {
        Some(more) if more >= 0.005 => {
            format!("{} a month more ({})", money(more, currency), money(price, currency))
        }
        Some(less) if less <= -0.005 => {
            format!("{} a month less ({})", money(-less, currency), money(price, currency))
        }
        Some(_) => format!("the same {} a month", money(price, currency)),
        None => format!("{} a month", money(price, currency)),
    }
}

/// `once`, `twice`, `7 times`.
pub(super) fn times(n: u64) -> String {
    match n {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        n => format!("{n} times"),
    }
}

/// A quantity whose unit the sentence says anyway: `3.4`, `6.1 GiB`.
pub(super) fn quantity(resource: Resource, quantity: f64) -> String {
    match resource {
        Resource::Cpu => number(quantity),
        Resource::Memory | Resource::Disk => bytes(quantity),
    }
}

/// What is measured of a resource.
pub(super) fn usage(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "how busy its processors are",
        Resource::Memory => "how full its memory is",
        Resource::Disk => "how full its disk is",
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(parts: &[String]) -> String {
    match parts.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
    }
}

/// A quantity with what it is of: `3.4 processors`, `6.1 GiB of memory`.
pub(super) fn amount_of(resource: Resource, quantity: f64) -> String {
    match resource {
        Resource::Cpu => processors(quantity),
        Resource::Memory | Resource::Disk => format!("{} of {}", bytes(quantity), resource.name()),
    }
}
