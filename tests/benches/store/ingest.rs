//! Row C1: values a second of the server's processor time, from the agent to committed and acked.

use std::time::Duration;

use super::victoria::{NAME, Victoria};
use super::{Collector, Speed, address, said, span, with};
use crate::Bench;
use crate::measure::{ROUNDS_SLOW, quantile};
use crate::table::{Row, Target, number};

const WARM: Duration = Duration::from_secs(2);
const SPAN: Duration = Duration::from_secs(4);
/// Connections, and how much more we take at least.
const CASES: [(usize, f64); 2] = [(200, 8.0), (2000, 2.5)];
/// What agents send, beside requests of the reference with the same values, one on its way on each connection.
const KINDS: [Kind; 3] = [
    Kind { n_ticks: 1, in_flight: 1, name: "at rest, one tick of 30 values a batch" },
    Kind { n_ticks: 10, in_flight: 1, name: "in an outage, ten ticks of 30 values a batch" },
    Kind { n_ticks: 1, in_flight: 16, name: "catching up, 16 batches of a tick on their way" },
];

/// Batches as they come from an agent that measures each ten seconds, that measures each second because
/// gateway errors flow, and that empties its spool after the collector was away (it has 64 on their way).
#[derive(Clone, Copy)]
struct Kind {
    n_ticks: usize,
    in_flight: usize,
    name: &'static str,
}

/// What one side reached, by round.
#[derive(Default)]
struct Side {
    per_cpu_s: Vec<f64>,
    per_s: Vec<f64>,
    p99_ms: Vec<f64>,
}

impl Side {
    fn add(&mut self, said_by: &serde_json::Value) -> Result<(), String> {
        let (n, cpu_s) = (said(said_by, "n_values")?, said(said_by, "cpu_s")?);
        if said(said_by, "n_lost")? > 0.0 {
            return Err(format!("connections were lost: {said_by}"));
        }
        self.per_cpu_s.push(n / cpu_s);
        self.per_s.push(n / said(said_by, "seconds")?);
        self.p99_ms.push(said(said_by, "p99_ms")?);
        Ok(())
    }
}

/// Values a processor second, at two numbers of connections.
pub(crate) fn c1(bench: &Bench) -> Result<Vec<Row>, String> {
    let speed = Speed::of(bench)?;
    let n_most = CASES.map(|(n, _)| n).into_iter().max().unwrap_or(0);
    let collector = Collector::start(&speed, n_most)?;
    let victoria = Victoria::start();
    let mut rows = Vec::new();
    for ((n, least), kind) in CASES.into_iter().flat_map(|case| KINDS.map(|kind| (case, kind))) {
        let (mut ours, mut theirs) = (Side::default(), Side::default());
        let spans = [
            ("n", n.to_string()),
            ("ticks", kind.n_ticks.to_string()),
            ("warm", span(WARM)),
            ("span", span(SPAN)),
        ];
        for _ in 0..ROUNDS_SLOW {
            let more = with(&spans, &[("in_flight", kind.in_flight.to_string())]);
            ours.add(&speed.run("load", &with(&collector.words(), &more))?)?;
            if let Some(victoria) = &victoria {
                let server = [address(victoria.address), ("pid", victoria.pid().to_string())];
                theirs.add(&speed.run("victoria", &with(&server, &spans))?)?;
            }
        }
        rows.extend(compared((n, kind.name, least), ours, victoria.is_some().then_some(theirs)));
    }
    Ok(rows)
}

fn compared(
    (n, kind, least): (usize, &str, f64),
    mut ours: Side,
    theirs: Option<Side>,
) -> Vec<Row> {
    let what = format!("values a CPU second, {n} agents {kind}, mTLS to ack");
    let reference = format!("{NAME}, remote write");
    let per_cpu_s = quantile(&mut ours.per_cpu_s, 0.5);
    let p99 = quantile(&mut ours.p99_ms, 0.5);
    let per_s = quantile(&mut ours.per_s, 0.5);
    let told = Row::told("C1", "the same: values a second", per_s, "/s");
    let wait = Row::told("C1", "the same: ack, p99", p99, "ms");
    let Some(mut theirs) = theirs else {
        let first = Row {
            ours: number(per_cpu_s, "/s"),
            ..Row::missing("C1", &what, &reference, "victoria-metrics is not installed")
        };
        return vec![first, told, wait];
    };
    let other = quantile(&mut theirs.per_cpu_s, 0.5);
    vec![
        Row {
            id: "C1",
            what,
            reference: reference.clone(),
            ours: number(per_cpu_s, "/s"),
            theirs: number(other, "/s"),
            figure: Ok((per_cpu_s / other, "x")),
            target: Target::AtLeast(least),
        },
        Row {
            theirs: number(quantile(&mut theirs.per_s, 0.5), "/s"),
            reference: reference.clone(),
            ..told
        },
        Row { theirs: number(quantile(&mut theirs.p99_ms, 0.5), "ms"), reference, ..wait },
    ]
}
