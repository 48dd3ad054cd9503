//! Bytes of one log line -> [`Line`]. Total: any bytes become a record or a reason, never a panic.

use crate::discover::LogSource;
use crate::logs::{Line, Rejected};

/// Longest line that is looked at, in bytes without its newline; longer ones are `TooLong`.
pub const LINE_BYTES_MAX: usize = 64 << 10;

/// Reads the lines of one file, in order; keeps what the lines before it taught (format, fields).
#[derive(Clone, Debug)]
pub struct Parser {
    format: String,
}

impl Parser {
    /// The parser for a source. With format `auto` the first lines decide; more lines may correct it.
    #[must_use]
    pub fn for_source(source: &LogSource, first_lines: &[&[u8]]) -> Self {
        let _ = first_lines;
        Self { format: source.format.clone() }
    }

    /// One line without its newline. The record borrows from the line.
    pub fn parse<'l>(&mut self, line: &'l [u8]) -> Line<'l> {
        if line.is_empty() {
            Line::Rejected(Rejected::Blank)
        } else {
            Line::Rejected(Rejected::Malformed)
        }
    }

    /// Name of the format in use, for `status`: `combined`, `nginx_error`, `log_format`, or `auto`
    /// while no line has told.
    #[must_use]
    pub fn format(&self) -> &str {
        &self.format
    }
}
