//! Every figure of the reports, computed again from what was sent: exactly, without the store.
//!
//! The maker of the past (`examples/past`) fills a data directory by the way of real batches and writes down
//! each sample and count. A collector that starts on it makes the reports, through its own command; here
//! they are compared number by number, in JSON and in the other formats, before and after the last hours are
//! packed and a kill -9.
//!
//! Not recomputed: of capacity forecasts by the hour where MSTL has a part in them (only that they are possible,
//! and no worse on the past than simple ones), and of advice how sure it is and its sentences; of noise a
//! time whose samples have left. A report that is made in the moment in which a day of samples leaves is
//! not looked at.

mod ahead;
mod capacity;
mod errors;
mod formats;
mod plans;
mod pools;
mod rows;
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
use rows::Rows;
use table::{Table, Wrong};
use truth::{HOUR, Truth};

const DAY: i64 = 86_400;
/// Days of the past, those for which single samples are kept, and those of which they are for certain.
const DAYS: i64 = 23;
const KEPT_DAYS: i64 = 6;
const RAW_DAYS: i64 = 5;
const LIMIT: Duration = Duration::from_secs(120);
/// Longer than the past was kept: no samples leave while a report is made.
const KEPT: &str = "[retention]\nraw = \"9d\"\n";
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
    let mut fleet = Fleet::builder().toml(KEPT).toml(PACK_LATER).start();
    fleet.stop_collector();
    let dir = fleet.data_dir();
    for name in ["gatewatch.db", "gatewatch.db-wal", "gatewatch.db-shm"] {
        fs::remove_file(dir.join(name)).ok();
    }
    let truth = dir.with_file_name("truth");
    let mut command = Command::new(program("examples/past"));
    command.arg(&dir).arg(format!("until={}", rfc(end))).arg(format!("days={DAYS}"));
    command
        .arg("step=600")
        .arg(format!("raw={KEPT_DAYS}"))
        .arg(format!("truth={}", truth.display()));
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

/// What was compared is not too little.
fn enough(n: usize, least: usize) -> usize {
    assert!(n > least, "only {n}");
    n
}

/// Two reports about the same time say the same, whenever they are made.
fn same_tables(again: &Value, told: &Value) -> usize {
    let (again, told) = (table::tables(again), table::tables(told));
    let keys = |all: &[(String, Table)]| all.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&again), keys(&told));
    let mut wrong = Vec::new();
    for ((key, again), (_, told)) in again.iter().zip(&told) {
        assert_eq!(again.rows.len(), told.rows.len(), "rows of {key}");
        for (again, told) in again.rows.iter().zip(&told.rows) {
            for column in told.as_object().expect("an object").keys() {
                if again[column] != told[column] {
                    wrong.push(format!("{key}.{column} is {}: was {told}", again[column]));
                }
            }
        }
    }
    let n = wrong.len();
    wrong.truncate(20);
    assert!(n == 0, "{n} changed:\n{}", wrong.join("\n"));
    told.len()
}

/// Compares the reports about the last `days`; returns what is told of each kind.
fn check(
    (fleet, truth, rows): (&Fleet, &Truth, &Rows),
    (end, days): (i64, i64),
    wrong: &mut Wrong,
) -> Vec<(&'static str, [String; 2], Value)> {
    let hours = end - days * DAY..end;
    let span = [rfc(hours.start), rfc(hours.end)];
    let labels = labels(fleet);
    let look = Look { truth, hours, labels: &labels, is_raw: days <= RAW_DAYS, end, rows };
    let catalogue = fleet.data_dir().with_file_name("plans.toml");
    fs::write(&catalogue, plans::catalogue()).expect("it is writable");
    let catalogue = catalogue.display().to_string();
    let mut all = Vec::new();
    for (kind, least) in [("capacity", 500), ("outage", 300), ("noise", 100)] {
        // What is kept whole leaves with the samples.
        if kind == "noise" && !look.is_raw {
            continue;
        }
        let mut words = vec![kind, "--from", &span[0], "--to", &span[1]];
        if kind == "capacity" {
            words.extend(["--plans", &catalogue]);
        }
        let told = json(fleet, &words);
        let n = match kind {
            "capacity" => capacity::check(&told, &look, wrong),
            "outage" => trouble::check_outage(&told, rows, &look, wrong),
            _ => trouble::check_noise(&told, rows, &look, wrong),
        };
        let at = format!("{kind} of {days} days");
        wrong.look(&at, || enough(n, least));
        let n_numbers = wrong.look(&at, || same_in_other_formats(fleet, &words, &told));
        wrong.look(&at, || enough(n_numbers, least / 2));
        eprintln!("{at}: {n} figures compared, {n_numbers} numbers in four formats");
        all.push((kind, span.clone(), told));
    }
    all
}

#[test]
fn every_figure_of_reports_is_what_the_samples_come_to_and_what_was_decided() {
    let end = now_s().div_euclid(HOUR) * HOUR;
    let (mut fleet, truth) = with_past(end);
    let rows = Rows::read(&fleet.data_dir());
    let (mut before, mut wrong) = (Vec::new(), Wrong::default());
    for days in [DAYS, RAW_DAYS, 2] {
        before.extend(check((&fleet, &truth, &rows), (end, days), &mut wrong));
    }
    pack(&mut fleet, end);
    for (kind, span, told) in before {
        let mut words = vec![kind, "--from", &span[0], "--to", &span[1]];
        let catalogue = fleet.data_dir().with_file_name("plans.toml").display().to_string();
        if kind == "capacity" {
            words.extend(["--plans", &catalogue]);
        }
        let again = json(&fleet, &words);
        let at = format!("{kind} since {} once packed", span[0]);
        wrong.look(&at, || same_tables(&again, &told));
    }
    wrong.none();
}

/// Lets the last hours be packed, over a kill -9.
fn pack(fleet: &mut Fleet, end: i64) {
    fleet.kill9_collector();
    let file = fleet.data_dir().parent().expect("it has one").join("collector.toml");
    let toml = fs::read_to_string(&file).expect("the harness wrote it");
    fs::write(&file, toml.replace(PACK_LATER, PACK_NOW)).expect("it is writable");
    fleet.start_collector();
    // Older ones have left.
    eventually("all hours are packed", LIMIT, || {
        let n = fleet.db().n_sealed(end - RAW_DAYS * DAY..end)?;
        if n == RAW_DAYS * 24 { Ok(()) } else { Err(format!("{n}")) }
    });
}

/// All formats have the numbers of all tables, and the page is whole by itself.
fn same_in_other_formats(fleet: &Fleet, words: &[&str], told: &Value) -> usize {
    let [csv, html, text] = ["csv", "html", "text"].map(|format| {
        let mut all = words.to_vec();
        all.extend(["--format", format]);
        report(fleet, &all)
    });
    assert!(
        html.starts_with("<!doctype html>") || html.starts_with("<!DOCTYPE html>"),
        "{html:.99}"
    );
    assert!(
        !html.contains("http://") || !html.contains("<script"),
        "it is one file without scripts"
    );
    formats::same(told, [&csv, &html, &text])
}
