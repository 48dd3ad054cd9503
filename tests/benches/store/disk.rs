//! Row C2: bytes of a value on the disk, fresh and after a day is packed, and what a day of a fleet is.

use harness::{Root, now_s};

use super::victoria::{NAME, Victoria};
use super::{N_SERIES, Speed, address, said, text, with};
use crate::Bench;
use crate::table::{Row, Target, number};

/// The fleet: a value of each series each ten seconds.
const N_SERVERS: u64 = 100;
const DAY_S: i64 = 86_400;
const HOURS_FRESH: i64 = 2;
const HOURS_ROWS: i64 = 1;
/// Of samples each second, ten a batch, as agents send while gateway errors flow.
const HOURS_OUTAGE: i64 = 1;
const N_OUTAGE: u64 = 20;
/// Of the day with sites: fewer servers, so that it does not take long; sizes grow with them.
const N_BUSY: u64 = 20;
const N_SITES: u64 = 40;
const MIB: f64 = 1024.0 * 1024.0;

/// Bytes a value, beside VictoriaMetrics and plain rows with the same values.
pub(crate) fn c2(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    let from = (now_s().div_euclid(DAY_S) - 2) * DAY_S;
    let fleet = |n: u64, hours: i64, sites: u64| {
        let words =
            [("servers", n.to_string()), ("from", from.to_string()), ("hours", hours.to_string())];
        with(&words, &[("sites", sites.to_string())])
    };
    let fresh = fill(&speed, &fleet(N_SERVERS, HOURS_FRESH, 0), false)?;
    let outage = [("step", "1".to_owned()), ("per_batch", "10".to_owned())];
    let outage = fill(&speed, &with(&fleet(N_OUTAGE, HOURS_OUTAGE, 0), &outage), false)?;
    let day = fill(&speed, &fleet(N_SERVERS, 24, 0), true)?;
    let busy = fill(&speed, &fleet(N_BUSY, 24, N_SITES), true)?;
    let busy_fresh = fill(&speed, &fleet(N_BUSY, HOURS_FRESH, N_SITES), false)?;
    let per_value =
        |of: &serde_json::Value, key| Ok::<_, String>(said(of, key)? / said(of, "n_values")?);
    let fresh_b = per_value(&fresh, "hot_bytes")?;
    let outage_b = per_value(&outage, "hot_bytes")?;
    let sealed_b = per_value(&day, "block_bytes")?;
    let mut rows = vec![
        Row::alone("C2", "a value on the disk, fresh, a tick of 30 a batch", fresh_b, "B", 3.0),
        Row::alone("C2", "the same, ten ticks a batch, as in an outage", outage_b, "B", 3.0),
        Row::alone("C2", "a value on the disk, a day packed", sealed_b, "B", 1.2),
        Row::told("C2", "the same, hourly rollup", per_value(&day, "rollup_bytes")?, "B"),
    ];
    let what = "packed: bytes of a value by those of the reference";
    rows.push(match victoria(&speed, &fleet(N_SERVERS, 24, 0))? {
        None => Row::missing("C2", what, NAME, "victoria-metrics is not installed"),
        Some(theirs) => beside(what, NAME, sealed_b, theirs),
    });
    let root = Root::new();
    let path = root.path().join("rows.db");
    let fleet_rows = fleet(N_SERVERS, HOURS_ROWS, 0);
    let plain = speed.run("fill-rows", &with(&fleet_rows, &[("path", text(&path))]))?;
    let plain_b = per_value(&plain, "bytes")?;
    rows.push(beside(what, "SQLite, a row a value, indexed", sealed_b, plain_b));
    let append = said(&day, "n_batches")? / said(&day, "append_s")?;
    rows.push(Row::told("C2", "batches appended a second, in this process", append, "/s"));
    let sealing = said(&day, "n_batches")? / said(&day, "seal_cpu_s")?;
    let what = "batches of 30 values packed a CPU second";
    rows.push(Row {
        target: Target::AtLeast(150_000.0),
        ..Row::alone("C2", what, sealing, "/s", 0.0)
    });
    // A day of 100 servers, each with 40 sites.
    let scale = N_SERVERS as f64 / N_BUSY as f64 / MIB;
    for (what, bytes) in [
        ("100 servers of 40 sites: the newest two hours", said(&busy_fresh, "hot_bytes")?),
        ("the same: a day, packed", said(&busy, "block_bytes")?),
        ("the same: a day of hourly rollup", said(&busy, "rollup_bytes")?),
    ] {
        rows.push(Row::told("C2", what, bytes * scale, "MiB"));
    }
    Ok(rows)
}

fn fill(
    speed: &Speed,
    fleet: &[(&'static str, String)],
    seals: bool,
) -> Result<serde_json::Value, String> {
    let root = Root::new();
    let dir = root.mkdir("data");
    speed.run("fill", &with(fleet, &[("dir", text(&dir)), ("seals", seals.to_string())]))
}

/// Bytes of a value after everything is written out and merged.
fn victoria(speed: &Speed, fleet: &[(&'static str, String)]) -> Result<Option<f64>, String> {
    let Some(mut victoria) = Victoria::start() else { return Ok(None) };
    let said_by = speed.run("fill-victoria", &with(fleet, &[address(victoria.address)]))?;
    victoria.settle();
    victoria.stop();
    let data = victoria.root.path().join("data");
    // Values and the index of series; not its caches.
    let bytes = ["data", "indexdb"].map(|name| disk_bytes(&data.join(name)));
    let n_values = said(&said_by, "n_values")?;
    debug_assert_eq!(n_values as usize % N_SERIES, 0);
    Ok(Some(bytes.into_iter().sum::<u64>() as f64 / n_values))
}

/// Bytes that the files below a folder take on the disk.
fn disk_bytes(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return 0 };
    let own = if meta.is_file() { meta.blocks() * 512 } else { 0 };
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    own + below.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}

fn beside(what: &str, reference: &str, ours: f64, theirs: f64) -> Row {
    Row {
        id: "C2",
        what: what.to_owned(),
        reference: reference.to_owned(),
        ours: number(ours, "B"),
        theirs: number(theirs, "B"),
        figure: Ok((ours / theirs, "x")),
        target: Target::None,
    }
}
