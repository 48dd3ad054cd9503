//! Workers of a main process, watched for a reload: another generation under the same master.
//!
//! nginx and Apache start new workers and let the old ones finish. PHP-FPM and HAProxy execute themselves
//! anew, and of a master only its page faults tell every user so. Workers that all died or were replaced one
//! by one look the same; the page faults of a master that reads its configuration tell these apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::find::parse_stat;
use super::read::read_cmdline;
use crate::probes::services::is_php_fpm;

/// Children looked at; a pool of more workers is watched by its first.
const CHILDREN_MAX: usize = 1024;
/// Looks that an old generation may take to finish.
const LOOKS_MAX: u32 = 10;
/// Page faults of a program that starts anew; those of a fork are some 12, measured with PHP-FPM 8.2 at
/// 2,513 and 70 for six workers.
const FAULTS_OF_START: u64 = 500;
const FAULTS_PER_WORKER: u64 = 40;
/// The same of nginx that reads its configuration again: 72 with two new workers, 25 without.
const FAULTS_OF_CONFIG: u64 = 24;
const FAULTS_PER_FORK: u64 = 13;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Masters that fork a new generation, and whose workers have titles.
    Nginx,
    Apache,
    /// Masters that execute themselves anew.
    PhpFpm,
    Haproxy,
}

fn kind(name: &str) -> Option<Kind> {
    let name = name.trim_end_matches(".service");
    let starts = |words: &[&str]| words.iter().any(|word| name.starts_with(word));
    if starts(&["nginx", "angie", "openresty"]) {
        Some(Kind::Nginx)
    } else if starts(&["apache2", "httpd"]) {
        Some(Kind::Apache)
    } else if is_php_fpm(name) || name.contains("php") && name.contains("fpm") {
        Some(Kind::PhpFpm)
    } else if starts(&["haproxy"]) {
        Some(Kind::Haproxy)
    } else {
        None
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) pid: u32,
    kind: Option<Kind>,
    /// The generation that is compared with.
    base: BTreeSet<u32>,
    last: BTreeSet<u32>,
    /// Workers of the last look, and how many others were seen to come since `base` was taken.
    seen: BTreeSet<u32>,
    n_forks: u64,
    n_faults: Option<u64>,
    /// Page faults since `base` was taken, and looks.
    n_more: u64,
    n_looks: u32,
    /// Looks at which nothing had changed.
    n_quiet: u32,
}

impl Workers {
    /// `name` is that of the process or its unit.
    pub(crate) fn new(pid: u32, name: &str) -> Self {
        Self {
            pid,
            kind: kind(name),
            base: BTreeSet::new(),
            last: BTreeSet::new(),
            seen: BTreeSet::new(),
            n_forks: 0,
            n_faults: None,
            n_more: 0,
            n_looks: 0,
            n_quiet: 0,
        }
    }

    /// True for the names of servers whose reload shows in their workers.
    pub(crate) fn tell_reloads(name: &str) -> bool {
        kind(name).is_some()
    }

    /// True when the server was reloaded since the last look. Reads two small files of /proc.
    pub(crate) fn look(&mut self, proc: &Path) -> bool {
        let (Some(kind), Some(children)) = (self.kind, children(proc, self.pid)) else {
            return false;
        };
        let stat = fs::read(proc.join(format!("{}/stat", self.pid))).unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let Some(n_faults) = parse_stat(&stat).and_then(|stat| stat.n_faults) else { return false };
        let is_changed = children != self.last;
        self.last.clone_from(&children);
        let is_worker = |pid: &u32| {
            kind != Kind::Nginx
                || read_cmdline(&proc.join(format!("{pid}/cmdline"))) == "nginx: worker process"
        };
        let workers =
            if is_changed { children.into_iter().filter(is_worker).collect() } else { children };
        self.fold(kind, workers, n_faults, is_changed)
    }

    fn fold(
        &mut self,
        kind: Kind,
        workers: BTreeSet<u32>,
        n_faults: u64,
        is_changed: bool,
    ) -> bool {
        let Some(before) = self.n_faults.replace(n_faults) else {
            self.seen.clone_from(&workers);
            self.base = workers;
            return false;
        };
        self.n_forks += workers.difference(&self.seen).count() as u64;
        self.seen.clone_from(&workers);
        self.n_more = self.n_more.saturating_add(n_faults.saturating_sub(before));
        if !is_changed && self.n_looks == 0 {
            // Apache reads its configuration a second before its workers change. A master that works by
            // itself has page faults as well, which in time are forgotten.
            self.n_quiet += 1;
            if self.n_quiet >= LOOKS_MAX {
                (self.n_more, self.n_quiet) = (0, 0);
            }
            return false;
        }
        self.n_quiet = 0;
        let n_fresh = workers.difference(&self.base).count() as u64;
        let n_left = workers.intersection(&self.base).count();
        let n_base = self.base.len();
        let anew = self.n_more >= FAULTS_OF_START + FAULTS_PER_WORKER * n_fresh;
        let is_reload = match kind {
            Kind::PhpFpm => anew && n_left == 0 && n_fresh > 0,
            // The old worker stays until its last connection ends.
            Kind::Haproxy => anew && n_fresh > 0,
            Kind::Nginx | Kind::Apache => {
                let read = self.n_more >= FAULTS_OF_CONFIG + FAULTS_PER_FORK * self.n_forks;
                n_left == 0 && n_fresh > 0 && n_base > 0 && read
            }
        };
        self.n_looks += 1;
        // While both generations are there, there are more of them; one that died was replaced.
        let goes_on = n_fresh > 0 && workers.len() > n_base || workers.is_empty();
        if is_reload || !goes_on || self.n_looks >= LOOKS_MAX {
            self.base = workers;
            (self.n_more, self.n_looks, self.n_forks) = (0, 0, 0);
        }
        is_reload
    }
}

/// Direct children; `None` where the kernel does not list them (`CONFIG_PROC_CHILDREN`).
fn children(proc: &Path, pid: u32) -> Option<BTreeSet<u32>> {
    let text = fs::read_to_string(proc.join(format!("{pid}/task/{pid}/children"))).ok()?;
    Some(
        text.split_ascii_whitespace()
            .filter_map(|word| word.parse().ok())
            .take(CHILDREN_MAX)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks: workers, and page faults of the master since it started.
    fn check(kind: Kind, looks: &[(&[u32], u64)], want: u32) {
        let mut workers = Workers::new(1, "nginx");
        let mut last = BTreeSet::new();
        let mut n_reloads = 0;
        for (pids, n_faults) in looks {
            let now: BTreeSet<u32> = pids.iter().copied().collect();
            let is_changed = std::mem::replace(&mut last, now.clone()) != now;
            n_reloads += u32::from(workers.fold(kind, now, *n_faults, is_changed));
        }
        assert_eq!(n_reloads, want, "{kind:?} {looks:?}");
    }

    #[test]
    fn another_generation_is_a_reload_and_a_worker_that_died_is_none() {
        let nginx = |looks: &[(&[u32], u64)], want| check(Kind::Nginx, looks, want);
        nginx(&[(&[2, 3], 440), (&[2, 3], 440), (&[4, 5], 512), (&[4, 5], 512)], 1);
        nginx(&[(&[2, 3], 440), (&[2, 3, 4, 5], 510), (&[4, 5], 512), (&[4, 5], 512)], 1);
        nginx(&[(&[2, 3], 440), (&[3, 4], 452), (&[3, 4], 452), (&[4, 5], 464)], 0);
        nginx(&[(&[2], 440), (&[3], 500)], 1);
        nginx(&[(&[2], 440), (&[3], 453)], 0);
        nginx(&[(&[2], 440), (&[], 440), (&[3], 453)], 0);
        nginx(&[(&[2, 3], 440), (&[4, 5], 512), (&[6, 7], 584)], 2);
        nginx(&[], 0);
        check(Kind::Apache, &[(&[2, 3], 900), (&[4, 5], 990)], 1);
        check(Kind::Apache, &[(&[2, 3], 900), (&[2, 3, 4], 912), (&[2, 4], 912)], 0);
        check(Kind::Apache, &[(&[2], 900), (&[2], 950), (&[3], 958)], 1);
        check(Kind::Apache, &[(&[2], 900), (&[2], 902), (&[3], 914)], 0);
        let mut long_ago: Vec<(&[u32], u64)> = vec![(&[2], 900), (&[2], 950)];
        long_ago.extend([(&[2_u32][..], 950); 10]);
        long_ago.push((&[3], 962));
        check(Kind::Apache, &long_ago, 0);
    }

    #[test]
    fn crashing_workers_and_children_that_are_recycled_while_more_come_are_no_reload() {
        // All replaced between two looks, 12 or 13 page faults each.
        check(Kind::Nginx, &[(&[2, 3], 440), (&[4, 5], 465), (&[6, 7], 490)], 0);
        check(Kind::Nginx, &[(&[2, 3, 4, 5], 440), (&[6, 7, 8, 9], 490)], 0);
        // Prefork grows for ten looks, and meanwhile all the first ones reached their last request.
        let grows: Vec<Vec<u32>> = (0..12).map(|n| (2 + n..8 + 2 * n).collect()).collect();
        let mut n_faults = 900;
        let mut looks: Vec<(&[u32], u64)> = Vec::new();
        for pids in &grows {
            looks.push((pids, n_faults));
            n_faults += 24; // two more each time
        }
        check(Kind::Apache, &looks, 0);
    }

    #[test]
    fn php_fpm_that_executes_itself_anew_is_told_from_workers_that_were_killed() {
        let fpm = |looks: &[(&[u32], u64)], want| check(Kind::PhpFpm, looks, want);
        let six: &[u32] = &[2, 3, 4, 5, 6, 7];
        let more: &[u32] = &[12, 13, 14, 15, 16, 17];
        fpm(&[(six, 2148), (more, 2218)], 0);
        fpm(&[(six, 2218), (more, 4731)], 1);
        fpm(&[(six, 2218), (&[], 2300), (&[], 4700), (more, 4731), (more, 4731)], 1);
        fpm(&[(six, 2218), (&[], 4700), (more, 4731)], 1);
        // Workers on demand come and go.
        fpm(&[(&[2], 2218), (&[], 2218), (&[3], 2230), (&[], 2230), (&[4, 5], 2254)], 0);
        check(Kind::Haproxy, &[(&[2], 3000), (&[2, 3], 5200), (&[3], 5200)], 1);
        check(Kind::Haproxy, &[(&[2], 3000), (&[3], 3030)], 0);
    }

    #[test]
    fn servers_are_known_by_process_and_unit() {
        for name in [
            "nginx",
            "nginx.service",
            "php8.2-fpm.service",
            "php-fpm8.2",
            "httpd",
            "haproxy.service",
        ] {
            assert!(Workers::tell_reloads(name), "{name}");
        }
        for name in ["mysqld", "my-app.service", "", "phpmyadmin.service"] {
            assert!(!Workers::tell_reloads(name), "{name}");
        }
    }
}
