//! One line of a recorded stream, decoded without copying: texts borrow from the line.
//!
//! Pure. No input panics; a line takes memory in proportion to its length. What this release does
//! not know, a type or a field, is left out and named. Numbers may come as texts of JSON's other
//! kinds where their meaning is plain: `3.0` is 3, a label `7` is "7", null is absent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use wire::catalog;

use super::quick;
use super::scalar::{Hash, Text, Whole};

/// Latest instant that makes sense, ms: the end of the year 9999.
pub(super) const AT_MAX: i64 = 253_402_300_799_999;
/// Labels of one server that are kept.
pub(crate) const LABELS_MAX: usize = 64;
/// Unknown fields of one line that are named.
const UNKNOWN_MAX: usize = 8;

/// Types of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Header,
    Server,
    Site,
    Requests,
    Exemplar,
    Sample,
    Service,
    Log,
    Change,
    Heartbeat,
    Goodbye,
    Hello,
    Collector,
    End,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "requests" => Self::Requests,
            "exemplar" => Self::Exemplar,
            "heartbeat" => Self::Heartbeat,
            "sample" => Self::Sample,
            "service" => Self::Service,
            "log" => Self::Log,
            "change" => Self::Change,
            "site" => Self::Site,
            "server" => Self::Server,
            "header" => Self::Header,
            "goodbye" => Self::Goodbye,
            "hello" => Self::Hello,
            "collector" => Self::Collector,
            "end" => Self::End,
            _ => return None,
        })
    }

    /// Whether records of this type have the field.
    fn has(self, key: Key) -> bool {
        use Key as K;
        match key {
            K::Type | K::At | K::ArrivedAt => true,
            K::Server => !matches!(self, Self::Header | Self::Collector | Self::End),
            K::Site => {
                matches!(self, Self::Site | Self::Requests | Self::Exemplar | Self::Change)
            }
            K::Pool => matches!(
                self,
                Self::Site | Self::Exemplar | Self::Service | Self::Log | Self::Change
            ),
            K::Upstream => matches!(self, Self::Site | Self::Exemplar),
            K::Baseline => self == Self::Site,
            K::Labels | K::Cpus | K::HeartbeatMs => self == Self::Server,
            K::N | K::N502 | K::N503 | K::N504 | K::N5xxApp | K::N499 | K::NRetried => {
                self == Self::Requests
            }
            K::NCrawler => self == Self::Requests,
            K::Status | K::Client | K::Path => self == Self::Exemplar,
            K::Message | K::Signal => matches!(self, Self::Exemplar | Self::Log),
            K::Values | K::Attribute => self == Self::Sample,
            K::Unit | K::State | K::Reason => self == Self::Service,
            K::Source => self == Self::Log,
            K::Kind | K::What => self == Self::Change,
            K::Clock => self == Self::Heartbeat,
            K::Event => self == Self::Collector,
            K::Version | K::Ends | K::OfHeader => self == Self::Header,
            K::Holes | K::PackedTo => self == Self::End,
            K::Unknown => false,
        }
    }
}

/// Names of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Type,
    At,
    ArrivedAt,
    Server,
    Site,
    Pool,
    Upstream,
    Baseline,
    Labels,
    Cpus,
    HeartbeatMs,
    N,
    N502,
    N503,
    N504,
    N5xxApp,
    N499,
    NRetried,
    NCrawler,
    Status,
    Client,
    Path,
    Message,
    Signal,
    Values,
    Attribute,
    Unit,
    State,
    Reason,
    Source,
    Kind,
    What,
    Clock,
    Event,
    Version,
    Ends,
    /// Of the header, and of no use to the detector.
    OfHeader,
    Holes,
    PackedTo,
    Unknown,
}

impl Key {
    fn of(name: &str) -> Self {
        match name {
            "type" => Self::Type,
            "at" => Self::At,
            "arrived_at" => Self::ArrivedAt,
            "server" => Self::Server,
            "site" => Self::Site,
            "n" => Self::N,
            "n_502" => Self::N502,
            "n_503" => Self::N503,
            "n_504" => Self::N504,
            "n_5xx_app" => Self::N5xxApp,
            "n_499" => Self::N499,
            "n_retried" => Self::NRetried,
            "n_crawler" => Self::NCrawler,
            "pool" => Self::Pool,
            "upstream" => Self::Upstream,
            "baseline" => Self::Baseline,
            "labels" => Self::Labels,
            "n_cpu" => Self::Cpus,
            "heartbeat_ms" => Self::HeartbeatMs,
            "status" => Self::Status,
            "client" => Self::Client,
            "path" => Self::Path,
            "message" => Self::Message,
            "signal" => Self::Signal,
            "values" => Self::Values,
            "attribute" => Self::Attribute,
            "unit" => Self::Unit,
            "state" => Self::State,
            "reason" => Self::Reason,
            "source" => Self::Source,
            "kind" => Self::Kind,
            "what" => Self::What,
            "clock" => Self::Clock,
            "event" => Self::Event,
            "version" => Self::Version,
            "ends" => Self::Ends,
            "packed_to" => Self::PackedTo,
            "holes" => Self::Holes,
            "label_names" | "from" | "to" => Self::OfHeader,
            _ => Self::Unknown,
        }
    }
}

/// What a line says. A field that is absent or null is `None`, a count 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line<'l> {
    pub(crate) kind: Kind,
    pub(crate) at: Option<i64>,
    pub(crate) arrived_at: Option<i64>,
    pub(crate) server: Option<Cow<'l, str>>,
    pub(crate) site: Option<Cow<'l, str>>,
    pub(crate) pool: Option<Cow<'l, str>>,
    pub(crate) upstream: Option<Cow<'l, str>>,
    pub(crate) n: u32,
    pub(crate) n_502: u32,
    pub(crate) n_503: u32,
    pub(crate) n_504: u32,
    pub(crate) n_5xx_app: u32,
    pub(crate) n_499: u32,
    pub(crate) n_retried: u32,
    pub(crate) n_crawler: u32,
    /// Status of an exemplar.
    pub(crate) status: u32,
    /// Hash of the client; 0 unknown.
    pub(crate) client: u64,
    /// Hash of the path; 0 unknown.
    pub(crate) path: u64,
    /// `message`: of an exemplar or a log line.
    pub(crate) message: Option<Cow<'l, str>>,
    pub(crate) signal: Option<Cow<'l, str>>,
    /// `unit`, `source` or `kind`: what the record is about.
    pub(crate) subject: Option<Cow<'l, str>>,
    /// `state`, `what` or `event`: what it says of it.
    pub(crate) said: Option<Cow<'l, str>>,
    pub(crate) reason: Option<Cow<'l, str>>,
    pub(crate) attribute: Option<Cow<'l, str>>,
    pub(crate) clock: Option<i64>,
    pub(crate) version: Option<i64>,
    /// Of a header: the last record of its stream is `end`.
    pub(crate) ends: bool,
    /// Of an end: what the stream lacks.
    pub(crate) holes: Vec<HoleRow>,
    /// Of an end: before this, arrivals are not those that were, ms.
    pub(crate) packed_to: Option<i64>,
    pub(crate) n_cpu: u32,
    pub(crate) heartbeat_ms: Option<i64>,
    pub(crate) baseline: Option<PastRow>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Labels beyond [`LABELS_MAX`].
    pub(crate) n_labels_dropped: u64,
    pub(crate) values: Vec<(&'static str, f64)>,
    /// Values whose metric is not in the catalog.
    pub(crate) n_values_unknown: u64,
    /// Fields this release does not know, the first of them.
    pub(crate) unknown: Vec<String>,
    /// How many those were.
    pub(crate) n_unknown: u64,
}

/// One of `holes`: a time of which history is missing in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct HoleRow {
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// `None`: of all servers.
    pub(crate) server: Option<String>,
    pub(crate) why: String,
}

/// `baseline` of a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct PastRow {
    pub(crate) days: f64,
    pub(crate) n_requests: f64,
    pub(crate) n_gateway_errors: f64,
}

/// Why a line is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A type this release does not know.
    UnknownType(String),
    /// No record at all, and why.
    Broken(String),
}

/// Decodes one line.
pub(crate) fn decode(text: &[u8]) -> Result<Line<'_>, Problem> {
    quick::requests(text).map_or_else(|| decode_any(text), Ok)
}

/// Decodes one line of any type, however it is written.
pub(super) fn decode_any(text: &[u8]) -> Result<Line<'_>, Problem> {
    let mut line = Line::default();
    match read(text, None, &mut line) {
        Ok(Typed::Known) => Ok(line),
        Ok(Typed::Late(kind)) => {
            line = Line::default();
            read(text, Some(kind), &mut line).map_err(|e| Problem::Broken(reason(&e)))?;
            Ok(line)
        }
        Ok(Typed::Unknown(name)) => Err(Problem::UnknownType(name)),
        Err(error) => Err(Problem::Broken(reason(&error))),
    }
}

fn read<'l>(
    text: &'l [u8],
    kind: Option<Kind>,
    line: &mut Line<'l>,
) -> Result<Typed, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let typed = Fields { kind, line }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(typed)
}

/// What is wrong with a line, without the number that JSON gives it, which is always 1.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("{what} at column {column}"),
        None => text,
    }
}

/// What the type of a line is.
enum Typed {
    /// It was known before the other fields, which are read.
    Known,
    /// It came behind other fields, which are not read yet.
    Late(Kind),
    /// No type of this release.
    Unknown(String),
}

/// Reads a line's fields; `kind` where it is known already.
struct Fields<'a, 'l> {
    kind: Option<Kind>,
    line: &'a mut Line<'l>,
}

impl<'l> DeserializeSeed<'l> for Fields<'_, 'l> {
    type Value = Typed;

    fn deserialize<D: Deserializer<'l>>(self, d: D) -> Result<Typed, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'l> Visitor<'l> for Fields<'_, 'l> {
    type Value = Typed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<Typed, A::Error> {
        let Self { kind, line } = self;
        let kind = match kind {
            Some(kind) => kind,
            None => match map.next_key_seed(KeyOf(None))? {
                None => return Err(A::Error::custom("it has no `type`")),
                Some(Key::Type) => {
                    let name = map.next_value::<Text<'l>>()?.0.unwrap_or_default();
                    let Some(kind) = Kind::of(&name) else {
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        return Ok(Typed::Unknown(name.into_owned()));
                    };
                    kind
                }
                Some(_) => return late(map),
            },
        };
        line.kind = kind;
        while let Some(key) = map.next_key_seed(KeyOf(Some(&mut *line)))? {
            line.read(key, &mut map)?;
        }
        Ok(Typed::Known)
    }
}

/// Looks for the type behind other fields.
fn late<'l, A: MapAccess<'l>>(mut map: A) -> Result<Typed, A::Error> {
    map.next_value::<IgnoredAny>()?;
    let mut name = None;
    while let Some(key) = map.next_key_seed(KeyOf(None))? {
        if key == Key::Type {
            name = Some(map.next_value::<Text<'l>>()?.0.unwrap_or_default());
        } else {
            map.next_value::<IgnoredAny>()?;
        }
    }
    let name = name.ok_or_else(|| A::Error::custom("it has no `type`"))?;
    Ok(Kind::of(&name).map_or_else(|| Typed::Unknown(name.into_owned()), Typed::Late))
}

impl<'l> Line<'l> {
    fn read<A: MapAccess<'l>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Type | Key::OfHeader | Key::Unknown => drop(map.next_value::<IgnoredAny>()?),
            Key::At => self.at = instant(map)?,
            Key::ArrivedAt => self.arrived_at = instant(map)?,
            Key::Clock => self.clock = instant(map)?,
            Key::Version => self.version = map.next_value::<Whole>()?.0,
            Key::Ends => self.ends = map.next_value::<Option<bool>>()?.unwrap_or_default(),
            Key::HeartbeatMs => self.heartbeat_ms = map.next_value::<Whole>()?.0,
            Key::Server => self.server = text(map)?,
            Key::Site => self.site = text(map)?,
            Key::Pool => self.pool = text(map)?,
            Key::Upstream => self.upstream = text(map)?,
            Key::Message => self.message = text(map)?,
            Key::Signal => self.signal = text(map)?,
            Key::Unit | Key::Source | Key::Kind => self.subject = text(map)?,
            Key::State | Key::What | Key::Event => self.said = text(map)?,
            Key::Reason => self.reason = text(map)?,
            Key::Attribute => self.attribute = text(map)?,
            Key::N => self.n = count(map)?,
            Key::N502 => self.n_502 = count(map)?,
            Key::N503 => self.n_503 = count(map)?,
            Key::N504 => self.n_504 = count(map)?,
            Key::N5xxApp => self.n_5xx_app = count(map)?,
            Key::N499 => self.n_499 = count(map)?,
            Key::NRetried => self.n_retried = count(map)?,
            Key::NCrawler => self.n_crawler = count(map)?,
            Key::Status => self.status = count(map)?,
            Key::Cpus => self.n_cpu = count(map)?,
            Key::Client => self.client = map.next_value::<Hash>()?.0,
            Key::Path => self.path = map.next_value::<Hash>()?.0,
            Key::PackedTo => self.packed_to = instant(map)?,
            Key::Holes => self.holes = map.next_value::<Option<_>>()?.unwrap_or_default(),
            Key::Baseline => self.baseline = map.next_value()?,
            Key::Labels => map.next_value_seed(Labels(self))?,
            Key::Values => map.next_value_seed(Values(self))?,
        }
        Ok(())
    }
}

fn text<'l, A: MapAccess<'l>>(map: &mut A) -> Result<Option<Cow<'l, str>>, A::Error> {
    Ok(map.next_value::<Text<'l>>()?.0)
}

fn instant<'l, A: MapAccess<'l>>(map: &mut A) -> Result<Option<i64>, A::Error> {
    let at = map.next_value::<Whole>()?.0;
    match at {
        Some(ms) if !(0..=AT_MAX).contains(&ms) => {
            Err(A::Error::custom(format_args!("{ms} is no time in milliseconds since 1970")))
        }
        at => Ok(at),
    }
}

fn count<'l, A: MapAccess<'l>>(map: &mut A) -> Result<u32, A::Error> {
    let n = map.next_value::<Whole>()?.0.unwrap_or(0);
    if n < 0 {
        return Err(A::Error::custom(format_args!("{n} is no count")));
    }
    Ok(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Reads the name of a field; notes it in the line when it is none of its type.
struct KeyOf<'a, 'l>(Option<&'a mut Line<'l>>);

impl<'l> DeserializeSeed<'l> for KeyOf<'_, 'l> {
    type Value = Key;

    fn deserialize<D: Deserializer<'l>>(self, d: D) -> Result<Key, D::Error> {
        d.deserialize_identifier(self)
    }
}

impl Visitor<'_> for KeyOf<'_, '_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        let key = Key::of(name);
        match self.0 {
            Some(line) if !line.kind.has(key) => {
                line.n_unknown += 1;
                if line.unknown.len() < UNKNOWN_MAX {
                    line.unknown.push(name.to_owned());
                }
                Ok(Key::Unknown)
            }
            _ => Ok(key),
        }
    }
}

/// `labels`: a label whose value is null is none.
struct Labels<'a, 'l>(&'a mut Line<'l>);

impl<'l> DeserializeSeed<'l> for Labels<'_, 'l> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for Labels<'_, 'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels as an object")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'l>>()? {
            let value = text(&mut map)?;
            let (Some(name), Some(value)) = (name.0, value) else { continue };
            let labels = &mut self.0.labels;
            if labels.len() < LABELS_MAX || labels.contains_key(&*name) {
                labels.insert(name.into_owned(), value.into_owned());
            } else {
                self.0.n_labels_dropped += 1;
            }
        }
        Ok(())
    }
}

/// `values` of a sample: a value that is null was not sampled.
struct Values<'a, 'l>(&'a mut Line<'l>);

impl<'l> DeserializeSeed<'l> for Values<'_, 'l> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for Values<'_, 'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("values as an object")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Text<'l>>()? {
            let Some(metric) = name.0.and_then(|name| catalog::find(&name)) else {
                map.next_value::<IgnoredAny>()?;
                self.0.n_values_unknown += 1;
                continue;
            };
            if let Some(value) = map.next_value::<Option<f64>>()? {
                self.0.values.push((metric.name, value));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::scalar::fnv_1a;

    const AT: &str = r#""at":1795176000000"#;

    fn good(text: &str) -> Line<'_> {
        decode(text.as_bytes()).unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
    }

    #[test]
    fn requests_are_read_in_any_order_of_fields_and_absent_counts_are_zero() {
        let want = Line {
            kind: Kind::Requests,
            at: Some(1_795_176_000_000),
            arrived_at: Some(1_795_176_000_300),
            server: Some("web-1".into()),
            site: Some("a.example".into()),
            n: 7,
            n_502: 2,
            n_499: 1,
            ..Line::default()
        };
        for text in [
            r#"{"type":"requests","at":1795176000000,"arrived_at":1795176000300,"server":"web-1","site":"a.example","n":7,"n_502":2,"n_499":1}"#,
            r#"{"n_502":2,"n":7,"site":"a.example","n_499":1,"n_504":null,"server":"web-1","arrived_at":1795176000300,"at":1795176000000,"type":"requests"}"#,
            r#" { "type" : "requests", "at" : 1795176000000.0, "arrived_at" : 1.7951760003e12, "server" : "web\u002d1", "site":"a.example", "n":7.0, "n_502":2, "n_499":1, "n_503":0 } "#,
            r#"{"type":"requests","type":"log","at":1795176000000,"arrived_at":1795176000300,"server":"web-1","site":"a.example","n":7,"n_502":2,"n_499":1}"#,
        ] {
            assert_eq!(good(text), want, "{text}");
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of records")]
    fn every_type_of_record_is_read() {
        for (text, want) in [
            (
                r#"{"type":"header","version":1,"label_names":["rack"],"from":1,"to":2}"#,
                Line { kind: Kind::Header, version: Some(1), ..Line::default() },
            ),
            (
                r#"{"type":"server","server":"w","labels":{"rack":"r1","unit":7,"gone":null,"on":true},"n_cpu":4,"heartbeat_ms":5000}"#,
                Line {
                    kind: Kind::Server,
                    server: Some("w".into()),
                    labels: [("rack", "r1"), ("unit", "7"), ("on", "true")]
                        .map(|(k, v)| (k.to_owned(), v.to_owned()))
                        .into(),
                    n_cpu: 4,
                    heartbeat_ms: Some(5000),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"server","server":"w","labels":null}"#,
                Line { kind: Kind::Server, server: Some("w".into()), ..Line::default() },
            ),
            (
                r#"{"type":"site","server":"w","site":"s","pool":null,"upstream":"10.0.0.1:80","baseline":{"days":28,"n_requests":9,"n_gateway_errors":1}}"#,
                Line {
                    kind: Kind::Site,
                    server: Some("w".into()),
                    site: Some("s".into()),
                    upstream: Some("10.0.0.1:80".into()),
                    baseline: Some(PastRow { days: 28.0, n_requests: 9.0, n_gateway_errors: 1.0 }),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"exemplar","at":5,"server":"w","site":"s","pool":"www","status":502,"client":"00000000000000ff","path":18446744073709551615,"upstream":"u","message":""}"#,
                Line {
                    kind: Kind::Exemplar,
                    at: Some(5),
                    server: Some("w".into()),
                    site: Some("s".into()),
                    pool: Some("www".into()),
                    status: 502,
                    client: 255,
                    path: u64::MAX,
                    upstream: Some("u".into()),
                    message: Some("".into()),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"sample","at":5,"server":"w","values":{"system.cpu.steal":0.3,"system.pressure.io":null,"no.such":1,"system.oom_kills":2}}"#,
                Line {
                    kind: Kind::Sample,
                    at: Some(5),
                    server: Some("w".into()),
                    values: vec![("system.cpu.steal", 0.3), ("system.oom_kills", 2.0)],
                    n_values_unknown: 1,
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"service","at":5,"server":"w","unit":"nginx.service","state":"failed","pool":null}"#,
                Line {
                    kind: Kind::Service,
                    at: Some(5),
                    server: Some("w".into()),
                    subject: Some("nginx.service".into()),
                    said: Some("failed".into()),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"log","at":5,"server":"w","source":"kernel","message":"x \"y\""}"#,
                Line {
                    kind: Kind::Log,
                    at: Some(5),
                    server: Some("w".into()),
                    subject: Some("kernel".into()),
                    message: Some("x \"y\"".into()),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"change","at":5,"server":"w","kind":"package","what":"php","site":"s"}"#,
                Line {
                    kind: Kind::Change,
                    at: Some(5),
                    server: Some("w".into()),
                    site: Some("s".into()),
                    subject: Some("package".into()),
                    said: Some("php".into()),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"heartbeat","at":5,"server":"w","clock":6}"#,
                Line {
                    kind: Kind::Heartbeat,
                    at: Some(5),
                    server: Some("w".into()),
                    clock: Some(6),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"goodbye","at":5,"server":"w"}"#,
                Line {
                    kind: Kind::Goodbye,
                    at: Some(5),
                    server: Some("w".into()),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"hello","at":5,"server":"w"}"#,
                Line {
                    kind: Kind::Hello,
                    at: Some(5),
                    server: Some("w".into()),
                    ..Line::default()
                },
            ),
            (
                r#"{"type":"collector","at":5,"event":"disk_full"}"#,
                Line {
                    kind: Kind::Collector,
                    at: Some(5),
                    said: Some("disk_full".into()),
                    ..Line::default()
                },
            ),
        ] {
            assert_eq!(good(text), want, "{text}");
        }
    }

    #[test]
    fn an_absent_text_is_no_empty_one() {
        for (field, want) in [
            (r#","message":"""#, Some("")),
            (r#","message":null"#, None),
            ("", None),
            (r#","message":"\u0000x""#, Some("\0x")),
        ] {
            let text = format!(r#"{{"type":"exemplar",{AT},"server":"w","site":"s"{field}}}"#);
            assert_eq!(good(&text).message.as_deref(), want, "{text}");
        }
    }

    #[test]
    fn what_a_later_release_adds_is_named_and_left_out() {
        let text = format!(
            r#"{{"type":"requests",{AT},"server":"w","site":"s","n":1,"unit":[1],"colour":{{"a":[]}},"n_505":-1}}"#
        );
        let line = good(&text);
        assert_eq!((line.n, line.n_unknown), (1, 3));
        assert_eq!(line.unknown, ["unit", "colour", "n_505"]);
        for text in [
            r#"{"type":"flow","at":"yesterday","n":-1}"#,
            r#"{"at":"yesterday","n":-1,"type":"flow"}"#,
        ] {
            assert_eq!(decode(text.as_bytes()), Err(Problem::UnknownType("flow".into())), "{text}");
        }
        let many = (0..100).map(|n| format!(r#","x{n}":0"#)).collect::<Vec<_>>().concat();
        let text = format!(r#"{{"type":"hello",{AT},"server":"w"{many}}}"#);
        assert_eq!((good(&text).n_unknown, good(&text).unknown.len()), (100, UNKNOWN_MAX));
    }

    #[test]
    fn broken_lines_say_what_is_wrong_and_where() {
        for (text, want) in [
            ("", "EOF while parsing a value at column 0"),
            ("time,site,n", "expected ident at column 2"),
            ("[1]", "invalid type: sequence, expected a JSON object at column 0"),
            ("{}", "it has no `type` at column 2"),
            (r#"{"at":5}"#, "it has no `type` at column 8"),
            (r#"{"type":"hello","at":5"#, "EOF while parsing an object at column 22"),
            (r#"{"type":"hello","at":5} x"#, "trailing characters at column 25"),
            (
                r#"{"type":"hello","at":"noon"}"#,
                "invalid type: string \"noon\", expected a whole number at column 27",
            ),
            (r#"{"type":"hello","at":-1}"#, "-1 is no time in milliseconds since 1970"),
            (r#"{"type":"hello","at":1e300}"#, "1000000000000000"),
            (r#"{"type":"hello","at":1795176000.5}"#, "1795176000.5 is no whole number"),
            (r#"{"type":"requests","n":-3}"#, "-3 is no count"),
            (r#"{"type":"requests","n":"3"}"#, "invalid type: string \"3\""),
            (r#"{"type":"server","labels":[]}"#, "expected labels as an object"),
            (
                r#"{"type":"sample","values":{"system.cpu.steal":"x"}}"#,
                "invalid type: string \"x\"",
            ),
        ] {
            let Err(Problem::Broken(why)) = decode(text.as_bytes()) else { panic!("{text}") };
            assert!(why.starts_with(want) || why.contains(want), "{text}: {why}");
        }
        assert!(matches!(
            decode(b"{\"type\":\"hello\",\"server\":\"\xff\"}"),
            Err(Problem::Broken(_))
        ));
        assert!(matches!(decode(&[0; 64]), Err(Problem::Broken(_))));
        let deep = format!(r#"{{"type":"hello","x":{}"#, "[".repeat(100_000));
        assert!(
            matches!(decode(deep.as_bytes()), Err(Problem::Broken(_))),
            "no stack is deep enough"
        );
    }

    #[test]
    fn a_million_labels_leave_no_more_than_a_server_may_have() {
        let labels: Vec<String> = (0..50_000).map(|n| format!(r#""l{n}":"v""#)).collect();
        let text = format!(r#"{{"type":"server","server":"w","labels":{{{}}}}}"#, labels.join(","));
        let line = good(&text);
        assert_eq!((line.labels.len(), line.n_labels_dropped), (LABELS_MAX, 50_000 - 64));
    }

    #[test]
    fn a_hash_is_a_number_or_any_text() {
        for (client, want) in [
            ("0", 0),
            ("17", 17),
            ("-1", u64::MAX),
            ("null", 0),
            (r#""""#, 0),
            (r#""00000000000000ff""#, 255),
            (r#""a""#, fnv_1a(b"a")),
        ] {
            let text = format!(r#"{{"type":"exemplar","client":{client}}}"#);
            assert_eq!(good(&text).client, want, "{client}");
        }
        assert_ne!(fnv_1a(b"203.0.113.0"), fnv_1a(b"203.0.113.1"));
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(bytes: Vec<u8>, text in r#"\{"type":"[a-z]{3,9}"(,"[a-z_0-9]{1,9}":([0-9.e-]{1,9}|"\PC{0,9}"|null|\{\}))*\}?"#) {
            drop(decode(&bytes));
            drop(decode(text.as_bytes()));
        }
    }
}
