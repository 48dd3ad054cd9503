//! Rows A1 to A4: `scan` against what counts lines, finds a status, or counts by status.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Bench;
use crate::generate::{self, Style};
use crate::measure::{Contestant, ROUNDS_SLOW, output, race, race_for, warm};
use crate::table::{Row, Target, number};

/// Sites of row A1, a file each.
const N_SITES: u64 = 50;
/// Files that the slow references read.
const N_FILES_MTAIL: usize = 3;
/// Lines of row A3.
const N_LINES: usize = 50_000;
/// Hosts of the hostile log of row A4, each seen once.
const N_HOSTS: u32 = 100_000;

/// Counts by file and status, as `scan` does by site.
pub(crate) const MTAIL_PROGRAM: &str = r#"counter requests by vhost, status
/^\S+ \S+ \S+ \[[^\]]*\] "[^"]*" (?P<status>\d{3}) / {
  requests[getfilename()][$status]++
}
"#;

/// Bytes per second, readable.
fn speed(bytes_per_s: f64) -> String {
    if bytes_per_s >= 1e9 {
        number(bytes_per_s / 1e9, "GB/s")
    } else {
        number(bytes_per_s / 1e6, "MB/s")
    }
}

/// Speeds of ours and of a reference as a row.
fn row(
    id: &'static str,
    what: &str,
    reference: &str,
    least: f64,
    raced: Result<(f64, f64), String>,
) -> Row {
    match raced {
        Err(why) => Row::missing(id, what, reference, &why),
        Ok((ours, theirs)) => Row {
            id,
            what: what.to_owned(),
            reference: reference.to_owned(),
            ours: speed(ours),
            theirs: speed(theirs),
            figure: Ok((ours / theirs, "x")),
            target: Target::AtLeast(least),
        },
    }
}

/// Ours and every reference in turns; a reference that fails spoils only its own row.
fn compare(
    id: &'static str,
    what: &str,
    ours: &Contestant,
    references: &[(&str, Contestant, f64)],
) -> Vec<Row> {
    let all: Vec<&Contestant> =
        std::iter::once(ours).chain(references.iter().map(|(_, c, _)| c)).collect();
    let together = race(&all);
    let one = |ix: usize, contestant: &Contestant| match &together {
        Ok(speeds) => Ok((speeds[0], speeds[ix + 1])),
        Err(_) => race(&[ours, contestant]).map(|speeds| (speeds[0], speeds[1])),
    };
    let rows = references.iter().enumerate();
    rows.map(|(ix, (name, contestant, least))| row(id, what, name, *least, one(ix, contestant)))
        .collect()
}

/// A1: one file a site, nginx `combined`.
pub(crate) fn a1(bench: &Bench) -> Result<Vec<Row>, String> {
    let what = "scan, combined, a file a site";
    let n_bytes = bench.mib * (1 << 20) / N_SITES;
    let make = |seed| generate::file(&bench.dir, Style::Combined, 1, seed, n_bytes);
    let files = (0..N_SITES).map(make).collect::<Result<Vec<_>, _>>();
    let files = files.map_err(|error| error.to_string())?;
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let n_bytes = warm(&files).map_err(|error| error.to_string())?;
    let ours = Contestant::new(&[&bench.agent, "scan", "--json"], &files, n_bytes);
    let references = [
        ("wc -l", Contestant::new(&["wc", "-l"], &files, n_bytes), 0.50),
        ("rg -c ' 502 '", Contestant::new(&["rg", "-j1", "-c", " 502 "], &files, n_bytes), 0.45),
    ];
    let mut rows = compare("A1", what, &ours, &references);
    rows.push(row("A1", what, "mtail", 60.0, mtail(bench, &ours, &files)));
    rows.push(row("A1", what, "goaccess", 300.0, goaccess(bench, &ours, files[0])));
    Ok(rows)
}

/// The same counts by status, then both in turns.
fn mtail(bench: &Bench, ours: &Contestant, files: &[&Path]) -> Result<(f64, f64), String> {
    let files = &files[..N_FILES_MTAIL];
    let n_bytes = warm(files).map_err(|error| error.to_string())?;
    let words = mtail_words(bench, files)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let scanned = counts_of_scan(&[&bench.agent, "scan", "--json"], files)?;
    let counted = counts_of_mtail(&output(&words)?.0)?;
    if scanned != counted {
        return Err(format!("the counts differ: {scanned:?} and mtail's {counted:?}"));
    }
    let theirs = Contestant::new(&words, &[], n_bytes);
    let speeds = race_for(&[ours, &theirs], ROUNDS_SLOW)?;
    Ok((speeds[0], speeds[1]))
}

fn mtail_words(bench: &Bench, files: &[&Path]) -> Result<Vec<String>, String> {
    let program = bench.dir.join("requests.mtail");
    fs::write(&program, MTAIL_PROGRAM).map_err(|error| error.to_string())?;
    let logs = files.iter().map(|file| format!("--logs={}", file.display()));
    let words = ["mtail".to_owned(), "--one_shot".to_owned()].into_iter();
    let quiet = ["--logtostderr".to_owned(), "--stderrthreshold=3".to_owned()];
    let words = words.chain(quiet).chain([format!("--progs={}", program.display())]);
    Ok(words.chain(logs).collect())
}

/// Requests, and those with 499, 502 and 504: what both tell.
type Counts = BTreeMap<&'static str, u64>;

fn counts_of_scan(words: &[&str], files: &[&Path]) -> Result<Counts, String> {
    let paths: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let words = words.iter().copied();
    let words: Vec<&str> = words.chain(paths.iter().map(String::as_str)).collect();
    let (text, _) = output(&words)?;
    let mut counts = Counts::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let keys = ["n", "n_499", "n_502", "n_504"].into_iter().filter(|_| row["site"].is_string());
        for key in keys {
            *counts.entry(key).or_default() += row[key].as_u64().unwrap_or(0);
        }
    }
    Ok(counts)
}

/// A line that is rejected costs less than one that is counted: all of them must be requests.
fn all_counted(words: &[&str], file: &Path) -> Result<(), String> {
    let counted = counts_of_scan(words, &[file])?.get("n").copied().unwrap_or(0);
    let (text, _) = output(&["grep", "-vc", "^#", &file.display().to_string()])?;
    let n_lines = text.trim().parse::<u64>().ok();
    let is_all = n_lines == Some(counted);
    if is_all { Ok(()) } else { Err(format!("{counted} of {n_lines:?} lines are counted")) }
}

/// mtail prints its metrics as one JSON object by name.
fn counts_of_mtail(text: &str) -> Result<Counts, String> {
    let metrics: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut counts = Counts::from([("n", 0), ("n_499", 0), ("n_502", 0), ("n_504", 0)]);
    let rows = metrics["requests"].as_array().into_iter().flatten();
    for label in rows.flat_map(|metric| metric["LabelValues"].as_array().into_iter().flatten()) {
        let n = label["Value"]["Value"].as_u64().unwrap_or(0);
        let status = label["Labels"][1].as_str().unwrap_or_default();
        let key = [("499", "n_499"), ("502", "n_502"), ("504", "n_504")];
        let key = key.iter().find(|(text, _)| *text == status).map(|(_, key)| *key);
        for key in std::iter::once("n").chain(key) {
            *counts.entry(key).or_default() += n;
        }
    }
    Ok(counts)
}

fn goaccess(bench: &Bench, ours: &Contestant, file: &Path) -> Result<(f64, f64), String> {
    let n_bytes = warm(&[file]).map_err(|error| error.to_string())?;
    let out = format!("--output={}", bench.dir.join("goaccess.json").display());
    let words = ["goaccess", "--no-global-config", "--no-progress", "--log-format=COMBINED", &out];
    let theirs = Contestant::new(&words, &[file], n_bytes);
    let speeds = race_for(&[ours, &theirs], ROUNDS_SLOW)?;
    Ok((speeds[0], speeds[1]))
}

/// A2: all sites in one file, in formats that say the host.
pub(crate) fn a2(bench: &Bench) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for (style, what, least) in [
        (Style::HostFirst, "scan, host first in one file", 0.45),
        (Style::Upstream, "scan, custom log_format with upstream", 0.45),
        (Style::Haproxy, "scan, HAProxy httplog", 0.20),
        (Style::Json, "scan, nginx JSON", 0.10),
        (Style::Pairs, "scan, combined and pairs, not told", 0.20),
        (Style::Traefik, "scan, Traefik", 0.20),
        (Style::Envoy, "scan, Envoy", 0.20),
        (Style::Iis, "scan, W3C of IIS", 0.20),
        (Style::Alb, "scan, load balancer of AWS", 0.20),
        (Style::Caddy, "scan, Caddy JSON", 0.10),
    ] {
        let n_bytes = bench.mib * (1 << 20) / 2;
        let file = generate::file(&bench.dir, style, N_SITES as u32, 7, n_bytes);
        let file = file.map_err(|error| error.to_string())?;
        let n_bytes = warm(&[&file]).map_err(|error| error.to_string())?;
        let words = [&*bench.agent, "scan", "--json", "--format", style.format()];
        if let Err(why) = all_counted(&words, &file) {
            rows.push(Row::missing("A2", what, "wc -l", &why));
            continue;
        }
        let ours = Contestant::new(&words, &[&file], n_bytes);
        // In JSON the status stands in quotes, or behind its key.
        let status = match style {
            Style::Json => "\"502\"",
            Style::Caddy => ":502,",
            _ => " 502 ",
        };
        let rg = ["rg", "-j1", "--no-mmap", "-c", status];
        let references = [
            ("wc -l", Contestant::new(&["wc", "-l"], &[&file], n_bytes), least),
            ("rg --no-mmap -c", Contestant::new(&rg, &[&file], n_bytes), least),
        ];
        rows.extend(compare("A2", what, &ours, &references));
    }
    Ok(rows)
}

/// A3: instructions a line: what twice the lines cost more than once.
pub(crate) fn a3(bench: &Bench) -> Result<Vec<Row>, String> {
    let file = generate::file(&bench.dir, Style::Combined, 1, 3, 12 << 20);
    let text = file.and_then(fs::read).map_err(|error| error.to_string())?;
    let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let end = ends.take(N_LINES).last().unwrap_or(0);
    let (once, twice) = (bench.dir.join("a3-once.log"), bench.dir.join("a3-twice.log"));
    let written = fs::write(&once, &text[..end])
        .and_then(|()| fs::write(&twice, [&text[..end], &text[..end]].concat()));
    written.map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    for (what, flag, most) in [
        ("instructions a line, AVX2", None, 350.0),
        ("instructions a line, portable", Some("--portable"), 750.0),
    ] {
        let count = |file: &Path| instructions(bench, flag, file);
        let n = count(&twice).and_then(|twice| Ok((twice - count(&once)?) / N_LINES as f64));
        rows.push(match n {
            Ok(n) => Row::alone("A3", what, n, "instr", most),
            Err(why) => Row::missing("A3", what, "callgrind", &why),
        });
    }
    Ok(rows)
}

fn instructions(bench: &Bench, flag: Option<&str>, file: &Path) -> Result<f64, String> {
    let file = file.display().to_string();
    let out = format!("--callgrind-out-file={}", bench.dir.join("callgrind.out").display());
    let words = ["valgrind", "--tool=callgrind", &out, &bench.agent, "scan", "--json"].into_iter();
    let words: Vec<&str> = words.chain(flag).chain([&*file]).collect();
    let (_, talk) = output(&words)?;
    let n = talk.lines().find_map(|line| line.split("Collected : ").nth(1));
    let n = n.and_then(|n| n.trim().parse().ok());
    n.ok_or_else(|| format!("callgrind told no number: {talk:.300}"))
}

/// A4: memory of `scan`, for a large log and for one that means harm.
pub(crate) fn a4(bench: &Bench) -> Result<Vec<Row>, String> {
    let large =
        generate::file(&bench.dir, Style::HostFirst, N_SITES as u32, 7, bench.mib * (1 << 20) / 2);
    let hostile = generate::hostile(&bench.dir, N_HOSTS);
    let mut rows = Vec::new();
    for (what, file, format) in [
        ("memory of scan, large log", large, Style::HostFirst.format()),
        ("memory of scan, 100,000 hosts and upstreams", hostile, Style::Upstream.format()),
    ] {
        let file = file.map_err(|error| error.to_string())?.display().to_string();
        let words = ["/usr/bin/time", "-f", "peak %M", &bench.agent, "scan", "--json"];
        let words: Vec<&str> = words.into_iter().chain(["--format", format, &file]).collect();
        let peak = output(&words).and_then(|(_, talk)| {
            let kib = talk.lines().find_map(|line| line.strip_prefix("peak ")?.parse::<f64>().ok());
            kib.ok_or_else(|| format!("time told no number: {talk:.300}"))
        });
        rows.push(match peak {
            Ok(kib) => Row::alone("A4", what, kib / 1024.0, "MiB", 16.0),
            Err(why) => Row::missing("A4", what, "", &why),
        });
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_mtail_are_added_up_by_status() {
        let text = r#"{"requests":[{"Name":"requests","LabelValues":[
            {"Labels":["/a.log","200"],"Value":{"Value":5,"Time":1}},
            {"Labels":["/a.log","502"],"Value":{"Value":2,"Time":1}},
            {"Labels":["/b.log","502"],"Value":{"Value":1,"Time":1}}]}]}"#;
        let want = Counts::from([("n", 8), ("n_499", 0), ("n_502", 3), ("n_504", 0)]);
        assert_eq!(counts_of_mtail(text), Ok(want));
    }
}
