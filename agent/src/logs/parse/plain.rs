//! System logs in first form: the time where it is known, the text, and what it says.

use memchr::memmem;
use wire::signal::classify;

use crate::logs::parse::{access, time};
use crate::logs::{ErrorRecord, Line, Rejected};

/// One line of syslog, the kernel, a database or the like.
pub(crate) fn parse(line: &[u8]) -> Line<'_> {
    if line.trim_ascii().is_empty() {
        return Line::Rejected(Rejected::Blank);
    }
    let (time, rest) = match time::syslog_prefix(line) {
        Some((time, rest)) => (Some(time), rest.trim_ascii_start()),
        None => (None, line),
    };
    // `host tag[pid]: text`: who it is from stays, the machine's name goes.
    let message = match memmem::find(&rest[..rest.len().min(120)], b": ") {
        Some(_) if time.is_some() => memchr::memchr(b' ', rest).map_or(rest, |at| &rest[at + 1..]),
        _ => rest,
    };
    let message = access::text(message);
    Line::Error(ErrorRecord { time, signal: classify(&message), message, ..ErrorRecord::default() })
}
