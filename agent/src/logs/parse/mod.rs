//! Bytes of one log line -> [`Line`]. Total: any bytes become a record or a reason, never a panic.
//!
//! One file per format. A followed file keeps its format; with `auto` the first lines decide, and a
//! file whose format changes under us is noticed when none of its lines fits any more.

mod access;
mod apache_error;
mod aws;
mod brief;
mod caddy;
mod chunk;
mod clf;
mod cloudflare;
mod envelope;
mod envoy;
mod errors;
pub(crate) mod firewall;
mod names;
mod haproxy;
pub(crate) mod journald;
mod json;
pub(crate) mod kernel;
mod lighttpd_error;
mod litespeed_error;
mod log_format;
pub(crate) mod modsecurity;
mod mysql;
mod nginx_error;
pub mod output;
mod packages;
mod php_fpm;
mod php_slow;
mod redis;
mod requests;
mod syslog;
mod time;
mod traefik;
mod varnish;
mod w3c;

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::discover::{LogKind, LogSource};
use crate::logs::event_time::EventClock;
use crate::logs::scan::Kernel;
use crate::logs::{Line, Rejected};
use log_format::LogFormat;
#[cfg(test)]
pub(crate) use names::format_names;
pub use names::{FORMATS, check_format};
use names::{HAPROXY_PREFIX, JSON_PREFIX};

/// Longest line that is looked at, in bytes without its newline; longer ones are `TooLong`.
pub const LINE_BYTES_MAX: usize = 256 << 10;

/// Rejected lines in a row after which `auto` looks at all formats again.
const REJECTED_IN_A_ROW_MAX: u32 = 20;

/// Requests for a path after which a log is none of Varnish.
const PATHS_MIN: u32 = 3;

/// Reads the lines of one file, in order; keeps what the lines before it taught.
#[derive(Clone, Debug)]
pub struct Parser {
    name: &'static str,
    mode: Mode,
    kernel: Kernel,
    /// What the kernel runs for the format in use; made when the first chunk comes.
    quick: Option<chunk::Quick>,
    times: brief::Times,
    /// Reads times without offset, if their zone was told.
    clock: Option<EventClock>,
}

#[derive(Clone, Debug)]
enum Mode {
    One(Format),
    /// An access log in a format that a configuration told. When none of its lines fits any more
    /// the server may write another one already, or still the one before.
    Told {
        format: Format,
        n_rejected: u32,
        /// Made when it is needed: each holds a dozen formats.
        instead: Option<Auto>,
    },
    Auto(Auto),
}

/// One way to read a line.
#[derive(Clone, Debug)]
enum Format {
    Program(Box<LogFormat>),
    /// Two shapes in one log.
    Npm(Box<[LogFormat; 2]>),
    Clf,
    Json(Arc<json::Keys>),
    Haproxy(haproxy::HostAt),
    /// An error or system log.
    Lines(errors::Parse),
    Caddy,
    /// Caddy's errors alone: what an application writes into an error log is no request.
    CaddyError,
    Traefik,
    Envoy,
    Varnish,
    Litespeed,
    /// `LiteSpeed` with each line in quotes, which no other server writes.
    LitespeedQuoted,
    W3c(w3c::W3c),
    Aws,
    Cloudflare,
    /// A log without a status per line (`bytes`): nothing in it is a request.
    NoRequests,
}

impl Format {
    /// No line of this format begins so, though a client's words further on may look like one: its
    /// own format refused the line, and knows why.
    fn is_never(&self, line: &[u8]) -> bool {
        let line = envelope::open(line).unwrap_or(line);
        let first = line.first();
        match self {
            Self::Program(_) | Self::Npm(_) => first == Some(&b'{'),
            Self::Clf | Self::Varnish | Self::LitespeedQuoted => {
                let is_date = matches!(line, [b'0'..=b'9', _, _, _, b'-', _, _, b'-', ..]);
                is_date || matches!(first, Some(b'{' | b'['))
            }
            _ => false,
        }
    }

    fn parse<'l>(&mut self, line: &'l [u8]) -> Line<'l> {
        match self {
            Self::Program(format) => access::parse(format, line),
            Self::Npm(formats) => match access::parse(&formats[0], line) {
                Line::Rejected(_) => access::parse(&formats[1], line),
                line => line,
            },
            Self::Clf => clf::parse(line),
            Self::Json(keys) => json::parse(keys, line),
            Self::Haproxy(host_at) => haproxy::parse_with(line, *host_at),
            Self::Lines(parse) => parse(line),
            Self::Caddy => caddy::parse(line),
            Self::CaddyError => match caddy::parse(line) {
                Line::Access(_) => Line::Rejected(Rejected::Directive),
                line => line,
            },
            Self::Traefik => traefik::parse(line),
            Self::Envoy => envoy::parse(line),
            Self::Varnish => varnish::parse(line),
            Self::Litespeed => clf::parse_litespeed(line),
            Self::LitespeedQuoted => clf::parse_in_quotes(line),
            Self::W3c(log) => log.parse(line),
            Self::Aws => aws::parse(line),
            Self::Cloudflare => cloudflare::parse(line),
            Self::NoRequests => Line::Rejected(Rejected::Directive),
        }
    }
}

/// Formats to choose from, and the one that fitted last.
#[derive(Clone, Debug)]
struct Auto {
    candidates: Vec<(&'static str, Format)>,
    chosen: Option<usize>,
    n_rejected: u32,
    /// Requests for a path that were seen, which Varnish never writes.
    n_paths: u32,
    is_no_varnish: bool,
    /// `parse` reads files of several formats: every line may be of another one.
    each_line: bool,
}

impl Auto {
    fn new(names: &[&'static str], each_line: bool) -> Self {
        // What is told is a name that may be written into the configuration.
        let shown = |name| match name {
            CADDY_ERROR => "caddy",
            LITESPEED_QUOTED => "litespeed",
            name => name,
        };
        let candidates = names.iter().map(|name| (shown(*name), built_in(name))).collect();
        Self {
            candidates,
            chosen: None,
            n_rejected: 0,
            n_paths: 0,
            is_no_varnish: false,
            each_line,
        }
    }

    fn parse<'l>(&mut self, line: &'l [u8]) -> (Line<'l>, &'static str) {
        let mut reason = Rejected::Malformed;
        if line.first() == Some(&b'#') {
            self.directive(line);
        }
        if let Some(chosen) = self.chosen {
            let (name, format) = &mut self.candidates[chosen];
            match format.parse(line) {
                Line::Rejected(why) => reason = why,
                record => {
                    self.n_rejected = 0;
                    return (record, name);
                }
            }
            let name = *name;
            if let Some(record) = self.of_other_server(name, line) {
                self.n_rejected = 0;
                return record;
            }
            self.n_rejected += 1;
            if name == "varnish"
                && !self.each_line
                && let record @ Line::Access(_) = clf::parse(line)
            {
                // Requests for paths tell that it is not Varnish that writes here: any client may
                // have asked for a whole URL before. Odd requests tell nothing.
                self.n_paths += u32::from(is_for_path(&record));
                self.is_no_varnish = self.n_paths >= PATHS_MIN;
                if !self.is_no_varnish {
                    return (record, name);
                }
            }
            let is_over = self.each_line || self.is_no_varnish && name == "varnish";
            // A line that does not fit is not tried as something else at once: what an application
            // prints into an error log may look like a request.
            if !is_over && self.n_rejected < REJECTED_IN_A_ROW_MAX {
                return (Line::Rejected(reason), name);
            }
        }
        for (at, (name, format)) in self.candidates.iter_mut().enumerate() {
            let is_out = *name == "varnish" && self.is_no_varnish && !self.each_line;
            if Some(at) == self.chosen || is_out || format.is_never(line) {
                continue;
            }
            match format.parse(line) {
                Line::Rejected(
                    why @ (Rejected::BadStatus | Rejected::BadTime | Rejected::Directive),
                ) => reason = why,
                Line::Rejected(_) => {}
                // Many programs speak of themselves as Caddy does.
                record if *name == "caddy" && is_hearsay(&record) => return (record, name),
                // What is no request for a path may stand in a log of Varnish as well.
                record if *name == "clf" && !is_for_path(&record) => return (record, name),
                record => {
                    self.chosen = Some(at);
                    self.n_rejected = 0;
                    return (record, name);
                }
            }
        }
        let name = self.chosen.map_or("auto", |at| self.candidates[at].0);
        (Line::Rejected(reason), name)
    }

    /// A line of the other one of two servers that share an error log, by how it begins.
    fn of_other_server<'l>(
        &self,
        chosen: &str,
        line: &'l [u8],
    ) -> Option<(Line<'l>, &'static str)> {
        let other = match chosen {
            "nginx_error" => "apache_error",
            "apache_error" => "nginx_error",
            _ => return None,
        };
        // A followed log of errors only: what else may be read has its own order.
        let is_candidate =
            !self.each_line && self.candidates.iter().any(|(name, _)| *name == other);
        let parse = errors::by_name(other).filter(|_| is_candidate)?.1;
        let record = parse(line);
        let is_whole = matches!(
            &record,
            Line::Error(error) if error.time.is_some() && error.level.is_some()
                && (other == "nginx_error" || error.connection.is_some())
        );
        is_whole.then_some((record, other))
    }

    /// Tells the formats with directives what a line says to them, whichever is in use.
    fn directive(&mut self, line: &[u8]) {
        for (_, format) in &mut self.candidates {
            if let Format::W3c(log) = format {
                log.directive(line);
            }
        }
    }
}

/// A request as no log of Varnish has it.
fn is_for_path(line: &Line<'_>) -> bool {
    matches!(line, Line::Access(record) if record.path.as_ref().is_some_and(|p| p.starts_with('/')))
}

/// An error record that is not of a request.
fn is_hearsay(line: &Line<'_>) -> bool {
    matches!(line, Line::Error(record) if record.host.is_none())
}

fn built_in(name: &str) -> Format {
    let program = |format: &str| {
        Box::new(log_format::compile(format).expect("built-in formats hold a status"))
    };
    match name {
        "combined" => Format::Program(program(log_format::COMBINED)),
        "common" => Format::Program(program(log_format::COMMON)),
        "vhost_combined" => Format::Program(program(log_format::VHOST_COMBINED)),
        "nginx_ingress" => Format::Program(program(log_format::INGRESS)),
        "npm_access" => Format::Npm(Box::new([
            *program(log_format::NPM_PROXY),
            *program(log_format::NPM_PLAIN),
        ])),
        "json" => Format::Json(json::Keys::usual()),
        "haproxy" => Format::Haproxy(haproxy::HostAt::First),
        "caddy" => Format::Caddy,
        "traefik" => Format::Traefik,
        "envoy" => Format::Envoy,
        "varnish" => Format::Varnish,
        "litespeed" => Format::Litespeed,
        "lighttpd" => Format::Program(program(log_format::LIGHTTPD)),
        "iis" => Format::W3c(w3c::W3c::iis()),
        "alb" => Format::Aws,
        "cloudflare" => Format::Cloudflare,
        "cloudfront" => Format::W3c(w3c::W3c::cloudfront()),
        CADDY_ERROR => Format::CaddyError,
        LITESPEED_QUOTED => Format::LitespeedQuoted,
        "clf" => Format::Clf,
        _ => Format::Lines(errors::by_name(name).map_or(syslog::parse, |(_, parse)| parse)),
    }
}

/// What reads a log whose told format fits no line.
fn told_wrong() -> Auto {
    Auto::new(&ACCESS, false)
}

/// What `auto` knows of [`Format::Caddy`] in an error log.
const CADDY_ERROR: &str = "caddy_error";
/// What `auto` knows of [`Format::Litespeed`].
const LITESPEED_QUOTED: &str = "litespeed_quoted";

/// Access formats that `auto` tells apart, the most particular first.
const ACCESS: [&str; 14] = [
    "caddy",
    "traefik",
    "envoy",
    "cloudflare",
    "json",
    "haproxy",
    "iis",
    "alb",
    "cloudfront",
    "nginx_ingress",
    "npm_access",
    LITESPEED_QUOTED,
    "varnish",
    "clf",
];
const ERROR: [&str; 7] = [
    "nginx_error",
    "apache_error",
    "haproxy",
    "php_fpm",
    CADDY_ERROR,
    "lighttpd_error",
    "litespeed_error",
];
const ANY: [&str; 17] = [
    "caddy",
    "traefik",
    "envoy",
    "cloudflare",
    "json",
    "nginx_error",
    "apache_error",
    "php_fpm",
    "haproxy",
    "iis",
    "alb",
    "cloudfront",
    "nginx_ingress",
    "npm_access",
    LITESPEED_QUOTED,
    "varnish",
    "clf",
];

impl Parser {
    /// The parser for a source. With format `auto` the first lines decide; more lines may correct it.
    #[must_use]
    pub fn for_source(source: &LogSource, first_lines: &[&[u8]]) -> Self {
        let of_kind = errors::of_kind(source.kind);
        let mode = match (source.kind, source.format.as_str()) {
            (LogKind::Access, "auto") => Mode::Auto(Auto::new(&ACCESS, false)),
            (LogKind::Error, "auto") => Mode::Auto(Auto::new(&ERROR, false)),
            (_, "auto") => Mode::Auto(Auto::new(of_kind.unwrap_or(&ERROR), false)),
            (LogKind::Access, format) => {
                let told = Self::for_format(format, &[]);
                let mode = match told.mode {
                    // What the one who told left no doubt about stays as it is.
                    Mode::One(
                        format @ (Format::Json(_)
                        | Format::Haproxy(_)
                        | Format::NoRequests
                        | Format::Lines(_)),
                    ) => Mode::One(format),
                    Mode::One(format) => Mode::Told { format, n_rejected: 0, instead: None },
                    Mode::Auto(_) => Mode::Auto(Auto::new(&ACCESS, false)),
                    mode @ Mode::Told { .. } => mode,
                };
                return Self::new(told.name, mode).taught(first_lines);
            }
            // Requests that stand in an error log are counted where they are logged.
            (LogKind::Error, "caddy") => {
                let mode = Mode::One(built_in(CADDY_ERROR));
                return Self::new("caddy", mode).taught(first_lines);
            }
            (_, format) => {
                let mut told = Self::for_format(format, &[]);
                if matches!(told.mode, Mode::Auto(_)) {
                    told.mode = Mode::Auto(Auto::new(of_kind.unwrap_or(&ERROR), false));
                }
                return told.taught(first_lines);
            }
        };
        Self::new("auto", mode).taught(first_lines)
    }

    /// The parser for a format by name or a format string; what it does not know reads as `auto`.
    #[must_use]
    pub fn for_format(format: &str, first_lines: &[&[u8]]) -> Self {
        let named = FORMATS
            .iter()
            .copied()
            .chain(errors::by_name(format).map(|(name, _)| name))
            .find(|name| *name == format && *name != "auto")
            .map(|name| (name, Mode::One(built_in(name))));
        if let Some(host_at) = format.strip_prefix(HAPROXY_PREFIX).and_then(haproxy::HostAt::told) {
            return Self::new("haproxy", Mode::One(Format::Haproxy(host_at))).taught(first_lines);
        }
        let keys = format.strip_prefix(JSON_PREFIX).map(json::Keys::compile);
        if let Some(Ok(keys)) = keys {
            return Self::new("json", Mode::One(Format::Json(keys))).taught(first_lines);
        }
        let (name, mode) = named.unwrap_or_else(|| match log_format::compile(format) {
            Some(program) => ("log_format", Mode::One(Format::Program(Box::new(program)))),
            // A format string without a status: nothing in the file is a request.
            None if format.contains(['$', '%']) => ("log_format", Mode::One(Format::NoRequests)),
            None => {
                let any = [&errors::BEFORE_ACCESS[..], &ANY, &errors::AFTER_ACCESS].concat();
                ("auto", Mode::Auto(Auto::new(&any, true)))
            }
        });
        Self::new(name, mode).taught(first_lines)
    }

    fn new(name: &'static str, mode: Mode) -> Self {
        Self {
            name,
            mode,
            kernel: Kernel::detect(),
            quick: None,
            times: brief::Times::default(),
            clock: None,
        }
    }

    /// Tells [`Parser::scan`] the zone of times without offset: it may then call such lines plain.
    pub fn set_zone(&mut self, zone: TimeZone) {
        self.clock = Some(EventClock::new(zone));
    }

    /// Makes [`Parser::scan`] do without vector instructions; what it says stays the same.
    pub fn use_portable(&mut self) {
        self.kernel = Kernel::Portable;
    }

    fn taught(mut self, first_lines: &[&[u8]]) -> Self {
        for line in first_lines {
            self.parse(line);
        }
        match &mut self.mode {
            Mode::Auto(auto) => auto.n_rejected = 0,
            Mode::Told { n_rejected, .. } => *n_rejected = 0,
            Mode::One(_) => {}
        }
        self
    }

    /// One line without its newline. The record borrows from the line.
    pub fn parse<'l>(&mut self, line: &'l [u8]) -> Line<'l> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Line::Rejected(Rejected::Blank);
        }
        if line.len() > LINE_BYTES_MAX {
            return Line::Rejected(Rejected::TooLong);
        }
        match &mut self.mode {
            Mode::One(format) => format.parse(line),
            Mode::Told { format, n_rejected, instead } => match format.parse(line) {
                Line::Rejected(reason) => {
                    *n_rejected = n_rejected.saturating_add(1);
                    if *n_rejected <= REJECTED_IN_A_ROW_MAX {
                        return Line::Rejected(reason);
                    }
                    instead.get_or_insert_with(told_wrong).parse(line).0
                }
                record => {
                    *n_rejected = 0;
                    record
                }
            },
            Mode::Auto(auto) => {
                let (line, name) = auto.parse(line);
                self.name = name;
                line
            }
        }
    }

    /// Takes a line of names (`#Fields`) or a `#Date` that stands before the first line to be read;
    /// any other line says nothing.
    pub fn teach_header(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match &mut self.mode {
            Mode::One(Format::W3c(log)) => log.directive(line),
            Mode::Told { format, instead, .. } => {
                if let Format::W3c(log) = format {
                    log.directive(line);
                }
                instead.get_or_insert_with(told_wrong).directive(line);
            }
            Mode::Auto(auto) => auto.directive(line),
            Mode::One(_) => {}
        }
    }

    /// Name of the format in use, for `status`: `combined`, `nginx_error`, `log_format`, or `auto`
    /// while no line has told.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.name
    }
}

#[cfg(test)]
mod tests;
