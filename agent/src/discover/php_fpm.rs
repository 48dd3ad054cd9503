//! PHP-FPM pools, of every installed version.

use std::path::{Path, PathBuf};

use crate::discover::Pool;
use crate::discover::files::Files;

/// Where masters are configured, and the unit that runs them; `{}` is what the `*` matched.
const MASTERS: [(&str, &str); 5] = [
    ("/etc/php/*/fpm/php-fpm.conf", "php{}-fpm.service"),
    ("/etc/php-fpm.conf", "php-fpm.service"),
    ("/etc/opt/remi/*/php-fpm.conf", "{}-php-fpm.service"),
    ("/opt/cpanel/*/root/etc/php-fpm.conf", "{}-php-fpm.service"),
    ("/opt/plesk/php/*/etc/php-fpm.conf", "plesk-php{}-fpm.service"),
];
/// Pool files for masters whose own file is not there or cannot be read.
const POOLS: [(&str, &str); 2] = [
    ("/etc/php/*/fpm/pool.d/*.conf", "php{}-fpm.service"),
    ("/etc/php-fpm.d/*.conf", "php-fpm.service"),
];

/// All pools, and the services that run them.
pub(super) fn discover(files: &mut Files) -> Vec<Pool> {
    let mut pools = Vec::new();
    let mut seen = Vec::new();
    for (pattern, unit) in MASTERS {
        for file in files.expand(&files.below(pattern).to_string_lossy()) {
            let Some(text) = files.read_optional(&file) else { continue };
            let unit = unit.replace("{}", &matched(pattern, &file));
            let mut master = Master { unit, error_log: None };
            read_ini(files, &file, &text, &mut master, &mut pools, &mut seen, 0);
        }
    }
    for (pattern, unit) in POOLS {
        for file in files.expand(&files.below(pattern).to_string_lossy()) {
            if seen.contains(&file) {
                continue;
            }
            let Some(text) = files.read_optional(&file) else { continue };
            let unit = unit.replace("{}", &matched(pattern, &file));
            let mut master = Master { unit, error_log: None };
            read_ini(files, &file, &text, &mut master, &mut pools, &mut seen, 0);
        }
    }
    pools.retain(|pool: &Pool| !pool.listen.is_empty());
    pools
}

struct Master {
    unit: String,
    error_log: Option<PathBuf>,
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

fn read_ini(
    files: &mut Files,
    file: &Path,
    text: &str,
    master: &mut Master,
    pools: &mut Vec<Pool>,
    seen: &mut Vec<PathBuf>,
    depth: u32,
) {
    seen.push(file.to_path_buf());
    let mut in_pool = None;
    let mut includes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split(';').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            in_pool = (name != "global").then(|| {
                pools.push(Pool {
                    name: name.to_owned(),
                    unit: Some(master.unit.clone()),
                    error_log: master.error_log.clone(),
                    source: format!("{}:{}", file.display(), number + 1),
                    ..Pool::default()
                });
                pools.len() - 1
            });
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim().trim_matches(['"', '\'']));
        match in_pool {
            Some(pool) => set(&mut pools[pool], key, value, files),
            None if key == "error_log" && value.starts_with('/') => {
                master.error_log = Some(files.resolve(Path::new(value)));
            }
            None if key == "include" => includes.push(value.to_owned()),
            None => {}
        }
    }
    for pattern in includes {
        if depth >= 4 {
            continue;
        }
        for included in files.expand(&pattern) {
            if seen.contains(&included) {
                continue;
            }
            if let Some(text) = files.read_included(&included) {
                read_ini(files, &included, &text, master, pools, seen, depth + 1);
            }
        }
    }
}

fn set(pool: &mut Pool, key: &str, value: &str, files: &Files) {
    let value = value.replace("$pool", &pool.name);
    match key {
        "listen" => pool.listen = value,
        "listen.backlog" => pool.backlog = value.parse().ok(),
        "pm.max_children" => pool.max_children = value.parse().ok(),
        "slowlog" if value.starts_with('/') => {
            pool.slow_log = Some(files.resolve(Path::new(&value)));
        }
        _ => {}
    }
}
