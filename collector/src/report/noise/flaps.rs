//! Services that come and go. Pure.

use std::collections::BTreeMap;

use wire::UnixMillis;

use super::Input;
use crate::model::ServerId;
use crate::report::column::{about, figure};
use crate::report::document::{Block, Column, Section, Table, Unit, Value};
use crate::report::words;

const ROWS_MAX: usize = 50;
/// Longest word for how a run ended: systemd has none longer.
const RESULT_CHARS_MAX: usize = 32;
/// States kept of one service.
const STATES_MAX: usize = 20_000;
/// States that systemd knows; any other is the last one.
const NAMES: [&str; 7] =
    ["active", "reloading", "activating", "deactivating", "inactive", "failed", "other"];

/// What a service said of itself at an instant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    name: &'static str,
    /// Automatic restarts since somebody started it.
    n_restarts: Option<u32>,
    /// How its last run ended.
    result: String,
}

/// The states of one service in a time, in whatever order they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// By the instant since when; of one instant the last one told.
    states: BTreeMap<UnixMillis, State>,
    /// More were told than are kept.
    pub is_cut: bool,
}

/// How a service fared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Times it became `failed`.
    pub n_failed: u64,
    /// Automatic restarts.
    pub n_restarts: u64,
    /// Changes of its state.
    pub n_changes: u64,
    /// Its last change.
    pub last: Option<UnixMillis>,
    /// How it ended last when it did not end well: `oom-kill`, `signal`.
    pub result: Option<String>,
}

impl Restarts {
    /// How much trouble it made.
    pub(super) fn n(&self) -> u64 {
        self.n_failed + self.n_restarts
    }
}

impl Lives {
    /// Takes a state; said again it changes nothing. Whether it was new: kept, or left out.
    pub fn add(
        &mut self,
        at: UnixMillis,
        state: &str,
        n_restarts: Option<u32>,
        result: &str,
    ) -> bool {
        let name = NAMES.into_iter().find(|name| *name == state).unwrap_or("other");
        let new = State { name, n_restarts, result: words::short(result, RESULT_CHARS_MAX) };
        if let Some(known) = self.states.get_mut(&at) {
            // Told twice for one instant: which one counts hangs on no order of reading.
            if (new.n_restarts, new.name) > (known.n_restarts, known.name) {
                *known = new;
            }
            return false;
        }
        if self.is_cut || self.states.len() >= STATES_MAX {
            self.is_cut = true;
        } else {
            self.states.insert(at, new);
        }
        true
    }

    /// What became of it.
    #[must_use]
    pub fn restarts(&self) -> Restarts {
        let mut found = Restarts::default();
        let mut before: Option<&State> = None;
        for (at, now) in &self.states {
            if let Some(before) = before {
                if before.name != now.name {
                    found.n_changes += 1;
                    found.n_failed += u64::from(now.name == "failed");
                    found.last = Some(*at);
                }
                // Where somebody starts it the count begins anew.
                if let (Some(earlier), Some(later)) = (before.n_restarts, now.n_restarts)
                    && later > earlier
                {
                    found.n_restarts += u64::from(later - earlier);
                    found.last = Some(*at);
                }
            }
            if !now.result.is_empty() && now.result != "success" {
                found.result = Some(now.result.clone());
            }
            before = Some(now);
        }
        found
    }
}

/// Services with failures or restarts, the most first.
pub(super) fn ranked(input: &Input) -> Vec<(&(ServerId, String), Restarts)> {
    let of = input.services.iter().map(|(of, lives)| (of, lives.restarts()));
    let mut all: Vec<_> = of.filter(|(_, restarts)| restarts.n() > 0).collect();
    all.sort_by(|a, b| (b.1.n(), b.1.n_changes, a.0).cmp(&(a.1.n(), a.1.n_changes, b.0)));
    all
}

/// The ranking.
pub(super) fn section(input: &Input) -> Section {
    const COLUMNS: [Column; 7] = [
        about(
            "service",
            "service",
            "systemd unit, or name of the process where there is no systemd",
        ),
        about("server", "server", "the server it is on"),
        figure(
            "restarts",
            "restarts",
            Unit::Count,
            "automatic restarts, by the unit's own count between its first and last state seen in the report's time",
        ),
        figure(
            "failures",
            "failures",
            Unit::Count,
            "times it became `failed` after another state; a service that restarts without rest is failed",
        ),
        figure("changes", "changes", Unit::Count, "times its state became another one"),
        figure(
            "ended",
            "how it ended",
            Unit::Text,
            "how it ended the last time that it did not end well, as systemd says it",
        ),
        figure("last", "last change", Unit::Time, "its last change or restart, UTC"),
    ];
    let row = |((server, unit), restarts): &(&(ServerId, String), Restarts)| {
        let server = input.servers.get(server).map_or("", |server| server.name.as_str());
        let ended = restarts.result.clone();
        vec![
            Value::Text(unit.clone()),
            Value::Text(server.to_owned()),
            Value::Count(restarts.n_restarts),
            Value::Count(restarts.n_failed),
            Value::Count(restarts.n_changes),
            ended.map_or(Value::Unknown("it is not known"), Value::Text),
            restarts.last.map_or(Value::Unknown("there is none"), Value::Time),
        ]
    };
    let table = Table {
        key: "services",
        title: "Services that failed or restarted".to_owned(),
        columns: COLUMNS.to_vec(),
        rows: ranked(input).iter().take(ROWS_MAX).map(row).collect(),
        empty: "No service failed or restarted by itself.",
    };
    Section {
        key: "services",
        title: "Services".to_owned(),
        text: Vec::new(),
        blocks: vec![Block::Table(table)],
    }
}
