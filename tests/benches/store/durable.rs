//! Row C4: what it costs that an ack means on the disk, and how long agents wait for it.

use std::time::Duration;

use super::{Collector, Speed, said, span, text, with};
use crate::Bench;
use crate::table::{Row, Target, number};
use harness::Root;

/// Agents of the load, each with a batch each ten seconds.
const N_AGENTS: usize = 2000;
const SETTLE: Duration = Duration::from_secs(20);
/// Batches of one agent alone.
const N_ALONE: usize = 100;

/// FULL against NORMAL, the gathering of a group, acks under load.
pub(crate) fn c4(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    let root = Root::new();
    let durable = speed.run("durable", &[("dir", text(root.path()))])?;
    let (full, normal) = (said(&durable, "full_s")?, said(&durable, "normal_s")?);
    let mut rows = vec![
        Row {
            id: "C4",
            what: "synchronous=FULL, 2,000 rows a transaction: time".to_owned(),
            reference: "synchronous=NORMAL".to_owned(),
            ours: number(full, "s"),
            theirs: number(normal, "s"),
            figure: Ok((full / normal, "x")),
            target: Target::AtMost(1.25),
        },
        Row::told("C4", "the same: rows a second", said(&durable, "rows_per_s")?, "/s"),
        Row::told("C4", "the same: a transaction, p99", said(&durable, "commit_p99_ms")?, "ms"),
    ];
    let collector = Collector::start(&speed, N_AGENTS)?;
    let alone = with(&collector.words(), &[("n", N_ALONE.to_string())]);
    let alone = speed.run("alone", &alone)?;
    let (calm, urgent) = (said(&alone, "calm_ms")?, said(&alone, "urgent_ms")?);
    let what = "what gathering a group adds to the ack of one batch, median";
    rows.push(Row::alone("C4", what, calm - urgent, "ms", GATHER_MS));
    let what = "a batch with a gateway error, alone: to its ack, median";
    rows.push(Row::alone("C4", what, urgent, "ms", 30.0));
    let load = [("steps", N_AGENTS.to_string()), ("settle", span(SETTLE))];
    let load = speed.run("rest", &with(&collector.words(), &load))?;
    let load = &load[1];
    let what = format!("{N_AGENTS} agents, a batch each 10 s: to the ack, median");
    rows.push(Row::told("C4", &what, said(load, "p50_ms")?, "ms"));
    rows.push(Row::alone("C4", "the same: p99", said(load, "p99_ms")?, "ms", 300.0));
    Ok(rows)
}

/// 50 ms, and a little for the timer that ends them.
const GATHER_MS: f64 = 55.0;
