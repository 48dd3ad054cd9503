//! Every kind of damage is found, named with its place, and taken back when the file is put back.

use std::fs;

use super::*;
use crate::store::blocks::{Column, DayFile, Place, ServerHour};
use crate::store::quarantine::Damage;
use crate::store::rollup::month::Rows;
use crate::store::rollup::rolled::Rolled;

const T0: i64 = 1_795_176_000;

async fn filled(dir: &Path) -> Store {
    let store = Store::open(dir).unwrap();
    fs::create_dir_all(dir.join("ca")).unwrap();
    for name in ["ca/ca.pem", "ca/ca.key", "admin.token"] {
        fs::write(dir.join(name), name).unwrap();
    }
    for t0 in [T0, T0 + 86_400] {
        let mut file = DayFile::create(dir, Day::of(t0).unwrap()).unwrap();
        let at: Vec<u16> = (0..360).map(|ix| ix * 10).collect();
        // Noise, so that bodies are most of the file.
        let noise =
            |at: &u16| i64::from((u32::from(*at) + 1).wrapping_mul(2_654_435_761).rotate_left(9));
        let values: Vec<i64> = at.iter().map(|at| noise(at) ^ noise(&(at * 7 % 3600))).collect();
        let columns =
            (1..=4).map(|metric| Column { metric, at: at.clone(), values: values.clone() });
        let hour = ServerHour { columns: columns.collect(), ..ServerHour::default() };
        let hours: Vec<_> = (1..=40)
            .map(|id| (Place { t0, server: ServerId(id), part: 0 }, hour.clone()))
            .collect();
        file.put(&hours).unwrap();
        file.finish(t0, 0, 40).unwrap();
        let sealed = "INSERT INTO sealed(t0, hot_cut, parts, at) VALUES(?1, 0, 1, 0)";
        store.write(move |tx| tx.execute(sealed, [t0])).await.unwrap();
    }
    store
}

fn day_file(dir: &Path, t0: i64) -> std::path::PathBuf {
    dir.join(Day::of(t0).unwrap().file())
}

fn problems(dir: &Path) -> Vec<Problem> {
    let report = verify(dir, UnixMillis(0));
    assert_eq!(report.sound, report.problems.is_empty());
    report.problems
}

#[tokio::test]
async fn a_sound_directory_is_sound_and_no_file_is_made_or_changed() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    assert_eq!(problems(dir.path()), [], "while it runs");
    store.close().await.unwrap();
    drop(store);
    let names = || {
        let inner = |path: &Path| {
            fs::read_dir(path).unwrap().map(|f| f.unwrap().path()).collect::<Vec<_>>()
        };
        let mut all = [inner(dir.path()), inner(&dir.path().join("blocks"))].concat();
        all.sort();
        all
    };
    let before = names();
    let report = verify(dir.path(), UnixMillis(0));
    assert_eq!((report.sound, report.n_files, report.n_hours), (true, 3, 2), "{report:#?}");
    assert_eq!(report.n_bodies, 2 * 40 * (4 + 4));
    assert_eq!(names(), before);
}

#[tokio::test]
async fn any_flipped_byte_is_found_or_changes_nothing_that_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.close().await.unwrap();
    drop(store);
    let (path, day) = (day_file(dir.path(), T0), Day::of(T0).unwrap());
    let read_all = || {
        let file = DayFile::open(dir.path(), day).unwrap().unwrap();
        let place = |id| Place { t0: T0, server: ServerId(id), part: 0 };
        (1..=40).map(|id| file.server_hour(place(id)).unwrap()).collect::<Vec<_>>()
    };
    let (whole, truth) = (fs::read(&path).unwrap(), read_all());
    let (n, mut n_found) = (97, 0);
    for ix in 1..n {
        let mut bytes = whole.clone();
        let at = bytes.len() / n * ix + ix;
        bytes[at] ^= 1 << (ix % 8);
        fs::write(&path, bytes).unwrap();
        if problems(dir.path()).is_empty() {
            assert!(read_all() == truth, "byte {at} changed an answer unseen");
        } else {
            n_found += 1;
        }
    }
    assert!(n_found > n / 3, "most of the file is bodies: {n_found}");
    fs::write(&path, whole).unwrap();
    let path = dir.path().join(DATABASE);
    let whole = fs::read(&path).unwrap();
    for page in [1, 2, 5] {
        let mut bytes = whole.clone();
        bytes[page * 4096..page * 4096 + 64].fill(0xa5);
        fs::write(&path, bytes).unwrap();
        let found = problems(dir.path());
        assert!(found.iter().any(|problem| problem.file == DATABASE), "page {page}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(problems(dir.path()), []);
}

#[tokio::test]
async fn a_flipped_bit_of_each_body_is_found_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let path = day_file(dir.path(), T0);
    let conn = rusqlite::Connection::open(&path).unwrap();
    let flip = "UPDATE block SET body = CAST(x'00' || substr(body, 2) AS BLOB)
                WHERE metric = 3 AND server_id = 7";
    assert_eq!(conn.execute(flip, []).unwrap(), 1);
    conn.execute("UPDATE presence SET crc = crc + 1 WHERE server_id = 9", []).unwrap();
    conn.execute("DELETE FROM block WHERE metric = 4 AND server_id = 11", []).unwrap();
    let found = problems(dir.path());
    let place = |n: usize| (found[n].place.as_str(), found[n].what.as_str());
    let hour = hour_name(T0);
    assert_eq!(found.len(), 3, "{found:#?}");
    let (at, what) = place(0);
    assert!(
        at == format!("{hour}, server 9, part 0, list of metrics") && what.contains("checksum")
    );
    let (at, what) = place(1);
    assert!(at.contains("server 11, part 0") && what == "metric 4 is gone", "{at} {what}");
    let (at, what) = place(2);
    assert!(at.contains("server 7, part 0, metric 3") && what.contains("checksum"), "{at} {what}");
    drop(store);
}

#[tokio::test]
async fn a_flipped_bit_of_a_month_file_is_found_at_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let (day, month) = (Day::of(T0).unwrap(), Month::of(T0).unwrap());
    let mut file = MonthFile::create(dir.path(), month).unwrap();
    let hour = |n| Rolled { n, min: 1, max: 9, sum: 50, ..Rolled::default() };
    let series =
        |server| (3, ServerId(server), std::array::from_fn(|ix| Some(hour(ix as u64 + 1))));
    file.put(day, &Rows { series: (1..=9).map(series).collect(), ..Rows::default() }).unwrap();
    assert_eq!(problems(dir.path()), []);
    let flip = "UPDATE series SET body = CAST(substr(body, 1, length(body) - 1) || x'5a' AS BLOB)
                WHERE server_id = 7";
    assert_eq!(file.conn().execute(flip, []).unwrap(), 1);
    let found = problems(dir.path());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].place.ends_with("server 7, metric 3"), "{found:#?}");
    assert_eq!(found[0].file, month.file().display().to_string());
    drop(store);
}

#[tokio::test]
async fn a_deleted_a_swapped_and_an_older_day_file_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    store.close().await.unwrap();
    drop(store);
    let (first, second) = (day_file(dir.path(), T0), day_file(dir.path(), T0 + 86_400));
    let (one, two) = (fs::read(&first).unwrap(), fs::read(&second).unwrap());
    let only = || {
        let found = problems(dir.path());
        assert_eq!(found.len(), 1, "{found:#?}");
        found[0].what.clone()
    };
    fs::remove_file(&first).unwrap();
    assert!(only().starts_with("it is missing; the database says that 1 hours"), "{}", only());
    let report = verify(dir.path(), UnixMillis((T0 + 3600) * 1000));
    assert!(report.sound, "what is past its retention may be gone");
    fs::write(&first, &two).unwrap();
    let name = second.file_stem().unwrap().to_string_lossy().into_owned();
    assert!(only().contains(&format!("it is the file of {name}")), "{}", only());
    fs::write(&first, &one).unwrap();
    let conn = rusqlite::Connection::open(&first).unwrap();
    conn.execute("DELETE FROM hour", []).unwrap();
    drop(conn);
    assert!(only().contains("it has 0 parts of the hour"), "{}", only());
    fs::write(&first, "no database").unwrap();
    assert!(only().contains("damaged"), "{}", only());
    let conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.execute_batch("CREATE TABLE x(y)").unwrap();
    fs::remove_file(&first).unwrap();
    conn.backup("main", &first, None).unwrap();
    assert!(only().contains("it is no day file"), "{}", only());
    fs::write(&first, one).unwrap();
    assert_eq!(problems(dir.path()), []);
}

#[tokio::test]
async fn what_is_sound_again_is_served_again_and_the_rest_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let (first, second) = (Day::of(T0).unwrap().file(), Day::of(T0 + 86_400).unwrap().file());
    let whole = fs::read(dir.path().join(&second)).unwrap();
    let place = |t0| Place { t0, server: ServerId(7), part: 0 };
    store.quarantine().report(Damage::at(&first, place(T0), 3, "was read wrong once"));
    store.quarantine().report(Damage::file(&second, "it is no database"));
    fs::write(dir.path().join(&second), "no database").unwrap();
    assert_eq!(recheck(&store).await, (1, 1));
    assert!(!store.quarantine().has(&first, place(T0), 3));
    assert!(store.quarantine().has_file(&second));
    fs::write(dir.path().join(&second), whole).unwrap();
    assert_eq!(recheck(&store).await, (1, 0));
    assert!(!store.quarantine().has_file(&second));
}
