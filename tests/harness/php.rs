//! Real PHP-FPM pools. Each pool has a master of its own, so that one can die while the others serve.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Process, find_program, is_root};
use crate::root::{Root, loopback};
use crate::wait::eventually;

const SCRIPT: &str = r#"<?php
if (isset($_GET['ms'])) { usleep(1000 * (int) $_GET['ms']); }
if (isset($_GET['die'])) { posix_kill(getmypid(), 9); }
if (isset($_GET['status'])) { http_response_code((int) $_GET['status']); }
echo "ok ", $_SERVER['HTTP_HOST'] ?? '-', "\n";
"#;

/// How one pool is configured.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Name in brackets.
    pub name: &'static str,
    /// `pm.max_children`.
    pub max_children: u32,
    /// `listen.backlog`.
    pub backlog: i32,
    /// Where it listens instead of on a socket file.
    pub tcp: Option<SocketAddr>,
    /// Further lines of its configuration.
    pub extra: String,
}

impl Pool {
    /// A pool that copes with all the tests ask of it.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self { name, max_children: 6, backlog: 511, tcp: None, extra: String::new() }
    }

    /// A pool that two slow requests exhaust.
    #[must_use]
    pub fn tiny(name: &'static str) -> Self {
        Self { max_children: 2, backlog: 1, ..Self::new(name) }
    }

    /// Listens on an address of its own with this port.
    #[must_use]
    pub fn on_tcp(self, port: u16) -> Self {
        Self { tcp: Some(loopback(port)), ..self }
    }

    /// Adds lines of configuration; a setting that is there already is overruled.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Self {
        self.extra.push_str(lines);
        self.extra.push('\n');
        self
    }
}

/// The pools of one server and the script they run.
#[derive(Debug)]
pub struct PhpFpm {
    masters: Vec<(Pool, PathBuf, PathBuf, Option<Process>)>,
}

impl PhpFpm {
    /// Writes `etc/php/8.2/fpm` below `root` and starts every pool.
    #[must_use]
    pub fn start(root: &Root, pools: &[Pool]) -> Self {
        root.write("srv/www/index.php", SCRIPT);
        root.mkdir("run/php");
        root.mkdir("var/log");
        let log = root.join("var/log/php8.2-fpm.log");
        let fpm = root.mkdir("etc/php/8.2/fpm");
        let global = format!(
            "[global]\npid = {0}/run/php/php8.2-fpm.pid\nerror_log = {1}\n",
            root.path().display(),
            log.display()
        );
        let include = format!("{global}include={}/pool.d/*.conf\n", fpm.display());
        root.write("etc/php/8.2/fpm/php-fpm.conf", &include);
        let mut masters = Vec::new();
        for pool in pools {
            let socket = Self::socket(root, pool.name);
            let file = root.write(
                &format!("etc/php/8.2/fpm/pool.d/{}.conf", pool.name),
                &config(pool, &socket),
            );
            let master = format!(
                "[global]\npid = {0}/run/php/{1}.pid\nerror_log = {2}\ninclude={3}\n",
                root.path().display(),
                pool.name,
                log.display(),
                file.display()
            );
            let master = root.write(&format!("run/php/{}-master.conf", pool.name), &master);
            masters.push((pool.clone(), socket, master, None));
        }
        let mut fpm = Self { masters };
        for pool in pools {
            fpm.start_pool(pool.name);
        }
        fpm
    }

    /// Where a pool listens.
    #[must_use]
    pub fn socket(root: &Root, pool: &str) -> PathBuf {
        root.join(&format!("run/php/{pool}.sock"))
    }

    /// What `fastcgi_pass` of nginx is to be for a pool, as its configuration says.
    #[must_use]
    pub fn target(root: &Root, pool: &str) -> String {
        let file = root.join(&format!("etc/php/8.2/fpm/pool.d/{pool}.conf"));
        let text = fs::read_to_string(file).unwrap_or_default();
        let tcp = text.lines().find_map(|line| line.strip_prefix("listen = "));
        match tcp.filter(|listen| !listen.starts_with('/')) {
            Some(address) => address.to_owned(),
            None => format!("unix:{}", Self::socket(root, pool).display()),
        }
    }

    /// Starts a stopped pool and waits until it accepts connections.
    pub fn start_pool(&mut self, pool: &str) {
        let (pool_config, socket, config, process) = self.find(pool);
        let tcp = pool_config.tcp;
        let php = find_program(&["php-fpm8.2", "php-fpm", "php-fpm8.4", "php-fpm8.3"], "php-fpm");
        let mut command = Command::new(php);
        command.arg("--nodaemonize").arg("--fpm-config").arg(&*config);
        if is_root() {
            command.arg("--allow-to-run-as-root");
        }
        let out = config.with_extension("out");
        *process = Some(Process::start(&format!("php-fpm {pool}"), &mut command, &out));
        let started = process.as_mut().expect("just set");
        if let Some(address) = tcp {
            return started.listens_on(address);
        }
        eventually("the pool listens", Duration::from_secs(20), || {
            if let Some(status) = started.exited() {
                panic!("php-fpm ended with {status}: {}", started.log_text());
            }
            UnixStream::connect(&*socket).map(drop).map_err(|e| e.to_string())
        });
    }

    /// Stops a pool as `systemctl stop` does: its socket file is gone afterwards.
    pub fn stop_pool(&mut self, pool: &str) {
        let (_, socket, _, process) = self.find(pool);
        process.take().expect("the pool runs").stop();
        assert!(!socket.exists(), "php-fpm removes its socket when it stops");
    }

    /// SIGKILLs a pool's master and workers: its socket file stays, connections are refused.
    pub fn kill_pool(&mut self, pool: &str) {
        let (_, socket, _, process) = self.find(pool);
        process.take().expect("the pool runs").kill9();
        // The workers die a moment after their master, and one may still accept until then.
        eventually("nobody listens any more", Duration::from_secs(20), || {
            let connected = UnixStream::connect(&*socket);
            connected.map_or(Ok(()), |_| Err("a worker has accepted".to_owned()))
        });
        assert!(socket.exists(), "nobody was left to remove the socket");
    }

    /// The master of a pool, to signal or look at it.
    #[must_use]
    pub fn master(&self, pool: &str) -> &Process {
        let found = self.masters.iter().find(|(p, ..)| p.name == pool);
        let process = found.and_then(|(.., process)| process.as_ref());
        process.unwrap_or_else(|| panic!("pool {pool} does not run"))
    }

    /// Process ids of the workers of a pool.
    #[must_use]
    pub fn workers(&mut self, pool: &str) -> Vec<u32> {
        let (_, _, _, process) = self.find(pool);
        process.as_ref().expect("the pool runs").children()
    }

    /// SIGKILLs the workers of a pool; its master starts new ones. Returns how many there were.
    pub fn kill_workers(&mut self, pool: &str) -> usize {
        self.signal_workers(pool, Signal::KILL)
    }

    /// Sends a signal to each worker of a pool. Returns how many there were.
    pub fn signal_workers(&mut self, pool: &str, signal: Signal) -> usize {
        let workers = self.workers(pool);
        for pid in &workers {
            if let Some(pid) = Pid::from_raw(*pid as i32) {
                kill_process(pid, signal).ok(); // it may have ended meanwhile
            }
        }
        workers.len()
    }

    fn find(&mut self, pool: &str) -> &mut (Pool, PathBuf, PathBuf, Option<Process>) {
        let found = self.masters.iter_mut().find(|(p, ..)| p.name == pool);
        found.unwrap_or_else(|| panic!("no pool {pool}"))
    }
}

fn config(pool: &Pool, socket: &std::path::Path) -> String {
    let owner = if is_root() { "user = root\ngroup = root\n" } else { "" };
    let listen = pool.tcp.map_or(socket.display().to_string(), |address| address.to_string());
    format!(
        "[{0}]\n{owner}listen = {listen}\nlisten.mode = 0666\nlisten.backlog = {1}\n\
         pm = static\npm.max_children = {2}\n{3}",
        pool.name, pool.backlog, pool.max_children, pool.extra
    )
}

impl Drop for PhpFpm {
    fn drop(&mut self) {
        for (_, socket, _, process) in &mut self.masters {
            drop(process.take());
            fs::remove_file(socket).ok(); // left behind by a killed pool
        }
    }
}
