//! Files of the system that were changed, added or removed: configuration, firewall rules, resolver,
//! schedules, certificates. The path, the time and two hashes are told, never the content.
//!
//! Folders say when something happens in them; then the files of these folders are looked at. A sweep
//! over everything finds what they do not say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::certificates;
use super::folders::{Folders, Happened, folders_of};
use super::mark::{self, Mark, inspect};
use super::places::{self, is_leaving};
use super::refused::Refused;
use super::touched::touched;
use crate::clock;
use crate::discover::Discovery;
use crate::window::Change;

/// Files beyond these are not watched.
const FILES_MAX: usize = 20_000;
/// Names of one folder that are looked at.
const NAMES_MAX: usize = 20_000;
/// Time between two looks at everything.
const SWEEP: Duration = Duration::from_secs(30);
/// The same where not every folder says what happens in it.
const SWEEP_BLIND: Duration = Duration::from_secs(4);
/// Without anything discovered for so long nothing will be: discovery is off.
const DISCOVERY_WAIT: Duration = Duration::from_secs(60);
/// File times are as coarse as a tick of the kernel's clock, ms.
const TICK_MS: i64 = 12;
/// What is missing where something may not be looked at.
const REFUSED: &str = "its changes are";

/// What is kept over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    pub(super) marks: BTreeMap<PathBuf, Mark>,
    /// When all were looked at last, ms; 0 = never.
    swept_at: i64,
    /// What discovery asks for is among the marks.
    discovered: bool,
}

impl Seen {
    /// True when all files were looked at once: from now on changes are told.
    pub(super) fn is_looked_at(&self) -> bool {
        self.swept_at > 0
    }
}

/// What a file is watched for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Watched {
    kind: &'static str,
    /// Of a certificate.
    site: Option<String>,
}

/// The watch over all files.
#[derive(Debug)]
pub(super) struct Configs {
    folders: Folders,
    files: BTreeMap<PathBuf, Watched>,
    /// Folders in which a new name counts.
    listed: BTreeSet<PathBuf>,
    /// Folders of links and of what they lead to.
    links: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Further folders to be told of.
    beside: Vec<PathBuf>,
    /// All folders that are watched.
    watched: BTreeSet<PathBuf>,
    discovery: Arc<Discovery>,
    started: Instant,
    swept: Option<Instant>,
    refused: Refused,
}

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) changes: Vec<Change>,
    /// What is kept is another now.
    pub(super) is_moved: bool,
    /// Something happened somewhere, or it was time for a sweep.
    pub(super) is_awake: bool,
    /// Files that say when something runs may be others now.
    pub(super) has_schedules: bool,
}

impl Configs {
    /// `beside` are folders that are no configuration and wake the look as well.
    pub(super) fn new(beside: Vec<PathBuf>) -> Self {
        Self {
            folders: Folders::new(),
            files: BTreeMap::new(),
            listed: BTreeSet::new(),
            links: BTreeMap::new(),
            beside,
            watched: BTreeSet::new(),
            discovery: Arc::default(),
            started: clock::instant(),
            swept: None,
            refused: Refused::default(),
        }
    }

    /// The files of one kind.
    pub(super) fn files_of(&self, kind: &str) -> impl Iterator<Item = &Path> {
        self.files.iter().filter(move |(_, file)| file.kind == kind).map(|(path, _)| path.as_path())
    }

    /// Compares files with what was seen last. Touching a file, or writing the same text again, is no
    /// change. The first look tells nothing.
    pub(super) fn look(
        &mut self,
        root: &Path,
        discovery: &Arc<Discovery>,
        seen: &mut Seen,
        now: Instant,
    ) -> Looked {
        let (dirty, is_lost) = match self.folders.happened() {
            Happened::In(dirty) => (dirty, false),
            Happened::Anywhere => (BTreeSet::new(), true),
        };
        let period = if self.folders.is_complete() { SWEEP } else { SWEEP_BLIND };
        let is_due = self.swept.is_none_or(|at| now.saturating_duration_since(at) >= period);
        let is_sweep = is_lost || is_due || !Arc::ptr_eq(discovery, &self.discovery);
        if !is_sweep && dirty.is_empty() {
            return Looked::default();
        }
        let is_first_list = self.files.is_empty();
        self.discovery = Arc::clone(discovery);
        if self.list(root) || is_first_list {
            self.watch_folders();
        } else if is_sweep {
            self.folders.watch(&self.watched); // some may be there only now
        }
        let is_blank = discovery.config_files.is_empty() && discovery.sites.is_empty();
        if is_blank
            && seen.swept_at == 0
            && now.saturating_duration_since(self.started) < DISCOVERY_WAIT
        {
            // Else all that discovery asks for a moment later would be new.
            return Looked { is_awake: true, ..Looked::default() };
        }
        let mut looked = self.compare(root, seen, is_blank, (!is_sweep).then_some(&dirty));
        if !looked.changes.is_empty() {
            self.watch_folders(); // a link may lead elsewhere
        }
        if is_sweep {
            self.swept = Some(now);
            looked.has_schedules |= is_first_list;
        }
        looked
    }

    fn compare(
        &mut self,
        root: &Path,
        seen: &mut Seen,
        is_blank: bool,
        only: Option<&BTreeSet<PathBuf>>,
    ) -> Looked {
        let now = clock::now();
        let mut looked = Looked { is_awake: true, ..Looked::default() };
        // A file newly asked for is a change only if it is younger than the last look at all.
        let tells_new = seen.swept_at > 0 && (seen.discovered || is_blank);
        let mut told = BTreeSet::new();
        for (path, file) in &self.files {
            let known = seen.marks.get(path).copied();
            if known.is_some() && only.is_some_and(|dirty| !self.is_in(path, dirty)) {
                continue;
            }
            let mark = match inspect(path, known.as_ref(), now.0) {
                Ok(mark) => mark,
                Err(error) => {
                    self.refused.say(path, &error, REFUSED);
                    continue;
                }
            };
            if known == Some(mark) {
                continue;
            }
            let is_change = match known {
                Some(known) => mark.differs(&known),
                None => tells_new && mark.changed_at + TICK_MS >= seen.swept_at,
            };
            // Several links may lead to the file that was edited.
            if is_change && told.insert((mark.inode, mark.hash, file.kind)) {
                let what = words(path, file, known.is_none());
                let at = UnixMillis(mark.changed_at).min(now);
                let hashes = (known.and_then(|known| known.hash), mark.hash);
                looked.changes.push(self.change(root, path, file, what, at, hashes));
            }
            looked.is_moved = true;
            looked.has_schedules |= file.kind == "schedule";
            seen.marks.insert(path.clone(), mark);
        }
        self.forget(root, seen, is_blank, only, &mut looked);
        if only.is_none() {
            seen.swept_at = now.0;
            seen.discovered |= !is_blank;
        }
        looked
    }

    /// Files that are gone, and those that nobody asks for any more.
    fn forget(
        &self,
        root: &Path,
        seen: &mut Seen,
        is_blank: bool,
        only: Option<&BTreeSet<PathBuf>>,
        looked: &mut Looked,
    ) {
        let mut gone = Vec::new();
        for (path, mark) in &seen.marks {
            let is_asked_for = self.files.contains_key(path);
            if is_asked_for && only.is_some_and(|dirty| !self.is_in(path, dirty)) {
                continue;
            }
            let missing = fs::symlink_metadata(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
            // Nothing happened to a file that discovery no longer asks for; nor has it been asked for
            // again before discovery has found anything.
            if missing || !is_asked_for && !is_blank && only.is_none() {
                gone.push((path.clone(), missing.then_some(*mark)));
            }
        }
        for (path, mark) in gone {
            seen.marks.remove(&path);
            looked.is_moved = true;
            let Some(mark) = mark else { continue };
            let kind = self.files.get(&path).map_or_else(|| kind_of(&path), |file| file.kind);
            let site = self.files.get(&path).and_then(|file| file.site.clone());
            let file = Watched { kind, site };
            let what = format!("{} removed", path.display());
            let change = self.change(root, &path, &file, what, clock::now(), (mark.hash, None));
            looked.changes.push(change);
            looked.has_schedules |= kind == "schedule";
        }
    }

    fn change(
        &self,
        root: &Path,
        path: &Path,
        file: &Watched,
        what: String,
        at: UnixMillis,
        (hash_before, hash_after): (Option<u64>, Option<u64>),
    ) -> Change {
        let (mut site, pool) = match file.kind {
            "config" => touched(root, path, &self.discovery),
            _ => (None, None),
        };
        site = site.or_else(|| file.site.clone());
        let path = path.display().to_string();
        Change { kind: file.kind, what, site, pool, at, path, hash_before, hash_after }
    }

    fn is_in(&self, path: &Path, dirty: &BTreeSet<PathBuf>) -> bool {
        path.parent().is_some_and(|folder| dirty.contains(folder))
            || self.links.get(path).is_some_and(|folders| folders.iter().any(|f| dirty.contains(f)))
    }

    /// Lists all files anew; true when they are others than before.
    fn list(&mut self, root: &Path) -> bool {
        let discovery = Arc::clone(&self.discovery);
        let mut files = BTreeMap::new();
        let mut folders = BTreeSet::new();
        let config = |path: PathBuf| (path, Watched { kind: "config", site: None });
        for path in &discovery.config_files {
            let path = under(root, path);
            match names_in(&path, |_| true) {
                Some(names) => {
                    files.extend(names.into_iter().map(config));
                    folders.insert(path);
                }
                None => files.extend([config(path)]),
            }
        }
        let sources = discovery.sites.iter().map(|site| &site.source);
        for source in sources.chain(discovery.pools.iter().map(|pool| &pool.source)) {
            if source.starts_with('/') {
                files.extend([config(under(root, super::touched::source_file(source)))]);
            }
        }
        for certificate in &discovery.certificates {
            let file = Watched { kind: "certificate", site: certificate.site.clone() };
            let path = under(root, &certificate.path);
            let is_no_key = |name: &str| Path::new(name).extension().is_none_or(|end| end != "key");
            match names_in(&path, is_no_key) {
                Some(names) => {
                    let names = names.into_iter().map(|path| (path, file.clone()));
                    files.extend(names);
                    folders.insert(path);
                }
                None => drop(files.insert(path, file)),
            }
        }
        let places = places::list(root, &discovery.services);
        for (path, kind) in places.files {
            files.entry(path).or_insert(Watched { kind, site: None });
        }
        folders.extend(places.folders);
        for path in places.refused {
            self.refused.say(&path, &io::ErrorKind::PermissionDenied.into(), REFUSED);
        }
        // What is kept is JSON, which has texts for names.
        files.retain(|path, _| path.to_str().is_some());
        while files.len() > FILES_MAX {
            files.pop_last();
        }
        let is_other = files != self.files || folders != self.listed;
        (self.files, self.listed) = (files, folders);
        is_other
    }

    fn watch_folders(&mut self) {
        self.links.clear();
        self.watched = self.listed.clone();
        self.watched.extend(self.beside.iter().cloned());
        for path in self.files.keys() {
            let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
            let folders = folders_of(path, is_link);
            self.watched.extend(folders.iter().cloned());
            if is_link {
                self.links.insert(path.clone(), folders);
            }
        }
        self.folders.watch(&self.watched);
    }
}

/// Of a file that is not asked for any more because it is gone.
fn kind_of(path: &Path) -> &'static str {
    let is_schedule = path.iter().any(|part| part.to_string_lossy().starts_with("cron"))
        || path.extension().is_some_and(|end| end == "timer");
    let firewalls = ["firewalld", "nftables.d", "nftables", "iptables", "fail2ban", "ufw", "csf"];
    let resolvers = ["resolved.conf.d", "unbound", "dnsmasq.d", "bind"];
    if is_schedule {
        "schedule"
    } else if path.iter().any(|part| resolvers.iter().any(|resolver| part == *resolver)) {
        "dns"
    } else if path.iter().any(|part| firewalls.iter().any(|firewall| part == *firewall)) {
        "firewall"
    } else {
        "config"
    }
}

fn words(path: &Path, file: &Watched, is_new: bool) -> String {
    let shown = path.display();
    if file.kind == "certificate" {
        let done = if is_new { "added" } else { "renewed" };
        let pem = mark::read(path, mark::HASHED_BYTES_MAX).unwrap_or_default();
        return match certificates::valid_until(&pem) {
            Some(until) => format!("{shown} {done}, until {}", &until.to_rfc3339()[..10]),
            None => format!("{shown} {done}"),
        };
    }
    if is_new { format!("{shown} added") } else { shown.to_string() }
}

/// The files in a folder; `None` when it is none.
fn names_in(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Option<Vec<PathBuf>> {
    if !folder.is_dir() {
        return None;
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).ok()?.take(NAMES_MAX).filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder && !is_leaving(&name) && is_wanted(&name) {
            paths.push(entry.path());
        }
    }
    Some(paths)
}

/// A path as seen from outside `root`; one that is there already stays.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    if path.starts_with(root) {
        return path.to_owned();
    }
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests;
