//! What differs between the services that are told over HTTP, as a table.

use serde_json::{Value, json};

use crate::model::Incident;
use crate::notify::message::{Event, Message};
use crate::notify::page;
use crate::notify::template::Step;

/// How a service knows us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// By its URL, which is a secret.
    Url,
    /// The body is signed with it.
    Signature,
    /// `Authorization`: `USER:PASSWORD`, or a token; may be missing.
    Login,
    /// `Authorization: GenieKey KEY`.
    Genie,
    /// A key of the body.
    Body(&'static str),
    /// A segment of the path.
    Bot,
}

/// How a service takes a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picture {
    /// Not at all.
    None,
    /// A form: the body in this field, the picture in that one.
    BesideBody(&'static str, &'static str),
    /// A form with a field for each key of the body, and the picture in this one.
    AmongFields(&'static str),
}

/// What is special about a service. All take a POST of JSON, but for pictures.
#[derive(Debug)]
pub(super) struct Channel {
    /// `kind` of the configuration.
    pub(super) kind: &'static str,
    /// What follows in the path, of this message.
    pub(super) path: fn(&Letter<'_>) -> Vec<String>,
    /// How it knows us.
    pub(super) key: Key,
    /// How it takes a picture.
    pub(super) picture: Picture,
    /// Largest body it takes, bytes.
    pub(super) body_bytes_max: usize,
}

/// The services.
pub(super) static CHANNELS: [Channel; 9] = [
    Channel {
        kind: "webhook",
        path: |_| Vec::new(),
        key: Key::Signature,
        picture: Picture::None,
        body_bytes_max: 4 << 20,
    },
    Channel {
        kind: "alertmanager",
        path: |_| words("api/v2/alerts"),
        key: Key::Login,
        picture: Picture::None,
        body_bytes_max: 4 << 20,
    },
    Channel {
        kind: "slack",
        path: |_| Vec::new(),
        key: Key::Url,
        picture: Picture::None,
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "teams",
        path: |_| Vec::new(),
        key: Key::Url,
        picture: Picture::None,
        body_bytes_max: 28 << 10,
    },
    Channel {
        kind: "discord",
        path: |_| Vec::new(),
        key: Key::Url,
        picture: Picture::BesideBody("payload_json", "files[0]"),
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "telegram",
        path: |letter| words(if letter.chart.is_some() { "sendPhoto" } else { "sendMessage" }),
        key: Key::Bot,
        picture: Picture::AmongFields("photo"),
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "ntfy",
        path: |_| Vec::new(),
        key: Key::Login,
        picture: Picture::None,
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "pagerduty",
        path: |_| words("v2/enqueue"),
        key: Key::Body("routing_key"),
        picture: Picture::None,
        body_bytes_max: 512 << 10,
    },
    Channel {
        kind: "opsgenie",
        path: opsgenie_path,
        key: Key::Genie,
        picture: Picture::None,
        body_bytes_max: 128 << 10,
    },
];

/// One request on its way.
#[derive(Clone, Copy)]
pub(super) struct Letter<'a> {
    /// What it does there.
    pub(super) part: Part,
    /// The incident's identity there.
    pub(super) identity: &'a str,
    /// A picture that goes with it.
    pub(super) chart: Option<&'a [u8]>,
}

/// One of the requests that a message takes: most take one, the pagers know alerts that live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Tells it; at a pager, makes the alert if it is not there.
    Open,
    /// Writes a note to the alert.
    Note,
    /// Gives the alert another priority.
    Priority,
    /// Gives the alert another title.
    Title,
    /// Closes the alert.
    Close,
}

impl Part {
    /// For which step the template writes the body.
    pub(super) fn step(self) -> Step {
        match self {
            Self::Open | Self::Priority | Self::Title => Step::Open,
            Self::Note => Step::Note,
            Self::Close => Step::Close,
        }
    }

    /// What of that body is sent.
    pub(super) fn of(self, body: Value) -> Value {
        match self {
            Self::Priority => json!({"priority": body["priority"]}),
            Self::Title => json!({"message": body["message"]}),
            Self::Open | Self::Note | Self::Close => body,
        }
    }

    /// Whether it puts something in the place of what is there.
    pub(super) fn is_put(self) -> bool {
        matches!(self, Self::Priority | Self::Title)
    }
}

/// The requests that a message takes, in order.
pub(super) fn parts(kind: &str, message: &Message) -> Vec<Part> {
    match (kind, message.event) {
        // A try leaves no alert behind.
        ("pagerduty" | "opsgenie", Event::Test) => vec![Part::Open, Part::Close],
        ("pagerduty" | "opsgenie", Event::Resolved) => vec![Part::Close],
        // Opening is nothing new to an alert that is open, and nothing else makes one that is not.
        ("opsgenie", Event::Updated) => {
            let (now, before) = (message.incident.as_ref(), message.before.as_ref());
            let is_same = |same: fn(&Incident, &Incident) -> bool| {
                now.zip(before).is_some_and(|(now, before)| same(now, before))
            };
            let mut parts = vec![Part::Open, Part::Note];
            if !is_same(|now, before| now.severity == before.severity) {
                parts.push(Part::Priority);
            }
            if !is_same(|now, before| page::told(now) == page::told(before)) {
                parts.push(Part::Title);
            }
            parts
        }
        _ => vec![Part::Open],
    }
}

fn opsgenie_path(letter: &Letter<'_>) -> Vec<String> {
    let mut path = words("v2/alerts");
    let verb = match letter.part {
        Part::Open => return path,
        Part::Note => "notes",
        Part::Priority => "priority",
        Part::Title => "message",
        Part::Close => "close",
    };
    path.extend([letter.identity.to_owned(), verb.to_owned()]);
    path
}

/// `a/b` as segments of a path.
fn words(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}
