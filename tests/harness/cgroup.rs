//! A control group with a memory limit or the name of a unit, of version 1 or 2, removed in `Drop` with all that runs in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::wait::pause;

/// Tries to remove the group while the kernel still clears up who was in it.
const REMOVALS_MAX: u32 = 500;

/// One group of our own.
#[derive(Debug)]
pub struct Cgroup {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    dir: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// Makes a group in which no more than this may be used, swap included.
    ///
    /// Panics with what was tried where the kernel or the container allows none: root is needed, and
    /// a hierarchy with the memory controller.
    #[must_use]
    pub fn with_memory_limit(bytes: u64) -> Self {
        let tried = [Self::of_v1(), Self::of_v2()].map(|made| made.and_then(|g| g.limit(bytes)));
        let [v1, v2] = tried;
        v1.or_else(|old| v2.map_err(|new| format!("version 1: {old}; version 2: {new}")))
            .unwrap_or_else(|why| panic!("no control group can be limited here: {why}"))
    }

    /// Makes the group that systemd would make for this unit: what runs in it is of the unit.
    ///
    /// Panics where the kernel or the container allows none: root is needed, and a hierarchy that is
    /// systemd's or of version 2.
    #[must_use]
    pub fn of_unit(unit: &str) -> Self {
        let is_systemd = |kind: &str, options: &str| {
            kind == "cgroup" && options.split(',').any(|option| option == "name=systemd")
        };
        let (mount, is_v2) = mounted(is_systemd)
            .map(|mount| (mount, false))
            .or_else(|_| mounted(|kind, _| kind == "cgroup2").map(|mount| (mount, true)))
            .unwrap_or_else(|why| panic!("no control group can have the name of a unit: {why}"));
        let dir = mount.join(unit);
        fs::create_dir(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
        Self { mount, dir, is_v2 }
    }

    fn of_v1() -> Result<Self, String> {
        let mount = mounted(|kind, options| {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        })?;
        Self::make(mount, false)
    }

    fn of_v2() -> Result<Self, String> {
        let mount = mounted(|kind, _| kind == "cgroup2")?;
        let has = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        if !has.split_whitespace().any(|controller| controller == "memory") {
            return Err(format!("{} has no memory controller, only {has:?}", mount.display()));
        }
        write(&mount.join("cgroup.subtree_control"), "+memory")?;
        Self::make(mount, true)
    }

    fn make(mount: PathBuf, is_v2: bool) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = mount.join(format!("gatewatch-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        Ok(Self { mount, dir, is_v2 })
    }

    fn limit(self, bytes: u64) -> Result<Self, String> {
        let (limit, swap, no_swap) = if self.is_v2 {
            ("memory.max", "memory.swap.max", 0)
        } else {
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes)
        };
        write(&self.dir.join(limit), &bytes.to_string())?;
        let swap = self.dir.join(swap);
        if swap.exists() {
            write(&swap, &no_swap.to_string())?;
        }
        Ok(self)
    }

    /// Words that run a command, which follows them, in the group.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.dir.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// Words that run a command as a container of this group would: it sees the group as the root of
    /// the hierarchy, and itself as the first process.
    #[must_use]
    pub fn container_wrapper(&self) -> Vec<String> {
        let (kind, options) = if self.is_v2 { ("cgroup2", "rw") } else { ("cgroup", "memory") };
        let mount = self.mount.display();
        let inside = format!(
            "umount -l {mount} && mount -t {kind} -o {options} {kind} {mount} && exec \"$@\""
        );
        let mut words = self.wrapper();
        let unshare = ["unshare", "--cgroup", "--mount", "--pid", "--fork", "--kill-child=SIGTERM"];
        words.extend(unshare.map(str::to_owned));
        words.extend(["--mount-proc", "sh", "-c", &inside, "sh"].map(str::to_owned));
        words
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS_MAX {
            for pid in self.pids().into_iter().filter_map(Pid::from_raw) {
                // An error means that it ended meanwhile.
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            pause(Duration::from_millis(10));
        }
        eprintln!("{} stays: somebody is still in it", self.dir.display());
    }
}

/// Where the hierarchy is mounted of which filesystem and options are `wanted`.
fn mounted(wanted: impl Fn(&str, &str) -> bool) -> Result<PathBuf, String> {
    let text = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
    let found = text.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (mount, kind, options) = (words.next()?, words.next()?, words.next()?);
        wanted(kind, options).then(|| PathBuf::from(mount))
    });
    found.ok_or_else(|| "not mounted".to_owned())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
