//! Configuration files of web servers and PHP-FPM that were changed, added or removed.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use crate::clock;
use crate::discover::Discovery;
use crate::window::Change;

/// Files beyond these are not watched.
const FILES_MAX: usize = 20_000;

/// A larger file is no configuration.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A file changed so lately is read even if its times are those we know: it may have been written
/// again within the same tick of the file system's clock. Longer than the time between two looks.
const UNSETTLED_MS: i64 = 5000;

/// One file as it was seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When content, owner or mode changed last, or a link to it was made, ms. Unlike the
    /// modification time nobody can set it, so a file copied with its times is as new as it is here.
    changed_at: i64,
    size: u64,
    inode: u64,
    /// Of its content. Stable within one release of the agent; another one only starts anew.
    hash: u64,
}

/// Compares every file discovery read with what was seen last. Touching a file, or writing the same
/// text again, is no change. The first look tells nothing. Returns what is seen now.
pub(super) fn look(
    root: &Path,
    discovery: &Discovery,
    marks: &BTreeMap<PathBuf, Mark>,
) -> (Vec<Change>, BTreeMap<PathBuf, Mark>) {
    let files = files(root, discovery);
    if files.is_empty() {
        // Nothing discovered yet: what was seen before stays known.
        return (Vec::new(), marks.clone());
    }
    let last = marks.values().map(|mark| mark.changed_at).max();
    let mut now = BTreeMap::new();
    let mut changes = Vec::new();
    for path in files {
        let known = marks.get(&path);
        let Ok(mark) = inspect(&path, known) else { continue };
        let is_change = match known {
            Some(known) => known.hash != mark.hash,
            // A file newly asked for is a change only if it is younger than all that was seen.
            None => last.is_some_and(|last| mark.changed_at >= last),
        };
        if is_change {
            changes.push(change(root, &path, "", UnixMillis(mark.changed_at), discovery));
        }
        now.insert(path, mark);
    }
    for path in marks.keys().filter(|path| !now.contains_key(*path)) {
        // A file that discovery no longer asks for may still be there: then nothing happened to it.
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            changes.push(change(root, path, " removed", clock::now(), discovery));
        }
    }
    (changes, now)
}

fn change(root: &Path, path: &Path, suffix: &str, at: UnixMillis, discovery: &Discovery) -> Change {
    let at = at.min(clock::now());
    let (site, pool) = touched(root, path, discovery);
    Change { kind: "config", what: format!("{}{suffix}", path.display()), site, pool, at }
}

/// The only site or pool defined in this file; none when it defines several or other things too.
fn touched(root: &Path, path: &Path, discovery: &Discovery) -> (Option<String>, Option<String>) {
    let defines = |source: &str| under(root, source_file(source)) == path;
    let sites: Vec<&str> = discovery
        .sites
        .iter()
        .filter(|site| defines(&site.source))
        .map(|site| &*site.name)
        .collect();
    let pools: Vec<&str> = discovery
        .pools
        .iter()
        .filter(|pool| defines(&pool.source))
        .map(|pool| &*pool.name)
        .collect();
    match (&sites[..], &pools[..]) {
        ([site], []) => (Some((*site).to_owned()), None),
        ([], [pool]) => (None, Some((*pool).to_owned())),
        _ => (None, None),
    }
}

/// `/etc/nginx/sites-enabled/a:3` without its line.
fn source_file(source: &str) -> &Path {
    let numbered = source.rsplit_once(':').filter(|(_, line)| line.parse::<u64>().is_ok());
    Path::new(numbered.map_or(source, |(file, _)| file))
}

/// Every file discovery read: those it names, and those in the folders it names.
fn files(root: &Path, discovery: &Discovery) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in &discovery.config_files {
        let path = under(root, path);
        if path.is_dir() {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            files.extend(entries.flatten().map(|entry| entry.path()).filter(|p| is_config(p)));
        } else {
            files.push(path);
        }
    }
    let sources = discovery.sites.iter().map(|site| &site.source);
    for source in sources.chain(discovery.pools.iter().map(|pool| &pool.source)) {
        if !source.is_empty() {
            files.push(under(root, source_file(source)));
        }
    }
    files.sort_unstable();
    files.dedup();
    files.truncate(FILES_MAX);
    files
}

/// A path as seen from outside `root`; one that is there already stays.
fn under(root: &Path, path: &Path) -> PathBuf {
    if path.starts_with(root) {
        return path.to_owned();
    }
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Editors' leavings are none.
fn is_config(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let leaving = name.starts_with(['.', '#'])
        || name.ends_with('~')
        || [
            ".swp",
            ".swx",
            ".tmp",
            ".bak",
            ".orig",
            ".dpkg-new",
            ".dpkg-old",
            ".dpkg-dist",
            ".rpmnew",
        ]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    !leaving && path.is_file()
}

/// The file as it is now; its content is read only when time, size or inode differ.
fn inspect(path: &Path, known: Option<&Mark>) -> io::Result<Mark> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let changed_at = |of: &fs::Metadata| of.ctime() * 1000 + of.ctime_nsec() / 1_000_000;
    let linked_at = fs::symlink_metadata(path).map_or(0, |link| changed_at(&link));
    let changed_at = changed_at(&metadata).max(linked_at);
    let (size, inode) = (metadata.len(), metadata.ino());
    let settled = clock::now().0 - changed_at > UNSETTLED_MS;
    if let Some(known) = known
        && settled
        && (known.changed_at, known.size, known.inode) == (changed_at, size, inode)
    {
        return Ok(*known);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Ok(Mark { changed_at, size, inode, hash: hasher.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::{Pool, Site};
    use std::time::{Duration, UNIX_EPOCH};

    fn set_mtime(path: &Path, seconds: u64) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    #[test]
    fn content_counts_and_touching_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let sites = root.join("etc/nginx/sites-enabled");
        fs::create_dir_all(&sites).unwrap();
        let (a, b) = (sites.join("a.conf"), sites.join("b.conf"));
        fs::write(&a, "server a;").unwrap();
        fs::write(&b, "server b;").unwrap();
        let discovery = Discovery {
            config_files: vec!["/etc/nginx/sites-enabled".into(), "/etc/nginx/gone.conf".into()],
            sites: vec![Site {
                name: "b.example".into(),
                source: format!("{}:1", b.display()),
                ..Site::default()
            }],
            ..Discovery::default()
        };
        let mut marks = BTreeMap::new();
        let mut read = || {
            let (changes, now) = look(root, &discovery, &marks);
            marks = now;
            changes
        };
        assert!(read().is_empty(), "the first look");
        set_mtime(&a, 1_000_000);
        assert!(read().is_empty(), "touched");
        fs::write(&b, "server B;").unwrap();
        set_mtime(&b, 1_000_001); // as a copy with its times
        let changes = read();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].what, b.display().to_string());
        assert_eq!(changes[0].site.as_deref(), Some("b.example"));
        let age = clock::now().0 - changes[0].at.0;
        assert!((0..60_000).contains(&age), "{age} ms: an old time of a copied file is not when");
        fs::write(sites.join(".a.conf.swp"), "").unwrap();
        fs::write(sites.join("a.conf~"), "").unwrap();
        assert!(read().is_empty(), "editors' leavings");
        fs::write(sites.join("c.conf"), "server c;").unwrap();
        assert!(read()[0].what.ends_with("/c.conf"));
        std::os::unix::fs::symlink(&b, sites.join("d.conf")).unwrap();
        assert!(read()[0].what.ends_with("/d.conf"), "a site was enabled");
        fs::remove_file(&a).unwrap();
        assert!(read()[0].what.ends_with("/a.conf removed"));
        assert!(read().is_empty());
    }

    #[test]
    fn files_that_discovery_only_now_asks_for_are_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old.conf"), dir.path().join("new.conf"));
        fs::write(&old, "old").unwrap();
        let changed_at = |path: &Path| inspect(path, None).map_or(0, |mark| mark.changed_at);
        // File times are as coarse as a clock tick: write until it is a later one.
        while changed_at(&new) <= changed_at(&old) {
            fs::write(&new, "new").unwrap();
        }
        let discover = |paths: &[&PathBuf]| Discovery {
            config_files: paths.iter().map(|path| (*path).clone()).collect(),
            ..Discovery::default()
        };
        let (_, marks) = look(dir.path(), &discover(&[&new]), &BTreeMap::new());
        let (changes, both) = look(dir.path(), &discover(&[&old, &new]), &marks);
        assert_eq!((changes, both.len()), (Vec::new(), 2));
        // Before discovery has found anything, what was seen before stays known.
        assert_eq!(look(dir.path(), &Discovery::default(), &both), (Vec::new(), both.clone()));
    }

    #[test]
    fn a_file_of_one_site_or_pool_touches_only_that() {
        let site = |name: &str, source: &str| Site {
            name: name.into(),
            source: source.into(),
            ..Site::default()
        };
        let discovery = Discovery {
            sites: vec![site("a", "/n/a:3"), site("b", "/n/two:1"), site("c", "/n/two:9")],
            pools: vec![Pool {
                name: "www".into(),
                source: "/p/www.conf:4".into(),
                ..Pool::default()
            }],
            ..Discovery::default()
        };
        let check = |path: &str, site: Option<&str>, pool: Option<&str>| {
            let found = touched(Path::new("/"), Path::new(path), &discovery);
            assert_eq!((found.0.as_deref(), found.1.as_deref()), (site, pool), "{path}");
        };
        check("/n/a", Some("a"), None);
        check("/n/two", None, None);
        check("/p/www.conf", None, Some("www"));
        check("/n/nginx.conf", None, None);
    }
}
