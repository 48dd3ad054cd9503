//! Whose processes and configurations are those of the machine: anybody may give a process any name.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use rustix::fs::OFlags;

use super::find::{Wanted, under};
use super::read::{read_proc, read_regular};

/// Users below this are the system's, where /etc/login.defs does not say.
const UID_MIN: u32 = 1000;
const DEFS_BYTES_MAX: u64 = 64 << 10;

/// Whose processes are services of the machine by their names alone. Any user may run something called
/// `mysqld`, and its end is not the database's.
#[derive(Clone, Debug)]
pub(super) struct Owners {
    /// Users below this are the system's.
    pub(super) uid_min: u32,
    /// The agent's own user, on a developer's machine, and the owner of another root than `/`.
    pub(super) own: Vec<u32>,
}

impl Default for Owners {
    fn default() -> Self {
        Self { uid_min: UID_MIN, own: Vec::new() }
    }
}

impl Owners {
    pub(super) fn read(root: &Path) -> Self {
        let defs = read_regular(&root.join("etc/login.defs"), DEFS_BYTES_MAX, OFlags::empty());
        let uid_min = defs.as_deref().and_then(parse_uid_min).unwrap_or(UID_MIN);
        let own = [Some(rustix::process::geteuid().as_raw()), owner(root)];
        Self { uid_min, own: own.into_iter().flatten().collect() }
    }

    fn hold(&self, uid: u32) -> bool {
        uid < self.uid_min || self.own.contains(&uid)
    }
}

/// `UID_MIN 1000` of /etc/login.defs.
fn parse_uid_min(text: &str) -> Option<u32> {
    let mut words = text.lines().map(str::split_ascii_whitespace);
    let mut line = words.find(|line| line.clone().next() == Some("UID_MIN"))?;
    line.nth(1)?.parse().ok().filter(|uid| (1..=UID_MIN).contains(uid))
}

pub(super) fn owner(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|meta| meta.uid())
}

impl Wanted {
    /// True for a configuration file that discovery has read; another one may be a trap that somebody
    /// has named in a title.
    pub(super) fn has_read(&self, conf: &Path) -> bool {
        if self.root == Path::new("/") {
            return self.discovery.config_files.iter().any(|file| file == conf);
        }
        let climbs = conf.components().any(|part| part == Component::ParentDir);
        !climbs && under(&self.root, conf).starts_with(&self.root)
    }

    /// True when a process with the name of a service may be it: by its user, or by the user whose
    /// configuration it runs with.
    pub(super) fn may_be(&self, proc: &Path, pid: u32, conf: Option<&Path>) -> io::Result<bool> {
        let Some(uid) = real_uid(proc, pid)? else { return Ok(false) };
        let is_theirs =
            |conf: &Path| self.has_read(conf) && owner(&under(&self.root, conf)) == Some(uid);
        Ok(self.owners.hold(uid) || conf.is_some_and(is_theirs))
    }
}

/// Who started a process: its directory belongs to root once it does not let itself be looked at.
fn real_uid(proc: &Path, pid: u32) -> io::Result<Option<u32>> {
    let Some(text) = read_proc(&proc.join(format!("{pid}/status")))? else { return Ok(None) };
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_another_root_only_files_in_it_are_read() {
        let wanted = Wanted { root: "/srv/b".into(), ..Wanted::default() };
        let check = |conf: &str, want| assert_eq!(wanted.has_read(Path::new(conf)), want, "{conf}");
        check("/srv/b/etc/fpm.conf", true);
        check("/etc/fpm.conf", true); // below it
        check("/srv/b/../../tmp/fpm.conf", false);
    }

    #[test]
    fn the_first_ordinary_user_is_read_from_login_defs() {
        let check = |text: &str, want| assert_eq!(parse_uid_min(text), want, "{text}");
        check("# UID_MIN 7\nUID_MIN\t\t\t 1000\nUID_MAX 60000\n", Some(1000));
        check("UID_MIN 500", Some(500)); // EL6
        check("UID_MIN 60000", None);
        check("UID_MIN 0", None);
        check("UID_MIN", None);
        check("SYS_UID_MIN 100", None);
        check("", None);
    }
}
