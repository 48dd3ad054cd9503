//! Servers of which there is only the configuration and the logs. Real agents discover them; the tests
//! write what their nginx would: for many servers or sites, and for faults that begin at an instant.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock;
use crate::feed::client;
use crate::fleet::AgentSpec;
use crate::root::Root;
use crate::wait::pause;

/// How often is looked which requests are due.
const SLICE: Duration = Duration::from_millis(20);

/// One server: an nginx with sites on PHP-FPM pools.
#[derive(Debug)]
pub struct FedServer {
    name: String,
    root: Root,
    pools: Vec<(String, Vec<String>)>,
}

impl FedServer {
    /// Writes its configuration and empty logs: PHP-FPM pools by name, and how many sites each runs.
    #[must_use]
    pub fn new(name: &str, pools: &[(&str, usize)]) -> Self {
        let root = Root::new();
        let mut sites = String::new();
        let mut with_sites = Vec::new();
        for (pool, n) in pools {
            let names: Vec<String> =
                (1..=*n).map(|i| format!("{pool}{i:03}.{name}.test")).collect();
            for site in &names {
                let pass = format!("location ~ \\.php$ {{ fastcgi_pass unix:{}; }}", socket(pool));
                writeln!(sites, "server {{\n  listen 80;\n  server_name {site};\n  {pass}\n}}")
                    .expect("to a string");
            }
            root.write(
                &format!("etc/php/8.2/fpm/pool.d/{pool}.conf"),
                &format!(
                    "[{pool}]\nlisten = {}\npm = dynamic\npm.max_children = 20\n",
                    socket(pool)
                ),
            );
            with_sites.push(((*pool).to_owned(), names));
        }
        root.write(
            "etc/nginx/nginx.conf",
            "events {}\nhttp {\n  log_format hosted '$host:$server_port $remote_addr - $remote_user \
             [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \
             \"$http_user_agent\"';\n  access_log /var/log/nginx/access.log hosted;\n  \
             error_log /var/log/nginx/error.log;\n  include /etc/nginx/sites-enabled/*;\n}\n",
        );
        root.write("etc/nginx/sites-enabled/all", &sites);
        root.write("var/log/nginx/access.log", "");
        root.write("var/log/nginx/error.log", "");
        root.write("var/log/dpkg.log", "");
        Self { name: name.to_owned(), root, pools: with_sites }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// An agent that discovers it.
    #[must_use]
    pub fn agent(&self) -> AgentSpec {
        AgentSpec::new(&self.name).root(&self.root)
    }

    /// All its sites, sorted.
    #[must_use]
    pub fn sites(&self) -> Vec<String> {
        let mut sites: Vec<String> =
            self.pools.iter().flat_map(|(_, sites)| sites.clone()).collect();
        sites.sort();
        sites
    }

    /// What dpkg writes when it upgrades a package.
    pub fn upgrade(&self, package: &str, from: &str, to: &str) {
        let at = jiff::Zoned::now();
        let at = at.strftime("%Y-%m-%d %H:%M:%S");
        let path = self.root.join("var/log/dpkg.log");
        let mut log = File::options().append(true).open(path).expect("it was written at the start");
        write!(log, "{at} upgrade {package} {from} {to}\n{at} status installed {package} {to}\n")
            .expect("the log is writable");
    }

    fn open(&self) -> Fed {
        let open = |name: &str| {
            let path = self.root.join(&format!("var/log/nginx/{name}"));
            File::options().append(true).open(path).expect("it was written at the start")
        };
        Fed {
            name: self.name.clone(),
            pools: self.pools.clone(),
            access: open("access.log"),
            errors: open("error.log"),
            n_lines: 0,
        }
    }
}

fn socket(pool: &str) -> String {
    format!("/run/php/{pool}.sock")
}

/// A server while its logs are written.
struct Fed {
    name: String,
    pools: Vec<(String, Vec<String>)>,
    access: File,
    errors: File,
    n_lines: u64,
}

impl Fed {
    /// Writes the requests of all sites from the `done`-th to the `due`-th each; sites are spread over
    /// the time between two of their requests, `due` and `done` being fractions. Returns when the first
    /// that failed was written, in ms; `None` when none did.
    fn write(&mut self, done: f64, due: f64, failing: &Failing) -> Option<i64> {
        let now = jiff::Timestamp::from_second(clock::now_s()).expect("now is in range");
        let (mut access, mut errors) = (String::new(), String::new());
        let n_sites = self.pools.iter().map(|(_, sites)| sites.len()).sum::<usize>() as f64;
        let mut ix = 0.0;
        for (pool, sites) in &self.pools {
            let n_failing = failing.get(&(self.name.clone(), pool.clone())).copied().unwrap_or(0);
            for (nth, site) in sites.iter().enumerate() {
                let phase = ix / n_sites;
                ix += 1.0;
                let n = ((due + phase).floor() - (done + phase).floor()) as u64;
                for _ in 0..n {
                    self.n_lines += 1;
                    let fails = nth < n_failing;
                    request(self.n_lines, site, pool, fails, now, &mut access, &mut errors);
                }
            }
        }
        if access.is_empty() {
            return None;
        }
        // nginx writes the error line of a request before its access line.
        self.errors.write_all(errors.as_bytes()).expect("the log is writable");
        let at_ms = clock::now_ms();
        self.access.write_all(access.as_bytes()).expect("the log is writable");
        (!errors.is_empty()).then_some(at_ms)
    }
}

fn request(
    n: u64,
    site: &str,
    pool: &str,
    fails: bool,
    now: jiff::Timestamp,
    access: &mut String,
    errors: &mut String,
) {
    let (client, socket) = (client(n), socket(pool));
    if fails {
        let zone = jiff::tz::TimeZone::system();
        writeln!(
            errors,
            "{} [crit] 812#812: *{n} connect() to unix:{socket} failed (2: No such file or directory) \
             while connecting to upstream, client: {client}, server: {site}, request: \"GET /page/{n} \
             HTTP/1.1\", upstream: \"fastcgi://unix:{socket}:\", host: \"{site}\"",
            now.to_zoned(zone).strftime("%Y/%m/%d %H:%M:%S"),
        )
        .expect("to a string");
    }
    writeln!(
        access,
        "{site}:80 {client} - - [{}] \"GET /page/{n} HTTP/1.1\" {} 157 \"-\" \"feed\"",
        now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
        if fails { 502 } else { 200 },
    )
    .expect("to a string");
}

/// Steady traffic on all sites of some servers, written until it is dropped.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    faults: Arc<Mutex<Faults>>,
    thread: Option<JoinHandle<()>>,
}

/// How many sites of a pool fail, the first ones, by server and pool.
type Failing = BTreeMap<(String, String), usize>;

#[derive(Debug, Default)]
struct Faults {
    failing: Failing,
    /// When each server wrote its first failure since all was well, in ms.
    first_ms: BTreeMap<String, i64>,
}

impl Traffic {
    /// Each site is asked `per_second` times a second, from ever different clients.
    #[must_use]
    pub fn start(servers: &[FedServer], per_second: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let faults = Arc::new(Mutex::new(Faults::default()));
        let mut fed: Vec<Fed> = servers.iter().map(FedServer::open).collect();
        let (stopped, fails) = (Arc::clone(&stop), Arc::clone(&faults));
        let thread = std::thread::spawn(move || {
            let (started, mut done) = (clock::instant(), 0.0);
            while !stopped.load(Ordering::Relaxed) {
                let due = started.elapsed().as_secs_f64() * per_second;
                for server in &mut fed {
                    // Looked at for each: what `fail` has returned holds from then on.
                    let mut now = fails.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(at_ms) = server.write(done, due, &now.failing) {
                        now.first_ms.entry(server.name.clone()).or_insert(at_ms);
                    }
                }
                done = due;
                pause(SLICE);
            }
        });
        Self { stop, faults, thread: Some(thread) }
    }

    /// From now on every request of this pool fails: nobody listens on its socket.
    pub fn fail(&self, server: &str, pool: &str) {
        self.fail_first(usize::MAX, server, pool);
    }

    /// From now on every request of the first `n` sites of this pool fails.
    pub fn fail_first(&self, n: usize, server: &str, pool: &str) {
        self.faults().failing.insert((server.to_owned(), pool.to_owned()), n);
    }

    /// All pools answer again.
    pub fn mend(&self) {
        *self.faults() = Faults::default();
    }

    /// When a server wrote its first failure since all was well, in ms.
    #[must_use]
    pub fn first_failed_ms(&self, server: &str) -> Option<i64> {
        self.faults().first_ms.get(server).copied()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().ok(); // a panic in it has been printed already
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    #[test]
    fn every_site_is_asked_at_its_rate_and_a_failing_pool_fails_all_of_its_own() {
        let server = FedServer::new("web-1", &[("www", 3), ("shop", 2)]);
        let failing = |n| Failing::from([(("web-1".to_owned(), "shop".to_owned()), n)]);
        let mut fed = server.open();
        assert_eq!(fed.write(0.0, 1.3, &Failing::new()), None);
        assert!(fed.write(1.3, 4.0, &failing(usize::MAX)).is_some());
        let read = |name: &str| fs::read_to_string(server.root.join(name)).expect("it is ours");
        let (access, errors) = (read("var/log/nginx/access.log"), read("var/log/nginx/error.log"));
        for site in server.sites() {
            let n = |status: &str| {
                let lines = access.lines().filter(|line| line.starts_with(&format!("{site}:80 ")));
                lines.filter(|line| line.contains(status)).count()
            };
            let (n_200, n_502) = (n("\" 200 "), n("\" 502 "));
            assert_eq!(n_200 + n_502, 4, "{site} is asked four times: {access}");
            assert_eq!(n_502 > 0, site.starts_with("shop"), "{site}: {access}");
        }
        assert_eq!(errors.lines().count(), access.matches("\" 502 ").count());
        let clients: BTreeSet<_> =
            access.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(clients.len(), 20, "each from another client: {access}");
    }
}
