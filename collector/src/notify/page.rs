//! What a page says: the view of a message that every template fills in; pure.

use serde::Serialize;

use super::message::{Event, Message};

/// A message for people. Every text in it may hold bytes of strangers' logs: a template escapes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page {
    /// `opened`, `updated`, `resolved`, `digest` or `test`.
    pub event: Event,
    /// The same on every try.
    pub delivery: String,
    /// One line, e.g. `CRITICAL: 37 of 41 sites on web-07 fail with 502 since 12:01:07: ...`.
    pub headline: String,
    /// Title of the incident.
    pub title: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// Address of the incident.
    pub link: String,
}

impl Page {
    /// The view of `message`; `links` is what the address of an incident begins with.
    #[must_use]
    pub fn new(message: &Message, links: &str) -> Self {
        let incident = message.incident.as_ref();
        let title = incident.map(|incident| incident.title.clone()).unwrap_or_default();
        let severity = incident.map_or("info", |incident| incident.severity.as_str()).to_owned();
        let id = incident.map(|incident| incident.id.as_str()).unwrap_or_default();
        Self {
            event: message.event,
            delivery: message.delivery.clone(),
            headline: format!("{}: {title}", severity.to_uppercase()),
            title,
            severity,
            link: format!("{links}/incidents/{id}"),
        }
    }
}
