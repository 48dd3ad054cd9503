//! Which workers are whose: the title of a worker names its pool, its master tells which of several
//! pools of that name, and whether it is one of this machine's at all (a container's are seen too).

use std::collections::BTreeMap;
use std::io;
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

/// The workers of each pool; those of no pool are left out.
pub(super) fn staff(pools: &[&Pool], workers: &[Worker], here: Here<'_>) -> Vec<Staff> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (ix, pool) in pools.iter().enumerate() {
        by_name.entry(&pool.name).or_default().push(ix);
    }
    let mut masters = BTreeMap::<&str, Master>::new();
    let mut staffs = vec![Staff::default(); pools.len()];
    for worker in workers {
        let Some(candidates) = by_name.get(&*worker.pool) else { continue };
        // Anybody may give a process such a title; a worker has a master.
        let Some(conf) = worker.conf.as_deref() else { continue };
        let master = *masters.entry(conf).or_insert_with(|| here.master(Path::new(conf)));
        if let Some(ix) = which(pools, candidates, Path::new(conf), master) {
            staffs[ix].add(worker);
        }
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

impl Here<'_> {
    fn master(&self, conf: &Path) -> Master {
        if self.root != Path::new("/") {
            return if conf.starts_with(self.root) { Master::Read } else { Master::Foreign };
        }
        if self.config_files.iter().any(|file| file == conf) {
            return Master::Read;
        }
        match conf.metadata() {
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

/// Of the pools of a name the one whose file is nearest to the master's; none when two are. A master
/// whose configuration could not be read has pools beside or below it only.
fn which(pools: &[&Pool], candidates: &[usize], conf: &Path, master: Master) -> Option<usize> {
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
    let (best, found) = near.iter().copied().max()?;
    (near.iter().filter(|(n, _)| *n == best).count() == 1).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, source: &str) -> Pool {
        Pool { name: name.into(), source: source.into(), ..Pool::default() }
    }

    fn worker(pool: &str, conf: Option<&str>, own_bytes: Option<u64>) -> Worker {
        let sum = Sum { ticks: 1, rss_bytes: 100, io_bytes: 0 };
        Worker { pool: pool.into(), conf: conf.map(Into::into), sum, own_bytes }
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
        let check = |root: &Path, config_files: &[PathBuf], want: [(u32, u64, u64); 3]| {
            let staffs = staff(&pools, &workers, Here { root, config_files });
            let got = staffs.iter().map(|s| (s.n, s.own_bytes, s.own_bytes_max));
            assert_eq!(got.collect::<Vec<_>>(), want, "below {}", root.display());
        };
        let read = [PathBuf::from(&new), PathBuf::from(&panel)];
        check(Path::new("/"), &read, [(1, 10, 10), (2, 60, 40), (1, 0, 0)]);
        check(Path::new("/"), &[], [(1, 10, 10), (2, 60, 40), (0, 0, 0)]);
        check(&dir.path().join("etc"), &[], [(1, 10, 10), (2, 60, 40), (0, 0, 0)]);
        check(Path::new("/elsewhere"), &[], [(0, 0, 0); 3]);
    }
}
