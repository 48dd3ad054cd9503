//! What is changed in document roots: applications, plugins and themes updated, deployments, and the
//! few files there that decide how a site is served.
//!
//! Document roots are visited in turns, some at each look, and of the plugins a part at each visit:
//! what a content management system updates by itself changes the folder of its plugins, which each
//! visit sees; what is overwritten in place is seen within ten visits. A visit costs a `stat` a file and
//! reads only what is another one by its times. Names and versions leave the server, content never.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::docroot::Folder;
use super::mark::{Facts, Mark, UNSETTLED_MS, hash};
use super::quota::Quota;
use super::shelves::{CORES, Core, HEAD_BYTES_MAX, Shelf};
use super::wordfence::Attacks;
use crate::window::Change;

/// Plugins, themes and the like of one folder that are looked at.
const PARTS_MAX: usize = 256;
/// Visits until each plugin's own file was looked at.
pub(super) const TURNS: usize = 10;
/// Folders of a document root whose `.htaccess` is watched beside its own.
const SUBFOLDERS_MAX: usize = 24;
/// The number of the folder of themes among those of WordPress.
const WORDPRESS_THEMES: u8 = 1;
/// Of a larger file of a document root time and size tell whether it changed.
const FILE_BYTES_MAX: u64 = 512 << 10;
/// Sites of one document root that a change is told of, each by itself; also named in its text.
const SITES_TOLD_MAX: usize = 5;
const SITES_NAMED_MAX: usize = 3;
/// Of one visit, see `Visit::cost`: an owner with more plugins than this has them looked at later.
const COST_MAX: usize = 8_000;

/// Files of a document root that decide how it is served, with the kind of their change.
const FILES: [(&str, &str); 14] = [
    (".htaccess", "config"),
    (".user.ini", "config"),
    ("php.ini", "config"),
    ("wp-config.php", "config"),
    ("configuration.php", "config"),
    ("sites/default/settings.php", "config"),
    (".env", "config"),
    ("../.env", "config"),
    ("composer.lock", "plugin"),
    ("../composer.lock", "plugin"),
    ("wp-content/object-cache.php", "plugin"),
    ("wp-content/advanced-cache.php", "plugin"),
    ("wp-content/db.php", "plugin"),
    ("wp-content/maintenance.php", "plugin"),
];

/// A document root as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Docroot {
    /// Of the folder itself; 0 = never seen.
    inode: u64,
    /// When a name in it changed last, ms.
    changed_at: i64,
    /// Where its path leads.
    target: String,
    /// Folders in it.
    subfolders: Vec<String>,
    files: Vec<(String, Mark)>,
    /// Application, version, and the change time of the file that tells it.
    core: Option<(String, String, i64)>,
    parts: Vec<Part>,
    /// Change time of each folder of plugins.
    shelves: Vec<(String, i64)>,
    /// Device and inode of the folder above.
    pub(super) above: (u64, u64),
    /// What its owner can make the agent tell.
    #[serde(skip)]
    quota: Quota,
    #[serde(skip)]
    attacks: Attacks,
}

/// A plugin or theme. There may be tens of thousands, so they are kept as short rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
struct Part {
    /// The folder it is in: its number among those of the application.
    shelf: u8,
    name: Box<str>,
    /// The file that tells its version; `None` when none was found.
    file: Option<Box<str>>,
    version: Box<str>,
    changed_at: i64,
    hash: u64,
    /// Not told yet: its files are still being written.
    is_new: bool,
    /// Not there at the last visit: an update puts it back.
    is_missing: bool,
}

impl Part {
    /// What to tell of it once it is of this version and content, if anything.
    fn becomes(&self, version: &str, hash: u64) -> Option<String> {
        let name = &self.name;
        if self.is_new {
            return Some(format!("{name}{} installed", spaced(version)));
        }
        let is_same = *self.version == *version;
        if self.file.is_none() || is_same && self.hash == hash {
            return None;
        }
        Some(if is_same {
            format!("{name}{} changed", spaced(version))
        } else {
            format!("{name}{} to{}", spaced(&self.version), spaced(version))
        })
    }
}

/// Shelf, name, file, version, change time, hash; the rest is of the last minute.
type Row = (u8, Box<str>, Option<Box<str>>, Box<str>, i64, u64);

impl From<Row> for Part {
    fn from((shelf, name, file, version, changed_at, hash): Row) -> Self {
        Self { shelf, name, file, version, changed_at, hash, ..Self::default() }
    }
}

impl From<Part> for Row {
    fn from(part: Part) -> Self {
        (part.shelf, part.name, part.file, part.version, part.changed_at, part.hash)
    }
}

/// One visit.
pub(super) struct Visit<'v> {
    pub(super) path: &'v Path,
    /// At least one.
    pub(super) sites: &'v [String],
    /// No other document root is in the folder above, so what is there is this one's.
    pub(super) is_alone: bool,
    pub(super) now: UnixMillis,
    /// Which tenth of the plugins is looked at.
    pub(super) turn: usize,
    /// Questions to the kernel so far; a read counts as ten and one for each kilobyte.
    pub(super) cost: usize,
    /// The document root may not be entered.
    pub(super) is_refused: bool,
    /// Its Wordfence recorded so many attacks, or may not be asked.
    pub(super) n_attacks: u32,
    pub(super) is_attack_log_refused: bool,
    changes: Vec<Change>,
    is_moved: bool,
    /// What was seen is the first: nothing is told.
    is_first: bool,
}

impl<'v> Visit<'v> {
    pub(super) fn new(
        path: &'v Path,
        sites: &'v [String],
        is_alone: bool,
        now: UnixMillis,
        turn: usize,
    ) -> Self {
        let changes = Vec::new();
        Self {
            path,
            sites,
            is_alone,
            now,
            turn,
            cost: 0,
            is_refused: false,
            n_attacks: 0,
            is_attack_log_refused: false,
            changes,
            is_moved: false,
            is_first: false,
        }
    }

    /// Looks at a document root. Returns what changed since `seen`, and whether that is another now.
    pub(super) fn look(&mut self, seen: &mut Docroot) -> (Vec<Change>, bool) {
        self.cost += 2;
        // One that is not there now (not mounted, being replaced) is as it was.
        let top = match Folder::open(self.path) {
            Ok(top) => top,
            Err(error) => {
                self.is_refused = error.kind() == io::ErrorKind::PermissionDenied;
                return (Vec::new(), false);
            }
        };
        let Ok(itself) = top.itself() else { return (Vec::new(), false) };
        self.is_first = seen.inode == 0;
        self.look_at_itself(itself.facts, seen);
        let changed_at = itself.facts.changed_at;
        let is_other = self.is_first || seen.changed_at != changed_at;
        if is_other || !self.is_settled(changed_at) {
            self.list_subfolders(&top, seen);
            seen.changed_at = changed_at;
            self.is_moved |= is_other;
        }
        seen.above =
            top.above().and_then(|above| above.itself()).map_or((0, 0), |above| above.id());
        self.look_at_files(&top, seen);
        self.look_at_attacks(&top, seen);
        if let Some(core) = self.look_at_core(&top, seen) {
            for (number, shelf) in (0..).zip(core.shelves) {
                self.look_at_shelf(&top, number, shelf, seen);
            }
        }
        let mut changes = std::mem::take(&mut self.changes);
        if let Some(n_more) = seen.quota.cut(&mut changes, self.now) {
            let what = format!("and {n_more} further changes{}", self.place());
            changes.push(Change::new("plugin", what, self.now));
        }
        (self.of_each_site(&changes), self.is_moved)
    }

    /// Each change as one of every site that is served from here: what an owner does to the own sites
    /// is never one of the server.
    fn of_each_site(&self, changes: &[Change]) -> Vec<Change> {
        let sites = &self.sites[..self.sites.len().min(SITES_TOLD_MAX)];
        let mut told = Vec::with_capacity(changes.len() * sites.len());
        for change in changes {
            let of = |site: &String| Change { site: Some(site.clone()), ..change.clone() };
            told.extend(sites.iter().map(of));
        }
        told
    }

    fn look_at_attacks(&mut self, top: &Folder, seen: &mut Docroot) {
        if seen.core.as_ref().is_some_and(|(name, ..)| name == "WordPress") {
            self.cost += 5;
            match seen.attacks.look(top) {
                Ok(n) => self.n_attacks = n,
                Err(error) => {
                    self.is_attack_log_refused = error.kind() == io::ErrorKind::PermissionDenied;
                }
            }
        }
    }

    /// A deployment exchanges a link on the way, or the folder itself.
    fn look_at_itself(&mut self, facts: Facts, seen: &mut Docroot) {
        if seen.inode == facts.inode {
            return;
        }
        self.cost += 20;
        self.is_moved = true;
        let target = fs::canonicalize(self.path).unwrap_or_default().display().to_string();
        let is_other = target != seen.target;
        (seen.inode, seen.target) = (facts.inode, target);
        if self.is_first {
            return;
        }
        let link = self.path.ancestors().find_map(|path| {
            let link = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_symlink)?;
            Some((path, fs::read_link(path).ok()?, Facts::of(&link).changed_at))
        });
        let (what, at) = match link {
            Some((path, target, at)) if is_other => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let target = clean(&target.to_string_lossy());
                (format!("deployed: {name} -> {target}{}", self.place()), at)
            }
            _ => (format!("document root replaced{}", self.place()), facts.changed_at),
        };
        self.tell("plugin", what, at, "", (None, None));
    }

    fn list_subfolders(&mut self, top: &Folder, seen: &mut Docroot) {
        let Ok((names, n_seen)) = top.names(PARTS_MAX) else { return };
        self.cost += 5 + n_seen / 10;
        let is_folder = |name: &String| top.find(name).is_ok_and(|found| found.is_folder);
        let all = names.into_iter().filter(is_folder);
        seen.subfolders = all.take(SUBFOLDERS_MAX).collect();
        self.cost += PARTS_MAX.min(n_seen);
    }

    fn look_at_files(&mut self, top: &Folder, seen: &mut Docroot) {
        let mut wanted: Vec<(String, &'static str)> =
            FILES.iter().map(|(file, kind)| ((*file).to_owned(), *kind)).collect();
        wanted.retain(|(file, _)| self.is_alone || !file.starts_with("../"));
        let folders = seen.subfolders.iter();
        wanted.extend(folders.map(|folder| (format!("{folder}/.htaccess"), "config")));
        // What a theme does is in there, and it is edited in place.
        let is_wordpress = seen.core.as_ref().is_some_and(|(name, ..)| name == "WordPress");
        let themes =
            seen.parts.iter().filter(|part| is_wordpress && part.shelf == WORDPRESS_THEMES);
        wanted
            .extend(themes.map(|theme| {
                (format!("wp-content/themes/{}/functions.php", theme.name), "plugin")
            }));
        for (file, kind) in &wanted {
            self.look_at_file(top, file, kind, seen);
        }
        if seen.files.iter().any(|(file, _)| !wanted.iter().any(|(name, _)| name == file)) {
            seen.files.retain(|(file, _)| wanted.iter().any(|(name, _)| name == file));
            self.is_moved = true;
        }
    }

    fn look_at_file(&mut self, top: &Folder, file: &str, kind: &'static str, seen: &mut Docroot) {
        self.cost += 1;
        let at = seen.files.iter().position(|(name, _)| name == file);
        let known = at.map(|at| seen.files[at].1);
        let found = match top.find(file) {
            Ok(found) if found.is_file => found,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return,
            _ => {
                if let (Some(at), Some(known)) = (at, known) {
                    seen.files.swap_remove(at);
                    let what = format!("{} removed", self.shown(file));
                    self.tell(kind, what, self.now.0, file, (known.hash, None));
                    self.is_moved = true;
                }
                return;
            }
        };
        let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
        let is_same = known.is_some_and(|known| known.is_of(found.facts));
        if !is_same && !matches!(folder, "" | "..") && top.below(folder).is_err() {
            return; // a link is on the way
        }
        let mut n_read = 0;
        let mark = Mark::of(found.facts, known.as_ref(), self.now.0, || {
            if found.facts.size > FILE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            n_read += found.facts.size as usize / 1024 + 10;
            let folder = match folder {
                "" => None,
                ".." => Some(top.above()?),
                folder => Some(top.below(folder)?),
            };
            folder.as_ref().unwrap_or(top).read(name, FILE_BYTES_MAX + 1)
        });
        self.cost += n_read;
        if known == Some(mark) {
            return;
        }
        self.is_moved = true;
        let is_change = match known {
            Some(known) => mark.differs(&known),
            // A theme that was installed says so itself.
            // Nor is one new that was there while others had it above them as well.
            None => !file.starts_with("wp-content/themes/") && !file.starts_with("../"),
        };
        match at {
            Some(at) => seen.files[at].1 = mark,
            None => seen.files.push((file.to_owned(), mark)),
        }
        if is_change {
            let what = match (file.ends_with("composer.lock"), known) {
                (true, _) => {
                    format!("application code deployed (composer.lock changed){}", self.place())
                }
                (false, None) => format!("{} added", self.shown(file)),
                (false, Some(_)) => self.shown(file),
            };
            let hashes = (known.and_then(|known| known.hash), mark.hash);
            self.tell(kind, what, mark.changed_at, file, hashes);
        }
    }

    /// The application and its version.
    fn look_at_core(&mut self, top: &Folder, seen: &mut Docroot) -> Option<&'static Core> {
        for core in &CORES {
            if seen.core.as_ref().is_some_and(|(name, ..)| name != core.name) {
                continue;
            }
            self.cost += 1;
            let file = format!("{}/{}", core.folder, core.file);
            let Ok(found) = top.find(file.trim_start_matches('/')) else { continue };
            let changed_at = found.facts.changed_at;
            if !found.is_file {
                continue;
            }
            let is_same = seen.core.as_ref().is_some_and(|(_, _, known)| *known == changed_at);
            if is_same && self.is_settled(changed_at) {
                return Some(core);
            }
            self.cost += 10;
            let folder = if core.folder.is_empty() { None } else { top.below(core.folder).ok() };
            let bytes = folder.as_ref().unwrap_or(top).read(core.file, HEAD_BYTES_MAX);
            let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            // A file of this name in something else says nothing.
            let Some(version) = text.ok().and_then(|text| core.version(&text)) else { continue };
            let what = match &seen.core {
                Some((_, known, _)) if *known == version => None,
                Some((_, known, _)) => Some(format!("{known} to {version}")),
                None => Some(format!("{version} installed")),
            };
            if let Some(what) = what {
                let what = format!("{} {what}{}", core.name, self.place());
                self.tell("plugin", what, changed_at, &file, (None, None));
            }
            seen.core = Some((core.name.to_owned(), version, changed_at));
            self.is_moved |= !is_same;
            return Some(core);
        }
        None
    }

    fn look_at_shelf(&mut self, top: &Folder, number: u8, shelf: &Shelf, seen: &mut Docroot) {
        self.cost += 4;
        let Ok(folder) = top.below(shelf.folder) else { return };
        let Ok(itself) = folder.itself() else { return };
        let changed_at = itself.facts.changed_at;
        let known = seen.shelves.iter().position(|(name, _)| name == shelf.folder);
        let is_known = known.is_some();
        let is_other = known.is_none_or(|at| seen.shelves[at].1 != changed_at);
        let is_listed = is_other || !self.is_settled(changed_at);
        if is_listed {
            let Ok((names, n_seen)) = folder.names(PARTS_MAX) else { return };
            self.cost += 5 + n_seen / 10;
            list_parts(number, &names, is_known, seen);
            match known {
                Some(at) => seen.shelves[at].1 = changed_at,
                None => seen.shelves.push((shelf.folder.to_owned(), changed_at)),
            }
            self.is_moved |= is_other;
        }
        for (ix, part) in seen.parts.iter_mut().enumerate() {
            let is_turn = is_listed || part.is_missing || part.is_new || ix % TURNS == self.turn;
            if part.shelf == number && is_turn && self.cost < COST_MAX {
                self.look_at_part(&folder, shelf, part, is_known, is_listed, changed_at);
            }
        }
        seen.parts.retain(|part| !part.name.is_empty());
    }

    fn look_at_part(
        &mut self,
        folder: &Folder,
        shelf: &Shelf,
        part: &mut Part,
        is_known: bool,
        is_first_sight: bool,
        shelf_changed_at: i64,
    ) {
        self.cost += 1;
        let path = match part.file.as_deref() {
            None | Some("") => part.name.to_string(),
            Some(file) => format!("{}/{file}", part.name),
        };
        if folder.find(&part.name).is_err() {
            self.miss(shelf, part, shelf_changed_at);
            return;
        }
        part.is_missing = false;
        let found = folder.find(&path).ok().filter(|found| found.is_file);
        let changed_at = found.map_or(0, |found| found.facts.changed_at);
        if part.file.is_some() && changed_at == part.changed_at && self.is_settled(changed_at) {
            return;
        }
        // Of what has no such file nothing is told; it is searched again when the folder changes.
        if part.file.is_none() && !part.is_new && !is_first_sight {
            return;
        }
        self.cost += 20;
        let Some((file, text)) = shelf.main_file(folder, &part.name) else { return };
        self.cost += text.len() / 1024;
        let version = shelf.version(&text);
        let path =
            if file.is_empty() { part.name.to_string() } else { format!("{}/{file}", part.name) };
        let facts = folder.find(&path).map(|found| found.facts).unwrap_or_default();
        // Of a larger file only the version counts.
        let is_whole = facts.size <= text.len() as u64;
        let hash = if is_whole { hash(&text) } else { part.hash };
        let what = if is_known { part.becomes(&version, hash) } else { None };
        let hashes = (
            Some(part.hash).filter(|hash| *hash != 0 && !part.is_new),
            Some(hash).filter(|_| is_whole),
        );
        part.file = Some(file.into());
        (part.version, part.hash, part.changed_at) = (version.into(), hash, facts.changed_at);
        part.is_new = false;
        self.is_moved = true;
        if let Some(what) = what {
            let what = format!("{} {what}{}", shelf.word, self.place());
            let file = format!("{}/{path}", shelf.folder);
            self.tell("plugin", what, facts.changed_at, &file, hashes);
        }
    }

    /// False of a file changed so lately that it may have been written again at the same tick.
    fn is_settled(&self, changed_at: i64) -> bool {
        self.now.0 - changed_at > UNSETTLED_MS
    }

    /// It may only be exchanged: told when it is missing at two visits.
    fn miss(&mut self, shelf: &Shelf, part: &mut Part, at_ms: i64) {
        if part.is_missing {
            if part.file.is_some() && !part.is_new {
                let version = spaced(&part.version);
                let what = format!("{} {}{version} removed{}", shelf.word, part.name, self.place());
                let file = format!("{}/{}", shelf.folder, part.name);
                self.tell("plugin", what, at_ms, &file, (None, None));
            }
            part.name = Box::default();
        }
        part.is_missing = true;
        self.is_moved = true;
    }

    fn tell(
        &mut self,
        kind: &'static str,
        what: String,
        at_ms: i64,
        file: &str,
        hashes: (Option<u64>, Option<u64>),
    ) {
        if !self.is_first {
            let path: PathBuf =
                if file.is_empty() { self.path.into() } else { self.path.join(file) };
            let at = UnixMillis(at_ms).min(self.now);
            let path = clean(&path.display().to_string());
            let (hash_before, hash_after) = hashes;
            let change = Change::new(kind, what, at);
            self.changes.push(Change { path, hash_before, hash_after, ..change });
        }
    }

    fn shown(&self, file: &str) -> String {
        let path = match file.strip_prefix("../") {
            Some(file) => self.path.parent().unwrap_or(self.path).join(file),
            None => self.path.join(file),
        };
        clean(&path.display().to_string())
    }

    /// ` on shop.example`, ` on a.example, b.example, c.example and 4 more`.
    fn place(&self) -> String {
        let n_named = self.sites.len().min(SITES_NAMED_MAX);
        let named = self.sites[..n_named].join(", ");
        match self.sites.len() - n_named {
            0 => format!(" on {named}"),
            n_more => format!(" on {named} and {n_more} more"),
        }
    }
}

/// Takes over the names of a folder of plugins.
fn list_parts(shelf: u8, names: &[String], is_known: bool, seen: &mut Docroot) {
    let mut known = BTreeSet::new();
    for part in seen.parts.iter_mut().filter(|part| part.shelf == shelf) {
        if names.binary_search_by(|name| name.as_str().cmp(&part.name)).is_ok() {
            part.is_missing = false;
        }
        known.insert(part.name.clone());
    }
    let n_left = PARTS_MAX.saturating_sub(known.len());
    let new = names.iter().filter(|name| !known.contains(name.as_str()));
    for name in new.take(n_left) {
        let name = name.as_str().into();
        seen.parts.push(Part { shelf, name, is_new: is_known, ..Part::default() });
    }
}

fn spaced(version: &str) -> String {
    if version.is_empty() { String::new() } else { format!(" {version}") }
}

/// A text without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
