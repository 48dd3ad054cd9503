//! Bodies out of templates (minijinja), one per kind, which an operator can replace (`template_file`).
//!
//! A template writes JSON. Whatever `{{ }}` prints is printed as JSON, quotes and all, so no text can
//! leave its string: `{"text": {{ headline }}}`. It sees the fields of a `Page`:
//!
//! | name | is |
//! |---|---|
//! | `event` | `opened`, `updated`, `resolved`, `digest` or `test` |
//! | `delivery` | id of the message, the same on every try |
//! | `headline`, `title` | one line with and without the severity |
//! | `severity`, `kind`, `scope`, `state` | words of the incident |
//! | `incident_id`, `identity` | its id, and the one to send: of a test or a digest its own |
//! | `link` | address of the incident |
//! | `reason` | why it is told now |
//! | `since`, `since_words` | first failure, RFC 3339 and in words |
//! | `affected_words`, `counts` | how much: in words, and `n_sites n_sites_active n_servers n_requests n_gateway_errors` |
//! | `cause` | null or `class confidence_percent words` |
//! | `evidence` | at most two texts |
//! | `change` | null or what changed before |
//! | `command` | null, as when it is over, or `text command`; its `command` may be null |
//! | `resolved` | null or `lasted_words failed_words changed_back goes_on`; all but the first may be null |
//! | `sites`, `n_sites_more`, `servers` | at most ten names each |
//! | `spark` | null or failures over time as blocks of text |
//! | `facts` | list of `name value`, ready for cards |
//! | `details` | the same without what `headline` and `command` say: for who shows all three |
//! | `standing` | the headline as if the incident had just begun: the title of an alert |
//! | `step` | `open`, `note` or `close`: pagers take more than one request for a message |
//! | `digest` | list of `headline link since_words lasted_words severity` |
//! | `incident`, `incidents` | the object of the API as it is; those of a digest |
//! | `has_chart` | a picture goes with it: Discord's `attachment://chart.png`, Telegram's photo |
//! | `chat_id`, `topic` | of the route, else empty |
//! | `alerts` | Alertmanager: the list to post |
//!
//! Texts but those of `incident` and `incidents` hold no control characters and at most [`TEXT_MAX`]
//! units. Filters: `slack(n)`, `slack_code(n)`, `markdown(n)`, `code(n)`, `html(n)`,
//! `tagless(n)` (Opsgenie) and `card(n)` (Teams) escape for the service, within n UTF-16 units; `cut(n)`
//! only cuts; `units` counts; `url` makes an address safe within markup.
//! A name that does not exist is an error. Keys are added by the sender: no template sees a secret.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Value, json};

use super::escape::{self, clean};
use super::message::{Event, Message};
use super::page::{self, Fact, Page};
use crate::errors;
use crate::model::Affected;

/// Longest text a template sees, UTF-16 units.
pub const TEXT_MAX: usize = 8_000;

/// Steps a template may take: a hundred times what a built-in one needs.
const FUEL: u64 = 5_000_000;

/// Largest body, bytes. The webhook carries an incident whole, with a thousand names of sites.
const BODY_BYTES_MAX: usize = 4 << 20;

/// What to do about a template that is no good.
pub const FIX: &str = "mend the template, or remove the line for the built-in one";

/// Largest `template_file`, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The built-in templates.
const BUILT_IN: [(&str, &str); 9] = [
    ("webhook", include_str!("../../templates/notify/webhook.j2")),
    ("alertmanager", include_str!("../../templates/notify/alertmanager.j2")),
    ("slack", include_str!("../../templates/notify/slack.j2")),
    ("teams", include_str!("../../templates/notify/teams.j2")),
    ("discord", include_str!("../../templates/notify/discord.j2")),
    ("telegram", include_str!("../../templates/notify/telegram.j2")),
    ("ntfy", include_str!("../../templates/notify/ntfy.j2")),
    ("pagerduty", include_str!("../../templates/notify/pagerduty.j2")),
    ("opsgenie", include_str!("../../templates/notify/opsgenie.j2")),
];

const OVERRIDE: &str = "template_file";

/// What a request does to the alert of a pager; everybody else is told with `Open`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// Makes it, if it is not there.
    #[default]
    Open,
    /// Writes a note to it.
    Note,
    /// Closes it.
    Close,
}

impl Step {
    const ALL: [Self; 3] = [Self::Open, Self::Note, Self::Close];

    fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Note => "note",
            Self::Close => "close",
        }
    }
}

/// What beside the page a template sees.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Telegram's chat.
    pub chat_id: String,
    /// ntfy's topic.
    pub topic: String,
    /// Alerts to post.
    pub alerts: Vec<Value>,
    /// Whether a picture goes with it.
    pub has_chart: bool,
    /// What the request does.
    pub step: Step,
}

/// The template of a kind and, where there is one, the operator's in its place.
#[derive(Clone, Debug)]
pub struct Template {
    environment: Environment<'static>,
    kind: &'static str,
    is_replaced: bool,
}

impl Template {
    /// `Err` says what is wrong with `file`. A kind without a template is a bug.
    pub fn new(kind: &'static str, file: Option<&Path>) -> Result<Self, String> {
        let mut environment = environment();
        environment.set_auto_escape_callback(|_| AutoEscape::Json);
        let (_, source) =
            BUILT_IN.iter().find(|(of, _)| *of == kind).expect("every kind has a template");
        environment.add_template(kind, source).expect("a built-in template parses");
        let mut template = Self { environment, kind, is_replaced: false };
        if let Some(file) = file {
            template.replace(file).map_err(|why| format!("{}: {why}", file.display()))?;
        }
        Ok(template)
    }

    /// Whether an operator's template stands in place of the built-in one.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    /// The body that the operator's template makes, if there is one.
    pub fn own(&self, seen: &Value) -> Option<Result<Value, String>> {
        self.is_replaced.then(|| self.render(OVERRIDE, seen))
    }

    /// The body that the built-in template makes; `Err` is a bug, or a page larger than any.
    pub fn built_in(&self, seen: &Value) -> Result<Value, String> {
        self.render(self.kind, seen)
    }

    fn replace(&mut self, file: &Path) -> Result<(), String> {
        let unreadable = |error: std::io::Error| error.to_string();
        if fs::metadata(file).map_err(unreadable)?.len() > FILE_BYTES_MAX {
            return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
        }
        let source = fs::read_to_string(file).map_err(unreadable)?;
        let added = self.environment.add_template_owned(OVERRIDE, source);
        added.map_err(|error| explain(&error))?;
        self.is_replaced = true;
        for message in samples() {
            let page = Page::new(&message, "https://gatewatch.example", None);
            let both = |step| [(step, false), (step, true)];
            for (step, has_chart) in Step::ALL.into_iter().flat_map(both) {
                let extras = Extras { has_chart, step, ..Extras::default() };
                self.render(OVERRIDE, &seen(&message, &page, &extras)).map_err(|why| {
                    format!("cannot tell of a sample `{}`: {why}", message.event.name())
                })?;
            }
        }
        Ok(())
    }

    fn render(&self, name: &str, seen: &Value) -> Result<Value, String> {
        let template = self.environment.get_template(name).map_err(|error| explain(&error))?;
        let text = template.render(minijinja::value::Serde(seen));
        let text = text.map_err(|error| explain(&error) + &unknown(&template, &error, seen))?;
        if text.len() > BODY_BYTES_MAX {
            return Err(format!("it makes more than {BODY_BYTES_MAX} bytes"));
        }
        serde_json::from_str(&text).map_err(|error| format!("it makes no JSON: {error}"))
    }
}

/// Everything a template sees, as one object.
#[must_use]
pub fn seen(message: &Message, page: &Page, extras: &Extras) -> Value {
    let mut seen = serde_json::to_value(page).expect("a page is JSON");
    seen["details"] = json!(details(page));
    seen["command"] = json!(command(page));
    seen["standing"] = match (&message.incident, page.event) {
        (Some(incident), Event::Updated | Event::Resolved) => page::told(incident).into(),
        _ => page.headline.clone().into(),
    };
    clean_texts(&mut seen);
    let identity = match page.event {
        Event::Opened | Event::Updated | Event::Resolved => page.incident_id.clone(),
        Event::Digest | Event::Report | Event::Test => {
            format!("{}-{}", page.event.name(), page.delivery)
        }
    };
    seen["identity"] = identity.into();
    seen["incident"] = json!(message.incident);
    seen["incidents"] = json!(message.digest);
    seen["chat_id"] = extras.chat_id.clone().into();
    seen["topic"] = extras.topic.clone().into();
    seen["alerts"] = extras.alerts.clone().into();
    seen["has_chart"] = extras.has_chart.into();
    seen["step"] = extras.step.name().into();
    seen
}

/// The next step; of what is over there is none.
#[must_use]
pub fn command(page: &Page) -> Option<&page::Step> {
    page.command.as_ref().filter(|_| page.event != Event::Resolved)
}

/// The facts without what stands in the headline and in the command.
#[must_use]
pub fn details(page: &Page) -> Vec<Fact> {
    let is_in_headline = |text: &str| page.headline.contains(text);
    let told = |fact: &Fact| {
        let (name, value) = match fact.name.as_str() {
            "Why now" if is_in_headline(&fact.value) => return None,
            "Next" => {
                let next = command(page)?;
                ("Next", next.text.as_str())
            }
            // How long it was stands in the headline.
            "Lasted" => ("Time", page.since_words.as_str()),
            name => (name, fact.value.as_str()),
        };
        let is_said = !value.is_empty();
        is_said.then(|| Fact { name: name.to_owned(), value: value.to_owned() })
    };
    page.facts.iter().filter_map(told).collect()
}

fn clean_texts(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape::cut(&clean(text), TEXT_MAX),
        Value::Array(list) => list.iter_mut().for_each(clean_texts),
        Value::Object(object) => object.values_mut().for_each(clean_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What all templates have in common, those of e-mails too: limits and filters. How values are escaped
/// is up to the caller.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    for (name, filter) in [
        ("slack", escape::slack as fn(&str, usize) -> String),
        ("slack_code", escape::slack_code),
        ("markdown", escape::markdown),
        ("code", escape::code),
        ("html", escape::html),
        ("tagless", escape::tagless),
        ("card", escape::card),
        ("cut", escape::cut),
    ] {
        let filter = move |value: minijinja::Value, limit: Option<usize>| {
            filter(&text(&value), limit.unwrap_or(TEXT_MAX))
        };
        environment.add_filter(name, filter);
    }
    environment.add_filter("units", |value: minijinja::Value| text(&value).encode_utf16().count());
    environment.add_filter("url", |value: minijinja::Value| escape::url(&text(&value)));
    environment
}

/// A value as text; null is none.
fn text(value: &minijinja::Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_none() => String::new(),
        None => value.to_string(),
    }
}

/// What is wrong and in which line; a chain that quotes no value.
fn explain(error: &minijinja::Error) -> String {
    errors::chain(error)
}

/// Which names of the line that failed are none, where that is why.
fn unknown(
    template: &minijinja::Template<'_, '_>,
    error: &minijinja::Error,
    seen: &Value,
) -> String {
    let line = error.line().and_then(|n| template.source().lines().nth(n.saturating_sub(1)));
    let (ErrorKind::UndefinedError, Some(line)) = (error.kind(), line) else {
        return String::new();
    };
    let is_there =
        |name: &String| name.split('.').try_fold(seen, |in_it, key| in_it.get(key)).is_some();
    let names = template.undeclared_variables(true).into_iter().filter(|name| line.contains(name));
    let unknown: BTreeSet<String> = names.filter(|name| !is_there(name)).collect();
    let unknown: Vec<String> = unknown.into_iter().map(|name| format!("`{name}`")).collect();
    if unknown.is_empty() { String::new() } else { format!(": no {}", unknown.join(", ")) }
}

/// One message of each event: what a template must be able to tell. With much in it, and with little.
pub(super) fn samples() -> Vec<Message> {
    let sample: Message = serde_json::from_str(include_str!("../../templates/notify/sample.json"))
        .expect("the sample is a message");
    let mut samples = Vec::new();
    for event in [Event::Opened, Event::Updated, Event::Resolved, Event::Test, Event::Digest] {
        let mut message = Message { event, ..sample.clone() };
        let incident = message.incident.as_mut().expect("the sample is about an incident");
        match event {
            Event::Resolved => {
                incident.state = "resolved".into();
                incident.resolved_at = Some(incident.updated_at);
            }
            Event::Updated => {
                incident.change = None;
                incident.actions.clear();
                incident.cause.evidence.clear();
                incident.cause.class = "unknown".into();
            }
            Event::Digest => message.digest.extend(message.incident.take()),
            Event::Opened | Event::Report | Event::Test => {}
        }
        samples.push(message);
    }
    // Of a silence nothing is counted, and it may end without a time of its own.
    let mut silence = Message { event: Event::Resolved, ..sample };
    if let Some(incident) = &mut silence.incident {
        (incident.kind, incident.state) = ("silence".into(), "resolved".into());
        incident.affected = Affected { n_servers: 1, ..Affected::default() };
    }
    samples.push(silence);
    samples
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod said_tests;
