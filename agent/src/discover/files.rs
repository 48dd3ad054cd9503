//! Configuration files below a root: reading, globs, and a list of what could not be read.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::discover::Unreadable;

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Files read in one discovery: a hosting machine has one or two per site.
const FILES_MAX: usize = 50_000;

/// Reads below a root and remembers what it read.
pub(super) struct Files {
    root: PathBuf,
    /// Files and folders that decide what discovery finds.
    pub(super) read: BTreeSet<PathBuf>,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), read: BTreeSet::new(), unreadable: Vec::new() }
    }

    /// Where an absolute path of a configuration is: below the root when it is there, else as it is
    /// written; a log that does not exist yet is where its folder is.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        if self.root == Path::new("/") || path.starts_with(&self.root) {
            return path.to_path_buf();
        }
        let below = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        let folder_exists = below.parent().is_some_and(exists);
        if exists(&below) || folder_exists || !exists(path) { below } else { path.to_path_buf() }
    }

    /// Where a path that we know by ourselves is: below the root and nowhere else.
    pub(super) fn below(&self, path: &str) -> PathBuf {
        self.root.join(path.strip_prefix('/').unwrap_or(path))
    }

    /// A file below the root that need not be there.
    pub(super) fn read_optional(&mut self, path: &Path) -> Option<String> {
        let path = self.resolve(path);
        // Also when it is not there: once it is, there is more to find.
        self.read.insert(path.clone());
        match read_file(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.cannot_read(&path, &error);
                None
            }
        }
    }

    /// A file that another one includes.
    pub(super) fn read_included(&mut self, path: &Path) -> Option<String> {
        if self.read.len() >= FILES_MAX {
            return None;
        }
        let resolved = self.resolve(path);
        match read_file(&resolved) {
            Ok(text) => {
                self.read.insert(resolved);
                Some(text)
            }
            Err(error) => {
                self.cannot_read(&resolved, &error);
                None
            }
        }
    }

    /// The files a pattern names, sorted; a path without wildcards is returned as it is.
    pub(super) fn expand(&mut self, pattern: &str) -> Vec<PathBuf> {
        let path = self.resolve_pattern(pattern);
        if !pattern.contains(['*', '?', '[']) {
            return vec![path];
        }
        let fixed =
            path.ancestors().skip(1).find(|p| !p.to_string_lossy().contains(['*', '?', '[']));
        if let Some(folder) = fixed.filter(|folder| folder.is_dir()) {
            // A new file in it changes what is found.
            self.read.insert(folder.to_path_buf());
            if let Err(error) = fs::read_dir(folder) {
                self.cannot_read(folder, &error);
            }
        }
        let Ok(found) = glob::glob(&path.to_string_lossy()) else { return Vec::new() };
        found.filter_map(Result::ok).filter(|path| !is_backup(path)).take(FILES_MAX).collect()
    }

    fn resolve_pattern(&self, pattern: &str) -> PathBuf {
        let path = Path::new(pattern);
        if self.root == Path::new("/") || path.starts_with(&self.root) {
            return path.to_path_buf();
        }
        let below = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let is_there = |path: &Path| {
            glob::glob(&path.to_string_lossy()).is_ok_and(|mut found| found.next().is_some())
        };
        if is_there(&below) || !is_there(path) { below } else { path.to_path_buf() }
    }

    /// Notes something that could not be read, with the command that grants it.
    pub(super) fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => grant(path),
            io::ErrorKind::NotFound => format!("ls -l {}", quoted(path)),
            _ => format!("stat {}", quoted(path)),
        };
        self.note(path, describe(error), fix);
    }

    pub(super) fn note(&mut self, path: &Path, reason: String, fix: String) {
        let new = Unreadable { path: path.to_path_buf(), reason, fix };
        if !self.unreadable.contains(&new) {
            self.unreadable.push(new);
        }
    }
}

/// The command that lets the agent's user read a file, and reach it.
fn grant(path: &Path) -> String {
    format!("setfacl -m u:gatewatch-agent:rX {}", quoted(path))
}

fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Files that package managers and editors leave behind.
fn is_backup(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    name.ends_with('~')
        || [".dpkg-old", ".dpkg-dist", ".dpkg-new", ".rpmsave", ".rpmnew"]
            .iter()
            .any(|end| name.ends_with(end))
}
