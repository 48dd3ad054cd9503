//! The check of `agent.toml`: walks the file against a table of keys and reports every problem.
//!
//! Serde stops at the first fault and knows no fix, so this comes before it. Adding a key: one row
//! in [`KEYS`], one field in `Config`, one line in `deploy/config/agent.toml`.

use std::fmt;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use wire::units::{Bytes, Span};

use crate::logs::parse::check_format;

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE`, `FILE`, or the environment variable.
    pub place: String,
    /// What is wrong, on which key.
    pub what: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.what, self.fix)
    }
}

/// What a key takes.
#[derive(Clone, Copy)]
enum Kind {
    /// Any text this accepts; its error is the fix.
    Text(fn(&str) -> Result<(), String>),
    /// Milliseconds from and to.
    Span(u64, u64),
    /// Bytes from and to.
    Size(u64, u64),
    Bool,
    /// A plain number from and to.
    Count(i64, i64),
    OneOf(&'static [&'static str]),
    /// A table of texts.
    Labels,
    /// A list of at most so many texts this accepts; its error is the fix.
    List(usize, fn(&str) -> Result<(), String>),
}

struct Key {
    table: &'static str,
    name: &'static str,
    kind: Kind,
}

const fn key(table: &'static str, name: &'static str, kind: Kind) -> Key {
    Key { table, name, kind }
}

const KINDS: &[&str] = &[
    "access",
    "error",
    "php_fpm",
    "php_slow",
    "mysql",
    "redis",
    "modsecurity",
    "syslog",
    "kernel",
    "change",
];

/// A spool smaller than this could not hold a few batches of the largest size.
const SPOOL_BYTES_MIN: u64 = 8 << 20;

const KEYS: &[Key] = &[
    key("", "state_dir", Kind::Text(not_empty)),
    key("", "socket", Kind::Text(socket)),
    key("", "shutdown_grace", Kind::Span(100, 300_000)),
    key("collector", "address", Kind::Text(address)),
    key("collector", "heartbeat", Kind::Span(200, 60_000)),
    key("collector", "batch_interval", Kind::Span(100, 60_000)),
    key("host", "name", Kind::Text(server_name)),
    key("host", "labels", Kind::Labels),
    key("logs", "discover", Kind::Bool),
    key("logs", "root", Kind::Text(not_empty)),
    key("probes", "interval", Kind::Span(1000, 300_000)),
    key("probes", "services", Kind::List(SERVICES_MAX, service)),
    key("probes", "upstreams", Kind::Bool),
    key("probes", "dns", Kind::Bool),
    key("probes", "loopback_head", Kind::List(LOOPBACK_MAX, site_pattern)),
    key("probes", "loopback_interval", Kind::Span(10_000, 86_400_000)),
    key("privacy", "client_ip", Kind::OneOf(&["full", "prefix", "hash", "drop"])),
    key("privacy", "query_string", Kind::OneOf(&["keep", "drop"])),
    key("limits", "memory_bytes_max", Kind::Size(16 << 20, 1 << 40)),
    key("limits", "spool_bytes_max", Kind::Size(SPOOL_BYTES_MIN, 1 << 44)),
    key("limits", "sites_max", Kind::Count(1, 1_000_000)),
];

/// Services may be named in such a number.
const SERVICES_MAX: usize = 100;
/// And sites to be asked at loopback.
const LOOPBACK_MAX: usize = 2000;

/// Keys of one `[[logs.source]]`.
const SOURCE: &str = "[logs.source]";
const SOURCE_KEYS: &[Key] = &[
    key(SOURCE, "path", Kind::Text(absolute_path)),
    key(SOURCE, "kind", Kind::OneOf(KINDS)),
    key(SOURCE, "format", Kind::Text(check_format)),
    key(SOURCE, "site", Kind::Text(not_empty)),
    key(SOURCE, "timezone", Kind::Text(timezone)),
];

const TABLES: &[&str] = &["collector", "host", "logs", "probes", "privacy", "limits"];

/// Every problem of the file's text, in its order.
pub(super) fn check_text(file: &str, text: &str) -> Vec<Problem> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut check = Check { file, text, problems: Vec::new() };
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        check.report(at, error.message().to_owned(), "see https://toml.io for how to write it");
    }
    if check.problems.is_empty() {
        check.root(table.get_ref());
    }
    check.problems.sort_by_key(|(at, _)| *at);
    check.problems.into_iter().map(|(_, problem)| problem).collect()
}

/// Keys that the environment sets, as values of the file's tables, or what is wrong with them.
pub(super) fn from_environment(
    variables: impl Iterator<Item = (String, String)>,
) -> (Vec<(&'static str, &'static str, toml::Value)>, Vec<Problem>) {
    let variables: std::collections::BTreeMap<_, _> = variables.collect();
    let (mut values, mut problems) = (Vec::new(), Vec::new());
    for key in KEYS {
        let variable = variable(key);
        let Some(text) = variables.get(&variable) else { continue };
        match value_of(key.kind, text) {
            Ok(value) => values.push((key.table, key.name, value)),
            Err(fix) => {
                let what = format!("{text:?} is no good value");
                problems.push(Problem { place: format!("environment {variable}"), what, fix });
            }
        }
    }
    (values, problems)
}

fn variable(key: &Key) -> String {
    let path = if key.table.is_empty() { String::new() } else { format!("{}_", key.table) };
    format!("GATEWATCH_{path}{}", key.name).to_uppercase()
}

fn value_of(kind: Kind, text: &str) -> Result<toml::Value, String> {
    let value = match kind {
        Kind::Bool => {
            text.parse().map(toml::Value::Boolean).map_err(|_| "true or false".to_owned())?
        }
        Kind::Count(..) => {
            text.parse().map(toml::Value::Integer).map_err(|_| "write a plain number".to_owned())?
        }
        Kind::Labels => {
            let pairs = text.split(',').filter(|pair| !pair.is_empty());
            let pairs = pairs.map(|pair| match pair.split_once('=') {
                Some((k, v)) => Ok((k.to_owned(), toml::Value::String(v.to_owned()))),
                None => Err("write it like rack=r1,region=fra".to_owned()),
            });
            toml::Value::Table(pairs.collect::<Result<_, _>>()?)
        }
        Kind::List(n_max, check) => {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            let words: Vec<&str> = words.collect();
            check_list(words.iter().copied(), n_max, check)?;
            toml::Value::Array(words.iter().map(|&word| word.into()).collect())
        }
        Kind::Text(_) | Kind::Span(..) | Kind::Size(..) | Kind::OneOf(_) => {
            toml::Value::String(text.to_owned())
        }
    };
    match (&value, kind) {
        (toml::Value::String(text), kind) => check_str(kind, text)?,
        (toml::Value::Integer(n), Kind::Count(min, max)) => check_count(*n, min, max)?,
        (toml::Value::Table(labels), _) => {
            for (k, v) in labels {
                label(k, v.as_str().unwrap_or_default())?;
            }
        }
        _ => {}
    }
    Ok(value)
}

struct Check<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<(usize, Problem)>,
}

impl Check<'_> {
    fn report(&mut self, at: usize, what: String, fix: impl Into<String>) {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        let place = format!("{}:{line}", self.file);
        self.problems.push((at, Problem { place, what, fix: fix.into() }));
    }

    fn root(&mut self, root: &DeTable<'_>) {
        for (name, value) in root {
            let at = name.span().start;
            let name: &str = name.get_ref();
            if TABLES.contains(&name) {
                match value.get_ref().as_table() {
                    Some(table) => self.table(name, table, KEYS),
                    None => {
                        self.report(at, format!("{name} is a table"), format!("write [{name}]"));
                    }
                }
            } else {
                self.key("", name, at, value, KEYS);
            }
        }
    }

    fn table(&mut self, table: &str, entries: &DeTable<'_>, keys: &[Key]) {
        for (name, value) in entries {
            let at = name.span().start;
            let name: &str = name.get_ref();
            if (table, name) == ("logs", "source") {
                self.sources(value);
            } else {
                self.key(table, name, at, value, keys);
            }
        }
    }

    fn sources(&mut self, value: &Spanned<DeValue<'_>>) {
        let at = value.span().start;
        let Some(sources) = value.get_ref().as_array() else {
            self.report(at, "logs.source is a list of tables".to_owned(), "write [[logs.source]]");
            return;
        };
        for source in sources {
            let at = source.span().start;
            let Some(table) = source.get_ref().as_table() else {
                let what = "logs.source is a list of tables".to_owned();
                self.report(at, what, "write [[logs.source]]");
                continue;
            };
            self.table(SOURCE, table, SOURCE_KEYS);
            let text = |key: &str| table.get(key).and_then(|v| v.get_ref().as_str());
            let Some(path) = text("path") else {
                let fix = "add path = \"/srv/*/logs/access.log\"";
                self.report(at, "this [[logs.source]] has no path".to_owned(), fix);
                continue;
            };
            if let Some(fix) = text("site").and_then(|site| wrong_placeholder(site, path)) {
                let at = table.get("site").map_or(at, |v| v.span().start);
                self.report(at, "site names a glob match that is not there".to_owned(), fix);
            }
        }
    }

    fn key(
        &mut self,
        table: &str,
        name: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
        keys: &[Key],
    ) {
        let Some(key) = keys.iter().find(|k| k.table == table && k.name == name) else {
            let what = format!("{} is not known", full_name(table, name));
            self.report(at, what, suggestion(table, name, keys));
            return;
        };
        if let Err(fix) = check_value(key.kind, value.get_ref()) {
            let shown = self.text.get(value.span()).unwrap_or_default().trim();
            let shown: String = shown.chars().take(60).collect();
            let what = format!("{} = {shown} is no good value", full_name(table, name));
            self.report(value.span().start, what, fix);
        }
    }
}

fn full_name(table: &str, name: &str) -> String {
    match table {
        "" => name.to_owned(),
        SOURCE => format!("[[logs.source]] {name}"),
        table => format!("[{table}] {name}"),
    }
}

fn suggestion(table: &str, name: &str, keys: &[Key]) -> String {
    if let Some(elsewhere) = keys.iter().find(|k| k.name == name) {
        return match elsewhere.table {
            "" => format!("it stands at the top of the file, before the first [{table}]"),
            table => format!("it belongs below [{table}]"),
        };
    }
    let here = keys.iter().filter(|k| k.table == table).map(|k| k.name);
    let here = here.chain(TABLES.iter().copied().filter(|_| table.is_empty()));
    let nearest = here.map(|known| (distance(name, known), known)).min();
    match nearest {
        Some((n, known)) if n <= 1 + known.len() / 3 => format!("did you mean {known}?"),
        _ => "remove the line".to_owned(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

fn check_value(kind: Kind, value: &DeValue<'_>) -> Result<(), String> {
    match (kind, value) {
        (Kind::Bool, DeValue::Boolean(_)) => Ok(()),
        (Kind::Bool, _) => Err("write true or false, without quotes".to_owned()),
        (Kind::Count(min, max), DeValue::Integer(n)) => {
            let digits = n.as_str().replace('_', "");
            let n = i64::from_str_radix(&digits, n.radix());
            check_count(n.map_err(|_| "write a plain number".to_owned())?, min, max)
        }
        (Kind::Count(min, max), _) => Err(format!("write a plain number from {min} to {max}")),
        (Kind::Labels, DeValue::Table(labels)) => {
            for (k, v) in labels {
                let v = v.get_ref().as_str();
                label(k.get_ref(), v.ok_or("a label is text: put its value in quotes")?)?;
            }
            Ok(())
        }
        (Kind::Labels, _) => Err("write it like { hypervisor = \"hv-3\" }".to_owned()),
        (Kind::List(n_max, check), DeValue::Array(items)) => {
            let texts: Option<Vec<&str>> =
                items.iter().map(|item| item.get_ref().as_str()).collect();
            let texts = texts.ok_or("put each name in quotes, like [\"name\"]")?;
            check_list(texts.into_iter(), n_max, check)
        }
        (Kind::List(..), _) => Err("write a list of names in quotes, like [\"name\"]".to_owned()),
        (kind, DeValue::String(text)) => check_str(kind, text),
        (Kind::Span(..), _) => {
            Err("write a duration with its unit in quotes, like \"10s\"".to_owned())
        }
        (Kind::Size(..), _) => {
            Err("write a size with its unit in quotes, like \"64MiB\"".to_owned())
        }
        (Kind::Text(_) | Kind::OneOf(_), _) => Err("write it in quotes".to_owned()),
    }
}

fn check_count(n: i64, min: i64, max: i64) -> Result<(), String> {
    let fits = (min..=max).contains(&n);
    fits.then_some(()).ok_or_else(|| format!("write a number from {min} to {max}"))
}

fn check_str(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Text(check) => check(text),
        Kind::Span(min, max) => {
            let ms = |ms| Span(Duration::from_millis(ms));
            let span: Span = text.parse()?;
            let fits = (ms(min)..=ms(max)).contains(&span);
            fits.then_some(()).ok_or_else(|| format!("write {} to {}", ms(min), ms(max)))
        }
        Kind::Size(min, max) => {
            let fits = (Bytes(min)..=Bytes(max)).contains(&text.parse::<Bytes>()?);
            fits.then_some(()).ok_or_else(|| format!("write {} to {}", Bytes(min), Bytes(max)))
        }
        Kind::OneOf(words) => {
            let fits = words.contains(&text);
            fits.then_some(()).ok_or_else(|| format!("write one of {}", words.join(", ")))
        }
        Kind::Bool | Kind::Count(..) | Kind::Labels | Kind::List(..) => Ok(()),
    }
}

fn check_list<'a>(
    mut texts: impl ExactSizeIterator<Item = &'a str>,
    n_max: usize,
    check: fn(&str) -> Result<(), String>,
) -> Result<(), String> {
    if texts.len() > n_max {
        return Err(format!("name at most {n_max}"));
    }
    texts.try_for_each(check)
}

/// A unit of systemd, or the name of a process.
fn service(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || r":-_.\@".contains(c);
    if text.is_empty() || text.len() > 255 || !text.chars().all(fits) {
        return Err(format!("{text:?} names no service: write one like \"my-app.service\""));
    }
    let kind = text.rsplit_once('.').map(|(_, kind)| kind);
    match kind {
        Some(kind @ ("target" | "timer" | "mount" | "slice" | "path" | "device" | "swap")) => {
            Err(format!("{text:?} is a {kind}: name the .service or .socket itself"))
        }
        _ => Ok(()),
    }
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("it is empty: leave the line out".to_owned()) } else { Ok(()) }
}

fn site_pattern(text: &str) -> Result<(), String> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
    let is_good = !text.is_empty() && text.chars().all(is_part);
    is_good.then_some(()).ok_or_else(|| {
        "write names of sites, like \"shop.example\" or \"*.agency.example\"".to_owned()
    })
}

fn absolute_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("write the whole path, from /".to_owned());
    }
    glob::Pattern::new(text).map(|_| ()).map_err(|e| format!("no glob: {}", e.msg))
}

fn socket(text: &str) -> Result<(), String> {
    // sun_path holds 108 bytes with the final NUL.
    if text.is_empty() || text.len() > 107 {
        return Err("a Unix socket's path has 1 to 107 bytes: choose a shorter one".to_owned());
    }
    Ok(())
}

/// `host:port`, or empty before enrolment.
pub(super) fn address(text: &str) -> Result<(), String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.map(str::parse::<u16>) {
        _ if text.is_empty() => Ok(()),
        Some(Ok(1..)) if !text.contains(['/', ' ']) => Ok(()),
        _ => Err("write HOST:PORT, like collector.example:8502".to_owned()),
    }
}

/// What a server may be called.
pub(super) fn server_name(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        return Err("write at most 64 letters, digits, - . and _, like web-07".to_owned());
    }
    Ok(())
}

fn label(key: &str, value: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    if key.is_empty() || key.len() > 63 || !key.chars().all(fits) {
        return Err(format!("label {key:?}: use letters, digits, - . _ and /, at most 63"));
    }
    if value.is_empty() || value.len() > 255 || value.chars().any(char::is_control) {
        return Err(format!("label {key}: its value is 1 to 255 printable characters"));
    }
    Ok(())
}

fn timezone(text: &str) -> Result<(), String> {
    let fix = "write a zone that is in /usr/share/zoneinfo (package tzdata), like Europe/Berlin";
    super::zone(text).map(|_| ()).ok_or_else(|| fix.to_owned())
}

/// The fix when a site asks for a glob match that the path does not have.
fn wrong_placeholder(site: &str, path: &str) -> Option<String> {
    let inner = site.strip_prefix('{')?.strip_suffix('}')?;
    let n_globs = path.split('/').filter(|part| part.contains(['*', '?', '['])).count();
    let n_stars = path.matches('*').count().max(n_globs);
    match inner.parse::<usize>() {
        Ok(n) if (1..=n_stars).contains(&n) => None,
        _ if n_stars == 0 => Some("path has no *: write the site's name".to_owned()),
        _ => Some(format!("write {{1}} to {{{n_stars}}}")),
    }
}

/// Table and name of every key, for the test of the shipped file.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().chain(SOURCE_KEYS).map(|key| (key.table, key.name))
}
