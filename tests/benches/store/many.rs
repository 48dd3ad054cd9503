//! Rows C3 and C5: memory of a collector with many agents, and their return after a restart.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use super::{Collector, Speed, said, span, with};
use crate::Bench;
use crate::table::Row;

/// Agents that memory is promised for, more of them, most of all.
const N_FEW: usize = 2000;
const N_MANY: usize = 10_000;
const N_MOST: usize = 20_000;
/// Files of a collector that are no agents.
const N_FILES: u64 = 300;
const SETTLE: Duration = Duration::from_secs(15);
/// Sites of each server in the row that has some.
const N_SITES: usize = 40;

/// C3: memory with 2,000 agents, and of each further one, up to as many as there are file handles.
pub(crate) fn c3(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    let n_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let n_most = N_MOST.min(n_files.saturating_sub(N_FILES) as usize);
    if n_most < N_FEW {
        return Err(format!(
            "{n_files} open files are not enough for {N_FEW} agents: ulimit -n 65536"
        ));
    }
    let mut steps: Vec<usize> =
        [N_FEW, N_MANY, n_most].into_iter().filter(|n| *n <= n_most).collect();
    steps.dedup();
    let measured = at_rest(&speed, &steps, 0)?;
    let kib = |step: usize| said(&measured[step], "rss_kib");
    let last = steps.len();
    let n_more = steps.last().copied().unwrap_or(0).saturating_sub(N_FEW).max(1);
    let each = (kib(last)? - kib(1)?) / n_more as f64;
    let mut rows = vec![
        Row::told("C3", "memory of a collector without agents", kib(0)? / 1024.0, "MiB"),
        Row::alone("C3", "memory with 2,000 agents", kib(1)? / 1024.0, "MiB", 200.0),
        Row::alone("C3", &format!("memory of each of {n_more} more"), each, "KiB", 100.0),
    ];
    for (no, n) in steps.iter().enumerate() {
        let step = &measured[no + 1];
        let share = said(step, "cpu_s")? / said(step, "seconds")? * 100.0;
        if said(step, "n_lost")? > 0.0 {
            return Err(format!("streams were lost: {step}"));
        }
        let limit =
            if *n == n_most && n_most < N_MOST { ", all that file handles allow" } else { "" };
        let what = format!("{n} agents{limit}, a batch each 10 s, a heartbeat each 5: % of a core");
        rows.push(Row::told("C3", &what, share, "%"));
    }
    let busy = at_rest(&speed, &[N_FEW], N_SITES)?;
    let mib = said(&busy[1], "rss_kib")? / 1024.0;
    rows.push(Row::told("C3", "memory with 2,000 agents of 40 busy sites each", mib, "MiB"));
    Ok(rows)
}

fn at_rest(speed: &Speed, steps: &[usize], n_sites: usize) -> Result<Value, String> {
    let n = steps.last().copied().unwrap_or(0);
    let collector = Collector::start(speed, n)?;
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let more =
        [("steps", steps.join(",")), ("settle", span(SETTLE)), ("sites", n_sites.to_string())];
    speed.run("rest", &with(&collector.words(), &more))
}

/// C5: after a restart, until every agent has a batch acked again.
pub(crate) fn c5(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    let n_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let n_many = N_MANY.min(n_files.saturating_sub(N_FILES) as usize);
    let mut collector = Collector::start(&speed, n_many)?;
    // Everybody has been there once.
    back(&speed, &collector, n_many, 10.0)?;
    collector.restart();
    let few = back(&speed, &collector, N_FEW, 5.0)?;
    collector.restart();
    let many = back(&speed, &collector, n_many, 10.0)?;
    let what = "restart: 2,000 agents stream again: processor time since its start";
    let mut rows = vec![Row::alone("C5", what, said(&few, "cpu_all_s")?, "s", 3.0)];
    for (n, of) in [(N_FEW, &few), (n_many, &many)] {
        let n_missing = n as f64 - said(of, "n_back")? + said(of, "n_refused")?;
        let what = format!("the same, {n} agents: refused connections and missing agents");
        rows.push(Row::alone("C5", &what, n_missing, "", 0.0));
    }
    let what = format!("restart: {n_many} agents within 10 s of jitter: until the last has an ack");
    rows.push(Row::alone("C5", &what, said(&many, "seconds")?, "s", 25.0));
    let each = said(&many, "cpu_s")? / n_many as f64 * 1000.0;
    rows.push(Row::told("C5", "the same: processor time of each", each, "ms"));
    Ok(rows)
}

fn back(speed: &Speed, collector: &Collector, n: usize, jitter_s: f64) -> Result<Value, String> {
    let more = [("n", n.to_string()), ("jitter", jitter_s.to_string())];
    speed.run("back", &with(&collector.words(), &more))
}
