//! What the control group of the container allows and what it has used, of version 1 and 2.
//!
//! Of each controller the strictest limit between the container's own group and the top of what can
//! be seen is the one in force, and its level is the one whose use counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::cgroup::{Controller, Group, Texts, count_processors, locate};
use super::container::Reading;
use super::memory::counter;
use super::procfile::ProcFile;

/// Version 1 writes the largest number of bytes it can count where there is no limit.
const BYTES_UNLIMITED: u64 = 1 << 60;

/// Groups below the container's that are looked at.
const GROUPS_MAX: usize = 256;

/// Looks left out on a machine that is no container: it hardly becomes one while the agent runs, and
/// the list of mounts may be long.
const N_LOOKS_LEFT_OUT: u32 = 29;

/// The groups of this container; all absent on a machine that is none.
#[derive(Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    memory: Option<Memory>,
    cpu: Option<Cpu>,
    pids: Option<Pids>,
    /// Version 2 says by a file that this is not the root of everything.
    unified_dir: Option<PathBuf>,
    told: bool,
    n_left_out: u32,
}

#[derive(Debug)]
struct Memory {
    limit: Option<u64>,
    /// Level of the limit.
    dir: PathBuf,
    is_v2: bool,
    usage: ProcFile,
    stat: ProcFile,
    failures: ProcFile,
    kills: Kills,
}

/// Kills for want of memory in the container's own group and those below it. Not at the level of the
/// limit: above the container there are its neighbours as well.
#[derive(Debug)]
struct Kills {
    dir: PathBuf,
    is_v2: bool,
    events: ProcFile,
    /// Version 1 counts in each group those of this group alone: what each below it had last.
    below: BTreeMap<PathBuf, u64>,
    /// All that were counted there, also in groups that are gone.
    n_below: u64,
    /// There are too many groups below it.
    is_cut: bool,
}

#[derive(Debug)]
struct Cpu {
    limit: Option<f64>,
    dir: PathBuf,
    is_v2: bool,
    stat: ProcFile,
    /// Version 1 counts the time in another hierarchy.
    usage: ProcFile,
}

#[derive(Debug)]
struct Pids {
    limit: u64,
    dir: PathBuf,
    current: ProcFile,
}

impl Groups {
    pub(crate) fn new(root: &Path) -> Self {
        let mut groups = Self {
            root: root.to_owned(),
            memory: None,
            cpu: None,
            pids: None,
            unified_dir: None,
            told: false,
            n_left_out: 0,
        };
        groups.refresh();
        groups
    }

    /// See [`super::container::Container::unified_dir`].
    pub(crate) fn unified_dir(&self) -> Option<PathBuf> {
        self.unified_dir.clone()
    }

    /// Looks where the container's groups are and what they allow. Cost: a dozen small files.
    pub(crate) fn refresh(&mut self) {
        if self.n_left_out > 0 {
            self.n_left_out -= 1;
            return;
        }
        let read = |path: &str| fs::read_to_string(self.root.join(path)).ok();
        let Some(mountinfo) = read("proc/self/mountinfo") else { return };
        let init = read("proc/1/cgroup");
        let texts = Texts { mountinfo: &mountinfo, init: init.as_deref() };
        let find = |controller| locate(texts, controller).map(|group| self.below_root(group));
        let unified = find(Controller::Unified).map(|group| {
            let is_inside = group.is_inside || group.dirs[0].join("cgroup.events").exists();
            Group { is_inside, ..group }
        });
        let v1 = |controller| find(controller).map(|group| (group, false));
        let v2 = || unified.clone().map(|group| (group, true));
        let memory = v1(Controller::Memory).or_else(v2);
        let cpu = v1(Controller::Cpu).or_else(v2);
        let pids = v1(Controller::Pids).or_else(v2);
        let cpus = v1(Controller::Cpuset).or_else(v2);
        let online = read("sys/devices/system/cpu/online");
        let n_allowed = cpus.and_then(|cpus| processors_allowed(&cpus.0, online.as_deref()?));
        let cpuacct = find(Controller::Cpuacct);

        let memory = memory.and_then(|(group, is_v2)| Memory::of(&group, is_v2));
        keep(&mut self.memory, memory, |old, new| {
            let is_same = old.dir == new.dir && old.kills.dir == new.kills.dir;
            old.limit = new.limit;
            is_same && old.is_v2 == new.is_v2
        });
        if let Some(memory) = &mut self.memory {
            memory.kills.refresh();
        }
        let cpu = cpu.and_then(|(group, v2)| Cpu::of(&group, cpuacct.as_ref(), v2, n_allowed));
        keep(&mut self.cpu, cpu, |old, new| {
            let is_same = old.dir == new.dir && old.is_v2 == new.is_v2;
            old.limit = new.limit;
            is_same
        });
        keep(&mut self.pids, pids.and_then(|(group, _)| Pids::of(&group)), |old, new| {
            old.limit = new.limit;
            old.dir == new.dir
        });
        self.unified_dir =
            unified.filter(|group| group.is_inside).map(|group| group.dirs[0].clone());
        if self.is_none() {
            self.n_left_out = N_LOOKS_LEFT_OUT;
        } else {
            self.tell();
        }
    }

    fn is_none(&self) -> bool {
        self.memory.is_none() && self.cpu.is_none() && self.pids.is_none()
    }

    /// True when this is certainly a container.
    pub(crate) fn is_container(&self) -> bool {
        !self.is_none() || self.unified_dir.is_some()
    }

    /// Says once what is taken for the limits of the machine.
    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            let memory = self.memory.as_ref();
            tracing::info!(
                dir = memory.map(|memory| memory.dir.display().to_string()),
                memory_bytes = memory.and_then(|memory| memory.limit),
                n_cpu = self.cpu.as_ref().and_then(|cpu| cpu.limit),
                n_pids = self.pids.as_ref().map(|pids| pids.limit),
                "this is a container: its own limits are those of the machine"
            );
        }
    }

    fn below_root(&self, group: Group) -> Group {
        let below = |dir: PathBuf| match dir.strip_prefix("/") {
            Ok(relative) => self.root.join(relative),
            Err(_) => self.root.join(&dir),
        };
        Group { dirs: group.dirs.into_iter().map(below).collect(), ..group }
    }

    /// What is used now; `None` on a machine that is no container.
    pub(crate) fn read(&mut self) -> Option<Reading> {
        let mut reading = Reading::default();
        if let Some(memory) = &mut self.memory {
            memory.read(&mut reading);
        }
        if let Some(cpu) = &mut self.cpu {
            cpu.read(&mut reading);
        }
        if let Some(pids) = &mut self.pids {
            reading.n_pids = pids.current.read_number();
            reading.pids_max = Some(pids.limit);
        }
        (reading != Reading::default()).then_some(reading)
    }
}

/// Takes `new` over; what is the same but for its limit keeps its open files.
fn keep<T>(slot: &mut Option<T>, new: Option<T>, take_limit: impl Fn(&mut T, &T) -> bool) {
    match (slot.as_mut(), new) {
        (Some(old), Some(new)) => {
            if !take_limit(old, &new) {
                *old = new;
            }
        }
        (_, new) => *slot = new,
    }
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// The level with the least limit, and the limit; the container's own where there is none.
fn strictest<T: PartialOrd + Copy>(
    group: &Group,
    limit_of: impl Fn(&Path) -> Option<T>,
) -> (&Path, Option<T>) {
    let mut found: (&Path, Option<T>) = (&group.dirs[0], None);
    for dir in &group.dirs {
        if let Some(limit) = limit_of(dir)
            && found.1.is_none_or(|least| limit < least)
        {
            found = (dir, Some(limit));
        }
    }
    found
}

impl Memory {
    /// `None` where nothing says that this is a container.
    fn of(group: &Group, is_v2: bool) -> Option<Self> {
        let (dir, limit) = strictest(group, |dir| {
            if is_v2 {
                // Above `high` the kernel takes back what it can and slows down who wants more.
                let limits = [number(dir, "memory.max"), number(dir, "memory.high")];
                return limits.into_iter().flatten().min();
            }
            number(dir, "memory.limit_in_bytes").filter(|bytes| *bytes < BYTES_UNLIMITED)
        });
        if limit.is_none() && !group.is_inside {
            return None;
        }
        let file = |v2: &str, v1: &str| ProcFile::optional(dir.join(if is_v2 { v2 } else { v1 }));
        Some(Self {
            limit,
            dir: dir.to_owned(),
            is_v2,
            usage: file("memory.current", "memory.usage_in_bytes"),
            stat: file("memory.stat", "memory.stat"),
            failures: file("memory.events", "memory.failcnt"),
            kills: Kills::new(&group.dirs[0], is_v2),
        })
    }

    fn read(&mut self, reading: &mut Reading) {
        let idle = if self.is_v2 { "inactive_file" } else { "total_inactive_file" };
        let usage = self.usage.read_number();
        let idle = self.stat.read().and_then(|text| counter(text, idle)).unwrap_or(0);
        reading.memory_limit = self.limit;
        reading.memory_used = usage.map(|bytes| bytes.saturating_sub(idle));
        reading.n_oom_kills = self.kills.read();
        reading.n_memory_failures = if self.is_v2 {
            self.failures.read().and_then(|text| counter(text, "max"))
        } else {
            self.failures.read_number()
        };
    }
}

impl Kills {
    fn new(dir: &Path, is_v2: bool) -> Self {
        let events = if is_v2 { "memory.events" } else { "memory.oom_control" };
        let mut kills = Self {
            dir: dir.to_owned(),
            is_v2,
            events: ProcFile::optional(dir.join(events)),
            below: BTreeMap::new(),
            n_below: 0,
            is_cut: false,
        };
        kills.refresh();
        kills
    }

    /// Looks which groups there are below.
    fn refresh(&mut self) {
        if self.is_v2 {
            return;
        }
        let groups = groups_below(&self.dir);
        self.is_cut = groups.len() > GROUPS_MAX;
        self.below.retain(|dir, _| groups.contains(dir));
        for dir in groups.into_iter().take(GROUPS_MAX) {
            self.below.entry(dir).or_insert(0);
        }
    }

    /// Version 1 has it from kernel 4.13 on. Cost there: a small file for each group.
    fn read(&mut self) -> Option<u64> {
        let n = self.events.read().and_then(|text| counter(text, "oom_kill"))?;
        for (dir, last) in &mut self.below {
            let text = fs::read_to_string(dir.join("memory.oom_control")).unwrap_or_default();
            let Some(now) = counter(&text, "oom_kill") else { continue };
            self.n_below = self.n_below.saturating_add(now.saturating_sub(*last));
            *last = now;
        }
        (!self.is_cut).then(|| n.saturating_add(self.n_below))
    }
}

/// All directories below one, at most one more than are looked at.
fn groups_below(dir: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if found.len() > GROUPS_MAX {
                return found;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                waiting.push(entry.path());
            }
        }
    }
    found
}

impl Cpu {
    /// `n_allowed`: processors the container may run on, where these are not all.
    fn of(
        group: &Group,
        cpuacct: Option<&Group>,
        is_v2: bool,
        n_allowed: Option<u64>,
    ) -> Option<Self> {
        let (dir, quota) = strictest(group, |dir| {
            if is_v2 {
                return parse_cpu_max(&fs::read_to_string(dir.join("cpu.max")).ok()?);
            }
            // -1, which is no limit, is no such number either.
            let quota = number(dir, "cpu.cfs_quota_us")?;
            let period = number(dir, "cpu.cfs_period_us").filter(|us| *us > 0)?;
            Some(quota as f64 / period as f64)
        });
        let allowed = n_allowed.map(|n| n as f64);
        let limit = match (quota, allowed) {
            (Some(quota), Some(allowed)) => Some(quota.min(allowed)),
            (quota, allowed) => quota.or(allowed),
        };
        if limit.is_none() && !group.is_inside {
            return None;
        }
        // Both hierarchies of version 1 are cut alike: the same level counts.
        let level = group.dirs.iter().position(|known| known == dir).unwrap_or(0);
        let usage_dir = if is_v2 {
            Some(dir)
        } else {
            cpuacct.and_then(|group| group.dirs.get(level).map(PathBuf::as_path))
        };
        let usage = usage_dir.unwrap_or(dir).join("cpuacct.usage");
        Some(Self {
            limit: limit.filter(|limit| *limit > 0.0),
            dir: dir.to_owned(),
            is_v2,
            stat: ProcFile::optional(dir.join("cpu.stat")),
            usage: ProcFile::optional(usage),
        })
    }

    fn read(&mut self, reading: &mut Reading) {
        reading.cpu_limit = self.limit;
        if !self.is_v2 {
            reading.cpu_ns = self.usage.read_number();
        }
        let Some(text) = self.stat.read() else { return };
        let number = |name| counter(text, name);
        if self.is_v2 {
            reading.cpu_ns = number("usage_usec").and_then(|us| us.checked_mul(1000));
            reading.throttled_ms = number("throttled_usec").map(|us| us / 1000);
        } else {
            reading.throttled_ms = number("throttled_time").map(|ns| ns / 1_000_000);
        }
        reading.n_periods = number("nr_periods");
        reading.n_throttled = number("nr_throttled");
    }
}

/// `150000 100000` are one and a half processors; `max 100000` is no limit.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

/// Processors of the container's own group, where these are fewer than the machine has.
fn processors_allowed(group: &Group, online: &str) -> Option<u64> {
    let names = ["cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"];
    let list = names.iter().find_map(|name| fs::read_to_string(group.dirs[0].join(name)).ok())?;
    let n = count_processors(&list)?;
    (n < count_processors(online)?).then_some(n)
}

impl Pids {
    fn of(group: &Group) -> Option<Self> {
        let (dir, limit) = strictest(group, |dir| number(dir, "pids.max"));
        let current = ProcFile::optional(dir.join("pids.current"));
        limit.map(|limit| Self { limit, dir: dir.to_owned(), current })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files as a kernel shows them to a container.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(mountinfo: &str, init: &str, files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            tree.write("proc/self/mountinfo", mountinfo);
            tree.write("proc/1/cgroup", init);
            tree.write("sys/devices/system/cpu/online", "0-3\n");
            for (path, text) in files {
                tree.write(&format!("sys/fs/cgroup/{path}"), text);
            }
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn read(&self) -> Option<Reading> {
            Groups::new(self.0.path()).read()
        }
    }

    const V2: &str = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    const V2_FILES: [(&str, &str); 9] = [
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("memory.max", "536870912\n"),
        ("memory.high", "max\n"),
        ("memory.current", "300000000\n"),
        ("memory.stat", "anon 100\nfile 250000000\ninactive_anon 5\ninactive_file 200000000\n"),
        ("memory.events", "low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("cpu.max", "150000 100000\n"),
        (
            "cpu.stat",
            "usage_usec 7000000\nuser_usec 5000000\nsystem_usec 2000000\nnr_periods 90\n\
             nr_throttled 9\nthrottled_usec 345678\n",
        ),
        ("pids.max", "max\n"),
    ];

    #[test]
    fn a_container_of_version_2_has_the_limits_of_its_visible_root() {
        let want = Reading {
            memory_limit: Some(536_870_912),
            memory_used: Some(100_000_000),
            n_oom_kills: Some(2),
            n_memory_failures: Some(41),
            cpu_limit: Some(1.5),
            cpu_ns: Some(7_000_000_000),
            n_periods: Some(90),
            n_throttled: Some(9),
            throttled_ms: Some(345),
            ..Reading::default()
        };
        let tree = Tree::new(V2, "0::/\n", &V2_FILES);
        assert_eq!(tree.read(), Some(want));
        let groups = Groups::new(tree.0.path());
        assert_eq!(groups.unified_dir(), Some(tree.0.path().join("sys/fs/cgroup")));
        // Its cpuset is stricter than its quota, and it may not start many processes.
        tree.write("sys/fs/cgroup/cpuset.cpus.effective", "2\n");
        tree.write("sys/fs/cgroup/pids.max", "100\n");
        tree.write("sys/fs/cgroup/pids.current", "25\n");
        let want = Reading { cpu_limit: Some(1.0), n_pids: Some(25), pids_max: Some(100), ..want };
        assert_eq!(tree.read(), Some(want));
    }

    #[test]
    fn the_limit_of_the_agents_own_unit_is_not_that_of_the_machine() {
        // The real root has no limits; the agent's unit has. Process 1 is not in the agent's unit.
        let unit = "sys/fs/cgroup/system.slice/gatewatch-agent.service";
        for init in ["0::/init.scope\n", "0::/\n"] {
            let tree = Tree::new(V2, init, &[("cpu.stat", "usage_usec 7000000\n")]);
            tree.write(&format!("{unit}/memory.max"), "167772160\n");
            tree.write("proc/self/cgroup", "0::/system.slice/gatewatch-agent.service\n");
            assert_eq!(tree.read(), None, "{init}");
            assert_eq!(Groups::new(tree.0.path()).unified_dir(), None);
        }
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/memory.usage_in_bytes", "300000000\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(Tree::new(V1, "4:memory:/\n3:cpu:/\n", &files).read(), None);
    }

    const V1: &str = "36 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        36 30 0:31 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n\
        37 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn a_container_of_version_1_is_read_through_its_own_directory() {
        let mountinfo = V1.replace(" / ", " /docker/4f2 ");
        let init = "4:memory:/docker/4f2\n3:cpuacct:/docker/4f2\n2:cpu:/docker/4f2\n";
        let files = [
            ("memory/memory.limit_in_bytes", "268435456\n"),
            ("memory/memory.usage_in_bytes", "200000000\n"),
            ("memory/memory.stat", "cache 9\ninactive_file 1\ntotal_inactive_file 50000000\n"),
            ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"),
            ("memory/memory.failcnt", "77\n"),
            ("cpu/cpu.cfs_quota_us", "50000\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("cpu/cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n"),
            ("cpuacct/cpuacct.usage", "8123456789\n"),
        ];
        let tree = Tree::new(&mountinfo, init, &files);
        let want = Reading {
            memory_limit: Some(268_435_456),
            memory_used: Some(150_000_000),
            n_oom_kills: Some(5),
            n_memory_failures: Some(77),
            cpu_limit: Some(0.5),
            cpu_ns: Some(8_123_456_789),
            n_periods: Some(10),
            n_throttled: Some(4),
            throttled_ms: Some(2500),
            ..Reading::default()
        };
        assert_eq!(tree.read(), Some(want));
        // EL7 does not count the kills; a limit that is taken away leaves the use.
        tree.write("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n");
        tree.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        tree.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        let want = Reading { memory_limit: None, n_oom_kills: None, cpu_limit: None, ..want };
        assert_eq!(tree.read(), Some(want));
    }

    #[test]
    fn the_strictest_level_above_a_container_is_in_force() {
        let init = "4:memory:/lxc/web-1\n";
        let files = [
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/lxc/memory.limit_in_bytes", "1000000\n"),
            ("memory/lxc/memory.usage_in_bytes", "900000\n"),
            ("memory/lxc/web-1/memory.limit_in_bytes", "2000000\n"),
            ("memory/lxc/web-1/memory.usage_in_bytes", "100000\n"),
        ];
        let reading = Tree::new(V1, init, &files).read().expect("it is limited");
        assert_eq!((reading.memory_limit, reading.memory_used), (Some(1_000_000), Some(900_000)));
    }

    #[test]
    fn kills_of_neighbours_do_not_count_and_those_in_groups_below_do() {
        let kills = |n: u32| format!("oom_kill_disable 0\nunder_oom 0\noom_kill {n}\n");
        let own = "sys/fs/cgroup/memory/lxc/web-1";
        let tree = Tree::new(
            V1,
            "4:memory:/lxc/web-1\n",
            &[
                // The limit in force is one that the neighbour has part in.
                ("memory/lxc/memory.limit_in_bytes", "1000000\n"),
                ("memory/lxc/memory.oom_control", &kills(50)),
                ("memory/lxc/web-2/memory.oom_control", &kills(50)),
                ("memory/lxc/web-1/memory.oom_control", &kills(1)),
            ],
        );
        let mut groups = Groups::new(tree.0.path());
        let mut check = |want: u64, why: &str| {
            groups.refresh();
            let n = groups.read().and_then(|reading| reading.n_oom_kills);
            assert_eq!(n, Some(want), "{why}");
        };
        check(1, "its own alone");
        tree.write(&format!("{own}/system.slice/php.service/memory.oom_control"), &kills(2));
        tree.write(&format!("{own}/system.slice/memory.oom_control"), &kills(0));
        check(3, "and below");
        tree.write(&format!("{own}/system.slice/php.service/memory.oom_control"), &kills(5));
        check(6, "more");
        fs::remove_dir_all(tree.0.path().join(own).join("system.slice")).unwrap();
        check(6, "what was counted stays when the group is gone");
        for ix in 0..=GROUPS_MAX {
            fs::create_dir(tree.0.path().join(own).join(ix.to_string())).unwrap();
        }
        groups.refresh();
        assert_eq!(groups.read().and_then(|reading| reading.n_oom_kills), None, "too many");
    }

    #[test]
    fn a_limit_that_is_changed_is_followed_without_opening_anything_again() {
        let tree = Tree::new(V2, "0::/\n", &V2_FILES);
        let mut groups = Groups::new(tree.0.path());
        assert_eq!(groups.read().and_then(|r| r.memory_limit), Some(536_870_912));
        tree.write("sys/fs/cgroup/memory.high", "400000000\n");
        tree.write("sys/fs/cgroup/cpu.max", "max 100000\n");
        groups.refresh();
        let reading = groups.read().expect("still a container");
        assert_eq!((reading.memory_limit, reading.cpu_limit), (Some(400_000_000), None));
        for hostile in ["", "max", "-5", "99999999999999999999999", "1\u{0}2"] {
            for name in ["memory.max", "memory.high", "cpu.max", "pids.max", "cpu.stat"] {
                tree.write(&format!("sys/fs/cgroup/{name}"), hostile);
            }
            groups.refresh();
            assert_eq!(groups.read().and_then(|r| r.memory_limit), None, "{hostile:?}");
        }
    }
}
