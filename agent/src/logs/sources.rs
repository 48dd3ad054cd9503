//! Which logs to follow: the configured globs and what discovery found, each real file once.
//!
//! An explicit source is stronger than a discovered one for the same file, but takes over format
//! and site where it leaves them open. Compressed files and rotated neighbours of a matched log
//! are never sources: the tail finds them by itself.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use glob::Pattern;

use crate::config::{LogsConfig, SourceConfig};
use crate::discover::{LogKind, LogSource, SiteRule, Unreadable};
use crate::globs;

use super::file::{are_same, is_compressed, is_rotated_name, key_of, without_packing};

/// What there is to follow now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expansion {
    /// Every log once, explicit ones first.
    pub logs: Vec<LogSource>,
    /// Patterns that matched nothing or could not be looked at.
    pub unreadable: Vec<Unreadable>,
}

/// Most logs followed at a time. One costs a descriptor, a kilobyte or two, and a `stat` a second.
pub const LOGS_MAX: usize = 10_000;
/// Descriptors for all else: the spool, sockets, configuration, a compressed file.
const DESCRIPTORS_RESERVED: u64 = 128;
/// Of one pattern so many matches are looked at.
const MATCHES_MAX: usize = 100_000;
/// Files of one number that a further one is compared with.
const SAME_NUMBER_MAX: usize = 4;
/// Of one pattern so many refused directories are named, the rest is counted.
const REFUSED_MAX: usize = 100;

/// Of a discovered pattern so many files of one site are followed, and none that was written last so
/// long before the newest one.
const NEWEST_MAX: usize = 8;
const NEWEST_SPAN: Duration = Duration::from_secs(2 * 86_400);
/// Files beside access logs that hold byte counts, or copies of lines seen already.
const NO_LOGS: [&str; 6] =
    [".bytes", "-bytes_log", ".bytes_log", ".processed", ".webstat", ".webstat-ssl"];

const KINDS: [(&str, LogKind); 10] = [
    ("access", LogKind::Access),
    ("error", LogKind::Error),
    ("php_fpm", LogKind::PhpFpm),
    ("php_slow", LogKind::PhpSlow),
    ("mysql", LogKind::Mysql),
    ("redis", LogKind::Redis),
    ("modsecurity", LogKind::Modsecurity),
    ("syslog", LogKind::Syslog),
    ("kernel", LogKind::Kernel),
    ("change", LogKind::Change),
];

/// The kind a config names.
#[must_use]
pub fn kind_from_name(name: &str) -> Option<LogKind> {
    KINDS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// Allows this process all the descriptors the machine lets it have, and tells how many logs may be
/// open with them: a third is left for rotated files.
pub fn logs_max() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // The limit that systemd sets is the hard one; a shell mostly sets a low soft one.
        let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let n = limit.current.map_or(LOGS_MAX as u64, |n| n.saturating_sub(DESCRIPTORS_RESERVED));
    LOGS_MAX.min((n / 3 * 2) as usize)
}

/// What to say when there are more logs than may be followed.
#[must_use]
pub fn left_out(first: &Path, n: usize, n_max: usize) -> Unreadable {
    Unreadable {
        path: first.to_owned(),
        reason: format!("this and {} more logs are not followed: {n_max} are", n - 1),
        fix: if n_max < LOGS_MAX {
            "raise LimitNOFILE of the agent's service, or name fewer logs".to_owned()
        } else {
            "name fewer logs, or let the web server write one for many sites".to_owned()
        },
    }
}

/// All logs of the configuration and of discovery as they are on disk now.
///
/// A path without wildcards is listed whether it exists or not. Cost: one `stat` per file and one
/// directory listing per wildcard component.
#[must_use]
pub fn expand(config: &LogsConfig, discovered: &[LogSource]) -> Expansion {
    let mut expansion = Expansion::default();
    let mut explicit = Vec::new();
    for source in &config.source {
        let Some(kind) = kind_from_name(&source.kind) else {
            let reason = format!("kind {:?} is not known", source.kind);
            let fix = "use access, error or another kind of the manual".to_owned();
            expansion.unreadable.push(Unreadable { path: source.path.clone().into(), reason, fix });
            continue;
        };
        for path in matches_of(&source.path, &mut expansion.unreadable) {
            explicit.push(explicit_source(source, kind, path));
        }
    }
    let mut known = Known::default();
    for mut source in explicit {
        complete(&mut source, discovered);
        known.add(source);
    }
    known.n_explicit = known.logs.len();
    for source in discovered {
        let pattern = source.path.to_string_lossy();
        if is_pattern(&pattern) && fs::symlink_metadata(&source.path).is_err() {
            let matches = matches_of(&pattern, &mut expansion.unreadable);
            let filled = matches.into_iter().map(|path| filled(source, &pattern, path)).collect();
            for source in newest(filled) {
                known.add(source);
            }
        } else {
            known.add(source.clone());
        }
    }
    expansion.logs = known.logs;
    expansion
}

/// A match of a discovered pattern; a site written `{n}` is what the n-th wildcard stands for.
fn filled(source: &LogSource, pattern: &str, path: PathBuf) -> LogSource {
    let site = match &source.site {
        SiteRule::Fixed(site) => SiteRule::Fixed(fill_in(site, pattern, &path).to_lowercase()),
        SiteRule::Host => SiteRule::Host,
    };
    LogSource { path, site, ..source.clone() }
}

/// Programs that cut logs by the day leave all the old ones where the new one is; only the newest
/// grow. Keeps the newest of each site, and what was written shortly before it.
fn newest(logs: Vec<LogSource>) -> Vec<LogSource> {
    let mut by_site: BTreeMap<String, Vec<(SystemTime, usize)>> = BTreeMap::new();
    for (ix, log) in logs.iter().enumerate() {
        let changed = fs::metadata(&log.path).and_then(|meta| meta.modified());
        let site = if let SiteRule::Fixed(site) = &log.site { site.clone() } else { String::new() };
        by_site.entry(site).or_default().push((changed.unwrap_or(SystemTime::UNIX_EPOCH), ix));
    }
    let mut kept = BTreeSet::new();
    for mut of_site in by_site.into_values() {
        of_site.sort_unstable_by(|a, b| b.cmp(a));
        let newest = of_site.first().map_or(SystemTime::UNIX_EPOCH, |(changed, _)| *changed);
        let is_kept = |(changed, _): &&(SystemTime, usize)| {
            newest.duration_since(*changed).is_ok_and(|age| age <= NEWEST_SPAN)
        };
        kept.extend(of_site.iter().take(NEWEST_MAX).take_while(is_kept).map(|(_, ix)| *ix));
    }
    logs.into_iter().enumerate().filter(|(ix, _)| kept.contains(ix)).map(|(_, log)| log).collect()
}

/// Takes over what an explicit source leaves open from a discovered one of the same file.
fn complete(source: &mut LogSource, discovered: &[LogSource]) {
    let is_same = |other: &&LogSource| {
        other.path == source.path
            || matches!(
                (fs::metadata(&other.path), fs::metadata(&source.path)),
                (Ok(a), Ok(b)) if key_of(&a) == key_of(&b)
            )
    };
    let same_path = discovered.iter().find(|other| other.path == source.path);
    let Some(other) = same_path.or_else(|| discovered.iter().find(is_same)) else { return };
    if source.format == "auto" {
        source.format.clone_from(&other.format);
    }
    if source.site == SiteRule::Host {
        source.site.clone_from(&other.site);
    }
    source.inner = other.inner;
    source.inner_sites.clone_from(&other.inner_sites);
}

#[derive(Default)]
struct Known {
    logs: Vec<LogSource>,
    paths: BTreeSet<PathBuf>,
    /// The paths of each number: some file systems give one to all their files.
    keys: BTreeMap<super::checkpoint::FileKey, Vec<PathBuf>>,
    /// The first ones of `logs`, which no discovered log takes the place of.
    n_explicit: usize,
}

impl Known {
    fn add(&mut self, source: LogSource) {
        if !self.paths.insert(source.path.clone()) {
            return;
        }
        if let Some(meta) = fs::metadata(&source.path).ok().filter(fs::Metadata::is_file) {
            let others = self.keys.entry(key_of(&meta)).or_default();
            if let Some(other) = others.iter_mut().find(|other| are_same(other, &source.path)) {
                // Whoever owns a folder of logs can link another one's log into it.
                let its = self.logs.iter().skip(self.n_explicit).position(|log| log.path == *other);
                if let Some(ix) = its.filter(|_| is_nearer(&source.path, other)) {
                    other.clone_from(&source.path);
                    self.logs[self.n_explicit + ix] = source;
                }
                return;
            }
            if others.len() < SAME_NUMBER_MAX {
                others.push(source.path.clone());
            }
        }
        self.logs.push(source);
    }
}

/// True when the first of two paths to one file leads there more directly: more of its end is that of
/// the file's own path, without links.
fn is_nearer(path: &Path, other: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let n_same = |path: &Path| {
        let parts = path.components().rev().zip(real.components().rev());
        parts.take_while(|(own, real)| own == real).count()
    };
    n_same(path) > n_same(other)
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// The files a path or pattern stands for, sorted.
fn matches_of(pattern: &str, unreadable: &mut Vec<Unreadable>) -> Vec<PathBuf> {
    if !is_pattern(pattern) {
        return vec![PathBuf::from(pattern)];
    }
    let walk = match globs::matches(pattern) {
        Ok(walk) => walk,
        Err(error) => {
            let (reason, fix) = (error.to_string(), "correct the pattern".to_owned());
            unreadable.push(Unreadable { path: pattern.into(), reason, fix });
            return Vec::new();
        }
    };
    let mut by_directory: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    let mut n_refused = 0;
    for entry in walk.take(MATCHES_MAX) {
        match entry {
            Ok(path) if is_compressed(&path) || is_no_log(&path) || is_no_file(&path) => {}
            Ok(path) => {
                let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
                by_directory.entry(directory).or_default().push(path);
            }
            Err(error) => {
                n_refused += 1;
                if n_refused <= REFUSED_MAX {
                    unreadable.push(Unreadable {
                        path: error.path().to_owned(),
                        reason: error.error().to_string(),
                        fix: permission_fix(error.path()),
                    });
                }
            }
        }
    }
    if let Some(n_more) = n_refused.checked_sub(REFUSED_MAX).filter(|n| *n > 0) {
        let (reason, fix) =
            (format!("{n_more} more directories cannot be read"), "as for the others".to_owned());
        unreadable.push(Unreadable { path: pattern.into(), reason, fix });
    }
    let files: Vec<_> = by_directory.into_values().flat_map(without_rotated).collect();
    if files.is_empty() && n_refused == 0 {
        unreadable.push(Unreadable {
            path: pattern.into(),
            reason: "no file matches".to_owned(),
            fix: "correct the pattern, or wait until the log exists".to_owned(),
        });
    }
    files
}

/// True for a directory, and for a link that leads nowhere: it may be to another one's log that is
/// rotating, and its new file is not the link's.
fn is_no_file(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// True for what panels put beside access logs: it is never read as one.
#[must_use]
pub fn is_no_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy();
    NO_LOGS.iter().any(|end| name.ends_with(end))
}

/// The files of one directory that are no rotated form of another one.
fn without_rotated(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let name =
        |path: &PathBuf| path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    let names: Vec<String> = files.iter().map(name).collect();
    // Thousands of logs may lie in one directory, so each name asks for its own possible bases.
    let known: HashSet<&str> = names.iter().map(String::as_str).collect();
    let is_rotated = |of: &str| {
        let is_base = |base: &str| base != of && known.contains(base) && is_rotated_name(base, of);
        bases_of(of).any(|base| is_base(&base))
    };
    files
        .into_iter()
        .zip(&names)
        .filter(|(_, name)| !is_rotated(name))
        .map(|(path, _)| path)
        .collect()
}

/// Every name that [`is_rotated_name`] could accept as the base of this one.
fn bases_of(name: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let name = without_packing(name);
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    name.match_indices(['.', '-', '_']).flat_map(move |(at, _)| {
        let front = &name[..at];
        let before = extension.map(|extension| Cow::Owned(format!("{front}.{extension}")));
        [Some(Cow::Borrowed(front)), before].into_iter().flatten()
    })
}

fn explicit_source(source: &SourceConfig, kind: LogKind, path: PathBuf) -> LogSource {
    let site = source.site.as_ref().map_or(SiteRule::Host, |site| {
        SiteRule::Fixed(fill_in(site, &source.path, &path).to_lowercase())
    });
    LogSource {
        path,
        kind,
        format: source.format.clone(),
        site,
        timezone: source.timezone.clone(),
        inner: false,
        inner_sites: Vec::new(),
    }
}

/// Replaces `{n}` by what the n-th wildcard of the pattern stands for in the path.
fn fill_in(template: &str, pattern: &str, path: &Path) -> String {
    if !template.contains('{') {
        return template.to_owned();
    }
    let path = path.to_string_lossy();
    let mut found = Vec::new();
    if !capture(pattern, &path, &mut found) {
        return template.to_owned();
    }
    let mut filled = template.to_owned();
    for (ix, part) in found.iter().enumerate() {
        filled = filled.replace(&format!("{{{}}}", ix + 1), part);
    }
    filled
}

/// Matches a path that the glob matched and notes what each wildcard (`*`, `**`, `?`, `[...]`)
/// stands for. Backtracks; patterns are the operator's own.
fn capture<'p>(pattern: &str, path: &'p str, found: &mut Vec<&'p str>) -> bool {
    let Some(first) = pattern.chars().next() else { return path.is_empty() };
    let wildcard = match first {
        '*' if pattern.starts_with("**/") => "**/",
        '*' if pattern.starts_with("**") => "**",
        '*' => "*",
        '?' => "?",
        '[' => {
            // A bracket right behind the first one, or behind its `!`, is a member of the set.
            let end = pattern.char_indices().skip(2).find(|(_, c)| *c == ']');
            &pattern[..end.map_or(1, |(at, _)| at + 1)]
        }
        _ => {
            let rest = path.strip_prefix(first);
            return rest.is_some_and(|rest| capture(&pattern[first.len_utf8()..], rest, found));
        }
    };
    let rest = &pattern[wildcard.len()..];
    let single = matches!(first, '?' | '[');
    let ends = path.char_indices().map(|(at, _)| at).chain([path.len()]);
    let depth = found.len();
    for end in ends {
        let part = &path[..end];
        let fits = match wildcard {
            "**/" => part.is_empty() || part.ends_with('/'),
            "**" => true,
            "*" => !part.contains('/'),
            one => part.chars().count() == 1 && Pattern::new(one).is_ok_and(|p| p.matches(part)),
        };
        if fits {
            found.push(part.trim_end_matches('/'));
            if capture(rest, &path[end..], found) {
                return true;
            }
            found.truncate(depth);
        }
        if single && end > 0 && !part.is_empty() && part.chars().count() > 1 {
            break;
        }
    }
    false
}

/// The one command that lets the agent's user read a log: membership of the group that may, where one
/// may, else an access list on what refuses and all below it on the way.
#[must_use]
pub fn permission_fix(path: &Path) -> String {
    let on_the_way: Vec<&Path> = path.ancestors().collect();
    // From the root down to the first part that refuses.
    let refusing = on_the_way.iter().rev().position(|part| is_refused(part, *part == path));
    let at = on_the_way.len() - 1 - refusing.unwrap_or(on_the_way.len() - 1);
    let part = on_the_way[at];
    if let Ok(meta) = fs::metadata(part) {
        let needed = if meta.is_dir() { 0o050 } else { 0o040 };
        let is_enough = meta.mode() & needed == needed && meta.gid() != 0;
        if let Some(group) = group_name(meta.gid()).filter(|_| is_enough) {
            return format!("run `usermod -aG {group} gatewatch-agent` and restart the agent");
        }
    }
    // What lies below cannot be seen from here, and may refuse as well.
    let parts: Vec<String> = on_the_way[..=at].iter().rev().map(|part| quoted(part)).collect();
    format!("run `setfacl -m u:gatewatch-agent:rX {}`", parts.join(" "))
}

/// True when a part of a path may not be passed, or its last part not be read.
fn is_refused(part: &Path, is_last: bool) -> bool {
    use rustix::fs::Access;
    let wanted = match fs::metadata(part) {
        Ok(meta) if meta.is_dir() && is_last => Access::READ_OK | Access::EXEC_OK,
        Ok(meta) if meta.is_dir() => Access::EXEC_OK,
        Ok(_) => Access::READ_OK,
        Err(_) => return true,
    };
    rustix::fs::access(part, wanted).is_err()
}

/// A path as a shell takes it.
#[must_use]
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn group_name(gid: u32) -> Option<String> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::file::lies::{LIE, Lie};

    fn source(path: &str, site: Option<&str>) -> SourceConfig {
        SourceConfig {
            path: path.to_owned(),
            kind: "access".to_owned(),
            format: "auto".to_owned(),
            site: site.map(str::to_owned),
            timezone: None,
        }
    }

    fn config(sources: Vec<SourceConfig>) -> LogsConfig {
        LogsConfig { source: sources, ..LogsConfig::default() }
    }

    fn names(expansion: &Expansion) -> Vec<String> {
        let name = |log: &LogSource| log.path.file_name().unwrap().to_string_lossy().into_owned();
        expansion.logs.iter().map(name).collect()
    }

    #[test]
    fn a_wildcard_names_the_site() {
        for (pattern, path, template, site) in [
            ("/srv/*/logs/access.log", "/srv/a.example/logs/access.log", "{1}", "a.example"),
            ("/srv/*/*/access.log", "/srv/u1/a.example/access.log", "{2}.{1}", "a.example.u1"),
            ("/srv/**/access.log", "/srv/x/y/access.log", "{1}", "x/y"),
            ("/l/*-access.log", "/l/a-b-access.log", "{1}", "a-b"),
            ("/l/?[0-9]*.log", "/l/a7bc.log", "{1}-{2}-{3}", "a-7-bc"),
            ("/l/*.log", "/l/a.log", "fixed", "fixed"),
            ("/l/*.log", "/l/a.log", "{2}", "{2}"),
        ] {
            assert_eq!(fill_in(template, pattern, Path::new(path)), site, "{pattern} {path}");
        }
    }

    #[test]
    fn each_rotated_name_finds_its_base() {
        let marks = ["", ".1", "-20261120", "_old", ".bak", ".x", "-1.2", ".2.gz", ".gz", "1"];
        let bases = ["a", "a.log", "a.b.log", "a-b_log", ".log", "a.", "access_log"];
        let mut names: Vec<String> = Vec::new();
        for (base, mark) in bases.iter().flat_map(|base| marks.map(|mark| (base, mark))) {
            names.push(format!("{base}{mark}"));
            names.extend(base.rsplit_once('.').map(|(stem, end)| format!("{stem}{mark}.{end}")));
        }
        names.sort();
        names.dedup();
        let is_base = |base: &String, of: &String| base != of && is_rotated_name(base, of);
        let slowly = names.iter().filter(|of| !names.iter().any(|base| is_base(base, of)));
        let slowly: Vec<PathBuf> = slowly.map(PathBuf::from).collect();
        let found = without_rotated(names.iter().map(PathBuf::from).collect());
        assert_eq!(found, slowly);
        assert!((bases.len()..names.len()).contains(&found.len()), "{found:?}");
    }

    #[test]
    fn thousands_of_logs_in_one_directory_do_not_stop_the_agent() {
        // Each name against each other one would take minutes.
        let names = (0..100_000).map(|n| PathBuf::from(format!("/l/site-{n}.example-ssl_log")));
        assert_eq!(without_rotated(names.collect()).len(), 100_000);
    }

    #[test]
    fn every_match_of_a_glob_is_followed_but_no_rotated_or_compressed_file() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a.log",
            "a.log.1",
            "a.log.2.gz",
            "a.log-20261120",
            "a-20261119.log",
            "a-ssl.log",
            "b.log",
            "b.log.zst",
            "c-2026-11-20.log",
        ] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::create_dir(dir.path().join("d.log")).unwrap();
        let pattern = dir.path().join("*.log*");
        let expansion = expand(&config(vec![source(pattern.to_str().unwrap(), None)]), &[]);
        assert_eq!(names(&expansion), ["a-ssl.log", "a.log", "b.log", "c-2026-11-20.log"]);
        assert_eq!(expansion.unreadable, []);
    }

    #[test]
    fn one_real_file_is_followed_once_and_the_explicit_source_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.log"), dir.path().join("link.log"));
        fs::write(&real, b"").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let discovered = |path: &Path, site: &str| LogSource {
            path: path.to_owned(),
            kind: LogKind::Access,
            format: "combined".to_owned(),
            site: SiteRule::Fixed(site.to_owned()),
            timezone: None,
            inner: true,
            inner_sites: Vec::new(),
        };
        let found = [discovered(&real, "a.example"), discovered(&real, "b.example")];
        let expansion = expand(&config(vec![source(link.to_str().unwrap(), None)]), &found);
        let [log] = expansion.logs.as_slice() else { panic!("{:?}", expansion.logs) };
        assert_eq!((log.path.as_path(), log.format.as_str()), (link.as_path(), "combined"));
        assert_eq!((&log.site, log.inner), (&SiteRule::Fixed("a.example".to_owned()), true));
    }

    #[test]
    fn a_link_to_the_log_of_a_neighbour_does_not_take_it_from_its_site() {
        let dir = tempfile::tempdir().unwrap();
        for site in ["a.example", "b.example", "c.example"] {
            fs::create_dir_all(dir.path().join(site).join("logs")).unwrap();
        }
        let log = |site: &str| dir.path().join(site).join("logs/access.log");
        fs::write(log("b.example"), b"").unwrap();
        std::os::unix::fs::symlink(log("b.example"), log("a.example")).unwrap();
        fs::remove_dir(dir.path().join("c.example/logs")).unwrap();
        let linked = dir.path().join("c.example/logs");
        std::os::unix::fs::symlink(dir.path().join("b.example/logs"), linked).unwrap();
        let pattern = dir.path().join("*/logs/access.log").to_string_lossy().into_owned();
        let expansion = expand(&config(vec![source(&pattern, Some("{1}"))]), &[]);
        let found: Vec<_> = expansion.logs.iter().map(|log| (&*log.path, &log.site)).collect();
        let site = SiteRule::Fixed("b.example".to_owned());
        assert_eq!(found, [(&*log("b.example"), &site)]);
    }

    #[test]
    fn a_file_system_that_gives_all_files_one_number_hides_none_of_a_glob() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a.log", "a"), ("b.log", "bb")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        LIE.set(Some(Lie::Same));
        let pattern = dir.path().join("*.log");
        let expansion = expand(&config(vec![source(pattern.to_str().unwrap(), None)]), &[]);
        LIE.set(None);
        assert_eq!(names(&expansion), ["a.log", "b.log"]);
    }

    #[test]
    fn a_missing_file_is_listed_and_a_pattern_without_match_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (missing, pattern) = (dir.path().join("no.log"), dir.path().join("no/*.log"));
        let sources = vec![
            source(missing.to_str().unwrap(), Some("A.Example")),
            source(pattern.to_str().unwrap(), None),
            SourceConfig { kind: "acess".to_owned(), ..source("/l", None) },
        ];
        let expansion = expand(&config(sources), &[]);
        assert_eq!(names(&expansion), ["no.log"]);
        assert_eq!(expansion.logs[0].site, SiteRule::Fixed("a.example".to_owned()));
        let told: Vec<_> = expansion.unreadable.iter().map(|u| u.reason.as_str()).collect();
        assert_eq!(told, ["no file matches", "kind \"acess\" is not known"]);
    }

    #[test]
    fn byte_counts_and_copies_beside_logs_match_no_pattern() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a.log",
            "a.bytes",
            "a-bytes_log",
            "access_log",
            "access_log.processed",
            "access_log.webstat",
        ] {
            fs::write(dir.path().join(name), b"x\n").unwrap();
        }
        let pattern = dir.path().join("*").to_string_lossy().into_owned();
        let expansion = expand(&config(vec![source(&pattern, None)]), &[]);
        assert_eq!(names(&expansion), ["a.log", "access_log"]);
    }

    #[test]
    fn a_discovered_pattern_names_its_sites_and_keeps_what_grows() {
        let dir = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(86_400);
        for (name, age) in
            [("a.example-1", 9), ("a.example-2", 1), ("a.example-3", 0), ("b.example-1", 50)]
        {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + (20_000 - age) * day).unwrap();
        }
        let log = LogSource {
            path: dir.path().join("*-?"),
            kind: LogKind::Access,
            format: "combined".to_owned(),
            site: SiteRule::Fixed("{1}".to_owned()),
            timezone: None,
            inner: true,
            inner_sites: Vec::new(),
        };
        let expansion = expand(&config(Vec::new()), &[log]);
        assert_eq!(names(&expansion), ["a.example-2", "a.example-3", "b.example-1"]);
        let sites: Vec<_> = expansion.logs.iter().map(|log| &log.site).collect();
        let of = |site: &str| SiteRule::Fixed(site.to_owned());
        assert_eq!(sites, [&of("a.example"), &of("a.example"), &of("b.example")]);
        assert!(expansion.logs.iter().all(|log| log.inner && log.format == "combined"));
    }

    #[test]
    fn the_fix_for_what_lies_in_a_refused_folder_names_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("it's/logs/a.log");
        let fix = permission_fix(&path);
        assert!(fix.starts_with("run `setfacl -m u:gatewatch-agent:rX "), "{fix}");
        assert!(fix.contains("it'\\''s' ") && fix.ends_with("logs/a.log'`"), "{fix}");
    }

    #[test]
    fn the_fix_for_a_refused_log_names_the_group_that_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, b"").unwrap();
        let set_mode = |mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(&path, mode).unwrap();
        };
        set_mode(0o600);
        let fix = permission_fix(&path);
        assert!(fix.contains("setfacl -m u:gatewatch-agent:rX ") && fix.contains("a.log"), "{fix}");
        set_mode(0o640);
        // Group root would give away everything; another group is the usual way.
        let adm = fs::read_to_string("/etc/group").unwrap();
        let gid = adm.lines().find_map(|line| line.strip_prefix("adm:x:"));
        let gid: Option<u32> = gid.and_then(|rest| rest.split(':').next()?.parse().ok());
        if let Some(gid) = gid
            && std::os::unix::fs::chown(&path, None, Some(gid)).is_ok()
        {
            let fix = permission_fix(&path);
            assert!(fix.starts_with("run `usermod -aG adm gatewatch-agent`"), "{fix}");
        }
    }
}
