//! Row R4: a capacity report of a large fleet over a quarter, on the collector as it is shipped.
//!
//! Days before today are sums, three hours are not summed up, and the last one of these is not packed:
//! what a collector holds when somebody asks. The first report finds nothing in memory.

use harness::{Fleet, instant, now_s};
use serde_json::Value;
use wire::UnixMillis;

use super::queries::forget;
use super::{Speed, said, text};
use crate::Bench;
use crate::measure::quantile;
use crate::table::Row;

const N_SERVERS: usize = 500;
const N_DAYS: i64 = 90;
const N_HOURS: i64 = 3;
const N_SITES: u64 = 5;
const HOUR_S: i64 = 3600;
const DAY_S: i64 = 86_400;
const ROUNDS: usize = 3;
const S_MAX: f64 = 20.0;
const MIB_MAX: f64 = 300.0;

/// Time and memory of the report, and of reading alone what it is made of.
pub(crate) fn r4(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    let mut fleet = Fleet::builder().start();
    fleet.stop_collector();
    let dir = fleet.data_dir();
    let to = (now_s().div_euclid(HOUR_S) + 1) * HOUR_S;
    let (open, from) = (to - N_HOURS * HOUR_S, to.div_euclid(DAY_S) * DAY_S - N_DAYS * DAY_S);
    let words = [
        ("dir", text(&dir)),
        ("days", N_DAYS.to_string()),
        ("servers", N_SERVERS.to_string()),
        ("from", open.to_string()),
        ("hours", N_HOURS.to_string()),
        ("sites", N_SITES.to_string()),
    ];
    speed.run("fill-past", &words)?;
    let (mut took, mut mib) = (Vec::new(), Vec::new());
    let times = format!("from={}&to={}", UnixMillis(from * 1000), UnixMillis(to * 1000));
    for _ in 0..ROUNDS {
        forget(&dir)?;
        fleet.start_collector();
        forget(&dir)?;
        let began = instant();
        let path = format!("/api/v1/report/capacity?format=json&{times}");
        let (head, body) = fleet.http_get(&path, "");
        took.push(began.elapsed().as_secs_f64());
        mib.push(peak_mib(fleet.collector().pid())?);
        fleet.stop_collector();
        check(&head, &body)?;
    }
    let words = [("dir", text(&dir)), ("from", from.to_string()), ("to", to.to_string())];
    let read = speed.run("read-past", &words)?;
    let what = "a capacity report of 500 servers over 90 days, cold";
    let memory = "the same: most memory of the collector";
    let alone = "reading alone what 30 series a server were by the hour";
    Ok(vec![
        Row::alone("R4", what, quantile(&mut took, 0.5), "s", S_MAX),
        Row::alone("R4", memory, quantile(&mut mib, 1.0), "MiB", MIB_MAX),
        Row::told("R4", alone, said(&read, "seconds")?, "s"),
        Row::told("R4", "the same: most memory", said(&read, "peak_rss_kib")? / 1024.0, "MiB"),
    ])
}

/// Fast and empty is no figure.
fn check(head: &str, body: &[u8]) -> Result<(), String> {
    let status = head.lines().next().unwrap_or_default();
    let report: Value = serde_json::from_slice(body).unwrap_or_default();
    let n = report["tables"]["servers"].as_array().map(Vec::len);
    if n == Some(N_SERVERS) {
        return Ok(());
    }
    Err(format!("{status}: {n:?} servers: {:.300}", String::from_utf8_lossy(body)))
}

/// The most memory that a process ever had in use.
fn peak_mib(pid: u32) -> Result<f64, String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| "no VmHWM".to_owned())
}
