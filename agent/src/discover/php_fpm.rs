//! PHP-FPM pools, of every installed version.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::discover::Pool;
use crate::discover::files::Files;
use crate::discover::found::{Found, php_version};

/// Where masters are configured, and the unit that runs them; `{}` is what the `*` matched.
const MASTERS: [(&str, &str); 10] = [
    ("/etc/php/*/fpm/php-fpm.conf", "php{}-fpm.service"),
    ("/etc/php-fpm.conf", "php-fpm.service"),
    ("/etc/opt/remi/*/php-fpm.conf", "{}-php-fpm.service"),
    ("/opt/cpanel/*/root/etc/php-fpm.conf", "{}-php-fpm.service"),
    ("/opt/plesk/php/*/etc/php-fpm.conf", "plesk-php{}-fpm.service"),
    ("/etc/php*rc/php-fpm.conf", "php{}rc-fpm.service"),
    ("/www/server/php/*/etc/php-fpm.conf", "php-fpm-{}.service"),
    ("/opt/alt/php-fpm*/usr/etc/php-fpm.conf", "php-fpm{}.service"),
    ("/usr/local/php*/etc/php-fpm.conf", "php-fpm{}.service"),
    ("/usr/local/etc/php-fpm.conf", "php-fpm.service"),
];
/// Pool files for masters whose own file is not there or cannot be read.
const POOLS: [(&str, &str); 6] = [
    ("/etc/php/*/fpm/pool.d/*.conf", "php{}-fpm.service"),
    ("/etc/php-fpm.d/*.conf", "php-fpm.service"),
    ("/etc/opt/remi/*/php-fpm.d/*.conf", "{}-php-fpm.service"),
    ("/opt/cpanel/*/root/etc/php-fpm.d/*.conf", "{}-php-fpm.service"),
    ("/opt/plesk/php/*/etc/php-fpm.d/*.conf", "plesk-php{}-fpm.service"),
    ("/etc/php*rc/fpm.d/*.conf", "php{}rc-fpm.service"),
];
const DEPTH_MAX: u32 = 4;
/// Pools of one machine that are kept.
const POOLS_MAX: usize = 20_000;

/// All pools, and the services that run them.
pub(super) fn discover(files: &mut Files, found: &mut Found) {
    let mut seen = BTreeSet::new();
    for (pattern, unit) in MASTERS.into_iter().chain(POOLS) {
        for path in files.expand(&files.below(pattern).to_string_lossy()) {
            if seen.contains(&path) {
                continue;
            }
            let Some(text) = files.read_optional(&path) else { continue };
            let unit = unit.replace("{}", &matched(pattern, &path));
            let mut reader = Reader { files, found, seen: &mut seen, unit, error_log: None };
            reader.file(&path, &text, 0);
        }
    }
    found.pools.retain(|pool: &Pool| !pool.listen.is_empty());
}

/// One file alone with what it includes.
pub(super) fn read(files: &mut Files, found: &mut Found, path: &Path, text: &str) {
    let unit = "php-fpm.service".to_owned();
    let mut reader = Reader { files, found, seen: &mut BTreeSet::new(), unit, error_log: None };
    reader.file(path, text, 0);
    found.pools.retain(|pool: &Pool| !pool.listen.is_empty());
}

/// What the first `*` of the pattern matched in the end of the path, which may be below a root.
fn matched(pattern: &str, path: &Path) -> String {
    let Some((before, after)) = pattern.split_once('*') else { return String::new() };
    let path = path.to_string_lossy();
    let start = path.rfind(before).map_or(0, |at| at + before.len());
    let rest = &path[start..];
    let after = after.split('*').next().unwrap_or_default();
    rest[..rest.find(after).unwrap_or(0)].to_owned()
}

/// A pool while it is read.
#[derive(Default)]
struct Draft {
    pool: Pool,
    /// What relative paths of the pool begin with.
    prefix: Option<String>,
    slow_log: Option<String>,
}

struct Reader<'a> {
    files: &'a mut Files,
    found: &'a mut Found,
    seen: &'a mut BTreeSet<PathBuf>,
    unit: String,
    error_log: Option<PathBuf>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: u32) {
        self.seen.insert(path.to_path_buf());
        let mut pool: Option<Draft> = None;
        let mut is_global = true;
        let mut includes = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = without_comment(line).trim();
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                self.take(pool.take());
                is_global = name == "global";
                let pool_of = |name: &str| Pool {
                    name: name.to_owned(),
                    unit: Some(self.unit.clone()),
                    error_log: self.error_log.clone(),
                    php_version: php_version(&path.to_string_lossy()),
                    source: format!("{}:{}", path.display(), number + 1),
                    ..Pool::default()
                };
                pool = (!is_global).then(|| Draft { pool: pool_of(name), ..Draft::default() });
                continue;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
            match (&mut pool, key) {
                // An include may stand behind a pool too.
                (_, "include") => includes.push(value.to_owned()),
                (Some(draft), _) => set(draft, key, value),
                (None, "error_log") if is_global && value.starts_with('/') => {
                    self.error_log = Some(self.files.resolve(Path::new(value)));
                }
                (None, _) => {}
            }
        }
        self.take(pool);
        for pattern in includes {
            self.include(&pattern, path, depth);
        }
    }

    fn take(&mut self, draft: Option<Draft>) {
        let Some(Draft { mut pool, prefix, slow_log }) = draft else { return };
        // The prefix may stand behind what is relative to it.
        let below = |path: &str| match &prefix {
            Some(prefix) if !path.starts_with('/') => {
                format!("{}/{path}", prefix.trim_end_matches('/'))
            }
            _ => path.to_owned(),
        };
        let is_socket = |listen: &str| {
            !listen.is_empty()
                && !listen.contains(':')
                && !listen.bytes().all(|byte| byte.is_ascii_digit())
        };
        if is_socket(&pool.listen) {
            pool.listen = below(&pool.listen);
        }
        pool.status_listen = pool
            .status_listen
            .filter(|listen| !listen.is_empty())
            .map(|listen| if is_socket(&listen) { below(&listen) } else { listen });
        let slow_log = slow_log.map(|path| below(&path)).filter(|path| path.starts_with('/'));
        pool.slow_log = slow_log.map(|path| self.files.resolve(Path::new(&path)));
        if self.found.pools.len() < POOLS_MAX {
            self.found.pools.push(pool);
        }
    }

    fn include(&mut self, pattern: &str, from: &Path, depth: u32) {
        if depth >= DEPTH_MAX {
            return;
        }
        let pattern = match from.parent() {
            Some(folder) if !pattern.starts_with('/') => {
                folder.join(pattern).to_string_lossy().into_owned()
            }
            _ => pattern.to_owned(),
        };
        for included in self.files.expand(&pattern) {
            if self.seen.contains(&included) {
                continue;
            }
            if let Some(text) = self.files.read_included(&included) {
                self.file(&included, &text, depth + 1);
            }
        }
    }
}

/// A `;` outside quotes begins a comment.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, ';') => return &line[..at],
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

fn set(draft: &mut Draft, key: &str, value: &str) {
    let pool = &mut draft.pool;
    let value = value.replace("$pool", &pool.name);
    let number = || value.parse().ok();
    match key {
        "listen" => pool.listen = value,
        "listen.backlog" => pool.backlog = value.parse().ok(),
        "user" => pool.user = Some(value),
        "group" => pool.group = Some(value),
        "pm" => pool.pm = Some(value),
        "pm.max_children" => pool.max_children = number(),
        "pm.start_servers" => pool.start_servers = number(),
        "pm.min_spare_servers" => pool.min_spare_servers = number(),
        "pm.max_spare_servers" => pool.max_spare_servers = number(),
        "pm.max_requests" => pool.max_requests = number(),
        "pm.process_idle_timeout" => pool.process_idle_timeout_s = seconds(&value),
        "pm.status_path" => pool.status_path = Some(value),
        "pm.status_listen" => pool.status_listen = Some(value),
        "request_terminate_timeout" => pool.request_terminate_timeout_s = seconds(&value),
        "request_slowlog_timeout" => pool.request_slowlog_timeout_s = seconds(&value),
        "slowlog" => draft.slow_log = Some(value),
        "prefix" if value.starts_with('/') => draft.prefix = Some(value),
        _ => {}
    }
}

/// `30`, `30s`, `5m`, `2h`, `1d`.
fn seconds(text: &str) -> Option<u64> {
    let factor = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3600,
        b'd' => 86_400,
        _ => return text.parse().ok(),
    };
    text[..text.len() - 1].trim().parse::<u64>().ok()?.checked_mul(factor)
}
