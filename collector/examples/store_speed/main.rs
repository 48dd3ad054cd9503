//! What the store costs, from the agents' side: `store_speed WORK KEY=VALUE..`, one JSON line each.
//!
//! - `enrol dir= n= cards=`: files servers in the store of a collector that does not run.
//! - `load cards= address= pid= n= in_flight= ticks= warm= span=`: agents under full load, each batch
//!   with so many ticks, a second apart.
//! - `rest cards= address= pid= steps=A,B,.. sites= settle=`: agents that have nothing special.
//! - `back cards= address= pid= n= jitter=`: agents that come back.
//! - `alone cards= address= n=`: one agent, how long it waits for acks.
//! - `victoria address= pid= n= ticks= warm= span=`: the ticks of `load`, to VictoriaMetrics.
//! - `durable dir=`: statements of the store at `synchronous` FULL and NORMAL.
//! - `read-rows path= server= metric= from= to=`: those of one series out of the rows of `fill-rows`;
//!   `top-rows path= metric= from= to=`: the ten servers with the highest p95.
//! - `fill dir= seals=`, `fill-victoria address=`, `fill-rows path=`, each with `servers= from= hours=
//!   series= sites= per_batch= step=`: days of a fleet.
//! - `fill-past dir= days=` and the words of `fill`: sums of so many days before, and hours that are not
//!   summed up; `read-past dir= from= to=`: all of it as a report reads it.
//!
//! Part of `tests/bench.sh`, rows C1 to C6 and R4. Spans are seconds.

mod agents;
mod cost;
mod day;
mod durable;
mod fleet;
mod pack;
mod past;
mod rows;
mod sites;
mod values;
mod victoria;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use agents::Failed;
use day::Days;
use fleet::{Fleet, Load};
use serde_json::{Value, json};

/// What stands behind the word.
struct Words(BTreeMap<String, String>);

impl Words {
    fn get<T: FromStr>(&self, key: &str) -> Result<T, Failed> {
        let value = self.0.get(key).ok_or_else(|| format!("{key}= is missing"))?;
        value.parse().map_err(|_| format!("{key}={value} makes no sense").into())
    }

    fn or<T: FromStr>(&self, key: &str, value: T) -> Result<T, Failed> {
        if self.0.contains_key(key) { self.get(key) } else { Ok(value) }
    }

    fn span(&self, key: &str) -> Result<Duration, Failed> {
        Ok(Duration::from_secs_f64(self.get(key)?))
    }

    fn fleet(&self) -> Result<Fleet, Failed> {
        Ok(Fleet {
            cards: self.get("cards")?,
            address: self.get("address")?,
            n: self.or("n", 1)?,
            n_sites: self.or("sites", 0)?,
            pid: self.or("pid", 0)?,
        })
    }

    fn days(&self) -> Result<Days, Failed> {
        Ok(Days {
            n_servers: self.get("servers")?,
            from: self.get("from")?,
            n_hours: self.get("hours")?,
            n_series: self.or("series", values::SERIES.len())?,
            n_sites: self.or("sites", 0)?,
            per_batch: self.or("per_batch", 1)?,
            step_s: self.or("step", 10)?,
        })
    }
}

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut words = std::env::args().skip(1);
    let work = words.next().unwrap_or_default();
    let pairs = words.filter_map(|word| {
        let (key, value) = word.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    });
    let words = Words(pairs.collect());
    let said = runtime.block_on(done(&work, &words))?;
    Ok(writeln!(std::io::stdout(), "{said}")?)
}

async fn done(work: &str, words: &Words) -> Result<Value, Failed> {
    let path = |key| words.get::<PathBuf>(key);
    match work {
        "enrol" => {
            agents::enrol(&path("dir")?, words.get("n")?, &path("cards")?).await?;
            Ok(json!({}))
        }
        "load" => {
            let load = Load { n_ticks: words.or("ticks", 1)?, in_flight: words.get("in_flight")? };
            words.fleet()?.load(load, words.span("warm")?, words.span("span")?).await
        }
        "rest" => {
            let steps: String = words.get("steps")?;
            let steps: Result<Vec<usize>, _> = steps.split(',').map(str::parse).collect();
            words.fleet()?.rest(&steps?, words.span("settle")?).await
        }
        "back" => words.fleet()?.come_back(words.span("jitter")?).await,
        "alone" => words.fleet()?.alone(words.get("n")?).await,
        "victoria" => {
            let (address, n, pid) = (words.get("address")?, words.get("n")?, words.get("pid")?);
            let (n_ticks, spans) =
                (words.or("ticks", 1)?, (words.span("warm")?, words.span("span")?));
            victoria::load(address, (n, n_ticks), pid, spans).await
        }
        "durable" => durable::durable(&path("dir")?),
        "fill" => day::fill(&path("dir")?, words.days()?, words.or("seals", true)?).await,
        "fill-past" => past::fill(&path("dir")?, words.days()?, words.get("days")?).await,
        "read-past" => past::read(&path("dir")?, words.get("from")?..words.get("to")?).await,
        "fill-victoria" => day::fill_victoria(words.get("address")?, words.days()?).await,
        "read-rows" | "top-rows" => rows::read(words, work == "top-rows"),
        "fill-rows" => rows::fill(&path("path")?, words.days()?),
        other => Err(format!("no work {other:?}: see the head of main.rs").into()),
    }
}
