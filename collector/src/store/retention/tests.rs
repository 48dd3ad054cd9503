//! What leaves and what stays: ages, the order for want of space, crashes, a busy writer, space given back.

use std::fs::File;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use wire::units::{Bytes, Span};

use super::disk::Space;
use super::*;
use crate::config::{RetentionConfig, StoreConfig};
use crate::store::hot::HotIndex;
use crate::store::tests::{batch, enrol};
use crate::store::{NewBatch, Outcome, Store};

/// 2026-11-20T00:00:00Z.
const T0: i64 = 1_795_132_800;
const DAY_S: i64 = 86_400;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[expect(clippy::unnecessary_wraps, reason = "it stands for a question that may fail")]
fn plenty(_: &Path) -> io::Result<Space> {
    Ok(Space { free_bytes: 100 * GIB, disk_bytes: 200 * GIB })
}

struct Site {
    dir: tempfile::TempDir,
    keeper: Keeper,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        enrol(&store, 3).await;
        let retention = RetentionConfig {
            raw: Span(Duration::from_secs(14 * 86_400)),
            rollup: Span(Duration::from_secs(400 * 86_400)),
            disk_bytes_max: Bytes(u64::MAX),
        };
        let keeper =
            Keeper::new(store, StoreConfig::default(), retention, CancellationToken::new());
        let site = Self { dir, keeper };
        site.agents_say(T0 + DAY_S / 2, 1).await;
        site
    }

    /// Two agents send something of this second.
    async fn agents_say(&self, second: i64, seq: u64) {
        for server in 2..=3 {
            let (at, t_max) = (UnixMillis::from_second(T0), UnixMillis::from_second(second));
            let batch = NewBatch { at, t_min: t_max, t_max, ..batch(server, 1, seq) };
            let stored = self.keeper.store.append(batch).await.unwrap().await.unwrap().unwrap();
            assert_eq!(stored, Outcome::Stored);
        }
    }

    fn path(&self, file: PathBuf) -> PathBuf {
        self.dir.path().join(file)
    }

    /// A file of that size without content: sizes are all that counts here.
    fn file(&self, file: PathBuf, n_bytes: u64) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().set_len(n_bytes).unwrap();
    }

    /// A day `ix` days before [`T0`]'s with two sealed hours, and its file.
    async fn day(&self, ix: i64, n_bytes: u64, rolled: i64) -> Day {
        let day = Day::of(T0 - ix * DAY_S).unwrap();
        self.file(day.file(), n_bytes);
        for hour in [0, 23] {
            self.write(format!(
                "INSERT INTO sealed VALUES ({}, 1, 1, 0, {rolled}, 0)",
                day.first_second() + hour * 3600
            ))
            .await;
        }
        day
    }

    fn month(&self, ix: i64, n_bytes: u64) -> Month {
        let month = Month::of(T0 - ix * 30 * DAY_S).unwrap();
        self.file(month.file(), n_bytes);
        month
    }

    async fn write(&self, sql: String) {
        self.keeper.store.write(move |tx| tx.execute_batch(&sql)).await.unwrap();
    }

    async fn ask(&self, sql: impl Into<String>) -> i64 {
        let sql = sql.into();
        self.keeper
            .store
            .read(move |conn| conn.query_row(&sql, [], |row| row.get(0)))
            .await
            .unwrap()
    }

    /// A pass at noon of [`T0`]'s day.
    async fn pass(&self) {
        self.pass_on(100 * GIB).await;
    }

    /// The same on a disk of 200 GiB of which so much is free.
    async fn pass_on(&self, free_bytes: u64) {
        let space: SpaceOf = match free_bytes {
            0 => |_| Ok(Space { free_bytes: 0, disk_bytes: 200 * GIB }),
            _ => plenty,
        };
        let noon = UnixMillis::from_second(T0 + DAY_S / 2);
        pass_on(&self.keeper, noon, space).await.unwrap();
    }

    async fn pass_with(&mut self, disk_bytes_max: u64) {
        self.keeper.retention.disk_bytes_max = Bytes(disk_bytes_max);
        self.pass().await;
    }

    fn has(&self, file: PathBuf) -> bool {
        self.path(file).exists()
    }

    fn dropped(&self) -> [u64; 3] {
        let stats = self.keeper.store.stats();
        [stats.days_dropped.get(), stats.months_dropped.get(), stats.incidents_dropped.get()]
    }

    /// An incident with a note, two sites and a server, closed so many days before [`T0`].
    async fn incident(&self, id: &str, closed: Option<i64>) {
        let closed = closed.map_or("NULL".to_owned(), |ix| ((T0 - ix * DAY_S) * 1000).to_string());
        self.write(format!(
            "INSERT INTO incident(id, key, opened, closed, rev, body) VALUES ('{id}', '{id}', 0, {closed}, 1, '{{}}');
             INSERT INTO incident_note(incident, at, by, text) VALUES ('{id}', 0, 'me', 'x');
             INSERT INTO incident_site VALUES ('{id}', 1, 0, NULL), ('{id}', 2, 0, NULL);
             INSERT INTO incident_server VALUES ('{id}', 1, 'web-1', 0, NULL);
             INSERT INTO notice(at, incident, route, event, what, why) VALUES (0, '{id}', 'r', 'opened', 'delivered', '');"
        ))
        .await;
    }
}

#[tokio::test]
async fn days_leave_by_age_once_they_are_summed_up() {
    let site = Site::new().await;
    let (old, unsummed) = (site.day(20, 10, 1).await, site.day(17, 10, 0).await);
    let (blocked, young) = (site.day(16, 10, 1).await, site.day(13, 10, 1).await);
    let log = PathBuf::from(format!("{}-wal", old.file().display()));
    site.file(log.clone(), 5);
    site.pass().await;
    let stay = [old, unsummed, blocked, young].map(|day| site.has(day.file()));
    assert_eq!((stay, site.has(log)), ([false, true, true, true], false));
    assert_eq!(site.dropped(), [1, 0, 0]);
    assert_eq!(site.ask("SELECT count(*) FROM sealed").await, 6);
    assert_eq!(site.keeper.store.read(raw_from).await.unwrap(), old.end_second());

    site.write("UPDATE sealed SET rolled = 1".into()).await;
    site.pass().await;
    let stay = [unsummed, blocked, young].map(|day| site.has(day.file()));
    assert_eq!((stay, site.dropped()), ([false, false, true], [3, 0, 0]));
    assert_eq!(site.ask("SELECT count(*) FROM sealed").await, 2);
    assert_eq!(site.keeper.store.read(raw_from).await.unwrap(), blocked.end_second());
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_drops_nothing_by_age() {
    let site = Site::new().await;
    let (days, month) = ([site.day(13, 10, 1).await, site.day(9, 10, 1).await], site.month(2, 10));
    site.write(format!("INSERT INTO gap SELECT 1, 1, 1, 1, 0, {}, 0", T0 * 1000)).await;
    let left = async || {
        let days = days.map(|day| site.has(day.file()));
        (days, site.has(month.file()), site.ask("SELECT count(*) FROM gap").await)
    };
    let all = ([true; 2], true, 1);
    let years = UnixMillis::from_second(T0 + 9 * 365 * DAY_S);
    pass_on(&site.keeper, years, plenty).await.unwrap();
    assert_eq!(left().await, all, "agents do not confirm that time");
    // A day they may be wrong; and there are those who lie.
    site.agents_say(T0 + DAY_S * 3 / 2, 2).await;
    let liar = NewBatch { t_max: years, ..batch(1, 1, 1) };
    site.keeper.store.append(liar).await.unwrap().await.unwrap().unwrap();
    pass_on(&site.keeper, years, plenty).await.unwrap();
    assert_eq!(left().await, ([false, true], true, 1));
    // A collector that was off for long: agents that talk again make it true.
    site.agents_say(years.second(), 3).await;
    pass_on(&site.keeper, years, plenty).await.unwrap();
    assert_eq!(left().await, ([false; 2], false, 0));
}

#[tokio::test]
async fn without_agents_nothing_leaves_by_age_but_for_want_of_space() {
    let mut site = Site::new().await;
    let days = [site.day(40, GIB, 1).await, site.day(30, GIB, 1).await];
    *site.keeper.store.hot_mut() = HotIndex::default();
    site.pass().await;
    assert_eq!(days.map(|day| site.has(day.file())), [true; 2]);
    site.pass_with(3 * GIB / 2).await;
    assert_eq!(days.map(|day| site.has(day.file())), [false, true]);
}

#[tokio::test]
async fn the_last_24_hours_stay_whatever_they_take() {
    let mut site = Site::new().await;
    let days = [site.day(2, GIB, 1).await, site.day(1, GIB, 1).await, site.day(0, GIB, 1).await];
    site.pass_with(1).await;
    assert_eq!(days.map(|day| site.has(day.file())), [false, true, true], "it is noon");
    assert!(site.keeper.store.stats().disk_use.is_over());
}

#[tokio::test]
async fn what_was_put_aside_stays_is_told_and_costs_no_history() {
    let mut site = Site::new().await;
    let day = site.day(3, GIB, 1).await;
    let aside = ["replaced-20261101T000000Z/gatewatch.db", "damaged-20261101T000000Z/ca/ca.pem"];
    for name in aside {
        site.file(name.into(), 5 * GIB);
    }
    site.file(day.aside(UnixMillis::from_second(T0)), GIB);
    site.pass_with(2 * GIB).await;
    assert!(site.has(day.file()) && site.has(day.aside(UnixMillis::from_second(T0))));
    assert_eq!(aside.map(|name| site.has(name.into())), [true; 2]);
    for name in ["replaced-20261101T000000Z", "damaged-20261101T000000Z"] {
        assert!(!site.keeper.is_news(&site.path(name.into())), "{name} was not named");
    }
}

#[tokio::test]
async fn a_day_that_cannot_be_summed_up_leaves_a_week_later() {
    let site = Site::new().await;
    let (gone, kept) = (site.day(22, 10, 0).await, site.day(20, 10, 0).await);
    site.pass().await;
    assert_eq!([gone, kept].map(|day| site.has(day.file())), [false, true]);
}

#[tokio::test]
async fn a_crash_between_the_rows_and_the_file_of_a_day_is_made_good() {
    let site = Site::new().await;
    // The rows of a young day went, for want of space, but not its file; of an old one the file only.
    let young = site.day(3, 10, 1).await;
    let end = young.end_second();
    site.keeper.store.write(move |tx| leave(tx, end)).await.unwrap();
    let old = site.day(18, 10, 1).await;
    fs::remove_file(site.path(old.file())).unwrap();
    site.pass().await;
    assert!(!site.has(young.file()));
    assert_eq!(site.ask("SELECT count(*) FROM sealed").await, 0);
    assert_eq!(site.keeper.store.read(raw_from).await.unwrap(), end, "it never falls");
}

#[tokio::test]
async fn months_leave_by_age() {
    let site = Site::new().await;
    let (old, young) = (site.month(15, 10), site.month(12, 10));
    site.pass().await;
    assert_eq!([old, young].map(|month| site.has(month.file())), [false, true]);
    assert_eq!(site.dropped(), [0, 1, 0]);
}

#[tokio::test]
async fn the_oldest_leaves_first_days_then_months_then_resolved_incidents() {
    let mut site = Site::new().await;
    let days = [site.day(5, GIB, 1).await, site.day(4, GIB, 0).await, site.day(3, GIB, 1).await];
    let today = site.day(0, GIB, 0).await;
    let months = [site.month(3, GIB), site.month(2, GIB)];
    let this_month = site.month(0, GIB);
    for (id, closed) in [("open", None), ("lately", Some(0)), ("old", Some(30)), ("owed", Some(31))]
    {
        site.incident(id, closed).await;
    }
    site.write("INSERT INTO outbox(incident, route, due, tries, delivery, body) VALUES ('owed', 'r', 0, 0, 'd', '{}')".into())
        .await;
    let left = |site: &Site| {
        let days = days.map(|day| site.has(day.file()));
        let months = months.map(|month| site.has(month.file()));
        (days.to_vec(), months.to_vec(), site.dropped()[2])
    };
    let (all, none) = (vec![true; 2], vec![false; 3]);
    site.pass_with(8 * GIB).await;
    assert_eq!(left(&site), (vec![true; 3], all.clone(), 0), "nothing is too much");
    site.pass_with(13 * GIB / 2).await;
    assert_eq!(left(&site), (vec![false, true, true], all.clone(), 0));
    site.pass_with(9 * GIB / 2).await;
    assert_eq!(left(&site), (none.clone(), all, 0));
    assert!(!site.keeper.store.stats().disk_use.is_over());
    site.pass_with(7 * GIB / 2).await;
    assert_eq!(left(&site), (none.clone(), vec![false, true], 0));
    assert_eq!(site.ask("SELECT count(*) FROM incident").await, 4);
    for _ in 0..2 {
        site.pass_with(GIB).await;
        assert_eq!(left(&site), (none.clone(), vec![false; 2], 1), "the incident once");
    }
    assert!(site.has(today.file()) && site.has(this_month.file()), "what is of today stays");
    assert!(site.keeper.store.stats().disk_use.is_over(), "and it is said that this is too much");
    assert_eq!(
        site.ask("SELECT count(*) FROM incident WHERE id IN ('open', 'lately', 'owed')").await,
        3
    );
    for table in ["incident_note", "incident_site", "incident_server", "notice"] {
        let sql = format!("SELECT count(*) FROM {table} WHERE incident = 'old'");
        assert_eq!(site.ask(sql).await, 0, "{table}");
    }
    assert_eq!(site.keeper.store.read(raw_from).await.unwrap(), days[2].end_second());
    site.pass_with(u64::MAX).await;
    assert!(!site.keeper.store.stats().disk_use.is_over());
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_the_oldest_too() {
    let mut site = Site::new().await;
    let days =
        [site.day(5, GIB / 2, 1).await, site.day(4, GIB, 1).await, site.day(3, GIB, 1).await];
    site.keeper.retention.disk_bytes_max = Bytes(3 * GIB); // it may still grow by a little: 1 GiB is kept
    site.pass_on(0).await;
    assert_eq!(days.map(|day| site.has(day.file())), [false, false, true]);
}

#[tokio::test]
async fn backups_in_the_directory_count_and_stay() {
    let mut site = Site::new().await;
    let day = site.day(3, GIB, 1).await;
    site.file("backups/copy.db".into(), 5 * GIB);
    site.file("blocks/notes.txt".into(), GIB);
    site.file("blocks/20200101.db-shm".into(), 5);
    site.pass_with(13 * GIB / 2).await;
    let there = ["backups/copy.db", "blocks/notes.txt", "blocks/20200101.db-shm"];
    assert_eq!(there.map(|name| site.has(name.into())), [true, true, false]);
    assert!(!site.has(day.file()));
    let found = site.keeper.store.stats().disk_use.get().unwrap();
    assert!((6 * GIB..7 * GIB).contains(&found.all_bytes) && !found.is_over, "{found:?}");
    assert_eq!((found.blocks_bytes, found.bytes_max, found.raw_from), (0, 13 * GIB / 2, None));
}

/// Many rows, in each table that grows, half of them old.
async fn fill(site: &Site, n: i64) {
    let (old, new) = ((T0 - 500 * DAY_S) * 1000, T0 * 1000);
    let rows = format!(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {n})
         SELECT i, CASE WHEN i * 2 <= {n} THEN {old} ELSE {new} END AS at FROM c"
    );
    for insert in [
        "gap SELECT 1, 1, i, i, 0, at, 0",
        "event SELECT i, at, 1, 0, printf('%0500d', i)",
        "notice SELECT i, at, NULL, 'r', 'digest', 'delivered', '', NULL",
        "silence SELECT i, '{}', 0, at, '', '', 0, NULL, NULL",
        "certificate SELECT CAST(i AS BLOB), 1, at, 0, NULL",
    ] {
        site.write(format!("INSERT INTO {insert} FROM ({rows})")).await;
    }
}

#[tokio::test]
async fn old_rows_go_in_small_steps_while_batches_are_stored() {
    let site = Site::new().await;
    fill(&site, 6000).await;
    let store = site.keeper.store.clone();
    let (done, mut until) = tokio::sync::oneshot::channel::<()>();
    let agent = tokio::spawn(async move {
        let mut seq = 0;
        while until.try_recv().is_err() {
            seq += 1;
            let stored = store.append(batch(1, 1, seq)).await.unwrap().await.unwrap().unwrap();
            assert_eq!(stored, Outcome::Stored);
        }
        seq
    });
    let before = site.keeper.store.stats().commits.get();
    site.pass().await; // `step` fails where a job has more than ROWS_MAX rows
    let n_commits = site.keeper.store.stats().commits.get() - before;
    done.send(()).unwrap();
    let n_stored = agent.await.unwrap();
    assert!(n_commits >= 15 && n_stored > 0, "{n_commits} commits, {n_stored} batches meanwhile");
    for table in ["gap", "event", "notice", "silence", "certificate"] {
        let sql = format!("SELECT count(*) FROM {table}");
        assert_eq!(site.ask(sql).await, 3000, "{table}");
    }
    assert_eq!(site.keeper.store.stats().rows_dropped.get(), 15_000);
}

#[tokio::test]
async fn an_incident_of_thousands_of_sites_goes_in_small_steps() {
    let mut site = Site::new().await;
    site.incident("old", Some(30)).await;
    site.write(
        "WITH RECURSIVE c(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM c WHERE i < 5000)
         INSERT INTO incident_site SELECT 'old', i, 0, NULL FROM c"
            .into(),
    )
    .await;
    site.pass_with(1).await;
    assert_eq!(site.ask("SELECT count(*) FROM incident_site").await, 0);
    assert_eq!(site.dropped(), [0, 0, 1]);
}

#[tokio::test]
async fn space_is_given_back_to_the_file_system() {
    let site = Site::new().await;
    assert_eq!(site.ask("PRAGMA auto_vacuum").await, super::super::open::INCREMENTAL);
    fill(&site, 60_000).await;
    let size = |site: &Site| fs::metadata(site.path("gatewatch.db".into())).unwrap().len();
    site.write("DELETE FROM event WHERE id > 100".into()).await;
    site.write("DELETE FROM gap".into()).await;
    let (free, pages) =
        (site.ask("PRAGMA freelist_count").await, site.ask("PRAGMA page_count").await);
    assert!(free > pages / 2, "{free} of {pages}");
    rows::give_back(&site.keeper, false).await.unwrap();
    let spare = site.ask("PRAGMA freelist_count").await;
    assert!(spare <= (pages / 4).max(1024) && spare > 0, "{spare} of {pages}");
    rows::give_back(&site.keeper, true).await.unwrap();
    assert_eq!(site.ask("PRAGMA freelist_count").await, 0);
    let left = site.ask("PRAGMA page_count").await;
    site.keeper.store.close().await.unwrap();
    assert_eq!(size(&site), left.unsigned_abs() * 4096);
    assert!(left < pages / 2 && size(&site) < 20 * MIB, "{left} of {pages} pages left");
}

#[test]
fn a_database_of_an_early_release_learns_to_give_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("gatewatch.db")).unwrap();
    old.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE kept(a); INSERT INTO kept VALUES (zeroblob(100000));",
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        drop(Store::open(dir.path()).unwrap());
        let conn = Connection::open(dir.path().join("gatewatch.db")).unwrap();
        let mode: i64 = conn.pragma_query_value(None, "auto_vacuum", |row| row.get(0)).unwrap();
        let kept: i64 = conn.query_row("SELECT length(a) FROM kept", [], |row| row.get(0)).unwrap();
        assert_eq!((mode, kept), (2, 100_000));
    }
}
