//! Any bytes as lines of an nginx error log: parsed, printed and judged, beside a failed request
//! that each of them may explain. What leaves the machine keeps to its limits.

#![no_main]

use gatewatch_agent::config::PrivacyConfig;
use gatewatch_agent::discover::{Discovery, LogKind, LogSource, SiteRule};
use gatewatch_agent::logs::Line;
use gatewatch_agent::logs::join::Judge;
use gatewatch_agent::logs::parse::{Parser, output};
use libfuzzer_sys::fuzz_target;
use wire::UnixMillis;

/// 2026-11-20 12:01:07 UTC.
const NOW: UnixMillis = UnixMillis(1_795_176_067_000);
/// Longest text that is sent.
const TEXT_BYTES_MAX: usize = 512;
const FAILED: &[u8] =
    b"203.0.113.7 - - [20/Nov/2026:12:01:07 +0000] \"GET /a?b=c HTTP/1.1\" 502 157 \"-\" \"curl\"";

fn source(name: &str, kind: LogKind, format: &str) -> LogSource {
    LogSource {
        path: name.into(),
        kind,
        format: format.to_owned(),
        site: SiteRule::Host,
        timezone: Some("UTC".to_owned()),
        inner: false,
    }
}

fuzz_target!(|input: &[u8]| {
    let mut parser = Parser::for_format("nginx_error", &[]);
    let mut requests = Parser::for_format("combined", &[]);
    let mut judge =
        Judge::new(&Discovery::default(), PrivacyConfig::default(), 100, jiff::tz::TimeZone::UTC);
    let errors = judge.add_source(&source("/error.log", LogKind::Error, "nginx_error"));
    let access = judge.add_source(&source("/access.log", LogKind::Access, "combined"));
    judge.set_readable(errors, true);
    for (n, line) in input.split(|byte| *byte == b'\n').enumerate() {
        let printed = output::render(n as u64, &mut parser, line);
        assert!(printed.contains_key("n"), "{printed:?}");
        match parser.parse(line) {
            Line::Error(record) => {
                if let Some(evidence) = judge.error(errors, &record, NOW) {
                    assert!(evidence.message.len() <= TEXT_BYTES_MAX, "{evidence:?}");
                }
            }
            Line::Rejected(_) => {}
            Line::Access(record) => panic!("an error log holds no requests: {record:?}"),
        }
        let Line::Access(failed) = requests.parse(FAILED) else { panic!("a request") };
        let mut n_judged = 0;
        let mut judged = |request: gatewatch_agent::logs::join::Request| {
            n_judged += 1;
            let exemplar = request.exemplar.expect("a 502 has one");
            let message = exemplar.message.as_deref().unwrap_or_default();
            assert!(message.len() <= TEXT_BYTES_MAX, "{message}");
            assert!(!exemplar.path.contains('?'), "{}", exemplar.path);
        };
        judge.access(access, &failed, NOW, &mut judged);
        judge.settle(NOW, &mut judged);
        assert_eq!(n_judged, 1);
    }
});
