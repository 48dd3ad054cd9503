//! The W3C Extended Log File Format: IIS and HTTP.sys, with spaces, and CloudFront, with tabs.
//!
//! A `#Fields` line names the columns and may come again with others. No server lets a separator
//! into a value (IIS writes `+`, CloudFront `%20`), so a line with another number of columns is
//! refused: somebody's words would stand in the place of the status.

use wire::v1::Signal;

use crate::logs::parse::{access, time};
use crate::logs::scan::shape::{End, Keep, Shape, Value, push};
use crate::logs::{AccessRecord, Line, LineTime, Rejected};

/// What a column means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
enum Column {
    Date,
    Time,
    Client,
    Method,
    Stem,
    Query,
    /// Stem and query as one.
    Uri,
    Host,
    /// CloudFront's name of the distribution, where the client's `Host` is in another column.
    OwnHost,
    Status,
    Substatus,
    /// Windows' code of what went wrong.
    Win32,
    TimeTaken,
    UserAgent,
    ForwardedFor,
    /// Of HTTP.sys: why it answered itself.
    Reason,
    /// Of CloudFront: how it ended.
    Result,
    Skip,
}

const COLUMNS: usize = Column::Skip as usize;
/// More columns than any server has.
const COLUMNS_MAX: usize = 128;

/// Columns of CloudFront's standard log, whose files may be read from their middle on.
const CLOUDFRONT: &str = "date time x-edge-location sc-bytes c-ip cs-method cs(Host) cs-uri-stem sc-status cs(Referer) cs(User-Agent) cs-uri-query cs(Cookie) x-edge-result-type x-edge-request-id x-host-header cs-protocol cs-bytes time-taken x-forwarded-for ssl-protocol ssl-cipher x-edge-response-result-type cs-protocol-version fle-status fle-encrypted-fields c-port time-to-first-byte x-edge-detailed-result-type sc-content-type sc-content-len sc-range-start sc-range-end";

/// One log of the family; its state is what its directives said.
#[derive(Clone, Debug)]
pub(crate) struct W3c {
    columns: Box<[Column]>,
    separator: u8,
    /// `2026-11-20` of the last `#Date`, for logs without a date in each line.
    date: Option<[u8; 10]>,
    /// How often the columns changed.
    pub(super) n_changes: u32,
}

impl W3c {
    pub(crate) fn iis() -> Self {
        Self { columns: Box::default(), separator: b' ', date: None, n_changes: 0 }
    }

    pub(crate) fn cloudfront() -> Self {
        let columns = columns(CLOUDFRONT);
        Self { columns, separator: b'\t', date: None, n_changes: 0 }
    }

    /// Takes a `#Fields` or `#Date` line; anything else says nothing.
    pub(crate) fn directive(&mut self, line: &[u8]) {
        if let Some(names) = line.strip_prefix(b"#Fields:") {
            let names = access::text(names);
            let n = names.split_ascii_whitespace().take(COLUMNS_MAX + 1).count();
            // HTTP.sys and IIS have columns that CloudFront has not, and the other way round.
            let is_cloudfront = names.contains(" x-edge-");
            if n <= COLUMNS_MAX && is_cloudfront == (self.separator == b'\t') {
                let before = std::mem::replace(&mut self.columns, columns(&names));
                self.n_changes = self.n_changes.wrapping_add(u32::from(before != self.columns));
            }
        } else if let Some(date) = line.strip_prefix(b"#Date:") {
            self.date = date.trim_ascii().first_chunk().copied();
        }
    }

    /// One line.
    pub(crate) fn parse<'l>(&mut self, line: &'l [u8]) -> Line<'l> {
        if line.first() == Some(&b'#') {
            self.directive(line);
            return Line::Rejected(Rejected::Directive);
        }
        match self.record(line) {
            Ok(record) => Line::Access(record),
            Err(reason) => Line::Rejected(reason),
        }
    }

    fn record<'l>(&self, line: &'l [u8]) -> Result<AccessRecord<'l>, Rejected> {
        let mut values = [None; COLUMNS];
        let mut columns = self.columns.iter();
        for value in line.split(|byte| *byte == self.separator) {
            if value.is_empty() && self.separator == b' ' {
                continue; // Some versions write two.
            }
            let column = *columns.next().ok_or(Rejected::Malformed)?;
            if value.is_empty() {
                return Err(Rejected::Malformed);
            }
            if let Some(place) = values.get_mut(column as usize).filter(|_| value != b"-") {
                place.get_or_insert(value);
            }
        }
        if columns.next().is_some() {
            return Err(Rejected::Malformed);
        }
        let get = |column: Column| values[column as usize];
        let time = self.time(get(Column::Date), get(Column::Time)).ok_or(Rejected::BadTime)?;
        let has = |column: Column| self.columns.contains(&column);
        let status = match get(Column::Status) {
            Some(text) => Some(access::status(text).ok_or(Rejected::BadStatus)?),
            // HTTP.sys also logs connections that it dropped.
            None if has(Column::Reason) => None,
            None => return Err(Rejected::BadStatus),
        };
        let text = |column: Column| get(column).map(access::text);
        let path = match (text(Column::Uri), text(Column::Stem), text(Column::Query)) {
            (Some(uri), ..) => Some(uri),
            (None, Some(stem), Some(query)) => Some(format!("{stem}?{query}").into()),
            (None, stem, _) => stem,
        };
        let (signal, upstream_failed) = verdict(status, &values);
        let per_s = if self.separator == b'\t' { 1.0 } else { 1000.0 };
        Ok(AccessRecord {
            time: Some(time),
            host: text(Column::Host).or_else(|| text(Column::OwnHost)),
            client: text(Column::Client),
            forwarded_for: text(Column::ForwardedFor),
            method: text(Column::Method),
            path,
            status,
            request_time: get(Column::TimeTaken).and_then(access::number).map(|n| n / per_s),
            user_agent: text(Column::UserAgent),
            signal,
            upstream_failed,
            ..AccessRecord::default()
        })
    }

    /// Times are in UTC by definition.
    fn time(&self, date: Option<&[u8]>, time_of_day: Option<&[u8]>) -> Option<LineTime> {
        let date = date.or(self.date.as_ref().map(|date| &date[..]))?;
        utc(date, time_of_day?)
    }

    /// The form of its plain lines, if their columns begin with date and time; `None` for HTTP.sys,
    /// each of whose lines says what went wrong.
    pub(super) fn shape(&self) -> Option<Shape> {
        let [Column::Date, Column::Time, columns @ ..] = &*self.columns else { return None };
        let place = |wanted: Column| columns.iter().position(|column| *column == wanted);
        let status = place(Column::Status).filter(|_| place(Column::Reason).is_none())?;
        let host = place(Column::Host).or(place(Column::OwnHost));
        let client = place(Column::Client);
        let separator = self.separator;
        let mut ops = Vec::new();
        push(&mut ops, End::Nth(separator, 2), &[separator], Keep::Time, Value::Any);
        for at in 0..columns.len() {
            let is_last = at + 1 == columns.len();
            let until = if is_last { &[][..] } else { &[separator] };
            let keep = match Some(at) {
                at if at == host => Keep::Host,
                at if at == client => Keep::Client,
                _ => Keep::Nothing,
            };
            // Where a kept one says nothing, another column of the same name may.
            match (keep, is_last) {
                _ if at == status => push(&mut ops, End::Status, until, Keep::Status, Value::Any),
                (Keep::Nothing, true) => {
                    push(&mut ops, End::Line, until, keep, Value::Column(separator));
                }
                (_, true) => push(&mut ops, End::Line, until, keep, Value::Without(separator)),
                (Keep::Nothing, false) => {
                    push(&mut ops, End::Byte(separator), until, keep, Value::Not(separator));
                }
                (_, false) => push(&mut ops, End::Byte(separator), until, keep, Value::Said),
            }
        }
        Some(Shape::new(ops, None, false))
    }
}

fn utc(date: &[u8], time_of_day: &[u8]) -> Option<LineTime> {
    let mut text = [b'T'; 24];
    let len = date.len() + 1 + time_of_day.len();
    if date.len() != 10 || len >= text.len() {
        return None;
    }
    text[..10].copy_from_slice(date);
    text[11..len].copy_from_slice(time_of_day);
    text[len] = b'Z';
    time::iso8601(&text[..=len])
}

/// The columns of date and time as one text.
pub(crate) fn date_time(text: &[u8]) -> Option<LineTime> {
    let (date, rest) = text.split_at_checked(10)?;
    match rest {
        [b' ' | b'\t', time_of_day @ ..] => utc(date, time_of_day),
        _ => None,
    }
}

fn columns(names: &str) -> Box<[Column]> {
    names.split_ascii_whitespace().map(column).collect()
}

fn column(name: &str) -> Column {
    match &*name.to_ascii_lowercase() {
        "date" => Column::Date,
        "time" => Column::Time,
        "c-ip" => Column::Client,
        "cs-method" => Column::Method,
        "cs-uri-stem" => Column::Stem,
        "cs-uri-query" => Column::Query,
        "cs-uri" => Column::Uri,
        "cs-host" | "x-host-header" => Column::Host,
        "cs(host)" => Column::OwnHost,
        "sc-status" => Column::Status,
        "sc-substatus" => Column::Substatus,
        "sc-win32-status" => Column::Win32,
        "time-taken" => Column::TimeTaken,
        "cs(user-agent)" => Column::UserAgent,
        "x-forwarded-for" | "cs(x-forwarded-for)" => Column::ForwardedFor,
        "s-reason" => Column::Reason,
        "x-edge-detailed-result-type" => Column::Result,
        _ => Column::Skip,
    }
}

/// What went wrong, and whether it was an upstream.
fn verdict(status: Option<u16>, values: &[Option<&[u8]>; COLUMNS]) -> (Option<Signal>, bool) {
    let get = |column: Column| values[column as usize];
    let number = |column| get(column).and_then(access::number).map(|number| number as u32);
    if let Some(reason) = get(Column::Reason) {
        return http_sys(reason);
    }
    let Some(status @ 502..=504) = status else { return (None, false) };
    if let Some(result) = get(Column::Result) {
        return cloudfront(result);
    }
    match number(Column::Substatus) {
        Some(substatus) => iis(status, substatus, number(Column::Win32).unwrap_or_default()),
        None => (None, false),
    }
}

/// The substatus of IIS; those of 502 and 504 are of its CGI, of ASP.NET and of request routing.
fn iis(status: u16, substatus: u32, win32: u32) -> (Option<Signal>, bool) {
    let signal = match (status, substatus) {
        // The CGI took too long.
        (502, 1) => Signal::TimeoutRead,
        // It ended without an answer.
        (502, 2) => Signal::PrematureClose,
        // The connection to the server behind failed or timed out.
        (502, 3) => winhttp(win32).unwrap_or(Signal::Other),
        // The process behind did not start.
        (502, 5) => Signal::WorkerSignal,
        (504, _) => winhttp(win32).unwrap_or(Signal::TimeoutRead),
        // No server behind is left; the application pool is stopped.
        (502, 4) | (503, 0) => Signal::NoLiveUpstreams,
        // More requests at once than allowed, or the queue of ASP.NET or of FastCGI is full.
        (503, 2) => Signal::WorkerConnections,
        (503, 3 | 4) => Signal::BacklogFull,
        _ => return (winhttp(win32), false),
    };
    (Some(signal), true)
}

/// Errors of `WinHTTP` and of sockets, plain or as HRESULT.
fn winhttp(code: u32) -> Option<Signal> {
    let code = if code >> 16 == 0x8007 { code & 0xffff } else { code };
    Some(match code {
        12_002 => Signal::TimeoutRead,
        12_007 => Signal::Dns,
        12_029 | 10_061 => Signal::ConnectRefused,
        12_030 | 10_054 | 64 | 1236 => Signal::Reset,
        12_152 => Signal::InvalidHeader,
        12_175 => Signal::Tls,
        10_060 | 121 => Signal::ConnectTimeout,
        10_065 => Signal::Unreachable,
        _ => return None,
    })
}

/// Why HTTP.sys answered, or dropped a connection, without asking IIS.
fn http_sys(reason: &[u8]) -> (Option<Signal>, bool) {
    match reason {
        b"QueueFull" => (Some(Signal::BacklogFull), true),
        b"AppOffline" | b"AppShutdown" | b"AppPoolTimer" | b"Disabled" => {
            (Some(Signal::NoLiveUpstreams), true)
        }
        _ => (Some(Signal::Other), false),
    }
}

/// How CloudFront says that its origin failed.
fn cloudfront(result: &[u8]) -> (Option<Signal>, bool) {
    let signal = match result {
        b"OriginConnectError" => Signal::ConnectRefused,
        b"OriginCommError" => Signal::TimeoutRead,
        b"OriginDnsError" => Signal::Dns,
        b"OriginReadError" => Signal::Reset,
        b"OriginZeroSizeObjectError" => Signal::PrematureClose,
        b"OriginHeaderTooBigError" => Signal::TooBigHeader,
        b"OriginInvalidResponseError" | b"OriginContentRangeLengthError" => Signal::InvalidHeader,
        _ => return (None, false),
    };
    (Some(signal), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &str = "#Fields: date time s-ip cs-method cs-uri-stem cs-uri-query s-port cs-username c-ip cs(User-Agent) cs(Referer) sc-status sc-substatus sc-win32-status time-taken";

    fn line(status: &str) -> String {
        format!("2026-11-20 12:00:05 192.0.2.1 GET /p q=1 80 - 198.51.100.7 curl/8+(x) - {status}")
    }

    #[test]
    fn the_substatus_tells_how_it_failed() {
        let mut log = W3c::iis();
        assert_eq!(log.parse(line("200 0 0 15").as_bytes()), Line::Rejected(Rejected::Malformed));
        assert_eq!(log.parse(FIELDS.as_bytes()), Line::Rejected(Rejected::Directive));
        for (tail, want) in [
            ("200 0 0 1500", (None, false)),
            ("502 3 12002 1500", (Some(Signal::TimeoutRead), true)),
            ("502 3 2147954429 1500", (Some(Signal::ConnectRefused), true)),
            ("502 3 0 1500", (Some(Signal::Other), true)),
            ("502 4 0 1500", (Some(Signal::NoLiveUpstreams), true)),
            ("502 0 0 1500", (None, false)),
            ("503 0 0 1500", (Some(Signal::NoLiveUpstreams), true)),
            ("503 4 0 1500", (Some(Signal::BacklogFull), true)),
            ("503 19 0 1500", (None, false)),
            ("504 0 0 1500", (Some(Signal::TimeoutRead), true)),
        ] {
            let text = line(tail);
            let Line::Access(r) = log.parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!((r.signal, r.upstream_failed), want, "{tail}");
            assert_eq!((r.path.as_deref(), r.request_time), (Some("/p?q=1"), Some(1.5)));
            assert_eq!(r.time, time::iso8601(b"2026-11-20T12:00:05Z"));
        }
    }

    #[test]
    fn columns_may_change_and_must_all_be_there() {
        let mut log = W3c::iis();
        log.parse(FIELDS.as_bytes());
        for (text, want) in [
            (line("200 0 0"), None),
            (line("200 0 0 1 502"), None),
            (line("200 0 0 1"), Some(200)),
            (line("200 0 0 1 ").replace(" 80 ", " 80  "), Some(200)),
            (line("200 0 0 1").replace("curl/8+(x)", "a 502"), None),
            (line("200 0 0 1").replace("/p", "/a b"), None),
            (line("- 0 0 1"), None),
            (line("x 0 0 1"), None),
        ] {
            let got = match log.parse(text.as_bytes()) {
                Line::Access(record) => record.status,
                _ => None,
            };
            assert_eq!(got, want, "{text}");
        }
        log.parse(b"#Date: 2026-11-21 00:00:00");
        log.parse(b"#Fields: time cs-host sc-status");
        let Line::Access(r) = log.parse(b"12:00:05 a.example 503") else { panic!() };
        assert_eq!((r.host.as_deref(), r.status), (Some("a.example"), Some(503)));
        assert_eq!(r.time, time::iso8601(b"2026-11-21T12:00:05Z"));
        log.parse(format!("#Fields: {}", "x ".repeat(COLUMNS_MAX + 1)).as_bytes());
        assert!(matches!(log.parse(b"12:00:05 a.example 503"), Line::Access(_)), "ignored");
    }

    #[test]
    fn http_sys_says_why_it_answered_itself() {
        let mut log = W3c::iis();
        log.parse(b"#Fields: date time c-ip c-port s-ip s-port cs-version cs-method cs-uri sc-status s-siteid s-reason s-queuename");
        for (tail, status, signal, failed) in [
            ("HTTP/1.1 GET /a 503 1 QueueFull pool", Some(503), Signal::BacklogFull, true),
            ("HTTP/1.1 GET /a 503 1 AppOffline pool", Some(503), Signal::NoLiveUpstreams, true),
            ("HTTP/1.1 GET /a 503 - ConnLimit -", Some(503), Signal::Other, false),
            ("- - - - - Timer_ConnectionIdle -", None, Signal::Other, false),
        ] {
            let text = format!("2026-11-20 12:00:05 198.51.100.7 4711 192.0.2.1 80 {tail}");
            let Line::Access(r) = log.parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!((r.status, r.signal, r.upstream_failed), (status, Some(signal), failed));
        }
    }

    #[test]
    fn cloudfront_needs_no_header() {
        let mut log = W3c::cloudfront();
        let line = |status: &str, result: &str| {
            format!(
                "2026-11-20\t12:00:05\tFRA2-C1\t700\t198.51.100.7\tGET\td1.cloudfront.net\t/p\t{status}\t-\tcurl/8%20x\tq=1\t-\tError\tid==\ta.example\thttps\t62\t0.113\t-\tTLSv1.3\tx\tError\tHTTP/2.0\t-\t-\t4711\t0.113\t{result}\ttext/html\t-\t-\t-"
            )
        };
        for (status, result, want) in [
            ("200", "Miss", (None, false)),
            ("502", "OriginConnectError", (Some(Signal::ConnectRefused), true)),
            ("504", "OriginCommError", (Some(Signal::TimeoutRead), true)),
            ("502", "Error", (None, false)),
        ] {
            let text = line(status, result);
            let Line::Access(r) = log.parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!((r.signal, r.upstream_failed), want, "{result}");
            assert_eq!((r.host.as_deref(), r.path.as_deref()), (Some("a.example"), Some("/p?q=1")));
            assert_eq!(r.request_time, Some(0.113));
        }
        log.parse(FIELDS.as_bytes());
        assert!(matches!(log.parse(line("200", "Hit").as_bytes()), Line::Access(_)), "not its own");
    }
}
