//! Reports from a real collector: by command, by API, by themselves over a real mail server, and what they
//! say to nonsense. That their figures are right is tested elsewhere.

use std::fs;
use std::time::Duration;

use harness::{Fleet, Mail, Output, Root, Smtp, eventually};
use serde_json::Value;

use crate::incident::break_server;

/// A mail server, a collector and a report come by turns on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// A report of what is stored, as JSON.
fn report(fleet: &Fleet, words: &[&str]) -> Value {
    let told = fleet.cli(words).good().expect("a report is made");
    serde_json::from_str(&told).expect("it is JSON")
}

#[test]
fn each_report_is_made_in_each_format_and_whole_files_have_its_name() {
    let root = Root::new();
    let mut fleet = Fleet::builder().agents(["web-1", "web-2"]).batch_interval("200ms").start();
    fleet.log("web-1").requests("a.example", 20, 200);
    drop(break_server(&mut fleet, "web-2"));
    for kind in ["capacity", "outage", "noise"] {
        let whole = report(&fleet, &["report", kind, "--format", "json", "--from", "2h"]);
        assert_eq!(whole["kind"], kind);
        for key in ["title", "scope", "from", "to", "made_at", "caveats", "findings", "tables"] {
            assert!(!whole[key].is_null(), "{kind}: {key} in {whole}");
        }
        let caveats = whole["caveats"].to_string();
        assert!(caveats.contains("The last hour is not over"), "{kind}: {caveats}");
        let text = fleet.cli(&["report", kind, "--from", "2h"]).good().expect("text");
        let title = whole["title"].as_str().expect("it has a title");
        assert!(text.contains(title), "{kind}: {text}");
        assert!(!text.contains('\u{1b}'), "no colours where no terminal is: {text}");
        for (ending, begin) in [("html", "<!doctype html>"), ("csv", "table,subject,figure,")] {
            let file = root.join(&format!("{kind}.{ending}"));
            let name = file.display().to_string();
            let done = fleet.cli(&["report", kind, "--from", "2h", "--out", &name]);
            done.good().expect("a file is written");
            let written = fs::read_to_string(&file).expect("it is there");
            assert!(written.starts_with(begin), "{kind}: {written:.200}");
        }
        let key = whole["tables"].as_object().and_then(|all| all.keys().next().cloned());
        let key = key.expect("it has a table");
        let wide = fleet.cli(&["report", kind, "--from", "2h", "--format", "csv", "--table", &key]);
        assert!(!wide.good().expect("one table").starts_with("table,subject"), "{kind} {key}");
    }
    let left: Vec<_> = fs::read_dir(root.join("")).expect("ours").flatten().collect();
    let is_temporary =
        |entry: &&fs::DirEntry| entry.file_name().to_string_lossy().ends_with(".new");
    assert_eq!(left.iter().filter(is_temporary).count(), 0, "no half file stays: {left:?}");
}

#[test]
fn nonsense_is_answered_with_what_is_wrong_what_to_do_and_the_code_of_its_kind() {
    let root = Root::new();
    let plans =
        root.write("plans.toml", "currency = \"EUR\"\n[[plan]]\nname = \"a\"\nprice = -1\n");
    let plans = plans.display().to_string();
    let fleet = Fleet::builder().agents(["web-1"]).start();
    let refused = |words: &[&str], code: i32, said: &str| {
        let words: Vec<&str> = ["report"].iter().chain(words).copied().collect();
        let Output { code: got, stdout, stderr } = fleet.cli(&words);
        assert_eq!((got, stdout.as_str()), (code, ""), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    };
    refused(&["weather"], 2, "possible values: capacity, outage, noise");
    refused(&["noise", "--from", "1h", "--to", "2h"], 2, "before it begins");
    refused(
        &["noise", "--from", "2099-01-01T00:00:00Z", "--to", "2099-01-02T00:00:00Z"],
        2,
        "yet to come",
    );
    refused(&["noise", "--server", "web-11"], 2, "did you mean \"web-1\"?");
    refused(&["noise", "--label", "custmer=acme"], 2, "no server has a label \"custmer\"");
    refused(&["noise", "--slo", "99.9"], 2, "slo: 99.9 is no objective");
    refused(&["noise", "--format", "csv", "--table", "nothing"], 2, "this report has ");
    refused(&["noise", "--out", "report.pdf"], 2, "add --format");
    refused(&["noise", "--out", "/nowhere/r.csv"], 2, "cannot be written");
    refused(&["capacity", "--plans", "/nowhere.toml"], 2, "cannot be read");
    refused(&["capacity", "--plans", &plans], 78, "plans.toml:");
}

#[test]
fn a_report_is_mailed_by_itself_with_all_of_it_in_files_also_when_the_collector_is_killed() {
    let root = Root::new();
    let smtp = Smtp::start();
    let password = root.secret("password", Smtp::PASSWORD);
    let route = crate::mail::route("mail", &smtp, &smtp.ca_file(), &password, "ops@example.com");
    // Due each minute of the next quarter of an hour, whatever a slow machine makes of it.
    let now = harness::now_s();
    let at: Vec<String> = (0..15).map(|n| minute_of(now + 60 * (n + 1))).collect();
    let schedule = format!(
        "[[report.schedule]]\nkind = \"noise\"\nname = \"acme\"\nroute = \"mail\"\n\
         to = [\"boss@acme.example\"]\nat = {at:?}\ntimezone = \"UTC\"\nperiod = \"2h\"\n"
    );
    let mut fleet = Fleet::builder().agents(["web-1"]).toml(&format!("{route}{schedule}")).start();
    let first = mails(&smtp, &fleet, 1).remove(0);
    assert!(first.header("subject").contains("the only server"), "{}", first.header("subject"));
    assert_eq!(
        first.parts(),
        [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "text/html",
            "text/html",
            "text/csv"
        ]
    );
    assert!(
        first.text().contains("All of it, with what each figure means: noise-"),
        "{}",
        first.text()
    );
    fleet.kill9_collector();
    fleet.start_collector();
    let all = mails(&smtp, &fleet, 2);
    let mut ids: Vec<&str> = all.iter().map(|mail| mail.header("message-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all.len(), "none comes twice");
    assert_eq!(
        smtp.mails("ops@example.com").len(),
        0,
        "the route's own receivers have nothing of it"
    );
    let told = fleet.cli(&["notify", "log", "--route", "mail"]).good().expect("the log");
    assert!(told.contains("report"), "{told}");
}

/// `12:34` of a second since 1970, UTC.
fn minute_of(second: i64) -> String {
    let s = second.rem_euclid(86_400);
    format!("{:02}:{:02}", s / 3600, s % 3600 / 60)
}

/// Waits for so many mails to whom the report goes.
fn mails(smtp: &Smtp, fleet: &Fleet, n: usize) -> Vec<Mail> {
    eventually("the report is mailed", LIMIT, || {
        let mails = smtp.mails("boss@acme.example");
        if mails.len() >= n {
            return Ok(mails);
        }
        Err(format!("{} mails\n{}\n{}", mails.len(), smtp.log_text(), fleet.collector_log()))
    })
}
