//! Row C7: the collector's detector, over a recorded stream and over records that are decoded.
//!
//! The stream is a quiet fleet with one outage: 500 servers of 40 sites, a second for each site. The
//! reference is serde_json making a value of each line, a program of the same build; `wc -l` is told.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::Value;

use crate::Bench;
use crate::measure::{Contestant, ROUNDS_SLOW, output, quantile, race_for, warm};
use crate::table::{Row, Target, number};

/// 2026-11-20T12:00:00Z.
const NOON: i64 = 1_795_176_000_000;
const N_SERVERS: i64 = 500;
const N_SITES: i64 = 40;
/// Lines of the stream, about.
const N_LINES: i64 = 2_000_000;

pub(crate) fn c7(bench: &Bench) -> Result<Vec<Row>, String> {
    let beside = Path::new(&bench.agent).parent().unwrap_or(Path::new("."));
    let collector = built(&beside.join("gatewatch-collector"))?;
    let speed = built(&beside.join("examples/detector_speed"))?;
    let stream = bench.dir.join("fleet.jsonl");
    let n_lines = generate(&stream).map_err(|error| format!("{}: {error}", stream.display()))?;
    let file = stream.as_path();
    warm(&[file]).map_err(|error| error.to_string())?;
    let mut rows = Vec::new();
    let replay = Contestant::new(&[&collector, "replay", "--final"], &[file], n_lines);
    let values = Contestant::new(&[&speed, "values"], &[file], n_lines);
    let count = Contestant::new(&["wc", "-l"], &[file], n_lines);
    let [ours, theirs, counted] = race_for(&[&replay, &values, &count], ROUNDS_SLOW)?[..] else {
        return Err("a contestant is missing".to_owned());
    };
    rows.push(row("replay, JSON lines a second in all", ours, "/s", Target::AtLeast(1e6)));
    for (reference, theirs) in [("serde_json to values", theirs), ("wc -l", counted)] {
        rows.push(Row {
            reference: reference.to_owned(),
            ours: number(ours, "/s"),
            theirs: number(theirs, "/s"),
            ..row("the same, against", ours / theirs, "x", Target::None)
        });
    }
    let n_servers = N_SERVERS.to_string();
    let fed = fed(&speed, &[&n_servers, "40", "100", "1"], "records_per_s")?;
    rows.push(row("site-second records a second, decoded", fed, "/s", Target::AtLeast(2e6)));
    let share = self::fed(&speed, &["5000", "40", "60", "5"], "core_share")? * 100.0;
    let what = "detector of 5,000 servers x 40 sites, a request each 5 s: % of a core";
    rows.push(row(what, share, "%", Target::AtMost(5.0)));
    let bytes = self::fed(&speed, &["5000", "40", "120", "5"], "bytes_per_site")?;
    let what = "memory for each of those 200,000 sites";
    rows.push(row(what, bytes, "B", Target::AtMost(2048.0)));
    for (n_servers, n_failing) in [("2000", "500"), ("10000", "500")] {
        let words = [n_servers, "40", "60", "1", n_failing];
        let share = self::fed(&speed, &words, "core_share_failing")? * 100.0;
        let what = format!("{n_failing} of {n_servers} servers x 40 sites fail: % of a core");
        rows.push(row(&what, share, "%", Target::AtMost(100.0)));
    }
    Ok(rows)
}

fn built(path: &Path) -> Result<String, String> {
    if path.is_file() {
        Ok(path.display().to_string())
    } else {
        Err(format!("no {}: tests/bench.sh builds it", path.display()))
    }
}

fn row(what: &str, figure: f64, unit: &'static str, target: Target) -> Row {
    let ours = number(figure, unit);
    Row { figure: Ok((figure, unit)), ours, target, ..Row::missing("C7", what, "", "") }
}

/// Median of what the detector says of itself.
fn fed(speed: &str, words: &[&str], key: &str) -> Result<f64, String> {
    let mut figures = Vec::new();
    for _ in 0..ROUNDS_SLOW {
        let (out, _) = output(&[&[speed], words].concat())?;
        let said: Value =
            serde_json::from_str(&out).map_err(|error| format!("{error} in {out}"))?;
        figures.push(said[key].as_f64().ok_or_else(|| format!("no {key} in {out}"))?);
    }
    Ok(quantile(&mut figures, 0.5))
}

/// Writes the stream, or takes the one that is there; returns its lines.
fn generate(path: &Path) -> std::io::Result<u64> {
    let n_seconds = N_LINES / (N_SERVERS * N_SITES);
    let mark = path.with_extension("lines");
    if let Some(n) = fs::read_to_string(&mark).ok().and_then(|text| text.parse().ok()) {
        return Ok(n);
    }
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut n_lines = 1;
    writeln!(out, r#"{{"type":"header","version":1,"label_names":["rack"]}}"#)?;
    for server in 0..N_SERVERS {
        let rack = server / 20;
        let labels = format!(r#"{{"rack":"r{rack}"}}"#);
        writeln!(
            out,
            r#"{{"type":"server","server":"web-{server:04}","labels":{labels},"n_cpu":4}}"#
        )?;
        for site in 0..N_SITES {
            let names = format!(r#""server":"web-{server:04}","site":"shop{site:02}.example""#);
            writeln!(out, r#"{{"type":"site",{names},"pool":"www"}}"#)?;
        }
        n_lines += 1 + N_SITES as u64;
    }
    for second in 0..n_seconds {
        let at = NOON + second * 1000;
        for server in 0..N_SERVERS {
            // Batches of a second arrive one after the other.
            let arrived = at + 1000 + server;
            let fails = server == 7 && second * 2 > n_seconds;
            for site in 0..N_SITES {
                let n = 1 + (second + server + site) % 7;
                let mut line = format!(
                    r#"{{"type":"requests","at":{at},"arrived_at":{arrived},"server":"web-{server:04}","site":"shop{site:02}.example","n":{n}"#
                );
                if fails {
                    write!(line, r#","n_502":{n}"#).map_err(std::io::Error::other)?;
                }
                writeln!(out, "{line}}}")?;
            }
            writeln!(
                out,
                r#"{{"type":"heartbeat","at":{},"arrived_at":{arrived},"server":"web-{server:04}","clock":{arrived}}}"#,
                at + 1000
            )?;
            n_lines += 1 + N_SITES as u64;
        }
    }
    out.flush()?;
    fs::write(mark, n_lines.to_string())?;
    Ok(n_lines)
}
