//! Days summed up as the keeper does it: late parts, crashes, damage, 90 days, sizes, zones.

use std::path::Path;

use super::*;
use crate::config::{RetentionConfig, StoreConfig};
use crate::model::SiteId;
use crate::store::Store;
use crate::store::blocks::{ServerHour, SiteCount};
use crate::store::hours::Month;
use crate::store::rollup::rolled::BAD_MINUTES;

/// 2026-11-20T00:00:00Z.
const T0: i64 = 1_795_132_800;
const DAY_S: i64 = 86_400;
const WEB: ServerId = ServerId(7);

struct Site {
    dir: tempfile::TempDir,
    keeper: Keeper,
}

/// Where a child process puts its files; see `files_are_the_same_whatever_the_zone`.
const CHILD_DIR: &str = "GATEWATCH_TEST_ZONE_DIR";

impl Site {
    async fn new() -> Self {
        Self::below(&std::env::temp_dir()).await
    }

    async fn below(dir: &Path) -> Self {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let add = |tx: &Connection| {
            tx.execute_batch(
                "INSERT INTO metric(metric, name, attribute, scale, unit) VALUES
                 (1, 'system.cpu.utilization', '', 10000, '1'),
                 (2, 'system.network.io.receive', 'device=eth0', 1, 'By');",
            )
        };
        store.write(move |tx| add(tx)).await.unwrap();
        let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
        let keeper = Keeper::new(store, pace, retention, CancellationToken::new());
        Self { dir, keeper }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Packs one part of an hour as sealing does.
    async fn seal(&self, t0: i64, part: u32, servers: &[(ServerId, ServerHour)]) {
        let mut file = DayFile::create(self.path(), Day::of(t0).unwrap()).unwrap();
        let place = |server| Place { t0, server, part };
        let rows: Vec<_> =
            servers.iter().map(|(server, hour)| (place(*server), hour.clone())).collect();
        file.put(&rows).unwrap();
        file.finish(t0, part, rows.len() as u64).unwrap();
        let mark = move |tx: &Connection| {
            tx.execute(
                "INSERT INTO sealed(t0, hot_cut, parts, at) VALUES (?1, 1, ?2, 0)
                 ON CONFLICT DO UPDATE SET parts = ?2",
                params![t0, part + 1],
            )
        };
        self.keeper.store.write(move |tx| mark(tx)).await.unwrap();
    }

    /// The same of many whole hours of one server.
    async fn seal_all(&self, hours: Vec<(i64, ServerHour)>) {
        for day in hours.chunk_by(|one, next| Day::of(one.0) == Day::of(next.0)) {
            let mut file = DayFile::create(self.path(), Day::of(day[0].0).unwrap()).unwrap();
            let place = |t0| Place { t0, server: WEB, part: 0 };
            let rows: Vec<_> = day.iter().map(|(t0, hour)| (place(*t0), hour.clone())).collect();
            file.put(&rows).unwrap();
            for (place, _) in &rows {
                file.finish(place.t0, 0, 1).unwrap();
            }
        }
        let t0s: Vec<i64> = hours.iter().map(|(t0, _)| *t0).collect();
        let mark = move |tx: &Connection| {
            for t0 in t0s {
                tx.execute("INSERT INTO sealed VALUES (?1, 1, 1, 0, 0, 0)", [t0])?;
            }
            Ok(())
        };
        self.keeper.store.write(move |tx| mark(tx)).await.unwrap();
    }

    async fn pass(&self, second: i64) {
        pass(&self.keeper, UnixMillis::from_second(second)).await.unwrap();
    }

    fn n_rolled(&self) -> u64 {
        self.keeper.store.stats().hours_rolled.get()
    }

    fn month(&self) -> MonthFile {
        MonthFile::open(self.path(), Month::of(T0).unwrap()).unwrap().unwrap()
    }

    /// (server, hour from the first, n, sum, min, max) of a metric.
    fn hours(&self, metric: i64) -> Vec<(i64, i64, u64, i128, i64, i64)> {
        let mut found = Vec::new();
        let mut see = |cell: month::Cell, hour: Result<&mut Rolled, BlockError>| {
            let Rolled { n, sum, min, max, .. } = std::mem::take(hour.unwrap());
            found.push((cell.server.0, (cell.t0 - T0) / HOUR_S, n, sum, min, max));
            true
        };
        self.month().fleet(metric, &(0..i64::MAX), &mut see).unwrap();
        found
    }

    fn break_block(&self, t0: i64, table: &str) {
        let path = self.path().join(Day::of(t0).unwrap().file());
        let conn = Connection::open(path).unwrap();
        let sql =
            format!("UPDATE {table} SET crc = crc + 1 WHERE t0 = {t0} AND server_id = {}", WEB.0);
        conn.execute(&sql, []).unwrap();
    }
}

fn column(metric: i64, samples: &[(u16, i64)]) -> Column {
    let (at, values) = samples.iter().copied().unzip();
    Column { metric, at, values }
}

fn hour(columns: Vec<Column>, counts: &[(i64, u16, u16, u64)]) -> ServerHour {
    let count = |(site, status, second, n): &(i64, u16, u16, u64)| SiteCount {
        site: SiteId(*site),
        status: *status,
        second: *second,
        n: *n,
    };
    let counts = counts.iter().map(count).collect();
    ServerHour { columns, counts, ..ServerHour::default() }
}

#[tokio::test]
async fn a_day_is_summed_up_once_it_is_over() {
    let site = Site::new().await;
    let cpu = column(1, &[(0, 100), (10, 300)]);
    let bytes = column(2, &[(0, 1000), (60, 7000)]);
    let counts = [(3, 200, 0, 9), (3, 502, 61, 2)];
    let one = (WEB, hour(vec![cpu, bytes], &counts));
    let two = (ServerId(8), hour(vec![column(1, &[(5, -4)])], &[]));
    site.seal(T0, 0, &[one.clone(), two]).await;
    site.seal(T0 + 23 * HOUR_S, 0, &[one]).await;

    site.pass(T0 + DAY_S + HOUR_S).await;
    assert_eq!(site.n_rolled(), 0, "it is still waited for");
    for _ in 0..2 {
        site.pass(T0 + DAY_S + 2 * HOUR_S).await;
        assert_eq!(site.n_rolled(), 2, "each hour once");
    }
    let cpu = [(7, 0, 2, 400, 100, 300), (7, 23, 2, 400, 100, 300), (8, 0, 1, -4, -4, -4)];
    assert_eq!(site.hours(1), cpu);
    let bytes = [(7, 0, 60, 6000, 6000, 6000), (7, 23, 60, 6000, 6000, 6000)];
    assert_eq!(site.hours(2), bytes, "a counter by what it rose");
    let sites = site.month().sites_day(Day::of(T0).unwrap(), WEB).unwrap().unwrap();
    let sites: Vec<_> = sites.iter().map(|(site, key, n)| (site.0, key, n[0], n[23])).collect();
    assert_eq!(sites, [(3, 200, 9, 9), (3, 502, 2, 2), (3, BAD_MINUTES, 1, 1)]);
}

#[tokio::test]
async fn what_comes_late_is_added_to_the_sum_of_its_hour() {
    let site = Site::new().await;
    let first = hour(vec![column(1, &[(0, 100), (10, 300)])], &[(3, 502, 0, 1)]);
    site.seal(T0, 0, &[(WEB, first.clone()), (ServerId(8), first)]).await;
    site.pass(T0 + 2 * DAY_S).await;
    let late = hour(vec![column(1, &[(10, 500), (20, 600)])], &[(3, 502, 30, 4), (3, 502, 60, 1)]);
    site.seal(T0, 1, &[(WEB, late)]).await;
    site.pass(T0 + 2 * DAY_S).await;
    assert_eq!(site.n_rolled(), 2);
    assert_eq!(site.hours(1), [(7, 0, 3, 1200, 100, 600), (8, 0, 2, 400, 100, 300)]);
    let sites = site.month().sites_day(Day::of(T0).unwrap(), WEB).unwrap().unwrap();
    let sites: Vec<_> = sites.iter().map(|(site, key, n)| (site.0, key, n[0])).collect();
    assert_eq!(sites, [(3, 502, 6), (3, BAD_MINUTES, 2)]);
}

#[tokio::test]
async fn a_crash_before_the_mark_repeats_the_day_to_the_same_rows() {
    let site = Site::new().await;
    let one = hour(vec![column(1, &[(0, 100)]), column(2, &[(0, 1), (9, 5)])], &[(3, 200, 0, 1)]);
    site.seal(T0 + HOUR_S, 0, &[(WEB, one)]).await;
    site.pass(T0 + 2 * DAY_S).await;
    let all = |site: &Site| {
        let month = site.month();
        let mut query = month.conn().prepare("SELECT metric, crc, hex(body) FROM series").unwrap();
        let rows = query.query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        });
        rows.unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    let before = all(&site);
    site.keeper.store.write(|tx| tx.execute("UPDATE sealed SET rolled = 0", [])).await.unwrap();
    site.pass(T0 + 2 * DAY_S).await;
    assert_eq!((all(&site), site.n_rolled()), (before, 2));
}

#[tokio::test]
async fn a_damaged_block_is_left_out_and_told_and_what_was_known_of_it_stays() {
    let site = Site::new().await;
    let one = hour(vec![column(1, &[(0, 100)])], &[(3, 200, 0, 1)]);
    for ix in 0..2 {
        site.seal(T0 + ix * HOUR_S, 0, &[(WEB, one.clone()), (ServerId(8), one.clone())]).await;
    }
    site.break_block(T0, "block");
    site.pass(T0 + 2 * DAY_S).await;
    let sum = |server, hour| (server, hour, 1, 100, 100, 100);
    assert_eq!(site.hours(1), [sum(7, 1), sum(8, 0), sum(8, 1)]);
    assert_eq!(site.keeper.store.stats().blocks_damaged.get(), 1);

    // The second hour breaks after it was summed up; something late has the day summed up again.
    for table in ["block", "site_block"] {
        site.break_block(T0 + HOUR_S, table);
    }
    site.seal(T0 + 2 * HOUR_S, 0, &[(WEB, one)]).await;
    site.pass(T0 + 2 * DAY_S).await;
    assert_eq!(site.hours(1), [sum(7, 1), sum(7, 2), sum(8, 0), sum(8, 1)]);
    let sites = site.month().sites_day(Day::of(T0).unwrap(), WEB).unwrap().unwrap();
    let hours: Vec<_> = sites.iter().map(|(_, _, n)| n[..4].to_vec()).collect();
    assert_eq!(hours, [vec![1, 1, 1, 0]]);
    assert_eq!(site.keeper.store.stats().blocks_damaged.get(), 3);
}

#[tokio::test]
async fn a_day_file_that_is_gone_or_no_day_file_is_told_and_stops_no_other_day() {
    let site = Site::new().await;
    let one = hour(vec![column(1, &[(0, 100)])], &[]);
    for ix in 0..3 {
        site.seal(T0 + ix * DAY_S, 0, &[(WEB, one.clone())]).await;
    }
    let file = |ix| site.path().join(Day::of(T0 + ix * DAY_S).unwrap().file());
    std::fs::remove_file(file(0)).unwrap();
    std::fs::write(file(1), "not a database, whatever its name says ........................")
        .unwrap();
    for _ in 0..2 {
        site.pass(T0 + 5 * DAY_S).await;
    }
    let stats = site.keeper.store.stats();
    assert_eq!([stats.hours_rolled.get(), stats.day_files_missing.get()], [1, 1]);
    assert_eq!(stats.blocks_damaged.get(), 1);
    assert_eq!(site.hours(1), [(7, 48, 1, 100, 100, 100)]);
}

/// A number that looks random, the same each time.
fn noise(ix: i64) -> i64 {
    let mixed = ix.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((mixed ^ (mixed >> 29)).wrapping_mul(1_181_783_497_276_652_981) >> 33).rem_euclid(1000)
}

/// The p95 over 90 days is that of the means of minutes: of 129,600 of them.
#[tokio::test]
async fn the_p95_of_90_days_is_within_the_stated_error() {
    let site = Site::new().await;
    let (mut exact, mut hours): (Vec<f64>, _) = (Vec::new(), Vec::new());
    for ix in 0..90 * 24 {
        let t0 = T0 + ix * HOUR_S;
        // Busy by day, with rare and long peaks; two samples a minute.
        let level = if ix % 24 > 8 { 4000 } else { 900 } + if ix % 171 == 0 { 4500 } else { 0 };
        let samples: Vec<(u16, i64)> = (0..120_u16)
            .map(|at| (at * 30, level + noise(ix * 120 + i64::from(at)) * (1 + ix % 2)))
            .collect();
        exact.extend(samples.chunks(2).map(|pair| (pair[0].1 + pair[1].1) as f64 / 2.0));
        hours.push((t0, hour(vec![column(1, &samples)], &[])));
    }
    site.seal_all(hours).await;
    site.pass(T0 + 92 * DAY_S).await;
    assert_eq!(site.n_rolled(), 90 * 24);
    let (mut whole, mut n_months, mut t0) = (Rolled::default(), 0, T0);
    while t0 < T0 + 90 * DAY_S {
        let month = Month::of(t0).unwrap();
        let file = MonthFile::open(site.path(), month).unwrap().unwrap();
        file.series(1, WEB, &(T0..T0 + 90 * DAY_S), &mut |_, hour| {
            whole.merge(hour.unwrap());
            true
        })
        .unwrap();
        (n_months, t0) = (n_months + 1, month.end_second());
    }
    exact.sort_by(f64::total_cmp);
    assert_eq!((n_months, whole.n, whole.minutes.n()), (4, 2 * 129_600, 129_600));
    for q in [0.05, 0.5, 0.95, 0.99, 1.0] {
        let want = exact[(q * (exact.len() - 1) as f64) as usize];
        let found = whole.quantile(q).unwrap();
        let error = (found - want).abs() / want;
        assert!(error <= super::super::sketch::ERROR * (1.0 + 1e-9), "p{q}: {found} for {want}");
    }
}

/// What a day of a server takes in a month file: 30 metrics sampled each 10 s, 40 sites.
#[tokio::test]
async fn a_server_and_day_takes_less_than_30_kilobytes() {
    let site = Site::new().await;
    let ticks: Vec<u16> = (0..360).map(|ix| ix * 10).collect();
    for h in 0..24 {
        let metric = |metric: i64| {
            let value = |at: &u16| {
                let seed = (h * 3600 + i64::from(*at)) * 64 + metric;
                match metric % 5 {
                    0 => 42,                                           // a limit
                    1 => 3000 + h * 20 + noise(seed),                  // a busy ratio
                    2 => 8_000_000_000 + noise(seed) * 40_000_000,     // bytes, 3 digits
                    3 => (noise(seed) / 990) * 3,                      // mostly nothing
                    _ => 1000 + noise(seed / 4096) + noise(seed) / 20, // slow and smooth
                }
            };
            Column { metric, at: ticks.clone(), values: ticks.iter().map(value).collect() }
        };
        let columns = (1..=30).map(metric).collect();
        let mut counts = Vec::new();
        for ix in 0..40_i64 {
            for (nth, status) in [200, 301, 304, 404, 502].into_iter().enumerate() {
                let n = noise(h * 900 + ix * 11 + nth as i64) / (1 + 3 * ix) / (1 + nth as i64);
                counts.push((ix + 1, status, 0, n.unsigned_abs()));
            }
        }
        counts.retain(|count| count.3 > 0);
        site.seal(T0 + h * HOUR_S, 0, &[(WEB, hour(columns, &counts))]).await;
    }
    site.pass(T0 + 2 * DAY_S).await;
    let month = site.month();
    let size = |table: &str| -> i64 {
        let sql = format!("SELECT sum(length(body)) FROM {table}");
        month.conn().query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    let (series, sites) = (size("series"), size("sites"));
    let size = |file: std::path::PathBuf| std::fs::metadata(site.path().join(file)).unwrap().len();
    let (day, whole) = (size(Day::of(T0).unwrap().file()), size(Month::of(T0).unwrap().file()));
    println!(
        "a server and day: {series} B of series, {sites} B of sites; files: {day} B, {whole} B"
    );
    assert!(series < 30_000 && sites < 8_000, "{series} B of series, {sites} B of sites");
}

/// What a store holds of a leap day and the turn of a month and year, with the names of its files.
fn dump(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for (folder, query) in [
        ("blocks", "SELECT t0, metric, server_id, crc FROM block ORDER BY 1, 2, 3"),
        ("rollup", "SELECT day, metric, server_id, crc FROM series ORDER BY 1, 2, 3"),
    ] {
        let files = std::fs::read_dir(dir.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        for path in files.filter(|path| path.extension().is_some_and(|ext| ext == "db")) {
            let conn = Connection::open(&path).unwrap();
            let mut query = conn.prepare(query).unwrap();
            let mut rows = query.query([]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let row: Vec<i64> = (0..4).map(|ix| row.get(ix).unwrap()).collect();
                let name = path.file_name().unwrap().to_string_lossy();
                all.push(format!("{folder}/{name} {row:?}"));
            }
        }
    }
    all.sort();
    all
}

/// The same program in processes of three zones: 14 hours ahead, three and a half behind with summer
/// time, and UTC.
#[tokio::test]
async fn files_are_the_same_whatever_the_zone() {
    let edges = [
        "2028-02-29T00:00:00Z",
        "2028-02-29T23:00:00Z",
        "2028-03-01T00:00:00Z",
        "2028-12-31T23:00:00Z",
    ];
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let site = Site::below(Path::new(&dir)).await;
        for edge in edges {
            let t0 = edge.parse::<jiff::Timestamp>().unwrap().as_second();
            site.seal(t0, 0, &[(WEB, hour(vec![column(1, &[(0, 1), (3599, 2)])], &[]))]).await;
        }
        site.pass(T0 + 1000 * DAY_S).await;
        site.keeper.store.close().await.unwrap();
        drop(site.keeper);
        std::mem::forget(site.dir); // for the parent, who removes it
        return;
    }
    let mut found = Vec::new();
    for zone in ["Pacific/Kiritimati", "America/St_Johns", "UTC"] {
        let dir = tempfile::tempdir().unwrap();
        let ended = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::rollup::tests::files_are_the_same_whatever_the_zone"])
            .env("TZ", zone)
            .env(CHILD_DIR, dir.path())
            .output()
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
        let made = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        found.push(dump(&made));
    }
    assert_eq!(found[0].len(), 4 + 3, "{found:?}");
    assert!(found.iter().all(|files| *files == found[0]), "{found:#?}");
    for name in ["blocks/20280229.db", "rollup/202802.db", "rollup/202803.db", "blocks/20281231.db"]
    {
        assert!(found[0].iter().any(|row| row.starts_with(name)), "{name}: {found:?}");
    }
}

#[tokio::test]
async fn what_was_damaged_while_it_was_summed_up_is_summed_up_once_it_is_sound() {
    let site = Site::new().await;
    let one = hour(vec![column(1, &[(0, 100)])], &[]);
    for ix in 0..2 {
        site.seal(T0 + ix * HOUR_S, 0, &[(WEB, one.clone())]).await;
    }
    let path = site.path().join(Day::of(T0).unwrap().file());
    site.break_block(T0, "block");
    site.pass(T0 + 2 * DAY_S).await;
    let sum = |hour| (7, hour, 1, 100, 100, 100);
    assert_eq!(site.hours(1), [sum(1)]);
    let back = format!("UPDATE block SET crc = crc - 1 WHERE t0 = {T0}");
    Connection::open(path).unwrap().execute(&back, []).unwrap();
    let store = &site.keeper.store;
    assert_eq!(crate::store::verify::recheck(store).await, (1, 0));
    // Changes of the list are filed with the next commit.
    store.write(|tx| tx.execute("DELETE FROM state WHERE 0", [])).await.unwrap();
    store.write(|tx| tx.execute("DELETE FROM state WHERE 0", [])).await.unwrap();
    site.pass(T0 + 2 * DAY_S).await;
    assert_eq!(site.hours(1), [sum(0), sum(1)]);
}

#[tokio::test]
async fn an_older_copy_of_a_day_file_takes_nothing_away_from_what_was_summed_up() {
    let site = Site::new().await;
    let one = hour(vec![column(1, &[(0, 100)])], &[(3, 200, 0, 1)]);
    site.seal(T0, 0, &[(WEB, one.clone())]).await;
    let file = site.path().join(Day::of(T0).unwrap().file());
    let older = std::fs::read(&file).unwrap();
    site.seal(T0 + HOUR_S, 0, &[(WEB, one.clone())]).await;
    site.pass(T0 + 2 * DAY_S).await;
    let sum = |hour| (7, hour, 1, 100, 100, 100);
    assert_eq!(site.hours(1), [sum(0), sum(1)]);
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(file.with_extension(format!("db{suffix}"))).ok();
    }
    std::fs::write(&file, older).unwrap();
    site.seal(T0 + 2 * HOUR_S, 0, &[(WEB, one)]).await;
    site.pass(T0 + 2 * DAY_S).await;
    assert_eq!(site.hours(1), [sum(0), sum(1), sum(2)]);
    assert_eq!(site.keeper.store.stats().blocks_damaged.get(), 1);
}
