//! Lines of a replay's output: `{"at","event","incident"}`, with `--explain` also `"trail"`.

use std::io::{self, Write};

use serde::Serialize;
use wire::UnixMillis;

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
}

impl Told {
    /// What people see of a transition.
    #[must_use]
    pub fn new(transition: Transition) -> Self {
        Self { at: transition.at, event: transition.event, incident: transition.incident }
    }

    /// Writes it as a line of JSON.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        out.write_all(&line)
    }
}
