//! A configured receiver as people see it, and its trial.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wire::UnixMillis;
use wire::units::Span;

use super::sender::SendError;
use super::{Message, Page, Target, sample};
use crate::config::NotifyConfig;

/// Longest wait for the end of a trial, whatever the sender's own patience is.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(45);

/// A receiver with the words of its configuration that may be shown: no URL, no file.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// What is told how.
    pub target: Target,
    /// Its kind.
    pub kind: String,
    /// What it must match.
    pub matches: BTreeMap<String, String>,
    /// When it may be told; empty: always.
    pub hours: Vec<String>,
    /// When it gets its digest; empty: it gets none.
    pub digest: Vec<String>,
    /// Zone of both; `None`: the machine's.
    pub timezone: Option<String>,
    /// Told of what nobody acknowledged for so long.
    pub escalate_after: Option<Span>,
}

/// The receivers of a configuration and of the targets made of it, in its order.
#[must_use]
pub fn receivers(configs: &[NotifyConfig], targets: &[Target]) -> Arc<[Receiver]> {
    let receiver = |(config, target): (&NotifyConfig, &Target)| Receiver {
        target: target.clone(),
        kind: config.kind.clone(),
        matches: config.matches.clone(),
        hours: config.hours.clone(),
        digest: config.digest.clone(),
        timezone: config.timezone.clone(),
        escalate_after: config.escalate_after,
    };
    configs.iter().zip(targets).map(receiver).collect()
}

impl Receiver {
    /// Sends a test message once, whatever hours, silences and limits say.
    pub async fn try_out(&self, links: &str, now: UnixMillis) -> (Message, Result<(), SendError>) {
        let message = sample::message(now);
        let chart = sample::chart(now);
        let (page, picture) = (Page::new(&message, links, Some(&chart)), chart.png());
        let sent = self.target.sender.send(&message, &page, Some(&picture), now);
        let ended = tokio::time::timeout(TRIAL_TIME_MAX, sent).await.unwrap_or_else(|_| {
            Err(SendError::passing(format!("no answer within {} s", TRIAL_TIME_MAX.as_secs())))
        });
        (message, ended)
    }
}
