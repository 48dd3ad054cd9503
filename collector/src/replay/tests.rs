//! Replays of small streams.

use std::fmt::Write as _;
use std::io::Cursor;

use serde_json::Value;

use super::*;

pub(super) const NOON: i64 = 1_795_176_000_000;
const REFUSED: &str =
    "connect() failed (111: Connection refused) while connecting to upstream, client: 203.0.113.4";

/// Two servers of four sites each; those of `web-1` fail from second 20 to 40 of the given length.
pub(super) fn stream(seconds: i64) -> String {
    let mut text = String::from(r#"{"type":"header","version":1,"label_names":["rack"]}"#);
    text.push('\n');
    for server in ["web-1", "web-2"] {
        let line = format!(
            r#"{{"type":"server","server":"{server}","labels":{{"rack":"r1"}},"n_cpu":4}}"#
        );
        writeln!(text, "{line}").unwrap();
        for site in 0..4 {
            let past = r#"{"days":28,"n_requests":500000,"n_gateway_errors":2}"#;
            writeln!(
                text,
                r#"{{"type":"site","server":"{server}","site":"s{site}.example","pool":"www","baseline":{past}}}"#
            )
            .unwrap();
        }
    }
    for second in 0..seconds {
        let (at, arrived) = (NOON + second * 1000, NOON + second * 1000 + 1200);
        for server in ["web-1", "web-2"] {
            for site in 0..4 {
                let fails = server == "web-1" && (20..40).contains(&second);
                let common = format!(
                    r#""at":{at},"arrived_at":{arrived},"server":"{server}","site":"s{site}.example""#
                );
                let n_502 = if fails { 3 } else { 0 };
                writeln!(text, r#"{{"type":"requests",{common},"n":3,"n_502":{n_502}}}"#).unwrap();
                for n in 0..n_502 {
                    let client = second * 100 + site * 10 + n + 1;
                    writeln!(
                        text,
                        r#"{{"type":"exemplar",{common},"status":502,"client":{client},"message":"{REFUSED}"}}"#
                    )
                    .unwrap();
                }
            }
            writeln!(
                text,
                r#"{{"type":"heartbeat","at":{},"arrived_at":{arrived},"clock":{arrived},"server":"{server}"}}"#,
                at + 1000
            )
            .unwrap();
        }
    }
    text
}

/// Output and talk of a replay of these inputs.
pub(super) fn replay(inputs: &[&[u8]], options: Options) -> (String, String, Outcome) {
    let (mut out, mut talk) = (Vec::new(), Vec::new());
    let mut replay = Replay::new(&DetectConfig::default(), options, &mut out, &mut talk);
    for bytes in inputs {
        let lines = input::unpacked(Box::new(Cursor::new(bytes.to_vec()))).unwrap();
        replay.read("stream", lines).unwrap();
    }
    let outcome = replay.end().unwrap();
    (String::from_utf8(out).unwrap(), String::from_utf8(talk).unwrap(), outcome)
}

pub(super) fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn events(out: &str) -> Vec<String> {
    lines(out).iter().map(|line| line["event"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_outage_is_opened_and_resolved_on_the_clock_of_the_stream() {
    let (out, talk, outcome) = replay(&[stream(90).as_bytes()], Options::default());
    let told = lines(&out);
    let events = events(&out);
    assert_eq!(events.first().map(String::as_str), Some("open"), "{out}");
    assert_eq!(events.last().map(String::as_str), Some("resolve"), "{out}");
    assert_eq!(events.iter().filter(|event| *event == "open").count(), 1, "{events:?}");
    let keys: Vec<&String> = told[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["at", "event", "incident"]);
    let last = &told[told.len() - 1]["incident"];
    assert_eq!((&last["scope"], &last["where"]["members"][0]), (&"server".into(), &"web-1".into()));
    assert_eq!(last["started_at"], "2026-11-20T12:00:20.000Z");
    assert_eq!(last["cause"]["evidence"][0]["kind"], "log", "{last}");
    assert_eq!(last["affected"]["n_502"], 20 * 4 * 3);
    let opened_at = UnixMillis::parse_rfc3339(told[0]["at"].as_str().unwrap()).unwrap();
    assert!((21_000..26_000).contains(&(opened_at.0 - NOON)), "{opened_at}");
    assert_eq!(outcome.skipped, Skipped::default());
    assert_eq!(talk.lines().count(), 1, "{talk}");
    assert!(talk.contains("of 2 servers and 8 sites") && talk.contains("1 incidents"), "{talk}");
}

#[test]
fn the_same_stream_gives_the_same_bytes_however_it_is_cut() {
    let text = stream(90);
    let whole = replay(&[text.as_bytes()], Options::default()).0;
    assert!(!whole.is_empty());
    assert_eq!(replay(&[text.as_bytes()], Options::default()).0, whole);
    for share in [3, 7, 11] {
        // Between two lines, most often in the middle of what arrived at one instant.
        let at = text.len() / share;
        let at = at + text[at..].find('\n').unwrap() + 1;
        let (first, second) = text.as_bytes().split_at(at);
        assert_eq!(replay(&[first, second], Options::default()).0, whole);
    }
}

#[test]
fn the_final_state_alone_is_one_line_for_each_incident() {
    let options = Options { only_final: true, ..Options::default() };
    let (out, ..) = replay(&[stream(90).as_bytes()], options);
    let every = replay(&[stream(90).as_bytes()], Options::default()).0;
    assert_eq!(out.trim_end(), every.lines().last().unwrap());
}

#[test]
fn the_clock_stops_with_the_last_record_unless_it_is_told_to_run_on() {
    let text = stream(35);
    let (out, ..) = replay(&[text.as_bytes()], Options::default());
    let last = &lines(&out).pop().unwrap()["incident"];
    assert_eq!(last["state"], "open", "nothing says that it is over");
    // Its servers say nothing more: for a day that says nothing of their sites.
    for (until, state) in [
        (Until::After("1h".parse().unwrap()), "open"),
        (Until::At(UnixMillis(NOON + 90_000_000)), "resolved"),
    ] {
        let options = Options { until: Some(until), only_final: true, ..Options::default() };
        let (out, ..) = replay(&[text.as_bytes()], options);
        assert_eq!(lines(&out)[0]["incident"]["state"], state, "{until:?}");
    }
    let options = Options { until: Some(Until::At(UnixMillis(0))), ..Options::default() };
    assert_eq!(replay(&[text.as_bytes()], options).0, out, "the clock does not go back");
}

#[test]
fn a_broken_stream_is_told_line_by_line_and_the_rest_is_replayed() {
    let clean = replay(&[stream(90).as_bytes()], Options::default()).0;
    let mut text = String::new();
    for (n, line) in stream(90).lines().enumerate() {
        match n {
            30 => text.push_str("{\"type\":\"requests\",\"at\":17951760\n"),
            31 => text.push_str("\u{1b}[31mnonsense\n\n"),
            32 => text.push_str(
                "{\"type\":\"flow\",\"at\":1}\n{\"type\":\"hello\",\"server\":\"web-1\"}\n",
            ),
            _ => {}
        }
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(r#"{"type":"requests","at":179517"#);
    let (out, talk, outcome) = replay(&[text.as_bytes()], Options::default());
    assert_eq!(out, clean);
    assert_eq!((outcome.skipped.n_broken, outcome.skipped.types.n), (4, 1));
    for told in [
        "stream: line 31 is skipped: EOF while parsing an object",
        "stream: line 33 is skipped: expected value at column 1",
        "is skipped: it has no `at`",
        "is skipped: the stream stops in the middle of a record",
        "skipped: 4 broken lines",
        "skipped: 1 records of unknown types (flow 1)",
    ] {
        assert!(talk.contains(told), "{told:?} is not in {talk}");
    }
    assert!(!talk.contains('\u{1b}'), "{talk:?}");
}

#[test]
fn servers_and_sites_that_nobody_named_are_taken_and_told() {
    let text: String = stream(60)
        .lines()
        .filter(|line| !line.contains(r#""type":"server""#) && !line.contains(r#""type":"site""#))
        .fold(String::new(), |text, line| text + line + "\n");
    let (out, talk, outcome) = replay(&[text.as_bytes()], Options::default());
    assert_eq!(events(&out).first().map(String::as_str), Some("open"));
    assert_eq!((outcome.skipped.servers_unnamed.n, outcome.skipped.n_sites_unnamed), (2, 8));
    assert!(
        talk.contains("2 servers that no `server` record names") && talk.contains("web-1 1"),
        "{talk}"
    );
    assert!(talk.contains("8 sites that no `site` record names"), "{talk}");
}

#[test]
fn a_lying_server_costs_a_bound_of_memory_and_no_other_server_its_incident() {
    let mut text = stream(30);
    for n in 0..names::SITES_MAX + 500 {
        let at = NOON + 15_000;
        writeln!(
            text,
            r#"{{"type":"requests","at":{at},"arrived_at":{},"server":"liar","site":"x{n}.example","n":4000000000,"n_502":4000000000}}"#,
            at + 100
        )
        .unwrap();
    }
    let (out, talk, outcome) =
        replay(&[text.as_bytes(), stream(90).as_bytes()], Options::default());
    assert_eq!(outcome.skipped.n_sites_refused, 500);
    assert!(talk.contains("500 records of sites beyond 20,000 of a server"), "{talk}");
    assert!(talk.contains("records that arrived earlier"), "{talk}");
    let of_web_1 = |line: &Value| line["incident"]["where"]["server"] == "web-1";
    assert!(lines(&out).iter().any(of_web_1), "{out}");
}

#[test]
fn a_record_of_the_far_future_is_refused_and_counted() {
    let mut text = stream(10);
    let at = NOON + 86_400_000;
    writeln!(
        text,
        r#"{{"type":"requests","at":{at},"arrived_at":{},"server":"web-1","site":"s0.example","n":5}}"#,
        NOON + 12_000
    )
    .unwrap();
    let (_, talk, outcome) = replay(&[text.as_bytes()], Options::default());
    assert_eq!(outcome.skipped.n_misdated, 1);
    assert!(talk.contains("1 records dated more than 5 minutes after their arrival"), "{talk}");
}

#[test]
fn an_empty_stream_is_no_fault() {
    let (out, talk, outcome) = replay(&[b"", b"\n"], Options::default());
    assert_eq!((out.as_str(), outcome), ("", Outcome::default()));
    assert!(talk.contains("none with a time"), "{talk}");
}
