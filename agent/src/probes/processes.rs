//! Services as processes, where no systemd runs the machine.
//!
//! The known main processes are looked at each second, and when one is gone the processes that were
//! started since. The whole of /proc is walked every 10 s and never more often, whatever happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::Outlet;
use super::services::{Watcher, is_php_fpm, is_service_process};
use crate::clock;
use crate::discover::{Discovery, Pool};
use crate::window::ServiceState;

const LOOK: Duration = Duration::from_secs(1);
/// A walk costs some 10 us for each process of the machine.
const LOOKS_PER_WALK: u32 = 10;
/// Most processes started since the last walk that are looked at before the next.
const NEW_PIDS_MAX: u32 = 1024;

/// Processes remembered of one service; when none of them is left, a walk looks for others.
const PIDS_MAX: usize = 4;

/// Longest command line read.
const CMDLINE_BYTES_MAX: usize = 4096;

/// One service: a main process, or several of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Service {
    /// Name of the process.
    name: String,
    /// Configuration file that a PHP-FPM master names in its title, and what that includes.
    conf: Option<PathBuf>,
    includes: Vec<String>,
    pids: Vec<u32>,
    /// When the first of them started; `None` when /proc does not tell.
    since: Option<UnixMillis>,
}

/// Watches until `stop`. A vanished service is `inactive`, or `failed` when it left its sockets
/// behind: a clean stop of PHP-FPM removes them, a kill does not.
pub(crate) async fn watch(watcher: &mut Watcher, outlet: &Outlet, stop: &CancellationToken) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut services = BTreeMap::<String, Service>::new();
    let mut walks = Walks::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a timer.
            _ = looks.tick() => {}
        }
        let proc = Path::new("/proc");
        let gone = services
            .values()
            .any(|service| !service.pids.iter().any(|&pid| is_alive(proc, pid, &service.name)));
        let is_due = walks.is_due(watcher.discovery.has_changed().unwrap_or(false));
        if !gone && !is_due && watcher.told_running().len() == services.len() {
            continue;
        }
        let discovery = watcher.discovery.borrow_and_update().clone();
        let root = watcher.root.clone();
        let names = discovery.services.clone();
        let known = services.values().flat_map(|service| service.pids.iter().copied()).collect();
        let last_pid = walks.last_pid;
        let walk = move || {
            let proc = Path::new("/proc");
            // Asked first: what starts meanwhile is new to the next look.
            let newest = newest_pid(proc);
            let pids = if is_due { all_pids(proc) } else { with_new(known, last_pid, newest) };
            (newest, find(proc, pids, &root, &names))
        };
        let Ok((newest, found)) = tokio::task::spawn_blocking(walk).await else { return };
        walks.last_pid = newest;
        report(watcher, outlet, &found, &services, &discovery);
        // What a full queue refused is told again in the next round.
        let told_running = watcher.told_running();
        services.retain(|unit, _| told_running.contains(unit) && !found.contains_key(unit));
        services.extend(found);
    }
}

/// When /proc is walked.
#[derive(Debug, Default)]
struct Walks {
    /// Looks since the last walk; `None` before the first.
    n_looks: Option<u32>,
    was_looked: bool,
    /// Newest process at the last look at processes.
    last_pid: u32,
}

impl Walks {
    /// True when this look, a second after the one before, is to be a walk. The first one waits for
    /// the discovery, for one look at most.
    fn is_due(&mut self, learnt: bool) -> bool {
        let is_due = match self.n_looks {
            None => learnt || std::mem::replace(&mut self.was_looked, true),
            Some(n_looks) => n_looks + 1 >= LOOKS_PER_WALK,
        };
        self.n_looks = if is_due { Some(0) } else { self.n_looks.map(|n_looks| n_looks + 1) };
        is_due
    }
}

/// Tells what runs now, and what was told to run and does no longer.
fn report(
    watcher: &mut Watcher,
    outlet: &Outlet,
    now: &BTreeMap<String, Service>,
    before: &BTreeMap<String, Service>,
    discovery: &Discovery,
) {
    let root = watcher.root.clone();
    let served = |service: &Service| pools_of(service, &root, &discovery.pools);
    let mut tell = |unit: &str, state: &'static str, pools: &[Pool], at: Option<UnixMillis>| {
        let pool = if let [pool] = pools { Some(pool.name.clone()) } else { None };
        let at = at.unwrap_or_else(clock::now);
        watcher.tell(outlet, ServiceState { unit: unit.to_owned(), state, pool, at });
    };
    for (unit, service) in now {
        tell(unit, "active", &served(service), service.since);
    }
    for (unit, service) in before {
        if now.contains_key(unit) {
            continue;
        }
        let pools = served(service);
        let left_behind = pools.iter().any(|pool| has_socket(&root, pool));
        tell(unit, if left_behind { "failed" } else { "inactive" }, &pools, None);
    }
}

fn has_socket(root: &Path, pool: &Pool) -> bool {
    let listen = Path::new(&pool.listen);
    listen.is_absolute() && (listen.exists() || under(root, listen).exists())
}

/// A path as seen from outside `root`; one that is there already stays.
fn under(root: &Path, path: &Path) -> PathBuf {
    if path.starts_with(root) {
        return path.to_owned();
    }
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Pools a PHP-FPM master serves: those its configuration file defines or includes; where that file
/// cannot be read, those of the unit with the same version.
fn pools_of(service: &Service, root: &Path, pools: &[Pool]) -> Vec<Pool> {
    if !is_php_fpm(&service.name) {
        return Vec::new();
    }
    let file = |pool: &Pool| {
        let numbered = pool.source.rsplit_once(':').map(|(file, _)| file);
        under(root, Path::new(numbered.unwrap_or(&pool.source)))
    };
    let included = |path: &Path| {
        let path = path.to_string_lossy();
        service.includes.iter().any(|pattern| match glob::Pattern::new(pattern) {
            Ok(pattern) => pattern.matches(&path),
            Err(_) => *pattern == path,
        })
    };
    let conf = service.conf.as_deref().map(|conf| under(root, conf));
    let defined = |pool: &&Pool| conf.as_ref() == Some(&file(pool)) || included(&file(pool));
    let found: Vec<Pool> = pools.iter().filter(defined).cloned().collect();
    if !found.is_empty() || !service.includes.is_empty() {
        return found;
    }
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let version = digits(&service.name);
    let of_version =
        |pool: &&Pool| pool.unit.as_deref().is_some_and(|unit| digits(unit) == version);
    pools.iter().filter(of_version).cloned().collect()
}

/// Patterns of the `include` lines of a PHP-FPM configuration, as seen from outside `root`.
fn parse_includes(text: &str, root: &Path) -> Vec<String> {
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

fn all_pids(proc: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let pid_of = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    entries.flatten().filter_map(pid_of).collect()
}

/// Number given to the newest process; 0 when /proc does not tell.
fn newest_pid(proc: &Path) -> u32 {
    let line = read_line(&proc.join("loadavg")).unwrap_or_default();
    line.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The known processes and those started since; none of these when the numbers began again from the
/// start, or there are so many that only a walk may look at them.
fn with_new(mut known: Vec<u32>, last: u32, newest: u32) -> Vec<u32> {
    if last > 0 && newest.checked_sub(last).is_some_and(|n| n <= NEW_PIDS_MAX) {
        known.extend(last + 1..=newest);
    }
    known
}

/// The main processes of services among these, by the unit name they are told under. Under a root
/// other than `/` only processes whose command line names it count.
fn find(
    proc: &Path,
    mut pids: Vec<u32>,
    root: &Path,
    services: &[String],
) -> BTreeMap<String, Service> {
    let mut found = BTreeMap::<String, Service>::new();
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        let Some(name) = read_line(&proc.join(format!("{pid}/comm"))) else { continue };
        if !is_service_process(&name, services) || !is_alive(proc, pid, &name) {
            continue;
        }
        let cmdline = read_cmdline(&proc.join(format!("{pid}/cmdline")));
        if is_worker(&name, &cmdline)
            || root != Path::new("/") && !cmdline.contains(&*root.to_string_lossy())
        {
            continue;
        }
        let conf = master_conf(&cmdline);
        let unit = unit_name(&name, conf.as_deref());
        let service = found.entry(unit).or_insert_with(|| {
            let text = conf.as_ref().and_then(|conf| std::fs::read(under(root, conf)).ok());
            let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            let includes = text.map_or_else(Vec::new, |text| parse_includes(&text, root));
            let since = started_at(proc, pid);
            Service { name: name.clone(), conf, includes, pids: Vec::new(), since }
        });
        if service.pids.len() < PIDS_MAX {
            service.pids.push(pid);
        }
    }
    found
}

/// The process name; with its configuration file when that is not the distribution's, so that two
/// masters started by hand are two services.
fn unit_name(name: &str, conf: Option<&Path>) -> String {
    match conf {
        Some(conf) if !conf.starts_with("/etc") && !conf.starts_with("/usr") => {
            format!("{name} {}", conf.display())
        }
        _ => name.to_owned(),
    }
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

/// True while the process has this name and is no zombie.
fn is_alive(proc: &Path, pid: u32, name: &str) -> bool {
    let stat = std::fs::read(proc.join(format!("{pid}/stat"))).unwrap_or_default();
    parse_stat(&String::from_utf8_lossy(&stat))
        .is_some_and(|stat| stat.name == name && !matches!(stat.state, 'Z' | 'X' | 'x'))
}

fn started_at(proc: &Path, pid: u32) -> Option<UnixMillis> {
    let stat = std::fs::read(proc.join(format!("{pid}/stat"))).ok()?;
    let ticks = parse_stat(&String::from_utf8_lossy(&stat))?.start_ticks?;
    let after_boot_ms = ticks.checked_mul(1000)? / procfs::ticks_per_second().max(1);
    let boot_ms = sysinfo::System::boot_time().ok()?.checked_mul(1000)?;
    let at = i64::try_from(boot_ms.checked_add(after_boot_ms)?).ok()?;
    // The time of boot is in whole seconds.
    Some(UnixMillis(at).min(clock::now()))
}

/// What /proc/PID/stat says.
#[derive(Debug, PartialEq, Eq)]
struct Stat<'a> {
    name: &'a str,
    state: char,
    /// Since boot.
    start_ticks: Option<u64>,
}

/// `812 (php-fpm8.2) S 1 ...`, the start as 22nd field. The name may hold blanks and brackets.
fn parse_stat(stat: &str) -> Option<Stat<'_>> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let state = after.trim_start().chars().next()?;
    let start_ticks = after.split_ascii_whitespace().nth(19).and_then(|word| word.parse().ok());
    Some(Stat { name, state, start_ticks })
}

fn read_line(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// The command line with blanks between its arguments.
fn read_cmdline(path: &Path) -> String {
    let mut bytes = std::fs::read(path).unwrap_or_default();
    bytes.truncate(CMDLINE_BYTES_MAX);
    let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::GatherStatus;
    use crate::window::Observation;
    use std::fs;

    fn process(proc: &Path, pid: u32, name: &str, state: char, cmdline: &str) {
        let dir = proc.join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("comm"), format!("{name}\n")).unwrap();
        fs::write(dir.join("stat"), format!("{pid} ({name}) {state} 1 1\n")).unwrap();
        fs::write(dir.join("cmdline"), cmdline.replace(' ', "\0")).unwrap();
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
        let all = || all_pids(proc);
        let found = find(proc, all(), Path::new("/"), &["my-app.service".to_owned()]);
        let want: [(&str, &[u32]); 4] = [
            ("my-app", &[60]),
            ("nginx", &[10]),
            ("php-fpm8.2", &[20]),
            ("php-fpm8.2 /srv/b/fpm.conf", &[30]),
        ];
        assert_eq!(units(&found), want);
        let found = find(proc, all(), Path::new("/srv/b"), &[]);
        assert_eq!(units(&found), [("php-fpm8.2 /srv/b/fpm.conf", &[30_u32][..])]);
        fs::write(proc.join("loadavg"), "0.00 0.01 0.05 2/212 30\n").unwrap();
        let pids = with_new(vec![10], 20, newest_pid(proc));
        let found = find(proc, pids, Path::new("/"), &[]);
        let want: [(&str, &[u32]); 2] = [("nginx", &[10]), ("php-fpm8.2 /srv/b/fpm.conf", &[30])];
        assert_eq!(units(&found), want, "known, and started since");
    }

    #[test]
    fn processes_are_walked_every_ten_seconds_and_never_more_often() {
        // Whatever each second teaches, and when the discovery comes.
        for first_learnt in [0, 1, 5, 99] {
            let mut walks = Walks::default();
            let at = (0..100_u32).filter(|second| walks.is_due(*second >= first_learnt));
            let at: Vec<u32> = at.collect();
            assert_eq!(at[0], first_learnt.min(1), "the first does not wait long");
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] == LOOKS_PER_WALK), "{at:?}");
        }
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
        let at = started_at(Path::new("/proc"), std::process::id()).expect("linux tells");
        let boot = sysinfo::System::boot_time().expect("linux tells") as i64 * 1000;
        assert!(at.0 >= boot && at <= clock::now(), "{at:?}");
        assert!(clock::now().0 - at.0 < 600_000, "{at:?} is no longer ago than a test runs");
    }

    #[test]
    fn a_killed_service_failed_and_a_stopped_one_is_inactive() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("www.sock");
        fs::write(&socket, "").unwrap();
        let conf = dir.path().join("fpm.conf");
        let discovery = Discovery {
            pools: vec![Pool {
                name: "www".into(),
                listen: socket.display().to_string(),
                source: format!("{}:1", conf.display()),
                ..Pool::default()
            }],
            ..Discovery::default()
        };
        let (_keep, known) = tokio::sync::watch::channel(std::sync::Arc::default());
        let (_keep_too, gather) = tokio::sync::watch::channel(GatherStatus::default());
        let mut watcher = Watcher::new("/".into(), known, gather);
        let (tx, mut rx) = tokio::sync::mpsc::channel(1);
        let outlet = Outlet::new(tx, std::sync::Arc::default());
        let service = |name: &str| Service {
            name: name.into(),
            conf: is_php_fpm(name).then(|| conf.clone()),
            pids: vec![1],
            since: Some(UnixMillis(5)),
            ..Service::default()
        };
        let running = BTreeMap::from([("php-fpm".to_owned(), service("php-fpm"))]);
        let none = BTreeMap::new();
        let mut states = |now, before, watcher: &mut Watcher| {
            report(watcher, &outlet, now, before, &discovery);
            let told = rx.try_recv().ok();
            told.map(|told| match told {
                Observation::Service(s) => (s.state, s.pool, s.at == UnixMillis(5)),
                other => panic!("{other:?}"),
            })
        };
        let www = || Some("www".to_owned());
        assert_eq!(states(&running, &none, &mut watcher), Some(("active", www(), true)));
        assert_eq!(states(&running, &running, &mut watcher), None);
        // Killed: the socket file is still there. Stopped: it is gone.
        assert_eq!(states(&none, &running, &mut watcher), Some(("failed", www(), false)));
        assert_eq!(states(&running, &none, &mut watcher), Some(("active", www(), true)));
        fs::remove_file(&socket).unwrap();
        assert_eq!(states(&none, &running, &mut watcher), Some(("inactive", www(), false)));
        assert!(watcher.told_running().is_empty());
    }

    #[test]
    fn a_reused_process_number_is_not_the_service() {
        let dir = tempfile::tempdir().unwrap();
        process(dir.path(), 10, "nginx", 'S', "");
        assert!(is_alive(dir.path(), 10, "nginx"));
        process(dir.path(), 10, "cron", 'S', "");
        assert!(!is_alive(dir.path(), 10, "nginx"));
        process(dir.path(), 10, "nginx", 'Z', "");
        assert!(!is_alive(dir.path(), 10, "nginx"));
        assert!(!is_alive(dir.path(), 11, "nginx"));
        let brackets = Stat { name: "a) b", state: 'R', start_ticks: None };
        assert_eq!(parse_stat("7 (a) b) R 1"), Some(brackets));
        let whole = "7 (a) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 70412 11821056 1 2";
        assert_eq!(parse_stat(whole).and_then(|stat| stat.start_ticks), Some(70_412));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn a_master_is_mapped_to_the_pools_it_defines_or_includes() {
        let pool = |name: &str, source: &str, unit: Option<&str>| Pool {
            name: name.into(),
            source: source.into(),
            unit: unit.map(str::to_owned),
            ..Pool::default()
        };
        let unit = Some("php8.2-fpm.service");
        let pools = [
            pool("www", "/etc/php/8.2/fpm/pool.d/www.conf:4", unit),
            pool("shop", "/etc/php/8.2/fpm/pool.d/shop.conf:4", unit),
            pool("a", "/srv/fpm/a.conf:3", None),
            pool("b", "/r/srv/b/pool.d/b.conf:1", None),
        ];
        let check = |conf: Option<&str>, text: &str, root: &str, want: &[&str]| {
            let root = Path::new(root);
            let service = Service {
                name: "php-fpm8.2".into(),
                conf: conf.map(PathBuf::from),
                includes: parse_includes(text, root),
                ..Service::default()
            };
            let found = pools_of(&service, root, &pools);
            let names: Vec<_> = found.iter().map(|pool| pool.name.as_str()).collect();
            assert_eq!(names, want, "{conf:?} {text:?}");
        };
        let main = Some("/etc/php/8.2/fpm/php-fpm.conf");
        check(main, "include=/etc/php/8.2/fpm/pool.d/*.conf", "/", &["www", "shop"]);
        check(main, "[global]\n include = /etc/php/8.2/fpm/pool.d/shop.conf\n", "/", &["shop"]);
        check(main, "", "/", &["www", "shop"]); // not readable: by version
        check(Some("/srv/fpm/a.conf"), "[a]\nlisten = /run/a.sock", "/", &["a"]);
        check(Some("/srv/b/fpm.conf"), "include=/srv/b/pool.d/*", "/r", &["b"]);
        check(Some("/r/srv/b/fpm.conf"), "include=/r/srv/b/pool.d/*", "/r", &["b"]);
        check(Some("/srv/c/fpm.conf"), "include=/srv/c/*.conf", "/", &[]);
        check(None, "", "/", &["www", "shop"]);
        let other = Service { name: "nginx".into(), ..Service::default() };
        assert!(pools_of(&other, Path::new("/"), &pools).is_empty());
    }
}
