//! Sends a message over HTTP: one way for every service; what differs stands in [`CHANNELS`].
//!
//! A message is never lost to its form: when the operator's template fails, or the receiver refuses
//! what it made or the picture, the built-in body goes out without a picture.

mod channels;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use channels::{CHANNELS, Channel, Key, Letter, Part, Picture, parts};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::multipart::{self, Form};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, Url, redirect};
use serde_json::Value;
use wire::UnixMillis;

use super::answer::{self, Answer};
use super::fault::{Fault, Wrong};
use super::message::{Event, Message};
use super::page::Page;
use super::secret::{self, Secret};
use super::sender::SendError;
use super::template::{self, Extras, Template};
use super::{address, alertmanager, kinds, webhook};
use crate::config::NotifyConfig;
use crate::errors;

/// Time a receiver has to accept the connection, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an answer is read, bytes.
const ANSWER_BYTES_MAX: usize = 4096;

/// Incidents that an Alertmanager is told again in one request.
const AGAIN_MAX: usize = 500;

/// Shortest part of a secret URL that is looked for in answers.
const SECRET_PART_MIN: usize = 6;

/// A receiver over HTTP.
#[derive(Clone)]
pub struct HttpSender {
    channel: &'static Channel,
    client: Client,
    template: Template,
    url: Option<Url>,
    url_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    place: String,
    extras: Extras,
    /// Bodies for which the built-in template stood in.
    n_fallbacks: Arc<AtomicU64>,
    /// Whether the operator was told of the first of them.
    is_told: Arc<AtomicBool>,
}

impl fmt::Debug for HttpSender {
    /// Without the URL: its path may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("HttpSender");
        shown.field("kind", &self.channel.kind).field("place", &self.place).finish_non_exhaustive()
    }
}

impl HttpSender {
    /// `Err` lists what is wrong with the configuration, besides what [`super::kinds::check`] tells.
    pub fn new(config: &NotifyConfig) -> Result<Self, Vec<Fault>> {
        let Some(channel) = CHANNELS.iter().find(|channel| channel.kind == config.kind) else {
            let what = format!("{:?} is not told over HTTP", config.kind);
            return Err(vec![Wrong::new(what, "see deploy/config/collector.toml").at("kind")]);
        };
        let mut problems = Vec::new();
        let url = configured_url(channel, config).map_err(|fault| problems.push(fault)).ok();
        let client = client(config).map_err(|wrong| problems.push(wrong.at("ca_file"))).ok();
        let template = Template::new(channel.kind, config.template_file.as_deref())
            .map_err(|what| problems.push(Wrong::new(what, template::FIX).at("template_file")))
            .ok();
        let (Some(url), Some(client), Some(template), true) =
            (url, client, template, problems.is_empty())
        else {
            return Err(problems);
        };
        Ok(Self {
            channel,
            client,
            template,
            place: url.origin().ascii_serialization(),
            url: config.url_file.is_none().then_some(url),
            url_file: config.url_file.clone(),
            secret_file: config.secret_file.clone(),
            extras: Extras {
                chat_id: config.chat_id.clone().unwrap_or_default(),
                topic: config.topic.clone().unwrap_or_default(),
                ..Extras::default()
            },
            n_fallbacks: Arc::default(),
            is_told: Arc::default(),
        })
    }

    /// Scheme and host, without the path: that may hold a secret.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.clone()
    }

    /// Bodies for which the built-in template stood in.
    #[must_use]
    pub fn n_fallbacks(&self) -> u64 {
        self.n_fallbacks.load(Ordering::Relaxed)
    }

    /// Counts further ones with those of other receivers.
    pub fn count_fallbacks_in(&mut self, n_fallbacks: &Arc<AtomicU64>) {
        self.n_fallbacks = Arc::clone(n_fallbacks);
    }

    /// Sends once; `Err` says why it did not arrive, without any secret.
    pub async fn send(
        &self,
        message: &Message,
        page: &Page,
        chart: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<(), SendError> {
        if self.is("alertmanager") && message.incident.is_none() {
            return Ok(()); // a digest is no alert
        }
        let chart = chart.filter(|_| self.channel.picture != Picture::None);
        for part in parts(self.channel.kind, message) {
            let sent = self.send_part(part, message, page, chart, now).await;
            sent.map_err(|error| match (message.event, part) {
                (Event::Test, Part::Close) => {
                    let why = format!("the test arrived and its alert stays open: {}", error.why);
                    SendError { why, ..error }
                }
                _ => error,
            })?;
        }
        Ok(())
    }

    /// Tells an Alertmanager of many incidents at once; goes on after a refusal, `Err` is the first.
    pub async fn send_again(
        &self,
        told: &[(Message, Page)],
        now: UnixMillis,
    ) -> Result<(), SendError> {
        let letter = Letter { part: Part::Open, identity: "", chart: None };
        let mut ended = Ok(());
        for told in told.chunks(AGAIN_MAX) {
            let (body, is_own) = self.alerts(told, true, now)?;
            let mut posted = self.post(body, &letter, now).await;
            if let Err(refused) = &posted
                && refused.is_final
                && is_own
            {
                self.fall_back(&refused.why);
                posted = self.post(self.alerts(told, false, now)?.0, &letter, now).await;
            }
            ended = ended.and(posted);
        }
        ended
    }

    /// The bodies of all these as one list, and whether the operator's template made one of them.
    fn alerts(
        &self,
        told: &[(Message, Page)],
        may_be_own: bool,
        now: UnixMillis,
    ) -> Result<(Value, bool), SendError> {
        let (mut alerts, mut is_any_own) = (Vec::new(), false);
        for (message, page) in told {
            let seen = self.seen(message, page, Part::Open, false, now);
            let own = if may_be_own { self.own(&seen) } else { None };
            is_any_own |= own.is_some();
            match own.map_or_else(|| self.built_in(&seen), Ok)? {
                Value::Array(list) => alerts.extend(list),
                other => alerts.push(other),
            }
        }
        Ok((Value::Array(alerts), is_any_own))
    }

    /// Sends one part of a message.
    async fn send_part(
        &self,
        part: Part,
        message: &Message,
        page: &Page,
        chart: Option<&[u8]>,
        now: UnixMillis,
    ) -> Result<(), SendError> {
        let seen = self.seen(message, page, part, chart.is_some(), now);
        let own = self.own(&seen);
        let is_own = own.is_some();
        let body = own.map_or_else(|| self.built_in(&seen), Ok)?;
        let identity = seen["identity"].as_str().unwrap_or_default();
        let letter = Letter { part, identity, chart };
        match self.post(part.of(body), &letter, now).await {
            Err(refused) if refused.is_final && (is_own || chart.is_some()) => {
                if is_own {
                    self.fall_back(&refused.why);
                }
                let body = self.built_in(&self.seen(message, page, part, false, now))?;
                self.post(part.of(body), &Letter { chart: None, ..letter }, now).await
            }
            other => other,
        }
    }

    /// What the operator's template makes, if there is one and it does not fail.
    fn own(&self, seen: &Value) -> Option<Value> {
        self.template.own(seen)?.map_err(|why| self.fall_back(&why)).ok()
    }

    fn built_in(&self, seen: &Value) -> Result<Value, SendError> {
        self.template.built_in(seen).map_err(SendError::refused)
    }

    /// Counts, and tells the operator once.
    fn fall_back(&self, why: &str) {
        self.n_fallbacks.fetch_add(1, Ordering::Relaxed);
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                kind = self.channel.kind,
                to = self.place,
                reason = why,
                "template_file cannot tell this message, the built-in template does"
            );
        }
    }

    fn seen(
        &self,
        message: &Message,
        page: &Page,
        part: Part,
        has_chart: bool,
        now: UnixMillis,
    ) -> Value {
        let mut extras = Extras { has_chart, step: part.step(), ..self.extras.clone() };
        if let Some(incident) = message.incident.as_ref().filter(|_| self.is("alertmanager")) {
            extras.alerts = alertmanager::alerts(page, incident, message.before.as_ref(), now);
        }
        template::seen(message, page, &extras)
    }

    fn is(&self, kind: &str) -> bool {
        self.channel.kind == kind
    }

    /// Posts a body once.
    async fn post(
        &self,
        body: Value,
        letter: &Letter<'_>,
        now: UnixMillis,
    ) -> Result<(), SendError> {
        let secret = self.secret().map_err(SendError::passing)?;
        let base = self.base().map_err(SendError::passing)?;
        let mut secrets = hidden(&base, secret.as_ref());
        let url = self.address(base, letter, secret.as_ref()).map_err(SendError::passing)?;
        if self.channel.key == Key::Bot {
            secrets.push(url.path().to_owned());
        }
        let request = self.request(url, body, letter, secret.as_ref(), now)?;
        let answer = request.send().await;
        let answer =
            answer.map_err(|error| SendError::passing(errors::chain(&error.without_url())))?;
        let status = answer.status().as_u16();
        let asked = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let asked = asked.map(str::to_owned);
        let body = if answer.status().is_success() { Vec::new() } else { beginning(answer).await };
        let answer = Answer { status, retry_after: asked.as_deref(), body: &body };
        answer::judge(&answer, &secrets, now)
    }

    fn secret(&self) -> Result<Option<Secret>, String> {
        let read =
            if self.channel.key == Key::Signature { webhook::read_secret } else { secret::read };
        Ok(self.secret_file.as_deref().map(read).transpose()?)
    }

    /// Where the service is. The files of secrets are read for each message.
    fn base(&self) -> Result<Url, String> {
        match (&self.url, &self.url_file) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(file)) => Ok(address::read(file, address::WEB)?),
            (None, None) => Err("no url".into()),
        }
    }

    /// Where in it a message goes.
    fn address(
        &self,
        mut url: Url,
        letter: &Letter<'_>,
        secret: Option<&Secret>,
    ) -> Result<Url, String> {
        let mut path = (self.channel.path)(letter);
        if self.channel.key == Key::Bot {
            path.insert(0, format!("bot{}", secret.map(Secret::expose).unwrap_or_default()));
        }
        let wanted = path.join("/");
        if !wanted.is_empty() && !url.path().trim_end_matches('/').ends_with(&wanted) {
            let mut segments = url.path_segments_mut().map_err(|()| "url: has no path")?;
            segments.pop_if_empty().extend(&path);
        }
        if self.is("opsgenie") && letter.part != Part::Open {
            url.query_pairs_mut().append_pair("identifierType", "alias");
        }
        Ok(url)
    }

    fn request(
        &self,
        url: Url,
        mut body: Value,
        letter: &Letter<'_>,
        secret: Option<&Secret>,
        now: UnixMillis,
    ) -> Result<RequestBuilder, SendError> {
        let key = secret.map(Secret::expose).unwrap_or_default();
        if let (Key::Body(name), Value::Object(fields)) = (self.channel.key, &mut body) {
            fields.insert(name.to_owned(), key.into());
        }
        let text = body.to_string();
        if text.len() > self.channel.body_bytes_max {
            let max = self.channel.body_bytes_max;
            return Err(SendError::refused(format!(
                "the body has {} bytes, {} takes {max}",
                text.len(),
                self.channel.kind
            )));
        }
        let method = if letter.part.is_put() { Method::PUT } else { Method::POST };
        let mut request = self.client.request(method, url);
        let header = match self.channel.key {
            Key::Signature => {
                Some((webhook::SIGNATURE_HEADER, webhook::signature(key.as_bytes(), now, &text)))
            }
            Key::Genie => Some(("Authorization", format!("GenieKey {key}"))),
            Key::Login if !key.is_empty() && !key.contains(':') => {
                Some(("Authorization", format!("Bearer {key}")))
            }
            _ => None,
        };
        if let Some((name, value)) = header {
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                SendError::passing("secret_file: holds characters that no header may have")
            })?;
            value.set_sensitive(true);
            request = request.header(name, value);
        } else if let (Key::Login, Some((user, password))) = (self.channel.key, key.split_once(':'))
        {
            request = request.basic_auth(user, Some(password));
        }
        let Some(chart) = letter.chart else {
            return Ok(request.header("Content-Type", "application/json").body(text));
        };
        Ok(request.multipart(form(self.channel.picture, body, text, chart)))
    }
}

/// The form that carries a body with its picture.
fn form(picture: Picture, body: Value, text: String, chart: &[u8]) -> Form {
    let chart = multipart::Part::bytes(chart.to_vec()).file_name("chart.png");
    let chart = chart.mime_str("image/png").expect("a media type");
    match (picture, body) {
        (Picture::BesideBody(body_field, field), _) => {
            let body =
                multipart::Part::text(text).mime_str("application/json").expect("a media type");
            Form::new().part(body_field, body).part(field, chart)
        }
        (Picture::AmongFields(field), Value::Object(fields)) => {
            let form = fields.into_iter().fold(Form::new(), |form, (name, value)| match value {
                Value::String(text) => form.text(name, text),
                other => form.text(name, other.to_string()),
            });
            form.part(field, chart)
        }
        (Picture::AmongFields(_) | Picture::None, _) => Form::new(),
    }
}

/// What an answer may not give away: the key, and what of the URL is not the host.
fn hidden(url: &Url, secret: Option<&Secret>) -> Vec<String> {
    let mut hidden = secret.map(|key| secret::forms(None, key)).unwrap_or_default();
    hidden.push(url.path().to_owned());
    hidden.extend(url.query().map(|query| format!("{}?{query}", url.path())));
    let parts = url.path_segments().into_iter().flatten().map(str::to_owned);
    let queries = url.query_pairs().map(|(_, value)| value.into_owned());
    hidden.extend(parts.chain(queries));
    hidden.retain(|part| part.len() >= SECRET_PART_MIN);
    hidden
}

/// The first bytes of an answer; none when it breaks off.
async fn beginning(mut answer: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES_MAX
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body.truncate(ANSWER_BYTES_MAX);
    body
}

/// Where the configuration says to send.
fn configured_url(channel: &Channel, config: &NotifyConfig) -> Result<Url, Fault> {
    let url = match (&config.url, &config.url_file) {
        (Some(url), _) => url.as_str(),
        (None, Some(file)) => {
            return address::read(file, address::WEB).map_err(|wrong| wrong.at("url_file"));
        }
        (None, None) => kinds::find(channel.kind).and_then(|kind| kind.url).unwrap_or_default(),
    };
    address::parse(url, address::WEB).map_err(|wrong| wrong.at("url"))
}

fn client(config: &NotifyConfig) -> Result<Client, Wrong> {
    // `check` makes clients too, before `main` would have chosen the provider in a test.
    drop(rustls::crypto::ring::default_provider().install_default());
    // Redirects are not followed: a key or a signature is for this receiver only.
    let mut client = Client::builder()
        .user_agent(concat!("gatewatch-collector/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT);
    let no_client = |error: reqwest::Error| {
        let what = format!("no HTTP client could be made: {}", errors::chain(&error));
        Wrong::new(what, "name a file of certificates in PEM")
    };
    if let Some(file) = &config.ca_file {
        let pem = address::certificates(file)?;
        client = client.tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(no_client)?);
    }
    client.build().map_err(no_client)
}

#[cfg(test)]
mod tests;
