//! Batches whose contents a test knows, and what of them a data directory holds: nothing lost, nothing
//! twice. Reads hot rows and day files by itself, so that it shares no mistake with who serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost::Message as _;
use rusqlite::{Connection, OpenFlags};
use wire::UnixMillis;
use wire::v1::{self, BatchBody, Series, Site, SiteSecond, Tick};

use super::blocks::{BlockError, DayFile, Place};
use super::hours::{Day, Month, hour_of};
use super::rollup::month::{Cell, MonthFile};
use super::rollup::rolled::{BAD_MINUTES, Rolled};
use super::{NewBatch, Store, Watermark};
use crate::clock;
use crate::ingest::convert;
use crate::model::ServerId;

pub(super) const EPOCH: u64 = 1_795_000_000_000;
pub(super) const N_SERVERS: i64 = 3;
/// Hours that are over, in which most of what is sent happened.
const N_HOURS: i64 = 3;

/// What a server sent in one hour: requests by status, and samples by their second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    requests: BTreeMap<u32, u64>,
    samples: BTreeMap<i64, i64>,
}

/// By hour.
pub(super) type Held = BTreeMap<i64, Sums>;

/// When a batch's contents happened: all over some hours that are over, each second once.
fn second_of(base: i64, seq: u64) -> i64 {
    base + (seq.cast_signed() * 367) % (N_HOURS * 3600)
}

/// The first hour of [`second_of`], for a test that begins now.
pub(super) fn base(now: UnixMillis) -> i64 {
    hour_of(now.second()) - (N_HOURS + 2) * 3600
}

fn body(base: i64, seq: u64) -> BatchBody {
    let second = second_of(base, seq);
    let is_failed = seq.is_multiple_of(7);
    let (mut status, mut count) = (vec![200], vec![seq as u32]);
    if is_failed {
        status.push(502);
        count.push(1);
    }
    BatchBody {
        sites: vec![Site { name: format!("site-{}.example", seq % 4), ..Site::default() }],
        seconds: vec![SiteSecond { site: 0, second, status, count }],
        series: vec![Series { metric: "system.cpu.utilization".into(), attribute: String::new() }],
        ticks: vec![Tick {
            at_unix_ms: second * 1000,
            series: vec![0],
            value: vec![seq.cast_signed() % 10_000],
        }],
        ..BatchBody::default()
    }
}

/// One batch as it comes from an agent.
pub(super) fn batch(server: ServerId, base: i64, seq: u64) -> NewBatch {
    let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
    compressor.include_checksum(true).unwrap();
    let body = compressor.compress(&body(base, seq).encode_to_vec()).unwrap();
    let at = second_of(base, seq) * 1000;
    let batch = v1::Batch {
        epoch: EPOCH,
        seq,
        n_lines: 1,
        t_min_unix_ms: at,
        t_max_unix_ms: at,
        urgent: seq.is_multiple_of(7),
        codec: wire::CODEC_ZSTD_BODY,
        body: body.into(),
        ..v1::Batch::default()
    };
    convert::batch(&mut convert::Unpacker::default(), server, batch, clock::now()).new
}

/// What the first `upto` batches of a server hold together.
pub(super) fn truth(base: i64, upto: u64) -> Held {
    let mut held = Held::new();
    for seq in 1..=upto {
        add(&mut held, &body(base, seq), |_| true);
    }
    held
}

fn add(held: &mut Held, body: &BatchBody, takes: impl Fn(i64) -> bool) {
    for second in body.seconds.iter().filter(|second| takes(hour_of(second.second))) {
        let sums = held.entry(hour_of(second.second)).or_default();
        for (status, n) in second.status.iter().zip(&second.count) {
            *sums.requests.entry(*status).or_default() += u64::from(*n);
        }
    }
    for tick in &body.ticks {
        let at = tick.at_unix_ms / 1000;
        if takes(hour_of(at)) {
            held.entry(hour_of(at)).or_default().samples.insert(at, tick.value[0]);
        }
    }
}

/// What a data directory holds, and what of it cannot be read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By server.
    pub(super) held: BTreeMap<i64, Held>,
    /// Parts of hours, by server, that say that they are damaged; or whole hours, of server 0.
    pub(super) damaged: BTreeSet<(i64, i64)>,
}

/// Reads everything below a data directory that nobody writes to.
pub(super) fn read(dir: &Path) -> Found {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(dir.join("gatewatch.db"), flags).unwrap();
    let mut select = conn.prepare("SELECT t0, hot_cut, parts FROM sealed").unwrap();
    let sealed: BTreeMap<i64, (i64, u32)> = select
        .query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let mut found = Found::default();
    let mut select = conn.prepare("SELECT id, server_id, codec & 255, body FROM hot").unwrap();
    let mut rows = select.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let id: i64 = row.get(0).unwrap();
        let packed: Vec<u8> = row.get(3).unwrap();
        let body = convert::unpack(row.get(2).unwrap(), &packed).unwrap();
        let held = found.held.entry(row.get(1).unwrap()).or_default();
        add(held, &body, |hour| sealed.get(&hour).is_none_or(|(cut, _)| id > *cut));
    }
    for (t0, (_, parts)) in &sealed {
        if let Err(error) = read_hour(dir, *t0, *parts, &mut found) {
            assert!(matches!(error, BlockError::Bad(_)), "{error}");
            found.damaged.insert((0, *t0));
        }
    }
    found
}

fn read_hour(dir: &Path, t0: i64, parts: u32, found: &mut Found) -> Result<(), BlockError> {
    let bad = |why: &str| BlockError::Bad(why.to_owned());
    let file = DayFile::open(dir, Day::of(t0).unwrap())?.ok_or_else(|| bad("it is gone"))?;
    if file.parts(t0)? < parts {
        return Err(bad("parts are missing"));
    }
    for part in 0..parts {
        for server in file.servers(t0, part)? {
            let place = Place { t0, server, part };
            let hour = match file.server_hour(place) {
                Ok(hour) => hour,
                Err(BlockError::Bad(_)) => {
                    found.damaged.insert((server.0, t0));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let sums = found.held.entry(server.0).or_default().entry(t0).or_default();
            for count in hour.counts {
                *sums.requests.entry(u32::from(count.status)).or_default() += count.n;
            }
            for column in hour.columns {
                for (at, value) in column.at.iter().zip(&column.values) {
                    sums.samples.insert(t0 + i64::from(*at), *value);
                }
            }
        }
    }
    Ok(())
}

/// Fails unless each server's first batches, at least the acked ones, are there exactly once.
pub(super) fn check_whole(store: &Store, base: i64, acked: &BTreeMap<i64, u64>) {
    let found = read(store.dir());
    assert!(found.damaged.is_empty(), "{:?}", found.damaged);
    for server in 1..=N_SERVERS {
        let mark: Watermark = store.durable(ServerId(server));
        let acked = acked.get(&server).copied().unwrap_or(0);
        assert!(mark.seq >= acked, "{server}: {acked} are acked, {} are there", mark.seq);
        let held = found.held.get(&server).cloned().unwrap_or_default();
        assert_eq!(held, truth(base, mark.seq), "server {server} up to {}", mark.seq);
    }
}

/// Fails unless the month files have every hour that servers sent anything of, each summed up once: from
/// `base` on, up to their watermarks.
pub(super) fn check_months(store: &Store, base: i64) {
    let dir = store.dir();
    let conn = Connection::open_with_flags(
        dir.join("gatewatch.db"),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .unwrap();
    let metric: i64 = conn.query_row("SELECT metric FROM metric", [], |row| row.get(0)).unwrap();
    let hours = base..base + N_HOURS * 3600;
    let mut found: BTreeMap<(i64, i64), Summed> = BTreeMap::new();
    let months: BTreeSet<Month> = hours.clone().step_by(3600).filter_map(Month::of).collect();
    for month in months {
        let file = MonthFile::open(dir, month).unwrap().unwrap();
        let mut see = |cell: Cell, rolled: Result<&mut Rolled, BlockError>| {
            let Rolled { n, sum, min, max, .. } = std::mem::take(rolled.unwrap());
            found.entry((cell.server.0, cell.t0)).or_default().samples = Some((n, sum, min, max));
            true
        };
        file.fleet(metric, &hours, &mut see).unwrap();
        for day in file.days(&hours) {
            for server in 1..=N_SERVERS {
                let Some(sites) = file.sites_day(day, ServerId(server)).unwrap() else { continue };
                for (_, status, numbers) in sites.iter().filter(|(_, key, _)| *key != BAD_MINUTES) {
                    for (t0, n) in (day.first_second()..).step_by(3600).zip(numbers) {
                        if *n > 0 {
                            let of = found.entry((server, t0)).or_default();
                            *of.requests.entry(status.into()).or_default() += n;
                        }
                    }
                }
            }
        }
    }
    let mut sent = BTreeMap::new();
    for server in 1..=N_SERVERS {
        for (t0, sums) in truth(base, store.durable(ServerId(server)).seq) {
            let values = || sums.samples.values().copied();
            let (n, sum) = (sums.samples.len() as u64, values().map(i128::from).sum());
            let samples = values().min().zip(values().max()).map(|(min, max)| (n, sum, min, max));
            sent.insert((server, t0), Summed { requests: sums.requests, samples });
        }
    }
    assert_eq!(found, sent);
}

/// What an hour of a server is summed up to: requests by status; count, sum, least and most of samples.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summed {
    requests: BTreeMap<u32, u64>,
    samples: Option<(u64, i128, i64, i64)>,
}

/// Fails unless SQLite finds every database of the directory sound.
pub(super) fn check_integrity(dir: &Path) {
    let mut paths = vec![dir.join("gatewatch.db")];
    for folder in ["blocks", "rollup"] {
        let Ok(entries) = std::fs::read_dir(dir.join(folder)) else { continue };
        let files = entries.map(|entry| entry.unwrap().path());
        paths.extend(files.filter(|path| path.extension().is_some_and(|e| e == "db")));
    }
    for path in paths {
        let conn = Connection::open(&path).unwrap();
        let said: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(said, "ok", "{}", path.display());
    }
}
