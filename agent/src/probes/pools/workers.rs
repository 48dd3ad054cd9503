//! Which workers are whose: the title of a worker names its pool, its master tells which of several
//! pools of that name, and whether it is one of this machine's at all (a container's are seen too).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

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

/// The workers of each pool; those of no pool are left out.
pub(super) fn staff(pools: &[&Pool], workers: &[Worker], root: &Path) -> Vec<Staff> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (ix, pool) in pools.iter().enumerate() {
        by_name.entry(&pool.name).or_default().push(ix);
    }
    let mut is_own = BTreeMap::<&str, bool>::new();
    let mut staffs = vec![Staff::default(); pools.len()];
    for worker in workers {
        let Some(candidates) = by_name.get(&*worker.pool) else { continue };
        let conf = worker.conf.as_deref();
        let is_here = match conf {
            Some(conf) => *is_own.entry(conf).or_insert_with(|| is_below(root, conf)),
            None => root == Path::new("/"),
        };
        if !is_here {
            continue;
        }
        if let Some(ix) = which(pools, candidates, conf) {
            staffs[ix].add(worker);
        }
    }
    staffs
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

/// Whether a master's configuration is one of what is watched: below another root than `/` by its
/// path; else a file that is not there is another machine's, seen through a shared list of processes.
fn is_below(root: &Path, conf: &str) -> bool {
    if root != Path::new("/") {
        return Path::new(conf).starts_with(root);
    }
    !matches!(Path::new(conf).metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Of several pools of a name the one whose file is nearest to the master's; none when two are.
fn which(pools: &[&Pool], candidates: &[usize], conf: Option<&str>) -> Option<usize> {
    if let [only] = candidates {
        return Some(*only);
    }
    let conf = Path::new(conf?);
    let nearness = |ix: &usize| {
        let source = &pools[*ix].source;
        let file = source.rsplit_once(':').map_or(source.as_str(), |(file, _)| file);
        let pairs = conf.components().zip(Path::new(file).components());
        pairs.take_while(|(a, b)| a == b).count()
    };
    let best = candidates.iter().map(nearness).max()?;
    let mut nearest = candidates.iter().filter(|ix| nearness(ix) == best);
    let found = nearest.next().copied();
    if nearest.next().is_some() { None } else { found }
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
        let conf = |version: &str| {
            let folder = dir.path().join("etc/php").join(version).join("fpm");
            std::fs::create_dir_all(folder.join("pool.d")).unwrap();
            let conf = folder.join("php-fpm.conf");
            std::fs::write(&conf, "").unwrap();
            (conf.display().to_string(), folder.join("pool.d/www.conf:4").display().to_string())
        };
        let ((old, old_pool), (new, new_pool)) = (conf("7.4"), conf("8.2"));
        let pools = [pool("www", &old_pool), pool("www", &new_pool), pool("shop", &new_pool)];
        let pools: Vec<&Pool> = pools.iter().collect();
        let workers = [
            worker("www", Some(&old), Some(10)),
            worker("www", Some(&new), Some(20)),
            worker("www", Some(&new), Some(40)),
            worker("www", None, Some(80)),
            worker("shop", None, None),
            worker("shop", Some("/no/such/php-fpm.conf"), Some(99)),
            worker("stranger", Some(&new), Some(99)),
        ];
        let check = |root: &Path, want: [(u32, u64, u64); 3]| {
            let staffs = staff(&pools, &workers, root);
            let got = staffs.iter().map(|s| (s.n, s.own_bytes, s.own_bytes_max));
            assert_eq!(got.collect::<Vec<_>>(), want, "below {}", root.display());
        };
        check(Path::new("/"), [(1, 10, 10), (2, 60, 40), (1, 0, 0)]);
        check(dir.path(), [(1, 10, 10), (2, 60, 40), (0, 0, 0)]);
        check(Path::new("/elsewhere"), [(0, 0, 0); 3]);
    }
}
