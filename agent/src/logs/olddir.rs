//! Where rotated logs are moved to: directories beside the log with a telling name, and what the
//! `olddir` lines of logrotate's configuration say.

use std::fs;
use std::path::{Path, PathBuf};

use glob::Pattern;

/// Directories in which the rotated files of one log are looked for, its own aside.
const ARCHIVES_MAX: usize = 8;
/// Of logrotate's configuration so much is read: files, and bytes of each.
const CONFIGS_MAX: usize = 256;
const CONFIG_BYTES_MAX: u64 = 64 << 10;
const NAMES: [&str; 10] = [
    "old", "archive", "archives", "archived", "backup", "backups", "rotated", "oldlogs",
    "old_logs", "logs.old",
];

/// The `olddir` lines of a machine, each with the logs it is for.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    /// None: all logs.
    patterns: Vec<String>,
    directory: PathBuf,
}

impl Rules {
    /// Of the files that logrotate reads below `etc`. What cannot be read says nothing.
    pub(super) fn load(etc: &Path) -> Self {
        let mut paths = vec![etc.join("logrotate.conf")];
        if let Ok(entries) = fs::read_dir(etc.join("logrotate.d")) {
            paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())).take(CONFIGS_MAX));
        }
        let mut rules = Vec::new();
        for path in paths {
            if fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() < CONFIG_BYTES_MAX)
                && let Ok(text) = fs::read_to_string(&path)
            {
                rules.extend(parse(&text));
            }
        }
        Self(rules)
    }

    /// Existing directories other than its own where rotated files of this log may lie. `named`
    /// are those beside it.
    pub(super) fn archives_of(&self, log: &Path, named: &[PathBuf]) -> Vec<PathBuf> {
        let own = log.parent().unwrap_or(Path::new(""));
        let ruled = self.0.iter().filter(|rule| rule.is_for(log));
        let mut archives: Vec<PathBuf> = Vec::new();
        for path in ruled.map(|rule| own.join(&rule.directory)).chain(named.iter().cloned()) {
            if path != own && !archives.contains(&path) && path.is_dir() {
                archives.push(path);
            }
        }
        archives.truncate(ARCHIVES_MAX);
        archives
    }
}

/// The directories among the entries of one whose names say that they hold old files.
pub(super) fn named(beside: &[(PathBuf, u64)]) -> Vec<PathBuf> {
    let paths = beside.iter().map(|(path, _)| path);
    paths.filter(|path| has_telling_name(path) && path.is_dir()).cloned().collect()
}

impl Rule {
    fn is_for(&self, log: &Path) -> bool {
        let is_it = |pattern: &String| Pattern::new(pattern).is_ok_and(|p| p.matches_path(log));
        self.patterns.is_empty() || self.patterns.iter().any(is_it)
    }
}

fn has_telling_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    NAMES.contains(&name.as_str()) || path.extension().is_some_and(|extension| extension == "d")
}

/// The `olddir` lines of one file. Scripts are skipped.
fn parse(text: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    let (mut patterns, mut is_block, mut is_script) = (Vec::new(), false, false);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let word = line.split_whitespace().next().unwrap_or_default();
        match word {
            "endscript" => is_script = false,
            _ if is_script => {}
            "prerotate" | "postrotate" | "firstaction" | "lastaction" | "preremove" => {
                is_script = true;
            }
            "olddir" => {
                let directory = line["olddir".len()..].trim().trim_matches(['"', '\'']);
                if !directory.is_empty() {
                    let patterns = if is_block { patterns.clone() } else { Vec::new() };
                    rules.push(Rule { patterns, directory: directory.into() });
                }
            }
            _ if !is_block && (line.starts_with(['/', '"', '\'', '{'])) => {
                let names = line.trim_end_matches('{').split_whitespace();
                patterns.extend(names.map(|name| name.trim_matches(['"', '\'']).to_owned()));
                is_block = line.ends_with('{');
            }
            _ if is_block && line.ends_with('}') => {
                is_block = false;
                patterns.clear();
            }
            _ => {}
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn olddir_is_for_the_logs_of_its_block_and_outside_of_blocks_for_all() {
        let text = "weekly\nolddir everywhere\n# olddir no\n/var/log/nginx/*.log\n\
                    \"/srv/a b/access.log\" {\n  daily\n  postrotate\n    olddir no; x() { :; }\n\
                    endscript\n  olddir /var/log/old\n}\n/var/log/other.log {\n  missingok\n}\n";
        let rules = parse(text);
        let names: Vec<_> = rules.iter().map(|rule| rule.directory.to_str().unwrap()).collect();
        assert_eq!(names, ["everywhere", "/var/log/old"]);
        for (log, want) in
            [("/var/log/nginx/a.log", [true, true]), ("/var/log/other.log", [true, false])]
        {
            let is_for: Vec<_> = rules.iter().map(|rule| rule.is_for(Path::new(log))).collect();
            assert_eq!(is_for, want, "{log}");
        }
    }

    #[test]
    fn only_directories_that_exist_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["old", "other", "access.d", "etc/logrotate.d", "ruled"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("archive"), b"a file").unwrap();
        let rule = format!("{}/*.log {{\nolddir ruled\n}}\n", dir.path().display());
        fs::write(dir.path().join("etc/logrotate.d/nginx"), rule).unwrap();
        fs::write(dir.path().join("etc/logrotate.d/broken"), "} { olddir\n\0").unwrap();
        let rules = Rules::load(&dir.path().join("etc"));
        let entries = fs::read_dir(dir.path()).unwrap().map(|entry| (entry.unwrap().path(), 0));
        let mut beside: Vec<_> = entries.collect();
        beside.sort();
        let archives = rules.archives_of(&dir.path().join("a.log"), &named(&beside));
        let names: Vec<_> = archives.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["ruled", "access.d", "old"]);
    }
}
