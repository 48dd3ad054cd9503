//! Small files that must never be half written: state, identity, checkpoints.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// Replaces a file so that a crash leaves either the old or the new content, never a mixture.
///
/// Writes `<path>.new` with `mode`, syncs it, renames it over `path` and syncs the directory.
/// On an error the old file stays as it was and the temporary one is removed. Written by root, it
/// belongs to whom its directory belongs: the agent's user must read what root enrolled.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary(path);
    let done = write_synced(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = done {
        // The rest of a failed write only takes room; a later try overwrites it anyway.
        drop(fs::remove_file(&temporary));
        return Err(error);
    }
    sync_directory_of(path)
}

/// Makes a creation, rename or removal in the directory of `path` durable.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    drop(fs::remove_file(path)); // an old one would keep its own mode
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if rustix::process::geteuid().is_root() {
        let directory = fs::metadata(directory_of(path))?;
        // A root without that right leaves the file its own, as any user would.
        drop(fchown(&file, Some(directory.uid()), Some(directory.gid())));
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_replaced_file_has_the_new_content_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, b"old and longer").unwrap();
        fs::write(dir.path().join("state.new"), b"left by a crash").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_root_writes_belongs_to_whom_the_directory_belongs() {
        let dir = tempfile::tempdir().unwrap();
        // Refused to others than root, who write as themselves.
        std::os::unix::fs::chown(dir.path(), Some(4321), Some(4322)).ok();
        let path = dir.path().join("state");
        replace(&path, b"new", 0o600).unwrap();
        let owner = |path: &Path| fs::metadata(path).map(|m| (m.uid(), m.gid())).unwrap();
        assert_eq!(owner(&path), owner(dir.path()));
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/state");
        assert!(replace(&path, b"new", 0o600).is_err());
    }
}
