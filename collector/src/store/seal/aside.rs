//! A day file that is damaged as a whole is put aside, so that the hours of its day are not stuck in `hot`.
//!
//! It keeps its bytes under `blocks/20261120.db.damaged-20261121T093000Z`; nothing deletes it. The file that
//! takes its place says which parts it lacks, and every read of them fails: late data never passes for the hour.
//! A file of another day or of a later release is not damaged, and nobody touches it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, params};

use super::super::blocks::{BlockError, DayFile};
use super::super::hours::Day;
use super::super::quarantine::Damage;
use super::{Pass, SealError};

/// What SQLite keeps beside a database. Moved before it: a log that stays would be replayed into the new file.
const LOGS: [&str; 3] = ["-wal", "-shm", "-journal"];

impl Pass {
    /// Puts the file of a day aside where all of it is damaged; whether it was, and there is a new one.
    pub(super) fn put_aside(
        &self,
        conn: &Connection,
        day: Day,
        why: &str,
    ) -> Result<bool, SealError> {
        self.step()?;
        let path = self.dir.join(day.file());
        let of_day = |error| SealError::Day(path.clone(), error);
        if !DayFile::is_ruined(&self.dir, day).map_err(of_day)? {
            return Ok(false);
        }
        let mut at = self.now;
        while self.dir.join(day.aside(at)).exists() {
            at = at.plus(Duration::from_secs(1));
        }
        let aside = day.aside(at);
        let moved = rename(&path, &self.dir.join(&aside));
        moved.map_err(|error| of_day(BlockError::File(path.clone(), error)))?;
        tracing::error!(
            file = %day.file().display(), aside = %aside.display(), why,
            "a day file is damaged and was put aside: what was in it is not served, what comes late goes to a \
             new one; put the file back from a backup, then remove the one aside"
        );
        self.begin_anew(conn, day)?;
        Ok(true)
    }

    /// Makes the file of a day whose own was put aside: it says what it lacks. False where none was.
    pub(super) fn begin_anew(&self, conn: &Connection, day: Day) -> Result<bool, SealError> {
        let aside = self.aside(day);
        if aside.is_empty() {
            return Ok(false);
        }
        let mut query = conn.prepare_cached(
            "SELECT t0, parts FROM sealed WHERE t0 >= ?1 AND t0 < ?2 AND parts > 0 ORDER BY t0",
        )?;
        let span = params![day.first_second(), day.end_second()];
        let hours = query.query_map(span, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let hours: Vec<(i64, u32)> = hours.collect::<rusqlite::Result<_>>()?;
        if !hours.is_empty() {
            let made = DayFile::create(&self.dir, day).and_then(|mut file| {
                file.lose(&hours)?;
                file.close()
            });
            made.map_err(|error| SealError::Day(self.dir.join(day.file()), error))?;
        }
        let file = day.file();
        let lost = hours.into_iter().map(|(t0, parts)| {
            Damage::part(&file, t0, 0, format!("{parts} parts of it are in a damaged file"))
        });
        let aside = aside.iter().map(|path| {
            Damage::file(
                path,
                "it was damaged and put aside; remove it when nothing of it is wanted",
            )
        });
        self.store.quarantine().replaced(&file, aside.chain(lost).collect());
        Ok(true)
    }

    /// What was put aside of a day, below the data directory.
    fn aside(&self, day: Day) -> Vec<PathBuf> {
        let folder = self.dir.join("blocks");
        let names = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mine = names.filter(|name| Day::of_aside_name(name) == Some(day));
        mine.map(|name| Path::new("blocks").join(name)).collect()
    }
}

/// Renames a database with what is beside it.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let with = |path: &Path, suffix: &str| -> OsString {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name
    };
    for suffix in LOGS {
        match fs::rename(with(from, suffix), with(to, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(from, to)?;
    File::open(from.parent().unwrap_or(from))?.sync_all()
}

#[cfg(test)]
mod tests {
    use wire::UnixMillis;

    use super::super::super::blocks::Place;
    use super::super::super::history::Limits;
    use super::super::super::verify;
    use super::super::tests::{Sent, T0, detect, n_hot, open, pass_of, send, two_days};
    use super::*;
    use crate::model::ServerId;
    use crate::store::Store;

    const NOISE: &[u8] = b"this is no database, but long enough to look like one for somebody";

    /// Names in `blocks/`, in order.
    fn files(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("blocks")).unwrap().map(Result::unwrap);
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    async fn late(store: &Store, second: i64, seq: u64, at: i64) {
        let sent = Sent { server: 1, seconds: vec![(second, 5, 2)], is_unreadable: false };
        send(store, &sent, seq, at).await;
        detect(store).await;
    }

    /// Requests of server 1 of both days, and the hours for which they are not whole.
    async fn read(store: &Store) -> (u64, Vec<(i64, i64, Option<String>)>) {
        let counts = move |history: &super::super::super::history::History<'_>| {
            history.counts(ServerId(1), (T0, T0 + 86_400))
        };
        let told = store.history(Limits::default(), counts).await.unwrap();
        let sites = told.value.values();
        let n = sites.flat_map(|of| of.values().copied().collect::<Vec<u64>>()).sum();
        let second = |at: UnixMillis| (at.second() - T0) / 3600;
        let holes = told.notes.holes.into_iter();
        (n, holes.map(|hole| (second(hole.from), second(hole.to), hole.server)).collect())
    }

    #[tokio::test]
    async fn what_comes_late_for_a_damaged_day_is_packed_beside_and_never_passes_for_the_hour() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        two_days(&store).await;
        detect(&store).await;
        assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
        let day = Day::of(T0).unwrap();
        fs::write(dir.path().join(day.file()), NOISE).unwrap();
        late(&store, 7100, 4, 15_000).await;
        assert!(!pass_of(&store, 6 * 3600, i64::MAX).await);
        assert_eq!(n_hot(&store).await, 0, "nothing is stuck");

        let stamp = "20261130.db.damaged-20261201T040000Z";
        assert_eq!(files(dir.path()), ["20261130.db", stamp, "20261201.db"]);
        assert_eq!(fs::read(dir.path().join("blocks").join(stamp)).unwrap(), NOISE, "as it was");
        let file = DayFile::open(dir.path(), day).unwrap().unwrap();
        let t0 = T0 + 3600;
        assert_eq!(file.parts(t0).unwrap(), 2);
        assert!(file.servers(t0, 0).is_err() && file.servers(t0, 1).unwrap() == [ServerId(1)]);
        assert!(file.counts(Place { t0, server: ServerId(1), part: 0 }).is_err());
        // Restarts and looks that find nothing new change nothing of it.
        let n_damaged = store.stats().blocks_damaged.get();
        store.close().await.unwrap();
        drop(store);
        let store = open(dir.path());
        let next_day = (T0 + 7200..T0 + 7205).chain(T0 + 7300..T0 + 7303);
        let n_next: u64 = next_day.map(|at| 1 + (at - T0) as u64 % 7).sum();
        assert_eq!(verify::recheck(&store).await, (0, 2));
        assert_eq!(read(&store).await, (n_next + 2, vec![(1, 2, None)]));
        assert_eq!((n_damaged, store.stats().blocks_damaged.get()), (1, 0), "told once");
        let report = verify::verify(dir.path(), UnixMillis(0));
        let files = report.problems.iter().map(|found| found.file.as_str());
        let files: Vec<&str> = files.filter(|file| file.starts_with("blocks/")).collect();
        assert_eq!(files, ["blocks/20261130.db", &format!("blocks/{stamp}")]);
        // Who takes it away has looked at it.
        fs::remove_file(dir.path().join("blocks").join(stamp)).unwrap();
        assert_eq!(verify::recheck(&store).await, (1, 1));
    }

    #[tokio::test]
    async fn hours_of_a_day_whose_file_is_damaged_before_they_are_packed_are_whole() {
        for noise in [NOISE, &vec![0; 40_000]] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let model = two_days(&store).await;
            fs::create_dir(dir.path().join("blocks")).unwrap();
            let day = Day::of(T0).unwrap();
            for suffix in ["", "-wal"] {
                let name = format!("{}{suffix}", day.file().display());
                fs::write(dir.path().join(name), noise).unwrap();
            }
            detect(&store).await;
            assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
            assert_eq!(super::super::tests::found(&store).await, model);
            assert_eq!((n_hot(&store).await, read(&store).await.1), (0, vec![]));
            let names = files(dir.path());
            assert!(names.iter().any(|name| name.ends_with("Z-wal")), "{names:?}");
        }
    }

    #[tokio::test]
    async fn a_crash_anywhere_on_the_way_loses_no_late_data() {
        for n_steps in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            two_days(&store).await;
            detect(&store).await;
            assert!(!pass_of(&store, 4 * 3600, i64::MAX).await);
            let day = Day::of(T0).unwrap();
            fs::write(dir.path().join(day.file()), NOISE).unwrap();
            late(&store, 7100, 4, 15_000).await;
            let stopped = pass_of(&store, 6 * 3600, n_steps).await;
            if n_steps == 3 {
                // The power failed between the two names.
                let (old, aside) = (day.file(), day.aside(UnixMillis::from_second(T0)));
                fs::rename(dir.path().join(old), dir.path().join(aside)).unwrap();
            }
            drop(store);
            let store = open(dir.path());
            assert!(!pass_of(&store, 6 * 3600 + 60, i64::MAX).await);
            let file = DayFile::open(dir.path(), day).unwrap().unwrap();
            assert_eq!(file.parts(T0 + 3600).unwrap(), 2, "stopped after {n_steps} steps");
            assert_eq!(file.servers(T0 + 3600, 1).unwrap(), [ServerId(1)]);
            assert_eq!(store.stats().entries_expired.get(), 0);
            if !stopped {
                assert!(n_steps > 4, "{n_steps} steps are not all of them");
                return;
            }
        }
    }
}
