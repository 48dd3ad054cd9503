//! What a receiver was told, message by message, and routes of one's own to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::webhook::{Delivery, Webhook};

impl Webhook {
    /// What `collector.toml` says of a route to it that has a name and hears what these lines say.
    #[must_use]
    pub fn route(&self, name: &str, lines: &str) -> String {
        route_toml(&self.url(), &self.key_file(), &format!("name = \"{name}\"\n{lines}\n"))
    }

    /// The file with the key that signs its messages.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        let toml = self.toml();
        let line = toml.lines().find_map(|line| line.strip_prefix("secret_file = "));
        PathBuf::from(line.expect("a webhook has a key").trim_matches('"'))
    }

    /// What a message of this body that was sent at `t` (s since the epoch) would be signed with.
    #[must_use]
    pub fn signature(&self, t: i64, body: &[u8]) -> String {
        let key = fs::read(self.key_file()).expect("it is ours");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        let tag = ring::hmac::sign(&key, &[format!("{t}.").as_bytes(), body].concat());
        let hex = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat();
        format!("t={t},v1={hex}")
    }

    /// Every message once, in the order in which they first came: a retry, or a repeat after a crash, is
    /// the same message.
    #[must_use]
    pub fn messages(&self) -> Vec<Value> {
        let mut seen = BTreeSet::new();
        let mut messages: Vec<Value> = self.deliveries().iter().map(Delivery::json).collect();
        messages.retain(|message| {
            let delivery = message["delivery"].as_str();
            let delivery = delivery.unwrap_or_else(|| panic!("no delivery in {message}"));
            seen.insert(delivery.to_owned())
        });
        messages
    }

    /// The messages about one incident.
    #[must_use]
    pub fn messages_about(&self, incident: &str) -> Vec<Value> {
        let mut messages = self.messages();
        messages.retain(|message| message["incident"]["id"] == incident);
        messages
    }

    /// Events of the messages about one incident.
    #[must_use]
    pub fn events_about(&self, incident: &str) -> Vec<String> {
        let event = |message: &Value| message["event"].as_str().map(str::to_owned);
        self.messages_about(incident).iter().filter_map(event).collect()
    }
}

/// A `[[notify]]` table of a webhook, with these lines more.
#[must_use]
pub fn route_toml(url: &str, key_file: &Path, lines: &str) -> String {
    let key = key_file.display();
    format!("[[notify]]\nkind = \"webhook\"\nurl = \"{url}\"\nsecret_file = \"{key}\"\n{lines}")
}
