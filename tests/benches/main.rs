//! What gatewatch costs, beside the programs people would use instead: one table, a row per figure.
//!
//! `tests/bench.sh` builds and starts it. Every speed is a ratio against a reference measured in the
//! same run, in turns, on one processor, with the files in the page cache: a slow machine slows both.

mod discovery;
mod forecast;
mod generate;
mod hosting;
mod live;
mod localize;
mod measure;
mod outbox;
mod page;
mod relay;
mod replay;
mod rest;
mod scan;
mod store;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::measure::pin;
use crate::table::{Row, render};

/// Measures gatewatch against reference programs and prints one table.
#[derive(Debug, Parser)]
#[command(name = "gatewatch-bench", version)]
struct Cli {
    /// The released agent.
    #[arg(long)]
    agent: PathBuf,
    /// Where the generated logs are kept between runs.
    #[arg(long)]
    dir: PathBuf,
    /// Size of the logs of row A1, in MiB; other rows take a part of it.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(64..=16_384))]
    mib: u64,
    /// Prints Markdown.
    #[arg(long)]
    markdown: bool,
    /// Rows to measure, like A1 A9; all without any.
    rows: Vec<String>,
}

/// What the rows work with.
#[derive(Debug)]
struct Bench {
    agent: String,
    dir: PathBuf,
    mib: u64,
}

type Measure = fn(&Bench) -> Result<Vec<Row>, String>;

/// Every row: its name, what it is about, whether the programs compete for one processor.
const ROWS: [(&str, &str, bool, Measure); 25] = [
    ("A1", "speed of scan, a file a site", true, scan::a1),
    ("A2", "speed of scan, other formats", true, scan::a2),
    ("A3", "instructions a line", true, scan::a3),
    ("A4", "memory of scan", true, scan::a4),
    ("A5", "append of a line to the agent's notice", false, |_| Ok(live::a5())),
    ("A7", "from the first 502 to the page", false, |_| Ok(page::a7())),
    ("A8", "an agent at rest, beside node_exporter and netdata", false, |_| Ok(rest::a8())),
    ("A9", "processor time and memory of the agent", false, |_| Ok(live::a9())),
    ("A10", "bytes on the wire", false, |_| Ok(rest::a10())),
    ("A11", "processor time of a look at a process", false, |_| Ok(live::a11())),
    ("A12", "size of the released program, time of its start", false, |_| rest::a12()),
    ("C1", "values a processor second, beside VictoriaMetrics", false, store::c1),
    ("C2", "bytes of a value on the disk", false, store::c2),
    ("C3", "memory of a collector with many agents", false, store::c3),
    ("C4", "what durable acks cost", false, store::c4),
    ("C5", "agents come back after a restart", false, store::c5),
    ("C6", "queries with nothing in memory", false, store::c6),
    ("C7", "the detector over a recorded stream", true, replay::c7),
    ("D8S", "speed of localize", true, localize::d8s),
    ("N1", "from a decision to the receivers, one of them dead", false, |_| outbox::n1()),
    ("R1", "a week foretold by hours", true, forecast::r1),
    ("R2", "next week's p95 foretold", true, forecast::r2),
    ("R3", "days until disks are full", true, forecast::r3),
    ("R4", "a capacity report of a large fleet", false, store::r4),
    ("F600", "discovery of 600 vhosts", true, discovery::f600),
];

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    fs::create_dir_all(&cli.dir).with_context(|| format!("cannot make {}", cli.dir.display()))?;
    let agent = cli.agent.canonicalize();
    let agent = agent.with_context(|| format!("no agent at {}", cli.agent.display()))?;
    let bench = Bench { agent: agent.display().to_string(), dir: cli.dir, mib: cli.mib };
    let wanted: BTreeSet<String> = cli.rows.iter().map(|row| row.to_uppercase()).collect();
    let known = |row: &String| ROWS.iter().any(|(id, ..)| id == row);
    if let Some(unknown) = wanted.iter().find(|row| !known(row)) {
        anyhow::bail!("no row {unknown}: there are {}", ROWS.map(|(id, ..)| id).join(", "));
    }
    let mut rows = Vec::new();
    for (id, about, is_on_one, measure) in ROWS {
        if !wanted.is_empty() && !wanted.contains(id) {
            continue;
        }
        writeln!(std::io::stderr(), "bench: {id}: {about} ...")?;
        let pinned = if is_on_one { pin("0") } else { live::step_aside() };
        // A row that fails says so; the others are still worth having.
        let measured = pinned.and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| measure(&bench)))
                .unwrap_or_else(|_| Err("it failed: see above".to_owned()))
        });
        match measured {
            Ok(measured) => rows.extend(measured),
            Err(why) => rows.push(Row::missing(id, about, "", &why)),
        }
    }
    std::io::stdout().write_all(render(&rows, cli.markdown).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
