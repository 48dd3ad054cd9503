//! How a receiver is told: over HTTP, or by e-mail.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use wire::UnixMillis;

use super::email::EmailSender;
use super::fault::Fault;
use super::http::HttpSender;
use super::message::Message;
use super::page::Page;
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

    /// One that will not.
    pub fn refused(why: impl Into<String>) -> Self {
        Self { why: why.into(), retry_after: None, is_final: true }
    }
}

/// A way to a receiver.
#[derive(Clone, Debug)]
pub enum Sender {
    /// Everything over HTTP.
    Http(Box<HttpSender>),
    /// Mail.
    Email(EmailSender),
}

impl Sender {
    /// `Err` lists what is wrong with the configuration.
    pub fn new(config: &NotifyConfig) -> Result<Self, Vec<Fault>> {
        match config.kind.as_str() {
            "email" => EmailSender::new(config).map(Self::Email),
            _ => HttpSender::new(config).map(Box::new).map(Self::Http),
        }
    }

    /// Where it goes, for logs: never with a secret.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Http(http) => http.place(),
            Self::Email(email) => email.place(),
        }
    }

    /// Counts bodies for which the built-in template had to stand in, because the operator's failed.
    pub fn count_fallbacks_in(&mut self, n_fallbacks: &Arc<AtomicU64>) {
        match self {
            Self::Http(http) => http.count_fallbacks_in(n_fallbacks),
            Self::Email(email) => email.count_fallbacks_in(n_fallbacks),
        }
    }

    /// Sends once. `chart`: a PNG of the failures, shown where the channel shows pictures.
    pub async fn send(
        &self,
        message: &Message,
        page: &Page,
        chart: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<(), SendError> {
        match self {
            Self::Http(http) => http.send(message, page, chart, now).await,
            Self::Email(email) => email.send(message, page, chart, now).await,
        }
    }

    /// Tells a receiver that forgets again what is not over; those that do not forget are not told.
    pub async fn send_again(
        &self,
        told: &[(Message, Page)],
        now: UnixMillis,
    ) -> Result<(), SendError> {
        match self {
            Self::Http(http) => http.send_again(told, now).await,
            Self::Email(_) => Ok(()),
        }
    }
}
