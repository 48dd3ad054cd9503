//! What differs between the services that are told over HTTP, as a table.

use crate::notify::message::Event;

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
    /// Where it is, unless `url` says otherwise.
    pub(super) url: Option<&'static str>,
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
        url: None,
        path: |_| Vec::new(),
        key: Key::Signature,
        picture: Picture::None,
        body_bytes_max: 4 << 20,
    },
    Channel {
        kind: "alertmanager",
        url: None,
        path: |_| words("api/v2/alerts"),
        key: Key::Login,
        picture: Picture::None,
        body_bytes_max: 1 << 20,
    },
    Channel {
        kind: "slack",
        url: None,
        path: |_| Vec::new(),
        key: Key::Url,
        picture: Picture::None,
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "teams",
        url: None,
        path: |_| Vec::new(),
        key: Key::Url,
        picture: Picture::None,
        body_bytes_max: 28 << 10,
    },
    Channel {
        kind: "discord",
        url: None,
        path: |_| Vec::new(),
        key: Key::Url,
        picture: Picture::BesideBody("payload_json", "files[0]"),
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "telegram",
        url: Some("https://api.telegram.org"),
        path: |letter| words(if letter.chart.is_some() { "sendPhoto" } else { "sendMessage" }),
        key: Key::Bot,
        picture: Picture::AmongFields("photo"),
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "ntfy",
        url: Some("https://ntfy.sh"),
        path: |_| Vec::new(),
        key: Key::Login,
        picture: Picture::None,
        body_bytes_max: 64 << 10,
    },
    Channel {
        kind: "pagerduty",
        url: Some("https://events.pagerduty.com"),
        path: |_| words("v2/enqueue"),
        key: Key::Body("routing_key"),
        picture: Picture::None,
        body_bytes_max: 512 << 10,
    },
    Channel {
        kind: "opsgenie",
        url: Some("https://api.opsgenie.com"),
        path: opsgenie_path,
        key: Key::Genie,
        picture: Picture::None,
        body_bytes_max: 128 << 10,
    },
];

/// One message on its way.
pub(super) struct Letter<'a> {
    /// What it tells.
    pub(super) event: Event,
    /// The incident's identity there.
    pub(super) identity: &'a str,
    /// A picture that goes with it.
    pub(super) chart: Option<&'a [u8]>,
}

/// Whether a message is about an alert that Opsgenie has already.
pub(super) fn follows(event: Event) -> bool {
    matches!(event, Event::Updated | Event::Resolved)
}

fn opsgenie_path(letter: &Letter<'_>) -> Vec<String> {
    let mut path = words("v2/alerts");
    if follows(letter.event) {
        let verb = if letter.event == Event::Resolved { "close" } else { "notes" };
        path.extend([letter.identity.to_owned(), verb.to_owned()]);
    }
    path
}

/// `a/b` as segments of a path.
fn words(path: &str) -> Vec<String> {
    path.split('/').map(str::to_owned).collect()
}
