//! One JSON object -> the values under some paths, in one pass that keeps nothing else.
//!
//! A path names the keys from the outside in with dots between them; a key may hold dots itself.
//! Of an array its first value counts. A path that comes twice with different values makes the
//! object ambiguous: who wrote the second one is not known, so neither is believed.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::logs::parse::{access, time};
use crate::logs::{AccessRecord, Attempt, Line, LineTime, Rejected};

/// Paths that one set may have.
pub(crate) const PATHS_MAX: usize = 64;

/// What stands under a path.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Value<'l> {
    #[default]
    Nothing,
    Null,
    Text(Cow<'l, str>),
    Unsigned(u64),
    Float(f64),
    /// A negative number, `true`, `false`, an object.
    Other,
}

/// The values of one object, by the place of their path.
#[derive(Debug)]
pub(crate) struct Values<'l> {
    values: Vec<Value<'l>>,
    is_ambiguous: bool,
}

impl<'l> Values<'l> {
    /// Reads one object; `None` when it is not valid JSON, or ambiguous. Cost: one allocation, and
    /// one for each kept text with an escape in it.
    pub(crate) fn read<P: AsRef<str>>(paths: &[P], line: &'l [u8]) -> Option<Self> {
        let paths = &paths[..paths.len().min(PATHS_MAX)];
        let mut values = Self { values: vec![Value::Nothing; paths.len()], is_ambiguous: false };
        let mut json = serde_json::Deserializer::from_slice(line);
        let alive = if paths.len() == PATHS_MAX { u64::MAX } else { (1 << paths.len()) - 1 };
        let node = Node { paths, values: &mut values, here: 0, below: alive, at: 0 };
        node.deserialize(&mut json).ok()?;
        json.end().ok()?;
        (!values.is_ambiguous).then_some(values)
    }

    pub(crate) fn get(&self, at: usize) -> &Value<'l> {
        self.values.get(at).unwrap_or(&Value::Nothing)
    }

    /// The path is there with another value than `null`.
    pub(crate) fn has(&self, at: usize) -> bool {
        !matches!(self.get(at), Value::Nothing | Value::Null)
    }

    /// The path is there and says that there is no value.
    pub(crate) fn is_null(&self, at: usize) -> bool {
        match self.get(at) {
            Value::Null => true,
            Value::Text(text) => text.is_empty() || text == "-",
            _ => false,
        }
    }

    /// A text or number that says something: not empty, not `-`.
    pub(crate) fn text(&self, at: usize) -> Option<Cow<'l, str>> {
        let text = match self.get(at) {
            Value::Text(text) => text.clone(),
            Value::Unsigned(number) => number.to_string().into(),
            Value::Float(number) => number.to_string().into(),
            Value::Nothing | Value::Null | Value::Other => return None,
        };
        (!text.is_empty() && text != "-").then_some(text)
    }

    /// A text without copying it.
    pub(crate) fn str(&self, at: usize) -> &str {
        if let Value::Text(text) = self.get(at) { text } else { "" }
    }

    /// Not negative and finite.
    pub(crate) fn number(&self, at: usize) -> Option<f64> {
        match self.get(at) {
            Value::Text(text) => access::number(text.as_bytes()),
            Value::Unsigned(number) => Some(*number as f64),
            Value::Float(number) => Some(*number).filter(|n| n.is_finite() && *n >= 0.0),
            Value::Nothing | Value::Null | Value::Other => None,
        }
    }

    /// A status, written as number or text.
    pub(crate) fn status(&self, at: usize) -> Option<u16> {
        match self.get(at) {
            Value::Text(text) => access::status(text.as_bytes()),
            Value::Unsigned(number) => {
                u16::try_from(*number).ok().filter(|status| (100..600).contains(status))
            }
            Value::Nothing | Value::Null | Value::Float(_) | Value::Other => None,
        }
    }

    /// A time by one of the ways loggers write it.
    pub(crate) fn time(&self, at: usize, read: fn(&[u8]) -> Option<LineTime>) -> Option<LineTime> {
        let mut digits = Digits::default();
        match self.get(at) {
            Value::Text(text) if text == "-" => None,
            Value::Text(text) => read(text.as_bytes()),
            Value::Unsigned(number) => {
                write!(digits, "{number}").ok().and_then(|()| read(digits.text()))
            }
            Value::Float(number) => {
                write!(digits, "{number}").ok().and_then(|()| read(digits.text()))
            }
            Value::Nothing | Value::Null | Value::Other => None,
        }
    }

    fn set(&mut self, places: u64, value: &Value<'l>) {
        let mut places = places;
        while places != 0 {
            let at = places.trailing_zeros() as usize;
            places &= places - 1;
            let Some(known) = self.values.get_mut(at) else { continue };
            if *known == Value::Nothing {
                known.clone_from(value);
            } else if known != value {
                self.is_ambiguous = true;
            }
        }
    }
}

/// Any way a logger writes a time: ISO 8601, that of the Common Log Format, or a number since the
/// epoch whose size tells its unit.
pub(crate) fn any_time(text: &[u8]) -> Option<LineTime> {
    time::iso8601(text).or_else(|| time::clf(text)).or_else(|| since_epoch(text))
}

/// Seconds, or milli-, micro- or nanoseconds: no log is older than 2001 in any of them.
pub(crate) fn since_epoch(text: &[u8]) -> Option<LineTime> {
    match text.iter().take_while(|byte| byte.is_ascii_digit()).count() {
        ..13 => time::epoch_seconds(text),
        13..16 => time::epoch_units(text, 1_000),
        16..19 => time::epoch_units(text, 1_000_000),
        _ => time::epoch_units(text, 1_000_000_000),
    }
}

/// Reads a line that is JSON, or nearly: a server that does not know JSON writes a quote as `\x22`.
pub(crate) fn read_line<'l, P: AsRef<str>>(
    paths: &[P],
    line: &'l [u8],
    build: impl for<'v> Fn(&Values<'v>) -> Line<'v>,
) -> Line<'l> {
    if line.first() != Some(&b'{') {
        return Line::Rejected(Rejected::Malformed);
    }
    if let Some(values) = Values::read(paths, line) {
        return build(&values);
    }
    let text = String::from_utf8_lossy(line);
    let text = if text.contains("\\x") {
        Cow::Owned(text.replace("\\x", "\\u00"))
    } else if matches!(text, Cow::Owned(_)) {
        text
    } else {
        return Line::Rejected(Rejected::Malformed);
    };
    match Values::read(paths, text.as_bytes()) {
        Some(values) => owned(build(&values)),
        None => Line::Rejected(Rejected::Malformed),
    }
}

/// The same line, without a borrow.
fn owned(line: Line<'_>) -> Line<'static> {
    fn own<'o>(text: Cow<'_, str>) -> Cow<'o, str> {
        Cow::Owned(text.into_owned())
    }
    match line {
        Line::Access(r) => Line::Access(AccessRecord {
            time: r.time,
            host: r.host.map(own),
            client: r.client.map(own),
            forwarded_for: r.forwarded_for.map(own),
            method: r.method.map(own),
            path: r.path.map(own),
            status: r.status,
            attempts: owned_attempts(r.attempts),
            request_time: r.request_time,
            user_agent: r.user_agent.map(own),
            time_is_start: r.time_is_start,
            upstream_failed: r.upstream_failed,
            no_upstream: r.no_upstream,
            signal: r.signal,
        }),
        Line::Rejected(reason) => Line::Rejected(reason),
        // No parser of JSON makes an error record of a line that is not JSON.
        Line::Error(_) => Line::Rejected(Rejected::Malformed),
    }
}

pub(crate) fn owned_attempts<'o>(attempts: Vec<Attempt<'_>>) -> Vec<Attempt<'o>> {
    let own = |a: Attempt<'_>| Attempt {
        upstream: Cow::Owned(a.upstream.into_owned()),
        status: a.status,
        time: a.time,
        is_other_group: a.is_other_group,
    };
    attempts.into_iter().map(own).collect()
}

/// The text of a number, where nothing is allocated for it.
#[derive(Default)]
struct Digits {
    bytes: [u8; 24],
    len: usize,
}

impl Digits {
    fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// A value, with the paths that end here and those that go on below it.
struct Node<'a, 'l, P> {
    paths: &'a [P],
    values: &'a mut Values<'l>,
    here: u64,
    below: u64,
    /// Bytes of the paths below that are already matched.
    at: usize,
}

impl<'l, P: AsRef<str>> DeserializeSeed<'l> for Node<'_, 'l, P> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, json: D) -> Result<(), D::Error> {
        // The line itself is an object, and so is each value with paths below; others may be anything.
        json.deserialize_any(self)
    }
}

impl<'l, P: AsRef<str>> Visitor<'l> for Node<'_, 'l, P> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'l str) -> Result<(), E> {
        self.values.set(self.here, &Value::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.values.set(self.here, &Value::Text(Cow::Owned(text.to_owned())));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.values.set(self.here, &Value::Unsigned(number));
        Ok(())
    }

    fn visit_i64<E>(self, _number: i64) -> Result<(), E> {
        self.values.set(self.here, &Value::Other);
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.values.set(self.here, &Value::Float(number));
        Ok(())
    }

    fn visit_bool<E>(self, _value: bool) -> Result<(), E> {
        self.values.set(self.here, &Value::Other);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.values.set(self.here, &Value::Null);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'l>>(self, mut array: A) -> Result<(), A::Error> {
        let Node { paths, values, here, .. } = self;
        let first = Node { paths, values, here, below: 0, at: 0 };
        if here == 0 || array.next_element_seed(first)?.is_some() {
            while array.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'l>>(self, mut object: A) -> Result<(), A::Error> {
        let Node { paths, values, here, below, at } = self;
        values.set(here, &Value::Other);
        while let Some((here, below, at)) =
            object.next_key_seed(Key { paths, alive: below, at, borrow: PhantomData })?
        {
            if here | below == 0 {
                object.next_value::<IgnoredAny>()?;
            } else {
                object.next_value_seed(Node { paths, values, here, below, at })?;
            }
        }
        Ok(())
    }
}

/// A key: the paths that end with it, those that go on, and how far they are matched then.
struct Key<'a, 'l, P> {
    paths: &'a [P],
    alive: u64,
    at: usize,
    borrow: PhantomData<&'l ()>,
}

impl<'l, P: AsRef<str>> DeserializeSeed<'l> for Key<'_, 'l, P> {
    type Value = (u64, u64, usize);

    fn deserialize<D: Deserializer<'l>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'l, P: AsRef<str>> Visitor<'l> for Key<'_, 'l, P> {
    type Value = (u64, u64, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let (mut here, mut below) = (0, 0);
        let mut alive = self.alive;
        while alive != 0 {
            let bit = alive & alive.wrapping_neg();
            alive ^= bit;
            let path = self.paths.get(bit.trailing_zeros() as usize).map_or("", AsRef::as_ref);
            let rest = path.as_bytes().get(self.at..).unwrap_or_default();
            if rest.first() != key.as_bytes().first() {
                continue; // most of them, at the cost of one byte
            }
            match rest.strip_prefix(key.as_bytes()) {
                Some([]) => here |= bit,
                Some([b'.', ..]) => below |= bit,
                _ => {}
            }
        }
        Ok((here, below, self.at + key.len() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_paths() {
        let paths = ["status", "a.b", "a.c.d", "list", "e.f"];
        for (line, want) in [
            (r#"{"status":502,"x":{"status":1}}"#, Some("502||||")),
            (r#"{"a":{"b":"one","c":{"d":2.5},"z":[1,{"b":3}]}}"#, Some("|one|2.5||")),
            (r#"{"a.b":"one","a":{"c.d":"two"}}"#, Some("|one|two||")),
            (r#"{"list":["first","second"],"e":[{"f":1}]}"#, Some("|||first|")),
            (r#"{"list":[],"e":null,"status":null}"#, Some("||||")),
            (r#"{"st\u0061tus":"4\u00302"}"#, Some("402||||")),
            (r#"{"status":200,"status":200}"#, Some("200||||")),
            (r#"{"status":200,"status":502}"#, None),
            (r#"{"status":200,"status":"200"}"#, None),
            (r#"{"a":{"b":1},"a.b":2}"#, None),
            (r#"{"a":{"b":1},"a":{"b":2}}"#, None),
            (r#"{"status":200"#, None),
            (r#"{"status":200}}"#, None),
            (r#"{"status":200} x"#, None),
            (r#"["status"]"#, Some("||||")),
        ] {
            let got = Values::read(&paths, line.as_bytes()).map(|values| {
                let all = (0..paths.len()).map(|at| values.text(at).unwrap_or_default());
                all.collect::<Vec<_>>().join("|")
            });
            assert_eq!(got.as_deref(), want, "{line}");
        }
    }

    #[test]
    fn the_size_of_a_number_tells_its_unit() {
        for text in ["1795176067.042", "1795176067042", "1795176067042000", "1795176067042000000"] {
            let want = time::epoch_seconds(b"1795176067.042");
            assert_eq!(since_epoch(text.as_bytes()), want, "{text}");
        }
        assert_eq!(since_epoch(b"17951760670420000000000"), None);
        assert_eq!(any_time(b"x"), None);
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let line = format!("{{\"a\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
            assert!(Values::read(&["b"], line.as_bytes()).is_some(), "skipped without a stack");
            assert!(Values::read(&["a"], line.as_bytes()).is_some() || open == "[");
            assert!(Values::read(&["a.a.a.b"], line.as_bytes()).is_some());
        }
    }
}
