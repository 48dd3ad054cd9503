//! What the configuration of the web servers says now, and whether it has changed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use wire::UnixMillis;

use crate::clock;
use crate::config::LogsConfig;
use crate::discover::{self, Discovery, LogKind};
use crate::logs::kernel::is_kmsg_readable;

/// Directories of configurations that are watched; what changes in others is seen a little later.
const CONFIG_DIRECTORIES_MAX: usize = 2_000;

/// The times of files are as coarse as this.
const TICK_MS: i64 = 20;

/// Discovers, if the configuration of the agent wants it.
pub(super) fn discovery_of(config: &LogsConfig) -> Discovery {
    if !config.discover {
        return Discovery::default();
    }
    let mut discovery = discover::discover(&config.root);
    if is_kmsg_readable(&config.root) {
        // The kernel itself is asked: what syslog writes of it would be told twice.
        discovery.logs.retain(|log| log.kind != LogKind::Kernel);
    }
    discovery
}

pub(super) fn stamps_of(discovery: &Discovery) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    };
    discovery.config_files.iter().chain(&discovery.watched).map(stamp).collect()
}

/// True when one of the files was written since `began`: whoever read it after that may have seen half of
/// it, and its stamp does not tell. Times in the future are of a clock that was set back.
pub(super) fn is_written_since(discovery: &Discovery, began: UnixMillis) -> bool {
    let meanwhile = began.0 - TICK_MS..=clock::now().0 + TICK_MS;
    let is_of_now = |path: &PathBuf| {
        let changed_ms = |meta: &fs::Metadata| meta.ctime() * 1000 + meta.ctime_nsec() / 1_000_000;
        fs::metadata(path).is_ok_and(|meta| meanwhile.contains(&changed_ms(&meta)))
    };
    discovery.config_files.iter().chain(&discovery.watched).any(is_of_now)
}

/// The directories of all configuration files, links resolved too.
pub(super) fn directories(discovery: &Discovery) -> Vec<PathBuf> {
    let mut directories = BTreeSet::new();
    for path in &discovery.config_files {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        for path in [path.clone(), real] {
            let directory = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
            directories.extend(directory.map(PathBuf::from));
        }
    }
    directories.into_iter().take(CONFIG_DIRECTORIES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A vhost that was written in the moment its folder was read was never found: the stamps taken after
    /// it knew the whole file.
    #[test]
    fn a_configuration_that_is_written_while_it_is_read_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.conf");
        let began = clock::now();
        fs::write(&path, "server {}").unwrap();
        let discovery = Discovery { config_files: vec![path], ..Discovery::default() };
        assert!(is_written_since(&discovery, began));
        let later = UnixMillis(clock::now().0 + 2 * TICK_MS);
        assert!(!is_written_since(&discovery, later), "it was whole before");
        assert!(!is_written_since(&Discovery::default(), began));
    }

    #[test]
    fn the_kernels_messages_are_followed_in_files_only_where_the_kernel_cannot_be_asked() {
        let dir = tempfile::tempdir().unwrap();
        let config = LogsConfig { root: dir.path().to_owned(), ..LogsConfig::default() };
        fs::create_dir_all(dir.path().join("var/log")).unwrap();
        fs::write(dir.path().join("var/log/kern.log"), "").unwrap();
        let n_kernel = |config| {
            let logs = discovery_of(config).logs;
            logs.iter().filter(|log| log.kind == LogKind::Kernel).count()
        };
        assert_eq!(n_kernel(&config), 1);
        fs::create_dir(dir.path().join("dev")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, dir.path().join("dev/kmsg"), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(n_kernel(&config), 0);
    }
}
