//! A collector that is away for a day: what a busy server makes meanwhile fits the default spool.
//!
//! Real windows, batches and spool; only the traffic is made up. Two hours are encoded, one of them with
//! gateway errors all the time, and spooled in turns for a day: what a batch weighs does not depend on
//! the hour of the day, and unoptimised code would take minutes over 24 of them.

use wire::catalog::{self, Kind};
use wire::v1::Signal;

use super::tests::{FastDisk, now, pass};
use super::*;
use crate::batch::{self, Cover};
use crate::config::Config;
use crate::logs::checkpoint::{FileKey, Fingerprint, Position};
use crate::logs::join::{Exemplar, Request, SiteInfo};
use crate::window::{LogEvidence, Observation, Samples, Windows};

const N_SITES: u32 = 50;
const N_FILES: u64 = 100;
const REQUESTS_PER_SECOND: u32 = 100;
/// Time between batches while nothing fails, and between samples.
const INTERVAL_S: i64 = 10;
const HOUR_S: i64 = 3600;

/// Splitmix64: the traffic is the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 <= x < 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One series with its value now.
struct Series {
    row: &'static catalog::Metric,
    attribute: String,
    value: f64,
}

/// A hosting server: nginx, a PHP-FPM pool for each site, a database.
struct Server {
    dice: Dice,
    sites: Vec<SiteInfo>,
    series: Vec<Series>,
    positions: Vec<Position>,
    windows: Windows,
    n_lines: u64,
    n_bytes: u64,
}

/// Attributes of a metric on such a server; none when it has none of them.
fn attributes(name: &str) -> Vec<String> {
    let many = |key: &str, n: u32| (0..n).map(|ix| format!("{key}={ix:02}.example")).collect();
    let is_of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if is_of(&["container.", "lve.", "openvz.", "apache.", "haproxy.", "memcached."]) {
        return Vec::new();
    }
    match name {
        _ if is_of(&["phpfpm."]) => many("phpfpm.pool", N_SITES),
        _ if is_of(&["system.filesystem."]) => many("system.filesystem.mountpoint", 4),
        _ if is_of(&["system.disk."]) => many("system.device", 3),
        _ if is_of(&["system.network."]) => many("network.interface.name", 2),
        _ if is_of(&["process."]) => many("process.executable.name", 10),
        _ if is_of(&["gatewatch.upstream.", "http.server.probe.", "tls.", "gatewatch.dns"]) => {
            many("server.address", N_SITES)
        }
        _ => vec![String::new()],
    }
}

impl Server {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let sites = (0..N_SITES).map(|ix| SiteInfo {
            name: format!("customer-{ix:02}.example"),
            pool: format!("/run/php/customer-{ix:02}.sock"),
            ..SiteInfo::default()
        });
        let mut series = Vec::new();
        for row in catalog::METRICS {
            for attribute in attributes(row.name) {
                let (low, high) = (row.range.0.max(0.0), row.range.1.min(1e9));
                series.push(Series { row, attribute, value: low + dice.share() * (high - low) });
            }
        }
        let positions = (0..N_FILES).map(|ix| Position {
            path: format!("/var/log/nginx/customer-{:02}.example.{ix}.log", ix / 2).into(),
            key: FileKey { device: 2049, inode: 1_000_000 + dice.next() % 1_000_000 },
            fingerprint: Fingerprint::of(&dice.next().to_le_bytes()),
            offset: dice.next() % (1 << 30),
            is_done: false,
        });
        let positions = positions.collect();
        let (n_lines, n_bytes) = (0, 0);
        let windows = Windows::default();
        Self { sites: sites.collect(), series, positions, windows, n_lines, n_bytes, dice }
    }

    /// The requests of one second. Of a million so many end in a gateway error.
    fn serve(&mut self, second: i64, errors_per_million: f64) {
        for _ in 0..REQUESTS_PER_SECOND {
            // Few sites have most of the visitors.
            let site = (f64::from(N_SITES) * self.dice.share().powi(2)) as u32;
            let status = match self.dice.share() {
                x if x < errors_per_million / 1e6 => 502,
                x if x < 0.85 => 200,
                x if x < 0.91 => 304,
                x if x < 0.95 => 301,
                x if x < 0.98 => 404,
                x if x < 0.99 => 403,
                x if x < 0.997 => 499,
                _ => 500,
            };
            let exemplar = (status == 502).then(|| self.exemplar(second, site));
            self.windows.fold(Request {
                site,
                second,
                status,
                gateway_503: false,
                retried: false,
                crawler: self.dice.share() < 0.2,
                own: false,
                exemplar,
                other: false,
                clamped: false,
            });
            let n_bytes = 120 + self.dice.next() % 200;
            self.positions[site as usize * 2].offset += n_bytes;
            self.windows.read(1, n_bytes);
            (self.n_lines, self.n_bytes) = (self.n_lines + 1, self.n_bytes + n_bytes);
            if status == 502 {
                self.positions[site as usize * 2 + 1].offset += 300;
            }
        }
    }

    fn exemplar(&mut self, second: i64, site: u32) -> Exemplar {
        let at = UnixMillis(second * 1000 + (self.dice.next() % 1000).cast_signed());
        let path = format!("/shop/product-{}/review", self.dice.next() % 100_000);
        Exemplar {
            at,
            status: 502,
            signal: Some(Signal::Reset),
            client_hash: self.dice.next(),
            path_hash: self.dice.next(),
            client: format!("203.0.{}.0", self.dice.next() % 256),
            method: "GET".to_owned(),
            upstream: format!("/run/php/customer-{site:02}.sock"),
            message: Some(format!(
                "recv() failed (104: Connection reset by peer) while reading response header from \
                 upstream, client: 203.0.113.0, server: customer-{site:02}.example, request: \
                 \"GET {path} HTTP/1.1\", upstream: \"fastcgi://unix:/run/php/customer-{site:02}.sock:\""
            )),
            path,
            ..Exemplar::default()
        }
    }

    /// All series at one instant: half of the levels move, every counter of a busy thing rises.
    fn sample(&mut self, second: i64) {
        let mut samples: Samples = (UnixMillis::from_second(second), Vec::new());
        for series in &mut self.series {
            let dice = self.dice.share();
            match series.row.kind {
                Kind::Counter => series.value += (dice * dice * 10_000.0).floor(),
                Kind::Gauge if dice < 0.5 => {
                    let moved = series.value * (0.98 + 0.04 * self.dice.share());
                    series.value = moved.clamp(series.row.range.0, series.row.range.1);
                }
                Kind::Gauge => {}
            }
            samples.1.push((series.row.name, series.attribute.clone(), series.value));
        }
        self.windows.observe(Observation::Samples { at: samples.0, values: samples.1 });
    }

    /// What the spool is given for one hour. An error is sent in its second, with samples each second.
    fn hour(&mut self, from: i64, errors_per_million: f64) -> Vec<(Vec<u8>, Volume)> {
        let mut batches = Vec::new();
        let (mut spooled, mut sampled_fast_until) = (self.positions.clone(), i64::MIN);
        for second in from..from + HOUR_S {
            self.serve(second, errors_per_million);
            if self.windows.is_urgent() {
                sampled_fast_until = second + 60;
            }
            let is_tick = (second + 1) % INTERVAL_S == 0;
            if is_tick || second < sampled_fast_until {
                self.sample(second + 1);
            }
            if (second + 1) % 60 == 0 {
                let message = format!("firewall: {} attempts refused", self.dice.next() % 1000);
                self.windows.observe(Observation::Log(LogEvidence {
                    source: "firewall",
                    message,
                    at: UnixMillis::from_second(second),
                    signal: None,
                    pool: None,
                }));
            }
            if !(is_tick || self.windows.is_urgent()) {
                continue;
            }
            let moved = self.positions.iter().zip(&spooled).filter(|(now, then)| now != then);
            let cover = Cover {
                complete_until: UnixMillis::from_second(second + 1),
                offsets: moved.map(|(now, _)| now.clone()).collect(),
                inventory: None,
            };
            spooled.clone_from(&self.positions);
            let encoded = batch::encode(&self.windows.close(), &self.sites, &cover);
            assert_eq!(encoded.n_left_out, 0);
            let volume = Volume { n_lines: encoded.n_lines.into(), n_bytes: encoded.n_bytes };
            batches.push((encoded.payload, volume));
        }
        batches
    }
}

#[test]
fn a_day_without_a_collector_fits_the_default_spool_of_a_busy_server() {
    let start = now().second() / HOUR_S * HOUR_S;
    let mut server = Server::new(7);
    assert!(server.series.len() > 1000, "{}", server.series.len());
    // One request in 10,000 fails in a calm hour: still an error each 100 s, and 60 s of fast samples.
    let hours = [server.hour(start, 0.0), server.hour(start + HOUR_S, 100.0)];
    let sizes = hours.each_ref().map(|hour| hour.iter().map(|(body, _)| body.len()).sum::<usize>());
    let dir = tempfile::tempdir().unwrap();
    let bytes_max = Config::default().limits.spool_bytes_max.0;
    assert_eq!(bytes_max, 256 << 20, "the default that is promised");
    let (mut spool, _) =
        Spool::open_on(dir.path(), bytes_max, now(), Box::new(FastDisk), now).unwrap();
    let mut sent = Volume::default();
    let mut n_batches = 0;
    for hour in 0..24 {
        let batches = &hours[hour % 2];
        for (payload, volume) in batches {
            let pos = spool.append(payload, *volume).unwrap();
            spool.set_checkpointed(pos).unwrap();
            sent = sent.plus(*volume);
            n_batches += 1;
            pass(Duration::from_secs(HOUR_S as u64) / batches.len() as u32);
        }
    }
    let stats = spool.stats();
    let per_hour = stats.bytes as f64 / 24.0;
    println!(
        "{N_SITES} sites, {REQUESTS_PER_SECOND} requests/s, {} series: {:.1} MiB a calm hour ({} \
         batches), {:.1} MiB with errors ({} batches); {:.0} MiB a day; {:.0} h fit {} MiB",
        server.series.len(),
        sizes[0] as f64 / f64::from(1 << 20),
        hours[0].len(),
        sizes[1] as f64 / f64::from(1 << 20),
        hours[1].len(),
        stats.bytes as f64 / f64::from(1 << 20),
        bytes_max as f64 / per_hour,
        bytes_max >> 20,
    );
    assert_eq!(server.n_lines, u64::from(REQUESTS_PER_SECOND) * 2 * HOUR_S as u64);
    assert_eq!((sent.n_lines, sent.n_bytes), (12 * server.n_lines, 12 * server.n_bytes));
    assert_eq!((stats.n_batches_evicted, stats.evicted), (0, Volume::default()));
    assert_eq!((stats.seq_first, stats.seq_last, stats.seq_acked), (1, n_batches, 0));

    // The collector is back after a day and a restart of the agent: everything is there.
    drop(spool);
    let (mut spool, recovery) =
        Spool::open_on(dir.path(), bytes_max, now(), Box::new(FastDisk), now).unwrap();
    assert_eq!((recovery.n_records, recovery.n_records_corrupt), (n_batches, 0));
    let mut delivered = Volume::default();
    let mut seq = 1;
    while let Some(record) = spool.peek(Seq(seq)).unwrap() {
        assert_eq!((record.seq, record.evicted_before), (Seq(seq), Evicted::default()));
        delivered = delivered.plus(record.volume);
        seq += 1;
    }
    assert_eq!((seq - 1, delivered), (n_batches, sent));
}
