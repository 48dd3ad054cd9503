//! Logs of what stands behind the web servers: databases, Redis, ModSecurity, the kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::discover::LogKind;
use crate::discover::files::{Files, names_in};
use crate::discover::found::Found;
use crate::discover::stores::Store;

const MYSQL: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];
/// Where the error log is when no configuration says so.
const MYSQL_LOGS: [&str; 5] = [
    "/var/log/mysql/error.log",
    "/var/log/mysqld.log",
    "/var/log/mariadb/mariadb.log",
    "/var/log/mysql/mysqld.log",
    "/var/lib/mysql/*.err",
];
const REDIS: [&str; 4] = [
    "/etc/redis/redis.conf",
    "/etc/redis.conf",
    "/etc/redis/redis-*.conf",
    "/etc/valkey/valkey.conf",
];
const MODSECURITY: [&str; 6] = [
    "/etc/modsecurity/modsecurity.conf",
    "/etc/nginx/modsecurity.conf",
    "/etc/nginx/modsec/modsecurity.conf",
    "/etc/nginx/modsecurity/modsecurity.conf",
    "/etc/httpd/conf.d/mod_security.conf",
    "/etc/apache2/conf.d/modsec2.conf",
];
/// The kernel's messages as syslog writes them; only read where the kernel itself cannot be asked.
const KERNEL: [&str; 2] = ["/var/log/kern.log", "/var/log/messages"];
const DEPTH_MAX: u32 = 8;

/// Adds what is there.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    mysql(files, found);
    redis(files, found);
    for path in MODSECURITY {
        let path = files.below(path);
        if let Some(text) = files.read_optional(&path) {
            modsecurity(files, found, &text);
        }
    }
    if let Some(path) = KERNEL.iter().map(|path| files.below(path)).find(|path| path.exists()) {
        found.other_logs.push((path, LogKind::Kernel, "auto"));
    }
}

/// One file of MySQL, Redis or ModSecurity alone.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    let mut reader = Mysql::default();
    reader.file(files, path, text, 0);
    reader.finish(files, found);
    redis_log(files, found, text);
    modsecurity(files, found, text);
}

fn mysql(files: &mut Files, found: &mut Found) {
    let mut reader = Mysql::default();
    for main in MYSQL {
        let path = files.below(main);
        if let Some(text) = files.read_optional(&path) {
            reader.file(files, &path, &text, 0);
        }
    }
    reader.finish(files, found);
    if found.other_logs.iter().any(|(_, kind, _)| *kind == LogKind::Mysql) {
        return;
    }
    for pattern in MYSQL_LOGS {
        // The data directory is none to be watched: it changes all the time.
        let paths = match pattern.split_once('*') {
            Some((folder, end)) => names_in(&files.below(folder), end),
            None => vec![files.below(pattern)],
        };
        if let Some(path) = paths.into_iter().find(|path| path.exists()) {
            found.other_logs.push((path, LogKind::Mysql, "auto"));
            return;
        }
    }
}

#[derive(Default)]
struct Mysql {
    error_log: Option<String>,
    data: Option<String>,
    store: Store,
    is_there: bool,
    seen: BTreeSet<PathBuf>,
}

impl Mysql {
    fn file(&mut self, files: &mut Files, path: &Path, text: &str, depth: u32) {
        if !self.seen.insert(path.to_path_buf()) {
            return;
        }
        self.is_there = true;
        let mut is_server = false;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(section) = line.strip_prefix('[') {
                let section = section.trim_end_matches(']').to_ascii_lowercase();
                is_server = ["mysqld", "mariadb", "server"].iter().any(|s| section.starts_with(s));
                continue;
            }
            let include = line.strip_prefix("!includedir").map(|folder| {
                let folder = folder.trim().trim_end_matches('/');
                [format!("{folder}/*.cnf")]
            });
            let include = include
                .or_else(|| line.strip_prefix("!include").map(|file| [file.trim().to_owned()]));
            if let Some([pattern]) = include {
                if depth < DEPTH_MAX && pattern.starts_with('/') {
                    for path in files.expand(&pattern) {
                        if let Some(text) = files.read_included(&path) {
                            self.file(files, &path, &text, depth + 1);
                        }
                    }
                }
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            match key.trim().replace('-', "_").as_str() {
                "log_error" if is_server && !value.is_empty() => self.error_log = Some(value),
                "datadir" if is_server && value.starts_with('/') => self.data = Some(value),
                key if is_server => self.store.note_mysql(key, &value),
                _ => {}
            }
        }
    }

    fn finish(mut self, files: &Files, found: &mut Found) {
        if self.is_there {
            found.stores.push(std::mem::take(&mut self.store));
        }
        let Some(log) = self.error_log.filter(|log| log != "stderr") else { return };
        let data = self.data.unwrap_or_else(|| "/var/lib/mysql".to_owned());
        let log = if log.starts_with('/') { log } else { format!("{data}/{log}") };
        let path = files.resolve(Path::new(&log));
        found.other_logs.push((path, LogKind::Mysql, "auto"));
    }
}

fn redis(files: &mut Files, found: &mut Found) {
    for pattern in REDIS {
        for path in files.expand(&files.below(pattern).to_string_lossy()) {
            if let Some(text) = files.read_optional(&path) {
                redis_log(files, found, &text);
            }
        }
    }
}

fn redis_log(files: &Files, found: &mut Found, text: &str) {
    let mut logs = text.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once(char::is_whitespace)?;
        key.eq_ignore_ascii_case("logfile").then(|| value.trim().trim_matches(['"', '\'']))
    });
    // The last one holds.
    if let Some(log) = logs.next_back().filter(|log| log.starts_with('/')) {
        found.other_logs.push((files.resolve(Path::new(log)), LogKind::Redis, "auto"));
    }
}

fn modsecurity(files: &Files, found: &mut Found, text: &str) {
    let mut log = None;
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(char::is_whitespace) else { continue };
        let value = value.trim().trim_matches(['"', '\'']);
        match key.to_ascii_lowercase().as_str() {
            "secauditengine" if value.eq_ignore_ascii_case("off") => return,
            "secauditlog" if value.starts_with('/') => log = Some(value),
            _ => {}
        }
    }
    if let Some(log) = log {
        let path = files.resolve(Path::new(log));
        found.other_logs.push((path, LogKind::Modsecurity, "auto"));
    }
}
