//! Configuration files below a root: reading, globs, and a list of what could not be read.
//!
//! Everything is bounded: the size of a file, the files and bytes of one discovery, the names in a
//! folder, the notes. Pipes, sockets and devices are never opened.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::discover::{Discovery, Unreadable};
use crate::logs::sources::{permission_fix, quoted};

/// Largest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Files read in one discovery, one that is included by many counted each time: a hosting machine
/// has a handful per site.
const READS_MAX: usize = 50_000;
/// Bytes read in one discovery.
const BYTES_MAX: u64 = 256 << 20;
/// Files of which the agent looks every other second whether they changed: one `stat` each.
const WATCHED_MAX: usize = 20_000;
/// Names of one folder that a glob is compared with.
const NAMES_MAX: usize = 100_000;
/// Things listed as unreadable; more are counted.
const NOTES_MAX: usize = 1000;
/// Links to links that are followed below a root.
const LINKS_MAX: u32 = 8;

/// As the glob of the C library, which servers use.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Reads below a root and remembers what it read.
pub(super) struct Files {
    root: PathBuf,
    /// Configuration files, and folders of such.
    configs: BTreeSet<PathBuf>,
    /// What else decides what is found.
    watched: BTreeSet<PathBuf>,
    unreadable: Vec<Unreadable>,
    noted: HashSet<(PathBuf, String)>,
    n_notes_left_out: usize,
    n_reads: usize,
    n_bytes: u64,
    /// Names of Unix users by number, once they were asked for.
    users: Option<HashMap<u32, String>>,
    /// Nothing is there, whatever the path.
    is_without_disk: bool,
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            // Servers take a relative path for one below their own folder.
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf()),
            configs: BTreeSet::new(),
            watched: BTreeSet::new(),
            unreadable: Vec::new(),
            noted: HashSet::new(),
            n_notes_left_out: 0,
            n_reads: 0,
            n_bytes: 0,
            users: None,
            is_without_disk: false,
        }
    }

    /// Finds no file and no folder anywhere.
    pub(super) fn without_disk() -> Self {
        Self { is_without_disk: true, ..Self::new(Path::new("/")) }
    }

    /// Hands over what was read and what could not be.
    pub(super) fn finish(mut self, discovery: &mut Discovery) {
        if self.n_notes_left_out > 0 {
            self.unreadable.push(Unreadable {
                path: self.root.clone(),
                reason: format!("{} more things could not be read", self.n_notes_left_out),
                fix: "as for the others".to_owned(),
            });
        }
        discovery.config_files = self.configs.into_iter().collect();
        discovery.watched = self.watched.into_iter().collect();
        discovery.unreadable = self.unreadable;
    }

    /// Discover again when this file or folder, which is no configuration, changes.
    pub(super) fn watch(&mut self, path: &Path) {
        if self.watched.len() < WATCHED_MAX {
            self.watched.insert(path.to_path_buf());
        }
    }

    fn watch_config(&mut self, path: &Path) {
        if self.configs.len() < WATCHED_MAX {
            self.configs.insert(path.to_path_buf());
        }
    }

    /// True when something is there; a link counts.
    pub(super) fn exists(&self, path: &Path) -> bool {
        !self.is_without_disk && fs::symlink_metadata(path).is_ok()
    }

    /// Where an absolute path of a configuration is: below the root when it is there, else as it is
    /// written; a log that does not exist yet is where its folder is.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        if self.is_outside(path) {
            return path.to_path_buf();
        }
        let below = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let exists = |path: &Path| fs::symlink_metadata(path).is_ok();
        let folder_exists = || below.parent().is_some_and(exists);
        if exists(&below) || folder_exists() || !exists(path) { below } else { path.to_path_buf() }
    }

    fn is_outside(&self, path: &Path) -> bool {
        self.root == Path::new("/") || path.starts_with(&self.root)
    }

    /// An absolute link below a root means a file below that root.
    fn through_links(&self, mut path: PathBuf) -> PathBuf {
        if self.root == Path::new("/") {
            return path;
        }
        for _ in 0..LINKS_MAX {
            let Ok(target) = fs::read_link(&path) else { return path };
            if !target.is_absolute() || target.starts_with(&self.root) {
                return path;
            }
            let below = self.root.join(target.strip_prefix("/").unwrap_or(&target));
            if fs::symlink_metadata(&below).is_err() {
                return path;
            }
            path = below;
        }
        path
    }

    /// Where a path that we know by ourselves is: below the root and nowhere else.
    pub(super) fn below(&self, path: &str) -> PathBuf {
        self.root.join(path.strip_prefix('/').unwrap_or(path))
    }

    /// A file below the root that need not be there.
    pub(super) fn read_optional(&mut self, path: &Path) -> Option<String> {
        let path = self.through_links(self.resolve(path));
        // Also when it is not there: once it is, there is more to find.
        self.watch_config(&path);
        match self.read(&path) {
            Ok(text) => Some(text),
            Err(error) if is_absent(&error) => None,
            Err(error) => {
                self.cannot_read(&path, &error);
                None
            }
        }
    }

    /// The same, without a note when it may not be read.
    pub(super) fn read_quietly(&mut self, path: &Path) -> Option<String> {
        let path = self.through_links(self.resolve(path));
        self.watch_config(&path);
        self.read(&path).ok()
    }

    /// A file that another one includes.
    pub(super) fn read_included(&mut self, path: &Path) -> Option<String> {
        let path = self.through_links(self.resolve(path));
        self.watch_config(&path);
        match self.read(&path) {
            Ok(text) => Some(text),
            Err(error) => {
                self.cannot_read(&path, &error);
                None
            }
        }
    }

    fn read(&mut self, path: &Path) -> io::Result<String> {
        if self.n_reads >= READS_MAX || self.n_bytes >= BYTES_MAX {
            return Err(io::Error::other("not read: there are too many configuration files"));
        }
        if self.is_without_disk {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.n_reads += 1;
        let text = read_file(path, FILE_BYTES_MAX)?;
        self.n_bytes += text.len() as u64;
        Ok(text)
    }

    /// The beginning of a file that is looked at and not watched.
    pub(super) fn peek(&mut self, path: &Path, n_bytes_max: u64) -> Option<String> {
        let path = self.through_links(path.to_path_buf());
        if self.is_without_disk { None } else { read_file(&path, n_bytes_max).ok() }
    }

    /// The files a pattern names, sorted; a path without wildcards is returned as it is. Every folder
    /// in which a new name would match is watched.
    pub(super) fn expand(&mut self, pattern: &str) -> Vec<PathBuf> {
        self.expand_as(pattern, true)
    }

    /// The same for logs: their folders hold no configuration.
    pub(super) fn expand_logs(&mut self, pattern: &str) -> Vec<PathBuf> {
        self.expand_as(pattern, false)
    }

    fn expand_as(&mut self, pattern: &str, is_config: bool) -> Vec<PathBuf> {
        let path = Path::new(pattern);
        if !has_wildcard(pattern) {
            return vec![self.resolve(path)];
        }
        if self.is_outside(path) {
            return self.matches(path, is_config);
        }
        let below = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let found = self.matches(&below, is_config);
        if found.is_empty() { self.matches(path, is_config) } else { found }
    }

    fn matches(&mut self, pattern: &Path, is_config: bool) -> Vec<PathBuf> {
        let mut parts = Vec::new();
        let mut base = PathBuf::new();
        for component in pattern.components() {
            let text = component.as_os_str().to_string_lossy().into_owned();
            let is_name = matches!(component, Component::Normal(_));
            if parts.is_empty() && !(is_name && has_wildcard(&text)) {
                base.push(component);
            } else {
                parts.push(text);
            }
        }
        let mut found = Vec::new();
        if !self.is_without_disk {
            self.walk(&base, &parts, is_config, &mut found);
        }
        found
    }

    fn walk(&mut self, folder: &Path, parts: &[String], is_config: bool, found: &mut Vec<PathBuf>) {
        let Some((part, rest)) = parts.split_first() else {
            if found.len() < READS_MAX && fs::symlink_metadata(folder).is_ok() {
                found.push(folder.to_path_buf());
            }
            return;
        };
        if !has_wildcard(part) {
            return self.walk(&folder.join(part), rest, is_config, found);
        }
        let Ok(pattern) = Pattern::new(part) else { return };
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                if !is_absent(&error) {
                    self.cannot_read(folder, &error);
                }
                return;
            }
        };
        // A new name in it changes what is found. Only where files match is it all configuration.
        if rest.is_empty() && is_config {
            self.watch_config(folder);
        } else {
            self.watch(folder);
        }
        let mut names: Vec<_> = entries
            .take(NAMES_MAX)
            .filter_map(Result::ok)
            .filter(|entry| rest.is_empty() || entry.file_type().is_ok_and(|t| !t.is_file()))
            .map(|entry| entry.file_name())
            .filter(|name| pattern.matches_with(&name.to_string_lossy(), OPTIONS))
            .filter(|name| !is_backup(&name.to_string_lossy()))
            .collect();
        names.sort();
        for name in names {
            self.walk(&folder.join(name), rest, is_config, found);
        }
    }

    /// Why a log cannot be read, if that is so; one that does not exist yet can.
    pub(super) fn refusal(&self, path: &Path) -> Option<io::Error> {
        if self.is_without_disk {
            return None;
        }
        match open(path) {
            Ok(_) => None,
            Err(error) if is_absent(&error) => None,
            Err(error) => Some(error),
        }
    }

    /// True when nothing is there; of a pattern, when nothing matches.
    pub(super) fn is_missing(&self, path: &Path) -> bool {
        let text = path.to_string_lossy();
        let is_there = |text: &str| {
            let mut matches = crate::globs::matches(text).into_iter().flatten();
            matches.any(|found| found.is_ok())
        };
        !self.is_without_disk
            && fs::symlink_metadata(path).is_err()
            && !(has_wildcard(&text) && is_there(&text))
    }

    /// Notes something that could not be read, with the command that grants it.
    pub(super) fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => permission_fix(path),
            io::ErrorKind::NotFound => format!("ls -l {}", quoted(path)),
            _ => format!("stat {}", quoted(path)),
        };
        self.note(path, describe(error), fix);
    }

    pub(super) fn note(&mut self, path: &Path, reason: String, fix: String) {
        if self.unreadable.len() >= NOTES_MAX {
            self.n_notes_left_out += 1;
        } else if self.noted.insert((path.to_path_buf(), reason.clone())) {
            self.unreadable.push(Unreadable { path: path.to_path_buf(), reason, fix });
        }
    }

    /// The name of a Unix user of the machine under the root.
    pub(super) fn user(&mut self, uid: u32) -> Option<String> {
        if self.users.is_none() {
            let passwd = self.below("/etc/passwd");
            let text = self.peek(&passwd, FILE_BYTES_MAX).unwrap_or_default();
            let users = text.lines().filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
            });
            // The first of several names of one number is the one tools show.
            let mut by_uid = HashMap::new();
            users.for_each(|(uid, name)| {
                by_uid.entry(uid).or_insert(name);
            });
            self.users = Some(by_uid);
        }
        self.users.as_ref()?.get(&uid).cloned()
    }
}

/// The names in a folder with this end.
pub(super) fn names_in(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(NAMES_MAX);
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    paths.sort();
    paths
}

/// True for a path that stands for several.
pub(super) fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Opens a regular file; anything else could hold us for ever.
fn open(path: &Path) -> io::Result<fs::File> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    // Should it become a pipe right now, opening it does not wait.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)
}

fn read_file(path: &Path, n_bytes_max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(n_bytes_max).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Files that package managers and editors leave behind.
fn is_backup(name: &str) -> bool {
    name.ends_with('~')
        || [".dpkg-old", ".dpkg-dist", ".dpkg-new", ".rpmsave", ".rpmnew", ".rpmorig"]
            .iter()
            .any(|end| name.ends_with(end))
}
