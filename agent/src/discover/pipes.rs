//! Where a log ends up: a file, or the file that a program behind a pipe writes.
//!
//! Programs that cut logs by the day name their file by a pattern, so its path becomes a glob; the
//! newest match is the one that grows.

use std::path::{Path, PathBuf};

use crate::discover::files::Files;
use crate::discover::found::VhostLog;
use crate::discover::words::words;

/// The log behind `/var/log/a.log`, `|/usr/bin/rotatelogs …` or the like; nothing when it is no file.
/// The path may be relative: then it stays so.
pub(super) fn target(files: &Files, target: &str, format: &str) -> Option<VhostLog> {
    let Some(command) = target.strip_prefix('|') else {
        let is_file = !target.is_empty()
            && !target.starts_with("syslog")
            && !target.starts_with("journald")
            && !target.starts_with("/dev/");
        return is_file.then(|| VhostLog::new(absolute(files, target), format));
    };
    let command = command.trim_start_matches(['|', '$', '-']);
    // The whole command may be in quotes of its own.
    let mut words = words(command.trim());
    if let [one] = words.as_slice()
        && one.contains(' ')
    {
        words = crate::discover::words::words(one);
    }
    let at = words.iter().position(|word| is_known(word))?;
    let program = words[at].rsplit('/').next()?.to_owned();
    let args = &words[at + 1..];
    match program.as_str() {
        "rotatelogs" | "rotatelogs2" | "rotatelogs24" => rotatelogs(files, args, format),
        "cronolog" => cronolog(files, args, format),
        "vlogger" => vlogger(files, args, format),
        "splitlogs" => Some(splitlogs(files, args, format)),
        // `tee -a /var/log/a.log`
        _ => {
            let path = args.iter().rev().find(|arg| arg.starts_with('/'))?;
            Some(VhostLog::new(absolute(files, path), format))
        }
    }
}

fn is_known(word: &str) -> bool {
    let program = word.rsplit('/').next().unwrap_or(word);
    matches!(
        program,
        "rotatelogs"
            | "rotatelogs2"
            | "rotatelogs24"
            | "cronolog"
            | "vlogger"
            | "splitlogs"
            | "tee"
    )
}

/// Says that a log ends where nobody can follow it.
pub(super) fn note(files: &mut Files, target: &str, place: &str) {
    if target.starts_with("/dev/null") {
        return;
    }
    let reason = format!("access log goes to {target} ({place})");
    let fix = "write it into a file as well, or add a [[logs.source]] with what the program writes";
    let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
    files.note(Path::new(file), reason, fix.to_owned());
}

fn absolute(files: &Files, path: &str) -> PathBuf {
    if path.starts_with('/') { files.resolve(Path::new(path)) } else { PathBuf::from(path) }
}

/// `rotatelogs [-L link] [-n number] file seconds`.
fn rotatelogs(files: &Files, args: &[String], format: &str) -> Option<VhostLog> {
    let mut file = None;
    let mut is_numbered = false;
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            // The link always leads to the file that is written.
            "-L" => return Some(VhostLog::new(absolute(files, rest.next()?), format)),
            "-n" => {
                is_numbered = true;
                rest.next()?;
            }
            "-p" | "-m" => {
                rest.next()?;
            }
            flag if flag.starts_with('-') => {}
            path => {
                file = Some(path.to_owned());
                break;
            }
        }
    }
    let file = file?;
    let path = match (file.contains('%'), is_numbered) {
        (true, _) => without_dates(&file),
        (false, true) => file,
        // It adds the second at which the file was begun.
        (false, false) => format!("{file}.*"),
    };
    Some(VhostLog::new(absolute(files, &path), format))
}

/// `cronolog [-S link] pattern`.
fn cronolog(files: &Files, args: &[String], format: &str) -> Option<VhostLog> {
    let mut rest = args.iter();
    let mut pattern = None;
    while let Some(arg) = rest.next() {
        let attached = ["--symlink=", "--link=", "--hardlink="]
            .iter()
            .find_map(|option| arg.strip_prefix(option));
        match (arg.as_str(), attached) {
            (_, Some(link)) => return Some(VhostLog::new(absolute(files, link), format)),
            ("-S" | "--symlink" | "-l" | "--link" | "-H" | "--hardlink", _) => {
                return Some(VhostLog::new(absolute(files, rest.next()?), format));
            }
            ("-P" | "-p" | "-d" | "-z" | "-x", _) => {
                rest.next()?;
            }
            (flag, _) if flag.starts_with('-') => {}
            (path, _) => pattern = Some(path.to_owned()),
        }
    }
    Some(VhostLog::new(absolute(files, &without_dates(&pattern?)), format))
}

/// `vlogger [-s link] [-t template] [-d config] folder`: a folder a vhost; its lines lose the vhost.
fn vlogger(files: &Files, args: &[String], format: &str) -> Option<VhostLog> {
    let (mut link, mut template, mut folder) = (None, "%m%d%Y-access.log".to_owned(), None);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "-s" => link = Some(rest.next()?.clone()),
            "-t" => template.clone_from(rest.next()?),
            "-d" | "-f" | "-u" | "-g" | "-r" => {
                rest.next()?;
            }
            flag if flag.starts_with('-') => {}
            path => folder = Some(path.to_owned()),
        }
    }
    let file = link.unwrap_or_else(|| without_dates(&template));
    let path = format!("{}/*/{file}", folder?.trim_end_matches('/'));
    Some(by_vhost(absolute(files, &path), format))
}

/// `splitlogs --dir=… --suffix=…`: a file a vhost.
fn splitlogs(files: &Files, args: &[String], format: &str) -> VhostLog {
    let option = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name));
    let folder = option("--dir=").unwrap_or("/etc/apache2/logs/domlogs");
    let suffix = option("--suffix=").unwrap_or_default();
    let path = format!("{}/*{suffix}", folder.trim_end_matches('/'));
    by_vhost(absolute(files, &path), format)
}

/// The program takes the vhost off each line and names the file after it.
fn by_vhost(path: PathBuf, format: &str) -> VhostLog {
    let format = ["%v:%p ", "%v ", "%V:%p ", "%V "]
        .iter()
        .find_map(|vhost| format.strip_prefix(vhost))
        .unwrap_or(format);
    VhostLog { host_wildcard: Some(1), ..VhostLog::new(path, format) }
}

/// `access.%Y%m%d.log` -> `access.*.log`.
fn without_dates(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // `%E` and `%O` come before a letter.
        if matches!(chars.peek(), Some('E' | 'O' | '-')) {
            chars.next();
        }
        match chars.next() {
            Some('%') => out.push('%'),
            _ if out.ends_with('*') => {}
            _ => out.push('*'),
        }
    }
    // `%Y-%m-%d` is one date.
    while let Some(shorter) = ["*-*", "*.*.*", "*_*"].iter().find(|part| out.contains(**part)) {
        out = out.replacen(shorter, "*", 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_ends_in_the_file_its_program_writes() {
        let files = Files::new(Path::new("/"));
        for (text, path) in [
            ("/l/a.log", Some("/l/a.log")),
            ("syslog:local1", None),
            ("/dev/null", None),
            ("|/usr/bin/rotatelogs /l/a.%Y-%m-%d.log 86400", Some("/l/a.*.log")),
            ("|/usr/bin/rotatelogs -l -f /l/a.log 86400", Some("/l/a.log.*")),
            ("||/usr/sbin/rotatelogs -n 5 /l/a.log 10M", Some("/l/a.log")),
            ("|$/usr/bin/rotatelogs -L /l/now.log /l/a.%s 86400", Some("/l/now.log")),
            ("|\"/usr/bin/rotatelogs\" \"/l/a b.%Y\" 86400", Some("/l/a b.*")),
            ("| /usr/sbin/cronolog /l/%Y/%m/a.log", Some("/l/*/*/a.log")),
            ("|/usr/bin/cronolog --symlink=/l/now /l/%Y.log", Some("/l/now")),
            (
                "| /usr/local/ispconfig/server/scripts/vlogger -s access.log -t \"%Y%m%d-access.log\" -d \"/etc/v.conf\" /l/httpd",
                Some("/l/httpd/*/access.log"),
            ),
            ("|/usr/sbin/vlogger -t %Y%m%d-x.log /l", Some("/l/*/*-x.log")),
            (
                "|/usr/local/cpanel/bin/splitlogs --dir=/l --main=h --suffix=-bytes_log",
                Some("/l/*-bytes_log"),
            ),
            ("|/usr/bin/tee -a /l/a.log", Some("/l/a.log")),
            ("|/usr/bin/logger -t apache", None),
            ("|", None),
            ("", None),
        ] {
            let found = target(&files, text, "%v %h").map(|log| log.path);
            assert_eq!(found.as_deref(), path.map(Path::new), "{text}");
        }
    }

    #[test]
    fn a_folder_a_vhost_names_the_site_and_its_lines_do_not() {
        let files = Files::new(Path::new("/"));
        let log = target(&files, "|/usr/sbin/vlogger -s a.log /l", "%v %h %l").unwrap();
        assert_eq!((log.format.as_str(), log.host_wildcard), ("%h %l", Some(1)));
    }
}
