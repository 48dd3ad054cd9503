//! Every figure of the reports, computed again from what was sent: exactly, without the store.
//!
//! The maker of the past (`examples/past`) fills a data directory by the way of real batches and writes down
//! each sample and count. A collector that starts on it makes the reports, through its own command; here
//! they are compared number by number, in JSON and in the other formats, before and after the last hours are
//! packed and a kill -9.

mod capacity;
mod table;
mod trouble;
mod truth;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use harness::{Fleet, Output, eventually, now_s, program};
use serde_json::Value;

use capacity::Look;
use trouble::Rows;
use truth::{HOUR, Truth};

const DAY: i64 = 86_400;
/// Days of the past, and those of which single samples are kept for certain.
const DAYS: i64 = 16;
const RAW_DAYS: i64 = 13;
const LIMIT: Duration = Duration::from_secs(120);
/// Nothing is packed while the first reports are made.
const PACK_LATER: &str = "[store]\nseal_interval = \"1h\"\n";
/// Whatever is complete.
const PACK_NOW: &str =
    "[store]\nseal_after = \"0s\"\nlate_after = \"0s\"\nseal_interval = \"1s\"\n";

fn rfc(second: i64) -> String {
    jiff::Timestamp::from_second(second).expect("this century").to_string()
}

/// A collector whose data directory has a past, and the truth of it.
fn with_past(end: i64) -> (Fleet, Truth) {
    let mut fleet = Fleet::builder().toml(PACK_LATER).start();
    fleet.stop_collector();
    let dir = fleet.data_dir();
    for name in ["gatewatch.db", "gatewatch.db-wal", "gatewatch.db-shm"] {
        fs::remove_file(dir.join(name)).ok();
    }
    let truth = dir.with_file_name("truth");
    let mut command = Command::new(program("examples/past"));
    command.arg(&dir).arg(format!("until={}", rfc(end))).arg(format!("days={DAYS}"));
    command.arg("step=600").arg(format!("truth={}", truth.display()));
    Output::of(&mut command).good().expect("the past is made");
    fleet.start_collector();
    (fleet, Truth::read(&truth))
}

/// A report in some format.
fn report(fleet: &Fleet, words: &[&str]) -> String {
    let mut all = vec!["report"];
    all.extend(words);
    fleet.cli(&all).good().unwrap_or_else(|why| panic!("{words:?}: {why}"))
}

fn json(fleet: &Fleet, words: &[&str]) -> Value {
    let mut all = words.to_vec();
    all.extend(["--format", "json"]);
    let text = report(fleet, &all);
    serde_json::from_str(&text).unwrap_or_else(|why| panic!("{words:?}: {why} in {text}"))
}

/// The labels of every server.
fn labels(fleet: &Fleet) -> BTreeMap<String, BTreeMap<String, String>> {
    let list = fleet.cli(&["agent", "list", "--json"]).good().expect("it runs");
    let rows = list.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    rows.map(|row| {
        let labels = row["labels"].as_object().expect("labels are an object").clone();
        let labels = labels.into_iter();
        let text = |(k, v): (String, Value)| (k, v.as_str().unwrap_or_default().to_owned());
        (row["server"].as_str().expect("a name").to_owned(), labels.map(text).collect())
    })
    .collect()
}

/// What does not change with the time at which it is made.
fn essence(mut report: Value) -> Value {
    report["made_at"] = Value::Null;
    report
}

#[test]
fn every_figure_of_a_capacity_report_is_what_the_samples_come_to() {
    let end = now_s().div_euclid(HOUR) * HOUR;
    let (mut fleet, truth) = with_past(end);
    let labels = labels(&fleet);
    let mut before = Vec::new();
    for days in [DAYS, RAW_DAYS, 2] {
        let hours = end - days * DAY..end;
        let span = [rfc(hours.start), rfc(hours.end)];
        let words = ["capacity", "--from", &span[0], "--to", &span[1]];
        let told = json(&fleet, &words);
        let is_raw = days <= RAW_DAYS;
        let look = Look { truth: &truth, hours, labels: &labels, is_raw };
        let n = capacity::check(&told, &look);
        assert!(n > 500, "{n} figures were compared");
        same_in_other_formats(&fleet, &words, &told);
        before.push((span, told));
    }
    pack(&mut fleet, end);
    for (span, told) in before {
        let again = json(&fleet, &["capacity", "--from", &span[0], "--to", &span[1]]);
        assert_eq!(essence(again)["tables"], essence(told)["tables"], "{span:?}");
    }
}

#[test]
fn every_figure_of_an_outage_and_a_noise_report_is_what_was_sent_and_decided() {
    let end = now_s().div_euclid(HOUR) * HOUR;
    let (mut fleet, truth) = with_past(end);
    let labels = labels(&fleet);
    let rows = Rows::read(&fleet.data_dir());
    let mut before = Vec::new();
    for days in [DAYS, RAW_DAYS, 3] {
        let hours = end - days * DAY..end;
        let span = [rfc(hours.start), rfc(hours.end)];
        let look = Look { truth: &truth, hours, labels: &labels, is_raw: days <= RAW_DAYS };
        let words = ["outage", "--from", &span[0], "--to", &span[1]];
        let told = json(&fleet, &words);
        let n = trouble::check_outage(&told, &rows, &look);
        assert!(n > 300, "{n} figures were compared");
        same_in_other_formats(&fleet, &words, &told);
        before.push((span.clone(), "outage", told));
        // What is kept whole leaves with the samples.
        if days <= RAW_DAYS {
            let words = ["noise", "--from", &span[0], "--to", &span[1]];
            let told = json(&fleet, &words);
            let n = trouble::check_noise(&told, &rows, &look);
            assert!(n > 100, "{n} figures were compared");
            same_in_other_formats(&fleet, &words, &told);
            before.push((span, "noise", told));
        }
    }
    pack(&mut fleet, end);
    for (span, kind, told) in before {
        let again = json(&fleet, &[kind, "--from", &span[0], "--to", &span[1]]);
        assert_eq!(essence(again)["tables"], essence(told)["tables"], "{kind} {span:?}");
    }
}

/// Lets the last hours be packed, over a kill -9.
fn pack(fleet: &mut Fleet, end: i64) {
    fleet.kill9_collector();
    let file = fleet.data_dir().parent().expect("it has one").join("collector.toml");
    let toml = fs::read_to_string(&file).expect("the harness wrote it");
    fs::write(&file, toml.replace(PACK_LATER, PACK_NOW)).expect("it is writable");
    fleet.start_collector();
    eventually("all hours are packed", LIMIT, || {
        let n = fleet.db().n_sealed(end - DAYS * DAY..end)?;
        if n == DAYS * 24 { Ok(()) } else { Err(format!("{n}")) }
    });
}

/// CSV has every number of the JSON as it is; the others have every row.
fn same_in_other_formats(fleet: &Fleet, words: &[&str], told: &Value) {
    let format = |format| {
        let mut all = words.to_vec();
        all.extend(["--format", format]);
        report(fleet, &all)
    };
    let (csv, html, text) = (format("csv"), format("html"), format("text"));
    let mut in_csv: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for line in csv.lines().skip(1) {
        let cells = csv_cells(line);
        assert_eq!(cells.len(), 6, "{line}");
        let of = (cells[0].clone(), cells[2].clone());
        in_csv.entry(of).or_default().push(cells[3].clone());
    }
    for (key, table) in table::tables(told) {
        for column in &table.columns {
            let unit = &told["definitions"][&key][column]["unit"];
            let numbers: Vec<f64> = table
                .rows
                .iter()
                .filter_map(|row| row[column].as_f64().or_else(|| row[column]["mid"].as_f64()))
                .collect();
            let Some(cells) = in_csv.get(&(key.clone(), column.clone())) else { continue };
            let cells: Vec<f64> = cells.iter().filter_map(|cell| cell.parse().ok()).collect();
            assert_eq!(cells, numbers, "{key}.{column} ({unit}) in CSV");
        }
        for row in &table.rows {
            let name = ["server", "site"].iter().find_map(|key| row[*key].as_str());
            let Some(name) = name else { continue };
            assert!(html.contains(name), "HTML has no {name} of {key}");
            assert!(text.contains(name), "the text has no {name} of {key}");
        }
    }
    assert!(
        html.starts_with("<!doctype html>") || html.starts_with("<!DOCTYPE html>"),
        "{html:.99}"
    );
    assert!(
        !html.contains("http://") || !html.contains("<script"),
        "it is one file without scripts"
    );
}

/// The cells of a line of CSV.
fn csv_cells(line: &str) -> Vec<String> {
    let (mut cells, mut is_quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => cells.push(String::new()),
            c => cells.last_mut().expect("there is one").push(c),
        }
    }
    cells
}
