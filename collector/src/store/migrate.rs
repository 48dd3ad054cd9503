//! Brings a database of an earlier release up to date, or leaves it as it was.
//!
//! Invariant: all steps and the new version are one transaction. A migration that fails, is killed or
//! finds no space leaves what the release before can open. What it takes is looked at before the
//! database is opened to write.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::{M, Migrations};
use rustix::fs::statvfs;

use super::StoreError;
use super::open::{MIGRATIONS, immutable_uri};

/// What a migration takes beside the tables it rewrites: its log, new pages, the schema.
const MARGIN_BYTES: u64 = 4 << 20;

/// Refuses a database that is of a later release, or cannot be migrated for lack of space; writes
/// nothing.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    if !path.exists() {
        return Ok(());
    }
    check_with(path, free_bytes(path), MIGRATIONS)
}

fn check_with(path: &Path, free_bytes: u64, steps: &[&str]) -> Result<(), StoreError> {
    let broken = |source: rusqlite::Error| StoreError::from_open(path, source);
    let conn = untouched(path).map_err(broken)?;
    let found = version(&conn).map_err(broken)?;
    let known = steps.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    let need_bytes = need_bytes(&conn, steps).map_err(broken)?;
    if need_bytes > free_bytes {
        return Err(no_space(path, need_bytes, free_bytes));
    }
    Ok(())
}

/// Runs the steps that the database has not seen, all of them or none.
pub(super) fn migrate(conn: &mut Connection, path: &Path) -> Result<(), StoreError> {
    migrate_with(conn, path, MIGRATIONS)
}

fn migrate_with(conn: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StoreError> {
    let broken = |source: rusqlite::Error| StoreError::from_open(path, source);
    let found = version(conn).map_err(broken)?;
    let all = steps.iter().map(|sql| M::up(sql)).collect();
    match Migrations::new(all).to_latest(conn) {
        Ok(()) => {
            let to = steps.len() as i64;
            if found > 0 && found < to {
                let path = path.display();
                tracing::info!(%path, from = found, to, "the database is brought up to date");
            }
            Ok(())
        }
        Err(error) if is_full(&error) => {
            // The estimate did not hold, or others took the space meanwhile: a whole copy always fits.
            let need_bytes = need_bytes(conn, steps).map_err(broken)?;
            let size = std::fs::metadata(path).map_or(0, |file| file.len());
            let need_bytes = need_bytes.max(2 * size + MARGIN_BYTES);
            Err(no_space(path, need_bytes, free_bytes(path)))
        }
        Err(source) => Err(StoreError::Migration { path: path.to_owned(), source }),
    }
}

fn no_space(path: &Path, need_bytes: u64, free_bytes: u64) -> StoreError {
    StoreError::NoSpaceToMigrate {
        path: path.to_owned(),
        need_mib: need_bytes.div_ceil(1 << 20),
        free_mib: free_bytes >> 20,
    }
}

fn is_full(error: &rusqlite_migration::Error) -> bool {
    let code = match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => err.sqlite_error_code(),
        _ => None,
    };
    matches!(code, Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

/// Bytes free for this user on the disk of a file; everything where that cannot be found out.
fn free_bytes(path: &Path) -> u64 {
    let dir = path.parent().unwrap_or(Path::new("/"));
    statvfs(dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// What the steps that are due may take: every table they name is written anew in the worst case, to
/// the log and to the file, with an index more.
fn need_bytes(conn: &Connection, steps: &[&str]) -> rusqlite::Result<u64> {
    let done = usize::try_from(version(conn)?).unwrap_or(usize::MAX);
    let Some(due) = steps.get(done..).filter(|due| done > 0 && !due.is_empty()) else {
        return Ok(0);
    };
    let words: BTreeSet<&str> = due.iter().flat_map(|sql| words(sql)).collect();
    let mut objects =
        conn.prepare("SELECT name, tbl_name FROM sqlite_schema WHERE rootpage > 0")?;
    let mut size = conn.prepare("SELECT COALESCE(sum(pgsize), 0) FROM dbstat WHERE name = ?1")?;
    let mut rows = objects.query([])?;
    let mut n_bytes = 0_u64;
    while let Some(row) = rows.next()? {
        let (name, table): (String, String) = (row.get(0)?, row.get(1)?);
        if words.contains(table.as_str()) {
            n_bytes += size.query_row([name], |row| row.get::<_, i64>(0))?.cast_unsigned();
        }
    }
    Ok(3 * n_bytes + MARGIN_BYTES)
}

/// The words of a script, without its comments.
fn words(sql: &str) -> impl Iterator<Item = &str> {
    let bare = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
    bare.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Opens a database to read without writing a byte of it, and no file beside it where none is.
pub(super) fn untouched(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut log = path.to_owned().into_os_string();
    log.push("-wal");
    if Path::new(&log).exists() {
        return Connection::open_with_flags(path, flags);
    }
    // Whoever had it open is gone, and without this SQLite would make the log to read beside it.
    Connection::open_with_flags(immutable_uri(path), flags | OpenFlags::SQLITE_OPEN_URI)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    use rusqlite::types::Value;

    use super::*;

    /// A step that takes more than anybody expects.
    const LARGE: &str = "ALTER TABLE outbox RENAME TO outbox_before;
         CREATE TABLE outbox AS SELECT * FROM outbox_before;
         INSERT INTO outbox SELECT * FROM outbox_before;
         DROP TABLE outbox_before;
         CREATE INDEX outbox_body ON outbox(body);";

    /// A step that does so as a release would.
    const REWRITE: &str = "ALTER TABLE outbox RENAME TO outbox_before;
         CREATE TABLE outbox(id INTEGER PRIMARY KEY, route TEXT NOT NULL, body TEXT NOT NULL) STRICT;
         INSERT INTO outbox SELECT id, route, body FROM outbox_before;
         DROP TABLE outbox_before;
         CREATE INDEX outbox_id ON outbox(route, id);";

    /// A database of schema 4 with some MiB owed, closed; steps 1 to 4.
    fn before(dir: &Path) -> (PathBuf, Vec<&'static str>) {
        let path = dir.join("gatewatch.db");
        let steps = MIGRATIONS[..4].to_vec();
        let mut conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode=WAL").unwrap();
        migrate_with(&mut conn, &path, &steps).unwrap();
        conn.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO outbox SELECT i, '', 'r', i, 0, i, hex(zeroblob(500)) || i FROM n;
             INSERT INTO server(uuid, name, first_seen) VALUES(x'01', 'web-1', 5);",
        )
        .unwrap();
        (path, steps)
    }

    /// Every row of every table, with the schema and its version.
    fn content(conn: &Connection) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        let names = "SELECT name FROM sqlite_schema WHERE type = 'table'";
        let mut query = conn.prepare(names).unwrap();
        let names: Vec<String> =
            query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        for name in names.into_iter().chain(["sqlite_schema".to_owned()]) {
            let mut query = conn.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let n = query.column_count();
            let line = |row: &rusqlite::Row<'_>| {
                let values: Vec<Value> = (0..n).map(|ix| row.get(ix)).collect::<Result<_, _>>()?;
                Ok(format!("{values:?}"))
            };
            let mut lines: Vec<String> =
                query.query_map([], line).unwrap().map(Result::unwrap).collect();
            lines.sort();
            all.insert(name, lines);
        }
        all.insert("user_version".into(), vec![version(conn).unwrap().to_string()]);
        all
    }

    /// Name, bytes and time of change of every file of a folder.
    fn files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let entry = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            let changed = path.metadata().unwrap().modified().unwrap();
            (path.clone(), (std::fs::read(path).unwrap(), changed))
        };
        std::fs::read_dir(dir).unwrap().map(entry).collect()
    }

    #[test]
    fn a_database_that_has_no_space_to_be_migrated_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut steps) = before(dir.path());
        let was = files(dir.path());
        assert_eq!(was.len(), 1, "{:?}", was.keys());
        // A step that touches nothing large needs little; comments are no statements.
        steps.push("-- the outbox stays\nDROP TABLE metric;");
        check_with(&path, MARGIN_BYTES + (64 << 10), &steps).unwrap();
        steps.push(REWRITE);
        let error = check_with(&path, 6 << 20, &steps).unwrap_err();
        let StoreError::NoSpaceToMigrate { need_mib, free_mib: 6, .. } = error else {
            panic!("{error:?}")
        };
        assert!((7..20).contains(&need_mib), "3000 rows of 1 KB, thrice: {need_mib} MiB");
        let text = error.to_string();
        assert!(text.contains("gatewatch.db") && text.contains("free space"), "{text}");
        assert!(text.contains("left as it was"), "{text}");
        assert_eq!(files(dir.path()), was, "not a byte, not a file");
        // With what it asked for, it has enough.
        check_with(&path, need_mib << 20, &steps).unwrap();
        let mut conn = Connection::open(&path).unwrap();
        migrate_with(&mut conn, &path, &steps).unwrap();
        let grown = files(dir.path()).values().map(|(bytes, _)| bytes.len() as u64).sum::<u64>()
            - was[&path].0.len() as u64;
        assert!(grown <= need_mib << 20, "{grown} bytes were taken, {need_mib} MiB were asked for");
    }

    #[test]
    fn a_disk_that_fills_up_in_the_middle_of_a_migration_leaves_the_database_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut steps) = before(dir.path());
        steps.push(LARGE);
        let mut conn = Connection::open(&path).unwrap();
        let was = content(&conn);
        let pages: i64 = conn.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let limit = |conn: &Connection, pages: i64| {
            let set = format!("PRAGMA max_page_count = {pages}");
            conn.query_row(&set, [], |_| Ok(())).unwrap();
        };
        // The first copy fits, the second does not.
        limit(&conn, 2 * pages + 100);
        let error = migrate_with(&mut conn, &path, &steps).unwrap_err();
        let StoreError::NoSpaceToMigrate { need_mib, .. } = error else { panic!("{error:?}") };
        let size = path.metadata().unwrap().len();
        assert!(need_mib << 20 > 2 * size, "{need_mib} MiB are enough");
        assert_eq!(content(&conn), was);
        drop(conn);
        let mut conn = Connection::open(&path).unwrap();
        assert_eq!(content(&conn), was);
        migrate_with(&mut conn, &path, &steps).unwrap();
        assert_eq!(content(&conn)["outbox"].len(), 6000);
    }

    #[test]
    fn a_migration_that_fails_half_way_leaves_the_database_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut steps) = before(dir.path());
        steps.push(LARGE);
        steps.push(
            "CREATE TABLE half(x); INSERT INTO half VALUES(1); INSERT INTO nowhere VALUES(1);",
        );
        let mut conn = Connection::open(&path).unwrap();
        let was = content(&conn);
        let error = migrate_with(&mut conn, &path, &steps).unwrap_err();
        assert!(matches!(error, StoreError::Migration { .. }), "{error:?}");
        assert!(error.to_string().contains("left as it was"), "{error}");
        assert_eq!(content(&conn), was, "the steps before it are undone too");
    }

    #[test]
    fn a_migration_killed_at_any_moment_leaves_the_old_database_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut steps) = before(dir.path());
        steps.push(LARGE);
        let mut conn = Connection::open(&path).unwrap();
        let was = content(&conn);
        // So that the log fills with what is not committed, as it does with a large database.
        conn.execute_batch("PRAGMA cache_size = 20; PRAGMA wal_autocheckpoint = 50").unwrap();
        let copies = Arc::new(Mutex::new(Vec::new()));
        let (seen, from) = (Arc::clone(&copies), dir.path().to_owned());
        let copy = move || {
            let copy = tempfile::tempdir().unwrap();
            for name in ["gatewatch.db", "gatewatch.db-wal"] {
                std::fs::copy(from.join(name), copy.path().join(name)).unwrap();
            }
            seen.lock().unwrap().push(copy);
            false
        };
        conn.progress_handler(9_000, Some(copy)).unwrap();
        migrate_with(&mut conn, &path, &steps).unwrap();
        conn.progress_handler(0, None::<fn() -> bool>).unwrap();
        let new = content(&conn);
        let copies = std::mem::take(&mut *copies.lock().unwrap());
        let mut n_logged = 0;
        for copy in &copies {
            let path = copy.path().join("gatewatch.db");
            n_logged = n_logged.max(copy.path().join("gatewatch.db-wal").metadata().unwrap().len());
            check_with(&path, u64::MAX, &steps).unwrap();
            let mut conn = Connection::open(&path).unwrap();
            assert_eq!(content(&conn), was, "nothing of it happened");
            migrate_with(&mut conn, &path, &steps).unwrap();
            assert_eq!(content(&conn), new);
        }
        assert!(copies.len() >= 4, "{} moments", copies.len());
        assert!(n_logged > 1 << 20, "much was written when the last ones were taken: {n_logged}");
    }

    #[test]
    fn a_newer_database_is_refused_untouched_also_when_only_its_log_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (path, steps) = before(dir.path());
        let mut conn = Connection::open(&path).unwrap();
        let mut newer = steps.clone();
        newer.push(LARGE);
        migrate_with(&mut conn, &path, &newer).unwrap();
        // What kill -9 of the newer release leaves.
        let killed = tempfile::tempdir().unwrap();
        for name in ["gatewatch.db", "gatewatch.db-wal"] {
            std::fs::copy(dir.path().join(name), killed.path().join(name)).unwrap();
        }
        drop(conn);
        for dir in [dir.path(), killed.path()] {
            let (was, path) = (files(dir), dir.join("gatewatch.db"));
            let error = check_with(&path, u64::MAX, &steps).unwrap_err();
            assert!(matches!(error, StoreError::Newer { found: 5, known: 4, .. }), "{error:?}");
            let mut is = files(dir);
            is.retain(|path, _| was.contains_key(path)); // a log that is read has an index beside it
            assert_eq!(is, was);
        }
        assert_eq!(files(dir.path()).len(), 1, "no file beside it");
    }
}
