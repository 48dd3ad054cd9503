//! Error lines of failed upstream requests, kept until their requests come by.
//!
//! Two questions are asked: which line is this request's own, and does any line explain a 503.
//! Memory is bounded: [`LINES_MAX`] lines and [`SECONDS_MAX`] seconds per key; the oldest go first.

use std::collections::{BTreeSet, HashMap, VecDeque};

use wire::UnixMillis;
use wire::v1::Signal;

/// Lines kept for joining.
const LINES_MAX: usize = 8192;
/// The same while memory is short.
const LINES_LEAN_MAX: usize = 1024;
/// Seconds kept per key for explaining.
const SECONDS_MAX: usize = 4096;
/// Keys kept for explaining; from here on old ones are looked for, each time their number doubled.
const KEYS_KEPT: usize = 16_384;
/// Never more: beyond it clients are forgotten, since only a crowd of them fills the table; then
/// pools.
const KEYS_MAX: usize = 65_536;
/// Seconds kept over all keys; beyond it each key keeps its newest, half of them in all.
const ALL_SECONDS_MAX: usize = 262_144;
/// A key without a line for this long explains nothing any more.
const KEY_S: i64 = 60;
/// An error line explains a 503 that comes less than this after it.
const EXPLAINS_MS: i64 = 10_000;
/// Lines of one request that Apache writes in two parts.
const PARTS_MS: i64 = 2_000;

/// One error line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) at: UnixMillis,
    pub(crate) source: usize,
    /// Site it names.
    pub(crate) site: Option<u32>,
    /// Pool its upstream is, or its address on another machine; empty when it names none.
    pub(crate) pool: String,
    pub(crate) upstream: String,
    /// Client as written, empty when the line names none.
    pub(crate) client: String,
    /// The client is this machine: a server in front.
    pub(crate) client_is_own: bool,
    /// Hash of method and path, or of the path alone where the line has no method; 0 when it names
    /// neither.
    pub(crate) request: u64,
    pub(crate) connection: Option<u64>,
    pub(crate) signal: Option<Signal>,
    /// Already private.
    pub(crate) message: String,
    /// Explains the failure of its own request, but makes none of a 503.
    pub(crate) is_reason_only: bool,
    /// A request took it.
    pub(crate) used: bool,
}

/// What a request knows of itself.
pub(crate) struct Question<'a> {
    pub(crate) site: u32,
    /// Pool of its site, or the address on another machine; empty when nobody knows.
    pub(crate) pool: &'a str,
    pub(crate) client: &'a str,
    pub(crate) client_is_own: bool,
    pub(crate) request: u64,
    /// Hash of the path alone.
    pub(crate) target: u64,
    /// The upstream asked last, empty when the line names none.
    pub(crate) upstream: &'a str,
    /// Event time.
    pub(crate) at: UnixMillis,
    /// How long after `at` its line may have been written: the duration nobody logged.
    pub(crate) slack_ms: i64,
    pub(crate) n_attempts: usize,
    /// Error logs of the servers that its site's requests pass; `None` = nobody knows, any may be.
    pub(crate) error_logs: Option<&'a [usize]>,
}

impl Question<'_> {
    /// True when this log may speak of the request.
    fn may_be_of(&self, source: usize) -> bool {
        self.error_logs.is_none_or(|logs| logs.contains(&source))
    }
}

/// What a line says it is about, for explaining.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Site(u32),
    Pool(String),
    /// Client of a line that names neither site nor pool.
    Client(String),
    /// Client of a line that names a pool, for sites whose pool nobody knows.
    ClientOfPool(String),
    /// The client was a server in front, and neither site nor pool is named; by log.
    Front(usize),
    /// The same where a pool is named, for sites whose pool nobody knows.
    FrontOfPool(usize),
}

/// See the module.
#[derive(Default)]
pub(crate) struct Memory {
    lines: VecDeque<Seen>,
    /// Number of the first line in `lines`.
    first: u64,
    by_request: HashMap<(String, u64), VecDeque<u64>>,
    by_client: HashMap<String, VecDeque<u64>>,
    seconds: HashMap<Key, BTreeSet<i64>>,
    /// Logs with lines whose client was a server in front.
    behind: BTreeSet<usize>,
    /// Seconds over all keys.
    n_seconds: usize,
    /// More keys than this are thinned out.
    keys_kept: usize,
    is_lean: bool,
}

impl Memory {
    /// While memory is short only the newest lines are kept, and the newest second of each key.
    pub(crate) fn set_lean(&mut self, is_lean: bool) {
        self.is_lean = is_lean;
        if !is_lean {
            return;
        }
        while self.lines.len() > LINES_LEAN_MAX {
            self.forget_oldest();
        }
        self.lines.shrink_to_fit();
        for seconds in self.seconds.values_mut() {
            let newest = seconds.pop_last();
            *seconds = newest.into_iter().collect();
        }
        self.count_seconds();
    }

    /// Keeps a line. The second line of a failure that is told in two is folded into the first: of
    /// Apache's the first has the reason and the second the client, of lighttpd's the second the path.
    pub(crate) fn add(&mut self, line: Seen) {
        if self.is_path_of_last(&line) {
            self.lines.back_mut().expect("it has the last").request = line.request;
            return;
        }
        if let Some(number) = self.first_part(&line) {
            let mut whole = self.lines[(number - self.first) as usize].clone();
            if whole.client.is_empty() {
                whole.client.clone_from(&line.client);
                whole.client_is_own = line.client_is_own;
                self.index(number, &whole);
                self.lines[(number - self.first) as usize] = whole;
            }
            return;
        }
        if self.lines.len() >= if self.is_lean { LINES_LEAN_MAX } else { LINES_MAX } {
            self.forget_oldest();
        }
        let number = self.first + self.lines.len() as u64;
        self.index(number, &line);
        self.lines.push_back(line);
    }

    fn first_part(&self, line: &Seen) -> Option<u64> {
        // Only lines that name no request come in parts.
        if line.request != 0 || line.client.is_empty() {
            return None;
        }
        let back = self.lines.iter().rev().take(64);
        let at = back.enumerate().find(|(_, earlier)| {
            earlier.source == line.source
                && earlier.connection.is_some()
                && earlier.connection == line.connection
                && (earlier.client.is_empty() || earlier.client == line.client)
                && (0..PARTS_MS).contains(&(line.at.0 - earlier.at.0))
                && !earlier.used
        })?;
        Some(self.first + (self.lines.len() - 1 - at.0) as u64)
    }

    /// True for a line that only adds the path to the line right before it.
    fn is_path_of_last(&self, line: &Seen) -> bool {
        let tells_more = line.request == 0 || !line.client.is_empty() || !line.upstream.is_empty();
        !tells_more
            && self.lines.back().is_some_and(|last| {
                last.source == line.source
                    && last.request == 0
                    && last.client.is_empty()
                    && !last.used
                    && (0..PARTS_MS).contains(&(line.at.0 - last.at.0))
            })
    }

    fn index(&mut self, number: u64, line: &Seen) {
        if !line.client.is_empty() {
            if line.request == 0 {
                self.by_client.entry(line.client.clone()).or_default().push_back(number);
            } else {
                let key = (line.client.clone(), line.request);
                self.by_request.entry(key).or_default().push_back(number);
            }
        }
        if line.is_reason_only {
            return;
        }
        self.thin_out(line.at.second());
        for key in keys(line) {
            if let Key::Front(source) | Key::FrontOfPool(source) = key {
                self.behind.insert(source);
            }
            let seconds = self.seconds.entry(key).or_default();
            self.n_seconds += usize::from(seconds.insert(line.at.second()));
            if seconds.len() > SECONDS_MAX {
                seconds.pop_first();
                self.n_seconds -= 1;
            }
        }
        if self.n_seconds > ALL_SECONDS_MAX {
            let n_left = (ALL_SECONDS_MAX / 2 / self.seconds.len()).max(1);
            for seconds in self.seconds.values_mut() {
                while seconds.len() > n_left {
                    seconds.pop_first();
                }
            }
            self.count_seconds();
        }
    }

    fn count_seconds(&mut self) {
        self.n_seconds = self.seconds.values().map(BTreeSet::len).sum();
    }

    /// Keeps the table of keys small, at a constant cost per line also under a crowd of clients.
    fn thin_out(&mut self, newest: i64) {
        if self.seconds.len() < self.keys_kept.max(KEYS_KEPT) {
            return;
        }
        self.seconds.retain(|_, s| s.last().is_some_and(|last| *last > newest - KEY_S));
        if 2 * self.seconds.len() > KEYS_MAX {
            self.seconds.retain(|key, _| !matches!(key, Key::Client(_) | Key::ClientOfPool(_)));
        }
        if 2 * self.seconds.len() > KEYS_MAX {
            // No machine has as many pools: the log makes them up. Its sites are bounded elsewhere.
            self.seconds.retain(|key, _| !matches!(key, Key::Pool(_)));
        }
        self.keys_kept = 2 * self.seconds.len();
        self.count_seconds();
    }

    fn forget_oldest(&mut self) {
        let Some(line) = self.lines.pop_front() else { return };
        let number = self.first;
        self.first += 1;
        let drop_number = |numbers: &mut VecDeque<u64>| {
            while numbers.front().is_some_and(|n| *n <= number) {
                numbers.pop_front();
            }
            numbers.is_empty()
        };
        let key = (line.client, line.request);
        if self.by_request.get_mut(&key).is_some_and(drop_number) {
            self.by_request.remove(&key);
        }
        if self.by_client.get_mut(&key.0).is_some_and(drop_number) {
            self.by_client.remove(&key.0);
        }
    }

    /// The line of this very request; it is used up. With several attempts the last one's line.
    pub(crate) fn take(&mut self, question: &Question<'_>) -> Option<Seen> {
        let key = (question.client.to_owned(), question.request);
        let mut numbers = self.unused(self.by_request.get(&key), question);
        numbers.truncate(question.n_attempts.max(1));
        if numbers.is_empty() {
            numbers = self.unused(self.by_client.get(question.client), question);
            numbers.truncate(1);
        }
        if numbers.is_empty() && !question.client_is_own {
            numbers = self.line_from_behind(question).into_iter().collect();
        }
        if numbers.is_empty() {
            numbers = self.line_without_client(question).into_iter().collect();
        }
        let mut found = None;
        for number in numbers {
            let line = &mut self.lines[(number - self.first) as usize];
            line.used = true;
            found = Some(line.clone());
        }
        found
    }

    /// A line of the next server on this machine, whose client was the front server.
    fn line_from_behind(&self, question: &Question<'_>) -> Option<u64> {
        let at = self.lines.iter().rev().take(256).position(|line| {
            let is_same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
            line.client_is_own
                && question.may_be_of(line.source)
                && is_same(&line.pool, question.pool)
                && !line.used
                && Self::is_near(line, question)
                && (line.request == question.request || line.request == 0)
                && line.site.is_none_or(|site| site == question.site)
        })?;
        Some(self.first + (self.lines.len() - 1 - at) as u64)
    }

    /// A line of a server that never names the client (lighttpd): by its path, else by its backend.
    fn line_without_client(&self, question: &Question<'_>) -> Option<u64> {
        let newest = || {
            self.lines.iter().rev().take(256).enumerate().filter(|(_, line)| {
                line.client.is_empty() && !line.used && Self::is_near(line, question)
            })
        };
        let is_backend = |line: &Seen| {
            let same = |known: &str, asked: &str| !known.is_empty() && known == asked;
            same(&line.pool, question.pool) || same(&line.upstream, question.upstream)
        };
        let of_path = newest()
            .filter(|(_, line)| line.request != 0 && line.request == question.target)
            .find(|(_, line)| line.site.is_none_or(|site| site == question.site));
        let found =
            of_path.or_else(|| newest().find(|(_, line)| line.request == 0 && is_backend(line)))?;
        Some(self.first + (self.lines.len() - 1 - found.0) as u64)
    }

    fn unused(&self, numbers: Option<&VecDeque<u64>>, question: &Question<'_>) -> Vec<u64> {
        let lines = numbers.into_iter().flatten().filter(|n| **n >= self.first);
        lines
            .copied()
            .filter(|n| {
                let line = &self.lines[(*n - self.first) as usize];
                !line.used && Self::is_near(line, question)
            })
            .collect()
    }

    fn is_near(line: &Seen, question: &Question<'_>) -> bool {
        let after = line.at.0 - question.at.0;
        // Error lines have whole seconds, so they may seem a second older.
        after <= question.slack_ms && after > -EXPLAINS_MS
    }

    /// True when an error line not older than 10 s explains a 503.
    pub(crate) fn explains(&self, question: &Question<'_>) -> bool {
        let from = question.at.second() - EXPLAINS_MS / 1000 + 1;
        let upto = UnixMillis(question.at.0 + question.slack_ms).second();
        let has = |key: Key| {
            self.seconds.get(&key).is_some_and(|s| s.range(from..=upto).next().is_some())
        };
        has(Key::Site(question.site))
            || !question.pool.is_empty() && has(Key::Pool(question.pool.to_owned()))
            || has(Key::Client(question.client.to_owned()))
            || question.pool.is_empty() && has(Key::ClientOfPool(question.client.to_owned()))
            || !question.client_is_own
                && self.behind.iter().any(|log| {
                    question.may_be_of(*log)
                        && (has(Key::Front(*log))
                            || question.pool.is_empty() && has(Key::FrontOfPool(*log)))
                })
    }

    /// The newest line for the site or its pool, used or not: what a 503 without own line is due to.
    pub(crate) fn nearest(&self, question: &Question<'_>) -> Option<&Seen> {
        self.lines.iter().rev().take(512).find(|line| {
            let same = line.site == Some(question.site)
                || !line.pool.is_empty() && line.pool == question.pool
                || line.site.is_none() && line.client == question.client;
            same && !line.is_reason_only && Self::is_near(line, question)
        })
    }
}

fn keys(line: &Seen) -> Vec<Key> {
    let mut keys = Vec::new();
    if let Some(site) = line.site {
        return vec![Key::Site(site)];
    }
    if !line.pool.is_empty() {
        keys.push(Key::Pool(line.pool.clone()));
    }
    if !line.client.is_empty() {
        let client = line.client.clone();
        if !line.pool.is_empty() {
            keys.push(Key::ClientOfPool(client));
            if line.client_is_own {
                keys.push(Key::FrontOfPool(line.source));
            }
        } else if line.client_is_own {
            keys.push(Key::Front(line.source));
        } else {
            keys.push(Key::Client(client));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_clients_in_one_second_costs_neither_memory_nor_time() {
        let mut memory = Memory::default();
        let mut n_thinned = 0;
        for n in 0..300_000_u32 {
            let before = memory.seconds.len();
            let client = std::net::Ipv4Addr::from(n).to_string();
            memory.add(Seen { at: UnixMillis(1000), client, ..Seen::default() });
            n_thinned += u32::from(memory.seconds.len() < before);
            assert!(memory.seconds.len() <= KEYS_MAX && memory.lines.len() <= LINES_MAX);
            assert!(memory.by_client.len() <= LINES_MAX);
        }
        assert!((1..20).contains(&n_thinned), "thinned out {n_thinned} times");
    }

    #[test]
    fn made_up_pools_and_times_cost_no_more_memory_than_their_limits() {
        let mut memory = Memory::default();
        for n in 0..100_000_u32 {
            let pool = format!("/run/{n}.sock");
            memory.add(Seen { at: UnixMillis(1000), pool, ..Seen::default() });
            assert!(memory.seconds.len() <= KEYS_MAX);
        }
        for n in 0..300_000_i64 {
            let site = Some((n % 500) as u32);
            memory.add(Seen { at: UnixMillis::from_second(n), site, ..Seen::default() });
            assert!(memory.n_seconds <= ALL_SECONDS_MAX);
        }
        let n_seconds: usize = memory.seconds.values().map(BTreeSet::len).sum();
        assert_eq!(memory.n_seconds, n_seconds, "none is counted twice");
    }
}
