//! The watch over all document roots: some at each look, so that each is visited every minute.
//!
//! Up to `10 x VISITS_MAX` document roots are visited within a minute, more of them less often. Few are
//! visited at each look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::applications::{Docroot, TURNS, Visit};
use super::kept::Kept;
use super::touched::docroots;
use super::{Look, cut};
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
    discovery: Arc<Discovery>,
    folders: Vec<(PathBuf, Option<String>)>,
    /// The next one to visit.
    next: usize,
    /// Rounds over all of them.
    n_rounds: usize,
    /// Those of the first round that may not be entered.
    refused: Vec<PathBuf>,
}

impl Docroots {
    pub(super) fn new(state_dir: &Path) -> Self {
        let kept = Kept::new(state_dir.join("applications.json"), WRITE_TOLD_EVERY);
        let seen = kept.load();
        let folders = Vec::new();
        let refused = Vec::new();
        Self { kept, seen, discovery: Arc::default(), folders, next: 0, n_rounds: 0, refused }
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
        let mut all = docroots(discovery);
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
            let known: std::collections::BTreeSet<&str> =
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
        let (mut changes, mut cost) = (Vec::new(), 0);
        for _ in 0..n_visits {
            let (path, site) = &self.folders[self.next];
            let turn = self.n_rounds % TURNS;
            let mut visit = Visit::new(path, site.as_deref(), clock::now(), turn);
            let key = path.to_string_lossy();
            if !self.seen.contains_key(&*key) {
                self.seen.insert(key.clone().into_owned(), Docroot::default());
            }
            if let Some(seen) = self.seen.get_mut(&*key) {
                let (found, has_moved) = visit.look(seen);
                changes.extend(found);
                is_moved |= has_moved;
            }
            cost += visit.cost;
            if visit.is_refused && is_first_round {
                self.refused.push(path.clone());
            }
            self.next += 1;
            if self.next == n {
                self.next = 0;
                self.n_rounds += 1;
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
        cut(changes, clock::now()).into_iter().map(Observation::Change).collect()
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
        let mut watch = Docroots::new(dir.path());
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
        let mut watch = Docroots::new(dir.path());
        assert!(watch.look(&Arc::default()).is_empty(), "nothing is discovered yet");
        assert_eq!(round(&mut watch), ["site-050.example"]);
    }
}
