//! Where the control group of the container is that this machine is, if it is one. Pure.
//!
//! The control group that counts is that of the container's first process, as far as the mounted
//! tree shows it, and not the agent's own: under systemd the agent has a limit of its own, which says
//! nothing about the machine. Of a machine that is none, process 1 is at the root of the tree, and
//! the real root has no limits.
//!
//! Version 1 has a hierarchy per controller, version 2 one for all, and a hybrid both.

use std::path::{Component, Path, PathBuf};

use super::disk::unescape;

/// Levels looked at above the container's group; deeper trees are nobody's.
const LEVELS_MAX: usize = 16;

/// A controller that limits or counts something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    /// All of version 2.
    Unified,
    Memory,
    Cpu,
    Cpuacct,
    Cpuset,
    Pids,
}

impl Controller {
    /// Its name in version 1.
    fn name(self) -> &'static str {
        match self {
            Self::Unified => "",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
        }
    }
}

/// The container's group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Directories from the container's own group up to the top that can be seen. Never empty.
    pub(crate) dirs: Vec<PathBuf>,
    /// The paths say that this is not the root of the hierarchy. False may still be a container in
    /// a namespace of its own, in which everything seems to be at the root.
    pub(crate) is_inside: bool,
}

/// The texts that tell: /proc/self/mountinfo and /proc/1/cgroup.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'t> {
    pub(crate) mountinfo: &'t str,
    /// `None` where another user's processes are hidden.
    pub(crate) init: Option<&'t str>,
}

/// The group of a controller; `None` when its hierarchy is not mounted, or process 1 is not in what
/// can be seen of it (an agent in a container that watches the machine around it).
pub(crate) fn locate(texts: Texts<'_>, controller: Controller) -> Option<Group> {
    let (root, mount) = mounted(texts.mountinfo, controller)?;
    let path = match texts.init {
        Some(init) => above_init(member_of(init, controller)?),
        None => root.as_str(),
    };
    // Paths out of a namespace's tree begin with `/..`: nothing is known about what they lead to.
    let leads_out = |path: &str| Path::new(path).components().any(|c| c == Component::ParentDir);
    if leads_out(path) || leads_out(&root) {
        return None;
    }
    let below = Path::new(path).strip_prefix(&root).ok()?;
    let own = mount.join(below);
    let n_levels = below.components().count().min(LEVELS_MAX) + 1;
    let dirs = own.ancestors().take(n_levels).map(Path::to_owned).collect();
    Some(Group { dirs, is_inside: path != "/" })
}

/// What of the hierarchy is mounted, and where: the first mount that has the controller.
///
/// `35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory`
fn mounted(mountinfo: &str, controller: Controller) -> Option<(String, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (filesystem, options) = (right.next()?, right.nth(1)?);
        let is_it = match controller {
            Controller::Unified => filesystem == "cgroup2",
            v1 => filesystem == "cgroup" && options.split(',').any(|word| word == v1.name()),
        };
        let mut left = left.split(' ').skip(3);
        let (root, mount) = (left.next()?, left.next()?);
        is_it.then(|| (unescape(root), PathBuf::from(unescape(mount))))
    })
}

/// Path of a process in the hierarchy of a controller: `4:cpu,cpuacct:/lxc/web`, `0::/`.
fn member_of(cgroup: &str, controller: Controller) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = match controller {
            Controller::Unified => number == "0" && controllers.is_empty(),
            v1 => controllers.split(',').any(|name| name == v1.name()),
        };
        is_it.then_some(path)
    })
}

/// The group of the machine: systemd puts itself into a child of it.
fn above_init(path: &str) -> &str {
    match path.strip_suffix("/init.scope").unwrap_or(path) {
        "" => "/",
        above => above,
    }
}

/// How many processors a list such as `0-3,8` names; `None` when it is empty or no list.
pub(crate) fn count_processors(list: &str) -> Option<u64> {
    let mut n = 0_u64;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        n = n.saturating_add(last.checked_sub(first)?.saturating_add(1));
    }
    Some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `want`: the directories, and whether the paths say that it is a container.
    fn check(mountinfo: &str, init: Option<&str>, of: Controller, want: Option<(&[&str], bool)>) {
        let group = locate(Texts { mountinfo, init }, of);
        let want = want.map(|(dirs, is_inside)| Group {
            dirs: dirs.iter().map(PathBuf::from).collect(),
            is_inside,
        });
        assert_eq!(group, want, "{of:?} of {init:?} in {mountinfo}");
    }

    const V2: &str = "24 30 0:22 / /sys rw - sysfs sysfs rw\n\
        35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "30 24 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
        33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        36 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        37 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        38 30 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";

    #[test]
    fn a_machine_is_at_the_root_whatever_its_first_process_does() {
        let root: Option<(&[&str], bool)> = Some((&["/sys/fs/cgroup"], false));
        check(V2, Some("0::/init.scope\n"), Controller::Unified, root);
        check(V2, Some("0::/\n"), Controller::Unified, root);
        check(V2, None, Controller::Unified, root);
        // EL7 and EL8: systemd is in a scope of its own, in some hierarchies.
        let el7 = "11:memory:/\n9:pids:/init.scope\n5:cpuacct,cpu:/\n1:name=systemd:/init.scope\n";
        check(V1, Some(el7), Controller::Memory, Some((&["/sys/fs/cgroup/memory"], false)));
        check(V1, Some(el7), Controller::Pids, Some((&["/sys/fs/cgroup/pids"], false)));
        check(V1, Some(el7), Controller::Cpu, Some((&["/sys/fs/cgroup/cpu,cpuacct"], false)));
        check(V1, Some(el7), Controller::Cpuset, None);
        check(V1, Some(el7), Controller::Unified, None);
        check("", Some(el7), Controller::Memory, None);
    }

    #[test]
    fn a_container_is_found_with_and_without_a_namespace_of_its_own() {
        // Docker with version 2: a namespace of its own, so everything seems to be at the root.
        check(V2, Some("0::/\n"), Controller::Unified, Some((&["/sys/fs/cgroup"], false)));
        // Docker with version 1: the container's part of each hierarchy is mounted.
        let docker = "40 30 0:32 /docker/4f2 /sys/fs/cgroup/memory ro - cgroup cgroup ro,memory\n";
        let init = "4:memory:/docker/4f2\n1:name=systemd:/docker/4f2\n0::/system.slice/docker\n";
        let own: Option<(&[&str], bool)> = Some((&["/sys/fs/cgroup/memory"], true));
        check(docker, Some(init), Controller::Memory, own);
        check(docker, None, Controller::Memory, own);
        // With systemd inside.
        let init = "4:memory:/docker/4f2/init.scope\n";
        check(docker, Some(init), Controller::Memory, own);
        // LXC of old: the whole tree is mounted, and the path tells where in it.
        let init = "8:memory:/lxc/web-1\n5:cpuacct,cpu:/lxc/web-1\n";
        let dirs: &[&str] = &[
            "/sys/fs/cgroup/memory/lxc/web-1",
            "/sys/fs/cgroup/memory/lxc",
            "/sys/fs/cgroup/memory",
        ];
        check(V1, Some(init), Controller::Memory, Some((dirs, true)));
        // A pod: the mount is above the container.
        let pod = "9 1 0:9 /kubepods/pod7 /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let dirs: &[&str] = &["/sys/fs/cgroup/c1", "/sys/fs/cgroup"];
        check(pod, Some("0::/kubepods/pod7/c1\n"), Controller::Unified, Some((dirs, true)));
    }

    #[test]
    fn what_lies_outside_of_the_visible_tree_is_left_alone() {
        // An agent in a container that shares the processes of the machine around it.
        check(V2, Some("0::/../../init.scope\n"), Controller::Unified, None);
        let docker = "40 30 0:32 /docker/4f2 /sys/fs/cgroup/memory ro - cgroup cgroup ro,memory\n";
        check(docker, Some("4:memory:/\n"), Controller::Memory, None);
        check(docker, Some("4:memory:/docker/4f2x\n"), Controller::Memory, None);
        // A tree mounted before the namespace was made.
        let above = "9 1 0:9 /../.. /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        check(above, Some("0::/\n"), Controller::Unified, None);
        check(above, None, Controller::Unified, None);
    }

    #[test]
    fn hostile_texts_give_nothing() {
        for text in ["", "\n", " - ", "1 2 3 4 5 - cgroup2", "x - cgroup2 y z", "::::\n:\n"] {
            check(text, Some(text), Controller::Unified, None);
            check(text, None, Controller::Memory, None);
        }
        let deep = format!("0::/{}\n", "a/".repeat(5000));
        let group = locate(Texts { mountinfo: V2, init: Some(&deep) }, Controller::Unified);
        assert_eq!(group.expect("a path is a path").dirs.len(), LEVELS_MAX + 1);
        check(V2, Some("0::/a/../../etc\n"), Controller::Unified, None);
    }

    #[test]
    fn processors_of_a_list_are_counted() {
        let check = |list: &str, want| assert_eq!(count_processors(list), want, "{list:?}");
        check("0-3,8\n", Some(5));
        check("0\n", Some(1));
        check("\n", None);
        check("3-1", None);
        check("0-18446744073709551615,0-18446744073709551615", Some(u64::MAX));
        check("a-b", None);
    }
}
