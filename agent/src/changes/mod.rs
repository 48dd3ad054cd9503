//! Stage 1c: what somebody changed on this server -> `Change`: packages and configuration files.
//!
//! A look every few seconds costs a `stat` a file. What was seen last is kept in `changes.json` of the
//! state directory, so that a change made while the agent was stopped is told after its start.

pub(crate) mod boot;
pub(crate) mod clocks;
mod configs;
mod packages;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::discover::Discovery;
use crate::probes::Outlet;
use crate::window::{Change, Observation};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Changes of one look told one by one; the others are told as one sum.
const CHANGES_MAX: usize = 200;

/// What was seen last. A file that cannot be read is an empty one: the next look is then the first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Seen {
    packages: BTreeMap<PathBuf, packages::Mark>,
    configs: BTreeMap<PathBuf, configs::Mark>,
}

/// What the watch needs from the rest of the agent.
#[derive(Debug)]
pub struct ChangeInputs {
    /// `[logs] root`: prefix of every path looked at.
    pub root: PathBuf,
    /// Where `changes.json` lives.
    pub state_dir: PathBuf,
    /// What discovery found, and finds later.
    pub discovery: watch::Receiver<Arc<Discovery>>,
}

/// Starts the watch on the current runtime; it ends with `stop`.
pub fn spawn(inputs: ChangeInputs, outlet: Outlet, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let file = inputs.state_dir.join("changes.json");
        let mut seen = load(&file);
        let mut told = false;
        if let Some(boot) = boot::look(&inputs.state_dir) {
            tracing::info!(kind = boot.kind, what = boot.what, "changed on this server");
            outlet.send(Observation::Change(boot));
        }
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                _ = looks.tick() => {}
            }
            let discovery = inputs.discovery.borrow().clone();
            let (root, path) = (inputs.root.clone(), file.clone());
            // On the blocking pool: the first look hashes every file, and a disk may hang.
            let looked = tokio::task::spawn_blocking(move || {
                let (changes, moved) = look(&root, &discovery, &mut seen);
                (changes, moved.then(|| store(&path, &seen)), seen)
            });
            let Ok((changes, stored, back)) = looked.await else { return };
            seen = back;
            for change in changes {
                tracing::info!(kind = change.kind, what = change.what, "changed on this server");
                outlet.send(Observation::Change(change));
            }
            if let Some(Err(error)) = stored
                && !told
            {
                told = true;
                tracing::warn!(path = %file.display(), %error, "cannot keep what was seen: changes made while the agent is stopped will be missed");
            }
        }
    })
}

/// One look at everything; also says whether `seen` is another now.
fn look(root: &Path, discovery: &Discovery, seen: &mut Seen) -> (Vec<Change>, bool) {
    let packages_before = seen.packages.clone();
    let mut changes = packages::look(root, &mut seen.packages);
    let configs_before = std::mem::take(&mut seen.configs);
    let (found, configs) = configs::look(root, discovery, &configs_before);
    seen.configs = configs;
    let moved = seen.packages != packages_before || seen.configs != configs_before;
    changes.extend(found);
    if changes.len() > CHANGES_MAX {
        let rest = changes.split_off(CHANGES_MAX);
        let kind = rest.first().map_or("package", |change| change.kind);
        let what = format!("and {} further changes at once", rest.len());
        changes.push(Change { kind, what, site: None, pool: None, at: clock::now() });
    }
    (changes, moved)
}

fn load(path: &Path) -> Seen {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot read what was seen: starting anew");
            Seen::default()
        }),
        Err(_) => Seen::default(),
    }
}

/// Replaces the file at once. No fsync: after a power cut the older state only tells a change twice.
fn store(path: &Path, seen: &Seen) -> io::Result<()> {
    let temporary = path.with_extension("json.tmp");
    fs::write(&temporary, serde_json::to_vec(seen)?)?;
    fs::rename(&temporary, path)
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
        let conf = root.join("etc/nginx/nginx.conf");
        let log = root.join("var/log/dpkg.log");
        fs::write(&conf, "a").unwrap();
        fs::write(&log, "2026-11-20 14:00:00 install old:amd64 <none> 1\n").unwrap();
        let discovery = Discovery { config_files: vec![conf.clone()], ..Discovery::default() };
        let file = root.join("changes.json");

        let mut seen = load(&file);
        let (changes, moved) = look(root, &discovery, &mut seen);
        assert!(changes.is_empty() && moved, "the first look is no change");
        store(&file, &seen).unwrap();

        fs::write(&conf, "b is longer").unwrap();
        let more = "2026-11-20 14:47:36 upgrade php8.2-fpm:amd64 8.2.7 8.2.29\n";
        fs::write(&log, fs::read_to_string(&log).unwrap() + more).unwrap();
        let mut seen = load(&file);
        let (changes, moved) = look(root, &discovery, &mut seen);
        assert!(moved);
        let told: Vec<_> = changes.iter().map(|c| (c.kind, c.what.as_str())).collect();
        let path = conf.display().to_string();
        assert_eq!(told, [("package", "php8.2-fpm 8.2.7 to 8.2.29"), ("config", path.as_str())]);
        assert_eq!(look(root, &discovery, &mut seen), (Vec::new(), false));
    }

    #[test]
    fn a_torn_state_file_starts_anew_and_a_flood_is_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("changes.json");
        fs::write(&file, "{\"packages\":").unwrap();
        assert_eq!(load(&file), Seen::default());

        let log = dir.path().join("var/log/dpkg.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        let mut seen = Seen::default();
        look(dir.path(), &Discovery::default(), &mut seen);
        let line = |i| format!("2026-11-20 14:00:00 install p{i}:all <none> 1");
        let lines: Vec<String> = (0..250).map(line).collect();
        fs::write(&log, lines.join("\n") + "\n").unwrap();
        let (changes, _) = look(dir.path(), &Discovery::default(), &mut seen);
        assert_eq!(changes.len(), CHANGES_MAX + 1);
        assert_eq!(changes[CHANGES_MAX].what, "and 50 further changes at once");
    }
}
