//! What lines of system logs and error logs say, by the program that wrote them: one truth for live
//! lines, which the agent's parsers take apart, and for recorded ones, which come as a whole.
//!
//! Pure. A program is believed in its own words only: what a script, a client or a statement put
//! into a line is cut off or asked by narrower rules.

use crate::signal::{classify, classify_application, classify_kernel};
use crate::v1::Signal;

/// What a line says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said<'t> {
    /// Pool it names.
    pub pool: Option<&'t str>,
    /// What happened.
    pub signal: Option<Signal>,
}

/// How many bytes of a line may stand before its text: time, machine, process.
const HEAD_BYTES_MAX: usize = 120;

/// What a recorded line of a web server's error log says of a request that failed. What the client
/// sent, which stands behind the text, is cut off.
#[must_use]
pub fn of_error_log(line: &str) -> Option<Signal> {
    let end = [", client: ", ", referer: "].into_iter().filter_map(|mark| line.find(mark)).min();
    classify(&line[..end.unwrap_or(line.len())])
}

/// What a recorded line of a system log says; `source` as on the wire: `kernel`, `php_fpm`, `mysql`,
/// ... A line may still have its time and its level before it.
#[must_use]
pub fn of_line<'t>(source: &str, line: &'t str) -> Said<'t> {
    let only = |signal| Said { pool: None, signal };
    match source {
        "kernel" | "syslog" => only(classify_kernel(behind(line, "kernel: "))),
        "php_fpm" => {
            let text = without_stamp(line);
            let head = &line[..line.len() - text.len()];
            // Only PHP's own error log tells the zone.
            if head.matches(' ').count() > 2 {
                return only(classify_application(text));
            }
            let (_, text) = php_fpm_level(text.as_bytes());
            php_fpm(&line[line.len() - text.len()..])
        }
        "mysql" => {
            let levels = ["[Warning] ", "[ERROR] ", "[Error] ", "[Note] ", "[System] ", "[Warn] "];
            let mut text = levels.iter().fold(line, |text, level| behind(text, level));
            text = behind(text, " UTC - ");
            while text.starts_with('[')
                && let Some((_, rest)) = text.split_once("] ")
            {
                text = rest;
            }
            only(mysql(text))
        }
        "redis" => only(redis(behind(line, " # "))),
        "nginx" | "apache" | "haproxy" => only(of_error_log(line)),
        // Counts and sentences in the agent's own words, and sources of later releases.
        _ => Said::default(),
    }
}

/// What stands behind these words, where they are near the beginning.
fn behind<'t>(line: &'t str, words: &str) -> &'t str {
    match line.find(words) {
        Some(at) if at <= HEAD_BYTES_MAX => &line[at + words.len()..],
        _ => line,
    }
}

/// Cuts `[20-Nov-2026 12:59:19] ` off.
fn without_stamp(line: &str) -> &str {
    let inside = line.strip_prefix('[').filter(|inside| {
        let mut bytes = inside.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_digit())
    });
    let end = inside.and_then(|inside| inside.find("] ")).filter(|end| *end <= 64);
    end.map_or(line, |end| &line[end + 3..])
}

/// Levels of PHP-FPM's master.
const FPM_LEVELS: [&[u8]; 5] = [b"ALERT", b"ERROR", b"WARNING", b"NOTICE", b"DEBUG"];

/// Level and what follows it: `WARNING: text`, with syslog `[WARNING] text`.
#[must_use]
pub fn php_fpm_level(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    for level in FPM_LEVELS {
        if let Some(rest) = text.strip_prefix(level).and_then(|rest| rest.strip_prefix(b": ")) {
            return (Some(level), rest);
        }
        let bracket = text.strip_prefix(b"[").and_then(|rest| rest.strip_prefix(level));
        if let Some(rest) = bracket.and_then(|rest| rest.strip_prefix(b"] ")) {
            return (Some(level), rest);
        }
    }
    (None, text)
}

/// What PHP-FPM's master says behind time and level: `[pool www] child 67 exited on signal 9 …`.
/// What a script writes, and the request that a line quotes, are not believed.
#[must_use]
pub fn php_fpm(message: &str) -> Said<'_> {
    let said = without_place(message);
    let named = said.strip_prefix("[pool ").and_then(|rest| rest.split_once(']'));
    let (pool, event) = named.map_or((None, said), |(pool, rest)| (Some(pool), rest));
    Said { pool, signal: of_master(event.trim_ascii_start()) }
}

/// Skips `pid 7, fpm_children_bury(), line 260: `, which the level `debug` adds to every line.
fn without_place(message: &str) -> &str {
    let place = || {
        let at = message.strip_prefix("pid ")?.find("(), line ")? + "pid ".len();
        let end = at + message[at..].find(": ")? + 2;
        (end <= HEAD_BYTES_MAX).then(|| &message[end..])
    };
    place().unwrap_or(message)
}

/// What happened, by the words the master begins with.
fn of_master(text: &str) -> Option<Signal> {
    if text.starts_with("server reached ") {
        return classify(text);
    }
    if let Some(child) = text.strip_prefix("child ") {
        let what = child.trim_start_matches(|c: char| c.is_ascii_digit());
        if what.starts_with(" exited on signal ") {
            return classify(text);
        }
        if what.starts_with(" said into std") {
            return classify_application(what);
        }
        let is_slow = what.starts_with(", script '") && what.contains(" execution timed out (");
        return (is_slow && what.ends_with(" sec), terminating")).then_some(Signal::WorkerSignal);
    }
    if text.starts_with("PHP ") {
        return classify_application(text);
    }
    text.ends_with("No space left on device (28)").then_some(Signal::DiskFull)
}

/// What MySQL or MariaDB says behind time and level. Names and statements come from clients: only
/// the words before the first quotation mark, in the server's own order, are believed.
#[must_use]
pub fn mysql(message: &str) -> Option<Signal> {
    let own = message.find(['\'', '"']).map_or(message, |at| &message[..at]);
    // `/usr/sbin/mariadbd: Disk full (/tmp/x)`
    let after_path = own.split_once(": ").filter(|(path, _)| {
        path.starts_with('/') && !path.contains(' ') || *path == "InnoDB" || *path == "mysqld"
    });
    let own = after_path.map_or(own, |(_, rest)| rest);
    let is_crash = [" got signal ", " got exception "].iter().any(|words| {
        own.find(words).is_some_and(|at| {
            let program = own[..at].rsplit('/').next().unwrap_or_default();
            !own[..at].contains(' ') && matches!(program, "mysqld" | "mariadbd")
        })
    });
    let starts = |words: &str| own.starts_with(words);
    if is_crash {
        Some(Signal::WorkerSignal)
    } else if starts("Too many connections") {
        Some(Signal::TooManyConnections)
    } else if starts("Disk is full writing ")
        || starts("Disk full (")
        || starts("Error number 28 ")
        || starts("Operating system error number 28 ")
        || starts("Error writing file ") && has_errno_28(message)
        || own.ends_with("failed with error 28")
    {
        Some(Signal::DiskFull)
    } else {
        None
    }
}

/// `(Errcode: 28 "No space left on device")`, `(errno: 28 - No space left on device)` at the end.
fn has_errno_28(message: &str) -> bool {
    let number = message.rsplit_once("(Errcode: 28").or_else(|| message.rsplit_once("(errno: 28"));
    number.is_some_and(|(_, rest)| {
        let is_whole = matches!(rest.chars().next(), Some(' ' | ')'));
        is_whole && classify(&format!("(errno: 28 {rest}")) == Some(Signal::DiskFull)
    })
}

/// What a warning of Redis says, without its time.
#[must_use]
pub fn redis(message: &str) -> Option<Signal> {
    let is_crash = message.starts_with("Redis ") && message.contains(" crashed by signal: ");
    let is_full = message.contains("No space left on device");
    let signal = (is_crash || is_full).then(|| classify(message)).flatten();
    signal.filter(|s| matches!(s, Signal::DiskFull | Signal::WorkerSignal | Signal::Segfault))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_lines_are_read_with_and_without_what_stands_before_them() {
        use Signal as S;
        let full = "server reached pm.max_children setting (5), consider raising it";
        let killed = "Out of memory: Killed process 7 (php-fpm8.2) total-vm:9kB";
        for (source, line, pool, signal) in [
            ("kernel", killed.to_owned(), None, Some(S::Oom)),
            ("kernel", format!("[ 5678.9] {killed}"), None, Some(S::Oom)),
            ("syslog", format!("Nov 20 12:00:00 web kernel: [12.3] {killed}"), None, Some(S::Oom)),
            ("php_fpm", format!("[pool www] {full}"), Some("www"), Some(S::MaxChildren)),
            ("php_fpm", format!("WARNING: [pool www] {full}"), Some("www"), Some(S::MaxChildren)),
            (
                "php_fpm",
                format!("[20-Nov-2026 12:59:19] WARNING: [pool shop] {full}"),
                Some("shop"),
                Some(S::MaxChildren),
            ),
            (
                "php_fpm",
                "pid 7, fpm_children_bury(), line 260: [pool www] child 9 exited on signal 11 (SIGSEGV)"
                    .to_owned(),
                Some("www"),
                Some(S::Segfault),
            ),
            (
                "php_fpm",
                "[20-Nov-2026 12:59:19 Europe/Berlin] PHP Fatal error:  Allowed memory size of 9 bytes exhausted"
                    .to_owned(),
                None,
                Some(S::MemoryLimit),
            ),
            (
                "php_fpm",
                format!("[20-Nov-2026 12:59:19 UTC] PHP Warning:  {full}"),
                None,
                None,
            ),
            ("mysql", "Too many connections".to_owned(), None, Some(S::TooManyConnections)),
            (
                "mysql",
                "2026-11-20T12:00:00.1Z 7 [Warning] [MY-010055] [Server] Too many connections"
                    .to_owned(),
                None,
                Some(S::TooManyConnections),
            ),
            (
                "mysql",
                "12:34:56 UTC - mysqld got signal 6 ;".to_owned(),
                None,
                Some(S::WorkerSignal),
            ),
            (
                "mysql",
                "7 [Warning] Access denied for user 'Too many connections'".to_owned(),
                None,
                None,
            ),
            (
                "redis",
                "7:C 20 Nov 2026 12:00:00.123 # Write error saving DB on disk: No space left on device"
                    .to_owned(),
                None,
                Some(S::DiskFull),
            ),
            ("modsecurity", killed.to_owned(), None, None),
            ("", killed.to_owned(), None, None),
        ] {
            assert_eq!(of_line(source, &line), Said { pool, signal }, "{source}: {line}");
        }
    }

    #[test]
    fn what_a_client_sent_is_no_part_of_what_an_error_log_says() {
        let refused = "2026/11/20 12:43:07 [error] 94#94: *8 connect() failed (111: Connection refused) while connecting to upstream";
        let fields = r#", client: 198.51.100.7, server: a.example, request: "GET /?(113: No route to host) HTTP/1.1", upstream: "http://127.0.0.1:3000/", host: "a.example""#;
        for (line, signal) in [
            (refused.to_owned(), Some(Signal::ConnectRefused)),
            (format!("{refused}{fields}"), Some(Signal::ConnectRefused)),
            (
                "(104)Connection reset by peer: AH01102: error reading status line from remote server 127.0.0.1:80, referer: http://x/(113)".to_owned(),
                Some(Signal::Reset),
            ),
            (String::new(), None),
        ] {
            assert_eq!(of_error_log(&line), signal, "{line}");
        }
    }
}
