//! Which life of each service is running, so that a restart is told even if nobody saw it stop.
//!
//! Kept in `services.json` of the state directory with the boot it belongs to: a service restarted while
//! the agent was stopped is told once after its start, and after a boot all lives are new, which is one
//! change (`changes/boot.rs`) and not fifty.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wire::UnixMillis;

use super::UNITS_MAX;

/// Three automatic restarts within this are a loop ...
const LOOP_WITHIN: Duration = Duration::from_secs(60);
const LOOP_RESTARTS: usize = 3;
/// ... until there was none for so long.
const LOOP_REST: Duration = Duration::from_secs(15);

/// One life of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Names this life and no other one of this boot: systemd's invocation, or process and start.
    pub(crate) id: String,
    /// When it began.
    pub(crate) at: UnixMillis,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    boot_id: String,
    runs: BTreeMap<String, Run>,
}

/// Automatic restarts of one unit.
#[derive(Debug, Default)]
struct Rises {
    /// As systemd counted them last.
    n_restarts: Option<u32>,
    waited: bool,
    at: VecDeque<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Restarts {
    file: PathBuf,
    kept: Kept,
    is_moved: bool,
    rises: BTreeMap<String, Rises>,
}

impl Restarts {
    /// Reads what ran when the agent last looked. A file that cannot be read knows nothing.
    pub(crate) fn open(state_dir: &Path, boot_id: Option<String>) -> Self {
        let file = state_dir.join("services.json");
        let bytes = fs::read(&file).unwrap_or_default();
        let mut kept: Kept = serde_json::from_slice(&bytes).unwrap_or_default();
        let boot_id = boot_id.unwrap_or_default();
        if kept.boot_id != boot_id {
            kept = Kept { boot_id, runs: BTreeMap::new() };
        }
        Self { file, kept, is_moved: false, rises: BTreeMap::new() }
    }

    /// True when no further unit finds room.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.runs.len().max(self.rises.len()) >= UNITS_MAX
    }

    /// Forgets all other units.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        let n_runs = self.kept.runs.len();
        self.kept.runs.retain(|unit, _| is_wanted(unit));
        self.is_moved |= n_runs != self.kept.runs.len();
        self.rises.retain(|unit, _| is_wanted(unit));
    }

    pub(crate) fn forget(&mut self, unit: &str) {
        self.is_moved |= self.kept.runs.remove(unit).is_some();
        self.rises.remove(unit);
    }

    /// Units whose life is known, and whose restarts are counted.
    #[cfg(test)]
    pub(crate) fn n_known(&self) -> (usize, usize) {
        (self.kept.runs.len(), self.rises.len())
    }

    /// Notes the life that runs now; true when it is another than the one before.
    pub(crate) fn note(&mut self, unit: &str, run: &Run) -> bool {
        if run.id.is_empty() {
            return false;
        }
        match self.kept.runs.get_mut(unit) {
            Some(known) if known.id == run.id => false,
            Some(known) => {
                known.clone_from(run);
                self.is_moved = true;
                true
            }
            None => {
                if self.kept.runs.len() < UNITS_MAX {
                    self.kept.runs.insert(unit.to_owned(), run.clone());
                    self.is_moved = true;
                }
                false
            }
        }
    }

    /// Notes how often systemd has restarted a unit by itself, and whether it waits to do so again:
    /// before systemd 235 only the waiting tells.
    pub(crate) fn note_automatic(
        &mut self,
        unit: &str,
        n_restarts: Option<u32>,
        waits: bool,
        now: Instant,
    ) {
        if !self.rises.contains_key(unit) {
            if self.rises.len() >= UNITS_MAX {
                return;
            }
            let first = Rises { n_restarts, waited: waits, at: VecDeque::new() };
            self.rises.insert(unit.to_owned(), first);
            return;
        }
        let Some(rises) = self.rises.get_mut(unit) else { return };
        let n_more = match (rises.n_restarts, n_restarts) {
            // Somebody started it: the count begins again.
            (Some(before), Some(now)) if now < before => {
                rises.at.clear();
                0
            }
            (Some(before), Some(now)) => (now - before).min(LOOP_RESTARTS as u32),
            _ => u32::from(waits && !rises.waited),
        };
        rises.n_restarts = n_restarts;
        rises.waited = waits;
        for _ in 0..n_more {
            rises.at.push_back(now);
        }
        while rises.at.len() > LOOP_RESTARTS {
            rises.at.pop_front();
        }
    }

    /// True while a unit starts and dies again and again: it is down, although it runs for moments.
    pub(crate) fn is_looping(&self, unit: &str, now: Instant) -> bool {
        let Some(rises) = self.rises.get(unit) else { return false };
        let (Some(first), Some(last)) = (rises.at.front(), rises.at.back()) else { return false };
        rises.at.len() >= LOOP_RESTARTS
            && last.saturating_duration_since(*first) <= LOOP_WITHIN
            && now.saturating_duration_since(*last) < LOOP_REST
    }

    /// What to write where, if it is another than was written last.
    pub(crate) fn take_moved(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        if !std::mem::take(&mut self.is_moved) {
            return None;
        }
        Some((self.file.clone(), serde_json::to_vec(&self.kept).ok()?))
    }
}

/// Replaces the file at once. No fsync: after a power cut another boot is running anyway.
pub(crate) fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn run(id: &str) -> Run {
        Run { id: id.into(), at: UnixMillis(5) }
    }

    #[test]
    fn another_life_is_noticed_also_over_a_restart_of_the_agent_but_not_over_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let open = |boot: &str| Restarts::open(dir.path(), Some(boot.to_owned()));
        let save = |restarts: &mut Restarts| {
            let (path, bytes) = restarts.take_moved().expect("something moved");
            store(&path, &bytes).unwrap();
            assert_eq!(restarts.take_moved(), None);
        };
        let mut restarts = open("one");
        assert!(!restarts.note("nginx.service", &run("a")), "never seen before");
        assert!(!restarts.note("nginx.service", &run("a")));
        assert!(restarts.note("nginx.service", &run("b")));
        assert!(!restarts.note("nginx.service", &run("")), "nobody knows which");
        save(&mut restarts);
        let mut restarts = open("one");
        assert!(restarts.note("nginx.service", &run("c")), "while the agent was stopped");
        assert!(!restarts.note("nginx.service", &run("c")), "told once");
        save(&mut restarts);
        assert!(!open("two").note("nginx.service", &run("d")), "the boot explains it");
        fs::write(dir.path().join("services.json"), "{\"runs\":[").unwrap();
        assert!(!open("one").note("nginx.service", &run("e")), "a torn file knows nothing");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut restarts = Restarts::open(dir.path(), None);
        for ix in 0..UNITS_MAX + 50 {
            restarts.note(&format!("app@{ix}.service"), &run("a"));
            restarts.note_automatic(&format!("app@{ix}.service"), None, true, clock::instant());
        }
        assert_eq!((restarts.kept.runs.len(), restarts.rises.len()), (UNITS_MAX, UNITS_MAX));
    }

    #[test]
    fn three_automatic_restarts_in_a_minute_are_a_loop_until_it_rests() {
        // Second, restarts counted by systemd, waits for one; then whether it loops in a second.
        type Step = (u64, Option<u32>, bool);
        let check = |steps: &[Step], at: u64, want: bool| {
            let dir = tempfile::tempdir().unwrap();
            let mut restarts = Restarts::open(dir.path(), None);
            let start = clock::instant();
            let second = |second| start + Duration::from_secs(second);
            for (at, n_restarts, waits) in steps {
                restarts.note_automatic("a", *n_restarts, *waits, second(*at));
            }
            assert_eq!(restarts.is_looping("a", second(at)), want, "{steps:?} at {at}");
        };
        let counted =
            [(0, Some(0), false), (1, Some(1), true), (2, Some(2), true), (3, Some(3), true)];
        check(&counted[..3], 3, false);
        check(&counted, 3, true);
        check(&counted, 17, true);
        check(&counted, 18, false);
        check(&[(0, Some(7), true)], 1, false); // before the agent came
        check(&[(0, Some(2), false), (5, Some(9), true)], 6, true); // listed late
        check(
            &[(0, Some(0), false), (30, Some(1), true), (60, Some(2), true), (95, Some(3), true)],
            96,
            false,
        );
        let mut started = counted.to_vec();
        started.push((4, Some(0), false)); // by hand
        check(&started, 5, false);
        let old = [(0, None, false), (1, None, true), (1, None, true), (2, None, false)];
        check(&old, 3, false);
        let more = [(3, None, true), (4, None, false), (5, None, true)];
        check(&[&old[..], &more].concat(), 6, true);
        check(&[], 1, false);
    }
}
