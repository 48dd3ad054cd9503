//! Hourly sums beside samples: while a day is summed up, over long times, and where their file is gone.

use super::super::super::keeper::Keeper;
use super::super::super::rollup::month::{MonthFile, Rows};
use super::super::super::rollup::rolled::{Rolled, SeriesDay};
use super::super::super::{retention, rollup, sketch, verify};
use super::*;
use crate::config::{RetentionConfig, StoreConfig};

const DAY_S: i64 = 86_400;

fn keeper(store: &Store) -> Keeper {
    let (pace, retention) = (StoreConfig::default(), RetentionConfig::default());
    Keeper::new(store.clone(), pace, retention, tokio_util::sync::CancellationToken::new())
}

/// Sums of hours of server 1, as a day of a month file.
fn put_sums(store: &Store, day: Day, series: SeriesDay) {
    let rows = Rows { series: vec![(5, ServerId(1), series)], sites: Vec::new() };
    MonthFile::create(store.dir(), day.month()).unwrap().put(day, &rows).unwrap();
}

fn sum(t0: i64) -> Option<Rolled> {
    let at: Vec<u16> = (0..360).map(|n| n * 10).collect();
    let hour = (t0 - START) / 3600;
    let values = (0..360).map(|n| hour * 360 + n).collect();
    Rolled::of(&Column { metric: 5, at, values }, catalog::Kind::Gauge)
}

async fn rank(store: &Store, stat: &str, from: i64, to: i64) -> Told<Ranking> {
    let contest = contest(stat, STEAL, from, to, 3);
    store.history(Limits::default(), move |history| history.top(&contest)).await.unwrap()
}

async fn set_rolled(store: &Store, rolled: u32) {
    let set = "UPDATE sealed SET rolled = ?1 WHERE t0 < ?2";
    let midnight = START + 7200;
    store.write(move |tx| tx.execute(set, params![rolled, midnight])).await.unwrap();
}

#[tokio::test]
async fn hours_that_are_summed_up_but_not_noted_yet_count_once() {
    let (_dir, store) = across_midnight().await;
    let day = Day::of(START).unwrap();
    let mut series = SeriesDay::default();
    (series[22], series[23]) = (sum(START), sum(START + 3600));
    put_sums(&store, day, series);
    // The collector was killed between the rows of the month and the note; then it is noted.
    for rolled in [0, 1] {
        set_rolled(&store, rolled).await;
        let Told { value, notes } = rank(&store, "avg", -DAY_S, 10_800).await;
        assert_eq!(notes, Notes::default());
        assert_eq!((value.source.as_str(), value.to), ("hours", at(10_800)));
        assert_eq!((value.top[0].n, value.n_series), (1080, 1), "rolled = {rolled}");
        assert!((value.top[0].value - 0.05395).abs() < 1e-9, "{:?}", value.top);
    }
}

#[tokio::test]
async fn a_month_file_that_is_gone_is_a_hole_and_days_with_samples_are_read_from_them() {
    let (dir, store) = across_midnight().await;
    let yesterday = Day::of(START - DAY_S).unwrap();
    // A day before the samples, of the month that is deleted; one of another month that stays.
    let mut series = SeriesDay::default();
    series[0] = sum(START);
    put_sums(&store, yesterday, series.clone());
    let long_ago = Day::of(START - 40 * DAY_S).unwrap();
    put_sums(&store, long_ago, series);
    let note = "INSERT INTO summed(day) VALUES (?1), (?2)";
    let days = [yesterday.first_second(), long_ago.first_second()];
    store.write(move |tx| tx.execute(note, days)).await.unwrap();
    rollup::pass(&keeper(&store), at(2 * DAY_S)).await.unwrap();
    let rolled = "SELECT sum(rolled) FROM sealed WHERE t0 < ?1";
    let n =
        store.read(move |conn| conn.query_row(rolled, [START + 7200], |row| row.get::<_, i64>(0)));
    assert_eq!(n.await.unwrap(), 2, "the leap day is summed up");
    let from = long_ago.first_second() - START;
    let whole = rank(&store, "avg", from, 10_800).await;
    assert_eq!(whole.notes, Notes::default());
    assert_eq!(whole.value.top[0].n, 2 * 360 + 1080);

    std::fs::remove_file(dir.path().join("rollup/202802.db")).unwrap();
    let Told { value, notes } = rank(&store, "avg", from, 10_800).await;
    assert_eq!((value.source.as_str(), value.top[0].n), ("hours", 360 + 1080));
    let begin = yesterday.first_second() - START;
    let hole = Hole { from: at(begin), to: at(0), server: None, why: "missing".into() };
    assert_eq!(notes.holes, std::slice::from_ref(&hole), "what is sealed is read from its samples");
    // A file that is made anew for what comes now has nothing of before.
    MonthFile::create(dir.path(), yesterday.month()).unwrap();
    let again = rank(&store, "avg", from, 10_800).await;
    assert_eq!((again.value.top[0].n, again.notes.holes), (360 + 1080, vec![hole.clone()]));
    // Not long, and nothing there but samples: it is said all the same.
    let short = rank(&store, "avg", begin, 10_800).await;
    assert_eq!((short.value.top[0].n, short.notes.holes), (1080, vec![hole.clone()]));
    let wanted = Wanted {
        server: ServerId(1),
        metric: catalog::find(STEAL).unwrap(),
        attribute: String::new(),
        from: at(begin),
        to: at(10_800),
        step_s: Some(3600),
    };
    let series = store.history(Limits::default(), move |history| history.series(&wanted));
    let series = series.await.unwrap();
    assert_eq!((series.value.points.len(), series.notes.holes), (3, vec![hole.clone()]));
    assert_eq!(series.value.source, "samples");
    assert_eq!(counted(&store, begin, 10_800).await.notes.holes, [hole]);

    std::fs::remove_file(dir.path().join("rollup/202802.db")).unwrap();
    let report = verify::verify(dir.path(), UnixMillis(0));
    let found: Vec<&verify::Problem> =
        report.problems.iter().filter(|problem| problem.file.starts_with("rollup")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, "rollup/202802.db");
    assert!(found[0].what.contains("the sums of 2 days are in it"), "{found:?}");
    // What leaves by its age, at a time that a server confirms, is missed by nobody.
    let mut news = crate::store::tests::batch(1, 1 << 40, 1);
    (news.at, news.t_min, news.t_max) = (at(800 * DAY_S), at(800 * DAY_S), at(800 * DAY_S));
    store.append(news).await.unwrap().await.unwrap().unwrap();
    retention::pass(&keeper(&store), at(800 * DAY_S)).await.unwrap();
    let n = "SELECT count(*) FROM summed WHERE day < ?1";
    let end = START + 40 * DAY_S;
    let n = store.read(move |conn| conn.query_row(n, [end], |row| row.get::<_, i64>(0)));
    assert_eq!(n.await.unwrap(), 0);
}

/// Some number below a thousand; as often each.
fn noise(ix: u64) -> i64 {
    let mixed = (ix + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as i64 % 1000
}

#[tokio::test]
async fn the_p95_of_90_days_of_sums_is_within_the_stated_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 2).await;
    add_metric(&store, 5, STEAL, "").await;
    let first = Day::of(START - 100 * DAY_S).unwrap();
    let mut exact: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for n_day in 0..90 {
        let day = Day::of(first.first_second() + n_day * DAY_S).unwrap();
        let mut rows = Rows::default();
        for server in 1..=2 {
            let mut series = SeriesDay::default();
            for (hour, of_hour) in series.iter_mut().enumerate() {
                // A sample a minute: it is the mean of its minute. The second server is worse by far.
                let ix = (n_day as u64 * 24 + hour as u64) * 60;
                let value =
                    |minute: u64| noise(ix + minute + server * 1_000_000) * server as i64 + 3;
                let values: Vec<i64> = (0..60).map(value).collect();
                exact.entry(server as i64).or_default().extend(&values);
                let at = (0..60).map(|minute| minute * 60 + 7).collect();
                *of_hour = Rolled::of(&Column { metric: 5, at, values }, catalog::Kind::Gauge);
            }
            rows.series.push((5, ServerId(server as i64), series));
        }
        MonthFile::create(dir.path(), day.month()).unwrap().put(day, &rows).unwrap();
    }
    let from = first.first_second() - START;
    for (stat, q) in [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)] {
        let Told { value, notes } = rank(&store, stat, from, from + 90 * DAY_S).await;
        assert_eq!(notes, Notes::default());
        assert_eq!((value.source.as_str(), value.error), ("hours", sketch::ERROR));
        let order: Vec<&str> = value.top.iter().map(|one| one.server.as_str()).collect();
        assert_eq!(order, ["web-2", "web-1"]);
        for (found, server) in value.top.iter().zip([2, 1]) {
            let values = exact.get_mut(&server).unwrap();
            values.sort_unstable();
            let rank = (q * (values.len() - 1) as f64) as usize;
            let want = values[rank] as f64 / catalog::find(STEAL).unwrap().scale;
            assert_eq!(found.n, values.len() as u64);
            let off = (found.value / want - 1.0).abs();
            assert!(off <= sketch::ERROR + 1e-9, "{stat} of {server}: {} not {want}", found.value);
        }
    }
}

#[tokio::test]
async fn little_memory_makes_a_ranking_slower_and_not_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    enrol(&store, 3).await;
    add_metric(&store, 5, STEAL, "").await;
    let at: Vec<u16> = (0..360).map(|n| n * 10).collect();
    for hour in 0..2 {
        let servers: Vec<(i64, ServerHour)> = (1..=100)
            .map(|server| {
                let value = |n| noise(n + (hour * 1000 + server) as u64 * 360);
                let values = (0..360).map(value).collect();
                let columns = vec![Column { metric: 5, at: at.clone(), values }];
                (server, ServerHour { columns, ..ServerHour::default() })
            })
            .collect();
        put(dir.path(), START + hour * 3600, 0, &servers);
        note_sealed(&store, START + hour * 3600, 0, 1).await;
    }
    let ask = async |stat: &str, n_bytes: usize, to: i64| {
        let mut contest = contest(stat, STEAL, 0, to, 100);
        contest.servers = (1..=100).map(|id| (ServerId(id), format!("web-{id}"))).collect();
        let limits = Limits { n_bytes, ..Limits::default() };
        store.history(limits, move |history| history.top(&contest)).await.unwrap()
    };
    for stat in ["p95", "max", "avg"] {
        let usual = ask(stat, Limits::default().n_bytes, 7200).await;
        assert_eq!((usual.value.n_series, &usual.notes), (100, &Notes::default()));
        // Of 16 servers at once, the least.
        assert_eq!(ask(stat, 1, 7200).await, usual, "{stat}");
    }
    // Samples that are not packed do not fit: that is said.
    for n in 0..60 {
        let said = Said { second: 7200 + n * 10, steal: 1, n_200: 1, n_502: 0 };
        append(&store, batch(1, n as u64 + 1, said.second + 10, &body(&[said]))).await;
    }
    let told = ask("max", 100, 10_800).await;
    assert!(told.notes.cut.is_some_and(|cut| cut.contains("not packed yet")));
}

#[tokio::test]
async fn a_batch_that_outlives_the_day_of_its_older_lines_is_not_told_beside_their_sums() {
    use super::super::super::rollup::rolled::SitesDay;

    let (_dir, store) = across_midnight().await;
    // Lines of the hour before midnight and of now in one batch: it stays in `hot` for those of now.
    let said = |second, n_200| Said { second, steal: 1, n_200, n_502: 0 };
    append(&store, batch(1, 181, 13_000, &body(&[said(5, 4), said(12_990, 1)]))).await;
    let requests = |from: i64, to: i64| {
        let told = counted(&store, from, to);
        async move { told.await.value.into_values().flat_map(BTreeMap::into_values).sum::<u64>() }
    };
    assert_eq!(requests(0, 7200).await, 4, "late, from the batch");
    let mut sites = SitesDay::default();
    sites.add(22, &[SiteCount { site: SiteId(1), status: 200, second: 0, n: 4 }]);
    let rows = Rows { series: Vec::new(), sites: vec![(ServerId(1), sites)] };
    let day = Day::of(START).unwrap();
    MonthFile::create(store.dir(), day.month()).unwrap().put(day, &rows).unwrap();
    // The day leaves by its age.
    let midnight = START + 7200;
    let leave = move |tx: &rusqlite::Transaction<'_>| {
        tx.execute("INSERT OR REPLACE INTO state(k, v) VALUES ('raw_from', ?1)", [midnight])?;
        tx.execute("DELETE FROM sealed WHERE t0 < ?1", [midnight])
    };
    store.write(leave).await.unwrap();
    assert_eq!(requests(0, 7200).await, 4, "from the sums alone");
    assert_eq!(requests(10_800, 14_400).await, 181, "what is kept is told one by one");
}
