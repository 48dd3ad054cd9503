//! What a fleet has told people, counted when nothing more can come of what it has judged: a test that
//! looks too early passes for the wrong reason.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::incident::Incident;
use crate::wait::eventually;
use crate::webhook::Webhook;

/// Traffic that must be judged after the last thing that happened to any incident, ms. Longer than any
/// wait of a notification, and than it takes a wider scope to win.
const CALM_MS: i64 = 6_000;

/// All incidents and all messages of a fleet that has settled.
#[derive(Clone, Debug)]
pub struct Told {
    incidents: Vec<Incident>,
    /// Event and id of the incident of each message, in the order they came; a repeat of a delivery
    /// is left out.
    events: Vec<(String, String)>,
}

impl Fleet {
    /// Waits until the incidents satisfy `is_done`, 6 s of traffic were judged after anything happened
    /// to one of them, and no message is owed to anybody; then returns all of it.
    ///
    /// Shortage on the machine the tests run on is nothing they play: `pressure` is left out.
    #[must_use]
    pub fn told(
        &self,
        what: &str,
        limit: Duration,
        webhook: &Webhook,
        is_done: impl Fn(&[Incident]) -> bool,
    ) -> Told {
        eventually(&format!("settled: {what}"), limit, || {
            let judged = self.db().judged_until()?;
            let mut incidents = self.incidents()?;
            incidents.retain(|incident| incident.text("/kind") != "pressure");
            let state = || {
                let lines = incidents.iter().map(|incident| incident.json().to_string());
                format!("judged until {judged}\n{}", lines.collect::<Vec<_>>().join("\n"))
            };
            let last = incidents.iter().filter_map(Incident::last_moment_ms).max();
            let is_calm = last.is_some_and(|last| judged >= last + CALM_MS);
            if !is_calm || !is_done(&incidents) {
                return Err(state());
            }
            match self.db().n_owed()? {
                0 => Ok(Told { incidents, events: events(webhook) }),
                n => Err(format!("{n} messages are owed; {}", state())),
            }
        })
    }
}

impl Told {
    /// Every incident, those that went into others too.
    #[must_use]
    pub fn incidents(&self) -> &[Incident] {
        &self.incidents
    }

    /// Those that are no part of another one, the oldest first.
    #[must_use]
    pub fn tops(&self) -> Vec<&Incident> {
        let mut tops: Vec<_> = self.incidents.iter().filter(|i| i.is_top()).collect();
        tops.sort_by_key(|incident| incident.id().to_owned());
        tops
    }

    /// The one there is; it is an error if there is another.
    #[must_use]
    pub fn only(&self) -> &Incident {
        match self.tops()[..] {
            [only] => only,
            _ => panic!("{} incidents instead of one: {self:#?}", self.tops().len()),
        }
    }

    /// Messages with this event, by incident.
    #[must_use]
    pub fn n_told(&self, event: &str) -> BTreeMap<&str, usize> {
        let mut n = BTreeMap::new();
        for (_, id) in self.events.iter().filter(|(of, _)| of == event) {
            *n.entry(id.as_str()).or_default() += 1;
        }
        n
    }

    /// People were paged once for each of the incidents there are, and heard of nothing else.
    pub fn assert_one_page_each(&self) {
        let pages: BTreeMap<&str, usize> = self.tops().iter().map(|top| (top.id(), 1)).collect();
        assert_eq!(self.n_told("opened"), pages, "pages: {self:#?}");
        let stranger = self.events.iter().find(|(_, id)| !pages.contains_key(id.as_str()));
        assert_eq!(stranger, None, "people heard of an incident that nobody opened: {self:#?}");
    }

    /// The same, and once that each is over.
    pub fn assert_told_from_start_to_end(&self) {
        self.assert_one_page_each();
        assert_eq!(self.n_told("resolved"), self.n_told("opened"), "ends: {self:#?}");
        let last = self.events.last().map(|(event, _)| event.as_str());
        assert_eq!(last, Some("resolved"), "nothing follows the end: {self:#?}");
    }
}

fn events(webhook: &Webhook) -> Vec<(String, String)> {
    let mut seen = std::collections::BTreeSet::new();
    let mut events = Vec::new();
    for message in webhook.deliveries().iter().map(crate::webhook::Delivery::json) {
        let text = |pointer: &str| {
            let text = message.pointer(pointer).and_then(serde_json::Value::as_str);
            text.unwrap_or_else(|| panic!("no {pointer} in {message}")).to_owned()
        };
        // A retry, or a repeat after a crash, is the same message.
        if seen.insert(text("/delivery")) {
            events.push((text("/event"), text("/incident/id")));
        }
    }
    events
}
