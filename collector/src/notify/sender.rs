//! How a receiver is told: over HTTP, or by e-mail.

use std::time::Duration;

use wire::UnixMillis;

use super::message::Message;
use super::page::Page;
use super::webhook::Webhook;
use crate::config::NotifyConfig;

/// Why a message did not arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendError {
    /// In words, without any secret.
    pub why: String,
    /// How long the receiver asks to wait.
    pub retry_after: Option<Duration>,
    /// This message will never be taken: trying again is of no use.
    pub is_final: bool,
}

impl SendError {
    /// One that may pass.
    pub fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), retry_after: None, is_final: false }
    }
}

/// A way to a receiver.
#[derive(Clone, Debug)]
pub enum Sender {
    /// A signed webhook.
    Webhook(Webhook),
}

impl Sender {
    /// `Err` lists what is wrong with the configuration, `KEY: WHAT` each.
    pub fn new(config: &NotifyConfig) -> Result<Self, Vec<String>> {
        match config.kind.as_str() {
            "webhook" => Webhook::new(config).map(Self::Webhook).map_err(|what| vec![what]),
            kind => Err(vec![format!("kind: {kind:?} is not known here: use \"webhook\"")]),
        }
    }

    /// Where it goes, for logs: never with a secret.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Webhook(webhook) => webhook.place(),
        }
    }

    /// Sends once.
    pub async fn send(
        &self,
        message: &Message,
        _page: &Page,
        now: UnixMillis,
    ) -> Result<(), SendError> {
        match self {
            Self::Webhook(webhook) => {
                webhook.send(&webhook_body(message), now).await.map_err(SendError::passing)
            }
        }
    }
}

/// The webhook body of the contract.
fn webhook_body(message: &Message) -> String {
    serde_json::json!({
        "event": message.event,
        "delivery": message.delivery,
        "reason": message.reason,
        "incident": message.incident,
    })
    .to_string()
}
