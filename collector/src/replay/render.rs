//! Lines of a replay's output: `{"at","event","incident"}`, with `--explain` also `"trail"`, and in the
//! end `{"at","event":"left","weighed"}` for each scope that was weighed and never taken.

use std::io::{self, Write};

use serde::Serialize;
use wire::UnixMillis;

use crate::detect::trail::{Standing, Weighed};
use crate::model::{Incident, Transition, TransitionEvent};

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// When, on the clock of the replay.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// What happened.
    pub event: TransitionEvent,
    /// The incident after it.
    pub incident: Incident,
    /// What the decision rests on, when that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trail: Option<Trail>,
}

/// What a decision rests on. The rows of the cause, with their nats, are in the incident itself.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trail {
    /// Every scope that was weighed at that instant, and why it was taken (`rejected` null) or left.
    pub weighed: Vec<Weighed>,
    /// Where the tests of the incident's failing sites stood.
    pub sites: Vec<Standing>,
}

/// A scope that never was taken, at its best.
#[derive(Debug, Serialize)]
pub struct Left<'a> {
    /// When it came closest.
    #[serde(with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// `left`.
    pub event: &'static str,
    /// What it weighed then, and what it lacked.
    pub weighed: &'a Weighed,
}

impl Told {
    /// What people see of a transition.
    #[must_use]
    pub fn new(transition: Transition, trail: Option<Trail>) -> Self {
        Self { at: transition.at, event: transition.event, incident: transition.incident, trail }
    }
}

/// Writes one line of JSON.
pub fn write(out: &mut dyn Write, told: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    out.write_all(&line)
}
