//! What Wordfence, the firewall inside of WordPress, recorded: its attack log in the document root.
//!
//! `wp-content/wflogs/attack-data.php` is no text: behind a line of PHP that keeps browsers out come an
//! 8-byte signature, two 8-byte times, and the number of records as a little-endian number of 32 bits.
//! Only that number is read. Wordfence empties the file now and then, and stops at 400 records until it
//! has: so what is told is a lower bound. Most sites allow only their own user to read it.

use std::io;

use super::docroot::Folder;

/// Where the attack log is, below a document root.
pub(super) const FOLDER: &str = "wp-content/wflogs";
pub(super) const FILE: &str = "attack-data.php";
/// The line of PHP, with its newline.
const GUARD: &[u8] = b"<?php exit('Access denied'); __halt_compiler(); ?>\n";
/// Where the number of records is, behind signature and times.
const COUNT_AT: usize = GUARD.len() + 24;
/// Records after which Wordfence writes no more.
const RECORDS_MAX: u32 = 400;

/// The attack log of one document root as it was seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Attacks {
    n: Option<u32>,
}

impl Attacks {
    /// Records since the last look; the first look only sets the baseline.
    pub(super) fn look(&mut self, docroot: &Folder) -> io::Result<u32> {
        let head = docroot.below(FOLDER)?.read(FILE, COUNT_AT as u64 + 4)?;
        let n = count(&head).ok_or(io::ErrorKind::InvalidData)?;
        Ok(match self.n.replace(n) {
            None => 0,
            // Emptied meanwhile: what is there came after it.
            Some(before) if n < before => n,
            Some(before) => n - before,
        })
    }
}

/// The number of records in the beginning of an attack log.
fn count(head: &[u8]) -> Option<u32> {
    let n = u32::from_le_bytes(*head.get(COUNT_AT..)?.first_chunk()?);
    (head.starts_with(GUARD) && n <= RECORDS_MAX).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn log(n: u32) -> Vec<u8> {
        let counted = [GUARD, &[7; 24], &n.to_le_bytes()].concat();
        [counted, vec![0; 1600], b"rows of any bytes \xff\n".repeat(n as usize)].concat()
    }

    #[test]
    fn records_are_counted_over_an_emptied_file_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("site").join(FOLDER);
        fs::create_dir_all(&logs).unwrap();
        let top = Folder::open(&dir.path().join("site")).unwrap();
        let mut attacks = Attacks::default();
        let mut look = || attacks.look(&top).ok();
        assert_eq!(look(), None, "there is none");
        for (bytes, want) in [
            (log(5), Some(0)),
            (log(46), Some(41)),
            (log(46), Some(0)),
            (log(3), Some(3)),
            (log(RECORDS_MAX + 1), None),
            (b"<?php exit('Access denied');".to_vec(), None),
            (vec![0; 4096], None),
            (log(10), Some(7)),
        ] {
            fs::write(logs.join(FILE), bytes).unwrap();
            assert_eq!(look(), want);
        }
    }

    #[test]
    fn a_link_on_the_way_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (site, out) = (dir.path().join("site"), dir.path().join("out"));
        fs::create_dir_all(site.join(FOLDER)).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(out.join(FILE), log(5)).unwrap();
        let top = Folder::open(&site).unwrap();
        let mut attacks = Attacks::default();
        symlink(out.join(FILE), site.join(FOLDER).join(FILE)).unwrap();
        assert!(attacks.look(&top).is_err(), "the file");
        fs::remove_dir_all(site.join(FOLDER)).unwrap();
        symlink(&out, site.join(FOLDER)).unwrap();
        assert!(attacks.look(&top).is_err(), "its folder, which may be an automount");
    }
}
