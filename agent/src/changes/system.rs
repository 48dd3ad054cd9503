//! The watch over the system: packages, files, schedules and firewalls, every other second.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::configs::{self, Configs};
use super::firewall_logs::{self, Bans};
use super::kept::Kept;
use super::refused::Refused;
use super::schedule::{self, Schedule};
use super::{Look, cut, packages};
use crate::clock;
use crate::discover::Discovery;
use crate::window::Observation;

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Seen {
    packages: packages::Seen,
    configs: configs::Seen,
    schedule: schedule::Seen,
    firewall_logs: firewall_logs::Seen,
}

/// The watch with what it saw.
pub(super) struct System {
    root: PathBuf,
    kept: Kept,
    seen: Seen,
    configs: Configs,
    schedule: Schedule,
    bans: Bans,
    /// Logs of packages.
    refused: Refused,
}

impl System {
    pub(super) fn new(root: PathBuf, state_dir: &Path) -> Self {
        let kept = Kept::new(state_dir.join("changes.json"), Duration::ZERO);
        let seen = kept.load();
        let configs = Configs::new(schedule::stamp_folders(&root));
        let (schedule, bans, refused) = <(Schedule, Bans, Refused)>::default();
        Self { root, kept, seen, configs, schedule, bans, refused }
    }
}

impl Look for System {
    fn look(&mut self, discovery: &Arc<Discovery>) -> Vec<Observation> {
        let (root, seen, now) = (&self.root, &mut self.seen, clock::now());
        let (mut changes, mut is_moved) =
            packages::look(root, &mut seen.packages, &mut self.refused, now);
        let is_first = !seen.configs.is_looked_at();
        let looked = self.configs.look(root, discovery, &mut seen.configs, clock::instant());
        is_moved |= looked.is_moved;
        changes.extend(looked.changes);
        if looked.has_schedules {
            self.schedule.read(root, self.configs.files_of("schedule"));
        }
        if looked.is_awake {
            let stamps = schedule::look_at_stamps(root, &mut seen.schedule, now);
            is_moved |= !stamps.is_empty();
            changes.extend(stamps);
        }
        // The minute alone is not worth a write.
        changes.extend(self.schedule.starts(root, &mut seen.schedule, now));
        let (said, has_read) = self.bans.look(root, discovery, &mut seen.firewall_logs, now);
        is_moved |= has_read;
        let mut observations: Vec<_> =
            cut(changes, now).into_iter().map(Observation::Change).collect();
        observations.extend(said);
        let is_first = is_first && seen.configs.is_looked_at();
        self.kept.keep(seen, is_moved, is_first || !observations.is_empty());
        observations
    }

    fn stop(&mut self) {
        self.kept.write(&self.seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_change_made_while_the_agent_was_stopped_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("etc/nginx")).unwrap();
        fs::create_dir_all(root.join("var/log")).unwrap();
        let (conf, log) = (root.join("etc/nginx/nginx.conf"), root.join("var/log/dpkg.log"));
        fs::write(&conf, "a").unwrap();
        fs::write(&log, "2026-11-20 14:00:00 install old:amd64 <none> 1\n").unwrap();
        let config_files = vec![conf.clone()];
        let discovery = Arc::new(Discovery { config_files, ..Discovery::default() });
        let told = |system: &mut System| -> Vec<String> {
            let found = system.look(&discovery).into_iter();
            let changes = found.map(|observation| match observation {
                Observation::Change(change) => format!("{}: {}", change.kind, change.what),
                other => panic!("{other:?}"),
            });
            changes.collect()
        };
        let mut system = System::new(root.to_owned(), root);
        assert!(told(&mut system).is_empty(), "the first look is no change");
        drop(system); // killed

        fs::write(&conf, "b is longer").unwrap();
        let more = "2026-11-20 14:47:36 upgrade php8.2-fpm:amd64 8.2.7 8.2.29\n";
        fs::write(&log, fs::read_to_string(&log).unwrap() + more).unwrap();
        let mut system = System::new(root.to_owned(), root);
        let package = "package: php8.2-fpm 8.2.7 to 8.2.29".to_owned();
        assert_eq!(told(&mut system), [package, format!("config: {}", conf.display())]);
        assert!(told(&mut system).is_empty());
        drop(system);
        assert!(told(&mut System::new(root.to_owned(), root)).is_empty());
    }
}
