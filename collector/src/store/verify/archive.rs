//! Checks a backup: its checksums, then each database in it, unpacked one at a time.

use std::fs::{self, DirBuilder, File};
use std::io::{BufReader, Read, sink};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::super::backup::{self, BackupError, DATABASE, Manifest, read_archive};
use super::super::hours::Day;
use super::{Problem, Report, Sealed, day, verify_database, verify_month};
use crate::ca;

/// Folder for what is unpacked; removed with all in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, BackupError> {
        let parent = std::env::temp_dir();
        let random = ca::random::<16>().map_err(|error| {
            BackupError::new(format!("{}: {error}", parent.display()), "try again")
        })?;
        let name = format!("gatewatch-verify-{:032x}", u128::from_be_bytes(random));
        Self::at(parent.join(name))
    }

    /// Others may write in the folder it is in: one that is there already is somebody else's.
    fn at(path: PathBuf) -> Result<Self, BackupError> {
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| BackupError::file(&path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok(); // in a folder for what may be lost
    }
}

/// Checks the backup in `file`; `Err` when it cannot be looked at.
pub fn verify_archive(file: &Path) -> Result<(Report, Option<Manifest>), BackupError> {
    let opened = File::open(file).map_err(|error| BackupError {
        code: crate::cli::exit::USAGE,
        ..BackupError::file(file, &error)
    })?;
    let scratch = Scratch::new()?;
    let mut report = Report::default();
    let mut sealed: Vec<Sealed> = Vec::new();
    let read = read_archive(BufReader::with_capacity(1 << 20, opened), &mut |name, entry| {
        one(&scratch.0, name, entry, &mut sealed, &mut report)
    });
    let manifest = match read {
        Ok(manifest) => manifest,
        // A full disk here says nothing of the backup.
        Err(error) if error.code == crate::cli::exit::INTERNAL => return Err(error),
        Err(error) => {
            report.add(Problem {
                file: file.display().to_string(),
                what: error.what,
                means: "it cannot be restored".into(),
                fix: error.fix,
                ..Problem::default()
            });
            return Ok((report.done(), None));
        }
    };
    for member in &manifest.members {
        let Some(beside) = &member.beside else { continue };
        let path = backup::beside_of(file, beside)?;
        let checked = File::open(&path).map_err(|error| backup::missing(&path, &error)).and_then(
            |mut opened| one(&scratch.0, &member.name, &mut opened, &mut sealed, &mut report),
        );
        let what = match checked {
            Ok((n_bytes, sha256)) if (n_bytes, &sha256) == (member.n_bytes, &member.sha256) => {
                continue;
            }
            Ok(_) => "its checksum does not fit".to_owned(),
            Err(error) => error.what,
        };
        report.add(Problem {
            file: path.display().to_string(),
            place: member.name.clone(),
            what,
            means: "the backup cannot be restored".into(),
            fix: "use another backup".into(),
        });
    }
    missing(&manifest, &sealed, &mut report);
    Ok((report.done(), Some(manifest)))
}

/// Unpacks a member, checks it, and removes it again.
fn one(
    scratch: &Path,
    name: &str,
    from: &mut dyn Read,
    sealed: &mut Vec<Sealed>,
    report: &mut Report,
) -> Result<(u64, String), BackupError> {
    if !backup::is_database(name) {
        report.n_files += 1;
        let read = backup::pour(from, &mut sink());
        return read.map_err(|error| BackupError::bad(format!("it is cut off: {error}")));
    }
    let path = scratch.join(name);
    let written = backup::write(&path, from)?;
    if name == DATABASE {
        *sealed = verify_database(&path, false, report).sealed;
    } else if let Some(day) = super::is_backup_of_days(name) {
        let of_day: Vec<Sealed> =
            sealed.iter().filter(|hour| Day::of(hour.t0) == Some(day)).copied().collect();
        day::verify_day(&path, day, &of_day, false, report);
    } else {
        verify_month(&path, name, false, report);
    }
    fs::remove_file(&path).map_err(|error| BackupError::file(&path, &error))?;
    Ok(written)
}

/// Day files that the database names and that are not in the backup. Those that had expired are not
/// expected.
fn missing(manifest: &Manifest, sealed: &[Sealed], report: &mut Report) {
    let oldest =
        manifest.members.iter().filter_map(|member| super::is_backup_of_days(&member.name));
    let Some(oldest) = oldest.min() else { return };
    let mut told: Vec<Day> = Vec::new();
    for day in sealed.iter().filter_map(|hour| Day::of(hour.t0)) {
        let name = day.file().display().to_string();
        let is_there = manifest.members.iter().any(|member| member.name == name);
        // Days before the oldest had left by age when it was made.
        if !is_there && day > oldest && !manifest.expired.contains(&name) && !told.contains(&day) {
            told.push(day);
            let n_hours = sealed.iter().filter(|hour| Day::of(hour.t0) == Some(day)).count();
            report.add(super::missing_day(day, n_hours as u64));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_that_somebody_else_made_is_not_unpacked_into() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guessed");
        fs::create_dir(&path).unwrap();
        assert!(Scratch::at(path.clone()).is_err());
        assert!(path.is_dir(), "it is theirs and stays");
        let [one, two] = [Scratch::new().unwrap(), Scratch::new().unwrap()];
        assert_ne!(one.0, two.0);
        assert_eq!(fs::metadata(&one.0).unwrap().permissions().mode() & 0o777, 0o700);
        let was_at = one.0.clone();
        drop(one);
        assert!(!was_at.exists());
    }
}
