//! How fast the detector takes records that are decoded: `detector_speed SERVERS SITES SECONDS PERIOD`;
//! and, as the reference of `replay`, `detector_speed values FILE`: every line to a JSON value.
//!
//! A quiet fleet, every site with a request each PERIOD seconds, its batches each ten seconds. Prints
//! one JSON object: records, the seconds they took, and what share of a core a live fleet of that
//! size costs. Part of `tests/bench.sh`, row C7.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::time::Duration;

use gatewatch_collector::clock;
use gatewatch_collector::config::DetectConfig;
use gatewatch_collector::detect::Engine;
use gatewatch_collector::model::{Counts, Record, ServerId, SiteId};
use wire::UnixMillis;

/// 2026-11-20T12:00:00Z.
const NOON: i64 = 1_795_176_000_000;
/// Seconds of one batch.
const BATCH_S: i64 = 10;

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    if let (Some("values"), Some(file)) = (words.next().as_deref(), words.next()) {
        let mut n = 0_u64;
        for line in io::BufReader::with_capacity(1 << 18, File::open(file)?).split(b'\n') {
            n += u64::from(serde_json::from_slice::<serde_json::Value>(&line?)?.is_object());
        }
        return writeln!(io::stdout(), "{n}");
    }
    let words: Vec<i64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [n_servers, n_sites, n_seconds, period] = words[..] else {
        return Err(io::Error::other("usage: detector_speed SERVERS SITES SECONDS PERIOD"));
    };
    let mut engine = Engine::new(&DetectConfig::default());
    introduce(&mut engine, n_servers, n_sites);
    let (mut n_records, mut n_seconds_fed, mut spent) = (0_u64, 0, Duration::ZERO);
    let mut from = 0;
    while from < n_seconds {
        for server in 0..n_servers {
            // Batches of the servers are spread over the ten seconds.
            let arrived = NOON + (from + BATCH_S) * 1000 + server * 10_000 / n_servers;
            let batch = batch(server, n_sites, from, period);
            n_records += batch.len() as u64 - 1;
            let began = clock::instant();
            drop(engine.advance(UnixMillis(arrived - 1)));
            drop(engine.fold_batch(UnixMillis(arrived), batch.iter()));
            spent += began.elapsed();
        }
        from += BATCH_S;
        n_seconds_fed += BATCH_S;
    }
    let seconds = spent.as_secs_f64();
    writeln!(
        io::stdout(),
        "{}",
        serde_json::json!({
            "n_records": n_records, "seconds": seconds,
            "records_per_s": n_records as f64 / seconds,
            "core_share": seconds / n_seconds_fed as f64,
        })
    )
}

fn introduce(engine: &mut Engine, n_servers: i64, n_sites: i64) {
    for server in 0..n_servers {
        let labels = BTreeMap::from([("rack".to_owned(), format!("r{}", server / 20))]);
        let (name, heartbeat) = (format!("web-{server:05}"), Duration::from_secs(5));
        let record = Record::Server { server: ServerId(server), name, labels, n_cpu: 4, heartbeat };
        engine.fold(UnixMillis(NOON), &record);
        for site in 0..n_sites {
            let record = Record::Site {
                site: SiteId(server * n_sites + site),
                server: ServerId(server),
                name: format!("shop{site:03}.example"),
                pool: Some("www".to_owned()),
                upstream: None,
                baseline: None,
            };
            engine.fold(UnixMillis(NOON), &record);
        }
    }
}

/// What one server sends of ten seconds, second by second.
fn batch(server: i64, n_sites: i64, from: i64, period: i64) -> Vec<Record> {
    let mut records = Vec::new();
    for second in from..from + BATCH_S {
        for site in (0..n_sites).filter(|site| (site + second) % period == 0) {
            records.push(Record::Requests {
                site: SiteId(server * n_sites + site),
                at: UnixMillis(NOON + second * 1000),
                counts: Counts { n: 3, ..Counts::default() },
            });
        }
    }
    let at = UnixMillis(NOON + (from + BATCH_S) * 1000);
    records.push(Record::Complete { server: ServerId(server), at });
    records
}
