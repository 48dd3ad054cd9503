//! One walk over the processes of the machine, each 10 s and never more often: who uses the
//! processors, memory and disks, which PHP-FPM workers live, how many processes hang.
//!
//! Cost: one file of /proc (`stat`, some 9 us) for each process that ran lately; of those that sleep a
//! third, while no gateway errors flow. The owner is looked up when a process is new, the
//! title and the shared memory only of PHP-FPM, `io` only where the agent may read it and of processes
//! that have run since the last walk. Processes that came and went between two walks are not seen.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::services::is_php_fpm;
use crate::clock;

/// Processes looked at in one walk.
const PROCESSES_MAX: usize = 20_000;
/// `stat` has some 350 bytes at most, the beginning of a title is enough.
const FILE_BYTES: usize = 1024;
/// A process that has slept this many walks is read in one of so many.
const RESTS_AFTER: u8 = 3;
const REST_WALKS: u32 = 3;
/// `PF_KTHREAD`
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Name of a process, cut by the kernel to 15 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name([u8; 16]);

impl Name {
    fn new(bytes: &[u8], is_kernel_thread: bool) -> Self {
        // `kworker/0:1H-kblockd` is one of many of a kind.
        let kind = bytes.split(|b| *b == b'/').next().filter(|_| is_kernel_thread);
        let bytes = kind.unwrap_or(bytes);
        let mut name = [0; 16];
        let len = bytes.len().min(15);
        name[..len].copy_from_slice(&bytes[..len]);
        Self(name)
    }

    /// As text, without what would break a line.
    pub(crate) fn text(&self) -> String {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(&self.0[..end]);
        text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

/// What some processes used, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    /// Processor time since the last walk, clock ticks.
    pub(crate) ticks: u64,
    /// Resident memory; what several share counts in each.
    pub(crate) rss_bytes: u64,
    /// Bytes read from and written to disks since the last walk; 0 where that may not be read.
    pub(crate) io_bytes: u64,
}

impl Sum {
    pub(crate) fn add(&mut self, more: &Self) {
        self.ticks = self.ticks.saturating_add(more.ticks);
        self.rss_bytes = self.rss_bytes.saturating_add(more.rss_bytes);
        self.io_bytes = self.io_bytes.saturating_add(more.io_bytes);
    }
}

/// One PHP-FPM worker.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    /// Pool its title names.
    pub(crate) pool: Arc<str>,
    /// Configuration of its master, where the master's title was read.
    pub(crate) conf: Option<Arc<str>>,
    /// Who started that master.
    pub(crate) master_uid: Option<u32>,
    /// What it used.
    pub(crate) sum: Sum,
    /// Resident memory it shares with nobody; see `own_bytes`.
    pub(crate) own_bytes: Option<u64>,
}

/// What one walk saw.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Time since the walk before; `None` in the first one, which knows no use of processors.
    pub(crate) span: Option<Duration>,
    /// All of them.
    pub(crate) n_processes: u32,
    /// Ended, and their parents do not ask.
    pub(crate) n_zombies: u32,
    /// In uninterruptible sleep: waiting for a disk or a server of files.
    pub(crate) n_blocked: u32,
    /// There were more processes than one walk looks at.
    pub(crate) is_cut: bool,
    /// By numeric user.
    pub(crate) users: HashMap<u32, Sum>,
    /// By name of the process.
    pub(crate) names: HashMap<Name, Sum>,
    /// Workers of PHP-FPM.
    pub(crate) workers: Vec<Worker>,
}

/// What is remembered of a process until the next walk.
#[derive(Debug)]
struct Known {
    start: u64,
    ticks: u64,
    uid: Option<u32>,
    io_bytes: Option<u64>,
    title: Title,
    name: Name,
    rss_bytes: u64,
    /// Walk that saw it last, and the one that read its state last.
    seen_in: u32,
    read_in: u32,
    /// Times in a row that it had not run.
    n_idle: u8,
    /// It slept, and no pool wants to know more of it.
    may_rest: bool,
    /// Seen in more than one walk: a server that has just started may still change its user.
    is_settled: bool,
}

#[derive(Clone, Debug)]
enum Title {
    Other,
    /// Its configuration, and who started it.
    Master(Arc<str>, Option<u32>),
    Worker(Arc<str>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Walk {
    proc: PathBuf,
    processes_max: usize,
    known: HashMap<u32, Known>,
    n_walks: u32,
    walked_at: Option<Instant>,
    reads_io: Option<bool>,
    is_hidden_told: bool,
    was_cut: bool,
    is_cut_told: bool,
}

impl Walk {
    pub(crate) fn new(proc: PathBuf) -> Self {
        Self {
            proc,
            processes_max: PROCESSES_MAX,
            known: HashMap::new(),
            n_walks: 0,
            walked_at: None,
            reads_io: None,
            is_hidden_told: false,
            was_cut: false,
            is_cut_told: false,
        }
    }

    /// Looks at every process once; `None` when the machine hides them. Unless it is to be thorough,
    /// what has slept for a while is only read in one walk of three.
    pub(crate) fn look(&mut self, is_thorough: bool) -> Option<Census> {
        let now = clock::instant();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&self.proc, flags, Mode::empty()).ok()?;
        let mut files = Files { dir, path: String::new(), buffer: [0; FILE_BYTES] };
        if self.is_hidden(&mut files) {
            return None;
        }
        // In some containers not even root may look into the first process, but into the others.
        let is_root = rustix::process::geteuid().is_root();
        let reads_io = *self.reads_io.get_or_insert_with(|| is_root || files.io_bytes(1).is_some());
        self.n_walks = self.n_walks.wrapping_add(1);
        let span = self.walked_at.replace(now).map(|last| now.saturating_duration_since(last));
        let mut look = Look {
            files: &mut files,
            census: Census { span, ..Census::default() },
            workers: Vec::new(),
            reads_io,
            is_thorough,
            knows_new: span.is_some() && !self.was_cut,
        };
        for (n, pid) in std::fs::read_dir(&self.proc)
            .ok()?
            .flatten()
            .filter_map(|entry| pid_of(&entry))
            .enumerate()
        {
            if n == self.processes_max {
                look.census.is_cut = true;
                break;
            }
            look.census.n_processes += 1;
            self.look_at(pid, &mut look);
        }
        let Look { mut census, workers, .. } = look;
        let walk = self.n_walks;
        self.known.retain(|_, known| known.seen_in == walk);
        self.known.shrink_to(2 * self.known.len());
        census.workers = workers.into_iter().filter_map(|one| self.worker(one)).collect();
        self.was_cut = census.is_cut;
        if census.is_cut && !std::mem::replace(&mut self.is_cut_told, true) {
            tracing::info!(
                limit = self.processes_max,
                "more processes than are looked at: use of the machine is that of some of them"
            );
        }
        Some(census)
    }

    fn look_at(&mut self, pid: u32, look: &mut Look<'_>) {
        let mut known = self.known.remove(&pid);
        if let Some(known) =
            known.take_if(|known| !look.is_thorough && known.rests(pid, self.n_walks))
        {
            let sum = Sum { rss_bytes: known.rss_bytes, ..Sum::default() };
            return self.count(pid, known, &sum, look);
        }
        let Some(stat) = look.files.read(pid, "stat").and_then(Stat::parse) else { return };
        match stat.state {
            b'Z' => look.census.n_zombies += 1,
            b'D' => look.census.n_blocked += 1,
            b'X' | b'x' => return,
            _ => {}
        }
        let known = known.filter(|known| known.start == stat.start);
        let is_new = known.is_none();
        let mut known = known.unwrap_or_else(|| Known::new(stat.start));
        let n_ticks = stat.ticks.saturating_sub(known.ticks);
        let mut sum = Sum { rss_bytes: stat.rss_bytes, ..Sum::default() };
        // One that rested was read some walks ago: what it did since is taken for as much in each.
        let n_walks = if is_new { 1 } else { self.n_walks.wrapping_sub(known.read_in).max(1) };
        // What runs at the first walk has run before it.
        if !is_new || look.knows_new {
            sum.ticks = n_ticks / u64::from(n_walks);
        }
        if look.reads_io && (is_new || n_ticks > 0) {
            let io_bytes = look.files.io_bytes(pid);
            let last = known.io_bytes.or((is_new && look.knows_new).then_some(0));
            let n_bytes = io_bytes.zip(last).map_or(0, |(now, last)| now.saturating_sub(last));
            sum.io_bytes = n_bytes / u64::from(n_walks);
            known.io_bytes = io_bytes.or(known.io_bytes);
        }
        if !known.is_settled {
            known.uid = look.files.owner(pid).or(known.uid);
        }
        // A worker has its master's title for a moment.
        if stat.is_php_fpm && (!known.is_settled || matches!(known.title, Title::Other)) {
            known.title = look.files.read(pid, "cmdline").map_or(Title::Other, Title::parse);
            if let Title::Master(_, uid) = &mut known.title {
                *uid = look.files.started_by(pid);
            }
        }
        if matches!(known.title, Title::Worker(_)) && stat.state != b'Z' {
            let own = look.files.read(pid, "statm").and_then(own_bytes);
            look.workers.push((pid, stat.parent, sum, own));
        }
        known.n_idle = if n_ticks == 0 { known.n_idle.saturating_add(1) } else { 0 };
        known.may_rest = matches!(stat.state, b'S' | b'I') && !stat.is_php_fpm && !is_new;
        (known.name, known.rss_bytes) = (stat.name, stat.rss_bytes);
        (known.ticks, known.is_settled, known.read_in) = (stat.ticks, !is_new, self.n_walks);
        self.count(pid, known, &sum, look);
    }

    /// Adds what a process used to its user's and its name's, and remembers it.
    fn count(&mut self, pid: u32, known: Known, sum: &Sum, look: &mut Look<'_>) {
        if let Some(uid) = known.uid {
            look.census.users.entry(uid).or_default().add(sum);
        }
        look.census.names.entry(known.name).or_default().add(sum);
        self.known.insert(pid, Known { seen_in: self.n_walks, ..known });
    }

    fn worker(
        &self,
        (pid, parent, sum, own_bytes): (u32, u32, Sum, Option<u64>),
    ) -> Option<Worker> {
        let Title::Worker(pool) = &self.known.get(&pid)?.title else { return None };
        let (conf, master_uid) = match self.known.get(&parent).map(|master| &master.title) {
            Some(Title::Master(conf, uid)) => (Some(Arc::clone(conf)), *uid),
            _ => (None, None),
        };
        Some(Worker { pool: Arc::clone(pool), conf, master_uid, sum, own_bytes })
    }

    /// With `hidepid` or a like setting not even the first process can be seen; tells it once.
    fn is_hidden(&mut self, files: &mut Files) -> bool {
        let is_hidden = files.read(1, "stat").is_none();
        if is_hidden && !std::mem::replace(&mut self.is_hidden_told, true) {
            tracing::info!(
                fix = "mount -o remount,gid=GID /proc with a group of the agent's user (CloudLinux: \
                       fs.proc_super_gid), and in its line of /etc/fstab",
                "processes of others are hidden (hidepid): workers and use by users are absent"
            );
        }
        self.is_hidden_told &= is_hidden;
        is_hidden
    }
}

impl Known {
    fn new(start: u64) -> Self {
        Self {
            start,
            ticks: 0,
            uid: None,
            io_bytes: None,
            title: Title::Other,
            name: Name::default(),
            rss_bytes: 0,
            seen_in: 0,
            read_in: 0,
            n_idle: 0,
            may_rest: false,
            is_settled: false,
        }
    }

    /// True when what was read of it last is good enough for this walk.
    fn rests(&self, pid: u32, walk: u32) -> bool {
        self.may_rest
            && self.n_idle >= RESTS_AFTER
            && !walk.wrapping_add(pid).is_multiple_of(REST_WALKS)
    }
}

/// What one walk works with.
struct Look<'a> {
    files: &'a mut Files,
    census: Census,
    /// Process, its parent, what it used, its own memory.
    workers: Vec<(u32, u32, Sum, Option<u64>)>,
    reads_io: bool,
    is_thorough: bool,
    /// The walk before saw all there were: what it has not seen has begun since.
    knows_new: bool,
}

impl Title {
    /// `php-fpm: pool www`, `php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)`.
    fn parse(cmdline: &[u8]) -> Self {
        let end = memchr::memchr(0, cmdline).unwrap_or(cmdline.len());
        let text = String::from_utf8_lossy(&cmdline[..end]);
        let said = text.strip_prefix("php-fpm: ").unwrap_or_default().trim();
        if let Some(pool) = said.strip_prefix("pool ") {
            return Self::Worker(pool.trim().into());
        }
        let conf = said.strip_prefix("master process (").and_then(|rest| rest.strip_suffix(')'));
        conf.map_or(Self::Other, |conf| Self::Master(conf.into(), None))
    }
}

fn pid_of(entry: &std::fs::DirEntry) -> Option<u32> {
    entry.file_name().to_str()?.parse().ok()
}

/// Reads files of one process after the other, without an allocation.
struct Files {
    dir: OwnedFd,
    path: String,
    buffer: [u8; FILE_BYTES],
}

impl Files {
    /// The beginning of a file; `None` when the process is gone or hides it.
    fn read(&mut self, pid: u32, file: &str) -> Option<&[u8]> {
        self.set_path(pid, file);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, &*self.path, flags, Mode::empty()).ok()?;
        let len = rustix::io::read(&file, &mut self.buffer[..]).ok()?;
        Some(&self.buffer[..len])
    }

    fn owner(&mut self, pid: u32) -> Option<u32> {
        self.set_path(pid, "");
        rustix::fs::statat(&self.dir, &*self.path, AtFlags::empty()).ok().map(|stat| stat.st_uid)
    }

    /// The real user. The owner of its directory may be another one: that of a process which nobody may
    /// look into is root, and that of a program that changes its user on start is whom it changes to.
    fn started_by(&mut self, pid: u32) -> Option<u32> {
        let text = String::from_utf8_lossy(self.read(pid, "status")?);
        let uids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        uids.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Bytes it has read from and written to disks so far.
    fn io_bytes(&mut self, pid: u32) -> Option<u64> {
        let text = std::str::from_utf8(self.read(pid, "io")?).ok()?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().parse::<u64>().ok()
        };
        Some(field("read_bytes:")?.saturating_add(field("write_bytes:")?))
    }

    fn set_path(&mut self, pid: u32, file: &str) {
        self.path.clear();
        write!(self.path, "{pid}/{file}").expect("to a string");
    }
}

/// What /proc/PID/stat says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: Name,
    is_php_fpm: bool,
    state: u8,
    parent: u32,
    ticks: u64,
    start: u64,
    rss_bytes: u64,
}

impl Stat {
    /// `812 (php-fpm8.2) S 1 …`; the name may hold blanks and brackets.
    fn parse(text: &[u8]) -> Option<Self> {
        let (open, close) = (memchr::memchr(b'(', text)?, memchr::memrchr(b')', text)?);
        let name = text.get(open + 1..close)?;
        let mut fields = std::str::from_utf8(&text[close + 1..]).ok()?.split_ascii_whitespace();
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let mut number = |skipped| fields.nth(skipped)?.parse::<u64>().ok();
        let flags = number(4)?;
        let ticks = number(4)?.saturating_add(number(0)?);
        let start = number(6)?;
        let rss_bytes = number(1)?.saturating_mul(procfs::page_size());
        let name = Name::new(name, flags & KERNEL_THREAD != 0);
        let is_php_fpm = name.0.starts_with(b"php-fpm") && is_php_fpm(&name.text());
        Some(Self { name, is_php_fpm, state, parent, ticks, start, rss_bytes })
    }
}

/// Resident memory that a process does not share: what one more of its kind would take at least.
///
/// Of /proc/PID/statm, resident minus shared. The true share of each page (PSS, `smaps_rollup`) may be
/// read only by the owner and by root. Shared memory is OPcache, libraries and the like, which all
/// workers of a master have in common; pages still common with the master since the fork count here,
/// so the value is rather too high than too low.
fn own_bytes(statm: &[u8]) -> Option<u64> {
    let mut fields = std::str::from_utf8(statm).ok()?.split_ascii_whitespace().skip(1);
    let mut pages = || fields.next()?.parse::<u64>().ok();
    let (resident, shared) = (pages()?, pages()?);
    Some(resident.saturating_sub(shared).saturating_mul(procfs::page_size()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn stat_of_old_and_new_kernels_is_read() {
        let check = |text: &str, want: Option<(&str, u8, u32, u64, u64, u64)>| {
            let got = Stat::parse(text.as_bytes());
            let got = got.map(|s| {
                (
                    s.name.text(),
                    s.state,
                    s.parent,
                    s.ticks,
                    s.start,
                    s.rss_bytes / procfs::page_size(),
                )
            });
            let want = want.map(|(name, state, parent, ticks, start, rss)| {
                (name.to_owned(), state, parent, ticks, start, rss)
            });
            assert_eq!(got, want, "{text}");
        };
        // Linux 3.10.
        check(
            "1187 (php-fpm) S 1185 1185 1185 0 -1 4202816 1153 0 3 0 120 44 0 0 20 0 1 0 1554 \
             412422144 2467 18446744073709551615 1 1 0 0 0 0 0 4096 0 18446744073709551615 0 0 17 0",
            Some(("php-fpm", b'S', 1185, 164, 1554, 2467)),
        );
        // Linux 6.x.
        check(
            "9 (kworker/0:1H-kblockd) I 2 0 0 0 -1 69238880 0 0 0 0 0 7 0 0 0 -20 1 0 9 0 0 1 0 0 0 0 0 0",
            Some(("kworker", b'I', 2, 7, 9, 0)),
        );
        check(
            "77 (a) b (c) D 1 1 1 0 -1 0 1 0 3 0 1 2 0 0 20 0 1 0 5 6 7 8",
            Some(("a) b (c", b'D', 1, 3, 5, 7)),
        );
        check(
            "77 (a/b) R 1 1 1 0 -1 0 1 0 3 0 1 2 0 0 20 0 1 0 5 6 7",
            Some(("a/b", b'R', 1, 3, 5, 7)),
        );
        for broken in ["", "77", "77 (a", "77 )a( R 1", "77 (a) R", "77 (a) R 1 1 1 0 -1 x", "()"] {
            check(broken, None);
        }
    }

    #[test]
    fn titles_and_memory_of_php_fpm_are_read() {
        let worker = |text: &[u8]| match Title::parse(text) {
            Title::Worker(pool) => Some(pool.to_string()),
            _ => None,
        };
        assert_eq!(worker(b"php-fpm: pool www\0\0\0").as_deref(), Some("www"));
        assert_eq!(worker(b"php-fpm: pool a.example   ").as_deref(), Some("a.example"));
        assert_eq!(worker(b"vim php-fpm: pool www"), None);
        let master = Title::parse(b"php-fpm: master process (/etc/php-fpm.conf)\0");
        assert!(matches!(master, Title::Master(conf, _) if &*conf == "/etc/php-fpm.conf"));
        assert_eq!(own_bytes(b"10000 2000 1500 10 0 50 0\n"), Some(500 * procfs::page_size()));
        assert_eq!(own_bytes(b"10000 2000"), None);
    }

    /// A /proc of files, as far as a walk reads it.
    fn write(proc: &std::path::Path, pid: u32, name: &str, state: char, ticks: u64) {
        let dir = proc.join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        let stat = format!(
            "{pid} ({name}) {state} 1 1 1 0 -1 0 1 0 3 0 {ticks} 0 0 0 20 0 1 0 {pid} 6 100 8"
        );
        fs::write(dir.join("stat"), stat).unwrap();
    }

    #[test]
    fn only_what_ran_between_two_walks_counts() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        write(proc, 1, "init", 'S', 500);
        write(proc, 20, "mysqld", 'D', 1000);
        write(proc, 21, "ended", 'Z', 3);
        fs::create_dir(proc.join("self")).unwrap();
        let mut walk = Walk::new(proc.to_owned());
        let first = walk.look(true).expect("nothing is hidden");
        assert_eq!((first.span, first.n_blocked, first.n_zombies), (None, 1, 1));
        let ticks = |census: &Census, name: &str| {
            census.names.get(&Name::new(name.as_bytes(), false)).map(|sum| sum.ticks)
        };
        assert_eq!(ticks(&first, "mysqld"), Some(0), "who knows when it ran");
        write(proc, 20, "mysqld", 'S', 1250);
        write(proc, 30, "gzip", 'R', 40);
        fs::remove_dir_all(proc.join("21")).unwrap();
        let second = walk.look(true).unwrap();
        assert_eq!((second.n_blocked, second.n_zombies, second.span.is_some()), (0, 0, true));
        assert_eq!(ticks(&second, "mysqld"), Some(250));
        assert_eq!(ticks(&second, "gzip"), Some(40), "it has run since it began");
        assert_eq!(ticks(&second, "ended"), None);
        let all: u64 = second.users.values().map(|sum| sum.ticks).sum();
        assert_eq!(all, 290);
        assert_eq!(walk.known.len(), 3, "the dead are forgotten");
    }

    #[test]
    fn root_reads_what_others_write_where_the_first_process_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let wrote = |n: u64| {
            write(proc, 20, "mysqld", 'R', n);
            let io = format!("wchar: 9\nread_bytes: 1000\nwrite_bytes: {n}\n");
            fs::write(proc.join("20/io"), io).unwrap();
        };
        write(proc, 1, "init", 'S', 5);
        wrote(10);
        let mut walk = Walk::new(proc.to_owned());
        walk.look(true).expect("nothing is hidden");
        wrote(510);
        let bytes = walk.look(true).unwrap().names[&Name::new(b"mysqld", false)].io_bytes;
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(bytes, if is_root { 500 } else { 0 }, "root {is_root}");
        fs::write(proc.join("1/io"), "read_bytes: 0\nwrite_bytes: 0\n").unwrap();
        let mut walk = Walk::new(proc.to_owned());
        walk.look(true).unwrap();
        wrote(710);
        let bytes = walk.look(true).unwrap().names[&Name::new(b"mysqld", false)].io_bytes;
        assert_eq!(bytes, 200, "whoever may look into the first one may into all");
    }

    #[test]
    fn what_sleeps_is_read_in_one_walk_of_three_and_what_it_did_is_spread_over_them() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        write(proc, 1, "init", 'S', 5);
        write(proc, 21, "redis", 'S', 100);
        let mut walk = Walk::new(proc.to_owned());
        let ticks = |census: &Census| {
            let of_name = census.names.get(&Name::new(b"redis", false));
            of_name.map(|sum| (sum.ticks, sum.rss_bytes > 0))
        };
        for _ in 0..6 {
            assert_eq!(ticks(&walk.look(false).unwrap()), Some((0, true)));
        }
        write(proc, 21, "redis", 'S', 400);
        let told: Vec<_> = (0..3).filter_map(|_| ticks(&walk.look(false).unwrap())).collect();
        assert_eq!(told.len(), 3);
        let ran: Vec<_> = told.iter().map(|(ticks, _)| *ticks).filter(|n| *n > 0).collect();
        assert!(matches!(ran[..], [100..=300]), "a share for each walk it rested: {told:?}");
        write(proc, 21, "redis", 'S', 500);
        assert_eq!(ticks(&walk.look(false).unwrap()), Some((100, true)), "it is awake");
        (0..6).for_each(|_| drop(walk.look(false)));
        write(proc, 21, "redis", 'S', 800);
        let at_once = ticks(&walk.look(true).unwrap()).expect("it runs").0;
        assert!((100..=300).contains(&at_once), "{at_once}");
    }

    #[test]
    fn workers_are_known_by_the_title_they_have_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        write(proc, 1, "php-fpm8.2", 'S', 5);
        write(proc, 40, "php-fpm8.2", 'S', 5);
        let title = "php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)\0";
        fs::write(proc.join("1/cmdline"), title).unwrap();
        let status = "Name:\tphp-fpm8.2\nState:\tS (sleeping)\nPPid:\t1\nUid:\t33\t0\t0\t0\n";
        fs::write(proc.join("1/status"), status).unwrap();
        fs::write(proc.join("40/cmdline"), title).unwrap(); // a moment after the fork
        fs::write(proc.join("40/statm"), "9000 800 300 1 0 1 0").unwrap();
        let mut walk = Walk::new(proc.to_owned());
        assert!(walk.look(false).unwrap().workers.is_empty());
        fs::write(proc.join("40/cmdline"), "php-fpm: pool www\0").unwrap();
        for _ in 0..5 {
            let workers = walk.look(false).unwrap().workers;
            let [worker] = &workers[..] else { panic!("{workers:?}") };
            let conf = worker.conf.as_deref();
            assert_eq!((&*worker.pool, conf), ("www", Some("/etc/php/8.2/fpm/php-fpm.conf")));
            assert_eq!(worker.own_bytes, Some(500 * procfs::page_size()));
            assert_eq!(worker.master_uid, Some(33), "the real one");
        }
    }

    #[test]
    fn hidden_processes_are_absent_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 812, "own", 'R', 1);
        let mut walk = Walk::new(dir.path().to_owned());
        assert!(walk.look(true).is_none() && walk.is_hidden_told);
        write(dir.path(), 1, "init", 'S', 1);
        assert!(walk.look(true).is_some() && !walk.is_hidden_told);
    }

    #[test]
    fn a_crowd_of_processes_is_cut_and_told() {
        let dir = tempfile::tempdir().unwrap();
        for pid in 1..=7 {
            write(dir.path(), pid, "init", 'S', 1);
        }
        let mut walk = Walk { processes_max: 7, ..Walk::new(dir.path().to_owned()) };
        assert!(walk.look(true).is_some_and(|census| !census.is_cut) && !walk.is_cut_told);
        walk.processes_max = 6;
        let census = walk.look(true).expect("nothing is hidden");
        assert!(census.is_cut && walk.is_cut_told && census.n_processes == 6);
        assert_eq!((census.users.len(), walk.known.len()), (1, 6));
    }

    #[test]
    fn the_walk_over_this_machine_sees_this_process() {
        let mut walk = Walk::new(PathBuf::from("/proc"));
        let census = walk.look(true).expect("the tests see all processes");
        let own = rustix::process::geteuid().as_raw();
        assert!(census.users.get(&own).is_some_and(|sum| sum.rss_bytes > 1 << 20));
        assert!(!census.is_cut && census.names.len() > 1);
    }
}
