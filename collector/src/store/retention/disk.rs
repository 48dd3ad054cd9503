//! What the data directory takes, and of which files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use crate::store::hours::{Day, Month};

/// Names of what SQLite keeps beside a database, itself first.
pub(super) const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];
/// The least that is kept free of a large disk while the directory is near its own limit.
const FREE_MIN: u64 = 1 << 30;

/// How full a disk is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    /// Free for an unprivileged user.
    pub(super) free_bytes: u64,
    /// Size of the disk.
    pub(super) disk_bytes: u64,
}

/// Finds out how full the disk of a directory is.
pub(super) type SpaceOf = fn(&Path) -> io::Result<Space>;

/// Asks the file system.
pub(super) fn space(dir: &Path) -> io::Result<Space> {
    let disk = statvfs(dir)?;
    Ok(Space {
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        disk_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
    })
}

/// The files of a data directory. Sizes are what they take on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// Day files with their logs.
    pub(super) days: BTreeMap<Day, u64>,
    /// Month files with their logs.
    pub(super) months: BTreeMap<Month, u64>,
    /// `gatewatch.db` with its logs.
    pub(super) hot_bytes: u64,
    /// Everything: keys, backups inside, the ballast, files of others.
    pub(super) all_bytes: u64,
    /// The disk under it.
    pub(super) space: Space,
    /// Logs of day and month files that are gone.
    pub(super) leftovers: Vec<PathBuf>,
    /// Put aside because it was damaged or replaced: folders of restores, day files.
    pub(super) aside: BTreeMap<PathBuf, u64>,
    /// What backups and restores need while they run: it goes by itself.
    pub(super) passing_bytes: u64,
    /// In `blocks/` and `rollup/`, but not made by the collector.
    pub(super) strangers: Vec<PathBuf>,
}

impl Files {
    /// How many bytes should go, and why: the directory is over `max`; or less than a tenth of its disk
    /// is free, and less than the directory may still grow by (or 1 GiB). On a large disk that others
    /// fill, a tenth would be many times of what all of history takes.
    ///
    /// What backups and restores leave, for a while or until somebody removes it, makes no history leave:
    /// that would be gone for good.
    pub(super) fn over(&self, max: u64) -> (u64, &'static str) {
        let aside: u64 = self.aside.values().sum();
        let own = self.all_bytes.saturating_sub(aside).saturating_sub(self.passing_bytes);
        let over = own.saturating_sub(max);
        let growth = max.saturating_sub(own).max(FREE_MIN);
        let free = self.space.free_bytes.saturating_add(self.passing_bytes);
        let short = (self.space.disk_bytes / 10).min(growth).saturating_sub(free);
        if over >= short { (over, "disk_bytes_max") } else { (short, "the disk is nearly full") }
    }
}

/// Walks the directory. Links are not followed; what goes away meanwhile is left out.
pub(super) fn look(dir: &Path, space: SpaceOf) -> io::Result<Files> {
    let mut files = Files { space: space(dir)?, ..Files::default() };
    let mut logs: Vec<(PathBuf, OsString, u64)> = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            let n_bytes = (meta.blocks() * 512).max(if meta.is_file() { meta.len() } else { 0 });
            files.all_bytes += n_bytes;
            if meta.is_dir() {
                left.push(entry.path());
                continue;
            }
            let place = folder.strip_prefix(dir).unwrap_or(Path::new(""));
            if place.components().next().is_some_and(|first| is_passing(first.as_os_str())) {
                files.passing_bytes += n_bytes;
                continue;
            }
            if let Some(first) = aside(place, &entry.file_name()) {
                *files.aside.entry(dir.join(first)).or_default() += n_bytes;
                continue;
            }
            file(&mut files, place, &entry.path(), n_bytes, &mut logs);
        }
    }
    for (path, base, n_bytes) in logs {
        let base = base.to_string_lossy();
        let of = match (Day::of_file_name(&base), Month::of_file_name(&base)) {
            (Some(day), _) => files.days.get_mut(&day),
            (_, Some(month)) => files.months.get_mut(&month),
            _ => None,
        };
        match of {
            Some(size) => *size += n_bytes,
            None => files.leftovers.push(path),
        }
    }
    files.strangers.sort();
    Ok(files)
}

/// Whether a folder of the data directory is one that backups and restores work in.
fn is_passing(name: &OsStr) -> bool {
    ["backup.tmp", "restore.tmp", "restore.ready"].iter().any(|known| name == *known)
}

/// What was put aside with a file, below the data directory; `None` when it was not.
fn aside(place: &Path, name: &OsStr) -> Option<PathBuf> {
    let first = place.components().next();
    let first = first.map(|first| PathBuf::from(first.as_os_str()));
    let starts = |name: &str| name.starts_with("replaced-") || name.starts_with("damaged-");
    if let Some(folder) = first.as_ref().filter(|first| starts(&first.to_string_lossy())) {
        return Some(folder.clone());
    }
    let name = name.to_string_lossy();
    let name = SUFFIXES[1..].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(&name);
    let is_day = place == Path::new("blocks") && Day::of_aside_name(name).is_some();
    is_day.then(|| place.join(name))
}

/// Puts one file where it belongs; logs of day and month files are put off.
fn file(
    files: &mut Files,
    place: &Path,
    path: &Path,
    n_bytes: u64,
    logs: &mut Vec<(PathBuf, OsString, u64)>,
) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let base = SUFFIXES[1..].iter().find_map(|suffix| name.strip_suffix(suffix));
    let known: BTreeSet<&str> = ["blocks", "rollup"].into();
    let place = place.to_string_lossy();
    if place.is_empty() {
        if base.unwrap_or(&name) == "gatewatch.db" {
            files.hot_bytes += n_bytes;
        }
    } else if known.contains(place.as_ref()) {
        let of = base.unwrap_or(&name);
        let (day, month) = match place.as_ref() {
            "blocks" => (Day::of_file_name(of), None),
            _ => (None, Month::of_file_name(of)),
        };
        match (day, month, base) {
            (None, None, _) => files.strangers.push(path.to_owned()),
            (_, _, Some(base)) => logs.push((path.to_owned(), base.into(), n_bytes)),
            (Some(day), _, None) => {
                files.days.insert(day, n_bytes);
            }
            (_, Some(month), None) => {
                files.months.insert(month, n_bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_where_it_belongs_and_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, n: usize| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; n]).unwrap();
        };
        put("gatewatch.db", 5000);
        put("gatewatch.db-wal", 100);
        put("blocks/20261120.db", 16_384);
        put("blocks/20261120.db-wal", 4096);
        put("blocks/20261119.db-shm", 10);
        put("blocks/20261131.db", 10);
        put("blocks/notes.txt", 10);
        put("rollup/202611.db", 8192);
        put("rollup/20261120.db", 10);
        put("backup/old.db", 100_000);
        put("replaced-20261120T000000Z/blocks/20261120.db", 20_000);
        put("damaged-20261120T000000Z/gatewatch.db", 10_000);
        put("blocks/20261118.db.damaged-20261119T010203Z", 30_000);
        put("blocks/20261118.db.damaged-20261119T010203Z-wal", 30_000);
        put("blocks/20261118.db.damaged-by-hand", 10);
        put("backup.tmp/gatewatch.db", 40_000);
        let files = look(dir.path(), space).unwrap();
        let day = Day::of_file_name("20261120.db").unwrap();
        assert!(files.days[&day] >= 16_384 + 4096 && files.days.len() == 1, "{files:?}");
        assert_eq!(files.months.keys().collect::<Vec<_>>(), [&day.month()]);
        assert!((5100..50_000).contains(&files.hot_bytes), "{}", files.hot_bytes);
        assert!(files.all_bytes > 223_000, "{}", files.all_bytes);
        let aside = files.aside.iter().map(|(path, n)| (path.clone(), *n / 10_000));
        let want = [
            ("blocks/20261118.db.damaged-20261119T010203Z", 6),
            ("damaged-20261120T000000Z", 1),
            ("replaced-20261120T000000Z", 2),
        ];
        assert_eq!(
            aside.collect::<Vec<_>>(),
            want.map(|(name, n)| (dir.path().join(name), n)),
            "folders of them count with their content"
        );
        assert_eq!(files.passing_bytes / 10_000, 4);
        assert_eq!(files.leftovers, [dir.path().join("blocks/20261119.db-shm")]);
        let strange = [
            "blocks/20261118.db.damaged-by-hand",
            "blocks/20261131.db",
            "blocks/notes.txt",
            "rollup/20261120.db",
        ];
        assert_eq!(files.strangers, strange.map(|name| dir.path().join(name)));
    }

    #[test]
    fn a_directory_is_too_large_by_its_limit_or_by_what_is_free() {
        const GIB: u64 = 1 << 30;
        let check = |(all, free, disk): (u64, u64, u64), want: u64, why: &str| {
            let files = Files {
                all_bytes: all * GIB,
                space: Space { free_bytes: free * GIB, disk_bytes: disk * GIB },
                ..Files::default()
            };
            assert_eq!(files.over(20 * GIB), (want * GIB, why), "{all} {free} {disk}");
        };
        let (limit, full) = ("disk_bytes_max", "the disk is nearly full");
        check((5, 50, 100), 0, limit);
        check((23, 50, 100), 3, limit);
        check((5, 4, 100), 6, full);
        check((15, 4, 100), 1, full); // it may only grow by 5
        check((5, 180, 2000), 0, limit); // others fill a large disk: there is room for all
        check((20, 0, 100), 1, full);
        check((22, 0, 100), 2, limit);
        let restored = Files {
            all_bytes: 45 * GIB,
            aside: [("replaced-x".into(), 20 * GIB)].into(),
            passing_bytes: 5 * GIB,
            space: Space { free_bytes: 50 * GIB, disk_bytes: 100 * GIB },
            ..Files::default()
        };
        assert_eq!(restored.over(20 * GIB), (0, limit), "a restore costs no history");
    }
}
