//! The form of a JSON line -> a shape: loggers write the same keys in the same order each time.
//!
//! Keys and punctuation are fixed text, values are fields. A line of another form, or with an
//! escape in it, does not fit and is parsed in full; so does what serde would not take as JSON.

use crate::logs::LineTime;
use crate::logs::parse::json::{EPOCH, FOREIGN, Field as Key, ISO, Keys, LOCAL};
use crate::logs::parse::log_format::TimeStyle;
use crate::logs::parse::time;
use crate::logs::scan::shape::{End, Keep, LITERAL_BYTES_MAX, Op, Shape, Value, is_mark, push};

/// A value of the line and the path it stands under.
struct Field<'l> {
    /// Empty for values inside of arrays.
    path: String,
    text: &'l [u8],
    start: usize,
    is_string: bool,
}

/// The shape of lines like this one, which is valid JSON, and how their time is written.
///
/// `None` when it holds an escape, or does not tell what a plain line must.
pub(crate) fn learn(keys: &Keys, line: &[u8]) -> Option<(Shape, TimeStyle)> {
    if line.first() != Some(&b'{') || line.contains(&b'\\') {
        return None;
    }
    let (fields, arrays) = fields(line)?;
    let is_wanted = |path: &String| keys.paths.iter().any(|key| key == path);
    let is_foreign = |field: &Field<'_>| FOREIGN.contains(&&*field.path);
    if arrays.iter().any(is_wanted) || fields.iter().any(is_foreign) {
        return None;
    }
    let present = |key: Key| present(&fields, keys.paths_of(key));
    let mut keeps = vec![(Keep::Nothing, Value::Any); fields.len()];
    let mut keep = |at: Option<usize>, what: Keep, may_be_empty: bool| {
        if let Some(at) = at {
            keeps[at] = (what, if may_be_empty { Value::Any } else { Value::Said });
        }
    };
    // Two keys of the status may disagree, and a list of statuses tells of attempts.
    let [status] = present(Key::Status)[..] else { return None };
    if present(Key::Upstream).is_empty() && !present(Key::UpstreamStatus).is_empty() {
        return None;
    }
    keep(Some(status), Keep::Status, false);
    for (key, what) in
        [(Key::Host, Keep::Host), (Key::Client, Keep::Client), (Key::Upstream, Keep::Upstream)]
    {
        let at = present(key);
        if at.first().is_some_and(|at| !fields[*at].is_string) {
            return None;
        }
        keep(at.first().copied(), what, at.len() == 1);
    }
    let (time_at, style) = time_of(keys, &fields)?;
    keep(time_at, Keep::Time, false);
    Some((shape(line, &fields, &keeps), style))
}

/// What the value under a path means to a server's own parser. Paths without a role do not change
/// what it says of a plain line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// A text to keep, unless one before it is there.
    Text(Keep, Value),
    Status,
    Time,
    Duration,
    /// It has to be a text, whatever it says, or stay what it is.
    Any,
    /// It has to be as in the line the form is learned from.
    Same,
    /// The same, and this.
    Is(&'static str),
}

/// What a server writes whose JSON has a parser of its own.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) roles: &'static [(&'static str, Role)],
    /// Units of the duration per second, where the time is the start of a request.
    pub(crate) duration_per_s: Option<f64>,
}

/// The shape of lines like this one, which its server's parser took for a request.
pub(crate) fn learn_of(server: &Server, line: &[u8]) -> Option<(Shape, TimeStyle)> {
    if line.first() != Some(&b'{') || line.contains(&b'\\') {
        return None;
    }
    let (mut fields, arrays) = fields(line)?;
    let mut keeps = vec![(Keep::Nothing, Value::Any); fields.len()];
    let mut kept = Vec::new();
    let mut fixed = Vec::new();
    let mut style = None;
    for (path, role) in server.roles {
        if arrays.iter().any(|array| array == path) {
            return None;
        }
        let Some(at) = fields.iter().position(|field| field.path == *path) else { continue };
        let field = &fields[at];
        match *role {
            Role::Any if !field.is_string => fixed.push(at),
            Role::Text(..) if !field.is_string && field.text == b"null" => fixed.push(at),
            Role::Text(..) if !field.is_string => return None,
            Role::Is(text) if field.text != text.as_bytes() => return None,
            Role::Text(keep, value) => {
                let slot = if keep == Keep::Address { Keep::Client } else { keep };
                if !kept.contains(&slot) {
                    keeps[at] = (keep, value);
                    kept.push(slot);
                }
            }
            Role::Status => {
                keeps[at].0 = Keep::Status;
                kept.push(Keep::Status);
            }
            Role::Duration if field.is_string || server.duration_per_s.is_none() => return None,
            Role::Duration => keeps[at].0 = Keep::Duration,
            Role::Time => {
                keeps[at].0 = Keep::Time;
                let is_iso = field.is_string && time::iso8601(field.text).is_some();
                let is_epoch = !field.is_string && time::epoch_seconds(field.text).is_some();
                style = Some(match (is_iso, is_epoch) {
                    (true, _) => TimeStyle::Iso8601,
                    (_, true) => TimeStyle::EpochSeconds,
                    _ => return None,
                });
            }
            Role::Any => {}
            Role::Same | Role::Is(_) => fixed.push(at),
        }
    }
    fixed.sort_unstable();
    for at in fixed.into_iter().rev() {
        // Text between fields has to be the same.
        fields.remove(at);
        keeps.remove(at);
    }
    let shape = Shape { duration_per_s: server.duration_per_s, ..shape(line, &fields, &keeps) };
    Some((shape, style?)).filter(|_| kept.contains(&Keep::Status))
}

/// Fields under these paths, in the order of the paths.
fn present<'k>(fields: &[Field<'_>], paths: impl Iterator<Item = &'k str>) -> Vec<usize> {
    paths.filter_map(|path| fields.iter().position(|field| field.path == path)).collect()
}

/// The field that `json::record_time` reads, if each line of this form has it read there.
fn time_of(keys: &Keys, fields: &[Field<'_>]) -> Option<(Option<usize>, TimeStyle)> {
    let is = |at: usize, read: fn(&[u8]) -> Option<LineTime>| {
        fields[at].is_string && read(fields[at].text).is_some()
    };
    if keys.is_time_told {
        // Only the ways that no other one can be taken for.
        return match present(fields, keys.paths_of(Key::Time))[..] {
            [at] if is(at, time::iso8601) => Some((Some(at), TimeStyle::Iso8601)),
            [at] if is(at, time::clf) => Some((Some(at), TimeStyle::Clf)),
            [] => Some((None, TimeStyle::Iso8601)),
            _ => None,
        };
    }
    let of = |places: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
        present(fields, places.filter_map(|at| keys.paths.get(at)).map(AsRef::as_ref))
    };
    if let [at] = of(&mut keys.times([LOCAL]))[..] {
        return is(at, time::clf).then_some((Some(at), TimeStyle::Clf));
    }
    let dated = of(&mut keys.times(ISO));
    let epoch = of(&mut keys.times(EPOCH));
    // Other styles are looked for under some of these keys only.
    let only = |at: usize, key: &str| fields[at].path == key && dated.len() == 1;
    match (&dated[..], &epoch[..]) {
        ([at, ..], _) if is(*at, time::iso8601) => Some((Some(*at), TimeStyle::Iso8601)),
        ([at], _) if (only(*at, "time") || only(*at, "timestamp")) && is(*at, time::clf) => {
            Some((Some(*at), TimeStyle::Clf))
        }
        ([at], [first]) if only(*at, "time") && first == at => {
            Some((Some(*at), TimeStyle::EpochSeconds))
        }
        ([], [at, ..]) => Some((Some(*at), TimeStyle::EpochSeconds)),
        ([], []) => Some((None, TimeStyle::Iso8601)),
        _ => None,
    }
}

fn shape(line: &[u8], fields: &[Field<'_>], keeps: &[(Keep, Value)]) -> Shape {
    let mut ops: Vec<Op> = Vec::new();
    let head = fields.first().map_or(line.len(), |field| field.start);
    push(&mut ops, End::Here, &line[..head], Keep::Nothing, Value::Any);
    for (at, field) in fields.iter().enumerate() {
        let upto = fields.get(at + 1).map_or(line.len(), |next| next.start);
        let until = &line[field.start + field.text.len()..upto];
        let (keep, value) = keeps[at];
        if field.is_string {
            let is_text = matches!(keep, Keep::Host | Keep::Client);
            let end = if is_text { End::Byte(b'"') } else { End::Mark(0) };
            push(&mut ops, end, until, keep, value);
        } else {
            let mark = until.iter().take(LITERAL_BYTES_MAX).position(|byte| is_mark(*byte));
            let end = mark.map_or(End::Byte(until[0]), |at| End::Mark(at as u8));
            push(&mut ops, end, until, keep, Value::Scalar);
        }
    }
    Shape::new(ops, None, true)
}

/// All values of a valid object without escapes, and the paths of its arrays; `None` when a path
/// comes twice.
fn fields(line: &[u8]) -> Option<(Vec<Field<'_>>, Vec<String>)> {
    let mut walk = Walk::default();
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b'"' => {
                let start = at + 1;
                let end = start + memchr::memchr(b'"', line.get(start..)?)?;
                let text = &line[start..end];
                at = end + 1;
                if line[at..].trim_ascii_start().first() == Some(&b':') {
                    walk.key(text)?;
                } else {
                    walk.value(text, start, true);
                }
                continue;
            }
            b'{' => walk.open(false),
            b'[' => walk.open(true),
            b'}' | b']' => walk.close(),
            b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
                let ends =
                    |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let len = line[at..].iter().position(ends)?;
                walk.value(&line[at..at + len], at, false);
                at += len;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Some((walk.fields, walk.arrays))
}

/// Where a walk through an object is.
#[derive(Default)]
struct Walk<'l> {
    fields: Vec<Field<'l>>,
    arrays: Vec<String>,
    keys: Vec<String>,
    /// Path of the last key.
    path: String,
    /// Bytes of the path that belong to the objects around, and how many arrays are around.
    around: Vec<(usize, usize)>,
    n_arrays: usize,
}

impl<'l> Walk<'l> {
    fn key(&mut self, text: &[u8]) -> Option<()> {
        if self.n_arrays > 0 {
            return Some(());
        }
        let outer = self.around.last().map_or(0, |(outer, _)| *outer);
        self.path.truncate(outer);
        if outer > 0 {
            self.path.push('.');
        }
        self.path.push_str(std::str::from_utf8(text).ok()?);
        if self.keys.contains(&self.path) {
            return None;
        }
        self.keys.push(self.path.clone());
        Some(())
    }

    fn value(&mut self, text: &'l [u8], start: usize, is_string: bool) {
        let path = if self.n_arrays > 0 { String::new() } else { self.path.clone() };
        self.fields.push(Field { path, text, start, is_string });
    }

    fn open(&mut self, is_array: bool) {
        if is_array && self.n_arrays == 0 {
            self.arrays.push(self.path.clone());
        }
        self.around.push((self.path.len(), self.n_arrays));
        self.n_arrays += usize::from(is_array);
    }

    fn close(&mut self) {
        let (outer, n_arrays) = self.around.pop().unwrap_or_default();
        self.path.truncate(outer);
        self.n_arrays = n_arrays;
    }
}
