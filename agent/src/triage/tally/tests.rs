//! What each kind of line counts as.

use proptest::prelude::*;

use super::*;
use crate::logs::Attempt;
use crate::triage::faults::FaultGroup;

fn tally(since: i64, until: i64) -> Tally {
    let zone = TimeZone::UTC;
    let mut tally =
        Tally::new(Rules { site: None, since, until, zone, now: UnixMillis(2_000_000_000_000) });
    tally.begin_file("of-file".to_owned(), None);
    tally
}

fn at(second: i64) -> LineTime {
    LineTime::Instant { at: UnixMillis::from_second(second), offset_s: 0 }
}

fn request(status: u16, second: i64) -> AccessRecord<'static> {
    AccessRecord {
        time: Some(at(second)),
        host: Some("a".into()),
        client: Some("192.0.2.1".into()),
        status: Some(status),
        request_time: Some(0.1),
        ..AccessRecord::default()
    }
}

fn attempt(upstream: &'static str, status: u16) -> Attempt<'static> {
    Attempt { upstream: upstream.into(), status: Some(status), ..Attempt::default() }
}

fn failure(second: i64) -> ErrorRecord<'static> {
    ErrorRecord {
        time: Some(at(second)),
        signal: Some(wire::v1::Signal::Reset),
        gateway: true,
        method: Some("GET".into()),
        client: Some("192.0.2.1".into()),
        ..ErrorRecord::default()
    }
}

/// Error lines first, then one request at second 1000: what it counts as.
fn check(errors: Vec<ErrorRecord<'_>>, record: &AccessRecord<'_>, want: &str) {
    let mut tally = tally(i64::MIN, i64::MAX);
    for error in errors {
        tally.line(b"", Line::Error(error));
    }
    tally.line(b"", Line::Access(record.clone()));
    let mut sum = Counts::default();
    tally.counts.iter().for_each(|counts| sum.add(counts));
    assert_eq!(sum.n, 1);
    let named = [
        (sum.n_502, "502"),
        (sum.n_503, "503"),
        (sum.n_504, "504"),
        (sum.n_5xx_app, "app"),
        (sum.n_503_app, "app503"),
        (sum.n_499, "499"),
        (sum.n_retried, "retried"),
        (sum.n_crawler, "crawler"),
    ];
    let got: Vec<_> = named.iter().filter(|(n, _)| *n > 0).map(|(_, name)| *name).collect();
    assert_eq!(got.join(" "), want, "{record:?}");
    assert_eq!(sum.errors.ends().is_some(), sum.n_gateway() > 0);
}

#[test]
fn statuses_count_as_what_they_are() {
    for (status, want) in [
        (200, ""),
        (404, ""),
        (499, "499"),
        (500, "app"),
        (501, "app"),
        (502, "502"),
        (503, "app app503"),
        (504, "504"),
        (505, "app"),
        (599, "app"),
    ] {
        check(vec![], &request(status, 1000), want);
    }
    let googlebot = Some("Mozilla/5.0 (compatible; Googlebot/2.1)".into());
    check(
        vec![],
        &AccessRecord { user_agent: googlebot.clone(), ..request(502, 1000) },
        "502 crawler",
    );
    check(vec![], &AccessRecord { user_agent: googlebot, ..request(200, 1000) }, "");
}

#[test]
fn a_503_counts_when_its_line_says_that_an_upstream_failed() {
    check(vec![], &AccessRecord { upstream_failed: true, ..request(503, 1000) }, "503");
    let masked =
        |status| AccessRecord { attempts: vec![attempt("u", status)], ..request(503, 1000) };
    check(vec![], &masked(502), "503");
    check(vec![], &masked(503), "app app503");
    check(vec![], &masked(200), "app app503");
}

#[test]
fn a_503_counts_when_an_error_line_explains_it() {
    let of_site =
        |host: &'static str, second| ErrorRecord { host: Some(host.into()), ..failure(second) };
    let of_upstream = |upstream: &'static str| ErrorRecord {
        client: None,
        upstream: Some(upstream.into()),
        ..failure(1000)
    };
    let of_client =
        |client: &'static str| ErrorRecord { client: Some(client.into()), ..failure(1000) };
    let asked = AccessRecord { attempts: vec![attempt("u:80", 503)], ..request(503, 1000) };
    let no_upstream = AccessRecord { no_upstream: true, ..request(503, 1000) };
    for (error, record, want) in [
        (of_site("a", 991), request(503, 1000), "503"),
        (of_site("A:8080", 1001), request(503, 1000), "503"),
        (of_site("a", 990), request(503, 1000), "app app503"),
        (of_site("a", 1002), request(503, 1000), "app app503"),
        (of_site("b", 1000), request(503, 1000), "app app503"),
        (of_site("a", 1000), no_upstream, "app app503"),
        (of_upstream("u:80"), asked.clone(), "503"),
        (of_upstream("v:80"), asked, "app app503"),
        (of_client("192.0.2.1"), request(503, 1000), "503"),
        (of_client("192.0.2.2"), request(503, 1000), "app app503"),
        // The client of the line is a server in front: it is anybody's.
        (of_client("127.0.0.1"), request(503, 1000), "503"),
        (ErrorRecord { gateway: false, ..of_site("a", 1000) }, request(503, 1000), "app app503"),
        (of_site("a", 1000), request(500, 1000), "app"),
    ] {
        check(vec![error], &record, want);
    }
}

#[test]
fn retried_requests_blame_the_upstreams_that_failed() {
    let mut tally = tally(i64::MIN, i64::MAX);
    let attempts = vec![attempt("u1", 502), attempt("u2", 200)];
    tally.line(b"", Line::Access(AccessRecord { attempts, ..request(200, 1) }));
    let attempts = vec![attempt("u1", 502), attempt("u3", 504)];
    tally.line(b"", Line::Access(AccessRecord { attempts, ..request(504, 1) }));
    let attempts = vec![attempt("u1", 404), attempt("u2", 200)];
    tally.line(b"", Line::Access(AccessRecord { attempts, ..request(200, 1) }));
    let site = tally.sites.find("a").unwrap() as usize;
    assert_eq!((tally.counts[site].n_retried, tally.counts[site].n_504), (1, 1));
    let upstreams = tally.faults[site].upstreams.named(&tally.addresses);
    assert_eq!(upstreams.into_iter().collect::<Vec<_>>(), [("u1".into(), 2), ("u3".into(), 1)]);
}

#[test]
fn a_failure_told_in_two_lines_is_counted_once_and_explains_its_client() {
    let first = |second| ErrorRecord {
        method: None,
        client: None,
        connection: Some(7),
        upstream: Some("u".into()),
        ..failure(second)
    };
    let second_part = |second| ErrorRecord { method: None, connection: Some(7), ..failure(second) };
    let mut tally = tally(i64::MIN, i64::MAX);
    for line in [first(10), second_part(10), first(20), second_part(21), second_part(22)] {
        tally.line(b"", Line::Error(line));
    }
    assert_eq!(tally.groups.nameless.n_lines, 3, "the last one has no first part");
    assert!(tally.explained.explains(&[About::Client("192.0.2.1")], 21, true));
    assert_eq!(tally.file.n_error_lines, 5);
}

#[test]
fn error_lines_of_the_machine_have_a_cause_and_no_site() {
    let mut tally = tally(i64::MIN, i64::MAX);
    let max_children = ErrorRecord {
        time: Some(at(5)),
        signal: Some(wire::v1::Signal::MaxChildren),
        ..ErrorRecord::default()
    };
    tally.line(b"", Line::Error(max_children));
    tally.line(b"", Line::Error(ErrorRecord { time: Some(at(5)), ..ErrorRecord::default() }));
    // What PHP says of itself in a line of a request is a cause, what a client did is none.
    for signal in [wire::v1::Signal::MemoryLimit, wire::v1::Signal::Reset] {
        let line = ErrorRecord {
            host: Some("a".into()),
            signal: Some(signal),
            gateway: false,
            ..failure(5)
        };
        tally.line(b"", Line::Error(line));
    }
    let group = |signal| {
        let mut group = FaultGroup::default();
        group.note(Some(5), false, Some(signal), None);
        group
    };
    let want = group(wire::v1::Signal::MaxChildren);
    assert_eq!(*tally.groups.of("a", ""), group(wire::v1::Signal::MemoryLimit));
    assert_eq!(tally.groups.nameless, want);
    assert_eq!(tally.explained.n_lines, 0);
}

proptest! {
    /// Whether a line comes with its whole record or not must not show in any count.
    #[test]
    fn plain_and_whole_records_count_the_same(
        lines in prop::collection::vec(
            (0usize..4, prop::option::of(0i64..100), 100u16..600), 0..60),
        since in 0i64..100,
    ) {
        let lines: Vec<_> = lines.into_iter().filter(|(_, _, s)| !(502..=504).contains(s)).collect();
        let hosts = ["", "a.example", "A.example:80", "b"];
        let (mut plain, mut whole) = (tally(since, 90), tally(since, 90));
        for (host, second, status) in lines {
            let taken = plain.plain(&Plain {
                raw: b"",
                host: hosts[host].as_bytes(),
                client: b"192.0.2.1",
                upstream: b"",
                second,
                status,
            });
            prop_assert!(taken);
            whole.line(b"", Line::Access(AccessRecord {
                time: second.map(at),
                host: Some(hosts[host].into()).filter(|host: &std::borrow::Cow<'_, str>| !host.is_empty()),
                status: Some(status),
                ..AccessRecord::default()
            }));
        }
        prop_assert_eq!(&plain.counts, &whole.counts);
        prop_assert_eq!(&plain.file, &whole.file);
    }
}
