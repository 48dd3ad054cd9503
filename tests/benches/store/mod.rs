//! Rows C1 to C6 and R4: the collector's store, beside VictoriaMetrics and plain rows of SQLite.
//!
//! `store_speed`, an example of the collector, plays the agents and the other programs' clients; it
//! has the second processor, the server that is measured the first. Both are given the same values.

mod disk;
mod durable;
mod ingest;
mod many;
mod queries;
mod reports;
mod victoria;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{Fleet, Root};
use serde_json::Value;

use crate::Bench;
use crate::measure::output;

pub(crate) use disk::c2;
pub(crate) use durable::c4;
pub(crate) use ingest::c1;
pub(crate) use many::{c3, c5};
pub(crate) use queries::c6;
pub(crate) use reports::r4;

/// Series of a server, each with one value in a tick.
const N_SERIES: usize = 30;

/// The program that plays agents.
struct Speed {
    program: String,
}

impl Speed {
    fn of(bench: &Bench) -> Result<Self, String> {
        let beside = Path::new(&bench.agent).parent().unwrap_or(Path::new("."));
        let path = beside.join("examples/store_speed");
        if path.is_file() {
            return Ok(Self { program: path.display().to_string() });
        }
        Err(format!("no {}: tests/bench.sh builds it", path.display()))
    }

    /// Does one work; what it says.
    fn run(&self, work: &str, words: &[(&str, String)]) -> Result<Value, String> {
        let words: Vec<String> =
            words.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut all = vec![self.program.as_str(), work];
        all.extend(words.iter().map(String::as_str));
        let (out, _) = output(&all)?;
        serde_json::from_str(&out).map_err(|error| format!("{error} in {out:.300}"))
    }
}

/// A collector on the first processor, and cards of enrolled agents.
struct Collector {
    fleet: Fleet,
    cards: PathBuf,
    _root: Root,
}

impl Collector {
    fn start(speed: &Speed, n_agents: usize) -> Result<Self, String> {
        let root = Root::new();
        let on_first = |_: &Path| ["taskset", "-c", "0"].map(str::to_owned).to_vec();
        let mut fleet = Fleet::builder().collector_wrapper(on_first).start();
        fleet.stop_collector();
        let cards = root.path().join("cards.json");
        let dir = fleet.data_dir().display().to_string();
        let words = [("dir", dir), ("n", n_agents.to_string()), ("cards", text(&cards))];
        speed.run("enrol", &words)?;
        fleet.start_collector();
        Ok(Self { fleet, cards, _root: root })
    }

    /// Stops it and starts it again, on the same data.
    fn restart(&mut self) {
        self.fleet.stop_collector();
        self.fleet.start_collector();
    }

    /// What agents need to know, and the process that they are measured at.
    fn words(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cards", text(&self.cards)),
            ("address", self.fleet.address().to_string()),
            ("pid", self.fleet.collector().pid().to_string()),
        ]
    }
}

/// Words of both kinds.
fn with<'a>(some: &[(&'a str, String)], more: &[(&'a str, String)]) -> Vec<(&'a str, String)> {
    [some, more].concat()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A number that was said.
fn said(of: &Value, key: &str) -> Result<f64, String> {
    of[key].as_f64().ok_or_else(|| format!("no {key} in {of}"))
}

fn span(of: Duration) -> String {
    of.as_secs_f64().to_string()
}

fn address(of: SocketAddr) -> (&'static str, String) {
    ("address", of.to_string())
}
