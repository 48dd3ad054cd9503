//! What every family of parsers has to keep, whatever the bytes.

use gatewatch_agent::config::PrivacyConfig;
use gatewatch_agent::discover::{Discovery, LogKind, LogSource, SiteRule};
use gatewatch_agent::logs::join::{Judge, Request};
use gatewatch_agent::logs::parse::{Parser, output};
use gatewatch_agent::logs::scan::{Plain, Sink};
use gatewatch_agent::logs::{AccessRecord, Line, LineTime};
use wire::UnixMillis;

/// 2026-11-20 12:01:07 UTC.
const NOW: UnixMillis = UnixMillis(1_795_176_067_000);
/// Longest text that is sent.
const TEXT_BYTES_MAX: usize = 512;
/// A failed request that any error line may explain.
const FAILED: &[u8] =
    b"203.0.113.7 - - [20/Nov/2026:12:01:07 +0000] \"GET /a?b=c HTTP/1.1\" 502 157 \"-\" \"curl\"";

/// The format that the first byte of an input chooses, `a` for the first one, and the lines.
pub fn choose<'i>(formats: &[&'static str], input: &'i [u8]) -> Option<(&'static str, &'i [u8])> {
    let (choice, lines) = input.split_first()?;
    let at = usize::from(choice.wrapping_sub(b'a')) % formats.len();
    Some((formats[at], lines))
}

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

/// Lines of an access log: the vector kernel and its portable twin say the same of every line, both
/// say what parsing each line by itself says, and what is printed is an object with a verdict.
pub fn check_access(format: &str, lines: &[u8]) {
    let mut chunk = lines.to_vec();
    if chunk.last().is_some_and(|last| *last != b'\n') {
        chunk.push(b'\n');
    }
    let fresh = Parser::for_format(format, &[]);
    let (mut quick, mut portable) = (Lines::default(), Lines::default());
    fresh.clone().scan(&chunk, &mut quick);
    let mut parser = fresh.clone();
    parser.use_portable();
    parser.scan(&chunk, &mut portable);
    assert_eq!(quick.said, portable.said, "the kernels differ");
    let mut whole = fresh.clone();
    let lines: Vec<&[u8]> = chunk.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), quick.said.len(), "each line once");
    for (line, (raw, said)) in lines.iter().zip(&quick.said) {
        assert_eq!(&line[..line.len() - 1], raw);
        match (said, whole.parse(raw)) {
            (Said::Plain { .. }, Line::Access(record)) => check_plain(said, &record),
            (Said::Plain { .. }, line) => panic!("plain, but parsed {line:?}"),
            (Said::Line(said), line) => assert_eq!(*said, format!("{line:?}")),
        }
    }
    let mut printed = fresh;
    for (n, line) in lines.iter().enumerate() {
        check_printed(&mut printed, n, &line[..line.len() - 1]);
    }
}

/// One object: a record with its format, or the reason why it is none; as JSON it can be read back.
fn check_printed(parser: &mut Parser, n: usize, line: &[u8]) {
    let object = output::render(n as u64, parser, line);
    assert!(object.contains_key("rejected") != object.contains_key("format"), "{object:?}");
    let status = object.get("status").and_then(serde_json::Value::as_u64);
    assert!(status.is_none_or(|status| (100..=599).contains(&status)), "{object:?}");
    let text = serde_json::to_string(&object).expect("it is JSON");
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
}

fn source(name: &str, kind: LogKind, format: &str) -> LogSource {
    LogSource {
        path: name.into(),
        kind,
        format: format.to_owned(),
        site: SiteRule::Host,
        timezone: Some("UTC".to_owned()),
        inner: false,
        inner_sites: Vec::new(),
    }
}

/// Lines of a log that holds no requests: parsed, printed and judged, beside a failed request that
/// each of them may explain. What leaves the machine keeps to its limits.
pub fn check_errors(kind: LogKind, format: &str, lines: &[u8]) {
    let mut parser = Parser::for_format(format, &[]);
    let mut printed = parser.clone();
    let mut requests = Parser::for_format("combined", &[]);
    let mut judge =
        Judge::new(&Discovery::default(), PrivacyConfig::default(), 100, jiff::tz::TimeZone::UTC);
    let errors = judge.add_source(&source("/error.log", kind, format));
    let access = judge.add_source(&source("/access.log", LogKind::Access, "combined"));
    judge.set_readable(errors, true);
    for (n, line) in lines.split(|byte| *byte == b'\n').enumerate() {
        check_printed(&mut printed, n, line);
        match parser.parse(line) {
            Line::Error(record) => {
                if let Some(evidence) = judge.error(errors, &record, NOW) {
                    assert!(evidence.message.len() <= TEXT_BYTES_MAX, "{evidence:?}");
                }
            }
            Line::Rejected(_) => {
                if let Some(sample) = judge.sample(line, NOW) {
                    assert!(sample.len() <= TEXT_BYTES_MAX, "{sample}");
                }
            }
            Line::Access(record) => panic!("this log holds no requests: {record:?}"),
        }
        let Line::Access(failed) = requests.parse(FAILED) else { panic!("a request") };
        let mut n_judged = 0;
        let mut judged = |request: Request| {
            n_judged += 1;
            let exemplar = request.exemplar.expect("a 502 has one");
            let message = exemplar.message.as_deref().unwrap_or_default();
            assert!(message.len() <= TEXT_BYTES_MAX, "{message}");
            assert!(!exemplar.path.contains('?'), "{}", exemplar.path);
        };
        judge.access(access, &failed, NOW, &mut judged);
        judge.settle(NOW, &mut |_| None, &mut judged);
        assert_eq!(n_judged, 1);
    }
}
