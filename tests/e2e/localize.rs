//! What failing requests have in common: of a file, and of what a fleet has sent.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use harness::{AgentSpec, Fleet, Output, Root, eventually, program};
use serde_json::{Value, json};

use crate::farm::LIMIT;

fn localize(words: &[&str]) -> Output {
    let mut command = Command::new(program("gatewatch-collector"));
    Output::of(command.arg("localize").args(words).stdin(Stdio::null()))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// Requests by ISP, path and PHP version: what runs 8.3 fails, and one path of one ISP besides.
fn counts() -> String {
    let mut text = String::from("\u{feff}isp;path;php;n;n_failed;baseline\r\n");
    for isp in ["north", "south", "west"] {
        for path in ["/shop/", "\"/a;b \"\"c\"\"\"", "/api/"] {
            for php in ["8.1", "8.2", "8.3"] {
                let n_failed = match (isp, path, php) {
                    (_, _, "8.3") => 420,
                    ("west", "/api/", _) => 300,
                    _ => 2,
                };
                write!(
                    text,
                    "{isp};{path};{php};2000;3;1\r\n{isp};{path};{php};1000;{n_failed};0\r\n"
                )
                .expect("a string grows");
            }
        }
    }
    text
}

#[test]
fn a_file_of_counts_is_answered_without_a_collector() {
    let root = Root::new();
    let file = root.write("counts.csv", &(counts() + "west;/api/;8.1;5;9;0\r\nbroken\r\n"));
    let file = file.display().to_string();
    let done = localize(&[&file]);
    assert_eq!(done.code, 0, "{done:?}");
    let found = lines(&done.stdout);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0]["where"], json!({"php": "8.3"}));
    assert_eq!((&found[0]["n"], &found[0]["n_failed"]), (&json!(9000), &json!(3780)));
    assert_eq!(found[1]["where"], json!({"isp": "west", "path": "/api/"}));
    for common in &found {
        let mut keys: Vec<&String> = common.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, ["explained", "n", "n_failed", "score", "where"]);
        assert!(common["explained"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)));
    }
    assert!(done.stderr.contains("line 56 is left out: n_failed 9 is more than n 5"), "{done:?}");
    assert!(done.stderr.contains("2 of 56 rows are left out"), "{done:?}");

    let again = localize(&["--by", "isp,path", &file]);
    assert!(!again.stdout.contains("php") && again.code == 0, "{again:?}");
    let nothing = root.write("quiet.csv", "isp,n,n_failed\nnorth,1000,1\nsouth,1000,1\n");
    let quiet = localize(&[&nothing.display().to_string()]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (1, ""), "{quiet:?}");
    assert!(quiet.stderr.contains("nothing stands out"), "{quiet:?}");
}

#[test]
fn what_cannot_be_read_is_refused_with_a_fix() {
    let root = Root::new();
    for (text, words, said) in [
        (Some(""), &[][..], "it is empty"),
        (Some("isp,n\nx,1\n"), &[], "it has no column `n_failed`"),
        (Some("n,n_failed\n1,0\n"), &[], "there is no dimension"),
        (Some("isp,n,n_failed\nx,1,0\n"), &["--by", "asn"], "it has no column \"asn\" to go by"),
        (None, &[], "it cannot be read"),
    ] {
        let path = root.path().join("refused.csv");
        match text {
            Some(text) => std::fs::write(&path, text).expect("the root is writable"),
            None => std::fs::remove_file(&path).expect("it is there"),
        }
        let path = path.display().to_string();
        let words: Vec<&str> = words.iter().copied().chain([path.as_str()]).collect();
        let done = localize(&words);
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{done:?}");
        assert!(done.stderr.contains(said) && done.stderr.contains("fix: "), "{done:?}");
    }
    let piped = localize(&["-"]);
    assert!(piped.code == 2 && piped.stderr.contains("-: it is empty"), "{piped:?}");
    let both = localize(&["--from", "1h", "x.csv"]);
    assert_eq!(both.code, 2, "{both:?}");
}

#[test]
fn a_fleet_is_asked_what_its_failing_requests_have_in_common() {
    let agent = |name: &str, rack: &str| AgentSpec::new(name).label("rack", rack);
    let servers = [("web-1", "r1"), ("web-2", "r1"), ("web-3", "r2"), ("web-4", "r2")];
    let mut builder = Fleet::builder().batch_interval("200ms");
    for (name, rack) in servers {
        builder = builder.agent(agent(name, rack));
    }
    let mut fleet = builder.start();
    for (name, rack) in servers {
        let log = fleet.log(name);
        for site in ["a.example", "b.example"] {
            // Half an hour ago all was well.
            log.shift_clock(-1800);
            log.requests(site, 200, 200);
            log.shift_clock(0);
            log.requests(site, 60, 200);
            log.requests(site, if rack == "r2" { 40 } else { 0 }, 502);
        }
    }
    let quiet = ["localize", "--from", "40m", "--to", "20m", "--by", "rack,server,site"];
    let words = ["localize", "--from", "10m", "--by", "rack,server,site"];
    let found = eventually("rack r2 is named with all its requests", LIMIT, || {
        let done = fleet.cli(&words);
        let found = lines(&done.stdout);
        // Until the other rack has sent as well, all that is there fails.
        let is_sent = fleet.cli(&quiet).stderr.contains("0 of 1600 requests failed");
        let is_whole = found.first().is_some_and(|first| first["n"] == 400) && is_sent;
        let is_whole = is_whole && found[0]["where"] == json!({"rack": "r2"});
        if is_whole { Ok(found) } else { Err(format!("{done:?}")) }
    });
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["where"], json!({"rack": "r2"}));
    assert_eq!(found[0]["n_failed"], 160);
    assert_eq!(found[0]["explained"].as_f64().map(f64::round), Some(1.0));

    let usual = fleet.cli(&["localize", "--from", "10m"]);
    assert_eq!(lines(&usual.stdout)[0]["where"], json!({"rack": "r2"}), "{usual:?}");
    let by_path = fleet.cli(&["localize", "--from", "10m", "--by", "site,signal,path"]);
    assert_eq!(by_path.code, 0, "{by_path:?}");
    let done = fleet.cli(&quiet);
    assert_eq!((done.code, done.stdout.as_str()), (1, ""), "{done:?}");
    assert!(done.stderr.contains("0 of 1600 requests failed"), "{done:?}");
    let unknown = fleet.cli(&["localize", "--by", "no-such-label"]);
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("no server has a label \"no-such-label\""), "{unknown:?}");
}
