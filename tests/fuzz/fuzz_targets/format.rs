//! Any text as a format, then any lines: compiling and scanning are total, and each line comes out
//! once, in order, byte for byte.
//!
//! Input: the format up to the first newline, then the lines.

#![no_main]

use gatewatch_agent::discover::{LogKind, LogSource, SiteRule};
use gatewatch_agent::logs::Line;
use gatewatch_agent::logs::parse::{Parser, check_format};
use gatewatch_agent::logs::scan::{Plain, Sink};
use libfuzzer_sys::fuzz_target;

/// Puts the chunk together again from what it is given.
struct Lines {
    seen: Vec<u8>,
    /// Asks for the whole record of each plain line, which must then come with the same bytes.
    wants_all: bool,
    asked: Option<Vec<u8>>,
}

impl Lines {
    fn add(&mut self, raw: &[u8]) {
        self.seen.extend_from_slice(raw);
        self.seen.push(b'\n');
    }
}

impl Sink for Lines {
    fn plain(&mut self, plain: &Plain<'_>) -> bool {
        assert!(self.asked.is_none(), "a line that was asked for did not come");
        assert!((100..600).contains(&plain.status), "{plain:?}");
        if self.wants_all {
            self.asked = Some(plain.raw.to_vec());
            return false;
        }
        self.add(plain.raw);
        true
    }

    fn line(&mut self, raw: &[u8], line: Line<'_>) {
        if let Some(asked) = self.asked.take() {
            assert_eq!(asked, raw, "another line than the one asked for");
            assert!(matches!(line, Line::Access(_)), "a plain line is a request: {line:?}");
        }
        self.add(raw);
    }
}

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let format = String::from_utf8_lossy(&input[..end]);
    let mut chunk = input.get(end + 1..).unwrap_or_default().to_vec();
    if chunk.last().is_some_and(|last| *last != b'\n') {
        chunk.push(b'\n');
    }
    let source = LogSource {
        path: "/var/log/nginx/access.log".into(),
        kind: LogKind::Access,
        format: format.clone().into_owned(),
        site: SiteRule::Host,
        timezone: None,
        inner: false,
        inner_sites: Vec::new(),
    };
    drop(check_format(&format));
    let first: Vec<&[u8]> = chunk.split(|byte| *byte == b'\n').take(3).collect();
    let parsers = [Parser::for_format(&format, &[]), Parser::for_source(&source, &first)];
    for (mut parser, wants_all) in parsers.into_iter().zip([false, true]) {
        let mut lines = Lines { seen: Vec::new(), wants_all, asked: None };
        parser.scan(&chunk, &mut lines);
        assert!(lines.asked.is_none(), "the last line was asked for and did not come");
        assert_eq!(lines.seen, chunk);
        assert!(!parser.format().is_empty());
    }
});
