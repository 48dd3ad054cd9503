//! `[[notify]]` and `[deadman]`: where incidents are told, and the heartbeat.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use wire::units::Span;

/// `[[notify]]`: one receiver, and what it wants to hear. Which keys a kind takes: `notify::kinds`.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    /// `webhook`, `alertmanager`, `email`, `slack`, `teams`, `discord`, `telegram`, `ntfy`, `pagerduty`
    /// or `opsgenie`.
    pub kind: String,
    /// Name of the route, unique; default `KIND:INDEX`.
    pub name: Option<String>,
    /// Where to send: `https://...`; of an e-mail `smtp://HOST:PORT`.
    pub url: Option<String>,
    /// File that holds the URL, where that is a secret (Slack, Teams, Discord).
    pub url_file: Option<PathBuf>,
    /// File that holds the key, token or password.
    pub secret_file: Option<PathBuf>,
    /// Certificates, PEM, to trust instead of the built-in roots.
    pub ca_file: Option<PathBuf>,
    /// Least severity: `info`, `warning` or `critical`.
    pub min_severity: String,
    /// What it must match: labels of a server, or `server`, `site`, `pool`, `scope`, `kind`, `cause`;
    /// values may hold `*`. Any failing server is enough.
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, String>,
    /// When it may be told, e.g. `Mon-Fri 08:00-18:00`; empty: always.
    pub hours: Vec<String>,
    /// Time zone of `hours` and `digest`; default: the machine's.
    pub timezone: Option<String>,
    /// Told only of what nobody acknowledged for so long.
    pub escalate_after: Option<Span>,
    /// Instead of each incident, one message at these times, e.g. `Mon-Fri 08:00`, with what began since.
    pub digest: Vec<String>,
    /// Whether it hears that something is over.
    pub send_resolved: bool,
    /// Messages a minute at most; the others wait.
    pub messages_per_minute_max: u32,
    /// Alertmanager: how often it is told again what is not over, because it forgets.
    pub repeat_interval: Span,
    /// Template of the body (of an e-mail: of its text) in place of the built-in one.
    pub template_file: Option<PathBuf>,
    /// Template of an e-mail's HTML in place of the built-in one.
    pub html_template_file: Option<PathBuf>,
    /// E-mail: `starttls` (default), `implicit` or `none`.
    pub tls: Option<String>,
    /// E-mail: name to sign in with; the password is in `secret_file`.
    pub user: Option<String>,
    /// E-mail: sender.
    pub from: Option<String>,
    /// E-mail: receivers.
    pub to: Vec<String>,
    /// Telegram: chat to write to.
    pub chat_id: Option<String>,
    /// ntfy: topic to publish to.
    pub topic: Option<String>,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            kind: String::new(),
            name: None,
            url: None,
            url_file: None,
            secret_file: None,
            ca_file: None,
            min_severity: "warning".into(),
            matches: BTreeMap::new(),
            hours: Vec::new(),
            timezone: None,
            escalate_after: None,
            digest: Vec::new(),
            send_resolved: true,
            messages_per_minute_max: 30,
            repeat_interval: Span(Duration::from_secs(60)),
            template_file: None,
            html_template_file: None,
            tls: None,
            user: None,
            from: None,
            to: Vec::new(),
            chat_id: None,
            topic: None,
        }
    }
}

impl NotifyConfig {
    /// Name of the route that is the `index`-th of the file, from 0.
    #[must_use]
    pub fn route(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}:{index}", self.kind))
    }
}

/// `[deadman]`: a URL asked for while the collector is healthy, so that its silence rings a bell.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadmanConfig {
    /// Where to; the path may be a secret, so it is never shown.
    pub url: Option<String>,
    /// File that holds the URL, where that is a secret.
    pub url_file: Option<PathBuf>,
    /// How often.
    pub interval: Span,
}

/// Without its URL, which may be a secret.
impl fmt::Debug for NotifyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("NotifyConfig");
        shown.field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

/// Without its URL, which may be a secret.
impl fmt::Debug for DeadmanConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_set = self.url.is_some() || self.url_file.is_some();
        let mut shown = f.debug_struct("DeadmanConfig");
        shown.field("is_set", &is_set).field("interval", &self.interval).finish()
    }
}

impl Default for DeadmanConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, interval: Span(Duration::from_secs(60)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_is_logged_shows_no_url() {
        let url = Some("https://hooks.example/hunter2".to_owned());
        let notify = NotifyConfig { url: url.clone(), kind: "slack".into(), ..Default::default() };
        let deadman = DeadmanConfig { url, ..DeadmanConfig::default() };
        let config = super::super::Config { notify: vec![notify], deadman, ..Default::default() };
        let shown = format!("{config:?}");
        assert!(shown.contains("slack") && shown.contains("is_set: true"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
