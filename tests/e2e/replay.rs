//! `gatewatch-collector replay`: recorded streams in every packing, options, faults, exit codes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use harness::{Fleet, Output, Root, program};
use serde_json::Value;

use crate::incident::{break_server, mend_server};

const NOON: i64 = 1_795_176_000_000;

fn replay(words: &[&str]) -> Output {
    Output::of(Command::new(program("gatewatch-collector")).arg("replay").args(words))
}

/// One server whose four sites lose their pool for 20 s, as somebody may write it by hand.
fn stream() -> String {
    let mut text = String::from(
        "{\"type\":\"header\",\"version\":1,\"label_names\":[]}\n\
         {\"type\":\"server\",\"server\":\"web-07\",\"labels\":{},\"n_cpu\":4,\"heartbeat_ms\":5000}\n",
    );
    for site in 0..4 {
        let line = format!(
            r#"{{"type":"site","server":"web-07","site":"shop{site}.example","pool":"www","upstream":null}}"#
        );
        writeln!(text, "{line}").expect("a string can be written to");
    }
    for second in 0..90 {
        let at = NOON + second * 1000;
        let n_502 = if (20..40).contains(&second) { 4 } else { 0 };
        for site in 0..4 {
            let common = format!(r#""at":{at},"server":"web-07","site":"shop{site}.example""#);
            for n in 0..n_502 {
                let client = second * 100 + site * 10 + n + 1;
                let message = "connect() to unix:/run/php/www.sock failed (111: Connection refused) while connecting to upstream";
                writeln!(
                    text,
                    r#"{{"type":"exemplar",{common},"pool":"www","status":502,"client":"{client:016x}","path":1,"message":"{message}"}}"#
                )
                .expect("a string can be written to");
            }
            writeln!(text, r#"{{"type":"requests",{common},"n":4,"n_502":{n_502}}}"#)
                .expect("a string can be written to");
        }
        writeln!(text, r#"{{"type":"heartbeat","at":{at},"server":"web-07"}}"#)
            .expect("a string can be written to");
    }
    text
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn a_recorded_outage_is_told_the_same_in_every_packing() {
    let root = Root::new();
    let text = stream();
    let plain = root.write("stream.jsonl", &text);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text.as_bytes()).expect("memory can be written to");
    let gzip = root.path().join("packed-without-ending");
    fs::write(&gzip, packer.finish().expect("memory can be written to")).expect("it is writable");
    let zst = root.path().join("stream.zst");
    fs::write(&zst, zstd::bulk::compress(text.as_bytes(), 3).expect("it packs")).expect("writable");

    let plain = plain.to_str().expect("a path of ASCII");
    let out = replay(&[plain]).good().expect("it replays");
    let told = lines(&out);
    let events: Vec<_> = told.iter().filter_map(|line| line["event"].as_str()).collect();
    assert_eq!((events.first(), events.last()), (Some(&"open"), Some(&"resolve")), "{events:?}");
    let last = &told[told.len() - 1]["incident"];
    assert_eq!(last["scope"], "server", "{last}");
    assert_eq!(last["where"]["members"], serde_json::json!(["web-07"]));
    assert_eq!(last["affected"]["n_gateway_errors"], 20 * 4 * 4);
    assert_eq!(last["started_at"], "2026-11-20T12:00:20.000Z");

    for path in [&gzip, &zst] {
        let path = path.to_str().expect("a path of ASCII");
        assert_eq!(replay(&[path]).good().expect("it replays"), out, "{path}");
    }
    let mut piped = Command::new(program("gatewatch-collector"))
        .args(["replay", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = piped.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let piped = piped.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), out);
    let (first, second) = text.split_at(text.len() / 2);
    let (cut, rest) = first.rsplit_once('\n').expect("it has lines");
    let parts = [root.write("1", &format!("{cut}\n")), root.write("2", &format!("{rest}{second}"))];
    let parts = parts.map(|path| path.display().to_string());
    assert_eq!(replay(&[&parts[0], &parts[1]]).good().expect("it replays"), out);

    let last_line = out.lines().last().expect("it has lines");
    assert_eq!(replay(&["--final", plain]).good().expect("it replays").trim_end(), last_line);
}

#[test]
fn what_was_told_live_is_told_again_by_a_replay_of_the_export() {
    let mut fleet = Fleet::builder().agents(["web-1"]).batch_interval("200ms").start();
    let open = break_server(&mut fleet, "web-1");
    let over = mend_server(&mut fleet, "web-1", open.id());
    let ids = |incidents: &[harness::Incident]| {
        incidents.iter().map(|i| i.id().to_owned()).collect::<BTreeSet<_>>()
    };
    let live = ids(&fleet.incidents().expect("the collector runs"));
    assert!(live.contains(over.id()));
    let root = Root::new();
    for (more, is_packed) in [("", false), ("Accept-Encoding: gzip\r\n", true)] {
        let (headers, body) = fleet.http_get("/api/v1/export", more);
        assert!(headers.starts_with("HTTP/1.0 200"), "{headers}");
        assert!(headers.contains("application/x-ndjson"), "{headers}");
        assert_eq!(body.starts_with(&[0x1f, 0x8b]), is_packed, "{headers}");
        let file = root.path().join("export");
        fs::write(&file, body).expect("it is writable");
        let file = file.to_str().expect("a path of ASCII");
        let out = replay(&["--final", file]);
        assert!(!out.stderr.contains("skipped") && !out.stderr.contains("taken"), "{out:?}");
        let told = lines(&out.good().expect("it replays"));
        let told: Vec<_> =
            told.iter().map(|line| harness::Incident::from_json(&line["incident"])).collect();
        assert!(ids(&told).is_superset(&live), "{told:#?}");
        let again = told.iter().find(|i| i.id() == over.id()).expect("it is there");
        for pointer in ["/scope", "/started_at", "/where/server", "/cause/class"] {
            assert_eq!(again.text(pointer), over.text(pointer), "{pointer}");
        }
    }
    let (refused, body) = fleet.http_get("/api/v1/export?from=noon", "");
    assert!(refused.starts_with("HTTP/1.0 400"), "{refused}");
    assert!(String::from_utf8_lossy(&body).contains("write it like 2026-11-20T12:00:00Z"));
}

#[test]
fn an_explained_replay_shows_what_each_decision_rests_on() {
    let root = Root::new();
    let stream = root.write("stream.jsonl", &stream()).display().to_string();
    let plain = lines(&replay(&[&stream]).good().expect("it replays"));
    let out = replay(&["--explain", &stream]).good().expect("it replays");
    let told: Vec<Value> = lines(&out).into_iter().filter(|l| l["event"] != "left").collect();
    assert_eq!(told.len(), plain.len(), "what is told does not depend on who asks why");
    for (told, plain) in told.iter().zip(&plain) {
        assert_eq!(told["incident"], plain["incident"]);
    }
    let sites = told[0]["trail"]["sites"].as_array().expect("sites of the opening");
    assert!(!sites.is_empty(), "{}", told[0]);
    for site in sites {
        assert_eq!(site["server"], "web-07");
        let number = |key: &str| site[key].as_f64().unwrap_or_else(|| panic!("no {key}: {site}"));
        assert!(number("score") > 10.0 && number("gain") > 5.0 && number("p_normal") < 0.01);
        assert!(number("n_failed") >= 3.0 && number("loss") > 0.0, "{site}");
        assert_eq!(site["first_at"], "2026-11-20T12:00:20.000Z");
    }
    let evidence = told[told.len() - 1]["incident"]["cause"]["evidence"].as_array();
    assert!(evidence.expect("a list").iter().all(|row| row["weight"].is_number()));
}

#[test]
fn settings_are_tried_on_recorded_data() {
    let root = Root::new();
    let stream = root.write("stream.jsonl", &stream()).display().to_string();
    let config = root.write("collector.toml", "[detect]\nserver_nats = 90.0\npool_nats = 90.0\n");
    let config = config.display().to_string();
    let out = replay(&["--config", &config, "--final", &stream]).good().expect("it replays");
    let scopes: Vec<_> = lines(&out).iter().map(|line| line["incident"]["scope"].clone()).collect();
    assert_eq!(scopes, ["site"; 4], "without wider scopes each site tells its own");
    let wrong = root.write("wrong.toml", "[detect]\nopen_nets = 1\n").display().to_string();
    let refused = replay(&["--config", &wrong, &stream]);
    assert_eq!((refused.code, refused.stdout.as_str()), (78, ""), "{refused:?}");
    assert!(refused.stderr.contains("open_nets"), "{refused:?}");
}

#[test]
fn what_is_wrong_with_a_stream_is_told_and_the_rest_replayed() {
    let root = Root::new();
    let clean = root.write("clean.jsonl", &stream()).display().to_string();
    let clean = replay(&[&clean]).good().expect("it replays");
    let mut text = stream().replacen('\n', "\n{\"type\":\"moon\",\"phase\":1}\n{\"type\":\n", 1);
    text = text.replacen("\"n\":4", "\"n\":4,\"colour\":\"red\"", 1);
    text.push_str("{\"type\":\"requests\",\"at\":17951");
    let path = root.write("odd.jsonl", &text).display().to_string();
    let out = replay(&[&path]);
    assert_eq!((out.code, &out.stdout), (0, &clean), "{out:?}");
    for told in [
        "odd.jsonl: line 3 is skipped: ",
        "the stream stops in the middle of a record",
        "1 records of unknown types (moon 1)",
        "1 unknown fields (colour 1)",
        "2 broken lines",
    ] {
        assert!(out.stderr.contains(told), "{told:?} is not in {}", out.stderr);
    }

    let nothing = root.write("sites.csv", "time,site\n1,2\n").display().to_string();
    let missing = root.path().join("missing").display().to_string();
    let directory = root.path().display().to_string();
    for (words, code, told) in [
        (vec![nothing.as_str()], 2, "no line is a record"),
        (vec![path.as_str(), missing.as_str()], 2, "there is no such file"),
        (vec![directory.as_str()], 2, "it is a directory"),
        (vec![], 2, "FILE"),
        (vec!["--until", "soon", path.as_str()], 2, "neither a time"),
    ] {
        let out = replay(&words);
        assert_eq!((out.code, out.stdout.as_str()), (code, ""), "{words:?}: {out:?}");
        assert!(out.stderr.contains(told), "{words:?}: {}", out.stderr);
    }
}
