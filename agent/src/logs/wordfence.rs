//! What Wordfence, the firewall inside of WordPress, recorded: its attack log in the document root.
//!
//! `wp-content/wflogs/attack-data.php` is no text: behind a line of PHP that keeps browsers out come an
//! 8-byte signature, two 8-byte times, and the number of records as a little-endian number of 32 bits.
//! Only that number is read. Wordfence empties the file now and then, and stops at 400 records until it
//! has: so what is told is a lower bound. Most sites allow only their own user to read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::discover::Discovery;

/// Time between two looks at all sites.
const LOOK_GAP: Duration = Duration::from_secs(60);
/// The line of PHP, with its newline.
const GUARD: &[u8] = b"<?php exit('Access denied'); __halt_compiler(); ?>\n";
/// Where the number of records is, behind signature and times.
const COUNT_AT: usize = GUARD.len() + 24;
/// Records after which Wordfence writes no more.
const RECORDS_MAX: u32 = 400;
/// Sites looked at; a look is an `open` and a `read` each.
const SITES_MAX: usize = 2_000;

/// What was there at the last look.
#[derive(Debug, Default)]
pub struct Wordfence {
    looked_at: Option<Instant>,
    /// Records by file.
    known: BTreeMap<PathBuf, u32>,
    has_told: bool,
}

impl Wordfence {
    /// New records since the last look, by site; nothing but once a minute.
    pub fn look(&mut self, discovery: &Discovery, root: &Path, now: Instant) -> Vec<(String, u32)> {
        if self.looked_at.is_some_and(|last| now < last + LOOK_GAP) {
            return Vec::new();
        }
        self.looked_at = Some(now);
        let mut seen = BTreeSet::new();
        let mut recorded = Vec::new();
        let is_wordpress = |application: &String| application.starts_with("WordPress");
        let sites =
            discovery.sites.iter().filter(|s| s.application.as_ref().is_some_and(is_wordpress));
        for site in sites.take(SITES_MAX) {
            let Some(docroot) = &site.docroot else { continue };
            let path = docroot.join("wp-content/wflogs/attack-data.php");
            let below = root.join(path.strip_prefix("/").unwrap_or(&path));
            let path = if below.exists() { below } else { path };
            if !seen.insert(path.clone()) {
                continue; // another name of the same site
            }
            match count(&path) {
                Ok(n) => recorded.extend(self.note(path, n).map(|new| (site.name.clone(), new))),
                Err(error) => self.tell(&path, &error),
            }
        }
        self.known.retain(|path, _| seen.contains(path));
        recorded
    }

    /// What is new in a file; the first look only sets the baseline.
    fn note(&mut self, path: PathBuf, n: u32) -> Option<u32> {
        let before = self.known.insert(path, n)?;
        // Emptied meanwhile: what is there came after it.
        let new = if n < before { n } else { n - before };
        (new > 0).then_some(new)
    }

    fn tell(&mut self, path: &Path, error: &io::Error) {
        let is_news = error.kind() == io::ErrorKind::PermissionDenied;
        if is_news && !std::mem::replace(&mut self.has_told, true) {
            let path = path.display();
            tracing::info!(
                %path,
                "attacks that Wordfence recorded are not counted: let the agent read its files, e.g. \
                 by setfacl -m u:gatewatch-agent:r on this one"
            );
        }
    }
}

/// The number of records in an attack log.
fn count(path: &Path) -> io::Result<u32> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let flags = flags.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut head = [0; COUNT_AT + 4];
    file.take(head.len() as u64).read_exact(&mut head)?;
    let is_guarded = head.starts_with(GUARD);
    let n = u32::from_le_bytes(*head.last_chunk().expect("it is longer"));
    if is_guarded && n <= RECORDS_MAX { Ok(n) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock;
    use crate::discover::Site;

    fn log(n: u32) -> Vec<u8> {
        let counted = [GUARD, &[7; 24], &n.to_le_bytes()].concat();
        [counted, vec![0; 1600], b"rows of any bytes \xff\n".repeat(n as usize)].concat()
    }

    #[test]
    fn records_are_counted_over_an_emptied_file_and_nonsense_is_none() {
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join("srv/a/wp-content/wflogs");
        fs::create_dir_all(&logs).unwrap();
        let site = |name: &str, application: &str| Site {
            name: name.to_owned(),
            application: Some(application.to_owned()),
            docroot: Some("/srv/a".into()),
            ..Site::default()
        };
        let sites = vec![site("a.example", "WordPress 6.4.2"), site("b.example", "WordPress")];
        let discovery = Discovery { sites, ..Discovery::default() };
        let (mut wordfence, began) = (Wordfence::default(), clock::instant());
        let mut look = |minute: u32| {
            let told = wordfence.look(&discovery, root.path(), began + LOOK_GAP * minute);
            told.into_iter().map(|(site, n)| format!("{n} {site}")).collect::<Vec<_>>().join(",")
        };
        assert_eq!(look(0), "", "there is none");
        for (minute, bytes, want) in [
            (1, log(5), ""),
            (2, log(46), "41 a.example"),
            (3, log(46), ""),
            (4, log(3), "3 a.example"),
            (5, log(RECORDS_MAX + 1), ""),
            (6, b"<?php exit('Access denied');".to_vec(), ""),
            (7, vec![0; 4096], ""),
            (8, log(10), "7 a.example"),
        ] {
            fs::write(logs.join("attack-data.php"), bytes).unwrap();
            assert_eq!(look(minute), want, "minute {minute}");
        }
        assert_eq!(look(8), "", "once a minute");
        fs::remove_file(logs.join("attack-data.php")).unwrap();
        rustix::fs::symlink("/etc/passwd", logs.join("attack-data.php")).unwrap();
        assert_eq!(look(9), "", "a link leads anywhere");
    }
}
