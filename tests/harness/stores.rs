//! Real databases and caches, each configured below a root as its package does.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, find_program};
use crate::root::{Root, loopback};
use crate::wait::eventually;

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    address: SocketAddr,
    process: Process,
}

impl Redis {
    /// Starts one with room for `n_clients_max` clients.
    #[must_use]
    pub fn start(root: &Root, n_clients_max: u32) -> Self {
        let address = loopback(6379);
        let dir = root.mkdir("var/lib/redis");
        let text = format!(
            "bind {}\nport 6379\nsave \"\"\ndir {}\nmaxclients {n_clients_max}\n",
            address.ip(),
            dir.display()
        );
        let config = root.write("etc/redis/redis.conf", &text);
        root.mkdir("run");
        let mut command = Command::new(find_program(&["redis-server"], "redis-server"));
        command.arg(config);
        let mut process = Process::start("redis", &mut command, &root.join("run/redis.out"));
        process.listens_on(address);
        Self { address, process }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process.stop();
    }
}

/// A running Memcached.
#[derive(Debug)]
pub struct Memcached {
    address: SocketAddr,
    _process: Process,
}

impl Memcached {
    /// Starts one with room for `n_connections_max` connections.
    #[must_use]
    pub fn start(root: &Root, n_connections_max: u32) -> Self {
        let address = loopback(11211);
        let options = format!("-l {}\n-p 11211\n-c {n_connections_max}\n", address.ip());
        root.write("etc/memcached.conf", &format!("# comment\n{options}"));
        root.mkdir("run");
        let mut command = Command::new(find_program(&["memcached"], "memcached"));
        command.args(options.split_whitespace()).args(["-u", "root"]);
        let mut process = Process::start("memcached", &mut command, &root.join("run/mc.out"));
        process.listens_on(address);
        Self { address, _process: process }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A running MariaDB that listens at a Unix socket alone, with room for ten connections: the fewest
/// it takes. It knows no users and no tables, which connections do not need.
#[derive(Debug)]
pub struct Mariadb {
    socket: PathBuf,
    log: PathBuf,
    _process: Process,
}

impl Mariadb {
    /// Starts one.
    #[must_use]
    pub fn start(root: &Root) -> Self {
        let program = find_program(&["mariadbd", "mysqld"], "mariadb-server-core");
        let (data, run) = (root.mkdir("var/lib/mysql"), root.mkdir("run/mysqld"));
        let socket = run.join("mysqld.sock");
        let log = root.mkdir("var/log/mysql").join("error.log");
        let text = format!(
            "[mysqld]\nuser = root\ndatadir = {}\nsocket = {}\nlog-error = {}\nskip-networking\n\
             skip-grant-tables\nmax_connections = 10\ninnodb_buffer_pool_size = 8M\n",
            data.display(),
            socket.display(),
            log.display()
        );
        let config = root.write("etc/mysql/my.cnf", &text);
        let mut command = Command::new(program);
        command.arg(format!("--defaults-file={}", config.display()));
        let mut process = Process::start("mariadbd", &mut command, &root.join("run/mariadb.out"));
        eventually("MariaDB greets", Duration::from_secs(60), || {
            if let Some(status) = process.exited() {
                panic!("mariadbd ended with {status}: {}", process.log_text());
            }
            greeting(&socket).map(drop)
        });
        Self { socket, log, _process: process }
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What its error log says.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Takes all connections it has; they are held until the list is dropped.
    #[must_use]
    pub fn take_all(&self) -> Vec<UnixStream> {
        // One more than configured is for the administrator.
        let take = |_| greeting(&self.socket).expect("there is room").0;
        let held = (0..11).map(take).collect();
        let (_, first) = greeting(&self.socket).expect("it answers with an error");
        assert_eq!(first.get(4), Some(&0xff), "there is still room: {first:?}");
        held
    }
}

/// A connection and what is said first on it.
fn greeting(socket: &Path) -> Result<(UnixStream, Vec<u8>), String> {
    let mut stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(|e| e.to_string())?;
    let mut first = vec![0; 256];
    let n = stream.read(&mut first).map_err(|e| e.to_string())?;
    first.truncate(n);
    if n == 0 { Err("closed without a greeting".to_owned()) } else { Ok((stream, first)) }
}
