//! How fast the detector takes records that are decoded: `detector_speed SERVERS SITES SECONDS PERIOD
//! [FAILING]`; and, as the reference of `replay`, `detector_speed values FILE`: every line to a JSON
//! value.
//!
//! A fleet whose sites have a request each PERIOD seconds. Quiet, its batches come each ten seconds;
//! from the middle on the first FAILING servers fail with everything they have, and send each second.
//! Prints one JSON object: records, the seconds they took, what share of a core a live fleet of that
//! size costs, the same and the longest second while servers fail, and memory for each site. Part of
//! `tests/bench.sh`, row C7.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::ops::Range;
use std::time::Duration;

use gatewatch_collector::config::DetectConfig;
use gatewatch_collector::detect::Engine;
use gatewatch_collector::model::{Counts, Exemplar, Record, ServerId, SiteId};
use wire::UnixMillis;
use wire::v1::Signal;

/// 2026-11-20T12:00:00Z.
const NOON: i64 = 1_795_176_000_000;
/// Seconds of one batch.
const BATCH_S: i64 = 10;
/// Batches that are made before their time is taken: few, so that they are no part of the memory.
const CHUNK: usize = 50;

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
    let (fleet, n_seconds) = match words[..] {
        [n_servers, n_sites, n_seconds, period] => {
            (Traffic { n_servers, n_sites, period, n_failing: 0 }, n_seconds)
        }
        [n_servers, n_sites, n_seconds, period, n_failing] => {
            (Traffic { n_servers, n_sites, period, n_failing }, n_seconds)
        }
        _ => {
            let usage = "usage: detector_speed SERVERS SITES SECONDS PERIOD [FAILING]";
            return Err(io::Error::other(usage));
        }
    };
    let mut run = Run::default();
    let before = resident_bytes();
    let mut engine = Engine::new(&DetectConfig::default());
    introduce(&mut engine, fleet.n_servers, fleet.n_sites);
    let mut quiet_s = if fleet.n_failing > 0 { n_seconds / 2 } else { n_seconds };
    quiet_s -= quiet_s % BATCH_S;
    for from in (0..quiet_s).step_by(BATCH_S as usize) {
        run.slice(&mut engine, &fleet, from, BATCH_S, false);
    }
    let quiet = run.spent.as_secs_f64();
    let held = resident_bytes().saturating_sub(before);
    let mut slowest = Duration::ZERO;
    // The last batches of the quiet time were under way for ten seconds.
    let failing = if fleet.n_failing > 0 { quiet_s + BATCH_S..n_seconds } else { 0..0 };
    let n_failing_s = failing.clone().count();
    for from in failing {
        let spent = run.spent;
        run.slice(&mut engine, &fleet, from, 1, true);
        slowest = slowest.max(run.spent.saturating_sub(spent));
    }
    let seconds = run.spent.as_secs_f64();
    writeln!(
        io::stdout(),
        "{}",
        serde_json::json!({
            "n_records": run.n_records, "seconds": seconds,
            "records_per_s": run.n_records as f64 / seconds,
            "core_share": quiet / quiet_s as f64,
            "core_share_failing": (seconds - quiet) / n_failing_s.max(1) as f64,
            "slowest_second": slowest.as_secs_f64(),
            "n_transitions": run.n_transitions,
            "bytes_per_site": held / (fleet.n_servers * fleet.n_sites) as u64,
        })
    )
}

/// What a fleet sends.
struct Traffic {
    n_servers: i64,
    n_sites: i64,
    /// Seconds from one request of a site to its next.
    period: i64,
    /// Servers that fail in the second half.
    n_failing: i64,
}

/// What was fed so far.
#[derive(Default)]
struct Run {
    n_records: u64,
    n_transitions: usize,
    spent: Duration,
}

impl Run {
    /// Feeds the seconds from `from` on, one batch of each server; those are spread over the slice.
    fn slice(&mut self, engine: &mut Engine, of: &Traffic, from: i64, n: i64, fails: bool) {
        let all: Vec<i64> = (0..of.n_servers).collect();
        for servers in all.chunks(CHUNK) {
            let records = |no: &i64| batch(of, *no, from..from + n, fails && *no < of.n_failing);
            let batches: Vec<Vec<Record>> = servers.iter().map(records).collect();
            let began = ran();
            for (server, batch) in servers.iter().zip(&batches) {
                let arrived = NOON + (from + n) * 1000 + server * n * 1000 / of.n_servers;
                let acted = engine.advance(UnixMillis(arrived - 1)).len();
                let taken = engine.fold_batch(UnixMillis(arrived), batch.iter()).len();
                self.n_records += batch.len() as u64 - 1;
                self.n_transitions += acted + taken;
            }
            self.spent += ran().saturating_sub(began);
        }
    }
}

/// Processor time of this process so far, so that a busy machine does not count (Linux, proc(5)).
fn ran() -> Duration {
    let said = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let ns = said.split_whitespace().next().and_then(|ns| ns.parse().ok());
    ns.map_or(Duration::ZERO, Duration::from_nanos)
}

/// Memory of this process that is in use; 0 where that is unknown.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
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

/// What one server sends of these seconds, second by second.
fn batch(of: &Traffic, server: i64, seconds: Range<i64>, fails: bool) -> Vec<Record> {
    let mut records = Vec::new();
    let end = UnixMillis(NOON + seconds.end * 1000);
    for second in seconds {
        for no in (0..of.n_sites).filter(|no| (no + second) % of.period == 0) {
            let (site, at) = (SiteId(server * of.n_sites + no), UnixMillis(NOON + second * 1000));
            let n_502 = if fails { 3 } else { 0 };
            let counts = Counts { n: 3, n_502, ..Counts::default() };
            records.push(Record::Requests { site, at, counts });
            if fails {
                let client = (second * 1_000_003 + site.0).cast_unsigned() + 1;
                records.push(Record::Exemplar(exemplar(site, at, client)));
            }
        }
    }
    records.push(Record::Complete { server: ServerId(server), at: end });
    records
}

fn exemplar(site: SiteId, at: UnixMillis, client: u64) -> Exemplar {
    let message = Some("connect() failed (111: Connection refused)".to_owned());
    let (pool, upstream) = (Some("www".to_owned()), None);
    let signal = Some(Signal::ConnectRefused);
    Exemplar { site, at, status: 502, pool, client, path: 7, upstream, message, signal }
}
