//! Services as processes, where no systemd runs the machine.
//!
//! The known main processes are looked at each second, and while one is gone the processes that were
//! started since. The whole of /proc is walked every 10 s and never more often, whatever happens. Why a
//! process ended only its parent learns, so that is absent.

mod find;
mod owners;
mod read;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use tokio_util::sync::CancellationToken;
use wire::UnixMillis;

use super::Outlet;
use super::listeners::Listeners;
use super::services::{UNITS_MAX, Watcher, is_php_fpm};
use crate::clock;
use crate::discover::{Discovery, Pool};
use crate::timer::Ticker;
use crate::window::{ServiceDetail, ServiceState};
use find::{Answers, Service, Wanted, all_pids, find, is_gone, newest_pid, under, with_new};
use owners::Owners;
use read::read_regular;

pub(crate) use workers::Workers;

const LOOK: Duration = Duration::from_secs(1);
/// A walk costs some 10 us for each process of the machine.
const LOOKS_PER_WALK: u32 = 10;
/// A process that does not listen yet is starting for so long; then it has failed, ms.
const STARTS_FOR_MS: i64 = 10_000;

/// A service that is gone for longer is found by the next walk, if it comes back.
const AWAITED_FOR: Duration = Duration::from_secs(600);

/// Watches until `stop`. A vanished service is `inactive`, or `failed` when it left its sockets or the
/// file with its number behind: a clean stop removes them, a kill does not. One that lives but listens
/// at none of its addresses is starting, and soon has failed.
pub(crate) async fn watch(watcher: &mut Watcher, outlet: &Outlet, stop: &CancellationToken) {
    let root = watcher.root.clone();
    let owners = tokio::task::spawn_blocking(move || Owners::read(&root)).await;
    let owners = owners.unwrap_or_default();
    let mut has_told_unreadable = false;
    let mut looks = Ticker::new(LOOK);
    let mut services = BTreeMap::<String, Service>::new();
    let mut listeners = Listeners::new(&watcher.root);
    let mut walks = Walks::default();
    let mut is_told = true;
    let mut missing = Missing::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Cancel-safe: a timer.
            () = looks.tick() => {}
        }
        let proc = Path::new("/proc");
        look_at_workers(watcher, outlet, &mut services);
        let is_gone =
            |service: &Service| service.pids.iter().all(|&pid| is_gone(proc, pid, &service.name));
        let is_due = walks.is_due(watcher.discovery.has_changed().unwrap_or(false));
        let is_awaited = missing.is_awaited(clock::instant()) && newest_pid(proc) != walks.last_pid;
        let is_moved = services.values().any(|one| one.is_deaf || is_gone(one));
        if is_told && !is_due && !is_awaited && !is_moved {
            continue;
        }
        let discovery = watcher.discovery.borrow_and_update().clone();
        if is_due {
            watcher.upstreams.look(&discovery).await;
        }
        let mut wanted = wanted(watcher, &services, &missing);
        wanted.owners.clone_from(&owners);
        wanted.discovery = discovery.clone();
        let since = (!is_due).then_some(walks.last_pid);
        let walk = move || {
            let walked = walk(Path::new("/proc"), since, &wanted, &services, &mut listeners);
            (walked, services, listeners)
        };
        let Ok(done) = tokio::task::spawn_blocking(walk).await else { return };
        let walked;
        (walked, services, listeners) = done;
        let Walked { newest, mut found, left_behind } = match walked {
            Ok(walked) => walked,
            Err(error) => {
                if !std::mem::replace(&mut has_told_unreadable, true) {
                    tracing::info!(%error, "cannot read the processes of this machine: services are as they were seen last");
                }
                is_told = false;
                continue;
            }
        };
        walks.last_pid = newest;
        is_told = report(watcher, outlet, &found, &services, &left_behind, &discovery);
        for (unit, service) in &mut found {
            let before = services.get_mut(unit).filter(|before| before.run_id == service.run_id);
            if let Some(workers) = before.and_then(|before| before.workers.take()) {
                service.workers = Some(workers);
            }
        }
        // What a full queue refused is told again in the next round.
        let told_running = watcher.told_running();
        missing.note(&services, &found, clock::instant());
        services.retain(|unit, _| told_running.contains(unit) && !found.contains_key(unit));
        services.extend(found);
        watcher.save().await;
    }
}

/// What one look at processes found.
#[derive(Debug)]
struct Walked {
    newest: u32,
    found: BTreeMap<String, Service>,
    /// Services that are gone and did not clear up.
    left_behind: BTreeSet<String>,
}

/// Looks at all processes, or at the known ones and those started `since` this one. On the blocking pool:
/// what services name and leave behind may be on a file system that hangs.
fn walk(
    proc: &Path,
    since: Option<u32>,
    wanted: &Wanted,
    before: &BTreeMap<String, Service>,
    listeners: &mut Listeners,
) -> io::Result<Walked> {
    // Asked first: what starts meanwhile is new to the next look.
    let newest = newest_pid(proc);
    let known = || before.values().flat_map(|service| service.pids.iter().copied()).collect();
    let pids = match since {
        Some(last) => with_new(known(), last, newest),
        None => all_pids(proc)?,
    };
    let mut found = find(proc, pids, wanted)?;
    // Not there once /proc is no more, and then nor was anything else.
    std::fs::read(proc.join("self/stat"))?;
    for service in found.values_mut() {
        service.is_deaf = is_deaf(service, &wanted.root, &wanted.discovery, listeners);
    }
    let gone = before.iter().filter(|(unit, _)| !found.contains_key(*unit));
    let left = gone.filter(|(_, service)| leaves_behind(service, &wanted.root, &wanted.discovery));
    let left_behind = left.map(|(unit, _)| unit.clone()).collect();
    Ok(Walked { newest, found, left_behind })
}

fn leaves_behind(service: &Service, root: &Path, discovery: &Discovery) -> bool {
    let pools = pools_of(service, root, &discovery.pools);
    pools.iter().any(|pool| has_socket(root, &pool.listen))
        || service.answers_at.as_ref().is_some_and(|at| has_socket(root, &at.address))
        || has_pid_file(root, service)
}

fn look_at_workers(
    watcher: &mut Watcher,
    outlet: &Outlet,
    services: &mut BTreeMap<String, Service>,
) {
    for (unit, service) in services {
        if let Some(workers) = &mut service.workers
            && workers.look(Path::new("/proc"))
        {
            watcher.reloaded(outlet, unit, clock::now());
        }
    }
}

/// Services that are gone: what starts is looked at each second for a while, as one may come back.
#[derive(Debug, Default)]
struct Missing(BTreeMap<String, (Option<Answers>, Instant)>);

impl Missing {
    fn note(
        &mut self,
        before: &BTreeMap<String, Service>,
        found: &BTreeMap<String, Service>,
        now: Instant,
    ) {
        for (unit, service) in before {
            if !found.contains_key(unit) && self.0.len() < UNITS_MAX {
                let gone = || (service.answers_at.clone(), now);
                self.0.entry(unit.clone()).or_insert_with(gone);
            }
        }
        self.0.retain(|unit, _| !found.contains_key(unit));
    }

    fn is_awaited(&self, now: Instant) -> bool {
        self.0.values().any(|(_, since)| now.saturating_duration_since(*since) < AWAITED_FOR)
    }
}

/// What to look for: by name, and whoever answers for sites, now or before it was started again.
fn wanted(watcher: &Watcher, services: &BTreeMap<String, Service>, missing: &Missing) -> Wanted {
    let holders = watcher.upstreams.holders();
    let n_addresses = |pid| holders.values().filter(|holder| holder.pid == pid).count();
    let mut answers: Vec<Answers> = holders
        .iter()
        .map(|(address, holder)| Answers {
            address: address.clone(),
            is_alone: n_addresses(holder.pid) == 1,
            pid: holder.pid,
            name: holder.process.clone(),
            cmdline: String::new(),
        })
        .collect();
    answers.extend(services.values().filter_map(|service| service.answers_at.clone()));
    let gone = missing.0.values().filter_map(|(answers, _)| answers.clone());
    answers.extend(gone.filter(|gone| holders.contains_key(&gone.address)));
    Wanted {
        root: watcher.root.clone(),
        names: watcher.names().into_iter().collect(),
        configured: watcher.configured.clone(),
        answers,
        ..Wanted::default()
    }
}

/// True when none of the addresses that are known of it has a listener.
fn is_deaf(
    service: &Service,
    root: &Path,
    discovery: &Discovery,
    listeners: &mut Listeners,
) -> bool {
    let mut addresses: Vec<String> =
        pools_of(service, root, &discovery.pools).into_iter().map(|pool| pool.listen).collect();
    addresses.extend(service.answers_at.as_ref().map(|answers| answers.address.clone()));
    let now = clock::instant();
    !addresses.is_empty() && addresses.iter().all(|at| listeners.why_absent(at, now).is_some())
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

/// Tells what runs now, and what was told to run and does no longer; false when a full queue refused
/// some of it.
fn report(
    watcher: &mut Watcher,
    outlet: &Outlet,
    now: &BTreeMap<String, Service>,
    before: &BTreeMap<String, Service>,
    left_behind: &BTreeSet<String>,
    discovery: &Discovery,
) -> bool {
    let root = watcher.root.clone();
    let mut is_told = true;
    let mut tell = |watcher: &mut Watcher, unit: &str, state, pool, at: Option<UnixMillis>| {
        let (unit, at) = (unit.to_owned(), at.unwrap_or_else(clock::now));
        let detail = ServiceDetail::default();
        is_told &= watcher.tell(outlet, ServiceState { unit, state, pool, at, detail });
    };
    for (unit, service) in now {
        let pool = served(service, &root, discovery);
        watcher.running(outlet, unit, pool.as_deref(), &service.run());
        let age_ms = service.since.map_or(0, |since| clock::now().0 - since.0);
        let (state, at) = match service.is_deaf {
            false => ("active", service.since),
            true if age_ms < STARTS_FOR_MS => ("activating", service.since),
            true => ("failed", None),
        };
        tell(watcher, unit, state, pool, at);
    }
    for (unit, service) in before {
        if now.contains_key(unit) {
            continue;
        }
        let pool = served(service, &root, discovery);
        let state = if left_behind.contains(unit) { "failed" } else { "inactive" };
        tell(watcher, unit, state, pool, None);
    }
    is_told
}

/// The pool or address a service serves if it is one alone.
fn served(service: &Service, root: &Path, discovery: &Discovery) -> Option<String> {
    let pools = pools_of(service, root, &discovery.pools);
    if let [pool] = &pools[..] {
        Some(pool.name.clone())
    } else {
        let answers = service.answers_at.as_ref().filter(|answers| answers.is_alone);
        answers.map(|answers| answers.address.clone())
    }
}

fn has_socket(root: &Path, listen: &str) -> bool {
    let listen = Path::new(listen);
    listen.is_absolute() && (listen.exists() || under(root, listen).exists())
}

/// True when the file that names the main process outlived it.
fn has_pid_file(root: &Path, service: &Service) -> bool {
    let names_it =
        |text: String| text.trim().parse().is_ok_and(|pid: u32| service.pids.contains(&pid));
    let read = |place: &PathBuf| read_regular(&root.join(place), 32, OFlags::NOFOLLOW);
    pid_files(&service.name).iter().any(|place| read(place).is_some_and(names_it))
}

/// Where a process of this name may keep its number; a name that is a path keeps none.
fn pid_files(name: &str) -> Vec<PathBuf> {
    if name.contains('/') {
        return Vec::new();
    }
    vec![format!("run/{name}.pid").into(), format!("run/{name}/{name}.pid").into()]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::GatherStatus;
    use crate::probes::processes::find::parse_includes;
    use crate::window::Observation;
    use std::fs;
    use std::path::PathBuf;

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
        let mut watcher = Watcher::new("/".into(), dir.path(), Vec::new(), known, gather);
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
        let mut states = |now: &BTreeMap<_, _>, before: &BTreeMap<_, _>, watcher: &mut Watcher| {
            let gone = before.iter().filter(|(unit, _)| !now.contains_key(*unit));
            let left = gone.filter(|(_, one)| leaves_behind(one, Path::new("/"), &discovery));
            let left = left.map(|(unit, _): (&String, _)| unit.clone()).collect();
            report(watcher, &outlet, now, before, &left, &discovery);
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
    fn a_pipe_in_the_place_of_a_pid_file_and_a_name_that_is_a_path_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run/my-app")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let make = |path: &str| {
            let at = dir.path().join(path);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, at, kind, mode, 0).unwrap();
        };
        make("run/my-app.pid");
        make("evil.pid");
        let service =
            |name: &str| Service { name: name.into(), pids: vec![7], ..Service::default() };
        assert!(!has_pid_file(dir.path(), &service("my-app")));
        assert!(!has_pid_file(dir.path(), &service("../evil")));
        fs::write(dir.path().join("run/my-app/my-app.pid"), "7\n").unwrap();
        assert!(has_pid_file(dir.path(), &service("my-app")));
        assert_eq!(pid_files("../evil"), Vec::<PathBuf>::new());
    }

    #[test]
    fn where_proc_is_no_more_nothing_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let before = BTreeMap::from([("nginx".to_owned(), Service::default())]);
        let mut listeners = Listeners::new(Path::new("/"));
        let mut look = |proc: &Path, since| {
            walk(proc, since, &Wanted::default(), &before, &mut listeners)
                .map(|walked| walked.found)
        };
        assert!(look(dir.path(), None).is_err(), "an empty directory has no process, nor this one");
        assert!(look(dir.path(), Some(7)).is_err());
        assert!(look(Path::new("/proc"), Some(u32::MAX)).is_ok());
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
