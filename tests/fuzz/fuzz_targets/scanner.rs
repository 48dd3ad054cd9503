//! Any lines in any format: the vector kernel and its portable twin say the same of every line, and
//! both say what parsing each line by itself says.
//!
//! Input: a byte that chooses the format (large: the first line is one), then the lines.

#![no_main]

use gatewatch_agent::logs::parse::{FORMATS, Parser};
use gatewatch_agent::logs::scan::{Plain, Sink};
use gatewatch_agent::logs::{AccessRecord, Line, LineTime};
use libfuzzer_sys::fuzz_target;
use wire::UnixMillis;

/// Formats with all that the compiler treats apart: quoted and bare fields, lists, every time.
const CUSTOM: [&str; 5] = [
    r#"$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent""#,
    r#"$remote_addr [$time_iso8601] $host "$request" $status $request_time "$upstream_addr" "$upstream_status" "$upstream_response_time""#,
    r#"$msec $host $status $remote_addr $upstream_addr $http_user_agent"#,
    r#"%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i" %D"#,
    r#"$time_local|$status|$server_name|$remote_addr|$upstream_addr"#,
];

/// What a plain line said, and all of what another said.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Plain { host: Vec<u8>, client: Vec<u8>, upstream: Vec<u8>, second: Option<i64>, status: u16 },
    Line(String),
}

/// What one way of scanning said of each line.
#[derive(Default)]
struct Lines {
    said: Vec<(Vec<u8>, Said)>,
}

impl Sink for Lines {
    fn plain(&mut self, plain: &Plain<'_>) -> bool {
        let said = Said::Plain {
            host: plain.host.to_vec(),
            client: plain.client.to_vec(),
            upstream: plain.upstream.to_vec(),
            second: plain.second,
            status: plain.status,
        };
        self.said.push((plain.raw.to_vec(), said));
        true
    }

    fn line(&mut self, raw: &[u8], line: Line<'_>) {
        self.said.push((raw.to_vec(), Said::Line(format!("{line:?}"))));
    }
}

fn second_of(record: &AccessRecord<'_>) -> Option<i64> {
    let LineTime::Instant { at, .. } = record.time? else {
        panic!("a time without offset is not plain: {record:?}")
    };
    let seconds = record.request_time.filter(|_| record.time_is_start).unwrap_or(0.0);
    Some(UnixMillis(at.0 + (seconds.min(1e9) * 1000.0) as i64).second())
}

/// A plain request is what the whole parser says, and nothing in it wants a second look.
fn check_plain(said: &Said, record: &AccessRecord<'_>) {
    let Said::Plain { host, client, upstream, second, status } = said else { unreachable!() };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(record.status, Some(*status));
    assert!(!(502..=504).contains(status), "a gateway error is not plain");
    assert_eq!(record.host.as_deref().unwrap_or_default(), text(host));
    assert_eq!(record.client.as_deref().unwrap_or_default(), text(client));
    assert!(record.attempts.len() <= 1, "{record:?}");
    let asked = record.attempts.first().map(|attempt| &*attempt.upstream).unwrap_or_default();
    assert_eq!(asked, text(upstream));
    assert_eq!(second_of(record), *second, "{record:?}");
    assert!(record.signal.is_none() && !record.upstream_failed, "{record:?}");
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, mut rest)) = input.split_first() else { return };
    let choice = usize::from(*choice);
    let format = match FORMATS.iter().chain(&CUSTOM).nth(choice % 32) {
        Some(format) => (*format).to_owned(),
        None => {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let format = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = rest.get(end + 1..).unwrap_or_default();
            format
        }
    };
    let mut chunk = rest.to_vec();
    if chunk.last().is_some_and(|last| *last != b'\n') {
        chunk.push(b'\n');
    }
    let fresh = Parser::for_format(&format, &[]);
    let (mut quick, mut portable) = (Lines::default(), Lines::default());
    fresh.clone().scan(&chunk, &mut quick);
    let mut parser = fresh.clone();
    parser.use_portable();
    parser.scan(&chunk, &mut portable);
    assert_eq!(quick.said, portable.said, "the kernels differ");
    let mut whole = fresh;
    let lines: Vec<&[u8]> = chunk.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), quick.said.len(), "each line once");
    for (line, (raw, said)) in lines.into_iter().zip(&quick.said) {
        assert_eq!(&line[..line.len() - 1], raw);
        match (said, whole.parse(raw)) {
            (Said::Plain { .. }, Line::Access(record)) => check_plain(said, &record),
            (Said::Plain { .. }, line) => panic!("plain, but parsed {line:?}"),
            (Said::Line(said), line) => assert_eq!(*said, format!("{line:?}")),
        }
    }
});
