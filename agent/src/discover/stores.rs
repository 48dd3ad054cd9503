//! Databases and caches that sites ask: where they listen, and how many clients they let in.
//!
//! A configuration says where one would listen, not that it runs: whoever asks looks first whether
//! anybody listens there. What a configuration that cannot be read would say is the default of its
//! distribution. Passwords are never kept.

use crate::discover::files::Files;
use crate::discover::found::Found;

/// Stores of one machine that are looked at.
const STORES_MAX: usize = 16;

const REDIS: [&str; 6] = [
    "/etc/redis/redis.conf",
    "/etc/redis.conf",
    "/etc/redis/redis-*.conf",
    "/etc/redis/*/redis.conf",
    "/etc/valkey/valkey.conf",
    "/usr/local/etc/redis/redis.conf",
];
const POSTGRES: [&str; 3] = [
    "/etc/postgresql/*/*/postgresql.conf",
    "/var/lib/pgsql/data/postgresql.conf",
    "/var/lib/pgsql/*/data/postgresql.conf",
];
const MEMCACHED: [&str; 2] = ["/etc/memcached.conf", "/etc/sysconfig/memcached"];

/// Which program it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreKind {
    /// MySQL, MariaDB or Percona Server.
    #[default]
    Mysql,
    /// PostgreSQL.
    Postgres,
    /// Redis, Valkey or KeyDB.
    Redis,
    /// Memcached.
    Memcached,
}

impl StoreKind {
    /// As series call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Postgres => "postgresql",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Mysql => 3306,
            Self::Postgres => 5432,
            Self::Redis => 6379,
            Self::Memcached => 11211,
        }
    }

    /// Where distributions put its socket.
    fn sockets(self) -> &'static [&'static str] {
        match self {
            Self::Mysql => &[
                "/run/mysqld/mysqld.sock",
                "/var/lib/mysql/mysql.sock",
                "/run/mysql/mysql.sock",
                "/tmp/mysql.sock",
            ],
            Self::Postgres => &["/run/postgresql/.s.PGSQL.5432", "/tmp/.s.PGSQL.5432"],
            Self::Redis => &["/run/redis/redis-server.sock", "/run/redis/redis.sock"],
            Self::Memcached => &["/run/memcached/memcached.sock"],
        }
    }
}

/// One database or cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    /// Which.
    pub kind: StoreKind,
    /// Where it may listen, best first: sockets cost no TCP connection.
    pub sockets: Vec<String>,
    /// See `sockets`; 0 = it does not.
    pub port: Option<u16>,
    /// Host of `port`; `None` = loopback.
    pub bind: Option<String>,
    /// `sockets` are those of the program's default: no configuration names them.
    pub sockets_are_guessed: bool,
    /// Connections it lets in, as configured.
    pub connections_max: Option<u64>,
    /// File it was found in; empty = where it usually is.
    pub source: String,
}

impl Store {
    /// Where it usually is.
    #[must_use]
    pub fn usual(kind: StoreKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Where to ask, best first, and at which TCP port it would listen.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let usual = self.kind.sockets().iter().map(|socket| (*socket).to_owned());
        let own = self.sockets.iter().filter(|socket| socket.starts_with('/')).cloned();
        let mut all: Vec<String> = own.collect();
        // A socket of the usual name belongs to whom nothing else is configured.
        if all.is_empty() && self.is_at_usual_port() {
            all.extend(usual);
        }
        let host = match self.bind.as_deref() {
            None | Some("*" | "0.0.0.0" | "::" | "localhost" | "") => "127.0.0.1",
            Some("::1") => "[::1]",
            Some(host) => host,
        };
        let port = self.port.unwrap_or(self.kind.port());
        all.extend((port > 0).then(|| format!("{host}:{port}")));
        all
    }

    fn is_at_usual_port(&self) -> bool {
        self.port.is_none_or(|port| port == 0 || port == self.kind.port())
    }

    /// True for an address that its configuration names, false for one where it usually listens:
    /// there anybody could.
    #[must_use]
    pub fn names(&self, address: &str) -> bool {
        if address.starts_with('/') {
            return !self.sockets_are_guessed && self.sockets.iter().any(|own| own == address);
        }
        self.port.is_some()
    }

    /// One setting of MySQL.
    pub(super) fn note_mysql(&mut self, key: &str, value: &str) {
        match key {
            "socket" if value.starts_with('/') => self.sockets = vec![value.to_owned()],
            "port" => self.port = value.parse().ok(),
            "bind_address" => self.bind = first_word(value),
            "skip_networking" if !matches!(value, "0" | "OFF" | "off") => self.port = Some(0),
            "max_connections" => self.connections_max = value.parse().ok(),
            _ => {}
        }
    }

    fn postgres(text: &str) -> Self {
        let mut store = Self { sockets_are_guessed: true, ..Self::usual(StoreKind::Postgres) };
        let mut folders = vec!["/run/postgresql".to_owned(), "/tmp".to_owned()];
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches('\'');
            match key.trim() {
                "port" => store.port = value.parse().ok(),
                "max_connections" => store.connections_max = value.parse().ok(),
                "listen_addresses" => store.bind = first_word(value),
                "unix_socket_directories" => {
                    store.sockets_are_guessed = false;
                    folders = value.split(',').map(|folder| folder.trim().to_owned()).collect();
                }
                _ => {}
            }
        }
        let port = store.port.unwrap_or(store.kind.port());
        let sockets = folders.iter().filter(|folder| folder.starts_with('/'));
        store.sockets = sockets.map(|folder| format!("{folder}/.s.PGSQL.{port}")).collect();
        store
    }

    fn redis(text: &str) -> Self {
        let mut store = Self::usual(StoreKind::Redis);
        for line in text.lines() {
            let Some((key, value)) = line.trim().split_once(char::is_whitespace) else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            match key.to_ascii_lowercase().as_str() {
                "port" => store.port = value.parse().ok(),
                "bind" => store.bind = first_word(value.trim_start_matches('-')),
                "unixsocket" if value.starts_with('/') => store.sockets = vec![value.to_owned()],
                _ => {}
            }
        }
        store
    }

    /// Debian's file holds options, that of Red Hat variables of which one holds options.
    fn memcached(text: &str) -> Self {
        let mut store = Self::usual(StoreKind::Memcached);
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once('=').unwrap_or(("OPTIONS", line));
            let value = value.trim().trim_matches(['"', '\'']);
            match key.trim() {
                "PORT" => store.port = value.parse().ok(),
                "OPTIONS" => store.memcached_options(value),
                _ => {}
            }
        }
        store
    }

    fn memcached_options(&mut self, options: &str) {
        let mut words = options.split_whitespace();
        while let Some(word) = words.next() {
            let Some(flag) = word.get(..2) else { continue };
            // `-p 11211` and `-p11211`.
            let mut value = || match word.get(2..).filter(|rest| !rest.is_empty()) {
                Some(rest) => rest.to_owned(),
                None => words.next().unwrap_or_default().to_owned(),
            };
            match flag {
                "-p" => self.port = value().parse().ok(),
                "-l" => self.bind = first_word(&value()),
                "-s" => {
                    self.sockets = vec![value()];
                    self.port = Some(0);
                }
                _ => {}
            }
        }
    }
}

/// The first of `127.0.0.1 -::1`, `127.0.0.1,10.0.0.7`.
fn first_word(value: &str) -> Option<String> {
    let first = value.split([' ', ',', '\t']).next()?;
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '*');
    (!first.is_empty() && first.len() < 254 && first.chars().all(is_host)).then(|| first.to_owned())
}

type Read = fn(&str) -> Store;

/// Adds those of Redis, PostgreSQL and Memcached to those of MySQL, and for each program that no
/// readable configuration speaks of, the place where it usually is.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let readers: [(&[&str], Read); 3] =
        [(&POSTGRES, Store::postgres), (&REDIS, Store::redis), (&MEMCACHED, Store::memcached)];
    for (patterns, read) in readers {
        for pattern in patterns {
            for path in files.expand(&files.below(pattern).to_string_lossy()) {
                // What may not be read needs no note: where it usually listens is known.
                let Some(text) = files.read_quietly(&path) else { continue };
                let source = path.display().to_string();
                found.stores.push(Store { source, ..read(&text) });
            }
        }
    }
    let kinds = [StoreKind::Mysql, StoreKind::Postgres, StoreKind::Redis, StoreKind::Memcached];
    for kind in kinds {
        if !found.stores.iter().any(|store| store.kind == kind) {
            found.stores.push(Store::usual(kind));
        }
    }
    found.stores.sort_by_key(|store| store.kind);
    found.stores.dedup();
    found.stores.truncate(STORES_MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_stores_listen_is_read_from_their_configurations() {
        let check = |store: &Store, addresses: &[&str], limit: Option<u64>| {
            assert_eq!(store.addresses(), addresses, "{store:?}");
            assert_eq!(store.connections_max, limit, "{store:?}");
        };
        let mut mysql = Store::default();
        assert_eq!(mysql.addresses().last().map(String::as_str), Some("127.0.0.1:3306"));
        for (key, value) in [
            ("socket", "/run/mysqld/mysqld.sock"),
            ("port", "3307"),
            ("bind_address", "127.0.0.1"),
            ("max_connections", "500"),
            ("socket", "relative"),
        ] {
            mysql.note_mysql(key, value);
        }
        check(&mysql, &["/run/mysqld/mysqld.sock", "127.0.0.1:3307"], Some(500));
        mysql.note_mysql("skip_networking", "");
        check(&mysql, &["/run/mysqld/mysqld.sock"], Some(500));
        check(
            &Store::postgres(
                "port = 5433 # second\nmax_connections = 200\nlisten_addresses = 'localhost'\n\
                 unix_socket_directories = '/var/run/postgresql, /tmp'\n#port = 1\n",
            ),
            &["/var/run/postgresql/.s.PGSQL.5433", "/tmp/.s.PGSQL.5433", "127.0.0.1:5433"],
            Some(200),
        );
        check(
            &Store::redis("# port 1\nport 6380\nbind 127.0.0.1 -::1\nunixsocket /run/r.sock\n"),
            &["/run/r.sock", "127.0.0.1:6380"],
            None,
        );
        check(&Store::redis("port 0\nunixsocket \"/run/r.sock\"\n"), &["/run/r.sock"], None);
        check(&Store::redis("port 6380\n"), &["127.0.0.1:6380"], None);
        check(
            &Store::memcached("-d\n-m 64\n-p 11212\n-l 10.0.0.5\n-c 10\n"),
            &["10.0.0.5:11212"],
            None,
        );
        check(&Store::memcached("-s /run/m.sock -a 0666"), &["/run/m.sock"], None);
        check(
            &Store::memcached("PORT=\"11213\"\nMAXCONN=\"1024\"\nOPTIONS=\"-l ::1\"\n"),
            &["[::1]:11213"],
            None,
        );
    }

    #[test]
    fn an_address_that_no_configuration_names_could_be_anybodys() {
        let check = |store: &Store, want: &[bool]| {
            let named: Vec<bool> = store.addresses().iter().map(|a| store.names(a)).collect();
            assert_eq!(named, want, "{:?}", store.addresses());
        };
        check(&Store::usual(StoreKind::Mysql), &[false; 5]);
        check(&Store::postgres("max_connections = 5\n"), &[false; 3]);
        check(&Store::postgres("port = 5433\n"), &[false, false, true]);
        check(&Store::postgres("unix_socket_directories = '/run/pg'\n"), &[true, false]);
        check(&Store::redis("port 6379\nunixsocket /run/r.sock\n"), &[true, true]);
        check(&Store::redis("maxclients 5\n"), &[false; 3]);
        assert_eq!(Store::usual(StoreKind::Mysql).connections_max, None, "no limit is made up");
    }

    #[test]
    fn hostile_settings_are_no_addresses() {
        for text in ["port x\nbind $(id)\n", "bind\n", "\0", "port 99999999\nunixsocket é"] {
            let store = Store::redis(text);
            let usual = ["/run/redis/redis-server.sock", "/run/redis/redis.sock", "127.0.0.1:6379"];
            assert_eq!(store.addresses(), usual, "{text:?}");
        }
    }
}
