//! Offline triage: logs of any time and of any machine -> what failed, per site. The `scan` command.
//!
//! Files are read one after the other on one thread, error logs first whatever their order on the
//! command line, so that each 503 is judged by what the error logs say of its second. No line is
//! kept: memory is bounded by the limits on sites, upstreams and explained seconds.

mod chunks;
mod explain;
mod faults;
mod input;
mod names;
mod progress;
mod render;
mod report;
mod sites;
mod tally;
mod when;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use wire::UnixMillis;

pub use render::{hints, render_json, render_text};
pub use report::Report;
pub use when::parse_when;

use crate::discover::{LogKind, LogSource, SiteRule};
use crate::logs::Line;
use crate::logs::parse::Parser;
use chunks::Chunks;
use input::{Input, InputError};
use progress::Progress;
use report::FileReport;
use tally::{Rules, Tally};

/// What to scan, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Of the access logs: `auto`, a name, or a format string.
    pub format: String,
    /// Site of all lines, whatever they say.
    pub site: Option<String>,
    /// First instant that counts.
    pub since: Option<UnixMillis>,
    /// First instant that does not count any more.
    pub until: Option<UnixMillis>,
    /// Of times without offset, and of those that are printed.
    pub zone: TimeZone,
    /// Wall clock.
    pub now: UnixMillis,
    /// Do without vector instructions.
    pub portable: bool,
}

/// What the lines of a file are; in the order in which they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Error,
    /// Requests and errors in one stream, as containers write them.
    Mixed,
    Access,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Mixed => "mixed",
            Self::Access => "access",
        }
    }
}

/// Reads all files and adds up what they say. What is wrong with a file stands in the report.
#[must_use]
pub fn scan(options: &Options) -> Report {
    let ceil = |at: UnixMillis| at.0.div_euclid(1000) + i64::from(at.0.rem_euclid(1000) > 0);
    let rules = Rules {
        site: options.site.clone(),
        since: options.since.map_or(i64::MIN, ceil),
        until: options.until.map_or(i64::MAX, ceil),
        zone: options.zone.clone(),
        now: options.now,
    };
    let (mut inputs, mut files) = open_all(options);
    let n_bytes = inputs.iter().map(|(_, input, _)| input.bytes).sum();
    let mut scan = Scan {
        tally: Tally::new(rules.clone()),
        chunks: Chunks::new(),
        progress: Progress::new(n_bytes),
    };
    inputs.sort_by_key(|(_, _, kind)| *kind);
    for (at, mut input, kind) in inputs {
        scan.read(options, &mut input, kind, &mut files[at]);
    }
    report::report(&scan.tally, &rules, files)
}

/// Opens every file once and looks at its beginning.
fn open_all(options: &Options) -> (Vec<(usize, Input, Kind)>, Vec<FileReport>) {
    let mut inputs = Vec::new();
    let mut files = Vec::new();
    let mut known: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut has_stdin = false;
    for path in &options.files {
        let mut file = FileReport { path: path.clone(), ..FileReport::default() };
        if path == Path::new("-") && std::mem::replace(&mut has_stdin, true) {
            file.note = Some("standard input is named twice, and read once".to_owned());
            files.push(file);
            continue;
        }
        match Input::open(path) {
            Err(error) => file.problem = Some(error.to_string()),
            Ok((input, head)) => {
                let twin = input.key.and_then(|key| known.insert(key, path.clone()));
                if let Some(twin) = twin {
                    file.note = Some(format!("is the same file as {}, read once", twin.display()));
                } else {
                    let kind = kind_of(&options.format, path, &head);
                    inputs.push((files.len(), input, kind));
                }
            }
        }
        files.push(file);
    }
    (inputs, files)
}

/// What the first lines are; what the file is called when they do not tell. A format given by hand
/// is that of the access logs, unless it is an error log's.
fn kind_of(format: &str, path: &Path, head: &[u8]) -> Kind {
    if is_error_format(format) {
        return Kind::Error;
    }
    let mut parser = Parser::for_format("auto", &[]);
    let (mut n_access, mut n_error) = (0, 0);
    // Whole lines; all of it when there is no newline.
    let end = memchr::memrchr(b'\n', head).unwrap_or(head.len());
    for line in head[..end].split(|byte| *byte == b'\n') {
        match parser.parse(line) {
            Line::Access(_) => n_access += 1,
            Line::Error(_) => n_error += 1,
            Line::Rejected(_) => {}
        }
    }
    let is_called_error = || {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        name.contains("error") && format == "auto"
    };
    match (n_access, n_error) {
        (0, 1..) => Kind::Error,
        // HAProxy tells of requests and of its servers in one format.
        (1.., 1..) if parser.format() != "haproxy" => Kind::Mixed,
        // It begins in the middle of a long stack trace.
        (0, 0) if is_called_error() => Kind::Error,
        _ => Kind::Access,
    }
}

fn is_error_format(format: &str) -> bool {
    matches!(format, "nginx_error" | "apache_error" | "php_fpm")
}

fn parser(options: &Options, input: &Input, kind: Kind) -> Parser {
    let format = &*options.format;
    let (kind, format) = match kind {
        Kind::Mixed if format == "auto" => return Parser::for_format("auto", &[]),
        Kind::Mixed | Kind::Access => (LogKind::Access, format),
        Kind::Error if is_error_format(format) => (LogKind::Error, format),
        Kind::Error => (LogKind::Error, "auto"),
    };
    let source = LogSource {
        path: input.path.clone(),
        kind,
        format: format.to_owned(),
        site: SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    };
    let mut parser = Parser::for_source(&source, &[]);
    parser.set_zone(options.zone.clone());
    parser
}

/// What is used for one file after the other.
struct Scan {
    tally: Tally,
    chunks: Chunks,
    progress: Progress,
}

impl Scan {
    fn read(&mut self, options: &Options, input: &mut Input, kind: Kind, file: &mut FileReport) {
        let mut parser = parser(options, input, kind);
        if options.portable {
            parser.use_portable();
        }
        let of_access = names::site_of_access_log(&input.path);
        self.tally.begin_file(of_access, names::site_of_error_log(&input.path));
        self.chunks.reset();
        self.progress.file(render::plain_text(&input.path.to_string_lossy()));
        file.problem = self.read_lines(input, &mut parser).err().map(|error| error.to_string());
        self.tally.too_long(self.chunks.n_too_long);
        file.n_bytes = self.chunks.n_bytes;
        file.kind = kind.name();
        file.format = parser.format();
        file.counts = std::mem::take(&mut self.tally.file);
        file.note = file.counts.doubt();
    }

    fn read_lines(&mut self, input: &mut Input, parser: &mut Parser) -> Result<(), InputError> {
        let mut reader = input.reader()?;
        let mut problem = None;
        loop {
            match self.chunks.next(&mut reader) {
                Ok(Some(chunk)) => parser.scan(chunk, &mut self.tally),
                Ok(None) => break,
                // What was unpacked before is read to its end.
                Err(error) => problem = Some(error),
            }
            self.progress.read(reader.n_raw());
        }
        self.progress.done(reader.n_raw());
        let n_bytes = self.chunks.n_bytes;
        problem.map_or(Ok(()), |error| Err(InputError::Damaged { n_bytes, error }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_tell_what_a_file_is() {
        let access = "a.example 192.0.2.1 - - [20/Nov/2026:12:00:00 +0000] \"GET / HTTP/1.1\" 502 1 \"-\" \"x\"\n";
        let error = "2026/11/20 12:00:00 [notice] 1#1: using the \"epoll\" event method\n";
        let trace = "PHP message: PHP Stack trace:\n".repeat(9);
        let own = "$status $host";
        for (format, name, head, want) in [
            ("auto", "error.log", access.to_owned(), Kind::Access),
            ("auto", "access.log", error.to_owned(), Kind::Error),
            ("auto", "stdout.log", format!("{error}{access}"), Kind::Mixed),
            ("auto", "stdout.log", format!("{error}{access}half a line"), Kind::Mixed),
            ("auto", "error.log.1", trace.clone(), Kind::Error),
            ("auto", "trace", trace.clone(), Kind::Access),
            ("auto", "access.log", String::new(), Kind::Access),
            (own, "error.log", "502 a.example\n".to_owned(), Kind::Access),
            (own, "x", error.to_owned(), Kind::Error),
            ("php_fpm", "x", access.to_owned(), Kind::Error),
        ] {
            assert_eq!(kind_of(format, Path::new(name), head.as_bytes()), want, "{name} {head}");
        }
    }
}
