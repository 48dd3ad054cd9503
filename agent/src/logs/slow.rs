//! What slow requests wait in: entries of PHP-FPM's slow log added up by pool, component and function.
//!
//! An entry has a head, the script, and its stack, innermost function first; of these only the innermost
//! frame and the plugin or theme nearest to it are told. Of each function the first entry is told at
//! once, then the 5th, the 25th and so on within a minute, so that a flood stays a few lines. Pure.

use std::collections::BTreeMap;

use wire::UnixMillis;

use crate::window::LogEvidence;

/// Time over which entries of one function are added up, ms.
const MINUTE_MS: i64 = 60_000;
/// An entry is told when its number is a power of this.
const TOLD_EACH: u32 = 5;
/// Lines told of one pool in a minute.
const LINES_MAX: u32 = 10;
/// Functions added up of one log in a minute; further ones are not told.
const FUNCTIONS_MAX: usize = 256;
/// Longest function, script or component told.
const NAME_BYTES_MAX: usize = 200;
/// Frames of one entry that are looked at; PHP-FPM writes 20 unless it is told otherwise.
const FRAMES_MAX: u32 = 64;

/// Folders of WordPress whose parts come from elsewhere.
const COMPONENTS: [&str; 3] =
    ["wp-content/plugins/", "wp-content/themes/", "wp-content/mu-plugins/"];

/// Adds up the entries of one slow log.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    entry: Option<Entry>,
    counts: BTreeMap<(String, String), u32>,
    n_told: BTreeMap<String, u32>,
    began: UnixMillis,
}

#[derive(Debug)]
struct Entry {
    pool: String,
    at: UnixMillis,
    innermost: Option<String>,
    component: Option<String>,
    n_frames: u32,
}

impl SlowLog {
    /// A head: the entry before it is over.
    pub(crate) fn begin(&mut self, pool: &str, at: UnixMillis) -> Option<LogEvidence> {
        let before = self.end();
        let pool = cut(pool).to_owned();
        self.entry = Some(Entry { pool, at, innermost: None, component: None, n_frames: 0 });
        before
    }

    /// Another line of the entry.
    pub(crate) fn go_on(&mut self, line: &[u8]) {
        let Some(entry) = &mut self.entry else { return };
        let Some(frame) = frame(line).filter(|_| entry.n_frames < FRAMES_MAX) else { return };
        entry.n_frames += 1;
        let text = String::from_utf8_lossy(frame);
        if entry.component.is_none() {
            entry.component = component(&text);
        }
        if entry.innermost.is_none() {
            entry.innermost = Some(cut(&text).to_owned());
        }
    }

    /// The end of what is written so far. PHP-FPM writes an entry at once, so it is whole.
    pub(crate) fn end(&mut self) -> Option<LogEvidence> {
        let Entry { pool, at, innermost, component, .. } = self.entry.take()?;
        let innermost = innermost?;
        let what = match component {
            Some(component) => format!("in {component}: {innermost}"),
            None => format!("in {innermost}"),
        };
        if !(0..MINUTE_MS).contains(&(at.0 - self.began.0)) {
            self.began = at;
            self.counts.clear();
            self.n_told.clear();
        }
        let is_full = self.counts.len() >= FUNCTIONS_MAX;
        let key = (pool.clone(), what.clone());
        if is_full && !self.counts.contains_key(&key) {
            return None;
        }
        let n = self.counts.entry(key).or_insert(0);
        *n += 1;
        let n = *n;
        let n_told = self.n_told.entry(pool.clone()).or_insert(0);
        if !is_power(n, TOLD_EACH) || *n_told >= LINES_MAX {
            return None;
        }
        *n_told += 1;
        let requests =
            if n == 1 { "1 slow request".to_owned() } else { format!("{n} slow requests") };
        let message = format!("{requests} {what}");
        Some(LogEvidence { source: "php_slow", message, at, signal: None, pool: Some(pool) })
    }
}

/// 1, 5, 25, 125, …
fn is_power(mut n: u32, base: u32) -> bool {
    while n > 1 && n.is_multiple_of(base) {
        n /= base;
    }
    n == 1
}

/// `[0x00007f0000000000] curl_exec() /srv/a/wp-includes/http.php:12`, without the address.
fn frame(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"[0x")?;
    let end = memchr::memchr(b']', &rest[..rest.len().min(20)])?;
    Some(rest[end + 1..].trim_ascii()).filter(|frame| !frame.is_empty())
}

/// `wp-content/plugins/shop` in the script of a frame.
fn component(frame: &str) -> Option<String> {
    COMPONENTS.iter().find_map(|folder| {
        let at = frame.find(folder)? + folder.len();
        let name = frame[at..].split(['/', ':', ' ']).next().filter(|name| !name.is_empty())?;
        Some(format!("{folder}{}", cut(name)))
    })
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDPRESS: &str = "script_filename = /srv/shop/index.php\n\
        [0x00007f5b3cc14d40] curl_exec() /srv/shop/wp-includes/Requests/Transport/cURL.php:162\n\
        [0x00007f5b3cc14c90] request() /srv/shop/wp-includes/class-http.php:394\n\
        [0x00007f5b3cc14a80] fetch() /srv/shop/wp-content/plugins/rates/rates.php:12\n\
        [0x00007f5b3cc14a00] render() /srv/shop/wp-content/themes/dark/header.php:3\n\
        [0x00007f5b3cc14980] [INCLUDE_OR_EVAL]() /srv/shop/index.php:17";

    fn feed(log: &mut SlowLog, pool: &str, second: i64, text: &str) -> Option<String> {
        assert!(log.begin(pool, UnixMillis(second * 1000)).is_none(), "the one before is told");
        text.lines().for_each(|line| log.go_on(line.as_bytes()));
        let told = log.end()?;
        assert_eq!(
            (told.source, told.pool.as_deref(), told.signal),
            ("php_slow", Some(pool), None)
        );
        Some(told.message)
    }

    #[test]
    fn an_entry_tells_what_it_waits_in_and_whose_plugin_that_is() {
        let mut log = SlowLog::default();
        let told = feed(&mut log, "shop", 100, WORDPRESS);
        let want = "1 slow request in wp-content/plugins/rates: curl_exec() \
                    /srv/shop/wp-includes/Requests/Transport/cURL.php:162";
        assert_eq!(told.as_deref(), Some(want));
        let plain = "script_filename = /srv/a.php\n[0x00007f5b3cc14d40] sleep() /srv/a.php:4";
        let told = feed(&mut log, "www", 100, plain);
        assert_eq!(told.as_deref(), Some("1 slow request in sleep() /srv/a.php:4"));
        assert_eq!(feed(&mut log, "www", 100, "script_filename = /srv/a.php"), None, "no stack");
    }

    #[test]
    fn entries_without_an_end_are_told_by_the_next_head() {
        let mut log = SlowLog::default();
        log.go_on(b"[0x00007f5b3cc14d40] lost() /srv/a.php:4");
        assert!(log.begin("www", UnixMillis(0)).is_none());
        log.go_on(b"[0x00007f5b3cc14d40] sleep() /srv/a.php:4");
        let told = log.begin("www", UnixMillis(0)).expect("it is over");
        assert_eq!(told.message, "1 slow request in sleep() /srv/a.php:4");
    }

    #[test]
    fn a_flood_is_a_few_lines_a_minute() {
        let mut log = SlowLog::default();
        let entry = "[0x00007f5b3cc14d40] sleep() /srv/a.php:4";
        let told: Vec<_> = (0..200).filter_map(|_| feed(&mut log, "www", 100, entry)).collect();
        let n = |line: &String| line.split(' ').next().map(str::to_owned);
        assert_eq!(told.iter().filter_map(n).collect::<Vec<_>>(), ["1", "5", "25", "125"]);
        let mut n_told = 0;
        for line in 0..2000 {
            let entry = format!("[0x00007f5b3cc14d40] f{line}() /srv/a.php:{line}");
            n_told += u32::from(feed(&mut log, "www", 101, &entry).is_some());
        }
        assert_eq!(n_told, LINES_MAX - 4);
        assert!(log.counts.len() <= FUNCTIONS_MAX);
        assert!(feed(&mut log, "www", 161, entry).is_some(), "another minute");
        assert!(log.counts.len() == 1);
    }

    #[test]
    fn hostile_frames_stay_short_and_whole() {
        let mut log = SlowLog::default();
        let long = format!(
            "[0x00007f5b3cc14d40] {}() /srv/wp-content/plugins/{}",
            "é".repeat(900),
            "x".repeat(900)
        );
        let told = feed(&mut log, "www", 100, &long).expect("told");
        assert!(told.len() < 3 * NAME_BYTES_MAX, "{}", told.len());
        for none in ["[0x", "[0x]", "[0x00007f5b3cc14d40]", "[0x00007f5b3cc14d40] ", "[1] x() /a:1"]
        {
            assert_eq!(feed(&mut log, "www", 100, none), None, "{none}");
        }
    }
}
