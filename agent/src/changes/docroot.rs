//! Reads below a document root, which belongs to anybody: links are never followed, only regular files
//! are opened and none can hold us, and of names and versions only plain ones are taken.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use super::mark::{Facts, read_regular};

/// Names of one folder that are looked at, wanted or not.
const ENTRIES_MAX: usize = 4_000;
const NAME_BYTES_MAX: usize = 100;
const VERSION_BYTES_MAX: usize = 40;

/// A folder at or below a document root.
#[derive(Debug)]
pub(super) struct Folder(std::os::fd::OwnedFd);

/// What there is by a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) facts: Facts,
    pub(super) is_file: bool,
    pub(super) is_folder: bool,
    device: u64,
}

impl Found {
    /// Device and inode: no other file or folder has these.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.device, self.facts.inode)
    }
}

// Enough to go on from; a folder need not be readable to be passed.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    /// The document root itself: its path is the configuration's, so its links are followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, FOLDER, Mode::empty())?))
    }

    /// The folder above.
    pub(super) fn above(&self) -> io::Result<Self> {
        Ok(Self(openat(&self.0, "..", FOLDER, Mode::empty())?))
    }

    /// A folder below, part by part, none of them a link.
    pub(super) fn below(&self, relative: &str) -> io::Result<Self> {
        let mut parts = relative.split('/').filter(|part| !part.is_empty());
        let first = parts.next().ok_or(io::ErrorKind::InvalidInput)?;
        let mut folder = self.step(first)?;
        for part in parts {
            folder = folder.step(part)?;
        }
        Ok(folder)
    }

    fn step(&self, name: &str) -> io::Result<Self> {
        if name == ".." {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self(openat(&self.0, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?))
    }

    pub(super) fn itself(&self) -> io::Result<Found> {
        Ok(found(&fstat(&self.0)?))
    }

    /// What a name of this folder is, a link being a link.
    pub(super) fn find(&self, name: &str) -> io::Result<Found> {
        Ok(found(&statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// The beginning of a regular file of this folder.
    pub(super) fn read(&self, name: &str, n_bytes_max: u64) -> io::Result<Vec<u8>> {
        if name.contains('/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags | OFlags::NOCTTY, Mode::empty())?);
        read_regular(file, n_bytes_max)
    }

    /// The plain names of this folder, sorted, at most so many; also how many were looked at.
    pub(super) fn names(&self, n_max: usize) -> io::Result<(Vec<String>, usize)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.0, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        let mut n_seen = 0;
        for entry in Dir::new(folder)?.take(ENTRIES_MAX) {
            n_seen += 1;
            let Ok(name) = entry?.file_name().to_str().map(str::to_owned) else { continue };
            if is_plain_name(&name) && names.len() < n_max {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok((names, n_seen))
    }
}

fn found(stat: &Stat) -> Found {
    let ms =
        |seconds: i64, nanos: i64| seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000);
    let kind = FileType::from_raw_mode(stat.st_mode);
    let facts = Facts {
        changed_at: ms(stat.st_ctime, stat.st_ctime_nsec as i64),
        modified_at: ms(stat.st_mtime, stat.st_mtime_nsec as i64),
        size: u64::try_from(stat.st_size).unwrap_or(u64::MAX),
        inode: stat.st_ino,
    };
    Found { facts, is_file: kind.is_file(), is_folder: kind.is_dir(), device: stat.st_dev }
}

/// Names of plugins and the like; of all others nothing is told.
fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+@ ".contains(c);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

/// A version behind a text, if it looks like one.
pub(super) fn version_behind(text: &str, before: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    version(rest)
}

/// The version that a text starts with, behind blanks and quotes.
pub(super) fn version(text: &str) -> Option<String> {
    let text = text.trim_start_matches([' ', '\t', '*', '\'', '"', '=']);
    let sign = |c: char| c.is_ascii_alphanumeric() || ".+-".contains(c);
    let end = text.find(|c| !sign(c)).unwrap_or(text.len());
    let is_version = (1..=VERSION_BYTES_MAX).contains(&end)
        && text[..end].starts_with(|c: char| c.is_ascii_digit() || c == 'v' || c == 'r');
    is_version.then(|| text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mknodat;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_pipes_and_ways_out_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        fs::create_dir_all(top.join("site/wp-includes")).unwrap();
        fs::create_dir_all(top.join("other")).unwrap();
        fs::write(top.join("other/secret"), "secret").unwrap();
        fs::write(top.join("site/plain"), "text").unwrap();
        symlink("../other", top.join("site/out")).unwrap();
        symlink("../other/secret", top.join("site/link")).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, top.join("site/pipe"), FileType::Fifo, mode, 0).unwrap();
        let site = Folder::open(&top.join("site")).unwrap();
        assert_eq!(site.read("plain", 2).unwrap(), b"te");
        for name in ["link", "pipe", "out/secret", "../other/secret", "wp-includes", "gone"] {
            assert!(site.read(name, 100).is_err(), "{name}");
        }
        for folder in ["out", "../other", "wp-includes/../../other", "plain", "", "link"] {
            assert!(site.below(folder).is_err(), "{folder}");
        }
        assert!(site.below("wp-includes").is_ok());
        assert!(site.find("link").is_ok_and(|found| !found.is_file && !found.is_folder));
    }

    #[test]
    fn only_plain_names_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["woocommerce", "b c", "x\u{1b}[31m", "ü", ".hidden", &"n".repeat(101)] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.names(10).unwrap(), (vec!["b c".into(), "woocommerce".into()], 8));
        assert_eq!(folder.names(1).unwrap().0.len(), 1);
    }

    #[test]
    fn a_version_looks_like_one() {
        for (text, want) in [
            (" 8.2.0\n", Some("8.2.0")),
            ("'6.5-RC1';", Some("6.5-RC1")),
            (" \"7.x-1.2\"", Some("7.x-1.2")),
            ("v2.1<", Some("v2.1")),
            (" <script>", None),
            ("", None),
            ("six", None),
            (&"1".repeat(41), None),
        ] {
            assert_eq!(version(text).as_deref(), want, "{text}");
        }
        assert_eq!(version_behind("a\nVersion: 1.2\n", "Version:").as_deref(), Some("1.2"));
        assert_eq!(version_behind("a", "Version:"), None);
    }
}
