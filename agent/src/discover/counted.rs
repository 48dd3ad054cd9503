//! Which of the logs of a vhost its requests are counted in.
//!
//! Logs of one scope hold the same requests, so one of them counts and the others are evidence.
//! Logs with a condition hold some of the requests each; they count where nothing else does.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::discover::chain::Front;
use crate::discover::files::Files;
use crate::discover::found::{Found, Vhost, VhostLog, has_status};

/// Who writes into an access log, and whether it can be read.
#[derive(Debug, Default)]
pub(super) struct Written<'a> {
    /// Each vhost with the place of the log among its own.
    pub(super) by: Vec<(usize, usize)>,
    pub(super) sites: BTreeSet<&'a str>,
    is_refused: bool,
    is_missing: bool,
}

impl Written<'_> {
    fn is_read(&self) -> bool {
        !self.is_refused && !self.is_missing
    }

    /// True when the site of a line in it is known.
    fn tells(&self, log: &VhostLog) -> bool {
        let is_own = self.sites.len() == 1 && log.names_host != Some(false);
        names_hosts(log) || is_own
    }
}

fn names_hosts(log: &VhostLog) -> bool {
    log.host_wildcard.is_some() || log.names_host()
}

/// Every access log with who writes into it. Cost: each is opened once, to see whether it may be.
pub(super) fn written<'a>(
    files: &Files,
    found: &Found,
    names: &[&'a str],
) -> HashMap<PathBuf, Written<'a>> {
    let mut written: HashMap<PathBuf, Written<'a>> = HashMap::new();
    for (ix, vhost) in found.vhosts.iter().enumerate() {
        for (at, log) in vhost.access_logs.iter().enumerate() {
            let its = written.entry(log.path.clone()).or_insert_with(|| Written {
                is_refused: !log.is_pattern() && files.refusal(&log.path).is_some(),
                is_missing: files.is_missing(&log.path),
                ..Written::default()
            });
            its.by.push((ix, at));
            its.sites.insert(names[ix]);
        }
    }
    written
}

/// By vhost and by log of it: whether its requests are counted there.
#[derive(Debug)]
pub(super) struct Counted(Vec<Vec<bool>>);

impl Counted {
    pub(super) fn new(
        found: &Found,
        written: &HashMap<PathBuf, Written<'_>>,
        sites: &[&str],
    ) -> Self {
        let mut chosen: HashSet<(&str, &Path)> = HashSet::new();
        // What is the only log somewhere counts there anyhow, and so elsewhere as well.
        for (vhost, site) in found.vhosts.iter().zip(sites) {
            for log in &vhost.access_logs {
                let is_only =
                    vhost.access_logs.iter().filter(|l| l.scope == log.scope).count() == 1;
                if is_only && !log.is_conditional && has_status(&log.format) {
                    chosen.insert((site, &log.path));
                }
            }
        }
        let mut counted = Vec::with_capacity(found.vhosts.len());
        for (vhost, site) in found.vhosts.iter().zip(sites) {
            let mut its = vec![true; vhost.access_logs.len()];
            let scopes: BTreeSet<usize> = vhost.access_logs.iter().map(|log| log.scope).collect();
            for scope in scopes {
                let first = best(vhost, scope, written, |path| chosen.contains(&(*site, path)));
                let Some(first) = first else { continue };
                chosen.insert((site, &vhost.access_logs[first].path));
                for (at, log) in vhost.access_logs.iter().enumerate() {
                    its[at] &= log.scope != scope || at == first;
                }
            }
            counted.push(its);
        }
        Self(counted)
    }

    pub(super) fn is_counted(&self, vhost: usize, log: usize) -> bool {
        self.0[vhost][log]
    }

    /// What the logs of each vhost make of it as a front.
    pub(super) fn fronts(
        &self,
        found: &Found,
        written: &HashMap<PathBuf, Written<'_>>,
    ) -> Vec<Front> {
        let front = |(ix, vhost): (usize, &Vhost)| {
            let mut front = Front::default();
            for (at, log) in vhost.access_logs.iter().enumerate() {
                let Some(its) = written.get(&log.path) else { continue };
                front.is_read |= its.is_read() && has_status(&log.format);
                let may_count = self.is_counted(ix, at) && !its.is_refused && its.tells(log);
                if may_count && has_status(&log.format) {
                    front.may_count = true;
                    front.counts |= its.is_read();
                    front.names_hosts |= names_hosts(log);
                }
            }
            front
        };
        found.vhosts.iter().enumerate().map(front).collect()
    }
}

/// The log of a scope that counts, when one is enough: one that is read before one that is not, one
/// that tells its site before one that does not, one that counts elsewhere, and the first.
fn best<'v>(
    vhost: &'v Vhost,
    scope: usize,
    written: &HashMap<PathBuf, Written<'_>>,
    is_chosen: impl Fn(&'v Path) -> bool,
) -> Option<usize> {
    let its = || vhost.access_logs.iter().enumerate().filter(|(_, log)| log.scope == scope);
    let is_read = |log: &VhostLog| written.get(&log.path).is_some_and(Written::is_read);
    let with_status = || its().filter(|(_, log)| has_status(&log.format));
    let whole = || with_status().filter(|(_, log)| !log.is_conditional);
    let only_parts = !whole().any(|(_, log)| is_read(log))
        && with_status().any(|(_, log)| log.is_conditional && is_read(log));
    if only_parts {
        return None;
    }
    let key = |(at, log): &(usize, &'v VhostLog)| {
        let tells = written.get(&log.path).is_some_and(|its| its.tells(log));
        (!is_read(log), !tells, !is_chosen(&log.path), *at)
    };
    whole().min_by_key(key).map(|(at, _)| at)
}
