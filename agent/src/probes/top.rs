//! Who used the machine: the first users, pools and process names by processor, memory and disk.
//!
//! The tops of the last five minutes are kept here and cost nothing on the wire while all is well.
//! When gateway errors begin they are sent once, each with its own time, and from then on each walk's,
//! until the errors have stopped for a minute.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use wire::UnixMillis;

use super::walk::{Census, Sum};
use super::{Values, is_fast};
use crate::clock;

/// Of each kind and each resource.
const TOP_N: usize = 5;
/// Tops older than this have nothing to do with an outage.
const KEEP_MS: i64 = 300_000;
/// One walk each 10 s.
const KEPT_MAX: usize = 32;
/// A smaller share of the machine's processors explains nothing.
const CPU_MIN: f64 = 0.005;
/// A smaller use of disks explains nothing, bytes a second.
const IO_MIN: f64 = 16_384.0;

const USERS_BYTES_MAX: u64 = 4 << 20;
const USERS_MAX: usize = 1024;
/// Shortest time between two looks at the list of users.
const USERS_GAP: Duration = Duration::from_secs(60);

const CPU: &str = "process.cpu.utilization";
const MEMORY: &str = "process.memory.usage";
const IO: &str = "process.disk.io";

/// See the module.
#[derive(Debug)]
pub(crate) struct Tops {
    kept: VecDeque<(UnixMillis, Values)>,
    users: Users,
    n_cpu: f64,
}

impl Tops {
    pub(crate) fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            users: Users::new(PathBuf::from("/etc/passwd")),
            n_cpu: n_cpu(),
        }
    }

    /// Keeps what one walk saw; `pools` are the sums of each pool's workers, by attribute.
    pub(crate) fn keep(&mut self, at: UnixMillis, census: &Census, pools: &[(String, Sum)]) {
        let Some(span) = census.span.filter(|span| !span.is_zero()) else { return };
        let ticks_per_second = procfs::ticks_per_second().max(1) as f64;
        let span = Span { seconds: span.as_secs_f64(), ticks_per_second, n_cpu: self.n_cpu };
        let mut values = Values::new();
        for (metric, uid, value) in span.top(census.users.iter().map(|(uid, sum)| (*uid, *sum))) {
            values.push((metric, format!("process.owner={}", self.users.name(uid)), value));
        }
        for (metric, name, value) in span.top(census.names.iter().map(|(n, sum)| (*n, *sum))) {
            values.push((metric, format!("process.executable.name={}", name.text()), value));
        }
        for (metric, pool, value) in span.top(pools.iter().map(|(pool, sum)| (pool, *sum))) {
            values.push((metric, pool.clone(), value));
        }
        self.kept.push_back((at, values));
        while self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
    }

    /// What is to be sent now: all that is kept, oldest first, when gateway errors flow.
    pub(crate) fn take(
        &mut self,
        error_at: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Vec<(UnixMillis, Values)> {
        // A clock that was set makes times of the future; they are of no use either.
        self.kept.retain(|(at, _)| (0..=KEEP_MS).contains(&(now.0 - at.0)));
        if !is_fast(error_at, now) {
            return Vec::new();
        }
        self.kept.drain(..).collect()
    }
}

/// The time between two walks, and what the machine could do in it.
struct Span {
    seconds: f64,
    ticks_per_second: f64,
    n_cpu: f64,
}

impl Span {
    /// The first of each resource; the smaller key where two are alike, so that the order is certain.
    fn top<K: Ord + Copy>(
        &self,
        sums: impl Iterator<Item = (K, Sum)>,
    ) -> Vec<(&'static str, K, f64)> {
        let sums: Vec<(K, Sum)> = sums.collect();
        let mut found = Vec::new();
        for metric in [CPU, MEMORY, IO] {
            let mut used: Vec<(f64, K)> = sums
                .iter()
                .filter_map(|(key, sum)| Some((self.used(metric, sum)?, *key)))
                .collect();
            used.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            found.extend(used.into_iter().take(TOP_N).map(|(value, key)| (metric, key, value)));
        }
        found
    }

    /// Use of a resource that may explain something.
    fn used(&self, metric: &str, sum: &Sum) -> Option<f64> {
        let (value, min) = match metric {
            CPU => (sum.ticks as f64 / self.ticks_per_second / self.seconds / self.n_cpu, CPU_MIN),
            MEMORY => (sum.rss_bytes as f64, 1.0),
            _ => (sum.io_bytes as f64 / self.seconds, IO_MIN),
        };
        // The kernel's ticks are coarser than our clock: all processors busy may seem a little more.
        let value = if metric == CPU { value.min(1.0) } else { value };
        (value >= min).then_some(value)
    }
}

/// Names of users, from the list of local ones; others are told by their number.
#[derive(Debug)]
struct Users {
    path: PathBuf,
    names: HashMap<u32, String>,
    looked_at: Option<Instant>,
}

impl Users {
    fn new(path: PathBuf) -> Self {
        Self { path, names: HashMap::new(), looked_at: None }
    }

    fn name(&mut self, uid: u32) -> String {
        let now = clock::instant();
        let may_look = self.looked_at.is_none_or(|at| now >= at + USERS_GAP);
        if !self.names.contains_key(&uid) && may_look {
            self.looked_at = Some(now);
            self.look();
        }
        self.names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// Reads all names: a user who is new to the tops is often not the only one.
    fn look(&mut self) {
        let Ok(file) = File::open(&self.path) else { return };
        let mut text = Vec::new();
        if file.take(USERS_BYTES_MAX).read_to_end(&mut text).is_ok() {
            self.names = parse_users(&String::from_utf8_lossy(&text));
        }
    }
}

/// `name:x:uid:gid:…`; of several names of one user the first counts.
fn parse_users(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(uid)) = (fields.next(), fields.nth(1)) else { continue };
        let Ok(uid) = uid.parse() else { continue };
        let is_name = !name.is_empty() && name.len() <= 64 && !name.contains(char::is_control);
        if is_name && names.len() < USERS_MAX {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// Processors of the machine. Not those this process may use: its unit limits it to half of one.
fn n_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.lines().filter(is_cpu).count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(ticks: &[(u32, u64)]) -> Census {
        let sum = |ticks| Sum { ticks, rss_bytes: 1 << 20, io_bytes: 0 };
        Census {
            span: Some(Duration::from_secs(10)),
            users: ticks.iter().map(|(uid, ticks)| (*uid, sum(*ticks))).collect(),
            ..Census::default()
        }
    }

    fn tops() -> Tops {
        let users = Users::new(PathBuf::from("/nowhere"));
        Tops { kept: VecDeque::new(), users, n_cpu: 2.0 }
    }

    #[test]
    fn the_first_five_of_each_resource_are_told_as_shares_of_the_machine() {
        let span = Span { seconds: 10.0, ticks_per_second: 100.0, n_cpu: 2.0 };
        let sum = |ticks, rss_bytes, io_bytes| Sum { ticks, rss_bytes, io_bytes };
        let sums = [
            ("a", sum(1000, 7, 0)),
            ("b", sum(9, 9, 10_000_000)),
            ("c", sum(0, 0, 1000)),
            ("d", sum(20, 5, 0)),
            ("e", sum(30, 5, 0)),
            ("f", sum(3000, 4, 0)),
            ("g", sum(40, 3, 0)),
            ("h", sum(50, 2, 0)),
        ];
        let top = span.top(sums.into_iter());
        let of = |metric: &str| {
            let of_metric = top.iter().filter(|(m, ..)| *m == metric);
            of_metric.map(|(_, key, value)| (*key, *value)).collect::<Vec<_>>()
        };
        assert_eq!(of(CPU), [("f", 1.0), ("a", 0.5), ("h", 0.025), ("g", 0.02), ("e", 0.015)]);
        assert_eq!(of(MEMORY), [("b", 9.0), ("a", 7.0), ("d", 5.0), ("e", 5.0), ("f", 4.0)]);
        assert_eq!(of(IO), [("b", 1_000_000.0)]);
    }

    #[test]
    fn tops_wait_for_gateway_errors_and_keep_their_own_times() {
        let mut tops = tops();
        let at = |second: i64| UnixMillis(1_000_000 + 1000 * second);
        for walk in 0..60 {
            tops.keep(at(10 * walk), &census(&[(7, 1000)]), &[]);
            assert!(tops.take(None, at(10 * walk)).is_empty(), "all is well");
        }
        let sent = tops.take(Some(at(591)), at(592));
        let times: Vec<_> = sent.iter().map(|(at, _)| (at.0 - 1_000_000) / 1000).collect();
        assert_eq!((times.first(), times.last(), times.len()), (Some(&300), Some(&590), 30));
        assert!(sent[0].1.contains(&(CPU, "process.owner=7".to_owned(), 0.5)), "{:?}", sent[0]);
        assert!(tops.take(Some(at(592)), at(593)).is_empty(), "each is sent once");
        tops.keep(at(600), &census(&[(7, 1000)]), &[]);
        assert_eq!(tops.take(Some(at(600)), at(600)).len(), 1, "while errors flow");
        tops.keep(at(670), &census(&[(7, 1000)]), &[]);
        assert!(tops.take(Some(at(600)), at(670)).is_empty(), "a minute after the last one");
        assert_eq!(tops.take(Some(at(680)), at(680)).len(), 1, "before the next ones");
        tops.keep(at(900), &census(&[(7, 1000)]), &[]);
        assert!(tops.take(Some(at(800)), at(800)).is_empty(), "the clock was set back");
        tops.keep(at(1000), &census(&[(7, 1000)]), &[]);
        assert!(tops.take(Some(at(1200)), at(1000)).is_empty(), "set back since the error");
    }

    #[test]
    fn the_first_walk_tells_of_nobody() {
        let mut tops = tops();
        tops.keep(UnixMillis(0), &Census { span: None, ..census(&[(7, 1000)]) }, &[]);
        assert!(tops.kept.is_empty());
    }

    #[test]
    fn users_have_names_where_the_machine_tells() {
        let text = "root:x:0:0:root:/root:/bin/bash\nshop:x:1001:1001::/x:/bin/sh\nalias:x:0:0::/:/x\n\
                    :x:5:5::/:/x\nbroken\nb:x:y:1::/:/x\n";
        let names = parse_users(text);
        assert_eq!((names.len(), names[&0].as_str(), names[&1001].as_str()), (2, "root", "shop"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        std::fs::write(&path, text).unwrap();
        let mut users = Users::new(path);
        assert_eq!((users.name(1001), users.name(4242)), ("shop".to_owned(), "4242".to_owned()));
    }
}
