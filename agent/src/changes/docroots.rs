//! The watch over all document roots: some at each look, so that each is visited every minute.
//!
//! Up to `10 x VISITS_MAX` document roots are visited within a minute, more of them less often. Few are
//! visited at each look.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::applications::{Docroot, TURNS, Visit};
use super::kept::Kept;
use super::touched::docroots;
use super::{Look, cut, wordfence};
use crate::clock;
use crate::discover::Discovery;
use crate::logs::sources::permission_fix;
use crate::window::Observation;

/// Looks until all were visited.
const LOOKS: usize = 10;
/// Visits of one look, at least and at most.
const VISITS_MIN: usize = 8;
const VISITS_MAX: usize = 120;
/// A look ends when its visits have cost so much (`Visit::cost`): about 20 ms.
const COST_MAX: usize = 16_000;
/// What is kept of thousands of plugins is a megabyte or two: not written for each of their changes.
const WRITE_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Document roots beyond these are not visited.
const DOCROOTS_MAX: usize = 5_000;

/// The watch with what it saw.
pub(super) struct Docroots {
    kept: Kept,
    seen: BTreeMap<String, Docroot>,
    root: PathBuf,
    discovery: Arc<Discovery>,
    /// With the sites of each.
    folders: Vec<(PathBuf, Vec<String>)>,
    /// What several document roots have above them.
    shared: BTreeSet<(u64, u64)>,
    /// The next one to visit.
    next: usize,
    /// Rounds over all of them.
    n_rounds: usize,
    /// Those of the first round that may not be entered.
    refused: Vec<PathBuf>,
    has_said_attacks: bool,
}

impl Docroots {
    pub(super) fn new(root: PathBuf, state_dir: &Path) -> Self {
        let kept = Kept::new(state_dir.join("applications.json"), WRITE_TOLD_EVERY);
        let seen = kept.load();
        let mut docroots = Self {
            kept,
            seen,
            root,
            discovery: Arc::default(),
            folders: Vec::new(),
            shared: BTreeSet::new(),
            next: 0,
            n_rounds: 0,
            refused: Vec::new(),
            has_said_attacks: false,
        };
        docroots.find_shared();
        docroots
    }

    /// Which folders are above several document roots: what is in there is no site's own.
    fn find_shared(&mut self) {
        let mut known = BTreeSet::new();
        let above = self.seen.values().map(|docroot| docroot.above);
        let is_shared = |above: &(u64, u64)| *above != (0, 0) && !known.insert(*above);
        self.shared = above.filter(is_shared).collect();
    }

    fn say_attack_log_refused(&mut self, path: &Path) {
        if !std::mem::replace(&mut self.has_said_attacks, true) {
            let path = path.join(wordfence::FOLDER).join(wordfence::FILE);
            let fix = permission_fix(&path);
            tracing::info!(path = %path.display(), fix, "attacks that Wordfence recorded are not counted: its log may not be read");
        }
    }

    /// Says once how many document roots may not be entered, with the command that grants one.
    fn say_refused(&mut self) {
        let refused = std::mem::take(&mut self.refused);
        if let Some(path) = refused.first() {
            let fix = permission_fix(path);
            tracing::info!(n = refused.len(), path = %path.display(), fix, "document roots may not be entered: changes in them are not told");
        }
    }

    /// Takes over what discovery found; forgets what no site is in any more.
    fn take_over(&mut self, discovery: &Arc<Discovery>) -> bool {
        if Arc::ptr_eq(discovery, &self.discovery) {
            return false;
        }
        self.discovery = Arc::clone(discovery);
        let mut all = docroots(&self.root, discovery);
        // JSON has texts for names.
        all.retain(|(path, _)| path.to_str().is_some());
        all.truncate(DOCROOTS_MAX);
        if self.folders == all {
            return false;
        }
        self.folders = all;
        self.next = 0;
        let n_before = self.seen.len();
        if !self.folders.is_empty() {
            let known: BTreeSet<&str> =
                self.folders.iter().filter_map(|(path, _)| path.to_str()).collect();
            self.seen.retain(|path, _| known.contains(path.as_str()));
        }
        self.seen.len() != n_before
    }
}

impl Look for Docroots {
    fn look(&mut self, discovery: &Arc<Discovery>) -> Vec<Observation> {
        let mut is_moved = self.take_over(discovery);
        let (n, is_first_round) = (self.folders.len(), self.n_rounds == 0);
        let n_visits = n.div_ceil(LOOKS).clamp(VISITS_MIN, VISITS_MAX).min(n);
        let (mut changes, mut attacks, mut cost) = (Vec::new(), Vec::new(), 0);
        for _ in 0..n_visits {
            let (path, sites) = &self.folders[self.next];
            let path = path.clone();
            let turn = self.n_rounds % TURNS;
            let seen = self.seen.entry(path.to_string_lossy().into_owned()).or_default();
            let is_alone = !self.shared.contains(&seen.above);
            let mut visit = Visit::new(&path, sites, is_alone, clock::now(), turn);
            let (found, has_moved) = visit.look(seen);
            changes.extend(found);
            is_moved |= has_moved;
            cost += visit.cost;
            if visit.n_attacks > 0 {
                attacks.extend(sites.first().map(|site| (site.clone(), visit.n_attacks)));
            }
            let is_attack_log_refused = visit.is_attack_log_refused;
            if visit.is_refused && is_first_round {
                self.refused.push(path.clone());
            }
            if is_attack_log_refused {
                self.say_attack_log_refused(&path);
            }
            self.next += 1;
            if self.next == n {
                self.next = 0;
                self.n_rounds += 1;
                self.find_shared();
            }
            if cost > COST_MAX {
                break;
            }
        }
        if is_first_round && self.n_rounds == 1 {
            self.say_refused();
            self.kept.write(&self.seen);
        } else {
            self.kept.keep(&self.seen, is_moved, !changes.is_empty());
        }
        let attacks = attacks.into_iter().map(|(site, n)| Observation::Attacked { site, n });
        cut(changes, clock::now()).into_iter().map(Observation::Change).chain(attacks).collect()
    }

    fn stop(&mut self) {
        self.kept.write(&self.seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::Site;
    use std::fs;

    #[test]
    fn many_document_roots_are_visited_in_turns_and_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: usize| dir.path().join(format!("site-{n:03}"));
        let site = |n: usize| Site {
            name: format!("site-{n:03}.example"),
            docroot: Some(path(n)),
            ..Site::default()
        };
        for n in 0..100 {
            fs::create_dir(path(n)).unwrap();
            fs::write(path(n).join(".htaccess"), "a").unwrap();
        }
        let discovery =
            Arc::new(Discovery { sites: (0..100).map(site).collect(), ..Discovery::default() });
        let mut watch = Docroots::new("/".into(), dir.path());
        let round = |watch: &mut Docroots| -> Vec<String> {
            let found = (0..LOOKS).flat_map(|_| watch.look(&discovery));
            let site = |observation| match observation {
                Observation::Change(change) => change.site.unwrap_or_default(),
                other => panic!("{other:?}"),
            };
            found.map(site).collect()
        };
        assert!(round(&mut watch).is_empty(), "the first round");
        fs::write(path(7).join(".htaccess"), "b").unwrap();
        fs::write(path(93).join(".htaccess"), "b").unwrap();
        assert_eq!(round(&mut watch), ["site-007.example", "site-093.example"]);
        assert!(round(&mut watch).is_empty());
        watch.stop();
        fs::write(path(50).join(".htaccess"), "b").unwrap();
        let mut watch = Docroots::new("/".into(), dir.path());
        assert!(watch.look(&Arc::default()).is_empty(), "nothing is discovered yet");
        assert_eq!(round(&mut watch), ["site-050.example"]);
    }

    #[test]
    fn one_edit_above_several_document_roots_is_nobodys_and_above_a_single_one_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let site = |path: &str| {
            fs::create_dir_all(dir.path().join(path)).unwrap();
            let docroot = Some(dir.path().join(path));
            Site { name: path.replace('/', "."), docroot, ..Site::default() }
        };
        // Two customers in one folder, one with an application above, and a link to another root.
        let sites = vec![site("www/a"), site("www/b"), site("app/public"), site("far/c")];
        std::os::unix::fs::symlink("../far/c", dir.path().join("www/d")).unwrap();
        for folder in ["www", "app", "far"] {
            fs::write(dir.path().join(folder).join(".env"), "a").unwrap();
        }
        let mut sites = sites;
        sites.push(site("www/d"));
        let discovery = Arc::new(Discovery { sites, ..Discovery::default() });
        let mut watch = Docroots::new("/".into(), dir.path());
        let mut told = || -> Vec<(String, String)> {
            let found = watch.look(&discovery).into_iter();
            let change = |observation| match observation {
                Observation::Change(change) => (change.site.unwrap_or_default(), change.what),
                other => panic!("{other:?}"),
            };
            found.map(change).collect()
        };
        assert!(told().is_empty() && told().is_empty());
        for folder in ["www", "app", "far"] {
            fs::write(dir.path().join(folder).join(".env"), "longer").unwrap();
        }
        let what = dir.path().join("app/.env").display().to_string();
        assert_eq!(told(), [("app.public".to_owned(), what)]);
        assert!(told().is_empty());
    }

    #[test]
    fn an_edit_in_a_document_root_of_several_sites_is_one_of_each_and_none_of_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let docroot = dir.path().join("all");
        fs::create_dir(&docroot).unwrap();
        let site = |n: usize| Site {
            name: format!("{n}.example"),
            docroot: Some(docroot.clone()),
            ..Site::default()
        };
        let sites = (0..7).map(site).collect();
        let discovery = Arc::new(Discovery { sites, ..Discovery::default() });
        let mut watch = Docroots::new("/".into(), dir.path());
        assert!(watch.look(&discovery).is_empty());
        fs::write(docroot.join("composer.lock"), "a").unwrap();
        let found = watch.look(&discovery).into_iter().map(|observation| match observation {
            Observation::Change(change) => (change.site, change.what),
            other => panic!("{other:?}"),
        });
        let what = "application code deployed (composer.lock changed) on 0.example, 1.example, \
                    2.example and 4 more";
        let want: Vec<_> =
            (0..5).map(|n| (Some(format!("{n}.example")), what.to_owned())).collect();
        assert_eq!(found.collect::<Vec<_>>(), want);
    }

    #[test]
    fn attacks_that_wordfence_recorded_are_told_with_their_site() {
        let dir = tempfile::tempdir().unwrap();
        let docroot = dir.path().join("site");
        let logs = docroot.join(wordfence::FOLDER);
        fs::create_dir_all(&logs).unwrap();
        fs::create_dir_all(docroot.join("wp-includes")).unwrap();
        fs::write(docroot.join("wp-includes/version.php"), "<?php\n$wp_version = '6.4';").unwrap();
        let write = |n: u8| {
            let guard: &[u8] = b"<?php exit('Access denied'); __halt_compiler(); ?>\n";
            let text = [guard, &[7; 24], &[n, 0, 0, 0], &[0; 100]].concat();
            fs::write(logs.join(wordfence::FILE), text).unwrap();
        };
        let site =
            Site { name: "a.example".into(), docroot: Some(docroot.clone()), ..Site::default() };
        let discovery = Arc::new(Discovery { sites: vec![site], ..Discovery::default() });
        let mut watch = Docroots::new("/".into(), dir.path());
        write(5);
        assert!(watch.look(&discovery).is_empty(), "the application is found");
        assert!(watch.look(&discovery).is_empty(), "the baseline");
        write(12);
        let want = Observation::Attacked { site: "a.example".to_owned(), n: 7 };
        assert_eq!(watch.look(&discovery), [want]);
        assert!(watch.look(&discovery).is_empty());
    }
}
