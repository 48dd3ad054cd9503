//! Reports: capacity, outages and noise, as pages that justify a decision.
//!
//! ```text
//! store -> gather -> capacity | outage | noise -> document -> render: html, text, csv, json
//!                    forecast, advice, plans
//! ```
//!
//! Only `gather` reads; everything after it is pure. A figure is put into the document once, with its
//! unit and definition, so every format tells the same numbers. One report is made at a time: a large
//! one takes both memory and time, and small ones are short.

pub mod advice;
pub mod ask;
pub mod wanted;
pub mod gather;
pub mod capacity;
pub mod document;
pub mod forecast;
mod column;
mod words;
pub mod need;
pub mod noise;
pub mod outage;
pub mod plans;
pub mod settings;
pub mod render;
pub mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use wire::UnixMillis;

use crate::config::ReportConfig;
use crate::store::history::{self, History, Limits, Notes, Told};
use crate::store::{ReadResult, Store, StoreError};
use ask::{Ask, Progress};
use document::{Kind, Report};
use gather::Members;
use settings::Settings;
use wanted::{Refusal, Wanted, minute};

/// How long the reading for a report may take: some fifty times what a large fleet needs.
const READ_TIME: Duration = Duration::from_secs(15 * 60);
/// Holes told one by one; the others are counted.
const HOLES_TOLD: usize = 20;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Whoever asked can mend it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Only a part could be read, and a report of a part would tell wrong numbers.
    #[error("the report is not made: {0}")]
    Cut(String),
    /// The catalogue of plans that the config names has faults.
    #[error("the catalogue of plans cannot be used: {0}")]
    Plans(String),
    /// A bug.
    #[error("the making of the report broke off")]
    Broke,
}

/// Makes reports for whoever asks, one at a time; cheap to clone.
#[derive(Clone)]
pub struct Desk {
    store: Store,
    config: Arc<ReportConfig>,
    turns: Arc<Semaphore>,
    n_asked: Arc<AtomicUsize>,
}

/// Somebody who asked, until the report is made or nobody wants it any more.
#[derive(Debug)]
pub struct Place {
    n_asked: Arc<AtomicUsize>,
    /// How many asked before and are not done.
    pub n_before: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.n_asked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    /// Of this store; `config` holds where nothing else is asked.
    #[must_use]
    pub fn new(store: Store, config: ReportConfig) -> Self {
        let turns = Arc::new(Semaphore::new(1));
        Self { store, config: Arc::new(config), turns, n_asked: Arc::default() }
    }

    /// Takes a place behind those who asked before.
    #[must_use]
    pub fn ask(&self) -> Place {
        let n_before = self.n_asked.fetch_add(1, Ordering::Relaxed);
        Place { n_asked: Arc::clone(&self.n_asked), n_before }
    }

    /// Waits for its turn and makes the report. When the future is dropped, reading ends soon, and what
    /// is computed then ends with its step.
    pub async fn make(
        &self,
        place: Place,
        wanted: &Wanted,
        now: UnixMillis,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Told<Report>, ReportError> {
        let (ask, said) = wanted.check(now)?;
        let settings = wanted.settings(&self.usual(wanted)?)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| ReportError::Broke)?;
        // They go along: whoever asked may leave before the work ends.
        let held = (turn, place);
        let progress = move |told| {
            let _held = &held;
            progress(told);
        };
        let mut made = make(&self.store, ask, settings, progress).await?;
        made.value.caveats.splice(0..0, said);
        Ok(made)
    }
}

impl Desk {
    /// What the config says. Its catalogue is read anew, where a report needs it.
    fn usual(&self, wanted: &Wanted) -> Result<Settings, ReportError> {
        let mut config = (*self.config).clone();
        if wanted.kind != Kind::Capacity || wanted.plans.is_some() {
            config.plans = None;
        }
        config.settings().map_err(|error| {
            let told: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
            ReportError::Plans(told.join("; "))
        })
    }
}

/// Reads and makes a report; what is missing in it stands in its caveats and beside it.
///
/// Cost: see the kinds. Ends soon after it is dropped.
pub async fn make(
    store: &Store,
    ask: Ask,
    settings: Settings,
    mut progress: impl FnMut(Progress) + Send + 'static,
) -> Result<Told<Report>, ReportError> {
    let by = settings.by.clone();
    let read = move |history: &History<'_>| {
        let members = gather::members(history, &ask)?;
        if let Some(refusal) = refusal(history, &ask, &members, &by)? {
            return Ok(Err(refusal));
        }
        let gathered = Gathered::read(history, &ask, &members, &mut progress)?;
        Ok(Ok((gathered, ask, progress)))
    };
    let Told { value, notes } = store.history(Limits::within(READ_TIME), read).await?;
    let (gathered, ask, mut progress) = value?;
    if let Some(why) = notes.cut {
        return Err(ReportError::Cut(why));
    }
    let made = tokio::task::spawn_blocking(move || {
        progress(Progress { what: "computes", n_done: 0, n: 1 });
        let report = gathered.report(&settings, &ask);
        progress(Progress { what: "computes", n_done: 1, n: 1 });
        report
    });
    let mut report = made.await.map_err(|_| ReportError::Broke)?;
    report.caveats.extend(caveats(&notes));
    Ok(Told { value: report, notes })
}

/// What was read for a report.
enum Gathered {
    Capacity(capacity::Input),
    Outage(outage::Input),
    Noise(noise::Input),
}

impl Gathered {
    fn read(
        history: &History<'_>,
        ask: &Ask,
        members: &Members,
        progress: &mut dyn FnMut(Progress),
    ) -> ReadResult<Self> {
        Ok(match ask.kind {
            Kind::Capacity => {
                Self::Capacity(gather::capacity::capacity(history, ask, members, progress)?)
            }
            Kind::Outage => Self::Outage(gather::outage::outage(history, ask, members, progress)?),
            Kind::Noise => Self::Noise(gather::noise::noise(history, ask, members, progress)?),
        })
    }

    fn report(&self, settings: &Settings, ask: &Ask) -> Report {
        match self {
            Self::Capacity(input) => capacity::report(input, settings, ask),
            Self::Outage(input) => outage::report(input, settings, ask),
            Self::Noise(input) => noise::report(input, settings, ask),
        }
    }
}

/// Why there is nobody to report on, or nothing to put them together by.
fn refusal(
    history: &History<'_>,
    ask: &Ask,
    members: &Members,
    by: &[String],
) -> ReadResult<Option<Refusal>> {
    let everybody = Ask { server: None, labels: BTreeMap::new(), ..ask.clone() };
    let all = if ask.server.is_none() && ask.labels.is_empty() {
        members.clone()
    } else {
        gather::members(history, &everybody)?
    };
    Ok(no_member(ask, members, &all).or_else(|| no_label(by, &all)))
}

fn no_member(ask: &Ask, members: &Members, all: &Members) -> Option<Refusal> {
    if all.is_empty() {
        let fix = "let a server join: `gatewatch-collector token create`";
        return Some(Refusal::missing("no server has joined yet", fix));
    }
    if !members.is_empty() {
        return None;
    }
    let names = || all.values().map(|member| member.name.as_str());
    if let Some(server) = ask.server.as_ref().filter(|server| names().all(|name| name != **server))
    {
        let what = format!("there is no server {server:?}");
        return Some(Refusal::missing(what, hint(server, names(), "agent list")));
    }
    let unknown = ask.labels.keys().find(|key| values_of(all, key).is_empty());
    if let Some(key) = unknown {
        return Some(unknown_label(key, all));
    }
    let unknown = ask.labels.iter().find(|(key, value)| !values_of(all, key).contains(&***value));
    if let Some((key, value)) = unknown {
        let known = values_of(all, key);
        let what = format!("no server has {key}={value}");
        return Some(Refusal::missing(what, hint(value, known.into_iter(), "agent list")));
    }
    let what = "no server has all of that at once";
    Some(Refusal::missing(what, "ask for fewer labels; `agent list` shows who has which"))
}

fn no_label(by: &[String], all: &Members) -> Option<Refusal> {
    let unknown = by.iter().find(|key| values_of(all, key).is_empty());
    unknown.map(|key| unknown_label(key, all))
}

fn unknown_label(key: &str, all: &Members) -> Refusal {
    let keys: BTreeSet<&str> =
        all.values().flat_map(|member| member.labels.keys()).map(String::as_str).collect();
    let what = format!("no server has a label {key:?}");
    Refusal::missing(what, hint(key, keys.into_iter(), "agent list"))
}

/// Values of a label that servers have.
fn values_of<'a>(all: &'a Members, key: &str) -> BTreeSet<&'a str> {
    all.values().filter_map(|member| member.labels.get(key)).map(String::as_str).collect()
}

/// Names near to what was written, else where they are listed.
fn hint<'a>(written: &str, names: impl Iterator<Item = &'a str>, listed_by: &str) -> String {
    let near = history::near(written, names);
    if near.is_empty() {
        return format!("`gatewatch-collector {listed_by}` shows what there is");
    }
    let near: Vec<String> = near.iter().map(|name| format!("{name:?}")).collect();
    format!("did you mean {}?", near.join(" or "))
}

/// What is missing in what was read, a sentence each.
fn caveats(notes: &Notes) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for hole in notes.holes.iter().take(HOLES_TOLD) {
        let of = hole.server.as_deref().unwrap_or("all servers");
        told.push(format!(
            "History of {of} from {} to {} is {}: what only it has is not in these figures.",
            minute(hole.from),
            minute(hole.to),
            hole.why
        ));
    }
    if let Some(n_more @ 1..) = notes.holes.len().checked_sub(HOLES_TOLD) {
        told.push(format!("So is history of {n_more} more times."));
    }
    if notes.n_batches_unreadable > 0 {
        let n = notes.n_batches_unreadable;
        told.push(format!("{n} stored batches cannot be read: what they hold is missing here."));
    }
    told
}

#[cfg(test)]
mod tests;
