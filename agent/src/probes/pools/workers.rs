//! Which workers are whose: the title of a worker names its pool, its master tells which of several
//! pools of that name, and whether it is one of this machine's at all (a container's are seen too).

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::discover::Pool;
use crate::probes::walk::{Sum, Worker};

/// The workers of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Staff {
    /// How many live.
    pub(super) n: u32,
    /// Of how many the memory is known.
    pub(super) n_known: u32,
    /// Resident memory that they do not share.
    pub(super) own_bytes: u64,
    /// The largest of them.
    pub(super) own_bytes_max: u64,
    /// What they used since the last walk.
    pub(super) sum: Sum,
}

/// What is known of this machine's masters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    /// Prefix of discovery; below another one than `/` only what is configured there counts.
    pub(super) root: &'a Path,
    /// Configuration files that discovery has read.
    pub(super) config_files: &'a [PathBuf],
}

/// The workers of each pool; those of no pool are left out. `None` = some may be its own, and it cannot
/// be told.
pub(super) fn staff(pools: &[&Pool], workers: &[Worker], here: Here<'_>) -> Vec<Option<Staff>> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (ix, pool) in pools.iter().enumerate() {
        by_name.entry(&pool.name).or_default().push(ix);
    }
    let mut masters = BTreeMap::<(&str, Option<u32>), Master>::new();
    let mut staffs = vec![Some(Staff::default()); pools.len()];
    let mut is_doubtful = vec![false; pools.len()];
    for worker in workers {
        let Some(candidates) = by_name.get(&*worker.pool) else { continue };
        let Some(conf) = worker.conf.as_deref() else {
            // Its master is gone or hidden, or there is none: anybody may give a process such a title.
            for ix in candidates {
                is_doubtful[*ix] = true;
            }
            continue;
        };
        let uid = worker.master_uid;
        let path = Path::new(conf);
        let master = *masters.entry((conf, uid)).or_insert_with(|| here.master(path, uid));
        match &which(pools, candidates, path, master)[..] {
            [ix] => {
                if let Some(staff) = &mut staffs[*ix] {
                    staff.add(worker);
                }
            }
            several => several.iter().for_each(|ix| staffs[*ix] = None),
        }
    }
    for (staff, is_doubtful) in staffs.iter_mut().zip(is_doubtful) {
        staff.take_if(|staff| is_doubtful && staff.n == 0);
    }
    staffs
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Master {
    /// Its configuration is one of those that discovery reads.
    Read,
    /// There is such a file: it may be one that could not be read.
    There,
    /// Another container's, or started by somebody on his own.
    Foreign,
}

/// Users below this are the system's.
const USERS_FROM: u32 = 1000;

impl Here<'_> {
    fn master(&self, conf: &Path, uid: Option<u32>) -> Master {
        let Some(uid) = uid else { return Master::Foreign };
        let meta = conf.metadata();
        // Any user may run what calls itself a master of any configuration; one of his own is his own.
        let is_own = uid < USERS_FROM
            || uid == rustix::process::geteuid().as_raw()
            || meta.as_ref().is_ok_and(|meta| meta.uid() == uid);
        if !is_own {
            return Master::Foreign;
        }
        if self.root != Path::new("/") {
            return if conf.starts_with(self.root) { Master::Read } else { Master::Foreign };
        }
        if self.config_files.iter().any(|file| file == conf) {
            return Master::Read;
        }
        match meta {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Master::Foreign,
            _ => Master::There,
        }
    }
}

impl Staff {
    fn add(&mut self, worker: &Worker) {
        self.n += 1;
        self.sum.add(&worker.sum);
        if let Some(own_bytes) = worker.own_bytes {
            self.n_known += 1;
            self.own_bytes = self.own_bytes.saturating_add(own_bytes);
            self.own_bytes_max = self.own_bytes_max.max(own_bytes);
        }
    }
}

/// Of the pools of a name the one whose file is nearest to the master's; several when these are as near.
/// A master whose configuration could not be read has pools beside or below it only.
fn which(pools: &[&Pool], candidates: &[usize], conf: &Path, master: Master) -> Vec<usize> {
    let file = |ix: usize| {
        let source = &pools[ix].source;
        Path::new(source.rsplit_once(':').map_or(source.as_str(), |(file, _)| file))
    };
    let may_be = |ix: &usize| match master {
        Master::Read => true,
        Master::There => conf.parent().is_some_and(|folder| file(*ix).starts_with(folder)),
        Master::Foreign => false,
    };
    let nearness = |ix: usize| {
        conf.components().zip(file(ix).components()).take_while(|(a, b)| a == b).count()
    };
    let near: Vec<_> =
        candidates.iter().copied().filter(may_be).map(|ix| (nearness(ix), ix)).collect();
    let best = near.iter().map(|(n, _)| *n).max();
    near.into_iter().filter(|(n, _)| Some(*n) == best).map(|(_, ix)| ix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, source: &str) -> Pool {
        Pool { name: name.into(), source: source.into(), ..Pool::default() }
    }

    fn worker(pool: &str, conf: Option<&str>, own_bytes: Option<u64>) -> Worker {
        let sum = Sum { ticks: 1, rss_bytes: 100, io_bytes: 0 };
        let master_uid = conf.map(|_| 0);
        Worker { pool: pool.into(), conf: conf.map(Into::into), master_uid, sum, own_bytes }
    }

    #[test]
    fn workers_are_counted_for_the_pool_of_their_own_master() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path.display().to_string()
        };
        let old = write("etc/php/7.4/fpm/php-fpm.conf");
        let new = write("etc/php/8.2/fpm/php-fpm.conf");
        let panel = write("usr/local/php/etc/php-fpm.conf");
        let stranger = write("tmp/php-fpm.conf");
        let below = |path: &str| dir.path().join(path).display().to_string();
        let pools = [
            pool("www", &below("etc/php/7.4/fpm/pool.d/www.conf:4")),
            pool("www", &below("etc/php/8.2/fpm/pool.d/www.conf:4")),
            pool("shop", &below("users/shop/php-fpm.conf:1")),
        ];
        let pools: Vec<&Pool> = pools.iter().collect();
        let workers = [
            worker("www", Some(&old), Some(10)),
            worker("www", Some(&new), Some(20)),
            worker("www", Some(&new), Some(40)),
            worker("www", None, Some(80)),
            worker("www", Some(&stranger), Some(80)),
            worker("shop", Some(&panel), None),
            worker("shop", Some("/no/such/php-fpm.conf"), Some(99)),
            worker("unknown", Some(&new), Some(99)),
        ];
        let check = |root: &Path, config_files: &[PathBuf], want: [Option<(u32, u64, u64)>; 3]| {
            let staffs = staff(&pools, &workers, Here { root, config_files });
            let got = staffs.iter().map(|staff| staff.map(|s| (s.n, s.own_bytes, s.own_bytes_max)));
            assert_eq!(got.collect::<Vec<_>>(), want, "below {}", root.display());
        };
        let read = [PathBuf::from(&new), PathBuf::from(&panel)];
        let (of_old, of_new, none) = (Some((1, 10, 10)), Some((2, 60, 40)), Some((0, 0, 0)));
        check(Path::new("/"), &read, [of_old, of_new, Some((1, 0, 0))]);
        check(Path::new("/"), &[], [of_old, of_new, none]);
        check(&dir.path().join("etc"), &[], [of_old, of_new, none]);
        // One worker's master is not known: whether it is one of theirs cannot be told.
        check(Path::new("/elsewhere"), &[], [None, None, none]);
    }

    #[test]
    fn workers_that_cannot_be_told_apart_are_absent_and_not_zero() {
        let pools = [pool("www", "/srv/a/www.conf:1"), pool("www", "/srv/b/www.conf:1")];
        let pools: Vec<&Pool> = pools.iter().collect();
        let read = [PathBuf::from("/srv/php-fpm.conf")];
        let here = Here { root: Path::new("/"), config_files: &read };
        let check = |workers: &[Worker], want: [Option<u32>; 2]| {
            let staffs = staff(&pools, workers, here);
            let got: Vec<_> = staffs.iter().map(|staff| staff.map(|staff| staff.n)).collect();
            assert_eq!(got, want, "{workers:?}");
        };
        check(&[], [Some(0), Some(0)]);
        check(&[worker("www", Some("/srv/php-fpm.conf"), None)], [None, None]);
        check(&[worker("www", None, None)], [None, None]);
        check(&[worker("other", None, None)], [Some(0), Some(0)]);
    }

    #[test]
    fn a_master_that_an_ordinary_user_made_up_counts_for_nobody() {
        let pools = [pool("www", "/etc/php/8.2/fpm/pool.d/www.conf:4")];
        let conf = Path::new("/etc/php/8.2/fpm/php-fpm.conf");
        let read = [conf.to_owned()];
        let here = Here { root: Path::new("/"), config_files: &read };
        let check = |uid: Option<u32>, n| {
            let made_up = Worker { master_uid: uid, ..worker("www", conf.to_str(), Some(1 << 40)) };
            let staffs = staff(&[&pools[0]], &[made_up], here);
            assert_eq!(staffs[0].map(|staff| staff.n), Some(n), "{uid:?}");
        };
        check(Some(0), 1);
        check(Some(33), 1);
        check(Some(rustix::process::geteuid().as_raw()), 1);
        check(Some(54_321), 0);
        check(None, 0);
        // Whose configuration it is may run it.
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("php-fpm.conf");
        std::fs::write(&own, "").unwrap();
        let uid = if rustix::process::geteuid().is_root() {
            54_321
        } else {
            own.metadata().unwrap().uid()
        };
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&own, Some(uid), None).unwrap();
        }
        assert_eq!(here.master(&own, Some(uid)), Master::There);
        assert_eq!(here.master(&own, Some(uid + 1)), Master::Foreign);
    }
}
