//! Streams whose time is odd: lines that lie, gaps, streams that were cut off.

use super::tests::{NOON, events, lines, replay, stream};
use super::*;

const HOUR_MS: i64 = 3_600_000;
const FAR: &str = r#"{"type":"requests","at":253402300000000,"server":"web-2","site":"s0.example","n":1,"n_502":1}"#;

/// The stream of an outage as somebody writes it who does not know when records arrived, moved by
/// some time; its lines.
fn undated(seconds: i64, later_ms: i64) -> Vec<String> {
    let undate = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        fields.remove("arrived_at");
        fields.remove("clock");
        let early = if fields["type"] == "heartbeat" { 1000 } else { 0 };
        if let Some(at) = fields.get_mut("at") {
            *at = (at.as_i64().unwrap() - early + later_ms).into();
        }
        line.to_string()
    };
    stream(seconds).lines().map(undate).collect()
}

fn played(lines: &[String]) -> (String, String, Outcome) {
    replay(&[(lines.join("\n") + "\n").as_bytes()], Options::default())
}

/// Position of the first line that has a time.
fn first_timed(lines: &[String]) -> usize {
    lines.iter().position(|line| line.contains(r#""at":"#)).unwrap()
}

#[test]
fn one_lying_line_does_not_end_the_time_of_every_server() {
    let clean = undated(90, 0);
    let (want, talk, outcome) = played(&clean);
    assert_eq!(events(&want).last().map(String::as_str), Some("resolve"), "{want}");
    assert_eq!(outcome.skipped, Skipped::default(), "{talk}");
    for place in [first_timed(&clean), 60, 300, clean.len() - 1, clean.len()] {
        let mut text = clean.clone();
        text.insert(place, FAR.to_owned());
        let (out, talk, outcome) = played(&text);
        assert_eq!(out, want, "at line {place}: {talk}");
        assert_eq!(outcome.skipped.n_ahead, 1, "at line {place}: {talk}");
        assert!(talk.contains("1 records more than 10 minutes ahead of the stream"), "{talk}");
    }
}

#[test]
fn a_server_that_is_a_year_ahead_all_the_time_does_not_move_the_clock() {
    let mut text = Vec::new();
    for line in undated(90, 0) {
        let is_beat = line.contains("heartbeat") && line.contains("web-2");
        text.push(line);
        if is_beat {
            let at = NOON + 365 * 24 * HOUR_MS;
            text.push(format!(r#"{{"type":"heartbeat","at":{at},"server":"liar"}}"#));
        }
    }
    let (out, talk, outcome) = played(&text);
    assert_eq!(outcome.skipped.n_ahead, 90, "{talk}");
    assert!(talk.contains("to 2026-11-20T12:01:29.000Z"), "{talk}");
    let last = lines(&out).pop().unwrap();
    assert_eq!(
        (&last["event"], &last["incident"]["where"]["server"]),
        (&"resolve".into(), &"web-1".into())
    );
}

#[test]
fn a_gap_of_hours_is_passed_by_a_stream_that_goes_on_behind_it() {
    let (first, second) = (undated(60, 0), undated(90, 3 * HOUR_MS));
    let start = first_timed(&second);
    let is_of_one = |line: &&String| !line.contains("web-2");
    // The fleet; one server alone; a fleet of which one server is left.
    for (first, second) in [
        (first.clone(), second[start..].to_vec()),
        (
            first.iter().filter(is_of_one).cloned().collect(),
            second[start..].iter().filter(is_of_one).cloned().collect(),
        ),
        (first.clone(), second[start..].iter().filter(is_of_one).cloned().collect()),
    ] {
        let whole = [first.clone(), second.clone()].concat();
        let (out, talk, outcome) = played(&whole);
        assert_eq!((outcome.skipped.n_ahead, outcome.skipped.n_out_of_order), (0, 0), "{talk}");
        assert!(talk.contains("to 2026-11-20T15:01:29.000Z"), "{talk}");
        let later = |line: &serde_json::Value| {
            line["incident"]["where"]["server"] == "web-1"
                && line["incident"]["kind"] == "gateway_errors"
                && line["at"].as_str().unwrap() > "2026-11-20T15:00:20"
        };
        assert!(lines(&out).iter().any(later), "{out}");
        let parts = [first.join("\n") + "\n", second.join("\n") + "\n"];
        let (in_two, ..) = replay(&[parts[0].as_bytes(), parts[1].as_bytes()], Options::default());
        assert_eq!(in_two, out, "two files are one stream");
    }
}

#[test]
fn records_from_before_the_year_2000_are_nonsense_and_counted() {
    let clean = undated(60, 0);
    let (want, ..) = played(&clean);
    for place in [first_timed(&clean), 300] {
        let mut text = clean.clone();
        text.insert(place, r#"{"type":"heartbeat","at":1000,"server":"web-1"}"#.to_owned());
        let (out, talk, outcome) = played(&text);
        assert_eq!((out, outcome.skipped.n_ancient), (want.clone(), 1), "{talk}");
        assert!(talk.contains("1 records from before the year 2000"), "{talk}");
    }
}

#[test]
fn an_export_that_was_cut_off_is_told_and_one_with_its_end_is_not() {
    let promised = stream(30).replacen(r#""version":1"#, r#""version":1,"ends":true"#, 1);
    let whole = format!("{promised}{}\n", r#"{"type":"end"}"#);
    let (want, talk, outcome) = replay(&[whole.as_bytes()], Options::default());
    assert_eq!((outcome.n_cut, outcome.skipped), (0, Skipped::default()), "{talk}");
    // In two files it is whole as well.
    let (first, second) = whole.split_at(promised.len());
    let split = replay(&[first.as_bytes(), second.as_bytes()], Options::default());
    assert_eq!((&split.0, split.2.n_cut), (&want, 0));
    for inputs in [vec![promised.as_bytes()], vec![promised.as_bytes(), whole.as_bytes()]] {
        let (_, talk, outcome) = replay(&inputs, Options::default());
        assert_eq!((outcome.n_cut, outcome.is_unreadable), (1, false), "{talk}");
        assert!(talk.contains("stream: the stream was cut off: it lacks the `end`"), "{talk}");
    }
}

#[test]
fn a_stream_cut_in_the_middle_of_its_packing_is_replayed_so_far_and_told() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(stream(90).as_bytes()).unwrap();
    let mut packed = packer.finish().unwrap();
    packed.truncate(packed.len() - 9);
    let (out, talk, outcome) = replay(&[&packed], Options::default());
    assert!(outcome.is_unreadable && outcome.n_records > 0, "{outcome:?}");
    assert_eq!(events(&out).first().map(String::as_str), Some("open"));
    assert!(talk.contains("stops in the middle of its packing"), "{talk}");
}
