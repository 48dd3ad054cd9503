//! The `parse` command: one JSON object per input line, as the line says it.

use std::io::{self, BufRead, Write};

use serde_json::{Map, Value, json};
use wire::UnixMillis;
use wire::v1::Signal;

use crate::logs::parse::{LINE_BYTES_MAX, Parser};
use crate::logs::{AccessRecord, Attempt, ErrorRecord, Line, LineTime};

/// Reads lines and writes one object for each, in order.
///
/// `format` as in `[[logs.source]]`. Lines longer than the limit are read in pieces and rejected;
/// memory stays bounded. Fails only when reading or writing fails.
pub fn parse_command(format: &str, input: &mut dyn BufRead, out: &mut dyn Write) -> io::Result<()> {
    let mut parser = Parser::for_format(format, &[]);
    let mut line = Vec::new();
    let mut n = 0u64;
    loop {
        line.clear();
        let n_read = read_line(input, &mut line)?;
        if n_read == 0 {
            return out.flush();
        }
        n += 1;
        let object = render(n, &mut parser, &line);
        serde_json::to_writer(&mut *out, &object)?;
        out.write_all(b"\n")?;
    }
}

/// Reads one line without its newline, at most a little over the limit of it; returns the bytes
/// taken from the input, 0 at its end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let mut n_read = 0;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            return Ok(n_read);
        }
        let end = memchr::memchr(b'\n', chunk);
        let text = &chunk[..end.unwrap_or(chunk.len())];
        let room = (LINE_BYTES_MAX + 1).saturating_sub(line.len());
        line.extend_from_slice(&text[..text.len().min(room)]);
        let used = end.map_or(chunk.len(), |at| at + 1);
        input.consume(used);
        n_read += used;
        if end.is_some() {
            return Ok(n_read);
        }
    }
}

/// The object of one line.
#[must_use]
pub fn render(n: u64, parser: &mut Parser, line: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("n".to_owned(), json!(n));
    let record = parser.parse(line);
    match &record {
        Line::Rejected(reason) => {
            object.insert("rejected".to_owned(), json!(reason.name()));
        }
        Line::Access(record) => {
            object.insert("format".to_owned(), json!(parser.format()));
            access(record, &mut object);
            if parser.format() == "haproxy" && record.client.is_none() {
                // Its lines have a place for the client in any case.
                object.insert("client".to_owned(), json!("-"));
            }
        }
        Line::Error(record) => {
            object.insert("format".to_owned(), json!(parser.format()));
            error(record, &mut object);
        }
    }
    object.retain(|_, value| !value.is_null());
    object
}

fn access(record: &AccessRecord<'_>, object: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("time", json!(record.time.and_then(render_time)));
    set("host", json!(record.host));
    set("client", json!(record.client));
    set("method", json!(record.method));
    set("path", json!(record.path));
    set("status", json!(record.status));
    set("request_time", json!(record.request_time));
    set("message_class", json!(record.signal.and_then(Signal::name)));
    if let Some(last) = record.attempts.last() {
        set("upstream", json!(Some(&last.upstream).filter(|upstream| !upstream.is_empty())));
        set("upstream_status", json!(last.status));
        let times: Vec<f64> = record.attempts.iter().filter_map(|a| a.time).collect();
        if !times.is_empty() {
            let sum: f64 = times.iter().sum();
            set("upstream_time", json!((sum * 1000.0).round() / 1000.0));
        }
        if record.attempts.len() > 1 {
            set("attempts", record.attempts.iter().map(attempt).collect());
        }
    }
    if record.status.is_some_and(|status| (502..=504).contains(&status)) {
        set("gateway", json!(true));
    }
}

fn attempt(attempt: &Attempt<'_>) -> Value {
    json!({"upstream": attempt.upstream, "status": attempt.status, "time": attempt.time})
}

fn error(record: &ErrorRecord<'_>, object: &mut Map<String, Value>) {
    let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
    set("time", json!(record.time.and_then(render_time)));
    set("host", json!(record.host));
    set("client", json!(record.client));
    set("method", json!(record.method));
    set("path", json!(record.path));
    set("upstream", json!(record.upstream));
    set("server_name", json!(record.server_name));
    set("level", json!(record.level));
    set("pool", json!(record.pool));
    set("status", json!(record.status));
    set("request_time", json!(record.request_time));
    set("message", json!(record.message));
    set("message_class", json!(record.signal.unwrap_or(Signal::Other).name()));
    if record.gateway {
        set("gateway", json!(true));
    }
}

/// RFC 3339 in the line's own offset, without offset when the line has none, nothing without year.
fn render_time(time: LineTime) -> Option<String> {
    let wall = |ms: i64| {
        let text = UnixMillis(ms).to_rfc3339();
        text.strip_suffix('Z').map(|t| t.strip_suffix(".000").unwrap_or(t).to_owned())
    };
    match time {
        LineTime::Instant { at, offset_s: 0 } => Some(format!("{}Z", wall(at.0)?)),
        LineTime::Instant { at, offset_s } => {
            let local = wall(at.0 + i64::from(offset_s) * 1000)?;
            let sign = if offset_s < 0 { '-' } else { '+' };
            let minutes = offset_s.unsigned_abs() / 60;
            Some(format!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60))
        }
        LineTime::Wall(ms) => wall(ms),
        LineTime::WallNoYear(_) => None,
    }
}
