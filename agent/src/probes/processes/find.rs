//! Main processes of services, found in /proc by their names. Total over whatever /proc shows: anybody
//! may give a process any name, title and command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use wire::UnixMillis;

use super::owners::Owners;
use super::read::{read_proc, read_regular, with_blanks};
use super::workers::Workers;
use crate::clock;
use crate::discover::Discovery;
use crate::probes::services::{Run, is_named, is_php_fpm, is_service_process};

/// Most processes started since the last walk that are looked at before the next.
pub(super) const NEW_PIDS_MAX: u32 = 1024;

/// Processes remembered of one service; when none of them is left, a walk looks for others.
const PIDS_MAX: usize = 4;

const CONF_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a service that is told.
const UNIT_BYTES_MAX: usize = 255;

/// One service: a main process, or several of the same name.
#[derive(Debug, Default)]
pub(super) struct Service {
    /// Name of the process.
    pub(super) name: String,
    /// Configuration file that a PHP-FPM master names in its title, and what that includes.
    pub(super) conf: Option<PathBuf>,
    pub(super) includes: Vec<String>,
    pub(super) pids: Vec<u32>,
    /// When the first of them started; `None` when /proc does not tell.
    pub(super) since: Option<UnixMillis>,
    /// Names the life of the first of them: its number and its start in ticks.
    pub(super) run_id: String,
    /// Set when sites are passed on to it.
    pub(super) answers_at: Option<Answers>,
    /// It lives, but nobody listens at any of its addresses.
    pub(super) is_deaf: bool,
    pub(super) workers: Option<Workers>,
}

/// A process that answers for sites, whatever it is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answers {
    pub(super) address: String,
    /// Nothing else is passed on to it.
    pub(super) is_alone: bool,
    pub(super) pid: u32,
    /// Name of the process, and the command line it is known again by.
    pub(super) name: String,
    pub(super) cmdline: String,
}

impl Service {
    fn new(proc: &Path, pid: u32, name: &str, start_ticks: Option<u64>) -> Self {
        let workers = Workers::tell_reloads(name).then(|| {
            let mut workers = Workers::new(pid, name);
            workers.look(proc); // what later looks are compared with
            workers
        });
        Self {
            workers,
            since: start_ticks.and_then(started_at),
            run_id: start_ticks.map_or_else(String::new, |ticks| format!("{pid}:{ticks}")),
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Reads what its configuration includes, where that is one of this machine's.
    fn with_includes(mut self, wanted: &Wanted) -> Self {
        let root = wanted.root.as_path();
        if let Some(conf) = self.conf.as_deref().filter(|conf| wanted.has_read(conf)) {
            let text = read_regular(&under(root, conf), CONF_BYTES_MAX, OFlags::empty());
            self.includes = text.map_or_else(Vec::new, |text| parse_includes(&text, root));
        }
        self
    }

    pub(super) fn run(&self) -> Run {
        let at = self.since.unwrap_or_else(clock::now);
        Run { id: self.run_id.clone(), at }
    }
}

/// What is looked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Under a root other than `/` only processes whose command line names it count.
    pub(super) root: PathBuf,
    /// Names of services beside the usual ones.
    pub(super) names: Vec<String>,
    /// Those of them that the configuration names: whoever they belong to.
    pub(super) configured: Vec<String>,
    pub(super) owners: Owners,
    pub(super) discovery: Arc<Discovery>,
    /// Whoever answers for sites.
    pub(super) answers: Vec<Answers>,
}

/// True for a command line that names a file below `root`, and not one beside it.
fn names_root(cmdline: &str, root: &Path) -> bool {
    let root = root.to_string_lossy();
    let ends = |rest: &str| rest.chars().next().is_none_or(|c| matches!(c, '/' | ' ' | ')'));
    root == "/" || cmdline.match_indices(&*root).any(|(at, _)| ends(&cmdline[at + root.len()..]))
}

/// The main processes of services among these, by the unit name they are told under. An error when /proc
/// cannot be read: then nothing is known of what seems to be gone.
pub(super) fn find(
    proc: &Path,
    mut pids: Vec<u32>,
    wanted: &Wanted,
) -> io::Result<BTreeMap<String, Service>> {
    let root = wanted.root.as_path();
    let mut found = BTreeMap::<String, Service>::new();
    let mut members = BTreeMap::<String, BTreeSet<u32>>::new();
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        let Some(name) = read_proc(&proc.join(format!("{pid}/comm")))? else { continue };
        let name = name.trim_end().to_owned();
        let is_usual = is_service_process(&name, &wanted.names);
        let may_answer = |known: &Answers| known.pid == pid || known.name == name;
        if !is_usual && !wanted.answers.iter().any(may_answer) {
            continue;
        }
        let Some(stat) = read_stat(proc, pid)? else { continue };
        let stat = parse_stat(&stat);
        let Some(stat) = stat.filter(|stat| stat.name == name && stat.lives()) else { continue };
        let cmdline = read_proc(&proc.join(format!("{pid}/cmdline")))?.unwrap_or_default();
        let cmdline = with_blanks(&cmdline);
        let answers = wanted.answers.iter().find(|known| {
            known.pid == pid
                || known.name == name && !known.cmdline.is_empty() && known.cmdline == cmdline
        });
        let conf = master_conf(&cmdline);
        let is_usual = is_usual
            && !is_worker(&name, &cmdline)
            && names_root(&cmdline, root)
            && (is_named(&name, &wanted.configured)
                || wanted.may_be(proc, pid, conf.as_deref())?);
        let unit = match answers {
            _ if is_usual => unit_name(&name, conf.as_deref()),
            Some(answers) => clean(&format!("{name} {}", answers.address)),
            None => continue,
        };
        // A fork of a main process is none of its own.
        let of_unit = members.entry(unit.clone()).or_default();
        let is_child = stat.parent.is_some_and(|parent| of_unit.contains(&parent));
        of_unit.insert(pid);
        if is_child {
            continue;
        }
        let service = found.entry(unit).or_insert_with(|| {
            let answers_at = answers.map(|answers| Answers {
                pid,
                name: name.clone(),
                cmdline: cmdline.clone(),
                ..answers.clone()
            });
            Service { conf, answers_at, ..Service::new(proc, pid, &name, stat.start_ticks) }
                .with_includes(wanted)
        });
        if service.pids.len() < PIDS_MAX {
            service.pids.push(pid);
        }
    }
    Ok(found)
}

/// A path as seen from outside `root`; one that is there already stays.
pub(super) fn under(root: &Path, path: &Path) -> PathBuf {
    if path.starts_with(root) {
        return path.to_owned();
    }
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Patterns of the `include` lines of a PHP-FPM configuration, as seen from outside `root`.
pub(super) fn parse_includes(text: &str, root: &Path) -> Vec<String> {
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (key.trim() == "include" && value.starts_with('/')).then(|| value.to_owned())
    };
    let patterns = text.lines().filter_map(value);
    patterns
        .map(|pattern| under(root, Path::new(&pattern)).to_string_lossy().into_owned())
        .collect()
}

pub(super) fn all_pids(proc: &Path) -> io::Result<Vec<u32>> {
    let entries = fs::read_dir(proc)?.collect::<io::Result<Vec<_>>>()?;
    let pid_of = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    Ok(entries.iter().filter_map(pid_of).collect())
}

/// Number given to the newest process; 0 when /proc does not tell.
pub(super) fn newest_pid(proc: &Path) -> u32 {
    let line = read_proc(&proc.join("loadavg")).ok().flatten().unwrap_or_default();
    line.trim_end().rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The known processes and those started since; none of these when the numbers began again from the
/// start, or there are so many that only a walk may look at them.
pub(super) fn with_new(mut known: Vec<u32>, last: u32, newest: u32) -> Vec<u32> {
    if last > 0 && newest.checked_sub(last).is_some_and(|n| n <= NEW_PIDS_MAX) {
        known.extend(last + 1..=newest);
    }
    known
}

/// The process name; with its configuration file when that is not the distribution's, so that two
/// masters started by hand are two services.
fn unit_name(name: &str, conf: Option<&Path>) -> String {
    match conf {
        Some(conf) if !conf.starts_with("/etc") && !conf.starts_with("/usr") => {
            clean(&format!("{name} {}", conf.display()))
        }
        _ => name.to_owned(),
    }
}

/// What is told of a name that anybody may have chosen.
fn clean(name: &str) -> String {
    let name = &name[..name.floor_char_boundary(UNIT_BYTES_MAX)];
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// True for processes that live and die under a main process.
fn is_worker(name: &str, cmdline: &str) -> bool {
    if is_php_fpm(name) {
        return cmdline.contains(": pool ");
    }
    ["nginx: worker", "nginx: cache"].iter().any(|title| cmdline.starts_with(title))
}

/// `php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)`
fn master_conf(cmdline: &str) -> Option<PathBuf> {
    let (_, rest) = cmdline.split_once("php-fpm: master process (")?;
    let (conf, _) = rest.split_once(')')?;
    conf.starts_with('/').then(|| conf.into())
}

/// True once no process of this number and name lives. Where that cannot be read, for want of file
/// handles or memory, nothing is known.
pub(super) fn is_gone(proc: &Path, pid: u32, name: &str) -> bool {
    match read_stat(proc, pid) {
        Ok(None) => true,
        Ok(Some(stat)) => parse_stat(&stat).is_some_and(|stat| stat.name != name || !stat.lives()),
        Err(_) => false,
    }
}

fn read_stat(proc: &Path, pid: u32) -> io::Result<Option<String>> {
    read_proc(&proc.join(format!("{pid}/stat")))
}

/// When a process started, from the ticks between boot and its start.
fn started_at(ticks: u64) -> Option<UnixMillis> {
    let after_boot_ms = ticks.checked_mul(1000)? / procfs::ticks_per_second().max(1);
    let boot_ms = sysinfo::System::boot_time().ok()?.checked_mul(1000)?;
    let at = i64::try_from(boot_ms.checked_add(after_boot_ms)?).ok()?;
    // The time of boot is in whole seconds.
    Some(UnixMillis(at).min(clock::now()))
}

/// What /proc/PID/stat says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat<'a> {
    pub(super) name: &'a str,
    state: char,
    parent: Option<u32>,
    /// Minor page faults.
    pub(super) n_faults: Option<u64>,
    /// Since boot.
    start_ticks: Option<u64>,
}

impl Stat<'_> {
    fn lives(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// `812 (php-fpm8.2) S 1 ...`: parent, page faults and start are fields 4, 10 and 22. The name may hold
/// blanks and brackets.
pub(super) fn parse_stat(stat: &str) -> Option<Stat<'_>> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut words = after.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    let parent = words.next().and_then(|word| word.parse().ok());
    let n_faults = words.nth(5).and_then(|word| word.parse().ok());
    let start_ticks = words.nth(11).and_then(|word| word.parse().ok());
    Some(Stat { name, state, parent, n_faults, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::processes::owners::owner;
    use crate::probes::processes::read::says_gone;

    fn process(proc: &Path, pid: u32, name: &str, state: char, cmdline: &str) {
        let dir = proc.join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
        fs::write(dir.join("stat"), format!("{pid} ({name}) {state} 1 1\n")).unwrap();
        fs::write(dir.join("cmdline"), cmdline.replace(' ', "\0")).unwrap();
        owned_by(proc, pid, 0);
    }

    fn owned_by(proc: &Path, pid: u32, uid: u32) {
        let status = format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\nGid:\t0\n");
        fs::write(proc.join(format!("{pid}/status")), status).unwrap();
    }

    fn wanted(root: &str, names: &[&str]) -> Wanted {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Wanted { root: root.into(), names, ..Wanted::default() }
    }

    fn units(found: &BTreeMap<String, Service>) -> Vec<(&str, &[u32])> {
        found.iter().map(|(unit, service)| (unit.as_str(), service.pids.as_slice())).collect()
    }

    #[test]
    fn main_processes_are_found_and_workers_zombies_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        process(proc, 10, "nginx", 'S', "nginx: master process /usr/sbin/nginx");
        process(proc, 11, "nginx", 'S', "nginx: worker process");
        process(
            proc,
            20,
            "php-fpm8.2",
            'S',
            "php-fpm: master process (/etc/php/8.2/fpm/php-fpm.conf)",
        );
        process(proc, 21, "php-fpm8.2", 'S', "php-fpm: pool www");
        process(proc, 30, "php-fpm8.2", 'S', "php-fpm: master process (/srv/b/fpm.conf)");
        process(proc, 40, "mysqld", 'Z', "");
        process(proc, 50, "bash", 'S', "bash nginx");
        process(proc, 60, "my-app", 'S', "/opt/my-app");
        fs::create_dir(proc.join("self")).unwrap();
        fs::create_dir(proc.join("99")).unwrap(); // vanished between the listing and the look
        let all = || all_pids(proc).unwrap();
        let found = find(proc, all(), &wanted("/", &["my-app.service"])).unwrap();
        let want: [(&str, &[u32]); 4] = [
            ("my-app", &[60]),
            ("nginx", &[10]),
            ("php-fpm8.2", &[20]),
            ("php-fpm8.2 /srv/b/fpm.conf", &[30]),
        ];
        assert_eq!(units(&found), want);
        let of_another_root = |root| {
            let found = find(proc, all(), &wanted(root, &[])).unwrap();
            units(&found).into_iter().map(|(unit, _)| unit.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of_another_root("/srv/b"), ["php-fpm8.2 /srv/b/fpm.conf"]);
        assert_eq!(of_another_root("/srv/bb"), [""; 0]);
        assert_eq!(of_another_root("/srv/"), [""; 0], "a part of a name is none");
        fs::write(proc.join("loadavg"), "0.00 0.01 0.05 2/212 30\n").unwrap();
        let pids = with_new(vec![10], 20, newest_pid(proc));
        let found = find(proc, pids, &wanted("/", &[])).unwrap();
        let want: [(&str, &[u32]); 2] = [("nginx", &[10]), ("php-fpm8.2 /srv/b/fpm.conf", &[30])];
        assert_eq!(units(&found), want, "known, and started since");
    }

    #[test]
    fn a_crowd_of_new_processes_and_numbers_from_the_start_wait_for_the_walk() {
        assert_eq!(with_new(vec![7], 9, 11), [7, 10, 11]);
        assert_eq!(with_new(vec![7], 9, 9), [7]);
        assert_eq!(with_new(vec![7], 900, 3), [7]);
        assert_eq!(with_new(vec![7], 0, 3), [7], "nothing was looked at yet");
        assert_eq!(with_new(vec![7], 9, 9 + NEW_PIDS_MAX + 1), [7]);
    }

    #[test]
    fn this_process_started_before_now_and_after_boot() {
        let stat = read_stat(Path::new("/proc"), std::process::id()).unwrap().expect("it runs");
        let ticks = parse_stat(&stat).and_then(|stat| stat.start_ticks).expect("linux tells");
        let at = started_at(ticks).expect("linux tells");
        let boot = sysinfo::System::boot_time().expect("linux tells") as i64 * 1000;
        assert!(at.0 >= boot && at <= clock::now(), "{at:?}");
        assert!(clock::now().0 - at.0 < 600_000, "{at:?} is no longer ago than a test runs");
    }

    #[test]
    fn a_reused_process_number_is_not_the_service() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 10, "nginx", 'S', "");
        assert!(!is_gone(dir.path(), 10, "nginx"));
        process(dir.path(), 10, "cron", 'S', "");
        assert!(is_gone(dir.path(), 10, "nginx"));
        process(dir.path(), 10, "nginx", 'Z', "");
        assert!(is_gone(dir.path(), 10, "nginx"));
        assert!(is_gone(dir.path(), 11, "nginx"));
        let brackets =
            Stat { name: "a) b", state: 'R', parent: Some(1), n_faults: None, start_ticks: None };
        assert_eq!(parse_stat("7 (a) b) R 1"), Some(brackets));
        let whole = "7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 70412 11821056 1 2";
        let stat = parse_stat(whole).unwrap();
        assert_eq!(
            (stat.parent, stat.n_faults, stat.start_ticks),
            (Some(1), Some(1), Some(70_412))
        );
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn forks_of_a_main_process_are_not_it_and_whoever_answers_for_a_site_is_a_service() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let child = |pid: u32, parent: u32| {
            let stat = format!("{pid} (apache2) S {parent} 1\n");
            fs::write(proc.join(format!("{pid}/stat")), stat).unwrap();
        };
        process(proc, 10, "apache2", 'S', "/usr/sbin/apache2 -k start");
        for pid in [11, 12] {
            process(proc, pid, "apache2", 'S', "/usr/sbin/apache2 -k start");
            child(pid, 10);
        }
        process(proc, 20, "node", 'S', "node /srv/shop.js");
        process(proc, 21, "node", 'S', "node /srv/blog.js");
        let mut wanted = wanted("/", &[]);
        let answers = |pid, cmdline: &str| Answers {
            address: "127.0.0.1:3000".into(),
            is_alone: true,
            pid,
            name: "node".into(),
            cmdline: cmdline.into(),
        };
        wanted.answers.push(answers(21, ""));
        let found = find(proc, all_pids(proc).unwrap(), &wanted).unwrap();
        let want: [(&str, &[u32]); 2] = [("apache2", &[10]), ("node 127.0.0.1:3000", &[21])];
        assert_eq!(units(&found), want);
        let known = found["node 127.0.0.1:3000"].answers_at.clone();
        assert_eq!(known, Some(answers(21, "node /srv/blog.js")));
        // Started again it has another number and the same command line.
        fs::remove_dir_all(proc.join("21")).unwrap();
        process(proc, 31, "node", 'S', "node /srv/blog.js");
        wanted.answers.extend(known);
        let found = find(proc, all_pids(proc).unwrap(), &wanted).unwrap();
        let want: [(&str, &[u32]); 2] = [("apache2", &[10]), ("node 127.0.0.1:3000", &[31])];
        assert_eq!(units(&found), want);
        assert!(Workers::tell_reloads("apache2") && found["apache2"].workers.is_some());
    }

    #[test]
    fn processes_that_some_user_named_like_a_service_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let proc = dir.path();
        let own_conf = dir.path().join("fpm.conf");
        fs::write(&own_conf, "include=/srv/own/*.conf\n").unwrap();
        let uid = owner(&own_conf).unwrap();
        let master = |conf: &Path| format!("php-fpm: master process ({})", conf.display());
        process(proc, 10, "mysqld", 'S', "mysqld");
        process(proc, 11, "mysqld", 'S', "mysqld");
        process(proc, 12, "nginx", 'S', "nginx: master process nginx");
        process(proc, 13, "php-fpm7.4", 'S', "php-fpm: master process (/etc/php/7.4/fpm.conf)");
        process(proc, 14, "my-app", 'S', "/srv/x/my-app");
        process(proc, 15, "php-fpm8.2", 'S', &master(&own_conf));
        for (pid, uid) in [(10, 27), (11, 4000), (12, 4000), (13, 4000), (14, 4000), (15, uid)] {
            owned_by(proc, pid, uid);
        }
        let mut wanted = wanted("/", &["nginx.service", "my-app"]);
        wanted.configured = vec!["my-app".into()];
        wanted.owners.uid_min = uid.clamp(28, 1000);
        let pids = |wanted: &Wanted| {
            let found = find(proc, all_pids(proc).unwrap(), wanted).unwrap();
            found.values().flat_map(|service| service.pids.clone()).collect::<BTreeSet<_>>()
        };
        let of_root = uid < 28; // the tests' own user, whose configuration is one of root's
        let want = if of_root { vec![10, 14, 15] } else { vec![10, 14] };
        assert_eq!(pids(&wanted), BTreeSet::from_iter(want));
        wanted.discovery =
            Arc::new(Discovery { config_files: vec![own_conf], ..Discovery::default() });
        assert_eq!(pids(&wanted), BTreeSet::from([10, 14, 15]), "of its configuration's owner");
        wanted.owners.own = vec![4000];
        assert_eq!(pids(&wanted).len(), 6, "a developer's own");
    }

    #[test]
    fn a_pipe_that_a_title_names_is_not_waited_for_and_no_other_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (proc, pipe) = (dir.path().join("proc"), dir.path().join("pipe"));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let strange = dir.path().join("strange.conf");
        fs::write(&strange, "include=/etc/*\n").unwrap();
        let title = |path: &Path| format!("php-fpm: master process ({})", path.display());
        process(&proc, 10, "php-fpm7.4", 'S', &title(&pipe));
        process(&proc, 20, "php-fpm7.4", 'S', &title(&strange));
        process(&proc, 30, "php-fpm7.4", 'S', "php-fpm: master process (/a\u{1b}[31m\nx)");
        let mut wanted = wanted("/", &[]);
        let includes = |wanted: &Wanted| {
            let found = find(&proc, all_pids(&proc).unwrap(), wanted).unwrap();
            assert!(found.keys().all(|unit| !unit.contains(char::is_control)), "{found:?}");
            found.into_values().flat_map(|service| service.includes).collect::<Vec<_>>()
        };
        assert_eq!(includes(&wanted), [""; 0]);
        let config_files = vec![pipe.clone(), strange];
        wanted.discovery = Arc::new(Discovery { config_files, ..Discovery::default() });
        assert_eq!(includes(&wanted), ["/etc/*"], "read by discovery, and a pipe among it");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("strange.conf"), &link).unwrap();
        assert_eq!(read_regular(&link, 9, OFlags::NOFOLLOW), None);
        assert_eq!(read_regular(&link, 9, OFlags::empty()).as_deref(), Some("include=/"));
        assert_eq!(clean(&"x".repeat(5000)).len(), UNIT_BYTES_MAX);
    }

    #[test]
    fn an_unreadable_proc_is_not_the_end_of_all_services() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 10, "nginx", 'S', "nginx: master process nginx");
        // A directory cannot be read as a file: an error that does not say that the process is gone.
        fs::remove_file(dir.path().join("10/stat")).unwrap();
        fs::create_dir(dir.path().join("10/stat")).unwrap();
        assert!(!is_gone(dir.path(), 10, "nginx"));
        assert!(find(dir.path(), vec![10], &wanted("/", &[])).is_err());
        assert!(all_pids(&dir.path().join("nowhere")).is_err());
        let check = |errno: rustix::io::Errno, want| {
            assert_eq!(says_gone(&errno.into()), want, "{errno:?}");
        };
        check(rustix::io::Errno::NOENT, true);
        check(rustix::io::Errno::SRCH, true);
        check(rustix::io::Errno::ACCESS, true);
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOMEM]
        {
            check(errno, false);
        }
    }
}
