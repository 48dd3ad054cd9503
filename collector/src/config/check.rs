//! The check of `collector.toml`: every problem with its place and its fix.
//!
//! serde knows the keys and their types but stops at the first fault, so a faulty statement is
//! blanked out and the rest is read again. What serde cannot know, such as ranges, comes after.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use wire::units::{Bytes, Span};

use super::Config;
use super::report::CatalogueError;
use crate::notify::kinds::distance;
use crate::notify::{self, address as urls, deadman};
use crate::report::schedule;
use crate::witness::WITNESSES_MAX;

/// Faults told at once.
const PROBLEMS_MAX: usize = 50;

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE`, `FILE`, or the environment variable.
    pub place: String,
    /// What is wrong, on which key.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.fix)
    }
}

/// What the environment may set: table and key. Lists are separated by commas.
pub(super) const KEYS: &[(&str, &str, Type)] = &[
    ("", "data_dir", Type::Text),
    ("", "socket", Type::Text),
    ("", "shutdown_grace", Type::Text),
    ("grpc", "listen", Type::Text),
    ("grpc", "advertise", Type::Text),
    ("http", "listen", Type::Text),
    ("http", "public_url", Type::Text),
    ("retention", "raw", Type::Text),
    ("retention", "rollup", Type::Text),
    ("retention", "disk_bytes_max", Type::Text),
    ("store", "seal_after", Type::Text),
    ("store", "late_after", Type::Text),
    ("store", "seal_interval", Type::Text),
    ("backup", "dir", Type::Text),
    ("backup", "interval", Type::Text),
    ("backup", "keep", Type::Number),
    ("detect", "group_labels", Type::List),
    ("detect", "witnesses", Type::List),
    ("detect", "open_nats", Type::Number),
    ("detect", "p_bad_min", Type::Number),
    ("detect", "n_failed_min", Type::Number),
    ("detect", "pool_nats", Type::Number),
    ("detect", "server_nats", Type::Number),
    ("detect", "group_nats", Type::Number),
    ("detect", "group_servers_min", Type::Number),
    ("detect", "group_share_min", Type::Number),
    ("detect", "quiet", Type::Text),
    ("detect", "retroactive_after", Type::Text),
    ("detect", "cooldown", Type::Text),
    ("detect", "slo", Type::Number),
    ("report", "slo", Type::Number),
    ("report", "plans", Type::Text),
    ("report", "by", Type::List),
    ("report", "limit_cpu", Type::Number),
    ("report", "limit_memory", Type::Number),
    ("report", "limit_swap", Type::Number),
    ("report", "limit_disk", Type::Number),
    ("report", "limit_io", Type::Number),
    ("report", "limit_children", Type::Number),
    ("report", "limit_connections", Type::Number),
    ("report", "limit_pressure", Type::Number),
    ("report", "limit_steal", Type::Number),
    ("deadman", "url", Type::Text),
    ("deadman", "url_file", Type::Text),
    ("deadman", "interval", Type::Text),
];

/// How the text of an environment variable becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    List,
}

/// Name of the variable that sets a key.
pub(super) fn variable(table: &str, name: &str) -> String {
    let path = if table.is_empty() { String::new() } else { format!("{table}_") };
    format!("GATEWATCH_{path}{name}").to_uppercase()
}

/// A key's value out of a variable's text.
pub(super) fn value_of(kind: Type, text: &str) -> Result<toml::Value, String> {
    match kind {
        Type::Text => Ok(toml::Value::String(text.to_owned())),
        Type::Number => match text.parse::<f64>() {
            Ok(number) => Ok(toml::Value::Float(number)),
            Err(_) => Err("write a plain number".to_owned()),
        },
        Type::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(items.map(|item| toml::Value::String(item.to_owned())).collect::<Vec<_>>().into())
        }
    }
}

/// The text of the file, with the places of its keys.
pub(super) struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text }
    }

    /// Reads the file as a table of known keys; every fault of syntax, key and type.
    pub(super) fn read(&self) -> Result<toml::Table, Vec<Problem>> {
        let (_, errors) = DeTable::parse_recoverable(self.text);
        if !errors.is_empty() {
            let fix = "see https://toml.io for how to write it";
            let told = errors.iter().map(|error| {
                self.problem(start(error), error.message().to_owned(), fix.to_owned())
            });
            return Err(told.take(PROBLEMS_MAX).collect());
        }
        let mut rest = self.text.to_owned();
        let mut problems: Vec<(usize, Problem)> = Vec::new();
        let config = loop {
            match toml::from_str::<Config>(&rest) {
                Ok(config) => break Some(config),
                Err(error) => {
                    let at = start(&error);
                    let blanked = blank(&mut rest, error.span().unwrap_or(0..0));
                    problems.push((at, self.explain(at, error.message())));
                    let is_broken = !DeTable::parse_recoverable(&rest).1.is_empty();
                    if !blanked || is_broken || problems.len() >= PROBLEMS_MAX {
                        break None;
                    }
                }
            }
        };
        problems.sort_by_key(|(at, _)| *at);
        let mut problems: Vec<_> = problems.into_iter().map(|(_, problem)| problem).collect();
        if let Some(config) = config.filter(|_| !problems.is_empty()) {
            // What else can be seen although some statements are left out.
            problems.extend(self.ranges(&config, &BTreeMap::new()));
            problems.sort_by_key(line_of);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        toml::from_str(self.text).map_err(|error| {
            vec![self.problem(start(&error), error.message().to_owned(), String::new())]
        })
    }

    /// What is wrong with values of the right type. `set_by` names the variable that set a key.
    pub(super) fn ranges(
        &self,
        config: &Config,
        set_by: &BTreeMap<(&'static str, &'static str), String>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (table, name, what, fix) in faults(config) {
            let shown =
                if table.is_empty() { name.to_owned() } else { format!("[{table}] {name}") };
            let place =
                set_by.get(&(table, name)).map(|variable| format!("environment {variable}"));
            let place = place.unwrap_or_else(|| self.place_of(table, name));
            problems.push(Problem { place, what: format!("{shown} {what}"), fix });
        }
        for (index, fault) in notify::faults(&config.notify) {
            problems.push(Problem {
                place: self.place_in(&["notify"], index, &fault.key),
                what: format!("[[notify]] {} {}", fault.key, fault.what),
                fix: fault.fix,
            });
        }
        problems.extend(self.of_schedules(config));
        problems.sort_by_key(line_of);
        problems.extend(self.of_plans(config, set_by.get(&("report", "plans"))));
        problems
    }

    /// What is wrong with the reports that are sent by themselves.
    fn of_schedules(&self, config: &Config) -> Vec<Problem> {
        let routes = config.notify.iter().enumerate();
        let routes: Vec<(String, String)> =
            routes.map(|(index, route)| (route.route(index), route.kind.clone())).collect();
        let told = |(index, fault): (usize, notify::Fault)| Problem {
            place: self.place_in(&["report", "schedule"], index, &fault.key),
            what: format!("[[report.schedule]] {} {}", fault.key, fault.what),
            fix: fault.fix,
        };
        schedule::faults(&config.report.schedule, &routes).into_iter().map(told).collect()
    }

    /// What is wrong with the catalogue of plans: at its own lines, or where it is named.
    fn of_plans(&self, config: &Config, set_by: Option<&String>) -> Vec<Problem> {
        match config.report.catalogue() {
            Ok(_) => Vec::new(),
            Err(CatalogueError::Read { what, fix }) => {
                let place = set_by.map(|variable| format!("environment {variable}"));
                let place = place.unwrap_or_else(|| self.place_of("report", "plans"));
                vec![Problem { place, what: format!("[report] plans {what}"), fix }]
            }
            Err(CatalogueError::Parse(problems)) => problems,
        }
    }

    fn problem(&self, at: usize, what: String, fix: String) -> Problem {
        Problem { place: self.place(at), what, fix }
    }

    fn place(&self, at: usize) -> String {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line = 1 + before.matches('\n').count();
        format!("{}:{line}", self.file)
    }

    /// Turns serde's words into what is wrong and what to do.
    fn explain(&self, at: usize, message: &str) -> Problem {
        let at_char = self.text.floor_char_boundary(at);
        let line = self.text[..at_char].rfind('\n').map_or(0, |end| end + 1);
        let statement = self.text[line..].lines().next().unwrap_or_default();
        let key = statement.split('=').next().unwrap_or_default().trim();
        let Some(unknown) = message.strip_prefix("unknown field `") else {
            let fix = match message.lines().next().unwrap_or_default() {
                text if text.ends_with("expected a string") => {
                    "write it in quotes, durations and sizes with their unit like \"10s\""
                }
                text if text.ends_with("expected f64") => "write a plain number",
                text if text.ends_with("invalid type: map, expected a sequence") => {
                    "write the table's name in two brackets: [[notify]]"
                }
                text if text.ends_with("expected a sequence") => "write a list: [\"...\"]",
                text if text.ends_with("expected a map") => "write a table: { key = \"value\" }",
                text => text,
            };
            return self.problem(at, format!("{key} is no good"), fix.to_owned());
        };
        let mut words = unknown.split('`').step_by(2);
        let name = words.next().unwrap_or_default();
        let known = unknown.split('`').skip(2).step_by(2);
        let nearest = known.map(|known| (distance(name, known), known)).min();
        let elsewhere = KEYS.iter().find(|(_, known, _)| *known == name);
        let fix = match (nearest, elsewhere) {
            (Some((n, known)), _) if n <= 1 + known.len() / 3 => format!("did you mean {known}?"),
            (_, Some((table, ..))) if !table.is_empty() => format!("it belongs below [{table}]"),
            (_, Some(_)) => "it stands at the top, before the first [table]".to_owned(),
            _ => "remove it".to_owned(),
        };
        self.problem(at, format!("{name} is not known"), fix)
    }

    fn place_of(&self, table: &str, name: &str) -> String {
        let (root, _) = DeTable::parse_recoverable(self.text);
        let root = root.get_ref();
        let inside = match table {
            "" => Some(root),
            table => root.get(table).and_then(|value| value.get_ref().as_table()),
        };
        let key = inside.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name));
        key.map_or(self.file.to_owned(), |(key, _)| self.place(key.span().start))
    }

    /// Where a key of the `index`-th table of a list stands, such as `[[notify]]`; where it does not, the
    /// table.
    fn place_in(&self, list: &[&str], index: usize, key: &str) -> String {
        let (root, _) = DeTable::parse_recoverable(self.text);
        let (last, outer) = list.split_last().expect("a list has a name");
        let inside = outer.iter().try_fold(root.get_ref(), |table, name| {
            table.get(*name).and_then(|value| value.get_ref().as_table())
        });
        let tables = inside.and_then(|table| table.get(*last)).map(toml::Spanned::get_ref);
        let Some(DeValue::Array(tables)) = tables else { return self.file.to_owned() };
        let Some(table) = tables.get(index) else { return self.file.to_owned() };
        let keys = table.get_ref().as_table();
        let key = keys.and_then(|keys| keys.iter().find(|(known, _)| known.get_ref() == key));
        self.place(key.map_or(table.span().start, |(key, _)| key.span().start))
    }
}

/// Line of a problem; of what stands in no line, none.
fn line_of(problem: &Problem) -> Option<usize> {
    problem.place.rsplit(':').next().and_then(|line| line.parse().ok())
}

fn start(error: &toml::de::Error) -> usize {
    error.span().map_or(0, |span| span.start)
}

/// Overwrites the statement around `span` with spaces, so that lines keep their numbers; a table's
/// header takes its whole body along. False when there is nothing to blank.
fn blank(text: &mut String, span: Range<usize>) -> bool {
    if span.start >= text.len() {
        return false;
    }
    let (from, to) = (text.floor_char_boundary(span.start), text.floor_char_boundary(span.end));
    let begin = text[..from].rfind('\n').map_or(0, |end| end + 1);
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |end| from + end);
    let end = if text[begin..].trim_start().starts_with('[') {
        text[begin..].find("\n[").map_or(text.len(), |end| begin + end)
    } else {
        line_end(to.max(begin))
    };
    let blank: String =
        text[begin..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    let changed = blank != text[begin..end];
    text.replace_range(begin..end, &blank);
    changed
}

/// Table, key, what is wrong, what to do.
type Fault = (&'static str, &'static str, String, String);

fn faults(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |table, name, what: &str, fix: &str| {
        faults.push((table, name, what.to_owned(), fix.to_owned()));
    };
    if config.data_dir.as_os_str().is_empty() {
        fault("", "data_dir", "is empty", "write a directory, or leave the line out");
    }
    // sun_path holds 108 bytes with the final NUL.
    if !(1..=107).contains(&config.socket.as_os_str().len()) {
        fault("", "socket", "is no path of 1 to 107 bytes", "choose a shorter one");
    }
    for (table, text) in [("grpc", &config.grpc.listen), ("http", &config.http.listen)] {
        if let Err(fix) = address(text, true) {
            fault(table, "listen", &format!("= {text:?} is no address"), fix);
        }
    }
    if config.grpc.listen == config.http.listen && !config.grpc.listen.ends_with(":0") {
        fault(
            "http",
            "listen",
            "is the port of the agents",
            "use another one, e.g. 127.0.0.1:8503",
        );
    }
    if let Some(text) = &config.grpc.advertise
        && let Err(fix) = address(text, false)
    {
        fault("grpc", "advertise", &format!("= {text:?} is no address"), fix);
    }
    for text in &config.detect.witnesses {
        if let Err(fix) = address(text, false) {
            fault("detect", "witnesses", &format!("holds {text:?}, no address"), fix);
        }
    }
    let n_witnesses = config.detect.witnesses.len();
    if n_witnesses > WITNESSES_MAX {
        let fix = format!("name {WITNESSES_MAX} at most: two beyond the uplink are enough");
        fault("detect", "witnesses", &format!("holds {n_witnesses} addresses"), &fix);
    }
    labels("detect", "group_labels", &config.detect.group_labels, &mut fault);
    labels("report", "by", &config.report.by, &mut fault);
    if let Some(url) = &config.http.public_url
        && let Err(wrong) = urls::check_links(url)
    {
        fault("http", "public_url", &wrong.what, &wrong.fix);
    }
    if let Some(wrong) = deadman::fault(&config.deadman) {
        let key = if wrong.key == "url" { "url" } else { "url_file" };
        fault("deadman", key, &wrong.what, &wrong.fix);
    }
    spans(config, &mut fault);
    numbers(config, &mut fault);
    faults
}

type Tell<'a> = dyn FnMut(&'static str, &'static str, &str, &str) + 'a;

fn labels(table: &'static str, name: &'static str, all: &[String], fault: &mut Tell<'_>) {
    for (n, label) in all.iter().enumerate() {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
        if label.is_empty() || label.len() > 63 || !label.bytes().all(good) {
            let fix = "1 to 63 letters, digits, dots, slashes, hyphens or underscores";
            fault(table, name, &format!("holds {label:?}, no label name"), fix);
        } else if all[..n].contains(label) {
            fault(table, name, &format!("holds {label:?} twice"), "remove one");
        }
    }
}

fn spans(config: &Config, fault: &mut Tell<'_>) {
    let (retention, detect) = (&config.retention, &config.detect);
    let seconds = Duration::from_secs;
    for (table, name, value, min, max) in [
        ("", "shutdown_grace", config.shutdown_grace, Duration::from_millis(100), seconds(300)),
        ("retention", "raw", retention.raw, seconds(3600), seconds(10 * 365 * 86_400)),
        ("retention", "rollup", retention.rollup, seconds(86_400), seconds(100 * 365 * 86_400)),
        ("store", "seal_after", config.store.seal_after, seconds(0), seconds(3600)),
        ("store", "late_after", config.store.late_after, seconds(0), seconds(86_400)),
        ("store", "seal_interval", config.store.seal_interval, seconds(1), seconds(3600)),
        ("backup", "interval", config.backup.interval, seconds(60), seconds(30 * 86_400)),
        ("detect", "quiet", detect.quiet, seconds(1), seconds(3600)),
        ("detect", "retroactive_after", detect.retroactive_after, seconds(10), seconds(86_400)),
        ("detect", "cooldown", detect.cooldown, seconds(0), seconds(86_400)),
        ("deadman", "interval", config.deadman.interval, seconds(1), seconds(86_400)),
    ] {
        if !(min..=max).contains(&value.0) {
            let fix = format!("write {} to {}", Span(min), Span(max));
            fault(table, name, &format!("= {value} is out of range"), &fix);
        }
    }
    if config.backup.keep == 0 {
        fault("backup", "keep", "= 0 would keep no copy", "write 1 or more, or leave out `dir`");
    }
    if retention.disk_bytes_max < Bytes(1 << 30) {
        fault("retention", "disk_bytes_max", "is too small to work with", "write 1GiB or more");
    }
}

fn numbers(config: &Config, fault: &mut Tell<'_>) {
    let detect = &config.detect;
    let of_detect = [
        ("open_nats", detect.open_nats, 5.0, 40.0),
        ("p_bad_min", detect.p_bad_min, 0.01, 0.95),
        ("n_failed_min", detect.n_failed_min, 1.0, 1e6),
        ("pool_nats", detect.pool_nats, 1.0, 100.0),
        ("server_nats", detect.server_nats, 1.0, 100.0),
        ("group_nats", detect.group_nats, 1.0, 100.0),
        ("group_servers_min", detect.group_servers_min, 3.0, 1e6),
        ("group_share_min", detect.group_share_min, 0.1, 1.0),
        ("slo", detect.slo, 0.9, 0.99999),
    ];
    let of_detect = of_detect.map(|(name, value, min, max)| ("detect", name, value, min, max));
    let of_report = config.report.numbers();
    let of_report = of_report.map(|(name, value, min, max)| ("report", name, value, min, max));
    for (table, name, value, min, max) in of_detect.into_iter().chain(of_report) {
        // Also refuses what is no number.
        if !(min..=max).contains(&value) {
            let fix = format!("write {min} to {max}");
            fault(table, name, &format!("= {value} is out of range"), &fix);
        }
    }
}

/// `Ok` when this is `HOST:PORT`; else what to write.
fn address(text: &str, zero: bool) -> Result<(), &'static str> {
    let Some((host, port)) = text.rsplit_once(':') else { return Err("write HOST:PORT") };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err("put an IPv6 address in brackets: [::1]:8502");
    }
    if bare.unwrap_or(host).is_empty() || host.contains(char::is_whitespace) {
        return Err("write HOST:PORT, e.g. 0.0.0.0:8502");
    }
    match port.parse::<u16>() {
        Ok(0) if !zero => Err("write the real port"),
        Ok(_) => Ok(()),
        Err(_) => Err("the port is a number from 1 to 65535"),
    }
}
