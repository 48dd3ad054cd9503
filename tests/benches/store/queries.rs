//! Row C6: queries that find nothing in memory, beside VictoriaMetrics and plain rows of SQLite.
//!
//! Before each query the server is started anew and the kernel is told to forget its files
//! (`posix_fadvise`, after they are written out); so all that is read comes from the disk.

use std::path::Path;

use harness::{Fleet, Root, instant, now_s};
use rustix::fs::{Advice, fadvise, fsync};
use serde_json::Value;
use wire::UnixMillis;

use super::victoria::{NAME, Victoria};
use super::{Speed, address, said, text, with};
use crate::Bench;
use crate::measure::{ROUNDS_SLOW, quantile};
use crate::table::{Row, Target, number};

const N_SERVERS: u64 = 100;
/// Series of each server: those that are not asked for lie between those that are.
const N_SERIES: u64 = 6;
const DAY_S: i64 = 86_400;
const N_DAYS: i64 = 30;
const N_DAYS_RAW: i64 = 7;
const METRIC: &str = "system.cpu.utilization";
const METRIC_OF_VICTORIA: &str = "system_cpu_utilization";
const SERVER: u64 = 42;
const N_TOP: usize = 10;
const ROWS: &str = "SQLite, a row a value, indexed";

/// Times of the queries: a day, the fleet over a week, the fleet over a month.
struct Asked {
    end: i64,
}

impl Asked {
    fn day(&self) -> (i64, i64) {
        (self.end - 2 * DAY_S, self.end - DAY_S)
    }

    fn week(&self) -> (i64, i64) {
        (self.end - N_DAYS_RAW * DAY_S, self.end)
    }

    fn month(&self) -> (i64, i64) {
        (self.end - N_DAYS * DAY_S, self.end)
    }
}

/// One server for a day, the fleet's top ten over a week and a month.
pub(crate) fn c6(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    // Midnight of yesterday: every day asked for is over.
    let asked = Asked { end: (now_s().div_euclid(DAY_S) - 1) * DAY_S };
    let [day, week, month] = ours(&speed, &asked)?;
    let [their_day, their_week] = victoria(&speed, &asked)?.map_or([None; 2], |ms| ms.map(Some));
    let [rows_day, rows_week] = plain(&speed, &asked)?;
    let per_server = |ms: f64| ms / N_SERVERS as f64;
    let (what, top) = (
        "one server, one metric, 24 h at 10 s, cold",
        "top 10 of 100 servers by p95 of 7 d, cold: of each server",
    );
    Ok(vec![
        Row::alone("C6", what, day, "ms", 15.0),
        beside(what, NAME, day, their_day),
        beside(what, ROWS, day, Some(rows_day)),
        Row::alone("C6", top, per_server(week), "ms", 3.0),
        beside(top, NAME, per_server(week), their_week.map(per_server)),
        beside(top, ROWS, per_server(week), Some(per_server(rows_week))),
        Row::told("C6", "the same over 30 d: of each server", per_server(month), "ms"),
    ])
}

fn beside(what: &str, reference: &str, ours: f64, theirs: Option<f64>) -> Row {
    let Some(theirs) = theirs else {
        return Row::missing("C6", what, reference, "victoria-metrics is not installed");
    };
    Row {
        id: "C6",
        what: what.to_owned(),
        reference: reference.to_owned(),
        ours: number(ours, "ms"),
        theirs: number(theirs, "ms"),
        // How much sooner we answer.
        figure: Ok((theirs / ours, "x")),
        target: Target::None,
    }
}

fn fleet(days: i64, n_series: u64, asked: &Asked, per_batch: i64) -> Vec<(&'static str, String)> {
    vec![
        ("servers", N_SERVERS.to_string()),
        ("from", (asked.end - days * DAY_S).to_string()),
        ("hours", (days * 24).to_string()),
        ("series", n_series.to_string()),
        ("per_batch", per_batch.to_string()),
    ]
}

/// Medians over HTTP, ms, of a day, a week and a month.
fn ours(speed: &Speed, asked: &Asked) -> Result<[f64; 3], String> {
    let on_first = |_: &Path| ["taskset", "-c", "0"].map(str::to_owned).to_vec();
    let mut fleet_of = Fleet::builder().collector_wrapper(on_first).start();
    fleet_of.stop_collector();
    let dir = fleet_of.data_dir();
    // Packing is the same for few batches with many samples.
    let words = with(&fleet(N_DAYS, N_SERIES, asked, 360), &[("dir", text(&dir))]);
    speed.run("fill", &words)?;
    let times = |(from, to): (i64, i64)| {
        format!("from={}&to={}", UnixMillis(from * 1000), UnixMillis(to * 1000))
    };
    let series =
        format!("/api/v1/series?server=web-{SERVER:05}&metric={METRIC}&{}", times(asked.day()));
    let top = |times: String| format!("/api/v1/top?metric={METRIC}&stat=p95&k=10&{times}");
    // What is asked, where its answer has its rows, and how many.
    let queries = [
        (series, "points", (DAY_S / 10) as usize),
        (top(times(asked.week())), "top", N_TOP),
        (top(times(asked.month())), "top", N_TOP),
    ];
    let mut took: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS_SLOW {
        for ((path, key, n), took) in queries.iter().zip(&mut took) {
            forget(&dir)?;
            fleet_of.start_collector();
            forget(&dir)?;
            let began = instant();
            let (head, body) = fleet_of.http_get(path, "");
            took.push(began.elapsed().as_secs_f64() * 1000.0);
            let status = head.lines().next().unwrap_or_default();
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            if answer[*key].as_array().map(Vec::len) != Some(*n) {
                return Err(format!("{path}: {status}: {:.300}", answer.to_string()));
            }
            fleet_of.stop_collector();
        }
    }
    Ok(took.each_mut().map(|ms| quantile(ms, 0.5)))
}

/// Medians, ms, of a day and a week; `None` where it is not installed.
fn victoria(speed: &Speed, asked: &Asked) -> Result<Option<[f64; 2]>, String> {
    let Some(mut victoria) = Victoria::start() else { return Ok(None) };
    let words = with(&fleet(N_DAYS_RAW, N_SERIES, asked, 360), &[address(victoria.address)]);
    speed.run("fill-victoria", &words)?;
    victoria.settle();
    victoria.stop();
    let (from, to) = asked.day();
    let day = format!(
        "/api/v1/query_range?query={METRIC_OF_VICTORIA}%7Bserver%3D%22web-{SERVER:05}%22%7D&start={from}&end={}&step=10",
        to - 10
    );
    let week = format!(
        "/api/v1/query?query=topk(10,quantile_over_time(0.95,{METRIC_OF_VICTORIA}%5B7d%5D))&time={}",
        asked.end
    );
    let mut took: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS_SLOW {
        for (path, took) in [&day, &week].into_iter().zip(&mut took) {
            forget(&victoria.root.path().join("data"))?;
            victoria.start_again();
            let (body, time) = victoria.get(path)?;
            if !body.contains("web-0") {
                return Err(format!("{path}: {body:.300}"));
            }
            took.push(time.as_secs_f64() * 1000.0);
            victoria.stop();
        }
    }
    Ok(Some(took.each_mut().map(|ms| quantile(ms, 0.5))))
}

/// The same of plain rows of that metric alone, read by the program that opens the file.
fn plain(speed: &Speed, asked: &Asked) -> Result<[f64; 2], String> {
    let root = Root::new();
    let path = root.path().join("rows.db");
    let file = ("path", text(&path));
    speed.run("fill-rows", &with(&fleet(N_DAYS_RAW, 1, asked, 1), std::slice::from_ref(&file)))?;
    let mut took: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS_SLOW {
        for ((work, (from, to)), took) in
            [("read-rows", asked.day()), ("top-rows", asked.week())].into_iter().zip(&mut took)
        {
            forget(root.path())?;
            let words = [
                file.clone(),
                ("metric", "0".to_owned()),
                ("server", SERVER.to_string()),
                ("servers", N_SERVERS.to_string()),
                ("from", from.to_string()),
                ("to", to.to_string()),
            ];
            took.push(said(&speed.run(work, &words)?, "ms")?);
        }
    }
    Ok(took.each_mut().map(|ms| quantile(ms, 0.5)))
}

/// Writes the files below a folder out and has the kernel forget them.
pub(super) fn forget(path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            forget(&entry.map_err(failed)?.path())?;
        }
        return Ok(());
    }
    if path.is_file() {
        // May be gone since: a checkpoint removes a log.
        if let Ok(file) = std::fs::File::open(path) {
            fsync(&file).map_err(|error| failed(error.into()))?;
            fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| failed(error.into()))?;
        }
    }
    Ok(())
}
