//! The judge: plays labelled worlds through `gatewatch-collector replay` and scores what it tells.
//!
//! ```text
//! scenario + seed -> world -> traffic -> agents -> stream + labels
//!                                                    |         |
//!                                                  replay -> score -> table, floors
//! ```
//!
//! Worlds and labels come from what servers do, never from what the detector looks for: nothing here
//! knows a threshold, a formula or a type of the collector.

mod random;
mod fleet;
mod lines;
mod truth;
mod world;
mod faults;
mod traffic;
mod agent;
mod scenarios;
mod told;
mod score;
#[cfg(test)]
mod score_tests;
mod rows;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::agent::Line;
use crate::scenarios::Scenario;
use crate::score::{Miss, Score};
use crate::truth::Outage;

const SECONDS_A_YEAR: f64 = 365.25 * 86_400.0;

/// Plays labelled worlds through the detector and scores what it tells. Exit code 1: below a floor.
#[derive(Debug, Parser)]
#[command(name = "gatewatch-judge", version)]
struct Cli {
    /// The collector to judge; default: the one beside this program.
    #[arg(long)]
    collector: Option<PathBuf>,
    /// Only scenarios whose name holds this.
    #[arg(long)]
    scenario: Option<String>,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Seeds FIRST..=LAST of every scenario, instead of the few of CI.
    #[arg(long, value_parser = seeds, value_name = "FIRST-LAST", conflicts_with = "seed")]
    seeds: Option<(u64, u64)>,
    /// Lists every miss: what was true, and what was told.
    #[arg(long)]
    explain: bool,
    /// Writes each stream, its labels and what was told into this directory.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Names the scenarios and does nothing else.
    #[arg(long)]
    list: bool,
    /// Worlds at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once('-').ok_or("write FIRST-LAST, as in 10-19")?;
    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    Ok((number(first)?, number(last)?))
}

/// What came of one world.
struct Judged {
    name: String,
    seed: u64,
    score: Score,
    misses: Vec<Miss>,
    n_lines: usize,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    let named = |s: &Scenario| cli.scenario.as_ref().is_none_or(|name| s.name.contains(name));
    let scenarios: Vec<Scenario> = scenarios::all().into_iter().filter(named).collect();
    if cli.list {
        for scenario in &scenarios {
            writeln!(out, "{} ({} in CI)", scenario.name, scenario.n_seeds)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let worlds = worlds(&cli, &scenarios);
    if worlds.is_empty() {
        bail!("no scenario is named so; --list names them");
    }
    let mut judged = judge_all(&cli, &worlds)?;
    judged.sort_by(|a, b| (&a.name, a.seed).cmp(&(&b.name, b.seed)));
    let mut score = Score::default();
    let n_lines: usize = judged.iter().map(|judged| judged.n_lines).sum();
    for Judged { name, seed, score: one, misses, .. } in judged {
        for miss in misses.iter().filter(|_| cli.explain) {
            writeln!(out, "{name} seed {seed}: {}\n      {}", miss.what, miss.text)?;
        }
        score.add(one);
    }
    let is_ci = cli.seed.is_none() && cli.seeds.is_none() && cli.scenario.is_none();
    let table = rows::table(&score);
    writeln!(
        out,
        "judge: {} worlds, {n_lines} records, {} outages, {:.2} server-years",
        worlds.len(),
        score.n_outages,
        score.server_years
    )?;
    write!(out, "{}", table.text)?;
    if is_ci && !table.below.is_empty() {
        writeln!(out, "judge: below the floor: {}", table.below.join(", "))?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Longest first, so that two jobs end together.
fn worlds(cli: &Cli, scenarios: &[Scenario]) -> Vec<(Scenario, u64)> {
    let of = |scenario: &Scenario| match (cli.seed, cli.seeds) {
        (Some(seed), _) => seed..=seed,
        (None, Some((first, last))) => first..=last,
        (None, None) => 1..=scenario.n_seeds,
    };
    let mut worlds: Vec<(Scenario, u64)> =
        scenarios.iter().flat_map(|s| of(s).map(|seed| (*s, seed))).collect();
    worlds.sort_by_key(|(scenario, _)| scenario.name != "quiet_days");
    worlds
}

fn judge_all(cli: &Cli, worlds: &[(Scenario, u64)]) -> Result<Vec<Judged>> {
    let collector = match &cli.collector {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("gatewatch-collector"),
    };
    if !collector.is_file() {
        bail!("{} is missing: cargo build --workspace", collector.display());
    }
    let scratch = tempfile::tempdir()?;
    let dir = cli.write.as_deref().unwrap_or(scratch.path());
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (next, judged) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            while let Some((scenario, seed)) = worlds.get(next.fetch_add(1, Ordering::Relaxed)) {
                let one = judge(&collector, dir, scenario, *seed, cli.write.is_some())
                    .with_context(|| format!("{} seed {seed}", scenario.name))?;
                judged.lock().expect("no job panics with it").push(one);
            }
            Ok(())
        };
        let jobs: Vec<_> = (0..cli.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        jobs.into_iter().try_for_each(|job| job.join().expect("a job does not panic"))
    })?;
    Ok(judged.into_inner().expect("no job panics with it"))
}

fn judge(
    collector: &Path,
    dir: &Path,
    scenario: &Scenario,
    seed: u64,
    keep: bool,
) -> Result<Judged> {
    let world = (scenario.build)(scenario.name, seed);
    let (lines, labels) = agent::play(&world);
    let seconds = (world.until - world.from) as f64 / 1000.0;
    let server_years = world.fleet.len() as f64 * seconds / SECONDS_A_YEAR;
    let stem = dir.join(format!("{}-{seed}", scenario.name));
    let stream = stem.with_extension("jsonl");
    write_stream(&stream, &lines)?;
    let n_lines = lines.len();
    drop(lines);
    let output = replay(collector, &stream)?;
    if keep {
        fs::write(stem.with_extension("labels.jsonl"), json_lines(&labels)?)?;
        fs::write(stem.with_extension("told.jsonl"), &output)?;
    } else {
        fs::remove_file(&stream)?;
    }
    let told = told::read(&output)?;
    let (score, misses) = score::world(&labels, &told, server_years);
    Ok(Judged { name: scenario.name.to_owned(), seed, score, misses, n_lines })
}

fn write_stream(path: &Path, lines: &[Line]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut file = BufWriter::new(file);
    for (_, json) in lines {
        file.write_all(json.as_bytes())?;
        file.write_all(b"\n")?;
    }
    file.flush().with_context(|| format!("cannot write {}", path.display()))
}

fn json_lines(labels: &[Outage]) -> Result<String> {
    let mut text = String::new();
    for label in labels {
        writeln!(text, "{}", serde_json::to_string(label)?)?;
    }
    Ok(text)
}

/// What the real detector tells of a stream.
fn replay(collector: &Path, stream: &Path) -> Result<String> {
    let done = Command::new(collector)
        .arg("replay")
        .arg(stream)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not run", collector.display()))?;
    if !done.status.success() {
        bail!("replay ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    String::from_utf8(done.stdout).context("replay prints UTF-8")
}
