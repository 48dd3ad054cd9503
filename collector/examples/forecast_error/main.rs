//! How wrong forecasts are, and what they cost: `forecast_error [tune] week|p95|full [FILE..]`.
//!
//! On generated series whose future is known (`generate.rs`), and on those of files: a series a line,
//! `name,value,value,..` by the hour (p95: by the minute), with nothing where nothing is known. Prints a
//! JSON object for each set of series. `tune` takes the half of the series that the methods were tuned on;
//! without it the other half is taken. The share that R2 calls enough was set after a look at both. Part of `tests/bench.sh`,
//! rows R1 to R3.

mod full;
mod generate;
mod p95;
mod week;

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Values at even steps.
type Line = Vec<Option<f64>>;

/// Which half of the series is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Tune,
    Held,
}

impl Half {
    /// First seed of generated series.
    fn seed(self) -> u64 {
        if self == Self::Tune { 0 } else { 100_000 }
    }

    /// Whether the series at this place of a file is taken; a file of one series is taken in times.
    fn takes(self, ix: usize) -> bool {
        ix.is_multiple_of(2) == (self == Self::Tune)
    }
}

fn main() -> io::Result<()> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let half = if words.first().is_some_and(|word| word == "tune") {
        words.remove(0);
        Half::Tune
    } else {
        Half::Held
    };
    let Some((what, files)) = words.split_first() else {
        return Err(io::Error::other("usage: forecast_error [tune] week|p95|full [FILE..]"));
    };
    let sets = match what.as_str() {
        "week" => week::sets(half, files)?,
        "p95" => p95::sets(half, files)?,
        "full" => full::sets(half),
        other => return Err(io::Error::other(format!("no {other}: week, p95 or full"))),
    };
    for set in sets {
        writeln!(io::stdout(), "{set}")?;
    }
    Ok(())
}

/// The series of a file, and its name.
fn read(path: &str) -> io::Result<(String, Vec<Line>)> {
    let text = std::fs::read_to_string(path)?;
    let value = |word: &str| word.parse().ok();
    let lines = text.lines().map(|line| line.split(',').skip(1).map(value).collect()).collect();
    let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, lines))
}

/// Processor time of this process so far, so that a busy machine does not count (Linux, proc(5)).
fn ran() -> Duration {
    let said = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let ns = said.split_whitespace().next().and_then(|ns| ns.parse().ok());
    ns.map_or(Duration::ZERO, Duration::from_nanos)
}

/// Mean of some figures; 0 of none.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// A number of four digits.
fn told(value: f64) -> Value {
    serde_json::json!((value * 1e4).round() / 1e4)
}
