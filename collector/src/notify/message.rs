//! A message as the outbox keeps it, whole: what every try sends.

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::mailing::Mailing;
use crate::model::{Incident, NotifyEvent};

/// What a message tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An incident began.
    Opened,
    /// It grew, or its scope or cause changed.
    Updated,
    /// It ended.
    Resolved,
    /// What began since the last digest.
    Digest,
    /// A report whose time has come.
    Report,
    /// Somebody tries the route.
    Test,
}

impl Event {
    /// As it stands in messages and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Updated => "updated",
            Self::Resolved => "resolved",
            Self::Digest => "digest",
            Self::Report => "report",
            Self::Test => "test",
        }
    }
}

impl From<NotifyEvent> for Event {
    fn from(event: NotifyEvent) -> Self {
        match event {
            NotifyEvent::Opened => Self::Opened,
            NotifyEvent::Updated => Self::Updated,
            NotifyEvent::Resolved => Self::Resolved,
        }
    }
}

/// One message to one route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// What it tells.
    pub event: Event,
    /// ULID of its decision; the same on every try.
    pub delivery: String,
    /// When it was decided.
    #[serde(default = "epoch", with = "wire::rfc3339")]
    pub at: UnixMillis,
    /// Why it is told now, in words: what is new about the incident, or who did not answer.
    #[serde(default)]
    pub reason: String,
    /// The incident as it stood then; null only in a digest and a report.
    pub incident: Option<Incident>,
    /// The incident as this route was told it last.
    #[serde(default)]
    pub before: Option<Incident>,
    /// What changed back before it was over, in words; only of a resolution.
    #[serde(default)]
    pub changed_back: Option<String>,
    /// Incidents of a digest, oldest first.
    #[serde(default)]
    pub digest: Vec<Incident>,
    /// The report, rendered; only of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<Mailing>>,
}

fn epoch() -> UnixMillis {
    UnixMillis(0)
}
