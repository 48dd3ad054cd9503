//! Months of a fleet that was watched for long: sums of a few real days, told again for every server and
//! day, and some hours that are not summed up, the last of which is not packed. And how long it takes to
//! read all of it as a report does.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use gatewatch_collector::clock;
use gatewatch_collector::model::ServerId;
use gatewatch_collector::store::Store;
use gatewatch_collector::store::history::{History, Limits, Spread};
use gatewatch_collector::store::read;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::agents::Failed;
use crate::cost::{disk_bytes, peak_rss_kib};
use crate::day::{self, Days};
use crate::values::Dice;

const DAY_S: i64 = 86_400;
/// Servers and days that are summed up for real.
const N_TEMPLATES: u64 = 20;
const N_TEMPLATE_DAYS: i64 = 2;
/// The key of the minutes with a gateway error, beside statuses.
const BAD_MINUTES: i64 = 1024;
const KEY_BITS: i64 = 11;
/// Column as steps, zigzag, varint, zstd.
const CODEC_VARINT: u8 = 2;

/// Sums of a day: by metric and attribute and server of the template.
type Sums = BTreeMap<(String, String), BTreeMap<(i64, i64), Vec<u8>>>;

/// Fills a new store in `dir`: so many days of sums before the day of `days.from`, and `days.n_hours` hours
/// from then on, the last of which stays as it came.
pub(crate) async fn fill(dir: &Path, days: Days, n_days: i64) -> Result<Value, Failed> {
    let template = dir.with_extension("template");
    std::fs::create_dir_all(&template)?;
    let today = days.from.div_euclid(DAY_S) * DAY_S;
    let from = today - 40 * DAY_S;
    let few = Days {
        n_servers: N_TEMPLATES,
        from,
        n_hours: N_TEMPLATE_DAYS * 24,
        n_sites: 0,
        per_batch: 360,
        ..days
    };
    day::fill(&template, few, true).await?;
    let sums = sums(&template, from)?;
    day::fill_open(dir, days).await?;
    let main = Connection::open(dir.join("gatewatch.db"))?;
    let ids = ids(&main, &sums)?;
    let sites = sites(&main)?;
    let mut n_rows = 0;
    let mut month: Option<(String, Connection)> = None;
    for ix in (1..=n_days).rev() {
        let day = today - ix * DAY_S;
        let at = jiff::Timestamp::from_second(day)?.to_zoned(jiff::tz::TimeZone::UTC);
        let name = at.strftime("%Y%m").to_string();
        if month.as_ref().is_none_or(|(open, _)| *open != name) {
            month = Some((name.clone(), new_month(dir, &template, &name)?));
        }
        let Some((_, file)) = &month else { continue };
        n_rows += put(file, day, (&sums, &ids), &sites, days.n_servers as i64)?;
        main.execute("INSERT OR IGNORE INTO summed(day) VALUES (?1)", [day])?;
    }
    let set = "INSERT OR REPLACE INTO state(k, v) VALUES ('raw_from', ?1)";
    main.execute(set, [today])?;
    std::fs::remove_dir_all(&template)?;
    Ok(json!({
        "n_rows": n_rows, "rollup_bytes": disk_bytes(&dir.join("rollup")),
        "block_bytes": disk_bytes(&dir.join("blocks")),
    }))
}

/// What the template's month files hold, by metric.
fn sums(template: &Path, from: i64) -> Result<Sums, Failed> {
    let main = Connection::open(template.join("gatewatch.db"))?;
    let mut names = BTreeMap::new();
    let mut query = main.prepare("SELECT metric, name, attribute FROM metric")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        names.insert(row.get::<_, i64>(0)?, (row.get::<_, String>(1)?, row.get::<_, String>(2)?));
    }
    let mut sums = Sums::new();
    for file in std::fs::read_dir(template.join("rollup"))? {
        let path = file?.path();
        if path.extension().is_none_or(|ext| ext != "db") {
            continue;
        }
        let month = Connection::open(path)?;
        let mut query = month.prepare("SELECT day, metric, server_id, body FROM series")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let day = (row.get::<_, i64>(0)? - from) / DAY_S;
            let Some(name) = names.get(&row.get(1)?) else { continue };
            sums.entry(name.clone()).or_default().insert((day, row.get(2)?), row.get(3)?);
        }
    }
    Ok(sums)
}

/// Ids of the same series in the store that is filled.
fn ids(main: &Connection, sums: &Sums) -> Result<BTreeMap<i64, (String, String)>, Failed> {
    let mut ids = BTreeMap::new();
    for (name, attribute) in sums.keys() {
        let query = "SELECT metric FROM metric WHERE name = ?1 AND attribute = ?2";
        let id = main.query_row(query, params![name, attribute], |row| row.get::<_, i64>(0))?;
        ids.insert(id, (name.clone(), attribute.clone()));
    }
    Ok(ids)
}

fn sites(main: &Connection) -> Result<BTreeMap<i64, Vec<i64>>, Failed> {
    let mut sites: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    let mut query = main.prepare("SELECT server_id, site_id FROM site ORDER BY site_id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        sites.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    Ok(sites)
}

/// An empty month file: one of the template's, without its rows.
fn new_month(dir: &Path, template: &Path, name: &str) -> Result<Connection, Failed> {
    let like = std::fs::read_dir(template.join("rollup"))?
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "db"))
        .ok_or("the template has no sums")?;
    let like = Connection::open(like)?;
    std::fs::create_dir_all(dir.join("rollup"))?;
    let file = Connection::open(dir.join("rollup").join(format!("{name}.db")))?;
    file.execute_batch(
        "PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
         PRAGMA cache_size=-65536;",
    )?;
    let mut query = like.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        file.execute_batch(&row.get::<_, String>(0)?)?;
    }
    for pragma in ["application_id", "user_version"] {
        let value: i64 = like.pragma_query_value(None, pragma, |row| row.get(0))?;
        file.pragma_update(None, pragma, value)?;
    }
    file.execute("INSERT INTO file(month) VALUES (?1)", [name])?;
    Ok(file)
}

/// Writes a day of all servers, in the order of the file's keys. How many rows.
fn put(
    file: &Connection,
    day: i64,
    (sums, ids): (&Sums, &BTreeMap<i64, (String, String)>),
    sites: &BTreeMap<i64, Vec<i64>>,
    n_servers: i64,
) -> Result<u64, Failed> {
    let tx = file.unchecked_transaction()?;
    let mut n = 0;
    let mut series = tx.prepare_cached(
        "INSERT INTO series(day, metric, server_id, crc, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (metric, name) in ids {
        let of = &sums[name];
        for server in 1..=n_servers {
            let like = (server - 1) % N_TEMPLATES as i64 + 1;
            let which = ((day / DAY_S + server / N_TEMPLATES as i64) % N_TEMPLATE_DAYS, like);
            let Some(body) = of.get(&which) else { continue };
            series.execute(params![day, metric, server, crc(day, *metric, server, body), body])?;
            n += 1;
        }
    }
    let insert = "INSERT INTO sites(day, server_id, crc, body) VALUES (?1, ?2, ?3, ?4)";
    let mut insert = tx.prepare_cached(insert)?;
    for (server, of) in sites {
        let body = requests(of, &mut Dice::new((day * 1009 + server).cast_unsigned()));
        insert.execute(params![day, server, crc(day, -1, *server, &body), body])?;
        n += 1;
    }
    drop((series, insert));
    tx.commit()?;
    Ok(n)
}

fn crc(day: i64, metric: i64, server: i64, body: &[u8]) -> i64 {
    let head = [day, metric, server].map(i64::to_le_bytes);
    i64::from(crc32c::crc32c_append(crc32c::crc32c(head.as_flattened()), body))
}

/// A day of requests of some sites: each hour some that went well, rarely minutes with a gateway error.
fn requests(sites: &[i64], dice: &mut Dice) -> Vec<u8> {
    let (mut keys, mut masks, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for site in sites {
        let failed = if dice.share() < 0.05 { 1 << (dice.next() % 24) } else { 0 };
        for (key, mask) in
            [(200, (1 << 24) - 1), (404, (1 << 24) - 1), (502, failed), (BAD_MINUTES, failed)]
        {
            let mask: i64 = mask;
            if mask == 0 {
                continue;
            }
            keys.push((site << KEY_BITS) | key);
            masks.push(mask);
            let most = if key == BAD_MINUTES { 5 } else { 2000 };
            numbers.extend((0..mask.count_ones()).map(|_| 1 + (dice.next() % most).cast_signed()));
        }
    }
    let mut body = Vec::new();
    put_varint(&mut body, keys.len() as u64);
    for column in [keys, masks, numbers] {
        let (mut plain, mut last) = (Vec::new(), 0_i64);
        for value in column {
            let step = value - last;
            put_varint(&mut plain, ((step << 1) ^ (step >> 63)).cast_unsigned());
            last = value;
        }
        let packed = zstd::bulk::compress(&plain, 3).expect("memory to memory");
        body.push(CODEC_VARINT);
        put_varint(&mut body, packed.len() as u64);
        body.extend(packed);
    }
    body
}

fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push((value as u8) | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Reads all hours of all metrics as a report does: sums of each series, and a percentile of each hour.
pub(crate) async fn read(dir: &Path, hours: Range<i64>) -> Result<Value, Failed> {
    let store = Store::open(dir)?;
    let began = clock::instant();
    let limits = Limits::within(Duration::from_secs(600));
    let read = move |history: &History<'_>| {
        let names = read::server_names(history.conn())?;
        let servers: BTreeSet<ServerId> = names.into_iter().map(|(server, _)| server).collect();
        let mut took = Vec::new();
        let (mut n_hours, mut sum, mut n_series) = (0_u64, 0.0, 0);
        let metrics: BTreeSet<&str> = crate::values::SERIES.iter().map(|(name, _)| *name).collect();
        for name in metrics {
            let began = clock::instant();
            let Some(metric) = wire::catalog::find(name) else { continue };
            let mut of = BTreeMap::new();
            history.hourly(metric, &servers, &hours, &mut |hour| {
                n_hours += 1;
                sum += hour.spread.quantile(0.95).unwrap_or(0.0);
                match of.get_mut(&hour.server) {
                    None => drop(of.insert(hour.server, hour.spread.clone())),
                    Some(all) => Spread::merge(all, hour.spread),
                }
            })?;
            n_series += of.len();
            took.push((name, began.elapsed().as_secs_f64()));
        }
        let began = clock::instant();
        let mut n_sites = 0_u64;
        history.site_hours(&servers, &hours, &mut |_| n_sites += 1)?;
        took.push(("sites", began.elapsed().as_secs_f64()));
        Ok((n_hours, sum, n_series, n_sites, took))
    };
    let told = store.history(limits, read).await?;
    let (n_hours, sum, n_series, n_sites, took) = told.value;
    let seconds = began.elapsed().as_secs_f64();
    let notes = serde_json::to_value(&told.notes)?;
    store.close().await?;
    Ok(json!({
        "seconds": seconds, "peak_rss_kib": peak_rss_kib(std::process::id()), "n_hours": n_hours,
        "n_series": n_series, "n_sites": n_sites, "sum": sum, "took": took, "notes": notes,
    }))
}
