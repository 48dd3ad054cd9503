//! Stage 10a: tells people.
//!
//! ```text
//! detective -> page -> clerk (routes, silences, hours) -> outbox -> teller, one per route -> sender
//! ```
//!
//! The detective puts a page down in the transaction of its decision; the clerk asks every route about
//! it and puts messages into the outbox in one transaction; a teller sends them and forgets a message
//! once it arrived. A dead receiver delays no other, and a crash at any point neither loses a message
//! nor makes another one of it: what is sent again has the same `delivery`.

pub mod address;
pub mod alertmanager;
pub mod answer;
pub mod chart;
pub mod clerk;
pub mod comeback;
pub mod context;
pub mod deadman;
mod desk;
pub mod digest;
pub mod email;
pub mod escape;
pub mod fault;
pub mod hours;
pub mod http;
pub mod kinds;
pub mod letter;
mod line;
pub mod mailing;
pub mod matcher;
pub mod message;
pub mod page;
pub mod place;
pub mod rate;
pub mod reach;
pub mod receiver;
pub mod route;
pub mod sample;
pub mod secret;
pub mod sender;
pub mod stats;
pub mod teller;
pub mod template;
pub mod trouble;
pub mod webhook;
pub mod words;
#[cfg(test)]
mod office;
#[cfg(test)]
mod clerk_tests;
#[cfg(test)]
mod clerk_life_tests;
#[cfg(test)]
mod clerk_trouble_tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::NotifyConfig;
use crate::store::Store;
use crate::{clock, errors};
pub use clerk::Clerk;
pub use deadman::Deadman;
pub use digest::Digest;
pub use fault::{Fault, Wrong};
use line::Line;
pub use message::{Event, Message};
pub use page::Page;
pub use receiver::{Receiver, receivers};
pub use route::Route;
pub use sender::{SendError, Sender};
pub use stats::Stats;
pub use teller::Pace;
use teller::Signals;

/// A configured receiver.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it wants to hear.
    pub route: Route,
    /// How it is told.
    pub sender: Sender,
    /// Messages a minute at most.
    pub messages_per_minute_max: u32,
    /// Which kind of receiver it is.
    pub kind: String,
    /// When it is told, if by digest.
    pub digest: Option<Digest>,
    /// How often it is told again what is not over; `None` when it does not forget.
    pub again_every: Option<Duration>,
}

/// Every `[[notify]]` table as a receiver; `Err` lists what is wrong, one line per problem.
pub fn targets(configs: &[NotifyConfig]) -> Result<Vec<Target>, Vec<String>> {
    let problems = check(configs);
    if !problems.is_empty() {
        return Err(problems);
    }
    let target = |(index, config): (usize, &NotifyConfig)| {
        let route = Route::new(config, index)?;
        let forgets = config.kind == "alertmanager";
        let sender = Sender::new(config)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        Ok(Target {
            digest: Digest::new(config, &route)?,
            route,
            sender,
            messages_per_minute_max: config.messages_per_minute_max,
            kind: config.kind.clone(),
            again_every: forgets.then_some(config.repeat_interval.0),
        })
    };
    configs.iter().enumerate().map(target).collect()
}

/// Everything that is wrong with the `[[notify]]` tables, one line `notify[INDEX].KEY: WHAT: FIX` per
/// problem.
#[must_use]
pub fn check(configs: &[NotifyConfig]) -> Vec<String> {
    faults(configs).iter().map(|(index, fault)| format!("notify[{index}].{fault}")).collect()
}

/// The same, each with the place of its table, from 0.
#[must_use]
pub fn faults(configs: &[NotifyConfig]) -> Vec<(usize, Fault)> {
    let (mut faults, mut names) = (Vec::new(), BTreeSet::new());
    for (index, config) in configs.iter().enumerate() {
        let mut found = kinds::check(config);
        if found.is_empty() {
            found.extend(Sender::new(config).err().into_iter().flatten());
            found.extend(unforeseen(config, index));
        }
        let name = config.route(index);
        if !names.insert(name.clone()) {
            let wrong = Wrong::new(format!("{name:?} is taken"), "give every route its own");
            found.push(wrong.at("name"));
        }
        faults.extend(found.into_iter().map(|fault| (index, fault)));
    }
    faults
}

/// What only the route itself finds: nothing, as long as [`kinds::check`] knows all it wants.
fn unforeseen(config: &NotifyConfig, index: usize) -> Vec<Fault> {
    let fault = |text: String| {
        let (key, what) = text.split_once(": ").unwrap_or(("kind", &text));
        Wrong::new(what, "write it as deploy/config/collector.toml shows it").at(key)
    };
    let made = Route::new(config, index).and_then(|route| Digest::new(config, &route));
    made.err().into_iter().flatten().map(fault).collect()
}

/// Decides and delivers until `stop` fires. What is on its way then may arrive until `cut` fires too.
pub async fn run(
    store: Store,
    mut targets: Vec<Target>,
    links: String,
    pace: Pace,
    stats: Arc<Stats>,
    (stop, cut): (CancellationToken, CancellationToken),
) {
    for target in &mut targets {
        target.sender.count_fallbacks_in(&stats.n_fallbacks);
    }
    let routes = targets.iter().map(|target| target.route.clone()).collect();
    let clerk = Clerk::new(store.clone(), routes);
    match clerk.prepare(clock::now()).await {
        Ok(0) => {}
        Ok(n_dropped) => {
            tracing::warn!(n_dropped, "dropped notifications of routes no longer configured");
        }
        Err(error) => tracing::error!(error = %errors::chain(&error), "outbox cannot be read"),
    }
    let digests = targets.iter().filter_map(|target| target.digest.clone()).collect();
    let digests = digest::run(store.clone(), digests, stop.clone());
    let library = context::Library::new(store.clone());
    let lines = targets.into_iter().map(|target| Line::new(&library, target, &links)).collect();
    let signals = Signals { stop: stop.clone(), cut, decided: clerk.decided() };
    let tellers = teller::run(store, lines, pace, stats, signals);
    tokio::join!(clerk.run(stop), digests, tellers);
}
