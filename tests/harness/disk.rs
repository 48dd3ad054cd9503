//! A small disk with a file system of its own, which a test may fill: an image file, mounted in a mount
//! namespace that nobody else sees. It is gone with the last process in there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fleet::Output;
use crate::process::{Process, find_program};
use crate::root::Root;
use crate::wait::eventually;

/// The namespace and where the disk is mounted in it. What runs in it is to be stopped first.
#[derive(Debug)]
pub struct SmallDisk {
    mountpoint: PathBuf,
    holder: Process,
}

impl SmallDisk {
    /// Makes an ext4 of so many bytes, of which nothing is kept for root, with so many inodes, and
    /// mounts it below the root. Needs root and loop devices.
    #[must_use]
    pub fn mount(root: &Root, bytes: u64, inodes: u32) -> Self {
        let image = root.write("srv/disk.img", "");
        let file = std::fs::File::options().write(true).open(&image).expect("just made");
        file.set_len(bytes).expect("a sparse file takes no room");
        let mut mkfs = Command::new(find_program(&["mkfs.ext4"], "e2fsprogs"));
        mkfs.args(["-q", "-m", "0", "-O", "^has_journal", "-N", &inodes.to_string()]).arg(&image);
        Output::of(&mut mkfs).good().expect("a file system is made");
        let mountpoint = root.mkdir("mnt/small");
        let script = "mount -o loop \"$0\" \"$1\" && exec sleep infinity";
        let mut command = Command::new(find_program(&["unshare"], "util-linux"));
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        command.arg(&image).arg(&mountpoint);
        let log = root.mkdir("run").join("disk.out");
        let mut disk =
            Self { mountpoint, holder: Process::start("small disk", &mut command, &log) };
        eventually("the disk is mounted", Duration::from_secs(20), || {
            if let Some(status) = disk.holder.exited() {
                panic!("no loop device can be mounted: {status}: {}", disk.holder.log_text());
            }
            let is_there = disk.path("lost+found").is_dir();
            if is_there { Ok(()) } else { Err(disk.holder.log_text()) }
        });
        disk
    }

    /// Where it is mounted, for programs in its namespace.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Words that run a command, which follows them, where the disk is seen.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let nsenter = find_program(&["nsenter"], "util-linux").display().to_string();
        vec![nsenter, "--mount".to_owned(), format!("--target={}", self.holder.pid())]
    }

    /// A file on it, as it is reached from outside.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        let inside = self.mountpoint.display();
        PathBuf::from(format!("/proc/{}/root{inside}/{name}", self.holder.pid()))
    }
}
