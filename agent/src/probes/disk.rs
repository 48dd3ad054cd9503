//! Space and inodes of every real filesystem.

use super::Values;
use super::procfile::ProcFile;

/// Mounts beyond this are not sampled: such a machine is a container farm.
const MOUNTS_MAX: usize = 64;

/// Filesystems that live on a disk of this machine. Others are left out because they are always full
/// (squashfs, iso9660), hold nothing (proc) or may hang the caller (nfs, cifs, fuse).
const FILESYSTEMS: [&str; 13] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "ocfs2",
    "vfat", "exfat",
];

/// What is mounted.
#[derive(Debug)]
pub(crate) struct Disk {
    mounts: ProcFile,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { mounts: ProcFile::new("/proc/self/mountinfo") }
    }

    /// Space and inodes. May hang on a dying disk: call it where that stops nothing else.
    pub(crate) fn sample(&mut self, out: &mut Values) {
        for mountpoint in self.mounts.read().map(parse_mounts).unwrap_or_default() {
            let Ok(stat) = rustix::fs::statvfs(&mountpoint) else { continue };
            let attribute = format!("system.filesystem.mountpoint={mountpoint}");
            // As df: what root keeps in reserve is neither used nor free.
            if let Some(used) = used_share(stat.f_blocks, stat.f_bfree, stat.f_bavail) {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize) as f64;
                out.push(("system.filesystem.utilization", attribute.clone(), used));
                out.push(("system.filesystem.free", attribute.clone(), free));
            }
            // btrfs and zfs make inodes as they go and report none.
            if let Some(used) = used_share(stat.f_files, stat.f_ffree, stat.f_favail) {
                out.push(("system.filesystem.inodes.utilization", attribute, used));
            }
        }
    }
}

/// Used part of what a user may fill; `None` when the filesystem does not count these.
fn used_share(total: u64, free: u64, available: u64) -> Option<f64> {
    let used = total.saturating_sub(free);
    let usable = used.saturating_add(available);
    (total > 0 && usable > 0).then(|| used as f64 / usable as f64)
}

/// Mount points of real filesystems, each filesystem once, at its shortest mount point.
///
/// `29 1 254:0 / /var rw,relatime shared:1 - ext4 /dev/vda rw`
fn parse_mounts(text: &str) -> Vec<String> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(2);
        let (Some(device), Some(_), Some(mountpoint)) = (left.next(), left.next(), left.next())
        else {
            continue;
        };
        let mut right = right.split(' ');
        let (Some(filesystem), Some(source)) = (right.next(), right.next()) else { continue };
        // The root of a container is an overlay over the disk of its host.
        let container_root = filesystem == "overlay" && mountpoint == "/";
        if !FILESYSTEMS.contains(&filesystem) && !container_root {
            continue;
        }
        // Subvolumes of btrfs have device numbers of their own but share source and space.
        let key = if source.starts_with('/') { source } else { device };
        let mountpoint = unescape(mountpoint);
        match found.iter_mut().find(|(seen, _)| *seen == key) {
            Some((_, shortest)) if mountpoint.len() < shortest.len() => *shortest = mountpoint,
            Some(_) => {}
            None => found.push((key, mountpoint)),
        }
    }
    let mut mountpoints: Vec<String> =
        found.into_iter().map(|(_, mountpoint)| mountpoint).collect();
    mountpoints.sort_unstable();
    mountpoints.truncate(MOUNTS_MAX);
    mountpoints
}

/// Undoes the octal escapes the kernel writes for blanks and backslashes: `\040`.
pub(super) fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let (b'\\', Some(byte)) = (first, octal) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_filesystems_are_found_once_at_their_shortest_mount_point() {
        let text = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw,size=1k
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 254:0 /srv/x /var/www/x rw,relatime - ext4 /dev/vda rw
41 27 0:40 /@data /data rw - btrfs /dev/sdb1 rw,subvol=/@data
42 27 0:41 /@snap /data/.snapshots rw - btrfs /dev/sdb1 rw
43 27 7:1 / /snap/core ro - squashfs /dev/loop1 ro
44 27 0:50 / /mnt/nas rw - nfs4 nas:/export rw
45 27 253:2 / /mnt/my\\040disk rw master:3 propagate_from:1 - xfs /dev/mapper/a rw
46 27 0:60 / /var/lib/docker/overlay2/a/merged rw - overlay overlay rw
47 27 0:61 / /tank rw - zfs tank rw
broken line
48 27 - ext4";
        assert_eq!(parse_mounts(text), ["/", "/data", "/mnt/my disk", "/tank"]);
        let container = "1 0 0:99 / / rw - overlay overlay rw,lowerdir=/a";
        assert_eq!(parse_mounts(container), ["/"]);
        assert!(parse_mounts("").is_empty());
    }

    #[test]
    fn escapes_are_undone() {
        let check = |text: &str, want: &str| assert_eq!(unescape(text), want, "{text:?}");
        check("/a\\040b\\134c", "/a b\\c");
        check("/plain", "/plain");
        check("/end\\04", "/end\\04");
        check("/no\\999", "/no\\999");
        check("", "");
    }

    #[test]
    fn shares_are_those_of_df() {
        let check = |total, free, available, want| {
            assert_eq!(used_share(total, free, available), want, "{total} {free} {available}");
        };
        check(100, 20, 10, Some(80.0 / 90.0)); // 10 reserved for root
        check(100, 10, 0, Some(1.0)); // full for everybody but root
        check(100, 100, 100, Some(0.0));
        check(0, 0, 0, None);
        check(10, 20, 5, Some(0.0)); // nonsense stays in range
    }
}
