//! Day files: what goes in comes out, and nothing else ever does.

use proptest::prelude::*;
use rusqlite::types::Value;

use super::super::columns::put_varint;
use super::body::{take_cover, take_ticks, unpack_counts};
use super::*;

const T: i64 = 1_795_176_000;

fn day() -> Day {
    Day::of(T).unwrap()
}

fn place() -> Place {
    Place { t0: day().first_second(), server: ServerId(4), part: 0 }
}

fn hour() -> ServerHour {
    let ticks: Vec<u16> = (0..36).map(|ix| ix * 10).collect();
    let noisy = ticks.iter().map(|tick| i64::from(*tick) * 7919 % 1000).collect();
    let count = |site, status, second, n| SiteCount { site: SiteId(site), status, second, n };
    ServerHour {
        columns: vec![
            Column { metric: 3, values: vec![7; 36], at: ticks.clone() },
            Column { metric: 9, values: noisy, at: ticks },
            Column {
                metric: 10,
                at: vec![0, 1, 2, 50, 3599],
                values: vec![-1, 2, -3, 4, i64::MAX],
            },
        ],
        counts: vec![
            count(5, 200, 10, 12),
            count(5, 502, 11, 1),
            count(70_000, 1002, 0, u64::from(u32::MAX)),
        ],
        events: BatchBody {
            loss: Some(wire::v1::Loss { n_lines_rejected: 4, ..Default::default() }),
            ..BatchBody::default()
        },
    }
}

/// A file with one hour of one server, made of two runs of batches.
fn file(dir: &Path) -> DayFile {
    let mut file = DayFile::create(dir, day()).unwrap();
    let cover = vec![(7, 3, 9), (8, 1, 1)];
    file.put_encoded(&[Encoded::new(place(), &hour(), &cover)]).unwrap();
    file
}

/// All that can be read of the hour.
fn read(file: &DayFile) -> Result<(ServerHour, Cover), BlockError> {
    Ok((file.server_hour(place())?, file.cover(place())?))
}

#[test]
fn what_is_put_in_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = file(dir.path());
    assert_eq!(written.parts(place().t0).unwrap(), 0, "it is not said to be whole");
    written.finish(place().t0, 0, 1).unwrap();
    let read = DayFile::open(dir.path(), day()).unwrap().unwrap();
    assert_eq!(read.parts(place().t0).unwrap(), 1);
    assert_eq!(read.servers(place().t0, 0).unwrap(), [ServerId(4)]);
    assert_eq!(super::tests::read(&read).unwrap(), (hour(), vec![(7, 3, 9), (8, 1, 1)]));
    let other = Place { part: 1, ..place() };
    assert_eq!(read.server_hour(other).unwrap(), ServerHour::default());
    assert!(DayFile::open(dir.path(), Day::of(T - 86_400).unwrap()).unwrap().is_none());
}

#[test]
fn a_closed_file_has_no_log_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path()).close().unwrap();
    let names: Vec<_> = fs::read_dir(dir.path().join("blocks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["20261120.db"]);
}

#[test]
fn every_flipped_bit_of_every_row_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let tables: [(&str, &[&str]); 4] = [
        ("block", &["n", "codec", "vmin", "vmax", "vsum", "crc", "body"]),
        ("presence", &["crc", "metrics", "batches_crc", "batches"]),
        ("site_block", &["n", "crc", "body"]),
        ("event_block", &["n", "crc", "body"]),
    ];
    let mut n_flipped = 0;
    for (table, columns) in tables {
        let key = if table == "block" { "metric" } else { "server_id" };
        let keys: Vec<i64> = file
            .conn
            .prepare(&format!("SELECT {key} FROM {table}"))
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        for (id, column) in
            keys.iter().flat_map(|id| columns.iter().map(move |column| (id, column)))
        {
            let query = format!("SELECT {column} FROM {table} WHERE {key} = ?1");
            let right: Value = file.conn.query_row(&query, [id], |row| row.get(0)).unwrap();
            let update = format!("UPDATE {table} SET {column} = ?2 WHERE {key} = ?1");
            for wrong in flipped(&right) {
                file.conn.execute(&update, params![id, wrong]).unwrap();
                assert!(read(&file).is_err(), "{table}.{column} of {id}: {wrong:?} for {right:?}");
                n_flipped += 1;
            }
            file.conn.execute(&update, params![id, right]).unwrap();
        }
    }
    assert!(n_flipped > 2000, "{n_flipped}");
    assert_eq!(read(&file).unwrap().0, hour());
}

fn flipped(right: &Value) -> Vec<Value> {
    match right {
        Value::Integer(right) => (0..64).map(|bit| Value::Integer(right ^ (1 << bit))).collect(),
        Value::Blob(right) => (0..right.len() * 8)
            .map(|bit| {
                let mut wrong = right.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                Value::Blob(wrong)
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_that_changed_places_are_not_taken_for_each_other() {
    let check = |change: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        file.conn.execute_batch(change).unwrap();
        assert!(matches!(read(&file), Err(BlockError::Bad(_))), "{change}");
    };
    check(
        "UPDATE block SET metric = 1000 WHERE metric = 3; UPDATE block SET metric = 3 WHERE metric = 9;
         UPDATE block SET metric = 9 WHERE metric = 1000",
    );
    check("UPDATE site_block SET (n, crc, body) = (SELECT n, crc, body FROM event_block)");
    check("UPDATE event_block SET (n, crc, body) = (SELECT n, crc, body FROM site_block)");
    check("UPDATE presence SET crc = batches_crc, metrics = batches");
    check("UPDATE presence SET batches_crc = crc, batches = metrics");
    check("DELETE FROM block WHERE metric = 9");
}

#[test]
fn a_row_of_another_hour_server_or_part_is_detected() {
    for change in ["t0 = t0 + 3600", "server_id = 5", "part = 1"] {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        for table in ["block", "presence", "site_block", "event_block"] {
            file.conn.execute(&format!("UPDATE {table} SET {change}"), []).unwrap();
        }
        let Place { t0, server, part } = place();
        let moved = match change {
            "part = 1" => Place { t0, server, part: part + 1 },
            "server_id = 5" => Place { t0, server: ServerId(5), part },
            _ => Place { t0: t0 + 3600, server, part },
        };
        assert!(file.counts(moved).is_err() && file.events(moved).is_err(), "{change}");
        assert!(file.metrics(moved).is_err() && file.cover(moved).is_err(), "{change}");
        assert!(file.column(moved, 9).is_err(), "{change}");
    }
}

#[test]
fn the_file_of_another_day_or_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(day().file());
    let next = Day::of(T + 86_400).unwrap();
    file(dir.path()).close().unwrap();
    fs::copy(&path, dir.path().join(next.file())).unwrap();
    for found in
        [DayFile::open(dir.path(), next).map(drop), DayFile::create(dir.path(), next).map(drop)]
    {
        let Err(BlockError::Bad(why)) = found else { panic!("{found:?}") };
        assert_eq!(why, "it is the file of 20261120");
    }
    let conn = Connection::open(&path).unwrap();
    for (pragma, wrong, right) in
        [("application_id", 5, APPLICATION_ID), ("user_version", 2, FORMAT)]
    {
        conn.pragma_update(None, pragma, wrong).unwrap();
        assert!(matches!(DayFile::open(dir.path(), day()), Err(BlockError::Bad(_))), "{pragma}");
        conn.pragma_update(None, pragma, right).unwrap();
    }
    assert!(DayFile::open(dir.path(), day()).unwrap().is_some());
    fs::write(&path, "no database at all, whatever its name says").unwrap();
    assert!(matches!(DayFile::open(dir.path(), day()), Err(BlockError::Bad(_))));
}

#[test]
fn numbers_that_ask_for_much_memory_are_refused() {
    let ticks = |numbers: &[u64]| {
        let mut bytes = Vec::new();
        for number in numbers {
            put_varint(&mut bytes, *number);
        }
        bytes
    };
    for (numbers, n) in [
        (vec![1, 0, 0, u64::MAX], usize::MAX),
        (vec![1, 0, 0, u64::MAX], 3600),
        (vec![u64::MAX, 0, 0, 0], 1),
        (vec![1, u64::MAX, 1, 1], 2),
        (vec![1, 0, u64::MAX, u64::MAX], 2),
        (vec![1, 0, 0, 3], 4),
        (vec![1, 0, 1, 3600], 3601),
        (vec![2, 5, 0, 0, 0, 0, 0], 2),
    ] {
        assert_eq!(take_ticks(&mut ticks(&numbers).as_slice(), n), None, "{numbers:?} {n}");
    }
    for n in [usize::MAX, 1 << 40, COUNTS_MAX + 1] {
        assert!(unpack_counts(n, &[0, 0, 0, 0, 0, 0]).is_err(), "{n}");
    }
    for (codec, body) in [(1, &b"pco!"[..]), (2, &[]), (3, &[0xff; 40])] {
        assert!(columns::unpack(codec, body, columns::VALUES_MAX + 1).is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_ticks_counts_and_lists_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..100), n in 0_usize..5000,
    ) {
        if let Some(ticks) = take_ticks(&mut bytes.as_slice(), n) {
            prop_assert!(ticks.len() == n && ticks.iter().all(|tick| *tick < 3600));
        }
        if let Ok(counts) = unpack_counts(n, &bytes) {
            prop_assert!(counts.len() == n && counts.iter().all(|count| count.second < 3600));
        }
        if let Some(cover) = take_cover(&bytes) {
            prop_assert!(cover.iter().all(|(_, first, last)| first <= last));
        }
    }

    #[test]
    fn ticks_come_back(ticks in prop::collection::btree_set(0_u16..3600, 0..400)) {
        let (ticks, mut bytes): (Vec<u16>, _) = (ticks.into_iter().collect(), Vec::new());
        super::body::put_ticks(&mut bytes, &ticks);
        prop_assert_eq!(take_ticks(&mut bytes.as_slice(), ticks.len()), Some(ticks));
    }
}

/// What a server samples all day: ratios that wander, bytes rounded to three digits, counters, and much
/// that never changes.
struct Machine {
    state: u64,
    ratio: i64,
    bytes: i64,
    counters: [i64; 8],
}

impl Machine {
    fn random(&mut self, below: i64) -> i64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.state >> 33) as i64) % below
    }

    /// Values of thirty metrics in one tick.
    fn sample(&mut self) -> [i64; 30] {
        let step = self.random(401) - 200;
        self.ratio = (self.ratio + step).clamp(50, 9_900);
        let step = (self.random(2001) - 1000) * 100_000;
        self.bytes = (self.bytes + step).clamp(1_000_000_000, 60_000_000_000);
        for ix in 0..self.counters.len() {
            self.counters[ix] += self.random([3, 40, 900, 20_000, 1, 2, 100, 5_000_000][ix] + 1);
        }
        let mut all = [0; 30];
        all[0] = self.ratio;
        all[1] = self.ratio * 7 / 10 + self.random(40);
        all[2] = self.ratio * 2 / 10 + self.random(40);
        all[3] = self.random(60);
        all[4] = self.random(25);
        all[5] = 10_000 - all[0] - all[3];
        all[6] = self.ratio / 25;
        all[7] = self.ratio / 27;
        all[8] = rounded(self.bytes);
        all[9] = rounded(self.bytes / 9);
        all[10] = rounded(self.bytes / 50);
        all[11] = rounded(self.random(5_000_000));
        all[12..20].copy_from_slice(&self.counters);
        all[20] = 200 + self.random(9);
        all[21] = 68_719_476_736;
        all[22] = 16;
        all[23] = rounded(self.random(40_000));
        all
    }
}

fn rounded(bytes: i64) -> i64 {
    let digits = bytes.max(1).ilog10();
    let unit = 10_i64.pow(digits.saturating_sub(2));
    bytes / unit * unit
}

#[test]
fn a_day_of_servers_takes_little_more_than_a_byte_for_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = DayFile::create(dir.path(), day()).unwrap();
    let mut n_values = 0;
    let machine = |server: u64| Machine {
        state: server,
        ratio: 1500 * server as i64,
        bytes: 20_000_000_000,
        counters: [0, 1, 2, 3, 0, 0, 7, 1 << 33],
    };
    let mut machines: Vec<Machine> = (1..=3).map(machine).collect();
    for ix in 0..24 {
        let t0 = day().first_second() + ix * 3600;
        let mut group = Vec::new();
        for (server, machine) in (1..).zip(&mut machines) {
            let ticks: Vec<[i64; 30]> = (0..360).map(|_| machine.sample()).collect();
            let column = |metric: usize| Column {
                metric: metric as i64 + 1,
                at: (0..360).map(|ix| ix * 10).collect(),
                values: ticks.iter().map(|tick| tick[metric]).collect(),
            };
            let hour = ServerHour { columns: (0..30).map(column).collect(), ..Default::default() };
            let cover = vec![(1_795_176_000_000, 360, 720)];
            group.push(Encoded::new(
                Place { t0, server: ServerId(server), part: 0 },
                &hour,
                &cover,
            ));
            n_values += 30 * 360;
        }
        file.put_encoded(&group).unwrap();
        file.finish(t0, 0, 3).unwrap();
    }
    file.close().unwrap();
    let n_bytes = fs::metadata(dir.path().join(day().file())).unwrap().len();
    let each = n_bytes as f64 / f64::from(n_values);
    assert!(each <= 1.2, "{each} bytes a value");
}

#[test]
fn a_folder_that_cannot_be_looked_into_does_not_say_that_a_day_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(DayFile::open(dir.path(), day()).unwrap().is_none());
    fs::write(dir.path().join("blocks"), b"no folder").unwrap();
    let ended = DayFile::open(dir.path(), day());
    assert!(matches!(ended, Err(BlockError::File(..))), "{ended:?}");
    let ended = DayFile::create(dir.path(), day());
    assert!(matches!(ended, Err(BlockError::File(..))), "{ended:?}");
}
